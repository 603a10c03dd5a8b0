//! Devices' drivers: moves that wait for caches, drains that save and restore state, memory as a device needs it; and drivers that do it badly on purpose.

mod store_support;

use codax_core::change::{BackingKind, LinkModel, PoolState};
use codax_core::driver::{
    Class, Counter, Description, Driver, Granted, Health, Link, QueueId, Range, Reach, Standing,
};
use codax_core::emergency::{AtMost, Emergency};
use codax_core::frame::FrameFlags;
use codax_core::request::{Open, PlacementSpec};
use codax_core::{Error, ErrorKind, Frame, ROOT, Result};
use codax_engine::driver::Driving;
use codax_engine::env::Env;
use codax_engine::fs::{Allocate, How, Set, Who};
use codax_engine::table::TableReader;
use codax_engine::{DeviceSpec, DrainOptions, Session, Store, StoreOptions};
use codax_os::ring::{
    Completion, Consumer, Descriptor, Reason, Request, Ring, Submitter, Ticket, Unfinished,
};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use store_support::*;

/// Who asks through a mount.
const WHO: Who = Who { uid: 1000, gid: 1000, pid: 1 };

/// How long the tests wait for what is to come.
const LONG: Duration = Duration::from_secs(20);

/// What a driver was asked, in order.
#[derive(Clone, Debug, PartialEq)]
enum Asked {
    WriteBack(Vec<Range>),
    Quiesce,
    Save,
    Reset,
    Restore(Vec<u8>),
    Resume,
    OpenQueue(QueueId),
    Grant(u32),
}

/// A driver that does as it is told, and tells what it was asked.
#[derive(Debug)]
struct Told {
    description: Description,
    asked: Mutex<Sender<Asked>>,
    /// What calls of a name wait for.
    gates: Mutex<HashMap<&'static str, Receiver<()>>>,
    fails: Mutex<Option<&'static str>>,
    state: Mutex<Vec<u8>>,
    /// The queues that it was handed last.
    rings: Mutex<HashMap<QueueId, Ring>>,
}

impl Told {
    fn new(description: Description) -> (Arc<Self>, Receiver<Asked>) {
        let (asked, told) = channel();
        let (gates, fails, rings) = Default::default();
        let state = Mutex::new(b"where it was".to_vec());
        (Arc::new(Self { description, asked: Mutex::new(asked), gates, fails, state, rings }), told)
    }

    /// The next calls of this name wait, until what is returned is sent to for each, or gone.
    fn gate(&self, call: &'static str) -> Sender<()> {
        let (open, gate) = channel();
        self.gates.lock().unwrap().insert(call, gate);
        open
    }

    fn fail(&self, call: Option<&'static str>) {
        *self.fails.lock().unwrap() = call;
    }

    fn did(&self, call: &'static str, asked: Asked) -> Result<()> {
        // The test may be over.
        let _ = self.asked.lock().unwrap().send(asked);
        let mut gates = self.gates.lock().unwrap();
        if gates.get(call).is_some_and(|gate| gate.recv_timeout(LONG).is_err()) {
            gates.remove(call);
        }
        match *self.fails.lock().unwrap() {
            Some(fails) if fails == call => Err(Error::internal(format!("{call} fails on purpose"))),
            _ => Ok(()),
        }
    }
}

impl Driver for Told {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    fn write_back(&self, ranges: &[Range]) -> Result<()> {
        self.did("write_back", Asked::WriteBack(ranges.to_vec()))
    }

    fn quiesce(&self, _within: Duration) -> Result<()> {
        self.did("quiesce", Asked::Quiesce)
    }

    fn save(&self) -> Result<Vec<u8>> {
        self.did("save", Asked::Save)?;
        Ok(self.state.lock().unwrap().clone())
    }

    fn reset(&self) -> Result<()> {
        self.did("reset", Asked::Reset)
    }

    fn restore(&self, state: &[u8]) -> Result<()> {
        self.did("restore", Asked::Restore(state.to_vec()))
    }

    fn resume(&self) -> Result<()> {
        self.did("resume", Asked::Resume)
    }

    fn open_queue(&self, queue: QueueId, ring: OwnedFd) -> Result<()> {
        self.rings.lock().unwrap().insert(queue, Ring::open(ring).unwrap());
        self.did("open_queue", Asked::OpenQueue(queue))
    }

    fn grant(&self, file: Granted) -> Result<()> {
        self.did("grant", Asked::Grant(file.number))
    }

    fn health(&self) -> Result<Health> {
        Ok(Health::Degraded("warm".into()))
    }

    fn counters(&self) -> Result<Vec<Counter>> {
        Ok(vec![Counter { name: "é".repeat(99), value: 3 }; 99])
    }
}

fn npu() -> Description {
    Description { has_state: true, ..Description::coprocessor("npu", "1.0") }
}

/// A store with a driver of `sim0`, which has been told to run.
struct Driven {
    store: Store,
    driver: Arc<Told>,
    told: Receiver<Asked>,
    driving: Option<Driving>,
    admin: Session,
    rig: Rig,
}

/// Drivers that are well have all the time that a busy machine takes.
fn options(rig: &Rig, time: Duration) -> StoreOptions {
    StoreOptions { ack_timeout: time, quiesce_timeout: time, ..rig.options() }
}

impl Driven {
    fn new(description: Description) -> Self {
        Self::within(LONG, description)
    }

    /// One whose store doesn't wait for long.
    fn impatient(description: Description) -> Self {
        Self::within(Duration::from_secs(1), description)
    }

    fn within(time: Duration, description: Description) -> Self {
        let rig = Rig::new();
        let store = Store::open(options(&rig, time), TestEnv::new()).unwrap();
        Self::by(rig, store, description).running()
    }

    fn by(rig: Rig, store: Store, description: Description) -> Self {
        let (driver, told) = Told::new(description);
        let driving = Some(store.drive("sim0", driver.clone(), Some(4711)).unwrap());
        let admin = admin(&store);
        Self { store, driver, told, driving, admin, rig }
    }

    fn running(self) -> Self {
        assert_eq!(self.next(), Asked::Resume);
        self.stands(&Standing::Running);
        self
    }

    #[track_caller]
    fn next(&self) -> Asked {
        self.told.recv_timeout(LONG).expect("it is asked")
    }

    #[track_caller]
    fn quiet(&self) {
        assert_eq!(self.told.try_recv().ok(), None);
    }

