//! Huge pages that are lent to the rest of the system: the holder lets go of them, and the kernel makes small pages of them, for whoever comes. To have them
//! back the kernel is asked to set as many aside again.
//!
//! In between they are free huge pages, which anybody may have; so it is done a few at a time, while nobody else changes how many the node has set aside. How many may
//! be free is written down meanwhile: should we be killed, who comes next has the kernel have them.

use super::raised::Raised;
use super::{Holder, no_pages};
use crate::backing::Lender;
use codax_core::{Error, Result};
use codax_os::hugetlb::NodePages;
use codax_os::numa;
use std::fs::File;
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
        let pages = NodePages::of(self.memory.node, self.unit);
        let e = pages.and_then(|pages| pages.may_change()).err()?;
        Some(no_pages(self.memory, &e).message)
    }

    fn lend(&self, bytes: u64) -> Result<u64> {
        if let Some(why) = self.why_not() {
            return Err(Error::permission(why));
        }
        let Some((mut raised, _alone)) = self.alone()? else { return Ok(0) };
        let mut promised = self.lock();
        raised.begin(bytes / self.unit)?;
        let pages = self.let_go(bytes / self.unit, &mut promised).and_then(|free| match raised.fewer(free)? {
            0 if free > 0 => Err(Error::no_space(format!(
                "the kernel has promised its free huge pages, to others or to the mount {}: that one keeps none of what may be lent if it is new (codax device detach, attach)",
                self.path.display()
            ))),
            pages => Ok(pages),
        });
        // What isn't lent the holder takes again when it is told to keep it.
        raised.end()?;
        Ok(pages? * self.unit)
    }

    fn take_back(&self, bytes: u64) -> Result<u64> {
        let mut got = 0;
        while got < bytes / self.unit {
            let wanted = (bytes / self.unit - got).min((AT_ONCE / self.unit).max(1));
            let come = match self.take_some_back(wanted) {
                // What came before has come.
                Err(_) if got > 0 => 0,
                come => come?,
            };
            got += come;
            if come < wanted {
                break;
            }
        }
        Ok(got * self.unit)
    }
}

impl Holder {
    /// By how much the node's reserve was raised for it; nobody changes that meanwhile. `None` where somebody else does now.
    fn alone(&self) -> Result<Option<(Raised, File)>> {
        Raised::try_lock(&self.raised, self.memory, self.unit).map_err(|e| no_pages(self.memory, &e))
    }

    /// Lets so many pages go, or as many as there are; returns how many.
    fn let_go(&self, pages: u64, promised: &mut u64) -> Result<u64> {
        let mut free = 0;
        while free < pages && self.take_one(promised)? {
            free += 1;
        }
        Ok(free)
    }

    /// Has the kernel set so many pages aside at most, in one go, and takes them; returns how many. What others were quicker to take of them, or a limit leaves, is
    /// not set aside for us.
    fn take_some_back(&self, wanted: u64) -> Result<u64> {
        let Some((mut raised, _alone)) = self.alone()? else { return Ok(0) };
        // Where there isn't as much in small pages, the kernel would only look for it far and wide.
        let free =
            numa::watermarks(self.memory.node).map_err(|e| no_pages(self.memory, &e))?.free / self.unit;
        let wanted = wanted.min(free);
        if wanted == 0 {
            return Ok(0);
        }
        raised.begin(wanted)?;
        // That takes its time, in which files get theirs.
        let come = raised.more(wanted)?;
        let (got, taken) = self.take_free(come);
        let rest = if got < come { raised.fewer(come - got).map(drop) } else { Ok(()) };
        let ended = raised.end();
        if got == 0 { taken.and(rest).and(ended).map(|()| 0) } else { Ok(got) }
    }

    /// Takes so many free pages of the node, or as many as there are; returns how many, and what kept it from more.
    fn take_free(&self, pages: u64) -> (u64, Result<()>) {
        let mut promised = self.lock();
        let mut got = 0;
        while got < pages {
            match Self::held(self).and_then(|held| self.page_for(self.file.as_fd(), held)) {
                Ok(Some(true)) => {
                    *promised = promised.saturating_sub(1);
                    got += 1;
                }
                Ok(_) => break,
                Err(e) => return (got, Err(e)),
            }
        }
        (got, Ok(()))
    }
}
