//! The files of a queue, opened and mapped when a request names them.

use crate::accesses::{Accesses, Part, Whereabouts};
use codax::driver::Granted;
use codax::queue::{Range, Status};
use codax::{Access, Error, ErrorKind, File, FileId, Mapping, Memory, Store};
use codax_core::info::FileInfo;
use codax_core::{PageCount, PageRange};
use codax_os::guard::Guard;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Ranges of so many bytes and more are written past the caches: their first bytes wouldn't be there any more when the last are written.
const PAST_CACHES: usize = 4 << 20;

/// Bytes that the daemon is asked for at a time.
const ASKED: usize = 64 << 10;

/// What a program has granted.
#[derive(Debug, Default)]
pub struct Grants(Mutex<HashMap<u32, Granted>>);

impl Grants {
    pub fn add(&self, granted: Granted) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(granted.number, granted);
    }

    fn get(&self, number: u64) -> Result<Granted, Status> {
        let number = u32::try_from(number).map_err(|_| Status::NoFile)?;
        let grants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        grants.get(&number).copied().ok_or(Status::NoFile)
    }
}

/// A file as the queue's thread has it.
#[derive(Debug)]
struct Open {
    file: File,
    /// Of all that it had when it was mapped; none of an empty one.
    mapping: Option<Arc<Mapping>>,
    /// How often files had been cut when all of that was there.
    cuts: Option<u64>,
    whereabouts: Arc<Whereabouts>,
}

/// The queue's thread's own.
#[derive(Debug)]
pub struct Files {
    store: Store,
    accesses: Arc<Accesses>,
    open: HashMap<u32, Open>,
}

/// How a file's bytes are reached.
#[derive(Clone, Debug)]
enum Way {
    Mapped(Arc<Mapping>),
    /// By asking the daemon: a mapping would take frames for all holes, which who only reads may not even be allowed to.
    Asked(File),
}

/// Where a range lies.
#[derive(Debug)]
pub struct Place {
    /// Which file, whatever number it goes by.
    pub file: FileId,
    /// None into an empty file.
    way: Option<Way>,
    start: u64,
    len: u64,
    ahead: Ahead,
    whereabouts: Arc<Whereabouts>,
}

impl Place {
    /// Its bytes, if they are mapped.
    fn memory(&self) -> Option<Memory<'_>> {
        let Some(Way::Mapped(mapping)) = &self.way else { return None };
        let (start, len) = usize::try_from(self.start).ok().zip(usize::try_from(self.len).ok())?;
        Some(mapping.memory().part(start, len))
    }

    /// Whether the daemon is asked for its bytes.
    pub fn asks(&self) -> bool {
        matches!(self.way, Some(Way::Asked(_)))
    }

    /// Some of its bytes, if they are mapped.
    pub fn view(&self, at: u64, len: usize) -> Option<Memory<'_>> {
        Some(self.memory()?.part(usize::try_from(at).ok()?, len))
    }

    /// Copies bytes of it from `at` on; returns how many of them could be reached.
    #[inline]
    pub fn read(&mut self, guard: Guard, at: u64, to: &mut [u8]) -> usize {
        match (self.memory(), usize::try_from(at)) {
            (Some(memory), Ok(at)) => guard.read(memory, at, to),
            _ => self.ask(at, to),
        }
    }

    #[cold]
    fn ask(&mut self, at: u64, to: &mut [u8]) -> usize {
        let Some(Way::Asked(file)) = &self.way else { return 0 };
        self.ahead.read(file, (self.start, self.len), at, to)
    }

    /// Copies bytes into it from `at` on; returns how many of them could be reached.
    #[inline]
    pub fn write(&self, guard: Guard, at: u64, from: &[u8]) -> usize {
        let Some((memory, at)) = self.memory().zip(usize::try_from(at).ok()) else { return 0 };
        match memory.len() {
            PAST_CACHES.. => guard.write_past(memory, at, from),
            _ => guard.write(memory, at, from),
        }
    }

    /// Its offset in the file and its length, as a completion has them.
    pub fn range(&self) -> [u8; 16] {
        (u128::from(self.len) << 64 | u128::from(self.start)).to_le_bytes()
    }

    /// Ends a step, of which this was read and written.
    pub fn count(&mut self, read: Part, written: Part) {
        self.ahead.bytes.clear();
        self.whereabouts.count(self.start, read, written);
    }
}

/// What the daemon was asked for and is not read yet: operations read less at a time than is worth a question. Good for a step.
#[derive(Debug, Default)]
struct Ahead {
    /// Where in the range it begins.
    at: u64,
    bytes: Vec<u8>,
}

