//! Caches that are written back before bytes are copied, and before frames are given to somebody else.

use super::*;

#[test]
fn a_move_waits_for_a_slow_invalidate_before_it_copies_and_before_frames_go() {
    let d = Driven::new(npu());
    make(&d.admin, "/f", 3 * MIB, "sim0");
    let open = d.driver.gate("write_back");
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| moved(&d.admin, "/f", "dram"));
        written_back(d.next(), &d.admin, "/f", 3 * MIB);
        // Nothing has been copied, and nothing has been committed.
        assert_eq!(pool_of(&d.admin, "/f"), [1]);
        assert!(
            !d.rig
                .layout()
                .pool("dram")
                .join(format!("{:016x}", d.admin.stat(&path("/f")).unwrap().id.0))
                .exists()
        );
        open.send(()).unwrap();
        let Asked::WriteBack(again) = d.next() else { panic!("before frames are given back") };
        assert_eq!(again.iter().map(|r| r.len).sum::<u64>(), 3 * MIB);
        let pool = &d.store.info().pools[1];
        assert_eq!((pool_of(&d.admin, "/f"), pool.free), (vec![0], pool.bytes - 3 * MIB));
        open.send(()).unwrap();
        moving.join().unwrap().unwrap();
    });
    let pool = &d.store.info().pools[1];
    assert_eq!((pool.held, pool.free), (0, pool.bytes));
    assert_intact(&d.admin, "/f", 3 * MIB);
}

#[test]
fn a_driver_that_never_answers_invalidate_leaves_the_file_where_it_is() {
    let d = Driven::impatient(npu());
    make(&d.admin, "/f", MIB, "sim0");
    let open = d.driver.gate("write_back");
    fails(moved(&d.admin, "/f", "dram"), ErrorKind::Busy, &["/f", "npu", "4711", "sim0", "within 1.0 s"]);
    assert_eq!(pool_of(&d.admin, "/f"), [1]);
    // A drain goes on to wait for it, and says who it is.
    let wait = DrainOptions { wait: Duration::from_millis(100), running: true, ..Default::default() };
    fails(d.admin.drain("sim0", wait, &mut quiet()), ErrorKind::Busy, &["npu", "4711", "sim0"]);
    assert_eq!((d.state(), pool_of(&d.admin, "/f")), (PoolState::Online, vec![1]));
    drop(open);
    moved(&d.admin, "/f", "dram").unwrap();
    assert_intact(&d.admin, "/f", MIB);
    assert!(d.store.check(false).unwrap().is_empty());
}

#[test]
fn frames_are_held_until_a_late_driver_has_let_go_of_them() {
    let d = Driven::impatient(npu());
    make(&d.admin, "/f", MIB, "sim0");
    let open = d.driver.gate("write_back");
    open.send(()).unwrap();
    moved(&d.admin, "/f", "dram").unwrap();
    assert_eq!((pool_of(&d.admin, "/f"), d.store.info().pools[1].held), (vec![0], MIB));
    // Nobody else holds it, and still it is not given back.
    assert!(d.store.check(false).unwrap().is_empty());
    assert_eq!(d.store.info().pools[1].held, MIB);
    fails(
        d.admin.drain("sim0", DrainOptions::default(), &mut quiet()),
        ErrorKind::Busy,
        &["/f", "npu", "4711"],
    );
    drop(open);
    let wait = DrainOptions { wait: LONG, ..Default::default() };
    d.admin.drain("sim0", wait, &mut quiet()).unwrap();
    assert_eq!(d.store.info().pools[1].held, 0);
    assert_intact(&d.admin, "/f", MIB);
}

#[test]
fn what_is_cut_off_or_removed_is_nobody_s_before_devices_have_let_go_of_it() {
    let d = Driven::impatient(npu());
    let file = make(&d.admin, "/f", 3 * MIB, "sim0");
    let open = d.driver.gate("write_back");
    fails(d.admin.set_len(file.handle, MIB), ErrorKind::Busy, &["/f", "npu", "4711"]);
    assert_eq!((d.admin.stat(&path("/f")).unwrap().len, d.store.info().pools[1].used), (3 * MIB, 3 * MIB));
    open.send(()).unwrap();
    assert!(matches!(d.next(), Asked::WriteBack(_)));
    d.answers();
    // Before it is cut, and before its frames are somebody else's.
    (0..2).for_each(|_| open.send(()).unwrap());
    d.admin.set_len(file.handle, MIB).unwrap();
    (0..2).for_each(|_| written_back(d.next(), &d.admin, "/f", 2 * MIB));
    assert_eq!(d.store.info().pools[1].used, MIB);
    d.admin.close(file.handle);
    d.admin.remove(&path("/f"), false).unwrap();
    assert!(matches!(d.next(), Asked::WriteBack(_)));
    let held = || (d.store.info().pools[1].used, d.store.info().pools[1].held);
    assert_eq!(held(), (0, MIB));
    drop(open);
    d.has(0, 0);
    assert!(d.store.check(false).unwrap().is_empty());
}

