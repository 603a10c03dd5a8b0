//! On which NUMA nodes an object's pages lie, bringing them to another, and where new ones come from.
#![allow(unsafe_code)]
//! Unsafe code: `move_pages` (move_pages(2)) and `mbind` (mbind(2)) with arrays of our own. They change no byte and no address.

use crate::area::Area;
use crate::util::{PAGE, invalid, to_u64, to_usize};
use std::io;
use std::os::fd::AsFd;
use std::ptr::null;

/// Pages asked for in one call.
const AT_ONCE: usize = 16 << 10;

/// Moves pages that other processes map as well; wants `CAP_SYS_NICE`. From `linux/mempolicy.h`.
const MPOL_MF_MOVE_ALL: libc::c_int = 1 << 2;

/// What stands for a page of which the kernel has said nothing.
const UNKNOWN: libc::c_int = libc::c_int::MIN;

/// Takes memory from a node as long as it has some, and then from others; of several nodes. From `linux/mempolicy.h`.
const MPOL_PREFERRED_MANY: libc::c_int = 5;

/// Nodes that a set of nodes has bits for: more than any kernel is built with.
const NODES_MAX: usize = 1024;

/// Bit of the capability that moving pages which others map asks for (`CAP_SYS_NICE`).
const CAP_SYS_NICE: u32 = 23;

/// Whether this process may move pages that other processes map.
#[must_use]
pub fn can_move() -> bool {
    crate::mounts::has_capability(CAP_SYS_NICE)
}

/// Has new memory of a tmpfs file's bytes from `off` on come from these nodes, as long as they have some, whoever asks for it. The file keeps that as
/// long as it exists.
pub fn prefer(object: impl AsFd, off: u64, len: u64, nodes: &[u32]) -> io::Result<()> {
    let area = Area::object(object, off, to_usize(len), false)?;
    let mut set = [0_u64; NODES_MAX / 64];
    for &node in nodes {
        let word = set.get_mut(node as usize / 64).ok_or_else(|| invalid("no kernel has so many nodes"))?;
        *word |= 1 << (node % 64);
    }
    // SAFETY: a mapping of our own, and a set of nodes that the kernel reads; of it one bit less than told.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            area.base(),
            area.len(),
            MPOL_PREFERRED_MANY,
            set.as_ptr(),
            NODES_MAX,
            0,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// How much of a node is free, and from where on the kernel is sparing with it, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermarks {
    /// What is free.
    pub free: u64,
    /// Below this nobody is given any, but in emergencies of the kernel's own.
    pub min: u64,
    /// Below this memory is taken from other nodes first.
    pub low: u64,
}

