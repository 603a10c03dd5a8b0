//! The frame allocator of a pool.

use crate::Frame;
use crate::PageCount;
use crate::extent::FrameRun;
use std::collections::{BTreeMap, BTreeSet};

/// Which frames of a pool are free. All operations take O(log n) in the number of free runs, per run returned.
#[derive(Clone, Debug)]
pub struct FrameAllocator {
    capacity: u64,
    free: u64,
    /// Free runs, start to length. No two of them touch.
    by_start: BTreeMap<u64, u64>,
    /// The same runs as (length, start): the smallest that is large enough is one step away.
    by_len: BTreeSet<(u64, u64)>,
}

impl FrameAllocator {
    /// `frames` frames, all free.
    #[must_use]
    pub fn new(frames: u64) -> Self {
        let mut this =
            Self { capacity: frames, free: frames, by_start: BTreeMap::new(), by_len: BTreeSet::new() };
        this.insert(0, frames);
        this
    }

    /// Frames in all.
    #[must_use]
    pub fn capacity(&self) -> PageCount {
        PageCount(self.capacity)
    }

    /// Free frames.
    #[must_use]
    pub fn free(&self) -> PageCount {
        PageCount(self.free)
    }

    /// Takes `count` frames, in as few runs as it can, or none at all (`None`) if fewer are free. `near` asks for the frames from that
    /// number on first, so that a growing file stays in one run.
    pub fn allocate(&mut self, count: PageCount, near: Option<Frame>) -> Option<Vec<FrameRun>> {
        if count.0 > self.free {
            return None;
        }
        let mut left = count.0;
        let mut runs = Vec::new();
        let mut take = |this: &mut Self, run: (u64, u64), start: u64, left: &mut u64| {
            let count = (run.0 + run.1 - start).min(*left);
            this.carve(run, start, count);
            runs.push(FrameRun { frame: Frame(start), count: PageCount(count) });
            *left -= count;
        };
        if let Some(near) = near
            && let Some(run) = self.run_of(near.0)
            && left > 0
        {
            take(self, run, near.0, &mut left);
        }
        while left > 0 {
            // The best fit; where nothing fits, the largest there is: that makes the fewest runs.
            let best = self.by_len.range((left, 0)..).next().or_else(|| self.by_len.last());
            let Some(&(len, start)) = best else {
                unreachable!("{left} frames are counted as free and in no run")
            };
            take(self, (start, len), start, &mut left);
        }
        Some(runs)
    }

    /// Takes `count` frames in one run that begins at a multiple of `align`, or `None`. Where there is a choice, from a run in which `ahead` more follow them. Takes
    /// O(n) in the number of free runs.
    pub fn allocate_run(&mut self, count: PageCount, align: u64, ahead: PageCount) -> Option<FrameRun> {
        if count.0 == 0 {
            return Some(FrameRun { frame: Frame(0), count });
        }
        let wanted = count.0.saturating_add(ahead.0);
        let best = self.aligned(align, wanted).min_by_key(|(run, _)| run.1);
        // Not enough for all, but for these: then what comes after has the best chance in the largest.
        let (run, start) =
            best.or_else(|| self.aligned(align, count.0).max_by_key(|(run, start)| run.0 + run.1 - start))?;
        self.carve(run, start, count.0);
        Some(FrameRun { frame: Frame(start), count })
    }

    /// Takes `count` frames in runs that begin at multiples of `align`, but for one at `near` if that is given and free; or none at all (`None`). Takes O(n) in the number
    /// of free runs for each run.
    pub fn allocate_aligned(
        &mut self,
        count: PageCount,
        align: u64,
        near: Option<Frame>,
    ) -> Option<Vec<FrameRun>> {
        let mut left = count.0;
        let mut runs: Vec<FrameRun> = Vec::new();
        let mut next = near.and_then(|near| Some((self.run_of(near.0)?, near.0)));
        while left > 0 {
            let found = next.take().or_else(|| {
                let fits = self.aligned(align, left).min_by_key(|(run, _)| run.1);
                fits.or_else(|| self.aligned(align, 1).max_by_key(|(run, start)| run.0 + run.1 - start))
            });
            let Some((run, start)) = found else {
                runs.into_iter().for_each(|run| self.release(run));
                return None;
            };
            let count = (run.0 + run.1 - start).min(left);
            self.carve(run, start, count);
            runs.push(FrameRun { frame: Frame(start), count: PageCount(count) });
            left -= count;
        }
        Some(runs)
    }

