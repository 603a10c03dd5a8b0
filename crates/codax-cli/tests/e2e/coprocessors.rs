//! Coprocessors beside memory of other kinds: without memory of their own, at work on files wherever these lie, and what is counted of that.

use crate::client::Client;
use crate::queues::crc32c;
use crate::rig::{MIB, Plan, Rig, pattern, until};
use serde_json::Value;
use std::time::Duration;

/// A store with the device that is to be tested, and a coprocessor without memory.
fn rig() -> Rig {
    Plan::new().and_device("nic0=software").patient(Duration::from_secs(60)).up()
}

/// What a device that is shown so has counted of something, if it has.
fn counter(row: &Value, name: &str) -> Option<u64> {
    let counters = row["device"]["counters"].as_array().expect("a list");
    counters.iter().find(|counter| counter["name"] == name)?["value"].as_u64()
}

#[test]
fn a_device_without_memory_is_a_coprocessor_and_nothing_else() {
    let rig = Plan::new().and_device("nic0=software").and_device("npu0=none").up();
    let bytes = pattern(MIB + 5, 1);
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    let listed = rig.ok(&["device", "list"]);
    let words = |name: &str| -> Vec<String> {
        let line = listed.text().lines().find(|line| line.starts_with(name)).expect("it is listed");
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(words("nic0"), ["nic0", "software", "online", "-", "-", "-", "-", "-", "-", "-"]);
    assert_eq!(words("npu0")[..3], ["npu0", "none", "online"]);
    let shown = rig.ok(&["device", "show", "nic0"]);
    for line in ["software", "type 1", "none: it has no memory", "crc32c", "running", "operations 0"] {
        assert!(shown.text().contains(line), "`{line}`: {shown}");
    }
    assert!(!shown.text().contains("swap") && !shown.text().contains("emergency"), "{shown}");
    let row = rig.row(&["device", "show", "nic0"]);
    assert_eq!((&row["backing"], &row["bytes"]), (&Value::from("software"), &Value::from(0)));
    assert_eq!(row["device"]["description"]["class"], "type1");
    let shown = rig.ok(&["device", "show", "npu0"]);
    assert!(shown.text().contains("driver         none") && shown.text().contains("type 1"), "{shown}");

    // It works on what lies elsewhere, and nothing can be on it.
    assert_eq!(rig.row(&["run", "nic0", "crc32c", "/f"])["result"], crc32c(&bytes).as_str());
    rig.run(&["run", "npu0", "crc32c", "/f"]).fails(6, &["npu0", "no driver yet"]);
    rig.run(&["run", "sim0", "crc32c", "/f"]).fails(2, &["sim0", "without a coprocessor"]);
    for words in [
        &["mkdir", "/d", "--on", "nic0"][..],
        &["mkdir", "/d", "--prefer", "nic0"],
        &["mkdir", "/d", "--interleave", "dram,nic0"],
        &["move", "/f", "--to", "nic0"],
        &["quota", "set", "--dir", "/", "nic0", "1MiB"],
        &["probe", "nic0"],
        &["device", "detach", "nic0"],
    ] {
        rig.run(words).fails(2, &["nic0", "no memory"]);
    }
    assert!(rig.ok(&["device", "drain", "nic0"]).text().contains("nic0 is offline"));
    rig.ok(&["device", "online", "nic0"]);
    rig.ok(&["df"]);
    rig.ok(&["pages", "nic0"]);
    rig.sound();
    // It stays what it is.
    rig.down();
    rig.up();
    assert_eq!(rig.row(&["run", "nic0", "crc32c", "/f"])["result"], crc32c(&bytes).as_str());
}

#[test]
fn a_device_without_memory_can_be_configured_and_helps_nobody_out() {
    let section = |more: &str| format!("[[device]]\nname = \"nic0\"\nbacking = \"software\"\n{more}");
    let rig = Plan::new().without_devices().config(&section("")).up();
    assert_eq!(rig.row(&["device", "show", "nic0"])["device"]["description"]["class"], "type1");
    let file = rig.beside("codax.toml");
    std::fs::write(&file, section("emergency = \"allow\"\n")).expect("ours");
    rig.run(&["reload"]).fails(2, &["nic0", "without memory"]);
    std::fs::write(&file, section("").replace("software", "none")).expect("ours");
    assert_eq!(rig.ok(&["reload"]).text(), "coprocessors of devices need a restart\n");
    assert_eq!(rig.row(&["device", "show", "nic0"])["backing"], "software");
    rig.down();
    rig.up();
    assert_eq!(rig.row(&["device", "show", "nic0"])["backing"], "none");
}

#[test]
fn a_start_that_names_no_devices_has_their_coprocessors_too() {
    let rig = Plan::new().without_devices().place();
    rig.up_with(&["--device", "npu0=software:16MiB", "--device", "nic0=software"]);
    let bytes = pattern(MIB + 5, 1);
    rig.put("/f", &bytes, &["--on", "npu0"]).ok();
    rig.kill();
    rig.up();
    for device in ["npu0", "nic0"] {
        assert_eq!(rig.row(&["run", device, "crc32c", "/f"])["result"], crc32c(&bytes).as_str());
    }
}

#[test]
fn accesses_are_counted_by_the_pool_in_which_the_pages_are() {
    let rig = rig();
    let len = 5 * MIB + 123;
    rig.put("/a", &pattern(len, 1), &["--on", "sim0"]).ok();
    rig.put("/b", &pattern(len, 2), &[]).ok();
    let count = |how: &str| counter(&rig.row(&["device", "show", "nic0"]), &format!("bytes {how}"));
    rig.ok(&["run", "nic0", "copy", "/a", "/b"]);
    assert_eq!((count("read from sim0"), count("written to dram")), (Some(len), Some(len)));
    assert_eq!((count("read from dram"), count("written to sim0")), (None, None));
    rig.ok(&["run", "nic0", "compare", "/a", "/b"]);
    assert_eq!((count("read from sim0"), count("read from dram")), (Some(2 * len), Some(len)));
    // A file that has turned from one to the other: the store is asked again after a while.
    rig.ok(&["move", "/a", "--to", "dram"]);
    let before = count("read from dram").expect("some");
    until("it to be seen where it is", || {
        rig.ok(&["run", "nic0", "crc32c", "/a"]);
        (count("read from dram").expect("some") > before).then_some(())
    });
    let all = count("read from dram").expect("some") + count("read from sim0").expect("some");
    assert_eq!(all % len, 0, "each byte once");
    // One that lies in both.
    rig.put("/c", &pattern(4 * MIB, 3), &["--interleave", "sim0,dram"]).ok();
    let before = [count("read from sim0"), count("read from dram")].map(|bytes| bytes.expect("some"));
    rig.ok(&["run", "nic0", "crc32c", "/c"]);
    let after = [count("read from sim0"), count("read from dram")].map(|bytes| bytes.expect("some"));
    assert_eq!([after[0] - before[0], after[1] - before[1]], [2 * MIB, 2 * MIB]);
    let shown = rig.ok(&["device", "show", "nic0"]);
    assert!(shown.text().contains(&format!("bytes written to dram {len}")), "{shown}");
}

#[test]
fn work_in_flight_is_right_and_done_once_wherever_the_files_lie() {
    let rig = rig();
    let bytes = pattern(4 * MIB, 3);
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    let (sum, len) = (crc32c(&bytes), bytes.len());
    let mut program = Client::start(&rig, "submit", &["64", "nic0"]);
    assert_eq!(program.ask("file /f ro"), "1");
    assert_eq!(program.ask(&format!("crc 1 {len} 32")), "32");
    // Moves under it, and a drain of the memory that it works on.
    rig.ok(&["move", "/f", "--to", "dram"]);
    rig.ok(&["move", "/f", "--to", "sim0"]);
    rig.ok(&["device", "drain", "sim0"]);
    assert_eq!(rig.pools_of("/f"), ["dram"]);
    assert_eq!(program.ask(&format!("crc 1 {len} 32")), "32");
    // A drain of its own: the rest waits, and the file moves meanwhile.
    rig.ok(&["device", "drain", "nic0"]);
    let done = program.number("done");
    rig.ok(&["device", "online", "sim0"]);
    assert_eq!((rig.pools_of("/f"), program.number("done")), (vec!["sim0".to_owned()], done));
    rig.ok(&["device", "online", "nic0"]);
    for n in 0..64 {
        assert_eq!(program.ask("wait"), sum, "{n}");
    }
    let row = rig.row(&["device", "show", "nic0"]);
    let told = |name: &str| counter(&row, name).unwrap_or(0);
    assert_eq!((told("operations"), told("queue depth")), (64, 0));
    let read = told("bytes read from sim0") + told("bytes read from dram");
    assert_eq!(read, 64 * len as u64, "each byte once");
    program.end();
    rig.sound();
}
