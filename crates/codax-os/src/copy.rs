//! Copying out of an object whose holders may truncate it at any time.
#![allow(unsafe_code)]
//! Unsafe code: `pwrite` and `mlock` on a mapping that no Rust reference points into. The kernel reads it, so a page
//! that is gone is a short count, where a load would be SIGBUS.

use crate::area::Area;
use crate::hugetlb;
use crate::util::{invalid, to_u64, to_usize};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::with_exposed_provenance;

/// A read-only mapping of an object's beginning, from which the kernel copies. Not inherited by children.
#[derive(Debug)]
pub struct SourceMap {
    area: Area,
}

impl SourceMap {
    /// Maps the first `len` bytes (rounded up to whole pages) of an object. `InvalidInput` for no bytes.
    pub fn new(fd: impl AsFd, len: u64) -> io::Result<Self> {
        Ok(Self { area: Area::object(fd, 0, to_usize(len), false)? })
    }

    /// Copies `len` bytes at `off` to the same offset of `dst`, and returns how many: fewer if the object has been
    /// truncated or a frame is poisoned.
    pub fn copy_to(&self, off: u64, len: u64, dst: impl AsFd) -> io::Result<u64> {
        let end = off.checked_add(len).filter(|end| *end <= to_u64(self.area.len()));
        let end = end.ok_or_else(|| invalid(format!("{len} bytes at {off} are not mapped")))?;
        // The kernel copies into a new page with faults switched off; where it meets a source page that isn't mapped yet, it clears the rest of
        // the new (huge) page before it tries again, which costs as much as the copy. Pages that can't be mapped are found below.
        let _ = self.area.populate(to_usize(off), to_usize(len), false);
        let dst = dst.as_fd();
        let mut at = off;
        while at < end {
            let from = with_exposed_provenance::<u8>(self.area.base() + to_usize(at));
            let to = libc::off_t::try_from(at).map_err(|_| invalid("an offset is too large"))?;
            // SAFETY: the kernel reads `end - at` bytes within the mapping, which lives as long as `self`; it answers
            // EFAULT, or a short count, for pages that can't be read.
            let n = unsafe { libc::pwrite(dst.as_raw_fd(), from.cast(), to_usize(end - at), to) };
            match u64::try_from(n) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => at += n,
                Err(_) => match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => {}
                    e if e.raw_os_error() == Some(libc::EFAULT) => break,
                    e => {
                        let page = hugetlb::refused(dst, &e).ok_or(e)?;
                        // SAFETY: the bytes lie within the mapping, which lives as long as `self`; pages that are gone are a short count.
                        let n = unsafe { hugetlb::write_from(dst, from, to_usize(end - at), at, page)? };
                        return Ok(at + to_u64(n) - off);
                    }
                },
            }
        }
        Ok(at - off)
    }
}

/// A part of an object that is kept in memory: neither swapped out nor demoted, as long as this lives.
#[derive(Debug)]
pub struct LockedMap {
    _area: Area,
}

impl LockedMap {
    /// Locks `len` bytes at `off`, both whole pages. It fills holes. `OutOfMemory` beyond RLIMIT_MEMLOCK.
    pub fn new(fd: impl AsFd, off: u64, len: u64) -> io::Result<Self> {
        let area = Area::object(fd, off, to_usize(len), false)?;
        let at = std::ptr::with_exposed_provenance_mut(area.base());
        // SAFETY: locks pages of our own mapping; it changes no byte and no address.
        unsafe { rustix::mm::mlock(at, area.len())? };
        Ok(Self { _area: area })
    }
}
