//! Which operations there are.

use crate::spec::{Invalid, NEEDLE_MAX};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// What an operation wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// For each of [`crate::Which::ALL`]: the size of its elements, if the operation has such a range.
    pub elements: [Option<u64>; 3],
    /// How long its parameter may be.
    pub parameter: RangeInclusive<usize>,
}

macro_rules! opcodes {
    ($($(#[doc = $doc:literal])* $variant:ident = $number:literal, $name:literal, $summary:literal, $elements:expr;)*) => {
        /// An operation, by the number that it has in descriptors and saved states.
        ///
        /// Ranges are the *input*, the *second* and the *output* range; results are the 16 bytes of [`crate::Outcome`]: integers and floats there are
        /// little-endian, as are the elements of ranges, which need not be aligned. Where a result says `n`, it is the number of elements.
        #[repr(u16)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Opcode {
            $($(#[doc = $doc])* $variant = $number,)*
        }

        impl Opcode {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// What it does, in a line.
            #[must_use]
            pub const fn summary(self) -> &'static str {
                match self {
                    $(Self::$variant => $summary,)*
                }
            }

            const fn elements(self) -> [Option<u64>; 3] {
                match self {
                    $(Self::$variant => $elements,)*
                }
            }

            /// The operation with this number.
            pub const fn from_number(number: u16) -> Result<Self, Invalid> {
                match number {
                    $($number => Ok(Self::$variant),)*
                    _ => Err(Invalid::Opcode(number)),
                }
            }
        }
    };
}

const NONE: [Option<u64>; 3] = [None; 3];
const WRITES: [Option<u64>; 3] = [None, None, Some(1)];
const COPIES: [Option<u64>; 3] = [Some(1), None, Some(1)];

const fn reads(element: u64) -> [Option<u64>; 3] {
    [Some(element), None, None]
}

const fn reads_two(element: u64) -> [Option<u64>; 3] {
    [Some(element), Some(element), None]
}

opcodes! {
    /// Nothing; for the measure of queues. No ranges. Result: zeros.
    Nop = 1, "nop", "nothing", NONE;
    /// Copies the input to the output, which has the same length and doesn't overlap it. Result: bytes 0..8 how many bytes were written.
    Copy = 2, "copy", "copies INPUT to OUTPUT", COPIES;
    /// Sets each byte of the output to the parameter, one byte. Result: bytes 0..8 how many bytes were written.
    Fill = 3, "fill", "sets each byte of OUTPUT to a value", WRITES;
    /// Compares the input with the second range, which has the same length. Result: bytes 0..8 the offset of the first difference, or the length
    /// if there is none; 8..16 an `i64`, 0 if there is none, -1 if the input's byte there is the smaller, 1 if it is the larger. Empty ranges are equal.
    Compare = 4, "compare", "finds the first difference of INPUT and SECOND", reads_two(1);
    /// Looks for the parameter, 1 to 256 bytes, in the input. Result: bytes 0..8 the offset of the first match, or `u64::MAX`; 8..16 whether there
    /// is one, 0 or 1. It ends there. In an empty range, or one shorter than the parameter, there is none.
    Search = 5, "search", "finds the first occurrence of a byte string in INPUT", reads(1);
    /// CRC-32C of the input (Castagnoli, RFC 3720). Result: bytes 0..4. Of an empty range: 0.
    Crc32c = 6, "crc32c", "CRC-32C of INPUT", reads(1);
    /// XXH3, 64 bits, seed 0, of the input. Result: bytes 0..8. Of an empty range: `0x2d06800538d394c2`.
    Xxh3 = 7, "xxh3", "XXH3 (64 bits) of INPUT", reads(1);
    /// Counts how often each byte is in the input. The output is 256 `u64`, 2048 bytes, and doesn't overlap the input; it is written once, at the end.
    /// Result: bytes 0..8 how many bytes were counted. Of an empty range: 256 zeros.
    Histogram = 8, "histogram", "counts each byte value of INPUT into 256 u64 at OUTPUT", COPIES;
    /// Sum of `f32`, in `f64`: [`crate::kernel::float`] says in which order. Result: bytes 0..8 an `f64`, 8..16 `n`. A NaN makes it NaN. Of an empty range: 0.
    SumF32 = 16, "sum-f32", "sum of the f32 in INPUT", reads(4);
    /// Sum of `f64`: as [`Self::SumF32`].
    SumF64 = 17, "sum-f64", "sum of the f64 in INPUT", reads(8);
    /// Sum of `i64`. Result: an `i128`, exact. Of an empty range: 0.
    SumI64 = 18, "sum-i64", "sum of the i64 in INPUT", reads(8);
    /// Least of the `f32` that aren't NaN. Result: bytes 0..8 an `f64`, 8..16 how many aren't NaN; of none the least is NaN. A zero is given as +0.
    MinF32 = 20, "min-f32", "least of the f32 in INPUT", reads(4);
    /// Least of the `f64` that aren't NaN: as [`Self::MinF32`].
    MinF64 = 21, "min-f64", "least of the f64 in INPUT", reads(8);
    /// Least of `i64`. Result: bytes 0..8 an `i64`, 8..16 `n`. Of an empty range: 0 and 0.
    MinI64 = 22, "min-i64", "least of the i64 in INPUT", reads(8);
    /// Greatest of the `f32` that aren't NaN: as [`Self::MinF32`].
    MaxF32 = 24, "max-f32", "greatest of the f32 in INPUT", reads(4);
    /// Greatest of the `f64` that aren't NaN: as [`Self::MinF32`].
    MaxF64 = 25, "max-f64", "greatest of the f64 in INPUT", reads(8);
    /// Greatest of `i64`: as [`Self::MinI64`].
    MaxI64 = 26, "max-i64", "greatest of the i64 in INPUT", reads(8);
    /// Sum of the products of `f32` in the input and the second range, which has the same length: products and sum in `f64`, otherwise as [`Self::SumF32`].
    DotF32 = 28, "dot-f32", "dot product of the f32 in INPUT and SECOND", reads_two(4);
    /// The same of `f64`.
    DotF64 = 29, "dot-f64", "dot product of the f64 in INPUT and SECOND", reads_two(8);
    /// The same of `i64`. Result: an `i128`, modulo 2^128 (no less than four products can go beyond).
    DotI64 = 30, "dot-i64", "dot product of the i64 in INPUT and SECOND", reads_two(8);
    /// Product of a matrix of `f32`, row after row in the input, and a vector, the second range. The output has an `f32` for each row, and overlaps
    /// neither; its length says how many rows there are, the vector's how many columns, and there is at least one column where there are rows. Each is the dot product of row and
    /// vector as [`Self::DotF32`] has it, rounded to `f32`. Result: bytes 0..8 how many bytes were written.
    MatvecF32 = 32, "matvec-f32", "product of the f32 matrix INPUT and the vector SECOND, to OUTPUT", [Some(4); 3];
}

impl Opcode {
    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// What it wants.
    #[must_use]
    pub const fn shape(self) -> Shape {
        let parameter = match self {
            Self::Fill => 1..=1,
            Self::Search => 1..=NEEDLE_MAX,
            _ => 0..=0,
        };
        Shape { elements: self.elements(), parameter }
    }
}

impl fmt::Display for Opcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Opcode {
    type Err = Invalid;

    fn from_str(name: &str) -> Result<Self, Invalid> {
        let found = Self::ALL.iter().find(|op| op.name() == name);
        found.copied().ok_or_else(|| Invalid::Name(name.to_owned()))
    }
}
