//! The machine that orders a live move: which mapper is told what, when a chunk is copied, and when it is committed.
//!
//! Pure: it takes what happened and gives back [`Action`]s, which its driver carries out in order. What it guarantees, whatever the
//! order of answers, deaths and refusals:
//!
//! * a chunk is copied only after every mapper has frozen it;
//! * a chunk is committed only after it was copied and, where the file has more than one mapping, every mapper holds it;
//! * chunks are committed in order, and what is not committed is rolled back everywhere;
//! * a chunk is switched only after it is committed.

use crate::live::{MoverMsg, Step};
use crate::request::OnDevice;
use crate::{FileId, MoveId, PageRange, PoolId, SessionId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Chunks that are frozen and not committed yet, at most: while one is copied the next is being frozen.
const UNCOMMITTED_MAX: usize = 2;

/// Chunks in flight at most, switching ones included, so that a slow mapper holds up the mover and not its own queue.
const IN_FLIGHT_MAX: usize = 4;

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a message to a mapper. [`MoverMsg::Begin`] goes with a descriptor of the target object, if that is one.
    Send(SessionId, MoverMsg),
    /// Make ready what these chunks, so many from the first, are to be copied to. Nothing is frozen meanwhile.
    MakeReady(u32, u32),
    /// Copy this chunk into the target, then call [`Segment::copied`].
    Copy(u32),
    /// The first so many chunks are committed: set the commit word. Can't fail.
    Commit(u32),
}

/// Where a segment moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The pool, or the one that stands for its medium.
    pub pool: PoolId,
    /// Whether it outlives the power.
    pub persistent: bool,
    /// Where all the chunks will be, if it is a device.
    pub device: Option<OnDevice>,
}

/// A chunk of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its pages.
    pub pages: PageRange,
    /// Whether the kernel can't write-protect where it lies.
    pub closed: bool,
}

/// A mapper that kept a segment from being done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Who, if it was a mapper.
    pub session: Option<SessionId>,
    /// Why, as a clause.
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Beginning,
    Running,
    Ending,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Freezing,
    Frozen,
    Copying,
    Holding,
    Switching,
    RollingBack,
}

#[derive(Clone, Debug)]
struct InFlight {
    chunk: u32,
    stage: Stage,
    waiting: BTreeSet<SessionId>,
}

/// One segment of a live move.
#[derive(Clone, Debug)]
pub struct Segment {
    id: MoveId,
    chunks: u32,
    /// Of each chunk, whether the kernel can't write-protect where it lies.
    closed: Vec<bool>,
    /// Mappings each mapper said it has.
    mappers: BTreeMap<SessionId, u32>,
    phase: Phase,
    /// Who has not acknowledged `Begin` or `End` yet.
    waiting: BTreeSet<SessionId>,
    /// Next chunk to be frozen.
    next: u32,
    /// Chunks up to here were made ready, `batch` at a time.
    ready: u32,
    batch: u32,
    flight: VecDeque<InFlight>,
    committed: u32,
    stopping: bool,
    failures: Vec<Failure>,
    actions: VecDeque<Action>,
}

impl Segment {
    /// A segment over `chunks` of `file`; the first actions tell `mappers` to begin. `batch` chunks are made ready at
    /// a time, and a chunk is frozen while the one before it in its batch is copied.
    #[must_use]
    pub fn new(
        id: MoveId,
        slot: u16,
        file: FileId,
        to: Target,
        chunks: &[Part],
        mappers: impl IntoIterator<Item = SessionId>,
        batch: u32,
    ) -> Self {
        let mappers: BTreeMap<_, _> = mappers.into_iter().map(|session| (session, 0)).collect();
        let count = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        let closed = chunks.iter().map(|part| part.closed).collect();
        let chunks = chunks.iter().map(|part| part.pages).collect();
        let Target { pool: to, persistent, device } = to;
        let begin = MoverMsg::Begin { id, slot, file, to, chunks, persistent, device };
        let mut segment = Self {
            id,
            chunks: count,
            closed,
            waiting: mappers.keys().copied().collect(),
            actions: mappers.keys().map(|&session| Action::Send(session, begin.clone())).collect(),
            mappers,
            phase: Phase::Beginning,
            next: 0,
            ready: 0,
            batch: batch.max(1),
            flight: VecDeque::new(),
            committed: 0,
            stopping: false,
            failures: Vec::new(),
        };
        segment.settle();
        segment
    }

    /// The next thing to do, if there is one.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Chunks committed so far.
    #[must_use]
    pub fn committed(&self) -> u32 {
        self.committed
    }

