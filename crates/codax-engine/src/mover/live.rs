//! Moving a file under its mappers: the driver of a [`Segment`].
//!
//! The truth of each chunk changes in one atomic store, of the segment's commit word; all mappers can read it, so that none has to wait for a
//! daemon that died. The inode in the journal follows when the segment is over.

use crate::backing::Backing;
use crate::mover::idle::{bytes_of, moved_bytes, same_bytes};
use crate::mover::{Order, Prepared, Stuck, relocated};
use crate::store::Inner;
use crate::store::session::Mapper;
use crate::store::state::SegmentEntry;
use codax_core::change::{Change, Chunk, MoveRecord};
use codax_core::extent::{Extent, FrameRun};
use codax_core::frame::FrameState;
use codax_core::live::{MoverAck, MoverMsg};
use codax_core::plan::Holder;
use codax_core::segment::{Action, Part, Segment, Target};
use codax_core::{Error, FileId, MoveId, PageRange, PoolId, Result, SessionId};
use codax_os::copy::SourceMap;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::Duration;

/// Chunks whose new memory is made ready together, before they are frozen one by one: 16 MiB at most, of which some is still in the cache when
/// it is copied to.
const READY_AT_ONCE: u32 = 8;

/// How long to look for an answer before sleeping.
const SPIN_MAX: Duration = Duration::from_micros(200);

/// What a session tells the driver of a segment.
#[derive(Debug)]
pub(crate) enum Input {
    /// A mapper's answer.
    Ack(SessionId, MoverAck),
    /// The session is over, or can't be told anything any more.
    Gone(SessionId),
    /// Everything sent before this has been taken in.
    Barrier(Sender<()>),
}

/// How the driver's loop ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// Everybody has acknowledged the end.
    Done,
    /// Some have not, and may take their time: the file can go on without them.
    Left,
    /// Somebody has not, and the file can't go on without them.
    Unfinished,
}

struct MapperLink {
    mapper: Option<Arc<dyn Mapper>>,
    write: bool,
    holder: Holder,
}

/// An old object, mapped to be copied from.
struct Source {
    map: SourceMap,
    object: OwnedFd,
    backing: Arc<dyn Backing>,
}

/// A segment on its way, with all that is needed to carry out its actions.
struct Drive {
    segment: Segment,
    record: MoveRecord,
    prepared: Prepared,
    inputs: Receiver<Input>,
    mappers: BTreeMap<SessionId, MapperLink>,
    /// By their media.
    sources: BTreeMap<PoolId, Source>,
    target: Arc<dyn Backing>,
    object: OwnedFd,
    verify: bool,
    /// What went wrong here first.
    failed: Option<Stuck>,
}

impl Inner {
    /// Moves a segment of a file under its mappers. Returns the bytes moved, and why not all if so.
    pub(super) fn move_live(self: &Inner, order: &Order<'_>, prepared: Prepared) -> (u64, Option<Stuck>) {
        // What is frozen waits for this thread.
        let _ = codax_os::process::run_soon();
        let chunks = prepared.chunks.clone();
        let (to, target_exists) = (prepared.to, prepared.target_exists);
        let mut drive = match self.begin_live(order, prepared) {
            Ok(drive) => drive,
            Err(e) => {
                let mut st = self.lock();
                let unused: Vec<Extent> = chunks.iter().flat_map(|c| c.extents(to)).collect();
                self.discard_copies(&mut st, order.file, to, target_exists, &unused);
                self.end_busy(&mut st, order.file);
                return (0, Some(e.into()));
            }
        };
        let ended = self.drive(&mut drive, Some(order));
        let bytes = drive.committed_bytes();
        let mut stuck = self.why_stuck(order, &mut drive);
        if ended == Ended::Unfinished {
            let holders = drive.late_holders();
            self.finish_later(drive);
            return (bytes, Some(Stuck::Held(holders)));
        }
        if let Err(e) = self.finish_live(drive) {
            stuck = Some(Stuck::Failed(e));
        }
        (bytes, stuck)
    }

