//! Files: made, opened, resized, named, and their frames given back.

use crate::backing::{Backing, os_error};
use crate::emergency::Placed;
use crate::fs::gone_bytes;
use crate::store::held::Looked;
use crate::store::media::Media;
use crate::store::quota::Maker;
use crate::store::session::{LayoutFds, OpenFile, Session};
use crate::store::state::{State, Unnamed};
use crate::store::{Guard, Inner};
use codax_core::change::Change;
use codax_core::extent::{self, Extent};
use codax_core::name::StorePath;
use codax_core::namespace::{Inode, Kind, Want};
use codax_core::placement::Placement;
use codax_core::request::{Handle, Layout, OnDevice, Open};
use codax_core::{
    Error, ErrorKind, FileId, HUGE_PAGES, PAGE_SIZE, PageCount, PageNo, PageRange, PoolId, Result,
};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What opening a file gave.
#[derive(Debug)]
pub struct Opened {
    /// The handle.
    pub handle: Handle,
    /// The file.
    pub file: FileId,
    /// Its length in bytes.
    pub len: u64,
    /// Whether this call made it.
    pub created: bool,
    /// Its layout, if it was to be mapped at once.
    pub layout: Option<LayoutFds>,
}

/// A file that is being made: its frames are reserved.
struct NewFile {
    file: FileId,
    /// The directory that it is made in.
    dir: FileId,
    /// A placement of its own.
    own: Option<Placement>,
    /// The one in force.
    placement: Placement,
    /// Whether it is never to be on a device for want of room.
    forbidden: bool,
    placed: Placed,
}

impl Session {
    /// Opens or creates a file.
    pub fn open(&self, open: &Open) -> Result<Opened> {
        if !(open.read || open.write) {
            return Err(Error::invalid(format!("{}: open it to read, to write, or both", open.path)));
        }
        if open.unnamed {
            return self.create(open);
        }
        let inner = &self.store.inner;
        let st = inner.lock();
        let file = match st.ns.resolve(&self.cred, &open.path) {
            Ok(file) => file,
            Err(e) if e.kind == ErrorKind::NotFound && open.create => {
                drop(st);
                return self.create(open);
            }
            Err(e) => return Err(e),
        };
        if open.create && open.exclusive {
            return Err(Error::exists(format!("{} exists", open.path)));
        }
        match st.ns.get(file).map(|i| i.kind) {
            Some(Kind::Dir) => {
                return Err(Error::new(ErrorKind::IsDir, format!("{} is a directory", open.path)));
            }
            Some(Kind::File) | None => {}
            Some(_) => return Err(Error::invalid(format!("{} is no regular file", open.path))),
        }
        for (wanted, want) in [(open.read, Want::READ), (open.write, Want::WRITE)] {
            if wanted {
                st.ns.check(&self.cred, file, want, &open.path)?;
            }
        }
        let mut st = inner.wait_idle(st, file)?;
        let handle = self.add_handle(&mut st, file, open)?;
        drop(st);
        let opened = if open.truncate && open.write { self.set_len(handle, 0) } else { Ok(()) };
        let mapped = opened.and_then(|()| {
            let Some(write) = open.map else { return Ok((inner.lock(), None)) };
            let st = inner.wait_idle(inner.lock(), file)?;
            let mut st = inner.whole(st, file)?;
            let layout = self.map_now(&mut st, file, write)?;
            Ok((st, Some(layout)))
        });
        match mapped {
            Ok((mut st, layout)) => {
                inner.refresh(&mut st, file);
                let len = st.ns.get(file).map_or(0, |i| i.len);
                Ok(Opened { handle, file, len, created: false, layout })
            }
            Err(e) => {
                self.close(handle);
                Err(e)
            }
        }
    }

    fn add_handle(&self, st: &mut State, file: FileId, open: &Open) -> Result<Handle> {
        let entry = st.sessions.get_mut(&self.id).ok_or_else(|| Error::internal("the session is over"))?;
        let handle = entry.add_handle(OpenFile { file, read: open.read, write: open.write });
        st.live.entry(file).or_default().opens += 1;
        Ok(handle)
    }

