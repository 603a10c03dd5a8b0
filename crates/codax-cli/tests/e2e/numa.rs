//! Devices that are NUMA nodes without CPUs, on a machine that has some: where pages lie, as the kernel says, whatever happens to them.

use crate::client::{Client, counted};
use crate::mount::{Mounted, mounted};
use crate::rig::{MIB, Plan, Rig, pattern, root, skipped, until};
use crate::setting;
use codax_os::numa::Located;
use codax_os::topology::{self, Node};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

pub fn nodes() -> Vec<Node> {
    topology::nodes(Path::new(topology::SYSFS))
}

/// Nodes that have memory and no CPUs.
pub fn far() -> Vec<u32> {
    let far = |node: &&Node| node.cpus.is_empty() && node.bytes.is_some_and(|bytes| bytes > 0);
    nodes().iter().filter(far).map(|node| node.node).collect()
}

/// A store with the device `cxl0` on a node, in both kinds of pages.
fn plans(test: &str, node: Option<u32>) -> Vec<Plan> {
    let Some(node) = node.filter(|_| root()) else {
        skipped(test, "wants root, and a NUMA node without CPUs");
        return Vec::new();
    };
    ["4K", "thp"]
        .map(|page| Plan::new().device_as(&format!("cxl0=numa:{node},page={page},reserve=64MiB")))
        .into()
}

/// Asserts that each page of a file lies on the node of the pool that the store says; returns the pools.
#[track_caller]
pub fn at_its_place(rig: &Rig, path: &str, node: u32) -> Vec<String> {
    let near = nodes().into_iter().filter(|node| !node.cpus.is_empty()).map(|node| node.node).collect();
    lies_on(rig, path, &[("dram", near), ("cxl0", vec![node])])
}

/// Asserts that each page of a file lies on one of the nodes that are given for its pool, as the kernel says; returns the pools.
#[track_caller]
pub fn lies_on(rig: &Rig, path: &str, places: &[(&str, Vec<u32>)]) -> Vec<String> {
    let stat = rig.row(&["stat", path]);
    let id = stat["id"].as_u64().expect("a number");
    for run in stat["runs"].as_array().expect("runs") {
        let pool = run["pool"].as_str().expect("a name");
        let Some((_, nodes)) = places.iter().find(|(name, _)| *name == pool) else { continue };
        let number = |field: &str| run[field].as_u64().expect("a number");
        // Pools whose pages the kernel moves to and fro share the objects.
        let pools = rig.rows(&["df"]);
        let shown = pools.iter().find(|row| row["name"] == pool).expect("the pool is there");
        let near = shown["moves_with"].as_array().expect("names").iter().filter_map(|name| name.as_str());
        let mut places =
            [pool].into_iter().chain(near).map(|pool| rig.dir().join(format!("pools/{pool}/{id:016x}")));
        let object = places.find_map(|object| File::open(object).ok()).expect("root may");
        let located = Located::new(&object, number("page") << 12, number("pages") << 12).expect("mapped");
        let found = located.nodes().expect("the kernel knows");
        let right = |found: &Option<u32>| found.is_some_and(|found| nodes.contains(&found));
        let wrong: Vec<_> = found.iter().enumerate().filter(|(_, node)| !right(node)).take(5).collect();
        assert!(wrong.is_empty(), "{path} in {pool}: {wrong:?}, of {run}");
    }
    rig.pools_of(path)
}

