//! Memory that is lent to the rest of the system, by a lender that does what the test says.

mod store_support;

use codax_core::change::{LinkModel, PoolRecord, PoolState};
use codax_core::emergency::{AtMost, Emergency, When};
use codax_core::info::{JobInfo, PoolInfo};
use codax_core::request::{Open, PlacementSpec};
use codax_core::{ErrorKind, FileId, HUGE_SIZE, PageRange, Result};
use codax_engine::backing::{Backing, Lender, ObjectInfo, Shm};
use codax_engine::{DeviceSpec, DrainOptions, Store, StoreOptions};
use codax_os::copy::SourceMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use store_support::*;

/// Where somebody says that he has come there, and waits until he may go on. Only who comes first.
#[derive(Debug, Default)]
struct Gate(Mutex<Option<(Sender<()>, Receiver<()>)>>);

impl Gate {
    /// Shut from now on: tells when somebody is there, and lets him go.
    fn shut(&self) -> (Receiver<()>, Sender<()>) {
        let ((come, there), (go, may_go)) = (mpsc::channel(), mpsc::channel());
        *self.0.lock().expect("no panic under it") = Some((come, may_go));
        (there, go)
    }

    fn pass(&self) {
        let Some((come, may_go)) = self.0.lock().expect("no panic under it").take() else { return };
        come.send(()).expect("somebody waits for it");
        let _ = may_go.recv_timeout(Duration::from_secs(20));
    }
}

/// What keeps a node's memory, and counts what it has given away.
#[derive(Debug, Default)]
struct Book {
    lends: Gate,
    lent: AtomicU64,
    /// Whether others let go of it.
    gives_back: AtomicBool,
    /// Whether it hasn't had all yet.
    begins: AtomicBool,
}

impl Lender for Book {
    fn unit(&self) -> u64 {
        HUGE_SIZE
    }

    fn held(&self) -> Result<u64> {
        Ok(32 * MIB - self.lent.load(Ordering::SeqCst))
    }

    fn is_populated(&self) -> bool {
        !self.begins.load(Ordering::SeqCst)
    }

    fn lend(&self, bytes: u64) -> Result<u64> {
        self.lends.pass();
        self.lent.fetch_add(bytes, Ordering::SeqCst);
        Ok(bytes)
    }

    fn take_back(&self, bytes: u64) -> Result<u64> {
        if !self.gives_back.load(Ordering::SeqCst) {
            return Ok(0);
        }
        self.lent.fetch_sub(bytes, Ordering::SeqCst);
        Ok(bytes)
    }
}

#[derive(Debug)]
struct Lending {
    shm: Shm,
    book: Arc<Book>,
}

impl Backing for Lending {
    fn lender(&self) -> Option<Arc<dyn Lender>> {
        Some(self.book.clone())
    }

    fn create(&self, file: FileId, len: u64) -> Result<OwnedFd> {
        self.shm.create(file, len)
    }

    fn open(&self, file: FileId, write: bool) -> Result<OwnedFd> {
        self.shm.open(file, write)
    }

    fn remove(&self, file: FileId) -> Result<()> {
        self.shm.remove(file)
    }

    fn device(&self) -> Result<u64> {
        self.shm.device()
    }

    fn list(&self) -> Result<Vec<(FileId, ObjectInfo)>> {
        self.shm.list()
    }

    fn allocate(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        self.shm.allocate(object, pages)
    }

    fn make_ready(&self, object: BorrowedFd<'_>, pages: PageRange) {
        self.shm.make_ready(object, pages);
    }

    fn release(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        self.shm.release(object, pages)
    }

    fn resize(&self, object: BorrowedFd<'_>, len: u64) -> Result<()> {
        self.shm.resize(object, len)
    }

    fn read(&self, object: BorrowedFd<'_>, buf: &mut [u8], at: u64) -> Result<usize> {
        self.shm.read(object, buf, at)
    }

    fn write(&self, object: BorrowedFd<'_>, bytes: &[u8], at: u64) -> Result<()> {
        self.shm.write(object, bytes, at)
    }

