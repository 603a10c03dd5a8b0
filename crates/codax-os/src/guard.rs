//! Copying out of and into mappings of files that others may cut at any time, at the speed of a plain copy.
#![allow(unsafe_code)]
//! Unsafe code: a copy in assembly, and a handler of SIGBUS that ends it where it meets a page that isn't there. What must hold: the copy changes nothing but the bytes that it
//! is for, uses no stack, and can be ended between any two of its instructions; the handler touches nothing but the instruction pointer of a thread that is in it.

use crate::memory::Memory;
use std::io;
use std::sync::OnceLock;

/// Says that SIGBUS is handled in this process: with it, memory is read and written by copies that stop where a page is missing.
#[derive(Clone, Copy, Debug)]
pub struct Guard(());

impl Guard {
    /// Takes the process's handler of SIGBUS, for good. Any SIGBUS outside these copies ends the process as it would without.
    pub fn install() -> io::Result<Self> {
        static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
        let installed = INSTALLED.get_or_init(arch::install);
        installed.map(|()| Self(())).map_err(io::Error::from_raw_os_error)
    }

    /// Copies bytes out, and has memory fetch those some KiB behind them, so that it is busy while the caller computes on these; returns how many: fewer where a
    /// page is missing. To go through much memory, in chunks of some KiB one after the other: with larger ones computation waits for memory and memory for computation.
    ///
    /// # Panics
    ///
    /// If they don't lie inside.
    #[inline]
    #[must_use]
    pub fn read(self, memory: Memory<'_>, off: usize, to: &mut [u8]) -> usize {
        let from = memory.part(off, to.len()).as_ptr();
        // SAFETY: the source is the mapping's (`part` checked), the destination is borrowed; they are different memory. The handler is there.
        to.len() - unsafe { arch::copy(to.as_mut_ptr(), from, to.len()) }
    }

    /// Copies bytes in; returns how many: fewer where a page is missing.
    ///
    /// # Panics
    ///
    /// If they don't lie inside.
    #[inline]
    #[must_use]
    pub fn write(self, memory: Memory<'_>, off: usize, from: &[u8]) -> usize {
        let to = memory.part(off, from.len()).as_ptr();
        // SAFETY: as in `read`, the other way round.
        from.len() - unsafe { arch::put(to, from.as_ptr(), from.len()) }
    }

    /// As [`Self::write`], past the caches, where that is faster: for more bytes, all in all, than the caches would keep. Others may see what the caller does
    /// afterwards before they see these bytes, until it has called [`Self::settle`].
    ///
    /// # Panics
    ///
    /// If they don't lie inside.
    #[inline]
    #[must_use]
    pub fn write_past(self, memory: Memory<'_>, off: usize, from: &[u8]) -> usize {
        let to = memory.part(off, from.len()).as_ptr();
        // SAFETY: as in `write`.
        from.len() - unsafe { arch::put_past(to, from.as_ptr(), from.len()) }
    }

    /// Whoever sees what this thread does from here on sees what it has written.
    #[inline]
    pub fn settle(self) {
        arch::settle();
    }
}

#[cfg(target_arch = "x86_64")]
mod arch {
    use std::io;
    use std::ptr::{addr_of, null_mut};

