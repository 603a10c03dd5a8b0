//! The figures of BENCHMARKS.md on operations: each in steps, on ranges that others may write, over the same function called directly on a slice. In one
//! run, by turns that change places; memory is populated before. Times are processor time of the one thread, so that who else runs on
//! the machine counts as far as he takes memory's bandwidth and no further. Beside both, in the same turns: what memory takes for the ranges alone.
//!
//! `cargo bench -p codax-ops -- [NAME]...`, with names of operations; all of them without one.
#![allow(unsafe_code)]
//! Unsafe code: slices of mappings that nobody else has, as the plain half of comparisons.

#[path = "../../codax-cli/benches/figures/stats.rs"]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as in the other figures")]
mod stats;

use codax_ops::kernel::float::{self, Extreme, LANES};
use codax_ops::kernel::{self, histogram, integer, xxh3};
use codax_ops::{DEFAULT_BUDGET, Fault, Look, Memory, Opcode, Operation, Range, Spec, Step, Which};
use codax_os::area::{self, Region};
use codax_os::guard::Guard;
use codax_os::{mounts, object};
use rustix::time::{ClockId, clock_gettime};
use stats::{median, quantile, ratios, spread};
use std::hint::black_box;
use std::path::Path;

const LEN: usize = 256 << 20;
const ROUNDS: usize = 15;
/// A row that fits in a chunk.
const COLUMNS: usize = 1024;
const NEEDLE: &[u8] = b"a string that is not there";

/// Ranges as the coprocessor has them: mapped, and others may write and cut them.
struct Mapped<'a>(Guard, [area::Memory<'a>; 3]);

impl Memory for Mapped<'_> {
    fn read(&mut self, which: Which, at: u64, to: &mut [u8]) -> Result<(), Fault> {
        let done = self.0.read(self.1[which as usize], usize::try_from(at).unwrap_or(usize::MAX), to);
        if done == to.len() { Ok(()) } else { Err(Fault { which, at }) }
    }

    fn write(&mut self, which: Which, at: u64, from: &[u8]) -> Result<(), Fault> {
        let done = self.0.write_past(self.1[which as usize], usize::try_from(at).unwrap_or(usize::MAX), from);
        if done == from.len() { Ok(()) } else { Err(Fault { which, at }) }
    }

    fn look(&mut self, len: usize, input: u64, second: Option<u64>, look: &mut Look<'_>) -> bool {
        let view = |which, at| self.1[which as usize].part(usize::try_from(at).unwrap_or(usize::MAX), len);
        let one = view(Which::Input, input);
        let two = second.map_or(one.part(0, 0), |at| view(Which::Second, at));
        // SAFETY: this process alone has the files, whole, and nothing writes what is looked at.
        unsafe { self.0.look([one, two], &mut |one, two| _ = look(one, two)) }
    }
}

fn main() -> std::io::Result<()> {
    // cargo adds --bench.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let guard = Guard::install()?;
    let regions = regions()?;
    let ranges = [0, 1, 2].map(|i: usize| regions[i].memory());
    fill_ranges(&ranges);
    for &opcode in Opcode::ALL {
        if opcode != Opcode::Nop && (wanted.is_empty() || wanted.iter().any(|name| name == opcode.name())) {
            measure(opcode, guard, ranges);
        }
    }
    Ok(())
}

/// Mapped tmpfs files without names, all of them there and in the page table: in huge pages, as a store has them, where this process may mount.
fn regions() -> std::io::Result<[Region; 3]> {
    let dir = tempfile::tempdir_in("/dev/shm")?;
    let size = 4 * LEN as u64;
    let mounted =
        mounts::can_mount() && mounts::mount_tmpfs(dir.path(), size, "within_size", true, &[]).is_ok();
    let regions = [0, 1, 2].map(|_| region(dir.path()));
    if mounted {
        mounts::umount(dir.path())?;
    }
    let [a, b, c] = regions;
    println!("pages: {}", if mounted { "huge where tmpfs gives them" } else { "those of /dev/shm" });
    Ok([a?, b?, c?])
}

fn region(dir: &Path) -> std::io::Result<Region> {
    let dir = object::ObjectDir::open(dir)?;
    let file = dir.create("range", LEN as u64)?;
    dir.remove("range")?;
    object::allocate(&file, 0, LEN as u64)?;
    let region = Region::reserve(LEN)?;
    region.place(0, LEN, &file, 0, true)?;
    region.memory().fill(0, LEN, 1);
    Ok(region)
}

