//! `codax device detach`, which says who else has memory of the device's node: that stands in the way of taking it offline.

use super::{Context, done, info};
use crate::output::text::printable;
use anyhow::{Context as _, Result};
use codax_core::change::PoolState;
use codax_core::units::format_size;
use codax_os::occupants::{self, Occupants};
use codax_wire::Request;
use serde::Serialize;

/// Processes that are named in text.
const NAMED: usize = 10;

/// Lets go of a device, and looks who is left on its node.
pub fn detach(context: &Context, name: &str) -> Result<()> {
    let store = context.store()?;
    done(&store, Request::DetachDevice { pool: name.to_owned() })?;
    let node = info(&store)?.pools.iter().find(|pool| pool.name == name).and_then(|pool| pool.numa);
    let node = node.map(|memory| memory.node);
    let left =
        node.map(|node| occupants::on(node).with_context(|| format!("look at node {node}"))).transpose()?;
    let row = Row::new(name, node, left.unwrap_or_default());
    context.print([&row], || row.text())
}

/// What is left on a device's node, as JSON has it; sizes are bytes.
#[derive(Debug, Serialize)]
struct Row {
    device: String,
    state: PoolState,
    /// The NUMA node; null for a device that isn't one.
    node: Option<u32>,
    free: u64,
    page_cache: u64,
    shared: u64,
    anonymous: u64,
    kernel: u64,
    /// Who maps memory of the node.
    processes: Vec<ProcessRow>,
}

#[derive(Debug, Serialize)]
struct ProcessRow {
    pid: u32,
    command: String,
    bytes: u64,
}

impl Row {
    fn new(device: &str, node: Option<u32>, left: Occupants) -> Self {
        let Occupants { total: _, free, page_cache, shared, anonymous, kernel, processes } = left;
        let processes =
            processes.into_iter().map(|p| ProcessRow { pid: p.pid, command: p.command, bytes: p.bytes });
        Self {
            device: device.to_owned(),
            state: PoolState::Detached,
            node,
            free,
            page_cache,
            shared,
            anonymous,
            kernel,
            processes: processes.collect(),
        }
    }

    fn text(&self) -> String {
        let mut out = format!("{} is detached: nothing of the store's is on it\n", self.device);
        let Some(node) = self.node else { return out };
        for process in self.processes.iter().take(NAMED) {
            let (size, pid, command) = (format_size(process.bytes), process.pid, printable(&process.command));
            out += &format!("node {node}: process {pid} ({command}) maps {size} there\n");
        }
        if let Some(more) = self.processes.len().checked_sub(NAMED).filter(|more| *more > 0) {
            out += &format!("node {node}: and {more} processes more\n");
        }
        for (what, bytes) in [
            ("page cache, which the kernel drops or moves", self.page_cache),
            ("tmpfs and shared memory of others, which can be moved or swapped", self.shared),
            ("the kernel's own, which nobody can move", self.kernel),
        ] {
            if bytes > 0 {
                out += &format!("node {node}: {} of {what}\n", format_size(bytes));
            }
        }
        out
    }
}
