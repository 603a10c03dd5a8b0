//! Memory cgroups: a daemon below a limit, and who is charged for what.

use crate::client::{Client, check_counted, counted};
use crate::exclusive::with_dram;
use crate::mount::mounted;
use crate::numa::far;
use crate::rig::{MIB, Plan, Rig, pattern, root, skipped, until};
use crate::setting;
use codax_os::cgroup::MemoryCgroups;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A memory cgroup of the test's own, below one that it is in; it goes with the test. Who is in it must have ended by then.
pub struct Cgroup {
    pub dir: PathBuf,
}

impl Cgroup {
    /// With a limit, or none; `None` where no cgroup can be had.
    pub fn new(test: &str, limit: Option<u64>) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let Some(parent) = parent().filter(|_| root()) else {
            skipped(test, "wants root, and a memory cgroup in which others can be made");
            return None;
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let cgroup = Self { dir: parent.join(format!("codax-e2e-{}-{number}", std::process::id())) };
        if let Err(e) = fs::create_dir(&cgroup.dir) {
            skipped(test, &format!("{}: {e}", cgroup.dir.display()));
            return None;
        }
        if let Some(limit) = limit {
            let name = if is_first(&cgroup.dir) { "memory.limit_in_bytes" } else { "memory.max" };
            fs::write(cgroup.dir.join(name), limit.to_string()).expect("ours");
        }
        Some(cgroup)
    }

    fn used(&self) -> u64 {
        let name = if is_first(&self.dir) { "memory.usage_in_bytes" } else { "memory.current" };
        let text = fs::read_to_string(self.dir.join(name)).expect("ours");
        text.trim().parse().expect("a number")
    }

    /// Processes that the kernel has ended in it for want of memory.
    pub fn killed(&self) -> String {
        let name = if is_first(&self.dir) { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.dir.join(name)).expect("ours");
        text.lines()
            .find_map(|line| line.strip_prefix("oom_kill "))
            .expect("the kernel counts them")
            .to_owned()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir(&self.dir) {
            eprintln!("{} stays: {e}", self.dir.display());
        }
    }
}

fn is_first(dir: &Path) -> bool {
    dir.join("memory.usage_in_bytes").exists()
}

/// Where a cgroup can be made. In version 2 one that has processes can't have cgroups that share memory out, so it is the next above that does.
fn parent() -> Option<PathBuf> {
    let cgroups = MemoryCgroups::of(None)?;
    let (own, top) = (cgroups.dirs().first()?, cgroups.dirs().last()?);
    if is_first(own) {
        return Some(own.clone());
    }
    if setting::may_change_machine() {
        // Where there is nobody else who would.
        let _ = fs::write(top.join("cgroup.subtree_control"), "+memory");
    }
    let shares = |dir: &&PathBuf| {
        let text = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
        text.split_whitespace().any(|controller| controller == "memory")
    };
    cgroups.dirs().iter().find(shares).cloned()
}

const LIMIT: u64 = 64 * MIB;

/// A store with more room than its daemon may have.
fn limited(cgroup: &Cgroup) -> Rig {
    Plan::new().dram("128MiB").device("128MiB").within(&cgroup.dir).up()
}

#[test]
fn a_daemon_below_a_limit_of_memory_refuses_what_goes_over_it_and_lives() {
    let Some(cgroup) = Cgroup::new("a_daemon_below_a_limit_of_memory", Some(LIMIT)) else { return };
    let rig = limited(&cgroup);
    let says = ["the daemon's memory cgroup", "left of its limit of 67108864"];
    let warned = rig.said();
    assert!(warned.contains("the pools have 256 MiB") && warned.contains("may have 64 MiB"), "{warned}");
    rig.put("/f", &counted(34 * MIB, 1), &[]).ok();
    let file = rig.beside("file");
    fs::write(&file, pattern(40 * MIB, 2)).expect("room");
    let file = file.to_str().expect("text");
    rig.run(&["put", file, "/g"]).fails(4, &says);
    rig.put("/g", &pattern(40 * MIB, 2), &["--on", "sim0"]).fails(4, &says);
    // A move has both copies for a while. It goes as far as there is room, and on from there when it is asked again.
    let mut counter = Client::start(&rig, "count", &["/f", "1", "0"]);
    rig.run(&["move", "/f", "--to", "sim0"]).fails(4, &says);
    rig.ok(&["move", "/f", "--to", "sim0"]);
    let rounds = counter.number("stop");
    counter.end();
    rig.run(&["move", "/f", "--to", "dram"]).fails(4, &says);
    rig.ok(&["move", "/f", "--to", "dram"]);
    assert_eq!(rig.pools_of("/f"), ["dram"]);
    check_counted(&rig.get("/f"), 1, &[rounds]);
    // Two at a time that fit each, and not together.
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let put = |path: &'static str| rig.put(path, &pattern(14 * MIB, 3), &[]).code;
        let both = ["/a", "/b"].map(|path| scope.spawn(move || put(path)));
        both.into_iter().map(|put| put.join().expect("it ran")).collect()
    });
    assert!(codes.contains(&4) && codes.iter().all(|code| [0, 4].contains(code)), "{codes:?}");
    // What is given back can be had again.
    rig.ok(&["rm", "/f"]);
    rig.put("/h", &pattern(20 * MIB, 4), &[]).ok();
    assert_eq!(rig.get("/h"), pattern(20 * MIB, 4));
    rig.sound();
    assert!(rig.alive());
    assert_eq!(cgroup.killed(), "0");
    let rows = rig.rows(&["doctor"]);
    let row = rows.iter().find(|row| row["fact"] == "memory cgroup").expect("a line of its own");
    assert!(
        row["level"] == "limited" && row["value"].as_str().expect("text").contains("left of 64 MiB"),
        "{row}"
    );
}

