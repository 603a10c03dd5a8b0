//! Drains: planned, refused with the reason, waited for, cancelled, resumed; and the way home.

use crate::client::Client;
use crate::rig::{MIB, Plan, Rig, Running, Said, pattern, until};
use crate::setting::{patience, seconds};
use rustix::process::Signal;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A store with these files of 1 MiB each on `sim0`.
fn with_files(plan: Plan, names: &[&str]) -> Rig {
    let rig = plan.up();
    for (seed, name) in (0..).zip(names) {
        rig.put(name, &pattern(MIB, seed), &["--on", "sim0"]).ok();
    }
    rig
}

fn assert_intact(rig: &Rig, names: &[&str]) {
    for (seed, name) in (0..).zip(names) {
        assert!(rig.get(name) == pattern(MIB, seed), "{name}");
    }
    rig.sound();
}

/// A drain that runs beside the test.
fn drain_beside(rig: &Rig, more: &[&str]) -> Running {
    let words: Vec<_> = ["device", "drain", "sim0"].into_iter().chain(more.iter().copied()).collect();
    let mut command = rig.command(&words);
    Running {
        child: command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts"),
    }
}

/// Waits until the drain waits for somebody, and returns whom.
fn await_waiting(rig: &Rig) -> String {
    until("a drain that waits", || {
        let waiting = rig.row(&["device", "show", "sim0"])["job"]["waiting"].clone();
        waiting.as_array().is_some_and(|w| !w.is_empty()).then(|| waiting.to_string())
    })
}

fn pinned(rig: &Rig, path: &str) -> Client {
    let mut client = Client::start(rig, "hold", &[path, "rw"]);
    assert_eq!(client.ask("pin"), "pinned");
    client
}

#[test]
fn a_drain_empties_and_online_brings_home() {
    let names = ["/a", "/b", "/c"];
    let rig = with_files(Plan::new(), &names);
    rig.put("/stays", &pattern(MIB, 77), &[]).ok();
    let row = rig.row(&["device", "drain", "sim0"]);
    assert_eq!((row["bytes"].as_u64(), row["files"].as_u64()), (Some(3 * MIB), Some(3)));
    assert_eq!((rig.state("sim0"), rig.pool("sim0", "used")), ("offline".to_owned(), 0));
    assert!(rig.rows(&["pages", "sim0"]).iter().all(|run| run["state"] == "free"));
    assert_intact(&rig, &names);
    let away = rig.row(&["stat", "/a"])["away"].clone();
    assert_eq!(away[0]["pool"], "sim0");
    let row = rig.row(&["device", "online", "sim0"]);
    assert_eq!(
        (row["bytes"].as_u64(), row["files"].as_u64(), row["left"].as_array().map(Vec::len)),
        (Some(3 * MIB), Some(3), Some(0))
    );
    for name in names {
        assert_eq!(rig.pools_of(name), ["sim0"]);
    }
    assert_eq!(rig.pools_of("/stays"), ["dram"], "what was not away doesn't go");
    assert_intact(&rig, &names);
}

#[test]
fn a_plan_is_printed_and_nothing_moves() {
    let rig = with_files(Plan::new(), &["/a", "/b"]);
    let row = rig.row(&["device", "drain", "sim0", "--dry-run"]);
    assert_eq!(row["plan"]["bytes"].as_u64(), Some(2 * MIB));
    let moves = row["plan"]["moves"].as_array().expect("a list").clone();
    let files: Vec<_> = moves.iter().map(|m| m["file"].as_str().expect("text")).collect();
    assert_eq!(files, ["/a", "/b"]);
    assert!(moves.iter().all(|m| m["to"][0]["pool"] == "dram"));
    assert_eq!(row["plan"]["obstacles"].as_array().map(Vec::len), Some(0));
    let text = rig.ok(&["device", "drain", "sim0", "--dry-run"]);
    assert!(text.text().contains("sim0 can be drained: 2 MiB would move"), "{text}");
    assert_eq!((rig.state("sim0"), rig.pool("dram", "used")), ("online".to_owned(), 0));
}

#[test]
fn no_room_is_said_with_bytes_and_files_before_anything_moves() {
    let rig = with_files(Plan::new().dram("2MiB"), &["/a", "/b", "/c", "/d", "/e"]);
    let missing = (3 * MIB).to_string();
    rig.run(&["device", "drain", "sim0"]).fails(4, &[&missing, "/"]);
    rig.run(&["device", "drain", "sim0", "--wait", &seconds(10)]).fails(4, &[&missing]);
    let plan = rig.row(&["device", "drain", "sim0", "--dry-run"])["plan"]["obstacles"].to_string();
    assert!(plan.contains(&missing), "{plan}");
    assert_eq!((rig.state("sim0"), rig.pool("dram", "used")), ("online".to_owned(), 0));
    rig.ok(&["rm", "/a", "/b", "/c"]);
    rig.ok(&["device", "drain", "sim0"]);
}

