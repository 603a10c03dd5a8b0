//! Getting back what is lent of a device before it is drained, and having nothing lent until that is over.

use crate::drain::Progress;
use crate::store::Inner;
use crate::store::blocks::frames;
use codax_core::info::JobInfo;
use codax_core::units::format_size;
use codax_core::{Error, PoolId, Result};
use std::time::Duration;

/// How long a drain waits for what is lent, if it was told to wait no longer.
const RECALL: Duration = Duration::from_secs(3);

impl Inner {
    /// Gets back what is lent of a device before it is drained, and has nothing lent until that is over. `Busy`, with who has it, if that takes longer than
    /// `wait`; then it stays lent.
    pub fn recall(
        &self,
        pool: PoolId,
        name: &str,
        wait: Duration,
        progress: Progress<'_>,
    ) -> Result<Recall<'_>> {
        let recall = Recall::new(self, pool);
        self.wait_for_loan(pool, name, wait, progress).map(|()| recall)
    }

    fn wait_for_loan(&self, pool: PoolId, name: &str, wait: Duration, progress: Progress<'_>) -> Result<()> {
        let deadline = self.env.now() + wait.max(RECALL);
        let begun = JobInfo { what: "drain".into(), ..JobInfo::default() };
        loop {
            let cancelled = !progress(&begun);
            let st = self.lock();
            let over = self.env.now() >= deadline || st.closing;
            // With what is on its way to others just now.
            let lent = frames(&st.pool(pool).lent).bytes();
            if lent == 0 {
                return Ok(());
            }
            if cancelled {
                return Err(Error::cancelled(format!("drain {name}: cancelled; nothing has moved")));
            }
            if over {
                drop(st);
                let who = self.who_is_on(pool);
                return Err(Error::busy(format!(
                    "drain {name}: {} of it are lent to the rest of the system and can't be got back now: {who} (--wait DUR waits)",
                    format_size(lent)
                )));
            }
            drop(self.wait_changed(st, Duration::from_millis(50)));
        }
    }
}

/// Nothing of a device is lent as long as this is there, and what is comes back.
pub(crate) struct Recall<'a> {
    inner: &'a Inner,
    pool: PoolId,
}

impl<'a> Recall<'a> {
    fn new(inner: &'a Inner, pool: PoolId) -> Self {
        let recall = Self { inner, pool };
        recall.count(u32::saturating_add);
        recall
    }

    fn count(&self, change: fn(u32, u32) -> u32) {
        let mut st = self.inner.lock();
        let recalls = &mut st.pool_mut(self.pool).recalls;
        *recalls = change(*recalls, 1);
    }
}

impl Drop for Recall<'_> {
    fn drop(&mut self) {
        self.count(u32::saturating_sub);
    }
}
