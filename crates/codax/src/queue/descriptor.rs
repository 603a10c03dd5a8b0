//! Operations as the descriptors of queues have them: the table in `docs/queues.md`.

use super::Descriptor;
use codax_core::{Error, Result};
use codax_ops::{Opcode, Range, Spec, Which};

/// The longest search string that a descriptor has in itself.
pub const INLINE_MAX: usize = 16;

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

/// What a descriptor asks for; `None` if there is no such operation. For drivers that take the same descriptors.
#[must_use]
pub fn wanted(descriptor: &Descriptor) -> Option<Wanted> {
    let opcode = Opcode::from_number(descriptor.opcode).ok()?;
    let Descriptor { files, offsets, len, argument, .. } = *descriptor;
    let range = |i: usize, len: u64| Range { file: files[i].into(), start: offsets[i], len };
    let spec = Spec::new(opcode);
    let read = || Spec::new(opcode).with(Which::Input, range(0, len));
    let [low, high] = [0, 8].map(|at| {
        let half: [u8; 8] = std::array::from_fn(|i| argument[at + i]);
        u64::from_le_bytes(half)
    });
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
            string = Some(range(1, low));
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
    Some(Wanted { spec, string })
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
            assert_eq!(wanted(&made), Some(Wanted { spec, string: None }));
        }
        let search = Descriptor { opcode: Opcode::Search.number(), files: [1, 2], ..Descriptor::default() };
        let mut argument = [0; 16];
        argument[0] = 200;
        let found = wanted(&Descriptor { offsets: [0, 5], argument, ..search }).unwrap();
        assert_eq!(found.string, Some(Range { file: 2, start: 5, len: 200 }));
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
