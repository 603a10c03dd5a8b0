//! What this machine can do, for `doctor`.
#![forbid(unsafe_code)]

use crate::util::field_kib;
use std::path::Path;
use std::str::FromStr;

/// Facts about the machine and this process. `None` where the kernel doesn't say.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The kernel's release, as `uname -r`.
    pub kernel: String,
    /// Effective user of this process.
    pub uid: u32,
    /// What can be had of userfaultfd.
    pub userfaultfd: UserfaultfdFacts,
    /// Setting of huge pages for shared memory without a mount's own (`shmem_enabled`), such as `never`. `None`: no
    /// huge pages on tmpfs.
    pub shmem_huge: Option<String>,
    /// Size of a huge page of tmpfs, in bytes.
    pub huge_page_bytes: Option<u64>,
    /// Whether this process may mount: pools get a tmpfs each, with huge pages and without swap.
    pub can_mount: bool,
    /// Whether the kernel grants leases (`fs.leases-enable`); no frames can be given back without.
    pub leases: bool,
    /// Mappings a process may have (`vm.max_map_count`).
    pub max_map_count: Option<u64>,
    /// Bytes this process may lock; `None` for any number.
    pub memlock_bytes: Option<u64>,
    /// Memory of the machine, in bytes.
    pub memory_total: Option<u64>,
    /// Memory that could be had now, in bytes.
    pub memory_available: Option<u64>,
    /// Swap space, in bytes.
    pub swap_total: Option<u64>,
    /// Whether `/dev/fuse` can be opened.
    pub fuse: bool,
    /// Whether the program is there that mounts for users who may not.
    pub fuse_helper: bool,
    /// What the memory cgroups of this process, or of the daemon that was named, leave it; `None` without a limit.
    pub memory_limit: Option<crate::cgroup::Limit>,
    /// The same of the lower limit, beyond which the kernel slows it down.
    pub memory_soft_limit: Option<crate::cgroup::Limit>,
    /// Which interface the memory cgroups are under; `None` where there are none, or they are not mounted.
    pub cgroups: Option<crate::cgroup::Version>,
    /// Whether the kernel tells how much a cgroup's processes wait for memory.
    pub cgroup_pressure: bool,
    /// How the kernel moves pages between nodes by itself.
    pub numa: NumaFacts,
    /// Whether it tells how much processes wait for memory (PSI).
    pub pressure: bool,
    /// Capabilities that a store on device memory wants and this process lacks.
    pub lacking: Vec<&'static str>,
    /// Whether a process can see what its threads do (`/proc/self/task/*/syscall`); futexes in moved memory need it.
    pub thread_states: bool,
}

/// What can be had of userfaultfd.
#[derive(Clone, Debug)]
pub struct UserfaultfdFacts {
    /// Whether this process may open `/dev/userfaultfd`, and so hand it to clients.
    pub device: bool,
    /// Whether this process gets one that covers faults of system calls.
    pub kernel_faults: bool,
    /// Whether it gets one at all.
    pub any: bool,
    /// `vm.unprivileged_userfaultfd`: whether everybody gets one that covers faults of system calls.
    pub unprivileged: Option<bool>,
    /// Features that live moves need and the kernel lacks.
    pub missing_features: Vec<&'static str>,
}

/// How the kernel moves pages between nodes by itself, and what it takes for fast and slow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumaFacts {
    /// Whether pages that would be reclaimed are moved to a slower node instead.
    pub demotion: Option<bool>,
    /// `kernel.numa_balancing`, a set of bits: 1, pages are brought to the node of who uses them; 2, pages in use are brought from slower nodes to faster ones.
    pub balancing: Option<u64>,
    /// `vm.zone_reclaim_mode`: where it is 0, memory is taken from other nodes before a node's page cache is given up.
    pub zone_reclaim: Option<u64>,
    /// The nodes of each memory tier, the fastest first.
    pub tiers: Vec<(u32, Vec<u32>)>,
    /// The nodes that have memory and no CPUs: those that can be devices.
    pub far: Vec<u32>,
}

/// Capabilities that are wanted, by name and bit, from `linux/capability.h`.
const WANTED: [(&str, u32); 4] =
    [("CAP_SYS_ADMIN", 21), ("CAP_SYS_NICE", 23), ("CAP_IPC_LOCK", 14), ("CAP_SYS_PTRACE", 19)];

