//! Mount points: what may be wrong with them, who is in the way, what a killed daemon leaves, and how else one mounts.

use super::{Mounted, can_mount, mounted};
use crate::client::Client;
use crate::rig::{Plan, Rig, Running, run_limited, until};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn made(rig: &Rig, name: &str) -> PathBuf {
    let dir = rig.beside(name);
    fs::create_dir_all(&dir).expect("ours");
    dir
}

/// Where stores are mounted at or below `dir`.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let all = codax_os::fuse::mounted("codax").expect("/proc");
    all.into_iter().filter(|mount| mount.starts_with(dir)).collect()
}

#[test]
fn a_wrong_mount_point_is_refused_in_one_line() {
    let rig = Plan::new().up();
    let mount = |dir: &Path| rig.run(&["mount", text(dir)]);
    mount(&rig.beside("missing")).fails(3, &["missing", "mkdir"]);
    fs::write(rig.beside("file"), "").expect("ours");
    mount(&rig.beside("file")).fails(2, &["file", "not a directory"]);
    fs::write(made(&rig, "full").join("x"), "").expect("ours");
    mount(&rig.beside("full")).fails(5, &["full", "not empty"]);
    mount(Path::new("/proc")).fails(5, &["/proc", "mounted there already"]);
    rig.run(&["umount"]).fails(3, &["not mounted"]);
    rig.run(&["umount", text(&rig.beside("full"))]).fails(3, &["full", "not mounted there"]);
    assert!(mounts_below(&rig.beside(".")).is_empty());
}

#[test]
fn a_store_that_cannot_be_mounted_as_asked_does_not_start() {
    let rig = Plan::new().config("mount = \"/nowhere/at/all\"\n").place();
    let said = rig.try_up("").expect_err("there is no such directory");
    said.fails(3, &["/nowhere/at/all", "mkdir"]);
    assert!(!rig.dir().exists(), "what it made goes with it");
    // A store that was there before stays, and so does a directory.
    let elsewhere = Plan::new().place();
    fs::create_dir(elsewhere.dir()).expect("ours");
    let refused = || elsewhere.run(&["up", "--mount", "/nowhere/at/all"]).fails(3, &["/nowhere/at/all"]);
    refused();
    assert!(fs::read_dir(elsewhere.dir()).expect("it was there").next().is_none());
    elsewhere.up();
    elsewhere.put("/f", b"kept", &[]).ok();
    elsewhere.down();
    refused();
    elsewhere.up();
    assert_eq!(elsewhere.get("/f"), b"kept");
}

#[test]
fn a_store_is_mounted_in_many_places_and_each_by_itself_unmounted() {
    let Some(Mounted { rig, dir }) = mounted("mounted_in_many_places", Plan::new()) else { return };
    let other = made(&rig, "other");
    rig.ok(&["mount", text(&other)]);
    rig.run(&["mount", text(&other)]).fails(5, &["other", "mounted there already"]);
    fs::write(dir.join("f"), "here").expect("room");
    assert_eq!(fs::read(other.join("f")).expect("the same store"), b"here");
    fs::write(other.join("f"), "there, and longer").expect("room");
    assert_eq!(fs::read(dir.join("f")).expect("the same store"), b"there, and longer");
    fs::remove_file(other.join("f")).expect("there");
    // The kernel is told of what another mount did beside its answer.
    until("a name that is gone elsewhere to be gone here", || (!dir.join("f").exists()).then_some(()));
    let shown = rig.row(&["status"]);
    assert_eq!(shown["mounts"].as_array().expect("mounts").len(), 2);
    rig.ok(&["umount", text(&other)]);
    assert_eq!(mounts_below(&rig.beside(".")), std::slice::from_ref(&dir));
    // By the system's own means, which the daemon notices.
    codax_os::fuse::umount(&dir, false).expect("nobody is inside");
    until("the daemon to notice", || {
        rig.row(&["status"])["mounts"].as_array().expect("mounts").is_empty().then_some(())
    });
    rig.ok(&["mount", text(&dir)]);
    rig.sound();
}

