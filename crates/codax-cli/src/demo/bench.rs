//! Measurements beside a plain mapping and a plain copy, while nothing else runs.

use super::records::Dice;
use super::stage::io_error;
use codax::{Access, Memory, OpenOptions, Store};
use codax_core::Result;
use codax_os::area::{Cells, Region};
use codax_os::mounts;
use codax_os::object::{ObjectDir, allocate};
use serde::Serialize;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of the mappings that are compared.
pub const ACCESS_BYTES: usize = 64 << 20;

/// Bytes of each buffer of the plain copy: more than caches hold.
const COPY_BYTES: usize = 128 << 20;

/// Bytes copied at once, as in a move.
const COPY_STEP: usize = 2 << 20;

/// Loads or stores of a random pass.
const RANDOM: usize = 1 << 20;

/// Parts of a pass.
const PARTS: usize = 32;

/// Rounds of each comparison, at least and at most, and the time after which no other round begins.
const ROUNDS: (usize, usize) = (3, 40);
const ROUNDS_TIME: Duration = Duration::from_millis(1200);

/// What a plain mapping takes over what one of the store's takes, for each kind of access: 1 is as fast.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct AccessRatios {
    sequential_loads: f64,
    sequential_stores: f64,
    random_loads: f64,
    random_stores: f64,
}

impl AccessRatios {
    /// Each of them changed.
    pub fn map(self, change: impl Fn(f64) -> f64) -> Self {
        Self {
            sequential_loads: change(self.sequential_loads),
            sequential_stores: change(self.sequential_stores),
            random_loads: change(self.random_loads),
            random_stores: change(self.random_stores),
        }
    }

    /// All of them in one number (the geometric mean).
    pub fn overall(&self) -> f64 {
        (self.sequential_loads * self.sequential_stores * self.random_loads * self.random_stores).powf(0.25)
    }
}

/// Compares a file of the store in `dram` with a plain one on a tmpfs of the same kind in `dir`, by the same code, in turns.
pub fn access(store: &Store, dir: &Path) -> Result<AccessRatios> {
    let options =
        OpenOptions::new().read(true).write(true).create_new(true).on("dram").len(ACCESS_BYTES as u64);
    let (_, mapping) = options.open_mapped(store, "/access", .., Access::ReadWrite)?;
    let plain = plain(dir).map_err(|e| io_error("make a plain file to compare with", &e))?;
    let both = [plain.memory(), mapping.memory()];
    for memory in both {
        memory.fill(0, ACCESS_BYTES, 1);
    }
    let mut dice = Dice::new(1);
    let places: Vec<usize> = (0..RANDOM).map(|_| dice.below(ACCESS_BYTES / 8) * 8).collect();
    let places = |part: usize| places.chunks(RANDOM / PARTS).nth(part).unwrap_or_default();
    let ratios = AccessRatios {
        sequential_loads: ratio(both, |memory, part| load_all(words(memory, part))),
        sequential_stores: ratio(both, |memory, part| store_all(words(memory, part))),
        random_loads: ratio(both, |memory, part| load_some(memory, places(part))),
        random_stores: ratio(both, |memory, part| store_some(memory, places(part))),
    };
    drop(mapping);
    store.remove("/access", false)?;
    Ok(ratios)
}

/// A file on a tmpfs as the store's pools are, mapped.
fn plain(dir: &Path) -> std::io::Result<Region> {
    let place = dir.join("plain");
    std::fs::create_dir(&place)?;
    if mounts::can_mount() {
        mounts::mount_tmpfs(&place, 2 * ACCESS_BYTES as u64, "within_size", true, &[])?;
    }
    let objects = ObjectDir::open(&place)?;
    let object = objects.create("file", ACCESS_BYTES as u64)?;
    allocate(&object, 0, ACCESS_BYTES as u64)?;
    let region = Region::reserve(ACCESS_BYTES)?;
    region.place(0, ACCESS_BYTES, &object, 0, true)?;
    // The mapping keeps its memory for as long as it is needed.
    objects.remove("file")?;
    Ok(region)
}

/// How long `pass` takes over the first, by how long it takes over the second. It is made in parts, so short that some of the rounds of each
/// are not interrupted, and of each part the shortest time counts.
fn ratio(both: [Memory<'_>; 2], pass: impl Fn(Memory<'_>, usize)) -> f64 {
    let mut best = [[Duration::MAX; PARTS]; 2];
    let begun = Instant::now();
    for round in 0..ROUNDS.1 {
        if round >= ROUNDS.0 && begun.elapsed() > ROUNDS_TIME {
            break;
        }
        for turn in 0..2 {
            // Neither is always the first.
            let which = (round + turn) % 2;
            for (part, best) in best[which].iter_mut().enumerate() {
                let start = Instant::now();
                pass(both[which], part);
                *best = start.elapsed().min(*best);
            }
        }
    }
    let [first, second] = best.map(|parts| parts.iter().sum::<Duration>());
    first.as_secs_f64() / second.as_secs_f64().max(1e-9)
}

/// The numbers in a part.
fn words(memory: Memory<'_>, part: usize) -> Cells<'_, u64> {
    let len = ACCESS_BYTES / PARTS;
    memory.cells(part * len, len / 8)
}

#[inline(never)]
fn load_all(words: Cells<'_, u64>) {
    black_box(words.iter().fold(0u64, u64::wrapping_add));
}

#[inline(never)]
fn store_all(words: Cells<'_, u64>) {
    (0..words.len()).for_each(|i| words.store(i, i as u64));
}

#[inline(never)]
fn load_some(memory: Memory<'_>, places: &[usize]) {
    black_box(places.iter().fold(0u64, |sum, &at| sum.wrapping_add(memory.load_u64(at))));
}

#[inline(never)]
fn store_some(memory: Memory<'_>, places: &[usize]) {
    places.iter().for_each(|&at| memory.store_u64(at, at as u64));
}

/// Bytes a second of a plain copy between warm buffers, by one thread; the best of some rounds.
pub fn copy_rate() -> f64 {
    let from = vec![1_u8; COPY_BYTES];
    let mut to = vec![2_u8; COPY_BYTES];
    let mut best = Duration::MAX;
    for _ in 0..6 {
        let start = Instant::now();
        for (from, to) in from.chunks(COPY_STEP).zip(to.chunks_mut(COPY_STEP)) {
            to.copy_from_slice(from);
            black_box(&mut *to);
        }
        best = best.min(start.elapsed());
    }
    COPY_BYTES as f64 / best.as_secs_f64()
}
