//! Scenarios of names: links, directories, renames, and what stays there when a name has gone.

use super::*;

pub fn renames(dir: &Path, log: &mut Log) {
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

pub fn unlink_while_open(dir: &Path, log: &mut Log) {
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
pub fn removed_while_known(dir: &Path, log: &mut Log) {
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

pub fn hard_links(dir: &Path, log: &mut Log) {
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

pub fn symbolic_links(dir: &Path, log: &mut Log) {
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

pub fn directories(dir: &Path, log: &mut Log) {
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

pub fn reading_while_removing(dir: &Path, log: &mut Log) {
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

pub fn special_files(dir: &Path, log: &mut Log) {
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

pub fn names(dir: &Path, log: &mut Log) {
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
