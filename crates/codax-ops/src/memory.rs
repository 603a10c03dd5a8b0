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

/// What looks at bytes of the input and of the second range; returns at how many of each.
pub type Look<'a> = dyn FnMut(&[u8], &[u8]) -> usize + 'a;

/// The ranges of one operation, as it reads and writes them: from the front to the back, all inside the ranges of its [`crate::Spec`]. Others may write
/// the memory at the same time.
pub trait Memory {
    /// Fills `to` with the bytes at offset `at` of a range. For mappings it should also have the memory fetch what lies some KiB behind what it copies: see the crate's
    /// first page.
    fn read(&mut self, which: Which, at: u64, to: &mut [u8]) -> Result<(), Fault>;

    /// Writes bytes at offset `at` of a range, the output.
    fn write(&mut self, which: Which, at: u64, from: &[u8]) -> Result<(), Fault>;

    /// Has `look` go through `len` bytes, or until it has found what it looks for, where they lie: of the input from an offset on and, if there is another, of the second range from that on. False if
    /// they can't be reached so: then they are read, to where it fails.
    ///
    /// A `look` may be left in the middle, at any byte that isn't there, and false be returned: it has nothing to drop then, holds no lock, and what it has found out is
    /// forgotten. It takes bytes as values that may change from one load to the next.
    fn look(&mut self, len: usize, input: u64, second: Option<u64>, look: &mut Look<'_>) -> bool {
        let _ = (len, input, second, look);
        false
    }
}
