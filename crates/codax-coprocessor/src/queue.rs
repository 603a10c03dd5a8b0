//! A queue and the thread that serves it: requests in their order, each in steps; between two of them it looks whether to give up or to rest.
//!
//! The thread goes through the gate and takes the queue's work once, and keeps both as long as it has something to do or looks out for it; so what a short request
//! takes is its ring's two handovers and little more. It comes out to sleep, and when the gate is shut.

use crate::accesses::Accesses;
use crate::counts::{Counts, Totals};
use crate::files::{Files, Grants};
use crate::gate::{Gate, Inside};
use crate::work::{self, Running, Turn, failed};
use codax::Store;
use codax::queue::{Closed, Completion, Descriptor, Opcode, Status};
use codax_os::guard::Guard;
use codax_os::ring::{Consumer, Reason, Request, Ring};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a thread at rest that has work waits until it looks at its ring again. That the device goes on wakes it.
const REST: Duration = Duration::from_millis(10);

/// What all queues of a device share.
#[derive(Debug)]
pub struct Shared {
    pub store: Store,
    pub guard: Guard,
    pub gate: Gate,
    pub counts: Totals,
    pub accesses: Arc<Accesses>,
}

/// A queue, as the driver has it.
#[derive(Debug)]
pub struct Queue {
    ring: Ring,
    grants: Grants,
    work: Mutex<Work>,
    shared: Arc<Shared>,
}

/// What was taken from the ring and is not complete.
#[derive(Debug, Default)]
pub struct Work {
    pub running: Option<Running>,
    /// Taken while the device is at rest.
    waiting: VecDeque<Request>,
    /// Forgotten by a reset, and to be told so.
    forgotten: Vec<Request>,
}

impl Queue {
    /// A queue with its thread, which ends when the ring is closed.
    pub fn start(ring: Ring, shared: Arc<Shared>) -> std::io::Result<Arc<Self>> {
        let consumer = ring.consumer()?;
        let queue = Arc::new(Self { ring, grants: Grants::default(), work: Mutex::default(), shared });
        let serving = queue.clone();
        std::thread::Builder::new().name("queue".into()).spawn(move || {
            let files = Files::new(serving.shared.store.clone(), serving.shared.accesses.clone());
            let counts = serving.shared.counts.begin();
            let Closed(_) = Server { queue: &serving, consumer, files, counts: counts.clone() }.serve();
            // What it holds, also of files, goes with it.
            drop(std::mem::take(&mut *serving.work()));
            serving.shared.counts.end(&counts);
        })?;
        Ok(queue)
    }

    pub fn grants(&self) -> &Grants {
        &self.grants
    }

    /// What it is at. Free for the taking while the device is at rest.
    pub fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests were submitted and are not complete.
    pub fn depth(&self) -> usize {
        self.ring.depth()
    }

    /// Has the thread look what there is to do.
    pub fn nudge(&self) {
        self.ring.nudge();
    }

    pub fn close(&self) {
        self.ring.close(Reason::Left);
    }
}

impl Work {
    /// Forgets all of it.
    pub fn forget(&mut self) {
        self.forgotten.extend(self.running.take().map(|running| running.request));
        self.forgotten.extend(self.waiting.drain(..));
    }

    fn is_empty(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty() && self.forgotten.is_empty()
    }
}

/// The thread's own.
struct Server<'a> {
    queue: &'a Queue,
    consumer: Consumer,
    files: Files,
    counts: Arc<Counts>,
}

impl Server<'_> {
    fn serve(mut self) -> Closed {
        let gate = &self.queue.shared.gate;
        loop {
            let looked = match gate.enter() {
                Some(inside) => self.run(inside),
                None => self.rest(),
            };
            if let Err(closed) = looked {
                return closed;
            }
        }
    }

    /// Goes on with what there is, and takes what comes, until it is time to rest or to sleep.
    fn run(&mut self, inside: Inside<'_>) -> Result<(), Closed> {
        let queue = self.queue;
        let mut awake = Some((queue.work(), inside));
        while let Some((work, inside)) = &mut awake
            && !inside.is_over()
        {
            if work.running.is_some() {
                self.step(work);
                continue;
            }
            if !work.forgotten.is_empty() {
                self.tell_forgotten(work);
            }
            if let Some(request) = work.waiting.pop_front() {
                self.begin(work, request);
                continue;
            }
            let next = self.consumer.next_with(None, || awake = None)?;
            let Some(request) = next else { continue };
            match &mut awake {
                Some((work, _)) => self.begin(work, request),
                None => queue.work().waiting.push_back(request),
            }
        }
        // What was posted before it is time to rest.
        self.consumer.wake();
        Ok(())
    }

    /// Keeps what comes until the device goes on, but for what doesn't want to wait, or to be carried out any more.
    fn rest(&mut self) -> Result<(), Closed> {
        self.sweep();
        match self.consumer.next(None)? {
            Some(request) => self.queue.work().waiting.push_back(request),
            // Behind what waits there may be a fence, at which the ring doesn't.
            None if !self.queue.work().is_empty() => self.queue.shared.gate.await_open(REST),
            None => {}
        }
        Ok(())
    }

    /// Completes what doesn't wait until the device goes on.
    fn sweep(&mut self) {
        let queue = self.queue;
        let mut work = queue.work();
        self.tell_forgotten(&mut work);
        if let Some(over) = work.running.take_if(|running| self.consumer.is_cancelled(&running.request)) {
            self.complete(over.request, &Completion::cancelled());
        }
        for request in std::mem::take(&mut work.waiting) {
            if self.consumer.is_cancelled(&request) {
                self.complete(request, &Completion::cancelled());
            } else if request.descriptor().flags & Descriptor::FAIL_AT_ONCE != 0 {
                self.complete(request, &failed(Status::Drained));
            } else {
                work.waiting.push_back(request);
            }
        }
    }

    fn tell_forgotten(&mut self, work: &mut Work) {
        for request in work.forgotten.drain(..) {
            self.complete(request, &failed(Status::Reset));
        }
    }

    /// Begins a request. What does nothing is complete, and its completion is told of with those that follow it.
    #[inline]
    fn begin(&mut self, work: &mut Work, request: Request) {
        if request.descriptor().opcode == Opcode::Nop.number() {
            self.counts.one(0);
            self.consumer.post(request, &Completion::default());
        } else {
            self.prepare(work, request);
        }
    }

    fn prepare(&mut self, work: &mut Work, request: Request) {
        // This may take long.
        self.consumer.wake();
        if self.consumer.is_cancelled(&request) {
            return self.complete(request, &Completion::cancelled());
        }
        match work::begin(request, &mut self.files, &self.queue.grants, self.queue.shared.guard) {
            Ok(running) => work.running = Some(running),
            Err((request, completion)) => self.complete(request, &completion),
        }
    }

    /// Takes a step of what runs.
    fn step(&mut self, work: &mut Work) {
        let Some(running) = &mut work.running else { return };
        let turn = if self.consumer.is_cancelled(&running.request) {
            Turn::Complete(Completion::cancelled())
        } else {
            let turn = running.step();
            let (done, len) = (running.operation.position(), running.request.descriptor().len);
            self.consumer.tell_left(&running.request, len.saturating_sub(done));
            turn
        };
        if let Turn::Complete(completion) = turn
            && let Some(Running { request, operation, .. }) = work.running.take()
        {
            self.counts.went_through(operation.position());
            self.complete(request, &completion);
        }
    }

    fn complete(&mut self, request: Request, completion: &Completion) {
        self.counts.one(completion.status);
        self.consumer.complete(request, completion);
    }
}
