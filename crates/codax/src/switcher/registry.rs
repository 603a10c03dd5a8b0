//! What this process maps, by file, and the moves that are under way. One lock guards all of it.

use super::runs::{Run, reassigned, united};
use super::segment::{Segment, Switched};
use super::watch::Watched;
use codax_core::extent::PoolRun;
use codax_core::request::Mapped;
use codax_core::{FileId, MoveId, PageRange};
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
    pub(super) runs: Vec<Run>,
    /// The page at which the file ended when it was made. What it shows behind that, the daemon doesn't ask for: others may have put it elsewhere.
    end: u64,
    pins: u32,
}

impl Live {
    /// Where it shows the file's pages from.
    fn told(&self) -> impl Iterator<Item = PoolRun> {
        let file = PageRange::new(0, self.end);
        self.runs
            .iter()
            .filter_map(move |run| Some(PoolRun { pages: run.pages.intersect(file)?, pool: run.pool }))
    }
}

/// A mapping to be entered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewMapping<'a> {
    pub(crate) file: FileId,
    pub(crate) region: &'a Arc<Region>,
    pub(crate) pages: PageRange,
    pub(crate) write: bool,
    pub(crate) runs: &'a [Run],
    /// The page at which the file ends.
    pub(crate) end: u64,
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
    watches: HashMap<u64, Watched>,
    last_watch: u64,
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
        let NewMapping { pages, write, end, .. } = *new;
        let (region, runs) = (Arc::clone(new.region), new.runs.to_vec());
        let live = Live { id: self.last_id, region, pages, write, runs, end, pins: 0 };
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

    /// Notes which mappings show a chunk of a segment from its new place by now.
    pub(super) fn switched(&mut self, id: MoveId, chunk: u32) {
        let Some(segment) = self.segments.get(&id) else { return };
        for Switched { mapping, pages, runs } in segment.switched(chunk) {
            let live = self.files.get_mut(&segment.file).into_iter().flatten();
            for live in live.filter(|live| live.id == mapping) {
                live.runs = reassigned(&live.runs, pages, &runs);
            }
        }
        self.disturbed(id, chunk);
    }

    /// A chunk of a segment was closed or switched.
    pub(super) fn disturbed(&mut self, id: MoveId, chunk: u32) {
        let Some(segment) = self.segments.get(&id) else { return };
        let Some(&pages) = usize::try_from(chunk).ok().and_then(|chunk| segment.chunks.get(chunk)) else {
            return;
        };
        self.watches.values_mut().for_each(|watched| watched.disturb(segment.file, pages));
    }

    /// Begins to watch pages of a mapping, and says what is there.
    pub(super) fn watch(&mut self, file: FileId, mapping: u64, pages: PageRange) -> (u64, Vec<Run>) {
        let live = self.live(file).iter().find(|live| live.id == mapping);
        let runs = live.map(|live| live.runs.iter().filter_map(|run| run.cut(pages)).collect());
        let mut watched = Watched { file, pages, disturbed: Vec::new() };
        for segment in self.segments.values() {
            segment.held().for_each(|pages| watched.disturb(segment.file, pages));
        }
        self.last_watch += 1;
        self.watches.insert(self.last_watch, watched);
        (self.last_watch, runs.unwrap_or_default())
    }

    /// Ends a watch. Returns what was closed or switched since it began.
    pub(super) fn watched(&mut self, watch: u64) -> Vec<PageRange> {
        self.watches.remove(&watch).map(|watched| watched.disturbed).unwrap_or_default()
    }

    /// What a daemon that starts anew must know; it counts these mappings on the connection `generation`.
    pub(super) fn mapped(&mut self, generation: u64) -> Vec<Mapped> {
        self.generation = generation;
        let mapped = self.files.iter().map(|(&file, live)| Mapped {
            file,
            mappings: u32::try_from(live.len()).unwrap_or(u32::MAX),
            write: live.iter().any(|live| live.write),
            runs: united(live.iter().flat_map(Live::told).collect()),
        });
        mapped.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::segment::Target;
    use super::*;
    use codax_core::PoolId;

    #[test]
    fn who_watches_pages_hears_of_those_that_were_on_the_move() {
        let mut registry = Registry::new(1);
        let segment = |file, chunks: &[(u64, u64)]| {
            let to = Target { pool: PoolId(1), persistent: true, device: None };
            Segment::new(
                file,
                0,
                to,
                chunks.iter().map(|&(start, count)| PageRange::new(start, count)).collect(),
            )
        };
        registry.begin(MoveId(1), segment(FileId(5), &[(0, 10), (10, 10), (20, 10)]));
        registry.begin(MoveId(2), segment(FileId(6), &[(0, 30)]));
        let (watch, runs) = registry.watch(FileId(5), 7, PageRange::new(5, 10));
        let (other, _) = registry.watch(FileId(6), 8, PageRange::new(0, 3));
        assert_eq!(runs, []);
        registry.disturbed(MoveId(1), 0);
        registry.switched(MoveId(1), 1);
        registry.disturbed(MoveId(1), 2);
        // Chunks and segments that nobody knows.
        registry.disturbed(MoveId(1), 3);
        registry.disturbed(MoveId(3), 0);
        assert_eq!(registry.watched(watch), [PageRange::new(5, 5), PageRange::new(10, 5)]);
        assert_eq!(registry.watched(watch), []);
        registry.disturbed(MoveId(2), 0);
        assert_eq!(registry.watched(other), [PageRange::new(0, 3)]);
    }
}
