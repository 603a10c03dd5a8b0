//! On which NUMA nodes an object's pages lie, and bringing them to another.
#![allow(unsafe_code)]
//! Unsafe code: `move_pages` (move_pages(2)) with arrays of our own, on pages of our own mapping. It changes no byte and no address.

use crate::area::Area;
use crate::util::{PAGE, to_usize};
use std::io;
use std::os::fd::AsFd;
use std::ptr::null;

/// Pages asked for in one call.
const AT_ONCE: usize = 16 << 10;

/// Moves pages that other processes map as well; wants `CAP_SYS_NICE`. From `linux/mempolicy.h`.
const MPOL_MF_MOVE_ALL: libc::c_int = 1 << 2;

/// A mapping of pages of an object, by which the kernel is asked where they lie.
#[derive(Debug)]
pub struct Located {
    area: Area,
}

impl Located {
    /// Maps `len` bytes at `off`, both whole pages. All of them have memory already: to ask for a hole would fill it.
    pub fn new(object: impl AsFd, off: u64, len: u64) -> io::Result<Self> {
        let area = Area::object(object, off, to_usize(len), false)?;
        // The kernel tells only of pages that are mapped here.
        area.populate(0, area.len(), false)?;
        Ok(Self { area })
    }

    /// The node of each page, in their order; `None` for one that the kernel doesn't find, or is just moving.
    pub fn nodes(&self) -> io::Result<Vec<Option<u32>>> {
        let all: Vec<usize> = (0..self.area.len() / PAGE).collect();
        let status = self.call(&all, None)?;
        Ok(status.into_iter().map(|node| u32::try_from(node).ok()).collect())
    }

    /// The node of the first page.
    pub fn first(&self) -> io::Result<Option<u32>> {
        Ok(self.call(&[0], None)?.first().and_then(|node| u32::try_from(*node).ok()))
    }

    /// Asks the kernel to bring pages, by their numbers here, to a node. It may leave some where they are, and its word for each is not to be
    /// trusted: ask [`Self::nodes`] afterwards. `PermissionDenied` without `CAP_SYS_NICE`.
    pub fn bring(&self, pages: &[usize], node: u32) -> io::Result<()> {
        match self.call(pages, Some(node)) {
            // The node is full.
            Err(e) if e.kind() == io::ErrorKind::OutOfMemory => Ok(()),
            done => done.map(drop),
        }
    }

    fn call(&self, pages: &[usize], to: Option<u32>) -> io::Result<Vec<libc::c_int>> {
        let mut status = vec![0; pages.len()];
        for (pages, status) in pages.chunks(AT_ONCE).zip(status.chunks_mut(AT_ONCE)) {
            let addresses: Vec<usize> = pages.iter().map(|page| self.area.base() + page * PAGE).collect();
            let nodes =
                to.map(|node| vec![libc::c_int::try_from(node).unwrap_or(libc::c_int::MAX); pages.len()]);
            let nodes = nodes.as_ref().map_or(null(), |nodes| nodes.as_ptr());
            // SAFETY: three arrays of `pages.len()` numbers each (or none for the nodes), of which the kernel writes the last; the addresses are only
            // looked up.
            let done = unsafe {
                libc::syscall(
                    libc::SYS_move_pages,
                    0,
                    addresses.len(),
                    addresses.as_ptr(),
                    nodes,
                    status.as_mut_ptr(),
                    if to.is_some() { MPOL_MF_MOVE_ALL } else { 0 },
                )
            };
            // A number above 0 counts pages that were left where they are.
            if done < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn pages_are_found_on_a_node() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let object = File::create_new(dir.path().join("object")).unwrap();
        crate::object::set_len(&object, 64 << 12).unwrap();
        crate::object::allocate(&object, 0, 64 << 12).unwrap();
        let object = File::open(dir.path().join("object")).unwrap();
        let located = Located::new(&object, 4 << 12, 8 << 12).unwrap();
        let nodes = crate::topology::nodes(std::path::Path::new(crate::topology::SYSFS));
        let known: Vec<u32> = nodes.iter().map(|node| node.node).collect();
        match located.nodes() {
            Ok(found) => {
                assert_eq!(found.len(), 8);
                assert!(
                    found
                        .iter()
                        .all(|node| node.is_some_and(|node| known.is_empty() || known.contains(&node)))
                );
            }
            // A kernel without NUMA has no such call.
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::ENOSYS)),
        }
    }
}
