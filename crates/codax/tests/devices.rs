//! Moves between objects and where the kernel write-protects nothing, what is durable there, and bytes that go through the daemon.
//!
//! Everywhere that is objects of which the fake says so. `CODAX_TEST_DEVDAX` and `CODAX_TEST_HMEM` name devices in devdax mode, on an NVDIMM and not, whose
//! first bytes are the tests' to change, and `CODAX_TEST_FSDAX` a directory on a filesystem that is mounted with `dax`: where they are set, it is those too.

mod fake;

use codax::{Access, ErrorKind, File, Mapping, OpenOptions, PutOptions, Store};
use codax_core::extent::PoolRun;
use codax_core::{FileId, PageRange, PoolId};
use codax_wire::Request;
use fake::Fake;
use fake::device::{Device, UNIT};
use fake::traffic::{assert_counted, assert_sleepers_wake, count, wait_until_in_a_fault, watch};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const LEN: u64 = 4 * UNIT;
const UNIT_PAGES: u64 = UNIT / 4096;
const UNIT_BYTES: usize = 2 << 20;

/// Where pool 1 is.
#[derive(Clone, Debug)]
enum On {
    Objects,
    /// Files on a filesystem that is mounted with `dax`.
    Files(PathBuf),
    Device {
        path: PathBuf,
        persistent: bool,
    },
}

impl On {
    fn is_persistent(&self) -> bool {
        matches!(self, Self::Files(_) | Self::Device { persistent: true, .. })
    }
}

/// All that is here.
fn places() -> Vec<On> {
    let device = |variable, persistent| {
        std::env::var_os(variable).map(|path| On::Device { path: path.into(), persistent })
    };
    let files = std::env::var_os("CODAX_TEST_FSDAX").map(|dir| On::Files(dir.into()));
    let named = [device("CODAX_TEST_DEVDAX", true), device("CODAX_TEST_HMEM", false), files];
    [On::Objects].into_iter().chain(named.into_iter().flatten()).collect()
}

struct Setting {
    fake: Fake,
    store: Store,
    file: File,
    id: FileId,
    /// Files of all tests have the same frames of a device.
    _turn: Option<MutexGuard<'static, ()>>,
}

fn setting(on: &On, len: u64) -> Setting {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = || TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let turn = matches!(on, On::Device { .. }).then(turn);
    let fake = match on {
        On::Files(dir) => Fake::start_with(dir),
        On::Objects | On::Device { .. } => Fake::start(),
    };
    {
        let mut state = fake.state();
        state.closed = true;
        state.block = UNIT_PAGES;
        state.persistent.extend(on.is_persistent().then_some(1));
        if let On::Device { path, .. } = on {
            state.device = Some(Device::real(path));
        }
    }
    let id = fake.state().make(Some("/f"), len);
    let store = Store::connect(fake.dir()).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&store, "/f").unwrap();
    Setting { fake, store, file, id, _turn: turn }
}

fn on_each(run: impl Fn(Setting, &On)) {
    for on in places() {
        println!("on {on:?}");
        run(setting(&on, LEN), &on);
    }
}

#[test]
fn no_store_is_lost_and_no_reader_goes_back() {
    on_each(|s, _| {
        let mappings: Vec<_> = (0..2).map(|_| s.file.map(.., Access::ReadWrite).unwrap()).collect();
        let reader = s.file.map(.., Access::ReadOnly).unwrap();
        let stop = AtomicBool::new(false);
        let addresses: Vec<_> = mappings.iter().map(Mapping::as_ptr).collect();
        std::thread::scope(|scope| {
            let counters: Vec<_> = (0..4)
                .map(|column| {
                    let (mapping, stop) = (&mappings[column % 2], &stop);
                    scope.spawn(move || count(mapping, column, stop))
                })
                .collect();
            scope.spawn(|| watch(&[&mappings[0], &reader, &mappings[1]], &stop));
            for round in 0..12 {
                // Also chunks that lie in several places of the device.
                let units = [1, 2, 4][usize::from(round % 3)];
                s.fake.move_file(s.id, (round + 1) % 2, units * UNIT_PAGES);
            }
            stop.store(true, Ordering::Relaxed);
            for (column, counter) in counters.into_iter().enumerate() {
                let rounds = counter.join().unwrap();
                assert!(rounds > 0);
                mappings.iter().chain([&reader]).for_each(|mapping| assert_counted(mapping, column, rounds));
            }
        });
        assert_eq!(addresses, mappings.iter().map(Mapping::as_ptr).collect::<Vec<_>>());
    });
}