#[test]
fn each_page_is_on_the_node_of_its_pool_after_each_put_and_each_move() {
    const LEN: u64 = 6 * MIB + 20_480;
    let node = far().first().copied();
    for plan in plans("each_page_is_on_the_node_of_its_pool", node) {
        let (rig, node) = (plan.up(), node.expect("there"));
        rig.put("/f", &counted(LEN, 1), &["--on", "cxl0"]).ok();
        rig.put("/small", &pattern(5000, 7), &["--on", "cxl0"]).ok();
        rig.put("/near", &pattern(LEN, 3), &[]).ok();
        assert_eq!(at_its_place(&rig, "/f", node), ["cxl0"]);
        assert_eq!(at_its_place(&rig, "/near", node), ["dram"]);
        rig.ok(&["move", "/f", "--to", "dram", "--range", "2MiB:2MiB"]);
        assert_eq!(at_its_place(&rig, "/f", node), ["cxl0", "dram"]);
        // Under a program that maps it; what it maps lies there as well, as numa_maps(5) says.
        let mut counter = Client::start(&rig, "count", &["/f", "1", "0"]);
        rig.ok(&["move", "/f", "--to", "cxl0"]);
        assert_eq!(at_its_place(&rig, "/f", node), ["cxl0"]);
        counter.number("rounds");
        let maps = fs::read_to_string(format!("/proc/{}/numa_maps", counter.pid())).expect("root may");
        let here: Vec<_> = maps.lines().filter(|line| line.contains("/pools/")).collect();
        let on = format!(" N{node}=");
        assert!(
            !here.is_empty() && here.iter().all(|line| line.contains(&on) || !line.contains(" N")),
            "{maps}"
        );
        for _ in 0..2 {
            rig.ok(&["device", "drain", "cxl0"]);
            assert_eq!(at_its_place(&rig, "/f", node), ["dram"]);
            rig.ok(&["device", "online", "cxl0"]);
            assert_eq!(at_its_place(&rig, "/f", node), ["cxl0"]);
            assert_eq!(at_its_place(&rig, "/small", node), ["cxl0"]);
        }
        counter.end();
        rig.kill();
        rig.up();
        assert_eq!(at_its_place(&rig, "/f", node), ["cxl0"]);
        assert_eq!(rig.get("/small"), pattern(5000, 7));
        rig.sound();
    }
}

#[test]
fn what_programs_write_through_a_mount_lies_on_the_node() {
    let node = far().first().copied();
    for plan in plans("what_programs_write_through_a_mount_lies_on_the_node", node) {
        let Some(Mounted { rig, dir }) = mounted("what_programs_write_through_a_mount", plan) else { return };
        rig.ok(&["mkdir", "/d", "--on", "cxl0"]);
        fs::write(dir.join("d/f"), pattern(3 * MIB + 77, 5)).expect("room");
        until("the file's pages have frames", || {
            (rig.row(&["stat", "/d/f"])["backed"].as_u64() >= Some(3 * MIB)).then_some(())
        });
        assert_eq!(at_its_place(&rig, "/d/f", node.expect("there")), ["cxl0"]);
        assert_eq!(fs::read(dir.join("d/f")).expect("there"), pattern(3 * MIB + 77, 5));
        rig.sound();
    }
}

#[test]
fn pages_that_somebody_moves_away_are_brought_back_and_it_is_said() {
    let node = far().first().copied();
    for plan in plans("pages_that_somebody_moves_away_are_brought_back", node) {
        let (rig, node) = (plan.up(), node.expect("there"));
        rig.put("/f", &pattern(4 * MIB, 1), &["--on", "cxl0"]).ok();
        let mut client = Client::start(&rig, "hold", &["/f", "rw"]);
        // Only what it has touched is moved.
        for at in (0..4 * MIB).step_by(64 << 10) {
            client.number(&format!("get {at}"));
        }
        let mut move_away = Command::new("migratepages");
        move_away.args([client.pid().to_string(), node.to_string(), "0".to_owned()]);
        match move_away.status() {
            Ok(status) => assert!(status.success(), "{status}"),
            Err(_) => {
                return skipped("pages_that_somebody_moves_away", "migratepages (numactl) is not installed");
            }
        }
        until("the patrol finds them", || rig.events("stray").pop());
        assert_eq!(at_its_place(&rig, "/f", node), ["cxl0"]);
        client.end();
        rig.sound();
    }
}

#[test]
fn pages_that_a_client_binds_elsewhere_are_brought_back_and_it_is_said() {
    let node = far().first().copied();
    for plan in plans("pages_that_a_client_binds_elsewhere", node) {
        let (rig, node) = (plan.up(), node.expect("there"));
        rig.put("/f", &pattern(4 * MIB, 1), &["--on", "cxl0"]).ok();
        let mut client = Client::start(&rig, "mbind", &["/f", "0"]);
        let seen = client.number("get 8");
        assert_eq!(client.ask("bind"), "bound");
        until("the patrol finds them", || rig.events("stray").pop());
        assert_eq!(at_its_place(&rig, "/f", node), ["cxl0"]);
        rig.sound();
        // What is bound is the object, for as long as it is there: what is given to it later lies on the node as well.
        rig.ok(&["move", "/f", "--to", "dram", "--range", "2MiB:2MiB"]);
        rig.ok(&["move", "/f", "--to", "cxl0"]);
        assert_eq!(at_its_place(&rig, "/f", node), ["cxl0"]);
        assert_eq!(client.number("get 8"), seen);
        client.end();
        assert_eq!(rig.get("/f"), pattern(4 * MIB, 1));
        rig.sound();
    }
}

