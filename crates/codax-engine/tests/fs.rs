//! The store as a mount sees it: names, bytes, holes, what programs write to objects by themselves, and restarts.

// Files of some MiB, and single bytes on purpose.
#![allow(clippy::cast_possible_truncation)]

mod fs_support;
mod store_support;

use codax_core::info::ServedBy;
use codax_core::namespace::Kind;
use codax_core::{ErrorKind, ROOT};
use codax_engine::fs::{Allocate, Changed, Fs, How, NewKind, RenameFlags, Set};
use fs_support::*;
use std::os::fd::AsFd;

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
    store.end();
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
    store.end();
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
    store.end();
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
    store.end();
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
