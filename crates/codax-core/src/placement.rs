//! Which pools a file may and should use.

use crate::extent::PoolRun;
use crate::units::format_size;
use crate::{DRAM, Error, PAGE_SIZE, PageRange, PoolId, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Where a file's pages go. Directories hand theirs to what is made in them; the root's is `On` `dram`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Placement {
    /// In this pool and in no other: full is no space.
    On {
        /// The pool.
        pool: PoolId,
        /// Not even a drain may take it elsewhere (to `dram`, until the device is back): the drain is refused instead.
        strict: bool,
    },
    /// In this pool, and in `dram` when it is full.
    Prefer(PoolId),
    /// In turns of [`crate::HUGE_SIZE`] over these pools; of 1 GiB in a store that has pages of that size.
    Interleave(Vec<PoolId>),
}

/// What a pool offers to a placement decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Free frames; 0 counts as full.
    pub free: crate::PageCount,
    /// Whether new frames may be given out (it is online).
    pub online: bool,
    /// What files have of it is whole units of so many pages.
    pub unit: u64,
}

impl Room {
    /// The same, or none if it is `full`.
    #[must_use]
    pub fn unless(self, full: bool) -> Self {
        if full { Self { free: crate::PageCount(0), ..self } } else { self }
    }
}

impl Placement {
    /// Where the pages `range` of a file go: runs in the order of pages that cover `range`, and nothing beyond but for whole units of the pools at its ends. They
    /// are cut at multiples of `block`, which is a multiple of all units.
    ///
    /// Errors: `NoSpace` (how many bytes are missing, in which pool) and `DeviceState` (a pool that drains or is offline), with
    /// the pool's `name`. A preferred pool that takes no new frames is passed over as if it were full.
    pub fn choose(
        &self,
        range: PageRange,
        block: u64,
        room: &dyn Fn(PoolId) -> Room,
        name: &dyn Fn(PoolId) -> String,
    ) -> Result<Vec<PoolRun>> {
        let mut runs = match self {
            _ if range.is_empty() => return Ok(Vec::new()),
            Self::On { pool, .. } => vec![PoolRun { pages: range, pool: *pool }],
            Self::Prefer(pool) => prefer(*pool, range, block, room(*pool)),
            Self::Interleave(pools) => interleave(pools, range, block, room, name)?,
        };
        for run in &mut runs {
            run.pages = run.pages.widened(room(run.pool).unit);
        }
        let mut wanted: BTreeMap<PoolId, u64> = BTreeMap::new();
        for run in &runs {
            *wanted.entry(run.pool).or_default() += run.pages.count.0;
        }
        for (pool, wanted) in wanted {
            let room = room(pool);
            if !room.online {
                let name = name(pool);
                let line = format!(
                    "pool `{name}` takes nothing new: it drains or is offline (see `codax device show {name}`)"
                );
                return Err(Error::device_state(line));
            }
            if wanted > room.free.0 {
                return Err(no_space(&format!("pool `{}`", name(pool)), wanted - room.free.0));
            }
        }
        Ok(runs)
    }

    /// Of new pages those that are for `dram`, behind the others, whose runs come first; `None` where none are, or where they are to be in `dram` and nowhere else:
    /// by a strict placement, or in turns.
    #[must_use]
    pub fn for_dram(
        &self,
        range: PageRange,
        block: u64,
        room: &dyn Fn(PoolId) -> Room,
    ) -> Option<(Vec<PoolRun>, PageRange)> {
        let (before, rest) = match self {
            Self::On { pool: DRAM, strict: false } | Self::Prefer(DRAM) => (Vec::new(), range),
            Self::Prefer(pool) => {
                let room = room(*pool);
                let mut runs = prefer(*pool, range, block, room);
                let rest = runs.pop_if(|last| last.pool == DRAM)?.pages;
                runs.iter_mut().for_each(|run| run.pages = run.pages.widened(room.unit));
                (runs, rest)
            }
            _ => return None,
        };
        (!rest.is_empty()).then_some((before, rest))
    }

    /// Whether a drain may take pages of such a file out of `from`.
    #[must_use]
    pub fn may_leave(&self, from: PoolId) -> bool {
        !matches!(self, Self::On { pool, strict: true } if *pool == from)
    }

    /// The pools that it names.
    #[must_use]
    pub fn pools(&self) -> &[PoolId] {
        match self {
            Self::On { pool, .. } | Self::Prefer(pool) => std::slice::from_ref(pool),
            Self::Interleave(pools) => pools,
        }
    }

