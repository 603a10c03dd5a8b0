//! Objects as files of a hugetlbfs: huge pages that a node has set aside, for a pool that has nothing else.
//!
//! Huge pages that are merely free are anybody's who asks for `MAP_HUGETLB`. So all that are in no object are in one more file, the *holder*, and objects get
//! theirs from it: a page is punched out of the holder, and at once allocated in the object. In between the mount's `min_size` keeps it from others (on whichever
//! node, so where another node has free pages a stranger may still be quicker; then there is no space, and the holder is so much smaller).
//!
//! Pools of several nodes share the mount, each with a holder of its own, and the kernel moves their pages from node to node ([`take_over`]). Such a mount has
//! no `min_size`: the kernel keeps that on whichever nodes it likes, so no pool could be detached without the others, and a page that it keeps it doesn't give to
//! a page that moves. Nor can it be told from its size what a holder lacks: that is what of the pool's frames no file has, as the store says.
//!
//! By how much the node's reserve was raised for the pool is in a file beside the journal, so that exactly that is given back, by whatever process. What is
//! [lent](lend) lowers it.

mod lend;
mod raised;
mod take_over;

use raised::Raised;
pub(crate) use raised::{give_back, raised_path};

use super::{Backing, Lender, ObjectInfo, Shm, ShmOptions, os_error};
use codax_core::change::{NodeMemory, PageKind};
use codax_core::info::ReserveInfo;
use codax_core::units::format_size;
use codax_core::{Error, ErrorKind, FileId, PageCount, PageRange, Result};
use codax_os::copy::SourceMap;
use codax_os::hugetlb::{self, NodePages, Policy};
use codax_os::numa::Located;
use codax_os::object::{self, ObjectDir};
use codax_os::{mounts, topology};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The holder's name, which no object has; behind a dot the pool's, where others have theirs beside it.
const HOLDER: &str = "holder";

/// Where the objects of a pool are, and what it keeps for them.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The mount: the pool's, or that of all pools of its medium.
    pub path: PathBuf,
    /// The pools of the medium, if there are others.
    pub sharers: Vec<String>,
}

impl Place {
    fn is_shared(&self) -> bool {
        !self.sharers.is_empty()
    }

    /// The holder of a pool.
    fn holder(&self, pool: &str) -> PathBuf {
        self.path.join(if self.is_shared() { format!("{HOLDER}.{pool}") } else { HOLDER.to_owned() })
    }

    fn holders(&self) -> Vec<PathBuf> {
        if self.is_shared() {
            self.sharers.iter().map(|pool| self.holder(pool)).collect()
        } else {
            vec![self.holder("")]
        }
    }

    /// Removes the holder of a pool: its pages are free then.
    pub fn remove_holder(&self, pool: &str) -> Result<()> {
        match fs::remove_file(self.holder(pool)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(os_error("remove", &self.holder(pool).display(), &e))
            }
            _ => Ok(()),
        }
    }
}

/// Objects in huge pages of one size, of one node.
#[derive(Debug)]
pub(crate) struct Hugetlb {
    shm: Shm,
    place: Place,
    unit: u64,
    /// None for a device that is detached, and whose medium others have too.
    holder: Option<Arc<Holder>>,
    /// Wakes the thread that fills the holder.
    let_go: SyncSender<()>,
}

/// The pages of the pool that no object has.
#[derive(Debug)]
struct Holder {
    path: PathBuf,
    memory: NodeMemory,
    /// Bytes of a page, and of all that there are to be.
    unit: u64,
    capacity: u64,
    /// The holder; its pages are the first ones, without gaps.
    file: OwnedFd,
    /// Locked while a page is on its way, after the node's count if that is locked as well. How many pages behind its own are promised to it: free ones of the node, which it doesn't have to be given with
    /// zeros before a file or another pool wants them.
    passing: Mutex<u64>,
    /// Bytes of the pool's frames that no file has, and nobody to whom they are lent.
    unused: AtomicU64,
    /// The mount has a size, since no other pool is on it.
    has_size: bool,
    /// Where it is written by how much the reserve was raised.
    raised: PathBuf,
}

