//! Loads and stores of mapped memory, and how long they take.

use super::figures::Summary;
use codax::Memory;
use codax_core::Result;
use serde::Serialize;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// A cache line, in bytes: what one load of a chain brings along.
const LINE: usize = 64;

/// Bytes of one sample of bandwidth.
const SLICE: usize = 1 << 20;

/// What is copied at once, small enough for the nearest cache.
const BLOCK: usize = 16 << 10;

/// Times of a measurement that getting at the memory may take before it, which can be slower by far.
const TOUCH: u32 = 3;

/// Samples that there are at least, however slow the memory is.
const SAMPLES_MIN: usize = 3;

/// What was measured of a pool.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// A load that waits for the one before it, in nanoseconds.
    pub read_ns: Summary,
    /// 10^6 bytes per second, by one thread.
    pub read_mbps: Summary,
    pub write_mbps: Summary,
    /// Bytes copied, each read once and written once.
    pub copy_mbps: Summary,
    /// Bytes over which the loads went; the pool's row has them.
    #[serde(skip)]
    pub chain_bytes: u64,
}

/// Measures `memory`, which is all ours and 1 MiB or more, for about `time`. `go_on` is asked between samples.
pub fn measure(memory: Memory<'_>, time: Duration, go_on: &dyn Fn() -> Result<()>) -> Result<Measured> {
    let memory = touch(memory, time * TOUCH, go_on)?;
    let part = time / 6;
    let mut block = vec![1; BLOCK];
    let write = bandwidth(memory.len(), part, go_on, |off| {
        memory.write_at(off, &block);
    })?;
    let read = bandwidth(memory.len(), part, go_on, |off| {
        memory.read_at(off, &mut block);
        black_box(&mut block);
    })?;
    let half = memory.len() / 2;
    let copy = bandwidth(half, part, go_on, |off| {
        memory.read_at(off, &mut block);
        memory.write_at(half + off, &block);
    })?;
    // Slow memory gets a shorter chain: making it is to take as long as following it at most.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bytes in half a time, cut by what there is"
    )]
    let bytes = (write.median * 1e6 * (time / 2).as_secs_f64()) as usize;
    let chain = memory.part(0, bytes.clamp(SLICE.min(memory.len()), memory.len()));
    link(chain, go_on)?;
    let read_ns = latency(chain, time / 2, go_on)?;
    Ok(Measured {
        read_ns,
        read_mbps: read,
        write_mbps: write,
        copy_mbps: copy,
        chain_bytes: chain.len() as u64,
    })
}

/// Touches each page, so that no page fault is measured; within `time`, of slow memory only as much as that allows.
fn touch<'a>(memory: Memory<'a>, time: Duration, go_on: &dyn Fn() -> Result<()>) -> Result<Memory<'a>> {
    let begun = Instant::now();
    let mut done = 0;
    while done < memory.len() && (done == 0 || begun.elapsed() < time) {
        go_on()?;
        let end = memory.len().min(done + SLICE);
        (done..end).step_by(4096).for_each(|off| memory.store_u8(off, 1));
        done = end;
    }
    Ok(memory.part(0, done))
}

/// Does `step` at each block of `len` bytes, again and again until `time` is over, and says how fast it was.
fn bandwidth(
    len: usize,
    time: Duration,
    go_on: &dyn Fn() -> Result<()>,
    mut step: impl FnMut(usize),
) -> Result<Summary> {
    let slice = SLICE.min(len / BLOCK * BLOCK);
    let begun = Instant::now();
    let mut samples = Vec::new();
    let mut at = 0;
    while samples.len() < SAMPLES_MIN || begun.elapsed() < time {
        go_on()?;
        if at + slice > len {
            at = 0;
        }
        let sample = Instant::now();
        (at..at + slice).step_by(BLOCK).for_each(&mut step);
        let seconds = sample.elapsed().as_secs_f64();
        samples.push(slice as f64 / seconds.max(1e-9) / 1e6);
        at += slice;
    }
    Ok(Summary::of(samples))
}

/// Makes a chain of all lines of `memory`: each holds where the next one is, and the way comes back to the first only after all others. No
/// two that follow each other are neighbours but by chance, so no prefetcher helps.
fn link(memory: Memory<'_>, go_on: &dyn Fn() -> Result<()>) -> Result<()> {
    let lines = u32::try_from(memory.len() / LINE).unwrap_or(u32::MAX);
    let next = cycle(lines);
    for (i, lines) in next.chunks(SLICE / LINE).enumerate() {
        go_on()?;
        for (j, next) in lines.iter().enumerate() {
            memory.store_u64(i * SLICE + j * LINE, u64::from(*next) * LINE as u64);
        }
    }
    Ok(())
}

/// A random permutation that is one cycle (Sattolo's algorithm).
fn cycle(count: u32) -> Vec<u32> {
    let mut next: Vec<u32> = (0..count).collect();
    let mut random = 88_172_645_463_325_252_u64;
    for i in (1..next.len()).rev() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let other = random % i as u64;
        #[allow(clippy::cast_possible_truncation, reason = "less than i")]
        next.swap(i, other as usize);
    }
    next
}

/// Follows a chain for `time`.
fn latency(chain: Memory<'_>, time: Duration, go_on: &dyn Fn() -> Result<()>) -> Result<Summary> {
    let begun = Instant::now();
    let mut samples = Vec::new();
    let mut steps: u32 = 1000;
    let mut off = 0;
    while samples.len() < SAMPLES_MIN || begun.elapsed() < time {
        go_on()?;
        let sample = Instant::now();
        for _ in 0..steps {
            #[allow(clippy::cast_possible_truncation, reason = "an offset in memory")]
            let next = chain.load_u64(off) as usize;
            off = next;
        }
        black_box(off);
        let taken = sample.elapsed();
        samples.push(taken.as_nanos() as f64 / f64::from(steps));
        // Some twenty samples, each long enough for the clock.
        if taken < time / 40 {
            steps = steps.saturating_mul(2);
        }
    }
    Ok(Summary::of(samples))
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_core::{Error, ErrorKind};

    #[test]
    fn a_cycle_visits_all_before_it_comes_back() {
        for count in [1, 2, 3, 64, 1000] {
            let next = cycle(count);
            let (mut at, mut steps) = (0, 0);
            loop {
                at = next[at as usize];
                steps += 1;
                if at == 0 {
                    break;
                }
            }
            assert_eq!(steps, count);
        }
    }

    #[test]
    fn slices_stay_inside_and_there_are_some_however_slow() {
        let len = 2 * SLICE + 5 * BLOCK;
        let mut last = 0;
        let summary = bandwidth(len, Duration::ZERO, &|| Ok(()), |off| {
            assert!(off + BLOCK <= len && off % BLOCK == 0);
            last = off;
        });
        assert_eq!(summary.expect("nobody stops it").count, SAMPLES_MIN);
        // The third sample begins anew, since it would end outside.
        assert_eq!(last, SLICE - BLOCK);
    }

    #[test]
    fn who_has_had_enough_is_heard() {
        let enough = || Err(Error::cancelled("enough"));
        let error = bandwidth(SLICE, Duration::from_secs(60), &enough, |_| ()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Cancelled);
    }
}
