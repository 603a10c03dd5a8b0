//! What an operation gives.

use crate::opcode::Opcode;
use std::fmt;

/// The 16 bytes of a result. [`Opcode`] says what they are; [`Self::value`] reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome(pub [u8; 16]);

/// A result, read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Nothing,
    /// So many bytes were written, or counted.
    Bytes(u64),
    /// The first difference, and how the input's byte there is ordered.
    Difference(Option<(u64, std::cmp::Ordering)>),
    /// Where the string was found.
    Found(Option<u64>),
    /// A CRC-32C.
    Crc32c(u32),
    /// An XXH3.
    Xxh3(u64),
    /// A sum, a least or greatest number, and of how many.
    Float(f64, u64),
    /// The least or greatest integer, if there was one.
    Integer(Option<i64>),
    /// An exact sum.
    Wide(i128),
}

impl Outcome {
    pub(crate) fn pair(first: u64, second: u64) -> Self {
        Self((u128::from(second) << 64 | u128::from(first)).to_le_bytes())
    }

    pub(crate) fn wide(value: i128) -> Self {
        Self(value.to_le_bytes())
    }

    /// NaNs have many bit patterns, and which one comes out of a sum depends on the machine: here it is one.
    pub(crate) fn float(value: f64, count: u64) -> Self {
        let value = if value.is_nan() { f64::NAN } else { value };
        Self::pair(value.to_bits(), count)
    }

    pub(crate) fn halves(self) -> (u64, u64) {
        let ([first, second], _) = self.0.as_chunks::<8>() else {
            unreachable!("16 bytes are two times eight")
        };
        (u64::from_le_bytes(*first), u64::from_le_bytes(*second))
    }

    /// What it says, as the result of this operation.
    #[must_use]
    pub fn value(self, opcode: Opcode) -> Value {
        let (first, second) = self.halves();
        match opcode {
            Opcode::Nop => Value::Nothing,
            Opcode::Copy | Opcode::Fill | Opcode::Histogram | Opcode::MatvecF32 => Value::Bytes(first),
            Opcode::Compare => Value::Difference(match second.cast_signed() {
                0 => None,
                order => Some((first, order.cmp(&0))),
            }),
            Opcode::Search => Value::Found((second != 0).then_some(first)),
            Opcode::Crc32c => {
                let [a, b, c, d, ..] = self.0;
                Value::Crc32c(u32::from_le_bytes([a, b, c, d]))
            }
            Opcode::Xxh3 => Value::Xxh3(first),
            Opcode::SumI64 | Opcode::DotI64 => Value::Wide(i128::from_le_bytes(self.0)),
            Opcode::MinI64 | Opcode::MaxI64 => Value::Integer((second != 0).then_some(first.cast_signed())),
            Opcode::SumF32
            | Opcode::SumF64
            | Opcode::MinF32
            | Opcode::MinF64
            | Opcode::MaxF32
            | Opcode::MaxF64
            | Opcode::DotF32
            | Opcode::DotF64 => Value::Float(f64::from_bits(first), second),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("done"),
            Self::Bytes(n) => write!(f, "{n} bytes"),
            Self::Difference(None) => f.write_str("equal"),
            Self::Difference(Some((at, order))) => {
                let order = if order.is_lt() { "less" } else { "greater" };
                write!(f, "differs at {at}: {order}")
            }
            Self::Found(Some(at)) => write!(f, "found at {at}"),
            Self::Found(None) | Self::Integer(None) => f.write_str("none"),
            Self::Crc32c(sum) => write!(f, "{sum:08x}"),
            Self::Xxh3(hash) => write!(f, "{hash:016x}"),
            // Else it would be hundreds of digits.
            Self::Float(value, _)
                if value.is_finite() && (value.abs() >= 1e16 || value.abs() < 1e-5 && *value != 0.0) =>
            {
                write!(f, "{value:e}")
            }
            Self::Float(value, _) => write!(f, "{value}"),
            Self::Integer(Some(value)) => write!(f, "{value}"),
            Self::Wide(value) => write!(f, "{value}"),
        }
    }
}
