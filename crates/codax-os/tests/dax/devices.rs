//! Devices in devdax mode.
#![forbid(unsafe_code)]

use crate::setting::{self, Helper, Sleeper, pattern, turn};
use codax_os::area::{self, Area, Region};
use codax_os::copy::{Piece, SourceMap};
use codax_os::dax::{DaxDevice, OpenError};
use codax_os::durable;
use codax_os::object;
use codax_os::process::{self, Hold};
use codax_os::uffd::{Event, Uffd};
use std::collections::HashSet;
use std::path::Path;

const UNIT: usize = 2 << 20;
const UNITS: u64 = UNIT as u64;

fn on_each(test: &str, run: impl Fn(&DaxDevice)) {
    let _turn = turn();
    for variable in ["CODAX_TEST_DEVDAX", "CODAX_TEST_HMEM"] {
        if let Some(device) = setting::device(variable, test) {
            run(&device);
        }
    }
}

#[test]
fn a_device_says_what_it_is() {
    let _turn = turn();
    for (variable, persistent) in [("CODAX_TEST_DEVDAX", true), ("CODAX_TEST_HMEM", false)] {
        let Some(device) = setting::device(variable, "a_device_says_what_it_is") else { continue };
        assert_eq!((device.persistent(), device.align()), (persistent, UNITS));
        assert!(device.len() > 64 << 20 && device.len().is_multiple_of(UNITS), "{device:?}");
        assert!(device.name().starts_with("dax") && device.target_node().is_some(), "{device:?}");
        assert_eq!(device.bad_blocks().unwrap(), []);
        device.lock().unwrap();
        let other = DaxDevice::open(device.path(), false).unwrap();
        assert!(matches!(other.lock(), Err(OpenError::Busy(name)) if name == device.name()));
        drop(device);
        other.lock().unwrap();
    }
}

#[test]
fn what_is_written_is_read_by_whoever_maps_it() {
    on_each("what_is_written_is_read_by_whoever_maps_it", |device| {
        let map = device.map(3 << 20, 4 << 20).unwrap();
        assert!(map.sync(), "a device takes MAP_SYNC");
        assert_eq!((map.start(), map.len()), (UNITS, 3 * UNITS), "widened to whole units");
        let bytes = pattern(device.len(), 3_000_001);
        let at = (3 << 20) + 77;
        assert_eq!(map.write(at, &bytes).unwrap(), bytes.len());
        map.persist(at, bytes.len() as u64).unwrap();
        let read_only = DaxDevice::open(device.path(), false).unwrap().map(0, device.len()).unwrap();
        let mut back = vec![0; bytes.len()];
        assert_eq!(read_only.read(at, &mut back).unwrap(), bytes.len());
        assert!(back == bytes);
        assert_eq!(read_only.write(at, &bytes).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        assert_eq!(map.zero(at + 100, 700_000).unwrap(), 700_000);
        read_only.read(at, &mut back).unwrap();
        assert!(back[..100] == bytes[..100] && back[700_100..] == bytes[700_100..]);
        assert!(back[100..700_100].iter().all(|byte| *byte == 0));
        assert_eq!(read_only.unreadable(0, 16 << 20).unwrap(), []);
        assert!(map.read(0, &mut back).is_err() && device.map(device.len(), 1).is_err());
        assert!(read_only.read(device.len() - 1, &mut back[..1]).is_ok());
    });
}

#[test]
fn pieces_are_copied_as_if_they_lay_side_by_side() {
    on_each("pieces_are_copied_as_if_they_lay_side_by_side", |device| {
        let map = device.map(0, 64 << 20).unwrap();
        let bytes = pattern(5, 4 * UNIT);
        let places = [10 * UNITS, 4 * UNITS, 5 * UNITS, 12 * UNITS];
        for (part, place) in bytes.chunks(UNIT).zip(places) {
            assert_eq!(map.write(place, part).unwrap(), UNIT);
        }
        let piece =
            |(i, fd_off): (usize, u64)| Piece { at: i as u64 * UNITS, fd: device, fd_off, len: UNITS };
        let mut pieces: Vec<_> = places.into_iter().enumerate().map(piece).collect();
        let source = SourceMap::of_pieces(&pieces).unwrap();
        let object = tempfile::tempfile_in("/dev/shm").unwrap();
        assert_eq!(source.copy_to(4096, 3 * UNITS, &object).unwrap(), 3 * UNITS);
        let mut back = vec![0; 4 * UNIT];
        assert_eq!(object::read_at(&object, &mut back, 0).unwrap(), 3 * UNIT + 4096);
        assert!(back[4096..3 * UNIT + 4096] == bytes[4096..3 * UNIT + 4096]);
        assert_eq!(map.copy_from(20 * UNITS + 5, &source, 3, 2 * UNITS).unwrap(), 2 * UNITS);
        map.read(20 * UNITS + 5, &mut back[..2 * UNIT]).unwrap();
        assert!(back[..2 * UNIT] == bytes[3..2 * UNIT + 3]);
        assert_eq!(map.copy_to(12 * UNITS + 1, 1000, &object, 17).unwrap(), 1000);
        object::read_at(&object, &mut back[..1000], 17).unwrap();
        assert!(back[..1000] == bytes[3 * UNIT + 1..][..1000]);

        pieces.remove(1);
        let source = SourceMap::of_pieces(&pieces).unwrap();
        assert_eq!(source.copy_to(0, 3 * UNITS, &object).unwrap(), UNITS, "up to what isn't there");
        assert_eq!(source.read(UNITS - 7, &mut back[..100]).unwrap(), 7);
        assert_eq!(source.copy_to(2 * UNITS, UNITS, &object).unwrap(), UNITS);
    });
}

/// The steps of a live move, to and from a device: a duplicate, a placeholder, another mapping over it.
#[test]
fn a_region_changes_between_a_device_and_an_object() {
    on_each("a_region_changes_between_a_device_and_an_object", |device| {
        let region = Region::reserve_in(4 * UNIT, 0, UNIT).unwrap();
        assert!(area::takes_sync(device, true).unwrap());
        region.place_sync(0, 4 * UNIT, device, 6 * UNITS, true, true).unwrap();
        let memory = region.memory();
        (0..4).for_each(|i| memory.store_u64(i * UNIT + 8, 100 + i as u64));
        durable::range(memory, true).unwrap();

        let duplicate = Area::duplicate(&region, UNIT, 2 * UNIT).unwrap();
        duplicate.populate(0, 2 * UNIT, true).unwrap();
        let source =
            SourceMap::of_pieces(&[Piece { at: 0, fd: device, fd_off: 7 * UNITS, len: 2 * UNITS }]).unwrap();
        let mut word = [0; 8];
        source.read(8, &mut word).unwrap();
        assert_eq!(u64::from_le_bytes(word), 101);

        // Out: a placeholder over a part, and the object over it.
        let (uffd, _) = Uffd::new(None).unwrap();
        assert!(uffd.register_wp(region.base(), UNIT).is_err(), "writers are kept out by placeholders alone");
        let stop = codax_os::event::new().unwrap();
        let object = tempfile::tempfile_in("/dev/shm").unwrap();
        object.set_len(2 * UNITS).unwrap();
        assert_eq!(source.copy_to(0, 2 * UNITS, &object).unwrap(), 2 * UNITS);
        let staged = Area::object(&object, 0, 2 * UNIT, true).unwrap();
        let back = Area::object(device, 7 * UNITS, 2 * UNIT, true).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| while !matches!(uffd.next_event(&stop).unwrap(), Event::Stopped) {});
            let place = |from: &Area| {
                let placeholder = Area::placeholder(&uffd, 2 * UNIT).unwrap();
                placeholder.move_over(0, 2 * UNIT, &region, UNIT).unwrap();
                from.move_over(0, 2 * UNIT, &region, UNIT).unwrap();
                uffd.wake(region.base() + UNIT, 2 * UNIT).unwrap();
            };
            place(&staged);
            assert_eq!((memory.load_u64(UNIT + 8), memory.load_u64(2 * UNIT + 8)), (101, 102));
            memory.store_u64(UNIT + 8, 7);
            source.read(8, &mut word).unwrap();
            assert_eq!(u64::from_le_bytes(word), 101, "stores go to the object");
            // And back.
            place(&back);
            assert_eq!((memory.load_u64(UNIT + 8), memory.load_u64(2 * UNIT + 8)), (101, 102));
            memory.store_u64(UNIT + 8, 8);
            source.read(8, &mut word).unwrap();
            assert_eq!(u64::from_le_bytes(word), 8, "stores go to the device");
            // A duplicate over a part.
            duplicate.duplicate_over(UNIT, UNIT, &region, 0).unwrap();
            assert_eq!(memory.load_u64(8), 102);
            codax_os::event::signal(&stop).unwrap();
        });
        drop((region, duplicate, staged, back));
        assert_eq!(object::char_device(device).unwrap(), Some(device.id().number));
    });
}

