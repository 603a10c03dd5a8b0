//! A store of its own for each test: a fresh directory on tmpfs, the real program as its daemon and as its commands.
//!
//! Whatever happens to the test, dropping the [`Rig`] ends what it started (by process id), unmounts and removes.

use crate::setting::{self, patience, slowed_text};
use codax_engine::store::Layout;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An ordinary user.
pub const NOBODY: u32 = 65534;

pub const MIB: u64 = 1 << 20;

/// Whether this process is root.
pub fn root() -> bool {
    codax_os::process::uid() == 0
}

/// Says why a test has nothing to show here.
pub fn skipped(name: &str, why: &str) {
    // Past the test harness, which shows nothing of a test that passes.
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {why}");
}

/// Whether a client of root's store catches faults of system calls.
pub fn kernel_faults() -> bool {
    codax_os::uffd::Uffd::new(None).is_ok_and(|(_, kernel)| kernel)
}

/// A process that ends with this value, by its id.
#[derive(Debug)]
pub struct Running {
    pub child: Child,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the process is there until it is waited for");
    }

    /// Stops it, and returns when it has stopped.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        self.await_state('T');
    }

    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    pub fn await_state(&self, wanted: char) {
        until(&format!("process {} in state {wanted}", self.pid()), || {
            (state_of(self.pid()) == Some(wanted)).then_some(())
        });
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end.
    pub fn end(&mut self) -> std::process::ExitStatus {
        let pid = self.pid();
        until(&format!("end of process {pid}"), || self.child.try_wait().expect("our child"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The state of a process, as `/proc` says.
pub fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
}

/// Asks again and again until there is an answer.
#[track_caller]
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < patience(), "waited too long for {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// What a command said and how it ended.
#[derive(Clone, Debug)]
pub struct Said {
    pub words: String,
    pub code: i32,
    pub out: Vec<u8>,
    pub err: String,
}

impl Said {
    fn new(words: String, output: Output) -> Self {
        let code = output.status.code().unwrap_or(-1);
        let err = String::from_utf8(output.stderr).expect("messages are text");
        Self { words, code, out: output.stdout, err }
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.out).expect("text")
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self}");
        self
    }

    /// It failed with this code, and one line that has these words in it.
    #[track_caller]
    pub fn fails(self, code: i32, says: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self}");
        let lines: Vec<_> = self.err.lines().filter(|line| line.starts_with("codax: ")).collect();
        assert_eq!(lines.len(), 1, "one line says what is wrong: {self}");
        for word in says {
            assert!(lines[0].contains(word), "`{word}` is not in: {self}");
        }
        self
    }

    /// The rows of its JSON, which has the one envelope there is.
    #[track_caller]
    pub fn rows(&self) -> Vec<Value> {
        let json: Value = serde_json::from_slice(&self.out).unwrap_or_else(|e| panic!("{e}: {self}"));
        let keys: Vec<_> = json.as_object().expect("an object").keys().cloned().collect();
        let keys: BTreeSet<_> = keys.iter().map(String::as_str).collect();
        assert_eq!(keys, ["command", "rows", "schema"].into());
        assert_eq!(json["schema"], 1);
        json["rows"].as_array().expect("rows").clone()
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let out = String::from_utf8_lossy(&self.out);
        write!(f, "`codax {}` ended with {}\n--- out\n{out}\n--- err\n{}", self.words, self.code, self.err)
    }
}

/// How a store is made.
#[derive(Clone, Debug)]
pub struct Plan {
    dram: String,
    devices: Vec<String>,
    config: String,
    huge: String,
    uid: Option<u32>,
    cgroup: Option<PathBuf>,
    /// Takes huge pages beside other tests.
    takes_huge_pages: bool,
}

impl Plan {
    /// `dram` and the device `sim0`, of 64 MiB each.
    pub fn new() -> Self {
        let plan = Self {
            dram: String::new(),
            devices: Vec::new(),
            config: String::new(),
            huge: setting::huge(),
            uid: None,
            cgroup: None,
            takes_huge_pages: false,
        };
        // On a busy machine a client that is well may take its time; tests of those that aren't say how long.
        plan.dram("64MiB").device("64MiB").patient(Duration::from_secs(10))
    }

    /// So much of the host's own memory.
    pub fn dram(mut self, size: &str) -> Self {
        self.dram = setting::dram(size);
        self
    }

