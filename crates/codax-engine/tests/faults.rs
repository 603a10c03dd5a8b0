//! The store on a medium that fails on purpose, once for each call that the store makes of it.

mod store_support;

use codax_core::change::{PoolRecord, PoolState};
use codax_core::extent::{Extent, FrameRun};
use codax_core::request::Open;
use codax_core::{Error, ErrorKind, FileId, Frame, PageCount, PageRange, Result};
use codax_engine::backing::{Backing, ObjectInfo, Shm};
use codax_engine::fs::{Allocate, How, New, NewKind, Who};
use codax_engine::{DrainOptions, Opened, Session, Store};
use codax_os::copy::SourceMap;
use codax_os::process::{Held, Hold};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use store_support::*;

/// Which call fails.
#[derive(Debug)]
struct Fault {
    calls: AtomicU64,
    fails: u64,
    /// Whether all calls after it fail too: a dead medium.
    dead: bool,
    /// Only while this is set are calls counted.
    on: AtomicBool,
    /// The call that failed first.
    hit: Mutex<Option<&'static str>>,
    /// Where a call that allocates says that it has begun, and waits until it may go on.
    gate: Mutex<Option<(Sender<()>, Receiver<()>)>>,
    /// Frames that somebody maps by himself.
    mapped: Mutex<Vec<FrameRun>>,
    /// Frames whose memory is damaged, as whoever gives them to a file sees.
    unfit: Mutex<Vec<FrameRun>>,
    /// How often it was asked who maps it.
    looks: AtomicU64,
}

impl Fault {
    fn new(fails: u64, dead: bool) -> Arc<Self> {
        Arc::new(Self {
            calls: AtomicU64::new(0),
            fails,
            dead,
            on: AtomicBool::new(false),
            hit: Mutex::new(None),
            gate: Mutex::new(None),
            mapped: Mutex::new(Vec::new()),
            unfit: Mutex::new(Vec::new()),
            looks: AtomicU64::new(0),
        })
    }

    fn set(&self, on: bool) {
        self.on.store(on, Ordering::SeqCst);
    }

    fn hit(&self) -> Option<&'static str> {
        *self.hit.lock().expect("no panic under it")
    }

    fn call(&self, what: &'static str) -> Result<()> {
        if !self.on.load(Ordering::SeqCst) {
            return Ok(());
        }
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if call < self.fails || call > self.fails && !self.dead {
            return Ok(());
        }
        self.hit.lock().expect("no panic under it").get_or_insert(what);
        // What makes or fills an object runs out of space; the rest breaks.
        let kind = match what {
            "create" | "allocate" | "write" | "copy" => ErrorKind::NoSpace,
            _ => ErrorKind::Internal,
        };
        Err(Error::new(kind, format!("call {call} of the medium, {what}: fails on purpose")))
    }
}

#[derive(Debug)]
struct FailingBacking {
    shm: Shm,
    fault: Arc<Fault>,
}

/// Pools on media that fail as told.
fn on_failing(fault: &Arc<Fault>) -> impl Fn(&PoolRecord, Shm) -> Arc<dyn Backing> + use<> {
    let fault = fault.clone();
    move |_, shm| Arc::new(FailingBacking { shm, fault: fault.clone() })
}

impl Backing for FailingBacking {
    fn create(&self, file: FileId, len: u64) -> Result<OwnedFd> {
        self.fault.call("create").and_then(|()| self.shm.create(file, len))
    }

    fn open(&self, file: FileId, write: bool) -> Result<OwnedFd> {
        self.fault.call("open").and_then(|()| self.shm.open(file, write))
    }

    fn remove(&self, file: FileId) -> Result<()> {
        self.fault.call("remove").and_then(|()| self.shm.remove(file))
    }

    fn device(&self) -> Result<u64> {
        self.fault.call("device").and_then(|()| self.shm.device())
    }

    fn list(&self) -> Result<Vec<(FileId, ObjectInfo)>> {
        self.fault.call("list").and_then(|()| self.shm.list())
    }

    fn allocate(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        if let Some((begun, may_go)) = self.fault.gate.lock().expect("no panic under it").take() {
            begun.send(()).expect("somebody waits for it");
            let gone_on = may_go.recv_timeout(Duration::from_secs(20));
            gone_on.map_err(|_| Error::internal("others were kept waiting"))?;
        }
        self.fault.call("allocate").and_then(|()| self.shm.allocate(object, pages))
    }

