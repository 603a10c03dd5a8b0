//! The bare passthrough filesystem that the mount is measured against: a directory on tmpfs, handed through FUSE by the shortest way. Every request is
//! one or two system calls on the directory; files are served by the kernel from theirs. What the store's mount takes longer is what the store costs.

use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, BackingId, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyCreate,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, Request, SessionACL, TimeOrNow,
};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// As the store's mount has it.
const VALID: Duration = Duration::from_secs(1);
const THREADS: usize = 8;
const GENERATION: Generation = Generation(0);

/// The root's inode number, whatever the directory's is.
const ROOT: u64 = 1;

/// The child process's argument: `SOURCE:TARGET`.
const VARIABLE: &str = "CODAX_YARDSTICK";

/// Serves as the yardstick, if this process was started to be one.
pub fn child() -> Option<Result<()>> {
    let task = std::env::var(VARIABLE).ok()?;
    Some(serve(&task))
}

fn serve(task: &str) -> Result<()> {
    let (source, target) = task.split_once(':').context("SOURCE:TARGET")?;
    let session = mount(Path::new(source), Path::new(target))?;
    println!("ready");
    // Until it is unmounted.
    Ok(session.join()?)
}

/// The yardstick in a process of its own, as the store's daemon is. Unmounts when dropped.
#[derive(Debug)]
pub struct Yardstick {
    source: PathBuf,
    target: PathBuf,
    child: Option<std::process::Child>,
}

impl Yardstick {
    pub fn start(source: &Path, target: &Path) -> Result<Self> {
        let mut yardstick = Self { source: source.to_owned(), target: target.to_owned(), child: None };
        yardstick.mount()?;
        Ok(yardstick)
    }

