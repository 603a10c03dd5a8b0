//! Everything that a user can get wrong, with the exit code and the one line that it gets.

use crate::holders::{greeted, raw};
use crate::rig::{MIB, NOBODY, Plan, kernel_faults, pattern, root, skipped};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

#[test]
fn bad_words_get_their_code_and_one_line() {
    let rig = Plan::new().dram("8MiB").up();
    rig.put("/f", &pattern(3 * MIB, 1), &["--on", "sim0"]).ok();
    rig.ok(&["mkdir", "/d"]);
    rig.put("/d/g", b"g", &[]).ok();
    let long = format!("/{}", "n".repeat(256));
    let deep = "/x".repeat(2500);
    let cases: &[(&[&str], i32, &[&str])] = &[
        // Paths.
        (&["stat", "/../f"], 2, &[".."]),
        (&["stat", "/d/../f"], 2, &[".."]),
        (&["stat", "/d/./g"], 2, &["."]),
        (&["stat", "/d//g"], 2, &["//"]),
        (&["mkdir", "/f/"], 10, &["/f"]),
        (&["put", "-", &long], 2, &[]),
        (&["mkdir", &deep], 2, &[]),
        (&["stat", "/nothing"], 3, &["/nothing"]),
        (&["cat", "/nothing"], 3, &["/nothing"]),
        (&["rm", "/nothing"], 3, &["/nothing"]),
        (&["ls", "/d/nothing"], 3, &["/d/nothing"]),
        (&["mv", "/nothing", "/x"], 3, &["/nothing"]),
        (&["put", "-", "/no/dir"], 3, &["/no"]),
        (&["stat", "/f/x"], 2, &["/f"]),
        (&["cat", "/d"], 2, &["/d"]),
        (&["get", "/d", "-"], 2, &["/d"]),
        (&["put", "-", "/d"], 10, &["/d"]),
        (&["put", "-", "/f"], 10, &["/f"]),
        (&["mkdir", "/d"], 10, &["/d"]),
        (&["mkdir", "/f"], 10, &["/f"]),
        (&["rm", "/d"], 5, &["/d", "not empty"]),
        (&["rm", "-r", "/"], 2, &["/"]),
        (&["mv", "/d", "/d/e"], 2, &["/d"]),
        (&["mv", "-n", "/f", "/d/g"], 10, &["/d/g"]),
        // Pools.
        (&["put", "-", "/x", "--on", "nopool"], 3, &["nopool"]),
        (&["put", "-", "/x", "--prefer", "nopool"], 3, &["nopool"]),
        (&["put", "-", "/x", "--interleave", "dram,nopool"], 3, &["nopool"]),
        (&["put", "-", "/x", "--interleave", "sim0,sim0"], 2, &["sim0"]),
        (&["mkdir", "/x", "--on", "nopool"], 3, &["nopool"]),
        (&["placement", "/f", "--on", "nopool"], 3, &["nopool"]),
        (&["move", "/f", "--to", "nopool"], 3, &["nopool"]),
        (&["move", "/d", "--to", "dram"], 2, &["/d"]),
        (&["move", "/nothing", "--to", "dram"], 3, &["/nothing"]),
        (&["move", "/f", "--to", "dram", "--range", "0:4MiB"], 2, &["/f"]),
        (&["move", "/f", "--to", "dram", "--range", "3MiB:4096"], 2, &["/f"]),
        (&["move", "/f", "--to", "dram", "--range", "18446744073709551615:1"], 2, &[]),
        (&["move", "/f", "--to", "dram", "--range", "-1:4096"], 2, &[]),
        // Devices.
        (&["device", "show", "nodevice"], 3, &["nodevice"]),
        (&["device", "drain", "nodevice"], 3, &["nodevice"]),
        (&["device", "online", "nodevice"], 3, &["nodevice"]),
        (&["device", "drain", "dram"], 2, &["dram"]),
        (&["device", "drain", "dram", "--dry-run"], 2, &["dram"]),
        (&["device", "online", "dram"], 2, &["dram"]),
        (&["device", "drain", "sim0", "--wait", "-1s"], 2, &[]),
        (&["device", "drain", "sim0", "--wait", "5"], 2, &[]),
        (&["device", "drain", "sim0", "--limit", "0"], 2, &[]),
        (&["device", "drain", "sim0", "--limit", "-1"], 2, &[]),
        (&["pages", "nopool"], 3, &["nopool"]),
        (&["pages", "sim0", "--file", "/nothing"], 3, &["/nothing"]),
        // Owners and modes.
        (&["chmod", "888", "/f"], 2, &["888"]),
        (&["chmod", "644", "/nothing"], 3, &["/nothing"]),
        (&["chown", "no-such-user", "/f"], 2, &["no-such-user"]),
        // What the command line itself shows.
        (&["mv", "/f"], 2, &["<TO>", "codax mv --help"]),
        (&["mvv"], 2, &["mvv", "'mv'", "codax --help"]),
        (&["quota", "set", "sim0"], 2, &["--user", "codax quota set --help"]),
        (&["quota", "set", "--dir", "/", "sim0", "-5"], 2, &["`-5` is not a size"]),
        (&["quota", "set", "--dir", "/", "sim0", "-5MiB"], 2, &["`-5MiB` is not a size"]),
        (&["ls", "--much"], 2, &["--much", "codax ls --help"]),
        // A store that is served already, here.
        (&["up"], 5, &["another daemon"]),
        (&["events", "--since", "-1"], 2, &[]),
    ];
    for (words, code, says) in cases {
        let said = rig.run(words);
        said.fails(*code, says);
    }
    assert_eq!(rig.rows(&["ls"]).len(), 2, "nothing was made or removed");
    assert_eq!(rig.get("/f"), pattern(3 * MIB, 1));
    rig.sound();
}

