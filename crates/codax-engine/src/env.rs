//! Where the engine gets time, randomness and threads from, so that a store can run in a deterministic simulation.

use std::time::Duration;

/// Clock, randomness and scheduling.
pub trait Env: Send + Sync + std::fmt::Debug {
    /// Time since some fixed moment; never goes back.
    fn now(&self) -> Duration;
    /// Nanoseconds since 1970.
    fn wall_ns(&self) -> i64;
    /// A random number.
    fn random(&self) -> u64;
    /// Lets `time` pass.
    fn sleep(&self, time: Duration);
    /// Runs `job` beside the caller.
    fn spawn(&self, name: &str, job: Box<dyn FnOnce() + Send>);
    /// Execution has come to the named point. Does nothing in earnest; tests stop or kill a daemon here.
    fn reached(&self, point: &'static str);
}
