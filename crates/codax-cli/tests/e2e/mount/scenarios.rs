//! Scenarios of system calls, each in a fresh directory. What they note must not depend on where that is.

use super::posix::Log;
use crate::raw::can_map;
use codax_os::area::Region;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FlockOperation, Gid, Mode, OFlags, RenameFlags, SeekFrom, Timespec,
    Timestamps, UTIME_NOW, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

/// A scenario and its name.
pub type Scenario = (&'static str, fn(&Path, &mut Log));

pub const SCENARIOS: &[Scenario] = &[
    ("opens", opens),
    ("reads_and_writes", reads_and_writes),
    ("far_offsets", far_offsets),
    ("truncation", truncation),
    ("running_program", running_program),
    ("renames", renames),
    ("unlink_while_open", unlink_while_open),
    ("removed_while_known", removed_while_known),
    ("hard_links", hard_links),
    ("symbolic_links", symbolic_links),
    ("directories", directories),
    ("reading_while_removing", reading_while_removing),
    ("modes_and_owners", modes_and_owners),
    ("access_of_others", access_of_others),
    ("setgid_and_sticky", setgid_and_sticky),
    ("setuid_goes", setuid_goes),
    ("setuid_set_while_open", setuid_set_while_open),
    ("times", times),
    ("allocation", allocation),
    ("holes", holes),
    ("copies", copies),
    ("locks", locks),
    ("attributes", attributes),
    ("special_files", special_files),
    ("names", names),
    ("mappings", mappings),
    ("appends", appends),
    ("descriptors", descriptors),
];

const NOBODY: u32 = 65534;

/// The error number, or the value.
fn errno<T>(result: std::io::Result<T>) -> Result<T, i32> {
    result.map_err(|e| e.raw_os_error().unwrap_or(0))
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))
}

/// What stat(2) says that doesn't depend on the place: not numbers, times and, of directories, lengths.
fn stat(path: &Path) -> Result<(u32, u64, u32, u32, Option<u64>), i32> {
    errno(fs::symlink_metadata(path)).map(|meta| {
        let len = (!meta.is_dir()).then_some(meta.len());
        (meta.mode(), meta.nlink(), meta.uid(), meta.gid(), len)
    })
}

fn listed(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut names: Vec<_> =
        entries.map(|entry| format!("{:?}", entry.expect("an entry").file_name())).collect();
    names.sort();
    names
}

/// Does something as an ordinary user, on a thread that is one for the rest of its life.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            rustix::thread::set_thread_groups(&[]).expect("root may");
            rustix::thread::set_thread_res_gid(gid, gid, gid).expect("root may");
            rustix::thread::set_thread_res_uid(uid, uid, uid).expect("root may");
            work()
        });
        thread.join().expect("no panic")
    })
}

fn opens(dir: &Path, log: &mut Log) {
    let (file, sub, link) = (dir.join("f"), dir.join("d"), dir.join("l"));
    fs::write(&file, "12345").expect("room");
    fs::create_dir(&sub).expect("room");
    symlink("f", &link).expect("room");
    let rw = OFlags::RDWR;
    for (what, path, flags) in [
        ("plain", &file, rw),
        ("missing", &dir.join("none"), rw),
        ("below a file", &file.join("x"), rw),
        ("excl of a file", &file, rw | OFlags::CREATE | OFlags::EXCL),
        ("excl of a link", &link, rw | OFlags::CREATE | OFlags::EXCL),
        ("create there", &file, rw | OFlags::CREATE),
        ("a directory to write", &sub, rw),
        ("a directory to create", &sub, rw | OFlags::CREATE),
        ("a directory", &sub, OFlags::RDONLY),
        ("O_DIRECTORY of a file", &file, OFlags::RDONLY | OFlags::DIRECTORY),
        ("O_NOFOLLOW of a link", &link, rw | OFlags::NOFOLLOW),
        ("through a link", &link, rw),
        ("O_PATH", &file, OFlags::PATH),
        ("append", &file, OFlags::WRONLY | OFlags::APPEND),
        ("direct", &file, rw | OFlags::DIRECT),
        ("sync", &file, rw | OFlags::SYNC),
        ("truncate", &file, OFlags::WRONLY | OFlags::TRUNC),
    ] {
        log.note(what, open(path, flags).map(drop));
    }
    log.note("after truncation", stat(&file));
    fs::write(&file, "again").expect("room");
    let read_truncate = open(&link, OFlags::RDONLY | OFlags::TRUNC);
    log.note("truncated through a link", read_truncate.map(drop));
    log.note("and is", stat(&file));
    log.note(
        "created with a mode",
        rustix::fs::open(dir.join("m"), rw | OFlags::CREATE, Mode::from_raw_mode(0o4751)).map(drop),
    );
    log.note("which is", stat(&dir.join("m")));
    let read_only = open(&file, OFlags::RDONLY).expect("there");
    log.note("write to a read-only one", rustix::io::write(&read_only, b"x"));
    log.note("truncate a read-only one", rustix::fs::ftruncate(&read_only, 1));
    let write_only = open(&file, OFlags::WRONLY).expect("there");
    log.note("read of a write-only one", rustix::io::read(&write_only, &mut [0; 1]));
}

