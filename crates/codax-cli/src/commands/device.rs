//! `codax device`: list, show, drain, online; `discover` has a place of its own.

mod show;

use super::{Context, info, pool_names, unexpected};
use crate::args::{DeviceCommand, DrainArgs, OnlineArgs};
use crate::output::json::{PlanRow, PoolNames};
use crate::output::progress::held_lines;
use crate::output::{table, text};
use anyhow::Result;
use codax::Store;
use codax_core::change::{BackingKind, PoolState};
use codax_core::info::{HeldFile, JobInfo, JobReport, PoolInfo};
use codax_core::plan::{Obstacle, Plan};
use codax_core::units::{self, format_size};
use codax_core::{DRAM, PoolId};
use codax_wire::{Reply, Request};
use serde::Serialize;
use std::collections::BTreeMap;

/// Does one of the commands.
pub fn run(context: &Context, command: &DeviceCommand) -> Result<()> {
    match command {
        DeviceCommand::Discover => super::discover::run(context),
        DeviceCommand::List => list(context),
        DeviceCommand::Show(device) => show::run(context, &device.name),
        DeviceCommand::Drain(args) => drain(context, args),
        DeviceCommand::Online(args) => online(context, args),
        DeviceCommand::Detach(device) => super::occupants::detach(context, &device.name),
        DeviceCommand::Attach(device) => attach(context, &device.name),
        DeviceCommand::EvictStrangers(args) => super::strangers::evict(context, args),
    }
}

fn list(context: &Context) -> Result<()> {
    let mut pools = info(&context.store()?)?.pools;
    pools.retain(|pool| pool.id != DRAM);
    context.print(&pools, || {
        if pools.is_empty() {
            return "no devices: name one with `codax up --device NAME=emulated:SIZE`\n".to_owned();
        }
        let headings = [
            "device",
            "backing",
            "state",
            ">size",
            ">used",
            ">free",
            ">read ns",
            ">write ns",
            ">GB/s",
            "job",
        ];
        let mut table = table::new(&headings);
        for pool in &pools {
            let row = [
                pool.name.clone(),
                backing(pool),
                state(pool.state).to_owned(),
                of_memory(pool, pool.bytes),
                of_memory(pool, pool.used),
                of_memory(pool, pool.free),
                or_dash(pool.link.read_ns),
                or_dash(pool.link.write_ns),
                gbps(pool.link.mbps),
                pool.job.as_ref().map_or_else(|| "-".to_owned(), job),
            ];
            table::row(&mut table, row);
        }
        table::text(&table)
    })
}

/// A size of a pool's, if it has any memory.
pub fn of_memory(pool: &PoolInfo, bytes: u64) -> String {
    if pool.bytes == 0 { "-".to_owned() } else { format_size(bytes) }
}

fn or_dash(value: Option<u32>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A bandwidth in GB/s.
pub fn gbps(mbps: Option<u32>) -> String {
    mbps.map_or_else(|| "-".to_owned(), |mbps| (f64::from(mbps) / 1000.0).to_string())
}

/// A state's word.
pub const fn state(state: PoolState) -> &'static str {
    match state {
        PoolState::Online => "online",
        PoolState::Draining => "draining",
        PoolState::Offline => "offline",
        PoolState::Detached => "detached",
    }
}

fn backing(pool: &PoolInfo) -> String {
    match (pool.backing, pool.numa) {
        (BackingKind::Shm, _) if pool.nodes.is_empty() => "shm".to_owned(),
        (BackingKind::Shm, _) => {
            let nodes: Vec<_> = pool.nodes.iter().map(u32::to_string).collect();
            format!("shm on NUMA nodes {}", nodes.join(","))
        }
        (BackingKind::Emulated, _) => "emulated".to_owned(),
        (BackingKind::Software, _) => "software".to_owned(),
        (BackingKind::None, _) => "none".to_owned(),
        (BackingKind::Devdax | BackingKind::Fsdax, _) => {
            let kind = if pool.backing == BackingKind::Devdax { "devdax" } else { "fsdax" };
            pool.dax.as_ref().map_or_else(|| kind.to_owned(), |memory| format!("{kind}:{}", memory.path))
        }
        (BackingKind::Numa, None) => "numa".to_owned(),
        (BackingKind::Numa, Some(memory)) => format!("numa:{},page={}", memory.node, memory.page.name()),
    }
}

/// How far a job is, in a few words.
pub fn job(job: &JobInfo) -> String {
    let waiting = match job.waiting.len() {
        0 => String::new(),
        n => format!(", waits for {}", text::count(n.try_into().unwrap_or(u64::MAX), "file")),
    };
    format!("{}: {} of {}{waiting}", job.what, format_size(job.done), format_size(job.total))
}

/// What a move, a drain or a return did.
#[derive(Serialize)]
pub struct JobRow {
    /// What it was about: a device, or a path (escaped).
    subject: String,
    bytes: u64,
    files: u64,
    nanos: u64,
    /// What is left where it was.
    left: Vec<HeldFile>,
    /// The plan, when only that was asked for.
    plan: Option<PlanRow>,
}

impl JobRow {
    /// The row of `report`.
    pub fn new(subject: impl Into<String>, report: &JobReport, names: &PoolNames) -> Self {
        Self {
            subject: subject.into(),
            bytes: report.bytes,
            files: report.files,
            nanos: report.nanos,
            left: report.left.clone(),
            plan: report.plan.as_ref().map(|plan| PlanRow::new(plan, names)),
        }
    }
}

