//! The store in one process: files, restarts, idle moves, drains.

mod store_support;

use codax_core::ErrorKind;
use codax_core::change::{LinkModel, NodeMemory, PageKind, PoolState};
use codax_core::info::Exclusive;
use codax_core::request::{Open, PlacementSpec};
use codax_engine::{DeviceSpec, DrainOptions, Store, StoreOptions};
use std::time::Duration;
use store_support::*;

fn state(store: &codax_engine::Store) -> PoolState {
    store.info().pools[1].state
}

fn quiet() -> impl FnMut(&codax_core::info::JobInfo) -> bool {
    |_| true
}

#[test]
fn files_and_their_bytes_survive_a_restart_without_a_close() {
    let rig = Rig::new();
    {
        let store = rig.open();
        let s = admin(&store);
        s.mkdir(&path("/d"), 0o755, None).expect("mkdir");
        make(&s, "/d/a", 3 * MIB + 5, "sim0");
        make(&s, "/d/b", 10_000, "dram");
        make(&s, "/gone", 10_000, "dram");
        s.remove(&path("/gone"), false).expect("removed");
        s.rename(&path("/d/b"), &path("/c"), false).expect("renamed");
    }
    let store = rig.open();
    let s = admin(&store);
    assert_eq!(store.info().recovery, Vec::<String>::new());
    assert_eq!(read(&s, "/d/a").len() as u64, 3 * MIB + 5);
    assert_intact(&s, "/d/a", 3 * MIB + 5);
    let b = read(&s, "/c");
    assert!(b.iter().enumerate().all(|(i, b)| *b == byte_at("/d/b", i as u64)));
    assert_eq!(s.stat(&path("/gone")).expect_err("gone").kind, ErrorKind::NotFound);
    assert_eq!(store.check(false).expect("check"), []);
    store.close(true).expect("purged");
}

#[test]
fn an_idle_file_moves_to_other_frames_of_another_object() {
    let rig = Rig::new();
    let store = rig.open();
    let s = admin(&store);
    let opened = make(&s, "/a", 5 * MIB + 77, "dram");
    let report = s.move_file(&path("/a"), "sim0", None, &mut quiet()).expect("moved");
    assert_eq!(report.bytes, (5 * MIB + 77).next_multiple_of(4096));
    assert_eq!(pool_of(&s, "/a"), [1]);
    let pools = store.info().pools;
    assert_eq!(pools[0].used, 0);
    assert_eq!(pools[1].used, report.bytes);
    assert_intact(&s, "/a", 5 * MIB + 77);
    assert_eq!(store.check(false).expect("check"), []);

    let part =
        s.move_file(&path("/a"), "dram", Some((2 * MIB + 10, 20)), &mut quiet()).expect("a block moved");
    assert_eq!(part.bytes, 2 * MIB);
    assert_eq!(pool_of(&s, "/a"), [1, 0, 1]);
    assert_intact(&s, "/a", 5 * MIB + 77);
    assert_eq!(store.check(false).expect("check"), []);
    s.close(opened.handle);
    s.remove(&path("/a"), false).expect("removed");
    assert!(store.info().pools.iter().all(|p| p.used == 0 && p.held == 0), "{:?}", store.info().pools);
}

