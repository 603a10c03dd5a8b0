//! Where some pools have nothing but huge pages: which pages of files go together.
//!
//! What a file has of such a pool is whole *units*, huge pages at their multiples, also behind its end. And in a store that has such a pool, each *block* of
//! the file's pages (the largest unit there is) lies in one pool: so it can be taken to huge pages, and who maps the file maps whole blocks. Elsewhere
//! units and blocks are a page, and all of this changes nothing.

use crate::catalog::Catalog;
use crate::driver::Fit;
use crate::store::Inner;
use crate::store::state::{Pool, State};
use codax_core::change::{Change, PoolRecord};
use codax_core::extent::{self, FrameRun, PoolRun};
use codax_core::frame::{FrameFlags, FrameRecord};
use codax_core::info::ReserveInfo;
use codax_core::namespace::Inode;
use codax_core::units::format_size;
use codax_core::{FileId, Frame, PageCount, PageRange, PoolId, Result};

impl State {
    /// Pages of the largest unit of the pools.
    pub fn block(&self) -> u64 {
        self.pools.iter().map(|pool| pool.record.unit()).max().unwrap_or(1)
    }

    /// Pages of a unit of `pool`.
    pub fn unit(&self, pool: PoolId) -> u64 {
        self.pool(pool).record.unit()
    }

    /// Up to which page a file of `len` bytes has frames that it can't be without: where it ends, or the unit in which it does.
    pub fn end_of(&self, inode: &Inode, len: u64) -> PageCount {
        let end = PageCount::for_bytes(len);
        let last = end.0.checked_sub(1).map(|page| extent::slice(&inode.extents, PageRange::new(page, 1)));
        let unit = last.and_then(|last| last.first().map(|e| self.unit(e.pool))).unwrap_or(1);
        PageCount(end.0.next_multiple_of(unit))
    }

    /// The bytes behind a file's end that become part of it when it is `len` bytes long, and have memory already: the rest of its last page or unit.
    pub fn tail(&self, inode: &Inode, len: u64) -> (u64, u64) {
        let end =
            self.end_of(inode, inode.len).bytes().max(inode.len.next_multiple_of(codax_core::PAGE_SIZE));
        (inode.len, end.min(len))
    }

    /// Pages of a file that are to have frames, as those that go where the pages beside them in their block are, if there are any, and the rest.
    pub(super) fn beside_others(&self, file: FileId, pages: PageRange) -> (Option<PoolRun>, PageRange) {
        let block = self.block();
        let Some(inode) = self.ns.get(file).filter(|_| block > 1 && !pages.is_empty()) else {
            return (None, pages);
        };
        let first = PageRange::new(pages.start.0, 1).widened(block);
        let others = extent::slice(&inode.extents, first);
        let before = others.iter().rev().find(|e| e.page < pages.start);
        let Some(other) = before.or_else(|| others.first()) else { return (None, pages) };
        let here = pages.intersect(first).unwrap_or(pages);
        let rest = PageRange::new(here.end(), pages.end() - here.end());
        (Some(PoolRun { pages: here.widened(self.unit(other.pool)), pool: other.pool }), rest)
    }
}

impl Inner {
    /// Says what a pool has of the kernel's huge pages, if its pages are such, and what it lacks.
    pub(super) fn tell_reserve(&self, st: &State, pool: PoolId) {
        let pool = st.pool(pool);
        let Some(reserve) = pool.reserve_info() else { return };
        let ReserveInfo { page, taken, missing, why, kernel } = reserve;
        let mut line = format!(
            "{} in huge pages of {}; {} of the node stay with the kernel",
            format_size(taken),
            format_size(page),
            format_size(kernel)
        );
        if missing > 0 {
            line = format!("only {line}; {} are missing: {why}", format_size(missing));
            tracing::warn!("device {}: {line}", pool.record.name);
        }
        self.event("reserve", &pool.record.name, &line, taken);
    }
}

impl Pool {
    /// Every frame.
    pub fn all_frames(&self) -> FrameRun {
        FrameRun { frame: Frame(0), count: PageCount(self.record.frames) }
    }

    /// Frames that no file has, with those for which there is no memory.
    fn unused(&self) -> PageCount {
        PageCount(self.alloc.free().0 + frames(&self.absent).0 + frames(&self.private).0)
    }

    /// Tells its backing what it has to keep memory for.
    pub fn tell_unused(&self) {
        self.backing.keep(self.unused());
    }