#[test]
fn who_is_inside_is_named_and_keeps_it_mounted() {
    let Some(Mounted { rig, dir }) = mounted("who_is_inside_is_named", Plan::new()) else { return };
    let mut sleeper = Running {
        child: Command::new("sleep").arg("1000").current_dir(&dir).spawn().expect("sleep is there"),
    };
    sleeper.await_state('S');
    let pid = format!("{} (sleep)", sleeper.pid());
    rig.run(&["umount"]).fails(5, &[text(&dir), &pid]);
    assert_eq!(mounts_below(&dir), std::slice::from_ref(&dir));
    sleeper.kill();
    assert_eq!(rig.ok(&["umount"]).text(), format!("{}\n", dir.display()));
    assert_eq!(rig.events("unmount").len(), 1);
    let refused = rig.events("refuse");
    assert!(refused.iter().any(|e| e.contains("unmount") && e.contains(&pid)), "{refused:?}");
    assert!(mounts_below(&dir).is_empty());
}

#[test]
fn the_daemon_unmounts_when_it_ends() {
    if !can_mount("the_daemon_unmounts_when_it_ends") {
        return;
    }
    let rig = Plan::new().config("").place();
    let dir = made(&rig, "mnt");
    rig.up_with(&["--mount", text(&dir)]);
    fs::write(dir.join("f"), "kept").expect("room");
    rig.with_daemon(|daemon| {
        daemon.signal(Signal::TERM);
        assert!(daemon.end().success());
    });
    assert!(mounts_below(&dir).is_empty() && fs::read_dir(&dir).expect("there").next().is_none());
    rig.up_with(&["--mount", text(&dir)]);
    assert_eq!(fs::read(dir.join("f")).expect("there"), b"kept");
    // Somebody is inside: it is freed all the same.
    let mut sleeper = Running {
        child: Command::new("sleep").arg("1000").current_dir(&dir).spawn().expect("sleep is there"),
    };
    rig.down();
    assert!(mounts_below(&dir).is_empty());
    sleeper.kill();
}

#[test]
fn after_a_kill_the_next_start_mounts_again_where_it_was() {
    let Some(Mounted { rig, dir }) = mounted("the_next_start_mounts_again", Plan::new()) else { return };
    fs::write(dir.join("f"), "kept").expect("room");
    rig.kill();
    let gone = fs::metadata(dir.join("f")).expect_err("nobody serves it");
    assert_eq!(gone.raw_os_error(), Some(libc::ENOTCONN));
    for _ in 0..2 {
        rig.up();
        assert_eq!(mounts_below(&dir), std::slice::from_ref(&dir));
        assert_eq!(fs::read(dir.join("f")).expect("served again"), b"kept");
        rig.kill();
    }
    // Whoever asks for a mount there finds it free as well.
    rig.up_with(&["--mount", text(&dir)]);
    assert_eq!(fs::read(dir.join("f")).expect("served again"), b"kept");
    rig.kill();
    rig.ok(&["down", "--purge"]);
    assert!(mounts_below(&dir).is_empty(), "a store that is deleted leaves no dead mount");
}

#[test]
fn mount_8_and_fstab_work_through_the_helper() {
    if !can_mount("mount_8_and_fstab_work") {
        return;
    }
    let rig = Plan::new().place();
    let dir = made(&rig, "mnt");
    let helper = rig.beside("mount.fuse.codax");
    std::os::unix::fs::symlink(crate::setting::program(), &helper).expect("ours");
    let call = |options: &str| {
        let mut command = Command::new(&helper);
        command.arg(rig.dir()).arg(&dir).args(["-o", options, "-t", "fuse.codax"]);
        run_limited(&mut command, "mount.fuse.codax".to_owned(), b"")
    };
    call("remount,ro").fails(2, &["remount", "mount again"]);
    call("rw,colour").fails(2, &["colour"]);
    // No daemon yet: it starts one.
    call("rw,nofail,dram=8MiB,device=sim0=emulated:8MiB").ok();
    assert_eq!(mounts_below(&dir), std::slice::from_ref(&dir));
    assert_eq!(rig.pool("sim0", "bytes"), 8 << 20);
    rig.ok(&["umount"]);
    call("defaults,rw,relatime,async,exec,auto,user,_netdev,x-systemd.automount").ok();
    assert_eq!(mounts_below(&dir), std::slice::from_ref(&dir));
    rig.ok(&["umount"]);
    call("ro,noexec,sync,dirsync,noatime,nodiratime,lazytime").ok();
    is_read_only(&dir);
    rig.ok(&["umount"]);
    // Nobody here is its parent.
    rig.ok(&["down"]);
    // And where it starts the daemon.
    call("ro,strictatime").ok();
    is_read_only(&dir);
    rig.ok(&["down", "--purge"]);
    assert!(mounts_below(&dir).is_empty());
}

