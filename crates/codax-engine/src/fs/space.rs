//! Lengths and holes.

use super::{Allocate, Fs, FsHandle, StatFs, gone, gone_bytes};
use crate::backing::{Backing, os_error, write_zeros};
use crate::emergency::Placed;
use crate::store::held::Looked;
use crate::store::state::{Live, State};
use crate::store::{Guard, Inner};
use codax_core::change::Change;
use codax_core::extent::{self, Extent};
use codax_core::namespace::{Inode, Kind, LEN_MAX};
use codax_core::placement::Placement;
use codax_core::{
    DRAM, Error, ErrorKind, FileId, HUGE_PAGES, PAGE_SIZE, PageCount, PageNo, PageRange, PoolId, ROOT, Result,
};
use codax_os::object;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Inodes that a mount says there may be: as many as one likes, as far as there is memory for the journal.
const FILES_MAX: u64 = 1 << 32;

/// How often holes are filled that programs make meanwhile.
const FILLS_MAX: u32 = 8;

impl Fs {
    /// Sets a file's length; what is added is a hole.
    pub(super) fn set_len(&self, id: FileId, len: u64) -> Result<()> {
        check_end(len)?;
        let inner = self.inner();
        let mut st = inner.wait_idle(self.lock(), id)?;
        let inode = st.ns.get(id).ok_or_else(|| gone(id))?.clone();
        match inode.kind {
            Kind::File => {}
            Kind::Dir => return Err(Error::new(ErrorKind::IsDir, format!("inode {id} is a directory"))),
            _ => return Err(Error::invalid(format!("inode {id} has no length to set"))),
        }
        inner.check_pins(&st, &inode, len)?;
        if let Some(used) = st.live.get_mut(&id).and_then(|l| l.mount.as_mut()) {
            used.wrote_ns = None;
        }
        if inode.ahead.is_some() {
            inner.check_longer(&mut st, id, len)?;
            inner.resize_ahead(st, id, len).1
        } else if len > inode.len {
            inner.extend(&mut st, &inode, len)
        } else {
            inner.make_busy(&mut st, id, "change of length");
            let (mut st, result) = inner.cut(st, &inode, len);
            inner.end_busy(&mut st, id);
            result
        }
    }

    /// What fallocate(2) does: gives memory to a range, or zeros it, or makes a hole of it.
    pub fn allocate(&self, handle: FsHandle, off: u64, len: u64, mode: Allocate) -> Result<()> {
        let end = off.checked_add(len).filter(|end| *end <= LEN_MAX);
        let end = end.ok_or_else(|| Error::new(ErrorKind::FileTooBig, "the range ends beyond any file"))?;
        if len == 0 || mode.punch && (!mode.keep_size || mode.zero) {
            return Err(Error::invalid("no such way to allocate"));
        }
        let inner = self.inner();
        let st = self.lock();
        let file = self.handle(&st, handle, true)?.file;
        let st = inner.wait_idle(st, file)?;
        let inode = st.ns.get(file).ok_or_else(|| gone(file))?.clone();
        let new_len = if mode.keep_size { inode.len } else { inode.len.max(end) };
        if inode.ahead.is_some() {
            let (mut st, allocated) = inner.allocate_ahead(st, file, (off, end), new_len, mode);
            allocated?;
            let inode = st.ns.get(file).ok_or_else(|| gone(file))?.clone();
            inner.set_times(&mut st, &inode)?;
            return inner.absorb_asked(&mut st, file);
        }
        let mapped = st.live.get(&file).is_some_and(Live::without_holes);
        let now = Some(self.now());
        let lost =
            inode.first_lost(PageRange::of_bytes(off, len)).filter(|_| mode.zero || mode.punch && mapped);
        if let Some(lost) = lost {
            return Err(gone_bytes(&st, file, lost));
        }
        let (mut st, result) = if mode.punch && !mapped {
            inner.punch(st, &inode, off, end)
        } else if mode.punch || mode.zero {
            // Under the library's mappings there are no holes, so zeros take their place.
            let end = end.min(inode.len);
            let pages = if mode.punch { PageRange::new(0, 0) } else { PageRange::of_bytes(off, len) };
            let zero = |inner: &Inner, _: &[Extent]| inner.zero(&inode, off, end);
            inner.fill(st, &inode, (pages, Pools::Placed), new_len, now, zero)
        } else {
            let pages = (PageRange::of_bytes(off, len), Pools::Placed);
            inner.fill(st, &inode, pages, new_len, now, |_, _| Ok(()))
        };
        result?;
        self.wrote(&mut st, file);
        Ok(())
    }

