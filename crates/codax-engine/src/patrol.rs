//! The patrol: looks after pages that are to lie on a NUMA node.
//!
//! Whoever maps a file may have the kernel move its pages elsewhere (mbind(2), migrate_pages(2)), and nobody hears of it. So the kernel is asked, a
//! part of the store at a time, and what has strayed is brought back.

use crate::store::Inner;
use crate::store::lost::{WithMemory, nodes_of};
use crate::store::state::Pool;
use codax_core::change::{MoveRecord, PoolRecord, PoolState};
use codax_core::extent;
use codax_core::{FileId, PageCount, PageRange, PoolId, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;

/// Pages that are looked at in one go: some ten milliseconds of work, at a tenth of a microsecond each.
const AT_ONCE: u64 = 64 << 10;

/// Pages of one file that are looked at while others wait for it.
const CHUNK: u64 = 4 << 10;

/// Where the patrol is.
#[derive(Debug, Default)]
pub(crate) struct Patrol {
    /// Files that are still to be looked at in this round, the next one last.
    files: Vec<FileId>,
    /// The page of the next one to go on at.
    page: u64,
    /// Pools whose memory is gone: what lies elsewhere of them is where it has to be.
    lost: BTreeSet<PoolId>,
    /// Files of which it has been said that pages can't be brought back: it is said once.
    told: BTreeSet<FileId>,
}

impl Inner {
    /// Goes on where it was. A round begins anew when all files have been looked at.
    pub fn patrol(&self, patrol: &mut Patrol) {
        if patrol.files.is_empty() {
            self.look_for_nodes(&mut patrol.lost);
            let st = self.lock();
            let here = |pool: &Pool| pool.backing.is_placed() && !patrol.lost.contains(&pool.record.id);
            let placed: Vec<bool> = st.pools.iter().map(here).collect();
            if !placed.contains(&true) {
                return;
            }
            let here = |e: &extent::Extent| placed[usize::from(e.pool.0)];
            patrol.files = st.ns.inodes().filter(|i| i.extents.iter().any(here)).map(|i| i.id).collect();
            patrol.page = 0;
        }
        let mut left = AT_ONCE;
        while let Some(&file) = patrol.files.last().filter(|_| left > 0) {
            let pages = PageRange::new(patrol.page, CHUNK);
            let (looked, more) =
                self.look_after(file, pages, &patrol.lost, &mut patrol.told).unwrap_or_else(|e| {
                    tracing::debug!("patrol: #{file}: {e}");
                    (PageCount(1), false)
                });
            left = left.saturating_sub(looked.0.max(1));
            patrol.page += CHUNK;
            if !more {
                patrol.files.pop();
                patrol.page = 0;
            }
        }
    }

    /// Sees to it that all pages in the objects of a medium are on the nodes of their pools. Those of files that somebody moves or programs write to are
    /// looked after when that is over.
    pub fn bring_strays(&self, medium: PoolId) -> Result<()> {
        let lost = self.without_memory().into_keys().collect();
        let files: Vec<FileId> = self.lock().files_in(medium).map(|inode| inode.id).collect();
        for file in files {
            let mut page = 0;
            while self.look_after(file, PageRange::new(page, CHUNK), &lost, &mut BTreeSet::new())?.1 {
                page += CHUNK;
            }
        }
        Ok(())
    }

    /// Sees to it that pages which the kernel was moving when a daemon died are where the journal says.
    pub fn bring_back(&self, moves: &[MoveRecord]) {
        if moves.is_empty() {
            return;
        }
        let media = self.lock().media.clone();
        let lost = self.without_memory().into_keys().collect();
        for MoveRecord { file, to, chunks, .. } in moves {
            for chunk in chunks.iter().filter(|chunk| media.same(chunk.from, *to)) {
                let looked = self.look_after(*file, chunk.pages, &lost, &mut BTreeSet::new());
                if let Err(e) = looked {
                    tracing::warn!("pages of #{file} that were on their way: {e}");
                }
            }
        }
    }

    /// Pools whose nodes have no memory, and why.
    fn without_memory(&self) -> BTreeMap<PoolId, String> {
        let options = self.options();
        let machine = WithMemory::now();
        let st = self.lock();
        // Of a detached device it is no loss.
        let attached = st.pools.iter().map(|p| &p.record).filter(|pool| pool.state != PoolState::Detached);
        attached.filter_map(|pool| Some((pool.id, machine.lost(&nodes_of(pool, &options))?))).collect()
    }

    /// Has all pools take back what of their memory is free.
    pub fn tend(&self) {
        let backings: Vec<_> = self.lock().pools.iter().map(|pool| pool.backing.clone()).collect();
        backings.iter().for_each(|backing| backing.tend());
    }

    /// Looks which pools' nodes have memory, and says what has changed.
    fn look_for_nodes(&self, lost: &mut BTreeSet<PoolId>) {
        let now = self.without_memory();
        let pools: Vec<PoolRecord> = self.lock().pools.iter().map(|pool| pool.record.clone()).collect();
        for pool in &pools {
            match now.get(&pool.id) {
                Some(why) if lost.insert(pool.id) => {
                    tracing::warn!("{}: {why}", pool.name);
                    let detail = format!("{why}; the kernel has brought its files to other nodes");
                    self.event("lost", &pool.name, &detail, 0);
                }
                None if lost.remove(&pool.id) && pool.state != PoolState::Detached => {
                    self.event("found", &pool.name, "its NUMA node has memory again: its files come back", 0);
                }
                _ => {}
            }
        }
    }

    /// Looks after some pages of a file; how many there were, and whether there are more behind them. Leaves a file alone that somebody moves, or to
    /// which programs write behind the store's back.
    fn look_after(
        &self,
        file: FileId,
        pages: PageRange,
        lost: &BTreeSet<PoolId>,
        told: &mut BTreeSet<FileId>,
    ) -> Result<(PageCount, bool)> {
        let mut st = self.lock();
        let Some(inode) = st.ns.get(file) else { return Ok((PageCount(0), false)) };
        if inode.ahead.is_some() || st.is_busy(file) || st.closing {
            return Ok((PageCount(0), false));
        }
        let more = inode.extents.last().is_some_and(|e| e.pages().end() > pages.end());
        let placed = |e: &extent::Extent| st.pool(e.pool).backing.is_placed() && !lost.contains(&e.pool);
        let runs = extent::pool_runs(
            &extent::slice(&inode.extents, pages).into_iter().filter(placed).collect::<Vec<_>>(),
        );
        if runs.is_empty() {
            return Ok((PageCount(0), more));
        }
        let backings: Vec<_> = runs.iter().map(|run| st.pool(run.pool).backing.clone()).collect();
        // Our own descriptor would stand in the way of a lease.
        self.make_busy(&mut st, file, "look at its pages");
        drop(st);
        let mut astray = 0;
        let result = runs.iter().zip(&backings).try_for_each(|(run, backing)| {
            let object = backing.open(file, false)?;
            let strays = backing.astray(object.as_fd(), run.pages)?;
            astray += strays.bytes();
            if strays.0 > 0 { backing.confirm(object.as_fd(), run.pages) } else { Ok(()) }
        });
        let mut st = self.lock();
        self.end_busy(&mut st, file);
        let path = st.path(file);
        drop(st);
        let moved = "pages lay on another NUMA node";
        match &result {
            Ok(()) if astray > 0 => {
                // Where they lay there is room again.
                self.tend();
                self.event("stray", &path, &format!("{moved}: brought back"), astray);
            }
            Err(e) if astray > 0 && told.insert(file) => {
                tracing::warn!("{path}: {moved}, and they stay there: {e}");
                self.event("stray", &path, &format!("{moved}, and they stay there: {e}"), astray);
            }
            _ => {}
        }
        result?;
        told.remove(&file);
        Ok((PageCount(runs.iter().map(|run| run.pages.count.0).sum()), more))
    }
}
