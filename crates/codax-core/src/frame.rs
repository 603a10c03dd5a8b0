//! The record of a frame: 16 bytes that anyone may read, and their layout.
//!
//! ```text
//! word 0  bits 0..48   file id of the owner, 0 for none
//!         bits 48..64  page in file, bits 0..16
//! word 1  bits 0..24   page in file, bits 16..40
//!         bits 24..32  state (FrameState)
//!         bits 32..40  flags (FrameFlags)
//!         bits 40..48  pin count, 255 for 255 or more
//!         bits 48..56  accesses by CPUs, decayed
//!         bits 56..64  accesses by the device, decayed
//! ```
//!
//! Both words are little-endian, and each is written in one store.

use crate::{Error, FileId, PageNo, Result};
use serde::{Deserialize, Serialize};

/// Bytes in a record.
pub const RECORD_BYTES: usize = 16;

/// Bits of a file id in a record.
const OWNER_BITS: u32 = 48;
/// Bits of a page number in word 0, above the owner.
const PAGE_LOW_BITS: u32 = 16;
/// Bits of a page number in word 1, below the state.
const PAGE_HIGH_BITS: u32 = 24;

/// The largest file id that a record can hold.
pub const OWNER_MAX: FileId = FileId((1 << OWNER_BITS) - 1);

/// The largest page number that a record can hold: 4 PiB into the file.
pub const PAGE_MAX: PageNo = PageNo((1 << (PAGE_LOW_BITS + PAGE_HIGH_BITS)) - 1);

/// What a frame is in use for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum FrameState {
    /// Nobody's.
    #[default]
    Free = 0,
    /// Holds a page of its owner.
    Used = 1,
    /// Taken for a file in the making, or a move's target.
    Reserved = 2,
    /// No file's any more, but somebody still holds it.
    Held = 3,
    /// Never to be used again.
    Retired = 4,
}

bitflags::bitflags! {
    /// What is special about a frame. Bits that this version doesn't know are kept.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub struct FrameFlags: u8 {
        /// Held in place for DMA.
        const PINNED = 1;
        /// On its way to another pool.
        const MOVING = 2;
        /// Used because system memory is exhausted.
        const EMERGENCY = 4;
        /// The memory is damaged.
        const POISONED = 8;
        /// The device's own; CPUs keep off.
        const DEVICE_PRIVATE = 16;
    }
}

/// The record of one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameRecord {
    /// The file it belongs to; at most [`OWNER_MAX`].
    pub owner: Option<FileId>,
    /// The page of that file; at most [`PAGE_MAX`].
    pub page: PageNo,
    /// What it is in use for.
    pub state: FrameState,
    /// What is special about it.
    pub flags: FrameFlags,
    /// Pins, 255 for 255 or more.
    pub pins: u8,
    /// Accesses by CPUs, decayed.
    pub cpu_heat: u8,
    /// Accesses by the device, decayed.
    pub device_heat: u8,
}

impl FrameRecord {
    /// The record's two words.
    #[must_use]
    pub const fn encode(&self) -> [u64; 2] {
        let owner = match self.owner {
            Some(owner) => owner.0,
            None => 0,
        };
        debug_assert!(owner <= OWNER_MAX.0 && self.page.0 <= PAGE_MAX.0, "the record has no room for that");
        // The low bits of the page are those that the shift leaves.
        let word0 = (owner & OWNER_MAX.0) | self.page.0 << OWNER_BITS;
        let word1 = (self.page.0 & PAGE_MAX.0) >> PAGE_LOW_BITS
            | (self.state as u64) << 24
            | (self.flags.bits() as u64) << 32
            | (self.pins as u64) << 40
            | (self.cpu_heat as u64) << 48
            | (self.device_heat as u64) << 56;
        [word0, word1]
    }

    /// The record that two words are; `Corrupt` for a state that doesn't exist.
    pub fn decode(words: [u64; 2]) -> Result<Self> {
        let owner = words[0] & OWNER_MAX.0;
        let page_high = words[1] & ((1 << PAGE_HIGH_BITS) - 1);
        let [_, _, _, state, flags, pins, cpu_heat, device_heat] = words[1].to_le_bytes();
        let state = match state {
            0 => FrameState::Free,
            1 => FrameState::Used,
            2 => FrameState::Reserved,
            3 => FrameState::Held,
            4 => FrameState::Retired,
            _ => {
                return Err(Error::corrupt(format!(
                    "frame record {words:016x?} has the unknown state {state}"
                )));
            }
        };
        Ok(Self {
            owner: (owner != 0).then_some(FileId(owner)),
            page: PageNo(words[0] >> OWNER_BITS | page_high << PAGE_LOW_BITS),
            state,
            flags: FrameFlags::from_bits_retain(flags),
            pins,
            cpu_heat,
            device_heat,
        })
    }
}

/// The layout in this module's head, proved.
const _: () = {
    assert!(size_of::<[u64; 2]>() == RECORD_BYTES);
    assert!(OWNER_BITS + PAGE_LOW_BITS == 64 && PAGE_HIGH_BITS + 5 * 8 == 64);
    let words = FrameRecord {
        owner: Some(FileId(0xa6a5_a4a3_a2a1)),
        page: PageNo(0xb5_b4b3_b2b1),
        state: FrameState::Retired,
        flags: FrameFlags::all(),
        pins: 0xc1,
        cpu_heat: 0xd1,
        device_heat: 0xe1,
    }
    .encode();
    assert!(words[0] == 0xb2b1_a6a5_a4a3_a2a1);
    assert!(words[1] == 0xe1d1_c11f_04b5_b4b3);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_a_free_frame() {
        assert_eq!(FrameRecord::decode([0, 0]).unwrap(), FrameRecord::default());
        assert_eq!(FrameRecord::default().encode(), [0, 0]);
    }

    #[test]
    fn an_unknown_state_is_an_error() {
        let error = FrameRecord::decode([1, 5 << 24]).unwrap_err();
        assert_eq!(error.kind, crate::ErrorKind::Corrupt);
        assert!(error.message.contains("unknown state 5"), "{error}");
    }
}
