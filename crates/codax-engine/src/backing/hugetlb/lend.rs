//! Huge pages that are lent to the rest of the system: the holder lets go of them, and the kernel makes small pages of them, for whoever comes. To have them
//! back the kernel is asked to set as many aside again.
//!
//! In between they are free huge pages, which anybody may have; so it is done a few at a time, while nobody else takes from the holder or changes how many the
//! node has set aside.

use super::{Holder, no_pages};
use crate::backing::Lender;
use codax_core::{Error, Result};
use codax_os::numa;
use std::os::fd::AsFd;

/// Bytes that the kernel is asked for at once, or a page.
const AT_ONCE: u64 = 16 << 20;

impl Lender for Holder {
    fn unit(&self) -> u64 {
        self.unit
    }

    fn held(&self) -> Result<u64> {
        Self::held(self)
    }

    fn why_not(&self) -> Option<String> {
        let pages = self.raised().map(|raised| raised.pages);
        let e = pages.and_then(|pages| pages.may_change()).err()?;
        Some(no_pages(self.memory, &e).message)
    }

    fn lend(&self, bytes: u64) -> Result<u64> {
        if let Some(why) = self.why_not() {
            return Err(Error::permission(why));
        }
        let mut raised = self.raised().map_err(|e| no_pages(self.memory, &e))?;
        let mut promised = self.lock();
        let Some(_alone) = raised.pages.try_lock().map_err(|e| self.failed(&e))? else { return Ok(0) };
        let mut free = 0;
        while free < bytes / self.unit && self.take_one(&mut promised)? {
            free += 1;
        }
        match raised.fewer(free)? {
            0 if free > 0 => Err(Error::no_space(format!(
                "the kernel has promised its free huge pages, to others or to the mount {}: that one keeps none of what may be lent if it is new (codax device detach, attach)",
                self.path.display()
            ))),
            pages => Ok(pages * self.unit),
        }
    }

    fn take_back(&self, bytes: u64) -> Result<u64> {
        let mut got = 0;
        while got < bytes / self.unit {
            let wanted = (bytes / self.unit - got).min((AT_ONCE / self.unit).max(1));
            let come = self.take_some_back(wanted)?;
            got += come;
            if come < wanted {
                break;
            }
        }
        Ok(got * self.unit)
    }
}

impl Holder {
    /// The same of so many pages at most, in one go.
    fn take_some_back(&self, wanted: u64) -> Result<u64> {
        let failed = |e| no_pages(self.memory, &e);
        let mut raised = self.raised().map_err(failed)?;
        let mut promised = self.lock();
        let Some(_alone) = raised.pages.try_lock().map_err(failed)? else { return Ok(0) };
        // Where there isn't as much in small pages, the kernel would only look for it far and wide.
        let free = numa::watermarks(self.memory.node).map_err(failed)?.free / self.unit;
        let wanted = wanted.min(free);
        if wanted == 0 || !raised.more(wanted)? {
            return Ok(0);
        }
        let mut got = 0;
        while got < wanted && self.page_for(self.file.as_fd(), Self::held(self)?)? == Some(true) {
            *promised = promised.saturating_sub(1);
            got += 1;
        }
        Ok(got)
    }
}
