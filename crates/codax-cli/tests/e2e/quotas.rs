//! Quotas: tenants that fill all they may, by the library, a mount and descriptors, beside others that keep their share.

use crate::client::Client;
use crate::holders;
use crate::mount::{Mounted, mounted};
use crate::rig::{MIB, NOBODY, Plan, Rig, pattern, root, run_limited, skipped, until};
use crate::setting;
use codax::{OpenOptions, Store};
use codax_os::area::Region;
use codax_os::object;
use serde_json::Value;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;

/// Another user than [`NOBODY`].
const OTHER: u32 = 65533;

/// EDQUOT.
const OVER_QUOTA: i32 = 122;

/// ENOSPC.
const NO_SPACE: &str = "28";

/// What a tenant has of files beside their names.
enum Has {
    Descriptor { _map: Region, file: OwnedFd },
    Mapping { file: File, map: Region },
}

/// A tenant with a directory of its own, `dir` in the store and `mount` in a mount. It answers with `ok`, a kind, or an errno.
pub fn tenant(store: &Store, dir: &str, mount: &str) {
    let at = |name: &str| format!("{dir}/{name}");
    let in_mount = |name: &str| Path::new(mount).join(name);
    let mut held: HashMap<String, Has> = HashMap::new();
    let kind = |done: codax::Result<()>| done.map_or_else(|e| format!("{:?}", e.kind), |()| "ok".to_owned());
    crate::client::serve(|line| {
        let name = line[1];
        let bytes = || line[2].parse::<u64>().expect("a number");
        match line[0] {
            "create" => {
                let made = OpenOptions::new().write(true).create_new(true).len(bytes()).open(store, at(name));
                kind(made.map(drop))
            }
            "resize" => {
                let open = OpenOptions::new().write(true).open(store, at(name));
                kind(open.and_then(|file| file.set_len(bytes())))
            }
            // Appends by write(2) until so much is written, or something says no.
            "write" => {
                let mut file =
                    fs::OpenOptions::new().append(true).create(true).open(in_mount(name)).expect("opens");
                append(&mut file, bytes())
            }
            "open" => {
                let file = fs::OpenOptions::new().read(true).write(true).open(in_mount(name)).expect("opens");
                let map = Region::reserve(usize::try_from(bytes()).expect("small")).expect("addresses");
                map.place(0, map.len(), &file, 0, true).expect("mapped");
                held.insert(name.to_owned(), Has::Mapping { file, map });
                "ok".to_owned()
            }
            "fill" => {
                let Has::Mapping { map, .. } = &held[name] else { panic!("not mapped") };
                (0..map.len()).step_by(4096).for_each(|at| map.memory().store_u64(at, 1));
                "ok".to_owned()
            }
            "truncate" => {
                let Has::Mapping { file, .. } = &held[name] else { panic!("not mapped") };
                file.set_len(bytes()).map_or_else(|e| e.to_string(), |()| "ok".to_owned())
            }
            // Makes a file longer by a descriptor of its object that a client gets to write what is there: it has all that it makes room for.
            "raw" => {
                let channel = holders::greet(&codax::default_dir());
                let file = holders::raw(&channel, &at(name), true).expect("it is theirs").remove(0);
                let file = File::from(file);
                let from = file.metadata().expect("there").len();
                if let Err(e) = object::allocate(&file, from, bytes() - from) {
                    return e.raw_os_error().expect("a system error").to_string();
                }
                file.set_len(bytes()).expect("it may");
                let map = Region::reserve(usize::try_from(bytes()).expect("small")).expect("addresses");
                map.place(0, map.len(), &file, 0, true).expect("mapped");
                held.insert(name.to_owned(), Has::Descriptor { _map: map, file: file.into() });
                "ok".to_owned()
            }
            "drop" => {
                drop(held.remove(name));
                "ok".to_owned()
            }
            "cut" => {
                let Some(Has::Descriptor { file, .. }) = held.remove(name) else { panic!("not held") };
                File::from(file).set_len(bytes()).map_or_else(|e| e.to_string(), |()| "ok".to_owned())
            }
            "rm" => fs::remove_file(in_mount(name)).map_or_else(|e| e.to_string(), |()| "ok".to_owned()),
            other => panic!("tenant: no word {other}"),
        }
    });
}

