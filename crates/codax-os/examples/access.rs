//! Compares loads, stores and copies through `Memory` with those through raw pointers, in one run.
#![allow(unsafe_code)]
//! Unsafe code: the raw half of the comparison, within a mapping that lives until the end.

use codax_os::area::{Cells, Memory, Region};
use codax_os::object::{ObjectDir, allocate};
use std::cell::RefCell;
use std::hint::black_box;
use std::time::Instant;

const LEN: usize = 64 << 20;
const ROUNDS: usize = 20;

/// Words of memory, by index.
trait Words: Copy {
    fn count(self) -> usize;
    fn load(self, i: usize) -> u64;
    fn store(self, i: usize, value: u64);
}

/// Through numbers in a row.
impl Words for Cells<'_, u64> {
    #[inline]
    fn count(self) -> usize {
        self.len()
    }
    #[inline]
    fn load(self, i: usize) -> u64 {
        Cells::load(self, i)
    }
    #[inline]
    fn store(self, i: usize, value: u64) {
        Cells::store(self, i, value);
    }
}

/// By byte offset.
impl Words for Memory<'_> {
    #[inline]
    fn count(self) -> usize {
        self.len() / 8
    }
    #[inline]
    fn load(self, i: usize) -> u64 {
        self.load_u64(i * 8)
    }
    #[inline]
    fn store(self, i: usize, value: u64) {
        self.store_u64(i * 8, value);
    }
}

/// Through a raw pointer.
#[derive(Clone, Copy)]
struct Plain(*mut u64, usize);

impl Words for Plain {
    #[inline]
    fn count(self) -> usize {
        self.1
    }
    #[inline]
    fn load(self, i: usize) -> u64 {
        // SAFETY: callers stay below `count`, which is what the mapping has.
        unsafe { self.0.add(i).read_volatile() }
    }
    #[inline]
    fn store(self, i: usize, value: u64) {
        // SAFETY: as above.
        unsafe { self.0.add(i).write_volatile(value) };
    }
}

#[inline(never)]
fn load_all(words: impl Words, times: usize) {
    for _ in 0..times {
        let mut sum = 0u64;
        for i in 0..words.count() {
            sum = sum.wrapping_add(words.load(i));
        }
        black_box(sum);
    }
}

#[inline(never)]
fn store_all(words: impl Words, times: usize) {
    for _ in 0..times {
        for i in 0..words.count() {
            words.store(i, 7);
        }
    }
}

#[inline(never)]
fn load_some(words: impl Words, which: &[usize]) {
    black_box(which.iter().fold(0u64, |sum, i| sum.wrapping_add(words.load(*i))));
}

#[inline(never)]
fn store_some(words: impl Words, which: &[usize]) {
    which.iter().for_each(|i| words.store(*i, 7));
}

#[inline(never)]
fn copy_plain(from: Plain, times: usize, to: &mut [u8]) {
    let block = to.len();
    for off in (0..times).flat_map(|_| (0..from.1 * 8).step_by(block)) {
        // SAFETY: `to`'s length divides the mapping's; nobody writes it meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(from.0.cast::<u8>().add(off), to.as_mut_ptr(), to.len()) };
        black_box(&mut *to);
    }
}

#[inline(never)]
fn copy_memory(from: Memory<'_>, times: usize, to: &mut [u8]) {
    let block = to.len();
    for off in (0..times).flat_map(|_| (0..from.len()).step_by(block)) {
        from.read_at(off, to);
        black_box(&mut *to);
    }
}

/// The best time of each, in ms; taken in turns, so that all meet the same machine.
fn best<const N: usize>(runs: [&dyn Fn(); N]) -> [f64; N] {
    let mut best = [f64::INFINITY; N];
    for _ in 0..ROUNDS {
        for (best, run) in best.iter_mut().zip(&runs) {
            let start = Instant::now();
            run();
            *best = best.min(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    best
}

fn report(size: &str, what: &str, plain: f64, memory: f64) {
    println!(
        "{size:>6} {what:<32} plain {plain:7.2} ms  memory {memory:7.2} ms  ratio {:.3}",
        plain / memory
    );
}

fn compare(size: &str, memory: Memory<'_>) {
    let plain = Plain(memory.as_ptr().cast(), memory.len() / 8);
    let cells = memory.cells::<u64>(0, memory.len() / 8);
    let times = LEN / memory.len();
    let mut x = 88_172_645_463_325_252_u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        usize::try_from(x).unwrap_or(0) % cells.len()
    };
    let random: Vec<usize> = (0..1 << 20).map(|_| next()).collect();
    let rows = [
        (
            "sequential loads",
            best([&|| load_all(plain, times), &|| load_all(cells, times), &|| load_all(memory, times)]),
        ),
        (
            "sequential stores",
            best([&|| store_all(plain, times), &|| store_all(cells, times), &|| store_all(memory, times)]),
        ),
        (
            "random loads",
            best([&|| load_some(plain, &random), &|| load_some(cells, &random), &|| {
                load_some(memory, &random)
            }]),
        ),
        (
            "random stores",
            best([&|| store_some(plain, &random), &|| store_some(cells, &random), &|| {
                store_some(memory, &random)
            }]),
        ),
    ];
    for (what, [p, c, m]) in rows {
        report(size, &format!("{what}, by index"), p, c);
        report(size, &format!("{what}, by offset"), p, m);
    }
    for block in [16, 64, 256, 4096, 16384] {
        let to = RefCell::new(vec![0; block]);
        let [p, m] = best([&|| copy_plain(plain, times, &mut to.borrow_mut()), &|| {
            copy_memory(memory, times, &mut to.borrow_mut())
        }]);
        report(size, &format!("copies of {block} B"), p, m);
    }
}

fn main() -> std::io::Result<()> {
    let dir = tempfile::tempdir_in("/dev/shm")?;
    let fd = ObjectDir::open(dir.path())?.create("a", LEN as u64)?;
    allocate(&fd, 0, LEN as u64)?;
    let region = Region::reserve(LEN)?;
    region.place(0, LEN, &fd, 0, true)?;
    region.memory().fill(0, LEN, 1);
    compare("16 KiB", region.memory().part(0, 16 << 10));
    compare("64 MiB", region.memory());
    Ok(())
}
