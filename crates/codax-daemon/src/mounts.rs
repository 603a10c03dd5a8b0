//! Where the store is mounted: made at the start and by request, ended with the daemon, found again after a crash.

use codax_core::info::{MountInfo, ServedOn};
use codax_core::{Error, FileId, Result};
use codax_engine::Store;
use codax_mount::Mount;
use codax_mount::record::{self, Entry};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tracing::{error, warn};

/// The mounts of a store.
#[derive(Debug)]
pub(crate) struct Mounts {
    store: Store,
    /// The store's `meta` directory.
    meta: PathBuf,
    /// Held while one is made or ended, so that there is one at a time.
    made: Mutex<Vec<Arc<Mount>>>,
    /// Device numbers of mounts of earlier daemons that somebody still uses.
    past: OnceLock<Vec<u64>>,
}

impl Mounts {
    pub fn new(store: Store, meta: PathBuf) -> Self {
        Self { store, meta, made: Mutex::default(), past: OnceLock::new() }
    }

    /// Takes away what a killed daemon left, and mounts there again; then on `wanted`, where failure is an error.
    pub fn start(&self, wanted: Option<&Path>) -> Result<()> {
        let before = record::clean(&self.meta)?;
        let used = |dev: &u64| codax_os::process::users_of(*dev).is_ok_and(|users| !users.is_empty());
        let past: Vec<_> = before.iter().map(|entry| entry.dev).filter(used).collect();
        past.iter().for_each(|dev| self.store.was_mounted_as(*dev));
        let _ = self.past.set(past);
        let dirs = before.iter().filter_map(|entry| entry.dir.as_deref());
        for dir in dirs.filter(|dir| Some(*dir) != wanted) {
            if let Err(e) = self.mount(dir) {
                error!("the store was mounted there before, and is not now: {e}");
            }
        }
        wanted.map_or(Ok(()), |dir| self.mount(dir))
    }

    /// Mounts on a directory.
    pub fn mount(&self, dir: &Path) -> Result<()> {
        let mut made = self.lock();
        Self::forget_over(&mut made);
        let mount = Mount::new(&self.store, dir)
            .inspect_err(|e| self.store.note("refuse", &dir.display().to_string(), &format!("mount: {e}")))?;
        let facts = mount.facts();
        made.push(Arc::new(mount));
        let how = if facts.passthrough { "the kernel serves files" } else { "the daemon serves files" };
        self.store.note("mount", &facts.dir.display().to_string(), how);
        self.write(&made)
    }

    /// Unmounts from a directory, or from all. Returns where it was; `NotFound` if it wasn't mounted there, `Busy` if somebody uses it.
    pub fn umount(&self, dir: Option<&Path>) -> Result<Vec<PathBuf>> {
        let mut made = self.lock();
        Self::forget_over(&mut made);
        // The last first: an earlier one may be what it is on.
        let wanted = made.iter().rev().filter(|mount| dir.is_none_or(|dir| is_on(mount, dir)));
        let wanted: Vec<_> = wanted.cloned().collect();
        if wanted.is_empty() {
            return Err(Error::not_found(match dir {
                Some(dir) => format!("{}: this store is not mounted there", dir.display()),
                None => "this store is not mounted".to_owned(),
            }));
        }
        let mut gone = Vec::new();
        for mount in wanted {
            let dir = mount.facts().dir;
            let shown = dir.display().to_string();
            mount.end(false).inspect_err(|e| self.store.note("refuse", &shown, &format!("unmount: {e}")))?;
            made.retain(|other| !Arc::ptr_eq(other, &mount));
            self.write(&made)?;
            self.store.note("unmount", &shown, "");
            gone.push(dir);
        }
        Ok(gone)
    }

    /// Where it is mounted, for people.
    pub fn info(&self) -> Vec<MountInfo> {
        let mut made = self.lock();
        Self::forget_over(&mut made);
        let facts = made.iter().map(|mount| mount.facts());
        facts
            .map(|facts| MountInfo {
                dir: facts.dir.as_os_str().as_bytes().to_vec(),
                passthrough: facts.passthrough,
            })
            .collect()
    }

    /// How a file is served on each of them; how it would be on a mount by root if there is none.
    pub fn served(&self, file: FileId) -> Result<Vec<ServedOn>> {
        let made = self.lock().clone();
        let on = |mount: &Arc<Mount>| -> Option<Result<ServedOn>> {
            let dir = Some(mount.facts().dir.into_os_string().into_vec());
            Some(mount.served(file)?.map(|served| ServedOn { dir, served }))
        };
        let served = made.iter().filter_map(on).collect::<Result<Vec<_>>>()?;
        if !served.is_empty() {
            return Ok(served);
        }
        Ok(vec![ServedOn { dir: None, served: self.store.fs(true).served(file)? }])
    }

    /// Tells the kernel of everything that was changed behind its back so far.
    pub fn tell_changes(&self) {
        // Not under the lock: the kernel may wait for one who uses a directory.
        let made = self.lock().clone();
        made.iter().for_each(|mount| mount.tell_changes());
    }

    /// Unmounts all, also where somebody is inside: the daemon ends.
    pub fn end(&self) {
        let mut made = self.lock();
        for mount in made.drain(..).rev() {
            if mount.end(false).is_ok() {
                continue;
            }
            let users: Vec<_> = mount.users().iter().map(|(pid, name)| format!("{pid} ({name})")).collect();
            let dir = mount.facts().dir;
            warn!("{}: unmounted while in use by process {}", dir.display(), users.join(", "));
            if let Err(e) = mount.end(true) {
                error!("{e}");
            }
        }
        if let Err(e) = self.write(&made) {
            error!("{e}");
        }
    }

    /// Drops those that somebody else has unmounted.
    fn forget_over(made: &mut Vec<Arc<Mount>>) {
        made.retain(|mount| {
            let over = mount.is_over();
            if over && let Err(e) = mount.end(false) {
                warn!("{e}");
            }
            !over
        });
    }

    fn write(&self, made: &[Arc<Mount>]) -> Result<()> {
        let past = self.past.get().into_iter().flatten().map(|dev| Entry { dev: *dev, dir: None });
        let now = made.iter().map(|mount| mount.facts());
        let now = now.map(|facts| Entry { dev: facts.dev, dir: Some(facts.dir) });
        record::write(&self.meta, &past.chain(now).collect::<Vec<_>>())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Mount>>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a mount is on a directory, however that is named. Asks nobody who may be gone.
fn is_on(mount: &Mount, dir: &Path) -> bool {
    let on = mount.facts().dir;
    on == dir
        || dir
            .parent()
            .zip(dir.file_name())
            .is_some_and(|(parent, name)| parent.canonicalize().is_ok_and(|parent| parent.join(name) == on))
        || dir.canonicalize().is_ok_and(|dir| dir == on)
}
