//! XXH3 with 64 bits, without seed. The crate `xxhash-rust` has it, but its state can't be had; so the accumulation of long inputs is here, and the tests
//! compare the two. Short inputs, which are done at once, are the crate's.
//!
//! An input of more than [`SHORT`] bytes goes into eight accumulators in stripes of 64 bytes, of which 16 make a block; after each block but the last the
//! accumulators are scrambled. The last 64 bytes are a stripe of their own, which overlaps the others.

use multiversion::multiversion;
use xxhash_rust::const_xxh3::const_custom_default_secret;

pub use xxhash_rust::xxh3::xxh3_64 as short;

/// Inputs of so many bytes and fewer are [`short`].
pub const SHORT: u64 = 240;

/// Bytes of a block.
pub const BLOCK: usize = 1024;

/// Bytes of a stripe.
pub const STRIPE: usize = 64;

/// The state between two blocks.
pub type Accumulators = [u64; 8];

const SECRET: [u8; 192] = const_custom_default_secret(0);

const PRIME32_1: u64 = 0x9e37_79b1;
const PRIME32_2: u64 = 0x85eb_ca77;
const PRIME32_3: u64 = 0xc2b2_ae3d;
const PRIME64_1: u64 = 0x9e37_79b1_85eb_ca87;
const PRIME64_2: u64 = 0xc2b2_ae3d_27d4_eb4f;
const PRIME64_3: u64 = 0x1656_67b1_9e37_79f9;
const PRIME64_4: u64 = 0x85eb_ca77_c2b2_ae63;
const PRIME64_5: u64 = 0x27d4_eb2f_1656_67c5;

/// The state before the first block.
pub const INITIAL: Accumulators =
    [PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1];

/// Goes on with whole blocks, each of which something comes behind.
#[multiversion(targets("x86_64+avx2"))]
pub fn add_blocks(acc: &mut Accumulators, bytes: &[u8]) {
    let mut sums = *acc;
    for block in bytes.as_chunks::<BLOCK>().0 {
        add_stripes(&mut sums, block);
        for (sum, key) in sums.iter_mut().zip(keys(SECRET.len() - STRIPE)) {
            *sum = (*sum ^ *sum >> 47 ^ key).wrapping_mul(PRIME32_1);
        }
    }
    *acc = sums;
}

/// Ends with what is behind the last whole block, 1 to 1024 bytes, and the input's last 64 bytes.
pub fn add_end(acc: &mut Accumulators, rest: &[u8], last: &[u8; STRIPE]) {
    add_stripes(acc, &rest[..rest.len().saturating_sub(1) / STRIPE * STRIPE]);
    add_stripe(acc, last, keys(SECRET.len() - STRIPE - 7));
}

/// The hash, of the last state and the input's length.
#[must_use]
pub fn merge(acc: &Accumulators, len: u64) -> u64 {
    let keys = keys(11);
    let pairs = acc.as_chunks::<2>().0.iter().zip(keys.as_chunks::<2>().0);
    let sum = pairs.fold(len.wrapping_mul(PRIME64_1), |sum, ([a, b], [key_a, key_b])| {
        let product = u128::from(a ^ key_a) * u128::from(b ^ key_b);
        sum.wrapping_add(halves(product))
    });
    let sum = (sum ^ sum >> 37).wrapping_mul(0x1656_6791_9e37_79f9);
    sum ^ sum >> 32
}

#[expect(clippy::cast_possible_truncation, reason = "one half and the other")]
fn halves(product: u128) -> u64 {
    product as u64 ^ (product >> 64) as u64
}

#[inline(always)]
fn add_stripes(acc: &mut Accumulators, bytes: &[u8]) {
    for (i, stripe) in bytes.as_chunks::<STRIPE>().0.iter().enumerate() {
        add_stripe(acc, stripe, keys(8 * i));
    }
}

#[inline(always)]
fn add_stripe(acc: &mut Accumulators, stripe: &[u8; STRIPE], keys: [u64; 8]) {
    let words: [u64; 8] = words(stripe);
    for i in 0..8 {
        let keyed = words[i] ^ keys[i];
        let product = (keyed & 0xffff_ffff).wrapping_mul(keyed >> 32);
        acc[i] = acc[i].wrapping_add(words[i ^ 1]).wrapping_add(product);
    }
}

#[inline(always)]
fn keys(from: usize) -> [u64; 8] {
    let (keys, _) = SECRET[from..].as_chunks::<STRIPE>();
    words(&keys[0])
}

#[inline(always)]
fn words(bytes: &[u8; STRIPE]) -> [u64; 8] {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}
