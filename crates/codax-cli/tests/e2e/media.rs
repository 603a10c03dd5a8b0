//! DAX devices and directories that can't be a pool, or are one in an unusual way: each with what is said of it.

use crate::rig::{MIB, NOBODY, Plan, Rig, pattern, root, skipped, until};
use crate::setting;
use codax_os::dax::{DaxDevice, DaxMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of a superblock.
const SUPERBLOCK: usize = 4096;

/// The device that a run may do with what it likes, and a turn on it that is longer than that of one store; else the test is skipped.
fn device(test: &str) -> Option<(String, fs::File)> {
    turn_on(setting::devdax(), test)
}

fn turn_on(path: Option<String>, test: &str) -> Option<(String, fs::File)> {
    let Some(path) = path.filter(|_| root() && setting::may_change_machine()) else {
        skipped(test, "wants a DAX device or filesystem in a guest");
        return None;
    };
    let lock = fs::File::create("/dev/shm/codax-e2e-media.lock").expect("root may");
    lock.lock().expect("nobody has it for ever");
    Some((path, lock))
}

fn plan(path: &str, options: &str) -> Plan {
    Plan::new().device_as(&format!("pmem=devdax:{path}{options}"))
}

/// A store on the device, which is formatted for it.
fn made(path: &str) -> Rig {
    plan(path, ",format=force").up()
}

/// A start with the device is refused, of another store than that of the rig, which has its turn on it and doesn't run.
#[track_caller]
fn refused(turn: &Rig, device: &str, code: i32, says: &[&str]) {
    let dir = turn.beside("refused");
    let store = dir.to_str().expect("text");
    let said = turn.run(&["up", "--store", store, "--dram", "1MiB", "--device", &format!("pmem={device}")]);
    said.fails(code, &[&["pmem"], says].concat());
}

/// All of the device, for reading and writing.
fn whole(path: &str) -> (DaxMap, u64) {
    let device = DaxDevice::open(Path::new(path), true).expect("root may");
    (device.map(0, device.len()).expect("mapped"), device.len())
}

/// Changes the superblocks, both.
fn patch(path: &str, change: impl Fn(&mut [u8])) {
    let (map, len) = whole(path);
    for at in [0, len - SUPERBLOCK as u64] {
        let mut block = [0; SUPERBLOCK];
        assert_eq!(map.read(at, &mut block).expect("read"), SUPERBLOCK);
        change(&mut block);
        assert_eq!(map.write(at, &block).expect("written"), SUPERBLOCK);
        map.persist(at, SUPERBLOCK as u64).expect("durable");
    }
}

/// CRC-32C, a bit at a time.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    let one = |crc: u32, byte: u8| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    };
    !bytes.fold(u32::MAX, one)
}

#[test]
fn what_is_no_device_in_devdax_mode_is_refused() {
    let Some((path, _turn)) = device("what_is_no_device_in_devdax_mode_is_refused") else { return };
    let turn = plan(&path, "").place();
    for (what, code, says) in [
        ("devdax:/dev/null", 2, "is no DAX device"),
        ("devdax:/w", 2, "is no DAX device"),
        ("devdax:/dev/dax9.9", 3, "there is no /dev/dax9.9"),
        ("devdax:dax0.0", 2, "does not begin with /"),
        ("fsdax:/no/such/directory", 3, "/no/such/directory"),
        ("fsdax:/dev/null", 2, "is not a directory"),
    ] {
        refused(&turn, what, code, &[says]);
    }
    let Some(hmem) = setting::hmem() else { return };
    let hmem = DaxDevice::open(Path::new(&hmem), false).expect("root may").name().to_owned();
    // The other half of its range.
    let ram = format!("{}1", hmem.strip_suffix('0').expect("the first"));
    if Path::new("/sys/bus/dax/devices").join(&ram).exists() {
        refused(
            &turn,
            &format!("devdax:/dev/{ram}"),
            6,
            &["in use as system RAM", "daxctl reconfigure-device -m devdax"],
        );
    }
}

