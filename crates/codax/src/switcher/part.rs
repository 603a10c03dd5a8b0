//! The part of a mapping that lies in a chunk, and what each step does to it.
//!
//! Every step can be taken again after it failed half-way: what a part has done already is in its [`Stage`].

use super::segment::Tools;
use codax_core::PageRange;
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
    pub(super) fn new(at: usize, pages: PageRange, old_pieces: Vec<Piece>) -> Self {
        let (stage, old, single) = (Stage::Idle, Vec::new(), false);
        Self { at, len: bytes(pages.bytes()), pages, stage, old_pieces, old, single }
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
                for &Piece { at, len } in &self.old_pieces {
                    self.old.push((at, Area::duplicate(whole.region, self.at + at, len)?));
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
        for (at, len) in whole.staged.left(from, self.len) {
            whole.staged.move_over(at, len, whole.region, whole.staged_at + at)?;
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
                    if !self.single {
                        area.duplicate_over(0, area.len(), whole.region, self.at + at)?;
                        continue;
                    }
                    for (from, len) in area.left(0, area.len()) {
                        area.move_over(from, len, whole.region, self.at + at + from)?;
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

/// Lossless: offsets in a mapping, which memory holds already.
pub(super) fn bytes(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