#[track_caller]
fn is_read_only(dir: &Path) {
    let refused = fs::write(dir.join("new"), "x").expect_err("it is for reading");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
}

/// What the mount table says of the mount on `dir`.
fn flags_of(dir: &Path) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("/proc");
    let line = table.lines().find(|line| line.split(' ').nth(4) == dir.to_str()).expect("mounted");
    line.split(' ').nth(5).expect("flags").to_owned()
}

#[test]
fn a_mount_is_made_as_it_was_asked_for_and_again_so_after_a_crash() {
    let Some(Mounted { rig, dir }) = mounted("a_mount_is_made_as_it_was_asked_for", Plan::new()) else {
        return;
    };
    fs::write(dir.join("f"), "kept").expect("room");
    rig.ok(&["umount"]);
    rig.run(&["mount", "-o", "remount", text(&dir)]).fails(2, &["remount", "mount again"]);
    rig.run(&["mount", "-o", "ro,colour", text(&dir)]).fails(2, &["colour"]);
    rig.ok(&["mount", "-o", "ro,noexec", "--options", "noatime", text(&dir)]);
    for _ in 0..2 {
        is_read_only(&dir);
        let (flags, file) = (flags_of(&dir), dir.join("f"));
        for flag in ["ro", "noexec", "noatime", "nosuid", "nodev"] {
            assert!(flags.split(',').any(|set| set == flag), "{flag} is not in {flags}");
        }
        assert_eq!(fs::read(&file).expect("reading is allowed"), b"kept");
        let refused = fs::OpenOptions::new().write(true).open(&file).expect_err("it is for reading");
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        rig.kill();
        rig.up();
    }
    rig.down();
    rig.up_with(&["--mount", text(&dir), "--mount-options", "ro"]);
    is_read_only(&dir);
}

/// A command of the system's, which succeeds.
#[track_caller]
fn system(words: &[&str]) {
    let mut command = Command::new(words[0]);
    run_limited(command.args(&words[1..]), words.join(" "), b"").ok();
}

#[test]
fn an_unmount_waits_for_nobody_who_has_it_in_another_place() {
    let Some(Mounted { rig, dir }) = mounted("an_unmount_waits_for_nobody", Plan::new()) else { return };
    rig.put("/f", &vec![0; 1 << 20], &["--on", "sim0"]).ok();
    let elsewhere = made(&rig, "elsewhere");
    system(&["mount", "--bind", text(&dir), text(&elsewhere)]);
    rig.ok(&["umount", text(&dir)]);
    assert_eq!(mounts_below(&rig.beside(".")), std::slice::from_ref(&elsewhere));
    assert!(rig.row(&["status"])["mounts"].as_array().expect("mounts").is_empty());
    // It is served there, and who uses it so is a holder.
    fs::write(elsewhere.join("g"), "served").expect("room");
    assert_eq!(rig.get("/g"), b"served");
    let file = elsewhere.join("f");
    let mut client = Client::start(&rig, "map-path", &[text(&file)]);
    assert_eq!(client.ask("close"), "closed");
    assert_eq!(client.ask("add"), "1");
    let pid = client.pid().to_string();
    rig.run(&["move", "/f", "--to", "dram"]).fails(5, &["/f", &pid]);
    // The directory is free, and what is mounted there now is another.
    rig.ok(&["mount", text(&dir)]);
    // Nor is another mount namespace waited for.
    let mut space = Running {
        child: Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sleep", "1000"])
            .spawn()
            .expect("unshare is there"),
    };
    let name = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    until("a mount namespace of its own", || (name(space.pid()) == "sleep\n").then_some(()));
    rig.ok(&["umount", text(&dir)]);
    rig.ok(&["mount", text(&dir)]);
    // After a crash the next daemon knows of them all.
    rig.kill();
    rig.up();
    assert_eq!(mounts_below(&rig.beside(".")), std::slice::from_ref(&dir));
    rig.run(&["device", "drain", "sim0"]).fails(5, &["/f", &pid]);
    assert_eq!(client.ask("add"), "2");
    client.end();
    rig.ok(&["umount", text(&dir)]);
    rig.with_daemon(|daemon| {
        daemon.signal(Signal::TERM);
        assert!(daemon.end().success());
    });
    space.kill();
    rig.up();
    rig.ok(&["device", "drain", "sim0"]);
    rig.sound();
}