fn reads_and_writes(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).expect("room");
    let mut buf = [7; 16];
    log.note("read of nothing", errno(file.read_at(&mut buf, 0)));
    log.note("write of nothing", errno(file.write_at(&[], 100)));
    log.note("length", stat(&path));
    log.note("write at 3", errno(file.write_at(b"abc", 3)));
    log.note("read", (errno(file.read_at(&mut buf, 0)), buf));
    log.note("write far", errno(file.write_at(b"z", 3 << 20)));
    let mut hole = [9; 100];
    log.note("read the hole", (errno(file.read_at(&mut hole, 1 << 20)), hole.iter().all(|b| *b == 0)));
    log.note("read across the end", errno(file.read_at(&mut buf, (3 << 20) - 4)));
    log.note("read at the end", errno(file.read_at(&mut buf, (3 << 20) + 1)));
    log.note("read beyond", errno(file.read_at(&mut buf, 1 << 40)));
    log.note("length", stat(&path));
    let block: Vec<u8> = (0..2 << 20).map(|i: u32| (i % 251) as u8).collect();
    log.note("a large write", errno(file.write_at(&block, 4097)));
    let mut back = vec![0; block.len()];
    log.note("and read", (errno(file.read_at(&mut back, 4097)), back == block));
    log.note("vectors", {
        let parts =
            [std::io::IoSlice::new(b"one"), std::io::IoSlice::new(b""), std::io::IoSlice::new(b"two")];
        rustix::io::pwritev(&file, &parts, 10)
    });
    log.note("read", (errno(file.read_at(&mut buf, 8)), buf));
    log.note("fsync", (errno(file.sync_all()), errno(file.sync_data())));
}

fn far_offsets(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).expect("room");
    let max = u64::try_from(i64::MAX).expect("positive");
    // Lengths that are possible and absurd are left out: those of the store's files are limited to less.
    for at in [max + 1, u64::MAX] {
        log.note(format!("truncate to {at:#x}"), rustix::fs::ftruncate(&file, at));
    }
    for at in [max, max - 1, max - (1 << 20), max + 1, u64::MAX] {
        log.note(format!("write at {at:#x}"), rustix::io::pwrite(&file, b"ab", at));
        log.note(format!("read at {at:#x}"), rustix::io::pread(&file, &mut [0; 2], at));
        log.note("length", stat(&path));
        log.note("back", rustix::fs::ftruncate(&file, 0));
    }
    log.note("allocate far", rustix::fs::fallocate(&file, FallocateFlags::empty(), max - 1, 2));
    log.note("allocate nothing", rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 0));
    log.note("seek far", rustix::fs::seek(&file, SeekFrom::Start(max)));
    log.note("seek data far", rustix::fs::seek(&file, SeekFrom::Data(max)));
    log.note("length", stat(&path));
}

fn truncation(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    fs::write(&path, vec![b'x'; 10_000]).expect("room");
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("there");
    let read = |log: &mut Log| {
        let bytes = fs::read(&path).expect("there");
        let marks: Vec<_> =
            bytes.iter().enumerate().filter(|(i, b)| *i > 0 && bytes[i - 1] != **b).map(|(i, _)| i).collect();
        log.note("content", (bytes.len(), bytes.first().copied(), marks));
    };
    for len in [5000, 10_000, 4096, 4097, 0, 20_000, 1] {
        log.note(format!("to {len}"), errno(file.set_len(len)));
        read(log);
    }
    log.note("by path", errno(OpenOptions::new().write(true).truncate(true).open(&path).map(drop)));
    read(log);
    log.note("the next write", errno(file.write_at(b"y", 2)));
    read(log);
    log.note("of a directory", errno(OpenOptions::new().write(true).open(dir).and_then(|d| d.set_len(0))));
}

/// A program that runs is not written to, and not cut either by who opens it to read.
fn running_program(dir: &Path, log: &mut Log) {
    let path = dir.join("sleep");
    fs::copy("/bin/sleep", &path).expect("room");
    let mut program = std::process::Command::new(&path).arg("1000").spawn().expect("it can be executed");
    let before = fs::metadata(&path).expect("there").len();
    let (write, truncate) = (OFlags::WRONLY, OFlags::RDONLY | OFlags::TRUNC);
    for (what, flags) in
        [("to write", write), ("to read, cut", truncate), ("to write, cut", write | OFlags::TRUNC)]
    {
        log.note(what, open(&path, flags).map(drop));
        log.note("as long as before", fs::metadata(&path).expect("there").len() == before);
    }
    log.note("it runs", program.try_wait().expect("ours").is_none());
    program.kill().expect("ours");
    program.wait().expect("ours");
    log.note("when it has ended", open(&path, truncate).map(drop));
    log.note("length", fs::metadata(&path).expect("there").len());
}

fn renames(dir: &Path, log: &mut Log) {
    let at = |name: &str| dir.join(name);
    let setup = || {
        for name in ["a", "b"] {
            fs::write(at(name), name).expect("room");
        }
        for name in ["d", "e", "full", "full/in"] {
            fs::create_dir(at(name)).expect("room");
        }
        fs::write(at("full/f"), "in").expect("room");
        fs::hard_link(at("a"), at("a2")).expect("room");
    };
    let clear = || {
        for entry in fs::read_dir(dir).expect("there") {
            let path = entry.expect("an entry").path();
            let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.expect("ours");
        }
    };
    let none = RenameFlags::empty();
    for (from, to, flags) in [
        ("a", "b", none),
        ("a", "new", none),
        ("a", "a", none),
        ("a", "a2", none),
        ("none", "b", none),
        ("a", "none/x", none),
        ("a", "d", none),
        ("d", "a", none),
        ("d", "e", none),
        ("d", "full", none),
        ("full", "d", none),
        ("full", "full/in/x", none),
        ("full", "full/in", none),
        ("full/in", "full", none),
        ("full/f", "d/f", none),
        ("full/in", "moved", none),
        ("a", "b", RenameFlags::NOREPLACE),
        ("a", "new", RenameFlags::NOREPLACE),
        ("a", "b", RenameFlags::EXCHANGE),
        ("a", "full", RenameFlags::EXCHANGE),
        ("a", "full/f", RenameFlags::EXCHANGE),
        ("full", "full/in", RenameFlags::EXCHANGE),
        ("a", "new", RenameFlags::EXCHANGE),
        ("a", "b", RenameFlags::EXCHANGE | RenameFlags::NOREPLACE),
        (".", "x", none),
        ("d/..", "x", none),
        ("a/", "x", none),
        ("d/", "x/", none),
        ("a", "x/", none),
    ] {
        setup();
        let done = rustix::fs::renameat_with(CWD, at(from), CWD, at(to), flags);
        log.note(format!("{from} to {to} {flags:?}"), done);
        log.note(
            "leaves",
            (listed(dir), fs::read(at("a")).ok(), fs::read(at("b")).ok(), stat(&at("a2")), stat(dir)),
        );
        clear();
    }
}

