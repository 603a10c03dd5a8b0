//! What an operation is asked to do, and whether that makes sense.

use crate::memory::Which;
use crate::opcode::Opcode;

/// How long a byte string that is searched for may be: it is part of the state.
pub const NEEDLE_MAX: usize = 256;

/// Length of a histogram: 256 `u64`.
pub(crate) const HISTOGRAM_LEN: u64 = 256 * 8;

/// A range of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Range {
    /// Which file: a number that the caller gives to it. Ranges of one file may overlap, those of two can't.
    pub file: u64,
    /// Offset of its first byte.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
}

impl Range {
    /// Where it ends. Checked before ([`Spec::check`]).
    fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// Whether it has a byte in common with another one.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let empty = self.len == 0 || other.len == 0;
        !empty && self.file == other.file && self.start < other.end() && other.start < self.end()
    }
}

/// An operation, its ranges and its parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Which operation.
    pub opcode: Opcode,
    /// Its ranges, in the order of [`Which::ALL`].
    pub ranges: [Option<Range>; 3],
    /// The byte of a `fill`, the string of a `search`; of others empty.
    pub parameter: Vec<u8>,
}

/// Why an operation can't be done: one line, to be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// No operation has this number.
    #[error("there is no operation with the number {0}")]
    Opcode(u16),
    /// No operation has this name.
    #[error("there is no operation {0:?}: there are {names}", names = names())]
    Name(String),
    /// A range is missing.
    #[error("{0} needs a range as its {1}")]
    Missing(Opcode, Which),
    /// A range is too many.
    #[error("{0} takes no {1} range: leave it out")]
    Surplus(Opcode, Which),
    /// A range ends beyond what can be an offset in a file.
    #[error("the {0} range ends beyond the largest offset of a file, 2^63 - 1")]
    Beyond(Which),
    /// A range has a part of an element at its end.
    #[error(
        "{opcode} works on elements of {element} bytes, and the {which} range has {len} bytes, which is no multiple of it"
    )]
    Torn {
        /// Of which operation.
        opcode: Opcode,
        /// Which range.
        which: Which,
        /// Its length.
        len: u64,
        /// Bytes of an element.
        element: u64,
    },
    /// A range has not the length that the others ask for.
    #[error(
        "{opcode} needs {wanted} bytes as its {which} range with the other ranges given, and it has {len}"
    )]
    Length {
        /// Of which operation.
        opcode: Opcode,
        /// Which range.
        which: Which,
        /// Its length.
        len: u64,
        /// The length it should have.
        wanted: u128,
    },
    /// The output overlaps what is read.
    #[error("the output range of {0} overlaps its {1} range: they have to lie apart")]
    Overlap(Opcode, Which),
    /// A parameter is missing, too long or too many.
    #[error("{opcode} takes {}, and {len} bytes were given", takes(*.opcode))]
    Parameter {
        /// Of which operation.
        opcode: Opcode,
        /// The parameter's length.
        len: usize,
    },
}

fn names() -> String {
    let names: Vec<_> = Opcode::ALL.iter().map(|op| op.name()).collect();
    names.join(", ")
}

fn takes(opcode: Opcode) -> String {
    let allowed = opcode.shape().parameter;
    match (*allowed.start(), *allowed.end()) {
        (_, 0) => "no parameter".to_owned(),
        (1, 1) => "a parameter of one byte".to_owned(),
        (least, most) => format!("a parameter of {least} to {most} bytes"),
    }
}

impl Spec {
    /// An operation without ranges yet.
    #[must_use]
    pub fn new(opcode: Opcode) -> Self {
        Self { opcode, ranges: [None; 3], parameter: Vec::new() }
    }

    /// With this range.
    #[must_use]
    pub fn with(mut self, which: Which, range: Range) -> Self {
        self.ranges[which as usize] = Some(range);
        self
    }

    /// With this parameter.
    #[must_use]
    pub fn parameter(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.parameter = bytes.into();
        self
    }

    /// The length of a range, 0 if there is none.
    #[must_use]
    pub fn len(&self, which: Which) -> u64 {
        self.ranges[which as usize].map_or(0, |range| range.len)
    }

    /// Whether it makes sense.
    pub fn check(&self) -> Result<(), Invalid> {
        let opcode = self.opcode;
        let shape = opcode.shape();
        for which in Which::ALL {
            match (self.ranges[which as usize], shape.elements[which as usize]) {
                (Some(range), Some(element)) => check_range(opcode, which, range, element)?,
                (None, Some(_)) => return Err(Invalid::Missing(opcode, which)),
                (Some(_), None) => return Err(Invalid::Surplus(opcode, which)),
                (None, None) => {}
            }
        }
        if !shape.parameter.contains(&self.parameter.len()) {
            return Err(Invalid::Parameter { opcode, len: self.parameter.len() });
        }
        self.check_lengths()?;
        self.check_overlaps()
    }

    fn check_lengths(&self) -> Result<(), Invalid> {
        let [input, second, output] = Which::ALL.map(|which| self.len(which));
        let (which, wanted) = match self.opcode {
            Opcode::Copy => (Which::Output, u128::from(input)),
            Opcode::Compare | Opcode::DotF32 | Opcode::DotF64 | Opcode::DotI64 => {
                (Which::Second, u128::from(input))
            }
            Opcode::Histogram => (Which::Output, u128::from(HISTOGRAM_LEN)),
            // Of a matrix without columns nothing would say how many rows it has that isn't about to be overwritten.
            Opcode::MatvecF32 if second == 0 && output > 0 => (Which::Output, 0),
            Opcode::MatvecF32 => (Which::Input, u128::from(output / 4) * u128::from(second)),
            _ => return Ok(()),
        };
        let len = self.len(which);
        if u128::from(len) != wanted {
            return Err(Invalid::Length { opcode: self.opcode, which, len, wanted });
        }
        Ok(())
    }

    fn check_overlaps(&self) -> Result<(), Invalid> {
        let [input, second, output] = self.ranges;
        let Some(output) = output else { return Ok(()) };
        for (which, range) in [(Which::Input, input), (Which::Second, second)] {
            if range.is_some_and(|range| range.overlaps(&output)) {
                return Err(Invalid::Overlap(self.opcode, which));
            }
        }
        Ok(())
    }
}

fn check_range(opcode: Opcode, which: Which, range: Range, element: u64) -> Result<(), Invalid> {
    if range.start.checked_add(range.len).is_none_or(|end| i64::try_from(end).is_err()) {
        return Err(Invalid::Beyond(which));
    }
    if !range.len.is_multiple_of(element) {
        return Err(Invalid::Torn { opcode, which, len: range.len, element });
    }
    Ok(())
}
