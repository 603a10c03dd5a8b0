//! Queues: work on files, handed to a device's coprocessor.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use codax::queue::{Opcode, Range, Spec, Status, Which, descriptor};
//! use codax::{File, Store};
//! let store = Store::connect_default()?;
//! let file = File::open(&store, "/data/model.bin")?;
//! let queue = store.device("sim0").queue(64)?;
//! let number = queue.file(&file, false)?;
//! let range = Range { file: number.into(), start: 0, len: file.len()? };
//! let ticket = queue.submit(&descriptor(&Spec::new(Opcode::Crc32c).with(Which::Input, range))?)?;
//! let done = queue.wait(ticket, None).map_err(|e| format!("{e:?}"))?;
//! assert_eq!(Status::of(&done), Status::Done);
//! println!("{}", codax::queue::Outcome(done.result).value(Opcode::Crc32c));
//! # Ok(())
//! # }
//! ```
//!
//! What lies in a descriptor, and what the statuses mean, is in `docs/queues.md`; the operations are in `docs/operations.md`.

mod descriptor;
mod status;

pub use codax_ops::{Opcode, Outcome, Range, Spec, Value, Which};
pub use codax_os::ring::{
    Batch, Closed, Completion, Descriptor, Reason, Refused, RequestId, Ticket, Unfinished,
};
pub use descriptor::{
    INLINE_MAX, RESULT_LEN, RESULT_TO, Wanted, descriptor, result_range, result_to, search_for, wanted,
};
pub use status::Status;

use crate::link::unexpected;
use crate::store::{Client, reply_as};
use crate::{File, Store};
use codax_core::driver::{DeviceInfo, QueueId};
use codax_core::{Error, Result};
use codax_os::ring::{Ring, Submitter};
use codax_wire::{Reply, Request};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often who waits or polls looks whether the daemon is there: the ring itself tells of the end of the coprocessor.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// When whoever of a queue's threads looked last.
#[derive(Debug)]
struct Looks {
    since: Instant,
    /// In milliseconds after that.
    last: AtomicU64,
}

impl Looks {
    fn new(since: Instant) -> Self {
        Self { since, last: AtomicU64::new(0) }
    }

