//! What a device needs of its memory, as the allocator honours it.
//!
//! What a driver has said holds on when it is gone, and after a restart: files are where the device can use them when it is back. A unit is what the memory is made of,
//! so that is compared and not made.

use crate::driver::saved::Saved;
use crate::store::Layout;
use crate::store::state::{Note, Pool, State};
use codax_core::driver::Needs;
use codax_core::extent::{self, Extent, FrameRun};
use codax_core::frame::{FrameFlags, FrameRecord, FrameState};
use codax_core::namespace::Namespace;
use codax_core::units::format_size;
use codax_core::{Error, FileId, Frame, PAGE_SIZE, PageCount, PageNo, PageRange, PoolId, Result};

/// How files have to lie in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    /// In frames: where a run begins that goes on no other.
    pub align: u64,
    /// Whether pages that follow each other have frames that do.
    pub contiguous: bool,
}

impl Default for Fit {
    fn default() -> Self {
        Self { align: 1, contiguous: false }
    }
}

impl Fit {
    fn of(needs: &Needs) -> Self {
        Self { align: needs.align / PAGE_SIZE, contiguous: needs.contiguous }
    }

    /// What is said of it where it leaves no room.
    pub fn why(self) -> String {
        let whole = if self.contiguous { " in one run" } else { "" };
        format!(
            "its device needs files{whole} from multiples of {} on",
            format_size(PageCount(self.align).bytes())
        )
    }
}

fn private_runs(needs: &Needs) -> Vec<FrameRun> {
    let run = |&(at, len): &(u64, u64)| FrameRun {
        frame: Frame(at / PAGE_SIZE),
        count: PageCount(len / PAGE_SIZE),
    };
    needs.private.iter().map(run).collect()
}

impl Pool {
    /// Takes what a driver needs, if what files have already allows it; else nothing is changed.
    pub fn set_needs(&mut self, needs: &Needs, extents: &[Vec<Extent>]) -> Result<()> {
        let unit = PageCount(self.record.unit()).bytes();
        if !unit.is_multiple_of(needs.unit) {
            return Err(Error::device_state(format!(
                "its driver needs units of {}, and its memory is given out in {}: configure it with such pages, as page=2M",
                format_size(needs.unit),
                format_size(unit)
            )));
        }
        let (fit, private) = (Fit::of(needs), private_runs(needs));
        let end = private.last().map_or(0, |run| run.frame.0 + run.count.0);
        if end > self.record.frames {
            let (end, has) =
                (format_size(PageCount(end).bytes()), format_size(PageCount(self.record.frames).bytes()));
            return Err(Error::invalid(format!(
                "its driver has memory of its own up to {end}, and there are {has}"
            )));
        }
        if extents.iter().any(|extents| !fits(fit, extents)) {
            return Err(Error::device_state(format!(
                "files lie there otherwise than its driver needs ({}): drain it and bring it online, then they don't",
                fit.why()
            )));
        }
        let had = std::mem::take(&mut self.private);
        had.iter().for_each(|run| self.alloc.release(*run));
        if let Some(at) = private.iter().position(|run| !self.alloc.claim(*run)) {
            private[..at].iter().for_each(|run| self.alloc.release(*run));
            had.iter().for_each(|run| assert!(self.alloc.claim(*run), "they were free a moment ago"));
            self.private = had;
            let (start, count) = (private[at].frame.0, private[at].count);
            let meets = |run: &FrameRun| run.frame.0 < start + count.0 && start < run.frame.0 + run.count.0;
            // A drain gets back what is lent, too.
            let who =
                if self.lent.iter().any(meets) { "the rest of the system has on loan" } else { "files have" };
            return Err(Error::device_state(format!(
                "{who} what its driver has for itself ({} from {} on): drain it, start its driver, and bring it online",
                format_size(count.bytes()),
                format_size(PageCount(start).bytes())
            )));
        }
        had.iter().for_each(|run| self.table.free(*run));
        (self.fit, self.private) = (fit, private);
        self.show_private(&self.table);
        self.tell_unused();
        Ok(())
    }

    /// Marks the device's own frames in a table.
    pub fn show_private(&self, table: &crate::table::FrameTable) {
        for run in &self.private {
            table.reserve(*run);
            table.set_flags(*run, FrameFlags::DEVICE_PRIVATE, true);
        }
    }
}

