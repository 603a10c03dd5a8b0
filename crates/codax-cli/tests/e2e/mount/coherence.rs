//! Programs that use a file through the mount, beside others that use it through the library, while it is moved, and when the daemon dies.

use super::{Mounted, mounted};
use crate::client::Client;
use crate::raw::can_map;
use crate::rig::{MIB, Plan, pattern, skipped, until};
use crate::setting::{self, seconds};
use codax::{Access, Store};
use codax_os::area::Region;
use serde_json::json;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::Ordering;

fn read_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect("the file is there")
}

/// Maps a file by its path, and keeps storing: a counter at 0 is incremented at each `add`. `close` closes the file, and leaves the mapping.
pub fn map_path(path: &str) {
    let mut file = Some(read_write(Path::new(path)));
    let len =
        usize::try_from(file.as_ref().expect("just opened").metadata().expect("there").len()).expect("small");
    let region = Region::reserve(len).expect("room");
    region.place(0, len, file.as_ref().expect("just opened"), 0, true).expect("mapped");
    crate::client::serve(|line| match line[0] {
        "close" => {
            drop(file.take());
            "closed".to_owned()
        }
        "get" => region.memory().load_u64(0).to_string(),
        "stat" => match file.as_ref().expect("not closed").metadata() {
            Ok(meta) => meta.len().to_string(),
            Err(e) => e.raw_os_error().expect("a system error").to_string(),
        },
        _ => {
            let next = region.memory().load_u64(0) + 1;
            region.memory().store_u64(0, next);
            next.to_string()
        }
    });
}

#[test]
fn a_mapping_through_the_mount_is_the_memory_that_the_library_maps() {
    let Some(Mounted { rig, dir }) = mounted("a_mapping_through_the_mount_is_the_memory", Plan::new()) else {
        return;
    };
    rig.put("/f", &pattern(MIB, 3), &["--on", "sim0"]).ok();
    assert!(fs::read(dir.join("f")).expect("there") == pattern(MIB, 3));
    let store = Store::connect(rig.dir()).expect("a daemon");
    let file = codax::OpenOptions::new().read(true).write(true).open(&store, "/f").expect("there");
    let ours = file.map(.., Access::ReadWrite).expect("mapped");
    let fd = read_write(&dir.join("f"));
    let theirs = Region::reserve(1 << 20).expect("room");
    theirs.place(0, 1 << 20, &fd, 0, true).expect("a mapping through the mount");
    for round in 1..100u64 {
        theirs.memory().store_u64(64, round);
        assert_eq!(ours.memory().load_u64(64), round);
        ours.memory().store_u64(8192, round);
        assert_eq!(theirs.memory().load_u64(8192), round);
        fd.write_at(&round.to_le_bytes(), 16_384).expect("there");
        assert_eq!(ours.memory().load_u64(16_384), round);
    }
    // And a third process that maps it through the mount.
    let path = dir.join("f");
    ours.memory().store_u64(0, 0);
    let mut client = Client::start(&rig, "map-path", &[path.to_str().expect("text")]);
    for round in 1..20u64 {
        assert_eq!(client.number("add"), round * 2 - 1);
        assert_eq!(ours.memory().atomic_u64(0).fetch_add(1, Ordering::SeqCst), round * 2 - 1);
        assert_eq!((client.number("get"), theirs.memory().load_u64(0)), (round * 2, round * 2));
    }
    rig.run(&["move", "/f", "--to", "dram"]).fails(5, &["/f", &client.pid().to_string()]);
    let mapped_by = rig.row(&["stat", "/f"])["mapped_by"].clone();
    let mapped_by: Vec<_> =
        mapped_by.as_array().expect("a list").iter().filter_map(|pid| pid.as_u64()).collect();
    let both = [client.pid(), std::process::id()].map(u64::from);
    assert!(both.iter().all(|pid| mapped_by.contains(pid)), "{mapped_by:?}");
    client.end();
    drop((theirs, fd, ours, file));
    assert_eq!(rig.row(&["stat", "/f"])["mapped_by"], json!([]));
    rig.ok(&["move", "/f", "--to", "dram"]);
    rig.sound();
}

