//! What is there after a machine has been without power: one of these tests in each boot of a guest, which has the same devices each time.
//!
//! `CODAX_TEST_STAGE` says which boot it is, and `tests/guest/power` has their order; where it is not set there is nothing to do. What one
//! writes the next looks for, so names and bytes are in one place.

use crate::client::{Client, check_on_the_way, counted};
use crate::mount::{Mounted, mounted};
use crate::rig::{MIB, Plan, Rig, pattern, skipped, until};
use crate::setting;
use codax::{Access, Store};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// What the host waits for before it cuts the power.
const CUT: &str = "cut the power";

/// The directory of the second device's filesystem that is a pool.
const DIR: &str = "codax";

/// A store with three devices: two that outlive the power, and one that doesn't. `format` says what may be done with what they hold.
fn plan(format: &str) -> Option<Plan> {
    let (pmem, hmem, files) = (setting::devdax()?, setting::hmem()?, setting::fsdax()?);
    let dir = Path::new(&files).join(DIR);
    fs::create_dir_all(&dir).expect("root may");
    let plan = Plan::new().device_as(&format!("pmem=devdax:{pmem}{format}"));
    let plan = plan.and_device(&format!("files=fsdax:{},size=160MiB{format}", dir.display()));
    Some(plan.and_device(&format!("hmem=devdax:{hmem},format")))
}

/// The store, mounted, if this is the boot for it.
fn stage(name: &str, format: &str) -> Option<Mounted> {
    is_stage(name).then(|| mounted(name, plan(format).expect("a guest with devices")))?
}

fn is_stage(name: &str) -> bool {
    let is = std::env::var("CODAX_TEST_STAGE").as_deref() == Ok(name);
    if !is {
        skipped(name, "it is one of several boots of a guest");
    }
    is
}

/// Says that the power may be cut, and waits for that.
fn await_cut() -> ! {
    println!("\n{CUT}");
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// What a file is like, in whichever boot.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    len: u64,
    mtime: i64,
}

fn facts(path: &Path) -> Facts {
    let meta = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Facts {
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        links: if meta.is_dir() { 0 } else { meta.nlink() },
        len: if meta.is_dir() { 0 } else { meta.len() },
        mtime: meta.mtime(),
    }
}

const LONG: u64 = 3 * MIB + 123;
const SPREAD: u64 = 6 * MIB;
const THEN: i64 = 1_000_000_000;

/// Everything that outlives the power, with what it must be.
fn outliving() -> Vec<(&'static str, Facts)> {
    let facts = |mode, owner, links, len| Facts { mode, owner, links, len, mtime: THEN };
    vec![
        ("d", facts(0o750, (1001, 2001), 0, 0)),
        ("d/a", facts(0o640, (1000, 2000), 2, LONG)),
        ("link", facts(0o640, (1000, 2000), 2, LONG)),
        ("d/empty", facts(0o4711, (7, 8), 1, 0)),
        ("d/through", facts(0o600, (0, 0), 1, 70_000)),
        ("f", facts(0o700, (0, 0), 0, 0)),
        ("f/deep", facts(0o1777, (65534, 65534), 0, 0)),
        ("f/deep/b", facts(0o604, (0, 0), 1, 5000)),
        ("spread", facts(0o644, (0, 0), 1, SPREAD)),
        ("across", facts(0o644, (0, 0), 1, SPREAD)),
        ("volatile", facts(0o644, (0, 0), 1, SPREAD)),
    ]
}

