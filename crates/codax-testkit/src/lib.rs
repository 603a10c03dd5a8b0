//! A private store for tests and examples: served in this process, in a fresh directory, and deleted at the end.
//!
//! ```
//! let private = codax_testkit::Private::start().unwrap();
//! assert!(private.dir().join("sock").exists());
//! ```
#![forbid(unsafe_code)]

use codax_core::{Error, Result};
use codax_daemon::{CommandLine, Config, serve};
use codax_wire::{Channel, Hello, MAGIC, Reply, Request, SOCKET, VERSION};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;

/// Where directories for stores are made: tmpfs on every Linux machine, so that an ordinary user can serve a store there.
const ROOT: &str = "/dev/shm";

/// How long an answer of the daemon is waited for when the store is deleted.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A store with `dram` and the emulated device `sim0`, 64 MiB each. Dropping it ends its daemon and deletes everything, mounts included, also
/// after a panic.
#[derive(Debug)]
pub struct Private {
    dir: PathBuf,
    daemon: Option<JoinHandle<Result<()>>>,
    /// Removed last.
    _root: TempDir,
}

impl Private {
    /// Starts the store; clients can connect when this returns.
    pub fn start() -> Result<Self> {
        Self::with("64MiB", &["sim0=emulated:64MiB"])
    }

    /// As [`Private::start`], with sizes and devices as `codax up` takes them.
    pub fn with(dram: &str, devices: &[&str]) -> Result<Self> {
        let root = tempfile::Builder::new().prefix("codax-test-").tempdir_in(ROOT);
        let root = root.map_err(|e| Error::internal(format!("make a directory in {ROOT}: {e}")))?;
        let dir = root.path().join("store");
        let config = Config::load(&CommandLine {
            store: Some(dir.clone()),
            dram: Some(dram.to_owned()),
            devices: devices.iter().map(|&device| device.to_owned()).collect(),
            ..CommandLine::default()
        })?;
        let (ready, is_ready) = mpsc::channel();
        let daemon = std::thread::spawn(move || {
            serve(config, |_| {
                // Nobody waits only if the starting thread is gone.
                let _ = ready.send(());
            })
        });
        if is_ready.recv().is_err() {
            // It ended before it served: it has the reason.
            let ended = daemon.join().unwrap_or_else(|_| Err(Error::internal("the daemon panicked")));
            return Err(ended.err().unwrap_or_else(|| Error::internal("the daemon ended at once")));
        }
        Ok(Self { dir, daemon: Some(daemon), _root: root })
    }

    /// The store's directory, to connect to.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Asks the daemon to delete the store and end.
    fn purge(&self) -> Result<()> {
        let failed = |e: std::io::Error| Error::internal(format!("connect to {}: {e}", self.dir.display()));
        let socket = codax_os::sock::connect(&self.dir.join(SOCKET)).map_err(failed)?;
        codax_os::sock::set_recv_timeout(&socket, Some(ANSWER_TIMEOUT)).map_err(failed)?;
        let daemon = Channel::new(socket);
        let greeting = Request::Hello(Hello { magic: MAGIC, version: VERSION });
        for request in [greeting, Request::Down { purge: true }] {
            daemon.send(&request, &[])?;
            if let Some((Reply::Error(error), _)) = daemon.recv::<Reply>()? {
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let Some(daemon) = self.daemon.take() else { return };
        match self.purge() {
            Ok(()) => drop(daemon.join()),
            // Its thread ends with the process. Said, and no more: a panic here would hide the one that the test may be ending with.
            Err(error) => eprintln!("the store in {} could not be deleted: {error}", self.dir.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_after_a_panic() {
        let seen = std::sync::Mutex::new(PathBuf::new());
        let panicked = std::panic::catch_unwind(|| {
            let private = Private::start().unwrap();
            private.dir().clone_into(&mut seen.lock().unwrap());
            assert!(!private.dir().join(SOCKET).exists(), "on purpose");
        });
        let dir = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        assert!(panicked.is_err() && dir.starts_with(ROOT) && !dir.exists());
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(dir.to_str().unwrap()), "{mounts}");
    }
}
