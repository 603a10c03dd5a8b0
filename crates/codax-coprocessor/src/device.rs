//! The driver: what the store asks of the device.

use crate::accesses::Accesses;
use crate::counts::Totals;
use crate::gate::Gate;
use crate::queue::{Queue, Shared};
use crate::saved::{At, Saved};
use codax::driver::{Class, Counter, Description, Driver, Granted, QueueId, Reach};
use codax::queue::Opcode;
use codax::{Error, ErrorKind, Result, Store};
use codax_ops::Operation;
use codax_os::guard::Guard;
use codax_os::ring::Ring;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// How long a reset waits for steps: one takes less than a millisecond, but for what waits for the machine.
const RESET_PATIENCE: Duration = Duration::from_secs(5);

/// The software coprocessor of a device.
#[derive(Debug)]
pub struct Software {
    shared: Arc<Shared>,
    queues: Mutex<BTreeMap<QueueId, Arc<Queue>>>,
    /// Whether the device has memory of its own.
    has_memory: bool,
    /// Tells this process's state from another's.
    process: u64,
}

impl Software {
    pub fn new(store: Store, guard: Guard, accesses: Accesses, has_memory: bool) -> Self {
        let accesses = Arc::new(accesses);
        let shared = Shared { store, guard, gate: Gate::new(), counts: Totals::default(), accesses };
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let process = u64::from(std::process::id()) ^ u64::try_from(since.as_nanos()).unwrap_or(0) << 16;
        Self { shared: Arc::new(shared), queues: Mutex::default(), has_memory, process }
    }

    /// Closes all queues: the programs at their other ends see it.
    pub fn end(&self) {
        self.queues().values().for_each(|queue| queue.close());
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<QueueId, Arc<Queue>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, within: Duration) -> Result<()> {
        match self.shared.gate.shut(within) {
            0 => Ok(()),
            1 => Err(Error::busy("an operation has not come to the end of its step")),
            n => Err(Error::busy(format!("{n} operations have not come to the end of their steps"))),
        }
    }
}

impl Driver for Software {
    fn describe(&self) -> Description {
        Description {
            operations: Opcode::ALL.iter().map(|opcode| opcode.name().to_owned()).collect(),
            has_state: true,
            reach: Reach::Nothing,
            class: if self.has_memory { Class::Type2 } else { Class::Type1 },
            ..Description::coprocessor("software", env!("CARGO_PKG_VERSION"))
        }
    }

    fn quiesce(&self, within: Duration) -> Result<()> {
        self.stop(within)
    }

    fn save(&self) -> Result<Vec<u8>> {
        let at = |(queue, its): (&QueueId, &Arc<Queue>)| {
            let work = its.work();
            let running = work.running.as_ref()?;
            let (position, state) = (running.request.position(), running.operation.save());
            Some(At { queue: *queue, position, state })
        };
        let queues = self.queues().iter().filter_map(at).collect();
        Ok(Saved { process: self.process, queues }.encode())
    }

    fn restore(&self, state: &[u8]) -> Result<()> {
        let wrong = |why: String| Error::new(ErrorKind::Corrupt, why);
        let saved = Saved::decode(state).map_err(wrong)?;
        if saved.process != self.process {
            // Its queues were closed when it ended, and who waited was told.
            return Ok(());
        }
        let queues = self.queues();
        for At { queue, position, state } in saved.queues {
            // Closed meanwhile: nobody waits for it.
            let Some(its) = queues.get(&queue) else { continue };
            let operation = Operation::restore(&state).map_err(|e| wrong(e.to_string()))?;
            let mut work = its.work();
            // Cancelled meanwhile, if it isn't there.
            if let Some(running) = work.running.as_mut().filter(|r| r.request.position() == position) {
                if running.operation.spec() != operation.spec() {
                    return Err(wrong(format!("the state of queue {} is another operation's", queue.0)));
                }
                running.operation = operation;
            }
        }
        Ok(())
    }

    fn reset(&self) -> Result<()> {
        self.stop(RESET_PATIENCE)?;
        for queue in self.queues().values() {
            queue.work().forget();
            queue.nudge();
        }
        Ok(())
    }

    fn resume(&self) -> Result<()> {
        self.shared.gate.open();
        self.queues().values().for_each(|queue| queue.nudge());
        Ok(())
    }

    fn counters(&self) -> Result<Vec<Counter>> {
        let sums = self.shared.counts.sums();
        let (queues, depth) = {
            let queues = self.queues();
            (queues.len() as u64, queues.values().map(|queue| queue.depth() as u64).sum())
        };
        let counter = |name: &str, value| Counter { name: name.to_owned(), value };
        let all = [
            counter("operations", sums.operations),
            counter("failed", sums.failed),
            counter("bytes", sums.bytes),
            counter("queues", queues),
            counter("queue depth", depth),
        ];
        Ok(all.into_iter().chain(self.shared.accesses.counters()).collect())
    }

    fn open_queue(&self, queue: QueueId, ring: OwnedFd) -> Result<()> {
        let failed = |e: std::io::Error| Error::internal(format!("take queue {}: {e}", queue.0));
        let ring = Ring::open(ring).map_err(failed)?;
        let started = Queue::start(ring, self.shared.clone()).map_err(failed)?;
        self.queues().insert(queue, started);
        Ok(())
    }

    fn grant(&self, file: Granted) -> Result<()> {
        let queues = self.queues();
        let queue = queues.get(&file.queue);
        let queue = queue.ok_or_else(|| Error::device_state(format!("queue {} is closed", file.queue.0)))?;
        queue.grants().add(file);
        Ok(())
    }

    fn close_queue(&self, queue: QueueId) -> Result<()> {
        if let Some(queue) = self.queues().remove(&queue) {
            queue.close();
        }
        Ok(())
    }
}