#[test]
fn a_drain_empties_the_device_and_online_brings_everything_home() {
    let rig = Rig::new();
    let store = rig.open();
    let s = admin(&store);
    for i in 0..40 {
        let o = make(&s, &format!("/f{i}"), 20_000 + i * 4096, "sim0");
        s.close(o.handle);
    }
    let plan = s
        .drain("sim0", DrainOptions { dry_run: true, ..DrainOptions::default() }, &mut quiet())
        .expect("plan");
    assert_eq!(plan.plan.expect("a plan").moves.len(), 40);
    assert_eq!(state(&store), PoolState::Online);

    let report = s.drain("sim0", DrainOptions::default(), &mut quiet()).expect("drained");
    assert_eq!(report.files, 40);
    assert_eq!(state(&store), PoolState::Offline);
    assert_eq!(store.info().pools[1].free, 32 * MIB);
    for i in 0..40 {
        assert_intact(&s, &format!("/f{i}"), 20_000 + i * 4096);
    }
    let no = s.open(&Open { placement: on("sim0"), ..open_of("/no", 4096) }).expect_err("offline");
    assert_eq!(no.kind, ErrorKind::DeviceState);
    drop(s);
    drop(store);

    let store = rig.open();
    assert_eq!(state(&store), PoolState::Offline, "offline is remembered");
    let s = admin(&store);
    let report = s.online("sim0", &mut quiet()).expect("online");
    assert_eq!((report.files, report.left.len()), (40, 0));
    for i in 0..40 {
        assert_eq!(pool_of(&s, &format!("/f{i}")), [1]);
        assert_intact(&s, &format!("/f{i}"), 20_000 + i * 4096);
    }
    assert_eq!(store.check(false).expect("check"), []);
}

#[test]
fn a_drain_is_refused_before_anything_moves() {
    let rig = Rig::new();
    let store = rig.open();
    let s = admin(&store);
    assert_eq!(
        s.drain("dram", DrainOptions::default(), &mut quiet()).expect_err("dram").kind,
        ErrorKind::Invalid
    );
    assert_eq!(
        s.drain("none", DrainOptions::default(), &mut quiet()).expect_err("none").kind,
        ErrorKind::NotFound
    );

    let fill = make(&s, "/fill", 50 * MIB, "dram");
    make(&s, "/big", 20 * MIB, "sim0");
    let e = s.drain("sim0", DrainOptions::default(), &mut quiet()).expect_err("no room");
    assert_eq!(e.kind, ErrorKind::NoSpace);
    assert!(e.message.contains("/big") && e.message.contains("6291456"), "{e}");

    s.close(fill.handle);
    s.remove(&path("/fill"), false).expect("removed");
    let spec = PlacementSpec::On { pool: "sim0".into(), strict: true };
    s.set_attr(&path("/big"), None, None, None, Some(Some(&spec))).expect("strict");
    let e = s.drain("sim0", DrainOptions::default(), &mut quiet()).expect_err("strict");
    assert!(e.message.contains("/big"), "{e}");
    s.set_attr(&path("/big"), None, None, None, Some(on("sim0").as_ref())).expect("not strict");

    let opened = s.open(&Open { create: false, ..open_of("/big", 0) }).expect("open");
    let held = s.raw(opened.handle, true).expect("raw");
    let e = s.drain("sim0", DrainOptions::default(), &mut quiet()).expect_err("held");
    assert_eq!(e.kind, ErrorKind::Busy);
    assert!(e.message.contains(&std::process::id().to_string()), "{e}");
    let wait = DrainOptions { wait: Duration::from_millis(300), ..DrainOptions::default() };
    let e = s.drain("sim0", wait, &mut quiet()).expect_err("still held");
    assert_eq!(e.kind, ErrorKind::Busy);
    assert_eq!(state(&store), PoolState::Online);
    drop(held);
    s.raw_done(opened.file);
    s.drain("sim0", DrainOptions::default(), &mut quiet()).expect("drained");
    assert_eq!(
        s.drain("sim0", DrainOptions::default(), &mut quiet()).expect_err("offline").kind,
        ErrorKind::DeviceState
    );
}

#[test]
fn a_full_pool_is_no_space_and_leaves_nothing_behind() {
    let rig = Rig::new();
    let store = rig.open();
    let s = admin(&store);
    let e = s.open(&Open { placement: on("sim0"), ..open_of("/a", 32 * MIB + 1) }).expect_err("too large");
    assert_eq!(e.kind, ErrorKind::NoSpace);
    assert_eq!(s.stat(&path("/a")).expect_err("not there").kind, ErrorKind::NotFound);
    assert_eq!(store.info().pools[1].used, 0);
    let o = s.open(&Open { placement: on("sim0"), ..open_of("/a", 32 * MIB) }).expect("fits");
    assert_eq!(s.set_len(o.handle, 32 * MIB + 1).expect_err("full").kind, ErrorKind::NoSpace);
    s.set_len(o.handle, 10).expect("cut");
    s.set_len(o.handle, 9000).expect("grown");
    assert_eq!(read(&s, "/a"), vec![0; 9000]);
    assert_eq!(store.check(false).expect("check"), []);
}

