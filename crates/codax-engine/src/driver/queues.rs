//! Queues between programs and the coprocessors of devices, as the store sees them: who has them, what they may touch, and that they end.
//!
//! The store makes a ring, hands one end to each side and is in nobody's way after that. It keeps the ring mapped to close it when either side goes, and holds the files that
//! were granted open, so that a file that is removed meanwhile goes when the queue does. Of a device that is at rest it keeps both (`rest`).

use crate::driver::rest::Attendance;
use crate::driver::standing::may_run;
use crate::driver::{Asked, Call, Driven, Fault};
use crate::store::session::OpenFile;
use crate::store::state::{State, is_dram};
use crate::store::{Inner, Opened, Session};
use codax_core::driver::{Counter, Granted, QueueId, Standing};
use codax_core::request::Handle;
use codax_core::{Error, ErrorKind, FileId, Result, SessionId};
use codax_os::ring::{Reason, Ring};
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

/// Most requests that fit in a queue.
const SLOTS_MAX: u32 = 4096;

/// Most queues of a session.
const PER_SESSION: usize = 16;

/// Most queues of a device: each is a thread of its coprocessor.
const PER_DEVICE: usize = 256;

/// Most files that a queue is given.
const FILES_MAX: usize = 1024;

/// A queue.
#[derive(Debug)]
pub(crate) struct Queue {
    session: SessionId,
    pub(super) device: String,
    pub(super) at: At,
    /// What is in it was given up with what the device was at: it fails as soon as the ring's end is free.
    pub(super) forgotten: bool,
    pub(super) ring: Ring,
    /// The ring's memory, for another process.
    memory: OwnedFd,
    /// What was granted, from number 1 on.
    files: Vec<OpenFile>,
}

/// Where a queue's other end is.
#[derive(Debug)]
pub(super) enum At {
    /// With the device's driver.
    Driver(Arc<Driven>),
    /// With the store, until the device goes on. Nobody attends it as long as a driver may hold its end.
    Store(Option<Attendance>),
}

impl Queue {
    pub(super) fn is_at(&self, driver: &Arc<Driven>) -> bool {
        matches!(&self.at, At::Driver(its) if Arc::ptr_eq(its, driver))
    }

    /// Hands a driver the other end, with all that was granted.
    pub(super) fn begin_open(
        &mut self,
        queue: QueueId,
        driver: &Arc<Driven>,
    ) -> std::result::Result<Asked<()>, Fault> {
        let failed = |e: std::io::Error| Fault::Failed(Error::internal(format!("share a queue: {e}")));
        let memory = self.memory.try_clone().map_err(failed)?;
        let granted = (1..).zip(&self.files).map(|(number, open)| open.granted(queue, number));
        let granted: Vec<Granted> = granted.collect();
        self.at = At::Driver(driver.clone());
        let takes = driver.takes_queues.clone();
        driver.begin(false, move |driver| {
            noted(&takes, driver.open_queue(queue, memory))?;
            granted.into_iter().try_for_each(|file| driver.grant(file))
        })
    }
}

/// What a driver said to a queue, after it is noted whether it takes any.
fn noted(takes: &OnceLock<bool>, opened: Result<()>) -> Result<()> {
    match &opened {
        Ok(()) => drop(takes.set(true)),
        Err(e) if e.kind == ErrorKind::NotSupported => drop(takes.set(false)),
        Err(_) => {}
    }
    opened
}

impl OpenFile {
    fn granted(self, queue: QueueId, number: u32) -> Granted {
        Granted { queue, number, file: self.file, read: self.read, write: self.write }
    }
}

impl Session {
    /// Makes a queue to a device's coprocessor; what comes back is the submitter's end of its ring.
    pub fn open_queue(&self, device: &str, slots: u32) -> Result<(QueueId, OwnedFd)> {
        let inner = &self.store.inner;
        if !(slots.is_power_of_two() && (2..=SLOTS_MAX).contains(&slots)) {
            let line = format!("a queue of {slots} requests: a power of two from 2 to {SLOTS_MAX} is wanted");
            return Err(Error::invalid(line));
        }
        let failed = |e: std::io::Error| Error::internal(format!("make a queue of {slots} requests: {e}"));
        inner.may_take_queues(device)?;
        let (ring, fd) = Ring::create(slots).map_err(failed)?;
        let memory = fd.try_clone().map_err(failed)?;
        let (queue, asked) = {
            let mut st = inner.lock();
            let driver = inner.coprocessor(&st, device)?;
            st.room_for_a_queue(self.id, device)?;
            st.next_queue += 1;
            let queue = QueueId(st.next_queue);
            let (at, files) = (At::Store(None), Vec::new());
            let (session, device) = (self.id, device.to_owned());
            let mut entry = Queue { session, device, at, forgotten: false, ring, memory, files };
            let runs = driver.filter(|driver| driver.standing() == Standing::Running);
            let asked = runs.map(|driver| (entry.begin_open(queue, &driver), driver));
            if asked.is_none() {
                inner.attend(&mut entry);
            }
            st.queues.insert(queue, entry);
            (queue, asked)
        };
        let Some((asked, driver)) = asked else { return Ok((queue, fd)) };
        let answer = inner.answer_of(asked, &driver, device);
        // Its end closes what it has, and may have come before the queue was there.
        let ended = || Error::device_state(format!("{device}: its driver {} is gone", driver.name()));
        let answer = answer.and_then(|()| if driver.is_gone() { Err(ended()) } else { Ok(()) });
        answer.inspect_err(|_| self.close_queue(queue))?;
        Ok((queue, fd))
    }

