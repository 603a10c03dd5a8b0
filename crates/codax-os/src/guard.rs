//! Copying out of and into mappings of files that others may cut at any time, at the speed of a plain copy; and computing on such memory where it lies.
#![allow(unsafe_code)]
//! Unsafe code: a copy and a call in assembly, and a handler of SIGBUS that ends them where they meet a page that isn't there. What must hold: the copy changes nothing but the
//! bytes that it is for, uses no stack, and can be ended between any two of its instructions; what is called can be left at any load, by its caller's word; the handler touches
//! nothing but the registers of a thread that is in one of them.

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

    /// Has `look` go through the bytes of two views (one may be empty) where they lie, which saves the copy. False if a page of them is missing, or if there is
    /// no such way on this kind of machine: then `look` was left in the middle, or not called.
    ///
    /// # Safety
    ///
    /// - `look`, with all that it calls, can be left at any of its loads from the slices as if it went on there never more: nothing on its stack waits to be
    ///   dropped, it holds no lock, and who calls this drops what it has written elsewhere by then.
    /// - Others may write the bytes meanwhile, so each load may find another value: `look` takes them as values only, which no address and no number of
    ///   iterations depends on unchecked.
    /// - It doesn't call this function in its turn.
    #[inline]
    #[must_use]
    pub unsafe fn look(self, views: [Memory<'_>; 2], look: &mut dyn FnMut(&[u8], &[u8])) -> bool {
        let slice = |view: Memory<'_>| {
            let (first, len) = (view.as_ptr().cast_const(), view.len());
            // SAFETY: mapped while the view is there, and bytes. That others write them is what the second part of the contract is for.
            unsafe { std::slice::from_raw_parts(first, len) }
        };
        let [one, two] = views.map(slice);
        let mut call = || look(one, two);
        // SAFETY: the first part of the contract.
        unsafe { arch::call([one.as_ptr_range(), two.as_ptr_range()], &mut call) }
    }

    /// Whoever sees what this thread does from here on sees what it has written.
    #[inline]
    pub fn settle(self) {
        arch::settle();
    }
}

#[cfg(target_arch = "x86_64")]
mod arch {
    use std::any::Any;
    use std::cell::Cell;
    use std::ffi::c_void;
    use std::io;
    use std::ops::Range;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::ptr::{addr_of, null, null_mut};

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

    // Calls `rdi` with `rsi`, and keeps at `rdx` where the stack was meanwhile; 0 comes back. A fault goes on at the end, with 1 and that stack.
    std::arch::global_asm!(
        ".pushsection .text.codax_call_guarded, \"ax\", @progbits",
        ".hidden codax_call_guarded",
        ".hidden codax_call_guarded_end",
        ".globl codax_call_guarded",
        ".globl codax_call_guarded_end",
        ".type codax_call_guarded, @function",
        "codax_call_guarded:",
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdx",
        "mov [rdx], rsp",
        "mov rax, rdi",
        "mov rdi, rsi",
        "call rax",
        "xor eax, eax",
        "codax_call_guarded_end:",
        "pop rdx",
        "mov qword ptr [rdx], 0",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        ".size codax_call_guarded, . - codax_call_guarded",
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
        #[link_name = "codax_call_guarded"]
        fn call_guarded(call: extern "C" fn(*mut c_void), with: *mut c_void, stack: *mut usize) -> usize;
        #[link_name = "codax_call_guarded_end"]
        static CALL_END: u8;
    }

    /// Where a thread goes on that meets a missing page in a call.
    struct Landing {
        /// Where its stack was; 0 while there is no call.
        stack: Cell<usize>,
        /// What may be missing.
        views: Cell<[Range<*const u8>; 2]>,
    }

    thread_local! {
        // Needs nothing to be made or dropped, so that the handler may have it.
        static LANDING: Landing = const { Landing { stack: Cell::new(0), views: Cell::new([null()..null(), null()..null()]) } };
    }

