//! Keeping moves below a bandwidth.

use crate::env::Env;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A limit that several threads share.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_s: Option<u64>,
    /// When the bytes that were let through so far will have passed at that rate.
    free_at: Mutex<Duration>,
}

impl Pace {
    /// The lowest of these rates; no limit if there are none.
    pub fn new(rates: impl IntoIterator<Item = Option<u64>>) -> Self {
        Self { bytes_per_s: rates.into_iter().flatten().min(), free_at: Mutex::new(Duration::ZERO) }
    }

    /// Waits until `bytes` more may be moved.
    pub fn wait(&self, bytes: u64, env: &dyn Env) {
        let Some(rate) = self.bytes_per_s else { return };
        let now = env.now();
        let begin = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = (*free_at).max(now);
            *free_at = begin + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
            begin
        };
        if begin > now {
            env.sleep(begin - now);
        }
    }
}
