//! A reserve of a node's memory in small or transparent huge pages: what is free of the node is *populated* in one more file, the holder, on a tmpfs of its
//! own, also what the pool has no frames for. Nothing else fits on the node then: what the kernel keeps free of every node it gives to nobody.
//!
//! Files get theirs from the holder: so many bytes are punched out of it, and at once allocated in the object, under a lock that whoever fills the holder
//! takes too. In between a stranger may be quicker, where the other nodes are full as well; then more is taken from the holder, and it is so much smaller.
//! What files give back is free for a moment, until the holder is filled again.

use super::gather::Home;
use super::{Lender, os_error};
use crate::budget::Budget;
use crate::store::lost::WithMemory;
use codax_core::{Error, ErrorKind, HUGE_SIZE, PAGE_SIZE, PageRange, Result};
use codax_os::numa::{self, Located, Watermarks};
use codax_os::object::{self, ObjectDir};
use codax_os::{mounts, probe};
use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The holder's name.
const HOLDER: &str = "holder";

/// Bytes that are populated while others wait.
const STEP: u64 = 4 * HUGE_SIZE;

/// So much memory must be left on the machine for the last of a node's to be populated: where that is taken from elsewhere for a moment and moved.
const SPARE: u64 = 64 << 20;

/// How much of a node a reserve may have that isn't to have all of it: `dram` is there, too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// Bytes that it may have.
    pub most: u64,
    /// Bytes of the machine's memory that it leaves.
    pub leave: u64,
}

/// The memory of a node that no file of a pool has.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    node: u32,
    capacity: u64,
    /// The node is `dram`'s as well.
    with_dram: bool,
    file: OwnedFd,
    /// Locked while memory is on its way.
    passing: Mutex<()>,
    state: Mutex<Wake>,
    woken: Condvar,
    budget: Option<&'static Budget>,
}

#[derive(Debug, Default)]
struct Wake {
    due: bool,
    closed: bool,
    populated: bool,
    /// How much the holder may have, while some of the node is lent: so much less than it had, and what files have taken from it or given back since.
    ceiling: Option<u64>,
}

/// A lock under which memory passes from the holder to files.
#[derive(Debug)]
pub(super) struct Passing<'a>(#[allow(dead_code)] MutexGuard<'a, ()>);