/// Those of a node, of all its zones together. `NotFound` if it has no memory.
pub fn watermarks(node: u32) -> io::Result<Watermarks> {
    watermarks_in(&std::fs::read_to_string("/proc/zoneinfo")?, node)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Of a text with a paragraph `Node 1, zone Normal` for each zone, and in it lines `pages free 5`, `min 1`, `low 2`.
fn watermarks_in(text: &str, node: u32) -> Option<Watermarks> {
    let head = format!("Node {node},");
    let mut found: Option<Watermarks> = None;
    let mut here = false;
    for line in text.lines() {
        if line.starts_with("Node ") {
            here = line.starts_with(&head);
        }
        let mut words = line.split_whitespace().skip_while(|word| *word == "pages");
        let (Some(key), Some(pages), true) = (words.next(), words.next(), here) else { continue };
        let Ok(pages) = pages.parse::<u64>() else { continue };
        let marks = found.get_or_insert_default();
        let mark = match key {
            "free" => &mut marks.free,
            "min" => &mut marks.min,
            "low" => &mut marks.low,
            _ => continue,
        };
        *mark += pages * to_u64(PAGE);
    }
    found
}

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

    /// How many there are.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.area.len() / PAGE
    }

    /// Where a page is mapped, by its number here.
    #[must_use]
    pub fn address(&self, page: usize) -> u64 {
        (self.area.base() + page * PAGE) as u64
    }

    /// The node of each page, in their order; `None` for one that the kernel doesn't find, or is just moving.
    pub fn nodes(&self) -> io::Result<Vec<Option<u32>>> {
        let all: Vec<usize> = (0..self.pages()).collect();
        self.nodes_of(&all)
    }

    /// The same of these pages, by their numbers here.
    pub fn nodes_of(&self, pages: &[usize]) -> io::Result<Vec<Option<u32>>> {
        let status = self.call(pages, None)?;
        Ok(status.into_iter().map(|node| u32::try_from(node).ok()).collect())
    }

    /// The node of the first page.
    pub fn first(&self) -> io::Result<Option<u32>> {
        Ok(self.call(&[0], None)?.first().and_then(|node| u32::try_from(*node).ok()))
    }

    /// Asks the kernel to bring pages, by their numbers here, to a node; returns those of which it doesn't say that they are there: ask
    /// [`Self::nodes_of`] of these. Of a huge page's it may say that it is busy, since it is bringing that already, and after the first that it can't
    /// bring it tries no other. `PermissionDenied` without `CAP_SYS_NICE`, `NotFound` if the node has no memory online, `OutOfMemory` if it is full:
    /// some may be there all the same.
    pub fn bring(&self, pages: &[usize], node: u32) -> io::Result<Vec<usize>> {
        let status = match self.call(pages, Some(node)) {
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Err(io::ErrorKind::NotFound.into()),
            done => done?,
        };
        let there = |status: libc::c_int| u32::try_from(status) == Ok(node);
        Ok(pages.iter().zip(status).filter(|(_, status)| !there(*status)).map(|(page, _)| *page).collect())
    }

    fn call(&self, pages: &[usize], to: Option<u32>) -> io::Result<Vec<libc::c_int>> {
        let addresses: Vec<usize> = pages.iter().map(|page| self.area.base() + page * PAGE).collect();
        move_pages(0, &addresses, to)
    }
}

/// Asks the kernel where pages of a process are (0: of this one), or has it bring them to a node, under whoever maps them; returns what it says of each. The
/// rest is not tried after one that can't be brought.
pub(crate) fn move_pages(pid: libc::pid_t, pages: &[usize], to: Option<u32>) -> io::Result<Vec<libc::c_int>> {
    let mut status = vec![UNKNOWN; pages.len()];
    for (addresses, status) in pages.chunks(AT_ONCE).zip(status.chunks_mut(AT_ONCE)) {
        let nodes =
            to.map(|node| vec![libc::c_int::try_from(node).unwrap_or(libc::c_int::MAX); addresses.len()]);
        let nodes = nodes.as_ref().map_or(null(), |nodes| nodes.as_ptr());
        // SAFETY: three arrays of `addresses.len()` numbers each (or none for the nodes), of which the kernel writes the last; the addresses are only
        // looked up, in whichever process.
        let done = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                pid,
                addresses.len(),
                addresses.as_ptr(),
                nodes,
                status.as_mut_ptr(),
                if to.is_some() { MPOL_MF_MOVE_ALL } else { 0 },
            )
        };
        // A number above 0 counts pages that were left where they are: the rest of these is not tried.
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn watermarks_of_all_zones_count() {
        let text = "Node 0, zone      DMA\n  pages free     9\n        min      1\nNode 1, zone   Normal\n  per-node stats\n      nr_free_cma 3\n\
                    \x20 pages free     5\n        boost    0\n        min      1\n        low      2\n        high     3\n  pagesets\n    cpu: 0\n\
                    \x20             count:    7\nNode 1, zone  Movable\n  pages free     50\n        min      10\n        low      20\n";
        let marks = watermarks_in(text, 1).expect("there");
        assert_eq!((marks.free, marks.min, marks.low), (55 << 12, 11 << 12, 22 << 12));
        assert_eq!(watermarks_in(text, 2), None);
        assert!(watermarks(0).is_ok_and(|marks| marks.free > 0));
    }

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
