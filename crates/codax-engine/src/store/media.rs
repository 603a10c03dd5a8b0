//! Media: the directories that hold objects.
//!
//! Most pools have one of their own. Pools that are memory of NUMA nodes and have pages of one kind share one: a file has a single object there,
//! whichever of these pools its pages are in, and the kernel moves pages from one to the other under whoever maps them. So do pools of huge pages of one
//! size, on a hugetlbfs.
//!
//! The tmpfs of a shared medium has room for all of its pools. What programs write through the kernel has memory before it has frames, so while
//! somebody may do that, the room is what is in use and what is free in the pools that such files grow in.

use crate::store::Inner;
use crate::store::state::State;
use codax_core::change::{NodeMemory, PageKind, PoolRecord, PoolState};
use codax_core::extent::{self, Extent};
use codax_core::namespace::Inode;
use codax_core::{PageCount, PageRange, PoolId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// For each pool, the pool in whose directory its objects are, which stands for the medium.
#[derive(Clone, Debug, Default)]
pub(crate) struct Media(Arc<[PoolId]>);

impl Media {
    /// The media of pools, by their ids.
    pub fn new<'a>(pools: impl Iterator<Item = &'a PoolRecord>) -> Self {
        Self(pools.map(|pool| pool.medium).collect())
    }

    pub fn of(&self, pool: PoolId) -> PoolId {
        self.0.get(usize::from(pool.0)).copied().unwrap_or(pool)
    }

    /// Whether the kernel moves pages from one of these pools to the other.
    pub fn same(&self, a: PoolId, b: PoolId) -> bool {
        self.of(a) == self.of(b)
    }

    /// All media, each once.
    pub fn all(&self) -> BTreeSet<PoolId> {
        self.0.iter().copied().collect()
    }

    /// The pools of a medium.
    pub fn pools(&self, medium: PoolId) -> impl Iterator<Item = PoolId> + '_ {
        let ids = (0..).map(PoolId).zip(self.0.iter());
        ids.filter(move |(_, its)| **its == medium).map(|(pool, _)| pool)
    }

    pub fn is_shared(&self, medium: PoolId) -> bool {
        self.pools(medium).nth(1).is_some()
    }

    /// Where a file with these extents has objects.
    pub fn of_extents(&self, extents: &[Extent]) -> BTreeSet<PoolId> {
        extents.iter().map(|e| self.of(e.pool)).collect()
    }

    /// Where a file has objects.
    pub fn of_inode(&self, inode: &Inode) -> BTreeSet<PoolId> {
        let mut media = self.of_extents(&inode.extents);
        media.extend(inode.ahead.map(|pool| self.of(pool)));
        media
    }

    /// What of `extents` is in the object that holds the pool's pages.
    pub fn extents(&self, pool: PoolId, extents: &[Extent]) -> Vec<Extent> {
        extents.iter().filter(|e| self.same(e.pool, pool)).copied().collect()
    }

    /// The pages of a file in the object that holds the pool's.
    pub fn pages(&self, inode: &Inode, pool: PoolId) -> Vec<PageRange> {
        extent::pool_runs(&self.extents(pool, &inode.extents)).into_iter().map(|run| run.pages).collect()
    }
}

/// The medium for a new pool with the id `own`: that of a pool whose memory the kernel can move it to and from, or its own.
pub(crate) fn medium_for(pools: &[PoolRecord], own: PoolId, memory: NodeMemory, dram: DramPages) -> PoolId {
    let alike = |pool: &&PoolRecord| {
        let page = match pool.numa {
            Some(memory) => Some(memory.page),
            None if crate::store::state::is_dram(pool.id) => dram.0,
            None => None,
        };
        pool.medium == pool.id && page == Some(memory.page) && pool.state != PoolState::Detached
    };
    if !codax_os::numa::can_move() {
        return own;
    }
    pools.iter().find(alike).map_or(own, |pool| pool.id)
}

/// In which pages files lie in `dram`; none where its memory is of no node in particular.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DramPages(pub Option<PageKind>);

impl Inner {
    /// Gives each medium that pools share as much room as there is now.
    pub fn fit_media(&self) {
        let mut st = self.lock();
        st.media.all().into_iter().for_each(|medium| st.fit_medium(medium));
    }
}

impl State {
    /// Whether something that the file left is still held in the object that holds the pool's pages.
    pub fn has_held(&self, file: codax_core::FileId, pool: PoolId) -> bool {
        self.media.pools(self.media.of(pool)).any(|pool| self.pool(pool).held.contains_key(&file))
    }

    /// Files with pages, or an object that may have some, in a medium; orphans included.
    pub fn files_in(&self, medium: PoolId) -> impl Iterator<Item = &Inode> {
        let here = move |pool: PoolId| self.media.of(pool) == medium;
        self.ns.inodes().filter(move |i| i.ahead.is_some_and(here) || i.extents.iter().any(|e| here(e.pool)))
    }

