//! One segment of a move, as this process does its steps.
//!
//! For each mapping there is a mapping of the new object beside it (`staged`), and from a chunk's freeze on a second mapping of the old one (`old`), from
//! which a rollback is made and through which sleeping threads are woken. A chunk's pages are registered with userfaultfd from its freeze
//! until it is switched or rolled back.
//!
//! Every step can be taken again after it failed half-way: what a part has done already is in its [`Stage`].

use super::registry::Live;
use super::settle::Old;
use super::waits::Waits;
use codax_core::{FileId, HUGE_SIZE, PageRange, PoolId};
use codax_os::area::{Area, Region};
use codax_os::hugetlb;
use codax_os::uffd::Uffd;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

/// How far a part of a mapping is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The old object, open.
    Idle,
    /// The old object; writes wait.
    Frozen,
    /// The placeholder; everything waits.
    Held,
    /// The new object, open.
    Switched,
}

/// The part of a mapping that lies in a chunk.
#[derive(Debug)]
struct Part {
    /// Offset in the region and length, in bytes.
    at: usize,
    len: usize,
    /// Its offset in the file.
    off: u64,
    stage: Stage,
    /// The old object's pages, at these offsets in the part.
    old: Vec<(usize, Area)>,
    /// Whether those can't be duplicated, and must be moved if they are needed again.
    single: bool,
}

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

/// A segment of a move.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: FileId,
    pub(super) slot: u16,
    pub(super) to: PoolId,
    pub(super) chunks: Vec<PageRange>,
    members: Vec<Member>,
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
    pub(super) fn new(file: FileId, slot: u16, to: PoolId, chunks: Vec<PageRange>) -> Self {
        Self { file, slot, to, chunks, members: Vec::new(), looked: Instant::now() }
    }

    /// Stages the new object for each mapping. On an error none takes part.
    pub(super) fn stage(&mut self, live: &[Live], object: &OwnedFd) -> io::Result<()> {
        let members: io::Result<Vec<_>> =
            live.iter().filter_map(|live| member(live, &self.chunks, object).transpose()).collect();
        let members = members?;
        // Only whole pages of the new object can be laid over a mapping, and what is committed must be.
        let page = bytes(hugetlb::page_of(object)?.unwrap_or(1));
        let whole = |member: &Member| {
            let mut parts = member.parts.iter().flatten();
            parts.all(|part| {
                (member.region.base() + part.at).is_multiple_of(page) && part.len.is_multiple_of(page)
            })
        };
        if !members.iter().all(whole) {
            return Err(io::Error::other("it was mapped before the store had such huge pages: map it anew"));
        }
        self.members = members;
        Ok(())
    }

    /// A mapping is gone.
    pub(super) fn remove(&mut self, mapping: u64) {
        self.members.retain(|member| member.mapping != mapping);
    }

    /// Holds writes. On an error the chunk is as it was.
    ///
    /// `object` is that which the chunk lies in, if it came with the message: its mappings can't be duplicated.
    pub(super) fn freeze(
        &mut self,
        tools: Tools<'_>,
        chunk: usize,
        object: Option<&OwnedFd>,
    ) -> io::Result<()> {
        let result =
            self.each(chunk, |member, part| part.freeze(tools, &member.region, member.write, object));
        if result.is_err() {
            // What can't be rolled back now will be by the rollback that follows, or at the end.
            let _ = self.roll_back(tools, chunk);
        }
        result
    }

    /// Holds reads too.
    pub(super) fn hold(&mut self, tools: Tools<'_>, chunk: usize) -> io::Result<()> {
        self.each(chunk, |member, part| part.hold(tools, &member.region))
    }

    /// Puts the new object where the old one was, and wakes who waits.
    pub(super) fn switch(&mut self, tools: Tools<'_>, chunk: usize) -> io::Result<()> {
        self.each(chunk, |member, part| {
            part.switch(tools, &member.region, member.write, &member.staged, member.staged_at)
        })
    }

    /// Undoes freeze and hold.
    pub(super) fn roll_back(&mut self, tools: Tools<'_>, chunk: usize) -> io::Result<()> {
        self.each(chunk, |member, part| part.roll_back(tools, &member.region, member.write))
    }

    /// Whether the chunk waits for its switch or rollback.
    pub(super) fn is_open(&self, chunk: usize) -> bool {
        self.parts(chunk).any(|part| matches!(part.stage, Stage::Frozen | Stage::Held))
    }

    /// Where threads may still sleep on the old object: the addresses that they know, and where it is mapped now.
    pub(super) fn old(&self) -> impl Iterator<Item = (usize, &Area)> {
        let parts = self.members.iter().flat_map(|member| {
            member.parts.iter().flatten().map(move |part| (member.region.base() + part.at, part))
        });
        parts
            .filter(|(_, part)| part.stage == Stage::Switched)
            .flat_map(|(base, part)| part.old.iter().map(move |(at, area)| (base + at, area)))
    }

    /// The same, to be kept after the segment.
    pub(super) fn take_old(&mut self) -> Vec<Old> {
        let mut all = Vec::new();
        for member in &mut self.members {
            let base = member.region.base();
            for part in member.parts.iter_mut().flatten().filter(|part| part.stage == Stage::Switched) {
                let old = part.old.drain(..);
                all.extend(old.map(|(at, area)| Old { start: base + part.at + at, area }));
            }
        }
        all
    }

    fn parts(&self, chunk: usize) -> impl Iterator<Item = &Part> {
        self.members.iter().filter_map(move |member| member.parts.get(chunk)?.as_ref())
    }

    fn each(
        &mut self,
        chunk: usize,
        mut step: impl FnMut(&Member, &mut Part) -> io::Result<()>,
    ) -> io::Result<()> {
        for member in &mut self.members {
            // Taken out for the step, so that it can see the member too.
            let Some(mut part) = member.parts.get_mut(chunk).and_then(Option::take) else { continue };
            let result = step(member, &mut part);
            member.parts[chunk] = Some(part);
            result?;
        }
        Ok(())
    }
}