#[test]
fn dram_lies_on_the_nodes_that_somebody_chose() {
    const NAME: &str = "dram_lies_on_the_nodes_that_somebody_chose";
    let (near, far) = (nodes(), far());
    let near = near.iter().find(|node| !node.cpus.is_empty());
    let (Some(near), Some(&node)) = (near.filter(|_| root()), far.first()) else {
        return skipped(NAME, "wants root, and a NUMA node without CPUs");
    };
    let plan = Plan::new().device_as("sim0=emulated:64MiB");
    let rig = plan.config(&format!("dram_nodes = [{node}]\n")).place();
    rig.up();
    rig.put("/f", &pattern(4 * MIB, 1), &[]).ok();
    assert_eq!(lies_on(&rig, "/f", &[("dram", vec![node])]), ["dram"]);
    let shown = rig.row(&["device", "show", "dram"]);
    assert_eq!(shown["nodes"], serde_json::json!([node]), "{shown}");
    assert!(rig.ok(&["device", "show", "dram"]).text().contains(&format!("NUMA nodes {node}")));
    assert!(rig.ok(&["status"]).text().contains(&format!("NUMA nodes {node}")));
    rig.down();
    // Others, at the next start: what is there comes after.
    rig.up_with(&["--dram-nodes", &near.node.to_string()]);
    until("the patrol brings it", || rig.events("stray").pop());
    assert_eq!(lies_on(&rig, "/f", &[("dram", vec![near.node])]), ["dram"]);
    assert_eq!(rig.get("/f"), pattern(4 * MIB, 1));
    rig.sound();
    let before = rig.events("stray").len();
    rig.down();
    if let Some(&also) = far.get(1) {
        rig.up_with(&["--dram-nodes", &format!("{node},{also}")]);
        until("the patrol brings it", || (rig.events("stray").len() > before).then_some(()));
        rig.put("/g", &pattern(4 * MIB, 2), &[]).ok();
        for path in ["/f", "/g"] {
            assert_eq!(lies_on(&rig, path, &[("dram", vec![node, also])]), ["dram"]);
        }
        rig.sound();
        rig.down();
    }
    for (words, says) in [
        (&["--dram-nodes", "77"][..], "--dram-nodes: there is no NUMA node 77"),
        (
            &["--dram-nodes", &node.to_string(), "--device", &format!("cxl0=numa:{node}")],
            "is the device cxl0",
        ),
    ] {
        rig.try_up_with(words).expect_err("refused").fails(2, &[says]);
    }
}

/// Of tests that need a node for themselves, one at a time. They may be in processes of their own.
pub fn alone() -> File {
    let lock = File::create(std::env::temp_dir().join("codax-e2e-node")).expect("room");
    lock.lock().expect("nobody has it for ever");
    lock
}

#[test]
fn a_detached_node_goes_offline_and_comes_back() {
    const NAME: &str = "a_detached_node_goes_offline_and_comes_back";
    // Before a look at the machine, which others of these change.
    let _alone = alone();
    let machine = topology::Topology::read(Path::new(topology::SYSFS), Path::new(topology::MOUNTINFO));
    let ram = |dax: &&topology::Dax| dax.mode == topology::Mode::SystemRam;
    let Some(dax) = machine.dax.iter().find(ram).filter(|_| setting::may_change_machine()) else {
        return skipped(NAME, "wants a DAX device that is system RAM, and CODAX_TEST_MACHINE=1");
    };
    let (node, dax) = (dax.target_node.expect("the kernel says it"), &dax.name);
    for plan in plans(NAME, Some(node)) {
        let rig = plan.up();
        rig.put("/f", &pattern(8 * MIB, 1), &["--on", "cxl0"]).ok();
        rig.ok(&["device", "drain", "cxl0"]);
        let row = rig.row(&["device", "detach", "cxl0"]);
        assert_eq!((&row["state"], &row["node"]), (&"detached".into(), &node.into()), "{row}");
        // The firmware can be updated now.
        sh(&format!(
            "daxctl offline-memory {dax} >/dev/null; daxctl reconfigure-device -m devdax {dax} >/dev/null"
        ));
        assert!(!far().contains(&node), "its memory has left");
        rig.run(&["device", "attach", "cxl0"]).fails(6, &["no memory online"]);
        rig.kill();
        rig.up();
        assert_eq!(rig.get("/f"), pattern(8 * MIB, 1));
        sh(&format!("daxctl reconfigure-device -m system-ram {dax} >/dev/null"));
        rig.ok(&["device", "attach", "cxl0"]);
        rig.ok(&["device", "online", "cxl0"]);
        assert_eq!(at_its_place(&rig, "/f", node), ["cxl0"]);
        assert_eq!(rig.get("/f"), pattern(8 * MIB, 1));
        rig.sound();
    }
}