/// What a device needed when its driver was last there, at a start. A line for people if that can't be had.
pub(crate) fn remember_needs(layout: &Layout, ns: &Namespace, pool: &mut Pool) -> Result<Option<Note>> {
    let Some(last) = Saved::in_dir(layout.meta()).description(&pool.record.name)? else { return Ok(None) };
    let id = pool.record.id;
    let extents: Vec<Vec<Extent>> =
        ns.inodes().map(|inode| inode.extents.iter().filter(|e| e.pool == id).copied().collect()).collect();
    let refused = pool.set_needs(&last.needs, &extents).err();
    Ok(refused.map(|e| format!("{}: {e}", pool.record.name).into()))
}

/// Whether extents of a file, sorted by page, lie as they have to.
fn fits(fit: Fit, extents: &[Extent]) -> bool {
    let mut before: Option<&Extent> = None;
    extents.iter().all(|e| {
        let beside = before.is_some_and(|b| b.pages().end() == e.page.0);
        let goes_on = beside && before.is_some_and(|b| b.following() == e.frame);
        before = Some(e);
        goes_on || !(beside && fit.contiguous) && e.frame.0.is_multiple_of(fit.align)
    })
}

impl State {
    /// [`Pool::set_needs`] of what files have there now.
    pub fn set_needs(&mut self, pool: PoolId, needs: &Needs) -> Result<()> {
        let here = |extents: &[Extent]| -> Vec<Extent> {
            extents.iter().filter(|e| e.pool == pool).copied().collect()
        };
        let extents: Vec<_> = self.files_on(pool).map(|inode| here(&inode.extents)).collect();
        self.pool_mut(pool).set_needs(needs, &extents)
    }

    /// Takes frames for `pages` of a file where the pool's device needs them to lie in a certain way; of `ahead` pages more it is known that they will follow. `None` if
    /// there are none.
    pub fn allocate_fit(
        &mut self,
        pool: PoolId,
        file: FileId,
        pages: PageRange,
        (near, ahead): (Option<Frame>, PageCount),
    ) -> Option<Vec<FrameRun>> {
        let Pool { fit, .. } = *self.pool(pool);
        if fit == Fit::default() {
            return self.pool_mut(pool).alloc.allocate(pages.count, near);
        }
        let goes_on = self.goes_on(pool, file, pages, near)?;
        let alloc = &mut self.pool_mut(pool).alloc;
        match (goes_on, fit.contiguous) {
            (Some(frame), true) => {
                let run = FrameRun { frame, count: pages.count };
                alloc.claim(run).then(|| vec![run])
            }
            (None, true) => alloc.allocate_run(pages.count, fit.align, ahead).map(|run| vec![run]),
            (goes_on, false) => alloc.allocate_aligned(pages.count, fit.align, goes_on),
        }
    }

    /// The frame at which `pages` go on what the file has beside them; none if it has nothing there, and `None` in all if what it has before and behind them is not so
    /// far apart.
    #[allow(clippy::option_option, reason = "there may be none, and there may be no such")]
    fn goes_on(
        &self,
        pool: PoolId,
        file: FileId,
        pages: PageRange,
        near: Option<Frame>,
    ) -> Option<Option<Frame>> {
        let p = self.pool(pool);
        // What was reserved in this very change is in the table only.
        let reserved = near.filter(|near| {
            let before = near.0.checked_sub(1).map(|frame| p.table.get(Frame(frame)));
            let page = pages.start.0.checked_sub(1).map(|page| crate::table::shown_page(PageNo(page)));
            before.is_some_and(|FrameRecord { owner, page: its, state, .. }| {
                owner == Some(file) && Some(its) == page && state != FrameState::Free
            })
        });
        let extents = self.ns.get(file).map_or(&[][..], |inode| &inode.extents);
        let at = |page: Option<u64>| {
            let found = extent::slice(extents, PageRange::new(page?, 1));
            found.first().filter(|e| e.pool == pool).map(|e| e.frame.0)
        };
        let before =
            reserved.map(|frame| frame.0).or_else(|| at(pages.start.0.checked_sub(1)).map(|frame| frame + 1));
        let Some(behind) = at(Some(pages.end())).filter(|_| p.fit.contiguous) else {
            return Some(before.map(Frame));
        };
        let start = behind.checked_sub(pages.count.0)?;
        (before.is_none_or(|before| before == start)).then_some(Some(Frame(start)))
    }
}
