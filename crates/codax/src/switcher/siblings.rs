//! The connections of this process over which it maps files of one store.
//!
//! After a restart of the daemon they come back one by one. The daemon sees from outside that a process maps a file, not over which of its connections;
//! so each of them says how many there are, and until so many are back nothing that the process maps is moved.

use crate::link::{Identity, Link, identity, lock};
use codax_wire::Request;
use std::sync::{Arc, Mutex, Weak};

static LINKS: Mutex<Vec<(Identity, Weak<Link>)>> = Mutex::new(Vec::new());

/// A connection that counts, until this is dropped.
#[derive(Debug)]
pub(super) struct Sibling {
    link: Arc<Link>,
    store: Identity,
}

impl Sibling {
    /// To be entered before it attaches.
    pub(super) fn enter(link: &Arc<Link>) -> Self {
        let store = identity(link.dir());
        lock(&LINKS).push((store, Arc::downgrade(link)));
        Self { link: Arc::clone(link), store }
    }

    /// How many connections there are, this one among them.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(of_store(self.store).len()).unwrap_or(u32::MAX)
    }
}

impl Drop for Sibling {
    fn drop(&mut self) {
        if self.link.is_fork() {
            // Another thread of the parent may have had the lock in that moment.
            return;
        }
        lock(&LINKS).retain(|(_, link)| !std::ptr::eq(link.as_ptr(), Arc::as_ptr(&self.link)));
        // More need not be told: who is new says it.
        let others = of_store(self.store);
        let links = Request::Links(u32::try_from(others.len()).unwrap_or(u32::MAX));
        others.iter().for_each(|other| other.tell_now(&links));
    }
}

/// The connections to a store. What a fork inherited is its parent's.
fn of_store(store: Identity) -> Vec<Arc<Link>> {
    let links = lock(&LINKS);
    let same = links.iter().filter(|(of, _)| *of == store);
    same.filter_map(|(_, link)| link.upgrade()).filter(|link| !link.is_fork()).collect()
}
