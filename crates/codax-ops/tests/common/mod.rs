//! Ranges in buffers, and operations done as plainly as they can be.
#![allow(dead_code, reason = "each test program uses some of it")]

use codax_ops::{Fault, Look, Memory, Opcode, Operation, Outcome, Range, Spec, Step, Which};

/// Ranges in buffers, some of whose bytes can't be reached.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    pub ranges: [Vec<u8>; 3],
    /// The byte of a range that nobody reaches.
    pub hole: Option<(Which, u64)>,
    /// Whether they can be looked at where they lie.
    pub looks: bool,
}

impl Buffers {
    fn check(&self, which: Which, at: u64, len: usize) -> Result<std::ops::Range<usize>, Fault> {
        let from = usize::try_from(at).unwrap();
        match self.hole {
            Some((hole, byte)) if hole == which && (at..at + len as u64).contains(&byte) => {
                Err(Fault { which, at: byte })
            }
            _ => Ok(from..from + len),
        }
    }
}

impl Memory for Buffers {
    fn read(&mut self, which: Which, at: u64, to: &mut [u8]) -> Result<(), Fault> {
        let part = self.check(which, at, to.len())?;
        to.copy_from_slice(&self.ranges[which as usize][part]);
        Ok(())
    }

    fn write(&mut self, which: Which, at: u64, from: &[u8]) -> Result<(), Fault> {
        let part = self.check(which, at, from.len())?;
        self.ranges[which as usize][part].copy_from_slice(from);
        Ok(())
    }

    fn look(&mut self, len: usize, input: u64, second: Option<u64>, look: &mut Look<'_>) -> bool {
        if !self.looks {
            return false;
        }
        let parts = [Some((Which::Input, input)), second.map(|at| (Which::Second, at))];
        let there = parts.into_iter().flatten().all(|(which, at)| self.check(which, at, len).is_ok());
        let bytes = |part: Option<(Which, u64)>| {
            let (which, at) = part.map(|(which, at)| (which, usize::try_from(at).unwrap()))?;
            Some(&self.ranges[which as usize][at..at + len])
        };
        let [input, second] = parts.map(|part| bytes(part).unwrap_or_default());
        // What was found out by then is forgotten, be it never so much.
        look(input, second);
        there
    }
}

/// The operation on buffers, each a file of its own. Those that it doesn't take are left out.
pub fn spec(opcode: Opcode, buffers: &Buffers, parameter: &[u8]) -> Spec {
    let elements = opcode.shape().elements;
    let ranges =
        Which::ALL.into_iter().zip(&buffers.ranges).filter(|(which, _)| elements[*which as usize].is_some());
    ranges.fold(Spec::new(opcode).parameter(parameter), |spec, (which, bytes)| {
        spec.with(which, Range { file: which as u64, start: 0, len: bytes.len() as u64 })
    })
}

/// Does it in one step.
pub fn run(spec: Spec, buffers: &mut Buffers) -> Outcome {
    let mut operation = Operation::new(spec).unwrap();
    match operation.step(buffers, u64::MAX) {
        Ok(Step::Done(outcome)) => outcome,
        other => panic!("{other:?}"),
    }
}

fn pair(first: u64, second: u64) -> Outcome {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..].copy_from_slice(&second.to_le_bytes());
    Outcome(bytes)
}

fn float(value: f64, count: usize) -> Outcome {
    pair(if value.is_nan() { f64::NAN } else { value }.to_bits(), count as u64)
}

pub fn f32s(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks().0.iter().map(|word| f64::from(f32::from_le_bytes(*word))).collect()
}

pub fn f64s(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks().0.iter().map(|word| f64::from_le_bytes(*word)).collect()
}

pub fn i64s(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks().0.iter().map(|word| i64::from_le_bytes(*word)).collect()
}

/// The sum in the order that the documentation tells.
fn sum(terms: impl Iterator<Item = f64>) -> f64 {
    let mut lanes = vec![0.0; 16];
    terms.enumerate().for_each(|(i, term)| lanes[i % 16] += term);
    while lanes.len() > 1 {
        let half = lanes.len() / 2;
        lanes = (0..half).map(|i| lanes[i] + lanes[i + half]).collect();
    }
    lanes[0]
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    sum(left.iter().zip(right).map(|(a, b)| a * b))
}

fn wide(sum: i128) -> Outcome {
    Outcome(sum.to_le_bytes())
}

fn extreme(numbers: Vec<f64>, beats: fn(&f64, &f64) -> bool) -> Outcome {
    let numbers: Vec<f64> = numbers.into_iter().filter(|number| !number.is_nan()).collect();
    let best =
        numbers.iter().copied().reduce(|best, number| if beats(&number, &best) { number } else { best });
    float(best.map_or(f64::NAN, |best| if best == 0.0 { 0.0 } else { best }), numbers.len())
}

/// CRC-32C bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

