//! Scenarios of attributes: owners, modes, times, extended ones.

use super::*;

pub fn modes_and_owners(dir: &Path, log: &mut Log) {
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

pub fn access_of_others(dir: &Path, log: &mut Log) {
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

pub fn setgid_and_sticky(dir: &Path, log: &mut Log) {
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

pub fn setuid_goes(dir: &Path, log: &mut Log) {
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
pub fn setuid_set_while_open(dir: &Path, log: &mut Log) {
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

fn now() -> Timestamps {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    Timestamps { last_access: now, last_modification: now }
}

pub fn times(dir: &Path, log: &mut Log) {
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

pub fn attributes(dir: &Path, log: &mut Log) {
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
