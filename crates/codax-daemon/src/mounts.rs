//! Where the store is mounted: made at the start and by request, ended with the daemon, found again after a crash.

use codax_core::info::{MountInfo, ServedOn};
use codax_core::mounting::MountOptions;
use codax_core::{Error, FileId, Result};
use codax_engine::Store;
use codax_mount::Mount;
use codax_mount::record::{self, Entry};
use std::collections::BTreeSet;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tracing::{error, warn};

/// The mounts of a store.
#[derive(Debug)]
pub(crate) struct Mounts {
    store: Store,
    /// The store's `meta` directory.
    meta: PathBuf,
    /// Held while one is made or ended, so that there is one at a time.
    made: Mutex<Made>,
    /// For mounts, which say when they are over.
    me: Weak<Mounts>,
}

#[derive(Debug, Default)]
struct Made {
    /// Those that are on their directories, in the order in which they were made.
    here: Vec<Arc<Mount>>,
    /// Those that are not any more, and that somebody still uses: who was inside, another mount namespace, a bind mount. They are served until that ends.
    elsewhere: Vec<Arc<Mount>>,
    /// Device numbers of mounts that nobody serves any more, earlier daemons' among them, and that somebody still uses.
    past: BTreeSet<u64>,
    /// The daemon is about to end.
    ended: bool,
}

impl Mounts {
    pub fn new(store: Store, meta: PathBuf) -> Arc<Self> {
        Arc::new_cyclic(|me| Self { store, meta, made: Mutex::default(), me: me.clone() })
    }

    /// Takes away what a killed daemon left, and mounts there again; then on `wanted`, where failure is an error.
    pub fn start(&self, wanted: Option<(&Path, MountOptions)>) -> Result<()> {
        let before = record::clean(&self.meta)?;
        let past: BTreeSet<u64> =
            before.iter().map(|entry| entry.dev).filter(|dev| is_in_use(*dev)).collect();
        past.iter().for_each(|dev| self.store.was_mounted_as(*dev));
        self.lock().past = past;
        let there = before.iter().filter_map(|entry| Some((entry.dir.as_deref()?, entry.options)));
        for (dir, options) in there.filter(|(dir, _)| Some(*dir) != wanted.map(|(dir, _)| dir)) {
            if let Err(e) = self.mount(dir, options) {
                error!("the store was mounted there before, and is not now: {e}");
            }
        }
        wanted.map_or(Ok(()), |(dir, options)| self.mount(dir, options))
    }

    /// Mounts on a directory.
    pub fn mount(&self, dir: &Path, options: MountOptions) -> Result<()> {
        let mut made = self.lock();
        self.tidy(&mut made);
        let me = self.me.clone();
        let over = move || {
            if let Some(mounts) = me.upgrade() {
                mounts.tidy(&mut mounts.lock());
            }
        };
        let mount = Mount::new(&self.store, dir, options, over)
            .inspect_err(|e| self.store.note("refuse", &dir.display().to_string(), &format!("mount: {e}")))?;
        let facts = mount.facts();
        made.here.push(Arc::new(mount));
        let how = if facts.passthrough { "the kernel serves files" } else { "the daemon serves files" };
        self.store.note("mount", &facts.dir.display().to_string(), how);
        self.write(&mut made)
    }

