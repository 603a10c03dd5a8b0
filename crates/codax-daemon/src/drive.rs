//! Drivers in processes of their own: a session whose roles are turned round.
//!
//! The engine calls a driver on a thread of its own, which sends the call and waits for the answer, for as long as that takes: how long is waited for is the engine's to
//! say. The session's thread watches for the end of the connection and of the process. A process that breaks the protocol isn't listened to any more; its device
//! counts as driven until the process has ended, since until then it may have something in its caches.

use crate::server::Shared;
use codax_core::driver::{Counter, Description, Driver, Granted, Health, QueueId, Range, STATE_MAX};
use codax_core::{Error, ErrorKind, Result};
use codax_wire::driver::{Answer, Call, Drive, FromDriver, RANGES_MAX, ToDriver};
use codax_wire::{BYTES_MAX, Channel, Reply};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use tracing::warn;

/// Who wants to drive a device.
#[derive(Debug)]
pub(crate) struct Applicant {
    pub uid: u32,
    pub pid: u32,
    pub pidfd: Option<Arc<OwnedFd>>,
}

/// Serves a driver until its connection ends; an error is one that it is to hear of.
pub(crate) fn serve(shared: &Shared, channel: &Arc<Channel>, who: &Applicant, drive: Drive) -> Result<()> {
    let Drive { device, description } = drive;
    let allowed = shared.store.driver_user(&device);
    if who.uid != 0 && who.uid != allowed {
        let may =
            if allowed == 0 { "only root may".to_owned() } else { format!("uid {allowed} and root may") };
        return Err(Error::permission(format!(
            "device {device}: {may} drive it, not uid {}: driver_user in the configuration says who else may",
            who.uid
        )));
    }
    let remote = Arc::new(Remote {
        channel: channel.clone(),
        description,
        next: Mutex::new(1),
        ending: Mutex::default(),
        ended: Condvar::new(),
    });
    let driving = shared.store.drive(&device, remote.clone(), Some(who.pid))?;
    if channel.send(&Reply::Done, &[]).is_ok() {
        remote.open();
        watch(channel, who.pidfd.as_deref());
    }
    let _ = codax_os::sock::shutdown(&**channel);
    if let Some(lie) = remote.lie() {
        warn!("device {device}: its driver (process {}) {lie}: it is not listened to any more", who.pid);
        shared.store.note("driver", &device, &format!("process {} {lie}: it is not listened to", who.pid));
        if let Some(process) = &who.pidfd {
            let mut polled = [PollFd::new(&**process, PollFlags::IN)];
            let _ = retry_on_intr(|| poll(&mut polled, None));
        }
    }
    // The engine knows that the driver is gone before a call that waits for it fails.
    drop(driving);
    remote.close();
    Ok(())
}

/// Waits until the connection or the process has ended.
fn watch(channel: &Channel, process: Option<&OwnedFd>) {
    let mut polled = vec![PollFd::new(channel, PollFlags::RDHUP)];
    polled.extend(process.map(|process| PollFd::new(process, PollFlags::IN)));
    let _ = retry_on_intr(|| poll(&mut polled, None));
}

/// Where the connection is in its life.
#[derive(Debug, Default)]
struct Ending {
    /// The driver has heard that it is taken.
    open: bool,
    over: bool,
    /// How the driver broke the protocol.
    lie: Option<String>,
}

/// A driver at the other end of a connection.
#[derive(Debug)]
struct Remote {
    channel: Arc<Channel>,
    description: Description,
    /// The number of the next call.
    next: Mutex<u64>,
    ending: Mutex<Ending>,
    ended: Condvar,
}

