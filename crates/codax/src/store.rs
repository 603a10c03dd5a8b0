//! A connected store.

use crate::link::{self, Attempt, Link, Turn, lock, unexpected};
use crate::switcher::{Switcher, WaitStats};
use codax_core::info::{FileInfo, JobInfo, JobReport, StoreInfo};
use codax_core::name::StorePath;
use codax_core::request::PlacementSpec;
use codax_core::{Error, Result};
use codax_wire::{Reply, Request};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// The store's directory if nothing else is said: `$CODAX_STORE`; else `/run/codax` for root; else `$XDG_RUNTIME_DIR/codax`, which goes at logout; else
/// `/dev/shm/codax-UID`.
#[must_use]
pub fn default_dir() -> PathBuf {
    let set = std::env::var_os("CODAX_STORE").filter(|dir| !dir.is_empty());
    set.map_or_else(codax_wire::default_dir, PathBuf::from)
}

/// How to connect; made by [`Store::options`].
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    allow_user_faults: bool,
}

impl ConnectOptions {
    /// Whether this program's mappings may be moved although the library can't make system calls wait for a move: such a call (a `read` into
    /// a mapping, a `futex` in it) may then fail with EFAULT while the bytes it touches are being moved. It matters only where `codax doctor`
    /// says that faults of system calls are not covered. Off by default: what such a program maps is then not moved.
    #[must_use]
    pub fn allow_user_faults(mut self, allow: bool) -> Self {
        self.allow_user_faults = allow;
        self
    }

    /// Connects to the daemon of the store in `dir`. Errors: `NoDaemon` if there is none.
    pub fn connect(&self, dir: impl AsRef<Path>) -> Result<Store> {
        let link = Arc::new(Link::connect(dir.as_ref())?);
        let umask = umask();
        let client =
            Client { link, umask, allow_user_faults: self.allow_user_faults, switcher: Mutex::default() };
        Ok(Store { client: Arc::new(client) })
    }
}

/// A connection to a store's daemon, shared by its clones, and by the files and mappings got through it.
///
/// Any number of threads may use it; their requests go one after the other, except those that take long (moves, drains, waiting for events), which
/// have a connection of their own. When the daemon goes away, requests fail with [`codax_core::ErrorKind::NoDaemon`] until it is back;
/// mappings work on all the time.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) client: Arc<Client>,
}

/// What store, files and mappings share.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) link: Arc<Link>,
    /// What new files don't get of their mode.
    pub(crate) umask: u16,
    allow_user_faults: bool,
    switcher: Mutex<Option<Switcher>>,
}

impl Client {
    /// The switcher, started with the first mapping.
    pub(crate) fn switcher(&self) -> Result<Arc<crate::switcher::Shared>> {
        self.link.check_fork()?;
        let mut switcher = lock(&self.switcher);
        if let Some(running) = &*switcher {
            return Ok(running.shared());
        }
        let started = Switcher::start(&self.link, self.allow_user_faults)?;
        let shared = started.shared();
        *switcher = Some(started);
        Ok(shared)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let switcher = self.switcher.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(switcher) = switcher {
            if self.link.is_fork() {
                // Its threads and mappings are the parent's.
                std::mem::forget(switcher);
            } else {
                switcher.stop();
            }
        }
    }
}

/// Turns a path into the store's.
pub(crate) fn store_path(path: impl AsRef<OsStr>) -> Result<StorePath> {
    StorePath::parse(path.as_ref().as_bytes())
}

