//! A queue between the threads of one program and a coprocessor in another process: a ring of descriptors in shared
//! memory, a cache line each.
//!
//! The [`Submitter`] writes a request into a slot and hands the line over; the [`Consumer`] takes requests in that
//! order and writes each one's completion into the line that the request came in, so that a round trip is two
//! handovers of one line. While both ends are awake nobody calls the kernel. Who waits looks for a while and then
//! sleeps; `core` says why no wake-up is lost, and `layout` what lies where.
//!
//! **Room.** A slot is free again when its completion was collected ([`Submitter::poll`], [`Submitter::wait`]).
//! Completions that nobody collects hold the ring's room, also for what is submitted after them, since slots are
//! used in turn. A full ring refuses ([`Refused::Full`]); what it took is never lost but with the whole ring.
//!
//! **Trust.** Both ends write all of the memory, and neither relies on it: each keeps its positions to itself, and
//! all that is read is copied once, by atomics. An end that scribbles can spoil its own requests or completions, and
//! have the ring closed; see [`Reason::Corrupt`]. The memory itself can't be taken away: the object is sealed
//! against shrinking, and allocated. Who punches holes in it makes zeros, which are a scribble like any other.
//!
//! **Ends.** A ring serves one submitter (with its clones) and one consumer, for their lifetimes: when either goes the
//! ring is closed, for good. A process that dies can't do so itself: who learns of it has the ring open, and
//! [closes](Ring::close) it. Only a consumer that was [suspended](Consumer::suspend) leaves the ring open for another
//! one, and until then an [`Attendant`] may answer who doesn't want to wait.
//!
//! The mapping is not inherited by forked children; an end must not be used in one.

mod attend;
mod consume;
mod core;
#[cfg(test)]
mod death;
mod ends;
mod layout;
#[cfg(test)]
mod model;
mod place;
mod shared;
mod submit;

