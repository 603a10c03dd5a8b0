//! Every pair of pools that a machine can have, in one store that has them all: put on one, moved to and fro under a writer, drained to the other.
//!
//! A scenario for each pair, so that each has a line of the table.

use crate::client::{Client, check_counted, counted};
use crate::numa::{far, lies_on, nodes};
use crate::rig::{MIB, Plan, root, skipped};

/// A pool that a machine may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pool {
    Dram,
    Emulated,
    /// A NUMA node without CPUs, the first, in pages of 4 KiB.
    Small,
    /// Another one, in transparent huge pages.
    Huge,
}

use Pool::{Dram, Emulated, Huge, Small};

impl Pool {
    fn name(self) -> &'static str {
        match self {
            Dram => "dram",
            Emulated => "sim0",
            Small => "cxl4k",
            Huge => "cxlthp",
        }
    }

    /// The node that it is on, if it is a device's; `Err` where the machine has none.
    fn node(self) -> Result<Option<u32>, ()> {
        let nth = |n: usize| far().get(n).copied().filter(|_| root()).map(Some).ok_or(());
        match self {
            Dram | Emulated => Ok(None),
            Small => nth(0),
            Huge => nth(1),
        }
    }
}

fn pair(a: Pool, b: Pool) {
    const LEN: u64 = 6 * MIB + 20_480;
    let (Ok(_), Ok(_)) = (a.node(), b.node()) else {
        return skipped(&format!("{a:?} and {b:?}"), "wants root, and two NUMA nodes without CPUs");
    };
    let near = nodes().into_iter().filter(|node| !node.cpus.is_empty()).map(|node| node.node).collect();
    let mut places = Vec::new();
    let mut plan = Plan::new().device_as("sim0=emulated:64MiB");
    for (pool, page) in [(Small, "4K"), (Huge, "thp")] {
        if let Ok(Some(node)) = pool.node() {
            plan = plan.and_device(&format!("{}=numa:{node},page={page},reserve=64MiB", pool.name()));
            places.push((pool.name(), vec![node]));
        }
    }
    if !places.is_empty() {
        places.push(("dram", near));
    }
    let rig = plan.up();
    let there = |pool: Pool| assert_eq!(lies_on(&rig, "/f", &places), [pool.name()]);
    rig.put("/f", &counted(LEN, 1), &["--on", a.name()]).ok();
    there(a);
    let mut counter = Client::start(&rig, "count", &["/f", "1", "0"]);
    for to in [b, a, b, a] {
        let before = counter.number("rounds");
        rig.ok(&["move", "/f", "--to", to.name()]);
        there(to);
        assert!(counter.number("rounds") >= before);
    }
    // The other pool of its placement is where a drain takes it.
    rig.ok(&["placement", "/f", "--interleave", &format!("{},{}", a.name(), b.name())]);
    for (device, refuge) in [(a, b), (b, a)].into_iter().filter(|(device, _)| *device != Dram) {
        rig.ok(&["move", "/f", "--to", device.name()]);
        rig.ok(&["device", "drain", device.name()]);
        there(refuge);
        rig.ok(&["device", "online", device.name()]);
        there(device);
    }
    let rounds = counter.number("stop");
    check_counted(&rig.get("/f"), 1, &[rounds]);
    counter.end();
    rig.sound();
}

#[test]
fn dram_and_emulated() {
    pair(Dram, Emulated);
}

#[test]
fn dram_and_numa_4k() {
    pair(Dram, Small);
}

#[test]
fn dram_and_numa_thp() {
    pair(Dram, Huge);
}

#[test]
fn emulated_and_numa_4k() {
    pair(Emulated, Small);
}

#[test]
fn emulated_and_numa_thp() {
    pair(Emulated, Huge);
}

#[test]
fn numa_4k_and_numa_thp() {
    pair(Small, Huge);
}