    fn why_stuck(&self, order: &Order<'_>, drive: &mut Drive) -> Option<Stuck> {
        let failures = drive.segment.failures();
        if failures.is_empty() {
            return order.job.cancelled().then_some(Stuck::Cancelled);
        }
        if let Some(own) = failures.iter().find(|f| f.session.is_none()) {
            let own = || Stuck::Failed(Error::internal(own.why.clone()));
            return Some(drive.failed.take().unwrap_or_else(own));
        }
        let holders = failures
            .iter()
            .filter_map(|f| {
                let link = drive.mappers.get(&f.session?)?;
                Some(Holder { why: f.why.clone(), ..link.holder.clone() })
            })
            .collect();
        Some(Stuck::Held(holders))
    }

    /// Opens what the segment needs and writes its begin to the journal.
    fn begin_live(&self, order: &Order<'_>, prepared: Prepared) -> Result<Drive> {
        let (file, len) = (order.file, prepared.inode.len);
        let (backings, target) = {
            let st = self.lock();
            let backings: BTreeMap<PoolId, Arc<dyn Backing>> =
                prepared.sources().into_iter().map(|p| (p, st.pool(p).backing.clone())).collect();
            (backings, st.pool(prepared.to).backing.clone())
        };
        let object =
            if prepared.target_exists { target.open(file, true)? } else { target.create(file, len)? };
        target.bind(file, &prepared.new_extents(&prepared.chunks))?;
        let mut sources = BTreeMap::new();
        for (pool, backing) in backings {
            let object = backing.open(file, false)?;
            let map = backing.source(file, object.as_fd(), len)?;
            sources.insert(pool, Source { map, object, backing });
        }
        let pages: Vec<PageRange> = prepared.chunks.iter().map(Chunk::target_pages).collect();
        let device = target.on_device(file, &pages);
        let (sender, inputs) = mpsc::channel();
        let mut st = self.lock();
        // Mappers know objects, and not which pools have pages in one.
        let medium = prepared.media.of(prepared.to);
        let to = Target { pool: medium, persistent: st.pool(prepared.to).record.persistent, device };
        let record = self.begin_in_journal(&mut st, order, &prepared)?;
        let (id, slot) = (record.id, record.slot);
        let mut mappers = BTreeMap::new();
        for (&session, entry) in st.live.get(&file).map(|l| &l.mappers).into_iter().flatten() {
            // Gone between two locks: its `Gone` would come before the segment is known.
            let Some(s) = st.sessions.get(&session) else { continue };
            let link =
                MapperLink { mapper: s.mapper.clone(), write: entry.write, holder: s.holder("maps it") };
            mappers.insert(session, link);
        }
        st.segments.insert(id, SegmentEntry { slot, to_driver: Some(sender), stragglers: BTreeSet::new() });
        drop(st);
        self.env.reached("move:begin");
        let closed = |medium| sources.get(&medium).is_some_and(|s: &Source| s.backing.is_closed_to_freeze());
        let part = |c: &Chunk| Part { pages: c.pages, closed: closed(prepared.media.of(c.from)) };
        let parts: Vec<Part> = prepared.chunks.iter().map(part).collect();
        let segment = Segment::new(id, slot, file, to, &parts, mappers.keys().copied(), READY_AT_ONCE);
        Ok(Drive {
            segment,
            record,
            prepared,
            inputs,
            mappers,
            sources,
            target,
            object,
            verify: order.verify,
            failed: None,
        })
    }

