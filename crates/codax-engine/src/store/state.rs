//! Everything the store keeps in memory, behind one lock.

use crate::backing::Backing;
use crate::catalog::Catalog;
use crate::driver::{Asking, Driven, Fit, Queue};
use crate::emergency::{Book, Placed};
use crate::fs::{FsHandle, Mount, MountHandle, MountUse};
use crate::store::media::Media;
use crate::store::quota::Maker;
use crate::store::session::SessionEntry;
use crate::table::FrameTable;
use codax_core::alloc::FrameAllocator;
use codax_core::change::{Change, PoolRecord, PoolState};
use codax_core::driver::QueueId;
use codax_core::extent::{self, Extent, FrameRun, PoolRun};
use codax_core::frame::{FrameFlags, FrameState};
use codax_core::info::{Exclusive, JobInfo};
use codax_core::namespace::{Inode, Namespace};
use codax_core::placement::{Placement, Room};
use codax_core::quota::Quotas;
use codax_core::request::{PinId, PlacementSpec};
use codax_core::{
    DRAM, Error, ErrorKind, FileId, Frame, HUGE_PAGES, MoveId, PageCount, PageNo, PageRange, PoolId, Result,
    SessionId,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

/// What the store keeps in memory.
#[derive(Debug)]
pub(crate) struct State {
    pub ns: Namespace,
    /// The journal knows that ids below this one may be in use.
    pub ids_below: FileId,
    /// By id: pool `n` is at `n`.
    pub pools: Vec<Pool>,
    pub media: Media,
    /// Files that somebody uses right now.
    pub live: HashMap<FileId, Live>,
    pub sessions: HashMap<SessionId, SessionEntry>,
    /// Queues to coprocessors.
    pub queues: HashMap<QueueId, Queue>,
    pub next_queue: u64,
    pub next_session: u64,
    /// Segments that are not over yet, by the low bits of their id that name their commit word.
    pub segments: HashMap<MoveId, SegmentEntry>,
    pub next_move: u32,
    /// Commit words that a mapper of an earlier daemon may still have to read.
    pub quarantine: BTreeSet<u16>,
    /// Files without names from before the start: clients that map them may come back.
    pub lost_orphans: BTreeSet<FileId>,
    /// What was mended or lost at start.
    pub recovery: Vec<Note>,
    /// Files that are being made: they have frames and may have objects, and the journal doesn't know them yet.
    pub making: BTreeMap<FileId, Maker>,
    /// The store is being closed: no new work.
    pub closing: bool,
    /// What mounts have open.
    pub handles: HashMap<FsHandle, MountHandle>,
    /// Numbers given to handles and mounts so far.
    pub next_handle: u64,
    /// Files whose last handle is closed while somebody may still map them.
    pub lingering: BTreeSet<FileId>,
    pub mounts: Vec<Arc<Mount>>,
    /// Inodes that have been dropped and that the kernel of a mount still knows: their attributes, until it forgets them.
    pub gone: HashMap<FileId, Inode>,
    /// Device numbers of mounts that are over, an earlier daemon's too: programs may map files through them still.
    pub closed_devices: BTreeSet<u64>,
    /// The highest version of a file that was given out for catalogs.
    pub version: u64,
    /// Held frames of files that the caches of a device may have bytes of still: they are not given back before its driver has said otherwise.
    pub stale: BTreeSet<(PoolId, FileId)>,
    pub asking: Asking,
    pub quotas: Quotas,
    /// Files of which somebody has, or had since there are quotas, a descriptor by which they can be grown.
    pub watched: BTreeSet<FileId>,
    /// What devices are used for want of memory.
    pub emergency: Book,
    /// The mount on whose behalf the lock is held: it knows what it changes.
    pub acting: Option<u64>,
}

/// A line of what a start found.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    pub what: String,
    pub of: Option<Trouble>,
}

impl From<String> for Note {
    fn from(what: String) -> Self {
        Self { what, of: None }
    }
}