#[test]
fn a_single_mapping_is_moved_without_hold() {
    on_each(|s, _| {
        let mapping = s.file.map(.., Access::ReadWrite).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let counter = scope.spawn(|| count(&mapping, 3, &stop));
            for round in 0..8 {
                // A chunk in several places, that is laid over what is write-protected only.
                s.fake.state().closed = round % 2 == 1;
                s.fake.move_file(s.id, (round + 1) % 2, 2 * UNIT_PAGES);
            }
            stop.store(true, Ordering::Relaxed);
            assert_counted(&mapping, 3, counter.join().unwrap());
        });
    });
}

#[test]
fn what_is_rolled_back_goes_on_where_it_was() {
    on_each(|s, _| {
        s.fake.move_file(s.id, 1, UNIT_PAGES);
        let write = s.file.map(.., Access::ReadWrite).unwrap();
        let read = s.file.map(.., Access::ReadOnly).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let counter = scope.spawn(|| count(&write, 0, &stop));
            scope.spawn(|| watch(&[&write, &read], &stop));
            for round in 0..10 {
                let mover = s.fake.mover(s.id, 0, 2 * UNIT_PAGES);
                assert_eq!(mover.begin(), 2);
                mover.freeze(0);
                mover.copy(0);
                mover.freeze(1);
                if round % 2 == 0 {
                    mover.hold(0);
                }
                mover.roll_back(0);
                mover.roll_back(1);
                if round % 4 == 0 {
                    // The same chunk can be tried again.
                    mover.freeze(0);
                    mover.roll_back(0);
                }
                mover.end();
            }
            stop.store(true, Ordering::Relaxed);
            assert_counted(&read, 0, counter.join().unwrap());
        });
        // All of it can still be moved.
        s.fake.move_file(s.id, 0, UNIT_PAGES);
    });
}

#[test]
fn a_chunk_that_is_frozen_closed_lets_no_reader_in() {
    on_each(|s, _| {
        s.fake.move_file(s.id, 1, UNIT_PAGES);
        for access in [Access::ReadWrite, Access::ReadOnly] {
            let mapping = s.file.map(.., access).unwrap();
            let mover = s.fake.mover(s.id, 0, UNIT_PAGES);
            mover.begin();
            mover.freeze(1);
            // Everything elsewhere goes on.
            assert_eq!(mapping.memory().load_u64(8), 0);
            let (open, reader) = (AtomicBool::new(false), AtomicU32::new(0));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    reader.store(codax_os::process::thread_id(), Ordering::SeqCst);
                    assert_eq!(mapping.memory().load_u64(UNIT_BYTES + 8), 0);
                    assert!(open.load(Ordering::SeqCst));
                });
                wait_until_in_a_fault(&reader);
                open.store(true, Ordering::SeqCst);
                mover.roll_back(1);
            });
            mover.end();
        }
    });
}

/// Kills the daemon when the first chunk is switched and the second has come as far as `steps` says; how many units the client says are moved.
fn die_after(on: &On, steps: usize) -> u64 {
    let s = setting(on, LEN);
    s.fake.move_file(s.id, 1, UNIT_PAGES);
    let write = s.file.map(.., Access::ReadWrite).unwrap();
    let read = s.file.map(.., Access::ReadOnly).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let counter = scope.spawn(|| count(&write, 1, &stop));
        scope.spawn(|| watch(&[&write, &read], &stop));
        let mover = s.fake.mover(s.id, 0, UNIT_PAGES);
        mover.begin();
        let to_do: [&dyn Fn(u32); 4] = [
            &|chunk| mover.freeze(chunk),
            &|chunk| mover.copy(chunk),
            &|chunk| mover.commit(chunk),
            &|chunk| mover.switch(chunk),
        ];
        to_do.iter().for_each(|step| step(0));
        to_do[..steps].iter().for_each(|step| step(1));
        s.fake.die();
        let before = read.memory().load_u64(8);
        let since = Instant::now();
        while read.memory().load_u64(8) < before + 2 {
            assert!(since.elapsed() < Duration::from_secs(20));
        }
        s.fake.serve();
        s.fake.until("the client attaches again", |state| state.attached.len() == 2);
        // What the client shows is what the daemon has, and moves go on.
        s.fake.move_file(s.id, 1, UNIT_PAGES);
        s.fake.move_file(s.id, 0, 2 * UNIT_PAGES);
        stop.store(true, Ordering::Relaxed);
        let rounds = counter.join().unwrap();
        assert_counted(&write, 1, rounds);
        assert_counted(&read, 1, rounds);
    });
    let runs = s.fake.state().attached[1][0].runs.clone();
    let run = |start, count, pool| PoolRun { pages: PageRange::new(start, count), pool: PoolId(pool) };
    let moved = runs[0].pages.count.0;
    assert_eq!(runs, [run(0, moved, 0), run(moved, LEN / 4096 - moved, 1)]);
    moved / UNIT_PAGES
}

