//! The steps of a live move, against threads that read and write all the time.
#![forbid(unsafe_code)]

use codax_os::area::{Area, HUGE, Region};
use codax_os::copy::SourceMap;
use codax_os::object::{self, ObjectDir};
use codax_os::uffd::{Event, Uffd};
use codax_os::{event, futex, process};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PAGE: usize = 4096;
/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A userfaultfd with the thread that reads it.
struct Reader {
    uffd: Arc<Uffd>,
    stop: Arc<OwnedFd>,
    faults: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
    kernel_faults: bool,
}

impl Reader {
    fn start() -> Self {
        let (uffd, kernel_faults) = Uffd::new(None).unwrap();
        let (uffd, stop) = (Arc::new(uffd), Arc::new(event::new().unwrap()));
        let faults = Arc::new(AtomicU32::new(0));
        let thread = thread::spawn({
            let (uffd, stop, faults) = (Arc::clone(&uffd), Arc::clone(&stop), Arc::clone(&faults));
            move || {
                process::block_signals().unwrap();
                loop {
                    match uffd.next_event(&*stop).unwrap() {
                        Event::Fault { .. } => faults.fetch_add(1, SeqCst),
                        Event::Remap { .. } => 0,
                        Event::Stopped => return,
                    };
                }
            }
        });
        Self { uffd, stop, faults, thread: Some(thread), kernel_faults }
    }

    /// Waits until so many faults were seen.
    fn await_faults(&self, count: u32) {
        await_that(|| self.faults.load(SeqCst) >= count);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        event::signal(&*self.stop).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn await_that(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Two allocated objects, `old` and `new`.
fn objects(len: usize) -> (TempDir, OwnedFd, OwnedFd) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let objects = ObjectDir::open(dir.path()).unwrap();
    let make = |name| {
        let fd = objects.create(name, len as u64).unwrap();
        object::allocate(&fd, 0, len as u64).unwrap();
        fd
    };
    let (old, new) = (make("old"), make("new"));
    (dir, old, new)
}

fn mapped(fd: &OwnedFd, len: usize, write: bool) -> Region {
    let region = Region::reserve(len).unwrap();
    region.place(0, len, fd, 0, write).unwrap();
    region
}

/// One process's whole part of a live move, with a read-only mapping beside the writable one: nothing is lost, and no
/// reader sees a counter go back.
#[test]
fn counters_survive_a_move_under_writers_and_readers() {
    const LEN: usize = 4 * HUGE;
    const CHUNK: usize = HUGE / 2;
    let reader = Reader::start();
    let (_dir, old, new) = objects(LEN);
    let (writable, read_only) = (mapped(&old, LEN, true), mapped(&old, LEN, false));
    let stop = AtomicBool::new(false);
    let seen_back = AtomicU32::new(0);
    let written = thread::scope(|scope| {
        let writers: Vec<_> = (0..3).map(|_| scope.spawn(|| increment_until(&writable, &stop))).collect();
        scope.spawn(|| watch_until(&read_only, &stop, &seen_back));
        thread::sleep(Duration::from_millis(20));

        let source = SourceMap::new(&old, LEN as u64).unwrap();
        let regions = [&writable, &read_only];
        let staged = [true, false].map(|write| Area::object(&new, 0, LEN, write).unwrap());
        reader.uffd.register_wp(writable.base(), LEN).unwrap();
        for off in (0..LEN).step_by(CHUNK) {
            reader.uffd.write_protect(writable.base() + off, CHUNK, true).unwrap();
            assert_eq!(source.copy_to(off as u64, CHUNK as u64, &new).unwrap(), CHUNK as u64);
            for region in regions {
                let placeholder = Area::placeholder(&reader.uffd, CHUNK).unwrap();
                placeholder.move_over(0, CHUNK, region, off).unwrap();
            }
            for (write, (region, staged)) in [true, false].into_iter().zip(regions.into_iter().zip(&staged)) {
                staged.populate(off, CHUNK, write).unwrap();
                staged.move_over(off, CHUNK, region, off).unwrap();
                reader.uffd.wake(region.base() + off, CHUNK).unwrap();
            }
        }
        reader.uffd.unregister(writable.base(), LEN).unwrap();
        thread::sleep(Duration::from_millis(20));
        stop.store(true, SeqCst);
        writers.into_iter().map(|w| w.join().unwrap()).sum::<u64>()
    });
    let result = mapped(&new, LEN, false);
    let found: u64 = (0..LEN).step_by(PAGE).map(|off| result.memory().load_u64(off)).sum();
    assert_eq!(found, written, "lost writes");
    assert_eq!(seen_back.load(SeqCst), 0, "stale reads");
    assert!(written > 0);
    // Nothing but the new object is mapped there, and none of it goes to children.
    drop((writable, read_only, result));
    assert!(object::try_write_lease(&old).unwrap() && object::try_write_lease(&new).unwrap());
}

fn increment_until(region: &Region, stop: &AtomicBool) -> u64 {
    let (mut count, mut x) = (0, 88_172_645_463_325_252_u64);
    while !stop.load(SeqCst) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let page = usize::try_from(x).unwrap() % (region.len() / PAGE);
        region.memory().atomic_u64(page * PAGE).fetch_add(1, SeqCst);
        count += 1;
    }
    count
}

fn watch_until(region: &Region, stop: &AtomicBool, seen_back: &AtomicU32) {
    let mut newest = vec![0; region.len() / PAGE];
    while !stop.load(SeqCst) {
        for (page, newest) in newest.iter_mut().enumerate() {
            let now = region.memory().atomic_u64(page * PAGE).load(SeqCst);
            if now < *newest {
                seen_back.fetch_add(1, SeqCst);
            }
            *newest = now;
        }
    }
}

#[test]
fn a_frozen_chunk_holds_writers_until_it_is_rolled_back() {
    let reader = Reader::start();
    let (_dir, old, _new) = objects(2 * PAGE);
    let region = mapped(&old, 2 * PAGE, true);
    reader.uffd.register_wp(region.base(), 2 * PAGE).unwrap();
    reader.uffd.write_protect(region.base(), PAGE, true).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            region.memory().store_u64(PAGE, 1);
            region.memory().store_u64(8, 7);
            done.store(true, SeqCst);
        });
        reader.await_faults(1);
        assert_eq!(region.memory().load_u64(8), 0, "reads go on");
        assert_eq!(region.memory().load_u64(PAGE), 1, "other pages go on");
        assert!(!done.load(SeqCst));
        reader.uffd.write_protect(region.base(), PAGE, false).unwrap();
    });
    assert_eq!(region.memory().load_u64(8), 7);
}