#[test]
fn what_was_cut_off_reads_as_zeros_when_the_file_grows_again() {
    let rig = Rig::new();
    let store = rig.open();
    let s = admin(&store);
    let o = make(&s, "/a", 10_000, "dram");
    s.set_len(o.handle, 5000).expect("cut");
    s.set_len(o.handle, 10_000).expect("grown");
    let bytes = read(&s, "/a");
    assert!(bytes[..5000].iter().enumerate().all(|(i, b)| *b == byte_at("/a", i as u64)));
    assert!(bytes[5000..].iter().all(|b| *b == 0));
}

#[test]
fn a_file_in_the_making_leaves_nothing_when_its_client_dies() {
    let rig = Rig::new();
    let store = rig.open();
    let s = admin(&store);
    {
        let dying = admin(&store);
        let o =
            dying.open(&Open { unnamed: true, placement: on("sim0"), ..open_of("/x", MIB) }).expect("made");
        dying.set_len(o.handle, 3 * MIB).expect("grown, in its pool");
        assert_eq!(store.info().pools[1].used, 3 * MIB);
    }
    assert_eq!(store.info().pools[1].used, 0);
    let o = s.open(&Open { unnamed: true, ..open_of("/x", MIB) }).expect("made");
    s.publish(o.handle, &path("/x"), false).expect("named");
    let again = s.open(&Open { unnamed: true, ..open_of("/x", MIB) }).expect("made");
    assert_eq!(s.publish(again.handle, &path("/x"), false).expect_err("exists").kind, ErrorKind::Exists);
    s.publish(again.handle, &path("/x"), true).expect("replaced");
    s.close(o.handle);
    assert_eq!(store.info().pools[0].used, MIB);
}

#[test]
fn an_object_cut_by_its_holder_is_found_and_mended() {
    let rig = Rig::new();
    let store = rig.open();
    let s = admin(&store);
    let o = make(&s, "/a", 4 * MIB, "dram");
    let (_, fds) = s.raw(o.handle, true).expect("raw");
    codax_os::object::set_len(&fds[0], MIB).expect("cut");
    drop(fds);
    s.raw_done(o.file);
    let found = store.check(false).expect("check");
    assert_eq!(found.len(), 1);
    assert!(found[0].what.contains("/a") && found[0].what.contains("3145728"), "{found:?}");
    let e = s.move_file(&path("/a"), "sim0", None, &mut quiet()).expect_err("can't be copied");
    assert_eq!(e.kind, ErrorKind::Corrupt);
    let mended = store.check(true).expect("repair");
    assert!(mended.iter().all(|f| f.repaired), "{mended:?}");
    assert_eq!(store.check(false).expect("check"), []);
    s.move_file(&path("/a"), "sim0", None, &mut quiet()).expect("moves again");
}