    /// The pools a drain of `from` may take pages of such a file to, best first; `dram` is always among them.
    #[must_use]
    pub fn refuges(&self, from: PoolId) -> Vec<PoolId> {
        let mut refuges = Vec::new();
        for &pool in self.pools().iter().filter(|&&pool| pool != from).chain(&[DRAM]) {
            if !refuges.contains(&pool) {
                refuges.push(pool);
            }
        }
        refuges
    }
}

/// As many blocks from the front as `pool` has room for, or all; the rest goes to `dram`.
fn prefer(pool: PoolId, range: PageRange, block: u64, room: Room) -> Vec<PoolRun> {
    let free = if room.online { room.free.0 } else { 0 };
    let wide = range.widened(room.unit);
    let end = match free >= wide.count.0 {
        true => range.end(),
        // An extent costs every process that maps the file a mapped area, so none is cut within a huge page.
        false => ((wide.start.0 + free) / block * block).max(range.start.0),
    };
    let front = PageRange::new(range.start.0, end - range.start.0);
    let rest = PageRange::new(end, range.end() - end);
    let runs = [PoolRun { pages: front, pool }, PoolRun { pages: rest, pool: DRAM }];
    runs.into_iter().filter(|run| !run.pages.is_empty()).collect()
}

/// Turns by the page's place in the file, so that growing a file goes on where it stopped.
fn interleave(
    pools: &[PoolId],
    range: PageRange,
    block: u64,
    room: &dyn Fn(PoolId) -> Room,
    name: &dyn Fn(PoolId) -> String,
) -> Result<Vec<PoolRun>> {
    if pools.is_empty() {
        return Err(Error::invalid("a placement over no pools: name at least one to interleave over"));
    }
    // Looked at first, so that the turns below are never more than there are frames.
    let distinct: BTreeSet<PoolId> = pools.iter().copied().collect();
    let free = distinct.iter().fold(0u64, |sum, &pool| sum.saturating_add(room(pool).free.0));
    if range.count.0 > free {
        let names: Vec<String> = distinct.iter().map(|&pool| format!("`{}`", name(pool))).collect();
        return Err(no_space(&format!("pools {}", names.join(", ")), range.count.0 - free));
    }
    let mut runs: Vec<PoolRun> = Vec::new();
    let mut page = range.start.0;
    while page < range.end() {
        let turn = page / block;
        let count = ((turn + 1) * block).min(range.end()) - page;
        let index = usize::try_from(turn % pools.len() as u64).unwrap_or(0);
        match runs.last_mut() {
            Some(last) if last.pool == pools[index] => last.pages.count.0 += count,
            _ => runs.push(PoolRun { pages: PageRange::new(page, count), pool: pools[index] }),
        }
        page += count;
    }
    Ok(runs)
}

