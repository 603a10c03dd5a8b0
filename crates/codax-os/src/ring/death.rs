//! An end dies between any two accesses to the memory, for each of them; and nobody sleeps for good where nothing but a
//! wake-up ends a sleep.
#![forbid(unsafe_code)]

use super::core::{Closed, Core, Patience, Reason};
use super::layout::{Completion, Descriptor, Header, Slot};
use super::shared::{Mapped, Shared, Word};
use super::{Consumer, Refused, Ring, Submitter, Unfinished};
use crate::futex;
use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

const SLOTS: u32 = 2;

/// So long that a test that needs it has failed.
const FOR_GOOD: Duration = Duration::from_secs(3600);

/// How long an end may take to finish.
const PATIENCE: Duration = Duration::from_secs(60);

thread_local! {
    /// Accesses that this thread still lives to make, and who is told of its end.
    static LIFE: RefCell<Option<(u64, Sender<bool>)>> = const { RefCell::new(None) };
}

fn step() {
    let dead = LIFE.with_borrow_mut(|life| match life {
        Some((0, over)) => {
            over.send(false).unwrap();
            true
        }
        Some((left, _)) => {
            *left -= 1;
            false
        }
        None => false,
    });
    // Who has died does nothing any more, and so doesn't unwind either.
    if dead {
        loop {
            thread::park();
        }
    }
}

/// An atomic whose user may die before each access.
#[derive(Debug)]
struct Mortal<T>(T);

macro_rules! mortal {
    ($ty:ty, $atomic:ty, $($name:ident($($arg:ident: $of:ty),*) $(-> $out:ty)?;)*) => {
        impl Word<$ty> for Mortal<$atomic> {
            fn new(value: $ty) -> Self {
                Self(<$atomic>::new(value))
            }
            $(fn $name(&self, $($arg: $of),*) $(-> $out)? {
                step();
                self.0.$name($($arg),*)
            })*
        }
    };
    ($ty:ty, $atomic:ty) => {
        mortal! { $ty, $atomic,
            load(order: Ordering) -> $ty;
            store(value: $ty, order: Ordering);
            swap(value: $ty, order: Ordering) -> $ty;
            fetch_or(bits: $ty, order: Ordering) -> $ty;
            fetch_and(bits: $ty, order: Ordering) -> $ty;
            fetch_add(value: $ty, order: Ordering) -> $ty;
            fetch_sub(value: $ty, order: Ordering) -> $ty;
            compare_exchange(old: $ty, new: $ty, order: Ordering, failed: Ordering) -> Result<$ty, $ty>;
        }
    };
}

mortal!(u32, AtomicU32);
mortal!(u64, AtomicU64);

#[derive(Debug)]
struct Memory {
    header: Header<Mortal<AtomicU32>, Mortal<AtomicU64>>,
    slots: Vec<Slot<Mortal<AtomicU32>, Mortal<AtomicU64>>>,
}

impl Memory {
    fn new() -> Arc<Self> {
        let small = || Mortal::<AtomicU32>::new(0);
        let large = || Mortal::<AtomicU64>::new(0);
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
        let slot = |_| Slot { state: small(), asks: small(), words: std::array::from_fn(|_| large()) };
        Arc::new(Self { header, slots: (0..SLOTS).map(slot).collect() })
    }
}

impl Shared for Arc<Memory> {
    type A = Mortal<AtomicU32>;
    type B = Mortal<AtomicU64>;

    fn header(&self) -> &Header<Self::A, Self::B> {
        &self.header
    }

