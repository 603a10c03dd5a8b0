//! `codax doctor`: what this machine can do for a store, what follows, and what mends it. Asks the kernel, and a daemon only which devices it has.

mod kept;
mod nodes;
mod numa;
mod served;

use super::occupants::NodeRow;
use super::{Context, info};
use crate::args::DoctorArgs;
use crate::output::text::printable;
use anyhow::Result;
use codax_core::Error;
use codax_core::units::format_size;
use codax_os::cgroup::Limit;
use codax_os::probe::{self, Facts};
use serde::Serialize;
use std::borrow::Cow;
use std::path::Path;

/// The first kernel with all that live moves, unswappable pools and the look at what an object has (cachestat(2)) need.
const KERNEL_MIN: (u32, u32) = (6, 5);

/// Mappings a process may have on an ordinary machine.
const MAP_COUNT_ENOUGH: u64 = 65_530;

/// `codax doctor`.
pub fn run(context: &Context, args: &DoctorArgs) -> Result<()> {
    if !args.files.is_empty() {
        let rows = args.files.iter().map(|file| served::look(file)).collect::<Result<Vec<_>>>()?;
        return context.print(&rows, || rows.iter().map(text).collect());
    }
    let daemon = daemon(&context.dir);
    let facts = probe::facts(daemon);
    let mut rows = diagnose(&facts, &place(&context.dir));
    rows.extend(numa::rows(&facts));
    let store = daemon.map(|_| context.store().and_then(|store| info(&store)));
    if let Some(Err(e)) = &store {
        let follows = "which devices it has is not known";
        rows.push(Row::bad(Level::Limited, "daemon", format!("{e:#}"), follows, "codax status"));
    }
    if daemon.is_none() {
        rows.extend(kept::rows(&context.dir));
    }
    rows.extend(nodes::rows(&context.dir, store.and_then(Result::ok).as_ref(), &facts.numa.far));
    context.print(&rows, || rows.iter().map(text).collect())?;
    let missing: Vec<_> =
        rows.iter().filter(|row| row.level == Level::Missing).map(|row| &*row.fact).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::internal(format!("not everything is as it should be: see {}", missing.join(", "))).into())
}

/// The daemon of the store, if one runs and this user may know. It isn't asked.
fn daemon(dir: &Path) -> Option<u32> {
    let pid = codax_os::lockfile::holder(&dir.join("lock"))?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim_end() == "codax").then_some(pid)
}

/// How well a fact serves a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// Works, with less.
    Limited,
    /// Something essential is not there.
    Missing,
}

/// A fact, as JSON has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Row {
    fact: Cow<'static, str>,
    value: String,
    level: Level,
    /// What follows for a store.
    follows: String,
    /// The setting that mends it; null where nothing is to mend.
    mend: Option<String>,
    /// What is on a node; null for other facts.
    node: Option<NodeRow>,
    /// The same for people.
    #[serde(skip)]
    details: Vec<String>,
}

impl Row {
    fn ok(fact: impl Into<Cow<'static, str>>, value: impl Into<String>, follows: impl Into<String>) -> Self {
        Self::new(Level::Ok, fact.into(), value.into(), follows.into(), None)
    }

    fn bad(
        level: Level,
        fact: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
        follows: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self::new(level, fact.into(), value.into(), follows.into(), Some(mend.into()))
    }

    const fn new(
        level: Level,
        fact: Cow<'static, str>,
        value: String,
        follows: String,
        mend: Option<String>,
    ) -> Self {
        Self { fact, value, level, follows, mend, node: None, details: Vec::new() }
    }
}

fn text(row: &Row) -> String {
    let level = match row.level {
        Level::Ok => "ok",
        Level::Limited => "limited",
        Level::Missing => "MISSING",
    };
    let mut out = format!("{level:7}  {:18}  {}\n", row.fact, printable(&row.value));
    let indent = " ".repeat(29);
    out += &format!("{indent}{}\n", printable(&row.follows));
    if let Some(mend) = &row.mend {
        out += &format!("{indent}to mend it: {}\n", printable(mend));
    }
    for line in &row.details {
        out += &format!("{indent}{}\n", printable(line));
    }
    out
}

/// Where the store is or would be.
#[derive(Clone, Debug)]
struct Place {
    dir: String,
    tmpfs: bool,
}

/// Looks at the directory, or the nearest one above it that is there.
fn place(dir: &Path) -> Place {
    let there = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    Place { dir: dir.display().to_string(), tmpfs: codax_os::mounts::is_tmpfs(there).unwrap_or(false) }
}

