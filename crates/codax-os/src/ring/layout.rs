//! What lies where in a ring's memory.
//!
//! Little-endian. One page of header, then the slots, each a cache line; the whole is rounded up to pages.
//!
//! ```text
//! header                                        slot
//!   0  u64  magic, "codaxrng"                     0  u32  state, see below
//!   8  u32  version, 1                            4  u32  asks of the submitter, see below
//!  12  u32  slots, a power of two, 2 to 65536     8  u16  opcode      ┐ i32  status
//!  64  u32  why it is closed, 0 if it isn't      10  u16  flags       ┘
//!  68  u32  1 if the consumer sleeps             12  u32  first file  ─ 0
//!  72  u32  threads that wait, asleep            16  u32  second file
//!  76  u32  ends that are there: bit 0 the       20  u32  how much is done, see below
//!           submitter, bit 1 the consumer        24  u64  first offset
//!  80  u32  requests that were cancelled         32  u64  second offset
//! 4096      slots                                40  u64  length      ─ u64  time taken, in ns
//!                                                48  [16] argument    ─ [16] result
//! ```
//!
//! What stands to the right of a descriptor's field is what a completion puts in its place. Until then the descriptor stays as it was submitted, for whoever carries
//! it out: how much is done of the length has a field of its own, which is 0 in a new request. It counts bytes, or the least power of two of them with which the length
//! has 32 bits.
//!
//! Requests are counted from 0: the **position**. Position `p` has the slot `p % slots`, in the **lap** `p / slots`.
//! The state is `2 * lap` if the slot waits for the submission of this lap (what the lap before left: 0 in fresh
//! memory, or done), `2 * lap + 1` if it was submitted, `2 * lap + 2` if it is done; modulo 2^31. Bit 31 is set by
//! who closes the ring, and says nothing of the slot.
//!
//! The asks are `lap * 4`, with bit 0 if the thread that waits for the completion sleeps on the state, and bit 1 if
//! the request shall be cancelled; modulo 2^32.
#![forbid(unsafe_code)]

use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// The header's first word.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"codaxrng");

/// The layout's version.
pub(super) const VERSION: u32 = 1;

/// Where the slots begin, in bytes.
pub(super) const SLOTS_AT: usize = crate::util::PAGE;

/// Most slots a ring can have.
pub(super) const SLOTS_MAX: u32 = 1 << 16;

/// In the state of each slot of a closed ring.
pub(super) const CLOSED: u32 = 1 << 31;

/// In a slot's asks: who waits for it sleeps.
pub(super) const ASLEEP: u32 = 1;

/// In a slot's asks: it shall be cancelled.
pub(super) const CANCEL: u32 = 2;

/// The header's words; `A` and `B` are atomics of 32 and 64 bits.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Header<A, B> {
    pub(super) magic: B,
    pub(super) version: A,
    pub(super) slots: A,
    pub(super) rest: [B; 6],
    pub(super) closed: A,
    pub(super) consumer_sleeps: A,
    pub(super) waiters: A,
    pub(super) ends: A,
    pub(super) cancels: A,
}

/// A slot's words.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Slot<A, B> {
    pub(super) state: A,
    pub(super) asks: A,
    pub(super) words: [B; 7],
}

/// What a request asks for. The numbers mean what submitter and consumer agree on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// The operation.
    pub opcode: u16,
    /// [`Descriptor::FENCE`], [`Descriptor::FAIL_AT_ONCE`], or bits of the caller's.
    pub flags: u16,
    /// Handles of files.
    pub files: [u32; 2],
    /// Where in these it begins.
    pub offsets: [u64; 2],
    /// How many bytes it is about.
    pub len: u64,
    /// More, by operation.
    pub argument: [u8; 16],
}

/// What became of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// 0, or what the consumer calls the failure; [`Completion::CANCELLED`].
    pub status: i32,
    /// How long it took, by the consumer's account, in ns.
    pub took_ns: u64,
    /// The result, or where it is.
    pub result: [u8; 16],
}

impl Descriptor {
    /// Begins when all that was submitted before is complete.
    pub const FENCE: u16 = 1;

    /// Fails rather than waits if the device is drained.
    pub const FAIL_AT_ONCE: u16 = 2;

    /// Which of a slot's words have the length, and above the second file how much of it is done.
    pub(super) const LEN_WORD: usize = 4;
    pub(super) const DONE_WORD: usize = 1;

    /// The word with what is done, as it is when so many bytes are left.
    pub(super) const fn done_word(&self, left: u64) -> u64 {
        (self.len.saturating_sub(left) >> unit(self.len)) << 32 | self.files[1] as u64
    }

