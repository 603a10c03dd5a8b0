//! Clients that stop answering in each step of a move. The daemon is told to stop itself right before the step; while it stands still the client is stopped too,
//! and then the daemon goes on.

use crate::client::{Client, check_counted, counted};
use crate::rig::{MIB, Plan, Rig, Running, Said, until};
use crate::setting::seconds;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

const LEN: u64 = 5 * MIB;
const SEED: u64 = 21;

/// Drains while the daemon stops at `point` and the victim is stopped there.
fn drain_stopped_at(rig: &Rig, victim: &Client, more: &[&str]) -> Said {
    let words: Vec<_> = ["device", "drain", "sim0"].into_iter().chain(more.iter().copied()).collect();
    std::thread::scope(|scope| {
        let drain = scope.spawn(|| rig.run(&words));
        rig.with_daemon(|daemon| {
            daemon.await_state('T');
            victim.process.stop();
            daemon.go_on();
        });
        drain.join().expect("it ends")
    })
}

fn rig_that_stops_at(point: &str) -> Rig {
    let rig = Plan::new().patient(Duration::from_millis(700)).place();
    rig.try_up(&format!("{point}=stop")).expect("it starts");
    rig.put("/f", &counted(LEN, SEED), &["--on", "sim0"]).ok();
    rig
}

/// One client is stopped and another is not: the drain names the one, the other goes on, and nothing is lost.
fn stopped_at(point: &str) {
    let rig = rig_that_stops_at(point);
    let mut victim = Client::start(&rig, "count", &["/f", "1", "100"]);
    let mut other = Client::start(&rig, "count", &["/f", "2", "100"]);
    let pid = format!("process {}", victim.pid());
    let said = drain_stopped_at(&rig, &victim, &[]).fails(5, &["/f", &pid]);
    assert!(
        !said.err.contains(&format!("process {}", other.pid())),
        "{point}: only the stopped one is named: {said}"
    );
    assert_eq!(rig.state("sim0"), "online", "{point}");
    // The other one is not held up, and new ones can use the file.
    let before = other.number("rounds");
    until("more rounds", || (other.number("rounds") > before + 3).then_some(()));
    assert_eq!(rig.get("/f").len() as u64, LEN, "{point}");
    victim.process.go_on();
    let before = victim.number("rounds");
    until("more rounds", || (victim.number("rounds") > before + 3).then_some(()));
    rig.ok(&["device", "drain", "sim0", "--wait", &seconds(20)]);
    assert_eq!((rig.pools_of("/f"), rig.pool("sim0", "used")), (vec!["dram".to_owned()], 0), "{point}");
    let rounds = [victim.number("stop"), other.number("stop")];
    check_counted(&rig.get("/f"), SEED, &rounds);
    victim.end();
    other.end();
    rig.sound();
}

#[test]
fn a_client_stopped_before_it_begins() {
    stopped_at("move:begin:1");
}

#[test]
fn a_client_stopped_before_a_freeze() {
    stopped_at("move:freeze:1");
    stopped_at("move:freeze:3");
}

#[test]
fn a_client_stopped_before_a_hold() {
    stopped_at("move:copied:1");
    stopped_at("move:copied:2");
}

#[test]
fn a_client_stopped_while_it_holds() {
    stopped_at("move:held:1");
}

#[test]
fn a_client_stopped_before_a_switch() {
    stopped_at("move:committed:1");
    stopped_at("move:committed:3");
}

#[test]
fn the_only_mapping_stopped_before_its_switch() {
    let rig = rig_that_stops_at("move:committed:2");
    let mut victim = Client::start(&rig, "hold", &["/f", "rw"]);
    let pid = format!("process {}", victim.pid());
    drain_stopped_at(&rig, &victim, &[]).fails(5, &["/f", &pid]);
    victim.process.go_on();
    victim.ask("set 0 7");
    assert_eq!(victim.number("get 0"), 7);
    rig.ok(&["device", "drain", "sim0", "--wait", &seconds(20)]);
    assert_eq!(victim.number("get 0"), 7);
    assert_eq!(rig.get("/f")[..8], 7_u64.to_le_bytes());
    victim.end();
    rig.sound();
}

#[test]
fn evict_ends_a_stopped_client_and_the_drain_succeeds() {
    for point in ["move:begin:1", "move:freeze:1", "move:copied:1", "move:committed:1"] {
        let rig = rig_that_stops_at(point);
        let mut victim = Client::start(&rig, "watch", &["/f"]);
        let mut other = Client::start(&rig, "count", &["/f", "1", "100"]);
        drain_stopped_at(&rig, &victim, &["--evict", "--wait", "100ms"]).ok();
        assert_eq!(Running::end(&mut victim.process).signal(), Some(9), "{point}");
        assert_eq!((rig.state("sim0"), rig.pool("sim0", "used")), ("offline".to_owned(), 0), "{point}");
        let evictions = rig.events("evict");
        let named = |e: &String| e.contains("/f") && e.contains(&victim.pid().to_string());
        assert!(evictions.iter().any(named), "{point}: {evictions:?}");
        let rounds = other.number("stop");
        check_counted(&rig.get("/f"), SEED, &[rounds]);
        other.end();
        rig.sound();
    }
}

#[test]
fn a_daemon_that_is_stopped_in_a_move_holds_up_only_those_who_touch_the_chunk() {
    let rig = rig_that_stops_at("move:copied:1");
    // The last chunk, far from the one that is frozen.
    let mut client = Client::start(&rig, "hold", &["/f", "rw"]);
    std::thread::scope(|scope| {
        let drain = scope.spawn(|| rig.run(&["device", "drain", "sim0"]));
        rig.with_daemon(|daemon| {
            daemon.await_state('T');
            let far = LEN - 8;
            client.ask(&format!("set {far} 5"));
            assert_eq!(client.number(&format!("get {far}")), 5);
            // Reads of the frozen one don't wait either.
            client.number("get 64");
            daemon.go_on();
        });
        drain.join().expect("it ends").ok();
    });
    client.end();
}
