//! The submitters' end of a ring.
//!
//! Which positions are given out and which slots are free is known to the submitters' process alone; the memory has
//! only what the other end must see. So a completion is collected without a store to the slot's line, and whatever
//! the consumer writes there, no slot is used twice at a time.
#![forbid(unsafe_code)]

use super::core::{Closed, Core, Patience, Reason};
use super::ends::{Claim, End};
use super::layout::{ASLEEP, CANCEL, CLOSED, Completion, Descriptor};
use super::shared::{Mapped, Shared, Word};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// The end that hands in requests. Clones are of the same end; threads may share one or have one each. When the last
/// goes, the ring is [closed](Reason::Left).
#[derive(Debug)]
pub struct Submitter<S: Shared = Mapped>(Arc<Inner<S>>);

impl<S: Shared> Clone for Submitter<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[derive(Debug)]
struct Inner<S: Shared> {
    core: Claim<S>,
    /// The next position.
    tail: S::B,
    /// Of each slot, the position that it is free for, or was given to.
    free: Box<[S::B]>,
    patience: Patience,
}

/// A request that was submitted. Its slot is taken until its completion is collected, whether that is there or not:
/// a ticket that is dropped leaves the ring with a slot less.
#[derive(Debug)]
#[must_use = "what is not collected holds the ring's room"]
pub struct Ticket {
    position: u64,
    ring: u64,
}

/// A request's name, for [`Submitter::cancel`] while another thread waits with the ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    position: u64,
    ring: u64,
}

/// Tickets of requests that were submitted together, in their order.
#[derive(Debug)]
#[must_use = "what is not collected holds the ring's room"]
pub struct Batch {
    next: u64,
    end: u64,
    ring: u64,
}

/// Why a request was not submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No slot is free: collect what is complete, and submit it again.
    Full,
    /// Nobody would take it.
    Closed(Closed),
}

/// Why there is no completion.
#[derive(Debug)]
pub enum Unfinished {
    /// It is not complete yet; the ticket is still good.
    Pending(Ticket),
    /// It never will be. Whether the operation was carried out can't be told.
    Closed(Closed),
}

impl Ticket {
    /// The request's name.
    #[must_use]
    pub fn id(&self) -> RequestId {
        RequestId { position: self.position, ring: self.ring }
    }
}

impl Iterator for Batch {
    type Item = Ticket;

