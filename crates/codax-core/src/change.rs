//! The journal's vocabulary: every change of the store's metadata is a list of these, applied in order.
//!
//! The same function ([`crate::namespace::Namespace::apply`] for the first four) takes them when they are made and when they are
//! replayed, so a restart can't come to another result than the run before it.

use crate::extent::Extent;
use crate::extent::FrameRun;
use crate::namespace::Inode;
use crate::quota::Quota;
use crate::{FileId, HUGE_PAGES, MoveId, PageRange, PoolId, PoolUuid};
use serde::{Deserialize, Serialize};

/// One change of the store's metadata. Order and numbering of the variants are part of the journal's format: append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The file or directory is now this; made if it wasn't there. Directory entries are not part of it.
    Put(Box<Inode>),
    /// The inode is gone; its frames are free.
    Drop(FileId),
    /// `dir` has an entry `name` for `child` (replaces an entry of that name).
    Link {
        /// The directory.
        dir: FileId,
        /// The entry's name.
        name: Vec<u8>,
        /// What it names.
        child: FileId,
    },
    /// `dir` has no entry `name` any more.
    Unlink {
        /// The directory.
        dir: FileId,
        /// The entry's name.
        name: Vec<u8>,
    },
    /// The pool is now this; made if it wasn't there.
    Pool(PoolRecord),
    /// A segment of a live move begins: its target frames belong to it, its commit word counts from zero.
    MoveBegin(MoveRecord),
    /// The segment is over: what was committed is in the file's inode now, and its commit word is free.
    MoveEnd(MoveId),
    /// Ids below this one may have been given to files; a restart goes on from here, so that none is used twice.
    IdsBelow(FileId),
    /// A user or directory has this quota on a pool, or none any more.
    Quota(Quota),
}

/// Where a device is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolState {
    /// In service.
    Online,
    /// Being emptied: nothing new is placed on it.
    Draining,
    /// Empty and out of service.
    Offline,
    /// Offline, and its memory is not the store's: it may leave the machine.
    Detached,
}

/// The link model of an emulated pool, as announced. `gbps` paces moves; loads and stores are not slowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkModel {
    /// Announced latency of a read, in nanoseconds.
    pub read_ns: Option<u32>,
    /// Announced latency of a write, in nanoseconds.
    pub write_ns: Option<u32>,
    /// Announced bandwidth, in 10^6 bytes per second; moves to and from the pool keep below it.
    pub mbps: Option<u32>,
}

/// What holds a pool's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackingKind {
    /// tmpfs, the host's own memory.
    Shm,
    /// tmpfs with a capacity and a link model, in place of a device.
    Emulated,
    /// tmpfs, or hugetlbfs, whose pages lie on a NUMA node: a device's memory that Linux counts as its own.
    Numa,
    /// A DAX device that is mapped as such: its frames are the pool's.
    Devdax,
    /// Files in a directory of a filesystem whose files are mapped as memory.
    Fsdax,
    /// As emulated, of any capacity or none: what matters is its coprocessor, a process of the daemon's.
    Software,
    /// Nothing: a device without memory of its own, which somebody else drives.
    None,
}

/// The memory of a pool that has a medium of its own, which it shares with nobody and which says whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaxMemory {
    /// The device, `/dev/daxX.Y`, or the directory.
    pub path: String,
    /// What files have of it is a multiple of so many pages.
    pub unit: u64,
    /// The byte of the device at which frame 0 is.
    pub data: u64,
    /// What it is called, on whatever machine.
    pub uuid: PoolUuid,
    /// What this store is called there.
    pub owner: u64,
}

/// The memory of a pool that is a NUMA node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMemory {
    /// The node.
    pub node: u32,
    /// In which pages files lie there.
    pub page: PageKind,
}

/// In which pages a pool's files lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PageKind {
    /// 4 KiB.
    #[serde(rename = "4K")]
    Small,
    /// Transparent huge pages where files fill them, else 4 KiB.
    #[default]
    #[serde(rename = "thp")]
    Transparent,
    /// Huge pages of 2 MiB of the kernel's pool for them (hugetlb).
    #[serde(rename = "2M")]
    Huge,
    /// The same, of 1 GiB.
    #[serde(rename = "1G")]
    Gigantic,
}

impl PageKind {
    /// The word for it, as it is configured.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Small => "4K",
            Self::Transparent => "thp",
            Self::Huge => "2M",
            Self::Gigantic => "1G",
        }
    }

    /// What files have of such a pool is a multiple of so many pages.
    #[must_use]
    pub const fn unit(self) -> u64 {
        match self {
            Self::Small | Self::Transparent => 1,
            Self::Huge => HUGE_PAGES,
            Self::Gigantic => 512 * HUGE_PAGES,
        }
    }

    /// Whether they come from the kernel's pool for huge pages.
    #[must_use]
    pub const fn is_reserved(self) -> bool {
        self.unit() > 1
    }
}