    // A line at a time while there are whole ones, then bytes: `rdi` to, `rsi` from, `rdx` how many are left, which is what comes back. A fault goes on at the end.
    // Registers of 16 bytes: wider ones were tried, and are slower where lines are still on their way. What is asked for comes into the second-level cache: into the
    // first, where fewer lines can be on their way at a time, the copy would wait for it.
    std::arch::global_asm!(
        ".pushsection .text.codax_copy_guarded, \"ax\", @progbits",
        ".hidden codax_copy_guarded",
        ".hidden codax_put_guarded",
        ".hidden codax_put_past_guarded",
        ".hidden codax_copy_guarded_end",
        ".globl codax_copy_guarded",
        ".globl codax_put_guarded",
        ".globl codax_put_past_guarded",
        ".globl codax_copy_guarded_end",
        ".type codax_copy_guarded, @function",
        ".type codax_put_guarded, @function",
        ".type codax_put_past_guarded, @function",
        // Out of a mapping.
        "codax_copy_guarded:",
        "cmp rdx, 64",
        "jb 3f",
        "2:",
        "prefetcht1 [rsi + 8192]",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + 16]",
        "movups xmm2, [rsi + 32]",
        "movups xmm3, [rsi + 48]",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + 32], xmm2",
        "movups [rdi + 48], xmm3",
        "add rsi, 64",
        "add rdi, 64",
        "sub rdx, 64",
        "cmp rdx, 64",
        "jae 2b",
        "jmp 3f",
        // Into one, past the caches if the place allows it.
        "codax_put_past_guarded:",
        "test dil, 15",
        "jnz codax_put_guarded",
        "cmp rdx, 64",
        "jb 3f",
        "4:",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + 16]",
        "movups xmm2, [rsi + 32]",
        "movups xmm3, [rsi + 48]",
        "movntps [rdi], xmm0",
        "movntps [rdi + 16], xmm1",
        "movntps [rdi + 32], xmm2",
        "movntps [rdi + 48], xmm3",
        "add rsi, 64",
        "add rdi, 64",
        "sub rdx, 64",
        "cmp rdx, 64",
        "jae 4b",
        "jmp 3f",
        // Into one.
        "codax_put_guarded:",
        "cmp rdx, 64",
        "jb 3f",
        "5:",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + 16]",
        "movups xmm2, [rsi + 32]",
        "movups xmm3, [rsi + 48]",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + 32], xmm2",
        "movups [rdi + 48], xmm3",
        "add rsi, 64",
        "add rdi, 64",
        "sub rdx, 64",
        "cmp rdx, 64",
        "jae 5b",
        "3:",
        "test rdx, rdx",
        "jz codax_copy_guarded_end",
        "mov al, [rsi]",
        "mov [rdi], al",
        "inc rsi",
        "inc rdi",
        "dec rdx",
        "jmp 3b",
        "codax_copy_guarded_end:",
        "mov rax, rdx",
        "ret",
        ".size codax_copy_guarded, . - codax_copy_guarded",
        ".popsection",
    );

    unsafe extern "C" {
        #[link_name = "codax_copy_guarded"]
        fn copy_guarded(to: *mut u8, from: *const u8, len: usize) -> usize;
        #[link_name = "codax_put_guarded"]
        fn put_guarded(to: *mut u8, from: *const u8, len: usize) -> usize;
        #[link_name = "codax_put_past_guarded"]
        fn put_past_guarded(to: *mut u8, from: *const u8, len: usize) -> usize;
        #[link_name = "codax_copy_guarded_end"]
        static COPY_END: u8;
    }

    /// Copies; returns how many bytes are left.
    ///
    /// # Safety
    ///
    /// `len` bytes at both places are of mappings that stay, writable at `to`, and don't overlap; what is missing of them is SIGBUS, which is handled.
    #[inline]
    pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize) -> usize {
        // SAFETY: the contract; a leaf function in the C calling convention.
        unsafe { copy_guarded(to, from, len) }
    }

    /// As [`copy`], of memory that is in a cache.
    ///
    /// # Safety
    ///
    /// As there.
    #[inline]
    pub unsafe fn put(to: *mut u8, from: *const u8, len: usize) -> usize {
        // SAFETY: as in `copy`.
        unsafe { put_guarded(to, from, len) }
    }

    /// As [`put`], past the caches.
    ///
    /// # Safety
    ///
    /// As there.
    #[inline]
    pub unsafe fn put_past(to: *mut u8, from: *const u8, len: usize) -> usize {
        // SAFETY: as in `copy`.
        unsafe { put_past_guarded(to, from, len) }
    }

    /// Stores past the caches are in no order with others.
    #[inline]
    pub fn settle() {
        // SAFETY: every processor of this kind has the instruction, which changes nothing.
        unsafe { std::arch::x86_64::_mm_sfence() };
    }

    pub fn install() -> Result<(), i32> {
        let mut action = libc::sigaction {
            sa_sigaction: on_sigbus as extern "C" fn(_, _, _) as usize,
            // SAFETY: a set of signals is plain data; it is emptied below.
            sa_mask: unsafe { std::mem::zeroed() },
            sa_flags: libc::SA_SIGINFO | libc::SA_ONSTACK,
            sa_restorer: None,
        };
        // SAFETY: the handler is as its contract wants it; both pointers are of values that live through the calls.
        let failed = unsafe {
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &raw const action, null_mut()) != 0
        };
        if failed { Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)) } else { Ok(()) }
    }

    /// The kernel calls this on the thread that met a missing page. It calls nothing that isn't allowed in a handler.
    extern "C" fn on_sigbus(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let begin = copy_guarded as unsafe extern "C" fn(_, _, _) -> _ as usize;
        let end = addr_of!(COPY_END).addr();
        // SAFETY: with SA_SIGINFO the kernel hands over the thread's context, which is this handler's alone until it returns.
        let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
        let at = &mut registers[libc::REG_RIP as usize];
        if (begin..end).contains(&usize::try_from(*at).unwrap_or(0)) {
            *at = i64::try_from(end).unwrap_or(0);
        } else {
            // It comes again when this returns, and ends the process.
            // SAFETY: a call that is allowed in a handler.
            unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        }
    }
}

