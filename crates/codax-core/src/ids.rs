//! Every id, offset and count of the store, each with its own type.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Bytes in a page and in a frame. The base page of x86-64 and of most arm64 kernels.
pub const PAGE_SIZE: u64 = 4096;

/// Bytes in a huge page; address ranges of mappings are aligned and padded to it, and moves go in chunks of it.
pub const HUGE_SIZE: u64 = 2 << 20;

/// Pages in a huge page.
pub const HUGE_PAGES: u64 = HUGE_SIZE / PAGE_SIZE;

macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

newtype! {
    /// A file or directory. Made by the namespace when the file is created, never reused while the store lives.
    FileId(u64)
}
newtype! {
    /// A pool. Made when a device is first named to the store; `dram` is always 0. Lives as long as the store.
    PoolId(u16)
}
newtype! {
    /// The number of a frame within its pool. Made by the pool's allocator; names the same record of the frame table
    /// for as long as the pool exists.
    Frame(u64)
}
newtype! {
    /// The number of a page within its file: offset / [`PAGE_SIZE`].
    PageNo(u64)
}
newtype! {
    /// A count of pages or of frames.
    PageCount(u64)
}
newtype! {
    /// One segment of a live move. Made by the engine from a counter in the journal, never reused while the store lives.
    MoveId(u32)
}
newtype! {
    /// A connected client. Made by the daemon at the handshake, never reused while the daemon lives.
    SessionId(u64)
}

/// What a pool on a medium of its own is called wherever that is taken: drawn when the medium is formatted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PoolUuid(pub [u8; 16]);

impl fmt::Display for PoolUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

/// The root directory.
pub const ROOT: FileId = FileId(1);

/// The host's own memory.
pub const DRAM: PoolId = PoolId(0);

/// The name of the pool of the host's own memory.
pub const DRAM_NAME: &str = "dram";

impl PageCount {
    /// How many pages `len` bytes take.
    #[must_use]
    pub const fn for_bytes(len: u64) -> Self {
        Self(len.div_ceil(PAGE_SIZE))
    }

    /// How many bytes these pages hold.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 * PAGE_SIZE
    }
}

impl PageNo {
    /// The offset in the file at which this page starts, in bytes.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0 * PAGE_SIZE
    }
}

/// A run of a file's pages: `start..start + count`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PageRange {
    /// First page.
    pub start: PageNo,
    /// Number of pages.
    pub count: PageCount,
}

impl PageRange {
    /// All pages that there can be.
    pub const ALL: Self = Self { start: PageNo(0), count: PageCount(u64::MAX) };

    /// The pages from `start` on, `count` of them.
    #[must_use]
    pub const fn new(start: u64, count: u64) -> Self {
        Self { start: PageNo(start), count: PageCount(count) }
    }

    /// The pages that the bytes `offset..offset + len` touch.
    #[must_use]
    pub const fn of_bytes(offset: u64, len: u64) -> Self {
        let start = offset / PAGE_SIZE;
        let end = (offset + len).div_ceil(PAGE_SIZE);
        Self::new(start, end - start)
    }

    /// One past the last page.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start.0 + self.count.0
    }

    /// Whether there is no page in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.count.0 == 0
    }

    /// Offset of the first byte.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.start.offset()
    }

    /// Length in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.count.bytes()
    }

    /// The whole units of `unit` pages that it touches.
    #[must_use]
    pub const fn widened(self, unit: u64) -> Self {
        if self.is_empty() {
            return self;
        }
        let start = self.start.0 / unit * unit;
        Self::new(start, self.end().next_multiple_of(unit) - start)
    }

    /// The pages before and after those in `other`.
    pub fn without(self, other: Self) -> impl Iterator<Item = Self> {
        let before = Self::new(self.start.0, other.start.0.clamp(self.start.0, self.end()) - self.start.0);
        let after = other.end().clamp(self.start.0, self.end()).max(before.end());
        [before, Self::new(after, self.end() - after)].into_iter().filter(|part| !part.is_empty())
    }

    /// The pages in both, if there are any.
    #[must_use]
    pub fn intersect(self, other: Self) -> Option<Self> {
        let start = self.start.0.max(other.start.0);
        let end = self.end().min(other.end());
        (start < end).then(|| Self::new(start, end - start))
    }
}