impl Hugetlb {
    /// The objects of the pool `name` on the hugetlbfs in its place, which is mounted if it isn't yet, with `capacity` bytes in huge pages, or as many as the
    /// node gives; so many of them may be lent. `meta` is the journal's directory.
    pub fn open(
        place: Place,
        name: &str,
        memory: NodeMemory,
        (capacity, lendable): (u64, u64),
        meta: &Path,
    ) -> Result<Self> {
        let path = &place.path;
        let unit = PageCount(memory.page.unit()).bytes();
        let failed = |what: &str, e: &io::Error| os_error(what, &path.display(), e);
        let raised_path = raised_path(meta, name);
        // What is raised here is not for another store that starts at the same time.
        let locked = Raised::lock(&raised_path, memory, unit);
        let (mut raised, alone) = locked.map_err(|e| no_pages(memory, &e))?;
        if let Err(e) = raised.settle() {
            tracing::warn!("what was being lent when the last daemon ended: {e}");
        }
        if !is_mounted(path)? {
            if place.is_shared() {
                hugetlb::mount(path, unit, None, 0)
            } else {
                let free = raised.want(capacity / unit)?;
                let mount = |min| hugetlb::mount(path, unit, Some(capacity), min);
                // What is free may be promised to others; and what is to be lent the kernel doesn't take while it is promised to us.
                let kept = free.min(capacity.saturating_sub(lendable) / unit) * unit;
                mount(kept).or_else(|_| mount(0))
            }
            .map_err(|e| failed("mount a hugetlbfs on", &e))?;
        }
        let shm = Shm::new(path, ShmOptions { nodes: vec![memory.node], ..ShmOptions::default() })?;
        let dir = ObjectDir::open(path).map_err(|e| failed("open", &e))?;
        let holder_path = place.holder(name);
        let holder_name = holder_path.file_name().and_then(|name| name.to_str()).unwrap_or(HOLDER);
        let (file, new) = match dir.open_object(holder_name, true) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => (dir.create(holder_name, capacity), true),
            other => (other, false),
        };
        let file = file.map_err(|e| failed("make the holder in", &e))?;
        let held = object::stat(&file).map_err(|e| failed("look at the holder in", &e))?.allocated_bytes;
        // What files have is known when the journal has been read: until then nothing is taken for what may be theirs.
        let unused = AtomicU64::new(if new { capacity } else { held });
        let (path, passing, has_size) = (path.clone(), Mutex::default(), !place.is_shared());
        let holder =
            Holder { path, memory, unit, capacity, file, passing, unused, has_size, raised: raised_path };
        let holder = Arc::new(holder);
        // How much was promised to it before nobody knows any more.
        holder.keep_promises(&mut holder.lock(), 0)?;
        holder.fill_all(&mut raised)?;
        drop(alone);
        let (let_go, woken) = mpsc::sync_channel(1);
        let filler = Arc::downgrade(&holder);
        std::thread::Builder::new()
            .name("holder".to_owned())
            .spawn(move || {
                while woken.recv().is_ok() {
                    let Some(holder) = filler.upgrade() else { return };
                    if let Err(e) = holder.fill() {
                        tracing::warn!("the holder of huge pages: {e}");
                    }
                }
            })
            .map_err(|e| Error::internal(format!("start a thread: {e}")))?;
        Ok(Self { shm, place, unit, holder: Some(holder), let_go })
    }

    /// The objects of other pools in its place: the pool's own device is detached.
    pub fn without_memory(place: Place, page: PageKind) -> Result<Self> {
        let unit = PageCount(page.unit()).bytes();
        if !is_mounted(&place.path)? {
            hugetlb::mount(&place.path, unit, None, 0)
                .map_err(|e| os_error("mount a hugetlbfs on", &place.path.display(), &e))?;
        }
        let shm = Shm::new(&place.path, ShmOptions::default())?;
        // There is nobody to wake.
        let (let_go, _) = mpsc::sync_channel(1);
        Ok(Self { shm, place, unit, holder: None, let_go })
    }

    fn holder(&self) -> Result<&Holder> {
        let gone = || Error::device_state(format!("a device of {} is detached", self.place.path.display()));
        self.holder.as_deref().ok_or_else(gone)
    }

    fn pages_of_unit(&self) -> u64 {
        PageCount::for_bytes(self.unit).0
    }

    /// Huge pages may be free now.
    fn wake(&self) {
        // If it can't be told, it has been and has not looked yet.
        let _ = self.let_go.try_send(());
    }

    /// Gives memory to the page at `at` of an object; whether it had none.
    fn give(&self, object: BorrowedFd<'_>, at: u64) -> Result<bool> {
        let holder = self.holder()?;
        let mut promised = holder.lock();
        if holder.has_all(object)? {
            return Ok(false);
        }
        let mut given = None;
        if !holder.has_spare(*promised)? {
            // Where the object has the page, or the holder lacks some, none has to come from there.
            given = holder.page_for(object, at)?;
        }
        if given.is_none() {
            let passed = holder.take_one(&mut promised)?;
            // Also with none to pass on: the object may have it, and what files have just let go of is free until the holder has it again.
            given = holder.page_for(object, at)?;
            if passed && given != Some(true) {
                holder.promise(&mut promised, 1)?;
            }
        }
        given.ok_or_else(|| holder.taken_by_others())
    }
}

