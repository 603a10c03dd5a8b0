//! However an operation is cut into steps, and wherever it is saved and restored, it gives what a plain computation over all of it gives.

mod common;

use codax_ops::{CHUNK, Opcode, Operation, Outcome, STATE_MAX, Step, Which};
use common::{Buffers, example, reference, run, spec};
use proptest::prelude::*;

fn opcode() -> impl Strategy<Value = Opcode> {
    prop::sample::select(Opcode::ALL)
}

/// Lengths around those where something changes, and others.
fn length() -> impl Strategy<Value = usize> {
    let edges = prop::sample::select(vec![0, 16, 64, 240, 241, 1024, CHUNK, 2 * CHUNK, 5 * CHUNK]);
    prop_oneof![(edges, 0..70usize).prop_map(|(edge, more)| edge + more), 0..6 * CHUNK]
}

/// Does it in steps of these budgets by turns, with a new life where that is said.
fn in_steps(mut operation: Operation, memory: &mut Buffers, steps: &[(u64, bool)]) -> Outcome {
    for (budget, restored) in steps.iter().cycle() {
        let before = operation.position();
        match operation.step(memory, *budget).unwrap() {
            Step::Done(outcome) => {
                assert_eq!(operation.position(), operation.len());
                assert_eq!(operation.step(memory, 1).unwrap(), Step::Done(outcome), "once done, done");
                return outcome;
            }
            Step::More => assert!(operation.position() > before, "a step gets on"),
        }
        if *restored {
            let saved = operation.save();
            assert!(saved.len() <= STATE_MAX);
            operation = Operation::restore(&saved).unwrap();
            assert_eq!(operation.save(), saved);
        }
    }
    unreachable!("there are steps, and they are taken by turns")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn steps_give_what_the_plain_computation_gives(
        opcode in opcode(),
        len in length(),
        kind in 0..3u8,
        seed in any::<u64>(),
        looks in any::<bool>(),
        steps in prop::collection::vec((0..3 * CHUNK as u64, any::<bool>()), 1..8),
    ) {
        let (mut buffers, parameter) = example(opcode, len, kind, seed);
        buffers.looks = looks;
        let before = buffers.ranges.clone();
        let (outcome, output) = reference(opcode, &buffers.ranges, &parameter);
        let operation = Operation::new(spec(opcode, &buffers, &parameter)).unwrap();
        prop_assert_eq!(in_steps(operation, &mut buffers, &steps), outcome);
        if opcode.shape().elements[Which::Output as usize].is_some() {
            prop_assert_eq!(&buffers.ranges[Which::Output as usize], &output);
        }
        prop_assert_eq!(&buffers.ranges[..2], &before[..2], "what is read stays as it is");
    }

    /// A fault leaves the operation where it was, saved or not: when the byte is there again it goes on.
    #[test]
    fn a_fault_loses_nothing(
        opcode in opcode(),
        len in 1..6 * CHUNK,
        seed in any::<u64>(),
        range in any::<prop::sample::Index>(),
        byte in any::<prop::sample::Index>(),
        looks in any::<bool>(),
    ) {
        let (mut buffers, parameter) = example(opcode, len, 2, seed);
        buffers.looks = looks;
        let (outcome, output) = reference(opcode, &buffers.ranges, &parameter);
        let spec = spec(opcode, &buffers, &parameter);
        let taken: Vec<_> = Which::ALL.into_iter().filter(|which| spec.len(*which) > 0).collect();
        if taken.is_empty() {
            return Ok(());
        }
        let which = *range.get(&taken);
        let hole = byte.index(buffers.ranges[which as usize].len()) as u64;
        buffers.hole = Some((which, hole));
        let mut operation = Operation::new(spec).unwrap();
        match operation.step(&mut buffers, u64::MAX) {
            Err(fault) => {
                prop_assert_eq!((fault.which, fault.at), (which, hole));
                prop_assert_eq!(operation.step(&mut buffers, u64::MAX), Err(fault), "it is still not there");
                operation = Operation::restore(&operation.save()).unwrap();
                buffers.hole = None;
                prop_assert_eq!(operation.step(&mut buffers, u64::MAX), Ok(Step::Done(outcome)));
            }
            // It ended before it came there.
            Ok(step) => {
                // Of a matrix without rows nothing is read.
                prop_assert!(matches!(opcode, Opcode::Search | Opcode::Compare) || operation.is_empty());
                prop_assert_eq!(step, Step::Done(outcome));
            }
        }
        if opcode.shape().elements[Which::Output as usize].is_some() {
            prop_assert_eq!(&buffers.ranges[Which::Output as usize], &output);
        }
    }
}

/// A match that spans two chunks, at each place where it can, also with a step's end between.
#[test]
fn a_string_across_chunks_is_found() {
    for len in [1, 2, 7, 255, 256] {
        for from in CHUNK - len - 1..=CHUNK + 1 {
            let mut buffers =
                Buffers { ranges: [vec![b'-'; 3 * CHUNK], vec![], vec![]], ..Buffers::default() };
            let needle: Vec<u8> = (0..len).map(|i| b'a' + u8::try_from(i % 26).unwrap()).collect();
            buffers.ranges[0][from..from + len].copy_from_slice(&needle);
            for (looks, budget) in [(false, 1), (true, CHUNK as u64)] {
                buffers.looks = looks;
                let operation = Operation::new(spec(Opcode::Search, &buffers, &needle)).unwrap();
                let outcome = in_steps(operation, &mut buffers, &[(budget, true)]);
                assert_eq!(outcome.value(Opcode::Search), codax_ops::Value::Found(Some(from as u64)));
            }
        }
    }
}

/// A vector that is written between two steps is read anew, and no later than that.
#[test]
fn a_step_sees_what_was_written_before_it() {
    let columns = CHUNK / 4;
    let ones = 1f32.to_le_bytes().repeat(columns);
    let mut buffers = Buffers { ranges: [ones.repeat(2), ones, vec![0; 8]], ..Buffers::default() };
    let mut operation = Operation::new(spec(Opcode::MatvecF32, &buffers, &[])).unwrap();
    assert_eq!(operation.step(&mut buffers, 1), Ok(Step::More));
    buffers.ranges[1] = 2f32.to_le_bytes().repeat(columns);
    assert!(matches!(operation.step(&mut buffers, 1), Ok(Step::Done(_))));
    assert_eq!(common::f32s(&buffers.ranges[2]), [1024.0, 2048.0]);
}

/// Sums keep what a sum in `f32` would lose.
#[test]
fn sums_of_many_small_numbers_are_right() {
    let mut buffers =
        Buffers { ranges: [0.1f32.to_le_bytes().repeat(1 << 20), vec![], vec![]], ..Buffers::default() };
    let codax_ops::Value::Float(sum, count) =
        run(spec(Opcode::SumF32, &buffers, &[]), &mut buffers).value(Opcode::SumF32)
    else {
        panic!("a sum is a float")
    };
    assert_eq!(count, 1 << 20);
    let exact = f64::from(0.1f32) * f64::from(1 << 20);
    assert!((sum - exact).abs() < 1e-6, "{sum} is not {exact}");
}
