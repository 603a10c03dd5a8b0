//! The store as a mount sees it: names, bytes, holes, what programs write to objects by themselves, and restarts.

// Files of some MiB, and single bytes on purpose.
#![allow(clippy::cast_possible_truncation)]

mod store_support;

use codax_core::info::ServedBy;
use codax_core::namespace::Kind;
use codax_core::{ErrorKind, FileId, ROOT};
use codax_engine::Store;
use codax_engine::fs::{
    Allocate, Attr, Changed, Fs, FsHandle, FsOpen, How, New, NewKind, RenameFlags, Set, Stamp, Who,
};
use std::os::fd::{AsFd, OwnedFd};
use store_support::*;

const WHO: Who = Who { uid: 1000, gid: 1000, pid: 1 };

fn new(kind: NewKind) -> New {
    New { mode: 0o755, who: WHO, kind }
}

fn mkdir(fs: &Fs, dir: FileId, name: &str) -> FileId {
    fs.make(dir, name.as_bytes(), &new(NewKind::Dir)).expect("mkdir").id
}

fn create(fs: &Fs, dir: FileId, name: &str) -> (FileId, FsOpen) {
    let (attr, open) = fs.create(dir, name.as_bytes(), &new(NewKind::File), true, true).expect("created");
    (attr.id, open)
}

/// A file that the daemon serves, closed, with these bytes.
fn put_file(fs: &Fs, name: &str, bytes: &[u8]) -> FileId {
    let (id, open) = create(fs, ROOT, name);
    match open.how {
        How::Daemon => assert_eq!(fs.write(open.handle, 0, bytes, false), Ok(bytes.len())),
        How::Passthrough(fd) => codax_os::object::write_all_at(&fd, bytes, 0).expect("written"),
    }
    fs.release(open.handle);
    id
}

fn open(fs: &Fs, id: FileId) -> FsOpen {
    fs.open(id, true, true, WHO).expect("opens")
}

fn object_of(open: FsOpen) -> (FsHandle, OwnedFd) {
    match open.how {
        How::Passthrough(fd) => (open.handle, fd),
        How::Daemon => panic!("served by the daemon"),
    }
}

fn read_all(fs: &Fs, id: FileId) -> Vec<u8> {
    let open = open(fs, id);
    let mut bytes = vec![0xee; usize::try_from(fs.attr(id).expect("attr").len).expect("small") + 10];
    let got = fs.read(open.handle, 0, &mut bytes).expect("read");
    bytes.truncate(got);
    fs.release(open.handle);
    bytes
}

fn kind<T: std::fmt::Debug>(result: codax_core::Result<T>) -> ErrorKind {
    result.expect_err("an error").kind
}

fn names(fs: &Fs, dir: FileId) -> Vec<String> {
    let all = fs.entries(dir, None, usize::MAX).expect("entries");
    all.into_iter().map(|(name, _)| String::from_utf8(name).expect("utf-8")).collect()
}

fn clean(store: &Store) {
    assert_eq!(store.check(false).expect("check"), []);
}

fn used(store: &Store) -> u64 {
    store.info().pools.iter().map(|p| p.used + p.held).sum()
}

#[test]
fn names_of_all_kinds_are_made_listed_and_removed() {
    let rig = Rig::new();
    let store = rig.open();
    let fs = store.fs(false);
    let dir = mkdir(&fs, ROOT, "d");
    for (name, what, kind) in [
        ("fifo", NewKind::Fifo, Kind::Fifo),
        ("sock", NewKind::Socket, Kind::Socket),
        ("link", NewKind::Symlink(b"../t\xff".to_vec()), Kind::Symlink),
        ("null", NewKind::Char(0x103), Kind::CharDevice),
        ("disk", NewKind::Block(0x800), Kind::BlockDevice),
        ("file", NewKind::File, Kind::File),
        ("sub", NewKind::Dir, Kind::Dir),
    ] {
        let made = fs.make(dir, name.as_bytes(), &new(what.clone())).expect("made");
        assert_eq!((made.kind, made.mode, made.uid), (kind, 0o755, 1000));
        assert_eq!(self::kind(fs.make(dir, name.as_bytes(), &new(what))), ErrorKind::Exists);
    }
    assert_eq!(names(&fs, dir), ["disk", "fifo", "file", "link", "null", "sock", "sub"]);
    let link = fs.lookup(dir, b"link").expect("there");
    assert_eq!((link.len, fs.read_link(link.id)), (5, Ok(b"../t\xff".to_vec())));
    assert_eq!(fs.lookup(dir, b"null").expect("there").rdev, 0x103);
    assert_eq!(fs.attr(dir).expect("attr").nlink, 3);
    assert_eq!(fs.parent(fs.lookup(dir, b"sub").expect("there").id), Ok(dir));
    assert_eq!(kind(fs.unlink(dir, b"sub")), ErrorKind::IsDir);
    assert_eq!(kind(fs.rmdir(dir, b"fifo")), ErrorKind::NotDir);
    assert_eq!(kind(fs.rmdir(ROOT, b"d")), ErrorKind::NotEmpty);
    assert_eq!(kind(fs.lookup(link.id, b"x")), ErrorKind::NotDir);
    assert_eq!(kind(fs.lookup(dir, &[b'n'; 256])), ErrorKind::NameTooLong);
    assert_eq!(kind(fs.lookup(dir, &[b'n'; 255])), ErrorKind::NotFound);
    drop(fs);
    drop(store);
    let store = rig.open();
    let fs = store.fs(false);
    assert_eq!(fs.lookup(dir, b"link").map(|a| a.id), Ok(link.id));
    assert_eq!(admin(&store).usage(&path("/")).expect("usage").2, 0);
    for name in names(&fs, dir) {
        match name.as_str() {
            "sub" => fs.rmdir(dir, b"sub").expect("removed"),
            name => fs.unlink(dir, name.as_bytes()).expect("removed"),
        }
    }
    fs.rmdir(ROOT, b"d").expect("removed");
    assert_eq!((names(&fs, ROOT).len(), store.info().inodes), (0, 1));
    clean(&store);
}

