//! The consumer's end of a ring.
//!
//! Nothing in the memory is relied on: where the consumer is, and what it has begun, it knows by itself; a descriptor
//! is copied once, and a slot that is in none of the two states that it can be in closes the ring as
//! [corrupt](Reason::Corrupt). What a submitter can do by scribbling is to submit any descriptors, and to keep the
//! consumer from sleeping.
#![forbid(unsafe_code)]

use super::core::{Closed, Core, Patience, Reason};
use super::ends::{Claim, End};
use super::layout::{ASLEEP, CANCEL, Completion, Descriptor};
use super::place::Place;
use super::shared::{Mapped, Shared, Word};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// What the consumer has in its word while it sleeps.
pub(super) const SLEEPS: u32 = 1;

/// Completions whose waiters are woken later, at most.
const OWED_MAX: usize = 64;

/// The end that carries requests out. When it is dropped the ring is [closed](Reason::Left).
#[derive(Debug)]
pub struct Consumer<S: Shared = Mapped> {
    core: Claim<S>,
    /// The next position.
    next: u64,
    /// All before are complete.
    oldest: u64,
    /// Of each slot, whether its position from `oldest` on is complete.
    done: Box<[bool]>,
    /// Positions from `next` on that are complete, since somebody [attended](super::Attendant) the ring before this one came.
    holes: Vec<u64>,
    /// The last one taken: a fence that can't begin yet.
    held: Option<Request>,
    /// Complete, and nobody was woken yet.
    owed: Vec<u64>,
    /// How often something was cancelled, as far as is known here.
    cancels: u32,
    patience: Patience,
}

/// A request that was taken, to be given back with its completion. What is dropped never completes.
#[derive(Debug)]
#[must_use = "its submitter waits for its completion"]
pub struct Request {
    position: u64,
    ring: u64,
    /// The descriptor as it came, since most of the way it is only handed on.
    words: [u64; 7],
}

/// Where a consumer was when it was [suspended](Consumer::suspend): what another needs to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The next position.
    pub next: u64,
    /// What was begun and is not complete: positions and descriptors.
    pub begun: Vec<(u64, Descriptor)>,
}

impl Request {
    /// What it asks for, by the submitter's word.
    #[inline]
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::decode(self.words)
    }

    /// How many were submitted before it.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }
}

