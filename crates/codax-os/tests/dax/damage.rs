//! Damage that the kernel makes on request: poisoned pages, bad blocks, and a device whose driver goes.
#![forbid(unsafe_code)]

use crate::raw;
use crate::setting::{self, Helper, named, skip, turn};
use codax_os::area::{Area, Region};
use codax_os::copy::SourceMap;
use codax_os::dax::{DaxDevice, DaxMap, OpenError};
use codax_os::guard::Guard;
use codax_os::topology::SYSFS;
use codax_os::{durable, filesystem, object};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

const UNIT: usize = 2 << 20;
const UNITS: u64 = UNIT as u64;

/// Whether the machine may be damaged until the next boot; else the test is skipped.
fn may_damage(test: &str) -> bool {
    let may = std::env::var_os("CODAX_TEST_DAMAGE").is_some();
    if !may {
        skip(test, "CODAX_TEST_DAMAGE doesn't allow it");
    }
    may
}

/// Not a test by itself: the process that poisons a page, and may end by the signal for it.
#[test]
fn child_that_poisons() {
    let Some((path, off, len)) = setting::errand() else { return };
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let base = off / UNITS * UNITS;
    let area = Area::object(&file, base, UNIT, true).unwrap();
    area.populate(0, UNIT, true).unwrap();
    raw::poison(area.base() + usize::try_from(off - base).unwrap(), usize::try_from(len).unwrap()).unwrap();
}

/// Poisons the page at `off` of what `map` maps, and looks at it from here, where it may be no signal. Returns whether it can't be read any more: of memory
/// that is mapped without the page cache a kernel may map the page again, if nothing but this call says that it is poisoned.
fn is_lost_by_poison(path: &Path, map: &DaxMap, off: u64) -> bool {
    let mut bytes = vec![1; 3 * 4096];
    assert_eq!(map.write(off - 4096, &bytes).unwrap(), bytes.len());
    drop(Helper::start("damage::child_that_poisons", &format!("{} {off} 4096", path.display())));
    let read = map.read(off - 4096, &mut bytes).unwrap();
    let unreadable = map.unreadable(off - 8192, 16_384).unwrap();
    let written = map.write(off - 4096, &bytes).unwrap();
    if unreadable.is_empty() {
        assert_eq!((read, written), (bytes.len(), bytes.len()));
    } else {
        assert_eq!((read, unreadable, written), (4096, vec![(off, 4096)], 4096));
    }
    read == 4096
}

fn new_file(dir: &Path) -> (PathBuf, File) {
    let path = dir.join("object");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    object::set_len(&file, 2 * UNITS).unwrap();
    object::allocate(&file, 0, 2 * UNITS).unwrap();
    (path, file)
}

#[test]
fn a_poisoned_page_is_a_short_count() {
    const NAME: &str = "a_poisoned_page_is_a_short_count";
    let _turn = turn();
    if !may_damage(NAME) {
        return;
    }
    let off = UNITS + 5 * 4096;
    for (variable, always) in [("", true), ("CODAX_TEST_FSDAX", false)] {
        let dir = if always { Some("/dev/shm".into()) } else { named(variable, NAME) };
        let Some(dir) = dir.map(|dir: PathBuf| tempfile::tempdir_in(dir).unwrap()) else { continue };
        let (path, file) = new_file(dir.path());
        let map = DaxMap::new(&file, 0, 2 * UNITS, true).unwrap();
        let lost = is_lost_by_poison(&path, &map, off);
        println!("{}: {}", dir.path().display(), if lost { "lost" } else { "mapped again" });
        assert!(lost || !always);
        let target = tempfile::tempfile_in("/dev/shm").unwrap();
        let copied = SourceMap::new(&file, 2 * UNITS).unwrap().copy_to(0, 2 * UNITS, &target).unwrap();
        assert_eq!(copied, if lost { off } else { 2 * UNITS });
        let region = Region::reserve(2 * UNIT).unwrap();
        region.place(0, 2 * UNIT, &file, 0, false).unwrap();
        let at = usize::try_from(off).unwrap();
        // Where the kernel says that the page is may lie before what is looked at.
        let (guard, page) = (Guard::install().unwrap(), region.memory().part(at, 4096));
        for view in [page, page.part(100, 64), page.part(4000, 96)] {
            assert_eq!(raw::can_look(guard, view), !lost);
        }
        assert!(raw::can_look(guard, region.memory().part(0, at)));
    }
    for variable in ["CODAX_TEST_DEVDAX", "CODAX_TEST_HMEM"] {
        let Some(device) = setting::device(variable, NAME) else { continue };
        let map = device.map(0, device.len()).unwrap();
        let lost = is_lost_by_poison(device.path(), &map, device.len() - 2 * UNITS + 7 * 4096);
        println!("{}: {}", device.name(), if lost { "lost" } else { "mapped again" });
    }
}