/// Of what a mount takes from a file, served by the daemon or by the kernel, the device is asked first: nothing goes where it doesn't answer in time.
#[test]
fn what_a_mount_cuts_off_or_punches_is_nobody_s_before_devices_have_let_go_of_it() {
    for by_kernel in [false, true] {
        let d = Driven::impatient(npu());
        let fs = d.store.fs(by_kernel);
        d.admin.close(make(&d.admin, "/f", 4 * MIB, "sim0").handle);
        let file = d.admin.stat(&path("/f")).unwrap().id;
        let opened = fs.open(file, true, true, WHO).unwrap();
        assert_eq!(matches!(opened.how, How::Passthrough(_)), by_kernel);
        let handle = opened.handle;
        let has = || (fs.attr(file).unwrap().len, d.store.info().pools[1].used);
        let cut = || fs.set(file, &Set { len: Some(3 * MIB), ..Set::default() }).map(drop);
        let punch = || {
            let how = Allocate { keep_size: true, punch: true, zero: false };
            fs.allocate(handle, MIB, MIB, how)
        };
        let takes: [(&(dyn Fn() -> Result<()> + Sync), _); 2] =
            [(&cut, (3 * MIB, 3 * MIB)), (&punch, (3 * MIB, 2 * MIB))];
        for (take, after) in takes {
            let open = d.driver.gate("write_back");
            let before = has();
            let begun = Instant::now();
            fails(take(), ErrorKind::Busy, &["/f", "npu", "4711", "sim0", "within 1.0 s"]);
            assert!(begun.elapsed() < LONG);
            assert!(matches!(d.next(), Asked::WriteBack(_)));
            assert_eq!(has(), before);
            open.send(()).unwrap();
            d.answers();
            std::thread::scope(|scope| {
                let taking = scope.spawn(take);
                let asked = d.next();
                written_back(asked, &d.admin, "/f", MIB);
                assert_eq!(has(), before, "it waits for a slow one");
                open.send(()).unwrap();
                let Asked::WriteBack(again) = d.next() else { panic!("before frames are given back") };
                assert_eq!(again.iter().map(|r| r.len).sum::<u64>(), MIB);
                // What the kernel serves is gone as soon as anybody looks.
                let free = || d.store.info().pools[1].free;
                assert!(by_kernel || free() == 32 * MIB - before.1, "not before it is asked again");
                open.send(()).unwrap();
                taking.join().unwrap().unwrap();
            });
            assert_eq!(has(), after);
            d.quiet();
        }
        drop(opened.how);
        fs.release(handle);
        let open = d.driver.gate("write_back");
        fs.unlink(ROOT, b"f").unwrap();
        assert!(matches!(d.next(), Asked::WriteBack(_)));
        let held = || (d.store.info().pools[1].used, d.store.info().pools[1].held);
        assert_eq!(held(), (0, 2 * MIB));
        drop(open);
        d.has(0, 0);
        assert!(d.store.check(false).unwrap().is_empty());
    }
}

