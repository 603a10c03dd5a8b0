//! Copies of, and looks at, memory that is cut off meanwhile. In a program of their own: the model checker of other tests wants SIGBUS for itself.
#![allow(unsafe_code)]
//! Unsafe code: looks at mappings that these tests cut themselves.

use codax_os::area::Region;
use codax_os::guard::Guard;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A file of four pages, mapped.
fn four_pages() -> (Guard, File, Region) {
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.set_len(4 * 4096).unwrap();
    let region = Region::reserve_in(4 * 4096, 0, 4096).unwrap();
    region.place(0, 4 * 4096, file.as_fd(), 0, true).unwrap();
    (Guard::install().unwrap(), file, region)
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_page_that_is_cut_off_ends_a_look_and_nothing_else() {
    let (guard, file, region) = four_pages();
    let memory = region.memory();
    memory.fill(0, memory.len(), 3);
    let (first, last) = (memory.part(0, 2 * 4096), memory.part(2 * 4096, 2 * 4096));
    let sum = |views| {
        let mut sum = 0;
        let add = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        // SAFETY: sums of bytes; the one of a call that was left is dropped.
        let done = unsafe { guard.look(views, &mut |one, two| sum = add(one) + 2 * add(two)) };
        done.then_some(sum)
    };
    let none = memory.part(0, 0);
    for _ in 0..3 {
        assert_eq!(sum([first, last]), Some(9 * 8192));
        assert_eq!(sum([last, none]), Some(3 * 8192));
        file.set_len(2 * 4096).unwrap();
        assert_eq!([sum([first, last]), sum([last, none]), sum([memory, none])], [None; 3]);
        assert_eq!([sum([first, none]), sum([first, first])], [Some(3 * 8192), Some(9 * 8192)]);
        // A copy in between ends by itself, whatever may be missing to the call that it is in.
        let mut copied = 1;
        // SAFETY: nothing of what is called has anything to drop or depends on a byte.
        let looked =
            unsafe { guard.look([last, none], &mut |_, _| copied = guard.read(last, 0, &mut [0; 64])) };
        assert!(looked && copied == 0);
        file.set_len(4 * 4096).unwrap();
        last.fill(0, last.len(), 3);
    }
    let threads = std::thread::scope(|scope| {
        let both = [[first, none], [none, last]].map(|views| scope.spawn(move || sum(views)));
        both.map(|thread| thread.join().unwrap())
    });
    assert_eq!(threads, [Some(3 * 8192), Some(6 * 8192)]);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_panic_in_a_look_is_the_caller_s() {
    let guard = Guard::install().unwrap();
    let region = Region::reserve_in(4096, 0, 4096).unwrap();
    let view = region.memory().part(0, 0);
    let told = std::panic::catch_unwind(|| {
        // SAFETY: it loads nothing.
        unsafe { guard.look([view, view], &mut |_, _| std::panic::resume_unwind(Box::new(7))) }
    });
    assert_eq!(told.unwrap_err().downcast_ref(), Some(&7));
    // SAFETY: as above.
    assert!(unsafe { guard.look([view, view], &mut |_, _| ()) });
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_look_while_others_cut_ends_or_sees_all() {
    let guard = Guard::install().unwrap();
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    let len = 64 * 4096;
    file.set_len(len).unwrap();
    let len = usize::try_from(len).unwrap();
    let region = Region::reserve_in(len, 0, 4096).unwrap();
    region.place(0, len, file.as_fd(), 0, false).unwrap();
    let memory = region.memory();
    let (looks, done) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Each once while a look goes on, somewhere.
            for pages in (0..64).cycle() {
                for len in [pages * 4096, 64 * 4096] {
                    let before = looks.load(Ordering::Relaxed);
                    file.set_len(len).unwrap();
                    while looks.load(Ordering::Relaxed) == before {
                        if done.load(Ordering::Relaxed) {
                            return;
                        }
                        std::thread::yield_now();
                    }
                }
            }
        });
        let (mut whole, mut left) = (0, 0);
        while whole < 100 || left < 100 {
            let mut sum = None;
            let mut count = |one: &[u8], two: &[u8]| {
                sum = Some(one.iter().chain(two).map(|byte| u64::from(*byte)).sum::<u64>());
            };
            let halves = [memory.part(0, len / 2), memory.part(len / 2, len / 2)];
            // SAFETY: a sum; the count of a call that was left is dropped.
            let looked = unsafe { guard.look(halves, &mut count) };
            if looked {
                assert_eq!(sum, Some(0));
                whole += 1;
            } else {
                left += 1;
            }
            looks.fetch_add(1, Ordering::Relaxed);
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_page_that_is_cut_off_ends_the_copy_and_nothing_else() {
    let (guard, file, region) = four_pages();
    let memory = region.memory();
    let bytes: Vec<u8> = (0..4 * 4096_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    assert_eq!(guard.write(memory, 0, &bytes), bytes.len());
    let mut got = vec![0; bytes.len()];
    assert_eq!(guard.read(memory, 0, &mut got), bytes.len());
    assert!(got == bytes);
    for (off, len) in [(0, 0), (1, 1), (63, 64), (5, 200), (4095, 2), (100, 8192 + 77)] {
        let mut got = vec![0; len];
        assert_eq!(guard.read(memory, off, &mut got), len);
        assert!(got == bytes[off..off + len]);
        for (write, byte) in [(Guard::write as fn(_, _, _, &_) -> _, 1), (Guard::write_past, 2)] {
            assert_eq!(write(guard, memory, off, &vec![byte; len]), len);
            assert_eq!(guard.read(memory, off, &mut got), len);
            assert!(got.iter().all(|b| *b == byte));
            assert_eq!(write(guard, memory, off, &bytes[off..off + len]), len);
        }
    }
    let mut all = vec![0; bytes.len()];
    assert_eq!(guard.read(memory, 0, &mut all), all.len());
    assert!(all == bytes, "what lies beside them is as it was");
    file.set_len(2 * 4096).unwrap();
    for off in [0, 1, 4000, 8191, 8192, 9000] {
        let mut got = vec![7; bytes.len() - off];
        let done = guard.read(memory, off, &mut got);
        // Whole lines, then bytes: what is copied is copied up to the line that meets the end.
        assert!(done <= 8192_usize.saturating_sub(off) && done + 64 > 8192_usize.saturating_sub(off));
        assert!(got[..done] == bytes[off..off + done] && got[done..].iter().all(|b| *b == 7));
        for write in [Guard::write, Guard::write_past] {
            let done = write(guard, memory, off, &bytes[off..]);
            assert!(done <= 8192_usize.saturating_sub(off) && done + 64 > 8192_usize.saturating_sub(off));
        }
    }
}
