//! The other process: the test binary again, told by its environment what to be.

use crate::{PATIENCE, answer, request, soon};
use codax_os::ring::{Closed, Completion, Consumer, Reason, Refused, Request, Ring, Submitter, Unfinished};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, ExitStatus};
use std::time::Instant;

const RING: &str = "CODAX_TEST_RING";
const ROLE: &str = "CODAX_TEST_ROLE";

/// Exit statuses: that it died where it was to, and that the ring was closed for the death of the other end.
pub const DIED: i32 = 66;
pub const BEREFT: i32 = 67;

/// Operations of the serving child.
pub const NOTHING: u16 = 0;
/// Completes when it is cancelled.
pub const UNTIL_CANCELLED: u16 = 1;
/// Completes with those after it, the latest first.
pub const BACKWARDS: u16 = 2;
/// Suspends, and goes on as another consumer of the same process would.
pub const RESET: u16 = 3;

/// A child, killed and waited for when dropped. It opens the ring by the descriptor, which is this process's.
pub struct Other(Child, #[allow(dead_code)] OwnedFd);

impl Other {
    pub fn start(fd: OwnedFd, role: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child::child", "--nocapture", "--test-threads=1"]);
        command.env(RING, format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())).env(ROLE, role);
        Self(command.stdout(std::process::Stdio::null()).spawn().unwrap(), fd)
    }

    pub fn kill(&mut self) {
        self.0.kill().unwrap();
    }

    /// Waits for its end.
    pub fn end(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "the child doesn't end");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The other process's part; nothing to do in a usual run.
#[test]
fn child() {
    let Some(path) = std::env::var_os(RING) else { return };
    let ring = Ring::open(File::options().read(true).write(true).open(path).unwrap()).unwrap();
    let role = std::env::var(ROLE).unwrap();
    match role.split_once(' ').unwrap_or((&role, "")) {
        ("serve", "") => serve(&ring),
        ("serve-until", step) => serve_until(ring.consumer().unwrap(), step),
        ("ask", threads) => ask(&ring.submitter().unwrap(), threads.parse().unwrap()),
        ("ask-until", step) => ask_until(&ring.submitter().unwrap(), step),
        other => panic!("{other:?}"),
    }
}

fn die() -> ! {
    // Nothing is dropped.
    std::process::exit(DIED)
}

fn complete(consumer: &mut Consumer, request: Request) {
    let answer = answer(&request);
    consumer.complete(request, &answer);
}

/// A coprocessor, until the ring is closed.
fn serve(ring: &Ring) {
    let mut consumer = ring.consumer().unwrap();
    let (mut held, mut backwards) = (Vec::new(), Vec::new());
    let closed = loop {
        match consumer.next(None) {
            Err(closed) => break closed,
            Ok(Some(request)) => match request.descriptor().opcode {
                NOTHING => complete(&mut consumer, request),
                UNTIL_CANCELLED => held.push(request),
                BACKWARDS if backwards.len() < 3 => backwards.push(request),
                BACKWARDS => {
                    complete(&mut consumer, request);
                    backwards.drain(..).rev().for_each(|request| complete(&mut consumer, request));
                }
                RESET => {
                    held.push(request);
                    let progress = consumer.suspend(std::mem::take(&mut held));
                    (consumer, held) = ring.resume(&progress).unwrap();
                    let reset = held.pop().unwrap();
                    complete(&mut consumer, reset);
                }
                other => panic!("operation {other}"),
            },
            Ok(None) => {
                let (cancelled, still) = held.drain(..).partition(|request| consumer.is_cancelled(request));
                held = still;
                let cancelled: Vec<Request> = cancelled;
                cancelled.into_iter().for_each(|r| consumer.complete(r, &Completion::cancelled()));
            }
        }
    };
    assert_eq!(closed, Closed(Reason::Left));
}

/// Serves two requests, and dies at this step of the third.
fn serve_until(mut consumer: Consumer, step: &str) {
    for _ in 0..2 {
        let request = next(&mut consumer);
        complete(&mut consumer, request);
    }
    if step == "before it is submitted" {
        die();
    }
    let request = next(&mut consumer);
    match step {
        "taken" => die(),
        "posted" => consumer.post(request, &Completion { status: 3, ..Completion::default() }),
        "complete" => consumer.complete(request, &Completion { status: 3, ..Completion::default() }),
        // To be killed in its sleep.
        "asleep" => while consumer.next(None).is_ok() {},
        other => panic!("{other}"),
    }
    die();
}

fn next(consumer: &mut Consumer) -> Request {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(request) = consumer.next(soon()).unwrap() {
            return request;
        }
    }
    panic!("nothing comes");
}

/// A program of so many threads, each with requests of its own, alone and in batches.
fn ask(submitter: &Submitter, threads: u64) {
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let mut n = thread << 32;
                for round in 0..400_u64 {
                    let batch: Vec<_> = (0..1 + round % 7).map(|i| request(NOTHING, n + i)).collect();
                    let tickets = submitter.submit_batch(&batch).unwrap();
                    if tickets.len() == 0 {
                        std::thread::yield_now();
                    }
                    for ticket in tickets {
                        assert_eq!(submitter.wait(ticket, soon()).unwrap().took_ns, n);
                        n += 1;
                    }
                }
            });
        }
    });
}

/// Has two requests carried out, and dies at this step of the third.
fn ask_until(submitter: &Submitter, step: &str) {
    for n in 0..2 {
        let ticket = submitter.try_submit(&request(NOTHING, n)).unwrap();
        submitter.wait(ticket, soon()).unwrap();
    }
    match step {
        "before it submits" => die(),
        "submitted" => {
            let _ticket = submitter.try_submit(&request(NOTHING, 2)).unwrap();
            die();
        }
        "cancelled" => {
            let ticket = submitter.try_submit(&request(UNTIL_CANCELLED, 2)).unwrap();
            submitter.cancel(ticket.id());
            die();
        }
        "full" => {
            while submitter.try_submit(&request(UNTIL_CANCELLED, 2)).is_ok() {}
            die();
        }
        // Killed in its sleep, or told that the other end is dead.
        "asleep" => {
            let ticket = submitter.try_submit(&request(UNTIL_CANCELLED, 2)).unwrap();
            let ended = submitter.wait(ticket, None);
            assert!(matches!(ended, Err(Unfinished::Closed(Closed(Reason::Died)))), "{ended:?}");
            let refused = submitter.try_submit(&request(NOTHING, 3)).unwrap_err();
            assert_eq!(refused, Refused::Closed(Closed(Reason::Died)));
            std::process::exit(BEREFT);
        }
        other => panic!("{other}"),
    }
}
