//! Opening and releasing, and by whom a file's bytes are served: by the kernel, from the file's object, or by the daemon.
//!
//! A mount serves a file in one way from its first open to its last close, since the kernel can't mix them. Two mounts may differ: the daemon reads and
//! writes the same object that the kernel does. A file that the kernel serves lies in one object, and is not moved; it is in use so until
//! a write lease on the object shows that nobody has it any more, since a mapping outlives its handle.

use super::{Attr, Changed, Fs, FsHandle, FsOpen, How, Mounted, New, NewKind, Who, gone};
use crate::backing::{Backing, os_error};
use crate::store::Inner;
use crate::store::quota::Maker;
use crate::store::state::State;
use codax_core::change::{Change, PoolState};
use codax_core::info::{Served, ServedBy};
use codax_core::name::Name;
use codax_core::namespace::{Inode, Kind};
use codax_core::placement::{Placement, Room};
use codax_core::plan::Holder;
use codax_core::{DRAM, Error, ErrorKind, FileId, PageRange, PoolId, Result};
use codax_os::object;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
/// Why the daemon serves a file in huge pages.
const IN_HUGE_PAGES: &str = "lies in pages of hugetlbfs, which FUSE doesn't pass through";
/// Why the daemon serves a file on a medium of its own.
const ON_DAX: &str = "lies on a DAX device, whose frames and names the daemon keeps in step";
/// Why the daemon serves a file without pages, or a new one, where little is left of `dram`.
const NEAR_THE_END: &str = "may outgrow what is left of dram, and goes on on a device that helps out then";
/// What a quota changes of how the kernel serves a file.
const COUNTED: &str = "; who writes to it asks the daemon, since a quota counts that";
/// What it changes that the file is on a device for want of room in `dram`.
const SPILLED: &str = ", for want of room in dram; who writes to it asks the daemon";
/// Why the daemon serves a file of which more could come to a device than anybody allows.
const SPILLED_IN_PART: &str =
    "some of it is on a device for want of room in dram, and not all of it, or it has holes";
/// Why the daemon serves a file of which bytes are gone.
const HAS_LOST: &str = "has bytes that are gone";

/// A mount, as the state keeps it.
#[derive(Debug)]
pub(crate) struct Mount {
    pub id: u64,
    privileged: bool,
    /// Its device number; 0 as long as it isn't known.
    device: AtomicU64,
    notes: Mutex<Notes>,
    noted: Condvar,
    /// What its kernel knows, and how often that was told.
    known: Mutex<HashMap<FileId, u64>>,
}

/// What others have changed. A set: it is never larger than what there is.
#[derive(Debug, Default)]
struct Notes {
    changed: BTreeSet<Changed>,
    closed: bool,
}

impl Mount {
    pub fn new(id: u64, privileged: bool) -> Self {
        Self {
            id,
            privileged,
            device: AtomicU64::new(0),
            notes: Mutex::default(),
            noted: Condvar::new(),
            known: Mutex::default(),
        }
    }

    pub fn set_device(&self, dev: u64) {
        self.device.store(dev, Ordering::Relaxed);
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, changes: &[Change]) {
        let mut notes = self.notes();
        if notes.closed {
            return;
        }
        notes.changed.extend(changes.iter().filter_map(|change| match change {
            Change::Put(inode) => Some(Changed::Inode(inode.id)),
            Change::Link { dir, name, .. } | Change::Unlink { dir, name } => {
                Some(Changed::Entry(*dir, name.clone()))
            }
            _ => None,
        }));
        self.noted.notify_all();
    }

