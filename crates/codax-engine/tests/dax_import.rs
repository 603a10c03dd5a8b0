//! Media that come to a store from elsewhere: what they bring is there beside what the store has, and what can't be true does no harm.
#![allow(clippy::cast_possible_truncation)]

mod store_support;

use codax_core::namespace::Kind;
use codax_core::{ErrorKind, FileId, Frame, PageCount, PageNo, PageRange, PoolUuid, ROOT};
use codax_engine::catalog::{Entry, Node, NodeExtent};
use codax_engine::{Format, Store};
use store_support::media::{Media, catalog, catalogs, change_node, extent_of};
use store_support::*;

fn is_sound(store: &Store) {
    assert_eq!(store.check(false).expect("checked"), []);
}

#[test]
fn media_of_two_stores_have_different_files_of_one_number() {
    let media = Media::new();
    media.written(&["pmem0"], |s| {
        s.mkdir(&path("/d"), 0o755, None).expect("made");
        make(s, "/d/a", 2 * MIB, "pmem0");
        make(s, "/same", MIB, "pmem0");
    });
    media.written(&["pmem1"], |s| {
        make(s, "/b", MIB, "pmem1");
        make(s, "/same", MIB + 5, "pmem1");
        make(s, "/c", 3 * MIB, "pmem1");
    });
    let rig = Rig::new();
    for _ in 0..2 {
        let store = media.open(&rig, &["pmem0", "pmem1"]);
        let s = admin(&store);
        for (text, len) in [("/d/a", 2 * MIB), ("/same", MIB), ("/b", MIB), ("/c", 3 * MIB)] {
            assert_intact(&s, text, len);
        }
        let other = read(&s, "/same~pmem1");
        assert_eq!(other.len() as u64, MIB + 5);
        assert!(other.iter().enumerate().all(|(i, b)| *b == byte_at("/same", i as u64)));
        is_sound(&store);
        drop(s);
        store.end();
    }
}

#[test]
fn a_medium_and_its_copy_are_not_taken_together() {
    let media = Media::new();
    media.written(&["pmem0"], |s| drop(make(s, "/f", MIB, "pmem0")));
    for name in ["catalog.0", "catalog.1"] {
        std::fs::copy(media.path("pmem0").join(name), media.path("pmem1").join(name)).expect("copied");
    }
    std::fs::create_dir(media.path("pmem1").join("objects")).expect("made");
    let rig = Rig::new();
    let options = media.options(&rig, &["pmem0", "pmem1"], Format::Never);
    let error = Store::open(options, TestEnv::new()).expect_err("refused");
    assert_eq!(error.kind, ErrorKind::DeviceState);
    assert!(error.message.contains("pmem0") && error.message.contains("pmem1"), "{error}");
    let store = media.open(&rig, &["pmem0"]);
    assert_intact(&admin(&store), "/f", MIB);
}

#[test]
fn what_a_medium_brings_is_there_beside_what_the_store_has() {
    let media = Media::new();
    media.written(&["pmem0"], |s| {
        s.mkdir(&path("/z"), 0o755, on("pmem0").as_ref()).expect("made");
        for at in 0..4 {
            make(s, &format!("/theirs{at}"), MIB, "pmem0");
        }
        s.mkdir(&path("/z/e"), 0o755, None).expect("made");
        make(s, "/z/e/f", 2 * MIB, "pmem0");
        s.open(&open_of("/z/empty", 0)).expect("made");
    });
    let rig = Rig::new();
    let store = rig.open();
    // These have the numbers of the directory and of a file there, and the next is another's.
    make(&admin(&store), "/ours0", MIB, "dram");
    make(&admin(&store), "/ours1", MIB, "dram");
    store.end();
    for _ in 0..2 {
        let store = media.open(&rig, &["pmem0"]);
        let s = admin(&store);
        for text in ["/ours0", "/ours1", "/theirs0", "/theirs1", "/theirs2", "/theirs3"] {
            assert_intact(&s, text, MIB);
        }
        assert_intact(&s, "/z/e/f", 2 * MIB);
        assert_eq!(s.stat(&path("/z/empty")).expect("there").len, 0);
        is_sound(&store);
        drop(s);
        store.end();
    }
    // Their old numbers are free on the medium.
    let store = media.open(&rig, &["pmem0"]);
    let s = admin(&store);
    for text in ["/ours0", "/ours1"] {
        s.move_file(&path(text), "pmem0", None, &mut |_| true).expect("moved");
        assert_intact(&s, text, MIB);
    }
    is_sound(&store);
    drop(s);
    store.end();
    // The power goes: the medium has it all.
    let rig = Rig::new();
    let store = media.open(&rig, &["pmem0"]);
    for text in ["/ours0", "/ours1", "/theirs0", "/theirs1", "/theirs2", "/theirs3"] {
        assert_intact(&admin(&store), text, MIB);
    }
    is_sound(&store);
}

