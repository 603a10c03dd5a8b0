//! How long processes wait for memory, as the kernel counts it (`Documentation/accounting/psi.rst`): of the machine in `/proc/pressure/memory`, of a cgroup of
//! version 2 in its `memory.pressure`.
#![forbid(unsafe_code)]

use crate::cgroup::{MemoryCgroups, Version};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the machine's is.
pub const MACHINE: &str = "/proc/pressure/memory";

/// The files that tell of the pressure on this process: the machine's, and that of the cgroup whose limit is nearest, if the kernel tells it. Empty where it
/// tells none.
#[must_use]
pub fn files() -> Vec<PathBuf> {
    let cgroups = MemoryCgroups::of(None).filter(|cgroups| cgroups.version() == Version::V2);
    let limited = cgroups
        .and_then(|cgroups| cgroups.limit())
        .and_then(|limit| Some(limit.file.parent()?.join("memory.pressure")));
    // A kernel that was booted without it has the file, and refuses to open it.
    [Some(PathBuf::from(MACHINE)), limited]
        .into_iter()
        .flatten()
        .filter(|path| fs::read(path).is_ok())
        .collect()
}

/// How long processes have waited since the start: all that would have run at once (`full`), or at least one.
pub fn waited(path: &Path, full: bool) -> io::Result<Duration> {
    total(&fs::read_to_string(path)?, full).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: no total in it", path.display()))
    })
}

/// The total of such a file.
fn total(text: &str, full: bool) -> Option<Duration> {
    let kind = if full { "full " } else { "some " };
    let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
    let total = line.split_whitespace().find_map(|word| word.strip_prefix("total="))?;
    Some(Duration::from_micros(total.parse().ok()?))
}

/// Has the kernel say when processes have waited for so long within so long.
#[derive(Debug)]
pub struct Trigger(File);

impl Trigger {
    /// On the pressure that `path` tells of. Without `CAP_SYS_RESOURCE` the kernel takes only windows of whole two seconds (`EINVAL`), and cgroups may be others'.
    pub fn new(path: &Path, full: bool, stall: Duration, window: Duration) -> io::Result<Self> {
        let flags = rustix::fs::OFlags::NONBLOCK.bits().try_into().unwrap_or(0);
        let mut file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
        let kind = if full { "full" } else { "some" };
        file.write_all(format!("{kind} {} {}\0", stall.as_micros(), window.as_micros()).as_bytes())?;
        Ok(Self(file))
    }
}

/// Waits until one of them says so, or for that long; which of them have. An error says that one is over: its cgroup has gone.
pub fn wait(triggers: &[&Trigger], timeout: Duration) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> = triggers.iter().map(|t| PollFd::new(&t.0, PollFlags::PRI)).collect();
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    match poll(&mut polled, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => return Err(e.into()),
    }
    if polled.iter().any(|p| p.revents().contains(PollFlags::ERR)) {
        return Err(io::Error::new(io::ErrorKind::NotFound, "what tells of memory pressure is gone"));
    }
    Ok(polled.iter().map(|p| p.revents().contains(PollFlags::PRI)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read_by_their_kind() {
        let text = "some avg10=0.00 avg60=1.50 avg300=0.00 total=1500\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(total(text, false), Some(Duration::from_micros(1500)));
        assert_eq!(total(text, true), Some(Duration::from_micros(7)));
        for bad in ["", "some avg10=0.00\n", "some total=x\n", "something total=4\n"] {
            assert_eq!(total(bad, false), None, "{bad}");
        }
    }

    #[test]
    fn what_the_machine_tells_can_be_waited_for() {
        for path in files() {
            let before = waited(&path, false).expect("it was read");
            assert!(waited(&path, false).expect("again") >= before);
            // Nobody waits for all of a window.
            let whole = Duration::from_secs(2);
            let trigger = match Trigger::new(&path, true, whole, whole) {
                Ok(trigger) => trigger,
                Err(e) => {
                    eprintln!("{}: {e}", path.display());
                    continue;
                }
            };
            assert_eq!(wait(&[&trigger], Duration::from_millis(1)).expect("it is there"), [false]);
            let many = Trigger::new(&path, true, 2 * whole, whole);
            assert_eq!(
                many.map(drop).map_err(|e| e.raw_os_error()),
                Err(Some(22)),
                "a stall longer than its window"
            );
        }
        assert_eq!(wait(&[], Duration::from_millis(1)).expect("nothing to wait for"), Vec::<bool>::new());
    }
}