/// What is wrong until somebody mends it; a [`Note`] of it goes when `check` finds it well.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// The file's object in the pool.
    Object(FileId, PoolId),
    /// The pool's NUMA node, which has no memory, or its device, which isn't there.
    Memory(PoolId),
    /// Something in the pool's directory that isn't the store's.
    Stray(String),
}

/// A segment as the sessions reach it.
#[derive(Debug)]
pub(crate) struct SegmentEntry {
    pub slot: u16,
    pub to_driver: Option<Sender<crate::mover::live::Input>>,
    /// Once the driver has left it: who still has to acknowledge its end before its commit word is free.
    pub stragglers: BTreeSet<SessionId>,
}

/// A pool and what is in it.
#[derive(Debug)]
pub(crate) struct Pool {
    pub record: PoolRecord,
    pub alloc: FrameAllocator,
    pub table: FrameTable,
    pub backing: Arc<dyn Backing>,
    pub huge: bool,
    pub swappable: bool,
    /// What keeps others' memory off its node.
    pub exclusive: Exclusive,
    /// How many files may be ahead of their inodes in it.
    pub ahead: usize,
    /// The room that its medium was given last, where that is shared and this pool stands for it.
    pub limit: Option<u64>,
    /// Frames that their file has left and that somebody still holds.
    pub held: BTreeMap<FileId, Vec<Extent>>,
    pub job: Option<Arc<Job>>,
    /// What its medium says of itself, if that is its own.
    pub catalog: Option<Catalog>,
    /// Frames that have no memory: the kernel had not as many huge pages as there were to be. Nobody is given them.
    pub absent: Vec<FrameRun>,
    pub driver: Arc<Driven>,
    /// How files have to lie in it, as its device's driver said.
    pub fit: Fit,
    /// Frames that are its device's own, as its driver said.
    pub private: Vec<FrameRun>,
    /// How many frames have pages that found no room in `dram`, as the table marks them.
    pub spilled: PageCount,
    /// Frames whose memory is lent to the rest of the system. Nobody is given them either.
    pub lent: Vec<FrameRun>,
    /// Drains that have that back, or are about to: nothing is lent meanwhile.
    pub recalls: u32,
}

/// A drain, a return or a move that runs.
#[derive(Debug, Default)]
pub(crate) struct Job {
    cancelled: AtomicBool,
    info: Mutex<JobInfo>,
}

