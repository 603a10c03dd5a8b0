//! What is read of trees as the kernel shows them: a laptop, an expander, kinds of DAX devices, and trees that are damaged.

use codax_os::topology::{self, Access, Blocks, Dax, HugePool, Mode, Topology};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Makes a tree of lines `PATH = VALUE` (a `|` in the value is a line's end), `PATH -> TARGET` (a link, its target below the root) and `PATH/`.
fn tree(lines: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory for the test");
    let parent = |path: &Path| fs::create_dir_all(path.parent().expect("below the root")).expect("ours");
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some((path, value)) = line.split_once(" = ") {
            let path = root.path().join(path);
            parent(&path);
            fs::write(path, value.replace('|', "\n") + "\n").expect("ours");
        } else if let Some((path, target)) = line.split_once(" -> ") {
            let path = root.path().join(path);
            parent(&path);
            std::os::unix::fs::symlink(root.path().join(target), path).expect("ours");
        } else {
            fs::create_dir_all(root.path().join(line)).expect("ours");
        }
    }
    root
}

fn read(root: &tempfile::TempDir) -> Topology {
    Topology::read(root.path(), &root.path().join("mountinfo"))
}

/// A node of 8 GiB with 1 GiB free.
fn node(number: u32, cpus: &str, distance: &str) -> String {
    let at = format!("devices/system/node/node{number}");
    format!(
        "{at}/cpulist = {cpus}
         {at}/distance = {distance}
         {at}/meminfo = Node {number} MemTotal:        8388608 kB|Node {number} MemFree:         1048576 kB|Node {number} MemUsed:         7340032 kB
         {at}/hugepages/hugepages-2048kB/nr_hugepages = 0
         {at}/hugepages/hugepages-2048kB/free_hugepages = 0
         {at}/hugepages/hugepages-2048kB/surplus_hugepages = 0
        "
    )
}

fn hmat(number: u32, class: u32, ns: u32, mbps: u32) -> String {
    let at = format!("devices/system/node/node{number}/access{class}/initiators");
    format!(
        "{at}/node0/
         {at}/read_latency = {ns}
         {at}/write_latency = {}
         {at}/read_bandwidth = {mbps}
         {at}/write_bandwidth = {}
        ",
        ns + 10,
        mbps / 2
    )
}

/// Blocks of a node's memory, each with its state and zones.
fn blocks(node: u32, blocks: &[(&str, &str)]) -> String {
    let mut lines = "devices/system/memory/block_size_bytes = 8000000\n".to_owned();
    for (i, (state, zones)) in blocks.iter().enumerate() {
        let block = format!("devices/system/memory/memory{}", 32 + i);
        let at = format!("devices/system/node/node{node}/memory{}", 32 + i);
        writeln!(lines, "{block}/state = {state}\n{block}/valid_zones = {zones}\n{at} -> {block}")
            .expect("a string");
    }
    lines
}

/// An expander behind region 0, whose memory is node 1.
fn expander() -> String {
    let platform = "devices/platform/ACPI0017:00";
    let region = format!("{platform}/root0/decoder0.0/region0");
    node(0, "0-7", "10 20")
        + &node(1, "", "20 10")
        + &hmat(0, 0, 80, 61_440)
        + &hmat(0, 1, 80, 61_440)
        + &hmat(1, 0, 200, 40_000)
        + &hmat(1, 1, 250, 20_480)
        + &blocks(1, &[("online", "Movable"), ("online", "Movable"), ("offline", "Normal Movable")])
        + &format!(
            "devices/virtual/memory_tiering/memory_tier4/nodelist = 0
             devices/virtual/memory_tiering/memory_tier22/nodelist = 1
             devices/virtual/memory_tiering/power/control = auto
             devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages = 2
             devices/system/node/node1/hugepages/hugepages-1048576kB/free_hugepages = 1
             {region}/size = 0x200000000
             {region}/mode = ram
             {region}/interleave_ways = 1
             {region}/commit = 1
             {region}/dax_region0/dax0.0/size = 8589934592
             {region}/dax_region0/dax0.0/align = 2097152
             {region}/dax_region0/dax0.0/target_node = 1
             bus/dax/drivers/kmem/
             {region}/dax_region0/dax0.0/driver -> bus/dax/drivers/kmem
             bus/dax/devices/dax0.0 -> {region}/dax_region0/dax0.0
             bus/cxl/devices/region0 -> {region}
             devices/pci0000:00/mem0/ram/size = 0x200000000
             devices/pci0000:00/mem0/pmem/size = 0x0
             devices/pci0000:00/mem0/numa_node = 0
             devices/pci0000:00/mem0/serial = 0x1f
             devices/pci0000:00/mem0/firmware_version = BWFW VERSION 00
             bus/cxl/devices/mem0 -> devices/pci0000:00/mem0
             bus/cxl/devices/decoder0.0 -> {platform}/root0/decoder0.0
            "
        )
}

