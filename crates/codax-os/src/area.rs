//! Address ranges: what a mapping of the store is made of, and what a live move lays over it.
//!
//! A [`Region`] is the range a program sees: its addresses never change, and it is never without a mapping while it
//! lives. An [`Area`] is a mapping beside it (a staged object, a duplicate, a placeholder), of which parts can be
//! moved over a region in one step of the kernel. What holds an object's memory is never inherited by a forked child.
#![allow(unsafe_code)]
//! Unsafe code: `mmap`, `munmap`, `mremap`, `madvise`. What must hold: a range is unmapped or replaced only by the
//! value that owns it. A region owns `start..start + total` from its making to its drop. An area owns the sub-ranges
//! it lists: a part that moved to a region leaves the list under the same lock, since the kernel may give its
//! addresses to somebody else at once. A forked child has not inherited most of these ranges, so nothing is unmapped
//! in a process that is not the maker.

use crate::fork;
use crate::uffd::Uffd;
use crate::util::{PAGE, invalid};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MremapFlags, ProtFlags};
use std::collections::HashSet;
use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::ptr::with_exposed_provenance_mut;
use std::sync::{Mutex, PoisonError};

pub use crate::memory::{Cells, Memory, Number};

/// Largest page that all mappings are aligned for, in bytes.
pub const HUGE: usize = 2 << 20;

/// The largest page there is, for which mappings are aligned where they are asked to be, in bytes.
const GIGANTIC: usize = 1 << 30;

/// A range of addresses that stays where it is, whatever is mapped there. Unmapped as a whole on drop.
#[derive(Debug)]
pub struct Region {
    start: usize,
    total: usize,
    base: usize,
    len: usize,
    maker: u32,
}

/// A mapping of its own beside the regions, or what is left of it. The rest is unmapped on drop.
#[derive(Debug)]
pub struct Area {
    base: usize,
    len: usize,
    owned: Mutex<Vec<Range<usize>>>,
    /// Addresses at which the kernel may have one mapping that ends and another that begins.
    seams: Vec<usize>,
    maker: u32,
}

/// A run of an object's bytes, and where it belongs.
#[derive(Clone, Copy, Debug)]
pub struct Piece<F> {
    /// Where it is mapped, in bytes from the beginning: the offset in the file. A multiple of the page.
    pub at: u64,
    /// The object.
    pub fd: F,
    /// Offset in the object, a multiple of its page.
    pub fd_off: u64,
    /// Length in bytes, a multiple of the object's page.
    pub len: u64,
}

impl Region {
    /// Reserves `len` bytes (rounded up to whole pages) at a multiple of 2 MiB. An access faults until something is
    /// placed there.
    pub fn reserve(len: usize) -> io::Result<Self> {
        Self::reserve_for(len, 0)
    }

    /// As [`Self::reserve`], for a part of a file that begins at `file_off` (a multiple of the page): the base is
    /// congruent to it modulo 2 MiB, so that huge pages can be mapped.
    pub fn reserve_for(len: usize, file_off: u64) -> io::Result<Self> {
        Self::reserve_in(len, file_off, HUGE)
    }

    /// As [`Self::reserve_for`], modulo `block`, a multiple of 2 MiB.
    pub fn reserve_in(len: usize, file_off: u64, block: usize) -> io::Result<Self> {
        let len = whole_pages(len)?;
        let phase = phase_of(file_off, block)?;
        let total = (phase + len).checked_next_multiple_of(HUGE).ok_or_else(too_large)?;
        let start = reserve_aligned(total, 0, block)?;
        Ok(Self { start, total, base: start + phase, len, maker: std::process::id() })
    }

    /// Maps an object over a part: `len` bytes from `fd_off` of `fd` at `off`. All multiples of the page.
    pub fn place(&self, off: usize, len: usize, fd: impl AsFd, fd_off: u64, write: bool) -> io::Result<()> {
        self.place_sync(off, len, fd, fd_off, write, false)
    }

    /// As [`Self::place`]; `sync`: with `MAP_SYNC`, which the object [takes](takes_sync). Then stores are durable once their cache lines are
    /// [written back](crate::durable::range).
    pub fn place_sync(
        &self,
        off: usize,
        len: usize,
        fd: impl AsFd,
        fd_off: u64,
        write: bool,
        sync: bool,
    ) -> io::Result<()> {
        let to = part(self.base, self.len, off, len)?;
        phase_of(fd_off, HUGE)?;
        map_object(to, len, fd, fd_off, write, sync).map(drop)
    }

