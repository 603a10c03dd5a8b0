//! Programs that use a store through the client library: this test program once more, in one of these roles.
//!
//! A client says `@ready`, then answers each line of its standard input with one line; at the end of input it ends.

use crate::holders;
use crate::rig::{Rig, Running, kernel_faults, run_limited};
use crate::setting::patience;
use codax::{Access, File, Mapping, OpenOptions, Pin, Store};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

const ROLE: &str = "CODAX_E2E_ROLE";
const WORDS: &str = "CODAX_E2E_WORDS";
/// Set where nobody has the right to catch faults of system calls: clients that make none into their mappings let them be moved all the same.
const OPT_IN: &str = "CODAX_E2E_OPT_IN";

/// Bytes from one counted page to the next.
pub const STRIDE: usize = 32 << 10;

/// Bytes at the begin of each stride that are counters: the shared one, then one for each column.
pub const COUNTERS: usize = 64;

/// A client, seen from the test.
#[derive(Debug)]
pub struct Client {
    pub process: Running,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    role: String,
}

impl Client {
    /// Starts a client of the rig's store and waits until it is ready.
    #[track_caller]
    pub fn start(rig: &Rig, role: &str, words: &[&str]) -> Self {
        let client = Self::spawn(rig, role, words);
        assert_eq!(client.line(), "ready", "{role} {words:?}");
        client
    }

    /// [`Client::start`] as another user.
    #[track_caller]
    pub fn start_as(rig: &Rig, uid: u32, role: &str, words: &[&str]) -> Self {
        let mut command = itself(rig, role, words);
        command.uid(uid).gid(uid);
        let client = Self::spawn_command(command, role, words);
        assert_eq!(client.line(), "ready", "{role} {words:?}");
        client
    }

    /// Starts a client.
    #[track_caller]
    pub fn spawn(rig: &Rig, role: &str, words: &[&str]) -> Self {
        Self::spawn_command(itself(rig, role, words), role, words)
    }

    fn spawn_command(mut command: Command, role: &str, words: &[&str]) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this program starts");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The test harness may have begun the line.
                if let Some((_, said)) = line.split_once('@') {
                    let _ = sender.send(said.to_owned());
                }
            }
        });
        Self { process: Running { child }, stdin, lines, role: format!("{role} {}", words.join(" ")) }
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The next line it says.
    #[track_caller]
    pub fn line(&self) -> String {
        match self.lines.recv_timeout(patience()) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("{}: said nothing for too long", self.role),
            Err(RecvTimeoutError::Disconnected) => panic!("{}: is gone", self.role),
        }
    }

    /// Says a line to it, without waiting for the answer.
    #[track_caller]
    pub fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("not ended");
        writeln!(stdin, "{line}").unwrap_or_else(|e| panic!("{}: {e}", self.role));
    }

    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.line()
    }

    /// What it answers; `None` if it is gone.
    pub fn ask_perhaps(&mut self, line: &str) -> Option<String> {
        writeln!(self.stdin.as_mut()?, "{line}").ok()?;
        self.lines.recv_timeout(patience()).ok()
    }

    /// A number it answers.
    #[track_caller]
    pub fn number(&mut self, line: &str) -> u64 {
        let answer = self.ask(line);
        answer.parse().unwrap_or_else(|_| panic!("{}: {line}: {answer}", self.role))
    }

    /// Ends it; it must not have failed.
    #[track_caller]
    pub fn end(mut self) {
        drop(self.stdin.take());
        let status = self.process.end();
        assert!(status.success(), "{}: {status}", self.role);
    }
}

/// This program in a role, as the user of the rig's store.
pub fn itself(rig: &Rig, role: &str, words: &[&str]) -> Command {
    let program = std::env::current_exe().expect("it runs");
    let mut command = Command::new(rig.reachable(&program));
    command.args(["--exact", "client::child", "--nocapture", "--quiet"]);
    command.env(ROLE, role).env(WORDS, words.join("\n")).env("CODAX_STORE", rig.dir());
    command.current_dir(rig.beside("."));
    if let Some(uid) = rig.uid() {
        command.uid(uid).gid(uid);
    } else if !kernel_faults() {
        command.env(OPT_IN, "1");
    }
    command
}

