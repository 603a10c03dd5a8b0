//! Moving a file that nobody maps: copied under a write lease, committed in one record.

use crate::backing::{Backing, os_error};
use crate::mover::{Order, Prepared, Stuck, relocated};
use crate::store::Inner;
use codax_core::change::{Change, Chunk};
use codax_core::extent::Extent;
use codax_core::{Error, FileId, PoolId, Result};
use codax_os::object;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use xxhash_rust::xxh3::Xxh3;

/// Bytes copied at once: half of a usual second-level cache, so that what was just read is still there to be hashed and written.
const BUFFER: usize = 512 << 10;

thread_local! {
    static BUFFERS: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

impl Inner {
    /// Moves a segment of a file that has no mappers. Returns the bytes moved, and why not all if so.
    pub(super) fn move_idle(&self, order: &Order<'_>, prepared: Prepared) -> (u64, Option<Stuck>) {
        let mut done = 0;
        // The leases end here: what follows opens the objects again, and nobody else can while the file is busy.
        let copied = self.copy_idle(order, &prepared, &mut done).map(drop);
        let (chunks, rest) = prepared.chunks.split_at(done);
        let mut st = self.lock();
        let (old, new) = (prepared.old_extents(chunks), prepared.new_extents(chunks));
        let mut failed = None;
        if !chunks.is_empty() {
            let now = st.ns.get(order.file).unwrap_or(&prepared.inode);
            let inode = relocated(now, &new, order.home);
            if let Err(e) = self.commit(&mut st, &[Change::Put(Box::new(inode))]) {
                failed = Some(Stuck::Failed(e));
            }
        }
        let unused = match &failed {
            None => {
                st.own(order.file, &new);
                prepared.new_extents(rest)
            }
            Some(_) => prepared.new_extents(&prepared.chunks),
        };
        let target_in_use = prepared.target_exists || (failed.is_none() && !chunks.is_empty());
        self.discard_copies(&mut st, order.file, prepared.to, target_in_use, &unused);
        let bytes: u64 = if failed.is_none() { old.iter().map(|e| e.count.bytes()).sum() } else { 0 };
        if bytes > 0 {
            self.give_back(&mut st, order.file, old);
        }
        self.end_busy(&mut st, order.file);
        let stuck = failed.or(copied.err());
        (bytes, stuck)
    }

    /// Copies chunk after chunk; `done` counts those that are whole. Returns the leases under which it did.
    fn copy_idle(
        &self,
        order: &Order<'_>,
        prepared: &Prepared,
        done: &mut usize,
    ) -> std::result::Result<Vec<OwnedFd>, Stuck> {
        let (sources, target) = {
            let st = self.lock();
            let sources: BTreeMap<PoolId, Arc<dyn Backing>> =
                prepared.sources().into_iter().map(|p| (p, st.pool(p).backing.clone())).collect();
            (sources, st.pool(prepared.to).backing.clone())
        };
        let mut leased: BTreeMap<PoolId, OwnedFd> = BTreeMap::new();
        for (&pool, backing) in &sources {
            match backing.sole_holder(order.file)? {
                Some(object) => leased.insert(pool, object),
                None => return Err(Stuck::Held(self.holders_by_kernel(order.file, &[pool].into()))),
            };
        }
        let pages = codax_core::PageCount::for_bytes(prepared.inode.len);
        let to = if prepared.target_exists {
            target.open(order.file, true)?
        } else {
            target.create(order.file, prepared.inode.len)?
        };
        self.env.reached("move:copy");
        for chunk in &prepared.chunks {
            if order.job.cancelled() || (*done > 0 && prepared.preempt.load(Ordering::Relaxed)) {
                break;
            }
            order.pace.wait(chunk.pages.bytes(), &*self.env);
            let from = leased
                .get(&chunk.from)
                .ok_or_else(|| Error::internal("a chunk of a pool without a lease"))?;
            copy_checked(
                from.as_fd(),
                to.as_fd(),
                bytes_of(chunk, prepared.inode.len),
                order.verify,
                order.file,
            )?;
            *done += 1;
            order.job.update(|j| j.done += chunk.pages.bytes());
        }
        target.lock(order.file, to.as_fd(), pages)?;
        Ok(leased.into_values().collect())
    }

    /// Gives back the frames of copies that were not committed, and their memory; where that fails they are held.
    pub(super) fn discard_copies(
        &self,
        st: &mut crate::store::state::State,
        file: FileId,
        pool: PoolId,
        keep: bool,
        unused: &[Extent],
    ) {
        let backing = st.pool(pool).backing.clone();
        let result = if keep {
            if unused.is_empty() {
                return;
            }
            backing
                .open(file, true)
                .and_then(|object| unused.iter().try_for_each(|e| backing.release(object.as_fd(), e.pages())))
        } else {
            backing.unlock(file);
            match backing.remove(file) {
                Err(e) if e.kind == codax_core::ErrorKind::NotFound => Ok(()),
                other => other,
            }
        };
        match result {
            Ok(()) => st.free(unused),
            Err(e) => {
                tracing::warn!("after a move: {e}");
                self.give_back(st, file, unused.to_vec());
            }
        }
    }
}

/// Where a chunk's bytes begin and end in a file of `len` bytes.
pub(super) fn bytes_of(chunk: &Chunk, len: u64) -> (u64, u64) {
    let at = chunk.pages.offset();
    (at, (at + chunk.pages.bytes()).min(len.max(at)))
}

/// Copies bytes between objects through a buffer that stays in the cache, and with `verify` reads them back and compares checksums.
fn copy_checked(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    (start, end): (u64, u64),
    verify: bool,
    file: FileId,
) -> Result<()> {
    let failed = |what: &str, e: &std::io::Error| os_error(what, &format_args!("#{file}"), e);
    BUFFERS.with_borrow_mut(|buffer| {
        let mut before = Xxh3::new();
        let mut after = Xxh3::new();
        let mut at = start;
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
            let got = object::read_at(from, &mut buffer[..want], at).map_err(|e| failed("read", &e))?;
            if got == 0 {
                return Err(Error::corrupt(format!(
                    "#{file}: its object ends at byte {at}: somebody who may write it has cut it (codax check says what is lost)"
                )));
            }
            let part = &buffer[..got];
            if verify {
                before.update(part);
            }
            object::write_all_at(to, part, at).map_err(|e| failed("copy", &e))?;
            if verify {
                let back = object::read_at(to, &mut buffer[..got], at).map_err(|e| failed("read back", &e))?;
                after.update(&buffer[..back]);
            }
            at += got as u64;
        }
        if verify && before.digest() != after.digest() {
            return Err(Error::corrupt(format!(
                "#{file}: bytes {start}..{end} read back differently after they were copied; they stay where they were"
            )));
        }
        Ok(())
    })
}

/// Compares the pages of two objects by checksum.
pub(super) fn same_bytes(a: BorrowedFd<'_>, b: BorrowedFd<'_>, chunk: &Chunk, file: FileId) -> Result<bool> {
    let sum = |fd: BorrowedFd<'_>| -> Result<u64> {
        BUFFERS.with_borrow_mut(|buffer| {
            let mut hash = Xxh3::new();
            let (mut at, end) = (chunk.pages.offset(), chunk.pages.offset() + chunk.pages.bytes());
            while at < end {
                let want = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
                let got = object::read_at(fd, &mut buffer[..want], at)
                    .map_err(|e| os_error("read", &format_args!("#{file}"), &e))?;
                if got == 0 {
                    break;
                }
                hash.update(&buffer[..got]);
                at += got as u64;
            }
            Ok(hash.digest())
        })
    };
    Ok(sum(a)? == sum(b)?)
}