#[test]
fn a_node_that_goes_offline_in_use_loses_nothing_and_is_named() {
    const NAME: &str = "a_node_that_goes_offline_in_use";
    // Before a look at the machine, which others of these change.
    let _alone = alone();
    let machine = topology::Topology::read(Path::new(topology::SYSFS), Path::new(topology::MOUNTINFO));
    let ram = |dax: &&topology::Dax| dax.mode == topology::Mode::SystemRam;
    let Some(dax) = machine.dax.iter().find(ram).filter(|_| setting::may_change_machine()) else {
        return skipped(NAME, "wants a DAX device that is system RAM, and CODAX_TEST_MACHINE=1");
    };
    let (node, dax) = (dax.target_node.expect("the kernel says it"), &dax.name);
    // In huge pages: to take a node offline takes long.
    for plan in plans(NAME, Some(node)).into_iter().skip(1) {
        let _back = Online(dax.clone());
        let (online, offline) = ("online-memory", "offline-memory");
        let switch = |how: &str| sh(&format!("daxctl {how} {dax} >/dev/null"));
        let gone = format!("NUMA node {node} has no memory online");
        let rig = plan.up();
        let bytes = pattern(8 * MIB, 1);
        rig.put("/f", &bytes, &["--on", "cxl0"]).ok();
        let mut client = Client::start(&rig, "hold", &["/f", "ro"]);
        let seen = client.number("get 4096");

        switch(offline);
        let said = until("the patrol looks", || rig.events("lost").pop());
        assert!(said.contains(&gone), "{said}");
        assert!(rig.ok(&["status"]).text().contains(&gone));
        assert!(
            rig.row(&["device", "show", "cxl0"])["missing"].as_str().is_some_and(|why| why.contains(&gone))
        );
        let found = rig.run(&["check"]);
        assert!(found.code == 9 && found.text().contains(&gone), "{found}");
        assert_eq!((client.number("get 4096"), rig.get("/f") == bytes), (seen, true));
        rig.put("/g", &bytes, &["--on", "cxl0"]).fails(6, &[&gone]);
        rig.put("/g", &bytes, &[]).ok();
        rig.run(&["move", "/g", "--to", "cxl0"]).fails(6, &[&gone]);
        assert_eq!(rig.pools_of("/g"), ["dram"]);

        // It comes back, and so do the pages.
        switch(online);
        until("the patrol looks", || rig.events("found").pop());
        until("the patrol brings them", || rig.events("stray").pop());
        assert_eq!(at_its_place(&rig, "/f", node), ["cxl0"]);
        rig.sound();

        // A daemon that starts without it has everything, and can empty the device.
        switch(offline);
        rig.kill();
        rig.up();
        assert!(rig.ok(&["status"]).text().contains("what it held is whole"));
        until("the client is back", || (client.ask("stat") == (8 * MIB).to_string()).then_some(()));
        rig.ok(&["device", "drain", "cxl0"]);
        assert_eq!((rig.pools_of("/f"), client.number("get 4096")), (vec!["dram".to_owned()], seen));
        rig.run(&["device", "online", "cxl0"]).fails(6, &[&gone]);
        switch(online);
        rig.ok(&["device", "online", "cxl0"]);
        assert_eq!(at_its_place(&rig, "/f", node), ["cxl0"]);
        assert_eq!((client.number("get 4096"), rig.get("/f") == bytes), (seen, true));
        client.end();
        rig.sound();
    }
}

/// Puts memory online again, also when the test fails.
struct Online(String);

