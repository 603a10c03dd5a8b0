//! Damage to superblocks and records is found and said, mended where one copy is whole, and never used as if nothing were.

mod catalog_support;

use catalog_support::{
    Image, Medium, after, formatted, full_node, is_lost, link, open, put, small, superblock, unlink,
};
use codax_core::info::{Finding, Severity};
use codax_core::{ErrorKind, FileId};
use codax_engine::catalog::{Catalog, Contents, Entry, Found, PoolUuid, SUPERBLOCK_BYTES, probe};
use std::ops::Range;

const HALF: u64 = 4096;
const HEADER: usize = 64;

/// Batches for a catalog that has something of everything.
fn batches() -> Vec<Vec<Entry>> {
    vec![
        vec![put(2, 1, 2), link(1, b"model", 2)],
        vec![Entry::Put(Box::new(full_node(3))), link(1, b"link", 3)],
        vec![unlink(1, b"model"), Entry::Drop(FileId(2))],
        vec![put(4, 1, 1), link(1, b"d", 4)],
    ]
}

/// A catalog with a compact part and records behind it, and where each record is; what it holds when so many records are there.
struct Sample {
    medium: Medium,
    catalog: Catalog,
    records: Vec<Range<usize>>,
    states: Vec<Contents>,
}

fn sample() -> Sample {
    let (medium, mut catalog) = formatted(small(HALF), 1);
    while catalog.usage().generation == 1 {
        catalog.append(&[put(9, 9, 9), link(1, b"old", 9)]).unwrap();
    }
    let mut at = HEADER;
    let mut records = Vec::new();
    let mut states = vec![Contents::default()];
    // First of all the compact part, which is one record.
    for batch in [Vec::new()].into_iter().chain(batches()) {
        catalog.append(&batch).unwrap();
        let end = index(catalog.usage().written);
        records.push(at..end);
        states.push(catalog.contents().clone());
        at = end;
    }
    assert_eq!(catalog.check(false).unwrap(), []);
    Sample { medium, catalog, records, states }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

impl Sample {
    /// Where the half that counts begins in a copy.
    fn half(&self, copy: usize) -> usize {
        index(self.catalog.superblock().geometry.half_at(copy, self.catalog.usage().half))
    }

    fn other_half(&self, copy: usize) -> usize {
        index(self.catalog.superblock().geometry.half_at(copy, 1 - self.catalog.usage().half))
    }

    fn superblock(&self, copy: usize) -> usize {
        index(self.catalog.superblock().geometry.superblock_at(copy))
    }

    fn contents(&self) -> &Contents {
        self.states.last().unwrap()
    }
}

fn flipped(image: &Image, copy: usize, bit: usize) -> Image {
    let mut image = image.clone();
    image[copy][bit / 8] ^= 1 << (bit % 8);
    image
}

fn all_mendable(findings: &[Finding], repaired: bool) -> bool {
    !findings.is_empty()
        && findings.iter().all(|f| f.severity == Severity::Mendable && f.repaired == repaired)
}

/// Flips each of `bits` of a copy, under an open catalog and before it is opened.
fn flip_each(sample: &mut Sample, copy: usize, bits: impl Iterator<Item = usize>) {
    let image = sample.medium.image();
    for bit in bits {
        sample.medium.flip(copy, bit);
        let found = sample.catalog.check(false).unwrap();
        assert!(all_mendable(&found, false), "bit {bit} of copy {copy}: {found:?}");
        let mended = sample.catalog.check(true).unwrap();
        assert!(all_mendable(&mended, true), "bit {bit} of copy {copy}: {mended:?}");
        assert!(sample.medium.image() == image, "bit {bit} of copy {copy} is mended");

        let reopened = Medium::from_image(&flipped(&image, copy, bit), 1);
        let (mut catalog, found) = open(&reopened).unwrap();
        assert!(!found.is_empty() && !is_lost(&found), "bit {bit} of copy {copy}: {found:?}");
        assert_eq!(catalog.contents(), sample.catalog.contents(), "bit {bit} of copy {copy}");
        // What open didn't finish is still found, and mended.
        let left = catalog.check(true).unwrap();
        assert_eq!(left.is_empty(), found.iter().all(|finding| finding.repaired), "{found:?} {left:?}");
        assert!(reopened.image() == image, "bit {bit} of copy {copy} is mended");
    }
    assert_eq!(sample.catalog.check(false).unwrap(), []);
    assert_eq!(sample.catalog.contents(), sample.contents());
}

fn bits(bytes: Range<usize>) -> Range<usize> {
    bytes.start * 8..bytes.end * 8
}

#[test]
fn each_flipped_bit_of_the_first_superblock_is_found_and_mended() {
    each_bit_of_a_superblock(0);
}

#[test]
fn each_flipped_bit_of_the_second_superblock_is_found_and_mended() {
    each_bit_of_a_superblock(1);
}

fn each_bit_of_a_superblock(copy: usize) {
    let mut sample = sample();
    let at = sample.superblock(copy);
    flip_each(&mut sample, copy, bits(at..at + SUPERBLOCK_BYTES));
}

#[test]
fn each_flipped_bit_of_the_first_copy_is_found_and_mended() {
    each_bit_of_the_catalog(0);
}

#[test]
fn each_flipped_bit_of_the_second_copy_is_found_and_mended() {
    each_bit_of_the_catalog(1);
}

fn each_bit_of_the_catalog(copy: usize) {
    let mut sample = sample();
    let (at, other) = (sample.half(copy), sample.other_half(copy));
    let end = sample.records.last().unwrap().end;
    flip_each(&mut sample, copy, bits(at..at + end));
    // Zeros: behind the last record, and where the other half's header would be.
    flip_each(&mut sample, copy, bits(at + end..at + index(HALF)).step_by(61));
    flip_each(&mut sample, copy, bits(other..other + HEADER));
}

#[test]
fn damage_in_both_copies_is_lost_and_what_follows_too() {
    let sample = sample();
    let image = sample.medium.image();
    for (n, record) in sample.records.iter().enumerate() {
        for (a, b) in [(0, 0), (9, 12), (record.len() - 1, 3), (25, record.len() - 8)] {
            let mut image = image.clone();
            image[0][sample.half(0) + record.start + a] ^= 0x10;
            image[1][sample.half(1) + record.start + b] ^= 0x40;
            let medium = Medium::from_image(&image, 1);
            let (catalog, found) = open(&medium).unwrap();
            assert_eq!(catalog.contents(), &sample.states[n], "record {n}");
            assert!(is_lost(&found), "record {n}: {found:?}");
            let line = format!("record {} of the catalog is damaged in both copies", n + 1);
            assert!(found.iter().any(|finding| finding.what.contains(&line)), "{found:?}");
            // It stays so for as long as nobody writes.
            drop(catalog);
            let (mut catalog, found) = open(&medium).unwrap();
            assert!(is_lost(&found) && is_lost(&catalog.check(false).unwrap()));
            assert!(is_lost(&catalog.check(true).unwrap()));
            assert_eq!(catalog.check(false).unwrap(), []);
            catalog.append(&batches()[3]).unwrap();
            drop(catalog);
            let (catalog, found) = open(&medium).unwrap();
            assert_eq!(found, []);
            assert_eq!(*catalog.contents(), after(&sample.states[n], &batches()[3]));
        }
    }
}

#[test]
fn after_a_loss_a_change_is_written_where_the_damage_is_not() {
    let sample = sample();
    let mut image = sample.medium.image();
    for (copy, bytes) in image.iter_mut().enumerate() {
        bytes[sample.half(copy) + sample.records[2].start + 30] ^= 1;
    }
    let medium = Medium::from_image(&image, 1);
    let (mut catalog, found) = open(&medium).unwrap();
    assert!(is_lost(&found));
    catalog.append(&batches()[3]).unwrap();
    assert_eq!(catalog.check(false).unwrap(), []);
    assert_eq!(*open(&medium).unwrap().0.contents(), after(&sample.states[2], &batches()[3]));
}

#[test]
fn damage_in_both_copies_under_an_open_catalog_is_mended_from_memory() {
    for n in 0..sample().records.len() {
        let mut sample = sample();
        let record = sample.records[n].clone();
        for copy in 0..2 {
            sample.medium.flip(copy, (sample.half(copy) + record.start + 17) * 8);
        }
        let found = sample.catalog.check(false).unwrap();
        assert!(all_mendable(&found, false), "{found:?}");
        assert!(all_mendable(&sample.catalog.check(true).unwrap(), true));
        assert_eq!(sample.catalog.check(false).unwrap(), []);
        let (catalog, found) = open(&sample.medium).unwrap();
        assert_eq!(found, []);
        assert_eq!(catalog.contents(), sample.contents());
    }
}

/// A copy that ends anywhere, with zeros behind.
#[test]
fn each_cut_of_one_copy_loses_nothing() {
    let sample = sample();
    let image = sample.medium.image();
    let last = sample.records.last().unwrap().clone();
    for copy in 0..2 {
        for at in 0..last.end {
            let mut image = image.clone();
            let half = sample.half(copy);
            image[copy][half + at..half + last.end].fill(0);
            if image[copy] == sample.medium.image()[copy] {
                continue;
            }
            let medium = Medium::from_image(&image, 1);
            let (mut catalog, found) = open(&medium).unwrap();
            assert_eq!(catalog.contents(), sample.contents(), "copy {copy} cut at {at}");
            assert!(!found.is_empty() && !is_lost(&found));
            catalog.check(true).unwrap();
            assert!(medium.image() == sample.medium.image(), "copy {copy} cut at {at}");
        }
    }
}

/// Both copies end at the same byte. The second has a record's beginning only when the first has all of it, so that's a loss
/// wherever the cut is within a record.
#[test]
fn each_cut_of_both_copies_leaves_whole_batches() {
    let sample = sample();
    let image = sample.medium.image();
    let last = sample.records.last().unwrap().clone();
    for at in sample.records[1].start..last.end {
        let mut image = image.clone();
        for (copy, bytes) in image.iter_mut().enumerate() {
            let half = sample.half(copy);
            bytes[half + at..half + last.end].fill(0);
        }
        let whole = sample.records.iter().filter(|record| record.end <= at).count();
        let (catalog, found) = open(&Medium::from_image(&image, 1)).unwrap();
        let expected = &sample.states[whole];
        // A record may end with zeros anyway.
        let next = &sample.states[(whole + 1).min(sample.records.len())];
        assert!([expected, next].contains(&catalog.contents()), "cut at {at}");
        if sample.records.iter().any(|record| record.start == at) {
            assert_eq!(catalog.contents(), expected);
            assert_eq!(found, [], "cut at {at}");
        } else if catalog.contents() == expected && at < last.end {
            assert!(is_lost(&found), "cut at {at}");
        }
    }
}

/// An append that only the first copy has a part of is no damage.
#[test]
fn each_cut_of_the_first_copy_before_the_second_begins_is_dropped() {
    let sample = sample();
    let image = sample.medium.image();
    let last = sample.records.last().unwrap().clone();
    for at in last.clone() {
        let mut image = image.clone();
        let [first, second] = [0, 1].map(|copy| sample.half(copy));
        image[0][first + at..first + last.end].fill(0);
        image[1][second + last.start..second + last.end].fill(0);
        let medium = Medium::from_image(&image, 1);
        let (mut catalog, found) = open(&medium).unwrap();
        let expected = &sample.states[sample.records.len() - 1];
        if catalog.contents() == sample.contents() {
            // The record ends with zeros, so all of it is there.
            continue;
        }
        assert_eq!(catalog.contents(), expected);
        assert!(found.iter().all(|finding| finding.repaired), "{found:?}");
        assert_eq!(catalog.check(false).unwrap(), []);
        catalog.append(&batches()[3]).unwrap();
        assert!(medium.image() == sample.medium.image());
    }
}

/// Memory that fails for good, where the half that counts is: what is there comes from the other copy, and a repair brings it elsewhere.
#[test]
fn memory_that_cannot_be_read_is_left_for_the_other_half() {
    for copy in 0..2 {
        let mut sample = sample();
        let at = sample.half(copy);
        let end = sample.records.last().unwrap().end;
        sample.medium.poison(copy, at..at + end);
        let found = sample.catalog.check(false).unwrap();
        assert!(all_mendable(&found, false), "{found:?}");

        let (mut catalog, found) = open(&sample.medium).unwrap();
        assert_eq!(catalog.contents(), sample.contents());
        assert!(!found.is_empty() && !is_lost(&found), "{found:?}");
        let generation = catalog.usage().generation;
        catalog.append(&batches()[0]).unwrap();
        let expected = after(sample.contents(), &batches()[0]);
        assert!(all_mendable(&catalog.check(true).unwrap(), true));
        assert_eq!(catalog.usage().generation, generation + 1);
        assert_eq!(*catalog.contents(), expected);
        let (catalog, found) = open(&sample.medium).unwrap();
        assert_eq!(*catalog.contents(), expected);
        // The old half's header can't be read to be zeros.
        assert!(found.iter().all(|f| f.what.contains("half that doesn't count")), "{found:?}");
    }
}

#[test]
fn headers_damaged_in_both_copies_leave_nothing_to_go_by() {
    let sample = sample();
    for half in [sample.half(0), sample.other_half(0)] {
        let second = if half == sample.half(0) { sample.half(1) } else { sample.other_half(1) };
        let mut image = sample.medium.image();
        image[0][half + 33] ^= 1;
        image[1][second + 41] ^= 1;
        let error = open(&Medium::from_image(&image, 1)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Corrupt);
        assert!(error.message.contains("damaged in both copies"), "{error}");
    }
}

#[test]
fn superblocks_damaged_in_both_copies_are_not_overwritten() {
    let sample = sample();
    let mut image = sample.medium.image();
    for (copy, bytes) in image.iter_mut().enumerate() {
        bytes[sample.superblock(copy) + 50] ^= 1;
    }
    let medium = Medium::from_image(&image, 1);
    assert!(matches!(probe(&medium.copies(), None), Found::Damaged(_)));
    let error = open(&medium).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt);
    assert!(error.message.contains("format"), "{error}");
    assert!(medium.image() == image);
}

