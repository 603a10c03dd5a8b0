//! Stores of an ordinary user, and what users can't do to each other's files.

use crate::client::{self, Client};
use crate::rig::{MIB, NOBODY, Plan, Rig, Said, pattern, root, run_limited, skipped};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Another user than [`NOBODY`].
const OTHER: u32 = 65533;

/// Whether an ordinary user may catch faults of system calls here.
fn anybody_may_catch_all() -> bool {
    std::fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd").is_ok_and(|text| text.trim() == "1")
}

fn run_as(rig: &Rig, uid: u32, words: &[&str]) -> Said {
    run_limited(rig.command(words).uid(uid).gid(uid), format!("(as {uid}) {}", words.join(" ")), b"")
}

#[test]
fn an_ordinary_user_has_a_store_of_their_own() {
    let rig = Plan::new().user(NOBODY).up();
    let bytes = pattern(3 * MIB + 5, 1);
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    assert_eq!(rig.row(&["status"])["uid"], if root() { NOBODY } else { codax_os::process::uid() });
    assert!(rig.get("/f") == bytes);
    rig.ok(&["device", "drain", "sim0"]);
    assert_eq!(rig.pools_of("/f"), ["dram"]);
    rig.ok(&["device", "online", "sim0"]);
    assert_eq!(rig.pools_of("/f"), ["sim0"]);
    rig.kill();
    rig.up();
    assert!(rig.get("/f") == bytes);
    rig.sound();
    assert!(rig.rows(&["pages", "sim0"]).iter().any(|run| run["path"] == "/f"));
    rig.ok(&["rm", "/f"]);
    rig.ok(&["down", "--purge"]);
    assert!(!rig.dir().exists());
}

#[test]
fn a_user_who_may_not_open_the_device_is_told_what_helps() {
    const NAME: &str = "a_user_who_may_not_open_the_device_is_told_what_helps";
    let others_may = |meta: std::fs::Metadata| meta.permissions().mode() & 0o006 == 0o006;
    let closed = std::fs::metadata("/dev/fuse").is_ok_and(|meta| !others_may(meta));
    if !closed || !root() || !codax_os::fuse::helper_is_there() {
        return skipped(NAME, "wants root, fusermount3, and a /dev/fuse that is root's alone");
    }
    let rig = Plan::new().user(NOBODY).up();
    let dir = rig.beside("mnt");
    std::fs::create_dir(&dir).expect("ours");
    std::os::unix::fs::chown(&dir, Some(NOBODY), Some(NOBODY)).expect("root may");
    let words = ["mount", dir.to_str().expect("text")];
    run_as(&rig, NOBODY, &words).fails(7, &["/dev/fuse", "chmod 666 /dev/fuse"]);
    let said = run_as(&rig, NOBODY, &["doctor"]);
    assert!(said.text().contains("/dev/fuse can't be opened"), "{said}");
}

#[test]
fn a_mapping_that_can_not_wait_in_system_calls_is_moved_only_with_consent() {
    const NAME: &str = "a_mapping_that_can_not_wait_in_system_calls_is_moved_only_with_consent";
    if anybody_may_catch_all() {
        return skipped(NAME, "vm.unprivileged_userfaultfd is 1: everybody can");
    }
    let rig = Plan::new().user(NOBODY).up();
    rig.put("/f", &pattern(3 * MIB, 2), &["--on", "sim0"]).ok();
    let mut client = Client::start(&rig, "hold", &["/f", "rw", "does not"]);
    let pid = format!("process {}", client.pid());
    rig.run(&["move", "/f", "--to", "dram"]).fails(5, &["/f", &pid, "vm.unprivileged_userfaultfd=1"]);
    rig.run(&["device", "drain", "sim0"]).fails(5, &["/f", &pid, "codax doctor"]);
    client.ask("set 8 5");
    client.end();
    let mut client = Client::start(&rig, "hold", &["/f", "rw", "consents"]);
    let mut reader = Client::start(&rig, "hold", &["/f", "ro", "consents"]);
    for (round, to) in (6..10).zip(["dram", "sim0", "dram", "sim0"]) {
        client.ask(&format!("set 8 {round}"));
        rig.ok(&["move", "/f", "--to", to]);
        assert_eq!((client.number("get 8"), reader.number("get 8")), (round, round));
    }
    client.end();
    reader.end();
    rig.sound();
}

