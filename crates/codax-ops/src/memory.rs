//! How an operation reaches its ranges.

use std::fmt;

/// One of an operation's ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// What every operation but `fill` and `nop` reads.
    Input,
    /// What some read beside it: the other side of a comparison, the vector.
    Second,
    /// What is written.
    Output,
}

impl Which {
    /// All of them, as they lie in [`crate::Spec::ranges`].
    pub const ALL: [Self; 3] = [Self::Input, Self::Second, Self::Output];
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Second => "second",
            Self::Output => "output",
        })
    }
}

/// A byte of a range that isn't there: its file was cut, or its memory is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at} of the {which} range can't be reached: its file was cut, or its memory is broken")]
pub struct Fault {
    /// Of which range.
    pub which: Which,
    /// Its offset there.
    pub at: u64,
}

/// The ranges of one operation, as it reads and writes them: in chunks, from the front to the back, all inside the ranges of its
/// [`crate::Spec`].
///
/// Bytes are copied out and in, so that others may write the memory at the same time. For mappings `read` should also have
/// the memory fetch what lies some KiB behind what it copies: see the crate's first page.
pub trait Memory {
    /// Fills `to` with the bytes at offset `at` of a range.
    fn read(&mut self, which: Which, at: u64, to: &mut [u8]) -> Result<(), Fault>;

    /// Writes bytes at offset `at` of a range, the output.
    fn write(&mut self, which: Which, at: u64, from: &[u8]) -> Result<(), Fault>;
}