#[test]
fn what_the_library_changes_the_next_call_sees() {
    let Some(Mounted { rig, dir }) = mounted("what_the_library_changes", Plan::new()) else { return };
    let store = Store::connect(rig.dir()).expect("a daemon");
    let make = codax::OpenOptions::new().read(true).write(true).create(true).clone();
    assert!(!dir.join("f").exists(), "and that is remembered");
    for round in 1..20u64 {
        let file = make.open(&store, "/f").expect("room");
        for len in [round * 5000, round, round * 100_000] {
            file.set_len(len).expect("room");
            assert_eq!(fs::metadata(dir.join("f")).expect("there").len(), len);
        }
        rig.ok(&["chmod", if round % 2 == 0 { "600" } else { "640" }, "/f"]);
        assert_eq!(
            fs::metadata(dir.join("f")).expect("there").mode() & 0o777,
            if round % 2 == 0 { 0o600 } else { 0o640 }
        );
        rig.ok(&["mv", "/f", "/g"]);
        assert!(!dir.join("f").exists() && dir.join("g").exists());
        store.remove("/g", false).expect("there");
        assert!(!dir.join("g").exists());
    }
    // And the other way round.
    fs::write(dir.join("f"), "from the mount").expect("room");
    assert_eq!(rig.get("/f"), b"from the mount");
    fs::rename(dir.join("f"), dir.join("g")).expect("there");
    rig.run(&["stat", "/f"]).fails(3, &["/f"]);
    assert_eq!(rig.get("/g"), b"from the mount");
    rig.sound();
}

/// A mapping that only reads, and one whose mount is gone, are left behind by a move that the library's mappers follow: so there is none.
#[test]
fn what_is_mapped_through_a_mount_stays_where_the_library_maps_it_too() {
    let Some(Mounted { rig, dir }) = mounted("what_is_mapped_through_a_mount_stays", Plan::new()) else {
        return;
    };
    rig.put("/f", &pattern(MIB, 3), &["--on", "sim0"]).ok();
    let fd = File::open(dir.join("f")).expect("there");
    let theirs = Region::reserve(1 << 20).expect("room");
    theirs.place(0, 1 << 20, &fd, 0, false).expect("a mapping through the mount");
    drop(fd);
    let store = Store::connect(rig.dir()).expect("a daemon");
    let file = codax::OpenOptions::new().read(true).write(true).open(&store, "/f").expect("there");
    let ours = file.map(.., Access::ReadWrite).expect("mapped");
    let me = std::process::id().to_string();
    rig.run(&["move", "/f", "--to", "dram"]).fails(5, &["/f", &me]);
    ours.memory().store_u64(64, 7);
    assert_eq!(theirs.memory().load_u64(64), 7);
    // Its connection is cut.
    assert!(
        std::process::Command::new("umount").args(["-f", "-l"]).arg(&dir).status().expect("runs").success()
    );
    rig.run(&["move", "/f", "--to", "dram"]).fails(5, &["/f"]);
    ours.memory().store_u64(64, 8);
    assert_eq!(theirs.memory().load_u64(64), 8);
    drop(theirs);
    rig.ok(&["move", "/f", "--to", "dram"]);
    assert_eq!(ours.memory().load_u64(64), 8);
    drop((ours, file));
    rig.sound();
}

#[test]
fn a_program_that_maps_and_closes_holds_a_drain_until_it_ends() {
    let Some(Mounted { rig, dir }) = mounted("a_program_that_maps_and_closes_holds_a_drain", Plan::new())
    else {
        return;
    };
    rig.put("/held", &vec![0; 1 << 20], &["--on", "sim0"]).ok();
    rig.ok(&["mkdir", "/there", "--on", "sim0"]);
    rig.put("/free", &pattern(MIB, 5), &["--on", "sim0"]).ok();
    let path = dir.join("held");
    let mut client = Client::start(&rig, "map-path", &[path.to_str().expect("text")]);
    assert_eq!(client.ask("close"), "closed");
    assert_eq!(client.ask("add"), "1");
    let pid = client.pid().to_string();
    rig.run(&["device", "drain", "sim0"]).fails(5, &["/held", &pid]);
    let mut drain = crate::rig::Running {
        child: rig
            .command(&["device", "drain", "sim0", "--wait", &seconds(60)])
            .spawn()
            .expect("the program starts"),
    };
    // The rest moves, and who is waited for is said.
    until("the drain to wait for it", || {
        let status = rig.ok(&["status"]);
        (status.text().contains("waits for /held") && status.text().contains(&pid)).then_some(())
    });
    assert_eq!(rig.pools_of("/free"), ["dram"]);
    for round in 2..50 {
        assert_eq!(client.ask("add"), round.to_string(), "nobody is broken by a drain");
    }
    // By calls as well; but nothing new is begun on a device that drains.
    read_write(&path).write_all_at(b"by a call", 64).expect("it is still there");
    let refused = fs::write(dir.join("there/new"), "x").expect_err("the device drains");
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
    let room = rustix::fs::statvfs(dir.join("there")).expect("mounted");
    assert_eq!((room.f_bavail, room.f_bfree > 0), (0, true));
    client.end();
    assert!(drain.end().success());
    assert_eq!(rig.state("sim0"), "offline");
    let bytes = fs::read(&path).expect("it has moved");
    assert_eq!((&bytes[..8], &bytes[64..73]), (&49u64.to_le_bytes()[..], &b"by a call"[..]));
    rig.ok(&["device", "online", "sim0"]);
    rig.sound();
}

