//! Who is connected.

use codax_wire::Channel;
use rustix::net::Shutdown;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most sessions at a time.
pub(crate) const SESSIONS_MAX: usize = 1024;

/// Of those, how many only the store's owner and root may take, so that nobody can lock them out.
const SESSIONS_KEPT: usize = 32;

/// The connections that are open.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    open: Mutex<Open>,
    one_left: Condvar,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    channels: HashMap<u64, Arc<Channel>>,
}

/// A connection's place; dropping it frees it.
#[derive(Debug)]
pub(crate) struct Place {
    registry: Arc<Registry>,
    number: u64,
}

impl Registry {
    /// A place for a connection, unless all are taken.
    pub fn enter(self: &Arc<Self>, channel: &Arc<Channel>, admin: bool) -> Option<Place> {
        let mut open = self.open();
        let max = if admin { SESSIONS_MAX } else { SESSIONS_MAX - SESSIONS_KEPT };
        if open.channels.len() >= max {
            return None;
        }
        open.next += 1;
        let number = open.next;
        open.channels.insert(number, channel.clone());
        Some(Place { registry: self.clone(), number })
    }

    /// Takes no further requests, and waits up to `limit` until the answers are out.
    pub fn finish(&self, limit: Duration) {
        let open = self.open();
        for channel in open.channels.values() {
            let _ = rustix::net::shutdown(channel.as_ref(), Shutdown::Read);
        }
        drop(self.one_left.wait_timeout_while(open, limit, |open| !open.channels.is_empty()));
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.registry.open().channels.remove(&self.number);
        self.registry.one_left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_some_are_kept_for_the_owner() {
        let (ours, theirs) = codax_os::sock::pair().unwrap();
        let channel = Arc::new(Channel::new(ours));
        let registry = Arc::new(Registry::default());
        let enter = |admin| registry.enter(&channel, admin);
        let mut places: Vec<_> = std::iter::from_fn(|| enter(false)).collect();
        assert_eq!(places.len(), SESSIONS_MAX - SESSIONS_KEPT);
        places.extend(std::iter::from_fn(|| enter(true)));
        assert_eq!(places.len(), SESSIONS_MAX);
        places.truncate(SESSIONS_MAX - SESSIONS_KEPT - 1);
        assert!(enter(false).is_some());
        registry.finish(Duration::from_millis(1));
        assert_eq!(
            rustix::net::send(&theirs, b"late", rustix::net::SendFlags::NOSIGNAL),
            Err(rustix::io::Errno::PIPE)
        );
        let last = places.pop();
        drop(places);
        let leaving = std::thread::spawn(move || drop(last));
        registry.finish(Duration::from_secs(60));
        leaving.join().unwrap();
    }
}
