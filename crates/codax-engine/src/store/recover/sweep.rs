//! Objects brought in line with the journal: what no file claims goes, unless somebody holds it; what is missing is said.

use super::Renumbered;
use crate::backing::ObjectInfo;
use crate::catalog::Catalog;
use crate::fs::find_memory;
use crate::store::Inner;
use crate::store::files::all_in;
use crate::store::held::Looked;
use crate::store::state::{Note, State, Trouble};
use codax_core::extent::{self, Extent};
use codax_core::namespace::LEN_MAX;
use codax_core::{ErrorKind, FileId, PageCount, PageRange, PoolId, Result};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};

impl Inner {
    /// Brings the objects in line with the journal: what no file claims goes, unless somebody holds it; what is missing is said.
    pub(super) fn sweep(&self, renumbered: &[Renumbered], notes: &mut Vec<Note>) -> Result<()> {
        let mut st = self.lock();
        for medium in st.media.all() {
            self.sweep_medium(&mut st, medium, renumbered, notes)?;
        }
        // An object that isn't there says nothing.
        let ahead: Vec<FileId> = st.ns.inodes().filter(|i| i.ahead.is_some()).map(|i| i.id).collect();
        for file in ahead {
            if st.lingering.contains(&file) {
                continue;
            }
            if let Err(e) = self.settle(&mut st, file) {
                tracing::warn!("{}: {e}", st.path(file));
            }
        }
        for file in st.lingering.clone() {
            if let Some(used) = st.live.get_mut(&file).and_then(|live| live.mount.as_mut()) {
                used.inherited = true;
            }
        }
        let orphans: Vec<FileId> = st.ns.inodes().filter(|i| i.nlink == 0).map(|i| i.id).collect();
        st.lost_orphans = orphans.into_iter().collect();
        self.retry_held(&mut st);
        Ok(())
    }

    /// [`Inner::sweep`] of one medium. Objects in which something is held already are left alone.
    pub fn sweep_medium(
        &self,
        st: &mut State,
        medium: PoolId,
        renumbered: &[Renumbered],
        notes: &mut Vec<Note>,
    ) -> Result<()> {
        let backing = st.pool(medium).backing.clone();
        if backing.gone().is_some() {
            // It has been said already.
            return Ok(());
        }
        let objects = backing.list()?;
        for stray in backing.strays()? {
            let what = crate::check::stray(&stray);
            notes.push(Note { what, of: Some(Trouble::Stray(stray)) });
        }
        let mut seen = BTreeSet::new();
        for (file, object) in objects {
            seen.insert(file);
            // The medium's catalog knows it by this number still.
            let is_known = renumbered.iter().any(|(its, theirs, _)| (*its, *theirs) == (medium, file));
            if !is_known && !st.has_held(file, medium) {
                self.sweep_object(st, (medium, file), object, notes)?;
            }
        }
        let missing: Vec<FileId> =
            st.files_in(medium).map(|inode| inode.id).filter(|file| !seen.contains(file)).collect();
        for file in missing {
            let (path, name) = (st.path(file), st.pool_name(medium));
            notes.push(Note {
                what: format!("{path}: its object in {name} is missing, its bytes there are lost"),
                of: Some(Trouble::Object(file, medium)),
            });
        }
        Ok(())
    }

    /// Objects that have another number by now are not needed under the old one, once their medium says so.
    pub(super) fn forget_numbers(&self, renumbered: &[Renumbered]) {
        let st = self.lock();
        for (pool, theirs, ours) in renumbered {
            let told = |catalog: &Catalog| catalog.contents().node(*ours).is_some();
            if !st.pool(*pool).catalog.as_ref().is_some_and(told) {
                continue;
            }
            match st.pool(*pool).backing.remove(*theirs) {
                Err(e) if e.kind != ErrorKind::NotFound => {
                    tracing::warn!("#{theirs}, which is #{ours} now: {e}");
                }
                _ => {}
            }
        }
    }

