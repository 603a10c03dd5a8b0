//! Rings whose consumer is away: who attends them, and where the next one goes on.

use crate::{answer, ends, request, soon};
use codax_os::ring::{
    Attendant, Closed, Completion, Consumer, Descriptor, Progress, Reason, Request, Ring, Submitter, Ticket,
    Unfinished,
};
use std::io::ErrorKind;
use std::thread;

const DRAINED: Completion = Completion { status: -11, took_ns: 0, result: [0; 16] };
const RESET: Completion = Completion { status: -104, took_ns: 0, result: [0; 16] };

fn impatient(len: u64) -> Descriptor {
    Descriptor { flags: Descriptor::FAIL_AT_ONCE, ..request(1, len) }
}

/// Attends once, without waiting.
fn attend(ring: &Ring, attendant: &mut Attendant) {
    ring.nudge();
    attendant.attend(&DRAINED).unwrap();
}

#[test]
fn who_does_not_want_to_wait_is_answered_while_nobody_carries_out() {
    let (submitter, mut consumer, fd) = ends(8);
    let ring = Ring::open(&fd).unwrap();
    assert_eq!(ring.attendant().unwrap_err().kind(), ErrorKind::ResourceBusy);
    let long = submitter.try_submit(&request(1, 1)).unwrap();
    let begun = consumer.try_next().unwrap().unwrap();
    let progress = consumer.suspend(vec![begun]);

    let mut attendant = ring.attendant().unwrap();
    assert_eq!(ring.consumer().unwrap_err().kind(), ErrorKind::ResourceBusy);
    let attending = thread::spawn(move || while attendant.attend(&DRAINED).is_ok() {});
    // The waits sleep.
    let answered = |n| {
        let ticket = submitter.try_submit(&impatient(n)).unwrap();
        assert_eq!(submitter.wait(ticket, soon()).unwrap(), DRAINED);
        let ticket = submitter.try_submit(&request(1, n)).unwrap();
        thread::yield_now();
        submitter.cancel(ticket.id());
        assert_eq!(submitter.wait(ticket, soon()).unwrap(), Completion::cancelled());
    };
    (0..3).for_each(answered);
    submitter.cancel(long.id());
    assert_eq!(submitter.wait(long, soon()).unwrap(), Completion::cancelled());
    (3..50).for_each(answered);
    assert_eq!(progress.begun.len(), 1);
    ring.close(Reason::Left);
    attending.join().unwrap();
}

#[test]
fn an_attendant_gives_the_end_back_and_a_dead_consumer_s_is_released() {
    let (_submitter, consumer, fd) = ends(2);
    let ring = Ring::open(&fd).unwrap();
    let _ = consumer.suspend(Vec::new());
    drop(ring.attendant().unwrap());
    assert_eq!(ring.closed(), None);
    let _died = std::mem::ManuallyDrop::new(ring.consumer().unwrap());
    assert_eq!(ring.attendant().unwrap_err().kind(), ErrorKind::ResourceBusy);
    ring.release(codax_os::ring::End::Consumer);
    drop(ring.attendant().unwrap());
    let mut next = ring.resume(&Progress::default()).unwrap().0;
    assert!(next.try_next().unwrap().is_none());
}

#[test]
fn who_begins_a_request_anew_finds_all_of_it() {
    let (submitter, mut consumer, fd) = ends(2);
    let ring = Ring::open(&fd).unwrap();
    let whole = Descriptor { files: [1, 2], ..request(3, 64 << 20) };
    let ticket = submitter.try_submit(&whole).unwrap();
    assert_eq!(submitter.left(&ticket), 64 << 20);
    let begun = consumer.try_next().unwrap().unwrap();
    consumer.tell_left(&begun, 5);
    assert_eq!(submitter.left(&ticket), 5);
    drop((begun, std::mem::ManuallyDrop::new(consumer)));
    ring.release(codax_os::ring::End::Consumer);
    let mut next = ring.consumer().unwrap();
    let begun = next.try_next().unwrap().unwrap();
    assert_eq!(begun.descriptor(), whole);
    next.tell_left(&begun, 64 << 20);
    assert_eq!(submitter.left(&ticket), 64 << 20);
    next.complete(begun, &DRAINED);
    assert_eq!(submitter.wait(ticket, soon()).unwrap(), DRAINED);
}

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// What is at the consumer's end.
enum At {
    Running(Consumer, Vec<Request>),
    Away(Attendant, Progress),
}

/// A ring, and what is known of its requests: each is known by its length.
struct Run {
    ring: Ring,
    submitter: Submitter,
    /// With whether it is impatient, and whether it was cancelled.
    tickets: Vec<(u64, bool, bool, Ticket)>,
    next: u64,
    at: Option<At>,
    /// The last that was taken.
    taken: Option<u64>,
    /// Carried out, and not collected.
    carried_out: Vec<u64>,
    was_reset: bool,
    random: Random,
}

