//! Compares loads and stores through `Memory` with those through raw pointers, in one run.
#![allow(unsafe_code)]
//! Unsafe code: the raw half of the comparison, within a mapping that lives until the end.

use codax_os::area::{Memory, Region};
use codax_os::object::{ObjectDir, allocate};
use std::hint::black_box;
use std::time::Instant;

const LEN: usize = 64 << 20;
const ROUNDS: usize = 8;

fn best(mut run: impl FnMut()) -> f64 {
    let times = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

fn report(name: &str, plain: &mut dyn FnMut(), memory: &mut dyn FnMut()) {
    // In turns, so that both meet the same machine.
    let (mut p, mut m) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..3 {
        p = p.min(best(&mut *plain));
        m = m.min(best(&mut *memory));
    }
    println!("{name:<28} plain {:8.2} ms   memory {:8.2} ms   ratio {:.3}", p * 1e3, m * 1e3, p / m);
}

fn offsets(len: usize) -> Vec<usize> {
    let mut x = 88_172_645_463_325_252_u64;
    let step = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        usize::try_from(x).unwrap_or(0) % (len / 8) * 8
    };
    std::iter::repeat_with(step).take(1 << 20).collect()
}

fn compare(size: &str, memory: Memory<'_>) {
    let (base, len) = (memory.as_ptr(), memory.len());
    let repeat = LEN / len;
    // SAFETY (all below): offsets are within the mapping, which `memory` borrows.
    let load = |off: usize| unsafe { base.add(off).cast::<u64>().read_volatile() };
    let store = |off: usize, v: u64| unsafe { base.add(off).cast::<u64>().write_volatile(v) };
    let all = || (0..len).step_by(8);
    report(
        &format!("{size} sequential loads"),
        &mut || (0..repeat).for_each(|_| drop(black_box(all().map(load).fold(0, u64::wrapping_add)))),
        &mut || {
            (0..repeat)
                .for_each(|_| drop(black_box(all().map(|o| memory.load_u64(o)).fold(0, u64::wrapping_add))));
        },
    );
    report(
        &format!("{size} sequential stores"),
        &mut || (0..repeat).for_each(|_| all().for_each(|o| store(o, 7))),
        &mut || (0..repeat).for_each(|_| all().for_each(|o| memory.store_u64(o, 7))),
    );
    let random = offsets(len);
    report(
        &format!("{size} random loads"),
        &mut || drop(black_box(random.iter().map(|o| load(*o)).fold(0, u64::wrapping_add))),
        &mut || drop(black_box(random.iter().map(|o| memory.load_u64(*o)).fold(0, u64::wrapping_add))),
    );
    report(&format!("{size} random stores"), &mut || random.iter().for_each(|o| store(*o, 7)), &mut || {
        random.iter().for_each(|o| memory.store_u64(*o, 7))
    });
    for block in [32, 256, 4096] {
        let mut to = vec![0u8; block];
        let blocks = || (0..len).step_by(block);
        let copied = to.as_mut_ptr();
        report(
            &format!("{size} read {block} B"),
            &mut || {
                for off in (0..repeat).flat_map(|_| blocks()) {
                    // SAFETY: `to` has `block` bytes, and `off + block <= len`.
                    unsafe { std::ptr::copy_nonoverlapping(base.add(off), copied, block) };
                    black_box(copied);
                }
            },
            &mut || {
                for off in (0..repeat).flat_map(|_| blocks()) {
                    memory.read_at(off, &mut to);
                    black_box(&mut to);
                }
            },
        );
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