#[test]
fn hard_links_are_one_file_until_the_last_goes_over_restarts() {
    let rig = Rig::new();
    let store = rig.open();
    let fs = store.fs(false);
    let dir = mkdir(&fs, ROOT, "d");
    let id = put_file(&fs, "a", b"hello");
    assert_eq!(fs.link(id, dir, b"b").expect("linked").nlink, 2);
    assert_eq!(kind(fs.link(id, dir, b"b")), ErrorKind::Exists);
    assert_eq!(kind(fs.link(dir, ROOT, b"e")), ErrorKind::NotPermitted);
    fs.unlink(ROOT, b"a").expect("unlinked");
    drop(fs);
    drop(store);
    let store = rig.open();
    let fs = store.fs(false);
    let attr = fs.lookup(dir, b"b").expect("there");
    assert_eq!((attr.id, attr.nlink), (id, 1));
    assert_eq!(read(&admin(&store), "/d/b"), b"hello");
    // Renamed onto another name of itself, nothing happens.
    fs.link(id, ROOT, b"c").expect("linked");
    fs.rename((ROOT, b"c"), (dir, b"b"), RenameFlags::default()).expect("renamed");
    assert_eq!((names(&fs, ROOT), names(&fs, dir)), (vec!["c".into(), "d".into()], vec!["b".into()]));
    // One of its names goes to another file: the other counts.
    let (x, z) = (put_file(&fs, "x", b"x"), put_file(&fs, "z", b"z"));
    fs.link(x, dir, b"y").expect("linked");
    fs.rename((ROOT, b"z"), (dir, b"y"), RenameFlags::default()).expect("renamed");
    let names_file = codax_engine::names::read(&rig.layout().names()).expect("names");
    let named = |id| codax_engine::names::path_of(&names_file, id).expect("named");
    assert_eq!((named(x), named(z)), (b"/x".to_vec(), b"/d/y".to_vec()));
    assert_eq!(store.check(false).expect("check"), []);
    fs.unlink(ROOT, b"x").expect("unlinked");
    fs.unlink(dir, b"y").expect("unlinked");
    fs.unlink(dir, b"b").expect("unlinked");
    let names_file = codax_engine::names::read(&rig.layout().names()).expect("names");
    assert_eq!(codax_engine::names::path_of(&names_file, id), Some(b"/c".to_vec()));
    fs.unlink(ROOT, b"c").expect("unlinked");
    assert_eq!(kind(fs.attr(id)), ErrorKind::NotFound);
    assert_eq!(used(&store), 0);
    clean(&store);
}

#[test]
fn rename_replaces_exchanges_or_refuses() {
    let rig = Rig::new();
    let store = rig.open();
    let fs = store.fs(false);
    let (d, e) = (mkdir(&fs, ROOT, "d"), mkdir(&fs, ROOT, "e"));
    let (a, b) = (put_file(&fs, "a", b"a"), put_file(&fs, "b", b"b"));
    let no = RenameFlags { noreplace: true, exchange: false };
    let swap = RenameFlags { noreplace: false, exchange: true };
    let plain = RenameFlags::default();
    assert_eq!(kind(fs.rename((ROOT, b"a"), (ROOT, b"b"), no)), ErrorKind::Exists);
    assert_eq!(kind(fs.rename((ROOT, b"a"), (ROOT, b"x"), swap)), ErrorKind::NotFound);
    fs.rename((ROOT, b"a"), (d, b"a2"), no).expect("renamed");
    fs.rename((d, b"a2"), (ROOT, b"e"), swap).expect("exchanged");
    assert_eq!(fs.lookup(ROOT, b"e").map(|x| x.id), Ok(a));
    assert_eq!(fs.lookup(d, b"a2").map(|x| x.id), Ok(e));
    assert_eq!(
        (fs.parent(e), fs.attr(d).map(|x| x.nlink), fs.attr(ROOT).map(|x| x.nlink)),
        (Ok(d), Ok(3), Ok(3))
    );
    assert_eq!(kind(fs.rename((ROOT, b"d"), (d, b"a2"), swap)), ErrorKind::Invalid);
    assert_eq!(kind(fs.rename((ROOT, b"d"), (e, b"d"), plain)), ErrorKind::Invalid);
    assert_eq!(kind(fs.rename((ROOT, b"b"), (ROOT, b"d"), plain)), ErrorKind::IsDir);
    assert_eq!(kind(fs.rename((ROOT, b"d"), (ROOT, b"b"), plain)), ErrorKind::NotDir);
    // What is replaced while it is open stays until it is closed.
    let open = open(&fs, b);
    fs.rename((ROOT, b"e"), (ROOT, b"b"), plain).expect("renamed");
    assert_eq!((fs.lookup(ROOT, b"b").map(|x| x.id), fs.attr(b).map(|x| x.nlink)), (Ok(a), Ok(0)));
    let mut byte = [0];
    assert_eq!((fs.read(open.handle, 0, &mut byte), byte), (Ok(1), *b"b"));
    fs.release(open.handle);
    assert_eq!(kind(fs.attr(b)), ErrorKind::NotFound);
    clean(&store);
}

#[test]
fn holes_are_zeros_take_frames_when_written_and_a_full_pool_is_no_space() {
    let rig = Rig::new();
    let store = rig.open();
    let fs = store.fs(false);
    fs.set_xattr(ROOT, b"user.codax.on", b"sim0", false, false).expect("set");
    // Where there are huge pages, writing a byte takes one.
    let page = if store.info().pools[1].huge { 2 * MIB } else { 4096 };
    let (id, open) = create(&fs, ROOT, "sparse");
    let h = open.handle;
    fs.set(id, &Set { len: Some(1 << 40), ..Set::default() }).expect("longer");
    assert_eq!(fs.attr(id).map(|a| (a.len, a.backed)), Ok((1 << 40, 0)));
    assert_eq!(fs.write(h, (1 << 30) + 5, b"middle", false), Ok(6));
    assert_eq!(fs.attr(id).map(|a| (a.len, a.backed)), Ok((1 << 40, page)));
    let mut buf = [1; 16];
    assert_eq!(fs.read(h, (1 << 30) + 1, &mut buf), Ok(16));
    assert_eq!(&buf, b"\0\0\0\0middle\0\0\0\0\0\0");
    assert_eq!(fs.read(h, (1 << 40) - 3, &mut buf), Ok(3));
    assert_eq!((fs.seek_data(h, 0), fs.seek_hole(h, 0)), (Ok(1 << 30), Ok(0)));
    assert_eq!(fs.seek_hole(h, 1 << 30), Ok((1 << 30) + page));
    assert_eq!(kind(fs.seek_data(h, (1 << 30) + page)), ErrorKind::PastEnd);
    assert_eq!(kind(fs.seek_hole(h, 1 << 40)), ErrorKind::PastEnd);
    clean(&store);
    // 32 MiB are there, and most of them are taken.
    fs.allocate(h, 0, 28 * MIB, Allocate { keep_size: true, ..Allocate::default() }).expect("allocated");
    let data = vec![7; 4 * MIB as usize];
    let put = fs.write(h, 2 << 30, &data, false).expect("some of it");
    assert!(put < data.len() && put > 0, "{put}");
    while let Ok(n) = fs.write(h, (3 << 30) + 4096 * 8, &data[..4096], false) {
        assert_eq!(n, 4096);
        let at = fs.seek_hole(h, (3 << 30) + 4096 * 8).expect("a hole");
        if fs.write(h, at, &data[..4096], false).is_err() {
            break;
        }
    }
    let statfs = fs.statfs(id).expect("statfs");
    assert_eq!((statfs.bytes, statfs.free < 4 * MIB), (32 * MIB, true));
    clean(&store);
    // The library has no holes: it can't have this one.
    let session = admin(&store);
    let opened =
        session.open(&codax_core::request::Open { create: false, ..open_of("/sparse", 0) }).expect("opens");
    assert_eq!(kind(session.raw(opened.handle, true)), ErrorKind::NoSpace);
    // Its room comes back.
    fs.allocate(h, 0, 1 << 40, Allocate { keep_size: true, punch: true, zero: false }).expect("punched");
    assert_eq!(fs.attr(id).map(|a| (a.len, a.backed)), Ok((1 << 40, 0)));
    assert_eq!(used(&store), 0);
    fs.set(id, &Set { len: Some(5000), ..Set::default() }).expect("shorter");
    assert_eq!(fs.write(h, 4990, b"0123456789", false), Ok(10));
    assert!(session.raw(opened.handle, true).is_ok());
    session.raw_done(id);
    assert_eq!(fs.attr(id).map(|a| a.backed), Ok(8192));
    session.close(opened.handle);
    fs.release(h);
    clean(&store);
    assert_eq!(read(&session, "/sparse")[4988..], [&[0; 2][..], b"0123456789"].concat());
}

