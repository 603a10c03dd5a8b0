//! The processes of the demo: its daemon and its workers.

use super::stage::{Stage, io_error};
use super::worker::{Job, Ready, Report};
use codax_core::{Error, Result};
use codax_daemon::HOOKS_VARIABLE;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// How long a process may take to begin, to answer or to end.
const LIMIT: Duration = Duration::from_secs(60);

/// What all processes are started with.
#[derive(Debug)]
pub struct Crew<'a> {
    stage: &'a Stage,
    program: PathBuf,
    /// Capacity of each pool.
    pool_bytes: u64,
    /// As behind `codax up --device`.
    device: String,
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    /// Its process.
    pub pid: u32,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl<'a> Crew<'a> {
    /// For a store whose pools have so many bytes each, and whose device is this.
    pub fn new(stage: &'a Stage, pool_bytes: u64, device: &str) -> Result<Self> {
        let program = std::env::current_exe().map_err(|e| io_error("find this program", &e))?;
        let device = match device {
            "emulated" => format!("sim0=emulated:{pool_bytes}"),
            // A medium of its own has its own size.
            other if other.starts_with("devdax:") || other.starts_with("fsdax:") => format!("sim0={other}"),
            other => format!("sim0={other},reserve={pool_bytes}"),
        };
        Ok(Self { stage, program, pool_bytes, device })
    }

    /// The store's directory.
    pub fn store_dir(&self) -> PathBuf {
        self.stage.dir().join("store")
    }

    /// Starts the daemon and waits until it serves; with a test hook, if one is given. Returns its process id.
    pub fn start_daemon(&self, hook: Option<&str>) -> Result<u32> {
        let log = self.stage.dir().join("daemon.log");
        let stderr = OpenOptions::new().append(true).create(true).open(&log);
        let bytes = self.pool_bytes;
        let mut command = Command::new(&self.program);
        command.arg("up").arg("--store").arg(self.store_dir());
        command.arg(format!("--dram={bytes}")).arg(format!("--device={}", self.device));
        command.env_remove(HOOKS_VARIABLE).stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(stderr.map_err(|e| io_error(&log.display().to_string(), &e))?);
        if let Some(hook) = hook {
            command.env(HOOKS_VARIABLE, hook);
        }
        let process = self.stage.start(&mut command)?;
        let said = process.stdout.map(lines);
        if said.is_some_and(|lines| lines.recv_timeout(LIMIT).is_ok()) {
            return Ok(process.pid);
        }
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        let why = log.lines().next_back().unwrap_or("it says nothing").trim_start_matches("codax: ");
        Err(Error::internal(format!("the daemon does not start: {why}")))
    }

    /// Waits until the daemon has ended.
    pub fn await_daemon(&self, pid: u32) -> Result<ExitStatus> {
        self.stage.wait(pid, LIMIT)
    }

    /// Starts a worker and waits until it works.
    pub fn start_worker(&self, job: &Job) -> Result<Worker> {
        let mut command = Command::new(&self.program);
        command.env(super::worker::STORE, self.store_dir());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let process = self.stage.start(&mut command)?;
        let (Some(stdin), Some(stdout)) = (process.stdin, process.stdout) else {
            return Err(Error::internal("a worker has no pipes"));
        };
        let mut worker = Worker { pid: process.pid, stdin, lines: lines(stdout) };
        worker.tell(job)?;
        self.hear::<Ready>(&worker)?;
        Ok(worker)
    }

    /// Tells all of them to stop, and only then waits for what they have to say.
    pub fn stop(&self, workers: &mut Vec<Worker>) -> Result<Vec<Report>> {
        for worker in workers.iter_mut() {
            worker.stdin.write_all(b"stop\n").map_err(|e| io_error("tell a worker to stop", &e))?;
        }
        let mut reports = Vec::new();
        for worker in workers.drain(..) {
            reports.push(self.hear(&worker)?);
            self.stage.wait(worker.pid, LIMIT)?;
        }
        Ok(reports)
    }

    fn hear<T: DeserializeOwned>(&self, worker: &Worker) -> Result<T> {
        let pid = worker.pid;
        match worker.lines.recv_timeout(LIMIT) {
            Ok(line) => serde_json::from_str(&line).map_err(|e| {
                Error::internal(format!("worker {pid} said something else than its report: {e}"))
            }),
            Err(RecvTimeoutError::Timeout) => Err(Error::internal(format!(
                "worker {pid} is stuck: it has not answered for {} s",
                LIMIT.as_secs()
            ))),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.stage.wait(pid, LIMIT)?;
                Err(Error::internal(format!("worker {pid} has ended: {status}")))
            }
        }
    }
}

impl Worker {
    fn tell(&mut self, what: &impl Serialize) -> Result<()> {
        let mut line =
            serde_json::to_vec(what).map_err(|e| Error::internal(format!("a worker's job: {e}")))?;
        line.push(b'\n');
        self.stdin.write_all(&line).map_err(|e| io_error("tell a worker what to do", &e))
    }
}

/// The lines of a pipe, as they come, so that there can be a limit to waiting for them.
fn lines(pipe: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(std::io::Result::ok) {
            // Read on when nobody wants them, so that nobody has to wait for a full pipe.
            let _ = sender.send(line);
        }
    });
    receiver
}
