//! Who may take a step: everybody, or nobody while the device is at rest. A thread goes in once, and stays while it has work or looks out for some.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
struct State {
    open: bool,
    /// Threads that may be in a step.
    inside: usize,
}

/// Open while the device runs.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    /// As `open`, to be looked at between steps.
    shut: AtomicBool,
}

/// The right to take steps until the gate is shut.
#[derive(Debug)]
pub struct Inside<'a>(&'a Gate);

impl Gate {
    /// Shut.
    pub fn new() -> Self {
        Self { shut: AtomicBool::new(true), ..Self::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes in, if it is open.
    pub fn enter(&self) -> Option<Inside<'_>> {
        let mut state = self.state();
        state.open.then(|| {
            state.inside += 1;
            Inside(self)
        })
    }

    pub fn open(&self) {
        self.state().open = true;
        self.shut.store(false, Ordering::Release);
        self.changed.notify_all();
    }

    /// Shuts it, and waits for those inside to come out, for so long; how many haven't.
    pub fn shut(&self, within: Duration) -> usize {
        let mut state = self.state();
        state.open = false;
        self.shut.store(true, Ordering::Release);
        let (state, _) = self
            .changed
            .wait_timeout_while(state, within, |state| state.inside > 0)
            .unwrap_or_else(PoisonError::into_inner);
        state.inside
    }

    /// Waits until it is opened, or something else has happened of which [`Self::call`] tells.
    pub fn await_open(&self, or: impl Fn() -> bool) {
        let waited = self.changed.wait_while(self.state(), |state| !state.open && !or());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Has all who wait look for what has happened.
    pub fn call(&self) {
        // Who is about to wait does so under the lock.
        let _state = self.state();
        self.changed.notify_all();
    }

    pub fn is_open(&self) -> bool {
        self.state().open
    }
}

impl Inside<'_> {
    /// Whether to come out.
    pub fn is_over(&self) -> bool {
        self.0.shut.load(Ordering::Acquire)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.inside -= 1;
        // While it is open nobody waits.
        if !state.open {
            self.0.changed.notify_all();
        }
    }
}
