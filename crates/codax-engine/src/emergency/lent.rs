//! How much of a device is lent, as a file beside the journal says: written before anything is lent, so that who comes after a crash knows at least of all that
//! is. It ends with the store, as all of it does.

use super::Allowed;
use crate::backing::{os_error, write_whole};
use crate::store::blocks::frames;
use crate::store::state::{Pool, State};
use crate::store::{Inner, Layout};
use codax_core::units::{format_size, parse_size};
use codax_core::{PageCount, PoolId, Result};
use std::fs;
use std::io;
use std::path::PathBuf;

fn path(layout: &Layout, pool: &str) -> PathBuf {
    layout.meta().join(format!("lent.{pool}"))
}

/// Bytes that are lent of a pool at most.
fn read(layout: &Layout, pool: &str) -> Result<u64> {
    let path = path(layout, pool);
    match fs::read_to_string(&path) {
        Ok(text) => parse_size(&text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(os_error("read", &path.display(), &e)),
    }
}

fn write(layout: &Layout, pool: &str, bytes: u64) -> Result<()> {
    let path = path(layout, pool);
    let written = match bytes {
        0 => fs::remove_file(&path),
        _ => write_whole(&path, &bytes.to_string()),
    };
    match written {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(os_error("write", &path.display(), &e)),
        _ => Ok(()),
    }
}

impl Pool {
    /// Takes out of what can be given out what was lent before the start; files have theirs by now.
    pub fn take_lent(&mut self, layout: &Layout) -> Result<()> {
        let name = &self.record.name;
        let bytes = read(layout, name)?;
        if bytes == 0 {
            return Ok(());
        }
        // Without one nothing of it is anybody's. That is written down when nothing can fail any more.
        let Some(lender) = self.backing.lender() else { return Ok(()) };
        let count = PageCount::for_bytes(bytes).0.min(self.alloc.free().0);
        self.lent = self.alloc.allocate(PageCount(count), None).unwrap_or_default();
        self.lent.iter().for_each(|run| self.table.reserve(*run));
        lender.go_on(self.alloc.free().bytes())
    }
}

impl Inner {
    /// Writes down how much is lent of a pool.
    pub(super) fn note_lent(&self, st: &State, pool: PoolId) -> Result<()> {
        let layout = Layout { dir: self.options().dir.clone() };
        write(&layout, &st.pool_name(pool), frames(&st.pool(pool).lent).bytes())
    }

    /// Looks after what was lent before the start, also of devices that are allowed nothing any more.
    pub(super) fn resume_loans(&self, st: &mut State) -> Result<()> {
        let lent = |pool: &Pool| (pool.record.id, frames(&pool.lent).bytes());
        let pools: Vec<(PoolId, u64)> = st.pools.iter().map(lent).collect();
        for (pool, lent) in pools {
            if lent == 0 {
                self.note_lent(st, pool)?;
                continue;
            }
            let allowed = st.emergency.allowed.entry(pool).or_insert_with(Allowed::nothing);
            allowed.loan.lent_more(lent);
            let line =
                format!("{} are lent to the rest of the system since before the start", format_size(lent));
            self.event("lend", &st.pool_name(pool), &line, lent);
        }
        Ok(())
    }
}