#[test]
fn superblocks_of_two_pools_are_not_one() {
    let sample = sample();
    let mut image = sample.medium.image();
    let geometry = sample.catalog.superblock().geometry;
    let other = Medium::blank(&geometry, 2);
    let mut foreign = superblock(geometry);
    foreign.pool = PoolUuid([3; 16]);
    drop(Catalog::format(other.copies(), foreign, || ()).unwrap());
    image[1] = other.image()[1].clone();
    let error = open(&Medium::from_image(&image, 1)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt);
    assert!(error.message.contains("03030303-0303-0303-0303-030303030303"), "{error}");
}

/// A copy from before, as after a copy of one file.
#[test]
fn an_older_second_copy_does_not_count() {
    let mut sample = sample();
    let old = sample.medium.image();
    let generation = sample.catalog.usage().generation;
    while sample.catalog.usage().generation < generation + 3 {
        sample.catalog.append(&[put(5, 5, 5), link(1, b"five", 5)]).unwrap();
    }
    let expected = sample.catalog.contents().clone();
    for copy in 0..2 {
        let mut image = sample.medium.image();
        image[copy] = old[copy].clone();
        let medium = Medium::from_image(&image, 1);
        let (mut catalog, found) = open(&medium).unwrap();
        assert!(!is_lost(&found) && !found.is_empty());
        assert_eq!(*catalog.contents(), expected, "copy {copy}");
        catalog.check(true).unwrap();
        assert_eq!(catalog.check(false).unwrap(), []);
        assert_eq!(*open(&medium).unwrap().0.contents(), expected);
    }
}