fn unlink_while_open(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    fs::write(&path, "before").expect("room");
    let mut file = OpenOptions::new().read(true).write(true).open(&path).expect("there");
    log.note("unlink", errno(fs::remove_file(&path)));
    log.note("again", errno(fs::remove_file(&path)));
    log.note("links", errno(file.metadata()).map(|meta| (meta.nlink(), meta.len())));
    log.note("write", errno(file.write_at(b"after!!", 3)));
    let mut text = String::new();
    log.note("read", (errno(file.read_to_string(&mut text)), text));
    log.note("truncate", errno(file.set_len(2)));
    log.note("chmod", errno(file.set_permissions(fs::Permissions::from_mode(0o600))));
    log.note("links", errno(file.metadata()).map(|meta| (meta.nlink(), meta.len(), meta.mode())));
    fs::write(&path, "another").expect("room");
    log.note(
        "another of that name",
        (fs::read(&path).expect("there"), errno(file.metadata()).map(|meta| meta.len())),
    );
    drop(file);
    log.note("it stays", fs::read(&path).expect("there"));
    let open_dir = File::open(dir).expect("there");
    fs::create_dir(dir.join("d")).expect("room");
    let inside = File::open(dir.join("d")).expect("there");
    log.note("rmdir of an open one", errno(fs::remove_dir(dir.join("d"))));
    log.note(
        "make in it",
        rustix::fs::openat(&inside, "x", OFlags::CREATE | OFlags::RDWR, Mode::RUSR).map(drop),
    );
    drop(open_dir);
}

