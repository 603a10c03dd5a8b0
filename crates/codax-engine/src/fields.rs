//! Numbers at fixed places of what is on a medium, or in the journal. All of them are little-endian.

use std::ops::Range;

/// Names the places of a structure's fields, each as `NAME start..end` in bytes, and proves that they follow each other without gaps or overlaps, from
/// byte 0 to the structure's size.
macro_rules! fields {
    ($(#[$doc:meta])* $vis:vis const $size:ident = $bytes:literal { $($(#[$field:meta])* $name:ident $start:literal..$end:literal,)* }) => {
        $(#[$doc])*
        $vis const $size: usize = $bytes;
        $($(#[$field])* const $name: std::ops::Range<usize> = $start..$end;)*
        const _: () = {
            let starts = [$($start,)* $bytes];
            let ends = [0usize, $($end,)*];
            let mut at = 0;
            while at < starts.len() {
                assert!(starts[at] == ends[at] && (at == 0 || starts[at] > starts[at - 1]));
                at += 1;
            }
        };
    };
}
pub(crate) use fields;

/// The bytes at `range`, which has `N` of them.
pub(crate) fn bytes_at<const N: usize>(bytes: &[u8], range: Range<usize>) -> [u8; N] {
    std::array::from_fn(|i| bytes[range.start + i])
}

/// The number of 2 bytes at `range`.
pub(crate) fn u16_at(bytes: &[u8], range: Range<usize>) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, range))
}

/// The number of 4 bytes at `range`.
pub(crate) fn u32_at(bytes: &[u8], range: Range<usize>) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, range))
}

/// The number of 8 bytes at `range`.
pub(crate) fn u64_at(bytes: &[u8], range: Range<usize>) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, range))
}

/// The signed number of 8 bytes at `range`.
pub(crate) fn i64_at(bytes: &[u8], range: Range<usize>) -> i64 {
    i64::from_le_bytes(bytes_at(bytes, range))
}

/// Puts `value` at `range`, which has as many bytes.
pub(crate) fn put(bytes: &mut [u8], range: Range<usize>, value: &[u8]) {
    bytes[range].copy_from_slice(value);
}

/// An offset within an area as an index; what no memory could hold becomes an index that is behind everything.
pub(crate) fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// What pieces are compared with; comparing slices is quick, also where nothing is optimised.
static ZEROS: [u8; 4096] = [0; 4096];

/// How many of `bytes` there are up to the last that isn't zero.
pub(crate) fn len_without_zeros(bytes: &[u8]) -> usize {
    let mut end = bytes.len();
    for piece in bytes.rchunks(ZEROS.len()) {
        if let Some(last) = (!is_zero(piece)).then(|| piece.iter().rposition(|&byte| byte != 0)).flatten() {
            return end - piece.len() + last + 1;
        }
        end -= piece.len();
    }
    0
}

/// Whether nothing but zeros is in `bytes`.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROS.len()).all(|piece| *piece == ZEROS[..piece.len()])
}

/// The checksum of a head of which bytes 12 to 16 are the checksum: over all others.
pub(crate) fn head_check(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
}
