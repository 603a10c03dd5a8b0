//! CXL: memory devices as they are plugged in, and the regions that the host has made of them.
#![forbid(unsafe_code)]

use super::reader::Reader;

/// Where both are listed.
const DEVICES: &str = "bus/cxl/devices";

/// A memory device, `memN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memdev {
    /// Its name.
    pub name: String,
    /// Its volatile memory in bytes.
    pub ram_bytes: Option<u64>,
    /// Its persistent memory in bytes.
    pub pmem_bytes: Option<u64>,
    /// The node that it is plugged in at: that of the CPUs next to it.
    pub near_node: Option<u32>,
    /// Its serial number, as it says.
    pub serial: Option<String>,
    /// Version of its firmware.
    pub firmware: Option<String>,
}

/// A region, `regionN`: host addresses that one or more memory devices answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: Option<u64>,
    /// `ram` or `pmem`.
    pub mode: Option<String>,
    /// How many devices take turns.
    pub ways: Option<u32>,
    /// Whether the decoders are set: whether there is memory at its addresses.
    pub committed: bool,
}

/// Where a device or region is listed.
pub(super) fn place(name: &str) -> String {
    format!("{DEVICES}/{name}")
}

pub(super) fn memdevs(sys: &Reader<'_>) -> Vec<Memdev> {
    let devices = sys.numbered(DEVICES, "mem").into_iter();
    devices
        .map(|(number, dir)| Memdev {
            name: format!("mem{number}"),
            ram_bytes: sys.number(&format!("{dir}/ram/size")),
            pmem_bytes: sys.number(&format!("{dir}/pmem/size")),
            near_node: sys.node(&format!("{dir}/numa_node")),
            serial: sys.text(&format!("{dir}/serial")),
            firmware: sys.text(&format!("{dir}/firmware_version")).filter(|text| !text.is_empty()),
        })
        .collect()
}

pub(super) fn regions(sys: &Reader<'_>) -> Vec<Region> {
    let regions = sys.numbered(DEVICES, "region").into_iter();
    regions
        .map(|(number, dir)| Region {
            name: format!("region{number}"),
            bytes: sys.number(&format!("{dir}/size")),
            mode: sys.text(&format!("{dir}/mode")),
            ways: sys.number(&format!("{dir}/interleave_ways")),
            committed: sys.number::<u32>(&format!("{dir}/commit")) == Some(1),
        })
        .collect()
}