#[test]
fn a_placeholder_holds_readers_of_a_read_only_mapping_until_it_is_rolled_back() {
    let reader = Reader::start();
    let (_dir, old, _new) = objects(3 * PAGE);
    object::write_all_at(&old, &[5; 3 * PAGE], 0).unwrap();
    let region = mapped(&old, 3 * PAGE, false);
    let alias = Area::duplicate(&region, 0, 3 * PAGE).unwrap();
    assert_eq!(alias.base() % HUGE, region.base() % HUGE);
    let placeholder = Area::placeholder(&reader.uffd, 3 * PAGE).unwrap();
    placeholder.move_over(PAGE, PAGE, &region, PAGE).unwrap();
    assert!(placeholder.move_over(PAGE, PAGE, &region, PAGE).is_err(), "that part is gone");
    thread::scope(|scope| {
        let read = scope.spawn(|| region.memory().load_u8(PAGE));
        reader.await_faults(1);
        assert_eq!(region.memory().load_u8(0), 5);
        assert!(!read.is_finished());
        alias.duplicate_over(PAGE, PAGE, &region, PAGE).unwrap();
        reader.uffd.wake(region.base() + PAGE, PAGE).unwrap();
        assert_eq!(read.join().unwrap(), 5);
    });
    // What is left of the placeholder is unmapped, and not what moved away.
    drop((placeholder, alias));
    assert_eq!(region.memory().read::<2>(2 * PAGE - 1), [5, 5]);
}

