//! Taking what programs did to an object directly into inode and frame table.
//!
//! A file that the kernel serves from its object is written, grown and its holes are filled without anybody being asked. As long as that may be so, the
//! inode says in which pool the object is that is [ahead](codax_core::namespace::Inode::ahead) of it: that is journalled before the object is handed
//! out, so that a restart knows what counts. It ends when a write lease on the object proves that nobody has it any more.

use crate::backing::os_error;
use crate::emergency::Placed;
use crate::store::state::{Live, State};
use crate::store::{Inner, resident};
use codax_core::change::Change;
use codax_core::extent::{self, Extent};
use codax_core::namespace::{Inode, LEN_MAX};
use codax_core::{ErrorKind, FileId, PageCount, PageRange, PoolId, Result};
use codax_os::object::{self, ObjectStat};
use codax_os::process;
use std::os::fd::{AsFd, BorrowedFd};

impl Inner {
    /// Brings an inode up to date whose object may be ahead of it, and ends that if nobody has the object any more. Whether it is over is returned; a
    /// file that nobody could change so is over at once. Where that can't be found out, somebody may use it still, and it is tried again.
    pub fn settle(&self, st: &mut State, file: FileId) -> Result<bool> {
        self.try_settle(st, file).inspect_err(|_| linger(st, file))
    }

    fn try_settle(&self, st: &mut State, file: FileId) -> Result<bool> {
        let Some(pool) = st.ns.get(file).and_then(|inode| inode.ahead) else {
            self.stop_lingering(st, file);
            return Ok(true);
        };
        let used = |l: &Live| l.io > 0 || l.mount.as_ref().is_some_and(|m| m.by_kernel() > 0);
        if st.live.get(&file).is_some_and(used) {
            self.absorb(st, file)?;
            return Ok(false);
        }
        let backing = st.pool(pool).backing.clone();
        match backing.sole_holder(file) {
            Err(e) if e.kind == ErrorKind::NotFound => {
                // Nothing is there to be ahead: it was never made, or is lost, which `check` says.
                self.put_settled(st, file)?;
            }
            Err(e) => return Err(e),
            Ok(None) => {
                linger(st, file);
                self.absorb(st, file)?;
                return Ok(false);
            }
            Ok(Some(object)) => {
                self.absorb_object(st, file, pool, object.as_fd(), true)?;
                match st.ns.get(file).filter(|inode| !inode.extents.is_empty()) {
                    Some(inode) => backing.lock(file, object.as_fd(), &st.media.pages(inode, pool))?,
                    None => backing.remove(file)?,
                }
            }
        }
        self.stop_lingering(st, file);
        Ok(true)
    }

    /// Settles a file whose object the library maps as well, so that no lease can tell: nobody shows it in `/proc` as a mount's.
    pub fn settle_shared(&self, st: &mut State, file: FileId) -> Result<bool> {
        let used = st.live.get(&file);
        let shared = used.is_some_and(|l| !l.mappers.is_empty() && l.io == 0);
        let mount = used.and_then(|l| l.mount.as_ref());
        if !shared || mount.is_none_or(|m| m.by_kernel() > 0 || m.inherited) || !st.mounts_are_known() {
            return Ok(false);
        }
        let identities = st.mount_identities(file).collect();
        let shown = process::holders(&identities).map_err(|e| os_error("look through", &"/proc", &e))?;
        if !shown.is_empty() {
            return Ok(false);
        }
        self.absorb(st, file)?;
        self.put_settled(st, file)?;
        self.stop_lingering(st, file);
        Ok(true)
    }

    fn stop_lingering(&self, st: &mut State, file: FileId) {
        if st.lingering.remove(&file) {
            if let Some(live) = st.live.get_mut(&file) {
                if let Some(used) = &mut live.mount {
                    used.lingering = false;
                }
                live.mount = live.mount.take().filter(|used| used.in_use());
            }
            self.changed.notify_all();
        }
    }

    fn put_settled(&self, st: &mut State, file: FileId) -> Result<()> {
        let Some(inode) = st.ns.get(file) else { return Ok(()) };
        let settled = Inode { ahead: None, ..inode.clone() };
        self.commit(st, &[Change::Put(Box::new(settled))])
    }