/// Collects them; of `daemon`, if it is named, what limits its memory. Opens devices and closes them again, changes nothing.
#[must_use]
pub fn facts(daemon: Option<u32>) -> Facts {
    let cgroups = crate::cgroup::MemoryCgroups::of(daemon);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let huge = Path::new("/sys/kernel/mm/transparent_hugepage");
    Facts {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        uid: crate::process::uid(),
        userfaultfd: userfaultfd(),
        shmem_huge: std::fs::read_to_string(huge.join("shmem_enabled")).ok().as_deref().and_then(chosen),
        huge_page_bytes: number(&huge.join("hpage_pmd_size")),
        can_mount: crate::mounts::can_mount(),
        leases: number(Path::new("/proc/sys/fs/leases-enable")) != Some(0),
        max_map_count: number(Path::new("/proc/sys/vm/max_map_count")),
        memlock_bytes: crate::process::memlock_limit(),
        memory_total: field_kib(&meminfo, "MemTotal"),
        memory_available: field_kib(&meminfo, "MemAvailable"),
        swap_total: field_kib(&meminfo, "SwapTotal"),
        fuse: crate::fuse::open_device().is_ok(),
        fuse_helper: crate::fuse::helper_is_there(),
        memory_limit: cgroups.as_ref().and_then(crate::cgroup::MemoryCgroups::limit),
        memory_soft_limit: cgroups.as_ref().and_then(crate::cgroup::MemoryCgroups::soft_limit),
        cgroups: cgroups.as_ref().map(crate::cgroup::MemoryCgroups::version),
        cgroup_pressure: cgroups.as_ref().is_some_and(crate::cgroup::MemoryCgroups::has_pressure),
        numa: numa(),
        pressure: std::fs::read("/proc/pressure/memory").is_ok(),
        lacking: lacking(),
        thread_states: crate::futex::sleepers(&[]).is_ok(),
    }
}

/// Memory that could be had now, in bytes.
#[must_use]
pub fn memory_available() -> Option<u64> {
    field_kib(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable")
}

/// Memory that the machine has, in bytes.
#[must_use]
pub fn memory_total() -> Option<u64> {
    field_kib(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal")
}

fn numa() -> NumaFacts {
    let nodes = crate::topology::nodes(Path::new(crate::topology::SYSFS));
    let mut tiers: Vec<(u32, Vec<u32>)> = Vec::new();
    for node in &nodes {
        let Some(tier) = node.tier else { continue };
        match tiers.iter_mut().find(|(known, _)| *known == tier) {
            Some((_, nodes)) => nodes.push(node.node),
            None => tiers.push((tier, vec![node.node])),
        }
    }
    tiers.sort_unstable();
    let demotion = std::fs::read_to_string("/sys/kernel/mm/numa/demotion_enabled").ok();
    NumaFacts {
        demotion: demotion.map(|text| matches!(text.trim(), "true" | "1")),
        balancing: number(Path::new("/proc/sys/kernel/numa_balancing")),
        zone_reclaim: number(Path::new("/proc/sys/vm/zone_reclaim_mode")),
        tiers,
        far: nodes.iter().filter(|n| n.cpus.is_empty() && n.bytes > Some(0)).map(|n| n.node).collect(),
    }
}

fn lacking() -> Vec<&'static str> {
    WANTED.iter().filter(|(_, bit)| !crate::mounts::has_capability(*bit)).map(|(name, _)| *name).collect()
}

fn userfaultfd() -> UserfaultfdFacts {
    let made = crate::uffd::Uffd::new(None);
    UserfaultfdFacts {
        device: crate::uffd::open_device().is_ok(),
        kernel_faults: made.as_ref().is_ok_and(|(_, kernel_faults)| *kernel_faults),
        any: made.is_ok(),
        unprivileged: number(Path::new("/proc/sys/vm/unprivileged_userfaultfd")).map(|n| n != 0),
        missing_features: crate::uffd::missing_features().unwrap_or_default(),
    }
}

/// The bracketed word of a setting like `always [never] force`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(word, _)| word.to_owned())
}

fn number(path: &Path) -> Option<u64> {
    u64::from_str(std::fs::read_to_string(path).ok()?.trim()).ok()
}