/// Whether a hugetlbfs is mounted there; an error if it is something else.
fn is_mounted(path: &Path) -> Result<bool> {
    let failed = |e: io::Error| os_error("look at", &path.display(), &e);
    if !mounts::is_mount_point(path).map_err(failed)? {
        return Ok(false);
    }
    if !hugetlb::is_hugetlbfs(path).map_err(failed)? {
        let line = format!("{} is no hugetlbfs: another mount is on it", path.display());
        return Err(Error::internal(line));
    }
    Ok(true)
}

impl Holder {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.passing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, e: &io::Error) -> Error {
        os_error("look at the holder in", &self.path.display(), e)
    }

    fn taken_by_others(&self) -> Error {
        Error::no_space(format!(
            "NUMA node {} has no huge page for {}: others have taken it",
            self.memory.node,
            self.path.display()
        ))
    }

    /// Bytes that it lacks.
    fn left(&self) -> Result<u64> {
        Ok(self.wanted().saturating_sub(self.held()?))
    }

    /// Bytes that it is to have.
    fn wanted(&self) -> u64 {
        self.unused.load(Ordering::Relaxed)
    }

    /// Whether it has pages for frames that have been given out already.
    fn has_spare(&self, promised: u64) -> Result<bool> {
        Ok(self.held()? + promised * self.unit > self.wanted())
    }

    /// Bytes of the pool's capacity that can't be had: what files have just let go of is on its way back.
    fn missing(&self) -> Result<u64> {
        let pages = NodePages::of(self.memory.node, self.unit).and_then(|pages| pages.free());
        Ok(self.left()?.saturating_sub(pages.map_err(|e| self.failed(&e))? * self.unit))
    }

    /// Bytes in it.
    fn held(&self) -> Result<u64> {
        self.allocated(self.file.as_fd())
    }

    fn allocated(&self, object: BorrowedFd<'_>) -> Result<u64> {
        Ok(object::stat(object).map_err(|e| self.failed(&e))?.allocated_bytes)
    }

    /// Whether each page of an object has memory.
    fn has_all(&self, object: BorrowedFd<'_>) -> Result<bool> {
        let stat = object::stat(object).map_err(|e| self.failed(&e))?;
        Ok(stat.allocated_bytes >= stat.len.next_multiple_of(self.unit))
    }

    /// Lets one page go; whether there was one.
    fn take_one(&self, promised: &mut u64) -> Result<bool> {
        if let Some(fewer) = promised.checked_sub(1) {
            self.keep_promises(promised, fewer)?;
            return Ok(true);
        }
        let Some(last) = self.held()?.checked_sub(self.unit) else { return Ok(false) };
        object::punch(&self.file, last, self.unit).map_err(|e| self.failed(&e))?;
        Ok(true)
    }

    /// Populates the holder with what is free, up to the pool's capacity. A page at a time: who wants one doesn't wait for all.
    fn fill(&self) -> Result<()> {
        while self.left()? > 0 {
            let mut promised = self.lock();
            let held = self.held()?;
            if held >= self.wanted() {
                break;
            }
            if self.page_for(self.file.as_fd(), held)? != Some(true) {
                // What was promised is another node's.
                self.keep_promises(&mut promised, 0)?;
                break;
            }
            *promised = promised.saturating_sub(1);
        }
        Ok(())
    }

    /// The same, and has the kernel set aside what the node lacks.
    fn fill_all(&self, raised: &mut Raised) -> Result<()> {
        self.fill()?;
        // What the kernel couldn't put together for itself it may put together for us, and the other way round.
        loop {
            let missing = self.left()?;
            let come = if missing == 0 { 0 } else { raised.more(missing / self.unit)? };
            if come == 0 {
                return Ok(());
            }
            self.fill()?;
            let got = missing.saturating_sub(self.left()?) / self.unit;
            // What it doesn't get, for a limit or since others were quicker, isn't to be asked for again and again.
            if got < come {
                raised.fewer(come - got)?;
            }
            if got == 0 {
                return Ok(());
            }
        }
    }

    /// Lets go of what is promised to it beyond so many pages.
    fn keep_promises(&self, promised: &mut u64, pages: u64) -> Result<()> {
        let end = self.held()? + pages * self.unit;
        *promised = pages;
        [end, self.capacity]
            .into_iter()
            .try_for_each(|len| object::set_len(&self.file, len))
            .map_err(|e| self.failed(&e))
    }

    /// Has the kernel keep so many free pages for it, as far as they are there, where no size of the mount does: until it has them, or lets them go.
    fn promise(&self, promised: &mut u64, pages: u64) -> Result<()> {
        let held = self.held()?;
        for _ in 0..pages {
            let at = held + *promised * self.unit;
            if at >= self.capacity
                || !hugetlb::promise(&self.file, at, self.unit).map_err(|e| self.failed(&e))?
            {
                break;
            }
            *promised += 1;
        }
        Ok(())
    }

    /// Gives a file a page of the node at `at`: whether it had none before; `None` if the node has none that is free.
    ///
    /// The node is preferred, and what comes from elsewhere given back: were this thread bound to it, so would be the small pages that the kernel needs for its
    /// own records, and of a node that is full it would end a process to have one.
    fn page_for(&self, object: BorrowedFd<'_>, at: u64) -> Result<Option<bool>> {
        let failed = |e: io::Error| os_error("allocate in", &self.path.display(), &e);
        // Linux 6.18 counts a page that it couldn't give as one that the mount has, where that has a size and isn't full: it isn't asked in vain.
        let counted = self.has_size && hugetlb::left(&self.file).map_err(failed)? > 0;
        if counted && NodePages::of(self.memory.node, self.unit).and_then(|p| p.are_gone()).map_err(failed)? {
            return Ok(None);
        }
        let before = self.allocated(object)?;
        let policy = Policy::prefer(self.memory.node).map_err(failed)?;
        match object::allocate(object, at, self.unit) {
            Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::OutOfMemory) => {
                return Ok(None);
            }
            other => other.map_err(failed)?,
        }
        drop(policy);
        if self.allocated(object)? == before {
            return Ok(Some(false));
        }
        let place = Located::new(object, at, self.unit).and_then(|page| page.first()).map_err(failed)?;
        if place == Some(self.memory.node) {
            return Ok(Some(true));
        }
        object::punch(object, at, self.unit).map_err(failed)?;
        Ok(None)
    }
}

