//! Small forms for people: names, sizes, times, modes.

use super::json::PlacementRow;
use codax_core::info::ServedBy;
use codax_core::namespace::Kind;
use codax_core::units::{format_duration, format_rate};
use std::fmt::Write;
use std::time::Duration;

/// `text` without anything that could take over a terminal. For text that may hold a stranger's words: a process's name, a message.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || reorders(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether `c` breaks the line or turns the direction of what follows, so that a name can look like another.
const fn reorders(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a string can't fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// How long something took and how fast that was, as `1.5 s, 2.3 GB/s`.
pub fn pace(bytes: u64, nanos: u64) -> String {
    let rate = u128::from(bytes) * 1_000_000_000 / u128::from(nanos.max(1));
    let rate = format_rate(u64::try_from(rate).unwrap_or(u64::MAX));
    format!("{}, {rate}", format_duration(Duration::from_nanos(nanos)))
}

/// A moment, in UTC, to the second.
pub fn time(ns_since_1970: i64) -> String {
    let seconds = ns_since_1970.div_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. Years are counted from March on, so that the
/// day that leap years add is their last.
const fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468; // since 0000-03-01
    let era = days.div_euclid(146_097); // of 400 years
    let day = days.rem_euclid(146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153; // from March
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let january_or_february = month >= 10;
    let month = if january_or_february { month - 9 } else { month + 3 };
    (era * 400 + year + january_or_february as i64, month, day)
}

/// Kind and permission bits, as `ls -l` shows them.
pub fn mode(kind: Kind, mode: u16) -> String {
    let mut out = String::from(match kind {
        Kind::File => '-',
        Kind::Dir => 'd',
        Kind::Symlink => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::CharDevice => 'c',
        Kind::BlockDevice => 'b',
    });
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    out
}

/// A placement, as its options are written.
pub fn placement(row: &PlacementRow) -> String {
    let strict = if row.strict { " --strict" } else { "" };
    format!("--{} {}{strict}", row.policy, row.pools.join(","))
}

/// "1 file", "2 files".
pub fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// What it means by whom a mount serves a file.
pub fn served_by(by: ServedBy) -> &'static str {
    match by {
        ServedBy::Kernel => "by the kernel (a mapping is the device memory itself)",
        ServedBy::Daemon => "by the daemon, without a cache (shared mappings are refused)",
        ServedBy::Cache => "by the daemon, through the page cache (a mapping is a copy)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_words_cannot_take_over_a_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc\u{202e}d"), "a\\u{1b}[2Jb\\nc\\u{202e}d");
        assert_eq!(printable("/ä \\x9f"), "/ä \\x9f");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time(-1), "1969-12-31 23:59:59Z");
        assert_eq!(time(951_782_400_000_000_000), "2000-02-29 00:00:00Z");
        assert_eq!(time(1_735_689_599_999_999_999), "2024-12-31 23:59:59Z");
        assert_eq!(time(4_107_542_400_000_000_000), "2100-03-01 00:00:00Z");
    }

    #[test]
    fn modes_look_as_in_ls() {
        assert_eq!(mode(Kind::File, 0o644), "-rw-r--r--");
        assert_eq!(mode(Kind::Dir, 0o1777), "drwxrwxrwt");
        assert_eq!(mode(Kind::File, 0o6754), "-rwsr-sr--");
        assert_eq!(mode(Kind::File, 0o7000), "---S--S--T");
    }

    #[test]
    fn a_pace_is_a_time_and_a_rate() {
        assert_eq!(pace(3_000_000_000, 1_500_000_000), "1.5 s, 2 GB/s");
        assert_eq!(pace(1, 0), "0 ns, 1 GB/s");
    }
}
