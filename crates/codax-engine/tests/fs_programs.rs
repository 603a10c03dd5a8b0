//! Files of a store that programs write to by themselves, through objects that mounts were given: taken in, settled, found again after a kill.

// Files of some MiB, and single bytes on purpose.
#![allow(clippy::cast_possible_truncation)]

mod fs_support;
mod store_support;

use codax_core::{ErrorKind, FileId, ROOT};
use codax_engine::fs::{Allocate, Attr, Changed, Fs, FsHandle, How, NewKind, Set, Stamp, Who};
use fs_support::*;

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