    fn mount(&mut self) -> Result<()> {
        use std::io::BufRead;
        let task = format!("{}:{}", self.source.display(), self.target.display());
        let mut child = std::process::Command::new(std::env::current_exe()?)
            .env(VARIABLE, task)
            .stdout(std::process::Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        io::BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
        self.child = Some(child);
        anyhow::ensure!(line == "ready\n", "the yardstick does not mount");
        Ok(())
    }

    pub fn pid(&self) -> Result<u32> {
        self.child.as_ref().map(std::process::Child::id).context("it is mounted")
    }

    /// Unmounts and mounts again: the kernel knows nothing of its files then.
    pub fn again(&mut self) -> Result<()> {
        self.end()?;
        self.mount()
    }

    fn end(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let ended = codax_os::fuse::umount(&self.target, false);
        if ended.is_err() {
            let _ = codax_os::fuse::umount(&self.target, true);
            let _ = child.kill();
        }
        child.wait()?;
        Ok(ended?)
    }
}

impl Drop for Yardstick {
    fn drop(&mut self) {
        if let Err(e) = self.end() {
            eprintln!("the yardstick's end: {e}");
        }
    }
}

fn mount(source: &Path, target: &Path) -> Result<BackgroundSession> {
    let bare = Bare { paths: Mutex::new(HashMap::from([(ROOT, source.to_owned())])), open: Mutex::default() };
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    config.acl = SessionACL::All;
    config.mount_options = vec![MountOption::FSName("yardstick".into()), MountOption::DefaultPermissions];
    Ok(fuser::spawn_mount(bare, target, &config)?)
}

/// Handles by number, and what serves each; files by inode.
#[derive(Debug, Default)]
struct Open {
    last: u64,
    files: HashMap<u64, (Arc<BackingId>, u64)>,
}

#[derive(Debug)]
struct Bare {
    paths: Mutex<HashMap<u64, PathBuf>>,
    open: Mutex<Open>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn errno(e: &io::Error) -> Errno {
    Errno::from_i32(e.raw_os_error().unwrap_or(5))
}

fn attr(meta: &Metadata) -> FileAttr {
    FileAttr {
        ino: INodeNo(meta.ino()),
        size: meta.len(),
        blocks: meta.blocks(),
        atime: meta.accessed().unwrap_or(SystemTime::UNIX_EPOCH),
        mtime: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        ctime: SystemTime::UNIX_EPOCH
            + Duration::new(meta.ctime().unsigned_abs(), u32::try_from(meta.ctime_nsec()).unwrap_or(0)),
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::from_std(meta.file_type()).unwrap_or(FileType::RegularFile),
        perm: u16::try_from(meta.mode() & 0o7777).unwrap_or(0),
        nlink: u32::try_from(meta.nlink()).unwrap_or(u32::MAX),
        uid: meta.uid(),
        gid: meta.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Bare {
    fn path(&self, inode: INodeNo) -> Result<PathBuf, Errno> {
        lock(&self.paths).get(&inode.0).cloned().ok_or(Errno::ENOENT)
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> Result<PathBuf, Errno> {
        Ok(self.path(parent)?.join(name))
    }

    /// Attributes of what lies at `path`, which is known by its inode from now on.
    fn known(&self, path: PathBuf) -> io::Result<FileAttr> {
        let attr = attr(&fs::symlink_metadata(&path)?);
        lock(&self.paths).insert(attr.ino.0, path);
        Ok(attr)
    }

    fn opened(
        &self,
        inode: u64,
        register: impl FnOnce() -> io::Result<BackingId>,
    ) -> io::Result<(FileHandle, Arc<BackingId>)> {
        let mut open = lock(&self.open);
        open.last += 1;
        let handle = FileHandle(open.last);
        if let Some((backing, handles)) = open.files.get_mut(&inode) {
            *handles += 1;
            return Ok((handle, backing.clone()));
        }
        let backing = Arc::new(register()?);
        open.files.insert(inode, (backing.clone(), 1));
        Ok((handle, backing))
    }

    fn entries(&self, inode: INodeNo, offset: u64) -> Result<Vec<(u64, PathBuf, Metadata)>, Errno> {
        let dir = self.path(inode)?;
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let entries = fs::read_dir(dir).map_err(|e| errno(&e))?.flatten().enumerate().skip(skip);
        let entries = entries.map(|(i, entry)| {
            let path = entry.path();
            fs::symlink_metadata(&path).map(|meta| (i as u64 + 1, path, meta))
        });
        Ok(entries.flatten().collect())
    }
}

macro_rules! reply {
    ($reply:ident, $result:expr, $value:pat => $send:expr) => {
        match $result {
            Ok($value) => $send,
            Err(e) => $reply.error(e),
        }
    };
}

impl Filesystem for Bare {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PASSTHROUGH,
        ] {
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(1 << 20);
        let _ = config.set_max_stack_depth(1);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.child(parent, name).and_then(|path| self.known(path).map_err(|e| errno(&e)));
        reply!(reply, found, attr => reply.entry(&VALID, &attr, GENERATION));
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let found = self.path(inode).and_then(|path| fs::symlink_metadata(path).map_err(|e| errno(&e)));
        reply!(reply, found, meta => reply.attr(&VALID, &FileAttr { ino: inode, ..attr(&meta) }));
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let done = self.path(inode).and_then(|path| {
            let open = || OpenOptions::new().write(true).open(&path);
            let sized = size.map_or(Ok(()), |size| open().and_then(|file| file.set_len(size)));
            sized.and_then(|()| fs::symlink_metadata(&path)).map_err(|e| errno(&e))
        });
        reply!(reply, done, meta => reply.attr(&VALID, &FileAttr { ino: inode, ..attr(&meta) }));
    }

    fn mkdir(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let made = self.child(parent, name).and_then(|path| {
            let mode = fs::Permissions::from_mode(mode);
            let made = fs::create_dir(&path).and_then(|()| fs::set_permissions(&path, mode));
            made.and_then(|()| self.known(path)).map_err(|e| errno(&e))
        });
        reply!(reply, made, attr => reply.entry(&VALID, &attr, GENERATION));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.child(parent, name).and_then(|path| fs::remove_file(path).map_err(|e| errno(&e)));
        reply!(reply, done, () => reply.ok());
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.child(parent, name).and_then(|path| fs::remove_dir(path).map_err(|e| errno(&e)));
        reply!(reply, done, () => reply.ok());
    }

    fn open(&self, _request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.path(inode).and_then(|path| {
            let truncate = flags.0 & 0o1000 != 0;
            let file = OpenOptions::new().read(true).write(true).truncate(truncate).open(path);
            file.and_then(|file| self.opened(inode.0, || reply.open_backing(&file))).map_err(|e| errno(&e))
        });
        reply!(reply, opened, (handle, id) => reply.opened_passthrough(handle, FopenFlags::empty(), &id));
    }

    fn create(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.child(parent, name).and_then(|path| {
            let create = |path: &Path| -> io::Result<(File, FileAttr)> {
                let file =
                    OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)?;
                let attr = attr(&file.metadata()?);
                Ok((file, attr))
            };
            let (file, attr) = create(&path).map_err(|e| errno(&e))?;
            lock(&self.paths).insert(attr.ino.0, path);
            let opened = self.opened(attr.ino.0, || reply.open_backing(&file)).map_err(|e| errno(&e))?;
            Ok((attr, opened))
        });
        reply!(reply, made, (attr, (handle, id)) => {
            reply.created_passthrough(&VALID, &attr, GENERATION, handle, FopenFlags::empty(), &id);
        });
    }

    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let mut open = lock(&self.open);
        if let Some((_, handles)) = open.files.get_mut(&inode.0) {
            *handles -= 1;
            if *handles == 0 {
                open.files.remove(&inode.0);
            }
        }
        reply.ok();
    }

    fn readdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.entries(inode, offset).map(|entries| {
            for (at, path, meta) in entries {
                let attr = attr(&meta);
                if reply.add(attr.ino, at, attr.kind, path.file_name().unwrap_or_default()) {
                    break;
                }
            }
        });
        reply!(reply, listed, () => reply.ok());
    }

    fn readdirplus(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listed = self.entries(inode, offset).map(|entries| {
            for (at, path, meta) in entries {
                let attr = attr(&meta);
                let name = path.file_name().unwrap_or_default().to_owned();
                if reply.add(attr.ino, at, name, &VALID, &attr, GENERATION) {
                    break;
                }
                lock(&self.paths).insert(attr.ino.0, path);
            }
        });
        reply!(reply, listed, () => reply.ok());
    }
}
