//! Devices brought to rest by drains, with their state, and going on.

use super::*;

#[test]
fn a_drain_saves_the_state_and_online_gives_it_back() {
    let d = Driven::new(npu());
    make(&d.admin, "/f", MIB, "sim0");
    d.admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Save));
    assert!(matches!((d.next(), d.next()), (Asked::WriteBack(_), Asked::WriteBack(_))));
    let shown = d.store.device("sim0").unwrap();
    assert_eq!((shown.standing, shown.saved), (Standing::Stopped, Some(12)));
    assert_eq!(shown.health, Ok(Health::Degraded("warm".into())));
    // As many and as long as may be shown.
    assert_eq!((shown.counters.len(), shown.counters[0].name.len()), (64, 64));
    d.admin.online("sim0", &mut quiet()).unwrap();
    assert_eq!((d.next(), d.next()), (Asked::Restore(b"where it was".to_vec()), Asked::Resume));
    let shown = d.store.device("sim0").unwrap();
    assert_eq!((shown.standing, shown.saved), (Standing::Running, None));
    assert_eq!(pool_of(&d.admin, "/f"), [1]);
    // Drained of data only, its coprocessor goes on.
    while d.told.try_recv().is_ok() {}
    let running = DrainOptions { running: true, ..Default::default() };
    d.admin.drain("sim0", running, &mut quiet()).unwrap();
    d.stands(&Standing::Running);
    d.admin.online("sim0", &mut quiet()).unwrap();
    assert!(d.told.try_iter().all(|asked| matches!(asked, Asked::WriteBack(_))));
}

#[test]
fn a_saved_state_outlives_the_daemon_and_the_driver() {
    let d = Driven::new(npu());
    d.admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    let (rig, store) = d.reopened();
    let shown = store.device("sim0").unwrap();
    assert_eq!((shown.saved, shown.driverless.as_deref()), (Some(12), Some("npu")));
    // Another driver is not given what isn't its own.
    let other = Driven::by(rig, store, Description { driver: "other".into(), ..npu() });
    fails(
        other.admin.online("sim0", &mut quiet()),
        ErrorKind::DeviceState,
        &["sim0", "npu", "other", "--reset-device"],
    );
    assert_eq!(other.state(), PoolState::Offline);
    let Driven { store, driving, admin, rig, .. } = other;
    drop((driving, admin));
    // Its own is at rest as long as the device is offline.
    let d = Driven::by(rig, store, npu());
    d.driver.fail(Some("restore"));
    fails(d.admin.online("sim0", &mut quiet()), ErrorKind::DeviceState, &["sim0", "npu", "restore", "kept"]);
    assert_eq!(d.next(), Asked::Restore(b"where it was".to_vec()));
    assert_eq!((d.state(), d.store.device("sim0").unwrap().saved), (PoolState::Offline, Some(12)));
    d.driver.fail(None);
    d.admin.online("sim0", &mut quiet()).unwrap();
    assert_eq!((d.next(), d.next()), (Asked::Restore(b"where it was".to_vec()), Asked::Resume));
    assert_eq!(d.store.device("sim0").unwrap().saved, None);
}