    /// First address. Constant.
    #[must_use]
    #[inline]
    pub fn base(&self) -> usize {
        self.base
    }

    /// Length in bytes, whole pages.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a region has a page or more.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The whole region for loads and stores. Parts where nothing was placed, stores to what was placed read-only,
    /// and parts beyond the end of a truncated object end the process with a signal.
    #[must_use]
    #[inline]
    pub fn memory(&self) -> Memory<'_> {
        // SAFETY: `base..base + len` belongs to this region and stays mapped (to something) until it is dropped,
        // which the result's lifetime excludes; it is written through `Memory` and by other processes only, so no
        // reference to it exists but those of `Memory`'s own unsafe methods.
        unsafe { Memory::new(with_exposed_provenance_mut(self.base), self.len) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.maker == std::process::id() {
            unmap(self.start..self.start + self.total);
        }
    }
}

impl Area {
    /// Maps `len` bytes (rounded up to whole pages) of an object, from `fd_off`. The address is congruent to `fd_off`
    /// modulo 2 MiB, or the object's page if that is larger. The page of a DAX device is what it aligns mappings to.
    pub fn object(fd: impl AsFd, fd_off: u64, len: usize, write: bool) -> io::Result<Self> {
        Self::mapped(fd, fd_off, len, write, false)
    }

    /// As [`Self::object`], with `MAP_SYNC` where the object can be mapped so, and whether it is.
    pub fn object_sync(fd: impl AsFd, fd_off: u64, len: usize, write: bool) -> io::Result<(Self, bool)> {
        let sync = takes_sync(&fd, write)?;
        Ok((Self::mapped(fd, fd_off, len, write, sync)?, sync))
    }

    fn mapped(fd: impl AsFd, fd_off: u64, len: usize, write: bool, sync: bool) -> io::Result<Self> {
        let page = page_of(&fd)?;
        let len = len.checked_next_multiple_of(page).ok_or_else(too_large)?;
        let align = page.max(HUGE);
        let mut area = Self::reserve(len, phase_of(fd_off, align)?, align)?;
        area.seams.extend(map_object(area.base, area.len, fd, fd_off, write, sync)?);
        Ok(area)
    }

    /// Maps pieces of objects side by side for reading, each at its own place; between them accesses fault.
    pub(crate) fn pieces<F: AsFd>(pieces: &[Piece<F>]) -> io::Result<Self> {
        let ends: Option<Vec<u64>> = pieces.iter().map(|piece| piece.at.checked_add(piece.len)).collect();
        let end = ends.ok_or_else(too_large)?.into_iter().max().unwrap_or(0);
        Self::assembled(pieces, 0..end, false, false)
    }

    /// Maps pieces of objects side by side, each at its own place in `span`, where the area begins; between them accesses fault. The address is congruent
    /// to the beginning of `span` modulo 2 MiB, or the largest of the objects' pages if that is larger. `sync`: with `MAP_SYNC`, which all of them
    /// [take](takes_sync).
    pub fn assembled<F: AsFd>(
        pieces: &[Piece<F>],
        span: Range<u64>,
        write: bool,
        sync: bool,
    ) -> io::Result<Self> {
        let mut align = HUGE;
        let mut asked = HashSet::new();
        for piece in pieces {
            // Many pieces may be of one object.
            if asked.insert(piece.fd.as_fd().as_raw_fd()) {
                align = align.max(page_of(&piece.fd)?);
            }
        }
        let to_usize = crate::util::to_usize;
        let len = span.end.saturating_sub(span.start);
        let mut area = Self::reserve(to_usize(len), phase_of(span.start, align)?, align)?;
        for piece in pieces {
            let at =
                piece.at.checked_sub(span.start).ok_or_else(|| invalid("a piece lies before its area"))?;
            let to = part(area.base, area.len, to_usize(at), to_usize(piece.len))?;
            phase_of(piece.fd_off, HUGE)?;
            let seam = map_object(to, to_usize(piece.len), &piece.fd, piece.fd_off, write, sync)?;
            area.seams.extend([to, to + to_usize(piece.len)].into_iter().chain(seam));
        }
        Ok(area)
    }