fn diagnose(facts: &Facts, place: &Place) -> Vec<Row> {
    vec![
        kernel(facts),
        userfaultfd(facts),
        kernel_faults(facts),
        leases(facts),
        thread_states(facts),
        mounts(facts, place),
        huge_pages(facts),
        swap(facts),
        map_count(facts),
        fuse(facts),
        memory(facts),
        memory_limit(facts),
    ]
}

fn version(facts: &Facts) -> Option<(u32, u32)> {
    let mut numbers = facts.kernel.split(['.', '-']).map(|part| part.parse::<u32>().ok());
    numbers.next().flatten().zip(numbers.next().flatten())
}

fn kernel(facts: &Facts) -> Row {
    let (major, minor) = KERNEL_MIN;
    if version(facts).is_some_and(|version| version >= KERNEL_MIN) {
        return Row::ok("kernel", &facts.kernel, format!("{major}.{minor} or newer, as live moves want it"));
    }
    let follows = "live moves and unswappable pools may not work";
    Row::bad(Level::Limited, "kernel", &facts.kernel, follows, format!("Linux {major}.{minor} or newer"))
}

fn userfaultfd(facts: &Facts) -> Row {
    let uffd = &facts.userfaultfd;
    let bad = |value: String, mend| {
        let follows =
            "files can't be moved while they are mapped, and a device can't be drained under programs";
        Row::bad(Level::Missing, "userfaultfd", value, follows, mend)
    };
    if !uffd.any {
        let mend =
            "a kernel with CONFIG_USERFAULTFD, and in a container a seccomp profile that allows userfaultfd";
        return bad("not to be had".to_owned(), mend);
    }
    if !uffd.missing_features.is_empty() {
        return bad(format!("without {}", uffd.missing_features.join(", ")), "a newer kernel");
    }
    Row::ok("userfaultfd", "with all features", "files can be moved while they are mapped")
}

fn kernel_faults(facts: &Facts) -> Row {
    let uffd = &facts.userfaultfd;
    let follows = "system calls into memory that is being moved wait as loads and stores do";
    let how = if uffd.device {
        "through /dev/userfaultfd, which the daemon hands to clients"
    } else if uffd.unprivileged == Some(true) {
        "for everybody (vm.unprivileged_userfaultfd=1)"
    } else if uffd.kernel_faults {
        "for privileged programs"
    } else {
        return Row::bad(
            Level::Limited,
            "kernel-mode faults",
            "not to be had",
            "a mapped file is moved only if its program accepts that a system call into a chunk that moves fails with EFAULT",
            "run the daemon as root, or let this user open /dev/userfaultfd (setfacl -m u:USER:rw /dev/userfaultfd), \
             or sysctl vm.unprivileged_userfaultfd=1",
        );
    };
    Row::ok("kernel-mode faults", how, follows)
}

fn leases(facts: &Facts) -> Row {
    if facts.leases {
        return Row::ok(
            "leases",
            "granted",
            "that nobody holds a file's old frames can be proved before they are given back",
        );
    }
    let follows = "old frames can't be given back after a move, since nothing proves that nobody holds them";
    Row::bad(Level::Missing, "leases", "switched off", follows, "sysctl fs.leases-enable=1")
}

fn thread_states(facts: &Facts) -> Row {
    let fact = "thread states";
    if facts.thread_states {
        return Row::ok(
            fact,
            "readable",
            "threads that sleep on a futex in moved memory are found and woken",
        );
    }
    let follows = "threads that sleep on a futex in memory that is moved may not be woken";
    let mend =
        "make /proc/self/task/*/syscall readable: a kernel with CONFIG_HAVE_ARCH_TRACEHOOK, /proc not masked";
    Row::bad(Level::Limited, fact, "not readable", follows, mend)
}

fn mounts(facts: &Facts, place: &Place) -> Row {
    let dir = &place.dir;
    if facts.can_mount {
        let follows = "each pool is a tmpfs mount of its own, with its size enforced by the kernel";
        return Row::ok("mounts", "allowed", follows);
    }
    if place.tmpfs {
        let follows = format!("the pools share the tmpfs of {dir}; the daemon alone keeps their sizes");
        return Row::bad(Level::Limited, "mounts", "not allowed", follows, "run the daemon as root");
    }
    let follows = format!("a store in {dir} is refused: it is not on tmpfs, and none can be mounted there");
    let mend = "--store in a directory on tmpfs, such as below /dev/shm, or run the daemon as root";
    Row::bad(Level::Missing, "mounts", "not allowed", follows, mend)
}

