//! Devices whose pages are huge pages of the kernel's own pools (hugetlb). On a machine without nodes for devices the host's own node serves as one.

use crate::client::{Client, check_counted, counted};
use crate::mount::{Mounted, mounted};
use crate::rig::{MIB, Plan, Rig, Running, pattern, root, skipped, until};
use crate::setting;
use codax_os::hugetlb::{self, NodePages, Policy};
use codax_os::topology::{self, Node};
use std::fs::{self, File};
use std::path::Path;

/// A huge page, and a gigantic one.
const HUGE: u64 = 2 * MIB;
const GIGANTIC: u64 = 1 << 30;

fn nodes() -> Vec<Node> {
    topology::nodes(Path::new(topology::SYSFS))
}

/// A node for the device: without CPUs if there is one.
fn node() -> Option<Node> {
    let mut nodes: Vec<Node> =
        nodes().into_iter().filter(|node| node.bytes.is_some_and(|bytes| bytes > 0)).collect();
    nodes.sort_by_key(|node| !node.cpus.is_empty());
    nodes.into_iter().next()
}

/// One test at a time: they count a node's pages. They may be in processes of their own.
struct Alone {
    pages: NodePages,
    node: u32,
    before: u64,
    _lock: File,
}

impl Alone {
    /// `None`, and it is said, where the machine has no such pages.
    fn with(test: &str, page: u64) -> Option<Self> {
        let pages = node()
            .filter(|_| root())
            .and_then(|node| Some((NodePages::of(node.node, page).ok()?, node.node)));
        let Some((pages, node)) = pages else {
            skipped(test, "wants root, and a kernel with hugetlbfs");
            return None;
        };
        let lock = File::create(setting::HUGE_LOCK).expect("root may");
        lock.lock().expect("nobody has it for ever");
        let before = pages.total().expect("root may read it");
        Some(Self { pages, node, before, _lock: lock })
    }

    /// A store with `cxl0` of so many bytes in such pages.
    fn plan(&self, page: &str, reserve: &str) -> Plan {
        Plan::new().device_as(&self.device(page, reserve))
    }

    fn device(&self, page: &str, reserve: &str) -> String {
        format!("cxl0=numa:{},cpus=yes,page={page},reserve={reserve}", self.node)
    }

    #[track_caller]
    fn raised_by(&self, pages: u64) {
        assert_eq!(self.pages.total().expect("there"), self.before + pages);
    }

    /// Ends the store and all that it has; its last pages go with the daemon.
    #[track_caller]
    fn purge(&self, rig: &Rig) {
        rig.ok(&["down", "--purge"]);
        let status = rig.with_daemon(Running::end);
        assert!(status.success(), "{status}");
        self.raised_by(0);
    }

    /// Nobody else gets a huge page of the node, also if he wants it from there.
    #[track_caller]
    fn nothing_for_strangers(&self) {
        let _bound = Policy::bind(self.node).expect("root may");
        assert!(!hugetlb::can_be_had().expect("asked"), "a stranger got a page");
    }
}

/// The pages of the holder and of all objects, in bytes.
fn in_holder(rig: &Rig) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(rig.dir().join("pools/cxl0/holder")).map_or(0, |meta| meta.blocks() * 512)
}

#[track_caller]
fn holder_has(rig: &Rig, bytes: u64) {
    until("pages back in the holder", || (in_holder(rig) == bytes).then_some(()));
}

