//! Sums, products and extremes of floats.
//!
//! A sum is made in `f64`, of `f32` too, in 16 lanes: lane `i` starts as 0, and adds the elements `i`, `i + 16`, `i + 32` and so on, in this order. In the
//! end lanes are added in pairs: `i` and `i + 8` for `i` below 8, then of these `i` and `i + 4`, `i` and `i + 2`, and the last two. No product
//! is fused with its sum. So a sum depends on the elements and their places, and neither on steps nor on the machine.

use super::elements;
use multiversion::multiversion;

/// How many partial sums there are.
pub const LANES: usize = 16;

/// Partial sums.
pub type Lanes = [f64; LANES];

/// A type of floats.
trait Float<const N: usize>: Copy {
    /// The greatest value.
    const INFINITY: Self;
    /// From little-endian bytes.
    fn load(bytes: [u8; N]) -> Self;
    /// As `f64`.
    fn wide(self) -> f64;
    /// `self < other`.
    fn below(self, other: Self) -> bool;
    /// 1 if it is a number, 0 if it is NaN.
    fn counts(self) -> u32;
}

macro_rules! floats {
    ($($ty:ty, $n:literal;)*) => {$(
        impl Float<$n> for $ty {
            const INFINITY: Self = Self::INFINITY;
            #[inline(always)]
            fn load(bytes: [u8; $n]) -> Self {
                Self::from_le_bytes(bytes)
            }
            #[inline(always)]
            fn wide(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn below(self, other: Self) -> bool {
                self < other
            }
            #[inline(always)]
            fn counts(self) -> u32 {
                u32::from(!self.is_nan())
            }
        }
    )*};
}

floats! {
    f32, 4;
    f64, 8;
}

/// Each function once for the vectors that every machine of its kind has, and once for wider ones; which of them runs is found out at its first call.
macro_rules! functions {
    ($($ty:ty, $n:literal, $sum:ident, $dot:ident, $least:ident, $greatest:ident;)*) => {$(
        /// Adds elements to partial sums.
        #[multiversion(targets("x86_64+avx2"))]
        pub fn $sum(lanes: &mut Lanes, bytes: &[u8]) {
            sum::<$ty, $n>(lanes, bytes);
        }

        /// Adds products of elements to partial sums.
        #[multiversion(targets("x86_64+avx2"))]
        pub fn $dot(lanes: &mut Lanes, left: &[u8], right: &[u8]) {
            dot::<$ty, $n>(lanes, left, right);
        }

        /// The least element, starting from what there was before.
        #[multiversion(targets("x86_64+avx2"))]
        pub fn $least(before: Extreme, bytes: &[u8]) -> Extreme {
            before.or(extreme::<$ty, $n>(bytes, |element| element), f64::lt)
        }

        /// The greatest element, starting from what there was before.
        #[multiversion(targets("x86_64+avx2"))]
        pub fn $greatest(before: Extreme, bytes: &[u8]) -> Extreme {
            let negated = extreme::<$ty, $n>(bytes, |element| -element);
            before.or(Extreme { value: -negated.value, ..negated }, f64::gt)
        }
    )*};
}

functions! {
    f32, 4, sum_f32, dot_f32, min_f32, max_f32;
    f64, 8, sum_f64, dot_f64, min_f64, max_f64;
}

#[inline(always)]
fn sum<T: Float<N>, const N: usize>(lanes: &mut Lanes, bytes: &[u8]) {
    let (groups, rest) = elements::<N>(bytes).as_chunks::<LANES>();
    let mut sums = *lanes;
    for group in groups {
        for (sum, element) in sums.iter_mut().zip(group) {
            *sum += T::load(*element).wide();
        }
    }
    for (sum, element) in sums.iter_mut().zip(rest) {
        *sum += T::load(*element).wide();
    }
    *lanes = sums;
}

#[inline(always)]
fn dot<T: Float<N>, const N: usize>(lanes: &mut Lanes, left: &[u8], right: &[u8]) {
    let (left, left_rest) = elements::<N>(left).as_chunks::<LANES>();
    let (right, right_rest) = elements::<N>(right).as_chunks::<LANES>();
    let mut sums = *lanes;
    for (left, right) in left.iter().zip(right) {
        for (sum, (left, right)) in sums.iter_mut().zip(left.iter().zip(right)) {
            *sum += T::load(*left).wide() * T::load(*right).wide();
        }
    }
    for (sum, (left, right)) in sums.iter_mut().zip(left_rest.iter().zip(right_rest)) {
        *sum += T::load(*left).wide() * T::load(*right).wide();
    }
    *lanes = sums;
}

/// The sum of partial sums.
#[must_use]
pub fn total(lanes: &Lanes) -> f64 {
    let mut sums = *lanes;
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
    }
    sums[0]
}

