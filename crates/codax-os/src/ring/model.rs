//! The ring with the atomics of a model checker in place of the mapping: every order in which its threads can run is
//! gone through, with every value that a load may give by the memory model. Who would sleep for good is found.
#![forbid(unsafe_code)]

use super::core::{Closed, Core, Patience, Reason};
use super::layout::{Completion, Descriptor, Header, Slot};
use super::shared::{Shared, Word, word};
use super::{Attendant, Consumer, Refused, Submitter, Unfinished};
use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

word!(u32, AtomicU32);
word!(u64, AtomicU64);

const SLOTS: u32 = 2;

/// A ring's memory, and the kernel's futexes: it compares and queues under a lock, and a wake takes the same lock.
#[derive(Debug)]
struct Memory {
    header: Header<AtomicU32, AtomicU64>,
    slots: [Slot<AtomicU32, AtomicU64>; SLOTS as usize],
    queue: Mutex<()>,
    woken: Condvar,
    fences: bool,
}

impl Memory {
    fn new(fences: bool) -> Arc<Self> {
        let small = || AtomicU32::new(0);
        let large = || AtomicU64::new(0);
        let slot = |_| Slot { state: small(), asks: small(), words: std::array::from_fn(|_| large()) };
        let header = Header {
            magic: large(),
            version: small(),
            slots: small(),
            rest: std::array::from_fn(|_| large()),
            closed: small(),
            consumer_sleeps: small(),
            waiters: small(),
            ends: small(),
            cancels: small(),
        };
        let slots = std::array::from_fn(slot);
        Arc::new(Self { header, slots, queue: Mutex::new(()), woken: Condvar::new(), fences })
    }
}

impl Shared for Arc<Memory> {
    type A = AtomicU32;
    type B = AtomicU64;

    fn header(&self) -> &Header<AtomicU32, AtomicU64> {
        &self.header
    }

    fn slots(&self) -> &[Slot<AtomicU32, AtomicU64>] {
        &self.slots
    }

    fn fence(&self) {
        if self.fences {
            fence(Ordering::SeqCst);
        }
    }

    fn sleep(&self, word: &AtomicU32, expected: u32, _at_most: Duration) {
        let queue = self.queue.lock().unwrap();
        if word.load(Ordering::Relaxed) == expected {
            drop(self.woken.wait(queue).unwrap());
        }
    }

    fn wake(&self, _word: &AtomicU32) {
        let _queue = self.queue.lock().unwrap();
        self.woken.notify_all();
    }
}

/// Never dropped: that an end closes the ring is not gone through with all the rest, and not while a test fails.
type Ends = (ManuallyDrop<Submitter<Arc<Memory>>>, ManuallyDrop<Consumer<Arc<Memory>>>);

/// Both ends, each in a process of its own.
fn ends(memory: &Arc<Memory>) -> Ends {
    let core = || Arc::new(Core::new(memory.clone(), SLOTS));
    let submitter = Submitter::new(core(), Patience::none()).unwrap();
    let consumer = Consumer::new(core(), Patience::none()).unwrap();
    (ManuallyDrop::new(submitter), ManuallyDrop::new(consumer))
}

fn request(n: u64) -> Descriptor {
    Descriptor { len: n, ..Descriptor::default() }
}

/// Serves so many requests, and answers each with its length doubled.
fn serve(consumer: &mut Consumer<Arc<Memory>>, count: u32) -> Result<(), Closed> {
    let mut served = 0;
    while served < count {
        if let Some(request) = consumer.next(None)? {
            let took_ns = request.descriptor().len * 2;
            consumer.complete(request, &Completion { took_ns, ..Completion::default() });
            served += 1;
        }
    }
    Ok(())
}

/// Goes through all orders in which no more than so many threads are interrupted where they needn't be.
fn check(preemptions: usize, of: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(of);
}

/// A submitter that waits for each of two completions, and a consumer that sleeps whenever there is nothing.
fn a_round_trip(fences: bool, requests: u64) {
    let (submitter, mut consumer) = ends(&Memory::new(fences));
    let serving = thread::spawn(move || {
        serve(&mut consumer, u32::try_from(requests).unwrap()).unwrap();
    });
    for n in 1..=requests {
        let ticket = submitter.try_submit(&request(n)).unwrap();
        assert_eq!(submitter.wait(ticket, None).unwrap().took_ns, n * 2);
    }
    serving.join().unwrap();
}