impl<S: Shared> Consumer<S> {
    pub(super) fn new(core: Arc<Core<S>>, patience: Patience) -> io::Result<Self> {
        let core = Claim::new(core, End::Consumer)?;
        let place = Place::find(&core, None)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, core.close(Reason::Corrupt)))?;
        Ok(Self::at(core, patience, place))
    }

    /// As [`Ring::resume`](super::Ring::resume).
    pub(super) fn resume(
        core: Arc<Core<S>>,
        patience: Patience,
        progress: &Progress,
    ) -> io::Result<(Self, Vec<Request>)> {
        let mut core = Claim::new(core, End::Consumer)?;
        let Some(place) = Place::find(&core, Some(progress)) else {
            core.passes_on();
            let what = "the queue is not where its saved state says, or not that queue";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        };
        let request = |(position, descriptor): &(u64, Descriptor)| Request {
            position: *position,
            ring: core.id,
            words: descriptor.encode(),
        };
        let begun = place.begun.iter().map(request).collect();
        Ok((Self::at(core, patience, place), begun))
    }

    fn at(core: Claim<S>, patience: Patience, place: Place) -> Self {
        let Place { oldest, next, holes, begun } = place;
        let mut done: Box<[bool]> = (0..core.laps.slots()).map(|_| false).collect();
        (oldest..next).for_each(|position| done[core.laps.slot(position)] = true);
        begun.iter().for_each(|(position, _)| done[core.laps.slot(*position)] = false);
        let owed = Vec::with_capacity(OWED_MAX);
        Self { core, next, oldest, done, holes, held: None, owed, cancels: 0, patience }
    }

    /// Gives the end back without closing the ring, for another consumer to [go on](super::Ring::resume): in another
    /// process, after a reset. Submitters wait meanwhile. `begun` is what was taken and is not complete.
    ///
    /// # Panics
    ///
    /// If a request is another ring's.
    #[must_use = "without it nobody can go on"]
    pub fn suspend(mut self, begun: Vec<Request>) -> Progress {
        self.wake();
        // A fence that has not begun is taken again.
        let next = self.held.as_ref().map_or(self.next, Request::position);
        let begun = begun.into_iter().map(|request| {
            self.own(&request);
            (request.position, request.descriptor())
        });
        let begun = begun.collect();
        self.core.passes_on();
        Progress { next, begun }
    }

    /// The next request in the order of submission, if it can begin: if it has [`Descriptor::FENCE`], when all that
    /// were taken before it are complete. Cancelled ones are completed on the way.
    #[inline]
    pub fn try_next(&mut self) -> Result<Option<Request>, Closed> {
        self.core.open()?;
        // As many as there can be at a time: a submitter that goes on and on doesn't keep us here.
        for _ in 0..self.core.laps.slots() {
            let request = if self.held.is_some() { self.held.take() } else { self.take()? };
            let Some(request) = request else { break };
            if self.asked(request.position) & CANCEL != 0 {
                self.post(request, &Completion::cancelled());
            } else if request.descriptor().flags & Descriptor::FENCE != 0 && self.oldest < request.position {
                self.held = Some(request);
                break;
            } else {
                return Ok(Some(request));
            }
        }
        self.wake();
        Ok(None)
    }

    /// As [`Self::try_next`], but waits: looks for a while, then sleeps. `None` when the deadline has passed, when
    /// something begun was cancelled, when the next is a fence that waits for what was begun, and now and then for no
    /// reason.
    #[inline]
    pub fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Request>, Closed> {
        self.next_with(deadline, || ())
    }

    /// As [`Self::next`]; before it sleeps, if it does, it does this: gives back what only who is awake may have.
    #[inline]
    pub fn next_with(
        &mut self,
        deadline: Option<Instant>,
        before_sleep: impl FnOnce(),
    ) -> Result<Option<Request>, Closed> {
        self.wake();
        for _ in 0..self.patience.looks() {
            if self.is_ready() {
                return self.try_next();
            }
            std::hint::spin_loop();
        }
        before_sleep();
        let begun = Instant::now();
        let found = self.sleep(deadline);
        self.patience.slept(begun);
        found
    }

    /// Whether [`Self::look`] would find something; without the request, which is moved about once then and not with every look.
    #[inline]
    fn is_ready(&mut self) -> bool {
        let (core, position) = (&*self.core, self.next);
        let full = position - self.oldest == core.laps.slots();
        let nothing = full || core.slot(position).state.load(Ordering::Relaxed) == core.laps.vacant(position);
        !nothing || self.held.is_some() || core.open().is_err() || self.hears_of_cancels()
    }

    /// What [`Self::next`] returns, if it is time to.
    fn look(&mut self) -> Option<Result<Option<Request>, Closed>> {
        let found = self.try_next();
        let nothing = matches!(found, Ok(None)) && self.held.is_none() && !self.hears_of_cancels();
        (!nothing).then_some(found)
    }

    /// Whether something was cancelled since the last time.
    #[inline]
    fn hears_of_cancels(&mut self) -> bool {
        // Acquire: what was counted is seen by `is_cancelled`.
        let cancels = self.core.shared.header().cancels.load(Ordering::Acquire);
        std::mem::replace(&mut self.cancels, cancels) != cancels
    }

    #[cold]
    fn sleep(&mut self, deadline: Option<Instant>) -> Result<Option<Request>, Closed> {
        let core = self.core.share();
        let word = &core.shared.header().consumer_sleeps;
        word.store(SLEEPS, Ordering::Relaxed);
        let found = core.sleep(word, SLEEPS, deadline, || {
            // Acquire: what was submitted before somebody took the word away is seen by the look after it.
            let woken = word.load(Ordering::Acquire) != SLEEPS;
            self.look().or_else(|| woken.then_some(Ok(None)))
        });
        word.store(0, Ordering::Relaxed);
        found.unwrap_or(Ok(None))
    }

    /// Takes the descriptor of the next position, if it was submitted.
    #[inline]
    fn take(&mut self) -> Result<Option<Request>, Closed> {
        loop {
            let (core, position) = (&*self.core, self.next);
            if position - self.oldest == core.laps.slots() {
                return Ok(None);
            }
            let slot = core.slot(position);
            let state = slot.state.load(Ordering::Acquire);
            if state == core.laps.vacant(position) {
                return Ok(None);
            }
            if state == core.laps.submitted(position) {
                let words = std::array::from_fn(|i| slot.words[i].load(Ordering::Relaxed));
                let request = Request { position, ring: core.id, words };
                self.next += 1;
                return Ok(Some(request));
            }
            self.skip()?;
        }
    }

    /// Passes over the next position, whose slot is neither free nor submitted, if it was complete before.
    #[cold]
    fn skip(&mut self) -> Result<(), Closed> {
        let hole = self.holes.iter().position(|hole| *hole == self.next);
        self.holes.swap_remove(hole.ok_or_else(|| self.core.close(Reason::Corrupt))?);
        self.next += 1;
        self.is_done(self.next - 1);
        Ok(())
    }

    #[inline]
    fn is_done(&mut self, position: u64) {
        let laps = self.core.laps;
        self.done[laps.slot(position)] = true;
        while self.oldest < self.next && std::mem::take(&mut self.done[laps.slot(self.oldest)]) {
            self.oldest += 1;
        }
    }

    /// Completes a request, and wakes who waits for it. They may be completed in any order.
    ///
    /// # Panics
    ///
    /// If the request is another ring's.
    #[inline]
    pub fn complete(&mut self, request: Request, completion: &Completion) {
        self.post(request, completion);
        self.wake();
    }

    /// As [`Self::complete`], but who sleeps is woken only by [`Self::wake`], by [`Self::try_next`] when there is
    /// nothing to begin, or after a few dozen more. Who is awake sees it at once. For many short operations in a row:
    /// call `wake` before one that is long.
    ///
    /// # Panics
    ///
    /// If the request is another ring's.
    #[inline]
    pub fn post(&mut self, request: Request, completion: &Completion) {
        self.own(&request);
        let (core, position) = (&*self.core, request.position);
        let slot = core.slot(position);
        for (word, value) in Completion::WORDS.into_iter().zip(completion.encode()) {
            slot.words[word].store(value, Ordering::Relaxed);
        }
        slot.state.store(core.laps.done(position), Ordering::Release);
        self.is_done(position);
        if self.owed.len() == OWED_MAX {
            self.wake();
        }
        self.owed.push(position);
    }

    /// Wakes who sleeps until what was posted is complete.
    #[inline]
    pub fn wake(&mut self) {
        if self.owed.is_empty() {
            return;
        }
        self.core.shared.fence();
        if self.core.shared.header().waiters.load(Ordering::Relaxed) != 0 {
            for &position in &self.owed {
                if self.asked(position) & ASLEEP != 0 {
                    self.core.shared.wake(&self.core.slot(position).state);
                }
            }
        }
        self.owed.clear();
    }

    /// Tells the submitter how many bytes of a request are left ([`Submitter::left`](super::Submitter::left)).
    pub fn tell_left(&self, request: &Request, bytes: u64) {
        // Beside the descriptor, which another consumer may have to read again.
        let word = &self.core.slot(request.position).words[Descriptor::DONE_WORD];
        word.store(request.descriptor().done_word(bytes), Ordering::Relaxed);
    }

    /// Whether a request should be given up: it was cancelled, or nobody will see its completion. To be asked at each
    /// step of a long operation.
    #[must_use]
    pub fn is_cancelled(&self, request: &Request) -> bool {
        self.asked(request.position) & CANCEL != 0 || self.core.open().is_err()
    }

    /// What the submitter says beside the request at this position, if it is still there.
    #[inline]
    fn asked(&self, position: u64) -> u32 {
        let asks = self.core.slot(position).asks.load(Ordering::Relaxed);
        if asks & !(ASLEEP | CANCEL) == self.core.laps.asks(position) { asks & (ASLEEP | CANCEL) } else { 0 }
    }

    fn own(&self, request: &Request) {
        assert!(request.ring == self.core.id, "a request of another ring");
    }

    /// Closes the ring: all waits end, at both ends.
    pub fn close(&self, reason: Reason) {
        self.core.close(reason);
    }
}
