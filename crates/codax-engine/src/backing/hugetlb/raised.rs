//! By how much a node's reserve of huge pages was raised for a pool, as a file beside the journal says: the node, bytes of a page, how many; and, while that
//! changes, from where to where. Fewer than none where more has been lent than was raised.

use super::no_pages;
use crate::backing::{os_error, write_whole};
use codax_core::Result;
use codax_core::change::NodeMemory;
use codax_os::hugetlb::NodePages;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Raised {
    path: PathBuf,
    memory: NodeMemory,
    unit: u64,
    pub pages: NodePages,
    by: i64,
}

/// Where that file is.
pub(crate) fn raised_path(meta: &Path, pool: &str) -> PathBuf {
    meta.join(format!("hugepages.{pool}"))
}

impl Raised {
    pub fn open(path: &Path, memory: NodeMemory, unit: u64) -> io::Result<Self> {
        let pages = NodePages::of(memory.node, unit)?;
        let by = read(path, &pages)?;
        Ok(Self { path: path.to_owned(), memory, unit, pages, by })
    }

    /// Sees to it that so many pages can be had, as far as the kernel finds memory; returns how many can.
    pub fn want(&mut self, pages: u64) -> Result<u64> {
        let there = |this: &Self| this.pages.available().map_err(|e| no_pages(this.memory, &e));
        let short = pages.saturating_sub(there(self)?);
        if short > 0 {
            self.more(short)?;
        }
        there(self)
    }

    /// Asks for so many more; whether there are any.
    pub fn more(&mut self, pages: u64) -> Result<bool> {
        let raise = |from: u64| (from + pages, NodePages::set_total as Ask);
        Ok(self.change(raise).map_err(|e| no_pages(self.memory, &e))? > 0)
    }

    /// Has the kernel make small pages of so many free ones; returns of how many it did: of none that it has promised to somebody.
    pub fn fewer(&mut self, pages: u64) -> Result<u64> {
        let lower = |from: u64| (from.saturating_sub(pages), NodePages::dissolve as Ask);
        let changed = self.change(lower).map_err(|e| no_pages(self.memory, &e))?;
        Ok(changed.min(0).unsigned_abs())
    }

    /// Asks for another number than there is; returns by how much that changed.
    fn change(&mut self, ask: impl FnOnce(u64) -> (u64, Ask)) -> io::Result<i64> {
        let from = self.pages.set_aside()?;
        let (to, ask) = ask(from);
        // Should we be killed while the kernel works, who comes next knows how far it may have come.
        self.write(Some((from, to)))?;
        let asked = ask(&self.pages, to);
        let changed = changed(from, to, self.pages.set_aside()?);
        self.by += changed;
        self.write(None)?;
        asked.map(|_| changed)
    }

    fn write(&self, changing: Option<(u64, u64)>) -> io::Result<()> {
        write(&self.path, (self.memory.node, self.unit, self.by, changing))
    }
}

/// How the kernel is asked for a number of pages.
type Ask = fn(&NodePages, u64) -> io::Result<u64>;

/// How far a number has come on its way from one to another: others may have changed it, too.
fn changed(from: u64, to: u64, now: u64) -> i64 {
    let now = now.clamp(from.min(to), from.max(to));
    now.cast_signed() - from.cast_signed()
}

/// By how many pages it was raised, in all.
fn read(path: &Path, pages: &NodePages) -> io::Result<i64> {
    let Some((_, _, by, changing)) = parse(path)? else { return Ok(0) };
    let Some((from, to)) = changing else { return Ok(by) };
    Ok(by + changed(from, to, pages.set_aside()?))
}

type Line = (u32, u64, i64, Option<(u64, u64)>);

fn write(path: &Path, (node, unit, by, changing): Line) -> io::Result<()> {
    let changing = changing.map(|(from, to)| format!(" {from} {to}")).unwrap_or_default();
    write_whole(path, &format!("{node} {unit} {by}{changing}\n"))
}

/// `None` if nothing was raised.
fn parse(path: &Path) -> io::Result<Option<Line>> {
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let line = || {
        let numbers: Option<Vec<i64>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
        let (numbers, changing) = match *numbers.as_deref()? {
            [node, unit, by] => ([node, unit, by], None),
            [node, unit, by, from, to] => {
                ([node, unit, by], Some((from.try_into().ok()?, to.try_into().ok()?)))
            }
            _ => return None,
        };
        Some((numbers[0].try_into().ok()?, numbers[1].try_into().ok()?, numbers[2], changing))
    };
    line().map(Some).ok_or_else(|| io::Error::other(format!("{} says {text:?}", path.display())))
}

/// Gives the node back what its reserve was raised by, as the file says, and forgets it: it has then what it had before, but for what others have changed. What
/// of it somebody still maps goes when he lets go. Should it be cut short, who does it again gives back the rest.
pub(crate) fn give_back(path: &Path) -> Result<()> {
    let restore = || -> io::Result<()> {
        let Some((node, unit, ..)) = parse(path)? else { return Ok(()) };
        match NodePages::of(node, unit) {
            Ok(pages) => restore_total(path, (node, unit), &pages)?,
            // The node has left with all that it had.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        fs::remove_file(path)
    };
    restore().map_err(|e| os_error("give back huge pages by", &path.display(), &e))
}

fn restore_total(path: &Path, (node, unit): (u32, u64), pages: &NodePages) -> io::Result<()> {
    let _alone = pages.lock()?;
    let (by, from) = (read(path, pages)?, pages.set_aside()?);
    let before = from.saturating_add_signed(-by);
    write(path, (node, unit, by, Some((from, before))))?;
    let now = pages.set_total(before)?;
    // What the kernel didn't find it won't be asked for again.
    write(path, (node, unit, 0, None))?;
    if now < before {
        tracing::warn!(
            "node {node} had {before} huge pages before the store, and has {now}: the kernel finds no memory for those that were lent"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_raised_is_read_as_it_was_written_and_nothing_else() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
        let path = raised_path(dir.path(), "cxl0");
        assert_eq!(parse(&path).expect("nothing"), None);
        for (text, line) in [
            ("1 2097152 64\n", (1, 2 << 20, 64, None)),
            ("1 2097152 64 10 74\n", (1, 2 << 20, 64, Some((10, 74)))),
            ("1 2097152 -3 74 10\n", (1, 2 << 20, -3, Some((74, 10)))),
        ] {
            fs::write(&path, text).expect("room");
            assert_eq!(parse(&path).expect("well written"), Some(line));
        }
        for bad in ["", "1 2", "1 2 3 9", "1 2 x", "-1 2 3", "1 2 3 -4 5"] {
            fs::write(&path, bad).expect("room");
            parse(&path).expect_err(bad);
        }
    }

    #[test]
    fn pools_have_nothing_in_common_whatever_they_are_called() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
        let names = ["cxl0", "cxl1", "new", "cxl0.new", "new-cxl0"];
        for (by, name) in (0_i64..).zip(names) {
            write_whole(&raised_path(dir.path(), name), &format!("1 2097152 {by}")).expect("room");
        }
        for (by, name) in (0_i64..).zip(names) {
            let line = parse(&raised_path(dir.path(), name)).expect("well written").expect("written");
            assert_eq!(line.2, by, "{name}");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), names.len());
    }

    #[test]
    fn what_is_half_done_counts_as_far_as_it_came() {
        assert_eq!([changed(10, 74, 40), changed(74, 10, 40)], [30, -34]);
        assert_eq!([changed(10, 74, 99), changed(74, 10, 5), changed(7, 7, 9)], [64, -64, 0]);
    }
}
