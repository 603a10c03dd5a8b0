//! What tests of damage ask of the kernel, and nothing else may: poisoned pages, and where a file lies on its disk.
#![allow(unsafe_code)]

use codax_os::area::Memory;
use codax_os::guard::Guard;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::with_exposed_provenance_mut;

/// Declares pages of this process's mapping to be poisoned (`MADV_HWPOISON`), for everybody and until the next boot.
pub fn poison(address: usize, len: usize) -> io::Result<()> {
    let advice = rustix::mm::Advice::LinuxHwPoison;
    // SAFETY: it changes no mapping of this process but that its pages can't be reached any more; the caller has made them for this.
    unsafe { rustix::mm::madvise(with_exposed_provenance_mut(address), len, advice)? };
    Ok(())
}

/// `FS_IOC_FIEMAP` of `linux/fs.h`.
const FIEMAP: libc::Ioctl = 0xc020_660b;

/// `struct fiemap` with one `struct fiemap_extent` (`linux/fiemap.h`).
#[repr(C)]
#[derive(Default)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    logical: u64,
    physical: u64,
    extent_length: u64,
    extent_reserved: [u64; 2],
    extent_flags: u32,
    extent_reserved_too: [u32; 3],
}

const _: () = assert!(size_of::<Fiemap>() == 32 + 56);

/// Where the byte at `off` of a file lies on its disk, and how many follow there.
pub fn place_on_disk(fd: impl AsFd, off: u64) -> io::Result<(u64, u64)> {
    // The first flag has the file written out first.
    let mut map = Fiemap { start: off, length: 1, flags: 1, count: 1, ..Fiemap::default() };
    // SAFETY: the kernel reads the head and writes one extent, for which there is room.
    if unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), FIEMAP, &raw mut map) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if map.mapped != 1 {
        return Err(io::ErrorKind::NotFound.into());
    }
    let into = off - map.logical;
    Ok((map.physical + into, map.extent_length - into))
}

/// Whether all bytes could be looked at where they lie.
pub fn can_look(guard: Guard, view: Memory<'_>) -> bool {
    let mut sum = 0;
    let mut add = |bytes: &[u8], _: &[u8]| sum = bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    // SAFETY: a sum of bytes, which is dropped.
    let looked = unsafe { guard.look([view, view.part(0, 0)], &mut add) };
    std::hint::black_box(sum);
    looked
}
