//! `codax device discover` tells what the kernel tells, and asks no daemon.

use crate::rig::Plan;
use codax_os::topology::{MOUNTINFO, Mode, SYSFS, Topology};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// The numbers in a list like `0-3,8`, as the shell would count them.
fn numbers(list: &str) -> BTreeSet<u64> {
    let parts = list.trim().split(',').filter(|part| !part.is_empty());
    parts
        .flat_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            first.parse().expect("a number")..=last.parse().expect("a number")
        })
        .collect()
}

#[test]
fn every_node_of_the_machine_is_listed_without_a_daemon() {
    let rig = Plan::new().place();
    let found = rig.row(&["device", "discover"]);
    let nodes = found["nodes"].as_array().expect("nodes");
    let Ok(online) = std::fs::read_to_string("/sys/devices/system/node/online") else {
        assert!(nodes.is_empty(), "a kernel without NUMA has no nodes");
        return;
    };
    let listed: BTreeSet<_> = nodes.iter().map(|node| node["node"].as_u64().expect("a number")).collect();
    assert_eq!(listed, numbers(&online));
    for node in nodes {
        let place = format!("/sys/devices/system/node/node{}", node["node"]);
        let cpus = std::fs::read_to_string(format!("{place}/cpulist")).expect("the kernel tells");
        let listed: BTreeSet<_> = node["cpus"]
            .as_array()
            .expect("CPUs")
            .iter()
            .map(|cpu| cpu.as_u64().expect("a number"))
            .collect();
        assert_eq!(listed, numbers(&cpus));
        let total = std::fs::read_to_string(format!("{place}/meminfo")).expect("the kernel tells");
        let total = total.lines().find(|line| line.contains("MemTotal:")).expect("a line");
        let kib: u64 = total.split_whitespace().nth(3).expect("a number").parse().expect("a number");
        assert_eq!(node["bytes"], kib * 1024);
        let host = !cpus.trim().is_empty() && kib > 0;
        assert_eq!(node["usable_as"] == "dram", host, "{node}");
    }
    assert_eq!(found["garbled"], Value::Array(vec![]));
}

#[test]
fn people_are_told_what_to_do_next() {
    let rig = Plan::new().place();
    let said = rig.ok(&["device", "discover"]);
    assert!(said.err.is_empty(), "{said}");
    let all = Topology::read(Path::new(SYSFS), Path::new(MOUNTINFO));
    let far = all.nodes.iter().filter(|node| node.cpus.is_empty() && node.bytes > Some(0)).count();
    let devdax: Vec<_> = all.dax.iter().filter(|dax| dax.mode == Mode::Devdax).collect();
    let usable = far + devdax.len() + all.fsdax.len();
    assert_eq!(said.text().matches("[[device]]").count(), usable, "{said}");
    for dax in devdax {
        assert!(said.text().contains(&format!("path = \"/dev/{}\"", dax.name)), "{said}");
    }
    for fsdax in &all.fsdax {
        assert!(said.text().contains(&format!("fsdax:{}/codax", fsdax.dir.display())), "{said}");
    }
    if usable == 0 {
        assert!(said.text().contains("codax up --device sim0=emulated:1GiB"), "{said}");
    }
    let config = rig.row(&["device", "discover"])["config"].as_str().expect("text").to_owned();
    assert!(said.text().ends_with(&config) || usable == 0, "{said}");
}