#[test]
fn a_killed_daemon_leaves_mappings_alive() {
    let Some(Mounted { rig, dir }) = mounted("a_killed_daemon_leaves_mappings_alive", Plan::new()) else {
        return;
    };
    rig.put("/f", &vec![0; 1 << 20], &["--on", "sim0"]).ok();
    let path = dir.join("f");
    let mut client = Client::start(&rig, "map-path", &[path.to_str().expect("text")]);
    assert_eq!(client.ask("add"), "1");
    rig.kill();
    assert_eq!(client.ask("add"), "2");
    assert_eq!(client.ask("stat"), libc::ENOTCONN.to_string());
    let gone = File::open(&path).expect_err("nobody serves it");
    assert_eq!(gone.raw_os_error(), Some(libc::ENOTCONN));
    rig.up();
    assert_eq!(client.ask("add"), "3");
    assert_eq!(fs::read(&path).expect("served again")[..8], 3u64.to_le_bytes());
    // It still holds the object, through a mount that is gone.
    rig.run(&["move", "/f", "--to", "dram"]).fails(5, &["/f", &client.pid().to_string()]);
    client.end();
    rig.ok(&["move", "/f", "--to", "dram"]);
    assert_eq!(fs::read(&path).expect("there")[..8], 3u64.to_le_bytes());
    rig.sound();
}

#[test]
fn who_maps_a_file_after_a_clean_end_is_named() {
    let Some(Mounted { rig, dir }) = mounted("who_maps_a_file_after_a_clean_end", Plan::new()) else {
        return;
    };
    rig.put("/f", &vec![0; 1 << 20], &["--on", "sim0"]).ok();
    let path = dir.join("f");
    let mut client = Client::start(&rig, "map-path", &[path.to_str().expect("text")]);
    assert_eq!(client.ask("close"), "closed");
    let pid = client.pid().to_string();
    for round in 1..=2 {
        assert_eq!(client.ask("add"), round.to_string());
        rig.down();
        rig.up();
        rig.run(&["device", "drain", "sim0"]).fails(5, &["/f", &pid, "maps it through a mount"]);
        let plan = rig.ok(&["device", "drain", "sim0", "--dry-run"]);
        assert!(plan.text().contains(&pid), "{plan}");
    }
    client.end();
    rig.ok(&["device", "drain", "sim0"]);
    assert_eq!(rig.get("/f")[..8], 2u64.to_le_bytes());
    rig.sound();
}

/// The kernel lets go of what it served from a mount only when that is gone, and a working directory keeps it there.
#[test]
fn who_keeps_a_dead_mount_there_holds_what_was_open_through_it() {
    let Some(Mounted { rig, dir }) = mounted("who_keeps_a_dead_mount_there", Plan::new()) else { return };
    rig.put("/f", &pattern(MIB, 3), &["--on", "sim0"]).ok();
    rig.put("/free", &pattern(MIB, 4), &["--on", "sim0"]).ok();
    let path = dir.join("f");
    let mut sleeper = crate::rig::Running {
        child: std::process::Command::new("sleep").arg("1000").current_dir(&dir).spawn().expect("it starts"),
    };
    sleeper.await_state('S');
    let mut client = Client::start(&rig, "map-path", &[path.to_str().expect("text")]);
    assert_eq!(client.ask("get"), u64::from_le_bytes(pattern(8, 3).try_into().expect("8")).to_string());
    rig.kill();
    client.end();
    rig.up();
    let pid = sleeper.pid().to_string();
    let why = "keeps a mount there whose daemon has gone";
    rig.run(&["move", "/f", "--to", "dram"]).fails(5, &["/f", &pid, why]);
    rig.run(&["device", "drain", "sim0"]).fails(5, &["/f", &pid, why]);
    let plan = rig.ok(&["device", "drain", "sim0", "--dry-run"]);
    assert!(plan.text().contains(&pid) && plan.text().contains(why), "{plan}");
    rig.ok(&["device", "drain", "sim0", "--evict"]);
    assert!(!sleeper.end().success(), "it was ended, as the plan had said");
    assert!(rig.get("/f") == pattern(MIB, 3));
    rig.sound();
}

