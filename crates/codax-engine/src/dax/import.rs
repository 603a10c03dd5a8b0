//! Files that media bring with them: taken into a store that doesn't know them.
//!
//! What media say comes from elsewhere, and may be damaged, or made to harm. What can't be true refuses the start; where media contradict each other, the
//! newer counts; and no file that has bytes is left out.

use super::watch::DAMAGED;
use crate::catalog::{Contents, Node, NodeExtent};
use codax_core::alloc::FrameAllocator;
use codax_core::change::{Change, PoolRecord};
use codax_core::extent::{self, Extent, FrameRun};
use codax_core::frame::OWNER_MAX;
use codax_core::name::{NAME_MAX, Name};
use codax_core::namespace::{Extra, Inode, Kind, LEN_MAX, Lost, Namespace};
use codax_core::placement::Placement;
use codax_core::request::PlacementSpec;
use codax_core::{Error, FileId, PageCount, PageRange, PoolId, PoolUuid, ROOT, Result};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

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
pub(crate) struct Source {
    pub pool: PoolRecord,
    /// What the pool was called when it was written.
    pub name: String,
    /// Whose it was: numbers of files are its.
    pub store: u64,
    pub contents: Contents,
}

/// A file on media: its number there, and the first of the media that mean this file by it.
type Key = (FileId, usize);

struct Importer<'a> {
    ns: Namespace,
    sources: &'a [Source],
    pools: &'a [PoolRecord],
    /// The latest of each file.
    latest: BTreeMap<Key, &'a Node>,
    /// Where the latest say that files are, as far as nothing newer is there.
    places: HashMap<Key, Places>,
    /// What the store calls it.
    numbers: HashMap<Key, FileId>,
    /// Files that the store had before.
    restored: BTreeSet<Key>,
    done: Imported,
}

/// Where a file is, and what of it is gone.
#[derive(Clone, Debug, Default)]
struct Places {
    extents: Vec<Extent>,
    lost: Vec<Lost>,
}

/// The changes that take the files of media into a namespace.
pub(crate) fn import(ns: &Namespace, pools: &[PoolRecord], sources: &[Source]) -> Result<Imported> {
    let mut importer = Importer {
        ns: ns.clone(),
        sources,
        pools,
        latest: BTreeMap::new(),
        places: HashMap::new(),
        numbers: HashMap::new(),
        restored: BTreeSet::new(),
        done: Imported::default(),
    };
    importer.look()?;
    importer.give_places();
    importer.restore()?;
    for at in 0..sources.len() {
        importer.walk(at)?;
    }
    importer.name_the_nameless()?;
    Ok(importer.finish())
}

/// Why a node can't be true, if it can't.
fn untrue(node: &Node) -> Option<String> {
    if node.id.0 == 0 || node.id > OWNER_MAX {
        return Some("no file has such a number".to_owned());
    }
    if node.id == ROOT && node.kind != Kind::Dir {
        return Some("it is the root, and no directory".to_owned());
    }
    if node.len > LEN_MAX {
        return Some(format!("a length of {} bytes", node.len));
    }
    let last = if node.kind == Kind::File { PageCount::for_bytes(LEN_MAX).0 } else { 0 };
    // What is damaged lies within the others.
    let mut ends = [0; 2];
    for e in &node.extents {
        let end = e.page.0.checked_add(e.count.0).filter(|end| *end <= last);
        let end = end.filter(|_| e.frame.0.checked_add(e.count.0).is_some());
        let before = &mut ends[usize::from(e.pool == DAMAGED)];
        match end.filter(|_| e.count.0 > 0 && e.page.0 >= *before) {
            Some(end) => *before = end,
            None => return Some(format!("{} pages from page {} on in frame {}", e.count, e.page, e.frame)),
        }
    }
    None
}

impl<'a> Importer<'a> {
    /// Which file a medium means by a number. Numbers are those of the store that wrote them: media of several may have the same for different files.
    fn key(&self, at: usize, id: FileId) -> Key {
        let names = |a: &Source, b: &Source| {
            let node = a.contents.node(id);
            node.is_some_and(|node| node.extents.iter().any(|e| Some(e.pool) == uuid(&b.pool)))
        };
        let this = &self.sources[at];
        let first = self.sources.iter().enumerate().position(|(other, its)| {
            let same = other == at || its.store == this.store || names(its, this) || names(this, its);
            same && its.contents.node(id).is_some()
        });
        (id, first.unwrap_or(at))
    }

    /// Finds the latest of each file.
    fn look(&mut self) -> Result<()> {
        for (at, source) in self.sources.iter().enumerate() {
            let twice = self.sources[..at].iter().find(|other| uuid(&other.pool) == uuid(&source.pool));
            if let Some(other) = twice {
                return Err(Error::device_state(format!(
                    "devices {} and {}: one is a copy of the other: take one of them",
                    other.pool.name, source.pool.name
                )));
            }
            for node in source.contents.nodes() {
                if let Some(why) = untrue(node) {
                    return Err(Error::corrupt(format!(
                        "device {}: its catalog says of file #{} what can't be true ({why}): it is left as it is; a format by force makes it new",
                        source.pool.name, node.id
                    )));
                }
                let key = self.key(at, node.id);
                if self.latest.get(&key).is_none_or(|other| other.version < node.version) {
                    self.latest.insert(key, node);
                }
            }
        }
        Ok(())
    }