    /// Where the kernel says what is wrong with a page, as far as it matters here (sigaction(2)).
    #[repr(C)]
    struct BusInfo {
        numbers: [i32; 2],
        code: i32,
        /// A byte of it.
        address: *const u8,
        /// Of memory that is broken: the logarithm of how much of it.
        lsb: i16,
    }

    impl BusInfo {
        /// Whether it is about a page of this range. What is loaded may begin before it or end behind it, on its page.
        fn is_of(&self, range: &Range<*const u8>) -> bool {
            let broken = if self.code == libc::BUS_MCEERR_AR { self.lsb.clamp(0, 40) } else { 0 };
            let page = 1_usize << broken.max(12);
            let (start, end) = (range.start.addr() & !(page - 1), range.end.addr().next_multiple_of(page));
            range.start < range.end && (start..end).contains(&self.address.addr())
        }
    }

    /// Calls; false if it was left at a load from one of the views.
    ///
    /// # Safety
    ///
    /// It can be left at any of these.
    pub unsafe fn call(views: [Range<*const u8>; 2], call: &mut dyn FnMut()) -> bool {
        struct Call<'a> {
            call: &'a mut dyn FnMut(),
            panicked: Option<Box<dyn Any + Send>>,
        }
        extern "C" fn enter(call: *mut c_void) {
            // SAFETY: it is the one below, which nobody else has meanwhile.
            let Call { call, panicked } = unsafe { &mut *call.cast::<Call<'_>>() };
            // No panic passes the assembly.
            *panicked = catch_unwind(AssertUnwindSafe(call)).err();
        }
        let mut call = Call { call, panicked: None };
        let ended = LANDING.with(|landing| {
            landing.views.set(views);
            // SAFETY: as the C calling convention has it, but that it may be left, by the contract; the place for the stack is this thread's.
            unsafe { call_guarded(enter, (&raw mut call).cast(), landing.stack.as_ptr()) == 0 }
        });
        if let Some(payload) = call.panicked {
            resume_unwind(payload);
        }
        ended
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
    extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        let begin = copy_guarded as unsafe extern "C" fn(_, _, _) -> _ as usize;
        let end = addr_of!(COPY_END).addr();
        // SAFETY: with SA_SIGINFO the kernel hands over the thread's context, which is this handler's alone until it returns.
        let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
        let register = |address: usize| i64::try_from(address).unwrap_or(0);
        let at = registers[libc::REG_RIP as usize];
        if (begin..end).contains(&usize::try_from(at).unwrap_or(0)) {
            registers[libc::REG_RIP as usize] = register(end);
            return;
        }
        // SAFETY: with SA_SIGINFO the kernel says what is wrong, in this form.
        let info = unsafe { &*info.cast::<BusInfo>() };
        if info.code == libc::BUS_MCEERR_AO {
            // Some memory is broken, and this thread isn't there.
            return;
        }
        let stack = LANDING.with(|landing| {
            let views = landing.views.replace([null()..null(), null()..null()]);
            let stack = landing.stack.get();
            (stack != 0 && views.iter().any(|view| info.is_of(view))).then_some(stack)
        });
        if let Some(stack) = stack {
            registers[libc::REG_RAX as usize] = 1;
            registers[libc::REG_RSP as usize] = register(stack);
            registers[libc::REG_RIP as usize] = register(addr_of!(CALL_END).addr());
        } else {
            // It comes again when this returns, and ends the process.
            // SAFETY: calls that are allowed in a handler.
            unsafe {
                libc::signal(libc::SIGBUS, libc::SIG_DFL);
                if info.code <= 0 {
                    // Somebody has sent it.
                    libc::raise(libc::SIGBUS);
                }
            }
        }
    }
}

/// Where there is no such copy the kernel does it, which is slower: there a missing page is a short count.
#[cfg(not(target_arch = "x86_64"))]
mod arch {
    use std::ops::Range;

    /// Nothing ends a call here.
    ///
    /// # Safety
    ///
    /// None.
    pub unsafe fn call(_: [Range<*const u8>; 2], _: &mut dyn FnMut()) -> bool {
        false
    }

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
