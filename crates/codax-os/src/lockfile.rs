//! A file that one process at a time holds.
#![forbid(unsafe_code)]

use rustix::fs::{FlockOperation, Mode, OFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The process that has the lock, as the file says and as far as it can be read; a process of that number may be another one by now.
#[must_use]
pub fn holder(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Takes the lock, or `None` if another process has it. It is held until the descriptor is closed, so until the
/// process ends at the latest. The file (0600) then contains the process id.
pub fn take(path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(e) => return Err(e.into()),
    }
    let text = format!("{}\n", std::process::id());
    rustix::fs::ftruncate(&fd, 0)?;
    crate::object::write_all_at(&fd, text.as_bytes(), 0)?;
    Ok(Some(fd))
}