/// Where there is no such copy the kernel does it, which is slower: there a missing page is a short count.
#[cfg(not(target_arch = "x86_64"))]
mod arch {
    /// # Safety
    ///
    /// `len` bytes at both places are of mappings that stay, writable at `to`, and don't overlap.
    pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize) -> usize {
        // SAFETY: the contract.
        len - unsafe { crate::transfer::transfer(from, to, len) }.unwrap_or(0)
    }

    pub use copy as put;
    pub use copy as put_past;

    /// The kernel's stores are in order.
    pub fn settle() {}

    pub fn install() -> Result<(), i32> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::area::Region;
    use std::os::fd::AsFd;

    #[test]
    fn a_page_that_is_cut_off_ends_the_copy_and_nothing_else() {
        let guard = Guard::install().unwrap();
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(4 * 4096).unwrap();
        let region = Region::reserve_in(4 * 4096, 0, 4096).unwrap();
        region.place(0, 4 * 4096, file.as_fd(), 0, true).unwrap();
        let memory = region.memory();
        let bytes: Vec<u8> = (0..4 * 4096_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        assert_eq!(guard.write(memory, 0, &bytes), bytes.len());
        let mut got = vec![0; bytes.len()];
        assert_eq!(guard.read(memory, 0, &mut got), bytes.len());
        assert!(got == bytes);
        for (off, len) in [(0, 0), (1, 1), (63, 64), (5, 200), (4095, 2), (100, 8192 + 77)] {
            let mut got = vec![0; len];
            assert_eq!(guard.read(memory, off, &mut got), len);
            assert!(got == bytes[off..off + len]);
            for (write, byte) in [(Guard::write as fn(_, _, _, &_) -> _, 1), (Guard::write_past, 2)] {
                assert_eq!(write(guard, memory, off, &vec![byte; len]), len);
                assert_eq!(guard.read(memory, off, &mut got), len);
                assert!(got.iter().all(|b| *b == byte));
                assert_eq!(write(guard, memory, off, &bytes[off..off + len]), len);
            }
        }
        let mut all = vec![0; bytes.len()];
        assert_eq!(guard.read(memory, 0, &mut all), all.len());
        assert!(all == bytes, "what lies beside them is as it was");
        file.set_len(2 * 4096).unwrap();
        for off in [0, 1, 4000, 8191, 8192, 9000] {
            let mut got = vec![7; bytes.len() - off];
            let done = guard.read(memory, off, &mut got);
            // Whole lines, then bytes: what is copied is copied up to the line that meets the end.
            assert!(done <= 8192_usize.saturating_sub(off) && done + 64 > 8192_usize.saturating_sub(off));
            assert!(got[..done] == bytes[off..off + done] && got[done..].iter().all(|b| *b == 7));
            for write in [Guard::write, Guard::write_past] {
                let done = write(guard, memory, off, &bytes[off..]);
                assert!(done <= 8192_usize.saturating_sub(off) && done + 64 > 8192_usize.saturating_sub(off));
            }
        }
    }
}
