//! A private store for one figure.

use anyhow::{Context, Result, ensure};
use codax::{Device, Store};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);

/// In options: a CPU that is not the first of those that this process may use.
const CPU: &str = "{cpu}";

#[derive(Debug)]
pub struct Rig {
    dir: tempfile::TempDir,
    options: Vec<String>,
    daemon: std::cell::RefCell<Option<Child>>,
}

impl Rig {
    pub fn start(options: &[&str], config: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("codax-bench").tempdir_in("/dev/shm")?;
        std::fs::write(dir.path().join("codax.toml"), config)?;
        let rig = Self {
            dir,
            options: options
                .iter()
                .map(|o| o.replace(CPU, &Self::other_cpu().unwrap_or(0).to_string()))
                .collect(),
            daemon: std::cell::RefCell::default(),
        };
        rig.up()?;
        Ok(rig)
    }

    /// The CPU of which options speak.
    pub fn other_cpu() -> Result<u32> {
        codax_os::cpu::allowed()?.last().copied().context("no CPU")
    }

    pub fn store_dir(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// A directory beside the store.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    pub fn program() -> Command {
        // Elsewhere than where it was built: in a guest.
        let program = std::env::var_os("CODAX_TEST_PROGRAM");
        Command::new(program.unwrap_or_else(|| env!("CARGO_BIN_EXE_codax").into()))
    }

    pub fn codax(&self, args: &[&str]) -> Result<String> {
        let out = Self::program().arg("--store").arg(self.store_dir()).args(args).output()?;
        ensure!(out.status.success(), "codax {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Starts the daemon; returns how long it took until the store answered.
    pub fn up(&self) -> Result<Duration> {
        let begun = Instant::now();
        let child = Self::program()
            .args(["up", "--store"])
            .arg(self.store_dir())
            .arg("--config")
            .arg(self.dir.path().join("codax.toml"))
            .args(&self.options)
            .stdout(Stdio::null())
            .spawn()?;
        *self.daemon.borrow_mut() = Some(child);
        while Store::connect(self.store_dir()).is_err() {
            ensure!(begun.elapsed() < PATIENCE, "the daemon does not come up");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(begun.elapsed())
    }

    /// A device's coprocessor, once it is there, and its process.
    pub fn coprocessor(store: &Store, device: &str) -> Result<(Device, u32)> {
        let (begun, device) = (Instant::now(), store.device(device));
        loop {
            if let Some(pid) = device.info()?.pid {
                return Ok((device, pid));
            }
            ensure!(begun.elapsed() < PATIENCE, "there is no coprocessor");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// `kill -9`.
    pub fn kill(&self) -> Result<()> {
        if let Some(mut child) = self.daemon.borrow_mut().take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    pub fn daemon_pid(&self) -> Result<u32> {
        self.daemon.borrow().as_ref().map(Child::id).context("no daemon")
    }

    /// Resident memory of the daemon that is its own, in bytes: without the frame tables and objects, which are shared mappings.
    pub fn daemon_memory(&self) -> Result<u64> {
        let pid = self.daemon_pid()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("VmRSS")?.parse()?;
        Ok(kib * 1024)
    }

    pub fn connect(&self) -> Result<Store> {
        Ok(Store::connect(self.store_dir())?)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.codax(&["down", "--purge"]);
        if let Some(mut child) = self.daemon.borrow_mut().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