#[test]
fn a_bad_block_under_a_file_is_a_short_count() {
    const NAME: &str = "a_bad_block_under_a_file_is_a_short_count";
    let _turn = turn();
    if !may_damage(NAME) {
        return;
    }
    let Some(dir) = named("CODAX_TEST_FSDAX", NAME) else { return };
    let file = tempfile::tempfile_in(&dir).unwrap();
    let bytes = vec![3; 2 * UNIT];
    object::write_all_at(&file, &bytes, 0).unwrap();
    let disk = filesystem::of(&dir).unwrap().disk.unwrap();
    let off = UNITS + 9 * 4096;
    let (physical, _) = raw::place_on_disk(&file, off).unwrap();
    let list = Path::new(SYSFS).join("class/block").join(&disk).join("badblocks");
    std::fs::write(&list, format!("{} 8\n", physical / 512)).unwrap();
    assert_eq!(std::fs::read_to_string(&list).unwrap().trim(), format!("{} 8", physical / 512));

    let map = DaxMap::new(&file, 0, 2 * UNITS, true).unwrap();
    let mut back = vec![0; 2 * UNIT];
    let before = usize::try_from(off).unwrap();
    assert_eq!(map.read(0, &mut back).unwrap(), before);
    assert!(back[..before] == bytes[..before]);
    assert_eq!(map.unreadable(0, 2 * UNITS).unwrap(), [(off, 4096)]);
    assert_eq!(map.write(off - 10, &[1; 100]).unwrap(), 10);
    assert!(map.persist(off - 10, 20).is_err());
    let source = SourceMap::new(&file, 2 * UNITS).unwrap();
    let target = tempfile::tempfile_in("/dev/shm").unwrap();
    assert_eq!(source.copy_to(0, 2 * UNITS, &target).unwrap(), off);
    let after = off + 4096;
    assert_eq!(source.copy_to(after, 2 * UNITS - after, &target).unwrap(), 2 * UNITS - after);
    assert!(object::read_at(&file, &mut back, 0).is_err(), "read(2) is an error from the beginning");
}

/// Gives a device back to its driver.
struct Rebound<'a>(&'a str);

impl Drop for Rebound<'_> {
    fn drop(&mut self) {
        let _ = std::fs::write("/sys/bus/dax/drivers/device_dax/bind", self.0);
    }
}

#[test]
fn a_device_that_goes_is_a_short_count() {
    const NAME: &str = "a_device_that_goes_is_a_short_count";
    let _turn = turn();
    if !may_damage(NAME) {
        return;
    }
    let Some(device) = setting::device("CODAX_TEST_HMEM", NAME) else { return };
    let (name, path) = (device.name().to_owned(), device.path().to_owned());
    // Given back last: a kernel that gets a device back that somebody holds doesn't let it be opened again.
    let _rebound = Rebound(&name);
    let device = device;
    let map = device.map(0, 8 * UNITS).unwrap();
    let region = Region::reserve(2 * UNIT).unwrap();
    region.place_sync(0, 2 * UNIT, &device, 0, true, true).unwrap();
    assert_eq!(map.write(0, &[5; 4096]).unwrap(), 4096);
    durable::range(region.memory().part(0, 4096), true).unwrap();
    std::fs::write("/sys/bus/dax/drivers/device_dax/unbind", &name).unwrap();
    let mut bytes = [0; 100];
    assert_eq!(map.read(0, &mut bytes).unwrap(), 0);
    assert_eq!(map.write(0, &bytes).unwrap(), 0);
    assert_eq!(map.unreadable(0, UNITS).unwrap(), [(0, UNITS)]);
    assert_eq!(region.memory().copy_out(0, &mut bytes).unwrap(), 0);
    assert!(map.persist(0, 4096).is_err() && device.map(0, UNITS).is_err());
    let error = DaxDevice::open(&path, true).unwrap_err();
    assert!(matches!(error, OpenError::Unbound(_)), "{error}");
}
