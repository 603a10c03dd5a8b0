//! What this process maps, by file, and the moves that are under way. One lock guards all of it.

use super::segment::Segment;
use codax_core::extent::PoolRun;
use codax_core::request::Mapped;
use codax_core::{FileId, MoveId, PageRange, PoolId};
use codax_os::area::Region;
use std::collections::HashMap;
use std::sync::Arc;

/// A mapping, as long as the program has it.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) id: u64,
    pub(super) region: Arc<Region>,
    /// The file's pages that it shows.
    pub(super) pages: PageRange,
    pub(super) write: bool,
    /// Where it shows them from.
    pub(super) runs: Vec<PoolRun>,
    pins: u32,
}

/// A mapping to be entered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewMapping<'a> {
    pub(crate) file: FileId,
    pub(crate) region: &'a Arc<Region>,
    pub(crate) pages: PageRange,
    pub(crate) write: bool,
    pub(crate) runs: &'a [PoolRun],
    /// The connection on which the daemon counts it.
    pub(crate) generation: u64,
}

#[derive(Debug, Default)]
pub(super) struct Registry {
    files: HashMap<FileId, Vec<Live>>,
    pub(super) segments: HashMap<MoveId, Segment>,
    /// The connection on which the daemon counts these mappings.
    generation: u64,
    last_id: u64,
    /// Moves begun so far, and for each file the number of its last one while mappings are being made.
    begins: u64,
    begun: HashMap<FileId, u64>,
    making: u32,
}

impl Registry {
    pub(super) fn new(generation: u64) -> Self {
        Self { generation, ..Self::default() }
    }

    /// A mapping is being made; its layout will be good if no move of its file has begun since.
    pub(super) fn start_making(&mut self) -> u64 {
        self.making += 1;
        self.begins
    }

    pub(super) fn stop_making(&mut self) {
        self.making -= 1;
        if self.making == 0 {
            self.begun.clear();
        }
    }

    /// Enters a mapping whose making started at `since`. `None` if its layout may be an old one, or the daemon that counted it is gone.
    pub(super) fn add(&mut self, since: u64, new: &NewMapping<'_>) -> Option<u64> {
        let moved = self.begun.get(&new.file).is_some_and(|&begun| begun > since);
        if moved || self.moving(new.file) || new.generation != self.generation {
            return None;
        }
        self.last_id += 1;
        let runs = new
            .runs
            .iter()
            .filter_map(|run| Some(PoolRun { pages: run.pages.intersect(new.pages)?, pool: run.pool }))
            .collect();
        let NewMapping { pages, write, .. } = *new;
        let live = Live { id: self.last_id, region: Arc::clone(new.region), pages, write, runs, pins: 0 };
        self.files.entry(new.file).or_default().push(live);
        Some(self.last_id)
    }

    /// Forgets a mapping, in moves that are under way too. Returns the connection on which it is counted.
    pub(super) fn remove(&mut self, file: FileId, id: u64) -> u64 {
        if let Some(live) = self.files.get_mut(&file) {
            live.retain(|live| live.id != id);
            if live.is_empty() {
                self.files.remove(&file);
            }
        }
        for segment in self.segments.values_mut() {
            segment.remove(id);
        }
        self.generation
    }

    pub(super) fn pin(&mut self, file: FileId, id: u64, pinned: bool) {
        let live = self.files.get_mut(&file).and_then(|live| live.iter_mut().find(|live| live.id == id));
        if let Some(live) = live {
            live.pins = if pinned { live.pins + 1 } else { live.pins.saturating_sub(1) };
        }
    }

    pub(super) fn live(&self, file: FileId) -> &[Live] {
        self.files.get(&file).map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Whether a move of the file is under way.
    pub(super) fn moving(&self, file: FileId) -> bool {
        self.segments.values().any(|segment| segment.file == file)
    }

    /// Whether one of the chunks is pinned.
    pub(super) fn pinned(&self, file: FileId, chunks: &[PageRange]) -> bool {
        let pinned = self.live(file).iter().filter(|live| live.pins > 0);
        pinned.into_iter().any(|live| chunks.iter().any(|chunk| chunk.intersect(live.pages).is_some()))
    }

    /// Notes a move of `file` that begins.
    pub(super) fn begin(&mut self, id: MoveId, segment: Segment) {
        self.begins += 1;
        if self.making > 0 {
            self.begun.insert(segment.file, self.begins);
        }
        self.segments.insert(id, segment);
    }

    /// A chunk of a segment was switched: the file's mappings show it from `pool` now.
    pub(super) fn switched(&mut self, file: FileId, chunk: PageRange, pool: PoolId) {
        for live in self.files.get_mut(&file).into_iter().flatten() {
            if let Some(pages) = chunk.intersect(live.pages) {
                live.runs = reassigned(&live.runs, PoolRun { pages, pool });
            }
        }
    }

    /// What a daemon that starts anew must know; it counts these mappings on the connection `generation`.
    pub(super) fn mapped(&mut self, generation: u64) -> Vec<Mapped> {
        self.generation = generation;
        let mapped = self.files.iter().map(|(&file, live)| Mapped {
            file,
            mappings: u32::try_from(live.len()).unwrap_or(u32::MAX),
            write: live.iter().any(|live| live.write),
            runs: united(live.iter().flat_map(|live| live.runs.iter().copied()).collect()),
        });
        mapped.collect()
    }
}

/// `runs` with the pages of `new` taken over by it.
fn reassigned(runs: &[PoolRun], new: PoolRun) -> Vec<PoolRun> {
    let mut parts = vec![new];
    for run in runs {
        let before = PageRange::new(0, new.pages.start.0).intersect(run.pages);
        let after = PageRange::new(new.pages.end(), u64::MAX - new.pages.end()).intersect(run.pages);
        parts.extend([before, after].into_iter().flatten().map(|pages| PoolRun { pages, pool: run.pool }));
    }
    united(parts)
}

/// Runs in the order of pages, none twice, neighbours of one pool merged. Runs that overlap agree.
fn united(mut runs: Vec<PoolRun>) -> Vec<PoolRun> {
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

    fn run(start: u64, count: u64, pool: u16) -> PoolRun {
        PoolRun { pages: PageRange::new(start, count), pool: PoolId(pool) }
    }

    #[test]
    fn a_switched_chunk_takes_over_its_pages_and_neighbours_merge() {
        let runs = reassigned(&[run(0, 10, 0)], run(2, 3, 1));
        assert_eq!(runs, [run(0, 2, 0), run(2, 3, 1), run(5, 5, 0)]);
        let runs = reassigned(&runs, run(0, 2, 1));
        assert_eq!(runs, [run(0, 5, 1), run(5, 5, 0)]);
        assert_eq!(reassigned(&runs, run(0, 10, 0)), [run(0, 10, 0)]);
    }

    #[test]
    fn mappings_of_one_file_are_united() {
        assert_eq!(united(vec![run(4, 4, 1), run(0, 6, 1), run(8, 2, 0)]), [run(0, 8, 1), run(8, 2, 0)]);
        assert_eq!(united(vec![run(7, 1, 0), run(2, 2, 0)]), [run(2, 2, 0), run(7, 1, 0)]);
        assert_eq!(united(Vec::new()), []);
    }
}
