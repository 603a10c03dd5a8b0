//! A medium in memory that fails on purpose, and an environment and changes to go with it.
#![allow(dead_code, reason = "each test binary uses its part")]

use codax_core::change::{BackingKind, Change, Chunk, LinkModel, MoveRecord, PoolRecord, PoolState};
use codax_core::extent::{Extent, FrameRun};
use codax_core::namespace::{Inode, Kind};
use codax_core::quota::{Quota, Subject};
use codax_core::{FileId, Frame, MoveId, PageCount, PageNo, PageRange, PoolId, Result};
use codax_engine::env::Env;
use codax_engine::journal::Journal;
use codax_engine::journal::storage::{Storage, StorageFile, StorageWords};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What happens at a call of the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails, and later ones don't.
    Error,
    /// The process is killed in the call: of what it writes, a part gets there. Nothing that got there is lost.
    Kill,
    /// The power fails in the call: of what was not synced, any part is lost.
    PowerLoss,
}

/// Contents by name.
pub type Image = BTreeMap<String, Vec<u8>>;

#[derive(Clone, Debug)]
enum Pending {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Debug, Default)]
struct Contents {
    now: Vec<u8>,
    synced: Vec<u8>,
    pending: Vec<Pending>,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<Contents>,
    names: BTreeMap<String, usize>,
    synced_names: Vec<BTreeMap<String, usize>>,
    /// Calls left until the fault.
    fault: Option<(u64, Fault)>,
    dead: Option<Fault>,
    random: u64,
}

impl State {
    fn random(&mut self) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    /// Counts a call that changes something. `Ok(false)`: the process dies in it, and it gets a part done.
    fn call(&mut self) -> io::Result<bool> {
        if self.dead.is_some() {
            return Err(io::Error::other("killed"));
        }
        let Some((left, fault)) = &mut self.fault else { return Ok(true) };
        if *left > 0 {
            *left -= 1;
            return Ok(true);
        }
        let fault = *fault;
        self.fault = None;
        if fault == Fault::Error {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "fails on purpose"));
        }
        self.dead = Some(fault);
        Ok(false)
    }

    fn read(&self) -> io::Result<()> {
        if self.dead.is_some() { Err(io::Error::other("killed")) } else { Ok(()) }
    }

    fn file(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The names after one more operation on them; what is synced is a point in their history.
    fn names_changed(&mut self) {
        self.synced_names.push(self.names.clone());
    }
}

fn apply(bytes: &mut Vec<u8>, pending: &Pending) {
    match pending {
        Pending::Write(at, data) => {
            let at = usize::try_from(*at).unwrap();
            if bytes.len() < at + data.len() {
                bytes.resize(at + data.len(), 0);
            }
            bytes[at..at + data.len()].copy_from_slice(data);
        }
        Pending::SetLen(len) => bytes.resize(usize::try_from(*len).unwrap(), 0),
    }
}

fn died() -> io::Error {
    io::Error::other("killed")
}

/// The medium. Cheap to clone; clones are the same medium.
#[derive(Clone, Debug, Default)]
pub struct Sim(Arc<Mutex<State>>);

impl Sim {
    pub fn new(seed: u64) -> Self {
        let sim = Self::default();
        sim.state().random = seed;
        sim.state().names_changed();
        sim
    }

    pub fn from_image(image: &Image) -> Self {
        let sim = Self::new(1);
        {
            let mut state = sim.state();
            for (name, bytes) in image {
                let at = state.files.len();
                state.files.push(Contents { now: bytes.clone(), synced: bytes.clone(), pending: Vec::new() });
                state.names.insert(name.clone(), at);
            }
            let names = state.names.clone();
            state.synced_names = vec![names];
        }
        sim
    }

    /// Flips a bit of a file under the running process.
    pub fn flip(&self, name: &str, bit: usize) {
        let mut state = self.state();
        let at = state.names[name];
        state.files[at].now[bit / 8] ^= 1 << (bit % 8);
    }

    pub fn image(&self) -> Image {
        let state = self.state();
        state.names.iter().map(|(name, &at)| (name.clone(), state.files[at].now.clone())).collect()
    }

    /// The fault comes after `calls` more calls.
    pub fn arm(&self, calls: u64, fault: Fault) {
        self.state().fault = Some((calls, fault));
    }

    /// Takes the fault back; whether it was still to come.
    pub fn disarm(&self) -> bool {
        self.state().fault.take().is_some()
    }

    pub fn is_dead(&self) -> bool {
        self.state().dead.is_some()
    }