/// What has no name any more is still there for who has it in another way than open for reading and writing.
fn removed_while_known(dir: &Path, log: &mut Log) {
    let at = |name: &str| dir.join(name);
    let told = |fd: &OwnedFd| {
        rustix::fs::fstat(fd).map(|stat| (stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_mtime > 1))
    };
    fs::create_dir(at("d")).expect("room");
    fs::write(at("f"), "text").expect("room");
    symlink("f", at("l")).expect("room");
    rustix::fs::mknodat(CWD, at("p"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).expect("room");
    let known = open(&at("d"), OFlags::RDONLY | OFlags::DIRECTORY).expect("there");
    let path_of = |name: &str| open(&at(name), OFlags::PATH | OFlags::NOFOLLOW).expect("there");
    let (file, link, dir_path) = (path_of("f"), path_of("l"), path_of("d"));
    let pipe = open(&at("p"), OFlags::RDWR | OFlags::NONBLOCK).expect("a pipe");
    for name in ["f", "l", "p"] {
        fs::remove_file(at(name)).expect("there");
    }
    fs::remove_dir(at("d")).expect("empty");
    for (what, fd) in [("a directory", &known), ("by its path", &dir_path), ("a pipe", &pipe)] {
        log.note(what, told(fd));
    }
    log.note("a file by its path", (told(&file), rustix::fs::fstat(&file).map(|stat| stat.st_size)));
    let mut target = [0; 8];
    log.note("a link by its path", (told(&link), rustix::fs::readlinkat_raw(&link, "", &mut target[..])));
    log.note("chmod", (rustix::fs::fchmod(&known, Mode::RWXU), told(&known)));
    log.note("chown", (rustix::fs::fchown(&known, Some(Uid::from_raw(3)), None), told(&known)));
    log.note("times", (rustix::fs::futimens(&known, &stamps(1, 1)), told(&known)));
    log.note("chmod of a pipe", (rustix::fs::fchmod(&pipe, Mode::RWXU), told(&pipe)));
    log.note("attributes", {
        let set = rustix::fs::fsetxattr(&known, "user.a", b"one", XattrFlags::empty());
        (set, rustix::fs::fgetxattr(&known, "user.a", &mut [0u8; 8][..]))
    });
    log.note("statfs", rustix::fs::fstatfs(&known).map(drop));
    let listed = rustix::fs::Dir::read_from(&known).expect("a directory");
    log.note("lists", listed.map(|entry| entry.map(drop)).collect::<Vec<_>>());
    let again = rustix::fs::openat(&known, ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
    log.note("opened again", again.map(|fd| told(&fd)));
    log.note("make in it", rustix::fs::mkdirat(&known, "x", Mode::RWXU));
    log.note("through the pipe", (rustix::io::write(&pipe, b"x"), rustix::io::read(&pipe, &mut [0; 2])));
    let inside = std::process::Command::new("sh")
        .args(["-c", "mkdir x; cd x; rmdir ../x; stat -c '%h %F' .; ls; touch y 2>/dev/null || echo no"])
        .current_dir(dir)
        .output()
        .expect("a shell");
    log.note("a shell in one", String::from_utf8_lossy(&inside.stdout).into_owned());
}

fn hard_links(dir: &Path, log: &mut Log) {
    let at = |name: &str| dir.join(name);
    fs::write(at("a"), "one").expect("room");
    fs::create_dir(at("d")).expect("room");
    symlink("a", at("l")).expect("room");
    let before = fs::metadata(at("a")).expect("there");
    log.note("link", errno(fs::hard_link(at("a"), at("b"))));
    log.note("into a directory", errno(fs::hard_link(at("a"), at("d/c"))));
    log.note("over one", errno(fs::hard_link(at("a"), at("b"))));
    log.note("of nothing", errno(fs::hard_link(at("none"), at("x"))));
    log.note("of a directory", errno(fs::hard_link(at("d"), at("x"))));
    log.note("into nothing", errno(fs::hard_link(at("a"), at("none/x"))));
    log.note("of a symbolic link", errno(fs::hard_link(at("l"), at("l2"))));
    let after = fs::metadata(at("b")).expect("there");
    log.note(
        "the same file",
        (before.ino() == after.ino(), after.nlink(), after.ctime_nsec() != before.ctime_nsec()),
    );
    fs::write(at("d/c"), "changed").expect("there");
    log.note("seen through all", (fs::read(at("a")).ok(), fs::read(at("b")).ok(), stat(&at("l2"))));
    log.note("unlink the first", errno(fs::remove_file(at("a"))));
    log.note("left", (stat(&at("b")), stat(&at("d/c")), stat(&at("a")), listed(dir)));
    log.note(
        "and the others",
        (errno(fs::remove_file(at("b"))), stat(&at("d/c")), errno(fs::remove_file(at("d/c")))),
    );
}

fn symbolic_links(dir: &Path, log: &mut Log) {
    let at = |name: &str| dir.join(name);
    let long = "x/".repeat(2000);
    for (name, target) in
        [("good", "f"), ("dangling", "none"), ("loop", "loop"), ("odd", " \n\\"), ("long", &long)]
    {
        log.note(format!("{name} to it"), errno(symlink(target, at(name))));
        log.note("reads", errno(fs::read_link(at(name))).map(|t| t == Path::new(target)));
        log.note("is", stat(&at(name)));
    }
    fs::write(at("f"), "text").expect("room");
    log.note("through good", errno(fs::read(at("good"))));
    log.note("through dangling", errno(fs::read(at("dangling"))));
    log.note("through loop", errno(fs::read(at("loop"))));
    log.note("over one", errno(symlink("f", at("good"))));
    log.note("empty", errno(symlink("", at("empty"))));
    log.note("too long", errno(symlink("y".repeat(5000), at("toolong"))));
    log.note("readlink of a file", errno(fs::read_link(at("f"))));
    log.note("create through dangling", errno(fs::write(at("dangling"), "made")));
    log.note("made", (stat(&at("none")), stat(&at("dangling"))));
    log.note("unlink", (errno(fs::remove_file(at("good"))), stat(&at("f"))));
    fs::create_dir(at("d")).expect("room");
    symlink("d", at("dl")).expect("room");
    log.note("rmdir of a link", errno(fs::remove_dir(at("dl"))));
    log.note("below a link", errno(fs::write(at("dl/x"), "x")));
}

fn directories(dir: &Path, log: &mut Log) {
    let at = |name: &str| dir.join(name);
    log.note("make", errno(fs::create_dir(at("d"))));
    log.note("again", errno(fs::create_dir(at("d"))));
    log.note("below nothing", errno(fs::create_dir(at("none/x"))));
    fs::write(at("f"), "").expect("room");
    log.note("over a file", errno(fs::create_dir(at("f"))));
    log.note("below a file", errno(fs::create_dir(at("f/x"))));
    for name in ["d/a", "d/b", "d/b/c"] {
        fs::create_dir(at(name)).expect("room");
    }
    fs::write(at("d/file"), "").expect("room");
    log.note("links", (stat(&at("d")), stat(&at("d/b")), stat(&at("d/b/c")), stat(dir)));
    log.note("rmdir of a full one", errno(fs::remove_dir(at("d"))));
    log.note("rmdir of a file", errno(fs::remove_dir(at("f"))));
    log.note("unlink of a directory", errno(fs::remove_file(at("d"))));
    log.note("rmdir of .", errno(fs::remove_dir(at("d/."))));
    log.note("rmdir of ..", errno(fs::remove_dir(at("d/.."))));
    log.note("rmdir of nothing", errno(fs::remove_dir(at("none"))));
    log.note("rmdir", errno(fs::remove_dir(at("d/b/c"))));
    log.note("links", (stat(&at("d")), stat(&at("d/b"))));
    let raw = rustix::fs::Dir::read_from(File::open(at("d")).expect("there")).expect("a directory");
    let mut names: Vec<_> = raw
        .map(|entry| entry.expect("an entry"))
        .map(|e| (e.file_name().to_owned(), e.file_type()))
        .collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    log.note("has", names);
    let own = fs::metadata(at("d")).expect("there").ino();
    let raw = rustix::fs::Dir::read_from(File::open(at("d/a")).expect("there")).expect("a directory");
    let parents: Vec<_> = raw
        .map(|e| e.expect("an entry"))
        .filter(|e| e.file_name() == c"..")
        .map(|e| e.ino() == own)
        .collect();
    log.note("its parent's number", parents);
    log.note("read(2) of one", rustix::io::read(File::open(at("d")).expect("there"), &mut [0; 8]));
}

fn reading_while_removing(dir: &Path, log: &mut Log) {
    const FILES: usize = 3000;
    for i in 0..FILES {
        File::create(dir.join(format!("file-{i:05}"))).expect("room");
    }
    let mut reader = rustix::fs::Dir::read_from(File::open(dir).expect("there")).expect("a directory");
    let mut seen = std::collections::BTreeSet::new();
    let mut twice = 0;
    while let Some(entry) = reader.read() {
        let entry = entry.expect("an entry");
        let name = entry.file_name().to_bytes().to_vec();
        if name.starts_with(b".") {
            continue;
        }
        fs::remove_file(dir.join(OsStr::from_bytes(&name))).expect("there");
        twice += usize::from(!seen.insert(name));
    }
    log.note("seen, twice, left", (seen.len(), twice, listed(dir)));
    for i in 0..50 {
        File::create(dir.join(format!("f{i}"))).expect("room");
    }
    reader.rewind();
    log.note("after rewinding", reader.filter(|entry| entry.is_ok()).count());
}

fn modes_and_owners(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    fs::write(&path, "x").expect("room");
    for mode in [0, 0o7777, 0o4755, 0o2755, 0o1644, 0o640] {
        log.note(
            format!("chmod {mode:o}"),
            errno(fs::set_permissions(&path, fs::Permissions::from_mode(mode))),
        );
        log.note("is", stat(&path));
    }
    for (mode, owner) in [
        (0o6755, (Some(1), None)),
        (0o6755, (None, Some(2))),
        (0o6745, (None, Some(3))),
        (0o6777, (None, None)),
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
        log.note(
            format!("chown {owner:?} of {mode:o}"),
            errno(std::os::unix::fs::chown(&path, owner.0, owner.1)),
        );
        log.note("is", stat(&path));
    }
    symlink("f", dir.join("l")).expect("room");
    log.note(
        "lchown",
        (
            errno(std::os::unix::fs::lchown(dir.join("l"), Some(9), Some(9))),
            stat(&dir.join("l")),
            stat(&path),
        ),
    );
    log.note("chown of nothing", errno(std::os::unix::fs::chown(dir.join("none"), Some(1), None)));
    log.note(
        "chmod of nothing",
        errno(fs::set_permissions(dir.join("none"), fs::Permissions::from_mode(0o0))),
    );
}

fn access_of_others(dir: &Path, log: &mut Log) {
    let at = |name: &str| dir.join(name);
    for (name, mode) in [("private", 0o600), ("readable", 0o644), ("writable", 0o666), ("script", 0o711)] {
        fs::write(at(name), "text").expect("room");
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).expect("ours");
    }
    for (name, mode) in [("closed", 0o700), ("passable", 0o711), ("open", 0o777)] {
        fs::create_dir(at(name)).expect("room");
        fs::write(at(name).join("f"), "in").expect("room");
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).expect("ours");
    }
    let results = as_nobody(|| {
        let mut all = Vec::new();
        for name in ["private", "readable", "writable", "script", "closed/f", "passable/f", "open/f"] {
            all.push((
                name.to_owned(),
                format!(
                    "{:?}",
                    (
                        errno(fs::read(at(name))),
                        errno(OpenOptions::new().write(true).open(at(name)).map(drop)),
                        errno(fs::set_permissions(at(name), fs::Permissions::from_mode(0o777))),
                        errno(std::os::unix::fs::chown(at(name), Some(NOBODY), None)),
                        rustix::fs::access(at(name), rustix::fs::Access::EXEC_OK),
                        rustix::fs::utimensat(CWD, at(name), &stamps(1, 2), AtFlags::empty()),
                        rustix::fs::utimensat(CWD, at(name), &now(), AtFlags::empty()),
                    )
                ),
            ));
        }
        for name in ["closed", "passable", "open"] {
            all.push((
                name.to_owned(),
                format!(
                    "{:?}",
                    (
                        errno(fs::read_dir(at(name)).map(drop)),
                        errno(File::create(at(name).join("new")).map(drop)),
                        stat(&at(name).join("new")),
                        errno(fs::rename(at(name).join("f"), at(name).join("g"))),
                        errno(fs::remove_file(at(name).join("g"))),
                        errno(fs::create_dir(at(name).join("sub"))),
                        errno(fs::hard_link(at("readable"), at(name).join("hard"))),
                    )
                ),
            ));
        }
        all
    });
    for (name, result) in results {
        log.note(name, result);
    }
}