    fn append(&self, object: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize> {
        self.shm.append(object, bytes)
    }

    fn copy(&self, from: &SourceMap, at: u64, len: u64, to: BorrowedFd<'_>) -> Result<u64> {
        self.shm.copy(from, at, len, to)
    }

    fn sole_holder(&self, file: FileId) -> Result<Option<OwnedFd>> {
        self.shm.sole_holder(file)
    }

    fn lock(&self, file: FileId, object: BorrowedFd<'_>, pages: &[PageRange]) -> Result<()> {
        self.shm.lock(file, object, pages)
    }

    fn unlock(&self, file: FileId) {
        self.shm.unlock(file);
    }
}

/// A store whose device of 32 MiB has a reserve that it lends of whenever memory is short, as it always is.
struct Lent {
    rig: Rig,
    book: Arc<Book>,
    env: Arc<TestEnv>,
    /// Through which goes who has decided to lend something.
    decided: Arc<Gate>,
}

impl Lent {
    fn new() -> Self {
        let (rig, book) = (Rig::new(), Arc::<Book>::default());
        let decided = Arc::<Gate>::default();
        let gate = decided.clone();
        let env = TestEnv::seen_by(move |what| {
            if what == "loan:decided" {
                gate.pass();
            }
        });
        Self { rig, book, env, decided }
    }

    fn options(&self, allowed: bool) -> StoreOptions {
        self.options_of(AtMost::ALL, allowed)
    }

    fn options_of(&self, at_most: AtMost, allowed: bool) -> StoreOptions {
        let always = Emergency { at_most, when: Some(When::Free(1 << 50)) };
        let sim0 = DeviceSpec::emulated("sim0", 32 * MIB, LinkModel::default());
        let devices = vec![DeviceSpec { emergency: allowed.then_some(always), ..sim0 }];
        StoreOptions { devices, ..self.rig.options() }
    }

    fn open(&self) -> Store {
        self.open_of(AtMost::ALL)
    }

    fn open_of(&self, at_most: AtMost) -> Store {
        let book = self.book.clone();
        let make = move |pool: &PoolRecord, shm| -> Arc<dyn Backing> {
            if pool.name == "sim0" { Arc::new(Lending { shm, book: book.clone() }) } else { Arc::new(shm) }
        };
        Store::open_with(self.options_of(at_most, true), self.env.clone(), &make).expect("the store opens")
    }

