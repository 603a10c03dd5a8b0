//! How long accesses waited for moves.

use crate::link::lock;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Instant;

/// Buckets to each power of two: a bucket is at most 12.5 % wide.
const STEPS: usize = 8;

/// Buckets in all: up to 2^40 ns, about 18 minutes.
const BUCKETS: usize = 41 * STEPS;

/// Ranges that are remembered after they were woken, for reports of faults that come late.
const RECENT: usize = 64;

/// Accesses to mappings that met a move and had to wait for it, since the first mapping was made.
///
/// A wait is counted when it is over. It is measured from when the library's thread hears of it; for one that ended before, the time for which
/// its chunk was closed is taken, which is an upper bound. Percentiles are rounded up by at most an eighth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitStats {
    /// How many.
    pub count: u64,
    /// Half of them took at most so many microseconds.
    pub us_p50: u64,
    /// 99 % of them took at most so many microseconds.
    pub us_p99: u64,
    /// The longest, in microseconds.
    pub us_max: u64,
}

/// A range of addresses that is closed for a move.
#[derive(Clone, Copy, Debug)]
struct Closed {
    start: usize,
    end: usize,
    since: Instant,
}

impl Closed {
    fn has(&self, address: usize) -> bool {
        (self.start..self.end).contains(&address)
    }
}

#[derive(Debug, Default)]
struct Inner {
    closed: Vec<Closed>,
    /// Threads that wait: who, where, since when.
    waiting: Vec<(u32, usize, Instant)>,
    /// Ranges that were opened, the latest last, and how long they had been closed, in nanoseconds.
    recent: VecDeque<(Closed, u64)>,
    histogram: Histogram,
}

/// Shared by the thread that closes and opens ranges and the one that hears of faults.
#[derive(Debug, Default)]
pub(crate) struct Waits(Mutex<Inner>);

impl Waits {
    /// A range is about to be closed. Closing it further (reads after writes) changes nothing.
    pub(crate) fn close(&self, start: usize, len: usize) {
        let mut inner = lock(&self.0);
        if !inner.closed.iter().any(|closed| closed.start == start) {
            inner.closed.push(Closed { start, end: start + len, since: Instant::now() });
        }
    }

    /// A range is open again and who waited there is awake.
    pub(crate) fn open(&self, start: usize) {
        let now = Instant::now();
        let mut guard = lock(&self.0);
        let inner = &mut *guard;
        let Some(at) = inner.closed.iter().position(|closed| closed.start == start) else { return };
        let closed = inner.closed.swap_remove(at);
        inner.waiting.retain(|&(_, address, since)| {
            let over = closed.has(address);
            if over {
                inner.histogram.add(nanos(since, now));
            }
            !over
        });
        if inner.recent.len() == RECENT {
            inner.recent.pop_front();
        }
        inner.recent.push_back((closed, nanos(closed.since, now)));
    }

    /// A thread has met a closed range.
    pub(crate) fn fault(&self, thread: u32, address: usize) {
        let now = Instant::now();
        let mut guard = lock(&self.0);
        let inner = &mut *guard;
        if inner.closed.iter().any(|closed| closed.has(address)) {
            // A signal makes a thread fault again: it has waited all the time.
            let known = inner.waiting.iter().any(|&(t, a, _)| t == thread && a == address);
            if !known {
                inner.waiting.push((thread, address, now));
            }
        } else if let Some((_, nanos)) = inner.recent.iter().rev().find(|(closed, _)| closed.has(address)) {
            inner.histogram.add(*nanos);
        }
    }

    /// A mapping is gone: its ranges mean nothing any more.
    pub(crate) fn forget(&self, start: usize, len: usize) {
        let mut inner = lock(&self.0);
        let gone = start..start + len;
        inner.closed.retain(|closed| !gone.contains(&closed.start));
        inner.recent.retain(|(closed, _)| !gone.contains(&closed.start));
        inner.waiting.retain(|(_, address, _)| !gone.contains(address));
    }

    pub(crate) fn stats(&self) -> WaitStats {
        lock(&self.0).histogram.stats()
    }
}

fn nanos(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX)
}

/// Durations by their logarithm: bounded, whatever is counted.
#[derive(Debug)]
struct Histogram {
    buckets: Box<[u64; BUCKETS]>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), count: 0, max: 0 }
    }
}

impl Histogram {
    fn add(&mut self, nanos: u64) {
        self.buckets[bucket(nanos)] += 1;
        self.count += 1;
        self.max = self.max.max(nanos);
    }

    /// An upper bound of the `percent` smallest, in nanoseconds.
    fn percentile(&self, percent: u64) -> u64 {
        let wanted = (self.count * percent).div_ceil(100);
        let mut seen = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper_bound(at).min(self.max);
            }
        }
        self.max
    }

    fn stats(&self) -> WaitStats {
        if self.count == 0 {
            return WaitStats::default();
        }
        let micros = |nanos: u64| nanos.div_ceil(1000);
        WaitStats {
            count: self.count,
            us_p50: micros(self.percentile(50)),
            us_p99: micros(self.percentile(99)),
            us_max: micros(self.max),
        }
    }
}

/// Values below [`STEPS`] have a bucket each; above, the position of the highest bit and the three bits after it choose.
fn bucket(nanos: u64) -> usize {
    let low = usize::try_from(nanos).unwrap_or(usize::MAX);
    if low < STEPS {
        return low;
    }
    let exponent = low.ilog2() - STEPS.ilog2();
    let step = (low >> exponent) - STEPS;
    ((exponent as usize + 1) * STEPS + step).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn upper_bound(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let exponent = bucket / STEPS - 1;
    (((bucket % STEPS + STEPS + 1) as u64) << exponent) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_the_bucket_that_bounds_it() {
        for value in (0..4096).chain((12..40).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 12345]))
        {
            let at = bucket(value);
            assert!(value <= upper_bound(at), "{value}");
            assert!(at == 0 || value > upper_bound(at - 1), "{value}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_close_and_never_too_low() {
        let mut histogram = Histogram::default();
        for micros in 1..=1000 {
            histogram.add(micros * 1000);
        }
        let stats = histogram.stats();
        assert_eq!((stats.count, stats.us_max), (1000, 1000));
        assert!((500..=563).contains(&stats.us_p50), "{stats:?}");
        assert!((990..=1000).contains(&stats.us_p99), "{stats:?}");
        assert_eq!(Histogram::default().stats(), WaitStats::default());
    }

    #[test]
    fn a_wait_is_counted_once_when_it_is_over_and_late_news_count_too() {
        let waits = Waits::default();
        waits.close(0x1000, 0x1000);
        waits.fault(7, 0x1010);
        waits.fault(7, 0x1010);
        waits.fault(8, 0x1ff8);
        waits.fault(9, 0x9000);
        assert_eq!(waits.stats().count, 0);
        waits.open(0x1000);
        assert_eq!(waits.stats().count, 2);
        waits.fault(10, 0x1020);
        assert_eq!(waits.stats().count, 3);
        waits.forget(0x1000, 0x1000);
        waits.fault(10, 0x1020);
        assert_eq!(waits.stats().count, 3);
    }
}
