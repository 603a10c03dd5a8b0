//! The store's one namespace: inodes, directories, and who may do what to them.
//!
//! An operation looks and returns the [`Change`]s that would do it; [`Namespace::apply`] does them. Between the two the caller
//! writes them to its journal.

mod at;
mod ops;
#[cfg(test)]
mod tests;

use crate::change::Change;
use crate::extent::{self, Extent, PoolRun};
use crate::frame::OWNER_MAX;
use crate::name::{Name, StorePath};
use crate::placement::Placement;
use crate::{DRAM, Error, FileId, Frame, PAGE_SIZE, PageCount, PageRange, PoolId, PoolUuid, ROOT, Result};
use serde::{Deserialize, Serialize};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasherDefault;
use std::ops::Bound;

/// What an inode is. Append only: part of the journal's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A name at which a socket is bound.
    Socket,
    /// A character device's node.
    CharDevice,
    /// A block device's node.
    BlockDevice,
}

/// A file, directory or other thing with a name, without its directory entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode {
    /// Its number.
    pub id: FileId,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names that lead to it; 1 for a directory (it doesn't count their subdirectories); 0 while it is only held open (an orphan), or
    /// being put.
    pub nlink: u32,
    /// The device of a device's node, as Linux encodes it.
    pub rdev: u32,
    /// The pool in which the file's object may hold more than is said here, since programs write to it without asking: its length, its pages and its
    /// times count, until they were taken in here.
    pub ahead: Option<PoolId>,
    /// Length in bytes; of a symbolic link, its target's.
    pub len: u64,
    /// Last access, as far as somebody told, in nanoseconds since 1970.
    pub atime_ns: i64,
    /// Last change of contents, as far as the store knows, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Last change of the inode, in nanoseconds since 1970.
    pub ctime_ns: i64,
    /// Its own placement; `None` takes the nearest directory's above.
    pub placement: Option<Placement>,
    /// Where a file's pages are, in the order of pages, each once. Pages that are missing are holes, and read as zeros; there may be some
    /// behind the end.
    pub extents: Vec<Extent>,
    /// What a drain took elsewhere, and the pool it goes home to; what goes home to `dram` found no room there. Ranges don't overlap.
    pub away: Vec<PoolRun>,
    /// What few inodes have.
    pub extra: Option<Box<Extra>>,
}

/// What few inodes have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extra {
    /// Where a symbolic link leads.
    pub target: Vec<u8>,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Pages whose bytes are gone: no extent has them, and they are no holes.
    pub lost: Vec<Lost>,
}

/// Pages of a file whose bytes are gone: they lay where the power keeps nothing, on a medium that isn't there, or in memory that is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The pages.
    pub pages: PageRange,
    /// The pool that they lay in.
    pub pool: PoolUuid,
    /// The frame that held the first of them.
    pub frame: Frame,
}

/// Longest length of a file in bytes: offsets are signed in the kernel's interfaces, and all of its last page is within reach.
pub const LEN_MAX: u64 = i64::MAX as u64 - PAGE_SIZE;

/// Mode bit: programs run as the file's owner.
pub const SETUID: u16 = 0o4000;
/// Mode bit: programs run as the file's group; what is made in a directory gets its group.
pub const SETGID: u16 = 0o2000;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cred {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Whether permission checks are waived: root, and the user that the store belongs to.
    pub admin: bool,
}

/// Access asked for, as bits like `access(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want(pub u8);

impl Want {
    /// Read (list a directory).
    pub const READ: Self = Self(4);
    /// Write (make and remove entries of a directory).
    pub const WRITE: Self = Self(2);
    /// Search a directory.
    pub const EXEC: Self = Self(1);
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Placement: `Some(None)` makes it the directory's again.
    pub placement: Option<Option<Placement>>,
    /// Whether its pages may be on a device for want of room in `dram`.
    pub emergency: Option<bool>,
}

/// By file id. The hasher has no random key: ids are the store's own, and a simulation must see the same order again.
type ById<T> = HashMap<FileId, T, BuildHasherDefault<DefaultHasher>>;

