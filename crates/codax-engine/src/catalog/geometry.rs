//! Where on a device superblocks, catalogs and data are.
//!
//! ```text
//! 0            copy                                device - copy        device
//! | copy 0     | data: whole units                 | (less than a unit) | copy 1     |
//!   superblock, half 0, half 1, (rest)                                    half 0, half 1, (rest), superblock
//! ```
//!
//! Both superblocks are found without knowing more than the device's length: the first is its first 4096 bytes, the second its last.
//! On an fsdax the two copies are the files `catalog.0` and `catalog.1`, each laid out as above, and data is elsewhere.
//!
//! What lies between a copy's second half and its end, so that data begins at a unit, is not used.

use super::half::HALF_HEADER;
use super::superblock::SUPERBLOCK_BYTES;
use codax_core::units::format_size;
use codax_core::{Error, PAGE_SIZE, Result};

/// The least bytes of a half: together with the superblock two of them fit into 2 MiB, the usual unit.
pub const HALF_MIN: u64 = (1 << 20) - PAGE_SIZE;

/// Bytes that a half has for each group of data: about as much as a file of its own takes, with a name of 32 bytes and two extents.
pub const GROUP_BYTES: u64 = 256;

/// A group of data is a unit, but no less than this: where units are smaller, files are expected to have so many bytes on average. Thus the
/// four halves take one byte in 256 at most.
pub const GROUP_MIN: u64 = 256 << 10;

/// The least unit.
pub const UNIT_MIN: u64 = PAGE_SIZE;
/// The largest unit.
pub const UNIT_MAX: u64 = 1 << 30;

/// The longest device: offsets are signed in the kernel's interfaces.
const DEVICE_MAX: u64 = i64::MAX as u64;

/// Where the parts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of the whole device; where data is elsewhere, of copies and data together.
    pub device_bytes: u64,
    /// What files have is a multiple of so many bytes, and begins at one.
    pub unit: u64,
    /// Bytes of a copy's area, a multiple of the unit: data begins behind the first.
    pub copy_bytes: u64,
    /// Bytes of a half of a catalog.
    pub half_bytes: u64,
    /// Number of frames of data.
    pub frames: u64,
}

impl Geometry {
    /// The geometry of a device of `device_bytes` whose units have `unit` bytes. `Invalid` where that makes no sense, or leaves no unit for data.
    pub fn of_device(device_bytes: u64, unit: u64) -> Result<Self> {
        check_unit(unit)?;
        if !device_bytes.is_multiple_of(unit) || device_bytes > DEVICE_MAX {
            return Err(Error::invalid(format!(
                "a device of {device_bytes} bytes is no multiple of its unit, {}, or too long",
                format_size(unit)
            )));
        }
        let (half_bytes, copy_bytes) = sizes(device_bytes, unit);
        let data = device_bytes.saturating_sub(2 * copy_bytes);
        if data == 0 {
            return Err(Error::invalid(format!(
                "a device of {} is too small: with units of {} it needs {} at least, of which {} are for two copies of the catalog",
                format_size(device_bytes),
                format_size(unit),
                format_size(2 * copy_bytes + unit),
                format_size(2 * copy_bytes)
            )));
        }
        Ok(Self { device_bytes, unit, copy_bytes, half_bytes, frames: data / PAGE_SIZE })
    }

    /// The geometry for data of `data_bytes` that lies elsewhere, with the copies beside it. `Invalid` where that makes no sense.
    pub fn beside(data_bytes: u64, unit: u64) -> Result<Self> {
        check_unit(unit)?;
        let (half_bytes, copy_bytes) = sizes(data_bytes.min(DEVICE_MAX), unit);
        let geometry = Self {
            device_bytes: data_bytes.saturating_add(2 * copy_bytes),
            unit,
            copy_bytes,
            half_bytes,
            frames: data_bytes / PAGE_SIZE,
        };
        geometry.check().map_err(|why| {
            Error::invalid(format!(
                "no pool can have {data_bytes} bytes in units of {}: {why}",
                format_size(unit)
            ))
        })?;
        Ok(geometry)
    }

