//! Operations as the descriptors of queues have them: the table in `docs/queues.md`.

use super::Descriptor;
use codax_core::{Error, Result};
use codax_ops::{Opcode, Range, Spec, Which};

/// The longest search string that a descriptor has in itself.
pub const INLINE_MAX: usize = 16;

/// A descriptor's flag: the result goes to a file ([`result_to`]).
pub const RESULT_TO: u16 = 1 << 2;

/// Length of a result.
pub const RESULT_LEN: u64 = 16;

/// Length of what `histogram` writes.
const HISTOGRAM_LEN: u64 = 2048;

/// Bytes of an `f32`.
const F32: u64 = 4;

/// What a descriptor asks for. The files of its ranges are the numbers that the queue has for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The operation, without the search string if that lies in a file. Nothing of it is checked.
    pub spec: Spec,
    /// Where the search string lies.
    pub string: Option<Range>,
    /// Where the result goes, if not into the completion.
    pub result: Option<Range>,
}

/// The descriptor of an operation, whose ranges name files by the numbers that [`super::Queue::file`] gave. `Invalid` if it makes no sense, or if a search string is longer
/// than 16 bytes: a longer one is put into a file.
pub fn descriptor(spec: &Spec) -> Result<Descriptor> {
    spec.check().map_err(|e| Error::invalid(e.to_string()))?;
    let [input, second, output] = spec.ranges;
    let (first, other) = match spec.opcode {
        Opcode::Fill => (output, None),
        Opcode::MatvecF32 => (input, second),
        _ => (input, second.or(output)),
    };
    let number = |range: Range| {
        u32::try_from(range.file).map_err(|_| Error::invalid(format!("{} is no file's number", range.file)))
    };
    let mut made = Descriptor { opcode: spec.opcode.number(), ..Descriptor::default() };
    if let Some(range) = first {
        (made.files[0], made.offsets[0], made.len) = (number(range)?, range.start, range.len);
    }
    if let Some(range) = other {
        (made.files[1], made.offsets[1]) = (number(range)?, range.start);
    }
    match (spec.opcode, output) {
        (Opcode::Search, _) => {
            let string = spec.parameter.as_slice();
            let place = made.argument.get_mut(..string.len()).ok_or_else(|| {
                let len = string.len();
                Error::invalid(format!(
                    "a search string of {len} bytes: more than {INLINE_MAX} have to lie in a file"
                ))
            })?;
            place.copy_from_slice(string);
            made.offsets[1] = string.len() as u64;
        }
        (Opcode::Fill, _) => made.argument[0] = spec.parameter.first().copied().unwrap_or_default(),
        (Opcode::MatvecF32, Some(output)) => {
            let columns = u32::try_from(spec.len(Which::Second) / F32)
                .map_err(|_| Error::invalid("a matrix of more than 2^32 - 1 columns"))?;
            made.argument[..4].copy_from_slice(&number(output)?.to_le_bytes());
            made.argument[4..8].copy_from_slice(&columns.to_le_bytes());
            made.argument[8..].copy_from_slice(&output.start.to_le_bytes());
        }
        _ => {}
    }
    Ok(made)
}

/// The descriptor of a search for a string that lies in a file.
pub fn search_for(input: Range, string: Range) -> Result<Descriptor> {
    let inline = Spec::new(Opcode::Search).with(Which::Input, input).parameter([0]);
    let mut made = descriptor(&inline)?;
    let number = u32::try_from(string.file).ok().filter(|number| *number > 0);
    made.files[1] = number.ok_or_else(|| Error::invalid(format!("{} is no file's number", string.file)))?;
    made.offsets[1] = string.start;
    made.argument[..8].copy_from_slice(&string.len.to_le_bytes());
    Ok(made)
}

/// The same request with its result written to a file of the queue's, at this offset, once it is done: 16 bytes, as a completion would have them. What that has instead is
/// the range ([`result_range`]). `Invalid` if the operation has an output of its own, or a search string that isn't in a file.
pub fn result_to(request: &Descriptor, file: u32, at: u64) -> Result<Descriptor> {
    let opcode = Opcode::from_number(request.opcode).map_err(|e| Error::invalid(e.to_string()))?;
    if opcode.shape().elements[Which::Output as usize].is_some() {
        return Err(Error::invalid(format!("{opcode} has an output, and no result beside it to be written")));
    }
    if opcode == Opcode::Search && request.files[1] == 0 {
        return Err(Error::invalid("a search whose result is written has its string in a file"));
    }
    let mut made = Descriptor { flags: request.flags | RESULT_TO, ..*request };
    made.argument[4..8].copy_from_slice(&file.to_le_bytes());
    made.argument[8..].copy_from_slice(&at.to_le_bytes());
    Ok(made)
}

/// Where the completion of a request with [`RESULT_TO`] says that the result is: offset and length.
#[must_use]
pub fn result_range(result: [u8; 16]) -> (u64, u64) {
    let [at, len] = halves(result);
    (at, len)
}

fn halves(bytes: [u8; 16]) -> [u64; 2] {
    [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i])))
}

