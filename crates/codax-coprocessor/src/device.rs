//! The driver: what the store asks of the device.

use crate::accesses::Accesses;
use crate::counts::Totals;
use crate::gate::Gate;
use crate::queue::{Queue, Shared};
use crate::saved::{self, Saved};
use codax::driver::{Class, Counter, Description, Driver, Granted, QueueId, Reach};
use codax::queue::Opcode;
use codax::{Error, ErrorKind, Result, Store};
use codax_os::guard::Guard;
use codax_os::ring::Ring;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a reset waits for steps: one takes less than a millisecond, but for what waits for the machine.
const RESET_PATIENCE: Duration = Duration::from_secs(5);

/// The software coprocessor of a device.
#[derive(Debug)]
pub struct Software {
    shared: Arc<Shared>,
    queues: Mutex<BTreeMap<QueueId, Queue>>,
    /// How far queues were that the device goes on with.
    left: Mutex<Saved>,
    /// Whether the device has memory of its own.
    has_memory: bool,
}

impl Software {
    pub fn new(store: Store, guard: Guard, accesses: Accesses, has_memory: bool) -> Self {
        let accesses = Arc::new(accesses);
        let shared = Shared { store, guard, gate: Gate::new(), counts: Totals::default(), accesses };
        Self { shared: Arc::new(shared), queues: Mutex::default(), left: Mutex::default(), has_memory }
    }

    /// Closes all queues: the programs at their other ends see it.
    pub fn end(&self) {
        self.queues().values().for_each(Queue::close);
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<QueueId, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self) -> MutexGuard<'_, Saved> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives all queues up, and says how far they are.
    fn give_up(&self) -> Saved {
        let queues = std::mem::take(&mut *self.queues());
        queues.values().for_each(|queue| queue.leave(&self.shared.gate));
        queues.into_iter().filter_map(|(id, queue)| Some((id, queue.left()?))).collect()
    }

    fn start(&self, id: QueueId, queue: &mut Queue) -> Result<()> {
        let from = self.left().remove(&id);
        let failed = |e: std::io::Error| Error::internal(format!("take queue {}: {e}", id.0));
        queue.start(from, &self.shared).map_err(failed)
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
        let mut left = self.left();
        // Beside what was not kept of a state that was saved before.
        left.extend(self.give_up());
        Ok(saved::encode(&left))
    }

    fn restore(&self, state: &[u8]) -> Result<()> {
        *self.left() = saved::decode(state).map_err(|why| Error::new(ErrorKind::Corrupt, why))?;
        Ok(())
    }

    fn reset(&self) -> Result<()> {
        self.stop(RESET_PATIENCE)?;
        self.give_up();
        self.left().clear();
        Ok(())
    }

    fn resume(&self) -> Result<()> {
        for (id, queue) in self.queues().iter_mut() {
            // One that can't go on is closed, and doesn't keep the others.
            if let Err(e) = self.start(*id, queue) {
                eprintln!("codax coprocessor: {e}");
                queue.close();
            }
        }
        // Of those that were closed meanwhile.
        self.left().clear();
        self.shared.gate.open();
        Ok(())
    }

    fn counters(&self) -> Result<Vec<Counter>> {
        let sums = self.shared.counts.sums();
        let counter = |name: &str, value| Counter { name: name.to_owned(), value };
        let all = [
            counter("operations", sums.operations),
            counter("failed", sums.failed),
            counter("bytes", sums.bytes),
        ];
        Ok(all.into_iter().chain(self.shared.accesses.counters()).collect())
    }

    fn open_queue(&self, queue: QueueId, ring: OwnedFd) -> Result<()> {
        let failed = |e: std::io::Error| Error::internal(format!("take queue {}: {e}", queue.0));
        let mut opened = Queue::new(Ring::open(ring).map_err(failed)?);
        if self.shared.gate.is_open() {
            self.start(queue, &mut opened)?;
        }
        self.queues().insert(queue, opened);
        Ok(())
    }

    fn grant(&self, file: Granted) -> Result<()> {
        let queues = self.queues();
        let queue = queues.get(&file.queue);
        let queue = queue.ok_or_else(|| Error::device_state(format!("queue {} is closed", file.queue.0)))?;
        queue.grant(file);
        Ok(())
    }

    fn close_queue(&self, queue: QueueId) -> Result<()> {
        if let Some(queue) = self.queues().remove(&queue) {
            queue.close();
            queue.leave(&self.shared.gate);
        }
        Ok(())
    }
}