    /// [`Inner::settle`] for who only looks: a failure is left to those who come after.
    pub fn refresh(&self, st: &mut State, file: FileId) {
        let ahead = st.ns.get(file).is_some_and(|inode| inode.ahead.is_some());
        if !ahead && !st.lingering.contains(&file) {
            return;
        }
        match self.settle(st, file) {
            Ok(true) => {
                if ahead {
                    // A lease has proved that nobody comes back for it.
                    st.lost_orphans.remove(&file);
                }
                self.reap(st, file);
            }
            Ok(false) => {}
            Err(e) => tracing::warn!("{}: what programs wrote to it: {e}", st.path(file)),
        }
    }

    /// [`Inner::refresh`] for all files in use.
    pub fn refresh_all(&self, st: &mut State) {
        let used: Vec<FileId> =
            st.live.iter().filter(|(_, live)| live.mount.is_some()).map(|(id, _)| *id).collect();
        used.into_iter().for_each(|file| self.refresh(st, file));
    }

    /// Settles what was not over when it was tried last.
    pub fn retry_lingering(&self, st: &mut State) {
        for file in st.lingering.clone() {
            self.refresh(st, file);
        }
    }

    /// Takes into the inode what its object is ahead, while programs go on using it. Devices are told of what they gave back of it.
    pub fn absorb(&self, st: &mut State, file: FileId) -> Result<()> {
        if !st.has_caches() {
            return self.absorb_asked(st, file);
        }
        let had = st.ns.get(file).map(|inode| inode.extents.clone()).unwrap_or_default();
        self.absorb_asked(st, file)?;
        let has = st.ns.get(file).map_or(&[][..], |inode| &inode.extents);
        let lost = has.iter().fold(had, |had, e| extent::remove(&had, e.pages()).0);
        self.tell_gone(st, file, &lost);
        Ok(())
    }

    /// [`Inner::absorb`] where devices were asked before anything was given back.
    pub fn absorb_asked(&self, st: &mut State, file: FileId) -> Result<()> {
        let Some(pool) = st.ns.get(file).and_then(|inode| inode.ahead) else { return Ok(()) };
        match st.pool(pool).backing.open(file, false) {
            Err(e) if e.kind == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
            Ok(object) => self.absorb_object(st, file, pool, object.as_fd(), false),
        }
    }

    /// Takes in what the object says; with `over` it isn't ahead afterwards.
    fn absorb_object(
        &self,
        st: &mut State,
        file: FileId,
        pool: PoolId,
        object: BorrowedFd<'_>,
        over: bool,
    ) -> Result<()> {
        let Some(inode) = st.ns.get(file) else { return Ok(()) };
        let now = object::stat(object).map_err(|e| os_error("stat object of", &file, &e))?;
        let mut new = inode.clone();
        if over {
            new.ahead = None;
        }
        if now.len == inode.len && now.allocated_bytes == inode.backed() && now.mtime_ns == inode.mtime_ns {
            return if over { self.commit(st, &[Change::Put(Box::new(new))]) } else { Ok(()) };
        }
        new.len = now.len.min(LEN_MAX);
        if now.mtime_ns != inode.mtime_ns {
            new.mtime_ns = now.mtime_ns;
            new.ctime_ns = now.ctime_ns.max(inode.ctime_ns);
        }
        let found = new_memory(&new, &now, object, file)?;
        let (kept, lost) = still_there(&new, &now, &found, object, file)?;
        new.extents = kept;
        let mut added: Vec<Extent> = Vec::new();
        for pages in found {
            let near = extent::before(&new.extents, pages.start).filter(|e| e.pool == pool);
            match reserve_found(st, pool, file, pages, near) {
                Ok(extents) => added.extend(extents),
                Err(e) => {
                    st.free(&added);
                    return Err(e);
                }
            }
        }
        let spilled = st.found_spilled(file, pool, &added);
        new.extents = extent::insert(&new.extents, &added);
        new.note_spilled(&spilled);
        let placed = Placed { extents: added, spilled, cause: None };
        st.note_placed(file, &placed);
        if let Err(e) = self.commit(st, &[Change::Put(Box::new(new))]) {
            st.free(&placed.extents);
            return Err(e);
        }
        st.own(file, &placed.extents);
        st.free(&lost);
        self.tell_spilled(st, file, &placed);
        Ok(())
    }

