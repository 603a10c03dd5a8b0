//! Files for `dram` that find no room there: on devices that allow it, marked, and home again.

mod store_support;

use codax_core::change::{LinkModel, PoolState};
use codax_core::emergency::{AtMost, Emergency, EmergencyInfo, When};
use codax_core::frame::FrameFlags;
use codax_core::info::PoolInfo;
use codax_core::request::{Open, PlacementSpec, QuotaOf};
use codax_core::{ErrorKind, Frame};
use codax_engine::table::TableReader;
use codax_engine::{DeviceSpec, DrainOptions, Session, Store, StoreOptions};
use std::time::{Duration, Instant};
use store_support::*;

/// `dram` of 16 MiB, and a device of 32 MiB that allows what is said.
fn options(rig: &Rig, emergency: Option<Emergency>) -> StoreOptions {
    let sim0 = DeviceSpec::emulated("sim0", 32 * MIB, LinkModel::default());
    StoreOptions {
        dram_bytes: Some(16 * MIB),
        devices: vec![DeviceSpec { emergency, ..sim0 }],
        ..rig.options()
    }
}

fn open(options: StoreOptions) -> Store {
    Store::open(options, TestEnv::new()).expect("the store opens")
}

const ALLOW: Option<Emergency> = Some(Emergency { at_most: AtMost::ALL, when: None });

fn with(at_most: AtMost, when: Option<When>) -> Option<Emergency> {
    Some(Emergency { at_most, when })
}

fn quiet() -> impl FnMut(&codax_core::info::JobInfo) -> bool {
    |_| true
}

/// A file without a placement of its own, so one for `dram`.
fn put(s: &Session, name: &str, len: u64) -> codax_core::Result<()> {
    let opened = s.open(&open_of(name, len))?;
    let bytes: Vec<u8> = (0..len).map(|i| byte_at(name, i)).collect();
    write(s, &opened, &bytes, 0);
    s.close(opened.handle);
    Ok(())
}

fn sim0(store: &Store) -> PoolInfo {
    store.info().pools[1].clone()
}

fn events(store: &Store, what: &str) -> Vec<(String, String, u64)> {
    let all = store.events(0, 1000).into_iter().filter(|event| event.what == what);
    all.map(|event| (event.subject, event.detail, event.bytes)).collect()
}

