//! What was spilled to a device, and is asked for there by name since: it is no emergency's any more, and stays.

use crate::mover::without;
use crate::store::Inner;
use crate::store::state::{State, marked};
use codax_core::change::Change;
use codax_core::extent::Extent;
use codax_core::frame::FrameFlags;
use codax_core::{DRAM, FileId, PageRange, PoolId, Result};

impl State {
    /// What was spilled of a file to devices that its placement names by now.
    fn placed_by_name(&self, file: FileId) -> Vec<PageRange> {
        let spilled = self.ns.get(file).map(|inode| inode.spilled()).unwrap_or_default();
        if spilled.is_empty() {
            return Vec::new();
        }
        let placement = self.placement(file);
        spilled.iter().filter(|e| placement.pools().contains(&e.pool)).map(Extent::pages).collect()
    }
}

impl Inner {
    /// Has what was spilled stay where its placement has come to name the device.
    pub fn keep_what_is_placed(&self, st: &mut State) -> Result<()> {
        let files: Vec<FileId> = st.emergency.files.iter().copied().collect();
        for file in files {
            let pages = st.placed_by_name(file);
            self.keep(st, file, &pages)?;
        }
        Ok(())
    }

    /// Has what was spilled of these pages to a device stay there.
    pub fn keep_what_is_moved(
        &self,
        st: &mut State,
        file: FileId,
        pages: PageRange,
        to: PoolId,
    ) -> Result<()> {
        let spilled = st.ns.get(file).map(|inode| inode.spilled()).unwrap_or_default();
        let here = spilled.iter().filter(|e| e.pool == to);
        let pages: Vec<PageRange> = here.filter_map(|e| e.pages().intersect(pages)).collect();
        self.keep(st, file, &pages)
    }

    fn keep(&self, st: &mut State, file: FileId, pages: &[PageRange]) -> Result<()> {
        let Some(mut inode) = st.ns.get(file).filter(|_| !pages.is_empty()).cloned() else { return Ok(()) };
        let before = marked(&inode, &inode.extents);
        let (spilled, others) = inode.away.iter().copied().partition::<Vec<_>, _>(|run| run.pool == DRAM);
        inode.away = [others, without(&spilled, pages)].concat();
        inode.away.sort_by_key(|run| run.pages.start);
        let still = marked(&inode, &inode.extents);
        self.commit(st, &[Change::Put(Box::new(inode))])?;
        for (on, runs) in [(false, before), (true, still)] {
            for (pool, run) in runs {
                let pool = st.pool_mut(pool);
                pool.table.set_flags(run, FrameFlags::EMERGENCY, on);
                let spilled = &mut pool.spilled.0;
                *spilled = if on { *spilled + run.count.0 } else { spilled.saturating_sub(run.count.0) };
            }
        }
        Ok(())
    }
}
