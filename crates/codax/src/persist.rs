//! Making what was stored in a mapping durable.

use crate::mapping::{Mapping, bounds, to_usize};
use crate::store::reply_as;
use crate::switcher::{Durable, Run};
use codax_core::{Error, PageRange, PoolId, Result};
use codax_os::durable;
use codax_wire::{Reply, Request};
use std::ops::{Range, RangeBounds};

impl Mapping {
    /// Makes the bytes `range`, counted from the mapping's first, durable: what this process has stored there before the call outlives the power once this
    /// returns. The bytes must lie in persistent pools, all of them: `NotSupported` otherwise, and then nothing is known to be durable.
    ///
    /// * It works by writing cache lines back, where the mapping is one of a DAX device or made with `MAP_SYNC`, and by msync(2) elsewhere. It asks no daemon.
    /// * What a write-back reaches must be safe from the power's loss: on x86-64, with memory whose controller is (ADR), which is what every platform with
    ///   persistent memory has. Processors of other kinds have only msync(2), and `NotSupported` where that isn't it.
    /// * A store is what a thread of this process did before the call in the sense of the memory model: by itself, or synchronised with the caller. What other
    ///   processes store is made durable by their own calls; of theirs that this process has *seen* (loaded with `Acquire` or later), it does that too.
    /// * Nothing is undone: bytes may become durable before, and those of a store longer than 8 aligned bytes one part before the other.
    /// * A move may go on meanwhile, for which this waits as an access does; where it puts bytes they are durable when this returns. What was persisted
    ///   stays so when it is moved to a persistent pool later. In a volatile one it is not durable any more, and the call says so.
    ///
    /// Bytes beyond the end of a file that was cut are as for a load: SIGBUS.
    pub fn persist(&self, range: impl RangeBounds<u64>) -> Result<()> {
        self.file.client.link.check_fork()?;
        let len = self.len() as u64;
        let (start, end) = bounds(&range, len)?;
        if start > end || end > len {
            return Err(Error::invalid(format!("persist bytes {start}..{end} of a mapping of {len}")));
        }
        let all = self.start + start..self.start + end;
        let mut left = vec![all];
        while let Some(bytes) = left.pop() {
            let disturbed = self.persist_once(&bytes)?;
            for pages in disturbed {
                let part = within(&bytes, pages);
                // Closed, it lets nothing through: nothing is written back there, and msync finds nothing to write. A load waits until it is open.
                let _: [u8; 1] = self.memory().read(to_usize(part.start - self.start)?);
                left.push(part);
            }
        }
        Ok(())
    }

    /// Makes some bytes of the file durable where they are now. Returns those of their pages that were on the move meanwhile.
    fn persist_once(&self, bytes: &Range<u64>) -> Result<Vec<PageRange>> {
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        let pages = PageRange::of_bytes(bytes.start, bytes.end - bytes.start);
        let watch = self.switcher.watch(self.file.id, self.id, pages);
        if let Some(run) = watch.runs.iter().find(|run| run.durable == Durable::Never) {
            return Err(self.volatile(run.pool));
        }
        for run in &watch.runs {
            self.persist_run(run, &within(bytes, run.pages))?;
        }
        Ok(watch.end())
    }

    fn persist_run(&self, run: &Run, bytes: &Range<u64>) -> Result<()> {
        let (at, len) = (to_usize(bytes.start - self.start)?, to_usize(bytes.end - bytes.start)?);
        durable::range(self.memory().part(at, len), run.durable == Durable::ByLines).map_err(|e| {
            let line = format!("persist {len} bytes of {}: {e}", self.file.path);
            match e.kind() {
                std::io::ErrorKind::Unsupported => Error::not_supported(line),
                _ => Error::internal(line),
            }
        })
    }

    fn volatile(&self, pool: PoolId) -> Error {
        let name = self.pool_name(pool).unwrap_or_else(|| format!("pool {}", pool.0));
        Error::not_supported(format!(
            "{} lies on {name}, which keeps nothing without power: only what is in persistent pools can be made durable",
            self.file.path
        ))
    }

    /// The name of a pool, if the daemon is there to tell.
    fn pool_name(&self, pool: PoolId) -> Option<String> {
        let status = self.file.client.link.with(|turn| turn.ask(&Request::Status)).ok()?;
        let info = reply_as!(status, Reply::Store(info) => info).ok()?;
        info.pools.into_iter().find(|info| info.id == pool).map(|info| info.name)
    }
}

/// Those of some bytes that lie in these pages.
fn within(bytes: &Range<u64>, pages: PageRange) -> Range<u64> {
    bytes.start.max(pages.offset())..bytes.end.min(pages.offset() + pages.bytes())
}