/// Each row's product with a vector: `rows` are whole rows, as many as `to` has elements.
#[multiversion(targets("x86_64+avx2"))]
pub fn matvec(rows: &[u8], vector: &[u8], to: &mut [[u8; 4]]) {
    for (row, to) in rows.chunks_exact(vector.len()).zip(to) {
        let mut lanes = [0.0; LANES];
        dot::<f32, 4>(&mut lanes, row, vector);
        *to = narrow(&lanes);
    }
}

/// The sum of partial sums as an `f32`, little-endian. NaN is one NaN.
#[must_use]
pub fn narrow(lanes: &Lanes) -> [u8; 4] {
    #[expect(clippy::cast_possible_truncation, reason = "it is to be rounded")]
    let sum = total(lanes) as f32;
    if sum.is_nan() { f32::NAN.to_le_bytes() } else { sum.to_le_bytes() }
}

/// The least or greatest number so far, and of how many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extreme {
    /// The number; infinite, and nothing's, before the first.
    pub value: f64,
    /// How many there were that aren't NaN.
    pub count: u64,
}

impl Extreme {
    /// Of no numbers yet.
    #[must_use]
    pub fn new(greatest: bool) -> Self {
        Self { value: if greatest { f64::NEG_INFINITY } else { f64::INFINITY }, count: 0 }
    }

    /// The one of two that beats the other.
    #[inline(always)]
    fn or(self, other: Self, beats: impl Fn(&f64, &f64) -> bool) -> Self {
        let value = if beats(&other.value, &self.value) { other.value } else { self.value };
        Self { value, count: self.count.wrapping_add(other.count) }
    }

    /// What it is: NaN of nothing, and +0 for both zeros.
    #[must_use]
    pub fn value(&self) -> f64 {
        if self.count == 0 { f64::NAN } else { self.value + 0.0 }
    }
}

/// The least element, each taken as `of` has it, and how many aren't NaN, which is below nothing.
#[inline(always)]
fn extreme<T: Float<N>, const N: usize>(bytes: &[u8], of: impl Fn(T) -> T) -> Extreme {
    let mut found = Extreme::new(false);
    // In pieces whose count fits in 32 bits, and which stay in the cache between the two passes.
    for piece in elements::<N>(bytes).chunks(1024) {
        let (groups, rest) = piece.as_chunks::<LANES>();
        let mut lanes = [T::INFINITY; LANES];
        for group in groups {
            for (lane, element) in lanes.iter_mut().zip(group) {
                let element = of(T::load(*element));
                *lane = if element.below(*lane) { element } else { *lane };
            }
        }
        let rest = rest.iter().map(|element| of(T::load(*element)));
        let least =
            rest.chain(lanes).fold(T::INFINITY, |least, lane| if lane.below(least) { lane } else { least });
        let count: u32 = piece.iter().map(|element| T::load(*element).counts()).sum();
        found = found.or(Extreme { value: least.wide(), count: u64::from(count) }, f64::lt);
    }
    found
}