#[test]
fn a_device_without_memory_has_no_files_and_is_stopped_and_goes_on_all_the_same() {
    let rig = Rig::new();
    let mut options = options(&rig, LONG);
    options.devices.push(DeviceSpec::emulated("nic0", 0, LinkModel::default()));
    let store = Store::open(options.clone(), TestEnv::new()).unwrap();
    let pool = store.info().pools[2].clone();
    assert_eq!((pool.backing, pool.bytes, pool.free), (BackingKind::None, 0, 0));
    let told = store.device("nic0").unwrap();
    assert_eq!((told.description.class, told.standing), (Class::Type1, Standing::Stopped));
    let s = admin(&store);
    make(&s, "/f", MIB, "sim0");
    let nowhere = |result| fails(result, ErrorKind::Invalid, &["nic0 has no memory"]);
    nowhere(create_on(&s, "/g", "nic0"));
    nowhere(moved(&s, "/f", "nic0"));
    nowhere(s.set_attr(&path("/f"), None, None, None, Some(on("nic0").as_ref())));
    nowhere(s.detach_device("nic0"));

    let nic = Description { class: Class::Type1, has_state: true, ..npu() };
    let (memory_only, _) = Told::new(Description::memory_only("expander", "1"));
    fails(store.drive("nic0", memory_only, None), ErrorKind::Invalid, &["nic0", "memory only"]);
    fails(store.drive("sim0", Told::new(nic.clone()).0, None), ErrorKind::Invalid, &["sim0", "0 B"]);
    let (driver, told) = Told::new(nic);
    let driving = store.drive("nic0", driver, None).unwrap();
    let next = || told.recv_timeout(LONG).expect("it is asked");
    assert_eq!(next(), Asked::Resume);
    // Its caches may have what lies elsewhere.
    moved(&s, "/f", "dram").unwrap();
    let Asked::WriteBack(ranges) = next() else { panic!("it is asked to write back") };
    assert!(ranges.iter().all(|range| range.memory.is_none() && range.len > 0), "{ranges:?}");
    assert!(matches!(next(), Asked::WriteBack(_)));
    let report = s.drain("nic0", DrainOptions::default(), &mut quiet()).unwrap();
    assert_eq!((report.bytes, next(), next()), (0, Asked::Quiesce, Asked::Save));
    assert_eq!(store.info().pools[2].state, PoolState::Offline);
    s.online("nic0", &mut quiet()).unwrap();
    assert_eq!((next(), next()), (Asked::Restore(b"where it was".to_vec()), Asked::Resume));
    assert!(store.check(false).unwrap().is_empty());

    // It is the same after a restart, and never gets any.
    store.close(false).unwrap();
    drop((driving, s));
    store.end();
    let mut larger = options.clone();
    larger.devices[1] = DeviceSpec::emulated("nic0", MIB, LinkModel::default());
    let refused = Store::open(larger, TestEnv::seeded(2));
    fails(refused.map(drop), ErrorKind::DeviceState, &["nic0", "0 bytes"]);
    options.devices[1].software = true;
    let store = Store::open(options, TestEnv::seeded(2)).unwrap();
    assert_eq!((store.info().pools[2].backing, store.info().pools[2].bytes), (BackingKind::Software, 0));
}

#[test]
fn a_drain_that_a_restart_resumes_lets_a_device_go_on_if_it_was_told_to() {
    for running in [true, false] {
        let d = Driven::new(npu());
        let file = make(&d.admin, "/f", MIB, "sim0").file;
        let object = d.rig.layout().pool("sim0").join(format!("{:016x}", file.0));
        let held = std::fs::File::open(object).expect("its object");
        let options = DrainOptions { wait: LONG, running, ..Default::default() };
        std::thread::scope(|scope| {
            let admin = admin(&d.store);
            scope.spawn(move || fails(admin.drain("sim0", options, &mut quiet()), ErrorKind::NoDaemon, &[]));
            while d.store.info().pools[1].job.as_ref().is_none_or(|job| job.waiting.is_empty()) {
                std::thread::sleep(Duration::from_millis(1));
            }
            d.store.close(false).unwrap();
        });
        let (rig, store) = d.reopened();
        let d = Driven::by(rig, store, npu());
        assert_eq!(d.state(), PoolState::Draining);
        if running {
            assert_eq!(d.next(), Asked::Resume);
            d.stands(&Standing::Running);
        }
        drop(held);
        while d.state() == PoolState::Draining {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!((d.state(), pool_of(&d.admin, "/f")), (PoolState::Offline, vec![0]));
        d.stands(if running { &Standing::Running } else { &Standing::Stopped });
        assert!(d.told.try_iter().all(|asked| matches!(asked, Asked::WriteBack(_))));
    }
}

#[test]
fn a_driver_that_comes_after_online_gets_its_state_then() {
    let mut d = Driven::new(npu());
    d.admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    d.driving = None;
    d.admin.online("sim0", &mut quiet()).unwrap();
    assert_eq!(d.store.device("sim0").unwrap().saved, Some(12));
    let Driven { store, admin, rig, .. } = d;
    drop(admin);
    let d = Driven::by(rig, store, npu());
    assert_eq!((d.next(), d.next()), (Asked::Restore(b"where it was".to_vec()), Asked::Resume));
    d.stands(&Standing::Running);
    d.admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    d.admin.online_anew("sim0", &mut quiet()).unwrap();
    assert_eq!(
        (d.next(), d.next(), d.next(), d.next()),
        (Asked::Quiesce, Asked::Save, Asked::Reset, Asked::Resume)
    );
}

#[test]
fn a_driver_that_never_answers_quiesce_refuses_the_drain_or_is_reset() {
    let d = Driven::impatient(npu());
    make(&d.admin, "/f", MIB, "sim0");
    let open = d.driver.gate("quiesce");
    let drain = |options| d.admin.drain("sim0", options, &mut quiet());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let draining = scope.spawn(|| drain(DrainOptions::default()));
        assert_eq!(d.next(), Asked::Quiesce);
        fails(draining.join().unwrap(), ErrorKind::Busy, &["sim0", "npu", "4711", "1.0 s", "--reset-device"]);
    });
    assert!(begun.elapsed() < LONG);
    // Nobody has waited for it to go on: it is told when it answers.
    d.stands(&Standing::Failed("quiesce: it has not answered within 1.0 s".into()));
    d.quiet();
    open.send(()).unwrap();
    assert_eq!((d.state(), pool_of(&d.admin, "/f")), (PoolState::Online, vec![1]));
    assert_eq!(d.next(), Asked::Resume);
    d.stands(&Standing::Running);
    drop(open);
    d.driver.fail(Some("quiesce"));
    fails(drain(DrainOptions::default()), ErrorKind::Busy, &["sim0", "fails on purpose"]);
    assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Resume));
    drain(DrainOptions { reset: true, ..Default::default() }).unwrap();
    assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Reset));
    assert_eq!((d.state(), d.store.device("sim0").unwrap().saved), (PoolState::Offline, None));
}