fn append(file: &mut File, bytes: u64) -> String {
    let block = pattern(MIB, 7);
    let mut written = 0;
    while written < bytes {
        let part = &block[..usize::try_from((bytes - written).min(MIB)).expect("small")];
        match file.write(part) {
            Ok(n) => written += n as u64,
            Err(e) => return format!("{written} {}", e.raw_os_error().expect("a system error")),
        }
    }
    format!("{written} 0")
}

/// What `codax quota` says of a user or directory on a pool: used, limit, and whether it is over.
#[track_caller]
fn quota(rig: &Rig, field: &str, of: impl Into<Value>, pool: &str) -> (u64, u64, bool) {
    let of = of.into();
    let rows = rig.rows(&["quota"]);
    let row = rows.iter().find(|row| row[field] == of && row["pool"] == pool);
    let row = row.unwrap_or_else(|| panic!("no quota of {of} on {pool}: {rows:?}"));
    let number = |name: &str| row[name].as_u64().expect("a number");
    (number("used"), number("limit"), row["over"] == true)
}

/// Two directories on `sim0`, each a user's own, who may have 16 MiB of it.
fn two_tenants(rig: &Rig) {
    for (dir, uid) in [("/a", NOBODY), ("/b", OTHER)] {
        rig.ok(&["mkdir", dir, "--on", "sim0"]);
        rig.ok(&["chown", &format!("{uid}:{uid}"), dir]);
        rig.ok(&["quota", "set", "--user", &uid.to_string(), "sim0", "16MiB"]);
    }
}

#[test]
fn one_tenant_fills_all_it_may_by_library_mount_and_descriptor_and_the_other_keeps_its_share() {
    const NAME: &str = "one_tenant_fills_all_it_may_and_the_other_keeps_its_share";
    // All of it in whole huge pages, for pools that have nothing else.
    let Some(Mounted { rig, dir }) = mounted(NAME, Plan::new().device("48MiB")) else { return };
    two_tenants(&rig);
    rig.ok(&["quota", "set", "--dir", "/a", "sim0", "20MiB"]);
    let mount = |name: &str| dir.join(name).to_str().expect("text").to_owned();
    let mut a = Client::start_as(&rig, NOBODY, "tenant", &["/a", &mount("a")]);
    let mut b = Client::start_as(&rig, OTHER, "tenant", &["/b", &mount("b")]);
    let of_a = || quota(&rig, "uid", NOBODY, "sim0");

    // By the library, and the rest through the mount, to the last frame.
    assert_eq!(a.ask(&format!("create lib {}", 6 * MIB)), "ok");
    assert_eq!(a.ask(&format!("write mounted {}", 64 * MIB)), format!("{} {OVER_QUOTA}", 10 * MIB));
    assert_eq!(of_a(), (16 * MIB, 16 * MIB, false));
    assert_eq!(fs::metadata(dir.join("a/mounted")).expect("there").len(), 10 * MIB);
    assert_eq!(a.ask("write mounted 1"), format!("0 {OVER_QUOTA}"));
    assert_eq!(a.ask("create more 4096"), "QuotaExceeded");
    assert_eq!(a.ask("create none 0"), "ok");
    assert_eq!(a.ask(&format!("resize lib {}", 6 * MIB + 1)), "QuotaExceeded");
    let mut put = rig.command(&["put", "-", "/a/put"]);
    let said = run_limited(put.uid(NOBODY).gid(NOBODY), "put".into(), &pattern(5000, 1));
    said.fails(11, &["user 65534", "16 MiB", "sim0", "codax quota set"]);
    let room = rustix::fs::statvfs(dir.join("a")).expect("statfs");
    assert_eq!((room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize), (20 * MIB, 4 * MIB));

    // By a descriptor: nobody was asked, so it is found, and closes the tenant for good. Where huge pages are set aside, the store has all that are free.
    let by_descriptor = a.ask(&format!("raw lib {}", 8 * MIB));
    let taken = if setting::takes_huge_pages() { 0 } else { 2 * MIB };
    assert_eq!(by_descriptor, if taken > 0 { "ok" } else { NO_SPACE });
    assert_eq!(of_a(), (16 * MIB + taken, 16 * MIB, taken > 0));
    assert_eq!(a.ask("rm none"), "ok");
    assert_eq!(a.ask("create more 4096"), "QuotaExceeded");
    assert_eq!(a.ask("write mounted 1"), format!("0 {OVER_QUOTA}"));
    let status = rig.ok(&["status"]);
    assert_eq!(status.text().contains("over: nothing new until it has less"), taken > 0, "{status}");
    assert_eq!(rig.row(&["status"])["quotas"].as_array().expect("a list").len(), 3);

    // The other has its share all the same, in both ways, and not more.
    assert_eq!(b.ask(&format!("create lib {}", 8 * MIB)), "ok");
    assert_eq!(b.ask(&format!("write mounted {}", 64 * MIB)), format!("{} {OVER_QUOTA}", 8 * MIB));
    assert_eq!(quota(&rig, "uid", OTHER, "sim0"), (16 * MIB, 16 * MIB, false));

    // Under it again once the descriptor is gone: what it had grown was nobody's.
    assert_eq!(a.ask("drop lib"), "ok");
    until("the memory is taken back", || (of_a() == (16 * MIB, 16 * MIB, false)).then_some(()));
    assert_eq!(a.ask("create more 4096"), "QuotaExceeded");
    assert_eq!(a.ask("rm mounted"), "ok");
    assert_eq!(of_a().0, 6 * MIB);
    assert_eq!(a.ask(&format!("create more {}", 10 * MIB)), "ok");
    let over = ["over", "no longer over"].into_iter().filter(|_| taken > 0);
    for word in over.chain(["refused", "set"]) {
        let told = rig.events("quota");
        assert!(told.iter().any(|line| line.contains(word)), "{word}: {told:?}");
    }
    a.end();
    b.end();
    rig.run(&["check", "--repair"]);
    rig.sound();

    // And after a crash.
    rig.kill();
    rig.up();
    assert_eq!(of_a(), (16 * MIB, 16 * MIB, false));
    assert_eq!(quota(&rig, "path", "/a", "sim0"), (16 * MIB, 20 * MIB, false));
    let mut a = Client::start_as(&rig, NOBODY, "tenant", &["/a", "/"]);
    assert_eq!(a.ask("create again 4096"), "QuotaExceeded");
    a.end();
    rig.sound();
}

