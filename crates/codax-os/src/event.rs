//! A wake-up for a thread that sleeps in `poll`.
#![forbid(unsafe_code)]

use rustix::event::EventfdFlags;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// An eventfd, not signalled, closed on exec.
pub fn new() -> io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Signals it, for good: whoever polls it for reading returns.
pub fn signal(event: impl AsFd) -> io::Result<()> {
    match rustix::io::write(event, &1u64.to_le_bytes()) {
        // A full counter is signalled already.
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