    /// What its backing has of the kernel's huge pages, if it is made of such: without what is lent.
    pub fn reserve_info(&self) -> Option<ReserveInfo> {
        let reserve = self.backing.reserve()?;
        let lent = frames(&self.lent).bytes();
        Some(ReserveInfo { taken: reserve.taken.saturating_sub(lent), ..reserve })
    }

    /// Takes out of what can be given out the frames for which its backing has no memory.
    pub fn take_reserve(&mut self) -> Result<()> {
        self.backing.keep_all(self.unused())?;
        let missing = self.backing.reserve().map_or(0, |reserve| reserve.missing);
        self.set_absent(PageCount::for_bytes(missing));
        Ok(())
    }

    /// Writes on its medium that it is this store's.
    pub fn take_medium(&mut self) -> Result<()> {
        self.catalog.as_mut().map_or(Ok(()), |catalog| own_medium(catalog, &self.record))
    }

    /// Frames are nobody's any more: they can be given out again, but for those whose memory is damaged.
    pub fn give_back(&mut self, run: FrameRun) {
        if self.spilled.0 > 0 {
            let marked =
                |record: Result<FrameRecord>| record.is_ok_and(|r| r.flags.contains(FrameFlags::EMERGENCY));
            let mut spilled = self.spilled.0;
            self.table.for_each(run, |_, record| spilled = spilled.saturating_sub(u64::from(marked(record))));
            self.spilled.0 = spilled;
        }
        self.table.free(run);
        self.alloc.release(run);
        self.tell_unused();
        if let Some(reserve) = self.backing.holder() {
            reserve.returned(run.count.bytes());
        }
        let end = run.frame.0 + run.count.0;
        let touched = |bad: FrameRun| bad.frame.0 < end && run.frame.0 < bad.frame.0 + bad.count.0;
        if self.bad().any(touched) {
            self.retire();
        }
    }

    /// Frames that are not to be given out any more.
    fn bad(&self) -> impl Iterator<Item = FrameRun> + use<> {
        self.record.retired.clone().into_iter().chain(self.backing.unfit())
    }

    /// Remembers which frames are damaged by now, as the kernel says.
    pub fn know_bad_frames(&mut self, changed: &mut Vec<Change>) {
        let Some(record) = with_retired(&self.record, self.backing.bad_frames()) else { return };
        changed.retain(|change| !matches!(change, Change::Pool(its) if its.id == record.id));
        changed.insert(0, Change::Pool(record.clone()));
        self.record = record;
    }

    /// Takes out of what can be given out the frames whose memory is damaged.
    pub fn retire(&mut self) {
        for frame in self.bad().flat_map(|run| run.frame.0..run.frame.0 + run.count.0).map(Frame) {
            let one = FrameRun { frame, count: PageCount(1) };
            if self.alloc.is_free(frame) && self.alloc.claim(one) {
                self.table.retire(one);
            }
        }
    }

    /// Frames that can be given to a file, in a way in which its device can use them.
    pub fn usable(&self) -> PageCount {
        match self.fit {
            fit if fit == Fit::default() => self.alloc.free(),
            Fit { align, contiguous: true } => self.alloc.longest(align),
            Fit { align, contiguous: false } => self.alloc.free_aligned(align),
        }
    }

    /// Takes so many frames out of what can be given out, whole units, since there is no memory for them. Returns how many were free.
    pub fn set_absent(&mut self, missing: PageCount) -> PageCount {
        for run in self.absent.drain(..) {
            self.table.free(run);
            self.alloc.release(run);
        }
        let count = PageCount(missing.0.min(self.alloc.free().0));
        self.absent = self.alloc.allocate(count, None).unwrap_or_default();
        self.absent.iter().for_each(|run| self.table.reserve(*run));
        count
    }
}

/// Writes on a pool's medium that it is the pool's store's.
pub(super) fn own_medium(catalog: &mut Catalog, pool: &PoolRecord) -> Result<()> {
    match &pool.dax {
        Some(dax) if catalog.superblock().store != dax.owner => catalog.set_owner(dax.owner),
        _ => Ok(()),
    }
}

/// The record of a pool with these frames among those that are never used again; `None` if they all are already.
pub(crate) fn with_retired(
    pool: &PoolRecord,
    frames: impl IntoIterator<Item = FrameRun>,
) -> Option<PoolRecord> {
    let mut record = pool.clone();
    for run in frames {
        if !record.retired.contains(&run) {
            record.retired.push(run);
        }
    }
    (record.retired.len() > pool.retired.len()).then_some(record)
}

/// Frames in all, of runs.
pub(crate) fn frames(runs: &[FrameRun]) -> PageCount {
    PageCount(runs.iter().map(|run| run.count.0).sum())
}