    /// The device `sim0` with so much memory.
    pub fn device(self, size: &str) -> Self {
        self.device_named("sim0", size)
    }

    /// The only device, under this name.
    pub fn device_named(mut self, name: &str, size: &str) -> Self {
        self.devices = vec![setting::device(name, size)];
        self.takes_huge_pages = setting::takes_huge_pages();
        self
    }

    /// The only device, as it would be typed.
    pub fn device_as(mut self, device: &str) -> Self {
        self.devices = vec![device.to_owned()];
        self.takes_huge_pages = false;
        self
    }

    /// Each device, as it would be typed.
    pub fn each_device(&self) -> impl Iterator<Item = &str> {
        self.devices.iter().map(String::as_str)
    }

    /// Those that the configuration has.
    pub fn without_devices(mut self) -> Self {
        self.devices.clear();
        self.takes_huge_pages = false;
        self
    }

    /// One more device, as it would be typed.
    pub fn and_device(mut self, device: &str) -> Self {
        self.devices.push(device.to_owned());
        self
    }

    /// The daemon is in this cgroup, by its directory.
    pub fn within(mut self, cgroup: &Path) -> Self {
        self.cgroup = Some(cgroup.to_owned());
        self
    }

    /// How long clients may take to answer, in place of a configuration.
    pub fn patient(self, limit: Duration) -> Self {
        self.config(&format!("ack_timeout = \"{}\"\n", slowed_text(limit)))
    }

    /// Text of `codax.toml`.
    pub fn config(mut self, text: &str) -> Self {
        self.config = text.into();
        self
    }

    /// Which huge pages `dram` has.
    pub fn huge(mut self, mode: &str) -> Self {
        self.huge = format!("huge = \"{mode}\"\n");
        self
    }

    fn configuration(&self) -> String {
        let huge = if self.config.contains("huge") { "" } else { &self.huge };
        // Before sections.
        format!("{huge}{}", self.config)
    }

    /// Belongs to this user, if this process may choose.
    pub fn user(mut self, uid: u32) -> Self {
        self.uid = root().then_some(uid);
        self
    }

    /// Makes the place and starts the daemon.
    pub fn up(self) -> Rig {
        let rig = self.place();
        rig.up();
        rig
    }

    /// Makes the place.
    pub fn place(self) -> Rig {
        Rig::new(self)
    }
}

/// A store with all that a test starts beside it.
#[derive(Debug)]
pub struct Rig {
    root: PathBuf,
    plan: Plan,
    program: PathBuf,
    daemon: Mutex<Option<Running>>,
    /// What it has while others wait for it. Dropped after all else.
    _locks: Vec<File>,
}

