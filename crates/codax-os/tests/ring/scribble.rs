//! Somebody writes anything anywhere into the ring while both ends work: they end, and do nothing they shouldn't.

use crate::{PATIENCE, answer, request};
use codax_os::area::{Memory, Region};
use codax_os::ring::{Consumer, Reason, Refused, Request, Ring, Submitter, Unfinished};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

const SLOTS: u32 = 8;
const LEN: usize = 8192;
const SLOTS_AT: usize = 4096;
const LINE: usize = 64;

/// Requests or looks of each end in a run.
const STEPS: u64 = 200;

/// xorshift64
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn number(&mut self) -> u32 {
        u32::try_from(self.next() >> 32).unwrap()
    }
}

type Scribble = fn(Memory<'_>, &mut Random);

fn map(fd: &OwnedFd) -> Region {
    let region = Region::reserve(LEN).unwrap();
    region.place(0, LEN, fd, 0, true).unwrap();
    region
}

fn anything(memory: Memory<'_>, random: &mut Random) {
    let word = random.next();
    memory.atomic_u64(random.below(LEN / 8) * 8).store(word, Ordering::Relaxed);
}

fn header(memory: Memory<'_>, random: &mut Random) {
    let word = [0, 1, 2, u32::MAX, random.number()][random.below(5)];
    memory.atomic_u32(random.below(32) * 4).store(word, Ordering::Relaxed);
}

/// All of the header but why it is closed, so that it goes on.
fn sleepers(memory: Memory<'_>, random: &mut Random) {
    let word = [0, 1, 7, random.number()][random.below(4)];
    memory.atomic_u32([0, 8, 12, 68, 72, 76, 80][random.below(7)]).store(word, Ordering::Relaxed);
}

/// States that could be: a few laps, and with the bit of who closes.
fn states(memory: Memory<'_>, random: &mut Random) {
    let state = u32::try_from(random.below(12)).unwrap() | u32::from(random.below(16) == 0) << 31;
    let at = SLOTS_AT + random.below(SLOTS as usize) * LINE;
    memory.atomic_u32(at).store(state, Ordering::Relaxed);
}

/// The next state of a slot, as an end that goes on without the other would write it.
fn ahead(memory: Memory<'_>, random: &mut Random) {
    let at = SLOTS_AT + random.below(SLOTS as usize) * LINE;
    memory.atomic_u32(at).fetch_add(1, Ordering::Relaxed);
}

/// What the submitter asks for, and descriptors; states are as they should be.
fn contents(memory: Memory<'_>, random: &mut Random) {
    let at = SLOTS_AT + random.below(SLOTS as usize) * LINE + 4 + random.below(15) * 4;
    let word = random.number();
    memory.atomic_u32(at).store(word, Ordering::Relaxed);
}

/// Everything at once.
fn zeros(memory: Memory<'_>, random: &mut Random) {
    if random.below(64) == 0 {
        (SLOTS_AT..LEN).step_by(8).for_each(|at| memory.atomic_u64(at).store(0, Ordering::Relaxed));
    }
}

/// Takes and completes, out of order, until the ring is closed.
fn consume(mut consumer: Consumer, mut random: Random, steps: &AtomicU64) {
    let mut taken: Vec<Request> = Vec::new();
    loop {
        steps.fetch_add(1, Ordering::Relaxed);
        match consumer.next(Some(Instant::now() + Duration::from_millis(1))) {
            Ok(Some(request)) => taken.push(request),
            Ok(None) => {}
            Err(_) => return,
        }
        // However much is "submitted", no slot is out twice.
        assert!(taken.len() <= SLOTS as usize);
        if !taken.is_empty() && random.below(2) == 0 {
            let request = taken.swap_remove(random.below(taken.len()));
            let _ = consumer.is_cancelled(&request);
            let answer = answer(&request);
            consumer.complete(request, &answer);
        }
    }
}

/// Submits and waits, until the ring is closed.
fn submit(submitter: &Submitter, mut random: Random, steps: &AtomicU64) {
    let mut tickets = Vec::new();
    loop {
        steps.fetch_add(1, Ordering::Relaxed);
        match submitter.try_submit(&request(0, random.next())) {
            Ok(ticket) => tickets.push(ticket),
            Err(Refused::Full) => assert!(!tickets.is_empty(), "nothing is out, and it is full"),
            Err(Refused::Closed(_)) => return,
        }
        assert!(tickets.len() <= SLOTS as usize);
        if random.below(3) == 0 || tickets.len() == SLOTS as usize {
            let ticket = tickets.swap_remove(random.below(tickets.len()));
            submitter.cancel(ticket.id());
            let deadline = Instant::now() + Duration::from_millis(1);
            match submitter.wait(ticket, Some(deadline)) {
                Ok(_) => {}
                Err(Unfinished::Pending(ticket)) => tickets.push(ticket),
                Err(Unfinished::Closed(_)) => return,
            }
        }
    }
}

/// Scribbles until the ring is closed for it, or both ends have gone on for a while; then somebody closes it, and they end.
fn scribbled(scribble: Scribble, seed: u64) -> Option<Reason> {
    let (ring, fd) = Ring::create(SLOTS).unwrap();
    let region = map(&fd);
    let (over, ended) = channel();
    let steps = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let consumer = Ring::open(&fd).unwrap().consumer().unwrap();
    let submitter = Ring::open(&fd).unwrap().submitter().unwrap();
    thread::spawn({
        let (over, steps) = (over.clone(), steps.clone());
        move || {
            consume(consumer, Random(seed * 2 + 1), &steps[0]);
            over.send(()).unwrap();
        }
    });
    thread::spawn({
        let steps = steps.clone();
        move || {
            submit(&submitter, Random(seed * 3 + 1), &steps[1]);
            over.send(()).unwrap();
        }
    });
    let mut random = Random(seed ^ 0x9e37_79b9_7f4a_7c15);
    let begun = Instant::now();
    while ring.closed().is_none() && steps.iter().any(|steps| steps.load(Ordering::Relaxed) < STEPS) {
        assert!(begun.elapsed() < PATIENCE, "seed {seed}: an end hangs or panicked");
        (0..16).for_each(|_| scribble(region.memory(), &mut random));
        thread::yield_now();
    }
    let found = ring.closed();
    ring.close(Reason::Died);
    for _ in 0..2 {
        ended.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("seed {seed}: an end hangs or panicked: {e}"));
    }
    found
}

