//! The part of a mapping that lies in a chunk, and what each step does to it.
//!
//! Every step can be taken again after it failed half-way: what a part has done already is in its [`Stage`].

use super::segment::Tools;
use codax_core::{HUGE_SIZE, PageRange};
use codax_os::area::{Area, Region};
use std::io;
use std::os::fd::OwnedFd;

/// How far a part of a mapping is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The old object, open.
    Idle,
    /// The old object; writes wait.
    Frozen,
    /// The placeholder; everything waits.
    Held,
    /// The new object, open.
    Switched,
}

/// Some bytes of a part: offset in it and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) at: usize,
    pub(super) len: usize,
}

/// The part of a mapping that lies in a chunk.
#[derive(Debug)]
pub(super) struct Part {
    /// Offset in the region and length, in bytes.
    at: usize,
    len: usize,
    /// The file's pages.
    pages: PageRange,
    stage: Stage,
    /// Of the old object or device, what lies side by side there: a mapping's duplicate goes on in the object, whatever is mapped behind it.
    old_pieces: Vec<Piece>,
    /// Of what is staged, what doesn't lie over the region yet: the first one last.
    new_pieces: Vec<Piece>,
    /// The old object's pages, at these offsets in the part.
    old: Vec<(usize, Area)>,
    /// Whether those can't be duplicated, and must be moved if they are needed again.
    single: bool,
}

/// What a mapping is that a part belongs to, for its steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole<'a> {
    pub(super) region: &'a Region,
    pub(super) write: bool,
    /// The new object, from the region's offset `staged_at` on.
    pub(super) staged: &'a Area,
    pub(super) staged_at: usize,
}

/// How a chunk is to be frozen.
#[derive(Clone, Copy, Debug)]
pub(super) struct How<'a> {
    /// What the chunk lies in, if it came with the message: its mappings can't be duplicated.
    pub(super) object: Option<&'a OwnedFd>,
    /// Whether the kernel can't write-protect there, so that reads have to wait as well.
    pub(super) closed: bool,
}