impl Backing for Hugetlb {
    fn object_len(&self, len: u64) -> u64 {
        len.next_multiple_of(self.unit)
    }

    fn create(&self, file: FileId, len: u64) -> Result<OwnedFd> {
        self.shm.create(file, self.object_len(len))
    }

    fn open(&self, file: FileId, write: bool) -> Result<OwnedFd> {
        self.shm.open(file, write)
    }

    fn remove(&self, file: FileId) -> Result<()> {
        self.shm.remove(file)?;
        self.wake();
        Ok(())
    }

    fn device(&self) -> Result<u64> {
        self.shm.device()
    }

    fn list(&self) -> Result<Vec<(FileId, ObjectInfo)>> {
        self.shm.list()
    }

    fn strays(&self) -> Result<Vec<String>> {
        let holders: Vec<String> =
            self.place.holders().iter().map(|holder| holder.display().to_string()).collect();
        Ok(self.shm.strays()?.into_iter().filter(|path| !holders.contains(path)).collect())
    }

    fn allocate(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        let (mut at, end) = (pages.offset(), pages.offset() + pages.bytes());
        let mut given = Vec::new();
        while at < end {
            match self.give(object, at) {
                Ok(true) => given.push(at),
                Ok(false) => {}
                Err(e) => {
                    for at in given {
                        let _ = object::punch(object, at, self.unit);
                    }
                    self.wake();
                    return Err(e);
                }
            }
            at += self.unit;
        }
        Ok(())
    }