    fn make_ready(&self, object: BorrowedFd<'_>, pages: PageRange) {
        self.shm.make_ready(object, pages);
    }

    fn release(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        self.fault.call("release").and_then(|()| self.shm.release(object, pages))
    }

    fn resize(&self, object: BorrowedFd<'_>, len: u64) -> Result<()> {
        self.fault.call("resize").and_then(|()| self.shm.resize(object, len))
    }

    fn read(&self, object: BorrowedFd<'_>, buf: &mut [u8], at: u64) -> Result<usize> {
        self.fault.call("read").and_then(|()| self.shm.read(object, buf, at))
    }

    fn write(&self, object: BorrowedFd<'_>, bytes: &[u8], at: u64) -> Result<()> {
        self.fault.call("write").and_then(|()| self.shm.write(object, bytes, at))
    }

    fn append(&self, object: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize> {
        self.fault.call("append").and_then(|()| self.shm.append(object, bytes))
    }

    fn copy(&self, from: &SourceMap, at: u64, len: u64, to: BorrowedFd<'_>) -> Result<u64> {
        self.fault.call("copy").and_then(|()| self.shm.copy(from, at, len, to))
    }

    fn mappings(&self) -> Result<Vec<Held>> {
        self.fault.looks.fetch_add(1, Ordering::SeqCst);
        let what = Hold::Mapped { off: 0, len: u64::MAX, writable: true };
        let held = Held { pid: 1, command: "somebody".to_owned(), dev: 0, ino: 0, what };
        Ok(self.mapped()?.iter().map(|_| held.clone()).collect())
    }

    fn is_mapped(&self, _file: FileId, _pages: &[PageRange], _by: &Held) -> bool {
        true
    }

    fn mapped(&self) -> Result<Vec<FrameRun>> {
        Ok(self.fault.mapped.lock().expect("no panic under it").clone())
    }

    fn unfit(&self) -> Vec<FrameRun> {
        self.fault.unfit.lock().expect("no panic under it").clone()
    }

    fn bind(&self, _file: FileId, extents: &[Extent]) -> Result<()> {
        let has =
            |bad: FrameRun| extents.iter().any(|e| (e.frame.0..e.frame.0 + e.count.0).contains(&bad.frame.0));
        if self.unfit().into_iter().any(has) { Err(Error::lost("damaged on purpose")) } else { Ok(()) }
    }

    fn adopt(&self, file: FileId, len: u64, _extents: &[Extent]) -> Result<()> {
        self.shm.create(file, len).map(drop)
    }

    fn sole_holder(&self, file: FileId) -> Result<Option<OwnedFd>> {
        if !self.mapped()?.is_empty() {
            return Ok(None);
        }
        self.fault.call("sole_holder").and_then(|()| self.shm.sole_holder(file))
    }

    fn lease(&self, file: FileId) -> Result<Option<OwnedFd>> {
        self.fault.call("sole_holder").and_then(|()| self.shm.sole_holder(file))
    }

    fn lock(&self, file: FileId, object: BorrowedFd<'_>, pages: &[PageRange]) -> Result<()> {
        self.fault.call("lock").and_then(|()| self.shm.lock(file, object, pages))
    }

    fn unlock(&self, file: FileId) {
        self.shm.unlock(file);
    }
}

/// What a file may hold, as one of several contents; `None` is no file.
type Contents = Vec<Option<Vec<u8>>>;

/// What the store has been asked to do, and what may be in it therefore.
struct Run<'a> {
    session: &'a Session,
    fault: &'a Fault,
    files: BTreeMap<&'static str, Contents>,
}

