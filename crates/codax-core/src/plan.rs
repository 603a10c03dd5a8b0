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
    /// Its pages on the pool, but for those that are there for want of room in `dram`.
    pub ranges: Vec<PageRange>,
    /// Where the pages may go, best first; empty if its placement forbids to take them away.
    pub refuges: Vec<PoolId>,
    /// Who holds it so that it can't be moved now.
    pub held: Vec<Holder>,
    /// Whether there were more refuges for one that need not outlive the power.
    pub volatile: bool,
    /// What is there for want of room in `dram`.
    pub spilled: Spilled,
}

/// Pages that are on a device for want of room in `dram`, and where they may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spilled {
    /// The pages.
    pub ranges: Vec<PageRange>,
    /// Where they would be but for that, best first.
    pub refuges: Vec<PoolId>,
    /// Devices that help out where there is no room, the cheapest first.
    pub helpers: Vec<PoolId>,
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

impl Plan {
    /// All that the drain would have to move, whether there is room for it or not.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let missing = self.obstacles.iter().map(|obstacle| match obstacle {
            Obstacle::NoRoom { missing, .. } => *missing,
            _ => 0,
        });
        self.frames.bytes() + missing.sum::<u64>()
    }
}

/// Plans a drain: each candidate's pages to its first refuge that has room, the largest files first; then what is there for an emergency, which goes to devices that
/// help out where no refuge has room, and is moved before all else. A file's pages may be spread over several refuges, in runs of at least [`crate::HUGE_PAGES`] or
/// whole, and in shorter ones only where it finds no place otherwise. `help` is how many frames of each device may help out.
///
/// With [`Obstacle::NoRoom`] the moves are what there is room for: pages planned, missing and kept by a placement add up.
#[must_use]
pub fn plan_drain(
    mut candidates: Vec<Candidate>,
    room: &dyn Fn(PoolId) -> Room,
    help: &BTreeMap<PoolId, u64>,
) -> Plan {
    // A file without pages may have some soon, as long as somebody holds it.
    candidates.retain(|candidate| candidate.pages() > 0 || !candidate.held.is_empty());
    candidates.sort_by_cached_key(|c| (c.spilled.ranges.is_empty(), Reverse(c.pages()), c.file));
    let mut left = Left { room, pools: BTreeMap::new(), help: help.clone() };
    let named: Vec<Places> = candidates.iter().map(|c| left.place_all(&c.ranges, &c.refuges, &[])).collect();
    let mut fates = Fates::default();
    for (candidate, named) in candidates.into_iter().zip(named) {
        let Spilled { ranges, refuges, helpers } = &candidate.spilled;
        let spilled = left.place_all(ranges, refuges, helpers);
        fates.add(candidate, named, spilled);
    }
    fates.plan()
}

impl Candidate {
    /// Pages to be moved.
    fn pages(&self) -> u64 {
        count(&self.ranges) + count(&self.spilled.ranges)
    }
}

fn count(ranges: &[PageRange]) -> u64 {
    ranges.iter().map(|range| range.count.0).sum()
}

/// What becomes of the candidates.
#[derive(Default)]
struct Fates {
    moves: Vec<PlannedMove>,
    missing: u64,
    homeless: Vec<String>,
    fading: Vec<String>,
    kept: Vec<String>,
    held: Vec<Obstacle>,
}

impl Fates {
    fn add(&mut self, candidate: Candidate, named: Places, spilled: Places) {
        let Candidate { file, path, refuges, held: by, volatile, .. } = candidate;
        if !by.is_empty() {
            self.held.push(Obstacle::Held { file: path.clone(), by });
        }
        let mut without = spilled.without;
        match named.without {
            0 => {}
            _ if volatile => self.fading.push(path.clone()),
            _ if refuges.is_empty() => self.kept.push(path.clone()),
            more => without += more,
        }
        if without > 0 {
            self.missing += without;
            self.homeless.push(path.clone());
        }
        let mut to = named.to;
        to.extend(spilled.to);
        to.sort_by_key(|run| run.pages.start);
        if !to.is_empty() {
            self.moves.push(PlannedMove { file, path, to });
        }
    }

    fn plan(self) -> Plan {
        let Self { moves, missing, homeless, fading, kept, held } = self;
        let runs = moves.iter().flat_map(|planned| &planned.to);
        let frames = PageCount(runs.map(|run| run.pages.count.0).sum());
        let missing = PageCount(missing).bytes();
        let mut obstacles = Vec::new();
        obstacles.extend((missing > 0).then_some(Obstacle::NoRoom { missing, files: homeless }));
        obstacles.extend((!fading.is_empty()).then_some(Obstacle::Volatile { files: fading }));
        obstacles.extend((!kept.is_empty()).then_some(Obstacle::Placement { files: kept }));
        obstacles.extend(held);
        Plan { moves, obstacles, frames }
    }
}

/// Where pages go, and how many find no place.
#[derive(Default)]
struct Places {
    to: Vec<PoolRun>,
    without: u64,
}

