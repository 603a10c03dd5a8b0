//! The state of the coprocessor as bytes: how far each queue is, and what runs there.
//!
//! Little-endian: `"cxsw"`, version `u32`; then for each queue its number `u64`, the next position in it `u64`, and how many requests were taken and are not complete
//! `u64`; for each of these its position `u64`, its descriptor (7 `u64`, as a slot has it), for how long it has run `u64` (in ns), the length of its operation's state
//! `u64` (0 if it has not begun), and the state (`codax_ops::state`). What else waits in a queue needs no state.

use crate::work::Done;
use codax_core::driver::{QueueId, STATE_MAX};
use codax_ops::Operation;
use codax_os::ring::Descriptor;
use std::collections::BTreeMap;
use std::time::Duration;

const MAGIC: [u8; 4] = *b"cxsw";
const VERSION: u32 = 2;

/// How far a queue is.
#[derive(Clone, Debug)]
pub struct At {
    /// The next position.
    pub next: u64,
    /// What was taken and is not complete.
    pub begun: Vec<Begun>,
}

/// A request that was taken.
#[derive(Clone, Debug)]
pub struct Begun {
    pub position: u64,
    pub descriptor: Descriptor,
    /// None if nothing was done yet.
    pub done: Option<Done>,
}

/// How far all queues are.
pub type Saved = BTreeMap<QueueId, At>;

pub fn encode(saved: &Saved) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    let mut put = |words: &[u64], rest: &[u8]| {
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(rest);
    };
    for (queue, At { next, begun }) in saved {
        put(&[queue.0, *next, begun.len() as u64], &[]);
        for Begun { position, descriptor, done } in begun {
            let state = done.as_ref().map(|done| done.operation.save()).unwrap_or_default();
            let ran = done.as_ref().map_or(0, |done| u64::try_from(done.ran.as_nanos()).unwrap_or(u64::MAX));
            put(&[*position], &[]);
            put(&descriptor.encode(), &[]);
            put(&[ran, state.len() as u64], &state);
        }
    }
    debug_assert!(bytes.len() <= STATE_MAX);
    bytes
}

/// Of any bytes; why they are none is for people.
pub fn decode(bytes: &[u8]) -> Result<Saved, String> {
    let mut rest = Rest(bytes);
    let head: [u8; 8] = rest.array().ok_or_else(|| format!("a state of {} bytes", bytes.len()))?;
    if head[..4] != MAGIC || head[4..] != VERSION.to_le_bytes() {
        return Err(format!("a state that begins with {head:02x?}: another release's"));
    }
    let mut saved = Saved::new();
    while !rest.0.is_empty() {
        let (queue, at) = rest.queue()?.ok_or("a state that is too short")?;
        saved.insert(queue, at);
    }
    Ok(saved)
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

/// `None` if there are too few bytes.
type Read<T> = Result<Option<T>, String>;

impl Rest<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, behind) = self.0.split_first_chunk()?;
        self.0 = behind;
        Some(*array)
    }

    fn word(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn words<const N: usize>(&mut self) -> Option<[u64; N]> {
        let mut words = [0; N];
        for word in &mut words {
            *word = self.word()?;
        }
        Some(words)
    }

    fn queue(&mut self) -> Read<(QueueId, At)> {
        let Some([queue, next, count]) = self.words() else { return Ok(None) };
        let mut begun = Vec::new();
        for _ in 0..count {
            let Some(one) = self.begun()? else { return Ok(None) };
            begun.push(one);
        }
        Ok(Some((QueueId(queue), At { next, begun })))
    }

    fn begun(&mut self) -> Read<Begun> {
        let (Some(position), Some(descriptor), Some([ran, len])) = (self.word(), self.words(), self.words())
        else {
            return Ok(None);
        };
        let state = usize::try_from(len).ok().and_then(|len| self.0.split_at_checked(len));
        let Some((state, behind)) = state else { return Ok(None) };
        self.0 = behind;
        let operation =
            (len > 0).then(|| Operation::restore(state)).transpose().map_err(|e| e.to_string())?;
        let done = operation.map(|operation| Done { operation, ran: Duration::from_nanos(ran) });
        Ok(Some(Begun { position, descriptor: Descriptor::decode(descriptor), done }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_ops::{Opcode, Range, Spec, Which};

    #[test]
    fn what_is_encoded_is_decoded_and_anything_else_refused() {
        let range = Range { file: 7, start: 0, len: 4096 };
        let operation = Operation::new(Spec::new(Opcode::Crc32c).with(Which::Input, range)).unwrap();
        let done = Done { operation, ran: Duration::from_nanos(12_345) };
        let begun = |position, done| Begun {
            position,
            descriptor: Descriptor { opcode: 6, len: position, ..Descriptor::default() },
            done,
        };
        let queues = [
            (1, At { next: 9, begun: vec![begun(8, Some(done)), begun(7, None)] }),
            (u64::MAX / 3, At { next: 0, begun: vec![] }),
        ];
        let saved: Saved = queues.into_iter().map(|(id, at)| (QueueId(id), at)).collect();
        let bytes = encode(&saved);
        let again = decode(&bytes).unwrap();
        assert_eq!(encode(&again), bytes);
        assert_eq!((again.len(), again[&QueueId(1)].begun[0].descriptor.len), (2, 8));
        assert_eq!(decode(&bytes[..8]).unwrap().len(), 0);
        let second = bytes.len() - 24;
        for len in (0..bytes.len()).filter(|len| ![8, second].contains(len)) {
            assert!(decode(&bytes[..len]).is_err(), "{len}");
        }
        let mut other = bytes;
        other[4] = 1;
        assert!(decode(&other).is_err());
    }
}
