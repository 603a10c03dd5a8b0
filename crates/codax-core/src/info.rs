//! What a store says of itself: the answers to questions, as they go over the wire and into JSON.

use crate::change::{BackingKind, DaxMemory, LinkModel, NodeMemory, PoolState};
use crate::emergency::EmergencyInfo;
use crate::extent::{Extent, PoolRun};
use crate::namespace::Kind;
use crate::placement::Placement;
use crate::plan::{Holder, Plan};
use crate::request::QuotaOf;
use crate::{FileId, PageRange, PoolId};
use serde::{Deserialize, Serialize};

/// A pool and its device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolInfo {
    /// Its id.
    pub id: PoolId,
    /// Its name.
    pub name: String,
    /// What holds its bytes.
    pub backing: BackingKind,
    /// The NUMA node whose memory it is, and its pages.
    pub numa: Option<NodeMemory>,
    /// The medium of its own that it is, if it is one.
    pub dax: Option<DaxMemory>,
    /// Whether what it holds outlives the power.
    pub persistent: bool,
    /// Bytes in frames whose memory is damaged.
    pub retired: u64,
    /// Where it is in its life.
    pub state: PoolState,
    /// Capacity in bytes.
    pub bytes: u64,
    /// Bytes in frames that belong to files, or are reserved for a move or a file in the making.
    pub used: u64,
    /// Bytes in frames that no file owns any more and somebody still holds.
    pub held: u64,
    /// Bytes in frames that are the device's own.
    pub private: u64,
    /// Bytes in free frames.
    pub free: u64,
    /// Files with pages in it.
    pub files: u64,
    /// What it announces of its link.
    pub link: LinkModel,
    /// Whether the kernel may take its pages elsewhere (swap): none if its tmpfs is mounted `noswap` or its objects are locked.
    pub swappable: bool,
    /// Whether its tmpfs gives huge pages where they are whole, or it has nothing but huge pages.
    pub huge: bool,
    /// Pools to and from which the kernel moves pages, whoever uses them.
    pub moves_with: Vec<String>,
    /// What it has of the kernel's huge pages, if its pages are such.
    pub reserve: Option<ReserveInfo>,
    /// What keeps others' memory off its node.
    pub exclusive: Exclusive,
    /// Bytes that are populated for it and in no file yet, where it is of small or transparent huge pages and kept by a reserve.
    pub populated: Option<u64>,
    /// What it is allowed for an emergency, and what is so used of it.
    pub emergency: EmergencyInfo,
    /// The drain or return that runs, if one does.
    pub job: Option<JobInfo>,
    /// The NUMA nodes that its pages are kept to; none: wherever the kernel gives them.
    pub nodes: Vec<u32>,
    /// Why its memory is not there, if it isn't: its NUMA node has none online.
    pub missing: Option<String>,
}

/// What keeps others' memory off a device's node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exclusive {
    /// Nothing.
    #[default]
    None,
    /// All of its memory is movable: what lands there the kernel can move away.
    Movable,
    /// The store populates what no file has, so that nothing else fits.
    Reserve,
}

impl Exclusive {
    /// The word for it, as it is configured.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Movable => "movable",
            Self::Reserve => "reserve",
        }
    }

    /// What the word stands for.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::None, Self::Movable, Self::Reserve].into_iter().find(|mode| mode.name() == word)
    }
}

/// The huge pages of a node that a pool has taken, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveInfo {
    /// A page.
    pub page: u64,
    /// What it has: in the files of the store, and populated in its holder.
    pub taken: u64,
    /// What it lacks of its capacity: nobody is given that.
    pub missing: u64,
    /// Why, if something is missing.
    pub why: String,
    /// What of the node stays with the kernel, in whatever pages.
    pub kernel: u64,
}

/// A drain, a return (`online`) or a move that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobInfo {
    /// "drain", "online" or "move".
    pub what: String,
    /// Bytes moved so far.
    pub done: u64,
    /// Bytes to move in all.
    pub total: u64,
    /// Files moved so far.
    pub files_done: u64,
    /// Files in all.
    pub files_total: u64,
    /// Files it waits for, and who holds them.
    pub waiting: Vec<HeldFile>,
}

/// What processes have on a device's node that the store didn't put there, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strangers {
    /// The node.
    pub node: u32,
    /// Nodes that it is moved to.
    pub to: Vec<u32>,
    /// What is free there, in bytes.
    pub room: u64,
    /// The processes, the largest first.
    pub processes: Vec<Stranger>,
    /// Processes that the answer has no room for.
    pub more: u64,
}

/// A process with memory on a device's node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stranger {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub command: String,
    /// Bytes that it maps there.
    pub bytes: u64,
    /// Bytes of them that were moved; 0 in a plan.
    pub moved: u64,
    /// Why some stay, or may stay.
    pub why: String,
}

/// A file that somebody holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldFile {
    /// Its path.
    pub path: String,
    /// Who holds it.
    pub by: Vec<Holder>,
}

