//! Going through much memory from the front to the back, in chunks that are copied out and computed on.
#![allow(unsafe_code)]
//! Unsafe code: a copy in assembly. What must hold is what `copy_lines` says; its caller checks the ranges.

use crate::memory::Memory;

/// What memory gives at once.
const LINE: usize = 64;

/// How far ahead of the copy memory is asked for, in bytes: what it can give while a chunk or two of 4 KiB are computed on.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 8192;

impl Memory<'_> {
    /// Copies bytes out as [`Self::read_at`] does, and has the memory fetch those that lie some KiB behind them, so that it is busy while the caller computes
    /// on these. For chunks of 2 to 4 KiB, one after the other: with larger ones computation waits for memory and memory for computation.
    #[inline]
    pub fn stream_at(self, off: usize, to: &mut [u8]) {
        let from = self.part(off, to.len());
        let lines = if cfg!(target_arch = "x86_64") { to.len() / LINE } else { 0 };
        let (whole, rest) = to.split_at_mut(lines * LINE);
        // SAFETY: as many bytes can be read (`part` checked) and written; the destination is borrowed and so lies somewhere else.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            copy_lines(from.as_ptr(), whole.as_mut_ptr(), lines);
        }
        from.read_at(whole.len(), rest);
    }
}

/// Copies whole lines. To the compiler these are accesses from outside, like another process's. Registers of 16 bytes: wider
/// ones were tried, and are slower where lines are still on their way.
///
/// # Safety
///
/// So many lines can be read at `from` and written at `to`; they don't overlap.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn copy_lines(from: *const u8, to: *mut u8, lines: usize) {
    if lines == 0 {
        return;
    }
    // SAFETY: reads and writes just the lines that the contract allows, and changes no register that isn't declared. A prefetch loads nothing that the
    // program can see, and an address that can't be read is passed over.
    unsafe {
        std::arch::asm!(
            "2:",
            "prefetcht0 [{from} + {AHEAD}]",
            "movups {a}, [{from}]",
            "movups {b}, [{from} + 16]",
            "movups {c}, [{from} + 32]",
            "movups {d}, [{from} + 48]",
            "movups [{to}], {a}",
            "movups [{to} + 16], {b}",
            "movups [{to} + 32], {c}",
            "movups [{to} + 48], {d}",
            "add {from}, 64",
            "add {to}, 64",
            "dec {lines}",
            "jnz 2b",
            AHEAD = const AHEAD,
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            lines = inout(reg) lines => _,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack),
        );
    }
}
