//! The frame allocator against a vector of booleans.

use codax_core::alloc::FrameAllocator;
use codax_core::extent::FrameRun;
use codax_core::{Frame, PageCount};
use proptest::prelude::*;

const FRAMES: u64 = 64;

#[derive(Clone, Debug)]
enum Op {
    Allocate {
        count: u64,
        near: Option<u64>,
    },
    Claim {
        frame: u64,
        count: u64,
    },
    /// Gives back the n-th of what is owned, or a part of it.
    Release {
        which: prop::sample::Index,
        part: prop::sample::Index,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..FRAMES / 4, prop::option::of(0..FRAMES + 8))
            .prop_map(|(count, near)| Op::Allocate { count, near }),
        (0..FRAMES + 4, 0..12u64).prop_map(|(frame, count)| Op::Claim { frame, count }),
        (any::<prop::sample::Index>(), any::<prop::sample::Index>())
            .prop_map(|(which, part)| Op::Release { which, part }),
    ]
}

/// `true` for a frame that is taken.
type Model = Vec<bool>;

fn range(run: FrameRun) -> std::ops::Range<usize> {
    let at = |frame: u64| usize::try_from(frame).unwrap();
    at(run.frame.0)..at(run.frame.0 + run.count.0)
}

/// Lengths of the free runs, the longest first.
fn free_runs(model: &Model) -> Vec<usize> {
    let mut runs: Vec<usize> = model.split(|&taken| taken).map(<[bool]>::len).collect();
    runs.sort_unstable_by(|a, b| b.cmp(a));
    runs
}

fn allocate(a: &mut FrameAllocator, model: &mut Model, count: u64, near: Option<u64>) -> Vec<FrameRun> {
    let wanted = usize::try_from(count).unwrap();
    let free = model.iter().filter(|&&taken| !taken).count();
    let Some(runs) = a.allocate(PageCount(count), near.map(Frame)) else {
        assert!(wanted > free, "{count} frames were refused and {free} are free");
        return Vec::new();
    };
    assert_eq!(runs.iter().map(|run| run.count.0).sum::<u64>(), count);
    let near_is_free = near.is_some_and(|near| {
        model.get(range(FrameRun { frame: Frame(near), count: PageCount(1) }).start) == Some(&false)
    });
    if count > 0 && near_is_free {
        assert_eq!(Some(runs[0].frame.0), near);
    } else {
        let lens = free_runs(model);
        let fewest = (0..=lens.len()).find(|&n| lens[..n].iter().sum::<usize>() >= wanted).unwrap();
        assert_eq!(runs.len(), fewest);
    }
    for &run in &runs {
        for taken in &mut model[range(run)] {
            assert!(!std::mem::replace(taken, true), "{run:?} has two owners");
        }
    }
    runs
}

proptest! {
    #[test]
    fn no_frame_ever_has_two_owners(ops in prop::collection::vec(op(), 1..60)) {
        let mut a = FrameAllocator::new(FRAMES);
        let mut model: Model = vec![false; usize::try_from(FRAMES).unwrap()];
        let mut owned: Vec<FrameRun> = Vec::new();
        for op in ops {
            match op {
                Op::Allocate { count, near } => owned.extend(allocate(&mut a, &mut model, count, near)),
                Op::Claim { frame, count } => {
                    let run = FrameRun { frame: Frame(frame), count: PageCount(count) };
                    let can = count == 0 || model.get(range(run)).is_some_and(|part| part.iter().all(|taken| !taken));
                    prop_assert_eq!(a.claim(run), can);
                    if can && count > 0 {
                        model[range(run)].fill(true);
                        owned.push(run);
                    }
                }
                Op::Release { which, part } if !owned.is_empty() => {
                    let run = owned.swap_remove(which.index(owned.len()));
                    let kept = part.index(range(run).len()) as u64;
                    if kept > 0 {
                        owned.push(FrameRun { count: PageCount(kept), ..run });
                    }
                    let back = FrameRun { frame: Frame(run.frame.0 + kept), count: PageCount(run.count.0 - kept) };
                    a.release(back);
                    model[range(back)].fill(false);
                }
                Op::Release { .. } => {}
            }
            prop_assert_eq!(a.free().0, model.iter().filter(|&&taken| !taken).count() as u64);
            for (frame, taken) in (0..).zip(&model) {
                prop_assert_eq!(a.is_free(Frame(frame)), !taken);
            }
            prop_assert!(!a.is_free(Frame(FRAMES)));
        }
        // All of it comes back, as one run.
        for run in owned {
            a.release(run);
        }
        prop_assert_eq!(a.allocate(PageCount(FRAMES), None), Some(vec![FrameRun { frame: Frame(0), count: PageCount(FRAMES) }]));
    }
}
