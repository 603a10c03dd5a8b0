//! Huge pages that the kernel moves to the pool's node, under whoever maps them.
//!
//! A page that moves wants a free one on the node, which nobody is promised: the holder lets one go. What the page leaves is free on its node, and is promised to
//! the other pool's holder at once, which takes it when the move is over: it is cleared for that. In between a stranger who asks for a huge page may be quicker. Then the kernel may make another one of the node's
//! small pages, and unmake the one that was left: so both nodes' counts are looked at, and set right.

use super::Hugetlb;
use crate::backing::os_error;
use codax_core::{PageCount, PageRange, Result};
use codax_os::hugetlb::NodePages;
use codax_os::numa::Located;
use codax_os::object;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

/// Bytes that the kernel is asked to move at once, or a page: so much is free for a moment.
const AT_ONCE: u64 = 16 << 20;

/// How often the kernel is asked to move a page that it leaves where it is: what somebody has in his hands for a moment is free the next time.
const ROUNDS: u32 = 4;

impl Hugetlb {
    /// Has the kernel bring pages of an object, none of them a hole, to the pool's node; returns those that are there now.
    pub(super) fn bring(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<Vec<PageRange>> {
        let node = self.holder()?.memory.node;
        let len = object::stat(object).map_err(|e| self.failed("look at an object in", &e))?.len;
        let whole = PageRange::new(0, PageCount::for_bytes(len).0);
        let wide = pages.widened(self.pages_of_unit()).intersect(whole);
        let Some(pages) = wide.filter(|pages| !pages.is_empty()) else { return Ok(Vec::new()) };
        let located = Located::new(object, pages.offset(), pages.bytes())
            .map_err(|e| self.failed("map an object of", &e))?;
        let unit = usize::try_from(self.pages_of_unit()).unwrap_or(usize::MAX);
        // Who asks for the first of its small pages asks for all.
        let units: Vec<usize> = (0..located.pages()).step_by(unit).collect();
        let strays = self.elsewhere(&located, units.clone(), node)?;
        let strays = self.gather(&located, strays, node)?;
        let there = units.into_iter().filter(|page| !strays.contains(page));
        Ok(there.map(|page| PageRange::new(pages.start.0 + page as u64, unit as u64)).collect())
    }

    /// Those of pages that are not on the node.
    fn elsewhere(&self, located: &Located, pages: Vec<usize>, node: u32) -> Result<Vec<usize>> {
        let found =
            located.nodes_of(&pages).map_err(|e| self.failed("ask where pages lie of an object in", &e))?;
        let elsewhere = |(page, found): (usize, Option<u32>)| (found != Some(node)).then_some(page);
        Ok(pages.into_iter().zip(found).filter_map(elsewhere).collect())
    }

    /// Brings pages; returns those that are elsewhere afterwards.
    fn gather(&self, located: &Located, mut strays: Vec<usize>, node: u32) -> Result<Vec<usize>> {
        if strays.is_empty() {
            return Ok(strays);
        }
        let holder = self.holder()?;
        let at_once = usize::try_from(AT_ONCE / self.unit).unwrap_or(usize::MAX).max(1);
        // Before the holder, as everybody does.
        let _alone = self.lock_nodes(located, &strays, node)?;
        let mut promised = holder.lock();
        // Pages that the holder has let go of and nothing has moved to yet.
        let mut free = 0;
        for _ in 0..ROUNDS {
            let mut aside = Vec::new();
            while !strays.is_empty() {
                let mut asked = strays.len().min(at_once);
                while free < asked && holder.take_one(&mut promised)? {
                    free += 1;
                }
                asked = asked.min(free);
                if asked == 0 {
                    aside.append(&mut strays);
                    return Ok(aside);
                }
                let behind = strays.split_off(asked);
                let mut left = self.ask(located, strays, node)?;
                free -= asked - left.len();
                // Where it goes on behind one that it can't move is its affair: that one is set aside, and the rest asked for again.
                let mut rest = left.split_off(left.len().min(1));
                aside.append(&mut left);
                rest.extend(behind);
                strays = rest;
            }
            strays = aside;
            if strays.is_empty() {
                break;
            }
        }
        holder.promise(&mut promised, free as u64)?;
        Ok(strays)
    }

    /// Keeps everybody, loans of their pools among them, from changing how many huge pages the node has, and those that pages are on: what they have is compared
    /// with what they had. One after the other in one order, so that two moves don't wait for each other.
    fn lock_nodes(&self, located: &Located, pages: &[usize], node: u32) -> Result<Vec<File>> {
        let failed = |e: io::Error| self.failed("keep others from the nodes of", &e);
        let mut nodes: BTreeSet<u32> =
            located.nodes_of(pages).map_err(failed)?.into_iter().flatten().collect();
        nodes.insert(node);
        let lock = |node| NodePages::of(node, self.unit).and_then(|pages| pages.lock());
        nodes.into_iter().map(lock).collect::<io::Result<_>>().map_err(failed)
    }

    /// Asks the kernel to move pages, for each of which the node has a free one; returns those that stayed.
    fn ask(&self, located: &Located, pages: Vec<usize>, node: u32) -> Result<Vec<usize>> {
        let failed = |e: io::Error| self.failed("move pages in", &e);
        let from = located.nodes_of(&pages).map_err(failed)?;
        let from: BTreeSet<u32> = from.into_iter().flatten().filter(|from| *from != node).collect();
        let counts = Counts::of(node, &from, self.unit).map_err(failed)?;
        let unsure = match located.bring(&pages, node) {
            // There is no free page any more, or no node.
            Err(e) if matches!(e.kind(), io::ErrorKind::OutOfMemory | io::ErrorKind::NotFound) => pages,
            done => done.map_err(failed)?,
        };
        let left = self.elsewhere(located, unsure, node)?;
        let made = counts.set_right().map_err(failed)?;
        if made > 0 {
            tracing::warn!("node {node}: others have taken {made} huge pages while files were moved there");
        }
        Ok(left)
    }

    fn failed(&self, what: &str, e: &io::Error) -> codax_core::Error {
        os_error(what, &self.place.path.display(), e)
    }
}

/// How many huge pages nodes have in all, while nobody else changes that.
struct Counts {
    to: (NodePages, u64),
    from: Vec<(NodePages, u64)>,
}

impl Counts {
    fn of(to: u32, from: &BTreeSet<u32>, unit: u64) -> io::Result<Self> {
        let count = |node: u32| NodePages::of(node, unit).and_then(|pages| pages.total().map(|n| (pages, n)));
        Ok(Self { to: count(to)?, from: from.iter().map(|&node| count(node)).collect::<io::Result<_>>()? })
    }

    /// Where one node has more than it had, and others fewer by that, the kernel has made pages on it: each node gets its own again. Returns how many.
    fn set_right(&self) -> io::Result<u64> {
        let (to, had) = &self.to;
        let made = to.total()?.saturating_sub(*had);
        let mut left = made;
        for (from, had) in self.from.iter().filter(|_| made > 0) {
            let now = from.total()?;
            let lost = had.saturating_sub(now).min(left);
            if lost > 0 {
                from.set_total(now + lost)?;
                left -= lost;
            }
        }
        if left < made {
            to.set_total(to.total()?.saturating_sub(made - left))?;
        }
        Ok(made - left)
    }
}
