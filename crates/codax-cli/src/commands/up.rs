//! `codax up`: serves a store, here or in the background.

use super::Context;
use crate::args::UpArgs;
use crate::output::json::{self, PathForm};
use crate::output::text::printable;
use anyhow::Result;
use codax_core::info::{PoolInfo, StoreInfo};
use codax_core::units::format_size;
use codax_daemon::{CommandLine, Config, detach};
use codax_os::cgroup::{Limit, MemoryCgroups};
use serde::Serialize;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

#[derive(Serialize)]
struct Row {
    /// The store's directory.
    #[serde(flatten)]
    dir: PathForm,
    pid: u32,
    detached: bool,
}

/// `codax up`.
pub fn run(context: &Context, args: &UpArgs) -> Result<()> {
    let line = CommandLine {
        store: context.given.clone(),
        dram: args.dram.clone(),
        dram_nodes: args.dram_nodes.clone(),
        devices: args.devices.clone(),
        config: args.config.clone(),
        mount: args.mount.clone(),
        mount_options: args.mount_options.clone(),
    };
    let config = Config::load(&line)?;
    if args.detach {
        return up_detached(context, config);
    }
    let dir = config.store.clone();
    let ready = |info: &StoreInfo| {
        if let Some(limits) = limits() {
            warn_of(&limits, &info.pools);
        }
        let pools = info.pools.iter().map(|pool| format!("{} {}", pool.name, format_size(pool.bytes)));
        let pools = pools.collect::<Vec<_>>().join(", ");
        let mut text = format!("{} is served by process {}: {pools}\n", dir.display(), info.pid);
        for line in &info.recovery {
            text += &format!("  {}\n", printable(line));
        }
        say(context, &dir, info.pid, text);
    };
    Ok(codax_daemon::serve(config, ready)?)
}

fn up_detached(context: &Context, config: Config) -> Result<()> {
    if detach::is_child() {
        return Ok(detach::serve(config)?);
    }
    let pid = detach::spawn()?;
    // It is in this process's cgroup.
    if let Some(limits) = limits() {
        warn_of(&limits, &super::info(&context.store()?)?.pools);
    }
    let dir = config.store;
    let log = dir.join(codax_daemon::LOG_FILE);
    let text = format!("{} is served by process {pid}, which logs to {}\n", dir.display(), log.display());
    let row = Row { dir: PathForm::new(dir.as_os_str().as_bytes()), pid, detached: true };
    context.print([row], || text)
}

/// A limit of the memory of this process's cgroup, and what follows from it.
type Consequence = (Limit, &'static str);

/// The limits there are, the hard one first; `None` without any.
fn limits() -> Option<Vec<Consequence>> {
    let cgroups = MemoryCgroups::of(None)?;
    let hard = cgroups.limit().map(|limit| (limit, "what goes over that is refused with \"no space\""));
    let soft = cgroups.soft_limit().map(|limit| (limit, "the kernel slows the daemon down beyond that"));
    let limits: Vec<_> = hard.into_iter().chain(soft).collect();
    (!limits.is_empty()).then_some(limits)
}

/// Says if the pools may hold more than that.
fn warn_of(limits: &[Consequence], pools: &[PoolInfo]) {
    let all: u64 = pools.iter().map(|pool| pool.bytes).sum();
    let Some((limit, follows)) = limits.iter().find(|(limit, _)| limit.bytes < all) else { return };
    let line = format!(
        "the pools have {}, and the daemon's memory cgroup {} may have {}: {follows} (codax doctor)",
        format_size(all),
        limit.cgroup,
        format_size(limit.bytes)
    );
    eprintln!("codax: warning: {}", printable(&line));
}

/// Says that the store is served. That nobody reads it is no reason to stop.
fn say(context: &Context, dir: &Path, pid: u32, text: String) {
    let row = Row { dir: PathForm::new(dir.as_os_str().as_bytes()), pid, detached: false };
    let mut out = std::io::stdout().lock();
    let said = match context.json {
        true => json::write(&mut out, context.command, [row]),
        false => out.write_all(text.as_bytes()),
    };
    if let Err(error) = said.and_then(|()| out.flush()) {
        tracing::debug!("standard output: {error}");
    }
}