/// Free frames that the plan has not given away yet.
struct Left<'a> {
    room: &'a dyn Fn(PoolId) -> Room,
    pools: BTreeMap<PoolId, u64>,
    /// Those with which devices may help out.
    help: BTreeMap<PoolId, u64>,
}

impl Left<'_> {
    /// Finds places for `ranges` in the pools `refuges`, in order, and then in those that help out; in whole huge pages, if so all find one.
    fn place_all(&mut self, ranges: &[PageRange], refuges: &[PoolId], helpers: &[PoolId]) -> Places {
        let before = (self.pools.clone(), self.help.clone());
        let places = self.place(ranges, (refuges, helpers), HUGE_PAGES);
        if places.without == 0 {
            return places;
        }
        (self.pools, self.help) = before;
        self.place(ranges, (refuges, helpers), 1)
    }

    /// A range that is cut is cut at a multiple of `unit`, into pieces of at least `unit` pages.
    fn place(
        &mut self,
        ranges: &[PageRange],
        (refuges, helpers): (&[PoolId], &[PoolId]),
        unit: u64,
    ) -> Places {
        let mut places = Places::default();
        for range in ranges {
            let mut rest = *range;
            let refuges = refuges.iter().map(|&pool| (pool, false));
            for (pool, helps) in refuges.chain(helpers.iter().map(|&pool| (pool, true))) {
                let pages = front(rest, self.of(pool, helps), unit);
                if pages > 0 {
                    self.take(pool, helps, pages);
                    places.to.push(PoolRun { pages: PageRange::new(rest.start.0, pages), pool });
                    rest = PageRange::new(rest.start.0 + pages, rest.count.0 - pages);
                }
            }
            places.without += rest.count.0;
        }
        places
    }

    /// Frames of a pool that may be given away.
    fn of(&mut self, pool: PoolId, helps: bool) -> u64 {
        let left = *self.pools.entry(pool).or_insert_with(|| {
            let room = (self.room)(pool);
            if room.online { room.free.0 } else { 0 }
        });
        match helps {
            true => left.min(self.help.get(&pool).copied().unwrap_or(0)),
            false => left,
        }
    }

    fn take(&mut self, pool: PoolId, helps: bool, pages: u64) {
        self.pools.entry(pool).and_modify(|left| *left -= pages);
        if helps {
            self.help.entry(pool).and_modify(|left| *left -= pages);
        }
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
            spilled: Spilled::default(),
        }
    }

    /// The same of pages that are there for want of room in `dram`, of which another device may take some.
    fn spilled(file: u64, ranges: &[(u64, u64)]) -> Candidate {
        let Candidate { ranges, .. } = candidate(file, ranges, &[]);
        let spilled = Spilled { ranges, refuges: vec![DRAM], helpers: vec![SIM] };
        Candidate { spilled, ..candidate(file, &[], &[DRAM]) }
    }

    fn plan_drain(candidates: Vec<Candidate>, room: &dyn Fn(PoolId) -> Room) -> Plan {
        super::plan_drain(candidates, room, &BTreeMap::new())
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
        let plan = plan_drain(vec![spilled(5, &[(0, 3)]), candidate(6, &[(0, 9)], &[DRAM])], &room(12, 0));
        assert_eq!(plan.moves.iter().map(|m| m.file.0).collect::<Vec<_>>(), [5, 6], "but for an emergency's");
    }

    #[test]
    fn what_spilled_leaves_dram_to_the_others_and_goes_where_a_device_helps_out() {
        let files = || vec![spilled(5, &[(0, 6)]), candidate(6, &[(0, 9)], &[DRAM])];
        let help = |frames| BTreeMap::from([(SIM, frames)]);
        let plan = super::plan_drain(files(), &room(12, 100), &help(3));
        let to = |plan: &Plan| plan.moves.iter().map(|m| m.to.clone()).collect::<Vec<_>>();
        assert_eq!(to(&plan), [vec![run(0, 3, DRAM), run(3, 3, SIM)], vec![run(0, 9, DRAM)]]);
        assert_eq!((plan.frames, plan.obstacles), (PageCount(15), vec![]));
        // No more than it may, and than it has.
        for (sim, may) in [(100, 2), (2, 100)] {
            let plan = super::plan_drain(files(), &room(12, sim), &help(may));
            assert_eq!(plan.obstacles, [Obstacle::NoRoom { missing: 4096, files: vec!["/5".into()] }]);
        }
        // Pages that are there by name don't, of the same file either.
        let both = Candidate { ranges: vec![PageRange::new(6, 2)], ..spilled(5, &[(0, 6)]) };
        let plan = super::plan_drain(vec![both.clone()], &room(2, 100), &help(100));
        assert_eq!(to(&plan), [vec![run(0, 6, SIM), run(6, 2, DRAM)]]);
        let plan = super::plan_drain(vec![both], &room(1, 100), &help(100));
        assert_eq!(plan.obstacles, [Obstacle::NoRoom { missing: 4096, files: vec!["/5".into()] }]);
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
