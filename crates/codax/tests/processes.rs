//! Moves under the mappings of several processes at once. The test binary runs itself for the others.

mod fake;

use codax::{Access, File, Mapping, OpenOptions, Store};
use fake::Fake;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

const PAGE: usize = 4096;
const PAGES: usize = 256;
/// Set by the parent when all is over.
const STOP: usize = 8 * 8;
/// Set by each process when it counts.
const READY: usize = 9 * 8;
const DIR: &str = "CODAX_TEST_DIR";

/// Increments, in turn, a counter of its own and one that all processes share on each page, and looks that the latter never goes back.
fn count(mappings: &[&Mapping], column: usize) -> u64 {
    let memory = mappings[0].memory();
    memory.atomic_u64(READY).fetch_add(1, Ordering::SeqCst);
    let (mut rounds, mut seen) = (0, vec![0; PAGES]);
    while memory.atomic_u64(STOP).load(Ordering::Relaxed) == 0 {
        for (page, seen) in seen.iter_mut().enumerate() {
            let at = page * PAGE;
            memory.store_u64(at + column * 8, memory.load_u64(at + column * 8) + 1);
            memory.atomic_u64(at).fetch_add(1, Ordering::Relaxed);
            for mapping in mappings {
                let now = mapping.memory().atomic_u64(at).load(Ordering::Relaxed);
                assert!(now >= *seen, "page {page} went back from {seen} to {now}");
                *seen = now;
            }
        }
        rounds += 1;
    }
    rounds
}

fn work(store: &Store, column: usize) -> u64 {
    let file = OpenOptions::new().read(true).write(true).open(store, "/shared").unwrap();
    let write = file.map(.., Access::ReadWrite).unwrap();
    let read = file.map(.., Access::ReadOnly).unwrap();
    count(&[&write, &read], column)
}

/// The other processes' part; nothing to do in a usual run.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let column = std::env::var("CODAX_TEST_COLUMN").unwrap().parse().unwrap();
    let store = Store::connect(dir).unwrap();
    println!("rounds={}", work(&store, column));
}

#[test]
fn every_increment_of_three_processes_is_there_and_no_counter_goes_back() {
    let fake = Fake::start();
    let id = fake.state().make(Some("/shared"), (PAGE * PAGES) as u64);
    let store = Store::connect(fake.dir()).unwrap();
    let children: Vec<_> = (1..3)
        .map(|column| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child", "--nocapture"])
                .env(DIR, fake.dir())
                .env("CODAX_TEST_COLUMN", column.to_string())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let own = std::thread::spawn({
        let store = store.clone();
        move || work(&store, 3)
    });
    let control = OpenOptions::new().read(true).write(true).open(&store, "/shared").unwrap();
    let control = control.map(..PAGE as u64, Access::ReadWrite).unwrap();
    while control.memory().atomic_u64(READY).load(Ordering::SeqCst) < 3 {
        std::thread::yield_now();
    }
    for round in 0..12_u16 {
        fake.move_file(id, u16::from(round % 2 == 0), [64, 128, 100][usize::from(round % 3)]);
    }
    control.memory().atomic_u64(STOP).store(1, Ordering::SeqCst);
    let mut rounds = vec![own.join().unwrap()];
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let (_, count) = text.split_once("rounds=").unwrap();
        rounds.insert(0, count.split_whitespace().next().unwrap().parse().unwrap());
    }
    // The children were pushed to the front, the later one first.
    rounds.swap(0, 1);
    let file = File::open(&store, "/shared").unwrap().map(.., Access::ReadOnly).unwrap();
    for page in 0..PAGES {
        for (column, &rounds) in (1..).zip(&rounds) {
            assert!(rounds > 0);
            assert_eq!(
                file.memory().load_u64(page * PAGE + column * 8),
                rounds,
                "page {page}, column {column}"
            );
        }
        assert_eq!(file.memory().load_u64(page * PAGE), rounds.iter().sum::<u64>(), "page {page}");
    }
}