#[test]
fn files_are_whole_huge_pages_and_cost_what_they_cost() {
    let Some(alone) = Alone::with("files_are_whole_huge_pages", HUGE) else { return };
    let rig = alone.plan("2M", "64MiB").up();
    alone.raised_by(32);
    holder_has(&rig, 64 * MIB);
    alone.nothing_for_strangers();
    rig.put("/small", &pattern(5000, 1), &["--on", "cxl0"]).ok();
    rig.put("/big", &pattern(7 * MIB + 4321, 2), &["--on", "cxl0"]).ok();
    rig.put("/empty", b"", &["--on", "cxl0"]).ok();
    let small = rig.row(&["stat", "/small"]);
    assert_eq!((small["len"].as_u64(), small["backed"].as_u64()), (Some(5000), Some(HUGE)), "{small}");
    assert_eq!(rig.row(&["stat", "/empty"])["backed"].as_u64(), Some(0));
    assert_eq!(rig.row(&["du", "/small"])["backed"].as_u64(), Some(HUGE));
    assert_eq!((rig.pool("cxl0", "used"), rig.pool("cxl0", "free")), (5 * HUGE, 27 * HUGE));
    assert_eq!(in_holder(&rig), 27 * HUGE);
    alone.nothing_for_strangers();
    assert!(rig.get("/small") == pattern(5000, 1) && rig.get("/big") == pattern(7 * MIB + 4321, 2));
    let reserve = rig.row(&["device", "show", "cxl0"])["reserve"].clone();
    assert_eq!(
        (reserve["taken"].as_u64(), reserve["missing"].as_u64()),
        (Some(64 * MIB), Some(0)),
        "{reserve}"
    );
    // Within its page it grows for nothing.
    let store = codax::Store::connect(rig.dir()).expect("a daemon");
    let set_len = |path: &str, len: u64| {
        let file = codax::OpenOptions::new().write(true).open(&store, path).expect("there");
        file.set_len(len).expect("room");
    };
    set_len("/small", MIB);
    assert_eq!(rig.pool("cxl0", "used"), 5 * HUGE);
    set_len("/small", 3 * MIB);
    assert_eq!(rig.pool("cxl0", "used"), 6 * HUGE);
    let mut grown = pattern(5000, 1);
    grown.resize(3 << 20, 0);
    assert!(rig.get("/small") == grown);
    rig.sound();
    // What was cut off is zeros when it is there again.
    set_len("/big", 1_234_567);
    set_len("/big", 2 * MIB);
    let mut cut = pattern(1_234_567, 2);
    cut.resize(2 << 20, 0);
    assert!(rig.get("/big") == cut);
    let full = rig.put("/full", &pattern(60 * MIB, 3), &["--on", "cxl0"]);
    full.fails(4, &["no space", "cxl0"]);
    rig.put("/spilt", &pattern(60 * MIB, 3), &["--prefer", "cxl0"]).ok();
    assert_eq!(rig.pools_of("/spilt"), ["cxl0", "dram"]);
    assert!(rig.get("/spilt") == pattern(60 * MIB, 3));
    rig.sound();
    rig.ok(&["rm", "/spilt", "/big", "/small", "/empty"]);
    holder_has(&rig, 64 * MIB);
    alone.purge(&rig);
}

#[test]
fn moves_under_programs_that_count_lose_nothing() {
    const LEN: u64 = 6 * MIB + 20_480;
    let Some(alone) = Alone::with("moves_under_programs_that_count", HUGE) else { return };
    let rig = alone.plan("2M", "32MiB").up();
    rig.put("/counters", &counted(LEN, 1), &["--on", "cxl0"]).ok();
    let mut counters: Vec<_> =
        (1..3).map(|column| Client::start(&rig, "count", &["/counters", &column.to_string(), "0"])).collect();
    let mut watcher = Client::start(&rig, "watch", &["/counters"]);
    for round in 0..4 {
        let before = counters[round % 2].number("rounds");
        rig.ok(&["move", "/counters", "--to", "dram"]);
        assert_eq!(rig.pools_of("/counters"), ["dram"]);
        assert_eq!(rig.pool("cxl0", "used"), 0);
        rig.ok(&["move", "/counters", "--to", "cxl0", "--range", ["0:2MiB", "5MiB:1MiB"][round % 2]]);
        assert_eq!(rig.pools_of("/counters"), ["cxl0", "dram"]);
        assert_eq!(rig.pool("cxl0", "used"), HUGE);
        rig.ok(&["move", "/counters", "--to", "cxl0"]);
        assert_eq!(
            (rig.pools_of("/counters"), rig.pool("cxl0", "used")),
            (vec!["cxl0".to_owned()], 4 * HUGE)
        );
        assert!(counters[round % 2].number("rounds") > before, "it went on all the time");
    }
    assert!(watcher.number("looks") > 0);
    let rounds: Vec<_> = counters.iter_mut().map(|client| client.number("stop")).collect();
    check_counted(&rig.get("/counters"), 1, &rounds);
    watcher.end();
    counters.into_iter().for_each(Client::end);
    rig.sound();
    assert_eq!(rig.pool("dram", "used"), 0, "a move gives the old frames back");
}

