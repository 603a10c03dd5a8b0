//! One segment of a move, as this process does its steps.
//!
//! For each mapping there is a mapping of the new object beside it (`staged`), and from a chunk's freeze on a second mapping of the old one (`old`), from
//! which a rollback is made and through which sleeping threads are woken. A chunk's pages are registered with userfaultfd from its freeze
//! until it is switched or rolled back; where the kernel registers none, they are under a placeholder all that time.

use super::part::{How, Part, Piece, Stage, Whole, bytes};
use super::registry::Live;
use super::runs::{Durable, Run, of_device};
use super::settle::Old;
use super::waits::Waits;
use codax_core::request::OnDevice;
use codax_core::{FileId, PageRange, PoolId};
use codax_os::area::{self, Area, Region};
use codax_os::uffd::Uffd;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

/// A mapping that takes part.
#[derive(Debug)]
struct Member {
    mapping: u64,
    region: Arc<Region>,
    write: bool,
    /// The new object, from the region's offset `staged_at` on.
    staged: Area,
    staged_at: usize,
    /// By chunk; `None` where the mapping has none of its pages.
    parts: Vec<Option<Part>>,
}

/// Where a segment moves.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) pool: PoolId,
    /// Whether it outlives the power.
    pub(super) persistent: bool,
    /// Where the chunks' pages will be, if it is a device.
    pub(super) device: Option<OnDevice>,
}

/// A mapping that shows a chunk from its new place, and from where.
#[derive(Debug)]
pub(super) struct Switched {
    pub(super) mapping: u64,
    pub(super) pages: PageRange,
    pub(super) runs: Vec<Run>,
}

/// A segment of a move.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: FileId,
    pub(super) slot: u16,
    pub(super) to: Target,
    pub(super) chunks: Vec<PageRange>,
    members: Vec<Member>,
    /// How what is staged is made durable.
    durable: Durable,
    /// On a device, where the chunks' pages will be.
    places: Vec<Run>,
    /// When sleepers were last looked for.
    pub(super) looked: Instant,
}

/// What the steps need of the process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tools<'a> {
    pub(super) uffd: &'a Uffd,
    pub(super) waits: &'a Waits,
}

impl Segment {
    /// A segment in which no mapping takes part yet.
    pub(super) fn new(file: FileId, slot: u16, to: Target, chunks: Vec<PageRange>) -> Self {
        let (members, durable, places) = (Vec::new(), Durable::Never, Vec::new());
        Self { file, slot, to, chunks, members, durable, places, looked: Instant::now() }
    }

    /// Stages the new object, or the device's pages, for each mapping. On an error none takes part.
    pub(super) fn stage(&mut self, live: &[Live], object: &OwnedFd) -> io::Result<()> {
        let write = live.iter().any(|live| live.write);
        let sync = self.to.persistent && area::takes_sync(object, write)?;
        self.durable = Durable::of(self.to.persistent, sync || self.to.device.is_some());
        self.places =
            self.to.device.iter().flat_map(|device| of_device(device, self.to.pool, self.durable)).collect();
        let page = area::page_of(object)?;
        let members: io::Result<Vec<_>> =
            live.iter().filter_map(|live| self.member(live, object, page, sync).transpose()).collect();
        self.members = members?;
        Ok(())
    }

    /// A mapping, if it has some of the chunks' pages; `page` is the new object's.
    fn member(&self, live: &Live, object: &OwnedFd, page: usize, sync: bool) -> io::Result<Option<Member>> {
        let pages: Vec<_> = self.chunks.iter().map(|chunk| chunk.intersect(live.pages)).collect();
        let start = pages.iter().flatten().map(|pages| pages.start.0).min();
        let end = pages.iter().flatten().map(|pages| pages.end()).max();
        let (Some(start), Some(end)) = (start, end) else { return Ok(None) };
        let span = PageRange::new(start, end - start);
        let offset = |pages: PageRange| bytes(pages.offset() - live.pages.offset());
        let part = |pages: PageRange| {
            if !are_without_gaps(&self.new_runs(pages), pages) {
                return Err(io::Error::other("its places have gaps"));
            }
            Ok(Part::new(offset(pages), pages, pieces(&live.runs, pages)))
        };
        let parts: io::Result<Vec<_>> = pages.into_iter().map(|pages| pages.map(part).transpose()).collect();
        let parts = parts?;
        // Only whole pages of the new object can be laid over a mapping, and what is committed must be.
        if !parts.iter().flatten().all(|part| part.is_whole(&live.region, page)) {
            return Err(io::Error::other("it was mapped before the store had such huge pages: map it anew"));
        }
        Ok(Some(Member {
            mapping: live.id,
            region: Arc::clone(&live.region),
            write: live.write,
            staged: self.staged(span, object, live.write, sync)?,
            staged_at: offset(span),
            parts,
        }))
    }

    /// Where these pages are after the move: all of them, or those that are on the device.
    fn new_runs(&self, pages: PageRange) -> Vec<Run> {
        match self.to.device {
            Some(_) => self.places.iter().filter_map(|run| run.cut(pages)).collect(),
            None => vec![Run { pages, pool: self.to.pool, durable: self.durable, device_at: None }],
        }
    }