/// A device may look up anew what is about to go: where it is late to let go of that, it is gone, and held.
#[test]
fn what_was_cut_off_or_punched_is_held_until_a_device_that_is_late_has_let_go_of_it_again() {
    let d = Driven::impatient(npu());
    let fs = d.store.fs(false);
    let file = make(&d.admin, "/f", 4 * MIB, "sim0");
    let id = d.admin.stat(&path("/f")).unwrap().id;
    let handle = fs.open(id, true, true, WHO).unwrap().handle;
    let punch = || {
        let how = Allocate { keep_size: true, punch: true, zero: false };
        fs.allocate(handle, MIB, MIB, how)
    };
    let cut = || d.admin.set_len(file.handle, 3 * MIB);
    let takes: [&dyn Fn() -> Result<()>; 2] = [&cut, &punch];
    for (take, used) in takes.into_iter().zip([3 * MIB, 2 * MIB]) {
        let open = d.driver.gate("write_back");
        open.send(()).unwrap();
        take().unwrap();
        assert!((0..2).all(|_| matches!(d.next(), Asked::WriteBack(_))));
        let pool = &d.store.info().pools[1];
        assert_eq!((pool.used, pool.held, pool.free), (used, MIB, pool.bytes - used - MIB));
        assert!(d.store.check(false).unwrap().is_empty());
        fails(d.admin.set_len(file.handle, 4 * MIB), ErrorKind::Busy, &["/f", "still held"]);
        drop(open);
        d.has(used, 0);
        assert!(d.store.check(false).unwrap().is_empty());
        while d.told.try_recv().is_ok() {}
    }
    // It is zeros where it grows again.
    d.admin.set_len(file.handle, 4 * MIB).unwrap();
    for at in [MIB, 3 * MIB] {
        let mut bytes = vec![1; 1 << 20];
        assert_eq!(fs.read(handle, at, &mut bytes).unwrap(), bytes.len());
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
}

/// A mount has few threads: they wait for all devices at once, and not again for one that does not answer.
#[test]
fn a_device_that_hangs_is_waited_for_once_and_beside_others() {
    let rig = Rig::new();
    let options = |time| {
        let mut options = options(&rig, time);
        options.devices.push(DeviceSpec::emulated("nic0", 0, LinkModel::default()));
        options
    };
    let store = Store::open(options(Duration::from_secs(1)), TestEnv::new()).unwrap();
    let (nic, told) = Told::new(Description { class: Class::Type1, memory: None, ..npu() });
    let _driving = store.drive("nic0", nic.clone(), None).unwrap();
    assert_eq!(told.recv_timeout(LONG).unwrap(), Asked::Resume);
    let (driver, asked) = Told::new(npu());
    let driving = store.drive("sim0", driver.clone(), Some(4711)).unwrap();
    assert_eq!(asked.recv_timeout(LONG).unwrap(), Asked::Resume);
    let admin = admin(&store);
    admin.close(make(&admin, "/f", MIB, "sim0").handle);
    let file = admin.stat(&path("/f")).unwrap().id;
    let fs = store.fs(false);
    let cut = || fs.set(file, &Set { len: Some(0), ..Set::default() });
    let gates = [driver.gate("write_back"), nic.gate("write_back")];
    std::thread::scope(|scope| {
        let cutting = scope.spawn(cut);
        for asked in [&asked, &told] {
            assert!(matches!(asked.recv_timeout(LONG).unwrap(), Asked::WriteBack(_)));
        }
        gates[1].send(()).unwrap();
        fails(cutting.join().unwrap(), ErrorKind::Busy, &["/f", "npu", "4711", "sim0", "within 1.0 s"]);
    });
    store.reload(&options(LONG)).unwrap();
    let begun = Instant::now();
    fails(cut(), ErrorKind::Busy, &["/f", "npu", "4711", "sim0", "asked before"]);
    assert!(begun.elapsed() < LONG);
    assert!(asked.try_recv().is_err() && told.try_recv().is_err(), "nobody is asked");
    drop(gates);
    let d = Driven { store, driver, told: asked, driving: Some(driving), admin, rig };
    d.answers();
    cut().unwrap();
    d.has(0, 0);
}

/// What is added to what is held of a file while a device is asked for the rest has not been asked for.
#[test]
fn what_becomes_held_while_a_device_is_asked_is_asked_for_before_it_goes() {
    let d = Driven::impatient(npu());
    let fs = d.store.fs(false);
    d.admin.close(make(&d.admin, "/f", 4 * MIB, "sim0").handle);
    d.admin.close(make(&d.admin, "/g", MIB, "sim0").handle);
    let file = d.admin.stat(&path("/f")).unwrap().id;
    let handle = fs.open(file, true, true, WHO).unwrap().handle;
    let punch = |at| fs.allocate(handle, at, MIB, Allocate { keep_size: true, punch: true, zero: false });
    let asked = || assert!(matches!(d.next(), Asked::WriteBack(_)));
    let open = d.driver.gate("write_back");
    std::thread::scope(|scope| {
        let first = scope.spawn(|| punch(0));
        asked();
        open.send(()).unwrap();
        asked();
        d.driver.fail(Some("write_back"));
        // Asked again it fails, and beside that once more.
        open.send(()).unwrap();
        first.join().unwrap().unwrap();
        asked();
        open.send(()).unwrap();
        d.answers();
        d.driver.fail(None);
        let second = scope.spawn(|| punch(MIB));
        asked();
        open.send(()).unwrap();
        asked();
        // From here on it is waited for, but for who does so already.
        d.store.reload(&options(&d.rig, LONG)).unwrap();
        d.admin.remove(&path("/g"), false).unwrap();
        second.join().unwrap().unwrap();
    });
    d.has(2 * MIB, 3 * MIB);
    d.quiet();
    drop(open);
    d.has(2 * MIB, 0);
    let second = |r: &Range| r.file == file && r.at == MIB;
    let mut later = d.told.try_iter();
    assert!(later.any(|asked| matches!(asked, Asked::WriteBack(ranges) if ranges.iter().any(second))));
    assert!(d.store.check(false).unwrap().is_empty());
}

#[test]
fn one_thread_asks_a_device_that_hangs_however_many_files_are_removed() {
    let rig = Rig::new();
    let asking = Arc::new(AtomicUsize::new(0));
    let counted = asking.clone();
    let env = TestEnv::seen_by(move |name| {
        counted.fetch_add(usize::from(name == "write back"), Ordering::Relaxed);
    });
    let store = Store::open(options(&rig, LONG), env).unwrap();
    let d = Driven::by(rig, store, npu()).running();
    let names: Vec<String> = (0..200).map(|n| format!("/f{n}")).collect();
    for name in &names {
        d.admin.close(make(&d.admin, name, 64 << 10, "sim0").handle);
    }
    let open = d.driver.gate("write_back");
    for (n, name) in names.iter().enumerate() {
        d.admin.remove(&path(name), false).unwrap();
        if n == 0 {
            assert!(matches!(d.next(), Asked::WriteBack(_)));
        }
    }
    assert_eq!(asking.load(Ordering::Relaxed), 1);
    d.has(0, 200 * (64 << 10));
    drop(open);
    d.has(0, 0);
    // Of all that came meanwhile at once.
    assert!(matches!(d.next(), Asked::WriteBack(ranges) if ranges.len() >= 199));
    d.quiet();
    assert_eq!(asking.load(Ordering::Relaxed), 1);
}

#[test]
fn a_driver_that_can_not_write_back_fails_the_move() {
    let d = Driven::new(npu());
    make(&d.admin, "/f", MIB, "sim0");
    d.driver.fail(Some("write_back"));
    fails(moved(&d.admin, "/f", "dram"), ErrorKind::DeviceState, &["sim0", "npu", "fails on purpose"]);
    assert_eq!(pool_of(&d.admin, "/f"), [1]);
    d.driver.fail(None);
    moved(&d.admin, "/f", "dram").unwrap();
    assert_intact(&d.admin, "/f", MIB);
}

#[test]
fn a_driver_that_dies_while_a_move_waits_for_it_is_not_waited_for() {
    let mut d = Driven::new(npu());
    make(&d.admin, "/f", MIB, "sim0");
    let open = d.driver.gate("write_back");
    let driving = d.driving.take();
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| moved(&d.admin, "/f", "dram"));
        written_back(d.next(), &d.admin, "/f", MIB);
        drop(driving);
        moving.join().unwrap().unwrap();
    });
    drop(open);
    assert_eq!(d.store.device("sim0").unwrap().driverless.as_deref(), Some("npu"));
    assert_intact(&d.admin, "/f", MIB);
}

#[test]
fn only_devices_that_may_have_it_in_their_caches_are_asked() {
    let own = Description { reach: codax_core::driver::Reach::Own, ..npu() };
    let d = Driven::new(own);
    make(&d.admin, "/far", MIB, "dram");
    moved(&d.admin, "/far", "sim0").unwrap();
    d.quiet();
    moved(&d.admin, "/far", "dram").unwrap();
    assert!(matches!(d.next(), Asked::WriteBack(_)));
    let d = Driven::new(npu());
    make(&d.admin, "/far", MIB, "dram");
    moved(&d.admin, "/far", "sim0").unwrap();
    let Asked::WriteBack(ranges) = d.next() else { panic!("it reaches dram") };
    assert!(ranges.iter().all(|r| r.memory.is_none()));
    let rig = Rig::new();
    let store = rig.open();
    let d = Driven::by(rig, store, Description::memory_only("m", "1"));
    make(&d.admin, "/f", MIB, "sim0");
    let _gate = d.driver.gate("write_back");
    moved(&d.admin, "/f", "dram").unwrap();
}
