//! Memory as a device needs it.

use super::*;

/// A driver whose device needs files in one run, at multiples of 64 KiB, and has the first MiB for itself.
fn needy() -> Description {
    let mut needy = npu();
    (needy.needs.align, needy.needs.contiguous) = (64 << 10, true);
    needy.needs.private = vec![(0, MIB)];
    needy
}

#[track_caller]
fn in_one_run(session: &Session, file: &str) {
    let extents = session.stat(&path(file)).unwrap().extents;
    assert!(extents.windows(2).all(|pair| pair[0].following() == pair[1].frame), "{extents:?}");
    assert!(extents[0].frame.0.is_multiple_of(16), "{extents:?}");
    assert!(extents.iter().all(|e| e.frame.0 >= 256), "{extents:?}");
}

fn create(session: &Session, file: &str, len: u64) -> Result<()> {
    session.open(&Open { placement: on("sim0"), ..open_of(file, len) }).map(|open| session.close(open.handle))
}

#[test]
fn files_lie_as_their_device_needs_them_or_are_refused() {
    let d = Driven::new(needy());
    let pool = || d.store.info().pools[1].clone();
    assert_eq!((pool().private, pool().used, pool().free), (MIB, 0, 31 * MIB));
    // Of 31 MiB: three files, of which the middle one goes.
    for (file, len) in [("/a", 10 * MIB - 4096), ("/b", 10 * MIB), ("/c", 5 * MIB + 4096)] {
        let opened = make(&d.admin, file, len, "sim0");
        d.admin.close(opened.handle);
        in_one_run(&d.admin, file);
    }
    d.admin.remove(&path("/b"), false).unwrap();
    let free = pool().bytes - pool().private - pool().used;
    assert!(free > 15 * MIB);
    fails(create(&d.admin, "/b", 11 * MIB), ErrorKind::NoSpace, &["sim0"]);
    fails(moved(&d.admin, "/none", "sim0"), ErrorKind::NotFound, &["/none"]);
    make(&d.admin, "/d", 11 * MIB, "dram");
    fails(moved(&d.admin, "/d", "sim0"), ErrorKind::NoSpace, &["sim0"]);
    assert_eq!(pool_of(&d.admin, "/d"), [0]);
    make(&d.admin, "/e", 9 * MIB, "dram");
    moved(&d.admin, "/e", "sim0").unwrap();
    in_one_run(&d.admin, "/e");
    assert_intact(&d.admin, "/e", 9 * MIB);
    // What has others behind it can't grow, and says why.
    let a = d.admin.open(&open_of("/a", 0)).unwrap();
    d.admin.set_len(a.handle, 10 * MIB).unwrap();
    fails(d.admin.set_len(a.handle, 10 * MIB + 1), ErrorKind::NoSpace, &["sim0", "in one run"]);
    assert_eq!(d.admin.stat(&path("/a")).unwrap().len, 10 * MIB);
    // A file that only prefers the device goes elsewhere.
    let prefers = Some(PlacementSpec::Prefer { pool: "sim0".into() });
    d.admin.open(&Open { placement: prefers, ..open_of("/p", 11 * MIB) }).unwrap();
    assert!(pool_of(&d.admin, "/p").contains(&0));
    in_one_run(&d.admin, "/c");
    d.admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    d.admin.online("sim0", &mut quiet()).unwrap();
    for file in ["/a", "/c", "/e"] {
        in_one_run(&d.admin, file);
    }
    assert!(d.store.check(false).unwrap().is_empty());
}

#[test]
fn what_prefers_a_device_goes_elsewhere_where_it_can_not_grow_as_the_device_needs_it() {
    let d = Driven::new(needy());
    let placed = |file: &str, placement| Open { placement: Some(placement), ..open_of(file, MIB) };
    let prefers = PlacementSpec::Prefer { pool: "sim0".into() };
    let open = d.admin.open(&placed("/p", prefers)).unwrap();
    make(&d.admin, "/behind", MIB, "sim0");
    d.admin.set_len(open.handle, 3 * MIB).unwrap();
    assert_eq!(pool_of(&d.admin, "/p"), [1, 0]);
    in_one_run(&d.admin, "/behind");
    // In turns, and by name, there is no other: it is refused, and says why.
    let turns = PlacementSpec::Interleave { pools: vec!["sim0".into(), "dram".into()] };
    for (file, placement) in [("/turns", turns), ("/on", on("sim0").unwrap())] {
        let open = d.admin.open(&placed(file, placement)).unwrap();
        let behind = format!("{file}-behind");
        make(&d.admin, &behind, MIB, "sim0");
        fails(d.admin.set_len(open.handle, MIB + 4096), ErrorKind::NoSpace, &["sim0", "in one run"]);
        assert_eq!(d.admin.stat(&path(file)).unwrap().len, MIB);
    }
    assert!(d.store.check(false).unwrap().is_empty());
}

#[test]
fn a_helper_that_has_no_room_as_it_needs_it_is_passed_over() {
    let d =
        helping(&[("sim0", Some(100)), ("sim1", Some(200))], Description { reach: Reach::Own, ..needy() });
    let open = d.admin.open(&open_of("/f", MIB)).unwrap();
    put(&d.admin, "/behind", MIB).unwrap();
    assert_eq!((pool_of(&d.admin, "/f"), pool_of(&d.admin, "/behind")), (vec![1], vec![1]));
    d.admin.set_len(open.handle, 2 * MIB).unwrap();
    assert_eq!(pool_of(&d.admin, "/f"), [1, 2]);
    assert!(d.store.check(false).unwrap().is_empty());
}

