//! `codax status`, `df` and `du`: what there is, and what it takes.

use super::device::{job, of_memory, state};
use super::{Context, info, quota, unexpected};
use crate::args::{DuArgs, checked};
use crate::output::json::PathForm;
use crate::output::progress::held_lines;
use crate::output::{table, text};
use anyhow::Result;
use codax_core::DRAM;
use codax_core::emergency::EmergencyInfo;
use codax_core::info::{PoolInfo, StoreInfo};
use codax_core::units::{format_duration, format_size};
use codax_wire::{Reply, Request};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// The store, as JSON has it.
#[derive(Serialize)]
struct StoreRow<'a> {
    /// The store's directory.
    #[serde(flatten)]
    dir: PathForm,
    version: &'a str,
    pid: u32,
    uptime_ns: u64,
    uid: u32,
    inodes: u64,
    sessions: u64,
    journal_bytes: u64,
    pools: &'a [PoolInfo],
    recovery: &'a [String],
    mounts: Vec<MountRow>,
    quotas: Vec<quota::Row<'a>>,
    /// Quotas that are left out here: `codax quota` has all.
    more_quotas: u64,
}

/// A mount, as JSON has it.
#[derive(Serialize)]
struct MountRow {
    #[serde(flatten)]
    dir: PathForm,
    /// Whether the kernel serves files from their objects.
    passthrough: bool,
}

impl<'a> StoreRow<'a> {
    fn new(info: &'a StoreInfo) -> Self {
        let StoreInfo {
            version,
            pid,
            uptime_ns,
            dir,
            uid,
            inodes,
            sessions,
            journal_bytes,
            pools,
            recovery,
            mounts,
            quotas,
            more_quotas,
        } = info;
        let mounts = mounts.iter();
        Self {
            dir: PathForm::new(dir),
            version,
            pid: *pid,
            uptime_ns: *uptime_ns,
            uid: *uid,
            inodes: *inodes,
            sessions: *sessions,
            journal_bytes: *journal_bytes,
            pools,
            recovery,
            mounts: mounts
                .map(|mount| MountRow { dir: PathForm::new(&mount.dir), passthrough: mount.passthrough })
                .collect(),
            quotas: quota::rows(quotas),
            more_quotas: *more_quotas,
        }
    }
}

/// `codax status`.
pub fn status(context: &Context) -> Result<()> {
    let info = info(&context.store()?)?;
    context.print([StoreRow::new(&info)], || status_text(&info))
}

fn status_text(info: &StoreInfo) -> String {
    use std::os::unix::ffi::OsStringExt;
    let dir = PathBuf::from(std::ffi::OsString::from_vec(info.dir.clone()));
    let mounts = info.mounts.iter().map(|mount| {
        let how = if mount.passthrough { "" } else { " (all through the daemon)" };
        format!("{}{how}", String::from_utf8_lossy(&mount.dir))
    });
    let mut out = table::facts([
        ("store", dir.display().to_string()),
        ("daemon", format!("codax {}, process {}", info.version, info.pid)),
        ("up", format_duration(Duration::from_nanos(info.uptime_ns))),
        ("files", format!("{}, directories among them", info.inodes)),
        ("clients", info.sessions.to_string()),
        ("dram on", nodes_text(&info.pools)),
        ("mounted on", mounts.collect::<Vec<_>>().join("\n")),
    ]);
    out.push('\n');
    out += &pools_text(&info.pools);
    if !info.quotas.is_empty() {
        out += &format!("\n{}", quota::text(&info.quotas));
        if info.more_quotas > 0 {
            out += &format!("… and {} more: codax quota\n", info.more_quotas);
        }
    }
    for pool in &info.pools {
        for line in emergency_lines(pool) {
            out += &format!("\n{}: {}\n", pool.name, text::printable(&line));
        }
    }
    for pool in &info.pools {
        let Some(running) = &pool.job else { continue };
        out += &format!("\n{}: {}\n", pool.name, text::printable(&job(running)));
        for line in held_lines(&running.waiting) {
            out += &format!("  waits for {}\n", text::printable(&line));
        }
    }
    for pool in &info.pools {
        if let Some(missing) = &pool.missing {
            out += &format!("\n{}: {}\n", pool.name, text::printable(missing));
        }
    }
    if !info.recovery.is_empty() {
        out += "\nthe last start found:\n";
        for line in &info.recovery {
            out += &format!("  {}\n", text::printable(line));
        }
    }
    out
}

