//! Objects as files of a tmpfs directory.

use super::{Backing, ObjectInfo, object_name, object_of, os_error};
use codax_core::{Error, FileId, HUGE_PAGES, HUGE_SIZE, PAGE_SIZE, PageCount, PageRange, Result};
use codax_os::copy::{LockedMap, SourceMap};
use codax_os::numa::Located;
use codax_os::object::{self, ObjectDir};
use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Objects as files of a tmpfs directory.
#[derive(Debug)]
pub struct Shm {
    dir: ObjectDir,
    path: PathBuf,
    /// Mappings that keep objects locked in memory; `None` where the tmpfs itself is not swapped.
    locked: Option<Mutex<HashMap<FileId, Vec<LockedMap>>>>,
    /// The NUMA nodes on which pages are to lie; none: any.
    nodes: Vec<u32>,
}

impl Shm {
    /// The objects in `path`; with `lock_memory` they are locked in memory (for a tmpfs that may be swapped). Their pages are to lie on `nodes`, which
    /// the tmpfs prefers; any if there are none.
    pub fn new(path: &Path, lock_memory: bool, nodes: Vec<u32>) -> Result<Self> {
        let dir = ObjectDir::open(path).map_err(|e| os_error("open", &path.display(), &e))?;
        Ok(Self { dir, path: path.to_owned(), locked: lock_memory.then(Mutex::default), nodes })
    }

    /// The numbers of pages that lie on other nodes.
    fn strays_in(&self, located: &Located) -> Result<Vec<usize>> {
        let nodes =
            located.nodes().map_err(|e| os_error("ask where pages lie of", &self.path.display(), &e))?;
        // A page that the kernel doesn't find has been given back, or is being moved by somebody else: it is not known to be at its place.
        let astray = |node: &Option<u32>| node.is_none_or(|node| !self.nodes.contains(&node));
        Ok(nodes.iter().enumerate().filter(|(_, node)| astray(node)).map(|(page, _)| page).collect())
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
        object::allocate(object, pages.offset(), pages.bytes())
            .map_err(|e| os_error("allocate in", &self.path.display(), &e))?;
        self.confirm(object, pages).inspect_err(|_| {
            for hole in holes.into_iter().filter(|hole| !hole.is_empty()) {
                let _ = self.release(object, hole);
            }
        })
    }

    fn confirm(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        let Some(located) = self.located(object, pages)? else { return Ok(()) };
        let mut strays = self.strays_in(&located)?;
        for &node in &self.nodes {
            if strays.is_empty() {
                break;
            }
            located.bring(&strays, node).map_err(|e| os_error("move pages in", &self.path.display(), &e))?;
            strays = self.strays_in(&located)?;
        }
        if strays.is_empty() {
            return Ok(());
        }
        let nodes = self.nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        Err(Error::no_space(format!(
            "NUMA node {nodes} is full: it has no room for {} bytes that its pool has frames for, since others use its memory (codax device \
             discover shows how much is free)",
            PageCount(strays.len() as u64).bytes()
        )))
    }

    fn is_placed(&self) -> bool {
        !self.nodes.is_empty()
    }

    fn astray(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<PageCount> {
        let strays =
            self.located(object, pages)?.map_or(Ok(Vec::new()), |located| self.strays_in(&located))?;
        Ok(PageCount(strays.len() as u64))
    }

    fn make_ready(&self, object: BorrowedFd<'_>, pages: PageRange) {
        if object::allocate(object, pages.offset(), pages.bytes()).is_err() {
            return;
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
        object::write_all_at(object, bytes, at).map_err(|e| os_error("write in", &self.path.display(), &e))
    }

    fn append(&self, object: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize> {
        object::append(object, bytes).map_err(|e| os_error("append in", &self.path.display(), &e))
    }

    fn copy(&self, from: &SourceMap, at: u64, len: u64, to: BorrowedFd<'_>) -> Result<u64> {
        from.copy_to(at, len, to).map_err(|e| os_error("copy into", &self.path.display(), &e))
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
        let on = |nodes: &[u32]| Shm::new(dir.path(), false, nodes.to_vec()).expect("there");
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
        let shm = Shm::new(dir.path(), true, Vec::new()).expect("there");
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