    /// The mount's own kernel doesn't know this of an inode either.
    fn note_own(&self, id: FileId) {
        let mut notes = self.notes();
        if !notes.closed {
            notes.changed.insert(Changed::Inode(id));
            self.noted.notify_all();
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<FileId, u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its kernel knows the inode.
    pub fn knows(&self, id: FileId) -> bool {
        self.known().contains_key(&id)
    }

    pub fn take_change(&self) -> Option<Changed> {
        self.notes().changed.pop_first()
    }

    pub fn wait_change(&self) -> bool {
        let mut notes = self.notes();
        while notes.changed.is_empty() && !notes.closed {
            notes = self.noted.wait(notes).unwrap_or_else(PoisonError::into_inner);
        }
        !notes.closed
    }

    pub(super) fn close(&self) {
        let mut notes = self.notes();
        notes.closed = true;
        notes.changed.clear();
        self.noted.notify_all();
        drop(notes);
        *self.known() = HashMap::new();
    }
}

/// A handle of a mount.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MountHandle {
    pub file: FileId,
    mount: u64,
    pub read: bool,
    pub write: bool,
    pid: u32,
}

/// What mounts do with a file.
#[derive(Debug, Default)]
pub(crate) struct MountUse {
    opens: Vec<Opens>,
    /// The last handle that the kernel serves is closed, and somebody may still map the object.
    pub lingering: bool,
    /// It does since before the start, through a mount that is not known any more.
    pub inherited: bool,
    /// When the daemon wrote to it last, if the inode doesn't say so yet.
    pub wrote_ns: Option<i64>,
}

/// The handles that one mount has of a file.
#[derive(Clone, Copy, Debug)]
struct Opens {
    mount: u64,
    by_kernel: bool,
    handles: u32,
}

impl MountUse {
    /// Handles that the kernel serves.
    pub fn by_kernel(&self) -> u32 {
        self.opens.iter().filter(|o| o.by_kernel).map(|o| o.handles).sum()
    }

    pub fn in_use(&self) -> bool {
        self.lingering || !self.opens.is_empty()
    }

    fn of(&self, mount: u64) -> Option<&Opens> {
        self.opens.iter().find(|o| o.mount == mount)
    }

    fn add(&mut self, mount: u64, by_kernel: bool) {
        match self.opens.iter_mut().find(|o| o.mount == mount) {
            Some(opens) => opens.handles += 1,
            None => self.opens.push(Opens { mount, by_kernel, handles: 1 }),
        }
    }

    /// Takes a handle away; whether that was the last one that the kernel serves.
    fn take(&mut self, mount: u64) -> bool {
        let before = self.by_kernel();
        if let Some(opens) = self.opens.iter_mut().find(|o| o.mount == mount) {
            opens.handles -= 1;
        }
        self.opens.retain(|o| o.handles > 0);
        before > 0 && self.by_kernel() == 0
    }
}

impl Fs {
    /// Opens a file. Cutting it to nothing is a request of its own, which the kernel makes once it has found that nobody executes it.
    pub fn open(&self, id: FileId, read: bool, write: bool, who: Who) -> Result<FsOpen> {
        let mut st = self.inner().wait_still(self.lock(), id)?;
        let inode = st.ns.get(id).ok_or_else(|| gone(id))?;
        match inode.kind {
            Kind::File => {}
            Kind::Dir => return Err(Error::new(ErrorKind::IsDir, format!("inode {id} is a directory"))),
            _ => return Err(Error::invalid(format!("inode {id} is no regular file"))),
        }
        let (how, direct) = match self.object_for_kernel(&mut st, id, read) {
            Some(pool) => {
                let object = self.hand_out(&mut st, id, pool)?;
                (How::Passthrough(object), write && st.is_counted(id, pool))
            }
            None => (How::Daemon, false),
        };
        st.watch(id);
        let open = self.add_handle(&mut st, id, how, (read, write), who);
        Ok(FsOpen { direct, ..open })
    }

