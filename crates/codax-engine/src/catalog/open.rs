//! Opening a catalog: reading both copies, and finishing what a power failure has cut off.

use super::area::{Copies, clear, persist_readable, store};
use super::geometry::Geometry;
use super::half::{HALF_HEADER, HalfHeader, Head};
use super::probe::{probe, read_superblocks};
use super::scan::{Heads, Missing, NoHalf, Scan};
use super::superblock::{Block, SUPERBLOCK_BYTES, Superblock};
use super::{Catalog, check_areas};
use crate::fields::index;
use codax_core::info::{Finding, Severity};
use codax_core::{Error, Result};

/// What people know the copies as.
pub(super) const COPY: [&str; 2] = ["first", "second"];

impl Catalog {
    /// Opens the catalog that is there, and finishes what a power failure has cut off. `device_bytes` is what the device has; `None` where data is
    /// elsewhere than the copies.
    ///
    /// Returns what was not as it should be, too; empty after a clean end. What is `repaired` there was cut off and has been finished; what is
    /// not is damage, which [`Catalog::check`] mends; of severity `Lost` is what neither copy has any more.
    ///
    /// Errors: as [`super::Found::ours`] says them, and `Corrupt` if nothing can be told of what the catalog held.
    pub fn open(copies: Copies, device_bytes: Option<u64>) -> Result<(Self, Vec<Finding>)> {
        let what = copies[0].describe();
        let (superblock, notes) = probe(&copies, device_bytes).ours(&what)?;
        check_areas(&copies, &superblock)?;
        let geometry = superblock.geometry;
        let heads = Heads::read(&copies, &geometry, superblock.pool);
        let (active, header) = heads.active().map_err(|why| no_half(&what, why))?;
        make_durable(&copies, &geometry, active)?;
        let mut findings: Vec<Finding> = Vec::new();
        finish_superblocks(&copies, &superblock, notes, &mut findings)?;
        let mut scan = Scan::read(&copies, &geometry, active, &header);
        let lost = scan.lost.then(|| lost_line(&what, &scan, geometry.half_bytes));
        let catalog = Self {
            copies,
            superblock,
            contents: std::mem::take(&mut scan.contents),
            active,
            header,
            tail: scan.end as u64,
            next: scan.next,
            failed: false,
            lost,
            buffer: Vec::new(),
        };
        catalog.finish(&heads, &scan, &mut findings);
        Ok((catalog, findings))
    }

    /// Finishes what was cut off, and notes what is damaged. What can't be written is damage, too.
    fn finish(&self, heads: &Heads, scan: &Scan, findings: &mut Vec<Finding>) {
        let mut note =
            |what, repaired| findings.push(Finding { severity: Severity::Mendable, what, repaired });
        let what = self.copies[0].describe();
        for missing in &scan.missing {
            if is_cut(missing, scan, &self.header) && self.lost.is_none() {
                let done = self.copy_record(missing, scan).is_ok();
                note(
                    format!("{what}: the last change of the catalog was in one copy only: now in both"),
                    done,
                );
            } else {
                note(self.missing_line(missing), false);
            }
        }
        let good = Head::Good(self.header);
        if heads.heads[1][self.active] != good {
            let done = self.store(1, self.half_at(1), &self.header.encode()).is_ok();
            note(
                format!("{what}: the second copy of the catalog had no header for the half that counts"),
                done,
            );
        }
        if heads.heads[0][self.active] != good {
            note(self.header_line(0), false);
        }
        for (copy, name) in COPY.iter().enumerate() {
            let old = 1 - self.active;
            if heads.heads[copy][old] != Head::Zero {
                let at = self.superblock.geometry.half_at(copy, old);
                let done = self.store(copy, at, &[0; HALF_HEADER]).is_ok();
                note(format!("{what}: the {name} copy had a header in the half that doesn't count"), done);
            }
        }
        match &self.lost {
            Some(lost) => {
                findings.push(Finding { severity: Severity::Lost, what: lost.clone(), repaired: false });
            }
            None => self.drop_cut_off(scan, findings),
        }
    }

