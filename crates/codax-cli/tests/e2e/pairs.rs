//! Every pair of pools that a machine can have, in one store that has them all: put on one, moved to and fro under a writer, drained to the other.
//!
//! A scenario for each pair, so that each has a line of the table.

use crate::client::{Client, check_counted, counted};
use crate::numa::{far, lies_on, nodes};
use crate::rig::{MIB, Plan, root, skipped};
use crate::setting;

/// A pool that a machine may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pool {
    Dram,
    Emulated,
    /// A NUMA node without CPUs, the first, in pages of 4 KiB.
    Small,
    /// Another one, in transparent huge pages.
    Huge,
    /// The same node, in huge pages that are set aside.
    Reserved,
    /// A DAX device that outlives the power.
    Devdax,
    /// One that doesn't.
    Hmem,
    /// Files of a DAX filesystem.
    Fsdax,
}

use Pool::{Devdax, Dram, Emulated, Fsdax, Hmem, Huge, Reserved, Small};

impl Pool {
    fn name(self) -> &'static str {
        match self {
            Dram => "dram",
            Emulated => "sim0",
            Small => "cxl4k",
            Huge => "cxlthp",
            Reserved => "cxl2m",
            Devdax => "pmem0",
            Hmem => "hmem0",
            Fsdax => "files0",
        }
    }

    /// The node that it is on, if it is a device's; the error says what the machine has not.
    fn node(self) -> Result<Option<u32>, &'static str> {
        let none = "wants root, and two NUMA nodes without CPUs";
        let nth = |n: usize| far().get(n).copied().filter(|_| root()).map(Some).ok_or(none);
        match self {
            Dram | Emulated => Ok(None),
            Small => nth(0),
            Huge => nth(1),
            Reserved => nth(0),
            Devdax => setting::devdax().map(|_| None).ok_or("wants a DAX device"),
            Hmem => setting::hmem().map(|_| None).ok_or("wants a volatile DAX device"),
            Fsdax => setting::fsdax().map(|_| None).ok_or("wants a DAX filesystem"),
        }
    }

    /// What it is as a device, where it isn't in every store.
    fn device(self) -> Option<String> {
        let what = match self {
            Dram | Emulated | Small | Huge | Reserved => return None,
            Devdax => format!("devdax:{},format=force", setting::devdax()?),
            Hmem => format!("devdax:{},format=force", setting::hmem()?),
            Fsdax => format!("fsdax:{}/{},size=64MiB,format", setting::fsdax()?, setting::DIR),
        };
        Some(format!("{}={what}", self.name()))
    }

    /// Whether it outlives the power.
    fn is_persistent(self) -> bool {
        matches!(self, Devdax | Fsdax)
    }
}

fn pair(a: Pool, b: Pool) {
    const LEN: u64 = 6 * MIB + 20_480;
    if let Some(why) = [a, b].into_iter().find_map(|pool| pool.node().err()) {
        return skipped(&format!("{a:?} and {b:?}"), why);
    }
    let near = nodes().into_iter().filter(|node| !node.cpus.is_empty()).map(|node| node.node).collect();
    let mut places = Vec::new();
    let mut plan = Plan::new().device_as("sim0=emulated:64MiB");
    // A node is one device: there it is one of two.
    let first = if [a, b].contains(&Reserved) { (Reserved, "2M") } else { (Small, "4K") };
    for (pool, page) in [first, (Huge, "thp")] {
        if let Ok(Some(node)) = pool.node() {
            plan = plan.and_device(&format!("{}=numa:{node},page={page},reserve=64MiB", pool.name()));
            places.push((pool.name(), vec![node]));
        }
    }
    // These have one store at a time, or take their time to make: only where they are meant.
    let others = [a, b].into_iter().filter_map(Pool::device);
    let plan = others.fold(plan, |plan, device| plan.and_device(&device));
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
        // What outlives the power goes without a word only where it does as well.
        let mut words = vec!["device", "drain", device.name()];
        if device.is_persistent() && !refuge.is_persistent() {
            rig.run(&words).fails(6, &[device.name(), "/f", "--volatile"]);
            there(device);
            words.push("--volatile");
        }
        rig.ok(&words);
        there(refuge);
        rig.ok(&["device", "online", device.name()]);
        there(device);
    }
    // And a new daemon finds it so, with who has it mapped.
    rig.kill();
    rig.up();
    rig.until_mapped_again("/f");
    rig.ok(&["move", "/f", "--to", b.name()]);
    there(b);
    let rounds = counter.number("stop");
    check_counted(&rig.get("/f"), 1, &[rounds]);
    counter.end();
    rig.sound();
    // Huge pages that were set aside are given back by this alone.
    rig.ok(&["down", "--purge"]);
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

#[test]
fn dram_and_numa_2m() {
    pair(Dram, Reserved);
}

#[test]
fn emulated_and_numa_2m() {
    pair(Emulated, Reserved);
}

#[test]
fn numa_thp_and_numa_2m() {
    pair(Huge, Reserved);
}

#[test]
fn numa_2m_and_devdax() {
    pair(Reserved, Devdax);
}

#[test]
fn numa_2m_and_fsdax() {
    pair(Reserved, Fsdax);
}

#[test]
fn numa_2m_and_hmem() {
    pair(Reserved, Hmem);
}

#[test]
fn emulated_and_hmem() {
    pair(Emulated, Hmem);
}

#[test]
fn numa_4k_and_hmem() {
    pair(Small, Hmem);
}

#[test]
fn dram_and_devdax() {
    pair(Dram, Devdax);
}

#[test]
fn dram_and_fsdax() {
    pair(Dram, Fsdax);
}

#[test]
fn emulated_and_devdax() {
    pair(Emulated, Devdax);
}

#[test]
fn emulated_and_fsdax() {
    pair(Emulated, Fsdax);
}

#[test]
fn numa_4k_and_devdax() {
    pair(Small, Devdax);
}

#[test]
fn numa_4k_and_fsdax() {
    pair(Small, Fsdax);
}

#[test]
fn numa_thp_and_devdax() {
    pair(Huge, Devdax);
}

#[test]
fn numa_thp_and_fsdax() {
    pair(Huge, Fsdax);
}

#[test]
fn devdax_and_fsdax() {
    pair(Devdax, Fsdax);
}

#[test]
fn dram_and_hmem() {
    pair(Dram, Hmem);
}

#[test]
fn numa_thp_and_hmem() {
    pair(Huge, Hmem);
}

#[test]
fn devdax_and_hmem() {
    pair(Devdax, Hmem);
}

#[test]
fn fsdax_and_hmem() {
    pair(Fsdax, Hmem);
}