#[test]
fn under_a_quota_a_mapping_through_the_mount_is_the_memory_and_what_it_fills_is_charged() {
    const NAME: &str = "under_a_quota_a_mapping_through_the_mount_is_the_memory";
    let Some(Mounted { rig, dir }) = mounted(NAME, Plan::new().device_as("sim0=emulated:48MiB")) else {
        return;
    };
    two_tenants(&rig);
    let mount = dir.join("a").to_str().expect("text").to_owned();
    let mut a = Client::start_as(&rig, NOBODY, "tenant", &["/a", &mount]);
    let of_a = || quota(&rig, "uid", NOBODY, "sim0");
    assert_eq!(a.ask(&format!("write f {}", 8 * MIB)), format!("{} 0", 8 * MIB));
    let served = &rig.row(&["stat", "/a/f"])["mounted"][0];
    if served["by"] != "kernel" {
        return skipped(NAME, "FUSE passes nothing through here");
    }
    assert!(served["why"].as_str().expect("text").contains("a quota counts"), "{served}");
    // Writes are counted while a mapping is the memory itself, which the library sees.
    assert_eq!(a.ask(&format!("open f {}", 8 * MIB)), "ok");
    assert_eq!(a.ask(&format!("truncate f {}", 24 * MIB)), "ok");
    assert_eq!(a.ask("fill f"), "ok");
    assert_eq!(rig.get("/a/f")[4096 * 5..][..8], 1u64.to_le_bytes());
    assert_eq!(a.ask(&format!("write f {}", 4 * MIB)), format!("{} 0", 4 * MIB));
    assert_eq!(of_a(), (12 * MIB, 16 * MIB, false));
    // A hole that a store fills is found, and closes.
    assert_eq!(a.ask("drop f"), "ok");
    assert_eq!(a.ask(&format!("open f {}", 24 * MIB)), "ok");
    assert_eq!(a.ask("fill f"), "ok");
    assert_eq!(of_a(), (28 * MIB, 16 * MIB, true));
    assert_eq!(a.ask("write f 1"), format!("0 {OVER_QUOTA}"));
    assert_eq!(a.ask("create more 4096"), "QuotaExceeded");
    assert_eq!(a.ask(&format!("truncate f {}", 15 * MIB)), "ok");
    assert_eq!(of_a(), (15 * MIB, 16 * MIB, false));
    assert_eq!(a.ask("create more 4096"), "ok");
    a.end();
    rig.sound();
}

