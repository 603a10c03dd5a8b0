//! Loads and stores of memory that others write at the same time.
#![allow(unsafe_code)]
//! Unsafe code: volatile and atomic accesses through a raw pointer. What must hold: a [`Memory`] is made for `len`
//! bytes that stay mapped for its lifetime, every access is checked against `len` first, and no `&` or `&mut` to
//! plain bytes is ever made but by the two methods that are unsafe themselves.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

/// A view of memory that other threads and processes may write at any time: bytes are copied out and in, never
/// borrowed. As cheap to copy as a pointer with a length.
///
/// Plain loads and stores are volatile: one access each if the offset is a multiple of the size, in the order of the
/// program as far as the compiler goes; they order nothing else. For synchronisation there are the atomics.
///
/// # Panics
///
/// Every method panics if what it shall access doesn't lie inside, like an index into a slice.
#[derive(Clone, Copy)]
pub struct Memory<'a> {
    base: *mut u8,
    len: usize,
    life: PhantomData<&'a AtomicU8>,
}

// SAFETY: what a `Memory` does from several threads at once is volatile or atomic, and checked; its base and length
// never change.
unsafe impl Send for Memory<'_> {}
// SAFETY: as above.
unsafe impl Sync for Memory<'_> {}

macro_rules! accesses {
    ($($ty:ty, $atomic:ty, $load:ident, $store:ident, $as_atomic:ident;)*) => {$(
        #[doc = concat!("Loads the `", stringify!($ty), "` at `off` (little-endian).")]
        #[inline]
        #[must_use]
        pub fn $load(self, off: usize) -> $ty {
            let at = self.at(off, size_of::<$ty>()).cast::<$ty>();
            if !at.is_aligned() {
                return <$ty>::from_le_bytes(self.read(off));
            }
            // SAFETY: inside (`at` checked), aligned; every bit pattern is a value.
            unsafe { at.read_volatile() }
        }

        #[doc = concat!("Stores a `", stringify!($ty), "` at `off` (little-endian).")]
        #[inline]
        pub fn $store(self, off: usize, value: $ty) {
            let at = self.at(off, size_of::<$ty>()).cast::<$ty>();
            if !at.is_aligned() {
                return self.write_at(off, &value.to_le_bytes());
            }
            // SAFETY: inside (`at` checked), aligned; no reference to plain bytes exists (or the caller of an unsafe
            // method answers for it).
            unsafe { at.write_volatile(value) }
        }

        #[doc = concat!("The atomic at `off`, which must be a multiple of its size. Shared with all that map the file.")]
        #[inline]
        #[must_use]
        pub fn $as_atomic(self, off: usize) -> &'a $atomic {
            let at = self.at(off, size_of::<$ty>());
            if !at.addr().is_multiple_of(align_of::<$atomic>()) {
                misaligned(off);
            }
            // SAFETY: inside (checked), aligned (checked), valid for 'a by the contract of `new`; whoever else writes
            // it does so from outside this program's memory model, or by volatile or atomic stores.
            unsafe { &*at.cast::<$atomic>() }
        }
    )*};
}

impl<'a> Memory<'a> {
    /// A view of `len` bytes at `base`.
    ///
    /// # Safety
    ///
    /// For `'a`, the range belongs to the caller's mapping (whatever lies behind it; an access may end in a signal),
    /// is not larger than `isize::MAX`, and is accessed by this program only through `Memory`, pointers and atomics.
    #[inline]
    #[must_use]
    pub unsafe fn new(base: *mut u8, len: usize) -> Self {
        Self { base, len, life: PhantomData }
    }

    /// Length in bytes.
    #[inline]
    #[must_use]
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    #[inline]
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// A part of it.
    #[inline]
    #[must_use]
    pub fn part(self, off: usize, len: usize) -> Self {
        Self { base: self.at(off, len), len, life: PhantomData }
    }

