//! What is taken and completed when: order, room, fences, batches, cancelling, going on after a reset.

use crate::{answer, ends, request, soon};
use codax_os::ring::{
    Completion, Consumer, Descriptor, Progress, Reason, Refused, Request, Ring, Submitter, Ticket, Unfinished,
};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

fn submit(submitter: &Submitter, len: u64) -> Ticket {
    submitter.try_submit(&request(1, len)).unwrap()
}

fn take(consumer: &mut Consumer) -> Request {
    consumer.try_next().unwrap().expect("something was submitted")
}

fn pending(found: Result<Completion, Unfinished>) -> Ticket {
    match found {
        Err(Unfinished::Pending(ticket)) => ticket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_fields_arrive_and_come_back() {
    let (submitter, mut consumer, _fd) = ends(2);
    let all = Descriptor {
        opcode: 0xabcd,
        flags: Descriptor::FAIL_AT_ONCE | 0x8000,
        files: [u32::MAX, 1],
        offsets: [u64::MAX, 1 << 33],
        len: 1 << 63,
        argument: *b"0123456789abcdef",
    };
    let ticket = submitter.try_submit(&all).unwrap();
    let taken = take(&mut consumer);
    assert_eq!((taken.descriptor(), taken.position()), (all, 0));
    let ticket = pending(submitter.poll(ticket));
    let completion = Completion { status: -5, took_ns: u64::MAX, result: *b"fedcba9876543210" };
    consumer.complete(taken, &completion);
    assert_eq!(submitter.poll(ticket).unwrap(), completion);
}

#[test]
fn a_full_ring_refuses_until_a_completion_is_collected() {
    let (submitter, mut consumer, _fd) = ends(4);
    let mut tickets: Vec<_> = (0..4).map(|n| submit(&submitter, n)).collect();
    for _ in 0..3 {
        assert_eq!(submitter.try_submit(&request(1, 9)).unwrap_err(), Refused::Full);
    }
    let mut taken: Vec<_> = (0..4).map(|_| take(&mut consumer)).collect();
    assert!(consumer.try_next().unwrap().is_none());
    // Complete, but not collected.
    let first = taken.remove(0);
    consumer.complete(first, &Completion::default());
    assert_eq!(submitter.try_submit(&request(1, 9)).unwrap_err(), Refused::Full);
    // A later one's room is no use, since slots are used in turn.
    let third = taken.remove(1);
    consumer.complete(third, &Completion::default());
    submitter.poll(tickets.remove(2)).unwrap();
    assert_eq!(submitter.try_submit(&request(1, 9)).unwrap_err(), Refused::Full);
    submitter.poll(tickets.remove(0)).unwrap();
    let next = submit(&submitter, 4);
    assert_eq!(submitter.try_submit(&request(1, 9)).unwrap_err(), Refused::Full);
    let fifth = take(&mut consumer);
    assert_eq!((fifth.position(), fifth.descriptor().len), (4, 4));
    consumer.complete(fifth, &Completion::default());
    submitter.poll(next).unwrap();
}

#[test]
fn its_depth_is_what_was_submitted_and_is_not_complete() {
    let (submitter, mut consumer, fd) = ends(4);
    let ring = Ring::open(&fd).unwrap();
    for lap in 0..3 {
        assert_eq!(ring.depth(), 0, "lap {lap}");
        let tickets: Vec<_> = (0..4).map(|n| submit(&submitter, n)).collect();
        assert_eq!(ring.depth(), 4);
        let taken = [take(&mut consumer), take(&mut consumer)];
        assert_eq!(ring.depth(), 4, "what was taken counts");
        for request in taken {
            let answer = answer(&request);
            consumer.complete(request, &answer);
        }
        assert_eq!(ring.depth(), 2, "what was not collected doesn't");
        for _ in 0..2 {
            let request = take(&mut consumer);
            let answer = answer(&request);
            consumer.complete(request, &answer);
        }
        tickets.into_iter().for_each(|ticket| assert!(submitter.poll(ticket).is_ok()));
    }
    let _ticket = submit(&submitter, 1);
    consumer.close(Reason::Left);
    assert_eq!(ring.depth(), 0, "nobody waits for it any more");
}

#[test]
fn a_consumer_gives_back_what_it_has_before_it_sleeps_and_only_then() {
    let (submitter, mut consumer, _fd) = ends(4);
    let mut slept = false;
    let ticket = submit(&submitter, 1);
    let request = consumer.next_with(soon(), || slept = true).unwrap().unwrap();
    assert!(!slept, "there was something to do");
    let answer = answer(&request);
    consumer.complete(request, &answer);
    assert!(submitter.poll(ticket).is_ok());
    let deadline = Some(Instant::now());
    assert!(consumer.next_with(deadline, || slept = true).unwrap().is_none());
    assert!(slept);
}

#[test]
fn laps_follow_each_other_for_long() {
    let (submitter, mut consumer, _fd) = ends(2);
    for n in 0..100_000 {
        let ticket = submit(&submitter, n);
        let taken = take(&mut consumer);
        assert_eq!((taken.position(), taken.descriptor().len), (n, n));
        let answer = answer(&taken);
        consumer.complete(taken, &answer);
        assert_eq!(submitter.poll(ticket).unwrap().took_ns, n);
    }
}

#[test]
fn requests_are_taken_in_order_and_completed_in_any() {
    let (submitter, mut consumer, _fd) = ends(8);
    let tickets: Vec<_> = (0..8).map(|n| submit(&submitter, n)).collect();
    let mut taken: Vec<_> = (0..8).map(|_| take(&mut consumer)).collect();
    assert!(taken.iter().map(|t| t.descriptor().len).eq(0..8));
    for at in [5, 0, 4, 1, 1, 2, 0, 0] {
        let request = taken.remove(at);
        let answer = answer(&request);
        consumer.complete(request, &answer);
    }
    for (n, ticket) in (0..).zip(tickets) {
        assert_eq!(submitter.poll(ticket).unwrap().took_ns, n);
    }
}

#[test]
fn as_much_of_a_batch_goes_in_as_there_is_room_for() {
    let (submitter, mut consumer, _fd) = ends(8);
    let batch: Vec<_> = (0..6).map(|n| request(2, n)).collect();
    let first = submitter.submit_batch(&batch).unwrap();
    assert_eq!(first.len(), 6);
    let second = submitter.submit_batch(&batch).unwrap();
    assert_eq!(second.len(), 2);
    assert_eq!(submitter.submit_batch(&batch).unwrap().len(), 0);
    assert_eq!(submitter.submit_batch(&[]).unwrap().len(), 0);
    while let Some(request) = consumer.try_next().unwrap() {
        let answer = answer(&request);
        consumer.post(request, &answer);
    }
    consumer.wake();
    for (ticket, n) in first.chain(second).zip([0, 1, 2, 3, 4, 5, 0, 1]) {
        assert_eq!(submitter.wait(ticket, None).unwrap().took_ns, n);
    }
    assert_eq!(submitter.submit_batch(&vec![request(2, 0); 100]).unwrap().len(), 8);
}

#[test]
fn a_fence_begins_when_all_before_it_is_complete() {
    let (submitter, mut consumer, _fd) = ends(8);
    let before: Vec<_> = (0..2).map(|n| submit(&submitter, n)).collect();
    let fence = Descriptor { flags: Descriptor::FENCE, ..request(3, 2) };
    let fence = submitter.try_submit(&fence).unwrap();
    let after = submit(&submitter, 3);
    let (a, b) = (take(&mut consumer), take(&mut consumer));
    for _ in 0..2 {
        assert!(consumer.try_next().unwrap().is_none());
    }
    // Doesn't sleep: nothing but the consumer itself could end that.
    assert!(consumer.next(None).unwrap().is_none());
    consumer.complete(b, &Completion::default());
    assert!(consumer.try_next().unwrap().is_none());
    consumer.complete(a, &Completion::default());
    let c = take(&mut consumer);
    assert_eq!(c.descriptor().len, 2);
    // What comes after it may begin beside it.
    let d = take(&mut consumer);
    consumer.complete(d, &Completion::default());
    consumer.complete(c, &Completion::default());
    for ticket in before.into_iter().chain([fence, after]) {
        submitter.wait(ticket, None).unwrap();
    }
    // A fence with nothing before it.
    let fence = submitter.try_submit(&Descriptor { flags: Descriptor::FENCE, ..request(3, 2) }).unwrap();
    let taken = take(&mut consumer);
    consumer.complete(taken, &Completion::default());
    submitter.wait(fence, None).unwrap();
}

#[test]
fn what_has_not_begun_is_cancelled_and_what_has_hears_of_it() {
    let (submitter, mut consumer, _fd) = ends(4);
    let running = submit(&submitter, 0);
    let begun = take(&mut consumer);
    let waiting = submit(&submitter, 1);
    let fence = submitter.try_submit(&Descriptor { flags: Descriptor::FENCE, ..request(3, 2) }).unwrap();
    let last = submit(&submitter, 3);
    assert!(!consumer.is_cancelled(&begun));
    // The fence is held already, the other not even taken.
    submitter.cancel(waiting.id());
    submitter.cancel(fence.id());
    submitter.cancel(fence.id());
    let after = take(&mut consumer);
    assert_eq!(after.descriptor().len, 3);
    assert_eq!(submitter.poll(waiting).unwrap().status, Completion::CANCELLED);
    let name = fence.id();
    assert_eq!(submitter.poll(fence).unwrap(), Completion::cancelled());
    assert!(!consumer.is_cancelled(&after) && !consumer.is_cancelled(&begun));
    submitter.cancel(running.id());
    assert!(consumer.is_cancelled(&begun) && !consumer.is_cancelled(&after));
    // It may as well finish.
    consumer.complete(begun, &Completion { status: 7, ..Completion::default() });
    assert_eq!(submitter.poll(running).unwrap().status, 7);
    consumer.complete(after, &Completion::default());
    submitter.poll(last).unwrap();
    // A name that is past is nobody else's: this is the fence's slot, a lap later.
    let tickets: Vec<_> = (0..4).map(|n| submit(&submitter, n)).collect();
    submitter.cancel(name);
    for ticket in tickets {
        let taken = take(&mut consumer);
        assert!(!consumer.is_cancelled(&taken));
        consumer.complete(taken, &Completion::default());
        assert_eq!(submitter.poll(ticket).unwrap().status, 0);
    }
}

#[test]
fn waits_end_with_their_deadlines() {
    let (submitter, mut consumer, _fd) = ends(2);
    let mut ticket = submit(&submitter, 0);
    for ms in [0, 1, 30] {
        let begun = Instant::now();
        // Comes back, and is still good.
        ticket = pending(submitter.wait(ticket, Some(begun + Duration::from_millis(ms))));
        assert!(begun.elapsed() >= Duration::from_millis(ms));
    }
    let taken = take(&mut consumer);
    consumer.complete(taken, &Completion::default());
    assert_eq!(submitter.wait(ticket, soon()).unwrap(), Completion::default());
    let begun = Instant::now();
    let deadline = begun + Duration::from_millis(30);
    while Instant::now() < deadline {
        assert!(consumer.next(Some(deadline)).unwrap().is_none());
    }
    assert!(begun.elapsed() >= Duration::from_millis(30));
}

#[test]
#[should_panic(expected = "another ring")]
fn a_ticket_of_another_ring_is_a_mistake() {
    let (submitter, _consumer, _fd) = ends(2);
    let (other, _other, _other_fd) = ends(2);
    let _ = other.poll(submit(&submitter, 0));
}

#[test]
fn a_consumer_goes_on_where_another_was_suspended() {
    let (submitter, mut consumer, fd) = ends(8);
    let tickets: Vec<_> = (0..5).map(|n| submit(&submitter, n)).collect();
    let fence = submitter.try_submit(&Descriptor { flags: Descriptor::FENCE, ..request(3, 5) }).unwrap();
    let mut taken: Vec<_> = (0..5).map(|_| take(&mut consumer)).collect();
    for at in [1, 2] {
        let done = taken.remove(at);
        let answer = answer(&done);
        consumer.complete(done, &answer);
    }
    // The fence is held when it is suspended.
    assert!(consumer.try_next().unwrap().is_none());
    let progress = consumer.suspend(taken);
    assert_eq!(progress.next, 5);
    assert!(progress.begun.iter().map(|(p, d)| (*p, d.len)).eq([(0, 0), (2, 2), (4, 4)]));
    let ring = Ring::open(&fd).unwrap();
    assert_eq!(ring.closed(), None);
    // Meanwhile more is submitted.
    let late = submit(&submitter, 6);

    let begun = |positions: &[u64]| positions.iter().map(|p| (*p, request(1, *p))).collect::<Vec<_>>();
    let wrong = [
        Progress { next: 5, begun: begun(&[0, 2, 5]) },
        Progress { next: 5, begun: begun(&[0, 2, 2]) },
        Progress { next: 5, begun: begun(&[1]) },
        Progress { next: 9, begun: begun(&[0]) },
        Progress { next: 4, begun: begun(&[u64::MAX]) },
        Progress { next: 77, begun: vec![] },
        Progress { next: u64::MAX, begun: begun(&[0]) },
    ];
    for wrong in &wrong {
        assert_eq!(ring.resume(wrong).unwrap_err().kind(), ErrorKind::InvalidData, "{wrong:?}");
    }
    let (mut consumer, begun) = ring.resume(&progress).unwrap();
    assert_eq!(ring.resume(&progress).unwrap_err().kind(), ErrorKind::ResourceBusy);
    assert!(consumer.try_next().unwrap().is_none(), "the fence waits for what was begun before");
    for request in begun {
        let answer = answer(&request);
        consumer.complete(request, &answer);
    }
    for n in [5, 6] {
        let request = take(&mut consumer);
        assert_eq!(request.descriptor().len, n);
        let answer = answer(&request);
        consumer.complete(request, &answer);
    }
    for (n, ticket) in (0..).zip(tickets.into_iter().chain([fence, late])) {
        assert_eq!(submitter.poll(ticket).unwrap().took_ns, n);
    }
}
