//! Moving files that nobody maps: copied under a write lease, committed in one record.
//!
//! Small files go many at a time: what costs as much for 16 KiB as for 16 MiB (the state's lock, a commit) is then paid once for all of them.

use crate::backing::Backing;
use crate::driver::Part;
use crate::mover::{Order, Prepared, Stuck, relocated};
use crate::store::Inner;
use crate::store::held::Looked;
use crate::store::state::State;
use codax_core::change::{Change, Chunk};
use codax_core::extent::Extent;
use codax_core::{Error, ErrorKind, FileId, HUGE_SIZE, PageRange, PoolId, Result};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes copied at once: a quarter of a usual second-level cache, so that what was just read is still there to be written and compared.
const BUFFER: usize = 256 << 10;

thread_local! {
    static BUFFERS: RefCell<(Vec<u8>, Vec<u8>)> = RefCell::new((vec![0; BUFFER], vec![0; BUFFER]));
}

/// What became of a segment: the bytes that were moved, and why not all if so.
pub(super) type Outcome = (u64, Option<Stuck>);

/// A segment on its way.
struct Idle<'a> {
    order: &'a Order<'a>,
    prepared: Prepared,
    /// How many chunks are copied in whole.
    done: usize,
    /// Source objects, by their media, with the leases that prove that nobody else has them. What opens an object again must come after they are gone, and nobody
    /// but this thread does while the file is busy.
    leased: BTreeMap<PoolId, OwnedFd>,
    /// Whether a device may have something of what was moved in its caches still.
    stale: bool,
    stuck: Option<Stuck>,
}

impl Idle<'_> {
    fn chunks(&self) -> &[Chunk] {
        &self.prepared.chunks[..self.done]
    }

    fn give_up(&mut self, e: &Error) {
        self.done = 0;
        self.stuck.get_or_insert_with(|| Stuck::Failed(e.clone()));
    }
}

/// The backings of a store's pools, by id.
type Backings = Vec<Arc<dyn Backing>>;

