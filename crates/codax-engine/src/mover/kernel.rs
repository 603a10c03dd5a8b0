//! Moves that the kernel makes: pages of one object from node to node, under whoever maps them.
//!
//! Nothing is switched, and nobody has to be asked: addresses, futexes and descriptors stay what they are. The kernel leaves pages where they are that
//! somebody has pinned, and says so to nobody, so each page is asked for afterwards; only what is there is the target pool's. The journal says which
//! pages are on their way: after a crash in between they are still those of the pool that they come from, and are brought back there.

use crate::backing::Backing;
use crate::mover::{Order, Prepared, Stuck, relocated};
use crate::store::Inner;
use crate::store::state::{Job, SegmentEntry, State};
use codax_core::change::{Change, Chunk, MoveRecord};
use codax_core::extent::{self, Extent};
use codax_core::namespace::Inode;
use codax_core::plan::Holder;
use codax_core::{Error, FileId, MoveId, PageCount, PageRange, PoolId, Result};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Chunks that the kernel is asked to move at once: each time it waits for all CPUs to put down what they have in their hands.
const CHUNKS_AT_ONCE: usize = 16;

/// How long to wait before pages that stayed are asked for again: at first, and at most.
const AGAIN_FIRST: Duration = Duration::from_millis(1);
const AGAIN_LAST: Duration = Duration::from_millis(100);

impl Inner {
    /// Moves a segment of a file from pool to pool of one medium.
    pub(super) fn move_by_kernel(&self, order: &Order<'_>, prepared: Prepared) -> (u64, Option<Stuck>) {
        let mut asked = Asked::default();
        let begun = self.begin_by_kernel(order, &prepared);
        let result = match &begun {
            Ok(_) => self.ask_kernel(order, &prepared, &mut asked),
            Err(e) => Err(e.clone().into()),
        };
        let mut st = self.lock();
        let taken = self.take_moved(&mut st, order, &prepared, &asked, begun.ok());
        self.end_busy(&mut st, order.file);
        drop(st);
        let (moved, left) = match taken {
            Ok(bytes) => bytes,
            Err(e) => return (0, Some(e.into())),
        };
        let stuck = match result {
            Err(stuck) => Some(stuck),
            Ok(()) if order.job.cancelled() => Some(Stuck::Cancelled),
            // What is left is the next segment's, when others have had their turn.
            Ok(()) if prepared.preempt.load(Ordering::Relaxed) => None,
            Ok(()) => (left > 0).then(|| self.left_behind(order, prepared.to, left)),
        };
        (moved, stuck)
    }

    /// Says which pages are on their way, so that a restart looks where they are.
    fn begin_by_kernel(&self, order: &Order<'_>, prepared: &Prepared) -> Result<MoveId> {
        let mut st = self.lock();
        let MoveRecord { id, slot, .. } = self.begin_in_journal(&mut st, order, prepared)?;
        st.segments.insert(id, SegmentEntry { slot, to_driver: None, stragglers: BTreeSet::new() });
        Ok(id)
    }

    /// Has the kernel move chunk after chunk. What came of it counts, also if it fails in between.
    fn ask_kernel(
        &self,
        order: &Order<'_>,
        prepared: &Prepared,
        asked: &mut Asked,
    ) -> std::result::Result<(), Stuck> {
        let target = self.lock().pool(prepared.to).backing.clone();
        asked.sources = self.sources_of(prepared);
        let object = target.open(order.file, true)?;
        self.env.reached("move:copy");
        for chunks in prepared.chunks.chunks(CHUNKS_AT_ONCE) {
            let preempted = !asked.pages.is_empty() && prepared.preempt.load(Ordering::Relaxed);
            if order.job.cancelled() || preempted {
                break;
            }
            for pages in joined(chunks) {
                order.pace.wait(pages.bytes(), &*self.env);
                asked.pages.push(pages);
                self.let_go(order, prepared, pages)?;
                let there = target.take_over(object.as_fd(), pages)?;
                self.env.reached("move:copied");
                asked.came(order.job, there);
            }
        }
        self.ask_again(order, prepared, (&*target, object.as_fd()), asked)
    }

