//! `codax device discover`: what of this machine codax could use, and why not. Asks the kernel, not a daemon.

mod judge;
mod rows;
mod section;

use super::Context;
use super::device::gbps;
use crate::output::table;
use crate::output::text::printable;
use anyhow::Result;
use codax_core::units::format_size;
use codax_os::topology::{self, Topology};
use rows::{LinkRow, Row};
use std::path::Path;

/// `codax device discover`.
pub fn run(context: &Context) -> Result<()> {
    let found = Topology::read(Path::new(topology::SYSFS), Path::new(topology::MOUNTINFO));
    let row = Row::new(&found);
    context.print([&row], || text(&row))
}

fn text(row: &Row) -> String {
    let mut out = memory_text(row);
    out += &huge_text(row);
    if !row.garbled.is_empty() {
        out += "\nmakes no sense, and was left out:\n";
        for bad in &row.garbled {
            let path = bad.path.path.as_deref().unwrap_or(&bad.path.path_hex);
            out += &printable(&format!("  {path}: {}", bad.says));
            out.push('\n');
        }
    }
    out.push('\n');
    out += &advice(row);
    out
}

/// What to do with it.
fn advice(row: &Row) -> String {
    if !row.config.is_empty() {
        return format!("for codax.toml:\n\n{}", row.config);
    }
    let found = if row.is_plain() {
        "this machine has one node and no device memory that the kernel knows of"
    } else {
        "nothing of this can be a device of codax's as it is"
    };
    format!("{found}; an emulated device takes the place of one:\n  codax up --device sim0=emulated:1GiB\n")
}

fn memory_text(row: &Row) -> String {
    let headings = [
        "what",
        ">size",
        ">free",
        ">read ns",
        ">write ns",
        ">read GB/s",
        ">write GB/s",
        ">tier",
        "device",
        "",
    ];
    let mut table = table::new(&headings);
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), format_size);
    for node in &row.nodes {
        let [read_ns, write_ns, read, write] = link(node.link.as_ref());
        let cells = [
            format!("node {}", node.node),
            size(node.bytes),
            size(node.free),
            read_ns,
            write_ns,
            read,
            write,
            or_dash(node.tier),
            use_of(node.verdict.usable_as.as_deref()),
            node.verdict.why.clone(),
        ];
        table::row(&mut table, cells);
    }
    let others = row.dax.iter().map(|dax| (dax.name.clone(), dax.bytes, &dax.verdict));
    let others = others
        .chain(row.regions.iter().map(|region| (region.name.clone(), region.bytes, &region.verdict)))
        .chain(row.memdevs.iter().map(|memdev| (memdev.name.clone(), memdev.bytes(), &memdev.verdict)))
        .chain(row.fsdax.iter().map(|fsdax| (fsdax.device.clone(), fsdax.bytes, &fsdax.verdict)));
    for (what, bytes, verdict) in others {
        let dash = || "-".to_owned();
        let device = use_of(verdict.usable_as.as_deref());
        let why = verdict.why.clone();
        table::row(
            &mut table,
            [what, size(bytes), dash(), dash(), dash(), dash(), dash(), dash(), device, why],
        );
    }
    table::text(&table)
}

fn huge_text(row: &Row) -> String {
    let mut table = table::new(&["huge pages", ">page", ">pages", ">free", ">surplus"]);
    let mut any = false;
    for node in &row.nodes {
        for pool in node.huge.iter().filter(|pool| pool.total > 0) {
            any = true;
            let cells = [
                format!("node {}", node.node),
                format_size(pool.page_bytes),
                pool.total.to_string(),
                pool.free.to_string(),
                pool.surplus.to_string(),
            ];
            table::row(&mut table, cells);
        }
    }
    if any { format!("\n{}", table::text(&table)) } else { String::new() }
}

fn use_of(device: Option<&str>) -> String {
    device.unwrap_or("-").to_owned()
}

