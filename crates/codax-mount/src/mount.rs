//! One mount, from mounting to unmounting.

use crate::adapter::{REQUEST_BYTES, Serving};
use crate::handles::lock;
use crate::{SUBTYPE, point};
use codax_core::info::Served;
use codax_core::mounting::MountOptions;
use codax_core::{Error, ErrorKind, FileId, Result};
use codax_engine::Store;
use codax_os::{fuse, mounts, process};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

/// What mount tables call the source of a mount of ours.
const SOURCE: &str = "codax";

/// A store on a directory. It stays when this is dropped: [`Mount::end`] ends it.
#[derive(Debug)]
pub struct Mount {
    dir: PathBuf,
    dev: u64,
    options: MountOptions,
    told: Arc<Told>,
}

/// What is known of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountFacts {
    /// The directory.
    pub dir: PathBuf,
    /// Whether the kernel serves files from their objects, where they lie in one.
    pub passthrough: bool,
    /// Its device number.
    pub dev: u64,
    /// What it was asked to be like.
    pub options: MountOptions,
}

/// The kernel's knowledge of the store, and the turn of those who bring it up to date: who has had it knows that all changes before were told.
#[derive(Debug)]
struct Told {
    serving: Serving,
    turn: Mutex<()>,
}

impl Told {
    fn tell(&self) {
        let _turn = lock(&self.turn);
        let changes = std::iter::from_fn(|| self.serving.fs()?.take_change());
        changes.for_each(|change| self.serving.tell(&change));
    }
}

impl Mount {
    /// Mounts a store on an empty directory, and serves it. By mount(2) where this process may, else by `fusermount3`. `over` is called when it is
    /// [over](Self::is_over), by a thread of its own.
    pub fn new(
        store: &Store,
        dir: &Path,
        options: MountOptions,
        over: impl FnOnce() + Send + 'static,
    ) -> Result<Self> {
        let dir = point::check(dir)?;
        let privilege = mounts::can_mount();
        let device = mount(&dir, privilege, options)?;
        match Self::serve(store, &dir, device, privilege, options, over) {
            Ok(mount) => {
                tracing::info!(dir = %dir.display(), passthrough = mount.facts().passthrough, "mounted");
                Ok(mount)
            }
            Err(e) => {
                // It would be there dead.
                let _ = fuse::umount(&dir, true);
                Err(point::about(&dir, &e))
            }
        }
    }

    fn serve(
        store: &Store,
        dir: &Path,
        device: OwnedFd,
        privilege: bool,
        options: MountOptions,
        over: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let dev = process::filesystem_of(dir)?;
        let serving = Serving::start(store, device, dev, privilege, over)?;
        let told = Arc::new(Told { serving, turn: Mutex::default() });
        let teller = told.clone();
        thread::Builder::new().name("mount-changes".into()).spawn(move || {
            while teller.serving.fs().is_some_and(codax_engine::fs::Fs::wait_change) {
                teller.tell();
            }
        })?;
        Ok(Self { dir: dir.to_owned(), dev, options, told })
    }

    /// Tells the kernel of all that has changed so far behind its back. When this returns, who looks sees it.
    pub fn tell_changes(&self) {
        self.told.tell();
    }

    /// What is known of it.
    #[must_use]
    pub fn facts(&self) -> MountFacts {
        MountFacts {
            dir: self.dir.clone(),
            passthrough: self.told.serving.passthrough(),
            dev: self.dev,
            options: self.options,
        }
    }

    /// How a file is served on it; `None` as long as it isn't known what the kernel can do.
    #[must_use]
    pub fn served(&self, file: FileId) -> Option<Result<Served>> {
        self.told.serving.fs().map(|fs| fs.served(file))
    }

    /// Whether it is unmounted everywhere and nobody uses it any more, or it was cut off by force.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.told.serving.is_over()
    }

    /// Whether it is on its directory still. Somebody may have unmounted it.
    #[must_use]
    pub fn is_there(&self) -> bool {
        // What can't be looked up stays as it is known.
        fuse::points(SUBTYPE).map_or(true, |points| points.contains(&(self.dev, self.dir.clone())))
    }

    /// Unmounts from its directory. `Busy`, with the processes that use it, if somebody does; `lazy` frees the directory even then. Returns whether it is
    /// over: who is inside, or has it mounted elsewhere (another mount namespace, a bind mount), is served on, and is not waited for.
    pub fn end(&self, lazy: bool) -> Result<bool> {
        match fuse::umount(&self.dir, lazy) {
            // Somebody was faster.
            Err(_) if !self.is_there() => {}
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                return Err(point::busy(&self.dir, self.dev));
            }
            Err(e) => return Err(point::about(&self.dir, &e)),
            Ok(()) => {}
        }
        let over = self.told.serving.finish();
        tracing::info!(dir = %self.dir.display(), over, "unmounted");
        Ok(over)
    }

    /// Frees all places where it is mounted: nobody will serve it any more.
    pub fn detach(&self) -> Result<()> {
        fuse::detach_all(SUBTYPE, self.dev, false).map_err(|e| point::about(&self.dir, &e))?;
        Ok(())
    }

    /// Who uses it, as far as `/proc` shows: process and name.
    #[must_use]
    pub fn users(&self) -> Vec<(u32, String)> {
        codax_os::process::users_of(self.dev).unwrap_or_default()
    }
}

fn mount(dir: &Path, privilege: bool, options: MountOptions) -> Result<OwnedFd> {
    let words: Vec<_> = options.words().collect();
    let options = fuse::Options {
        source: SOURCE,
        subtype: SUBTYPE,
        allow_other: privilege,
        max_read: REQUEST_BYTES,
        words: &words,
    };
    if privilege {
        drop(open_device()?);
        return fuse::mount(dir, &options).map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => Error::permission(format!(
                "mount point {}: this system does not let root mount (a container without the privilege?)",
                dir.display()
            )),
            _ => point::about(dir, &e),
        });
    }
    fuse::mount_helped(dir, &options).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::not_found(format!(
            "mount point {}: only root may mount, and {} is not there to do it: install the package fuse3",
            dir.display(),
            fuse::HELPER
        )),
        _ => {
            let hint = if fuse::open_device().is_err() { NO_DEVICE } else { "" };
            Error::permission(format!("mount point {}: {e}{hint}", dir.display()))
        }
    })
}

/// What a user can do of whom the helper wants the device, and who may not open it.
const NO_DEVICE: &str = " (let this user open /dev/fuse: chmod 666 /dev/fuse; or run the daemon as root)";

/// Whether the device is there and ours to use.
fn open_device() -> Result<OwnedFd> {
    let device = fuse::DEVICE;
    fuse::open_device().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::not_found(format!(
            "{device} is not there: modprobe fuse, or give the container that device"
        )),
        io::ErrorKind::PermissionDenied => Error::permission(format!(
            "{device} may not be opened: chmod 0666 {device}, or allow the device in the container"
        )),
        _ => Error::new(ErrorKind::Internal, format!("{device}: {e}")),
    })
}
