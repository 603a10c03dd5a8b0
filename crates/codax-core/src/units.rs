//! Sizes, rates and durations as people write them.

use crate::{Error, Result};
use std::time::Duration;

/// Bytes from `4096`, `64KiB`, `1MiB`, `2GiB`, `1TiB`, or the same with `K`, `M`, `G`, `T`, which are binary too.
pub fn parse_size(text: &str) -> Result<u64> {
    let takes = "a size is a whole number of bytes, or of KiB, MiB, GiB or TiB, as in 64KiB";
    let (number, unit) = split_number(text);
    let shift = match unit {
        "" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return Err(Error::invalid(format!("`{text}` is not a size: {takes}"))),
    };
    let number = parse_number(number, text, "size", takes)?;
    number.checked_mul(1 << shift).ok_or_else(|| too_large(text))
}

/// A duration from `10us`, `250ms`, `5s`, `2m` or `1h`.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let takes = "a duration is a whole number of us, ms, s, m or h, as in 250ms";
    let (number, unit) = split_number(text);
    let unit_ns: u64 = match unit {
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(Error::invalid(format!("`{text}` is not a duration: {takes}"))),
    };
    let number = parse_number(number, text, "duration", takes)?;
    // 64 bits of nanoseconds are 584 years, and can be added to any clock.
    Ok(Duration::from_nanos(number.checked_mul(unit_ns).ok_or_else(|| too_large(text))?))
}

/// Bytes per second from `2.5GB/s`, `500MB/s`, `64kB/s`, `100B/s` (decimal, as links are sold), or `2.5`, which is in GB/s.
pub fn parse_rate(text: &str) -> Result<u64> {
    let bad = || {
        Error::invalid(format!(
            "`{text}` is not a rate: a rate is a number of GB/s, or of MB/s, kB/s or B/s, as in 2.5GB/s"
        ))
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit: u128 = match unit {
        "" | "GB/s" => 1_000_000_000,
        "MB/s" => 1_000_000,
        "kB/s" | "KB/s" => 1_000,
        "B/s" => 1,
        _ => return Err(bad()),
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return Err(bad()),
        None => (number, ""),
    };
    // Digits only, no second point, and few enough for exact arithmetic below.
    if whole.is_empty() || fraction.contains('.') || fraction.len() > 12 {
        return Err(bad());
    }
    let whole: u128 = whole.parse().map_err(|_| too_large(text))?;
    let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| bad())?);
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| bad())? };
    let rate = whole.checked_mul(unit).and_then(|whole| whole.checked_add(fraction * unit / scale));
    match u64::try_from(rate.ok_or_else(|| too_large(text))?) {
        Ok(0) => Err(Error::invalid(format!("`{text}` is no rate at all: it must be at least 1B/s"))),
        Ok(rate) => Ok(rate),
        Err(_) => Err(too_large(text)),
    }
}

/// Bytes for people: `512 B`, `64 KiB`, `1.5 GiB`.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = 1u128;
    for name in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        unit <<= 10;
        // In tenths, rounded; 1023.97 KiB is 1 MiB and not 1024 KiB.
        let tenths = (u128::from(bytes) * 10 + unit / 2) / unit;
        if tenths < 10_240 || name == "EiB" {
            return format!("{} {name}", tenths_of(tenths));
        }
    }
    unreachable!("the last unit takes everything")
}

/// Bytes as they may be typed, exactly, in the largest unit: `48MiB`.
#[must_use]
pub fn exact_size(bytes: u64) -> String {
    let mut units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")].into_iter();
    match units.find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

/// A duration as it may be typed, in whole microseconds, in the largest unit: `150ms`.
#[must_use]
pub fn exact_duration(time: Duration) -> String {
    let us = time.as_micros();
    let mut units = [(1_000_000, "s"), (1_000, "ms")].into_iter();
    match units.find(|(unit, _)| us > 0 && us.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", us / unit),
        None => format!("{us}us"),
    }
}

/// A rate for people: `2.5 GB/s`.
#[must_use]
pub fn format_rate(bytes_per_second: u64) -> String {
    let rate = u128::from(bytes_per_second);
    for (unit, name) in [(1_000_000_000, "GB/s"), (1_000_000, "MB/s"), (1_000, "kB/s")] {
        let tenths = (rate * 10 + unit / 2) / unit;
        if tenths >= 10 {
            return format!("{} {name}", tenths_of(tenths));
        }
    }
    format!("{rate} B/s")
}

/// A duration for people: `850 ns`, `1.5 ms`, `12.3 s`, `2 m 5 s`, `1 h 2 m`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    for (unit, name, below) in
        [(1, "ns", 1_000), (1_000, "us", 1_000), (1_000_000, "ms", 1_000), (1_000_000_000, "s", 60)]
    {
        let tenths = (nanos * 10 + unit / 2) / unit;
        if tenths < below * 10 {
            return format!("{} {name}", tenths_of(tenths));
        }
    }
    let seconds = duration.as_millis().saturating_add(500) / 1000;
    match seconds / 60 {
        minutes @ 0..60 => format!("{minutes} m {} s", seconds % 60),
        minutes => format!("{} h {} m", minutes / 60, minutes % 60),
    }
}