#[test]
fn an_overdrawn_tenant_gets_no_frame_in_whatever_way_it_asks() {
    const NAME: &str = "an_overdrawn_tenant_gets_no_frame_in_whatever_way_it_asks";
    let Some(Mounted { rig, dir }) = mounted(NAME, Plan::new().device_as("sim0=emulated:48MiB")) else {
        return;
    };
    two_tenants(&rig);
    rig.ok(&["quota", "set", "--dir", "/a", "sim0", "16MiB"]);
    let mount = dir.join("a").to_str().expect("text").to_owned();
    let mut a = Client::start_as(&rig, NOBODY, "tenant", &["/a", &mount]);
    let as_a = |words: &[&str], bytes: &[u8]| {
        let mut command = rig.command(words);
        run_limited(command.uid(NOBODY).gid(NOBODY), words.join(" "), bytes)
    };
    assert_eq!(a.ask(&format!("create lib {}", 8 * MIB)), "ok");
    assert_eq!(a.ask("write there 4096"), "4096 0");
    as_a(&["put", "-", "/a/elsewhere", "--on", "dram"], &pattern(MIB, 4)).ok();
    rig.put("/roots", &pattern(MIB, 5), &["--on", "sim0"]).ok();
    assert_eq!(a.ask(&format!("raw lib {}", 20 * MIB)), "ok");
    assert!(quota(&rig, "uid", NOBODY, "sim0").2 && quota(&rig, "path", "/a", "sim0").2);

    // By the library, the mount, commands; in directories below, with a quota of their own or without.
    assert_eq!(a.ask(&format!("resize lib {}", 8 * MIB + 4096)), "QuotaExceeded");
    assert_eq!(a.ask("write there 4096"), format!("0 {OVER_QUOTA}"));
    as_a(&["mkdir", "/a/sub"], b"").ok();
    assert_eq!(a.ask("create sub/new 4096"), "QuotaExceeded");
    rig.ok(&["quota", "set", "--dir", "/a/sub", "sim0", "1MiB"]);
    assert_eq!(a.ask("create sub/new 4096"), "QuotaExceeded");
    assert_eq!(a.ask("write sub/new 4096"), format!("0 {OVER_QUOTA}"));
    as_a(&["put", "-", "/a/new"], &pattern(4096, 1)).fails(11, &["sim0"]);
    as_a(&["put", "-f", "-", "/a/there"], &pattern(4096, 1)).fails(11, &["sim0"]);
    as_a(&["move", "/a/elsewhere", "--to", "sim0"], b"").fails(11, &["sim0"]);
    // Nor by others for it: what counts is whose the file is, and where.
    let there = fs::OpenOptions::new().write(true).open(dir.join("a/there")).expect("root may");
    let more = rustix::fs::fallocate(&there, rustix::fs::FallocateFlags::empty(), 0, 16_384);
    assert_eq!(more, Err(rustix::io::Errno::DQUOT));
    drop(there);
    rig.run(&["mv", "/roots", "/a/roots"]).fails(11, &["/a", "sim0"]);
    assert_eq!(rig.pools_of("/a/elsewhere"), ["dram"]);

    // What costs it nothing there it may have, and all of it once it is back under.
    assert_eq!(a.ask("create empty 0"), "ok");
    as_a(&["put", "-", "/a/dram", "--on", "dram"], &pattern(4096, 1)).ok();
    as_a(&["mv", "/a/dram", "/a/sub/dram"], b"").ok();
    assert_eq!(a.ask("drop lib"), "ok");
    until("the memory is taken back", || (!quota(&rig, "uid", NOBODY, "sim0").2).then_some(()));
    as_a(&["move", "/a/elsewhere", "--to", "sim0"], b"").ok();
    rig.ok(&["mv", "/roots", "/a/roots"]);
    a.end();
    rig.run(&["check", "--repair"]);
    rig.sound();
}