    /// A second mapping of what is mapped in a part of a region, which must be one object at a run of its offsets.
    /// Its address is congruent to the part's modulo 2 MiB.
    ///
    /// If the part is registered with a userfaultfd, the duplicate is too, and this waits until another thread has
    /// read the event ([`Uffd::next_event`]).
    pub fn duplicate(region: &Region, off: usize, len: usize) -> io::Result<Self> {
        let from = part(region.base, region.len, off, len)?;
        let align = alignment(from, len);
        let area = Self::reserve(len, from % align, align)?;
        // SAFETY: the destination is the reservation just made, which nobody else knows. The source keeps its mapping
        // (an old size of 0 asks for a duplicate).
        unsafe { duplicate_at(from, len, area.base)? };
        Ok(area)
    }

    /// Private memory whose every first access waits: anonymous, without a page, registered with `uffd` for missing
    /// pages. To be laid over parts of regions by [`Self::move_over`], where threads then wait until something else
    /// lies there and they are [woken](Uffd::wake).
    pub fn placeholder(uffd: &Uffd, len: usize) -> io::Result<Self> {
        let area = Self::reserve(len, 0, HUGE)?;
        // SAFETY: changes what accesses to the reservation just made do; nobody else knows its addresses.
        unsafe {
            let access = rustix::mm::MprotectFlags::READ | rustix::mm::MprotectFlags::WRITE;
            rustix::mm::mprotect(pointer(area.base), area.len, access)?;
            rustix::mm::madvise(pointer(area.base), area.len, Advice::LinuxDontFork)?;
        }
        uffd.register_missing(area.base, area.len)?;
        Ok(area)
    }

    /// First address.
    #[must_use]
    pub fn base(&self) -> usize {
        self.base
    }

    /// Length in bytes when it was made, whole pages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: an area is made of a page or more.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Enters a part's pages into the page table, for writing or for reading, so that later accesses don't fault. An
    /// error if the part was moved away, or its object ends before it; the pages before that are entered.
    pub fn populate(&self, off: usize, len: usize, write: bool) -> io::Result<()> {
        let at = part(self.base, self.len, off, len)?;
        let owned = self.lock();
        covering(&owned, &(at..at + len))?;
        let advice = if write { Advice::LinuxPopulateWrite } else { Advice::LinuxPopulateRead };
        // SAFETY: populating changes no byte and no mapping; the part is ours while the lock is held.
        crate::util::retry(|| unsafe { rustix::mm::madvise(pointer(at), len, advice) })
    }

    /// What there is of a part that was not [moved](Self::move_over) yet, in pieces that can be: offsets and lengths, from the front to the back.
    #[must_use]
    pub fn left(&self, off: usize, len: usize) -> Vec<(usize, usize)> {
        let wanted = self.base + off..self.base + off + len;
        let mut left = Vec::new();
        for owned in self.lock().iter() {
            let (mut from, end) = (owned.start.max(wanted.start), owned.end.min(wanted.end));
            while from < end {
                let seam = self.seams.iter().filter(|seam| (from + 1..end).contains(seam)).min();
                let to = *seam.unwrap_or(&end);
                left.push((from - self.base, to - from));
                from = to;
            }
        }
        left.sort_unstable();
        left
    }

    /// Moves a part over a part of a region, in one step: a thread sees the old mapping there or the new one. The
    /// part, which must be one mapping (a [piece](Self::left) is), then belongs to the region. Both addresses should be congruent modulo 2 MiB, so that whole page tables
    /// move.
    ///
    /// If the part is registered with a userfaultfd (a placeholder), this waits until another thread has read the
    /// event ([`Uffd::next_event`]). Threads that waited in what was replaced must be [woken](Uffd::wake). It fails
    /// with `OutOfMemory` if the process has too many mappings; the region is unchanged then.
    pub fn move_over(&self, off: usize, len: usize, region: &Region, region_off: usize) -> io::Result<()> {
        let from = part(self.base, self.len, off, len)?;
        let to = part(region.base, region.len, region_off, len)?;
        let mut owned = self.lock();
        let index = covering(&owned, &(from..from + len))?;
        // SAFETY: the source is ours (checked above, and the lock is held), the destination is the region's. No
        // references into either exist but those a caller of `Memory`'s unsafe methods answers for, and a move keeps
        // the bytes.
        let moved =
            unsafe { rustix::mm::mremap_fixed(pointer(from), len, len, MremapFlags::MAYMOVE, pointer(to)) };
        if let Err(e) = moved {
            close_gap(to, len);
            return Err(e.into());
        }
        let whole = owned.swap_remove(index);
        let rest = [whole.start..from, from + len..whole.end];
        owned.extend(rest.into_iter().filter(|part| !part.is_empty()));
        Ok(())
    }