#[test]
fn another_user_s_files_are_not_theirs() {
    let rig = Rig::new();
    let store = rig.open();
    let s = admin(&store);
    let o = make(&s, "/secret", 4096, "dram");
    s.set_attr(&path("/secret"), Some(0o600), None, None, None).expect("chmod");
    s.close(o.handle);
    let other = session(&store, 1000, false);
    let read_only = Open { write: false, create: false, ..open_of("/secret", 0) };
    assert_eq!(other.open(&read_only).expect_err("0600").kind, ErrorKind::Permission);
    assert_eq!(other.open(&open_of("/mine", 10)).expect_err("root's directory").kind, ErrorKind::Permission);
    assert_eq!(
        other.move_file(&path("/secret"), "sim0", None, &mut quiet()).expect_err("no").kind,
        ErrorKind::Permission
    );
    assert_eq!(
        other.drain("sim0", DrainOptions::default(), &mut quiet()).expect_err("no").kind,
        ErrorKind::Permission
    );
    s.set_attr(&path("/secret"), Some(0o644), None, None, None).expect("chmod");
    let opened = other.open(&read_only).expect("0644");
    assert_eq!(other.raw(opened.handle, true).expect_err("read-only").kind, ErrorKind::Permission);
    let (_, fds) = other.raw(opened.handle, false).expect("read");
    assert!(
        codax_os::object::write_all_at(&fds[0], b"x", 0).is_err(),
        "a read-only open gives a read-only descriptor"
    );
}

#[test]
fn devices_keep_their_size() {
    let rig = Rig::new();
    rig.open().close(false).expect("closed");
    let mut options = rig.options();
    options.devices[0].bytes = Some(16 * MIB);
    let e = codax_engine::Store::open(options, TestEnv::new()).expect_err("another size");
    assert_eq!(e.kind, ErrorKind::DeviceState);
    assert!(e.message.contains("sim0"), "{e}");
    let mut options = rig.options();
    options.devices.clear();
    options.dram_bytes = None;
    let store = codax_engine::Store::open(options, TestEnv::new()).expect("as it was");
    assert_eq!(store.info().pools.len(), 2);
    assert_eq!(store.info().pools[0].bytes, 64 * MIB);
}

#[test]
fn a_start_that_fails_leaves_the_store_as_it_was() {
    let rig = Rig::new();
    let store = rig.open();
    make(&admin(&store), "/a", MIB, "sim0");
    store.close(false).expect("closed");
    drop(store);
    let owned = |pool: &str| {
        let table = codax_engine::table::TableReader::open(&rig.layout().frame_table(pool)).expect("a table");
        (0..table.frames())
            .filter(|f| table.get(codax_core::Frame(*f)).expect("whole").owner.is_some())
            .count()
    };
    assert_eq!(owned("sim0"), 256);

    // One that there is room for, and one whose table alone takes 4 TiB.
    for devices in [&[("sim1", 16 * MIB), ("big", 1 << 50)][..], &[("big", 1 << 50), ("sim1", 16 * MIB)]] {
        let mut options = rig.options();
        options.devices.extend(devices.iter().map(|&(name, bytes)| {
            codax_engine::DeviceSpec::emulated(name, bytes, codax_core::change::LinkModel::default())
        }));
        let refused = codax_engine::Store::open(options, TestEnv::new()).expect_err("no room for its table");
        assert_eq!(refused.kind, ErrorKind::NoSpace, "{refused}");
        for name in ["sim1", "big"] {
            assert!(!rig.layout().pool(name).exists(), "{name} is left");
        }
        let left: Vec<_> = std::fs::read_dir(rig.layout().frames())
            .expect("listed")
            .map(|e| e.expect("an entry").file_name())
            .collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert_eq!(owned("sim0"), 256);
    }

    let store = rig.open();
    assert_eq!(store.info().pools.len(), 2);
    assert_intact(&admin(&store), "/a", MIB);
    assert_eq!(store.check(false).expect("check"), []);
}

/// `check` says this, `check --repair` mends it, and then there is nothing more to say.
fn found_and_mended(store: &codax_engine::Store, says: &str) {
    let found = store.check(false).expect("check");
    assert!(found.iter().any(|f| f.what.contains(says) && !f.repaired), "{says}: {found:?}");
    let found = store.check(true).expect("check");
    assert!(found.iter().any(|f| f.what.contains(says) && f.repaired), "{says}: {found:?}");
    assert_eq!(store.check(false).expect("check"), [], "after {says}");
}