#[test]
fn a_strict_placement_refuses_a_drain_and_lets_go_when_it_is_changed() {
    let rig = with_files(Plan::new(), &["/a"]);
    rig.put("/strict", b"here", &["--on", "sim0", "--strict"]).ok();
    rig.run(&["device", "drain", "sim0"]).fails(6, &["/strict", "strict"]);
    assert_eq!((rig.state("sim0"), rig.pools_of("/a")), ("online".to_owned(), vec!["sim0".to_owned()]));
    rig.ok(&["placement", "/strict", "--on", "sim0"]);
    rig.ok(&["device", "drain", "sim0"]);
    assert_eq!(rig.get("/strict"), b"here");
}

#[test]
fn a_held_file_refuses_with_who_and_nothing_moves() {
    let rig = with_files(Plan::new(), &["/a", "/b"]);
    let client = pinned(&rig, "/b");
    let pid = format!("process {}", client.pid());
    rig.run(&["device", "drain", "sim0"]).fails(5, &["/b", &pid]);
    assert_eq!((rig.state("sim0"), rig.pools_of("/a")), ("online".to_owned(), vec!["sim0".to_owned()]));
    let refusals = rig.events("refuse");
    assert!(refusals.iter().any(|e| e.contains("sim0") && e.contains(&pid)), "{refusals:?}");
}

#[test]
fn a_wait_that_expires_leaves_the_device_online_and_says_who() {
    let rig = with_files(Plan::new(), &["/a", "/b"]);
    let mut client = pinned(&rig, "/b");
    let pid = format!("process {}", client.pid());
    rig.run(&["device", "drain", "sim0", "--wait", "300ms"]).fails(5, &["/b", &pid]);
    assert_eq!(rig.state("sim0"), "online");
    assert_eq!(rig.pools_of("/a"), ["dram"], "the rest was moved");
    rig.ok(&["device", "online", "sim0"]);
    assert_eq!(rig.pools_of("/a"), ["sim0"]);
    client.ask("unpin");
    rig.ok(&["device", "drain", "sim0"]);
    client.end();
    assert_intact(&rig, &["/a", "/b"]);
}

#[test]
fn a_wait_ends_when_the_holder_lets_go() {
    let rig = with_files(Plan::new(), &["/a", "/b"]);
    let mut client = pinned(&rig, "/b");
    let mut drain = drain_beside(&rig, &["--wait", &seconds(60)]);
    let waiting = await_waiting(&rig);
    assert!(waiting.contains("/b") && waiting.contains(&client.pid().to_string()), "{waiting}");
    let status = rig.ok(&["status"]);
    assert!(status.text().contains("/b"), "{status}");
    assert_eq!(rig.state("sim0"), "draining");
    rig.put("/new", b"x", &["--on", "sim0"]).fails(6, &["sim0"]);
    rig.run(&["move", "/a", "--to", "sim0"]).fails(6, &["sim0"]);
    rig.run(&["device", "drain", "sim0"]).fails(5, &["drain of sim0 runs already"]);
    client.ask("unpin");
    assert!(drain.end().success());
    assert_eq!(rig.state("sim0"), "offline");
    rig.put("/new", b"x", &["--on", "sim0"]).fails(6, &["sim0"]);
    rig.run(&["device", "drain", "sim0"]).fails(6, &["offline already"]);
    client.end();
}

fn cancelled_by(cancel: impl FnOnce(&Rig, &mut Running)) {
    let rig = with_files(Plan::new(), &["/a", "/b"]);
    let client = pinned(&rig, "/b");
    let mut drain = drain_beside(&rig, &["--wait", &seconds(60)]);
    await_waiting(&rig);
    cancel(&rig, &mut drain);
    until("the device online", || (rig.state("sim0") == "online").then_some(()));
    until("no job", || rig.row(&["device", "show", "sim0"])["job"].is_null().then_some(()));
    assert_intact(&rig, &["/a", "/b"]);
    rig.ok(&["device", "online", "sim0"]);
    assert_eq!(rig.pools_of("/a"), ["sim0"]);
    drop(client);
    rig.ok(&["device", "drain", "sim0", "--wait", &seconds(10)]);
    assert_intact(&rig, &["/a", "/b"]);
}

#[test]
fn a_drain_whose_client_is_killed_is_cancelled() {
    cancelled_by(|_, drain| drain.kill());
}

#[test]
fn ctrl_c_cancels_a_drain() {
    cancelled_by(|_, drain| {
        drain.signal(Signal::INT);
        assert_eq!(drain.end().code(), Some(130));
    });
}

#[test]
fn online_cancels_a_drain() {
    cancelled_by(|rig, drain| {
        rig.ok(&["device", "online", "sim0"]);
        assert_eq!(drain.end().code(), Some(130));
        assert_eq!(rig.pools_of("/a"), ["sim0"]);
    });
}

