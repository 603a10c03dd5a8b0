//! Memory that files have left: taken back where nobody has it any more, and held else.

use crate::backing::{Backing, os_error};
use crate::store::Inner;
use crate::store::files::cut_object;
use crate::store::state::State;
use codax_core::extent::{Extent, FrameRun};
use codax_core::frame::FrameState;
use codax_core::{ErrorKind, FileId, PageRange, PoolId, Result};
use codax_os::process::{Held, Hold, holders};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::{AsFd, BorrowedFd};

/// What was seen in `/proc`, where who asks needs it of several files or parts of them: to look through it takes its time, and all wait.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// The mappings of devices.
    devices: BTreeMap<PoolId, Result<Vec<Held>>>,
    /// Who holds objects, if it was asked for all that are wanted.
    objects: Option<Vec<Held>>,
}

impl Looked {
    /// Whether somebody maps these pages of a file by himself, on the device of `pool`.
    fn is_mapped(
        &mut self,
        (pool, backing): (PoolId, &dyn Backing),
        file: FileId,
        pages: &[PageRange],
    ) -> Result<bool> {
        if pages.is_empty() {
            return Ok(false);
        }
        let mappings = self.devices.entry(pool).or_insert_with(|| backing.mappings());
        Ok(mappings.as_ref().map_err(Clone::clone)?.iter().any(|held| backing.is_mapped(file, pages, held)))
    }

    /// The same of extents; also if it can't be said.
    pub fn may_be_mapped(
        &mut self,
        medium: (PoolId, &dyn Backing),
        file: FileId,
        extents: &[Extent],
    ) -> bool {
        let pages: Vec<PageRange> = extents.iter().map(Extent::pages).collect();
        self.is_mapped(medium, file, &pages).unwrap_or(true)
    }
}

impl Inner {
    /// Takes back frames that `file` has left (or that were all it had), where nobody holds its object any more; else they are held, and
    /// tried again when somebody goes.
    pub fn give_back(&self, st: &mut State, file: FileId, extents: Vec<Extent>) {
        let pools: BTreeSet<PoolId> = extents.iter().map(|e| e.pool).collect();
        for pool in pools {
            let here = extents.iter().filter(|e| e.pool == pool).copied().collect();
            self.give_back_in(st, file, pool, here);
        }
    }

    /// [`Inner::give_back`] of an object that has no frames any more.
    pub fn give_back_object(&self, st: &mut State, file: FileId, pool: PoolId) {
        self.give_back_in(st, file, pool, Vec::new());
    }

    fn give_back_in(&self, st: &mut State, file: FileId, pool: PoolId, mut here: Vec<Extent>) {
        here.extend(st.pool_mut(pool).held.remove(&file).unwrap_or_default());
        match self.release_object(st, file, pool, &here, &mut Looked::default()) {
            Ok(true) => st.free(&here),
            Ok(false) => self.hold(st, file, pool, here),
            Err(e) => {
                tracing::warn!("give back frames: {e}");
                self.hold(st, file, pool, here);
            }
        }
    }

    pub fn hold(&self, st: &mut State, file: FileId, pool: PoolId, extents: Vec<Extent>) {
        for e in &extents {
            let run = FrameRun { frame: e.frame, count: e.count };
            st.pool_mut(pool).table.assign(run, file, e.page, FrameState::Held);
        }
        st.pool_mut(pool).held.insert(file, extents);
    }

    /// Whether the object's memory at `extents` could be taken back: the whole object once its file has nothing in it any more, which a write
    /// lease proves nobody holds; else a hole, where no process maps that part.
    fn release_object(
        &self,
        st: &State,
        file: FileId,
        pool: PoolId,
        extents: &[Extent],
        looked: &mut Looked,
    ) -> Result<bool> {
        if st.stale.contains(&(pool, file)) {
            return Ok(false);
        }
        let pages: Vec<PageRange> = extents.iter().map(Extent::pages).collect();
        let gone = self.release_pages(st, file, pool, &pages, looked)?;
        if gone {
            st.shorten(file, pool)?;
        }
        Ok(gone)
    }

    /// [`Inner::release_object`] of memory for which there need not be frames.
    pub fn release_pages(
        &self,
        st: &State,
        file: FileId,
        pool: PoolId,
        pages: &[PageRange],
        looked: &mut Looked,
    ) -> Result<bool> {
        let backing = &st.pool(pool).backing;
        let stays = st.keeps_object(file, pool);
        let here = if stays { pages } else { &[PageRange::ALL] };
        if looked.is_mapped((pool, &**backing), file, here)? {
            return Ok(false);
        }
        if !stays {
            let Some(lease) = (match backing.lease(file) {
                Err(e) if e.kind == ErrorKind::NotFound => return Ok(true),
                other => other?,
            }) else {
                return Ok(false);
            };
            backing.remove(file)?;
            drop(lease);
            backing.tend();
            return Ok(true);
        }
        let object = st.open_object(pool, file, true)?;
        let identities = identities(st, file, object.as_fd())?;
        if mapped_by_strangers(&identities, pages, looked)? {
            return Ok(false);
        }
        let mut gone = true;
        for run in pages {
            backing.release(object.as_fd(), *run)?;
            // A part of a huge page is only cleared, and stays, where the kernel can't split the page at this moment.
            gone &= !backing.tells_which() || backing.resident(object.as_fd(), *run)?.0 == 0;
        }
        Ok(gone)
    }