    /// Lets descriptors of a queue name a file; returns what they call it.
    pub fn grant(&self, queue: QueueId, handle: Handle, write: bool) -> Result<u32> {
        let inner = &self.store.inner;
        let mut st = inner.lock();
        let open = self.handle(&st, handle)?;
        if !open.read && !write || write && !open.write {
            let how = if write { "writing" } else { "reading" };
            return Err(Error::permission(format!("{} is not open for {how}", st.path(open.file))));
        }
        let entry = self.own_queue(&mut st, queue)?;
        if entry.files.len() >= FILES_MAX {
            return Err(Error::busy(format!("the queue has {FILES_MAX} files already: make another one")));
        }
        let open = OpenFile { write, ..open };
        entry.files.push(open);
        let number = u32::try_from(entry.files.len()).unwrap_or(u32::MAX);
        let granted = open.granted(queue, number);
        // One that is at rest is told of it when it goes on.
        let asked = match &entry.at {
            At::Driver(driver) => {
                Some((driver.begin(false, move |driver| driver.grant(granted)), driver.clone()))
            }
            At::Store(_) => None,
        };
        let device = entry.device.clone();
        st.live.entry(open.file).or_default().opens += 1;
        drop(st);
        asked.map_or(Ok(()), |(asked, driver)| inner.answer_of(asked, &driver, &device))?;
        Ok(number)
    }

    /// Opens a file that was granted to a queue of a device which this session's process drives.
    pub fn open_granted(&self, queue: QueueId, number: u32) -> Result<Opened> {
        let inner = &self.store.inner;
        let mut st = inner.lock();
        let pid = st.sessions.get(&self.id).map(|session| session.pid);
        let refused = || {
            Error::permission(format!("file {number} of queue {} is granted to the device's driver", queue.0))
        };
        let entry = st.queues.get(&queue).filter(|entry| match &entry.at {
            At::Driver(driver) => driver.pid.is_some() && driver.pid == pid,
            At::Store(_) => false,
        });
        let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        let open = entry.zip(index).and_then(|(entry, index)| entry.files.get(index)).copied();
        let open = open.ok_or_else(refused)?;
        let session = st.sessions.get_mut(&self.id).ok_or_else(refused)?;
        let handle = session.add_handle(open);
        st.live.entry(open.file).or_default().opens += 1;
        let len = st.ns.get(open.file).map_or(0, |inode| inode.len);
        Ok(Opened { handle, file: open.file, len, created: false, layout: None })
    }

    /// Closes a queue of this session's.
    pub fn close_queue(&self, queue: QueueId) {
        let inner = &self.store.inner;
        let mut st = inner.lock();
        if self.own_queue(&mut st, queue).is_ok() {
            let files = st.end_queue(queue, Reason::Left);
            inner.close_files(&mut st, &files);
        }
    }

    fn own_queue<'a>(&self, st: &'a mut State, queue: QueueId) -> Result<&'a mut Queue> {
        let own = st.queues.get_mut(&queue).filter(|entry| entry.session == self.id);
        own.ok_or_else(|| Error::device_state(format!("queue {} is closed", queue.0)))
    }
}

impl Inner {
    /// The driver of a device that has a coprocessor; none while it is at rest and the driver's process is away.
    fn coprocessor(&self, st: &State, device: &str) -> Result<Option<Arc<Driven>>> {
        let pool = st.pool_named(device)?;
        let driver = st.pool(pool).driver.clone();
        if driver.is_active() && !driver.is_gone() {
            return Ok(Some(driver));
        }
        let last = if is_dram(pool) { None } else { self.saved().description(device)? };
        let works = last.as_ref().is_some_and(|last| !last.operations.is_empty());
        if works && !may_run(&st.pool(pool).record) {
            return Ok(None);
        }
        Err(match last {
            Some(last) => Error::device_state(format!(
                "{device} has no driver now: {} is gone (codax device show {device})",
                last.driver
            )),
            None if !st.pool(pool).record.has_memory() => {
                Error::device_state(format!("{device} has no driver yet: start it (docs/drivers.md)"))
            }
            None => Error::invalid(format!(
                "{device} is memory without a coprocessor: run it on a device that has one, as --device NAME=software:SIZE"
            )),
        })
    }

