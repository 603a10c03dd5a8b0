//! By how much a node's reserve of huge pages was raised for a pool, as a file beside the journal says: the node, bytes of a page, how many; while that
//! changes, from where to where; and, while some are on their way between the holder and the kernel, how many at most. Fewer than none where more has been lent
//! than was raised.

use super::no_pages;
use crate::backing::{os_error, write_whole};
use codax_core::Result;
use codax_core::change::NodeMemory;
use codax_os::hugetlb::NodePages;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Raised {
    path: PathBuf,
    memory: NodeMemory,
    unit: u64,
    pages: NodePages,
    by: i64,
    /// Pages that may be free since they have left the holder, or the kernel, and have not come to the other.
    on_their_way: u64,
}

/// Where that file is.
pub(crate) fn raised_path(meta: &Path, pool: &str) -> PathBuf {
    meta.join(format!("hugepages.{pool}"))
}

impl Raised {
    /// What it is; nobody else changes it, or the node's reserve, until the file is dropped.
    pub fn lock(path: &Path, memory: NodeMemory, unit: u64) -> io::Result<(Self, File)> {
        let pages = NodePages::of(memory.node, unit)?;
        let alone = pages.lock()?;
        Ok((Self::read(path, memory, unit, pages)?, alone))
    }

    /// The same, if nobody else does now.
    pub fn try_lock(path: &Path, memory: NodeMemory, unit: u64) -> io::Result<Option<(Self, File)>> {
        let pages = NodePages::of(memory.node, unit)?;
        let Some(alone) = pages.try_lock()? else { return Ok(None) };
        Ok(Some((Self::read(path, memory, unit, pages)?, alone)))
    }

    fn read(path: &Path, memory: NodeMemory, unit: u64, pages: NodePages) -> io::Result<Self> {
        let Line { by, on_their_way, .. } = read(path, &pages)?.unwrap_or_default();
        Ok(Self { path: path.to_owned(), memory, unit, pages, by, on_their_way })
    }

    /// Writes down that so many pages are on their way between the holder and the kernel: free, if we are killed.
    pub fn begin(&mut self, pages: u64) -> Result<()> {
        self.on_their_way = pages;
        self.write(None).map_err(|e| no_pages(self.memory, &e))
    }

    /// That they have come.
    pub fn end(&mut self) -> Result<()> {
        self.begin(0)
    }