    /// Maps what a part maps over a part of a region too; the area keeps its own. Otherwise as [`Self::move_over`];
    /// not for placeholders.
    pub fn duplicate_over(
        &self,
        off: usize,
        len: usize,
        region: &Region,
        region_off: usize,
    ) -> io::Result<()> {
        let from = part(self.base, self.len, off, len)?;
        let to = part(region.base, region.len, region_off, len)?;
        let owned = self.lock();
        covering(&owned, &(from..from + len))?;
        // SAFETY: the source is ours while the lock is held, and stays; the destination is the region's.
        unsafe { duplicate_at(from, len, to) }
    }

    /// An inaccessible area of `len` bytes at `phase` modulo `align`.
    fn reserve(len: usize, phase: usize, align: usize) -> io::Result<Self> {
        let len = whole_pages(len)?;
        let base = reserve_aligned(len, phase, align)?;
        let whole = base..base + len;
        let (owned, seams) = (Mutex::new(vec![whole]), Vec::new());
        Ok(Self { base, len, owned, seams, maker: std::process::id() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Range<usize>>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        if self.maker == std::process::id() {
            self.lock().drain(..).for_each(unmap);
        }
    }
}

fn pointer(address: usize) -> *mut c_void {
    with_exposed_provenance_mut(address)
}

fn too_large() -> io::Error {
    invalid("a range is larger than the address space")
}

fn whole_pages(len: usize) -> io::Result<usize> {
    match len.checked_next_multiple_of(PAGE) {
        // Beyond a quarter of the address space alignment could overflow; no kernel maps so much.
        Some(len) if len <= usize::MAX / 4 => match len {
            0 => Err(invalid("a range of no bytes can't be mapped")),
            len => Ok(len),
        },
        _ => Err(too_large()),
    }
}

/// What a second mapping of this range has to be aligned for: it may be of gigantic pages.
fn alignment(from: usize, len: usize) -> usize {
    if from.is_multiple_of(GIGANTIC) && len.is_multiple_of(GIGANTIC) { GIGANTIC } else { HUGE }
}

fn phase_of(file_off: u64, align: usize) -> io::Result<usize> {
    let phase = crate::util::to_usize(file_off) % align;
    if !phase.is_multiple_of(PAGE) {
        return Err(invalid("an offset in a file is not a multiple of the page"));
    }
    Ok(phase)
}

/// The address of a part, if it is made of whole pages and lies inside.
fn part(base: usize, whole: usize, off: usize, len: usize) -> io::Result<usize> {
    let fits = off.checked_add(len).is_some_and(|end| end <= whole);
    if !fits || len == 0 || !off.is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) {
        return Err(invalid(format!("{len} bytes at {off} are no pages of a range of {whole} bytes")));
    }
    Ok(base + off)
}

/// Which of the owned ranges covers `part`.
fn covering(owned: &[Range<usize>], part: &Range<usize>) -> io::Result<usize> {
    owned
        .iter()
        .position(|range| range.start <= part.start && part.end <= range.end)
        .ok_or_else(|| invalid("this part of an area was moved away before"))
}

/// `len` inaccessible bytes whose address is `phase` modulo `align`; all multiples of the page.
fn reserve_aligned(len: usize, phase: usize, align: usize) -> io::Result<usize> {
    let spare = len.checked_add(align).ok_or_else(too_large)?;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a null address lets the kernel choose one where nothing is mapped.
    let found =
        unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), spare, ProtFlags::empty(), flags)? };
    let found = found.expose_provenance();
    let start = found + (phase + align - found % align) % align;
    if start > found {
        unmap(found..start);
    }
    if start + len < found + spare {
        unmap(start + len..found + spare);
    }
    Ok(start)
}

/// What mappings of an object are multiples of, in bytes.
pub fn page_of(fd: impl AsFd) -> io::Result<usize> {
    // Of a device that sysfs doesn't tell about, 2 MiB are the most likely, and right for any that isn't DAX.
    if let Some(number) = crate::object::char_device(&fd)? {
        let align = crate::topology::dax_align(Path::new(crate::topology::SYSFS), number);
        return Ok(align.map_or(HUGE, crate::util::to_usize));
    }
    Ok(crate::hugetlb::page_of(&fd)?.map_or(PAGE, crate::util::to_usize))
}