#[test]
fn the_daemon_ends_where_a_mount_lives_on_in_another_place() {
    let Some(Mounted { rig, dir }) = mounted("the_daemon_ends_where_a_mount_lives_on", Plan::new()) else {
        return;
    };
    let elsewhere = made(&rig, "elsewhere");
    system(&["mount", "--bind", text(&dir), text(&elsewhere)]);
    rig.down();
    assert!(mounts_below(&rig.beside(".")).is_empty(), "nobody would serve it there");
}

#[test]
fn an_unmount_by_hand_is_not_undone_by_a_crash() {
    let Some(Mounted { rig, dir }) = mounted("an_unmount_by_hand_is_not_undone", Plan::new()) else { return };
    codax_os::fuse::umount(&dir, false).expect("nobody is inside");
    let record = rig.dir().join("meta/mounts");
    until("the daemon to write it down", || fs::read(&record).expect("there").is_empty().then_some(()));
    rig.kill();
    rig.up();
    assert!(mounts_below(&dir).is_empty());
}

#[test]
fn what_another_store_left_mounted_is_not_touched() {
    let Some(Mounted { rig, dir }) = mounted("what_another_store_left_mounted", Plan::new()) else { return };
    fs::write(dir.join("f"), "kept").expect("room");
    rig.kill();
    let other = Plan::new().up();
    other.run(&["mount", text(&dir)]).fails(5, &["another store", "umount -l"]);
    other.down();
    assert_eq!(mounts_below(&dir), std::slice::from_ref(&dir));
    rig.up();
    assert_eq!(fs::read(dir.join("f")).expect("served again"), b"kept");
}

#[test]
fn the_state_of_the_store_is_in_files() {
    let Some(Mounted { rig, dir }) = mounted("the_state_of_the_store_is_in_files", Plan::new()) else {
        return;
    };
    fs::write(dir.join("f"), vec![1; 8192]).expect("room");
    let names = |dir: &Path| -> Vec<_> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&dir), ["f"], "it is not listed");
    let special = dir.join(".codax");
    assert_eq!(names(&special), ["pools", "status", "status.json"]);
    assert_eq!(names(&special.join("pools")), ["dram", "sim0"]);
    let read = |name: &str| fs::read_to_string(special.join(name)).expect("text");
    assert!(read("status").contains("pool dram online"), "{}", read("status"));
    let json: serde_json::Value = serde_json::from_str(&read("status.json")).expect("JSON");
    assert_eq!(json["pools"].as_array().expect("pools").len(), 2);
    assert!(read("pools/sim0/status").starts_with("pool sim0 online"));
    let json: serde_json::Value = serde_json::from_str(&read("pools/sim0/status.json")).expect("JSON");
    assert_eq!(json["name"], "sim0");
    assert_eq!(read("pools/sim0/frames"), "frames 0-16383 free\n");
    // By whom it is served is asked of it, too; and of what has no bytes.
    let doctor = |path: &Path| rig.ok(&["doctor", text(path)]).text().to_owned();
    assert!(doctor(&special.join("status")).contains("the store's state"));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.join("p"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("room");
    assert!(doctor(&dir.join("p")).contains("it is a pipe"));
    fs::remove_file(dir.join("p")).expect("there");
    // Nobody changes it, nor takes its name.
    let errno = |e: std::io::Error| e.raw_os_error().expect("a system error");
    assert_eq!(errno(fs::write(special.join("status"), "x").expect_err("read-only")), libc::EROFS);
    assert_eq!(errno(fs::write(special.join("new"), "x").expect_err("read-only")), libc::EROFS);
    assert_eq!(errno(fs::remove_file(special.join("status")).expect_err("read-only")), libc::EROFS);
    assert_eq!(errno(fs::remove_dir(&special).expect_err("read-only")), libc::EROFS);
    assert_eq!(errno(fs::rename(dir.join("f"), special.join("f")).expect_err("read-only")), libc::EROFS);
    assert_eq!(errno(fs::create_dir(&special).expect_err("taken")), libc::EEXIST);
    assert_eq!(errno(fs::read(special.join("missing")).expect_err("missing")), libc::ENOENT);
    rig.sound();
}

