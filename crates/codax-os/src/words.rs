//! A file of 64-bit words that one process writes and others read, each word in one access.
#![allow(unsafe_code)]
//! Unsafe code: turns the mapping into `&[AtomicU64]`. What must hold: the mapping has that many words and lives as
//! long as the value. The files are the daemon's own and are never truncated; if one were, an access would end in
//! SIGBUS, not in undefined behaviour.

use crate::area::Area;
use crate::util::{invalid, to_u64, to_usize};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Little-endian words of a mapped file.
#[derive(Debug)]
pub struct SharedWords {
    area: Area,
    words: usize,
    writable: bool,
}

impl SharedWords {
    /// Makes the file with `words` words of 0, all of it allocated, and `mode`. `AlreadyExists` if it is there.
    pub fn create(path: &Path, words: usize, mode: u32) -> io::Result<Self> {
        let bytes = words.checked_mul(8).ok_or_else(|| invalid("too many words"))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(mode))?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
        crate::object::set_len(&fd, to_u64(bytes))?;
        crate::object::allocate(&fd, 0, to_u64(bytes))?;
        Self::map(&fd, true)
    }

    /// Maps an existing file for reading and writing.
    pub fn open_rw(path: &Path) -> io::Result<Self> {
        Self::map(rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?, true)
    }

    /// Maps an open file for reading. The descriptor can be closed afterwards.
    pub fn from_fd_ro(fd: impl AsFd) -> io::Result<Self> {
        Self::map(fd, false)
    }

    fn map(fd: impl AsFd, writable: bool) -> io::Result<Self> {
        let bytes = to_usize(crate::object::stat(&fd)?.len);
        Ok(Self { area: Area::object(fd, 0, bytes, writable)?, words: bytes / 8, writable })
    }

    /// Number of words.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// Word `i`, with all that was stored before it (acquire). Panics beyond the end.
    #[inline]
    #[must_use]
    pub fn load(&self, i: usize) -> u64 {
        u64::from_le(self.atomics()[i].load(Ordering::Acquire))
    }

    /// Sets word `i`, after all that was stored before (release). Panics beyond the end, or if the file is mapped for
    /// reading.
    #[inline]
    pub fn store(&self, i: usize, value: u64) {
        assert!(self.writable, "words that were opened for reading can't be stored");
        self.atomics()[i].store(value.to_le(), Ordering::Release);
    }

    #[inline]
    fn atomics(&self) -> &[AtomicU64] {
        // SAFETY: the area maps `words * 8` bytes or more at a page's beginning, and is neither moved nor dropped
        // while `self` is borrowed; in this process they are accessed as atomics only.
        unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(self.area.base()), self.words) }
    }
}