    /// Makes an empty file and opens it. `Exists` if the name is taken.
    pub fn create(
        &self,
        dir: FileId,
        name: &[u8],
        new: &New,
        read: bool,
        write: bool,
    ) -> Result<(Attr, FsOpen)> {
        if new.kind != NewKind::File {
            return Err(Error::invalid("only a regular file is made and opened at once"));
        }
        let name = Name::new(name)?;
        let mut st = self.lock();
        let id = self.take_id(&mut st)?;
        let maker = Maker { uid: new.who.uid, dir };
        let chosen = || st.pool_of_empty(dir, &st.ns.placement(dir), &|pool| st.room_for_new(maker, pool));
        let pool = self.mounted.mount.privileged.then(chosen).flatten();
        let how = match pool {
            None => {
                self.put_new(&mut st, (dir, &name), new, id, None)?;
                How::Daemon
            }
            Some(pool) => {
                let backing = st.pool(pool).backing.clone();
                let object = backing.create(id, 0)?;
                backing.prefer(object.as_fd(), PageRange::ALL)?;
                if let Err(e) = self.put_new(&mut st, (dir, &name), new, id, Some(pool)) {
                    if let Err(e) = backing.remove(id) {
                        tracing::warn!("after a failed create: {e}");
                    }
                    return Err(e);
                }
                let mtime_ns = st.ns.get(id).map_or(0, |inode| inode.mtime_ns);
                object::set_mtime(&object, mtime_ns).map_err(|e| os_error("date object of", &id, &e))?;
                How::Passthrough(object)
            }
        };
        let direct = write && pool.is_some_and(|pool| st.is_bound(id, pool));
        st.watch(id);
        let open = self.add_handle(&mut st, id, how, (read, write), new.who);
        Ok((st.attr(id)?, FsOpen { direct, ..open }))
    }

    /// Whether somebody has the file open for writing through this mount.
    pub(super) fn writes(&self, st: &State, file: FileId) -> bool {
        st.handles.values().any(|h| h.file == file && h.mount == self.mounted.mount.id && h.write)
    }

    /// If this mount has the file open, whether the kernel serves it.
    fn opened_so(&self, st: &State, file: FileId) -> Option<bool> {
        let used = st.live.get(&file).and_then(|live| live.mount.as_ref());
        used.and_then(|used| used.of(self.mounted.mount.id)).map(|opens| opens.by_kernel)
    }

    /// The pool in which the object is from which the kernel is to serve a file on this mount, if it is, to who may `read` it or not.
    fn object_for_kernel(&self, st: &mut State, file: FileId, read: bool) -> Option<PoolId> {
        let opened = self.opened_so(st, file);
        if !self.mounted.mount.privileged || opened == Some(false) {
            return None;
        }
        let inode = st.ns.get(file)?;
        if opened.is_none() && !read && inode.ahead.is_none() && !inode.spilled().is_empty() {
            // Who can't map it has nothing of its object; through the daemon it grows wherever there is room, and goes home meanwhile.
            return None;
        }
        let pool = st.sole_pool(inode).ok()?;
        if st.has_held(file, pool) {
            // It would be given back with what is written now.
            self.inner().retry_held(st);
        }
        (!st.has_held(file, pool)).then_some(pool)
    }

    /// The object from which the kernel will serve the file, made if there is none.
    ///
    /// That it is ahead is journalled first, also for who only reads: a mapping for reading outlives its handle, and whoever changes the file asks by that
    /// whether the kernel has been given its object, and may neither take it away nor put another in its place.
    fn hand_out(&self, st: &mut State, file: FileId, pool: PoolId) -> Result<OwnedFd> {
        let inode = st.ns.get(file).ok_or_else(|| gone(file))?;
        let backing = st.pool(pool).backing.clone();
        if inode.ahead.is_some() {
            return st.open_object(pool, file, true);
        }
        let new = Inode { ahead: Some(pool), ..inode.clone() };
        let object = if inode.extents.is_empty() {
            make_anew(&*backing, file, inode.len, &st.path(file))?
        } else {
            st.open_object(pool, file, true)?
        };
        backing.prefer(object.as_fd(), PageRange::ALL)?;
        object::set_mtime(&object, new.mtime_ns).map_err(|e| os_error("date object of", &file, &e))?;
        self.inner().commit(st, &[Change::Put(Box::new(new))])?;
        Ok(object)
    }