#[test]
fn a_frame_table_that_was_cut_or_damaged_is_made_anew() {
    use codax_core::frame::{FrameFlags, FrameState};
    use codax_engine::table::TableReader;
    let rig = Rig::new();
    let store = rig.open();
    let s = admin(&store);
    let opened = make(&s, "/a", MIB, "sim0");
    s.pin(opened.handle, codax_core::PageRange::new(0, 2)).expect("pinned");
    let at = rig.layout().frame_table("sim0");
    let whole = std::fs::read(&at).expect("read");
    let mut header = whole.clone();
    header[..8].fill(0xff);
    let mut garbage = whole.clone();
    garbage[4096 + 300 * 16..].fill(0xff);
    let damages = [("header", header), ("has 0 bytes", Vec::new()), ("unknown state", garbage)];
    for (says, bytes) in damages {
        std::fs::write(&at, &bytes).expect("written");
        if says != "unknown state" {
            assert_eq!(TableReader::open(&at).expect_err("damaged").kind, ErrorKind::Corrupt);
        }
        if !bytes.is_empty() {
            // Whoever uses it goes on.
            s.close(make(&s, "/b", MIB, "sim0").handle);
            s.remove(&path("/b"), false).expect("removed");
            std::fs::write(&at, &bytes).expect("written");
        }
        found_and_mended(&store, says);
        assert!(std::fs::read(&at).expect("read") == whole, "{says}: not what it was");
    }
    std::fs::remove_file(&at).expect("removed");
    found_and_mended(&store, "is missing");
    // The new one is the one in use.
    make(&s, "/b", MIB, "sim0");
    let table = TableReader::open(&at).expect("a table");
    let record = table.get(codax_core::Frame(256)).expect("whole");
    assert_eq!(record.state, FrameState::Used);
    let pinned = table.get(codax_core::Frame(1)).expect("whole");
    assert_eq!((pinned.pins, pinned.flags), (1, FrameFlags::PINNED));
}

#[test]
fn a_names_file_that_was_cut_is_written_anew() {
    use codax_engine::names;
    let rig = Rig::new();
    let store = rig.open();
    let s = admin(&store);
    s.mkdir(&path("/d"), 0o755, None).expect("mkdir");
    let file = make(&s, "/d/a", 4096, "dram").file;
    s.rename(&path("/d/a"), &path("/d/b"), false).expect("renamed");
    let gone = make(&s, "/gone", 4096, "dram");
    s.remove(&path("/gone"), false).expect("removed");
    assert_eq!(store.check(false).expect("an orphan is no difference"), []);
    s.close(gone.handle);
    assert_eq!(store.check(false).expect("check"), []);
    let at = rig.layout().names();
    let whole = std::fs::read(&at).expect("read");
    for bytes in [&b""[..], &whole[..16], b"something else"] {
        std::fs::write(&at, bytes).expect("written");
        found_and_mended(&store, "names file");
        let found = names::read(&at).expect("whole");
        assert_eq!(names::path_of(&found, file).expect("named"), b"/d/b");
    }
    make(&s, "/later", 1, "dram");
    assert_eq!(store.check(false).expect("what comes later goes to the new one"), []);
}

#[test]
fn what_strangers_put_among_the_objects_is_said_and_left() {
    let rig = Rig::new();
    let store = rig.open();
    make(&admin(&store), "/a", MIB, "sim0");
    drop(store);
    let pool = rig.layout().pool("sim0");
    std::fs::write(pool.join("zzz"), b"mine").expect("written");
    std::fs::create_dir(pool.join("0000000000000abc")).expect("made");
    let store = rig.open();
    let notes = store.info().recovery;
    assert!(notes.len() == 2 && notes[1].contains("sim0/zzz"), "{notes:?}");
    for repair in [false, true] {
        let found = store.check(repair).expect("check");
        assert!(found.len() == 2 && found[1].what.contains("move it away"), "{found:?}");
        assert!(found.iter().all(|f| !f.repaired));
    }
    assert_eq!(store.info().recovery, notes);
    std::fs::remove_file(pool.join("zzz")).expect("there still");
    std::fs::remove_dir(pool.join("0000000000000abc")).expect("there still");
    assert_eq!(store.check(false).expect("check"), []);
    assert_eq!(store.info().recovery, Vec::<String>::new());

    // An object of a file that never was, without memory.
    std::fs::write(pool.join("00000000000fffff"), b"").expect("written");
    found_and_mended(&store, "doesn't know of");
    assert!(!pool.join("00000000000fffff").exists());
}

