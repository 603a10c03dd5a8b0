//! Sums, products and extremes of `i64`. Sums are exact, so their order is nobody's concern.

use super::elements;
use multiversion::multiversion;

const LANES: usize = 8;

/// Groups after which partial sums of 32-bit halves are put together, long before they overflow.
const PIECE: usize = 1 << 16;

/// Adds elements to a sum.
#[must_use]
#[multiversion(targets("x86_64+avx2"))]
pub fn sum(before: i128, bytes: &[u8]) -> i128 {
    let (groups, rest) = elements::<8>(bytes).as_chunks::<LANES>();
    let pieces = groups.chunks(PIECE).map(|piece| {
        // Each as an unsigned number that is 2^63 larger, in two halves: sums of 64 bits hold many of them, and vectors have such.
        let (mut low, mut high) = ([0u64; LANES], [0u64; LANES]);
        for group in piece {
            for ((low, high), element) in low.iter_mut().zip(&mut high).zip(group) {
                let element = u64::from_le_bytes(*element) ^ 1 << 63;
                *low += element & 0xffff_ffff;
                *high += element >> 32;
            }
        }
        let low: i128 = low.into_iter().map(i128::from).sum();
        let high: i128 = high.into_iter().map(i128::from).sum();
        let count: i128 = piece.iter().map(|_| LANES as i128).sum();
        (high << 32) + low - (count << 63)
    });
    let rest = rest.iter().map(|element| i128::from(i64::from_le_bytes(*element)));
    pieces.chain(rest).fold(before, i128::wrapping_add)
}

/// Adds products of elements to a sum, modulo 2^128.
#[must_use]
pub fn dot(before: i128, left: &[u8], right: &[u8]) -> i128 {
    let pairs = elements::<8>(left).iter().zip(elements::<8>(right));
    pairs.fold(before, |sum, (left, right)| {
        let (left, right) = (i64::from_le_bytes(*left), i64::from_le_bytes(*right));
        sum.wrapping_add(i128::from(left) * i128::from(right))
    })
}

/// The least (or greatest) element.
#[must_use]
#[multiversion(targets("x86_64+avx2"))]
pub fn extreme(bytes: &[u8], greatest: bool) -> Option<i64> {
    // The complement turns the order around.
    let turn = if greatest { -1 } else { 0 };
    let (groups, rest) = elements::<8>(bytes).as_chunks::<LANES>();
    let mut lanes = [i64::MAX; LANES];
    for group in groups {
        for (lane, element) in lanes.iter_mut().zip(group) {
            *lane = (*lane).min(i64::from_le_bytes(*element) ^ turn);
        }
    }
    let rest = rest.iter().map(|element| i64::from_le_bytes(*element) ^ turn);
    let lanes = lanes.into_iter().filter(|_| !groups.is_empty());
    lanes.chain(rest).min().map(|least| least ^ turn)
}