#[test]
fn other_users_can_not_read_change_or_move_what_is_not_theirs() {
    if !root() {
        return skipped("other_users_can_not_read_change_or_move_what_is_not_theirs", "needs root");
    }
    let rig = Plan::new().up();
    rig.put("/mine", b"secret", &["--on", "sim0"]).ok();
    rig.ok(&["chmod", "600", "/mine"]);
    rig.put("/shown", b"shown", &["--on", "sim0"]).ok();
    rig.ok(&["mkdir", "/closed", "/public"]);
    rig.put("/closed/f", b"x", &[]).ok();
    rig.ok(&["chmod", "700", "/closed"]);
    rig.ok(&["chmod", "1777", "/public"]);
    let other = |words: &[&str]| run_as(&rig, OTHER, words);
    assert_eq!(other(&["cat", "/shown"]).ok().out, b"shown");
    for words in [
        &["cat", "/mine"][..],
        &["get", "/mine", "-"],
        &["put", "-f", "-", "/mine"],
        &["put", "-", "/new"],
        &["mkdir", "/new"],
        &["rm", "/shown"],
        &["mv", "/shown", "/public/shown"],
        &["chmod", "777", "/mine"],
        &["chown", "65533", "/mine"],
        &["placement", "/mine", "--on", "dram"],
        &["move", "/shown", "--to", "dram"],
        &["ls", "/closed"],
        &["stat", "/closed/f"],
        &["cat", "/closed/f"],
        &["device", "drain", "sim0"],
        &["device", "online", "sim0"],
        &["device", "evict-strangers", "sim0"],
        &["check"],
        &["events"],
        &["reload"],
        &["down"],
        &["down", "--purge"],
    ] {
        other(words).fails(7, &[]);
    }
    // What is theirs is theirs, and the sticky bit keeps others away from it.
    run_limited(rig.command(&["put", "-", "/public/theirs"]).uid(OTHER).gid(OTHER), "put".into(), b"theirs")
        .ok();
    assert_eq!(rig.row(&["stat", "/public/theirs"])["uid"], OTHER);
    run_as(&rig, NOBODY, &["rm", "/public/theirs"]).fails(7, &["/public/theirs"]);
    other(&["chmod", "600", "/public/theirs"]).ok();
    run_as(&rig, NOBODY, &["cat", "/public/theirs"]).fails(7, &[]);
    other(&["chown", "0", "/public/theirs"]).fails(7, &[]);
    other(&["rm", "/public/theirs"]).ok();
    assert_eq!(rig.get("/mine"), b"secret");
    rig.sound();
}

#[test]
fn a_descriptor_to_read_can_not_become_one_to_write() {
    if !root() {
        return skipped("a_descriptor_to_read_can_not_become_one_to_write", "needs root");
    }
    let rig = Plan::new().up();
    rig.put("/shown", &pattern(MIB, 3), &["--on", "sim0"]).ok();
    rig.put("/mine", b"secret", &["--on", "sim0"]).ok();
    rig.ok(&["chmod", "600", "/mine"]);
    let said = client::run(&rig, "reopen", &["/shown", "/mine"], Some(OTHER));
    assert_eq!(
        said,
        [
            "mine: Permission",
            "raw to write: Permission",
            "write: Bad file descriptor",
            "reopened to write: Permission denied",
            "map to write: Permission denied",
            "truncate: Invalid argument",
        ]
    );
    assert!(rig.get("/shown") == pattern(MIB, 3));
}

#[test]
fn frame_tables_are_for_everybody_and_names_are_not() {
    if !root() {
        return skipped("frame_tables_are_for_everybody_and_names_are_not", "needs root");
    }
    let rig = Plan::new().up();
    rig.put("/secret-name", &pattern(10_000, 4), &["--on", "sim0"]).ok();
    let said = run_as(&rig, OTHER, &["pages", "sim0", "--json"]).ok();
    let used: Vec<_> = said.rows().into_iter().filter(|run| run["state"] == "used").collect();
    assert_eq!((used.len(), &used[0]["frames"]), (1, &3.into()));
    assert!(used[0]["path"].is_null() && used[0]["file"].is_u64());
    assert!(!said.text().contains("secret"), "{said}");
    run_as(&rig, OTHER, &["pages", "sim0", "--file", "/secret-name"]).fails(7, &[]);
    for place in ["meta", "pools", "pools/sim0"] {
        let mut list = Command::new("ls");
        list.arg(rig.dir().join(place)).uid(OTHER).gid(OTHER);
        let said = run_limited(&mut list, format!("ls {place}"), b"");
        assert_ne!(said.code, 0, "{place} is nobody else's: {said}");
    }
}

#[test]
fn who_may_not_open_a_device_maps_nothing_on_it_and_reads_through_the_daemon() {
    const NAME: &str = "who_may_not_open_a_device_maps_nothing_on_it";
    if !root() || !crate::setting::is_devdax() {
        return skipped(NAME, "wants root, and a DAX device");
    }
    let rig = Plan::new().up();
    let bytes = pattern(MIB, 3);
    rig.put("/shown", &bytes, &["--on", "sim0"]).ok();
    assert!(run_as(&rig, OTHER, &["cat", "/shown"]).ok().out == bytes);
    let said = client::run(&rig, "try-map", &["/shown"], Some(OTHER));
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("Permission: /shown lies on /dev/"), "{said:?}");
    rig.ok(&["move", "/shown", "--to", "dram"]);
    assert_eq!(client::run(&rig, "try-map", &["/shown"], Some(OTHER)), ["mapped"]);
    rig.sound();
}
