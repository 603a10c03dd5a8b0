//! Moves under a client's mappings, driven step by step by a stand-in for the daemon.

mod fake;

use codax::{Access, ErrorKind, File, Mapping, OpenOptions, Store};
use codax_core::PageRange;
use codax_core::extent::PoolRun;
use codax_core::{FileId, PoolId};
use codax_wire::Request;
use fake::Fake;
use fake::traffic::{PAGES, assert_counted, assert_sleepers_wake, count, wait_until_in_a_fault, watch};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

const PAGE: usize = 4096;
const CHUNK: u64 = 16;
const LEN: u64 = (PAGE * PAGES) as u64;

fn open(fake: &Fake, store: &Store, name: &str) -> (File, FileId) {
    let id = fake.state().make(Some(name), LEN);
    let file = OpenOptions::new().read(true).write(true).open(store, name).unwrap();
    assert_eq!(file.id(), id);
    (file, id)
}

fn setup() -> (Fake, Store, File, FileId) {
    let fake = Fake::start();
    let store = Store::connect(fake.dir()).unwrap();
    let (file, id) = open(&fake, &store, "/f");
    (fake, store, file, id)
}

#[test]
fn no_store_is_lost_and_no_reader_goes_back_with_several_mappings() {
    let (fake, _store, file, id) = setup();
    let mappings: Vec<_> = (0..2).map(|_| file.map(.., Access::ReadWrite).unwrap()).collect();
    let readers: Vec<_> = (0..2).map(|_| file.map(.., Access::ReadOnly).unwrap()).collect();
    let stop = AtomicBool::new(false);
    let addresses: Vec<_> = mappings.iter().map(Mapping::as_ptr).collect();
    std::thread::scope(|scope| {
        let counters: Vec<_> = (0..4)
            .map(|column| {
                let (mapping, stop) = (&mappings[column % 2], &stop);
                scope.spawn(move || count(mapping, column, stop))
            })
            .collect();
        let all: Vec<_> = mappings.iter().chain(&readers).collect();
        for _ in 0..2 {
            let (all, stop) = (all.clone(), &stop);
            scope.spawn(move || watch(&all, stop));
        }
        for round in 0..30 {
            fake.move_file(id, (round + 1) % 2, [CHUNK, 7, 64][usize::from(round % 3)]);
        }
        stop.store(true, Ordering::Relaxed);
        for (column, counter) in counters.into_iter().enumerate() {
            let rounds = counter.join().unwrap();
            assert!(rounds > 0);
            for mapping in mappings.iter().chain(&readers) {
                assert_counted(mapping, column, rounds);
            }
        }
    });
    assert_eq!(addresses, mappings.iter().map(Mapping::as_ptr).collect::<Vec<_>>());
}

#[test]
fn a_single_mapping_is_moved_without_hold() {
    let (fake, store, file, id) = setup();
    let mapping = file.map(.., Access::ReadWrite).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let counters: Vec<_> = (0..2)
            .map(|column| {
                scope.spawn({
                    let (mapping, stop) = (&mapping, &stop);
                    move || count(mapping, column, stop)
                })
            })
            .collect();
        for round in 0..20 {
            fake.move_file(id, (round + 1) % 2, CHUNK);
        }
        stop.store(true, Ordering::Relaxed);
        for (column, counter) in counters.into_iter().enumerate() {
            assert_counted(&mapping, column, counter.join().unwrap());
        }
    });
    assert!(store.waits().count > 0);
    assert!(store.waits().us_max >= store.waits().us_p99);
}