impl Run {
    fn new(slots: u32, seed: u64) -> Self {
        let (ring, _) = Ring::create(slots).unwrap();
        let (submitter, consumer) = (ring.submitter().unwrap(), ring.consumer().unwrap());
        let at = Some(At::Running(consumer, Vec::new()));
        let (tickets, carried_out) = (Vec::new(), Vec::new());
        let random = Random(seed);
        Self { ring, submitter, tickets, next: 1, at, taken: None, carried_out, was_reset: false, random }
    }

    fn submit(&mut self) {
        let impatience = self.random.below(2) == 0;
        let one = if impatience { impatient(self.next) } else { request(1, self.next) };
        if let Ok(ticket) = self.submitter.try_submit(&one) {
            self.tickets.push((self.next, impatience, false, ticket));
            self.next += 1;
        }
    }

    fn cancel(&mut self) {
        let one = self.random.below(9);
        if let Some((.., cancelled, ticket)) = self.tickets.get_mut(usize::try_from(one).unwrap()) {
            self.submitter.cancel(ticket.id());
            *cancelled = true;
        }
    }

    /// Collects what is complete: each once, and as it can be.
    fn collect(&mut self) {
        for (n, impatient, cancelled, ticket) in std::mem::take(&mut self.tickets) {
            match self.submitter.poll(ticket) {
                Err(Unfinished::Pending(ticket)) => self.tickets.push((n, impatient, cancelled, ticket)),
                Err(Unfinished::Closed(Closed(why))) => panic!("{n}: closed: {why:?}"),
                Ok(Completion { status: 0, took_ns, .. }) => {
                    assert_eq!(took_ns, n);
                    let at = self.carried_out.iter().position(|done| *done == n).expect("carried out once");
                    self.carried_out.swap_remove(at);
                }
                Ok(done) if done == DRAINED => assert!(impatient, "{n}"),
                Ok(done) if done == RESET => assert!(self.was_reset, "{n}"),
                Ok(done) => assert!(done == Completion::cancelled() && cancelled, "{n}: {done:?}"),
            }
        }
    }

    /// Something happens at the consumer's end.
    fn step(&mut self) {
        let choice = self.random.below(8);
        self.at = Some(match self.at.take().expect("it is put back") {
            At::Running(consumer, begun) if choice == 0 => {
                let progress = consumer.suspend(begun);
                At::Away(self.ring.attendant().unwrap(), progress)
            }
            At::Running(mut consumer, mut begun) if choice < 4 => {
                if let Some(request) = consumer.try_next().unwrap() {
                    let n = request.descriptor().len;
                    assert!(self.taken.is_none_or(|taken| taken < n), "{n} after {:?}", self.taken);
                    self.taken = Some(n);
                    begun.push(request);
                }
                At::Running(consumer, begun)
            }
            At::Running(mut consumer, mut begun) => {
                if !begun.is_empty() {
                    let one = self.random.below(begun.len() as u64);
                    let request = begun.swap_remove(usize::try_from(one).unwrap());
                    self.carried_out.push(request.descriptor().len);
                    let answer = answer(&request);
                    consumer.complete(request, &answer);
                }
                At::Running(consumer, begun)
            }
            At::Away(attendant, progress) if choice == 0 => {
                drop(attendant);
                let (consumer, begun) = self.ring.resume(&progress).unwrap();
                At::Running(consumer, begun)
            }
            At::Away(attendant, _) if choice == 1 => {
                attendant.fail_all(&RESET);
                drop(attendant);
                self.was_reset = true;
                At::Running(self.ring.consumer().unwrap(), Vec::new())
            }
            At::Away(mut attendant, progress) => {
                attend(&self.ring, &mut attendant);
                At::Away(attendant, progress)
            }
        });
    }
}

#[test]
fn whatever_was_answered_meanwhile_the_next_consumer_goes_on_where_the_last_one_was() {
    for seed in 1..=60 {
        for slots in [2, 4, 16] {
            let mut run = Run::new(slots, seed);
            for _ in 0..2000 {
                match run.random.below(6) {
                    0 | 1 => run.submit(),
                    2 => run.collect(),
                    3 if run.random.below(4) == 0 => run.cancel(),
                    _ => run.step(),
                }
            }
            // All that is left comes to its end.
            while !run.tickets.is_empty() {
                run.step();
                run.collect();
            }
            assert!(run.next > 100, "seed {seed}: {} requests", run.next);
            assert!(run.carried_out.is_empty());
        }
    }
}
