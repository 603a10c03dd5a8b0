//! The `[[device]]` sections of `codax.toml` for what can be a device.

use super::judge::{device_file, directory, is_device};
use codax_os::topology::{Mode, Node, Topology};

/// What a section says of the device's link, where the firmware doesn't.
const LINK_KEYS: [&str; 3] = ["read_ns", "write_ns", "gbps"];

/// A section for each node, DAX device and DAX filesystem that can be a device; empty text where there is none.
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
    let dax = all.dax.iter().filter(|dax| dax.mode == Mode::Devdax);
    let dax = dax.map(|dax| dax_section(&dax.name, "devdax", &device_file(&dax.name), dax.persistent));
    let fsdax = all.fsdax.iter().filter_map(|fsdax| {
        let dir = directory(fsdax)?;
        Some(dax_section(&fsdax.device, "fsdax", &dir, fsdax.persistent))
    });
    sections.chain(dax).chain(fsdax).collect::<Vec<_>>().join("\n")
}

/// A section for memory that codax writes a superblock to: only who pastes it says that it may.
fn dax_section(name: &str, backing: &str, path: &str, persistent: bool) -> String {
    let keeps = if persistent { "Persistent: what it holds outlives the power." } else { "Volatile." };
    format!(
        "[[device]]\n# {keeps} What isn't codax's yet needs `format` the first time.\nname = \"{name}\"\nbacking = \"{backing}\"\npath = \"{path}\"\n# format = true\n"
    )
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