#[test]
fn a_daemon_that_dies_leaves_each_chunk_where_the_commit_word_says() {
    for on in places() {
        for (steps, units) in [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2)] {
            assert_eq!(die_after(&on, steps), units, "{on:?}, {steps} steps");
        }
    }
}

#[test]
fn who_sleeps_on_a_futex_is_woken() {
    on_each(|s, _| {
        let mapping = s.file.map(.., Access::ReadWrite).unwrap();
        let _other = s.file.map(.., Access::ReadOnly).unwrap();
        let word = mapping.memory().atomic_u32(UNIT_BYTES + 128);
        assert_sleepers_wake(word, (2, 16), |round| {
            s.fake.move_file(s.id, u16::from(round % 2 == 0), 2 * UNIT_PAGES);
        });
    });
}

#[test]
fn mappings_may_be_dropped_at_every_step() {
    on_each(|s, _| {
        let keep = s.file.map(.., Access::ReadWrite).unwrap();
        keep.memory().fill(0, keep.len(), 9);
        for step in 0..5 {
            let mut gone = Some((
                s.file.map(.., Access::ReadWrite).unwrap(),
                s.file.map(UNIT + 5..3 * UNIT + 7, Access::ReadOnly).unwrap(),
            ));
            let mover = s.fake.mover(s.id, u16::from(step % 2 == 0), 2 * UNIT_PAGES);
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
                mover.commit(chunk);
                mover.switch(chunk);
            }
            mover.end();
            drop(gone);
            let mut bytes = vec![0; keep.len()];
            keep.memory().read_at(0, &mut bytes);
            assert!(bytes.iter().all(|&byte| byte == 9), "step {step}");
        }
    });
}

/// The last block reaches beyond what a device has of the file.
#[test]
fn a_file_that_ends_within_a_block_moves() {
    const END: u64 = UNIT + UNIT / 2 + 100;
    for on in places() {
        let s = setting(&on, END);
        s.fake.state().block = 4 * UNIT_PAGES;
        let mapping = s.file.map(.., Access::ReadWrite).unwrap();
        let tail = s.file.map(END - 10.., Access::ReadOnly).unwrap();
        for round in 1..=4 {
            mapping.memory().store_u64(UNIT_BYTES - 8, round);
            mapping.memory().fill(mapping.len() - 10, 10, u8::try_from(round).unwrap());
            s.fake.move_file(s.id, u16::from(round % 2 == 1), 4 * UNIT_PAGES);
            assert_eq!(mapping.memory().load_u64(UNIT_BYTES - 8), round);
            assert_eq!(tail.memory().read::<10>(0), [u8::try_from(round).unwrap(); 10]);
            // It is mapped there too.
            let again = s.file.map(UNIT.., Access::ReadOnly).unwrap();
            assert_eq!(again.memory().read::<1>(again.len() - 1), [u8::try_from(round).unwrap()]);
            let mover = s.fake.mover(s.id, u16::from(round % 2 == 0), 4 * UNIT_PAGES);
            mover.begin();
            mover.freeze(0);
            mover.roll_back(0);
            mover.end();
            assert_eq!(tail.memory().read::<10>(0), [u8::try_from(round).unwrap(); 10]);
        }
    }
}