#[test]
fn the_first_guest_writes() {
    let Some(Mounted { rig, dir }) = stage("the_first_guest_writes", ",format") else { return };
    rig.ok(&["mkdir", "/d", "--on", "pmem"]);
    rig.ok(&["mkdir", "/f", "--on", "files"]);
    rig.put("/d/a", &pattern(LONG, 1), &[]).ok();
    fs::hard_link(dir.join("d/a"), dir.join("link")).expect("one file, two names");
    std::os::unix::fs::symlink("a", dir.join("d/short")).expect("a link");
    rig.put("/d/empty", b"", &[]).ok();
    fs::write(dir.join("d/through"), pattern(70_000, 2)).expect("room");
    fs::create_dir(dir.join("f/deep")).expect("a directory");
    rig.put("/f/deep/b", &pattern(5000, 3), &[]).ok();
    let attribute = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(dir.join("f/deep/b"), "user.colour", b"red", attribute).expect("an attribute");
    for (name, seed, other) in [("/spread", 4, "dram"), ("/across", 5, "files"), ("/volatile", 6, "hmem")] {
        rig.put(name, &pattern(SPREAD, seed), &["--on", "pmem"]).ok();
        rig.ok(&["move", name, "--to", other, "--range", "2MiB:2MiB"]);
        assert_eq!(rig.row(&["stat", name])["persistent"], other == "files");
    }
    rig.put("/gone", &pattern(MIB, 7), &[]).ok();
    rig.put("/d/gone", &pattern(MIB, 8), &["--on", "hmem"]).ok();
    rig.ok(&["mkdir", "/gone-too"]);
    assert_eq!(rig.row(&["stat", "/d/a"])["persistent"], true);
    assert_eq!(rig.row(&["stat", "/gone"])["persistent"], false);
    let kinds: Vec<_> = rig.rows(&["device", "list"]).iter().map(|row| row["persistent"].clone()).collect();
    assert_eq!(kinds, [true, true, false].map(Value::from));
    for (name, facts) in outliving().into_iter().rev() {
        let path = dir.join(name);
        std::os::unix::fs::chown(&path, Some(facts.owner.0), Some(facts.owner.1)).expect("root may");
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(facts.mode))
            .expect("root may");
        let then = UNIX_EPOCH + Duration::from_secs(THEN.unsigned_abs());
        File::open(&path).and_then(|file| file.set_modified(then)).expect("root may");
    }
    rig.sound();
    rig.down();
}

#[test]
fn the_second_guest_reads() {
    let Some(Mounted { rig, dir }) = stage("the_second_guest_reads", "") else { return };
    for (name, wanted) in outliving() {
        assert_eq!(facts(&dir.join(name)), wanted, "{name}");
    }
    assert_eq!(fs::read_link(dir.join("d/short")).expect("a link"), Path::new("a"));
    let inode = |name: &str| fs::metadata(dir.join(name)).expect("there").ino();
    assert_eq!(inode("d/a"), inode("link"), "one file, two names");
    let names = |below: &str| {
        let mut names: Vec<_> = fs::read_dir(dir.join(below))
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        names(""),
        ["across", "d", "f", "link", "spread", "volatile"],
        "what was volatile is gone with its name"
    );
    assert_eq!(names("d"), ["a", "empty", "short", "through"]);
    let mut colour = [0; 8];
    let len =
        rustix::fs::getxattr(dir.join("f/deep/b"), "user.colour", &mut colour[..]).expect("an attribute");
    assert_eq!(&colour[..len], b"red");
    for (name, len, seed) in
        [("/d/a", LONG, 1), ("/d/through", 70_000, 2), ("/f/deep/b", 5000, 3), ("/across", SPREAD, 5)]
    {
        assert!(rig.get(name) == pattern(len, seed), "{name}");
        assert!(fs::read(dir.join(&name[1..])).expect("there") == pattern(len, seed), "{name}, mounted");
        assert_eq!(rig.row(&["stat", name])["persistent"], true, "{name}");
    }
    assert_eq!(rig.pools_of("/across"), ["files", "pmem"]);
    for (name, seed) in [("/spread", 4), ("/volatile", 6)] {
        lacks_its_middle(&rig, &dir, name, &pattern(SPREAD, seed));
    }
    rig.sound();
    // It is a store as any: what is placed where it was goes there, and what lacks bytes can be written anew and removed.
    rig.put("/d/new", b"new", &[]).ok();
    assert_eq!(rig.pools_of("/d/new"), ["pmem"]);
    rig.put("/spread", &pattern(SPREAD, 9), &["-f", "--on", "files"]).ok();
    assert!(rig.get("/spread") == pattern(SPREAD, 9));
    rig.ok(&["rm", "/volatile"]);
    rig.sound();
    rig.down();
    rig.try_up(IN_A_MOVE).expect("it starts");
    assert!(rig.get("/across") == pattern(SPREAD, 5));
    rig.sound();
    rig.ok(&["mount", dir.to_str().expect("text")]);
    before_the_cut(&rig, &dir);
}

/// Bytes of a buffer.
fn part(from: u64, to: u64) -> std::ops::Range<usize> {
    usize::try_from(from).expect("small")..usize::try_from(to).expect("small")
}