    fn create(&self, open: &Open) -> Result<Opened> {
        let inner = &self.store.inner;
        let mut st = inner.lock();
        if st.closing {
            return Err(Error::new(ErrorKind::NoDaemon, "the store is being closed"));
        }
        let parent = self.parent_for(&st, open)?;
        let own = open.placement.as_ref().map(|p| st.placement_of(p)).transpose()?;
        let placement = own.clone().unwrap_or_else(|| st.ns.placement(parent));
        inner.allow_id(&mut st)?;
        let file = st.ns.take_id();
        let pages = PageRange { start: PageNo(0), count: PageCount::for_bytes(open.len) };
        check_len(open.len, &open.path)?;
        // Without a name it has no directory that could say so later.
        let forbidden = open.no_emergency || open.unnamed && st.ns.forbids_emergency(parent);
        let spill = !forbidden && st.may_spill(parent);
        st.making.insert(file, Maker { uid: self.cred.uid, dir: parent });
        let placed = match st.place((&placement, spill), file, pages, None) {
            Ok(placed) => placed,
            Err(e) => {
                st.making.remove(&file);
                // Of a quota that is told by itself, once.
                if e.kind != ErrorKind::QuotaExceeded {
                    inner.event("refuse", &open.path.to_string(), &e.message, open.len);
                }
                return Err(e);
            }
        };
        drop(st);
        inner.env.reached("create:reserved");

        let made = inner.back(file, &placed.extents, open.len, &BTreeSet::new());
        let mut st = inner.lock();
        let new = NewFile { file, dir: parent, own, placement, forbidden, placed };
        let opened = made.and_then(|()| self.commit_create(&mut st, open, &new));
        match &opened {
            Ok(_) => inner.tell_spilled(&mut st, file, &new.placed),
            Err(_) => inner.unmake(&mut st, file, &new.placed.extents),
        }
        st.making.remove(&file);
        opened
    }

    fn parent_for(&self, st: &State, open: &Open) -> Result<FileId> {
        if open.unnamed {
            // It will be named in this directory, or another: what is checked here is its placement's directory.
            let dir = open.path.split_last().map_or_else(StorePath::root, |(dir, _)| dir);
            return st.ns.resolve(&self.cred, &dir);
        }
        Ok(st.ns.parent_for_new(&self.cred, &open.path)?.0)
    }

    fn commit_create(&self, st: &mut State, open: &Open, new: &NewFile) -> Result<Opened> {
        let NewFile { file, dir, ref own, ref placement, forbidden, ref placed } = *new;
        let (inner, extents) = (&self.store.inner, &placed.extents[..]);
        let now = inner.env.wall_ns();
        let mut inode = Inode {
            nlink: u32::from(!open.unnamed),
            len: open.len,
            placement: own.clone(),
            extents: extents.to_vec(),
            ..Inode::new(file, Kind::File, open.mode & 0o7777, self.cred.uid, self.cred.gid, now)
        };
        inode.set_emergency(forbidden);
        inode.note_spilled(&placed.spilled);
        let changes = if open.unnamed {
            vec![Change::Put(Box::new(inode))]
        } else {
            let (parent, name) = st.ns.parent_for_new(&self.cred, &open.path)?;
            st.ns.create(parent, &name, inode)
        };
        if open.map.is_some() {
            // Nothing may fail any more once it is in the journal.
            self.require_mapper(st)?;
        }
        let handle = self.add_handle(st, file, open)?;
        if let Some(live) = st.live.get_mut(&file).filter(|_| open.unnamed) {
            live.unnamed = Some(Unnamed { placement: placement.clone(), dir });
        }
        let layout = inner.commit(st, &changes).and_then(|()| {
            st.own(file, extents);
            open.map.map(|write| self.map_now(st, file, write)).transpose()
        });
        let layout = match layout {
            Ok(layout) => layout,
            Err(e) => {
                if let Some(entry) = st.sessions.get_mut(&self.id) {
                    entry.handles.remove(&handle);
                }
                st.live.remove(&file);
                return Err(e);
            }
        };
        if !extents.is_empty() && !open.unnamed {
            let pools: BTreeSet<_> = extents.iter().map(|e| st.pool_name(e.pool)).collect();
            let pools = pools.into_iter().collect::<Vec<_>>().join(", ");
            inner.event("place", &open.path.to_string(), &format!("in {pools}"), open.len);
        }
        Ok(Opened { handle, file, len: open.len, created: true, layout })
    }

