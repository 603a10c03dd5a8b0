//! The catalog: what a DAX pool's medium knows of itself, so that its files are there after a reboot, and in another store.
//!
//! A medium has two copies of it, each in an [`Area`] of its own with a [`Superblock`] at the device's outer end; [`geometry`] says where.
//! The catalog proper is a log of [`Entry`]s in two halves, of which one counts (`half`); `docs/medium.md` has all of it as bytes.
//!
//! **Append.** A batch of entries is one record. It is written behind the last one and persisted, in the first copy and then in the second. It
//! counts from the instant at which the first copy has all of it.
//!
//! **Compaction.** When the half is full, all that lives is written to the other one, and zeros behind it, in both copies. Then the other half
//! gets its header, in the first copy and then in the second, and from the first of these it counts. Then the header of the old half
//! is made zeros, so that nothing old is ever taken for what counts.
//!
//! **Open.** All that counts is persisted, since who wrote it may have been killed before. Both copies are read side by side (`scan`). What a power failure can leave is finished: a record that the second copy hasn't got is
//! copied there, an append that was cut off in the first is cleared. What only damage can leave is reported, and mended by
//! [`Catalog::check`] from the other copy.
//!
//! **Loss.** What is damaged in both copies at the same place is lost, and so is what was written after it; this is said by [`Catalog::open`].
//! The damaged half is kept as it is until something is written.

mod area;
mod check;
mod codec;
mod contents;
mod entry;
pub mod geometry;
mod half;
mod open;
mod probe;
mod scan;
mod snapshot;
mod superblock;

pub use area::{Area, Copies};
pub use codax_core::PoolUuid;
pub use contents::Contents;
pub use entry::{Entry, Node, NodeExtent};
pub use geometry::Geometry;
pub use probe::{Found, probe};
pub use superblock::{MEDIUM_VERSION, POOL_NAME_MAX, SUPERBLOCK_BYTES, Superblock};

use area::{clear, store};
use codax_core::units::format_size;
use codax_core::{Error, Result};
use contents::Undo;
use half::{HALF_HEADER, HalfHeader, RECORD_HEADER};
use snapshot::needed;

/// One part of a half in so many is kept from what makes the catalog larger, so that what makes it smaller always has room, and compactions
/// are never but a few appends apart.
const KEPT_PART: u64 = 16;

/// A buffer for records is not kept beyond this size, in bytes.
const BUFFER_KEPT: usize = 1 << 20;

/// The catalog of a pool, open.
#[derive(Debug)]
pub struct Catalog {
    copies: Copies,
    superblock: Superblock,
    contents: Contents,
    /// Which half counts.
    active: usize,
    header: HalfHeader,
    /// Bytes of the half up to the end of its last record.
    tail: u64,
    /// Number of the next record.
    next: u64,
    /// A write has failed, and what of it is on the medium is not known: nothing is written after it.
    failed: bool,
    /// What was lost before it was opened, for as long as the half is there where it was: nothing is written after it.
    lost: Option<String>,
    buffer: Vec<u8>,
}

/// How full a catalog is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Which half counts, 0 or 1.
    pub half: usize,
    /// How often it has changed.
    pub generation: u64,
    /// Bytes of it that are written, its header among them.
    pub written: u64,
    /// Bytes that what lives takes when it is written compactly.
    pub live: u64,
    /// Bytes it may take.
    pub capacity: u64,
}

impl Catalog {
    /// Makes an empty catalog with this superblock, whatever is there: the caller has asked [`probe`], and the user. The areas must be as the
    /// superblock's geometry says.
    ///
    /// Until it is done [`probe`] tells of a format that was cut off, or of what was there before, unharmed; `begun` is called when it is the first of these.
    pub fn format(copies: Copies, mut superblock: Superblock, begun: impl FnOnce()) -> Result<Self> {
        check_areas(&copies, &superblock)?;
        let geometry = superblock.geometry;
        superblock.revision = 1;
        for (copy, area) in copies.iter().enumerate() {
            store(&**area, geometry.superblock_at(copy), &superblock.encode(true))?;
        }
        begun();
        let header = HalfHeader { pool: superblock.pool, generation: 1, base: HALF_HEADER as u64 };
        for (copy, area) in copies.iter().enumerate() {
            clear(&**area, geometry.half_at(copy, 0), geometry.half_at(copy, 1) + geometry.half_bytes)?;
            store(&**area, geometry.half_at(copy, 0), &header.encode())?;
        }
        superblock.revision += 1;
        for (copy, area) in copies.iter().enumerate() {
            store(&**area, geometry.superblock_at(copy), &superblock.encode(false))?;
        }
        Ok(Self {
            copies,
            superblock,
            contents: Contents::default(),
            active: 0,
            header,
            tail: header.base,
            next: 1,
            failed: false,
            lost: None,
            buffer: Vec::new(),
        })
    }

