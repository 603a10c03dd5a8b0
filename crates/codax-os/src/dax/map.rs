//! A mapping through which the kernel copies: poison, or a device that has gone, is a short count and no signal.
#![allow(unsafe_code)]
//! Unsafe code: copies by the kernel into and out of a mapping that no Rust reference points into.

use crate::area::{Area, Memory};
use crate::copy::{self, SourceMap};
use crate::durable;
use crate::transfer::transfer;
use crate::util::{PAGE, invalid, to_u64, to_usize};
use std::io;
use std::os::fd::AsFd;
use std::ptr::with_exposed_provenance_mut;

/// Bytes that are looked at together for what can't be read.
const SPAN: usize = 1 << 20;

/// Zeros that are written together, in bytes: few enough to stay in a cache.
const ZEROS: u64 = 256 << 10;

/// A shared mapping of a DAX device, or of a file, or of a part. Offsets are those of the device or file. Not inherited by children.
#[derive(Debug)]
pub struct DaxMap {
    area: Area,
    start: u64,
    sync: bool,
    lines: bool,
    write: bool,
}

impl DaxMap {
    /// Maps `len` bytes at `off`, and what is around them in pages, or in what the device aligns mappings to; with `MAP_SYNC` if it can be. `InvalidInput` for no
    /// bytes.
    pub fn new(fd: impl AsFd, off: u64, len: u64, write: bool) -> io::Result<Self> {
        let page = to_u64(crate::area::page_of(&fd)?);
        let start = off / page * page;
        let len = len.checked_add(off - start).filter(|_| len > 0);
        let len = len.ok_or_else(|| invalid(format!("{off} is the beginning of no range to map")))?;
        let device = crate::object::char_device(&fd)?.is_some();
        let (area, sync) = Area::object_sync(&fd, start, to_usize(len), write)?;
        Ok(Self { area, start, sync, lines: sync || device, write })
    }

    /// Whether it was mapped with `MAP_SYNC`.
    #[must_use]
    pub fn sync(&self) -> bool {
        self.sync
    }

    /// First byte of the device that is mapped.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// How many bytes are mapped.
    #[must_use]
    pub fn len(&self) -> u64 {
        to_u64(self.area.len())
    }

    /// Never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Copies bytes out, and returns how many: those before the first that can't be read.
    pub fn read(&self, at: u64, to: &mut [u8]) -> io::Result<usize> {
        let from = self.at(at, to_u64(to.len()))?;
        // SAFETY: the source lies within the mapping, which lives as long as `self`; the destination is borrowed for writing, and every byte is a value.
        unsafe { transfer(from, to.as_mut_ptr(), to.len()) }
    }

    /// Copies bytes in, and returns how many: those before the first that can't be written. A frame whose bytes can't be read may take new ones, or seem to:
    /// [`Self::unreadable`] says, after [`Self::persist`].
    pub fn write(&self, at: u64, bytes: &[u8]) -> io::Result<usize> {
        let to = self.at_to_write(at, to_u64(bytes.len()))?;
        // SAFETY: the bytes are borrowed, the destination lies within the mapping, which lives as long as `self` and into which there are no references.
        unsafe { transfer(bytes.as_ptr(), to, bytes.len()) }
    }

    /// Writes zeros, and returns how many.
    pub fn zero(&self, at: u64, len: u64) -> io::Result<u64> {
        self.at_to_write(at, len)?;
        let zeros = vec![0; to_usize(len.min(ZEROS))];
        let mut done = 0;
        while done < len {
            let step = (len - done).min(ZEROS);
            let n = to_u64(self.write(at + done, &zeros[..to_usize(step)])?);
            done += n;
            if n < step {
                break;
            }
        }
        Ok(done)
    }

    /// Copies `len` bytes at `off` of another mapping to `at`, and returns how many: fewer where one can't be read, or written.
    pub fn copy_from(&self, at: u64, from: &SourceMap, off: u64, len: u64) -> io::Result<u64> {
        let to = self.at_to_write(at, len)?;
        let from = from.checked(off, len)?;
        // SAFETY: both lie within mappings that live as long as they are borrowed, at different addresses, and there are no references into either.
        Ok(to_u64(unsafe { transfer(from, to, to_usize(len))? }))
    }

    /// Copies `len` bytes at `at` to `dst_off` of a file, and returns how many: fewer where one can't be read.
    pub fn copy_to(&self, at: u64, len: u64, dst: impl AsFd, dst_off: u64) -> io::Result<u64> {
        self.at(at, len)?;
        copy::copy_to(&self.area, at - self.start, len, dst, dst_off)
    }

    /// Makes what was written to a range durable, where the memory is: writes cache lines back, or has the filesystem write. An error if pages of it
    /// can't be reached any more.
    pub fn persist(&self, at: u64, len: u64) -> io::Result<()> {
        let to = self.at(at, len)?;
        if len == 0 {
            return Ok(());
        }
        if self.lines {
            // A page that can't be mapped is an error here, and would be a signal below.
            let from = to_usize(at - self.start) / PAGE * PAGE;
            let end = to_usize(at - self.start + len).next_multiple_of(PAGE);
            self.area.populate(from, end - from, false)?;
        }
        // SAFETY: the range lies within the mapping, which outlives this call; nothing refers to it.
        durable::range(unsafe { Memory::new(to, to_usize(len)) }, self.lines)
    }

    /// The parts (offset, length in bytes, in pages) of a range that can't be read, in order: what a short count stopped at, and what else there is.
    pub fn unreadable(&self, at: u64, len: u64) -> io::Result<Vec<(u64, u64)>> {
        self.at(at, len)?;
        let end = at + len;
        let mut found: Vec<(u64, u64)> = Vec::new();
        let mut buffer = vec![0; SPAN.min(to_usize(len))];
        let mut next = at;
        while next < end {
            let span = to_usize(end - next).min(buffer.len());
            let read = to_u64(self.read(next, &mut buffer[..span])?);
            next += read;
            if read == to_u64(span) {
                continue;
            }
            let page = to_u64(PAGE);
            let (from, to) = ((next / page * page).max(at), (next / page * page + page).min(end));
            match found.last_mut() {
                Some((off, len)) if *off + *len == from => *len += to - from,
                _ => found.push((from, to - from)),
            }
            next = to;
        }
        Ok(found)
    }

    /// The address of `len` bytes at `at`, if they are mapped.
    fn at(&self, at: u64, len: u64) -> io::Result<*mut u8> {
        let off = at.checked_sub(self.start);
        let fits = |off: &u64| off.checked_add(len).is_some_and(|end| end <= self.len());
        let off = off.filter(fits).ok_or_else(|| {
            invalid(format!("{len} bytes at {at} are not mapped, but {} at {}", self.len(), self.start))
        })?;
        Ok(with_exposed_provenance_mut(self.area.base() + to_usize(off)))
    }

    fn at_to_write(&self, at: u64, len: u64) -> io::Result<*mut u8> {
        if !self.write {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "this is mapped for reading only"));
        }
        self.at(at, len)
    }
}