fn or_dash(value: Option<u32>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn link(link: Option<&LinkRow>) -> [String; 4] {
    let figure = |of: fn(&LinkRow) -> Option<u32>| link.and_then(of);
    [
        or_dash(figure(|link| link.read_ns)),
        or_dash(figure(|link| link.write_ns)),
        gbps(figure(|link| link.read_mbps)),
        gbps(figure(|link| link.write_mbps)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_os::topology::{Access, Blocks, Dax, Fsdax, Garbled, HugePool, Memdev, Mode, Node, Region};

    fn node(number: u32, cpus: &[u32]) -> Node {
        Node {
            node: number,
            cpus: cpus.to_vec(),
            bytes: Some(8 << 30),
            free: Some(1 << 30),
            blocks: Blocks { block_bytes: Some(128 << 20), online: 64, movable: 64, offline: 0 },
            ..Node::default()
        }
    }

    fn hmat(ns: u32, mbps: u32) -> Vec<Access> {
        let (ns, mbps) = (Some(ns), Some(mbps));
        vec![Access {
            class: 1,
            initiators: vec![0],
            read_ns: ns,
            write_ns: ns,
            read_mbps: mbps,
            write_mbps: mbps,
        }]
    }

    fn dax(name: &str, mode: Mode, target_node: u32, region: Option<&str>) -> Dax {
        Dax {
            name: name.to_owned(),
            mode,
            bytes: Some(8 << 30),
            align: Some(2 << 20),
            target_node: Some(target_node),
            persistent: false,
            region: region.map(str::to_owned),
        }
    }

    fn pmem() -> Fsdax {
        Fsdax {
            dir: "/mnt/pmem".into(),
            kind: "ext4".to_owned(),
            device: "pmem0".to_owned(),
            bytes: Some(1 << 30),
            always: true,
            persistent: true,
        }
    }

    /// The names of the devices that a configuration with these sections has.
    fn names(sections: &str) -> Vec<String> {
        let dir = tempfile::tempdir().expect("room");
        let file = dir.path().join("codax.toml");
        std::fs::write(&file, sections).expect("ours");
        let line = codax_daemon::CommandLine { config: Some(file), ..Default::default() };
        let config = codax_daemon::Config::load(&line).expect("a configuration");
        config.devices.into_iter().map(|device| device.name).collect()
    }

    #[test]
    fn a_machine_with_one_node_is_told_so() {
        let row = Row::new(&Topology { nodes: vec![node(0, &[0, 1])], ..Topology::default() });
        let text = text(&row);
        assert!(row.is_plain() && row.config.is_empty());
        assert!(
            text.contains("one node and no device memory") && text.contains("sim0=emulated:1GiB"),
            "{text}"
        );
        assert!(!text.contains("[[device]]") && !text.contains("huge pages"), "{text}");
    }

    #[test]
    fn an_expander_is_offered_with_its_section() {
        let region = Region {
            name: "region0".to_owned(),
            bytes: Some(8 << 30),
            mode: Some("ram".to_owned()),
            ways: Some(1),
            committed: true,
        };
        let memdev = Memdev {
            name: "mem0".to_owned(),
            ram_bytes: Some(8 << 30),
            pmem_bytes: Some(0),
            near_node: Some(0),
            serial: None,
            firmware: None,
        };
        let mut far = Node { access: hmat(250, 20_480), tier: Some(42), ..node(1, &[]) };
        far.huge = vec![HugePool { page_bytes: 2 << 20, total: 512, free: 500, surplus: 0 }];
        let row = Row::new(&Topology {
            nodes: vec![node(0, &[0]), far],
            dax: vec![dax("dax0.0", Mode::SystemRam, 1, Some("region0"))],
            regions: vec![region],
            memdevs: vec![memdev],
            ..Topology::default()
        });
        assert_eq!(
            row.config,
            "[[device]]\nname = \"cxl0\"\nbacking = \"numa\"\nnode = 1\npage = \"thp\"\nreserve = \"all\"\n"
        );
        let text = text(&row);
        let line = |what: &str| text.lines().find(|line| line.starts_with(what)).expect("a line").to_owned();
        let words = |what: &str| line(what).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let far = ["node", "1", "8", "GiB", "1", "GiB", "250", "250", "20.48", "20.48", "42", "numa:1"];
        assert_eq!(words("node 1"), far);
        assert!(line("dax0.0").contains("numa:1") && line("region0").contains("dax0.0"), "{text}");
        assert!(line("huge pages").contains("surplus") && text.contains("512"), "{text}");
        assert!(row.nodes[0].verdict.usable_as.as_deref() == Some("dram") && !row.is_plain());
    }

    #[test]
    fn dax_devices_and_filesystems_are_offered_with_their_sections() {
        let row = Row::new(&Topology {
            nodes: vec![node(0, &[0])],
            dax: vec![
                dax("dax1.0", Mode::Devdax, 4, Some("region0")),
                Dax { persistent: true, ..dax("dax4.0", Mode::Devdax, 4, None) },
            ],
            fsdax: vec![
                pmem(),
                Fsdax { device: "pmem1".to_owned(), always: false, persistent: false, ..pmem() },
            ],
            ..Topology::default()
        });
        let text = text(&row);
        for (what, device, why) in [
            (
                "dax1.0",
                "devdax:/dev/dax1.0",
                "devdax, volatile; `daxctl reconfigure-device --mode=system-ram dax1.0`",
            ),
            ("dax4.0", "devdax:/dev/dax4.0", "devdax, persistent"),
            ("pmem0", "fsdax:/mnt/pmem/codax", "ext4 with dax on /mnt/pmem, persistent"),
            ("pmem1", "fsdax:/mnt/pmem/codax", "with dax, for files with the flag on /mnt/pmem, volatile"),
        ] {
            let line = text.lines().find(|line| line.starts_with(what)).expect("a line");
            assert!(line.contains(device) && line.contains(why), "{line}");
        }
        let section = "[[device]]\n# Persistent: what it holds outlives the power. What isn't codax's yet needs `format` the first time.\n\
                       name = \"dax4.0\"\nbacking = \"devdax\"\npath = \"/dev/dax4.0\"\n# format = true\n";
        assert!(row.config.contains(section) && row.config.contains("# Volatile."), "{}", row.config);
        let filled = row.config.replace("# format = true", "format = true");
        for sections in [&row.config, &filled] {
            assert_eq!(names(sections), ["dax1.0", "dax4.0", "pmem0", "pmem1"]);
        }
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let fsdax = Fsdax { dir: "/mnt/a,b".into(), ..pmem() };
        let region =
            Region { name: "region3".to_owned(), bytes: None, mode: None, ways: None, committed: false };
        let garbled = Garbled { path: "/sys/x".into(), says: "a\nb".to_owned() };
        let row = Row::new(&Topology {
            nodes: vec![
                node(0, &[0]),
                Node { bytes: Some(0), ..node(1, &[]) },
                Node { bytes: None, ..node(2, &[]) },
            ],
            dax: vec![dax("dax2.0", Mode::Unbound, 4, None), dax("dax3.0", Mode::SystemRam, 4, None)],
            fsdax: vec![fsdax],
            regions: vec![region],
            garbled: vec![garbled],
            ..Topology::default()
        });
        let text = text(&row);
        for (what, why) in [
            ("node 1", "none of its memory is online"),
            ("node 2", "can't be read"),
            ("dax2.0", "no driver has it; `daxctl reconfigure-device --mode=devdax dax2.0`"),
            ("dax3.0", "daxctl online-memory dax3.0"),
            ("region3", "not committed"),
            ("pmem0", "on /mnt/a,b, persistent: `--device` can't name that path"),
        ] {
            let line = text.lines().find(|line| line.starts_with(what)).expect("a line");
            assert!(line.contains(why), "{line}");
        }
        assert!(
            text.contains("/sys/x: a\\nb\n") && text.contains("nothing of this can be a device"),
            "{text}"
        );
    }

    #[test]
    fn without_figures_of_the_firmware_the_section_has_room_for_them() {
        let partly = Blocks { movable: 60, ..node(2, &[]).blocks };
        let row = Row::new(&Topology {
            nodes: vec![node(0, &[0]), node(1, &[]), Node { blocks: partly, ..node(2, &[]) }],
            ..Topology::default()
        });
        let sections: Vec<_> = row.config.split("\n\n").collect();
        assert_eq!(sections.len(), 2);
        for key in ["read_ns", "write_ns", "gbps"] {
            assert!(sections[1].contains(&format!("\n# {key} = ")), "{}", sections[1]);
        }
        // What is to be pasted is taken, with the commented lines filled in as well.
        let filled = row.config.replace("# read_ns = ", "read_ns = 300").replace("# gbps = ", "gbps = 20");
        for text in [&row.config, &filled] {
            assert_eq!(names(text), ["node1", "node2"]);
        }
        assert!(row.nodes[2].verdict.why.contains("4 of its 64 blocks"), "{}", row.nodes[2].verdict.why);
    }

    #[test]
    fn rows_have_the_same_fields_whatever_is_known() {
        let known = Node { access: hmat(1, 2), tier: Some(4), ..node(0, &[0]) };
        let row = Row::new(&Topology { nodes: vec![known, Node::default()], ..Topology::default() });
        let row = serde_json::json!(row);
        let keys =
            |i: usize| row["nodes"][i].as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(0), keys(1));
        assert_eq!(row["nodes"][0]["link"]["read_mbps"], 2);
        assert!(row["nodes"][1]["link"].is_null() && row["nodes"][1]["bytes"].is_null());
    }
}