impl Reserve {
    /// The holder on the tmpfs at `path`, which is mounted if it isn't yet, for up to `capacity` bytes, with huge pages as `huge` says. The node may be `dram`'s,
    /// too.
    pub(crate) fn open(
        path: &Path,
        (node, with_dram): (u32, bool),
        capacity: u64,
        huge: &str,
    ) -> Result<Self> {
        let failed = |what: &str, e: &io::Error| os_error(what, &path.display(), e);
        if !mounts::is_mount_point(path).map_err(|e| failed("look at", &e))? {
            // Of no node by itself: that may be gone for a while.
            mounts::mount_tmpfs(path, capacity.next_multiple_of(HUGE_SIZE), huge, true, &[])
                .map_err(|e| failed("mount a tmpfs on", &e))?;
        }
        let dir = ObjectDir::open(path).map_err(|e| failed("open", &e))?;
        let file = match dir.open_object(HOLDER, true) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => dir.create(HOLDER, 0),
            other => other,
        };
        let file = file.map_err(|e| failed("make the holder in", &e))?;
        // Who was killed while he populated it has left it longer than it is.
        let stat = object::stat(&file).map_err(|e| failed("look at the holder in", &e))?;
        object::set_len(&file, stat.len.min(stat.allocated_bytes))
            .map_err(|e| failed("size the holder in", &e))?;
        let budget = Budget::of_this_process();
        let (passing, state, woken) = (Mutex::default(), Mutex::default(), Condvar::new());
        let path = path.to_owned();
        Ok(Self { path, node, capacity, with_dram, file, passing, state, woken, budget })
    }

    fn failed(&self, what: &str, e: &io::Error) -> Error {
        os_error(what, &self.path.display(), e)
    }

    fn state(&self) -> MutexGuard<'_, Wake> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory may be free now, or the pool has other needs.
    pub(crate) fn wake(&self) {
        self.state().due = true;
        self.woken.notify_all();
    }

    /// So many bytes of files have been given back to the node: they are for the holder.
    pub(crate) fn returned(&self, bytes: u64) {
        let mut state = self.state();
        state.ceiling = state.ceiling.map(|ceiling| ceiling + bytes);
        state.due = true;
        self.woken.notify_all();
    }

    /// Waits until somebody wakes it, or for so long; false if it is closed.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        let waited = self.woken.wait_timeout_while(self.state(), time, |state| !state.due && !state.closed);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.due = false;
        !state.closed
    }

    /// Gives everything back to the node, and takes no more.
    pub(crate) fn close(&self) -> Result<()> {
        self.state().closed = true;
        self.woken.notify_all();
        let _passing = self.lock();
        self.shorten(0)
    }

    /// Whether the node is `dram`'s as well: then the reserve is to have a [`Share`] of it only.
    pub(crate) fn is_with_dram(&self) -> bool {
        self.with_dram
    }

    /// Bytes in the holder: it is as long as that.
    pub(crate) fn held(&self) -> Result<u64> {
        Ok(object::stat(&self.file).map_err(|e| self.failed("look at the holder in", &e))?.len)
    }

    fn shorten(&self, len: u64) -> Result<()> {
        object::set_len(&self.file, len).map_err(|e| self.failed("give back what is held in", &e))
    }

    /// Device number of its filesystem.
    pub(crate) fn device(&self) -> Result<u64> {
        Ok(object::stat(&self.file).map_err(|e| self.failed("look at the holder in", &e))?.dev)
    }

    /// Nobody fills the holder, or takes from it, as long as this is there.
    pub(super) fn lock(&self) -> Passing<'_> {
        Passing(self.passing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets so many bytes go, or as many as there are; returns how many.
    pub(super) fn take(&self, _passing: &Passing<'_>, bytes: u64) -> Result<u64> {
        let held = self.held()?;
        let bytes = bytes.next_multiple_of(PAGE_SIZE).min(held);
        if bytes > 0 {
            self.shorten(held - bytes)?;
            let mut state = self.state();
            state.ceiling = state.ceiling.map(|ceiling| ceiling.saturating_sub(bytes));
        }
        Ok(bytes)
    }

    /// Populates the holder until the node has no more, or it has its share; returns the bytes that it has then.
    pub(crate) fn fill(&self, share: Option<Share>) -> Result<u64> {
        if let Some(share) = share {
            let _passing = self.lock();
            if self.held()? > share.most {
                self.shorten(share.most)?;
            }
        }
        let mut most = STEP;
        while most >= PAGE_SIZE {
            // What the node hasn't got in large pieces it may have in small ones.
            if !self.fill_some(most, share)? {
                most /= 8;
            }
        }
        self.held()
    }

    /// It has had all that there was for it.
    pub(crate) fn was_populated(&self) {
        self.state().populated = true;
    }

    /// As [`Reserve::fill`] without a share, with what processors keep of the node, also of what was just given back: whoever finds no other memory would get that.
    pub(crate) fn fill_whole(&self) -> Result<u64> {
        let mut held = self.fill(None)?;
        let more = || match numa::drain_processors(self.node) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map_err(|e| self.failed("have processors give back pages for the holder in", &e)),
        };
        while more()? {
            let before = mem::replace(&mut held, self.fill(None)?);
            if held <= before {
                break;
            }
        }
        Ok(held)
    }

    /// Populates some more, so much at most; whether all of it could be had.
    fn fill_some(&self, most: u64, share: Option<Share>) -> Result<bool> {
        let _passing = self.lock();
        let (closed, ceiling) = {
            let state = self.state();
            (state.closed, state.ceiling.unwrap_or(u64::MAX))
        };
        if closed {
            return Ok(false);
        }
        if WithMemory::now().lost(&[self.node]).is_some() {
            // The kernel has brought what is held to other nodes: there it is in the way.
            return self.shorten(0).map(|()| false);
        }
        let held = self.held()?;
        let marks = numa::watermarks(self.node).map_err(|e| self.failed("look at the node of", &e))?;
        let most_held = share.map_or(self.capacity, |share| share.most.min(self.capacity)).min(ceiling);
        let room = most_held.saturating_sub(held);
        let step = next_step(marks, held, (room.min(most), share), probe::memory_available().unwrap_or(0));
        if step == 0 {
            return Ok(false);
        }
        let give = || self.give(held, step);
        let pages = PageRange::of_bytes(held, step);
        let given = match self.budget {
            Some(budget) => budget.guard(self.file.as_fd(), pages, give),
            None => give(),
        };
        // A limit of the daemon's memory is a limit of this as well.
        given.or_else(|e| if e.kind == ErrorKind::NoSpace { Ok(false) } else { Err(e) })
    }

    /// Gives memory of the node to bytes of the holder; whether to all of them. What comes from elsewhere, and can't be brought, is given back.
    fn give(&self, at: u64, len: u64) -> Result<bool> {
        let failed = |e: io::Error| self.failed("populate the holder in", &e);
        numa::prefer(&self.file, at, len, &[self.node]).map_err(failed)?;
        // No longer than that: tmpfs gives a huge page only where the file has all of it.
        object::set_len(&self.file, at + len).map_err(failed)?;
        match object::allocate(&self.file, at, len) {
            Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::OutOfMemory) => {
                return self.shorten(at).map(|()| false);
            }
            other => other.map_err(failed)?,
        }
        let home = Home { path: &self.path, nodes: &[self.node] };
        let located = Located::new(&self.file, at, len).map_err(failed)?;
        let strays = home.strays_in(&located).and_then(|strays| home.gather(&located, strays));
        // Should that have failed, nothing is known of any.
        let first = strays.as_ref().map_or(Some(0), |strays| strays.iter().min().copied());
        drop(located);
        if let Some(first) = first {
            self.shorten(at + first as u64 * PAGE_SIZE)?;
        }
        Ok(strays?.is_empty())
    }
}

