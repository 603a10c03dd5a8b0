//! One chunk of an operation: what it reads, what is done with it, what it writes.
//!
//! What is only read is computed on where it lies, if the memory allows that, and is copied out otherwise. Progress changes after the last access of the memory, so that a
//! chunk that meets a fault can be done again.

use crate::kernel::{GRAIN, float, xxh3};
use crate::memory::{Fault, Memory, Which};
use crate::opcode::Opcode;
use crate::spec::{NEEDLE_MAX, Spec};
use crate::work::Work;

/// Bytes that are copied out and computed on together. Two of these and an operation's tables fit in a first-level cache; with
/// much less, calls cost more than they bring.
pub const CHUNK: usize = 4096;

/// The most that is looked at where it lies, whatever the budget.
const LOOK: u64 = 1 << 30;

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
    /// Whether bytes have to be copied out: they couldn't be looked at where they lie.
    copies: bool,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { input: [0; PIECE], second: [0; CHUNK], output: [0; CHUNK], has_vector: false, copies: false }
    }
}

impl Buffers {
    /// Before a step: what is kept from chunk to chunk may have been written since the last one.
    pub fn refresh(&mut self, spec: &Spec) {
        self.has_vector = false;
        self.copies = false;
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

/// Does the chunk that begins here, of about `budget` bytes at most.
pub(crate) fn run<M: Memory + ?Sized>(
    work: &mut Work,
    place: Place<'_>,
    buffers: &mut Buffers,
    memory: &mut M,
    budget: u64,
) -> Result<Done, Fault> {
    match work {
        Work::Fill => {
            let n = place.part(CHUNK);
            memory.write(Which::Output, place.at, &buffers.output[..n])?;
            Ok(Place::after(n, 1))
        }
        Work::Copy => {
            let bytes = &mut buffers.input[..place.part(CHUNK)];
            memory.read(Which::Input, place.at, bytes)?;
            memory.write(Which::Output, place.at, bytes)?;
            Ok(Place::after(bytes.len(), 2))
        }
        Work::Matvec(lanes) => multiply(lanes, place, buffers, memory, budget),
        Work::Xxh3(acc) if place.end - place.at <= xxh3::BLOCK as u64 => end_hash(acc, place, memory),
        _ => fold(work, place, buffers, memory, budget),
    }
}

/// Goes on with what is only read.
fn fold<M: Memory + ?Sized>(
    work: &mut Work,
    place: Place<'_>,
    buffers: &mut Buffers,
    memory: &mut M,
    budget: u64,
) -> Result<Done, Fault> {
    let at = place.at;
    let two = place.spec.ranges[Which::Second as usize].is_some();
    let ranges = if two { 2 } else { 1 };
    let hash = matches!(work, Work::Xxh3(_));
    let part = |most: usize| match place.part(most) {
        // What a hash ends with isn't folded.
        all if hash && at + all as u64 == place.end => (all - 1) / xxh3::BLOCK * xxh3::BLOCK,
        n => n,
    };
    let done = |n, found: Option<usize>| match found {
        Some(i) => place.ended(i + 1, ranges),
        None => Place::after(n, ranges),
    };
    if !buffers.copies {
        let n = part(at_once(budget / ranges));
        let len = place.part(n + work.overlap());
        let (mut next, mut found) = (work.clone(), None);
        let mut look = |input: &[u8], second: &[u8]| {
            found = next.fold(at, input, second);
            found.map_or(len, |i| i + 1)
        };
        if memory.look(len, at, two.then_some(at), &mut look) {
            *work = next;
            return Ok(done(n, found));
        }
        buffers.copies = true;
    }
    let n = part(CHUNK);
    let len = place.part(n + work.overlap());
    let input = &mut buffers.input[..place.part(len.next_multiple_of(LINE))];
    memory.read(Which::Input, at, input)?;
    let second = &mut buffers.second[..if two { n } else { 0 }];
    if two {
        memory.read(Which::Second, at, second)?;
    }
    let found = work.fold(at, &input[..len], second);
    Ok(done(n, found))
}

/// How much of each range is looked at for so many bytes of a budget: whole grains.
fn at_once(bytes: u64) -> usize {
    usize::try_from(bytes.clamp(1, LOOK)).map_or(GRAIN, |bytes| bytes.next_multiple_of(GRAIN))
}

/// Ends a hash with its last bytes, a block at most.
fn end_hash<M: Memory + ?Sized>(
    acc: &mut xxh3::Accumulators,
    place: Place<'_>,
    memory: &mut M,
) -> Result<Done, Fault> {
    let n = place.part(xxh3::BLOCK);
    let bytes = &mut [0; xxh3::BLOCK][..n];
    memory.read(Which::Input, place.at, bytes)?;
    if place.end <= xxh3::SHORT {
        acc[0] = xxh3::short(bytes);
    } else {
        // The last stripe may begin in the block before.
        let mut last = [0; xxh3::STRIPE];
        memory.read(Which::Input, place.end - xxh3::STRIPE as u64, &mut last)?;
        xxh3::add_end(acc, bytes, &last);
    }
    Ok(Place::after(n, 1))
}

/// Goes on with the product of a matrix and a vector.
fn multiply<M: Memory + ?Sized>(
    lanes: &mut float::Lanes,
    place: Place<'_>,
    buffers: &mut Buffers,
    memory: &mut M,
    budget: u64,
) -> Result<Done, Fault> {
    match usize::try_from(place.spec.len(Which::Second)) {
        Ok(width) if width <= CHUNK => multiply_rows(width, place, buffers, memory, budget),
        _ => multiply_part(lanes, place, buffers, memory, budget),
    }
}

/// Whole rows, of which each fits in a chunk.
fn multiply_rows<M: Memory + ?Sized>(
    width: usize,
    place: Place<'_>,
    buffers: &mut Buffers,
    memory: &mut M,
    budget: u64,
) -> Result<Done, Fault> {
    let at = place.at;
    let Buffers { input, second, output, has_vector, copies } = buffers;
    let vector = &mut second[..width];
    if !*has_vector {
        memory.read(Which::Second, 0, vector)?;
        *has_vector = true;
    }
    let part = |rows: usize| place.part(rows.clamp(1, CHUNK / 4) * width);
    let mut n = part(at_once(budget) / width);
    let mut products = |rows: &[u8]| {
        float::matvec(rows, vector, output.as_chunks_mut().0);
        rows.len()
    };
    if *copies || !memory.look(n, at, None, &mut |rows, _| products(rows)) {
        *copies = true;
        n = part(CHUNK / width);
        memory.read(Which::Input, at, &mut input[..n])?;
        products(&input[..n]);
    }
    let rows = n / width;
    memory.write(Which::Output, at / width as u64 * 4, &output[..4 * rows])?;
    Ok(Done { bytes: n as u64, cost: n as u64 + rows as u64 * ROW })
}

/// A part of a row.
fn multiply_part<M: Memory + ?Sized>(
    lanes: &mut float::Lanes,
    place: Place<'_>,
    buffers: &mut Buffers,
    memory: &mut M,
    budget: u64,
) -> Result<Done, Fault> {
    let row = place.spec.len(Which::Second);
    let (at, column) = (place.at, place.at % row);
    let part = |most| Place { at: column, end: row, ..place }.part(most);
    let mut n = part(at_once(budget / 2));
    let mut sums = *lanes;
    let mut look = |input: &[u8], second: &[u8]| {
        float::dot_f32(&mut sums, input, second);
        input.len()
    };
    if buffers.copies || !memory.look(n, at, Some(column), &mut look) {
        buffers.copies = true;
        n = part(CHUNK);
        let (input, second) = (&mut buffers.input[..n], &mut buffers.second[..n]);
        memory.read(Which::Input, at, input)?;
        memory.read(Which::Second, column, second)?;
        sums = *lanes;
        float::dot_f32(&mut sums, input, second);
    }
    if column + n as u64 == row {
        memory.write(Which::Output, at / row * 4, &float::narrow(&sums))?;
        sums = [0.0; float::LANES];
    }
    *lanes = sums;
    Ok(Place::after(n, 2))
}
