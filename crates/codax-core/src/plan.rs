//! The plan of a drain: what goes where, and why it can't.

use crate::extent::PoolRun;
use crate::placement::Room;
use crate::{FileId, HUGE_PAGES, PageCount, PageRange, PoolId};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// A file with pages on the pool to be drained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The file.
    pub file: FileId,
    /// Its path, or `#id` for one without a name.
    pub path: String,
    /// Its pages on the pool.
    pub ranges: Vec<PageRange>,
    /// Where the pages may go, best first; empty if its placement forbids to take them away.
    pub refuges: Vec<PoolId>,
    /// Who holds it so that it can't be moved now.
    pub held: Vec<Holder>,
    /// Whether there were more refuges for one that need not outlive the power.
    pub volatile: bool,
    /// Whether some of it is there only for want of room in `dram`: that goes first.
    pub spilled: bool,
}

/// Somebody who holds a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// The process, if it is known.
    pub pid: Option<u32>,
    /// Its command name.
    pub command: String,
    /// Why that keeps the file from being moved: one clause ("pinned for DMA", "mapped without the library", "stopped: has not
    /// answered for 2.0 s").
    pub why: String,
}

/// One move of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMove {
    /// The file.
    pub file: FileId,
    /// Its path.
    pub path: String,
    /// Which pages go where.
    pub to: Vec<PoolRun>,
}

/// Why a drain can't be done now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    /// The rest has too little room.
    NoRoom {
        /// Bytes for which there is no place.
        missing: u64,
        /// Files they belong to.
        files: Vec<String>,
    },
    /// These files outlive the power, and where they could go they wouldn't.
    Volatile {
        /// Their paths.
        files: Vec<String>,
    },
    /// The placement of these files keeps them on the device.
    Placement {
        /// Their paths.
        files: Vec<String>,
    },
    /// So much of the device is lent to the rest of the system: a drain asks for it first.
    Lent {
        /// Bytes.
        bytes: u64,
    },
    /// Somebody holds a file that can't be moved now.
    Held {
        /// Its path.
        file: String,
        /// Who.
        by: Vec<Holder>,
    },
}

/// What a drain would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The moves, in the order in which they would be made.
    pub moves: Vec<PlannedMove>,
    /// Why it can't be done; empty if it can. Held files have their moves planned as well (`--wait` makes them once they are free).
    pub obstacles: Vec<Obstacle>,
    /// Frames that move.
    pub frames: PageCount,
}

/// Plans a drain: each candidate's pages to its first refuge that has room, what is there for an emergency first, and then the largest files. A file's pages may be spread over
/// several refuges, in runs of at least [`crate::HUGE_PAGES`] or whole, and in shorter ones only where it finds no place otherwise.
///
/// With [`Obstacle::NoRoom`] the moves are what there is room for: pages planned, missing and kept by a placement add up.
#[must_use]
pub fn plan_drain(mut candidates: Vec<Candidate>, room: &dyn Fn(PoolId) -> Room) -> Plan {
    // A file without pages may have some soon, as long as somebody holds it.
    candidates.retain(|candidate| pages(candidate) > 0 || !candidate.held.is_empty());
    candidates
        .sort_by_cached_key(|candidate| (!candidate.spilled, Reverse(pages(candidate)), candidate.file));
    let mut left = Left { room, pools: BTreeMap::new() };
    let mut plan = Plan::default();
    let (mut missing, mut homeless, mut kept, mut held) = (0, Vec::new(), Vec::new(), Vec::new());
    let mut fading = Vec::new();
    for candidate in candidates {
        let empty = pages(&candidate) == 0;
        let Candidate { file, path, ranges, refuges, held: by, volatile, .. } = candidate;
        if !by.is_empty() {
            held.push(Obstacle::Held { file: path.clone(), by });
        }
        if empty {
            continue;
        }
        if refuges.is_empty() && volatile {
            fading.push(path);
            continue;
        }
        if refuges.is_empty() {
            kept.push(path);
            continue;
        }
        let (mut to, mut rest) = left.place(&ranges, &refuges, HUGE_PAGES);
        if rest > 0 {
            to.iter().for_each(|run| *left.of(run.pool) += run.pages.count.0);
            (to, rest) = left.place(&ranges, &refuges, 1);
        }
        if rest > 0 && volatile {
            fading.push(path.clone());
        } else if rest > 0 {
            missing += rest;
            homeless.push(path.clone());
        }
        if !to.is_empty() {
            plan.frames.0 += to.iter().map(|run| run.pages.count.0).sum::<u64>();
            plan.moves.push(PlannedMove { file, path, to });
        }
    }
    if missing > 0 {
        plan.obstacles.push(Obstacle::NoRoom { missing: PageCount(missing).bytes(), files: homeless });
    }
    if !fading.is_empty() {
        plan.obstacles.push(Obstacle::Volatile { files: fading });
    }
    if !kept.is_empty() {
        plan.obstacles.push(Obstacle::Placement { files: kept });
    }
    plan.obstacles.extend(held);
    plan
}

/// Pages to be moved.
fn pages(candidate: &Candidate) -> u64 {
    candidate.ranges.iter().map(|range| range.count.0).sum()
}

/// Free frames that the plan has not given away yet.
struct Left<'a> {
    room: &'a dyn Fn(PoolId) -> Room,
    pools: BTreeMap<PoolId, u64>,
}