impl Remote {
    fn open(&self) {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).open = true;
        self.ended.notify_all();
    }

    fn close(&self) {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        self.ended.notify_all();
    }

    fn lie(&self) -> Option<String> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).lie.clone()
    }

    /// The connection has ended: waits until the session's thread has told the engine.
    fn gone(&self) -> Error {
        let ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        let _ending = self.ended.wait_while(ending, |ending| !ending.over && ending.lie.is_none());
        Error::new(ErrorKind::NoDaemon, "the connection is closed")
    }

    /// The driver has broken the protocol, so: nothing that it says counts any more.
    fn caught(&self, lie: String) -> Error {
        let error = Error::corrupt(lie.clone());
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).lie = Some(lie);
        let _ = codax_os::sock::shutdown(&*self.channel);
        error
    }

    /// Whether calls can be made; waits until the driver knows that it is taken.
    fn ready(&self) -> Result<()> {
        let ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.ended.wait_while(ending, |e| !e.open && !e.over && e.lie.is_none());
        let ending = waited.unwrap_or_else(PoisonError::into_inner);
        match &ending.lie {
            Some(lie) => Err(Error::corrupt(format!("{lie}, and its process is there still: end it"))),
            None => Ok(()),
        }
    }

    fn send(&self, message: &ToDriver, fds: &[BorrowedFd<'_>]) -> Result<()> {
        self.channel.send(message, fds).map_err(|e| match e.kind {
            ErrorKind::NoDaemon => self.gone(),
            _ => e,
        })
    }

    fn receive(&self, number: u64) -> Result<Answer> {
        match self.channel.recv::<FromDriver>() {
            Ok(Some((FromDriver { number: its, answer }, _))) if its == number => Ok(answer),
            Ok(Some(_)) => Err(self.caught("sent what it was not asked for".into())),
            Ok(None) => Err(self.gone()),
            Err(e) if e.kind == ErrorKind::NoDaemon => Err(self.gone()),
            Err(e) => Err(self.caught(format!("sent {}", e.message))),
        }
    }

    /// Makes a call, with a state behind it if there is one; `take` takes the answer, with its number.
    fn call<T>(&self, call: Call, state: &[u8], take: impl FnOnce(u64, Answer) -> Result<T>) -> Result<T> {
        self.call_with(call, &[], state, take)
    }

    fn call_with<T>(
        &self,
        call: Call,
        fds: &[BorrowedFd<'_>],
        state: &[u8],
        take: impl FnOnce(u64, Answer) -> Result<T>,
    ) -> Result<T> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        self.ready()?;
        let number = *next;
        *next += 1;
        self.send(&ToDriver::Call { number, call }, fds)?;
        state.chunks(BYTES_MAX).try_for_each(|part| self.send(&ToDriver::Part(part.to_vec()), &[]))?;
        match self.receive(number)? {
            Answer::Failed(e) => Err(one_line(e)),
            answer => take(number, answer),
        }
    }

    fn done(&self, call: Call, state: &[u8]) -> Result<()> {
        self.call(call, state, |_, answer| self.nothing(answer))
    }

    fn nothing(&self, answer: Answer) -> Result<()> {
        match answer {
            Answer::Done => Ok(()),
            _ => Err(self.misfit()),
        }
    }

    fn misfit(&self) -> Error {
        self.caught("answered what it was not asked".into())
    }

    fn state(&self, number: u64, answer: Answer) -> Result<Vec<u8>> {
        let Answer::State { len } = answer else { return Err(self.misfit()) };
        let kept = usize::try_from(len).ok().filter(|len| *len <= STATE_MAX);
        let Some(len) = kept else {
            return Err(Error::invalid(format!(
                "its state has {len} bytes, and {STATE_MAX} are kept at most"
            )));
        };
        let mut state = Vec::with_capacity(len);
        while state.len() < len {
            match self.receive(number)? {
                Answer::Part(part) if !part.is_empty() && part.len() <= len - state.len() => {
                    state.extend_from_slice(&part);
                }
                _ => return Err(self.caught("sent another state than it said".into())),
            }
        }
        Ok(state)
    }
}

/// What a driver says of an error, as one line of bounded length.
fn one_line(e: Error) -> Error {
    const LONGEST: usize = 200;
    let line: String =
        e.message.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    Error::new(e.kind, line)
}

impl Driver for Remote {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    fn write_back(&self, ranges: &[Range]) -> Result<()> {
        ranges.chunks(RANGES_MAX).try_for_each(|part| self.done(Call::WriteBack(part.to_vec()), &[]))
    }

    fn quiesce(&self, within: Duration) -> Result<()> {
        let within_ns = u64::try_from(within.as_nanos()).unwrap_or(u64::MAX);
        self.done(Call::Quiesce { within_ns }, &[])
    }

    fn save(&self) -> Result<Vec<u8>> {
        self.call(Call::Save, &[], |number, answer| self.state(number, answer))
    }

    fn reset(&self) -> Result<()> {
        self.done(Call::Reset, &[])
    }

    fn restore(&self, state: &[u8]) -> Result<()> {
        self.done(Call::Restore { len: state.len() as u64 }, state)
    }

    fn resume(&self) -> Result<()> {
        self.done(Call::Resume, &[])
    }

    fn health(&self) -> Result<Health> {
        self.call(Call::Health, &[], |_, answer| match answer {
            Answer::Health(Health::Degraded(why)) => {
                Ok(Health::Degraded(one_line(Error::internal(why)).message))
            }
            Answer::Health(Health::Failed(why)) => Ok(Health::Failed(one_line(Error::internal(why)).message)),
            Answer::Health(Health::Well) => Ok(Health::Well),
            _ => Err(self.misfit()),
        })
    }

    fn counters(&self) -> Result<Vec<Counter>> {
        self.call(Call::Counters, &[], |_, answer| match answer {
            Answer::Counters(counters) => Ok(counters),
            _ => Err(self.misfit()),
        })
    }

    fn open_queue(&self, queue: QueueId, ring: OwnedFd) -> Result<()> {
        self.call_with(Call::OpenQueue(queue), &[ring.as_fd()], &[], |_, answer| self.nothing(answer))
    }

    fn grant(&self, file: Granted) -> Result<()> {
        self.done(Call::Grant(file), &[])
    }

    fn close_queue(&self, queue: QueueId) -> Result<()> {
        self.done(Call::CloseQueue(queue), &[])
    }
}
