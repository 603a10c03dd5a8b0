//! The `[[device]]` sections of `codax.toml` for nodes that can be devices.

use super::judge::is_device;
use codax_os::topology::{Node, Topology};

/// What a section says of the device's link, where the firmware doesn't.
const LINK_KEYS: [&str; 3] = ["read_ns", "write_ns", "gbps"];

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
        "[[device]]\nname = \"{name}\"\nbacking = \"numa\"\nnode = {}\npage = \"thp\"\nreserve = \"all\"\n",
        node.node
    );
    if node.link().is_none() {
        out += &format!("# The firmware tells nothing of its link; `codax probe {name}` measures it.\n");
        for key in LINK_KEYS {
            out += &format!("# {key} = \n");
        }
    }
    out
}
