//! What a test runs on, and the processes that it starts.
#![forbid(unsafe_code)]

use codax_os::dax::DaxDevice;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Tests take turns on devices: one that takes a device away would be seen by others.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a variable names; else the test is skipped.
pub fn named(variable: &str, test: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        skip(test, &format!("{variable} names nothing"));
    }
    path
}

/// Says that a test is skipped, and why.
pub fn skip(test: &str, why: &str) {
    // Past what the test harness keeps to itself.
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}

/// The device that a variable names, for writing.
pub fn device(variable: &str, test: &str) -> Option<DaxDevice> {
    Some(DaxDevice::open(&named(variable, test)?, true).unwrap())
}

/// Bytes that differ from place to place.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A process that runs one test of this program, until this is dropped.
pub struct Helper {
    child: Child,
    _output: BufReader<ChildStdout>,
}

impl Helper {
    /// Starts the test of this name, which acts on `what`, and waits until it says that it is ready, or ends.
    pub fn start(test: &str, what: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads", "1"])
            .env("CODAX_TEST_CHILD", what)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let _ = output.by_ref().lines().map(Result::unwrap).any(|line| line == "ready");
        Self { child, _output: output }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// A process that does nothing, with this as its standard input, until this is dropped.
pub struct Sleeper(Child);

impl Sleeper {
    pub fn start(input: impl Into<Stdio>) -> Self {
        Self(Command::new("sleep").arg("1000").stdin(input).spawn().unwrap())
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// In a helper: path, offset and length of what it acts on.
pub fn errand() -> Option<(PathBuf, u64, u64)> {
    let what = std::env::var("CODAX_TEST_CHILD").ok()?;
    let mut words = what.rsplitn(3, ' ');
    let mut number = || words.next().unwrap().parse().unwrap();
    let (len, off) = (number(), number());
    Some((Path::new(words.next().unwrap()).to_owned(), off, len))
}

/// In a helper: says that it is ready, and waits for its end.
pub fn ready() {
    println!("\nready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}