    /// Clears what is behind the last record.
    fn drop_cut_off(&self, scan: &Scan, findings: &mut Vec<Finding>) {
        for (copy, behind) in scan.behind.iter().enumerate() {
            let Some(range) = behind else { continue };
            let (from, to) = (range.start as u64, range.end as u64);
            let at = self.half_at(copy);
            let repaired = clear(&*self.copies[copy], at + from, at + to).is_ok();
            let what = self.copies[0].describe();
            let what =
                format!("{what}: a change of the catalog that was cut off, {} bytes, is dropped", to - from);
            findings.push(Finding { severity: Severity::Mendable, what, repaired });
        }
    }

    /// Writes a record to the copy that doesn't have it.
    pub(super) fn copy_record(&self, missing: &Missing, scan: &Scan) -> Result<()> {
        let record = &scan.images[1 - missing.copy][missing.at.clone()];
        self.store(missing.copy, self.half_at(missing.copy) + missing.at.start as u64, record)
    }

    pub(super) fn missing_line(&self, missing: &Missing) -> String {
        format!(
            "{}: record {} of the catalog (bytes {} to {} of its half) is damaged in the {} copy, and whole in the other",
            self.copies[missing.copy].describe(),
            missing.number,
            missing.at.start,
            missing.at.end,
            COPY[missing.copy]
        )
    }

    pub(super) fn header_line(&self, copy: usize) -> String {
        format!(
            "{}: the header of the catalog's half is damaged in the {} copy, and whole in the other",
            self.copies[copy].describe(),
            COPY[copy]
        )
    }
}

/// Whether a power failure may be why the record is not there: it is the last, of a copy that gets it after the other.
fn is_cut(missing: &Missing, scan: &Scan, header: &HalfHeader) -> bool {
    missing.copy == 1 && missing.at.end == scan.end && missing.at.start >= index(header.base)
}

/// Persists all that counts, the first copy's before the second's. Who wrote it may have been killed before it was durable, and what is built on it now must
/// not outlive it. What can't be read there is nothing to build on.
fn make_durable(copies: &Copies, geometry: &Geometry, active: usize) -> Result<()> {
    for (copy, area) in copies.iter().enumerate() {
        let parts = [
            (geometry.superblock_at(copy), SUPERBLOCK_BYTES as u64),
            (geometry.half_at(copy, active), geometry.half_bytes),
            (geometry.half_at(copy, 1 - active), HALF_HEADER as u64),
        ];
        let left_out = parts.into_iter().try_fold(0, |sum, (at, len)| {
            persist_readable(&**area, at, len).map(|left_out| sum + left_out)
        })?;
        if left_out > 0 {
            let (what, copy) = (area.describe(), COPY[copy]);
            tracing::warn!(
                "{what}: {left_out} bytes of the catalog's {copy} copy can't be read or made durable"
            );
        }
    }
    Ok(())
}

/// Writes a superblock anew that is whole and not the last one; notes what else `notes` say.
fn finish_superblocks(
    copies: &Copies,
    superblock: &Superblock,
    notes: Vec<String>,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let blocks = read_superblocks(copies).map(|block| block.check());
    let mut finished = false;
    for (copy, block) in blocks.iter().enumerate() {
        let old = match block {
            Block::Ours(ours) | Block::Unfinished(ours) => {
                ours != superblock || matches!(block, Block::Unfinished(_))
            }
            _ => false,
        };
        if old {
            let at = superblock.geometry.superblock_at(copy);
            store(&*copies[copy], at, &superblock.encode(false))?;
            finished = true;
        }
    }
    let what = copies[0].describe();
    let line =
        |note| Finding { severity: Severity::Mendable, what: format!("{what}: {note}"), repaired: finished };
    findings.extend(notes.into_iter().map(line));
    Ok(())
}

fn no_half(what: &str, why: NoHalf) -> Error {
    let why = match why {
        NoHalf::None => "no half of the catalog has a header",
        NoHalf::Unknown => "the header of a half of the catalog is damaged in both copies",
    };
    Error::corrupt(format!(
        "{what}: {why}, so nothing can be told of what it held; `format` makes an empty pool of it"
    ))
}

fn lost_line(what: &str, scan: &Scan, half_bytes: u64) -> String {
    let until = scan.behind.iter().flatten().map(|range| range.end as u64).max().unwrap_or(half_bytes);
    format!(
        "{what}: record {} of the catalog is damaged in both copies: it is lost, with all changes after it ({} bytes)",
        scan.next,
        until - scan.end as u64
    )
}
