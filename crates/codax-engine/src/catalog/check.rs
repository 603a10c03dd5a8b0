//! `check` of a catalog that is open: whether both copies still say what they said, and mending them.

use super::Catalog;
use super::area::{clear, read_all};
use super::fields::is_zero;
use super::half::HALF_HEADER;
use super::open::COPY;
use super::scan::Scan;
use super::superblock::SUPERBLOCK_BYTES;
use codax_core::Result;
use codax_core::info::{Finding, Severity};

impl Catalog {
    /// Compares both copies with what was written, every byte that counts; with `repair` mends what differs.
    ///
    /// What one copy has is mended from it. What neither has any more is written anew from what is in memory, so nothing is lost that was
    /// there when the catalog was opened. What was lost before is said, too, until something is written or `repair` has written what is left.
    ///
    /// An error if what neither copy has can't be written. What else can't be written is said as not repaired.
    pub fn check(&mut self, repair: bool) -> Result<Vec<Finding>> {
        let mut findings = self.check_superblocks(repair);
        let anew = self.check_half(repair, &mut findings);
        self.check_headers(repair, &mut findings);
        if let Some(lost) = self.lost.clone() {
            findings.push(Finding { severity: Severity::Lost, what: lost, repaired: repair });
        }
        if repair && (anew || self.failed || self.lost.is_some()) {
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
                let repaired = repair && self.store(copy, at, &expected).is_ok();
                findings.push(Finding { severity: Severity::Mendable, what, repaired });
            }
        }
        findings
    }

    /// The records of the half that counts, and what is behind them. Returns whether they have to be written anew, since no copy has them.
    fn check_half(&self, repair: bool, findings: &mut Vec<Finding>) -> bool {
        let geometry = self.superblock.geometry;
        let scan = Scan::read(&self.copies, &geometry, self.active, &self.header);
        let mut note =
            |what, repaired| findings.push(Finding { severity: Severity::Mendable, what, repaired });
        // What is behind the tail is a change that could not be written: the in-memory state doesn't have it.
        for missing in scan.missing.iter().filter(|missing| missing.at.end as u64 <= self.tail) {
            let mended = repair && self.copy_record(missing, &scan).is_ok();
            note(self.missing_line(missing), mended);
        }
        if self.lost.is_some() {
            return true;
        }
        let what = self.copies[0].describe();
        if (scan.end as u64, scan.next) != (self.tail, self.next) || scan.contents != self.contents {
            let line = if self.failed {
                format!("{what}: a change of the catalog could not be written")
            } else {
                format!(
                    "{what}: record {} of the catalog is damaged in both copies, and whole in memory",
                    scan.next
                )
            };
            note(line, repair);
            return true;
        }
        for (copy, behind) in scan.behind.iter().enumerate() {
            if let Some(range) = behind {
                let at = self.half_at(copy);
                let mended = repair
                    && clear(&*self.copies[copy], at + range.start as u64, at + range.end as u64).is_ok();
                note(
                    format!("{what}: something is behind the end of the catalog's {} copy", COPY[copy]),
                    mended,
                );
            }
        }
        false
    }

    /// The headers of both halves.
    fn check_headers(&self, repair: bool, findings: &mut Vec<Finding>) {
        let header = self.header.encode();
        for (copy, name) in COPY.iter().enumerate() {
            for half in 0..2 {
                let at = self.superblock.geometry.half_at(copy, half);
                let bytes = read_all(&*self.copies[copy], at, HALF_HEADER);
                let expected = if half == self.active { header } else { [0; HALF_HEADER] };
                if bytes != expected {
                    let what = if is_zero(&expected) {
                        let what = self.copies[copy].describe();
                        format!("{what}: the {name} copy has a header in the half that doesn't count")
                    } else {
                        self.header_line(copy)
                    };
                    let repaired = repair && self.store(copy, at, &expected).is_ok();
                    findings.push(Finding { severity: Severity::Mendable, what, repaired });
                }
            }
        }
    }
}