#[test]
fn what_is_rolled_back_goes_on_in_the_old_object() {
    let (fake, _store, file, id) = setup();
    let write = file.map(.., Access::ReadWrite).unwrap();
    let read = file.map(.., Access::ReadOnly).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let counter = scope.spawn(|| count(&write, 0, &stop));
        scope.spawn(|| watch(&[&write, &read], &stop));
        for round in 0..20 {
            let mover = fake.mover(id, 1, CHUNK);
            assert_eq!(mover.begin(), 2);
            mover.freeze(0);
            mover.copy(0);
            mover.freeze(1);
            if round % 2 == 0 {
                mover.hold(0);
            }
            mover.roll_back(0);
            mover.roll_back(1);
            // One that never began.
            mover.roll_back(2);
            if round % 4 == 0 {
                // The same chunk can be tried again.
                mover.freeze(0);
                mover.copy(0);
                mover.hold(0);
                mover.roll_back(0);
            }
            mover.end();
        }
        stop.store(true, Ordering::Relaxed);
        assert_counted(&read, 0, counter.join().unwrap());
    });
    // All of it can still be moved.
    fake.move_file(id, 1, CHUNK);
}

#[test]
fn a_thread_waits_only_for_the_chunk_it_touches() {
    let (fake, store, file, id) = setup();
    let write = file.map(.., Access::ReadWrite).unwrap();
    let read = file.map(.., Access::ReadOnly).unwrap();
    let mover = fake.mover(id, 1, CHUNK);
    mover.begin();
    mover.freeze(0);
    mover.copy(0);
    // Reads of what is frozen go on, and so does everything elsewhere.
    assert_eq!(write.memory().load_u64(0), 0);
    assert_eq!(read.memory().load_u64(0), 0);
    write.memory().store_u64(PAGE * 40, 1);
    let reached = AtomicBool::new(false);
    let (writer, reader) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            writer.store(codax_os::process::thread_id(), Ordering::SeqCst);
            write.memory().store_u64(8, 7);
            assert!(reached.load(Ordering::SeqCst));
        });
        wait_until_in_a_fault(&writer);
        mover.hold(0);
        scope.spawn(|| {
            reader.store(codax_os::process::thread_id(), Ordering::SeqCst);
            assert_eq!(read.memory().load_u64(16), 0);
            assert!(reached.load(Ordering::SeqCst));
        });
        wait_until_in_a_fault(&reader);
        std::thread::sleep(Duration::from_millis(20));
        reached.store(true, Ordering::SeqCst);
        mover.commit(0);
        mover.switch(0);
    });
    assert_eq!(read.memory().load_u64(8), 7);
    for chunk in mover.each().skip(1) {
        mover.freeze(chunk);
        mover.copy(chunk);
        mover.hold(chunk);
        mover.commit(chunk);
        mover.switch(chunk);
    }
    mover.end();
    let waits = store.waits();
    assert_eq!(waits.count, 2, "{waits:?}");
    assert!(waits.us_max >= 20_000, "{waits:?}");
}

/// Kills the daemon when the first chunk is switched and the second one has come as far as `steps` says, and returns what the client said when the
/// daemon was back.
fn die_after(steps: usize) -> Vec<PoolRun> {
    let (fake, _store, file, id) = setup();
    let write = file.map(.., Access::ReadWrite).unwrap();
    let read = file.map(.., Access::ReadOnly).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let counter = scope.spawn(|| count(&write, 1, &stop));
        scope.spawn(|| watch(&[&write, &read], &stop));
        let mover = fake.mover(id, 1, CHUNK);
        mover.begin();
        let to_do: [&dyn Fn(u32); 5] = [
            &|chunk| mover.freeze(chunk),
            &|chunk| mover.copy(chunk),
            &|chunk| mover.hold(chunk),
            &|chunk| mover.commit(chunk),
            &|chunk| mover.switch(chunk),
        ];
        to_do.iter().for_each(|step| step(0));
        if steps > 0 {
            // The one after it is frozen ahead, as the store does.
            mover.freeze(2);
        }
        to_do[..steps].iter().for_each(|step| step(1));
        fake.die();
        // It goes on without a daemon.
        let before = read.memory().load_u64(8);
        let since = Instant::now();
        while read.memory().load_u64(8) < before + 2 {
            assert!(since.elapsed() < Duration::from_secs(10));
        }
        assert_eq!(file.len().unwrap_err().kind, ErrorKind::NoDaemon);
        fake.serve();
        fake.until("the client attaches again", |state| state.attached.len() == 2);
        // What the client shows is what the daemon has, and moves go on, also to and fro.
        fake.move_file(id, 0, CHUNK);
        fake.move_file(id, 1, 13);
        stop.store(true, Ordering::Relaxed);
        let rounds = counter.join().unwrap();
        assert_counted(&write, 1, rounds);
        assert_counted(&read, 1, rounds);
    });
    // The file is opened again by name.
    assert_eq!(file.len().unwrap(), LEN);
    let attached = fake.state().attached[1].clone();
    assert_eq!((attached.len(), attached[0].file, attached[0].mappings), (1, id, 2));
    assert!(attached[0].write);
    attached[0].runs.clone()
}

