//! What an operation has found out so far: its progress beside its position.

use crate::kernel::float::{self, Extreme, LANES, Lanes};
use crate::kernel::histogram::{self, Counts};
use crate::kernel::{self, integer, xxh3};
use crate::opcode::Opcode;
use crate::spec::Spec;
use crate::value::Outcome;
use memchr::memmem::Finder;
use std::sync::Arc;

/// Progress, and what is needed to go on.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Nop,
    Copy,
    Fill,
    /// The first difference, and -1 or 1.
    Compare(Option<(u64, i64)>),
    Search {
        finder: Arc<Finder<'static>>,
        found: Option<u64>,
    },
    Crc32c(u32),
    /// The accumulators; of a short input the first is its hash.
    Xxh3(xxh3::Accumulators),
    Histogram(Box<Counts>),
    Sum(Lanes, fn(&mut Lanes, &[u8])),
    Dot(Lanes, fn(&mut Lanes, &[u8], &[u8])),
    SumI64(i128),
    DotI64(i128),
    Extreme(Extreme, fn(Extreme, &[u8]) -> Extreme),
    ExtremeI64 {
        so_far: Option<i64>,
        greatest: bool,
    },
    /// Partial sums of the row that the position is in.
    Matvec(Lanes),
}

impl Work {
    /// Before the first step.
    pub fn new(spec: &Spec) -> Self {
        const ZEROS: Lanes = [0.0; LANES];
        match spec.opcode {
            Opcode::Nop => Self::Nop,
            Opcode::Copy => Self::Copy,
            Opcode::Fill => Self::Fill,
            Opcode::Compare => Self::Compare(None),
            Opcode::Search => {
                Self::Search { finder: Arc::new(Finder::new(&spec.parameter).into_owned()), found: None }
            }
            Opcode::Crc32c => Self::Crc32c(0),
            Opcode::Xxh3 => Self::Xxh3(xxh3::INITIAL),
            Opcode::Histogram => Self::Histogram(Box::new([0; 256])),
            Opcode::SumF32 => Self::Sum(ZEROS, float::sum_f32),
            Opcode::SumF64 => Self::Sum(ZEROS, float::sum_f64),
            Opcode::DotF32 => Self::Dot(ZEROS, float::dot_f32),
            Opcode::DotF64 => Self::Dot(ZEROS, float::dot_f64),
            Opcode::SumI64 => Self::SumI64(0),
            Opcode::DotI64 => Self::DotI64(0),
            Opcode::MinF32 => Self::Extreme(Extreme::new(false), float::min_f32),
            Opcode::MinF64 => Self::Extreme(Extreme::new(false), float::min_f64),
            Opcode::MaxF32 => Self::Extreme(Extreme::new(true), float::max_f32),
            Opcode::MaxF64 => Self::Extreme(Extreme::new(true), float::max_f64),
            Opcode::MinI64 => Self::ExtremeI64 { so_far: None, greatest: false },
            Opcode::MaxI64 => Self::ExtremeI64 { so_far: None, greatest: true },
            Opcode::MatvecF32 => Self::Matvec(ZEROS),
        }
    }

    /// How many bytes behind those that it goes on with it looks at, too: a string that begins in these ends there.
    pub fn overlap(&self) -> usize {
        match self {
            Self::Search { finder, .. } => finder.needle().len() - 1,
            _ => 0,
        }
    }

    /// Goes on with bytes of the input and of the second range, if it has one, which begin at an offset of theirs; says where in them it has found what it looks for, if it has.
    /// May be left at any load from them, see [`crate::Memory::look`]; then this is no good any more.
    pub fn fold(&mut self, at: u64, input: &[u8], second: &[u8]) -> Option<usize> {
        match self {
            Self::Compare(difference) => {
                let first = kernel::first_difference(input, second);
                *difference = first.map(|(i, order)| (at + i as u64, order as i64));
                return first.map(|(i, _)| i);
            }
            Self::Search { finder, found } => {
                let first = finder.find(input);
                *found = first.map(|i| at + i as u64);
                return first;
            }
            Self::Crc32c(sum) => *sum = kernel::crc32c(*sum, input),
            Self::Xxh3(acc) => xxh3::add_blocks(acc, input),
            Self::Histogram(counts) => histogram::count(counts, input),
            Self::Sum(lanes, add) => add(lanes, input),
            Self::Dot(lanes, add) => add(lanes, input, second),
            Self::SumI64(sum) => *sum = integer::sum(*sum, input),
            Self::DotI64(sum) => *sum = integer::dot(*sum, input, second),
            Self::Extreme(so_far, go_on) => *so_far = go_on(*so_far, input),
            Self::ExtremeI64 { so_far, greatest } => {
                let both = so_far.iter().copied().chain(integer::extreme(input, *greatest));
                *so_far = if *greatest { both.max() } else { both.min() };
            }
            Self::Nop | Self::Copy | Self::Fill | Self::Matvec(_) => {}
        }
        None
    }