/// The second of three parts of a file lay where the power keeps nothing: it is an error, never zeros, and the rest is there.
fn lacks_its_middle(rig: &Rig, dir: &Path, name: &str, bytes: &[u8]) {
    let (start, end) = (2 * MIB, 4 * MIB);
    let file = File::open(dir.join(&name[1..])).expect("there");
    for range in [part(0, start), part(end, SPREAD)] {
        let mut buf = vec![0; range.len()];
        file.read_exact_at(&mut buf, range.start as u64).expect("it lay on a device that kept it");
        assert!(buf == bytes[range], "{name}");
    }
    for at in [start, start + 4096, end - 4096] {
        let gone = file.read_at(&mut [0; 4096], at).expect_err("gone");
        assert_eq!(gone.raw_os_error(), Some(libc::EIO), "{name} at {at}");
    }
    // Up to where it lacks bytes a read gives what there is.
    let mut across = [0; 8192];
    assert_eq!(file.read_at(&mut across, start - 4096).expect("a part of it is there"), 4096);
    rig.run(&["get", name, "-"]).fails(9, &[name, &format!("{start}..{end}")]);
    let stat = rig.row(&["stat", name]);
    assert_eq!(
        stat["lost"],
        serde_json::json!([{ "page": start >> 12, "pages": (end - start) >> 12 }]),
        "{stat}"
    );
}

/// Files whose moves the cut comes in: from a device that outlives the power to another, and to memory that doesn't.
const MOVED: [(&str, &str, u64); 2] = [("/kept", "files", 11), ("/risked", "dram", 12)];
const MOVED_LEN: u64 = 8 * MIB;

/// The tenth chunk has been copied and isn't committed: the daemon stops there, and then the power is cut.
const IN_A_MOVE: &str = "move:copied:10=stop";

/// Makes bytes durable in each of the ways there are, and cuts the power while files are moved to and fro.
fn before_the_cut(rig: &Rig, dir: &Path) -> ! {
    let store = Store::connect(rig.dir()).expect("a daemon");
    let mut options = codax::OpenOptions::new().read(true).write(true).create(true).len(4 * MIB).clone();
    for (pool, seed, synced) in [("pmem", 21, "d/synced"), ("files", 22, "f/synced")] {
        options = options.on(pool);
        let (_, mapping) =
            options.open_mapped(&store, format!("/persisted-{pool}"), .., Access::ReadWrite).expect("room");
        let bytes = pattern(4 * MIB, seed);
        // One in the middle of a page, one over a border of huge pages, one of a word.
        for (from, to) in PERSISTED {
            let range = part(from, to);
            mapping.memory().write_at(range.start, &bytes[range]);
            mapping.persist(from..to).expect("durable");
        }
        let synced = File::create(dir.join(synced)).expect("room");
        synced.write_all_at(&pattern(MIB, seed), 100).expect("room");
        synced.sync_all().expect("durable");
        drop((mapping, synced));
    }
    // What lies where the power keeps nothing is never said to be durable.
    let (_, mapping) =
        options.on("dram").open_mapped(&store, "/fleeting", .., Access::ReadWrite).expect("room");
    let refused = mapping.persist(..).expect_err("it lies in dram");
    assert_eq!(refused.kind, codax::ErrorKind::NotSupported);
    for (name, _, seed) in MOVED {
        rig.put(name, &counted(MOVED_LEN, seed), &["--on", "pmem"]).ok();
    }
    rig.ok(&["move", "/risked", "--to", "dram", "--range", "0:2MiB"]);
    let _counters: Vec<_> =
        MOVED.iter().map(|(name, ..)| Client::start(rig, "count", &[name, "1", "200"])).collect();
    std::thread::scope(|scope| {
        for (name, other, _) in MOVED {
            scope.spawn(move || {
                // What stays keeps the name.
                let range = ["--range", "2MiB:4MiB"];
                loop {
                    rig.ok(&[&["move", name, "--to", other][..], &range].concat());
                    rig.ok(&[&["move", name, "--to", "pmem"][..], &range].concat());
                }
            });
        }
        rig.with_daemon(|daemon| daemon.await_state('T'));
        await_cut()
    })
}

/// Bytes of a file that are made durable, from and to.
const PERSISTED: [(u64, u64); 3] = [(1000, 3000), (2 * MIB - 5000, 2 * MIB + 5000), (3 * MIB, 3 * MIB + 8)];