    /// Carries out actions and takes answers until the segment is over. Without an order (later, in the background) there is no time limit.
    fn drive(&self, d: &mut Drive, order: Option<&Order<'_>>) -> Ended {
        let timeout = self.options().ack_timeout;
        let mut deadline = self.env.now() + timeout;
        let mut late = false;
        let mut awaited = d.segment.waiting_for();
        loop {
            while let Some(action) = d.segment.next_action() {
                self.carry_out(d, action, order);
                // Who is asked now was not asked before.
                deadline = self.env.now() + timeout;
            }
            if d.segment.done() {
                return Ended::Done;
            }
            if order.is_some_and(|o| o.job.cancelled()) || d.prepared.preempt.load(Ordering::Relaxed) {
                d.segment.stop();
                if d.segment.done() {
                    continue;
                }
            }
            let input = match order {
                None => d.inputs.recv().ok(),
                Some(_) => {
                    let left = deadline.saturating_sub(self.env.now());
                    match self.next_input(&d.inputs, left.max(Duration::from_millis(1))) {
                        Ok(input) => Some(input),
                        Err(RecvTimeoutError::Disconnected) => None,
                        Err(RecvTimeoutError::Timeout) if late => return self.leave(d, order),
                        Err(RecvTimeoutError::Timeout) => {
                            late = true;
                            d.segment.late(&format!("has not answered for {:.1} s", timeout.as_secs_f64()));
                            deadline = self.env.now() + timeout;
                            continue;
                        }
                    }
                }
            };
            match input {
                // No part of this, and no answer either.
                Some(Input::Gone(session) | Input::Ack(session, _)) if !d.mappers.contains_key(&session) => {
                    continue;
                }
                Some(Input::Barrier(reached)) => {
                    // Who waits for it has given up only if its thread has died.
                    let _ = reached.send(());
                    continue;
                }
                Some(input) => take(&mut d.segment, input),
                // The store is gone with all its sessions; nothing is left to drive.
                None => return Ended::Left,
            }
            // Only an answer that was waited for is a sign of life.
            let waiting = d.segment.waiting_for();
            if waiting != awaited {
                deadline = self.env.now() + timeout;
                awaited = waiting;
            }
        }
    }

    /// Leaves a segment to the background, if it is far enough for that.
    fn leave(&self, d: &mut Drive, order: Option<&Order<'_>>) -> Ended {
        if !d.segment.can_be_left() {
            return Ended::Unfinished;
        }
        d.segment.leave();
        while let Some(action) = d.segment.next_action() {
            self.carry_out(d, action, order);
        }
        Ended::Left
    }

    /// The next input. Looks for it for a moment before it sleeps: most answers take some tens of microseconds, and what is frozen waits for
    /// this thread to be woken again.
    fn next_input(
        &self,
        inputs: &Receiver<Input>,
        left: Duration,
    ) -> std::result::Result<Input, RecvTimeoutError> {
        let until = self.env.now() + SPIN_MAX;
        while self.env.now() < until {
            match inputs.try_recv() {
                Ok(input) => return Ok(input),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => std::thread::yield_now(),
            }
        }
        inputs.recv_timeout(left)
    }

    fn carry_out(&self, d: &mut Drive, action: Action, order: Option<&Order<'_>>) {
        match action {
            Action::Send(session, message) => {
                if matches!(message, MoverMsg::Freeze { .. }) && d.mappers.keys().next() == Some(&session) {
                    self.env.reached("move:freeze");
                }
                self.send(d, session, &message);
            }
            Action::MakeReady(first, count) => {
                for chunk in first..first + count {
                    let pages = d.record.chunks[chunk as usize].target_pages();
                    if let Some(order) = order {
                        order.pace.wait(pages.bytes(), &*self.env);
                    }
                    d.target.make_ready(d.object.as_fd(), pages);
                }
            }
            Action::Copy(chunk) => {
                let result = self.copy_chunk(d, chunk, order);
                self.env.reached("move:copied");
                d.segment.copied(chunk, result.as_ref().map(|_| ()).map_err(Stuck::to_string));
                d.failed = d.failed.take().or(result.err());
            }
            Action::Commit(count) => {
                self.env.reached("move:held");
                if let Err(e) = self.commit_chunk(d, count) {
                    // Mappers are about to switch to what the journal may not say. They settle alone, by the word, when this process is gone.
                    tracing::error!("commit of a chunk: {e}");
                    std::process::abort();
                }
                if let Some(order) = order {
                    let bytes = moved_bytes(&d.record.chunks[count as usize - 1], d.prepared.inode.len);
                    order.job.update(|j| j.done += bytes);
                }
                self.env.reached("move:committed");
            }
        }
    }

