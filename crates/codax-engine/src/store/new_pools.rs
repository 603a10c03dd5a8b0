//! What a start makes for pools that the journal doesn't know yet, and takes back if the start fails.

use crate::backing::{Backing, os_error};
use crate::store::attach::{take_out, unmount};
use crate::store::lifecycle::Layout;
use codax_core::change::PoolRecord;
use codax_core::{Error, PageCount, Result};
use codax_os::mounts;
use std::collections::BTreeSet;

/// Takes back, when it is dropped, what was made for new pools; unless they are [kept](NewPools::keep).
#[derive(Debug)]
pub(crate) struct NewPools<'a> {
    layout: &'a Layout,
    known: BTreeSet<String>,
    /// What there is to be, with those that the journal knows.
    all: Vec<PoolRecord>,
    begun: Vec<Begun>,
}

#[derive(Debug)]
struct Begun {
    pool: PoolRecord,
    had_dir: bool,
    had_mount: bool,
}

impl<'a> NewPools<'a> {
    /// For a start of the store in `layout`, whose journal knows the pools `known` of `all`.
    pub fn new(layout: &'a Layout, known: &[PoolRecord], all: Vec<PoolRecord>) -> Self {
        let known = known.iter().map(|pool| pool.name.clone()).collect();
        Self { layout, known, all, begun: Vec::new() }
    }

    /// Whether the journal doesn't know the pool yet.
    pub fn is_new(&self, pool: &PoolRecord) -> bool {
        !self.known.contains(&pool.name)
    }

    /// The pool is about to be made, if it is new.
    pub fn begin(&mut self, pool: &PoolRecord) -> Result<()> {
        if self.known.contains(&pool.name) {
            return Ok(());
        }
        let dir = self.layout.pool(&pool.name);
        let mut had_mount = mounts::is_mount_point(&dir).unwrap_or(false);
        if pool.numa.is_some() && pool.unit() > 1 {
            // There is nothing in it but pages that were got for another size.
            unmount(&dir)?;
            take_out(self.layout, pool, &self.all)?;
            had_mount = false;
        }
        if had_mount && pool.medium == pool.id {
            // A start that was killed may have mounted it for another size.
            mounts::resize_tmpfs(&dir, PageCount(pool.frames).bytes())
                .map_err(|e| os_error("resize the tmpfs on", &dir.display(), &e))?;
        }
        self.begun.push(Begun { pool: pool.clone(), had_dir: dir.exists(), had_mount });
        Ok(())
    }

    /// A new pool of huge pages has some: one that gets fewer than it wants says so, and one without any is none.
    pub fn has_memory(&self, pool: &PoolRecord, backing: &dyn Backing) -> Result<()> {
        match backing.reserve().filter(|reserve| reserve.taken == 0 && !self.known.contains(&pool.name)) {
            Some(reserve) => Err(Error::no_space(format!("device {}: {}", pool.name, reserve.why))),
            None => Ok(()),
        }
    }

    /// They are in the journal now.
    pub fn keep(mut self) {
        self.begun.clear();
    }
}

impl Drop for NewPools<'_> {
    fn drop(&mut self) {
        for Begun { pool, had_dir, had_mount } in self.begun.drain(..).rev() {
            let dir = self.layout.pool(&pool.name);
            if !had_mount {
                let _ = take_out(self.layout, &pool, &self.all);
                let _ = unmount(&dir);
            }
            if !had_dir {
                // Only an empty directory goes: what somebody has put there is theirs.
                let _ = std::fs::remove_dir(&dir);
            }
            let _ = std::fs::remove_file(self.layout.frame_table(&pool.name));
        }
    }
}