impl Drop for Online {
    fn drop(&mut self) {
        // What is online already is no failure.
        let _ = Command::new("daxctl").args(["online-memory", &self.0]).output();
    }
}

/// `kB` of a line of a node's `meminfo`, in bytes.
fn free(node: u32) -> u64 {
    nodes().iter().find(|other| other.node == node).and_then(|node| node.free).expect("there")
}

/// The sum of such counters of the kernel's.
fn vmstat(names: &[&str]) -> u64 {
    let text = fs::read_to_string("/proc/vmstat").expect("linux");
    let of = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        names.contains(&name).then(|| value.trim().parse::<u64>().expect("a number"))
    };
    text.lines().filter_map(of).sum()
}

fn sh(script: &str) {
    let status = Command::new("sh").args(["-ec", script]).status().expect("a shell");
    assert!(status.success(), "{script}: {status}");
}

/// Unmounts what the test fills, also when it fails.
struct Filler(String);

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_node_under_pressure_keeps_its_pages_and_a_full_one_is_no_space() {
    const NAME: &str = "a_node_under_pressure_keeps_its_pages";
    // Before a look at the machine, which others of these change.
    let _alone = alone();
    // Not the node of the other tests, which it would fill.
    let Some(node) = far().get(1).copied() else { return skipped(NAME, "wants two NUMA nodes without CPUs") };
    if !setting::may_change_machine() {
        return skipped(NAME, "changes the machine's settings, which CODAX_TEST_MACHINE=1 allows");
    }
    // The kernel may swap, demote to slower nodes, and bring pages to who uses them: of codax's it must not.
    sh("echo 1 > /sys/kernel/mm/numa/demotion_enabled; echo 3 > /proc/sys/kernel/numa_balancing");
    let killed = || vmstat(&["oom_kill"]);
    let before = killed();
    // In one kind of pages: to fill a node takes long.
    for plan in plans(NAME, Some(node)).into_iter().take(1) {
        let rig = plan.up();
        rig.put("/f", &pattern(4 * MIB, 1), &["--on", "cxl0"]).ok();
        let mut reader = Client::start(&rig, "hold", &["/f", "ro"]);
        let dir = rig.beside("filler");
        fs::create_dir(&dir).expect("ours");
        let dir = dir.display();
        let filler = |options: &str| {
            sh(&format!("mount -t tmpfs -o mpol=bind:{node},size=4g{options} filler {dir}"));
            Filler(dir.to_string())
        };
        let fill = |bytes: u64| {
            // Not with zeros, of which the kernel only notes that they were there.
            sh(&format!("yes | head -c {bytes} >>{dir}/f"));
        };
        // More than the node has: something has to go, and it isn't ours.
        let swapped = filler("");
        let gone = || vmstat(&["pswpout", "pgdemote_kswapd", "pgdemote_direct"]);
        let stayed = gone();
        fill(free(node) + 48 * MIB);
        assert!(gone() > stayed, "the kernel has others' pages go");
        for at in (0..4 * MIB).step_by(1 << 16) {
            reader.number(&format!("get {at}"));
        }
        assert_eq!(at_its_place(&rig, "/f", node), ["cxl0"]);
        drop(swapped);
        // Nothing of this can go. What is given back late, or is somebody else's and can go, is filled as well.
        let stays = filler(",noswap");
        while free(node) > 40 * MIB {
            fill(free(node) - 36 * MIB);
        }
        let full = rig.put("/big", &pattern(56 * MIB, 2), &["--on", "cxl0"]);
        full.fails(4, &["node", "full"]);
        rig.ok(&["put", "--on", "cxl0", "/proc/self/status", "/little"]);
        assert_eq!(at_its_place(&rig, "/f", node), ["cxl0"]);
        drop(stays);
        rig.put("/big", &pattern(56 * MIB, 2), &["--on", "cxl0"]).ok();
        assert_eq!(at_its_place(&rig, "/big", node), ["cxl0"]);
        reader.end();
        rig.sound();
    }
    assert_eq!(killed(), before, "nobody was killed for want of memory");
}