    /// Asks again for pages that stayed, with the patience that mappers have: who is in the midst of a page fault has the page in his hands until he gets
    /// the processor again.
    fn ask_again(
        &self,
        order: &Order<'_>,
        prepared: &Prepared,
        (target, object): (&dyn Backing, BorrowedFd<'_>),
        asked: &mut Asked,
    ) -> std::result::Result<(), Stuck> {
        let deadline = self.env.now() + self.options().ack_timeout;
        let mut pause = AGAIN_FIRST;
        loop {
            let left = asked.left();
            let pages = PageCount(left.iter().map(|run| run.count.0).sum());
            let over = order.job.cancelled() || prepared.preempt.load(Ordering::Relaxed);
            if left.is_empty() || over || self.env.now() >= deadline || target.why_full(pages).is_some() {
                return Ok(());
            }
            self.env.sleep(pause);
            pause = (2 * pause).min(AGAIN_LAST);
            for run in left {
                self.let_go(order, prepared, run)?;
                let there = target.take_over(object, run)?;
                asked.came(order.job, there);
            }
        }
    }

    /// Devices have nothing of these pages in their caches. The kernel gives the old memory away as it moves them: there is no later moment.
    fn let_go(
        &self,
        order: &Order<'_>,
        prepared: &Prepared,
        pages: PageRange,
    ) -> std::result::Result<(), Stuck> {
        let extents = extent::slice(&prepared.inode.extents, pages);
        self.write_back(Some(order.job), &[(order.file, extents)])
    }

    /// Pools that are told of each page that leaves them, since they keep what memory is free: their chunks, and their backing.
    fn sources_of(&self, prepared: &Prepared) -> Vec<(PageRange, Arc<dyn Backing>)> {
        let st = self.lock();
        let keeping = prepared.chunks.iter().filter(|chunk| st.unit(chunk.from) > 1);
        keeping.map(|chunk| (chunk.pages, st.pool(chunk.from).backing.clone())).collect()
    }

    /// Journals what is in the target pool now, and gives back the frames that nothing lies in any more; returns the bytes that moved, and those that
    /// did not.
    fn take_moved(
        &self,
        st: &mut State,
        order: &Order<'_>,
        prepared: &Prepared,
        asked: &Asked,
        begun: Option<MoveId>,
    ) -> Result<(u64, u64)> {
        let segment = begun.and_then(|id| st.segments.remove(&id));
        let result = self.journal_moved(st, order, prepared, asked, begun);
        if let Some(segment) = segment.filter(|_| result.is_err()) {
            // In the journal the move goes on, and the word is its.
            st.quarantine.insert(segment.slot);
        }
        result
    }

    fn journal_moved(
        &self,
        st: &mut State,
        order: &Order<'_>,
        prepared: &Prepared,
        asked: &Asked,
        begun: Option<MoveId>,
    ) -> Result<(u64, u64)> {
        let mut changes: Vec<Change> = begun.map(Change::MoveEnd).into_iter().collect();
        let new = prepared.new_extents(&prepared.chunks);
        let Some(now) = st.ns.get(order.file).cloned() else {
            st.free(&new);
            return self.commit(st, &changes).map(|()| (0, 0));
        };
        // What programs have cut off meanwhile is not the file's any more.
        let still = |pages: &[PageRange]| -> Vec<Extent> {
            let here = pages.iter().flat_map(|run| extent::slice(&now.extents, *run));
            here.filter(|e| e.pool != prepared.to).collect()
        };
        let bytes = |extents: &[Extent]| extents.iter().map(|e| e.count.bytes()).sum::<u64>();
        let old = still(&asked.there);
        let left = bytes(&still(&asked.pages)) - bytes(&old);
        let taken: Vec<Extent> = old.iter().flat_map(|e| extent::slice(&new, e.pages())).collect();
        let unused = old.iter().fold(new, |left, e| extent::remove(&left, e.pages()).0);
        st.free(&unused);
        if taken.is_empty() {
            return self.commit(st, &changes).map(|()| (0, left));
        }
        let mut inode = relocated(&now, &taken, order.home);
        let grows = st.grows_in(&inode);
        inode.ahead = grows.or(inode.ahead);
        changes.push(Change::Put(Box::new(inode)));
        if let Err(e) = self.commit(st, &changes) {
            st.free(&taken);
            return Err(e);
        }
        st.own_moved(order.file, &taken);
        st.free(&old);
        if let Some(pool) = grows {
            self.grow_in(st, order.file, pool);
        }
        Ok((bytes(&taken), left))
    }

    /// New memory of a file that programs write to by themselves comes from where `pool` is. Where that fails the patrol brings it there.
    fn grow_in(&self, st: &State, file: FileId, pool: PoolId) {
        let object = st.open_object(pool, file, true);
        let told = object.and_then(|object| st.pool(pool).backing.prefer(object.as_fd(), PageRange::ALL));
        if let Err(e) = told {
            tracing::warn!("{}: {e}", st.path(file));
        }
    }

    /// Files that programs may write to by themselves and that have nothing left in a pool grow elsewhere from now on, if their placement lets them.
    pub fn grow_elsewhere(&self, st: &mut State, pool: PoolId) {
        let growing = st.ns.inodes().filter(|inode| inode.ahead == Some(pool));
        let growing: Vec<Inode> =
            growing.filter(|i| i.extents.iter().all(|e| e.pool != pool)).cloned().collect();
        for inode in growing {
            let placement = st.ns.placement(inode.id);
            let refuges = if placement.may_leave(pool) { placement.refuges(pool) } else { Vec::new() };
            let Some(to) = refuges.into_iter().find(|to| st.room(*to).online && st.media.same(*to, pool))
            else {
                continue;
            };
            let file = inode.id;
            match self.commit(st, &[Change::Put(Box::new(Inode { ahead: Some(to), ..inode }))]) {
                Ok(()) => self.grow_in(st, file, to),
                Err(e) => tracing::warn!("{}: {e}", st.path(file)),
            }
        }
    }

    /// Why pages stayed where they were.
    fn left_behind(&self, order: &Order<'_>, to: PoolId, bytes: u64) -> Stuck {
        let st = self.lock();
        let (path, backing) = (st.path(order.file), st.pool(to).backing.clone());
        drop(st);
        if let Some(e) = backing.why_full(PageCount::for_bytes(bytes)) {
            return Stuck::Failed(Error::new(e.kind, format!("{path}: {}", e.message)));
        }
        let why =
            format!("keeps {bytes} bytes of it where they are: pinned for DMA, or in use by the kernel");
        let media: BTreeSet<PoolId> = [to].into();
        let pinned =
            |h: &Holder| h.pid.is_some_and(|pid| codax_os::process::vm_pin_bytes(pid).unwrap_or(0) > 0);
        let mut by: Vec<Holder> =
            self.holders_by_kernel(order.file, &media).into_iter().filter(pinned).collect();
        by.iter_mut().for_each(|holder| holder.why.clone_from(&why));
        if by.is_empty() {
            by.push(Holder { pid: None, command: "a process".into(), why });
        }
        Stuck::Held(by)
    }
}

/// What the kernel was asked to move, and what of it is where it should be.
#[derive(Debug, Default)]
struct Asked {
    pages: Vec<PageRange>,
    there: Vec<PageRange>,
    /// Whom to tell that pages have gone.
    sources: Vec<(PageRange, Arc<dyn Backing>)>,
}

impl Asked {
    /// These pages are where they should be.
    fn came(&mut self, job: &Job, there: Vec<PageRange>) {
        job.update(|j| j.done += there.iter().map(|run| run.bytes()).sum::<u64>());
        for (pages, from) in &self.sources {
            let gone: u64 = there.iter().filter_map(|run| run.intersect(*pages)).map(|run| run.count.0).sum();
            if gone > 0 {
                from.gave(PageCount(gone));
            }
        }
        self.there.extend(there);
    }

