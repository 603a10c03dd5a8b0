//! The records that the demo's processes write while their memory is moved.
//!
//! A record is 64 bytes, eight little-endian words:
//!
//! | word | what | who writes |
//! | --- | --- | --- |
//! | 0..4 | a counter for each writer | that writer, by load and store |
//! | 4 | a counter that all share | all writers, by an atomic addition |
//! | 5 | sequence number, odd while the next word changes | one writer, the record's owner |
//! | 6 | checksum of the sequence number and the record's place | the owner |
//!
//! A store that went to memory which was given up shows in a counter that is too low, a load from such memory in one that goes back.

use codax::Memory;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Bytes of a record.
pub const RECORD: usize = 64;

/// Most writers.
pub const WRITERS_MAX: usize = 4;

const SHARED: usize = 4;
const SEQUENCE: usize = 5;
const CHECKSUM: usize = 6;

/// A record of a mapped file.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    memory: Memory<'a>,
    index: usize,
}

impl<'a> Record<'a> {
    /// Record number `index` of a file.
    #[inline]
    pub fn new(memory: Memory<'a>, index: usize) -> Self {
        Self { memory, index }
    }

    #[inline]
    fn word(self, word: usize) -> &'a AtomicU64 {
        self.memory.atomic_u64(self.index * RECORD + word * 8)
    }

    /// A writer's own counter.
    pub fn counter(self, writer: usize) -> u64 {
        self.word(writer).load(Ordering::Relaxed)
    }

    /// The counter that all share.
    #[inline]
    pub fn shared(self) -> u64 {
        self.word(SHARED).load(Ordering::Acquire)
    }

    /// Adds one to a writer's own counter, by a load and a store, and to the shared one; returns what that was before.
    #[inline]
    pub fn increment(self, writer: usize) -> u64 {
        let own = self.word(writer);
        own.store(own.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.word(SHARED).fetch_add(1, Ordering::AcqRel)
    }

    /// The next sequence number, with its checksum. For the record's owner only.
    #[inline]
    pub fn stamp(self) {
        let sequence = self.word(SEQUENCE).load(Ordering::Relaxed);
        self.word(SEQUENCE).store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.word(CHECKSUM).store(checksum(self.index, sequence + 2), Ordering::Relaxed);
        self.word(SEQUENCE).store(sequence + 2, Ordering::Release);
    }

    /// Whether sequence number and checksum agree. One that is being changed does.
    #[inline]
    pub fn is_sound(self) -> bool {
        let sequence = self.word(SEQUENCE).load(Ordering::Acquire);
        let found = self.word(CHECKSUM).load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let changing = sequence % 2 == 1 || self.word(SEQUENCE).load(Ordering::Relaxed) != sequence;
        changing || found == if sequence == 0 { 0 } else { checksum(self.index, sequence) }
    }
}

/// Two words mixed (splitmix64's finish), so that a word of another record or another time is not taken for it.
fn checksum(index: usize, sequence: u64) -> u64 {
    let mut mixed = (index as u64).rotate_left(32) ^ sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Numbers that look random, for choosing records (xorshift).
#[derive(Clone, Copy, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Numbers that depend on the seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`, which is below 2^32.
    #[inline]
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The product of two numbers below 2^32, shifted, is below the second.
        usize::try_from(((self.0 >> 32) * limit as u64) >> 32).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_os::area::Region;
    use codax_os::object::ObjectDir;

    fn region() -> Region {
        let dir = tempfile::tempdir().unwrap();
        let object = ObjectDir::open(dir.path()).unwrap().create("records", 4096).unwrap();
        let region = Region::reserve(4096).unwrap();
        region.place(0, 4096, &object, 0, true).unwrap();
        region
    }

    #[test]
    fn records_count_and_show_damage() {
        let region = region();
        let record = Record::new(region.memory(), 3);
        assert!(record.is_sound());
        assert_eq!((record.increment(1), record.increment(0), record.increment(1)), (0, 1, 2));
        assert_eq!((record.counter(0), record.counter(1), record.shared()), (1, 2, 3));
        record.stamp();
        record.stamp();
        assert!(record.is_sound());
        // What belongs to another record, or to another time.
        region.memory().write_at(4 * RECORD, &region.memory().read::<RECORD>(3 * RECORD));
        assert!(!Record::new(region.memory(), 4).is_sound());
        region.memory().store_u64(3 * RECORD + SEQUENCE * 8, 2);
        assert!(!record.is_sound());
        region.memory().store_u64(3 * RECORD + SEQUENCE * 8, 1);
        assert!(record.is_sound(), "it is being changed");
    }

    #[test]
    fn the_dice_reach_every_side() {
        let mut dice = Dice::new(7);
        let mut seen = [0; 6];
        for _ in 0..600 {
            seen[dice.below(6)] += 1;
        }
        assert!(seen.iter().all(|&n| n > 50), "{seen:?}");
    }
}
