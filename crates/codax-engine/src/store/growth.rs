//! Memory that programs gave to objects by themselves, by descriptors that they have or had: found and charged to those who pay for the file.
//!
//! What a program grows or fills of a file that is ahead of its inode is taken in as the file's (`fs::absorb`). Elsewhere it is nobody's bytes: it is *held*,
//! charged, and taken back as soon as nobody maps it.

use crate::backing::{Backing, os_error};
use crate::store::state::{Live, State};
use crate::store::{Inner, stale_ranges};
use codax_core::change::BackingKind;
use codax_core::extent::{self, Extent};
use codax_core::{FileId, PageCount, PageRange, PoolId, Result};
use codax_os::object;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};

impl State {
    /// Somebody is given a descriptor by which the file's object can be grown.
    pub fn watch(&mut self, file: FileId) {
        if self.quotas.in_force() {
            self.watched.insert(file);
        }
    }
}

impl Inner {
    /// Looks whether files whose payers have a quota have grown by themselves, of those that somebody has, or had since a quota was set.
    pub fn find_growth(&self, st: &mut State) {
        if !st.quotas.in_force() {
            st.watched.clear();
            return;
        }
        let written = |live: &Live| live.mount.is_some() || live.without_holes();
        let live: BTreeSet<FileId> =
            st.live.iter().filter(|(_, live)| written(live)).map(|(file, _)| *file).collect();
        st.watched.extend(&live);
        for file in st.watched.clone() {
            if st.is_busy(file) {
                continue;
            }
            match self.find_growth_of(st, file) {
                Ok(false) if !live.contains(&file) => drop(st.watched.remove(&file)),
                Ok(_) => {}
                Err(e) => tracing::warn!("{}: what programs made of it: {e}", st.path(file)),
            }
        }
        self.tell_quotas(st);
    }

    /// Whether somebody may still have the file, who can make it grow.
    fn find_growth_of(&self, st: &mut State, file: FileId) -> Result<bool> {
        self.refresh(st, file);
        let Some(inode) = st.ns.get(file) else { return Ok(false) };
        if inode.ahead.is_some() {
            return Ok(true);
        }
        let mut in_use = false;
        for medium in st.media.of_inode(inode) {
            // Who maps a device can't make a file longer.
            if st.pool(medium).record.backing == BackingKind::Devdax {
                continue;
            }
            if st.is_bound(file, medium) {
                self.hold_growth(st, file, medium)?;
            }
            let held = st.has_held(file, medium);
            in_use |= held || st.pool(medium).backing.sole_holder(file)?.is_none();
        }
        Ok(in_use)
    }

    fn hold_growth(&self, st: &mut State, file: FileId, medium: PoolId) -> Result<()> {
        let object = st.open_object(medium, file, false)?;
        let backing = st.pool(medium).backing.clone();
        let Some(inode) = st.ns.get(file) else { return Ok(()) };
        let here = st.media.extents(medium, &inode.extents);
        let pool = here.last().map_or(medium, |e| e.pool);
        let held = st.media.pools(medium).filter_map(|pool| st.pool(pool).held.get(&file));
        let held: Vec<Extent> = held.flatten().copied().collect();
        let known: u64 = here.iter().chain(&held).map(|e| e.count.0).sum();
        let stat = object::stat(object.as_fd()).map_err(|e| os_error("stat object of", &file, &e))?;
        let mut more = PageCount::for_bytes(stat.allocated_bytes).0.saturating_sub(known);
        if more == 0 {
            return Ok(());
        }
        let found = if st.pool(medium).record.dax.is_some() {
            // A filesystem counts blocks of its own records as the file's.
            let whole = PageRange::new(0, PageCount::for_bytes(stat.len).0);
            let mut found = Vec::new();
            for gap in extent::gaps(&here, whole) {
                find_data(&*backing, object.as_fd(), gap, &mut found)?;
            }
            found
        } else {
            stale_ranges(st, medium, file, object.as_fd())?
        };
        let found = held.iter().fold(found, |found, e| {
            found.iter().flat_map(|range| range.without(e.pages())).collect::<Vec<_>>()
        });
        let mut extents = Vec::new();
        for range in found {
            // Where it isn't known which pages have memory, so many of them have.
            let range = PageRange::new(range.start.0, range.count.0.min(more));
            more -= range.count.0;
            if range.is_empty() {
                break;
            }
            match st.take(pool, file, range, None) {
                Ok(taken) => extents.extend(taken),
                // Of a pool that is full there is nothing to be charged.
                Err(e) => tracing::debug!("growth of #{file}: {e}"),
            }
        }
        if !extents.is_empty() {
            extents.extend(st.pool(pool).held.get(&file).into_iter().flatten());
            self.hold(st, file, pool, extents);
        }
        Ok(())
    }
}

/// The parts of `pages` that the backing says have memory, by halving what has some and not all.
fn find_data(
    backing: &dyn Backing,
    object: BorrowedFd<'_>,
    pages: PageRange,
    found: &mut Vec<PageRange>,
) -> Result<()> {
    let there = backing.resident(object, pages)?;
    if there >= pages.count {
        found.push(pages);
    } else if there.0 > 0 {
        let half = pages.count.0 / 2;
        find_data(backing, object, PageRange::new(pages.start.0, half), found)?;
        find_data(backing, object, PageRange::new(pages.start.0 + half, pages.count.0 - half), found)?;
    }
    Ok(())
}