    /// The superblock.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// What the catalog holds.
    #[must_use]
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// How full it is.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            half: self.active,
            generation: self.header.generation,
            written: self.tail,
            live: needed(self.contents.bytes()),
            capacity: self.superblock.geometry.half_bytes,
        }
    }

    /// Does `entries`, all of them or none: they are durable in both copies when this returns.
    ///
    /// Errors: `NoSpace` if what lives would not fit, `Invalid` for what has no place in an entry; nothing has changed then. Any other error
    /// comes from the medium. What of the batch is there then is not known before the catalog is opened again, or mended by [`Catalog::check`]
    /// (which takes it as not done), and nothing more is taken until then.
    pub fn append(&mut self, entries: &[Entry]) -> Result<()> {
        if self.failed {
            return Err(Error::internal(format!(
                "the catalog on {} could not be written before: mend it with `codax check --repair`",
                self.copies[0].describe()
            )));
        }
        if entries.is_empty() {
            return Ok(());
        }
        let mut record = std::mem::take(&mut self.buffer);
        record.clear();
        record.resize(RECORD_HEADER, 0);
        for entry in entries {
            codec::encode(entry, &mut record)?;
        }
        self.header.seal().finish(&mut record, self.next, entries.len())?;
        let before = self.contents.bytes();
        let undo: Vec<Undo> = entries.iter().map(|entry| self.contents.change(entry)).collect();
        let done = self.check_room(before).and_then(|()| self.commit(&record));
        if done.is_err() {
            undo.into_iter().rev().for_each(|undo| self.contents.undo(undo));
        }
        if record.capacity() <= BUFFER_KEPT {
            self.buffer = record;
        }
        done
    }

    /// The pool belongs to another store now (0: to none): writes both superblocks.
    pub fn set_owner(&mut self, store: u64) -> Result<()> {
        // No good superblock is overwritten while the other one is damaged.
        if let Some(bad) = self.check_superblocks(true).into_iter().find(|finding| !finding.repaired) {
            return Err(Error::internal(format!("{}, and can't be written", bad.what)));
        }
        let mut superblock = self.superblock.clone();
        superblock.store = store;
        superblock.revision += 1;
        for copy in 0..2 {
            self.store(copy, superblock.geometry.superblock_at(copy), &superblock.encode(false))?;
        }
        self.superblock = superblock;
        Ok(())
    }

    /// Whether what lives now, after `before` bytes of entries, has room.
    fn check_room(&self, before: u64) -> Result<()> {
        let after = self.contents.bytes();
        let half = self.superblock.geometry.half_bytes;
        let kept = if after > before { half / KEPT_PART } else { 0 };
        if needed(after) > half - kept {
            return Err(Error::no_space(format!(
                "the catalog of {} on {} is full: {} files and {} names would take {}, and it has room for {}; remove some",
                self.superblock.name,
                self.copies[0].describe(),
                self.contents.nodes().len(),
                self.contents.links().len(),
                format_size(needed(after)),
                format_size(half - kept)
            )));
        }
        Ok(())
    }

    /// Writes the record, which is in the contents already; or all that lives, where it doesn't fit behind the last one.
    fn commit(&mut self, record: &[u8]) -> Result<()> {
        let end = self.tail + record.len() as u64;
        if end > self.superblock.geometry.half_bytes || self.lost.is_some() {
            return self.compact();
        }
        self.failed = true;
        for copy in 0..2 {
            self.store(copy, self.half_at(copy) + self.tail, record)?;
        }
        self.failed = false;
        self.tail = end;
        self.next += 1;
        Ok(())
    }

    /// Writes all that lives to the other half, which counts from then on.
    fn compact(&mut self) -> Result<()> {
        let geometry = self.superblock.geometry;
        let (old, new) = (self.active, 1 - self.active);
        let mut header = HalfHeader { generation: self.header.generation + 1, ..self.header };
        for copy in 0..2 {
            self.store(copy, geometry.half_at(copy, new), &[0; HALF_HEADER])?;
        }
        let (end, next) = snapshot::write(&self.copies, &geometry, new, header.seal(), &self.contents)?;
        for (copy, area) in self.copies.iter().enumerate() {
            let at = geometry.half_at(copy, new);
            area.persist(at, end)?;
            clear(&**area, at + end, at + geometry.half_bytes)?;
        }
        header.base = end;
        self.failed = true;
        for copy in 0..2 {
            self.store(copy, geometry.half_at(copy, new), &header.encode())?;
        }
        self.failed = false;
        for copy in 0..2 {
            // Where this fails, the lower generation still tells that it doesn't count, and a check finds it.
            if let Err(error) = self.store(copy, geometry.half_at(copy, old), &[0; HALF_HEADER]) {
                tracing::warn!("a header of an old half of the catalog is still there: {error}");
            }
        }
        self.lost = None;
        (self.active, self.header, self.tail, self.next) = (new, header, end, next);
        Ok(())
    }

    fn half_at(&self, copy: usize) -> u64 {
        self.superblock.geometry.half_at(copy, self.active)
    }

    /// Writes to one copy, durably.
    fn store(&self, copy: usize, at: u64, bytes: &[u8]) -> Result<()> {
        store(&*self.copies[copy], at, bytes)
    }
}

/// The areas must have the length that the superblock says.
fn check_areas(copies: &Copies, superblock: &Superblock) -> Result<()> {
    for area in copies {
        if area.len() != superblock.geometry.copy_bytes {
            return Err(Error::corrupt(format!(
                "{} has {} bytes for a copy of the catalog, and {} belong there",
                area.describe(),
                area.len(),
                superblock.geometry.copy_bytes
            )));
        }
    }
    Ok(())
}