#[test]
fn a_drain_a_detach_and_a_crash_leave_files_whole_and_give_pages_back() {
    let Some(alone) = Alone::with("a_drain_a_detach_and_a_crash", HUGE) else { return };
    let rig = alone.plan("2M", "32MiB").up();
    let files: Vec<(String, Vec<u8>)> =
        (0..5).map(|n| (format!("/f{n}"), pattern(n * 900_000 + 10, n))).collect();
    for (name, bytes) in &files {
        rig.put(name, bytes, &["--on", "cxl0"]).ok();
    }
    let intact = |rig: &Rig, pool: &str| {
        for (name, bytes) in &files {
            assert!(rig.get(name) == *bytes, "{name}");
            assert_eq!(rig.pools_of(name), [pool]);
        }
        rig.sound();
    };
    let used = rig.pool("cxl0", "used");
    let mut holder = Client::start(&rig, "hold", &["/f3", "rw"]);
    for _ in 0..2 {
        rig.ok(&["device", "drain", "cxl0"]);
        assert!(rig.pool("dram", "used") < 10 * MIB, "there they cost what they are");
        intact(&rig, "dram");
        rig.ok(&["device", "online", "cxl0"]);
        intact(&rig, "cxl0");
        assert_eq!(rig.pool("cxl0", "used"), used);
    }
    // What is mapped stays as it is when the daemon dies, and the next one takes all of it over.
    holder.number("get 8");
    rig.kill();
    holder.ask("set 8 77");
    rig.up();
    alone.raised_by(16);
    assert_eq!(rig.pool("cxl0", "used"), used);
    holder_has(&rig, 32 * MIB - used);
    until("the client is back", || (holder.ask("len") == (2_700_010).to_string()).then_some(()));
    rig.sound();
    rig.ok(&["move", "/f3", "--to", "dram"]);
    assert_eq!(holder.number("get 8"), 77);
    rig.ok(&["move", "/f3", "--to", "cxl0"]);
    holder.end();
    rig.feed(&["put", "-", "/f3", "--force", "--on", "cxl0"], &files[3].1).ok();
    rig.ok(&["device", "drain", "cxl0"]);
    rig.ok(&["device", "detach", "cxl0"]);
    alone.raised_by(0);
    assert_eq!(fs::read_dir(rig.dir().join("pools/cxl0")).expect("a directory").count(), 0);
    rig.kill();
    rig.up();
    alone.raised_by(0);
    intact(&rig, "dram");
    rig.ok(&["device", "attach", "cxl0"]);
    alone.raised_by(16);
    alone.nothing_for_strangers();
    rig.ok(&["device", "online", "cxl0"]);
    assert!(files[..3].iter().all(|(name, bytes)| rig.get(name) == *bytes && rig.pools_of(name) == ["cxl0"]));
    rig.sound();
    alone.purge(&rig);
}

#[test]
fn what_was_mapped_before_there_were_huge_pages_is_refused_until_it_is_mapped_anew() {
    let Some(alone) = Alone::with("what_was_mapped_before", HUGE) else { return };
    let rig = Plan::new().device_as("sim0=emulated:64MiB").up();
    rig.put("/f", &pattern(5000, 1), &[]).ok();
    let mut client = Client::start(&rig, "hold", &["/f", "rw"]);
    client.number("get 8");
    rig.kill();
    rig.up_with(&["--device", &alone.device("2M", "8MiB")]);
    until("the client is back", || (client.ask("len") == "5000").then_some(()));
    rig.run(&["move", "/f", "--to", "cxl0"]).fails(5, &["/f", "map it anew"]);
    client.ask("set 8 77");
    client.ask("unmap");
    client.ask("map");
    rig.ok(&["move", "/f", "--to", "cxl0"]);
    assert_eq!(client.number("get 8"), 77);
    rig.ok(&["move", "/f", "--to", "sim0"]);
    assert_eq!(client.number("get 8"), 77);
    client.end();
    rig.sound();
}

#[test]
fn a_mount_reads_and_writes_through_the_daemon() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let Some(alone) = Alone::with("a_mount_reads_and_writes_huge_pages", HUGE) else { return };
    let plan = alone.plan("2M", "32MiB");
    let Some(Mounted { rig, dir }) = mounted("a_mount_reads_and_writes_huge_pages", plan) else { return };
    rig.ok(&["mkdir", "/d", "--on", "cxl0"]);
    let path = dir.join("d/f");
    fs::write(&path, pattern(3 * MIB + 77, 5)).expect("room");
    let meta = fs::metadata(&path).expect("there");
    assert_eq!((meta.len(), meta.blocks() * 512), (3 * MIB + 77, 2 * HUGE));
    let file = File::options().read(true).write(true).open(&path).expect("there");
    // A hole, a write in the midst of it, and one behind the end.
    file.set_len(12 * MIB).expect("longer");
    file.write_all_at(b"here", 9 * MIB).expect("room");
    assert_eq!(fs::metadata(&path).expect("there").blocks() * 512, 3 * HUGE);
    let mut wanted = pattern(3 * MIB + 77, 5);
    wanted.resize(12 << 20, 0);
    wanted[9 << 20..(9 << 20) + 4].copy_from_slice(b"here");
    assert!(fs::read(&path).expect("there") == wanted);
    drop(file);
    let served = rig.row(&["stat", "/d/f"]).to_string();
    assert!(served.contains("hugetlbfs"), "{served}");
    rig.sound();
    rig.ok(&["device", "drain", "cxl0"]);
    assert!(fs::read(&path).expect("there") == wanted);
    rig.ok(&["device", "online", "cxl0"]);
    assert!(fs::read(&path).expect("there") == wanted);
    rig.sound();
}

