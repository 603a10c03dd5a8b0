//! Drivers of devices, in a process of their own.
//!
//! A vendor's program implements [`Driver`] and calls [`serve`]. It is a client like any other beside that: what its device works on it opens and maps through
//! this library, so its mappings are switched when files move. The guide is `docs/drivers.md`.

use crate::link::{self, unexpected};
use crate::store::Store;
use codax_core::driver::STATE_MAX;
pub use codax_core::driver::{
    Cache, Class, Counter, Description, Driver, Granted, Health, Link, Needs, QueueId, Range, Reach,
};
use codax_core::{Error, ErrorKind, Result};
use codax_wire::driver::{Answer, Call, Drive, FromDriver, ToDriver};
use codax_wire::{BYTES_MAX, Channel, Reply, Request};
use std::time::Duration;

/// Drives the device `device` of a store: does what the daemon asks for, until the connection ends.
///
/// The device is to be at rest, with nothing in its caches, when this is called; it may run from the first [`Driver::resume`] on. Errors: `Permission` if this user may not
/// drive it, `Busy` if another driver does, `Invalid` or `DeviceState` if the description can't be true or what it needs can't be had, and `NoDaemon` when the
/// daemon goes. Then the device may go on with what it does; bring it to rest before you call this again.
pub fn serve(store: &Store, device: &str, driver: &dyn Driver) -> Result<()> {
    let channel = link::connect(store.dir())?;
    let drive = Drive { device: device.to_owned(), description: driver.describe() };
    channel.send(&Request::Drive(Box::new(drive)), &[])?;
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
