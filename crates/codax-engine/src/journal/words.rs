//! The file `words`: 1024 little-endian words of 8 bytes that are each stored at once, and whose stores are instants of commit.
//!
//! ```text
//! word 0..512      commit words of live moves, one for each slot (codax_core::live::encode_word); 0 where none was yet
//! word 512, 513    how much of the logs of even and of odd number is committed; 0 where none was yet
//!                    bits 0..32   bytes, from the log's start
//!                    bits 32..48  low 16 bits of the log's number
//!                    bits 48..64  check: low 16 bits of crc32c over the low 6 bytes
//! word 514         epoch of the store, drawn when it was made
//! word 515         how often something of a file was cut off or punched out: while it is the same, what clients have mapped is all there
//! word 516..1024   0
//! ```
//!
//! Clients map the file read-only and read the first part when the daemon is gone.

use super::storage::{Storage, StorageWords, failed};
use codax_core::live::{CUTS, decode_word, encode_word};
use codax_core::{Error, MoveId, Result};
use std::io;
use std::sync::Arc;

/// Number of commit words for moves.
pub const SLOTS: u16 = 512;

/// Name of the words file in the journal's directory.
pub const WORDS: &str = "words";

const COUNT: usize = 1024;
const LOG: [usize; 2] = [512, 513];
const EPOCH: usize = 514;
const _: () =
    assert!(LOG[0] == SLOTS as usize && EPOCH < CUTS && CUTS < COUNT && (COUNT * 8).is_multiple_of(4096));

/// Name under which the words file is made.
pub(super) const WORDS_NEW: &str = "words.new";

/// The commit words of live moves. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CommitWords {
    words: Arc<dyn StorageWords>,
    what: Arc<str>,
}

impl CommitWords {
    /// Slot `slot` counts for move `id` now, from 0. To be called before the `MoveBegin` is appended, so that a journal that
    /// knows of the move never meets another move's word.
    pub fn begin(&self, slot: u16, id: MoveId) -> Result<()> {
        self.commit(slot, id, 0)
    }

    /// The first `count` chunks of move `id` are committed once this store is done.
    pub fn commit(&self, slot: u16, id: MoveId, count: u32) -> Result<()> {
        let index = self.index(slot)?;
        let stored = self.words.store(index, encode_word(id, count)).and_then(|()| self.words.sync());
        stored.map_err(|error| failed("store a commit word in", &self.what, &error))
    }

    /// Something of a file was cut off or punched out. One at a time: under the store's lock.
    pub fn count_cut(&self) -> Result<()> {
        let counted = self.words.store(CUTS, self.words.load(CUTS).wrapping_add(1));
        counted.map_err(|error| failed("count a cut in", &self.what, &error))
    }

    /// How many chunks of move `id` are committed. `Corrupt` if the word doesn't check, or counts for another move.
    pub fn read(&self, slot: u16, id: MoveId) -> Result<u32> {
        let word = self.words.load(self.index(slot)?);
        match decode_word(word) {
            Some((low, count)) if low == id.0 & 0xff_ffff => Ok(count),
            Some((other, _)) => Err(Error::corrupt(format!(
                "{}: commit word {slot} counts for move {other} where the journal has move {id}",
                self.what
            ))),
            None => Err(Error::corrupt(format!(
                "{}: commit word {slot} of move {id} is damaged ({word:#018x}): how far that move came is not known",
                self.what
            ))),
        }
    }

    fn index(&self, slot: u16) -> Result<usize> {
        if slot < SLOTS {
            Ok(usize::from(slot))
        } else {
            Err(Error::internal(format!("there is no commit word {slot}, only {SLOTS} of them")))
        }
    }
}

/// How much of a log is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Committed {
    /// Low bits of the log's number.
    pub(super) number_low: u16,
    /// Bytes from the log's start.
    pub(super) bytes: u32,
}

impl Committed {
    fn encode(self) -> u64 {
        let low = u64::from(self.bytes) | u64::from(self.number_low) << 32;
        low | check(low) << 48
    }

    fn decode(word: u64) -> Option<Self> {
        let low = word & 0xffff_ffff_ffff;
        let bytes = u32::try_from(low & 0xffff_ffff).ok()?;
        let number_low = u16::try_from(low >> 32).ok()?;
        (check(low) == word >> 48).then_some(Self { number_low, bytes })
    }
}

fn check(low: u64) -> u64 {
    u64::from(crc32c::crc32c(&low.to_le_bytes()[..6]) & 0xffff)
}

/// The low bits of a log's number that a committed length carries.
pub(super) fn low(number: u64) -> u16 {
    let [a, b, ..] = number.to_le_bytes();
    u16::from_le_bytes([a, b])
}

