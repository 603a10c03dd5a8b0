//! DAX devices: memory that the kernel keeps apart, to be mapped as a device or to be given out as a node's.
#![forbid(unsafe_code)]

use super::cxl::Region;
use super::reader::{Reader, plain_number};
use std::path::Path;

/// A DAX device, `daxX.Y`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dax {
    /// Its name.
    pub name: String,
    /// How it is used.
    pub mode: Mode,
    /// Its size in bytes.
    pub bytes: Option<u64>,
    /// What mappings must be aligned to, in bytes.
    pub align: Option<u64>,
    /// The node that its memory is or would be.
    pub target_node: Option<u32>,
    /// Whether it is a part of an NVDIMM, whose contents outlive the power.
    pub persistent: bool,
    /// The CXL region that it lies in, as `region0`.
    pub region: Option<String>,
}

/// How a DAX device is used: which driver has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is mapped as `/dev/daxX.Y`.
    Devdax,
    /// Its memory is a node's.
    SystemRam,
    /// No driver has it.
    Unbound,
    /// A driver of this name has it.
    Other(String),
}

/// Where they are listed.
pub(super) const DEVICES: &str = "bus/dax/devices";

/// The name of the DAX device that has this number among character devices.
pub(super) fn name_of(sys: &Reader<'_>, number: u64) -> Option<String> {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let real = sys.real(&format!("dev/char/{major}:{minor}"))?;
    let name = real.file_name()?.to_str()?.to_owned();
    (sys.real(&format!("{DEVICES}/{name}"))? == real).then_some(name)
}

pub(super) fn read(sys: &Reader<'_>, regions: &[Region]) -> Vec<Dax> {
    let devices = sys.entries(DEVICES, "dax", numbers).into_iter();
    devices
        .map(|((region, device), dir)| about(sys, format!("dax{region}.{device}"), &dir, regions))
        .collect()
}

/// The one of this name, if there is one.
pub(super) fn one(sys: &Reader<'_>, name: &str) -> Option<Dax> {
    numbers(name.strip_prefix("dax")?)?;
    let dir = format!("{DEVICES}/{name}");
    sys.real(&dir)?;
    Some(about(sys, name.to_owned(), &dir, &super::cxl::regions(sys)))
}

/// The numbers of a region and of a device in it, `X.Y`.
fn numbers(rest: &str) -> Option<(u64, u64)> {
    let (region, device) = rest.split_once('.')?;
    Some((plain_number(region)?, plain_number(device)?))
}

fn about(sys: &Reader<'_>, name: String, dir: &str, regions: &[Region]) -> Dax {
    let real = sys.real(dir);
    // A region has its devices below it; NVDIMMs have regions of the same names elsewhere.
    let around = |region: &&Region| {
        let place = sys.real(&super::cxl::place(&region.name));
        real.as_ref().zip(place).is_some_and(|(device, region)| device.starts_with(region))
    };
    Dax {
        name,
        mode: match sys.link(&format!("{dir}/driver")).as_deref() {
            Some("device_dax") => Mode::Devdax,
            Some("kmem") => Mode::SystemRam,
            Some(other) => Mode::Other(other.to_owned()),
            None => Mode::Unbound,
        },
        bytes: sys.number(&format!("{dir}/size")),
        align: sys.number(&format!("{dir}/align")),
        target_node: sys.node(&format!("{dir}/target_node")),
        persistent: is_nvdimm(sys, dir),
        region: regions.iter().find(around).map(|region| region.name.clone()),
    }
}

/// Whether what lies there is a part of an NVDIMM.
pub(super) fn is_nvdimm(sys: &Reader<'_>, place: &str) -> bool {
    sys.real(place).is_some_and(|path| lies_on(&path, "ndbus"))
}

/// Whether a device hangs on a bus of this name and some number.
fn lies_on(path: &Path, bus: &str) -> bool {
    let names = path.components().filter_map(|part| part.as_os_str().to_str());
    let mut numbers = names.filter_map(|name| name.strip_prefix(bus));
    numbers.any(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
}