    fn add_handle(
        &self,
        st: &mut State,
        file: FileId,
        how: How,
        (read, write): (bool, bool),
        who: Who,
    ) -> FsOpen {
        let mount = self.mounted.mount.id;
        st.next_handle += 1;
        let handle = FsHandle(st.next_handle);
        st.handles.insert(handle, MountHandle { file, mount, read, write, pid: who.pid });
        let by_kernel = matches!(how, How::Passthrough(_));
        st.live.entry(file).or_default().mount.get_or_insert_default().add(mount, by_kernel);
        FsOpen { handle, how, direct: false }
    }

    /// The mount's kernel is about to be told of an inode, and will know it until it [forgets](Self::forget) that.
    pub fn tell(&self, id: FileId) {
        *self.mounted.mount.known().entry(id).or_default() += 1;
    }

    /// The mount's kernel forgets so many of the times that it was told of an inode.
    pub fn forget(&self, id: FileId, times: u64) {
        let mut known = self.mounted.mount.known();
        let Entry::Occupied(mut told) = known.entry(id) else { return };
        *told.get_mut() = told.get().saturating_sub(times);
        if *told.get() > 0 {
            return;
        }
        told.remove();
        drop(known);
        self.lock().forget_gone(id);
    }

    /// Ends a handle. Of a file that the kernel serves, after its backing was unregistered, if it was the last.
    pub fn release(&self, handle: FsHandle) {
        self.inner().release_handle(&mut self.lock(), handle);
    }

    /// How the file is served on this mount, or would be if it were opened now; of a directory, how a new file in it would be.
    pub fn served(&self, id: FileId) -> Result<Served> {
        let st = self.lock();
        let inode = st.ns.get(id).ok_or_else(|| gone(id))?;
        let so = || "programs have it open so".to_owned();
        let (by, why) = match inode.kind {
            Kind::File | Kind::Dir if !self.mounted.mount.privileged => {
                (ServedBy::Cache, "the mount is without privilege or passthrough".to_owned())
            }
            Kind::File if self.opened_so(&st, id) == Some(false) => (ServedBy::Daemon, so()),
            Kind::File if st.served_by_kernel(id) => (ServedBy::Kernel, so()),
            Kind::File => match st.sole_pool(inode) {
                Ok(pool) => {
                    let counted = match st.is_bound(id, pool) {
                        true => COUNTED,
                        false if st.has_spilled(id, pool) => SPILLED,
                        false => "",
                    };
                    (ServedBy::Kernel, format!("all of it is one object in {}{counted}", st.pool_name(pool)))
                }
                Err(why @ (IN_HUGE_PAGES | ON_DAX | HAS_LOST | NEAR_THE_END)) => {
                    (ServedBy::Daemon, format!("it {why}"))
                }
                Err(why) => (ServedBy::Daemon, why.to_owned()),
            },
            Kind::Dir => {
                let placement = st.ns.placement(id);
                let chosen = st.pool_of_empty(id, &placement, &|pool| st.room(pool));
                match (chosen, st.placed_apart(&placement)) {
                    (Some(pool), _) => {
                        (ServedBy::Kernel, format!("a new file here is one object in {}", st.pool_name(pool)))
                    }
                    (None, Some(why)) => (ServedBy::Daemon, format!("a new file here {why}")),
                    (None, None) if st.outgrows_dram(id, &placement) => {
                        (ServedBy::Daemon, format!("a new file here {NEAR_THE_END}"))
                    }
                    (None, None) => (
                        ServedBy::Daemon,
                        "the placement here names no single pool that takes new pages".to_owned(),
                    ),
                }
            }
            _ => return Err(Error::invalid(format!("{}: it has no bytes", st.path(id)))),
        };
        Ok(Served { by, why })
    }
}

/// Makes the object of a file without pages. One that was left over goes, if nobody has it.
fn make_anew(backing: &dyn Backing, file: FileId, len: u64, path: &str) -> Result<OwnedFd> {
    match backing.create(file, len) {
        Err(e) if e.kind == ErrorKind::Exists => {}
        other => return other,
    }
    let Some(_lease) = backing.sole_holder(file)? else {
        return Err(Error::busy(format!("{path}: memory it gave up is still held: try again later")));
    };
    backing.remove(file)?;
    backing.create(file, len)
}

impl Mounted {
    /// Releases what the mount has open; nothing is noted for it any more.
    pub fn close(&self) {
        self.mount.close();
        let mut st = self.inner.lock();
        let before = st.mounts.len();
        st.mounts.retain(|m| m.id != self.mount.id);
        st.forget_all_gone();
        if st.mounts.len() == before {
            return;
        }
        let mine: Vec<FsHandle> =
            st.handles.iter().filter(|(_, h)| h.mount == self.mount.id).map(|(handle, _)| *handle).collect();
        let files: BTreeSet<FileId> = mine.iter().filter_map(|h| st.handles.get(h)).map(|h| h.file).collect();
        for handle in mine {
            self.inner.release_handle(&mut st, handle);
        }
        // Its connection may have died while programs map files through it: they show under its device still.
        match self.mount.device.load(Ordering::Relaxed) {
            0 => {
                for file in files {
                    if let Some(used) = st.live.get_mut(&file).and_then(|live| live.mount.as_mut()) {
                        used.inherited |= used.lingering;
                    }
                }
            }
            device => {
                st.closed_devices.insert(device);
            }
        }
    }
}

impl Inner {
    /// Gives an inode other attributes. Of one that is gone there is nothing to journal.
    pub fn put(&self, st: &mut State, new: Inode) -> Result<()> {
        match st.gone.get_mut(&new.id) {
            Some(kept) => *kept = new,
            None => self.commit(st, &[Change::Put(Box::new(new))])?,
        }
        Ok(())
    }

