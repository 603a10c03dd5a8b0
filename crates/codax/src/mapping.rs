//! Mapped files.

use crate::file::Inner;
use crate::link::{Attempt, Trouble, unexpected};
use crate::switcher::{Durable, Making, NewMapping, Run, Shared, of_layout};
use crate::{Error, ErrorKind, FileId, Result, device};
use codax_core::extent::PoolRun;
use codax_core::name::StorePath;
use codax_core::request::{Layout, OnDevice, PinId};
use codax_core::{HUGE_PAGES, PageCount, PageRange, PoolId};
use codax_os::area::{self, Memory, Region};
use codax_wire::{Reply, Request};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Loads only: a store ends the process with SIGSEGV.
    ReadOnly,
    /// Loads and stores.
    ReadWrite,
}

/// A part of a file in this process's memory, shared with all that map the file.
///
/// Its address never changes, and what it shows is always the file: when the bytes are moved to another pool, the library's own threads
/// put the new frames where the old ones were. An access that meets a move waits for the 2 MiB (or less) it touches. The mapping works on
/// when the daemon is away, and when the `File` and the `Store` it was made from are dropped.
///
/// A forked child does not have the memory of a mapping, not even as zeros: it connects anew. Beyond the end of a file that was cut, an access is
/// SIGBUS, as with mmap(2).
///
/// Transfers that go past the CPU's page tables (`O_DIRECT`, io_uring's fixed buffers, RDMA, a device's registered buffers) need the mapping
/// [pinned](Mapping::pin). Process-shared mutexes and condition variables work, except those with priority inheritance. Memory that the process's
/// allocator or its logger hands out must not lie in a mapping: the library's threads use both.
#[derive(Debug)]
pub struct Mapping {
    pub(crate) file: Arc<Inner>,
    pub(crate) switcher: Arc<Shared>,
    /// Taken only by `drop`.
    region: Option<Arc<Region>>,
    pub(crate) id: u64,
    /// Offset in the file of its first byte.
    pub(crate) start: u64,
    /// The pages it was made of, and of their bytes those that are its own.
    pages: PageRange,
    skip: usize,
    len: usize,
    access: Access,
}

/// A daemon's answer to a request to map: the layout and the object of each pool in it that isn't on a device.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) file: FileId,
    pub(crate) layout: Layout,
    pub(crate) objects: HashMap<PoolId, OwnedFd>,
    pub(crate) generation: u64,
}

impl Placed {
    pub(crate) fn new(file: FileId, layout: Layout, fds: Vec<OwnedFd>, generation: u64) -> Result<Self> {
        let objects = by_pool(&layout, fds)?;
        Ok(Self { file, layout, objects, generation })
    }
}

/// The descriptors that come with a layout: one for each pool in it that isn't on a device, in the order of first occurrence.
pub(crate) fn by_pool(layout: &Layout, fds: Vec<OwnedFd>) -> Result<HashMap<PoolId, OwnedFd>> {
    let mut fds = fds.into_iter();
    let mut objects = HashMap::new();
    for PoolRun { pool, .. } in &layout.runs {
        if layout.devices.iter().any(|device| device.pool == *pool) {
            continue;
        }
        if let Entry::Vacant(entry) = objects.entry(*pool) {
            let fd =
                fds.next().ok_or_else(|| Error::corrupt("the daemon sent fewer descriptors than pools"))?;
            entry.insert(fd);
        }
    }
    Ok(objects)
}

impl Mapping {
    /// Maps `range`, beginning with what an earlier request already got, if one did.
    pub(crate) fn make(
        file: &Arc<Inner>,
        switcher: &Arc<Shared>,
        range: &impl RangeBounds<u64>,
        access: Access,
        first: Option<(Making, Placed)>,
    ) -> Result<Self> {
        let write = access == Access::ReadWrite;
        let link = &file.client.link;
        let mut first = first;
        loop {
            let (making, mut placed) = match first.take() {
                Some(first) => first,
                None => (switcher.making(), link.with(|turn| ask_map(file, turn, write))?),
            };
            let generation = placed.generation;
            let unmap = || link.tell(generation, &Request::Unmap { file: file.id });
            let range = bounds(range, placed.layout.len);
            let made = range.and_then(|range| within(range, placed.layout.len)).and_then(|(start, len)| {
                open_devices(&file.path, &mut placed, write)?;
                let pages = PageRange::of_bytes(start, len);
                // Whole blocks, also behind the file's end: so they move.
                let whole = pages.widened(placed.layout.block.max(1));
                let (region, runs) = place(&placed, pages, whole, write)?;
                Ok((start, len, pages, whole, region, runs))
            });
            let (start, len, pages, whole, region, runs) = made.inspect_err(|_| unmap())?;
            let region = Arc::new(region);
            // The descriptors go before anybody may ask who holds the objects.
            let layout = placed.layout;
            drop(placed.objects);
            let live = NewMapping {
                file: file.id,
                region: &region,
                pages: whole,
                write,
                runs: &runs,
                end: PageCount::for_bytes(layout.len).0,
                generation,
            };
            if let Some(id) = switcher.add(making, &live) {
                let skip = to_usize(start - whole.offset())?;
                let (file, switcher) = (Arc::clone(file), Arc::clone(switcher));
                let len = to_usize(len)?;
                let region = Some(region);
                return Ok(Self { file, switcher, region, id, start, pages, skip, len, access });
            }
            // A move of the file began, or runs: the layout may be an old one. The daemon answers the next request after it.
            drop(region);
            unmap();
            switcher.await_segment(file.id);
        }
    }