/// A pool, as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// Its id.
    pub id: PoolId,
    /// Its name, `dram` for pool 0.
    pub name: String,
    /// What holds its bytes.
    pub backing: BackingKind,
    /// The node's memory that it is, if it is one's.
    pub numa: Option<NodeMemory>,
    /// The medium of its own that it is, if it is one.
    pub dax: Option<DaxMemory>,
    /// Whether what it holds outlives the power.
    pub persistent: bool,
    /// Frames that are never used again: their memory is damaged.
    pub retired: Vec<FrameRun>,
    /// The pool in whose directory its objects are: itself, or one before it. Pools that share one share the objects: a file has one there, whichever of
    /// these pools its pages are in, and the kernel moves pages between them.
    pub medium: PoolId,
    /// Capacity in frames.
    pub frames: u64,
    /// Link model, as announced.
    pub link: LinkModel,
    /// Where it is in its life.
    pub state: PoolState,
    /// The bandwidth that the drain that runs keeps below, in bytes per second; a restart goes on with it.
    pub drain_limit: Option<u64>,
    /// What else was said of that drain, and a restart goes on with.
    pub drain_terms: DrainTerms,
}

/// What was said of a drain. A byte in the journal: bit 0 `volatile`, bit 1 `reset`, bit 2 `running`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub struct DrainTerms {
    /// What outlives the power may go where it doesn't.
    pub volatile: bool,
    /// A device that doesn't come to a safe point in time is reset.
    pub reset: bool,
    /// Its coprocessor goes on: only its memory is emptied.
    pub running: bool,
}

impl From<u8> for DrainTerms {
    fn from(bits: u8) -> Self {
        let bit = |at: u8| bits >> at & 1 == 1;
        Self { volatile: bit(0), reset: bit(1), running: bit(2) }
    }
}

impl From<DrainTerms> for u8 {
    fn from(terms: DrainTerms) -> Self {
        Self::from(terms.volatile) | Self::from(terms.reset) << 1 | Self::from(terms.running) << 2
    }
}

impl PoolRecord {
    /// What files have of it is a multiple of so many pages, and begins at one.
    #[must_use]
    pub fn unit(&self) -> u64 {
        let dax = self.dax.as_ref().map(|memory| memory.unit);
        dax.or(self.numa.map(|memory| memory.page.unit())).unwrap_or(1)
    }

    /// Whether it has any: a device of type 1 has none.
    #[must_use]
    pub fn has_memory(&self) -> bool {
        self.frames > 0
    }

    /// Whether a mount's kernel can serve files from its objects.
    #[must_use]
    pub fn passes_through(&self) -> bool {
        self.unit() == 1 && self.dax.is_none()
    }
}

/// One segment of a live move: chunks of one file on their way to one pool.
///
/// How many of the chunks, counted from the first, are committed is in the commit word `slot` (see the engine's journal); the
/// truth at any moment is the file's extents with the first so many `chunks` replaced by their targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRecord {
    /// The segment.
    pub id: MoveId,
    /// Its commit word.
    pub slot: u16,
    /// The file that moves.
    pub file: FileId,
    /// The pool it moves to.
    pub to: PoolId,
    /// The device's pool to which a drain's moves go home; `None` where the pages are to stay.
    pub home: Option<PoolId>,
    /// The chunks in the order in which they are committed.
    pub chunks: Vec<Chunk>,
}

/// A run of pages that is moved as one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The pages; what of them the file has lies in `from`. They may go on behind its end.
    pub pages: PageRange,
    /// The pool they lie in before.
    pub from: PoolId,
    /// The frames they go to, in the order of the pages, as far as they have any there: the counts add up to `pages.count`, or less behind the file's end.
    pub target: Vec<FrameRun>,
}

impl Chunk {
    /// The pages that have frames once it is committed.
    #[must_use]
    pub fn target_pages(&self) -> PageRange {
        PageRange::new(self.pages.start.0, self.target.iter().map(|run| run.count.0).sum())
    }

    /// The extents the chunk's pages have once it is committed.
    pub fn extents(&self, to: PoolId) -> impl Iterator<Item = Extent> + '_ {
        let mut page = self.pages.start.0;
        self.target.iter().map(move |run| {
            let extent = Extent { page: crate::PageNo(page), count: run.count, pool: to, frame: run.frame };
            page += run.count.0;
            extent
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_of_a_drain_are_a_byte_of_which_the_first_bit_was_once_all() {
        for bits in 0..8 {
            assert_eq!(u8::from(DrainTerms::from(bits)), bits);
        }
        let volatile = DrainTerms { volatile: true, ..DrainTerms::default() };
        assert_eq!(DrainTerms::from(u8::from(true)), volatile);
    }
}
