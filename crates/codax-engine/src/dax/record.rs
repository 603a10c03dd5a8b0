//! What catalogs are told of the store's changes, before those happen.
//!
//! A catalog has the files that have pages in its pool, and what is placed there and has no pages: empty files, links, directories; and the directories that
//! lead to all of these.

use crate::catalog::{Contents, Entry, Node, NodeExtent};
use crate::store::Inner;
use crate::store::state::State;
use codax_core::change::Change;
use codax_core::namespace::{Extra, Inode, Kind};
use codax_core::placement::Placement;
use codax_core::{FileId, PoolId, PoolUuid, Result};
use std::collections::{BTreeMap, BTreeSet};

/// What a volatile pool is called on a medium: nobody will ever find it.
const NOWHERE: PoolUuid = PoolUuid([0; 16]);

impl Inner {
    /// Tells the catalogs of changes that are about to be made. Those of the pools in which pages will be come first, so that no other
    /// ever names frames that their own pool doesn't know of. All are told, or none.
    pub fn record(&self, st: &mut State, changes: &[Change]) -> Result<()> {
        if st.pools.iter().all(|pool| pool.catalog.is_none()) {
            return Ok(());
        }
        let clock = u64::try_from(self.env.wall_ns()).unwrap_or(0);
        st.version = clock.max(st.version.saturating_add(1));
        let targets: BTreeSet<PoolId> = changes
            .iter()
            .filter_map(|change| if let Change::Put(inode) = change { Some(inode) } else { None })
            .flat_map(|inode| inode.extents.iter().map(|e| e.pool))
            .collect();
        let mut pools: Vec<PoolId> =
            st.pools.iter().filter(|p| p.catalog.is_some()).map(|p| p.record.id).collect();
        pools.sort_by_key(|pool| !targets.contains(pool));
        let mut told = false;
        for pool in pools {
            let entries = match &st.pool(pool).catalog {
                Some(catalog) => Recorder::new(st, pool, catalog.contents()).entries(changes),
                None => Vec::new(),
            };
            let catalog = st.pool_mut(pool).catalog.as_mut().filter(|_| !entries.is_empty());
            match catalog.map(|catalog| catalog.append(&entries)) {
                None => {}
                Some(Ok(())) => told = true,
                Some(Err(e)) => {
                    if told {
                        self.align_catalogs(st);
                    }
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// Brings the catalogs in line with the store, which is the truth.
    pub fn align_catalogs(&self, st: &mut State) {
        for at in 0..st.pools.len() {
            let pool = st.pools[at].record.id;
            if let Err(e) = self.align_catalog(st, pool) {
                tracing::error!("the catalog of {}: {e}", st.pool_name(pool));
                self.event("lost", &st.pool_name(pool), &format!("its catalog can't be written: {e}"), 0);
            }
        }
    }

    /// Brings the catalog of a pool in line with the store.
    fn align_catalog(&self, st: &mut State, pool: PoolId) -> Result<()> {
        let clock = u64::try_from(self.env.wall_ns()).unwrap_or(0);
        st.version = clock.max(st.version.saturating_add(1));
        let Some(catalog) = &st.pool(pool).catalog else { return Ok(()) };
        let difference = catalog.contents().difference(&wanted(st, pool, catalog.contents()));
        match st.pool_mut(pool).catalog.as_mut() {
            Some(catalog) => catalog.append(&difference),
            None => Ok(()),
        }
    }
}

/// What the catalog of a pool should have. A node that says the same as before keeps its version.
pub(crate) fn wanted(st: &State, pool: PoolId, now: &Contents) -> Contents {
    let none = Contents::default();
    let mut recorder = Recorder::new(st, pool, &none);
    for inode in st.ns.inodes() {
        if recorder.belongs(inode) {
            recorder.put(inode);
        }
    }
    let mut wanted: Contents = recorder.entries.iter().collect();
    let same: Vec<Node> = wanted
        .nodes()
        .filter_map(|node| {
            let old = now.node(node.id)?;
            (Node { version: old.version, ..node.clone() } == *old).then(|| old.clone())
        })
        .collect();
    same.into_iter().for_each(|node| wanted.apply(&Entry::Put(Box::new(node))));
    wanted
}

/// Makes entries of changes, for one catalog.
pub(crate) struct Recorder<'a> {
    st: &'a State,
    pool: PoolId,
    now: &'a Contents,
    /// What has changed of what it knows.
    known: BTreeMap<FileId, bool>,
    /// Inodes as the changes make them.
    puts: BTreeMap<FileId, &'a Inode>,
    entries: Vec<Entry>,
}

impl<'a> Recorder<'a> {
    pub fn new(st: &'a State, pool: PoolId, now: &'a Contents) -> Self {
        Self { st, pool, now, known: BTreeMap::new(), puts: BTreeMap::new(), entries: Vec::new() }
    }

    /// The entries that these changes make.
    pub fn entries(mut self, changes: &'a [Change]) -> Vec<Entry> {
        for change in changes {
            match change {
                Change::Put(inode) => {
                    self.puts.insert(inode.id, inode);
                    let leads = inode.kind == Kind::Dir && self.knows(inode.id);
                    match self.belongs(inode) || leads {
                        true => self.put(inode),
                        false if self.knows(inode.id) => self.forget(inode.id),
                        false => {}
                    }
                }
                Change::Drop(id) if self.knows(*id) => self.forget(*id),
                Change::Link { dir, name, child } => self.link(*dir, name, *child),
                Change::Unlink { dir, name } if self.now.link(*dir, name).is_some() => {
                    self.entries.push(Entry::Unlink { dir: *dir, name: name.clone() });
                }
                _ => {}
            }
        }
        self.prune();
        self.entries
    }

    /// Forgets directories that lead to nothing any more.
    fn prune(&mut self) {
        let mut left: BTreeSet<FileId> = self
            .entries
            .iter()
            .filter_map(|entry| if let Entry::Unlink { dir, .. } = entry { Some(*dir) } else { None })
            .collect();
        while let Some(dir) = left.pop_last() {
            let Some(inode) = self.inode(dir).filter(|_| self.knows(dir)) else { continue };
            if self.belongs(inode) || self.leads_somewhere(dir) {
                continue;
            }
            left.extend(self.st.ns.parent_of(dir).map(|(above, _)| above));
            self.forget(dir);
        }
    }

    /// Whether a directory has names in the catalog when all is done.
    fn leads_somewhere(&self, dir: FileId) -> bool {
        let mut names: BTreeSet<&[u8]> = self.now.names_in(dir).map(|(name, _)| name).collect();
        for entry in &self.entries {
            match entry {
                Entry::Link { dir: its, name, .. } if *its == dir => drop(names.insert(name)),
                Entry::Unlink { dir: its, name } if *its == dir => drop(names.remove(&name[..])),
                _ => {}
            }
        }
        !names.is_empty()
    }

    fn knows(&self, id: FileId) -> bool {
        self.known.get(&id).copied().unwrap_or_else(|| self.now.node(id).is_some())
    }

    fn inode(&self, id: FileId) -> Option<&'a Inode> {
        self.puts.get(&id).copied().or_else(|| self.st.ns.get(id))
    }

    /// Whether an inode that has names belongs to the pool's files.
    fn belongs(&self, inode: &Inode) -> bool {
        if inode.extents.iter().any(|e| e.pool == self.pool) {
            return true;
        }
        let linked = self.st.ns.parent_of(inode.id).is_some();
        inode.extents.is_empty() && linked && self.places_here(&self.st.ns.placement(inode.id))
    }

    /// Whether what has no pages belongs here, by its placement.
    fn places_here(&self, placement: &Placement) -> bool {
        match placement {
            Placement::On { pool, .. } | Placement::Prefer(pool) => *pool == self.pool,
            Placement::Interleave(pools) => pools.first() == Some(&self.pool),
        }
    }

    fn put(&mut self, inode: &Inode) {
        let new = !self.knows(inode.id);
        self.known.insert(inode.id, true);
        self.entries.push(Entry::Put(Box::new(self.node(inode))));
        if !new {
            return;
        }
        let names: Vec<(FileId, Vec<u8>)> =
            self.st.ns.names_of(inode.id).map(|(dir, name)| (dir, name.as_bytes().to_vec())).collect();
        for (dir, name) in names {
            self.lead_to(dir);
            self.entries.push(Entry::Link { dir, name, child: inode.id });
        }
    }

    /// Sees to it that a directory and those above it are there.
    fn lead_to(&mut self, dir: FileId) {
        if self.knows(dir) {
            return;
        }
        if let Some(inode) = self.inode(dir) {
            // A directory has one name: this ends at the root.
            self.put(inode);
        }
    }

    fn link(&mut self, dir: FileId, name: &[u8], child: FileId) {
        let belongs = |this: &Self| {
            let inode = this.inode(child)?;
            let placement = inode.placement.clone().unwrap_or_else(|| this.st.ns.placement(dir));
            Some(inode).filter(|inode| inode.extents.is_empty() && this.places_here(&placement))
        };
        if !self.knows(child) {
            let Some(inode) = belongs(self) else {
                // It replaces what had the name.
                if self.now.link(dir, name).is_some() {
                    self.entries.push(Entry::Unlink { dir, name: name.to_vec() });
                }
                return;
            };
            self.put(inode);
        }
        self.lead_to(dir);
        self.entries.push(Entry::Link { dir, name: name.to_vec(), child });
    }

    /// The file has nothing here any more.
    fn forget(&mut self, id: FileId) {
        self.known.insert(id, false);
        // The names of what is dropped were taken before.
        for (dir, name) in self.st.ns.names_of(id) {
            if self.now.link(dir, name.as_bytes()) == Some(id) {
                self.entries.push(Entry::Unlink { dir, name: name.as_bytes().to_vec() });
            }
        }
        self.entries.push(Entry::Drop(id));
    }

    fn node(&self, inode: &Inode) -> Node {
        let uuid = |pool: PoolId| {
            self.st
                .pools
                .get(usize::from(pool.0))
                .and_then(|p| p.record.dax.as_ref())
                .map_or(NOWHERE, |dax| dax.uuid)
        };
        let here = inode.extents.iter().map(|e| NodeExtent {
            page: e.page,
            count: e.count,
            pool: uuid(e.pool),
            frame: e.frame,
        });
        let lost = inode.lost().iter().map(|lost| NodeExtent {
            page: lost.pages.start,
            count: lost.pages.count,
            pool: lost.pool,
            frame: lost.frame,
        });
        let mut extents: Vec<NodeExtent> = here.chain(lost).collect();
        extents.sort_unstable_by_key(|e| e.page);
        let extra = inode.extra.as_deref().cloned().unwrap_or_default();
        Node {
            id: inode.id,
            version: self.st.version,
            kind: inode.kind,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            nlink: inode.nlink,
            rdev: inode.rdev,
            len: inode.len,
            atime_ns: inode.atime_ns,
            mtime_ns: inode.mtime_ns,
            ctime_ns: inode.ctime_ns,
            placement: inode.placement.as_ref().map(|placement| self.st.spec_of(placement)),
            extents,
            extra: Extra { lost: Vec::new(), ..extra },
        }
    }
}
