//! The files of a queue, opened and mapped when a request names them.

use crate::accesses::{Accesses, Part, Whereabouts};
use codax::driver::Granted;
use codax::queue::{Range, Status};
use codax::{Access, File, FileId, Mapping, Memory, Store};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

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
    whereabouts: Arc<Whereabouts>,
}

/// The queue's thread's own.
#[derive(Debug)]
pub struct Files {
    store: Store,
    accesses: Arc<Accesses>,
    open: HashMap<u32, Open>,
}

/// Where a range lies.
#[derive(Clone, Debug)]
pub struct Place {
    /// Which file, whatever number it goes by.
    pub file: FileId,
    mapping: Option<Arc<Mapping>>,
    start: usize,
    len: usize,
    whereabouts: Arc<Whereabouts>,
}

impl Place {
    /// Its bytes.
    pub fn memory(&self) -> Option<Memory<'_>> {
        self.mapping.as_ref().map(|mapping| mapping.memory().part(self.start, self.len))
    }

    /// Its offset in the file and its length, as a completion has them.
    pub fn range(&self) -> [u8; 16] {
        (u128::from(self.len as u64) << 64 | u128::from(self.start as u64)).to_le_bytes()
    }

    /// Counts what of it a step has read and written.
    pub fn count(&self, read: Part, written: Part) {
        self.whereabouts.count(self.start as u64, read, written);
    }
}

type Mapped = (Option<Arc<Mapping>>, Arc<Whereabouts>);

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
        let end = range.start.checked_add(range.len).ok_or(Status::Beyond)?;
        let (mapping, whereabouts) = self.mapped(&granted, end)?;
        whereabouts.look();
        let start = usize::try_from(range.start).map_err(|_| Status::Beyond)?;
        let len = usize::try_from(range.len).map_err(|_| Status::Beyond)?;
        Ok(Place { file: granted.file, mapping, start, len, whereabouts })
    }

    /// The file's mapping, if it reaches to `end`, and where the file lies; made anew if the file has grown since.
    fn mapped(&mut self, granted: &Granted, end: u64) -> Result<Mapped, Status> {
        let lost = |_| Status::Unreachable;
        let open = match self.open.entry(granted.number) {
            std::collections::hash_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                let file = File::open_granted(&self.store, granted).map_err(lost)?;
                let whereabouts = Arc::new(Whereabouts::new(&self.accesses, granted));
                vacant.insert(Open { file, mapping: None, whereabouts })
            }
        };
        let reaches = |open: &Open| open.mapping.as_ref().map_or(0, |mapping| mapping.len() as u64) >= end;
        if !reaches(open) {
            if open.file.len().map_err(lost)? < end {
                return Err(Status::Beyond);
            }
            let access = if granted.write { Access::ReadWrite } else { Access::ReadOnly };
            open.mapping = Some(Arc::new(open.file.map(.., access).map_err(lost)?));
        }
        if reaches(open) { Ok((open.mapping.clone(), open.whereabouts.clone())) } else { Err(Status::Beyond) }
    }
}
