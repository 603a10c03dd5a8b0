//! Frames of devices that nobody has and somebody maps: their file gave them up before the store was started, and whoever maps them sees what is there next.

use crate::store::Inner;
use crate::store::state::{Pool, State};
use codax_core::extent::{self, Extent, FrameRun};
use codax_core::{Frame, PageCount, PageNo, PoolId, Result};

impl Inner {
    /// Holds such frames of a pool until nobody maps them. A file that is there no more stands for those that are mapped at once.
    pub fn hold_mapped(&self, st: &mut State, pool: PoolId) -> Result<()> {
        let backing = st.pool(pool).backing.clone();
        for run in backing.mapped()? {
            let extents = st.pool_mut(pool).take_free(run);
            if extents.is_empty() {
                continue;
            }
            let file = st.ns.take_id();
            backing.adopt(file, PageCount(st.pool(pool).record.frames).bytes(), &extents)?;
            let bytes: u64 = extents.iter().map(|e| e.count.bytes()).sum();
            tracing::info!("{}: {bytes} bytes that no file has are mapped still", st.pool_name(pool));
            self.hold(st, file, pool, extents);
        }
        Ok(())
    }
}

impl Pool {
    /// Takes what of these frames is free, unit by unit; each is a page of its own number.
    fn take_free(&mut self, run: FrameRun) -> Vec<Extent> {
        let unit = self.record.unit();
        let end = run.frame.0.saturating_add(run.count.0).min(self.record.frames);
        let mut taken = Vec::new();
        let mut frame = run.frame.0 / unit * unit;
        while frame < end {
            let whole = FrameRun { frame: Frame(frame), count: PageCount(unit) };
            if self.alloc.is_free(whole.frame) && self.alloc.claim(whole) {
                let (page, pool) = (PageNo(frame), self.record.id);
                taken =
                    extent::insert(&taken, &[Extent { page, count: whole.count, pool, frame: whole.frame }]);
            }
            frame += unit;
        }
        taken
    }
}