    /// What statfs(2) says, of the pools that the placement of `id` uses: of one on which a directory here or above has a quota, no more than that.
    pub fn statfs(&self, id: FileId) -> Result<StatFs> {
        let st = self.lock();
        let placement = st.placement(id);
        // Of a file it is that of the directory that it is in.
        let dir_of = match st.inode(id).map(|inode| inode.kind) {
            Some(Kind::Dir) => id,
            _ => st.ns.parent_of(id).map_or(ROOT, |(dir, _)| dir),
        };
        let pools: BTreeSet<PoolId> = match &placement {
            Placement::On { pool, .. } => [*pool].into(),
            Placement::Prefer(pool) => [*pool, DRAM].into(),
            Placement::Interleave(pools) => pools.iter().copied().collect(),
        };
        let dir = self.inner().options().dir.clone();
        let layout = crate::store::Layout { dir };
        let mut stat = StatFs::default();
        let mut rooms = Vec::new();
        for pool in pools {
            let online = st.room(pool).online;
            let quota = st.quota_of_dir(dir_of, pool);
            let pool = st.pool(pool);
            let bytes = PageCount(pool.record.frames).bytes();
            stat.bytes += quota.map_or(bytes, |quota| quota.limit.bytes().min(bytes));
            // What programs write through the kernel has no frames yet, and memory. Of a pool of huge pages all is in the holder or in files.
            let medium = st.pool(pool.record.medium);
            let by_kernel = codax_os::mounts::free_bytes(&layout.pool(&medium.record.name));
            let free = by_kernel.ok().filter(|_| pool.record.unit() == 1).unwrap_or(u64::MAX);
            let free = free.min(pool.alloc.free().bytes());
            let free = quota.map_or(free, |quota| quota.room().bytes().min(free));
            stat.free += free;
            rooms.push(if online { free } else { 0 });
        }
        stat.available = match placement {
            // In turns: when one is full there is no next one.
            Placement::Interleave(_) => rooms.iter().min().unwrap_or(&0) * rooms.len() as u64,
            _ => rooms.iter().sum(),
        };
        stat.files = FILES_MAX;
        stat.files_free = FILES_MAX.saturating_sub(st.ns.count() as u64);
        Ok(stat)
    }
}

/// `FileTooBig` for a file that would end there.
pub(super) fn check_end(len: u64) -> Result<()> {
    match len > LEN_MAX {
        true => Err(Error::new(ErrorKind::FileTooBig, format!("no file can have {len} bytes"))),
        false => Ok(()),
    }
}

/// Where a hole's frames are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pools {
    /// As the file's placement says.
    Placed,
    /// From where the pages beside it are, if there is room: what lies in one object stays in one.
    Beside,
}

/// The pool of what is beside a hole, if it takes all of that. A file that is to be spread is spread; and what is beside pages that a drain took
/// elsewhere would stay there when they come home.
fn beside(st: &State, inode: &Inode, placement: &Placement, gap: PageRange) -> Option<PoolId> {
    if matches!(placement, Placement::Interleave(_)) || !inode.away.is_empty() {
        return None;
    }
    let after = || inode.extents.iter().find(|e| e.page.0 >= gap.end()).copied();
    let pool = extent::before(&inode.extents, gap.start).or_else(after)?.pool;
    let room = st.room_for(inode.id, pool);
    (room.online && room.free >= gap.count && gap == gap.widened(room.unit)).then_some(pool)
}