#[test]
fn a_device_has_one_store() {
    let Some((path, _turn)) = device("a_device_has_one_store") else { return };
    let rig = made(&path);
    rig.put("/f", &pattern(MIB, 1), &["--on", "pmem"]).ok();
    let name = DaxDevice::open(Path::new(&path), false).expect("root may").name().to_owned();
    // By whichever name of it.
    for (also, options) in [(path.clone(), ""), (path.clone(), ",format=force"), (format!("/dev/{name}"), "")]
    {
        let dir = rig.beside("second");
        let words = ["up", "--store", dir.to_str().expect("text"), "--dram", "1MiB", "--device"];
        let device = format!("pmem=devdax:{also}{options}");
        rig.run(&[&words[..], &[&device]].concat()).fails(5, &["pmem", "in use"]);
    }
    assert_eq!(rig.get("/f"), pattern(MIB, 1));
    rig.sound();
    rig.down();
    // And once.
    let twice = format!("again=devdax:/dev/{name}");
    rig.try_up_with(&["--device", &twice]).expect_err("refused").fails(5, &["again"]);
    rig.up();
    assert_eq!(rig.get("/f"), pattern(MIB, 1));
}

#[test]
fn a_device_that_somebody_maps_is_not_taken() {
    let Some((path, _turn)) = device("a_device_that_somebody_maps_is_not_taken") else { return };
    let rig = plan(&path, ",format=force").place();
    let (map, _) = whole(&path);
    let mine = format!("mapped by process {}", std::process::id());
    rig.try_up("").expect_err("this process would write to it").fails(5, &["pmem", &mine]);
    drop(map);
    rig.up();
    rig.put("/f", &pattern(MIB, 1), &["--on", "pmem"]).ok();
    rig.sound();
    rig.down();
    // What it knows already it may have: its own clients map it on.
    let (_map, _) = whole(&path);
    rig.up();
    assert_eq!(rig.get("/f"), pattern(MIB, 1));
}

#[test]
fn what_somebody_has_on_a_device_stays() {
    let Some((path, _turn)) = device("what_somebody_has_on_a_device_stays") else { return };
    let turn = plan(&path, "").place();
    for (at, mark, whose) in
        [(0x438, &b"\x53\xef"[..], "an ext4 filesystem"), (0, b"LUKS\xba\xbe", "a LUKS volume")]
    {
        let (map, len) = whole(&path);
        map.zero(0, MIB).expect("cleared");
        map.zero(len - MIB, MIB).expect("cleared");
        refused(&turn, &format!("devdax:{path}"), 3, &["holds nothing yet", "format"]);
        map.write(at, mark).expect("written");
        refused(&turn, &format!("devdax:{path}"), 10, &[whose, "format"]);
        let mut found = vec![0; mark.len()];
        map.read(at, &mut found).expect("read");
        assert_eq!(found, mark, "it is left alone");
    }
    drop(turn);
    // With the word it is overwritten.
    let rig = plan(&path, ",format").up();
    rig.put("/f", b"f", &["--on", "pmem"]).ok();
    rig.sound();
    rig.down();
    drop(rig);
    // What is a pool stays one, with what is in it, unless it is meant.
    let rig = plan(&path, ",format").up();
    assert_eq!(rig.get("/f"), b"f");
    drop(rig);
    let rig = plan(&path, ",format=force").up();
    rig.run(&["stat", "/f"]).fails(3, &["/f"]);
}

