//! Moves that the kernel makes of hugetlb pages of 2 MiB, between two NUMA nodes without CPUs: under everybody, and with each node's pages where they were.

use crate::client::{Client, STRIDE, check_counted, counted};
use crate::numa::{far, lies_on};
use crate::rig::{MIB, Plan, Rig, Running, pattern, root, skipped, until};
use crate::setting;
use codax_os::hugetlb::{self, NodePages, Policy};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const HUGE: u64 = 2 * MIB;
const LEN: u64 = 6 * MIB + 32_768;
/// What a file of that length has.
const BACKED: u64 = 4 * HUGE;

/// The devices, and what they have.
const POOLS: [(&str, u64); 2] = [("cxl1", 48 * MIB), ("cxl2", 32 * MIB)];

/// Two nodes, and the huge pages that they had. One test at a time: they count.
struct Two {
    nodes: [u32; 2],
    pages: [NodePages; 2],
    before: [u64; 2],
    _lock: File,
}

impl Two {
    /// `None`, and it is said, where the machine has no two such nodes.
    fn with(test: &str) -> Option<Self> {
        let pages = |node: u32| NodePages::of(node, HUGE).ok();
        let found = match far()[..] {
            [a, b, ..] if root() => pages(a).zip(pages(b)).map(|(ours, theirs)| ([a, b], [ours, theirs])),
            _ => None,
        };
        let Some((nodes, pages)) = found else {
            skipped(test, "wants root, hugetlbfs, and two NUMA nodes without CPUs");
            return None;
        };
        let lock = File::create(setting::HUGE_LOCK).expect("root may");
        lock.lock().expect("nobody has it for ever");
        let before = [0, 1].map(|at| pages[at].total().expect("root may read it"));
        Some(Self { nodes, pages, before, _lock: lock })
    }

    fn device(&self, at: usize) -> String {
        let (name, bytes) = POOLS[at];
        format!("{name}=numa:{},page=2M,reserve={bytes}", self.nodes[at])
    }

    fn plan(&self) -> Plan {
        Plan::new().device_as(&self.device(0)).and_device(&self.device(1))
    }

    /// Where the file is; each of its pages lies there.
    #[track_caller]
    fn at_its_place(&self, rig: &Rig, path: &str) -> Vec<String> {
        lies_on(rig, path, &[("cxl1", vec![self.nodes[0]]), ("cxl2", vec![self.nodes[1]])])
    }

    /// Each node has what it had before the store, and what its pool has beyond that, if it is attached.
    #[track_caller]
    fn raised(&self, attached: [bool; 2]) {
        for at in [0, 1] {
            let raised = if attached[at] { POOLS[at].1 / HUGE } else { 0 };
            until("a node's own number of huge pages", || {
                (self.pages[at].total().ok()? == self.before[at] + raised).then_some(())
            });
        }
    }

    /// All that is in no file is in the holders; nobody else gets a page of a node, also if he wants it from there.
    #[track_caller]
    fn kept(&self, rig: &Rig) {
        for (at, (pool, bytes)) in POOLS.iter().enumerate() {
            let kept = bytes - rig.pool(pool, "used");
            let holder = rig.dir().join(format!("pools/cxl1/holder.{pool}"));
            let held = || fs::metadata(&holder).map_or(0, |meta| meta.blocks() * 512);
            until("pages back in the holder", || (held() == kept).then_some(()));
            let _bound = Policy::bind(self.nodes[at]).expect("root may");
            assert!(!hugetlb::can_be_had().expect("asked"), "a stranger got a page of {pool}");
        }
        self.raised([true; 2]);
    }

    #[track_caller]
    fn purge(&self, rig: &Rig) {
        rig.ok(&["down", "--purge"]);
        let status = rig.with_daemon(Running::end);
        assert!(status.success(), "{status}");
        self.raised([false; 2]);
    }
}

/// The one object that a file has, whichever of the pools its pages are in.
fn object(rig: &Rig, path: &str) -> String {
    let id = rig.row(&["stat", path])["id"].as_u64().expect("a number");
    rig.dir().join("pools/cxl1").join(format!("{id:016x}")).display().to_string()
}

fn moves_with(rig: &Rig, pool: &str) -> String {
    rig.row(&["device", "show", pool])["moves_with"].to_string()
}

