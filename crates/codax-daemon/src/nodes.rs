//! Devices that are NUMA nodes, against what the machine has.

use crate::device::{Device, NodeWish};
use codax_core::change::{LinkModel, NodeMemory, PageKind};
use codax_core::info::Exclusive;
use codax_core::units::format_size;
use codax_core::{Error, HUGE_SIZE, PageCount, Result};
use codax_engine::DeviceSpec;
use codax_os::topology::{HugePool, Node};

/// Of a node's free memory so much stays with the kernel when all of it is asked for, in bytes and as a part: below its watermarks it gives
/// out nothing, and page tables and slabs of the node's own come from there.
const LEFT_MIN: u64 = 16 << 20;
const LEFT_PART: u64 = 32;

/// What the engine is asked for: devices with the figures of the firmware where none are given.
pub(crate) fn resolve(devices: &[Device], nodes: &[Node]) -> Result<Vec<DeviceSpec>> {
    let on = |device: &Device| device.node.map(|wish| wish.memory.node);
    for (at, device) in devices.iter().enumerate().filter(|(_, device)| device.node.is_some()) {
        if let Some(other) = devices[..at].iter().find(|other| on(other) == on(device)) {
            let number = on(device).unwrap_or_default();
            return Err(wrong(device, &format!("node {number} is {} already", other.name)));
        }
    }
    for (at, device) in devices.iter().enumerate() {
        let Some(dax) = &device.dax else { continue };
        let same = |other: &&Device| other.dax.as_ref().is_some_and(|its| its.path == dax.path);
        if let Some(other) = devices[..at].iter().find(same) {
            return Err(wrong(device, &format!("{} is {} already", dax.path.display(), other.name)));
        }
    }
    let spec = |device: &Device| match device.node {
        Some(wish) => on_node(device, wish, nodes),
        None => {
            let bytes = device.bytes.unwrap_or_default();
            let plain = DeviceSpec::emulated(device.name.clone(), bytes, device.link);
            let software = device.software.is_some();
            Ok(DeviceSpec { bytes: device.bytes, dax: device.dax.clone(), software, ..plain })
        }
    };
    let with = |device: &Device| {
        let Device { emergency, driver_user, .. } = *device;
        Ok(DeviceSpec { emergency, driver_user, ..spec(device)? })
    };
    devices.iter().map(with).collect()
}

fn wrong(device: &Device, why: &str) -> Error {
    Error::invalid(format!("device {}: {why}", device.name))
}

fn on_node(device: &Device, wish: NodeWish, nodes: &[Node]) -> Result<DeviceSpec> {
    let number = wish.memory.node;
    let node = nodes.iter().find(|node| node.node == number);
    let all = node.and_then(|node| node.bytes).unwrap_or(0);
    let missing = match node {
        None => {
            let there: Vec<_> = nodes.iter().map(|node| node.node.to_string()).collect();
            Some(format!("there is no NUMA node {number} online; there are {}", there.join(", ")))
        }
        Some(node) if !node.cpus.is_empty() && !wish.cpus => {
            let why =
                "it is the host's own memory, and everything lands on it; cpus=yes takes it all the same";
            return Err(wrong(device, &format!("node {number} has CPUs: {why}")));
        }
        Some(_) if all == 0 => Some(format!(
            "node {number} has no memory online: daxctl online-memory, or codax device discover"
        )),
        Some(_) => None,
    };
    if let Some(bytes) = device.bytes.filter(|bytes| missing.is_none() && *bytes > all) {
        let (bytes, all) = (format_size(bytes), format_size(all));
        return Err(wrong(device, &format!("reserve {bytes}: node {number} has {all} in all")));
    }
    if let Some(node) = node.filter(|_| missing.is_none()) {
        check_pages(device, wish.memory, node)?;
        check_movable(device, wish, node)?;
    }
    let unit = PageCount(wish.memory.page.unit()).bytes().max(HUGE_SIZE);
    let free = node.and_then(|node| node.free).unwrap_or(0);
    let set_aside = node.and_then(|node| pages_of(node, unit)).map_or(0, |pages| pages.free * unit);
    let rest = free.saturating_sub((free / LEFT_PART).max(LEFT_MIN)) / unit * unit;
    let rest = if wish.memory.page.is_reserved() { rest + set_aside } else { rest };
    Ok(DeviceSpec {
        name: device.name.clone(),
        bytes: device.bytes,
        default_bytes: rest.max(unit),
        numa: Some(wish.memory),
        exclusive: wish.exclusive,
        dax: None,
        emergency: None,
        link: node.map_or(device.link, |node| announced(device.link, node)),
        missing,
        driver_user: None,
        software: false,
    })
}

