//! What goes wrong with a medium while it is in use: it goes, or a part of its memory is damaged.

use crate::backing::{Backing, Missing};
use crate::store::Inner;
use crate::store::blocks::{frames, with_retired};
use crate::store::state::State;
use codax_core::change::{Change, PoolState};
use codax_core::extent::{self, FrameRun};
use codax_core::frame::FrameFlags;
use codax_core::namespace::{Inode, Lost};
use codax_core::{FileId, Frame, PageCount, PageRange, PoolId, PoolUuid, Result};
use std::sync::Arc;

/// What damaged memory is called on a medium: a pool that is never there.
pub(crate) const DAMAGED: PoolUuid = PoolUuid([0xff; 16]);

impl Inner {
    /// Lets go of media that have gone: nothing of them is open any more, so that they can come back. Their files can't be had until they are attached.
    pub fn look_for_media(&self) {
        let media: Vec<(PoolId, Arc<dyn Backing>)> = {
            let st = self.lock();
            let open = st.pools.iter().filter(|pool| pool.catalog.is_some());
            open.map(|pool| (pool.record.id, pool.backing.clone())).collect()
        };
        for (pool, backing) in media {
            let Some(why) = backing.gone() else { continue };
            let mut st = self.lock();
            // It may have been detached meanwhile.
            if !Arc::ptr_eq(&st.pool(pool).backing, &backing) {
                continue;
            }
            let name = st.pool_name(pool);
            tracing::error!("{name}: its device has gone: {why}");
            st.pool_mut(pool).backing = Arc::new(Missing::new(&name, &why));
            st.pool_mut(pool).catalog = None;
            drop(st);
            let detail = format!("its device has gone: {why}; codax device attach {name} when it is back");
            self.event("lost", &name, &detail, 0);
        }
    }

    /// Looks which pages of a file on media of their own can't be read, after something there failed: they are lost, and their frames are never used again.
    /// Whether some were found that were not known.
    pub fn note_damage(&self, file: FileId) -> bool {
        let looked: Vec<(PoolId, Arc<dyn Backing>, Vec<PageRange>)> = {
            let st = self.lock();
            let Some(inode) = st.ns.get(file) else { return false };
            let runs = extent::pool_runs(&inode.extents);
            let on =
                |pool: PoolId| runs.iter().filter(move |run| run.pool == pool).map(|run| run.pages).collect();
            let pools = st.media.of_extents(&inode.extents).into_iter();
            let pools = pools.filter(|pool| st.pool(*pool).catalog.is_some());
            pools.map(|pool| (pool, st.pool(pool).backing.clone(), on(pool))).collect()
        };
        let mut found = false;
        for (pool, backing, pages) in looked {
            let damaged = match backing.damaged(file, &pages) {
                Ok(damaged) => damaged,
                Err(e) => {
                    tracing::warn!("#{file}: which of its bytes can't be read: {e}");
                    continue;
                }
            };
            for pages in damaged {
                found |= self.lose(&mut self.lock(), file, pool, pages).unwrap_or_else(|e| {
                    tracing::error!("#{file}: bytes of it that can't be read: {e}");
                    false
                });
            }
        }
        found
    }

    /// Remembers frames that could not be given to files since their memory is damaged.
    pub fn retire_unfit(&self) {
        let mut st = self.lock();
        for at in 0..st.pools.len() {
            let Some(record) = with_retired(&st.pools[at].record, st.pools[at].backing.unfit()) else {
                continue;
            };
            let bytes = frames(&record.retired).bytes() - frames(&st.pools[at].record.retired).bytes();
            let name = record.name.clone();
            match self.commit(&mut st, &[Change::Pool(record.clone())]) {
                Ok(()) => {
                    st.pools[at].record = record;
                    st.pools[at].retire();
                    let detail = "memory that no file has is damaged, and never used again";
                    tracing::error!("{name}: {bytes} bytes of {detail}");
                    self.event("lost", &name, detail, bytes);
                }
                // They are not given out as long as the store is open.
                Err(e) => tracing::error!("{name}: damaged memory can't be noted: {e}"),
            }
        }
    }

