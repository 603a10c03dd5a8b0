//! Devices as they are written: on the command line (`sim0=emulated:1GiB,read_ns=300,gbps=8`) and in the configuration.

use crate::dax::{self, WrittenFormat};
use crate::emergency::{EmergencyWish, WrittenPart, WrittenWhen, WrittenWord};
use crate::quantity::{Rate, Size, pool_bytes};
use codax_core::change::{LinkModel, NodeMemory, PageKind};
use codax_core::emergency::Emergency;
use codax_core::info::Exclusive;
use codax_core::{DRAM_NAME, Error, PageCount, Result};
use codax_engine::DaxSpec;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Longest name of a device, in bytes.
pub const DEVICE_NAME_MAX: usize = 32;

/// The keys that can follow a device's backing on the command line, whichever that is. What is none of these is refused, and belongs to
/// something else where a device is one of several words in a list (fstab(5)).
pub const DEVICE_KEYS: &[&str] = &[
    "page",
    "reserve",
    "exclusive",
    "cpus",
    "size",
    "format",
    "persistent",
    "read_ns",
    "write_ns",
    "gbps",
    "emergency",
    "at_most",
    "when",
    "driver_user",
    "cpu",
];

/// The backings there are.
const BACKINGS: &str = "emulated, software, numa, devdax, fsdax and none";

/// How a device is written on the command line.
const USAGE: &str = "NAME=emulated:SIZE, NAME=software[:SIZE][,cpu=N], NAME=none, \
                     NAME=numa:NODE[,page=4K|thp|2M|1G][,reserve=SIZE|all][,exclusive=reserve|movable|none][,cpus=yes], \
                     NAME=devdax:/dev/daxX.Y[,format] or NAME=fsdax:DIR[,size=SIZE][,format], and [,read_ns=N][,write_ns=N][,gbps=N][,driver_user=UID][,emergency=never|allow][,at_most=SIZE|PERCENT%][,when=free:SIZE|some:STALL/WINDOW|full:STALL/WINDOW]";

/// `[[device]]` in the configuration: memory that is served beside `dram`.
///
/// Latencies and bandwidth are what the pool announces to programs that ask: those of the firmware (HMAT) for a NUMA node if they are not
/// given. Loads and stores are not slowed; only moves to and from the pool keep below `gbps`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeviceEntry {
    /// Its name: up to 32 letters, digits, `-`, `_` and `.` (not first). Not `dram`.
    name: String,
    /// What holds its bytes: "emulated", the host's memory in place of a device's; "software", the same with a
    /// coprocessor, a process that works on files (docs/queues.md); "numa", the memory of a NUMA node; "devdax", a DAX device;
    /// "fsdax", files of a DAX filesystem; "none", nothing: a device without memory, for a driver that connects.
    backing: String,
    /// Capacity of an emulated or software device, or in a directory, a multiple of 4096 bytes. A software device that is given none has no memory. A store that
    /// has the device already accepts no other.
    size: Option<Size>,
    /// The NUMA node whose memory it is.
    node: Option<u32>,
    /// In which pages files lie on the node: "4K"; "thp", transparent huge pages where files fill them; "2M" or "1G", huge pages of that size, which are set
    /// aside for the pool. Default: "thp".
    page: Option<String>,
    /// How much of the node is the pool's: a size, of whole pages, or "all" of what is free when the store is made, but for a little that the kernel wants.
    /// Default: "all".
    reserve: Option<Reserve>,
    /// What keeps others' memory off the node: "reserve", what no file has is populated, so that nothing else fits; "movable", it is checked that what lands
    /// there can be moved away; "none". Default: "reserve" with pages of 2M and 1G, else "none".
    exclusive: Option<String>,
    /// Whether the node may have CPUs: it is the host's own memory then, and everything else lands on it. Default: no.
    #[serde(default)]
    cpus: bool,
    /// The device file of a "devdax", the directory of an "fsdax": absolute, without commas.
    path: Option<PathBuf>,
    /// Whether codax may write its superblock: true where there is nothing, something of somebody else's or a damaged one; "force" also over
    /// files of a store. Default: no.
    format: Option<WrittenFormat>,
    /// Whether what it holds outlives the power, where the machine's own word is wrong. Default: what the machine says.
    persistent: Option<bool>,
    /// The user, by number, whose processes may drive it, beside root. Default: the store's owner.
    driver_user: Option<u32>,
    /// Whether it may be used when memory is exhausted: "allow", for files that find no room in `dram`, and of a node that is kept by a reserve for the rest of
    /// the system too; "never". Default: "never".
    emergency: Option<WrittenWord>,
    /// How much of it: a size, or a part of its capacity, as "25%". Default: all.
    at_most: Option<WrittenPart>,
    /// When: "free:SIZE", while less memory than that is free; "some:STALL/WINDOW" or "full:STALL/WINDOW", while processes wait for memory for so long within
    /// so long (PSI). Default: whenever `dram` has no room; for the rest of the system while less than 1/32 of the memory is free.
    when: Option<WrittenWhen>,
    /// The CPU on which the coprocessor of a "software" runs. Default: any.
    cpu: Option<u32>,
    /// Announced latency of a read in nanoseconds.
    read_ns: Option<u32>,
    /// Announced latency of a write in nanoseconds.
    write_ns: Option<u32>,
    /// Announced bandwidth in 10^9 bytes per second.
    gbps: Option<Rate>,
}

