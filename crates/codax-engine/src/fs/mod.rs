//! The store as a filesystem sees it: names by (directory, name), files by handles, for a mount to serve.
//!
//! Who may do what is the kernel's business (`default_permissions`): nothing here looks at permissions. What the kernel can't know is applied here: setgid
//! directories hand on their group, and who writes or changes owners takes setuid and setgid away where the caller says so.
//!
//! * `names`: lookup, attributes, making, linking, renaming, listing.
//! * `serve`: opening and releasing: by whom a file's bytes are served.
//! * `io`: reading and writing through the daemon.
//! * `space`: lengths, holes, statfs.
//! * `absorb`: taking what programs did to an object directly into inode and frame table.
//! * `xattr`: extended attributes, placement among them.

use crate::store::{Inner, Store};
use codax_core::namespace::Kind;
use codax_core::{Error, FileId, Result};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Who asks, as the kernel says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// The process.
    pub pid: u32,
}

/// What stat(2) says of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Its number, which is its inode number.
    pub id: FileId,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names; of a directory, 2 and one for each directory in it.
    pub nlink: u32,
    /// Length in bytes; of a symbolic link, its target's.
    pub len: u64,
    /// Bytes of frames it takes.
    pub backed: u64,
    /// Last access, nanoseconds since 1970.
    pub atime_ns: i64,
    /// Last change of contents, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Last change of the inode, nanoseconds since 1970.
    pub ctime_ns: i64,
    /// The device of a device's node, as Linux encodes it.
    pub rdev: u32,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// The store's clock.
    Now,
    /// Nanoseconds since 1970.
    At(i64),
}

/// Attributes to set; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes: what is added is a hole.
    pub len: Option<u64>,
    /// Last access.
    pub atime: Option<Stamp>,
    /// Last change of contents.
    pub mtime: Option<Stamp>,
    /// Last change of the inode, where the kernel knows better than the store's clock.
    pub ctime_ns: Option<i64>,
    /// Whether setuid and setgid go, as FUSE asks with `FATTR_KILL_SUIDGID`.
    pub kill_suid: bool,
}

/// Something new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct New {
    /// Permission bits, umask taken off.
    pub mode: u16,
    /// Whose it is.
    pub who: Who,
    /// What it is.
    pub kind: NewKind,
}

/// What something new is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewKind {
    /// A regular file, empty.
    File,
    /// A directory.
    Dir,
    /// A symbolic link to this.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device's node.
    Char(u32),
    /// A block device's node.
    Block(u32),
}

/// How a rename treats what has the new name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenameFlags {
    /// It is an error (`RENAME_NOREPLACE`).
    pub noreplace: bool,
    /// It gets the old name (`RENAME_EXCHANGE`).
    pub exchange: bool,
}

/// What fallocate(2) is asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocate {
    /// The length stays (`FALLOC_FL_KEEP_SIZE`).
    pub keep_size: bool,
    /// The range becomes a hole (`FALLOC_FL_PUNCH_HOLE`, with `keep_size`).
    pub punch: bool,
    /// The range becomes zeros with memory (`FALLOC_FL_ZERO_RANGE`).
    pub zero: bool,
}

/// Names an open file of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FsHandle(pub u64);

/// What opening gave.
#[derive(Debug)]
pub struct FsOpen {
    /// The handle.
    pub handle: FsHandle,
    /// By whom its bytes are served, the same for all handles of a file.
    pub how: How,
}

/// By whom an open file's bytes are served.
#[derive(Debug)]
pub enum How {
    /// The kernel, from this object: to be registered as backing of the FUSE file, and closed then.
    Passthrough(OwnedFd),
    /// The daemon: [`Fs::read`] and [`Fs::write`].
    Daemon,
}

/// How a file would be served on a privileged mount if it were opened now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Whether by the kernel, from its object. On a mount without privilege it is the daemon, always.
    pub passthrough: bool,
    /// Why, for people.
    pub why: String,
}

/// What statfs(2) says: of the pools that a placement uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes in free frames.
    pub free: u64,
    /// Inodes that there may be in all.
    pub files: u64,
    /// Inodes that there may still be.
    pub files_free: u64,
}

/// What somebody else than the mount has changed: the kernel's caches of it are out of date.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Changed {
    /// Attributes or contents of an inode.
    Inode(FileId),
    /// What a directory has under a name.
    Entry(FileId, Vec<u8>),
}

/// The store for one mount. Clones are the same mount; when the last is gone, its handles are released.
#[derive(Clone, Debug)]
pub struct Fs {
    #[allow(dead_code)]
    inner: Arc<Inner>,
}

