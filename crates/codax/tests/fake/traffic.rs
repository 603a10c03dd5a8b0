//! Threads that load and store while a file moves, in counters that are spread evenly over it.

use codax::Mapping;
use codax_os::futex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Places with counters; in the smallest file each is a page.
pub const PAGES: usize = 64;

/// Where a counter is in a mapping of a whole file.
fn place(mapping: &Mapping, page: usize, column: usize) -> usize {
    page * (mapping.len() / PAGES) + column * 8
}

/// Increments the counter at the beginning of every page of its own column, until told to stop; returns how often.
pub fn count(mapping: &Mapping, column: usize, stop: &AtomicBool) -> u64 {
    let memory = mapping.memory();
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        for page in 0..PAGES {
            // Not an atomic: a lost store would show.
            let at = place(mapping, page, column);
            memory.store_u64(at, memory.load_u64(at) + 1);
        }
        rounds += 1;
    }
    rounds
}

/// Looks whether a counter ever goes back, seen through one mapping after the other.
pub fn watch(mappings: &[&Mapping], stop: &AtomicBool) {
    let mut seen = vec![0; PAGES * 4];
    while !stop.load(Ordering::Relaxed) {
        for (i, seen) in seen.iter_mut().enumerate() {
            for mapping in mappings {
                let now = mapping.memory().load_u64(place(mapping, i / 4, i % 4));
                assert!(now >= *seen, "counter {i} went back from {seen} to {now}");
                *seen = now;
            }
        }
    }
}

pub fn assert_counted(mapping: &Mapping, column: usize, rounds: u64) {
    for page in 0..PAGES {
        assert_eq!(mapping.memory().load_u64(place(mapping, page, column)), rounds, "page {page}");
    }
}

/// Waits until the thread sleeps in a page fault: that is how the kernel says "in no system call".
pub fn wait_until_in_a_fault(thread: &AtomicU32) {
    for _ in 0..10_000 {
        let tid = thread.load(Ordering::SeqCst);
        let doing = std::fs::read_to_string(format!("/proc/self/task/{tid}/syscall")).unwrap_or_default();
        if doing.starts_with("-1 ") {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("the thread does not wait");
}

/// So many threads sleep on a word of a mapping, again and again, while `act` moves it: each of them wakes when the word has changed and who sleeps there is
/// woken.
pub fn assert_sleepers_wake(word: &AtomicU32, (sleepers, rounds): (u32, u32), act: impl Fn(u32)) {
    let awake = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..sleepers {
            scope.spawn(|| {
                for round in 0..rounds {
                    while word.load(Ordering::Acquire) == round {
                        let _ = futex::wait(word, round, None);
                    }
                    awake.fetch_add(1, Ordering::Release);
                }
            });
        }
        for round in 0..rounds {
            // Every other time they sleep for sure when the move begins; else they are on their way.
            if round % 2 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            act(round);
            // A wake after the move reaches those who went to sleep before it, or they are awake already.
            word.store(round + 1, Ordering::Release);
            futex::wake(word.as_ptr().addr(), u32::MAX).unwrap();
            let since = Instant::now();
            while awake.load(Ordering::Acquire) < sleepers * (round + 1) {
                if since.elapsed() > Duration::from_secs(20) {
                    // A thread that sleeps for ever can't be joined.
                    eprintln!("round {round}: a sleeper was not woken");
                    std::process::exit(1);
                }
                std::thread::yield_now();
            }
        }
    });
}
