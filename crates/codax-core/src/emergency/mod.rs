//! The emergency use of a device: what its operator allows, and the decisions that follow from it, without a clock and without I/O.
//!
//! Inside the store, pages for `dram` that find no room there *spill* to devices that allow it, and go home when there is room again. For the rest of the system a
//! device that holds its node's memory *lends* some of it while memory is short.

mod alarm;
mod homing;
mod inode;
mod loan;
mod spill;

pub use alarm::{Alarm, CALM};
pub use homing::{HOLD, HOLD_MAX, Homing, margin};
pub use inode::{ATTRIBUTE, NEVER};
pub use loan::{Loan, LoanAction, LoanView, STEP_MIN};
pub use spill::{Offer, spill};

use crate::units::{exact_duration, exact_size, format_size, parse_duration, parse_size};
use crate::{Error, PAGE_SIZE, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What an operator allows of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emergency {
    /// How much of it, spilled and lent together.
    pub at_most: AtMost,
    /// When; `None` for whenever `dram` has no room.
    pub when: Option<When>,
}

/// A part of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtMost {
    /// So many bytes.
    Bytes(u64),
    /// So much of its capacity, up to 100.
    Percent(u8),
}

impl AtMost {
    /// All of it.
    pub const ALL: Self = Self::Percent(100);

    /// A size, or a part as `25%`.
    pub fn parse(text: &str) -> Result<Self> {
        let Some(number) = text.strip_suffix('%') else {
            let size = parse_size(text).map_err(|e| Error::invalid(format!("{e}, or a part, as in 25%")))?;
            return match size {
                ..PAGE_SIZE => Err(Error::invalid(format!(
                    "`{}` is less than a frame has, {}; emergency=never has a device never help out",
                    text.escape_debug(),
                    format_size(PAGE_SIZE)
                ))),
                size => Ok(Self::Bytes(size)),
            };
        };
        let percent = number.parse().ok().filter(|percent| (1..=100).contains(percent));
        percent.map(Self::Percent).ok_or_else(|| {
            Error::invalid(format!("`{}` is not a part of a device: give 1% to 100%", text.escape_debug()))
        })
    }

    /// In bytes, of a device of `capacity` bytes. `Invalid` for more than it has, or less than a frame.
    pub fn of(self, capacity: u64) -> Result<u64> {
        match self {
            Self::Bytes(bytes) if bytes > capacity => Err(Error::invalid(format!(
                "at_most: {} is more than the device has, {}",
                format_size(bytes),
                format_size(capacity)
            ))),
            Self::Bytes(bytes) => Ok(bytes),
            Self::Percent(percent) => {
                match capacity / 100 * u64::from(percent) + capacity % 100 * u64::from(percent) / 100 {
                    bytes @ ..PAGE_SIZE => Err(Error::invalid(format!(
                        "at_most: {percent}% of the device's {} are {bytes} bytes, less than a frame has, {}",
                        format_size(capacity),
                        format_size(PAGE_SIZE)
                    ))),
                    bytes => Ok(bytes),
                }
            }
        }
    }
}

impl fmt::Display for AtMost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => f.write_str(&format_size(*bytes)),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// What has to be so for a device to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Less memory than this is free to be had, in bytes.
    Free(u64),
    /// Processes have waited for memory for so long within so long, as the kernel counts it (PSI).
    Stall {
        /// Whether all that would have run had to wait at once; else at least one.
        full: bool,
        /// How long they waited.
        stall: Duration,
        /// Within which time.
        window: Duration,
    },
}

/// Between which bounds the kernel takes a window.
const WINDOW: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