#[test]
fn bad_stores_and_devices_do_not_start() {
    let rig = Plan::new().place();
    let not_tmpfs = crate::setting::scratch();
    let not_tmpfs = not_tmpfs.to_str().expect("text");
    let plain = rig.beside("file");
    std::fs::write(&plain, "").expect("ours");
    let open = rig.beside("open");
    std::fs::create_dir(&open).expect("ours");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("ours");
    let below = plain.join("x");
    let text = |path: &std::path::Path| path.to_str().expect("text").to_owned();
    let (plain, open, below) = (text(&plain), text(&open), text(&below));
    let size = "18446744073709551615";
    let cases: Vec<(Vec<String>, i32, &str)> = [
        (vec!["--dram", "0"], 2, "0"),
        (vec!["--dram=-4096"], 2, "negative"),
        (vec!["--dram", size], 2, "--dram"),
        (vec!["--dram", "18446744073709551616"], 2, "--dram"),
        (vec!["--dram", "4097"], 2, "multiple"),
        (vec!["--dram", "much"], 2, "much"),
        (vec!["--device", "sim0=emulated:0"], 2, "sim0"),
        (vec!["--device", "sim0=emulated:-1MiB"], 2, "negative"),
        (vec!["--device", &format!("sim0=emulated:{size}")], 2, "sim0"),
        (vec!["--device", "sim0=emulated:4097"], 2, "multiple"),
        (vec!["--device", "a/b=emulated:1MiB"], 2, "a/b"),
        (vec!["--device", "..=emulated:1MiB"], 2, ".."),
        (vec!["--device", "dram=emulated:1MiB"], 2, "dram"),
        (vec!["--device", "a=emulated:1MiB", "--device", "a=emulated:2MiB"], 2, "twice"),
        (vec!["--device", "a=cxl:1MiB"], 2, "cxl"),
        (vec!["--store", &plain], 2, "not a directory"),
        (vec!["--store", &open], 7, "others may write"),
        (vec!["--store", &below], 2, &below),
        (vec!["--config", "/no/such/codax.toml"], 3, "/no/such/codax.toml"),
    ]
    .map(|(words, code, says)| (words.into_iter().map(str::to_owned).collect(), code, says))
    .into();
    for (words, code, says) in cases {
        let words: Vec<_> = ["up".to_owned()].into_iter().chain(words).collect();
        rig.run(&words).fails(code, &[says]);
    }
    assert!(!rig.dir().exists(), "nothing was made");
    let user = Plan::new().user(NOBODY).place();
    if root() {
        user.run(&["up", "--store", not_tmpfs]).fails(7, &["belongs to uid 0"]);
    }
}

