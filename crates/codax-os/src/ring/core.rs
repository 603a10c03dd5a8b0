//! What both ends of a ring do: close it, and wait for the other end.
//!
//! **Why no wake-up is lost.** Who is about to sleep says so in a word, passes a `SeqCst` fence, and looks once more
//! for what it waits for. Who brings it about does so, passes a `SeqCst` fence, and looks at that word. Of two such
//! fences one is the first: if the sleeper's, the other side sees the word and wakes; if the other's, the sleeper
//! sees what it waits for. What is left is the way from that last look into the kernel, and there the futex compares:
//!
//! * A *waiter* sleeps on its slot's state, which it has read as submitted. The completion changes the state before
//!   it wakes, and the kernel compares and queues in one step: the waiter finds the state changed, or is found.
//! * The *consumer* sleeps on the word in which it says so, while that is 1. Who sees the 1 puts a 0 there before it
//!   wakes, so of many submitters one makes the call.
//! * *Closing* changes the state of every slot (bit 31) and takes the consumer's 1 away, before it wakes. Submissions
//!   and completions that are stored at the same time may wipe the bit out. A completion changes the state itself;
//!   and who stored a submission over the bit passes a fence before it sleeps, which is then the later one of the
//!   two, so that it sees the ring closed.
//!
//! The words may be anybody's scribble. Hence nobody sleeps longer than [`LONGEST_SLEEP`] without a look: that is
//! for an end whose other end lies, and between honest ends changes nothing. The model (`model.rs`) has no such limit.
#![forbid(unsafe_code)]

use super::layout::{CLOSED, Laps, Slot};
use super::shared::{Shared, Word};
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long an end sleeps without a look.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Why a ring is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// One of its ends was dropped.
    Left,
    /// The process of one of its ends has died.
    Died,
    /// Somebody has written what neither end writes.
    Corrupt,
    /// A device that was at rest goes on, and its driver has not taken it.
    NotTaken,
}

/// The ring is closed, and stays so.
///
/// As wide as a word: beside a byte, in a `Result`, a request would be moved in pieces that begin at odd addresses, which a processor
/// can't forward from the stores before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(8))]
pub struct Closed(pub Reason);

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Reason::Left => "the queue was closed by its other end",
            Reason::Died => "the process at the queue's other end has died",
            Reason::Corrupt => "the queue's memory was overwritten",
            Reason::NotTaken => {
                "the driver with which the device goes on has not taken the queue (codax events)"
            }
        })
    }
}

impl std::error::Error for Closed {}

impl Reason {
    const fn number(self) -> u32 {
        match self {
            Self::Left => 1,
            Self::Died => 2,
            Self::Corrupt => 3,
            Self::NotTaken => 4,
        }
    }

    const fn of(number: u32) -> Option<Self> {
        match number {
            0 => None,
            1 => Some(Self::Left),
            2 => Some(Self::Died),
            4 => Some(Self::NotTaken),
            _ => Some(Self::Corrupt),
        }
    }
}

/// A ring as a process has it. What the process relies on is here, and is not read from the memory again.
#[derive(Debug)]
pub(super) struct Core<S: Shared> {
    pub(super) shared: S,
    pub(super) laps: Laps,
    /// Tells this ring's tickets and requests from those of others.
    pub(super) id: u64,
    /// Why it is closed as far as this process knows, which nobody can take back.
    closed: S::A,
    longest_sleep: Duration,
}

impl<S: Shared> Core<S> {
    pub(super) fn new(shared: S, slots: u32) -> Self {
        Self::sleeping(shared, slots, LONGEST_SLEEP)
    }

    pub(super) fn sleeping(shared: S, slots: u32, longest_sleep: Duration) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = LAST.fetch_add(1, Ordering::Relaxed);
        Self { shared, laps: Laps::new(slots), id, closed: S::A::new(0), longest_sleep }
    }

    /// The slot of a position.
    #[inline]
    pub(super) fn slot(&self, position: u64) -> &Slot<S::A, S::B> {
        &self.shared.slots()[self.laps.slot(position)]
    }

    #[inline]
    pub(super) fn open(&self) -> Result<(), Closed> {
        let known = self.closed.load(Ordering::Acquire);
        if known == 0 && self.shared.header().closed.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        Err(self.learn())
    }

    #[cold]
    fn learn(&self) -> Closed {
        let said = self.shared.header().closed.load(Ordering::Acquire);
        self.keep(Reason::of(said).unwrap_or(Reason::Corrupt))
    }

    /// Notes why it is closed, unless that is known.
    fn keep(&self, reason: Reason) -> Closed {
        let known = self.closed.compare_exchange(0, reason.number(), Ordering::AcqRel, Ordering::Acquire);
        Closed(known.err().and_then(Reason::of).unwrap_or(reason))
    }

    /// Closes it, or finds it closed, and wakes everybody; says why it is closed. Once more does no harm: the first
    /// may have died before it woke anybody.
    #[cold]
    pub(super) fn close(&self, reason: Reason) -> Closed {
        let header = self.shared.header();
        let said = header.closed.compare_exchange(0, reason.number(), Ordering::AcqRel, Ordering::Acquire);
        let closed = self.keep(said.err().and_then(Reason::of).unwrap_or(reason));
        self.shared.fence();
        for slot in self.shared.slots() {
            slot.state.fetch_or(CLOSED, Ordering::AcqRel);
            self.shared.wake(&slot.state);
        }
        header.consumer_sleeps.swap(0, Ordering::AcqRel);
        self.shared.wake(&header.consumer_sleeps);
        closed
    }

    /// Sleeps, after the words that say so were stored, until `ready` says something or it is too late. `word` is what
    /// is slept on, and `awaited` its value as long as there is reason to sleep.
    pub(super) fn sleep<T>(
        &self,
        word: &S::A,
        awaited: u32,
        deadline: Option<Instant>,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        loop {
            self.shared.fence();
            if let Some(found) = ready() {
                return Some(found);
            }
            let mut at_most = self.longest_sleep;
            if let Some(deadline) = deadline {
                at_most = at_most.min(deadline.saturating_duration_since(Instant::now()));
                if at_most.is_zero() {
                    return None;
                }
            }
            self.shared.sleep(word, awaited, at_most);
        }
    }
}

/// How long an end looks again and again before it sleeps: bounded, and learnt from how its waits went.
#[derive(Debug)]
pub(super) struct Patience(AtomicU32);

/// Looks that are always taken, and most that are.
const LOOKS: (u32, u32) = (64, 4096);

/// A sleep that is over sooner costs more than the looks that would have taken as long.
const SHORT: Duration = Duration::from_micros(50);

impl Patience {
    pub(super) const fn new() -> Self {
        Self(AtomicU32::new(LOOKS.1 / 4))
    }

    /// For the model: sleeps at once.
    #[cfg(test)]
    pub(super) const fn none() -> Self {
        Self(AtomicU32::new(0))
    }

    /// How many looks are worth it now.
    #[inline]
    pub(super) fn looks(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Learns from a sleep that began then, after as many looks as [`Self::looks`] said.
    ///
    /// A short sleep should have been looks, so the next time there are twice as many. A long one was right. And if
    /// even the most looks were followed by a short sleep, looking doesn't help (the other end waits for this CPU): in
    /// both cases the next time has few.
    pub(super) fn slept(&self, begun: Instant) {
        let looks = self.looks();
        if looks > 0 {
            let longer = begun.elapsed() < SHORT && looks < LOOKS.1;
            self.0.store(if longer { looks * 2 } else { LOOKS.0 }, Ordering::Relaxed);
        }
    }
}