/// The mapping `live` in a move of `chunks`, if it has some of their pages.
fn member(live: &Live, chunks: &[PageRange], object: &OwnedFd) -> io::Result<Option<Member>> {
    let pages: Vec<_> = chunks.iter().map(|chunk| chunk.intersect(live.pages)).collect();
    let start = pages.iter().flatten().map(|pages| pages.start.0).min();
    let end = pages.iter().flatten().map(|pages| pages.end()).max();
    let (Some(start), Some(end)) = (start, end) else { return Ok(None) };
    let span = PageRange::new(start, end - start);
    let offset = |pages: PageRange| bytes(pages.offset() - live.pages.offset());
    let parts = pages.into_iter().map(|pages| {
        pages.map(|pages| Part {
            at: offset(pages),
            len: bytes(pages.bytes()),
            off: pages.offset(),
            stage: Stage::Idle,
            old: Vec::new(),
            single: false,
        })
    });
    Ok(Some(Member {
        mapping: live.id,
        region: Arc::clone(&live.region),
        write: live.write,
        staged: Area::object(object, span.offset(), bytes(span.bytes()), live.write)?,
        staged_at: offset(span),
        parts: parts.collect(),
    }))
}

impl Part {
    fn freeze(
        &mut self,
        tools: Tools<'_>,
        region: &Region,
        write: bool,
        object: Option<&OwnedFd>,
    ) -> io::Result<()> {
        if self.stage != Stage::Idle {
            return Ok(());
        }
        // Before the registration, which a duplicate would inherit.
        self.old.clear();
        match object {
            Some(object) => self.old.push((0, Area::object(object, self.off, self.len, write)?)),
            None => duplicate(region, self.at, 0, self.len, &mut self.old)?,
        }
        self.single = object.is_some();
        self.stage = Stage::Frozen;
        if write {
            let start = region.base() + self.at;
            tools.waits.close(start, self.len);
            tools.uffd.register_wp(start, self.len)?;
            tools.uffd.write_protect(start, self.len, true)?;
        }
        Ok(())
    }

    fn hold(&mut self, tools: Tools<'_>, region: &Region) -> io::Result<()> {
        if matches!(self.stage, Stage::Held | Stage::Switched) {
            return Ok(());
        }
        let placeholder = Area::placeholder(tools.uffd, self.len)?;
        tools.waits.close(region.base() + self.at, self.len);
        placeholder.move_over(0, self.len, region, self.at)?;
        self.stage = Stage::Held;
        Ok(())
    }

    fn switch(
        &mut self,
        tools: Tools<'_>,
        region: &Region,
        write: bool,
        staged: &Area,
        staged_at: usize,
    ) -> io::Result<()> {
        if self.stage == Stage::Switched {
            return Ok(());
        }
        let from = self.at - staged_at;
        // Only to spare later accesses their faults.
        let _ = staged.populate(from, self.len, write);
        staged.move_over(from, self.len, region, self.at)?;
        self.stage = Stage::Switched;
        self.wake(tools, region);
        Ok(())
    }

    fn roll_back(&mut self, tools: Tools<'_>, region: &Region, write: bool) -> io::Result<()> {
        let start = region.base() + self.at;
        match self.stage {
            Stage::Idle | Stage::Switched => return Ok(()),
            Stage::Frozen if write => {
                // A freeze that failed half-way may have nothing to lift; to end a registration that isn't there is no error.
                let _ = tools.uffd.write_protect(start, self.len, false);
                tools.uffd.unregister(start, self.len)?;
            }
            Stage::Frozen => {}
            Stage::Held => {
                for (at, area) in &self.old {
                    match self.single {
                        true => area.move_over(0, area.len(), region, self.at + at)?,
                        false => area.duplicate_over(0, area.len(), region, self.at + at)?,
                    }
                }
            }
        }
        self.stage = Stage::Idle;
        self.old.clear();
        self.wake(tools, region);
        Ok(())
    }

    fn wake(&self, tools: Tools<'_>, region: &Region) {
        let start = region.base() + self.at;
        // It fails only for addresses that no program can have.
        let woken = tools.uffd.wake(start, self.len);
        debug_assert!(woken.is_ok(), "{woken:?}");
        tools.waits.open(start);
    }
}

/// Maps once more what a region maps at `at + off`, as one area, or as several where the kernel has it as several.
fn duplicate(
    region: &Region,
    at: usize,
    off: usize,
    len: usize,
    into: &mut Vec<(usize, Area)>,
) -> io::Result<()> {
    match Area::duplicate(region, at + off, len) {
        Ok(area) => {
            into.push((off, area));
            Ok(())
        }
        Err(e) if e.raw_os_error() == Some(EFAULT) && len > PAGE => {
            let half = (len / 2).next_multiple_of(PAGE);
            duplicate(region, at, off, half, into)?;
            duplicate(region, at, off + half, len - half, into)
        }
        Err(e) => Err(e),
    }
}

/// What `mremap` says of a range that is more than one mapping to the kernel.
const EFAULT: i32 = 14;

/// Bytes in a page.
const PAGE: usize = 4096;

/// Lossless: offsets in a mapping, which memory holds already.
fn bytes(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

const _: () = assert!(HUGE_SIZE.is_multiple_of(codax_core::PAGE_SIZE) && codax_core::PAGE_SIZE == 4096);