/// How much of a node is wanted: so many bytes, or all (`None`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reserve(Option<Size>);

impl Reserve {
    fn parse(text: &str) -> Result<Self> {
        let size = if text == "all" { None } else { Some(Size::parse(text)) };
        let size = size.transpose().map_err(|e| Error::new(e.kind, format!("reserve: {e}, or `all`")))?;
        Ok(Self(size))
    }

    fn bytes(self) -> Result<Option<u64>> {
        self.0.map(pool_bytes).transpose().map_err(|e| Error::new(e.kind, format!("reserve: {e}")))
    }
}

impl<'de> Deserialize<'de> for Reserve {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Size(Size),
        }
        match Written::deserialize(deserializer)? {
            Written::Text(text) => Self::parse(&text).map_err(serde::de::Error::custom),
            Written::Size(size) => Ok(Self(Some(size))),
        }
    }
}

/// What is asked for a device on a NUMA node; whether it can be had, the machine has to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeWish {
    /// The node and its pages.
    pub memory: NodeMemory,
    /// Whether it may have CPUs.
    pub cpus: bool,
    /// What keeps others' memory off it; `None` for what the store knows of it.
    pub exclusive: Option<Exclusive>,
}

/// A device as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its capacity in bytes, 0 without memory; `None` for all there is.
    pub bytes: Option<u64>,
    /// The NUMA node, if it is one.
    pub node: Option<NodeWish>,
    /// The DAX device or directory, if it is one. Emulated if it is neither.
    pub dax: Option<DaxSpec>,
    /// Whether and how it may be used when memory is exhausted; `None` for never.
    pub emergency: Option<Emergency>,
    /// What its link announces.
    pub link: LinkModel,
    /// Whose processes may drive it, if that was said.
    pub driver_user: Option<u32>,
    /// Its coprocessor, if it has one that this program is: its memory, if it has some, is emulated then.
    pub software: Option<Software>,
}

/// A coprocessor in software.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Software {
    /// The CPU on which it runs, if that was said.
    pub cpu: Option<u32>,
}

impl DeviceEntry {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn check(self) -> Result<Device> {
        check_name(&self.name)?;
        let link =
            LinkModel { read_ns: self.read_ns, write_ns: self.write_ns, mbps: self.gbps.map(|gbps| gbps.0) };
        let (name, driver_user) = (self.name.clone(), self.driver_user);
        let mut device = Device { name, link, driver_user, ..Device::default() };
        match self.backing.as_str() {
            "emulated" => self.emulated(&mut device),
            "software" => self.software(&mut device),
            "none" => self.only("a none", &[]).map(|()| device.bytes = Some(0)),
            "numa" => self.on_node(&mut device),
            "devdax" => self.dax(false, &mut device),
            "fsdax" => self.dax(true, &mut device),
            _ => return Err(unknown_backing(&self.name, &self.backing)),
        }
        .map_err(|e| about(&self.name, &e))?;
        let wish = EmergencyWish::new(self.emergency.as_ref(), self.at_most.as_ref(), self.when.as_ref());
        device.emergency = wish.and_then(EmergencyWish::check).map_err(|e| about(&self.name, &e))?;
        Ok(device)
    }

    /// Refuses a key that such a device doesn't have.
    fn only(&self, kind: &str, own: &[&str]) -> Result<()> {
        let given = [
            ("size", self.size.is_some()),
            ("node", self.node.is_some()),
            ("page", self.page.is_some()),
            ("reserve", self.reserve.is_some()),
            ("exclusive", self.exclusive.is_some()),
            ("cpus", self.cpus),
            ("path", self.path.is_some()),
            ("format", self.format.is_some()),
            ("persistent", self.persistent.is_some()),
            ("cpu", self.cpu.is_some()),
        ];
        match given.into_iter().find(|(key, given)| *given && !own.contains(key)) {
            Some((key, _)) => Err(Error::invalid(format!("`{key}` is nothing that {kind} device has"))),
            None => Ok(()),
        }
    }