impl Inner {
    /// `Busy` if pages that a shorter length cuts off are pinned.
    pub fn check_pins(&self, st: &State, inode: &Inode, len: u64) -> Result<()> {
        let (old, new) = (PageCount::for_bytes(inode.len), PageCount::for_bytes(len));
        let cut = PageRange::new(new.0, old.0.saturating_sub(new.0));
        let pinned = |l: &Live| l.pins.values().any(|pin| pin.intersect(cut).is_some());
        match st.live.get(&inode.id).is_some_and(pinned) {
            true => {
                let path = st.path(inode.id);
                Err(Error::busy(format!("{path}: pages that would be cut off are pinned")))
            }
            false => Ok(()),
        }
    }

    /// `NoSpace` if a file that is ahead on a device to which it has spilled would have a longer hole than it may fill there: who maps it asks nobody.
    fn check_longer(&self, st: &mut State, file: FileId, len: u64) -> Result<()> {
        self.absorb(st, file)?;
        let Some(inode) = st.ns.get(file) else { return Err(gone(file)) };
        let (old, new) = (PageCount::for_bytes(inode.len), PageCount::for_bytes(len));
        let more = PageCount(new.0.saturating_sub(old.0));
        inode.ahead.map_or(Ok(()), |pool| st.check_spilling(file, pool, more))
    }

    /// Makes a file longer by a hole.
    fn extend(&self, st: &mut State, inode: &Inode, len: u64) -> Result<()> {
        for pool in st.media.of_inode(inode) {
            let backing = &st.pool(pool).backing;
            let object = st.open_object(pool, inode.id, true)?;
            backing.resize(object.as_fd(), len)?;
        }
        let (from, end) = st.tail(inode, len);
        self.zero_in(st, inode, from, end)?;
        let now = self.env.wall_ns();
        let new = Inode { len, mtime_ns: now, ctime_ns: now, ..inode.clone() };
        self.commit(st, &[Change::Put(Box::new(new))])
    }