    /// `count` numbers one after the other from `off`, which must be a multiple of their size.
    #[inline]
    #[must_use]
    pub fn cells<T: Number>(self, off: usize, count: usize) -> Cells<'a, T> {
        let Some(bytes) = count.checked_mul(size_of::<T>()) else { outside(off, usize::MAX, self.len) };
        let base = self.at(off, bytes).cast::<T>();
        if !base.is_aligned() {
            misaligned(off);
        }
        Cells { base, count, life: PhantomData }
    }

    /// Its first byte.
    #[inline]
    #[must_use]
    pub fn as_ptr(self) -> *mut u8 {
        self.base
    }

    accesses! {
        u8, AtomicU8, load_u8, store_u8, atomic_u8;
        u16, AtomicU16, load_u16, store_u16, atomic_u16;
        u32, AtomicU32, load_u32, store_u32, atomic_u32;
        u64, AtomicU64, load_u64, store_u64, atomic_u64;
    }

    /// A copy of the `N` bytes at `off`.
    #[inline]
    #[must_use]
    pub fn read<const N: usize>(self, off: usize) -> [u8; N] {
        let mut bytes = [0; N];
        self.read_at(off, &mut bytes);
        bytes
    }

    /// Copies bytes out.
    #[inline]
    pub fn read_at(self, off: usize, to: &mut [u8]) {
        let from = self.at(off, to.len());
        // SAFETY: the source lies inside (checked), the destination is borrowed; they are different memory, since no
        // `&mut` to the mapping exists (or the caller of `as_mut_slice` answers for it).
        unsafe { copy_out(from, to.as_mut_ptr(), to.len()) }
    }

    /// Copies bytes out through the kernel (process_vm_writev(2)), and returns how many: fewer where a page can't be read, which is SIGBUS to a load.
    pub fn copy_out(self, off: usize, to: &mut [u8]) -> std::io::Result<usize> {
        let from = self.at(off, to.len());
        // SAFETY: the destination is borrowed for writing, and every byte is a value; the source lies inside (checked), and is other memory.
        unsafe { crate::transfer::transfer(from, to.as_mut_ptr(), to.len()) }
    }

    /// Copies bytes in.
    #[inline]
    pub fn write_at(self, off: usize, from: &[u8]) {
        let to = self.at(off, from.len());
        // SAFETY: as in `read_at`, the other way round.
        unsafe { copy_in(from.as_ptr(), to, from.len()) }
    }

    /// Sets `len` bytes to `byte`.
    #[inline]
    pub fn fill(self, off: usize, len: usize, byte: u8) {
        let block = [byte; 256];
        let mut done = 0;
        while done < len {
            let step = block.len().min(len - done);
            self.write_at(off + done, &block[..step]);
            done += step;
        }
    }

    /// All of it as bytes.
    ///
    /// # Safety
    ///
    /// For `'a`, nobody writes it: not this process, and no other that maps the file.
    #[inline]
    #[must_use]
    pub unsafe fn as_slice(self) -> &'a [u8] {
        // SAFETY: mapped for 'a by the contract of `new`; not written by this method's.
        unsafe { std::slice::from_raw_parts(self.base, self.len) }
    }

    /// All of it as bytes to write.
    ///
    /// # Safety
    ///
    /// For `'a`, nobody else reads or writes it, through this view or another, in this process or another; and it is
    /// mapped for writing.
    #[inline]
    #[must_use]
    pub unsafe fn as_mut_slice(self) -> &'a mut [u8] {
        // SAFETY: mapped for 'a by the contract of `new`; not aliased by this method's.
        unsafe { std::slice::from_raw_parts_mut(self.base, self.len) }
    }

    /// The address of `len` bytes at `off`, if they lie inside.
    #[inline]
    fn at(self, off: usize, len: usize) -> *mut u8 {
        // In this form the first half is constant in a loop.
        if len > self.len || off > self.len - len {
            outside(off, len, self.len);
        }
        // SAFETY: `off <= self.len`, and `new`'s contract says that `len` bytes belong to one mapping, within
        // isize::MAX.
        unsafe { self.base.add(off) }
    }
}

impl fmt::Debug for Memory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({:p}, {} bytes)", self.base, self.len)
    }
}

/// Numbers that lie one after the other in a [`Memory`], by index. In a loop up to [`Self::len`] the compiler drops
/// the checks, so this is the way to go through much memory.
///
/// # Panics
///
/// Beyond the end, like a slice.
#[derive(Clone, Copy, Debug)]
pub struct Cells<'a, T> {
    base: *mut T,
    count: usize,
    life: PhantomData<&'a AtomicU8>,
}

// SAFETY: as for `Memory`.
unsafe impl<T: Number> Send for Cells<'_, T> {}
// SAFETY: as for `Memory`.
unsafe impl<T: Number> Sync for Cells<'_, T> {}

/// A type whose every bit pattern is a value, and that the machine loads and stores in one access: the unsigned
/// integers.
pub trait Number: Copy + sealed::Sealed {}

mod sealed {
    pub trait Sealed {}
}

macro_rules! numbers {
    ($($ty:ty),*) => {$(
        impl sealed::Sealed for $ty {}
        impl Number for $ty {}
    )*};
}