impl When {
    /// `free:SIZE`, `some:STALL/WINDOW` or `full:STALL/WINDOW`.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::invalid(format!(
                "`{}` is not a condition{why}: there are free:SIZE, some:STALL/WINDOW and full:STALL/WINDOW, as free:512MiB or some:150ms/1s",
                text.escape_debug()
            ))
        };
        let (kind, rest) = text.split_once(':').ok_or_else(|| bad(""))?;
        if kind == "free" {
            return match parse_size(rest)? {
                0 => Err(bad(" (less than nothing is never free)")),
                bytes => Ok(Self::Free(bytes)),
            };
        }
        let full = match kind {
            "some" => false,
            "full" => true,
            _ => return Err(bad("")),
        };
        let (stall, window) = rest.split_once('/').ok_or_else(|| bad(""))?;
        let (stall, window) = (parse_duration(stall)?, parse_duration(window)?);
        if !(WINDOW.0..=WINDOW.1).contains(&window) {
            return Err(bad(" (the kernel takes windows of 500ms to 10s)"));
        }
        if stall.is_zero() || stall > window {
            return Err(bad(" (a stall is longer than nothing and no longer than its window)"));
        }
        Ok(Self::Stall { full, stall, window })
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Free(bytes) => write!(f, "free:{}", exact_size(*bytes)),
            Self::Stall { full, stall, window } => {
                let kind = if *full { "full" } else { "some" };
                write!(f, "{kind}:{}/{}", exact_duration(*stall), exact_duration(*window))
            }
        }
    }
}

/// What a device is allowed for an emergency, and what is so used of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmergencyInfo {
    /// Whether its operator allows it.
    pub allowed: bool,
    /// How many bytes, spilled and lent together.
    pub at_most: u64,
    /// On which condition, as it is configured; null for whenever `dram` has no room.
    pub when: Option<String>,
    /// Whether that is so now.
    pub pressed: bool,
    /// Why the condition can't be measured here, if it can't: the device behaves as if it were not allowed.
    pub unmeasured: Option<String>,
    /// Why nothing of it can be lent to the rest of the system, if it has a reserve for that and it can't.
    pub unlent: Option<String>,
    /// Bytes of files for `dram` that are here for want of room there.
    pub used: u64,
    /// Bytes that are lent to the rest of the system.
    pub lent: u64,
    /// Bytes of them that are wanted back, and that others still have.
    pub owed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_sizes_or_percent() {
        assert_eq!(AtMost::parse("64MiB"), Ok(AtMost::Bytes(64 << 20)));
        assert_eq!(AtMost::parse("25%"), Ok(AtMost::Percent(25)));
        assert_eq!(AtMost::parse("4096"), Ok(AtMost::Bytes(4096)));
        for bad in ["", "0", "4095", "0%", "101%", "%", "-1%", "1.5%", "some", "25 %"] {
            assert!(AtMost::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(AtMost::Percent(25).of(4096 * 10), Ok(10_240));
        assert_eq!(AtMost::ALL.of(u64::MAX), Ok(u64::MAX));
        assert_eq!(AtMost::Bytes(5).of(5), Ok(5));
        assert_eq!(AtMost::Percent(1).of(100 * 4096), Ok(4096));
        let less = AtMost::Percent(1).of(100 * 4096 - 1).unwrap_err();
        assert_eq!(
            less.message,
            "at_most: 1% of the device's 400 KiB are 4095 bytes, less than a frame has, 4 KiB"
        );
        let more = AtMost::Bytes(2 << 30).of(1 << 30).unwrap_err();
        assert_eq!(more.message, "at_most: 2 GiB is more than the device has, 1 GiB");
    }

    #[test]
    fn conditions_are_read_as_they_are_written() {
        let stall = |full, stall, window| When::Stall {
            full,
            stall: Duration::from_millis(stall),
            window: Duration::from_millis(window),
        };
        for (text, when) in [
            ("free:512MiB", When::Free(512 << 20)),
            ("some:150ms/1s", stall(false, 150, 1000)),
            ("full:1s/10s", stall(true, 1000, 10_000)),
        ] {
            assert_eq!(When::parse(text), Ok(when), "{text}");
            assert_eq!(When::parse(&when.to_string()), Ok(when), "{when}");
        }
        for bad in [
            "",
            "free",
            "free:",
            "free:0",
            "free:x",
            "some:1s",
            "some:2s/1s",
            "some:0s/1s",
            "full:1ms/100ms",
            "full:1s/11s",
            "half:1s/2s",
        ] {
            let error = When::parse(bad).unwrap_err().message;
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