    /// One file fewer, or more, is ahead of its inode in these pools.
    pub fn count_ahead(&mut self, was: Option<PoolId>, now: Option<PoolId>) {
        if was == now {
            return;
        }
        if let Some(pool) = was {
            self.pool_mut(pool).ahead -= 1;
        }
        if let Some(pool) = now {
            self.pool_mut(pool).ahead += 1;
        }
        for pool in [was, now].into_iter().flatten() {
            self.fit_medium(pool);
        }
    }

    /// Gives the medium of a pool as much room as there is now.
    pub fn fit_medium(&mut self, pool: PoolId) {
        let medium = self.media.of(pool);
        if !self.media.is_shared(medium) {
            return;
        }
        let pools = || self.media.pools(medium).map(|pool| self.pool(pool));
        let growing = pools().filter(|p| p.ahead > 0).map(|p| p.alloc.free().0).max();
        let frames: u64 = match growing {
            None => pools().map(|p| p.record.frames).sum(),
            Some(free) => free + pools().map(|p| p.record.frames - p.alloc.free().0).sum::<u64>(),
        };
        let bytes = PageCount(frames).bytes();
        if self.pool(medium).limit == Some(bytes) {
            return;
        }
        match self.pool(medium).backing.limit(bytes) {
            Ok(()) => self.pool_mut(medium).limit = Some(bytes),
            // More is in use than there is to be: it is tried again when something changes.
            Err(e) => tracing::debug!("room of {}: {e}", self.pool_name(medium)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_core::change::{BackingKind, LinkModel};
    use codax_core::namespace::Kind;
    use codax_core::{DRAM, FileId, Frame, PageNo};

    fn pool(id: u16, medium: u16, page: Option<PageKind>) -> PoolRecord {
        PoolRecord {
            id: PoolId(id),
            name: format!("p{id}"),
            backing: BackingKind::Shm,
            numa: page.map(|page| NodeMemory { node: u32::from(id), page }),
            dax: None,
            persistent: false,
            retired: Vec::new(),
            medium: PoolId(medium),
            frames: 1,
            link: LinkModel::default(),
            state: PoolState::Online,
            drain_limit: None,
            drain_terms: Default::default(),
        }
    }

    #[test]
    fn only_pools_with_pages_of_one_kind_share_a_medium() {
        if !codax_os::numa::can_move() {
            return;
        }
        let (thp, small) = (PageKind::Transparent, PageKind::Small);
        let known = [pool(0, 0, None), pool(1, 1, Some(small)), pool(2, 0, Some(thp))];
        let medium =
            |page, dram| medium_for(&known, PoolId(3), NodeMemory { node: 9, page }, DramPages(dram));
        assert_eq!(medium(thp, Some(thp)), DRAM);
        assert_eq!(medium(small, Some(thp)), PoolId(1));
        assert_eq!(medium(thp, Some(small)), PoolId(3), "pool 2 has its objects elsewhere");
        assert_eq!(medium(thp, None), PoolId(3), "dram that is of no node");
        assert_eq!(medium(PageKind::Huge, Some(thp)), PoolId(3));
        let huge = [pool(0, 0, None), pool(1, 1, Some(PageKind::Huge)), pool(2, 2, Some(PageKind::Gigantic))];
        let beside = |page| medium_for(&huge, PoolId(3), NodeMemory { node: 9, page }, DramPages(Some(thp)));
        assert_eq!((beside(PageKind::Huge), beside(PageKind::Gigantic)), (PoolId(1), PoolId(2)));
        let gone = [PoolRecord { state: PoolState::Detached, ..pool(1, 1, Some(small)) }];
        assert_eq!(
            medium_for(&gone, PoolId(2), NodeMemory { node: 9, page: small }, DramPages(None)),
            PoolId(2)
        );
    }

    #[test]
    fn a_file_has_one_object_in_each_medium() {
        let pools = [pool(0, 0, None), pool(1, 1, None), pool(2, 0, None)];
        let media = Media::new(pools.iter());
        assert!(media.same(DRAM, PoolId(2)) && !media.same(DRAM, PoolId(1)));
        assert_eq!((media.is_shared(DRAM), media.is_shared(PoolId(1))), (true, false));
        assert_eq!(media.pools(DRAM).collect::<Vec<_>>(), [DRAM, PoolId(2)]);
        let extent = |page, count, pool| Extent {
            page: PageNo(page),
            count: PageCount(count),
            pool: PoolId(pool),
            frame: Frame(page),
        };
        let mut inode = Inode::new(FileId(7), Kind::File, 0o600, 0, 0, 0);
        inode.extents = vec![extent(0, 2, 0), extent(2, 3, 2), extent(5, 1, 1)];
        assert_eq!(media.of_inode(&inode), [DRAM, PoolId(1)].into());
        assert_eq!(media.pages(&inode, PoolId(2)), [PageRange::new(0, 2), PageRange::new(2, 3)]);
        inode.extents.truncate(2);
        inode.ahead = Some(PoolId(1));
        assert_eq!(media.of_inode(&inode), [DRAM, PoolId(1)].into());
    }
}