#[test]
fn a_system_call_into_a_held_chunk_waits() {
    let reader = Reader::start();
    if !reader.kernel_faults {
        println!("skipped: a_system_call_into_a_held_chunk_waits: no right to hold system calls");
        return;
    }
    let (_dir, old, new) = objects(PAGE);
    let region = mapped(&old, PAGE, true);
    reader.uffd.register_wp(region.base(), PAGE).unwrap();
    reader.uffd.write_protect(region.base(), PAGE, true).unwrap();
    thread::scope(|scope| {
        // The kernel asks for the page as if to write it, and gets the fault.
        let held = scope.spawn(|| futex::wait(region.memory().atomic_u32(0), 0, None));
        reader.await_faults(1);
        assert!(!held.is_finished());
        object::write_all_at(&new, &2u32.to_le_bytes(), 0).unwrap();
        Area::object(&new, 0, PAGE, true).unwrap().move_over(0, PAGE, &region, 0).unwrap();
        reader.uffd.wake(region.base(), PAGE).unwrap();
        // It looked at the new object's word, which is not what it waits for.
        assert_eq!(held.join().unwrap().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    });
}

#[test]
fn a_futex_sleeper_is_found_and_woken_through_the_old_object() {
    let (_dir, old, new) = objects(2 * PAGE);
    let region = mapped(&old, 2 * PAGE, true);
    let alias = Area::duplicate(&region, 0, 2 * PAGE).unwrap();
    let range = [(region.base() + PAGE, region.base() + 2 * PAGE)];
    let tid = AtomicU32::new(0);
    thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            tid.store(process::thread_id(), SeqCst);
            futex::wait(region.memory().atomic_u32(PAGE + 8), 0, None)
        });
        await_that(|| !futex::sleepers(&range).unwrap().is_empty());
        let mut settler = futex::Settler::new(&[process::thread_id()]).unwrap();
        Area::object(&new, 0, 2 * PAGE, true).unwrap().move_over(0, 2 * PAGE, &region, 0).unwrap();

        let found = futex::sleepers(&range).unwrap();
        assert_eq!(found, [futex::Sleeper { tid: tid.load(SeqCst), addr: region.base() + PAGE + 8 }]);
        assert_eq!(futex::sleepers(&[(region.base(), region.base() + PAGE)]).unwrap(), []);
        assert_eq!(futex::wake(region.base() + PAGE + 8, 10).unwrap(), 0, "keyed by the new object");
        assert_eq!(futex::wake(alias.base() + PAGE + 8, 10).unwrap(), 1, "keyed by the old object");
        sleeper.join().unwrap().unwrap();
        await_that(|| settler.settled().unwrap());
    });
    assert!(futex::wake(region.base() + 1, 1).is_err());
}

#[test]
fn a_thread_that_runs_at_the_switch_is_waited_for_until_it_has_run() {
    let (stop, started) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            started.store(process::thread_id(), SeqCst);
            while !stop.load(SeqCst) {
                std::hint::spin_loop();
            }
        });
        await_that(|| started.load(SeqCst) != 0);
        let mut settler = futex::Settler::new(&[process::thread_id()]).unwrap();
        assert!(settler.pending().any(|tid| tid == started.load(SeqCst)));
        await_that(|| settler.settled().unwrap());
        stop.store(true, SeqCst);
    });
}

#[test]
fn what_holds_an_object_is_not_inherited_by_children() {
    let (_dir, old, new) = objects(HUGE);
    let region = mapped(&old, HUGE, true);
    let staged = Area::object(&new, 0, HUGE, true).unwrap();
    staged.move_over(0, HUGE / 2, &region, 0).unwrap();
    let alias = Area::duplicate(&region, HUGE / 2, HUGE / 2).unwrap();
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    for at in [region.base(), region.base() + HUGE / 2, staged.base() + HUGE / 2, alias.base()] {
        let of_this = smaps.lines().skip_while(|line| !line.starts_with(&format!("{at:x}-")));
        let flags = of_this.skip(1).find(|line| line.starts_with("VmFlags:")).unwrap();
        assert!(flags.split_whitespace().any(|flag| flag == "dc"), "{at:x}: {flags}");
    }
}