#[test]
fn punched_ranges_are_zeros_and_what_is_beside_them_stays() {
    let rig = Rig::new();
    let store = rig.open();
    let fs = store.fs(false);
    let bytes: Vec<u8> = (0..40_000u32).map(|i| i as u8 | 1).collect();
    let id = put_file(&fs, "f", &bytes);
    let h = open(&fs, id).handle;
    let punch = Allocate { keep_size: true, punch: true, zero: false };
    let mut expected = bytes.clone();
    for (off, len) in [(5000u64, 10_000u64), (100, 50), (36_000, 100_000), (20_480, 4096)] {
        fs.allocate(h, off, len, punch).expect("punched");
        let end = (off + len).min(40_000) as usize;
        expected[off as usize..end].fill(0);
    }
    assert_eq!(read_all(&fs, id), expected);
    assert_eq!(fs.attr(id).map(|a| (a.len, a.backed)), Ok((40_000, 7 * 4096)));
    clean(&store);
    // Zeroed in place, and the file made longer by it.
    fs.allocate(h, 0, 50_000, Allocate { zero: true, ..Allocate::default() }).expect("zeroed");
    assert_eq!(read_all(&fs, id), vec![0; 50_000]);
    assert_eq!(fs.attr(id).map(|a| a.backed), Ok(13 * 4096));
    assert_eq!(kind(fs.allocate(h, u64::MAX - 5, 3, punch)), ErrorKind::FileTooBig);
    assert_eq!(kind(fs.write(h, (1 << 63) - 2, b"xx", false)), ErrorKind::FileTooBig);
    fs.release(h);
    drop(fs);
    drop(store);
    let store = rig.open();
    assert_eq!(store.info().recovery, Vec::<String>::new());
    clean(&store);
}

#[test]
fn a_file_with_holes_moves_and_keeps_them() {
    let rig = Rig::new();
    let store = rig.open();
    let fs = store.fs(true);
    let (id, file) = create(&fs, ROOT, "f");
    let (h, object) = object_of(file);
    for at in [0, 3, 5, 2000, 5000] {
        codax_os::object::write_all_at(&object, &[at as u8; 5000], at * 4096).expect("written");
    }
    drop(object);
    fs.allocate(h, 4096, 8192, Allocate { keep_size: true, punch: true, zero: false }).expect("punched");
    fs.allocate(h, 0, 30 * MIB, Allocate { keep_size: true, ..Allocate::default() }).expect("allocated");
    fs.allocate(h, 8192, 10 * MIB, Allocate { keep_size: true, punch: true, zero: false }).expect("punched");
    fs.release(h);
    let (bytes, before) = (read_all(&fs, id), fs.attr(id).expect("attr"));
    let session = admin(&store);
    clean(&store);
    session.move_file(&path("/f"), "sim0", None, &mut |_| true).expect("moved");
    assert_eq!(pool_of(&session, "/f")[..], [1; 2][..pool_of(&session, "/f").len()]);
    assert!(read_all(&fs, id) == bytes);
    let after = fs.attr(id).expect("attr");
    // What it had beyond its end stays behind.
    assert_eq!((after.len, after.mtime_ns), (before.len, before.mtime_ns));
    assert!(after.backed <= before.backed);
    clean(&store);
    session.drain("sim0", codax_engine::DrainOptions::default(), &mut |_| true).expect("drained");
    assert!(read_all(&fs, id) == bytes);
    session.online("sim0", &mut |_| true).expect("online");
    assert!(read_all(&fs, id) == bytes);
    assert_eq!(pool_of(&session, "/f")[0], 1);
    clean(&store);
    fs.unlink(ROOT, b"f").expect("unlinked");
    assert_eq!(used(&store), 0);
}

#[test]
fn a_file_over_several_pools_is_read_and_written_by_the_daemon() {
    let rig = Rig::new();
    let store = rig.open();
    let fs = store.fs(true);
    fs.set_xattr(ROOT, b"user.codax.interleave", b"dram,sim0", false, false).expect("set");
    let (id, open_file) = create(&fs, ROOT, "f");
    assert!(matches!(open_file.how, How::Daemon));
    assert_eq!(fs.served(id).expect("served").by, ServedBy::Daemon);
    let h = open_file.handle;
    let bytes: Vec<u8> = (0..7 * MIB).map(|i| byte_at("f", i)).collect();
    for (i, part) in bytes.chunks(1 << 20).enumerate() {
        assert_eq!(fs.write(h, (i as u64) << 20, part, false), Ok(part.len()));
    }
    assert_eq!(read_all(&fs, id), bytes);
    assert_eq!(pool_of(&admin(&store), "/f"), [0, 1, 0, 1]);
    clean(&store);
    // Moved while it is open: the daemon reads it where it is.
    admin(&store).move_file(&path("/f"), "dram", None, &mut |_| true).expect("moved");
    let mut some = vec![0; 100];
    assert_eq!(fs.read(h, 3 * MIB, &mut some), Ok(100));
    assert_eq!(some, bytes[3 * MIB as usize..][..100]);
    let (copy, to) = create(&fs, ROOT, "copy");
    assert_eq!(fs.copy_range(h, 0, to.handle, 10, 1 << 40), Ok(bytes.len()));
    fs.release(to.handle);
    assert_eq!(read_all(&fs, copy)[10..], bytes);
    fs.release(h);
    // In one object now, so the kernel can serve it.
    assert_eq!(fs.served(id).expect("served").by, ServedBy::Kernel);
    clean(&store);
}

#[test]
fn the_room_that_is_shown_is_what_a_new_file_can_have() {
    let rig = Rig::new();
    let store = rig.open();
    let fs = store.fs(false);
    let shown = |dir| fs.statfs(dir).map(|stat| (stat.bytes, stat.free, stat.available));
    let spread = mkdir(&fs, ROOT, "spread");
    fs.set_xattr(spread, b"user.codax.interleave", b"dram,sim0", false, false).expect("set");
    assert_eq!(shown(spread), Ok((96 * MIB, 96 * MIB, 64 * MIB)));
    let (_, open) = create(&fs, spread, "f");
    let data = vec![1; 4 * MIB as usize];
    assert_eq!((0..16).map(|_| fs.append(open.handle, &data, false).expect("room")).sum::<usize>(), 64 << 20);
    assert_eq!(shown(spread), Ok((96 * MIB, 32 * MIB, 0)));
    // The larger pool's turn is next.
    assert_eq!(fs.append(open.handle, &data, false), Ok(2 << 20));
    assert_eq!(kind(fs.append(open.handle, &data, false)), ErrorKind::NoSpace);
    fs.release(open.handle);
    let prefer = mkdir(&fs, ROOT, "prefer");
    fs.set_xattr(prefer, b"user.codax.prefer", b"sim0", false, false).expect("set");
    assert_eq!(shown(prefer), Ok((96 * MIB, 30 * MIB, 30 * MIB)));
    clean(&store);
}

