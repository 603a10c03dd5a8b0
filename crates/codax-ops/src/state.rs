//! An operation's state as bytes: what a device hands over when it is drained, and gets back.
//!
//! Version 1. Numbers are little-endian.
//!
//! ```text
//!     0..4          "cxop"
//!     4..6          version, 1
//!     6..8          opcode
//!     8..12         length of all of it
//!    12..16         crc32c of bytes 0..12 and 16 to the end
//!    16..40         input: file, start, length (8 bytes each); zeros if the operation has none
//!    40..64         second, likewise
//!    64..88         output, likewise
//!    88..96         position: how many bytes of the input (of `fill`: of the output) are done
//!    96..100        length P of the parameter
//!   100..104        zeros
//!   104..104+P      parameter
//!   from there      progress, by opcode:
//! ```
//!
//! | opcode | bytes | progress |
//! | --- | --- | --- |
//! | `nop`, `copy`, `fill` | 0 | |
//! | `compare` | 16 | offset of the first difference, -1 or 1 (`i64`); zeros if there is none yet |
//! | `search` | 16 | offset of the match, 1; zeros if there is none yet |
//! | `crc32c` | 8 | CRC of what is done |
//! | `xxh3` | 64 | the eight accumulators; of an input of 240 bytes and fewer that is done, the first is the hash |
//! | `histogram` | 2048 | counts by byte |
//! | `sum-f32`, `sum-f64`, `dot-f32`, `dot-f64`, `matvec-f32` | 128 | the 16 partial sums ([`crate::kernel::float`]), of a matrix those of the row that the position is in |
//! | `sum-i64`, `dot-i64` | 16 | sum (`i128`) |
//! | `min-f32`, `min-f64`, `max-f32`, `max-f64` | 16 | the number so far (`f64`, infinite before the first), and of how many |
//! | `min-i64`, `max-i64` | 16 | the number so far, 1; zeros before the first |
//!
//! The position is a multiple of 1024 or at the end; in a matrix, at the end of a row or a multiple of 1024 from its start.

use crate::kernel::{GRAIN, crc32c};
use crate::memory::Which;
use crate::opcode::Opcode;
use crate::operation::Operation;
use crate::spec::{Invalid, Range, Spec};

/// No state is longer; most have less than 240 bytes.
pub const STATE_MAX: usize = 4096;

const MAGIC: [u8; 4] = *b"cxop";
const VERSION: u16 = 1;
const HEADER: usize = 104;

/// Why bytes are no state of an operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadState {
    /// They are too few or too many, or not as many as they say.
    #[error("the saved state of an operation has a wrong length: {0} bytes")]
    Length(usize),
    /// They are something else.
    #[error("this is no saved state of an operation: it doesn't begin with \"cxop\"")]
    Magic,
    /// Another version wrote them.
    #[error(
        "the saved state of an operation has version {0}, and this program knows version {VERSION}: finish it with the one that wrote it"
    )]
    Version(u16),
    /// They were changed.
    #[error("the saved state of an operation is damaged: its checksum is wrong")]
    Checksum,
    /// They say what can't be.
    #[error("the saved state of an operation says what can't be: {0}")]
    Spec(#[from] Invalid),
    /// The position is none that the operation stops at.
    #[error("the saved state of an operation says what can't be: position {0}")]
    Position(u64),
    /// What is zero isn't, or the progress has another form.
    #[error("the saved state of an operation says what can't be: its {0}")]
    Part(&'static str),
}

impl Operation {
    /// Its state: all that is needed to go on somewhere else, at most [`STATE_MAX`] bytes.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        let mut state = Vec::with_capacity(HEADER + 128);
        state.extend(MAGIC);
        state.extend(VERSION.to_le_bytes());
        state.extend(self.spec.opcode.number().to_le_bytes());
        state.extend([0; 8]);
        for range in self.spec.ranges {
            let Range { file, start, len } = range.unwrap_or_default();
            state.extend([file, start, len].map(u64::to_le_bytes).as_flattened());
        }
        state.extend(self.at.to_le_bytes());
        // A spec that was checked has a short one.
        state.extend(u32::try_from(self.spec.parameter.len()).unwrap_or(u32::MAX).to_le_bytes());
        state.extend([0; 4]);
        state.extend(&self.spec.parameter);
        self.work.save(&mut state);
        let len = u32::try_from(state.len()).unwrap_or(u32::MAX);
        state[8..12].copy_from_slice(&len.to_le_bytes());
        let sum = checksum(&state);
        state[12..16].copy_from_slice(&sum.to_le_bytes());
        state
    }

    /// The operation that was saved. Survives any bytes.
    pub fn restore(state: &[u8]) -> Result<Self, BadState> {
        let (spec, at, progress) = parse(state)?;
        let mut operation = Self::new(spec)?;
        if !operation.work.load(progress) {
            return Err(BadState::Part("progress"));
        }
        if !operation.stops_at(at) {
            return Err(BadState::Position(at));
        }
        operation.at = at;
        Ok(operation)
    }

    fn stops_at(&self, at: u64) -> bool {
        const GRAIN_LEN: u64 = GRAIN as u64;
        let row = self.spec.len(Which::Second);
        if at >= self.len() {
            return at == self.len();
        }
        match self.spec.opcode {
            Opcode::MatvecF32 if row <= crate::CHUNK as u64 => at.is_multiple_of(row),
            Opcode::MatvecF32 => (at % row).is_multiple_of(GRAIN_LEN),
            _ => at.is_multiple_of(GRAIN_LEN),
        }
    }
}

/// What an operation does, its position and its progress.
fn parse(state: &[u8]) -> Result<(Spec, u64, &[u8]), BadState> {
    let length = BadState::Length(state.len());
    if state.len() > STATE_MAX {
        return Err(length);
    }
    let Some((header, rest)) = state.split_first_chunk::<HEADER>() else { return Err(length) };
    if header[..4] != MAGIC {
        return Err(BadState::Magic);
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    if version != VERSION {
        return Err(BadState::Version(version));
    }
    if number(header, 8, 4) != state.len() as u64 {
        return Err(length);
    }
    if number(header, 12, 4) != u64::from(checksum(state)) {
        return Err(BadState::Checksum);
    }
    let opcode = Opcode::from_number(u16::from_le_bytes([header[6], header[7]]))?;
    let mut spec = Spec::new(opcode);
    for (i, which) in Which::ALL.into_iter().enumerate() {
        let [file, start, len] = [0, 8, 16].map(|off| number(header, 16 + 24 * i + off, 8));
        let range = Range { file, start, len };
        if opcode.shape().elements[i].is_some() {
            spec = spec.with(which, range);
        } else if range != Range::default() {
            return Err(BadState::Part("range that the operation doesn't have"));
        }
    }
    if number(header, 100, 4) != 0 {
        return Err(BadState::Part("bytes 100 to 103"));
    }
    let parameter = usize::try_from(number(header, 96, 4)).unwrap_or(usize::MAX);
    let (parameter, progress) = rest.split_at_checked(parameter).ok_or(length)?;
    Ok((spec.parameter(parameter), number(header, 88, 8), progress))
}

/// The number of up to 8 bytes at an offset.
fn number(header: &[u8; HEADER], at: usize, len: usize) -> u64 {
    header[at..at + len].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn checksum(state: &[u8]) -> u32 {
    crc32c(crc32c(0, &state[..12]), &state[16..])
}