    fn emulated(&self, device: &mut Device) -> Result<()> {
        self.only("an emulated", &["size"])?;
        let size = self.size.ok_or_else(|| Error::invalid("`size` is missing"))?;
        device.bytes = Some(pool_bytes(size)?);
        Ok(())
    }

    fn software(&self, device: &mut Device) -> Result<()> {
        self.only("a software", &["size", "cpu"])?;
        device.bytes = Some(self.size.map_or(Ok(0), pool_bytes)?);
        device.software = Some(Software { cpu: self.cpu });
        undriven(device)
    }

    fn on_node(&self, device: &mut Device) -> Result<()> {
        if self.size.is_some() {
            return Err(Error::invalid("`size` is an emulated device's: a node has `reserve`"));
        }
        self.only("a numa", &["node", "page", "reserve", "exclusive", "cpus"])?;
        let missing = || Error::invalid("`node` is missing: the number of a NUMA node");
        let node = self.node.ok_or_else(missing)?;
        let page = self.page.as_deref().map_or(Ok(PageKind::default()), page_kind)?;
        device.bytes = self.reserve.map_or(Ok(None), Reserve::bytes)?;
        whole_pages(page, device.bytes)?;
        let exclusive = self.exclusive.as_deref().map(exclusive).transpose()?;
        let wish = NodeWish { memory: NodeMemory { node, page }, cpus: self.cpus, exclusive };
        goes_with_pages(&wish)?;
        device.node = Some(wish);
        Ok(())
    }

    fn dax(&self, files: bool, device: &mut Device) -> Result<()> {
        let spec = dax::spec(self.path.as_deref().unwrap_or(Path::new("")), files)?;
        self.only(&format!("a {}", dax::backing(&spec)), &["size", "path", "format", "persistent"])?;
        device.bytes = self.size.map(|size| dax::size(&spec, size)).transpose()?;
        let format = self.format.map(Into::into).unwrap_or_default();
        device.dax = Some(DaxSpec { format, persistent: self.persistent, ..spec });
        Ok(())
    }
}

/// Reads a device of the command line. `Invalid` names what is wrong, in one line.
pub fn parse_device(text: &str) -> Result<Device> {
    let (name, rest) = text
        .split_once('=')
        .ok_or_else(|| Error::invalid(format!("device `{text}`: write it as {USAGE}")))?;
    check_name(name)?;
    let mut items = rest.split(',');
    let first = items.next().unwrap_or_default();
    let (backing, first) =
        first.split_once(':').map_or((first, None), |(backing, first)| (backing, Some(first)));
    let mut device = Device { name: name.to_owned(), ..Device::default() };
    let mut emergency = EmergencyWish::default();
    match (backing, first) {
        // Devices without memory.
        ("software", None) => (device.bytes, device.software) = (Some(0), Some(Software::default())),
        ("none", None) => device.bytes = Some(0),
        (_, Some(first)) if backing != "none" => backed(&mut device, backing, first)?,
        _ => return Err(Error::invalid(format!("device {name}: `{rest}`: write it as {USAGE}"))),
    }
    let mut seen = Vec::new();
    for item in items {
        let (key, value) = item.split_once('=').map_or((item, None), |(key, value)| (key, Some(value)));
        if seen.contains(&key) {
            return Err(Error::invalid(format!("device {name}: {} is given twice", key.escape_debug())));
        }
        seen.push(key);
        take_item(&mut device, &mut emergency, key, value).map_err(|e| about(name, &e))?;
    }
    device.emergency = emergency.check().map_err(|e| about(name, &e))?;
    undriven(&device).map_err(|e| about(name, &e))?;
    if let Some(wish) = device.node {
        whole_pages(wish.memory.page, device.bytes)
            .and_then(|()| goes_with_pages(&wish))
            .map_err(|e| about(name, &e))?;
    }
    Ok(device)
}