#[test]
fn what_two_mounts_append_to_a_file_is_all_there() {
    const EACH: usize = 1000;
    let rig = Rig::new();
    let store = rig.open();
    let mounts = [store.fs(false), store.fs(false), store.fs(true)];
    let id = put_file(&mounts[0], "f", b"");
    let append = |fs: &Fs, letter: u8| {
        let handle = fs.open(id, true, true, WHO).expect("opens");
        for _ in 0..EACH {
            match &handle.how {
                How::Daemon => assert_eq!(fs.append(handle.handle, &[letter; 30], false), Ok(30)),
                // As the kernel does it.
                How::Passthrough(fd) => {
                    assert_eq!(codax_os::object::append(fd, &[letter; 30]).expect("room"), 30);
                }
            }
        }
        fs.release(handle.handle);
    };
    // By the daemon for two mounts; then to an object to which the kernel writes, too.
    for (round, mounts) in [(1, &mounts[..2]), (2, &mounts[1..])] {
        std::thread::scope(|scope| {
            for (mount, letter) in mounts.iter().cycle().zip(*b"abcd") {
                scope.spawn(move || append(mount, letter));
            }
        });
        let bytes = read_all(&mounts[0], id);
        assert_eq!(bytes.len(), round * 4 * EACH * 30);
        assert!(bytes.chunks(30).all(|record| record.iter().all(|b| *b == record[0])));
        clean(&store);
    }
    // What doesn't fit is not begun twice.
    fs_of_full_pool(&mounts[1]);
    clean(&store);
}

/// Appends more than there is room for: what was taken is there once.
fn fs_of_full_pool(fs: &Fs) {
    fs.set_xattr(ROOT, b"user.codax.on", b"sim0", false, false).expect("set");
    let (id, open) = create(fs, ROOT, "full");
    let data: Vec<u8> = (0..MIB as usize).map(|at| (at / 4096) as u8).collect();
    let mut len = 0;
    let refused = loop {
        match fs.append(open.handle, &data, false) {
            Ok(n) => len += n,
            Err(e) => break e,
        }
    };
    assert_eq!((refused.kind, fs.attr(id).map(|a| a.len)), (ErrorKind::NoSpace, Ok(len as u64)));
    assert!(read_all(fs, id).chunks(MIB as usize).all(|part| part == &data[..part.len()]));
    assert_eq!(kind(fs.append(open.handle, b"x", false)), ErrorKind::NoSpace);
    fs.release(open.handle);
}

#[test]
fn what_programs_write_to_the_object_is_taken_in() {
    let rig = Rig::new();
    let store = rig.open();
    let fs = store.fs(true);
    let (id, open_file) = create(&fs, ROOT, "f");
    let (h, object) = object_of(open_file);
    codax_os::object::write_all_at(&object, &[1; 10_000], 0).expect("written");
    codax_os::object::write_all_at(&object, &[2; 10], 100_000).expect("written");
    let seen = |a: Attr| (a.len, a.backed);
    assert_eq!(fs.attr(id).map(seen), Ok((100_010, 4 * 4096)));
    assert_eq!(admin(&store).stat(&path("/f")).map(|i| (i.len, i.backed)), Ok((100_010, 4 * 4096)));
    clean(&store);
    // A length set by the mount, and by the library, is the object's at once.
    fs.set(id, &Set { len: Some(5000), ..Set::default() }).expect("cut");
    assert_eq!(codax_os::object::stat(&object).expect("stat").len, 5000);
    assert_eq!(fs.attr(id).map(seen), Ok((5000, 8192)));
    let session = admin(&store);
    let opened =
        session.open(&codax_core::request::Open { create: false, ..open_of("/f", 0) }).expect("opens");
    session.set_len(opened.handle, 20_000).expect("longer");
    assert_eq!(codax_os::object::stat(&object).expect("stat").len, 20_000);
    assert_eq!(fs.attr(id).map(seen), Ok((20_000, 5 * 4096)));
    // It can't be moved while somebody has it, also when only a mapping (here: a descriptor) is left of it.
    let report = session.move_file(&path("/f"), "sim0", None, &mut |_| true);
    assert_eq!(kind(report), ErrorKind::Busy);
    fs.release(h);
    codax_os::object::write_all_at(&object, &[3; 4096], 20_000).expect("written");
    assert_eq!(fs.attr(id).map(seen), Ok((24_096, 6 * 4096)));
    let report = session.move_file(&path("/f"), "sim0", None, &mut |_| true);
    assert_eq!(kind(report), ErrorKind::Busy);
    drop(object);
    session.move_file(&path("/f"), "sim0", None, &mut |_| true).expect("moved");
    assert_eq!(pool_of(&session, "/f"), [1]);
    assert_eq!(read_all(&store.fs(false), id)[19_999..20_001], [0, 3]);
    clean(&store);
    // Times are the object's, or what was set.
    let (h, object) = object_of(open(&fs, id));
    let before = fs.attr(id).expect("attr");
    fs.set(id, &Set { mtime: Some(Stamp::At(5)), atime: Some(Stamp::At(-7)), ..Set::default() })
        .expect("set");
    let after = fs.attr(id).expect("attr");
    assert_eq!((after.mtime_ns, after.atime_ns, after.ctime_ns > before.ctime_ns), (5, -7, true));
    codax_os::object::write_all_at(&object, b"x", 0).expect("written");
    assert!(fs.attr(id).expect("attr").mtime_ns > before.mtime_ns);
    drop(object);
    fs.release(h);
    session.close(opened.handle);
    clean(&store);
}