#[test]
fn a_file_without_its_object_is_damaged_and_the_note_goes_with_the_repair() {
    let rig = Rig::new();
    let store = rig.open();
    let object = {
        let s = admin(&store);
        let file = make(&s, "/a", MIB, "sim0").file;
        make(&s, "/b", MIB, "sim0");
        rig.layout().pool("sim0").join(codax_engine::backing::object_name(file))
    };
    drop(store);
    std::fs::remove_file(&object).expect("there");
    let store = rig.open();
    let s = admin(&store);
    assert_eq!(store.info().recovery.len(), 1);
    let opened = s.open(&Open { create: false, ..open_of("/a", 0) }).expect("opens");
    let damaged = s.raw(opened.handle, false).expect_err("no object");
    assert_eq!(damaged.kind, ErrorKind::Corrupt);
    assert!(damaged.message.contains("/a: its object in sim0 is missing"), "{damaged}");
    assert_eq!(s.set_len(opened.handle, 2 * MIB).expect_err("no object").kind, ErrorKind::Corrupt);
    assert_intact(&s, "/b", MIB);
    assert_eq!(store.check(false).expect("check").len(), 1);
    assert_eq!(store.info().recovery.len(), 1, "it is lost still");
    assert!(store.check(true).expect("check").iter().all(|f| f.repaired));
    assert_eq!(store.info().recovery, Vec::<String>::new());
    assert_eq!(store.check(false).expect("check"), []);
    assert_eq!(read(&s, "/a"), vec![0; 1 << 20]);
}

#[test]
fn scattered_pages_move_drain_and_come_home() {
    let rig = Rig::new();
    {
        let store = rig.open();
        let s = admin(&store);
        let spec = PlacementSpec::Interleave { pools: vec!["sim0".into(), "dram".into()] };
        s.mkdir(&path("/i"), 0o755, Some(&spec)).expect("mkdir");
        let o = s.open(&open_of("/i/a", 8 * MIB)).expect("made");
        let bytes: Vec<u8> = (0..8 * MIB).map(|i| byte_at("/i/a", i)).collect();
        write(&s, &o, &bytes, 0);
        s.close(o.handle);
        assert_eq!(pool_of(&s, "/i/a"), [1, 0, 1, 0]);
        s.drain("sim0", DrainOptions::default(), &mut quiet()).expect("drained");
        assert_eq!(pool_of(&s, "/i/a"), [0]);
        s.online("sim0", &mut quiet()).expect("online");
        assert_eq!(pool_of(&s, "/i/a"), [1, 0, 1, 0]);
        s.move_file(&path("/i/a"), "dram", None, &mut quiet()).expect("moved");
        s.move_file(&path("/i/a"), "sim0", Some((2 * MIB, 1)), &mut quiet()).expect("a block moved");
        assert_intact(&s, "/i/a", 8 * MIB);
    }
    let store = rig.open();
    assert_intact(&admin(&store), "/i/a", 8 * MIB);
    assert_eq!(store.check(false).expect("check"), []);
}

#[test]
fn who_says_that_it_maps_a_file_must_be_allowed_to() {
    let rig = Rig::new();
    let store = rig.open();
    let s = admin(&store);
    let o = make(&s, "/secret", 4096, "dram");
    s.set_attr(&path("/secret"), Some(0o600), None, None, None).expect("chmod");
    let other = session(&store, 1000, false);
    let claim = codax_core::request::Mapped { file: o.file, mappings: 1, write: true, runs: vec![] };
    other.reattach(&[claim]).expect("it is only not believed");
    assert_eq!(s.stat(&path("/secret")).expect("stat").mapped_by, Vec::<u32>::new());
}

