//! Which ends of a ring are taken.
#![forbid(unsafe_code)]

use super::core::{Core, Reason};
use super::shared::{Shared, Word};
use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One of a ring's two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where requests are handed in.
    Submitter,
    /// Where they are carried out.
    Consumer,
}

impl End {
    pub(super) const fn bit(self) -> u32 {
        match self {
            Self::Submitter => 1,
            Self::Consumer => 2,
        }
    }
}

/// An end that this process has. The ring is closed when it goes, unless it is [for others](Self::passes_on) then.
#[derive(Debug)]
pub(super) struct Claim<S: Shared> {
    core: Arc<Core<S>>,
    end: End,
    closes: bool,
}

impl<S: Shared> Claim<S> {
    /// `ResourceBusy` if somebody has it, or died with it.
    pub(super) fn new(core: Arc<Core<S>>, end: End) -> io::Result<Self> {
        if let Err(closed) = core.open() {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, closed));
        }
        if core.shared.header().ends.fetch_or(end.bit(), Ordering::AcqRel) & end.bit() != 0 {
            let which = if end == End::Submitter { "submitter" } else { "consumer" };
            let message = format!("the queue has a {which} already: make a queue of its own for each");
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
        }
        Ok(Self { core, end, closes: true })
    }

    /// From now on it is given back when it goes, for somebody else to take.
    pub(super) fn passes_on(&mut self) {
        self.closes = false;
    }

    pub(super) fn share(&self) -> Arc<Core<S>> {
        self.core.clone()
    }
}

impl<S: Shared> Deref for Claim<S> {
    type Target = Core<S>;

    #[inline]
    fn deref(&self) -> &Core<S> {
        &self.core
    }
}

impl<S: Shared> Drop for Claim<S> {
    fn drop(&mut self) {
        self.core.shared.header().ends.fetch_and(!self.end.bit(), Ordering::AcqRel);
        if self.closes {
            self.core.close(Reason::Left);
        }
    }
}