/// Runs a role to its end and returns what it said.
#[track_caller]
pub fn run(rig: &Rig, role: &str, words: &[&str], uid: Option<u32>) -> Vec<String> {
    let mut command = itself(rig, role, words);
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    let said = run_limited(&mut command, role.to_owned(), b"").ok();
    said.text().lines().filter_map(|line| Some(line.split_once('@')?.1.to_owned())).collect()
}

/// The clients' side; nothing to do in a usual run.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let words = std::env::var(WORDS).expect("the test says what to do");
    let words: Vec<&str> = words.split('\n').collect();
    if role == "stranger" {
        return crate::raw::stranger(words[0], number(words[1]));
    }
    if role == "eat" {
        return crate::exclusive::eat(
            number(words[0]),
            words.get(1).map(|node| node.parse().expect("a node")),
        );
    }
    if role == "churn" {
        return crate::emergency::churn(number(words[0]), number(words[1]));
    }
    if role == "map-device" {
        return holders::map_device(words[0], number(words[1]), number(words[2]));
    }
    let options = Store::options().allow_user_faults(std::env::var_os(OPT_IN).is_some());
    let store = options.connect(codax::default_dir()).expect("a daemon");
    match role.as_str() {
        "count" => {
            count(&store, words[0], usize::try_from(number(words[1])).expect("a column"), number(words[2]))
        }
        "watch" => watch(&store, words[0]),
        "hold" => hold(&store, &words),
        "drive" => crate::drivers::drive(&store, &words),
        "submit" => crate::queues::submit(&store, &words),
        "scribble" => crate::queues::harm::scribble(&store),
        "hammer" => crate::queues::harm::hammer(&store, &words),
        "rights" => crate::queues::harm::rights(&store, &words),
        "lie" => crate::drivers::lie(&store, &words),
        "fork" => crate::raw::fork(&store, words[0]),
        "pread" => crate::raw::pread(&store, words[0], words[1]),
        "mbind" => crate::raw::mbind(&store, words[0], number(words[1])),
        "direct" => crate::raw::direct(&store, words[0], words[1]),
        "reopen" => reopen(words[0], words[1]),
        "try-map" => {
            let file = codax::File::open(&store, words[0]).expect("open to all");
            let mapped = file.map(.., Access::ReadOnly).map(|_| "mapped".to_owned());
            say(&mapped.unwrap_or_else(|e| format!("{:?}: {e}", e.kind)));
        }
        "map-path" => crate::mount::map_path(words[0]),
        "tenant" => crate::quotas::tenant(&store, words[0], words[1]),
        "turns" => crate::raw::turns(&store, words[0], number(words[1]), number(words[2])),
        other => panic!("no role {other}"),
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

/// Says a line to the test.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@{line}").and_then(|()| out.flush()).expect("the test listens");
}

/// Answers each line of standard input, until it ends.
pub fn serve(mut answer: impl FnMut(&[&str]) -> String) {
    say("ready");
    for line in std::io::stdin().lines() {
        let line = line.expect("text");
        say(&answer(&line.split(' ').collect::<Vec<_>>()));
    }
}

fn read_write(store: &Store, path: &str) -> File {
    OpenOptions::new().read(true).write(true).open(store, path).expect("the file is there")
}

/// Looks at the shared counters through one mapping after the other: none may be lower than it was before.
fn look(mappings: &[&Mapping], seen: &mut [u64]) {
    for (at, seen) in seen.iter_mut().enumerate() {
        for mapping in mappings {
            let now = mapping.memory().atomic_u64(at * STRIDE).load(Ordering::Acquire);
            assert!(now >= *seen, "counter {at} went back from {seen} to {now}");
            *seen = now;
        }
    }
}

