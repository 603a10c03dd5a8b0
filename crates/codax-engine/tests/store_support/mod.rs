//! A store in a directory of its own, taken down whatever happens to the test.
#![allow(dead_code, unreachable_pub)]
// Files of some MiB, and single bytes on purpose.
#![allow(clippy::cast_possible_truncation)]

pub mod media;

use codax_core::Result;
use codax_core::change::LinkModel;
use codax_core::name::StorePath;
use codax_core::namespace::Cred;
use codax_core::request::{Open, PlacementSpec};
use codax_engine::env::Env;
use codax_engine::store::{Layout, MakeBacking, purge_contents};
use codax_engine::{DeviceSpec, Opened, Peer, Session, Store, StoreOptions};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[derive(Debug)]
pub struct TestEnv {
    started: Instant,
    random: AtomicU64,
    /// Milliseconds that it is later than the clock says.
    later_ms: AtomicU64,
    seen: Seen,
}

/// Is told of threads as they are started, and of points that are reached, by their names.
struct Seen(Box<dyn Fn(&str) + Send + Sync>);

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seen")
    }
}

impl TestEnv {
    pub fn new() -> Arc<Self> {
        Self::seeded(1)
    }

    /// One that draws other numbers than those with another seed.
    pub fn seeded(seed: u64) -> Arc<Self> {
        Arc::new(Self::made(seed, Seen(Box::new(|_| ()))))
    }

    /// One in which this sees the names of threads that are started and of points that are reached.
    pub fn seen_by(seen: impl Fn(&str) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self::made(1, Seen(Box::new(seen))))
    }

    fn made(seed: u64, seen: Seen) -> Self {
        Self { started: Instant::now(), random: AtomicU64::new(seed), later_ms: AtomicU64::new(0), seen }
    }

    /// Has time pass that nobody waits for.
    pub fn pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).expect("not for ever");
        self.later_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Env for TestEnv {
    fn now(&self) -> Duration {
        self.started.elapsed() + Duration::from_millis(self.later_ms.load(Ordering::SeqCst))
    }

    fn wall_ns(&self) -> i64 {
        i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos())
            .expect("before 2262")
    }

    fn random(&self) -> u64 {
        self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn spawn(&self, name: &str, job: Box<dyn FnOnce() + Send>) {
        (self.seen.0)(name);
        std::thread::Builder::new().name(name.to_owned()).spawn(job).expect("a thread");
    }

    fn reached(&self, point: &'static str) {
        (self.seen.0)(point);
    }
}

pub const MIB: u64 = 1 << 20;

/// A store with `dram` of 64 MiB and the device `sim0` of 32 MiB.
#[derive(Debug)]
pub struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    pub fn new() -> Self {
        Self {
            dir: tempfile::Builder::new()
                .prefix("codax-test")
                .tempdir_in("/dev/shm")
                .expect("a directory in /dev/shm"),
        }
    }

    pub fn options(&self) -> StoreOptions {
        let mut options = StoreOptions::new(self.dir.path().join("store"));
        options.dram_bytes = Some(64 * MIB);
        options.devices = vec![DeviceSpec::emulated("sim0", 32 * MIB, LinkModel::default())];
        options
    }

    pub fn open(&self) -> Store {
        Store::open(self.options(), TestEnv::new()).expect("the store opens")
    }

    pub fn open_with(&self, make: &MakeBacking) -> Result<Store> {
        Store::open_with(self.options(), TestEnv::new(), make)
    }

    pub fn layout(&self) -> Layout {
        Layout { dir: self.options().dir }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let layout = self.layout();
        if layout.dir.exists() {
            // Whichever pools a test has made.
            let _ = purge_contents(&layout);
        }
    }
}

pub fn path(text: &str) -> StorePath {
    StorePath::parse(text.as_bytes()).expect("a path")
}

pub fn admin(store: &Store) -> Session {
    session(store, 0, true)
}

pub fn session(store: &Store, uid: u32, admin: bool) -> Session {
    let cred = Cred { uid, gid: uid, groups: vec![], admin };
    store.connect(Peer { cred, pid: std::process::id(), pidfd: None })
}

pub fn on(pool: &str) -> Option<PlacementSpec> {
    Some(PlacementSpec::On { pool: pool.into(), strict: false })
}

pub fn open_of(text: &str, len: u64) -> Open {
    Open {
        path: path(text),
        read: true,
        write: true,
        create: true,
        exclusive: false,
        truncate: false,
        unnamed: false,
        mode: 0o644,
        placement: None,
        no_emergency: false,
        len,
        map: None,
    }
}

/// Makes a file with bytes that tell where they belong.
pub fn make(session: &Session, text: &str, len: u64, pool: &str) -> Opened {
    let opened = session.open(&Open { placement: on(pool), ..open_of(text, len) }).expect("made");
    let bytes: Vec<u8> = (0..len).map(|i| byte_at(text, i)).collect();
    write(session, &opened, &bytes, 0);
    opened
}

pub fn byte_at(text: &str, i: u64) -> u8 {
    let seed = text.bytes().fold(7u64, |a, b| a.wrapping_mul(31).wrapping_add(u64::from(b)));
    (i.wrapping_mul(0x9e37_79b9).wrapping_add(seed) >> 7) as u8
}

pub fn write(session: &Session, opened: &Opened, bytes: &[u8], at: u64) {
    let (layout, fds) = session.raw(opened.handle, true).expect("raw");
    let pools = distinct(&layout);
    for run in &layout.runs {
        let fd = &fds[pools.iter().position(|p| *p == run.pool).expect("its pool")];
        let from = run.pages.offset().max(at);
        let to = (run.pages.offset() + run.pages.bytes()).min(at + bytes.len() as u64);
        if from < to {
            let part = &bytes[(from - at) as usize..(to - at) as usize];
            codax_os::object::write_all_at(fd.as_fd(), part, from).expect("written");
        }
    }
    drop(fds);
    session.raw_done(opened.file);
}

pub fn read(session: &Session, text: &str) -> Vec<u8> {
    let opened = session.open(&Open { write: false, create: false, ..open_of(text, 0) }).expect("opens");
    let (layout, fds) = session.raw(opened.handle, false).expect("raw");
    let pools = distinct(&layout);
    let mut bytes = vec![0; usize::try_from(layout.len).expect("small")];
    for run in &layout.runs {
        let fd = &fds[pools.iter().position(|p| *p == run.pool).expect("its pool")];
        let from = run.pages.offset() as usize;
        let to = (run.pages.offset() + run.pages.bytes()).min(layout.len) as usize;
        let mut at = from;
        while at < to {
            let n = codax_os::object::read_at(fd.as_fd(), &mut bytes[at..to], at as u64).expect("read");
            assert!(n > 0, "the object is short");
            at += n;
        }
    }
    drop(fds);
    session.raw_done(opened.file);
    session.close(opened.handle);
    bytes
}

fn distinct(layout: &codax_core::request::Layout) -> Vec<codax_core::PoolId> {
    let mut pools = Vec::new();
    for run in &layout.runs {
        if !pools.contains(&run.pool) {
            pools.push(run.pool);
        }
    }
    pools
}

pub fn assert_intact(session: &Session, text: &str, len: u64) {
    assert_eq!(read(session, text).len() as u64, len);
    let wrong = read(session, text).iter().enumerate().position(|(i, b)| *b != byte_at(text, i as u64));
    assert_eq!(wrong, None, "{text} differs");
}

pub fn pool_of(session: &Session, text: &str) -> Vec<u16> {
    session.stat(&path(text)).expect("stat").runs.iter().map(|r| r.pool.0).collect()
}