#[test]
fn a_laptop_has_one_node_and_nothing_else() {
    let root = tree(&node(0, "0-3", "10"));
    let found = read(&root);
    assert_eq!(found.nodes.len(), 1);
    let only = &found.nodes[0];
    assert_eq!(
        (only.node, only.cpus.as_slice(), only.distance.as_slice()),
        (0, &[0, 1, 2, 3][..], &[10][..])
    );
    assert_eq!((only.bytes, only.free), (Some(8 << 30), Some(1 << 30)));
    assert_eq!((only.link(), only.tier, only.is_movable()), (None, None, None));
    assert_eq!(only.huge, [HugePool { page_bytes: 2 << 20, total: 0, free: 0, surplus: 0 }]);
    assert!(
        found.dax.is_empty()
            && found.memdevs.is_empty()
            && found.regions.is_empty()
            && found.fsdax.is_empty()
    );
    assert_eq!(found.garbled, []);
}

#[test]
fn an_expander_is_a_node_with_what_its_firmware_tells() {
    let root = tree(&expander());
    let found = read(&root);
    assert_eq!(found.garbled, []);
    let far = &found.nodes[1];
    assert_eq!((far.node, far.cpus.len(), far.tier, found.nodes[0].tier), (1, 0, Some(22), Some(4)));
    // The way from the CPUs, not from whoever is nearer.
    let link = Access {
        class: 1,
        initiators: vec![0],
        read_ns: Some(250),
        write_ns: Some(260),
        read_mbps: Some(20_480),
        write_mbps: Some(10_240),
    };
    assert_eq!((far.access.len(), far.link()), (2, Some(&link)));
    assert_eq!(far.blocks, Blocks { block_bytes: Some(128 << 20), online: 2, movable: 2, offline: 1 });
    assert_eq!(far.is_movable(), Some(true));
    let gib = HugePool { page_bytes: 1 << 30, total: 2, free: 1, surplus: 0 };
    assert_eq!((far.huge.len(), &far.huge[1]), (2, &gib));

    let memdev = &found.memdevs[0];
    assert_eq!((memdev.name.as_str(), memdev.ram_bytes, memdev.pmem_bytes), ("mem0", Some(8 << 30), Some(0)));
    assert_eq!((memdev.near_node, memdev.serial.as_deref()), (Some(0), Some("0x1f")));
    assert_eq!(memdev.firmware.as_deref(), Some("BWFW VERSION 00"));
    let region = &found.regions[0];
    assert_eq!(
        (region.name.as_str(), region.bytes, region.mode.as_deref()),
        ("region0", Some(8 << 30), Some("ram"))
    );
    assert!(region.committed && region.ways == Some(1));
    let dax = Dax {
        name: "dax0.0".into(),
        mode: Mode::SystemRam,
        bytes: Some(8 << 30),
        align: Some(2 << 20),
        target_node: Some(1),
        persistent: false,
        region: Some("region0".into()),
    };
    assert_eq!(found.dax, [dax]);
    assert_eq!(topology::nodes(root.path()), found.nodes);
}

#[test]
fn the_driver_says_how_a_dax_device_is_used() {
    // The NVDIMM's region has the name of a CXL region, and is none.
    let nvdimm = "devices/LNXSYSTM:00/ndbus0/region0/dax0.0/dax0.0";
    let root = tree(&format!(
        "{nvdimm}/size = 534773760
         {nvdimm}/align = 2097152
         {nvdimm}/target_node = 3
         {nvdimm}/driver -> bus/dax/drivers/device_dax
         bus/dax/devices/dax0.0 -> {nvdimm}
         bus/cxl/devices/region0 -> devices/platform/root0/region0
         devices/platform/root0/region0/size = 0x0
         devices/platform/root0/region0/commit = 0
         devices/platform/hmem.0/dax10.0/size = 1073741824
         devices/platform/hmem.0/dax10.0/target_node = -1
         bus/dax/devices/dax10.0 -> devices/platform/hmem.0/dax10.0
         devices/platform/hmem.1/dax2.0/driver -> bus/dax/drivers/strange
         bus/dax/devices/dax2.0 -> devices/platform/hmem.1/dax2.0
         bus/dax/devices/dax_not = 1
         bus/dax/devices/dax+1.0 = 1"
    ));
    let found = read(&root);
    assert_eq!(found.garbled, []);
    let dax: Vec<_> =
        found.dax.iter().map(|dax| (dax.name.as_str(), &dax.mode, dax.target_node, dax.persistent)).collect();
    let strange = Mode::Other("strange".into());
    assert_eq!(
        dax,
        [
            ("dax0.0", &Mode::Devdax, Some(3), true),
            ("dax2.0", &strange, None, false),
            ("dax10.0", &Mode::Unbound, None, false)
        ]
    );
    assert!(found.dax.iter().all(|dax| dax.region.is_none()));
    assert!(!found.regions[0].committed);
}