#[test]
fn a_drain_that_the_daemon_s_end_interrupts_says_that_it_goes_on() {
    let rig = with_files(Plan::new(), &["/a", "/b"]);
    let client = pinned(&rig, "/b");
    let mut drain = drain_beside(&rig, &["--wait", &seconds(60)]);
    await_waiting(&rig);
    rig.ok(&["down"]);
    assert_eq!(drain.end().code(), Some(8));
    rig.with_daemon(Running::end);
    drop(client);
    rig.up();
    until("the device offline", || (rig.state("sim0") == "offline").then_some(()));
    assert_intact(&rig, &["/a", "/b"]);
}

#[test]
fn a_drain_goes_on_after_its_daemon_was_killed() {
    let names = ["/a", "/b", "/c", "/d", "/e", "/f"];
    let rig = with_files(Plan::new(), &names);
    rig.kill();
    rig.try_up("move:copy:4=kill").expect("it starts");
    rig.run(&["device", "drain", "sim0", "--limit", "0.01"]).fails(8, &[]);
    rig.with_daemon(Running::end);
    let begun = Instant::now();
    rig.up();
    until("the device offline", || (rig.state("sim0") == "offline").then_some(()));
    // At least 3 MiB are left, and the limit of 10 MB/s holds on: the last of them begins 200 ms after the first.
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    assert_eq!(rig.pool("sim0", "used"), 0);
    assert_intact(&rig, &names);
    let resumed = rig.events("drain");
    assert!(resumed.iter().any(|e| e.contains("goes on")), "{resumed:?}");
    rig.ok(&["device", "online", "sim0"]);
    for name in names {
        assert_eq!(rig.pools_of(name), ["sim0"]);
    }
    assert_intact(&rig, &names);
}

#[test]
fn an_offline_device_stays_offline_over_a_restart() {
    let rig = with_files(Plan::new(), &["/a"]);
    rig.ok(&["device", "drain", "sim0"]);
    rig.down();
    rig.up();
    assert_eq!(rig.state("sim0"), "offline");
    rig.put("/b", b"x", &["--on", "sim0"]).fails(6, &["sim0"]);
    rig.ok(&["mkdir", "/d", "--on", "sim0"]);
    rig.put("/d/b", b"x", &[]).fails(6, &["sim0"]);
    rig.ok(&["device", "online", "sim0"]);
    assert_eq!(rig.pools_of("/a"), ["sim0"]);
    rig.put("/d/b", b"x", &[]).ok();
    assert_eq!(rig.pools_of("/d/b"), ["sim0"]);
    assert_intact(&rig, &["/a"]);
}

#[test]
fn a_limit_slows_a_drain_down() {
    let rig = with_files(Plan::new(), &["/a", "/b"]);
    // 2 MiB at 10 MB/s are 200 ms.
    let said: Said = rig.ok(&["device", "drain", "sim0", "--limit", "0.01", "--json"]);
    let nanos = said.rows()[0]["nanos"].as_u64().expect("a number");
    assert!((100_000_000..u64::try_from(patience().as_nanos()).expect("small")).contains(&nanos), "{nanos}");
    assert_intact(&rig, &["/a", "/b"]);
}

#[test]
fn a_detached_device_is_nobody_s_until_it_is_attached() {
    let rig = Plan::new().up();
    rig.put("/f", &pattern(3 * MIB, 1), &["--on", "sim0"]).ok();
    rig.run(&["device", "detach", "sim0"]).fails(6, &["sim0 is online", "drain"]);
    rig.run(&["device", "attach", "sim0"]).fails(6, &["not detached"]);
    rig.run(&["device", "detach", "dram"]).fails(2, &["dram"]);
    rig.ok(&["device", "drain", "sim0"]);
    let said = rig.ok(&["device", "detach", "sim0"]);
    assert!(said.text().starts_with("sim0 is detached"), "{said}");
    let there = |rig: &Rig| {
        assert_eq!(rig.state("sim0"), "detached");
        assert!(!codax_os::mounts::is_mount_point(&rig.dir().join("pools/sim0")).unwrap_or(false));
        rig.run(&["device", "detach", "sim0"]).fails(6, &["already"]);
        rig.run(&["device", "drain", "sim0"]).fails(6, &["detached"]);
        rig.run(&["device", "online", "sim0"]).fails(6, &["attach"]);
        rig.put("/g", b"g", &["--on", "sim0"]).fails(6, &["sim0"]);
        assert_eq!(rig.get("/f"), pattern(3 * MIB, 1));
        rig.sound();
    };
    there(&rig);
    rig.kill();
    rig.up();
    there(&rig);
    rig.ok(&["device", "attach", "sim0"]);
    assert_eq!(rig.state("sim0"), "offline");
    rig.ok(&["device", "online", "sim0"]);
    assert_eq!((rig.pools_of("/f"), rig.get("/f")), (vec!["sim0".to_owned()], pattern(3 * MIB, 1)));
    rig.sound();
}
