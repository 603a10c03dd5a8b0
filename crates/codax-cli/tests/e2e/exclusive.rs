//! Who else is on a device's node, on a machine that has one, and what is done about it.

use crate::client::{self, Client, counted};
use crate::numa::{alone, at_its_place, far, nodes};
use crate::rig::{MIB, Plan, Rig, pattern, root, skipped, until};
use crate::setting;
use codax_os::hugetlb::Policy;
use codax_os::{mounts, numa, object};
use serde_json::Value;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

/// A process that has memory of its own: so many bytes, on a node while there is room if one is named. `more BYTES` has it take more, `all` is answered with
/// how much it has. When the machine has no more, it is who ends.
pub fn eat(bytes: u64, node: Option<u32>) {
    fs::write("/proc/self/oom_score_adj", "1000").expect("anybody may offer himself");
    let policy = node.map(|node| Policy::prefer(node).expect("a node"));
    let take = |bytes: u64| {
        let mut memory = vec![0_u8; usize::try_from(bytes).expect("it fits")];
        memory.chunks_mut(4096).for_each(|page| page[0] = 1);
        memory
    };
    let mut all = vec![take(bytes)];
    drop(policy);
    client::serve(|line| {
        if line[0] == "more" {
            all.push(take(line[1].parse().expect("a number")));
        }
        let used = all.iter().flatten().step_by(4096).map(|byte| u64::from(*byte) * 4096);
        if line[0] == "all" { used.sum::<u64>().to_string() } else { "done".to_owned() }
    });
}

/// A store whose device `cxl0` is the first node that can be one.
fn plan(test: &str, more: &str) -> Option<(Plan, u32)> {
    // The smallest, as a rule: to populate it takes long.
    let Some(node) = far().last().copied().filter(|_| root()) else {
        skipped(test, "wants root, and a NUMA node without CPUs");
        return None;
    };
    let all = nodes().iter().find(|each| each.node == node).and_then(|each| each.bytes).expect("memory");
    // What was populated before is given back a little later than its store ends.
    until("the node is free", || {
        numa::watermarks(node).is_ok_and(|marks| marks.free > all / 2).then_some(())
    });
    Some((Plan::new().device_as(&format!("cxl0=numa:{node},reserve=64MiB{more}")), node))
}

/// What `doctor` says of the device's node.
pub fn of_device(rig: &Rig, node: u32) -> Value {
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
    let Some((plan, node)) = plan("doctor_names_who_is_on_a_device", ",exclusive=reserve") else { return };
    if !setting::may_change_machine() {
        return skipped(
            "doctor_names_who_is_on_a_device",
            "switches swap off, which CODAX_TEST_MACHINE=1 allows",
        );
    }
    // To populate the node the kernel would swap out what is there.
    let _off = WithoutSwap::new();
    let rig = plan.place();
    // Once all of the node is populated he would find no room there.
    let hog = Client::start(&rig, "eat", &[&(24 * MIB).to_string(), &node.to_string()]);
    rig.up();
    rig.put("/f", &pattern(4 * MIB, 1), &["--on", "cxl0"]).ok();
    // Who maps what the store put there is no stranger.
    let mut holder = Client::start(&rig, "hold", &["/f", "ro"]);
    holder.number("get 4096");
    let row = of_device(&rig, node);
    assert_eq!(row["level"], "missing", "{row}");
    assert_eq!(row["mend"], "codax device evict-strangers cxl0");
    let processes = row["node"]["processes"].as_array().expect("a list");
    let of = |pid: u32| processes.iter().find(|process| process["pid"] == pid);
    assert!(of(holder.pid()).is_none(), "{row}");
    let found = of(hog.pid()).expect("it is there");
    assert!(found["bytes"].as_u64() >= Some(24 * MIB) && found["movable"] == true, "{row}");
    for (kind, movable) in [("page_cache", true), ("shared", true), ("huge", true), ("slab", false)] {
        assert_eq!(row["node"]["movable"][kind], movable, "{kind}: {row}");
    }
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

/// Swap that is off as long as this is there.
pub struct WithoutSwap(Vec<String>);

impl WithoutSwap {
    pub fn new() -> Self {
        let table = fs::read_to_string("/proc/swaps").expect("linux");
        let devices =
            table.lines().skip(1).filter_map(|line| Some(line.split_whitespace().next()?.to_owned()));
        let off = Self(devices.collect());
        off.each("swapoff");
        off
    }

    fn each(&self, command: &str) {
        for device in &self.0 {
            let _ = Command::new(command).arg(device).status();
        }
    }
}

impl Drop for WithoutSwap {
    fn drop(&mut self) {
        self.each("swapon");
    }
}

/// Bytes of a node that a process maps, in small pages; 0 if it has ended.
pub fn on_node(pid: u32, node: u32) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/numa_maps")).unwrap_or_default();
    let key = format!("N{node}=");
    let pages = maps.split_whitespace().filter_map(|word| word.strip_prefix(&key)?.parse::<u64>().ok());
    pages.sum::<u64>() * 4096
}

