//! A medium in memory for two copies of a catalog that loses what was not persisted, and entries to go with it.
#![allow(dead_code, reason = "each test binary uses its part")]

use codax_core::PoolUuid;
use codax_core::info::{Finding, Severity};
use codax_core::namespace::{Extra, Kind};
use codax_core::request::PlacementSpec;
use codax_core::{Error, FileId, Frame, PageCount, PageNo, Result};
use codax_engine::catalog::{
    Area, Catalog, Contents, Copies, Entry, Geometry, Node, NodeExtent, SUPERBLOCK_BYTES, Superblock,
};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

/// A line of a CPU's cache: what is persisted, or lost, is so by lines, and within one by words.
const LINE: usize = 64;
const WORD: usize = 8;

/// What happens at a call that writes or persists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails after a part of it is done, and later ones don't.
    Error,
    /// The process is killed in the call: nothing is lost that it has written.
    Kill,
    /// The power fails in the call: of what was not persisted any part is lost.
    PowerLoss,
}

#[derive(Debug)]
struct Memory {
    /// What programs see.
    seen: Vec<u8>,
    /// What survives.
    durable: Vec<u8>,
    /// Lines in which the two may differ.
    dirty: BTreeSet<usize>,
    /// Where reads fail.
    poisoned: Vec<Range<usize>>,
}

#[derive(Debug)]
struct State {
    copies: [Memory; 2],
    armed: Option<(u64, Fault)>,
    dead: bool,
    random: u64,
    /// Bytes written, and bytes read, since somebody asked.
    written: u64,
    read: u64,
}

/// The medium. Cheap to clone; clones are the same.
#[derive(Clone, Debug)]
pub struct Medium(Arc<Mutex<State>>);

#[derive(Debug)]
struct SimArea {
    medium: Medium,
    copy: usize,
}

/// The bytes of both copies.
pub type Image = [Vec<u8>; 2];

impl Medium {
    /// A medium with these bytes.
    pub fn from_image(image: &Image, seed: u64) -> Self {
        let copies = image.clone().map(|bytes| Memory {
            durable: bytes.clone(),
            seen: bytes,
            dirty: BTreeSet::new(),
            poisoned: Vec::new(),
        });
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self(Arc::new(Mutex::new(State { copies, armed: None, dead: false, random, written: 0, read: 0 })))
    }

    /// A medium of zeros.
    pub fn blank(geometry: &Geometry, seed: u64) -> Self {
        let len = usize::try_from(geometry.copy_bytes).unwrap();
        Self::from_image(&[vec![0; len], vec![0; len]], seed)
    }

    pub fn copies(&self) -> Copies {
        [0, 1].map(|copy| Arc::new(SimArea { medium: self.clone(), copy }) as Arc<dyn Area>)
    }

    /// What programs see.
    pub fn image(&self) -> Image {
        let state = self.lock();
        [0, 1].map(|copy: usize| state.copies[copy].seen.clone())
    }

    pub fn flip(&self, copy: usize, bit: usize) {
        self.lock().copies[copy].seen[bit / 8] ^= 1 << (bit % 8);
    }

    pub fn poison(&self, copy: usize, range: Range<usize>) {
        self.lock().copies[copy].poisoned.push(range);
    }

    /// Something goes wrong so many writing calls later.
    pub fn arm(&self, calls: u64, fault: Fault) {
        self.lock().armed = Some((calls, fault));
    }

    /// Nothing goes wrong any more; whether something would have.
    pub fn disarm(&self) -> bool {
        self.lock().armed.take().is_some()
    }

    pub fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// The machine is up again.
    pub fn restart(&self) {
        self.lock().dead = false;
    }

