//! Who is at the consumer's end while nobody carries anything out: a device is at rest, and its driver may be gone.
//!
//! What is in a ring waits meanwhile, but for what was cancelled and what would rather [fail](Descriptor::FAIL_AT_ONCE) than wait, wherever in
//! the ring and whether or not somebody has begun it. Where consumers were and are need not be known for that: a slot says by itself what
//! it is and what it will be when it is done. The next consumer [finds](super::place) what is complete.
#![forbid(unsafe_code)]

use super::consume::SLEEPS;
use super::core::{Closed, Core};
use super::ends::{Claim, End};
use super::layout::{ASLEEP, CANCEL, CLOSED, Completion, Descriptor, Slot};
use super::shared::{Mapped, Shared, Word};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The consumer's end, while there is no consumer. It is given back when this is dropped, for a consumer to take.
#[derive(Debug)]
pub struct Attendant<S: Shared = Mapped> {
    core: Claim<S>,
    /// How often something was cancelled, as far as is known here.
    cancels: u32,
}

impl<S: Shared> Attendant<S> {
    pub(super) fn new(core: Arc<Core<S>>) -> io::Result<Self> {
        let mut core = Claim::new(core, End::Consumer)?;
        core.passes_on();
        Ok(Self { core, cancels: 0 })
    }

    /// Completes what is cancelled, and with `refusal` what would rather fail than wait; then waits until there may be more of it,
    /// somebody [nudges](super::Ring::nudge), or now and then for no reason.
    pub fn attend(&mut self, refusal: &Completion) -> Result<(), Closed> {
        let core = self.core.share();
        let word = &core.shared.header().consumer_sleeps;
        word.store(SLEEPS, Ordering::Relaxed);
        let found = core.sleep(word, SLEEPS, None, || {
            // Acquire: what was submitted before somebody took the word away is seen by the look after it.
            let woken = word.load(Ordering::Acquire) != SLEEPS;
            let open = core.open();
            (open.is_err() || self.look(refusal) || woken).then_some(open)
        });
        word.store(0, Ordering::Relaxed);
        found.unwrap_or(Ok(()))
    }

    /// Whether there was anything to do.
    fn look(&mut self, refusal: &Completion) -> bool {
        // Acquire: what was counted is seen among the asks.
        let cancels = self.core.shared.header().cancels.load(Ordering::Acquire);
        let heard = std::mem::replace(&mut self.cancels, cancels) != cancels;
        let done = self.complete(|descriptor, cancelled| match descriptor.flags & Descriptor::FAIL_AT_ONCE {
            _ if cancelled => Some(Completion::cancelled()),
            0 => None,
            _ => Some(*refusal),
        });
        heard || done
    }

    /// Completes all that was submitted like this.
    pub fn fail_all(&self, completion: &Completion) {
        self.complete(|_, _| Some(*completion));
    }

    /// Completes what was submitted as `how` says of it, which is told whether it was cancelled; whether there was anything.
    fn complete(&self, how: impl Fn(Descriptor, bool) -> Option<Completion>) -> bool {
        let mut any = false;
        for slot in self.core.shared.slots() {
            let state = slot.state.load(Ordering::Acquire);
            if state & CLOSED != 0 || state & 1 == 0 {
                continue;
            }
            let words = std::array::from_fn(|i| slot.words[i].load(Ordering::Relaxed));
            let asks = asked(slot, state);
            if let Some(completion) = how(Descriptor::decode(words), asks & CANCEL != 0) {
                self.done(slot, state, &completion);
                any = true;
            }
        }
        any
    }

    fn done(&self, slot: &Slot<S::A, S::B>, submitted: u32, completion: &Completion) {
        for (word, value) in Completion::WORDS.into_iter().zip(completion.encode()) {
            slot.words[word].store(value, Ordering::Relaxed);
        }
        slot.state.store((submitted + 1) & !CLOSED, Ordering::Release);
        self.core.shared.fence();
        if asked(slot, submitted) & ASLEEP != 0 {
            self.core.shared.wake(&slot.state);
        }
    }
}

/// What the submitter says beside the request of this state.
fn asked<A: Word<u32>, B>(slot: &Slot<A, B>, submitted: u32) -> u32 {
    let asks = slot.asks.load(Ordering::Relaxed);
    if asks & !(ASLEEP | CANCEL) == (submitted >> 1) << 2 { asks & (ASLEEP | CANCEL) } else { 0 }
}