/// The namespace in memory: some 300 bytes for a small file.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Boxed, because the table is up to half empty.
    nodes: ById<Box<Node>>,
    /// What is in each directory.
    dirs: ById<Directory>,
    /// The names of files beside the one in their node: hard links.
    more_links: ById<BTreeSet<(FileId, Name)>>,
    next_id: u64,
}

/// An inode and the name that leads to it, or the first of them.
#[derive(Clone, Debug)]
struct Node {
    inode: Inode,
    link: Option<(FileId, Name)>,
}

/// What is in a directory.
#[derive(Clone, Debug, Default)]
struct Directory {
    entries: BTreeMap<Name, FileId>,
    /// How many of them are directories.
    subdirs: u32,
}

// 100,000 files are in memory at once, and the daemon's share of each is bounded.
const _: () = assert!(size_of::<Node>() <= 176);

impl Namespace {
    /// A namespace with nothing in it, not even a root.
    #[must_use]
    pub fn new() -> Self {
        Self {
            nodes: ById::default(),
            dirs: ById::default(),
            more_links: ById::default(),
            next_id: ROOT.0 + 1,
        }
    }

    /// The changes that make the root directory (mode 0755 with the given owner, placement `On dram`).
    #[must_use]
    pub fn format(uid: u32, gid: u32, now_ns: i64) -> Vec<Change> {
        let placement = Some(Placement::On { pool: DRAM, strict: false });
        let root = Inode { placement, ..Inode::new(ROOT, Kind::Dir, 0o755, uid, gid, now_ns) };
        vec![Change::Put(Box::new(root))]
    }

