//! Who has memory of a NUMA node: processes by `/proc/PID/numa_maps` (numa(7)), the rest by the node's `meminfo`.
#![forbid(unsafe_code)]

use crate::process;
use crate::util::invalid;
use std::io;

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
    /// What is left: the kernel's own, which nobody can move.
    pub kernel: u64,
    /// Processes that map some of it, the largest first, as far as this one may see them.
    pub processes: Vec<Occupant>,
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
}

/// Bytes of tmpfs files and shared memory that lie on a node. `NotFound` if there is none of that number online.
pub fn shared_on(node: u32) -> io::Result<u64> {
    meminfo(node).map(|found| found.shared)
}

/// Looks at a node. `NotFound` if there is none of that number online.
pub fn on(node: u32) -> io::Result<Occupants> {
    let mut found = meminfo(node)?;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended, or be none of our business.
        let Ok(maps) = std::fs::read_to_string(entry.path().join("numa_maps")) else { continue };
        let bytes = of_numa_maps(&maps, node);
        if bytes > 0 {
            found.processes.push(Occupant { pid, command: process::command(pid), bytes });
        }
    }
    found.processes.sort_by_key(|process| std::cmp::Reverse((process.bytes, process.pid)));
    Ok(found)
}

fn meminfo(node: u32) -> io::Result<Occupants> {
    let text = std::fs::read_to_string(format!("/sys/devices/system/node/node{node}/meminfo"))?;
    of_meminfo(&text).ok_or_else(|| invalid(format!("meminfo of node {node} says nothing")))
}

/// Lines are `Node 1 MemTotal:  1048576 kB`.
fn of_meminfo(text: &str) -> Option<Occupants> {
    let value = |key: &str| -> Option<u64> {
        let mut words = text.lines().find(|line| line.contains(key))?.split_whitespace().skip(3);
        words.next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let (total, free) = (value(" MemTotal:")?, value(" MemFree:")?);
    let (files, shared, anonymous) =
        (value(" FilePages:")?, value(" Shmem:").unwrap_or(0), value(" AnonPages:")?);
    Some(Occupants {
        total,
        free,
        page_cache: files.saturating_sub(shared),
        shared,
        anonymous,
        kernel: total.saturating_sub(free + files + anonymous),
        processes: Vec::new(),
    })
}

/// Bytes on a node, of lines like `7f00 prefer:1 file=/x anon=3 N0=1 N1=2 kernelpagesize_kB=4`.
fn of_numa_maps(maps: &str, node: u32) -> u64 {
    let key = format!("N{node}=");
    let line = |line: &str| -> Option<u64> {
        let word = |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key));
        let pages: u64 = word(&key)?.parse().ok()?;
        let size: u64 = word("kernelpagesize_kB=").and_then(|kb| kb.parse().ok()).unwrap_or(4);
        pages.checked_mul(size)?.checked_mul(1024)
    };
    maps.lines().filter_map(line).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_tables_are_read() {
        let text = "Node 1 MemTotal:        1024 kB\nNode 1 MemFree:  512 kB\nNode 1 MemUsed: 512 kB\n\
                    Node 1 FilePages:  200 kB\nNode 1 AnonPages: 100 kB\nNode 1 Shmem:   50 kB\n";
        let found = of_meminfo(text).expect("whole");
        assert_eq!((found.total, found.free, found.page_cache), (1 << 20, 1 << 19, 150 << 10));
        assert_eq!((found.shared, found.anonymous, found.kernel), (50 << 10, 100 << 10, 212 << 10));
        assert!(of_meminfo("Node 1 MemTotal: some kB\n").is_none());
        let maps = "7f00 default file=/a N1=3 mapped=3 N0=1 kernelpagesize_kB=4\n7f01 prefer:1 anon=2 N1=2 kernelpagesize_kB=2048\n\
                    7f02 default N11=7\n7f03 default file=/N1=9\\040x\n";
        assert_eq!(of_numa_maps(maps, 1), (3 << 12) + (2 << 21));
        assert_eq!(of_numa_maps(maps, 0), 1 << 12);
    }
}