    /// Sets the length of an object that is ahead of its inode, and takes that in. To be called when the file is idle.
    pub fn resize_ahead<'a>(&'a self, mut st: Guard<'a>, file: FileId, len: u64) -> (Guard<'a>, Result<()>) {
        let end = PageCount::for_bytes(len).0;
        let cached = match self.cached_ahead(&mut st, file, PageRange::new(end, u64::MAX - end)) {
            Ok(cached) => cached,
            Err(e) => return (st, Err(e)),
        };
        let (mut st, resized) = self.with_ahead(st, file, "change of length", |backing, object| {
            self.let_go_of(file, cached.clone())?;
            let stat = object::stat(object).map_err(|e| os_error("stat object of", &file, &e))?;
            backing.resize(object, len)?;
            self.forget_ahead(file, cached);
            let end = end_of_page(stat.len).min(len);
            let page = PageRange::of_bytes(stat.len, 1);
            // What is a hole is zeros already, and stays one.
            if stat.len < end && crate::store::resident(object, page, file)?.0 > 0 {
                write_zeros(backing, object, stat.len, end)?;
            }
            Ok(())
        });
        let taken = resized.and_then(|()| {
            let inode = st.ns.get(file).cloned().ok_or_else(|| gone(file))?;
            self.set_times(&mut st, &inode)?;
            self.absorb_asked(&mut st, file)
        });
        (st, taken)
    }

    /// Works on the object that is ahead of a file, without the state's lock: what takes or gives back much memory takes its time. The file is busy
    /// meanwhile.
    pub fn with_ahead<'a, T>(
        &'a self,
        mut st: Guard<'a>,
        file: FileId,
        what: &'static str,
        work: impl FnOnce(&dyn Backing, BorrowedFd<'_>) -> Result<T>,
    ) -> (Guard<'a>, Result<T>) {
        let Some(pool) = st.ns.get(file).and_then(|inode| inode.ahead) else { return (st, Err(gone(file))) };
        let backing = st.pool(pool).backing.clone();
        let opened = st.open_object(pool, file, true);
        let acting = st.acting;
        self.make_busy(&mut st, file, what);
        drop(st);
        let worked = opened.and_then(|object| work(&*backing, object.as_fd()));
        let mut st = self.lock_for(acting);
        self.end_busy(&mut st, file);
        (st, worked)
    }

    /// Somebody changed the contents of a file that is ahead: its times, and its object's, are now.
    fn set_times(&self, st: &mut State, inode: &Inode) -> Result<()> {
        let now = self.env.wall_ns();
        let new = Inode { mtime_ns: now, ctime_ns: now, ..inode.clone() };
        self.date_object(st, &new)?;
        self.commit(st, &[Change::Put(Box::new(new))])
    }

    /// What fallocate(2) does, to an object that is ahead; its inode follows with what absorbs it.
    fn allocate_ahead<'a>(
        &'a self,
        mut st: Guard<'a>,
        file: FileId,
        (off, end): (u64, u64),
        len: u64,
        mode: Allocate,
    ) -> (Guard<'a>, Result<()>) {
        let pages = PageRange::of_bytes(off, end - off);
        let kept = if mode.punch { Ok(Vec::new()) } else { self.reserve_ahead(&mut st, file, pages) };
        let kept = match kept {
            Ok(kept) => kept,
            Err(e) => return (st, Err(e)),
        };
        let mapped = st.live.get(&file).is_some_and(Live::without_holes);
        let punched = (mode.punch || mode.zero) && !mapped;
        let cached = if punched { self.cached_ahead(&mut st, file, pages) } else { Ok(Vec::new()) };
        let (mut st, allocated) = self.with_ahead(st, file, "filling of holes", |backing, object| {
            let stat = object::stat(object).map_err(|e| os_error("stat object of", &file, &e))?;
            let cached = cached?;
            self.let_go_of(file, cached.clone())?;
            if (mode.punch || mode.zero) && mapped {
                write_zeros(backing, object, off, end.min(stat.len))?;
            } else if punched {
                object::punch(object, off, end - off)
                    .map_err(|e| os_error("give back in object of", &file, &e))?;
                self.forget_ahead(file, cached);
            }
            if mode.punch {
                return Ok(());
            }
            backing.allocate(object, pages)?;
            if len > stat.len { backing.resize(object, len) } else { Ok(()) }
        });
        // They are for what is absorbed now.
        st.free(&kept);
        (st, allocated)
    }

    /// Keeps frames for the pages that the object of a file that is ahead has yet to be given: the medium may have more room than the pool.
    pub fn reserve_ahead(&self, st: &mut State, file: FileId, pages: PageRange) -> Result<Vec<Extent>> {
        self.absorb(st, file)?;
        let Some(inode) = st.ns.get(file) else { return Err(gone(file)) };
        let Some(pool) = inode.ahead else { return Ok(Vec::new()) };
        let gaps = extent::gaps(&inode.extents, pages);
        if !gaps.is_empty() && !st.room(pool).online {
            let name = st.pool_name(pool);
            return Err(Error::device_state(format!(
                "pool {name} takes nothing new: it drains or is offline"
            )));
        }
        st.check_spilling(file, pool, PageCount(gaps.iter().map(|gap| gap.count.0).sum()))?;
        let mut kept = Vec::new();
        for gap in gaps {
            match st.reserve(pool, file, gap, None) {
                Ok(extents) => kept.extend(extents),
                Err(e) => {
                    st.free(&kept);
                    return Err(e);
                }
            }
        }
        Ok(kept)
    }

    /// Gives frames and memory to the holes in `pages` and makes the file `len` long, no shorter than it is. `work` is given the new extents when the
    /// memory is there and before anybody knows of it. `time` is when the contents changed, if they did.
    pub fn fill<'a>(
        &'a self,
        mut st: Guard<'a>,
        inode: &Inode,
        (pages, pools): (PageRange, Pools),
        len: u64,
        time: Option<i64>,
        work: impl FnOnce(&Self, &[Extent]) -> Result<()>,
    ) -> (Guard<'a>, Result<()>) {
        let file = inode.id;
        // The kernel may give whole huge pages where only a part was asked for.
        let huge = huge_blocks(pages, len);
        let placed = self.place_holes(&mut st, inode, (huge, pools), true).and_then(|placed| match placed {
            Some(placed) => Ok(placed),
            None => self.place_holes(&mut st, inode, (pages, pools), false).map(Option::unwrap_or_default),
        });
        let placed = match placed {
            Ok(placed) => placed,
            Err(e) => {
                self.tell_no_room(&mut st, file, &e, pages.bytes());
                return (st, Err(e));
            }
        };
        let extents = &placed.extents;
        let acting = st.acting;
        self.make_busy(&mut st, file, "filling of holes");
        let others = st.media.of_inode(inode);
        drop(st);
        let filled = self
            .back(file, extents, len, &others)
            .and_then(|()| if len > inode.len { self.clear_tail(inode, len) } else { Ok(()) })
            .and_then(|()| work(self, extents));
        let mut st = self.lock_for(acting);
        let result = filled.and_then(|()| {
            // The inode may have got another mode or name meanwhile: only what changes here is taken over.
            let mut now = st.ns.get(file).cloned().unwrap_or_else(|| inode.clone());
            if extents.is_empty() && len == now.len {
                return Ok(());
            }
            now.extents = extent::insert(&now.extents, extents);
            now.note_spilled(&placed.spilled);
            now.len = len;
            if let Some(ns) = time {
                (now.mtime_ns, now.ctime_ns) = (ns, ns);
            }
            self.commit(&mut st, &[Change::Put(Box::new(now))])
        });
        if result.is_ok() {
            st.own(file, extents);
            self.tell_spilled(&mut st, file, &placed);
        } else {
            self.unfill(&mut st, inode, placed.extents);
        }
        self.end_busy(&mut st, file);
        (st, result)
    }

    /// Frames for the holes in `pages`, in these `pools`. With `huge`, only if all of them are in pools of huge pages and there is room.
    fn place_holes(
        &self,
        st: &mut State,
        inode: &Inode,
        (pages, pools): (PageRange, Pools),
        huge: bool,
    ) -> Result<Option<Placed>> {
        let (placement, spill) = (st.placement(inode.id), st.may_spill(inode.id));
        let refusals = st.quotas.refusals();
        let mut all = Placed::default();
        for gap in inode.holes(pages) {
            let after = all.extents.last().copied().or_else(|| extent::before(&inode.extents, gap.start));
            let beside = (pools == Pools::Beside).then(|| beside(st, inode, &placement, gap)).flatten();
            let placed = match beside {
                Some(pool) => {
                    let near = after.filter(|e| e.pool == pool).map(|e| e.following());
                    st.reserve(pool, inode.id, gap, near)
                        .map(|extents| Placed { extents, ..Placed::default() })
                }
                None => st.place((&placement, spill), inode.id, gap, after),
            };
            let placed = placed.map(|more| all.extend(more));
            let small = huge && all.extents.iter().any(|e| !st.pool(e.pool).huge);
            if small || placed.is_err() {
                st.free(&all.extents);
            }
            match placed {
                Err(e) if !huge => return Err(e),
                Ok(_) if !small => {}
                _ => {
                    // Less is asked for next.
                    st.quotas.forget_refusals(refusals);
                    return Ok(None);
                }
            }
        }
        let held = |st: &State| all.extents.iter().any(|e| st.has_held(inode.id, e.pool));
        if held(st) {
            // It lies at the same place in the same object: it would be given back with the new bytes in it.
            self.retry_held(st);
        }
        if held(st) {
            st.free(&all.extents);
            let path = st.path(inode.id);
            return Err(Error::busy(format!("{path}: memory it gave up is still held: try again later")));
        }
        Ok(Some(all))
    }

    /// Takes back what a fill that failed has made.
    fn unfill(&self, st: &mut State, inode: &Inode, extents: Vec<Extent>) {
        self.ungrow(st, inode, &extents);
        let old = st.media.of_inode(inode);
        let mut undone = Ok(());
        for e in extents.iter().filter(|e| old.contains(&st.media.of(e.pool))) {
            let backing = &st.pool(e.pool).backing;
            let punched = backing.open(inode.id, true).and_then(|o| backing.release(o.as_fd(), e.pages()));
            undone = undone.and(punched);
        }
        match undone {
            Ok(()) => st.free(&extents),
            Err(e) => {
                tracing::warn!("after a failed write: {e}");
                self.give_back(st, inode.id, extents);
            }
        }
    }

    /// A file without holes, as the library maps it: they are filled. To be called when the file is idle. `Busy` where programs make new ones all the
    /// time.
    pub fn whole<'a>(&'a self, mut st: Guard<'a>, file: FileId) -> Result<Guard<'a>> {
        for _ in 0..FILLS_MAX {
            self.refresh(&mut st, file);
            let Some(inode) = st.ns.get(file).filter(|i| i.kind == Kind::File && !i.is_whole()).cloned()
            else {
                return Ok(st);
            };
            let pages = PageRange { start: PageNo(0), count: PageCount::for_bytes(inode.len) };
            if inode.ahead.is_none() {
                let pages = (pages, Pools::Beside);
                let (after, result) = self.fill(st, &inode, pages, inode.len, None, |_, _| Ok(()));
                result?;
                st = self.wait_idle(after, file)?;
                continue;
            }
            // What programs write or cut off meanwhile is in the object, and not in what was looked at.
            let mode = Allocate { keep_size: true, ..Allocate::default() };
            let (after, allocated) = self.allocate_ahead(st, file, (0, pages.bytes()), inode.len, mode);
            allocated?;
            st = after;
            self.absorb(&mut st, file)?;
        }
        let path = st.path(file);
        match st.ns.get(file).is_none_or(Inode::is_whole) {
            true => Ok(st),
            false => {
                Err(Error::busy(format!("{path}: a program makes holes in it all the time: try again later")))
            }
        }
    }

    /// Makes a hole of a range of bytes. What it covers of a page in part is zeroed.
    fn punch<'a>(&'a self, mut st: Guard<'a>, inode: &Inode, off: u64, end: u64) -> (Guard<'a>, Result<()>) {
        let file = inode.id;
        // Of a unit only all can go.
        let unit = inode.extents.iter().map(|e| st.unit(e.pool)).max().unwrap_or(1);
        let whole = PageCount(unit).bytes();
        let first = off.div_ceil(whole) * unit;
        // Behind the end of the file there is nothing to be kept.
        let last = if end >= inode.len { end.div_ceil(whole) } else { end / whole } * unit;
        let pages = PageRange::new(first, last.saturating_sub(first));
        let acting = st.acting;
        self.make_busy(&mut st, file, "punching of a hole");
        drop(st);
        let head = off..end.min(first * PAGE_SIZE);
        let tail = (last * PAGE_SIZE).max(head.end)..end.min(inode.len);
        let zeroed = self
            .let_go_of(file, extent::slice(&inode.extents, pages))
            .and_then(|()| self.zero(inode, head.start, head.end))
            .and_then(|()| self.zero(inode, tail.start, tail.end));
        let mut st = self.lock_for(acting);
        let now = st.ns.get(file).cloned().unwrap_or_else(|| inode.clone());
        let (left, cut) = extent::remove(&now.extents, pages);
        let unchanged = cut.is_empty() && now.first_lost(pages).is_none();
        let committed = zeroed.and_then(|()| match unchanged {
            true => Ok(()),
            false => {
                let mut punched = Inode { extents: left, ..now };
                punched.forget_lost(pages);
                self.commit(&mut st, &[Change::Put(Box::new(punched))])
            }
        });
        if committed.is_ok() {
            let late;
            (st, late) = self.let_go_again(st, file, &cut);
            match late {
                true => self.give_up(&mut st, file, cut),
                false => self.release_cut(&mut st, file, cut),
            }
        }
        self.end_busy(&mut st, file);
        (st, committed)
    }

    /// Gives back the memory and the frames of what was punched.
    fn release_cut(&self, st: &mut State, file: FileId, cut: Vec<Extent>) {
        let kept = st.ns.get(file).map(|inode| st.media.of_inode(inode)).unwrap_or_default();
        let (inner, whole): (Vec<Extent>, Vec<Extent>) =
            cut.into_iter().partition(|e| kept.contains(&st.media.of(e.pool)));
        let mut looked = Looked::default();
        let mut kept = whole;
        for e in inner {
            let backing = st.pool(e.pool).backing.clone();
            if looked.may_be_mapped((e.pool, &*backing), file, &[e]) {
                kept.push(e);
                continue;
            }
            match backing.open(file, true).and_then(|o| backing.release(o.as_fd(), e.pages())) {
                Ok(()) => st.free(&[e]),
                Err(error) => {
                    tracing::warn!("punch: {error}");
                    kept.push(e);
                }
            }
        }
        self.give_back(st, file, kept);
    }

    /// What lies behind the end in the last page or unit becomes part of the file, now `len` bytes long: it must read as zeros, also if somebody stored there
    /// through a mapping.
    pub fn clear_tail(&self, inode: &Inode, len: u64) -> Result<()> {
        let (from, end) = self.lock().tail(inode, len);
        self.zero(inode, from, end)
    }

    /// Writes zeros over what a range of bytes has in memory, of a file that is not ahead.
    fn zero(&self, inode: &Inode, off: u64, end: u64) -> Result<()> {
        zero_extents(inode, off, end, |pool| {
            let st = self.lock();
            Ok((st.pool(pool).backing.clone(), st.open_object(pool, inode.id, true)?))
        })
    }

    fn zero_in(&self, st: &State, inode: &Inode, off: u64, end: u64) -> Result<()> {
        zero_extents(inode, off, end, |pool| {
            Ok((st.pool(pool).backing.clone(), st.open_object(pool, inode.id, true)?))
        })
    }
}

fn zero_extents(
    inode: &Inode,
    off: u64,
    end: u64,
    open: impl Fn(PoolId) -> Result<(Arc<dyn Backing>, OwnedFd)>,
) -> Result<()> {
    if off >= end {
        return Ok(());
    }
    for e in extent::slice(&inode.extents, PageRange::of_bytes(off, end - off)) {
        let (backing, object) = open(e.pool)?;
        let stop = (e.page.offset() + e.count.bytes()).min(end);
        write_zeros(&*backing, object.as_fd(), e.page.offset().max(off), stop)?;
    }
    Ok(())
}

/// The 2 MiB blocks that `pages` touch, as far as they are in a file of `len` bytes.
fn huge_blocks(pages: PageRange, len: u64) -> PageRange {
    if pages.is_empty() {
        return pages;
    }
    let start = pages.start.0 / HUGE_PAGES * HUGE_PAGES;
    let end = pages.end().next_multiple_of(HUGE_PAGES).min(PageCount::for_bytes(len).0).max(pages.end());
    PageRange::new(start, end - start)
}

/// Where the page ends in which byte `at` is, or that it ends.
fn end_of_page(at: u64) -> u64 {
    at.next_multiple_of(PAGE_SIZE)
}
