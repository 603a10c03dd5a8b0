//! What a mapping shows, run by run: where the bytes are, and how they are made durable there.

use codax_core::extent::PoolRun;
use codax_core::request::{Layout, OnDevice};
use codax_core::{PageCount, PageRange, PoolId};

/// How what is stored in a run is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durable {
    /// Not at all: its pool keeps nothing without power.
    Never,
    /// Its cache lines are written back.
    ByLines,
    /// By msync(2).
    ByPages,
}

impl Durable {
    /// What holds for a mapping of a pool that outlives the power, or not; `lines`: it was mapped with `MAP_SYNC`, or is one of a DAX device.
    pub(crate) fn of(persistent: bool, lines: bool) -> Self {
        match (persistent, lines) {
            (false, _) => Self::Never,
            (true, true) => Self::ByLines,
            (true, false) => Self::ByPages,
        }
    }
}

/// Pages of a file that a mapping shows from consecutive places of one object or device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) pages: PageRange,
    pub(crate) pool: PoolId,
    pub(crate) durable: Durable,
    /// The byte of the device at which the first page is; an object has its pages where the file has them.
    pub(crate) device_at: Option<u64>,
}

impl Run {
    /// Where in its object or device the first page is.
    pub(crate) fn offset(&self) -> u64 {
        self.device_at.unwrap_or(self.pages.offset())
    }

    /// What of it is in `pages`.
    pub(crate) fn cut(&self, pages: PageRange) -> Option<Self> {
        let pages = pages.intersect(self.pages)?;
        let skipped = pages.offset() - self.pages.offset();
        Some(Self { pages, device_at: self.device_at.map(|at| at + skipped), ..*self })
    }

    /// Whether `next` goes on where it ends, in the file and on the medium.
    fn goes_on_in(&self, next: &Self) -> bool {
        self.pages.end() == next.pages.start.0
            && (self.pool, self.durable) == (next.pool, next.durable)
            && self.device_at.map(|at| at + self.pages.bytes()) == next.device_at
    }
}

/// The runs that show these pages of a file, so far as they are known not to be durable; `None` where the layout has gaps.
///
/// Behind the file's end an object is mapped on, since it may grow there. Of a device that is only what the layout says: what is beside it is others'.
pub(crate) fn of_layout(layout: &Layout, pages: PageRange) -> Option<Vec<Run>> {
    let mut runs = Vec::new();
    for run in &layout.runs {
        if !layout.devices.iter().any(|device| device.pool == run.pool) {
            runs.push(Run { pages: run.pages, pool: run.pool, durable: Durable::Never, device_at: None });
        }
    }
    runs.extend(layout.devices.iter().flat_map(|device| of_device(device, device.pool, Durable::Never)));
    runs.sort_by_key(|run| run.pages.start);
    if let Some(last) = runs.last_mut().filter(|last| last.device_at.is_none()) {
        last.pages.count.0 = last.pages.count.0.max(pages.end().saturating_sub(last.pages.start.0));
    }
    let runs = joined(runs.iter().filter_map(|run| run.cut(pages)));
    let mut reached = pages.start.0;
    for run in &runs {
        if run.pages.start.0 != reached {
            return None;
        }
        reached = run.pages.end();
    }
    (reached >= pages.end().min(PageCount::for_bytes(layout.len).0)).then_some(runs)
}

/// The runs on a device, which is `pool`, in the order of pages.
pub(crate) fn of_device(device: &OnDevice, pool: PoolId, durable: Durable) -> Vec<Run> {
    let run = |run: &codax_core::request::DeviceRun| Run {
        pages: run.pages,
        pool,
        durable,
        device_at: Some(run.at),
    };
    let mut runs: Vec<Run> = device.runs.iter().map(run).collect();
    runs.sort_by_key(|run| run.pages.start);
    joined(runs)
}

/// `runs` with `pages` taken over by `new`, which are all that is left there.
pub(crate) fn reassigned(runs: &[Run], pages: PageRange, new: &[Run]) -> Vec<Run> {
    let mut parts = new.to_vec();
    parts.extend(runs.iter().flat_map(|run| run.pages.without(pages).filter_map(|pages| run.cut(pages))));
    parts.sort_by_key(|run| run.pages.start);
    joined(parts)
}

/// Runs in the order of pages, of which each that goes on where the one before it ends is one with it.
fn joined(runs: impl IntoIterator<Item = Run>) -> Vec<Run> {
    let mut all: Vec<Run> = Vec::new();
    for run in runs {
        match all.last_mut() {
            Some(last) if last.goes_on_in(&run) => last.pages.count.0 += run.pages.count.0,
            _ => all.push(run),
        }
    }
    all
}