/// A move of more than one of the kernel's mappings may leave a gap where they were to be, in which a thread ends with a signal.
#[test]
fn an_area_is_moved_in_pieces_that_the_kernel_has_as_one_mapping() {
    const END: usize = 2 * HUGE + 3 * PAGE;
    let (_dir, old, new) = objects(END);
    let region = Region::reserve(4 * HUGE).unwrap();
    region.place(0, 4 * HUGE, &old, 0, true).unwrap();
    region.memory().fill(0, END, 1);
    // Behind the object's end the kernel is to make no huge page: from the one on that the end is in.
    let staged = Area::object(&new, 0, 4 * HUGE, true).unwrap();
    let pieces = [(0, 2 * HUGE), (2 * HUGE, 2 * HUGE)];
    assert_eq!(staged.left(0, 4 * HUGE), pieces);
    assert_eq!(staged.left(HUGE, 2 * HUGE), [(HUGE, HUGE), (2 * HUGE, HUGE)]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                assert!((0..END).step_by(PAGE).all(|at| region.memory().load_u8(at) <= 1));
            }
        });
        for (at, len) in pieces {
            staged.move_over(at, len, &region, at).unwrap();
            assert_eq!(staged.left(0, at + len), []);
        }
        stop.store(true, SeqCst);
    });
    assert!((0..END).step_by(PAGE).all(|at| region.memory().load_u8(at) == 0));
    // What is beside pieces of objects is nobody's, and moved for itself as well.
    let piece =
        |at: usize, fd_off| codax_os::area::Piece { at: at as u64, fd: &old, fd_off, len: HUGE as u64 };
    let both = [piece(HUGE, 0), piece(2 * HUGE, HUGE as u64)];
    let staged = Area::assembled(&both, HUGE as u64..4 * HUGE as u64, true, false).unwrap();
    assert_eq!(staged.left(0, 3 * HUGE), [(0, HUGE), (HUGE, HUGE), (2 * HUGE, HUGE)]);
}

#[test]
fn addresses_follow_the_offset_in_the_file() {
    let (_dir, old, _new) = objects(HUGE);
    let region = Region::reserve_for(PAGE + 1, 3 * PAGE as u64).unwrap();
    assert_eq!((region.base() % HUGE, region.len()), (3 * PAGE, 2 * PAGE));
    let area = Area::object(&old, 5 * PAGE as u64, PAGE, false).unwrap();
    assert_eq!(area.base() % HUGE, 5 * PAGE);
    assert!(Region::reserve(0).is_err() && Region::reserve(usize::MAX).is_err());
    assert!(region.place(PAGE, 2 * PAGE, &old, 0, true).is_err());
    assert!(region.place(0, PAGE, &old, 1, true).is_err());
    assert!(area.move_over(0, PAGE, &region, 2 * PAGE).is_err());
}

#[test]
fn memory_copies_in_and_out_at_any_offset_and_length() {
    let (_dir, old, _new) = objects(PAGE);
    let region = mapped(&old, PAGE, true);
    let memory = region.memory();
    for len in [0, 1, 7, 8, 9, 31, 127, 128, 129, 1000] {
        for off in [0, 1, 5, 8, 63] {
            let bytes: Vec<u8> = (0..len).map(|i| u8::try_from((i + off) % 251).unwrap()).collect();
            memory.fill(0, PAGE, 0xEE);
            memory.write_at(off, &bytes);
            let mut back = vec![0; len];
            memory.read_at(off, &mut back);
            assert_eq!(back, bytes);
            assert_eq!(memory.load_u8(off + len), 0xEE, "wrote too much");
        }
    }
    memory.store_u32(2, 0x0102_0304);
    assert_eq!((memory.load_u16(2), memory.load_u8(5), memory.read::<2>(4)), (0x0304, 1, [2, 1]));
    memory.atomic_u64(8).store(9, SeqCst);
    assert_eq!(memory.part(8, 8).load_u64(0), 9);
    let cells = memory.cells::<u32>(8, 4);
    cells.store(3, 77);
    assert_eq!((cells.iter().nth(3), memory.load_u32(20)), (Some(77), 77));
    assert!(std::panic::catch_unwind(|| cells.load(4)).is_err());
    assert!(std::panic::catch_unwind(|| region.memory().cells::<u64>(8, PAGE / 8)).is_err());
    assert!(std::panic::catch_unwind(|| region.memory().cells::<u64>(0, usize::MAX)).is_err());
    assert!(std::panic::catch_unwind(|| region.memory().cells::<u64>(4, 1)).is_err());
    for outside in [PAGE - 7, PAGE, usize::MAX] {
        assert!(std::panic::catch_unwind(|| region.memory().load_u64(outside)).is_err());
    }
    assert!(std::panic::catch_unwind(|| region.memory().atomic_u64(4).load(SeqCst)).is_err());
    assert!(std::panic::catch_unwind(|| region.memory().part(8, 8).load_u8(8)).is_err());
}