impl Inner {
    /// Moves segments of files that have no mappers, one of each.
    pub(super) fn move_idle(&self, segments: Vec<(&Order<'_>, Prepared)>) -> Vec<Outcome> {
        let backings: Backings = self.lock().pools.iter().map(|p| p.backing.clone()).collect();
        let mut moves: Vec<Idle<'_>> = Vec::with_capacity(segments.len());
        for (order, prepared) in segments {
            let leased = BTreeMap::new();
            let mut idle = Idle { order, prepared, done: 0, leased, stale: false, stuck: None };
            idle.stuck = self.lease(&backings, &mut idle).err();
            moves.push(idle);
        }
        let job = moves.first().map(|idle| idle.order.job);
        let written_back = self.write_back(job, &parts(&moves, |idle| &idle.prepared.chunks));
        for idle in moves.iter_mut().filter(|idle| idle.stuck.is_none()) {
            idle.stuck = written_back.clone().and_then(|()| self.copy_idle(&backings, idle)).err();
        }
        self.commit_idle(&mut moves);
        // Before the old memory goes to somebody else. Without the right to cancel: it is committed.
        let stale = self.write_back(None, &parts(&moves, |idle| idle.chunks())).is_err();
        moves.iter_mut().for_each(|idle| idle.stale = stale);
        // Here, and not under the lock, the old memory goes: with the last descriptor.
        let sources: Vec<Sources> = moves.iter_mut().map(|idle| remove_sources(&backings, idle)).collect();
        sources.iter().flat_map(|from| &from.gone).for_each(|pool| backings[usize::from(pool.0)].tend());
        let mut st = self.lock();
        let ended = moves.into_iter().zip(sources).map(|(idle, from)| self.end_idle(&mut st, idle, &from));
        let outcomes = ended.collect();
        self.changed.notify_all();
        outcomes
    }

    /// Leases the objects of a segment: nobody uses them, and nobody will.
    fn lease(&self, backings: &Backings, idle: &mut Idle<'_>) -> std::result::Result<(), Stuck> {
        let Idle { order, prepared, leased, .. } = &mut *idle;
        let file = order.file;
        for pool in prepared.sources() {
            match backings[usize::from(pool.0)].sole_holder(file)? {
                Some(object) => leased.insert(pool, object),
                None => return Err(Stuck::Held(self.holders_by_kernel(file, &[pool].into()))),
            };
        }
        Ok(())
    }

    /// Copies chunk after chunk of a segment whose objects are leased.
    fn copy_idle(&self, backings: &Backings, idle: &mut Idle<'_>) -> std::result::Result<(), Stuck> {
        let Idle { order, prepared, .. } = &mut *idle;
        let (file, len) = (order.file, prepared.inode.len);
        let target = &*backings[usize::from(prepared.to.0)];
        let fresh = !prepared.target_exists;
        // A small object gets its length by being written; a large one has to have it for the medium to give it huge pages.
        let short = fresh && len < HUGE_SIZE && target.object_len(len) == len;
        let to = if fresh {
            target.create(file, if short { 0 } else { len })?
        } else {
            target.open(file, true)?
        };
        target.bind(file, &prepared.new_extents(&prepared.chunks))?;
        self.env.reached("move:copy");
        let copied = self.copy_chunks(backings, idle, (target, to.as_fd()));
        // What was copied counts, also if not all was: the object has to be as the file wants it in any case.
        let Idle { prepared, done, .. } = idle;
        let written = prepared.chunks[..*done].last().map_or(0, |chunk| bytes_of(chunk, len).1);
        let lengthened = if short && written < len { target.resize(to.as_fd(), len) } else { Ok(()) };
        let whole = lengthened
            .and_then(|()| prepared.keep_holes(target, to.as_fd()))
            .and_then(|()| target.lock(file, to.as_fd(), &prepared.in_target(*done)));
        // One that isn't is not taken.
        let whole = whole.inspect_err(|_| *done = 0).map_err(Stuck::Failed);
        copied.and(whole)
    }

    /// Copies chunk after chunk from the leased objects, and counts those that are done.
    fn copy_chunks(
        &self,
        backings: &Backings,
        idle: &mut Idle<'_>,
        to: (&dyn Backing, BorrowedFd<'_>),
    ) -> std::result::Result<(), Stuck> {
        let Idle { order, prepared, done, leased, .. } = idle;
        for chunk in &prepared.chunks {
            if order.job.cancelled() || (*done > 0 && prepared.preempt.load(Ordering::Relaxed)) {
                break;
            }
            order.pace.wait(chunk.pages.bytes(), &*self.env);
            let medium = prepared.media.of(chunk.from);
            let from = leased.get(&medium);
            let from = from.ok_or_else(|| Error::internal("a chunk of a pool without a lease"))?;
            let source = &*backings[usize::from(medium.0)];
            let (at, end) = bytes_of(chunk, prepared.inode.len);
            to.0.before_write(to.1, PageRange::of_bytes(at, end - at))?;
            // What is gone is not there to be copied.
            let mut next = at;
            while let Some(lost) =
                prepared.inode.first_lost(PageRange::of_bytes(next, end - next)).filter(|_| next < end)
            {
                copy_checked((source, from.as_fd()), to, (next, lost.offset().clamp(next, end)), order)?;
                next = (lost.offset() + lost.bytes()).min(end);
            }
            copy_checked((source, from.as_fd()), to, (next, end), order)?;
            to.0.confirm(to.1, PageRange::of_bytes(at, end - at))?;
            to.0.persist(to.1, PageRange::of_bytes(at, end - at))?;
            *done += 1;
            order.job.update(|j| j.done += moved_bytes(chunk, prepared.inode.len));
        }
        Ok(())
    }

    /// Journals where everything that was copied is now. All of it in one record, or nothing.
    fn commit_idle(&self, moves: &mut [Idle<'_>]) {
        let mut st = self.lock();
        let changes: Vec<Change> = moves
            .iter()
            .filter(|idle| idle.done > 0)
            .map(|idle| {
                let now = st.ns.get(idle.order.file).unwrap_or(&idle.prepared.inode);
                let new = idle.prepared.new_extents(idle.chunks());
                Change::Put(Box::new(relocated(now, &new, idle.order.home)))
            })
            .collect();
        match self.commit(&mut st, &changes) {
            Ok(()) => {
                for idle in moves.iter().filter(|idle| idle.done > 0) {
                    st.own_moved(idle.order.file, &idle.prepared.new_extents(idle.chunks()));
                }
            }
            Err(e) => moves.iter_mut().for_each(|idle| idle.give_up(&e)),
        }
    }

    /// Gives back the frames that are not needed any more; the file is not busy afterwards.
    fn end_idle(&self, st: &mut State, idle: Idle<'_>, sources: &Sources) -> Outcome {
        let Idle { order, prepared, done, stuck, stale, .. } = idle;
        let (chunks, rest) = prepared.chunks.split_at(done);
        let keep = prepared.target_exists || done > 0;
        self.discard_copies(st, order.file, prepared.to, keep, &prepared.new_extents(rest));
        let old = prepared.old_extents(chunks);
        let bytes = chunks.iter().map(|chunk| moved_bytes(chunk, prepared.inode.len)).sum();
        let (gone, left): (Vec<Extent>, Vec<Extent>) =
            old.into_iter().partition(|e| sources.gone.contains(&prepared.media.of(e.pool)));
        st.free(&gone);
        if stale {
            st.keep_stale(order.file, &left);
        }
        if !left.is_empty() {
            self.give_back(st, order.file, left);
        }
        for &medium in &sources.stayed {
            if let Err(e) = self.lock_again(st, order.file, medium) {
                tracing::warn!("after a move: {e}");
            }
        }
        self.not_busy(st, order.file);
        (bytes, stuck)
    }

    /// A lease takes an object out of what is locked in memory: it goes back there if the file still has pages in it.
    fn lock_again(&self, st: &State, file: FileId, medium: PoolId) -> Result<()> {
        let pages = st.ns.get(file).map(|inode| st.media.pages(inode, medium)).unwrap_or_default();
        if pages.is_empty() {
            return Ok(());
        }
        let backing = &st.pool(medium).backing;
        backing.lock(file, backing.open(file, true)?.as_fd(), &pages)
    }

    /// Gives back the frames of copies that were not committed, and their memory; where that fails they are held.
    pub(super) fn discard_copies(
        &self,
        st: &mut State,
        file: FileId,
        pool: PoolId,
        keep: bool,
        unused: &[Extent],
    ) {
        let backing = st.pool(pool).backing.clone();
        if Looked::default().may_be_mapped((pool, &*backing), file, unused) {
            // Who was to switch to them, and has not answered.
            self.give_back(st, file, unused.to_vec());
            return;
        }
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
                Err(e) if e.kind == ErrorKind::NotFound => Ok(()),
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

/// Where these chunks of segments lie, of each of which the objects are leased.
fn parts<'a>(moves: &'a [Idle<'_>], chunks: impl Fn(&'a Idle<'_>) -> &'a [Chunk]) -> Vec<Part> {
    let leased = moves.iter().filter(|idle| !idle.leased.is_empty());
    leased.map(|idle| (idle.order.file, idle.prepared.old_extents(chunks(idle)))).collect()
}

/// Media in which a file had an object: those where it is gone, and those where it has something left.
#[derive(Default)]
struct Sources {
    gone: Vec<PoolId>,
    stayed: Vec<PoolId>,
}

/// Removes the objects that the file has nothing in any more, under the leases that prove them unused, and ends the leases.
fn remove_sources(backings: &Backings, idle: &mut Idle<'_>) -> Sources {
    let mut sources = Sources::default();
    for (medium, _lease) in std::mem::take(&mut idle.leased) {
        let media = &idle.prepared.media;
        let old = idle.prepared.old_extents(idle.chunks());
        let count =
            |extents: &[Extent]| media.extents(medium, extents).iter().map(|e| e.count.0).sum::<u64>();
        let (moved, had) = (count(&old), count(&idle.prepared.inode.extents));
        let removed = moved == had
            && !idle.stale
            && backings[usize::from(medium.0)]
                .remove(idle.order.file)
                .inspect_err(|e| tracing::warn!("after a move: {e}"))
                .is_ok();
        if removed { sources.gone.push(medium) } else { sources.stayed.push(medium) }
    }
    sources
}

/// Where a chunk's bytes begin and end in a file of `len` bytes.
pub(super) fn bytes_of(chunk: &Chunk, len: u64) -> (u64, u64) {
    let at = chunk.pages.offset();
    (at, (at + chunk.pages.bytes()).min(len.max(at)))
}

/// What a chunk has of a file of `len` bytes, in bytes of whole pages.
pub(super) fn moved_bytes(chunk: &Chunk, len: u64) -> u64 {
    let (at, end) = bytes_of(chunk, len);
    PageRange::of_bytes(at, end - at).bytes()
}

/// Copies bytes between objects through a buffer that stays in the cache; if the order says so it reads them back and compares.
fn copy_checked(
    (source, from): (&dyn Backing, BorrowedFd<'_>),
    (target, to): (&dyn Backing, BorrowedFd<'_>),
    (mut at, end): (u64, u64),
    order: &Order<'_>,
) -> Result<()> {
    let file = order.file;
    BUFFERS.with_borrow_mut(|(there, here)| {
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
            let got = source.read(from, &mut there[..want], at)?;
            if got == 0 {
                return Err(Error::corrupt(format!(
                    "#{file}: its object ends at byte {at}: somebody who may write it has cut it (codax check says what is lost)"
                )));
            }
            target.write(to, &there[..got], at)?;
            if order.verify {
                let back = target.read(to, &mut here[..got], at)?;
                if here[..back] != there[..got] {
                    return Err(Error::corrupt(format!(
                        "#{file}: what was copied to {at}..{} reads back differently; it stays where it was",
                        at + got as u64
                    )));
                }
            }
            at += got as u64;
        }
        Ok(())
    })
}

/// Whether two objects have the same bytes between `at` and `end`.
pub(super) fn same_bytes(
    (a, a_fd): (&dyn Backing, BorrowedFd<'_>),
    (b, b_fd): (&dyn Backing, BorrowedFd<'_>),
    (mut at, end): (u64, u64),
) -> Result<bool> {
    BUFFERS.with_borrow_mut(|(there, here)| {
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
            let (got, back) = (a.read(a_fd, &mut there[..want], at)?, b.read(b_fd, &mut here[..want], at)?);
            if there[..got] != here[..back] {
                return Ok(false);
            }
            if got == 0 {
                break;
            }
            at += got as u64;
        }
        Ok(true)
    })
}
