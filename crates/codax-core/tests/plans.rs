//! Plans of drains and placements against what must hold for each of them.

use codax_core::placement::{Placement, Room};
use codax_core::plan::{Candidate, Holder, Obstacle, Plan, Spilled, plan_drain};
use codax_core::{DRAM, FileId, PAGE_SIZE, PageCount, PageRange, PoolId};
use proptest::prelude::*;
use std::collections::BTreeMap;

const POOLS: u16 = 4;

fn rooms() -> impl Strategy<Value = Vec<Room>> {
    let room = (0..4_000u64, prop::bool::weighted(0.8)).prop_map(|(free, online)| Room {
        free: PageCount(free),
        online,
        unit: 1,
    });
    prop::collection::vec(room, usize::from(POOLS))
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let ranges = prop::collection::vec((0..700u64, 1..1_500u64), 0..4);
    let refuges =
        prop::sample::subsequence((0..POOLS).map(PoolId).collect::<Vec<_>>(), 0..=usize::from(POOLS))
            .prop_shuffle();
    prop::collection::vec((ranges, refuges, prop::bool::weighted(0.2)), 0..8).prop_map(|all| {
        let make = |(file, (ranges, refuges, held))| {
            let mut page = 0;
            let range = |(gap, count)| {
                let range = PageRange::new(page + gap, count);
                page = range.end();
                range
            };
            let holder = Holder { pid: Some(7), command: "dd".into(), why: "pinned for DMA".into() };
            Candidate {
                file: FileId(file),
                path: format!("/{file}"),
                ranges: Vec::into_iter(ranges).map(range).collect(),
                refuges,
                held: vec![holder; usize::from(held)],
                volatile: false,
                spilled: Spilled::default(),
            }
        };
        (10..).zip(all).map(make).collect()
    })
}

fn pages(ranges: &[PageRange]) -> u64 {
    ranges.iter().map(|range| range.count.0).sum()
}

/// Free frames that may be given out.
fn usable(room: Room) -> u64 {
    if room.online { room.free.0 } else { 0 }
}

/// Missing pages, the paths that lack room, the paths that a placement keeps, and the paths that are held.
fn obstacles(plan: &Plan) -> (u64, Vec<String>, Vec<String>, Vec<String>) {
    let mut all = (0, Vec::new(), Vec::new(), Vec::new());
    for obstacle in &plan.obstacles {
        match obstacle {
            Obstacle::NoRoom { missing, files } => {
                assert_eq!(missing % PAGE_SIZE, 0);
                (all.0, all.1) = (missing / PAGE_SIZE, files.clone());
            }
            Obstacle::Volatile { files } => panic!("nothing outlives the power here: {files:?}"),
            Obstacle::Lent { bytes } => panic!("no plan of frames knows of {bytes} that are lent"),
            Obstacle::Placement { files } => all.2.clone_from(files),
            Obstacle::Held { file, by } => {
                assert!(!by.is_empty());
                all.3.push(file.clone());
            }
        }
    }
    all
}

proptest! {
    #[test]
    fn a_plan_of_a_drain_is_sound(candidates in candidates(), rooms in rooms()) {
        let plan = plan_drain(candidates.clone(), &|pool| rooms[usize::from(pool.0)], &BTreeMap::new());
        let (missing, homeless, kept, held) = obstacles(&plan);
        let mut given: BTreeMap<PoolId, u64> = BTreeMap::new();
        let mut sizes = Vec::new();
        for planned in &plan.moves {
            let candidate = candidates.iter().find(|c| c.file == planned.file).unwrap();
            prop_assert_eq!(&planned.path, &candidate.path);
            sizes.push(pages(&candidate.ranges));
            let mut end = 0;
            for run in &planned.to {
                *given.entry(run.pool).or_default() += run.pages.count.0;
                prop_assert!(candidate.refuges.contains(&run.pool));
                // In order, so no page twice; and within one of the file's ranges.
                prop_assert!(run.pages.start.0 >= end && !run.pages.is_empty());
                end = run.pages.end();
                prop_assert!(candidate.ranges.iter().any(|range| range.intersect(run.pages) == Some(run.pages)));
            }
        }
        prop_assert!(sizes.is_sorted_by(|a, b| a >= b));
        for (pool, given) in &given {
            prop_assert!(*given <= usable(rooms[usize::from(pool.0)]));
        }
        prop_assert_eq!(plan.frames.0, given.values().sum::<u64>());
        let mut forbidden = 0;
        for candidate in candidates.iter().filter(|c| pages(&c.ranges) > 0) {
            let planned: Vec<_> = plan.moves.iter().filter(|m| m.file == candidate.file).collect();
            prop_assert!(planned.len() <= 1);
            let count: u64 = planned.iter().flat_map(|m| &m.to).map(|run| run.pages.count.0).sum();
            if candidate.refuges.is_empty() {
                forbidden += pages(&candidate.ranges);
                prop_assert!(kept.contains(&candidate.path) && count == 0);
            } else {
                prop_assert_eq!(count < pages(&candidate.ranges), homeless.contains(&candidate.path));
            }
            prop_assert_eq!(held.contains(&candidate.path), !candidate.held.is_empty());
        }
        let total: u64 = candidates.iter().map(|c| pages(&c.ranges)).sum();
        prop_assert_eq!(plan.frames.0 + missing + forbidden, total);
    }

    #[test]
    fn what_fits_into_dram_is_never_refused(mut candidates in candidates(), rooms in rooms(), spare in -3..3i64) {
        for candidate in &mut candidates {
            candidate.refuges = vec![DRAM];
        }
        let total: u64 = candidates.iter().map(|c| pages(&c.ranges)).sum();
        let free = total.saturating_add_signed(spare);
        let plan = plan_drain(candidates, &|pool| if pool == DRAM { Room { free: PageCount(free), online: true, unit: 1 } } else { rooms[1] }, &BTreeMap::new());
        prop_assert_eq!(obstacles(&plan).0, total.saturating_sub(free));
    }

    #[test]
    fn a_placement_covers_the_range_and_fits(which in 0..3u8, pools in prop::collection::vec(0..POOLS, 1..4), start in 0..2_000u64, count in 0..5_000u64, rooms in rooms()) {
        let pools: Vec<PoolId> = pools.into_iter().map(PoolId).collect();
        let placement = match which {
            0 => Placement::On { pool: pools[0], strict: false },
            1 => Placement::Prefer(pools[0]),
            _ => Placement::Interleave(pools.clone()),
        };
        let Ok(runs) = placement.choose(PageRange::new(start, count), codax_core::HUGE_PAGES, &|pool| rooms[usize::from(pool.0)], &|pool| pool.to_string()) else {
            // Everything in one pool that has room is never refused.
            prop_assert!(which == 2 || usable(rooms[usize::from(pools[0].0)]) < count);
            return Ok(());
        };
        let mut page = start;
        let mut given = [0; POOLS as usize];
        for run in &runs {
            prop_assert_eq!(run.pages.start.0, page);
            page = run.pages.end();
            given[usize::from(run.pool.0)] += run.pages.count.0;
            // Nothing is on a device that wasn't asked for.
            prop_assert!(pools.contains(&run.pool) || which == 1 && run.pool == DRAM);
        }
        prop_assert_eq!(page, start + count);
        for (given, room) in given.into_iter().zip(rooms) {
            prop_assert!(given <= usable(room));
        }
    }
}
