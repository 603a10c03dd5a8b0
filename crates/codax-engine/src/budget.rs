//! What the daemon's memory cgroup leaves it: an allocation beyond that is refused before it is begun, since the kernel would end processes for it.
//!
//! Found once: where no cgroup above this process has a limit at the start, nothing is read or counted later.

use codax_core::units::format_size;
use codax_core::{Error, PageRange, Result};
use codax_os::cgroup::{Limit, MemoryCgroups};
use codax_os::object;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Kept for the daemon itself and for what its clients' requests cost it, in bytes.
const MARGIN: u64 = 4 << 20;

/// Of what is allocated so much more is wanted, as a part: for page tables, and where the kernel takes a huge page for a file's last pages.
const MORE_PART: u64 = 256;

/// Bytes by which what counts to a cgroup goes up and down for each processor, whatever is in use: pages are charged, and given back, by dozens at a time.
const ROUGHLY: u64 = 512 << 10;

/// Pages that are allocated while others wait: some tens of milliseconds.
const AT_ONCE: u64 = 16 << 10;

/// The memory that is left below a limit.
#[derive(Debug)]
pub(crate) struct Budget {
    cgroups: MemoryCgroups,
    /// Bytes that allocations which have begun will still take. Locked while memory is looked at and taken, so that two never count on the same.
    promised: Mutex<u64>,
}

impl Budget {
    /// This process's, if it has a limit.
    pub fn of_this_process() -> Option<&'static Self> {
        static BUDGET: OnceLock<Option<Budget>> = OnceLock::new();
        let find = || {
            let cgroups = MemoryCgroups::of(None)?;
            cgroups.limit()?;
            Some(Self { cgroups, promised: Mutex::new(0) })
        };
        BUDGET.get_or_init(find).as_ref()
    }

    /// Lets `take` give memory to pages of an object, a part at a time, if there is enough for all of them; `NoSpace` else, and where `take` fails
    /// after some parts these are given back.
    pub fn spend(
        &self,
        object: BorrowedFd<'_>,
        pages: PageRange,
        take: &mut dyn FnMut(PageRange) -> Result<()>,
    ) -> Result<()> {
        let mut left = missing(object, pages);
        {
            let mut promised = self.lock();
            self.check(*promised, left)?;
            *promised += left;
        }
        let mut done = Vec::new();
        let result = parts(pages).try_for_each(|part| {
            let mut promised = self.lock();
            let new = missing(object, part).min(left);
            take(part)?;
            // It is in use now.
            *promised -= new;
            left -= new;
            if new == part.bytes() {
                done.push(part);
            }
            Ok(())
        });
        *self.lock() -= left;
        result.inspect_err(|_| {
            for part in done {
                let _ = object::punch(object, part.offset(), part.bytes());
            }
        })
    }

    /// Does something that may give memory to pages of an object, if there is enough.
    pub fn guard<T>(
        &self,
        object: BorrowedFd<'_>,
        pages: PageRange,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let promised = self.lock();
        let new = missing(object, pages);
        if new == 0 {
            drop(promised);
            return act();
        }
        self.check(*promised, new)?;
        act()
    }

    /// What is left for new allocations, in bytes; `None` where there is no limit any more.
    pub fn left(&self) -> Option<u64> {
        let promised = *self.lock();
        let left = self.cgroups.limit()?.left().saturating_sub(promised).saturating_sub(MARGIN);
        Some(left - left / MORE_PART)
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes somebody would have to give up for these pages of an object, so that they fit when they are asked for.
    pub fn missing_for(&self, object: BorrowedFd<'_>, pages: PageRange) -> u64 {
        let promised = self.lock();
        let new = missing(object, pages);
        if new == 0 {
            return 0;
        }
        let left = |limit: Limit| limit.left().saturating_sub(*promised);
        self.cgroups.limit().map_or(0, |limit| (wanted(new) + roughly()).saturating_sub(left(limit)))
    }

    fn check(&self, promised: u64, new: u64) -> Result<()> {
        let Some(limit) = self.cgroups.limit() else { return Ok(()) };
        let left = limit.left().saturating_sub(promised);
        if wanted(new) <= left {
            return Ok(());
        }
        Err(Error::no_space(format!(
            "the daemon's memory cgroup {} has {left} bytes left of its limit of {}: {} more don't fit (codax doctor says what mends it)",
            limit.cgroup,
            limit.bytes,
            format_size(new)
        )))
    }
}

