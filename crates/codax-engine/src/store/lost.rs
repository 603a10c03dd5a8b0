//! Memory that has left under the store: a NUMA node whose memory went offline while it was in use.
//!
//! The kernel takes a node offline only when it has brought what lies there to other nodes, so no byte is lost: the pool's files lie elsewhere, and
//! nothing new can be given to them.

use crate::options::StoreOptions;
use crate::store::state::is_dram;
use codax_core::change::PoolRecord;
use codax_os::topology;
use std::path::Path;

/// The nodes that a pool's pages are kept to; none: any.
pub(crate) fn nodes_of(pool: &PoolRecord, options: &StoreOptions) -> Vec<u32> {
    match pool.numa {
        Some(memory) => vec![memory.node],
        None if is_dram(pool.id) => options.dram_nodes.clone(),
        None => Vec::new(),
    }
}

/// The nodes that have memory now; `None` where the kernel has no nodes.
#[derive(Debug)]
pub(crate) struct WithMemory(Option<Vec<u32>>);

impl WithMemory {
    pub fn now() -> Self {
        Self(topology::nodes_with_memory(Path::new(topology::SYSFS)))
    }

    /// Why pages can't be on these nodes, if none of them has memory.
    pub fn lost(&self, nodes: &[u32]) -> Option<String> {
        let there = self.0.as_ref()?;
        if nodes.is_empty() || nodes.iter().any(|node| there.contains(node)) {
            return None;
        }
        let nodes = nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        Some(format!(
            "NUMA node {nodes} has no memory online: daxctl online-memory brings it back, codax device discover shows it"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_lost_when_no_node_has_any() {
        let machine = WithMemory(Some(vec![0, 1]));
        assert_eq!((machine.lost(&[]), machine.lost(&[1]), machine.lost(&[1, 2])), (None, None, None));
        assert!(machine.lost(&[2]).is_some_and(|why| why.starts_with("NUMA node 2 has no memory online")));
        assert_eq!(WithMemory(None).lost(&[2]), None, "a kernel without NUMA");
    }
}
