//! Where a ring is that a consumer takes over, found from the states of its slots.
//!
//! Of a position that was begun only who began it knows ([`Progress`]); what else was submitted waits. Somebody may have completed
//! any of it meanwhile (an [`Attendant`](super::Attendant)), and what came after it, in whichever order.
//!
//! A slot's *own* position is the first one of that slot that a consumer has not taken: the state says which. The next position
//! is the least of these. A slot whose own position is a lap behind the one that it has from the next on is a hole: it was completed
//! out of turn. More than a lap it can't be, since the slot of the next position, which is not free, keeps the submitter from
//! going on behind it.
#![forbid(unsafe_code)]

use super::consume::Progress;
use super::core::Core;
use super::layout::{CLOSED, Descriptor, Laps};
use super::shared::{Shared, Word};
use std::sync::atomic::Ordering;

/// After so many laps states are the same again.
const LAPS: u64 = 1 << 30;

/// Where a ring is.
#[derive(Debug)]
pub(super) struct Place {
    /// All before are complete.
    pub oldest: u64,
    /// The next to be taken.
    pub next: u64,
    /// Complete, from the next on.
    pub holes: Vec<u64>,
    /// Begun, and not complete.
    pub begun: Vec<(u64, Descriptor)>,
}

impl Place {
    /// Finds where a ring is, behind the progress that somebody has made or wherever its states say. `None` if it can't be there.
    pub(super) fn find<S: Shared>(core: &Core<S>, progress: Option<&Progress>) -> Option<Self> {
        let laps = core.laps;
        let slots = core.shared.slots().iter();
        let states: Vec<u32> = slots.map(|slot| slot.state.load(Ordering::Acquire) & !CLOSED).collect();
        let Some(progress) = progress else {
            // So early that no slot's own position is before.
            let from = (u64::from(states[0] >> 1) + LAPS - 2) * laps.slots();
            let found = Self::behind(laps, &states, from, Vec::new())?;
            return Some(found.lower(LAPS * laps.slots()));
        };
        let Progress { next, ref begun } = *progress;
        let mut known = vec![false; states.len()];
        for (position, _) in begun {
            let room = next.checked_sub(*position).is_some_and(|behind| (1..=laps.slots()).contains(&behind));
            if !room || std::mem::replace(&mut known[laps.slot(*position)], true) {
                return None;
            }
        }
        let still = |position: u64| states[laps.slot(position)] == laps.submitted(position);
        let begun = begun.iter().filter(|(position, _)| still(*position)).copied().collect();
        Self::behind(laps, &states, next, begun)
    }

    fn behind(laps: Laps, states: &[u32], from: u64, begun: Vec<(u64, Descriptor)>) -> Option<Self> {
        let slots = laps.slots();
        // What isn't this large doesn't come to its end while it is counted on.
        if from > u64::MAX / 2 {
            return None;
        }
        let mut own: Vec<Option<u64>> = vec![None; states.len()];
        begun.iter().for_each(|(at, _)| own[laps.slot(*at)] = Some(at + slots));
        for (slot, (own, state)) in
            own.iter_mut().zip(states).enumerate().filter(|(_, (own, _))| own.is_none())
        {
            let first = laps.first_of(slot, from);
            let gone = u64::from(state.wrapping_sub(laps.vacant(first)) & !CLOSED) / 2;
            // Else it is before.
            *own = (gone < LAPS / 2).then(|| first + gone * slots);
        }
        let own = own.into_iter().collect::<Option<Vec<u64>>>()?;
        let next = own.iter().copied().min()?;
        let mut holes = Vec::new();
        for (slot, own) in own.into_iter().enumerate() {
            // Not before `next`, which is the least of them.
            let first = laps.first_of(slot, next);
            match own - first {
                0 => {}
                behind if behind == slots => holes.push(first),
                _ => return None,
            }
        }
        let oldest = begun.iter().fold(next, |oldest, (position, _)| oldest.min(*position));
        Some(Self { oldest, next, holes, begun })
    }

    /// With positions that are so much lower, if they are higher than that.
    fn lower(mut self, by: u64) -> Self {
        if let Some(next) = self.next.checked_sub(by) {
            (self.oldest, self.next) = (next, next);
            self.holes.iter_mut().for_each(|hole| *hole -= by);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The states of a ring in which the positions before `end` were submitted and these are not complete.
    fn states(laps: Laps, end: u64, left: &[u64]) -> Vec<u32> {
        let own = |slot| {
            let next = laps.first_of(slot, end);
            let last = next.checked_sub(laps.slots()).filter(|last| left.contains(last));
            last.map_or_else(|| laps.vacant(next), |last| laps.submitted(last))
        };
        (0..crate::util::to_usize(laps.slots())).map(own).collect()
    }

    fn anywhere(laps: Laps, states: &[u32]) -> Option<Place> {
        let from = (u64::from(states[0] >> 1) + LAPS - 2) * laps.slots();
        Some(Place::behind(laps, states, from, Vec::new())?.lower(LAPS * laps.slots()))
    }

    #[test]
    fn a_ring_is_found_wherever_it_is_and_where_laps_begin_anew() {
        let laps = Laps::new(4);
        let all = LAPS * laps.slots();
        for end in [0, 1, 3, 4, 9, 1000, all - 5, all - 1, all, all + 2, 3 * all + 1] {
            for (left, holes) in
                [(vec![], vec![]), (vec![1], vec![]), (vec![4], vec![3, 2, 1]), (vec![4, 2], vec![3, 1])]
            {
                let left: Vec<u64> = left.iter().filter_map(|back| end.checked_sub(*back)).collect();
                let next = left.first().copied().unwrap_or(end);
                let found = anywhere(laps, &states(laps, end, &left)).unwrap();
                assert_eq!((found.next % all, found.oldest), (next % all, found.next), "{end}, {left:?}");
                if end >= 4 {
                    let mut found: Vec<u64> =
                        found.holes.iter().map(|hole| (hole % all).abs_diff(end % all)).collect();
                    found.sort_unstable_by(|a, b| b.cmp(a));
                    let away = |back: &u64| ((end - back) % all).abs_diff(end % all);
                    let mut holes: Vec<u64> = holes.iter().map(away).collect();
                    holes.sort_unstable_by(|a, b| b.cmp(a));
                    assert_eq!(found, holes, "{end}, {left:?}");
                }
            }
        }
    }

    #[test]
    fn what_no_ring_can_be_is_not_found() {
        let laps = Laps::new(4);
        let well = states(laps, 9, &[7, 8]);
        assert!(anywhere(laps, &well).is_some());
        for slot in 0..4 {
            for away in [6, 1 << 20, 1 << 30] {
                let mut bad = well.clone();
                bad[slot] = bad[slot].wrapping_add(away) & !CLOSED;
                assert!(anywhere(laps, &bad).is_none(), "{slot}: {away}");
            }
        }
    }
}