    /// Tries again to take back what was held.
    pub fn retry_held(&self, st: &mut State) {
        // Who moves a file may have its objects under a lease; a device that isn't there is looked at when it is.
        let there = st.pools.iter().filter(|pool| st.without_device(pool.record.id).is_none());
        let all = there.flat_map(|pool| pool.held.keys().map(|file| (pool.record.id, *file)));
        let all: Vec<(PoolId, FileId)> = all.filter(|(_, file)| !st.is_moving(*file)).collect();
        let mut looked = Looked { objects: held_objects(st, &all), ..Looked::default() };
        for (pool, file) in all {
            let Some(held) = st.pool(pool).held.get(&file).cloned() else { continue };
            match self.release_object(st, file, pool, &held, &mut looked) {
                Ok(true) => {
                    st.pool_mut(pool).held.remove(&file);
                    st.free(&held);
                }
                Ok(false) => {}
                Err(e) => tracing::warn!("give back frames: {e}"),
            }
        }
        self.retry_lingering(st);
        for file in st.lost_orphans.clone() {
            if !st.is_moving(file) && self.unheld(st, file) {
                st.lost_orphans.remove(&file);
                self.reap(st, file);
            }
        }
    }

    /// Whether nobody holds any object of the file.
    fn unheld(&self, st: &State, file: FileId) -> bool {
        let objects = st.ns.get(file).map(|inode| st.media.of_inode(inode)).unwrap_or_default();
        objects.into_iter().all(|medium| !matches!(st.pool(medium).backing.sole_holder(file), Ok(None)))
    }
}

impl State {
    /// Cuts an object that was left as long as it was as long as something of it was held: what of `pool` was is given back.
    fn shorten(&self, file: FileId, pool: PoolId) -> Result<()> {
        let Some(inode) = self.ns.get(file) else { return Ok(()) };
        let more =
            self.media.pools(self.media.of(pool)).any(|p| p != pool && self.pool(p).held.contains_key(&file));
        // Who is at work on it gives it its length.
        if more || inode.ahead.is_some() || self.is_busy(file) || !self.keeps_object(file, pool) {
            return Ok(());
        }
        let backing = &self.pool(pool).backing;
        let stat = codax_os::object::stat(self.open_object(pool, file, false)?)
            .map_err(|e| os_error("stat object of", &file, &e))?;
        match stat.len > backing.object_len(inode.len) {
            true => {
                cut_object(&**backing, file, inode.len, Some(&self.media.pages(inode, self.media.of(pool))))
            }
            false => Ok(()),
        }
    }

    /// Whether a file has pages in the object that holds the pool's.
    fn keeps_object(&self, file: FileId, pool: PoolId) -> bool {
        self.ns.get(file).is_some_and(|inode| !self.media.extents(pool, &inode.extents).is_empty())
    }
}

/// Who holds objects that stay when what is held of them is given back; `None` if that can't be said.
fn held_objects(st: &State, held: &[(PoolId, FileId)]) -> Option<Vec<Held>> {
    let mut wanted = HashSet::new();
    for (pool, file) in held.iter().filter(|(pool, file)| st.keeps_object(*file, *pool)) {
        let object = st.open_object(*pool, *file, false).ok()?;
        wanted.extend(identities(st, *file, object.as_fd()).ok()?);
    }
    holders(&wanted).ok()
}

/// What an object of a file is for the kernel, itself and through mounts.
fn identities(st: &State, file: FileId, object: BorrowedFd<'_>) -> Result<HashSet<(u64, u64)>> {
    let stat = codax_os::object::stat(object).map_err(|e| os_error("stat object of", &file, &e))?;
    Ok(std::iter::once((stat.dev, stat.ino)).chain(st.kernel_identities(file)).collect())
}

/// Whether a process maps these parts of an object, itself or through a mount. The mappers of the file have all switched, or this would not be asked.
fn mapped_by_strangers(object: &HashSet<(u64, u64)>, pages: &[PageRange], looked: &Looked) -> Result<bool> {
    let look = || holders(object).map_err(|e| os_error("look through", &"/proc", &e));
    let mapped = |held: &Held| match held.what {
        Hold::Mapped { off, len, .. } => {
            let mapped = PageRange::of_bytes(off, len);
            pages.iter().any(|run| run.intersect(mapped).is_some())
        }
        Hold::Descriptor => false,
    };
    let all =
        looked.objects.as_ref().map_or_else(|| look().map(Cow::Owned), |seen| Ok(Cow::Borrowed(seen)))?;
    Ok(all.iter().any(|held| object.contains(&(held.dev, held.ino)) && mapped(held)))
}