    #[track_caller]
    fn stands(&self, standing: &Standing) {
        let begun = Instant::now();
        while self.store.device("sim0").unwrap().standing != *standing {
            assert!(begun.elapsed() < LONG, "{:?}", self.store.device("sim0"));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// That so much of `sim0` is used and held by now.
    #[track_caller]
    fn has(&self, used: u64, held: u64) {
        let begun = Instant::now();
        let has = || (self.store.info().pools[1].used, self.store.info().pools[1].held);
        while has() != (used, held) {
            assert!(begun.elapsed() < LONG, "{:?}", has());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// That it has answered all that it was asked.
    #[track_caller]
    fn answers(&self) {
        let begun = Instant::now();
        while self.store.device("sim0").unwrap().health.is_err() {
            assert!(begun.elapsed() < LONG);
        }
    }

    fn state(&self) -> PoolState {
        self.store.info().pools[1].state
    }

    /// Ends the daemon, as far as the store sees it, and starts it anew, without a driver.
    fn reopened(self) -> (Rig, Store) {
        let Self { store, driving, admin, rig, .. } = self;
        store.close(false).unwrap();
        drop((driving, admin));
        store.end();
        let store = Store::open(options(&rig, LONG), TestEnv::seeded(2)).unwrap();
        (rig, store)
    }
}

fn quiet() -> impl FnMut(&codax_core::info::JobInfo) -> bool {
    |_: &codax_core::info::JobInfo| true
}

fn moved(session: &Session, file: &str, to: &str) -> Result<()> {
    session.move_file(&path(file), to, None, &mut quiet()).map(drop)
}

#[track_caller]
fn fails(result: Result<impl std::fmt::Debug>, kind: ErrorKind, says: &[&str]) {
    let e = result.expect_err("it fails");
    assert_eq!(e.kind, kind, "{e}");
    assert!(!e.message.contains('\n'), "{e}");
    for word in says {
        assert!(e.message.contains(word), "`{word}` is not in: {e}");
    }
}

/// That a file which lies in `sim0` was to be written back, whole, from where it lies there.
#[track_caller]
fn written_back(asked: Asked, session: &Session, file: &str, len: u64) {
    let id = session.stat(&path(file)).unwrap().id;
    let Asked::WriteBack(ranges) = asked else { panic!("{asked:?}") };
    assert!(ranges.iter().all(|r| r.file == id && r.memory.is_some()), "{ranges:?}");
    assert_eq!(ranges.iter().map(|r| r.len).sum::<u64>(), len);
}

#[test]
fn a_move_waits_for_a_slow_invalidate_before_it_copies_and_before_frames_go() {
    let d = Driven::new(npu());
    make(&d.admin, "/f", 3 * MIB, "sim0");
    let open = d.driver.gate("write_back");
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| moved(&d.admin, "/f", "dram"));
        written_back(d.next(), &d.admin, "/f", 3 * MIB);
        // Nothing has been copied, and nothing has been committed.
        assert_eq!(pool_of(&d.admin, "/f"), [1]);
        assert!(
            !d.rig
                .layout()
                .pool("dram")
                .join(format!("{:016x}", d.admin.stat(&path("/f")).unwrap().id.0))
                .exists()
        );
        open.send(()).unwrap();
        let Asked::WriteBack(again) = d.next() else { panic!("before frames are given back") };
        assert_eq!(again.iter().map(|r| r.len).sum::<u64>(), 3 * MIB);
        let pool = &d.store.info().pools[1];
        assert_eq!((pool_of(&d.admin, "/f"), pool.free), (vec![0], pool.bytes - 3 * MIB));
        open.send(()).unwrap();
        moving.join().unwrap().unwrap();
    });
    let pool = &d.store.info().pools[1];
    assert_eq!((pool.held, pool.free), (0, pool.bytes));
    assert_intact(&d.admin, "/f", 3 * MIB);
}

#[test]
fn a_driver_that_never_answers_invalidate_leaves_the_file_where_it_is() {
    let d = Driven::impatient(npu());
    make(&d.admin, "/f", MIB, "sim0");
    let open = d.driver.gate("write_back");
    fails(moved(&d.admin, "/f", "dram"), ErrorKind::Busy, &["/f", "npu", "4711", "sim0", "within 1.0 s"]);
    assert_eq!(pool_of(&d.admin, "/f"), [1]);
    // A drain goes on to wait for it, and says who it is.
    let wait = DrainOptions { wait: Duration::from_millis(100), running: true, ..Default::default() };
    fails(d.admin.drain("sim0", wait, &mut quiet()), ErrorKind::Busy, &["npu", "4711", "sim0"]);
    assert_eq!((d.state(), pool_of(&d.admin, "/f")), (PoolState::Online, vec![1]));
    drop(open);
    moved(&d.admin, "/f", "dram").unwrap();
    assert_intact(&d.admin, "/f", MIB);
    assert!(d.store.check(false).unwrap().is_empty());
}

#[test]
fn frames_are_held_until_a_late_driver_has_let_go_of_them() {
    let d = Driven::impatient(npu());
    make(&d.admin, "/f", MIB, "sim0");
    let open = d.driver.gate("write_back");
    open.send(()).unwrap();
    moved(&d.admin, "/f", "dram").unwrap();
    assert_eq!((pool_of(&d.admin, "/f"), d.store.info().pools[1].held), (vec![0], MIB));
    // Nobody else holds it, and still it is not given back.
    assert!(d.store.check(false).unwrap().is_empty());
    assert_eq!(d.store.info().pools[1].held, MIB);
    fails(
        d.admin.drain("sim0", DrainOptions::default(), &mut quiet()),
        ErrorKind::Busy,
        &["/f", "npu", "4711"],
    );
    drop(open);
    let wait = DrainOptions { wait: LONG, ..Default::default() };
    d.admin.drain("sim0", wait, &mut quiet()).unwrap();
    assert_eq!(d.store.info().pools[1].held, 0);
    assert_intact(&d.admin, "/f", MIB);
}

#[test]
fn what_is_cut_off_or_removed_is_nobody_s_before_devices_have_let_go_of_it() {
    let d = Driven::impatient(npu());
    let file = make(&d.admin, "/f", 3 * MIB, "sim0");
    let open = d.driver.gate("write_back");
    fails(d.admin.set_len(file.handle, MIB), ErrorKind::Busy, &["/f", "npu", "4711"]);
    assert_eq!((d.admin.stat(&path("/f")).unwrap().len, d.store.info().pools[1].used), (3 * MIB, 3 * MIB));
    open.send(()).unwrap();
    assert!(matches!(d.next(), Asked::WriteBack(_)));
    d.answers();
    // Before it is cut, and before its frames are somebody else's.
    (0..2).for_each(|_| open.send(()).unwrap());
    d.admin.set_len(file.handle, MIB).unwrap();
    (0..2).for_each(|_| written_back(d.next(), &d.admin, "/f", 2 * MIB));
    assert_eq!(d.store.info().pools[1].used, MIB);
    d.admin.close(file.handle);
    d.admin.remove(&path("/f"), false).unwrap();
    assert!(matches!(d.next(), Asked::WriteBack(_)));
    let held = || (d.store.info().pools[1].used, d.store.info().pools[1].held);
    assert_eq!(held(), (0, MIB));
    drop(open);
    d.has(0, 0);
    assert!(d.store.check(false).unwrap().is_empty());
}

/// Of what a mount takes from a file, served by the daemon or by the kernel, the device is asked first: nothing goes where it doesn't answer in time.
#[test]
fn what_a_mount_cuts_off_or_punches_is_nobody_s_before_devices_have_let_go_of_it() {
    for by_kernel in [false, true] {
        let d = Driven::impatient(npu());
        let fs = d.store.fs(by_kernel);
        d.admin.close(make(&d.admin, "/f", 4 * MIB, "sim0").handle);
        let file = d.admin.stat(&path("/f")).unwrap().id;
        let opened = fs.open(file, true, true, WHO).unwrap();
        assert_eq!(matches!(opened.how, How::Passthrough(_)), by_kernel);
        let handle = opened.handle;
        let has = || (fs.attr(file).unwrap().len, d.store.info().pools[1].used);
        let cut = || fs.set(file, &Set { len: Some(3 * MIB), ..Set::default() }).map(drop);
        let punch = || {
            let how = Allocate { keep_size: true, punch: true, zero: false };
            fs.allocate(handle, MIB, MIB, how)
        };
        let takes: [(&(dyn Fn() -> Result<()> + Sync), _); 2] =
            [(&cut, (3 * MIB, 3 * MIB)), (&punch, (3 * MIB, 2 * MIB))];
        for (take, after) in takes {
            let open = d.driver.gate("write_back");
            let before = has();
            let begun = Instant::now();
            fails(take(), ErrorKind::Busy, &["/f", "npu", "4711", "sim0", "within 1.0 s"]);
            assert!(begun.elapsed() < LONG);
            assert!(matches!(d.next(), Asked::WriteBack(_)));
            assert_eq!(has(), before);
            open.send(()).unwrap();
            d.answers();
            std::thread::scope(|scope| {
                let taking = scope.spawn(take);
                let asked = d.next();
                written_back(asked, &d.admin, "/f", MIB);
                assert_eq!(has(), before, "it waits for a slow one");
                open.send(()).unwrap();
                let Asked::WriteBack(again) = d.next() else { panic!("before frames are given back") };
                assert_eq!(again.iter().map(|r| r.len).sum::<u64>(), MIB);
                // What the kernel serves is gone as soon as anybody looks.
                let free = || d.store.info().pools[1].free;
                assert!(by_kernel || free() == 32 * MIB - before.1, "not before it is asked again");
                open.send(()).unwrap();
                taking.join().unwrap().unwrap();
            });
            assert_eq!(has(), after);
            d.quiet();
        }
        drop(opened.how);
        fs.release(handle);
        let open = d.driver.gate("write_back");
        fs.unlink(ROOT, b"f").unwrap();
        assert!(matches!(d.next(), Asked::WriteBack(_)));
        let held = || (d.store.info().pools[1].used, d.store.info().pools[1].held);
        assert_eq!(held(), (0, 2 * MIB));
        drop(open);
        d.has(0, 0);
        assert!(d.store.check(false).unwrap().is_empty());
    }
}

/// A device may look up anew what is about to go: where it is late to let go of that, it is gone, and held.
#[test]
fn what_was_cut_off_or_punched_is_held_until_a_device_that_is_late_has_let_go_of_it_again() {
    let d = Driven::impatient(npu());
    let fs = d.store.fs(false);
    let file = make(&d.admin, "/f", 4 * MIB, "sim0");
    let id = d.admin.stat(&path("/f")).unwrap().id;
    let handle = fs.open(id, true, true, WHO).unwrap().handle;
    let punch = || {
        let how = Allocate { keep_size: true, punch: true, zero: false };
        fs.allocate(handle, MIB, MIB, how)
    };
    let cut = || d.admin.set_len(file.handle, 3 * MIB);
    let takes: [&dyn Fn() -> Result<()>; 2] = [&cut, &punch];
    for (take, used) in takes.into_iter().zip([3 * MIB, 2 * MIB]) {
        let open = d.driver.gate("write_back");
        open.send(()).unwrap();
        take().unwrap();
        assert!((0..2).all(|_| matches!(d.next(), Asked::WriteBack(_))));
        let pool = &d.store.info().pools[1];
        assert_eq!((pool.used, pool.held, pool.free), (used, MIB, pool.bytes - used - MIB));
        assert!(d.store.check(false).unwrap().is_empty());
        fails(d.admin.set_len(file.handle, 4 * MIB), ErrorKind::Busy, &["/f", "still held"]);
        drop(open);
        d.has(used, 0);
        assert!(d.store.check(false).unwrap().is_empty());
        while d.told.try_recv().is_ok() {}
    }
    // It is zeros where it grows again.
    d.admin.set_len(file.handle, 4 * MIB).unwrap();
    for at in [MIB, 3 * MIB] {
        let mut bytes = vec![1; 1 << 20];
        assert_eq!(fs.read(handle, at, &mut bytes).unwrap(), bytes.len());
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
}

/// A mount has few threads: they wait for all devices at once, and not again for one that does not answer.
#[test]
fn a_device_that_hangs_is_waited_for_once_and_beside_others() {
    let rig = Rig::new();
    let options = |time| {
        let mut options = options(&rig, time);
        options.devices.push(DeviceSpec::emulated("nic0", 0, LinkModel::default()));
        options
    };
    let store = Store::open(options(Duration::from_secs(1)), TestEnv::new()).unwrap();
    let (nic, told) = Told::new(Description { class: Class::Type1, memory: None, ..npu() });
    let _driving = store.drive("nic0", nic.clone(), None).unwrap();
    assert_eq!(told.recv_timeout(LONG).unwrap(), Asked::Resume);
    let (driver, asked) = Told::new(npu());
    let driving = store.drive("sim0", driver.clone(), Some(4711)).unwrap();
    assert_eq!(asked.recv_timeout(LONG).unwrap(), Asked::Resume);
    let admin = admin(&store);
    admin.close(make(&admin, "/f", MIB, "sim0").handle);
    let file = admin.stat(&path("/f")).unwrap().id;
    let fs = store.fs(false);
    let cut = || fs.set(file, &Set { len: Some(0), ..Set::default() });
    let gates = [driver.gate("write_back"), nic.gate("write_back")];
    std::thread::scope(|scope| {
        let cutting = scope.spawn(cut);
        for asked in [&asked, &told] {
            assert!(matches!(asked.recv_timeout(LONG).unwrap(), Asked::WriteBack(_)));
        }
        gates[1].send(()).unwrap();
        fails(cutting.join().unwrap(), ErrorKind::Busy, &["/f", "npu", "4711", "sim0", "within 1.0 s"]);
    });
    store.reload(&options(LONG)).unwrap();
    let begun = Instant::now();
    fails(cut(), ErrorKind::Busy, &["/f", "npu", "4711", "sim0", "asked before"]);
    assert!(begun.elapsed() < LONG);
    assert!(asked.try_recv().is_err() && told.try_recv().is_err(), "nobody is asked");
    drop(gates);
    let d = Driven { store, driver, told: asked, driving: Some(driving), admin, rig };
    d.answers();
    cut().unwrap();
    d.has(0, 0);
}

/// What is added to what is held of a file while a device is asked for the rest has not been asked for.
#[test]
fn what_becomes_held_while_a_device_is_asked_is_asked_for_before_it_goes() {
    let d = Driven::impatient(npu());
    let fs = d.store.fs(false);
    d.admin.close(make(&d.admin, "/f", 4 * MIB, "sim0").handle);
    d.admin.close(make(&d.admin, "/g", MIB, "sim0").handle);
    let file = d.admin.stat(&path("/f")).unwrap().id;
    let handle = fs.open(file, true, true, WHO).unwrap().handle;
    let punch = |at| fs.allocate(handle, at, MIB, Allocate { keep_size: true, punch: true, zero: false });
    let asked = || assert!(matches!(d.next(), Asked::WriteBack(_)));
    let open = d.driver.gate("write_back");
    std::thread::scope(|scope| {
        let first = scope.spawn(|| punch(0));
        asked();
        open.send(()).unwrap();
        asked();
        d.driver.fail(Some("write_back"));
        // Asked again it fails, and beside that once more.
        open.send(()).unwrap();
        first.join().unwrap().unwrap();
        asked();
        open.send(()).unwrap();
        d.answers();
        d.driver.fail(None);
        let second = scope.spawn(|| punch(MIB));
        asked();
        open.send(()).unwrap();
        asked();
        // From here on it is waited for, but for who does so already.
        d.store.reload(&options(&d.rig, LONG)).unwrap();
        d.admin.remove(&path("/g"), false).unwrap();
        second.join().unwrap().unwrap();
    });
    d.has(2 * MIB, 3 * MIB);
    d.quiet();
    drop(open);
    d.has(2 * MIB, 0);
    let second = |r: &Range| r.file == file && r.at == MIB;
    let mut later = d.told.try_iter();
    assert!(later.any(|asked| matches!(asked, Asked::WriteBack(ranges) if ranges.iter().any(second))));
    assert!(d.store.check(false).unwrap().is_empty());
}

/// An environment that counts the threads which ask devices.
#[derive(Debug)]
struct Counting {
    env: Arc<TestEnv>,
    asking: AtomicUsize,
}

impl Env for Counting {
    fn now(&self) -> Duration {
        self.env.now()
    }

    fn wall_ns(&self) -> i64 {
        self.env.wall_ns()
    }

    fn random(&self) -> u64 {
        self.env.random()
    }

    fn sleep(&self, time: Duration) {
        self.env.sleep(time);
    }

    fn spawn(&self, name: &str, job: Box<dyn FnOnce() + Send>) {
        if name == "write back" {
            self.asking.fetch_add(1, Ordering::Relaxed);
        }
        self.env.spawn(name, job);
    }

    fn reached(&self, point: &'static str) {
        self.env.reached(point);
    }
}

#[test]
fn one_thread_asks_a_device_that_hangs_however_many_files_are_removed() {
    let rig = Rig::new();
    let env = Arc::new(Counting { env: TestEnv::new(), asking: AtomicUsize::new(0) });
    let store = Store::open(options(&rig, LONG), env.clone()).unwrap();
    let d = Driven::by(rig, store, npu()).running();
    let names: Vec<String> = (0..200).map(|n| format!("/f{n}")).collect();
    for name in &names {
        d.admin.close(make(&d.admin, name, 64 << 10, "sim0").handle);
    }
    let open = d.driver.gate("write_back");
    for (n, name) in names.iter().enumerate() {
        d.admin.remove(&path(name), false).unwrap();
        if n == 0 {
            assert!(matches!(d.next(), Asked::WriteBack(_)));
        }
    }
    assert_eq!(env.asking.load(Ordering::Relaxed), 1);
    d.has(0, 200 * (64 << 10));
    drop(open);
    d.has(0, 0);
    // Of all that came meanwhile at once.
    assert!(matches!(d.next(), Asked::WriteBack(ranges) if ranges.len() >= 199));
    d.quiet();
    assert_eq!(env.asking.load(Ordering::Relaxed), 1);
}

#[test]
fn a_driver_that_can_not_write_back_fails_the_move() {
    let d = Driven::new(npu());
    make(&d.admin, "/f", MIB, "sim0");
    d.driver.fail(Some("write_back"));
    fails(moved(&d.admin, "/f", "dram"), ErrorKind::DeviceState, &["sim0", "npu", "fails on purpose"]);
    assert_eq!(pool_of(&d.admin, "/f"), [1]);
    d.driver.fail(None);
    moved(&d.admin, "/f", "dram").unwrap();
    assert_intact(&d.admin, "/f", MIB);
}

#[test]
fn a_driver_that_dies_while_a_move_waits_for_it_is_not_waited_for() {
    let mut d = Driven::new(npu());
    make(&d.admin, "/f", MIB, "sim0");
    let open = d.driver.gate("write_back");
    let driving = d.driving.take();
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| moved(&d.admin, "/f", "dram"));
        written_back(d.next(), &d.admin, "/f", MIB);
        drop(driving);
        moving.join().unwrap().unwrap();
    });
    drop(open);
    assert_eq!(d.store.device("sim0").unwrap().driverless.as_deref(), Some("npu"));
    assert_intact(&d.admin, "/f", MIB);
}

