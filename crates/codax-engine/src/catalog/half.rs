//! A half of a catalog: a header of 64 bytes, then records without gaps, then zeros. All numbers are little-endian.
//!
//! ```text
//! header   0..8    "codaxcat"
//!          8..12   version of the layout
//!         12..16   crc32c of bytes 0..12 and 16..64
//!         16..32   id of the pool
//!         32..40   generation: of two halves with a header, the higher counts
//!         40..48   bytes that were there when the half began to count: this header, and the records written before it
//!         48..64   0
//! record   0..4    length of the entries in bytes, a multiple of 8
//!          4..8    crc32c of: id of the pool (16 bytes), generation (8 bytes), the record's bytes 0..4, and 8 to its end
//!          8..16   number of the record: 1 for the first behind the header, and so on
//!         16..20   number of entries
//!         20..24   0
//!         24..     entries
//! ```
//!
//! Since pool, generation and number are in its checksum, no record of another pool, of an older generation, or from another place
//! is ever taken for the one that belongs there. Zeros are no record, since there is no record of number 0.

use super::superblock::MEDIUM_VERSION;
use crate::fields::{bytes_at, fields, head_check, is_zero, put, u32_at, u64_at};
use codax_core::PoolUuid;
use codax_core::{Error, Result};

const MAGIC: &[u8; 8] = b"codaxcat";

fields! {
    /// Bytes of a half's header.
    pub(super) const HALF_HEADER = 64 {
        AT_MAGIC 0..8,
        AT_VERSION 8..12,
        AT_CHECK 12..16,
        AT_POOL 16..32,
        AT_GENERATION 32..40,
        AT_BASE 40..48,
        AT_ZERO 48..64,
    }
}

fields! {
    /// Bytes of a record's header.
    pub(super) const RECORD_HEADER = 24 {
        RECORD_LEN 0..4,
        RECORD_CHECK 4..8,
        RECORD_NUMBER 8..16,
        RECORD_ENTRIES 16..20,
        RECORD_ZERO 20..24,
    }
}

const _: () = {
    assert!(AT_MAGIC.end == MAGIC.len() && AT_CHECK.start == 12 && AT_CHECK.end == 16);
    assert!(HALF_HEADER.is_multiple_of(8) && RECORD_HEADER.is_multiple_of(8));
};

/// The header of a half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HalfHeader {
    pub(super) pool: PoolUuid,
    pub(super) generation: u64,
    /// Bytes from the half's start that were there when it began to count.
    pub(super) base: u64,
}

/// What is where a half's header belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// Nothing but zeros: the half doesn't count.
    Zero,
    /// A header.
    Good(HalfHeader),
    /// Something that doesn't check.
    Bad,
}

impl HalfHeader {
    pub(super) fn encode(&self) -> [u8; HALF_HEADER] {
        let mut bytes = [0; HALF_HEADER];
        put(&mut bytes, AT_MAGIC, MAGIC);
        put(&mut bytes, AT_VERSION, &MEDIUM_VERSION.to_le_bytes());
        put(&mut bytes, AT_POOL, &self.pool.0);
        put(&mut bytes, AT_GENERATION, &self.generation.to_le_bytes());
        put(&mut bytes, AT_BASE, &self.base.to_le_bytes());
        let check = head_check(&bytes);
        put(&mut bytes, AT_CHECK, &check.to_le_bytes());
        bytes
    }

    /// What the checksums of its half's records begin with.
    pub(super) fn seal(&self) -> Seal {
        let pool = crc32c::crc32c(&self.pool.0);
        Seal(crc32c::crc32c_append(pool, &self.generation.to_le_bytes()))
    }
}

impl Head {
    /// What `bytes` are, in a half of `half_bytes` of the pool `pool`.
    pub(super) fn read(bytes: &[u8], pool: PoolUuid, half_bytes: u64) -> Self {
        if is_zero(bytes) {
            return Self::Zero;
        }
        let header = HalfHeader {
            pool: PoolUuid(bytes_at(bytes, AT_POOL)),
            generation: u64_at(bytes, AT_GENERATION),
            base: u64_at(bytes, AT_BASE),
        };
        let base = (HALF_HEADER as u64..=half_bytes).contains(&header.base);
        let generation = header.generation > 0 && header.generation < u64::MAX;
        if base && generation && header.pool == pool && is_zero(&bytes[AT_ZERO]) && header.encode() == bytes {
            Self::Good(header)
        } else {
            Self::Bad
        }
    }
}

/// What the checksums of all records of one half and generation begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal(u32);

impl Seal {
    fn check(self, record: &[u8]) -> u32 {
        let check = crc32c::crc32c_append(self.0, &record[RECORD_LEN]);
        crc32c::crc32c_append(check, &record[RECORD_NUMBER.start..])
    }

    /// Makes a record of `record`, which has room for its header and then `entries` entries.
    pub(super) fn finish(self, record: &mut [u8], number: u64, entries: usize) -> Result<()> {
        let len = u32::try_from(record.len() - RECORD_HEADER).ok();
        let (Some(len), Ok(entries)) = (len, u32::try_from(entries)) else {
            return Err(Error::invalid(
                "a record of the catalog can't be larger than 4 GiB: change less at once",
            ));
        };
        put(record, RECORD_LEN, &len.to_le_bytes());
        put(record, RECORD_NUMBER, &number.to_le_bytes());
        put(record, RECORD_ENTRIES, &entries.to_le_bytes());
        let check = self.check(record);
        put(record, RECORD_CHECK, &check.to_le_bytes());
        Ok(())
    }

    /// The record of this number with which `bytes` begin, if it checks.
    pub(super) fn record(self, bytes: &[u8], number: u64) -> Option<Record<'_>> {
        let header = bytes.get(..RECORD_HEADER)?;
        let len = u32_at(header, RECORD_LEN) as usize;
        let whole = bytes.get(..RECORD_HEADER.checked_add(len)?)?;
        let right = u64_at(header, RECORD_NUMBER) == number
            && len.is_multiple_of(8)
            && is_zero(&header[RECORD_ZERO])
            && self.check(whole) == u32_at(header, RECORD_CHECK);
        right.then(|| Record { whole, entries: u32_at(header, RECORD_ENTRIES) })
    }
}

/// A record that checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// All its bytes.
    pub(super) whole: &'a [u8],
    /// How many entries it has.
    pub(super) entries: u32,
}

impl<'a> Record<'a> {
    /// The bytes of its entries.
    pub(super) fn body(&self) -> &'a [u8] {
        &self.whole[RECORD_HEADER..]
    }
}