#[test]
fn a_start_that_fails_leaves_a_medium_as_it_was() {
    let media = Media::new();
    media.written(&["pmem0"], |s| drop(make(s, "/f", MIB, "pmem0")));
    let was = catalogs(&media.path("pmem0"));
    let rig = Rig::new();
    make(&admin(&rig.open()), "/g", MIB, "dram");
    // The other has nothing on it, and may not be formatted.
    let options = media.options(&rig, &["pmem0", "pmem1"], Format::Never);
    Store::open(options, TestEnv::new()).expect_err("refused");
    assert!(catalogs(&media.path("pmem0")) == was);
    let store = media.open(&rig, &["pmem0"]);
    assert_intact(&admin(&store), "/f", MIB);
    is_sound(&store);
}

#[test]
fn media_that_disagree_on_a_directory_s_name_bring_all_that_is_in_it() {
    let media = Media::new();
    media.written(&["pmem0", "pmem1"], |s| {
        s.mkdir(&path("/d"), 0o755, None).expect("made");
        make(s, "/d/a", MIB, "pmem0");
        make(s, "/d/b", MIB, "pmem1");
    });
    // As when the power goes between the two.
    let mut told = catalog(&media.path("pmem1"));
    let dir = told.contents().link(ROOT, b"d").expect("there");
    told.append(&[
        Entry::Unlink { dir: ROOT, name: b"d".to_vec() },
        Entry::Link { dir: ROOT, name: b"e".to_vec(), child: dir },
    ])
    .expect("written");
    drop(told);
    let rig = Rig::new();
    let store = media.open(&rig, &["pmem0", "pmem1"]);
    let s = admin(&store);
    let read = |text: &str| read(&s, text).len() as u64;
    assert_eq!((read("/d/a"), read("/d/b")), (MIB, MIB));
    is_sound(&store);
}

#[test]
fn of_two_files_in_one_place_the_newer_is_there() {
    let media = Media::new();
    media.written(&["pmem0"], |s| {
        make(s, "/old", MIB, "pmem0");
        make(s, "/new", MIB, "pmem0");
    });
    let dir = media.path("pmem0");
    let place = extent_of(&dir, "new");
    change_node(&dir, "old", |node| node.extents[0].frame = place.frame);
    let rig = Rig::new();
    let store = media.open(&rig, &["pmem0"]);
    let s = admin(&store);
    assert_intact(&s, "/new", MIB);
    assert_eq!(s.stat(&path("/old")).expect("there").lost, [PageRange::new(0, MIB / 4096)]);
    is_sound(&store);
}

#[test]
fn a_file_to_which_no_directory_leads_is_not_left_out() {
    let media = Media::new();
    media.written(&["pmem0"], |s| {
        make(s, "/f", MIB, "pmem0");
        make(s, "/g", MIB, "pmem0");
        s.mkdir(&path("/d"), 0o755, None).expect("made");
        make(s, "/d/h", MIB, "pmem0");
    });
    let mut theirs = catalog(&media.path("pmem0"));
    let id = |name: &[u8]| theirs.contents().link(ROOT, name).expect("there");
    let (f, g, d) = (id(b"f"), id(b"g"), id(b"d"));
    let h = theirs.contents().link(d, b"h").expect("there");
    theirs
        .append(&[
            Entry::Unlink { dir: ROOT, name: b"f".to_vec() },
            Entry::Link { dir: ROOT, name: b"../f".to_vec(), child: f },
            Entry::Unlink { dir: ROOT, name: b"g".to_vec() },
            Entry::Link { dir: FileId(999), name: b"g".to_vec(), child: g },
            // In circles.
            Entry::Unlink { dir: ROOT, name: b"d".to_vec() },
            Entry::Link { dir: d, name: b"d".to_vec(), child: d },
            Entry::Link { dir: ROOT, name: b"nothing".to_vec(), child: FileId(1000) },
            Entry::Link { dir: ROOT, name: b"root".to_vec(), child: ROOT },
        ])
        .expect("written");
    drop(theirs);
    let rig = Rig::new();
    let store = media.open(&rig, &["pmem0"]);
    let s = admin(&store);
    for (id, text) in [(f, "/f"), (g, "/g"), (h, "/d/h")] {
        let bytes = read(&s, &format!("/#{id}"));
        assert!(
            bytes.len() as u64 == MIB && bytes.iter().enumerate().all(|(i, b)| *b == byte_at(text, i as u64))
        );
        assert_eq!(s.stat(&path(&format!("/#{id}"))).expect("there").mode & 0o077, 0);
    }
    for name in ["/nothing", "/root", "/d"] {
        assert_eq!(s.stat(&path(name)).expect_err("not there").kind, ErrorKind::NotFound);
    }
    assert!(store.info().recovery.iter().any(|line| line.contains("no directory of pmem0 leads to it")));
    is_sound(&store);
}

