//! Who else is on a device's node, on a machine that has one, and what is done about it.

use crate::client::{self, Client};
use crate::numa::{alone, at_its_place, far};
use crate::rig::{MIB, Plan, Rig, pattern, root, skipped};
use codax_os::hugetlb::Policy;
use serde_json::Value;

/// A process that has memory of its own: so many bytes, on a node while there is room if one is named. Any line is answered with how much it has.
pub fn eat(bytes: u64, node: Option<u32>) {
    let policy = node.map(|node| Policy::prefer(node).expect("a node"));
    let mut memory = vec![0_u8; usize::try_from(bytes).expect("it fits")];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    drop(policy);
    client::serve(|_| {
        memory.iter().step_by(4096).map(|byte| u64::from(*byte) * 4096).sum::<u64>().to_string()
    });
}

/// A store whose device `cxl0` is the first node that can be one.
fn plan(test: &str, more: &str) -> Option<(Plan, u32)> {
    let Some(node) = far().first().copied().filter(|_| root()) else {
        skipped(test, "wants root, and a NUMA node without CPUs");
        return None;
    };
    Some((Plan::new().device_as(&format!("cxl0=numa:{node},reserve=64MiB{more}")), node))
}

/// What `doctor` says of the device's node.
fn of_device(rig: &Rig, node: u32) -> Value {
    let said = rig.run(&["doctor", "--json"]);
    let json: Value = serde_json::from_str(said.text().lines().next().expect("an object")).expect("JSON");
    let fact = format!("cxl0 (node {node})");
    let row = json["rows"].as_array().expect("rows").iter().find(|row| row["fact"] == *fact).cloned();
    let row = row.expect("a row for each device");
    if row["level"] == "missing" {
        said.fails(1, &[&fact]);
    }
    row
}

#[test]
fn doctor_names_who_is_on_a_device() {
    let _alone = alone();
    let Some((plan, node)) = plan("doctor_names_who_is_on_a_device", "") else { return };
    let rig = plan.up();
    rig.put("/f", &pattern(4 * MIB, 1), &["--on", "cxl0"]).ok();
    // Who maps what the store put there is no stranger.
    let mut holder = Client::start(&rig, "hold", &["/f", "ro"]);
    holder.number("get 4096");
    let hog = Client::start(&rig, "eat", &[&(24 * MIB).to_string(), &node.to_string()]);
    let row = of_device(&rig, node);
    assert_eq!(row["level"], "missing", "{row}");
    assert_eq!(row["mend"], "codax device evict-strangers cxl0");
    let processes = row["node"]["processes"].as_array().expect("a list");
    let of = |pid: u32| processes.iter().find(|process| process["pid"] == pid);
    assert!(of(holder.pid()).is_none(), "{row}");
    let found = of(hog.pid()).expect("it is there");
    assert!(found["bytes"].as_u64() >= Some(24 * MIB) && found["movable"] == true, "{row}");
    assert!(
        row["node"]["kernel"].as_u64() > Some(0) && row["node"]["store"].as_u64() >= Some(4 * MIB),
        "{row}"
    );
    hog.end();
    let row = of_device(&rig, node);
    assert!(row["node"]["anonymous"].as_u64() < Some(MIB), "{row}");
    holder.end();
}

#[test]
fn strangers_are_moved_off_a_device_and_its_files_stay() {
    let _alone = alone();
    let Some((plan, node)) = plan("strangers_are_moved_off_a_device", "") else { return };
    let rig = plan.up();
    rig.put("/f", &pattern(4 * MIB, 1), &["--on", "cxl0"]).ok();
    let mut holder = Client::start(&rig, "hold", &["/f", "ro"]);
    let seen = holder.number("get 4096");
    let mut hog = Client::start(&rig, "eat", &[&(24 * MIB).to_string(), &node.to_string()]);
    let of_hog = |row: &Value| {
        let mut all = row["processes"].as_array().expect("a list").iter();
        all.find(|process| process["pid"] == hog.pid()).cloned()
    };
    let words = ["device", "evict-strangers", "cxl0"];
    let plan = rig.row(&[&words[..], &["--dry-run"]].concat());
    let planned = of_hog(&plan).expect("it has memory there");
    assert!(planned["bytes"].as_u64() >= Some(24 * MIB) && planned["moved"] == 0, "{plan}");
    assert!(of_hog(&rig.row(&[&words[..], &["--dry-run"]].concat())).is_some(), "a plan moves nothing");
    // Others' page cache stays, if there is some.
    let said = rig.run(&words);
    assert!([0, 5].contains(&said.code), "{said}");
    assert!(said.text().contains(&format!("process {} ", hog.pid())), "{said}");
    let after = rig.row(&[&words[..], &["--dry-run"]].concat());
    assert_eq!(of_hog(&after), None, "{after}");
    let event = rig.events("strangers").pop().expect("noted");
    assert!(event.contains("pages of processes moved off"), "{event}");
    assert_eq!(at_its_place(&rig, "/f", node), ["cxl0"]);
    assert_eq!(holder.number("get 4096"), seen);
    assert_eq!(hog.number("all"), 24 * MIB);
    hog.end();
    holder.end();
    rig.sound();
}

#[test]
fn a_device_that_is_no_node_has_no_strangers() {
    let rig = Plan::new().device_as("sim0=emulated:16MiB").up();
    rig.run(&["device", "evict-strangers", "sim0"]).fails(2, &["sim0 is no NUMA node"]);
    rig.run(&["device", "evict-strangers", "nobody"]).fails(3, &["nobody"]);
}