/// Frames that the table shows as an emergency's.
fn marked(rig: &Rig, pool: &str) -> u64 {
    let table = TableReader::open(&rig.layout().frame_table(pool)).expect("a table");
    let marked =
        |frame: &u64| table.get(Frame(*frame)).expect("a record").flags.contains(FrameFlags::EMERGENCY);
    (0..table.frames()).filter(marked).count() as u64
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_finds_no_room_is_on_the_device_marked_and_goes_home_when_there_is_room() {
    let rig = Rig::new();
    let store = open(options(&rig, ALLOW));
    let s = admin(&store);
    put(&s, "/first", 12 * MIB).expect("there is room");
    put(&s, "/second", 7 * MIB).expect("with what is on the device");
    assert_eq!(pool_of(&s, "/second"), [0, 1], "what fits is in dram");
    let used = sim0(&store).emergency;
    assert_eq!((used.allowed, used.used, used.at_most), (true, 3 * MIB, 32 * MIB));
    assert_eq!(marked(&rig, "sim0") * 4096, 3 * MIB);
    let (of, said, bytes) = events(&store, "emergency").pop().expect("noted");
    assert_eq!((of.as_str(), bytes), ("/second", 3 * MIB));
    assert!(said.contains("in sim0, since dram has no room"), "{said}");
    // It is known after a restart, and by a table that is made anew.
    drop(s);
    store.end();
    let store = open(options(&rig, ALLOW));
    let s = admin(&store);
    assert_eq!((sim0(&store).emergency.used, marked(&rig, "sim0") * 4096), (3 * MIB, 3 * MIB));
    assert_eq!(store.check(false).expect("check"), []);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(pool_of(&s, "/second"), [0, 1], "there is no room yet");
    s.remove(&path("/first"), false).expect("removed");
    until("it is home", || sim0(&store).emergency.used == 0);
    assert_eq!(pool_of(&s, "/second"), [0]);
    assert_eq!((marked(&rig, "sim0"), sim0(&store).used), (0, 0));
    assert!(s.stat(&path("/second")).expect("stat").away.is_empty());
    assert_intact(&s, "/second", 7 * MIB);
    let (of, _, bytes) = events(&store, "home").pop().expect("noted");
    assert_eq!((of.as_str(), bytes), ("/second", 3 * MIB));
    assert_eq!(store.check(false).expect("check"), []);
}

#[test]
fn never_is_the_default_and_nothing_is_used_then() {
    let rig = Rig::new();
    let store = open(options(&rig, None));
    let s = admin(&store);
    let full = put(&s, "/f", 17 * MIB).expect_err("too much");
    assert_eq!(full.kind, ErrorKind::NoSpace);
    assert_eq!(full.message, "no space in pool `dram`: 1 MiB (1048576 bytes) more are needed");
    assert_eq!((sim0(&store).used, sim0(&store).emergency), (0, EmergencyInfo::default()));
    assert!(events(&store, "emergency").is_empty());
    let refused = vec![("/f".to_owned(), full.message, 17 * MIB)];
    assert_eq!(events(&store, "refuse"), refused);
}

#[test]
fn a_refusal_is_told_of_each_file_once_a_second() {
    let rig = Rig::new();
    let env = TestEnv::new();
    let store = Store::open(options(&rig, None), env.clone()).expect("the store opens");
    let s = admin(&store);
    put(&s, "/full", 16 * MIB).expect("all of dram");
    let grow = |name: &str| {
        let opened = s.open(&open_of(name, 0)).expect("it is empty");
        let more = s.set_len(opened.handle, 4096).expect_err("there is no room");
        assert_eq!(more.kind, ErrorKind::NoSpace);
        s.close(opened.handle);
    };
    let told = || events(&store, "refuse").into_iter().map(|(of, _, _)| of).collect::<Vec<_>>();
    ["/a", "/b", "/a", "/b"].into_iter().for_each(grow);
    assert_eq!(told(), ["/a", "/b"]);
    env.pass(Duration::from_secs(1));
    ["/a", "/a"].into_iter().for_each(grow);
    assert_eq!(told(), ["/a", "/b", "/a"]);
}

#[test]
fn a_drain_that_can_t_be_is_refused_with_what_it_is_about() {
    let rig = Rig::new();
    let store = open(options(&rig, None));
    let s = admin(&store);
    put(&s, "/f", 3 * MIB).expect("there is room");
    s.drain("dram", DrainOptions::default(), &mut quiet()).expect_err("it is the host's own");
    let (of, _, bytes) = events(&store, "refuse").pop().expect("noted");
    assert_eq!((of.as_str(), bytes), ("dram", 3 * MIB));
}

#[test]
fn no_more_than_is_allowed_and_that_counts_all_files() {
    let rig = Rig::new();
    let store = open(options(&rig, with(AtMost::Percent(25), None)));
    let s = admin(&store);
    put(&s, "/a", 20 * MIB).expect("4 MiB of 8 on the device");
    let full = put(&s, "/b", 5 * MIB).expect_err("a MiB too much");
    assert!(full.message.ends_with("sim0 has room for 4 MiB (at_most allows 8 MiB in all)"), "{full}");
    put(&s, "/b", 4 * MIB).expect("the other 4");
    let full = put(&s, "/c", 4096).expect_err("all is used");
    assert_eq!(full.kind, ErrorKind::NoSpace);
    assert!(full.message.contains("sim0 has all that at_most allows of it, 8 MiB"), "{full}");
    assert!(
        events(&store, "refuse").last().is_some_and(|(of, said, _)| of == "/c" && said.contains("at_most"))
    );
    assert_eq!(sim0(&store).emergency.used, 8 * MIB);
    // By name it can be had all the same.
    make(&s, "/on", 20 * MIB, "sim0");
    s.remove(&path("/b"), false).expect("removed");
    until("it is counted anew", || put(&s, "/c", 4096).is_ok());
}

#[test]
fn a_quota_on_the_device_binds_what_spills_and_is_why_there_is_no_room() {
    let rig = Rig::new();
    let store = open(options(&rig, ALLOW));
    let s = admin(&store);
    s.mkdir(&path("/d"), 0o755, None).expect("made");
    let quota = |pool, bytes| s.set_quota(&QuotaOf::Dir(path("/d")), Some(pool), Some(bytes)).expect("set");
    quota("sim0", MIB);
    put(&s, "/full", 16 * MIB).expect("all of dram");
    put(&s, "/d/a", MIB).expect("all that the quota allows");
    let full = put(&s, "/d/b", 4096).expect_err("used up");
    assert_eq!(full.kind, ErrorKind::NoSpace);
    let why = "sim0 has room for 0 B (/d has 1 MiB (1048576 bytes) of the 1 MiB (1048576 bytes) that its quota allows)";
    assert!(full.message.ends_with(why), "{full}");
    put(&s, "/b", 4096).expect("the others have the rest");
    // Home is never refused by a quota on `dram`.
    quota("dram", 0);
    s.remove(&path("/full"), false).expect("removed");
    until("it is home", || pool_of(&s, "/d/a") == [0]);
}

#[test]
fn files_and_directories_can_opt_out() {
    let rig = Rig::new();
    let store = open(options(&rig, ALLOW));
    let s = admin(&store);
    put(&s, "/full", 16 * MIB).expect("all of dram");
    s.mkdir(&path("/never"), 0o755, None).expect("made");
    s.set_emergency(&path("/never"), false).expect("set");
    s.mkdir(&path("/never/below"), 0o755, None).expect("made");
    for refused in ["/never/f", "/never/below/f"] {
        assert_eq!(put(&s, refused, 4096).expect_err("refused").kind, ErrorKind::NoSpace);
    }
    let own = Open { no_emergency: true, ..open_of("/own", 4096) };
    assert_eq!(s.open(&own).expect_err("refused").kind, ErrorKind::NoSpace);
    let strict = PlacementSpec::On { pool: "dram".into(), strict: true };
    let strict = Open { placement: Some(strict), ..open_of("/strict", 4096) };
    assert_eq!(s.open(&strict).expect_err("refused").kind, ErrorKind::NoSpace);
    // Its growth is refused as well, and that of a file without a name.
    let empty = s.open(&Open { no_emergency: true, ..open_of("/empty", 0) }).expect("made");
    assert!(s.stat(&path("/empty")).expect("stat").no_emergency);
    assert_eq!(s.set_len(empty.handle, 4096).expect_err("refused").kind, ErrorKind::NoSpace);
    let unnamed = s.open(&Open { unnamed: true, ..open_of("/never/g", 0) }).expect("made");
    assert_eq!(s.set_len(unnamed.handle, 4096).expect_err("refused").kind, ErrorKind::NoSpace);
    s.set_emergency(&path("/never"), true).expect("taken back");
    put(&s, "/never/f", 4096).expect("on the device");
    assert_eq!(pool_of(&s, "/never/f"), [1]);
    // What may not be changed by others is not.
    let other = session(&store, 1000, false);
    assert_eq!(other.set_emergency(&path("/never"), false).expect_err("root's").kind, ErrorKind::Permission);
}

#[test]
fn the_cheapest_device_that_is_online_comes_first() {
    let rig = Rig::new();
    let device = |name: &str, read_ns| {
        let link = LinkModel { read_ns, ..LinkModel::default() };
        DeviceSpec { emergency: ALLOW, ..DeviceSpec::emulated(name, 4 * MIB, link) }
    };
    let devices = vec![
        device("sim0", None),
        device("sim1", Some(300)),
        device("sim2", Some(200)),
        device("sim3", None),
    ];
    let mut options = StoreOptions { devices, ..options(&rig, ALLOW) };
    options.devices[3].emergency = None;
    let store = open(options.clone());
    let s = admin(&store);
    put(&s, "/full", 16 * MIB).expect("all of dram");
    put(&s, "/f", 12 * MIB).expect("on the devices");
    assert_eq!(pool_of(&s, "/f"), [3, 2, 1]);
    assert_eq!(put(&s, "/g", 4096).expect_err("never").kind, ErrorKind::NoSpace);
    s.remove(&path("/f"), false).expect("removed");
    s.drain("sim2", DrainOptions::default(), &mut quiet()).expect("empty");
    until("it is counted anew", || put(&s, "/h", 4096).is_ok());
    assert_eq!(pool_of(&s, "/h"), [2]);
    drop(s);
    store.close(true).expect("purged");
}

#[test]
fn preferred_devices_overflow_to_dram_and_from_there_to_others() {
    let rig = Rig::new();
    let mut options = options(&rig, None);
    options.devices.push(DeviceSpec {
        emergency: ALLOW,
        ..DeviceSpec::emulated("sim1", 32 * MIB, LinkModel::default())
    });
    let store = open(options);
    let s = admin(&store);
    let prefer =
        Open { placement: Some(PlacementSpec::Prefer { pool: "sim0".into() }), ..open_of("/f", 60 * MIB) };
    s.open(&prefer).expect("everywhere");
    assert_eq!(pool_of(&s, "/f"), [1, 0, 2]);
    assert_eq!(store.info().pools[1].emergency.used, 0, "it was asked for by name");
    assert_eq!(store.info().pools[2].emergency.used, 12 * MIB);
    let turns = PlacementSpec::Interleave { pools: vec!["dram".into(), "sim0".into()] };
    let turns = Open { placement: Some(turns), ..open_of("/turns", 4 * MIB) };
    assert_eq!(s.open(&turns).expect_err("they are full").kind, ErrorKind::NoSpace);
    drop(s);
    store.close(true).expect("purged");
}

#[test]
fn what_grows_goes_on_there_and_a_cut_forgets_it() {
    let rig = Rig::new();
    let store = open(options(&rig, ALLOW));
    let s = admin(&store);
    put(&s, "/full", 15 * MIB).expect("nearly all of dram");
    let grows = s.open(&open_of("/grows", MIB)).expect("the rest");
    for mib in 2..6 {
        s.set_len(grows.handle, mib * MIB).expect("on the device");
    }
    assert_eq!(pool_of(&s, "/grows"), [0, 1]);
    assert_eq!((sim0(&store).emergency.used, marked(&rig, "sim0") * 4096), (4 * MIB, 4 * MIB));
    assert_eq!(store.check(false).expect("check"), []);
    s.set_len(grows.handle, 2 * MIB).expect("cut");
    assert_eq!((sim0(&store).emergency.used, marked(&rig, "sim0") * 4096), (MIB, MIB));
    s.set_len(grows.handle, 0).expect("cut");
    let info = s.stat(&path("/grows")).expect("stat");
    assert!(info.away.is_empty() && info.runs.is_empty(), "{info:?}");
    assert_eq!(store.check(false).expect("check"), []);
}

#[test]
fn what_spills_page_by_page_is_told_as_it_doubles() {
    let rig = Rig::new();
    let store = open(options(&rig, ALLOW));
    let s = admin(&store);
    put(&s, "/full", 16 * MIB).expect("all of dram");
    let grows = s.open(&open_of("/grows", 0)).expect("made");
    for page in 1..=256 {
        s.set_len(grows.handle, page * 4096).expect("on the device");
    }
    assert_eq!(sim0(&store).emergency.used, MIB);
    let told: Vec<u64> = events(&store, "emergency").into_iter().map(|(_, _, bytes)| bytes / 4096).collect();
    assert_eq!(told, [1, 1, 2, 4, 8, 16, 32, 64, 128]);
    // A file without a name is told when it has one.
    let unnamed = s.open(&Open { unnamed: true, ..open_of("/g", MIB) }).expect("made");
    assert_eq!(events(&store, "emergency").len(), told.len());
    s.publish(unnamed.handle, &path("/g"), false).expect("named");
    let (of, _, bytes) = events(&store, "emergency").pop().expect("noted");
    assert_eq!((of.as_str(), bytes), ("/g", MIB));
}

#[test]
fn a_drain_takes_home_what_spilled_first_and_is_refused_where_there_is_no_room() {
    let rig = Rig::new();
    let store = open(options(&rig, ALLOW));
    let s = admin(&store);
    put(&s, "/full", 12 * MIB).expect("most of dram");
    put(&s, "/spilled", 5 * MIB).expect("with 1 MiB on the device");
    make(&s, "/large", 2 * MIB, "sim0");
    let refused = s.drain("sim0", DrainOptions::default(), &mut quiet()).expect_err("no room");
    assert_eq!(refused.kind, ErrorKind::NoSpace);
    assert_eq!(sim0(&store).state, PoolState::Online);
    for (file, len) in [("/full", 12), ("/spilled", 5), ("/large", 2)] {
        assert_intact(&s, file, len * MIB);
    }
    assert_eq!(sim0(&store).emergency.used, MIB);
    // A file that is held keeps what spilled of it from going home by itself.
    let held = s.open(&open_of("/spilled", 0)).expect("open");
    let (layout, fds) = s.raw(held.handle, false).expect("raw");
    s.remove(&path("/full"), false).expect("removed");
    let plan = s.drain("sim0", DrainOptions { dry_run: true, ..DrainOptions::default() }, &mut quiet());
    let moves: Vec<String> =
        plan.expect("a plan").plan.expect("it").moves.into_iter().map(|m| m.path).collect();
    assert_eq!(moves, ["/spilled", "/large"]);
    drop((layout, fds));
    s.raw_done(held.file);
    s.drain("sim0", DrainOptions::default(), &mut quiet()).expect("drained");
    assert_eq!((pool_of(&s, "/spilled"), pool_of(&s, "/large")), (vec![0], vec![0]));
    assert!(s.stat(&path("/spilled")).expect("stat").away.is_empty(), "it is at home");
    s.online("sim0", &mut quiet()).expect("online");
    assert_eq!((pool_of(&s, "/spilled"), pool_of(&s, "/large")), (vec![0], vec![1]));
    assert_intact(&s, "/spilled", 5 * MIB);
}

#[test]
fn a_drain_passes_on_what_spilled_to_a_device_that_helps_out_where_dram_has_no_room() {
    let rig = Rig::new();
    let device = |name: &str, at_most, emergency| {
        let emergency = if emergency { with(at_most, None) } else { None };
        DeviceSpec { emergency, ..DeviceSpec::emulated(name, 32 * MIB, LinkModel::default()) }
    };
    let four = AtMost::Bytes(4 * MIB);
    let devices =
        vec![device("sim0", AtMost::ALL, true), device("sim1", four, true), device("sim2", four, false)];
    let options = StoreOptions { devices, ..options(&rig, ALLOW) };
    let store = open(options.clone());
    let s = admin(&store);
    let used = |store: &Store, at: usize| store.info().pools[at].emergency.used;
    put(&s, "/full", 14 * MIB).expect("most of dram");
    put(&s, "/spilled", 6 * MIB).expect("with 4 MiB on the device");
    let refused = |s: &Session| {
        let refused = s.drain("sim0", DrainOptions::default(), &mut quiet()).expect_err("no room");
        assert_eq!(refused.kind, ErrorKind::NoSpace);
    };
    // Who opts out isn't passed on.
    s.set_emergency(&path("/spilled"), false).expect("ours");
    refused(&s);
    s.set_emergency(&path("/spilled"), true).expect("ours");
    s.drain("sim0", DrainOptions::default(), &mut quiet()).expect("drained");
    assert_eq!((used(&store, 1), used(&store, 2), used(&store, 3)), (0, 4 * MIB, 0));
    assert_eq!((marked(&rig, "sim0"), marked(&rig, "sim1") * 4096), (0, 4 * MIB));
    assert!(
        s.stat(&path("/spilled")).expect("stat").away.iter().all(|run| run.pool.0 == 0),
        "at home in dram"
    );
    let (of, said, bytes) = events(&store, "emergency").pop().expect("noted");
    assert_eq!((of.as_str(), bytes), ("/spilled", 4 * MIB));
    assert!(said.contains("in sim1, since sim0 is drained and dram has no room"), "{said}");
    // It has all that it may.
    assert_eq!(put(&s, "/more", MIB).expect_err("at most").kind, ErrorKind::NoSpace);
    s.online("sim0", &mut quiet()).expect("online");
    put(&s, "/more", MIB).expect("there");
    s.drain("sim1", DrainOptions::default(), &mut quiet()).expect("back");
    assert_eq!((used(&store, 1), used(&store, 2)), (5 * MIB, 0));
    s.online("sim1", &mut quiet()).expect("online");
    refused(&s);
    assert_eq!(store.check(false).expect("check"), []);
    // And it goes home from wherever it is, after a restart too.
    drop(s);
    store.end();
    let store = open(options);
    let s = admin(&store);
    s.remove(&path("/full"), false).expect("removed");
    until("it is home", || used(&store, 1) + used(&store, 2) == 0);
    assert_eq!(pool_of(&s, "/spilled"), [0]);
    assert_intact(&s, "/spilled", 6 * MIB);
    assert_eq!(store.check(false).expect("check"), []);
}

#[test]
fn who_says_where_it_is_to_be_is_obeyed() {
    let rig = Rig::new();
    let store = open(options(&rig, ALLOW));
    let s = admin(&store);
    put(&s, "/full", 16 * MIB).expect("all of dram");
    put(&s, "/f", MIB).expect("on the device");
    // A device that allows it no more gives it back all the same.
    let mut lines = store.reload(&options(&rig, None)).expect("reloaded");
    assert_eq!(lines.pop().as_deref(), Some("device sim0: emergency is never now"));
    assert_eq!(put(&s, "/g", 4096).expect_err("never").kind, ErrorKind::NoSpace);
    assert_eq!(sim0(&store).emergency.used, MIB);
    s.remove(&path("/full"), false).expect("removed");
    until("it is home", || pool_of(&s, "/f") == [0]);
    let mut lines = store.reload(&options(&rig, ALLOW)).expect("reloaded");
    assert_eq!(lines.pop().as_deref(), Some("device sim0: emergency is allow now"));
    put(&s, "/full", 16 * MIB).expect("partly on the device");
    assert_eq!(pool_of(&s, "/full"), [0, 1]);
    let when = Some(When::Free(4096));
    for (emergency, line) in [
        (with(AtMost::Percent(50), None), "device sim0: at_most is 50% now"),
        (with(AtMost::Percent(50), when), "device sim0: when is free:4KiB now"),
        (ALLOW, "device sim0: at_most is 100% now, when is gone: whenever dram has no room"),
    ] {
        assert_eq!(store.reload(&options(&rig, emergency)).expect("reloaded"), [line]);
    }
    // Moved there by somebody it stays.
    s.move_file(&path("/f"), "sim0", None, &mut quiet()).expect("moved");
    assert_eq!(sim0(&store).emergency.used, 2 * MIB, "what of /full has no room");
    s.remove(&path("/full"), false).expect("removed");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(pool_of(&s, "/f"), [1]);
}

#[test]
fn what_spilled_and_is_placed_or_moved_there_by_name_since_stays() {
    let rig = Rig::new();
    let store = open(options(&rig, ALLOW));
    let s = admin(&store);
    s.mkdir(&path("/d"), 0o755, None).expect("made");
    put(&s, "/full", 16 * MIB).expect("all of dram");
    for file in ["/placed", "/d/below", "/moved", "/spilled"] {
        put(&s, file, MIB).expect("on the device");
    }
    put(&s, "/half", 4 * MIB).expect("on the device");
    assert_eq!(marked(&rig, "sim0") * 4096, 8 * MIB);
    let on = |strict| PlacementSpec::On { pool: "sim0".into(), strict };
    s.set_attr(&path("/placed"), None, None, None, Some(Some(&on(true)))).expect("placed");
    s.set_attr(&path("/d"), None, None, None, Some(Some(&on(false)))).expect("placed");
    s.move_file(&path("/moved"), "sim0", None, &mut quiet()).expect("it is there");
    s.move_file(&path("/half"), "sim0", Some((0, 2 * MIB)), &mut quiet()).expect("it is there");
    for (file, stays) in [("/placed", true), ("/d/below", true), ("/moved", true), ("/half", false)] {
        assert_eq!(s.stat(&path(file)).expect("stat").away.is_empty(), stays, "{file}");
    }
    let left = 2 * MIB + MIB;
    assert_eq!((sim0(&store).emergency.used, marked(&rig, "sim0") * 4096), (left, left));
    assert_eq!(store.check(false).expect("check"), []);
    drop(s);
    store.end();
    let store = open(options(&rig, ALLOW));
    let s = admin(&store);
    s.remove(&path("/full"), false).expect("removed");
    until("the others are home", || sim0(&store).emergency.used == 0);
    assert_eq!(pool_of(&s, "/spilled"), [0]);
    assert_eq!(pool_of(&s, "/half"), [1, 0]);
    for file in ["/placed", "/d/below", "/moved"] {
        assert_eq!(pool_of(&s, file), [1], "{file}");
        assert_intact(&s, file, MIB);
    }
    assert_eq!(store.check(false).expect("check"), []);
}

#[test]
fn free_memory_is_a_condition_in_both_directions() {
    let rig = Rig::new();
    // So much is never free.
    let store = open(options(&rig, with(AtMost::ALL, Some(When::Free(1 << 50)))));
    let s = admin(&store);
    put(&s, "/f", MIB).expect("on the device, before anything is full");
    assert_eq!(pool_of(&s, "/f"), [1]);
    let (_, said, _) = events(&store, "emergency").pop().expect("noted");
    assert_eq!(said, "in sim0, since memory is short (free:1024TiB)");
    put(&s, "/more", 40 * MIB).expect("where the device is full, in dram");
    assert_eq!((sim0(&store).free, store.info().pools[0].free), (7 * MIB, 0));
    s.remove(&path("/more"), false).expect("removed");
    until("it is counted anew", || sim0(&store).emergency.used == MIB);
    put(&s, "/fits", 30 * MIB).expect("all of it on the device");
    assert_eq!(pool_of(&s, "/fits"), [1]);
    store.close(true).expect("purged");
    // And so little always is.
    let rig = Rig::new();
    let store = open(options(&rig, with(AtMost::ALL, Some(When::Free(4096)))));
    let s = admin(&store);
    put(&s, "/f", 16 * MIB).expect("all of dram");
    let full = put(&s, "/g", 4096).expect_err("dram is full, and memory isn't short");
    assert!(full.message.contains("sim0 waits for its condition (free:4KiB)"), "{full}");
}

#[test]
fn pressure_is_a_condition() {
    let rig = Rig::new();
    let whole = Duration::from_secs(10);
    let when = When::Stall { full: true, stall: whole, window: whole };
    let store = open(options(&rig, with(AtMost::ALL, Some(when))));
    let s = admin(&store);
    put(&s, "/f", 16 * MIB).expect("all of dram");
    // Who waits for memory here is another's process: then the device helps out, and it has been said why.
    match put(&s, "/g", 4096) {
        Ok(()) => assert!(!events(&store, "pressure").is_empty(), "{:?}", store.events(0, 100)),
        Err(full) => assert!(full.message.contains("waits for"), "{full}"),
    }
    let measured = !codax_os::psi::files().is_empty();
    until("it was looked at", || sim0(&store).emergency.unmeasured.is_none() == measured);
}

#[test]
fn more_than_a_device_has_is_refused_and_leaves_nothing() {
    let rig = Rig::new();
    let more = options(&rig, with(AtMost::Bytes(33 * MIB), None));
    let error = Store::open(more, TestEnv::new()).expect_err("refused");
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert_eq!(error.message, "device sim0: at_most: 33 MiB is more than the device has, 32 MiB");
    open(options(&rig, with(AtMost::Bytes(32 * MIB), None))).close(true).expect("purged");
}