fn drain(context: &Context, args: &DrainArgs) -> Result<()> {
    let wait = args.wait.as_deref().map(units::parse_duration).transpose()?.unwrap_or_default();
    let limit = args.limit.as_deref().map(units::parse_rate).transpose()?;
    let name = &args.name;
    let request = Request::Drain {
        pool: name.clone(),
        dry_run: args.dry_run,
        wait_ns: u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX),
        limit,
        evict: args.evict,
        volatile: args.volatile,
        reset: args.reset_device,
        running: args.keep_running,
    };
    let store = context.store()?;
    if !args.dry_run {
        super::on_interrupt(format!(
            "cancelled: {name} goes online again; `codax device online {name}` brings home what has moved"
        ))?;
    }
    let report = job_of(context, &store, format!("draining {name}"), request)?;
    let names = pool_names(&store)?;
    context.print([JobRow::new(name, &report, &names)], || match &report.plan {
        Some(plan) => plan_text(name, plan, &names),
        None => done_line(&format!("{name} is offline and empty"), &report) + &left_text(&report),
    })
}

fn online(context: &Context, args: &OnlineArgs) -> Result<()> {
    let name = &args.name;
    let store = context.store()?;
    super::on_interrupt(format!("cancelled: {name} is online; what has not come home stays where it is"))?;
    let request = Request::Online { pool: name.clone(), anew: args.reset_device };
    let report = job_of(context, &store, format!("bringing {name} online"), request)?;
    let row = JobRow::new(name, &report, &pool_names(&store)?);
    context.print([row], || done_line(&format!("{name} is online"), &report) + &left_text(&report))
}

fn attach(context: &Context, name: &str) -> Result<()> {
    super::done(&context.store()?, Request::AttachDevice { pool: name.to_owned() })?;
    let row = StateRow { device: name, state: PoolState::Offline };
    context.print([row], || format!("{name} is attached: codax device online {name} puts it in service\n"))
}

/// A device's state after a command.
#[derive(Serialize)]
struct StateRow<'a> {
    device: &'a str,
    state: PoolState,
}

fn job_of(context: &Context, store: &Store, what: String, request: Request) -> Result<JobReport> {
    let mut progress = context.progress(what);
    match store.call_with_progress(request, &mut |job| progress.job(job))? {
        Reply::Job(report) => Ok(*report),
        other => Err(unexpected(&other).into()),
    }
}

fn done_line(what: &str, report: &JobReport) -> String {
    let what = text::printable(what);
    if report.bytes == 0 {
        return format!("{what}: nothing had to move\n");
    }
    let (size, files) = (format_size(report.bytes), text::count(report.files, "file"));
    format!("{what}: {size} of {files} moved in {}\n", text::pace(report.bytes, report.nanos))
}

fn left_text(report: &JobReport) -> String {
    held_lines(&report.left)
        .iter()
        .fold(String::new(), |out, line| out + "left where it is: " + &text::printable(line) + "\n")
}

fn plan_text(name: &str, plan: &Plan, names: &PoolNames) -> String {
    let mut table = table::new(&["file", ">bytes", "to"]);
    for planned in &plan.moves {
        let mut bytes: BTreeMap<PoolId, u64> = BTreeMap::new();
        for run in &planned.to {
            *bytes.entry(run.pool).or_default() += run.pages.bytes();
        }
        for (pool, bytes) in bytes {
            table::row(&mut table, [planned.path.clone(), bytes.to_string(), names.get(pool)]);
        }
    }
    let mut out = if plan.moves.is_empty() { String::new() } else { table::text(&table) };
    out += &match plan.obstacles.is_empty() {
        true => format!("{name} can be drained: {} would move\n", format_size(plan.frames.bytes())),
        false => format!("{name} can't be drained now:\n"),
    };
    for obstacle in &plan.obstacles {
        for line in obstacle_lines(obstacle) {
            out = out + "  " + &text::printable(&line) + "\n";
        }
    }
    out
}

fn obstacle_lines(obstacle: &Obstacle) -> Vec<String> {
    match obstacle {
        Obstacle::NoRoom { missing, files } => {
            vec![format!("{missing} bytes have no room elsewhere, of {}", some_of(files))]
        }
        Obstacle::Volatile { files } => {
            vec![format!(
                "they outlive the power, and would not where there is room (--volatile): {}",
                some_of(files)
            )]
        }
        Obstacle::Placement { files } => {
            vec![format!("their placement keeps them there: {}", some_of(files))]
        }
        Obstacle::Lent { bytes } => {
            vec![format!(
                "{} of it are lent to the rest of the system, and are asked back first",
                format_size(*bytes)
            )]
        }
        Obstacle::Held { file, by } => held_lines(&[HeldFile { path: file.clone(), by: by.clone() }]),
    }
}

/// The first few of a list that may be long.
fn some_of(files: &[String]) -> String {
    let shown = files.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", ");
    match files.len().saturating_sub(8) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_core::extent::PoolRun;
    use codax_core::plan::PlannedMove;
    use codax_core::{FileId, PageCount, PageRange};

    #[test]
    fn a_plan_says_what_moves_and_what_is_in_the_way() {
        let moves = vec![PlannedMove {
            file: FileId(2),
            path: "/a".to_owned(),
            to: vec![PoolRun { pages: PageRange::new(0, 2), pool: DRAM }],
        }];
        let mut plan = Plan { moves, obstacles: vec![], frames: PageCount(2) };
        let shown = plan_text("sim0", &plan, &PoolNames::default());
        assert_eq!(shown, "file  bytes  to\n/a     8192  #0\nsim0 can be drained: 8 KiB would move\n");
        plan.obstacles = vec![Obstacle::NoRoom { missing: 4096, files: vec!["/a".to_owned()] }];
        let shown = plan_text("sim0", &plan, &PoolNames::default());
        assert!(
            shown.ends_with("sim0 can't be drained now:\n  4096 bytes have no room elsewhere, of /a\n"),
            "{shown}"
        );
    }
}
