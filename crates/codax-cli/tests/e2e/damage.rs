//! What the store's owner, or root, does to the files that a store is made of; and starts that are refused.

use crate::rig::{MIB, Plan, Rig, pattern, root, skipped};
use std::fs::File;

fn cut(rig: &Rig, path: &str) {
    File::create(rig.dir().join(path)).expect("the owner may");
}

#[test]
fn a_refused_start_leaves_the_store_as_it_was() {
    let rig = Plan::new().up();
    let bytes = pattern(MIB, 1);
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    let frames = rig.ok(&["pages", "sim0"]).out;
    rig.down();
    let words = ["up", "--device", "small=emulated:16MiB", "--device", "big=emulated:64TiB", "--detach"];
    for _ in 0..2 {
        rig.run(&words).fails(4, &["frame table"]);
        assert!(rig.ok(&["pages", "sim0"]).out == frames, "the table of a store that nobody serves");
        for new in ["small", "big"] {
            assert!(!rig.dir().join("pools").join(new).exists(), "{new}");
            rig.run(&["pages", new]).fails(3, &[new]);
        }
    }
    rig.up();
    assert_eq!(rig.rows(&["df"]).len(), 2);
    assert!(rig.get("/f") == bytes);
    rig.sound();
}

#[test]
fn a_frame_table_that_is_cut_is_found_and_made_anew() {
    let rig = Plan::new().up();
    let bytes = pattern(MIB, 2);
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    let frames = rig.ok(&["pages", "sim0"]).out;
    cut(&rig, "frames/sim0");
    rig.run(&["pages", "sim0"]).fails(9, &["frames/sim0", "cut to 0 bytes", "codax check --repair"]);
    let said = rig.run(&["check"]).fails(9, &["codax check --repair"]);
    assert!(said.text().contains("frames/sim0 has 0 bytes"), "{said}");
    assert!(rig.get("/f") == bytes);
    rig.ok(&["check", "--repair"]);
    rig.sound();
    assert!(rig.ok(&["pages", "sim0"]).out == frames);
    rig.put("/g", &bytes, &["--on", "sim0"]).ok();
    assert!(rig.ok(&["pages", "sim0"]).text().contains("(/g)"));
}

#[test]
fn a_damaged_state_of_a_device_is_found_and_can_be_dropped() {
    let rig = Plan::new().device_as("sim0=software:64MiB").up();
    rig.ok(&["run", "sim0", "nop"]);
    rig.ok(&["device", "drain", "sim0"]);
    rig.sound();
    cut(&rig, "meta/state.sim0");
    let said = rig.run(&["check"]).fails(9, &[]);
    assert!(said.text().contains("meta/state.sim0 is damaged: remove it to go on without"), "{said}");
    rig.run(&["device", "online", "sim0"]).fails(9, &["state.sim0"]);
    rig.ok(&["device", "online", "sim0", "--reset-device"]);
    rig.ok(&["run", "sim0", "nop"]);
    rig.sound();
}

#[test]
fn a_names_file_that_is_cut_is_found_and_written_anew() {
    let rig = Plan::new().up();
    rig.put("/f", b"f", &["--on", "sim0"]).ok();
    let frames = rig.ok(&["pages", "sim0"]).out;
    cut(&rig, "meta/names");
    let said = rig.run(&["check"]).fails(9, &["codax check --repair"]);
    assert!(said.text().contains("names"), "{said}");
    rig.ok(&["check", "--repair"]);
    rig.sound();
    assert!(rig.ok(&["pages", "sim0"]).out == frames, "with paths");
}

#[test]
fn what_lies_among_the_objects_and_is_none_keeps_nobody_from_starting() {
    let rig = Plan::new().up();
    rig.put("/f", b"f", &["--on", "sim0"]).ok();
    rig.down();
    let stray = rig.dir().join("pools/sim0/zzz");
    std::fs::write(&stray, b"mine").expect("the owner may");
    rig.up();
    assert_eq!(rig.get("/f"), b"f");
    for words in [&["check"][..], &["check", "--repair"]] {
        let said = rig.run(words).fails(9, &[]);
        assert!(said.text().contains("pools/sim0/zzz") && said.text().contains("move it away"), "{said}");
    }
    assert!(rig.ok(&["status"]).text().contains("pools/sim0/zzz"));
    std::fs::remove_file(stray).expect("it is there still");
    rig.sound();
    assert!(!rig.ok(&["status"]).text().contains("zzz"));
}

#[test]
fn a_file_whose_object_is_gone_is_damaged_until_it_is_repaired() {
    if !root() {
        return skipped("a_file_whose_object_is_gone_is_damaged_until_it_is_repaired", "needs root's store");
    }
    let rig = Plan::new().up();
    rig.put("/f", &pattern(MIB, 3), &["--on", "sim0"]).ok();
    let id = rig.row(&["stat", "/f"])["id"].as_u64().expect("a number");
    rig.down();
    std::fs::remove_file(rig.dir().join(format!("pools/sim0/{id:016x}"))).expect("root may");
    rig.up();
    assert!(rig.ok(&["status"]).text().contains("is missing"));
    for words in [&["cat", "/f"][..], &["get", "/f", "-"]] {
        rig.run(words).fails(9, &["/f: its object in sim0 is missing", "codax check"]);
    }
    let said = rig.run(&["check", "--repair"]);
    assert!(said.code == 9 && said.text().contains("lost"), "{said}");
    assert!(!rig.ok(&["status"]).text().contains("is missing"));
    assert!(rig.get("/f") == vec![0; 1 << 20]);
    rig.sound();
}
