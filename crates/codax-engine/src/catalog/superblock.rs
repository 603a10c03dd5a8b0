//! The superblock: what tells that a device is ours, and what the rest of it is.
//!
//! A superblock has 4096 bytes, the same in both copies. All numbers are little-endian.
//!
//! ```text
//!   0..8     "codaxdax"
//!   8..12    version of the layout                  magic, version and checksum keep their places in every version
//!  12..16    crc32c of bytes 0..12 and 16..4096
//!  16..32    id of the pool
//!  32..40    id of the store that uses it, 0 for none
//!  40..48    revision: one more with each change; of two that differ, the higher counts
//!  48..56    bytes of the device
//!  56..64    bytes of a unit
//!  64..72    bytes of a copy: data begins there
//!  72..80    bytes of a half
//!  80..88    frames of data, of 4096 bytes each
//!  88..96    when it was made, in nanoseconds since 1970 (signed)
//!  96..100   flags: 1 volatile, 2 a format is under way
//! 100..102   length of the name in bytes, 1 to 32
//! 102..104   0
//! 104..136   name of the pool, UTF-8, then zeros
//! 136..152   id of the boot in which it was made, of a volatile device; else zeros
//! 152..4096  0
//! ```

use super::geometry::Geometry;
use crate::fields::{bytes_at, fields, head_check, i64_at, is_zero, put, u16_at, u32_at, u64_at};
use codax_core::{Error, PoolUuid, Result};

/// Version of the layout of superblock and catalog.
pub const MEDIUM_VERSION: u32 = 1;

/// The longest name of a pool, in bytes.
pub const POOL_NAME_MAX: usize = 32;

const MAGIC: &[u8; 8] = b"codaxdax";

fields! {
    /// Bytes of a superblock.
    pub const SUPERBLOCK_BYTES = 4096 {
        AT_MAGIC 0..8,
        AT_VERSION 8..12,
        AT_CHECK 12..16,
        AT_POOL 16..32,
        AT_STORE 32..40,
        AT_REVISION 40..48,
        AT_DEVICE 48..56,
        AT_UNIT 56..64,
        AT_COPY 64..72,
        AT_HALF 72..80,
        AT_FRAMES 80..88,
        AT_CREATED 88..96,
        AT_FLAGS 96..100,
        AT_NAME_LEN 100..102,
        AT_ZERO 102..104,
        AT_NAME 104..136,
        AT_BOOT 136..152,
        AT_REST 152..4096,
    }
}

const VOLATILE: u32 = 1;
const UNFINISHED: u32 = 2;

const _: () = assert!(AT_NAME.end - AT_NAME.start == POOL_NAME_MAX);
const _: () =
    assert!(AT_MAGIC.end - AT_MAGIC.start == MAGIC.len() && AT_CHECK.start == 12 && AT_CHECK.end == 16);

/// A superblock that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The pool.
    pub pool: PoolUuid,
    /// The store that uses it, 0 for none.
    pub store: u64,
    /// How often it was changed.
    pub revision: u64,
    /// Where what is.
    pub geometry: Geometry,
    /// When it was made, in nanoseconds since 1970.
    pub created_ns: i64,
    /// The pool's name: 1 to [`POOL_NAME_MAX`] bytes.
    pub name: String,
    /// Of a device that loses its contents with the power: the boot in which it was made. `None` of a persistent one.
    pub boot: Option<[u8; 16]>,
}

impl Superblock {
    /// The superblock of a new pool. `Invalid` for a name that has no place in it.
    pub fn new(
        pool: PoolUuid,
        store: u64,
        name: &str,
        geometry: Geometry,
        boot: Option<[u8; 16]>,
        created_ns: i64,
    ) -> Result<Self> {
        if name.is_empty() || name.len() > POOL_NAME_MAX {
            return Err(Error::invalid(format!(
                "the name `{name}` has {} bytes: of a pool on a device it has 1 to {POOL_NAME_MAX}",
                name.len()
            )));
        }
        geometry.check().map_err(|why| Error::invalid(format!("{name} can't be made: {why}")))?;
        Ok(Self { pool, store, revision: 1, geometry, created_ns, name: name.into(), boot })
    }

    /// Whether the device loses its contents with the power.
    #[must_use]
    pub fn is_volatile(&self) -> bool {
        self.boot.is_some()
    }

    /// Whether what the device holds can't be true any more: it is volatile, and was made in another boot than `boot`.
    #[must_use]
    pub fn is_void(&self, boot: &[u8; 16]) -> bool {
        self.boot.as_ref().is_some_and(|made| made != boot)
    }

