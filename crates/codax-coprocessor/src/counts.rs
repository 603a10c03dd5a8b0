//! What a device has counted: the thread of each queue by itself, in lines that no other thread writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Of one queue. Only its thread counts, so that nothing needs a locked instruction.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counts {
    operations: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
}

/// Of some queues together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub operations: u64,
    pub failed: u64,
    pub bytes: u64,
}

/// Of a device: of the queues that there are, and of those that were.
#[derive(Debug, Default)]
pub struct Totals(Mutex<Parts>);

#[derive(Debug, Default)]
struct Parts {
    past: Sums,
    present: Vec<Arc<Counts>>,
}

impl Counts {
    /// A request is about to be complete, so that who sees that sees it counted.
    #[inline]
    pub fn one(&self, status: i32) {
        add(if status == 0 { &self.operations } else { &self.failed }, 1);
    }

    /// So many bytes were gone through.
    pub fn went_through(&self, bytes: u64) {
        add(&self.bytes, bytes);
    }

    fn sums(&self) -> Sums {
        let [operations, failed, bytes] =
            [&self.operations, &self.failed, &self.bytes].map(|counter| counter.load(Ordering::Relaxed));
        Sums { operations, failed, bytes }
    }
}

#[inline]
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

impl Sums {
    fn and(self, other: Self) -> Self {
        Self {
            operations: self.operations.wrapping_add(other.operations),
            failed: self.failed.wrapping_add(other.failed),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }
}

impl Totals {
    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a new queue's thread counts with.
    pub fn begin(&self) -> Arc<Counts> {
        let counts = Arc::<Counts>::default();
        self.parts().present.push(counts.clone());
        counts
    }

    /// The queue's thread has ended.
    pub fn end(&self, counts: &Arc<Counts>) {
        let mut parts = self.parts();
        parts.present.retain(|one| !Arc::ptr_eq(one, counts));
        parts.past = parts.past.and(counts.sums());
    }

    pub fn sums(&self) -> Sums {
        let parts = self.parts();
        parts.present.iter().fold(parts.past, |sums, counts| sums.and(counts.sums()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_queue_has_counted_stays_when_it_goes() {
        let totals = Totals::default();
        let [one, other] = [totals.begin(), totals.begin()];
        one.one(0);
        one.one(-5);
        one.went_through(100);
        other.one(0);
        let sums = Sums { operations: 2, failed: 1, bytes: 100 };
        assert_eq!(totals.sums(), sums);
        totals.end(&one);
        assert_eq!(totals.sums(), sums);
        other.one(0);
        totals.end(&other);
        assert_eq!(totals.sums(), Sums { operations: 3, ..sums });
    }
}
