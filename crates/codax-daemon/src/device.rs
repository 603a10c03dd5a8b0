//! Devices as they are written: on the command line (`sim0=emulated:1GiB,read_ns=300,gbps=8`) and in the configuration.

use crate::quantity::{Rate, Size, pool_bytes};
use codax_core::change::LinkModel;
use codax_core::{DRAM_NAME, Error, Result};
use codax_engine::DeviceSpec;
use serde::Deserialize;

/// Longest name of a device, in bytes.
pub const DEVICE_NAME_MAX: usize = 32;

/// The backings there are.
const BACKINGS: &str = "emulated";

/// `[[device]]` in the configuration: memory that is served beside `dram`.
///
/// Latencies and bandwidth are what the pool announces to programs that ask. Loads and stores are not slowed; only moves to and
/// from the pool keep below `gbps`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeviceEntry {
    /// Its name: up to 32 letters, digits, `-`, `_` and `.` (not first). Not `dram`.
    name: String,
    /// What holds its bytes. There is one so far: "emulated", which takes the host's memory in place of a device's.
    backing: String,
    /// Its capacity, a multiple of 4096 bytes. A store that has the device already accepts no other.
    size: Size,
    /// Announced latency of a read in nanoseconds.
    read_ns: Option<u32>,
    /// Announced latency of a write in nanoseconds.
    write_ns: Option<u32>,
    /// Announced bandwidth in 10^9 bytes per second.
    gbps: Option<Rate>,
}

impl DeviceEntry {
    pub(crate) fn check(self) -> Result<DeviceSpec> {
        check_name(&self.name)?;
        let name = &self.name;
        if self.backing != BACKINGS {
            return Err(unknown_backing(name, &self.backing));
        }
        let bytes = pool_bytes(self.size).map_err(|e| about(name, &e))?;
        let link =
            LinkModel { read_ns: self.read_ns, write_ns: self.write_ns, mbps: self.gbps.map(|gbps| gbps.0) };
        Ok(DeviceSpec { name: self.name, bytes, link })
    }
}

/// Reads `NAME=emulated:SIZE[,read_ns=N,write_ns=N,gbps=N]`. `Invalid` names what is wrong, in one line.
pub fn parse_device(text: &str) -> Result<DeviceSpec> {
    let usage = "NAME=emulated:SIZE[,read_ns=N,write_ns=N,gbps=N]";
    let (name, rest) = text
        .split_once('=')
        .ok_or_else(|| Error::invalid(format!("device `{text}`: write it as {usage}")))?;
    check_name(name)?;
    let mut items = rest.split(',');
    let (backing, size) = items
        .next()
        .and_then(|first| first.split_once(':'))
        .ok_or_else(|| Error::invalid(format!("device {name}: `{rest}`: write it as {usage}")))?;
    if backing != BACKINGS {
        return Err(unknown_backing(name, backing));
    }
    let bytes = Size::parse(size).and_then(pool_bytes).map_err(|e| about(name, &e))?;
    let mut link = LinkModel::default();
    for item in items {
        link_item(&mut link, item).map_err(|e| about(name, &e))?;
    }
    Ok(DeviceSpec { name: name.to_owned(), bytes, link })
}

fn link_item(link: &mut LinkModel, item: &str) -> Result<()> {
    let (key, value) = item.split_once('=').unwrap_or((item, ""));
    let nanos = |value: &str| {
        value.parse::<u32>().map_err(|_| {
            Error::invalid(format!("{key}: `{value}` is not a number of nanoseconds from 0 to {}", u32::MAX))
        })
    };
    let (place, value) = match key {
        "read_ns" => (&mut link.read_ns, nanos(value)?),
        "write_ns" => (&mut link.write_ns, nanos(value)?),
        "gbps" => (&mut link.mbps, Rate::parse(value).map_err(|e| Error::invalid(format!("gbps: {e}")))?.0),
        _ => {
            return Err(Error::invalid(format!(
                "`{key}` is not known: there are read_ns, write_ns and gbps"
            )));
        }
    };
    if place.replace(value).is_some() {
        return Err(Error::invalid(format!("{key} is given twice")));
    }
    Ok(())
}

/// Refuses a name that occurs twice in one list.
pub(crate) fn check_distinct(devices: &[DeviceSpec]) -> Result<()> {
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
        DRAM_NAME => wrong("that is the host's own memory; its size is set with `--dram` or the key `dram`"),
        _ if name.len() > DEVICE_NAME_MAX => wrong("it is longer than 32 bytes"),
        _ if name.starts_with('.') => wrong("it starts with a dot"),
        _ if !name.chars().all(plain) => wrong("only letters, digits, `-`, `_` and `.` may be in it"),
        _ => Ok(()),
    }
}

fn unknown_backing(name: &str, backing: &str) -> Error {
    Error::invalid(format!(
        "device {name}: there is no backing `{}`; there is: {BACKINGS}",
        backing.escape_debug()
    ))
}

fn about(name: &str, error: &Error) -> Error {
    Error::new(error.kind, format!("device {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_whole() {
        let device = parse_device("sim0=emulated:1GiB,read_ns=300,write_ns=150,gbps=12.5").unwrap();
        assert_eq!((device.name.as_str(), device.bytes), ("sim0", 1 << 30));
        let link = LinkModel { read_ns: Some(300), write_ns: Some(150), mbps: Some(12_500) };
        assert_eq!(device.link, link);
        let plain = parse_device("a.b-c_9=emulated:4096").unwrap();
        assert_eq!((plain.bytes, plain.link), (4096, LinkModel::default()));
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
            ("sim0=devdax:1GiB", "no backing `devdax`; there is: emulated"),
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
            ("sim0=emulated:1GiB,gbps=1,gbps=2", "gbps is given twice"),
        ] {
            let error = parse_device(bad).unwrap_err();
            assert_eq!(error.kind, codax_core::ErrorKind::Invalid);
            assert!(error.message.contains(says) && !error.message.contains('\n'), "{bad:?}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_a_panic_or_two_lines(text in ".{0,40}", tail in "[a-z_=,.0-9-]{0,20}") {
            for text in [text, format!("sim0=emulated:1MiB,{tail}")] {
                match parse_device(&text) {
                    Ok(device) => proptest::prop_assert!(device.bytes > 0 && device.bytes % 4096 == 0),
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
            proptest::prop_assert_eq!(device, DeviceSpec { name, bytes: frames * 4096, link });
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