    /// Sets a file's length.
    pub fn set_len(&self, handle: Handle, len: u64) -> Result<()> {
        let inner = &self.store.inner;
        let st = inner.lock();
        let open = self.handle(&st, handle)?;
        let path = st.ns.path_of(open.file).unwrap_or_default();
        if !open.write {
            return Err(Error::permission(format!("{path} is not open for writing")));
        }
        check_len(len, &path)?;
        let mut st = inner.wait_idle(st, open.file)?;
        inner.refresh(&mut st, open.file);
        let inode = st.ns.get(open.file).ok_or_else(|| Error::not_found(format!("#{}", open.file)))?.clone();
        inner.check_pins(&st, &inode, len)?;
        if inode.ahead.is_some() {
            let (st, resized) = inner.resize_ahead(st, open.file, len);
            resized?;
            return inner.whole(st, open.file).map(drop);
        }
        if len > inode.len && !inode.is_whole() {
            // The library has no holes: what it makes longer is backed, and so is what was there.
            drop(inner.whole(st, open.file)?);
            return self.set_len(handle, len);
        }
        inner.make_busy(&mut st, open.file, "change of length");
        let (mut st, result) =
            if len > inode.len { inner.grow(st, &inode, len) } else { inner.cut(st, &inode, len) };
        inner.end_busy(&mut st, open.file);
        result
    }

    /// Gives a file made without a name its name.
    pub fn publish(&self, handle: Handle, path: &StorePath, replace: bool) -> Result<()> {
        let inner = &self.store.inner;
        let st = inner.lock();
        let open = self.handle(&st, handle)?;
        // Where it outlives the power, a name never leads to bytes that don't.
        inner.sync_bytes(st, open.file)?;
        let mut st = inner.lock();
        let replaced = st.ns.resolve(&self.cred, path).ok();
        let now = inner.env.wall_ns();
        let changes = st.ns.link_orphan(&self.cred, open.file, path, replace, now)?;
        st.check_entered(&changes)?;
        inner.commit(&mut st, &changes)?;
        if let Some(live) = st.live.get_mut(&open.file) {
            live.unnamed = None;
        }
        let (len, pools) = st.ns.get(open.file).map_or((0, BTreeSet::new()), |i| {
            (i.len, i.extents.iter().map(|e| st.pool_name(e.pool)).collect())
        });
        let pools = pools.into_iter().collect::<Vec<_>>().join(", ");
        inner.event("place", &path.to_string(), &format!("in {pools}"), len);
        inner.say_spilled(&mut st, open.file);
        if let Some(old) = replaced {
            inner.reap(&mut st, old);
        }
        Ok(())
    }
}

fn check_len(len: u64, path: &StorePath) -> Result<()> {
    // Offsets of files are signed in the kernel's interfaces.
    if len > i64::MAX as u64 - PAGE_SIZE {
        return Err(Error::invalid(format!("{path}: a length of {len} bytes is more than a file can have")));
    }
    Ok(())
}

/// Gives an object its length, if it has another: setting the one it has would take memory behind its end.
fn make_len(backing: &dyn Backing, object: BorrowedFd<'_>, len: u64) -> Result<()> {
    let stat = codax_os::object::stat(object).map_err(|e| os_error("stat", &"an object", &e))?;
    if stat.len == backing.object_len(len) { Ok(()) } else { backing.resize(object, len) }
}

/// What is in the object that holds the pages of `pool`, once the pages of `new` are where that says.
pub(crate) fn all_in(media: &Media, pool: PoolId, old: &[Extent], new: &[Extent]) -> Vec<Extent> {
    media.extents(pool, &extent::insert(old, new))
}

/// Takes back what the medium has given beside `pages`, which is none of `owned`: it may give a whole huge page where a part was asked for, and the rest
/// of that is a hole, or lies in another pool.
pub(crate) fn keep_only(
    backing: &dyn Backing,
    object: BorrowedFd<'_>,
    owned: &[Extent],
    pages: PageRange,
    len: u64,
) -> Result<()> {
    let start = pages.start.0 / HUGE_PAGES * HUGE_PAGES;
    // There are no huge pages across the end.
    let end = pages.end().next_multiple_of(HUGE_PAGES).min(PageCount::for_bytes(len).0).max(start);
    let beside = extent::gaps(owned, PageRange::new(start, end - start));
    beside.into_iter().try_for_each(|gap| backing.release(object, gap))
}

