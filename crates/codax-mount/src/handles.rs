//! Numbers for what is open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Things that are open, by a number that is never given out twice.
#[derive(Debug)]
pub(crate) struct Handles<T> {
    open: Mutex<Open<T>>,
}

#[derive(Debug)]
struct Open<T> {
    last: u64,
    things: HashMap<u64, Arc<T>>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self { open: Mutex::new(Open { last: 0, things: HashMap::new() }) }
    }
}

impl<T> Handles<T> {
    /// A number for `thing`.
    pub fn open(&self, thing: T) -> u64 {
        let mut open = lock(&self.open);
        open.last += 1;
        let handle = open.last;
        open.things.insert(handle, Arc::new(thing));
        handle
    }

    /// What has the number; `None` if it isn't open.
    pub fn get(&self, handle: u64) -> Option<Arc<T>> {
        lock(&self.open).things.get(&handle).cloned()
    }

    /// Forgets it.
    pub fn close(&self, handle: u64) {
        lock(&self.open).things.remove(&handle);
    }
}

/// A lock whose holders don't panic halfway.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_apart() {
        let handles = Handles::default();
        let (one, two) = (handles.open("one"), handles.open("two"));
        assert_eq!((handles.get(one).as_deref(), handles.get(two).as_deref()), (Some(&"one"), Some(&"two")));
        handles.close(one);
        assert!(handles.get(one).is_none() && handles.open("three") != one);
    }
}