    /// Bytes read and written since the last call.
    pub fn traffic(&self) -> (u64, u64) {
        let mut state = self.lock();
        (std::mem::take(&mut state.read), std::mem::take(&mut state.written))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// One more writing call: whether it fails now, and how.
    fn fault(&mut self) -> Result<Option<Fault>> {
        if self.dead {
            return Err(on_purpose());
        }
        match &mut self.armed {
            Some((0, fault)) => {
                let fault = *fault;
                self.armed = None;
                self.dead = fault != Fault::Error;
                Ok(Some(fault))
            }
            Some((calls, _)) => {
                *calls -= 1;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Of what was not persisted any part is lost: whole lines, or words of them.
    fn lose(&mut self) {
        for copy in 0..2 {
            // Sometimes a copy is lost or kept as a whole, as it would be by chance with few lines only.
            let bias = self.next() % 4;
            for line in std::mem::take(&mut self.copies[copy].dirty) {
                let fate = if bias < 2 { bias } else { self.next() % 3 };
                for word in 0..LINE / WORD {
                    let kept = match fate {
                        0 => false,
                        1 => true,
                        _ => self.next().is_multiple_of(2),
                    };
                    let at = line * LINE + word * WORD;
                    let memory = &mut self.copies[copy];
                    if kept {
                        memory.durable[at..at + WORD].copy_from_slice(&memory.seen[at..at + WORD]);
                    } else {
                        memory.seen[at..at + WORD].copy_from_slice(&memory.durable[at..at + WORD]);
                    }
                }
            }
        }
    }
}

impl Area for SimArea {
    fn len(&self) -> u64 {
        self.medium.lock().copies[self.copy].seen.len() as u64
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        let mut state = self.medium.lock();
        state.read += bytes.len() as u64;
        let memory = &state.copies[self.copy];
        let range = range(at, bytes.len(), &memory.seen)?;
        if state.dead || memory.poisoned.iter().any(|bad| bad.start < range.end && range.start < bad.end) {
            return Err(on_purpose());
        }
        bytes.copy_from_slice(&memory.seen[range]);
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let mut state = self.medium.lock();
        let fault = state.fault()?;
        let mut len = bytes.len();
        if fault.is_some() {
            len = usize::try_from(state.next()).unwrap() % (len / WORD + 1) * WORD;
        }
        state.written += len as u64;
        let memory = &mut state.copies[self.copy];
        let range = range(at, len, &memory.seen)?;
        memory.seen[range.clone()].copy_from_slice(&bytes[..len]);
        memory.dirty.extend(range.start / LINE..range.end.div_ceil(LINE));
        memory.poisoned.retain(|bad| bad.start < range.start || bad.end > range.end);
        finish(&mut state, fault)
    }

    fn persist(&self, at: u64, len: u64) -> Result<()> {
        let mut state = self.medium.lock();
        let fault = state.fault()?;
        if fault.is_none() {
            let memory = &mut state.copies[self.copy];
            let range = range(at, usize::try_from(len).unwrap(), &memory.seen)?;
            if memory.poisoned.iter().any(|bad| bad.start < range.end && range.start < bad.end) {
                return Err(on_purpose());
            }
            for line in range.start / LINE..range.end.div_ceil(LINE) {
                if memory.dirty.remove(&line) {
                    let line = line * LINE..(line + 1) * LINE;
                    memory.durable[line.clone()].copy_from_slice(&memory.seen[line]);
                }
            }
        }
        finish(&mut state, fault)
    }

    fn describe(&self) -> String {
        "dax0.0".into()
    }
}

fn range(at: u64, len: usize, bytes: &[u8]) -> Result<Range<usize>> {
    let at = usize::try_from(at).unwrap();
    assert!(at + len <= bytes.len(), "{len} bytes at {at} are beyond the area");
    Ok(at..at + len)
}

fn finish(state: &mut State, fault: Option<Fault>) -> Result<()> {
    match fault {
        None => Ok(()),
        Some(fault) => {
            if fault == Fault::PowerLoss {
                state.lose();
            }
            Err(on_purpose())
        }
    }
}

fn on_purpose() -> Error {
    Error::internal("fails on purpose")
}

/// A geometry with halves so small that compactions are frequent.
pub fn small(half_bytes: u64) -> Geometry {
    let copy_bytes = SUPERBLOCK_BYTES as u64 + 2 * half_bytes;
    let geometry =
        Geometry { device_bytes: 2 * copy_bytes + 65536, unit: 4096, copy_bytes, half_bytes, frames: 16 };
    geometry.check().unwrap();
    geometry
}

pub const POOL: PoolUuid = PoolUuid([0x5a; 16]);

pub fn superblock(geometry: Geometry) -> Superblock {
    Superblock::new(POOL, 77, "pmem0", geometry, None, 1_700_000_000_000_000_000).unwrap()
}

/// A formatted medium.
pub fn formatted(geometry: Geometry, seed: u64) -> (Medium, Catalog) {
    let medium = Medium::blank(&geometry, seed);
    let catalog = Catalog::format(medium.copies(), superblock(geometry), || ()).unwrap();
    (medium, catalog)
}

pub fn open(medium: &Medium) -> Result<(Catalog, Vec<Finding>)> {
    Catalog::open(medium.copies(), None)
}

pub fn node(id: u64, version: u64, extents: u64) -> Node {
    let extent = |n| NodeExtent {
        page: PageNo(n * 512),
        count: PageCount(512),
        pool: if n % 2 == 0 { POOL } else { PoolUuid([1; 16]) },
        frame: Frame(id * 512 + n),
    };
    Node {
        id: FileId(id),
        version,
        kind: Kind::File,
        mode: 0o640,
        uid: 1000,
        gid: 100,
        nlink: 1,
        rdev: 0,
        len: extents << 21,
        atime_ns: -1,
        mtime_ns: 1_700_000_000_000_000_000,
        ctime_ns: 5,
        placement: None,
        extents: (0..extents).map(extent).collect(),
        extra: Extra::default(),
    }
}

pub fn put(id: u64, version: u64, extents: u64) -> Entry {
    Entry::Put(Box::new(node(id, version, extents)))
}

/// A node that has everything that a node can have.
pub fn full_node(id: u64) -> Node {
    let xattrs = [(&b"user.a"[..], &b"1"[..]), (b"user.b", b"")];
    let xattrs = xattrs.map(|(name, value)| (name.to_vec(), value.to_vec())).into();
    Node {
        kind: Kind::Symlink,
        rdev: 0x0801,
        placement: Some(PlacementSpec::Interleave { pools: vec!["pmem0".into(), "dram".into()] }),
        extra: Extra { target: b"../elsewhere".to_vec(), xattrs, ..Extra::default() },
        ..node(id, 9, 3)
    }
}

pub fn link(dir: u64, name: &[u8], child: u64) -> Entry {
    Entry::Link { dir: FileId(dir), name: name.to_vec(), child: FileId(child) }
}

pub fn unlink(dir: u64, name: &[u8]) -> Entry {
    Entry::Unlink { dir: FileId(dir), name: name.to_vec() }
}

pub fn after(contents: &Contents, entries: &[Entry]) -> Contents {
    let mut contents = contents.clone();
    entries.iter().for_each(|entry| contents.apply(entry));
    contents
}

pub fn is_lost(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Lost)
}
