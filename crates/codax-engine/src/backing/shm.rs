//! Objects as files of a tmpfs directory.

use super::gather::Home;
use super::reserve::Passing;
use super::{Backing, ObjectInfo, Reserve, object_name, object_of, os_error};
use crate::budget::Budget;
use crate::store::lost::WithMemory;
use codax_core::{Error, FileId, HUGE_PAGES, HUGE_SIZE, PAGE_SIZE, PageCount, PageRange, Result};
use codax_os::copy::{LockedMap, SourceMap};
use codax_os::mounts;
use codax_os::numa::{self, Located};
use codax_os::object::{self, ObjectDir};
use codax_os::topology;
use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// How far a file may grow before its new memory comes from anywhere.
const GROWTH: u64 = 1 << 44;

/// Pages that are allocated from a reserve while others wait.
const AT_ONCE: u64 = 16 << 10;

/// Objects as files of a tmpfs directory.
#[derive(Debug)]
pub struct Shm {
    dir: ObjectDir,
    path: PathBuf,
    /// Mappings that keep objects locked in memory; `None` where the tmpfs itself is not swapped.
    locked: Option<Mutex<HashMap<FileId, Vec<LockedMap>>>>,
    nodes: Vec<u32>,
    shared: bool,
    /// Where files get their memory from, if what they don't have is populated.
    reserve: Option<Arc<Reserve>>,
    /// What a limit of the daemon's memory leaves; `None` where it has none.
    budget: Option<&'static Budget>,
}

/// How the objects of a [`Shm`] are to be.
#[derive(Clone, Debug, Default)]
pub struct ShmOptions {
    /// They are locked in memory: for a tmpfs that may be swapped.
    pub lock_memory: bool,
    /// The NUMA nodes on which pages are to lie; none: any.
    pub nodes: Vec<u32>,
    /// Other pools have their pages in the same objects: where new ones come from is said for each range. Otherwise the tmpfs prefers the nodes.
    pub shared: bool,
    /// Where they get their memory from, if what they don't have is populated.
    pub reserve: Option<Arc<Reserve>>,
}

impl Shm {
    /// The objects in `path`.
    pub fn new(path: &Path, options: ShmOptions) -> Result<Self> {
        let dir = ObjectDir::open(path).map_err(|e| os_error("open", &path.display(), &e))?;
        let ShmOptions { lock_memory, nodes, shared, reserve } = options;
        let locked = lock_memory.then(Mutex::default);
        let budget = Budget::of_this_process();
        Ok(Self { dir, path: path.to_owned(), locked, nodes, shared, reserve, budget })
    }

