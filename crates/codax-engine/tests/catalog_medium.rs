//! What is where on the medium, byte by byte as docs/medium.md says it; what a probe makes of a device; and what a catalog costs and takes.

mod catalog_support;

use catalog_support::{
    Image, Medium, POOL, after, formatted, full_node, is_lost, link, node, open, put, small, superblock,
    unlink,
};
use codax_core::{ErrorKind, FileId, Result};
use codax_engine::catalog::geometry::{GROUP_BYTES, GROUP_MIN, HALF_MIN, UNIT_MAX, UNIT_MIN};
use codax_engine::catalog::{
    Catalog, Contents, Entry, Found, Geometry, Node, PoolUuid, SUPERBLOCK_BYTES, Superblock, probe,
};
use proptest::prelude::*;

const HALF: u64 = 4096;

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(number(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(number(bytes, at))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(number(bytes, at))
}

/// The checksum of a superblock or half header.
fn head_check(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
}

/// The checksum of a record.
fn record_check(generation: u64, record: &[u8]) -> u32 {
    let all = [&POOL.0[..], &generation.to_le_bytes(), &record[..4], &record[8..]].concat();
    crc32c::crc32c(&all)
}

#[test]
fn the_superblock_is_as_documented() {
    let geometry = small(HALF);
    let boot = Some([9; 16]);
    let superblock = Superblock::new(POOL, 0x1122_3344_5566_7788, "pmem0", geometry, boot, -2).unwrap();
    let medium = Medium::blank(&geometry, 1);
    drop(Catalog::format(medium.copies(), superblock, || ()).unwrap());
    let image = medium.image();
    let bytes = &image[0][..SUPERBLOCK_BYTES];
    assert_eq!(*bytes, image[1][image[1].len() - SUPERBLOCK_BYTES..]);
    assert_eq!(bytes[0..8], *b"codaxdax");
    assert_eq!(u32_at(bytes, 8), 1);
    assert_eq!(u32_at(bytes, 12), head_check(bytes));
    assert_eq!(bytes[16..32], [0x5a; 16]);
    assert_eq!(u64_at(bytes, 32), 0x1122_3344_5566_7788);
    assert_eq!(u64_at(bytes, 40), 2);
    assert_eq!(u64_at(bytes, 48), geometry.device_bytes);
    assert_eq!(u64_at(bytes, 56), 4096);
    assert_eq!(u64_at(bytes, 64), geometry.copy_bytes);
    assert_eq!(u64_at(bytes, 72), HALF);
    assert_eq!(u64_at(bytes, 80), 16);
    assert_eq!(u64_at(bytes, 88), u64::MAX - 1);
    assert_eq!(u32_at(bytes, 96), 1);
    assert_eq!(u16_at(bytes, 100), 5);
    assert_eq!(u16_at(bytes, 102), 0);
    assert_eq!(bytes[104..136], *b"pmem0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(bytes[136..152], [9; 16]);
    assert!(bytes[152..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_half_and_its_records_are_as_documented() {
    let (medium, mut catalog) = formatted(small(HALF), 1);
    catalog.append(&[link(1, b"name", 3), unlink(2, b"12345678"), Entry::Drop(FileId(7))]).unwrap();
    catalog.append(&[Entry::Put(Box::new(full_node(3)))]).unwrap();
    let image = medium.image();
    // The first copy's halves are behind its superblock, the second's before its own.
    let half = &image[0][4096..4096 + index(HALF)];
    assert_eq!(*half, image[1][..index(HALF)]);

    assert_eq!(half[0..8], *b"codaxcat");
    assert_eq!(u32_at(half, 8), 1);
    assert_eq!(u32_at(half, 12), head_check(&half[..64]));
    assert_eq!(half[16..32], [0x5a; 16]);
    assert_eq!((u64_at(half, 32), u64_at(half, 40)), (1, 64));
    assert_eq!(half[48..64], [0; 16]);

    let len = index(u32_at(half, 64).into());
    let record = &half[64..64 + 24 + len];
    assert_eq!(u32_at(record, 4), record_check(1, record));
    assert_eq!((u64_at(record, 8), u32_at(record, 16), u32_at(record, 20)), (1, 3, 0));
    let entry = &record[24..64];
    assert_eq!((u32_at(entry, 0), u16_at(entry, 4), u16_at(entry, 6)), (40, 3, 0));
    assert_eq!((u64_at(entry, 8), u64_at(entry, 16), u16_at(entry, 24)), (1, 3, 4));
    assert_eq!(entry[26..40], *b"\0\0\0\0\0\0name\0\0\0\0");
    let entry = &record[64..104];
    assert_eq!((u32_at(entry, 0), u16_at(entry, 4), u64_at(entry, 8), u64_at(entry, 16)), (40, 4, 2, 0));
    assert_eq!((u16_at(entry, 24), &entry[32..40]), (8, &b"12345678"[..]));
    let entry = &record[104..];
    assert_eq!(entry.len(), 16);
    assert_eq!((u32_at(entry, 0), u16_at(entry, 4), u64_at(entry, 8)), (16, 2, 7));

    let at = 64 + 24 + len;
    let len = index(u32_at(half, at).into());
    assert_eq!(u64_at(half, at + 8), 2);
    documented_node(&half[at + 24..at + 24 + len], &full_node(3));
    assert!(half[at + 24 + len..].iter().all(|&byte| byte == 0));
    assert_eq!(catalog.usage().written, (at + 24 + len) as u64);
}

fn documented_node(entry: &[u8], node: &Node) {
    assert_eq!((u32_at(entry, 0) as usize, u16_at(entry, 4)), (entry.len(), 1));
    assert_eq!([8, 16, 24].map(|at| u64_at(entry, at)), [3, 9, 3 << 21]);
    assert_eq!([32, 40, 48].map(|at| u64_at(entry, at)), [u64::MAX, 1_700_000_000_000_000_000, 5]);
    assert_eq!([56, 60, 64, 68].map(|at| u32_at(entry, at)), [1000, 100, 1, 0x0801]);
    assert_eq!((u16_at(entry, 72), entry[74], entry[75]), (0o640, 3, 4));
    assert_eq!((u32_at(entry, 76), u16_at(entry, 80), u16_at(entry, 82), u32_at(entry, 84)), (3, 2, 2, 12));
    for (n, extent) in node.extents.iter().enumerate() {
        let bytes = &entry[88 + 40 * n..][..40];
        assert_eq!([0, 8, 16].map(|at| u64_at(bytes, at)), [extent.page.0, extent.count.0, extent.frame.0]);
        assert_eq!(bytes[24..], extent.pool.0);
    }
    let tail = &entry[88 + 120..];
    let expected = b"\x05\0pmem0\x04\0dram../elsewhere\x06\0\x01\0\0\0user.a1\x06\0\0\0\0\0user.b";
    assert_eq!(tail[..expected.len()], *expected);
    assert!(tail.len() - expected.len() < 8 && tail[expected.len()..].iter().all(|&byte| byte == 0));
}

#[test]
fn whatever_is_put_comes_back() {
    let (medium, mut catalog) = formatted(small(8192), 1);
    let mut entries: Vec<Entry> = vec![Entry::Put(Box::new(full_node(3))), put(4, u64::MAX, 0)];
    entries.push(Entry::Put(Box::new(Node { len: u64::MAX, mode: 0o7777, ..node(5, 0, 20) })));
    entries.push(link(u64::MAX, &[0xff; 255], 0));
    entries.push(link(1, b"a", 4));
    catalog.append(&entries).unwrap();
    let (reopened, found) = open(&medium).unwrap();
    assert_eq!(found, []);
    assert_eq!(reopened.contents(), catalog.contents());
    assert_eq!(*reopened.contents(), entries.iter().collect());
    assert_eq!(reopened.contents().node(FileId(3)), Some(&full_node(3)));
    assert_eq!(reopened.contents().link(FileId(1), b"a"), Some(FileId(4)));
}

#[test]
fn what_has_no_place_is_refused() {
    let (medium, mut catalog) = formatted(small(HALF), 1);
    let image = medium.image();
    for bad in [
        link(1, b"", 2),
        link(1, &[b'a'; 256], 2),
        Entry::Put(Box::new(Node { mode: 0o1_0000, ..node(2, 1, 1) })),
    ] {
        let error = catalog.append(&[put(2, 1, 1), bad]).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert_eq!(*catalog.contents(), Contents::default());
        assert!(medium.image() == image);
    }
    catalog.append(&[put(2, 1, 1)]).unwrap();
    let name = "a".repeat(33);
    assert_eq!(Superblock::new(POOL, 0, &name, small(HALF), None, 0).unwrap_err().kind, ErrorKind::Invalid);
    assert_eq!(Superblock::new(POOL, 0, "", small(HALF), None, 0).unwrap_err().kind, ErrorKind::Invalid);
}

#[test]
fn a_full_catalog_says_so_and_what_makes_it_smaller_has_room() {
    let (medium, mut catalog) = formatted(small(HALF), 1);
    let mut files = 0;
    let error = loop {
        let before = catalog.contents().clone();
        let image = medium.image();
        match catalog.append(&[put(files + 2, 1, 3), link(1, format!("file {files}").as_bytes(), files + 2)])
        {
            Ok(()) => files += 1,
            Err(error) => {
                assert_eq!(*catalog.contents(), before);
                assert!(medium.image() == image, "nothing is written");
                break error;
            }
        }
    };
    assert_eq!(error.kind, ErrorKind::NoSpace);
    assert!(error.message.contains("the catalog of pmem0 on dax0.0 is full"), "{error}");
    assert!(error.message.contains(&format!("{} files and {} names", files + 1, files + 1)), "{error}");
    assert!(files > 10);
    // A change that takes no more room has some, as often as one likes.
    for version in 2..100 {
        catalog.append(&[put(2, version, 3)]).unwrap();
    }
    catalog.append(&[unlink(1, b"file 3"), Entry::Drop(FileId(5))]).unwrap();
    catalog.append(&[put(5, 1, 3), link(1, b"file 3", 5)]).unwrap();
    assert!(catalog.append(&[put(1000, 1, 3)]).is_err());
    let (mut reopened, found) = open(&medium).unwrap();
    assert_eq!(found, []);
    assert_eq!(reopened.contents(), catalog.contents());
    // All of it in one batch.
    let entries = reopened.contents().difference(&Contents::default());
    reopened.append(&entries).unwrap();
    assert_eq!(*reopened.contents(), Contents::default());
    assert_eq!(open(&medium).unwrap().0.contents(), reopened.contents());
}

#[test]
fn what_lives_is_written_compactly_as_several_records() {
    let geometry = Geometry::of_device(64 << 20, 2 << 20).unwrap();
    let medium = Medium::blank(&geometry, 1);
    let mut catalog = Catalog::format(medium.copies(), superblock(geometry), || ()).unwrap();
    let file = |n: u64, version| [put(n, version, 1), link(1, format!("file{n:04}").as_bytes(), n)];
    for version in 0.. {
        for first in (2..2002).step_by(100) {
            let batch: Vec<Entry> = (first..first + 100).flat_map(|n| file(n, version)).collect();
            catalog.append(&batch).unwrap();
        }
        if catalog.usage().generation > 2 {
            break;
        }
    }
    assert_eq!(catalog.check(false).unwrap(), []);
    let (reopened, found) = open(&medium).unwrap();
    assert_eq!(found, []);
    assert_eq!(reopened.contents(), catalog.contents());
    assert_eq!(reopened.usage(), catalog.usage());
    assert_eq!(reopened.contents().nodes().len(), 2000);
    let usage = reopened.usage();
    assert!(usage.live <= usage.written && usage.written <= usage.capacity);

    // All that lives takes six records. What is damaged in both copies costs one and those behind it.
    let mut image = medium.image();
    for (copy, bytes) in image.iter_mut().enumerate() {
        bytes[index(geometry.half_at(copy, usage.half)) + 150_000] ^= 1;
    }
    let (catalog, found) = open(&Medium::from_image(&image, 1)).unwrap();
    assert!(is_lost(&found));
    let left = catalog.contents().nodes().len();
    assert!((500..1500).contains(&left), "{left} of 2000 are left");
}

#[test]
fn an_append_touches_little_and_reads_nothing() {
    let geometry = Geometry::of_device(1 << 30, 2 << 20).unwrap();
    let medium = Medium::blank(&geometry, 1);
    let mut catalog = Catalog::format(medium.copies(), superblock(geometry), || ()).unwrap();
    for n in 0..1000 {
        medium.traffic();
        catalog.append(&[put(n, 1, 1), link(1, format!("file{n}").as_bytes(), n)]).unwrap();
        let (read, written) = medium.traffic();
        assert_eq!(read, 0);
        // A record's header, a node with an extent, and a name, in each copy.
        assert_eq!(written, 2 * (24 + 88 + 40 + 40));
    }
    assert_eq!(catalog.usage().generation, 1);
}

#[test]
fn owners_change() {
    let (medium, mut catalog) = formatted(small(HALF), 1);
    catalog.append(&[put(2, 1, 1)]).unwrap();
    catalog.set_owner(5).unwrap();
    catalog.set_owner(0xffff_ffff_ffff).unwrap();
    let (catalog, found) = open(&medium).unwrap();
    assert_eq!(found, []);
    assert_eq!(catalog.superblock().store, 0xffff_ffff_ffff);
    assert_eq!(
        catalog.superblock(),
        &Superblock { store: 0xffff_ffff_ffff, revision: 4, ..superblock(small(HALF)) }
    );
}

#[test]
fn volatile_contents_are_void_after_another_boot() {
    let superblock = Superblock::new(POOL, 1, "cxl0", small(HALF), Some([1; 16]), 0).unwrap();
    assert!(superblock.is_volatile() && !superblock.is_void(&[1; 16]) && superblock.is_void(&[2; 16]));
    let lasting = Superblock { boot: None, ..superblock };
    assert!(!lasting.is_volatile() && !lasting.is_void(&[2; 16]));
}

#[test]
fn a_uuid_is_written_as_usual() {
    let uuid = PoolUuid(std::array::from_fn(|n| u8::try_from(n * 17).unwrap()));
    assert_eq!(uuid.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
}

/// What a probe says, which writes nothing.
fn found(image: &Image, device_bytes: Option<u64>) -> Found {
    let medium = Medium::from_image(image, 1);
    let found = probe(&medium.copies(), device_bytes);
    assert!(medium.image() == *image);
    found
}

fn refused(image: &Image, device_bytes: Option<u64>) -> codax_core::Error {
    let medium = Medium::from_image(image, 1);
    let error = Catalog::open(medium.copies(), device_bytes).unwrap_err();
    assert!(medium.image() == *image, "what is refused is left alone");
    error
}

#[test]
fn somebody_elses_device_is_left_alone() {
    let geometry = small(1 << 20);
    let blank = Medium::blank(&geometry, 1).image();
    assert_eq!(found(&blank, None), Found::Blank);
    assert_eq!(refused(&blank, None).kind, ErrorKind::NotFound);
    let ours = formatted(geometry, 1).0.image();
    for (at, magic, whose) in [
        (0x438, &b"\x53\xef"[..], "an ext4 filesystem"),
        (0, b"XFSB", "an xfs filesystem"),
        (0, b"LUKS\xba\xbe", "a LUKS volume"),
        (0x200, b"EFI PART", "a GPT partition table"),
        (0x1000, b"NVDIMM_PFN_INFO\0", "an nvdimm namespace in fsdax mode"),
        (0x1_0040, b"_BHRfS_M", "a btrfs filesystem"),
        (0x77, b"whatever this is", "something"),
        (0x1_9000, b"1", "something"),
    ] {
        let mut image = blank.clone();
        image[0][at..at + magic.len()].copy_from_slice(magic);
        assert_eq!(found(&image, None), Found::Foreign(whose));
        let error = refused(&image, None);
        assert_eq!(error.kind, ErrorKind::Exists);
        assert!(error.message.contains(whose) && error.message.contains("format"), "{error}");
        // The same where a pool was: its second superblock is still there.
        for rest in [0x11, 0] {
            let mut image = ours.clone();
            image[0][..4096].fill(rest);
            image[0][at..at + magic.len()].copy_from_slice(magic);
            if whose != "something" {
                assert_eq!(found(&image, None), Found::Foreign(whose));
            }
        }
    }
    for copy in 0..2 {
        let mut image = ours.clone();
        let at = index(geometry.superblock_at(copy));
        image[copy][at..at + 4096].fill(0x33);
        assert!(matches!(found(&image, None), Found::Foreign(_)));
        refused(&image, None);
    }
    let mut image = blank.clone();
    image[1][index(geometry.superblock_at(1)) + 4095] = 1;
    assert_eq!(found(&image, None), Found::Foreign("something"));
}

#[test]
fn a_later_version_is_refused_by_name() {
    let geometry = small(HALF);
    let (medium, _) = formatted(geometry, 1);
    let ours = medium.image();
    for version in [2, 3, 77, u32::MAX] {
        for copies in [&[0][..], &[1], &[0, 1]] {
            let mut image = ours.clone();
            for &copy in copies {
                let at = index(geometry.superblock_at(copy));
                let bytes = &mut image[copy][at..at + SUPERBLOCK_BYTES];
                bytes[8..12].copy_from_slice(&version.to_le_bytes());
                // Whatever a later version keeps there.
                bytes[60..4096].fill(0xab);
                let check = head_check(bytes);
                bytes[12..16].copy_from_slice(&check.to_le_bytes());
            }
            assert_eq!(found(&image, Some(geometry.device_bytes)), Found::Newer(version));
            let error = refused(&image, None);
            assert_eq!(error.kind, ErrorKind::Corrupt);
            assert!(
                error.message.contains(&format!("dax0.0 has a pool of layout version {version},")),
                "{error}"
            );
        }
    }
}

#[test]
fn a_device_of_another_length_is_refused_with_both_figures() {
    let geometry = small(HALF);
    let ours = formatted(geometry, 1).0.image();
    let [first, second] = ours.clone();
    let is = geometry.device_bytes;
    assert!(matches!(found(&ours, Some(is)), Found::Ours(..)));
    for actual in [is - 4096, is + 4096] {
        // Wherever the second superblock would be now, there is something else, or nothing, or it after all.
        for other in [vec![0x44; second.len()], vec![0; second.len()], second.clone()] {
            let image = [first.clone(), other];
            assert_eq!(found(&image, Some(actual)), Found::OtherLength { said: is, is: actual });
            let error = refused(&image, Some(actual));
            assert_eq!(error.kind, ErrorKind::DeviceState);
            assert!(
                error.message.contains(&format!("{actual} bytes"))
                    && error.message.contains(&format!(" {is} ")),
                "{error}"
            );
        }
    }
}

#[test]
fn areas_of_another_length_are_refused() {
    let ours = formatted(small(HALF), 1).0.image();
    let mut longer = ours.clone();
    longer[0].extend([0; 4096]);
    assert_eq!(refused(&longer, None).kind, ErrorKind::Corrupt);
    for len in [0, 100, 4095] {
        let error = refused(&[vec![1; len], vec![1; len]], None);
        assert_eq!(error.kind, ErrorKind::Exists, "{error}");
    }
}

#[test]
fn devices_that_make_no_sense_are_refused() {
    let mib = 1 << 20;
    for (bytes, unit, word) in [
        (0, 4096, "too small"),
        (4 * mib, 2 * mib, "needs 6 MiB at least"),
        (2 << 30, 1 << 30, "too small"),
        (1 << 30, 4095, "powers of two"),
        (1 << 30, 2 << 30, "powers of two"),
        ((1 << 30) + 4096, 2 * mib, "no multiple"),
        (u64::MAX - 4095, 4096, "too long"),
    ] {
        let error = Geometry::of_device(bytes, unit).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.contains(word), "{error}");
    }
    assert_eq!(Geometry::of_device(6 * mib, 2 * mib).unwrap().frames, 512);
    for (bytes, unit) in [(0, 4096), (4097, 4096), (u64::MAX, 4096), (1 << 63, 4096), (1 << 20, 3)] {
        assert_eq!(Geometry::beside(bytes, unit).unwrap_err().kind, ErrorKind::Invalid);
    }
}

fn geometry() -> impl Strategy<Value = Geometry> {
    (12..31_u32, 3..100_000_u64, any::<bool>()).prop_filter_map("too small", |(bits, units, device)| {
        let unit = 1 << bits;
        let made: Result<Geometry> = if device {
            Geometry::of_device(units * unit, unit)
        } else {
            Geometry::beside(units * unit, unit)
        };
        made.ok()
    })
}

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        (1..6_u64, 0..3_u64, 0..3_u64).prop_map(|(id, version, extents)| put(id, version, extents)),
        (1..6_u64).prop_map(|id| Entry::Put(Box::new(full_node(id)))),
        (1..6_u64).prop_map(|id| Entry::Drop(FileId(id))),
        (1..3_u64, 0..3_u8, 1..6_u64).prop_map(|(dir, name, child)| link(dir, &[name], child)),
        (1..3_u64, 0..3_u8).prop_map(|(dir, name)| unlink(dir, &[name])),
    ]
}

/// A record that checks, whatever its entries are.
fn sealed(generation: u64, entries: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap();
    let mut record =
        [&len.to_le_bytes()[..], &[0; 4], &1_u64.to_le_bytes(), &entries.to_le_bytes(), &[0; 4], body]
            .concat();
    let check = record_check(generation, &record);
    record[4..8].copy_from_slice(&check.to_le_bytes());
    record
}

proptest! {
    #[test]
    fn parts_are_apart_aligned_and_within_the_device(geometry in geometry()) {
        let Geometry { device_bytes, unit, copy_bytes, half_bytes, frames } = geometry;
        prop_assert_eq!(geometry.check(), Ok(()));
        prop_assert!((UNIT_MIN..=UNIT_MAX).contains(&unit) && half_bytes >= HALF_MIN);
        // Everything of a copy is within it, and the parts are apart.
        for copy in 0..2 {
            let mut parts = [
                (geometry.superblock_at(copy), SUPERBLOCK_BYTES as u64),
                (geometry.half_at(copy, 0), half_bytes),
                (geometry.half_at(copy, 1), half_bytes),
            ];
            parts.sort_unstable();
            prop_assert!(parts.iter().all(|(at, _)| at.is_multiple_of(4096)));
            prop_assert!(parts.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
            prop_assert!(parts[2].0 + parts[2].1 <= copy_bytes);
        }
        // The superblocks are at the device's ends.
        prop_assert_eq!(geometry.copy_at(0) + geometry.superblock_at(0), 0);
        prop_assert_eq!(geometry.copy_at(1) + geometry.superblock_at(1) + 4096, device_bytes);
        prop_assert!(geometry.data_at().is_multiple_of(unit) && geometry.data_at() >= copy_bytes);
        let data_end = geometry.data_at() + frames * 4096;
        prop_assert!(data_end <= geometry.copy_at(1) && (frames * 4096).is_multiple_of(unit));
        prop_assert!(geometry.copy_at(1) - data_end < unit, "nothing is wasted");
        // A file for each group fits.
        let groups = frames * 4096 / unit.max(GROUP_MIN);
        prop_assert!(half_bytes >= groups * GROUP_BYTES);
    }

    #[test]
    fn a_difference_makes_one_of_the_other(a in prop::collection::vec(entry(), 0..20), b in prop::collection::vec(entry(), 0..20)) {
        let (a, b): (Contents, Contents) = (a.iter().collect(), b.iter().collect());
        let difference = a.difference(&b);
        prop_assert_eq!(&after(&a, &difference), &b);
        prop_assert_eq!(difference.is_empty(), a == b);
    }

    #[test]
    fn random_bytes_are_nothing(bytes in prop::collection::vec(any::<u8>(), 0..20_000), at in 0..12_000_usize) {
        let geometry = small(HALF);
        // Nothing but chance, and chance within what was ours.
        for image in [Medium::blank(&geometry, 1).image(), formatted(geometry, 1).0.image()] {
            for copies in [&[0][..], &[1], &[0, 1]] {
                let mut image = image.clone();
                for &copy in copies {
                    let len = bytes.len().min(image[copy].len() - at);
                    image[copy][at..at + len].copy_from_slice(&bytes[..len]);
                }
                let medium = Medium::from_image(&image, 1);
                let found = probe(&medium.copies(), Some(geometry.device_bytes));
                prop_assert!(!matches!(found, Found::Newer(_)));
                if let Ok((mut catalog, _)) = open(&medium) {
                    prop_assert_eq!(catalog.contents(), &Contents::default());
                    catalog.check(true).unwrap();
                    prop_assert_eq!(catalog.check(false).unwrap(), []);
                }
            }
        }
    }

    /// Records whose checksums are right, and whose entries are chance or nearly right.
    #[test]
    fn entries_that_make_no_sense_are_a_loss(
        words in prop::collection::vec(any::<u64>(), 0..40),
        entries in 0..4_u32,
        good in prop::collection::vec(entry(), 1..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let geometry = small(HALF);
        let (medium, mut catalog) = formatted(geometry, 1);
        catalog.append(&good).unwrap();
        let half = index(geometry.half_at(0, 0));
        let image = medium.image();
        let written = index(catalog.usage().written);
        let mut nearly = image[0][half + 64 + 24..half + written].to_vec();
        for (at, byte) in &changes {
            let at = at.index(nearly.len());
            nearly[at] = *byte;
        }
        let chance: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let count = u32::try_from(good.len()).unwrap();
        for record in [sealed(1, entries, &chance), sealed(1, count, &nearly)] {
            let mut image = formatted(geometry, 1).0.image();
            for (copy, bytes) in image.iter_mut().enumerate() {
                let at = index(geometry.half_at(copy, 0)) + 64;
                bytes[at..at + record.len()].copy_from_slice(&record);
            }
            let medium = Medium::from_image(&image, 1);
            let (mut catalog, found) = open(&medium).unwrap();
            // Either all of it is understood, or it is said.
            prop_assert!(found.is_empty() != is_lost(&found));
            if is_lost(&found) {
                prop_assert_eq!(catalog.contents(), &Contents::default());
            }
            catalog.append(&[put(77, 1, 1)]).unwrap();
            prop_assert!(open(&medium).unwrap().1.is_empty());
        }
    }
}