    /// Whether the parts are whole, aligned and apart from each other; if not, why.
    pub fn check(&self) -> std::result::Result<(), &'static str> {
        let Self { device_bytes, unit, copy_bytes, half_bytes, frames } = *self;
        if check_unit(unit).is_err() {
            return Err("its unit is none");
        }
        if frames == 0 || device_bytes > DEVICE_MAX || !device_bytes.is_multiple_of(unit) {
            return Err("its size is none");
        }
        if half_bytes == 0 || !half_bytes.is_multiple_of(PAGE_SIZE) || !copy_bytes.is_multiple_of(unit) {
            return Err("its catalog is of no size");
        }
        let copy_used =
            half_bytes.checked_mul(2).and_then(|halves| halves.checked_add(SUPERBLOCK_BYTES as u64));
        if copy_used.is_none_or(|used| used > copy_bytes) {
            return Err("its catalog is larger than its place");
        }
        let bytes = frames.checked_mul(PAGE_SIZE).filter(|bytes| bytes.is_multiple_of(unit));
        let end = copy_bytes.checked_mul(2).zip(bytes).and_then(|(copies, bytes)| copies.checked_add(bytes));
        if end.is_none_or(|end| end > device_bytes) {
            return Err("its parts overlap");
        }
        Ok(())
    }

    /// Where on the device the area of a copy (0 or 1) begins.
    #[must_use]
    pub const fn copy_at(&self, copy: usize) -> u64 {
        if copy == 0 { 0 } else { self.device_bytes - self.copy_bytes }
    }

    /// Where on the device data begins.
    #[must_use]
    pub const fn data_at(&self) -> u64 {
        self.copy_bytes
    }

    /// Where in the area of a copy its superblock is.
    #[must_use]
    pub const fn superblock_at(&self, copy: usize) -> u64 {
        superblock_at(copy, self.copy_bytes)
    }

    /// Where in the area of a copy a half (0 or 1) is.
    #[must_use]
    pub const fn half_at(&self, copy: usize, half: usize) -> u64 {
        let first = if copy == 0 { SUPERBLOCK_BYTES as u64 } else { 0 };
        first + if half == 0 { 0 } else { self.half_bytes }
    }
}

/// Where in the area of a copy, which has `len` bytes, its superblock is: at the outer end of the device.
pub(super) const fn superblock_at(copy: usize, len: u64) -> u64 {
    if copy == 0 { 0 } else { len.saturating_sub(SUPERBLOCK_BYTES as u64) }
}

fn check_unit(unit: u64) -> Result<()> {
    if !unit.is_power_of_two() || !(UNIT_MIN..=UNIT_MAX).contains(&unit) {
        return Err(Error::invalid(format!(
            "a unit of {unit} bytes is none: powers of two from {} to {} are",
            format_size(UNIT_MIN),
            format_size(UNIT_MAX)
        )));
    }
    Ok(())
}

/// Bytes of a half and of a copy, for so many bytes of data or a little more. What a unit leaves over is the halves'.
fn sizes(data_bytes: u64, unit: u64) -> (u64, u64) {
    let groups = data_bytes.div_ceil(unit.max(GROUP_MIN));
    let half = (groups * GROUP_BYTES).next_multiple_of(PAGE_SIZE).max(HALF_MIN);
    let superblock = SUPERBLOCK_BYTES as u64;
    let copy = (superblock + 2 * half).next_multiple_of(unit);
    ((copy - superblock) / 2 / PAGE_SIZE * PAGE_SIZE, copy)
}

const _: () = {
    assert!(SUPERBLOCK_BYTES as u64 == PAGE_SIZE && HALF_MIN.is_multiple_of(PAGE_SIZE));
    assert!(SUPERBLOCK_BYTES as u64 + 2 * HALF_MIN <= 2 << 20 && HALF_HEADER as u64 <= PAGE_SIZE);
    // No sum of sizes() is beyond 64 bits.
    assert!(DEVICE_MAX / GROUP_MIN * GROUP_BYTES < 1 << 62);
};