#[test]
fn a_device_s_own_frames_are_nobody_s_also_before_its_driver_is_back() {
    let d = Driven::new(needy());
    let shown = |rig: &Rig| {
        let table = TableReader::open(&rig.layout().frame_table("sim0")).unwrap();
        [0, 255, 256].map(|frame| table.get(Frame(frame)).unwrap().flags.contains(FrameFlags::DEVICE_PRIVATE))
    };
    assert_eq!(shown(&d.rig), [true, true, false]);
    let (rig, store) = d.reopened();
    assert_eq!((shown(&rig), store.info().pools[1].private), ([true, true, false], MIB));
    let session = admin(&store);
    fails(create(&session, "/f", 32 * MIB), ErrorKind::NoSpace, &["sim0"]);
    create(&session, "/f", 31 * MIB).unwrap();
    in_one_run(&session, "/f");
    assert!(store.check(true).unwrap().is_empty());
    // A driver that wants what files have by now.
    let mut more = needy();
    more.needs.private.push((16 * MIB, MIB));
    fails(
        store.drive("sim0", Told::new(more.clone()).0, None),
        ErrorKind::DeviceState,
        &["sim0", "1 MiB from 16 MiB"],
    );
    assert_eq!(store.info().pools[1].private, MIB);
    session.remove(&path("/f"), false).unwrap();
    drop(store.drive("sim0", Told::new(more).0, None).unwrap());
    assert_eq!(store.info().pools[1].private, 2 * MIB);
    // And one to which files lie in pieces.
    drop(store.drive("sim0", Told::new(npu()).0, None).unwrap());
    create(&session, "/g", 3 * MIB + 4096).unwrap();
    create(&session, "/h", MIB).unwrap();
    fails(store.drive("sim0", Told::new(needy()).0, None), ErrorKind::DeviceState, &["sim0", "drain it"]);
}

/// `dram` of 16 MiB, which is full, and devices of 32 MiB that help out, the first of which has a driver.
fn helping(devices: &[(&str, Option<u32>)], description: Description) -> Driven {
    let rig = Rig::new();
    let emergency = Some(Emergency { at_most: AtMost::ALL, when: None });
    let device = |&(name, read_ns): &(&str, Option<u32>)| {
        let link = LinkModel { read_ns, ..LinkModel::default() };
        DeviceSpec { emergency, ..DeviceSpec::emulated(name, 32 * MIB, link) }
    };
    let devices = devices.iter().map(device).collect();
    let options = StoreOptions { dram_bytes: Some(16 * MIB), devices, ..options(&rig, LONG) };
    let store = Store::open(options, TestEnv::new()).unwrap();
    let d = Driven::by(rig, store, description).running();
    d.admin.close(make(&d.admin, "/full", 16 * MIB, "dram").handle);
    d
}

/// Makes a file that is nowhere in particular.
fn put(session: &Session, file: &str, len: u64) -> Result<()> {
    let opened = session.open(&open_of(file, len))?;
    write(session, &opened, &(0..len).map(|i| byte_at(file, i)).collect::<Vec<u8>>(), 0);
    session.close(opened.handle);
    Ok(())
}

#[test]
fn an_emergency_keeps_off_what_is_a_device_s_own_and_writes_back_what_goes_home() {
    let d = helping(&[("sim0", None)], Description { reach: Reach::Own, ..needy() });
    put(&d.admin, "/f", 3 * MIB).unwrap();
    assert_eq!(pool_of(&d.admin, "/f"), [1]);
    in_one_run(&d.admin, "/f");
    // Of 32 MiB one is the device's, and three are the file's.
    fails(put(&d.admin, "/g", 29 * MIB), ErrorKind::NoSpace, &["sim0 has room for 28 MiB"]);
    let open = d.driver.gate("write_back");
    d.admin.remove(&path("/full"), false).unwrap();
    written_back(d.next(), &d.admin, "/f", 3 * MIB);
    assert_eq!(pool_of(&d.admin, "/f"), [1], "it is not home before");
    open.send(()).unwrap();
    let Asked::WriteBack(again) = d.next() else { panic!("before frames are given back") };
    assert_eq!(again.iter().map(|r| r.len).sum::<u64>(), 3 * MIB);
    open.send(()).unwrap();
    let pool = || d.store.info().pools[1].clone();
    let begun = Instant::now();
    while pool().free != 31 * MIB {
        assert!(begun.elapsed() < LONG, "{:?}", pool());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!((pool_of(&d.admin, "/f"), pool().used, pool().private), (vec![0], 0, MIB));
    assert_intact(&d.admin, "/f", 3 * MIB);
    assert!(d.store.check(false).unwrap().is_empty());
}

#[test]
fn an_emergency_compares_devices_by_what_their_drivers_tell_too() {
    let mut near = npu();
    near.link = Link { model: LinkModel { read_ns: Some(200), ..LinkModel::default() }, ..near.link };
    let mut d = helping(&[("sim0", None), ("sim1", Some(300))], near);
    put(&d.admin, "/f", MIB).unwrap();
    assert_eq!(pool_of(&d.admin, "/f"), [1]);
    drop(d.driving.take());
    put(&d.admin, "/g", MIB).unwrap();
    assert_eq!(pool_of(&d.admin, "/g"), [2]);
}