/// `15` is `1.5`, `20` is `2`.
fn tenths_of(tenths: u128) -> String {
    match tenths % 10 {
        0 => format!("{}", tenths / 10),
        rest => format!("{}.{rest}", tenths / 10),
    }
}

/// The leading digits, and the rest.
fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn parse_number(digits: &str, text: &str, what: &str, takes: &str) -> Result<u64> {
    if digits.is_empty() {
        return Err(Error::invalid(format!("`{text}` is not a {what}: {takes}")));
    }
    // Only digits are left, so this fails for one reason only.
    digits.parse().map_err(|_| too_large(text))
}

fn too_large(text: &str) -> Error {
    Error::invalid(format!("`{text}` is too large: it does not fit into 64 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn what_is_exact_can_be_typed_again() {
        for (bytes, text) in
            [(0, "0"), (4095, "4095"), (3 << 19, "1536KiB"), (48 << 20, "48MiB"), (5 << 40, "5TiB")]
        {
            assert_eq!((exact_size(bytes).as_str(), parse_size(text)), (text, Ok(bytes)));
        }
        for (us, text) in [(10, "10us"), (150_000, "150ms"), (1_500_000, "1500ms"), (60_000_000, "60s")] {
            let time = Duration::from_micros(us);
            assert_eq!((exact_duration(time).as_str(), parse_duration(text)), (text, Ok(time)));
        }
    }

    #[test]
    fn sizes() {
        let good = [
            ("0", 0),
            ("4096", 4096),
            ("64KiB", 64 << 10),
            ("1MiB", 1 << 20),
            ("2GiB", 2 << 30),
            ("3TiB", 3 << 40),
            ("1K", 1 << 10),
            ("1M", 1 << 20),
            ("1G", 1 << 30),
            ("1T", 1 << 40),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in good {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        let bad = [
            "",
            " ",
            "-1",
            "+1",
            "1.5GiB",
            "1kib",
            "1KIB",
            "1k",
            "1KB",
            "KiB",
            "1 KiB",
            "1KiB ",
            "0x10",
            "１",
            "18446744073709551616",
            "16777216TiB",
            "99999999999999999999T",
        ];
        for text in bad {
            let error = parse_size(text).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{text}");
            assert!(error.message.contains(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn durations() {
        let good = [
            ("10us", Duration::from_micros(10)),
            ("250ms", Duration::from_millis(250)),
            ("1500ms", Duration::from_millis(1500)),
            ("5s", Duration::from_secs(5)),
            ("2m", Duration::from_secs(120)),
            ("1h", Duration::from_secs(3600)),
            ("0s", Duration::ZERO),
        ];
        for (text, duration) in good {
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            "1 s",
            "1S",
            "1d",
            "18446744073709551615s",
            "99999999999999999999ms",
        ] {
            assert_eq!(parse_duration(text).unwrap_err().kind, ErrorKind::Invalid, "{text}");
        }
    }

    #[test]
    fn rates() {
        let good = [
            ("2.5GB/s", 2_500_000_000),
            ("2.5", 2_500_000_000),
            ("500MB/s", 500_000_000),
            ("0.5MB/s", 500_000),
            ("64kB/s", 64_000),
            ("1B/s", 1),
            ("0.000000001", 1),
            ("18446744073.709551615", u64::MAX),
        ];
        for (text, rate) in good {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
        for text in [
            "",
            "0",
            "0.0MB/s",
            ".5",
            "5.",
            "1.2.3",
            "1..2",
            "-1",
            "1e9",
            "1GiB/s",
            "GB/s",
            "1 GB/s",
            "18446744073.709551616",
            "0.0000000000000001",
            "999999999999999999999999999999999999999999",
        ] {
            assert_eq!(parse_rate(text).unwrap_err().kind, ErrorKind::Invalid, "{text}");
        }
    }

    #[test]
    fn sizes_for_people() {
        let all = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1 MiB"),
            (3 << 29, "1.5 GiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (bytes, text) in all {
            assert_eq!(format_size(bytes), text);
        }
        assert_eq!(format_rate(2_500_000_000), "2.5 GB/s");
        assert_eq!(format_rate(900), "900 B/s");
        assert_eq!(format_rate(999), "1 kB/s");
    }

    #[test]
    fn durations_for_people() {
        let all = [
            (850, "850 ns"),
            (1_500_000, "1.5 ms"),
            (999_999, "1 ms"),
            (12_345_000_000, "12.3 s"),
            (59_990_000_000, "1 m 0 s"),
            (125_000_000_000, "2 m 5 s"),
            (3_720_000_000_000, "1 h 2 m"),
        ];
        for (nanos, text) in all {
            assert_eq!(format_duration(Duration::from_nanos(nanos)), text);
        }
        assert_eq!(format_duration(Duration::MAX), "5124095576030431 h 0 m");
    }
}