fn setgid_and_sticky(dir: &Path, log: &mut Log) {
    let at = |name: &str| dir.join(name);
    fs::create_dir(at("g")).expect("room");
    std::os::unix::fs::chown(at("g"), None, Some(77)).expect("ours");
    fs::set_permissions(at("g"), fs::Permissions::from_mode(0o2777)).expect("ours");
    fs::write(at("g/f"), "").expect("room");
    fs::create_dir(at("g/d")).expect("room");
    log.note("inherited", (stat(&at("g/f")), stat(&at("g/d"))));
    let made = as_nobody(|| {
        let exec = OpenOptions::new().write(true).create_new(true).mode(0o2775).open(at("g/x"));
        (errno(exec.map(drop)), errno(fs::create_dir(at("g/e"))))
    });
    log.note("made by another", (made, stat(&at("g/x")), stat(&at("g/e"))));
    fs::create_dir(at("t")).expect("room");
    fs::set_permissions(at("t"), fs::Permissions::from_mode(0o1777)).expect("ours");
    fs::write(at("t/f"), "").expect("room");
    let done = as_nobody(|| {
        File::create(at("t/own")).expect("everybody may");
        (
            errno(fs::remove_file(at("t/f"))),
            errno(fs::rename(at("t/f"), at("t/g"))),
            errno(fs::rename(at("t/own"), at("t/f"))),
            errno(fs::remove_file(at("t/own"))),
        )
    });
    log.note("sticky", (done, listed(&at("t"))));
}

fn setuid_goes(dir: &Path, log: &mut Log) {
    for (name, mode) in [("u", 0o4777), ("g", 0o2777), ("ug", 0o6777)] {
        let path = dir.join(name);
        let make = || {
            let _ = fs::remove_file(&path);
            fs::write(&path, "12345").expect("room");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
        };
        make();
        fs::write(&path, "root").expect("there");
        log.note(format!("{name}: root writes"), stat(&path));
        make();
        let done = as_nobody(|| {
            let file = OpenOptions::new().write(true).open(&path)?;
            file.write_at(b"x", 0)
        });
        log.note(format!("{name}: another writes"), (errno(done), stat(&path)));
        make();
        let done = as_nobody(|| OpenOptions::new().write(true).open(&path)?.set_len(2));
        log.note(format!("{name}: another truncates"), (errno(done), stat(&path)));
        make();
        let done = as_nobody(|| OpenOptions::new().write(true).truncate(true).open(&path).map(drop));
        log.note(format!("{name}: another opens and truncates"), (errno(done), stat(&path)));
        make();
        let done = as_nobody(|| std::os::unix::fs::chown(&path, None, None));
        log.note(format!("{name}: another changes the owner to nobody new"), (errno(done), stat(&path)));
    }
}

/// See above: what has the bits set while somebody may write to it already.
fn setuid_set_while_open(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    fs::write(&path, "12345").expect("room");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("ours");
    let file = as_nobody(|| OpenOptions::new().write(true).open(&path)).expect("everybody may");
    for mode in [0o4777, 0o2777] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
        let done = as_nobody(|| file.write_at(b"x", 0));
        log.note(format!("{mode:o}"), (errno(done), stat(&path)));
    }
}

