//! What codax can use of what there is, and why not the rest.

use codax_os::topology::{Dax, Fsdax, Memdev, Mode, Node, Region, Topology};
use serde::Serialize;

/// Whether codax can use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// What it is to codax: `dram`, or a device's backing as `codax up --device NAME=` takes it; null for what can't be used.
    pub usable_as: Option<String>,
    /// Why not, or what to know before; empty for what is as it should be.
    pub why: String,
}

impl Verdict {
    fn yes(device: impl Into<String>, why: impl Into<String>) -> Self {
        Self { usable_as: Some(device.into()), why: why.into() }
    }

    fn no(why: impl Into<String>) -> Self {
        Self { usable_as: None, why: why.into() }
    }
}

/// Whether a node's memory can be a device's.
pub fn is_device(node: &Node) -> bool {
    node.cpus.is_empty() && node.bytes > Some(0)
}

fn numa(node: u32) -> String {
    format!("numa:{node}")
}

pub fn node(node: &Node) -> Verdict {
    match node.bytes {
        None => return Verdict::no("its size can't be read"),
        Some(0) => return Verdict::no("none of its memory is online"),
        Some(_) => {}
    }
    if !is_device(node) {
        return Verdict::yes("dram", "has CPUs: it is the host's own memory");
    }
    let stuck = node.blocks.online - node.blocks.movable;
    if stuck == 0 {
        return Verdict::yes(numa(node.node), "");
    }
    let why = format!(
        "{stuck} of its {} blocks of memory aren't movable: the kernel may keep them from going offline after a drain",
        node.blocks.online
    );
    Verdict::yes(numa(node.node), why)
}

fn devdax(name: &str) -> String {
    format!("devdax:{}", device_file(name))
}

/// The device file of a DAX device.
pub fn device_file(name: &str) -> String {
    format!("/dev/{name}")
}

/// The directory for a store's files on a DAX filesystem; `None` if the command line can't name it.
pub fn directory(fsdax: &Fsdax) -> Option<String> {
    let dir = fsdax.dir.join("codax").into_os_string().into_string().ok()?;
    (!dir.contains([',', '"', '\\']) && !dir.chars().any(char::is_control)).then_some(dir)
}

pub fn dax(dax: &Dax, all: &Topology) -> Verdict {
    let name = &dax.name;
    let to_ram = format!("`daxctl reconfigure-device --mode=system-ram {name}` makes it a node");
    match &dax.mode {
        Mode::SystemRam => {
            let node = dax.target_node.and_then(|node| all.nodes.iter().find(|other| other.node == node));
            match node.filter(|node| node.bytes > Some(0)) {
                Some(node) if is_device(node) => {
                    Verdict::yes(numa(node.node), format!("system-ram: its memory is node {}", node.node))
                }
                Some(node) => {
                    Verdict::no(format!("system-ram: its memory went to node {}, which has CPUs", node.node))
                }
                None => Verdict::no(format!(
                    "system-ram, but none of its memory is online: `daxctl online-memory {name}`"
                )),
            }
        }
        Mode::Devdax if dax.persistent => Verdict::yes(devdax(name), "devdax, persistent"),
        Mode::Devdax => Verdict::yes(devdax(name), format!("devdax, volatile; {to_ram}")),
        Mode::Unbound => Verdict::no(format!(
            "no driver has it; `daxctl reconfigure-device --mode=devdax {name}` makes it a device, --mode=system-ram a node"
        )),
        Mode::Other(driver) => Verdict::no(format!("the driver {driver} has it")),
    }
}

pub fn region(region: &Region, all: &Topology) -> Verdict {
    if !region.committed {
        return Verdict::no("CXL region, not committed: no memory is at its addresses");
    }
    let dax: Vec<_> = all.dax.iter().filter(|dax| dax.region.as_ref() == Some(&region.name)).collect();
    match dax.as_slice() {
        [] if region.mode.as_deref() == Some("pmem") => {
            Verdict::no("CXL region of persistent memory: `ndctl create-namespace` makes a device of it")
        }
        [] => Verdict::no("CXL region without a DAX device: is the module dax_cxl loaded?"),
        dax => {
            let names: Vec<_> = dax.iter().map(|dax| dax.name.as_str()).collect();
            let usable_as = dax.iter().find_map(|dax| self::dax(dax, all).usable_as);
            Verdict { usable_as, why: format!("CXL region: its memory is {}", names.join(", ")) }
        }
    }
}

pub fn memdev(_: &Memdev, all: &Topology) -> Verdict {
    if all.regions.iter().any(|region| region.committed) {
        return Verdict::no("CXL memory device: what regions take of it is listed there");
    }
    Verdict::no("CXL memory device, and no region: `cxl create-region` makes one")
}

pub fn fsdax(fsdax: &Fsdax) -> Verdict {
    let files = if fsdax.always { "" } else { ", for files with the flag" };
    let keeps = if fsdax.persistent { "persistent" } else { "volatile" };
    let why = format!("{} with dax{files} on {}, {keeps}", fsdax.kind, fsdax.dir.display());
    match directory(fsdax) {
        Some(dir) => Verdict::yes(format!("fsdax:{dir}"), why),
        None => Verdict::no(format!("{why}: `--device` can't name that path")),
    }
}
