//! Pools on media of their own: what they keep when the store has gone, as it goes with the power.
//!
//! A directory on a disk stands for the medium; what takes a real device is among the end-to-end tests.
#![allow(clippy::cast_possible_truncation)]

mod fs_support;
mod store_support;

use codax_core::ROOT;
use codax_core::info::Severity;
use codax_core::{ErrorKind, PageRange};
use codax_engine::fs::Allocate;
use codax_engine::{DrainOptions, Format, Store};
use fs_support::*;
use store_support::media::{Media, catalogs, unlock};

#[test]
fn files_are_there_in_another_store_with_names_owners_modes_and_bytes() {
    let media = Media::new();
    {
        let rig = Rig::new();
        let store = media.open(&rig, &["pmem0"]);
        let s = admin(&store);
        s.mkdir(&path("/models"), 0o750, None).expect("made");
        s.mkdir(&path("/models/a"), 0o700, None).expect("made");
        make(&s, "/models/a/weights", 3 * MIB + 77, "pmem0");
        make(&s, "/scratch", MIB, "dram");
        make(&s, "/gone", MIB, "pmem0");
        s.set_attr(&path("/models/a/weights"), Some(0o640), Some(1000), Some(100), None).expect("set");
        s.rename(&path("/models/a/weights"), &path("/models/w"), false).expect("renamed");
        s.remove(&path("/gone"), false).expect("removed");
        let info = s.stat(&path("/models/w")).expect("there");
        assert!(info.persistent);
        assert!(!s.stat(&path("/scratch")).expect("there").persistent);
        assert_eq!(store.check(false).expect("checked"), []);
        // As the power goes: nobody ends anything.
        std::mem::forget(s);
        std::mem::forget(store);
        // Another process's lock would go with it.
        unlock(&media.path("pmem0"));
    }
    let rig = Rig::new();
    let store = media.open(&rig, &["pmem0"]);
    let s = admin(&store);
    let info = s.stat(&path("/models/w")).expect("there");
    assert_eq!((info.mode, info.uid, info.gid, info.len), (0o640, 1000, 100, 3 * MIB + 77));
    assert_eq!(s.stat(&path("/models")).expect("there").mode, 0o750);
    let bytes = read(&s, "/models/w");
    assert!(bytes.iter().enumerate().all(|(i, b)| *b == byte_at("/models/a/weights", i as u64)));
    for gone in ["/scratch", "/gone", "/models/a"] {
        assert_eq!(s.stat(&path(gone)).expect_err("gone").kind, ErrorKind::NotFound, "{gone}");
    }
    assert_eq!(store.check(false).expect("checked"), []);
    make(&s, "/more", MIB, "pmem0");
    assert_intact(&s, "/more", MIB);
}

#[test]
fn a_restart_goes_on_with_the_journal_and_leaves_the_catalog_right() {
    let (media, rig) = (Media::new(), Rig::new());
    let store = media.open(&rig, &["pmem0"]);
    let s = admin(&store);
    make(&s, "/f", 2 * MIB, "pmem0");
    drop(s);
    store.end();
    let before = catalogs(&media.path("pmem0"));
    let store = media.open(&rig, &["pmem0"]);
    assert_eq!(catalogs(&media.path("pmem0")), before, "nothing is written where nothing has changed");
    assert_intact(&admin(&store), "/f", 2 * MIB);
    assert_eq!(store.check(false).expect("checked"), []);
}