fn huge_pages(facts: &Facts) -> Row {
    let fact = "huge pages";
    let slower = "files are in 4 KiB pages: moves are about half as fast, and large mappings miss more address translations";
    let setting = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    match facts.shmem_huge.as_deref() {
        None => Row::bad(
            Level::Limited,
            fact,
            "none on tmpfs",
            slower,
            "a kernel with CONFIG_TRANSPARENT_HUGEPAGE",
        ),
        Some("deny") => Row::bad(
            Level::Limited,
            fact,
            "denied",
            slower,
            format!("echo never > {setting} (mounts decide then)"),
        ),
        Some(_) if facts.can_mount => {
            let size = facts
                .huge_page_bytes
                .map_or_else(|| "yes".to_owned(), |bytes| format!("of {}", format_size(bytes)));
            Row::ok(fact, size, "files are in huge pages where they fill them")
        }
        Some("force") => Row::ok(fact, "forced", "even small files take whole huge pages from the machine"),
        Some(_) => {
            let mend = "run the daemon as root, or have the tmpfs mounted with huge=within_size";
            Row::bad(Level::Limited, fact, "as the tmpfs of the store is mounted", slower, mend)
        }
    }
}

fn swap(facts: &Facts) -> Row {
    let fact = "swap";
    let total = facts.swap_total.unwrap_or(0);
    if total == 0 {
        return Row::ok(fact, "none", "what is in a pool stays in memory");
    }
    let value = format!("{} on this machine", format_size(total));
    if facts.can_mount {
        return Row::ok(fact, value, "pools are mounted noswap: what is in them stays in memory");
    }
    match facts.memlock_bytes {
        None => Row::ok(fact, value, "pools are locked in memory"),
        Some(limit) => {
            let follows = format!(
                "pools of together more than {} can't be locked and may be swapped out",
                format_size(limit)
            );
            Row::bad(
                Level::Limited,
                fact,
                value,
                follows,
                "ulimit -l unlimited (LimitMEMLOCK=infinity in a unit)",
            )
        }
    }
}

fn map_count(facts: &Facts) -> Row {
    let fact = "mappings a process";
    let Some(count) = facts.max_map_count else {
        return Row::ok(fact, "unknown", "a move splits a program's mapping into some areas for a while");
    };
    let follows = "a move splits a program's mapping into some areas for a while";
    if count >= MAP_COUNT_ENOUGH {
        return Row::ok(fact, count.to_string(), format!("{follows}; there is room for it"));
    }
    let follows = format!("{follows}; programs with many mappings may be refused moves");
    Row::bad(Level::Limited, fact, count.to_string(), follows, "sysctl vm.max_map_count=262144")
}

/// The first kernel that serves FUSE files from other files.
const PASSTHROUGH_MIN: (u32, u32) = (6, 9);

fn fuse(facts: &Facts) -> Row {
    let fact = "mounting the store";
    let limited =
        |value: &str, follows: &str, mend: &str| Row::bad(Level::Limited, fact, value, follows, mend);
    let daemon =
        "files are served by the daemon through the page cache: no mapping is the device memory itself";
    match (facts.can_mount, facts.fuse, facts.fuse_helper) {
        (true, true, _) if version(facts).is_some_and(|version| version >= PASSTHROUGH_MIN) => {
            let follows = "files that lie in one object are served by the kernel: a mapping is the device memory itself; \
                           others by the daemon, without a cache (shared mappings of them are refused)";
            Row::ok(fact, "with passthrough", follows)
        }
        (true, true, _) => {
            let (major, minor) = PASSTHROUGH_MIN;
            limited("without passthrough", daemon, &format!("Linux {major}.{minor} or newer"))
        }
        (true, false, _) => {
            let mend = "modprobe fuse; in a container, allow it the device /dev/fuse";
            limited("no /dev/fuse", "the store can't be mounted; the library and the commands work", mend)
        }
        (false, false, true) => limited(
            "/dev/fuse can't be opened",
            "the store can't be mounted; the library and the commands work",
            "let this user open it (chmod 666 /dev/fuse), or run the daemon as root",
        ),
        (false, true, true) => limited("through fusermount3", daemon, "run the daemon as root"),
        (false, _, false) => limited(
            "not allowed",
            "the store can't be mounted; the library and the commands work",
            "install fusermount3 (package fuse3), or run the daemon as root",
        ),
    }
}

fn memory(facts: &Facts) -> Row {
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), format_size);
    let value = format!("{} of {} available", size(facts.memory_available), size(facts.memory_total));
    Row::ok("memory", value, "pools, emulated ones too, take it as they are filled")
}