fn moved(pages: u64) -> Vec<PoolRun> {
    let run = |start, count, pool| PoolRun { pages: PageRange::new(start, count), pool: PoolId(pool) };
    vec![run(0, pages, 1), run(pages, PAGES as u64 - pages, 0)]
}

#[test]
fn a_daemon_that_dies_before_commit_leaves_the_chunk_where_it_was() {
    for steps in 0..4 {
        assert_eq!(die_after(steps), moved(CHUNK), "{steps} steps");
    }
}

#[test]
fn a_daemon_that_dies_after_commit_leaves_the_chunk_where_it_went() {
    for steps in 4..6 {
        assert_eq!(die_after(steps), moved(2 * CHUNK), "{steps} steps");
    }
}

#[test]
fn mappings_may_be_dropped_at_every_step() {
    let (fake, _store, file, id) = setup();
    let keep = file.map(.., Access::ReadWrite).unwrap();
    keep.memory().fill(0, keep.len(), 9);
    for step in 0..6 {
        let mut gone =
            Some((file.map(.., Access::ReadWrite).unwrap(), file.map(.., Access::ReadOnly).unwrap()));
        let mover = fake.mover(id, u16::from(step % 2 == 0), 32);
        let mut at = 0;
        let mut next = || {
            if at == step {
                gone = None;
            }
            at += 1;
        };
        next();
        assert_eq!(mover.begin(), if step == 0 { 1 } else { 3 });
        for chunk in mover.each() {
            next();
            mover.freeze(chunk);
            next();
            mover.copy(chunk);
            mover.hold(chunk);
            next();
            mover.commit(chunk);
            mover.switch(chunk);
        }
        mover.end();
        drop(gone);
        let mut bytes = vec![0; keep.len()];
        keep.memory().read_at(0, &mut bytes);
        assert!(bytes.iter().all(|&byte| byte == 9), "step {step}");
    }
    fake.until("all but one mapping are gone", |state| {
        state.heard.iter().filter(|heard| matches!(heard, Request::Unmap { .. })).count() == 12
    });
}

#[test]
fn a_mapping_that_is_made_while_a_move_begins_shows_what_the_move_made_of_it() {
    let (fake, _store, file, id) = setup();
    let first = file.map(.., Access::ReadWrite).unwrap();
    std::thread::scope(|scope| {
        fake.state().hold_maps = true;
        let second = scope.spawn(|| file.map(.., Access::ReadWrite).unwrap());
        std::thread::sleep(Duration::from_millis(20));
        let mover = fake.mover(id, 1, CHUNK);
        assert_eq!(mover.begin(), 1);
        mover.freeze(0);
        mover.copy(0);
        // The layout that the client gets now is old in a moment.
        fake.state().hold_maps = false;
        std::thread::sleep(Duration::from_millis(20));
        mover.hold(0);
        mover.commit(0);
        mover.switch(0);
        assert!(!second.is_finished());
        mover.end();
        let second = second.join().unwrap();
        second.memory().store_u64(0, 5);
        assert_eq!(first.memory().load_u64(0), 5);
        second.memory().store_u64(PAGE * 50, 6);
        assert_eq!(first.memory().load_u64(PAGE * 50), 6);
        // Both take part in the next one.
        let mover = fake.mover(id, 0, CHUNK);
        assert_eq!(mover.begin(), 2);
        mover.end();
    });
}

