//! Files: on a DAX filesystem where there is one, and on the others that every machine has.
#![forbid(unsafe_code)]

use crate::setting::{self, pattern, turn};
use codax_os::area::{self, Area, Region};
use codax_os::copy::{Piece, SourceMap};
use codax_os::dax::DaxMap;
use codax_os::durable;
use codax_os::filesystem;
use codax_os::object::{self, ObjectDir};
use codax_os::uffd::{Event, Uffd};
use std::path::{Path, PathBuf};

const UNIT: usize = 2 << 20;
const UNITS: u64 = UNIT as u64;

/// Directories on tmpfs, on whatever has the usual place for such files, and on the DAX filesystem if there is one.
fn directories(test: &str) -> Vec<PathBuf> {
    let usual = [PathBuf::from("/dev/shm"), std::env::temp_dir()];
    usual.into_iter().chain(setting::named("CODAX_TEST_FSDAX", test)).collect()
}

/// A file without a name, of `units` units that take memory.
fn file_in(dir: &Path, units: u64) -> std::fs::File {
    let file = tempfile::tempfile_in(dir).unwrap();
    file.set_len(units * UNITS).unwrap();
    object::allocate(&file, 0, units * UNITS).unwrap();
    file
}

#[test]
fn a_mapped_file_is_copied_by_the_kernel() {
    let _turn = turn();
    for dir in directories("a_mapped_file_is_copied_by_the_kernel") {
        let file = file_in(&dir, 2);
        let map = DaxMap::new(&file, 5000, 3_000_000, true).unwrap();
        assert_eq!((map.start(), map.sync()), (4096, filesystem::of(&dir).unwrap().dax));
        let bytes = pattern(9, 2_000_000);
        assert_eq!(map.write(6000, &bytes).unwrap(), bytes.len());
        map.persist(6000, 2_000_000).unwrap();
        let mut back = vec![1; bytes.len()];
        assert_eq!(object::read_at(&file, &mut back, 6000).unwrap(), bytes.len());
        assert!(back == bytes);
        assert_eq!(map.zero(6000, 300_001).unwrap(), 300_001);
        assert_eq!(map.read(6000, &mut back).unwrap(), bytes.len());
        assert!(back[..300_001].iter().all(|b| *b == 0) && back[300_001..] == bytes[300_001..]);
        // Cut under the mapping: what a load would die of is a short count.
        file.set_len(8192).unwrap();
        assert_eq!(map.read(6000, &mut back).unwrap(), 8192 - 6000);
        assert_eq!(map.write(8190, &bytes).unwrap(), 2);
        assert_eq!(map.zero(8000, 10_000).unwrap(), 192);
        assert_eq!(map.unreadable(4096, 20_000).unwrap(), [(8192, 20_000 - 4096)]);
        let target = tempfile::tempfile_in("/dev/shm").unwrap();
        assert_eq!(map.copy_to(5000, 10_000, &target, 3).unwrap(), 8192 - 5000);
        if map.sync() {
            assert!(map.persist(6000, 100_000).is_err(), "there is nothing to make durable");
        }
        assert!(map.read(0, &mut back[..1]).is_err(), "before what is mapped");
    }
}

#[test]
fn pieces_of_files_are_one_source() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (one, two) = (file_in(dir.path(), 2), file_in(dir.path(), 1));
    let (first, second) = (pattern(1, 2 * UNIT), pattern(2, UNIT));
    object::write_all_at(&one, &first, 0).unwrap();
    object::write_all_at(&two, &second, 0).unwrap();
    let pieces = [
        Piece { at: 8192, fd: &two, fd_off: 4096, len: 8192 },
        Piece { at: 0, fd: &one, fd_off: UNITS, len: 8192 },
        Piece { at: 20_480, fd: &one, fd_off: 0, len: 4096 },
    ];
    let source = SourceMap::of_pieces(&pieces).unwrap();
    let wanted = [&first[UNIT..UNIT + 8192], &second[4096..12_288]].concat();
    let mut back = vec![0; 30_000];
    assert_eq!(source.read(0, &mut back[..20_000]).unwrap(), 16_384);
    assert!(back[..16_384] == wanted);
    assert_eq!(source.read(20_481, &mut back[..4095]).unwrap(), 4095);
    assert!(back[..4095] == first[1..4096]);
    assert!(source.read(20_481, &mut back[..4096]).is_err());
    let target = file_in(dir.path(), 1);
    let map = DaxMap::new(&target, 0, UNITS, true).unwrap();
    assert_eq!(map.copy_from(11, &source, 1, 20_000).unwrap(), 16_383);
    map.read(11, &mut back[..16_383]).unwrap();
    assert!(back[..16_383] == wanted[1..]);
    assert_eq!(source.copy_to(8192, 8192, &target).unwrap(), 8192);
    let none: [Piece<&std::fs::File>; 0] = [];
    assert!(SourceMap::of_pieces(&none).is_err());
    assert!(SourceMap::of_pieces(&[Piece { at: 1, fd: &one, fd_off: 0, len: 4096 }]).is_err());
}

