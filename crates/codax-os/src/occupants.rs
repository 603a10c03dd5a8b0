//! Who has memory of a NUMA node: processes by `/proc/PID/numa_maps` (numa(7)), the rest by the node's `meminfo`.
#![forbid(unsafe_code)]

use crate::process;
use crate::topology::{self, HugePool};
use crate::util::{field_kib, invalid};
use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::path::Path;

/// What is on a node, in bytes. Pages that several processes share count for each of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Occupants {
    /// Memory of the node in all.
    pub total: u64,
    /// What is free.
    pub free: u64,
    /// Files that are cached, tmpfs and shared memory not counted.
    pub page_cache: u64,
    /// tmpfs and shared memory.
    pub shared: u64,
    /// Processes' own memory.
    pub anonymous: u64,
    /// Huge pages that were set aside (hugetlb), in use or not.
    pub huge: u64,
    /// Those of them that nobody uses.
    pub huge_free: u64,
    /// What is left: the kernel's own, which nobody can move.
    pub kernel: u64,
    /// What of that is slab: the kernel's small objects.
    pub slab: u64,
    /// What of the slab goes when the kernel is asked to drop its caches (names, inodes).
    pub slab_reclaimable: u64,
    /// Processes that map some of it, the largest first, as far as this one may see them.
    pub processes: Vec<Occupant>,
    /// Processes that this one may not look into.
    pub unseen: u64,
}

/// A process that maps memory of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub command: String,
    /// Bytes of the node that it maps.
    pub bytes: u64,
    /// What of that is in huge pages that were set aside.
    pub huge: u64,
    /// Bytes that it has pinned for devices, on whichever node: these nobody moves.
    pub pinned: u64,
}

/// Filesystems whose files are not looked for, by their device numbers.
pub type Filesystems = HashSet<u64>;

/// Bytes of tmpfs files and shared memory that lie on a node. `NotFound` if there is none of that number online.
pub fn shared_on(node: u32) -> io::Result<u64> {
    meminfo(node).map(|found| found.shared)
}

/// Looks at a node; what processes map of these filesystems is not counted as theirs. `NotFound` if there is none of that number online.
pub fn on(node: u32, but: &Filesystems) -> io::Result<Occupants> {
    let mut found = meminfo(node)?;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let numa_maps = match std::fs::read_to_string(entry.path().join("numa_maps")) {
            Ok(text) => text,
            Err(e) => {
                // Others have ended.
                found.unseen += u64::from(e.kind() == io::ErrorKind::PermissionDenied);
                continue;
            }
        };
        let areas = areas(&numa_maps, node);
        if areas.is_empty() {
            continue;
        }
        let files = if but.is_empty() { HashSet::new() } else { areas_of(pid, but) };
        let theirs = || areas.iter().filter(|area| !files.contains(&area.start));
        let sum = |huge: bool| theirs().filter(|area| area.huge || !huge).map(|area| area.bytes).sum();
        let (bytes, huge) = (sum(false), sum(true));
        if bytes > 0 {
            let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let pinned = field_kib(&status, "VmPin").unwrap_or(0);
            found.processes.push(Occupant { pid, command: process::command(pid), bytes, huge, pinned });
        }
    }
    found.processes.sort_by_key(|process| std::cmp::Reverse((process.bytes, process.pid)));
    Ok(found)
}

fn meminfo(node: u32) -> io::Result<Occupants> {
    let text = std::fs::read_to_string(format!("/sys/devices/system/node/node{node}/meminfo"))?;
    let huge = topology::huge_pages(Path::new(topology::SYSFS), node);
    of_meminfo(&text, &huge).ok_or_else(|| invalid(format!("meminfo of node {node} says nothing")))
}

/// Lines are `Node 1 MemTotal:  1048576 kB`.
fn of_meminfo(text: &str, huge: &[HugePool]) -> Option<Occupants> {
    let value = |key: &str| -> Option<u64> {
        let mut words = text.lines().find(|line| line.contains(key))?.split_whitespace().skip(3);
        words.next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let (total, free) = (value(" MemTotal:")?, value(" MemFree:")?);
    let (files, shared, anonymous) =
        (value(" FilePages:")?, value(" Shmem:").unwrap_or(0), value(" AnonPages:")?);
    let pages = |count: fn(&HugePool) -> u64| huge.iter().map(|pool| count(pool) * pool.page_bytes).sum();
    let (huge, huge_free): (u64, u64) = (pages(|pool| pool.total), pages(|pool| pool.free));
    Some(Occupants {
        total,
        free,
        page_cache: files.saturating_sub(shared),
        shared,
        anonymous,
        huge,
        huge_free,
        kernel: total.saturating_sub(free + files + anonymous + huge),
        slab: value(" Slab:").unwrap_or(0),
        slab_reclaimable: value(" SReclaimable:").unwrap_or(0),
        processes: Vec::new(),
        unseen: 0,
    })
}

/// A part of a process's addresses with memory on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Area {
    start: u64,
    bytes: u64,
    /// Whether it is in huge pages that were set aside.
    huge: bool,
}

