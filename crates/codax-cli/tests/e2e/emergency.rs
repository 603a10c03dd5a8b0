//! Devices that help out when memory is exhausted: files for `dram` in the store, and memory that is lent to the rest of the machine.

use crate::cgroup::Cgroup;
use crate::client::{self, Client, check_counted, counted};
use crate::exclusive::{Filled, WithoutSwap, of_device, on_node};
use crate::mount::mounted;
use crate::numa::{alone, at_its_place, far, nodes};
use crate::rig::{MIB, Plan, Rig, Running, pattern, root, skipped, until};
use crate::setting::{self, slowed};
use codax_os::numa;
use codax_os::psi::{self, Trigger};
use serde_json::Value;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A huge page.
const HUGE: u64 = 2 * MIB;

/// `dram` of 32 MiB, and an emulated device of 64 MiB that is allowed what is said.
fn plan(emergency: &str) -> Plan {
    Plan::new().dram("32MiB").device_as(&format!("sim0=emulated:64MiB{emergency}"))
}

/// What is used of a device for an emergency.
fn emergency(rig: &Rig, name: &str) -> Value {
    rig.row(&["device", "show", name])["emergency"].clone()
}

fn bytes_of(row: &Value) -> u64 {
    bytes(&row["bytes"])
}

fn bytes(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

#[test]
fn a_file_that_finds_no_room_helps_itself_to_the_device_and_goes_home_under_its_mapper() {
    let rig = plan(",emergency=allow,at_most=50%").up();
    rig.put("/full", &pattern(28 * MIB, 1), &[]).ok();
    rig.put("/f", &counted(8 * MIB, 1), &[]).ok();
    assert_eq!(rig.pools_of("/f"), ["dram", "sim0"]);
    let used = emergency(&rig, "sim0");
    assert_eq!(
        (&used["allowed"], bytes(&used["at_most"]), bytes(&used["used"])),
        (&true.into(), 32 * MIB, 4 * MIB)
    );
    let shown = rig.ok(&["device", "show", "sim0"]);
    assert!(shown.text().contains("allow: 32 MiB at most"), "{shown}");
    let status = rig.ok(&["status"]);
    assert!(status.text().contains("sim0: 4 MiB of files that found no room in dram"), "{status}");
    let stat = rig.ok(&["stat", "/f"]);
    for says in ["at home in dram", "on a device, since dram has no room for it"] {
        assert!(stat.text().contains(says), "{stat}");
    }
    let pages = rig.rows(&["pages", "sim0", "--file", "/f"]);
    assert!(pages.iter().all(|run| run["flags"] == serde_json::json!(["emergency"])), "{pages:?}");
    assert!(rig.events("emergency")[0].starts_with("\"/f\" \"in sim0"), "{:?}", rig.events("emergency"));
    // Where the rest of it is at an end it is said.
    rig.put("/more", &pattern(40 * MIB, 2), &[])
        .fails(4, &["sim0 has all that at_most allows of it, 32 MiB"]);
    // It is known after a crash, and its mapper stays.
    let mut counter = Client::start(&rig, "count", &["/f", "1", "0"]);
    rig.kill();
    rig.up();
    rig.until_mapped_again("/f");
    assert_eq!(bytes(&emergency(&rig, "sim0")["used"]), 4 * MIB);
    rig.ok(&["rm", "/full"]);
    until("it is home", || (rig.pools_of("/f") == ["dram"]).then_some(()));
    let rounds = counter.number("stop");
    counter.end();
    check_counted(&rig.get("/f"), 1, &[rounds]);
    assert!(rig.events("home").pop().is_some_and(|said| said.contains("from sim0 to dram")));
    assert_eq!(rig.pool("sim0", "used"), 0);
    rig.sound();
}

#[test]
fn what_is_decided_is_in_the_events_with_time_cause_and_size() {
    let rig = plan(",emergency=allow,at_most=8MiB").up();
    rig.put("/full", &pattern(30 * MIB, 1), &[]).ok();
    rig.put("/f", &pattern(6 * MIB, 2), &[]).ok();
    rig.put("/more", &pattern(9 * MIB, 3), &[]).fails(4, &["at_most"]);
    rig.run(&["device", "drain", "sim0"]).fails(4, &["no place elsewhere"]);
    rig.run(&["move", "/full", "--to", "sim0", "--range", "0:2MiB"]).ok();
    rig.ok(&["move", "/full", "--to", "dram"]);
    rig.ok(&["rm", "/full"]);
    until("it is home", || (rig.pools_of("/f") == ["dram"]).then_some(()));
    let rows = rig.rows(&["events"]);
    for (what, subject, cause, bytes) in [
        ("emergency", "/f", "in sim0, since dram has no room for it", 4 * MIB),
        ("refuse", "a new file in /", "for an emergency sim0", 4 * MIB),
        ("refuse", "sim0", "drain sim0: ", 4 * MIB),
        ("home", "/f", "from sim0 to dram, where there is room again", 4 * MIB),
    ] {
        let said = |row: &&Value| {
            let detail = row["detail"].as_str().is_some_and(|detail| detail.contains(cause));
            row["what"] == what && row["subject"] == subject && detail
        };
        let told: Vec<&Value> = rows.iter().filter(said).collect();
        assert_eq!(told.iter().map(|row| bytes_of(row)).sum::<u64>(), bytes, "{what} {subject}: {rows:?}");
        assert!(told.iter().all(|row| row["time_ns"].as_u64().is_some_and(|time| time > 1 << 60)));
    }
}

#[test]
fn who_opts_out_has_no_space() {
    let rig = plan(",emergency=allow").up();
    rig.put("/full", &pattern(32 * MIB, 1), &[]).ok();
    let some = pattern(MIB, 2);
    rig.put("/f", &some, &["--no-emergency"]).fails(4, &["no space in pool `dram`"]);
    rig.ok(&["mkdir", "--no-emergency", "/never"]);
    rig.put("/never/f", &some, &[]).fails(4, &["no space in pool `dram`"]);
    assert_eq!(
        rig.ok(&["placement", "/never"]).text(),
        "--on dram --no-emergency  (from a directory above)\n"
    );
    assert_eq!(rig.run(&["placement", "/never", "--emergency", "--no-emergency"]).code, 2);
    rig.ok(&["placement", "/never", "--emergency"]);
    rig.put("/never/f", &some, &[]).ok();
    assert_eq!(rig.pools_of("/never/f"), ["sim0"]);
    rig.ok(&["placement", "/never/f", "--no-emergency"]);
    let stat = rig.ok(&["stat", "/never/f"]);
    assert!(
        stat.text().contains("never, for what it gets by now; on a device, since dram has no room"),
        "{stat}"
    );
    rig.ok(&["rm", "/full"]);
    until("it is home", || (rig.pools_of("/never/f") == ["dram"]).then_some(()));
    let stat = rig.ok(&["stat", "/never/f"]);
    assert!(stat.text().contains("never: it is on no device for want of room"), "{stat}");
    rig.sound();
}

#[test]
fn what_can_t_be_meant_is_refused_before_anything_is_made() {
    for (device, says) in [
        (
            "sim0=emulated:64MiB,emergency=allow,at_most=65MiB",
            "at_most: 65 MiB is more than the device has, 64 MiB",
        ),
        ("sim0=emulated:64KiB,emergency=allow,at_most=1%", "655 bytes, less than a frame has, 4 KiB"),
        (
            "sim0=emulated:64MiB,emergency=allow,when=free:1000TiB",
            "free:1000TiB is more than the machine has",
        ),
        ("sim0=emulated:64MiB,emergency=perhaps", "neither never nor allow"),
        ("sim0=emulated:64MiB,at_most=5%", "wants emergency=allow"),
        ("sim0=emulated:64MiB,emergency=allow,when=later", "`later` is not a condition"),
        ("dram=emulated:64MiB,emergency=allow", "host's own memory"),
    ] {
        let rig = Plan::new().device_as(device).place();
        rig.try_up("").expect_err("refused").fails(2, &[says]);
    }
}

#[test]
fn what_can_t_be_meant_in_the_file_is_named_with_its_line() {
    let device = "[[device]]\nname = \"sim0\"\nbacking = \"emulated\"\nsize = \"64MiB\"\n";
    // Behind what a run says of huge pages.
    let of_device = format!("codax.toml:{}: device sim0: ", setting::huge().lines().count() + 1);
    for (more, at, says) in [
        (
            "emergency = \"allow\"\nat_most = \"65MiB\"\n",
            &*of_device,
            "at_most: 65 MiB is more than the device has",
        ),
        ("emergency = \"allow\"\nwhen = \"free:1000TiB\"\n", &*of_device, "when: free:1000TiB"),
        ("emergency = true\n", "codax.toml:", "emergency: write \"never\" or \"allow\""),
        ("when = 5\n", "codax.toml:", "when: write a condition"),
    ] {
        let rig = Plan::new().without_devices().config(&format!("{device}{more}")).place();
        rig.try_up("").expect_err("refused").fails(2, &[at, says]);
    }
}

#[test]
fn a_reload_takes_what_is_allowed_by_now() {
    let device = |word: &str| {
        format!(
            "[[device]]\nname = \"sim0\"\nbacking = \"emulated\"\nsize = \"64MiB\"\nemergency = \"{word}\"\n"
        )
    };
    let rig = Plan::new().dram("32MiB").without_devices().config(&device("never")).up();
    rig.put("/full", &pattern(32 * MIB, 1), &[]).ok();
    rig.put("/f", &pattern(MIB, 2), &[]).fails(4, &["no space in pool `dram`: 1 MiB"]);
    std::fs::write(rig.beside("codax.toml"), device("allow")).expect("ours");
    assert!(rig.ok(&["reload"]).text().contains("device sim0: emergency is allow now"));
    assert!(rig.events("reload")[0].contains("device sim0: emergency is allow now"));
    rig.put("/f", &pattern(MIB, 2), &[]).ok();
    assert_eq!(rig.pools_of("/f"), ["sim0"]);
    rig.ok(&["device", "drain", "sim0", "--dry-run"]);
    rig.run(&["device", "drain", "sim0"]).fails(4, &["no place elsewhere", "/f"]);
    assert_eq!((rig.state("sim0").as_str(), rig.pools_of("/f")), ("online", vec!["sim0".to_owned()]));
    rig.sound();
}

#[test]
fn a_program_that_writes_to_a_mount_finds_the_device() {
    let Some(store) = mounted("a_program_that_writes_to_a_mount_finds_the_device", plan(",emergency=allow"))
    else {
        return;
    };
    let rig = &store.rig;
    rig.put("/full", &pattern(32 * MIB, 1), &[]).ok();
    std::fs::write(store.at("f"), pattern(3 * MIB, 2)).expect("room on the device");
    assert_eq!(rig.pools_of("/f"), ["sim0"]);
    assert_eq!(std::fs::read(store.at("f")).expect("there"), pattern(3 * MIB, 2));
    assert_eq!(bytes(&emergency(rig, "sim0")["used"]), 3 * MIB);
    std::fs::create_dir(store.at("never")).expect("made");
    let set = |value: &str| {
        let mut command = Command::new("setfattr");
        command.args(["-n", "user.codax.emergency", "-v", value]).arg(store.at("never")).output()
    };
    if let Ok(set_never) = set("never") {
        assert!(set_never.status.success(), "{set_never:?}");
        assert!(!set("sometimes").expect("it ran").status.success());
        let full = std::fs::write(store.at("never/f"), pattern(MIB, 3)).expect_err("no space");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }
    rig.ok(&["rm", "/full"]);
    until("it is home", || (rig.pools_of("/f") == ["dram"]).then_some(()));
    assert_eq!(std::fs::read(store.at("f")).expect("there"), pattern(3 * MIB, 2));
    rig.sound();
}

#[test]
fn below_a_limit_of_memory_a_device_helps_as_far_as_the_limit_goes() {
    const NAME: &str = "below_a_limit_of_memory_a_device_helps";
    let Some(cgroup) = Cgroup::new(NAME, Some(64 * MIB)) else { return };
    let device = "sim0=emulated:128MiB,emergency=allow";
    let rig = Plan::new().dram("16MiB").device_as(device).within(&cgroup.dir).up();
    rig.put("/a", &pattern(12 * MIB, 1), &[]).ok();
    rig.put("/b", &pattern(20 * MIB, 2), &[]).ok();
    assert_eq!(rig.pools_of("/b"), ["dram", "sim0"]);
    // An emulated device has the memory of the host, and so the daemon's limit.
    rig.put("/c", &pattern(40 * MIB, 3), &[]).fails(4, &["sim0 would take the same memory as dram"]);
    for (path, len, seed) in [("/a", 12, 1), ("/b", 20, 2)] {
        assert!(rig.get(path) == pattern(len * MIB, seed), "{path}");
    }
    rig.ok(&["rm", "/a"]);
    until("it is home", || {
        (rig.pools_of("/b") == ["dram"])
            .then_some(())
            .or_else(|| (bytes(&emergency(&rig, "sim0")["used"]) < 8 * MIB).then_some(()))
    });
    rig.sound();
    assert!(rig.alive());
    assert_eq!(cgroup.killed(), "0");
}

#[test]
fn below_a_limit_of_memory_what_is_free_is_what_that_leaves() {
    const NAME: &str = "below_a_limit_of_memory_what_is_free";
    let Some(cgroup) = Cgroup::new(NAME, Some(96 * MIB)) else { return };
    let device = "sim0=emulated:64MiB,emergency=allow,when=free:48MiB";
    let rig = Plan::new().dram("64MiB").device_as(device).within(&cgroup.dir).up();
    rig.put("/a", &pattern(20 * MIB, 1), &[]).ok();
    assert_eq!(rig.pools_of("/a"), ["dram"], "it isn't short yet");
    rig.put("/b", &pattern(24 * MIB, 2), &[]).ok();
    assert!(
        rig.pools_of("/b").contains(&"sim0".to_owned()),
        "with it, less than 48 MiB would be left: {:?}",
        rig.pools_of("/b")
    );
    // What stat says of it is what was said when it happened.
    let why = "memory is short (free:48MiB)";
    assert_eq!(rig.row(&["stat", "/b"])["spilled"], why);
    assert!(rig.ok(&["stat", "/b"]).text().contains(&format!("on a device, since {why}")));
    assert!(rig.events("emergency")[0].contains(why), "{:?}", rig.events("emergency"));
    assert!(rig.get("/b") == pattern(24 * MIB, 2));
    rig.sound();
    assert_eq!(cgroup.killed(), "0");
}

/// Allocates and lets go of blocks of memory, a number of times, and has about so many bytes of them at once: also when it has answered with how many it
/// touched. When the machine has no more, it is who ends.
pub fn churn(rounds: u64, bytes: u64) {
    // On average.
    const BLOCK: u64 = 8 << 10;
    std::fs::write("/proc/self/oom_score_adj", "1000").expect("anybody may offer himself");
    let blocks = usize::try_from(bytes / BLOCK).expect("it fits").max(1);
    let mut ring: Vec<Vec<u8>> = vec![Vec::new(); blocks];
    client::serve(|_| {
        let mut seed = 7_u64;
        let mut touched = 0_u64;
        for round in 0..rounds {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let len = 64 + usize::try_from(seed >> 33).expect("it fits") % 16_384;
            let mut block = Vec::with_capacity(len);
            for byte in block.spare_capacity_mut().iter_mut().step_by(4096) {
                byte.write(1);
            }
            // Whoever compiles this may not know that nobody reads it.
            std::hint::black_box(&mut block);
            touched += 1;
            let at = usize::try_from(round).expect("it fits") % blocks;
            ring[at] = block;
        }
        touched.to_string()
    });
}

/// A store whose device `cxl0` is a node that it keeps to itself; swap is off, and the machine is the test's.
struct Reserved {
    rig: Rig,
    node: u32,
    /// Bytes of huge pages that the node had before.
    before: u64,
    /// Nobody else takes such pages, where it has pages that are set aside.
    _lock: Option<File>,
}

/// One in pages of this kind, with this in an emergency. Of pages that are set aside it has all of the node but a little.
fn reserved(test: &str, page: &str, emergency: &str) -> Option<Reserved> {
    let Some(node) = far().last().copied().filter(|_| root() && setting::may_change_machine()) else {
        skipped(test, "wants root, a NUMA node without CPUs, and CODAX_TEST_MACHINE=1");
        return None;
    };
    let lock = ["2M", "1G"].contains(&page).then(|| {
        let lock = File::create(setting::HUGE_LOCK).expect("root may");
        lock.lock().expect("nobody has it for ever");
        lock
    });
    let all = nodes().iter().find(|each| each.node == node).and_then(|each| each.bytes).expect("memory");
    // What was populated before is given back a little later than its store ends.
    let free = until("the node is free", || {
        numa::watermarks(node).ok().map(|marks| marks.free).filter(|free| *free > all / 2)
    });
    if page == "1G" && free < 5 << 29 {
        skipped(test, "wants a NUMA node without CPUs, with 2.5 GiB of free memory");
        return None;
    }
    let before = set_aside(node);
    let reserve = free / HUGE * HUGE - 24 * MIB;
    let (kind, whole) = match page {
        "2M" => (format!("page=2M,reserve={reserve}"), "in huge pages of 2 MiB"),
        "1G" => ("page=1G,reserve=1GiB".to_owned(), "in huge pages of 1 GiB"),
        page => (format!("page={page},exclusive=reserve"), "nothing else fits there"),
    };
    let device = format!("cxl0=numa:{node},{kind}{emergency}");
    let rig = Plan::new().dram("64MiB").device_as(&device).up();
    let said = until("the reserve is populated", || rig.events("reserve").pop());
    assert!(said.contains(whole) && !said.contains("missing"), "{said}");
    Some(Reserved { rig, node, before, _lock: lock })
}

/// Bytes of huge pages that a node has.
fn set_aside(node: u32) -> u64 {
    let node = nodes().into_iter().find(|each| each.node == node).expect("there");
    node.huge.iter().map(|pages| pages.total * pages.page_bytes).sum()
}

impl Reserved {
    /// Has another daemon go on with what is lent; the pressure lasts.
    fn restart(&self) {
        let before = bytes(&emergency(&self.rig, "cxl0")["lent"]);
        self.rig.kill();
        self.rig.up();
        let now = emergency(&self.rig, "cxl0");
        eprintln!("figure: restart: {before} bytes were lent, {now}");
        assert!(before > 0 && bytes(&now["lent"]) >= before, "{before}: {now}");
        let said = self.rig.events("lend");
        assert!(said.iter().any(|said| said.contains("since before the start")), "{said:?}");
    }

    /// The store ends, and the node has what it had.
    fn purge(self) {
        self.rig.ok(&["down", "--purge"]);
        let status = self.rig.with_daemon(Running::end);
        assert!(status.success(), "{status}");
        assert_eq!(set_aside(self.node), self.before);
    }
}

/// All that the other nodes have but so much of the first is taken, as long as this is there.
fn fill_others(rig: &Rig, node: u32, left: u64) -> Vec<Filled> {
    let others: Vec<u32> = nodes().iter().map(|other| other.node).filter(|other| *other != node).collect();
    // Below its watermarks a node has nothing for anybody, and the kernel itself is in need.
    let left = |at: usize| if at == 0 { left } else { 64 * MIB };
    others.iter().enumerate().map(|(at, other)| Filled::but(rig, *other, left(at))).collect()
}

/// Room that the kernel keeps on each node for itself and its own as long as this is there: programs turn to the next node before it has none left.
struct RoomForTheKernel(String);

impl RoomForTheKernel {
    const SETTING: &str = "/proc/sys/vm/watermark_scale_factor";

    fn new() -> Self {
        let before = std::fs::read_to_string(Self::SETTING).expect("linux");
        std::fs::write(Self::SETTING, "500").expect("root may");
        Self(before)
    }
}

impl Drop for RoomForTheKernel {
    fn drop(&mut self) {
        let _ = std::fs::write(Self::SETTING, self.0.trim_end());
    }
}

#[test]
fn a_hog_under_never_is_ended_and_the_device_is_as_it_was() {
    ended_and_as_it_was("a_hog_under_never", "thp");
}

#[test]
fn a_hog_under_never_gets_none_of_the_pages_that_are_set_aside() {
    ended_and_as_it_was("a_hog_under_never_gets_none_of_the_pages", "2M");
}

fn ended_and_as_it_was(test: &str, page: &str) {
    let _alone = alone();
    let Some(reserved) = reserved(test, page, ",emergency=never") else { return };
    let Reserved { rig, node, .. } = &reserved;
    let (node, had) = (*node, set_aside(*node));
    rig.put("/f", &pattern(8 * MIB, 1), &["--on", "cxl0"]).ok();
    let _off = WithoutSwap::new();
    let all = nodes().iter().find(|its| its.node == node).and_then(|its| its.bytes).expect("it has memory");
    let filled = fill_others(rig, node, 64 * MIB);
    let mut hog = Client::start(rig, "eat", &["4096"]);
    let mut most = 0;
    while hog.ask_perhaps(&format!("more {}", 4 * MIB)).is_some() {
        most = most.max(on_node(hog.pid(), node));
        assert!(most < 64 * MIB, "it has the device");
    }
    let kept = numa::watermarks(node).expect("there");
    eprintln!("figure: {page}, never: at most {most} bytes of the hog on the node; {kept:?}");
    // No more than what the kernel keeps of each node, which it gives who finds nothing else; or what isn't the device's.
    assert!(most <= if page == "2M" { all - had } else { kept.kept }, "{most} of {kept:?}");
    drop(filled);
    assert!(rig.events("lend").is_empty() && rig.pool("cxl0", "free") > 0);
    assert_eq!((set_aside(node), at_its_place(rig, "/f", node)), (had, vec!["cxl0".to_owned()]));
    assert!(rig.get("/f") == pattern(8 * MIB, 1));
    rig.sound();
}

#[test]
fn a_hog_under_allow_lives_on_what_it_is_lent_and_a_drain_gets_that_back_when_there_is_room() {
    lives_and_a_drain_gets_it_back("a_hog_under_allow", "thp");
}

#[test]
fn a_hog_lives_on_huge_pages_that_it_is_lent_and_a_drain_gets_them_back_when_there_is_room() {
    lives_and_a_drain_gets_it_back("a_hog_lives_on_huge_pages", "2M");
}

fn lives_and_a_drain_gets_it_back(test: &str, page: &str) {
    let _alone = alone();
    let Some(reserved) = reserved(test, page, ",emergency=allow,at_most=50%,when=free:96MiB") else { return };
    let Reserved { rig, node, .. } = &reserved;
    let node = *node;
    rig.put("/f", &pattern(8 * MIB, 1), &["--on", "cxl0"]).ok();
    let (at_most, had) = (bytes(&emergency(rig, "cxl0")["at_most"]), set_aside(node));
    let _off = WithoutSwap::new();
    let _room = RoomForTheKernel::new();
    let filled = fill_others(rig, node, 256 * MIB);
    let mut hog = Client::start(rig, "eat", &["4096"]);
    // More than there is elsewhere.
    let (mut wanted, mut has) = (0, 0);
    while has < 32 * MIB {
        assert_eq!(hog.ask(&format!("more {}", 4 * MIB)), "done", "it lives");
        wanted += 4 * MIB;
        has = on_node(hog.pid(), node);
        assert!(wanted < 1 << 30, "{has}: it finds that elsewhere");
    }
    let used = emergency(rig, "cxl0");
    eprintln!("figure: {page}, allow: {has} bytes of the hog on the node; {used}");
    assert!(
        has >= 32 * MIB && bytes(&used["lent"]) >= has / 2 && bytes(&used["lent"]) <= at_most,
        "{has}: {used}"
    );
    assert!(
        rig.events("lend")[0].contains("to the rest of the system, whose memory is short (free:"),
        "{:?}",
        rig.events("lend")
    );
    assert!(rig.ok(&["status"]).text().contains("lent to the rest of the system"));
    // Lent frames are nobody's, and so are they after a crash.
    let whole = || {
        let pool = rig.row(&["device", "show", "cxl0"]);
        let parts = [&pool["free"], &pool["emergency"]["lent"], &pool["used"]].map(bytes);
        assert_eq!(parts.iter().sum::<u64>(), bytes(&pool["bytes"]), "{pool}");
    };
    whole();
    reserved.restart();
    whole();
    rig.put("/g", &pattern(MIB, 3), &["--on", "cxl0"]).ok();
    assert_eq!(at_its_place(rig, "/f", node), ["cxl0"]);
    assert!(rig.get("/f") == pattern(8 * MIB, 1));
    // With room elsewhere a drain has others' pages moved there, under who has them.
    drop(filled);
    rig.ok(&["device", "drain", "cxl0", "--wait", &setting::seconds(30)]);
    assert_eq!((bytes(&emergency(rig, "cxl0")["lent"]), set_aside(node)), (0, had));
    assert_eq!(hog.number("all"), wanted + 4096);
    // What isn't the device's of the node anybody may have.
    let left = if page == "2M" { 32 * MIB } else { 4 * MIB };
    assert!(on_node(hog.pid(), node) < left, "{} bytes", on_node(hog.pid(), node));
    assert_eq!(at_its_place(rig, "/f", node), ["dram"]);
    rig.ok(&["device", "online", "cxl0"]);
    assert!(rig.get("/f") == pattern(8 * MIB, 1));
    hog.end();
    rig.sound();
    reserved.purge();
}

#[test]
fn what_was_lent_comes_back_by_itself_and_a_drain_without_room_is_refused() {
    comes_back_by_itself("what_was_lent_comes_back_by_itself", "thp");
}

#[test]
fn huge_pages_that_were_lent_come_back_by_themselves_and_a_drain_without_room_is_refused() {
    comes_back_by_itself("huge_pages_that_were_lent_come_back", "2M");
}

fn comes_back_by_itself(test: &str, page: &str) {
    let _alone = alone();
    let Some(reserved) = reserved(test, page, ",emergency=allow,at_most=50%,when=free:96MiB") else { return };
    let Reserved { rig, node, .. } = &reserved;
    let node = *node;
    rig.put("/on", &pattern(80 * MIB, 1), &["--on", "cxl0"]).ok();
    let (free, had) = (rig.pool("cxl0", "free"), set_aside(node));
    let off = WithoutSwap::new();
    let room = RoomForTheKernel::new();
    let filled = fill_others(rig, node, 192 * MIB);
    let mut hog = Client::start(rig, "eat", &["4096"]);
    for _ in 0..36 {
        assert_eq!(hog.ask(&format!("more {}", 4 * MIB)), "done", "it lives");
    }
    reserved.restart();
    // What is lent of it is in use, and if that can be moved elsewhere, its files can't.
    let refused = rig.run(&["device", "drain", "cxl0"]);
    assert!([4, 5].contains(&refused.code), "{refused}");
    assert_eq!(
        (rig.state("cxl0").as_str(), at_its_place(rig, "/on", node)),
        ("online", vec!["cxl0".to_owned()])
    );
    hog.end();
    drop(filled);
    drop(room);
    until("all is back, and memory isn't short any more", || {
        let now = emergency(rig, "cxl0");
        (bytes(&now["lent"]) == 0 && now["pressed"] == false).then_some(())
    });
    let said = rig.events("return");
    assert!(said.last().is_some_and(|said| said.contains("nothing is lent any more")), "{said:?}");
    assert_eq!((rig.pool("cxl0", "free"), set_aside(node)), (free, had));
    // More than dram has.
    rig.run(&["device", "drain", "cxl0"]).fails(4, &["have no place elsewhere", "/on"]);
    assert_eq!(at_its_place(rig, "/on", node), ["cxl0"]);
    assert!(rig.get("/on") == pattern(80 * MIB, 1));
    drop(off);
    rig.sound();
    reserved.purge();
}

#[test]
fn pages_of_a_gibibyte_are_lent_and_come_back() {
    const NAME: &str = "pages_of_a_gibibyte_are_lent";
    let _alone = alone();
    let Some(reserved) = reserved(NAME, "1G", ",emergency=allow,when=free:96MiB") else { return };
    let Reserved { rig, node, .. } = &reserved;
    let node = *node;
    let off = WithoutSwap::new();
    let room = RoomForTheKernel::new();
    let mut filled = fill_others(rig, node, 192 * MIB);
    filled.push(Filled::but(rig, node, 160 * MIB));
    let mut hog = Client::start(rig, "eat", &["4096"]);
    for _ in 0..48 {
        assert_eq!(hog.ask(&format!("more {}", 4 * MIB)), "done", "it lives");
    }
    let used = emergency(rig, "cxl0");
    assert_eq!((bytes(&used["lent"]), set_aside(node), rig.pool("cxl0", "free")), (1 << 30, 0, 0), "{used}");
    reserved.restart();
    rig.put("/f", b"x", &["--on", "cxl0"]).fails(4, &["1 GiB of cxl0 are lent"]);
    hog.end();
    drop((filled, room));
    until("it is back for good", || {
        let now = emergency(rig, "cxl0");
        (now["pressed"] == false && bytes(&now["lent"]) == 0).then_some(())
    });
    assert_eq!((set_aside(node), rig.pool("cxl0", "free")), (1 << 30, 1 << 30));
    rig.put("/f", b"x", &["--on", "cxl0"]).ok();
    assert_eq!(at_its_place(rig, "/f", node), ["cxl0"]);
    drop(off);
    rig.sound();
    reserved.purge();
}

#[test]
fn the_kernel_s_word_of_pressure_is_followed_by_a_loan_within_a_second() {
    const NAME: &str = "the_kernel_s_word_of_pressure";
    let _alone = alone();
    let (stall, window) = (Duration::from_millis(20), Duration::from_millis(500));
    let allow = ",emergency=allow,at_most=50%,when=some:20ms/500ms";
    let Some(Reserved { rig, node, .. }) = reserved(NAME, "thp", allow) else { return };
    if emergency(&rig, "cxl0")["unmeasured"] != Value::Null {
        return skipped(NAME, "wants a kernel that tells of memory pressure");
    }
    // The same that the daemon waits for.
    let trigger = Trigger::new(Path::new(psi::MACHINE), false, stall, window).expect("root may");
    let _filled = fill_others(&rig, node, 64 * MIB);
    let before = numa::watermarks(node).expect("there").free;
    let mut hog = Client::start(&rig, "eat", &["4096"]);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let eats = scope.spawn(|| {
            let mut lives = true;
            while lives && !ended.load(Ordering::Relaxed) {
                lives = hog.ask_perhaps(&format!("more {}", 2 * MIB)).is_some();
            }
        });
        until("processes wait", || {
            psi::wait(&[&trigger], Duration::from_millis(500)).expect("it is there")[0].then_some(())
        });
        let (told, told_at) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).expect("now"));
        let first = until("the first loan", || {
            // To ask the daemon takes its time, and holds it up; and what is lent may be taken before anybody looks.
            let free = numa::watermarks(node).expect("there").free;
            if free <= before + 4 * MIB && told.elapsed() < Duration::from_secs(1) {
                return None;
            }
            let events = rig.rows(&["events"]);
            let at = |what: &str| {
                let event = events.iter().find(|event| event["what"] == what)?;
                Some(Duration::from_nanos(event["time_ns"].as_u64().expect("after 1970")))
            };
            // The daemon may have heard it before us.
            Some(at("lend")?.saturating_sub(told_at.min(at("pressure")?)))
        });
        ended.store(true, Ordering::Relaxed);
        eats.join().expect("it ran");
        eprintln!("figure: pressure: {} ms from the kernel's word to the first page lent", first.as_millis());
        assert!(first < slowed(Duration::from_secs(1)), "{first:?}");
    });
    rig.sound();
}