impl Rig {
    fn new(mut plan: Plan) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep_old();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = PathBuf::from(format!("/dev/shm/codax-e2e-{}-{number}", std::process::id()));
        fs::create_dir(&root).expect("a fresh directory");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("ours");
        if let Some(uid) = plan.uid {
            std::os::unix::fs::chown(&root, Some(uid), Some(uid)).expect("root may");
        }
        fs::write(root.join("codax.toml"), plan.configuration()).expect("ours");
        let program = setting::program();
        let mut locks = own_devices(&plan.devices);
        if plan.takes_huge_pages {
            let lock = File::create(setting::HUGE_LOCK).expect("root may");
            lock.lock_shared().expect("nobody has it for ever");
            locks.push(lock);
        }
        make_directories(&mut plan, &root);
        let mut rig = Self { root, plan, program, daemon: Mutex::new(None), _locks: locks };
        rig.program = rig.reachable(&rig.program);
        rig
    }

    /// The store's directory.
    pub fn dir(&self) -> PathBuf {
        self.root.join("store")
    }

    /// A path outside the store that goes with it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// What its only device is, as behind `--device sim0=`.
    pub fn device(&self) -> &str {
        let [device] = &self.plan.devices[..] else { panic!("one: {:?}", self.plan.devices) };
        device.split_once('=').expect("it has a name").1
    }

    pub fn uid(&self) -> Option<u32> {
        self.plan.uid
    }

    /// The program, or a copy where the store's user can run it.
    pub fn reachable(&self, program: &Path) -> PathBuf {
        let Some(uid) = self.plan.uid else { return program.to_owned() };
        let mut probe = Command::new(program);
        probe.uid(uid).gid(uid).arg("--help").stdout(Stdio::null()).stderr(Stdio::null());
        if probe.status().is_ok_and(|status| status.success()) {
            return program.to_owned();
        }
        let copy = self.root.join(program.file_name().expect("a program has a name"));
        if !copy.exists() {
            fs::copy(program, &copy).expect("room for a program");
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("ours");
        }
        copy
    }

    /// A command of the program's, as the store's user.
    pub fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words);
        // Of a device that outlives the power the tests' drains say that what is there needn't.
        let is = |at: usize, word: &str| words.get(at).is_some_and(|is| is.as_ref() == word);
        if setting::is_dax() && is(0, "device") && is(1, "drain") {
            command.arg("--volatile");
        }
        self.settled(command)
    }

    /// The daemon's command line, by way of a shell that enters its cgroup first, if it is to have one.
    fn daemon_command(&self, words: &[OsString]) -> Command {
        let Some(cgroup) = &self.plan.cgroup else { return self.command(words) };
        let mut command = Command::new("sh");
        let enter = "echo $$ >\"$0\" && exec \"$@\"";
        command.args(["-c", enter]).arg(cgroup.join("cgroup.procs")).arg(&self.program).args(words);
        self.settled(command)
    }

    fn settled(&self, mut command: Command) -> Command {
        command.env("CODAX_STORE", self.dir()).current_dir(&self.root).stdin(Stdio::null());
        command.env_remove("CODAX_AT").env_remove("CODAX_LOG");
        if let Some(uid) = self.plan.uid {
            command.uid(uid).gid(uid);
        }
        command
    }

    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Said {
        self.feed(words, b"")
    }

    /// Runs a command with these bytes on its standard input.
    #[track_caller]
    pub fn feed<S: AsRef<OsStr>>(&self, words: &[S], input: &[u8]) -> Said {
        let mut command = self.command(words);
        let shown = words.iter().fold(String::new(), |mut all, word| {
            let _ = write!(all, "{} ", word.as_ref().to_string_lossy());
            all
        });
        run_limited(&mut command, shown, input)
    }

    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, words: &[S]) -> Said {
        self.run(words).ok()
    }

    /// The rows of a command with `--json`.
    #[track_caller]
    pub fn rows(&self, words: &[&str]) -> Vec<Value> {
        let all: Vec<_> = words.iter().copied().chain(["--json"]).collect();
        self.ok(&all).rows()
    }

    /// Its only row.
    #[track_caller]
    pub fn row(&self, words: &[&str]) -> Value {
        let mut rows = self.rows(words);
        assert_eq!(rows.len(), 1, "{words:?}: {rows:?}");
        rows.remove(0)
    }

    /// Waits for the one client that had a file mapped when the daemon died.
    #[track_caller]
    pub fn until_mapped_again(&self, path: &str) {
        until("the client is back", || {
            let by = self.row(&["stat", path])["mapped_by"].clone();
            by.as_array().is_some_and(|by| by.len() == 1).then_some(())
        });
    }

    #[track_caller]
    pub fn put(&self, path: &str, bytes: &[u8], more: &[&str]) -> Said {
        let words: Vec<_> = ["put", "-", path].into_iter().chain(more.iter().copied()).collect();
        self.feed(&words, bytes)
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Vec<u8> {
        self.ok(&["get", path, "-"]).out
    }

    /// Pools in which a file lies.
    #[track_caller]
    pub fn pools_of(&self, path: &str) -> Vec<String> {
        let runs = self.row(&["stat", path])["runs"].as_array().expect("runs").clone();
        let mut pools: Vec<_> =
            runs.iter().map(|run| run["pool"].as_str().expect("a name").to_owned()).collect();
        pools.sort();
        pools.dedup();
        pools
    }

    /// A number of a pool's, as `df` says.
    #[track_caller]
    pub fn pool(&self, name: &str, field: &str) -> u64 {
        let rows = self.rows(&["df"]);
        let pool = rows.iter().find(|pool| pool["name"] == name).expect("the pool is there");
        pool[field].as_u64().expect("a number")
    }

    /// State of a device.
    #[track_caller]
    pub fn state(&self, name: &str) -> String {
        self.row(&["device", "show", name])["state"].as_str().expect("a word").to_owned()
    }

    /// What the store has recorded.
    #[track_caller]
    pub fn events(&self, what: &str) -> Vec<String> {
        let rows = self.rows(&["events"]);
        let wanted = rows.iter().filter(|event| event["what"] == what);
        wanted.map(|event| format!("{} {}", event["subject"], event["detail"])).collect()
    }

    /// Frame table, journal and objects agree.
    #[track_caller]
    pub fn sound(&self) {
        assert_eq!(self.ok(&["check"]).text(), "frame table, journal and objects agree\n");
    }

    fn up_words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["up".into(), "--dram".into(), self.plan.dram.clone().into()];
        for device in &self.plan.devices {
            words.extend(["--device".into(), device.into()]);
        }
        if !self.plan.configuration().is_empty() {
            words.extend(["--config".into(), self.root.join("codax.toml").into()]);
        }
        words
    }

    /// Starts the daemon.
    #[track_caller]
    pub fn up(&self) {
        if let Err(said) = self.try_up("") {
            panic!("the daemon does not start: {said}");
        }
    }

    /// Starts the daemon with more options.
    #[track_caller]
    pub fn up_with(&self, more: &[&str]) {
        if let Err(said) = self.start("", more) {
            panic!("the daemon does not start: {said}");
        }
    }

    /// Starts the daemon with test hooks, see `codax_daemon`'s environment. An error is how it ended before it served.
    #[track_caller]
    pub fn try_up(&self, hooks: &str) -> Result<(), Said> {
        self.start(hooks, &[])
    }

    /// The same, with more options.
    #[track_caller]
    pub fn try_up_with(&self, more: &[&str]) -> Result<(), Said> {
        self.start("", more)
    }

    #[track_caller]
    fn start(&self, hooks: &str, more: &[&str]) -> Result<(), Said> {
        let log = File::options().create(true).append(true).open(self.log()).expect("ours");
        let before = fs::metadata(self.log()).map_or(0, |meta| meta.len());
        let mut words = self.up_words();
        words.extend(more.iter().map(OsString::from));
        let mut command = self.daemon_command(&words);
        command.env("CODAX_AT", hooks).stdout(Stdio::piped()).stderr(log);
        if let Some(filter) = std::env::var_os("CODAX_LOG") {
            command.env("CODAX_LOG", filter);
        }
        let mut daemon = Running { child: command.spawn().expect("the program starts") };
        let mut line = String::new();
        let mut out = BufReader::new(daemon.child.stdout.take().expect("piped"));
        // Ends with the daemon, at the latest.
        out.read_line(&mut line).expect("a line");
        if line.is_empty() {
            let code = daemon.end().code().unwrap_or(-1);
            let mut err = String::new();
            let mut log = File::open(self.log()).expect("ours");
            std::io::Seek::seek(&mut log, std::io::SeekFrom::Start(before)).expect("a file");
            log.read_to_string(&mut err).expect("text");
            return Err(Said { words: "up".into(), code, out: Vec::new(), err });
        }
        *self.daemon() = Some(daemon);
        // Later lines have a reader as long as the daemon lives.
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        Ok(())
    }

    /// What the daemon has said.
    pub fn said(&self) -> String {
        fs::read_to_string(self.log()).expect("text")
    }

    fn log(&self) -> PathBuf {
        self.root.join("daemon.log")
    }

    fn daemon(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the daemon's process.
    #[track_caller]
    pub fn with_daemon<T>(&self, work: impl FnOnce(&mut Running) -> T) -> T {
        work(self.daemon().as_mut().expect("a daemon"))
    }

    /// Kills the daemon.
    pub fn kill(&self) {
        if let Some(mut daemon) = self.daemon().take() {
            daemon.kill();
        }
    }

    /// Whether the daemon still runs.
    pub fn alive(&self) -> bool {
        self.daemon().as_mut().is_some_and(|daemon| matches!(daemon.child.try_wait(), Ok(None)))
    }

    /// Ends the daemon as a user does, and waits.
    #[track_caller]
    pub fn down(&self) {
        self.ok(&["down"]);
        let status = self.with_daemon(Running::end);
        assert!(status.success(), "{status}");
        *self.daemon() = None;
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- daemon of {}\n{}",
                self.root.display(),
                fs::read_to_string(self.log()).unwrap_or_default()
            );
            if self.alive() {
                let words = [&["status"][..], &["ls", "-l"], &["events"]];
                words.iter().for_each(|words| eprintln!("{}", self.run(words)));
            }
        }
        self.kill();
        remove(&self.root);
    }
}

