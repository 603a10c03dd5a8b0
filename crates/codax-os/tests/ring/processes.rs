//! A ring between two processes, either of which may die.

use crate::child::{BACKWARDS, BEREFT, DIED, NOTHING, Other, RESET, UNTIL_CANCELLED};
use crate::{PATIENCE, answer, ends, request, soon};
use codax_os::ring::{
    Closed, Completion, Consumer, Descriptor, End, Reason, Refused, Ring, Submitter, Unfinished,
};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// A coprocessor in a process of its own.
fn coprocessor(slots: u32, role: &str) -> (Submitter, Ring, Other) {
    let (ring, fd) = Ring::create(slots).unwrap();
    let other = Other::start(fd, role);
    (ring.submitter().unwrap(), ring, other)
}

fn round_trip(submitter: &Submitter, n: u64) {
    let ticket = submitter.try_submit(&request(NOTHING, n)).unwrap();
    assert_eq!(submitter.wait(ticket, soon()).unwrap().took_ns, n);
}

/// Ends a coprocessor in order.
fn leave(submitter: Submitter, mut other: Other) {
    drop(submitter);
    assert!(other.end().success());
}

#[test]
fn round_trips_awake_and_asleep() {
    let (submitter, ring, other) = coprocessor(16, "serve");
    for n in 0..20_000 {
        round_trip(&submitter, n);
    }
    for n in 0..5 {
        // The coprocessor goes to sleep.
        std::thread::sleep(Duration::from_millis(20));
        round_trip(&submitter, n);
    }
    assert!(ring.is_there(End::Consumer));
    leave(submitter, other);
    assert!(!ring.is_there(End::Consumer) && !ring.is_there(End::Submitter));
}

#[test]
fn a_program_of_many_threads_gets_each_its_own() {
    let (ring, fd) = Ring::create(16).unwrap();
    let mut consumer = ring.consumer().unwrap();
    let mut program = Other::start(fd, "ask 6");
    let mut served = 0;
    let closed = loop {
        match consumer.next(None) {
            Ok(Some(request)) => {
                assert_eq!(request.position(), served);
                served += 1;
                let answer = answer(&request);
                consumer.complete(request, &answer);
            }
            Ok(None) => {}
            Err(closed) => break closed,
        }
    };
    assert_eq!(closed, Closed(Reason::Left));
    assert!(program.end().success());
    assert!(served > 400, "{served}");
}

#[test]
fn what_a_busy_coprocessor_has_no_room_for_is_refused_and_not_lost() {
    let (submitter, _ring, other) = coprocessor(4, "serve");
    let held: Vec<_> = (0..4).map(|n| submitter.try_submit(&request(UNTIL_CANCELLED, n)).unwrap()).collect();
    assert_eq!(submitter.try_submit(&request(NOTHING, 4)).unwrap_err(), Refused::Full);
    for ticket in held {
        submitter.cancel(ticket.id());
        assert_eq!(submitter.wait(ticket, soon()).unwrap(), Completion::cancelled());
    }
    round_trip(&submitter, 4);
    leave(submitter, other);
}

#[test]
fn completions_come_backwards_and_a_fence_waits_for_them() {
    let (submitter, _ring, other) = coprocessor(8, "serve");
    for _ in 0..50 {
        let batch: Vec<_> = (0..4).map(|n| request(BACKWARDS, n)).collect();
        let tickets = submitter.submit_batch(&batch).unwrap();
        let fence = Descriptor { flags: Descriptor::FENCE, ..request(NOTHING, 9) };
        let fence = submitter.try_submit(&fence).unwrap();
        assert_eq!(submitter.wait(fence, soon()).unwrap().took_ns, 9);
        for (n, ticket) in (0..).zip(tickets) {
            // All are there, since the fence is complete.
            assert_eq!(submitter.poll(ticket).unwrap().took_ns, n);
        }
    }
    leave(submitter, other);
}

#[test]
fn what_is_begun_outlives_a_reset_and_completes_once() {
    let (submitter, _ring, other) = coprocessor(8, "serve");
    for _ in 0..20 {
        let long = submitter.try_submit(&request(UNTIL_CANCELLED, 1)).unwrap();
        let reset = submitter.try_submit(&request(RESET, 2)).unwrap();
        assert_eq!(submitter.wait(reset, soon()).unwrap().took_ns, 2);
        round_trip(&submitter, 3);
        let long = match submitter.poll(long) {
            Err(Unfinished::Pending(ticket)) => ticket,
            other => panic!("{other:?}"),
        };
        submitter.cancel(long.id());
        assert_eq!(submitter.wait(long, soon()).unwrap(), Completion::cancelled());
    }
    leave(submitter, other);
}