impl Job {
    pub fn new(what: &str) -> Self {
        Self {
            cancelled: AtomicBool::new(false),
            info: Mutex::new(JobInfo { what: what.into(), ..JobInfo::default() }),
        }
    }

    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    pub fn info(&self) -> JobInfo {
        self.info.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn update(&self, f: impl FnOnce(&mut JobInfo)) {
        f(&mut self.info.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Who uses a file.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// Open handles.
    pub opens: u32,
    pub mappers: BTreeMap<SessionId, MapperEntry>,
    /// Sessions that copy by descriptor.
    pub raw: BTreeMap<SessionId, RawEntry>,
    pub pins: BTreeMap<(SessionId, PinId), PageRange>,
    /// Where a file is made that has no directory yet.
    pub unnamed: Option<Unnamed>,
    /// Somebody changes where its pages are.
    pub busy: Option<Busy>,
    /// How many wait for that to end.
    pub waiters: u32,
    /// How many read or write its bytes on behalf of a mount right now.
    pub io: u32,
    /// What mounts do with it.
    pub mount: Option<Box<MountUse>>,
}

/// A file that was made without a name.
#[derive(Debug, Clone)]
pub(crate) struct Unnamed {
    pub placement: Placement,
    /// The directory for which it was made; it may be named in another.
    pub dir: FileId,
}

/// What [`Busy`] says of a move.
pub(crate) const MOVE: &str = "move";

/// An operation that changes where a file's pages are.
#[derive(Debug, Clone)]
pub(crate) struct Busy {
    pub what: &'static str,
    /// Set by those who wait: a move ends its segment early.
    pub preempt: Arc<AtomicBool>,
}

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct MapperEntry {
    pub mappings: u32,
    pub write: bool,
}

/// A session's descriptors of a file's objects.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct RawEntry {
    /// How many times over it has them.
    pub count: u32,
    /// Whether it may write by them.
    pub write: bool,
}

impl Live {
    /// Whether somebody reaches the file's memory by itself, for whom it was filled.
    pub fn without_holes(&self) -> bool {
        !self.mappers.is_empty() || self.raw.values().any(|raw| raw.write)
    }

    pub fn unused(&self) -> bool {
        self.opens == 0
            && self.mappers.is_empty()
            && self.raw.is_empty()
            && self.pins.is_empty()
            && self.busy.is_none()
            && self.waiters == 0
            && self.io == 0
            && self.mount.is_none()
    }
}

impl State {
    /// These names and pools, which nobody uses yet.
    pub fn new(ns: Namespace, mut pools: Vec<Pool>) -> Self {
        for pool in ns.inodes().filter_map(|inode| inode.ahead) {
            if let Some(pool) = pools.get_mut(usize::from(pool.0)) {
                pool.ahead += 1;
            }
        }
        Self {
            ids_below: FileId(0),
            ns,
            media: Media::new(pools.iter().map(|pool| &pool.record)),
            pools,
            live: HashMap::new(),
            sessions: HashMap::new(),
            queues: HashMap::new(),
            next_queue: 0,
            next_session: 0,
            segments: HashMap::new(),
            next_move: 1,
            quarantine: BTreeSet::new(),
            recovery: Vec::new(),
            making: BTreeMap::new(),
            lost_orphans: BTreeSet::new(),
            closing: false,
            handles: HashMap::new(),
            next_handle: 0,
            lingering: BTreeSet::new(),
            mounts: Vec::new(),
            gone: HashMap::new(),
            closed_devices: BTreeSet::new(),
            version: 0,
            stale: BTreeSet::new(),
            asking: Asking::default(),
            quotas: Quotas::default(),
            watched: BTreeSet::new(),
            emergency: Book::default(),
            acting: None,
        }
    }

    pub fn pool(&self, id: PoolId) -> &Pool {
        &self.pools[usize::from(id.0)]
    }

    pub fn pool_mut(&mut self, id: PoolId) -> &mut Pool {
        &mut self.pools[usize::from(id.0)]
    }

    pub fn pool_named(&self, name: &str) -> Result<PoolId> {
        self.pools.iter().find(|p| p.record.name == name).map(|p| p.record.id).ok_or_else(|| {
            let known: Vec<_> = self.pools.iter().map(|p| p.record.name.as_str()).collect();
            Error::not_found(format!("no pool {name}: this store has {}", known.join(", ")))
        })
    }

    /// A pool that files can be in.
    pub fn pool_for_files(&self, name: &str) -> Result<PoolId> {
        let pool = self.pool_named(name)?;
        match self.pool(pool).record.has_memory() {
            true => Ok(pool),
            false => Err(Error::invalid(format!(
                "{name} has no memory of its own: no file can be there, and its coprocessor works on those that are elsewhere"
            ))),
        }
    }

    pub fn pool_name(&self, id: PoolId) -> String {
        self.pools.get(usize::from(id.0)).map_or_else(|| format!("pool {id}"), |p| p.record.name.clone())
    }

    /// A placement by ids as one by names.
    pub fn spec_of(&self, placement: &Placement) -> PlacementSpec {
        let name = |id: PoolId| self.pool_name(id);
        match placement {
            Placement::On { pool, strict } => PlacementSpec::On { pool: name(*pool), strict: *strict },
            Placement::Prefer(pool) => PlacementSpec::Prefer { pool: name(*pool) },
            Placement::Interleave(pools) => {
                PlacementSpec::Interleave { pools: pools.iter().map(|pool| name(*pool)).collect() }
            }
        }
    }

    /// A placement by names as one by ids.
    pub fn placement_of(&self, spec: &PlacementSpec) -> Result<Placement> {
        Ok(match spec {
            PlacementSpec::On { pool, strict } => {
                Placement::On { pool: self.pool_for_files(pool)?, strict: *strict }
            }
            PlacementSpec::Prefer { pool } => Placement::Prefer(self.pool_for_files(pool)?),
            PlacementSpec::Interleave { pools } => {
                let ids = pools.iter().map(|p| self.pool_for_files(p)).collect::<Result<Vec<_>>>()?;
                let distinct: BTreeSet<_> = ids.iter().collect();
                if distinct.len() != ids.len() || ids.is_empty() {
                    return Err(Error::invalid(format!(
                        "interleave {}: name each pool once, and at least one",
                        pools.join(",")
                    )));
                }
                Placement::Interleave(ids)
            }
        })
    }

    pub fn room(&self, id: PoolId) -> Room {
        let none = Room { free: PageCount(0), online: false, unit: 1 };
        self.pools.get(usize::from(id.0)).map_or(none, |p| Room {
            free: p.usable(),
            online: p.record.state == PoolState::Online,
            unit: p.record.unit(),
        })
    }

    /// Whether somebody changes where the file's pages are.
    pub fn is_busy(&self, file: FileId) -> bool {
        self.live.get(&file).is_some_and(|l| l.busy.is_some())
    }

    /// Whether it is on the move.
    pub fn is_moving(&self, file: FileId) -> bool {
        self.live.get(&file).and_then(|l| l.busy.as_ref()).is_some_and(|busy| busy.what == MOVE)
    }

    /// Opens the object of a file that has pages in `pool`. That there is none is damage, and not a name that isn't there.
    pub fn open_object(&self, pool: PoolId, file: FileId, write: bool) -> Result<OwnedFd> {
        self.pool(pool).backing.open(file, write).map_err(|e| match e.kind {
            ErrorKind::NotFound => Error::corrupt(format!(
                "{}: its object in {} is missing: codax check says what is lost",
                self.path(file),
                self.pool_name(pool)
            )),
            _ => e,
        })
    }

    /// A path for people: of the file, or its number if it has no name.
    pub fn path(&self, file: FileId) -> String {
        self.ns.path_of(file).map_or_else(|| format!("#{file}"), |p| p.to_string())
    }

    /// Takes frames of `pool` for `pages` of `file`, marked reserved, if quotas allow it.
    pub fn reserve(
        &mut self,
        pool: PoolId,
        file: FileId,
        pages: PageRange,
        near: Option<Frame>,
    ) -> Result<Vec<Extent>> {
        self.reserve_ahead(pool, file, pages, (near, PageCount(0)))
    }

    /// [`State::reserve`] of the first pages of a row, of which so many more will be asked for.
    pub fn reserve_ahead(
        &mut self,
        pool: PoolId,
        file: FileId,
        pages: PageRange,
        row: (Option<Frame>, PageCount),
    ) -> Result<Vec<Extent>> {
        self.check_quota(pool, file, pages.count)?;
        self.take_ahead(pool, file, pages, row)
    }

    /// [`State::reserve`] whatever quotas say: for what is there already, and for what the operator asks.
    pub fn take(
        &mut self,
        pool: PoolId,
        file: FileId,
        pages: PageRange,
        near: Option<Frame>,
    ) -> Result<Vec<Extent>> {
        self.take_ahead(pool, file, pages, (near, PageCount(0)))
    }

    /// [`State::reserve_ahead`] in the same way.
    pub fn take_ahead(
        &mut self,
        pool: PoolId,
        file: FileId,
        pages: PageRange,
        row: (Option<Frame>, PageCount),
    ) -> Result<Vec<Extent>> {
        let Some(runs) = self.allocate_fit(pool, file, pages, row) else {
            return Err(self.no_frames(pool, pages));
        };
        let p = self.pool_mut(pool);
        let mut page = pages.start.0;
        let mut extents = Vec::with_capacity(runs.len());
        for run in runs {
            p.table.assign(run, file, PageNo(page), FrameState::Reserved);
            extents.push(Extent { page: PageNo(page), count: run.count, pool, frame: run.frame });
            page += run.count.0;
        }
        p.tell_unused();
        self.charge(file, pool, pages.count);
        self.fit_medium(pool);
        Ok(extents)
    }

    /// Why there are no frames for so many pages.
    fn no_frames(&self, pool: PoolId, pages: PageRange) -> Error {
        let (name, p) = (self.pool_name(pool), self.pool(pool));
        let wanted = pages.bytes();
        match pages.count.0.checked_sub(p.alloc.free().0).filter(|missing| *missing > 0) {
            Some(missing) => Error::no_space(format!(
                "pool {name} is full: {} bytes are missing of the {wanted} asked for",
                PageCount(missing).bytes()
            )),
            None => Error::no_space(format!(
                "pool {name} has no place for {wanted} bytes: {} are free, and {}",
                p.alloc.free().bytes(),
                p.fit.why()
            )),
        }
    }

    /// The placement in force for a file.
    pub fn placement(&self, file: FileId) -> Placement {
        let unnamed = self.live.get(&file).and_then(|l| l.unnamed.as_ref());
        unnamed.map_or_else(|| self.ns.placement(file), |unnamed| unnamed.placement.clone())
    }

    /// Takes frames for new pages of a file as its placement says, marked reserved. Those for `dram` that find no room there may `spill` to devices that
    /// allow it. A device that has room, and not as it needs it, is passed over as if it were full.
    pub fn place(
        &mut self,
        how: (&Placement, bool),
        file: FileId,
        pages: PageRange,
        after: Option<Extent>,
    ) -> Result<Placed> {
        let mut full = BTreeSet::new();
        let mut first = None;
        loop {
            match self.place_beside(how, file, (pages, after), &full) {
                Ok(placed) => return Ok(placed),
                Err((e, Some(pool))) if full.insert(pool) => {
                    first.get_or_insert(e);
                }
                Err((e, _)) => return Err(first.unwrap_or(e)),
            }
        }
    }

    /// [`State::place`] where these devices are `full`. An error comes with the device that has room and not as it needs it, if that is why.
    fn place_beside(
        &mut self,
        (placement, spill): (&Placement, bool),
        file: FileId,
        (pages, after): (PageRange, Option<Extent>),
        full: &BTreeSet<PoolId>,
    ) -> std::result::Result<Placed, (Error, Option<PoolId>)> {
        let mut placed = Placed::default();
        let (beside, pages) = self.beside_others(file, pages);
        if let Some(run) = beside.filter(|run| !self.room(run.pool).online) {
            let name = self.pool_name(run.pool);
            let line = format!(
                "pool {name} takes nothing new (it drains or is offline), and has the pages beside these"
            );
            return Err((Error::device_state(line), None));
        }
        // What is beside pages that spilled has, and goes home with them.
        let spilled = |run: &PoolRun| {
            let others = self.ns.get(file).map(Inode::spilled).unwrap_or_default();
            let block = run.pages.widened(self.block());
            others.iter().any(|e| e.pool == run.pool && e.pages().intersect(block).is_some())
        };
        placed.spilled.extend(beside.filter(spilled).map(|run| run.pages));
        let mut runs: Vec<PoolRun> = beside.into_iter().collect();
        let block = self.block().max(HUGE_PAGES);
        let plain = |e| (e, None);
        let over = if spill { self.overflow((placement, Some(file)), pages, block, full) } else { Ok(None) };
        match over.map_err(plain)? {
            Some((over, spilled, cause)) => {
                runs.extend(over);
                placed.spilled.extend(spilled);
                placed.cause = Some(cause);
            }
            None => runs.extend(self.choose(placement, file, (pages, block), full).map_err(plain)?),
        }
        for run in runs {
            let last = placed.extents.last().copied().or(after);
            let near = last.filter(|e| e.pool == run.pool).map(|e| Frame(e.frame.0 + e.count.0));
            match self.reserve(run.pool, file, run.pages, near) {
                Ok(more) => placed.extents.extend(more),
                Err(e) => {
                    self.free(&placed.extents);
                    let needy = e.kind == ErrorKind::NoSpace && self.pool(run.pool).fit != Fit::default();
                    return Err((e, needy.then_some(run.pool)));
                }
            }
        }
        self.note_placed(file, &placed);
        Ok(placed)
    }

    /// Where new pages of a file go. A pool of which a quota leaves nothing is full to it; where that is why there is no space, it is said.
    fn choose(
        &mut self,
        placement: &Placement,
        file: FileId,
        (pages, block): (PageRange, u64),
        full: &BTreeSet<PoolId>,
    ) -> Result<Vec<PoolRun>> {
        let within = |id| self.room_for(file, id).unless(full.contains(&id));
        let chosen = placement.choose(pages, block, &within, &|id| self.pool_name(id));
        let refused = match chosen {
            Err(e) if e.kind == ErrorKind::NoSpace => e,
            other => return other,
        };
        let room = |id| self.room(id).unless(full.contains(&id));
        let all = placement.choose(pages, block, &room, &|id| self.pool_name(id));
        let mut wanted: BTreeMap<PoolId, u64> = BTreeMap::new();
        for run in all.into_iter().flatten() {
            *wanted.entry(run.pool).or_default() += run.pages.count.0;
        }
        for (pool, count) in wanted {
            self.check_quota(pool, file, PageCount(count))?;
        }
        Err(Error::no_space(refused.message + &self.want_back(placement)))
    }

    /// Whether a change leaves a file with less than it has: an end before its end, or fewer pages.
    pub fn is_cut_by(&self, change: &Change) -> bool {
        let Change::Put(now) = change else { return false };
        let pages = |inode: &Inode| inode.extents.iter().map(|e| e.count.0).sum::<u64>();
        self.ns.get(now.id).is_some_and(|before| now.len < before.len || pages(now) < pages(before))
    }

    /// [`State::room`] for a file: no more than what quotas leave it.
    pub fn room_for(&self, file: FileId, id: PoolId) -> Room {
        let room = self.room(id);
        Room { free: room.free.min(self.quota_room(file, id)), ..room }
    }

    /// The same for a file that is about to be made.
    pub fn room_for_new(&self, maker: Maker, id: PoolId) -> Room {
        let room = self.room(id);
        Room { free: room.free.min(self.quota_room_of(maker, id)), ..room }
    }

    /// Marks frames as the file's.
    pub fn own(&mut self, file: FileId, extents: &[Extent]) {
        for e in extents {
            let run = FrameRun { frame: e.frame, count: e.count };
            self.pool_mut(e.pool).table.assign(run, file, e.page, FrameState::Used);
        }
        for (pool, run) in self.ns.get(file).map(|inode| marked(inode, extents)).unwrap_or_default() {
            self.pool(pool).table.set_flags(run, FrameFlags::EMERGENCY, true);
        }
    }

    /// The same of frames to which pages have moved: of those that are on a device for want of room, that has more now.
    pub fn own_moved(&mut self, file: FileId, extents: &[Extent]) {
        self.own(file, extents);
        for (pool, run) in self.ns.get(file).map(|inode| marked(inode, extents)).unwrap_or_default() {
            self.pool_mut(pool).spilled.0 += run.count.0;
        }
    }

    /// Gives frames back.
    pub fn free(&mut self, extents: &[Extent]) {
        for e in extents {
            let run = FrameRun { frame: e.frame, count: e.count };
            let charged = self.charged(e.pool, e.frame);
            self.pool_mut(e.pool).give_back(run);
            if let Some(file) = charged {
                self.quotas.credit(file, e.pool, e.count);
            }
        }
        for medium in self.media.of_extents(extents) {
            self.fit_medium(medium);
        }
    }

    /// A pool's frame table made anew from extents, pins and the allocator; not in its place yet.
    pub fn new_table(&self, id: PoolId) -> Result<FrameTable> {
        let pool = self.pool(id);
        let table = FrameTable::prepare(pool.table.path(), &pool.record.name, pool.record.frames)?;
        let run = |e: &Extent| FrameRun { frame: e.frame, count: e.count };
        // What is taken and nobody's in the journal is a file's in the making, or the target of a move.
        let mut from = 0;
        for frame in 0..=pool.record.frames {
            if frame == pool.record.frames || pool.alloc.is_free(Frame(frame)) {
                table.reserve(FrameRun { frame: Frame(from), count: PageCount(frame - from) });
                from = frame + 1;
            }
        }
        // A damaged frame that a file has is that file's still.
        pool.record.retired.iter().for_each(|bad| table.retire(*bad));
        for inode in self.ns.inodes() {
            for e in inode.extents.iter().filter(|e| e.pool == id) {
                table.assign(run(e), inode.id, e.page, FrameState::Used);
            }
            let marked = marked(inode, &inode.extents).into_iter().filter(|(pool, _)| *pool == id);
            marked.for_each(|(_, run)| table.set_flags(run, FrameFlags::EMERGENCY, true));
        }
        for (file, extents) in &pool.held {
            extents.iter().for_each(|e| table.assign(run(e), *file, e.page, FrameState::Held));
        }
        pool.show_private(&table);
        for (file, live) in &self.live {
            let Some(inode) = self.ns.get(*file) else { continue };
            for pages in live.pins.values() {
                let pinned = extent::slice(&inode.extents, *pages);
                pinned.iter().filter(|e| e.pool == id).for_each(|e| table.pins(run(e), 1));
            }
        }
        Ok(table)
    }

    /// Sets a flag on the frames that hold these pages of a file.
    pub fn flag(&mut self, file: FileId, pages: PageRange, flags: FrameFlags, on: bool) {
        let extents = self.ns.get(file).map(|i| extent::slice(&i.extents, pages)).unwrap_or_default();
        for e in extents {
            let run = FrameRun { frame: e.frame, count: e.count };
            self.pool_mut(e.pool).table.set_flags(run, flags, on);
        }
    }

    /// Files with pages in `pool`, or an object that may have some; orphans included.
    pub fn files_on(&self, pool: PoolId) -> impl Iterator<Item = &Inode> {
        let here = move |i: &&Inode| i.ahead == Some(pool) || i.extents.iter().any(|e| e.pool == pool);
        self.ns.inodes().filter(here)
    }

    /// The end of the segment `id` is known by all its mappers, or they are gone: its commit word is free.
    pub fn straggler_done(&mut self, id: MoveId, session: SessionId) {
        if let Some(entry) = self.segments.get_mut(&id) {
            entry.stragglers.remove(&session);
            if entry.to_driver.is_none() && entry.stragglers.is_empty() {
                self.segments.remove(&id);
            }
        }
    }

    /// A segment id whose commit word nobody uses.
    pub fn take_move(&mut self) -> Option<(MoveId, u16)> {
        let slots = u32::from(crate::journal::SLOTS);
        for _ in 0..slots {
            let id = self.next_move;
            self.next_move = if id >= 0xff_ffff { 1 } else { id + 1 };
            let slot = u16::try_from(id % slots).unwrap_or(0);
            if !self.quarantine.contains(&slot) && !self.segments.values().any(|s| s.slot == slot) {
                return Some((MoveId(id), slot));
            }
        }
        None
    }
}

/// Those of these frames of a file that are an emergency's.
pub(crate) fn marked(inode: &Inode, extents: &[Extent]) -> Vec<(PoolId, FrameRun)> {
    let spilled = inode.spilled();
    let here = spilled.iter().flat_map(|e| extent::slice(extents, e.pages()));
    here.map(|e| (e.pool, FrameRun { frame: e.frame, count: e.count })).collect()
}

/// Whether a pool is the host's own memory.
pub(crate) fn is_dram(id: PoolId) -> bool {
    id == DRAM
}
