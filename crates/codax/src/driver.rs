//! Drivers of devices, in a process of their own.
//!
//! A vendor's program implements [`Driver`] and calls [`serve`]. It is a client like any other beside that: what its device works on it opens and maps through
//! this library, so its mappings are switched when files move. The guide is `docs/drivers.md`.
//!
//! A driver that takes programs' queues opens the memory of each as a [`Ring`], takes [`Request`]s by its [`Consumer`], and in a drain gives that up for the
//! [`Progress`] of the queue, which is part of the device's state. This one completes what it has begun before it rests, so that its progress is a number:
//!
//! ```
//! use codax::driver::{Completion, Consumer, Description, Descriptor, Driver, Granted, Progress, QueueId, Ring};
//! # use codax::{Error, Result};
//! # use std::collections::BTreeMap;
//! # use std::os::fd::OwnedFd;
//! # use std::sync::{Mutex, MutexGuard, PoisonError};
//! # use std::time::Duration;
//! # fn failed(e: std::io::Error) -> Error { Error::internal(e.to_string()) }
//! # fn carry_out(_: &Descriptor, _: &[Granted]) -> Completion { Completion::default() }
//! # #[derive(Debug, Default)]
//! # struct Npu(Mutex<Device>);
//! # impl Npu {
//! #     fn device(&self) -> MutexGuard<'_, Device> { self.0.lock().unwrap_or_else(PoisonError::into_inner) }
//! # }
//!
//! #[derive(Debug)]
//! struct Queue { ring: Ring, consumer: Option<Consumer>, files: Vec<Granted> }
//!
//! #[derive(Debug, Default)]
//! struct Device { runs: bool, queues: BTreeMap<QueueId, Queue> }
//!
//! impl Device {
//!     /// What the device's thread does again and again, with the lock.
//!     fn step(&mut self) {
//!         for queue in self.queues.values_mut().filter(|_| self.runs) {
//!             let Some(consumer) = &mut queue.consumer else { continue };
//!             while let Ok(Some(request)) = consumer.try_next() {
//!                 let done = carry_out(&request.descriptor(), &queue.files);
//!                 consumer.complete(request, &done);
//!             }
//!         }
//!     }
//! }
//!
//! impl Driver for Npu {
//!     fn describe(&self) -> Description {
//!         Description { has_state: true, ..Description::coprocessor("npu", "1.0") }
//!     }
//!     fn open_queue(&self, queue: QueueId, ring: OwnedFd) -> Result<()> {
//!         let mut device = self.device();
//!         let ring = Ring::open(ring).map_err(failed)?;
//!         // The end of one that comes while the device rests is taken by `restore` or `resume`.
//!         let consumer = device.runs.then(|| ring.consumer()).transpose().map_err(failed)?;
//!         device.queues.insert(queue, Queue { ring, consumer, files: Vec::new() });
//!         Ok(())
//!     }
//!     fn grant(&self, file: Granted) -> Result<()> {
//!         // `File::open_granted` opens it when a request names its number.
//!         self.device().queues.get_mut(&file.queue).into_iter().for_each(|queue| queue.files.push(file));
//!         Ok(())
//!     }
//!     fn close_queue(&self, queue: QueueId) -> Result<()> {
//!         self.device().queues.remove(&queue);
//!         Ok(())
//!     }
//!     fn quiesce(&self, _within: Duration) -> Result<()> {
//!         self.device().runs = false; // with the lock: no step is under way
//!         Ok(())
//!     }
//!     fn save(&self) -> Result<Vec<u8>> {
//!         let mut state = vec![1]; // the format
//!         for (id, queue) in std::mem::take(&mut self.device().queues) {
//!             let Some(consumer) = queue.consumer else { continue };
//!             let Progress { next, .. } = consumer.suspend(Vec::new()); // nothing is begun
//!             state.extend([id.0, next].map(u64::to_le_bytes).as_flattened());
//!         }
//!         Ok(state)
//!     }
//!     fn restore(&self, state: &[u8]) -> Result<()> {
//!         for [id, next] in state[1..].as_chunks().0.as_chunks().0 {
//!             let [id, next] = [*id, *next].map(u64::from_le_bytes);
//!             // Of one that was closed meanwhile nothing is left to do.
//!             let mut device = self.device();
//!             let Some(queue) = device.queues.get_mut(&QueueId(id)) else { continue };
//!             let (consumer, _begun) =
//!                 queue.ring.resume(&Progress { next, begun: Vec::new() }).map_err(failed)?;
//!             queue.consumer = Some(consumer);
//!         }
//!         Ok(())
//!     }
//!     fn resume(&self) -> Result<()> {
//!         let mut device = self.device();
//!         device.runs = true;
//!         for queue in device.queues.values_mut().filter(|queue| queue.consumer.is_none()) {
//!             queue.consumer = Some(queue.ring.consumer().map_err(failed)?);
//!         }
//!         Ok(())
//!     }
//!     fn reset(&self) -> Result<()> {
//!         self.quiesce(Duration::ZERO)?;
//!         self.save().map(drop) // it gives up the queues, too
//!     }
//! }
//! #
//! # // Work in flight goes on with the next process, and completes once.
//! # fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
//! #     let (ring, memory) = Ring::create(4)?;
//! #     let submitter = ring.submitter()?;
//! #     let submit = || submitter.try_submit(&Descriptor::default()).expect("there is room");
//! #     let is_done = |ticket| submitter.poll(ticket).is_ok();
//! #     let first = Npu::default();
//! #     first.resume()?;
//! #     first.open_queue(QueueId(7), memory.try_clone()?)?;
//! #     let before = submit();
//! #     first.device().step();
//! #     assert!(is_done(before));
//! #     let waits = submit();
//! #     first.quiesce(Duration::ZERO)?;
//! #     first.device().step();
//! #     let state = first.save()?;
//! #     assert_eq!((state.len(), ring.closed()), (17, None));
//! #     let next = Npu::default();
//! #     next.open_queue(QueueId(7), memory.try_clone()?)?;
//! #     next.restore(&state)?;
//! #     next.resume()?;
//! #     next.device().step();
//! #     assert!(is_done(waits));
//! #     next.reset()?;
//! #     assert_eq!(ring.closed(), None);
//! #     Ok(())
//! # }
//! ```