impl Ahead {
    /// Copies bytes of a file's range, which is given by offset and length, from `at` on; returns how many of them could be reached.
    fn read(&mut self, file: &File, range: (u64, u64), at: u64, to: &mut [u8]) -> usize {
        let mut done = 0;
        while done < to.len() {
            let from = at + done as u64;
            let known =
                from.checked_sub(self.at).and_then(|skip| self.bytes.get(usize::try_from(skip).ok()?..));
            let Some(known) = known.filter(|known| !known.is_empty()) else {
                match self.ask(file, range, from) {
                    0 => break,
                    _ => continue,
                }
            };
            let n = known.len().min(to.len() - done);
            to[done..done + n].copy_from_slice(&known[..n]);
            done += n;
        }
        done
    }

    /// Asks for what comes from there on; returns how much that is.
    fn ask(&mut self, file: &File, (start, len): (u64, u64), from: u64) -> usize {
        let left = usize::try_from(len.saturating_sub(from)).unwrap_or(usize::MAX);
        self.at = from;
        self.bytes.resize(left.min(ASKED), 0);
        // What can't be had is a fault where it lies, as in a mapping.
        let got = file.read_at(&mut self.bytes, start + from).unwrap_or(0);
        self.bytes.truncate(got);
        got
    }
}

impl Files {
    pub fn new(store: Store, accesses: Arc<Accesses>) -> Self {
        Self { store, accesses, open: HashMap::new() }
    }

    /// Finds a range of a file, mapping it if need be; `write` says what for.
    pub fn find(&mut self, grants: &Grants, range: Range, write: bool) -> Result<Place, Status> {
        let granted = grants.get(range.file)?;
        if !(if write { granted.write } else { granted.read }) {
            return Err(Status::NotAllowed);
        }
        let Range { start, len, .. } = range;
        let end = start.checked_add(len).ok_or(Status::Beyond)?;
        let open = self.open(&granted)?;
        let way = open.reach(&granted, end, write)?;
        open.whereabouts.look();
        let whereabouts = open.whereabouts.clone();
        Ok(Place { file: granted.file, way, start, len, ahead: Ahead::default(), whereabouts })
    }

    fn open(&mut self, granted: &Granted) -> Result<&mut Open, Status> {
        Ok(match self.open.entry(granted.number) {
            std::collections::hash_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                let file = File::open_granted(&self.store, granted).map_err(refused)?;
                let whereabouts = Arc::new(Whereabouts::new(&self.accesses, granted));
                vacant.insert(Open { file, mapping: None, cuts: None, whereabouts })
            }
        })
    }
}

impl Open {
    /// The way to the file's bytes up to `end`. The store is asked whether it has them, but where all were there before and nothing has been cut since; the file is mapped anew if
    /// it has grown, or is to be written and has holes, which a mapping fills.
    fn reach(&mut self, granted: &Granted, end: u64, write: bool) -> Result<Option<Way>, Status> {
        if end == 0 {
            // Of an empty file there is nothing to map.
            return Ok(None);
        }
        let mapped = self.mapping.as_ref().filter(|mapping| mapping.len() as u64 >= end);
        let cuts = mapped.map(|mapping| mapping.cuts());
        if cuts.is_none() || cuts != self.cuts {
            let info = self.whereabouts.ask().map_err(refused)?;
            if info.len < end {
                return Err(Status::Beyond);
            }
            let holes = has_holes(&info);
            if holes && !write {
                return Ok(Some(Way::Asked(self.file.clone())));
            }
            self.cuts = cuts.filter(|_| !holes);
            if mapped.is_none() || holes {
                let access = if granted.write { Access::ReadWrite } else { Access::ReadOnly };
                self.mapping = Some(Arc::new(self.file.map(.., access).map_err(refused)?));
            }
        }
        match &self.mapping {
            Some(mapping) if mapping.len() as u64 >= end => Ok(Some(Way::Mapped(mapping.clone()))),
            _ => Err(Status::Beyond),
        }
    }
}

/// Whether there are pages that have no frames.
fn has_holes(info: &FileInfo) -> bool {
    let pages = PageRange::new(0, PageCount::for_bytes(info.len).0);
    let there = info.runs.iter().filter_map(|run| run.pages.intersect(pages));
    there.map(|pages| pages.count.0).sum::<u64>() < pages.count.0
}

/// What a request comes to whose file can't be had.
fn refused(e: Error) -> Status {
    match e.kind {
        ErrorKind::NoSpace => Status::NoSpace,
        ErrorKind::QuotaExceeded => Status::QuotaExceeded,
        _ => Status::Unreachable,
    }
}