    fn release_handle(&self, st: &mut State, handle: FsHandle) {
        let Some(MountHandle { file, mount, .. }) = st.handles.remove(&handle) else { return };
        let used = st.live.get_mut(&file).and_then(|live| live.mount.as_mut());
        if used.is_some_and(|used| used.take(mount)) {
            let time = |st: &State| st.ns.get(file).map(|inode| inode.mtime_ns);
            let before = time(st);
            // Whether it is over, only a lease can tell.
            if let Err(e) = self.settle(st, file) {
                tracing::warn!("{}: what programs wrote to it: {e}", st.path(file));
            }
            if time(st) != before {
                // Of stores through a mapping the kernel doesn't know that they changed the file.
                st.mounts.iter().filter(|m| m.id == mount).for_each(|m| m.note_own(file));
            }
        }
        self.flush_time(st, file);
        if let Some(live) = st.live.get_mut(&file) {
            live.mount = live.mount.take().filter(|used| used.in_use());
        }
        self.reap(st, file);
        self.changed.notify_all();
    }

    /// Journals when the daemon wrote to the file last.
    pub fn flush_time(&self, st: &mut State, file: FileId) {
        let used = st.live.get_mut(&file).and_then(|live| live.mount.as_mut());
        let Some(ns) = used.and_then(|used| used.wrote_ns.take()) else { return };
        let Some(inode) = st.ns.get(file) else { return };
        let new = Inode { mtime_ns: ns, ctime_ns: ns.max(inode.ctime_ns), ..inode.clone() };
        if let Err(e) = self.commit(st, &[Change::Put(Box::new(new))]) {
            tracing::warn!("time of #{file}: {e}");
        }
    }
}

impl State {
    /// Keeps what stat(2) says of an inode that is about to be dropped, if the kernel of a mount knows it: programs may have it as a directory they are
    /// in, as a pipe, or by an `O_PATH` descriptor.
    pub fn keep_known(&mut self, id: FileId, now: i64) {
        if !self.mounts.iter().any(|mount| mount.knows(id)) {
            return;
        }
        if let Some(inode) = self.ns.get(id) {
            let kept = Inode { nlink: 0, ahead: None, extents: Vec::new(), ctime_ns: now, ..inode.clone() };
            self.gone.insert(id, kept);
        }
    }

    /// Forgets a kept inode, if no kernel knows it any more.
    fn forget_gone(&mut self, id: FileId) {
        if self.gone.contains_key(&id) && !self.mounts.iter().any(|mount| mount.knows(id)) {
            self.gone.remove(&id);
        }
    }

