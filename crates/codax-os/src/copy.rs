//! Copying out of an object whose holders may truncate it at any time.
#![allow(unsafe_code)]
//! Unsafe code: `pwrite`, `mlock` and copies by the kernel on a mapping that no Rust reference points into. The kernel reads it, so a page
//! that is gone is a short count, where a load would be SIGBUS.

use crate::area::Area;
use crate::hugetlb;
use crate::transfer::transfer;
use crate::util::{invalid, to_u64, to_usize};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::with_exposed_provenance;

pub use crate::area::Piece;

/// A read-only mapping of an object's beginning, or of pieces of objects, from which the kernel copies. Not inherited by children.
#[derive(Debug)]
pub struct SourceMap {
    area: Area,
}

impl SourceMap {
    /// Maps the first `len` bytes (rounded up to whole pages) of an object. `InvalidInput` for no bytes.
    pub fn new(fd: impl AsFd, len: u64) -> io::Result<Self> {
        Ok(Self { area: Area::object(fd, 0, to_usize(len), false)? })
    }

    /// Maps pieces of objects as one file, each at its offset there ([`Piece::at`]): what lies scattered, on a device say, is copied as if it lay side by side.
    /// Between pieces there is nothing, which is what can't be read. `InvalidInput` for no piece; `OutOfMemory` if the process has too many mappings.
    pub fn of_pieces<F: AsFd>(pieces: &[Piece<F>]) -> io::Result<Self> {
        Ok(Self { area: Area::pieces(pieces)? })
    }

    /// Copies `len` bytes at `off` to the same offset of `dst`, and returns how many: fewer if the object has been
    /// truncated or a frame is poisoned.
    pub fn copy_to(&self, off: u64, len: u64, dst: impl AsFd) -> io::Result<u64> {
        self.checked(off, len)?;
        copy_to(&self.area, off, len, dst, off)
    }

    /// Copies bytes at `off` out, and returns how many: fewer where one can't be read.
    pub fn read(&self, off: u64, to: &mut [u8]) -> io::Result<usize> {
        let from = self.checked(off, to_u64(to.len()))?;
        // SAFETY: the source lies within the mapping, which lives as long as `self`; the destination is borrowed for writing.
        unsafe { transfer(from, to.as_mut_ptr(), to.len()) }
    }

    /// The address of `len` bytes at `off`, if they lie in what is mapped.
    pub(crate) fn checked(&self, off: u64, len: u64) -> io::Result<*const u8> {
        let fits = off.checked_add(len).is_some_and(|end| end <= to_u64(self.area.len()));
        if !fits {
            return Err(invalid(format!("{len} bytes at {off} are not mapped")));
        }
        Ok(with_exposed_provenance(self.area.base() + to_usize(off)))
    }
}

/// Copies `len` bytes at `off` of an area, which the caller has checked, to `dst_off` of `dst`; returns how many.
pub(crate) fn copy_to(area: &Area, off: u64, len: u64, dst: impl AsFd, dst_off: u64) -> io::Result<u64> {
    // The kernel copies into a new page with faults switched off; where it meets a source page that isn't mapped yet, it clears the rest of
    // the new (huge) page before it tries again, which costs as much as the copy. Pages that can't be mapped are found below.
    let _ = area.populate(to_usize(off), to_usize(len), false);
    let dst = dst.as_fd();
    let mut done = 0;
    while done < len {
        let from = with_exposed_provenance::<u8>(area.base() + to_usize(off + done));
        let to = dst_off.checked_add(done).and_then(|to| libc::off_t::try_from(to).ok());
        let to = to.ok_or_else(|| invalid("an offset is too large"))?;
        // SAFETY: the kernel reads `len - done` bytes within the mapping, which lives as long as `area` is borrowed; it answers
        // EFAULT, or a short count, for pages that can't be read.
        let n = unsafe { libc::pwrite(dst.as_raw_fd(), from.cast(), to_usize(len - done), to) };
        match u64::try_from(n) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(_) => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e if e.raw_os_error() == Some(libc::EFAULT) => break,
                e => {
                    let page = hugetlb::refused(dst, &e).ok_or(e)?;
                    let left = to_usize(len - done);
                    // SAFETY: the bytes lie within the mapping, as above; pages that are gone are a short count.
                    let n = unsafe { hugetlb::write_from(dst, from, left, dst_off + done, page)? };
                    return Ok(done + to_u64(n));
                }
            },
        }
    }
    Ok(done)
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