/// Where users may not open `/dev/fuse`, as in some containers, runs the test again in a mount namespace in which they may; whether it did.
fn with_open_fuse_device(test: &str) -> bool {
    const AGAIN: &str = "CODAX_TEST_AGAIN";
    const OPEN: &str = "mount -t tmpfs -o mode=755 fuse /mnt; mknod -m 666 /mnt/fuse c 10 229; \
                        mount --bind /mnt/fuse /dev/fuse; exec \"$0\" --exact \"$1\"";
    let mode = fs::metadata(codax_os::fuse::DEVICE).expect("was opened").permissions().mode();
    if mode & 0o006 == 0o006 || std::env::var_os(AGAIN).is_some() {
        return false;
    }
    let mut again = Command::new("unshare");
    again.args(["--mount", "--propagation", "private", "sh", "-ec", OPEN]);
    again.arg(std::env::current_exe().expect("linux")).arg(test).env(AGAIN, "1").stdin(Stdio::null());
    let said = run_limited(&mut again, format!("{test} with a /dev/fuse for everybody"), b"").ok();
    assert!(said.text().contains("1 passed"), "{said}");
    true
}

#[test]
fn a_user_mounts_through_fusermount3() {
    const NAME: &str = "a_user_mounts_through_fusermount3";
    if !can_mount(NAME) || with_open_fuse_device("mount::points::a_user_mounts_through_fusermount3") {
        return;
    }
    let rig = Plan::new().user(crate::rig::NOBODY).up();
    let dir = made(&rig, "mnt");
    std::os::unix::fs::chown(&dir, Some(crate::rig::NOBODY), None).expect("root may");
    let said = rig.run(&["mount", text(&dir)]);
    if said.code != 0 {
        assert!(said.err.contains("fusermount3 is not there"), "{said}");
        return crate::rig::skipped(NAME, said.err.trim());
    }
    let sh = |script: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-ec", script]).current_dir(&dir).stdin(Stdio::null());
        shell.uid(crate::rig::NOBODY).gid(crate::rig::NOBODY);
        run_limited(&mut shell, script.to_owned(), b"").ok()
    };
    sh("echo hello > f; cat f; mkdir d; mv f d/g; ln d/g h; ln -s h l; cat l; rm -r d");
    rig.put("/put", b"from the library", &[]).ok();
    assert_eq!(sh("cat put").text(), "from the library");
    assert_eq!(rig.get("/h"), b"hello\n");
    let stat = rig.row(&["stat", "/put"]);
    assert_eq!(stat["mounted"][0]["by"], "cache", "{stat}");
    let said = rig.ok(&["doctor", text(&dir.join("put"))]);
    assert!(said.text().contains("through the page cache"), "{said}");
    // Direct writes that are larger than a request.
    sh("head -c 25165824 /dev/urandom > random; rm -f appended
        dd if=random of=appended bs=8M oflag=append,direct conv=notrunc status=none; cmp random appended; rm random appended");
    rig.ok(&["umount"]);
    assert!(mounts_below(&dir).is_empty());
    rig.ok(&["mount", "-o", "ro,noexec", text(&dir)]);
    assert!(flags_of(&dir).split(',').any(|flag| flag == "ro"), "{}", flags_of(&dir));
    rig.ok(&["umount"]);
    rig.sound();
}
