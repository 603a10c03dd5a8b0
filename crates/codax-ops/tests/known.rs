//! Results that are known from elsewhere, and of nothing.

mod common;

use codax_ops::{Opcode, Outcome, Value};
use common::{Buffers, run, spec};

fn of(opcode: Opcode, input: &[u8], second: &[u8], output: usize, parameter: &[u8]) -> (Value, Vec<u8>) {
    let mut buffers =
        Buffers { ranges: [input.to_vec(), second.to_vec(), vec![0xee; output]], ..Buffers::default() };
    let outcome = run(spec(opcode, &buffers, parameter), &mut buffers);
    (outcome.value(opcode), buffers.ranges[2].clone())
}

fn value(opcode: Opcode, input: &[u8]) -> Value {
    of(opcode, input, &[], 0, &[]).0
}

fn f32s(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn i64s(numbers: &[i64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[test]
fn checksums_are_those_of_their_standards() {
    assert_eq!(value(Opcode::Crc32c, b"123456789"), Value::Crc32c(0xe306_9283));
    // RFC 3720, B.4.
    assert_eq!(value(Opcode::Crc32c, &[0; 32]), Value::Crc32c(0x8a91_36aa));
    assert_eq!(value(Opcode::Crc32c, &[0xff; 32]), Value::Crc32c(0x62a8_ab43));
    assert_eq!(value(Opcode::Crc32c, b""), Value::Crc32c(0));
    assert_eq!(value(Opcode::Xxh3, b""), Value::Xxh3(0x2d06_8005_38d3_94c2));
}

#[test]
fn nothing_gives_what_the_table_says() {
    assert_eq!(value(Opcode::Nop, b""), Value::Nothing);
    assert_eq!(value(Opcode::Copy, b""), Value::Bytes(0));
    assert_eq!(of(Opcode::Fill, b"", b"", 0, b"x").0, Value::Bytes(0));
    assert_eq!(value(Opcode::Compare, b""), Value::Difference(None));
    assert_eq!(of(Opcode::Search, b"", b"", 0, b"x").0, Value::Found(None));
    assert_eq!(of(Opcode::Search, b"ab", b"", 0, b"abc").0, Value::Found(None));
    assert_eq!(of(Opcode::Histogram, b"", b"", 2048, b""), (Value::Bytes(0), vec![0; 2048]));
    for opcode in [Opcode::SumF32, Opcode::SumF64, Opcode::DotF32, Opcode::DotF64] {
        assert_eq!(value(opcode, b""), Value::Float(0.0, 0), "{opcode}");
    }
    for opcode in [Opcode::MinF32, Opcode::MinF64, Opcode::MaxF32, Opcode::MaxF64] {
        assert!(matches!(value(opcode, b""), Value::Float(x, 0) if x.is_nan()), "{opcode}");
    }
    for opcode in [Opcode::SumI64, Opcode::DotI64] {
        assert_eq!(value(opcode, b""), Value::Wide(0), "{opcode}");
    }
    for opcode in [Opcode::MinI64, Opcode::MaxI64] {
        assert_eq!(value(opcode, b""), Value::Integer(None), "{opcode}");
    }
    assert_eq!(value(Opcode::MatvecF32, b""), Value::Bytes(0));
    // A vector, and no row.
    assert_eq!(of(Opcode::MatvecF32, b"", &f32s(&[1.0]), 0, b"").0, Value::Bytes(0));
}

#[test]
fn nan_is_kept_by_sums_and_skipped_by_extremes() {
    let numbers = f32s(&[2.0, f32::NAN, -0.0, f32::from_bits(0xffc1_2345), 7.0]);
    assert_eq!(value(Opcode::MinF32, &numbers), Value::Float(0.0, 3));
    assert_eq!(value(Opcode::MaxF32, &numbers), Value::Float(7.0, 3));
    assert!(matches!(value(Opcode::SumF32, &numbers), Value::Float(x, 5) if x.is_nan()));
    assert!(matches!(value(Opcode::MinF32, &f32s(&[f32::NAN])), Value::Float(x, 0) if x.is_nan()));
    let infinities = f32s(&[f32::INFINITY, f32::INFINITY]);
    assert_eq!(value(Opcode::MinF32, &infinities), Value::Float(f64::INFINITY, 2));
    // One bit pattern, and one zero.
    let mut buffers = Buffers { ranges: [numbers, vec![], vec![]], ..Buffers::default() };
    let Outcome(bytes) = run(spec(Opcode::SumF32, &buffers, &[]), &mut buffers);
    assert_eq!(bytes[..8], 0x7ff8_0000_0000_0000u64.to_le_bytes());
    let Outcome(bytes) = run(spec(Opcode::MinF32, &buffers, &[]), &mut buffers);
    assert_eq!(bytes[..8], [0; 8]);
}

#[test]
fn integers_are_exact() {
    let numbers = i64s(&[i64::MAX, i64::MAX, i64::MIN, 5]);
    assert_eq!(value(Opcode::SumI64, &numbers), Value::Wide(i128::from(i64::MAX) + 4));
    assert_eq!(value(Opcode::MinI64, &numbers), Value::Integer(Some(i64::MIN)));
    assert_eq!(value(Opcode::MaxI64, &numbers), Value::Integer(Some(i64::MAX)));
    assert_eq!(value(Opcode::MaxI64, &i64s(&[i64::MIN])), Value::Integer(Some(i64::MIN)));
    let least = i64s(&[i64::MIN; 3]);
    assert_eq!(of(Opcode::DotI64, &least, &least, 0, b"").0, Value::Wide(i128::MIN.wrapping_add(1 << 126)));
}

#[test]
fn a_matrix_times_a_vector() {
    let matrix = f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let (value, output) = of(Opcode::MatvecF32, &matrix, &f32s(&[1.0, 0.0, -1.0]), 8, b"");
    assert_eq!((value, output), (Value::Bytes(8), f32s(&[-2.0, -2.0])));
}

#[test]
fn values_read_as_lines() {
    let shown = |opcode, input: &[u8], second: &[u8], parameter: &[u8]| {
        of(opcode, input, second, 0, parameter).0.to_string()
    };
    assert_eq!(shown(Opcode::Crc32c, b"123456789", b"", b""), "e3069283");
    assert_eq!(shown(Opcode::Search, b"haystack", b"", b"st"), "found at 3");
    assert_eq!(shown(Opcode::Search, b"haystack", b"", b"no"), "none");
    assert_eq!(shown(Opcode::Compare, b"abc", b"abd", b""), "differs at 2: less");
    assert_eq!(shown(Opcode::Compare, b"abc", b"abc", b""), "equal");
    assert_eq!(shown(Opcode::SumF32, &f32s(&[0.5, 1.0]), b"", b""), "1.5");
    assert_eq!(shown(Opcode::MinI64, &i64s(&[-3, 4]), b"", b""), "-3");
}
