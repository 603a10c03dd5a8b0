//! How often each byte occurs.

/// Counts by byte.
pub type Counts = [u64; 256];

/// Bytes after which counts of 32 bits are put together.
const PIECE: usize = 1 << 30;

/// Adds bytes to counts.
pub fn count(counts: &mut Counts, bytes: &[u8]) {
    for piece in bytes.chunks(PIECE) {
        // Tables by turns: of equal bytes one after the other each would wait for the one before.
        let mut tables = [[0u32; 256]; 4];
        let (words, rest) = piece.as_chunks::<8>();
        for word in words {
            let word = u64::from_le_bytes(*word).to_le_bytes();
            for (i, byte) in word.into_iter().enumerate() {
                tables[i % 4][usize::from(byte)] += 1;
            }
        }
        for byte in rest {
            tables[0][usize::from(*byte)] += 1;
        }
        for (i, count) in counts.iter_mut().enumerate() {
            let more = tables.iter().map(|table| u64::from(table[i])).sum();
            *count = count.wrapping_add(more);
        }
    }
}