    /// Does `change`. Other variants than `Put`, `Drop`, `Link`, `Unlink` are ignored. An error (kind `Corrupt`) only for a change
    /// that makes no sense here, as one from a damaged journal would; nothing is done then.
    pub fn apply(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::Put(inode) => self.put(inode),
            Change::Drop(id) => self.drop_inode(*id),
            Change::Link { dir, name, child } => self.link(*dir, name, *child),
            Change::Unlink { dir, name } => self.unlink(*dir, name),
            Change::Pool(_)
            | Change::MoveBegin(_)
            | Change::MoveEnd(_)
            | Change::IdsBelow(_)
            | Change::Quota(_) => Ok(()),
        }
    }

    /// Whether an inode can be true by itself: its number, and extents in order. What [`Change::Put`] would refuse, for who must know before it is
    /// written down.
    pub fn check_inode(inode: &Inode) -> Result<()> {
        let id = inode.id;
        if id.0 == 0 || id > OWNER_MAX {
            return Err(Error::corrupt(format!("no inode can have the number {id}")));
        }
        if id == ROOT && inode.kind != Kind::Dir {
            return Err(Error::corrupt("the root is not a directory"));
        }
        let end = inode.extents.iter().try_fold(0u64, |page, extent| {
            (extent.page.0 >= page && extent.count.0 > 0)
                .then(|| extent.page.0.checked_add(extent.count.0))?
        });
        let last = match inode.kind {
            Kind::File => PageCount::for_bytes(LEN_MAX).0,
            _ => 0,
        };
        if inode.len > LEN_MAX || end.is_none_or(|end| end > last) {
            let line = format!(
                "the extents of inode {id} are not pages of a file of {} bytes, each once and in order",
                inode.len
            );
            return Err(Error::corrupt(line));
        }
        Ok(())
    }

    fn put(&mut self, inode: &Inode) -> Result<()> {
        let id = inode.id;
        Self::check_inode(inode)?;
        match self.nodes.get_mut(&id) {
            Some(node) if node.inode.kind != inode.kind => {
                return Err(Error::corrupt(format!("inode {id} changes what it is")));
            }
            Some(node) => node.inode = inode.clone(),
            None => {
                self.nodes.insert(id, Box::new(Node { inode: inode.clone(), link: None }));
                if inode.kind == Kind::Dir {
                    self.dirs.insert(id, Directory::default());
                }
                self.never_below(FileId(id.0 + 1));
            }
        }
        Ok(())
    }

    fn drop_inode(&mut self, id: FileId) -> Result<()> {
        let node = self
            .nodes
            .get(&id)
            .ok_or_else(|| Error::corrupt(format!("inode {id} is dropped and was never made")))?;
        if let Some((dir, name)) = &node.link {
            return Err(Error::corrupt(format!(
                "inode {id} is dropped while it is `{name}` in directory {dir}"
            )));
        }
        if id == ROOT || self.entry_count(id) > 0 {
            return Err(Error::corrupt(format!("directory {id} is dropped, and is the root or has entries")));
        }
        self.nodes.remove(&id);
        self.dirs.remove(&id);
        Ok(())
    }

    fn link(&mut self, dir: FileId, name: &[u8], child: FileId) -> Result<()> {
        let name = Name::new(name)
            .map_err(|error| Error::corrupt(format!("an entry of directory {dir}: {error}")))?;
        let what = || format!("the entry `{name}` of directory {dir} is made for inode {child}");
        if !self.dirs.contains_key(&dir) {
            return Err(Error::corrupt(format!("{}, and there is no such directory", what())));
        }
        let node = self
            .nodes
            .get(&child)
            .ok_or_else(|| Error::corrupt(format!("{}, which is not there", what())))?;
        let is_dir = node.inode.kind == Kind::Dir;
        if is_dir && node.link.as_ref().is_some_and(|link| (link.0, &link.1) != (dir, &name)) {
            return Err(Error::corrupt(format!("{}, a directory with another name", what())));
        }
        if child == ROOT || is_dir && self.is_within(dir, child) {
            return Err(Error::corrupt(format!("{}, which lies above it", what())));
        }
        let replaced = self.enter(dir, &name, child, is_dir);
        if replaced == Some(child) {
            return Ok(());
        }
        if let Some(replaced) = replaced {
            self.lose_name(replaced, dir, &name);
        }
        let Some(node) = self.nodes.get_mut(&child) else { return Ok(()) };
        if node.link.is_none() {
            node.link = Some((dir, name));
        } else {
            self.more_links.entry(child).or_default().insert((dir, name));
        }
        Ok(())
    }

    /// Puts an entry in a directory; returns what it had under that name.
    fn enter(&mut self, dir: FileId, name: &Name, child: FileId, is_dir: bool) -> Option<FileId> {
        let directory = self.dirs.get_mut(&dir)?;
        let replaced = directory.entries.insert(name.clone(), child);
        directory.subdirs += u32::from(is_dir);
        let lost = replaced.is_some_and(|id| self.dirs.contains_key(&id));
        if let Some(directory) = self.dirs.get_mut(&dir).filter(|_| lost) {
            directory.subdirs -= 1;
        }
        replaced
    }

    fn unlink(&mut self, dir: FileId, name: &[u8]) -> Result<()> {
        let taken = self.dirs.get_mut(&dir).and_then(|directory| directory.entries.remove_entry(name));
        let (name, child) = taken.ok_or_else(|| {
            let name = name.escape_ascii();
            Error::corrupt(format!("the entry `{name}` of directory {dir} is taken away and was never made"))
        })?;
        let was_dir = self.dirs.contains_key(&child);
        if let Some(directory) = self.dirs.get_mut(&dir).filter(|_| was_dir) {
            directory.subdirs -= 1;
        }
        self.lose_name(child, dir, &name);
        Ok(())
    }

    /// `id` is not `name` in `dir` any more: another of its names is the first, if it has one.
    fn lose_name(&mut self, id: FileId, dir: FileId, name: &Name) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(more) = self.more_links.get_mut(&id) else {
            node.link = None;
            return;
        };
        if node.link.as_ref().is_some_and(|link| (link.0, &link.1) == (dir, name)) {
            node.link = more.pop_first();
        } else {
            more.remove(&(dir, name.clone()));
        }
        if more.is_empty() {
            self.more_links.remove(&id);
        }
    }

    /// The inode `id`.
    #[must_use]
    pub fn get(&self, id: FileId) -> Option<&Inode> {
        self.nodes.get(&id).map(|node| &node.inode)
    }

    /// How many inodes there are, orphans included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// All inodes, in no particular order.
    pub fn inodes(&self) -> impl Iterator<Item = &Inode> {
        self.nodes.values().map(|node| &node.inode)
    }

    /// A number that no inode ever had: above all that were applied, taken, or ruled out by [`Self::never_below`].
    #[must_use]
    pub fn next_id(&self) -> FileId {
        FileId(self.next_id)
    }

    /// Reserves the next number (numbers that were handed out and not used are lost until the next restart).
    pub fn take_id(&mut self) -> FileId {
        let id = self.next_id();
        self.next_id += 1;
        id
    }

    /// Rules out all numbers below `id`: a restart has to, since the highest inodes of before may be gone by then.
    pub fn never_below(&mut self, id: FileId) {
        self.next_id = self.next_id.max(id.0);
    }

    /// A path that leads to `id`, if one does: of several the first.
    #[must_use]
    pub fn path_of(&self, id: FileId) -> Option<StorePath> {
        let mut names = Vec::new();
        let mut at = id;
        while at != ROOT {
            let (dir, name) = self.parent_of(at)?;
            names.push(name.clone());
            at = dir;
        }
        names.reverse();
        self.nodes.contains_key(&at).then(|| StorePath::from(names))
    }

    /// The directory that has `id` as a child and the name it has there, if one does: of several the first.
    #[must_use]
    pub fn parent_of(&self, id: FileId) -> Option<(FileId, &Name)> {
        self.nodes.get(&id)?.link.as_ref().map(|(dir, name)| (*dir, name))
    }

    /// Entries of directory `dir` whose names come after `after`, in byte order.
    pub fn entries<'a>(
        &'a self,
        dir: FileId,
        after: Option<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a Name, FileId)> + 'a {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = self.dirs.get(&dir).map(|dir| dir.entries.range::<[u8], _>((start, Bound::Unbounded)));
        entries.into_iter().flatten().map(|(name, child)| (name, *child))
    }

    /// Every name that leads to `id`, with its directory.
    pub fn names_of(&self, id: FileId) -> impl Iterator<Item = (FileId, &Name)> {
        let first = self.parent_of(id);
        let more = self.more_links.get(&id).into_iter().flatten().map(|(dir, name)| (*dir, name));
        first.into_iter().chain(more)
    }

    /// How many entries directory `dir` has.
    #[must_use]
    pub fn entry_count(&self, dir: FileId) -> usize {
        self.dirs.get(&dir).map_or(0, |dir| dir.entries.len())
    }

    /// How many directories are in directory `dir`.
    #[must_use]
    pub fn subdirs(&self, dir: FileId) -> u32 {
        self.dirs.get(&dir).map_or(0, |dir| dir.subdirs)
    }

    /// What directory `dir` has under `name`.
    #[must_use]
    pub fn lookup(&self, dir: FileId, name: &Name) -> Option<FileId> {
        self.dirs.get(&dir)?.entries.get(name).copied()
    }

    /// Everything below `id`, as (directory, name, inode): what is in a directory before the directory, so that all of it can be removed
    /// in this order.
    #[must_use]
    pub fn subtree(&self, id: FileId) -> Vec<(FileId, Name, FileId)> {
        // Directories before what is in them, with a list instead of recursion: there may be more levels than stack.
        let mut found = Vec::new();
        let mut open = vec![id];
        while let Some(dir) = open.pop() {
            for (name, child) in self.entries(dir, None) {
                found.push((dir, name.clone(), child));
                if self.dirs.contains_key(&child) {
                    open.push(child);
                }
            }
        }
        found.reverse();
        found
    }

    /// The placement in force for `id`: its own, or the nearest directory's above.
    #[must_use]
    pub fn placement(&self, id: FileId) -> Placement {
        let mut at = Some(id);
        while let Some(node) = at.and_then(|id| self.nodes.get(&id)) {
            if let Some(placement) = &node.inode.placement {
                return placement.clone();
            }
            at = node.link.as_ref().map(|(dir, _)| *dir);
        }
        // An orphan, or a root whose own was taken away: nothing is on a device that wasn't asked for.
        Placement::On { pool: DRAM, strict: false }
    }

    /// Whether `id`, or a directory above it, forbids that its pages are on a device for want of room in `dram`.
    #[must_use]
    pub fn forbids_emergency(&self, id: FileId) -> bool {
        let mut at = Some(id);
        while let Some(node) = at.and_then(|id| self.nodes.get(&id)) {
            if node.inode.forbids_emergency() {
                return true;
            }
            at = node.link.as_ref().map(|(dir, _)| *dir);
        }
        false
    }

    /// Whether `id` is `above`, or lies below it.
    fn is_within(&self, id: FileId, above: FileId) -> bool {
        let mut at = Some(id);
        while let Some(id) = at {
            if id == above {
                return true;
            }
            at = self.parent_of(id).map(|(dir, _)| dir);
        }
        false
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Inode {
    /// An inode of one link, with nothing in it.
    #[must_use]
    pub fn new(id: FileId, kind: Kind, mode: u16, uid: u32, gid: u32, now_ns: i64) -> Self {
        Self {
            id,
            kind,
            mode,
            uid,
            gid,
            nlink: 1,
            rdev: 0,
            ahead: None,
            len: 0,
            atime_ns: now_ns,
            mtime_ns: now_ns,
            ctime_ns: now_ns,
            placement: None,
            extents: Vec::new(),
            away: Vec::new(),
            extra: None,
        }
    }

    /// Whether it has no holes.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.holes(PageRange::new(0, PageCount::for_bytes(self.len).0)).is_empty()
    }

    /// Holes among these pages: what has no frame and is not lost.
    #[must_use]
    pub fn holes(&self, pages: PageRange) -> Vec<PageRange> {
        let gaps = extent::gaps(&self.extents, pages);
        self.lost()
            .iter()
            .fold(gaps, |gaps, lost| gaps.iter().flat_map(|gap| gap.without(lost.pages)).collect())
    }

    /// Pages whose bytes are gone.
    #[must_use]
    pub fn lost(&self) -> &[Lost] {
        self.extra.as_ref().map_or(&[], |extra| &extra.lost)
    }

    /// The pages whose bytes are gone, in their order; those that follow each other as one run.
    #[must_use]
    pub fn lost_pages(&self) -> Vec<PageRange> {
        let mut all: Vec<PageRange> = self.lost().iter().map(|lost| lost.pages).collect();
        all.sort_unstable_by_key(|pages| pages.start);
        let mut runs: Vec<PageRange> = Vec::new();
        for pages in all {
            match runs.last_mut() {
                Some(run) if run.end() == pages.start.0 => run.count.0 += pages.count.0,
                _ => runs.push(pages),
            }
        }
        runs
    }

    /// The first of these pages whose bytes are gone.
    #[must_use]
    pub fn first_lost(&self, pages: PageRange) -> Option<PageRange> {
        self.lost().iter().filter_map(|lost| lost.pages.intersect(pages)).min_by_key(|lost| lost.start)
    }

    /// These pages are gone with the bytes that were: what comes in their place is whole.
    pub fn forget_lost(&mut self, pages: PageRange) {
        let Some(extra) = &mut self.extra else { return };
        let left = |lost: &Lost| {
            let Lost { pages: all, pool, frame } = *lost;
            let part = move |part: PageRange| Lost {
                pages: part,
                pool,
                frame: Frame(frame.0 + (part.start.0 - all.start.0)),
            };
            all.without(pages).map(part)
        };
        extra.lost = extra.lost.iter().flat_map(left).collect();
    }

    /// Where a file has bytes, in the order of pages: also where they are gone, which nobody may take for zeros.
    #[must_use]
    pub fn data(&self) -> Vec<PageRange> {
        let mut data: Vec<PageRange> = self.extents.iter().map(Extent::pages).collect();
        data.extend(self.lost().iter().map(|lost| lost.pages));
        data.sort_unstable_by_key(|pages| pages.start);
        data
    }

    /// Bytes of frames it takes.
    #[must_use]
    pub fn backed(&self) -> u64 {
        self.extents.iter().map(|e| e.count.bytes()).sum()
    }
}