impl Run<'_> {
    /// Whether the run ends here: a dead medium takes its store with it.
    fn over(&self) -> bool {
        self.fault.dead && self.fault.hit().is_some()
    }

    /// Does an operation that turns each possible content of a file into another; if it fails it may have done so or not.
    fn step<T>(
        &mut self,
        name: &'static str,
        change: impl Fn(&Option<Vec<u8>>) -> Option<Vec<u8>>,
        act: impl FnOnce(&Session) -> Result<T>,
    ) -> Option<T> {
        if self.over() {
            return None;
        }
        let done = act(self.session);
        assert!(done.is_ok() || self.fault.hit().is_some(), "{name}: {:?}", done.err());
        let before = self.files.entry(name).or_insert_with(|| vec![None]);
        let mut after: Contents = before.iter().map(change).collect();
        if done.is_err() {
            after.append(before);
        }
        after.sort();
        after.dedup();
        *before = after;
        done.ok()
    }

    fn make(&mut self, name: &'static str, pool: &str, len: u64) -> Option<Opened> {
        let open = Open { placement: on(pool), ..open_of(name, len) };
        self.step(name, |_| Some(vec![0; size(len)]), |s| s.open(&open))
    }

    fn write(&mut self, name: &'static str, opened: &Opened) {
        let fill = |c: &Option<Vec<u8>>| c.as_ref().map(|c| pattern(name, c.len() as u64));
        self.step(name, fill, |s| fill_file(s, name, opened));
    }

    fn set_len(&mut self, name: &'static str, opened: &Opened, len: u64) {
        let cut = |c: &Option<Vec<u8>>| {
            let mut c = c.clone()?;
            c.resize(size(len), 0);
            Some(c)
        };
        self.step(name, cut, |s| s.set_len(opened.handle, len));
    }

    fn remove(&mut self, name: &'static str) {
        let there = self.files.get(name).is_some_and(|c| c.iter().any(Option::is_some));
        if there {
            self.step(name, |_| None, |s| s.remove(&path(name), false));
        }
    }

    fn move_to(&mut self, name: &'static str, pool: &str, range: Option<(u64, u64)>) {
        self.step(name, Clone::clone, |s| s.move_file(&path(name), pool, range, &mut |_| true));
    }

    fn close(&self, opened: &Opened) {
        if !self.over() {
            self.session.close(opened.handle);
        }
    }

    fn replace(&mut self, name: &'static str, len: u64) {
        if self.over() {
            return;
        }
        let open = Open { unnamed: true, ..open_of(name, len) };
        let Ok(new) = self.session.open(&open) else { return };
        if fill_file(self.session, name, &new).is_ok() {
            let whole = pattern(name, len);
            self.step(name, |_| Some(whole.clone()), |s| s.publish(new.handle, &path(name), true));
        }
        self.close(&new);
    }

    /// Looks at the files in between, with a sound medium.
    fn look(&self) {
        if let Some(what) = self.fault.hit().filter(|_| !self.fault.dead) {
            self.fault.set(false);
            self.verify(self.session, &format!("on the way, {what}"));
            self.fault.set(true);
        }
    }

    fn all(&mut self) {
        let a = self.make("/a", "dram", 70_000);
        let b = self.make("/b", "sim0", 300_001);
        let c = self.make("/c", "dram", 2 * MIB + 4097);
        for (name, file) in [("/a", &a), ("/b", &b), ("/c", &c)] {
            if let Some(file) = file {
                self.write(name, file);
            }
        }
        for (name, file, lens) in
            [("/a", &a, [10_001, 200_000, 0, 12_345]), ("/b", &b, [400_000, 5000, 90_000, 90_001])]
        {
            for (at, len) in lens.into_iter().enumerate() {
                if let Some(file) = file {
                    self.set_len(name, file, len);
                    self.look();
                    if at == 1 {
                        self.write(name, file);
                    }
                }
            }
        }
        self.move_to("/c", "sim0", None);
        self.move_to("/c", "dram", Some((0, 4096)));
        if let Some(c) = &c {
            // In two pools, down to one of them, and up again.
            self.set_len("/c", c, 2 * MIB + 9000);
            self.set_len("/c", c, MIB);
            self.look();
            self.set_len("/c", c, MIB + 50_000);
        }
        self.move_to("/c", "sim0", None);
        self.move_to("/c", "dram", None);
        self.move_to("/a", "sim0", None);
        self.look();
        self.replace("/b", 60_000);
        let d = self.make("/d", "sim0", 20_000);
        for file in [&a, &b, &c, &d].into_iter().flatten() {
            self.close(file);
        }
        self.remove("/d");
        self.step("/a", Clone::clone, |s| s.drain("sim0", DrainOptions::default(), &mut |_| true));
        self.step("/a", Clone::clone, |s| s.online("sim0", &mut |_| true));
    }

    fn verify(&self, session: &Session, when: &str) {
        for (name, possible) in &self.files {
            let there = match session.stat(&path(name)) {
                Ok(_) => Some(read(session, name)),
                Err(e) => {
                    assert_eq!(e.kind, ErrorKind::NotFound, "{when}: {name}: {e}");
                    None
                }
            };
            let expected: Vec<String> = possible.iter().map(describe).collect();
            assert!(
                possible.contains(&there),
                "{when}: {name} is {}, and may be {expected:?}{}",
                describe(&there),
                differs(possible, &there)
            );
        }
    }
}

