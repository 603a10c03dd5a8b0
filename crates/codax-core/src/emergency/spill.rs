//! Where pages go for which the first pool has no room.

use crate::extent::PoolRun;
use crate::{PageRange, PoolId};

/// A pool that may be used, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The pool.
    pub pool: PoolId,
    /// Frames of it that may be taken.
    pub frames: u64,
    /// What files have of it is whole units of so many pages.
    pub unit: u64,
}

/// The pages of `range` in the pools of `offers`, in their order: of each as many whole blocks as it has room for, and all that is left where it has room for that.
/// A run is whole units of its pool. `None` if they don't suffice.
#[must_use]
pub fn spill(range: PageRange, block: u64, offers: &[Offer]) -> Option<Vec<PoolRun>> {
    let mut runs = Vec::new();
    let mut rest = range;
    for offer in offers {
        let wide = rest.widened(offer.unit);
        let all = wide.count.0 <= offer.frames;
        // An extent costs every process that maps the file a mapped area, so none is cut within a block.
        let end = match all {
            true => rest.end(),
            false => (wide.start.0 + offer.frames) / block * block,
        };
        if end > rest.start.0 {
            let front = PageRange::new(rest.start.0, end - rest.start.0);
            runs.push(PoolRun { pages: front.widened(offer.unit), pool: offer.pool });
            rest = PageRange::new(end, rest.end() - end);
        }
        if all {
            return Some(runs);
        }
    }
    rest.is_empty().then_some(runs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DRAM, HUGE_PAGES};

    fn offer(pool: u16, frames: u64, unit: u64) -> Offer {
        Offer { pool: PoolId(pool), frames, unit }
    }

    fn run(start: u64, count: u64, pool: u16) -> PoolRun {
        PoolRun { pages: PageRange::new(start, count), pool: PoolId(pool) }
    }

    #[test]
    fn what_fits_stays_and_the_rest_goes_on() {
        let spill = |start, count, offers: &[Offer]| spill(PageRange::new(start, count), HUGE_PAGES, offers);
        let two = [offer(DRAM.0, 1300, 1), offer(1, 600, 1), offer(2, 5000, 1)];
        assert_eq!(spill(0, 1000, &two), Some(vec![run(0, 1000, 0)]));
        assert_eq!(spill(0, 2000, &two), Some(vec![run(0, 1024, 0), run(1024, 512, 1), run(1536, 464, 2)]));
        assert_eq!(spill(0, 7000, &two), None);
        assert_eq!(spill(7, 1, &[offer(0, 0, 1), offer(1, 1, 1)]), Some(vec![run(7, 1, 1)]));
        assert_eq!(spill(7, 1, &[offer(0, 0, 1)]), None);
        assert_eq!(spill(0, 513, &[offer(0, 600, 1), offer(1, 512, 512)]), Some(vec![run(0, 513, 0)]));
        assert_eq!(
            spill(0, 601, &[offer(0, 600, 1), offer(1, 512, 512)]),
            Some(vec![run(0, 512, 0), run(512, 512, 1)])
        );
    }

    proptest::proptest! {
        #[test]
        fn each_page_has_one_place_and_no_pool_gives_more_than_it_offers(
            start in 0_u64..3000, count in 1_u64..6000, frames in proptest::collection::vec((0_u64..3000, 0_usize..2), 1..5),
        ) {
            let offers: Vec<Offer> = frames.iter().enumerate()
                .map(|(at, &(frames, huge))| offer(u16::try_from(at).expect("few"), frames, [1, HUGE_PAGES][huge])).collect();
            let range = PageRange::new(start, count);
            if let Some(runs) = spill(range, HUGE_PAGES, &offers) {
                let mut at = start;
                for run in &runs {
                    // What is beyond is the rest of a unit, at the first page or behind the last.
                    proptest::prop_assert!(run.pages.start.0 <= at && run.pages.end() > at);
                    proptest::prop_assert!(run.pages.start.0 == at || at == start);
                    at = run.pages.end();
                    let offer = offers[usize::from(run.pool.0)];
                    proptest::prop_assert!(run.pages.count.0 <= offer.frames);
                    proptest::prop_assert_eq!(run.pages, run.pages.widened(offer.unit));
                }
                proptest::prop_assert!(at >= range.end());
                proptest::prop_assert!(runs.windows(2).all(|pair| pair[0].pool < pair[1].pool));
            }
        }
    }
}