#[test]
fn a_dax_filesystem_says_so() {
    let _turn = turn();
    let Some(dir) = setting::named("CODAX_TEST_FSDAX", "a_dax_filesystem_says_so") else { return };
    let found = filesystem::of(&dir).unwrap();
    assert!(found.dax && found.persistent, "{found:?}");
    assert!(["ext4", "xfs"].contains(&found.name.as_str()), "{found:?}");
    assert!(area::takes_sync(tempfile::tempfile_in(&dir).unwrap(), true).unwrap());
    let disk = found.disk.unwrap();
    assert!(disk.starts_with("pmem"), "{disk}");
    let list = Path::new(codax_os::topology::SYSFS).join("class/block").join(&disk).join("badblocks");
    assert_eq!(std::fs::read_to_string(list).unwrap(), "");
}

#[test]
fn leases_work_on_a_dax_filesystem() {
    let _turn = turn();
    let Some(dir) = setting::named("CODAX_TEST_FSDAX", "leases_work_on_a_dax_filesystem") else { return };
    let dir = tempfile::tempdir_in(dir).unwrap();
    let objects = ObjectDir::open(dir.path()).unwrap();
    let file = objects.create("a", UNITS).unwrap();
    object::allocate(&file, 0, UNITS).unwrap();
    assert!(object::try_write_lease(&file).unwrap());
    object::drop_lease(&file).unwrap();
    let map = {
        let other = objects.open_object("a", true).unwrap();
        DaxMap::new(&other, 0, UNITS, true).unwrap()
    };
    assert!(!object::try_write_lease(&file).unwrap(), "a mapping holds it");
    drop(map);
    assert!(object::try_write_lease(&file).unwrap());
}

/// The steps of a live move between a file and an object.
#[test]
fn a_region_changes_between_a_file_and_an_object() {
    let _turn = turn();
    for dir in directories("a_region_changes_between_a_file_and_an_object") {
        let file = file_in(&dir, 4);
        let region = Region::reserve(4 * UNIT).unwrap();
        let sync = area::takes_sync(&file, true).unwrap();
        assert_eq!(sync, filesystem::of(&dir).unwrap().dax);
        region.place_sync(0, 4 * UNIT, &file, 0, true, sync).unwrap();
        let memory = region.memory();
        (0..4).for_each(|i| memory.store_u64(i * UNIT + 8, 100 + i as u64));
        durable::range(memory, sync).unwrap();
        let duplicate = Area::duplicate(&region, UNIT, 2 * UNIT).unwrap();
        duplicate.populate(0, 2 * UNIT, true).unwrap();
        let source = SourceMap::new(&file, 4 * UNITS).unwrap();
        let object = file_in(Path::new("/dev/shm"), 4);
        assert_eq!(source.copy_to(0, 4 * UNITS, &object).unwrap(), 4 * UNITS);
        let staged = Area::object(&object, UNITS, 2 * UNIT, true).unwrap();
        let (back, its) = Area::object_sync(&file, UNITS, 2 * UNIT, true).unwrap();
        assert_eq!(its, sync);
        let (uffd, _) = Uffd::new(None).unwrap();
        assert!(!sync || uffd.register_wp(region.base(), UNIT).is_err(), "placeholders are all there is");
        let stop = codax_os::event::new().unwrap();
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
            place(&back);
            assert_eq!(memory.load_u64(UNIT + 8), 101);
            memory.store_u64(UNIT + 8, 8);
            duplicate.duplicate_over(UNIT, UNIT, &region, 0).unwrap();
            assert_eq!(memory.load_u64(8), 102);
            codax_os::event::signal(&stop).unwrap();
        });
        let mut word = [0; 8];
        source.read(UNITS + 8, &mut word).unwrap();
        assert_eq!(u64::from_le_bytes(word), 8);
    }
}