/// Cuts a file's object to `len` bytes, or removes it where the file keeps nothing in its pool.
pub(super) fn cut_object(
    backing: &dyn Backing,
    file: FileId,
    len: u64,
    kept: Option<&[PageRange]>,
) -> Result<()> {
    backing.unlock(file);
    let object = backing.open(file, true)?;
    backing.resize(object.as_fd(), len)?;
    match kept {
        Some(pages) => backing.lock(file, object.as_fd(), pages),
        None => backing.remove(file),
    }
}

impl Inner {
    /// [`State::open_object`] for those who don't hold the lock.
    pub fn open_object(&self, pool: PoolId, file: FileId, write: bool) -> Result<OwnedFd> {
        self.lock().open_object(pool, file, write)
    }

    /// Makes or grows the objects that are to hold `extents`, and gives them memory. `others` are media in which the file has an object already: all
    /// objects of a file are as long as the file.
    pub fn back(&self, file: FileId, extents: &[Extent], len: u64, others: &BTreeSet<PoolId>) -> Result<()> {
        let (media, old) = {
            let st = self.lock();
            (st.media.clone(), st.ns.get(file).map_or_else(Vec::new, |inode| inode.extents.clone()))
        };
        for &medium in media.of_extents(extents).union(others) {
            let backing = self.lock().pool(medium).backing.clone();
            let object = if others.contains(&medium) {
                let object = self.open_object(medium, file, true)?;
                make_len(&*backing, object.as_fd(), len)?;
                object
            } else {
                backing.create(file, len)?
            };
            // What is to lie in the object by now: the next pool's part of a huge page is its own to ask for.
            let mut owned = all_in(&media, medium, &old, &[]);
            for part in media.extents(medium, extents).chunk_by(|a, b| a.pool == b.pool) {
                owned = extent::insert(&owned, part);
                let (backing, huge) = {
                    let st = self.lock();
                    (st.pool(part[0].pool).backing.clone(), st.pool(part[0].pool).huge)
                };
                backing.bind(file, part)?;
                for run in extent::pool_runs(part) {
                    backing.allocate(object.as_fd(), run.pages)?;
                    if huge {
                        keep_only(&*backing, object.as_fd(), &owned, run.pages, len)?;
                    }
                }
            }
            let owned: Vec<PageRange> = extent::pool_runs(&owned).into_iter().map(|run| run.pages).collect();
            backing.lock(file, object.as_fd(), &owned)?;
        }
        Ok(())
    }

    /// Takes back what a create that failed has made.
    fn unmake(&self, st: &mut State, file: FileId, extents: &[Extent]) {
        for medium in st.media.of_extents(extents) {
            let backing = &st.pool(medium).backing;
            backing.unlock(file);
            match backing.remove(file) {
                Ok(()) => {}
                Err(e) if e.kind == ErrorKind::NotFound => {}
                Err(e) => tracing::warn!("after a failed create: {e}"),
            }
        }
        st.free(extents);
    }