/// What a descriptor asks for; `None` if there is no such operation. For drivers that take the same descriptors.
#[must_use]
pub fn wanted(descriptor: &Descriptor) -> Option<Wanted> {
    let opcode = Opcode::from_number(descriptor.opcode).ok()?;
    let Descriptor { files, offsets, len, argument, .. } = *descriptor;
    let range = |i: usize, len: u64| Range { file: files[i].into(), start: offsets[i], len };
    let spec = Spec::new(opcode);
    let read = || Spec::new(opcode).with(Which::Input, range(0, len));
    let [low, high] = halves(argument);
    let to_file = descriptor.flags & RESULT_TO != 0;
    let result = to_file.then_some(Range { file: low >> 32, start: high, len: RESULT_LEN });
    let mut string = None;
    let spec = match opcode {
        Opcode::Nop => spec,
        Opcode::Fill => spec.with(Which::Output, range(0, len)).parameter(&argument[..1]),
        Opcode::Copy => read().with(Which::Output, range(1, len)),
        Opcode::Histogram => read().with(Which::Output, range(1, HISTOGRAM_LEN)),
        Opcode::Compare | Opcode::DotF32 | Opcode::DotF64 | Opcode::DotI64 => {
            read().with(Which::Second, range(1, len))
        }
        Opcode::Search if files[1] == 0 => {
            let inline = usize::try_from(offsets[1]).ok().and_then(|len| argument.get(..len));
            read().parameter(inline.unwrap_or_default())
        }
        Opcode::Search => {
            string = Some(range(1, if to_file { low & u64::from(u32::MAX) } else { low }));
            read()
        }
        Opcode::MatvecF32 => {
            let (file, columns) = (low & u64::from(u32::MAX), low >> 32);
            let rows = len.checked_div(columns * F32).unwrap_or(0);
            let output = Range { file, start: high, len: rows * F32 };
            read().with(Which::Second, range(1, columns * F32)).with(Which::Output, output)
        }
        _ => read(),
    };
    Some(Wanted { spec, string, result })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A spec of each operation that has sense.
    fn specs() -> Vec<Spec> {
        let range = |file, start, len| Range { file, start, len };
        Opcode::ALL
            .iter()
            .map(|&opcode| {
                let spec = Spec::new(opcode);
                let input = || Spec::new(opcode).with(Which::Input, range(7, 16, 4096));
                match opcode {
                    Opcode::Nop => spec,
                    Opcode::Fill => spec.with(Which::Output, range(7, 3, 100)).parameter([9]),
                    Opcode::Search => input().parameter(*b"a needle"),
                    Opcode::Copy => input().with(Which::Output, range(8, 1 << 40, 4096)),
                    Opcode::Histogram => input().with(Which::Output, range(8, 5, 2048)),
                    Opcode::MatvecF32 => input()
                        .with(Which::Second, range(8, 1, 64))
                        .with(Which::Output, range(9, 1 << 33, 256)),
                    _ if opcode.shape().elements[1].is_some() => {
                        input().with(Which::Second, range(8, 77, 4096))
                    }
                    _ => input(),
                }
            })
            .collect()
    }

    #[test]
    fn what_is_described_is_what_was_wanted() {
        for spec in specs() {
            let made = descriptor(&spec).unwrap();
            assert_eq!(wanted(&made), Some(Wanted { spec: spec.clone(), string: None, result: None }));
            let elements = spec.opcode.shape().elements;
            match result_to(&made, 9, 1 << 40) {
                Ok(made) => {
                    let result = Some(Range { file: 9, start: 1 << 40, len: RESULT_LEN });
                    assert_eq!(wanted(&made), Some(Wanted { spec, string: None, result }));
                    assert!(elements[2].is_none());
                }
                Err(e) => assert!(elements[2].is_some() || spec.opcode == Opcode::Search, "{e}"),
            }
        }
        let (input, string) = (Range { file: 1, start: 3, len: 999 }, Range { file: 2, start: 5, len: 200 });
        let search = search_for(input, string).unwrap();
        let found = wanted(&search).unwrap();
        assert_eq!((found.spec.ranges[0], found.string), (Some(input), Some(string)));
        let found = wanted(&result_to(&search, 3, 77).unwrap()).unwrap();
        assert_eq!((found.spec.ranges[0], found.string), (Some(input), Some(string)));
        assert_eq!(found.result, Some(Range { file: 3, start: 77, len: RESULT_LEN }));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let input = Range { file: 1, start: 0, len: 100 };
        let search = |len| Spec::new(Opcode::Search).with(Which::Input, input).parameter(vec![1; len]);
        assert!(descriptor(&search(16)).is_ok());
        assert!(descriptor(&search(17)).unwrap_err().message.contains("in a file"));
        assert!(descriptor(&Spec::new(Opcode::Crc32c)).is_err());
        let far = Range { file: 1 << 32, ..input };
        assert!(descriptor(&Spec::new(Opcode::Xxh3).with(Which::Input, far)).is_err());
        assert_eq!(wanted(&Descriptor { opcode: 999, ..Descriptor::default() }), None);
        // Whatever the numbers are, what comes out is for `Spec::check` to refuse.
        for opcode in Opcode::ALL {
            let most = Descriptor {
                opcode: opcode.number(),
                flags: u16::MAX,
                files: [u32::MAX; 2],
                offsets: [u64::MAX; 2],
                len: u64::MAX,
                argument: [0xff; 16],
            };
            let spec = wanted(&most).unwrap().spec;
            assert!(*opcode == Opcode::Nop || spec.check().is_err(), "{opcode}");
        }
    }
}