    /// Whether it is time to look again, and nobody else does.
    fn due(&self, now: Instant) -> bool {
        let passed = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let (now, last) =
            (passed(now.saturating_duration_since(self.since)), self.last.load(Ordering::Relaxed));
        now.saturating_sub(last) >= passed(LOOK_EVERY)
            && self.last.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// A device of a store.
#[derive(Clone, Debug)]
pub struct Device {
    store: Store,
    name: String,
}

impl Store {
    /// The device of this name.
    #[must_use]
    pub fn device(&self, name: &str) -> Device {
        Device { store: self.clone(), name: name.to_owned() }
    }
}

impl Device {
    /// What it is, and what its driver says of it now.
    pub fn info(&self) -> Result<DeviceInfo> {
        let reply = self.store.call(Request::Device { pool: self.name.clone() })?;
        reply_as!(reply, Reply::Device(info) => *info)
    }

    /// Makes a queue for so many requests at a time, a power of two from 2 to 4096. Errors: `Invalid` if the device has no coprocessor, `DeviceState` if its driver is
    /// gone, `Busy` if there are too many queues.
    pub fn queue(&self, slots: u32) -> Result<Queue> {
        let request = Request::Queue { pool: self.name.clone(), slots };
        let failed = |e: std::io::Error| Error::internal(format!("open a queue of {}: {e}", self.name));
        let client = &self.store.client;
        let (id, generation, fds) = client.link.with(|turn| match turn.ask_fds(&request, &[])? {
            (Reply::Queue(id), fds) => Ok((id, turn.generation(), fds)),
            (other, _) => Err(unexpected(&other).into()),
        })?;
        let fd = fds.into_iter().next().ok_or_else(|| Error::corrupt("the daemon sent no queue"))?;
        let opened = Ring::open(fd).and_then(|ring| Ok((ring.submitter()?, ring)));
        let (submitter, ring) = opened.map_err(failed).inspect_err(|_| {
            client.link.tell(generation, &Request::CloseQueue(id));
        })?;
        let looks = Looks::new(Instant::now());
        Ok(Queue { client: client.clone(), id, generation, looks, ends: Some((ring, submitter)) })
    }
}

/// A queue to a device's coprocessor. Requests are carried out in the order in which they were submitted. Any number of threads may use it.
///
/// It is closed when it is dropped, and when this process, the coprocessor or the daemon ends: then what was submitted and isn't complete never will be, and every call says so.
/// A coprocessor that ends while its device is drained leaves it open: the next one goes on with it.
///
/// A forked child must not use it: it connects anew.
#[derive(Debug)]
pub struct Queue {
    client: Arc<Client>,
    id: QueueId,
    /// Of the connection over which it was got.
    generation: u64,
    looks: Looks,
    /// Taken only by `drop`.
    ends: Option<(Ring, Submitter)>,
}

impl Queue {
    fn ring(&self) -> &Ring {
        match &self.ends {
            Some((ring, _)) => ring,
            None => unreachable!("only drop takes it"),
        }
    }

    #[inline]
    fn submitter(&self) -> &Submitter {
        match &self.ends {
            Some((_, submitter)) => submitter,
            None => unreachable!("only drop takes it"),
        }
    }

    /// What the daemon and the device's driver call it.
    #[must_use]
    pub fn id(&self) -> QueueId {
        self.id
    }

    /// Lets requests name a file, to read it if it is open for reading, and with `write` to write it; returns what they call it. It stays open for the coprocessor until the
    /// queue is closed. Errors: `Permission` if the file is not open for that.
    pub fn file(&self, file: &File, write: bool) -> Result<u32> {
        if !Arc::ptr_eq(&file.inner.client, &self.client) {
            return Err(Error::invalid("a file of another connection: open it over the queue's"));
        }
        let reply = file.inner.ask(|handle| Request::Grant { queue: self.id, handle, write })?;
        reply_as!(reply, Reply::Granted(number) => number)
    }

    /// Hands in a request. [`Refused::Full`] (`WouldBlock` as an [`std::io::Error`]) if there is no room: collect what is complete, and submit it again.
    pub fn submit(&self, request: &Descriptor) -> std::result::Result<Ticket, Refused> {
        self.submitter().try_submit(request)
    }

    /// Hands in as many requests as there is room for, from the first, with nothing between them.
    pub fn submit_batch(&self, requests: &[Descriptor]) -> std::result::Result<Batch, Closed> {
        self.submitter().submit_batch(requests)
    }

    /// What became of a request, if it is complete.
    #[inline]
    pub fn poll(&self, ticket: Ticket) -> std::result::Result<Completion, Unfinished> {
        match self.submitter().poll(ticket) {
            Err(Unfinished::Pending(pending)) => self.still(pending, Instant::now()),
            other => other,
        }
    }

    /// Waits until a request is complete; [`Unfinished::Pending`] only when the deadline has passed.
    pub fn wait(
        &self,
        ticket: Ticket,
        deadline: Option<Instant>,
    ) -> std::result::Result<Completion, Unfinished> {
        // What is complete, as most of a batch is, costs no look at the clock.
        let mut ticket = match self.submitter().poll(ticket) {
            Err(Unfinished::Pending(pending)) => pending,
            other => return other,
        };
        loop {
            let look = Instant::now() + LOOK_EVERY;
            let until = deadline.map_or(look, |deadline| deadline.min(look));
            match self.submitter().wait(ticket, Some(until)) {
                Err(Unfinished::Pending(pending)) => ticket = pending,
                other => return other,
            }
            let now = Instant::now();
            // Deadlines may be short and many: those who wait so look as often.
            ticket = match self.still(ticket, now) {
                Err(Unfinished::Pending(pending)) if deadline.is_none_or(|deadline| deadline > now) => {
                    pending
                }
                other => return other,
            };
        }
    }

    /// What becomes of a request that is not complete, if the daemon is gone.
    fn still(&self, ticket: Ticket, now: Instant) -> std::result::Result<Completion, Unfinished> {
        if !self.looks.due(now) || self.client.link.is_live(self.generation) {
            return Err(Unfinished::Pending(ticket));
        }
        self.ring().close(Reason::Died);
        // It may be complete by now.
        self.submitter().poll(ticket)
    }

    /// How many bytes of a request's length are left to do, as long as it is not complete.
    #[must_use]
    pub fn left(&self, ticket: &Ticket) -> u64 {
        self.submitter().left(ticket)
    }

    /// Asks for a request to be given up. It completes in any case: as [`Status::Cancelled`], or with its result if that was quicker.
    pub fn cancel(&self, request: RequestId) {
        self.submitter().cancel(request);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.client.link.is_fork() {
            // Its memory is not there, and somebody else's may be.
            std::mem::forget(self.ends.take());
            return;
        }
        self.client.link.tell(self.generation, &Request::CloseQueue(self.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_those_who_wait_looks_when_it_is_time() {
        let begun = Instant::now();
        let looks = Looks::new(begun);
        let due = |ms| looks.due(begun + Duration::from_millis(ms));
        assert_eq!(
            [0, 999, 1000, 1001, 1999, 2500, 3499, 3500].map(due),
            [false, false, true, false, false, true, false, true]
        );
        // A clock that was read before another thread's.
        assert!(!due(3400));
    }
}
