//! Extent lists against one (pool, frame) for each page.

use codax_core::extent::{self, Extent};
use codax_core::{Frame, PageCount, PageNo, PageRange, PoolId};
use proptest::prelude::*;
use std::collections::BTreeMap;

const PAGES: u64 = 40;

/// Where each page is, from page 0 on.
type Model = Vec<(PoolId, u64)>;

/// Pages in runs: few pools and few first frames, so that runs often continue each other.
fn pages() -> impl Strategy<Value = Model> {
    prop::collection::vec((0..3u16, 0..4u64, 1..6u64), 0..8).prop_map(|runs| {
        let mut model = Model::new();
        for (pool, first, count) in runs {
            for _ in 0..count {
                // Frames follow pages, with one of a few distances.
                model.push((PoolId(pool), model.len() as u64 + first * 100));
            }
        }
        model.truncate(usize::try_from(PAGES).unwrap());
        model
    })
}

/// Extents of one page each, numbered from `start` on.
fn single(model: &[(PoolId, u64)], start: u64) -> Vec<Extent> {
    let one = |(page, &(pool, frame))| Extent {
        page: PageNo(page),
        count: PageCount(1),
        pool,
        frame: Frame(frame),
    };
    (start..).zip(model).map(one).collect()
}

/// The same, merged.
fn merged(model: &[(PoolId, u64)], start: u64) -> Vec<Extent> {
    extent::replace(&[], &single(model, start)).0
}

/// What the extents say of each page they cover.
fn expand(extents: &[Extent]) -> Vec<(u64, (PoolId, u64))> {
    let each =
        |e: &Extent| (0..e.count.0).map(|i| (e.page.0 + i, (e.pool, e.frame.0 + i))).collect::<Vec<_>>();
    extents.iter().flat_map(each).collect()
}

fn numbered(model: &[(PoolId, u64)], start: u64) -> Vec<(u64, (PoolId, u64))> {
    (start..).zip(model.iter().copied()).collect()
}

fn at(page: u64, model: &Model) -> usize {
    usize::try_from(page).unwrap().min(model.len())
}

fn is_merged(extents: &[Extent]) -> bool {
    extents.windows(2).all(|pair| {
        let continues = pair[0].pool == pair[1].pool && pair[0].frame.0 + pair[0].count.0 == pair[1].frame.0;
        pair[0].pages().end() == pair[1].page.0 && !continues
    })
}

proptest! {
    #[test]
    fn slice_is_what_lies_in_the_range(model in pages(), start in 0..PAGES + 5, count in 0..PAGES) {
        let extents = merged(&model, 0);
        let expected = &model[at(start, &model)..at(start + count, &model)];
        let part = extent::slice(&extents, PageRange::new(start, count));
        prop_assert_eq!(expand(&part), numbered(expected, start));
        prop_assert!(is_merged(&part));
    }

    #[test]
    fn replace_takes_over_and_returns_the_rest(model in pages(), new in pages(), start in 0..PAGES) {
        // New pages may overlap the end, but leave no gap.
        let start = start.min(model.len() as u64);
        let (result, replaced) = extent::replace(&merged(&model, 0), &single(&new, start));
        let end = at(start + new.len() as u64, &model);
        let mut expected = model.clone();
        let old: Model = expected.splice(at(start, &model)..end, new).collect();
        prop_assert_eq!(expand(&result), numbered(&expected, 0));
        prop_assert_eq!(expand(&replaced), numbered(&old, start));
        prop_assert!(is_merged(&result));
    }

    #[test]
    fn truncate_cuts_off_the_end(model in pages(), pages in 0..PAGES + 5) {
        let mut extents = merged(&model, 0);
        let cut_off = extent::truncate(&mut extents, PageCount(pages));
        let (kept, cut) = model.split_at(at(pages, &model));
        prop_assert_eq!(expand(&extents), numbered(kept, 0));
        prop_assert_eq!(expand(&cut_off), numbered(cut, kept.len() as u64));
    }

    #[test]
    fn holes_are_filled_and_made(files in prop::collection::vec((pages(), 0..PAGES, 0..PAGES, any::<bool>()), 1..8)) {
        let mut extents: Vec<Extent> = Vec::new();
        let mut model: BTreeMap<u64, (PoolId, u64)> = BTreeMap::new();
        for (new, start, count, punch) in files {
            let range = PageRange::new(start, count);
            if punch {
                let (left, cut) = extent::remove(&extents, range);
                let gone: Vec<_> = model.range(start..start + count).map(|(page, at)| (*page, *at)).collect();
                model.retain(|page, _| !(start..start + count).contains(page));
                prop_assert_eq!(expand(&cut), gone);
                extents = left;
            } else {
                // Only into the holes, which is several runs with gaps between them.
                let holes = extent::gaps(&extents, PageRange::new(start, new.len() as u64));
                let fresh: Vec<Extent> = single(&new, start)
                    .into_iter()
                    .filter(|e| holes.iter().any(|hole| hole.intersect(e.pages()).is_some()))
                    .collect();
                model.extend(expand(&fresh));
                extents = extent::insert(&extents, &fresh);
            }
            prop_assert_eq!(expand(&extents), model.iter().map(|(page, at)| (*page, *at)).collect::<Vec<_>>());
            let gaps = extent::gaps(&extents, range);
            let holes: Vec<u64> = gaps.iter().flat_map(|gap| gap.start.0..gap.end()).collect();
            prop_assert_eq!(holes, (start..start + count).filter(|page| !model.contains_key(page)).collect::<Vec<_>>());
            prop_assert!(gaps.windows(2).all(|pair| pair[0].end() < pair[1].start.0));
            let before = model.range(..start).next_back().map(|(page, _)| *page);
            prop_assert_eq!(extent::before(&extents, PageNo(start)).map(|e| e.pages().end() > before.unwrap_or(0)), before.map(|_| true));
        }
    }

    #[test]
    fn pool_runs_are_as_few_as_can_be(model in pages()) {
        let runs = extent::pool_runs(&merged(&model, 0));
        let pools: Vec<PoolId> = runs.iter().flat_map(|run| (0..run.pages.count.0).map(|_| run.pool)).collect();
        prop_assert_eq!(pools, model.iter().map(|page| page.0).collect::<Vec<_>>());
        prop_assert!(runs.windows(2).all(|pair| pair[0].pages.end() == pair[1].pages.start.0 && pair[0].pool != pair[1].pool));
    }
}
