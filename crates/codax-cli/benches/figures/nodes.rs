//! Moves of a mapped file between NUMA nodes: by codax, where the kernel moves the pages, over plain `move_pages` (move_pages(2)) of the same pages in
//! the same run; and by switching, between pools whose objects are not the same, over the kernel's.

use crate::rig::Rig;
use crate::stats::{ratios, spread};
use anyhow::{Context, Result, ensure};
use codax::{Access, OpenOptions, Store};
use codax_os::hugetlb::NodePages;
use codax_os::numa::Located;
use codax_os::topology::{self, Node};
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const LEN: u64 = 128 << 20;
const PAGE: usize = 4096;
const HUGE: u64 = 2 << 20;
const ROUNDS: usize = 8;

/// The node of the device, as the options of the figure have it.
pub const NODE: u32 = 1;

fn nodes() -> Vec<Node> {
    topology::nodes(Path::new(topology::SYSFS))
}

/// The node of the other one, where `dram` has no such pages.
pub const OTHER_NODE: u32 = 2;

/// Why a figure can't be measured here.
pub fn missing(name: &str) -> Option<&'static str> {
    let far = |number: u32| nodes().iter().any(|node| node.node == number && node.cpus.is_empty());
    if !name.starts_with("nodes") {
        return None;
    }
    if !far(NODE) || !codax_os::mounts::can_mount() {
        return Some("wants root, and NUMA node 1 without CPUs (tests/guest has one)");
    }
    let two = far(OTHER_NODE) && NodePages::of(NODE, HUGE).is_ok();
    (name == "nodes-2m" && !two)
        .then_some("wants hugetlbfs, and NUMA node 2 without CPUs (tests/guest has it)")
}

/// Two pools between which the kernel moves pages.
struct Pair {
    /// The first is that in whose directory the objects are.
    pools: [&'static str; 2],
    nodes: [u32; 2],
    /// Bytes of what the kernel moves as one.
    unit: usize,
}

pub fn run(rig: &Rig) -> Result<()> {
    let dram = nodes().iter().find(|node| !node.cpus.is_empty()).context("a node with CPUs")?.node;
    measure(rig, &Pair { pools: ["dram", "cxl0"], nodes: [dram, NODE], unit: PAGE })
}

/// Of hugetlb pages, between two devices.
pub fn run_reserved(rig: &Rig) -> Result<()> {
    // Plain moves want free pages where they go to, as many as the file has.
    let more = |add: bool| -> Result<()> {
        for node in [NODE, OTHER_NODE] {
            let (pages, more) = (NodePages::of(node, HUGE)?, LEN / HUGE);
            let _alone = pages.lock()?;
            let total = pages.total()?;
            pages.set_total(if add { total + more } else { total - more })?;
        }
        Ok(())
    };
    more(true)?;
    let pair = Pair { pools: ["cxl0", "cxl1"], nodes: [NODE, OTHER_NODE], unit: usize::try_from(HUGE)? };
    let measured = measure(rig, &pair);
    more(false)?;
    measured
}

fn measure(rig: &Rig, pair: &Pair) -> Result<()> {
    let store = rig.connect()?;
    let file = OpenOptions::new().read(true).write(true).create(true).len(LEN).open(&store, "/moved")?;
    let [home, away] = pair.pools;
    if home != "dram" {
        moved(&store, home)?;
    }
    let mapping = file.map(.., Access::ReadWrite)?;
    // Mapped in all its pages, as a program's is that uses it; each with bytes of its own.
    let touch =
        || (0..mapping.len()).step_by(PAGE).for_each(|at| mapping.memory().store_u64(at, at as u64 | 1));
    let id = store.stat("/moved")?.id;
    let object = rig.store_dir().join("pools").join(home).join(format!("{:016x}", id.0));
    let (mut codax, mut plain, mut switched) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        for pool in [away, home] {
            touch();
            codax.push(moved(&store, pool)?);
        }
        // It would bring the pages back.
        signal(rig, "STOP")?;
        for node in [pair.nodes[1], pair.nodes[0]] {
            touch();
            let located = Located::new(File::open(&object)?, 0, LEN)?;
            let pages: Vec<usize> = (0..located.pages()).step_by(pair.unit / PAGE).collect();
            let begun = Instant::now();
            located.bring(&pages, node)?;
            plain.push(begun.elapsed().as_secs_f64());
            ensure!(located.nodes()?.iter().all(|found| *found == Some(node)), "not all pages are there");
        }
        signal(rig, "CONT")?;
        for pool in ["sim0", home] {
            touch();
            switched.push(moved(&store, pool)?);
        }
        if round == 0 {
            // The first of each has memory to fetch from somewhere.
            [&mut codax, &mut plain, &mut switched].into_iter().for_each(Vec::clear);
        }
    }
    println!("{} MiB, by codax through the kernel: {}", LEN >> 20, spread(&codax, "s"));
    println!("plain move_pages of the same pages: {}", spread(&plain, "s"));
    println!("by switching: {}", spread(&switched, "s"));
    println!("speed of codax over move_pages: {}", spread(&ratios(&plain, &codax), "x"));
    println!("speed of switching over the kernel: {}", spread(&ratios(&codax, &switched), "x"));
    Ok(())
}

fn signal(rig: &Rig, name: &str) -> Result<()> {
    let pid = rig.daemon_pid()?.to_string();
    let status = Command::new("kill").args(["-s", name, &pid]).status().context("kill")?;
    ensure!(status.success(), "kill -s {name}: {status}");
    Ok(())
}

/// Moves the file; how many seconds it took, as the program that asks for it sees it.
fn moved(store: &Store, pool: &str) -> Result<f64> {
    let begun = Instant::now();
    let report = store.move_file("/moved", pool, None, &mut |_| {})?;
    ensure!(report.bytes == LEN, "only {} bytes moved", report.bytes);
    Ok(begun.elapsed().as_secs_f64())
}