    /// Volatile and atomic access to its bytes; a [`Memory`] is as good as a pointer with a length, and can be kept for as long as the mapping is
    /// borrowed.
    #[must_use]
    #[inline]
    pub fn memory(&self) -> Memory<'_> {
        match &self.region {
            Some(region) => region.memory().part(self.skip, self.len),
            None => unreachable!("only drop takes the region"),
        }
    }

    /// The address of its first byte.
    #[must_use]
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.memory().as_ptr()
    }

    /// Copies bytes out, and returns how many: fewer where the object has been cut, which is SIGBUS to a load.
    pub(crate) fn copy_out(&self, off: usize, to: &mut [u8]) -> usize {
        match self.memory().copy_out(off, to) {
            Ok(n) if n == to.len() || self.switcher.waits_in_kernel() => n,
            // The kernel may not, or doesn't wait for a move as a load does.
            _ => {
                self.memory().read_at(off, to);
                to.len()
            }
        }
    }

    /// Its length in bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: an empty range can't be mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// What it was made for.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// The file's number.
    #[must_use]
    pub fn file(&self) -> FileId {
        self.file.id
    }

    /// A number that is another each time after something of a file of the store, this one or another, was cut off or punched out: as long as it is the same, and
    /// the same daemon lives, the file is as long as it was. To look is a load from memory.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.switcher.cuts()
    }

    /// Holds its frames where they are, for transfers that go past the CPU's page tables, until the guard is dropped. Waits for
    /// a move of them that is under way.
    pub fn pin(&self) -> Result<Pin<'_>> {
        let link = &self.file.client.link;
        let (pin, generation) = link.with(|turn| {
            let handle = self.file.handle(turn)?;
            match turn.ask(&Request::Pin { handle, pages: self.pages })? {
                Reply::Pinned(pin) => Ok((pin, turn.generation())),
                other => Err(Trouble::from(unexpected(&other))),
            }
        })?;
        // A daemon that is started anew knows nothing of it, so the library itself refuses to let it be moved.
        self.switcher.pinned(self.file.id, self.id, true);
        Ok(Pin { mapping: self, pin, generation })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let region = self.region.take();
        if self.file.client.link.is_fork() {
            // The addresses may be somebody else's in the child, and the locks held by threads that aren't there.
            std::mem::forget(region);
            return;
        }
        if let Some(region) = region {
            let generation = self.switcher.remove(self.file.id, self.id, region);
            self.file.client.link.tell(generation, &Request::Unmap { file: self.file.id });
        }
    }
}

/// Keeps a [`Mapping`]'s frames where they are; made by [`Mapping::pin`].
#[derive(Debug)]
#[must_use = "the pin ends when this is dropped"]
pub struct Pin<'a> {
    mapping: &'a Mapping,
    pin: PinId,
    generation: u64,
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let link = &self.mapping.file.client.link;
        if link.is_fork() {
            return;
        }
        self.mapping.switcher.pinned(self.mapping.file.id, self.mapping.id, false);
        let unpin = Request::Unpin(self.pin);
        // The daemon that is gone has forgotten it.
        let _ = link.with(|turn| {
            if turn.generation() == self.generation {
                turn.ask(&unpin)?;
            }
            Ok(())
        });
    }
}

fn ask_map(file: &Inner, turn: &crate::link::Turn<'_>, write: bool) -> Attempt<Placed> {
    let handle = file.handle(turn)?;
    let (reply, fds) = turn.ask_fds(&Request::Map { handle, write }, &[])?;
    match reply {
        Reply::Layout(layout) => {
            let unmap = Request::Unmap { file: file.id };
            let placed = Placed::new(file.id, layout, fds, turn.generation());
            Ok(placed.inspect_err(|_| file.client.link.tell(turn.generation(), &unmap))?)
        }
        other => Err(unexpected(&other).into()),
    }
}

