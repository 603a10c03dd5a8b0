//! Moves under programs that use what is moved.

use crate::client::{Client, check_counted, counted};
use crate::rig::{MIB, Plan, kernel_faults, skipped, until};

#[test]
fn increments_of_three_processes_are_all_there_and_no_reader_sees_one_go_back() {
    const LEN: u64 = 6 * MIB + 20_480;
    let rig = Plan::new().up();
    rig.put("/counters", &counted(LEN, 1), &["--on", "sim0"]).ok();
    let mut counters: Vec<_> =
        (1..4).map(|column| Client::start(&rig, "count", &["/counters", &column.to_string(), "0"])).collect();
    let mut watcher = Client::start(&rig, "watch", &["/counters"]);
    for round in 0..4 {
        let before = counters[round % 3].number("rounds");
        rig.ok(&["move", "/counters", "--to", "dram"]);
        assert_eq!(rig.pools_of("/counters"), ["dram"]);
        // A part, so that mappings lie in two pools for a while, then the rest.
        rig.ok(&["move", "/counters", "--to", "sim0", "--range", ["0:2MiB", "2MiB:2MiB"][round % 2]]);
        assert_eq!(rig.pools_of("/counters"), ["dram", "sim0"]);
        rig.ok(&["move", "/counters", "--to", "sim0"]);
        assert_eq!(rig.pools_of("/counters"), ["sim0"]);
        assert!(counters[round % 3].number("rounds") > before, "it went on all the time");
    }
    assert!(watcher.number("looks") > 0);
    let rounds: Vec<_> = counters.iter_mut().map(|client| client.number("stop")).collect();
    check_counted(&rig.get("/counters"), 1, &rounds);
    watcher.end();
    counters.into_iter().for_each(Client::end);
    rig.sound();
    assert_eq!(rig.pool("dram", "used"), 0, "a move gives the old frames back");
}

#[test]
fn a_drain_and_a_return_go_on_under_programs_that_count() {
    const LEN: u64 = 4 * MIB;
    let rig = Plan::new().up();
    rig.put("/counters", &counted(LEN, 2), &["--on", "sim0"]).ok();
    let mut counters: Vec<_> =
        (1..3).map(|column| Client::start(&rig, "count", &["/counters", &column.to_string(), "0"])).collect();
    for _ in 0..3 {
        rig.ok(&["device", "drain", "sim0"]);
        assert_eq!(rig.state("sim0"), "offline");
        assert_eq!((rig.pools_of("/counters"), rig.pool("sim0", "used")), (vec!["dram".to_owned()], 0));
        rig.ok(&["device", "online", "sim0"]);
        assert_eq!(rig.pools_of("/counters"), ["sim0"]);
    }
    let rounds: Vec<_> = counters.iter_mut().map(|client| client.number("stop")).collect();
    check_counted(&rig.get("/counters"), 2, &rounds);
    counters.into_iter().for_each(Client::end);
}

#[test]
fn a_mapping_dropped_and_a_client_that_exits_during_moves_hold_nothing_up() {
    let rig = Plan::new().up();
    rig.put("/f", &counted(4 * MIB, 3), &["--on", "sim0"]).ok();
    let mut counter = Client::start(&rig, "count", &["/f", "1", "0"]);
    std::thread::scope(|scope| {
        let moves = scope.spawn(|| {
            for round in 0..10 {
                rig.ok(&["move", "/f", "--to", ["dram", "sim0"][round % 2]]);
            }
        });
        let mut round = 0;
        while !moves.is_finished() {
            let mut client = Client::start(&rig, "hold", &["/f", if round % 2 == 0 { "rw" } else { "ro" }]);
            for _ in 0..20 {
                client.ask("unmap");
                client.ask("map");
                client.number("get 8");
            }
            // The next one without a word.
            if round % 2 == 0 {
                client.end()
            } else {
                drop(client)
            }
            round += 1;
        }
    });
    let rounds = counter.number("stop");
    check_counted(&rig.get("/f"), 3, &[rounds]);
    counter.end();
    rig.sound();
}

#[test]
fn system_calls_into_and_out_of_a_mapping_wait_as_loads_and_stores_do() {
    if !kernel_faults() {
        return skipped(
            "system_calls_into_and_out_of_a_mapping_wait_as_loads_and_stores_do",
            "no kernel-mode faults",
        );
    }
    let rig = Plan::new().up();
    rig.put("/f", &vec![0; 3 << 20], &["--on", "sim0"]).ok();
    let beside = rig.beside("");
    let mut client = Client::start(&rig, "pread", &["/f", beside.to_str().expect("text")]);
    for round in 0..12 {
        rig.ok(&["move", "/f", "--to", ["dram", "sim0"][round % 2]]);
    }
    let before = client.number("rounds");
    until("more rounds", || (client.number("rounds") > before).then_some(()));
    client.end();
}

#[test]
fn nobody_gets_stuck_on_a_mutex_or_a_condition_variable_that_moves() {
    if !kernel_faults() {
        return skipped(
            "nobody_gets_stuck_on_a_mutex_or_a_condition_variable_that_moves",
            "no kernel-mode faults",
        );
    }
    let rig = Plan::new().up();
    rig.put("/locks", &vec![0; 4 << 20], &["--on", "sim0"]).ok();
    let mut players: Vec<_> =
        (0..3).map(|me: u32| Client::start(&rig, "turns", &["/locks", &me.to_string(), "3"])).collect();
    for round in 0..12 {
        rig.ok(&["move", "/locks", "--to", ["dram", "sim0"][round % 2]]);
        // Nobody plays alone: if one were stuck, all were.
        let before = players[round % 3].number("turns");
        until("more turns", || (players[round % 3].number("turns") > before).then_some(()));
    }
    players[0].number("stop");
    let turns: u64 = players.iter_mut().map(|player| player.number("over")).sum();
    let bytes = rig.get("/locks");
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    assert_eq!((number(8192), number((3 << 20) + 8)), (turns, turns));
    players.into_iter().for_each(Client::end);
}