    /// The bytes. `unfinished` says that a format is under way, and that nothing else on the device counts yet.
    pub(super) fn encode(&self, unfinished: bool) -> Vec<u8> {
        let mut bytes = vec![0; SUPERBLOCK_BYTES];
        let flags = (u32::from(self.boot.is_some()) * VOLATILE) | (u32::from(unfinished) * UNFINISHED);
        // A name has 32 bytes at most: new() and decode() see to it, and a longer one from elsewhere is cut.
        let name = &self.name.as_bytes()[..self.name.len().min(POOL_NAME_MAX)];
        put(&mut bytes, AT_MAGIC, MAGIC);
        put(&mut bytes, AT_VERSION, &MEDIUM_VERSION.to_le_bytes());
        put(&mut bytes, AT_POOL, &self.pool.0);
        put(&mut bytes, AT_STORE, &self.store.to_le_bytes());
        put(&mut bytes, AT_REVISION, &self.revision.to_le_bytes());
        put(&mut bytes, AT_DEVICE, &self.geometry.device_bytes.to_le_bytes());
        put(&mut bytes, AT_UNIT, &self.geometry.unit.to_le_bytes());
        put(&mut bytes, AT_COPY, &self.geometry.copy_bytes.to_le_bytes());
        put(&mut bytes, AT_HALF, &self.geometry.half_bytes.to_le_bytes());
        put(&mut bytes, AT_FRAMES, &self.geometry.frames.to_le_bytes());
        put(&mut bytes, AT_CREATED, &self.created_ns.to_le_bytes());
        put(&mut bytes, AT_FLAGS, &flags.to_le_bytes());
        put(&mut bytes, AT_NAME_LEN, &u16::try_from(name.len()).unwrap_or(0).to_le_bytes());
        bytes[AT_NAME][..name.len()].copy_from_slice(name);
        put(&mut bytes, AT_BOOT, &self.boot.unwrap_or_default());
        let check = head_check(&bytes);
        put(&mut bytes, AT_CHECK, &check.to_le_bytes());
        bytes
    }
}

/// What is where a superblock belongs, and says of itself what nobody has checked yet.
#[derive(Clone, Debug)]
pub(super) struct UncheckedSuperblock(pub(super) Vec<u8>);

/// What it has turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// Nothing but zeros.
    Zero,
    /// Ours.
    Ours(Superblock),
    /// Ours, of a format that is under way or was cut off.
    Unfinished(Superblock),
    /// Ours, of a later version.
    Newer(u32),
    /// Begins as ours, and can't be true.
    Damaged(&'static str),
    /// Something else.
    Other,
}

impl UncheckedSuperblock {
    /// Checks it.
    pub(super) fn check(&self) -> Block {
        let bytes = &self.0[..];
        if bytes.len() != SUPERBLOCK_BYTES {
            return Block::Other;
        }
        if is_zero(bytes) {
            return Block::Zero;
        }
        if bytes[AT_MAGIC] != *MAGIC {
            return Block::Other;
        }
        if head_check(bytes) != u32_at(bytes, AT_CHECK) {
            return Block::Damaged("its checksum differs");
        }
        match u32_at(bytes, AT_VERSION) {
            MEDIUM_VERSION => self.decode().unwrap_or(Block::Damaged("what it says makes no sense")),
            0 => Block::Damaged("it is of version 0"),
            version => Block::Newer(version),
        }
    }

    fn decode(&self) -> Option<Block> {
        let bytes = &self.0[..];
        let [device_bytes, unit, copy_bytes, half_bytes, frames] =
            [AT_DEVICE, AT_UNIT, AT_COPY, AT_HALF, AT_FRAMES].map(|range| u64_at(bytes, range));
        let geometry = Geometry { device_bytes, unit, copy_bytes, half_bytes, frames };
        geometry.check().ok()?;
        let flags = u32_at(bytes, AT_FLAGS);
        let (name, rest) = bytes[AT_NAME].split_at_checked(usize::from(u16_at(bytes, AT_NAME_LEN)))?;
        let zeros = is_zero(rest) && is_zero(&bytes[AT_ZERO]) && is_zero(&bytes[AT_REST]);
        let revision = u64_at(bytes, AT_REVISION);
        if name.is_empty() || !zeros || flags & !(VOLATILE | UNFINISHED) != 0 || revision == u64::MAX {
            return None;
        }
        let superblock = Superblock {
            pool: PoolUuid(bytes_at(bytes, AT_POOL)),
            store: u64_at(bytes, AT_STORE),
            revision,
            geometry,
            created_ns: i64_at(bytes, AT_CREATED),
            name: str::from_utf8(name).ok()?.to_owned(),
            boot: (flags & VOLATILE != 0).then(|| bytes_at(bytes, AT_BOOT)),
        };
        Some(if flags & UNFINISHED == 0 { Block::Ours(superblock) } else { Block::Unfinished(superblock) })
    }
}