    fn next(&mut self) -> Option<Ticket> {
        (self.next < self.end).then(|| {
            self.next += 1;
            Ticket { position: self.next - 1, ring: self.ring }
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = crate::util::to_usize(self.end - self.next);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Batch {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the queue is full: collect what is complete first"),
            Self::Closed(closed) => closed.fmt(f),
        }
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        let kind = match refused {
            Refused::Full => io::ErrorKind::WouldBlock,
            Refused::Closed(_) => io::ErrorKind::BrokenPipe,
        };
        Self::new(kind, refused)
    }
}

impl<S: Shared> Submitter<S> {
    pub(super) fn new(core: Arc<Core<S>>, patience: Patience) -> io::Result<Self> {
        let free = (0..core.laps.slots()).map(S::B::new).collect();
        let core = Claim::new(core, End::Submitter)?;
        Ok(Self(Arc::new(Inner { core, tail: S::B::new(0), free, patience })))
    }

    /// Submits a request, and wakes the consumer if it sleeps.
    #[inline]
    pub fn try_submit(&self, request: &Descriptor) -> Result<Ticket, Refused> {
        let mut batch = self.submit_batch(std::slice::from_ref(request)).map_err(Refused::Closed)?;
        batch.next().ok_or(Refused::Full)
    }

    /// Submits as many of the requests as there is room for, from the first, side by side: nothing comes between
    /// them. The consumer is woken once.
    #[inline]
    pub fn submit_batch(&self, requests: &[Descriptor]) -> Result<Batch, Closed> {
        let core = &*self.0.core;
        core.open()?;
        let (first, end) = self.claim(requests.len());
        for (position, request) in (first..end).zip(requests) {
            self.publish(position, request);
        }
        if first < end {
            self.wake_consumer();
        }
        Ok(Batch { next: first, end, ring: core.id })
    }

    /// Up to `count` positions whose slots are free, for the caller alone.
    #[inline]
    fn claim(&self, count: usize) -> (u64, u64) {
        let Inner { core, tail, free, .. } = &*self.0;
        let mut first = tail.load(Ordering::Relaxed);
        loop {
            let most = first + crate::util::to_u64(count).min(core.laps.slots());
            // Acquire: the slot's completion was read by who freed it, before it is overwritten here.
            let vacant = |p: &u64| free[core.laps.slot(*p)].load(Ordering::Acquire) == *p;
            let end = (first..most).find(|p| !vacant(p)).unwrap_or(most);
            // A slot that is free for a position stays so until that position is given out, which this does. If the
            // first isn't, it may be since others were quicker: then the tail has moved.
            match tail.compare_exchange(first, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return (first, end),
                Err(now) => first = now,
            }
        }
    }

    #[inline]
    fn publish(&self, position: u64, request: &Descriptor) {
        let core = &*self.0.core;
        let slot = core.slot(position);
        slot.asks.store(core.laps.asks(position), Ordering::Relaxed);
        for (word, value) in slot.words.iter().zip(request.encode()) {
            word.store(value, Ordering::Relaxed);
        }
        slot.state.store(core.laps.submitted(position), Ordering::Release);
    }

    #[inline]
    fn wake_consumer(&self) {
        let core = &*self.0.core;
        core.shared.fence();
        let word = &core.shared.header().consumer_sleeps;
        if word.load(Ordering::Relaxed) != 0 && word.swap(0, Ordering::AcqRel) != 0 {
            core.shared.wake(word);
        }
    }

    /// The completion, if it is there; the slot is free then.
    ///
    /// # Panics
    ///
    /// If the ticket is another ring's.
    #[inline]
    pub fn poll(&self, ticket: Ticket) -> Result<Completion, Unfinished> {
        self.own(ticket.ring);
        self.look(&ticket).unwrap_or(Err(Unfinished::Pending(ticket)))
    }

    /// Waits for the completion: looks for a while, then sleeps. `Pending` only when the deadline has passed.
    ///
    /// # Panics
    ///
    /// If the ticket is another ring's.
    #[inline]
    pub fn wait(&self, ticket: Ticket, deadline: Option<Instant>) -> Result<Completion, Unfinished> {
        self.own(ticket.ring);
        for _ in 0..self.0.patience.looks() {
            if let Some(found) = self.look(&ticket) {
                return found;
            }
            std::hint::spin_loop();
        }
        let begun = Instant::now();
        let found = self.sleep(&ticket, deadline);
        self.0.patience.slept(begun);
        found.unwrap_or(Err(Unfinished::Pending(ticket)))
    }

    /// What became of it, if anything has.
    #[inline]
    fn look(&self, ticket: &Ticket) -> Option<Result<Completion, Unfinished>> {
        let core = &*self.0.core;
        let position = ticket.position;
        let state = core.slot(position).state.load(Ordering::Acquire);
        if state & !CLOSED == core.laps.done(position) {
            return Some(Ok(self.collect(position)));
        }
        if let Err(closed) = core.open() {
            return Some(Err(Unfinished::Closed(closed)));
        }
        if state != core.laps.submitted(position) {
            return Some(Err(Unfinished::Closed(core.close(Reason::Corrupt))));
        }
        None
    }

    #[inline]
    fn collect(&self, position: u64) -> Completion {
        let Inner { core, free, .. } = &*self.0;
        let words = &core.slot(position).words;
        let completion = Completion::decode(Completion::WORDS.map(|w| words[w].load(Ordering::Relaxed)));
        // Release: it was read before the slot is used again.
        free[core.laps.slot(position)].store(position + core.laps.slots(), Ordering::Release);
        completion
    }

    #[cold]
    fn sleep(&self, ticket: &Ticket, deadline: Option<Instant>) -> Option<Result<Completion, Unfinished>> {
        let core = &*self.0.core;
        let header = core.shared.header();
        let slot = core.slot(ticket.position);
        header.waiters.fetch_add(1, Ordering::Relaxed);
        slot.asks.fetch_or(ASLEEP, Ordering::Relaxed);
        let submitted = core.laps.submitted(ticket.position);
        let found = core.sleep(&slot.state, submitted, deadline, || self.look(ticket));
        header.waiters.fetch_sub(1, Ordering::Relaxed);
        found
    }

    /// How many bytes of its length the consumer has yet to do, by its word, as long as the request is not complete.
    ///
    /// # Panics
    ///
    /// If the ticket is another ring's.
    #[must_use]
    pub fn left(&self, ticket: &Ticket) -> u64 {
        self.own(ticket.ring);
        let word = |word: usize| self.0.core.slot(ticket.position).words[word].load(Ordering::Relaxed);
        Descriptor::left(word(Descriptor::LEN_WORD), word(Descriptor::DONE_WORD))
    }

    /// Asks the consumer to give the request up. It completes in any case: as [cancelled](Completion::CANCELLED), or
    /// with its result if that was quicker or the consumer doesn't give up what it has begun. Nothing happens if it
    /// was collected already.
    ///
    /// # Panics
    ///
    /// If the request is another ring's.
    pub fn cancel(&self, request: RequestId) {
        self.own(request.ring);
        let core = &*self.0.core;
        let slot = core.slot(request.position);
        let nothing = core.laps.asks(request.position);
        // The lap in the word keeps this from a later request. Once more if the waiter says at the same time that it
        // sleeps; it does so once.
        for asked in [nothing, nothing | ASLEEP] {
            let wanted = asked | CANCEL;
            if slot.asks.compare_exchange(asked, wanted, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                // It may have begun it, and sleep until there is something else.
                core.shared.header().cancels.fetch_add(1, Ordering::Release);
                return self.wake_consumer();
            }
        }
    }

    /// Closes the ring: all waits end, at both ends.
    pub fn close(&self, reason: Reason) {
        self.0.core.close(reason);
    }

    fn own(&self, ring: u64) {
        assert!(ring == self.0.core.id, "a ticket of another ring");
    }
}