#[test]
fn what_lay_where_the_power_keeps_nothing_is_gone_and_never_zeros() {
    let media = Media::new();
    {
        let rig = Rig::new();
        let store = media.open(&rig, &["pmem0"]);
        let s = admin(&store);
        make(&s, "/f", 4 * MIB, "pmem0");
        s.move_file(&path("/f"), "dram", Some((2 * MIB, 2 * MIB)), &mut |_| true).expect("moved");
        assert!(!s.stat(&path("/f")).expect("there").persistent);
    }
    let rig = Rig::new();
    let store = media.open(&rig, &["pmem0"]);
    let s = admin(&store);
    let info = s.stat(&path("/f")).expect("there");
    assert_eq!((info.len, &info.lost[..]), (4 * MIB, &[PageRange::new(512, 512)][..]));
    let opened = s.open(&open_of("/f", 0)).expect("opened");
    let mut bytes = vec![0; 2 * MIB as usize + 5];
    assert_eq!(s.read_at(opened.handle, 0, &mut bytes), Ok(2 * MIB as usize));
    assert!(bytes[..2 * MIB as usize].iter().enumerate().all(|(i, b)| *b == byte_at("/f", i as u64)));
    let error = s.read_at(opened.handle, 2 * MIB, &mut bytes).expect_err("gone");
    assert_eq!(error.kind, ErrorKind::Lost);
    assert!(error.message.contains("2097152..4194304"), "{error}");
    assert_eq!(s.write_at(opened.handle, 3 * MIB, b"x").expect_err("gone").kind, ErrorKind::Lost);
    assert_eq!(s.raw(opened.handle, false).expect_err("gone").kind, ErrorKind::Lost);
    // Without them it is whole again.
    s.set_len(opened.handle, 2 * MIB).expect("cut");
    s.set_len(opened.handle, 3 * MIB).expect("longer");
    assert_eq!(read(&s, "/f").len() as u64, 3 * MIB);
    assert_eq!(store.check(false).expect("checked"), []);
}

#[test]
fn a_file_over_two_media_is_whole_when_both_are_there() {
    let media = Media::new();
    {
        let rig = Rig::new();
        let store = media.open(&rig, &["pmem0", "pmem1"]);
        let s = admin(&store);
        make(&s, "/f", 4 * MIB, "pmem0");
        s.move_file(&path("/f"), "pmem1", Some((0, 2 * MIB)), &mut |_| true).expect("moved");
        assert!(s.stat(&path("/f")).expect("there").persistent);
    }
    {
        let rig = Rig::new();
        let store = media.open(&rig, &["pmem1", "pmem0"]);
        let s = admin(&store);
        assert_intact(&s, "/f", 4 * MIB);
        assert_eq!(store.check(false).expect("checked"), []);
    }
    let rig = Rig::new();
    let store = media.open(&rig, &["pmem1"]);
    assert_eq!(admin(&store).stat(&path("/f")).expect("there").lost, [PageRange::new(512, 512)]);
    store.end();
    // The other one brings what it has.
    let store = media.open(&rig, &["pmem1", "pmem0"]);
    assert_intact(&admin(&store), "/f", 4 * MIB);
    assert_eq!(store.check(false).expect("checked"), []);
}

#[test]
fn a_drain_leaves_what_outlives_the_power_where_it_does() {
    let (media, rig) = (Media::new(), Rig::new());
    let store = media.open(&rig, &["pmem0", "pmem1"]);
    let s = admin(&store);
    make(&s, "/f", 4 * MIB, "pmem0");
    let error = s.drain("pmem0", DrainOptions::default(), &mut |_| true).expect_err("volatile");
    assert_eq!(error.kind, ErrorKind::DeviceState);
    assert!(error.message.contains("--volatile") && error.message.contains("/f"), "{error}");
    let volatile = DrainOptions { volatile: true, ..DrainOptions::default() };
    s.drain("pmem0", volatile, &mut |_| true).expect("drained");
    assert!(!s.stat(&path("/f")).expect("there").persistent);
    s.detach_device("pmem0").expect("detached");
    s.attach_device("pmem0").expect("attached");
    s.online("pmem0", &mut |_| true).expect("online");
    assert!(s.stat(&path("/f")).expect("there").persistent);
    assert_intact(&s, "/f", 4 * MIB);
    assert_eq!(store.check(false).expect("checked"), []);
}

