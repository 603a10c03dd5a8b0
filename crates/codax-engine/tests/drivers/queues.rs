//! Programs' queues to devices that run, rest, are reset or lose their driver.

use super::*;

/// A program's queue to `sim0`, to which it has given a file.
struct Program {
    queue: QueueId,
    ring: Ring,
    submitter: Submitter,
}

impl Program {
    fn new(d: &Driven) -> Self {
        let (queue, fd) = d.admin.open_queue("sim0", 4).unwrap();
        let ring = Ring::open(fd).unwrap();
        let file = make(&d.admin, &format!("/of-{}", queue.0), 4096, "dram");
        assert_eq!(d.admin.grant(queue, file.handle, false).unwrap(), 1);
        Self { queue, submitter: ring.submitter().unwrap(), ring }
    }

    /// Of a device that runs.
    fn served(d: &Driven) -> Self {
        let program = Self::new(d);
        program.is_handed(d);
        program
    }

    /// The driver is handed the queue, with what it was given.
    #[track_caller]
    fn is_handed(&self, d: &Driven) {
        assert_eq!((d.next(), d.next()), (Asked::OpenQueue(self.queue), Asked::Grant(1)));
    }

    fn submit(&self, flags: u16) -> Ticket {
        self.submitter.try_submit(&Descriptor { flags, ..Descriptor::default() }).unwrap()
    }

    #[track_caller]
    fn status(&self, ticket: Ticket) -> i32 {
        self.submitter.wait(ticket, Some(Instant::now() + LONG)).unwrap().status
    }

    #[track_caller]
    fn is_refused_at_once(&self) {
        assert_eq!(self.status(self.submit(Descriptor::FAIL_AT_ONCE)), Completion::DRAINED);
    }
}

#[test]
fn queues_of_a_device_at_rest_wait_for_whichever_process_goes_on() {
    let mut d = Driven::new(npu());
    let before = Program::served(&d);
    let waits = before.submit(0);
    d.admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Save));
    // One that is opened meanwhile is kept for the driver, too.
    let meanwhile = Program::new(&d);
    d.quiet();
    before.is_refused_at_once();
    meanwhile.is_refused_at_once();
    d.driving = None;
    before.is_refused_at_once();
    let Driven { store, admin, rig, .. } = d;
    let mut d = Driven { admin, ..Driven::by(rig, store, npu()) };
    d.quiet();
    // It is gone again in the middle of the return, when it has taken an end.
    let gate = d.driver.gate("restore");
    std::thread::scope(|scope| {
        let returning = scope.spawn(|| d.admin.online("sim0", &mut quiet()));
        let handed = [d.next(), d.next(), d.next(), d.next()];
        for program in [&before, &meanwhile] {
            assert!(handed.contains(&Asked::OpenQueue(program.queue)), "{handed:?}");
        }
        assert_eq!(d.next(), Asked::Restore(b"where it was".to_vec()));
        std::mem::forget(d.driver.rings.lock().unwrap()[&before.queue].consumer().unwrap());
        d.driving = None;
        returning.join().unwrap().unwrap();
    });
    drop(gate);
    before.is_refused_at_once();
    meanwhile.is_refused_at_once();
    let Driven { store, admin, rig, .. } = d;
    let d = Driven { admin, ..Driven::by(rig, store, npu()) };
    (0..4).for_each(|_| assert!(matches!(d.next(), Asked::OpenQueue(_) | Asked::Grant(1))));
    assert_eq!((d.next(), d.next()), (Asked::Restore(b"where it was".to_vec()), Asked::Resume));
    d.stands(&Standing::Running);
    let mut consumer = d.driver.rings.lock().unwrap()[&before.queue].consumer().unwrap();
    let request = consumer.try_next().unwrap().expect("it has waited");
    consumer.complete(request, &Completion::default());
    assert_eq!(before.status(waits), 0);
    // Of a device that runs nobody can tell how far it was.
    drop(d.driving);
    for program in [&before, &meanwhile] {
        assert_eq!(program.ring.closed(), Some(Reason::Died));
    }
}