/// DAX devices have one store at a time: others wait here until it is gone.
fn own_devices(devices: &[String]) -> Vec<File> {
    let mut paths: Vec<_> = devices.iter().filter_map(|device| path_of(device, "devdax:")).collect();
    // In one order everywhere, so that nobody waits in a circle.
    paths.sort_unstable();
    let lock = |path: &str| {
        let lock =
            File::create(format!("/dev/shm/codax-e2e{}.lock", path.replace('/', "-"))).expect("root may");
        lock.lock().expect("nobody has it for ever");
        lock
    };
    paths.into_iter().map(lock).collect()
}

/// The path of a device of this kind.
fn path_of<'a>(device: &'a str, kind: &str) -> Option<&'a str> {
    let (_, what) = device.split_once('=')?;
    what.strip_prefix(kind)?.split(',').next()
}

/// Makes the directories of devices that are to have one of their own, and notes them, so that they go with the rig.
fn make_directories(plan: &mut Plan, root: &Path) {
    let name = root.file_name().and_then(OsStr::to_str).expect("ours");
    let mut made = String::new();
    for device in plan.devices.iter_mut().filter(|device| device.contains(setting::DIR)) {
        *device = device.replace(setting::DIR, name);
        let dir = path_of(device, "fsdax:").expect("only files lie in a directory");
        let _ = writeln!(made, "{dir}");
        fs::write(root.join(DIRECTORIES), &made).expect("ours");
        fs::create_dir(dir).expect("a fresh directory");
        std::os::unix::fs::chown(dir, plan.uid, plan.uid).expect("root may");
    }
}