/// An answer that says no more than that it is done.
fn done(reply: Reply) -> Result<()> {
    match reply {
        Reply::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

/// `Ok` with what is wanted of a reply, or an error that says which one came instead.
macro_rules! reply_as {
    ($reply:expr, $pattern:pat => $value:expr) => {
        match $reply {
            $pattern => Ok($value),
            other => Err($crate::link::unexpected(&other)),
        }
    };
}
pub(crate) use reply_as;

impl Store {
    /// Connects to the daemon of the store in `dir`. Errors: `NoDaemon` if there is none.
    pub fn connect(dir: impl AsRef<Path>) -> Result<Self> {
        Self::options().connect(dir)
    }

    /// Connects to the daemon of the store in [`default_dir`].
    pub fn connect_default() -> Result<Self> {
        Self::connect(default_dir())
    }

    /// Connects with options.
    #[must_use]
    pub fn options() -> ConnectOptions {
        ConnectOptions::default()
    }

    /// The store's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.client.link.dir()
    }

    /// Asks the daemon something. Errors of the daemon's are errors of this call. Requests that refer to descriptors (`Attach`, `Map`, `Raw`) are
    /// not for use here.
    pub fn call(&self, request: Request) -> Result<Reply> {
        self.call_with_progress(request, &mut |_| ())
    }

    /// As [`Store::call`], and `progress` hears how far it is. To cancel a move or a drain, end the process or use a request that cancels
    /// it ([`Request::Online`]).
    pub fn call_with_progress(&self, request: Request, progress: &mut dyn FnMut(&JobInfo)) -> Result<Reply> {
        if takes_long(&request) {
            return self.call_apart(&request, progress);
        }
        self.client.link.with(|turn| turn.ask(&request))
    }

    /// Asks over a connection of its own, so that others need not wait meanwhile.
    fn call_apart(&self, request: &Request, progress: &mut dyn FnMut(&JobInfo)) -> Result<Reply> {
        self.client.link.check_fork()?;
        let channel = link::connect(self.dir())?;
        channel.send(request, &[])?;
        match link::answer(&channel, progress)? {
            Some((Reply::Error(e), _)) => Err(e),
            Some((reply, _)) => Ok(reply),
            None => Err(Error::new(
                codax_core::ErrorKind::NoDaemon,
                "the daemon went away before it was done: start it again, and see `codax status`",
            )),
        }
    }

    pub(crate) fn with<T>(&self, work: impl FnMut(&Turn<'_>) -> Attempt<T>) -> Result<T> {
        self.client.link.with(work)
    }

    /// What the store says of itself: its pools, its daemon.
    pub fn status(&self) -> Result<StoreInfo> {
        reply_as!(self.call(Request::Status)?, Reply::Store(info) => *info)
    }

    /// A file or directory.
    pub fn stat(&self, path: impl AsRef<OsStr>) -> Result<FileInfo> {
        reply_as!(self.call(Request::Stat(store_path(path)?))?, Reply::File(info) => *info)
    }

    /// A directory's entries, in the order of their names' bytes, without extents.
    pub fn read_dir(&self, path: impl AsRef<OsStr>) -> Result<Vec<(Vec<u8>, FileInfo)>> {
        let path = store_path(path)?;
        let mut all: Vec<(Vec<u8>, FileInfo)> = Vec::new();
        loop {
            let after = all.last().map(|(name, _)| name.clone());
            let reply = self.call(Request::ReadDir { path: path.clone(), after })?;
            let (entries, more) = reply_as!(reply, Reply::Entries { entries, more } => (entries, more))?;
            let progressed = !entries.is_empty();
            all.extend(entries);
            if !(more && progressed) {
                return Ok(all);
            }
        }
    }

    /// Makes a directory with mode `0o777` less the umask. What is made in it gets `placement`, if there is one, else what the directory
    /// above says.
    pub fn mkdir(&self, path: impl AsRef<OsStr>, placement: Option<PlacementSpec>) -> Result<()> {
        let mode = 0o777 & !self.client.umask;
        done(self.call(Request::Mkdir { path: store_path(path)?, mode, placement })?)
    }

    /// Removes a file or an empty directory, or with `recursive` everything below a directory too.
    pub fn remove(&self, path: impl AsRef<OsStr>, recursive: bool) -> Result<()> {
        done(self.call(Request::Remove { path: store_path(path)?, recursive })?)
    }

    /// Renames, and replaces what has the new name as rename(2) does; with `noreplace` that is `Exists` instead.
    pub fn rename(&self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>, noreplace: bool) -> Result<()> {
        done(self.call(Request::Rename { from: store_path(from)?, to: store_path(to)?, noreplace })?)
    }

    /// Sets the permission bits.
    pub fn chmod(&self, path: impl AsRef<OsStr>, mode: u16) -> Result<()> {
        self.set_attr(path, Some(mode), None, None, None)
    }

    /// Sets owner and group, those that are given.
    pub fn chown(&self, path: impl AsRef<OsStr>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.set_attr(path, None, uid, gid, None)
    }

    /// Gives a file or directory a placement of its own, or with `None` that of the directory above. What is there already stays where it
    /// is: see [`Store::move_file`].
    pub fn set_placement(&self, path: impl AsRef<OsStr>, placement: Option<PlacementSpec>) -> Result<()> {
        self.set_attr(path, None, None, None, Some(placement))
    }

    /// Says whether a file, or what is in a directory, may be on a device for want of room in `dram`; a directory above that forbids it comes before.
    pub fn set_emergency(&self, path: impl AsRef<OsStr>, allowed: bool) -> Result<()> {
        done(self.call(Request::SetEmergency { path: store_path(path)?, allowed })?)
    }

    fn set_attr(
        &self,
        path: impl AsRef<OsStr>,
        mode: Option<u16>,
        uid: Option<u32>,
        gid: Option<u32>,
        placement: Option<Option<PlacementSpec>>,
    ) -> Result<()> {
        done(self.call(Request::SetAttr { path: store_path(path)?, mode, uid, gid, placement })?)
    }

    /// Moves a file's bytes (`range`: offset and length, or all) to the pool `to`, whoever maps it; `progress` hears how far it is.
    pub fn move_file(
        &self,
        path: impl AsRef<OsStr>,
        to: &str,
        range: Option<(u64, u64)>,
        progress: &mut dyn FnMut(&JobInfo),
    ) -> Result<JobReport> {
        let request = Request::Move { path: store_path(path)?, to: to.to_owned(), range };
        reply_as!(self.call_with_progress(request, progress)?, Reply::Job(report) => *report)
    }

    /// How long accesses to this connection's mappings waited for moves.
    #[must_use]
    pub fn waits(&self) -> WaitStats {
        if self.client.link.is_fork() {
            return WaitStats::default();
        }
        lock(&self.client.switcher)
            .as_ref()
            .map_or_else(WaitStats::default, |running| running.shared().waits())
    }
}

/// Whether a request may take so long that others should not wait for it.
fn takes_long(request: &Request) -> bool {
    matches!(
        request,
        Request::Move { .. }
            | Request::Drain { .. }
            | Request::Online { .. }
            | Request::Events { wait: true, .. }
            | Request::Check { .. }
    )
}

/// The umask. Asking the kernel sets it, which other threads would see: `/proc` only tells.
fn umask() -> u16 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|mask| u16::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022)
}