#[test]
fn who_writes_through_the_kernel_is_charged_and_for_the_rest_the_daemon() {
    const NAME: &str = "who_writes_through_the_kernel_is_charged";
    let Some(daemon) = Cgroup::new(NAME, None) else { return };
    let Some(writer) = Cgroup::new(NAME, None) else { return };
    let Some(store) = mounted(NAME, Plan::new().within(&daemon.dir)) else { return };
    let charged = |work: &dyn Fn()| {
        let before = (daemon.used(), writer.used());
        work();
        let grown = |now: u64, before: u64| now.saturating_sub(before) >= 12 * MIB;
        (grown(daemon.used(), before.0), grown(writer.used(), before.1))
    };
    assert_eq!(charged(&|| drop(store.rig.put("/put", &pattern(16 * MIB, 1), &[]).ok())), (true, false));
    if store.rig.row(&["status"])["mounts"][0]["passthrough"] != true {
        return skipped(NAME, "wants a kernel with passthrough");
    }
    let written = store.at("written");
    let write = || {
        let mut sh = Command::new("sh");
        let script =
            "echo $$ >\"$0/cgroup.procs\" && exec dd if=/dev/zero of=\"$1\" bs=1M count=16 2>/dev/null";
        let status = sh.args(["-c", script]).arg(&writer.dir).arg(&written).status().expect("a shell");
        assert!(status.success(), "{status}");
    };
    assert_eq!(charged(&write), (false, true));
    // The copy is the daemon's.
    assert_eq!(charged(&|| drop(store.rig.ok(&["move", "/written", "--to", "sim0"]))), (true, false));
}

#[test]
fn a_move_by_the_kernel_leaves_the_charge_where_it_is() {
    const NAME: &str = "a_move_by_the_kernel_leaves_the_charge";
    let Some(node) = far().first().copied().filter(|_| root()) else {
        return skipped(NAME, "wants root, and a NUMA node without CPUs");
    };
    let Some(daemon) = Cgroup::new(NAME, None) else { return };
    let plan = Plan::new().device_as(&format!("cxl0=numa:{node},page=4K,reserve=64MiB")).huge("never");
    let rig = plan.within(&daemon.dir).up();
    let before = daemon.used();
    rig.put("/f", &pattern(16 * MIB, 1), &[]).ok();
    let charged = daemon.used();
    assert!(charged - before >= 16 * MIB, "{before}, {charged}");
    for to in ["cxl0", "dram", "cxl0"] {
        rig.ok(&["move", "/f", "--to", to]);
        assert_eq!(rig.pools_of("/f"), [to]);
        let now = daemon.used();
        assert!(now.abs_diff(charged) < 8 * MIB, "{charged}, {now} on {to}");
    }
    rig.sound();
}

#[test]
fn files_get_what_a_reserve_has_of_the_limit() {
    const NAME: &str = "files_get_what_a_reserve_has_of_the_limit";
    let Some(device) = with_dram(NAME) else { return };
    let Some(cgroup) = Cgroup::new(NAME, Some(160 * MIB)) else { return };
    let device = format!("{device},reserve=256MiB");
    let rig = Plan::new().dram("32MiB").device_as(&device).within(&cgroup.dir).up();
    let populated = || rig.row(&["device", "show", "cxl0"])["populated"].as_u64().expect("a reserve");
    let full =
        || until("the reserve has what the limit leaves", || (populated() >= 112 * MIB).then(populated));
    full();
    rig.put("/f", &pattern(64 * MIB, 1), &["--on", "cxl0"]).ok();
    rig.put("/g", &pattern(180 * MIB, 2), &["--on", "cxl0"]).fails(4, &["the daemon's memory cgroup"]);
    assert!(rig.get("/f") == pattern(64 * MIB, 1));
    rig.ok(&["rm", "/f"]);
    full();
    assert_eq!(rig.row(&["device", "show", "cxl0"])["used"], 0);
    rig.sound();
    assert_eq!(cgroup.killed(), "0");
}
