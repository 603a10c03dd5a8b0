//! The kernel's requests, as calls of the store's view. Nothing outside this module knows the FUSE library.
//!
//! Several threads serve one mount, each with a descriptor of `/dev/fuse` of its own. A request is answered by the thread that took it; none waits for
//! another request.

mod backing;
mod convert;
mod files;
mod names;

use crate::VALID;
use crate::handles::{Handles, lock};
use crate::listing::Listing;
use crate::special::{Node, Special, is_top};
use backing::Backings;
use codax_core::{Error, FileId};
use codax_engine::Store;
use codax_engine::fs::{Changed, Fs, Set};
use codax_os::fuse;
use convert::{errno, file_id};
use fuser::{
    BsdFileFlags, Config, CopyFileRangeFlags, Errno, FileAttr, FileHandle, Filesystem, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, Notifier, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

/// Threads that serve a mount. A request may wait for a file that is being moved, and others should not wait with it.
const THREADS: usize = 8;

/// Largest read or write in one request, in bytes: what the kernel allows unless told otherwise (`fs.fuse.max_pages_limit`).
pub(crate) const REQUEST_BYTES: u32 = 1 << 20;

/// Requests that the kernel sends without waiting for earlier ones (readahead).
const BACKGROUND: u16 = 64;

/// How long the last requests of a mount whose connection is gone may take. One may wait for a file that is on the move.
const FINISH_LIMIT: Duration = Duration::from_secs(2);

/// Numbers of files are never used again, so all are of the first generation.
const GENERATION: Generation = Generation(0);

/// What the kernel is asked to do, where it can. Not `FUSE_ATOMIC_O_TRUNC`: with it an open with `O_RDONLY | O_TRUNC` would cut a program that runs before the
/// kernel refuses it (ETXTBSY). Not `FUSE_ASYNC_DIO`: with it one large direct write comes as several requests at once, in any order, and of an append
/// nobody could say which part belongs where.
const WANTED: [InitFlags; 5] = [
    // Names are looked up and directories read in parallel.
    InitFlags::FUSE_PARALLEL_DIROPS,
    // Attributes come with a directory's entries, if the reader seems to want them.
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    // We take setuid and setgid away. Without this each write would ask for `security.capability` first.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    // Cached contents go when length or time have changed (mounts without privilege; others cache none).
    InitFlags::FUSE_AUTO_INVAL_DATA,
];

/// What is known of a mount once the kernel has said what it can do.
#[derive(Debug)]
struct View {
    fs: Fs,
    /// Whether files can be served from their objects.
    passthrough: bool,
}

/// A mount that is being served.
#[derive(Debug)]
pub(crate) struct Serving {
    view: Arc<OnceLock<View>>,
    notifier: Notifier,
    /// The connection, to see whether the kernel has ended it.
    device: OwnedFd,
    end: Arc<End>,
}

/// Whether a mount is over: it is unmounted everywhere and nobody uses it any more, or it was cut off; all requests are answered.
#[derive(Debug, Default)]
struct End {
    over: Mutex<bool>,
    changed: Condvar,
}

impl Serving {
    /// Serves what was mounted with `device`, which has `dev` as its device number. With `privilege`, files are served from their objects if the
    /// kernel can do that. `over` is called when it is over, by a thread that nobody waits for.
    pub fn start(
        store: &Store,
        device: OwnedFd,
        dev: u64,
        privilege: bool,
        over: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let connection = device.try_clone()?;
        let view = Arc::new(OnceLock::new());
        let adapter = Adapter {
            store: store.clone(),
            dev,
            privilege,
            view: view.clone(),
            special: Special::new(store.clone()),
            listings: Handles::default(),
            backings: Backings::default(),
        };
        let mut config = Config::default();
        config.n_threads = Some(THREADS);
        config.clone_fd = true;
        // Who may enter was decided when it was mounted.
        config.acl = SessionACL::All;
        let session = Session::from_fd(adapter, device, SessionACL::All, config)?;
        let notifier = session.notifier();
        let fs = view.get().map(|view| view.fs.clone());
        let end = Arc::new(End::default());
        let ended = end.clone();
        std::thread::Builder::new().name("mount".into()).spawn(move || {
            if let Err(e) = session.run() {
                tracing::warn!("the end of a mount: {e}");
            }
            // What is still open is open nowhere.
            fs.iter().for_each(Fs::close);
            *lock(&ended.over) = true;
            ended.changed.notify_all();
            over();
        })?;
        Ok(Self { view, notifier, device: connection, end })
    }

    /// The store's view; `None` before the kernel has greeted.
    pub fn fs(&self) -> Option<&Fs> {
        self.view.get().map(|view| &view.fs)
    }

    /// Whether files are served from their objects.
    pub fn passthrough(&self) -> bool {
        self.view.get().is_some_and(|view| view.passthrough)
    }

    /// Tells the kernel that what it has cached is out of date.
    pub fn tell(&self, change: &Changed) {
        let told = match change {
            // From offset 0 with length 0: all contents, and the attributes.
            Changed::Inode(id) => self.notifier.inval_inode(INodeNo(id.0), 0, 0),
            Changed::Entry(dir, name) => self.notifier.inval_entry(INodeNo(dir.0), OsStr::from_bytes(name)),
        };
        match told {
            // The kernel knows nothing of it, or of us any more.
            Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotConnected) => {
                tracing::debug!("tell the kernel of {change:?}: {e}");
            }
            _ => {}
        }
    }

    /// Whether it is unmounted everywhere and nobody uses it any more, or it was cut off, and all requests are answered.
    pub fn is_over(&self) -> bool {
        *lock(&self.end.over)
    }

    /// Waits until it is over, if nothing is to come any more but the answers to requests that are on the way; whether it is over.
    pub fn finish(&self) -> bool {
        let over = lock(&self.end.over);
        if !fuse::is_cut(&self.device).unwrap_or(false) {
            return *over;
        }
        let waited = self.end.changed.wait_timeout_while(over, FINISH_LIMIT, |over| !*over);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// What answers.
#[derive(Debug)]
struct Adapter {
    store: Store,
    dev: u64,
    privilege: bool,
    view: Arc<OnceLock<View>>,
    special: Special,
    listings: Handles<Mutex<Listing>>,
    backings: Backings,
}

impl Adapter {
    fn fs(&self) -> &Fs {
        let view = self.view.get_or_init(|| {
            let fs = self.store.fs(false);
            fs.mounted_as(self.dev);
            View { fs, passthrough: false }
        });
        &view.fs
    }

    fn passthrough(&self) -> bool {
        self.view.get().is_some_and(|view| view.passthrough)
    }

    /// An answer is about to tell the kernel of an inode; it says when it has forgotten that.
    fn told(&self, attr: &FileAttr) {
        let id = file_id(attr.ino);
        if id.0 != 0 && Node::of(id).is_none() {
            self.fs().tell(id);
        }
    }
}

/// Refuses a change of what is below `.codax`, or of that name itself.
fn writable(dir: INodeNo, name: &OsStr) -> Result<(FileId, &[u8]), Errno> {
    let (dir, name) = (file_id(dir), name.as_bytes());
    match Node::of(dir).is_some() || is_top(dir, name) {
        true => Err(Errno::EROFS),
        false => Ok((dir, name)),
    }
}

/// The same, of a file.
fn writable_file(inode: INodeNo) -> Result<FileId, Errno> {
    let id = file_id(inode);
    if Node::of(id).is_some() { Err(Errno::EROFS) } else { Ok(id) }
}

/// The result of a call of the view, as a reply has it.
fn answered<T>(result: Result<T, Error>) -> Result<T, Errno> {
    result.map_err(|e| errno(&e))
}

/// Sends a result by one method of a reply, an error by its `error`.
macro_rules! reply {
    ($reply:ident, $result:expr, $value:pat => $send:expr) => {
        match $result {
            Ok($value) => $send,
            Err(errno) => $reply.error(errno),
        }
    };
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in WANTED {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!("this kernel's FUSE lacks {flag:?}");
            }
        }
        // The bounds are the kernel's; where it wants less it takes less.
        let _ = config.set_max_write(REQUEST_BYTES);
        let _ = config.set_max_background(BACKGROUND);
        let passthrough = self.privilege
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok();
        let fs = self.store.fs(passthrough);
        fs.mounted_as(self.dev);
        let _ = self.view.set(View { fs, passthrough });
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.find(parent, name).inspect(|attr| self.told(attr));
        reply!(reply, found, attr => reply.entry(&VALID, &attr, GENERATION));
    }

    fn forget(&self, _request: &Request, inode: INodeNo, times: u64) {
        self.fs().forget(file_id(inode), times);
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply!(reply, self.attr_of(file_id(inode)), attr => reply.attr(&VALID, &convert::attr(&attr)));
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let times = names::Times { atime, mtime, ctime };
        let set = names::settings(request, mode, (uid, gid), size, times);
        let done = writable_file(inode).and_then(|id| {
            let nothing = set == Set { kill_suid: true, ..Set::default() };
            answered(if nothing {
                self.fs().drop_set_ids(id, request.uid())
            } else {
                self.fs().set(id, &set)
            })
        });
        reply!(reply, done, attr => reply.attr(&VALID, &convert::attr(&attr)));
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        reply!(reply, answered(self.fs().read_link(file_id(inode))), target => reply.data(&target));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let made = convert::node_kind(mode, rdev)
            .ok_or(Errno::EINVAL)
            .and_then(|kind| self.make(request, parent, name, mode, kind));
        reply!(reply, made, attr => reply.entry(&VALID, &attr, GENERATION));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let made = self.make(request, parent, name, mode, codax_engine::fs::NewKind::Dir);
        reply!(reply, made, attr => reply.entry(&VALID, &attr, GENERATION));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let kind = codax_engine::fs::NewKind::Symlink(target.as_os_str().as_bytes().to_vec());
        let made = self.make(request, parent, name, 0o777, kind);
        reply!(reply, made, attr => reply.entry(&VALID, &attr, GENERATION));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = writable(parent, name).and_then(|(dir, name)| answered(self.fs().unlink(dir, name)));
        reply!(reply, done, () => reply.ok());
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = writable(parent, name).and_then(|(dir, name)| answered(self.fs().rmdir(dir, name)));
        reply!(reply, done, () => reply.ok());
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let done = names::rename_flags(flags).and_then(|flags| {
            let (from, to) = (writable(parent, name)?, writable(new_parent, new_name)?);
            answered(self.fs().rename(from, to, flags))
        });
        reply!(reply, done, () => reply.ok());
    }

    fn link(&self, _request: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let done = writable_file(inode).and_then(|id| {
            let (dir, name) = writable(parent, name)?;
            answered(self.fs().link(id, dir, name)).map(|attr| convert::attr(&attr))
        });
        let done = done.inspect(|attr| self.told(attr));
        reply!(reply, done, attr => reply.entry(&VALID, &attr, GENERATION));
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.answer_open(request, inode, flags, reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.answer_create(request, (parent, name), mode, OpenFlags(flags), reply);
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.answer_read(inode, handle, offset, size, reply);
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let written = self.write_at(inode, handle, (offset, flags), data, kill);
        reply!(reply, written, count => reply.written(count));
    }

    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Nothing waits to be written when a descriptor is closed. The kernel asks once, and not again.
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.close(inode, handle);
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let done = match Node::of(file_id(inode)) {
            Some(_) => Ok(()),
            None => answered(self.fs().sync(files::handle(handle))),
        };
        reply!(reply, done, () => reply.ok());
    }

    fn opendir(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(self.listings.open(Mutex::default())), fuser::FopenFlags::empty());
    }

    fn readdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let done = self.list(file_id(inode), handle.0, offset, &mut |position, name, attr| {
            reply.add(INodeNo(attr.id.0), position, convert::file_type(attr.kind), OsStr::from_bytes(name))
        });
        reply!(reply, done, () => reply.ok());
    }

    fn readdirplus(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let done = self.list(file_id(inode), handle.0, offset, &mut |position, name, attr| {
            let attr = convert::attr(attr);
            let full = reply.add(attr.ino, position, OsStr::from_bytes(name), &VALID, &attr, GENERATION);
            // Of the directory itself and the one above it the kernel takes no notice here.
            if !full && ![&b"."[..], b".."].contains(&name) {
                self.told(&attr);
            }
            full
        });
        reply!(reply, done, () => reply.ok());
    }

    fn releasedir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.listings.close(handle.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        // A change of names is in the journal when it is answered.
        reply.ok();
    }

    fn statfs(&self, _request: &Request, inode: INodeNo, reply: ReplyStatfs) {
        names::answer_statfs(self.fs(), file_id(inode), reply);
    }

    fn setxattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply!(reply, self.set_xattr(inode, name.as_bytes(), value, flags), () => reply.ok());
    }

    fn getxattr(&self, _request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        names::answer_xattr(self.xattr(inode, name.as_bytes()), size, reply);
    }

    fn listxattr(&self, _request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        names::answer_xattr(self.xattr_names(inode), size, reply);
    }

    fn removexattr(&self, _request: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply!(reply, self.remove_xattr(inode, name.as_bytes()), () => reply.ok());
    }

    fn fallocate(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        reply!(reply, self.allocate(inode, handle, (offset, length), mode), () => reply.ok());
    }

    fn lseek(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        reply!(reply, self.seek(inode, handle, offset, whence), offset => reply.offset(offset));
    }

    fn ioctl(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _flags: fuser::IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_bytes: u32,
        reply: fuser::ReplyIoctl,
    ) {
        // Asked of each file by those who want to know whether it is a terminal.
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _notifier: fuser::PollNotifier,
        _events: fuser::PollEvents,
        _flags: fuser::PollFlags,
        reply: fuser::ReplyPoll,
    ) {
        // Files are always ready. The kernel asks once, and not again.
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        inode_in: INodeNo,
        handle_in: FileHandle,
        offset_in: u64,
        inode_out: INodeNo,
        handle_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = ((inode_in, handle_in, offset_in), (inode_out, handle_out, offset_out));
        reply!(reply, self.copy(from, to, len), count => reply.written(count));
    }
}