/// A mapper that takes every message and answers none.
#[derive(Debug)]
struct Silent;

impl codax_engine::Mapper for Silent {
    fn send(
        &self,
        _: &codax_core::live::MoverMsg,
        _: Option<std::os::fd::BorrowedFd<'_>>,
    ) -> codax_core::Result<()> {
        Ok(())
    }
}

/// Ends a process when it goes out of scope.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_with_a_connection_that_is_not_back_yet_holds_its_files() {
    let place = Rig::new();
    let store = place.open();
    let owner = admin(&store);
    let file = make(&owner, "/f", 64 << 10, "sim0").file;
    let object = place.layout().pool("sim0").join(codax_engine::backing::object_name(file));
    let holder = std::fs::File::open(object).unwrap();
    let process = std::process::Command::new("sleep").arg("600").stdin(holder).spawn().unwrap();
    let process = Ended(process);
    let connect = || {
        let cred = owner.cred().clone();
        store.connect(codax_engine::Peer { cred, pid: process.0.id(), pidfd: None })
    };
    let held = || {
        let options = codax_engine::DrainOptions { dry_run: true, ..Default::default() };
        let plan = owner.drain("sim0", options, &mut quiet()).unwrap().plan.unwrap();
        plan.obstacles.len()
    };

    let (first, second) = (connect(), connect());
    first.set_links(2).unwrap();
    first.attach(std::sync::Arc::new(Silent), true, false).unwrap();
    let mapped = codax_core::request::Mapped { file, mappings: 1, write: true, runs: Vec::new() };
    first.reattach(&[mapped]).unwrap();
    assert_eq!(held(), 1, "which of its two connections maps it is not known");
    second.set_links(2).unwrap();
    second.attach(std::sync::Arc::new(Silent), true, false).unwrap();
    assert_eq!(held(), 0);
    drop(second);
    assert_eq!(held(), 1, "its mappings may be there without it");
    first.set_links(1).unwrap();
    assert_eq!(held(), 0);
}

/// An object's descriptor that is this process's own: a lease is refused for it, and `/proc` is not asked about this process.
fn held_by_nobody_to_be_seen(rig: &Rig, store: &Store, text: &str) -> std::fs::File {
    let session = admin(store);
    drop(make(&session, text, MIB, "sim0"));
    let file = session.stat(&path(text)).expect("there").id;
    std::fs::File::open(rig.layout().pool("sim0").join(format!("{:016x}", file.0))).expect("its object")
}

#[test]
fn who_is_just_leaving_does_not_keep_a_drain_from_its_end() {
    let rig = Rig::new();
    let store =
        Store::open(StoreOptions { ack_timeout: Duration::from_secs(60), ..rig.options() }, TestEnv::new());
    let store = store.expect("the store opens");
    let mut held = Some(held_by_nobody_to_be_seen(&rig, &store, "/f"));
    let mut waited = false;
    let report = admin(&store).drain("sim0", DrainOptions::default(), &mut |job| {
        if let Some(by) = job.waiting.first().map(|file| &file.by) {
            assert!(by.iter().all(|by| by.pid.is_none()), "{by:?}");
            waited = true;
            held = None;
        }
        true
    });
    assert_eq!((report.expect("it has left").files, waited), (1, true));
}

#[test]
fn who_is_never_seen_and_does_not_leave_ends_a_drain() {
    let rig = Rig::new();
    let options = StoreOptions { ack_timeout: Duration::from_millis(100), ..rig.options() };
    let store = Store::open(options, TestEnv::new()).expect("the store opens");
    let _held = held_by_nobody_to_be_seen(&rig, &store, "/f");
    let error = admin(&store).drain("sim0", DrainOptions::default(), &mut |_| true).unwrap_err();
    assert!(error.kind == ErrorKind::Busy && error.message.contains("/f"), "{error}");
}

