//! A queue and the thread that serves it: requests in their order, each in steps; between two of them it looks whether to give up or to rest.
//!
//! The thread goes through the gate once, and stays inside as long as it has something to do or looks out for it; so what a short request takes is its ring's two
//! handovers and little more. It comes out to sleep, and when the gate is shut; then it waits until the device goes on, or it is told to leave the queue as it is.

use crate::accesses::Accesses;
use crate::counts::{Counts, Totals};
use crate::files::{Files, Grants};
use crate::gate::{Gate, Inside};
use crate::saved::{At, Begun};
use crate::work::{self, Done, Running, Turn};
use codax::Store;
use codax::driver::Granted;
use codax::queue::{Closed, Completion, Descriptor, Opcode, RESULT_TO};
use codax_os::guard::Guard;
use codax_os::ring::{Consumer, Progress, Reason, Request, Ring};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

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
    grants: Arc<Grants>,
    leaving: Arc<AtomicBool>,
    /// None before the device goes on.
    thread: Option<JoinHandle<Option<At>>>,
}

impl Queue {
    pub fn new(ring: Ring) -> Self {
        Self { ring, grants: Arc::default(), leaving: Arc::default(), thread: None }
    }

    pub fn grant(&self, file: Granted) {
        self.grants.add(file);
    }

    /// Starts the queue's thread, if it hasn't one: from where another was, or else with the oldest request that is not complete.
    pub fn start(&mut self, from: Option<At>, shared: &Arc<Shared>) -> io::Result<()> {
        if self.thread.is_some() || self.ring.closed().is_some() {
            return Ok(());
        }
        let (consumer, waiting) = match from {
            None => (self.ring.consumer()?, VecDeque::new()),
            Some(At { next, begun }) => {
                let positions = begun.iter().map(|begun| (begun.position, begun.descriptor)).collect();
                let (consumer, requests) = self.ring.resume(&Progress { next, begun: positions })?;
                let waiting = requests.into_iter().map(|request| Waiting::of(request, &begun)).collect();
                (consumer, waiting)
            }
        };
        let (grants, leaving, shared) = (self.grants.clone(), self.leaving.clone(), shared.clone());
        let serve = move || {
            let counts = shared.counts.begin();
            let files = Files::new(shared.store.clone(), shared.accesses.clone());
            let work = Work { running: None, waiting };
            let server =
                Server { shared: &shared, grants, leaving, consumer, files, work, counts: counts.clone() };
            let left = server.serve();
            shared.counts.end(&counts);
            left.ok()
        };
        self.thread = Some(std::thread::Builder::new().name("queue".into()).spawn(serve)?);
        Ok(())
    }

    /// Has the thread leave the queue where it is, once it is at rest or has no work.
    pub fn leave(&self, gate: &Gate) {
        self.leaving.store(true, Ordering::Release);
        self.ring.nudge();
        gate.call();
    }

    /// How far the thread was when it left; none if the queue was closed.
    pub fn left(self) -> Option<At> {
        // What a thread that panicked was at is lost, and its ring is closed.
        self.thread?.join().ok()?
    }

    pub fn close(&self) {
        self.ring.close(Reason::Left);
    }
}

/// A request that has not begun here.
struct Waiting {
    request: Request,
    /// What was done of it before.
    done: Option<Done>,
}

impl Waiting {
    fn of(request: Request, begun: &[Begun]) -> Self {
        let begun = begun.iter().find(|begun| begun.position == request.position());
        Self { request, done: begun.and_then(|begun| begun.done.clone()) }
    }
}

/// What was taken from the ring and is not complete.
struct Work {
    running: Option<Running>,
    /// Taken when it was time to rest.
    waiting: VecDeque<Waiting>,
}

/// The thread's own.
struct Server<'a> {
    shared: &'a Shared,
    grants: Arc<Grants>,
    leaving: Arc<AtomicBool>,
    consumer: Consumer,
    files: Files,
    work: Work,
    counts: Arc<Counts>,
}

impl Server<'_> {
    /// Serves until it is told to leave.
    fn serve(mut self) -> Result<At, Closed> {
        let gate = &self.shared.gate;
        let is_leaving = |this: &Self| this.leaving.load(Ordering::Acquire);
        while !is_leaving(&self) {
            match gate.enter() {
                Some(inside) => self.run(inside)?,
                None => gate.await_open(|| is_leaving(&self)),
            }
        }
        Ok(self.leave())
    }

    /// Goes on with what there is, and takes what comes, until it is time to rest, to sleep or to leave.
    fn run(&mut self, inside: Inside<'_>) -> Result<(), Closed> {
        let mut awake = Some(inside);
        while awake.as_ref().is_some_and(|inside| !inside.is_over()) {
            if self.work.running.is_some() {
                self.step();
            } else if let Some(Waiting { request, done }) = self.work.waiting.pop_front() {
                self.begin(request, done);
            } else if let Some(request) = self.consumer.next_with(None, || awake = None)? {
                match awake {
                    Some(_) => self.begin(request, None),
                    None => self.work.waiting.push_back(Waiting { request, done: None }),
                }
            }
        }
        // What was posted before it is time to rest.
        self.consumer.wake();
        Ok(())
    }

    /// Begins a request. What does nothing is complete, and its completion is told of with those that follow it.
    #[inline(always)]
    fn begin(&mut self, request: Request, done: Option<Done>) {
        let Descriptor { opcode, flags, .. } = request.descriptor();
        if opcode == Opcode::Nop.number() && flags & RESULT_TO == 0 {
            self.counts.one(0);
            self.consumer.post(request, &Completion::default());
        } else {
            self.prepare(request, done);
        }
    }

    #[inline(never)]
    fn prepare(&mut self, request: Request, done: Option<Done>) {
        // This may take long.
        self.consumer.wake();
        if self.consumer.is_cancelled(&request) {
            return self.complete(request, &Completion::cancelled());
        }
        match work::begin(request, done, &mut self.files, &self.grants, self.shared.guard) {
            Ok(running) => self.work.running = Some(running),
            Err((request, completion)) => self.complete(request, &completion),
        }
    }

    /// Takes a step of what runs.
    fn step(&mut self) {
        let Some(running) = &mut self.work.running else { return };
        let turn = if self.consumer.is_cancelled(&running.request) {
            Turn::Complete(Completion::cancelled())
        } else {
            let turn = running.step();
            let (done, len) = (running.operation.position(), running.request.descriptor().len);
            self.consumer.tell_left(&running.request, len.saturating_sub(done));
            turn
        };
        if let Turn::Complete(completion) = turn
            && let Some(Running { request, operation, .. }) = self.work.running.take()
        {
            self.counts.went_through(operation.position());
            self.complete(request, &completion);
        }
    }

    fn complete(&mut self, request: Request, completion: &Completion) {
        self.counts.one(completion.status);
        self.consumer.complete(request, completion);
    }

    /// Leaves the queue to whoever comes next.
    fn leave(self) -> At {
        let Work { running, waiting } = self.work;
        let running = running.map(Running::stop).map(|(request, done)| Waiting { request, done: Some(done) });
        let (requests, done): (Vec<_>, Vec<_>) =
            running.into_iter().chain(waiting).map(|Waiting { request, done }| (request, done)).unzip();
        let Progress { next, begun } = self.consumer.suspend(requests);
        let begun = begun.into_iter().zip(done);
        At {
            next,
            begun: begun.map(|((position, descriptor), done)| Begun { position, descriptor, done }).collect(),
        }
    }
}
