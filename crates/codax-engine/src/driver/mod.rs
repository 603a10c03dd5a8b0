//! Devices' drivers as the store reaches them.
//!
//! A driver is somebody else's code: it may hang, lie or be gone in the middle of a call. So each that has anything to do is called on a thread of its own, one call
//! after the other, and who waits for an answer does so no longer than he says, and outside the state's lock.
//!
//! * `coherence`: caches written back before bytes are copied and before frames are given back
//! * `standing`: taken, stopped with its state saved, and going on
//! * `needs`: what a device needs of its memory
//! * `queues`: programs that hand in work
//! * `rest`: their queues while the device is at rest
//! * `saved`: what the store remembers of a device beside the journal

mod coherence;
mod needs;
mod queues;
mod rest;
mod saved;
mod standing;

pub(crate) use coherence::{Asking, Part};
pub(crate) use needs::{Fit, remember_needs};
pub(crate) use queues::Queue;
pub use standing::Driving;

use crate::env::Env;
use codax_core::change::PoolRecord;
use codax_core::driver::{Class, Description, Driver, Reach, Standing};
use codax_core::plan::Holder;
use codax_core::{Error, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How often who waits for a driver looks whether he still wants to.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A device that is memory and nothing else, and so has nothing to be asked: the driver of every device that has no other.
#[derive(Debug)]
pub struct Expander;

impl Driver for Expander {
    fn describe(&self) -> Description {
        Description::memory_only("expander", env!("CARGO_PKG_VERSION"))
    }
}

/// What is known of a device without memory as long as nobody drives it.
#[derive(Debug)]
struct Absent;

impl Driver for Absent {
    fn describe(&self) -> Description {
        let class = Class::Type1;
        Description { class, reach: Reach::Nothing, ..Description::memory_only("none", "") }
    }
}

/// Why a driver did not do what it was asked for.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// It is gone, with all that it had.
    Gone,
    /// It has not answered in this time.
    Late(Duration),
    /// Nobody wants to know any more.
    Unwanted,
    /// It says so itself.
    Failed(Error),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone => f.write_str("its process is gone"),
            Self::Late(time) => write!(f, "it has not answered within {:.1} s", time.as_secs_f64()),
            Self::Unwanted => f.write_str("cancelled"),
            Self::Failed(e) => write!(f, "it says: {e}"),
        }
    }
}

/// How a call is made.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    /// How long it is waited for.
    pub patience: Duration,
    /// Whether it is made at all once nobody waits for it: what changes what the device does has to be.
    pub in_any_case: bool,
    /// Whether it isn't to be waited for any more.
    pub unwanted: &'a dyn Fn() -> bool,
}

impl Call<'_> {
    /// One that is waited for so long.
    pub fn within(patience: Duration) -> Self {
        Self { patience, in_any_case: false, unwanted: &|| false }
    }
}

type Work = Box<dyn FnOnce(&dyn Driver) + Send>;

struct Queued {
    work: Work,
    in_any_case: bool,
    wanted: Arc<AtomicBool>,
    number: u64,
}

/// What a driver was asked and may not have answered yet.
pub(crate) struct Asked<T> {
    answered: mpsc::Receiver<Result<T>>,
    wanted: Arc<AtomicBool>,
    number: u64,
}

impl<T> Asked<T> {
    /// Waits for the answer of the driver that was asked.
    pub fn wait(self, driver: &Driven, call: Call<'_>) -> std::result::Result<T, Fault> {
        let begun = Instant::now();
        let fault = loop {
            let left = call.patience.saturating_sub(begun.elapsed());
            match self.answered.recv_timeout(left.min(LOOK_EVERY)) {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(e)) if !driver.is_gone() => break Fault::Failed(e),
                // What it says at its end says nothing.
                Ok(Err(_)) => break Fault::Gone,
                Err(RecvTimeoutError::Disconnected) if !driver.is_gone() => break died(),
                Err(_) if driver.is_gone() => break Fault::Gone,
                Err(_) if (call.unwanted)() => break Fault::Unwanted,
                Err(_) if left.is_zero() => break Fault::Late(call.patience),
                Err(_) => {}
            }
        };
        self.wanted.store(false, Ordering::Release);
        if matches!(fault, Fault::Late(_)) {
            driver.late.fetch_max(self.number, Ordering::AcqRel);
        }
        Err(fault)
    }
}

fn died() -> Fault {
    Fault::Failed(Error::internal("the thread that calls it has died"))
}

/// A device's driver.
pub(crate) struct Driven {
    /// What it said that the device is.
    pub description: Description,
    /// Its process, where that is one of its own.
    pub pid: Option<u32>,
    /// To its thread; none if there is nothing to ask it.
    calls: Option<Sender<Queued>>,
    /// How many calls it was given, the last one that nobody waited for any more, and the last one that is over.
    given: AtomicU64,
    late: AtomicU64,
    over: Arc<AtomicU64>,
    gone: AtomicBool,
    standing: Mutex<Standing>,
    /// Of those who bring it to rest or let it go on.
    turn: Mutex<()>,
    /// Whether somebody lets it go on when it answers.
    awaited: AtomicBool,
    /// Whether it takes queues, since it was first asked.
    takes_queues: Arc<OnceLock<bool>>,
}