#[test]
fn a_state_that_is_lost_or_refused_leaves_no_queue_behind_or_all() {
    let mut d = Driven::new(npu());
    let program = Program::served(&d);
    let drain = |d: &Driven| d.admin.drain("sim0", DrainOptions::default(), &mut quiet());
    // Not kept: the driver has its queues again, and goes on.
    *d.driver.state.lock().unwrap() = Vec::new();
    fails(drain(&d), ErrorKind::DeviceState, &["empty state"]);
    assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Save));
    program.is_handed(&d);
    assert_eq!(d.next(), Asked::Resume);
    // Not taken: it has to give them up once more.
    *d.driver.state.lock().unwrap() = vec![1];
    drain(&d).unwrap();
    assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Save));
    d.driver.fail(Some("restore"));
    fails(d.admin.online("sim0", &mut quiet()), ErrorKind::DeviceState, &["restore"]);
    program.is_handed(&d);
    assert_eq!(d.next(), Asked::Restore(vec![1]));
    program.is_refused_at_once();
    // Forgotten: who waits is told, and the next one is carried out.
    let forgotten = program.submit(0);
    d.admin.online_anew("sim0", &mut quiet()).unwrap();
    assert_eq!(d.next(), Asked::Reset);
    assert_eq!(program.status(forgotten), Completion::RESET);
    program.is_handed(&d);
    assert_eq!(d.next(), Asked::Resume);
    let next = program.submit(0);
    let mut consumer = d.driver.rings.lock().unwrap()[&program.queue].consumer().unwrap();
    let request = consumer.try_next().unwrap().expect("it was submitted");
    consumer.complete(request, &Completion::default());
    assert_eq!(program.status(next), 0);
    let _ = consumer.suspend(Vec::new());
    // Lost with the driver in the middle of it.
    let waits = program.submit(0);
    let gate = d.driver.gate("save");
    std::thread::scope(|scope| {
        let draining = scope.spawn(|| d.admin.drain("sim0", DrainOptions::default(), &mut quiet()));
        assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Save));
        d.driving = None;
        draining.join().unwrap().unwrap();
    });
    drop(gate);
    let ended = program.submitter.wait(waits, Some(Instant::now() + LONG));
    assert!(matches!(&ended, Err(Unfinished::Closed(closed)) if closed.0 == Reason::Died), "{ended:?}");
}

#[test]
fn who_leaves_takes_his_queues_along_also_from_a_device_at_rest() {
    let d = Driven::new(npu());
    let program = Program::served(&d);
    let other = admin(&d.store);
    let (queue, fd) = other.open_queue("sim0", 2).unwrap();
    assert_eq!(d.next(), Asked::OpenQueue(queue));
    let ring = Ring::open(fd).unwrap();
    d.admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Save));
    drop(other);
    assert_eq!(ring.closed(), Some(Reason::Died));
    d.admin.online("sim0", &mut quiet()).unwrap();
    program.is_handed(&d);
    assert_eq!(d.next(), Asked::Restore(b"where it was".to_vec()));
}

#[test]
fn a_device_goes_on_whose_drain_was_cancelled_before_it_had_come_to_rest() {
    let d = Driven::new(npu());
    let program = Program::served(&d);
    let gate = d.driver.gate("quiesce");
    fails(d.admin.drain("sim0", DrainOptions::default(), &mut |_| false), ErrorKind::Cancelled, &["sim0"]);
    assert_eq!((d.next(), d.state()), (Asked::Quiesce, PoolState::Online));
    // It is kept until the device runs.
    let meanwhile = Program::new(&d);
    d.quiet();
    drop(gate);
    meanwhile.is_handed(&d);
    assert_eq!(d.next(), Asked::Resume);
    d.stands(&Standing::Running);
    // Also where it is `online` that cancels it.
    let gate = d.driver.gate("quiesce");
    std::thread::scope(|scope| {
        let draining = scope.spawn(|| d.admin.drain("sim0", DrainOptions::default(), &mut quiet()));
        assert_eq!(d.next(), Asked::Quiesce);
        let returning = scope.spawn(|| d.admin.online("sim0", &mut quiet()));
        fails(draining.join().unwrap(), ErrorKind::Cancelled, &["sim0"]);
        drop(gate);
        returning.join().unwrap().unwrap();
    });
    assert_eq!(d.next(), Asked::Resume);
    d.stands(&Standing::Running);
    assert_eq!((program.ring.closed(), meanwhile.ring.closed()), (None, None));
}