#[test]
fn a_file_without_a_name_waits_for_who_held_it_before_a_restart() {
    let rig = Rig::new();
    let store = rig.open();
    let s = admin(&store);
    let opened = make(&s, "/f", MIB, "sim0");
    s.remove(&path("/f"), false).expect("removed");
    // On its way between two sockets: the kernel knows that somebody has it, and no table of descriptors says who.
    let (here, there) = codax_os::sock::pair().expect("sockets");
    let object = std::fs::File::open(rig.layout().pool("sim0").join(format!("{:016x}", opened.file.0)));
    let object = object.expect("there");
    codax_os::sock::send(&here, b"x", &[std::os::fd::AsFd::as_fd(&object)]).expect("sent");
    drop(object);
    std::mem::forget(s);
    drop(store);
    let store = rig.open();
    let s = admin(&store);
    let used = || store.info().pools.iter().map(|pool| (pool.files, pool.used)).collect::<Vec<_>>();
    assert_eq!(used(), [(0, 0), (1, MIB)]);
    // Who tries to move it finds it held, and leaves it.
    s.drain("sim0", DrainOptions::default(), &mut |_| true).expect_err("held");
    assert_eq!(used(), [(0, 0), (1, MIB)]);
    drop((here, there));
    assert_eq!(store.check(false).expect("check"), []);
    assert_eq!(used(), [(0, 0), (0, 0)]);
}

#[test]
fn what_keeps_others_off_a_node_is_remembered_by_a_start_that_succeeds() {
    let nodes = codax_os::topology::nodes(std::path::Path::new(codax_os::topology::SYSFS));
    let Some(node) = nodes.first().filter(|_| codax_os::mounts::can_mount()) else { return };
    let memory = NodeMemory { node: node.node, page: PageKind::Small };
    let device = |name: &str, exclusive| DeviceSpec {
        numa: (name == "sim0").then_some(memory),
        exclusive,
        ..DeviceSpec::emulated(name, 4 * MIB, LinkModel::default())
    };
    let rig = Rig::new();
    let mode = |devices: Vec<DeviceSpec>| {
        let store = Store::open(StoreOptions { devices, ..rig.options() }, TestEnv::new())?;
        let pool = store.info().pools.into_iter().find(|pool| pool.name == "sim0");
        store.end();
        Ok::<_, codax_core::Error>(pool.map(|pool| pool.exclusive))
    };
    assert_eq!(mode(Vec::new()), Ok(None));
    let in_the_way = rig.layout().pool("sim1");
    std::fs::write(&in_the_way, "").expect("room");
    mode(vec![device("sim0", Some(Exclusive::Reserve)), device("sim1", None)])
        .expect_err("sim1 has no place");
    std::fs::remove_file(&in_the_way).expect("there");
    assert_eq!(mode(vec![device("sim0", None)]), Ok(Some(Exclusive::None)));
    assert_eq!(mode(vec![device("sim0", Some(Exclusive::Reserve))]), Ok(Some(Exclusive::Reserve)));
    assert_eq!(mode(vec![device("sim0", None)]), Ok(Some(Exclusive::Reserve)));
    assert_eq!(mode(Vec::new()), Ok(Some(Exclusive::Reserve)), "the store knows it");
    // A start that is refused changes nothing of that: here no memory is movable.
    if node.is_movable() == Some(false) {
        let refused = mode(vec![device("sim0", Some(Exclusive::Movable))]).expect_err("it isn't movable");
        assert!(refused.message.contains("aren't movable"), "{refused}");
        assert_eq!(mode(Vec::new()), Ok(Some(Exclusive::Reserve)));
    }
    assert_eq!(mode(vec![device("sim0", Some(Exclusive::None))]), Ok(Some(Exclusive::None)));
    assert_eq!(mode(Vec::new()), Ok(Some(Exclusive::None)));
}