/// The node's pool of huge pages of this size.
fn pages_of(node: &Node, bytes: u64) -> Option<&HugePool> {
    node.huge.iter().find(|pool| pool.page_bytes == bytes)
}

/// Refuses pages that the node can't have.
fn check_pages(device: &Device, memory: NodeMemory, node: &Node) -> Result<()> {
    if !memory.page.is_reserved() {
        return Ok(());
    }
    let (number, page) = (memory.node, memory.page.name());
    if pages_of(node, PageCount(memory.page.unit()).bytes()).is_none() {
        let why = format!(
            "page={page}: node {number} has no hugetlb pages of that size: the kernel is without hugetlbfs, or the machine without such pages"
        );
        return Err(Error::not_supported(format!("device {}: {why}", device.name)));
    }
    let movable = node.blocks.online > 0 && node.blocks.movable == node.blocks.online;
    if memory.page == PageKind::Gigantic && movable {
        let why = format!(
            "page=1G: the memory of node {number} is movable, and the kernel puts no pages of 1 GiB there: bring it online as unmovable \
             (daxctl online-memory --no-movable), or take page=2M"
        );
        return Err(wrong(device, &why));
    }
    Ok(())
}

/// Refuses to count on movable memory that isn't.
fn check_movable(device: &Device, wish: NodeWish, node: &Node) -> Result<()> {
    match wish.exclusive {
        Some(Exclusive::Movable) => codax_engine::store::check_movable(&device.name, node),
        _ => Ok(()),
    }
}

/// What was said of a link, and what the firmware says where nothing was.
fn announced(given: LinkModel, node: &Node) -> LinkModel {
    let Some(link) = node.link() else { return given };
    let mbps = link.read_mbps.into_iter().chain(link.write_mbps).min();
    LinkModel {
        read_ns: given.read_ns.or(link.read_ns),
        write_ns: given.write_ns.or(link.write_ns),
        mbps: given.mbps.or(mbps),
    }
}

/// The nodes of the host's own memory, which `dram` keeps to when devices are nodes, too: those with CPUs that are no device's. None if it may be anywhere.
pub(crate) fn of_dram(devices: &[DeviceSpec], nodes: &[Node]) -> Vec<u32> {
    let device = |node: &Node| devices.iter().any(|d| d.numa.is_some_and(|memory| memory.node == node.node));
    // Also of one whose node is not there now: it may come back.
    if !devices.iter().any(|d| d.numa.is_some()) {
        return Vec::new();
    }
    nodes.iter().filter(|node| !node.cpus.is_empty() && !device(node)).map(|node| node.node).collect()
}