    /// Whether everybody has acknowledged the end.
    #[must_use]
    pub fn done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// What kept it from being done in full.
    #[must_use]
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// Who has to answer before it goes on.
    #[must_use]
    pub fn waiting_for(&self) -> BTreeSet<SessionId> {
        let mut all = self.waiting.clone();
        all.extend(self.flight.iter().flat_map(|f| f.waiting.iter().copied()));
        all
    }

    /// Whether the file may be given to others although some mappers have not answered: nothing more will be committed, and what they
    /// have not switched yet they hold, so that they can't read what is stale. (With a single mapping, hold was left out.)
    #[must_use]
    pub fn can_be_left(&self) -> bool {
        self.stopping
            && self.actions.is_empty()
            && self.flight.iter().all(|f| match f.stage {
                Stage::RollingBack => true,
                Stage::Switching => !self.single(),
                _ => false,
            })
    }

    /// Ends it without those who have not answered, if it [can be left](Self::can_be_left): everybody is told, and the late ones find that
    /// behind what they have yet to do. Who has not acknowledged the end is in [`Self::waiting_for`].
    pub fn leave(&mut self) {
        if self.phase == Phase::Running && self.can_be_left() {
            self.flight.clear();
            self.waiting = self.tell_all(&MoverMsg::End { id: self.id });
            self.phase = Phase::Ending;
        }
    }

    /// A mapper's answer.
    pub fn acked(&mut self, session: SessionId, step: Step, mappings: u32, refused: Option<String>) {
        if !self.waiting_for().contains(&session) {
            return;
        }
        match step {
            Step::Begin if self.phase == Phase::Beginning && self.waiting.remove(&session) => {
                self.mappers.insert(session, mappings);
            }
            Step::End if self.phase == Phase::Ending => {
                self.waiting.remove(&session);
            }
            Step::Begin | Step::End => {}
            Step::Freeze(chunk) => self.chunk_acked(session, chunk, Stage::Freezing),
            Step::Hold(chunk) => self.chunk_acked(session, chunk, Stage::Holding),
            Step::Switch(chunk) => self.chunk_acked(session, chunk, Stage::Switching),
            Step::Rollback(chunk) => self.chunk_acked(session, chunk, Stage::RollingBack),
        }
        let undoable = matches!(step, Step::Begin | Step::Freeze(_) | Step::Hold(_));
        if let (Some(why), true) = (refused, undoable) {
            self.failures.push(Failure { session: Some(session), why });
            self.roll_back();
        }
        self.settle();
    }

    /// A session is over. Its process may live on and keep its mappings, which nobody can tell to switch any more: so nothing is committed that it
    /// has not held, and the segment ends.
    pub fn gone(&mut self, session: SessionId) {
        if self.mappers.remove(&session).is_none() {
            // It has no part in this.
            return;
        }
        self.waiting.remove(&session);
        for f in &mut self.flight {
            f.waiting.remove(&session);
        }
        self.roll_back();
        self.settle();
    }

    /// The copy of a chunk is there, or could not be made.
    pub fn copied(&mut self, chunk: u32, result: Result<(), String>) {
        if let Err(why) = result {
            self.failures.push(Failure { session: None, why });
            self.roll_back();
        } else if let Some(at) =
            self.flight.iter().position(|f| f.chunk == chunk && f.stage == Stage::Copying)
        {
            // With one mapping in all there is nobody who could read the old bytes after a new value is seen: the switch of that mapping
            // is one step for all threads of its process.
            let waiting = if self.single() { BTreeSet::new() } else { self.everybody() };
            let hold = MoverMsg::Hold { id: self.id, chunk };
            for &session in &waiting {
                self.actions.push_back(Action::Send(session, hold.clone()));
            }
            self.flight[at].stage = Stage::Holding;
            self.flight[at].waiting = waiting;
        }
        self.settle();
    }

