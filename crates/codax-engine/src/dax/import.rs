//! Files that media bring with them: taken into a store that doesn't know them.

use crate::catalog::{Contents, Node, NodeExtent};
use codax_core::change::{Change, PoolRecord};
use codax_core::extent::{self, Extent};
use codax_core::name::Name;
use codax_core::namespace::{Extra, Inode, Kind, Lost, Namespace};
use codax_core::placement::Placement;
use codax_core::request::PlacementSpec;
use codax_core::{FileId, PageRange, PoolId, PoolUuid, ROOT, Result};
use std::collections::{BTreeMap, HashMap};

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Imported {
    pub changes: Vec<Change>,
    /// Files that have another number now than on their medium: the pool, the old number and the new one.
    pub renumbered: Vec<(PoolId, FileId, FileId)>,
    /// Lines for people.
    pub notes: Vec<String>,
}

/// A medium that the store takes.
pub(crate) struct Source<'a> {
    pub pool: PoolId,
    /// What the pool was called when it was written.
    pub name: &'a str,
    pub contents: &'a Contents,
}

struct Importer<'a> {
    ns: Namespace,
    sources: &'a [Source<'a>],
    pools: &'a [PoolRecord],
    /// By the number on the media: the latest of each.
    latest: BTreeMap<FileId, (&'a Node, usize)>,
    /// What the store calls it.
    numbers: HashMap<FileId, FileId>,
    done: Imported,
}

