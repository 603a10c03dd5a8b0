//! The `[[device]]` sections of `codax.toml` for nodes that can be devices.

use super::judge::is_device;
use codax_os::topology::{Node, Topology};

/// What a section says of the device's link, where the firmware doesn't.
const LINK_KEYS: [&str; 4] =
    ["read_latency_ns", "write_latency_ns", "read_bandwidth_mbs", "write_bandwidth_mbs"];

/// A section for each node that can be a device; empty text where there is none.
pub fn sections(all: &Topology) -> String {
    let nodes = all.nodes.iter().filter(|node| is_device(node));
    let mut expanders = 0;
    let sections = nodes.map(|node| {
        // Only of CXL the kernel says what it is; whatever else has no CPUs gets the number of its node.
        let name = if is_expander(node, all) {
            expanders += 1;
            format!("cxl{}", expanders - 1)
        } else {
            format!("node{}", node.node)
        };
        section(node, &name)
    });
    sections.collect::<Vec<_>>().join("\n")
}

fn is_expander(node: &Node, all: &Topology) -> bool {
    all.dax.iter().any(|dax| dax.region.is_some() && dax.target_node == Some(node.node))
}

fn section(node: &Node, name: &str) -> String {
    let mut out = format!(
        "[[device]]\nname = \"{name}\"\nnuma = {}\npage = \"{}\"\nreserve = \"all\"\n",
        node.node,
        page(node)
    );
    if node.link().is_none() {
        out += &format!("# The firmware tells nothing of its link; `codax probe {name}` measures it.\n");
        for key in LINK_KEYS {
            out += &format!("# {key} = \n");
        }
    }
    out
}

/// The page size of which the node has the most set aside; 4 KiB where there is none.
fn page(node: &Node) -> &'static str {
    let set_aside = |page_bytes: u64| {
        let pool = node.huge.iter().find(|pool| pool.page_bytes == page_bytes);
        pool.map_or(0, |pool| pool.total.saturating_mul(page_bytes))
    };
    match (set_aside(2 << 20), set_aside(1 << 30)) {
        (0, 0) => "4K",
        (small, large) if large > small => "1G",
        _ => "2M",
    }
}