    /// No further chunks: what is in flight is brought to its end, then the segment ends.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.settle();
    }

    /// Those it waits for have not answered in time: what is not committed is rolled back, and the segment ends.
    pub fn late(&mut self, why: &str) {
        let late = self.waiting_for();
        self.failures.extend(late.iter().map(|&s| Failure { session: Some(s), why: why.to_owned() }));
        self.roll_back();
        if self.phase == Phase::Beginning {
            self.waiting.clear();
        }
        self.settle();
    }

    fn single(&self) -> bool {
        self.mappers.values().map(|&n| u64::from(n.max(1))).sum::<u64>() <= 1
    }

    fn everybody(&self) -> BTreeSet<SessionId> {
        self.mappers.keys().copied().collect()
    }

    fn tell_all(&mut self, message: &MoverMsg) -> BTreeSet<SessionId> {
        let all = self.everybody();
        self.actions.extend(all.iter().map(|&session| Action::Send(session, message.clone())));
        all
    }

    fn chunk_acked(&mut self, session: SessionId, chunk: u32, stage: Stage) {
        if let Some(f) = self.flight.iter_mut().find(|f| f.chunk == chunk && f.stage == stage) {
            f.waiting.remove(&session);
        }
    }

    fn roll_back(&mut self) {
        self.stopping = true;
        for at in 0..self.flight.len() {
            if matches!(self.flight[at].stage, Stage::Switching | Stage::RollingBack) {
                continue;
            }
            let chunk = self.flight[at].chunk;
            self.actions.retain(|action| *action != Action::Copy(chunk));
            let waiting = self.tell_all(&MoverMsg::Rollback { id: self.id, chunk });
            self.flight[at].stage = Stage::RollingBack;
            self.flight[at].waiting = waiting;
        }
    }

    /// Takes every step that is due.
    fn settle(&mut self) {
        if self.phase == Phase::Beginning && self.waiting.is_empty() {
            self.phase = Phase::Running;
        }
        if self.phase == Phase::Running {
            self.advance_flight();
            self.make_ready();
            self.freeze_next();
            self.copy_next();
            if self.flight.is_empty() && (self.stopping || self.next == self.chunks) {
                self.waiting = self.tell_all(&MoverMsg::End { id: self.id });
                self.phase = Phase::Ending;
            }
        }
        if self.phase == Phase::Ending && self.waiting.is_empty() {
            self.phase = Phase::Done;
        }
    }

    fn advance_flight(&mut self) {
        for at in 0..self.flight.len() {
            if !self.flight[at].waiting.is_empty() {
                continue;
            }
            match self.flight[at].stage {
                Stage::Freezing => self.flight[at].stage = Stage::Frozen,
                Stage::Holding if self.flight[at].chunk == self.committed => {
                    let chunk = self.flight[at].chunk;
                    self.committed += 1;
                    self.actions.push_back(Action::Commit(self.committed));
                    self.flight[at].stage = Stage::Switching;
                    self.flight[at].waiting = self.tell_all(&MoverMsg::Switch { id: self.id, chunk });
                }
                _ => {}
            }
        }
        self.flight
            .retain(|f| !(f.waiting.is_empty() && matches!(f.stage, Stage::Switching | Stage::RollingBack)));
    }

    /// Between two batches, when nothing is frozen: to clear new memory takes as long as the copy, and now and then much longer.
    fn make_ready(&mut self) {
        if self.flight.is_empty() && !self.stopping && self.next == self.ready && self.ready < self.chunks {
            let count = self.batch.min(self.chunks - self.ready);
            self.actions.push_back(Action::MakeReady(self.ready, count));
            self.ready += count;
        }
    }

    /// Freezes one chunk ahead of the one that is copied, so that the copying doesn't wait for answers.
    fn freeze_next(&mut self) {
        let uncommitted = self.flight.iter().filter(|f| f.stage != Stage::Switching).count();
        let one_is_on_its_way = self.flight.iter().any(|f| f.stage == Stage::Freezing);
        if self.stopping
            || one_is_on_its_way
            || self.next == self.ready
            || uncommitted >= UNCOMMITTED_MAX
            || self.flight.len() >= IN_FLIGHT_MAX
        {
            return;
        }
        let chunk = self.next;
        self.next += 1;
        let closed = self.closed.get(chunk as usize).copied().unwrap_or(false);
        let waiting = self.tell_all(&MoverMsg::Freeze { id: self.id, chunk, closed });
        let stage = if waiting.is_empty() { Stage::Frozen } else { Stage::Freezing };
        self.flight.push_back(InFlight { chunk, stage, waiting });
    }

    fn copy_next(&mut self) {
        if self.flight.iter().any(|f| f.stage == Stage::Copying) {
            return;
        }
        let Some(f) = self.flight.iter_mut().find(|f| f.stage == Stage::Frozen) else { return };
        f.stage = Stage::Copying;
        let chunk = f.chunk;
        // The next one's freeze overlaps with this copy: the driver must send it before.
        self.freeze_next();
        self.actions.push_back(Action::Copy(chunk));
    }
}
