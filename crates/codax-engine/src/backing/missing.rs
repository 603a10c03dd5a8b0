//! What stands for the objects of a pool whose device isn't there: nothing of its files can be had until it is.

use super::{Backing, ObjectInfo};
use codax_core::{Error, FileId, PageCount, PageRange, Result};
use codax_os::copy::SourceMap;
use std::os::fd::{BorrowedFd, OwnedFd};

/// A device that isn't there.
#[derive(Debug)]
pub(crate) struct Missing {
    pool: String,
    why: String,
}

impl Missing {
    /// The objects of `pool`, which can't be had since `why`.
    pub fn new(pool: &str, why: &str) -> Self {
        Self { pool: pool.to_owned(), why: why.to_owned() }
    }

    fn none<T>(&self) -> Result<T> {
        Err(Error::lost(format!(
            "pool {}: its device is not there ({}): codax device attach {} when it is",
            self.pool, self.why, self.pool
        )))
    }
}

impl Backing for Missing {
    fn create(&self, _file: FileId, _len: u64) -> Result<OwnedFd> {
        self.none()
    }

    fn open(&self, _file: FileId, _write: bool) -> Result<OwnedFd> {
        self.none()
    }

    fn remove(&self, _file: FileId) -> Result<()> {
        self.none()
    }

    fn device(&self) -> Result<u64> {
        // That of no object at all.
        Ok(0)
    }

    fn list(&self) -> Result<Vec<(FileId, ObjectInfo)>> {
        Ok(Vec::new())
    }

    fn gone(&self) -> Option<String> {
        Some(self.why.clone())
    }

    fn allocate(&self, _object: BorrowedFd<'_>, _pages: PageRange) -> Result<()> {
        self.none()
    }

    fn make_ready(&self, _object: BorrowedFd<'_>, _pages: PageRange) {}

    fn resident(&self, _object: BorrowedFd<'_>, _pages: PageRange) -> Result<PageCount> {
        self.none()
    }

    fn release(&self, _object: BorrowedFd<'_>, _pages: PageRange) -> Result<()> {
        self.none()
    }

    fn resize(&self, _object: BorrowedFd<'_>, _len: u64) -> Result<()> {
        self.none()
    }

    fn read(&self, _object: BorrowedFd<'_>, _buf: &mut [u8], _at: u64) -> Result<usize> {
        self.none()
    }

    fn write(&self, _object: BorrowedFd<'_>, _bytes: &[u8], _at: u64) -> Result<()> {
        self.none()
    }

    fn append(&self, _object: BorrowedFd<'_>, _bytes: &[u8]) -> Result<usize> {
        self.none()
    }

    fn copy(&self, _from: &SourceMap, _at: u64, _len: u64, _to: BorrowedFd<'_>) -> Result<u64> {
        self.none()
    }

    fn sole_holder(&self, _file: FileId) -> Result<Option<OwnedFd>> {
        self.none()
    }

    fn lock(&self, _file: FileId, _object: BorrowedFd<'_>, _pages: &[PageRange]) -> Result<()> {
        self.none()
    }

    fn unlock(&self, _file: FileId) {}
}