#[test]
fn a_file_in_several_objects_is_served_by_the_daemon_and_never_stale() {
    let Some(Mounted { rig, dir }) = mounted("a_file_in_several_objects", Plan::new()) else { return };
    rig.put("/f", &pattern(8 * MIB, 7), &["--on", "sim0"]).ok();
    rig.ok(&["move", "/f", "--to", "dram", "--range", "2MiB:2MiB"]);
    assert_eq!(rig.pools_of("/f"), ["dram", "sim0"]);
    let path = dir.join("f").into_os_string().into_string().expect("text");
    let told_by = |by: &str, why: &str| {
        let stat = rig.row(&["stat", "/f"]);
        assert_eq!(stat["mounted"].as_array().map(Vec::len), Some(1), "{stat}");
        let mounted = &stat["mounted"][0];
        assert_eq!((&mounted["dir"], &mounted["by"]), (&json!(dir.to_str()), &json!(by)), "{stat}");
        assert_eq!(mounted["why"], why);
        let doctor = rig.row(&["doctor", &path]);
        let level = if by == "kernel" { "ok" } else { "limited" };
        assert_eq!((&doctor["level"], &doctor["value"]), (&json!(level), &json!(format!("{path}: {why}"))));
    };
    let why = match setting::is_dax() {
        true => "it lies on a DAX device, whose frames and names the daemon keeps in step",
        false => "it is spread over several objects",
    };
    told_by("daemon", why);
    let file = read_write(&dir.join("f"));
    let refused = can_map(&file, 8 << 20, true).expect_err("shared mappings would be stale");
    assert_eq!(refused.raw_os_error(), Some(libc::ENODEV));
    let store = Store::connect(rig.dir()).expect("a daemon");
    let open = codax::OpenOptions::new().read(true).write(true).open(&store, "/f").expect("there");
    let ours = open.map(.., Access::ReadWrite).expect("mapped");
    let mut buf = [0; 8];
    for (round, at) in (1u8..).zip([0usize, 2 << 20, (2 << 20) - 8, 5 << 20]) {
        ours.memory().store_u64(at, u64::from(round));
        file.read_exact_at(&mut buf, at as u64).expect("there");
        assert_eq!(u64::from_le_bytes(buf), u64::from(round));
        file.write_all_at(&[round; 8], at as u64).expect("there");
        assert_eq!(ours.memory().load_u64(at).to_le_bytes(), [round; 8]);
    }
    file.write_all_at(b"across the border", (2 << 20) - 9).expect("there");
    let mut text = [0; 17];
    file.read_exact_at(&mut text, (2 << 20) - 9).expect("there");
    assert_eq!(&text, b"across the border");
    drop((ours, open));
    // In one object again, it is served as it was opened until it is closed.
    rig.ok(&["move", "/f", "--to", "dram"]);
    told_by("daemon", "programs have it open so");
    drop(file);
    until("the handle is released", || {
        (rig.row(&["stat", "/f"])["mounted"][0]["by"] == "kernel").then_some(())
    });
    told_by("kernel", "all of it is one object in dram");
    let elsewhere = rig.run(&["doctor", rig.dir().to_str().expect("text")]);
    assert!((elsewhere.code, elsewhere.err.contains("mount of a store")) == (2, true), "{elsewhere}");
    rig.sound();
}

#[test]
fn what_lies_on_a_dax_device_is_served_by_calls_and_never_stale() {
    let name = "what_lies_on_a_dax_device_is_served_by_calls";
    if !setting::is_dax() {
        return skipped(name, "it is about DAX devices");
    }
    let Some(Mounted { rig, dir }) = mounted(name, Plan::new()) else { return };
    rig.put("/f", &pattern(4 * MIB, 3), &["--on", "sim0"]).ok();
    let store = Store::connect(rig.dir()).expect("a daemon");
    let file = codax::OpenOptions::new().read(true).write(true).open(&store, "/f").expect("there");
    let ours = file.map(.., Access::ReadWrite).expect("mapped");
    let fd = read_write(&dir.join("f"));
    for write in [false, true] {
        let refused = can_map(&fd, 1 << 20, write).expect_err("what is mapped so could not be moved");
        assert_eq!(refused.raw_os_error(), Some(libc::ENODEV));
    }
    let mut round = 0;
    let mut both = || {
        for at in [0usize, 4096, (2 << 20) - 8, 3 << 20] {
            round += 1;
            let mut word = [0; 8];
            ours.memory().store_u64(at, round);
            fd.read_exact_at(&mut word, at as u64).expect("there");
            assert_eq!(u64::from_le_bytes(word), round);
            fd.write_all_at(&(round << 8).to_le_bytes(), at as u64).expect("there");
            assert_eq!(ours.memory().load_u64(at), round << 8);
        }
    };
    both();
    // Who has it open there holds nothing: it is the daemon that reads and writes.
    for to in ["dram", "sim0"] {
        rig.ok(&["move", "/f", "--to", to, "--range", "2MiB:2MiB"]);
        both();
        rig.ok(&["move", "/f", "--to", to]);
        both();
    }
    let across = pattern(8192, 5);
    fd.write_all_at(&across, (2 << 20) - 4096).expect("there");
    let mut found = vec![0; 8192];
    ours.memory().read_at((2 << 20) - 4096, &mut found);
    assert!(found == across);
    drop((ours, file, fd));
    rig.sound();
}

