//! Sizes, times and rates in the configuration: text with a unit, or a bare number.

use codax_core::units;
use codax_core::{Error, PAGE_SIZE, Result};
use serde::de::{self, Deserialize, Deserializer};
use std::time::Duration;
use toml::Value;

/// The largest pool, in bytes: half of the address space that a process has on x86-64.
pub(crate) const POOL_BYTES_MAX: u64 = 64 << 40;

/// A size in bytes: text such as `"512MiB"`, or a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub u64);

/// A time: text such as `"2s"` or `"500ms"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub Duration);

/// A bandwidth, written in 10^9 bytes per second and kept in 10^6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate(pub u32);

impl Size {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text.trim_start().starts_with('-') {
            return Err(Error::invalid(format!("size `{text}` is negative")));
        }
        units::parse_size(text).map(Self)
    }
}

impl Rate {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let rate = units::parse_rate(text)?;
        let mbps = u32::try_from(rate / 1_000_000).ok().filter(|mbps| *mbps > 0);
        mbps.map(Self).ok_or_else(|| {
            Error::invalid(format!("`{text}` is not a bandwidth of a device: give 0.001 to 4294967 GB/s"))
        })
    }
}

/// Checks the capacity of a pool: some whole frames, not more than can be mapped.
pub(crate) fn pool_bytes(size: Size) -> Result<u64> {
    match size.0 {
        0 => Err(Error::invalid(format!("size 0: a pool has {PAGE_SIZE} bytes or more"))),
        n if n % PAGE_SIZE != 0 => {
            Err(Error::invalid(format!("size {n} is not a multiple of the page, {PAGE_SIZE} bytes")))
        }
        n if n > POOL_BYTES_MAX => {
            Err(Error::invalid(format!("size {n} is more than a pool can have, 64 TiB")))
        }
        n => Ok(n),
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Self::parse(&text),
            Value::Integer(n) => {
                u64::try_from(n).map(Self).map_err(|_| Error::invalid(format!("size {n} is negative")))
            }
            other => Err(wanted("a size, text such as \"512MiB\" or a number of bytes", &other)),
        }
        .map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => units::parse_duration(&text).map(Self),
            other => Err(wanted("a time, text such as \"500ms\", \"2s\" or \"1m\"", &other)),
        }
        .map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Integer(n) => Self::parse(&n.to_string()),
            Value::Float(n) => Self::parse(&n.to_string()),
            other => Err(wanted("a bandwidth, a number of 10^9 bytes per second", &other)),
        }
        .map_err(de::Error::custom)
    }
}

fn wanted(what: &str, found: &Value) -> Error {
    Error::invalid(format!("{found} is not {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_kept_in_mb_per_s() {
        assert_eq!(Rate::parse("12.5").unwrap(), Rate(12_500));
        assert_eq!(Rate::parse("0.001").unwrap(), Rate(1));
        assert_eq!(Rate::parse("800MB/s").unwrap(), Rate(800));
        for bad in ["", "0", "0.0001", "-1", "nan", "inf", "fast", "4294968"] {
            let error = Rate::parse(bad).unwrap_err().message;
            assert!(error.contains(&format!("`{bad}`")), "{error}");
        }
    }

    #[test]
    fn pools_have_whole_frames() {
        assert_eq!(pool_bytes(Size(8192)).unwrap(), 8192);
        assert_eq!(pool_bytes(Size(POOL_BYTES_MAX)).unwrap(), POOL_BYTES_MAX);
        for (bad, says) in [
            (0, "size 0"),
            (4097, "not a multiple"),
            (u64::MAX, "not a multiple"),
            (u64::MAX - 4095, "64 TiB"),
        ] {
            let error = pool_bytes(Size(bad)).unwrap_err().message;
            assert!(error.contains(says), "{error}");
        }
    }
}