/// The library has no holes: while programs cut a file and make it longer, it maps what is whole, or is told that it can't.
#[test]
fn a_file_that_programs_make_holes_in_is_mapped_whole_or_not_at_all() {
    let rig = Rig::new();
    let store = rig.open();
    let fs = store.fs(true);
    let id = put_file(&fs, "f", &[1; 5000]);
    let (h, object) = object_of(open(&fs, id));
    let session = admin(&store);
    let opened =
        session.open(&codax_core::request::Open { create: false, ..open_of("/f", 0) }).expect("opens");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut len = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                len = (len + 300_000) % (8 * MIB);
                codax_os::object::set_len(&object, len).expect("room");
            }
        });
        for _ in 0..200 {
            match session.raw(opened.handle, true) {
                Ok((layout, _)) => {
                    let covered: u64 = layout.runs.iter().map(|run| run.pages.count.0).sum();
                    assert_eq!(covered, layout.len.div_ceil(4096));
                    session.raw_done(id);
                }
                Err(e) => assert_eq!(e.kind, ErrorKind::Busy, "{e}"),
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    drop(object);
    fs.release(h);
    session.close(opened.handle);
    clean(&store);
}

/// Numbers that are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// A reader fills no holes; a mapping does, where the file is.
#[test]
fn holes_are_filled_for_who_maps_beside_what_is_there_and_not_for_who_reads() {
    let rig = Rig::new();
    let store = rig.open();
    let fs = store.fs(true);
    fs.set_xattr(ROOT, b"user.codax.prefer", b"sim0", false, false).expect("set");
    let session = admin(&store);
    let opened = |text: &str| {
        session.open(&codax_core::request::Open { create: false, ..open_of(text, 0) }).expect("opens")
    };
    let (id, open_file) = create(&fs, ROOT, "f");
    let (h, object) = object_of(open_file);
    codax_os::object::write_all_at(&object, b"some", 5 * MIB).expect("written");
    fs.set(id, &Set { len: Some(8 * MIB), ..Set::default() }).expect("longer");
    let before = fs.attr(id).expect("attr");
    assert!(before.backed <= 2 * MIB);
    let sparse = |bytes: &[u8]| {
        let data = (5 * MIB) as usize..(5 * MIB) as usize + 4;
        bytes.len() as u64 == 8 * MIB
            && bytes.iter().enumerate().all(|(at, b)| if data.contains(&at) { *b != 0 } else { *b == 0 })
    };
    // Of a file that a program holds, and of one that nobody does.
    assert!(sparse(&read(&session, "/f")));
    assert_eq!(fs.attr(id), Ok(before));
    drop(object);
    fs.release(h);
    assert!(sparse(&read(&session, "/f")));
    assert_eq!(fs.attr(id), Ok(before));
    // Elsewhere than it is placed now: there is room there, too.
    session.move_file(&path("/f"), "dram", None, &mut |_| true).expect("moved");
    let file = opened("/f");
    session.raw(file.handle, true).expect("filled");
    session.raw_done(file.file);
    session.close(file.handle);
    assert_eq!((fs.attr(id).map(|a| a.backed), pool_of(&session, "/f")), (Ok(8 * MIB), vec![0]));
    assert!(sparse(&read(&session, "/f")));
    clean(&store);
    // More than there is room for.
    fs.set(id, &Set { len: Some(1 << 30), ..Set::default() }).expect("longer");
    let file = opened("/f");
    assert_eq!(kind(session.raw(file.handle, true)), ErrorKind::NoSpace);
    let (layout, _) = session.raw(file.handle, false).expect("to read");
    assert_eq!((layout.len, layout.runs.iter().map(|r| r.pages.bytes()).sum()), (1 << 30, 8 * MIB));
    session.raw_done(file.file);
    session.close(file.handle);
    clean(&store);
}

#[test]
fn a_file_in_two_objects_is_changed_at_random_while_parts_of_it_move() {
    const ROUNDS: u32 = 40;
    let rig = Rig::new();
    let store = rig.open();
    let fs = store.fs(true);
    let session = admin(&store);
    let opened = make(&session, "/f", 6 * MIB, "sim0");
    let id = opened.file;
    session.close(opened.handle);
    let part = |i: u64| (i % 4 * 2 * MIB, 2 * MIB);
    session.move_file(&path("/f"), "dram", Some(part(1)), &mut |_| true).expect("moved");
    let h = open(&fs, id).handle;
    let mut random = Random(5);
    for round in 0..ROUNDS {
        let moved = std::thread::scope(|scope| {
            let mover = scope.spawn(|| {
                let session = admin(&store);
                for i in 0..4 {
                    for (to, i) in [("dram", i), ("sim0", i + 1)] {
                        match session.move_file(&path("/f"), to, Some(part(i)), &mut |_| true) {
                            Ok(_) => {}
                            Err(e) if e.kind == ErrorKind::Invalid => {}
                            Err(e) => return Err(e),
                        }
                    }
                }
                Ok(())
            });
            for _ in 0..10 {
                change(&fs, h, id, &mut random);
            }
            mover.join().expect("no panic")
        });
        moved.expect("moved");
        assert_eq!(store.check(false).expect("check"), [], "in round {round}");
    }
    fs.release(h);
}

/// Writes, cuts, lengthens or punches somewhere.
fn change(fs: &Fs, h: FsHandle, id: FileId, random: &mut Random) {
    let len = fs.attr(id).expect("attr").len;
    let punch = Allocate { keep_size: true, punch: true, zero: false };
    match random.below(4) {
        0 => {
            let len = MIB + random.below(7 * MIB);
            fs.set(id, &Set { len: Some(len), ..Set::default() }).map(drop).expect("length");
        }
        1 => fs.allocate(h, random.below(len), 1 + random.below(9000), punch).expect("punched"),
        _ => {
            let bytes = vec![7; 1 + random.below(200_000) as usize];
            let off = random.below(len.min(7 * MIB));
            assert_eq!(fs.write(h, off, &bytes, false), Ok(bytes.len()));
        }
    }
}

/// The kernel has one object for all handles of a file, that of the first open: what is written later goes there, whatever came between.
#[test]
fn a_file_open_for_reading_keeps_its_object() {
    let rig = Rig::new();
    let store = rig.open();
    let fs = store.fs(true);
    let id = put_file(&fs, "f", &[1; 5000]);
    let read_only = || object_of(fs.open(id, true, false, WHO).expect("opens"));
    let (reader, served) = read_only();
    // Cut to nothing, and written again through the object that was registered first.
    let (writer, _) = object_of(fs.open(id, false, true, WHO).expect("opens"));
    fs.set(id, &Set { len: Some(0), ..Set::default() }).expect("cut");
    codax_os::object::write_all_at(&served, b"x", 0).expect("written");
    drop(served);
    fs.release(writer);
    fs.release(reader);
    assert_eq!(read_all(&fs, id), b"x");
    clean(&store);
    // Made longer by the library, it stays in the object that it has, wherever new files go.
    let (reader, served) = read_only();
    fs.set_xattr(id, b"user.codax.on", b"sim0", false, false).expect("set");
    let session = admin(&store);
    let opened =
        session.open(&codax_core::request::Open { create: false, ..open_of("/f", 0) }).expect("opens");
    session.set_len(opened.handle, 3 * MIB).expect("longer");
    assert_eq!(
        (codax_os::object::stat(&served).expect("stat").len, pool_of(&session, "/f")),
        (3 * MIB, vec![0])
    );
    // What is left of it once it is closed (a mapping; here a descriptor) counts, though nobody could write.
    fs.release(reader);
    assert!(fs.served(id).expect("served").why.contains("open so"));
    assert_eq!(kind(session.move_file(&path("/f"), "sim0", None, &mut |_| true)), ErrorKind::Busy);
    drop(served);
    session.move_file(&path("/f"), "sim0", None, &mut |_| true).expect("moved");
    session.close(opened.handle);
    clean(&store);
}

/// A mount whose connection dies leaves mappings behind: they count until they are gone.
#[test]
fn a_mount_that_ends_leaves_what_is_mapped_through_it_in_use() {
    let rig = Rig::new();
    let store = rig.open();
    for known in [false, true] {
        let fs = store.fs(true);
        let id = put_file(&fs, "f", &[1; 5000]);
        if known {
            fs.mounted_as(0xfeed);
        }
        let (_, object) = object_of(open(&fs, id));
        fs.close();
        let session = admin(&store);
        assert_eq!(kind(session.move_file(&path("/f"), "sim0", None, &mut |_| true)), ErrorKind::Busy);
        codax_os::object::write_all_at(&object, b"late", 0).expect("written");
        drop(object);
        session.move_file(&path("/f"), "sim0", None, &mut |_| true).expect("moved");
        assert_eq!(read_all(&store.fs(false), id)[..5], *b"late\x01");
        store.fs(false).unlink(ROOT, b"f").expect("unlinked");
    }
    clean(&store);
}

#[test]
fn what_was_written_before_a_kill_is_there_after_it() {
    let rig = Rig::new();
    let (empty, grown, cut, orphan, kept);
    {
        let store = rig.open();
        let fs = store.fs(true);
        let (id, open_empty) = create(&fs, ROOT, "empty");
        empty = id;
        let (_, first) = object_of(open_empty);
        grown = put_file(&fs, "grown", &[1; 5000]);
        let (_, second) = object_of(open(&fs, grown));
        codax_os::object::write_all_at(&second, &[2; 5000], 50_000).expect("written");
        cut = put_file(&fs, "cut", &[1; 50_000]);
        let (_, third) = object_of(open(&fs, cut));
        codax_os::object::set_len(&third, 100).expect("cut");
        let (id, open_orphan) = create(&fs, ROOT, "orphan");
        orphan = id;
        let (_, fourth) = object_of(open_orphan);
        codax_os::object::write_all_at(&fourth, &[4; 9000], 0).expect("written");
        fs.unlink(ROOT, b"orphan").expect("unlinked");
        kept = fourth;
        drop((first, second, third));
        // The daemon dies: nothing is released.
        std::mem::forget(fs);
        std::mem::forget(store);
    }
    let store = rig.open();
    let fs = store.fs(true);
    assert_eq!(fs.attr(empty).map(|a| (a.len, a.backed)), Ok((0, 0)));
    assert_eq!(fs.attr(grown).map(|a| (a.len, a.backed)), Ok((55_000, 4 * 4096)));
    assert_eq!(read_all(&fs, grown)[49_999..50_001], [0, 2]);
    assert_eq!(fs.attr(cut).map(|a| (a.len, a.backed)), Ok((100, 4096)));
    // Somebody still has the one without a name.
    assert_eq!(fs.attr(orphan).map(|a| (a.len, a.nlink)), Ok((9000, 0)));
    clean(&store);
    drop(kept);
    // Looked at, it is gone.
    let _ = fs.attr(orphan);
    assert_eq!(kind(fs.attr(orphan)), ErrorKind::NotFound);
    assert_eq!(used(&store), 5 * 4096);
    clean(&store);
    for name in ["empty", "grown", "cut"] {
        fs.unlink(ROOT, name.as_bytes()).expect("unlinked");
    }
    assert_eq!(used(&store), 0);
}

/// A kill comes between the journal, where a hole was punched or an end cut off, and the object.
#[test]
fn memory_that_a_kill_left_in_holes_goes_also_in_a_full_pool() {
    let rig = Rig::new();
    let (id, far);
    {
        let store = rig.open();
        let fs = store.fs(false);
        fs.set_xattr(ROOT, b"user.codax.on", b"sim0", false, false).expect("set");
        id = put_file(&fs, "f", &[1; 4096]);
        let len = 1 << 30;
        fs.set(id, &Set { len: Some(len), ..Set::default() }).expect("longer");
        far = put_file(&fs, "behind", &[3; 8192]);
        put_file(&fs, "full", &vec![2; 24 * MIB as usize]);
        std::mem::forget(fs);
        std::mem::forget(store);
    }
    let object = |id: FileId| {
        let name = rig.layout().pool("sim0").join(codax_engine::backing::object_name(id));
        std::fs::OpenOptions::new().write(true).open(name).expect("there")
    };
    codax_os::object::write_all_at(object(id), &[9; 5000], 100 * MIB).expect("room");
    codax_os::object::allocate(object(far), 4 * MIB, 4096).expect("room");
    let store = rig.open();
    let fs = store.fs(false);
    let h = open(&fs, id).handle;
    let mut buf = [1; 10];
    assert_eq!(fs.read(h, 100 * MIB, &mut buf), Ok(10));
    assert_eq!(buf, [0; 10]);
    clean(&store);
    // What it becomes when there is memory again is zeros, too.
    assert_eq!(fs.write(h, 100 * MIB + 4090, b"x", false), Ok(1));
    assert_eq!(fs.read(h, 100 * MIB, &mut buf), Ok(10));
    assert_eq!(buf, [0; 10]);
    fs.release(h);
    clean(&store);
}

#[test]
fn a_file_without_a_name_goes_with_its_last_handle() {
    let rig = Rig::new();
    let store = rig.open();
    for privileged in [true, false] {
        let fs = store.fs(privileged);
        let (id, first) = create(&fs, ROOT, "f");
        let second = open(&fs, id);
        if let How::Passthrough(object) = &first.how {
            codax_os::object::write_all_at(object, &[1; 5000], 0).expect("written");
        } else {
            assert_eq!(fs.write(first.handle, 0, &[1; 5000], false), Ok(5000));
        }
        fs.unlink(ROOT, b"f").expect("unlinked");
        let handles = [first.handle, second.handle];
        drop((first, second));
        fs.release(handles[0]);
        assert_eq!(fs.attr(id).map(|a| (a.nlink, a.len)), Ok((0, 5000)));
        fs.release(handles[1]);
        assert_eq!(kind(fs.attr(id)), ErrorKind::NotFound);
        assert_eq!(used(&store), 0);
        // What a mount leaves open is released when it ends.
        let (_, left) = create(&fs, ROOT, "left");
        drop(left);
        fs.close();
        assert_eq!(store.fs(false).unlink(ROOT, b"left"), Ok(()));
        assert_eq!(store.info().inodes, 1);
    }
    clean(&store);
}

/// A kernel that knows an inode may be asked of it after its last name has gone: by who is in a directory, has a pipe, or an `O_PATH` descriptor.
#[test]
fn what_a_kernel_still_knows_has_attributes_without_a_name() {
    let rig = Rig::new();
    let store = rig.open();
    let (fs, other) = (store.fs(true), store.fs(false));
    let dir = mkdir(&fs, ROOT, "d");
    let pipe = fs.make(ROOT, b"p", &new(NewKind::Fifo)).expect("made").id;
    let file = put_file(&fs, "f", b"bytes");
    for id in [dir, pipe, file] {
        fs.tell(id);
        fs.tell(id);
        other.tell(id);
    }
    fs.rmdir(ROOT, b"d").expect("removed");
    fs.unlink(ROOT, b"p").expect("removed");
    admin(&store).remove(&path("/f"), false).expect("removed");
    assert_eq!((used(&store), store.info().inodes), (0, 1), "nothing of it is left in the store");
    for id in [dir, pipe, file] {
        let set = Set { mode: Some(0o700), mtime: Some(Stamp::At(5)), ..Set::default() };
        let attr = fs.set(id, &set).expect("known");
        assert_eq!((attr.nlink, attr.mode, attr.mtime_ns, attr.backed), (0, 0o700, 5, 0));
        fs.set_xattr(id, b"user.a", b"one", false, false).expect("known");
        assert_eq!(other.xattr(id, b"user.a"), Ok(b"one".to_vec()));
        assert_eq!(kind(fs.open(id, true, true, WHO)), ErrorKind::NotFound);
        fs.statfs(id).expect("known");
    }
    assert_eq!((names(&fs, dir).len(), fs.parent(dir)), (0, Ok(dir)));
    assert_eq!(kind(fs.make(dir, b"x", &new(NewKind::Dir))), ErrorKind::NotFound);
    clean(&store);
    // Until all have forgotten it, by asking or by their end.
    [(dir, 1), (pipe, 2)].into_iter().for_each(|(id, times)| fs.forget(id, times));
    [dir, pipe].into_iter().for_each(|id| other.forget(id, 1));
    assert!(fs.attr(dir).is_ok() && other.attr(file).is_ok());
    assert_eq!(kind(fs.attr(pipe)), ErrorKind::NotFound);
    fs.close();
    assert_eq!((kind(other.attr(dir)), other.attr(file).map(|a| a.nlink)), (ErrorKind::NotFound, Ok(0)));
    drop((fs, other));
    assert_eq!(kind(store.fs(false).attr(file)), ErrorKind::NotFound);
    clean(&store);
}

#[test]
fn a_mount_hears_of_stores_through_a_mapping_when_the_file_is_closed() {
    let rig = Rig::new();
    let store = rig.open();
    let fs = store.fs(true);
    let id = put_file(&fs, "f", &[0; 4096]);
    while fs.take_change().is_some() {}
    let (h, object) = object_of(open(&fs, id));
    drop(object);
    fs.release(h);
    assert_eq!(fs.take_change(), None);
    let (h, object) = object_of(open(&fs, id));
    // As a store does it.
    codax_os::object::set_mtime(&object, i64::MAX / 2).expect("ours");
    drop(object);
    fs.release(h);
    assert_eq!(fs.take_change(), Some(Changed::Inode(id)));
    assert_eq!(fs.attr(id).map(|a| a.mtime_ns), Ok(i64::MAX / 2));
}

#[test]
fn groups_are_inherited_and_set_id_bits_go_where_they_must() {
    let rig = Rig::new();
    let store = rig.open();
    let fs = store.fs(false);
    let dir = mkdir(&fs, ROOT, "d");
    fs.set(dir, &Set { mode: Some(0o2775), gid: Some(50), ..Set::default() }).expect("set");
    let sub = fs.make(dir, b"sub", &new(NewKind::Dir)).expect("made");
    assert_eq!((sub.mode, sub.uid, sub.gid), (0o2755, 1000, 50));
    let file = fs.make(dir, b"f", &new(NewKind::File)).expect("made");
    assert_eq!((file.mode, file.gid), (0o755, 50));
    let mode = |mode| fs.set(file.id, &Set { mode: Some(mode), ..Set::default() }).map(|a| a.mode);
    assert_eq!(mode(0o6755), Ok(0o6755));
    let owned = fs.set(file.id, &Set { uid: Some(7), ..Set::default() }).expect("chown");
    assert_eq!((owned.mode, owned.uid, owned.gid), (0o755, 7, 50));
    // Without the right to run as the group, setgid means something else and stays.
    assert_eq!(mode(0o6745), Ok(0o6745));
    let h = open(&fs, file.id).handle;
    assert_eq!(fs.write(h, 0, b"x", false), Ok(1));
    assert_eq!(fs.attr(file.id).map(|a| a.mode), Ok(0o6745));
    assert_eq!(fs.write(h, 0, b"x", true), Ok(1));
    assert_eq!(fs.attr(file.id).map(|a| a.mode), Ok(0o2745));
    assert_eq!(mode(0o6755), Ok(0o6755));
    let cut = fs.set(file.id, &Set { len: Some(0), kill_suid: true, ..Set::default() }).expect("cut");
    assert_eq!((cut.mode, cut.len), (0o755, 0));
    fs.release(h);
}

#[test]
fn attributes_of_users_and_placement() {
    let rig = Rig::new();
    let store = rig.open();
    let fs = store.fs(true);
    let dir = mkdir(&fs, ROOT, "d");
    let set = |name: &str, value: &[u8]| fs.set_xattr(dir, name.as_bytes(), value, false, false);
    assert_eq!(kind(fs.xattr(dir, b"user.codax.on")), ErrorKind::NoData);
    assert_eq!(kind(set("user.codax.on", b"nowhere")), ErrorKind::Invalid);
    assert_eq!(kind(set("user.codax.other", b"x")), ErrorKind::Invalid);
    assert_eq!(kind(set("user.codax.extents", b"x")), ErrorKind::Invalid);
    assert_eq!(kind(set("system.posix_acl_access", b"x")), ErrorKind::NotSupported);
    set("user.codax.on", b"sim0,strict").expect("set");
    assert_eq!(fs.xattr(dir, b"user.codax.on"), Ok(b"sim0,strict".to_vec()));
    set("user.codax.prefer", b"sim0").expect("set");
    assert_eq!(fs.xattrs(dir), Ok(vec![b"user.codax.prefer".to_vec()]));
    let (id, file) = create(&fs, dir, "f");
    let (h, object) = object_of(file);
    codax_os::object::write_all_at(&object, &[1; 5000], 0).expect("written");
    assert_eq!(fs.xattr(id, b"user.codax.extents"), Ok(b"0 8192 sim0 0\n".to_vec()));
    drop(object);
    fs.release(h);
    assert_eq!(fs.xattrs(id), Ok(vec![]));
    fs.set_xattr(id, b"user.a", b"1", true, false).expect("set");
    assert_eq!(kind(fs.set_xattr(id, b"user.a", b"1", true, false)), ErrorKind::Exists);
    assert_eq!(kind(fs.set_xattr(id, b"user.b", b"1", false, true)), ErrorKind::NoData);
    assert_eq!(kind(fs.set_xattr(id, b"user.b", &[0; 65_536], false, false)), ErrorKind::NoSpace);
    assert_eq!(kind(fs.set_xattr(id, b"user.b", &[0; 65_537], false, false)), ErrorKind::TooBig);
    // Names without values end, too, while they can still be listed.
    let long = |i: usize| format!("user.{i:0>250}").into_bytes();
    let many = (0..).find(|i| fs.set_xattr(id, &long(*i), b"", false, false).is_err()).expect("an end");
    assert_eq!(kind(fs.set_xattr(id, &long(many), b"", false, false)), ErrorKind::NoSpace);
    assert!(many == fs.xattrs(id).expect("listed").len() - 1 && many == 255, "{many}");
    (0..many).for_each(|i| fs.remove_xattr(id, &long(i)).expect("removed"));
    drop(fs);
    drop(store);
    let store = rig.open();
    let fs = store.fs(true);
    assert_eq!(fs.xattr(id, b"user.a"), Ok(b"1".to_vec()));
    fs.remove_xattr(id, b"user.a").expect("removed");
    fs.remove_xattr(dir, b"user.codax.prefer").expect("removed");
    assert_eq!((fs.xattrs(id), fs.xattrs(dir)), (Ok(vec![]), Ok(vec![])));
    assert_eq!(kind(fs.remove_xattr(id, b"user.a")), ErrorKind::NoData);
    clean(&store);
}

#[test]
fn a_mount_hears_what_others_change_and_not_what_it_does() {
    let rig = Rig::new();
    let store = rig.open();
    let (fs, other) = (store.fs(false), store.fs(false));
    let id = put_file(&fs, "f", b"x");
    let session = admin(&store);
    session.mkdir(&path("/d"), 0o755, None).expect("mkdir");
    assert_eq!(fs.take_change(), Some(Changed::Inode(ROOT)));
    let made = fs.lookup(ROOT, b"d").expect("there").id;
    assert_eq!(fs.take_change(), Some(Changed::Inode(made)));
    assert_eq!(fs.take_change(), Some(Changed::Entry(ROOT, b"d".to_vec())));
    other.set(id, &Set { mode: Some(0), ..Set::default() }).expect("set");
    assert_eq!(fs.take_change(), Some(Changed::Inode(id)));
    fs.close();
    assert_eq!(fs.take_change(), None);
    assert!(other.take_change().is_some());
}

#[test]
fn a_hundred_thousand_entries_are_listed_and_removed_one_after_another() {
    const FILES: u32 = 100_000;
    let rig = Rig::new();
    let store = rig.open();
    let fs = store.fs(false);
    let dir = mkdir(&fs, ROOT, "d");
    for i in 0..FILES {
        fs.make(dir, format!("{i:06}").as_bytes(), &new(NewKind::File)).expect("made");
    }
    // Each entry is looked at once, and removing while reading loses none.
    let (mut after, mut seen): (Option<Vec<u8>>, u32) = (None, 0);
    loop {
        let part = fs.entries(dir, after.as_deref(), 1000).expect("entries");
        let Some((last, _)) = part.last() else { break };
        after = Some(last.clone());
        for (name, _) in &part {
            assert_eq!(name, format!("{seen:06}").as_bytes());
            seen += 1;
            fs.unlink(dir, name).expect("unlinked");
        }
    }
    assert_eq!((seen, names(&fs, dir).len()), (FILES, 0));
    fs.rmdir(ROOT, b"d").expect("removed");
}

#[test]
fn the_library_s_files_are_the_mount_s() {
    let rig = Rig::new();
    let store = rig.open();
    let session = admin(&store);
    let opened = make(&session, "/f", 3 * MIB + 77, "sim0");
    for privileged in [false, true] {
        let fs = store.fs(privileged);
        let attr = fs.lookup(ROOT, b"f").expect("there");
        let h = open(&fs, attr.id);
        assert_eq!(matches!(h.how, How::Passthrough(_)), privileged);
        if let How::Passthrough(object) = &h.how {
            let mut byte = [0];
            codax_os::object::read_at(object.as_fd(), &mut byte, MIB).expect("read");
            assert_eq!(byte[0], byte_at("/f", MIB));
        }
        let bytes = {
            let mut bytes = vec![0; attr.len as usize];
            assert_eq!(fs.read(h.handle, 0, &mut bytes), Ok(bytes.len()));
            bytes
        };
        assert!(bytes.iter().enumerate().all(|(i, b)| *b == byte_at("/f", i as u64)));
        let handle = h.handle;
        drop(h);
        fs.release(handle);
    }
    session.close(opened.handle);
    assert_intact(&session, "/f", 3 * MIB + 77);
    session.drain("sim0", codax_engine::DrainOptions::default(), &mut |_| true).expect("drained");
    assert_intact(&session, "/f", 3 * MIB + 77);
    clean(&store);
}

#[test]
fn a_pool_that_programs_fill_is_full_and_a_drain_waits_for_who_has_files_open() {
    let rig = Rig::new();
    let store = rig.open();
    let fs = store.fs(true);
    let session = admin(&store);
    fs.set_xattr(ROOT, b"user.codax.on", b"sim0", false, false).expect("set");
    let (id, file) = create(&fs, ROOT, "f");
    let (h, object) = object_of(file);
    if store.info().pools[1].huge {
        // Only a mount of its own keeps programs within the pool.
        let chunk = vec![5; MIB as usize];
        let full = (0..40).position(|i| codax_os::object::write_all_at(&object, &chunk, i * MIB).is_err());
        assert_eq!(full, Some(32));
        assert_eq!(fs.attr(id).map(|a| (a.len, a.backed)), Ok((32 * MIB, 32 * MIB)));
        assert_eq!(fs.statfs(id).map(|s| s.free), Ok(0));
        let more = session.open(&codax_core::request::Open { placement: on("sim0"), ..open_of("/more", 1) });
        assert_eq!(kind(more), ErrorKind::NoSpace);
        fs.set(id, &Set { len: Some(0), ..Set::default() }).expect("cut");
    }
    clean(&store);
    let drain = || session.drain("sim0", codax_engine::DrainOptions::default(), &mut |_| true);
    let refused = drain().expect_err("held");
    assert_eq!(refused.kind, ErrorKind::Busy);
    assert!(refused.message.contains("/f is held: who opened it as process 1 "), "{refused}");
    // That process may be another by now: nobody is killed for having its number.
    // It ends with its input, whatever happens here.
    let input = std::process::Stdio::piped();
    let mut bystander = std::process::Command::new("cat").stdin(input).spawn().expect("starts");
    let (other, second) =
        object_of(fs.open(id, true, true, Who { pid: bystander.id(), ..WHO }).expect("opens"));
    drop(second);
    let evict = codax_engine::DrainOptions { evict: true, ..codax_engine::DrainOptions::default() };
    assert_eq!(kind(session.drain("sim0", evict, &mut |_| true)), ErrorKind::Busy);
    let alive = bystander.try_wait().expect("ours").is_none();
    bystander.kill().and_then(|()| bystander.wait()).expect("ended");
    assert!(alive, "it holds nothing");
    fs.release(other);
    // Its handle is closed, and something (here a descriptor) is left of it.
    fs.release(h);
    codax_os::object::write_all_at(&object, b"late", 0).expect("written");
    assert_eq!(drain().expect_err("held").kind, ErrorKind::Busy);
    drop(object);
    drain().expect("drained");
    assert_eq!(read_all(&store.fs(false), id), b"late");
    assert_eq!(pool_of(&session, "/f"), [0]);
    // Nothing new on it: who writes is told.
    let (_, other) = create(&fs, ROOT, "g");
    assert!(matches!(other.how, How::Daemon));
    assert_eq!(kind(fs.write(other.handle, 0, b"x", false)), ErrorKind::DeviceState);
    assert_eq!(kind(fs.append(other.handle, b"x", false)), ErrorKind::DeviceState);
    assert_eq!(kind(fs.allocate(other.handle, 0, 5, Allocate::default())), ErrorKind::DeviceState);
    let room = fs.statfs(ROOT).expect("statfs");
    assert_eq!((room.free > 0, room.available), (true, 0));
    fs.release(other.handle);
    clean(&store);
}
