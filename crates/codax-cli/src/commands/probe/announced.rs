//! What is said of a pool without measuring.

use codax_core::DRAM;
use codax_core::info::PoolInfo;
use codax_os::topology::{self, Node};
use serde::Serialize;
use std::path::Path;

/// What is announced, and by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Announced {
    /// "store": the device's figures there. "firmware": those of the node. Null: nobody.
    by: Option<&'static str>,
    pub read_ns: Option<u32>,
    pub write_ns: Option<u32>,
    pub read_mbps: Option<u32>,
    pub write_mbps: Option<u32>,
}

impl Announced {
    /// Of `pool`, as seen from the CPUs of `near`.
    pub fn of(pool: &PoolInfo, near: Option<u32>) -> Self {
        let nodes = if pool.id == DRAM { topology::nodes(Path::new(topology::SYSFS)) } else { Vec::new() };
        Self::new(pool, nodes.iter().find(|node| Some(node.node) == near))
    }

    /// What the store says comes first; of `dram` it may say nothing, and `near` is the memory next to the CPUs.
    fn new(pool: &PoolInfo, near: Option<&Node>) -> Self {
        let link = &pool.link;
        if [link.read_ns, link.write_ns, link.mbps].iter().any(Option::is_some) {
            return Self {
                by: Some("store"),
                read_ns: link.read_ns,
                write_ns: link.write_ns,
                read_mbps: link.mbps,
                write_mbps: link.mbps,
            };
        }
        near.and_then(Node::link).map_or_else(Self::default, |link| Self {
            by: Some("firmware"),
            read_ns: link.read_ns,
            write_ns: link.write_ns,
            read_mbps: link.read_mbps,
            write_mbps: link.write_mbps,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_core::change::{LinkModel, PoolState};
    use codax_os::topology::Access;

    #[test]
    fn the_store_comes_before_the_firmware() {
        let mut pool = super::super::sample(0, "dram", PoolState::Online);
        pool.link.mbps = Some(5);
        let told = Access { class: 1, read_ns: Some(80), write_mbps: Some(7), ..Access::default() };
        let node = Node { access: vec![told], ..Node::default() };
        let by_store = Announced::new(&pool, Some(&node));
        assert_eq!((by_store.by, by_store.read_ns, by_store.read_mbps), (Some("store"), None, Some(5)));
        pool.link = LinkModel::default();
        let by_firmware = Announced::new(&pool, Some(&node));
        assert_eq!((by_firmware.by, by_firmware.read_ns), (Some("firmware"), Some(80)));
        assert_eq!((by_firmware.read_mbps, by_firmware.write_mbps), (None, Some(7)));
        assert_eq!(Announced::new(&pool, Some(&Node::default())), Announced::default());
        assert_eq!(Announced::new(&pool, None), Announced::default());
    }
}