impl Left<'_> {
    /// Finds places for `ranges` in the pools `refuges`, in order. A range that is cut is cut at a multiple of `unit`, into pieces of at
    /// least `unit` pages. Returns the places and the number of pages that have none.
    fn place(&mut self, ranges: &[PageRange], refuges: &[PoolId], unit: u64) -> (Vec<PoolRun>, u64) {
        let (mut to, mut without) = (Vec::new(), 0);
        for range in ranges {
            let mut rest = *range;
            for &pool in refuges {
                let left = self.of(pool);
                let pages = front(rest, *left, unit);
                if pages > 0 {
                    *left -= pages;
                    to.push(PoolRun { pages: PageRange::new(rest.start.0, pages), pool });
                    rest = PageRange::new(rest.start.0 + pages, rest.count.0 - pages);
                }
            }
            without += rest.count.0;
        }
        (to, without)
    }

    fn of(&mut self, pool: PoolId) -> &mut u64 {
        self.pools.entry(pool).or_insert_with(|| {
            let room = (self.room)(pool);
            if room.online { room.free.0 } else { 0 }
        })
    }
}

/// How many pages from the front of `range` may go to where `free` frames are.
fn front(range: PageRange, free: u64, unit: u64) -> u64 {
    if range.count.0 <= free {
        return range.count.0;
    }
    // The cut leaves a unit on either side of it.
    let end = (range.start.0 + free).min(range.end().saturating_sub(unit)) / unit * unit;
    let pages = end.saturating_sub(range.start.0);
    if pages >= unit { pages } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DRAM;

    const SIM: PoolId = PoolId(1);

    fn candidate(file: u64, ranges: &[(u64, u64)], refuges: &[PoolId]) -> Candidate {
        Candidate {
            file: FileId(file),
            path: format!("/{file}"),
            ranges: ranges.iter().map(|&(start, count)| PageRange::new(start, count)).collect(),
            refuges: refuges.to_vec(),
            held: Vec::new(),
            volatile: false,
            spilled: false,
        }
    }

    fn room(dram: u64, sim: u64) -> impl Fn(PoolId) -> Room {
        move |pool| Room { free: PageCount(if pool == DRAM { dram } else { sim }), online: true, unit: 1 }
    }

    fn run(start: u64, count: u64, pool: PoolId) -> PoolRun {
        PoolRun { pages: PageRange::new(start, count), pool }
    }

    #[test]
    fn the_largest_goes_first() {
        let plan = plan_drain(
            vec![candidate(5, &[(0, 3)], &[DRAM]), candidate(6, &[(0, 9)], &[DRAM])],
            &room(12, 0),
        );
        assert_eq!(plan.moves.iter().map(|m| m.file.0).collect::<Vec<_>>(), [6, 5]);
        assert_eq!((plan.frames, plan.obstacles), (PageCount(12), vec![]));
        let spilled = Candidate { spilled: true, ..candidate(5, &[(0, 3)], &[DRAM]) };
        let plan = plan_drain(vec![spilled, candidate(6, &[(0, 9)], &[DRAM])], &room(12, 0));
        assert_eq!(plan.moves.iter().map(|m| m.file.0).collect::<Vec<_>>(), [5, 6], "but for an emergency's");
    }

    #[test]
    fn a_file_is_cut_at_huge_pages() {
        let plan = plan_drain(vec![candidate(5, &[(0, 2_000)], &[SIM, DRAM])], &room(2_000, 1_100));
        assert_eq!(plan.moves[0].to, [run(0, 1_024, SIM), run(1_024, 976, DRAM)]);
        // And elsewhere only when there is no other way.
        let plan = plan_drain(vec![candidate(5, &[(0, 2_000)], &[SIM, DRAM])], &room(900, 1_100));
        assert_eq!(plan.moves[0].to, [run(0, 1_100, SIM), run(1_100, 900, DRAM)]);
        assert_eq!(plan.obstacles, []);
        // Not into pieces shorter than a huge page.
        let plan = plan_drain(vec![candidate(5, &[(0, 1_000)], &[SIM, DRAM])], &room(1_000, 600));
        assert_eq!(plan.moves[0].to, [run(0, 1_000, DRAM)]);
    }

    #[test]
    fn what_is_missing_is_exact() {
        let plan = plan_drain(
            vec![candidate(5, &[(0, 1_000)], &[DRAM]), candidate(6, &[(0, 5)], &[DRAM])],
            &room(700, 0),
        );
        let files = vec!["/5".to_owned(), "/6".to_owned()];
        assert_eq!(plan.obstacles, [Obstacle::NoRoom { missing: 305 * 4096, files }]);
    }

    #[test]
    fn held_files_are_planned_and_kept_ones_are_not() {
        let holder = Holder { pid: Some(7), command: "dd".into(), why: "pinned for DMA".into() };
        let mut held = candidate(5, &[(0, 10)], &[DRAM]);
        held.held.push(holder.clone());
        let plan =
            plan_drain(vec![held, candidate(6, &[(0, 5)], &[]), candidate(7, &[], &[])], &room(100, 0));
        assert_eq!(plan.moves.len(), 1);
        assert_eq!(
            plan.obstacles,
            [
                Obstacle::Placement { files: vec!["/6".into()] },
                Obstacle::Held { file: "/5".into(), by: vec![holder] }
            ]
        );
    }

    #[test]
    fn a_refuge_that_takes_nothing_is_passed_over() {
        let off = |pool| Room { free: PageCount(100), online: pool == DRAM, unit: 1 };
        let plan = plan_drain(vec![candidate(5, &[(0, 10)], &[SIM, DRAM])], &off);
        assert_eq!(plan.moves[0].to, [run(0, 10, DRAM)]);
    }
}
