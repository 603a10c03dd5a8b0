//! Devices' drivers: moves that wait for caches, drains that save and restore state, memory as a device needs it; and drivers that do it badly on purpose.

mod needs;
mod queues;
mod rest;
#[path = "../store_support/mod.rs"]
mod store_support;
mod write_back;

use codax_core::change::{BackingKind, LinkModel, PoolState};
use codax_core::driver::{
    Class, Counter, Description, Driver, Granted, Health, Link, QueueId, Range, Reach, Standing,
};
use codax_core::emergency::{AtMost, Emergency};
use codax_core::frame::FrameFlags;
use codax_core::request::{Open, PlacementSpec};
use codax_core::{Error, ErrorKind, Frame, ROOT, Result};
use codax_engine::driver::Driving;
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

/// A driver that takes no queues.
#[derive(Debug)]
struct Queueless;

impl Driver for Queueless {
    fn describe(&self) -> Description {
        Description { operations: vec!["add".into()], ..npu() }
    }

    fn save(&self) -> Result<Vec<u8>> {
        Ok(b"where it was".to_vec())
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

fn create_on(session: &Session, file: &str, pool: &str) -> Result<()> {
    session.open(&Open { placement: on(pool), ..open_of(file, MIB) }).map(drop)
}
