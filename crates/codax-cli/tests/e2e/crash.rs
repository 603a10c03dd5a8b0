//! The daemon killed at each point at which it can be told to die, while programs map what it serves.
//!
//! A script of commands runs against a daemon that will die at one point. Whatever it acknowledged must be there when it is started again; the command that it was
//! at may have happened or not, as a whole.

use crate::client::{Client, check_counted, counted};
use crate::rig::{MIB, Plan, Rig, Running, pattern, until};
use std::collections::BTreeMap;

/// What may be at a path: any of these contents, `None` for nothing.
type Model = BTreeMap<&'static str, Vec<Option<Vec<u8>>>>;

/// A command, its input, and what is at each path it is about afterwards.
struct Step {
    words: Vec<&'static str>,
    input: Vec<u8>,
    after: Vec<(&'static str, Option<Vec<u8>>)>,
}

const LIVE: u64 = 5 * MIB;
const SEED: u64 = 11;

fn script() -> Vec<Step> {
    let (a, a2, b) = (pattern(300_000, 1), pattern(70_000, 2), pattern(40_960, 3));
    let put = |path, bytes: &[u8], more: &[&'static str]| Step {
        words: ["put", "-", path].into_iter().chain(more.iter().copied()).collect(),
        input: bytes.to_vec(),
        after: vec![(path, Some(bytes.to_vec()))],
    };
    let plain = |words: &[&'static str]| Step { words: words.to_vec(), input: Vec::new(), after: Vec::new() };
    let with = |words: &[&'static str], after| Step { words: words.to_vec(), input: Vec::new(), after };
    vec![
        put("/a", &a, &["--on", "sim0"]),
        plain(&["mkdir", "/d"]),
        put("/d/b", &b, &["--on", "sim0"]),
        put("/a", &a2, &["-f", "--on", "sim0"]),
        with(&["mv", "/d/b", "/c"], vec![("/d/b", None), ("/c", Some(b))]),
        plain(&["move", "/live", "--to", "dram"]),
        plain(&["move", "/live", "--to", "sim0"]),
        plain(&["move", "/a", "--to", "dram"]),
        plain(&["chmod", "600", "/a"]),
        plain(&["device", "drain", "sim0"]),
        plain(&["device", "online", "sim0"]),
        with(&["rm", "/a"], vec![("/a", None)]),
        plain(&["down"]),
    ]
}

/// Starts the daemon with `hooks`, runs the script until it dies, starts it again and looks at everything.
fn dies_at(hook: &str) {
    let rig = Plan::new().up();
    rig.put("/live", &counted(LIVE, SEED), &["--on", "sim0"]).ok();
    let mut clients: Vec<_> =
        ["1", "2"].iter().map(|column| Client::start(&rig, "count", &["/live", column, "500"])).collect();
    rig.kill();
    if let Err(said) = rig.try_up(hook) {
        panic!("{hook}: it died before it served: {said}");
    }
    reconnected(&rig, &clients);
    let mut model = Model::new();
    let died_in = script().into_iter().find_map(|step| run(&rig, &mut model, step));
    let died_in = died_in.unwrap_or_else(|| panic!("{hook} was never reached"));
    rig.with_daemon(Running::end);

    // Nobody serves, and everybody goes on.
    let before: Vec<_> = clients.iter_mut().map(|client| client.number("rounds")).collect();
    for (client, before) in clients.iter_mut().zip(before) {
        until("rounds without a daemon", || (client.number("rounds") > before).then_some(()));
    }
    rig.up();
    reconnected(&rig, &clients);
    for (path, may_be) in &model {
        let said = rig.run(&["get", path, "-"]);
        let found = (said.code == 0).then_some(said.out);
        assert!(may_be.contains(&found), "{hook}, in `{died_in}`: {path} is none of what it may be");
    }
    // A drain that was interrupted goes on by itself.
    until("the end of a drain", || (rig.row(&["device", "show", "sim0"])["job"].is_null()).then_some(()));
    rig.sound();
    if rig.state("sim0") == "offline" {
        rig.ok(&["device", "online", "sim0"]);
    }
    rig.ok(&["device", "drain", "sim0"]);
    rig.ok(&["device", "online", "sim0"]);
    let rounds: Vec<_> = clients.iter_mut().map(|client| client.number("stop")).collect();
    check_counted(&rig.get("/live"), SEED, &rounds);
    rig.sound();
    clients.into_iter().for_each(Client::end);
}

fn reconnected(rig: &Rig, clients: &[Client]) {
    until("the clients' return", || {
        let mapped_by = rig.row(&["stat", "/live"])["mapped_by"].clone();
        let pids: Vec<_> =
            mapped_by.as_array().expect("a list").iter().filter_map(|pid| pid.as_u64()).collect();
        clients.iter().all(|client| pids.contains(&u64::from(client.pid()))).then_some(())
    });
}

/// Runs a step; the command, if the daemon died in it.
fn run(rig: &Rig, model: &mut Model, step: Step) -> Option<String> {
    let said = rig.feed(&step.words, &step.input);
    let died = said.code == 8 || !rig.alive() && step.words != ["down"];
    if !died {
        assert_eq!(said.code, 0, "{said}");
    }
    for (path, after) in step.after {
        let known = model.entry(path).or_insert_with(|| vec![None]);
        if said.code != 0 {
            known.push(after);
        } else {
            *known = vec![after];
        }
    }
    died.then(|| step.words.join(" "))
}

#[test]
fn killed_while_it_creates() {
    for n in 1..=3 {
        dies_at(&format!("create:reserved:{n}=kill"));
    }
}

#[test]
fn killed_before_and_after_a_commit_to_the_journal() {
    for at in ["journal.written:1", "journal.committed:3", "committed:6"] {
        dies_at(&format!("{at}=kill"));
    }
}

#[test]
fn killed_at_later_commits_to_the_journal() {
    for at in ["journal.written:10", "journal.committed:14", "committed:17", "journal.written:21"] {
        dies_at(&format!("{at}=kill"));
    }
}

#[test]
fn killed_while_it_folds_its_journal() {
    for at in ["journal.log-made", "journal.rotated", "journal.folded", "journal.log-removed"] {
        dies_at(&format!("{at}=kill"));
    }
}

#[test]
fn killed_while_it_moves_a_file_that_nobody_maps() {
    for n in [1, 2] {
        dies_at(&format!("move:copy:{n}=kill"));
    }
}

#[test]
fn killed_at_the_begin_of_a_live_move() {
    for n in [1, 2] {
        dies_at(&format!("move:begin:{n}=kill"));
    }
}

#[test]
fn killed_before_a_freeze() {
    for n in [1, 3] {
        dies_at(&format!("move:freeze:{n}=kill"));
    }
}

#[test]
fn killed_after_a_copy() {
    for n in [1, 5] {
        dies_at(&format!("move:copied:{n}=kill"));
    }
}

#[test]
fn killed_while_everybody_holds() {
    for n in [1, 2, 6] {
        dies_at(&format!("move:held:{n}=kill"));
    }
}

#[test]
fn killed_between_a_commit_and_the_switch() {
    for n in [1, 3, 5] {
        dies_at(&format!("move:committed:{n}=kill"));
    }
}

#[test]
fn killed_in_a_drain_and_in_the_return_under_programs() {
    // Three chunks a move: the third live move is the drain's, the fourth the return's.
    for at in ["move:held:7", "move:committed:8", "move:copied:10", "move:committed:12"] {
        dies_at(&format!("{at}=kill"));
    }
}

#[test]
fn killed_while_it_makes_a_store() {
    // The root directory, and all pools at once.
    for n in 1..=2 {
        for point in ["journal.written", "journal.committed"] {
            let rig = Plan::new().place();
            let said = rig.try_up(&format!("{point}:{n}=kill"));
            assert!(said.is_err(), "{point}:{n} is reached while a store is made");
            rig.up();
            rig.put("/a", b"a", &["--on", "sim0"]).ok();
            assert_eq!(rig.get("/a"), b"a");
            rig.sound();
        }
    }
}

#[test]
fn killed_again_while_it_recovers() {
    let rig = Plan::new().up();
    rig.put("/live", &counted(LIVE, SEED), &["--on", "sim0"]).ok();
    let mut client = Client::start(&rig, "count", &["/live", "1", "200"]);
    rig.kill();
    rig.try_up("move:held:2=kill").expect("it starts");
    until("the client's return", || {
        let mapped_by = rig.row(&["stat", "/live"])["mapped_by"].clone();
        mapped_by.as_array().is_some_and(|by| by.len() == 1).then_some(())
    });
    rig.run(&["move", "/live", "--to", "dram"]).fails(8, &[]);
    rig.with_daemon(Running::end);
    for point in ["journal.written=kill", "journal.committed=kill"] {
        rig.try_up(point).expect_err("it settles the move first");
    }
    rig.up();
    assert_eq!(rig.pools_of("/live"), ["dram", "sim0"], "the first chunk was committed, the second not");
    until("the move", || (rig.run(&["move", "/live", "--to", "dram"]).code == 0).then_some(()));
    let rounds = client.number("stop");
    check_counted(&rig.get("/live"), SEED, &[rounds]);
    client.end();
    rig.sound();
}

#[test]
fn a_request_in_whose_middle_the_daemon_dies_ends_with_one_line() {
    let rig = Plan::new().place();
    rig.try_up("create:reserved:1=kill").expect("it starts");
    rig.put("/a", b"a", &[]).fails(8, &[]);
    rig.with_daemon(Running::end);
    rig.run(&["ls"]).fails(8, &["codax up"]);
    rig.up();
    assert_eq!(rig.rows(&["ls"]).len(), 0, "nothing is left of it");
    rig.sound();
}
