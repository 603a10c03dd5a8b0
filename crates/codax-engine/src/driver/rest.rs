//! Queues while their device is at rest: the store keeps them until it goes on, with whichever process of its driver that will be.
//!
//! A driver gives its queues up with the device's state ([`Driver::save`](codax_core::driver::Driver::save)) or as it forgets that (`reset`), and is handed them
//! before it gets the state back, or just goes on. Who submits something meanwhile waits, or is told at once that the device is at rest, by a thread for each queue.

use crate::driver::queues::{At, Queue};
use crate::driver::{Call, Driven, Fault};
use crate::store::Inner;
use crate::store::state::State;
use codax_core::driver::QueueId;
use codax_os::ring::{Completion, End, Reason, Ring};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};

/// Somebody attends a queue's end as long as this is there.
#[derive(Debug)]
pub(super) struct Attendance {
    ring: Ring,
    over: Arc<AtomicBool>,
    ended: Receiver<()>,
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.ring.nudge();
    }
}

impl Attendance {
    /// Comes back when the end is free for another.
    fn end(self) {
        self.over.store(true, Ordering::Release);
        self.ring.nudge();
        // The thread tells by going.
        let _ = self.ended.recv();
    }
}

impl State {
    /// A driver's queues are the store's from now on: it was asked to give them up, and with `forgotten` all that is in them, whenever and whatever it answers.
    pub fn take_queues(&mut self, driver: &Arc<Driven>, forgotten: bool) {
        for queue in self.queues.values_mut().filter(|queue| queue.is_at(driver)) {
            (queue.at, queue.forgotten) = (At::Store(None), forgotten);
        }
    }

    /// Whether a device was to forget queues, and nobody knows whether it has.
    pub fn forgets_queues(&mut self, device: &str) -> bool {
        self.at_rest(device).any(|(_, queue)| queue.forgotten)
    }

    /// The queues of a device that are the store's.
    fn at_rest<'a>(&'a mut self, device: &str) -> impl Iterator<Item = (QueueId, &'a mut Queue)> {
        let its = self.queues.iter_mut().filter(move |(_, queue)| queue.device == device);
        its.filter(|(_, queue)| matches!(queue.at, At::Store(_))).map(|(id, queue)| (*id, queue))
    }
}

impl Inner {
    /// Has a thread attend a queue of the store's; nobody does if its end is taken. Who waits for what is forgotten is told.
    pub fn attend(&self, queue: &mut Queue) {
        let Ok(mut attendant) = queue.ring.attendant() else { return };
        if std::mem::take(&mut queue.forgotten) {
            attendant.fail_all(&Completion::failed(Completion::RESET));
        }
        let over = Arc::<AtomicBool>::default();
        let (going, ended) = channel::<()>();
        let ends = over.clone();
        let attending = move || {
            let _going = going;
            let refusal = Completion::failed(Completion::DRAINED);
            while !ends.load(Ordering::Acquire) && attendant.attend(&refusal).is_ok() {}
            drop(attendant);
        };
        self.env.spawn("queue at rest", Box::new(attending));
        queue.at = At::Store(Some(Attendance { ring: queue.ring.clone(), over, ended }));
    }

    /// Has all queues of a device that are the store's attended.
    pub fn attend_queues(&self, st: &mut State, device: &str) {
        for (_, queue) in st.at_rest(device) {
            if matches!(queue.at, At::Store(None)) {
                self.attend(queue);
            }
        }
    }

    /// What a device was at is lost: who waits for it is told.
    pub fn forget_queues(&self, device: &str) {
        self.free_queues(device);
        let mut st = self.lock();
        st.at_rest(device).for_each(|(_, queue)| queue.forgotten = true);
        self.attend_queues(&mut st, device);
    }

    /// Hands a driver the queues of its device.
    pub fn hand_over_queues(&self, device: &str, driver: &Arc<Driven>) {
        self.free_queues(device);
        let asked: Vec<_> = {
            let mut st = self.lock();
            // One that was to be forgotten, and whose end somebody holds all the same.
            self.end_queues(&mut st, |queue| queue.device == device && queue.forgotten);
            st.at_rest(device).map(|(id, queue)| (id, queue.begin_open(id, driver))).collect()
        };
        for (id, asked) in asked {
            let call = Call::within(self.options().ack_timeout);
            match asked.and_then(|asked| asked.wait(driver, call)) {
                // Its end says what becomes of its queues.
                Ok(()) | Err(Fault::Gone) => {}
                Err(fault) => {
                    let line = format!("{} was not able to take a queue again: {fault}", driver.name());
                    self.event("driver", device, &line, 0);
                    self.end_queue(&mut self.lock(), id, Reason::NotTaken);
                }
            }
        }
    }

    /// A driver is gone. Its queues go with it, but for those that somebody can go on with: of a device that has not gone on yet from the state that is `kept`, and what is forgotten.
    pub fn leave_queues(&self, st: &mut State, device: &str, driver: &Arc<Driven>, kept: bool) {
        if kept {
            st.take_queues(driver, false);
        }
        let held = |queue: &Queue| queue.device == device && matches!(queue.at, At::Store(None));
        self.end_queues(st, |queue| queue.is_at(driver) || held(queue) && !kept && !queue.forgotten);
        for (_, queue) in st.at_rest(device) {
            if matches!(queue.at, At::Store(None)) {
                queue.ring.release(End::Consumer);
            }
        }
        self.attend_queues(st, device);
    }

    /// Nobody knows any more how far a device was with its queues.
    pub fn lose_queues(&self, device: &str) {
        let at_rest = |queue: &Queue| queue.device == device && matches!(queue.at, At::Store(_));
        self.end_queues(&mut self.lock(), |queue| at_rest(queue) && !queue.forgotten);
    }

    /// Ends the attendance of a device's queues, for another to take their ends.
    fn free_queues(&self, device: &str) {
        let mut st = self.lock();
        let taken = st.at_rest(device).map(|(_, queue)| std::mem::replace(&mut queue.at, At::Store(None)));
        let taken: Vec<At> = taken.collect();
        drop(st);
        for at in taken {
            if let At::Store(Some(attendance)) = at {
                attendance.end();
            }
        }
    }
}
