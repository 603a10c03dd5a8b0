//! Saved states: their bytes, and what becomes of bytes that are none.

mod common;

use codax_ops::kernel::crc32c;
use codax_ops::{BadState, CHUNK, Opcode, Operation, STATE_MAX, Step, Which};
use common::{Buffers, example, spec};
use proptest::prelude::*;

/// States of operations at each place where they stop.
fn states(opcode: Opcode, len: usize, seed: u64) -> Vec<(Buffers, Vec<u8>)> {
    let (mut buffers, parameter) = example(opcode, len, 2, seed);
    let mut operation = Operation::new(spec(opcode, &buffers, &parameter)).unwrap();
    let mut states = vec![(buffers.clone(), operation.save())];
    while operation.step(&mut buffers, 1).unwrap() == Step::More {
        states.push((buffers.clone(), operation.save()));
    }
    states.push((buffers, operation.save()));
    states
}

/// With a length and a checksum that are right.
fn sealed(mut state: Vec<u8>) -> Vec<u8> {
    let len = u32::try_from(state.len()).unwrap();
    state[8..12].copy_from_slice(&len.to_le_bytes());
    let sum = crc32c(crc32c(0, &state[..12]), &state[16..]);
    state[12..16].copy_from_slice(&sum.to_le_bytes());
    state
}

/// Memory as large as any range that gives anything, and counts what it is asked for.
struct Endless(u64);

impl codax_ops::Memory for Endless {
    fn read(&mut self, _: Which, at: u64, to: &mut [u8]) -> Result<(), codax_ops::Fault> {
        assert!(at.checked_add(to.len() as u64).is_some());
        self.0 += 1;
        to.fill(0x5a);
        Ok(())
    }

    fn write(&mut self, _: Which, at: u64, from: &[u8]) -> Result<(), codax_ops::Fault> {
        assert!(at.checked_add(from.len() as u64).is_some());
        self.0 += 1;
        Ok(())
    }
}

#[test]
fn states_are_small() {
    for &opcode in Opcode::ALL {
        for (_, state) in states(opcode, 3 * CHUNK, 8) {
            let most = match opcode {
                Opcode::Histogram => 104 + 2048,
                Opcode::Search => 104 + 256 + 16,
                _ => 104 + 128,
            };
            assert!(state.len() <= most, "{opcode}: {}", state.len());
        }
    }
}

/// The layout in the documentation, byte by byte.
#[test]
fn a_state_has_the_documented_bytes() {
    let (mut buffers, _) = example(Opcode::Search, 2 * CHUNK, 1, 1);
    buffers.ranges[0].fill(0);
    let mut operation = Operation::new(spec(Opcode::Search, &buffers, b"needle")).unwrap();
    operation.step(&mut buffers, 1).unwrap();
    let mut wanted = b"cxop\x01\x00\x05\x00".to_vec();
    wanted.extend(126u32.to_le_bytes());
    wanted.extend([0; 4]);
    let at = operation.position();
    assert!(at > 0 && at < 2 * CHUNK as u64);
    for word in [0, 0, 2 * CHUNK as u64, 0, 0, 0, 0, 0, 0, at] {
        wanted.extend(word.to_le_bytes());
    }
    wanted.extend([6, 0, 0, 0, 0, 0, 0, 0]);
    wanted.extend(b"needle");
    wanted.extend([0; 16]);
    assert_eq!(operation.save(), sealed(wanted));
}

#[test]
fn what_is_no_state_is_told_apart() {
    let (_, state) = states(Opcode::SumF32, 2 * CHUNK, 8).remove(1);
    let refused = |state: &[u8]| Operation::restore(state).unwrap_err();
    let with = |at: usize, bytes: &[u8]| {
        let mut state = state.clone();
        state[at..at + bytes.len()].copy_from_slice(bytes);
        state
    };
    assert_eq!(refused(&[]), BadState::Length(0));
    assert_eq!(refused(&vec![0; STATE_MAX + 1]), BadState::Length(STATE_MAX + 1));
    assert_eq!(refused(&state[..200]), BadState::Length(200));
    assert_eq!(refused(&with(0, b"ELF")), BadState::Magic);
    assert_eq!(refused(&sealed(with(4, &[2, 0]))), BadState::Version(2));
    assert_eq!(refused(&with(150, &[1])), BadState::Checksum);
    assert_eq!(
        refused(&sealed(with(6, &[9, 0]))).to_string(),
        "the saved state of an operation says what can't be: there is no operation with the number 9"
    );
    assert_eq!(
        refused(&sealed(with(32, &[1]))).to_string(),
        "the saved state of an operation says what can't be: sum-f32 works on elements of 4 bytes, and the input range has 8193 bytes, which is no multiple of it"
    );
    assert_eq!(refused(&sealed(with(88, &[1]))), BadState::Position(CHUNK as u64 + 1));
    assert_eq!(refused(&sealed(with(95, &[1]))), BadState::Position((1 << 56) + CHUNK as u64));
    assert!(matches!(refused(&sealed(with(40, &[1]))), BadState::Part(_)));
    assert!(matches!(refused(&sealed(with(103, &[1]))), BadState::Part(_)));
    assert!(matches!(refused(&sealed(state[..230].to_vec())), BadState::Part("progress")));
    assert!(matches!(refused(&sealed([&state[..], &[0]].concat())), BadState::Part("progress")));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        prop_assert!(Operation::restore(&bytes).is_err());
    }

    #[test]
    fn a_changed_byte_is_seen(
        opcode in prop::sample::select(Opcode::ALL),
        len in 0..3 * CHUNK,
        seed in any::<u64>(),
        at in any::<prop::sample::Index>(),
        change in 1..=255u8,
    ) {
        let mut states = states(opcode, len, seed);
        let (_, mut state) = states.swap_remove(at.index(states.len()));
        let at = at.index(state.len());
        state[at] ^= change;
        prop_assert!(Operation::restore(&state).is_err());
        prop_assert!(Operation::restore(&state[..at]).is_err());
    }

    /// Somebody who knows the checksum can say anything that makes sense; then the operation does something, inside its ranges.
    #[test]
    fn forged_states_do_no_harm(
        opcode in prop::sample::select(Opcode::ALL),
        len in 0..3 * CHUNK,
        seed in any::<u64>(),
        at in any::<prop::sample::Index>(),
        changes in prop::collection::vec((0..300usize, any::<u8>()), 1..6),
        progress in any::<bool>(),
    ) {
        let mut states = states(opcode, len, seed);
        let (_, mut state) = states.swap_remove(at.index(states.len()));
        for (off, byte) in changes {
            let from = if progress { 104 } else { 4 };
            if from < state.len() {
                let off = from + off % (state.len() - from);
                state[off] = byte;
            }
        }
        if let Ok(mut operation) = Operation::restore(&sealed(state)) {
            let mut memory = Endless(0);
            for _ in 0..5 {
                operation.step(&mut memory, 3 * CHUNK as u64).unwrap();
                prop_assert!(operation.position() <= operation.len());
            }
            prop_assert!(Operation::restore(&operation.save()).is_ok());
            prop_assert!(memory.0 < 300, "{}", memory.0);
        }
    }
}