fn size(len: u64) -> usize {
    usize::try_from(len).expect("small")
}

/// Bytes that differ from page to page and from file to file.
fn pattern(name: &str, len: u64) -> Vec<u8> {
    let part: Vec<u8> = (0..4099).map(|i| byte_at(name, i)).collect();
    let mut bytes = part.repeat(size(len) / part.len() + 1);
    bytes.truncate(size(len));
    bytes
}

fn describe(content: &Option<Vec<u8>>) -> String {
    content.as_ref().map_or_else(|| "none".into(), |c| format!("{} bytes", c.len()))
}

fn differs(possible: &Contents, there: &Option<Vec<u8>>) -> String {
    let Some(there) = there else { return String::new() };
    let same_len = possible.iter().flatten().find(|c| c.len() == there.len());
    let at = same_len.and_then(|c| c.iter().zip(there).position(|(a, b)| a != b));
    at.map_or_else(String::new, |at| format!(": differs from byte {at} on"))
}

/// Writes the whole file, as long as it is now.
fn fill_file(session: &Session, name: &str, opened: &Opened) -> Result<()> {
    let (layout, fds) = session.raw(opened.handle, true)?;
    let mut pools = Vec::new();
    let bytes = pattern(name, layout.len);
    for run in &layout.runs {
        if !pools.contains(&run.pool) {
            pools.push(run.pool);
        }
        let fd = &fds[pools.iter().position(|p| *p == run.pool).expect("just put there")];
        let end = (run.pages.offset() + run.pages.bytes()).min(layout.len);
        let part = &bytes[size(run.pages.offset())..size(end)];
        codax_os::object::write_all_at(fd.as_fd(), part, run.pages.offset()).expect("has its memory");
    }
    drop(fds);
    session.raw_done(opened.file);
    Ok(())
}

/// Frames that the store says are used, against those that its files say they have.
fn assert_no_leak(store: &Store, session: &Session, when: &str) {
    let (_, _, _, backed) = session.usage(&path("/")).expect("usage");
    for pool in store.info().pools {
        let expected = backed.iter().find(|(name, _)| *name == pool.name).map_or(0, |(_, bytes)| *bytes);
        assert_eq!(
            (pool.used, pool.held, pool.free),
            (expected, 0, pool.bytes - expected),
            "{when}: frames of {}",
            pool.name
        );
    }
}

fn assert_mended(store: &Store, when: &str) {
    let mended = store.check(true).expect("repair");
    let clean = store.check(false).expect("check");
    assert!(mended.iter().all(|f| f.repaired), "{when}: {mended:?}");
    assert_eq!(clean, [], "{when}, mended: {mended:?}");
}

/// Drains `sim0`, whatever it was at.
fn assert_drains(store: &Store, session: &Session, when: &str) {
    settle(store, when);
    if store.info().pools[1].state == PoolState::Offline {
        session.online("sim0", &mut |_| true).unwrap_or_else(|e| panic!("{when}: online: {e}"));
    }
    session
        .drain("sim0", DrainOptions::default(), &mut |_| true)
        .unwrap_or_else(|e| panic!("{when}: drain: {e}"));
    let pool = &store.info().pools[1];
    assert_eq!((pool.state, pool.free), (PoolState::Offline, 32 * MIB), "{when}");
}

