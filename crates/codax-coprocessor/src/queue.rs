//! A queue and the thread that serves it: requests in their order, each in steps; between two of them it looks whether to give up or to rest.

use crate::accesses::Accesses;
use crate::files::{Files, Grants};
use crate::gate::{Gate, Inside};
use crate::work::{self, Running, Turn, failed};
use codax::Store;
use codax::queue::{Closed, Completion, Descriptor, Status};
use codax_os::guard::Guard;
use codax_os::ring::{Consumer, Reason, Request, Ring};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a thread at rest that has work waits until it looks at its ring again. That the device goes on wakes it.
const REST: Duration = Duration::from_millis(10);

/// What a device has counted.
#[derive(Debug, Default)]
pub struct Counts {
    pub operations: AtomicU64,
    pub failed: AtomicU64,
    pub bytes: AtomicU64,
    /// Taken from their rings, and not complete.
    pub depth: AtomicU64,
}

/// What all queues of a device share.
#[derive(Debug)]
pub struct Shared {
    pub store: Store,
    pub guard: Guard,
    pub gate: Gate,
    pub counts: Counts,
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
            let Closed(_) = Server { queue: &serving, consumer, files }.serve();
            let left = std::mem::take(&mut *serving.work());
            serving.took(-left.taken());
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

    /// Has the thread look what there is to do.
    pub fn nudge(&self) {
        self.ring.nudge();
    }

    pub fn close(&self) {
        self.ring.close(Reason::Left);
    }

    /// So many more are taken from the ring and not complete.
    fn took(&self, more: i64) {
        self.shared.counts.depth.fetch_add(more.cast_unsigned(), Ordering::Relaxed);
    }
}

impl Work {
    /// Forgets all of it.
    pub fn forget(&mut self) {
        self.forgotten.extend(self.running.take().map(|running| running.request));
        self.forgotten.extend(self.waiting.drain(..));
    }

    fn taken(&self) -> i64 {
        let waiting = self.waiting.len() + self.forgotten.len() + usize::from(self.running.is_some());
        i64::try_from(waiting).unwrap_or(0)
    }
}

/// The thread's own.
struct Server<'a> {
    queue: &'a Queue,
    consumer: Consumer,
    files: Files,
}

impl Server<'_> {
    fn serve(mut self) -> Closed {
        let queue = self.queue;
        loop {
            self.sweep();
            let inside = queue.shared.gate.enter();
            let looked = match &inside {
                Some(inside) if self.has_work() => self.work(inside),
                _ => {
                    drop(inside);
                    self.take()
                }
            };
            if let Err(closed) = looked {
                return closed;
            }
        }
    }

    fn has_work(&self) -> bool {
        self.queue.work().taken() > 0
    }

    /// Tells of what was forgotten, and gives up what was cancelled while it waits.
    fn sweep(&mut self) {
        let mut work = self.queue.work();
        if work.taken() == 0 {
            return;
        }
        let forgotten = std::mem::take(&mut work.forgotten);
        let (cancelled, waiting) = std::mem::take(&mut work.waiting)
            .into_iter()
            .partition::<Vec<_>, _>(|request| self.consumer.is_cancelled(request));
        work.waiting = waiting.into();
        let over = work.running.take_if(|running| self.consumer.is_cancelled(&running.request));
        drop(work);
        for request in forgotten {
            self.complete(request, &failed(Status::Reset));
        }
        for request in cancelled.into_iter().chain(over.map(|running| running.request)) {
            self.complete(request, &Completion::cancelled());
        }
    }

    /// Takes the next request from the ring: to begin it, or to keep it while the device is at rest.
    fn take(&mut self) -> Result<(), Closed> {
        let Some(request) = self.consumer.next(None)? else {
            // Behind what waits there may be a fence, at which the ring doesn't.
            if self.has_work() {
                self.queue.shared.gate.await_open(REST);
            }
            return Ok(());
        };
        self.queue.took(1);
        match self.queue.shared.gate.enter() {
            Some(inside) => {
                self.queue.work().waiting.push_back(request);
                self.work(&inside)
            }
            None if request.descriptor().flags & Descriptor::FAIL_AT_ONCE != 0 => {
                self.complete(request, &failed(Status::Drained));
                Ok(())
            }
            None => {
                self.queue.work().waiting.push_back(request);
                Ok(())
            }
        }
    }

    /// Goes on with what there is, until that is done or it is time to rest.
    fn work(&mut self, inside: &Inside<'_>) -> Result<(), Closed> {
        let queue = self.queue;
        let mut work = queue.work();
        while !inside.is_over() {
            let Some(running) = &mut work.running else {
                let Some(request) = work.waiting.pop_front() else { break };
                match work::begin(request, &mut self.files, &queue.grants, queue.shared.guard) {
                    Ok(running) => work.running = Some(running),
                    Err((request, completion)) => self.complete(request, &completion),
                }
                continue;
            };
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
                queue.shared.counts.bytes.fetch_add(operation.position(), Ordering::Relaxed);
                self.complete(request, &completion);
            }
        }
        Ok(())
    }

    fn complete(&mut self, request: Request, completion: &Completion) {
        let counts = &self.queue.shared.counts;
        let counter = if completion.status == 0 { &counts.operations } else { &counts.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        self.queue.took(-1);
        self.consumer.complete(request, completion);
    }
}