/// What an operation on these ranges gives, and what is in the output then.
pub fn reference(opcode: Opcode, ranges: &[Vec<u8>; 3], parameter: &[u8]) -> (Outcome, Vec<u8>) {
    let [input, second, output] = ranges;
    let mut output = output.clone();
    let len = input.len() as u64;
    let outcome = match opcode {
        Opcode::Nop => pair(0, 0),
        Opcode::Copy => {
            output.clone_from(input);
            pair(len, 0)
        }
        Opcode::Fill => {
            output.fill(parameter[0]);
            pair(output.len() as u64, 0)
        }
        Opcode::Compare => match (0..input.len()).find(|&i| input[i] != second[i]) {
            None => pair(len, 0),
            Some(i) => pair(i as u64, if input[i] < second[i] { u64::MAX } else { 1 }),
        },
        Opcode::Search => match input.windows(parameter.len()).position(|part| part == parameter) {
            None => pair(u64::MAX, 0),
            Some(i) => pair(i as u64, 1),
        },
        Opcode::Crc32c => pair(u64::from(crc32c(input)), 0),
        Opcode::Xxh3 => pair(xxhash_rust::xxh3::xxh3_64(input), 0),
        Opcode::Histogram => {
            let count = |byte| input.iter().filter(|b| **b == byte).count() as u64;
            output = (0..=255).flat_map(|byte| count(byte).to_le_bytes()).collect();
            pair(len, 0)
        }
        Opcode::SumF32 => float(sum(f32s(input).into_iter()), input.len() / 4),
        Opcode::SumF64 => float(sum(f64s(input).into_iter()), input.len() / 8),
        Opcode::SumI64 => wide(i64s(input).into_iter().map(i128::from).sum()),
        Opcode::MinF32 => extreme(f32s(input), f64::lt),
        Opcode::MinF64 => extreme(f64s(input), f64::lt),
        Opcode::MaxF32 => extreme(f32s(input), f64::gt),
        Opcode::MaxF64 => extreme(f64s(input), f64::gt),
        Opcode::MinI64 => pair(i64s(input).into_iter().min().unwrap_or(0).cast_unsigned(), len / 8),
        Opcode::MaxI64 => pair(i64s(input).into_iter().max().unwrap_or(0).cast_unsigned(), len / 8),
        Opcode::DotF32 => float(dot(&f32s(input), &f32s(second)), input.len() / 4),
        Opcode::DotF64 => float(dot(&f64s(input), &f64s(second)), input.len() / 8),
        Opcode::DotI64 => wide(
            i64s(input)
                .into_iter()
                .zip(i64s(second))
                .fold(0, |sum, (a, b)| sum.wrapping_add(i128::from(a) * i128::from(b))),
        ),
        Opcode::MatvecF32 => {
            let vector = f32s(second);
            let rows = input.chunks(second.len().max(1));
            #[expect(clippy::cast_possible_truncation, reason = "as documented")]
            let products = rows.map(|row| dot(&f32s(row), &vector) as f32);
            let products = products.map(|product| if product.is_nan() { f32::NAN } else { product });
            output = products.flat_map(f32::to_le_bytes).collect();
            pair(output.len() as u64, 0)
        }
    };
    (outcome, output)
}

/// Ranges and a parameter that an operation takes, made from a seed: of about `len` bytes, and of one of some kinds of contents.
pub fn example(opcode: Opcode, len: usize, kind: u8, seed: u64) -> (Buffers, Vec<u8>) {
    let mut random = Random(seed | 1);
    let element = opcode.shape().elements[0].unwrap_or(1);
    let len = len / usize::try_from(element).unwrap() * usize::try_from(element).unwrap();
    let input = contents(opcode, len, kind, &mut random);
    let mut second = contents(opcode, len, kind, &mut random);
    let mut parameter = Vec::new();
    let mut buffers = Buffers { ranges: [input, second.clone(), vec![0xee; len]], ..Buffers::default() };
    match opcode {
        Opcode::Fill => parameter.push(random.byte()),
        Opcode::Compare => {
            second.clone_from(&buffers.ranges[0]);
            if len > 0 && kind != 0 {
                second[random.below(len)] = random.byte();
            }
            buffers.ranges[1] = second;
        }
        Opcode::Search => {
            let input = &buffers.ranges[0];
            let from = random.below(len.max(1)).min(len);
            let to = len.min(from + 1 + random.below(256));
            parameter = input[from..to].to_vec();
            if parameter.is_empty() || kind == 0 {
                parameter.push(random.byte());
            }
            parameter.truncate(256);
        }
        Opcode::Histogram => buffers.ranges[2] = vec![0xee; 2048],
        Opcode::MatvecF32 => {
            // Now and then a row is longer than a chunk.
            let most = if seed.is_multiple_of(2) { 40 } else { len / 4 + 1 };
            let columns = 1 + random.below(most);
            let rows = len / (4 * columns);
            buffers.ranges[0].truncate(rows * columns * 4);
            buffers.ranges[1] = contents(opcode, 4 * columns, kind, &mut random);
            buffers.ranges[2] = vec![0xee; rows * 4];
        }
        _ => {}
    }
    (buffers, parameter)
}

/// Anything; few different bytes; or numbers of moderate size with now and then a NaN.
fn contents(opcode: Opcode, len: usize, kind: u8, random: &mut Random) -> Vec<u8> {
    let bytes: Vec<u8> = match kind {
        0 => (0..len).map(|_| random.byte()).collect(),
        1 => (0..len).map(|_| random.byte() % 2).collect(),
        _ if opcode.shape().elements[0] == Some(8) => {
            (0..len / 8).flat_map(|_| random.number().to_le_bytes()).collect()
        }
        #[expect(clippy::cast_possible_truncation, reason = "any number")]
        _ => (0..len.div_ceil(4)).flat_map(|_| (random.number() as f32).to_le_bytes()).take(len).collect(),
    };
    assert_eq!(bytes.len(), len);
    bytes
}

/// A generator of no quality (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 8).unwrap() % end
    }

    fn number(&mut self) -> f64 {
        match self.below(5000) {
            0 => f64::NAN,
            1 => -0.0,
            _ => f64::from(self.byte()) * 1.1e-3 - f64::from(self.byte()) * 70.3,
        }
    }
}