    /// Sees where files are. Where several claim to be in one place, the latest is, and the others have been there.
    fn give_places(&mut self) {
        let mut free: Vec<FrameAllocator> =
            self.sources.iter().map(|source| FrameAllocator::new(source.pool.frames)).collect();
        let mut all: Vec<(Key, &Node)> = self.latest.iter().map(|(key, node)| (*key, *node)).collect();
        all.sort_by_key(|(key, node)| (Reverse(node.version), *key));
        for (key, node) in all {
            let mut places = Places::default();
            for e in &node.extents {
                match self
                    .source_of(key, e)
                    .filter(|at| free[*at].claim(FrameRun { frame: e.frame, count: e.count }))
                {
                    Some(at) => {
                        let pool = self.sources[at].pool.id;
                        places.extents.push(Extent { page: e.page, count: e.count, pool, frame: e.frame });
                    }
                    None => {
                        let pages = PageRange { start: e.page, count: e.count };
                        places.lost.push(Lost { pages, pool: e.pool, frame: e.frame });
                    }
                }
            }
            self.places.insert(key, places);
        }
    }

    /// The medium on which these pages of a file are, if the store takes it now and its own catalog knows the file.
    fn source_of(&self, key: Key, e: &NodeExtent) -> Option<usize> {
        let at = self.sources.iter().position(|source| uuid(&source.pool) == Some(e.pool))?;
        let source = &self.sources[at];
        let unit = source.pool.unit();
        // Less than a unit is what was left of one that the store couldn't see.
        let whole = [e.page.0, e.count.0, e.frame.0].iter().all(|n| n.is_multiple_of(unit));
        (whole && source.contents.node(key.0).is_some() && self.key(at, key.0) == key).then_some(at)
    }

    /// Gives files that the store has what these media bring of them: it lay where the file says, and has not been written to since.
    fn restore(&mut self) -> Result<()> {
        let lacking = self.ns.inodes().filter(|inode| !inode.lost().is_empty()).map(|inode| inode.id);
        let ids: BTreeSet<FileId> = lacking.collect();
        let keys: Vec<Key> = self.latest.keys().filter(|key| ids.contains(&key.0)).copied().collect();
        for key in keys {
            let Some(mut now) = self.ns.get(key.0).cloned() else { continue };
            let (mut found, mut left) = (Vec::new(), Vec::new());
            for lost in now.lost() {
                let here = self.places.get(&key).map(|places| extent::slice(&places.extents, lost.pages));
                let here = here.and_then(|here| here.first().copied()).filter(|e| {
                    let pool = self.sources.iter().find(|source| source.pool.id == e.pool);
                    pool.and_then(|source| uuid(&source.pool)) == Some(lost.pool)
                        && (e.pages(), e.frame) == (lost.pages, lost.frame)
                });
                match here {
                    Some(e) => found.push(e),
                    None => left.push(*lost),
                }
            }
            if found.is_empty() {
                continue;
            }
            found.sort_unstable_by_key(|e| e.page);
            now.extents = extent::insert(&now.extents, &found);
            let extra = Extra { lost: left, ..now.extra.as_deref().cloned().unwrap_or_default() };
            now.extra = (extra != Extra::default()).then(|| Box::new(extra));
            self.numbers.insert(key, now.id);
            self.restored.insert(key);
            self.change(Change::Put(Box::new(now)))?;
        }
        Ok(())
    }

    /// Takes in what one medium names, directory by directory.
    fn walk(&mut self, at: usize) -> Result<()> {
        let mut below: BTreeMap<FileId, Vec<(&[u8], FileId)>> = BTreeMap::new();
        for (dir, name, child) in self.sources[at].contents.links() {
            below.entry(dir).or_default().push((name, child));
        }
        let mut open = vec![(ROOT, ROOT)];
        while let Some((theirs, ours)) = open.pop() {
            // Each directory once: a medium that says otherwise is not followed in circles.
            for (name, child) in below.remove(&theirs).unwrap_or_default() {
                let key = self.key(at, child);
                let Some(&node) = self.latest.get(&key).filter(|_| child != ROOT) else { continue };
                let Ok(name) = Name::new(name) else { continue };
                if node.kind == Kind::Dir {
                    let dir = self.directory(at, ours, &name, key)?;
                    open.push((child, dir));
                } else {
                    self.name(at, ours, &name, key)?;
                }
            }
        }
        Ok(())
    }