/// Increments counters all over a file: in each stride a shared one atomically, and one of its own by load and store. Two threads and four mappings look on.
///
/// `rounds` is answered with how often it has been through the file; `stop` with how often it was in the end.
fn count(store: &Store, path: &str, column: usize, pause_us: u64) {
    let file = read_write(store, path);
    let write = file.map(.., Access::ReadWrite).expect("mapped");
    let read = file.map(.., Access::ReadOnly).expect("mapped");
    let others = [Access::ReadOnly, Access::ReadWrite].map(|access| file.map(.., access).expect("mapped"));
    let counters = write.len() / STRIDE;
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let counting = scope.spawn(|| {
            let memory = write.memory();
            let mut seen = vec![0; counters];
            while !stop.load(Ordering::Relaxed) {
                for at in (0..counters).map(|at| at * STRIDE) {
                    let own = at + column * 8;
                    memory.store_u64(own, memory.load_u64(own) + 1);
                    memory.atomic_u64(at).fetch_add(1, Ordering::AcqRel);
                }
                look(&[&write, &read], &mut seen);
                rounds.fetch_add(1, Ordering::Relaxed);
                pause(pause_us);
            }
        });
        scope.spawn(|| {
            let mut seen = vec![0; counters];
            while !stop.load(Ordering::Relaxed) {
                look(&[&others[0], &others[1]], &mut seen);
                pause(pause_us);
            }
        });
        serve(|line| {
            if line[0] == "stop" {
                stop.store(true, Ordering::Relaxed);
                until_finished(&counting);
            }
            if line[0] == "waits" {
                return store.waits().count.to_string();
            }
            rounds.load(Ordering::Relaxed).to_string()
        });
        stop.store(true, Ordering::Relaxed);
    });
}

fn until_finished<T>(thread: &std::thread::ScopedJoinHandle<'_, T>) {
    crate::rig::until("a thread's end", || thread.is_finished().then_some(()));
}

fn pause(us: u64) {
    if us > 0 {
        std::thread::sleep(std::time::Duration::from_micros(us));
    }
}

/// Only looks, through a read-only mapping. Any line is answered with how often it has.
fn watch(store: &Store, path: &str) {
    let file = File::open(store, path).expect("the file is there");
    let read = file.map(.., Access::ReadOnly).expect("mapped");
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut seen = vec![0; read.len() / STRIDE];
            while !stop.load(Ordering::Relaxed) {
                look(&[&read], &mut seen);
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        serve(|_| rounds.load(Ordering::Relaxed).to_string());
        stop.store(true, Ordering::Relaxed);
    });
}

/// What a user who may read `shown` and not `mine` can do with the descriptors that they get.
fn reopen(shown: &str, mine: &str) {
    let dir = codax::default_dir();
    let channel = holders::greet(&dir);
    let kind =
        |got: codax::Result<Vec<OwnedFd>>| got.map_or_else(|e| format!("{:?}", e.kind), |_| "got it".into());
    say(&format!("mine: {}", kind(holders::raw(&channel, mine, false))));
    say(&format!("raw to write: {}", kind(holders::raw(&channel, shown, true))));
    let fd = holders::raw(&channel, shown, false).expect("it may be read").remove(0);
    let file = std::fs::File::from(fd);
    let io = |done: std::io::Result<()>| done.map_or_else(|e| e.to_string(), |()| "done".to_owned());
    let io = |done| io(done).split(" (os").next().unwrap_or_default().to_owned();
    say(&format!("write: {}", io(file.write_all_at(b"x", 0))));
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    say(&format!("reopened to write: {}", io(std::fs::File::options().write(true).open(&path).map(drop))));
    let region = codax_os::area::Region::reserve(4096).expect("addresses");
    say(&format!("map to write: {}", io(region.place(0, 4096, &file, 0, true))));
    say(&format!("truncate: {}", io(file.set_len(0))));
}