/// Takes the backing, and what stands behind its colon.
fn backed(device: &mut Device, backing: &str, first: &str) -> Result<()> {
    let name = device.name.as_str();
    match backing {
        "emulated" | "software" => {
            device.bytes = Some(Size::parse(first).and_then(pool_bytes).map_err(|e| about(name, &e))?);
            device.software = (backing == "software").then(Software::default);
        }
        "numa" => {
            let node = first.parse().map_err(|_| {
                Error::invalid(format!("device {name}: `{first}` is not the number of a NUMA node"))
            })?;
            let memory = NodeMemory { node, page: PageKind::default() };
            device.node = Some(NodeWish { memory, cpus: false, exclusive: None });
        }
        "devdax" | "fsdax" => {
            let spec = dax::spec(Path::new(first), backing == "fsdax");
            device.dax = Some(spec.map_err(|e| about(name, &e))?);
        }
        _ => return Err(unknown_backing(name, backing)),
    }
    Ok(())
}

/// Takes an item behind the first: one that only such a device has, one of emergencies, or one of its link.
fn take_item(
    device: &mut Device,
    emergency: &mut EmergencyWish,
    key: &str,
    value: Option<&str>,
) -> Result<()> {
    if emergency.item(key, value.unwrap_or_default())? {
        return Ok(());
    }
    let known = DEVICE_KEYS.contains(&key);
    if let Some(software) = device.software.as_mut().filter(|_| key == "cpu") {
        let value = value.unwrap_or_default();
        software.cpu = Some(value.parse().map_err(|_| {
            Error::invalid(format!("cpu: `{}` is not the number of a CPU", value.escape_debug()))
        })?);
        return Ok(());
    }
    let (taken, more) = match (&mut device.node, &mut device.dax) {
        (Some(wish), _) => (
            known && node_item(wish, &mut device.bytes, key, value.unwrap_or_default())?,
            "page, reserve, exclusive, cpus, ",
        ),
        (None, Some(spec)) => (known && dax::item(spec, &mut device.bytes, key, value)?, dax::keys(spec)),
        (None, None) => (false, if device.software.is_some() { "cpu, " } else { "" }),
    };
    match key {
        _ if taken => Ok(()),
        "driver_user" => {
            let value = value.unwrap_or_default();
            device.driver_user = Some(value.parse().map_err(|_| {
                Error::invalid(format!("driver_user: `{}` is not the number of a user", value.escape_debug()))
            })?);
            Ok(())
        }
        _ => link_item(&mut device.link, key, value.unwrap_or_default(), more),
    }
}

fn page_kind(word: &str) -> Result<PageKind> {
    let kinds = [PageKind::Small, PageKind::Transparent, PageKind::Huge, PageKind::Gigantic];
    kinds.into_iter().find(|kind| kind.name() == word).ok_or_else(|| {
        Error::invalid(format!(
            "page: `{}` is not a kind of page; there are 4K, thp, 2M and 1G",
            word.escape_debug()
        ))
    })
}

fn exclusive(word: &str) -> Result<Exclusive> {
    Exclusive::parse(word).ok_or_else(|| {
        let word = word.escape_debug();
        Error::invalid(format!("exclusive: `{word}` is none of reserve, movable and none"))
    })
}

/// Refuses to leave open what pages that are set aside have in any case.
fn goes_with_pages(wish: &NodeWish) -> Result<()> {
    let page = wish.memory.page;
    match wish.exclusive {
        Some(mode) if page.is_reserved() && mode != Exclusive::Reserve => Err(Error::invalid(format!(
            "exclusive: with page={} it is reserve: these pages are set aside for the pool",
            page.name()
        ))),
        _ => Ok(()),
    }
}

/// Refuses a reserve that is no multiple of the page.
fn whole_pages(page: PageKind, bytes: Option<u64>) -> Result<()> {
    let unit = PageCount(page.unit()).bytes();
    match bytes.filter(|bytes| !bytes.is_multiple_of(unit)) {
        Some(bytes) => Err(Error::invalid(format!(
            "reserve: {bytes} bytes are not a multiple of the page, {unit} bytes (page={})",
            page.name()
        ))),
        None => Ok(()),
    }
}