/// What a finished move, drain or return did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    /// Bytes moved.
    pub bytes: u64,
    /// Files moved.
    pub files: u64,
    /// Nanoseconds it took.
    pub nanos: u64,
    /// What is left where it was, and why (never after a drain that succeeded).
    pub left: Vec<HeldFile>,
    /// The plan, when only that was asked for.
    pub plan: Option<Plan>,
}

/// A file or directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Its number.
    pub id: FileId,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names.
    pub nlink: u32,
    /// Length in bytes.
    pub len: u64,
    /// Bytes of frames it takes.
    pub backed: u64,
    /// Last change of contents, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Last change of the inode, nanoseconds since 1970.
    pub ctime_ns: i64,
    /// The placement in force.
    pub placement: Placement,
    /// Whether that is its own (else a directory's above).
    pub placement_own: bool,
    /// Whether it, or a directory above it, forbids that its pages are on a device for want of room in `dram`.
    pub no_emergency: bool,
    /// Where its pages are. Left empty in listings.
    pub extents: Vec<Extent>,
    /// What a drain took elsewhere, and its home; what is at home in `dram` is on a device for want of room there.
    pub away: Vec<PoolRun>,
    /// Why some of it is on a device for want of room in `dram`, if it is and the daemon has seen it happen.
    pub spilled: Option<String>,
    /// Runs per pool, merged; also in listings.
    pub runs: Vec<PoolRun>,
    /// Live mappings' holders: (pid, mappings unknown to the store are not counted).
    pub mapped_by: Vec<u32>,
    /// Pinned ranges.
    pub pins: u32,
    /// Whether it outlives the power: each of its extents does.
    pub persistent: bool,
    /// Pages whose bytes are gone.
    pub lost: Vec<PageRange>,
}

/// The store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreInfo {
    /// Version of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Nanoseconds it has run.
    pub uptime_ns: u64,
    /// Directory of the store, as the daemon sees it.
    pub dir: Vec<u8>,
    /// Owner of the store.
    pub uid: u32,
    /// Files, directories and orphans.
    pub inodes: u64,
    /// Connected clients.
    pub sessions: u64,
    /// Bytes of journal that are not folded into the database yet.
    pub journal_bytes: u64,
    /// Its pools, in the order of their ids.
    pub pools: Vec<PoolInfo>,
    /// What was mended or lost when it started, a line each; empty after a clean start. What `check` found well since is left out.
    pub recovery: Vec<String>,
    /// Where it is mounted.
    pub mounts: Vec<MountInfo>,
    /// Its quotas, the first of them.
    pub quotas: Vec<QuotaInfo>,
    /// Quotas that are left out here.
    pub more_quotas: u64,
}

/// A quota, and what is charged to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaInfo {
    /// Whose.
    pub of: QuotaOf,
    /// Of which pool, by name.
    pub pool: String,
    /// Bytes in frames that it has.
    pub used: u64,
    /// Bytes in frames that it may have.
    pub limit: u64,
    /// Whether it has more than it may, and gets nothing until it has less.
    pub over: bool,
}

/// A mount of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountInfo {
    /// The directory.
    pub dir: Vec<u8>,
    /// Whether the kernel serves files from their objects, where they lie in one (else the daemon does).
    pub passthrough: bool,
}

/// Who serves the bytes of a file on a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServedBy {
    /// The kernel, from the file's object: a mapping is the device memory itself.
    Kernel,
    /// The daemon, and nothing is cached: shared mappings are refused.
    Daemon,
    /// The daemon, through the page cache: a mapping is a copy.
    Cache,
}

impl ServedBy {
    /// The name, as JSON and `user.codax.served` have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Daemon => "daemon",
            Self::Cache => "cache",
        }
    }
}

/// How a file is served on a mount, or would be if it were opened now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// By whom.
    pub by: ServedBy,
    /// Why, for people.
    pub why: String,
}

/// How a file is served on one of the store's mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedOn {
    /// The directory that it is mounted on; `None` for any that root would mount it on.
    pub dir: Option<Vec<u8>>,
    /// How.
    pub served: Served,
}

/// What a difference found by `check` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is lost: something is left over or out of step, and `--repair` mends it.
    Mendable,
    /// Bytes or names are lost.
    Lost,
}

/// A difference between table, journal and objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it means.
    pub severity: Severity,
    /// One line.
    pub what: String,
    /// Whether this run mended it.
    pub repaired: bool,
}

/// One thing that the store did or refused, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Number, from 1, without gaps while the store lives.
    pub seq: u64,
    /// When, nanoseconds since 1970.
    pub time_ns: i64,
    /// What: "start", "place", "move", "drain", "online", "refuse", "evict", "repair", "remove", …
    pub what: String,
    /// On what: a path or a pool.
    pub subject: String,
    /// The rest, one line.
    pub detail: String,
    /// Bytes concerned.
    pub bytes: u64,
}