    /// Maps the new object, or the device's pages of `span`, side by side in the file's order.
    fn staged(&self, span: PageRange, object: &OwnedFd, write: bool, sync: bool) -> io::Result<Area> {
        let runs = self.new_runs(span);
        let piece = |run: &Run| area::Piece {
            at: run.pages.offset(),
            fd: object,
            fd_off: run.offset(),
            len: run.pages.bytes(),
        };
        let pieces: Vec<_> = runs.iter().map(piece).collect();
        Area::assembled(&pieces, span.offset()..span.offset() + span.bytes(), write, sync)
    }

    /// A mapping is gone.
    pub(super) fn remove(&mut self, mapping: u64) {
        self.members.retain(|member| member.mapping != mapping);
    }

    /// Holds writes, and reads too where it can't be done otherwise. On an error the chunk is as it was.
    pub(super) fn freeze(&mut self, tools: Tools<'_>, chunk: usize, how: How<'_>) -> io::Result<()> {
        let result = self.each(chunk, |whole, part| part.freeze(tools, whole, how));
        if result.is_err() {
            // What can't be rolled back now will be by the rollback that follows, or at the end.
            let _ = self.roll_back(tools, chunk);
        }
        result
    }

    /// Holds reads too.
    pub(super) fn hold(&mut self, tools: Tools<'_>, chunk: usize) -> io::Result<()> {
        self.each(chunk, |whole, part| part.hold(tools, whole))
    }

    /// Puts the new object where the old one was, and wakes who waits.
    pub(super) fn switch(&mut self, tools: Tools<'_>, chunk: usize) -> io::Result<()> {
        self.each(chunk, |whole, part| part.switch(tools, whole))
    }

    /// Undoes freeze and hold.
    pub(super) fn roll_back(&mut self, tools: Tools<'_>, chunk: usize) -> io::Result<()> {
        self.each(chunk, |whole, part| part.roll_back(tools, whole))
    }

    /// Whether the chunk waits for its switch or rollback.
    pub(super) fn is_open(&self, chunk: usize) -> bool {
        self.parts(chunk).any(|(_, part)| matches!(part.stage(), Stage::Frozen | Stage::Held))
    }

    /// The chunks that a mapping has a placeholder over.
    pub(super) fn held(&self) -> impl Iterator<Item = PageRange> {
        let held = |chunk| self.parts(chunk).any(|(_, part)| part.stage() == Stage::Held);
        self.chunks.iter().enumerate().filter(move |(chunk, _)| held(*chunk)).map(|(_, pages)| *pages)
    }

    /// The mappings that show a chunk from its new place.
    pub(super) fn switched(&self, chunk: u32) -> Vec<Switched> {
        let parts = usize::try_from(chunk).into_iter().flat_map(|chunk| self.parts(chunk));
        let switched = parts.filter(|(_, part)| part.stage() == Stage::Switched);
        let switched = switched.map(|(mapping, part)| (mapping, part.pages()));
        switched.map(|(mapping, pages)| Switched { mapping, pages, runs: self.new_runs(pages) }).collect()
    }

    /// Where threads may still sleep on the old object: the addresses that they know, and where it is mapped now.
    pub(super) fn old(&self) -> impl Iterator<Item = (usize, &Area)> {
        let parts = self
            .members
            .iter()
            .flat_map(|member| member.parts.iter().flatten().map(move |part| (member.region.base(), part)));
        parts
            .filter(|(_, part)| part.stage() == Stage::Switched)
            .flat_map(|(base, part)| part.old().map(move |(at, area)| (base + at, area)))
    }

    /// The same, to be kept after the segment.
    pub(super) fn take_old(&mut self) -> Vec<Old> {
        let mut all = Vec::new();
        for member in &mut self.members {
            let base = member.region.base();
            for part in member.parts.iter_mut().flatten().filter(|part| part.stage() == Stage::Switched) {
                all.extend(part.take_old().map(|(at, area)| Old { start: base + at, area }));
            }
        }
        all
    }

    /// The parts in a chunk, with the mapping of each.
    fn parts(&self, chunk: usize) -> impl Iterator<Item = (u64, &Part)> {
        self.members
            .iter()
            .filter_map(move |member| Some((member.mapping, member.parts.get(chunk)?.as_ref()?)))
    }

    fn each(
        &mut self,
        chunk: usize,
        mut step: impl FnMut(Whole<'_>, &mut Part) -> io::Result<()>,
    ) -> io::Result<()> {
        for member in &mut self.members {
            let Member { region, write, staged, staged_at, parts, .. } = member;
            let whole = Whole { region, write: *write, staged, staged_at: *staged_at };
            if let Some(part) = parts.get_mut(chunk).and_then(Option::as_mut) {
                step(whole, part)?;
            }
        }
        Ok(())
    }
}

/// The pieces of a part that lie side by side in their object or device.
fn pieces(runs: &[Run], pages: PageRange) -> Vec<Piece> {
    let piece =
        |run: Run| Piece { at: bytes(run.pages.offset() - pages.offset()), len: bytes(run.pages.bytes()) };
    runs.iter().filter_map(|run| run.cut(pages)).map(piece).collect()
}

/// Whether these runs have the first of the pages, and all others up to where they end: what comes behind is no part of the file.
fn are_without_gaps(runs: &[Run], pages: PageRange) -> bool {
    let mut reached = pages.start.0;
    for run in runs {
        if run.pages.start.0 != reached {
            return false;
        }
        reached = run.pages.end();
    }
    reached > pages.start.0
}