    /// The next process: of what the last one left, what the fault let it keep.
    pub fn restart(&self) {
        let mut guard = self.state();
        let state = &mut *guard;
        state.fault = None;
        let dead = state.dead.take();
        if dead == Some(Fault::PowerLoss) {
            let kept = usize::try_from(state.random()).unwrap() % state.synced_names.len();
            state.names = state.synced_names[kept].clone();
            for at in 0..state.files.len() {
                let mut bytes = std::mem::take(&mut state.files[at].synced);
                for pending in std::mem::take(&mut state.files[at].pending) {
                    match state.random() % 3 {
                        0 => apply(&mut bytes, &pending),
                        1 => apply(&mut bytes, &torn(&pending, state.random())),
                        _ => {}
                    }
                }
                state.files[at].now = bytes;
            }
        }
        // Whatever there is now stays: the next fault takes it from here.
        for file in &mut state.files {
            file.synced.clone_from(&file.now);
            file.pending.clear();
        }
        state.synced_names = vec![state.names.clone()];
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

fn torn(pending: &Pending, random: u64) -> Pending {
    match pending {
        // Words are never torn, nor are the 8 aligned bytes of anything else.
        Pending::Write(at, data) if data.len() > 8 => {
            let keep = usize::try_from(random).unwrap() % data.len() / 8 * 8;
            Pending::Write(*at, data[..keep].to_vec())
        }
        other => other.clone(),
    }
}

impl Storage for Sim {
    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        state.read()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let state = self.state();
        state.read()?;
        Ok(Box::new(SimFile { sim: self.clone(), at: state.file(name)? }))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let mut state = self.state();
        if !state.call()? {
            return Err(died());
        }
        let at = if let Ok(at) = state.file(name) {
            change(&mut state.files[at], Pending::SetLen(0));
            at
        } else {
            state.files.push(Contents::default());
            let at = state.files.len() - 1;
            state.names.insert(name.to_owned(), at);
            state.names_changed();
            at
        };
        Ok(Box::new(SimFile { sim: self.clone(), at }))
    }

    fn words(&self, name: &str) -> io::Result<Box<dyn StorageWords>> {
        let state = self.state();
        state.read()?;
        Ok(Box::new(SimFile { sim: self.clone(), at: state.file(name)? }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let whole = state.call()?;
        if whole {
            let at = state.file(from)?;
            state.names.remove(from);
            state.names.insert(to.to_owned(), at);
            state.names_changed();
        }
        if whole { Ok(()) } else { Err(died()) }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        if !state.call()? {
            return Err(died());
        }
        state.file(name)?;
        state.names.remove(name);
        state.names_changed();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        if !state.call()? {
            return Err(died());
        }
        state.synced_names = vec![state.names.clone()];
        Ok(())
    }

    fn describe(&self, name: &str) -> String {
        format!("sim/{name}")
    }
}

fn change(file: &mut Contents, pending: Pending) {
    apply(&mut file.now, &pending);
    file.pending.push(pending);
}

/// A file or words of the medium.
#[derive(Debug)]
struct SimFile {
    sim: Sim,
    at: usize,
}

impl StorageFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let state = self.sim.state();
        state.read()?;
        Ok(state.files[self.at].now.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.sim.state();
        state.read()?;
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let end = at.checked_add(bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let from = state.files[self.at].now.get(at..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(from);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.sim.state();
        let whole = Pending::Write(offset, bytes.to_vec());
        if state.call()? {
            change(&mut state.files[self.at], whole);
            return Ok(());
        }
        let random = state.random();
        change(&mut state.files[self.at], torn(&whole, random));
        Err(died())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.sim.state();
        if !state.call()? {
            return Err(died());
        }
        change(&mut state.files[self.at], Pending::SetLen(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.sim.state();
        if !state.call()? {
            return Err(died());
        }
        let file = &mut state.files[self.at];
        file.synced.clone_from(&file.now);
        file.pending.clear();
        Ok(())
    }
}

impl StorageWords for SimFile {
    fn load(&self, index: usize) -> u64 {
        let state = self.sim.state();
        u64::from_le_bytes(state.files[self.at].now[index * 8..][..8].try_into().unwrap())
    }

    fn store(&self, index: usize, value: u64) -> io::Result<()> {
        let mut state = self.sim.state();
        let whole = state.call()?;
        // Killed in the store: it is done or it isn't.
        if whole || state.random().is_multiple_of(2) {
            let store = Pending::Write(index as u64 * 8, value.to_le_bytes().to_vec());
            change(&mut state.files[self.at], store);
        }
        if whole { Ok(()) } else { Err(died()) }
    }

    fn sync(&self) -> io::Result<()> {
        StorageFile::sync(self)
    }
}

/// An environment in which no time passes.
#[derive(Debug, Default)]
pub struct Still(AtomicU64);

impl Env for Still {
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn wall_ns(&self) -> i64 {
        0
    }
    fn random(&self) -> u64 {
        self.0.fetch_add(0x9e37_79b9, Ordering::Relaxed) + 0x1234_5678_9abc_def0
    }
    fn sleep(&self, _: Duration) {}
    fn spawn(&self, _: &str, job: Box<dyn FnOnce() + Send>) {
        job();
    }
    fn reached(&self, _: &'static str) {}
}

/// What a list of changes comes to: the last word on each thing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    inodes: BTreeMap<FileId, Inode>,
    links: BTreeMap<(FileId, Vec<u8>), FileId>,
    pools: BTreeMap<PoolId, PoolRecord>,
    moves: BTreeMap<MoveId, MoveRecord>,
    ids_below: Option<FileId>,
    quotas: BTreeMap<(Subject, PoolId), Quota>,
}

impl Model {
    pub fn apply(&mut self, change: &Change) {
        match change.clone() {
            Change::Put(inode) => drop(self.inodes.insert(inode.id, *inode)),
            Change::Drop(id) => drop(self.inodes.remove(&id)),
            Change::Link { dir, name, child } => drop(self.links.insert((dir, name), child)),
            Change::Unlink { dir, name } => drop(self.links.remove(&(dir, name))),
            Change::Pool(pool) => drop(self.pools.insert(pool.id, pool)),
            Change::MoveBegin(record) => drop(self.moves.insert(record.id, record)),
            Change::MoveEnd(id) => drop(self.moves.remove(&id)),
            Change::IdsBelow(id) => self.ids_below = Some(id),
            Change::Quota(quota @ Quota { limit: Some(_), .. }) => {
                self.quotas.insert((quota.subject, quota.pool), quota);
            }
            Change::Quota(quota) => {
                self.quotas.remove(&(quota.subject, quota.pool));
            }
        }
    }

    /// Changes that come to this.
    pub fn changes(&self) -> Vec<Change> {
        let inodes = self.inodes.values().cloned().map(|inode| Change::Put(Box::new(inode)));
        let links = self.links.iter().map(|((dir, name), &child)| Change::Link {
            dir: *dir,
            name: name.clone(),
            child,
        });
        let pools = self.pools.values().cloned().map(Change::Pool);
        let moves = self.moves.values().cloned().map(Change::MoveBegin);
        let quotas = self.quotas.values().copied().map(Change::Quota);
        let ids = self.ids_below.map(Change::IdsBelow);
        inodes.chain(links).chain(pools).chain(moves).chain(quotas).chain(ids).collect()
    }

    pub fn with(&self, changes: &[Change]) -> Self {
        let mut model = self.clone();
        changes.iter().for_each(|change| model.apply(change));
        model
    }
}

/// Opens a journal and returns what it holds, too.
pub fn open(sim: &Sim) -> Result<(Journal, Model, Vec<String>)> {
    let mut model = Model::default();
    let env = Arc::new(Still::default());
    let (journal, notes) = Journal::open_on(Arc::new(sim.clone()), env, &mut |change| {
        model.apply(&change);
        Ok(())
    })?;
    Ok((journal, model, notes))
}

pub fn put(id: u64, len: u64) -> Change {
    let extent =
        Extent { page: PageNo(0), count: PageCount::for_bytes(len), pool: PoolId(1), frame: Frame(id * 7) };
    Change::Put(Box::new(Inode {
        len,
        mtime_ns: -5,
        extents: if len == 0 { Vec::new() } else { vec![extent] },
        ..Inode::new(FileId(id), Kind::File, 0o644, 1000, 1000, 1_700_000_000_000_000_000)
    }))
}

pub fn link(dir: u64, name: &[u8], child: u64) -> Change {
    Change::Link { dir: FileId(dir), name: name.to_vec(), child: FileId(child) }
}

pub fn unlink(dir: u64, name: &[u8]) -> Change {
    Change::Unlink { dir: FileId(dir), name: name.to_vec() }
}

pub fn pool(id: u16, state: PoolState) -> Change {
    let name = format!("sim{id}");
    let link = LinkModel { read_ns: Some(300), write_ns: None, mbps: Some(20_000) };
    Change::Pool(PoolRecord {
        id: PoolId(id),
        name,
        backing: BackingKind::Emulated,
        numa: None,
        dax: None,
        persistent: false,
        retired: Vec::new(),
        medium: PoolId(0),
        frames: 1 << 20,
        link,
        state,
        drain_limit: None,
        drain_terms: Default::default(),
    })
}

pub fn move_begin(id: u32) -> Change {
    let target = vec![FrameRun { frame: Frame(9), count: PageCount(512) }];
    let chunk = Chunk { pages: PageRange::new(0, 512), from: PoolId(0), target };
    let (file, to) = (FileId(7), PoolId(1));
    Change::MoveBegin(MoveRecord { id: MoveId(id), slot: 3, file, to, home: None, chunks: vec![chunk] })
}