    fn grow<'a>(&'a self, mut st: Guard<'a>, inode: &Inode, len: u64) -> (Guard<'a>, Result<()>) {
        let old = PageCount::for_bytes(inode.len);
        let new = PageCount::for_bytes(len);
        let added = PageRange::new(old.0, new.0 - old.0);
        let placement = st.placement(inode.id);
        let spill = st.may_spill(inode.id);
        let mut placed = Placed::default();
        // It may have frames behind its end already.
        for gap in extent::gaps(&inode.extents, added) {
            let after = placed.extents.last().copied().or_else(|| extent::before(&inode.extents, gap.start));
            match st.place((&placement, spill), inode.id, gap, after) {
                Ok(more) => placed.extend(more),
                Err(e) => {
                    st.free(&placed.extents);
                    self.tell_no_room(&mut st, inode.id, &e, added.bytes());
                    return (st, Err(e));
                }
            }
        }
        let extents = &placed.extents;
        // What is held of the file lies at the same place in the same object: it would be given back with the new bytes in it.
        let held = |st: &State| extents.iter().any(|e| st.has_held(inode.id, e.pool));
        if held(&st) {
            self.retry_held(&mut st);
        }
        if held(&st) {
            st.free(extents);
            let path = st.path(inode.id);
            return (
                st,
                Err(Error::busy(format!("{path}: memory it gave up is still held: try again later"))),
            );
        }
        let objects = st.media.of_extents(&inode.extents);
        drop(st);
        let backed = self.back(inode.id, extents, len, &objects).and_then(|()| self.clear_tail(inode, len));
        let mut st = self.lock();
        let result = backed.and_then(|()| {
            // The inode may have got another mode or name meanwhile: only what changes here is taken over.
            let mut now = st.ns.get(inode.id).cloned().unwrap_or_else(|| inode.clone());
            now.extents = extent::insert(&now.extents, extents);
            now.note_spilled(&placed.spilled);
            now.len = len;
            now.mtime_ns = self.env.wall_ns();
            now.ctime_ns = now.mtime_ns;
            self.commit(&mut st, &[Change::Put(Box::new(now))])
        });
        if result.is_ok() {
            st.own(inode.id, extents);
            self.tell_spilled(&mut st, inode.id, &placed);
        } else {
            self.ungrow(&st, inode, extents);
            st.free(extents);
        }
        (st, result)
    }

    pub fn ungrow(&self, st: &State, inode: &Inode, extents: &[Extent]) {
        let (old, new) = (st.media.of_extents(&inode.extents), st.media.of_extents(extents));
        for &medium in old.union(&new) {
            let backing = &st.pool(medium).backing;
            let undone = if old.contains(&medium) {
                backing
                    .open(inode.id, true)
                    .and_then(|object| make_len(&**backing, object.as_fd(), inode.len))
            } else {
                backing.unlock(inode.id);
                backing.remove(inode.id)
            };
            if let Err(e) = undone {
                tracing::warn!("after a failed growth: {e}");
            }
        }
    }

    /// [`Inner::shrink`] of a busy file, of which devices let go of what is cut off before it is gone, and once more before its frames are somebody else's.
    pub fn cut<'a>(&'a self, mut st: Guard<'a>, inode: &Inode, len: u64) -> (Guard<'a>, Result<()>) {
        let end = st.end_of(inode, len).0;
        let gone = extent::slice(&inode.extents, PageRange::new(end, u64::MAX - end));
        if !st.may_be_cached(inode.id, &gone) {
            let result = self.shrink(&mut st, inode, len);
            return (st, result);
        }
        let acting = st.acting;
        drop(st);
        let let_go = self.let_go_of(inode.id, gone);
        let mut st = self.lock_for(acting);
        // Its mode may be another by now; where its pages are isn't.
        let now = st.ns.get(inode.id).cloned().unwrap_or_else(|| inode.clone());
        match let_go.and_then(|()| self.put_shorter(&mut st, &now, len)) {
            Ok(cut) => {
                let (mut st, late) = self.let_go_again(st, inode.id, &cut);
                self.release_end(&mut st, &now, len, &cut, late);
                (st, Ok(()))
            }
            Err(e) => (st, Err(e)),
        }
    }

    /// Makes a file shorter. No device may have what is cut off in its caches, unless it lies behind the file's end: that is held until they have let go of it.
    pub fn shrink(&self, st: &mut State, inode: &Inode, len: u64) -> Result<()> {
        let cut = self.put_shorter(st, inode, len)?;
        match len == inode.len && st.may_be_cached(inode.id, &cut) {
            true => self.give_up(st, inode.id, cut),
            false => self.release_end(st, inode, len, &cut, false),
        }
        Ok(())
    }

    /// Journals that a file is shorter. What it had behind its end is returned.
    fn put_shorter(&self, st: &mut State, inode: &Inode, len: u64) -> Result<Vec<Extent>> {
        let pages = st.end_of(inode, len);
        let mut now = inode.clone();
        let cut = extent::truncate(&mut now.extents, pages);
        now.away = now
            .away
            .iter()
            .filter_map(|r| {
                let kept = r.pages.intersect(PageRange { start: PageNo(0), count: pages })?;
                Some(extent::PoolRun { pages: kept, pool: r.pool })
            })
            .collect();
        now.forget_lost(PageRange::new(pages.0, u64::MAX - pages.0));
        now.len = len;
        now.mtime_ns = self.env.wall_ns();
        now.ctime_ns = now.mtime_ns;
        self.commit(st, &[Change::Put(Box::new(now))])?;
        Ok(cut)
    }

    /// Cuts the objects of a file that was as `inode` says and has lost `cut`, and gives back what that was: once devices have let go of it, if one is `late`.
    fn release_end(&self, st: &mut State, inode: &Inode, len: u64, cut: &[Extent], late: bool) {
        for medium in st.media.of_extents(&inode.extents) {
            let here = st.media.extents(medium, cut);
            // What the kernel serves to somebody is never another object from one moment to the next.
            let left = st.ns.get(inode.id).map(|now| st.media.pages(now, medium)).unwrap_or_default();
            let kept = (!left.is_empty() || st.served_by_kernel(inode.id)).then_some(&left[..]);
            let backing = st.pool(medium).backing.clone();
            if late && !here.is_empty() {
                // The object is cut when that is given back.
                self.give_up(st, inode.id, here);
                continue;
            }
            if Looked::default().may_be_mapped((medium, &*backing), inode.id, &here) {
                // Whoever maps a device sees what is there next.
                let shorter = |_: &&[PageRange]| {
                    backing.open(inode.id, true).and_then(|object| backing.resize(object.as_fd(), len))
                };
                if let Some(Err(e)) = kept.as_ref().map(shorter) {
                    tracing::warn!("after a cut: {e}");
                }
                self.give_back(st, inode.id, here);
                continue;
            }
            match cut_object(&*backing, inode.id, len, kept) {
                Ok(()) => st.free(&here),
                Err(e) => {
                    // The file is shorter all the same, as the journal says: its frames are free once their memory is.
                    tracing::warn!("after a cut: {e}");
                    self.give_back(st, inode.id, here);
                }
            }
        }
    }

    /// Where the file's pages are, with an open description of each object: what lies in one object is one run, whichever pools it is in.
    pub fn layout(&self, st: &State, file: FileId, write: bool) -> Result<LayoutFds> {
        let inode = st.ns.get(file).ok_or_else(|| Error::not_found(format!("#{file} is gone")))?;
        let pages = PageRange { start: PageNo(0), count: PageCount::for_bytes(inode.len) };
        if let Some(lost) = inode.first_lost(pages) {
            return Err(gone_bytes(st, file, lost));
        }
        let by_pool = match inode.ahead {
            // What of it are holes, the object knows.
            Some(pool) if !write && !pages.is_empty() => vec![extent::PoolRun { pages, pool }],
            _ => extent::pool_runs(&extent::slice(&inode.extents, pages)),
        };
        let mut runs: Vec<extent::PoolRun> = Vec::with_capacity(by_pool.len());
        for extent::PoolRun { pages, pool } in by_pool {
            let pool = st.media.of(pool);
            match runs.last_mut() {
                Some(last) if last.pool == pool && last.pages.end() == pages.start.0 => {
                    last.pages.count.0 += pages.count.0;
                }
                _ => runs.push(extent::PoolRun { pages, pool }),
            }
        }
        let mut objects: Vec<PoolId> = Vec::new();
        for run in &runs {
            if !objects.contains(&run.pool) {
                objects.push(run.pool);
            }
        }
        // A device is mapped by whole units, also behind a file's end.
        let pages_in = |medium| {
            let unit = st.unit(medium);
            runs.iter().filter(move |run| run.pool == medium).map(move |run| run.pages.widened(unit))
        };
        let mut devices = Vec::new();
        let mut fds: Vec<OwnedFd> = Vec::new();
        for &medium in &objects {
            match st.pool(medium).backing.on_device(file, &pages_in(medium).collect::<Vec<_>>()) {
                Some(device) => devices.push(OnDevice { pool: medium, ..device }),
                None => fds.push(st.open_object(medium, file, write)?),
            }
        }
        let persistent = objects.iter().copied().filter(|m| st.pool(*m).record.persistent).collect();
        Ok((Layout { len: inode.len, runs, block: st.block(), devices, persistent }, fds))
    }

    /// The contents may have changed.
    pub fn touch(&self, st: &mut State, file: FileId) {
        if let Some(inode) = st.ns.get(file) {
            let mut inode = inode.clone();
            inode.mtime_ns = self.env.wall_ns();
            inode.ctime_ns = inode.mtime_ns;
            let dated = self.date_object(st, &inode);
            if let Err(e) = dated.and_then(|()| self.commit(st, &[Change::Put(Box::new(inode))])) {
                tracing::warn!("time of #{file}: {e}");
            }
        }
    }
}