    /// The longest run that [`FrameAllocator::allocate_run`] could take.
    #[must_use]
    pub fn longest(&self, align: u64) -> PageCount {
        let lengths = self.aligned(align, 1).map(|(run, start)| run.0 + run.1 - start);
        PageCount(lengths.max().unwrap_or(0))
    }

    /// What [`FrameAllocator::allocate_aligned`] could take in all.
    #[must_use]
    pub fn free_aligned(&self, align: u64) -> PageCount {
        PageCount(self.aligned(align, 1).map(|(run, start)| run.0 + run.1 - start).sum())
    }

    /// Free runs that have `count` frames from a multiple of `align` on, each with that.
    fn aligned(&self, align: u64, count: u64) -> impl Iterator<Item = ((u64, u64), u64)> {
        self.by_start.iter().filter_map(move |(&start, &len)| {
            let at = start.checked_next_multiple_of(align)?;
            let fits = (start + len).checked_sub(at)? >= count;
            fits.then_some(((start, len), at))
        })
    }

    /// Takes exactly these frames, as a restart does; `false` (and nothing changed) if one of them is not free or not of this pool.
    #[must_use]
    pub fn claim(&mut self, run: FrameRun) -> bool {
        let (start, count) = (run.frame.0, run.count.0);
        if count == 0 {
            return true;
        }
        match self.run_of(start) {
            Some(free) if count <= free.0 + free.1 - start => {
                self.carve(free, start, count);
                true
            }
            _ => false,
        }
    }

    /// Gives frames back. Panics if one of them is free already: that would be two owners soon.
    pub fn release(&mut self, run: FrameRun) {
        let (mut start, mut count) = (run.frame.0, run.count.0);
        if count == 0 {
            return;
        }
        let end = start.checked_add(count).filter(|&end| end <= self.capacity);
        let Some(end) = end else {
            panic!("frames {start}+{count} given back to a pool of {}", self.capacity)
        };
        let before = self.by_start.range(..end).next_back().map(|(&start, &len)| (start, len));
        if let Some((free_start, free_len)) = before {
            assert!(
                free_start + free_len <= start,
                "frames {start}+{count} given back, and some are free already"
            );
        }
        self.free += count;
        if let Some(before) = before
            && before.0 + before.1 == start
        {
            self.remove(before);
            (start, count) = (before.0, before.1 + count);
        }
        if let Some(&len) = self.by_start.get(&end) {
            self.remove((end, len));
            count += len;
        }
        self.insert(start, count);
    }

    /// Whether this frame is free.
    #[must_use]
    pub fn is_free(&self, frame: Frame) -> bool {
        self.run_of(frame.0).is_some()
    }

    /// The free run (start, length) that holds `frame`.
    fn run_of(&self, frame: u64) -> Option<(u64, u64)> {
        let (&start, &len) = self.by_start.range(..=frame).next_back()?;
        (frame - start < len).then_some((start, len))
    }

    /// Takes `start..start + count` out of the free run `run`, which holds all of it.
    fn carve(&mut self, run: (u64, u64), start: u64, count: u64) {
        self.remove(run);
        self.insert(run.0, start - run.0);
        self.insert(start + count, run.0 + run.1 - (start + count));
        self.free -= count;
    }

    fn insert(&mut self, start: u64, len: u64) {
        if len > 0 {
            self.by_start.insert(start, len);
            self.by_len.insert((len, start));
        }
    }

