//! `codax probe`: measures what the pools are like from here, and what the CPUs tell each other costs, beside what is announced.

mod announced;
mod figures;
mod handover;
mod memory;
mod pool;

use super::{Context, info};
use crate::args::ProbeArgs;
use crate::args::checked;
use crate::output::table;
use anyhow::Result;
use codax_core::change::PoolState;
use codax_core::info::PoolInfo;
use codax_core::units::{self, format_size};
use codax_core::{Error, PoolId};
use codax_os::topology::{self, Cpu};
use figures::Summary;
use handover::HandoverRow;
use pool::PoolRow;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a measurement may be asked to take.
const TIME: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));

/// What was measured, as JSON has it.
#[derive(Serialize)]
struct Row {
    pools: Vec<PoolRow>,
    handover: HandoverRow,
}

/// What every measurement needs.
#[derive(Debug)]
struct Terms {
    /// How long it takes, about.
    time: Duration,
    /// Bytes to measure in, if that was said.
    size: Option<u64>,
    /// The CPUs of this machine.
    cpus: Vec<Cpu>,
    /// Set when the user has had enough.
    cancelled: Arc<AtomicBool>,
}

impl Terms {
    fn new(args: &ProbeArgs) -> Result<Self> {
        let time = units::parse_duration(&args.time)?;
        if !(TIME.0..=TIME.1).contains(&time) {
            return Err(
                Error::invalid(format!("--time {}: give 10ms to 60s", args.time.escape_debug())).into()
            );
        }
        let size = args.size.as_deref().map(units::parse_size).transpose()?;
        if let Some(size) = size.filter(|size| *size < pool::SIZE_MIN || size % codax_core::PAGE_SIZE != 0) {
            return Err(Error::invalid(format!(
                "--size {size}: give 1MiB or more, a multiple of 4096 bytes"
            ))
            .into());
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&cancelled))?;
        }
        Ok(Self { time, size, cpus: topology::cpus(Path::new(topology::SYSFS)), cancelled })
    }

    /// An error when the user has had enough. Asked between steps: what was begun is taken back by who began it.
    fn go_on(&self) -> codax_core::Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Error::cancelled("cancelled: nothing of it stays in the store"));
        }
        Ok(())
    }
}

/// `codax probe`.
pub fn run(context: &Context, args: &ProbeArgs) -> Result<()> {
    let dir = checked::path(&args.dir)?;
    let terms = Terms::new(args)?;
    let store = context.store()?;
    let known = info(&store)?.pools;
    let mut pools = Vec::new();
    for id in chosen(&known, &args.pools)? {
        // What was free at the start may not be any more.
        let now = info(&store)?.pools;
        let Some(pool) = now.iter().find(|pool| pool.id == id) else { continue };
        pools.push(pool::measure(&store, pool, &dir, &terms)?);
    }
    let row = Row { pools, handover: handover::measure(&terms, args.all_cpus)? };
    context.print([&row], || text(&row))
}

/// The pools that are meant: those named, or all that are online.
fn chosen(known: &[PoolInfo], named: &[String]) -> codax_core::Result<Vec<PoolId>> {
    if named.is_empty() {
        let measured = known.iter().filter(|pool| pool.state == PoolState::Online && pool.bytes > 0);
        return Ok(measured.map(|pool| pool.id).collect());
    }
    let mut chosen = Vec::new();
    for name in named {
        let Some(pool) = known.iter().find(|pool| pool.name == *name) else {
            let names: Vec<_> = known.iter().map(|pool| pool.name.as_str()).collect();
            return Err(Error::not_found(format!("no pool {name}: this store has {}", names.join(", "))));
        };
        if pool.bytes == 0 {
            return Err(Error::invalid(format!("{name} has no memory that could be measured")));
        }
        if pool.state != PoolState::Online {
            let state = super::device::state(pool.state);
            return Err(Error::device_state(format!(
                "{name} is {state}: only what is online can be measured"
            )));
        }
        if !chosen.contains(&pool.id) {
            chosen.push(pool.id);
        }
    }
    Ok(chosen)
}

fn text(row: &Row) -> String {
    let mut table = table::new(&["pool", "", ">measured", ">middle half", ">announced"]);
    for pool in &row.pools {
        let announced = &pool.announced;
        let figures = [
            ("latency", &pool.measured.read_ns, announced.read_ns, "ns"),
            ("read", &pool.measured.read_mbps, announced.read_mbps, "MB/s"),
            ("write", &pool.measured.write_mbps, announced.write_mbps, "MB/s"),
            ("copy", &pool.measured.copy_mbps, None, "MB/s"),
        ];
        for (what, measured, announced, unit) in figures {
            let announced = announced.map_or_else(|| "-".to_owned(), |value| format!("{value} {unit}"));
            let Summary { median, low, high, .. } = measured;
            let cells = [
                pool.name.clone(),
                what.to_owned(),
                format!("{median} {unit}"),
                format!("{low} to {high}"),
                announced,
            ];
            table::row(&mut table, cells);
        }
    }
    let mut out = table::text(&table);
    for pool in &row.pools {
        let node = pool.node.map_or_else(String::new, |node| format!(" from the CPUs of node {node}"));
        out += &format!("\n{}: {} at random{node}", pool.name, format_size(pool.bytes));
        pool.notes.iter().for_each(|note| out += &format!("; {note}"));
    }
    if !row.pools.is_empty() {
        out.push('\n');
    }
    out + "\n" + &handover::text(&row.handover)
}

/// A pool for tests.
#[cfg(test)]
pub fn sample(id: u16, name: &str, state: PoolState) -> PoolInfo {
    use codax_core::change::{BackingKind, LinkModel};
    PoolInfo {
        id: PoolId(id),
        name: name.to_owned(),
        backing: BackingKind::Emulated,
        numa: None,
        dax: None,
        persistent: false,
        retired: 0,
        state,
        bytes: 1 << 30,
        used: 0,
        held: 0,
        private: 0,
        free: 1 << 30,
        files: 0,
        link: LinkModel::default(),
        swappable: false,
        reserve: None,
        huge: false,
        moves_with: Vec::new(),
        exclusive: codax_core::info::Exclusive::None,
        populated: None,
        emergency: Default::default(),
        job: None,
        nodes: Vec::new(),
        missing: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_core::ErrorKind;

    #[test]
    fn all_that_is_online_is_meant_unless_pools_are_named() {
        let known = [
            sample(0, "dram", PoolState::Online),
            sample(1, "a", PoolState::Offline),
            sample(2, "b", PoolState::Online),
        ];
        let named = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
            chosen(&known, &names)
        };
        assert_eq!(named(&[]).unwrap(), [PoolId(0), PoolId(2)]);
        assert_eq!(named(&["b", "b", "dram"]).unwrap(), [PoolId(2), PoolId(0)]);
        assert_eq!(named(&["b", "a"]).unwrap_err().kind, ErrorKind::DeviceState);
        let missing = named(&["c"]).unwrap_err();
        assert_eq!(
            (missing.kind, missing.message.as_str()),
            (ErrorKind::NotFound, "no pool c: this store has dram, a, b")
        );
    }
}