/// Memory of a node that is taken by files as long as this is there.
pub struct Filled(PathBuf);

impl Filled {
    /// All but so much of what is free there.
    pub fn but(rig: &Rig, node: u32, left: u64) -> Self {
        let dir = rig.beside(&format!("filled-{node}"));
        fs::create_dir(&dir).expect("ours");
        mounts::mount_tmpfs(&dir, 1 << 40, "always", true, &[node]).expect("root may");
        let filled = Self(dir);
        let free = numa::watermarks(node).expect("there").free;
        let file = File::create(filled.0.join("f")).expect("room");
        object::allocate(&file, 0, free.saturating_sub(left).max(MIB)).expect("so much is free");
        filled
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let _ = mounts::umount(&self.0);
    }
}

/// Has a program take all memory that the machine has, until the kernel ends it, or it has so much of the node; returns the most that it had there.
fn exhaust(rig: &Rig, node: u32, enough: u64) -> u64 {
    let _off = WithoutSwap::new();
    let others: Vec<u32> = nodes().iter().map(|other| other.node).filter(|other| *other != node).collect();
    // To page in all of it would take long.
    let _filled: Vec<Filled> = others.iter().map(|other| Filled::but(rig, *other, 64 * MIB)).collect();
    let mut hog = Client::start(rig, "eat", &["4096"]);
    let mut most = 0;
    while most < enough && hog.ask_perhaps(&format!("more {}", 4 * MIB)).is_some() {
        let now = on_node(hog.pid(), node);
        most = most.max(now);
    }
    most
}

#[test]
fn a_program_that_eats_all_memory_gets_none_of_a_reserve() {
    const NAME: &str = "a_program_that_eats_all_memory";
    let _alone = alone();
    let Some(node) = far().last().copied().filter(|_| root() && setting::may_change_machine()) else {
        return skipped(NAME, "wants root, a NUMA node without CPUs, and CODAX_TEST_MACHINE=1");
    };
    for (page, mode) in [("thp", "none"), ("thp", "reserve")] {
        let rig = Plan::new().device_as(&format!("cxl0=numa:{node},page={page},exclusive={mode}")).up();
        rig.put("/f", &pattern(8 * MIB, 1), &["--on", "cxl0"]).ok();
        if mode == "reserve" {
            let said = until("the reserve is populated", || rig.events("reserve").pop());
            assert!(said.contains("nothing else fits there"), "{said}");
        }
        let shown = rig.ok(&["device", "show", "cxl0"]).text().to_owned();
        let most = exhaust(&rig, node, 16 * MIB);
        let kept = numa::watermarks(node).expect("there");
        eprintln!("figure: {page}, {mode}: at most {most} bytes of the hog on the node; {kept:?}");
        match mode {
            "none" => assert!(most >= 16 * MIB, "{most} bytes: it would have the whole node"),
            // Of what the kernel keeps of each node for emergencies, it gives who is about to be ended up to half.
            _ => assert!(most <= kept.min / 2, "{most} of {kept:?}: {shown}"),
        }
        // The device is as it was.
        assert_eq!(at_its_place(&rig, "/f", node), ["cxl0"]);
        assert!(rig.get("/f") == pattern(8 * MIB, 1));
        rig.put("/g", &pattern(40 * MIB, 2), &["--on", "cxl0"]).ok();
        assert_eq!(at_its_place(&rig, "/g", node), ["cxl0"]);
        rig.sound();
    }
}

/// What is populated for the device, once that is all of its node that can be had.
fn populated(rig: &Rig, node: u32) -> u64 {
    until("the reserve is as large as it can be", || {
        let pool = rig.row(&["device", "show", "cxl0"]);
        let populated = pool["populated"].as_u64().expect("a reserve");
        let rest = numa::watermarks(node).expect("there").free;
        (populated >= pool["free"].as_u64().expect("a size") && rest < 8 * MIB).then_some(populated)
    })
}

