//! Segments in a store that has pools of huge pages only: blocks of a file move whole (see `store::blocks`).

use super::{Cuts, SEGMENT_PAGES, chunked};
use crate::store::state::State;
use codax_core::extent::{self, PoolRun};
use codax_core::namespace::Inode;
use codax_core::{Error, PageCount, PageRange, PoolId, Result};
use std::collections::BTreeSet;

/// The pages of a chunk that will have frames in `to`: up to the file's end, or to that of the unit it is in.
pub(super) fn with_frames(st: &State, inode: &Inode, to: PoolId, pages: PageRange) -> PageRange {
    let end = PageCount::for_bytes(inode.len).0;
    let end = end.next_multiple_of(st.unit(to)).saturating_sub(pages.start.0);
    PageRange::new(pages.start.0, pages.count.0.min(end))
}

/// A range of a pool's pages, unit by unit.
fn units_of(from: PoolId, pages: PageRange, unit: u64) -> impl Iterator<Item = (PoolId, PageRange)> {
    let starts = (pages.start.0..pages.end()).step_by(usize::try_from(unit).unwrap_or(usize::MAX));
    starts.map(move |at| (from, PageRange::new(at, unit)))
}

/// Whole units that lie in pools whose unit is the same, each by itself.
fn in_units(extents: &[extent::Extent], unit: u64) -> Vec<(PoolId, PageRange)> {
    extents.iter().flat_map(|e| units_of(e.pool, e.pages(), unit)).collect()
}

/// The next segment of what is ordered: the pool it goes to, and the chunks, each in one pool. A chunk to or from huge pages is whole ones, and the last one of a
/// file goes on to the end of its block, as it is mapped. `size` says how many pages the others have.
pub(super) fn next_cuts(
    st: &State,
    inode: &Inode,
    to: &[PoolRun],
    size: &dyn Fn(PoolId, &[extent::Extent]) -> u64,
) -> Result<Option<Cuts>> {
    let block = st.block();
    let end = PageCount::for_bytes(inode.len).0;
    let mut target: Option<PoolId> = None;
    let mut cuts: Vec<(PoolId, PageRange)> = Vec::new();
    let mut by_kernel = None;
    let mut left = SEGMENT_PAGES.max(block);
    let mut at = 0;
    for run in to {
        // Each block goes where the first of its pages is to go.
        let wide = run.pages.widened(block);
        let (start, stop) = (wide.start.0.max(at), wide.end().max(at));
        at = stop;
        if target.is_some_and(|target| target != run.pool) {
            continue;
        }
        for start in (start..stop).step_by(usize::try_from(block).unwrap_or(usize::MAX)) {
            let whole = PageRange::new(start, block);
            let here = extent::slice(&inode.extents, whole);
            let mut wanted: Vec<_> = here.iter().copied().filter(|e| e.pool != run.pool).collect();
            if let Some(first) = wanted.first() {
                // What the kernel moves, and what is copied, are segments of their own.
                let kind = *by_kernel.get_or_insert(st.media.same(first.pool, run.pool));
                wanted.retain(|e| st.media.same(e.pool, run.pool) == kind);
            }
            if wanted.is_empty() || left < block {
                continue;
            }
            target = Some(run.pool);
            left -= block;
            let pools: BTreeSet<PoolId> = here.iter().map(|e| e.pool).collect();
            let unit = pools.iter().chain([&run.pool]).map(|&pool| st.unit(pool)).max().unwrap_or(1);
            match pools.iter().copied().collect::<Vec<_>>()[..] {
                // Of one object each unit can go by itself, wherever the others of its block are; and the kernel must not look at holes.
                _ if by_kernel == Some(true) && st.unit(run.pool) > 1 => cuts.extend(in_units(&wanted, unit)),
                [from] if unit > 1 => {
                    let all = PageRange::new(start, here.last().map_or(start, |e| e.pages().end()) - start);
                    cuts.extend(units_of(from, all.widened(unit), unit));
                }
                _ if st.unit(run.pool) > 1 => {
                    let path = st.path(inode.id);
                    return Err(Error::invalid(format!(
                        "{path}: its pages {start}..{} lie in several pools, and {} takes whole huge pages: move it to one pool first",
                        start + block,
                        st.pool_name(run.pool)
                    )));
                }
                _ => cuts.extend(chunked(&wanted, size(run.pool, &wanted))),
            }
        }
    }
    if let Some((_, last)) = cuts.last_mut().filter(|(_, last)| last.end() >= end) {
        last.count.0 = last.end().next_multiple_of(block) - last.start.0;
    }
    Ok(target.map(|target| (target, cuts)))
}