use crate::link::{self, unexpected};
use crate::store::Store;
use codax_core::driver::STATE_MAX;
pub use codax_core::driver::{
    Cache, Class, Counter, Description, Driver, Granted, Health, Link, Needs, QueueId, Range, Reach,
};
use codax_core::{Error, ErrorKind, Result};
/// The consumer's end of programs' queues, and what comes and goes through it.
pub use codax_os::ring::{Closed, Completion, Consumer, Descriptor, Progress, Request, Ring};
use codax_wire::driver::{Answer, Call, Drive, FromDriver, ToDriver};
use codax_wire::{BYTES_MAX, Channel, Reply};
use std::time::Duration;

/// Drives the device `device` of a store: does what the daemon asks for, until the connection ends.
///
/// The device is to be at rest, with nothing in its caches, when this is called; it may run from the first [`Driver::resume`] on. Errors: `Permission` if this user may not
/// drive it, `Busy` if another driver does, `Invalid` or `DeviceState` if the description can't be true or what it needs can't be had, and `NoDaemon` when the
/// daemon goes. Then the device may go on with what it does; bring it to rest before you call this again.
///
/// ```no_run
/// use codax::Store;
/// use codax::driver::{Description, Driver, Link, serve};
///
/// #[derive(Debug)]
/// struct Memory;
///
/// impl Driver for Memory {
///     fn describe(&self) -> Description {
///         let link = Link { name: "CXL 2.0 x8".into(), ..Link::default() };
///         Description { link, ..Description::memory_only("memory", "1.0") }
///     }
/// }
///
/// fn main() -> codax::Result<()> {
///     serve(&Store::connect_default()?, "sim0", &Memory)
/// }
/// ```
pub fn serve(store: &Store, device: &str, driver: &dyn Driver) -> Result<()> {
    let channel = link::connect(store.dir())?;
    let drive = Drive { device: device.to_owned(), description: driver.describe() };
    channel.send(&codax_wire::Request::Drive(Box::new(drive)), &[])?;
    match link::answer(&channel, &mut |_| ())? {
        Some((Reply::Done, _)) => {}
        Some((Reply::Error(e), _)) => return Err(e),
        Some((other, _)) => return Err(unexpected(&other)),
        None => return Err(gone()),
    }
    while let Some((message, fds)) = channel.recv::<ToDriver>()? {
        let ToDriver::Call { number, call } = message else { return Err(out_of_turn()) };
        let answer = match call {
            Call::Restore { len } => {
                let state = state_of(&channel, len)?;
                done(driver.restore(&state))
            }
            Call::Save => match driver.save() {
                Ok(state) => {
                    send_state(&channel, number, &state)?;
                    continue;
                }
                Err(e) => Answer::Failed(e),
            },
            Call::WriteBack(ranges) => done(driver.write_back(&ranges)),
            Call::Quiesce { within_ns } => done(driver.quiesce(Duration::from_nanos(within_ns))),
            Call::Reset => done(driver.reset()),
            Call::Resume => done(driver.resume()),
            Call::Health => driver.health().map_or_else(Answer::Failed, Answer::Health),
            Call::OpenQueue(queue) => {
                let ring = fds.into_iter().next().ok_or_else(out_of_turn)?;
                done(driver.open_queue(queue, ring))
            }
            Call::Grant(file) => done(driver.grant(file)),
            Call::CloseQueue(queue) => done(driver.close_queue(queue)),
            Call::Counters => driver.counters().map_or_else(Answer::Failed, Answer::Counters),
        };
        channel.send(&FromDriver { number, answer }, &[])?;
    }
    Err(gone())
}

fn done(result: Result<()>) -> Answer {
    result.map_or_else(Answer::Failed, |()| Answer::Done)
}

fn send_state(channel: &Channel, number: u64, state: &[u8]) -> Result<()> {
    channel.send(&FromDriver { number, answer: Answer::State { len: state.len() as u64 } }, &[])?;
    let sent = if state.len() > STATE_MAX { &[] } else { state };
    sent.chunks(BYTES_MAX)
        .try_for_each(|part| channel.send(&FromDriver { number, answer: Answer::Part(part.to_vec()) }, &[]))
}

fn state_of(channel: &Channel, len: u64) -> Result<Vec<u8>> {
    let len = usize::try_from(len).ok().filter(|len| *len <= STATE_MAX).ok_or_else(out_of_turn)?;
    let mut state = Vec::with_capacity(len);
    while state.len() < len {
        match channel.recv::<ToDriver>()? {
            Some((ToDriver::Part(part), _)) if !part.is_empty() => state.extend_from_slice(&part),
            Some(_) => return Err(out_of_turn()),
            None => return Err(gone()),
        }
    }
    Ok(state)
}

fn out_of_turn() -> Error {
    Error::corrupt("the daemon sent what it was not the turn of: use the same release of both")
}

fn gone() -> Error {
    Error::new(ErrorKind::NoDaemon, "the daemon has gone, or has ended the connection: see `codax events`")
}