#[test]
fn only_devices_that_may_have_it_in_their_caches_are_asked() {
    let own = Description { reach: codax_core::driver::Reach::Own, ..npu() };
    let d = Driven::new(own);
    make(&d.admin, "/far", MIB, "dram");
    moved(&d.admin, "/far", "sim0").unwrap();
    d.quiet();
    moved(&d.admin, "/far", "dram").unwrap();
    assert!(matches!(d.next(), Asked::WriteBack(_)));
    let d = Driven::new(npu());
    make(&d.admin, "/far", MIB, "dram");
    moved(&d.admin, "/far", "sim0").unwrap();
    let Asked::WriteBack(ranges) = d.next() else { panic!("it reaches dram") };
    assert!(ranges.iter().all(|r| r.memory.is_none()));
    let rig = Rig::new();
    let store = rig.open();
    let d = Driven::by(rig, store, Description::memory_only("m", "1"));
    make(&d.admin, "/f", MIB, "sim0");
    let _gate = d.driver.gate("write_back");
    moved(&d.admin, "/f", "dram").unwrap();
}

#[test]
fn a_drain_saves_the_state_and_online_gives_it_back() {
    let d = Driven::new(npu());
    make(&d.admin, "/f", MIB, "sim0");
    d.admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Save));
    assert!(matches!((d.next(), d.next()), (Asked::WriteBack(_), Asked::WriteBack(_))));
    let shown = d.store.device("sim0").unwrap();
    assert_eq!((shown.standing, shown.saved), (Standing::Stopped, Some(12)));
    assert_eq!(shown.health, Ok(Health::Degraded("warm".into())));
    // As many and as long as may be shown.
    assert_eq!((shown.counters.len(), shown.counters[0].name.len()), (64, 64));
    d.admin.online("sim0", &mut quiet()).unwrap();
    assert_eq!((d.next(), d.next()), (Asked::Restore(b"where it was".to_vec()), Asked::Resume));
    let shown = d.store.device("sim0").unwrap();
    assert_eq!((shown.standing, shown.saved), (Standing::Running, None));
    assert_eq!(pool_of(&d.admin, "/f"), [1]);
    // Drained of data only, its coprocessor goes on.
    while d.told.try_recv().is_ok() {}
    let running = DrainOptions { running: true, ..Default::default() };
    d.admin.drain("sim0", running, &mut quiet()).unwrap();
    d.stands(&Standing::Running);
    d.admin.online("sim0", &mut quiet()).unwrap();
    assert!(d.told.try_iter().all(|asked| matches!(asked, Asked::WriteBack(_))));
}