    /// What was asked for and is not there.
    fn left(&self) -> Vec<PageRange> {
        let mut there = self.there.clone();
        there.sort_unstable_by_key(|run| run.start);
        let mut left = Vec::new();
        for pages in &self.pages {
            let mut at = pages.start.0;
            for run in there.iter().filter_map(|run| run.intersect(*pages)) {
                left.push(PageRange::new(at, run.start.0 - at));
                at = run.end();
            }
            left.push(PageRange::new(at, pages.end() - at));
        }
        left.retain(|run| !run.is_empty());
        left
    }
}

/// The pages of chunks, neighbours joined.
fn joined(chunks: &[Chunk]) -> Vec<PageRange> {
    let mut runs: Vec<PageRange> = Vec::new();
    for Chunk { pages, .. } in chunks {
        match runs.last_mut() {
            Some(last) if last.end() == pages.start.0 => last.count.0 += pages.count.0,
            _ => runs.push(*pages),
        }
    }
    runs
}

impl State {
    /// Where a file grows that programs write to by themselves and whose pages have left the pool in which it did; none if it goes on there.
    fn grows_in(&self, inode: &Inode) -> Option<PoolId> {
        let now = inode.ahead?;
        let last = inode.extents.last()?.pool;
        let left = inode.extents.iter().all(|e| e.pool != now);
        (left && self.media.same(last, now)).then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_what_was_asked_for_and_is_not_there() {
        let run = PageRange::new;
        let left = |pages, there| Asked { pages, there, sources: Vec::new() }.left();
        let there = vec![run(20, 5), run(4, 2), run(0, 3)];
        assert_eq!(left(vec![run(0, 10), run(20, 5)], there), [run(3, 1), run(6, 4)]);
        assert_eq!(left(vec![run(7, 2)], Vec::new()), [run(7, 2)]);
    }
}
