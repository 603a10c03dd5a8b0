//! Moves that the kernel makes, between pools of NUMA nodes whose pages are of one kind: under everybody, the library or not.

use crate::client::{Client, STRIDE, counted};
use crate::mount::{Mounted, mounted};
use crate::numa::{at_its_place, far};
use crate::rig::{MIB, Plan, Rig, Running, pattern, root, skipped, until};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::Duration;

const USUAL: Duration = Duration::from_secs(10);
const LEN: u64 = 6 * MIB + 32_768;

/// Stores whose device is a node without CPUs and shares its objects with `dram`, in both kinds of pages; with the node.
fn stores(test: &str, patience: Duration) -> Vec<(Mounted, u32)> {
    let Some(node) = far().first().copied().filter(|_| root()) else {
        skipped(test, "wants root, and a NUMA node without CPUs");
        return Vec::new();
    };
    let store = |(page, huge): (&str, &str)| {
        let plan = Plan::new().device_as(&format!("cxl0=numa:{node},page={page},reserve=64MiB"));
        Some((mounted(test, plan.huge(huge).patient(patience))?, node))
    };
    [("thp", "within_size"), ("4K", "never")].into_iter().filter_map(store).collect()
}

/// Where the file's object is, whichever pools its pages are in.
fn object(rig: &Rig, path: &str) -> String {
    let id = rig.row(&["stat", path])["id"].as_u64().expect("a number");
    rig.dir().join("pools/dram").join(format!("{id:016x}")).display().to_string()
}

#[test]
fn the_kernel_moves_pages_under_everybody() {
    for (Mounted { rig, dir }, node) in stores("the_kernel_moves_pages_under_everybody", USUAL) {
        rig.put("/f", &counted(LEN, 1), &[]).ok();
        let mut library = Client::start(&rig, "count", &["/f", "1", "200"]);
        let through = dir.join("f").display().to_string();
        let mut strangers = [(through, "16"), (object(&rig, "/f"), "32")]
            .map(|(path, at)| Client::start(&rig, "stranger", &[&path, at]));
        for to in ["cxl0", "dram", "cxl0"] {
            let before: Vec<u64> = strangers.iter_mut().map(|s| s.number("rounds")).collect();
            rig.ok(&["move", "/f", "--to", to]);
            assert_eq!(at_its_place(&rig, "/f", node), [to]);
            until("all go on", || {
                let on =
                    strangers.iter_mut().zip(&before).all(|(s, before)| s.number("rounds") > *before + 1);
                on.then_some(())
            });
        }
        // A drain doesn't wait for them either, nor does the way home.
        rig.ok(&["device", "drain", "cxl0"]);
        assert_eq!(at_its_place(&rig, "/f", node), ["dram"]);
        assert_eq!(rig.pool("cxl0", "used"), 0);
        rig.ok(&["device", "online", "cxl0"]);
        assert_eq!(at_its_place(&rig, "/f", node), ["cxl0"]);
        // Who slept on a futex before the moves is woken through the mapping that he has had all the time.
        strangers.iter_mut().for_each(|s| assert_eq!(s.ask("wake"), "1"));
        let rounds = library.number("stop");
        library.end();
        strangers.into_iter().for_each(Client::end);
        let (found, wanted) = (rig.get("/f"), counted(LEN, 1));
        for (found, wanted) in found.chunks(STRIDE).zip(wanted.chunks(STRIDE)) {
            assert_eq!(found[8..16], rounds.to_le_bytes(), "the library's own counter");
            assert!(found[64..] == wanted[64..], "bytes that nobody wrote are different");
        }
        rig.sound();
    }
}

#[test]
fn pages_that_somebody_keeps_stay_and_it_is_said() {
    for (Mounted { rig, dir }, node) in
        stores("pages_that_somebody_keeps_stay_and_it_is_said", Duration::from_secs(1))
    {
        rig.put("/f", &counted(LEN, 1), &["--on", "cxl0"]).ok();
        let mut stranger = Client::start(&rig, "stranger", &[&dir.join("f").display().to_string(), "16"]);
        assert_eq!(stranger.ask("keep"), "kept");
        rig.run(&["move", "/f", "--to", "dram"]).fails(5, &["/f", "pinned for DMA, or in use by the kernel"]);
        // What can go has gone, and each page is where the table says.
        assert_eq!(at_its_place(&rig, "/f", node), ["cxl0", "dram"]);
        rig.run(&["device", "drain", "cxl0"]).fails(5, &["/f", "pinned for DMA, or in use by the kernel"]);
        assert_eq!((rig.state("cxl0"), rig.pool("cxl0", "held")), ("online".to_owned(), 0));
        assert_eq!(stranger.ask("release"), "released");
        rig.ok(&["device", "drain", "cxl0"]);
        assert_eq!(at_its_place(&rig, "/f", node), ["dram"]);
        rig.ok(&["device", "online", "cxl0"]);
        stranger.end();
        rig.sound();
    }
}

