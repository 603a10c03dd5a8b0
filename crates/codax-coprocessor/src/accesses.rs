//! How many bytes operations read and wrote of each pool.
//!
//! They are counted after each step, by where the file's pages are then. That is the store's to say, since the kernel moves pages without telling who maps them: it is asked
//! when an operation begins and after a step, and not again for 100 ms, on a connection of its own, on which nothing has to wait for a move.

use codax::driver::{Counter, Granted};
use codax::{Error, File, Result, Store};
use codax_core::extent::PoolRun;
use codax_core::info::FileInfo;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// For how long what the store said of a file is taken for so.
const GOOD_FOR: Duration = Duration::from_millis(100);

/// What was read and written of a pool.
#[derive(Debug)]
struct Pool {
    name: String,
    read: AtomicU64,
    written: AtomicU64,
}

/// The same of all pools of a store.
#[derive(Debug)]
pub struct Accesses {
    store: Store,
    /// By their ids.
    pools: Vec<Pool>,
}

impl Accesses {
    /// Nothing yet, of pools with these names.
    pub fn new(store: Store, names: impl Iterator<Item = String>) -> Self {
        let pool = |name| Pool { name, read: AtomicU64::new(0), written: AtomicU64::new(0) };
        Self { store, pools: names.map(pool).collect() }
    }

    /// Of the pools that were accessed.
    pub fn counters(&self) -> impl Iterator<Item = Counter> {
        let counter = |how: &str, pool: &Pool, value: &AtomicU64| {
            let (name, value) = (format!("bytes {how} {}", pool.name), value.load(Ordering::Relaxed));
            (value > 0).then_some(Counter { name, value })
        };
        self.pools
            .iter()
            .flat_map(move |pool| {
                [counter("read from", pool, &pool.read), counter("written to", pool, &pool.written)]
            })
            .flatten()
    }
}

/// A part of a range that was accessed since it was told of last, and how many bytes that were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    from: u64,
    to: u64,
    bytes: u64,
}

impl Part {
    /// So many bytes more, from there on.
    #[inline]
    pub fn add(&mut self, at: u64, len: usize) {
        let end = at + len as u64;
        (self.from, self.to) =
            if self.bytes == 0 { (at, end) } else { (self.from.min(at), self.to.max(end)) };
        self.bytes += len as u64;
    }

    /// How many of the bytes are in each of these runs, the part being of what begins at `start` in the file. What was accessed more often than once is shared out.
    fn shares(self, start: u64, runs: &[PoolRun]) -> impl Iterator<Item = (usize, u64)> {
        let (from, to) = (start + self.from, start + self.to);
        runs.iter().filter_map(move |run| {
            let (first, end) =
                (run.pages.offset().max(from), (run.pages.offset() + run.pages.bytes()).min(to));
            let len = end.checked_sub(first).filter(|len| *len > 0)?;
            let share = u128::from(self.bytes) * u128::from(len) / u128::from(to - from);
            Some((usize::from(run.pool.0), u64::try_from(share).unwrap_or(u64::MAX)))
        })
    }
}

/// Where a file's pages are, as the store said last.
#[derive(Debug)]
pub struct Whereabouts {
    accesses: Arc<Accesses>,
    file: Option<File>,
    seen: Mutex<(Option<Instant>, Vec<PoolRun>)>,
}

impl Whereabouts {
    /// Those of a file that was granted to a queue; of one that can't be opened nothing is counted.
    pub fn new(accesses: &Arc<Accesses>, granted: &Granted) -> Self {
        let file = File::open_granted(&accesses.store, granted).ok();
        Self { accesses: accesses.clone(), file, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, (Option<Instant>, Vec<PoolRun>)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the store what the file is like.
    pub fn ask(&self) -> Result<FileInfo> {
        let unknown = || Error::not_found("a file that was granted is gone");
        let info = self.file.as_ref().ok_or_else(unknown)?.info()?;
        *self.seen() = (Some(Instant::now()), info.runs.clone());
        Ok(info)
    }

    /// The same, if it is time to.
    pub fn look(&self) {
        if self.seen().0.is_some_and(|at| at.elapsed() < GOOD_FOR) {
            return;
        }
        if self.ask().is_err() {
            // It is asked again as soon, not for each step.
            self.seen().0 = Some(Instant::now());
        }
    }

    /// Counts what a step has read and written of the range that begins at `start`.
    pub fn count(&self, start: u64, read: Part, written: Part) {
        self.look();
        let seen = self.seen();
        let pools = &self.accesses.pools;
        for (pool, bytes) in read.shares(start, &seen.1) {
            let _ = pools.get(pool).map(|pool| pool.read.fetch_add(bytes, Ordering::Relaxed));
        }
        for (pool, bytes) in written.shares(start, &seen.1) {
            let _ = pools.get(pool).map(|pool| pool.written.fetch_add(bytes, Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_core::{PAGE_SIZE, PageRange, PoolId};

    #[test]
    fn bytes_are_where_their_pages_are() {
        let run = |start, count, pool| PoolRun { pages: PageRange::new(start, count), pool: PoolId(pool) };
        let runs = [run(0, 4, 0), run(4, 4, 3), run(8, 4, 0)];
        let shares = |part: Part, start| part.shares(start, &runs).collect::<Vec<_>>();
        let mut part = Part::default();
        assert_eq!(shares(part, 0), []);
        part.add(100, 1000);
        part.add(1100, 24);
        assert_eq!(part, Part { from: 100, to: 1124, bytes: 1024 });
        assert_eq!(shares(part, 0), [(0, 1024)]);
        // The last 24 are in the next run.
        assert_eq!(shares(part, 4 * PAGE_SIZE - 1100), [(0, 1000), (3, 24)]);
        // A vector that is read for each row.
        let mut twice = Part::default();
        twice.add(0, 8192);
        twice.add(0, 8192);
        assert_eq!(shares(twice, 7 * PAGE_SIZE), [(3, 8192), (0, 8192)]);
        // Nobody knows where the rest is.
        assert_eq!(shares(twice, 11 * PAGE_SIZE), [(0, 8192)]);
    }
}
