//! Coprocessors in software: this program once more for each, as the driver of a device; started again when it dies, ended with the daemon.

use crate::detach;
use crate::device::Device;
use crate::server::start;
use codax_core::change::BackingKind;
use codax_core::{Error, Result};
use codax_engine::Store;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::warn;

/// The subcommand of the program that is a coprocessor.
pub const SUBCOMMAND: &str = "coprocessor";

/// The program, whatever has become of its file.
const PROGRAM: &str = "/proc/self/exe";

/// How long the daemon's start waits until each drives its device.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// The pause before one that died is started again: the first, and the longest; it doubles as long as they live no longer than that.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// The coprocessors of a store's devices.
#[derive(Debug)]
pub(crate) struct Coprocessors {
    watched: Vec<(Arc<Watched>, JoinHandle<()>)>,
}

/// The coprocessor of a device.
#[derive(Debug)]
struct Watched {
    store: Store,
    dir: PathBuf,
    device: String,
    cpu: Option<u32>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    child: Option<Child>,
    ending: bool,
}

/// Refuses a CPU on which this process, and so a coprocessor, may not run.
pub(crate) fn check(devices: &[Device]) -> Result<()> {
    let wanted = devices.iter().filter_map(|device| Some((device, device.software?.cpu?)));
    for (device, cpu) in wanted {
        let allowed = codax_os::cpu::allowed().map_err(|e| Error::internal(format!("CPUs: {e}")))?;
        if !allowed.contains(&cpu) {
            let line = format!("device {}: cpu={cpu}: the daemon may run on {allowed:?}", device.name);
            return Err(Error::invalid(line));
        }
    }
    Ok(())
}

/// The devices that have one, and the CPU to keep it on: those that are named, and those that the store knows.
fn wanted(store: &Store, devices: &[Device]) -> Vec<(String, Option<u32>)> {
    let named = devices.iter().filter_map(|device| Some((device.name.clone(), device.software?.cpu)));
    let is_named = |name: &str| devices.iter().any(|device| device.name == name);
    let known = store.info().pools.into_iter();
    let known = known.filter(|pool| pool.backing == BackingKind::Software && !is_named(&pool.name));
    named.chain(known.map(|pool| (pool.name, None))).collect()
}

impl Coprocessors {
    /// Starts them, and waits until they drive them; one that doesn't is in the events.
    pub fn start(store: &Store, dir: &Path, devices: &[Device]) -> Result<Self> {
        let mut all = Self { watched: Vec::new() };
        for (device, cpu) in wanted(store, devices) {
            let watched = Arc::new(Watched {
                store: store.clone(),
                dir: dir.to_owned(),
                device,
                cpu,
                state: Mutex::default(),
                changed: Condvar::new(),
            });
            let watching = watched.clone();
            match start("coprocessor", move || watching.keep()) {
                Ok(thread) => all.watched.push((watched, thread)),
                Err(e) => {
                    all.end();
                    return Err(e);
                }
            }
        }
        let begun = Instant::now();
        for (watched, _) in &all.watched {
            let left = START_PATIENCE.saturating_sub(begun.elapsed());
            if !store.wait_for_driver(&watched.device, left) {
                warn!("device {}: its coprocessor does not drive it yet", watched.device);
            }
        }
        Ok(all)
    }

    /// Ends them, with all that they were at.
    pub fn end(self) {
        for (watched, _) in &self.watched {
            let mut state = watched.state();
            state.ending = true;
            // It may have ended by itself.
            let _ = state.child.as_mut().map(Child::kill);
            watched.changed.notify_all();
        }
        for (_, thread) in self.watched {
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}

impl Watched {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has one run until the end.
    fn keep(&self) {
        let mut pause = PAUSES.0;
        loop {
            let begun = Instant::now();
            let how = match self.run() {
                Ok(how) => how,
                Err(e) => e.to_string(),
            };
            if self.state().ending {
                return;
            }
            let line = format!("its coprocessor {how}: it is started again");
            warn!("device {}: {line}", self.device);
            self.store.note("driver", &self.device, &line);
            pause = if begun.elapsed() > PAUSES.1 { PAUSES.0 } else { pause };
            let state = self.state();
            let waited = self.changed.wait_timeout_while(state, pause, |state| !state.ending);
            if waited.unwrap_or_else(PoisonError::into_inner).0.ending {
                return;
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Starts one, and waits for its end: how it ended.
    fn run(&self) -> Result<String> {
        let failed = |e: io::Error| Error::internal(format!("can't be started: {e}"));
        let mut command = Command::new(PROGRAM);
        command.arg0("codax").arg("--store").arg(&self.dir).args([SUBCOMMAND, "--device", &self.device]);
        command.args(self.cpu.map(|cpu| format!("--cpu={cpu}")));
        command.env_remove(detach::CHILD_VARIABLE);
        // What a terminal sends to the daemon is not for it: the daemon ends it.
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        if detach::is_child() {
            // What the daemon has until it serves is who started it's, and is waited for.
            command.stderr(detach::log(&self.dir)?);
        }
        let (pid, process) = {
            let mut state = self.state();
            if state.ending {
                return Ok(String::new());
            }
            let child = state.child.insert(command.spawn().map_err(failed)?);
            let pid = Pid::from_child(child);
            (child.id(), pidfd_open(pid, PidfdFlags::empty()).map_err(|e| failed(e.into()))?)
        };
        let mut polled = [PollFd::new(&process, PollFlags::IN)];
        retry_on_intr(|| poll(&mut polled, None)).map_err(|e| failed(e.into()))?;
        let mut child = self.state().child.take();
        let status = child.as_mut().map(Child::wait).transpose().map_err(failed)?;
        let how = status.map_or_else(String::new, |status| status.to_string());
        Ok(format!("(process {pid}) has ended, {how}"))
    }
}