/// Those of lines like `7f00 prefer:1 file=/x anon=3 N0=1 N1=2 kernelpagesize_kB=4`.
fn areas(maps: &str, node: u32) -> Vec<Area> {
    let key = format!("N{node}=");
    let line = |line: &str| {
        let word = |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key));
        let pages: u64 = word(&key)?.parse().ok()?;
        let size: u64 = word("kernelpagesize_kB=").and_then(|kb| kb.parse().ok()).unwrap_or(4);
        let start = u64::from_str_radix(line.split_whitespace().next()?, 16).ok()?;
        let huge = line.split_whitespace().any(|word| word == "huge");
        Some(Area { start, bytes: pages.checked_mul(size)?.checked_mul(1024)?, huge })
    };
    maps.lines().filter_map(line).collect()
}

/// Where a process maps files of these filesystems.
fn areas_of(pid: u32, filesystems: &Filesystems) -> HashSet<u64> {
    let all = process::areas(pid).unwrap_or_default().into_iter();
    all.filter(|(_, device)| filesystems.contains(device)).map(|(range, _)| range.start).collect()
}

/// Where a process has memory of a node that is in no file of these filesystems.
pub(crate) fn areas_on(pid: u32, node: u32, but: &Filesystems) -> io::Result<Vec<Range<u64>>> {
    let numa_maps = std::fs::read_to_string(format!("/proc/{pid}/numa_maps"))?;
    let here: HashSet<u64> = areas(&numa_maps, node).into_iter().map(|area| area.start).collect();
    let all = process::areas(pid)?.into_iter();
    let theirs = all.filter(|(range, device)| here.contains(&range.start) && !but.contains(device));
    Ok(theirs.map(|(range, _)| range).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_tables_are_read() {
        let text = "Node 1 MemTotal:        1024 kB\nNode 1 MemFree:  512 kB\nNode 1 MemUsed: 512 kB\n\
                    Node 1 FilePages:  200 kB\nNode 1 AnonPages: 100 kB\nNode 1 Shmem:   50 kB\n";
        let found = of_meminfo(text, &[]).expect("whole");
        assert_eq!((found.total, found.free, found.page_cache), (1 << 20, 1 << 19, 150 << 10));
        assert_eq!((found.shared, found.anonymous, found.kernel), (50 << 10, 100 << 10, 212 << 10));
        let pool = HugePool { page_bytes: 64 << 10, total: 3, free: 1, ..HugePool::default() };
        let found = of_meminfo(text, &[pool]).expect("whole");
        assert_eq!((found.huge, found.huge_free, found.kernel), (192 << 10, 64 << 10, 20 << 10));
        assert!(of_meminfo("Node 1 MemTotal: some kB\n", &[]).is_none());
        let maps = "7f00 default file=/a N1=3 mapped=3 N0=1 kernelpagesize_kB=4\n7f01 prefer:1 huge anon=2 N1=2 kernelpagesize_kB=2048\n\
                    7f02 default N11=7\n7f03 default file=/N1=9\\040x\n";
        let area = |start, bytes, huge| Area { start, bytes, huge };
        assert_eq!(areas(maps, 1), [area(0x7f00, 3 << 12, false), area(0x7f01, 2 << 21, true)]);
        assert_eq!(areas(maps, 0), [area(0x7f00, 1 << 12, false)]);
    }

    #[test]
    fn files_of_some_filesystems_are_nobody_s() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("room");
        let path = dir.path().join("file");
        std::fs::write(&path, [1; 4096]).expect("room");
        let file = std::fs::File::open(&path).expect("there");
        let mapped = crate::area::Area::object(&file, 0, 4096, false).expect("mapped");
        let device = rustix::fs::stat(&path).expect("there").st_dev;
        let found = areas_of(std::process::id(), &Filesystems::from([device]));
        assert!(found.contains(&crate::util::to_u64(mapped.base())));
        // Memory of no file is of device 0.
        assert!(areas_of(std::process::id(), &Filesystems::from([u64::MAX])).is_empty());
    }
}