#[test]
fn a_damaged_superblock_and_one_of_a_later_version_stay() {
    let Some((path, _turn)) = device("a_damaged_superblock_and_one_of_a_later_version_stay") else { return };
    let rig = made(&path);
    rig.put("/f", b"f", &["--on", "pmem"]).ok();
    rig.down();
    drop(rig);
    let turn = plan(&path, "").place();
    let flip = || patch(&path, |block| block[50] ^= 1);
    flip();
    refused(&turn, &format!("devdax:{path}"), 9, &["can't be used", "its checksum differs"]);
    flip();
    let version = |version: u32| {
        patch(&path, |block| {
            block[8..12].copy_from_slice(&version.to_le_bytes());
            let check = crc32c(block[..12].iter().chain(&block[16..]).copied());
            block[12..16].copy_from_slice(&check.to_le_bytes());
        });
    };
    version(7);
    for format in ["", ",format"] {
        refused(
            &turn,
            &format!("devdax:{path}{format}"),
            9,
            &["layout version 7", "use the codax that made it"],
        );
    }
    version(1);
    drop(turn);
    // One of them alone is found by the next start, which mends it, and by a check while the store runs.
    let damage = || {
        let (map, _) = whole(&path);
        map.write(100, &[0xff]).expect("written");
    };
    damage();
    let rig = plan(&path, "").up();
    assert_eq!(rig.get("/f"), b"f");
    assert!(rig.ok(&["status"]).text().contains("superblock"), "it is said");
    rig.sound();
    damage();
    let said = rig.run(&["check"]);
    assert!(said.code == 9 && said.text().contains("superblock"), "{said}");
    let mended = rig.run(&["check", "--repair"]);
    assert!(mended.text().contains("mended"), "{mended}");
    rig.sound();
}

/// A device with another alignment until this is dropped.
struct Aligned {
    name: String,
    was: u64,
}

impl Aligned {
    fn set(&self, align: u64) {
        let daxctl = |what: &str| {
            let done = Command::new("daxctl").args([what, &self.name]).output().expect("the guest has it");
            assert!(done.status.success(), "{done:?}");
        };
        daxctl("disable-device");
        fs::write(format!("/sys/bus/dax/devices/{}/align", self.name), align.to_string()).expect("root may");
        daxctl("enable-device");
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        self.set(self.was);
    }
}

#[test]
fn a_unit_is_what_the_device_is_aligned_to() {
    let name = "a_unit_is_what_the_device_is_aligned_to";
    let Some((path, _turn)) = turn_on(setting::hmem(), name) else { return };
    let rig = made(&path);
    rig.put("/f", b"f", &["--on", "pmem"]).ok();
    assert_eq!(rig.row(&["stat", "/f"])["backed"], 2 * MIB);
    rig.down();
    drop(rig);
    let turn = plan(&path, "").place();
    let device = DaxDevice::open(Path::new(&path), false).expect("root may");
    let aligned = Aligned { name: device.name().to_owned(), was: device.align() };
    drop((device, turn));
    aligned.set(4096);
    // Units that are larger than they need be stay what they are.
    let rig = plan(&path, "").up();
    assert_eq!((rig.get("/f"), rig.row(&["stat", "/f"])["backed"].as_u64()), (b"f".to_vec(), Some(2 * MIB)));
    rig.down();
    drop(rig);
    let rig = made(&path);
    rig.put("/f", &pattern(3 * MIB + 5000, 1), &["--on", "pmem"]).ok();
    assert_eq!(rig.row(&["stat", "/f"])["backed"], 3 * MIB + 8192);
    rig.ok(&["move", "/f", "--to", "dram", "--range", "0:2MiB"]);
    rig.ok(&["move", "/f", "--to", "pmem"]);
    assert!(rig.get("/f") == pattern(3 * MIB + 5000, 1));
    rig.sound();
    rig.down();
    drop(rig);
    drop(aligned);
    // Those that are smaller than what can be mapped can't be used.
    let turn = plan(&path, "").place();
    refused(&turn, &format!("devdax:{path}"), 6, &["units of 4 KiB", "aligned to 2 MiB", "daxctl"]);
}

/// A directory that goes when this does.
struct Fresh(PathBuf);