/// The changes that take the files of media into a namespace.
pub(crate) fn import(ns: &Namespace, pools: &[PoolRecord], sources: &[Source<'_>]) -> Result<Imported> {
    let mut latest: BTreeMap<FileId, (&Node, usize)> = BTreeMap::new();
    for (at, source) in sources.iter().enumerate() {
        for node in source.contents.nodes() {
            match latest.get(&node.id) {
                Some((other, _)) if other.version >= node.version => {}
                _ => drop(latest.insert(node.id, (node, at))),
            }
        }
    }
    let known = restored(ns, pools, sources, &latest);
    let mut importer = Importer {
        ns: ns.clone(),
        sources,
        pools,
        latest,
        numbers: HashMap::new(),
        done: Imported::default(),
    };
    for inode in known {
        importer.numbers.insert(inode.id, inode.id);
        importer.change(Change::Put(Box::new(inode)))?;
    }
    for at in 0..sources.len() {
        importer.walk(at)?;
    }
    Ok(importer.done)
}

/// Files that the store has and lacks bytes of, which these media bring: they lay where the file says, and have not been written to since.
fn restored(
    ns: &Namespace,
    pools: &[PoolRecord],
    sources: &[Source<'_>],
    latest: &BTreeMap<FileId, (&Node, usize)>,
) -> Vec<Inode> {
    let mut all = Vec::new();
    for inode in ns.inodes().filter(|inode| !inode.lost().is_empty()) {
        let Some((node, _)) = latest.get(&inode.id) else { continue };
        let mut now = inode.clone();
        let mut left = Vec::new();
        for lost in inode.lost() {
            let pool = pools.iter().find(|p| p.dax.as_ref().is_some_and(|dax| dax.uuid == lost.pool));
            let pool = pool.filter(|p| sources.iter().any(|source| source.pool == p.id));
            let there = |e: &NodeExtent| {
                e.pool == lost.pool
                    && e.page <= lost.pages.start
                    && lost.pages.end() <= e.page.0 + e.count.0
                    && e.frame.0 + (lost.pages.start.0 - e.page.0) == lost.frame.0
            };
            match pool.filter(|_| node.extents.iter().any(there)) {
                Some(pool) => {
                    let Lost { pages, frame, .. } = *lost;
                    let found = Extent { page: pages.start, count: pages.count, pool: pool.id, frame };
                    now.extents = extent::insert(&now.extents, &[found]);
                }
                None => left.push(*lost),
            }
        }
        if left.len() < inode.lost().len() {
            let extra = Extra { lost: left, ..now.extra.as_deref().cloned().unwrap_or_default() };
            now.extra = (extra != Extra::default()).then(|| Box::new(extra));
            all.push(now);
        }
    }
    all
}

impl Importer<'_> {
    /// Takes in what one medium names, directory by directory.
    fn walk(&mut self, at: usize) -> Result<()> {
        let source = &self.sources[at];
        let mut below: BTreeMap<FileId, Vec<(&[u8], FileId)>> = BTreeMap::new();
        for (dir, name, child) in source.contents.links() {
            below.entry(dir).or_default().push((name, child));
        }
        let mut open = vec![(ROOT, ROOT)];
        while let Some((theirs, ours)) = open.pop() {
            // Each directory once: a medium that says otherwise is not followed in circles.
            for (name, child) in below.remove(&theirs).unwrap_or_default() {
                let Some(&(node, _)) = self.latest.get(&child) else { continue };
                let Ok(name) = Name::new(name) else { continue };
                if node.kind == Kind::Dir {
                    let dir = self.directory(ours, &name, node)?;
                    open.push((child, dir));
                } else {
                    self.name(at, ours, &name, node)?;
                }
            }
        }
        Ok(())
    }

    fn change(&mut self, change: Change) -> Result<()> {
        self.ns.apply(&change)?;
        self.done.changes.push(change);
        Ok(())
    }

    /// The directory of this name: the store's, if it has one.
    fn directory(&mut self, dir: FileId, name: &Name, node: &Node) -> Result<FileId> {
        let there = self.ns.lookup(dir, name);
        if let Some(there) = there.filter(|id| self.ns.get(*id).is_some_and(|i| i.kind == Kind::Dir)) {
            return Ok(there);
        }
        let id = self.number(node.id);
        self.make(id, node)?;
        let name = self.free_name(dir, name, "");
        self.change(Change::Link { dir, name, child: id })?;
        Ok(id)
    }

    /// A name that leads to a file, which is made by the first of them.
    fn name(&mut self, at: usize, dir: FileId, name: &Name, node: &Node) -> Result<()> {
        let known = self.numbers.get(&node.id).copied();
        if known.is_some() && known == self.ns.lookup(dir, name) {
            return Ok(());
        }
        let id = match known {
            Some(id) => id,
            None => {
                let id = self.number(node.id);
                self.make(id, node)?;
                id
            }
        };
        let name = self.free_name(dir, name, self.sources[at].name);
        self.change(Change::Link { dir, name, child: id })
    }

    /// The store's number for what a medium calls `theirs`: the same, if that is free.
    fn number(&mut self, theirs: FileId) -> FileId {
        if let Some(ours) = self.numbers.get(&theirs) {
            return *ours;
        }
        let taken = self.ns.get(theirs).is_some();
        let ours = if taken { self.ns.take_id() } else { theirs };
        if taken {
            let pools = self.sources.iter().filter(|s| s.contents.node(theirs).is_some()).map(|s| s.pool);
            self.done.renumbered.extend(pools.map(|pool| (pool, theirs, ours)));
        }
        self.numbers.insert(theirs, ours);
        ours
    }

    /// A name that nothing has in the directory: this one, or with what tells it apart.
    fn free_name(&mut self, dir: FileId, name: &Name, pool: &str) -> Vec<u8> {
        if self.ns.lookup(dir, name).is_none() {
            return name.as_bytes().to_vec();
        }
        let mut tried = 0;
        loop {
            let suffix = if tried == 0 { format!("~{pool}") } else { format!("~{pool}.{tried}") };
            let room = codax_core::name::NAME_MAX - suffix.len().min(codax_core::name::NAME_MAX);
            let mut free = name.as_bytes()[..name.as_bytes().len().min(room)].to_vec();
            free.extend(suffix.as_bytes());
            if Name::new(&free).is_ok_and(|free| self.ns.lookup(dir, &free).is_none()) {
                let path = self.ns.path_of(dir).unwrap_or_default();
                self.done.notes.push(format!(
                    "{path}: there is a `{name}` already: the one of {pool} is `{}`",
                    String::from_utf8_lossy(&free)
                ));
                return free;
            }
            tried += 1;
        }
    }

    fn make(&mut self, id: FileId, node: &Node) -> Result<()> {
        let (mut extents, mut lost) = (Vec::new(), Vec::new());
        for e in &node.extents {
            match self.pool_of(e.pool, node) {
                Some(pool) => extents.push(Extent { page: e.page, count: e.count, pool, frame: e.frame }),
                None => {
                    let pages = PageRange { start: e.page, count: e.count };
                    lost.push(Lost { pages, pool: e.pool, frame: e.frame });
                }
            }
        }
        if !lost.is_empty() {
            let bytes: u64 = lost.iter().map(|lost| lost.pages.bytes()).sum();
            self.done.notes.push(format!(
                "#{id}: {bytes} bytes of it are gone: they lay where the power keeps nothing, or on a device that is not here"
            ));
        }
        let extra = Extra { lost, ..node.extra.clone() };
        let inode = Inode {
            nlink: 0,
            rdev: node.rdev,
            len: node.len,
            atime_ns: node.atime_ns,
            mtime_ns: node.mtime_ns,
            ctime_ns: node.ctime_ns,
            placement: node.placement.as_ref().and_then(|spec| self.placement(spec)),
            extents,
            extra: (extra != Extra::default()).then(|| Box::new(extra)),
            ..Inode::new(id, node.kind, node.mode, node.uid, node.gid, node.ctime_ns)
        };
        let names: u32 = self.names(node.id);
        self.change(Change::Put(Box::new(Inode { nlink: names, ..inode })))
    }

    /// How many names the media have for what they call `id`.
    fn names(&self, id: FileId) -> u32 {
        let all: std::collections::BTreeSet<(FileId, &[u8])> = self
            .sources
            .iter()
            .flat_map(|s| s.contents.links().filter(move |(_, _, child)| *child == id))
            .map(|(dir, name, _)| (dir, name))
            .collect();
        u32::try_from(all.len()).unwrap_or(u32::MAX).max(1)
    }

    /// The pool of this name on media, if it is one that the store takes now and whose own catalog knows the file.
    fn pool_of(&self, uuid: PoolUuid, node: &Node) -> Option<PoolId> {
        let pool = self.pools.iter().find(|p| p.dax.as_ref().is_some_and(|dax| dax.uuid == uuid))?;
        let source = self.sources.iter().find(|source| source.pool == pool.id)?;
        source.contents.node(node.id).map(|_| pool.id)
    }

    /// A placement by names of pools as they were called then.
    fn placement(&self, spec: &PlacementSpec) -> Option<Placement> {
        let id = |name: &String| {
            let source = self.sources.iter().find(|source| source.name == name).map(|source| source.pool);
            source.or_else(|| self.pools.iter().find(|pool| pool.name == *name).map(|pool| pool.id))
        };
        Some(match spec {
            PlacementSpec::On { pool, strict } => Placement::On { pool: id(pool)?, strict: *strict },
            PlacementSpec::Prefer { pool } => Placement::Prefer(id(pool)?),
            PlacementSpec::Interleave { pools } => {
                Placement::Interleave(pools.iter().map(id).collect::<Option<Vec<_>>>()?)
            }
        })
    }
}
