//! NUMA nodes: the kernel's name for memory that is equally far from everything.
#![forbid(unsafe_code)]

use super::reader::Reader;

/// Where nodes are listed.
const NODES: &str = "devices/system/node";

/// Where the tiers are listed that the kernel sorts nodes into.
const TIERS: &str = "devices/virtual/memory_tiering";

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub node: u32,
    /// CPUs that belong to it; none for memory alone.
    pub cpus: Vec<u32>,
    /// Its memory in bytes, as far as the kernel gives it out: less than what is built in.
    pub bytes: Option<u64>,
    /// What is free of it, in bytes.
    pub free: Option<u64>,
    /// Distance to each node that is online, in their order: 10 is its own.
    pub distance: Vec<u32>,
    /// What the firmware tells (HMAT, CDAT) of the way from the nearest initiators.
    pub access: Vec<Access>,
    /// The memory tier it is in; a higher number is slower memory.
    pub tier: Option<u32>,
    /// Its huge pages, a pool for each size.
    pub huge: Vec<HugePool>,
    /// The blocks that its memory can be taken offline by.
    pub blocks: Blocks,
}

/// What the firmware tells of the way from initiators to a node's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// 0: from the nearest initiators of any kind. 1: from the nearest CPUs.
    pub class: u32,
    /// The nodes those are on.
    pub initiators: Vec<u32>,
    /// Latency of a read in nanoseconds.
    pub read_ns: Option<u32>,
    /// Latency of a write in nanoseconds.
    pub write_ns: Option<u32>,
    /// Bandwidth of reads in 10^6 bytes per second.
    pub read_mbps: Option<u32>,
    /// Bandwidth of writes in 10^6 bytes per second.
    pub write_mbps: Option<u32>,
}

/// Huge pages of one size on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugePool {
    /// Size of a page, in bytes.
    pub page_bytes: u64,
    /// Pages the pool has.
    pub total: u64,
    /// Those that nobody uses. Anybody may take them.
    pub free: u64,
    /// Those beyond what was set, which go when they are freed.
    pub surplus: u64,
}

/// Blocks of a node's memory, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// Size of a block, in bytes.
    pub block_bytes: Option<u64>,
    /// Blocks in use.
    pub online: u32,
    /// Those of them in `ZONE_MOVABLE`: no unmovable allocation of the kernel's stands in their way when they shall go offline.
    pub movable: u32,
    /// Blocks that are not in use.
    pub offline: u32,
}

impl Node {
    /// What the firmware tells of the way from a CPU: that is who maps codax's files. Without a class for CPUs, that of whoever is nearest.
    #[must_use]
    pub fn link(&self) -> Option<&Access> {
        let known =
            |class| self.access.iter().find(|access| access.class == class && access.says_something());
        known(1).or_else(|| known(0))
    }

    /// Whether all of its memory is movable; `None` if the kernel doesn't say.
    #[must_use]
    pub fn is_movable(&self) -> Option<bool> {
        (self.blocks.online > 0).then_some(self.blocks.movable == self.blocks.online)
    }
}

impl Access {
    fn says_something(&self) -> bool {
        [self.read_ns, self.write_ns, self.read_mbps, self.write_mbps].iter().any(Option::is_some)
    }
}

pub(super) fn read(sys: &Reader<'_>) -> Vec<Node> {
    let tiers = tiers(sys);
    let block_bytes = sys.hexadecimal("devices/system/memory/block_size_bytes");
    let nodes = sys.numbered(NODES, "node").into_iter();
    nodes
        .map(|(node, dir)| Node {
            node,
            cpus: sys.list(&format!("{dir}/cpulist")).unwrap_or_default(),
            bytes: sys.meminfo(&format!("{dir}/meminfo"), "MemTotal:"),
            free: sys.meminfo(&format!("{dir}/meminfo"), "MemFree:"),
            distance: sys.numbers(&format!("{dir}/distance")).unwrap_or_default(),
            access: sys
                .numbered(&dir, "access")
                .into_iter()
                .map(|(class, dir)| access(sys, class, &dir))
                .collect(),
            tier: tiers.iter().find(|(_, nodes)| nodes.contains(&node)).map(|(tier, _)| *tier),
            huge: huge(sys, &dir),
            blocks: blocks(sys, &dir, block_bytes),
        })
        .collect()
}

fn access(sys: &Reader<'_>, class: u32, dir: &str) -> Access {
    let dir = format!("{dir}/initiators");
    // The kernel writes 0 for what the firmware did not tell.
    let figure = |name: &str| sys.number::<u32>(&format!("{dir}/{name}")).filter(|n| *n > 0);
    Access {
        class,
        initiators: sys.numbered(&dir, "node").into_iter().map(|(node, _)| node).collect(),
        read_ns: figure("read_latency"),
        write_ns: figure("write_latency"),
        read_mbps: figure("read_bandwidth"),
        write_mbps: figure("write_bandwidth"),
    }
}

fn tiers(sys: &Reader<'_>) -> Vec<(u32, Vec<u32>)> {
    let tiers = sys.numbered(TIERS, "memory_tier").into_iter();
    tiers.filter_map(|(tier, dir)| Some((tier, sys.list(&format!("{dir}/nodelist"))?))).collect()
}

pub(super) fn huge_of(sys: &Reader<'_>, node: u32) -> Vec<HugePool> {
    huge(sys, &format!("{NODES}/node{node}"))
}

fn huge(sys: &Reader<'_>, dir: &str) -> Vec<HugePool> {
    let kib = |rest: &str| rest.strip_suffix("kB")?.parse::<u64>().ok()?.checked_mul(1024);
    let pools = sys.entries(&format!("{dir}/hugepages"), "hugepages-", kib).into_iter();
    pools
        .filter_map(|(page_bytes, dir)| {
            Some(HugePool {
                page_bytes,
                total: sys.number(&format!("{dir}/nr_hugepages"))?,
                free: sys.number(&format!("{dir}/free_hugepages"))?,
                surplus: sys.number(&format!("{dir}/surplus_hugepages")).unwrap_or(0),
            })
        })
        .collect()
}

fn blocks(sys: &Reader<'_>, dir: &str, block_bytes: Option<u64>) -> Blocks {
    let mut blocks = Blocks { block_bytes, ..Blocks::default() };
    for (_, dir) in sys.numbered(dir, "memory") {
        match sys.text(&format!("{dir}/state")).as_deref() {
            // On its way off: still in use.
            Some("online" | "going-offline") => {
                blocks.online += 1;
                // Of a block that is in use it names the zone that it is in.
                let zone = sys.text(&format!("{dir}/valid_zones"));
                blocks.movable += u32::from(zone.as_deref() == Some("Movable"));
            }
            Some("offline") => blocks.offline += 1,
            _ => {}
        }
    }
    blocks
}
