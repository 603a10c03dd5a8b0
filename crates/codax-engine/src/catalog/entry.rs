//! The catalog's vocabulary: what [`codax_core::change::Change`] says of files and names, with pools by what they are called on every medium, because a
//! medium travels between stores.

use codax_core::PoolUuid;
use codax_core::namespace::{Extra, Kind};
use codax_core::request::PlacementSpec;
use codax_core::{FileId, Frame, PageCount, PageNo};

/// One change of what the catalog holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The file or directory is now this; made if it wasn't there.
    Put(Box<Node>),
    /// It is gone; nothing happens if it wasn't there. Names that lead to it are not touched.
    Drop(FileId),
    /// `dir` has an entry `name` for `child` (replaces an entry of that name). Neither has to be in the catalog.
    Link {
        /// The directory.
        dir: FileId,
        /// The entry's name, 1 to 255 bytes.
        name: Vec<u8>,
        /// What it names.
        child: FileId,
    },
    /// `dir` has no entry `name` any more; nothing happens if it had none.
    Unlink {
        /// The directory.
        dir: FileId,
        /// The entry's name.
        name: Vec<u8>,
    },
}

/// A file, directory or other thing with a name: what [`codax_core::namespace::Inode`] has that outlives the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number in the store that wrote it.
    pub id: FileId,
    /// Where two media know one file, the higher version counts.
    pub version: u64,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names that lead to it.
    pub nlink: u32,
    /// The device of a device's node, as Linux encodes it.
    pub rdev: u32,
    /// Length in bytes.
    pub len: u64,
    /// Last access, in nanoseconds since 1970.
    pub atime_ns: i64,
    /// Last change of contents, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Last change of the inode, in nanoseconds since 1970.
    pub ctime_ns: i64,
    /// Its own placement, with pools by name.
    pub placement: Option<PlacementSpec>,
    /// Where its pages are, on this medium and on others, in the order in which they were given.
    pub extents: Vec<NodeExtent>,
    /// Where a symbolic link leads, and extended attributes. Empty of most.
    pub extra: Extra,
}

/// A run of a file's pages in consecutive frames of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeExtent {
    /// First page in the file.
    pub page: PageNo,
    /// Number of pages, and of frames.
    pub count: PageCount,
    /// The pool the frames are of.
    pub pool: PoolUuid,
    /// The frame that holds the first page.
    pub frame: Frame,
}