/// Waits for the work that a start takes up again.
fn settle(store: &Store, when: &str) {
    let started = Instant::now();
    while store.info().pools.iter().any(|p| p.job.is_some()) {
        assert!(started.elapsed() < Duration::from_secs(10), "{when}: its jobs don't end");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One run with call `fails` failing; whether it was reached.
fn run(fails: u64, dead: bool) -> bool {
    let rig = Rig::new();
    let fault = Fault::new(fails, dead);
    let store = rig.open_with(&on_failing(&fault)).expect("the store opens");
    let session = admin(&store);
    fault.set(true);
    let mut run = Run { session: &session, fault: &fault, files: BTreeMap::new() };
    run.all();
    let files = std::mem::take(&mut run.files);
    let Some(what) = fault.hit() else { return false };
    let when = format!("call {fails}, {what}");
    if !dead {
        fault.set(false);
        let run = Run { session: &session, fault: &fault, files: files.clone() };
        run.verify(&session, &when);
        assert_mended(&store, &when);
        run.verify(&session, &format!("{when}, mended"));
        assert_no_leak(&store, &session, &when);
    }
    // The medium stays dead while the store goes.
    drop(session);
    drop(store);

    let when = format!("{when}, opened again");
    let store = rig.open_with(&|_, shm| Arc::new(shm)).unwrap_or_else(|e| panic!("{when}: {e}"));
    let session = admin(&store);
    settle(&store, &when);
    let run = Run { session: &session, fault: &fault, files };
    run.verify(&session, &when);
    assert_mended(&store, &when);
    assert_no_leak(&store, &session, &when);
    assert_drains(&store, &session, &when);
    run.verify(&session, &format!("{when}, drained"));
    assert_mended(&store, &when);
    assert_no_leak(&store, &session, &when);
    store.close(true).expect("purged");
    true
}

/// Runs with each call failing in turn, and tells all that went wrong.
fn all_runs(dead: bool) {
    let mut wrong = Vec::new();
    let mut fails = 1;
    loop {
        match std::panic::catch_unwind(|| run(fails, dead)) {
            Ok(true) => {}
            Ok(false) => break,
            Err(e) => wrong.push(
                e.downcast_ref::<String>().cloned().unwrap_or_else(|| format!("call {fails}: a panic")),
            ),
        }
        fails += 1;
    }
    assert!(fails > 50, "only {} calls were made of the medium", fails - 1);
    assert!(wrong.is_empty(), "{} of {} runs went wrong:\n{}", wrong.len(), fails - 1, wrong.join("\n"));
}

#[test]
fn a_call_of_the_medium_that_fails_costs_no_acknowledged_byte() {
    all_runs(false);
}

#[test]
fn a_store_whose_medium_dies_comes_back_whole() {
    all_runs(true);
}

/// What was copied before a call failed may stay there, or go back: the file is whole, and so are its objects.
#[test]
fn a_move_that_fails_between_two_chunks_leaves_a_whole_file() {
    const LEN: u64 = MIB + 9000;
    let mut partly = 0;
    for fails in 1.. {
        let rig = Rig::new();
        let fault = Fault::new(fails, false);
        let mut options = rig.options();
        options.chunk_bytes = Some(256 << 10);
        let store = Store::open_with(options, TestEnv::new(), &on_failing(&fault)).expect("the store opens");
        let session = admin(&store);
        session.close(store_support::make(&session, "/f", LEN, "dram").handle);
        fault.set(true);
        let moved = session.move_file(&path("/f"), "sim0", None, &mut |_| true);
        fault.set(false);
        let Some(what) = fault.hit() else {
            assert!(moved.is_ok() && partly > 0, "{moved:?}, {partly}");
            return;
        };
        partly += usize::from(pool_of(&session, "/f").len() > 1);
        assert_intact(&session, "/f", LEN);
        assert_eq!(store.check(false).expect("check"), [], "call {fails}, {what}");
    }
}

/// Giving a file gigabytes takes its time: that is the file's own business.
#[test]
fn others_go_on_while_a_file_gets_memory() {
    let rig = Rig::new();
    let fault = Fault::new(u64::MAX, false);
    let store = rig.open_with(&on_failing(&fault)).expect("the store opens");
    let fs = store.fs(true);
    let new = New { mode: 0o644, who: Who::default(), kind: NewKind::File };
    let (attr, open) = fs.create(codax_core::ROOT, b"f", &new, true, true).expect("created");
    assert!(matches!(open.how, How::Passthrough(_)));
    let ((begun, has_begun), (go, may_go)) = (mpsc::channel(), mpsc::channel());
    *fault.gate.lock().expect("no panic under it") = Some((begun, may_go));
    std::thread::scope(|scope| {
        let allocated = scope.spawn(|| fs.allocate(open.handle, 0, 3 * MIB, Allocate::default()));
        has_begun.recv().expect("it begins");
        assert_eq!(fs.attr(attr.id).map(|a| a.len), Ok(0));
        fs.create(codax_core::ROOT, b"other", &new, true, true).map(drop).expect("created");
        go.send(()).expect("it waits");
        assert_eq!(allocated.join().expect("no panic"), Ok(()));
    });
    assert_eq!(fs.attr(attr.id).map(|a| (a.len, a.backed)), Ok((3 * MIB, 3 * MIB)));
    assert_eq!(store.check(false).expect("check"), []);
}

/// The last handle of a file without a name is closed while the medium fails: that nobody has the object can't be found out then.
#[test]
fn what_could_not_be_settled_is_tried_again() {
    for fails in 1.. {
        let rig = Rig::new();
        let fault = Fault::new(fails, false);
        let store = rig.open_with(&on_failing(&fault)).expect("the store opens");
        let fs = store.fs(true);
        let new = New { mode: 0o644, who: Who::default(), kind: NewKind::File };
        let (attr, open) = fs.create(codax_core::ROOT, b"f", &new, true, true).expect("created");
        let How::Passthrough(object) = open.how else { panic!("served by the daemon") };
        codax_os::object::write_all_at(&object, &[1; 5000], 0).expect("written");
        fs.unlink(codax_core::ROOT, b"f").expect("unlinked");
        drop(object);
        fault.set(true);
        fs.release(open.handle);
        fault.set(false);
        assert_eq!(store.check(false).expect("check"), [], "{:?}", fault.hit());
        assert_eq!(fs.attr(attr.id).map_err(|e| e.kind), Err(ErrorKind::NotFound), "{:?}", fault.hit());
        let pools = store.info().pools;
        assert_eq!(pools.iter().map(|p| p.used + p.held).sum::<u64>(), 0, "{:?}", fault.hit());
        let left = std::fs::read_dir(rig.layout().pool("dram")).expect("there").count();
        assert_eq!(left, 0, "{:?}", fault.hit());
        if fault.hit().is_none() {
            assert!(fails > 2);
            break;
        }
    }
}

#[test]
fn frames_that_somebody_maps_since_before_the_start_are_given_to_nobody() {
    let (rig, fault) = (Rig::new(), Fault::new(u64::MAX, false));
    let store = rig.open_with(&on_failing(&fault)).expect("opens");
    let s = admin(&store);
    make(&s, "/f", 4 * MIB, "sim0");
    drop(s);
    store.end();
    // Some of them are a file's still.
    let frame = |bytes: u64| bytes / 4096;
    let run = FrameRun { frame: Frame(frame(2 * MIB)), count: PageCount(frame(6 * MIB)) };
    fault.mapped.lock().expect("no panic under it").push(run);
    let store = rig.open_with(&on_failing(&fault)).expect("opens");
    let s = admin(&store);
    assert_eq!(room(&store), [(0, 6), (4, 4)]);
    make(&s, "/g", 24 * MIB, "sim0");
    s.open(&Open { placement: on("sim0"), ..open_of("/h", 4096) }).expect_err("the rest is held");
    assert_eq!(store.check(false).expect("checked"), []);
    // Whoever maps them has gone.
    fault.mapped.lock().expect("no panic under it").clear();
    wait_for_room(&store, &[(0, 0), (28, 0)]);
    assert_eq!(store.check(false).expect("checked"), []);
}

#[test]
fn damaged_memory_is_given_to_one_file_and_to_no_other() {
    let (rig, fault) = (Rig::new(), Fault::new(0, false));
    let store = rig.open_with(&on_failing(&fault)).expect("opened");
    let s = admin(&store);
    let make = |len| s.open(&Open { placement: on("sim0"), ..open_of("/f", len) });
    fault.unfit.lock().expect("no panic under it").push(FrameRun { frame: Frame(7), count: PageCount(1) });
    let whole = 32 * MIB;
    assert_eq!(make(whole).map(|_| ()).expect_err("damaged").kind, ErrorKind::Lost);
    assert_eq!(make(whole).map(|_| ()).expect_err("it has no such frame any more").kind, ErrorKind::NoSpace);
    let opened = make(whole - 4096).expect("all others");
    fill_file(&s, "/f", &opened).expect("room");
    let sim0 =
        |store: &Store| store.info().pools.into_iter().find(|pool| pool.name == "sim0").expect("there");
    let shown = |store: &Store| (sim0(store).retired, sim0(store).used);
    let deadline = Instant::now() + Duration::from_secs(30);
    while shown(&store).0 == 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(shown(&store), (4096, whole - 4096));
    // A table that is made anew has it, too.
    std::fs::write(rig.layout().frame_table("sim0"), b"?").expect("damaged");
    assert!(!store.check(true).expect("checked").is_empty());
    assert_eq!((store.check(false).expect("checked"), shown(&store)), (Vec::new(), (4096, whole - 4096)));
    drop((opened, s));
    store.end();
    fault.unfit.lock().expect("no panic under it").clear();
    let store = rig.open_with(&on_failing(&fault)).expect("opened");
    assert_eq!(shown(&store), (4096, whole - 4096), "the journal knows it");
}

#[test]
fn what_is_cut_off_is_held_where_somebody_maps_a_device() {
    let (rig, fault) = (Rig::new(), Fault::new(u64::MAX, false));
    let store = rig.open_with(&on_failing(&fault)).expect("opens");
    let s = admin(&store);
    let f = make(&s, "/f", 4 * MIB, "sim0");
    let g = make(&s, "/g", 4 * MIB, "sim0");
    let everything = FrameRun { frame: Frame(0), count: PageCount(u64::MAX) };
    fault.mapped.lock().expect("no panic under it").push(everything);
    s.set_len(f.handle, MIB).expect("cut");
    s.set_len(g.handle, 0).expect("cut");
    assert_eq!(room(&store), [(0, 0), (1, 7)]);
    assert_eq!(store.check(false).expect("checked"), []);
    assert_eq!(s.set_len(f.handle, 2 * MIB).expect_err("held").kind, ErrorKind::Busy);
    fault.mapped.lock().expect("no panic under it").clear();
    wait_for_room(&store, &[(0, 0), (1, 0)]);
    s.set_len(f.handle, 2 * MIB).expect("longer");
    assert!(read(&s, "/f")[size(MIB)..].iter().all(|b| *b == 0));
    assert_eq!(store.check(false).expect("checked"), []);
}

/// MiB that are in use and that are held, of each pool.
#[test]
fn who_maps_a_device_is_asked_once_for_all_that_is_held() {
    let (rig, fault) = (Rig::new(), Fault::new(u64::MAX, false));
    let store = rig.open_with(&on_failing(&fault)).expect("opens");
    let s = admin(&store);
    let files = 64;
    for name in 0..files {
        drop(make(&s, &format!("/{name}"), 8192, "sim0"));
    }
    let everything = FrameRun { frame: Frame(0), count: PageCount(u64::MAX) };
    fault.mapped.lock().expect("no panic under it").push(everything);
    for name in 0..files {
        let opened = s.open(&open_of(&format!("/{name}"), 0)).expect("opened");
        // Of half of them the object stays.
        s.set_len(opened.handle, if name % 2 == 0 { 4096 } else { 0 }).expect("cut");
        s.close(opened.handle);
    }
    let before = fault.looks.load(Ordering::SeqCst);
    assert_eq!(store.check(false).expect("checked"), []);
    // The store looks by itself now and then, too.
    let looks = fault.looks.load(Ordering::SeqCst) - before;
    assert!(looks < files / 4, "{looks} for {files} files");
    fault.mapped.lock().expect("no panic under it").clear();
    // A check tries it as well.
    assert_eq!(store.check(false).expect("checked"), []);
    assert_eq!(store.info().pools.iter().map(|pool| pool.held).sum::<u64>(), 0);
}

fn room(store: &Store) -> Vec<(u64, u64)> {
    store.info().pools.iter().map(|pool| (pool.used / MIB, pool.held / MIB)).collect()
}

fn wait_for_room(store: &Store, wanted: &[(u64, u64)]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while room(store) != wanted {
        assert!(Instant::now() < deadline, "{:?}", room(store));
        std::thread::sleep(Duration::from_millis(10));
    }
}