#[test]
fn a_saved_state_outlives_the_daemon_and_the_driver() {
    let d = Driven::new(npu());
    d.admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    let (rig, store) = d.reopened();
    let shown = store.device("sim0").unwrap();
    assert_eq!((shown.saved, shown.driverless.as_deref()), (Some(12), Some("npu")));
    // Another driver is not given what isn't its own.
    let other = Driven::by(rig, store, Description { driver: "other".into(), ..npu() });
    fails(
        other.admin.online("sim0", &mut quiet()),
        ErrorKind::DeviceState,
        &["sim0", "npu", "other", "--reset-device"],
    );
    assert_eq!(other.state(), PoolState::Offline);
    let Driven { store, driving, admin, rig, .. } = other;
    drop((driving, admin));
    // Its own is at rest as long as the device is offline.
    let d = Driven::by(rig, store, npu());
    d.driver.fail(Some("restore"));
    fails(d.admin.online("sim0", &mut quiet()), ErrorKind::DeviceState, &["sim0", "npu", "restore", "kept"]);
    assert_eq!(d.next(), Asked::Restore(b"where it was".to_vec()));
    assert_eq!((d.state(), d.store.device("sim0").unwrap().saved), (PoolState::Offline, Some(12)));
    d.driver.fail(None);
    d.admin.online("sim0", &mut quiet()).unwrap();
    assert_eq!((d.next(), d.next()), (Asked::Restore(b"where it was".to_vec()), Asked::Resume));
    assert_eq!(d.store.device("sim0").unwrap().saved, None);
}

#[test]
fn a_device_without_memory_has_no_files_and_is_stopped_and_goes_on_all_the_same() {
    let rig = Rig::new();
    let mut options = options(&rig, LONG);
    options.devices.push(DeviceSpec::emulated("nic0", 0, LinkModel::default()));
    let store = Store::open(options.clone(), TestEnv::new()).unwrap();
    let pool = store.info().pools[2].clone();
    assert_eq!((pool.backing, pool.bytes, pool.free), (BackingKind::None, 0, 0));
    let told = store.device("nic0").unwrap();
    assert_eq!((told.description.class, told.standing), (Class::Type1, Standing::Stopped));
    let s = admin(&store);
    make(&s, "/f", MIB, "sim0");
    let nowhere = |result| fails(result, ErrorKind::Invalid, &["nic0 has no memory"]);
    nowhere(create_on(&s, "/g", "nic0"));
    nowhere(moved(&s, "/f", "nic0"));
    nowhere(s.set_attr(&path("/f"), None, None, None, Some(on("nic0").as_ref())));
    nowhere(s.detach_device("nic0"));

    let nic = Description { class: Class::Type1, has_state: true, ..npu() };
    let (memory_only, _) = Told::new(Description::memory_only("expander", "1"));
    fails(store.drive("nic0", memory_only, None), ErrorKind::Invalid, &["nic0", "memory only"]);
    fails(store.drive("sim0", Told::new(nic.clone()).0, None), ErrorKind::Invalid, &["sim0", "0 B"]);
    let (driver, told) = Told::new(nic);
    let driving = store.drive("nic0", driver, None).unwrap();
    let next = || told.recv_timeout(LONG).expect("it is asked");
    assert_eq!(next(), Asked::Resume);
    // Its caches may have what lies elsewhere.
    moved(&s, "/f", "dram").unwrap();
    let Asked::WriteBack(ranges) = next() else { panic!("it is asked to write back") };
    assert!(ranges.iter().all(|range| range.memory.is_none() && range.len > 0), "{ranges:?}");
    assert!(matches!(next(), Asked::WriteBack(_)));
    let report = s.drain("nic0", DrainOptions::default(), &mut quiet()).unwrap();
    assert_eq!((report.bytes, next(), next()), (0, Asked::Quiesce, Asked::Save));
    assert_eq!(store.info().pools[2].state, PoolState::Offline);
    s.online("nic0", &mut quiet()).unwrap();
    assert_eq!((next(), next()), (Asked::Restore(b"where it was".to_vec()), Asked::Resume));
    assert!(store.check(false).unwrap().is_empty());

    // It is the same after a restart, and never gets any.
    store.close(false).unwrap();
    drop((driving, s));
    store.end();
    let mut larger = options.clone();
    larger.devices[1] = DeviceSpec::emulated("nic0", MIB, LinkModel::default());
    let refused = Store::open(larger, TestEnv::seeded(2));
    fails(refused.map(drop), ErrorKind::DeviceState, &["nic0", "0 bytes"]);
    options.devices[1].software = true;
    let store = Store::open(options, TestEnv::seeded(2)).unwrap();
    assert_eq!((store.info().pools[2].backing, store.info().pools[2].bytes), (BackingKind::Software, 0));
}

