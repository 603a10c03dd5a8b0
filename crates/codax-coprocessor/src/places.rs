//! Where the ranges of an operation lie: it reads, writes and looks at them there.
#![allow(unsafe_code)]
//! Unsafe code: operations look at memory that others write and cut.

use crate::accesses::Part;
use crate::files::Place;
use codax_ops::{DEFAULT_BUDGET, Fault, Look, Memory, Which};
use codax_os::guard::Guard;

/// Bytes of a step that asks the store for them.
const ASKED_AT_ONCE: u64 = 128 << 10;

/// Where an operation's ranges lie.
#[derive(Debug)]
pub struct Places {
    pub guard: Guard,
    ranges: [Option<Place>; 3],
    /// What of each was read and written in this step.
    accessed: [(Part, Part); 3],
}

impl Memory for Places {
    fn read(&mut self, which: Which, at: u64, to: &mut [u8]) -> Result<(), Fault> {
        let place = self.ranges[which as usize].as_mut().ok_or(Fault { which, at })?;
        whole(which, at, place.read(self.guard, at, to), to.len())?;
        self.accessed[which as usize].0.add(at, to.len());
        Ok(())
    }

    fn write(&mut self, which: Which, at: u64, from: &[u8]) -> Result<(), Fault> {
        let place = self.ranges[which as usize].as_ref().ok_or(Fault { which, at })?;
        whole(which, at, place.write(self.guard, at, from), from.len())?;
        self.accessed[which as usize].1.add(at, from.len());
        Ok(())
    }

    fn look(&mut self, len: usize, input: u64, second: Option<u64>, look: &mut Look<'_>) -> bool {
        let view = |which, at| self.ranges[which as usize].as_ref()?.view(at, len);
        let Some(one) = view(Which::Input, input) else { return false };
        let two = match second {
            Some(at) => view(Which::Second, at),
            None => Some(one.part(0, 0)),
        };
        let Some(two) = two else { return false };
        let mut seen = 0;
        // SAFETY: `codax_ops` promises just that of what it looks with: it is left as if it went on there never more, and forgotten; and bytes are values to it. Its kernels and
        // those of the crates that it calls (crc-fast, memchr, the C library's comparison) load them into registers, and compute addresses of their positions alone.
        let looked = unsafe { self.guard.look([one, two], &mut |one, two| seen = look(one, two)) };
        if looked {
            let [of_input, of_second, _] = &mut self.accessed;
            of_input.0.add(input, seen);
            second.inspect(|at| of_second.0.add(*at, seen));
        }
        looked
    }
}

impl Places {
    pub fn new(guard: Guard, ranges: [Option<Place>; 3]) -> Self {
        Self { guard, ranges, accessed: Default::default() }
    }

    /// How much a step goes through: less where each piece of it is a question to the store.
    pub fn budget(&self) -> u64 {
        let asks = self.ranges.iter().flatten().any(Place::asks);
        if asks { ASKED_AT_ONCE } else { DEFAULT_BUDGET }
    }

    /// Counts what this step has accessed.
    pub fn count(&mut self) {
        for (place, (read, written)) in self.ranges.iter_mut().zip(std::mem::take(&mut self.accessed)) {
            if let Some(place) = place {
                place.count(read, written);
            }
        }
    }
}

fn whole(which: Which, at: u64, done: usize, wanted: usize) -> Result<(), Fault> {
    if done == wanted { Ok(()) } else { Err(Fault { which, at: at + done as u64 }) }
}