    /// The same of all.
    fn forget_all_gone(&mut self) {
        self.gone.retain(|id, _| self.mounts.iter().any(|mount| mount.knows(*id)));
    }

    /// An inode, also one that is gone and that the kernel of a mount still knows.
    pub fn inode(&self, id: FileId) -> Option<&Inode> {
        self.ns.get(id).or_else(|| self.gone.get(&id))
    }

    /// The pool in which a file grows that is all in one object, or will be if it is empty; else why it isn't.
    fn sole_pool(&self, inode: &Inode) -> std::result::Result<PoolId, &'static str> {
        if let Some(pool) = inode.ahead {
            return Ok(pool);
        }
        if !inode.lost().is_empty() {
            return Err(HAS_LOST);
        }
        if let Some(why) = inode.extents.iter().find_map(|e| self.not_passed(e.pool)) {
            return Err(why);
        }
        let placement = self.placement(inode.id);
        let room = |pool| self.room_for(inode.id, pool);
        let Some(last) = inode.extents.last().map(|e| e.pool) else {
            if let Some(why) = self.placed_apart(&placement) {
                return Err(why);
            }
            let placed = self.pool_of_empty(inode.id, &placement, &room);
            return placed.ok_or(match self.outgrows_dram(inode.id, &placement) {
                true => NEAR_THE_END,
                false => "it is empty, and its placement names no single pool that takes new pages",
            });
        };
        if self.media.of_extents(&inode.extents).len() > 1 {
            return Err("it is spread over several objects");
        }
        if last == DRAM && self.may_spill(inode.id) && self.would_spill(&placement) {
            return Err("what it grows by has no room in dram, and goes to a device that helps out");
        }
        let in_one = inode.extents.iter().all(|e| e.pool == last);
        let whole = in_one && inode.is_whole();
        if !whole && !inode.spilled().is_empty() {
            return Err(SPILLED_IN_PART);
        }
        if in_one {
            return Ok(last);
        }
        self.pool_of_first(&placement, &room)
            .filter(|pool| self.media.same(*pool, last) && (*pool != DRAM || !self.would_spill(&placement)))
            .ok_or("its placement spreads it over several pools")
    }