#[test]
fn a_drain_that_a_restart_resumes_lets_a_device_go_on_if_it_was_told_to() {
    for running in [true, false] {
        let d = Driven::new(npu());
        let file = make(&d.admin, "/f", MIB, "sim0").file;
        let object = d.rig.layout().pool("sim0").join(format!("{:016x}", file.0));
        let held = std::fs::File::open(object).expect("its object");
        let options = DrainOptions { wait: LONG, running, ..Default::default() };
        std::thread::scope(|scope| {
            let admin = admin(&d.store);
            scope.spawn(move || fails(admin.drain("sim0", options, &mut quiet()), ErrorKind::NoDaemon, &[]));
            while d.store.info().pools[1].job.as_ref().is_none_or(|job| job.waiting.is_empty()) {
                std::thread::sleep(Duration::from_millis(1));
            }
            d.store.close(false).unwrap();
        });
        let (rig, store) = d.reopened();
        let d = Driven::by(rig, store, npu());
        assert_eq!(d.state(), PoolState::Draining);
        if running {
            assert_eq!(d.next(), Asked::Resume);
            d.stands(&Standing::Running);
        }
        drop(held);
        while d.state() == PoolState::Draining {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!((d.state(), pool_of(&d.admin, "/f")), (PoolState::Offline, vec![0]));
        d.stands(if running { &Standing::Running } else { &Standing::Stopped });
        assert!(d.told.try_iter().all(|asked| matches!(asked, Asked::WriteBack(_))));
    }
}

#[test]
fn a_driver_that_comes_after_online_gets_its_state_then() {
    let mut d = Driven::new(npu());
    d.admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    d.driving = None;
    d.admin.online("sim0", &mut quiet()).unwrap();
    assert_eq!(d.store.device("sim0").unwrap().saved, Some(12));
    let Driven { store, admin, rig, .. } = d;
    drop(admin);
    let d = Driven::by(rig, store, npu());
    assert_eq!((d.next(), d.next()), (Asked::Restore(b"where it was".to_vec()), Asked::Resume));
    d.stands(&Standing::Running);
    d.admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    d.admin.online_anew("sim0", &mut quiet()).unwrap();
    assert_eq!(
        (d.next(), d.next(), d.next(), d.next()),
        (Asked::Quiesce, Asked::Save, Asked::Reset, Asked::Resume)
    );
}

#[test]
fn a_driver_that_never_answers_quiesce_refuses_the_drain_or_is_reset() {
    let d = Driven::impatient(npu());
    make(&d.admin, "/f", MIB, "sim0");
    let open = d.driver.gate("quiesce");
    let drain = |options| d.admin.drain("sim0", options, &mut quiet());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let draining = scope.spawn(|| drain(DrainOptions::default()));
        assert_eq!(d.next(), Asked::Quiesce);
        fails(draining.join().unwrap(), ErrorKind::Busy, &["sim0", "npu", "4711", "1.0 s", "--reset-device"]);
    });
    assert!(begun.elapsed() < LONG);
    // Nobody has waited for it to go on: it is told when it answers.
    d.stands(&Standing::Failed("quiesce: it has not answered within 1.0 s".into()));
    d.quiet();
    open.send(()).unwrap();
    assert_eq!((d.state(), pool_of(&d.admin, "/f")), (PoolState::Online, vec![1]));
    assert_eq!(d.next(), Asked::Resume);
    d.stands(&Standing::Running);
    drop(open);
    d.driver.fail(Some("quiesce"));
    fails(drain(DrainOptions::default()), ErrorKind::Busy, &["sim0", "fails on purpose"]);
    assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Resume));
    drain(DrainOptions { reset: true, ..Default::default() }).unwrap();
    assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Reset));
    assert_eq!((d.state(), d.store.device("sim0").unwrap().saved), (PoolState::Offline, None));
}

#[test]
fn a_state_of_nothing_or_of_too_much_is_refused_and_the_device_goes_on() {
    let d = Driven::new(npu());
    make(&d.admin, "/f", MIB, "sim0");
    for (len, says) in [(0, "empty state"), ((16 << 20) + 1, "16 MiB")] {
        *d.driver.state.lock().unwrap() = vec![1; len];
        let refused = d.admin.drain("sim0", DrainOptions::default(), &mut quiet());
        fails(refused, ErrorKind::DeviceState, &["sim0", "npu", says]);
        assert_eq!((d.state(), pool_of(&d.admin, "/f")), (PoolState::Online, vec![1]));
        assert_eq!((d.next(), d.next(), d.next()), (Asked::Quiesce, Asked::Save, Asked::Resume));
        assert_eq!(d.store.device("sim0").unwrap().saved, None);
    }
    *d.driver.state.lock().unwrap() = vec![1; 16 << 20];
    d.admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    assert_eq!(d.store.device("sim0").unwrap().saved, Some(16 << 20));
}

#[test]
fn a_device_has_one_driver_which_must_say_what_can_be() {
    let mut d = Driven::new(npu());
    let drive = |device: &str, description| d.store.drive(device, Told::new(description).0, None);
    fails(drive("sim0", npu()), ErrorKind::Busy, &["sim0", "npu (process 4711)"]);
    fails(drive("dram", npu()), ErrorKind::Invalid, &["dram"]);
    fails(drive("sim1", npu()), ErrorKind::NotFound, &["sim1"]);
    let small = Description { memory: Some(MIB), ..npu() };
    d.driving = None;
    let drive = |description| d.store.drive("sim0", Told::new(description).0, None);
    fails(drive(small), ErrorKind::Invalid, &["sim0", "1 MiB", "32 MiB"]);
    fails(drive(Description { class: Class::Type1, ..npu() }), ErrorKind::Invalid, &["sim0", "0 B"]);
    let mut needy = npu();
    needy.needs.unit = 2 << 20;
    fails(drive(needy.clone()), ErrorKind::DeviceState, &["sim0", "2 MiB", "4 KiB", "page=2M"]);
    (needy.needs.unit, needy.needs.private) = (4096, vec![(32 * MIB, 4096)]);
    fails(drive(needy), ErrorKind::Invalid, &["sim0", "32 MiB"]);
    drive(npu()).unwrap();
}

/// A driver whose device needs files in one run, at multiples of 64 KiB, and has the first MiB for itself.
fn needy() -> Description {
    let mut needy = npu();
    (needy.needs.align, needy.needs.contiguous) = (64 << 10, true);
    needy.needs.private = vec![(0, MIB)];
    needy
}