    fn remove(&mut self, (start, len): (u64, u64)) {
        self.by_start.remove(&start);
        self.by_len.remove(&(len, start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(frame: u64, count: u64) -> FrameRun {
        FrameRun { frame: Frame(frame), count: PageCount(count) }
    }

    /// 0..10 free, 10..12 taken, 12..17 free, 17 taken, 18..38 free.
    fn holes() -> FrameAllocator {
        let mut a = FrameAllocator::new(38);
        assert!(a.claim(run(10, 2)) && a.claim(run(17, 1)));
        a
    }

    #[test]
    fn takes_the_smallest_run_that_is_large_enough() {
        assert_eq!(holes().allocate(PageCount(4), None), Some(vec![run(12, 4)]));
        assert_eq!(holes().allocate(PageCount(10), None), Some(vec![run(0, 10)]));
        assert_eq!(holes().allocate(PageCount(11), None), Some(vec![run(18, 11)]));
    }

    #[test]
    fn takes_the_largest_runs_first_where_none_is_large_enough() {
        assert_eq!(holes().allocate(PageCount(24), None), Some(vec![run(18, 20), run(12, 4)]));
        assert_eq!(holes().allocate(PageCount(36), None), None);
    }

    #[test]
    fn goes_on_where_it_is_asked_to() {
        assert_eq!(holes().allocate(PageCount(3), Some(Frame(20))), Some(vec![run(20, 3)]));
        assert_eq!(holes().allocate(PageCount(8), Some(Frame(12))), Some(vec![run(12, 5), run(0, 3)]));
        assert_eq!(holes().allocate(PageCount(1), Some(Frame(10))), Some(vec![run(12, 1)]));
        assert_eq!(holes().allocate(PageCount(1), Some(Frame(99))), Some(vec![run(12, 1)]));
        assert_eq!(holes().allocate(PageCount(0), Some(Frame(12))), Some(vec![]));
    }

    #[test]
    fn a_run_is_aligned_and_in_one_piece_or_none() {
        let (count, none) = (PageCount, PageCount(0));
        assert_eq!(holes().allocate_run(count(10), 1, none), Some(run(0, 10)));
        assert_eq!(holes().allocate_run(count(4), 8, none), Some(run(0, 4)));
        assert_eq!(holes().allocate_run(count(12), 8, none), Some(run(24, 12)));
        assert_eq!(holes().allocate_run(count(2), 1, count(12)), Some(run(18, 2)));
        assert_eq!(holes().allocate_run(count(2), 1, count(90)), Some(run(18, 2)));
        assert_eq!(holes().allocate_run(count(15), 8, none), None);
        assert_eq!(holes().allocate_run(count(21), 1, none), None);
        assert_eq!(
            (holes().longest(1), holes().longest(8), holes().longest(64)),
            (count(20), count(14), count(10))
        );
    }

    #[test]
    fn aligned_runs_are_all_or_nothing() {
        let mut a = holes();
        assert_eq!(a.free_aligned(8), PageCount(10 + 1 + 14));
        assert_eq!(a.allocate_aligned(PageCount(26), 8, None), None);
        assert_eq!(a.free(), PageCount(35));
        let runs = a.allocate_aligned(PageCount(26), 8, Some(Frame(19)));
        assert_eq!(runs, Some(vec![run(19, 19), run(0, 7)]));
        assert_eq!(
            holes().allocate_aligned(PageCount(25), 8, None),
            Some(vec![run(24, 14), run(0, 10), run(16, 1)])
        );
    }

    #[test]
    fn claims_all_or_nothing() {
        let mut a = holes();
        assert!(!a.claim(run(8, 3)));
        assert!(!a.claim(run(36, 3)));
        assert!(!a.claim(run(20, u64::MAX)));
        assert!(!a.claim(run(u64::MAX, 2)));
        assert_eq!(a.free(), PageCount(35));
        assert!(a.claim(run(18, 20)));
    }

    #[test]
    #[should_panic(expected = "free already")]
    fn release_of_a_free_frame_panics() {
        holes().release(run(11, 2));
    }

    #[test]
    #[should_panic(expected = "given back to a pool of 38")]
    fn release_of_a_frame_that_is_not_there_panics() {
        holes().release(run(37, u64::MAX));
    }
}