fn memory_limit(facts: &Facts) -> Row {
    let fact = "memory cgroup";
    let left = |limit: &Limit| {
        let (left, all) = (format_size(limit.left()), format_size(limit.bytes));
        format!("{left} left of {all} ({})", limit.cgroup)
    };
    let mend = |limit: &Limit| {
        format!(
            "echo BYTES > {} (of a unit: systemctl set-property UNIT MemoryMax=SIZE MemoryHigh=SIZE), or have smaller pools",
            limit.file.display()
        )
    };
    match (&facts.memory_limit, &facts.memory_soft_limit) {
        (Some(limit), _) => {
            let follows = "the daemon's cgroup is charged for what the library and the commands place and move, and a move for both copies: \
                           what would go over is refused with \"no space\"";
            Row::bad(Level::Limited, fact, left(limit), follows, mend(limit))
        }
        (None, Some(soft)) => {
            let follows = "the daemon's cgroup is charged for what the library and the commands place and move: beyond this the kernel slows it down";
            Row::bad(Level::Limited, fact, left(soft), follows, mend(soft))
        }
        (None, None) => Row::ok(
            fact,
            "no limit",
            "what is placed and moved is charged to the daemon's cgroup, which has none",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_os::probe::UserfaultfdFacts;

    pub fn good() -> Facts {
        Facts {
            kernel: "6.18.5-arch1".to_owned(),
            uid: 0,
            userfaultfd: UserfaultfdFacts {
                device: true,
                kernel_faults: true,
                any: true,
                unprivileged: Some(false),
                missing_features: vec![],
            },
            shmem_huge: Some("never".to_owned()),
            huge_page_bytes: Some(2 << 20),
            can_mount: true,
            leases: true,
            max_map_count: Some(65_530),
            memlock_bytes: None,
            memory_total: Some(1 << 34),
            memory_available: Some(1 << 33),
            swap_total: Some(1 << 30),
            fuse: true,
            fuse_helper: true,
            memory_limit: None,
            memory_soft_limit: None,
            cgroups: Some(codax_os::cgroup::Version::V2),
            cgroup_pressure: true,
            numa: codax_os::probe::NumaFacts::default(),
            pressure: true,
            lacking: vec![],
            thread_states: true,
        }
    }

    fn levels(facts: &Facts, tmpfs: bool) -> Vec<(String, Level)> {
        let rows = diagnose(facts, &Place { dir: "/s".to_owned(), tmpfs });
        for row in &rows {
            assert_eq!(row.mend.is_none(), row.level == Level::Ok, "{row:?}");
        }
        rows.iter()
            .filter(|row| row.level != Level::Ok)
            .map(|row| (row.fact.to_string(), row.level))
            .collect()
    }

    fn named<const N: usize>(rows: [(&str, Level); N]) -> [(String, Level); N] {
        rows.map(|(fact, level)| (fact.to_owned(), level))
    }

    #[test]
    fn a_good_machine_has_nothing_to_mend() {
        assert_eq!(levels(&good(), false), []);
    }

    #[test]
    fn an_ordinary_user_has_less() {
        let mut facts = Facts { can_mount: false, memlock_bytes: Some(8 << 20), uid: 1000, ..good() };
        facts.userfaultfd.device = false;
        facts.userfaultfd.kernel_faults = false;
        let limited = ["kernel-mode faults", "mounts", "huge pages", "swap", "mounting the store"]
            .map(|fact| (fact, Level::Limited));
        assert_eq!(levels(&facts, true), named(limited));
        assert!(levels(&facts, false).contains(&("mounts".to_owned(), Level::Missing)));
        facts.fuse = false;
        assert_eq!(fuse(&facts).value, "/dev/fuse can't be opened");
    }

    #[test]
    fn a_limit_of_memory_is_said_with_its_file() {
        let limit = Limit {
            cgroup: "/a".into(),
            file: "/cg/a/memory.max".into(),
            bytes: 8 << 20,
            used: 3 << 20,
            cache: 1 << 20,
        };
        let facts =
            Facts { memory_limit: Some(limit.clone()), memory_soft_limit: Some(limit.clone()), ..good() };
        assert_eq!(levels(&facts, true), named([("memory cgroup", Level::Limited)]));
        let row = memory_limit(&facts);
        assert_eq!(row.value, "6 MiB left of 8 MiB (/a)");
        assert!(row.mend.is_some_and(|mend| mend.contains("/cg/a/memory.max")));
        let soft = Facts { memory_soft_limit: Some(limit), ..good() };
        assert!(memory_limit(&soft).follows.contains("slows it down"));
    }

    #[test]
    fn what_is_essential_is_missing() {
        let mut facts = Facts { leases: false, kernel: "5.10.0".to_owned(), ..good() };
        facts.userfaultfd.missing_features = vec!["WP_HUGETLBFS_SHMEM"];
        let found = levels(&facts, true);
        let wanted = [
            ("kernel", Level::Limited),
            ("userfaultfd", Level::Missing),
            ("leases", Level::Missing),
            ("mounting the store", Level::Limited),
        ];
        assert_eq!(found, named(wanted));
    }
}
