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

mod absorb;
mod io;
mod names;
mod serve;
mod space;
mod xattr;

pub(crate) use absorb::find_memory;
pub(crate) use io::gone_bytes;
pub(crate) use serve::{Mount, MountHandle, MountUse};
use space::Pools;

use crate::store::{Guard, Inner, Store};
use codax_core::namespace::Kind;
use codax_core::{Error, FileId};
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
    /// Of one that the kernel serves: whether reads and writes come to the daemon all the same (`FOPEN_DIRECT_IO`), since a quota counts what is written. A
    /// mapping is the object's.
    pub direct: bool,
}

/// By whom an open file's bytes are served.
#[derive(Debug)]
pub enum How {
    /// The kernel, from this object: to be registered as backing of the FUSE file, and closed then.
    Passthrough(OwnedFd),
    /// The daemon: [`Fs::read`] and [`Fs::write`].
    Daemon,
}

/// What statfs(2) says: of the pools that a placement uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes in free frames.
    pub free: u64,
    /// Bytes of a new file for which there is room: less than is free where a pool takes nothing new, or a file is spread evenly over unequal pools.
    pub available: u64,
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
    mounted: Arc<Mounted>,
}

#[derive(Debug)]
struct Mounted {
    inner: Arc<Inner>,
    mount: Arc<Mount>,
}

/// Entries of a directory with their attributes, in byte order of the names.
pub type Entries = Vec<(Vec<u8>, Attr)>;

impl Store {
    /// The store as a mount sees it. On a `privileged` one the kernel can be given objects to serve files from.
    #[must_use]
    pub fn fs(&self, privileged: bool) -> Fs {
        let mut st = self.inner.lock();
        st.next_handle += 1;
        let mount = Arc::new(Mount::new(st.next_handle, privileged));
        st.mounts.push(mount.clone());
        Fs { mounted: Arc::new(Mounted { inner: self.inner.clone(), mount }) }
    }

    /// Tells the device number of a mount of an earlier daemon's: who still uses that is looked for there, too.
    pub fn was_mounted_as(&self, dev: u64) {
        self.inner.lock().closed_devices.insert(dev);
    }

    /// Tells that nobody uses a mount any more that is over, so that its device number may be another filesystem's by now.
    pub fn nobody_is_on(&self, dev: u64) {
        self.inner.lock().closed_devices.remove(&dev);
    }
}

impl Fs {
    /// Tells the device number of the mount, by which the holders of its files are found in `/proc`. Once it is mounted.
    pub fn mounted_as(&self, dev: u64) {
        self.mounted.mount.set_device(dev);
    }

    /// A change made by somebody else than this mount that wasn't taken yet, if there is one.
    #[must_use]
    pub fn take_change(&self) -> Option<Changed> {
        self.mounted.mount.take_change()
    }

    /// Waits until there is a change to be [taken](Self::take_change); `false` once the mount has been [closed](Self::close).
    #[must_use]
    pub fn wait_change(&self) -> bool {
        self.mounted.mount.wait_change()
    }

    /// Ends the mount: its handles are released, and who waits in [`Self::wait_change`] returns.
    pub fn close(&self) {
        self.mounted.close();
    }

    fn inner(&self) -> &Arc<Inner> {
        &self.mounted.inner
    }

    /// The state, locked on behalf of this mount: it is not told of what it changes itself.
    fn lock(&self) -> Guard<'_> {
        self.inner().lock_for(Some(self.mounted.mount.id))
    }

    fn now(&self) -> i64 {
        self.inner().env.wall_ns()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.close();
    }
}

fn gone(id: FileId) -> Error {
    Error::not_found(format!("inode {id} is gone"))
}