/// Takes what only a device on a NUMA node has; whether it was that.
fn node_item(wish: &mut NodeWish, bytes: &mut Option<u64>, key: &str, value: &str) -> Result<bool> {
    match (key, value) {
        ("page", _) => wish.memory.page = page_kind(value)?,
        ("reserve", _) => *bytes = Reserve::parse(value)?.bytes()?,
        ("exclusive", _) => wish.exclusive = Some(exclusive(value)?),
        ("cpus", "yes") => wish.cpus = true,
        ("cpus", "no") => wish.cpus = false,
        ("cpus", _) => {
            return Err(Error::invalid(format!("cpus: `{}` is neither yes nor no", value.escape_debug())));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Refuses another driver where this program is the driver.
fn undriven(device: &Device) -> Result<()> {
    match (device.software, device.driver_user) {
        (Some(_), Some(_)) => Err(Error::invalid(
            "driver_user is nothing that a software device has: the daemon starts its driver itself",
        )),
        _ => Ok(()),
    }
}

fn link_item(link: &mut LinkModel, key: &str, value: &str, more: &str) -> Result<()> {
    let nanos = |value: &str| {
        value.parse::<u32>().map_err(|_| {
            Error::invalid(format!("{key}: `{value}` is not a number of nanoseconds from 0 to {}", u32::MAX))
        })
    };
    match key {
        "read_ns" => link.read_ns = Some(nanos(value)?),
        "write_ns" => link.write_ns = Some(nanos(value)?),
        "gbps" => {
            link.mbps = Some(Rate::parse(value).map_err(|e| Error::invalid(format!("gbps: {e}")))?.0);
        }
        _ => {
            let key = key.escape_debug();
            return Err(Error::invalid(format!(
                "`{key}` is not known: there are {more}read_ns, write_ns, gbps, driver_user, emergency, at_most and when"
            )));
        }
    }
    Ok(())
}

/// Refuses a name that occurs twice in one list.
pub(crate) fn check_distinct(devices: &[Device]) -> Result<()> {
    let mut names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => {
            Err(Error::invalid(format!("device {} is given twice: give each a name of its own", pair[0])))
        }
        None => Ok(()),
    }
}

fn check_name(name: &str) -> Result<()> {
    let wrong = |why: &str| Err(Error::invalid(format!("device name `{}`: {why}", name.escape_debug())));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match name {
        "" => wrong("it is empty"),
        DRAM_NAME => wrong(
            "that is the host's own memory, which devices may help out in an emergency; its size is set with `--dram` or the key `dram`",
        ),
        _ if name.len() > DEVICE_NAME_MAX => wrong("it is longer than 32 bytes"),
        _ if name.starts_with('.') => wrong("it starts with a dot"),
        _ if !name.chars().all(plain) => wrong("only letters, digits, `-`, `_` and `.` may be in it"),
        _ => Ok(()),
    }
}

fn unknown_backing(name: &str, backing: &str) -> Error {
    Error::invalid(format!(
        "device {name}: there is no backing `{}`; there are {BACKINGS}",
        backing.escape_debug()
    ))
}

fn about(name: &str, error: &Error) -> Error {
    Error::new(error.kind, format!("device {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_core::emergency::{AtMost, When};
    use codax_engine::Format;

    #[test]
    fn a_device_is_read_whole() {
        let device = parse_device("sim0=emulated:1GiB,read_ns=300,write_ns=150,gbps=12.5").unwrap();
        assert_eq!((device.name.as_str(), device.bytes), ("sim0", Some(1 << 30)));
        let link = LinkModel { read_ns: Some(300), write_ns: Some(150), mbps: Some(12_500) };
        assert_eq!(device.link, link);
        let plain = parse_device("a.b-c_9=emulated:4096").unwrap();
        assert_eq!((plain.bytes, plain.link), (Some(4096), LinkModel::default()));
    }

    #[test]
    fn a_device_with_a_coprocessor_is_read_whole() {
        let device = parse_device("sim0=software:1GiB,read_ns=300,cpu=3").unwrap();
        assert_eq!((device.bytes, device.link.read_ns), (Some(1 << 30), Some(300)));
        assert_eq!(device.software, Some(Software { cpu: Some(3) }));
        assert_eq!(parse_device("a=software:4096").unwrap().software, Some(Software { cpu: None }));
        assert_eq!(parse_device("a=emulated:4096").unwrap().software, None);
        let nic = parse_device("nic0=software,cpu=2,read_ns=90").unwrap();
        assert_eq!(
            (nic.bytes, nic.software, nic.link.read_ns),
            (Some(0), Some(Software { cpu: Some(2) }), Some(90))
        );
        let other = parse_device("nic0=none,driver_user=7").unwrap();
        assert_eq!((other.bytes, other.software, other.driver_user), (Some(0), None, Some(7)));
    }

    #[test]
    fn a_device_on_a_node_is_read_whole() {
        let device =
            parse_device("cxl0=numa:2,page=4K,reserve=1GiB,exclusive=reserve,cpus=yes,gbps=20").unwrap();
        let memory = NodeMemory { node: 2, page: PageKind::Small };
        let wish = NodeWish { memory, cpus: true, exclusive: Some(Exclusive::Reserve) };
        assert_eq!((device.bytes, device.node), (Some(1 << 30), Some(wish)));
        assert_eq!(device.link.mbps, Some(20_000));
        let plain = parse_device("cxl0=numa:1,reserve=all").unwrap();
        let memory = NodeMemory { node: 1, page: PageKind::Transparent };
        let wish = NodeWish { memory, cpus: false, exclusive: None };
        assert_eq!((plain.bytes, plain.node), (None, Some(wish)));
    }

    #[test]
    fn a_dax_device_and_a_directory_are_read_whole() {
        let device = parse_device("pm0=devdax:/dev/dax0.0,format,persistent=no,read_ns=350").unwrap();
        let spec = |path: &str, files, format, persistent| {
            Some(DaxSpec { path: path.into(), files, format, persistent })
        };
        let dax = spec("/dev/dax0.0", false, Format::IfNotOurs, Some(false));
        assert_eq!((device.dax, device.bytes, device.node), (dax, None, None));
        assert_eq!(device.link.read_ns, Some(350));
        let files = parse_device("pm1=fsdax:/mnt/pmem0/codax,size=1GiB,format=force,gbps=6").unwrap();
        let dax = spec("/mnt/pmem0/codax", true, Format::Force, None);
        assert_eq!((files.dax, files.bytes, files.link.mbps), (dax, Some(1 << 30), Some(6000)));
        let plain = parse_device("pm1=fsdax:/mnt/a b=c").unwrap();
        assert_eq!((plain.dax, plain.bytes), (spec("/mnt/a b=c", true, Format::Never, None), None));
    }

    #[test]
    fn what_an_emergency_may_have_is_read_whole() {
        let of = |text: &str| parse_device(&format!("cxl0=numa:1{text}")).unwrap().emergency;
        let part = AtMost::Percent(25);
        let free = When::Free(512 << 20);
        assert_eq!(of(""), None);
        assert_eq!(of(",emergency=never"), None);
        assert_eq!(of(",emergency=allow"), Some(Emergency { at_most: AtMost::ALL, when: None }));
        let all = of(",at_most=25%,emergency=allow,gbps=9,when=free:512MiB");
        assert_eq!(all, Some(Emergency { at_most: part, when: Some(free) }));
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        let long = format!("{}=emulated:1GiB", "x".repeat(33));
        for (bad, says) in [
            ("sim0", "write it as NAME="),
            ("=emulated:1GiB", "it is empty"),
            ("a/b=emulated:1GiB", "only letters"),
            ("..=emulated:1GiB", "starts with a dot"),
            ("a b=emulated:1GiB", "only letters"),
            ("a\nb=emulated:1GiB", "a\\nb"),
            ("ä=emulated:1GiB", "only letters"),
            ("dram=emulated:1GiB", "host's own memory"),
            (&long, "longer than 32"),
            ("sim0=1GiB", "write it as NAME="),
            (
                "sim0=tape:1GiB",
                "no backing `tape`; there are emulated, software, numa, devdax, fsdax and none",
            ),
            ("a=numa:1,exclusive=yes", "none of reserve, movable and none"),
            ("a=numa:1,page=2M,exclusive=none", "with page=2M it is reserve"),
            ("a=emulated:4096,exclusive=reserve", "`exclusive` is not known"),
            ("sim0=emulated:1GiB,format", "`format` is not known: there are read_ns"),
            ("sim0=emulated:", "sim0"),
            ("sim0=emulated:0", "size 0"),
            ("sim0=emulated:-1GiB", "negative"),
            ("sim0=emulated:18446744073709551615", "sim0"),
            ("sim0=emulated:18446744073709551616", "sim0"),
            ("sim0=emulated:99999999TiB", "sim0"),
            ("sim0=emulated:5000", "not a multiple"),
            ("sim0=emulated:1GiB,speed=3", "`speed` is not known"),
            ("sim0=emulated:1GiB,", "`` is not known"),
            ("sim0=emulated:1GiB,read_ns", "read_ns: `` is not a number"),
            ("sim0=emulated:1GiB,read_ns=-1", "read_ns: `-1`"),
            ("sim0=emulated:1GiB,read_ns=5000000000", "read_ns"),
            ("sim0=emulated:1GiB,gbps=0", "gbps"),
            ("sim0=emulated:1GiB,driver_user=root", "driver_user: `root` is not the number"),
            ("sim0=emulated:1GiB,driver_user", "driver_user: ``"),
            ("sim0=emulated:1GiB,driver_user=1,driver_user=1", "driver_user is given twice"),
            ("sim0=emulated:1GiB,gbps=1,gbps=2", "gbps is given twice"),
            ("sim0=emulated:1GiB,page=4K", "`page` is not known"),
            ("sim0=emulated:1GiB,cpu=0", "`cpu` is not known"),
            ("sim0=software:", "sim0"),
            ("sim0=emulated", "write it as NAME=emulated:SIZE"),
            ("sim0=none:1GiB", "write it as NAME="),
            ("sim0=none,cpu=1", "`cpu` is not known"),
            ("sim0=software,driver_user=1", "the daemon starts its driver itself"),
            ("sim0=software:1GiB,page=4K", "there are cpu, read_ns"),
            ("sim0=software:1GiB,cpu=one", "cpu: `one` is not the number of a CPU"),
            ("sim0=software:1GiB,cpu", "cpu: ``"),
            ("sim0=software:1GiB,cpu=1,cpu=2", "cpu is given twice"),
            ("sim0=software:1GiB,driver_user=1", "the daemon starts its driver itself"),
            ("cxl0=numa:", "`` is not the number"),
            ("cxl0=numa:-1", "`-1` is not the number"),
            ("cxl0=numa:one", "`one` is not the number"),
            ("cxl0=numa:1,page=8K", "there are 4K, thp, 2M and 1G"),
            ("cxl0=numa:1,page=2M,reserve=3MiB", "not a multiple of the page, 2097152 bytes"),
            ("cxl0=numa:1,reserve=512MiB,page=1G", "not a multiple of the page"),
            ("cxl0=numa:1,reserve=some", "reserve"),
            ("cxl0=numa:1,reserve=5000", "not a multiple"),
            ("cxl0=numa:1,cpus=perhaps", "neither yes nor no"),
            ("cxl0=numa:1,size=1GiB", "there are page, reserve, exclusive, cpus, read_ns"),
            ("cxl0=numa:1,format", "`format` is not known: there are page"),
            ("pm0=devdax:", "`path` is missing: the device file, as /dev/dax0.0"),
            ("pm0=devdax:1GiB", "path `1GiB`: it does not begin with /"),
            ("pm0=devdax:/dev/dax\n0.0", "path `/dev/dax\\n0.0`"),
            ("pm0=devdax:/dev/dax0.0,size=1GiB", "all of it is the pool's"),
            ("pm0=devdax:/dev/dax0.0,format=yes", "format: `yes`: write format or format=force"),
            ("pm0=devdax:/dev/dax0.0,format=", "format: ``: write format"),
            ("pm0=devdax:/dev/dax0.0,format,format=force", "format is given twice"),
            ("pm0=devdax:/dev/dax0.0,persistent", "persistent: `` is neither yes nor no"),
            ("pm0=devdax:/dev/dax0.0,persistent=true", "persistent: `true` is neither"),
            ("pm0=devdax:/dev/dax0.0,page=2M", "there are format, persistent, read_ns"),
            ("pm0=fsdax:", "`path` is missing: the directory, as /mnt/pmem0/codax"),
            ("pm0=fsdax:mnt", "path `mnt`: it does not begin with /"),
            ("pm0=fsdax:/mnt/a,b", "`b` is not known: there are size, format, persistent, read_ns"),
            ("pm0=fsdax:/mnt,size", "size"),
            ("pm0=fsdax:/mnt,size=0", "size 0"),
            ("pm0=fsdax:/mnt,size=5000", "not a multiple"),
            ("pm0=fsdax:/mnt,size=65TiB", "64 TiB"),
            ("pm0=fsdax:/mnt,size=1GiB,size=1GiB", "size is given twice"),
            ("pm0=fsdax:/mnt,reserve=1GiB", "`reserve` is not known"),
            ("sim0=emulated:1GiB,emergency", "emergency: `` is neither never nor allow"),
            ("sim0=emulated:1GiB,emergency=yes", "neither never nor allow"),
            ("sim0=emulated:1GiB,at_most=5%", "`at_most` says how far an emergency may go"),
            ("sim0=emulated:1GiB,emergency=never,when=free:1MiB", "it wants emergency=allow"),
            ("sim0=emulated:1GiB,emergency=allow,at_most=0%", "at_most: `0%` is not a part"),
            ("sim0=emulated:1GiB,emergency=allow,at_most=0", "at_most: `0` is less than a frame has, 4 KiB"),
            ("sim0=emulated:1GiB,emergency=allow,at_most=4095", "is less than a frame has"),
            ("sim0=emulated:1GiB,emergency=allow,at_most=much", "or a part, as in 25%"),
            ("sim0=emulated:1GiB,emergency=allow,when=soon", "when: `soon` is not a condition"),
            ("sim0=emulated:1GiB,emergency=allow,when=some:1s/20s", "windows of 500ms to 10s"),
            ("sim0=emulated:1GiB,emergency=allow,emergency=never", "emergency is given twice"),
            ("dram=emulated:1GiB,emergency=allow", "host's own memory, which devices may help out"),
        ] {
            let error = parse_device(bad).unwrap_err();
            assert_eq!(error.kind, codax_core::ErrorKind::Invalid);
            assert!(error.message.contains(says) && !error.message.contains('\n'), "{bad:?}: {error}");
        }
    }

    #[test]
    fn each_key_is_one_of_some_device() {
        let devices =
            ["a=emulated:4096", "a=software:4096", "a=numa:1", "a=devdax:/dev/dax0.0", "a=fsdax:/mnt"];
        for key in DEVICE_KEYS {
            let known = |device: &&str| {
                let refused = parse_device(&format!("{device},{key}=")).err();
                refused.is_none_or(|e| !e.message.contains("is not known"))
            };
            assert!(devices.iter().any(known), "{key}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_a_panic_or_two_lines(text in ".{0,40}", tail in "[a-z_=,.0-9-]{0,20}") {
            for text in [text, format!("sim0=emulated:1MiB,{tail}")] {
                match parse_device(&text) {
                    Ok(device) => proptest::prop_assert!(device.bytes.is_some_and(|bytes| bytes % 4096 == 0)),
                    Err(e) => proptest::prop_assert!(!e.message.contains('\n'), "{}", e),
                }
            }
        }

        #[test]
        fn what_is_written_is_read(name in "[a-zA-Z0-9_-][a-zA-Z0-9_.-]{0,31}", frames in 1_u64..1 << 34, read in 0_u32.., mbps in 1_u32..) {
            proptest::prop_assume!(name != DRAM_NAME);
            let gbps = format!("{}.{:03}", mbps / 1000, mbps % 1000);
            let device = parse_device(&format!("{name}=emulated:{},gbps={gbps},read_ns={read}", frames * 4096)).unwrap();
            let link = LinkModel { read_ns: Some(read), write_ns: None, mbps: Some(mbps) };
            let bytes = Some(frames * 4096);
            proptest::prop_assert_eq!(device, Device { name, bytes, link, ..Device::default() });
        }
    }

    proptest::proptest! {
        #[test]
        fn no_path_or_item_is_a_panic_or_two_lines(path in ".{0,40}", tail in "(,(format|size|persistent|gbps|node)(=[a-zA-Z0-9.]{0,8})?){0,4}") {
            for backing in ["devdax", "fsdax"] {
                match parse_device(&format!("pm0={backing}:{path}{tail}")) {
                    Ok(device) => {
                        let spec = device.dax.expect("it is one");
                        proptest::prop_assert!(spec.path.is_absolute() && dax::backing(&spec) == backing && device.node.is_none());
                        if let Some(size) = device.bytes {
                            proptest::prop_assert!(spec.files && size > 0 && size % 4096 == 0);
                        }
                    }
                    Err(e) => proptest::prop_assert!(!e.message.contains('\n'), "{}", e),
                }
            }
        }

        #[test]
        fn what_is_written_of_a_directory_is_read(path in "(/[a-zA-Z0-9 ._=:-]{1,12}){1,4}", frames in proptest::option::of(1_u64..1 << 34), outlives in proptest::option::of(proptest::bool::ANY), may in 0_usize..3) {
            let (format, word) = [(Format::Never, ""), (Format::IfNotOurs, ",format"), (Format::Force, ",format=force")][may];
            let mut text = format!("pm0=fsdax:{path}{word}");
            let size = frames.map(|frames| frames * 4096);
            text += &size.map_or_else(String::new, |size| format!(",size={size}"));
            text += outlives.map_or("", |yes| if yes { ",persistent=yes" } else { ",persistent=no" });
            let spec = DaxSpec { path: path.into(), files: true, format, persistent: outlives };
            let device = parse_device(&text).unwrap();
            proptest::prop_assert_eq!((device.dax, device.bytes), (Some(spec), size));
        }
    }

    #[test]
    fn a_name_given_twice_is_refused() {
        let devices =
            ["a=emulated:1MiB", "b=emulated:1MiB", "a=emulated:2MiB"].map(|text| parse_device(text).unwrap());
        assert!(check_distinct(&devices[..2]).is_ok());
        assert!(check_distinct(&devices).unwrap_err().message.contains("device a is given twice"));
    }
}