impl Driven {
    /// The driver of a device that nobody drives: it says what the device is and is never asked again.
    pub fn nobody(pool: &PoolRecord) -> Self {
        let (driver, standing): (&dyn Driver, _) = match pool.has_memory() {
            true => (&Expander, Standing::Running),
            false => (&Absent, Standing::Stopped),
        };
        Self {
            description: driver.describe(),
            pid: None,
            calls: None,
            given: AtomicU64::new(0),
            late: AtomicU64::new(0),
            over: Arc::default(),
            gone: AtomicBool::new(false),
            standing: Mutex::new(standing),
            turn: Mutex::new(()),
            awaited: AtomicBool::new(false),
            takes_queues: Arc::default(),
        }
    }

    /// A driver with a thread that calls it, until this value is gone and the last call is over. Its device is at rest.
    pub fn active(
        driver: Arc<dyn Driver>,
        description: Description,
        pid: Option<u32>,
        env: &dyn Env,
    ) -> Self {
        let (calls, queued) = mpsc::channel::<Queued>();
        let over = Arc::new(AtomicU64::new(0));
        let done = over.clone();
        let work = move || {
            for Queued { work, in_any_case, wanted, number } in queued {
                if in_any_case || wanted.load(Ordering::Acquire) {
                    work(&*driver);
                }
                done.fetch_max(number, Ordering::AcqRel);
            }
        };
        env.spawn("driver", Box::new(work));
        let standing = Mutex::new(Standing::Stopped);
        let (given, late, gone, turn, awaited, takes_queues) = Default::default();
        let calls = Some(calls);
        Self { description, pid, calls, given, late, over, gone, standing, turn, awaited, takes_queues }
    }

    /// Asks the driver, after all that it was asked before.
    pub fn ask<T: Send + 'static>(
        &self,
        call: Call<'_>,
        work: impl FnOnce(&dyn Driver) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, Fault> {
        self.begin(call.in_any_case, work)?.wait(self, call)
    }

    /// As [`Self::ask`], without the wait: for who holds a lock that says what comes before what.
    pub fn begin<T: Send + 'static>(
        &self,
        in_any_case: bool,
        work: impl FnOnce(&dyn Driver) -> Result<T> + Send + 'static,
    ) -> std::result::Result<Asked<T>, Fault> {
        let Some(calls) = &self.calls else { return Err(Fault::Gone) };
        if self.is_gone() {
            return Err(Fault::Gone);
        }
        let wanted = Arc::new(AtomicBool::new(true));
        let (answer, answered) = mpsc::channel();
        let work: Work = Box::new(move |driver| drop(answer.send(work(driver))));
        let number = self.next_number();
        let queued = Queued { work, in_any_case, wanted: wanted.clone(), number };
        calls.send(queued).map_err(|_| died())?;
        Ok(Asked { answered, wanted, number })
    }

    /// As [`Self::ask`], and nobody waits.
    pub fn tell(&self, work: impl FnOnce(&dyn Driver) -> Result<()> + Send + 'static) {
        let work: Work = Box::new(move |driver| drop(work(driver)));
        let number = self.next_number();
        let queued = Queued { work, in_any_case: true, wanted: Arc::default(), number };
        if let Some(calls) = self.calls.as_ref().filter(|_| !self.is_gone()) {
            // Its thread ends with it.
            let _ = calls.send(queued);
        }
    }

    fn next_number(&self) -> u64 {
        self.given.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether somebody has waited for it in vain, and it has not answered since.
    pub fn is_late(&self) -> bool {
        self.late.load(Ordering::Acquire) > self.over.load(Ordering::Acquire)
    }

    /// Its process is gone, and with it what it mapped: nothing of the device's caches is left to be written back.
    pub fn end(&self) {
        self.gone.store(true, Ordering::Release);
    }

    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Whether it is asked anything at all.
    pub fn is_active(&self) -> bool {
        self.calls.is_some()
    }

    /// Whether its device may have bytes of files in its caches.
    pub fn caches(&self) -> bool {
        self.is_active() && self.description.caches_files() && !self.is_gone()
    }

    pub fn standing(&self) -> Standing {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_standing(&self, standing: Standing) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }

    /// Who it is, for people.
    pub fn name(&self) -> String {
        let pid = self.pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
        format!("{}{pid}", self.description.driver)
    }

    /// The driver as somebody in the way.
    pub fn holder(&self, why: String) -> Holder {
        Holder { pid: self.pid, command: self.description.driver.clone(), why }
    }
}

impl std::fmt::Debug for Driven {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Driven({})", self.name())
    }
}