fn all_seeds(scribble: Scribble) -> Vec<Option<Reason>> {
    (1..=40).map(|seed| scribbled(scribble, seed)).collect()
}

#[test]
fn anything_anywhere() {
    assert!(all_seeds(anything).contains(&Some(Reason::Corrupt)));
}

#[test]
fn anything_in_the_header() {
    all_seeds(header);
}

#[test]
fn who_sleeps_and_which_ends_there_are() {
    // Nothing of it is relied on.
    assert!(all_seeds(sleepers).iter().all(Option::is_none));
}

#[test]
fn states_of_other_laps() {
    assert!(all_seeds(states).contains(&Some(Reason::Corrupt)));
}

#[test]
fn states_ahead() {
    assert!(all_seeds(ahead).contains(&Some(Reason::Corrupt)));
}

#[test]
fn descriptors_and_asks() {
    // A request's contents are its submitter's own matter.
    assert!(all_seeds(contents).iter().all(Option::is_none));
}

#[test]
fn all_slots_at_once() {
    all_seeds(zeros);
}

#[test]
fn a_slot_in_no_state_closes_the_ring_as_corrupt_at_either_end() {
    for at_consumer in [true, false] {
        let (ring, fd) = Ring::create(SLOTS).unwrap();
        let (submitter, mut consumer) = (ring.submitter().unwrap(), ring.consumer().unwrap());
        let ticket = submitter.try_submit(&request(0, 0)).unwrap();
        map(&fd).memory().atomic_u32(SLOTS_AT).store(17, Ordering::Relaxed);
        if at_consumer {
            assert_eq!(consumer.try_next().unwrap_err().0, Reason::Corrupt);
        }
        let ended = submitter.poll(ticket);
        assert!(
            matches!(&ended, Err(Unfinished::Closed(closed)) if closed.0 == Reason::Corrupt),
            "{ended:?}"
        );
        assert_eq!(consumer.try_next().unwrap_err().0, Reason::Corrupt);
        // What is closed stays so for who knows of it, whatever the memory says.
        map(&fd).memory().atomic_u32(64).store(0, Ordering::Relaxed);
        assert_eq!(ring.closed(), Some(Reason::Corrupt));
        assert!(submitter.try_submit(&request(0, 0)).is_err());
    }
}