/// What an emergency has of a device, and what can't be measured.
pub fn emergency_lines(pool: &PoolInfo) -> Vec<String> {
    let EmergencyInfo { used, lent, owed, unmeasured, unlent, .. } = &pool.emergency;
    let mut lines = Vec::new();
    if *used > 0 {
        lines.push(format!("{} of files that found no room in dram", format_size(*used)));
    }
    if *lent > 0 {
        lines.push(format!("{} lent to the rest of the system", format_size(*lent)));
    }
    if *owed > 0 {
        lines.push(format!("{} of that are wanted back, and others have them still", format_size(*owed)));
    }
    if let Some(why) = unmeasured {
        lines.push(format!(
            "its emergency has a condition that can't be measured here, and it never helps out: {why}"
        ));
    }
    lines.extend(
        unlent.as_ref().map(|why| format!("nothing of it can be lent to the rest of the system: {why}")),
    );
    lines
}

/// The NUMA nodes that `dram` is kept to, if it is.
fn nodes_text(pools: &[PoolInfo]) -> String {
    let nodes = pools.iter().find(|pool| pool.id == DRAM).map_or(&[][..], |pool| &pool.nodes);
    let list: Vec<_> = nodes.iter().map(u32::to_string).collect();
    if list.is_empty() { String::new() } else { format!("NUMA nodes {}", list.join(",")) }
}

fn pools_text(pools: &[PoolInfo]) -> String {
    let mut table = table::new(&["pool", "state", ">size", ">used", ">held", ">free", ">files"]);
    for pool in pools {
        let row = [
            pool.name.clone(),
            state(pool.state).to_owned(),
            of_memory(pool, pool.bytes),
            of_memory(pool, pool.used),
            of_memory(pool, pool.held),
            of_memory(pool, pool.free),
            pool.files.to_string(),
        ];
        table::row(&mut table, row);
    }
    table::text(&table)
}

/// `codax df`.
pub fn df(context: &Context) -> Result<()> {
    let pools = info(&context.store()?)?.pools;
    context.print(&pools, || {
        let mut table = table::new(&["pool", ">bytes", ">used", ">held", ">free", ">use%"]);
        for pool in &pools {
            let taken = u128::from(pool.bytes - pool.free.min(pool.bytes));
            let percent = (taken * 100).div_ceil(u128::from(pool.bytes.max(1)));
            let row = [
                pool.name.clone(),
                pool.bytes.to_string(),
                pool.used.to_string(),
                pool.held.to_string(),
                pool.free.to_string(),
                format!("{percent}%"),
            ];
            table::row(&mut table, row);
        }
        table::text(&table)
    })
}

/// What a path takes.
#[derive(Serialize)]
struct UsageRow {
    #[serde(flatten)]
    path: PathForm,
    files: u64,
    dirs: u64,
    /// Sum of lengths in bytes.
    len: u64,
    /// Bytes of frames in all pools.
    backed: u64,
    pools: Vec<PoolUsage>,
}

/// What it takes of one pool.
#[derive(Serialize)]
struct PoolUsage {
    pool: String,
    backed: u64,
}

/// `codax du`.
pub fn du(context: &Context, args: &DuArgs) -> Result<()> {
    let paths = checked::paths(&args.paths)?;
    let store = context.store()?;
    let mut rows = Vec::new();
    for path in &paths {
        let (files, dirs, len, backed) = match store.call(Request::Usage(path.clone()))? {
            Reply::Usage { files, dirs, len, backed } => (files, dirs, len, backed),
            other => return Err(unexpected(&other).into()),
        };
        let sum = backed.iter().map(|(_, bytes)| bytes).sum();
        let pools = backed.into_iter().map(|(pool, backed)| PoolUsage { pool, backed }).collect();
        rows.push(UsageRow { path: path.into(), files, dirs, len, backed: sum, pools });
    }
    context.print(&rows, || {
        let mut table = table::new(&[">backed", ">bytes", ">files", "pools", "path"]);
        for (path, row) in paths.iter().zip(&rows) {
            let pools = row.pools.iter().filter(|used| used.backed > 0);
            let pools: Vec<_> = pools.map(|used| format!("{} {}", used.pool, used.backed)).collect();
            let pools = if pools.is_empty() { "-".to_owned() } else { pools.join(", ") };
            let cells =
                [row.backed.to_string(), row.len.to_string(), row.files.to_string(), pools, path.to_string()];
            table::row(&mut table, cells);
        }
        table::text(&table)
    })
}