#[track_caller]
fn in_one_run(session: &Session, file: &str) {
    let extents = session.stat(&path(file)).unwrap().extents;
    assert!(extents.windows(2).all(|pair| pair[0].following() == pair[1].frame), "{extents:?}");
    assert!(extents[0].frame.0.is_multiple_of(16), "{extents:?}");
    assert!(extents.iter().all(|e| e.frame.0 >= 256), "{extents:?}");
}

fn create_on(session: &Session, file: &str, pool: &str) -> Result<()> {
    session.open(&Open { placement: on(pool), ..open_of(file, MIB) }).map(drop)
}

fn create(session: &Session, file: &str, len: u64) -> Result<()> {
    session.open(&Open { placement: on("sim0"), ..open_of(file, len) }).map(|open| session.close(open.handle))
}

#[test]
fn files_lie_as_their_device_needs_them_or_are_refused() {
    let d = Driven::new(needy());
    let pool = || d.store.info().pools[1].clone();
    assert_eq!((pool().private, pool().used, pool().free), (MIB, 0, 31 * MIB));
    // Of 31 MiB: three files, of which the middle one goes.
    for (file, len) in [("/a", 10 * MIB - 4096), ("/b", 10 * MIB), ("/c", 5 * MIB + 4096)] {
        let opened = make(&d.admin, file, len, "sim0");
        d.admin.close(opened.handle);
        in_one_run(&d.admin, file);
    }
    d.admin.remove(&path("/b"), false).unwrap();
    let free = pool().bytes - pool().private - pool().used;
    assert!(free > 15 * MIB);
    fails(create(&d.admin, "/b", 11 * MIB), ErrorKind::NoSpace, &["sim0"]);
    fails(moved(&d.admin, "/none", "sim0"), ErrorKind::NotFound, &["/none"]);
    make(&d.admin, "/d", 11 * MIB, "dram");
    fails(moved(&d.admin, "/d", "sim0"), ErrorKind::NoSpace, &["sim0"]);
    assert_eq!(pool_of(&d.admin, "/d"), [0]);
    make(&d.admin, "/e", 9 * MIB, "dram");
    moved(&d.admin, "/e", "sim0").unwrap();
    in_one_run(&d.admin, "/e");
    assert_intact(&d.admin, "/e", 9 * MIB);
    // What has others behind it can't grow, and says why.
    let a = d.admin.open(&open_of("/a", 0)).unwrap();
    d.admin.set_len(a.handle, 10 * MIB).unwrap();
    fails(d.admin.set_len(a.handle, 10 * MIB + 1), ErrorKind::NoSpace, &["sim0", "in one run"]);
    assert_eq!(d.admin.stat(&path("/a")).unwrap().len, 10 * MIB);
    // A file that only prefers the device goes elsewhere.
    let prefers = Some(PlacementSpec::Prefer { pool: "sim0".into() });
    d.admin.open(&Open { placement: prefers, ..open_of("/p", 11 * MIB) }).unwrap();
    assert!(pool_of(&d.admin, "/p").contains(&0));
    in_one_run(&d.admin, "/c");
    d.admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    d.admin.online("sim0", &mut quiet()).unwrap();
    for file in ["/a", "/c", "/e"] {
        in_one_run(&d.admin, file);
    }
    assert!(d.store.check(false).unwrap().is_empty());
}

#[test]
fn what_prefers_a_device_goes_elsewhere_where_it_can_not_grow_as_the_device_needs_it() {
    let d = Driven::new(needy());
    let placed = |file: &str, placement| Open { placement: Some(placement), ..open_of(file, MIB) };
    let prefers = PlacementSpec::Prefer { pool: "sim0".into() };
    let open = d.admin.open(&placed("/p", prefers)).unwrap();
    make(&d.admin, "/behind", MIB, "sim0");
    d.admin.set_len(open.handle, 3 * MIB).unwrap();
    assert_eq!(pool_of(&d.admin, "/p"), [1, 0]);
    in_one_run(&d.admin, "/behind");
    // In turns, and by name, there is no other: it is refused, and says why.
    let turns = PlacementSpec::Interleave { pools: vec!["sim0".into(), "dram".into()] };
    for (file, placement) in [("/turns", turns), ("/on", on("sim0").unwrap())] {
        let open = d.admin.open(&placed(file, placement)).unwrap();
        let behind = format!("{file}-behind");
        make(&d.admin, &behind, MIB, "sim0");
        fails(d.admin.set_len(open.handle, MIB + 4096), ErrorKind::NoSpace, &["sim0", "in one run"]);
        assert_eq!(d.admin.stat(&path(file)).unwrap().len, MIB);
    }
    assert!(d.store.check(false).unwrap().is_empty());
}

#[test]
fn a_helper_that_has_no_room_as_it_needs_it_is_passed_over() {
    let d =
        helping(&[("sim0", Some(100)), ("sim1", Some(200))], Description { reach: Reach::Own, ..needy() });
    let open = d.admin.open(&open_of("/f", MIB)).unwrap();
    put(&d.admin, "/behind", MIB).unwrap();
    assert_eq!((pool_of(&d.admin, "/f"), pool_of(&d.admin, "/behind")), (vec![1], vec![1]));
    d.admin.set_len(open.handle, 2 * MIB).unwrap();
    assert_eq!(pool_of(&d.admin, "/f"), [1, 2]);
    assert!(d.store.check(false).unwrap().is_empty());
}

#[test]
fn a_device_s_own_frames_are_nobody_s_also_before_its_driver_is_back() {
    let d = Driven::new(needy());
    let shown = |rig: &Rig| {
        let table = TableReader::open(&rig.layout().frame_table("sim0")).unwrap();
        [0, 255, 256].map(|frame| table.get(Frame(frame)).unwrap().flags.contains(FrameFlags::DEVICE_PRIVATE))
    };
    assert_eq!(shown(&d.rig), [true, true, false]);
    let (rig, store) = d.reopened();
    assert_eq!((shown(&rig), store.info().pools[1].private), ([true, true, false], MIB));
    let session = admin(&store);
    fails(create(&session, "/f", 32 * MIB), ErrorKind::NoSpace, &["sim0"]);
    create(&session, "/f", 31 * MIB).unwrap();
    in_one_run(&session, "/f");
    assert!(store.check(true).unwrap().is_empty());
    // A driver that wants what files have by now.
    let mut more = needy();
    more.needs.private.push((16 * MIB, MIB));
    fails(
        store.drive("sim0", Told::new(more.clone()).0, None),
        ErrorKind::DeviceState,
        &["sim0", "1 MiB from 16 MiB"],
    );
    assert_eq!(store.info().pools[1].private, MIB);
    session.remove(&path("/f"), false).unwrap();
    drop(store.drive("sim0", Told::new(more).0, None).unwrap());
    assert_eq!(store.info().pools[1].private, 2 * MIB);
    // And one to which files lie in pieces.
    drop(store.drive("sim0", Told::new(npu()).0, None).unwrap());
    create(&session, "/g", 3 * MIB + 4096).unwrap();
    create(&session, "/h", MIB).unwrap();
    fails(store.drive("sim0", Told::new(needy()).0, None), ErrorKind::DeviceState, &["sim0", "drain it"]);
}

/// `dram` of 16 MiB, which is full, and devices of 32 MiB that help out, the first of which has a driver.
fn helping(devices: &[(&str, Option<u32>)], description: Description) -> Driven {
    let rig = Rig::new();
    let emergency = Some(Emergency { at_most: AtMost::ALL, when: None });
    let device = |&(name, read_ns): &(&str, Option<u32>)| {
        let link = LinkModel { read_ns, ..LinkModel::default() };
        DeviceSpec { emergency, ..DeviceSpec::emulated(name, 32 * MIB, link) }
    };
    let devices = devices.iter().map(device).collect();
    let options = StoreOptions { dram_bytes: Some(16 * MIB), devices, ..options(&rig, LONG) };
    let store = Store::open(options, TestEnv::new()).unwrap();
    let d = Driven::by(rig, store, description).running();
    d.admin.close(make(&d.admin, "/full", 16 * MIB, "dram").handle);
    d
}