    /// Has the kernel have what was on its way when somebody was killed: it is lent, as was written down before.
    pub fn settle(&mut self) -> Result<()> {
        if self.on_their_way > 0 {
            self.fewer(self.on_their_way)?;
            self.end()?;
        }
        Ok(())
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

    /// Asks for so many more; returns how many there are.
    pub fn more(&mut self, pages: u64) -> Result<u64> {
        let raise = |from: u64| (from + pages, NodePages::set_total as Ask);
        let changed = self.change(raise).map_err(|e| no_pages(self.memory, &e))?;
        Ok(changed.max(0).unsigned_abs())
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
        let Self { memory, unit, by, on_their_way, .. } = *self;
        write(&self.path, Line { node: memory.node, unit, by, changing, on_their_way })
    }
}

/// How the kernel is asked for a number of pages.
type Ask = fn(&NodePages, u64) -> io::Result<u64>;

/// How far a number has come on its way from one to another: others may have changed it, too.
fn changed(from: u64, to: u64, now: u64) -> i64 {
    let now = now.clamp(from.min(to), from.max(to));
    now.cast_signed() - from.cast_signed()
}

/// What the file says, with the change that is half done as far as it came.
fn read(path: &Path, pages: &NodePages) -> io::Result<Option<Line>> {
    let Some(mut line) = parse(path)? else { return Ok(None) };
    if let Some((from, to)) = line.changing.take() {
        line.by += changed(from, to, pages.set_aside()?);
    }
    Ok(Some(line))
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Line {
    node: u32,
    unit: u64,
    by: i64,
    changing: Option<(u64, u64)>,
    on_their_way: u64,
}

fn write(path: &Path, Line { node, unit, by, changing, on_their_way }: Line) -> io::Result<()> {
    let changing = changing.map(|(from, to)| format!(" {from} {to}")).unwrap_or_default();
    let on_their_way = if on_their_way == 0 { String::new() } else { format!(" {on_their_way}") };
    write_whole(path, &format!("{node} {unit} {by}{changing}{on_their_way}\n"))
}

/// `None` if nothing was raised.
fn parse(path: &Path) -> io::Result<Option<Line>> {
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let line = || {
        let numbers: Option<Vec<i64>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
        let (&[node, unit, by], rest) = numbers.as_deref()?.split_first_chunk()?;
        let (changing, on_their_way) = match *rest {
            [] => (None, 0),
            [on_their_way] => (None, on_their_way),
            [from, to] => (Some((from, to)), 0),
            [from, to, on_their_way] => (Some((from, to)), on_their_way),
            _ => return None,
        };
        let changing = match changing {
            Some((from, to)) => Some((from.try_into().ok()?, to.try_into().ok()?)),
            None => None,
        };
        let (node, unit, on_their_way) =
            (node.try_into().ok()?, unit.try_into().ok()?, on_their_way.try_into().ok()?);
        Some(Line { node, unit, by, changing, on_their_way })
    };
    line().map(Some).ok_or_else(|| io::Error::other(format!("{} says {text:?}", path.display())))
}

/// Gives the node back what its reserve was raised by, as the file says, and forgets it: it has then what it had before, but for what others have changed. What
/// of it somebody still maps goes when he lets go. Should it be cut short, who does it again gives back the rest.
pub(crate) fn give_back(path: &Path) -> Result<()> {
    let restore = || -> io::Result<()> {
        let Some(Line { node, unit, .. }) = parse(path)? else { return Ok(()) };
        match NodePages::of(node, unit) {
            Ok(pages) => restore_total(path, &pages)?,
            // The node has left with all that it had.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        fs::remove_file(path)
    };
    restore().map_err(|e| os_error("give back huge pages by", &path.display(), &e))
}

fn restore_total(path: &Path, pages: &NodePages) -> io::Result<()> {
    let _alone = pages.lock()?;
    let line = read(path, pages)?.unwrap_or_default();
    let from = pages.set_aside()?;
    let before = from.saturating_add_signed(-line.by);
    write(path, Line { changing: Some((from, before)), ..line })?;
    let now = pages.set_total(before)?;
    // What the kernel didn't find it won't be asked for again.
    write(path, Line { by: 0, on_their_way: 0, ..line })?;
    if now < before {
        let node = line.node;
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
        let line = |by, changing, on_their_way| Line { node: 1, unit: 2 << 20, by, changing, on_their_way };
        for (text, line) in [
            ("1 2097152 64\n", line(64, None, 0)),
            ("1 2097152 64 10 74\n", line(64, Some((10, 74)), 0)),
            ("1 2097152 -3 74 10\n", line(-3, Some((74, 10)), 0)),
            ("1 2097152 -3 8\n", line(-3, None, 8)),
            ("1 2097152 64 74 66 8\n", line(64, Some((74, 66)), 8)),
        ] {
            write(&path, line).expect("room");
            assert_eq!(fs::read_to_string(&path).expect("written"), text);
            assert_eq!(parse(&path).expect("well written"), Some(line));
        }
        for bad in ["", "1 2", "1 2 3 -9", "1 2 x", "-1 2 3", "1 2 3 -4 5", "1 2 3 4 5 -6", "1 2 3 4 5 6 7"] {
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
            assert_eq!(line.by, by, "{name}");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), names.len());
    }

    #[test]
    fn what_is_half_done_counts_as_far_as_it_came() {
        assert_eq!([changed(10, 74, 40), changed(74, 10, 40)], [30, -34]);
        assert_eq!([changed(10, 74, 99), changed(74, 10, 5), changed(7, 7, 9)], [64, -64, 0]);
    }
}