    /// These pages of a file are lost with the memory they lie in.
    fn lose(&self, st: &mut State, file: FileId, pool: PoolId, pages: PageRange) -> Result<bool> {
        let Some(inode) = st.ns.get(file) else { return Ok(false) };
        let here = extent::slice(&inode.extents, pages).into_iter().filter(|e| e.pool == pool);
        let known = |page: u64| inode.first_lost(PageRange::new(page, 1)).is_some();
        let mut lost: Vec<Lost> = Vec::new();
        for e in here {
            for page in (e.page.0..e.page.0 + e.count.0).filter(|page| !known(*page)) {
                let frame = Frame(e.frame.0 + (page - e.page.0));
                match lost.last_mut() {
                    Some(run) if run.pages.end() == page && run.frame.0 + run.pages.count.0 == frame.0 => {
                        run.pages.count.0 += 1;
                    }
                    _ => lost.push(Lost { pages: PageRange::new(page, 1), pool: DAMAGED, frame }),
                }
            }
        }
        let pages_lost: u64 = lost.iter().map(|run| run.pages.count.0).sum();
        if pages_lost == 0 {
            return Ok(false);
        }
        let record = st.pool(pool).record.clone();
        let units = |run: &Lost| {
            let at = PageRange::new(run.frame.0, run.pages.count.0).widened(record.unit());
            let units = (at.start.0..at.end()).step_by(usize::try_from(record.unit()).unwrap_or(usize::MAX));
            units.map(|frame| FrameRun { frame: Frame(frame), count: PageCount(record.unit()) })
        };
        let record = with_retired(&record, lost.iter().flat_map(units)).unwrap_or(record.clone());
        let mut now: Inode = inode.clone();
        now.extra.get_or_insert_default().lost.extend(lost);
        self.commit(st, &[Change::Put(Box::new(now)), Change::Pool(record.clone())])?;
        st.pool_mut(pool).record = record;
        st.flag(file, pages, FrameFlags::POISONED, true);
        let (path, name) = (st.path(file), st.pool_name(pool));
        let detail = format!(
            "bytes {}..{} are gone: the memory of {name} is damaged there, and never used again",
            pages.offset(),
            pages.offset() + pages.bytes()
        );
        tracing::error!("{path}: {detail}");
        self.event("lost", &path, &detail, PageCount(pages_lost).bytes());
        Ok(true)
    }
}

/// The frames, whole units of so many pages, in which these bytes of a device lie whose frame 0 is at byte `data`.
pub(crate) fn frames_of(bad: &[(u64, u64)], data: u64, unit: u64, frames: u64) -> Vec<FrameRun> {
    let mut runs: Vec<FrameRun> = Vec::new();
    for (at, len) in bad {
        let all = units_of(*at, *len, data, unit, frames);
        for unit_no in 0..all.count.0 / unit {
            let run = FrameRun { frame: Frame(all.frame.0 + unit_no * unit), count: PageCount(unit) };
            if !runs.contains(&run) {
                runs.push(run);
            }
        }
    }
    runs
}

/// The same of one range of bytes, as one run.
pub(crate) fn units_of(at: u64, len: u64, data: u64, unit: u64, frames: u64) -> FrameRun {
    let size = PageCount(unit).bytes();
    let from = at.saturating_sub(data) / size;
    let to = at.saturating_add(len).saturating_sub(data).div_ceil(size).min(frames / unit);
    FrameRun { frame: Frame(from * unit), count: PageCount(to.saturating_sub(from) * unit) }
}

impl State {
    /// Why nothing of a pool can be had, if its device isn't there.
    pub fn without_device(&self, pool: PoolId) -> Option<String> {
        let pool = self.pool(pool);
        let is_missing = pool.record.dax.is_some() && pool.catalog.is_none();
        (is_missing && pool.record.state != PoolState::Detached).then(|| pool.backing.gone()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_bytes_are_whole_units() {
        let run = |frame, count| FrameRun { frame: Frame(frame), count: PageCount(count) };
        let (data, frames) = (4 << 20, 1024);
        assert_eq!(frames_of(&[(data + 4096, 4096)], data, 512, frames), [run(0, 512)]);
        assert_eq!(frames_of(&[(data + (2 << 20) - 1, 2)], data, 512, frames), [run(0, 512), run(512, 512)]);
        assert_eq!(frames_of(&[(0, 4096), (data + (4 << 20), 1)], data, 512, frames), []);
        assert_eq!(units_of(data + (2 << 20), u64::MAX, data, 512, frames), run(512, 512));
        assert_eq!(units_of(data + (4 << 20), 4096, data, 512, frames).count, PageCount(0));
        assert_eq!(frames_of(&[(data + 512, 512), (data + 1024, 512)], data, 1, frames), [run(0, 1)]);
    }
}
