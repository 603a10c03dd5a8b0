//! Bringing pages to the nodes where they are to be.

use super::os_error;
use codax_core::{HUGE_SIZE, Result};
use codax_os::numa::Located;
use std::io;
use std::path::Path;

/// How often the kernel is asked to move a page that it leaves where it is: what somebody has in his hands for a moment is free the next time.
const ROUNDS: u32 = 4;

/// Where the pages of a directory's objects are to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Home<'a> {
    pub path: &'a Path,
    pub nodes: &'a [u32],
}

impl Home<'_> {
    /// The numbers of pages that lie on other nodes.
    pub fn strays_in(self, located: &Located) -> Result<Vec<usize>> {
        let nodes =
            located.nodes().map_err(|e| os_error("ask where pages lie of", &self.path.display(), &e))?;
        Ok(self.astray_of((0..nodes.len()).collect(), &nodes))
    }

    /// Those of pages that lie on other nodes.
    fn astray_of(self, pages: Vec<usize>, nodes: &[Option<u32>]) -> Vec<usize> {
        // A page that the kernel doesn't find has been given back, or is being moved by somebody else: it is not known to be at its place.
        let astray = |node: &Option<u32>| node.is_none_or(|node| !self.nodes.contains(&node));
        pages.into_iter().zip(nodes).filter(|(_, node)| astray(node)).map(|(page, _)| page).collect()
    }

    /// Has the kernel bring pages to where they are to be; returns those that are elsewhere afterwards.
    pub fn gather(self, located: &Located, mut strays: Vec<usize>) -> Result<Vec<usize>> {
        let failed = |e: io::Error| os_error("move pages in", &self.path.display(), &e);
        for _ in 0..ROUNDS {
            // The kernel stops at what it can't move: that is set aside, and it goes on behind it.
            let mut aside: Vec<usize> = Vec::new();
            while let Some(&first) = strays.first() {
                let mut full = true;
                for &node in self.nodes {
                    let unsure = match located.bring(&strays, node) {
                        // This one is full, or offline.
                        Err(e)
                            if matches!(e.kind(), io::ErrorKind::OutOfMemory | io::ErrorKind::NotFound) =>
                        {
                            strays
                        }
                        done => {
                            full = false;
                            done.map_err(failed)?
                        }
                    };
                    let nodes = located.nodes_of(&unsure).map_err(failed)?;
                    strays = self.astray_of(unsure, &nodes);
                }
                if full {
                    aside.append(&mut strays);
                    return Ok(aside);
                }
                let block = |page: usize| located.address(page) / HUGE_SIZE;
                let same = |page: &&usize| strays[0] == first && block(**page) == block(first);
                let behind = strays.split_off(strays.iter().take_while(same).count());
                aside.append(&mut strays);
                strays = behind;
            }
            strays = aside;
            if strays.is_empty() {
                break;
            }
        }
        Ok(strays)
    }
}