#[test]
fn a_store_is_served_by_its_owner_alone() {
    if !root() {
        return skipped(
            "a_store_is_served_by_its_owner_alone",
            "only root can make another user's directory",
        );
    }
    let rig = Plan::new().user(NOBODY).place();
    std::fs::create_dir(rig.dir()).expect("ours");
    rig.run(&["up"]).fails(7, &["belongs to uid 0"]);
    std::os::unix::fs::chown(rig.dir(), Some(NOBODY), None).expect("root may");
    let roots = Plan::new().place();
    let dir = rig.dir();
    roots
        .run(&[OsStr::new("up"), OsStr::new("--store"), dir.as_os_str()])
        .fails(7, &["belongs to uid 65534"]);
}

#[test]
fn another_size_for_a_device_is_refused_and_the_same_is_accepted() {
    let rig = Plan::new().up();
    rig.put("/f", b"f", &["--on", "sim0"]).ok();
    rig.down();
    rig.run(&["up", "--device", "sim0=emulated:32MiB"]).fails(6, &["sim0", "67108864"]);
    rig.run(&["up", "--dram", "32MiB"]).fails(6, &["dram", "67108864"]);
    rig.up();
    assert_eq!(rig.get("/f"), b"f");
}

#[test]
fn a_put_that_does_not_fit_leaves_nothing() {
    let rig = Plan::new().dram("4MiB").device("2MiB").up();
    let big = pattern(3 * MIB, 4);
    let file = rig.beside("big");
    std::fs::write(&file, &big).expect("room");
    let file = file.to_str().expect("text");
    let check_nothing = || {
        assert_eq!((rig.rows(&["ls"]).len(), rig.pool("sim0", "used"), rig.pool("sim0", "held")), (0, 0, 0));
        rig.sound();
    };
    rig.run(&["put", file, "/big", "--on", "sim0"]).fails(4, &["/big"]);
    check_nothing();
    // A length that is not known before.
    rig.put("/big", &big, &["--on", "sim0"]).fails(4, &["/big"]);
    check_nothing();
    // What prefers a pool goes on in another.
    rig.run(&["put", file, "/big", "--prefer", "sim0"]).ok();
    assert_eq!(rig.pools_of("/big"), ["dram", "sim0"]);
    assert_eq!(rig.get("/big"), big);
    // Both are too small together.
    rig.put("/more", &pattern(4 * MIB, 5), &["--prefer", "sim0"]).fails(4, &["/more"]);
    rig.run(&["move", "/big", "--to", "sim0"]).fails(4, &[]);
    assert_eq!(rig.get("/big"), big);
    // An old file stays if a new one in its place doesn't fit.
    rig.run(&["put", "-f", "-", "/big", "--on", "sim0"]).ok();
    rig.run(&["put", "-f", file, "/big", "--on", "sim0"]).fails(4, &["/big"]);
    assert_eq!(rig.get("/big"), b"");
    rig.sound();
}