    /// Refuses a queue that would wait for a driver which takes none. One that is at rest and was never asked is asked, with a queue that it is to forget at once.
    fn may_take_queues(&self, device: &str) -> Result<()> {
        let failed = |e: std::io::Error| Error::internal(format!("make a queue: {e}"));
        let (driver, queue) = {
            let mut st = self.lock();
            let driver = self.coprocessor(&st, device)?;
            let rests = |driver: &Arc<Driven>| driver.standing() != Standing::Running && !driver.is_late();
            let Some(driver) = driver.filter(rests) else { return Ok(()) };
            st.next_queue += 1;
            (driver, QueueId(st.next_queue))
        };
        if driver.takes_queues.get() == Some(&true) {
            return Ok(());
        }
        let (_, memory) = Ring::create(2).map_err(failed)?;
        let takes = driver.takes_queues.clone();
        let asked = driver.begin(false, move |driver| {
            noted(&takes, driver.open_queue(queue, memory))?;
            driver.close_queue(queue)
        });
        match self.answer_of(asked, &driver, device) {
            Err(e) if e.kind == ErrorKind::NotSupported => Err(e),
            // What else it says, or that it says nothing, is of now: when it goes on it is asked again.
            _ => Ok(()),
        }
    }

    /// What a driver answers to who waits for it, for people.
    fn answer_of(
        &self,
        asked: std::result::Result<Asked<()>, Fault>,
        driver: &Driven,
        device: &str,
    ) -> Result<()> {
        let call = Call::within(self.options().ack_timeout);
        asked.and_then(|asked| asked.wait(driver, call)).map_err(|fault| {
            let line = format!("{device}: its driver {}: {fault}", driver.name());
            match fault {
                Fault::Late(_) => Error::busy(line),
                Fault::Failed(e) => Error::new(e.kind, line),
                Fault::Gone | Fault::Unwanted => Error::device_state(line),
            }
        })
    }

    /// Files of a queue that has ended are open no more.
    fn close_files(&self, st: &mut State, files: &[FileId]) {
        for &file in files {
            if let Some(live) = st.live.get_mut(&file) {
                live.opens -= 1;
            }
            self.reap(st, file);
        }
    }

    /// A session has ended, and its queues with it.
    pub fn end_queues_of(&self, st: &mut State, session: SessionId) {
        self.end_queues(st, |queue| queue.session == session);
    }

    /// Closes queues, since the process at one of their ends has died.
    pub(super) fn end_queues(&self, st: &mut State, which: impl Fn(&Queue) -> bool) {
        let ended = st.queues.iter().filter(|(_, queue)| which(queue));
        let ended: Vec<QueueId> = ended.map(|(id, _)| *id).collect();
        for queue in ended {
            self.end_queue(st, queue, Reason::Died);
        }
    }

    pub(super) fn end_queue(&self, st: &mut State, queue: QueueId, reason: Reason) {
        let files = st.end_queue(queue, reason);
        self.close_files(st, &files);
    }
}

impl State {
    /// What there is to count of a device's queues: if it has any, or a driver that may take some.
    pub(super) fn queue_counters(&self, device: &str, driven: bool) -> Vec<Counter> {
        let its = || self.queues.values().filter(|queue| queue.device == device);
        if !driven && its().next().is_none() {
            return Vec::new();
        }
        let depth = its().map(|queue| queue.ring.depth() as u64).sum();
        let counter = |name: &str, value| Counter { name: name.to_owned(), value };
        vec![counter("queues", its().count() as u64), counter("queue depth", depth)]
    }

    /// Refuses one queue more than there may be.
    fn room_for_a_queue(&self, session: SessionId, device: &str) -> Result<()> {
        let many = |what: &str, most: usize| {
            Err(Error::busy(format!("{what} has {most} queues already: close some first")))
        };
        if self.queues.values().filter(|queue| queue.session == session).count() >= PER_SESSION {
            return many("this connection", PER_SESSION);
        }
        if self.queues.values().filter(|queue| queue.device == device).count() >= PER_DEVICE {
            return many(device, PER_DEVICE);
        }
        Ok(())
    }

    /// Closes a queue, for both sides; returns the files that it held open.
    fn end_queue(&mut self, queue: QueueId, reason: Reason) -> Vec<FileId> {
        let Some(ended) = self.queues.remove(&queue) else { return Vec::new() };
        ended.ring.close(reason);
        if let At::Driver(driver) = &ended.at {
            driver.tell(move |driver| driver.close_queue(queue));
        }
        ended.files.iter().map(|open| open.file).collect()
    }
}
