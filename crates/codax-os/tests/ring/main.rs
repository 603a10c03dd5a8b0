//! The ring between threads and processes. The test binary runs itself for the other process.
#![forbid(unsafe_code)]

mod child;
mod opening;
mod order;
mod processes;
mod rest;
mod scribble;

use codax_os::ring::{Completion, Consumer, Descriptor, Request, Ring, Submitter};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(60);

fn soon() -> Option<Instant> {
    Some(Instant::now() + PATIENCE)
}

fn ends(slots: u32) -> (Submitter, Consumer, OwnedFd) {
    let (ring, fd) = Ring::create(slots).unwrap();
    (ring.submitter().unwrap(), ring.consumer().unwrap(), fd)
}

fn request(opcode: u16, len: u64) -> Descriptor {
    Descriptor { opcode, len, ..Descriptor::default() }
}

/// A completion that shows which request it is of.
fn answer(request: &Request) -> Completion {
    let descriptor = request.descriptor();
    Completion { status: 0, took_ns: descriptor.len, result: descriptor.argument }
}