#[test]
fn what_was_made_durable_is_there_after_the_cut() {
    let Some(Mounted { rig, dir }) = stage("what_was_made_durable_is_there_after_the_cut", "") else {
        return;
    };
    for (pool, seed, synced) in [("pmem", 21, "d/synced"), ("files", 22, "f/synced")] {
        let (bytes, found) = (pattern(4 * MIB, seed), rig.get(&format!("/persisted-{pool}")));
        for (from, to) in PERSISTED {
            let range = part(from, to);
            assert!(found[range.clone()] == bytes[range], "{from}..{to} in {pool}");
        }
        let found = fs::read(dir.join(synced)).expect("there");
        assert!(found[100..] == pattern(MIB, seed), "synced in {pool}");
    }
    rig.run(&["stat", "/fleeting"]).fails(3, &["/fleeting"]);
    // The one was always on devices that kept it; of the other, what was not is an error.
    check_on_the_way(&rig.get("/kept"), 11, |_| true);
    let (bytes, there) = what_is_there(&dir.join("risked"));
    println!("{} of {} pages of what moved to and from dram are there", there.len(), MOVED_LEN >> 12);
    assert!((0..512).all(|page| !there.contains(&page)), "its begin lay in dram");
    assert!((1536..2048).all(|page| there.contains(&page)), "its end lay on the device");
    check_on_the_way(&bytes, 12, |at| there.contains(&(at >> 12)));
    for (name, wanted) in outliving() {
        if !["spread", "volatile", "d", "f"].contains(&name) {
            assert_eq!(facts(&dir.join(name)), wanted, "{name}");
        }
    }
    assert!(rig.get("/across") == pattern(SPREAD, 5));
    rig.sound();
    rig.down();
    drop(rig);
    format_until_cut()
}

/// The bytes of a file, and which of its pages can be read.
fn what_is_there(path: &Path) -> (Vec<u8>, BTreeSet<usize>) {
    let file = File::open(path).expect("its name is on the device");
    let mut bytes = vec![0; usize::try_from(MOVED_LEN).expect("small")];
    let mut there = BTreeSet::new();
    for (at, page) in bytes.chunks_mut(4096).enumerate() {
        match file.read_exact_at(page, (at << 12) as u64) {
            Ok(()) => drop(there.insert(at)),
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::EIO), "page {at}"),
        }
    }
    (bytes, there)
}

/// The two that outlive the power, each as the only device of a store.
fn alone(format: &str) -> [Plan; 2] {
    let all = plan(format).expect("a guest with devices");
    all.each_device()
        .filter(|device| !device.starts_with("hmem"))
        .map(|device| Plan::new().device_as(device))
        .collect::<Vec<_>>()
        .try_into()
        .expect("two")
}

/// Formats both devices, each for a store of its own, and cuts the power when both have begun.
fn format_until_cut() -> ! {
    for plan in alone(",format=force") {
        std::thread::spawn(move || {
            panic!("it isn't stopped: {:?}", plan.place().try_up("format:begun=stop"))
        });
    }
    until("that both have begun", || (stopped_children() == 2).then_some(()));
    await_cut()
}

/// How many of this process's children are stopped.
fn stopped_children() -> usize {
    let own = std::process::id().to_string();
    let is_one = |entry: std::io::Result<fs::DirEntry>| {
        let stat = fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        // Behind the command, which is in parentheses: the state, the parent.
        let mut words = stat.rsplit_once(')')?.1.split_whitespace();
        (words.next()? == "T" && words.next()? == own).then_some(())
    };
    fs::read_dir("/proc").expect("linux").filter_map(is_one).count()
}

#[test]
fn a_format_that_was_cut_off_is_said_and_done_again() {
    let name = "a_format_that_was_cut_off_is_said_and_done_again";
    if !is_stage(name) {
        return;
    }
    for plan in alone("") {
        let said = plan.place().try_up("").expect_err("it is neither this nor that");
        said.fails(9, &["cut off", "format"]);
    }
    let rig = plan(",format").expect("a guest with devices").up();
    for (name, pool) in [("/f", "pmem"), ("/g", "files")] {
        rig.put(name, &pattern(MIB, 1), &["--on", pool]).ok();
        assert!(rig.get(name) == pattern(MIB, 1));
    }
    rig.sound();
}

#[test]
fn a_device_of_another_length_is_refused() {
    if !is_stage("a_device_of_another_length_is_refused") {
        return;
    }
    let pmem = setting::devdax().expect("a guest with devices");
    let bytes = codax_os::dax::DaxDevice::open(Path::new(&pmem), false).expect("a device").len();
    let plan = |format: &str| Plan::new().device_as(&format!("pmem=devdax:{pmem}{format}"));
    for format in ["", ",format"] {
        let said = plan(format).place().try_up("").expect_err("refused");
        let words = said.err.clone();
        said.fails(6, &["device pmem", &format!("has {bytes} bytes")]);
        assert!(words.contains("shorter than the") != words.contains("longer than the"), "{words}");
    }
}