/// What the daemon is told of runs, which may be of several mappings: in the order of pages, none twice, neighbours of one pool merged. Runs that
/// overlap agree.
pub(crate) fn united(mut runs: Vec<PoolRun>) -> Vec<PoolRun> {
    runs.sort_by_key(|run| run.pages.start);
    let mut all: Vec<PoolRun> = Vec::with_capacity(runs.len());
    for run in runs {
        let covered = all.last().map_or(0, |last| last.pages.end());
        let start = run.pages.start.0.max(covered);
        if start >= run.pages.end() {
            continue;
        }
        let pages = PageRange::new(start, run.pages.end() - start);
        match all.last_mut() {
            Some(last) if last.pool == run.pool && last.pages.end() == start => {
                last.pages.count.0 += pages.count.0;
            }
            _ => all.push(PoolRun { pages, pool: run.pool }),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_core::request::DeviceRun;

    fn told(start: u64, count: u64, pool: u16) -> PoolRun {
        PoolRun { pages: PageRange::new(start, count), pool: PoolId(pool) }
    }

    fn run(start: u64, count: u64, pool: u16) -> Run {
        let PoolRun { pages, pool } = told(start, count, pool);
        Run { pages, pool, durable: Durable::Never, device_at: None }
    }

    fn on_device(start: u64, count: u64, pool: u16, at: u64) -> Run {
        Run { device_at: Some(at), ..run(start, count, pool) }
    }

    fn layout(len: u64, runs: &[PoolRun], places: &[(u64, u64, u64)]) -> Layout {
        let place =
            |&(start, count, at): &(u64, u64, u64)| DeviceRun { pages: PageRange::new(start, count), at };
        let devices = match places {
            [] => Vec::new(),
            _ => vec![OnDevice {
                pool: PoolId(7),
                runs: places.iter().map(place).collect(),
                ..OnDevice::default()
            }],
        };
        Layout { len, runs: runs.to_vec(), block: 1, devices, persistent: Vec::new() }
    }

    #[test]
    fn a_switched_chunk_takes_over_its_pages_and_neighbours_merge() {
        let pages = PageRange::new;
        let runs = reassigned(&[run(0, 10, 0)], pages(2, 3), &[run(2, 3, 1)]);
        assert_eq!(runs, [run(0, 2, 0), run(2, 3, 1), run(5, 5, 0)]);
        let runs = reassigned(&runs, pages(0, 2), &[run(0, 2, 1)]);
        assert_eq!(runs, [run(0, 5, 1), run(5, 5, 0)]);
        assert_eq!(reassigned(&runs, pages(0, 10), &[run(0, 10, 0)]), [run(0, 10, 0)]);
    }

    #[test]
    fn runs_on_a_device_merge_where_they_go_on_there() {
        let pages = PageRange::new;
        let new = [on_device(2, 2, 7, 1 << 20), on_device(4, 2, 7, 0)];
        let runs = reassigned(&[run(0, 10, 0)], pages(2, 4), &new);
        assert_eq!(runs, [run(0, 2, 0), on_device(2, 2, 7, 1 << 20), on_device(4, 2, 7, 0), run(6, 4, 0)]);
        let runs = reassigned(&runs, pages(6, 1), &[on_device(6, 1, 7, 2 * 4096)]);
        assert_eq!(runs[2..], [on_device(4, 3, 7, 0), run(7, 3, 0)]);
        // What is left of a run begins further on in the device.
        let runs = reassigned(&runs, pages(4, 1), &[run(4, 1, 0)]);
        assert_eq!(runs[2..], [run(4, 1, 0), on_device(5, 2, 7, 4096), run(7, 3, 0)]);
        let durable = Run { durable: Durable::ByLines, ..on_device(8, 2, 7, 8192) };
        assert_eq!(reassigned(&[on_device(6, 2, 7, 0)], pages(8, 2), &[durable]).len(), 2);
        // Behind the end of the file nothing is on the device.
        let runs = reassigned(&[run(0, 10, 0)], pages(4, 6), &[on_device(4, 2, 7, 0)]);
        assert_eq!(runs, [run(0, 4, 0), on_device(4, 2, 7, 0)]);
    }

    #[test]
    fn mappings_of_one_file_are_united() {
        assert_eq!(united(vec![told(4, 4, 1), told(0, 6, 1), told(8, 2, 0)]), [told(0, 8, 1), told(8, 2, 0)]);
        assert_eq!(united(vec![told(7, 1, 0), told(2, 2, 0)]), [told(2, 2, 0), told(7, 1, 0)]);
        assert_eq!(united(Vec::new()), []);
    }

    #[test]
    fn an_object_is_mapped_on_behind_the_file_s_end_and_a_device_is_not() {
        let pages = PageRange::new(0, 512);
        let object = layout(5 * 4096, &[told(0, 2, 7), told(2, 3, 0)], &[(0, 2, 8192)]);
        assert_eq!(of_layout(&object, pages).unwrap(), [on_device(0, 2, 7, 8192), run(2, 510, 0)]);
        let device = layout(5 * 4096, &[told(0, 2, 0), told(2, 3, 7)], &[(2, 3, 8192)]);
        assert_eq!(of_layout(&device, pages).unwrap(), [run(0, 2, 0), on_device(2, 3, 7, 8192)]);
        // Its unit is longer than the file.
        let unit = layout(5 * 4096, &[told(0, 2, 0), told(2, 3, 7)], &[(2, 200, 8192)]);
        assert_eq!(of_layout(&unit, pages).unwrap(), [run(0, 2, 0), on_device(2, 200, 7, 8192)]);
        let part = PageRange::new(3, 2);
        assert_eq!(of_layout(&unit, part).unwrap(), [on_device(3, 2, 7, 8192 + 4096)]);
    }

    #[test]
    fn a_layout_with_gaps_is_none() {
        let pages = PageRange::new(0, 5);
        let gaps = [
            layout(5 * 4096, &[told(0, 2, 0), told(3, 2, 0)], &[]),
            layout(5 * 4096, &[told(0, 5, 7)], &[(0, 4, 0)]),
            layout(5 * 4096, &[told(0, 5, 7)], &[(1, 4, 0)]),
            layout(5 * 4096, &[told(0, 5, 7)], &[(0, 2, 0), (3, 2, 0)]),
            // Two places for one page.
            layout(5 * 4096, &[told(0, 5, 7)], &[(0, 3, 0), (2, 3, 1 << 20)]),
            layout(5 * 4096, &[told(0, 4, 0), told(2, 3, 7)], &[(2, 3, 0)]),
            layout(4096, &[], &[]),
        ];
        for layout in gaps {
            assert_eq!(of_layout(&layout, pages), None, "{layout:?}");
        }
    }
}