/// Floats of moderate size in the ranges that are read, the same in both; as bytes and integers they are anything.
fn fill_ranges(ranges: &[area::Memory<'_>; 3]) {
    let mut x = 88_172_645_463_325_252u64;
    for at in (0..LEN).step_by(8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let word = x & 0xbfff_ffff_bfff_ffff;
        ranges[0].store_u64(at, word);
        ranges[1].store_u64(at, word);
    }
}

fn spec(opcode: Opcode) -> Spec {
    let len = |which| match (opcode, which) {
        (Opcode::MatvecF32, Which::Second) => 4 * COLUMNS,
        (Opcode::MatvecF32, Which::Output) => LEN / COLUMNS,
        (Opcode::Histogram, Which::Output) => 2048,
        _ => LEN,
    };
    let parameter = match opcode {
        Opcode::Fill => &[7],
        Opcode::Search => NEEDLE,
        _ => &[][..],
    };
    let taken = Which::ALL.into_iter().filter(|which| opcode.shape().elements[*which as usize].is_some());
    taken.fold(Spec::new(opcode).parameter(parameter), |spec, which| {
        spec.with(which, Range { file: which as u64, start: 0, len: len(which) as u64 })
    })
}

/// By turns, and how long steps take.
fn measure(opcode: Opcode, guard: Guard, ranges: [area::Memory<'_>; 3]) {
    let (mut ours, mut plain, mut bare, mut steps) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let first = (round % 2 == 0).then(|| in_steps(opcode, guard, ranges, || {}));
        let times = (direct(opcode, ranges), memory(opcode, ranges));
        let one = first.unwrap_or_else(|| in_steps(opcode, guard, ranges, || {}));
        // The first one warms up.
        if round > 0 {
            ours.push(one);
            plain.push(times.0);
            bare.push(times.1);
        }
    }
    let mut last = now();
    in_steps(opcode, guard, ranges, || {
        let end = now();
        steps.push((end - last) * 1e3);
        last = end;
    });
    let rate = |times: &[f64]| LEN as f64 / median(times) / 1e9;
    println!(
        "{opcode}: ratio {} ({:.2} GB/s in steps, {:.2} GB/s directly); over memory {}; a step of {} KiB takes {:.3} ms, the longest {:.3} ms",
        spread(&ratios(&plain, &ours), "x"),
        rate(&ours),
        rate(&plain),
        spread(&ratios(&bare, &ours), "x"),
        DEFAULT_BUDGET >> 10,
        median(&steps),
        quantile(&steps, 1.0),
    );
}

/// Seconds that memory takes for an operation's ranges: to be read by a loop that does next to nothing, or to be copied or filled by the C library.
fn memory(opcode: Opcode, ranges: [area::Memory<'_>; 3]) -> f64 {
    if matches!(opcode, Opcode::Copy | Opcode::Fill) {
        return direct(opcode, ranges);
    }
    let two = opcode.shape().elements[1].is_some() && opcode != Opcode::MatvecF32;
    let begun = now();
    for range in &ranges[..if two { 2 } else { 1 }] {
        // SAFETY: as in `direct`.
        let bytes = unsafe { range.as_slice() };
        let mut lanes = [0_u64; 8];
        for line in bytes.as_chunks::<64>().0 {
            for (lane, word) in lanes.iter_mut().zip(line.as_chunks::<8>().0) {
                *lane |= u64::from_le_bytes(*word);
            }
        }
        black_box(lanes);
    }
    now() - begun
}

/// Seconds of all steps together, with something done after each.
fn in_steps(opcode: Opcode, guard: Guard, ranges: [area::Memory<'_>; 3], mut after: impl FnMut()) -> f64 {
    let mut memory = Mapped(guard, ranges);
    let mut operation = Operation::new(spec(opcode)).unwrap_or_else(|e| panic!("{opcode}: {e}"));
    let begun = now();
    loop {
        let step = black_box(operation.step(&mut memory, DEFAULT_BUDGET));
        guard.settle();
        if step != Ok(Step::More) {
            break;
        }
        after();
    }
    now() - begun
}

/// Seconds that the same function takes, called on a slice.
fn direct(opcode: Opcode, ranges: [area::Memory<'_>; 3]) -> f64 {
    let [input, second, output] = ranges;
    // SAFETY: this process alone has the files, and this thread alone touches them; nothing writes while the slices are there but through `output`.
    let (input, second, output) = unsafe { (input.as_slice(), second.as_slice(), output.as_mut_slice()) };
    let vector = &second[..4 * COLUMNS];
    let begun = now();
    match opcode {
        Opcode::Nop => {}
        Opcode::Copy => output.copy_from_slice(input),
        Opcode::Fill => output.fill(7),
        Opcode::Compare => drop(black_box(input == second)),
        Opcode::Search => drop(black_box(memchr::memmem::find(input, NEEDLE))),
        Opcode::Crc32c => drop(black_box(kernel::crc32c(0, input))),
        Opcode::Xxh3 => drop(black_box(xxh3::short(input))),
        Opcode::Histogram => {
            let mut counts = [0; 256];
            histogram::count(&mut counts, input);
            black_box(counts);
        }
        Opcode::SumF32 => sums(|lanes| float::sum_f32(lanes, input)),
        Opcode::SumF64 => sums(|lanes| float::sum_f64(lanes, input)),
        Opcode::DotF32 => sums(|lanes| float::dot_f32(lanes, input, second)),
        Opcode::DotF64 => sums(|lanes| float::dot_f64(lanes, input, second)),
        Opcode::SumI64 => drop(black_box(integer::sum(0, input))),
        Opcode::DotI64 => drop(black_box(integer::dot(0, input, second))),
        Opcode::MinF32 => drop(black_box(float::min_f32(Extreme::new(false), input))),
        Opcode::MinF64 => drop(black_box(float::min_f64(Extreme::new(false), input))),
        Opcode::MaxF32 => drop(black_box(float::max_f32(Extreme::new(true), input))),
        Opcode::MaxF64 => drop(black_box(float::max_f64(Extreme::new(true), input))),
        Opcode::MinI64 => drop(black_box(integer::extreme(input, false))),
        Opcode::MaxI64 => drop(black_box(integer::extreme(input, true))),
        Opcode::MatvecF32 => {
            float::matvec(input, vector, output[..LEN / COLUMNS].as_chunks_mut().0);
        }
    }
    now() - begun
}

/// Seconds that this thread has had a processor.
fn now() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn sums(add: impl Fn(&mut [f64; LANES])) {
    let mut lanes = [0.0; LANES];
    add(&mut lanes);
    black_box(float::total(&lanes));
}