    fn sweep_object(
        &self,
        st: &mut State,
        (pool, file): (PoolId, FileId),
        object: ObjectInfo,
        notes: &mut Vec<Note>,
    ) -> Result<()> {
        let note = |what| Note { what, of: Some(Trouble::Object(file, pool)) };
        let ahead = st.ns.get(file).and_then(|inode| inode.ahead);
        if ahead.is_some_and(|its| st.media.same(its, pool)) {
            // Programs may have it open still, and write to it.
            if let Err(e) = self.settle(st, file) {
                let path = st.path(file);
                notes.push(note(format!("{path}: what programs wrote to it is not all in frames: {e}")));
            }
            return Ok(());
        }
        let (len, here) = st
            .ns
            .get(file)
            .map_or((0, Vec::new()), |inode| (inode.len, st.media.extents(pool, &inode.extents)));
        let expected: u64 = here.iter().map(|e| e.count.0).sum();
        let backing = st.pool(pool).backing.clone();
        let object_len = backing.object_len(len);
        if expected > 0 && object.len == object_len && object.allocated.0 == expected {
            return Ok(());
        }
        if expected > 0 && object.len < object_len {
            let what = format!(
                "{}: its object in {} was cut to {} bytes by who may write it: codax check says what is lost",
                st.path(file),
                st.pool_name(pool),
                object.len
            );
            notes.push(note(what));
            return Ok(());
        }
        let fd = backing.open(file, expected > 0)?;
        // What has nothing here is left over from a create, a move or a removal that did not get to its end.
        if expected > 0 && object.len > object_len {
            cut_back(st, fd.as_fd(), (pool, len), &here)?;
        }
        let stale = stale_ranges(st, pool, file, fd.as_fd())?;
        // Our own descriptor would count as a holder's.
        drop(fd);
        if expected == 0 || !stale.is_empty() {
            self.sweep_stale(st, pool, file, &stale);
        }
        Ok(())
    }

    /// Takes back memory that no file claims, for which it needs no frames; where somebody has it, it is held.
    fn sweep_stale(&self, st: &mut State, pool: PoolId, file: FileId, stale: &[PageRange]) {
        match self.release_pages(st, file, pool, stale, &mut Looked::default()) {
            Ok(true) => return,
            Ok(false) => {}
            Err(e) => tracing::warn!("give back what was left over of #{file}: {e}"),
        }
        let frames = self.hold_stale(st, pool, file, stale);
        if !frames.is_empty() {
            self.hold(st, file, pool, frames);
        }
    }

    /// Takes free frames to stand for memory that an object has and no file claims, so that nobody is promised memory that isn't there.
    fn hold_stale(&self, st: &mut State, pool: PoolId, file: FileId, ranges: &[PageRange]) -> Vec<Extent> {
        let mut frames = Vec::new();
        for &range in ranges.iter().filter(|r| !r.is_empty()) {
            match st.take(pool, file, range, None) {
                Ok(extents) => frames.extend(extents),
                // A full pool with stale memory beside it: its extents' numbers are all taken, so there is nothing to keep back.
                Err(e) => tracing::debug!("stale memory of #{file}: {e}"),
            }
        }
        frames
    }
}

/// Cuts an object to the length of its file in a pool.
fn cut_back(st: &State, object: BorrowedFd<'_>, (pool, len): (PoolId, u64), here: &[Extent]) -> Result<()> {
    let backing = &st.pool(pool).backing;
    backing.resize(object, len)?;
    // That takes what the file has behind its end, too.
    let pages = PageCount::for_bytes(backing.object_len(len)).0;
    let behind = extent::slice(here, PageRange::new(pages, u64::MAX - pages));
    extent::pool_runs(&behind)
        .into_iter()
        .try_for_each(|run| st.pool(run.pool).backing.allocate(object, run.pages))
}

/// Parts of an object that have memory and belong to no extent, also behind its end.
pub(crate) fn stale_ranges(
    st: &State,
    pool: PoolId,
    file: FileId,
    fd: BorrowedFd<'_>,
) -> Result<Vec<PageRange>> {
    let claimed = st.ns.get(file).map(|i| all_in(&st.media, pool, &i.extents, &[])).unwrap_or_default();
    let all = PageRange::new(0, PageCount::for_bytes(LEN_MAX).0);
    if !st.pool(pool).backing.tells_which() {
        // Whatever it has beyond what is claimed is somewhere in between.
        let object = codax_os::object::stat(fd)
            .map_err(|e| crate::backing::os_error("look at object of", &file, &e))?;
        let expected: u64 = claimed.iter().map(|e| e.count.bytes()).sum();
        let whole = PageRange::new(0, PageCount::for_bytes(object.len).0);
        let gaps = extent::gaps(&claimed, whole);
        return Ok(if object.allocated_bytes > expected { gaps } else { Vec::new() });
    }
    let mut stale = Vec::new();
    for gap in extent::gaps(&claimed, all) {
        find_memory(fd, gap, file, &mut stale)?;
    }
    Ok(stale)
}

/// How many of these pages of an object have memory.
pub(crate) fn resident(fd: BorrowedFd<'_>, pages: PageRange, file: FileId) -> Result<PageCount> {
    let bytes = codax_os::object::resident_bytes(fd, pages.offset(), pages.bytes())
        .map_err(|e| crate::backing::os_error("look at object of", &file, &e))?;
    Ok(PageCount::for_bytes(bytes))
}