#[test]
fn pages_of_a_gibibyte_hold_files_too() {
    const NAME: &str = "pages_of_a_gibibyte";
    let Some(alone) = Alone::with(NAME, GIGANTIC) else { return };
    let free = nodes().iter().find(|node| node.node == alone.node).and_then(|node| node.free);
    if free < Some(2 * GIGANTIC) {
        return skipped(NAME, "wants 2 GiB of free memory on the node");
    }
    let rig = alone.plan("1G", "1GiB").place();
    if let Err(said) = rig.try_up("") {
        said.fails(4, &["1 GiB"]);
        return skipped(NAME, "the kernel can't put one together");
    }
    alone.raised_by(1);
    rig.put("/f", &counted(5 * MIB + 4096, 1), &["--on", "cxl0"]).ok();
    assert_eq!((rig.pool("cxl0", "used"), rig.pool("cxl0", "free")), (GIGANTIC, 0));
    rig.put("/g", b"x", &["--on", "cxl0"]).fails(4, &["no space"]);
    rig.ok(&["move", "/f", "--to", "dram"]);
    assert_eq!(rig.pool("dram", "used"), 5 * MIB + 4096);
    rig.ok(&["move", "/f", "--to", "cxl0"]);
    let mut counter = Client::start(&rig, "count", &["/f", "1", "0"]);
    rig.ok(&["move", "/f", "--to", "dram"]);
    rig.ok(&["move", "/f", "--to", "cxl0"]);
    assert_eq!(rig.pools_of("/f"), ["cxl0"]);
    let rounds = [counter.number("stop")];
    check_counted(&rig.get("/f"), 1, &rounds);
    counter.end();
    rig.sound();
    alone.purge(&rig);
}

#[test]
fn a_node_that_has_not_as_many_pages_gives_those_it_has_and_it_is_said() {
    const NAME: &str = "a_node_that_has_not_as_many_pages";
    // To take all of a node is for nodes that nobody else lives on.
    let small = node().filter(|node| node.cpus.is_empty() && setting::may_change_machine());
    let Some(alone) = Alone::with(NAME, HUGE).filter(|_| small.is_some()) else {
        return skipped(NAME, "takes all of a NUMA node without CPUs, which CODAX_TEST_MACHINE=1 allows");
    };
    let all = small.and_then(|node| node.bytes).expect("memory") / HUGE * HUGE;
    let rig = alone.plan("2M", &all.to_string()).up();
    let show = rig.row(&["device", "show", "cxl0"]);
    let number = |field: &str| show["reserve"][field].as_u64().expect("a number");
    let (taken, missing) = (number("taken"), number("missing"));
    assert!(taken > 0 && missing > 0 && taken + missing == all, "{show}");
    assert_eq!((rig.pool("cxl0", "free"), rig.pool("cxl0", "used")), (taken, 0));
    assert!(number("kernel") > 0, "{show}");
    let event = rig.events("reserve").pop().expect("it is told");
    assert!(event.contains("missing") && event.contains("stay with the kernel"), "{event}");
    rig.sound();
    rig.ok(&["device", "drain", "cxl0"]);
    rig.ok(&["device", "online", "cxl0"]);
    rig.kill();
    rig.up();
    // The kernel may find more by then, and not less: what was taken is kept.
    let again = rig.row(&["device", "show", "cxl0"])["reserve"]["taken"].as_u64();
    assert!(again >= Some(taken), "{again:?}");
}

#[test]
fn what_can_not_be_had_is_refused_with_the_reason() {
    let refused = |device: &str, code: i32, says: &[&str]| {
        let rig = Plan::new().device_as(device).place();
        let said = rig.try_up("").expect_err("refused");
        said.fails(code, says);
        assert!(!rig.dir().join("pools").exists(), "nothing is left of it");
    };
    refused("cxl0=numa:0,page=2M,reserve=3MiB", 2, &["not a multiple of the page"]);
    refused("cxl0=numa:0,page=1G,reserve=512MiB", 2, &["not a multiple of the page"]);
    refused("cxl0=numa:0,page=4M", 2, &["4K, thp, 2M and 1G"]);
    let Some(node) = node().filter(|node| !node.huge.is_empty()) else { return };
    let number = node.node;
    refused(&format!("cxl0=numa:{number},cpus=yes,page=2M,reserve=8TiB"), 2, &["in all"]);
    for node in nodes().iter().filter(|node| node.is_movable() == Some(true)) {
        refused(&format!("cxl0=numa:{},cpus=yes,page=1G", node.node), 2, &["movable"]);
    }
    let rig = Plan::new()
        .device_as(&format!("cxl0=numa:{number},cpus=yes,page=2M,reserve=4MiB"))
        .user(65534)
        .place();
    if root() {
        rig.try_up("").expect_err("an ordinary user's").fails(7, &["only root"]);
    }
}
