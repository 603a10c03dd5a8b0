//! What the kernel knows to be unreadable: the bad blocks of NVDIMMs, which it has from their firmware and from machine checks.
//!
//! A list is lines of `SECTOR COUNT`, in sectors of 512 bytes. A region of NVDIMMs has one; a DAX device has none of its own, so the region's is cut to where it lies. Memory that isn't persistent has none.
#![forbid(unsafe_code)]

use super::dax::DEVICES;
use super::reader::{Reader, plain_number};
use std::io;
use std::path::{Path, PathBuf};

/// Length of a sector.
const SECTOR: u64 = 512;

/// The bad ranges (offset, length in bytes) of a DAX device, by its name, as far as the kernel knows any; none of a device that isn't persistent.
/// `PermissionDenied` where there are some and only root may know where the device lies among them.
pub fn bad_blocks_of_dax(root: &Path, name: &str) -> io::Result<Vec<(u64, u64)>> {
    let sys = Reader::new(root);
    let found = of_dax(&sys, name);
    told(sys, found)
}

/// What was found, if all that was looked at made sense.
fn told(sys: Reader<'_>, found: Option<Vec<(u64, u64)>>) -> io::Result<Vec<(u64, u64)>> {
    if let Some(garbled) = sys.into_garbled().into_iter().next() {
        let line = format!("{} says {:?}", garbled.path.display(), garbled.says);
        return Err(io::Error::new(io::ErrorKind::InvalidData, line));
    }
    found.ok_or_else(|| {
        io::Error::new(io::ErrorKind::PermissionDenied, "sysfs doesn't say where the device lies")
    })
}

fn of_dax(sys: &Reader<'_>, name: &str) -> Option<Vec<(u64, u64)>> {
    let Some(device) = sys.real(&format!("{DEVICES}/{name}")) else { return Some(Vec::new()) };
    let Some(region) = device.ancestors().find(|dir| is_region(dir)) else { return Some(Vec::new()) };
    let bad = sys.blocks(&below(region, "badblocks"))?;
    if bad.is_empty() {
        return Some(bad);
    }
    let start: u64 = sys.number(&below(&device, "resource"))?;
    let skip = start.checked_sub(sys.number(&below(region, "resource"))?)?;
    Some(cut(&bad, skip, sys.number(&below(&device, "size"))?))
}

/// Whether a directory is that of a region of NVDIMMs.
fn is_region(dir: &Path) -> bool {
    let number = dir.file_name().and_then(|name| name.to_str()?.strip_prefix("region"));
    number.is_some_and(|number| !number.is_empty() && plain_number(number).is_some())
        && dir.join("badblocks").exists()
}

fn below(dir: &Path, name: &str) -> String {
    // Names in sysfs are ASCII; a tree that has others isn't one.
    PathBuf::from(dir).join(name).to_string_lossy().into_owned()
}

/// The ranges as they are in a part that begins `skip` bytes later and is `len` bytes long.
fn cut(bad: &[(u64, u64)], skip: u64, len: u64) -> Vec<(u64, u64)> {
    let inside = |&(off, count): &(u64, u64)| {
        let from = off.saturating_sub(skip);
        let to = off.saturating_add(count).saturating_sub(skip).min(len);
        (from < to).then(|| (from, to - from))
    };
    bad.iter().filter_map(inside).collect()
}

/// The ranges in bytes, in order, of lines `SECTOR COUNT`; `None` if it is no such list.
pub(super) fn parse(text: &str) -> Option<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (sector, count) = line.split_once(' ')?;
        let bytes = |digits: &str| plain_number(digits)?.checked_mul(SECTOR);
        found.push((bytes(sector)?, bytes(count)?));
    }
    found.sort_unstable();
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_in_order_and_no_other_is() {
        assert_eq!(parse(""), Some(vec![]));
        assert_eq!(parse("16 8\n\n1 1\n"), Some(vec![(512, 512), (8192, 4096)]));
        for bad in ["16", "16 -8", "a 8", "1 2 3", "18446744073709551615 1"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn ranges_are_cut_to_the_part() {
        let bad = [(0, 100), (1000, 100), (1990, 100), (3000, 1)];
        assert_eq!(cut(&bad, 50, 1950), [(0, 50), (950, 100), (1940, 10)]);
        assert_eq!(cut(&bad, 0, 0), []);
    }
}
