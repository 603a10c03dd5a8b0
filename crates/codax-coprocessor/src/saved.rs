//! The state of the coprocessor as bytes: for each queue that is at something, how far that is.
//!
//! Little-endian: `"cxsw"`, version `u32`, the number of the process `u64`; then for each of these queues its number `u64`, the position of its running request in the
//! queue `u64`, the length of the operation's state `u32`, and the state (`codax_ops::state`). What waits in a queue stays there, and needs no state.

use codax_core::driver::{QueueId, STATE_MAX};

const MAGIC: [u8; 4] = *b"cxsw";
const VERSION: u32 = 1;
const HEADER: usize = 16;
const ENTRY: usize = 20;

/// What a queue is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    pub queue: QueueId,
    /// Of the request.
    pub position: u64,
    /// Of the operation.
    pub state: Vec<u8>,
}

/// The state of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Which process: the queues of another one ended with it.
    pub process: u64,
    pub queues: Vec<At>,
}

impl Saved {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.process.to_le_bytes());
        for At { queue, position, state } in &self.queues {
            bytes.extend(queue.0.to_le_bytes());
            bytes.extend(position.to_le_bytes());
            bytes.extend(u32::try_from(state.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend(state);
        }
        debug_assert!(bytes.len() <= STATE_MAX);
        bytes
    }

    /// Of any bytes; why they are none is for people.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (header, mut rest) =
            bytes.split_first_chunk::<HEADER>().ok_or(format!("a state of {} bytes", bytes.len()))?;
        if header[..4] != MAGIC || u32_at(header, 4) != VERSION {
            return Err(format!("a state that begins with {:02x?}: another release's", &header[..8]));
        }
        let mut queues = Vec::new();
        while !rest.is_empty() {
            let short = || "a state that is too short".to_owned();
            let (entry, behind) = rest.split_first_chunk::<ENTRY>().ok_or_else(short)?;
            let len = usize::try_from(u32_at(entry, 16)).unwrap_or(usize::MAX);
            let (state, behind) = behind.split_at_checked(len).ok_or_else(short)?;
            let (queue, position) = (QueueId(u64_at(entry, 0)), u64_at(entry, 8));
            queues.push(At { queue, position, state: state.to_vec() });
            rest = behind;
        }
        Ok(Self { process: u64_at(header, 8), queues })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_anything_else_refused() {
        let at = |queue, len| At { queue: QueueId(queue), position: queue * 3, state: vec![7; len] };
        for queues in [vec![], vec![at(1, 0), at(u64::MAX / 3, 200)]] {
            let saved = Saved { process: 99, queues };
            let bytes = saved.encode();
            assert_eq!(Saved::decode(&bytes), Ok(saved));
            for len in 0..HEADER.min(bytes.len()) {
                assert!(Saved::decode(&bytes[..len]).is_err());
            }
            if bytes.len() > HEADER {
                assert!(Saved::decode(&bytes[..bytes.len() - 1]).is_err());
            }
            let mut other = bytes;
            other[4] = 2;
            assert!(Saved::decode(&other).is_err());
        }
    }
}