    /// The result, once all `len` bytes of the range that is gone through are done.
    pub fn outcome(&self, spec: &Spec, len: u64) -> Outcome {
        let elements = || len / spec.opcode.shape().elements[0].unwrap_or(1);
        match self {
            Self::Nop => Outcome([0; 16]),
            Self::Copy | Self::Fill | Self::Histogram(_) => Outcome::pair(len, 0),
            Self::Matvec(_) => Outcome::pair(spec.len(crate::Which::Output), 0),
            Self::Compare(None) => Outcome::pair(len, 0),
            Self::Compare(Some((at, order))) => Outcome::pair(*at, order.cast_unsigned()),
            Self::Search { found, .. } => {
                Outcome::pair(found.unwrap_or(u64::MAX), u64::from(found.is_some()))
            }
            Self::Crc32c(sum) => Outcome::pair(u64::from(*sum), 0),
            Self::Xxh3(_) if len == 0 => Outcome::pair(xxh3::short(&[]), 0),
            Self::Xxh3(acc) if len <= xxh3::SHORT => Outcome::pair(acc[0], 0),
            Self::Xxh3(acc) => Outcome::pair(xxh3::merge(acc, len), 0),
            Self::Sum(lanes, _) | Self::Dot(lanes, _) => Outcome::float(float::total(lanes), elements()),
            Self::SumI64(sum) | Self::DotI64(sum) => Outcome::wide(*sum),
            Self::Extreme(so_far, _) => Outcome::float(so_far.value(), so_far.count),
            Self::ExtremeI64 { so_far: None, .. } => Outcome::pair(0, 0),
            Self::ExtremeI64 { so_far: Some(value), .. } => Outcome::pair(value.cast_unsigned(), elements()),
        }
    }

    /// Writes it as it lies in a saved state.
    pub fn save(&self, out: &mut Vec<u8>) {
        match self {
            Self::Nop | Self::Copy | Self::Fill => {}
            Self::Compare(difference) => {
                let (at, order) = difference.unwrap_or_default();
                words(out, [at, order.cast_unsigned()]);
            }
            Self::Search { found, .. } => words(out, [found.unwrap_or(0), u64::from(found.is_some())]),
            Self::Crc32c(sum) => words(out, [u64::from(*sum)]),
            Self::Xxh3(acc) => words(out, *acc),
            Self::Histogram(counts) => words(out, **counts),
            Self::Sum(lanes, _) | Self::Dot(lanes, _) | Self::Matvec(lanes) => {
                words(out, lanes.map(f64::to_bits));
            }
            Self::SumI64(sum) | Self::DotI64(sum) => out.extend(sum.to_le_bytes()),
            Self::Extreme(so_far, _) => words(out, [so_far.value.to_bits(), so_far.count]),
            Self::ExtremeI64 { so_far, .. } => {
                words(out, [so_far.unwrap_or(0).cast_unsigned(), u64::from(so_far.is_some())]);
            }
        }
    }

    /// Takes over what was saved. False if that has another length.
    pub fn load(&mut self, saved: &[u8]) -> bool {
        let mut saved = Words(saved);
        let loaded = self.load_words(&mut saved);
        loaded.is_some() && saved.0.is_empty()
    }

    fn load_words(&mut self, saved: &mut Words<'_>) -> Option<()> {
        match self {
            Self::Nop | Self::Copy | Self::Fill => {}
            Self::Compare(difference) => {
                let [at, order] = saved.take()?;
                *difference = (order != 0).then_some((at, order.cast_signed().signum()));
            }
            Self::Search { found, .. } => {
                let [at, is] = saved.take()?;
                *found = (is != 0).then_some(at);
            }
            Self::Crc32c(sum) => *sum = u32::try_from(saved.take::<1>()?[0]).ok()?,
            Self::Xxh3(acc) => *acc = saved.take()?,
            Self::Histogram(counts) => **counts = saved.take()?,
            Self::Sum(lanes, _) | Self::Dot(lanes, _) | Self::Matvec(lanes) => {
                *lanes = saved.take()?.map(f64::from_bits);
            }
            Self::SumI64(sum) | Self::DotI64(sum) => {
                let [low, high] = saved.take()?.map(u128::from);
                *sum = (high << 64 | low).cast_signed();
            }
            Self::Extreme(so_far, _) => {
                let [value, count] = saved.take()?;
                *so_far = Extreme { value: f64::from_bits(value), count };
            }
            Self::ExtremeI64 { so_far, .. } => {
                let [value, is] = saved.take()?;
                *so_far = (is != 0).then_some(value.cast_signed());
            }
        }
        Some(())
    }
}

fn words<const N: usize>(out: &mut Vec<u8>, words: [u64; N]) {
    out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

/// Words that are taken one after the other.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u64; N]> {
        let mut words = [0; N];
        for word in &mut words {
            let (bytes, rest) = self.0.split_first_chunk()?;
            *word = u64::from_le_bytes(*bytes);
            self.0 = rest;
        }
        Some(words)
    }
}