/// Makes a file that is nowhere in particular.
fn put(session: &Session, file: &str, len: u64) -> Result<()> {
    let opened = session.open(&open_of(file, len))?;
    write(session, &opened, &(0..len).map(|i| byte_at(file, i)).collect::<Vec<u8>>(), 0);
    session.close(opened.handle);
    Ok(())
}

#[test]
fn an_emergency_keeps_off_what_is_a_device_s_own_and_writes_back_what_goes_home() {
    let d = helping(&[("sim0", None)], Description { reach: Reach::Own, ..needy() });
    put(&d.admin, "/f", 3 * MIB).unwrap();
    assert_eq!(pool_of(&d.admin, "/f"), [1]);
    in_one_run(&d.admin, "/f");
    // Of 32 MiB one is the device's, and three are the file's.
    fails(put(&d.admin, "/g", 29 * MIB), ErrorKind::NoSpace, &["sim0 has room for 28 MiB"]);
    let open = d.driver.gate("write_back");
    d.admin.remove(&path("/full"), false).unwrap();
    written_back(d.next(), &d.admin, "/f", 3 * MIB);
    assert_eq!(pool_of(&d.admin, "/f"), [1], "it is not home before");
    open.send(()).unwrap();
    let Asked::WriteBack(again) = d.next() else { panic!("before frames are given back") };
    assert_eq!(again.iter().map(|r| r.len).sum::<u64>(), 3 * MIB);
    open.send(()).unwrap();
    let pool = || d.store.info().pools[1].clone();
    let begun = Instant::now();
    while pool().free != 31 * MIB {
        assert!(begun.elapsed() < LONG, "{:?}", pool());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!((pool_of(&d.admin, "/f"), pool().used, pool().private), (vec![0], 0, MIB));
    assert_intact(&d.admin, "/f", 3 * MIB);
    assert!(d.store.check(false).unwrap().is_empty());
}

#[test]
fn an_emergency_compares_devices_by_what_their_drivers_tell_too() {
    let mut near = npu();
    near.link = Link { model: LinkModel { read_ns: Some(200), ..LinkModel::default() }, ..near.link };
    let mut d = helping(&[("sim0", None), ("sim1", Some(300))], near);
    put(&d.admin, "/f", MIB).unwrap();
    assert_eq!(pool_of(&d.admin, "/f"), [1]);
    drop(d.driving.take());
    put(&d.admin, "/g", MIB).unwrap();
    assert_eq!(pool_of(&d.admin, "/g"), [2]);
}

/// A program's queue to `sim0`, to which it has given a file.
struct Program {
    queue: QueueId,
    ring: Ring,
    submitter: Submitter,
}

impl Program {
    fn new(d: &Driven) -> Self {
        let (queue, fd) = d.admin.open_queue("sim0", 4).unwrap();
        let ring = Ring::open(fd).unwrap();
        let file = make(&d.admin, &format!("/of-{}", queue.0), 4096, "dram");
        assert_eq!(d.admin.grant(queue, file.handle, false).unwrap(), 1);
        Self { queue, submitter: ring.submitter().unwrap(), ring }
    }

    /// Of a device that runs.
    fn served(d: &Driven) -> Self {
        let program = Self::new(d);
        program.is_handed(d);
        program
    }

    /// The driver is handed the queue, with what it was given.
    #[track_caller]
    fn is_handed(&self, d: &Driven) {
        assert_eq!((d.next(), d.next()), (Asked::OpenQueue(self.queue), Asked::Grant(1)));
    }

    fn submit(&self, flags: u16) -> Ticket {
        self.submitter.try_submit(&Descriptor { flags, ..Descriptor::default() }).unwrap()
    }

    #[track_caller]
    fn status(&self, ticket: Ticket) -> i32 {
        self.submitter.wait(ticket, Some(Instant::now() + LONG)).unwrap().status
    }

    #[track_caller]
    fn is_refused_at_once(&self) {
        assert_eq!(self.status(self.submit(Descriptor::FAIL_AT_ONCE)), Completion::DRAINED);
    }
}

#[test]
fn queues_of_a_device_at_rest_wait_for_whichever_process_goes_on() {
    let mut d = Driven::new(npu());
    let before = Program::served(&d);
    let waits = before.submit(0);
    d.admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Save));
    // One that is opened meanwhile is kept for the driver, too.
    let meanwhile = Program::new(&d);
    d.quiet();
    before.is_refused_at_once();
    meanwhile.is_refused_at_once();
    d.driving = None;
    before.is_refused_at_once();
    let Driven { store, admin, rig, .. } = d;
    let mut d = Driven { admin, ..Driven::by(rig, store, npu()) };
    d.quiet();
    // It is gone again in the middle of the return, when it has taken an end.
    let gate = d.driver.gate("restore");
    std::thread::scope(|scope| {
        let returning = scope.spawn(|| d.admin.online("sim0", &mut quiet()));
        let handed = [d.next(), d.next(), d.next(), d.next()];
        for program in [&before, &meanwhile] {
            assert!(handed.contains(&Asked::OpenQueue(program.queue)), "{handed:?}");
        }
        assert_eq!(d.next(), Asked::Restore(b"where it was".to_vec()));
        std::mem::forget(d.driver.rings.lock().unwrap()[&before.queue].consumer().unwrap());
        d.driving = None;
        returning.join().unwrap().unwrap();
    });
    drop(gate);
    before.is_refused_at_once();
    meanwhile.is_refused_at_once();
    let Driven { store, admin, rig, .. } = d;
    let d = Driven { admin, ..Driven::by(rig, store, npu()) };
    (0..4).for_each(|_| assert!(matches!(d.next(), Asked::OpenQueue(_) | Asked::Grant(1))));
    assert_eq!((d.next(), d.next()), (Asked::Restore(b"where it was".to_vec()), Asked::Resume));
    d.stands(&Standing::Running);
    let mut consumer = d.driver.rings.lock().unwrap()[&before.queue].consumer().unwrap();
    let request = consumer.try_next().unwrap().expect("it has waited");
    consumer.complete(request, &Completion::default());
    assert_eq!(before.status(waits), 0);
    // Of a device that runs nobody can tell how far it was.
    drop(d.driving);
    for program in [&before, &meanwhile] {
        assert_eq!(program.ring.closed(), Some(Reason::Died));
    }
}

#[test]
fn a_state_that_is_lost_or_refused_leaves_no_queue_behind_or_all() {
    let mut d = Driven::new(npu());
    let program = Program::served(&d);
    let drain = |d: &Driven| d.admin.drain("sim0", DrainOptions::default(), &mut quiet());
    // Not kept: the driver has its queues again, and goes on.
    *d.driver.state.lock().unwrap() = Vec::new();
    fails(drain(&d), ErrorKind::DeviceState, &["empty state"]);
    assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Save));
    program.is_handed(&d);
    assert_eq!(d.next(), Asked::Resume);
    // Not taken: it has to give them up once more.
    *d.driver.state.lock().unwrap() = vec![1];
    drain(&d).unwrap();
    assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Save));
    d.driver.fail(Some("restore"));
    fails(d.admin.online("sim0", &mut quiet()), ErrorKind::DeviceState, &["restore"]);
    program.is_handed(&d);
    assert_eq!(d.next(), Asked::Restore(vec![1]));
    program.is_refused_at_once();
    // Forgotten: who waits is told, and the next one is carried out.
    let forgotten = program.submit(0);
    d.admin.online_anew("sim0", &mut quiet()).unwrap();
    assert_eq!(d.next(), Asked::Reset);
    assert_eq!(program.status(forgotten), Completion::RESET);
    program.is_handed(&d);
    assert_eq!(d.next(), Asked::Resume);
    let next = program.submit(0);
    let mut consumer = d.driver.rings.lock().unwrap()[&program.queue].consumer().unwrap();
    let request = consumer.try_next().unwrap().expect("it was submitted");
    consumer.complete(request, &Completion::default());
    assert_eq!(program.status(next), 0);
    let _ = consumer.suspend(Vec::new());
    // Lost with the driver in the middle of it.
    let waits = program.submit(0);
    let gate = d.driver.gate("save");
    std::thread::scope(|scope| {
        let draining = scope.spawn(|| d.admin.drain("sim0", DrainOptions::default(), &mut quiet()));
        assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Save));
        d.driving = None;
        draining.join().unwrap().unwrap();
    });
    drop(gate);
    let ended = program.submitter.wait(waits, Some(Instant::now() + LONG));
    assert!(matches!(&ended, Err(Unfinished::Closed(closed)) if closed.0 == Reason::Died), "{ended:?}");
}

