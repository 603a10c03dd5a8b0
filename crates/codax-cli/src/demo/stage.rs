//! The demo's own place and processes, and how both go away whatever happens: at the end, on an error, on a panic, on Ctrl-C.

use codax_core::{Error, ErrorKind, Result};
use codax_os::mounts;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Memory that is not swapped to a disk and needs no rights to be used.
const SHARED_MEMORY: &str = "/dev/shm";

/// How often a process is looked at that is to end.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A place below [`SHARED_MEMORY`] and the processes that were started for it. All go when this is dropped.
#[derive(Debug)]
pub struct Stage {
    dir: PathBuf,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    children: Vec<Child>,
    /// Everything is gone, and nothing is to be started any more.
    over: bool,
}

/// A process of the stage, with its ends of pipes.
#[derive(Debug)]
pub struct Process {
    /// Its id. Its own until the stage has waited for it.
    pub pid: u32,
    /// Its standard input, if that is a pipe.
    pub stdin: Option<ChildStdin>,
    /// Its standard output, if that is a pipe.
    pub stdout: Option<ChildStdout>,
}

impl Stage {
    /// Makes the place, and clears it away too when a signal ends the program.
    pub fn new() -> Result<Self> {
        let shared = Path::new(SHARED_MEMORY);
        if !mounts::is_tmpfs(shared).unwrap_or(false) {
            return Err(Error::invalid(format!(
                "the demo needs a tmpfs on {SHARED_MEMORY}, and there is none"
            )));
        }
        // No character that the kernel escapes in its table of mounts.
        let prefix = format!("codax-demo-{}-", std::process::id());
        let place = tempfile::Builder::new().prefix(&prefix).tempdir_in(shared);
        let dir = place.map_err(|e| io_error(&format!("make a directory in {SHARED_MEMORY}"), &e))?.keep();
        let inner = Arc::new(Mutex::new(Inner { dir: dir.clone(), children: Vec::new(), over: false }));
        // From here on the place is cleared when the stage is dropped.
        let stage = Self { dir, inner };
        let signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]);
        let mut signals = signals.map_err(|e| io_error("watch signals", &e))?;
        let inner = Arc::clone(&stage.inner);
        let watch = move || {
            if signals.forever().next().is_some() {
                // Whoever else wants the stage waits until the end.
                let mut inner = lock(&inner);
                inner.clear();
                eprintln!("\ncodax: the demo was cancelled; its store is gone");
                std::process::exit(crate::exit_code(ErrorKind::Cancelled).into());
            }
        };
        let thread = std::thread::Builder::new().name("interrupt".to_owned()).spawn(watch);
        thread.map_err(|e| io_error("start a thread", &e))?;
        Ok(stage)
    }

    /// The place.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts a process.
    pub fn start(&self, command: &mut Command) -> Result<Process> {
        let mut inner = lock(&self.inner);
        if inner.over {
            return Err(Error::cancelled("the demo is over"));
        }
        // Ctrl-C is for this process, which ends the others in good order.
        let mut child = command.process_group(0).spawn().map_err(|e| io_error("start a process", &e))?;
        let process = Process { pid: child.id(), stdin: child.stdin.take(), stdout: child.stdout.take() };
        inner.children.push(child);
        Ok(process)
    }

    /// Waits until a process has ended, for so long at most.
    pub fn wait(&self, pid: u32, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            let mut inner = lock(&self.inner);
            let found = inner.children.iter_mut().find(|child| child.id() == pid);
            let child =
                found.ok_or_else(|| Error::internal(format!("process {pid} was waited for before")))?;
            if let Some(status) = child.try_wait().map_err(|e| io_error("wait for a process", &e))? {
                inner.children.retain(|child| child.id() != pid);
                return Ok(status);
            }
            drop(inner);
            if Instant::now() > deadline {
                return Err(Error::internal(format!(
                    "process {pid} has not ended within {} s",
                    limit.as_secs()
                )));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        lock(&self.inner).clear();
    }
}

impl Inner {
    /// Ends what runs, unmounts what is mounted, removes what is there.
    fn clear(&mut self) {
        self.over = true;
        for mut child in self.children.drain(..) {
            // One that has ended by itself is no error, and there is nothing else to do about the others.
            let _ = child.kill();
            let _ = child.wait();
        }
        let mut mounted = mounts_below(&self.dir);
        while let Some(mount) = mounted.pop() {
            if let Err(e) = mounts::umount(&mount) {
                eprintln!("codax: {} is still mounted: {e}", mount.display());
            }
        }
        match std::fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                eprintln!("codax: {} is still there: {e}", self.dir.display());
            }
            _ => {}
        }
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is mounted below a directory whose name has no character that the kernel escapes; the latest last.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    places.filter(|place| place.starts_with(dir)).collect()
}

/// An error of the system, with what was tried.
pub fn io_error(what: &str, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::OutOfMemory => ErrorKind::NoSpace,
        io::ErrorKind::PermissionDenied => ErrorKind::Permission,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("{what}: {error}"))
}