impl Fresh {
    fn below(dir: &Path, uid: u32) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("codax-e2e-media-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("a fresh directory");
        std::os::unix::fs::chown(&path, Some(uid), None).expect("root may");
        Self(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().expect("text")
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_directory_without_dax_is_usable_and_it_is_said() {
    if !root() {
        return skipped("a_directory_without_dax_is_usable", "drops into another user's place");
    }
    for (below, persistent, says) in [
        (setting::scratch(), true, "stores are durable after fsync, through the page cache"),
        (PathBuf::from("/dev/shm"), false, "nothing there outlives the power"),
    ] {
        let dir = Fresh::below(&below, 0);
        let device = format!("files=fsdax:{},size=16MiB", dir.text());
        let rig = Plan::new().device_as(&format!("{device},format")).up();
        let status = rig.ok(&["status"]);
        assert!(
            status.text().contains("is not mounted with dax") && status.text().contains(says),
            "{status}"
        );
        assert_eq!(rig.row(&["device", "show", "files"])["persistent"], persistent);
        rig.put("/f", &pattern(3 * MIB, 1), &["--on", "files"]).ok();
        assert_eq!(rig.row(&["stat", "/f"])["persistent"], persistent);
        let store = codax::Store::connect(rig.dir()).expect("a daemon");
        let mapping = codax::OpenOptions::new().read(true).write(true).open(&store, "/f");
        let mapping = mapping.and_then(|file| file.map(.., codax::Access::ReadWrite)).expect("mapped");
        match mapping.persist(..) {
            Ok(()) => assert!(persistent),
            Err(e) => assert!(!persistent && e.kind == codax::ErrorKind::NotSupported, "{e}"),
        }
        drop((mapping, store));
        rig.ok(&["move", "/f", "--to", "dram"]);
        rig.ok(&["move", "/f", "--to", "files"]);
        let drained = rig.run(&["device", "drain", "files"]);
        match persistent {
            true => {
                drained.fails(6, &["files", "/f", "--volatile"]);
                rig.ok(&["device", "drain", "files", "--volatile"]);
            }
            false => drop(drained.ok()),
        }
        rig.ok(&["device", "online", "files"]);
        assert!(rig.get("/f") == pattern(3 * MIB, 1));
        rig.sound();
        rig.down();
        // It has the size it has.
        let other = format!("files=fsdax:{},size=8MiB", dir.text());
        rig.run(&["up", "--device", &other]).fails(6, &["files"]);
        rig.up();
        assert!(rig.get("/f") == pattern(3 * MIB, 1));
    }
}

#[test]
fn another_user_s_directory_is_refused() {
    if !root() {
        return skipped("another_user_s_directory_is_refused", "only root can make another user's directory");
    }
    let dir = Fresh::below(&setting::scratch(), NOBODY);
    let turn = Plan::new().place();
    refused(&turn, &format!("fsdax:{},size=4MiB,format", dir.text()), 7, &["belongs to uid 65534"]);
    assert_eq!(fs::read_dir(&dir.0).expect("there").count(), 0, "nothing was made in it");
}

/// Takes the device away, or puts it back; for what may be done, see the guest's `setup`.
fn make(what: &[&str]) {
    let done = Command::new("sh").arg("/w/.guest/make").args(what).output().expect("the guest has it");
    assert!(done.status.success(), "{done:?}");
}

/// Puts the device back, however the test ends.
struct Back;

impl Drop for Back {
    fn drop(&mut self) {
        if !Path::new("/dev/guest/devdax").exists() {
            make(&["devdax-back"]);
        }
    }
}

#[test]
fn a_device_that_vanishes_takes_its_files_and_nothing_else() {
    let test = "a_device_that_vanishes_takes_its_files_and_nothing_else";
    let Some((path, _turn)) = device(test) else { return };
    let plan = plan(&path, ",format=force").and_device("sim0=emulated:64MiB");
    let Some(crate::mount::Mounted { rig, dir }) = crate::mount::mounted(test, plan) else { return };
    let _back = Back;
    let bytes = pattern(3 * MIB, 1);
    for (name, pool) in [("/f", "pmem"), ("/both", "pmem"), ("/near", "dram"), ("/sim", "sim0")] {
        rig.put(name, &bytes, &["--on", pool]).ok();
    }
    rig.ok(&["move", "/both", "--to", "dram", "--range", "0:2MiB"]);
    let open = fs::File::open(dir.join("f")).expect("there");
    let mut mapper = crate::client::Client::start(&rig, "hold", &["/f", "rw"]);
    mapper.number("get 8");
    make(&["devdax-away"]);
    let eio = |e: std::io::Error| assert_eq!(e.raw_os_error(), Some(libc::EIO), "{e}");
    eio(std::os::unix::fs::FileExt::read_at(&open, &mut [0; 4096], 0).expect_err("gone"));
    eio(fs::read(dir.join("f")).expect_err("gone"));
    rig.run(&["get", "/f", "-"]).fails(9, &[]);
    // Who maps it gets the signal, and nobody else.
    mapper.tell("get 8");
    assert!(!mapper.process.end().success(), "a load there is SIGBUS");
    until("that it is noticed", || rig.row(&["device", "show", "pmem"])["missing"].is_string().then_some(()));
    assert!(rig.ok(&["status"]).text().contains("pmem"));
    assert!(rig.events("lost").iter().any(|event| event.contains("its device has gone")));
    // What is left goes on.
    assert!(rig.get("/near") == bytes && fs::read(dir.join("sim")).expect("there") == bytes);
    let mut part = vec![0; 4096];
    std::os::unix::fs::FileExt::read_exact_at(
        &fs::File::open(dir.join("both")).expect("there"),
        &mut part,
        0,
    )
    .expect("it lies in dram");
    assert!(part == bytes[..4096]);
    fs::write(dir.join("new"), &bytes).expect("room");
    rig.put("/new-too", &bytes, &["--on", "sim0"]).ok();
    let said = rig.put("/not", b"x", &["--on", "pmem"]);
    assert!([6, 9].contains(&said.code), "{said}");
    rig.ok(&["device", "drain", "sim0"]);
    rig.ok(&["device", "online", "sim0"]);
    assert!(rig.get("/new-too") == bytes);
    rig.run(&["device", "attach", "pmem"]).fails(6, &["pmem"]);
    make(&["devdax-back"]);
    drop(open);
    rig.ok(&["device", "attach", "pmem"]);
    assert!(rig.row(&["device", "show", "pmem"])["missing"].is_null());
    assert!(rig.get("/f") == bytes && rig.get("/both") == bytes);
    assert!(fs::read(dir.join("f")).expect("there") == bytes);
    rig.ok(&["move", "/f", "--to", "dram"]);
    rig.ok(&["move", "/f", "--to", "pmem"]);
    assert!(rig.get("/f") == bytes);
    rig.put("/not", b"x", &["--on", "pmem"]).ok();
    rig.sound();
}

/// A filesystem that has stopped, until this is dropped or told.
struct Stopped<'a> {
    dir: &'a str,
    disk: String,
    again: bool,
}

impl<'a> Stopped<'a> {
    /// As it stops itself when its device fails.
    fn now(dir: &'a str) -> Self {
        let disk = codax_os::filesystem::of(Path::new(dir)).expect("a filesystem").disk.expect("on a disk");
        let stopped = Self { dir, disk, again: false };
        let done =
            Command::new("xfs_io").args(["-x", "-c", "shutdown", dir]).output().expect("the guest has it");
        assert!(done.status.success(), "{done:?}");
        stopped
    }

    /// Whether it could be mounted anew: nobody has anything of it any more.
    fn mount(&mut self) -> bool {
        if !Command::new("umount").arg(self.dir).output().is_ok_and(|done| done.status.success()) {
            return false;
        }
        let mut mount = Command::new("mount");
        mount.args(["-o", "dax=always", &format!("/dev/{}", self.disk), self.dir]);
        self.again = mount.status().is_ok_and(|status| status.success());
        self.again
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        if !self.again {
            self.mount();
        }
    }
}

#[test]
fn a_filesystem_that_stops_takes_its_files_and_nothing_else() {
    let test = "a_filesystem_that_stops_takes_its_files_and_nothing_else";
    let Some((files, _turn)) = turn_on(setting::fsdax(), test) else { return };
    let place = Fresh::below(Path::new(&files), 0);
    let plan = Plan::new().device_as(&format!("files=fsdax:{},size=64MiB,format", place.text()));
    let Some(crate::mount::Mounted { rig, dir }) = crate::mount::mounted(test, plan) else { return };
    let bytes = pattern(3 * MIB, 1);
    for (name, pool) in [("/f", "files"), ("/both", "files"), ("/near", "dram")] {
        rig.put(name, &bytes, &["--on", pool]).ok();
    }
    rig.ok(&["move", "/both", "--to", "dram", "--range", "0:2MiB"]);
    let open = fs::File::open(dir.join("f")).expect("there");
    let mut stopped = Stopped::now(&files);
    until("that it is noticed", || {
        rig.row(&["device", "show", "files"])["missing"].is_string().then_some(())
    });
    let eio = |e: std::io::Error| assert_eq!(e.raw_os_error(), Some(libc::EIO), "{e}");
    eio(std::os::unix::fs::FileExt::read_at(&open, &mut [0; 4096], 0).expect_err("gone"));
    eio(fs::read(dir.join("f")).expect_err("gone"));
    drop(open);
    rig.run(&["get", "/f", "-"]).fails(9, &[]);
    assert!(rig.events("lost").iter().any(|event| event.contains("its device has gone")));
    // What is left goes on.
    assert!(rig.get("/near") == bytes);
    let both = fs::File::open(dir.join("both")).expect("there");
    let mut part = vec![0; 4096];
    std::os::unix::fs::FileExt::read_exact_at(&both, &mut part, 0).expect("it lies in dram");
    assert!(part == bytes[..4096]);
    drop(both);
    fs::write(dir.join("new"), &bytes).expect("room");
    let said = rig.put("/not", b"x", &["--on", "files"]);
    assert!([6, 9].contains(&said.code), "{said}");
    rig.run(&["device", "attach", "files"]).fails(6, &["files"]);
    until("that nobody has anything of it", || stopped.mount().then_some(()));
    rig.ok(&["device", "attach", "files"]);
    assert!(rig.row(&["device", "show", "files"])["missing"].is_null());
    assert!(rig.get("/f") == bytes && rig.get("/both") == bytes);
    rig.ok(&["move", "/f", "--to", "dram"]);
    rig.ok(&["move", "/f", "--to", "files"]);
    rig.put("/not", b"x", &["--on", "files"]).ok();
    rig.sound();
}

#[test]
fn the_kernel_s_bad_blocks_are_given_to_nobody() {
    let Some((path, _turn)) = device("the_kernel_s_bad_blocks_are_given_to_nobody") else { return };
    let rig = made(&path);
    let data = rig.row(&["device", "show", "pmem"])["dax"]["data"].as_u64().expect("a number");
    rig.put("/old", &pattern(2 * MIB, 1), &["--on", "pmem"]).ok();
    let frame = |path: &str| rig.row(&["stat", path])["extents"][0]["frame"].as_u64().expect("a number");
    let old = frame("/old");
    let free = rig.pool("pmem", "free");
    rig.down();
    // One unit that nobody has, and one that somebody has.
    let next = old + 512;
    for bad in [next + 3, old + 7] {
        make(&["devdax-bad", &(data + (bad << 12)).to_string()]);
    }
    rig.up();
    assert_eq!(rig.row(&["device", "show", "pmem"])["retired"], 4 * MIB);
    assert_eq!(rig.pool("pmem", "free"), free - 2 * MIB);
    // The bytes are there as long as they can be read.
    assert!(rig.get("/old") == pattern(2 * MIB, 1));
    rig.ok(&["rm", "/old"]);
    for seed in 0..4 {
        let name = format!("/new-{seed}");
        rig.put(&name, &pattern(2 * MIB, seed), &["--on", "pmem"]).ok();
        assert!(![old, next].contains(&frame(&name)), "{name}");
        assert!(rig.get(&name) == pattern(2 * MIB, seed));
    }
    rig.sound();
}

/// The sector of its disk at which a byte of a file is.
fn sector(path: &Path, at: u64) -> u64 {
    let done =
        Command::new("xfs_io").args(["-r", "-c", "fiemap"]).arg(path).output().expect("the guest has it");
    let text = String::from_utf8(done.stdout).expect("text");
    // `N: [FROM..TO]: SECTOR..SECTOR`, in sectors.
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let place = |line: &str| {
        let (_, rest) = line.split_once('[')?;
        let (from, rest) = rest.split_once("..")?;
        let (to, rest) = rest.split_once("]:")?;
        let (sector, _) = rest.split_once("..")?;
        let (from, to, wanted) = (number(from)?, number(to)?, at / 512);
        (from <= wanted && wanted <= to).then_some(number(sector)? + wanted - from)
    };
    text.lines().find_map(place).unwrap_or_else(|| panic!("no place of {at}: {text}"))
}

#[test]
fn bytes_in_damaged_memory_are_lost_to_their_file_and_all_else_goes_on() {
    let test = "bytes_in_damaged_memory_are_lost_to_their_file";
    let Some((files, _turn)) = turn_on(setting::fsdax(), test) else { return };
    let place = Fresh::below(Path::new(&files), 0);
    let plan = Plan::new().device_as(&format!("files=fsdax:{},size=64MiB,format", place.text()));
    let Some(crate::mount::Mounted { rig, dir }) = crate::mount::mounted(test, plan) else { return };
    let bytes = pattern(4 * MIB, 1);
    rig.put("/f", &bytes, &["--on", "files"]).ok();
    rig.put("/other", &bytes, &["--on", "files"]).ok();
    let at = 2 * MIB + 5 * 4096;
    let id = rig.row(&["stat", "/f"])["id"].as_u64().expect("a number");
    let sector = sector(&place.0.join("objects").join(format!("{id:016x}")), at);
    let disk = codax_os::filesystem::of(&place.0).expect("a filesystem").disk.expect("on a disk");
    fs::write(format!("/sys/class/block/{disk}/badblocks"), format!("{sector} 8\n")).expect("root may");
    let range = format!("{at}..{}", at + 4096);
    rig.run(&["get", "/f", "-"]).fails(9, &["/f"]);
    rig.run(&["get", "/f", "-"]).fails(9, &["/f", &range]);
    let file = fs::File::open(dir.join("f")).expect("there");
    for (page, chunk) in bytes.chunks(4096).enumerate() {
        let (mut found, off) = ([0; 4096], (page << 12) as u64);
        match std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, off) {
            Ok(()) => assert!(off != at && found == *chunk, "page {page}"),
            Err(e) => assert_eq!((off, e.raw_os_error()), (at, Some(libc::EIO))),
        }
    }
    let stat = rig.row(&["stat", "/f"]);
    assert_eq!(stat["lost"], serde_json::json!([{ "page": at >> 12, "pages": 1 }]), "{stat}");
    assert_eq!(rig.row(&["device", "show", "files"])["retired"], 4096);
    assert!(rig.events("lost").iter().any(|event| event.contains("/f") && event.contains(&range)));
    // A file of which nothing is left.
    let short = pattern(8192, 2);
    rig.put("/short", &short, &["--on", "files"]).ok();
    let id = rig.row(&["stat", "/short"])["id"].as_u64().expect("a number");
    let sector = self::sector(&place.0.join("objects").join(format!("{id:016x}")), 0);
    fs::write(format!("/sys/class/block/{disk}/badblocks"), format!("{sector} 16\n")).expect("root may");
    rig.run(&["get", "/short", "-"]).fails(9, &["/short"]);
    let lost = rig.row(&["stat", "/short"])["lost"].clone();
    assert_eq!(lost, serde_json::json!([{ "page": 0, "pages": 2 }]), "runs, whatever found each page");
    assert_eq!(rig.row(&["device", "show", "files"])["retired"], 3 * 4096);
    // All else goes on, and what is written anew is whole.
    assert!(rig.get("/other") == bytes);
    rig.ok(&["move", "/other", "--to", "dram"]);
    rig.ok(&["move", "/other", "--to", "files"]);
    rig.put("/f", &bytes, &["-f", "--on", "files"]).ok();
    drop(file);
    assert!(rig.get("/f") == bytes);
    rig.sound();
}
