//! All that lives, written compactly to a half that doesn't count yet.

use super::area::Copies;
use super::codec;
use super::contents::Contents;
use super::geometry::Geometry;
use super::half::{HALF_HEADER, RECORD_HEADER, Seal};
use codax_core::Result;

/// A new record is begun when one has so many bytes of entries: damage in both copies then costs what is in one and behind it.
const RECORD_BYTES: usize = 64 << 10;

/// Bytes of a half that so many bytes of entries need, at most.
pub(super) fn needed(bytes: u64) -> u64 {
    HALF_HEADER as u64 + bytes + (bytes / RECORD_BYTES as u64 + 1) * RECORD_HEADER as u64
}

/// Writes the records of `contents` to the half `half` of both copies, behind where its header goes; persists nothing. Returns where they end, and
/// the number of the record that comes next.
pub(super) fn write(
    copies: &Copies,
    geometry: &Geometry,
    half: usize,
    seal: Seal,
    contents: &Contents,
) -> Result<(u64, u64)> {
    let at = [0, 1].map(|copy| geometry.half_at(copy, half));
    let mut writer =
        Writer { copies, at, seal, end: HALF_HEADER as u64, next: 1, record: Vec::new(), entries: 0 };
    writer.begin();
    for node in contents.nodes() {
        codec::encode_node(node, &mut writer.record)?;
        writer.entry_done()?;
    }
    for (dir, name, child) in contents.links() {
        codec::encode_link(dir, name, child, &mut writer.record)?;
        writer.entry_done()?;
    }
    writer.flush()?;
    debug_assert!(writer.end <= needed(contents.bytes()), "more than was reckoned with");
    Ok((writer.end, writer.next))
}

/// Where the next record goes, and what is in it so far.
struct Writer<'a> {
    copies: &'a Copies,
    /// Where the half begins in each copy.
    at: [u64; 2],
    seal: Seal,
    end: u64,
    next: u64,
    record: Vec<u8>,
    entries: usize,
}

impl Writer<'_> {
    fn begin(&mut self) {
        self.record.clear();
        self.record.resize(RECORD_HEADER, 0);
        self.entries = 0;
    }

    fn entry_done(&mut self) -> Result<()> {
        self.entries += 1;
        if self.record.len() - RECORD_HEADER >= RECORD_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if self.entries > 0 {
            self.seal.finish(&mut self.record, self.next, self.entries)?;
            for (area, at) in self.copies.iter().zip(self.at) {
                area.write(at + self.end, &self.record)?;
            }
            self.end += self.record.len() as u64;
            self.next += 1;
            self.begin();
        }
        Ok(())
    }
}