fn stamps(atime_ns: i64, mtime_ns: i64) -> Timestamps {
    let spec =
        |ns: i64| Timespec { tv_sec: ns.div_euclid(1_000_000_000), tv_nsec: ns.rem_euclid(1_000_000_000) };
    Timestamps { last_access: spec(atime_ns), last_modification: spec(mtime_ns) }
}

fn now() -> Timestamps {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    Timestamps { last_access: now, last_modification: now }
}

fn times(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    fs::write(&path, "x").expect("room");
    let read = |path: &Path| {
        let meta = fs::symlink_metadata(path).expect("there");
        (meta.atime(), meta.atime_nsec(), meta.mtime(), meta.mtime_nsec())
    };
    for (a, m) in [(1, 2), (1_700_000_000_123_456_789, 1_600_000_000_987_654_321), (-1, -1_500_000_000)] {
        log.note(format!("set {a} {m}"), rustix::fs::utimensat(CWD, &path, &stamps(a, m), AtFlags::empty()));
        log.note("is", read(&path));
    }
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let only = Timestamps { last_access: omit, last_modification: Timespec { tv_sec: 5, tv_nsec: 6 } };
    log.note("only one", (rustix::fs::utimensat(CWD, &path, &only, AtFlags::empty()), read(&path)));
    let bad =
        Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: 2_000_000_000 }, last_modification: omit };
    log.note("a bad one", rustix::fs::utimensat(CWD, &path, &bad, AtFlags::empty()));
    let fresh = |what: &str, log: &mut Log, change: &dyn Fn()| {
        rustix::fs::utimensat(CWD, &path, &stamps(1, 1), AtFlags::empty()).expect("ours");
        rustix::fs::utimensat(CWD, dir, &stamps(1, 1), AtFlags::empty()).expect("ours");
        let before = fs::metadata(&path).expect("there");
        let (ctime, ctime_ns) = (before.ctime(), before.ctime_nsec());
        std::thread::sleep(std::time::Duration::from_millis(20));
        change();
        let dir_changed = fs::metadata(dir).expect("there").mtime() > 1;
        let after = fs::metadata(&path);
        let file =
            after.map(|after| (after.mtime() > 1, (after.ctime(), after.ctime_nsec()) > (ctime, ctime_ns)));
        log.note(
            format!("{what}: of the file mtime, ctime; of the directory mtime"),
            (errno(file), dir_changed),
        );
    };
    fresh("write", log, &|| {
        fs::OpenOptions::new().write(true).open(&path).expect("there").write_all(b"z").expect("room")
    });
    fresh("truncate", log, &|| {
        OpenOptions::new().write(true).open(&path).expect("there").set_len(0).expect("room")
    });
    fresh("truncate to the same", log, &|| {
        OpenOptions::new().write(true).open(&path).expect("there").set_len(0).expect("room")
    });
    fresh("chmod", log, &|| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours"));
    fresh("link", log, &|| fs::hard_link(&path, dir.join("g")).expect("room"));
    fresh("unlink of a link", log, &|| fs::remove_file(dir.join("g")).expect("there"));
    fresh("rename", log, &|| {
        fs::rename(&path, dir.join("h")).expect("there");
        fs::rename(dir.join("h"), &path).expect("there");
    });
    fresh("make a file", log, &|| drop(File::create(dir.join("new")).expect("room")));
    fresh("read", log, &|| drop(fs::read(&path).expect("there")));
}

fn allocation(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).expect("room");
    let keep = FallocateFlags::KEEP_SIZE;
    let punch = FallocateFlags::PUNCH_HOLE | keep;
    for (flags, at, len) in [
        (FallocateFlags::empty(), 0, 10_000),
        (keep, 0, 50_000),
        (FallocateFlags::empty(), 4096, 4096),
        (punch, 4096, 4096),
        (punch, 100, 10),
        (punch, 1 << 30, 4096),
        (FallocateFlags::PUNCH_HOLE, 0, 4096),
        (FallocateFlags::COLLAPSE_RANGE, 0, 4096),
        (FallocateFlags::INSERT_RANGE, 0, 4096),
        (FallocateFlags::empty(), 0, 0),
    ] {
        log.note(format!("{flags:?} {at} {len}"), rustix::fs::fallocate(&file, flags, at, len));
        log.note("is", stat(&path));
    }
    log.note("too much", rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 1 << 50));
    log.note("write", errno(file.write_at(&[5; 9000], 0)));
    log.note("punch", rustix::fs::fallocate(&file, punch, 10, 8000));
    let mut bytes = vec![1; 9000];
    file.read_exact_at(&mut bytes, 0).expect("there");
    log.note("zeros", bytes.iter().filter(|b| **b == 0).count());
    let read_only = File::open(&path).expect("there");
    log.note("of a read-only one", rustix::fs::fallocate(&read_only, keep, 0, 4096));
    log.note("of a directory", rustix::fs::fallocate(File::open(dir).expect("there"), keep, 0, 4096));
}

fn holes(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).expect("room");
    let seek = |log: &mut Log| {
        for at in [0, 4096, 5000, 8192, 1 << 20, (1 << 20) + 1, 2 << 20, 3 << 20] {
            log.note(
                format!("from {at}: data, hole"),
                (rustix::fs::seek(&file, SeekFrom::Data(at)), rustix::fs::seek(&file, SeekFrom::Hole(at))),
            );
        }
        log.note("blocks", fs::metadata(&path).expect("there").blocks());
    };
    seek(log);
    file.set_len(2 << 20).expect("room");
    seek(log);
    file.write_at(b"x", 5000).expect("room");
    file.write_at(&[1; 8192], 1 << 20).expect("room");
    seek(log);
    rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 1 << 20, 4096)
        .expect("room");
    seek(log);
    drop(file);
    let file = File::open(&path).expect("there");
    log.note(
        "opened again",
        (rustix::fs::seek(&file, SeekFrom::Data(0)), rustix::fs::seek(&file, SeekFrom::Data(8192))),
    );
}

