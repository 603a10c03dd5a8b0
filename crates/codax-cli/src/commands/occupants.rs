//! Who else has memory of a device's node, for `codax doctor` and `codax device detach`: it stands in the way of what is put there, and of
//! taking it offline.

use super::{Context, done, info};
use crate::output::text::printable;
use anyhow::{Context as _, Result};
use codax_core::change::PoolState;
use codax_core::info::{PoolInfo, StoreInfo};
use codax_core::units::format_size;
use codax_os::occupants::{self, Filesystems, Occupants};
use codax_os::process::filesystem_of;
use codax_wire::Request;
use serde::Serialize;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Processes that are named in text.
const NAMED: usize = 10;

/// Lets go of a device, and looks who is left on its node.
pub fn detach(context: &Context, name: &str) -> Result<()> {
    let store = context.store()?;
    done(&store, Request::DetachDevice { pool: name.to_owned() })?;
    let node = info(&store)?.pools.iter().find(|pool| pool.name == name).and_then(|pool| pool.numa);
    let node = node.map(|memory| memory.node);
    let look =
        |node| NodeRow::look(node, None, &Filesystems::new()).with_context(|| format!("look at node {node}"));
    let row = Row { device: name.to_owned(), state: PoolState::Detached, left: node.map(look).transpose()? };
    context.print([&row], || row.text())
}

/// What is left on a device's node, as JSON has it.
#[derive(Debug, Serialize)]
struct Row {
    device: String,
    state: PoolState,
    /// What is on its node; without these fields for a device that isn't one.
    #[serde(flatten)]
    left: Option<NodeRow>,
}

impl Row {
    fn text(&self) -> String {
        let mut out = format!("{} is detached: nothing of the store's is on it\n", self.device);
        let Some(left) = &self.left else { return out };
        for line in left.lines() {
            out += &format!("node {}: {line}\n", left.node);
        }
        out
    }
}

/// The filesystems of a store whose files lie where it put them: its pools', and where it is mounted.
pub fn filesystems(dir: &Path, store: Option<&StoreInfo>) -> Filesystems {
    let below = |name: &str| std::fs::read_dir(dir.join(name)).into_iter().flatten().flatten();
    let pools = below("pools").chain(below("reserve")).map(|entry| entry.path());
    let mounts = store.into_iter().flat_map(|store| &store.mounts);
    let mounts = mounts.map(|mount| Path::new(OsStr::from_bytes(&mount.dir)).to_owned());
    pools.chain(mounts).filter_map(|path| filesystem_of(&path).ok()).collect()
}

/// What is on a node that a store didn't put there, as JSON has it; sizes are bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeRow {
    /// The NUMA node.
    pub node: u32,
    /// Its memory in all.
    pub total: u64,
    /// What is free of it.
    pub free: u64,
    /// What the store has there.
    store: u64,
    /// Files that are cached.
    page_cache: u64,
    /// tmpfs and shared memory of others.
    shared: u64,
    anonymous: u64,
    /// Huge pages in use by others.
    huge: u64,
    /// The kernel's own, slab included.
    pub kernel: u64,
    slab: u64,
    slab_reclaimable: u64,
    /// Which of these kinds can be moved to other nodes.
    movable: Movable,
    /// Who maps memory of the node.
    processes: Vec<ProcessRow>,
    /// Processes that couldn't be looked into.
    unseen: u64,
}

/// Whether memory of a kind can be moved to other nodes, under whoever has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Movable {
    page_cache: bool,
    shared: bool,
    anonymous: bool,
    /// To where such pages are free.
    huge: bool,
    kernel: bool,
    /// What of it is reclaimable goes when the kernel drops its caches.
    slab: bool,
}

const MOVABLE: Movable =
    Movable { page_cache: true, shared: true, anonymous: true, huge: true, kernel: false, slab: false };

/// A process that maps memory of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ProcessRow {
    pid: u32,
    command: String,
    bytes: u64,
    /// Whether all of it could be moved to other nodes.
    movable: bool,
    /// Why not, or what that takes.
    why: String,
}

