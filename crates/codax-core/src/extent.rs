//! Which frames of which pools hold a file's pages.

use crate::{Frame, PageCount, PageNo, PageRange, PoolId};
use serde::{Deserialize, Serialize};

/// A run of a file's pages in consecutive frames of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First page in the file.
    pub page: PageNo,
    /// Number of pages, and of frames.
    pub count: PageCount,
    /// The pool the frames are of.
    pub pool: PoolId,
    /// The frame that holds the first page.
    pub frame: Frame,
}

impl Extent {
    /// The pages it covers.
    #[must_use]
    pub const fn pages(&self) -> PageRange {
        PageRange { start: self.page, count: self.count }
    }

    /// The frame after its last one, where a file's next pages are best.
    #[must_use]
    pub const fn following(&self) -> Frame {
        Frame(self.frame.0 + self.count.0)
    }
}

/// A run of consecutive frames of one pool, owned by nobody in particular.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameRun {
    /// First frame.
    pub frame: Frame,
    /// Number of frames.
    pub count: PageCount,
}

/// A run of a file's pages that lie in one pool: what a client maps at once, whatever the frames' numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRun {
    /// The pages.
    pub pages: PageRange,
    /// Where they lie.
    pub pool: PoolId,
}

/// The parts of `extents` that lie in `range`, cut to it.
#[must_use]
pub fn slice(extents: &[Extent], range: PageRange) -> Vec<Extent> {
    let first = extents.partition_point(|extent| extent.pages().end() <= range.start.0);
    extents[first..].iter().map_while(|extent| cut(extent, range)).collect()
}

/// `extents` with the pages of `new` (sorted, without gaps) taken over by `new`: what they covered before is cut away, neighbours
/// that continue each other are merged. Returns the new list and the parts that were replaced.
#[must_use]
pub fn replace(extents: &[Extent], new: &[Extent]) -> (Vec<Extent>, Vec<Extent>) {
    let (Some(first), Some(last)) = (new.first(), new.last()) else {
        return (extents.to_vec(), Vec::new());
    };
    let end = last.pages().end();
    let replaced = slice(extents, PageRange::new(first.page.0, end - first.page.0));
    let mut result = Vec::with_capacity(extents.len() + new.len() + 1);
    for extent in slice(extents, PageRange::new(0, first.page.0)) {
        push(&mut result, extent);
    }
    for &extent in new {
        push(&mut result, extent);
    }
    for extent in slice(extents, PageRange::new(end, u64::MAX - end)) {
        push(&mut result, extent);
    }
    (result, replaced)
}

/// The last extent that begins before `page`.
#[must_use]
pub fn before(extents: &[Extent], page: PageNo) -> Option<Extent> {
    let after = extents.partition_point(|extent| extent.page < page);
    after.checked_sub(1).map(|at| extents[at])
}

/// The pages of `range` that no extent covers.
#[must_use]
pub fn gaps(extents: &[Extent], range: PageRange) -> Vec<PageRange> {
    let mut gaps = Vec::new();
    let mut at = range.start.0;
    for extent in slice(extents, range) {
        if extent.page.0 > at {
            gaps.push(PageRange::new(at, extent.page.0 - at));
        }
        at = extent.pages().end();
    }
    if at < range.end() {
        gaps.push(PageRange::new(at, range.end() - at));
    }
    gaps
}

/// `extents` with those of `new` (sorted, possibly with gaps) in place of what their pages had before.
#[must_use]
pub fn insert(extents: &[Extent], new: &[Extent]) -> Vec<Extent> {
    if let (Some(last), Some(first)) = (extents.last(), new.first())
        && last.pages().end() <= first.page.0
    {
        // The usual case: a file grows at its end.
        let mut result = extents.to_vec();
        new.iter().for_each(|&extent| push(&mut result, extent));
        return result;
    }
    new.chunk_by(|a, b| a.pages().end() == b.page.0)
        .fold(extents.to_vec(), |extents, run| replace(&extents, run).0)
}