    /// Names files in the root that have bytes, and to which no directory leads.
    fn name_the_nameless(&mut self) -> Result<()> {
        let nameless = self.latest.iter().filter(|(key, node)| {
            let has_bytes = self.places.get(key).is_some_and(|places| !places.extents.is_empty());
            node.nlink > 0 && has_bytes && !self.numbers.contains_key(key)
        });
        let keys: Vec<Key> = nameless.map(|(key, _)| *key).collect();
        for key in keys {
            let name = Name::new(format!("#{}", key.0).as_bytes())?;
            self.name(key.1, ROOT, &name, key)?;
            let Some(mut inode) = self.numbers.get(&key).and_then(|id| self.ns.get(*id)).cloned() else {
                continue;
            };
            // Who could come to it is not known.
            inode.mode &= 0o700;
            let path = self.ns.path_of(inode.id).unwrap_or_default();
            let pool = &self.sources[key.1].pool.name;
            self.done.notes.push(format!("{path}: no directory of {pool} leads to it"));
            self.change(Change::Put(Box::new(inode)))?;
        }
        Ok(())
    }

    fn change(&mut self, change: Change) -> Result<()> {
        self.ns.apply(&change)?;
        self.done.changes.push(change);
        Ok(())
    }

    /// The directory of this name: the store's, if it has one. It has one name, also where media disagree which.
    fn directory(&mut self, at: usize, dir: FileId, name: &Name, key: Key) -> Result<FileId> {
        if let Some(known) = self.numbers.get(&key) {
            return Ok(*known);
        }
        let there = self.ns.lookup(dir, name);
        if let Some(there) = there.filter(|id| self.ns.get(*id).is_some_and(|i| i.kind == Kind::Dir)) {
            self.numbers.insert(key, there);
            return Ok(there);
        }
        let id = self.make(key)?;
        let name = self.free_name(at, dir, name);
        self.change(Change::Link { dir, name, child: id })?;
        Ok(id)
    }

    /// A name that leads to a file, which is made by the first of them.
    fn name(&mut self, at: usize, dir: FileId, name: &Name, key: Key) -> Result<()> {
        let known = self.numbers.get(&key).copied();
        // Which names a file has that the store had before, the store knows.
        if known.is_some() && known == self.ns.lookup(dir, name) || self.restored.contains(&key) {
            return Ok(());
        }
        let id = match known {
            Some(id) => id,
            None => self.make(key)?,
        };
        let name = self.free_name(at, dir, name);
        self.change(Change::Link { dir, name, child: id })
    }

    /// The store's number for what media call `key`: the same, if that is free.
    fn number(&mut self, key: Key) -> FileId {
        let (theirs, _) = key;
        // One near the end would leave none for files to come.
        let taken = self.ns.get(theirs).is_some() || theirs.0 > OWNER_MAX.0 / 2;
        let ours = if taken { self.free_number() } else { theirs };
        if taken {
            let places = self.places.get(&key).map(|places| &places.extents[..]).unwrap_or_default();
            let pools: BTreeSet<PoolId> = places.iter().map(|e| e.pool).collect();
            self.done.renumbered.extend(pools.into_iter().map(|pool| (pool, theirs, ours)));
        }
        self.numbers.insert(key, ours);
        ours
    }

    /// A number that nothing has, here or on a medium: objects there are called by it.
    fn free_number(&mut self) -> FileId {
        loop {
            let id = self.ns.take_id();
            if self.latest.range((id, 0)..=(id, usize::MAX)).next().is_none() {
                return id;
            }
        }
    }

    /// A name that nothing has in the directory: this one, or with what tells it apart.
    fn free_name(&mut self, at: usize, dir: FileId, name: &Name) -> Vec<u8> {
        if self.ns.lookup(dir, name).is_none() {
            return name.as_bytes().to_vec();
        }
        let pool = &self.sources[at].pool.name;
        let mut tried = 0;
        loop {
            let suffix = if tried == 0 { format!("~{pool}") } else { format!("~{pool}.{tried}") };
            let room = NAME_MAX - suffix.len().min(NAME_MAX);
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

    /// Makes what media call `key`, without a name.
    fn make(&mut self, key: Key) -> Result<FileId> {
        let id = self.number(key);
        let node = self.latest[&key];
        let Places { extents, lost } = self.places.get(&key).cloned().unwrap_or_default();
        if !lost.is_empty() {
            let bytes: u64 = lost.iter().map(|lost| lost.pages.bytes()).sum();
            self.done.notes.push(format!(
                "#{id}: {bytes} bytes of it are gone: they lay where the power keeps nothing, on a device that is not here, or where something newer is"
            ));
        }
        let extra = Extra { lost, ..node.extra.clone() };
        let inode = Inode {
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
        self.change(Change::Put(Box::new(inode)))?;
        Ok(id)
    }

    /// A placement by names of pools as they were called then.
    fn placement(&self, spec: &PlacementSpec) -> Option<Placement> {
        let id = |name: &String| {
            let source = self.sources.iter().find(|source| source.name == *name).map(|source| source.pool.id);
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

    /// What came of it, now that it is known how many names each file has.
    fn finish(mut self) -> Imported {
        for change in &mut self.done.changes {
            if let Change::Put(inode) = change
                && inode.kind != Kind::Dir
            {
                inode.nlink = u32::try_from(self.ns.names_of(inode.id).count()).unwrap_or(u32::MAX);
            }
        }
        self.done
    }
}

/// What a pool on a medium is called there.
fn uuid(pool: &PoolRecord) -> Option<PoolUuid> {
    pool.dax.as_ref().map(|dax| dax.uuid)
}