#[test]
fn names_of_any_bytes_are_taken_and_shown_escaped() {
    let rig = Plan::new().up();
    let name = OsStr::from_bytes(b"/\xff\n\x1b[2J\\");
    let words: [&OsStr; 3] = [OsStr::new("put"), OsStr::new("-"), name];
    rig.feed(&words, b"any").ok();
    let words: [OsString; 3] = ["get".into(), name.into(), "-".into()];
    assert_eq!(rig.ok(&words).out, b"any");
    let listed = rig.ok(&["ls"]);
    assert_eq!(listed.text(), "\\xff\\n\\x1b[2J\\\\\n");
    let row = rig.row(&["ls"]);
    assert!(row["path"].is_null() && row["name"].is_null());
    assert_eq!((&row["path_hex"], &row["name_hex"]), (&"2fff0a1b5b324a5c".into(), &"ff0a1b5b324a5c".into()));
    for command in ["stat", "placement"] {
        let said = rig.ok(&[OsStr::new(command), name]);
        assert!(!said.text().contains('\u{1b}'), "{said}");
    }
    let said = rig.ok(&["pages", "dram"]);
    assert!(said.text().contains("(/\\xff\\n\\x1b[2J\\\\)"), "{said}");
    rig.run(&[OsStr::new("mkdir"), name]).fails(10, &["\\xff"]);
    rig.ok(&[OsStr::new("rm"), name]);
    let name = "/ä\u{202e}x";
    rig.put(name, b"", &[]).ok();
    assert!(!rig.ok(&["ls"]).text().contains('\u{202e}'), "nothing turns the direction of text");
    assert_eq!(rig.row(&["ls"])["path"], name);
}

#[test]
fn a_name_of_255_bytes_and_a_file_of_no_bytes_are_fine() {
    let rig = Plan::new().up();
    let name = format!("/{}", "n".repeat(255));
    rig.put(&name, b"", &["--on", "sim0"]).ok();
    assert_eq!(rig.get(&name), b"");
    assert_eq!(rig.pool("sim0", "used"), 0);
    rig.ok(&["move", &name, "--to", "dram"]);
    rig.ok(&["device", "drain", "sim0"]);
    rig.sound();
}

#[test]
fn a_client_that_cuts_or_grows_an_object_harms_nobody_else() {
    let rig = Plan::new().up();
    let bytes = pattern(2 * MIB, 6);
    rig.put("/victim", &bytes, &["--on", "sim0"]).ok();
    rig.put("/other", &bytes, &["--on", "sim0"]).ok();
    let channel = greeted(&rig);
    let fd = std::fs::File::from(raw(&channel, "/victim", true).expect("ours").remove(0));
    fd.set_len(4096).expect("its own file");
    drop((fd, channel));
    let said = rig.run(&["move", "/victim", "--to", "dram"]);
    assert_ne!(said.code, 0, "{said}");
    if kernel_faults() {
        rig.run(&["cat", "/victim"]).fails(9, &["/victim", "can't be read"]);
    }
    let said = rig.run(&["check"]);
    assert_eq!(said.code, 9, "{said}");
    assert!(said.text().contains("/victim"), "{said}");
    assert_eq!(rig.get("/other"), bytes);
    let channel = greeted(&rig);
    let fd = std::fs::File::from(raw(&channel, "/other", true).expect("ours").remove(0));
    fd.set_len(64 << 20).expect("its own file");
    drop((fd, channel));
    assert_eq!(rig.get("/other"), bytes);
    rig.ok(&["move", "/other", "--to", "dram"]);
    assert_eq!(rig.get("/other"), bytes);
    rig.ok(&["rm", "/victim"]);
    let said = rig.run(&["check", "--repair"]);
    assert!(said.code == 0 || said.code == 9, "{said}");
    rig.sound();
    rig.down();
    rig.up();
    assert_eq!(rig.get("/other"), bytes);
    rig.ok(&["device", "drain", "sim0"]);
}

#[test]
fn a_move_without_room_is_refused_in_whole() {
    let rig = Plan::new().device_named("tiny", "1MiB").up();
    rig.put("/f", &pattern(3 * MIB, 1), &[]).ok();
    let missing = (2 * MIB).to_string();
    rig.run(&["move", "/f", "--to", "tiny"]).fails(4, &["tiny", &missing]);
    assert_eq!((rig.pools_of("/f"), rig.pool("tiny", "used")), (vec!["dram".to_owned()], 0));
    let refused = rig.events("refuse");
    assert!(refused.iter().any(|e| e.contains("tiny has no room")), "{refused:?}");
}
