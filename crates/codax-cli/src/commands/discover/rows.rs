//! What was found, as JSON has it.

use super::judge::{self, Verdict};
use super::section;
use crate::output::json::PathForm;
use codax_os::topology::{Access, Mode, Node, Topology};
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;

/// The machine.
#[derive(Serialize)]
pub struct Row {
    pub nodes: Vec<NodeRow>,
    pub dax: Vec<DaxRow>,
    pub regions: Vec<RegionRow>,
    pub memdevs: Vec<MemdevRow>,
    pub fsdax: Vec<FsdaxRow>,
    /// Values that made no sense.
    pub garbled: Vec<GarbledRow>,
    /// Sections for `codax.toml`.
    pub config: String,
}

/// A node.
#[derive(Serialize)]
pub struct NodeRow {
    pub node: u32,
    cpus: Vec<u32>,
    pub bytes: Option<u64>,
    pub free: Option<u64>,
    distance: Vec<u32>,
    pub tier: Option<u32>,
    /// The way from the CPUs to it, as the firmware tells; null if it doesn't.
    pub link: Option<LinkRow>,
    /// All that the firmware tells.
    access: Vec<AccessRow>,
    pub huge: Vec<HugeRow>,
    blocks: BlocksRow,
    /// Whether all of its memory is movable; null if the kernel doesn't say.
    movable: Option<bool>,
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Figures of a link.
#[derive(Serialize)]
pub struct LinkRow {
    pub read_ns: Option<u32>,
    pub write_ns: Option<u32>,
    pub read_mbps: Option<u32>,
    pub write_mbps: Option<u32>,
}

/// The way from some initiators.
#[derive(Serialize)]
struct AccessRow {
    /// 0: from the nearest of any kind. 1: from the nearest CPUs.
    class: u32,
    initiators: Vec<u32>,
    #[serde(flatten)]
    link: LinkRow,
}

/// Huge pages of one size.
#[derive(Serialize)]
pub struct HugeRow {
    pub page_bytes: u64,
    pub total: u64,
    pub free: u64,
    pub surplus: u64,
}

/// Blocks of memory, counted.
#[derive(Serialize)]
struct BlocksRow {
    block_bytes: Option<u64>,
    online: u32,
    movable: u32,
    offline: u32,
}

/// A DAX device.
#[derive(Serialize)]
pub struct DaxRow {
    pub name: String,
    /// Its device file.
    file: String,
    /// "devdax", "system-ram", "unbound", or the driver's name.
    mode: String,
    pub bytes: Option<u64>,
    align: Option<u64>,
    target_node: Option<u32>,
    persistent: bool,
    region: Option<String>,
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// A CXL region.
#[derive(Serialize)]
pub struct RegionRow {
    pub name: String,
    pub bytes: Option<u64>,
    mode: Option<String>,
    ways: Option<u32>,
    committed: bool,
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// A CXL memory device.
#[derive(Serialize)]
pub struct MemdevRow {
    pub name: String,
    ram_bytes: Option<u64>,
    pmem_bytes: Option<u64>,
    near_node: Option<u32>,
    serial: Option<String>,
    firmware: Option<String>,
    #[serde(flatten)]
    pub verdict: Verdict,
}

impl MemdevRow {
    /// All of its memory.
    pub fn bytes(&self) -> Option<u64> {
        self.ram_bytes?.checked_add(self.pmem_bytes.unwrap_or(0))
    }
}

/// A filesystem mounted with `dax`.
#[derive(Serialize)]
pub struct FsdaxRow {
    /// Where it is mounted.
    #[serde(flatten)]
    dir: PathForm,
    kind: String,
    pub device: String,
    pub bytes: Option<u64>,
    always: bool,
    persistent: bool,
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// A value that made no sense.
#[derive(Serialize)]
pub struct GarbledRow {
    /// The file.
    #[serde(flatten)]
    pub path: PathForm,
    pub says: String,
}

impl Row {
    /// All of it.
    pub fn new(all: &Topology) -> Self {
        let dax = all.dax.iter().map(|dax| DaxRow {
            name: dax.name.clone(),
            file: judge::device_file(&dax.name),
            mode: mode(&dax.mode),
            bytes: dax.bytes,
            align: dax.align,
            target_node: dax.target_node,
            persistent: dax.persistent,
            region: dax.region.clone(),
            verdict: judge::dax(dax, all),
        });
        let regions = all.regions.iter().map(|region| RegionRow {
            name: region.name.clone(),
            bytes: region.bytes,
            mode: region.mode.clone(),
            ways: region.ways,
            committed: region.committed,
            verdict: judge::region(region, all),
        });
        let memdevs = all.memdevs.iter().map(|memdev| MemdevRow {
            name: memdev.name.clone(),
            ram_bytes: memdev.ram_bytes,
            pmem_bytes: memdev.pmem_bytes,
            near_node: memdev.near_node,
            serial: memdev.serial.clone(),
            firmware: memdev.firmware.clone(),
            verdict: judge::memdev(memdev, all),
        });
        let fsdax = all.fsdax.iter().map(|fsdax| FsdaxRow {
            dir: PathForm::new(fsdax.dir.as_os_str().as_bytes()),
            kind: fsdax.kind.clone(),
            device: fsdax.device.clone(),
            bytes: fsdax.bytes,
            always: fsdax.always,
            persistent: fsdax.persistent,
            verdict: judge::fsdax(fsdax),
        });
        let garbled = all.garbled.iter().map(|bad| GarbledRow {
            path: PathForm::new(bad.path.as_os_str().as_bytes()),
            says: bad.says.clone(),
        });
        Self {
            nodes: all.nodes.iter().map(NodeRow::new).collect(),
            dax: dax.collect(),
            regions: regions.collect(),
            memdevs: memdevs.collect(),
            fsdax: fsdax.collect(),
            garbled: garbled.collect(),
            config: section::sections(all),
        }
    }

    /// Whether there is one node at most and nothing else.
    pub fn is_plain(&self) -> bool {
        self.nodes.len() <= 1
            && self.dax.is_empty()
            && self.regions.is_empty()
            && self.memdevs.is_empty()
            && self.fsdax.is_empty()
    }
}

impl NodeRow {
    fn new(node: &Node) -> Self {
        let huge = node.huge.iter().map(|pool| HugeRow {
            page_bytes: pool.page_bytes,
            total: pool.total,
            free: pool.free,
            surplus: pool.surplus,
        });
        let access = node.access.iter().map(|access| AccessRow {
            class: access.class,
            initiators: access.initiators.clone(),
            link: LinkRow::new(access),
        });
        Self {
            node: node.node,
            cpus: node.cpus.clone(),
            bytes: node.bytes,
            free: node.free,
            distance: node.distance.clone(),
            tier: node.tier,
            link: node.link().map(LinkRow::new),
            access: access.collect(),
            huge: huge.collect(),
            blocks: BlocksRow {
                block_bytes: node.blocks.block_bytes,
                online: node.blocks.online,
                movable: node.blocks.movable,
                offline: node.blocks.offline,
            },
            movable: node.is_movable(),
            verdict: judge::node(node),
        }
    }
}

impl LinkRow {
    fn new(access: &Access) -> Self {
        Self {
            read_ns: access.read_ns,
            write_ns: access.write_ns,
            read_mbps: access.read_mbps,
            write_mbps: access.write_mbps,
        }
    }
}

fn mode(mode: &Mode) -> String {
    match mode {
        Mode::Devdax => "devdax",
        Mode::SystemRam => "system-ram",
        Mode::Unbound => "unbound",
        Mode::Other(driver) => driver,
    }
    .to_owned()
}