#[test]
fn a_medium_that_was_left_empty_is_taken_again_unless_another_store_has_files_there() {
    let (media, rig, other) = (Media::new(), Rig::new(), Rig::new());
    let store = media.open(&rig, &["pmem0"]);
    let s = admin(&store);
    s.drain("pmem0", DrainOptions::default(), &mut |_| true).expect("drained");
    s.detach_device("pmem0").expect("detached");
    {
        let guest = media.open(&other, &["pmem0"]);
        make(&admin(&guest), "/theirs", MIB, "pmem0");
        let error = s.attach_device("pmem0").expect_err("used");
        assert!(error.message.contains("is used by another store"), "{error}");
        guest.end();
    }
    let error = s.attach_device("pmem0").expect_err("theirs");
    assert!(error.message.contains("1 files") || error.message.contains("2 files"), "{error}");
    {
        let guest = media.open(&other, &["pmem0"]);
        admin(&guest).remove(&path("/theirs"), false).expect("removed");
        guest.end();
    }
    s.attach_device("pmem0").expect("attached");
    s.online("pmem0", &mut |_| true).expect("online");
    make(&s, "/f", MIB, "pmem0");
    assert_intact(&s, "/f", MIB);
    assert_eq!(store.check(false).expect("checked"), []);
}

#[test]
fn a_damaged_copy_is_mended_from_the_other() {
    let (media, rig) = (Media::new(), Rig::new());
    let store = media.open(&rig, &["pmem0"]);
    make(&admin(&store), "/f", MIB, "pmem0");
    let [first, _] = catalogs(&media.path("pmem0"));
    let at = (4096 + 64..first.len()).find(|at| first[*at] != 0).expect("a record");
    let file =
        std::fs::OpenOptions::new().write(true).open(media.path("pmem0").join("catalog.0")).expect("there");
    std::os::unix::fs::FileExt::write_all_at(&file, &[first[at] ^ 4], at as u64).expect("damaged");
    let found = store.check(false).expect("checked");
    assert!(
        found.iter().any(|f| f.severity == Severity::Mendable && f.what.starts_with("pmem0: ")),
        "{found:?}"
    );
    assert!(store.check(true).expect("checked").iter().all(|f| f.repaired));
    assert_eq!(store.check(false).expect("checked"), []);
    assert_eq!(catalogs(&media.path("pmem0"))[0], first);
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let (media, rig) = (Media::new(), Rig::new());
    let open = |format| Store::open(media.options(&rig, &["pmem0"], format), TestEnv::new());
    let refused = |format, says: &str| {
        let error = open(format).expect_err("refused");
        assert!(error.message.contains(says), "{error}");
    };
    refused(Format::Never, "`format`");
    std::fs::write(media.path("pmem0").join("catalog.0"), vec![7; 8192]).expect("written");
    refused(Format::Never, "`format`");
    assert_eq!(std::fs::read(media.path("pmem0").join("catalog.0")).expect("there"), vec![7; 8192]);
    let store = open(Format::IfNotOurs).expect("formatted");
    make(&admin(&store), "/f", MIB, "pmem0");
    // It is taken by one store at a time.
    let other = Rig::new();
    let error =
        Store::open(media.options(&other, &["pmem0"], Format::Force), TestEnv::new()).expect_err("busy");
    assert_eq!(error.kind, ErrorKind::Busy);
    store.end();
    // What is ours stays, unless it is by force.
    let store =
        Store::open(media.options(&other, &["pmem0"], Format::IfNotOurs), TestEnv::new()).expect("taken");
    assert_intact(&admin(&store), "/f", MIB);
    store.end();
    // What it is has been said once.
    let mut other_wise = media.options(&other, &["pmem0"], Format::Never);
    other_wise.devices[0].dax.as_mut().expect("a medium").persistent = Some(false);
    let error = Store::open(other_wise, TestEnv::new()).expect_err("refused");
    assert!(error.message.contains("pmem0 is persistent"), "{error}");
    // The first store knows that it was elsewhere.
    let store = open(Format::Never).expect("starts");
    let error =
        admin(&store).open(&open_of("/f", 0)).and_then(|o| admin(&store).raw(o.handle, false).map(drop));
    assert!(error.is_err());
    assert!(
        store.info().recovery.iter().any(|line| line.contains("another store")),
        "{:?}",
        store.info().recovery
    );
    store.end();
    let third = Rig::new();
    let store =
        Store::open(media.options(&third, &["pmem0"], Format::Force), TestEnv::new()).expect("formatted");
    assert_eq!(admin(&store).stat(&path("/f")).expect_err("gone").kind, ErrorKind::NotFound);
}