impl Lender for Reserve {
    fn unit(&self) -> u64 {
        HUGE_SIZE
    }

    fn held(&self) -> Result<u64> {
        Self::held(self)
    }

    fn is_populated(&self) -> bool {
        self.state().populated
    }

    fn lend(&self, bytes: u64) -> Result<u64> {
        let _passing = self.lock();
        let held = self.held()?;
        let bytes = bytes.min(held);
        {
            let mut state = self.state();
            state.ceiling = Some(state.ceiling.unwrap_or(held).saturating_sub(bytes));
        }
        self.shorten(held - bytes)?;
        Ok(bytes)
    }

    fn take_back(&self, bytes: u64) -> Result<u64> {
        {
            let mut state = self.state();
            state.ceiling = state.ceiling.map(|ceiling| ceiling + bytes);
        }
        let filled = self.fill(None);
        let _passing = self.lock();
        let held = self.held()?;
        let mut state = self.state();
        // Where others have what it lacked before, that comes first.
        let lacks = state.ceiling.map_or(0, |ceiling| ceiling.saturating_sub(held)).min(bytes);
        state.ceiling = state.ceiling.map(|ceiling| ceiling - lacks);
        filled.map(|_| bytes - lacks)
    }

    fn go_on(&self, unused: u64) -> Result<()> {
        // What it had beyond the pool's frames it had before, too.
        self.state().ceiling = Some(self.held()?.max(unused));
        Ok(())
    }

    fn is_whole(&self) {
        self.state().ceiling = None;
        self.wake();
    }
}