#[test]
fn a_state_of_nothing_or_of_too_much_is_refused_and_the_device_goes_on() {
    let d = Driven::new(npu());
    make(&d.admin, "/f", MIB, "sim0");
    for (len, says) in [(0, "empty state"), ((16 << 20) + 1, "16 MiB")] {
        *d.driver.state.lock().unwrap() = vec![1; len];
        let refused = d.admin.drain("sim0", DrainOptions::default(), &mut quiet());
        fails(refused, ErrorKind::DeviceState, &["sim0", "npu", says]);
        assert_eq!((d.state(), pool_of(&d.admin, "/f")), (PoolState::Online, vec![1]));
        assert_eq!((d.next(), d.next(), d.next()), (Asked::Quiesce, Asked::Save, Asked::Resume));
        assert_eq!(d.store.device("sim0").unwrap().saved, None);
    }
    *d.driver.state.lock().unwrap() = vec![1; 16 << 20];
    d.admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    assert_eq!(d.store.device("sim0").unwrap().saved, Some(16 << 20));
}

#[test]
fn a_device_has_one_driver_which_must_say_what_can_be() {
    let mut d = Driven::new(npu());
    let drive = |device: &str, description| d.store.drive(device, Told::new(description).0, None);
    fails(drive("sim0", npu()), ErrorKind::Busy, &["sim0", "npu (process 4711)"]);
    fails(drive("dram", npu()), ErrorKind::Invalid, &["dram"]);
    fails(drive("sim1", npu()), ErrorKind::NotFound, &["sim1"]);
    let small = Description { memory: Some(MIB), ..npu() };
    d.driving = None;
    let drive = |description| d.store.drive("sim0", Told::new(description).0, None);
    fails(drive(small), ErrorKind::Invalid, &["sim0", "1 MiB", "32 MiB"]);
    fails(drive(Description { class: Class::Type1, ..npu() }), ErrorKind::Invalid, &["sim0", "0 B"]);
    let mut needy = npu();
    needy.needs.unit = 2 << 20;
    fails(drive(needy.clone()), ErrorKind::DeviceState, &["sim0", "2 MiB", "4 KiB", "page=2M"]);
    (needy.needs.unit, needy.needs.private) = (4096, vec![(32 * MIB, 4096)]);
    fails(drive(needy), ErrorKind::Invalid, &["sim0", "32 MiB"]);
    drive(npu()).unwrap();
}
