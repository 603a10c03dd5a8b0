//! Keeps `fork` out of the instants in which a fresh mapping of an object would still be inherited.
//!
//! `mmap` has no flag for "not in children"; it takes a second call, `madvise(MADV_DONTFORK)`. A child born between
//! the two would hold the object for as long as it lives, see old bytes after a move, and keep a drain waiting. So
//! both calls are made with [`gate`] held, and a handler that glibc runs around `fork` takes the same lock.
#![allow(unsafe_code)]
//! Unsafe code: registers the handlers, and keeps a lock's guard from the one that runs before `fork` to those that
//! run after it. `HELD` is touched only by a thread that holds `GATE`.

use std::cell::UnsafeCell;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

static GATE: Mutex<()> = Mutex::new(());
static HELD: Held = Held(UnsafeCell::new(None));
static HANDLERS: Once = Once::new();

struct Held(UnsafeCell<Option<MutexGuard<'static, ()>>>);

// SAFETY: the cell is read and written only by the thread that holds `GATE` (see `before` and `after`), and the guard
// is dropped by the thread that took it, or by its image in the child.
unsafe impl Sync for Held {}

/// While this is held, no other thread forks.
pub(crate) fn gate() -> MutexGuard<'static, ()> {
    HANDLERS.call_once(|| {
        // SAFETY: three functions that live as long as the program, none of which panics or takes any other lock. It
        // fails only for want of memory, and then a fork is merely not held off.
        unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after)) };
    });
    GATE.lock().unwrap_or_else(PoisonError::into_inner)
}

unsafe extern "C" fn before() {
    let guard = GATE.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: this thread holds `GATE`, so no other touches the cell.
    unsafe { *HELD.0.get() = Some(guard) };
}

unsafe extern "C" fn after() {
    // SAFETY: `before` ran in this thread (in the child: in the thread this one is the image of) and took `GATE`.
    drop(unsafe { (*HELD.0.get()).take() });
}