    /// Unmounts from a directory, or from all. Returns where it was; `NotFound` if it wasn't mounted there, `Busy` if somebody uses it.
    pub fn umount(&self, dir: Option<&Path>) -> Result<Vec<PathBuf>> {
        let mut made = self.lock();
        self.tidy(&mut made);
        // The last first: an earlier one may be what it is on.
        let wanted = made.here.iter().rev().filter(|mount| dir.is_none_or(|dir| is_on(mount, dir)));
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
            let over = mount
                .end(false)
                .inspect_err(|e| self.store.note("refuse", &shown, &format!("unmount: {e}")))?;
            made.here.retain(|other| !Arc::ptr_eq(other, &mount));
            if over {
                self.is_over(&mut made, &mount);
            } else {
                made.elsewhere.push(mount);
            }
            self.write(&mut made)?;
            let left = if over { "" } else { "who still has it in another place is served" };
            self.store.note("unmount", &shown, left);
            gone.push(dir);
        }
        Ok(gone)
    }

    /// Where it is mounted, for people.
    pub fn info(&self) -> Vec<MountInfo> {
        let mut made = self.lock();
        self.tidy(&mut made);
        let facts = made.here.iter().map(|mount| mount.facts());
        facts
            .map(|facts| MountInfo {
                dir: facts.dir.as_os_str().as_bytes().to_vec(),
                passthrough: facts.passthrough,
            })
            .collect()
    }

    /// Device numbers of the filesystems that it is mounted as.
    pub fn devices(&self) -> Vec<u64> {
        let dirs = self.lock().here.iter().map(|mount| mount.facts().dir).collect::<Vec<_>>();
        dirs.iter().filter_map(|dir| codax_os::process::filesystem_of(dir).ok()).collect()
    }

    /// How a file is served on each of them; how it would be on a mount by root if there is none.
    pub fn served(&self, file: FileId) -> Result<Vec<ServedOn>> {
        let made = self.lock().here.clone();
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
        let made: Vec<_> = {
            let made = self.lock();
            made.here.iter().chain(&made.elsewhere).cloned().collect()
        };
        made.iter().for_each(|mount| mount.tell_changes());
    }

    /// Unmounts all, also where somebody is inside: the daemon ends, and waits for nobody. The next one is told who may still map what.
    pub fn end(&self) {
        let mut made = self.lock();
        while let Some(mount) = made.here.pop() {
            let ended = mount.end(false).or_else(|_| {
                let users: Vec<_> =
                    mount.users().iter().map(|(pid, name)| format!("{pid} ({name})")).collect();
                let dir = mount.facts().dir;
                warn!("{}: unmounted while in use by process {}", dir.display(), users.join(", "));
                mount.end(true)
            });
            match ended {
                Ok(true) => self.is_over(&mut made, &mount),
                Ok(false) => made.elsewhere.push(mount),
                Err(e) => {
                    error!("{e}");
                    made.elsewhere.push(mount);
                }
            }
        }
        for mount in &made.elsewhere {
            // Nobody will serve it there.
            if let Err(e) = mount.detach() {
                error!("{e}");
            }
        }
        if let Err(e) = self.write(&mut made) {
            error!("{e}");
        }
        made.ended = true;
    }

    /// Notices what others have done: unmounted one, or cut it off.
    fn tidy(&self, made: &mut Made) {
        if made.ended {
            return;
        }
        let (here, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut made.here).into_iter().partition(|m| !m.is_over() && m.is_there());
        made.here = here;
        let (over, left): (Vec<_>, Vec<_>) = std::mem::take(&mut made.elsewhere)
            .into_iter()
            .chain(gone.iter().cloned())
            .partition(|mount| mount.is_over());
        made.elsewhere = left;
        for mount in &over {
            // One that was cut off is still in its place, and dead.
            if let Err(e) = mount.detach() {
                warn!("{e}");
            }
            self.is_over(made, mount);
        }
        if (!gone.is_empty() || !over.is_empty())
            && let Err(e) = self.write(made)
        {
            error!("{e}");
        }
    }

    /// Remembers a mount that is over as long as somebody uses it: who maps files through it is found by its device number, which is free otherwise.
    fn is_over(&self, made: &mut Made, mount: &Mount) {
        made.past.insert(mount.facts().dev);
        self.forget_unused(made);
    }

    fn forget_unused(&self, made: &mut Made) {
        made.past.retain(|dev| {
            let used = is_in_use(*dev);
            if !used {
                self.store.nobody_is_on(*dev);
            }
            used
        });
    }

    /// Writes down what the next daemon has to know, should this one not end well.
    fn write(&self, made: &mut Made) -> Result<()> {
        self.forget_unused(made);
        let nowhere = |dev| Entry { dev, dir: None, options: MountOptions::default() };
        let past = made.past.iter().map(|dev| nowhere(*dev));
        let elsewhere = made.elsewhere.iter().map(|mount| nowhere(mount.facts().dev));
        let here = made.here.iter().map(|mount| mount.facts());
        let here = here.map(|f| Entry { dev: f.dev, dir: Some(f.dir), options: f.options });
        record::write(&self.meta, &past.chain(elsewhere).chain(here).collect::<Vec<_>>())
    }

    fn lock(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether somebody uses a filesystem, or has it mounted in another place.
fn is_in_use(dev: u64) -> bool {
    let some = |found: std::io::Result<Vec<(u32, String)>>| found.is_ok_and(|found| !found.is_empty());
    some(codax_os::process::users_of(dev)) || some(codax_os::process::namespaces_with(dev))
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