#[test]
fn a_coprocessor_that_dies_at_any_step_ends_the_waits() {
    for step in ["before it is submitted", "taken", "posted", "complete", "asleep"] {
        let (submitter, ring, mut other) = coprocessor(4, &format!("serve-until {step}"));
        round_trip(&submitter, 0);
        round_trip(&submitter, 1);
        let (waits, ended) = channel();
        let waiting = std::thread::spawn({
            let submitter = submitter.clone();
            move || {
                let ticket = submitter.try_submit(&request(NOTHING, 2)).unwrap();
                waits.send(()).unwrap();
                submitter.wait(ticket, None)
            }
        });
        ended.recv().unwrap();
        if step == "asleep" {
            other.kill();
            assert!(!other.end().success());
        } else {
            assert_eq!(other.end().code(), Some(DIED));
        }
        // Its end is taken still: who learns of the death says so.
        assert!(ring.is_there(End::Consumer));
        ring.close(Reason::Died);
        match waiting.join().unwrap() {
            Ok(completion) => {
                assert!(["posted", "complete"].contains(&step), "{step}");
                assert_eq!(completion.status, 3);
            }
            Err(Unfinished::Closed(closed)) => {
                assert_eq!(closed, Closed(Reason::Died));
                assert!(!["posted", "complete"].contains(&step), "what is complete can be collected: {step}");
            }
            Err(pending) => panic!("{pending:?}"),
        }
        assert_eq!(
            submitter.try_submit(&request(NOTHING, 3)).unwrap_err(),
            Refused::Closed(Closed(Reason::Died))
        );
    }
}

/// Serves what comes, until the ring is closed; what is to be cancelled is kept, and told of.
fn serve(consumer: &mut Consumer, begun: &Sender<()>) -> Closed {
    let mut held = Vec::new();
    loop {
        match consumer.next(None) {
            Ok(Some(request)) if request.descriptor().opcode == NOTHING => {
                let answer = answer(&request);
                consumer.complete(request, &answer);
            }
            Ok(Some(request)) => {
                held.push(request);
                // Nobody listens any more in some tests.
                let _ = begun.send(());
            }
            Ok(None) => {}
            Err(closed) => {
                // Long operations are to be given up.
                assert!(held.iter().all(|request| consumer.is_cancelled(request)));
                return closed;
            }
        }
    }
}

/// Until the program waits for what has begun.
fn until_asleep(ring: &Ring, begun: &Receiver<()>) {
    begun.recv_timeout(PATIENCE).unwrap();
    let begun = Instant::now();
    while ring.waiters() == 0 {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
}

#[test]
fn a_program_that_dies_at_any_step_ends_the_coprocessors_waits() {
    for step in ["before it submits", "submitted", "cancelled", "full", "asleep"] {
        let (ring, fd) = Ring::create(4).unwrap();
        let mut consumer = ring.consumer().unwrap();
        let mut program = Other::start(fd, &format!("ask-until {step}"));
        let (tell, begun) = channel();
        let serving = std::thread::spawn(move || serve(&mut consumer, &tell));
        if step == "asleep" {
            until_asleep(&ring, &begun);
            program.kill();
            assert!(!program.end().success());
        } else {
            assert_eq!(program.end().code(), Some(DIED));
        }
        assert_eq!(ring.closed(), None);
        ring.close(Reason::Died);
        assert_eq!(serving.join().unwrap(), Closed(Reason::Died));
    }
}

#[test]
fn a_program_asleep_hears_of_the_coprocessors_death() {
    let (ring, fd) = Ring::create(4).unwrap();
    let mut consumer = ring.consumer().unwrap();
    let mut program = Other::start(fd, "ask-until asleep");
    let (tell, begun) = channel();
    let serving = std::thread::spawn(move || serve(&mut consumer, &tell));
    until_asleep(&ring, &begun);
    ring.close(Reason::Died);
    assert_eq!(program.end().code(), Some(BEREFT));
    assert_eq!(serving.join().unwrap(), Closed(Reason::Died));
}

#[test]
fn a_program_that_goes_in_order_closes_its_queue() {
    let (submitter, mut consumer, _fd) = ends(4);
    let _ticket = submitter.try_submit(&request(NOTHING, 0)).unwrap();
    drop(submitter);
    // Nobody would see the completion.
    assert_eq!(consumer.try_next().unwrap_err(), Closed(Reason::Left));
}