    fn send(&self, d: &Drive, session: SessionId, message: &MoverMsg) {
        let Some(link) = d.mappers.get(&session) else { return };
        let Some(mapper) = &link.mapper else { return };
        let backing = match message {
            MoverMsg::Begin { device: Some(_), .. } => None,
            MoverMsg::Begin { .. } => Some(&d.target),
            MoverMsg::Freeze { chunk, .. } => {
                let from = d.record.chunks.get(*chunk as usize).map(|chunk| d.prepared.media.of(chunk.from));
                let source = from.and_then(|medium| d.sources.get(&medium));
                source.map(|source| &source.backing).filter(|backing| backing.is_never_duplicated())
            }
            _ => None,
        };
        // Without the descriptor the mapper refuses, and says so.
        let fd = backing.and_then(|backing| {
            let opened = backing.open(d.record.file, link.write);
            opened.inspect_err(|e| tracing::error!("open an object for a mapper: {e}")).ok()
        });
        if let Err(e) = mapper.send(message, fd.as_ref().map(AsFd::as_fd)) {
            // It will be gone, or late.
            tracing::warn!("mapper {}: {e}", link.holder.pid.unwrap_or(0));
        }
    }

    fn copy_chunk(&self, d: &Drive, chunk: u32, order: Option<&Order<'_>>) -> std::result::Result<(), Stuck> {
        let chunk = &d.record.chunks[chunk as usize];
        let old = d.prepared.old_extents(std::slice::from_ref(chunk));
        self.write_back(order.map(|o| o.job), &[(d.record.file, old)])?;
        Ok(self.copy_written_back(d, chunk)?)
    }

    /// Copies a chunk of which nobody has anything in his hands.
    fn copy_written_back(&self, d: &Drive, chunk: &Chunk) -> Result<()> {
        let source = d.sources.get(&d.prepared.media.of(chunk.from));
        let source = source.ok_or_else(|| Error::internal("a chunk from a pool that is not mapped"))?;
        let (at, end) = bytes_of(chunk, d.prepared.inode.len);
        d.target.before_write(d.object.as_fd(), PageRange::of_bytes(at, end - at))?;
        let copied = d.target.copy(&source.map, at, end - at, d.object.as_fd())?;
        if copied < end - at {
            return Err(Error::lost(format!(
                "#{}: its object could be read for {copied} bytes of {} at {at}: it was cut by who may write it, or its memory is poisoned",
                d.record.file,
                end - at
            )));
        }
        d.target.confirm(d.object.as_fd(), PageRange::of_bytes(at, end - at))?;
        d.target.persist(d.object.as_fd(), PageRange::of_bytes(at, end - at))?;
        let (from, to) = ((&*source.backing, source.object.as_fd()), (&*d.target, d.object.as_fd()));
        if d.verify && !same_bytes(from, to, (at, end))? {
            return Err(Error::corrupt(format!("#{}: a copied chunk read back differently", d.record.file)));
        }
        Ok(())
    }

    /// The instant of commit, and what memory says of it.
    fn commit_chunk(&self, d: &Drive, count: u32) -> Result<()> {
        let mut st = self.lock();
        let chunk = &d.record.chunks[count as usize - 1..count as usize];
        let (old, new) = (d.prepared.old_extents(chunk), d.prepared.new_extents(chunk));
        let moved = st.ns.get(d.record.file).map(|now| relocated(now, &new, d.record.home));
        let moved = moved.map(|inode| Change::Put(Box::new(inode)));
        if let Some(moved) = &moved {
            // First, since what programs make durable in the new place has to be found there; until the word is written both places hold the same.
            if let Err(e) = self.record(&mut st, std::slice::from_ref(moved)) {
                tracing::error!(
                    "{}: what it is by now does not outlive the power: {e}",
                    st.path(d.record.file)
                );
                self.event("lost", &st.path(d.record.file), &format!("its catalog can't be written: {e}"), 0);
            }
        }
        self.journal.words().commit(d.record.slot, d.record.id, count)?;
        if let Some(moved) = &moved {
            st.ns.apply(moved)?;
        }
        st.own_moved(d.record.file, &new);
        for e in &old {
            let run = FrameRun { frame: e.frame, count: e.count };
            st.pool_mut(e.pool).table.assign(run, d.record.file, e.page, FrameState::Held);
        }
        Ok(())
    }