#[test]
fn placement_is_an_extended_attribute() {
    let Some(Mounted { rig, dir }) = mounted("placement_is_an_extended_attribute", Plan::new()) else {
        return;
    };
    let none = rustix::fs::XattrFlags::empty();
    let set = |name: &str, attr: &str, value: &str| {
        rustix::fs::setxattr(dir.join(name), attr, value.as_bytes(), none)
    };
    fs::create_dir(dir.join("d")).expect("room");
    set("d", "user.codax.on", "sim0").expect("a pool");
    fs::write(dir.join("d/f"), vec![1; 100_000]).expect("room");
    assert_eq!(rig.pools_of("/d/f"), ["sim0"]);
    let get = |name: &str, attr: &str| {
        let mut buf = vec![0; 4096];
        rustix::fs::getxattr(dir.join(name), attr, &mut buf[..])
            .map(|len| String::from_utf8_lossy(&buf[..len]).into_owned())
    };
    assert_eq!(get("d", "user.codax.on").expect("set"), "sim0");
    assert!(get("d/f", "user.codax.extents").expect("a file").contains("sim0"));
    let invalid = Some(rustix::io::Errno::INVAL);
    assert_eq!(set("d", "user.codax.on", "nowhere").err(), invalid);
    assert_eq!(set("d", "user.codax.colour", "red").err(), invalid);
    assert!(set("d/f", "user.codax.extents", "x").is_err());
    rustix::fs::removexattr(dir.join("d"), "user.codax.on").expect("set");
    fs::write(dir.join("d/g"), vec![1; 100_000]).expect("room");
    assert_eq!(rig.pools_of("/d/g"), ["dram"]);
    rig.sound();
}

#[test]
fn a_full_pool_says_so_and_room_is_shown() {
    let Some(Mounted { rig, dir }) = mounted("a_full_pool_says_so", Plan::new().dram("8MiB").device("4MiB"))
    else {
        return;
    };
    let free = |dir: &Path| {
        let stat = rustix::fs::statvfs(dir).expect("mounted");
        stat.f_bavail * stat.f_frsize
    };
    let before = free(&dir);
    assert_eq!(before, rig.pool("dram", "free"));
    // Beside the room it is said that reads change no time.
    let flags = rustix::fs::statvfs(&dir).expect("mounted").f_flag;
    assert!(flags.contains(rustix::fs::StatVfsMountFlags::NOATIME));
    fs::write(dir.join("f"), vec![1; 1 << 20]).expect("room");
    assert_eq!(free(&dir), before - MIB);
    let full = fs::write(dir.join("big"), vec![2; 16 << 20]).expect_err("there is no room");
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    rig.sound();
    fs::remove_file(dir.join("big")).expect("there");
    assert_eq!(free(&dir), before - MIB);
    // A hole is not bytes.
    let file = File::create(dir.join("sparse")).expect("room");
    file.set_len(1 << 30).expect("a hole takes nothing");
    drop(file);
    assert_eq!(free(&dir), before - MIB);
    assert_eq!(fs::metadata(dir.join("sparse")).expect("there").blocks(), 0);
    // Who only reads one fills nothing, whether a program has it open or not.
    let file = File::create(dir.join("read")).expect("room");
    file.set_len(64 * MIB).expect("a hole takes nothing");
    let zeros = vec![0; 64 << 20];
    assert!(rig.get("/read") == zeros);
    drop(file);
    assert!(rig.get("/read") == zeros);
    assert_eq!(fs::metadata(dir.join("read")).expect("there").blocks(), 0);
    rig.sound();
}