#[test]
fn who_leaves_takes_his_queues_along_also_from_a_device_at_rest() {
    let d = Driven::new(npu());
    let program = Program::served(&d);
    let other = admin(&d.store);
    let (queue, fd) = other.open_queue("sim0", 2).unwrap();
    assert_eq!(d.next(), Asked::OpenQueue(queue));
    let ring = Ring::open(fd).unwrap();
    d.admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Save));
    drop(other);
    assert_eq!(ring.closed(), Some(Reason::Died));
    d.admin.online("sim0", &mut quiet()).unwrap();
    program.is_handed(&d);
    assert_eq!(d.next(), Asked::Restore(b"where it was".to_vec()));
}

#[test]
fn a_device_goes_on_whose_drain_was_cancelled_before_it_had_come_to_rest() {
    let d = Driven::new(npu());
    let program = Program::served(&d);
    let gate = d.driver.gate("quiesce");
    fails(d.admin.drain("sim0", DrainOptions::default(), &mut |_| false), ErrorKind::Cancelled, &["sim0"]);
    assert_eq!((d.next(), d.state()), (Asked::Quiesce, PoolState::Online));
    // It is kept until the device runs.
    let meanwhile = Program::new(&d);
    d.quiet();
    drop(gate);
    meanwhile.is_handed(&d);
    assert_eq!(d.next(), Asked::Resume);
    d.stands(&Standing::Running);
    // Also where it is `online` that cancels it.
    let gate = d.driver.gate("quiesce");
    std::thread::scope(|scope| {
        let draining = scope.spawn(|| d.admin.drain("sim0", DrainOptions::default(), &mut quiet()));
        assert_eq!(d.next(), Asked::Quiesce);
        let returning = scope.spawn(|| d.admin.online("sim0", &mut quiet()));
        fails(draining.join().unwrap(), ErrorKind::Cancelled, &["sim0"]);
        drop(gate);
        returning.join().unwrap().unwrap();
    });
    assert_eq!(d.next(), Asked::Resume);
    d.stands(&Standing::Running);
    assert_eq!((program.ring.closed(), meanwhile.ring.closed()), (None, None));
}

#[test]
fn a_device_that_is_late_to_go_on_does_so_when_its_driver_answers() {
    let d = Driven::impatient(npu());
    let program = Program::served(&d);
    let gate = d.driver.gate("resume");
    d.driver.fail(Some("quiesce"));
    fails(d.admin.drain("sim0", DrainOptions::default(), &mut quiet()), ErrorKind::Busy, &["on purpose"]);
    assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Resume));
    d.stands(&Standing::Failed("resume: it has not answered within 1.0 s".into()));
    let meanwhile = Program::new(&d);
    meanwhile.is_refused_at_once();
    drop(gate);
    meanwhile.is_handed(&d);
    assert_eq!(d.next(), Asked::Resume);
    d.stands(&Standing::Running);
    assert_eq!((program.ring.closed(), meanwhile.ring.closed()), (None, None));
}

/// A request of which a device has done half.
fn half_done(d: &Driven, program: &Program) -> (Ticket, Consumer, Request) {
    let descriptor = Descriptor { len: 8, ..Descriptor::default() };
    let ticket = program.submitter.try_submit(&descriptor).unwrap();
    let mut consumer = d.driver.rings.lock().unwrap()[&program.queue].consumer().unwrap();
    let begun = consumer.try_next().unwrap().expect("it was submitted");
    consumer.tell_left(&begun, 4);
    (ticket, consumer, begun)
}

#[test]
fn what_is_given_up_for_a_reset_that_is_late_ends_as_reset() {
    let mut d = Driven::impatient(npu());
    let program = Program::served(&d);
    for drained in [false, true] {
        let (ticket, consumer, begun) = half_done(&d, &program);
        let gates = [d.driver.gate("quiesce"), d.driver.gate("reset")];
        if drained {
            let options = DrainOptions { reset: true, ..Default::default() };
            fails(d.admin.drain("sim0", options, &mut quiet()), ErrorKind::DeviceState, &["can't be reset"]);
        } else {
            fails(d.admin.online_anew("sim0", &mut quiet()), ErrorKind::DeviceState, &["reset", "1.0 s"]);
        }
        d.stands(&Standing::Failed("reset: it has not answered within 1.0 s".into()));
        let ticket = match program.submitter.poll(ticket) {
            Err(Unfinished::Pending(ticket)) => ticket,
            other => panic!("the device may still be at it: {other:?}"),
        };
        // It comes to it, and is asked once more, since nobody has heard whether it has.
        let _ = consumer.suspend(vec![begun]);
        drop(gates);
        let asked = if drained { vec![Asked::Quiesce, Asked::Reset] } else { vec![Asked::Reset] };
        asked.into_iter().chain([Asked::Reset]).for_each(|asked| assert_eq!(d.next(), asked));
        assert_eq!(program.status(ticket), Completion::RESET);
        program.is_handed(&d);
        assert_eq!(d.next(), Asked::Resume);
        d.stands(&Standing::Running);
        let (next, mut consumer, begun) = half_done(&d, &program);
        consumer.complete(begun, &Completion::default());
        assert_eq!(program.status(next), 0);
        let _ = consumer.suspend(Vec::new());
    }
    // Or it never does.
    let (ticket, consumer, begun) = half_done(&d, &program);
    let gate = d.driver.gate("reset");
    fails(d.admin.online_anew("sim0", &mut quiet()), ErrorKind::DeviceState, &["reset", "1.0 s"]);
    std::mem::forget((consumer, begun));
    d.driving = None;
    assert_eq!(program.status(ticket), Completion::RESET);
    program.is_refused_at_once();
    drop(gate);
    let Driven { store, admin, rig, .. } = d;
    let d = Driven { admin, ..Driven::by(rig, store, npu()) };
    program.is_handed(&d);
    assert_eq!(d.next(), Asked::Resume);
    d.stands(&Standing::Running);
    let (next, mut consumer, begun) = half_done(&d, &program);
    assert_eq!(begun.descriptor().len, 8);
    consumer.complete(begun, &Completion::default());
    assert_eq!(program.status(next), 0);
}

#[test]
fn queues_to_a_device_at_rest_are_made_also_while_its_driver_is_away() {
    let working = || Description { operations: vec!["add".into()], ..npu() };
    let mut d = Driven::new(working());
    d.admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Save));
    d.driving = None;
    let program = Program::new(&d);
    program.is_refused_at_once();
    let waits = program.submit(0);
    let Driven { store, admin, rig, .. } = d;
    let mut d = Driven { admin, ..Driven::by(rig, store, working()) };
    d.admin.online("sim0", &mut quiet()).unwrap();
    program.is_handed(&d);
    assert_eq!((d.next(), d.next()), (Asked::Restore(b"where it was".to_vec()), Asked::Resume));
    let mut consumer = d.driver.rings.lock().unwrap()[&program.queue].consumer().unwrap();
    let request = consumer.try_next().unwrap().expect("it has waited");
    consumer.complete(request, &Completion::default());
    assert_eq!(program.status(waits), 0);
    // One that should run has to have somebody who does it.
    d.driving = None;
    fails(d.admin.open_queue("sim0", 4), ErrorKind::DeviceState, &["no driver now", "npu"]);
}
