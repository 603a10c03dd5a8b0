//! An operation and its steps.

use crate::chunk::{self, Buffers, Place};
use crate::memory::{Fault, Memory, Which};
use crate::opcode::Opcode;
use crate::spec::{Invalid, Spec};
use crate::value::Outcome;
use crate::work::Work;

/// Budget of a step for who has no reason for another one, in bytes: less than a millisecond of every operation.
pub const DEFAULT_BUDGET: u64 = 2 << 20;

/// An operation that runs, between two steps. Its position is its state.
#[derive(Clone, Debug)]
pub struct Operation {
    pub(crate) spec: Spec,
    /// Where it is in the range that it goes through: a multiple of [`crate::kernel::GRAIN`] or [`Self::len`]; of a matrix's rows one after
    /// the other each is gone through like this.
    pub(crate) at: u64,
    pub(crate) work: Work,
    buffers: Box<Buffers>,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more to do.
    More,
    /// It is done. Another step says the same.
    Done(Outcome),
}

impl Operation {
    /// An operation before its first step.
    pub fn new(spec: Spec) -> Result<Self, Invalid> {
        spec.check()?;
        let work = Work::new(&spec);
        Ok(Self { spec, at: 0, work, buffers: Box::default() })
    }

    /// What it does.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// How many of [`Self::len`] bytes are done.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Length of the range that it goes through: the input, or what is filled.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.spec.len(if self.spec.opcode == Opcode::Fill { Which::Output } else { Which::Input })
    }

    /// Whether there is nothing to go through.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Goes on until about `budget` bytes were read or written; one chunk at least.
    ///
    /// After a fault the operation is where it was before the chunk that met it: the step can be tried again.
    pub fn step<M: Memory + ?Sized>(&mut self, memory: &mut M, budget: u64) -> Result<Step, Fault> {
        let end = self.len();
        let mut left = budget.max(1);
        self.buffers.refresh(&self.spec);
        while self.at < end {
            if left == 0 {
                return Ok(Step::More);
            }
            let place = Place { spec: &self.spec, at: self.at, end };
            let done = chunk::run(&mut self.work, place, &mut self.buffers, memory, left)?;
            self.at += done.bytes;
            left = left.saturating_sub(done.cost);
        }
        if let Work::Histogram(counts) = &self.work {
            memory.write(Which::Output, 0, counts.map(u64::to_le_bytes).as_flattened())?;
        }
        Ok(Step::Done(self.work.outcome(&self.spec, end)))
    }
}