#[test]
fn nobody_sleeps_for_good_and_every_completion_is_its_own() {
    check(3, || a_round_trip(true, 1));
    check(2, || a_round_trip(true, 3));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fences_somebody_would_sleep_for_good() {
    check(3, || a_round_trip(false, 1));
}

#[test]
fn two_submitters_get_a_slot_each_and_their_own_completions() {
    check(2, || {
        let (submitter, mut consumer) = ends(&Memory::new(true));
        let other = submitter.clone();
        let ask = |submitter: &Submitter<Arc<Memory>>, n: u64| {
            let ticket = submitter.try_submit(&request(n)).unwrap();
            assert_eq!(submitter.wait(ticket, None).unwrap().took_ns, n * 2);
        };
        let asking = thread::spawn(move || {
            ask(&other, 7);
        });
        let serving = thread::spawn(move || {
            serve(&mut consumer, 2).unwrap();
        });
        ask(&submitter, 5);
        asking.join().unwrap();
        serving.join().unwrap();
    });
}

#[test]
fn a_slot_goes_to_one_of_two_submitters_and_the_other_hears_that_it_is_full() {
    check(3, || {
        let (submitter, _consumer) = ends(&Memory::new(true));
        let _taken = submitter.try_submit(&request(0)).unwrap();
        let other = submitter.clone();
        let second = thread::spawn(move || other.try_submit(&request(1)));
        let first = submitter.try_submit(&request(2));
        let second = second.join().unwrap();
        let refused = [&first, &second].iter().filter(|r| matches!(r, Err(Refused::Full))).count();
        assert_eq!((refused, [&first, &second].iter().filter(|r| r.is_ok()).count()), (1, 1));
    });
}

#[test]
fn closing_ends_all_waits_whoever_stores_at_the_same_time() {
    check(2, || {
        let memory = Memory::new(true);
        let (submitter, mut consumer) = ends(&memory);
        let serving = thread::spawn(move || {
            // Takes it and doesn't complete it, so that both may sleep when the ring is closed.
            while consumer.next(None).is_ok() {}
        });
        let closing = thread::spawn({
            let core = Core::new(memory, SLOTS);
            move || core.close(Reason::Died)
        });
        match submitter.try_submit(&request(1)) {
            Ok(ticket) => {
                let ended = submitter.wait(ticket, None);
                assert!(matches!(ended, Err(Unfinished::Closed(Closed(Reason::Died)))), "{ended:?}");
            }
            Err(refused) => assert_eq!(refused, Refused::Closed(Closed(Reason::Died))),
        }
        assert_eq!(closing.join().unwrap(), Closed(Reason::Died));
        serving.join().unwrap();
    });
}

#[test]
fn a_consumer_that_sleeps_with_a_request_begun_hears_that_it_is_cancelled() {
    check(2, || {
        let (submitter, mut consumer) = ends(&Memory::new(true));
        let serving = thread::spawn(move || {
            // If it is cancelled before it is taken it is complete without more.
            let taken = loop {
                match consumer.next(None) {
                    Ok(Some(request)) => break request,
                    Ok(None) => {}
                    Err(_) => return,
                }
            };
            while !consumer.is_cancelled(&taken) {
                assert!(matches!(consumer.next(None), Ok(None) | Err(_)));
            }
            consumer.complete(taken, &Completion::cancelled());
        });
        let ticket = submitter.try_submit(&request(1)).unwrap();
        submitter.cancel(ticket.id());
        assert_eq!(submitter.wait(ticket, None).unwrap(), Completion::cancelled());
        submitter.close(Reason::Left);
        serving.join().unwrap();
    });
}

#[test]
fn who_does_not_want_to_wait_hears_of_it_where_an_attendant_sleeps() {
    check(2, || {
        let memory = Memory::new(true);
        let core = || Arc::new(Core::new(memory.clone(), SLOTS));
        let submitter = ManuallyDrop::new(Submitter::new(core(), Patience::none()).unwrap());
        let mut attendant = ManuallyDrop::new(Attendant::new(core()).unwrap());
        let refusal = Completion { status: -11, ..Completion::default() };
        let attending = thread::spawn(move || while attendant.attend(&refusal).is_ok() {});
        let impatient = Descriptor { flags: Descriptor::FAIL_AT_ONCE, ..request(1) };
        let refused = submitter.try_submit(&impatient).unwrap();
        let cancelled = submitter.try_submit(&request(2)).unwrap();
        submitter.cancel(cancelled.id());
        assert_eq!(submitter.wait(cancelled, None).unwrap(), Completion::cancelled());
        assert_eq!(submitter.wait(refused, None).unwrap(), refusal);
        submitter.close(Reason::Left);
        attending.join().unwrap();
    });
}
