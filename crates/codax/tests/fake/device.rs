//! Pool 1 as a device: real, or one that this process can't open, of which the fake has the bytes in objects.

use codax_core::request::{DeviceRun, OnDevice};
use codax_core::{FileId, PageRange, PoolId};
use codax_os::dax::{DaxDevice, DaxMap};
use std::path::Path;

/// Bytes that files have next to each other at most.
pub const UNIT: u64 = 2 << 20;

/// Units of a file.
const UNITS: u64 = 8;

pub struct Device {
    path: String,
    rdev: u64,
    map: Option<DaxMap>,
}

impl Device {
    /// One to be opened; its first bytes are overwritten.
    pub fn real(path: &Path) -> Self {
        let device = DaxDevice::open(path, true).unwrap();
        assert_eq!(device.align(), UNIT);
        let map = device.map(0, device.len()).unwrap();
        Self { path: path.to_str().unwrap().to_owned(), rdev: device.id().number, map: Some(map) }
    }

    /// One that isn't there.
    pub fn closed() -> Self {
        Self { path: "/dev/dax.none".to_owned(), rdev: 1, map: None }
    }

    pub fn is_real(&self) -> bool {
        self.map.is_some()
    }

    /// Where the byte of a file is: units in an order that has none after the one before it.
    fn at(file: FileId, offset: u64) -> u64 {
        let unit = offset / UNIT;
        assert!(unit < UNITS);
        (file.0 * UNITS + (UNITS - 1 - unit)) * UNIT + offset % UNIT
    }

    /// Where pages of a file are, whole units.
    pub fn place(&self, file: FileId, pages: &[PageRange]) -> OnDevice {
        let mut runs = Vec::new();
        for pages in pages.iter().map(|pages| pages.widened(UNIT / 4096)) {
            let mut at = pages.offset();
            while at < pages.offset() + pages.bytes() {
                runs.push(DeviceRun { pages: PageRange::of_bytes(at, UNIT), at: Self::at(file, at) });
                at += UNIT;
            }
        }
        OnDevice { pool: PoolId(1), path: self.path.clone(), rdev: self.rdev, runs }
    }

    pub fn read(&self, file: FileId, at: u64, bytes: &mut [u8]) {
        for (n, part) in bytes.chunks_mut(4096).enumerate() {
            let from = Self::at(file, at + n as u64 * 4096);
            assert_eq!(self.map.as_ref().unwrap().read(from, part).unwrap(), part.len());
        }
    }

    pub fn write(&self, file: FileId, at: u64, bytes: &[u8]) {
        for (n, part) in bytes.chunks(4096).enumerate() {
            let to = Self::at(file, at + n as u64 * 4096);
            assert_eq!(self.map.as_ref().unwrap().write(to, part).unwrap(), part.len());
        }
    }
}