/// Start and end of a range of what has `len` bytes; `Invalid` if they have no place among numbers.
pub(crate) fn bounds(range: &impl RangeBounds<u64>, len: u64) -> Result<(u64, u64)> {
    let start = match range.start_bound() {
        Bound::Included(&start) => Some(start),
        Bound::Excluded(&start) => start.checked_add(1),
        Bound::Unbounded => Some(0),
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end.checked_add(1),
        Bound::Excluded(&end) => Some(end),
        Bound::Unbounded => Some(len),
    };
    start
        .zip(end)
        .ok_or_else(|| Error::invalid(format!("a range that ends beyond the {len} bytes there are")))
}

/// Start and length of a range of a file of `len` bytes.
fn within((start, end): (u64, u64), len: u64) -> Result<(u64, u64)> {
    if start >= end {
        return Err(Error::invalid(format!("map bytes {start}..{end}: there are none in that range")));
    }
    if end > len {
        return Err(Error::invalid(format!("map a range that ends beyond the file's {len} bytes")));
    }
    Ok((start, end - start))
}

/// Opens the devices on which a file lies.
fn open_devices(path: &StorePath, placed: &mut Placed, write: bool) -> Result<()> {
    for device in &placed.layout.devices {
        let fd = device::open(device, write).map_err(|e| not_opened(path, device, &e))?;
        placed.objects.insert(device.pool, fd);
    }
    Ok(())
}

/// Whether an error says that this process may not or can't map where a file lies, which the daemon can read and write.
pub(crate) fn is_not_mapped(e: &Error) -> bool {
    matches!(e.kind, ErrorKind::Permission | ErrorKind::NotSupported)
}

fn not_opened(path: &StorePath, device: &OnDevice, e: &io::Error) -> Error {
    let otherwise = "read and write it with File::read_at and write_at, or through a mount";
    let device = &device.path;
    match e.kind() {
        io::ErrorKind::PermissionDenied => Error::permission(format!(
            "{path} lies on {device}, which only those who may open it map: {otherwise}"
        )),
        _ => Error::not_supported(format!(
            "{path} lies on {device}, which can't be opened here: {e}; {otherwise}"
        )),
    }
}

/// Maps `whole`, in which `pages` are, each run from its pool's object or device, and says what is where.
fn place(placed: &Placed, pages: PageRange, whole: PageRange, write: bool) -> Result<(Region, Vec<Run>)> {
    let failed = |e: io::Error| Error::internal(format!("map {} bytes: {e}", pages.bytes()));
    let layout = &placed.layout;
    let block = to_usize(PageCount(layout.block.max(HUGE_PAGES)).bytes())?;
    let region = Region::reserve_in(to_usize(whole.bytes())?, whole.offset(), block).map_err(failed)?;
    let runs = of_layout(layout, whole);
    let mut runs =
        runs.ok_or_else(|| Error::corrupt(format!("the daemon's layout of file {} has gaps", placed.file)))?;
    // Asked once of each object: a file may lie in many runs.
    let mut takes_sync: HashMap<PoolId, bool> = HashMap::new();
    for run in &mut runs {
        let (at, len) = (to_usize(run.pages.offset() - whole.offset())?, to_usize(run.pages.bytes())?);
        let (object, off) = (&placed.objects[&run.pool], run.offset());
        if layout.persistent.contains(&run.pool) {
            let sync = match takes_sync.entry(run.pool) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(entry) => *entry.insert(area::takes_sync(object, write).map_err(failed)?),
            };
            region.place_sync(at, len, object, off, write, sync).map_err(failed)?;
            run.durable = Durable::of(true, sync || run.device_at.is_some());
        } else {
            region.place(at, len, object, off, write).map_err(failed)?;
        }
    }
    Ok((region, runs))
}

/// Lossless on the 64-bit machines codax is for.
pub(crate) fn to_usize(bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| Error::invalid(format!("{bytes} bytes are more than memory can hold")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_open_a_device_is_told_what_else_there_is() {
        let path = StorePath::parse(b"/f").unwrap();
        let device = OnDevice { path: "/dev/dax0.0".to_owned(), ..OnDevice::default() };
        let refused = not_opened(&path, &device, &io::ErrorKind::PermissionDenied.into());
        assert_eq!(refused.kind, ErrorKind::Permission);
        let line = "/f lies on /dev/dax0.0, which only those who may open it map: read and write it with File::read_at and write_at, or through a mount";
        assert_eq!(refused.message, line);
        let gone = not_opened(&path, &device, &io::ErrorKind::NotFound.into());
        assert_eq!(gone.kind, ErrorKind::NotSupported);
        assert!(is_not_mapped(&refused) && is_not_mapped(&gone));
        assert!(!is_not_mapped(&Error::lost("gone")));
    }
}