use self::core::{Core, Patience};
use self::layout::{MAGIC, SLOTS_MAX, VERSION};
use self::shared::{Mapped, Shared};
use crate::util::{invalid, to_u64};
use rustix::fs::{MemfdFlags, SealFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use self::attend::Attendant;
pub use self::consume::{Consumer, Progress, Request};
pub use self::core::{Closed, Reason};
pub use self::ends::End;
pub use self::layout::{Completion, Descriptor};
pub use self::submit::{Batch, Refused, RequestId, Submitter, Ticket, Unfinished};

/// A ring that this process has mapped: where its ends come from, and by which it is closed. Clones are of the same.
#[derive(Clone, Debug)]
pub struct Ring {
    core: Arc<Core<Mapped>>,
}

impl Ring {
    /// Makes a ring of so many slots, a power of two from 2 to 65536; with the descriptor that others open it by.
    pub fn create(slots: u32) -> io::Result<(Self, OwnedFd)> {
        if !valid(slots) {
            return Err(invalid(format!(
                "a queue of {slots} slots: a power of two from 2 to {SLOTS_MAX} is wanted"
            )));
        }
        let fd = rustix::fs::memfd_create("codax-ring", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let len = to_u64(shared::bytes(slots));
        crate::object::set_len(&fd, len)?;
        crate::object::allocate(&fd, 0, len)?;
        rustix::fs::fcntl_add_seals(&fd, SEALS | SealFlags::SEAL)?;
        let mapped = Mapped::map(&fd, slots)?;
        let header = mapped.header();
        header.magic.store(MAGIC, Ordering::Relaxed);
        header.version.store(VERSION, Ordering::Relaxed);
        header.slots.store(slots, Ordering::Relaxed);
        Ok((Self { core: Arc::new(Core::new(mapped, slots)) }, fd))
    }

    /// Opens a ring that somebody made. `InvalidData` says what is wrong with it.
    pub fn open(fd: impl AsFd) -> io::Result<Self> {
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, format!("no queue: {what}"));
        // Of anything but memory of this kind there are no seals.
        let seals = rustix::fs::fcntl_get_seals(&fd)
            .map_err(|_| wrong("it is no memory that can be sealed".into()))?;
        if !seals.contains(SEALS) {
            return Err(wrong("its memory is not sealed against shrinking and growing".into()));
        }
        let len = crate::object::stat(&fd)?.len;
        let mut head = [0; 16];
        if crate::object::read_at(&fd, &mut head, 0)? < head.len() {
            return Err(wrong(format!("it has {len} bytes")));
        }
        let [m0, m1, m2, m3, m4, m5, m6, m7, v0, v1, v2, v3, s0, s1, s2, s3] = head;
        let magic = u64::from_le_bytes([m0, m1, m2, m3, m4, m5, m6, m7]);
        let version = u32::from_le_bytes([v0, v1, v2, v3]);
        let slots = u32::from_le_bytes([s0, s1, s2, s3]);
        if magic != MAGIC {
            return Err(wrong(format!("it begins with {magic:#018x}")));
        }
        if version != VERSION {
            return Err(wrong(format!("its version is {version}, and this program knows {VERSION}")));
        }
        if !valid(slots) {
            return Err(wrong(format!("it says that it has {slots} slots")));
        }
        if len != to_u64(shared::bytes(slots)) {
            return Err(wrong(format!("{slots} slots don't take the {len} bytes that it has")));
        }
        Ok(Self { core: Arc::new(Core::new(Mapped::map(&fd, slots)?, slots)) })
    }

    /// How many requests fit in.
    #[must_use]
    pub fn slots(&self) -> u32 {
        u32::try_from(self.core.laps.slots()).unwrap_or(SLOTS_MAX)
    }

    /// The end that hands in requests. `ResourceBusy` if it is taken, in whatever process.
    pub fn submitter(&self) -> io::Result<Submitter> {
        Submitter::new(self.core.clone(), Patience::new())
    }

    /// The end that carries them out, from the oldest one that is not complete. `ResourceBusy` if it is taken, in whatever
    /// process; `InvalidData`, and the ring is closed, if the memory was overwritten.
    pub fn consumer(&self) -> io::Result<Consumer> {
        Consumer::new(self.core.clone(), Patience::new())
    }

    /// The consumer's end, where another was [suspended](Consumer::suspend), and what that had begun, in the order of
    /// `progress`, without what an [`Attendant`] has completed since. `InvalidData` if this is not where it was.
    pub fn resume(&self, progress: &Progress) -> io::Result<(Consumer, Vec<Request>)> {
        Consumer::resume(self.core.clone(), Patience::new(), progress)
    }

    /// The consumer's end while there is nobody to carry anything out. `ResourceBusy` if it is taken, in whatever process.
    pub fn attendant(&self) -> io::Result<Attendant> {
        Attendant::new(self.core.clone())
    }

    /// Gives an end back in the name of a process that has died with it, for another to take.
    pub fn release(&self, end: End) {
        self.core.shared.header().ends.fetch_and(!end.bit(), Ordering::AcqRel);
    }

    /// Whether an end is taken, by the word of whoever wrote last; a process that died has not given its end back.
    #[must_use]
    pub fn is_there(&self, end: End) -> bool {
        self.core.shared.header().ends.load(Ordering::Acquire) & end.bit() != 0
    }

    /// How many threads of the submitter sleep until something is complete, by their own word.
    #[must_use]
    pub fn waiters(&self) -> u32 {
        self.core.shared.header().waiters.load(Ordering::Relaxed)
    }

    /// How many requests were submitted and are not complete, by the slots' word; none of a closed ring, where none will be.
    #[must_use]
    pub fn depth(&self) -> usize {
        if self.closed().is_some() {
            return 0;
        }
        let slots = self.core.shared.slots().iter();
        slots.filter(|slot| layout::is_submitted(slot.state.load(Ordering::Relaxed))).count()
    }

    /// Has the consumer come back from [`Consumer::next`] if it waits there, or at once when it is called the next time.
    pub fn nudge(&self) {
        // As who has cancelled something.
        let header = self.core.shared.header();
        header.cancels.fetch_add(1, Ordering::Release);
        self.core.shared.fence();
        let word = &header.consumer_sleeps;
        if word.load(Ordering::Relaxed) != 0 && word.swap(0, Ordering::AcqRel) != 0 {
            self.core.shared.wake(word);
        }
    }

    /// Closes it, unless it is closed: all waits end, at both ends.
    pub fn close(&self, reason: Reason) {
        self.core.close(reason);
    }

    /// Why it is closed, if it is.
    #[must_use]
    pub fn closed(&self) -> Option<Reason> {
        self.core.open().err().map(|Closed(reason)| reason)
    }
}

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

fn valid(slots: u32) -> bool {
    slots.is_power_of_two() && (2..=SLOTS_MAX).contains(&slots)
}
