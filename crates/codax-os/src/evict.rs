//! Moving pages of any process off a node: by `/proc/PID/pagemap` (proc_pid_pagemap(5)) those that it has, by move_pages(2) those of them that are there.
#![forbid(unsafe_code)]

use crate::numa::move_pages;
use crate::occupants::{Filesystems, areas_on};
use crate::util::{PAGE, to_u64, to_usize};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Entries of a pagemap that are read at once.
const AT_ONCE: usize = 8192;

/// Bytes of an entry of a pagemap, and the bit of one whose page is in memory.
const ENTRY: usize = 8;
const PRESENT: u64 = 1 << 63;

/// How often a page is asked for that somebody has in his hands for a moment.
const ROUNDS: u32 = 4;

/// What became of a process's pages on a node, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// On another node now.
    pub moved: u64,
    /// Still there.
    pub left: u64,
}

/// Moves the pages of a process that are on a node to others, those first that are named first; pages of files of these filesystems stay. Pages that it shares
/// move for all who share them. Wants `CAP_SYS_NICE`. Of a process that ends it is what was moved until then.
pub fn move_off(pid: u32, node: u32, to: &[u32], but: &Filesystems) -> io::Result<Moved> {
    let mut all = Moved::default();
    match move_areas(pid, node, (to, but), &mut all) {
        Err(e) if has_ended(&e) => Ok(all),
        done => done.map(|()| all),
    }
}

/// Whether an error says that there is no such process any more, or none with memory.
fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL))
}

fn move_areas(pid: u32, node: u32, (to, but): (&[u32], &Filesystems), all: &mut Moved) -> io::Result<()> {
    let raw = libc::pid_t::try_from(pid).map_err(|_| io::ErrorKind::NotFound)?;
    let areas = areas_on(pid, node, but)?;
    if areas.is_empty() {
        return Ok(());
    }
    let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
    for area in areas {
        each_part(&pagemap, &area, |pages| {
            let here = on(raw, &pages, node)?;
            let left = move_some(raw, here.clone(), node, to)?;
            all.moved += to_u64((here.len() - left) * PAGE);
            all.left += to_u64(left * PAGE);
            Ok(())
        })?;
    }
    Ok(())
}

/// Calls `act` with the addresses of pages in memory, some thousand at a time.
fn each_part(
    pagemap: &File,
    area: &Range<u64>,
    mut act: impl FnMut(Vec<usize>) -> io::Result<()>,
) -> io::Result<()> {
    let mut buf = vec![0; AT_ONCE * ENTRY];
    let mut at = to_usize(area.start) / PAGE;
    let end = to_usize(area.end) / PAGE;
    while at < end {
        let wanted = (end - at).min(AT_ONCE);
        let len = pagemap.read_at(&mut buf[..wanted * ENTRY], to_u64(at * ENTRY))?;
        let (entries, _) = buf[..len].as_chunks::<ENTRY>();
        if entries.is_empty() {
            // Of a process without memory there is nothing to read.
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let present = |entry: &[u8; ENTRY]| u64::from_le_bytes(*entry) & PRESENT != 0;
        let pages = entries.iter().zip(at..).filter(|(entry, _)| present(entry)).map(|(_, page)| page * PAGE);
        let pages: Vec<usize> = pages.collect();
        at += entries.len();
        if !pages.is_empty() {
            act(pages)?;
        }
    }
    Ok(())
}

/// Those of pages that are on a node.
fn on(pid: libc::pid_t, pages: &[usize], node: u32) -> io::Result<Vec<usize>> {
    let status = move_pages(pid, pages, None)?;
    let here = |status: &libc::c_int| u32::try_from(*status) == Ok(node);
    Ok(pages.iter().zip(&status).filter(|(_, status)| here(status)).map(|(page, _)| *page).collect())
}

/// Moves them; how many stay.
fn move_some(pid: libc::pid_t, mut pages: Vec<usize>, node: u32, to: &[u32]) -> io::Result<usize> {
    for _ in 0..ROUNDS {
        let mut stuck = 0;
        // The kernel stops at what it can't move: that is left for the next round, and it goes on behind it.
        let mut rest = pages.as_slice();
        while !rest.is_empty() {
            let before = rest.len();
            for &to in to {
                match move_pages(pid, rest, Some(to)) {
                    Ok(_) => break,
                    // This one is full, has no memory, or is none that the process may have memory on.
                    Err(e)
                        if matches!(e.raw_os_error(), Some(libc::ENOMEM | libc::ENODEV | libc::EACCES)) => {}
                    Err(e) => return Err(e),
                }
            }
            let here = on(pid, rest, node)?;
            let Some(first) = here.first() else { break };
            stuck += 1;
            let behind = rest.iter().position(|page| page == first).unwrap_or(0) + 1;
            rest = &rest[behind..];
            // One after the other stays: there is no room, or all of it is pinned.
            if stuck > AT_ONCE / 64 && here.len() + 1 >= before {
                break;
            }
        }
        pages = on(pid, &pages, node)?;
        if pages.is_empty() {
            break;
        }
    }
    Ok(pages.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_a_process_are_found_where_they_are() {
        let pid = std::process::id();
        let raw = libc::pid_t::try_from(pid).expect("an id");
        let memory = vec![1_u8; 64 * PAGE];
        let start = memory.as_ptr().addr().next_multiple_of(PAGE);
        let area = to_u64(start)..to_u64(start + 32 * PAGE);
        let mut found = Vec::new();
        each_part(&File::open("/proc/self/pagemap").expect("ours"), &area, |pages| {
            found.extend(pages);
            Ok(())
        })
        .expect("ours");
        assert_eq!(found, (0..32).map(|page| start + page * PAGE).collect::<Vec<_>>());
        // A kernel without NUMA has no such call.
        if let Ok(here) = on(raw, &found, 0) {
            assert!(here.iter().all(|page| found.contains(page)));
            // No node has this number, so they stay.
            assert_eq!(move_some(raw, here.clone(), 0, &[]).expect("nothing is moved"), here.len());
        }
        drop(memory);
    }

    #[test]
    fn a_process_that_has_ended_has_nothing_to_move() {
        let mut child = std::process::Command::new("true").spawn().expect("a program that every machine has");
        let pid = child.id();
        let nothing = || move_off(pid, 0, &[], &Filesystems::new()).expect("no error");
        let begun = std::time::Instant::now();
        // Nobody has waited for it: it has an id, and no memory.
        while std::fs::read(format!("/proc/{pid}/maps")).is_ok_and(|maps| !maps.is_empty()) {
            assert!(begun.elapsed().as_secs() < 30, "it doesn't end");
            std::thread::yield_now();
        }
        assert_eq!(nothing(), Moved::default());
        child.wait().expect("ours");
        assert_eq!(nothing(), Moved::default());
        assert_eq!(move_off(u32::MAX, 0, &[], &Filesystems::new()).expect("no error"), Moved::default());
        for ended in [libc::ESRCH, libc::EINVAL, libc::ENOENT] {
            assert!(has_ended(&io::Error::from_raw_os_error(ended)));
        }
        assert!(!has_ended(&io::Error::from_raw_os_error(libc::EPERM)));
    }
}