#[test]
fn bad_quotas_are_refused_in_one_line() {
    let rig = Plan::new().up();
    rig.put("/f", b"x", &[]).ok();
    rig.ok(&["mkdir", "/d"]);
    for (words, code, says) in [
        (&["set", "--user", "0", "sim0", "lots"][..], 2, "`lots` is not a size"),
        (&["set", "--user", "0", "sim0", "4095"], 2, "4095 bytes is less than one frame"),
        (&["set", "--user", "nobody-at-all", "sim0", "1MiB"], 2, "nobody-at-all: no such user"),
        (&["set", "--user", "0", "sim9", "1MiB"], 3, "no pool sim9"),
        (&["set", "--dir", "/f", "sim0", "1MiB"], 2, "/f is not a directory"),
        (&["set", "--dir", "/none", "sim0", "1MiB"], 3, "/none"),
        (&["clear", "--user", "0", "sim0"], 3, "user 0 has no quota on sim0"),
        (&["clear", "--dir", "/d"], 3, "/d has no quota"),
    ] {
        let words: Vec<&str> = ["quota"].iter().chain(words).copied().collect();
        rig.run(&words).fails(code, &[says]);
    }
    for words in [
        &["quota", "set", "sim0", "1MiB"][..],
        &["quota", "set", "--user", "0", "--dir", "/d", "sim0", "1MiB"],
        &["quota", "set", "--user", "0", "sim0"],
        &["quota", "clear"],
        &["quota", "raise"],
    ] {
        assert_eq!(rig.run(words).code, 2, "{words:?}");
    }
    assert!(rig.rows(&["quota"]).is_empty());
    // Below what is used is allowed, and takes nothing away.
    let uid = rig.row(&["stat", "/f"])["uid"].as_u64().expect("a number");
    let bytes = pattern(2 * MIB, 3);
    rig.put("/g", &bytes, &["--on", "sim0"]).ok();
    rig.ok(&["quota", "set", "--user", &uid.to_string(), "sim0", "1MiB"]);
    assert_eq!(quota(&rig, "uid", uid, "sim0"), (2 * MIB, MIB, true));
    rig.put("/h", b"y", &["--on", "sim0"]).fails(11, &["sim0", "2 MiB", "1 MiB"]);
    rig.run(&["stat", "/h"]).fails(3, &["/h"]);
    assert!(rig.get("/g") == bytes);
    rig.run(&["move", "/f", "--to", "sim0"]).fails(11, &["sim0"]);
    rig.ok(&["quota", "clear", "--user", &uid.to_string()]);
    rig.put("/h", b"y", &["--on", "sim0"]).ok();
    rig.down();
    rig.run(&["quota"]).fails(8, &[]);
}

#[test]
fn quotas_are_the_operator_s() {
    if !root() {
        return skipped("quotas_are_the_operator_s", "needs root");
    }
    let rig = Plan::new().up();
    two_tenants(&rig);
    for words in
        [&["quota", "set", "--user", "65534", "sim0", "1GiB"][..], &["quota", "clear", "--user", "65534"]]
    {
        let mut command = rig.command(words);
        run_limited(command.uid(NOBODY).gid(NOBODY), words.join(" "), b"").fails(7, &[words[1]]);
    }
    // One may see one's own, and those of directories whose names one may see.
    rig.ok(&["mkdir", "-p", "/closed/secret"]);
    rig.ok(&["chmod", "700", "/closed"]);
    for dir in ["/b", "/closed", "/closed/secret"] {
        rig.ok(&["quota", "set", "--dir", dir, "sim0", "1GiB"]);
    }
    for command in ["quota", "status"] {
        let mut list = rig.command(&[command]);
        let said = run_limited(list.uid(NOBODY).gid(NOBODY), command.into(), b"").ok();
        let text = said.text();
        let seen = |word: &str| text.lines().any(|line| line.starts_with(word));
        assert!(seen("user nobody (65534) ") || seen("user 65534 "), "{said}");
        assert!(seen("/b ") && seen("/closed "), "{said}");
        assert!(!text.contains("secret") && !seen("user 65533"), "{said}");
        assert!(rig.ok(&[command]).text().contains("/closed/secret"));
    }
}