    fn lent(&self) -> u64 {
        self.book.lent.load(Ordering::SeqCst)
    }
}

fn sim0(store: &Store) -> PoolInfo {
    store.info().pools[1].clone()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn nothing_is_lent_of_what_is_not_populated_yet() {
    let lent = Lent::new();
    lent.book.begins.store(true, Ordering::SeqCst);
    let (looked, go) = lent.decided.shut();
    let store = lent.open();
    looked.recv_timeout(Duration::from_secs(20)).expect("it is looked after");
    let (again, go_again) = lent.decided.shut();
    go.send(()).expect("it waits");
    again.recv_timeout(Duration::from_secs(20)).expect("as long as memory is short");
    assert_eq!(lent.lent(), 0);
    lent.book.begins.store(false, Ordering::SeqCst);
    go_again.send(()).expect("it waits");
    until("it is lent", || lent.lent() > 0);
    lent.book.gives_back.store(true, Ordering::SeqCst);
    store.close(true).expect("purged");
}

#[test]
fn a_drain_that_comes_while_something_is_being_lent_waits_for_it() {
    let lent = Lent::new();
    lent.book.gives_back.store(true, Ordering::SeqCst);
    let (there, go) = lent.book.lends.shut();
    let store = lent.open();
    there.recv_timeout(Duration::from_secs(20)).expect("it is lent");
    let mut looked = 0;
    let mut progress = |_: &JobInfo| {
        looked += 1;
        // It has looked once, and waits.
        if looked == 2 {
            let _ = go.send(());
        }
        true
    };
    admin(&store).drain("sim0", DrainOptions::default(), &mut progress).expect("it came back");
    assert_eq!((sim0(&store).state, sim0(&store).emergency.lent, lent.lent()), (PoolState::Offline, 0, 0));
    store.close(true).expect("purged");
}

#[test]
fn a_drain_that_waits_for_what_is_lent_takes_no_files_meanwhile() {
    let lent = Lent::new();
    let store = lent.open_of(AtMost::Percent(50));
    let s = admin(&store);
    until("half is lent", || sim0(&store).emergency.lent == 16 * MIB);
    // Files may have the other half now, and nobody else.
    lent.book.begins.store(true, Ordering::SeqCst);
    store.reload(&lent.options(true)).expect("reloaded");
    let dram = store.info().pools[0].free;
    s.close(s.open(&open_of("/full", dram)).expect("all of dram").handle);
    let mut refused = None;
    let mut progress = |_: &JobInfo| {
        if refused.is_none() {
            refused = Some(s.open(&open_of("/f", MIB)).map(|opened| s.close(opened.handle)));
            lent.book.gives_back.store(true, Ordering::SeqCst);
        }
        true
    };
    s.drain("sim0", DrainOptions::default(), &mut progress).expect("it came back");
    let refused = refused.expect("it waited").expect_err("there is no room");
    assert!(refused.message.contains("sim0 is about to be drained"), "{refused}");
    store.close(true).expect("purged");
}

#[test]
fn a_device_that_may_lend_less_than_a_page_says_so() {
    let lent = Lent::new();
    let store = lent.open_of(AtMost::Bytes(MIB));
    until("it is said", || sim0(&store).emergency.unlent.is_some());
    let why = "at_most allows 1 MiB, less than a page, 2 MiB";
    assert_eq!(sim0(&store).emergency.unlent.as_deref(), Some(why));
    let said = || store.events(0, 1000).into_iter().filter(|event| event.what == "refuse");
    until("it is told", || said().any(|event| event.subject == "sim0" && event.detail.contains(why)));
    assert_eq!(lent.lent(), 0);
    store.reload(&lent.options(true)).expect("reloaded");
    until("it lends", || lent.lent() > 0);
    assert_eq!(sim0(&store).emergency.unlent, None);
    lent.book.gives_back.store(true, Ordering::SeqCst);
    store.close(true).expect("purged");
}

#[test]
fn what_was_to_be_lent_isn_t_when_a_drain_has_come_before() {
    let lent = Lent::new();
    let (there, go) = lent.decided.shut();
    let store = lent.open();
    there.recv_timeout(Duration::from_secs(20)).expect("it is decided");
    admin(&store).drain("sim0", DrainOptions::default(), &mut |_| true).expect("nothing is lent");
    go.send(()).expect("it waits");
    // It has looked again by then.
    let (there, go) = lent.decided.shut();
    there.recv_timeout(Duration::from_secs(20)).expect("it goes on");
    drop(go);
    assert_eq!((sim0(&store).state, sim0(&store).emergency.lent, lent.lent()), (PoolState::Offline, 0, 0));
    store.close(true).expect("purged");
}

#[test]
fn a_drain_that_is_refused_has_it_lent_again_afterwards_and_a_reload_changes_nothing_of_that() {
    let lent = Lent::new();
    let store = lent.open();
    until("all is lent", || sim0(&store).emergency.lent == 32 * MIB);
    let mut looked = false;
    let mut progress = |_: &JobInfo| {
        if !std::mem::replace(&mut looked, true) {
            // It is allowed nothing for a moment.
            store.reload(&lent.options(false)).expect("reloaded");
            store.reload(&lent.options(true)).expect("reloaded");
        }
        true
    };
    let refused =
        admin(&store).drain("sim0", DrainOptions::default(), &mut progress).expect_err("others have it");
    assert_eq!(refused.kind, ErrorKind::Busy);
    assert_eq!((sim0(&store).state, sim0(&store).emergency.lent), (PoolState::Online, 32 * MIB));
    lent.book.gives_back.store(true, Ordering::SeqCst);
    admin(&store).drain("sim0", DrainOptions::default(), &mut |_| true).expect("they let go");
    assert_eq!((sim0(&store).emergency.lent, lent.lent()), (0, 0));
    store.close(true).expect("purged");
}

#[test]
fn what_is_being_lent_of_a_device_that_is_allowed_nothing_any_more_comes_back() {
    let lent = Lent::new();
    lent.book.gives_back.store(true, Ordering::SeqCst);
    let (there, go) = lent.book.lends.shut();
    let store = lent.open();
    there.recv_timeout(Duration::from_secs(20)).expect("it is lent");
    store.reload(&lent.options(false)).expect("reloaded");
    assert!(sim0(&store).emergency.lent > 0);
    go.send(()).expect("it waits");
    until("it is back", || sim0(&store).emergency.lent == 0 && lent.lent() == 0);
    store.close(true).expect("purged");
}

#[test]
fn it_is_said_why_it_comes_back_and_how_much_it_is_about() {
    let lent = Lent::new();
    let store = lent.open();
    let s = admin(&store);
    let said = |why: &str| {
        until(why, || {
            let all = store.events(0, 1000).into_iter();
            all.rev().find(|event| event.what == "return").is_some_and(|event| event.detail.contains(why))
        });
    };
    until("all is lent", || sim0(&store).emergency.lent == 32 * MIB);
    let pressure =
        store.events(0, 1000).into_iter().find(|event| event.what == "pressure").expect("it is short");
    assert_eq!(pressure.bytes, 32 * MIB);
    lent.book.gives_back.store(true, Ordering::SeqCst);
    let on = PlacementSpec::On { pool: "sim0".into(), strict: false };
    let full = s.open(&Open { placement: Some(on), ..open_of("/f", MIB) }).expect_err("all is lent");
    assert_eq!(full.kind, ErrorKind::NoSpace);
    said("for a file that found no room: nothing is lent any more");
    // Who tries again finds it, though memory is short all the time.
    let (looked, go) = lent.decided.shut();
    looked.recv_timeout(Duration::from_secs(20)).expect("it is looked after");
    drop(go);
    let on = PlacementSpec::On { pool: "sim0".into(), strict: false };
    let all = Open { placement: Some(on), ..open_of("/f", 32 * MIB) };
    s.close(s.open(&all).expect("it is kept for it").handle);
    assert_eq!(sim0(&store).emergency.lent, 0);
    s.remove(&path("/f"), false).expect("removed");
    lent.env.pass(Duration::from_secs(10));
    until("all is lent again", || sim0(&store).emergency.lent == 32 * MIB);
    let mut less = lent.options(true);
    less.devices[0].emergency.as_mut().expect("allowed").at_most = AtMost::Bytes(8 * MIB);
    store.reload(&less).expect("reloaded");
    said("since no more than that is allowed of it (at_most): 8 MiB are lent any more");
    s.drain("sim0", DrainOptions::default(), &mut |_| true).expect("it comes back");
    said("for a drain: nothing is lent any more");
    drop(s);
    store.close(true).expect("purged");
}

#[test]
fn what_a_file_wanted_back_in_vain_is_asked_for_no_longer_than_it_waits() {
    let lent = Lent::new();
    let store = lent.open();
    until("all is lent", || sim0(&store).emergency.lent == 32 * MIB);
    let s = admin(&store);
    let on = PlacementSpec::On { pool: "sim0".into(), strict: false };
    let file = Open { placement: Some(on), ..open_of("/f", MIB) };
    let looked_again = || {
        let (looked, go) = lent.decided.shut();
        looked.recv_timeout(Duration::from_secs(20)).expect("it is looked after");
        drop(go);
    };
    assert_eq!(s.open(&file).expect_err("all is lent").kind, ErrorKind::NoSpace);
    until("it is wanted back", || sim0(&store).emergency.owed == 32 * MIB);
    lent.env.pass(Duration::from_secs(10));
    until("it is wanted no more", || sim0(&store).emergency.owed == 0);
    looked_again();
    lent.book.gives_back.store(true, Ordering::SeqCst);
    looked_again();
    looked_again();
    assert_eq!(sim0(&store).emergency.lent, 32 * MIB, "memory is short all the time");
    assert_eq!(s.open(&file).expect_err("all is lent").kind, ErrorKind::NoSpace);
    until("it is back", || sim0(&store).emergency.lent == 0);
    drop(s);
    store.close(true).expect("purged");
}

#[test]
fn what_is_written_down_of_a_loan_stays_until_a_start_can_t_fail_any_more() {
    let lent = Lent::new();
    let store = lent.open();
    until("all is lent", || sim0(&store).emergency.lent == 32 * MIB);
    store.end();
    let word = lent.rig.layout().meta().join("lent.sim0");
    assert_eq!(std::fs::read_to_string(&word).expect("written down"), (32 * MIB).to_string());
    // Without anybody who lends nothing is lent.
    let store = Store::open(lent.options(true), TestEnv::new()).expect("the store opens");
    assert_eq!((word.exists(), sim0(&store).emergency.lent, sim0(&store).free), (false, 0, 32 * MIB));
    store.close(true).expect("purged");
}