impl Part {
    /// The pages `pages` of a file, which a mapping shows from `at` on in its region.
    pub(super) fn new(at: usize, pages: PageRange, old_pieces: Vec<Piece>, new_pieces: Vec<Piece>) -> Self {
        let new_pieces = new_pieces.into_iter().rev().collect();
        Self {
            at,
            len: bytes(pages.bytes()),
            pages,
            stage: Stage::Idle,
            old_pieces,
            new_pieces,
            old: Vec::new(),
            single: false,
        }
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    pub(super) fn pages(&self) -> PageRange {
        self.pages
    }

    /// Whether it is made of whole pages of so many bytes in a region.
    pub(super) fn is_whole(&self, region: &Region, page: usize) -> bool {
        (region.base() + self.at).is_multiple_of(page) && self.len.is_multiple_of(page)
    }

    /// Where threads may sleep on the old object: offsets in the region, and where it is mapped now.
    pub(super) fn old(&self) -> impl Iterator<Item = (usize, &Area)> {
        self.old.iter().map(|(at, area)| (self.at + at, area))
    }

    /// The same, to be kept.
    pub(super) fn take_old(&mut self) -> impl Iterator<Item = (usize, Area)> {
        let start = self.at;
        self.old.drain(..).map(move |(at, area)| (start + at, area))
    }

    pub(super) fn freeze(&mut self, tools: Tools<'_>, whole: Whole<'_>, how: How<'_>) -> io::Result<()> {
        if self.stage != Stage::Idle {
            return Ok(());
        }
        // Before the registration, which a duplicate would inherit.
        self.old.clear();
        match how.object {
            Some(object) => {
                self.old.push((0, Area::object(object, self.pages.offset(), self.len, whole.write)?));
            }
            None => {
                for piece in &self.old_pieces {
                    duplicate(whole.region, self.at, *piece, &mut self.old)?;
                }
            }
        }
        self.single = how.object.is_some();
        if how.closed {
            return self.hold(tools, whole).inspect_err(|_| {
                self.wake(tools, whole.region);
                self.old.clear();
            });
        }
        self.stage = Stage::Frozen;
        if whole.write {
            let start = whole.region.base() + self.at;
            tools.waits.close(start, self.len);
            tools.uffd.register_wp(start, self.len)?;
            tools.uffd.write_protect(start, self.len, true)?;
        }
        Ok(())
    }

    pub(super) fn hold(&mut self, tools: Tools<'_>, whole: Whole<'_>) -> io::Result<()> {
        if matches!(self.stage, Stage::Held | Stage::Switched) {
            return Ok(());
        }
        let placeholder = Area::placeholder(tools.uffd, self.len)?;
        tools.waits.close(whole.region.base() + self.at, self.len);
        placeholder.move_over(0, self.len, whole.region, self.at)?;
        self.stage = Stage::Held;
        Ok(())
    }

    pub(super) fn switch(&mut self, tools: Tools<'_>, whole: Whole<'_>) -> io::Result<()> {
        if self.stage == Stage::Switched {
            return Ok(());
        }
        let from = self.at - whole.staged_at;
        // Only to spare later accesses their faults.
        let _ = whole.staged.populate(from, self.len, whole.write);
        // One after the other, each in one step: what isn't laid over yet is the placeholder, or the old bytes, which nobody can change.
        while let Some(&piece) = self.new_pieces.last() {
            let Piece { at, len } = piece;
            match whole.staged.move_over(from + at, len, whole.region, self.at + at) {
                Ok(()) => drop(self.new_pieces.pop()),
                Err(e) => {
                    let (first, rest) = halves(whole.staged.base() + from, piece, e)?;
                    self.new_pieces.pop();
                    self.new_pieces.extend([rest, first]);
                }
            }
        }
        self.stage = Stage::Switched;
        self.wake(tools, whole.region);
        Ok(())
    }

    pub(super) fn roll_back(&mut self, tools: Tools<'_>, whole: Whole<'_>) -> io::Result<()> {
        let start = whole.region.base() + self.at;
        match self.stage {
            Stage::Idle | Stage::Switched => return Ok(()),
            Stage::Frozen if whole.write => {
                // A freeze that failed half-way may have nothing to lift; to end a registration that isn't there is no error.
                let _ = tools.uffd.write_protect(start, self.len, false);
                tools.uffd.unregister(start, self.len)?;
            }
            Stage::Frozen => {}
            Stage::Held => {
                for (at, area) in &self.old {
                    match self.single {
                        true => area.move_over(0, area.len(), whole.region, self.at + at)?,
                        false => area.duplicate_over(0, area.len(), whole.region, self.at + at)?,
                    }
                }
            }
        }
        self.stage = Stage::Idle;
        self.old.clear();
        self.wake(tools, whole.region);
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

/// Maps once more what a region maps at `at`, a piece of it, as one area, or as several where the kernel has it as several.
fn duplicate(region: &Region, at: usize, piece: Piece, into: &mut Vec<(usize, Area)>) -> io::Result<()> {
    match Area::duplicate(region, at + piece.at, piece.len) {
        Ok(area) => {
            into.push((piece.at, area));
            Ok(())
        }
        Err(e) => {
            let (first, rest) = halves(region.base() + at, piece, e)?;
            duplicate(region, at, first, into)?;
            duplicate(region, at, rest, into)
        }
    }
}

/// A piece at `base` in two, where the kernel has it as several mappings; the error if that isn't what it says. Mappings of devices and huge pages are cut at
/// theirs only.
fn halves(base: usize, piece: Piece, e: io::Error) -> io::Result<(Piece, Piece)> {
    let Piece { at, len } = piece;
    if e.raw_os_error() != Some(EFAULT) || len <= PAGE {
        return Err(e);
    }
    let huge = len > HUGE && (base + at).is_multiple_of(HUGE);
    let half = (len / 2).next_multiple_of(if huge { HUGE } else { PAGE });
    Ok((Piece { at, len: half }, Piece { at: at + half, len: len - half }))
}

/// What `mremap` says of a range that is more than one mapping.
const EFAULT: i32 = 14;

/// Bytes in a page.
const PAGE: usize = 4096;

/// Bytes in a huge page.
const HUGE: usize = codax_os::area::HUGE;

/// Lossless: offsets in a mapping, which memory holds already.
pub(super) fn bytes(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

const _: () = assert!(HUGE_SIZE == HUGE as u64 && codax_core::PAGE_SIZE == PAGE as u64);
