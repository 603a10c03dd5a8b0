//! Mount points: what may be wrong with them, who is in the way, what a killed daemon leaves, and how else one mounts.

use super::{Mounted, can_mount, mounted};
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
    call("ro").fails(2, &["ro"]);
    // No daemon yet: it starts one.
    call("rw,nofail,dram=8MiB,device=sim0=emulated:8MiB").ok();
    assert_eq!(mounts_below(&dir), std::slice::from_ref(&dir));
    assert_eq!(rig.pool("sim0", "bytes"), 8 << 20);
    rig.ok(&["umount"]);
    call("rw").ok();
    assert_eq!(mounts_below(&dir), std::slice::from_ref(&dir));
    rig.ok(&["down", "--purge"]);
    assert!(mounts_below(&dir).is_empty());
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
    sh("head -c 24M /dev/urandom > random; rm -f appended
        dd if=random of=appended bs=8M oflag=append,direct conv=notrunc status=none; cmp random appended; rm random appended");
    rig.ok(&["umount"]);
    assert!(mounts_below(&dir).is_empty());
    rig.sound();
}