#[test]
fn only_what_lies_in_persistent_pools_is_persisted() {
    on_each(|s, on| {
        let lasting = on.is_persistent() || matches!(on, On::Objects);
        if lasting {
            s.fake.state().persistent = vec![1];
        }
        s.fake.move_file(s.id, 1, UNIT_PAGES);
        let mapping = s.file.map(5.., Access::ReadWrite).unwrap();
        mapping.memory().store_u64(UNIT_BYTES + 3, 7);
        let len = mapping.len() as u64;
        if lasting {
            for range in [0..len, 0..1, UNIT - 6..UNIT + 6, len - 1..len, 3..3] {
                mapping.persist(range).unwrap();
            }
            mapping.persist(..).unwrap();
        } else {
            let refused = mapping.persist(..).unwrap_err();
            assert_eq!(refused.kind, ErrorKind::NotSupported);
            assert!(refused.message.contains("pool 1"), "{refused}");
        }
        assert_eq!(mapping.persist(0..=len).unwrap_err().kind, ErrorKind::Invalid);
        // Moved half-way to where nothing lasts.
        let mover = s.fake.mover(s.id, 0, 2 * UNIT_PAGES);
        mover.begin();
        for step in [fake::Mover::freeze, fake::Mover::copy, fake::Mover::commit, fake::Mover::switch] {
            step(&mover, 0);
        }
        mover.end();
        let refused = mapping.persist(..).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::NotSupported);
        assert!(refused.message.contains("/f lies on pool "), "{refused}");
        assert_eq!(mapping.persist(2 * UNIT..).is_ok(), lasting);
        s.fake.move_file(s.id, 1, UNIT_PAGES);
        assert_eq!(mapping.persist(..).is_ok(), lasting);
        assert_eq!(mapping.memory().load_u64(UNIT_BYTES + 3), 7);
    });
}

#[test]
fn persisting_waits_for_a_chunk_on_the_move() {
    on_each(|s, on| {
        s.fake.state().persistent = vec![0, 1];
        s.fake.move_file(s.id, 1, UNIT_PAGES);
        let mapping = s.file.map(.., Access::ReadWrite).unwrap();
        for switched in [false, true] {
            let mover = s.fake.mover(s.id, 0, UNIT_PAGES);
            mover.begin();
            mover.freeze(1);
            mover.copy(1);
            // Elsewhere it waits for nothing.
            mapping.persist(..UNIT).unwrap();
            let (done, thread) = (AtomicBool::new(false), AtomicU32::new(0));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    thread.store(codax_os::process::thread_id(), Ordering::SeqCst);
                    mapping.persist(..).unwrap();
                    done.store(true, Ordering::SeqCst);
                });
                wait_until_in_a_fault(&thread);
                assert!(!done.load(Ordering::SeqCst), "{on:?}");
                if switched {
                    mover.commit(1);
                    mover.switch(1);
                } else {
                    mover.roll_back(1);
                }
            });
            mover.end();
        }
    });
}

#[test]
fn persisting_goes_on_under_moves() {
    on_each(|s, _| {
        s.fake.state().persistent = vec![0, 1];
        let mapping = s.file.map(.., Access::ReadWrite).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let persisting = scope.spawn(|| {
                let mut rounds = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    rounds += 1;
                    mapping.memory().store_u64(3 * UNIT_BYTES, rounds);
                    mapping.persist(2 * UNIT..).unwrap();
                }
                rounds
            });
            for round in 0..6 {
                s.fake.move_file(s.id, (round + 1) % 2, UNIT_PAGES);
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(mapping.memory().load_u64(3 * UNIT_BYTES), persisting.join().unwrap());
        });
    });
}

/// A file of which a half lies on a device that this process can't open.
fn half_away() -> (Setting, Vec<u8>) {
    let s = setting(&On::Objects, LEN);
    let mapping = s.file.map(.., Access::ReadWrite).unwrap();
    let bytes: Vec<u8> = (0..LEN).map(|at| u8::try_from(at % 251).unwrap()).collect();
    mapping.memory().write_at(0, &bytes);
    let mover = s.fake.mover(s.id, 1, 2 * UNIT_PAGES);
    mover.begin();
    for step in [fake::Mover::freeze, fake::Mover::copy, fake::Mover::commit, fake::Mover::switch] {
        step(&mover, 0);
    }
    mover.end();
    drop(mapping);
    s.fake.state().device = Some(Device::closed());
    (s, bytes)
}