/// Holds a file as it is told: `get OFFSET`, `set OFFSET VALUE`, `pin`, `unpin`, `unmap`, `map`, `len`, `stat`.
fn hold(store: &Store, words: &[&str]) {
    let path = words[0];
    let write = words[1] == "rw";
    let store = match words.get(2) {
        Some(consent) => {
            let options = Store::options().allow_user_faults(*consent == "consents");
            options.connect(store.dir()).expect("a daemon")
        }
        None => store.clone(),
    };
    let file = OpenOptions::new().read(true).write(write).open(&store, path).expect("the file is there");
    let access = if write { Access::ReadWrite } else { Access::ReadOnly };
    let mut mapping = Some(file.map(.., access).expect("mapped"));
    say("ready");
    let mut lines = std::io::stdin().lines().map(|line| line.expect("text"));
    while let Some(line) = lines.next() {
        let line: Vec<&str> = line.split(' ').collect();
        let offset = || usize::try_from(number(line[1])).expect("an offset");
        let memory = mapping.as_ref().map(Mapping::memory);
        match line[0] {
            "get" => say(&memory.expect("mapped").load_u64(offset()).to_string()),
            "set" => {
                memory.expect("mapped").store_u64(offset(), number(line[2]));
                say("done");
            }
            "pin" => {
                // Until the next line, whatever it is.
                let pin: codax::Result<Pin<'_>> = mapping.as_ref().expect("mapped").pin();
                say(&pin.as_ref().map_or_else(ToString::to_string, |_| "pinned".to_owned()));
                let _ = lines.next();
                drop(pin);
                say("unpinned");
            }
            "unmap" => {
                mapping = None;
                say("done");
            }
            "map" => {
                mapping = Some(file.map(.., access).expect("mapped"));
                say("done");
            }
            "len" => say(&file.len().map_or_else(|e| format!("{:?}", e.kind), |len| len.to_string())),
            "stat" => {
                say(&store.stat(path).map_or_else(|e| format!("{:?}", e.kind), |info| info.len.to_string()))
            }
            other => panic!("hold: no word {other}"),
        }
    }
}

/// A file to count in: zeros where the counters are, and elsewhere bytes that nobody touches.
pub fn counted(len: u64, seed: u64) -> Vec<u8> {
    let mut bytes = crate::rig::pattern(len, seed);
    for stride in bytes.chunks_exact_mut(STRIDE) {
        stride[..COUNTERS].fill(0);
    }
    bytes
}

/// Whether `bytes` is what [`counted`] made, after clients with columns 1, 2, … have been through it so often.
#[track_caller]
pub fn check_counted(bytes: &[u8], seed: u64, rounds: &[u64]) {
    let mut wanted = counted(bytes.len() as u64, seed);
    for (at, stride) in wanted.chunks_exact_mut(STRIDE).enumerate() {
        let counters = [rounds.iter().sum::<u64>()].into_iter().chain(rounds.iter().copied());
        for (i, counter) in counters.enumerate() {
            let place = at * STRIDE + i * 8;
            let found = u64::from_le_bytes(bytes[place..place + 8].try_into().expect("8 bytes"));
            assert_eq!(found, counter, "counter {i} of stride {at} (0 is the shared one)");
            stride[i * 8..i * 8 + 8].copy_from_slice(&counter.to_le_bytes());
        }
    }
    assert!(bytes == wanted, "bytes that nobody wrote are different");
}

/// Whether those pages of `bytes` that are there are what [`counted`] made, with one client of column 1 on its way through it: it is at a stride, has been through
/// those before it once more than through those after it, and stores its own counter first.
#[track_caller]
pub fn check_on_the_way(bytes: &[u8], seed: u64, is_there: impl Fn(usize) -> bool) {
    let mut wanted = counted(bytes.len() as u64, seed);
    let mut seen: Option<(u64, u64)> = None;
    for (at, stride) in wanted.chunks_exact_mut(STRIDE).enumerate() {
        let from = at * STRIDE;
        if !is_there(from) {
            continue;
        }
        let [shared, own] =
            [0, 8].map(|i| u64::from_le_bytes(bytes[from + i..from + i + 8].try_into().expect("8 bytes")));
        assert!(own == shared || own == shared + 1, "stride {at}: {own} by itself, {shared} together");
        let (first, before) = seen.unwrap_or((own, own));
        assert!(
            own <= before && first - shared <= 1,
            "stride {at}: {own} after {before}, and {first} at first"
        );
        seen = Some((first, own));
        stride[..8].copy_from_slice(&shared.to_le_bytes());
        stride[8..16].copy_from_slice(&own.to_le_bytes());
    }
    for (at, (page, wanted)) in bytes.chunks(4096).zip(wanted.chunks(4096)).enumerate() {
        assert!(!is_there(at * 4096) || page == wanted, "page {at} has other bytes");
    }
}