numbers!(u8, u16, u32, u64);

impl<'a, T: Number> Cells<'a, T> {
    /// How many there are.
    #[inline]
    #[must_use]
    pub fn len(self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[inline]
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.count == 0
    }

    /// Loads number `i`.
    #[inline]
    #[must_use]
    pub fn load(self, i: usize) -> T {
        // SAFETY: `at` checked the index; aligned (`Memory::cells` checked); every bit pattern is a `Number`.
        unsafe { self.at(i).read_volatile() }
    }

    /// Stores number `i`.
    #[inline]
    pub fn store(self, i: usize, value: T) {
        // SAFETY: as in `load`; no reference to plain bytes exists (or the caller of an unsafe method answers for
        // it).
        unsafe { self.at(i).write_volatile(value) }
    }

    /// Loads them one after the other.
    #[inline]
    pub fn iter(self) -> impl ExactSizeIterator<Item = T> + use<'a, T> {
        (0..self.count).map(move |i| self.load(i))
    }

    #[inline]
    fn at(self, i: usize) -> *mut T {
        if i >= self.count {
            outside(i, 1, self.count);
        }
        // SAFETY: `i < count`, and `count` numbers lie in one mapping (`Memory::cells` checked).
        unsafe { self.base.add(i) }
    }
}

#[cold]
#[inline(never)]
fn outside(off: usize, len: usize, whole: usize) -> ! {
    panic!("{len} at {off} do not lie in a range of {whole}")
}

#[cold]
#[inline(never)]
fn misaligned(off: usize) -> ! {
    panic!("a number at {off} is not aligned to its size")
}

/// From here on the C library's copy is the fastest, and below it a few words are. In bytes.
const CALL_FROM: usize = 64;

/// The C library's `memcpy`, called so that the compiler doesn't know what it is, and neither splits, repeats nor
/// elides it: to the compiler these are accesses from outside, like another process's. False if this machine has no
/// such call here.
///
/// # Safety
///
/// `len` bytes can be read at `from` and written at `to`; they don't overlap.
#[inline]
unsafe fn copy_by_call(from: *const u8, to: *mut u8, len: usize) -> bool {
    // SAFETY: a C call as the calling convention has it: three arguments, all that it may change declared, and the
    // stack aligned (no `nostack`). `memcpy` accesses just the two ranges that the contract allows.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!("call {f}", f = sym libc::memcpy,
            in("rdi") to, in("rsi") from, in("rdx") len, clobber_abi("C"));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("bl {f}", f = sym libc::memcpy,
            in("x0") to, in("x1") from, in("x2") len, clobber_abi("C"));
    }
    let _ = (from, to, len);
    cfg!(any(target_arch = "x86_64", target_arch = "aarch64"))
}

/// Copies in steps of a word where the shared side is aligned to words, else of a byte.
///
/// # Safety
///
/// `len` bytes can be read at `from` (shared memory) and written at `to` (the caller's own).
#[inline]
unsafe fn copy_out(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the same contract; shared memory and the caller's own don't overlap.
    if len >= CALL_FROM && unsafe { copy_by_call(from, to, len) } {
        return;
    }
    let words = if from.cast::<u64>().is_aligned() { len / 8 * 8 } else { 0 };
    for i in (0..words).step_by(8) {
        // SAFETY: `i + 8 <= len`, so both lie within what the contract allows; the source is aligned.
        unsafe { to.add(i).cast::<u64>().write_unaligned(from.add(i).cast::<u64>().read_volatile()) };
    }
    for i in words..len {
        // SAFETY: `i < len`.
        unsafe { to.add(i).write(from.add(i).read_volatile()) };
    }
}

/// As [`copy_out`], the other way round.
///
/// # Safety
///
/// `len` bytes can be read at `from` (the caller's own) and written at `to` (shared memory).
#[inline]
unsafe fn copy_in(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the same contract; shared memory and the caller's own don't overlap.
    if len >= CALL_FROM && unsafe { copy_by_call(from, to, len) } {
        return;
    }
    let words = if to.cast::<u64>().is_aligned() { len / 8 * 8 } else { 0 };
    for i in (0..words).step_by(8) {
        // SAFETY: `i + 8 <= len`, so both lie within what the contract allows; the destination is aligned.
        unsafe { to.add(i).cast::<u64>().write_volatile(from.add(i).cast::<u64>().read_unaligned()) };
    }
    for i in words..len {
        // SAFETY: `i < len`.
        unsafe { to.add(i).write_volatile(from.add(i).read()) };
    }
}