/// Memory of others on a node that is the device `cxl0`, as `doctor` has it.
fn of_others(rig: &Rig, node: u32) -> u64 {
    let row = of_device(rig, node);
    ["page_cache", "shared", "anonymous", "huge"].iter().map(|kind| bytes(&row["node"][kind])).sum()
}

/// Has a program allocate and let go so many times where all nodes but the device's have too little for what it has at once; how much more others have of that
/// node then, while it has it.
fn churned(rig: &Rig, node: u32, (mode, rounds): (&str, u64)) -> u64 {
    let others = nodes().into_iter().map(|other| other.node).filter(|other| *other != node);
    let marks = |node: u32| numa::watermarks(node).expect("there");
    // Below the low mark the next node's turn comes; above the lowest one nobody is ended.
    let left = others.map(marks).map(|m| m.free.saturating_sub(m.low.midpoint(m.min)));
    let has: u64 = left.sum();
    let before = of_others(rig, node);
    let mut churn = Client::start(rig, "churn", &[&rounds.to_string(), &has.to_string()]);
    let begun = Instant::now();
    assert_eq!(churn.number("go"), rounds);
    let took = begun.elapsed();
    let now = of_others(rig, node);
    let itself = on_node(churn.pid(), node);
    eprintln!(
        "figure: churn: {mode}: {rounds} allocations in {} ms, {has} bytes at once: others have {now} bytes of the node, {before} before; the program {itself}; {:?}",
        took.as_millis(),
        marks(node)
    );
    churn.end();
    now.saturating_sub(before).max(itself)
}

#[test]
fn a_churn_of_allocations_leaves_nothing_on_an_exclusive_node() {
    const NAME: &str = "a_churn_of_allocations";
    let _alone = alone();
    let Some(reserved) = reserved(NAME, "thp", ",emergency=never") else { return };
    let node = reserved.node;
    let _off = WithoutSwap::new();
    let _room = RoomForTheKernel::new();
    // For both: that takes the longest.
    let aside = Plan::new().without_devices().place();
    let _filled = fill_others(&aside, node, 96 * MIB);
    let left = churned(&reserved.rig, node, ("reserve", 1_000_000));
    assert_eq!(left, 0);
    reserved.purge();
    // Who isn't kept off comes, and soon.
    let rig = Plan::new().dram("64MiB").device_as(&format!("cxl0=numa:{node},exclusive=none")).up();
    let left = churned(&rig, node, ("none", 50_000));
    assert!(left > 4 * MIB, "{left} bytes: the test has others go nowhere near the node");
    rig.sound();
}
