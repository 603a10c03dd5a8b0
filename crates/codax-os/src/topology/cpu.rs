//! CPUs: which of them share a core, a cache, a socket.
#![forbid(unsafe_code)]

use super::reader::Reader;

/// A CPU, as the scheduler counts them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Its number.
    pub cpu: u32,
    /// The lowest of the CPUs that share its core.
    pub core: u32,
    /// The lowest of the CPUs that share its last-level cache.
    pub cluster: u32,
    /// The lowest of the CPUs in its socket.
    pub socket: u32,
    /// Size of its last-level cache in bytes.
    pub cache_bytes: Option<u64>,
}

pub(super) fn read(sys: &Reader<'_>) -> Vec<Cpu> {
    let cpus = sys.numbered("devices/system/cpu", "cpu").into_iter();
    cpus.map(|(cpu, dir)| {
        let lowest = |path: String| sys.list(&path).and_then(|cpus| cpus.first().copied());
        let core = lowest(format!("{dir}/topology/thread_siblings_list")).unwrap_or(cpu);
        let socket = lowest(format!("{dir}/topology/core_siblings_list")).unwrap_or(core);
        let caches = sys.numbered(&format!("{dir}/cache"), "index").into_iter();
        let last = caches
            .filter_map(|(_, dir)| Some((sys.number::<u32>(&format!("{dir}/level"))?, dir)))
            .max()
            .map(|(_, dir)| dir);
        let cluster =
            last.as_ref().and_then(|dir| lowest(format!("{dir}/shared_cpu_list"))).unwrap_or(socket);
        let cache_bytes = last.and_then(|dir| sys.size(&format!("{dir}/size")));
        Cpu { cpu, core, cluster, socket, cache_bytes }
    })
    .collect()
}