fn copies(dir: &Path, log: &mut Log) {
    let at = |name: &str| dir.join(name);
    fs::write(at("a"), (0..100_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).expect("room");
    fs::write(at("b"), "12345").expect("room");
    let from = OpenOptions::new().read(true).write(true).open(at("a")).expect("there");
    let to = OpenOptions::new().read(true).write(true).open(at("b")).expect("there");
    for (off_in, off_out, len) in [(0, 3, 100_000), (399_990, 0, 100), (500_000, 0, 10), (0, 1 << 20, 4096)] {
        let (mut i, mut o) = (off_in, off_out);
        let copied = rustix::fs::copy_file_range(&from, Some(&mut i), &to, Some(&mut o), len);
        log.note(format!("{len} from {off_in} to {off_out}"), (copied, i, o));
    }
    log.note(
        "made",
        (fs::read(at("b")).expect("there").len(), fs::read(at("b")).expect("there")[3..7].to_vec()),
    );
    let (mut i, mut o) = (0, 10);
    log.note("onto itself", rustix::fs::copy_file_range(&from, Some(&mut i), &from, Some(&mut o), 100));
    let read_only = File::open(at("b")).expect("there");
    log.note("to a read-only one", rustix::fs::copy_file_range(&from, None, &read_only, None, 10));
    log.note("fs::copy", errno(fs::copy(at("a"), at("c"))));
    log.note("is the same", fs::read(at("a")).expect("there") == fs::read(at("c")).expect("there"));
}

fn locks(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    fs::write(&path, "0123456789").expect("room");
    let open = || OpenOptions::new().read(true).write(true).open(&path).expect("there");
    let (one, two) = (open(), open());
    let shared = FlockOperation::NonBlockingLockShared;
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    log.note("flock", rustix::fs::flock(&one, exclusive));
    log.note("of another", (rustix::fs::flock(&two, shared), rustix::fs::flock(&two, exclusive)));
    log.note("unlock", rustix::fs::flock(&one, FlockOperation::Unlock));
    log.note(
        "shared",
        (
            rustix::fs::flock(&one, shared),
            rustix::fs::flock(&two, shared),
            rustix::fs::flock(&two, exclusive),
        ),
    );
    drop(one);
    log.note("after a close", rustix::fs::flock(&two, exclusive));
    log.note("fcntl", rustix::fs::fcntl_lock(&two, exclusive));
    log.note("and off", rustix::fs::fcntl_lock(&two, FlockOperation::NonBlockingUnlock));
}

fn attributes(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    fs::write(&path, "").expect("room");
    let none = XattrFlags::empty();
    let set = |name: &str, value: &[u8], flags| rustix::fs::setxattr(&path, name, value, flags);
    let get = |name: &str, size: usize| {
        let mut buf = vec![0; size];
        rustix::fs::getxattr(&path, name, &mut buf[..])
            .map(|len| buf.into_iter().take(len).collect::<Vec<_>>())
    };
    log.note("get of none", get("user.none", 10));
    log.note("set", set("user.a", b"one", none));
    log.note("get", get("user.a", 10));
    log.note("size", rustix::fs::getxattr(&path, "user.a", &mut [0u8; 0][..]));
    log.note("get into too little", get("user.a", 2));
    log.note("create over one", set("user.a", b"x", XattrFlags::CREATE));
    log.note("replace of none", set("user.b", b"x", XattrFlags::REPLACE));
    log.note("create", set("user.b", b"", XattrFlags::CREATE));
    log.note("replace", (set("user.a", b"two", XattrFlags::REPLACE), get("user.a", 10), get("user.b", 1)));
    let list = || {
        let mut buf = vec![0; 4096];
        let len = rustix::fs::listxattr(&path, &mut buf[..]).expect("small");
        let mut names: Vec<_> = buf[..len]
            .split(|b| *b == 0)
            .filter(|n| n.starts_with(b"user.") && !n.starts_with(b"user.codax."))
            .map(|n| String::from_utf8_lossy(n).into_owned())
            .collect();
        names.sort();
        names
    };
    log.note("list", list());
    log.note("list into too little", rustix::fs::listxattr(&path, &mut [0u8; 3][..]));
    log.note("remove", rustix::fs::removexattr(&path, "user.a"));
    log.note("again", rustix::fs::removexattr(&path, "user.a"));
    log.note("list", list());
    log.note("a long name", set(&format!("user.{}", "n".repeat(250)), b"x", none));
    log.note("too long a name", set(&format!("user.{}", "n".repeat(251)), b"x", none));
    log.note("no name", set("user.", b"x", none));
    log.note("no such space", set("nowhere.a", b"x", none));
    log.note("a large value", set("user.large", &vec![b'v'; 60_000], none));
    log.note("too large a value", set("user.larger", &vec![b'v'; 65_537], none));
    symlink("f", dir.join("l")).expect("room");
    log.note("of a link", rustix::fs::lsetxattr(dir.join("l"), "user.a", b"x", none));
    log.note("of a directory", rustix::fs::setxattr(dir, "user.a", b"x", none));
    log.note("others may not", as_nobody(|| rustix::fs::setxattr(&path, "user.c", b"x", none)));
}

fn special_files(dir: &Path, log: &mut Log) {
    use std::os::unix::net::{UnixListener, UnixStream};
    let at = |name: &str| dir.join(name);
    let mode = Mode::from_raw_mode(0o640);
    let make = |name: &str, kind, dev| rustix::fs::mknodat(CWD, at(name), kind, mode, dev);
    log.note("fifo", make("fifo", rustix::fs::FileType::Fifo, 0));
    log.note("again", make("fifo", rustix::fs::FileType::Fifo, 0));
    log.note("is", stat(&at("fifo")));
    log.note("nobody reads it", open(&at("fifo"), OFlags::WRONLY | OFlags::NONBLOCK).map(drop));
    let reader = open(&at("fifo"), OFlags::RDONLY | OFlags::NONBLOCK).expect("a pipe");
    let mut writer = OpenOptions::new().write(true).open(at("fifo")).expect("a pipe");
    writer.write_all(b"through").expect("room");
    let mut buf = [0; 16];
    log.note("through it", (rustix::io::read(&reader, &mut buf), buf));
    let listener = UnixListener::bind(at("sock")).expect("a name");
    log.note("socket", stat(&at("sock")));
    log.note("bind again", errno(UnixListener::bind(at("sock")).map(drop)));
    let mut client = UnixStream::connect(at("sock")).expect("somebody listens");
    client.write_all(b"hi").expect("room");
    let mut server = listener.accept().expect("a client").0;
    drop(client);
    let mut text = String::new();
    log.note("through it", (errno(server.read_to_string(&mut text)), text));
    log.note("open of a socket", open(&at("sock"), OFlags::RDONLY).map(drop));
    log.note("regular", make("file", rustix::fs::FileType::RegularFile, 0));
    log.note("is", stat(&at("file")));
    log.note("device", make("null", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3)));
    log.note("is", (stat(&at("null")), errno(fs::metadata(at("null"))).map(|meta| meta.rdev())));
    log.note(
        "others may not",
        as_nobody(|| make("x", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3))),
    );
    log.note("unlink", (errno(fs::remove_file(at("sock"))), errno(fs::remove_file(at("fifo")))));
}

