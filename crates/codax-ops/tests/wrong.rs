//! What makes no sense is refused, with a line that says what and why.

mod common;

use codax_ops::{Invalid, Opcode, Operation, Range, Spec, Which};
use std::collections::BTreeSet;

fn range(file: u64, start: u64, len: u64) -> Range {
    Range { file, start, len }
}

fn refusal(spec: Spec) -> String {
    let line = Operation::new(spec).unwrap_err().to_string();
    assert!(!line.contains('\n'));
    line
}

fn input(opcode: Opcode, len: u64) -> Spec {
    Spec::new(opcode).with(Which::Input, range(1, 0, len))
}

#[test]
fn ranges_are_those_that_the_operation_takes() {
    assert_eq!(refusal(Spec::new(Opcode::Crc32c)), "crc32c needs a range as its input");
    assert_eq!(refusal(input(Opcode::Copy, 1)), "copy needs a range as its output");
    let spec = input(Opcode::Xxh3, 1).with(Which::Output, range(2, 0, 1));
    assert_eq!(refusal(spec), "xxh3 takes no output range: leave it out");
    assert_eq!(refusal(input(Opcode::Nop, 0)), "nop takes no input range: leave it out");
}

#[test]
fn lengths_fit_together() {
    assert_eq!(
        refusal(input(Opcode::SumF64, 12)),
        "sum-f64 works on elements of 8 bytes, and the input range has 12 bytes, which is no multiple of it"
    );
    assert_eq!(
        refusal(input(Opcode::Copy, 8).with(Which::Output, range(2, 0, 7))),
        "copy needs 8 bytes as its output range with the other ranges given, and it has 7"
    );
    assert_eq!(
        refusal(input(Opcode::Histogram, 8).with(Which::Output, range(2, 0, 8))),
        "histogram needs 2048 bytes as its output range with the other ranges given, and it has 8"
    );
    for opcode in [Opcode::Compare, Opcode::DotF32, Opcode::DotF64, Opcode::DotI64] {
        let spec = input(opcode, 16).with(Which::Second, range(2, 0, 8));
        let line =
            format!("{opcode} needs 16 bytes as its second range with the other ranges given, and it has 8");
        assert_eq!(refusal(spec), line);
    }
    let matvec = |matrix, vector, output| {
        input(Opcode::MatvecF32, matrix)
            .with(Which::Second, range(2, 0, vector))
            .with(Which::Output, range(3, 0, output))
    };
    assert_eq!(
        refusal(matvec(20, 12, 8)),
        "matvec-f32 needs 24 bytes as its input range with the other ranges given, and it has 20"
    );
    assert_eq!(
        refusal(matvec(0, 0, 8)),
        "matvec-f32 needs 0 bytes as its output range with the other ranges given, and it has 8"
    );
    assert_eq!(
        refusal(matvec(16, 0, 0)),
        "matvec-f32 needs 0 bytes as its input range with the other ranges given, and it has 16"
    );
    // Lengths whose product is beyond 64 bits.
    let huge = i64::MAX as u64 / 4 * 4; // as much as a file has
    assert!(
        refusal(matvec(8, huge, huge))
            .starts_with("matvec-f32 needs 21267647932558653948014168890775961604 bytes")
    );
    assert!(Operation::new(matvec(24, 12, 8)).is_ok());
}

#[test]
fn ranges_end_where_files_can() {
    let line = "the input range ends beyond the largest offset of a file, 2^63 - 1";
    for (start, len) in [(u64::MAX, 1), (1, u64::MAX), (1, i64::MAX as u64), (u64::MAX, 0)] {
        assert_eq!(refusal(Spec::new(Opcode::Crc32c).with(Which::Input, range(1, start, len))), line);
    }
    let all = Spec::new(Opcode::Crc32c).with(Which::Input, range(1, 0, i64::MAX as u64));
    assert!(Operation::new(all).is_ok());
}

#[test]
fn what_is_written_is_not_what_is_read() {
    let copy =
        |from: Range, to: Range| Spec::new(Opcode::Copy).with(Which::Input, from).with(Which::Output, to);
    let line = "the output range of copy overlaps its input range: they have to lie apart";
    for start in [0, 93, 100, 107] {
        let spec = copy(range(1, 100, 8), range(1, start, 8));
        if start == 0 {
            assert!(Operation::new(spec).is_ok());
        } else {
            assert_eq!(refusal(spec), line);
        }
    }
    assert!(Operation::new(copy(range(1, 100, 8), range(1, 92, 8))).is_ok(), "side by side");
    assert!(Operation::new(copy(range(1, 100, 8), range(1, 108, 8))).is_ok(), "side by side");
    assert!(Operation::new(copy(range(1, 100, 8), range(2, 100, 8))).is_ok(), "another file");
    assert!(Operation::new(copy(range(1, 100, 0), range(1, 100, 0))).is_ok(), "nothing");
    let spec =
        input(Opcode::MatvecF32, 4).with(Which::Second, range(2, 8, 4)).with(Which::Output, range(2, 8, 4));
    assert_eq!(
        refusal(spec),
        "the output range of matvec-f32 overlaps its second range: they have to lie apart"
    );
    let spec = input(Opcode::Histogram, 8).with(Which::Output, range(1, 7, 2048));
    assert_eq!(
        refusal(spec),
        "the output range of histogram overlaps its input range: they have to lie apart"
    );
}

#[test]
fn parameters_are_as_long_as_they_may_be() {
    let search = |len| input(Opcode::Search, 8).parameter(vec![b'x'; len]);
    assert_eq!(refusal(search(0)), "search takes a parameter of 1 to 256 bytes, and 0 bytes were given");
    assert_eq!(refusal(search(257)), "search takes a parameter of 1 to 256 bytes, and 257 bytes were given");
    assert!(Operation::new(search(256)).is_ok());
    let fill = |len| Spec::new(Opcode::Fill).with(Which::Output, range(1, 0, 8)).parameter(vec![0; len]);
    assert_eq!(refusal(fill(2)), "fill takes a parameter of one byte, and 2 bytes were given");
    assert_eq!(refusal(fill(0)), "fill takes a parameter of one byte, and 0 bytes were given");
    let spec = input(Opcode::Crc32c, 8).parameter([1]);
    assert_eq!(refusal(spec), "crc32c takes no parameter, and 1 bytes were given");
}

#[test]
fn operations_have_numbers_and_names() {
    let numbers: BTreeSet<_> = Opcode::ALL.iter().map(|op| op.number()).collect();
    assert_eq!(numbers.len(), Opcode::ALL.len());
    for &opcode in Opcode::ALL {
        assert_eq!(Opcode::from_number(opcode.number()), Ok(opcode));
        assert_eq!(opcode.name().parse(), Ok(opcode));
        assert!(!opcode.summary().is_empty());
    }
    for number in (0..=u16::MAX).filter(|number| !numbers.contains(number)) {
        assert_eq!(Opcode::from_number(number), Err(Invalid::Opcode(number)));
    }
    assert_eq!(Invalid::Opcode(9).to_string(), "there is no operation with the number 9");
    let line = "crc".parse::<Opcode>().unwrap_err().to_string();
    assert!(line.starts_with("there is no operation \"crc\": there are nop, copy, fill, compare,"), "{line}");
}

/// The table in the docs has each operation, by name and number.
#[test]
fn the_docs_have_all_operations() {
    let docs = include_str!("../../../docs/operations.md");
    for opcode in Opcode::ALL {
        let row = format!("| `{}` | {} |", opcode.name(), opcode.number());
        assert!(docs.contains(&row), "no row {row}");
    }
}