fn passed(state: &mut fake::State) -> (usize, usize) {
    let reads = state.heard.iter().filter(|heard| matches!(heard, Request::Read { .. })).count();
    let writes = state.heard.iter().filter(|heard| matches!(heard, Request::Write { .. })).count();
    state.heard.clear();
    (reads, writes)
}

#[test]
fn who_may_not_map_a_device_is_told_and_reads_and_writes_through_the_daemon() {
    let (s, mut bytes) = half_away();
    let refused = s.file.map(.., Access::ReadOnly).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotSupported);
    assert!(
        refused.message.starts_with("/f lies on /dev/dax.none, which can't be opened here: "),
        "{refused}"
    );
    assert!(
        refused.message.ends_with("read and write it with File::read_at and write_at, or through a mount")
    );
    // Every mapping that the daemon counted is given back.
    s.fake.until("an unmap", |state| state.heard.iter().any(|heard| matches!(heard, Request::Unmap { .. })));
    passed(&mut s.fake.state());

    s.file.write_at(b"across", 2 * UNIT - 3).unwrap();
    let big = vec![7; 200_001];
    s.file.write_at(&big, 77).unwrap();
    bytes[2 * UNIT_BYTES - 3..2 * UNIT_BYTES + 3].copy_from_slice(b"across");
    bytes[77..77 + big.len()].fill(7);
    assert_eq!(passed(&mut s.fake.state()), (0, 1 + 3));
    let mut back = vec![0; 300_000];
    assert_eq!(s.file.read_at(&mut back, 50).unwrap(), back.len());
    assert!(back == bytes[50..50 + back.len()]);
    assert_eq!(passed(&mut s.fake.state()), (4, 0));
    assert_eq!(s.file.read_at(&mut back, LEN - 9).unwrap(), 9);
    assert!(back[..9] == bytes[4 * UNIT_BYTES - 9..]);
    assert_eq!(s.file.read_at(&mut back, LEN).unwrap(), 0);
    assert_eq!(s.file.read_at(&mut [], 0).unwrap(), 0);
    s.file.write_at(&[], LEN + 5).unwrap();
    assert_eq!(s.file.write_at(&[1, 2], LEN - 1).unwrap_err().kind, ErrorKind::Invalid);
    s.file.sync().unwrap();
    assert!(s.fake.state().heard.iter().any(|heard| matches!(heard, Request::Sync(_))));

    let mut got = Vec::new();
    passed(&mut s.fake.state());
    assert_eq!(s.store.get("/f", &mut got).unwrap(), LEN);
    assert!(got == bytes);
    // Only what lies on the device goes through the daemon.
    let (reads, _) = passed(&mut s.fake.state());
    let packets = |bytes: usize| bytes.div_ceil(codax_wire::BYTES_MAX);
    assert_eq!(reads, 4 * packets(1 << 20));
}

#[test]
fn what_is_put_on_a_device_goes_through_the_daemon() {
    let s = setting(&On::Objects, LEN);
    s.fake.state().device = Some(Device::closed());
    s.fake.state().first = 1;
    let bytes: Vec<u8> = (0..3_000_001_u32).map(|at| u8::try_from(at % 241).unwrap()).collect();
    passed(&mut s.fake.state());
    s.store.put(&mut &bytes[..], "/g", &PutOptions::default()).unwrap();
    let (_, writes) = passed(&mut s.fake.state());
    assert!(writes > bytes.len() / codax_wire::BYTES_MAX, "{writes}");
    let mut got = Vec::new();
    assert_eq!(s.store.get("/g", &mut got).unwrap(), bytes.len() as u64);
    assert!(got == bytes);
}

#[test]
fn who_can_t_open_a_device_has_nothing_moved_there() {
    let s = setting(&On::Objects, LEN);
    let mapping = s.file.map(.., Access::ReadWrite).unwrap();
    s.fake.state().device = Some(Device::closed());
    let mover = s.fake.mover(s.id, 1, UNIT_PAGES);
    let refused = mover.try_begin()[0].refused.clone().unwrap();
    assert!(refused.starts_with("can't open /dev/dax.none, which it has to map: "), "{refused}");
    mover.end();
    mapping.memory().store_u64(0, 1);
    // Nor does it matter to who maps nothing.
    drop(mapping);
    let mover = s.fake.mover(s.id, 1, UNIT_PAGES);
    assert_eq!(mover.begin(), 0);
    mover.end();
}