fn names(dir: &Path, log: &mut Log) {
    let long = "n".repeat(255);
    let deep = "d/".repeat(2100) + "x";
    for name in [long.as_bytes(), b"\xff\xfe", b"a\nb", b" ", b"...", b".hidden", b"\xe2\x82\xac"] {
        let path = dir.join(OsStr::from_bytes(name));
        log.note(format!("write {} bytes", name.len()), errno(fs::write(&path, name)));
        log.note("read", errno(fs::read(&path)).map(|bytes| bytes == name));
    }
    log.note("all", listed(dir));
    let longer = dir.join("n".repeat(256));
    log.note(
        "256 bytes",
        (
            errno(File::create(&longer).map(drop)),
            errno(fs::create_dir(&longer)),
            errno(fs::metadata(&longer).map(drop)),
            errno(fs::remove_file(&longer)),
            errno(symlink("x", &longer)),
            errno(fs::rename(dir.join(" "), &longer)),
            errno(fs::hard_link(dir.join(" "), &longer)),
        ),
    );
    log.note("too deep", errno(fs::metadata(dir.join(deep)).map(drop)));
    log.note("empty", errno(File::create(dir.join("")).map(drop)));
}

fn mappings(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    fs::write(&path, vec![b'a'; 10_000]).expect("room");
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("there");
    let region = Region::reserve(12_288).expect("room");
    log.note("shared", errno(region.place(0, 12_288, &file, 0, true)));
    region.memory().store_u64(8, u64::from_le_bytes(*b"mapped!!"));
    let mut buf = [0; 8];
    log.note("a store is read", (errno(file.read_at(&mut buf, 8)), buf));
    log.note(
        "a write is loaded",
        (errno(file.write_at(b"written!", 4096)), region.memory().load_u64(4096).to_le_bytes()),
    );
    log.note("beyond the end", region.memory().load_u64(10_000));
    log.note("grown", (errno(file.set_len(12_288)), region.memory().load_u64(12_000)));
    region.memory().store_u64(12_280, 7);
    drop(file);
    region.memory().store_u64(16, u64::from_le_bytes(*b"closed!!"));
    let bytes = fs::read(&path).expect("there");
    log.note("after the close", (bytes.len(), bytes[16..24].to_vec(), bytes[12_280]));
    let read_only = File::open(&path).expect("there");
    log.note("write through a read-only one", errno(can_map(&read_only, 4096, true)));
    log.note("read through it", errno(can_map(&read_only, 4096, false)));
    fs::remove_file(&path).expect("there");
    region.memory().store_u64(0, 9);
    log.note("after the unlink", region.memory().load_u64(0));
}

fn appends(dir: &Path, log: &mut Log) {
    const EACH: usize = 500;
    let path = dir.join("f");
    std::thread::scope(|scope| {
        for letter in [b'a', b'b'] {
            let path = &path;
            scope.spawn(move || {
                let mut file = OpenOptions::new().append(true).create(true).open(path).expect("room");
                (0..EACH).for_each(|_| file.write_all(&[letter; 16]).expect("room"));
            });
        }
    });
    let bytes = fs::read(&path).expect("there");
    let whole = bytes.chunks(16).all(|chunk| chunk.iter().all(|b| *b == chunk[0]));
    log.note("length, whole records", (bytes.len(), whole));
    fs::write(&path, "cut away").expect("room");
    let mut file = OpenOptions::new().append(true).read(true).open(&path).expect("there");
    file.set_len(3).expect("ours");
    log.note("append after truncation", (errno(file.write(b"end")), fs::read(&path).expect("there")));
}

fn descriptors(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    fs::write(&path, "text").expect("room");
    let file = File::open(&path).expect("there");
    let again = std::path::PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
    log.note(
        "opened again through /proc",
        errno(OpenOptions::new().append(true).open(&again).and_then(|mut f| f.write_all(b"!"))),
    );
    log.note("is", errno(fs::read(&path)));
    let linked = rustix::fs::linkat(CWD, &again, CWD, dir.join("g"), AtFlags::SYMLINK_FOLLOW);
    log.note("linked through /proc", (linked, stat(&dir.join("g"))));
    let at = open(dir, OFlags::PATH | OFlags::DIRECTORY).expect("there");
    fs::rename(dir.join("f"), dir.join("h")).expect("there");
    log.note(
        "by a directory's descriptor",
        rustix::fs::statat(at.as_fd(), "h", AtFlags::empty()).map(|stat| stat.st_size),
    );
    log.note("position", {
        let mut file = &file;
        let mut buf = [0; 2];
        (
            errno(file.read(&mut buf)),
            buf,
            rustix::fs::seek(file, SeekFrom::End(-1)),
            rustix::fs::seek(file, SeekFrom::Current(-9)),
        )
    });
    log.note("statfs", rustix::fs::statvfs(dir).map(|stat| (stat.f_bsize, stat.f_frsize, stat.f_namemax)));
}