    /// Gives an object that is ahead the time of its inode's last change, so that a later one of its own can be told from it.
    pub fn date_object(&self, st: &State, inode: &Inode) -> Result<()> {
        let Some(pool) = inode.ahead else { return Ok(()) };
        let object = st.pool(pool).backing.open(inode.id, true)?;
        object::set_mtime(&object, inode.mtime_ns)
            .map_err(|e| os_error("set the time of object of", &inode.id, &e))
    }
}

/// Frames for memory that programs have taken: of the pool that the object grows in, or, if that is full by now, of another one of its medium. The
/// kernel counts what a medium has, and not whose it is.
fn reserve_found(
    st: &mut State,
    pool: PoolId,
    file: FileId,
    pages: PageRange,
    near: Option<Extent>,
) -> Result<Vec<Extent>> {
    let full = match st.take(pool, file, pages, near.map(|e| e.following())) {
        Err(e) if e.kind == ErrorKind::NoSpace => e,
        other => return other,
    };
    let others: Vec<PoolId> = st.media.pools(st.media.of(pool)).filter(|other| *other != pool).collect();
    others.into_iter().find_map(|other| st.take(other, file, pages, None).ok()).ok_or(full)
}

/// Somebody may map the file that the kernel served.
fn linger(st: &mut State, file: FileId) {
    st.lingering.insert(file);
    st.live.entry(file).or_default().mount.get_or_insert_default().lingering = true;
}

/// Pages of an object that have memory and no frame yet.
fn new_memory(
    inode: &Inode,
    now: &ObjectStat,
    object: BorrowedFd<'_>,
    file: FileId,
) -> Result<Vec<PageRange>> {
    let mut found = Vec::new();
    let allocated = now.allocated_bytes / codax_core::PAGE_SIZE;
    let claimed = PageCount::for_bytes(inode.backed()).0;
    let end = PageCount::for_bytes(inode.len).0;
    for gap in extent::gaps(&inode.extents, PageRange::new(0, end)) {
        find_memory(object, gap, file, &mut found)?;
    }
    let more = |found: &[PageRange]| allocated > claimed + found.iter().map(|f| f.count.0).sum::<u64>();
    if more(&found) {
        // Allocated behind the end.
        let last = PageCount::for_bytes(LEN_MAX).0;
        for gap in extent::gaps(&inode.extents, PageRange::new(end, last - end)) {
            find_memory(object, gap, file, &mut found)?;
        }
    }
    Ok(found)
}

/// The parts of `pages` that have memory, by halving what has some and not all.
pub(crate) fn find_memory(
    object: BorrowedFd<'_>,
    pages: PageRange,
    file: FileId,
    found: &mut Vec<PageRange>,
) -> Result<()> {
    let there = resident(object, pages, file)?;
    if there >= pages.count {
        match found.last_mut() {
            Some(last) if last.end() == pages.start.0 => last.count.0 += pages.count.0,
            _ => found.push(pages),
        }
    } else if there.0 > 0 {
        let half = pages.count.0 / 2;
        find_memory(object, PageRange::new(pages.start.0, half), file, found)?;
        find_memory(object, PageRange::new(pages.start.0 + half, pages.count.0 - half), file, found)?;
    }
    Ok(())
}

/// The extents whose pages are still there, and those whose aren't: cut off or punched, and a restart came before that was journalled.
fn still_there(
    inode: &Inode,
    now: &ObjectStat,
    found: &[PageRange],
    object: BorrowedFd<'_>,
    file: FileId,
) -> Result<(Vec<Extent>, Vec<Extent>)> {
    let found: u64 = found.iter().map(|pages| pages.bytes()).sum();
    let mut kept = inode.extents.clone();
    if now.allocated_bytes >= inode.backed() + found {
        return Ok((kept, Vec::new()));
    }
    let mut lost = Vec::new();
    for extent in &inode.extents {
        let mut there = Vec::new();
        find_memory(object, extent.pages(), file, &mut there)?;
        let gone = there.iter().fold(vec![*extent], |left, pages| {
            left.iter().flat_map(|e| extent::remove(&[*e], *pages).0).collect()
        });
        for e in &gone {
            kept = extent::remove(&kept, e.pages()).0;
        }
        lost.extend(gone);
    }
    Ok((kept, lost))
}