#[test]
fn without_figures_of_the_firmware_there_are_none() {
    // Some firmware tells only of the nearest initiators, some tells zeros.
    let lines = node(0, "0-3", "10 20 20")
        + &node(1, "", "20 10 20")
        + &node(2, "", "20 20 10")
        + &hmat(1, 0, 300, 8000);
    let zeros = "devices/system/node/node2/access0/initiators/read_latency = 0
                 devices/system/node/node2/access0/initiators/read_bandwidth = 0
                 devices/system/node/node2/access1/initiators/node0/";
    let found = read(&tree(&(lines + zeros)));
    assert_eq!(found.nodes[0].link(), None);
    let near = found.nodes[1].link().expect("it tells something");
    assert_eq!((near.class, near.read_ns), (0, Some(300)));
    assert_eq!((found.nodes[2].access.len(), found.nodes[2].link()), (2, None));
    assert_eq!(found.garbled, []);
}

#[test]
fn memory_is_movable_when_every_block_is() {
    let part = [("online", "Movable"), ("going-offline", "Normal")];
    let found = read(&tree(&(node(1, "", "10") + &blocks(1, &part))));
    assert_eq!((found.nodes[0].is_movable(), found.nodes[0].blocks.movable), (Some(false), 1));
    let none = [("offline", "Normal Movable"), ("???", "")];
    let found = read(&tree(&(node(1, "", "10") + &blocks(1, &none))));
    assert_eq!((found.nodes[0].is_movable(), found.nodes[0].blocks.offline), (None, 1));
}

#[test]
fn filesystems_with_dax_have_their_device() {
    let root = tree(
        "devices/platform/ndbus0/region0/pfn0.1/block/pmem0/size = 1044480
         class/block/pmem0 -> devices/platform/ndbus0/region0/pfn0.1/block/pmem0
         devices/virtual/block/ram0/size = 8
         class/block/ram0 -> devices/virtual/block/ram0
         mountinfo = 1 1 0:2 / / rw - rootfs rootfs rw|34 1 259:0 / /mnt/pmem rw,relatime - ext4 /dev/pmem0 rw,stripe=512,dax=always|35 1 259:0 /a /mnt/again rw - ext4 /dev/pmem0 rw,dax=always|36 1 8:1 / /home rw - ext4 /dev/sda1 rw|37 1 1:0 / /mnt/ram rw - xfs /dev/ram0 rw,dax=inode",
    );
    let found = read(&root);
    assert_eq!(found.fsdax.len(), 2, "a second mount of it is the same memory");
    let mount = &found.fsdax[0];
    assert_eq!((mount.dir.as_path(), mount.device.as_str()), (Path::new("/mnt/pmem"), "pmem0"));
    assert_eq!((mount.bytes, mount.always, mount.persistent), (Some(1_044_480 * 512), true, true));
    let other = &found.fsdax[1];
    assert_eq!((other.device.as_str(), other.bytes, other.persistent), ("ram0", Some(8 * 512), false));
}

#[test]
fn what_makes_no_sense_is_left_out_and_named() {
    let damage = "devices/system/node/node1/cpulist = 0-4294967295
                  devices/system/node/node1/distance = 10 far
                  devices/system/node/node1/meminfo = Node 1 MemTotal:        lots kB|Node 1 MemFree:
                  devices/system/node/node1/access1/initiators/read_latency = -5
                  devices/system/node/node1/access1/initiators/read_bandwidth = 99999999999
                  devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages = many
                  devices/system/memory/block_size_bytes = wide
                  devices/virtual/memory_tiering/memory_tier4/nodelist = all
                  bus/dax/devices/dax0.0/size = 1e9
                  bus/dax/devices/dax0.0/target_node = two
                  bus/cxl/devices/mem0/ram/size = 0xzz
                  bus/cxl/devices/region0/commit = maybe
                  devices/system/node/node1/access2 = not a directory
                  devices/system/node/nodeX/cpulist = 0
                  devices/system/node/node99999999999/cpulist = 0";
    let root = tree(&(expander() + damage));
    fs::write(root.path().join("devices/system/node/node0/cpulist"), b"\xff\0\xfe").expect("ours");
    let found = read(&root);
    let named: Vec<_> = found
        .garbled
        .iter()
        .map(|bad| bad.path.strip_prefix(root.path()).expect("below the root").display().to_string())
        .collect();
    for path in damage.lines().take(12).map(|line| line.trim().split(" = ").next().expect("a path")) {
        assert!(named.iter().any(|named| named == path), "{path} is not in {named:?}");
    }
    assert!(named.iter().any(|named| named == "devices/system/node/node0/cpulist"));
    assert_eq!(found.nodes.len(), 2, "the rest of it is there");
    let far = &found.nodes[1];
    assert_eq!((far.bytes, far.cpus.len(), far.distance.len()), (None, 0, 0));
    assert_eq!(
        far.link().map(|link| (link.read_ns, link.write_ns, link.read_mbps)),
        Some((None, Some(260), None))
    );
    assert_eq!((far.huge.len(), far.tier, far.blocks.block_bytes), (1, Some(22), None));
    assert_eq!((found.dax[0].bytes, found.dax[0].target_node), (None, None));
    assert_eq!((found.memdevs[0].ram_bytes, found.regions[0].committed), (None, false));
}

