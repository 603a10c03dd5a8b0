//! `codax probe` measures what is there, and leaves nothing of it.

use crate::rig::{MIB, Plan, Rig, Running, pattern, until};
use rustix::process::Signal;
use serde_json::Value;
use std::process::Stdio;

/// Short enough for a test; the figures of so short a time are rough.
const TIME: &str = "--time=20ms";

/// Nothing is used and nothing has a name: the store is as before.
#[track_caller]
fn nothing_is_left(rig: &Rig) {
    for pool in ["dram", "sim0"] {
        until(&format!("{pool} to be empty"), || {
            (rig.pool(pool, "used") + rig.pool(pool, "held") == 0).then_some(())
        });
    }
    assert_eq!(rig.rows(&["ls"]), Vec::<Value>::new());
    rig.sound();
}

/// A measurement that takes a minute, and has begun.
#[track_caller]
fn begun(rig: &Rig) -> Running {
    let mut command = rig.command(&["probe", "sim0", "--time", "60s"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    let running = Running { child };
    until("the file to measure in, without its name", || {
        let unnamed = rig.rows(&["ls"]).is_empty();
        (rig.pool("sim0", "used") > 0 && unnamed).then_some(())
    });
    running
}

#[test]
fn each_pool_is_measured_beside_what_it_announces() {
    let rig = Plan::new().device("64MiB,read_ns=300,write_ns=150,gbps=12.5").up();
    let row = rig.row(&["probe", TIME]);
    let pools = row["pools"].as_array().expect("pools");
    let names: Vec<_> = pools.iter().map(|pool| pool["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["dram", "sim0"]);
    for pool in pools {
        let bytes = pool["bytes"].as_u64().expect("a number");
        assert!((MIB..=32 * MIB).contains(&bytes), "half of what is free at most: {pool}");
        for figure in ["read_ns", "read_mbps", "write_mbps", "copy_mbps"] {
            let of = |part: &str| pool["measured"][figure][part].as_f64().expect("a number");
            assert!(of("count") >= 3.0, "{figure}: {pool}");
            assert!(
                0.0 < of("low") && of("low") <= of("median") && of("median") <= of("high"),
                "{figure}: {pool}"
            );
        }
        let notes = pool["notes"].to_string();
        assert!(notes.contains("less than usual"), "64 MiB is the least that is usual: {pool}");
    }
    let announced = &pools[1]["announced"];
    assert_eq!((&announced["by"], &announced["read_ns"]), (&"store".into(), &300.into()));
    assert_eq!((&announced["write_ns"], &announced["read_mbps"]), (&150.into(), &12_500.into()));

    let (cpus, ns) = (&row["handover"]["cpus"], row["handover"]["ns"].as_array().expect("rows"));
    assert_eq!(ns.len(), cpus.as_array().expect("CPUs").len());
    for (i, line) in ns.iter().enumerate() {
        for (j, taken) in line.as_array().expect("columns").iter().enumerate() {
            assert_eq!(taken.is_null(), i == j, "{row}");
            assert!(taken.is_null() || taken.as_f64() > Some(0.0), "{row}");
            assert_eq!(taken, &ns[j][i]);
        }
    }
    nothing_is_left(&rig);

    let said = rig.ok(&["probe", "sim0", TIME, "--size", "4MiB"]);
    let line = said.text().lines().find(|line| line.contains("latency")).expect("a line").to_owned();
    assert!(line.starts_with("sim0") && line.ends_with("300 ns"), "{said}");
    // On a busy machine the time may not suffice for all of it, which is said.
    let sizes = ["sim0: 4 MiB at random", "did not suffice for the 4 MiB"];
    assert!(!said.text().contains("dram") && sizes.iter().any(|size| said.text().contains(size)), "{said}");
    nothing_is_left(&rig);
}

#[test]
fn what_cannot_be_measured_is_named() {
    let rig = Plan::new().up();
    rig.run(&["probe", "sim7", TIME]).fails(3, &["sim7", "dram, sim0"]);
    rig.run(&["probe", "sim0", "--size", "128MiB"]).fails(4, &["sim0", "64 MiB are free"]);
    rig.run(&["probe", "sim0", "--dir", "/no/such", TIME]).fails(3, &["measuring sim0"]);
    rig.put("/full", &pattern(63 * MIB, 1), &["--on", "sim0"]).ok();
    rig.run(&["probe", "sim0", TIME]).fails(4, &["sim0", "1 MiB are free"]);
    // Nobody's data makes room for it.
    assert_eq!(rig.pool("sim0", "used"), 63 * MIB);
    rig.ok(&["rm", "/full"]);
    rig.ok(&["device", "drain", "sim0"]);
    rig.run(&["probe", "sim0", TIME]).fails(6, &["sim0 is offline"]);
    let pools = rig.row(&["probe", TIME])["pools"].clone();
    assert_eq!(pools.as_array().map(Vec::len), Some(1), "only what is online: {pools}");
    nothing_is_left(&rig);
}

#[test]
fn a_measurement_that_is_broken_off_leaves_nothing() {
    let rig = Plan::new().up();
    let mut cancelled = begun(&rig);
    cancelled.signal(Signal::INT);
    assert_eq!(cancelled.end().code(), Some(130));
    nothing_is_left(&rig);
    begun(&rig).kill();
    nothing_is_left(&rig);
}