#[test]
fn a_mount_shows_no_zeros_where_bytes_are_gone() {
    let media = Media::new();
    {
        let rig = Rig::new();
        let store = media.open(&rig, &["pmem0"]);
        let s = admin(&store);
        make(&s, "/f", 6 * MIB, "pmem0");
        s.move_file(&path("/f"), "dram", Some((2 * MIB, 2 * MIB)), &mut |_| true).expect("moved");
        drop(s);
        store.end();
    }
    let rig = Rig::new();
    let store = media.open(&rig, &["pmem0"]);
    let fs = store.fs(false);
    let id = fs.lookup(ROOT, b"f").expect("there").id;
    let h = open(&fs, id).handle;
    // What copies only data copies nothing here.
    assert_eq!((fs.seek_data(h, 2 * MIB), fs.seek_hole(h, 0)), (Ok(2 * MIB), Ok(6 * MIB)));
    let mut bytes = vec![0xee; 6 * MIB as usize];
    assert_eq!(fs.read(h, 0, &mut bytes), Ok(2 * MIB as usize));
    assert_eq!(kind(fs.read(h, 2 * MIB, &mut bytes)), ErrorKind::Lost);
    assert_eq!(fs.read(h, 4 * MIB, &mut bytes), Ok(2 * MIB as usize));
    assert_eq!(kind(fs.write(h, 3 * MIB, b"x", false)), ErrorKind::Lost);
    let copy = create(&fs, ROOT, "copy").1.handle;
    assert_eq!(fs.copy_range(h, 0, copy, 0, 6 * MIB), Ok(2 * MIB as usize));
    assert_eq!(kind(fs.copy_range(h, 2 * MIB, copy, 2 * MIB, MIB)), ErrorKind::Lost);
    let how = |punch| Allocate { keep_size: true, punch, zero: !punch };
    assert_eq!(kind(fs.allocate(h, 3 * MIB, 4096, how(false))), ErrorKind::Lost);
    // Who gives them up has a hole there.
    fs.allocate(h, 3 * MIB, MIB, how(true)).expect("punched");
    assert_eq!(fs.seek_hole(h, 2 * MIB), Ok(3 * MIB));
    assert_eq!(fs.read(h, 3 * MIB, &mut bytes[..4096]), Ok(4096));
    assert!(bytes[..4096].iter().all(|b| *b == 0));
    assert_eq!(fs.write(h, 3 * MIB, b"x", false), Ok(1));
    assert_eq!(admin(&store).stat(&path("/f")).expect("there").lost, [PageRange::new(512, 256)]);
    fs.release(h);
    fs.release(copy);
    assert_eq!(store.check(false).expect("checked"), []);
}

#[test]
fn a_device_that_comes_back_elsewhere_is_attached_there() {
    let (media, rig) = (Media::new(), Rig::new());
    let store = media.open(&rig, &["pmem0"]);
    make(&admin(&store), "/f", MIB, "pmem0");
    store.end();
    let away = media.path("away");
    std::fs::rename(media.path("pmem0"), &away).expect("renamed");
    let store = media.open(&rig, &["pmem0"]);
    let s = admin(&store);
    let opened = s.open(&open_of("/f", 0)).expect("opened");
    assert_eq!(s.read_at(opened.handle, 0, &mut [0; 8]).expect_err("not there").kind, ErrorKind::Lost);
    s.attach_device("pmem0").expect_err("not there");
    let mut options = media.options(&rig, &["pmem0"], Format::Never);
    options.devices[0].dax.as_mut().expect("a medium").path = away;
    let lines = store.reload(&options).expect("reloaded");
    assert!(lines.iter().any(|line| line.contains("its path")), "{lines:?}");
    s.attach_device("pmem0").expect("attached");
    assert_intact(&s, "/f", MIB);
    assert_eq!(store.check(false).expect("checked"), []);
}