/// In a rig's root: directories elsewhere that go with it, a line each.
const DIRECTORIES: &str = "directories";

/// Unmounts what is mounted below `root`, and removes it. Huge pages that its devices had go back to their node.
fn remove(root: &Path) {
    let store = Layout { dir: root.join("store") };
    if store.meta().exists()
        && let Err(e) = codax_engine::store::purge_contents(&store)
    {
        eprintln!("{}: {e}", root.display());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let below = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    for mount in below.filter(|mount| mount.starts_with(root)) {
        if let Err(e) = codax_os::mounts::umount(mount) {
            eprintln!("{} stays mounted: {e}", mount.display());
        }
    }
    for dir in fs::read_to_string(root.join(DIRECTORIES)).unwrap_or_default().lines() {
        if let Err(e) = fs::remove_dir_all(dir) {
            eprintln!("{dir} stays: {e}");
        }
    }
    if let Err(e) = fs::remove_dir_all(root) {
        eprintln!("{} stays: {e}", root.display());
    }
}

/// Removes what a run that was killed has left, once.
fn sweep_old() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let pid = name
                .to_str()
                .and_then(|name| name.strip_prefix("codax-e2e-")?.split('-').next()?.parse().ok());
            if pid.is_some_and(|pid: u32| state_of(pid).is_none()) {
                remove(&entry.path());
            }
        }
    });
}

/// Runs a command to its end; one that takes too long is killed.
#[track_caller]
pub fn run_limited(command: &mut Command, words: String, input: &[u8]) -> Said {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let pid = child.id();
    let mut stdin = child.stdin.take().expect("piped");
    let (done, over) = channel::<()>();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            // A command that doesn't want it all is no failure.
            let _ = stdin.write_all(input);
        });
        scope.spawn(move || {
            if over.recv_timeout(patience()) == Err(RecvTimeoutError::Timeout) {
                // Our child, not waited for yet: the number is still its own.
                let _ = codax_os::process::pidfd(pid).and_then(codax_os::process::kill);
            }
        });
        let output = child.wait_with_output().expect("our child");
        drop(done);
        output
    });
    Said::new(words, output)
}

/// Bytes that show where they came from.
pub fn pattern(len: u64, seed: u64) -> Vec<u8> {
    let words = (0..len.div_ceil(8)).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed).to_le_bytes());
    let mut bytes: Vec<u8> = words.flatten().collect();
    bytes.truncate(usize::try_from(len).expect("small"));
    bytes
}