    fn home(&self) -> Home<'_> {
        Home { path: &self.path, nodes: &self.nodes }
    }

    /// The reserve, while nobody else takes from it.
    fn passing(&self) -> Option<(&Reserve, Passing<'_>)> {
        self.reserve.as_deref().map(|reserve| (reserve, reserve.lock()))
    }

    /// Has the reserve, if there is one, let go of what these pages lack. Before a limit is looked at: what the reserve has counts there, too.
    fn take_for(
        &self,
        passing: Option<&(&Reserve, Passing<'_>)>,
        object: BorrowedFd<'_>,
        pages: PageRange,
    ) -> Result<()> {
        let Some((reserve, passing)) = passing else { return Ok(()) };
        let lacks = PageCount(pages.count.0 - self.resident(object, pages)?.0.min(pages.count.0));
        reserve.take(passing, lacks.bytes())?;
        // Asked again: processors keep some of what was given back charged for a while, so the limit has less room than the reserve let go of.
        loop {
            let more = self.budget.map_or(0, |budget| budget.missing_for(object, pages));
            if more == 0 || reserve.take(passing, more)? == 0 {
                return Ok(());
            }
        }
    }

    /// What the reserve has let go of was not used, or not all of it.
    fn let_refill(&self) {
        if let Some(reserve) = &self.reserve {
            reserve.wake();
        }
    }

    /// Has the kernel bring pages to where the pool is, and the reserve make room for them as far as there is none; returns those that are elsewhere afterwards.
    fn settle(
        &self,
        passing: Option<&(&Reserve, Passing<'_>)>,
        located: &Located,
        mut strays: Vec<usize>,
    ) -> Result<Vec<usize>> {
        // Asked before they are moved: what becomes free meanwhile they may not have found yet.
        let room_for = |pages: usize| {
            let bytes = PageCount(pages as u64).bytes();
            numa::watermarks(self.nodes[0]).is_ok_and(|marks| marks.free >= marks.low + bytes)
        };
        loop {
            let before = strays.len();
            let room = passing.is_some() && room_for(before);
            strays = self.home().gather(located, strays)?;
            let Some((reserve, passing)) = passing.filter(|_| !strays.is_empty()) else { return Ok(strays) };
            // With room for all of them they stayed: somebody keeps them.
            if room && strays.len() == before {
                return Ok(strays);
            }
            if reserve.take(passing, PageCount(strays.len() as u64).bytes())? == 0 {
                return Ok(strays);
            }
        }
    }

    /// Why so many pages can't be brought to the nodes.
    fn without_room(&self, pages: PageCount) -> Error {
        if let Some(why) = WithMemory::now().lost(&self.nodes) {
            return Error::device_state(why);
        }
        let nodes = self.nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        Error::no_space(format!(
            "NUMA node {nodes} is full: it has no room for {} bytes that its pool has frames for, since others use its memory (codax device \
             discover shows how much is free)",
            pages.bytes()
        ))
    }

    /// Gives memory to pages, from where the pool is if there is some.
    fn give(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        self.prefer(object, pages)?;
        object::allocate(object, pages.offset(), pages.bytes())
            .map_err(|e| os_error("allocate in", &self.path.display(), &e))
    }

    /// Gives memory to pages, and sees to it that it is where the pool is.
    fn give_here(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        let passing = self.passing();
        self.take_for(passing.as_ref(), object, pages)?;
        match self.budget {
            Some(budget) => budget.spend(object, pages, &mut |part| self.give(object, part))?,
            None => self.give(object, pages)?,
        }
        self.confirm_with(passing.as_ref(), object, pages)
    }

    fn confirm_with(
        &self,
        passing: Option<&(&Reserve, Passing<'_>)>,
        object: BorrowedFd<'_>,
        pages: PageRange,
    ) -> Result<()> {
        let Some(located) = self.located(object, pages)? else { return Ok(()) };
        let strays = match self.home().strays_in(&located)? {
            strays if strays.is_empty() => strays,
            strays => self.settle(passing, &located, strays)?,
        };
        if strays.is_empty() {
            return Ok(());
        }
        Err(self.without_room(PageCount(strays.len() as u64)))
    }

    /// Does something that may give memory to bytes of an object; `NoSpace` where a limit of the daemon's memory leaves too little.
    fn within_budget<T>(
        &self,
        object: BorrowedFd<'_>,
        (at, len): (u64, u64),
        act: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        match self.budget {
            Some(budget) => budget.guard(object, PageRange::of_bytes(at, len), act),
            None => act(),
        }
    }

    /// The pages, mapped, as far as they are before the object's end: the rest nobody can map, nor ask for.
    fn located(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<Option<Located>> {
        if self.nodes.is_empty() {
            return Ok(None);
        }
        let failed = |what: &str, e: &io::Error| os_error(what, &self.path.display(), e);
        let len = object::stat(object).map_err(|e| failed("look at an object in", &e))?.len;
        let whole = PageRange::new(0, PageCount::for_bytes(len).0);
        let pages = pages.intersect(whole).filter(|pages| !pages.is_empty());
        pages
            .map(|pages| Located::new(object, pages.offset(), pages.bytes()))
            .transpose()
            .map_err(|e| failed("map an object of", &e))
    }

    fn error(&self, what: &str, file: FileId, e: &io::Error) -> Error {
        os_error(what, &format_args!("object {} in {}", object_name(file), self.path.display()), e)
    }
}

impl Backing for Shm {
    fn create(&self, file: FileId, len: u64) -> Result<OwnedFd> {
        self.dir.create(&object_name(file), len).map_err(|e| self.error("create", file, &e))
    }

    fn open(&self, file: FileId, write: bool) -> Result<OwnedFd> {
        self.dir.open_object(&object_name(file), write).map_err(|e| self.error("open", file, &e))
    }

    fn remove(&self, file: FileId) -> Result<()> {
        self.dir.remove(&object_name(file)).map_err(|e| self.error("remove", file, &e))
    }

    fn device(&self) -> Result<u64> {
        self.dir.device().map_err(|e| os_error("look at", &self.path.display(), &e))
    }

    fn list(&self) -> Result<Vec<(FileId, ObjectInfo)>> {
        let listed = self.dir.list().map_err(|e| os_error("list", &self.path.display(), &e))?;
        let mut objects = Vec::with_capacity(listed.len());
        for (name, stat) in listed {
            let Some(file) = object_of(&name) else { continue };
            let info = ObjectInfo {
                len: stat.len,
                allocated: PageCount(stat.allocated_bytes / PAGE_SIZE),
                identity: (stat.dev, stat.ino),
            };
            objects.push((file, info));
        }
        Ok(objects)
    }

    fn strays(&self) -> Result<Vec<String>> {
        let failed = |e: io::Error| os_error("list", &self.path.display(), &e);
        let mut strays = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // What is gone again by now is no stray.
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if !is_file || entry.file_name().to_str().and_then(object_of).is_none() {
                strays.push(entry.path().display().to_string());
            }
        }
        strays.sort_unstable();
        Ok(strays)
    }

    fn allocate(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        // What is there already stays if the rest can't be had.
        let (end, mut holes) = (pages.end(), Vec::new());
        if !self.nodes.is_empty() {
            let failed = |e: io::Error| os_error("look at an object in", &self.path.display(), &e);
            let data = object::data_ranges(object).map_err(failed)?;
            let mut at = pages.start.0;
            for (start, len) in data {
                let hole_end = (start / PAGE_SIZE).clamp(at, end);
                holes.push(PageRange::new(at, hole_end - at));
                at = (start + len).div_ceil(PAGE_SIZE).clamp(hole_end, end);
            }
            holes.push(PageRange::new(at, end - at));
        }
        // Others are let to the reserve in between.
        let at_once = if self.reserve.is_some() { AT_ONCE } else { pages.count.0.max(1) };
        let mut parts = (pages.start.0..end).step_by(usize::try_from(at_once).unwrap_or(usize::MAX));
        parts
            .try_for_each(|at| self.give_here(object, PageRange::new(at, at_once.min(end - at))))
            .inspect_err(|_| {
                for hole in holes.into_iter().filter(|hole| !hole.is_empty()) {
                    let _ = self.release(object, hole);
                }
                self.let_refill();
            })
    }

    fn before_write(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        self.prefer(object, pages)?;
        self.take_for(self.passing().as_ref(), object, pages)
    }

    fn is_charged(&self) -> bool {
        // What a reserve lets go of was charged before.
        self.budget.is_some() && self.reserve.is_none()
    }

    fn holder(&self) -> Option<Arc<Reserve>> {
        self.reserve.clone()
    }

    fn prefer(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        if !self.shared || self.nodes.is_empty() || pages.is_empty() {
            return Ok(());
        }
        let end = PageCount::for_bytes(GROWTH).0;
        let count = pages.count.0.min(end.saturating_sub(pages.start.0)).max(1);
        numa::prefer(object, pages.offset(), PageCount(count).bytes(), &self.nodes).map_err(|e| {
            // The kernel has no policy for nodes without memory.
            let lost = WithMemory::now().lost(&self.nodes).map(Error::device_state);
            lost.unwrap_or_else(|| {
                os_error("set the memory policy of an object in", &self.path.display(), &e)
            })
        })
    }

    fn take_over(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<Vec<PageRange>> {
        self.prefer(object, pages)?;
        let Some(located) = self.located(object, pages)? else { return Ok(Vec::new()) };
        let passing = self.passing();
        if let Some((reserve, passing)) = &passing {
            let strays = self.home().strays_in(&located)?;
            reserve.take(passing, PageCount(strays.len() as u64).bytes())?;
        }
        let strays = self.settle(passing.as_ref(), &located, (0..located.pages()).collect())?;
        let mut there = Vec::new();
        let mut at = 0;
        for end in strays.into_iter().chain([located.pages()]) {
            if end > at {
                there.push(PageRange::new(pages.start.0 + at as u64, (end - at) as u64));
            }
            at = end + 1;
        }
        Ok(there)
    }

    fn why_full(&self, pages: PageCount) -> Option<Error> {
        let nodes = topology::nodes(Path::new(topology::SYSFS));
        let here = || nodes.iter().filter(|n| self.nodes.contains(&n.node));
        let sum = |of: fn(&topology::Node) -> Option<u64>| here().filter_map(of).sum::<u64>();
        // The last of a node's memory the kernel keeps for itself.
        let populated = self.reserve.as_ref().and_then(|reserve| reserve.held().ok()).unwrap_or(0);
        if populated >= pages.bytes() || sum(|n| n.free) >= pages.bytes() + sum(|n| n.bytes) / 64 {
            return None;
        }
        Some(self.without_room(pages))
    }

    fn limit(&self, bytes: u64) -> Result<()> {
        mounts::resize_tmpfs(&self.path, bytes)
            .map_err(|e| os_error("resize the tmpfs on", &self.path.display(), &e))
    }

    fn confirm(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        self.confirm_with(self.passing().as_ref(), object, pages)
    }

    fn is_placed(&self) -> bool {
        !self.nodes.is_empty()
    }

    fn astray(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<PageCount> {
        let strays =
            self.located(object, pages)?.map_or(Ok(Vec::new()), |located| self.home().strays_in(&located))?;
        Ok(PageCount(strays.len() as u64))
    }

    fn make_ready(&self, object: BorrowedFd<'_>, pages: PageRange) {
        let bytes = (pages.offset(), pages.bytes());
        let passing = self.passing();
        let taken = self.take_for(passing.as_ref(), object, pages);
        if taken.and_then(|()| self.within_budget(object, bytes, || self.give(object, pages))).is_err() {
            return self.let_refill();
        }
        // tmpfs clears a huge page when the first part of it is written; small pages that are written whole it needn't clear.
        let first = pages.start.0.div_ceil(HUGE_PAGES);
        for block in first..pages.end().div_ceil(HUGE_PAGES) {
            let _ = object::write_all_at(object, &[0], block * HUGE_SIZE);
        }
    }

    fn release(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        object::punch(object, pages.offset(), pages.bytes())
            .map_err(|e| os_error("give back in", &self.path.display(), &e))
    }

    fn resize(&self, object: BorrowedFd<'_>, len: u64) -> Result<()> {
        object::set_len(object, len).map_err(|e| os_error("resize in", &self.path.display(), &e))
    }

    fn read(&self, object: BorrowedFd<'_>, buf: &mut [u8], at: u64) -> Result<usize> {
        object::read_at(object, buf, at).map_err(|e| os_error("read in", &self.path.display(), &e))
    }

    fn write(&self, object: BorrowedFd<'_>, bytes: &[u8], at: u64) -> Result<()> {
        self.within_budget(object, (at, bytes.len() as u64), || {
            object::write_all_at(object, bytes, at)
                .map_err(|e| os_error("write in", &self.path.display(), &e))
        })
    }

    fn append(&self, object: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize> {
        let failed = |e: io::Error| os_error("append in", &self.path.display(), &e);
        let end = if self.budget.is_some() { object::stat(object).map_err(failed)?.len } else { 0 };
        self.within_budget(object, (end, bytes.len() as u64), || {
            object::append(object, bytes).map_err(failed)
        })
    }

    fn copy(&self, from: &SourceMap, at: u64, len: u64, to: BorrowedFd<'_>) -> Result<u64> {
        self.within_budget(to, (at, len), || {
            from.copy_to(at, len, to).map_err(|e| os_error("copy into", &self.path.display(), &e))
        })
    }

    fn sole_holder(&self, file: FileId) -> Result<Option<OwnedFd>> {
        self.unlock(file);
        self.dir.open_leased(&object_name(file)).map_err(|e| self.error("lease", file, &e))
    }

    fn lock(&self, file: FileId, object: BorrowedFd<'_>, pages: &[PageRange]) -> Result<()> {
        let Some(locked) = &self.locked else { return Ok(()) };
        let maps = pages
            .iter()
            .filter(|run| !run.is_empty())
            .map(|run| LockedMap::new(object, run.offset(), run.bytes()))
            .collect::<io::Result<Vec<LockedMap>>>()
            .map_err(|e| self.error("lock in memory", file, &e))?;
        let mut locked = locked.lock().unwrap_or_else(PoisonError::into_inner);
        // What was locked before goes only now, so that nothing is without in between.
        if maps.is_empty() {
            locked.remove(&file)
        } else {
            locked.insert(file, maps)
        };
        Ok(())
    }

    fn unlock(&self, file: FileId) {
        if let Some(locked) = &self.locked {
            locked.lock().unwrap_or_else(PoisonError::into_inner).remove(&file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn pages_that_can_not_be_where_they_should_are_not_kept() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in /dev/shm");
        let page = PageRange::new(0, 1);
        let on = |nodes: &[u32]| {
            let options = ShmOptions { nodes: nodes.to_vec(), ..ShmOptions::default() };
            Shm::new(dir.path(), options).expect("there")
        };
        let object = on(&[]).create(FileId(7), 64 * PAGE_SIZE).expect("made");
        on(&[]).allocate(object.as_fd(), page).expect("room");
        if Located::new(&object, 0, PAGE_SIZE).is_ok_and(|located| located.nodes().is_err()) {
            // A kernel without NUMA.
            return;
        }
        let all: Vec<u32> = (0..64).collect();
        on(&all).allocate(object.as_fd(), PageRange::new(0, 8)).expect("anywhere");
        assert_eq!(on(&all).astray(object.as_fd(), PageRange::new(0, 8)), Ok(PageCount(0)));
        let nowhere = on(&[4000]);
        assert_eq!(nowhere.astray(object.as_fd(), PageRange::new(0, 8)), Ok(PageCount(8)));
        nowhere.allocate(object.as_fd(), PageRange::new(4, 60)).expect_err("there is no such node");
        assert_eq!(on(&[]).list().expect("listed")[0].1.allocated, PageCount(8), "what was there stays");
    }

    #[test]
    fn locking_fills_no_holes() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in /dev/shm");
        let shm =
            Shm::new(dir.path(), ShmOptions { lock_memory: true, ..ShmOptions::default() }).expect("there");
        let object = shm.create(FileId(7), 64 * PAGE_SIZE).expect("made");
        let pages = [PageRange::new(2, 1), PageRange::new(40, 3)];
        pages.iter().for_each(|run| shm.allocate(object.as_fd(), *run).expect("room"));
        shm.lock(FileId(7), object.as_fd(), &pages).expect("locked");
        let allocated = || shm.list().expect("listed")[0].1.allocated;
        assert_eq!(allocated(), PageCount(4));
        // Locked anew it is all that is locked.
        shm.lock(FileId(7), object.as_fd(), &[]).expect("unlocked");
        drop(object);
        let maps = std::fs::read_to_string("/proc/self/maps").expect("there");
        assert!(!maps.contains(&dir.path().display().to_string()));
        assert_eq!(allocated(), PageCount(4));
    }
}