#[test]
fn what_can_not_be_true_is_refused_and_left_alone() {
    type Damage = fn(&mut Node);
    let cases: [(&str, Damage); 9] = [
        ("no number", |node| node.id = FileId(0)),
        ("no such number", |node| node.id = FileId(u64::MAX)),
        ("the root as a file", |node| node.id = ROOT),
        ("a length", |node| node.len = u64::MAX),
        ("pages of a directory", |node| node.kind = Kind::Dir),
        ("pages beyond the end of all files", |node| node.extents[0].page = PageNo(u64::MAX - 3)),
        ("frames beyond all numbers", |node| node.extents[0].frame = Frame(u64::MAX - 3)),
        ("no pages", |node| node.extents[0].count = PageCount(0)),
        ("pages twice", |node| node.extents.push(node.extents[0])),
    ];
    let media = Media::new();
    media.written(&["pmem0"], |s| drop(make(s, "/f", MIB, "pmem0")));
    let dir = media.path("pmem0");
    let id = catalog(&dir).contents().link(ROOT, b"f").expect("there");
    let good = catalog(&dir).contents().node(id).expect("known").clone();
    let root = catalog(&dir).contents().node(ROOT).expect("known").clone();
    for (what, damage) in cases {
        let mut node = good.clone();
        damage(&mut node);
        let bad = node.id;
        catalog(&dir).append(&[Entry::Put(Box::new(node))]).expect("written");
        let was = catalogs(&dir);
        let rig = Rig::new();
        let options = media.options(&rig, &["pmem0"], Format::IfNotOurs);
        let error = Store::open(options, TestEnv::new()).expect_err(what);
        assert!(catalogs(&dir) == was, "{what}");
        assert_eq!(error.kind, ErrorKind::Corrupt, "{what}: {error}");
        assert!(error.message.contains("device pmem0") && !error.message.contains('\n'), "{what}: {error}");
        let mended = if bad == ROOT { &root } else { &good };
        catalog(&dir).append(&[Entry::Drop(bad), Entry::Put(Box::new(mended.clone()))]).expect("written");
    }
    let rig = Rig::new();
    let store = media.open(&rig, &["pmem0"]);
    assert_intact(&admin(&store), "/f", MIB);
    is_sound(&store);
}

#[test]
fn pages_that_are_nowhere_on_a_medium_are_gone() {
    let media = Media::new();
    media.written(&["pmem0"], |s| {
        make(s, "/f", MIB, "pmem0");
        make(s, "/g", MIB, "pmem0");
    });
    let dir = media.path("pmem0");
    change_node(&dir, "f", |node| {
        node.extents[0].frame = Frame(16 * MIB / 4096 - 3);
        node.version = u64::MAX;
        let far = NodeExtent { page: PageNo(1 << 40), pool: PoolUuid([7; 16]), ..node.extents[0] };
        node.extents.push(far);
    });
    let rig = Rig::new();
    let store = media.open(&rig, &["pmem0"]);
    let s = admin(&store);
    let lost = s.stat(&path("/f")).expect("there").lost;
    assert_eq!(lost, [PageRange::new(0, 256), PageRange::new(1 << 40, 256)]);
    assert_intact(&s, "/g", MIB);
    make(&s, "/h", MIB, "pmem0");
    s.remove(&path("/f"), false).expect("removed");
    is_sound(&store);
}

#[test]
fn a_change_that_one_medium_refuses_is_none_on_the_others() {
    let media = Media::new();
    let rig = Rig::new();
    let store = media.open(&rig, &["pmem0", "pmem1"]);
    let s = admin(&store);
    make(&s, "/f", 4 * MIB, "pmem0");
    s.move_file(&path("/f"), "pmem1", Some((2 * MIB, 2 * MIB)), &mut |_| true).expect("moved");
    for name in ["catalog.0", "catalog.1"] {
        let file = std::fs::File::options().write(true).open(media.path("pmem1").join(name)).expect("there");
        file.set_len(0).expect("cut");
    }
    s.remove(&path("/f"), false).expect_err("its other half could not be told");
    assert_eq!(s.stat(&path("/f")).expect("there").len, 4 * MIB);
    drop(s);
    store.end();
    let other = Rig::new();
    let store = media.open(&other, &["pmem0"]);
    let info = admin(&store).stat(&path("/f")).expect("there");
    assert_eq!((info.len, &info.lost[..]), (4 * MIB, &[PageRange::new(512, 512)][..]));
}
