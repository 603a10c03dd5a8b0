//! Reading the same half of both copies side by side: which records are there, and what becomes of those that aren't.
//!
//! A record is persisted in the first copy before a byte of it is written to the second, and behind the last record there are zeros in
//! both. So where neither copy has the next record, either nothing was begun in the second copy (it has zeros there: the log ends here, and
//! what the first has is an append that was cut off), or the first copy once had all of it, and it is lost.

use super::area::{Copies, read_all};
use super::codec;
use super::contents::Contents;
use super::geometry::Geometry;
use super::half::{HALF_HEADER, HalfHeader, Head};
use crate::fields::{index, len_without_zeros};
use codax_core::PoolUuid;
use std::ops::Range;

/// What the headers of all halves are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    /// By copy, then by half.
    pub(super) heads: [[Head; 2]; 2],
}

/// Why no half can be taken for the one that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoHalf {
    /// No header is left.
    None,
    /// One half's headers are damaged in both copies: it may be the one that counted.
    Unknown,
}

impl Heads {
    /// Reads them.
    pub(super) fn read(copies: &Copies, geometry: &Geometry, pool: PoolUuid) -> Self {
        let heads = std::array::from_fn(|copy| {
            std::array::from_fn(|half| {
                let bytes = read_all(&*copies[copy], geometry.half_at(copy, half), HALF_HEADER);
                Head::read(&bytes, pool, geometry.half_bytes)
            })
        });
        Self { heads }
    }

    /// The half that counts, and its header.
    pub(super) fn active(&self) -> Result<(usize, HalfHeader), NoHalf> {
        let mut best: Option<(usize, HalfHeader)> = None;
        for half in 0..2 {
            let of_half = [self.heads[0][half], self.heads[1][half]];
            if of_half == [Head::Bad, Head::Bad] {
                return Err(NoHalf::Unknown);
            }
            for head in of_half {
                if let Head::Good(header) = head
                    && best.is_none_or(|(_, best)| header.generation > best.generation)
                {
                    best = Some((half, header));
                }
            }
        }
        best.ok_or(NoHalf::None)
    }
}

/// A record that one copy has, and the other not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// The copy that doesn't have it.
    pub(super) copy: usize,
    /// Its number.
    pub(super) number: u64,
    /// Where in the half it is.
    pub(super) at: Range<usize>,
}

/// What both copies of a half hold together.
#[derive(Debug)]
pub(super) struct Scan {
    /// The half's bytes in each copy.
    pub(super) images: [Vec<u8>; 2],
    /// What the records say.
    pub(super) contents: Contents,
    /// Where the last record ends.
    pub(super) end: usize,
    /// The next record's number.
    pub(super) next: u64,
    /// Records that are in one copy only.
    pub(super) missing: Vec<Missing>,
    /// Behind the last record: whether the next one was there once, in both copies.
    pub(super) lost: bool,
    /// Where in each copy there is something behind the last record.
    pub(super) behind: [Option<Range<usize>>; 2],
}

impl Scan {
    /// Reads the half `half` with this header.
    pub(super) fn read(copies: &Copies, geometry: &Geometry, half: usize, header: &HalfHeader) -> Self {
        let len = index(geometry.half_bytes);
        let images: [Vec<u8>; 2] =
            std::array::from_fn(|copy| read_all(&*copies[copy], geometry.half_at(copy, half), len));
        let mut scan = Self {
            images: [Vec::new(), Vec::new()],
            contents: Contents::default(),
            end: HALF_HEADER,
            next: 1,
            missing: Vec::new(),
            lost: false,
            behind: [None, None],
        };
        let seal = header.seal();
        loop {
            let found = [0, 1].map(|copy: usize| seal.record(&images[copy][scan.end..], scan.next));
            let Some(record) = found[0].or(found[1]) else { break };
            let Some(entries) = codec::decode_all(&record) else {
                // Whoever wrote this did not mean what we know; it is as good as not there, and so is what follows.
                scan.lost = true;
                break;
            };
            entries.iter().for_each(|entry| scan.contents.apply(entry));
            let at = scan.end..scan.end + record.whole.len();
            for copy in (0..2).filter(|&copy| found[copy] != Some(record)) {
                scan.missing.push(Missing { copy, number: scan.next, at: at.clone() });
            }
            scan.end = at.end;
            scan.next += 1;
        }
        scan.behind = [0, 1].map(|copy: usize| {
            let len = len_without_zeros(&images[copy][scan.end..]);
            // Whole words, as they are written.
            (len > 0).then(|| scan.end..scan.end + len.next_multiple_of(8))
        });
        scan.lost |= scan.behind.iter().all(Option::is_some) || (scan.end as u64) < header.base;
        scan.images = images;
        scan
    }
}