    fn make_ready(&self, object: BorrowedFd<'_>, pages: PageRange) {
        let _ = self.allocate(object, pages);
    }

    fn before_write(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        self.allocate(object, pages.widened(self.pages_of_unit()))
    }

    fn resident(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<PageCount> {
        let stat = object::stat(object)
            .map_err(|e| os_error("look at an object in", &self.place.path.display(), &e))?;
        Ok(PageCount::for_bytes(stat.allocated_bytes).min(pages.count))
    }

    fn tells_which(&self) -> bool {
        false
    }

    fn is_never_duplicated(&self) -> bool {
        true
    }

    fn lender(&self) -> Option<Arc<dyn Lender>> {
        self.holder.clone().map(|holder| holder as Arc<dyn Lender>)
    }

    fn reserve(&self) -> Option<ReserveInfo> {
        let holder = self.holder.as_ref()?;
        let Holder { memory, unit, capacity, .. } = **holder;
        let missing = holder.missing().ok()?;
        let nodes = topology::nodes(Path::new(topology::SYSFS));
        let node = nodes.into_iter().find(|node| node.node == memory.node).unwrap_or_default();
        let huge: u64 = node.huge.iter().map(|pool| pool.total * pool.page_bytes).sum();
        let kernel = node.bytes.unwrap_or(0).saturating_sub(huge);
        let why = format!(
            "node {} has no more memory that the kernel could put together to pages of {}: {} of it are free, in other pages",
            memory.node,
            format_size(unit),
            format_size(node.free.unwrap_or(0))
        );
        let why = if missing > 0 { why } else { String::new() };
        Some(ReserveInfo { page: unit, taken: capacity.saturating_sub(missing), missing, why, kernel })
    }

    fn tend(&self) {
        self.wake();
    }

    fn keep(&self, unused: PageCount) {
        let Some(Holder { unused: now, .. }) = self.holder.as_deref() else { return };
        if now.swap(unused.bytes(), Ordering::Relaxed) < unused.bytes() {
            self.wake();
        }
    }

    fn keep_all(&self, unused: PageCount) -> Result<()> {
        let Some(holder) = self.holder.as_deref() else { return Ok(()) };
        holder.unused.store(unused.bytes(), Ordering::Relaxed);
        let failed = |e: io::Error| no_pages(holder.memory, &e);
        let (mut raised, _alone) =
            Raised::lock(&holder.raised, holder.memory, holder.unit).map_err(failed)?;
        holder.fill_all(&mut raised)
    }

    fn gave(&self, pages: PageCount) {
        let Some(holder) = self.holder.as_deref() else { return };
        if let Err(e) = holder.promise(&mut holder.lock(), pages.bytes() / self.unit) {
            tracing::warn!("the holder of huge pages: {e}");
        }
    }

    fn take_over(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<Vec<PageRange>> {
        self.bring(object, pages)
    }

    fn why_full(&self, pages: PageCount) -> Option<Error> {
        let holder = self.holder.as_deref()?;
        let promised = *holder.lock();
        (holder.held().ok()? + promised * self.unit < pages.bytes()).then(|| holder.taken_by_others())
    }

    fn is_placed(&self) -> bool {
        self.holder.is_some()
    }

    fn confirm(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        let mut strays = self.astray(object, pages)?;
        if strays.0 > 0 && self.place.is_shared() {
            self.bring(object, pages)?;
            strays = self.astray(object, pages)?;
        }
        if strays.0 == 0 {
            return Ok(());
        }
        Err(Error::no_space(format!(
            "{} bytes in {} lie on other NUMA nodes than {}",
            strays.bytes(),
            self.place.path.display(),
            self.holder()?.memory.node
        )))
    }

    fn astray(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<PageCount> {
        self.shm.astray(object, pages.widened(self.pages_of_unit()))
    }

    fn release(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        self.shm.release(object, pages)?;
        self.wake();
        Ok(())
    }

    fn resize(&self, object: BorrowedFd<'_>, len: u64) -> Result<()> {
        self.shm.resize(object, self.object_len(len))?;
        self.wake();
        Ok(())
    }

    fn read(&self, object: BorrowedFd<'_>, buf: &mut [u8], at: u64) -> Result<usize> {
        self.shm.read(object, buf, at)
    }

    fn write(&self, object: BorrowedFd<'_>, bytes: &[u8], at: u64) -> Result<()> {
        self.shm.write(object, bytes, at)
    }

    fn append(&self, _object: BorrowedFd<'_>, _bytes: &[u8]) -> Result<usize> {
        Err(Error::internal("an append to an object whose end is not its file's"))
    }

    fn copy(&self, from: &SourceMap, at: u64, len: u64, to: BorrowedFd<'_>) -> Result<u64> {
        self.shm.copy(from, at, len, to)
    }

    fn sole_holder(&self, file: FileId) -> Result<Option<OwnedFd>> {
        self.shm.sole_holder(file)
    }

    fn lock(&self, _file: FileId, _object: BorrowedFd<'_>, _pages: &[PageRange]) -> Result<()> {
        // Huge pages are never swapped.
        Ok(())
    }

    fn unlock(&self, _file: FileId) {}
}

fn no_pages(memory: NodeMemory, e: &io::Error) -> Error {
    let what = format!("huge pages of {} on NUMA node {}", memory.page.name(), memory.node);
    match e.kind() {
        io::ErrorKind::Unsupported => Error::not_supported(format!("{what}: {e}")),
        io::ErrorKind::NotFound => Error::device_state(format!("{what}: the node is not online")),
        io::ErrorKind::PermissionDenied => Error::permission(format!("{what}: only root may set them aside")),
        _ => Error::new(ErrorKind::Internal, format!("{what}: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool of so many huge pages on node 0, alone on the machine; `None` where there are no such pages.
    fn pool(pages: u64) -> Option<(Hugetlb, tempfile::TempDir, fs::File)> {
        let node = NodePages::of(0, 2 << 20).ok().filter(|_| mounts::can_mount());
        if node.is_none() {
            eprintln!("skipped: wants root, and a kernel with hugetlbfs");
            return None;
        }
        let lock = fs::File::create("/dev/shm/codax-e2e-huge.lock").expect("root may");
        lock.lock().expect("nobody has it for ever");
        let dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
        fs::create_dir(dir.path().join("p")).expect("room");
        Some((open(&dir, pages), dir, lock))
    }

    fn open(dir: &tempfile::TempDir, pages: u64) -> Hugetlb {
        let memory = NodeMemory { node: 0, page: PageKind::Huge };
        let place = Place { path: dir.path().join("p"), sharers: Vec::new() };
        let bytes = pages * (2 << 20);
        Hugetlb::open(place, "p", memory, (bytes, bytes), dir.path()).expect("some pages can be had")
    }

    fn end(pool: Hugetlb, dir: &tempfile::TempDir) {
        mounts::umount(&dir.path().join("p")).expect("mounted");
        drop(pool);
        give_back(&raised_path(dir.path(), "p")).expect("written");
    }

    #[test]
    fn what_can_not_be_given_in_full_is_not_given_at_all() {
        let Some((pool, dir, _lock)) = pool(3) else { return };
        let all = |object: &OwnedFd| object::stat(object).expect("there").allocated_bytes;
        let unit = codax_core::HUGE_PAGES;
        let object = pool.create(FileId(7), 5).expect("made");
        assert_eq!(object::stat(&object).expect("there").len, 2 << 20, "as long as whole pages");
        pool.allocate(object.as_fd(), PageRange::new(0, unit)).expect("room");
        pool.allocate(object.as_fd(), PageRange::new(0, unit)).expect("it has it already");
        pool.resize(object.as_fd(), 8 << 20).expect("longer");
        let error = pool.allocate(object.as_fd(), PageRange::new(0, 4 * unit)).expect_err("there are three");
        assert_eq!(error.kind, ErrorKind::NoSpace);
        assert_eq!(all(&object), 2 << 20, "what was there stays, and the rest is given back");
        pool.allocate(object.as_fd(), PageRange::new(unit, 2 * unit)).expect("room");
        // As the store says.
        pool.keep(PageCount(0));
        assert_eq!((all(&object), pool.reserve().expect("huge").taken), (6 << 20, 6 << 20));
        // It has them, and there is none to spare.
        pool.allocate(object.as_fd(), PageRange::new(0, 3 * unit)).expect("it has them already");
        let error = pool.allocate(object.as_fd(), PageRange::new(3 * unit, 1)).expect_err("there are three");
        assert_eq!((error.kind, all(&object)), (ErrorKind::NoSpace, 6 << 20));
        pool.release(object.as_fd(), PageRange::new(0, unit)).expect("released");
        pool.allocate(object.as_fd(), PageRange::new(3 * unit, unit)).expect("what was let go of");
        end(pool, &dir);
    }

    #[test]
    fn an_object_that_is_cut_is_an_error_and_no_signal() {
        let Some((pool, dir, _lock)) = pool(2) else { return };
        let object = pool.create(FileId(7), 4 << 20).expect("made");
        pool.allocate(object.as_fd(), PageRange::new(0, 2 * codax_core::HUGE_PAGES)).expect("room");
        pool.write(object.as_fd(), b"across", (2 << 20) - 3).expect("there");
        let mut read = [0; 6];
        assert_eq!(pool.read(object.as_fd(), &mut read, (2 << 20) - 3), Ok(6));
        assert_eq!(&read, b"across");
        let map = SourceMap::new(&object, 4 << 20).expect("mapped");
        let other = tempfile::tempfile_in("/dev/shm").expect("room");
        assert_eq!(map.copy_to(0, 4 << 20, &other).expect("whole"), 4 << 20);
        pool.resize(object.as_fd(), 2 << 20).expect("cut");
        pool.write(object.as_fd(), b"beyond", 2 << 20).expect_err("it ends there");
        assert_eq!(map.copy_to(0, 4 << 20, &other).expect("as far as it goes"), 2 << 20);
        drop(map);
        end(pool, &dir);
    }

    #[test]
    fn what_is_lent_is_the_kernel_s_until_it_is_taken_back_and_the_node_ends_as_it_was() {
        let Some((pool, dir, _lock)) = pool(4) else { return };
        let node = NodePages::of(0, 2 << 20).expect("there");
        let lender = pool.lender().expect("a holder");
        let object = pool.create(FileId(7), 2 << 20).expect("made");
        pool.allocate(object.as_fd(), PageRange::new(0, codax_core::HUGE_PAGES)).expect("room");
        assert_eq!(
            (lender.unit(), lender.held().expect("there"), lender.why_not()),
            (2 << 20, 6 << 20, None)
        );
        let all = node.total().expect("root may read it");
        let before = all - 4;
        // The store says first that it has fewer for files.
        pool.keep(PageCount::for_bytes(2 << 20));
        assert_eq!(lender.lend(4 << 20), Ok(4 << 20));
        assert_eq!((lender.held(), node.total().expect("there")), (Ok(2 << 20), all - 2));
        assert_eq!(pool.reserve().expect("huge").missing, 0, "what is lent isn't missed");
        assert_eq!(lender.take_back(2 << 20), Ok(2 << 20));
        pool.keep(PageCount::for_bytes(4 << 20));
        assert_eq!((lender.held(), node.total().expect("there")), (Ok(4 << 20), all - 1));
        // It ends with some that never came back.
        pool.keep(PageCount(0));
        assert_eq!(lender.lend(1 << 30), Ok(4 << 20));
        drop((lender, object));
        end(pool, &dir);
        assert_eq!(node.total().expect("there"), before);
    }

    #[test]
    fn what_was_given_back_isn_t_given_back_twice() {
        let Some((pool, dir, _lock)) = pool(4) else { return };
        let node = NodePages::of(0, 2 << 20).expect("there");
        let path = raised_path(dir.path(), "p");
        let said = fs::read_to_string(&path).expect("written");
        let (all, by) = (node.set_aside().expect("there"), said.trim().rsplit(' ').next().expect("a number"));
        let before = all - by.parse::<u64>().expect("a number");
        end(pool, &dir);
        assert_eq!(node.set_aside().expect("there"), before);
        // As it is for who was killed when the kernel had done it.
        fs::write(&path, format!("{} {all} {before}\n", said.trim())).expect("room");
        give_back(&path).expect("well written");
        assert_eq!((node.set_aside().expect("there"), path.exists()), (before, false));
    }

    #[test]
    fn what_finds_no_place_when_it_is_taken_back_isn_t_set_aside() {
        let Some((pool, dir, _lock)) = pool(4) else { return };
        let node = NodePages::of(0, 2 << 20).expect("there");
        let lender = pool.lender().expect("a holder");
        let all = node.total().expect("there");
        pool.keep(PageCount::for_bytes(4 << 20));
        assert_eq!(lender.lend(4 << 20), Ok(4 << 20));
        // After a crash more may count as lent than is: the mount is full before that is back.
        pool.keep(PageCount::for_bytes(8 << 20));
        assert_eq!(lender.take_back(12 << 20), Ok(4 << 20));
        assert_eq!((lender.held(), node.total().expect("there")), (Ok(8 << 20), all));
        assert_eq!(lender.take_back(2 << 20), Ok(0));
        assert_eq!(node.total().expect("there"), all);
        drop(lender);
        end(pool, &dir);
        assert_eq!(node.total().expect("there"), all - 4);
    }

    #[test]
    fn what_was_on_its_way_when_somebody_was_killed_is_the_kernel_s() {
        let Some((pool, dir, _lock)) = pool(4) else { return };
        let node = NodePages::of(0, 2 << 20).expect("there");
        let all = node.total().expect("there");
        let look = |pool: &Hugetlb| {
            (pool.lender().expect("a holder").held().expect("there") >> 21, node.total().expect("there"))
        };
        // Between the holder and the kernel, when it was being lent.
        {
            let holder = pool.holder.as_deref().expect("a holder");
            let (mut raised, _alone) =
                Raised::lock(&holder.raised, holder.memory, holder.unit).expect("nobody has it");
            raised.begin(2).expect("room");
            for _ in 0..2 {
                assert_eq!(holder.take_one(&mut holder.lock()), Ok(true));
            }
        }
        assert_eq!(look(&pool), (2, all));
        drop(pool);
        let pool = open(&dir, 4);
        assert_eq!(look(&pool), (2, all - 2));
        // And back, when it was being taken back.
        {
            let holder = pool.holder.as_deref().expect("a holder");
            let (mut raised, _alone) =
                Raised::lock(&holder.raised, holder.memory, holder.unit).expect("nobody has it");
            raised.begin(2).expect("room");
            assert_eq!(raised.more(2), Ok(2));
        }
        assert_eq!(look(&pool), (2, all));
        drop(pool);
        let pool = open(&dir, 4);
        assert_eq!(look(&pool), (2, all - 2));
        pool.keep(PageCount::for_bytes(8 << 20));
        assert_eq!(pool.lender().expect("a holder").take_back(4 << 20), Ok(4 << 20));
        assert_eq!(look(&pool), (4, all));
        end(pool, &dir);
        assert_eq!(node.total().expect("there"), all - 4);
    }
}