    /// How many bytes are left, by these two words.
    pub(super) const fn left(len: u64, done_word: u64) -> u64 {
        len.saturating_sub((done_word >> 32) << unit(len))
    }

    /// As a slot has it.
    #[must_use]
    pub const fn encode(&self) -> [u64; 7] {
        let head = self.opcode as u64 | (self.flags as u64) << 16 | (self.files[0] as u64) << 32;
        let [low, high] = halves(self.argument);
        [head, self.files[1] as u64, self.offsets[0], self.offsets[1], self.len, low, high]
    }

    /// Of any words.
    #[must_use]
    pub const fn decode(words: [u64; 7]) -> Self {
        let [o0, o1, f0, f1, a, b, c, d] = words[0].to_le_bytes();
        let [e, f, g, h, ..] = words[1].to_le_bytes();
        Self {
            opcode: u16::from_le_bytes([o0, o1]),
            flags: u16::from_le_bytes([f0, f1]),
            files: [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])],
            offsets: [words[2], words[3]],
            len: words[4],
            argument: joined([words[5], words[6]]),
        }
    }
}

impl Completion {
    /// The status of a request that was cancelled.
    pub const CANCELLED: i32 = -libc::ECANCELED;

    /// The status of a request that did not want to wait while the device is at rest.
    pub const DRAINED: i32 = -libc::EAGAIN;

    /// The status of a request that a reset has forgotten.
    pub const RESET: i32 = -libc::ECONNRESET;

    /// The completion of a request of which nothing came.
    #[must_use]
    pub const fn failed(status: i32) -> Self {
        Self { status, took_ns: 0, result: [0; 16] }
    }

    /// The completion of a cancelled request.
    #[must_use]
    pub const fn cancelled() -> Self {
        Self::failed(Self::CANCELLED)
    }

    /// Which of a slot's words it takes.
    pub(super) const WORDS: [usize; 4] = [0, 4, 5, 6];

    /// What those are.
    pub(super) const fn encode(&self) -> [u64; 4] {
        let [low, high] = halves(self.result);
        [self.status.cast_unsigned() as u64, self.took_ns, low, high]
    }

    /// Of any words.
    pub(super) const fn decode(words: [u64; 4]) -> Self {
        let [a, b, c, d, ..] = words[0].to_le_bytes();
        Self {
            status: i32::from_le_bytes([a, b, c, d]),
            took_ns: words[1],
            result: joined([words[2], words[3]]),
        }
    }
}

/// What is done of so many bytes is counted in this power of two of them.
const fn unit(len: u64) -> u32 {
    (u64::BITS - len.leading_zeros()).saturating_sub(32)
}

const fn halves(bytes: [u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    [u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes([i, j, k, l, m, n, o, p])]
}

const fn joined(words: [u64; 2]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h] = words[0].to_le_bytes();
    let [i, j, k, l, m, n, o, p] = words[1].to_le_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// Where positions lie and what their states are, in a ring of so many slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Laps {
    mask: u64,
    shift: u32,
}

impl Laps {
    /// `slots` is a power of two.
    pub(super) const fn new(slots: u32) -> Self {
        debug_assert!(slots.is_power_of_two());
        Self { mask: slots as u64 - 1, shift: slots.trailing_zeros() }
    }

    #[inline]
    pub(super) const fn slots(self) -> u64 {
        self.mask + 1
    }

    #[inline]
    pub(super) const fn slot(self, position: u64) -> usize {
        crate::util::to_usize(position & self.mask)
    }

    /// The state in which a slot waits to be submitted as this position.
    #[inline]
    pub(super) const fn vacant(self, position: u64) -> u32 {
        low(self.lap(position) << 1) & !CLOSED
    }

    #[inline]
    pub(super) const fn submitted(self, position: u64) -> u32 {
        self.vacant(position) | 1
    }

    #[inline]
    pub(super) const fn done(self, position: u64) -> u32 {
        low((self.lap(position) << 1) + 2) & !CLOSED
    }

    /// The asks of a position that asks for nothing.
    #[inline]
    pub(super) const fn asks(self, position: u64) -> u32 {
        low(self.lap(position) << 2)
    }

    #[inline]
    const fn lap(self, position: u64) -> u64 {
        position >> self.shift
    }

    /// The first position from this one on that has the slot.
    pub(super) const fn first_of(self, slot: usize, from: u64) -> u64 {
        from + ((slot as u64).wrapping_sub(from) & self.mask)
    }
}