#[test]
fn parts_of_a_file_move_with_it() {
    let (fake, _store, file, id) = setup();
    let whole = file.map(.., Access::ReadWrite).unwrap();
    // From the middle of a page to the middle of another, across chunks.
    let (start, end) = (PAGE as u64 * 10 + 100, PAGE as u64 * 20 + 7);
    let part = file.map(start..end, Access::ReadWrite).unwrap();
    assert_eq!(part.len() as u64, end - start);
    part.memory().write_at(0, b"first");
    part.memory().write_at(part.len() - 4, b"last");
    for to in [1, 0, 1] {
        fake.move_file(id, to, CHUNK);
        assert_eq!(&whole.memory().read::<5>(PAGE * 10 + 100), b"first");
        assert_eq!(&whole.memory().read::<4>(PAGE * 20 + 3), b"last");
        whole.memory().store_u64(PAGE * 15, u64::from(to) + 40);
        assert_eq!(part.memory().load_u64(PAGE * 5 - 100), u64::from(to) + 40);
    }
    for bad in [0..0, LEN..LEN + 1, 0..LEN + 1, u64::MAX - 1..u64::MAX] {
        assert_eq!(file.map(bad, Access::ReadOnly).unwrap_err().kind, ErrorKind::Invalid);
    }
    assert_eq!(file.map(..=u64::MAX, Access::ReadOnly).unwrap_err().kind, ErrorKind::Invalid);
}

#[test]
fn who_sleeps_on_a_futex_in_moved_memory_is_woken() {
    let (fake, _store, file, id) = setup();
    let mapping = file.map(.., Access::ReadWrite).unwrap();
    let _other = file.map(.., Access::ReadOnly).unwrap();
    let word = mapping.memory().atomic_u32(PAGE * 3);
    assert_sleepers_wake(word, (3, 40), |round| {
        fake.move_file(id, u16::from(round % 2 == 0), CHUNK);
    });
}

#[test]
fn what_is_pinned_is_refused_until_it_is_unpinned() {
    let (fake, _store, file, id) = setup();
    let mapping = file.map(..4096, Access::ReadWrite).unwrap();
    let pin = mapping.pin().unwrap();
    // Also by a daemon that was started since and knows nothing of it.
    fake.die();
    fake.serve();
    fake.until("the client attaches again", |state| state.attached.len() == 2);
    let mover = fake.mover(id, 1, CHUNK);
    let acks = mover.try_begin();
    assert_eq!(acks[0].refused.as_deref(), Some("pinned for DMA"));
    mover.end();
    drop(pin);
    fake.move_file(id, 1, CHUNK);
    // The new daemon gave no pin, so none is given back.
    assert!(!fake.state().heard.contains(&Request::Unpin(codax_core::request::PinId(1))));
    drop(mapping.pin().unwrap());
    assert!(fake.state().heard.contains(&Request::Unpin(codax_core::request::PinId(1))));
}

