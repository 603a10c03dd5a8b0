//! The words of a ring, and what its two ends need beside them.
#![allow(unsafe_code)]
//! Unsafe code: turns the mapping into a header and slots of atomics. What must hold: the mapping is as long as the
//! count of slots says, and lives as long as the value. Its object can't be shortened (it is sealed), so that no
//! access ends in SIGBUS; it is accessed as atomics only, so whatever others write there is a value.

use super::layout::{Header, SLOTS_AT, Slot};
use crate::area::Area;
use crate::futex;
use crate::util::to_usize;
use std::fmt::Debug;
use std::io;
use std::os::fd::AsFd;
use std::ptr::with_exposed_provenance;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// An atomic number.
pub trait Word<T>: Debug + Send + Sync {
    fn new(value: T) -> Self;
    fn load(&self, order: Ordering) -> T;
    fn store(&self, value: T, order: Ordering);
    fn swap(&self, value: T, order: Ordering) -> T;
    fn fetch_or(&self, bits: T, order: Ordering) -> T;
    fn fetch_and(&self, bits: T, order: Ordering) -> T;
    fn fetch_add(&self, value: T, order: Ordering) -> T;
    fn fetch_sub(&self, value: T, order: Ordering) -> T;
    fn compare_exchange(&self, old: T, new: T, order: Ordering, failed: Ordering) -> Result<T, T>;
}

/// A ring's memory: the mapping, and in the model the model's own.
pub trait Shared: Debug + Send + Sync {
    type A: Word<u32>;
    type B: Word<u64>;

    fn header(&self) -> &Header<Self::A, Self::B>;
    fn slots(&self) -> &[Slot<Self::A, Self::B>];

    /// `SeqCst`.
    fn fence(&self);

    /// Sleeps while the word is `expected`, until it is woken, for no reason at all, or for so long.
    fn sleep(&self, word: &Self::A, expected: u32, at_most: Duration);

    /// Wakes all that sleep on the word.
    fn wake(&self, word: &Self::A);
}

macro_rules! word {
    ($ty:ty, $atomic:ty) => {
        impl Word<$ty> for $atomic {
            #[inline]
            fn new(value: $ty) -> Self {
                Self::new(value)
            }
            #[inline]
            fn load(&self, order: Ordering) -> $ty {
                self.load(order)
            }
            #[inline]
            fn store(&self, value: $ty, order: Ordering) {
                self.store(value, order);
            }
            #[inline]
            fn swap(&self, value: $ty, order: Ordering) -> $ty {
                self.swap(value, order)
            }
            #[inline]
            fn fetch_or(&self, bits: $ty, order: Ordering) -> $ty {
                self.fetch_or(bits, order)
            }
            #[inline]
            fn fetch_and(&self, bits: $ty, order: Ordering) -> $ty {
                self.fetch_and(bits, order)
            }
            #[inline]
            fn fetch_add(&self, value: $ty, order: Ordering) -> $ty {
                self.fetch_add(value, order)
            }
            #[inline]
            fn fetch_sub(&self, value: $ty, order: Ordering) -> $ty {
                self.fetch_sub(value, order)
            }
            #[inline]
            fn compare_exchange(
                &self,
                old: $ty,
                new: $ty,
                order: Ordering,
                failed: Ordering,
            ) -> Result<$ty, $ty> {
                self.compare_exchange(old, new, order, failed)
            }
        }
    };
}

word!(u32, AtomicU32);
word!(u64, AtomicU64);
#[cfg(test)]
pub(super) use word;

/// `fence(SeqCst)`. On x86 a locked instruction on the thread's own stack is the same to memory that is cached, which
/// this is, and takes half as long as `mfence`, which is what the compiler makes of that.
#[inline]
fn full_fence() {
    // SAFETY: changes no byte, and nothing but flags. The compiler moves no access over it (no `nomem`), and neither
    // does the processor over a locked instruction.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!("lock or dword ptr [rsp], 0");
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::sync::atomic::fence(Ordering::SeqCst);
}

/// A mapped ring.
#[derive(Debug)]
pub struct Mapped {
    area: Area,
    slots: usize,
}

/// Bytes of a ring of so many slots, whole pages.
pub(super) fn bytes(slots: u32) -> usize {
    (SLOTS_AT + to_usize(slots.into()) * size_of::<Slot<AtomicU32, AtomicU64>>())
        .next_multiple_of(crate::util::PAGE)
}

impl Mapped {
    /// Maps a ring of so many slots; its memory is taken at once. The object has [`bytes`] bytes and is sealed.
    pub(super) fn map(fd: impl AsFd, slots: u32) -> io::Result<Self> {
        let len = bytes(slots);
        let area = Area::object(fd, 0, len, true)?;
        area.populate(0, len, true)?;
        Ok(Self { area, slots: to_usize(slots.into()) })
    }
}

impl Shared for Mapped {
    type A = AtomicU32;
    type B = AtomicU64;

    #[inline]
    fn header(&self) -> &Header<AtomicU32, AtomicU64> {
        // SAFETY: the area begins with a page of header, at a page's beginning, and is neither moved nor dropped
        // while `self` is borrowed; every bit pattern is a value of atomics.
        unsafe { &*with_exposed_provenance(self.area.base()) }
    }

    #[inline]
    fn slots(&self) -> &[Slot<AtomicU32, AtomicU64>] {
        let first = with_exposed_provenance(self.area.base() + SLOTS_AT);
        // SAFETY: as above; so many slots lie there (`map`), and their beginning is a multiple of a line.
        unsafe { std::slice::from_raw_parts(first, self.slots) }
    }

    #[inline]
    fn fence(&self) {
        full_fence();
    }

    fn sleep(&self, word: &AtomicU32, expected: u32, at_most: Duration) {
        // Whatever ends it, the caller looks again.
        let _ = futex::wait(word, expected, Some(at_most));
    }

    #[cold]
    fn wake(&self, word: &AtomicU32) {
        // Can't fail: the word is mapped and aligned.
        let _ = futex::wake(std::ptr::from_ref(word).addr(), u32::MAX);
    }
}