#[test]
fn files_get_their_memory_from_the_reserve_and_give_it_back() {
    let _alone = alone();
    let Some((_, node)) = plan("files_get_their_memory_from_the_reserve", "") else { return };
    let rig = Plan::new().dram("256MiB").place();
    let up = |more: &str| {
        rig.up_with(&["--device", &format!("cxl0=numa:{node},reserve=64MiB{more}")]);
    };
    up(",exclusive=reserve");
    let all = populated(&rig, node);
    assert!(rig.ok(&["device", "show", "cxl0"]).text().contains("all that it has room for"));
    // Small ones and large ones, written through a mapping too, and moved under who maps them.
    for (path, len) in [("/f", 24 * MIB + 20_480), ("/small", 5000)] {
        rig.put(path, &counted(len, 1), &["--on", "cxl0"]).ok();
        assert_eq!(at_its_place(&rig, path, node), ["cxl0"]);
    }
    let counter = Client::start(&rig, "count", &["/f", "1", "0"]);
    for _ in 0..2 {
        rig.ok(&["move", "/f", "--to", "dram"]);
        assert_eq!(at_its_place(&rig, "/f", node), ["dram"]);
        rig.ok(&["move", "/f", "--to", "cxl0"]);
        assert_eq!(at_its_place(&rig, "/f", node), ["cxl0"]);
    }
    // It outlives the daemon, and without being told again it stays so.
    rig.kill();
    up("");
    assert!(populated(&rig, node) <= all - 16 * MIB, "what files have is not populated beside them");
    rig.until_mapped_again("/f");
    rig.ok(&["device", "drain", "cxl0"]);
    assert_eq!(at_its_place(&rig, "/f", node), ["dram"]);
    assert!(populated(&rig, node) >= 64 * MIB, "an empty device is nobody else's either");
    rig.ok(&["device", "online", "cxl0"]);
    assert_eq!(at_its_place(&rig, "/f", node), ["cxl0"]);
    counter.end();
    rig.ok(&["rm", "/f"]);
    until("what the file had is populated", || (populated(&rig, node) + 16 * MIB >= all).then_some(()));
    // Whom it doesn't belong to any more it doesn't stand in the way of.
    rig.ok(&["device", "drain", "cxl0"]);
    rig.ok(&["device", "detach", "cxl0"]);
    assert!(numa::watermarks(node).expect("there").free >= all / 2);
    rig.ok(&["device", "attach", "cxl0"]);
    populated(&rig, node);
    rig.ok(&["device", "online", "cxl0"]);
    assert_eq!(at_its_place(&rig, "/small", node), ["cxl0"]);
    assert_eq!(rig.get("/small"), counted(5000, 1));
    rig.sound();
    // Until it is told otherwise.
    rig.down();
    up(",exclusive=none");
    assert_eq!(rig.row(&["device", "show", "cxl0"])["exclusive"], "none");
    assert!(numa::watermarks(node).expect("there").free >= all / 2);
    rig.sound();
}

/// The node with the machine's only processors, as a device.
pub fn with_dram(test: &str) -> Option<String> {
    let near: Vec<_> = nodes().into_iter().filter(|node| !node.cpus.is_empty()).collect();
    match &near[..] {
        [node] if root() && numa::watermarks(node.node).is_ok() => {
            Some(format!("cxl0=numa:{},cpus=yes,page=4K,exclusive=reserve", node.node))
        }
        _ => {
            skipped(test, "wants root, and one NUMA node with CPUs");
            None
        }
    }
}

#[test]
fn a_reserve_leaves_dram_what_it_has_room_for() {
    let Some(device) = with_dram("a_reserve_leaves_dram_what_it_has_room_for") else { return };
    let populated = |rig: &Rig, bytes: u64| {
        until("the reserve has its share", || {
            (rig.row(&["device", "show", "cxl0"])["populated"] == bytes).then_some(())
        });
    };
    let rig = Plan::new().dram("64MiB").device_as(&format!("{device},reserve=32MiB")).up();
    populated(&rig, 32 * MIB);
    assert!(until("it is said", || rig.events("reserve").pop()).contains("the rest is dram's as well"));
    rig.put("/f", &pattern(20 * MIB, 1), &["--on", "cxl0"]).ok();
    populated(&rig, 12 * MIB);
    rig.ok(&["rm", "/f"]);
    populated(&rig, 32 * MIB);
    drop(rig);
    let too_much = format!("{}MiB", codax_os::probe::memory_available().expect("linux") / MIB * 2);
    let rig = Plan::new().dram(&too_much).device_as(&format!("{device},reserve=32MiB")).up();
    let said = until("it is said", || rig.events("reserve").pop());
    assert!(said.contains("32 MiB are missing"), "dram may have all there is: {said}");
}