#[test]
fn what_programs_write_during_a_drain_goes_elsewhere() {
    for (Mounted { rig, dir }, node) in stores("what_programs_write_during_a_drain_goes_elsewhere", USUAL) {
        rig.ok(&["mkdir", "/d", "--on", "cxl0"]);
        let path = dir.join("d/log");
        let mut log = File::create(&path).expect("a file in the mount");
        let line = pattern(100_000, 3);
        (0..20).for_each(|_| log.write_all(&line).expect("room"));
        let empty = File::create(dir.join("d/empty")).expect("a file in the mount");
        rig.ok(&["device", "drain", "cxl0"]);
        (0..20).for_each(|_| log.write_all(&line).expect("room"));
        empty.write_all_at(&line, 0).expect("room");
        for (name, len) in [("/d/log", 4_000_000), ("/d/empty", 100_000)] {
            until("its pages have frames", || {
                (rig.row(&["stat", name])["backed"].as_u64() >= Some(len)).then_some(())
            });
            assert_eq!(at_its_place(&rig, name, node), ["dram"]);
        }
        assert_eq!(rig.pool("cxl0", "used"), 0);
        rig.ok(&["device", "online", "cxl0"]);
        let left = rig.row(&["stat", "/d/log"]);
        assert!(rig.pools_of("/d/log").contains(&"cxl0".to_owned()), "what was there is home: {left}");
        assert_eq!(at_its_place(&rig, "/d/log", node).len(), 2);
        drop((log, empty));
        assert!(fs::read(&path).expect("there") == line.repeat(40));
        rig.sound();
    }
}

#[test]
fn a_full_pool_is_full_for_programs_too() {
    for (Mounted { rig, dir }, node) in stores("a_full_pool_is_full_for_programs_too", USUAL) {
        rig.ok(&["mkdir", "/d", "--on", "cxl0"]);
        for (name, pool) in [("f", "dram"), ("d/f", "cxl0")] {
            let mut file = File::create(dir.join(name)).expect("a file in the mount");
            let mut written = 0;
            let full = loop {
                match file.write(&[7; 1 << 20]) {
                    Ok(n) => written += n as u64,
                    Err(e) => break e,
                }
            };
            assert_eq!(full.raw_os_error(), Some(libc::ENOSPC), "{full}");
            let stat = rig.row(&["stat", &format!("/{name}")]);
            assert_eq!(
                (stat["len"].as_u64(), rig.pools_of(&format!("/{name}"))),
                (Some(written), vec![pool.to_owned()])
            );
            assert!(written > 60 * MIB, "{written} bytes in {pool}");
            assert_eq!(rig.pool(pool, "free"), 0);
            drop(file);
        }
        at_its_place(&rig, "/d/f", node);
        rig.sound();
    }
}

#[test]
fn after_a_kill_in_the_middle_pages_are_where_the_journal_says() {
    for (Mounted { rig, .. }, node) in stores("after_a_kill_in_the_middle", USUAL) {
        rig.put("/f", &counted(LEN, 1), &[]).ok();
        let mut library = Client::start(&rig, "count", &["/f", "1", "200"]);
        rig.kill();
        rig.try_up("move:copied:1=kill").expect("it starts");
        rig.run(&["move", "/f", "--to", "cxl0"]).fails(8, &[]);
        rig.with_daemon(Running::end);
        rig.up();
        assert_eq!(rig.pools_of("/f"), ["dram"], "nothing was committed");
        until("the patrol brings them back", || rig.events("stray").pop());
        assert_eq!(at_its_place(&rig, "/f", node), ["dram"]);
        rig.ok(&["move", "/f", "--to", "cxl0"]);
        assert_eq!(at_its_place(&rig, "/f", node), ["cxl0"]);
        library.number("stop");
        library.end();
        rig.sound();
    }
}