    fn slots(&self) -> &[Slot<Self::A, Self::B>] {
        &self.slots
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn sleep(&self, word: &Self::A, expected: u32, at_most: Duration) {
        step();
        let _ = futex::wait(&word.0, expected, Some(at_most));
        step();
    }

    fn wake(&self, word: &Self::A) {
        step();
        futex::wake(std::ptr::from_ref(&word.0).addr(), u32::MAX).unwrap();
    }
}

fn request(n: u64) -> Descriptor {
    Descriptor { len: n, ..Descriptor::default() }
}

/// Serves until the ring is closed.
fn serve<S: Shared>(consumer: &mut Consumer<S>) -> Closed {
    loop {
        match consumer.next(None) {
            Ok(Some(request)) => {
                let took_ns = request.descriptor().len * 2;
                consumer.complete(request, &Completion { took_ns, ..Completion::default() });
            }
            Ok(None) => {}
            Err(closed) => return closed,
        }
    }
}

/// Has so many requests carried out, one after the other, and none wrong.
fn ask<S: Shared>(submitter: &Submitter<S>, requests: u64) -> Result<(), Closed> {
    for n in 1..=requests {
        match submitter.try_submit(&request(n)).map(|ticket| submitter.wait(ticket, None)) {
            Ok(Ok(completion)) => assert_eq!(completion.took_ns, n * 2),
            Err(Refused::Closed(closed)) | Ok(Err(Unfinished::Closed(closed))) => return Err(closed),
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

/// Runs `end` in a thread that dies before it makes one access more than `lives`. What comes back is whether it lived,
/// when it is over.
fn until_death(lives: u64, end: impl FnOnce() + Send + 'static) -> Receiver<bool> {
    let (over, result) = channel();
    thread::spawn(move || {
        LIFE.set(Some((lives, over)));
        end();
        if let Some((_, over)) = LIFE.take() {
            over.send(true).unwrap();
        }
    });
    result
}

/// Lets an end die at each of its steps, of which there are more than so many, until it lives long enough; whoever learns of it closes the ring, and the
/// other end must end too.
fn die_everywhere(
    steps: u64,
    dying: impl Fn(u64, Arc<Core<Arc<Memory>>>) -> Receiver<bool>,
    other: impl Fn(Arc<Core<Arc<Memory>>>) + Send + Sync + 'static,
) {
    let other = Arc::new(other);
    for lives in 0.. {
        let memory = Memory::new();
        let core = || Arc::new(Core::sleeping(memory.clone(), SLOTS, FOR_GOOD));
        let dies = dying(lives, core());
        let (over, survivor) = channel();
        thread::spawn({
            let (other, core) = (other.clone(), core());
            move || {
                other(core);
                over.send(()).unwrap();
            }
        });
        let lived =
            dies.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{lives}: the end that dies hangs: {e}"));
        core().close(Reason::Died);
        survivor.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{lives}: the end that lives hangs: {e}"));
        if lived {
            assert!(lives > steps, "it has more steps than {lives}");
            return;
        }
    }
}

#[test]
fn a_consumer_that_dies_at_any_step_leaves_no_submitter_waiting() {
    die_everywhere(
        50,
        |lives, core| {
            until_death(lives, move || {
                let mut consumer = ManuallyDrop::new(Consumer::new(core, Patience::none()).unwrap());
                let mut served = 0;
                while served < 3 {
                    if let Some(request) = consumer.next(None).unwrap() {
                        let took_ns = request.descriptor().len * 2;
                        consumer.complete(request, &Completion { took_ns, ..Completion::default() });
                        served += 1;
                    }
                }
            })
        },
        |core| {
            // Closed before the first request, if the consumer was so quick to die.
            let Ok(submitter) = Submitter::new(core, Patience::none()) else { return };
            if let Err(closed) = ask(&submitter, 4) {
                assert_eq!(closed, Closed(Reason::Died));
            }
        },
    );
}

#[test]
fn a_submitter_that_dies_at_any_step_leaves_no_consumer_waiting() {
    die_everywhere(
        50,
        |lives, core| {
            until_death(lives, move || {
                let submitter = ManuallyDrop::new(Submitter::new(core, Patience::none()).unwrap());
                ask(&submitter, 2).unwrap();
                let ticket = submitter.try_submit(&request(3)).unwrap();
                submitter.cancel(ticket.id());
                submitter.wait(ticket, None).unwrap();
            })
        },
        |core| {
            let Ok(mut consumer) = Consumer::new(core, Patience::none()) else { return };
            assert_eq!(serve(&mut consumer), Closed(Reason::Died));
        },
    );
}

#[test]
fn who_closes_and_dies_before_it_wakes_anybody_is_made_good_by_the_next() {
    die_everywhere(
        6,
        |lives, core| until_death(lives, move || _ = core.close(Reason::Left)),
        |core| {
            let consumer = Consumer::new(core.clone(), Patience::none());
            let Ok(submitter) = Submitter::new(core, Patience::none()) else { return };
            let Ok(ticket) = submitter.try_submit(&request(1)) else { return };
            assert!(matches!(submitter.wait(ticket, None), Err(Unfinished::Closed(_))));
            drop(consumer);
        },
    );
}

/// Ends of a mapped ring that sleep until they are woken, after as many looks as they find right or at once.
fn ends(slots: u32, sleepy: bool) -> (Submitter, Consumer) {
    let (_, fd) = Ring::create(slots).unwrap();
    let core = || Arc::new(Core::sleeping(Mapped::map(&fd, slots).unwrap(), slots, FOR_GOOD));
    let patience = || if sleepy { Patience::none() } else { Patience::new() };
    (Submitter::new(core(), patience()).unwrap(), Consumer::new(core(), patience()).unwrap())
}

#[test]
fn no_wakeup_is_lost_among_many_threads() {
    for sleepy in [true, false] {
        let (submitter, mut consumer) = ends(8, sleepy);
        let (over, done) = channel();
        let serving = thread::spawn(move || serve(&mut consumer));
        for _ in 0..4 {
            let (submitter, over) = (submitter.clone(), over.clone());
            thread::spawn(move || {
                let mut n = 0;
                while n < 3000 {
                    // None or one if a slot ahead is still somebody else's.
                    let tickets = submitter.submit_batch(&[request(n), request(n + 1)]).unwrap();
                    if tickets.len() == 0 {
                        thread::yield_now();
                    }
                    for ticket in tickets {
                        assert_eq!(submitter.wait(ticket, None).unwrap().took_ns, n * 2);
                        n += 1;
                    }
                }
                over.send(()).unwrap();
            });
        }
        for _ in 0..4 {
            done.recv_timeout(PATIENCE).expect("a wake-up was lost");
        }
        submitter.close(Reason::Left);
        assert_eq!(serving.join().unwrap(), Closed(Reason::Left));
    }
}
