//! `codax device evict-strangers`: first what would be moved, then what was, and what stays.

use super::occupants::{self, NodeRow};
use super::{Context, info, unexpected};
use crate::args::EvictStrangersArgs;
use crate::output::text::printable;
use anyhow::{Context as _, Result};
use codax::Store;
use codax_core::Error;
use codax_core::info::{Stranger, Strangers};
use codax_core::units::format_size;
use codax_wire::{Reply, Request};
use serde::Serialize;
use std::io::Write;

/// `codax device evict-strangers`.
pub fn evict(context: &Context, args: &EvictStrangersArgs) -> Result<()> {
    let store = context.store()?;
    let ask = |planned| {
        let strangers = ask(&store, &args.name, planned)?;
        let left = look(context, &store, &args.name, strangers.node)?;
        anyhow::Ok(Row { device: args.name.clone(), planned, strangers, left })
    };
    if args.dry_run {
        let row = ask(true)?;
        return context.print([&row], || row.plan() + &row.rest());
    }
    if !context.json {
        // What is about to be moved is seen before it is.
        std::io::stdout().lock().write_all(ask(true)?.plan().as_bytes())?;
    }
    let row = ask(false)?;
    context.print([&row], || row.done() + &row.rest())?;
    match row.left.strangers() {
        0 => Ok(()),
        left => {
            let node = row.strangers.node;
            Err(Error::busy(format!("{} of others are still on node {node}", format_size(left))).into())
        }
    }
}

fn ask(store: &Store, name: &str, dry_run: bool) -> Result<Strangers> {
    match store.call(Request::EvictStrangers { pool: name.to_owned(), dry_run })? {
        Reply::Strangers(strangers) => Ok(*strangers),
        other => Err(unexpected(&other).into()),
    }
}

fn look(context: &Context, store: &Store, name: &str, node: u32) -> Result<NodeRow> {
    let info = info(store)?;
    let pool = info.pools.iter().find(|pool| pool.name == name);
    let ours = occupants::filesystems(&context.dir, Some(&info));
    NodeRow::look(node, pool, &ours).with_context(|| format!("look at node {node}"))
}

/// What was planned or done, as JSON has it.
#[derive(Serialize)]
struct Row {
    device: String,
    /// Whether it is only what would be done.
    planned: bool,
    #[serde(flatten)]
    strangers: Strangers,
    /// What is on the node now.
    left: NodeRow,
}

impl Row {
    fn lines(&self, line: impl Fn(&Stranger) -> String) -> String {
        let Strangers { processes, more, .. } = &self.strangers;
        let mut out: String = processes.iter().map(|stranger| line(stranger) + "\n").collect();
        if *more > 0 {
            out += &format!("and {more} processes more\n");
        }
        out
    }

    fn plan(&self) -> String {
        let Strangers { node, to, room, processes, .. } = &self.strangers;
        let to: Vec<_> = to.iter().map(u32::to_string).collect();
        if processes.is_empty() {
            return format!("node {node}: no process has memory there that could be moved\n");
        }
        let head = format!("from node {node} to {}, where {} are free:\n", to.join(","), format_size(*room));
        head + &self.lines(|stranger| {
            let why = if stranger.why.is_empty() { String::new() } else { format!("; {}", stranger.why) };
            format!("  {}: {}{why}", name(stranger), format_size(stranger.bytes))
        })
    }

    fn done(&self) -> String {
        self.lines(|stranger| {
            let why = if stranger.why.is_empty() { String::new() } else { format!("; {}", stranger.why) };
            format!("{}: {} moved{why}", name(stranger), format_size(stranger.moved))
        })
    }

    /// What nobody moves by this, and why.
    fn rest(&self) -> String {
        let Strangers { node, .. } = self.strangers;
        let left = self.left.unmapped();
        left.into_iter().map(|line| format!("node {node}: {line}\n")).collect()
    }
}

fn name(stranger: &Stranger) -> String {
    format!("process {} ({})", stranger.pid, printable(&stranger.command))
}