#[test]
fn a_device_that_is_named_again_is_attached_as_it_is_said_then() {
    let (media, rig) = (Media::new(), Rig::new());
    let store = media.open(&rig, &["pmem0"]);
    let s = admin(&store);
    s.drain("pmem0", DrainOptions::default(), &mut |_| true).expect("drained");
    s.detach_device("pmem0").expect("detached");
    drop(s);
    store.end();
    let store = media.open(&rig, &[]);
    let s = admin(&store);
    for name in ["catalog.0", "catalog.1"] {
        std::fs::write(media.path("pmem0").join(name), vec![7; 8192]).expect("overwritten");
    }
    let error = s.attach_device("pmem0").expect_err("somebody else's by now");
    assert!(error.message.contains("`format`"), "{error}");
    store.reload(&media.options(&rig, &["pmem0"], Format::IfNotOurs)).expect("reloaded");
    s.attach_device("pmem0").expect("formatted and attached");
    s.online("pmem0", &mut |_| true).expect("online");
    make(&s, "/f", MIB, "pmem0");
    assert_intact(&s, "/f", MIB);
    assert_eq!(store.check(false).expect("checked"), []);
}

#[test]
fn what_was_removed_while_a_device_was_away_goes_when_it_is_back() {
    let (media, rig) = (Media::new(), Rig::new());
    let store = media.open(&rig, &["pmem0"]);
    for name in ["/f", "/g", "/h"] {
        make(&admin(&store), name, MIB, "pmem0");
    }
    store.end();
    let (here, away) = (media.path("pmem0"), media.path("away"));
    let objects = || std::fs::read_dir(here.join("objects")).expect("listed").count();
    std::fs::rename(&here, &away).expect("renamed");
    let store = media.open(&rig, &["pmem0"]);
    admin(&store).remove(&path("/g"), false).expect("removed");
    store.end();
    // What this start was told of nobody remembers at the next.
    let store = media.open(&rig, &["pmem0"]);
    let s = admin(&store);
    s.remove(&path("/h"), false).expect("removed");
    std::fs::rename(&away, &here).expect("renamed");
    assert_eq!(objects(), 3);
    s.attach_device("pmem0").expect("attached");
    assert_eq!(objects(), 1);
    assert_intact(&s, "/f", MIB);
    let pool = store.info().pools.into_iter().find(|pool| pool.name == "pmem0").expect("there");
    assert_eq!((pool.used, pool.held), (MIB, 0));
    assert_eq!(store.check(false).expect("checked"), []);
}

#[test]
fn what_has_no_bytes_goes_with_its_placement() {
    let (media, rig) = (Media::new(), Rig::new());
    let store = media.open(&rig, &["pmem0"]);
    let s = admin(&store);
    let sound = |what: &str| assert_eq!(store.check(false).expect("checked"), [], "{what}");
    for dir in ["/d", "/d/e", "/dram"] {
        s.mkdir(&path(dir), 0o755, None).expect("made");
    }
    for file in ["/d/x", "/d/e/y", "/dram/z"] {
        s.open(&open_of(file, 0)).expect("made");
    }
    sound("made");
    let placement = on("pmem0");
    s.set_attr(&path("/d"), None, None, None, Some(placement.as_ref())).expect("placed");
    sound("placed");
    s.rename(&path("/d/e/y"), &path("/dram/y"), false).expect("renamed");
    sound("a file goes");
    s.rename(&path("/dram/z"), &path("/d/z"), false).expect("renamed");
    sound("a file comes");
    s.rename(&path("/d/e"), &path("/e"), false).expect("renamed");
    sound("a directory goes");
    s.rename(&path("/dram"), &path("/d/dram"), false).expect("renamed");
    sound("a directory comes");
    s.set_attr(&path("/d"), None, None, None, Some(None)).expect("placed");
    sound("placed elsewhere");
    s.set_attr(&path("/d/dram/z"), None, None, None, Some(on("pmem0").as_ref())).expect_err("not there");
    s.set_attr(&path("/d/z"), None, None, None, Some(on("pmem0").as_ref())).expect("placed");
    sound("a file by itself");
}