    /// Why no mount's kernel serves files from the objects of a pool, if none does.
    fn not_passed(&self, pool: PoolId) -> Option<&'static str> {
        let record = &self.pool(pool).record;
        let why = if record.dax.is_some() { ON_DAX } else { IN_HUGE_PAGES };
        (!record.passes_through()).then_some(why)
    }

    /// Why the first pages of a file of such a placement are where no mount's kernel serves it from, as far as that names one pool.
    fn placed_apart(&self, placement: &Placement) -> Option<&'static str> {
        match placement {
            Placement::On { pool, .. } => self.not_passed(*pool),
            Placement::Prefer(pool) => self
                .not_passed(*pool)
                .filter(|_| self.pool_of_first(placement, &|pool| self.room(pool)).is_none()),
            Placement::Interleave(pools) => match pools[..] {
                [pool] => self.not_passed(pool),
                _ => None,
            },
        }
    }

    /// Where the object of a file without pages is to be, or of a new one in a directory, of such a placement, to which pools have so much room.
    fn pool_of_empty(
        &self,
        id: FileId,
        placement: &Placement,
        room: &dyn Fn(PoolId) -> Room,
    ) -> Option<PoolId> {
        let chosen = self.pool_of_first(placement, room);
        // The kernel would find no room there, or soon; the daemon finds it on a device that helps out.
        let spills = || self.would_spill(placement) || self.outgrows_dram(id, placement);
        chosen.filter(|pool| *pool != DRAM || !spills())
    }

    /// Whether such a file may find no room in `dram` soon, and on a device that helps out.
    fn outgrows_dram(&self, id: FileId, placement: &Placement) -> bool {
        self.may_spill(id) && self.would_spill_soon(placement)
    }

    /// Where the first pages of a file of such a placement are, if a mount's kernel serves files from there.
    fn pool_of_first(&self, placement: &Placement, room: &dyn Fn(PoolId) -> Room) -> Option<PoolId> {
        let takes = |pool: &PoolId| self.pool(*pool).record.state == PoolState::Online;
        let chosen = match placement {
            Placement::On { pool, .. } => Some(*pool).filter(takes),
            Placement::Prefer(pool) => {
                let has_room = takes(pool) && room(*pool).free.0 > 0;
                Some(if has_room { *pool } else { DRAM })
            }
            Placement::Interleave(pools) => match pools[..] {
                [pool] => Some(pool).filter(takes),
                _ => None,
            },
        };
        chosen.filter(|pool| self.pool(*pool).record.passes_through())
    }

    /// Whether who writes to a file that the kernel serves from `pool` asks the daemon: where a quota binds it, or some of it has spilled there.
    pub(super) fn is_counted(&self, file: FileId, pool: PoolId) -> bool {
        self.is_bound(file, pool) || self.has_spilled(file, pool)
    }

    /// Whether the kernel serves the file, or somebody maps it since it did.
    pub fn served_by_kernel(&self, file: FileId) -> bool {
        let used = self.live.get(&file).and_then(|l| l.mount.as_ref());
        used.is_some_and(|used| used.lingering || used.by_kernel() > 0)
    }

    /// Who opened a file that the kernel serves, or that somebody maps since it did: for people, where `/proc` shows nobody. It may have ended since, and
    /// its number be another's, so it is in the words only: nobody is to be killed for it.
    pub fn openers(&self, file: FileId) -> Vec<Holder> {
        if !self.served_by_kernel(file) {
            return Vec::new();
        }
        let pids: BTreeSet<u32> = self.handles.values().filter(|h| h.file == file).map(|h| h.pid).collect();
        let why = "has it open through a mount";
        let mut holders: Vec<Holder> = pids
            .into_iter()
            .map(|pid| Holder {
                pid: None,
                command: format!("who opened it as process {pid}"),
                why: why.to_owned(),
            })
            .collect();
        if holders.is_empty() {
            let why = "maps it through a mount".to_owned();
            holders.push(Holder { pid: None, command: "a process".to_owned(), why });
        }
        holders
    }

    /// Device numbers of mounts that nobody serves any more, if one of them may be what holds the file: the kernel has served it, and nobody has it open. An
    /// object that was registered with such a mount stays so as long as that is there.
    pub fn dead_mounts(&self, file: FileId) -> Vec<u64> {
        let lingers = self.live.get(&file).and_then(|l| l.mount.as_ref());
        match lingers.is_some_and(|used| used.lingering && used.by_kernel() == 0) {
            true => self.closed_devices.iter().copied().collect(),
            false => Vec::new(),
        }
    }

    /// Whether all mounts have told their device number.
    pub fn mounts_are_known(&self) -> bool {
        self.mounts.iter().all(|m| m.device.load(Ordering::Relaxed) != 0)
    }

    /// Their device numbers.
    pub fn mount_devices(&self) -> Vec<u64> {
        self.mounts.iter().map(|m| m.device.load(Ordering::Relaxed)).collect()
    }

    /// How a file's inode shows in `/proc` where it is open or mapped through a mount, one that is closed included: device and inode number.
    pub fn mount_identities(&self, file: FileId) -> impl Iterator<Item = (u64, u64)> + '_ {
        let devices = self.mounts.iter().map(|m| m.device.load(Ordering::Relaxed));
        let devices = devices.filter(|dev| *dev != 0).chain(self.closed_devices.iter().copied());
        devices.map(move |dev| (dev, file.0))
    }

    /// Those of [`Self::mount_identities`] whose mappings may be of the file's object: on mounts without privilege they never are.
    pub fn kernel_identities(&self, file: FileId) -> impl Iterator<Item = (u64, u64)> + '_ {
        let own =
            |dev: u64| self.mounts.iter().any(|m| !m.privileged && m.device.load(Ordering::Relaxed) == dev);
        self.mount_identities(file).filter(move |(dev, _)| !own(*dev))
    }
}