/// How much is populated next. As long as the node gives it freely, a step, as whole huge pages where they can be had; then the rest of what others could get
/// of it: that may come from elsewhere for a moment and is moved, so it must leave nobody hard up.
fn next_step(marks: Watermarks, held: u64, (room, share): (u64, Option<Share>), available: u64) -> u64 {
    let spared = share.map_or(u64::MAX, |share| available.saturating_sub(share.leave).saturating_sub(SPARE));
    let step = (STEP - held % HUGE_SIZE).min(room).min(spared);
    let rest = marks.free.saturating_sub(marks.min).min(step);
    let step = match marks.free >= marks.low.saturating_add(step) {
        true => step,
        false if available >= rest.saturating_add(SPARE) => rest,
        false => 0,
    };
    step / PAGE_SIZE * PAGE_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_a_node_is_taken_only_where_nobody_is_hard_up() {
        let marks = |free| Watermarks { free, min: 1 << 20, low: 2 << 20, kept: 0 };
        let all = (u64::MAX, None);
        assert_eq!(next_step(marks(16 << 20), 0, all, 0), STEP);
        assert_eq!(
            next_step(marks(16 << 20), PAGE_SIZE, all, 0),
            STEP - PAGE_SIZE,
            "up to the next huge page"
        );
        assert_eq!(next_step(marks(16 << 20), 0, (5000, None), 0), PAGE_SIZE);
        assert_eq!(next_step(marks(5 << 20), 0, all, 0), 0);
        assert_eq!(next_step(marks(5 << 20), 0, all, 1 << 30), 4 << 20);
        assert_eq!(next_step(marks(1 << 20), 0, all, 1 << 30), 0, "there is nothing left to take");
        let share = (u64::MAX, Some(Share { most: 0, leave: 1 << 30 }));
        let available = (1 << 30) + SPARE;
        assert_eq!(next_step(marks(16 << 20), 0, share, available), 0, "the rest is dram's");
        assert_eq!(next_step(marks(16 << 20), 0, share, available + 5000), PAGE_SIZE);
        assert_eq!(next_step(marks(16 << 20), 0, share, u64::MAX), STEP);
    }

    /// A reserve on a tmpfs of its own, which goes with it.
    struct Mounted {
        dir: tempfile::TempDir,
        reserve: Reserve,
    }

    impl Mounted {
        fn new(node: u32) -> Option<Self> {
            let dir = mounts::can_mount().then(|| tempfile::tempdir().expect("room"))?;
            let reserve = open(dir.path(), node);
            Some(Self { dir, reserve })
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            mounts::umount(self.dir.path()).expect("ours");
        }
    }

    fn open(dir: &Path, node: u32) -> Reserve {
        Reserve::open(dir, (node, false), 4 * HUGE_SIZE, "never").expect("mounted")
    }

    #[test]
    fn what_is_taken_is_the_last_of_the_holder() {
        let Some(Mounted { dir, reserve }) = &Mounted::new(0) else { return };
        let fill = |share| reserve.fill(share);
        // A kernel without NUMA has no such memory.
        if let Ok(held) = fill(None) {
            assert_eq!(held, 4 * HUGE_SIZE);
            let passing = reserve.lock();
            assert_eq!(reserve.take(&passing, HUGE_SIZE + 5), Ok(HUGE_SIZE + PAGE_SIZE));
            assert_eq!(reserve.held(), Ok(3 * HUGE_SIZE - PAGE_SIZE));
            assert_eq!(reserve.take(&passing, 4 * HUGE_SIZE), Ok(3 * HUGE_SIZE - PAGE_SIZE));
            drop(passing);
            let share = |most| Some(Share { most, leave: 0 });
            assert_eq!(fill(share(3 * HUGE_SIZE)), Ok(3 * HUGE_SIZE));
            assert_eq!(fill(None), Ok(4 * HUGE_SIZE));
            assert_eq!(fill(share(HUGE_SIZE)), Ok(HUGE_SIZE), "what is too much goes");
            assert_eq!(fill(None), Ok(4 * HUGE_SIZE));
            // What is lent stays free, whatever files take and give back meanwhile.
            assert_eq!(reserve.lend(2 * HUGE_SIZE), Ok(2 * HUGE_SIZE));
            assert_eq!(fill(None), Ok(2 * HUGE_SIZE));
            assert_eq!(reserve.take(&reserve.lock(), HUGE_SIZE), Ok(HUGE_SIZE));
            assert_eq!(fill(None), Ok(HUGE_SIZE));
            assert_eq!(reserve.take_back(HUGE_SIZE), Ok(HUGE_SIZE));
            assert_eq!(reserve.held(), Ok(2 * HUGE_SIZE));
            reserve.returned(HUGE_SIZE);
            assert_eq!(fill(None), Ok(3 * HUGE_SIZE));
            assert_eq!(reserve.take_back(HUGE_SIZE), Ok(HUGE_SIZE));
            reserve.is_whole();
            assert_eq!(fill(None), Ok(4 * HUGE_SIZE));
            assert_eq!(reserve.lend(9 * HUGE_SIZE), Ok(4 * HUGE_SIZE), "no more than there is");
            reserve.is_whole();
            assert_eq!(fill(None), Ok(4 * HUGE_SIZE));
            // What was there stays for whoever opens it next.
            assert_eq!(open(dir.path(), 0).held(), Ok(4 * HUGE_SIZE));
            reserve.close().expect("given back");
            assert_eq!((fill(None), reserve.wait(Duration::from_secs(1))), (Ok(0), false));
        }
    }

    #[test]
    fn a_node_without_memory_gets_back_what_was_held_of_it() {
        let nowhere = 4000;
        let Some(Mounted { reserve, .. }) = &Mounted::new(nowhere) else { return };
        if WithMemory::now().lost(&[nowhere]).is_none() {
            return;
        }
        // As the kernel leaves it: elsewhere.
        object::set_len(&reserve.file, HUGE_SIZE).expect("ours");
        object::allocate(&reserve.file, 0, HUGE_SIZE).expect("room");
        assert_eq!((reserve.held(), reserve.fill(None)), (Ok(HUGE_SIZE), Ok(0)));
        assert_eq!(object::stat(&reserve.file).expect("ours").allocated_bytes, 0);
        assert_eq!(reserve.take(&reserve.lock(), PAGE_SIZE), Ok(0));
    }
}