#[test]
fn nodes_that_are_not_there_or_have_cpus_are_refused_with_the_reason() {
    let refused = |device: &str, says: &str| {
        let rig = Plan::new().device_as(device).place();
        let said = rig.try_up("").expect_err("refused");
        said.fails(2, &[says]);
        assert!(!rig.dir().join("pools").exists(), "nothing is left of it");
    };
    refused("cxl0=numa:77", "no NUMA node 77");
    if nodes().iter().any(|node| node.node == 0 && !node.cpus.is_empty()) {
        refused("cxl0=numa:0", "has CPUs");
    }
    if let Some(node) = far().first() {
        refused(&format!("cxl0=numa:{node},reserve=8TiB"), "in all");
    }
}

#[test]
fn what_the_firmware_tells_is_what_a_device_announces_unless_somebody_says_otherwise() {
    const NAME: &str = "what_the_firmware_tells_is_what_a_device_announces";
    let told = |node: &Node| node.link().and_then(|link| link.read_ns).filter(|_| node.cpus.is_empty());
    let nodes = nodes();
    let found = nodes.iter().find_map(|node| Some((node.node, told(node)?)));
    let Some((node, read_ns)) = found.filter(|_| root()) else {
        return skipped(NAME, "wants root, and a NUMA node without CPUs of which the firmware tells");
    };
    for (more, announced) in [("", read_ns), (",read_ns=111", 111)] {
        let rig = Plan::new().device_as(&format!("cxl0=numa:{node},reserve=16MiB{more}")).up();
        let link = rig.row(&["device", "show", "cxl0"])["link"].clone();
        assert_eq!(link["read_ns"], announced, "{link}");
        let status = codax::Store::connect(rig.dir()).and_then(|store| store.status()).expect("a daemon");
        let pool = status.pools.iter().find(|pool| pool.name == "cxl0").expect("a pool");
        assert_eq!(pool.link.read_ns, Some(announced), "{pool:?}");
        let probed = rig.row(&["probe", "cxl0", "--time=20ms"]);
        let pool = &probed["pools"][0];
        assert_eq!(pool["announced"]["read_ns"], announced, "{pool}");
        assert!(pool["measured"]["read_ns"]["median"].as_f64() > Some(0.0), "{pool}");
    }
}

#[test]
fn the_sections_that_discover_prints_make_a_store() {
    const NAME: &str = "the_sections_that_discover_prints_make_a_store";
    let _alone = alone();
    let far = far();
    if !(root() && setting::may_change_machine()) || far.is_empty() {
        return skipped(NAME, "takes all of each NUMA node without CPUs, which CODAX_TEST_MACHINE=1 allows");
    }
    let found = Plan::new().place().row(&["device", "discover"]);
    let listed = |node: u32| {
        let mut nodes = found["nodes"].as_array().expect("nodes").iter();
        nodes.find(|listed| listed["node"] == node).cloned().expect("it is listed")
    };
    // Of memory that went offline and came back the kernel has no figures any more.
    let mut told = 0;
    for node in nodes().iter().filter(|node| far.contains(&node.node)) {
        let (listed, read_ns) = (listed(node.node), node.link().and_then(|link| link.read_ns));
        assert_eq!(listed["link"]["read_ns"].as_u64(), read_ns.map(u64::from), "{listed}");
        told += usize::from(read_ns.is_some());
        assert!(
            listed["tier"].is_number() && listed["usable_as"] == format!("numa:{}", node.node),
            "{listed}"
        );
    }
    assert!(told > 0, "the firmware tells");
    let text = found["config"].as_str().expect("text");
    let sections: Vec<_> = text.split_inclusive("[[device]]").skip(1).collect();
    let ends = |section: &&str| section.trim_end_matches("[[device]]").to_owned();
    let numa = sections.iter().map(ends).filter(|section| section.contains("backing = \"numa\""));
    let config: Vec<_> = numa.map(|section| format!("[[device]]{section}")).collect();
    assert_eq!(config.len(), far.len(), "{text}");
    let plan = Plan::new().without_devices().config(&format!("huge = \"never\"\n{}", config.concat()));
    let rig = plan.up();
    let pools = rig.rows(&["device", "list"]);
    assert_eq!(pools.len(), far.len(), "{pools:?}");
    for pool in pools {
        let name = pool["name"].as_str().expect("a name");
        rig.put(&format!("/{name}"), &pattern(3 * MIB, 1), &["--on", name]).ok();
        let node = pool["numa"]["node"].as_u64().and_then(|node| node.try_into().ok()).expect("a node");
        assert_eq!(lies_on(&rig, &format!("/{name}"), &[(name, vec![node])]), [name]);
    }
    rig.sound();
}