/// Not a test by itself: the process that maps a part of a device, has closed it, and waits.
#[test]
fn child_that_maps() {
    let Some((path, off, len)) = setting::errand() else { return };
    let device = DaxDevice::open(&path, true).unwrap();
    let map = device.map(off, len).unwrap();
    drop(device);
    setting::ready();
    drop(map);
}

#[test]
fn who_maps_a_device_is_found_with_the_range() {
    on_each("who_maps_a_device_is_found_with_the_range", |device| {
        let id = device.id();
        let what = |path: &Path| format!("{} {} {}", path.display(), 4 * UNITS, 2 * UNITS);
        let mapped = Hold::Mapped { off: 4 * UNITS, len: 2 * UNITS, writable: true };
        let child = Helper::start("devices::child_that_maps", &what(device.path()));
        let found = process::holders(&HashSet::from([(id.dev, id.ino)])).unwrap();
        assert!(found.iter().all(|held| held.pid == child.pid() && held.what == mapped), "{found:?}");
        assert_eq!(found.len(), 1);
        assert_eq!(process::holders_of_device(id.number, (id.dev, id.ino)).unwrap(), found);

        // By another node of the device.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let node = dir.path().join("a node");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, &node, kind, mode, id.number).unwrap();
        let other = Helper::start("devices::child_that_maps", &what(&node));
        let found = process::holders_of_device(id.number, (id.dev, id.ino)).unwrap();
        let pids: HashSet<_> = found.iter().map(|held| held.pid).collect();
        assert_eq!(pids, HashSet::from([child.pid(), other.pid()]));
        assert!(found.len() == 2 && found.iter().all(|held| held.what == mapped), "{found:?}");
    });
}

/// A device that anybody may open shows what descriptors are found by.
#[test]
fn who_has_a_device_open_is_found() {
    let zero = std::fs::File::open("/dev/zero").unwrap();
    let number = object::char_device(&zero).unwrap().unwrap();
    let stat = object::stat(&zero).unwrap();
    let child = Sleeper::start(zero);
    let found = process::holders_of_device(number, (stat.dev, stat.ino)).unwrap();
    let mine = found.into_iter().find(|held| held.pid == child.pid()).unwrap();
    assert_eq!((mine.what, mine.command.as_str()), (Hold::Descriptor, "sleep"));
    assert_eq!((mine.dev, mine.ino), (stat.dev, stat.ino));
}
