//! Objects, copies, leases, mounts, words and holders, on a real tmpfs.
#![forbid(unsafe_code)]

use codax_os::area::Region;
use codax_os::copy::SourceMap;
use codax_os::object::{self, ObjectDir};
use codax_os::process::Hold;
use codax_os::words::SharedWords;
use codax_os::{lockfile, mounts, process};
use std::collections::HashSet;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

const PAGE: u64 = 4096;

fn shm() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

#[test]
fn an_object_has_the_memory_it_was_given_and_no_more() {
    let dir = shm();
    let objects = ObjectDir::open(dir.path()).unwrap();
    let fd = objects.create("a", 64 * PAGE).unwrap();
    assert_eq!(objects.create("a", 0).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(objects.create("../a", 0).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(object::stat(&fd).unwrap().allocated_bytes, 0);

    object::allocate(&fd, 8 * PAGE, 16 * PAGE).unwrap();
    assert_eq!(object::resident_bytes(&fd, 0, 64 * PAGE).unwrap(), 16 * PAGE);
    assert_eq!(object::resident_bytes(&fd, 7 * PAGE, 2 * PAGE).unwrap(), PAGE);
    assert_eq!(object::data_ranges(&fd).unwrap(), [], "nothing was written");
    object::write_all_at(&fd, &vec![1; 16 * 4096], 8 * PAGE).unwrap();
    assert_eq!(object::data_ranges(&fd).unwrap(), [(8 * PAGE, 16 * PAGE)]);
    object::punch(&fd, 12 * PAGE, 4 * PAGE).unwrap();
    assert_eq!(object::data_ranges(&fd).unwrap(), [(8 * PAGE, 4 * PAGE), (16 * PAGE, 8 * PAGE)]);
    let stat = object::stat(&fd).unwrap();
    assert_eq!((stat.len, stat.allocated_bytes), (64 * PAGE, 12 * PAGE));
    assert_eq!(objects.list().unwrap(), [("a".to_owned(), stat)]);

    object::write_all_at(&fd, b"hello", 8 * PAGE).unwrap();
    let read_only = objects.open_object("a", false).unwrap();
    let mut bytes = [0; 5];
    assert_eq!(object::read_at(&read_only, &mut bytes, 8 * PAGE).unwrap(), 5);
    assert_eq!(&bytes, b"hello");
    assert!(object::write_all_at(&read_only, b"x", 0).is_err());
    object::set_len(&fd, 8 * PAGE + 2).unwrap();
    assert_eq!(object::read_at(&read_only, &mut bytes, 8 * PAGE).unwrap(), 2);

    objects.remove("a").unwrap();
    assert_eq!(objects.open_object("a", true).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(objects.list().unwrap(), []);
}

#[test]
fn a_lease_is_granted_only_when_nobody_holds_the_object() {
    let dir = shm();
    let objects = ObjectDir::open(dir.path()).unwrap();
    let fd = objects.create("a", PAGE).unwrap();
    let other = objects.open_object("a", false).unwrap();
    assert!(!object::try_write_lease(&fd).unwrap(), "another description");
    let region = Region::reserve(4096).unwrap();
    region.place(0, 4096, &other, 0, false).unwrap();
    drop(other);
    assert!(!object::try_write_lease(&fd).unwrap(), "a read-only mapping");
    drop(region);
    assert!(object::try_write_lease(&fd).unwrap());
    object::drop_lease(&fd).unwrap();
    assert!(object::try_write_lease(&fd).unwrap());
}

#[test]
fn a_source_that_was_truncated_gives_a_short_count() {
    let dir = shm();
    let objects = ObjectDir::open(dir.path()).unwrap();
    let from = objects.create("from", 8 * PAGE).unwrap();
    let to = objects.create("to", 8 * PAGE).unwrap();
    let bytes: Vec<u8> = (0..8 * 4096u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    object::write_all_at(&from, &bytes, 0).unwrap();
    let map = SourceMap::new(&from, 8 * PAGE).unwrap();
    assert_eq!(map.copy_to(PAGE, 6 * PAGE, &to).unwrap(), 6 * PAGE);
    let mut copied = vec![0; bytes.len()];
    assert_eq!(object::read_at(&to, &mut copied, 0).unwrap(), bytes.len());
    assert_eq!(copied[4096..7 * 4096], bytes[4096..7 * 4096]);
    assert!(copied[..4096].iter().all(|b| *b == 0), "copied what it was not asked for");

    object::set_len(&from, 3 * PAGE).unwrap();
    assert_eq!(map.copy_to(PAGE, 6 * PAGE, &to).unwrap(), 2 * PAGE);
    assert_eq!(map.copy_to(4 * PAGE, PAGE, &to).unwrap(), 0);
    assert_eq!(map.copy_to(8 * PAGE, 1, &to).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn words_are_seen_by_readers_and_refused_to_them() {
    let dir = shm();
    let path = dir.path().join("words");
    let words = SharedWords::create(&path, 513, 0o644).unwrap();
    assert_eq!(SharedWords::create(&path, 1, 0o644).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let reader = SharedWords::from_fd_ro(std::fs::File::open(&path).unwrap()).unwrap();
    words.store(512, 0x0102_0304_0506_0708);
    assert_eq!((reader.len(), reader.load(512), reader.load(0)), (513, 0x0102_0304_0506_0708, 0));
    let file = std::fs::read(&path).unwrap();
    assert_eq!(file[512 * 8], 8, "not little-endian");
    assert!(std::panic::catch_unwind(|| reader.store(0, 1)).is_err());
    assert_eq!(SharedWords::open_rw(&path).unwrap().load(512), words.load(512));
}

#[test]
fn a_lock_is_held_until_its_descriptor_is_closed() {
    let dir = shm();
    let path = dir.path().join("lock");
    let held = lockfile::take(&path).unwrap().unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), std::process::id().to_string());
    assert!(lockfile::take(&path).unwrap().is_none());
    drop(held);
    assert!(lockfile::take(&path).unwrap().is_some());
}

/// Unmounts whatever happens, so that a failed test leaves nothing.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = mounts::umount(self.0);
    }
}

#[test]
fn a_pool_gets_a_tmpfs_of_its_size() {
    let dir = shm();
    let path = dir.path().join("pool");
    std::fs::create_dir(&path).unwrap();
    assert!(mounts::is_tmpfs(&path).unwrap() && !mounts::is_mount_point(&path).unwrap());
    assert!(!mounts::is_tmpfs(Path::new("/proc")).unwrap());
    if !mounts::can_mount() {
        println!("skipped: a_pool_gets_a_tmpfs_of_its_size: no right to mount");
        return;
    }
    let mounted = Mounted(&path);
    mounts::mount_tmpfs(&path, 16 * PAGE, "within_size", true, &[]).unwrap();
    assert!(mounts::is_mount_point(&path).unwrap() && mounts::is_tmpfs(&path).unwrap());
    assert_eq!(mounts::fs_free(&path).unwrap(), 16 * PAGE);
    assert!(mounts::tmpfs_kind(&path).unwrap().huge);
    assert_eq!(mounts::tmpfs_kind(path.parent().unwrap()).unwrap_err().kind(), ErrorKind::NotFound);
    let objects = ObjectDir::open(&path).unwrap();
    let fd = objects.create("a", 12 * PAGE).unwrap();
    object::allocate(&fd, 0, 12 * PAGE).unwrap();
    object::set_len(&fd, 20 * PAGE).unwrap();
    let full = object::allocate(&fd, 12 * PAGE, 8 * PAGE).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    assert_eq!(object::stat(&fd).unwrap().allocated_bytes, 12 * PAGE, "a failed call kept memory");
    mounts::resize_tmpfs(&path, 64 * PAGE).unwrap();
    object::allocate(&fd, 12 * PAGE, 8 * PAGE).unwrap();
    drop(mounted);
    assert!(!mounts::is_mount_point(&path).unwrap(), "a mount goes at once, whoever has files there open");
    assert_eq!(object::stat(&fd).unwrap().allocated_bytes, 20 * PAGE);
    drop((fd, objects));
    assert!(mounts::mount_tmpfs(&path, PAGE, "sometimes", false, &[]).is_err());
}

/// Not a test by itself: the process that `holders_are_found` starts, which maps an object until its input ends.
#[test]
fn child_that_holds() {
    let Ok(path) = std::env::var("CODAX_TEST_HOLD") else { return };
    let path = Path::new(&path);
    let objects = ObjectDir::open(path.parent().unwrap()).unwrap();
    let region = Region::reserve(2 * 4096).unwrap();
    let fd = objects.open_object(path.file_name().unwrap().to_str().unwrap(), true).unwrap();
    region.place(0, 8192, fd, PAGE, true).unwrap();
    println!("\nmapped");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn holders_are_found() {
    let dir = shm();
    let objects = ObjectDir::open(dir.path()).unwrap();
    let stat = object::stat(objects.create("a", 4 * PAGE).unwrap()).unwrap();
    let path = dir.path().join("a");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_holds", "--nocapture"])
        .env("CODAX_TEST_HOLD", &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line == "mapped"));
    let mut opener =
        Command::new("sleep").arg("1000").stdin(std::fs::File::open(&path).unwrap()).spawn().unwrap();

    let found = process::holders(&HashSet::from([(stat.dev, stat.ino)])).unwrap();
    let of = |pid| found.iter().find(|held| held.pid == pid).unwrap();
    assert_eq!(of(child.id()).what, Hold::Mapped { off: PAGE, len: 2 * PAGE, writable: true });
    let opened = of(opener.id());
    assert_eq!((opened.what, opened.command.as_str()), (Hold::Descriptor, "sleep"));
    assert_eq!(found.len(), 2, "{found:?}");

    process::kill(process::pidfd(opener.id()).unwrap()).unwrap();
    assert!(!opener.wait().unwrap().success());
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(process::holders(&HashSet::from([(stat.dev, stat.ino)])).unwrap(), []);
}

#[test]
fn a_lease_that_somebody_has_is_not_waited_for() {
    let dir = shm();
    let objects = ObjectDir::open(dir.path()).unwrap();
    drop(objects.create("o", PAGE).unwrap());
    let first = objects.open_leased("o").unwrap().expect("nobody else has it");
    assert!(objects.open_leased("o").unwrap().is_none());
    drop(first);
    assert!(objects.open_leased("o").unwrap().is_some());
    assert_eq!(objects.open_leased("p").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn facts_of_this_machine_can_be_had() {
    let facts = codax_os::probe::facts(None);
    assert!(!facts.kernel.is_empty() && facts.memory_total.unwrap() > 0 && facts.thread_states);
    assert!(process::map_count(std::process::id()).unwrap() > 5);
    assert_eq!(process::vm_pin_bytes(std::process::id()).unwrap(), 0);
}