/// Whether a state is that of a slot which was submitted, in whichever lap, and isn't done.
pub(super) const fn is_submitted(state: u32) -> bool {
    state & 1 == 1
}

#[allow(clippy::cast_possible_truncation)] // That is what it is for.
const fn low(value: u64) -> u32 {
    value as u32
}

/// The layout in this module's head, proved.
const _: () = {
    type H = Header<AtomicU32, AtomicU64>;
    type S = Slot<AtomicU32, AtomicU64>;
    assert!(offset_of!(H, magic) == 0 && offset_of!(H, version) == 8 && offset_of!(H, slots) == 12);
    assert!(offset_of!(H, closed) == 64 && offset_of!(H, consumer_sleeps) == 68);
    assert!(offset_of!(H, waiters) == 72 && offset_of!(H, ends) == 76 && offset_of!(H, cancels) == 80);
    assert!(size_of::<H>() == 128 && align_of::<H>() == 64 && size_of::<H>() <= SLOTS_AT);
    assert!(offset_of!(S, state) == 0 && offset_of!(S, asks) == 4 && offset_of!(S, words) == 8);
    assert!(size_of::<S>() == 64 && align_of::<S>() == 64 && SLOTS_AT.is_multiple_of(64));

    let words = Descriptor {
        opcode: 0xa2a1,
        flags: 0xb2b1,
        files: [0xc4c3_c2c1, 0xd4d3_d2d1],
        offsets: [0xe1, 0xe2],
        len: 0xf1,
        argument: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
    }
    .encode();
    assert!(words[0] == 0xc4c3_c2c1_b2b1_a2a1 && words[1] == 0xd4d3_d2d1);
    assert!(words[2] == 0xe1 && words[3] == 0xe2 && words[4] == 0xf1);
    assert!(words[5] == 0x0807_0605_0403_0201 && words[6] == 0x100f_0e0d_0c0b_0a09);

    let words = Completion { status: -2, took_ns: 0xa1, result: [3; 16] }.encode();
    assert!(
        words[0] == 0xffff_fffe
            && words[1] == 0xa1
            && words[2] == words[3]
            && words[3] == 0x0303_0303_0303_0303
    );
    assert!(
        offset_of!(S, words) + 8 * Completion::WORDS[0] == 8
            && offset_of!(S, words) + 8 * Completion::WORDS[1] == 40
    );
    assert!(offset_of!(S, words) + 8 * Completion::WORDS[2] == 48 && Completion::WORDS[3] == 6);

    // Where laps wrap the next state is still the one that the lap before leaves.
    let (laps, last) = (Laps::new(2), (1 << 30) * 2 - 1);
    assert!(laps.vacant(last) == 0x7fff_fffe && laps.submitted(last) == 0x7fff_ffff && laps.done(last) == 0);
    assert!(is_submitted(laps.submitted(5)) && !is_submitted(laps.vacant(5)) && !is_submitted(laps.done(5)));
    assert!(laps.vacant(last + 2) == 0 && laps.slot(last) == 1 && laps.asks(last) == 0xffff_fffc);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let argument = std::array::from_fn(|i| u8::try_from(i * 15).unwrap());
        let request = Descriptor {
            opcode: 0x0102,
            flags: 0x8003,
            files: [u32::MAX - 1, 7],
            offsets: [u64::MAX, 1 << 40],
            len: 3,
            argument,
        };
        assert_eq!(Descriptor::decode(request.encode()), request);
        assert_eq!(
            Descriptor::decode(request.encode()).done_word(3),
            request.encode()[Descriptor::DONE_WORD]
        );
        let completion = Completion { status: -125, took_ns: u64::MAX, result: argument };
        assert_eq!(Completion::decode(completion.encode()), completion);
    }
    #[test]
    fn what_is_left_is_told_beside_the_request() {
        for (len, near) in
            [(0, 0), (1, 0), (64 << 20, 0), (u64::from(u32::MAX), 0), (1 << 40, 1 << 9), (u64::MAX, 1 << 32)]
        {
            let request = Descriptor { files: [1, u32::MAX], len, ..Descriptor::default() };
            let words = request.encode();
            assert_eq!(Descriptor::left(len, words[Descriptor::DONE_WORD]), len);
            for left in [len, len / 3, 1.min(len), 0] {
                let told = Descriptor { len, ..request }.done_word(left);
                assert!(Descriptor::left(len, told) - left <= near, "{left} of {len}");
                let mut words = words;
                words[Descriptor::DONE_WORD] = told;
                assert_eq!(Descriptor::decode(words), request, "{left} of {len}");
            }
        }
    }
}
