//! A request that is being carried out.

use crate::files::{Files, Grants, Place};
use crate::places::Places;
use codax::queue::{Completion, Descriptor, Range, Status, Wanted, wanted};
use codax_ops::{Operation, Outcome, Spec, Step, Which};
use codax_os::guard::Guard;
use codax_os::ring::Request;
use std::time::{Duration, Instant};

/// The longest search string.
const STRING_MAX: u64 = codax_ops::NEEDLE_MAX as u64;

/// An operation between two steps, and whose it is.
#[derive(Debug)]
pub struct Running {
    pub request: Request,
    pub operation: Operation,
    places: Places,
    /// Where the result goes, if not into the completion.
    result: Option<Place>,
    begun: Instant,
}

/// What was done of a request before it came here.
#[derive(Clone, Debug)]
pub struct Done {
    pub operation: Operation,
    /// For how long.
    pub ran: Duration,
}

/// What a request has come to.
#[derive(Debug)]
pub enum Turn {
    /// It is to go on.
    More,
    /// It is complete.
    Complete(Completion),
}

/// A completion that says why nothing was done.
pub fn failed(status: Status) -> Completion {
    Completion { status: status.number(), ..Completion::default() }
}

/// Begins a request, or goes on with it; what can't be carried out is complete at once.
pub fn begin(
    request: Request,
    done: Option<Done>,
    files: &mut Files,
    grants: &Grants,
    guard: Guard,
) -> Result<Running, (Request, Completion)> {
    let now = Instant::now();
    let (done, ran) = done.map(|done| (done.operation, done.ran)).unzip();
    match prepared(&request.descriptor(), done, files, grants, guard) {
        Ok(Prepared { operation, ranges, result }) => {
            let begun = now.checked_sub(ran.unwrap_or_default()).unwrap_or(now);
            Ok(Running { request, operation, places: Places::new(guard, ranges), result, begun })
        }
        Err(status) => Err((request, failed(status))),
    }
}

/// An operation that can begin, and where its ranges lie.
struct Prepared {
    operation: Operation,
    ranges: [Option<Place>; 3],
    result: Option<Place>,
}

fn prepared(
    descriptor: &Descriptor,
    done: Option<Operation>,
    files: &mut Files,
    grants: &Grants,
    guard: Guard,
) -> Result<Prepared, Status> {
    let Wanted { mut spec, string, result } = wanted(descriptor).ok_or(Status::NoOperation)?;
    if result.is_some() && spec.ranges[Which::Output as usize].is_some() {
        return Err(Status::Invalid);
    }
    match (string, &done) {
        (_, Some(done)) => spec.parameter.clone_from(&done.spec().parameter),
        (Some(string), None) => spec = spec.parameter(read_string(string, files, grants, guard)?),
        (None, None) => {}
    }
    let mut find = |range, write| {
        let place = files.find(grants, range, write);
        // It was there when the operation began.
        place.map_err(|status| if done.is_some() { Status::Unreachable } else { status })
    };
    let result = result.map(|range| find(range, true)).transpose()?;
    let mut ranges = [const { None }; 3];
    for which in Which::ALL {
        let i = which as usize;
        let Some(range) = spec.ranges[i] else { continue };
        let place = find(range, which == Which::Output)?;
        // Two numbers may be of one file.
        spec.ranges[i] = Some(Range { file: place.file.0, ..range });
        ranges[i] = Some(place);
    }
    let operation = match done {
        None => checked(spec)?,
        Some(done) if *done.spec() == spec => done,
        Some(_) => return Err(Status::Invalid),
    };
    Ok(Prepared { operation, ranges, result })
}

fn checked(spec: Spec) -> Result<Operation, Status> {
    Operation::new(spec).map_err(|e| match e {
        codax_ops::Invalid::Beyond(_) => Status::Beyond,
        _ => Status::Invalid,
    })
}

fn read_string(range: Range, files: &mut Files, grants: &Grants, guard: Guard) -> Result<Vec<u8>, Status> {
    if range.len > STRING_MAX {
        return Err(Status::Invalid);
    }
    let mut place = files.find(grants, range, false)?;
    let mut string = vec![0; usize::try_from(range.len).unwrap_or(0)];
    let done = place.read(guard, 0, &mut string);
    if done == string.len() { Ok(string) } else { Err(Status::Unreachable) }
}

impl Running {
    /// What is done so far.
    pub fn stop(self) -> (Request, Done) {
        (self.request, Done { operation: self.operation, ran: self.begun.elapsed() })
    }

    /// Takes a step.
    pub fn step(&mut self) -> Turn {
        let budget = self.places.budget();
        let step = self.operation.step(&mut self.places, budget);
        self.places.count();
        // Who hears of it sees all that it has written.
        self.places.guard.settle();
        match step {
            Ok(Step::More) => Turn::More,
            Ok(Step::Done(outcome)) => Turn::Complete(self.completion(outcome)),
            Err(_) => Turn::Complete(failed(Status::Unreachable)),
        }
    }

    /// Of what is done: with the result, or with where that was written.
    fn completion(&self, Outcome(result): Outcome) -> Completion {
        let result = match &self.result {
            None => Some(result),
            Some(place) => {
                let written = place.write(self.places.guard, 0, &result);
                (written == result.len()).then(|| place.range())
            }
        };
        let took_ns = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let done = |result| Completion { status: Status::Done.number(), took_ns, result };
        result.map_or_else(|| failed(Status::Unreachable), done)
    }
}