fn log_word(number: u64) -> usize {
    LOG[usize::from(number % 2 == 1)]
}

/// The journal's own part of the words file.
#[derive(Debug)]
pub(super) struct JournalWords {
    commit: CommitWords,
    epoch: u64,
}

impl JournalWords {
    /// Makes the file, for a store whose first log is `number` and has `bytes` bytes. It is there as a whole or not at all.
    pub(super) fn create(storage: &dyn Storage, epoch: u64, number: u64, bytes: u32) -> Result<()> {
        let mut contents = vec![0; COUNT * 8];
        let mut put =
            |index: usize, word: u64| contents[index * 8..][..8].copy_from_slice(&word.to_le_bytes());
        put(log_word(number), Committed { number_low: low(number), bytes }.encode());
        put(EPOCH, epoch);
        let make = || -> io::Result<()> {
            let file = storage.create(WORDS_NEW)?;
            file.write_at(&contents, 0)?;
            file.sync()?;
            storage.sync()?;
            storage.rename(WORDS_NEW, WORDS)?;
            storage.sync()
        };
        make().map_err(|error| failed("make", &storage.describe(WORDS), &error))
    }

    /// Opens the file.
    pub(super) fn open(storage: &dyn Storage) -> Result<Self> {
        let what = storage.describe(WORDS);
        let len = storage.open(WORDS).and_then(|file| file.len());
        let len = len.map_err(|error| failed("open", &what, &error))?;
        if len != COUNT as u64 * 8 {
            return Err(Error::corrupt(format!("{what} has {len} bytes where {} belong", COUNT * 8)));
        }
        let words = storage.words(WORDS).map_err(|error| failed("map", &what, &error))?;
        let epoch = words.load(EPOCH);
        Ok(Self { commit: CommitWords { words: words.into(), what: what.into() }, epoch })
    }

    pub(super) fn commit_words(&self) -> &CommitWords {
        &self.commit
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What the two committed lengths say, the later log's first.
    pub(super) fn committed(&self) -> Result<(Committed, Option<Committed>)> {
        let one = |index| -> Result<Option<Committed>> {
            let word = self.commit.words.load(index);
            if word == 0 {
                return Ok(None);
            }
            Committed::decode(word).map(Some).ok_or_else(|| {
                Error::corrupt(format!(
                    "{}: word {index}, a log's committed length, is damaged ({word:#018x})",
                    self.commit.what
                ))
            })
        };
        match (one(LOG[0])?, one(LOG[1])?) {
            (None, None) => {
                Err(Error::corrupt(format!("{}: no log's committed length is there", self.commit.what)))
            }
            (Some(only), None) | (None, Some(only)) => Ok((only, None)),
            (Some(a), Some(b)) if a.number_low == b.number_low.wrapping_add(1) => Ok((a, Some(b))),
            (Some(a), Some(b)) if b.number_low == a.number_low.wrapping_add(1) => Ok((b, Some(a))),
            (Some(a), Some(b)) => Err(Error::corrupt(format!(
                "{}: the committed lengths are of logs {} and {}, which don't follow each other",
                self.commit.what, a.number_low, b.number_low
            ))),
        }
    }

    /// Whether the file still says what it said, and that log `number` is committed up to byte `bytes`.
    pub(super) fn check(&self, number: u64, bytes: u32) -> Result<()> {
        let (last, _) = self.committed()?;
        let expected = Committed { number_low: low(number), bytes };
        if last != expected || self.commit.words.load(EPOCH) != self.epoch {
            return Err(Error::corrupt(format!(
                "{} says {last:?} where {expected:?} was stored",
                self.commit.what
            )));
        }
        Ok(())
    }

    /// Stores the epoch again, in case it is damaged.
    pub(super) fn restore_epoch(&self) -> io::Result<()> {
        self.commit.words.store(EPOCH, self.epoch)
    }

    /// The log `number` is committed up to byte `bytes` once this store is done.
    pub(super) fn commit(&self, number: u64, bytes: u32) -> io::Result<()> {
        self.commit.words.store(log_word(number), Committed { number_low: low(number), bytes }.encode())?;
        self.commit.words.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_length_finds_each_flipped_bit() {
        for committed in [
            Committed { number_low: 1, bytes: 64 },
            Committed { number_low: 0xffff, bytes: u32::MAX },
            Committed { number_low: 0x1234, bytes: 4 << 20 },
        ] {
            let word = committed.encode();
            assert_eq!(Committed::decode(word), Some(committed));
            for bit in 0..64 {
                assert_eq!(Committed::decode(word ^ 1 << bit), None, "bit {bit}");
            }
        }
    }
}