fn no_space(what: &str, missing: u64) -> Error {
    let missing = missing.saturating_mul(PAGE_SIZE);
    Error::no_space(format!("no space in {what}: {} ({missing} bytes) more are needed", format_size(missing)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, HUGE_PAGES, PageCount};

    const A: PoolId = PoolId(1);
    const B: PoolId = PoolId(2);

    /// `dram` has 10,000 free frames, A 1,000, B none; pool 3 is offline.
    fn room(pool: PoolId) -> Room {
        let free = [10_000, 1_000, 0, 5_000][usize::from(pool.0)];
        Room { free: PageCount(free), online: pool.0 < 3, unit: 1 }
    }

    fn name(pool: PoolId) -> String {
        ["dram", "a", "b", "off"][usize::from(pool.0)].into()
    }

    fn choose(placement: &Placement, start: u64, count: u64) -> Result<Vec<PoolRun>> {
        placement.choose(PageRange::new(start, count), HUGE_PAGES, &room, &name)
    }

    fn run(start: u64, count: u64, pool: PoolId) -> PoolRun {
        PoolRun { pages: PageRange::new(start, count), pool }
    }

    #[test]
    fn on_is_all_or_nothing() {
        let on = Placement::On { pool: A, strict: false };
        assert_eq!(choose(&on, 5, 1_000), Ok(vec![run(5, 1_000, A)]));
        assert_eq!(choose(&on, 5, 0), Ok(vec![]));
        let error = choose(&on, 5, 1_001).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NoSpace);
        assert_eq!(error.message, "no space in pool `a`: 4 KiB (4096 bytes) more are needed");
        let error = choose(&Placement::On { pool: PoolId(3), strict: false }, 0, 1).unwrap_err();
        assert_eq!(error.kind, ErrorKind::DeviceState);
        assert!(error.message.contains("`off`"), "{error}");
    }

    #[test]
    fn prefer_goes_to_dram_when_it_is_full() {
        assert_eq!(choose(&Placement::Prefer(A), 0, 1_000), Ok(vec![run(0, 1_000, A)]));
        // Cut where a huge page ends.
        assert_eq!(
            choose(&Placement::Prefer(A), 100, 2_000),
            Ok(vec![run(100, 924, A), run(1024, 1_076, DRAM)])
        );
        assert_eq!(choose(&Placement::Prefer(B), 7, 3), Ok(vec![run(7, 3, DRAM)]));
        assert_eq!(choose(&Placement::Prefer(PoolId(3)), 7, 3), Ok(vec![run(7, 3, DRAM)]));
        assert_eq!(choose(&Placement::Prefer(B), 7, 10_001).unwrap_err().kind, ErrorKind::NoSpace);
        assert_eq!(choose(&Placement::Prefer(DRAM), 0, 10_001).unwrap_err().kind, ErrorKind::NoSpace);
    }

    #[test]
    fn a_pool_of_huge_pages_is_given_whole_ones_and_dram_no_more_than_is_asked_for() {
        // A has 1,000 free frames in huge pages: it has room for one of them.
        let huge = |pool| Room { unit: if pool == A { HUGE_PAGES } else { 1 }, ..room(pool) };
        let choose = |placement: &Placement, start, count| {
            placement.choose(PageRange::new(start, count), HUGE_PAGES, &huge, &name)
        };
        let on = Placement::On { pool: A, strict: false };
        assert_eq!(choose(&on, 5, 3), Ok(vec![run(0, 512, A)]));
        assert_eq!(choose(&on, 510, 3).unwrap_err().kind, ErrorKind::NoSpace);
        assert_eq!(choose(&Placement::Prefer(A), 0, 2), Ok(vec![run(0, 512, A)]));
        assert_eq!(choose(&Placement::Prefer(A), 0, 600), Ok(vec![run(0, 512, A), run(512, 88, DRAM)]));
        let both = Placement::Interleave(vec![DRAM, A]);
        assert_eq!(choose(&both, 0, 513), Ok(vec![run(0, 512, DRAM), run(512, 512, A)]));
    }

    #[test]
    fn interleave_takes_turns_by_place_in_the_file() {
        let both = Placement::Interleave(vec![A, DRAM]);
        assert_eq!(choose(&both, 500, 600), Ok(vec![run(500, 12, A), run(512, 512, DRAM), run(1024, 76, A)]));
        assert_eq!(choose(&Placement::Interleave(vec![DRAM, DRAM]), 500, 600), Ok(vec![run(500, 600, DRAM)]));
        let full = choose(&Placement::Interleave(vec![DRAM, B]), 500, 600).unwrap_err();
        assert_eq!(full.kind, ErrorKind::NoSpace);
        assert!(full.message.contains("pool `b`"), "{full}");
        assert_eq!(choose(&both, 0, 1 << 50).unwrap_err().kind, ErrorKind::NoSpace);
        let off = Placement::Interleave(vec![DRAM, PoolId(3)]);
        assert_eq!(choose(&off, 0, 600).unwrap_err().kind, ErrorKind::DeviceState);
        assert_eq!(choose(&Placement::Interleave(vec![]), 0, 1).unwrap_err().kind, ErrorKind::Invalid);
    }

    #[test]
    fn what_is_for_dram_is_said_apart() {
        let of = |placement: Placement, start, count| {
            placement.for_dram(PageRange::new(start, count), HUGE_PAGES, &room)
        };
        let on = |pool, strict| Placement::On { pool, strict };
        assert_eq!(of(on(DRAM, false), 3, 20_000), Some((vec![], PageRange::new(3, 20_000))));
        assert_eq!(of(on(DRAM, true), 3, 5), None);
        assert_eq!(of(on(A, false), 3, 5), None);
        assert_eq!(of(Placement::Prefer(A), 3, 5), None);
        let (before, rest) = of(Placement::Prefer(A), 100, 2_000).unwrap();
        assert_eq!((before, rest), (vec![run(100, 924, A)], PageRange::new(1024, 1_076)));
        assert_eq!(of(Placement::Interleave(vec![A, DRAM]), 0, 2_000), None);
        assert_eq!(of(Placement::Prefer(DRAM), 0, 0), None);
    }

    #[test]
    fn refuges_never_name_the_drained_pool() {
        assert_eq!(Placement::On { pool: A, strict: false }.refuges(A), [DRAM]);
        assert_eq!(Placement::Prefer(B).refuges(A), [B, DRAM]);
        assert_eq!(Placement::Interleave(vec![A, B, DRAM, B]).refuges(A), [B, DRAM]);
        assert!(!Placement::On { pool: A, strict: true }.may_leave(A));
        assert!(Placement::On { pool: A, strict: true }.may_leave(B));
    }
}