/// How much must be left for so many new bytes.
fn wanted(new: u64) -> u64 {
    if new == 0 { 0 } else { new.saturating_add(new / MORE_PART + MARGIN) }
}

/// How exact a cgroup's count is, in bytes.
fn roughly() -> u64 {
    static PROCESSORS: OnceLock<u64> = OnceLock::new();
    let count = || std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    ROUGHLY * PROCESSORS.get_or_init(count)
}

fn parts(pages: PageRange) -> impl Iterator<Item = PageRange> {
    let first = move |n: u64| pages.start.0 + n * AT_ONCE;
    let count = pages.count.0.div_ceil(AT_ONCE);
    (0..count).map(move |n| PageRange::new(first(n), AT_ONCE.min(pages.end() - first(n))))
}

/// Bytes of these pages that have no memory yet.
fn missing(object: BorrowedFd<'_>, pages: PageRange) -> u64 {
    let there = object::resident_bytes(object, pages.offset(), pages.bytes()).unwrap_or(0);
    pages.bytes().saturating_sub(there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_core::{ErrorKind, PAGE_SIZE};
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_promised_is_given_once() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in /dev/shm");
        let text = |name: &str, text: String| std::fs::write(dir.path().join(name), text).expect("room");
        text("memory.max", format!("{}\n", MARGIN + 200 * PAGE_SIZE));
        text("memory.current", "0\n".to_owned());
        let budget = Budget { cgroups: MemoryCgroups::at(dir.path()), promised: Mutex::new(0) };
        let object = File::create_new(dir.path().join("object")).expect("ours");
        object.set_len(400 * PAGE_SIZE).expect("ours");
        let fd = object.as_fd();
        let mut take = |part: PageRange| {
            object::allocate(fd, part.offset(), part.bytes()).map_err(|e| Error::internal(e.to_string()))
        };
        let error = budget.spend(fd, PageRange::new(0, 300), &mut take).expect_err("too much");
        assert_eq!(error.kind, ErrorKind::NoSpace);
        assert!(error.message.contains(" bytes left of its limit of "), "{error}");
        assert_eq!(missing(fd, PageRange::new(0, 400)), 400 * PAGE_SIZE, "it was not begun");
        assert_eq!(
            budget.missing_for(fd, PageRange::new(0, 300)),
            100 * PAGE_SIZE + 300 * PAGE_SIZE / MORE_PART + roughly()
        );
        assert_eq!(
            budget.missing_for(fd, PageRange::new(0, 150)),
            roughly().saturating_sub(50 * PAGE_SIZE - 150 * PAGE_SIZE / MORE_PART)
        );
        budget.spend(fd, PageRange::new(0, 150), &mut take).expect("fits");
        // What has memory already costs nothing.
        text("memory.current", format!("{}\n", 150 * PAGE_SIZE));
        budget.spend(fd, PageRange::new(0, 180), &mut take).expect("30 pages fit");
        *budget.lock() = 30 * PAGE_SIZE;
        assert!(budget.guard(fd, PageRange::new(170, 40), || Ok(())).is_err(), "somebody else has begun");
        *budget.lock() = 0;
        budget.guard(fd, PageRange::new(170, 40), || Ok(())).expect("fits");
        let mut fails = |_: PageRange| Err(Error::no_space("full"));
        budget.spend(fd, PageRange::new(180, 20), &mut fails).expect_err("it says so");
        assert_eq!(*budget.lock(), 0, "nothing stays promised");
    }
}