#[test]
fn a_device_that_is_late_to_go_on_does_so_when_its_driver_answers() {
    let d = Driven::impatient(npu());
    let program = Program::served(&d);
    let gate = d.driver.gate("resume");
    d.driver.fail(Some("quiesce"));
    fails(d.admin.drain("sim0", DrainOptions::default(), &mut quiet()), ErrorKind::Busy, &["on purpose"]);
    assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Resume));
    d.stands(&Standing::Failed("resume: it has not answered within 1.0 s".into()));
    let meanwhile = Program::new(&d);
    meanwhile.is_refused_at_once();
    drop(gate);
    meanwhile.is_handed(&d);
    assert_eq!(d.next(), Asked::Resume);
    d.stands(&Standing::Running);
    assert_eq!((program.ring.closed(), meanwhile.ring.closed()), (None, None));
}

/// A request of which a device has done half.
fn half_done(d: &Driven, program: &Program) -> (Ticket, Consumer, Request) {
    let descriptor = Descriptor { len: 8, ..Descriptor::default() };
    let ticket = program.submitter.try_submit(&descriptor).unwrap();
    let mut consumer = d.driver.rings.lock().unwrap()[&program.queue].consumer().unwrap();
    let begun = consumer.try_next().unwrap().expect("it was submitted");
    consumer.tell_left(&begun, 4);
    (ticket, consumer, begun)
}

#[test]
fn what_is_given_up_for_a_reset_that_is_late_ends_as_reset() {
    let mut d = Driven::impatient(npu());
    let program = Program::served(&d);
    for drained in [false, true] {
        let (ticket, consumer, begun) = half_done(&d, &program);
        let gates = [d.driver.gate("quiesce"), d.driver.gate("reset")];
        if drained {
            let options = DrainOptions { reset: true, ..Default::default() };
            fails(d.admin.drain("sim0", options, &mut quiet()), ErrorKind::DeviceState, &["can't be reset"]);
        } else {
            fails(d.admin.online_anew("sim0", &mut quiet()), ErrorKind::DeviceState, &["reset", "1.0 s"]);
        }
        d.stands(&Standing::Failed("reset: it has not answered within 1.0 s".into()));
        let ticket = match program.submitter.poll(ticket) {
            Err(Unfinished::Pending(ticket)) => ticket,
            other => panic!("the device may still be at it: {other:?}"),
        };
        // It comes to it, and is asked once more, since nobody has heard whether it has.
        let _ = consumer.suspend(vec![begun]);
        drop(gates);
        let asked = if drained { vec![Asked::Quiesce, Asked::Reset] } else { vec![Asked::Reset] };
        asked.into_iter().chain([Asked::Reset]).for_each(|asked| assert_eq!(d.next(), asked));
        assert_eq!(program.status(ticket), Completion::RESET);
        program.is_handed(&d);
        assert_eq!(d.next(), Asked::Resume);
        d.stands(&Standing::Running);
        let (next, mut consumer, begun) = half_done(&d, &program);
        consumer.complete(begun, &Completion::default());
        assert_eq!(program.status(next), 0);
        let _ = consumer.suspend(Vec::new());
    }
    // Or it never does.
    let (ticket, consumer, begun) = half_done(&d, &program);
    let gate = d.driver.gate("reset");
    fails(d.admin.online_anew("sim0", &mut quiet()), ErrorKind::DeviceState, &["reset", "1.0 s"]);
    std::mem::forget((consumer, begun));
    d.driving = None;
    assert_eq!(program.status(ticket), Completion::RESET);
    program.is_refused_at_once();
    drop(gate);
    let Driven { store, admin, rig, .. } = d;
    let d = Driven { admin, ..Driven::by(rig, store, npu()) };
    program.is_handed(&d);
    assert_eq!(d.next(), Asked::Resume);
    d.stands(&Standing::Running);
    let (next, mut consumer, begun) = half_done(&d, &program);
    assert_eq!(begun.descriptor().len, 8);
    consumer.complete(begun, &Completion::default());
    assert_eq!(program.status(next), 0);
}

