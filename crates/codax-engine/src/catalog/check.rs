//! `check` of a catalog that is open: whether both copies still say what they said, and mending them.

use super::Catalog;
use super::area::read_all;
use super::half::HALF_HEADER;
use super::open::COPY;
use super::scan::Scan;
use super::superblock::SUPERBLOCK_BYTES;
use codax_core::Result;
use codax_core::info::{Finding, Severity};

impl Catalog {
    /// Compares both copies with what was written, every byte that counts; with `repair` mends what differs.
    ///
    /// What one copy has is mended from it, or written anew to the other half where it can't be written in its place. What neither has any more is
    /// written anew from what is in memory, so nothing is lost that was there when the catalog was opened. What was lost before is said, too,
    /// until something is written or `repair` has written what is left.
    ///
    /// An error if something has to be written anew, and can't be. What else can't be mended is said as not repaired.
    pub fn check(&mut self, repair: bool) -> Result<Vec<Finding>> {
        let mut findings = self.check_superblocks(repair);
        let mut anew = self.failed || self.lost.is_some();
        anew |= self.check_records(repair, &mut findings);
        anew |= self.check_headers(repair, &mut findings);
        if let Some(lost) = self.lost.clone() {
            findings.push(Finding { severity: Severity::Lost, what: lost, repaired: repair });
        }
        if repair && anew {
            self.compact()?;
        }
        Ok(findings)
    }

    /// The two superblocks.
    pub(super) fn check_superblocks(&self, repair: bool) -> Vec<Finding> {
        let expected = self.superblock.encode(false);
        let mut findings = Vec::new();
        for (copy, name) in COPY.iter().enumerate() {
            let at = self.superblock.geometry.superblock_at(copy);
            if read_all(&*self.copies[copy], at, SUPERBLOCK_BYTES) != expected {
                let what = format!("{}: the {name} superblock is damaged", self.copies[copy].describe());
                let repaired = repair && self.mend(copy, at, &expected);
                findings.push(Finding { severity: Severity::Mendable, what, repaired });
            }
        }
        findings
    }

    /// The records of the half that counts, and what is behind them. Returns whether they have to be written anew: no copy has them, or one can't be
    /// mended in its place.
    fn check_records(&self, repair: bool, findings: &mut Vec<Finding>) -> bool {
        let geometry = self.superblock.geometry;
        let scan = Scan::read(&self.copies, &geometry, self.active, &self.header);
        let mut note =
            |what, repaired| findings.push(Finding { severity: Severity::Mendable, what, repaired });
        let mut anew = false;
        // What is behind the tail is a change that could not be written, and doesn't count.
        for missing in scan.missing.iter().filter(|missing| missing.at.end as u64 <= self.tail) {
            let at = self.half_at(missing.copy) + missing.at.start as u64;
            let record = &scan.images[1 - missing.copy][missing.at.clone()];
            anew |= repair && !self.mend(missing.copy, at, record);
            note(self.missing_line(missing), repair);
        }
        if self.lost.is_some() {
            return true;
        }
        let what = self.copies[0].describe();
        if self.failed {
            note(format!("{what}: a change of the catalog could not be written"), repair);
            return true;
        }
        if (scan.end as u64, scan.next) != (self.tail, self.next) || scan.contents != self.contents {
            note(
                format!(
                    "{what}: record {} of the catalog is damaged in both copies, and whole in memory",
                    scan.next
                ),
                repair,
            );
            return true;
        }
        for (copy, behind) in scan.behind.iter().enumerate() {
            if let Some(range) = behind {
                let at = self.half_at(copy) + range.start as u64;
                let mended = repair && self.mend(copy, at, &vec![0; range.len()]);
                note(
                    format!("{what}: something is behind the end of the catalog's {} copy", COPY[copy]),
                    mended,
                );
            }
        }
        anew
    }

    /// The headers of both halves. Returns whether that of the half that counts can't be mended in its place.
    fn check_headers(&self, repair: bool, findings: &mut Vec<Finding>) -> bool {
        let header = self.header.encode();
        let mut anew = false;
        for (copy, name) in COPY.iter().enumerate() {
            for half in 0..2 {
                let counts = half == self.active;
                let at = self.superblock.geometry.half_at(copy, half);
                let bytes = read_all(&*self.copies[copy], at, HALF_HEADER);
                let expected = if counts { header } else { [0; HALF_HEADER] };
                if bytes == expected {
                    continue;
                }
                let mended = repair && self.mend(copy, at, &expected);
                anew |= repair && counts && !mended;
                let what = if counts {
                    self.header_line(copy)
                } else {
                    let what = self.copies[copy].describe();
                    format!("{what}: the {name} copy has a header in the half that doesn't count")
                };
                let repaired = mended || repair && counts;
                findings.push(Finding { severity: Severity::Mendable, what, repaired });
            }
        }
        anew
    }

    /// Writes to one copy, durably; whether it can be read there afterwards.
    fn mend(&self, copy: usize, at: u64, bytes: &[u8]) -> bool {
        self.store(copy, at, bytes).is_ok() && read_all(&*self.copies[copy], at, bytes.len()) == bytes
    }
}