#[test]
fn doctor_says_what_it_can_t_know_without_a_daemon() {
    let Some(device) = with_dram("doctor_says_what_it_can_t_know_without_a_daemon") else { return };
    let rig = Plan::new().dram("64MiB").device_as(&format!("{device},reserve=16MiB")).up();
    rig.kill();
    let said = rig.run(&["doctor"]).fails(1, &["cxl0"]);
    assert!(said.text().contains("exclusive=reserve, and no daemon runs"), "{said}");
    let row = rig.run(&["doctor", "--json"]).rows().into_iter().find(|row| row["fact"] == "cxl0");
    assert_eq!(row.expect("a row for it")["level"], "missing");
}

#[test]
fn movable_is_checked_of_a_mode_that_is_kept_too() {
    let Some(device) = with_dram("movable_is_checked_of_a_mode_that_is_kept_too") else { return };
    let node: u32 = device.split([':', ',']).nth(1).and_then(|node| node.parse().ok()).expect("a number");
    if nodes().iter().any(|each| each.node == node && each.is_movable() == Some(true)) {
        return skipped("movable_is_checked_of_a_mode_that_is_kept_too", "wants memory that isn't movable");
    }
    let rig = Plan::new().dram("64MiB").without_devices().place();
    rig.up_with(&["--device", &format!("cxl0=numa:{node},cpus=yes,page=4K,reserve=16MiB")]);
    // As if the node had been movable when that was said.
    let word = rig.dir().join("meta/exclusive.cxl0");
    let says = ["device cxl0: exclusive=movable", "aren't movable", "or take exclusive=reserve"];
    rig.kill();
    fs::write(&word, "movable").expect("ours");
    rig.try_up("").expect_err("refused").fails(2, &says);
    fs::write(&word, "none").expect("ours");
    rig.up();
    rig.ok(&["device", "drain", "cxl0"]);
    rig.ok(&["device", "detach", "cxl0"]);
    rig.kill();
    fs::write(&word, "movable").expect("ours");
    rig.up();
    rig.run(&["device", "attach", "cxl0"]).fails(2, &says);
    assert_eq!(rig.state("cxl0"), "detached");
    rig.sound();
}

#[test]
fn memory_that_is_not_movable_is_not_taken_for_it() {
    let _alone = alone();
    let Some((_, _)) = plan("memory_that_is_not_movable", "") else { return };
    let movable = |node: &&codax_os::topology::Node| node.is_movable() == Some(true);
    for node in nodes().iter().filter(|node| node.cpus.is_empty()) {
        let device = format!("cxl0=numa:{},reserve=16MiB,exclusive=movable", node.node);
        if movable(&node) {
            let rig = Plan::new().device_as(&device).up();
            let shown = rig.ok(&["device", "show", "cxl0"]);
            assert!(shown.text().contains("movable: others' memory may land"), "{shown}");
        } else {
            let rig = Plan::new().device_as(&device).place();
            rig.try_up("").expect_err("refused").fails(2, &["exclusive=movable", "aren't movable"]);
        }
    }
}

#[test]
fn a_detach_says_who_is_on_the_node_still() {
    let _alone = alone();
    let Some((plan, node)) = plan("a_detach_says_who_is_on_the_node_still", "") else { return };
    let rig = plan.up();
    let hog = Client::start(&rig, "eat", &[&(24 * MIB).to_string(), &node.to_string()]);
    rig.ok(&["device", "drain", "cxl0"]);
    let row = rig.row(&["device", "detach", "cxl0"]);
    let found =
        row["processes"].as_array().expect("a list").iter().find(|process| process["pid"] == hog.pid());
    assert!(found.expect("it is there")["bytes"].as_u64() >= Some(24 * MIB), "{row}");
    assert!(row["kernel"].as_u64() > Some(0), "{row}");
    rig.ok(&["device", "attach", "cxl0"]);
    let said = rig.ok(&["device", "detach", "cxl0"]);
    assert!(said.text().contains(&format!("process {}", hog.pid())), "{said}");
    assert!(said.text().contains("kernel"), "{said}");
    hog.end();
    rig.sound();
}