#[test]
fn a_file_that_was_replaced_while_the_daemon_was_away_is_not_taken_for_the_old_one() {
    let (fake, store, file, _) = setup();
    assert_eq!(file.len().unwrap(), LEN);
    fake.die();
    assert_eq!(file.len().unwrap_err().kind, ErrorKind::NoDaemon);
    fake.serve();
    assert_eq!(file.len().unwrap(), LEN);
    fake.die();
    fake.serve();
    fake.state().make(Some("/f"), 5);
    assert_eq!(file.len().unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(File::open(&store, "/f").unwrap().len().unwrap(), 5);
    assert_eq!(File::open(&store, "/none").unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn unmaps_while_the_daemon_is_away_are_counted_right() {
    let (fake, store, file, id) = setup();
    let one = file.map(.., Access::ReadWrite).unwrap();
    let two = file.map(.., Access::ReadWrite).unwrap();
    let (_, three) = OpenOptions::new().read(true).open_mapped(&store, "/f", .., Access::ReadOnly).unwrap();
    fake.die();
    drop(two);
    fake.serve();
    fake.until("the client attaches again", |state| state.attached.len() == 2);
    assert_eq!(fake.state().attached[1][0].mappings, 2);
    drop(three);
    fake.until("an unmap", |state| state.heard.iter().any(|heard| matches!(heard, Request::Unmap { .. })));
    let mover = fake.mover(id, 1, CHUNK);
    assert_eq!((mover.begin(), mover.mappings()), (1, 1));
    mover.end();
    drop(one);
}

#[test]
fn a_client_that_maps_nothing_has_no_threads_and_one_that_ends_leaves_none() {
    let (fake, store, file, _) = setup();
    let threads = || {
        let names = std::fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("codax-")).count()
    };
    // Other tests of this binary have threads too, so only this client's own behaviour can be asked for.
    assert!(fake.state().attached.is_empty());
    let mapping = file.map(.., Access::ReadOnly).unwrap();
    // A thread gives itself its name when it first runs.
    for _ in 0..10_000 {
        if threads() >= 2 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(threads() >= 2);
    assert_eq!(fake.state().attached.len(), 1);
    drop((store, file));
    assert_eq!(mapping.memory().load_u64(0), 0);
    drop(mapping);
    // The sockets are closed: the fake's session has ended, and its end of the control socket is closed by nobody but us.
    let control = fake.state().controls[0].clone();
    assert!(control.recv::<codax_core::live::MoverAck>().unwrap().is_none());
}

#[test]
fn files_are_put_with_all_bytes_or_not_at_all_and_got_back() {
    let (fake, store, _file, _) = setup();
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|i| i.to_le_bytes()[usize::from(i % 3 == 0)]).collect();
    for (name, len, known) in [
        ("/a", 0, None),
        ("/b", 10, Some(10)),
        ("/c", 1 << 20, None),
        ("/d", 4_999_999, Some(4_999_999)),
        ("/e", 5_000_000, None),
        ("/g", 3_000_000, Some(7)),
    ] {
        let options = codax::PutOptions { known_len: known, ..Default::default() };
        assert_eq!(store.put(&mut &bytes[..len], name, &options).unwrap(), len as u64);
        let mut got = Vec::new();
        assert_eq!(store.get(name, &mut got).unwrap(), len as u64);
        assert!(got == bytes[..len], "{name}");
        assert_eq!(store.put(&mut &bytes[..len], name, &options).unwrap_err().kind, ErrorKind::Exists);
        let id = fake.state().names[name.as_bytes()];
        assert_eq!(fake.state().files[&id].len, len as u64);
    }
    let replace = codax::PutOptions { replace: true, ..Default::default() };
    store.put(&mut &bytes[..3], "/e", &replace).unwrap();
    let mut got = Vec::new();
    assert_eq!(store.get("/e", &mut got).unwrap(), 3);
    // A source that fails half-way leaves no name and no handle.
    struct Broken(usize);
    impl std::io::Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0 += 1;
            if self.0 > 3 { Err(std::io::Error::other("unplugged")) } else { Ok(buffer.len()) }
        }
    }
    let closed =
        |state: &fake::State| state.heard.iter().filter(|heard| matches!(heard, Request::Close(_))).count();
    // Handles are closed without an answer: what is answered now was asked after that.
    let _ = store.stat("/e");
    let before = closed(&fake.state());
    assert!(store.put(&mut Broken(0), "/h", &replace).unwrap_err().message.contains("unplugged"));
    assert!(!fake.state().names.contains_key(&b"/h"[..]));
    fake.until("the handle is closed", |state| closed(state) == before + 1);
}