/// `extents` without the pages of `range`, and what had them.
#[must_use]
pub fn remove(extents: &[Extent], range: PageRange) -> (Vec<Extent>, Vec<Extent>) {
    let mut left = slice(extents, PageRange::new(0, range.start.0));
    left.extend(slice(extents, PageRange::new(range.end(), u64::MAX - range.end())));
    (left, slice(extents, range))
}

/// Cuts everything from page `pages` on off `extents`, and returns what was cut.
pub fn truncate(extents: &mut Vec<Extent>, pages: PageCount) -> Vec<Extent> {
    let cut_off = slice(extents, PageRange::new(pages.0, u64::MAX - pages.0));
    extents.truncate(extents.partition_point(|extent| extent.page.0 < pages.0));
    if let Some(last) = extents.last_mut() {
        last.count.0 = last.count.0.min(pages.0 - last.page.0);
    }
    cut_off
}

/// The extents as runs of one pool each: neighbours in one pool count as one, whatever their frames.
#[must_use]
pub fn pool_runs(extents: &[Extent]) -> Vec<PoolRun> {
    let mut runs: Vec<PoolRun> = Vec::new();
    for extent in extents {
        match runs.last_mut() {
            Some(run) if run.pool == extent.pool && run.pages.end() == extent.page.0 => {
                run.pages.count.0 += extent.count.0;
            }
            _ => runs.push(PoolRun { pages: extent.pages(), pool: extent.pool }),
        }
    }
    runs
}

/// The part of `extent` that lies in `range`.
fn cut(extent: &Extent, range: PageRange) -> Option<Extent> {
    let pages = extent.pages().intersect(range)?;
    let frame = Frame(extent.frame.0 + (pages.start.0 - extent.page.0));
    Some(Extent { page: pages.start, count: pages.count, pool: extent.pool, frame })
}

/// Appends `extent`, to the last one if it continues it.
fn push(extents: &mut Vec<Extent>, extent: Extent) {
    match extents.last_mut() {
        Some(last)
            if last.pool == extent.pool
                && last.pages().end() == extent.page.0
                && last.frame.0 + last.count.0 == extent.frame.0 =>
        {
            last.count.0 += extent.count.0;
        }
        _ => extents.push(extent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DRAM;

    const SIM: PoolId = PoolId(1);

    fn extent(page: u64, count: u64, pool: PoolId, frame: u64) -> Extent {
        Extent { page: PageNo(page), count: PageCount(count), pool, frame: Frame(frame) }
    }

    #[test]
    fn replacing_the_middle_cuts_and_returns_it() {
        let old = [extent(0, 10, DRAM, 100)];
        let (moved, replaced) = replace(&old, &[extent(4, 2, SIM, 7)]);
        let expected = [extent(0, 4, DRAM, 100), extent(4, 2, SIM, 7), extent(6, 4, DRAM, 106)];
        assert_eq!(moved, expected);
        assert_eq!(replaced, [extent(4, 2, DRAM, 104)]);
        // Moving it back makes one extent again.
        assert_eq!(replace(&moved, &replaced), (old.to_vec(), vec![extent(4, 2, SIM, 7)]));
    }

    #[test]
    fn replacing_beyond_the_end_grows() {
        let old = [extent(0, 4, DRAM, 10)];
        assert_eq!(replace(&old, &[extent(4, 4, DRAM, 14)]), (vec![extent(0, 8, DRAM, 10)], vec![]));
        assert_eq!(replace(&[], &[extent(0, 4, DRAM, 14)]), (vec![extent(0, 4, DRAM, 14)], vec![]));
        assert_eq!(replace(&old, &[]), (old.to_vec(), vec![]));
    }

    #[test]
    fn runs_look_at_pools_only() {
        let extents = [extent(0, 4, DRAM, 10), extent(4, 4, DRAM, 90), extent(8, 1, SIM, 0)];
        let runs = pool_runs(&extents);
        let run = |start, count, pool| PoolRun { pages: PageRange::new(start, count), pool };
        assert_eq!(runs, [run(0, 8, DRAM), run(8, 1, SIM)]);
    }
}
