//! The messages of a live move, between the store and each process that maps the file; [`crate::segment`] orders them.
//!
//! A *segment* moves some chunks of one file to one pool. For each chunk the steps are freeze, copy, hold, commit, switch (see
//! ARCHITECTURE.md); a step is over when all mappers have acknowledged it. Mappers never see two segments of one file at once.

use crate::request::OnDevice;
use crate::{FileId, MoveId, PageRange, PoolId};
use serde::{Deserialize, Serialize};

/// What the store tells a mapper. Sent in order over the session's control socket; each is answered by a [`MoverAck`] that
/// repeats its `id` and step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoverMsg {
    /// A segment begins. Carries one descriptor: the file's object in the target pool, unless that is a device which the mapper opens himself. The mapper
    /// stages a mapping of it beside each of its own, and closes the descriptor.
    Begin {
        /// The segment.
        id: MoveId,
        /// Its commit word's index.
        slot: u16,
        /// The file.
        file: FileId,
        /// The target pool.
        to: PoolId,
        /// The chunks' pages, in commit order.
        chunks: Vec<PageRange>,
        /// Whether the target outlives the power.
        persistent: bool,
        /// Where the chunks' pages will be, if the target is a device.
        device: Option<OnDevice>,
    },
    /// Hold writes to chunk `chunk`: write-protect it in every writable mapping. Carries a descriptor of the object it lies in where the kernel doesn't
    /// duplicate mappings of that (hugetlbfs): the mapper needs one for what it does with the old pages, and closes the descriptor.
    Freeze {
        /// The segment.
        id: MoveId,
        /// Index into the segment's chunks.
        chunk: u32,
        /// Whether the kernel can't write-protect where it lies: a placeholder goes over it at once, and reads wait as well.
        closed: bool,
    },
    /// Hold reads too: put a placeholder over the chunk in every mapping. Left out when the file has one mapping in all.
    Hold {
        /// The segment.
        id: MoveId,
        /// Index into the segment's chunks.
        chunk: u32,
    },
    /// The chunk is committed: put the new object over it in every mapping and wake who waits.
    Switch {
        /// The segment.
        id: MoveId,
        /// Index into the segment's chunks.
        chunk: u32,
    },
    /// The chunk stays where it was: undo freeze and hold.
    Rollback {
        /// The segment.
        id: MoveId,
        /// Index into the segment's chunks.
        chunk: u32,
    },
    /// The segment is over. Undo registrations, wake futex sleepers of what was switched, forget staged and old mappings.
    End {
        /// The segment.
        id: MoveId,
    },
}

/// Which step of which segment a mapper has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Step {
    /// [`MoverMsg::Begin`].
    Begin,
    /// [`MoverMsg::Freeze`] of a chunk.
    Freeze(u32),
    /// [`MoverMsg::Hold`] of a chunk.
    Hold(u32),
    /// [`MoverMsg::Switch`] of a chunk.
    Switch(u32),
    /// [`MoverMsg::Rollback`] of a chunk.
    Rollback(u32),
    /// [`MoverMsg::End`].
    End,
}

/// A mapper's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoverAck {
    /// The segment.
    pub id: MoveId,
    /// The step that is done.
    pub step: Step,
    /// Number of live mappings of the file in this process; counts at [`Step::Begin`] only.
    pub mappings: u32,
    /// Why the step could not be done, if it could not: the chunk (or, at `Begin`, the segment) is rolled back. A `Switch`,
    /// `Rollback` or `End` never fails.
    pub refused: Option<String>,
}

/// Bits of a commit word that count chunks, and as many that name the segment.
const WORD_FIELD_BITS: u32 = 24;
const WORD_FIELD_MASK: u64 = (1 << WORD_FIELD_BITS) - 1;

/// The word, beside those of moves, that counts how often something of a file was cut off or punched out.
pub const CUTS: usize = 515;

/// The commit word that says: of segment `id`, the first `count` chunks are committed.
///
/// ```text
/// bits 0..24   count
/// bits 24..48  bits 0..24 of the segment's id
/// bits 48..64  bits 0..16 of the CRC-32C of the six bytes below, in little-endian order
/// ```
///
/// A segment has fewer than 2^24 chunks.
#[must_use]
pub fn encode_word(id: MoveId, count: u32) -> u64 {
    debug_assert!(u64::from(count) <= WORD_FIELD_MASK, "a segment of {count} chunks");
    let fields = u64::from(count) & WORD_FIELD_MASK | (u64::from(id.0) & WORD_FIELD_MASK) << WORD_FIELD_BITS;
    fields | word_check(fields) << 48
}

/// What a commit word says: bits 0..24 of the segment's id, and how many of its chunks are committed. `None` for one that was never
/// written (0) or is damaged.
#[must_use]
pub fn decode_word(word: u64) -> Option<(u32, u32)> {
    if word == 0 || word_check(word) != word >> 48 {
        return None;
    }
    let field = |word: u64| u32::try_from(word & WORD_FIELD_MASK).ok();
    Some((field(word >> WORD_FIELD_BITS)?, field(word)?))
}

/// The check bits of a commit word's low six bytes.
fn word_check(word: u64) -> u64 {
    u64::from(crc32c::crc32c(&word.to_le_bytes()[..6]) & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_were_not_written_say_nothing() {
        assert_eq!(decode_word(0), None);
        assert_eq!(decode_word(u64::MAX), None);
        assert_eq!(decode_word(encode_word(MoveId(0), 0)), Some((0, 0)));
        assert_ne!(encode_word(MoveId(0), 0), 0);
    }
}
