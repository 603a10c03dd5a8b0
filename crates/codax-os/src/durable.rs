//! Making stores durable: that they outlive the power once a call returns, where what is mapped does.
//!
//! A store lies in the processor's caches first. A mapping with `MAP_SYNC`, and any of a DAX device, is durable as soon as its cache lines are written
//! back; of another mapping the filesystem has to write pages and its own records too (msync(2)).
#![allow(unsafe_code)]
//! Unsafe code: instructions that write cache lines back, and `msync`. Neither changes a byte. Both are given ranges of a [`Memory`], whose addresses
//! are its owner's.

use crate::area::Memory;
use crate::util::PAGE;
use rustix::mm::MsyncFlags;
use std::io;

/// Makes a range of a mapping durable: `sync` says that it was mapped with `MAP_SYNC` (see [`Region::place_sync`](crate::area::Region::place_sync)), or is
/// one of a DAX device, so that its cache lines are enough. Else an error is the filesystem's, and then nothing is known to be durable.
pub fn range(memory: Memory<'_>, sync: bool) -> io::Result<()> {
    if memory.is_empty() {
        return Ok(());
    }
    if sync {
        return lines(memory);
    }
    let start = memory.as_ptr().map_addr(|at| at / PAGE * PAGE);
    let len = memory.as_ptr().addr() + memory.len() - start.addr();
    // SAFETY: whole pages of a mapping that lives as long as `memory`; it changes no byte.
    crate::util::retry(|| unsafe { rustix::mm::msync(start.cast(), len, MsyncFlags::SYNC) })
}

/// Writes a range's cache lines back, and waits until they are where the power's loss doesn't reach them. Of pages that can't be mapped it is a signal, as a
/// load is. `Unsupported` on machines other than x86-64.
pub fn lines(memory: Memory<'_>) -> io::Result<()> {
    if memory.is_empty() {
        return Ok(());
    }
    write_back(memory.as_ptr(), memory.len())
}

/// How this processor writes a cache line back.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
enum How {
    /// `clwb`: the line stays.
    Clwb,
    /// `clflushopt`: the line goes.
    Clflushopt,
    /// `clflush`: the line goes, one after the other.
    Clflush,
}

/// How this processor does it.
#[cfg(target_arch = "x86_64")]
fn how() -> How {
    use std::sync::OnceLock;
    /// Bits of EBX of leaf 7 (Intel's manual, volume 2, CPUID).
    const CLFLUSHOPT: u32 = 1 << 23;
    const CLWB: u32 = 1 << 24;
    static HOW: OnceLock<How> = OnceLock::new();
    *HOW.get_or_init(|| {
        #[allow(unused_unsafe)] // of newer compilers
        // SAFETY: every x86-64 has the instruction; a leaf beyond the last is that one's values, so it is asked for first.
        let features = unsafe {
            let leaves = std::arch::x86_64::__cpuid(0).eax;
            if leaves >= 7 { std::arch::x86_64::__cpuid_count(7, 0).ebx } else { 0 }
        };
        match features {
            bits if bits & CLWB != 0 => How::Clwb,
            bits if bits & CLFLUSHOPT != 0 => How::Clflushopt,
            _ => How::Clflush,
        }
    })
}

/// Bytes of a cache line, on every x86-64 there is.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

#[cfg(target_arch = "x86_64")]
fn write_back(from: *mut u8, len: usize) -> io::Result<()> {
    use std::arch::asm;
    let end = from.addr() + len;
    let how = how();
    for at in (from.addr() / LINE * LINE..end).step_by(LINE).map(|at| from.with_addr(at)) {
        // SAFETY: the processor has the instruction; it changes no byte, and faults where a load would; each line holds a byte of the range. Without
        // `nomem` the compiler has made all stores before.
        unsafe {
            match how {
                How::Clwb => asm!("clwb [{}]", in(reg) at, options(nostack, preserves_flags)),
                How::Clflushopt => {
                    asm!("clflushopt [{}]", in(reg) at, options(nostack, preserves_flags));
                }
                How::Clflush => asm!("clflush [{}]", in(reg) at, options(nostack, preserves_flags)),
            }
        }
    }
    // SAFETY: orders stores and write-backs, and does nothing else.
    unsafe { asm!("sfence", options(nostack, preserves_flags)) };
    Ok(())
}

#[cfg(not(target_arch = "x86_64"))]
fn write_back(_from: *mut u8, _len: usize) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "cache lines are written back on x86-64 only"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::area::Region;

    #[test]
    fn a_range_of_any_alignment_is_written_back_and_stays_as_it_is() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 * 4096).unwrap();
        let region = Region::reserve(4 * PAGE).unwrap();
        assert!(!crate::area::takes_sync(&file, true).unwrap(), "no disk is mapped with MAP_SYNC");
        region.place(0, 4 * PAGE, &file, 0, true).unwrap();
        let memory = region.memory();
        for (off, len) in [(0, 0), (0, 1), (63, 2), (4095, 2), (1, 4 * PAGE - 1), (0, 4 * PAGE)] {
            memory.fill(off, len, 7);
            lines(memory.part(off, len)).unwrap();
            range(memory.part(off, len), false).unwrap();
        }
        let mut bytes = vec![0; 4 * PAGE];
        crate::object::read_at(&file, &mut bytes, 0).unwrap();
        assert_eq!(bytes, [7; 4 * PAGE]);
    }
}
