//! The thread that reads the userfaultfd.

use super::Shared;
use codax_os::process;
use codax_os::uffd::Event;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Reads events until all is over. Reading them is what matters: a move of a placeholder goes on when its event is read.
pub(super) fn run(shared: &Shared) {
    shared.reader.store(process::thread_id(), Ordering::Relaxed);
    loop {
        match shared.uffd.next_event(&shared.stop) {
            Ok(Event::Fault { addr, tid, .. }) => shared.waits.fault(tid, addr),
            Ok(Event::Remap { .. }) => {}
            Ok(Event::Stopped) => return,
            // Nothing that is known; and not a reason to leave the other thread without us, nor to take a CPU for ourselves.
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}
