//! Objects as files of a filesystem that keeps them: on persistent memory, mapped without the page cache where it is mounted with `dax`.

use super::{Backing, ObjectInfo, Shm, ShmOptions, object_name, os_error, write_zeros};
use crate::dax::catalogs;
use codax_core::{FileId, PageCount, PageRange, Result};
use codax_os::copy::SourceMap;
use codax_os::dax::DaxMap;
use codax_os::object;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where the objects are in a pool's directory.
pub(crate) const OBJECTS: &str = "objects";

/// Files in a directory.
#[derive(Debug)]
pub(crate) struct Fsdax {
    files: Shm,
    path: PathBuf,
    dir: File,
    /// Files that are there as long as the filesystem is.
    catalogs: [PathBuf; 2],
    /// Keeps others from the directory.
    _lock: File,
}

impl Fsdax {
    /// The objects in the directory `pool`, which `lock` keeps others from.
    pub fn new(pool: &Path, lock: File) -> Result<Self> {
        let path = pool.join(OBJECTS);
        let dir = File::open(&path).map_err(|e| os_error("open", &path.display(), &e))?;
        let files = Shm::new(&path, ShmOptions::default())?;
        Ok(Self { files, path, dir, catalogs: catalogs(pool), _lock: lock })
    }

    /// What the directory names is there after a power failure.
    fn persist_names(&self) -> Result<()> {
        self.dir.sync_all().map_err(|e| os_error("make durable", &self.path.display(), &e))
    }
}

/// Whether the first page of a file can be read where it lies.
fn begins(path: &Path) -> bool {
    let page = PageCount(1).bytes();
    let map = File::open(path).and_then(|file| DaxMap::new(&file, 0, page, false));
    map.and_then(|map| map.unreadable(0, page)).is_ok_and(|found| found.is_empty())
}

impl Backing for Fsdax {
    fn create(&self, file: FileId, len: u64) -> Result<OwnedFd> {
        let object = self.files.create(file, len)?;
        self.persist_names()?;
        Ok(object)
    }

    fn open(&self, file: FileId, write: bool) -> Result<OwnedFd> {
        self.files.open(file, write)
    }

    fn remove(&self, file: FileId) -> Result<()> {
        self.files.remove(file)
    }

    fn device(&self) -> Result<u64> {
        self.files.device()
    }

    fn list(&self) -> Result<Vec<(FileId, ObjectInfo)>> {
        let mut objects = Vec::new();
        for (file, info) in self.files.list()? {
            let object = match self.files.open(file, false) {
                // It has been removed meanwhile.
                Err(e) if e.kind == codax_core::ErrorKind::NotFound => continue,
                other => other?,
            };
            // The filesystem counts blocks of its own records as the file's.
            let pages = PageRange::new(0, PageCount::for_bytes(info.len).0);
            let allocated = self.resident(object.as_fd(), pages)?;
            objects.push((file, ObjectInfo { allocated, ..info }));
        }
        Ok(objects)
    }

    fn strays(&self) -> Result<Vec<String>> {
        self.files.strays()
    }

    fn allocate(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        self.files.allocate(object, pages)?;
        // What is written once needs no conversion by the filesystem when it is stored to: such a store would wait for its journal.
        let stat =
            object::stat(object).map_err(|e| os_error("look at an object in", &self.path.display(), &e))?;
        let end = (pages.offset() + pages.bytes()).min(stat.len);
        write_zeros(&self.files, object, pages.offset(), end)?;
        self.persist(object, pages)
    }

    fn renumber(&self, was: FileId, is: FileId) -> Result<()> {
        let [was, is] = [was, is].map(|file| self.path.join(object_name(file)));
        let done = |result: std::io::Result<()>| match result {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(os_error("renumber", &was.display(), &e)),
            _ => Ok(()),
        };
        // Of a start that did not get to its end.
        done(std::fs::remove_file(&is))?;
        done(std::fs::hard_link(&was, &is))?;
        self.persist_names()
    }

    fn is_closed_to_freeze(&self) -> bool {
        true
    }

    fn persist(&self, object: BorrowedFd<'_>, _pages: PageRange) -> Result<()> {
        object::sync(object).map_err(|e| os_error("make durable", &self.path.display(), &e))
    }

    fn make_ready(&self, object: BorrowedFd<'_>, pages: PageRange) {
        // The copy itself says what is wrong.
        let _ = self.files.allocate(object, pages);
    }

    fn damaged(&self, file: FileId, pages: &[PageRange]) -> Result<Vec<PageRange>> {
        let failed = |e: std::io::Error| os_error("look through an object in", &self.path.display(), &e);
        let object = self.files.open(file, false)?;
        let len = object::stat(&object).map_err(failed)?.len;
        if len == 0 {
            return Ok(Vec::new());
        }
        let map = DaxMap::new(&object, 0, len, false).map_err(failed)?;
        let mut damaged = Vec::new();
        for run in pages {
            let end = (run.offset() + run.bytes()).min(len);
            let found = map.unreadable(run.offset(), end.saturating_sub(run.offset())).map_err(failed)?;
            damaged.extend(found.into_iter().map(|(at, len)| PageRange::of_bytes(at, len)));
        }
        // Of a filesystem that has gone neither copy of the catalog can be read.
        if damaged.is_empty() || self.gone().is_none() && self.catalogs.iter().any(|path| begins(path)) {
            return Ok(damaged);
        }
        Ok(Vec::new())
    }

    fn gone(&self) -> Option<String> {
        let [catalog, _] = &self.catalogs;
        codax_os::filesystem::gone(catalog).map(|e| format!("{}: {e}", catalog.display()))
    }

    fn resident(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<PageCount> {
        // Nothing of it is in the page cache, which is where tmpfs has what it has. What is allocated was written to, if only zeros.
        let data = object::data_ranges(object)
            .map_err(|e| os_error("look for holes of an object in", &self.path.display(), &e))?;
        let here = |(at, len): (u64, u64)| PageRange::of_bytes(at, len).intersect(pages);
        Ok(PageCount(data.into_iter().filter_map(here).map(|run| run.count.0).sum()))
    }

    fn release(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        self.files.release(object, pages)
    }

    fn resize(&self, object: BorrowedFd<'_>, len: u64) -> Result<()> {
        self.files.resize(object, len)
    }

    fn read(&self, object: BorrowedFd<'_>, buf: &mut [u8], at: u64) -> Result<usize> {
        self.files.read(object, buf, at)
    }

    fn write(&self, object: BorrowedFd<'_>, bytes: &[u8], at: u64) -> Result<()> {
        self.files.write(object, bytes, at)
    }

    fn append(&self, object: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize> {
        self.files.append(object, bytes)
    }

    fn copy(&self, from: &SourceMap, at: u64, len: u64, to: BorrowedFd<'_>) -> Result<u64> {
        self.files.copy(from, at, len, to)
    }

    fn sole_holder(&self, file: FileId) -> Result<Option<OwnedFd>> {
        self.files.sole_holder(file)
    }

    fn lock(&self, _file: FileId, _object: BorrowedFd<'_>, _pages: &[PageRange]) -> Result<()> {
        // What lies on a medium of its own is never swapped.
        Ok(())
    }

    fn unlock(&self, _file: FileId) {}
}