impl NodeRow {
    /// Looks at a node, of which a pool may be the store's. What is on these filesystems the store has put there.
    pub fn look(node: u32, pool: Option<&PoolInfo>, ours: &Filesystems) -> std::io::Result<Self> {
        // What is set aside and in no file is the store's as well.
        let store = pool.map_or(0, |pool| {
            pool.reserve.as_ref().map_or(pool.used + pool.held + pool.populated.unwrap_or(0), |r| r.taken)
        });
        Ok(Self::new(node, occupants::on(node, ours)?, store))
    }

    /// What was found on a node, of which the store has so many bytes.
    pub fn new(node: u32, found: Occupants, store: u64) -> Self {
        let processes = found.processes.into_iter().map(|p| {
            let why = match (p.pinned, p.huge) {
                (0, 0) => String::new(),
                (0, huge) => format!("{} to where huge pages are free", format_size(huge)),
                (pinned, _) => {
                    format!("it has pinned {} for devices, which nobody moves", format_size(pinned))
                }
            };
            ProcessRow { pid: p.pid, command: p.command, bytes: p.bytes, movable: p.pinned == 0, why }
        });
        // Its pages are one or the other.
        let in_huge = found.huge.min(store);
        Self {
            node,
            total: found.total,
            free: found.free,
            store,
            page_cache: found.page_cache,
            shared: found.shared.saturating_sub(store - in_huge),
            anonymous: found.anonymous,
            huge: (found.huge - in_huge).saturating_sub(found.huge_free),
            kernel: found.kernel,
            slab: found.slab,
            slab_reclaimable: found.slab_reclaimable,
            movable: MOVABLE,
            processes: processes.collect(),
            unseen: found.unseen,
        }
    }

    /// Bytes of others, without the kernel's own.
    pub const fn strangers(&self) -> u64 {
        self.page_cache + self.shared + self.anonymous + self.huge
    }

    /// What is there, line by line.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for process in self.processes.iter().take(NAMED) {
            let ProcessRow { pid, command, bytes, movable, why } = process;
            let can = if *movable { "can be moved" } else { "can't all be moved" };
            let why = if why.is_empty() { String::new() } else { format!(": {why}") };
            lines.push(format!(
                "process {pid} ({}): {}, {can}{why}",
                printable(command),
                format_size(*bytes)
            ));
        }
        if let Some(more) = self.processes.len().checked_sub(NAMED).filter(|more| *more > 0) {
            lines.push(format!("and {more} processes more"));
        }
        lines.extend(self.kinds());
        if self.unseen > 0 {
            lines.push(format!("{} processes can't be looked into: ask as root", self.unseen));
        }
        lines
    }

    /// What is there by kinds, line by line.
    fn kinds(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let slab = self.slab.saturating_sub(self.slab_reclaimable);
        for (what, bytes) in [
            ("processes' own memory, which can be moved", self.anonymous),
            ("page cache, which the kernel drops or moves", self.page_cache),
            ("tmpfs and shared memory of others, which can be moved or swapped", self.shared),
            ("huge pages of others, which can be moved to where such are free", self.huge),
            ("slab that the kernel can drop", self.slab_reclaimable),
            ("slab that nobody can move", slab),
            ("the kernel's own beside, which nobody can move", self.kernel.saturating_sub(self.slab)),
        ] {
            if bytes > 0 {
                lines.push(format!("{} of {what}", format_size(bytes)));
            }
        }
        lines
    }

    /// What of it no process's pages are moved with, line by line, and how it can be got rid of.
    pub fn unmapped(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (what, bytes) in [
            ("processes' own memory: somebody has it in use, or there is no room elsewhere", self.anonymous),
            (
                "page cache that nobody maps: echo 1 > /proc/sys/vm/drop_caches drops what is written back",
                self.page_cache,
            ),
            (
                "tmpfs and shared memory that nobody maps: remove the files, or read them into others",
                self.shared,
            ),
            ("huge pages of others: they move to where such are free", self.huge),
            ("slab, of which echo 2 > /proc/sys/vm/drop_caches drops a part", self.slab_reclaimable),
            ("the kernel's own, which nobody can move", self.kernel.saturating_sub(self.slab_reclaimable)),
        ] {
            if bytes > 0 {
                lines.push(format!("{} of {what}", format_size(bytes)));
            }
        }
        lines
    }
}
