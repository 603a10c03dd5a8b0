//! How long accesses waited.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A shorter access has not waited.
const THRESHOLD: Duration = Duration::from_micros(10);

/// Waits by their length in microseconds. There are not many different ones, so each length has a bucket of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits(BTreeMap<u64, u64>);

impl Waits {
    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        *self.0.entry(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)).or_default() += 1;
    }

    /// Adds all of the other's.
    pub fn merge(&mut self, other: &Self) {
        for (us, count) in &other.0 {
            *self.0.entry(*us).or_default() += count;
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// So many percent of them took at most so many microseconds; 100 for the longest. 0 if there are none.
    pub fn percentile_us(&self, percent: u64) -> u64 {
        let wanted = (self.count() * percent).div_ceil(100);
        let mut seen = 0;
        let reached = self.0.iter().find(|(_, count)| {
            seen += **count;
            seen >= wanted
        });
        reached.map_or(0, |(us, _)| *us)
    }
}

/// Takes the time of each access of a thread that makes no system calls in between.
///
/// A slow access has waited for memory, or its thread has lost the processor to another. The kernel knows which: a thread that waits
/// gives the processor up, and that is counted.
#[derive(Debug)]
pub struct Stopwatch {
    last: Instant,
    given_up: u64,
    waits: Waits,
}

impl Stopwatch {
    /// Starts.
    pub fn start() -> Self {
        Self { given_up: given_up(), last: Instant::now(), waits: Waits::default() }
    }

    /// An access is over, and the next one begins.
    #[inline]
    pub fn lap(&mut self) {
        let now = Instant::now();
        let took = now.duration_since(self.last);
        self.last = now;
        if took > THRESHOLD {
            self.slow(took);
        }
    }

    #[cold]
    fn slow(&mut self, took: Duration) {
        let given_up = given_up();
        if given_up > self.given_up {
            self.waits.add(took);
        }
        self.given_up = given_up;
        self.last = Instant::now();
    }

    /// What was found.
    pub fn waits(self) -> Waits {
        self.waits
    }
}

/// How often this thread gave up the processor by itself.
fn given_up() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact() {
        let mut waits = Waits::default();
        assert_eq!((waits.count(), waits.percentile_us(50)), (0, 0));
        (1..=100).for_each(|ms| waits.add(Duration::from_millis(ms)));
        let mut twice = waits.clone();
        twice.merge(&waits);
        assert_eq!(twice.count(), 200);
        assert_eq!([50, 99, 100].map(|p| twice.percentile_us(p)), [50_000, 99_000, 100_000]);
        let text = serde_json::to_string(&twice).unwrap();
        assert_eq!(serde_json::from_str::<Waits>(&text).unwrap(), twice);
    }

    #[test]
    fn who_waits_is_told_from_who_is_slow() {
        let mut watch = Stopwatch::start();
        std::thread::sleep(Duration::from_millis(1));
        watch.lap();
        watch.lap();
        assert_eq!(watch.waits().count(), 1);
    }
}
