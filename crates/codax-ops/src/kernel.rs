//! The computations themselves, on slices. Each takes what came before and goes on with it, so that the result is the same however
//! the bytes are cut, as long as the cuts are at multiples of [`GRAIN`] from the range's start.
//!
//! Loops are written so that the compiler makes vector code of them: a fixed number of lanes that don't depend on each other.

pub mod float;
pub mod histogram;
pub mod integer;
pub mod xxh3;

use crc_fast::{CrcAlgorithm, Digest};
use std::cmp::Ordering;

/// Where ranges may be cut, in bytes.
pub const GRAIN: usize = 1024;

/// CRC-32C of `bytes`, after bytes whose CRC is `before` (0 if there are none).
#[must_use]
pub fn crc32c(before: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!before));
    digest.update(bytes);
    #[expect(clippy::cast_possible_truncation, reason = "a CRC of 32 bits, as the crate gives all")]
    let sum = digest.finalize() as u32;
    sum
}

/// Where two slices of one length differ first, and which is the smaller there.
#[must_use]
pub fn first_difference(left: &[u8], right: &[u8]) -> Option<(usize, Ordering)> {
    const PIECE: usize = 4096;
    let pieces = left.chunks(PIECE).zip(right.chunks(PIECE)).enumerate();
    pieces.filter(|(_, (left, right))| left != right).find_map(|(piece, (left, right))| {
        let orders = left.iter().zip(right).map(|(a, b)| a.cmp(b)).enumerate();
        let (i, order) = orders.into_iter().find(|(_, order)| order.is_ne())?;
        Some((piece * PIECE + i, order))
    })
}

/// The elements of which `bytes` are made.
fn elements<const N: usize>(bytes: &[u8]) -> &[[u8; N]] {
    bytes.as_chunks().0
}