/// The nodes that somebody chose for `dram`, if each is there, has memory, and is no device's.
pub(crate) fn chosen_for_dram(wanted: &[u32], devices: &[DeviceSpec], nodes: &[Node]) -> Result<Vec<u32>> {
    for &number in wanted {
        let why = match nodes.iter().find(|node| node.node == number) {
            None => {
                let there: Vec<_> = nodes.iter().map(|node| node.node.to_string()).collect();
                format!("there is no NUMA node {number} online; there are {}", there.join(", "))
            }
            Some(node) if node.bytes.unwrap_or(0) == 0 => format!("node {number} has no memory online"),
            Some(_) => {
                let taken = devices.iter().find(|d| d.numa.is_some_and(|memory| memory.node == number));
                let Some(device) = taken else { continue };
                format!("node {number} is the device {}", device.name)
            }
        };
        return Err(Error::invalid(why));
    }
    Ok(wanted.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::parse_device;
    use codax_engine::Format;
    use codax_os::topology::{Access, Blocks};

    fn machine() -> Vec<Node> {
        let host =
            Node { node: 0, cpus: vec![0, 1], bytes: Some(8 << 30), free: Some(4 << 30), ..Node::default() };
        let access = Access {
            class: 1,
            read_ns: Some(250),
            read_mbps: Some(20_480),
            write_mbps: Some(10_240),
            ..Access::default()
        };
        let far = Node {
            node: 1,
            bytes: Some(1 << 30),
            free: Some(1 << 30),
            access: vec![access],
            huge: [2 << 20, 1 << 30]
                .map(|page_bytes| HugePool { page_bytes, free: 1, ..HugePool::default() })
                .into(),
            blocks: Blocks { online: 8, movable: 8, ..Blocks::default() },
            ..Node::default()
        };
        vec![host, far, Node { node: 2, ..Node::default() }]
    }

    fn resolved(text: &[&str]) -> Result<Vec<DeviceSpec>> {
        let devices: Vec<Device> =
            text.iter().map(|text| parse_device(text).expect("well written")).collect();
        resolve(&devices, &machine())
    }

    #[test]
    fn a_node_gives_its_free_memory_and_its_figures() {
        let devices = resolved(&["cxl0=numa:1,write_ns=300", "sim0=emulated:4096"]).expect("there");
        let (cxl, link) = (&devices[0], devices[0].link);
        assert_eq!((cxl.bytes, cxl.default_bytes), (None, (1 << 30) - (32 << 20)));
        assert_eq!((link.read_ns, link.write_ns, link.mbps), (Some(250), Some(300), Some(10_240)));
        let huge = resolved(&["cxl0=numa:1,page=2M"]).expect("there");
        assert_eq!(
            huge[0].default_bytes,
            (1 << 30) - (32 << 20) + (2 << 20),
            "and what is set aside already"
        );
        assert_eq!(devices[1].bytes, Some(4096));
        assert_eq!(of_dram(&devices, &machine()), [0]);
        assert!(of_dram(&devices[1..], &machine()).is_empty());
        assert_eq!(of_dram(&resolved(&["cxl0=numa:7"]).expect("perhaps detached"), &machine()), [0]);
    }

    #[test]
    fn dax_devices_are_the_engine_s() {
        let devices = resolved(&["pm0=devdax:/dev/dax0.0,format", "pm1=fsdax:/mnt/pmem0,size=4MiB"]);
        let devices = devices.expect("resolved");
        let dax = devices[0].dax.as_ref().expect("it is one");
        assert_eq!((dax.files, dax.format, devices[0].bytes), (false, Format::IfNotOurs, None));
        let dax = devices[1].dax.as_ref().expect("it is one");
        assert_eq!((dax.files, dax.format, devices[1].bytes), (true, Format::Never, Some(4 << 20)));
    }

    #[test]
    fn nodes_chosen_for_dram_have_memory_and_are_no_device_s() {
        let devices = resolved(&["cxl0=numa:1"]).expect("there");
        let chosen = |wanted: &[u32], devices: &[DeviceSpec]| chosen_for_dram(wanted, devices, &machine());
        assert_eq!(chosen(&[0, 1], &[]), Ok(vec![0, 1]));
        assert_eq!(chosen(&[0], &devices), Ok(vec![0]));
        for (wanted, says) in [
            (1, "node 1 is the device cxl0"),
            (2, "node 2 has no memory online"),
            (7, "there is no NUMA node 7 online; there are 0, 1, 2"),
        ] {
            let error = chosen(&[0, wanted], &devices).expect_err("refused");
            assert_eq!(error.message, says);
        }
    }

    #[test]
    fn what_the_machine_has_not_is_refused_with_the_reason() {
        let missing =
            |text: &str| resolved(&[text]).expect("perhaps detached")[0].missing.clone().unwrap_or_default();
        assert_eq!(missing("a=numa:7"), "there is no NUMA node 7 online; there are 0, 1, 2");
        assert!(missing("a=numa:2").contains("no memory online"));
        for (bad, says) in [
            (&["a=numa:0"][..], "has CPUs"),
            (&["a=numa:1,reserve=2GiB"], "node 1 has 1 GiB in all"),
            (&["a=numa:1", "b=numa:1"], "node 1 is a already"),
            (&["a=numa:1,page=2M,reserve=2GiB"], "node 1 has 1 GiB in all"),
            (&["a=numa:1,page=1G"], "movable"),
            (&["a=numa:0,cpus=yes,page=2M"], "without hugetlbfs"),
            (&["a=devdax:/dev/dax0.0", "b=devdax:/dev/dax0.0,format"], "/dev/dax0.0 is a already"),
            (&["a=fsdax:/mnt/pmem0/", "b=fsdax:/mnt/./pmem0"], "/mnt/./pmem0 is a already"),
        ] {
            let error = resolved(bad).expect_err("refused");
            assert!(error.message.contains(says), "{bad:?}: {error}");
        }
        assert!(resolved(&["a=numa:0,cpus=yes"]).is_ok());
        assert!(resolved(&["a=numa:1,exclusive=movable"]).is_ok());
        let error = resolved(&["a=numa:0,cpus=yes,exclusive=movable"]).expect_err("refused");
        assert!(error.message.contains("blocks of memory of node 0 aren't movable"), "{error}");
    }
}
