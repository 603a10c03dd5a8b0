//! What the catalog asks of the medium under it: one narrow trait for the place of one copy, so that tests can implement it badly on purpose.

use crate::fields::is_zero;
use codax_core::Result;
use std::fmt::Debug;
use std::sync::Arc;

/// The place of one copy of superblock and catalog: on a devdax a range of the device, on an fsdax a file.
///
/// The catalog relies on this and on nothing else:
///
/// - what was written is read back by this process and by the next one, however this one ends;
/// - after a power failure everything is there that was persisted; of what was written since, any part, by words of 8 bytes that
///   begin at multiples of 8;
/// - a read fails where the memory is damaged, and not elsewhere.
pub trait Area: Send + Sync + Debug {
    /// Its length in bytes; doesn't change.
    fn len(&self) -> u64;
    /// Whether nothing fits in.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Fills `bytes` from byte `at` on.
    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()>;
    /// Writes all of `bytes` from byte `at` on.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<()>;
    /// What was written to these bytes survives a power failure, once this has returned.
    fn persist(&self, at: u64, len: u64) -> Result<()>;
    /// What people know it as: the device's path, or the file's.
    fn describe(&self) -> String;
}

/// The places of both copies: first the one at the device's start (or `catalog.0`), then the one at its end (or `catalog.1`).
pub type Copies = [Arc<dyn Area>; 2];

/// Bytes that are read at once: where one can't be read, the others of its piece are taken as damaged.
const PIECE: usize = 4096;

/// What stands for bytes that can't be read. No checksum fits it, and it isn't zero.
const UNREADABLE: u8 = 0xff;

/// The bytes from `at` on, `len` of them. What can't be read comes as bytes that don't check.
pub(super) fn read_all(area: &dyn Area, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    if area.read(at, &mut bytes).is_err() {
        for (n, piece) in bytes.chunks_mut(PIECE).enumerate() {
            if area.read(at + (n * PIECE) as u64, piece).is_err() {
                piece.fill(UNREADABLE);
            }
        }
    }
    bytes
}

/// Makes bytes durable, but for those that can't be read; returns how many those are.
pub(super) fn persist_readable(area: &dyn Area, at: u64, len: u64) -> Result<u64> {
    let Err(error) = area.persist(at, len) else { return Ok(0) };
    let mut left_out = 0;
    let mut piece = [0; PIECE];
    let end = at + len;
    let mut from = at;
    while from < end {
        let len = (PIECE as u64).min(end - from);
        match area.read(from, &mut piece[..crate::fields::index(len)]) {
            Ok(()) => area.persist(from, len)?,
            Err(_) => left_out += len,
        }
        from += len;
    }
    // With all of it whole it was something else.
    if left_out == 0 { Err(error) } else { Ok(left_out) }
}

/// Writes, and makes it durable.
pub(super) fn store(area: &dyn Area, at: u64, bytes: &[u8]) -> Result<()> {
    area.write(at, bytes)?;
    area.persist(at, bytes.len() as u64)
}

/// Makes the bytes `at..end` zeros, durably. Only what isn't zero is written, since reading is the cheaper of the two; all of it is persisted, since who
/// wrote zeros there before may have been killed before they were durable.
pub(super) fn clear(area: &dyn Area, at: u64, end: u64) -> Result<()> {
    const STEP: u64 = 64 << 10;
    let mut from = at;
    while from < end {
        let len = STEP.min(end - from);
        let bytes = read_all(area, from, crate::fields::index(len));
        if !is_zero(&bytes) {
            area.write(from, &vec![0; bytes.len()])?;
        }
        from += len;
    }
    area.persist(at, end - at)
}