#[test]
fn queues_to_a_device_at_rest_are_made_also_while_its_driver_is_away() {
    let working = || Description { operations: vec!["add".into()], ..npu() };
    let mut d = Driven::new(working());
    d.admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    assert_eq!((d.next(), d.next()), (Asked::Quiesce, Asked::Save));
    d.driving = None;
    let program = Program::new(&d);
    program.is_refused_at_once();
    let waits = program.submit(0);
    let Driven { store, admin, rig, .. } = d;
    let mut d = Driven { admin, ..Driven::by(rig, store, working()) };
    d.admin.online("sim0", &mut quiet()).unwrap();
    program.is_handed(&d);
    assert_eq!((d.next(), d.next()), (Asked::Restore(b"where it was".to_vec()), Asked::Resume));
    let mut consumer = d.driver.rings.lock().unwrap()[&program.queue].consumer().unwrap();
    let request = consumer.try_next().unwrap().expect("it has waited");
    consumer.complete(request, &Completion::default());
    assert_eq!(program.status(waits), 0);
    // One that should run has to have somebody who does it.
    d.driving = None;
    fails(d.admin.open_queue("sim0", 4), ErrorKind::DeviceState, &["no driver now", "npu"]);
}

#[test]
fn a_device_at_rest_whose_driver_takes_no_queues_refuses_them_as_one_that_runs() {
    let rig = Rig::new();
    let store = Store::open(options(&rig, LONG), TestEnv::new()).unwrap();
    let admin = admin(&store);
    let driving = store.drive("sim0", Arc::new(Queueless), Some(4711)).unwrap();
    // One that doesn't run yet has nothing to be saved.
    while store.device("sim0").unwrap().standing != Standing::Running {
        std::thread::sleep(Duration::from_millis(1));
    }
    admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    // It is asked, and then it is known.
    for _ in 0..2 {
        fails(admin.open_queue("sim0", 4), ErrorKind::NotSupported, &["sim0", "npu", "takes no queues"]);
    }
    drop(driving);
    // One that takes some is handed another, which it is to forget, and then its own when it goes on.
    let d = Driven { admin, ..Driven::by(rig, store, Queueless.describe()) };
    let program = Program::new(&d);
    assert!(matches!(d.next(), Asked::OpenQueue(queue) if queue != program.queue));
    let meanwhile = Program::new(&d);
    d.quiet();
    program.is_refused_at_once();
    d.admin.online("sim0", &mut quiet()).unwrap();
    let handed = [d.next(), d.next(), d.next(), d.next()];
    for program in [&program, &meanwhile] {
        assert!(handed.contains(&Asked::OpenQueue(program.queue)), "{handed:?}");
    }
    assert_eq!(d.next(), Asked::Restore(b"where it was".to_vec()));
}

#[test]
fn who_waits_for_a_device_is_told_that_its_new_driver_takes_no_queues() {
    let mut d = Driven::new(Queueless.describe());
    let program = Program::served(&d);
    d.admin.drain("sim0", DrainOptions::default(), &mut quiet()).unwrap();
    let waits = program.submit(0);
    d.driving = None;
    let driving = d.store.drive("sim0", Arc::new(Queueless), Some(4712)).unwrap();
    d.admin.online("sim0", &mut quiet()).unwrap();
    let ended = program.submitter.wait(waits, Some(Instant::now() + LONG));
    assert!(matches!(&ended, Err(Unfinished::Closed(closed)) if closed.0 == Reason::NotTaken), "{ended:?}");
    drop(driving);
}