#[test]
fn the_kernel_moves_huge_pages_under_everybody() {
    let Some(two) = Two::with("the_kernel_moves_huge_pages_under_everybody") else { return };
    let rig = two.plan().patient(Duration::from_secs(2)).up();
    assert_eq!(
        (moves_with(&rig, "cxl1"), moves_with(&rig, "cxl2")),
        (r#"["cxl2"]"#.into(), r#"["cxl1"]"#.into())
    );
    two.kept(&rig);
    rig.put("/f", &counted(LEN, 1), &["--on", "cxl1"]).ok();
    rig.put("/g", &pattern(5000, 2), &["--on", "cxl2"]).ok();
    let mut library = Client::start(&rig, "count", &["/f", "1", "200"]);
    // A program that is no client, with a child of its own and a sleeper on a futex: no switch is possible.
    let mut stranger = Client::start(&rig, "stranger", &[&object(&rig, "/f"), "16"]);
    let identity = fs::metadata(object(&rig, "/f")).expect("there").ino();
    for to in ["cxl2", "cxl1", "cxl2"] {
        let before = stranger.number("rounds");
        rig.ok(&["move", "/f", "--to", to]);
        assert_eq!(two.at_its_place(&rig, "/f"), [to]);
        assert_eq!(rig.pool(to, "used") / HUGE, 4 + u64::from(to == "cxl2"));
        until("it goes on", || (stranger.number("rounds") > before + 1).then_some(()));
        two.kept(&rig);
    }
    // What somebody has pinned stays, whole, and the rest goes.
    assert_eq!(stranger.ask("keep"), "kept");
    rig.run(&["move", "/f", "--to", "cxl1"]).fails(5, &["/f", "pinned for DMA, or in use by the kernel"]);
    assert_eq!(two.at_its_place(&rig, "/f"), ["cxl1", "cxl2"]);
    assert_eq!(rig.pool("cxl2", "used"), 2 * HUGE);
    two.kept(&rig);
    assert_eq!(stranger.ask("release"), "released");
    rig.ok(&["move", "/f", "--to", "cxl1"]);
    // A drain and the way home don't wait for anybody either.
    rig.ok(&["placement", "/f", "--interleave", "cxl1,cxl2"]);
    rig.ok(&["device", "drain", "cxl1"]);
    assert_eq!((two.at_its_place(&rig, "/f"), rig.pool("cxl1", "used")), (vec!["cxl2".to_owned()], 0));
    rig.ok(&["device", "online", "cxl1"]);
    assert_eq!(two.at_its_place(&rig, "/f"), ["cxl1"]);
    two.kept(&rig);
    assert_eq!(fs::metadata(object(&rig, "/f")).expect("there").ino(), identity);
    assert_eq!(stranger.ask("wake"), "1");
    let rounds = library.number("stop");
    library.end();
    stranger.end();
    let (found, wanted) = (rig.get("/f"), counted(LEN, 1));
    for (found, wanted) in found.chunks(STRIDE).zip(wanted.chunks(STRIDE)) {
        assert_eq!(found[8..16], rounds.to_le_bytes(), "the library's own counter");
        assert!(found[64..] == wanted[64..], "bytes that nobody wrote are different");
    }
    assert!(rig.get("/g") == pattern(5000, 2));
    rig.sound();
    rig.ok(&["rm", "/f", "/g"]);
    two.kept(&rig);
    two.purge(&rig);
}

#[test]
fn each_device_comes_and_goes_by_itself() {
    let Some(two) = Two::with("each_device_comes_and_goes_by_itself") else { return };
    let rig = two.plan().up();
    rig.put("/f", &counted(LEN, 1), &["--on", "cxl1"]).ok();
    let mut counter = Client::start(&rig, "count", &["/f", "1", "0"]);
    for (at, other) in [(0, "cxl2"), (1, "cxl1")] {
        let device = POOLS[at].0;
        rig.ok(&["move", "/f", "--to", device]);
        rig.ok(&["placement", "/f", "--interleave", "cxl1,cxl2"]);
        rig.ok(&["device", "drain", device]);
        rig.ok(&["device", "detach", device]);
        let mut attached = [true; 2];
        attached[at] = false;
        two.raised(attached);
        assert!(!rig.dir().join(format!("pools/cxl1/holder.{device}")).exists());
        assert_eq!(two.at_its_place(&rig, "/f"), [other]);
        // Without it the others' objects are reached as before, also by who switches.
        rig.ok(&["move", "/f", "--to", "dram"]);
        rig.kill();
        rig.up();
        two.raised(attached);
        rig.until_mapped_again("/f");
        rig.ok(&["move", "/f", "--to", other]);
        assert_eq!(two.at_its_place(&rig, "/f"), [other]);
        rig.sound();
        rig.ok(&["device", "attach", device]);
        rig.ok(&["device", "online", device]);
        two.kept(&rig);
        rig.ok(&["move", "/f", "--to", device]);
        assert_eq!(two.at_its_place(&rig, "/f"), [device]);
        two.kept(&rig);
    }
    let rounds = counter.number("stop");
    check_counted(&rig.get("/f"), 1, &[rounds]);
    counter.end();
    rig.sound();
    // What nobody serves gives all back as well.
    rig.kill();
    rig.ok(&["down", "--purge"]);
    two.raised([false; 2]);
}

#[test]
fn after_a_kill_in_the_middle_huge_pages_are_where_the_journal_says() {
    let Some(two) = Two::with("after_a_kill_in_the_middle_huge_pages") else { return };
    let rig = two.plan().up();
    rig.put("/f", &counted(LEN, 1), &["--on", "cxl1"]).ok();
    let mut library = Client::start(&rig, "count", &["/f", "1", "200"]);
    rig.kill();
    rig.try_up("move:copied:1=kill").expect("it starts");
    rig.run(&["move", "/f", "--to", "cxl2"]).fails(8, &[]);
    rig.with_daemon(Running::end);
    rig.up();
    assert_eq!(rig.pools_of("/f"), ["cxl1"], "nothing was committed");
    until("they are brought back", || rig.events("stray").pop());
    assert_eq!(two.at_its_place(&rig, "/f"), ["cxl1"]);
    two.kept(&rig);
    rig.ok(&["move", "/f", "--to", "cxl2"]);
    assert_eq!((two.at_its_place(&rig, "/f"), rig.pool("cxl2", "used")), (vec!["cxl2".to_owned()], BACKED));
    two.kept(&rig);
    library.number("stop");
    library.end();
    rig.sound();
    two.purge(&rig);
}

#[test]
fn strangers_who_want_huge_pages_meanwhile_cost_no_node_any() {
    let Some(two) = Two::with("strangers_who_want_huge_pages_meanwhile") else { return };
    let rig = two.plan().up();
    rig.put("/f", &pattern(LEN, 1), &["--on", "cxl1"]).ok();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for node in two.nodes {
            let stop = &stop;
            scope.spawn(move || {
                let _bound = Policy::bind(node).expect("root may");
                while !stop.load(Ordering::Relaxed) {
                    let _ = hugetlb::can_be_had();
                    std::thread::yield_now();
                }
            });
        }
        for to in ["cxl2", "cxl1"].repeat(6) {
            let said = rig.run(&["move", "/f", "--to", to]);
            // They may be quicker: then it is said, and what has moved has moved.
            if said.code != 0 {
                said.fails(4, &["others have taken it"]);
            }
            two.at_its_place(&rig, "/f");
        }
        stop.store(true, Ordering::Relaxed);
    });
    until("there is room again", || (rig.run(&["move", "/f", "--to", "cxl2"]).code == 0).then_some(()));
    assert_eq!(two.at_its_place(&rig, "/f"), ["cxl2"]);
    two.kept(&rig);
    assert!(rig.get("/f") == pattern(LEN, 1));
    rig.sound();
    two.purge(&rig);
}

#[test]
fn a_device_that_comes_later_has_objects_of_its_own() {
    let Some(two) = Two::with("a_device_that_comes_later") else { return };
    let rig = Plan::new().device_as(&two.device(0)).up();
    rig.put("/f", &counted(LEN, 1), &["--on", "cxl1"]).ok();
    let mut counter = Client::start(&rig, "count", &["/f", "1", "0"]);
    rig.kill();
    rig.up_with(&["--device", &two.device(1)]);
    assert_eq!(moves_with(&rig, "cxl2"), "[]");
    two.raised([true; 2]);
    rig.until_mapped_again("/f");
    rig.ok(&["move", "/f", "--to", "cxl2"]);
    assert_eq!(two.at_its_place(&rig, "/f"), ["cxl2"]);
    let rounds = counter.number("stop");
    check_counted(&rig.get("/f"), 1, &[rounds]);
    counter.end();
    rig.sound();
    two.purge(&rig);
}