/// Whether an object can be mapped with `MAP_SYNC`: tried beside, since a refusal may come when what was mapped before is gone.
pub fn takes_sync(fd: impl AsFd, write: bool) -> io::Result<bool> {
    let page = page_of(&fd)?;
    let access = if write { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
    let flags = MapFlags::SHARED_VALIDATE | MapFlags::SYNC | MapFlags::NORESERVE;
    let _no_fork = fork::gate();
    // SAFETY: a null address lets the kernel choose one where nothing is mapped; for a device it chooses an aligned one.
    match unsafe { rustix::mm::mmap(std::ptr::null_mut(), page, access, flags, &fd, 0) } {
        Ok(at) => {
            let at = at.expose_provenance();
            unmap(at..at + page);
            Ok(true)
        }
        // A kernel or filesystem that knows no such mapping says one or the other.
        Err(Errno::OPNOTSUPP | Errno::INVAL) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Maps an object at `to`, replacing what is there. The caller owns `to..to + len`. `sync`: with `MAP_SYNC`, of which is known that it can be. Returns where the kernel
/// has it as two mappings, if it does.
fn map_object(
    to: usize,
    len: usize,
    fd: impl AsFd,
    fd_off: u64,
    write: bool,
    sync: bool,
) -> io::Result<Option<usize>> {
    let access = if write { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
    let shared = if sync { MapFlags::SHARED_VALIDATE | MapFlags::SYNC } else { MapFlags::SHARED };
    // Of hugetlbfs a mapping would keep pages back for the object's holes.
    let flags = shared | MapFlags::FIXED | MapFlags::NORESERVE;
    let _no_fork = fork::gate();
    // SAFETY: the range belongs to the caller's region or area (both callers pass a checked part of theirs), so
    // nothing of anybody else is replaced. No references into it exist but those a caller of `Memory`'s unsafe
    // methods answers for.
    let mapped = unsafe { rustix::mm::mmap(pointer(to), len, access, flags, &fd, fd_off) };
    if let Err(e) = mapped {
        close_gap(to, len);
        return Err(e.into());
    }
    // SAFETY: as above; what is mapped there is the mapping just made.
    unsafe {
        rustix::mm::madvise(pointer(to), len, Advice::LinuxDontFork)?;
    }
    // Where it goes on behind the object's end, to that of a huge page, the kernel would make that page whole and take memory for it (khugepaged).
    // A device has no end to speak of, and huge pages of its own.
    if !(to + len).is_multiple_of(HUGE) || crate::object::char_device(&fd)?.is_some() {
        return Ok(None);
    }
    let end = crate::util::to_usize(crate::object::stat(&fd)?.len.saturating_sub(fd_off));
    if len > end.next_multiple_of(PAGE) {
        let from = end / HUGE * HUGE;
        // SAFETY: as above; it changes no byte. A kernel without huge pages refuses it, and has no need of it.
        let _ = unsafe { rustix::mm::madvise(pointer(to + from), len - from, Advice::LinuxNoHugepage) };
        return Ok(Some(to + from));
    }
    Ok(None)
}

/// After a call that was to map something at `to` and failed: where the kernel has refused when what was there was unmapped already, the gap would be anybody's, and would be
/// unmapped under them with the rest of the range.
fn close_gap(to: usize, len: usize) {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
    // SAFETY: nothing is replaced: where something is mapped the kernel refuses.
    let _ = unsafe { rustix::mm::mmap_anonymous(pointer(to), len, ProtFlags::empty(), flags) };
}

/// Maps at `to` what is mapped at `from`. Flags are inherited, "not in children" among them.
///
/// # Safety
///
/// `to..to + len` belongs to the caller, and there are no references into it.
unsafe fn duplicate_at(from: usize, len: usize, to: usize) -> io::Result<()> {
    let flags = MremapFlags::MAYMOVE;
    // SAFETY: with an old size of 0 the kernel leaves the source as it is (it refuses private mappings), and replaces
    // what is at the destination, which is the caller's by this function's contract.
    unsafe { rustix::mm::mremap_fixed(pointer(from), 0, len, flags, pointer(to)) }
        .map(drop)
        .inspect_err(|_| close_gap(to, len))
        .map_err(Into::into)
}

/// Unmaps a range that the caller owns and that nobody uses any more.
fn unmap(range: Range<usize>) {
    // SAFETY: called for ranges that a region or area owns, in their drop, or for what a fresh reservation has too
    // much. It can fail only where the kernel must split a mapping and may not; the range then stays, which harms
    // nobody.
    let _ = unsafe { rustix::mm::munmap(pointer(range.start), range.len()) };
}
