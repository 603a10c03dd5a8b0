//! One chunk of an operation: what it reads, what is done with it, what it writes.
//!
//! Progress changes after the last access of the memory, so that a chunk that meets a fault can be done again.

use crate::kernel::{float, integer, xxh3};
use crate::memory::{Fault, Memory, Which};
use crate::opcode::Opcode;
use crate::spec::{NEEDLE_MAX, Spec};
use crate::work::Work;

/// Bytes that are copied out and computed on together. Two of these and an operation's tables fit in a first-level cache; with
/// much less, calls cost more than they bring.
pub const CHUNK: usize = 4096;

/// What memory gives at once, in bytes: the rest of a line that is read costs nothing.
const LINE: usize = 64;

/// The longest piece of a range that is read: a chunk, and so much more that a string which begins in it ends there.
const PIECE: usize = CHUNK + NEEDLE_MAX.next_multiple_of(LINE);

/// What a row of a matrix costs beside its bytes, in bytes: the sum of its partial sums.
const ROW: u64 = 64;

/// Chunks of the ranges.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(crate) struct Buffers {
    input: [u8; PIECE],
    second: [u8; CHUNK],
    output: [u8; CHUNK],
    /// Whether `second` has the vector.
    has_vector: bool,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { input: [0; PIECE], second: [0; CHUNK], output: [0; CHUNK], has_vector: false }
    }
}

impl Buffers {
    /// Before a step: what is kept from chunk to chunk may have been written since the last one.
    pub fn refresh(&mut self, spec: &Spec) {
        self.has_vector = false;
        if spec.opcode == Opcode::Fill {
            self.output.fill(spec.parameter[0]);
        }
    }
}

/// Where an operation is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub spec: &'a Spec,
    pub at: u64,
    pub end: u64,
}

impl Place<'_> {
    /// How many bytes there are from here, up to a number.
    fn part(self, most: usize) -> usize {
        usize::try_from(self.end - self.at).map_or(most, |left| left.min(most))
    }

    /// So far the operation has got with a chunk of these ranges.
    fn after(n: usize, ranges: u64) -> Done {
        Done { bytes: n as u64, cost: n as u64 * ranges }
    }

    /// Nothing behind this matters.
    fn ended(self, n: usize, ranges: u64) -> Done {
        Done { bytes: self.end - self.at, cost: n as u64 * ranges }
    }
}

/// How far a chunk went, and how many bytes it read and wrote.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub bytes: u64,
    pub cost: u64,
}

/// Does the chunk that begins here.
pub(crate) fn run<M: Memory + ?Sized>(
    work: &mut Work,
    place: Place<'_>,
    buffers: &mut Buffers,
    memory: &mut M,
) -> Result<Done, Fault> {
    if let Work::Matvec(lanes) = work {
        return multiply(lanes, place, buffers, memory);
    }
    let n = place.part(CHUNK);
    let at = place.at;
    match work {
        Work::Fill => {
            memory.write(Which::Output, at, &buffers.output[..n])?;
            return Ok(Place::after(n, 1));
        }
        Work::Search { finder, found } => {
            let len = place.part(n + finder.needle().len() - 1);
            let bytes = &mut buffers.input[..place.part(len.next_multiple_of(LINE))];
            memory.read(Which::Input, at, bytes)?;
            *found = finder.find(&bytes[..len]).map(|i| at + i as u64);
            return Ok(if found.is_some() { place.ended(n, 1) } else { Place::after(n, 1) });
        }
        _ => {}
    }
    let input = &mut buffers.input[..n];
    memory.read(Which::Input, at, input)?;
    match work {
        Work::Copy => memory.write(Which::Output, at, input)?,
        Work::Compare(_) | Work::Dot(..) | Work::DotI64(_) => {
            let second = &mut buffers.second[..n];
            memory.read(Which::Second, at, second)?;
            return Ok(fold_pair(work, place, input, second));
        }
        Work::Xxh3(acc) => hash(acc, place, input, memory)?,
        _ => work.fold(input),
    }
    let ranges = if matches!(work, Work::Copy) { 2 } else { 1 };
    Ok(Place::after(n, ranges))
}

/// Goes on with bytes of two ranges.
fn fold_pair(work: &mut Work, place: Place<'_>, left: &[u8], right: &[u8]) -> Done {
    match work {
        Work::Dot(lanes, add) => add(lanes, left, right),
        Work::DotI64(sum) => *sum = integer::dot(*sum, left, right),
        Work::Compare(difference) if left != right => {
            let pairs = left.iter().zip(right).enumerate();
            let first = pairs.map(|(i, (a, b))| (i, a.cmp(b))).find(|(_, order)| order.is_ne());
            *difference = first.map(|(i, order)| (place.at + i as u64, order as i64));
            return place.ended(left.len(), 2);
        }
        _ => {}
    }
    Place::after(left.len(), 2)
}

/// Goes on with a hash, to its end if these are the last bytes.
fn hash<M: Memory + ?Sized>(
    acc: &mut xxh3::Accumulators,
    place: Place<'_>,
    bytes: &[u8],
    memory: &mut M,
) -> Result<(), Fault> {
    if place.end <= xxh3::SHORT {
        acc[0] = xxh3::short(bytes);
        return Ok(());
    }
    if place.end - place.at > bytes.len() as u64 {
        xxh3::add_blocks(acc, bytes);
        return Ok(());
    }
    // The last stripe may begin in the chunk before.
    let mut last = [0; xxh3::STRIPE];
    memory.read(Which::Input, place.end - xxh3::STRIPE as u64, &mut last)?;
    let (blocks, rest) = bytes.split_at((bytes.len() - 1) / xxh3::BLOCK * xxh3::BLOCK);
    xxh3::add_blocks(acc, blocks);
    xxh3::add_end(acc, rest, &last);
    Ok(())
}

/// Goes on with the product of a matrix and a vector: whole rows as far as they fit in a chunk, else a part of one.
fn multiply<M: Memory + ?Sized>(
    lanes: &mut float::Lanes,
    place: Place<'_>,
    buffers: &mut Buffers,
    memory: &mut M,
) -> Result<Done, Fault> {
    let row = place.spec.len(Which::Second);
    let at = place.at;
    let to = at / row * 4;
    let Buffers { input, second, output, has_vector } = buffers;
    match usize::try_from(row) {
        Ok(width) if width <= CHUNK => {
            let input = &mut input[..place.part(CHUNK / width * width)];
            let vector = &mut second[..width];
            let output = &mut output[..input.len() / width * 4];
            if !*has_vector {
                memory.read(Which::Second, 0, vector)?;
                *has_vector = true;
            }
            memory.read(Which::Input, at, input)?;
            float::matvec(input, vector, output.as_chunks_mut().0);
            memory.write(Which::Output, to, output)?;
            let rows = output.len() as u64 / 4;
            Ok(Done { bytes: input.len() as u64, cost: input.len() as u64 + rows * ROW })
        }
        _ => {
            let column = at % row;
            let n = Place { at: column, end: row, ..place }.part(CHUNK);
            let (input, second) = (&mut input[..n], &mut second[..n]);
            memory.read(Which::Input, at, input)?;
            memory.read(Which::Second, column, second)?;
            let mut sums = *lanes;
            float::dot_f32(&mut sums, input, second);
            if column + n as u64 == row {
                memory.write(Which::Output, to, &float::narrow(&sums))?;
                sums = [0.0; float::LANES];
            }
            *lanes = sums;
            Ok(Place::after(n, 2))
        }
    }
}
