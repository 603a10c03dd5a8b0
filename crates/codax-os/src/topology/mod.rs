//! What memory and devices the kernel knows of, as sysfs lists them. Reads, and changes nothing.
//!
//! Everything is below a root that the caller names, [`SYSFS`] on a running machine. A file that isn't there is a value that isn't known; one
//! that makes no sense is left out and named in [`Topology::garbled`]. Shapes are those of the kernel's `Documentation/ABI`:
//! `stable/sysfs-devices-node`, `testing/sysfs-bus-dax`, `testing/sysfs-bus-cxl`, `testing/sysfs-devices-system-cpu`,
//! `testing/sysfs-kernel-mm-memory-tiers`.
#![forbid(unsafe_code)]

mod badblocks;
mod cpu;
mod cxl;
mod dax;
mod fsdax;
mod node;
mod reader;

pub use badblocks::bad_blocks_of_dax;
pub use cpu::Cpu;
pub use cxl::{Memdev, Region};
pub use dax::{Dax, Mode};
pub use fsdax::Fsdax;
pub use node::{Access, Blocks, HugePool, Node};
pub use reader::Garbled;

use reader::Reader;
use std::path::Path;

/// Where sysfs is mounted.
pub const SYSFS: &str = "/sys";

/// Where this process's mounts are listed.
pub const MOUNTINFO: &str = "/proc/self/mountinfo";

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// NUMA nodes that are online.
    pub nodes: Vec<Node>,
    /// DAX devices.
    pub dax: Vec<Dax>,
    /// CXL memory devices.
    pub memdevs: Vec<Memdev>,
    /// CXL regions.
    pub regions: Vec<Region>,
    /// Filesystems mounted with `dax`.
    pub fsdax: Vec<Fsdax>,
    /// Values that made no sense and were left out.
    pub garbled: Vec<Garbled>,
}

impl Topology {
    /// Reads it all: the sysfs below `root`, and the mounts that the file `mountinfo` lists.
    #[must_use]
    pub fn read(root: &Path, mountinfo: &Path) -> Self {
        let sys = Reader::new(root);
        let mounts = std::fs::read(mountinfo).unwrap_or_default();
        let (nodes, memdevs, regions) = (node::read(&sys), cxl::memdevs(&sys), cxl::regions(&sys));
        let dax = dax::read(&sys, &regions);
        let fsdax = fsdax::read(&sys, &mounts);
        Self { nodes, dax, memdevs, regions, fsdax, garbled: sys.into_garbled() }
    }
}

/// The nodes alone, with what the firmware tells of them ([`Node::link`]).
#[must_use]
pub fn nodes(root: &Path) -> Vec<Node> {
    node::read(&Reader::new(root))
}

/// Nodes that have memory online; `None` where the kernel doesn't say.
#[must_use]
pub fn nodes_with_memory(root: &Path) -> Option<Vec<u32>> {
    Reader::new(root).list("devices/system/node/has_memory")
}

/// The DAX device that a character device's number is, and its driver's mode; `None` if it is none.
#[must_use]
pub fn dax_of(root: &Path, number: u64) -> Option<Dax> {
    let sys = Reader::new(root);
    dax::one(&sys, &dax::name_of(&sys, number)?)
}

/// The DAX device of this name, which may have no device file; `None` if there is none.
#[must_use]
pub fn dax_named(root: &Path, name: &str) -> Option<Dax> {
    dax::one(&Reader::new(root), name)
}

/// What mappings of a DAX device must be aligned to, in bytes, by its number; `None` if it is no such device, or sysfs doesn't tell.
#[must_use]
pub fn dax_align(root: &Path, number: u64) -> Option<u64> {
    let sys = Reader::new(root);
    let name = dax::name_of(&sys, number)?;
    sys.number(&format!("{}/{name}/align", dax::DEVICES)).filter(|align: &u64| align.is_power_of_two())
}

/// The huge pages of a node, a pool for each size.
#[must_use]
pub fn huge_pages(root: &Path, node: u32) -> Vec<HugePool> {
    node::huge_of(&Reader::new(root), node)
}

/// A list of CPUs or nodes as the kernel and numactl(8) write it, `0-3,8`, in full and in order; `None` if it is no such list.
#[must_use]
pub fn list(text: &str) -> Option<Vec<u32>> {
    reader::list(text)
}

/// The CPUs.
#[must_use]
pub fn cpus(root: &Path) -> Vec<Cpu> {
    cpu::read(&Reader::new(root))
}