    /// The segment is over for the file: the journal gets its inode, frames that are not needed go back.
    fn finish_live(&self, mut d: Drive) -> Result<()> {
        let committed = d.segment.committed() as usize;
        let (moved, rest) = d.record.chunks.split_at(committed);
        let (old, unused) = (d.prepared.old_extents(moved), d.prepared.new_extents(rest));
        let target_in_use = d.prepared.target_exists || committed > 0;
        let (file, to, id) = (d.record.file, d.prepared.to, d.record.id);
        // Our own mappings and descriptors would count as holders.
        drop(d.sources);
        // What fails here fails the move, and nothing of what follows may be left out for it.
        let kept = match target_in_use {
            false => Ok(()),
            true => (d.prepared.keep_holes(&*d.target, d.object.as_fd()))
                .and_then(|()| d.target.lock(file, d.object.as_fd(), &d.prepared.in_target(committed))),
        };
        drop(d.object);
        let stale = self.write_back(None, &[(file, old.clone())]).is_err();

        let mut st = self.lock();
        let mut changes: Vec<Change> = Vec::new();
        changes.extend(st.ns.get(file).map(|inode| Change::Put(Box::new(inode.clone()))));
        changes.push(Change::MoveEnd(id));
        let result = self.commit(&mut st, &changes);
        if result.is_err() {
            // The journal goes by the commit word still.
            st.quarantine.insert(d.record.slot);
        }
        for chunk in &d.record.chunks {
            st.flag(file, chunk.pages, codax_core::frame::FrameFlags::MOVING, false);
        }
        self.discard_copies(&mut st, file, to, target_in_use, &unused);
        if stale {
            st.keep_stale(file, &old);
        }
        if !old.is_empty() {
            self.give_back(&mut st, file, old);
        }
        // Nobody sends while this thread has the state.
        while let Ok(input) = d.inputs.try_recv() {
            take(&mut d.segment, input);
        }
        let stragglers = d.segment.waiting_for();
        if stragglers.is_empty() {
            st.segments.remove(&id);
        } else if let Some(entry) = st.segments.get_mut(&id) {
            entry.to_driver = None;
            entry.stragglers = stragglers;
        }
        self.end_busy(&mut st, file);
        result.and(kept)
    }

    /// A mapper that has not switched a committed chunk, and doesn't hold it either: the file waits for it, this thread doesn't.
    fn finish_later(&self, mut d: Drive) {
        let Some(inner) = self.myself() else { return };
        self.env.spawn(
            "segment",
            Box::new(move || {
                inner.drive(&mut d, None);
                if let Err(e) = inner.finish_live(d) {
                    tracing::error!("end of a move: {e}");
                }
            }),
        );
    }
}

fn take(segment: &mut Segment, input: Input) {
    match input {
        Input::Ack(session, ack) => segment.acked(session, ack.step, ack.mappings, ack.refused),
        Input::Gone(session) => segment.gone(session),
        Input::Barrier(reached) => drop(reached),
    }
}

impl Drive {
    fn committed_bytes(&self) -> u64 {
        let committed = self.record.chunks.iter().take(self.segment.committed() as usize);
        committed.map(|chunk| moved_bytes(chunk, self.prepared.inode.len)).sum()
    }

    fn late_holders(&self) -> Vec<Holder> {
        let late = self.segment.waiting_for();
        let why = "has not switched to the file's new place yet";
        late.iter()
            .filter_map(|s| self.mappers.get(s))
            .map(|link| Holder { why: why.into(), ..link.holder.clone() })
            .collect()
    }
}

/// For logs.
impl std::fmt::Debug for Drive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (id, file): (MoveId, FileId) = (self.record.id, self.record.file);
        write!(f, "Drive {{ id: {id}, file: {file} }}")
    }
}