#[test]
fn an_empty_tree_is_an_empty_topology() {
    let root = tree("");
    assert_eq!(read(&root), Topology::default());
    assert_eq!(read(&tree("bus/dax/devices = 1\ndevices/system/node = 1")), Topology::default());
    assert!(topology::cpus(root.path()).is_empty());
}

#[test]
fn cpus_say_what_they_share() {
    let mut lines = String::new();
    for cpu in 0..4 {
        let at = format!("devices/system/cpu/cpu{cpu}");
        let core = if cpu < 2 { "0-1" } else { "2-3" };
        write!(
            lines,
            "{at}/topology/thread_siblings_list = {core}
             {at}/topology/core_siblings_list = 0-3
             {at}/cache/index0/level = 1
             {at}/cache/index0/size = 48K
             {at}/cache/index0/shared_cpu_list = {core}
             {at}/cache/index3/level = 3
             {at}/cache/index3/size = 32768K
             {at}/cache/index3/shared_cpu_list = 0-3
            "
        )
        .expect("a string");
    }
    let root = tree(&(lines + "devices/system/cpu/cpufreq/\ndevices/system/cpu/cpu4/"));
    let cpus = topology::cpus(root.path());
    let shared: Vec<_> =
        cpus.iter().map(|cpu| (cpu.cpu, cpu.core, cpu.cluster, cpu.socket, cpu.cache_bytes)).collect();
    let cache = Some(32 << 20);
    assert_eq!(
        shared[..4],
        [(0, 0, 0, 0, cache), (1, 0, 0, 0, cache), (2, 2, 0, 0, cache), (3, 2, 0, 0, cache)]
    );
    assert_eq!(shared[4], (4, 4, 4, 4, None), "one that says nothing shares nothing");
}

#[test]
fn this_machine_has_a_node_with_memory_and_cpus() {
    let found = Topology::read(Path::new(topology::SYSFS), Path::new(topology::MOUNTINFO));
    assert_eq!(found.garbled, []);
    let cpus = topology::cpus(Path::new(topology::SYSFS));
    assert!(!cpus.is_empty());
    if !Path::new("/sys/devices/system/node/node0").exists() {
        return; // a kernel without NUMA
    }
    assert!(found.nodes.iter().any(|node| !node.cpus.is_empty() && node.bytes > Some(0)));
}

#[test]
fn bad_blocks_are_told_in_bytes_of_the_device() {
    let region = "devices/LNXSYSTM:00/ndbus0/region0";
    let root = tree(&format!(
        "{region}/badblocks = 0 8|4096 16|1048000 1000|2097152 8
         {region}/resource = 0x180000000
         {region}/dax0.1/dax0.0/resource = 0x180200000
         {region}/dax0.1/dax0.0/size = 534773760
         bus/dax/devices/dax0.0 -> {region}/dax0.1/dax0.0
         devices/platform/hmem.2/dax2.0/size = 1073741824
         bus/dax/devices/dax2.0 -> devices/platform/hmem.2/dax2.0
        "
    ));
    let dax = |name| topology::bad_blocks_of_dax(root.path(), name);
    // The device begins 2 MiB into the region, and ends with it at sector 1048576.
    let end = 534_773_760;
    assert_eq!(dax("dax0.0").unwrap(), [(0, 8192), (end - 576 * 512, 576 * 512)]);
    assert_eq!((dax("dax2.0").unwrap(), dax("dax9.9").unwrap()), (vec![], vec![]));

    fs::remove_file(root.path().join(region).join("resource")).expect("ours");
    assert_eq!(dax("dax0.0").unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    fs::write(root.path().join(region).join("badblocks"), "many").expect("ours");
    assert_eq!(dax("dax0.0").unwrap_err().kind(), std::io::ErrorKind::InvalidData);
}