/// Entries of a directory with their attributes, in byte order of the names.
pub type Entries = Vec<(Vec<u8>, Attr)>;

impl Store {
    /// The store as a mount sees it. On a `privileged` one the kernel can be given objects to serve files from.
    #[must_use]
    pub fn fs(&self, _privileged: bool) -> Fs {
        Fs { inner: self.inner.clone() }
    }
}

fn not_there<T>() -> Result<T> {
    Err(Error::internal("not there yet"))
}

#[allow(unused_variables, missing_docs, clippy::unused_self)]
impl Fs {
    /// Tells the device number of the mount, by which the holders of its files are found in `/proc`. Once it is mounted.
    pub fn mounted_as(&self, dev: u64) {}
    pub fn lookup(&self, dir: FileId, name: &[u8]) -> Result<Attr> {
        not_there()
    }
    pub fn attr(&self, id: FileId) -> Result<Attr> {
        not_there()
    }
    pub fn set(&self, id: FileId, set: &Set, who: Who) -> Result<Attr> {
        not_there()
    }
    pub fn make(&self, dir: FileId, name: &[u8], new: &New) -> Result<Attr> {
        not_there()
    }
    pub fn create(
        &self,
        dir: FileId,
        name: &[u8],
        new: &New,
        read: bool,
        write: bool,
    ) -> Result<(Attr, FsOpen)> {
        not_there()
    }
    pub fn link(&self, id: FileId, dir: FileId, name: &[u8]) -> Result<Attr> {
        not_there()
    }
    pub fn unlink(&self, dir: FileId, name: &[u8]) -> Result<()> {
        not_there()
    }
    pub fn rmdir(&self, dir: FileId, name: &[u8]) -> Result<()> {
        not_there()
    }
    pub fn rename(&self, from: (FileId, &[u8]), to: (FileId, &[u8]), flags: RenameFlags) -> Result<()> {
        not_there()
    }
    pub fn read_link(&self, id: FileId) -> Result<Vec<u8>> {
        not_there()
    }
    pub fn entries(&self, dir: FileId, after: Option<&[u8]>, max: usize) -> Result<Entries> {
        not_there()
    }
    pub fn parent(&self, dir: FileId) -> Result<FileId> {
        not_there()
    }
    pub fn open(&self, id: FileId, read: bool, write: bool, truncate: bool, who: Who) -> Result<FsOpen> {
        not_there()
    }
    /// Ends a handle. Of a file served by the kernel: after its backing was unregistered, if it was the last.
    pub fn release(&self, handle: FsHandle) {}
    pub fn read(&self, handle: FsHandle, off: u64, buf: &mut [u8]) -> Result<usize> {
        not_there()
    }
    pub fn write(&self, handle: FsHandle, off: u64, data: &[u8], kill_suid: bool) -> Result<usize> {
        not_there()
    }
    pub fn allocate(&self, handle: FsHandle, off: u64, len: u64, mode: Allocate) -> Result<()> {
        not_there()
    }
    pub fn seek_data(&self, handle: FsHandle, off: u64) -> Result<u64> {
        not_there()
    }
    pub fn seek_hole(&self, handle: FsHandle, off: u64) -> Result<u64> {
        not_there()
    }
    pub fn copy_range(
        &self,
        from: FsHandle,
        from_off: u64,
        to: FsHandle,
        to_off: u64,
        len: u64,
    ) -> Result<usize> {
        not_there()
    }
    pub fn sync(&self, handle: FsHandle) -> Result<()> {
        not_there()
    }
    pub fn xattr(&self, id: FileId, name: &[u8]) -> Result<Vec<u8>> {
        not_there()
    }
    pub fn xattrs(&self, id: FileId) -> Result<Vec<Vec<u8>>> {
        not_there()
    }
    pub fn set_xattr(
        &self,
        id: FileId,
        name: &[u8],
        value: &[u8],
        create: bool,
        replace: bool,
    ) -> Result<()> {
        not_there()
    }
    pub fn remove_xattr(&self, id: FileId, name: &[u8]) -> Result<()> {
        not_there()
    }
    pub fn statfs(&self, id: FileId) -> Result<StatFs> {
        not_there()
    }
    pub fn served(&self, id: FileId) -> Result<Served> {
        not_there()
    }
    /// The next change made by somebody else than this mount; waits for one. `None` once the mount has been [closed](Self::close).
    pub fn next_change(&self) -> Option<Changed> {
        None
    }
    pub fn wait_change(&self) -> bool {
        false
    }
    pub fn take_change(&self) -> Option<Changed> {
        None
    }
    /// Ends the mount: its handles are released, and who waits in [`Self::next_change`] returns.
    pub fn close(&self) {}
}
