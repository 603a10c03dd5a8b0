//! Moves: taking pages of a file from pool to pool, while it is used.
//!
//! A move goes in segments: up to 256 MiB that are reserved, moved and journalled together. Between two segments others who wait for
//! the file get their turn. Between pools of one medium the kernel moves the pages, whoever uses them ([`kernel`]). Elsewhere a file that nobody maps
//! is copied under a write lease ([`idle`]), and one that is mapped is switched under its mappers ([`live`]).

mod idle;
mod kernel;
pub(crate) mod live;
mod pace;
mod units;

pub(crate) use pace::Pace;

use crate::backing::Backing;
use crate::store::files::{all_in, keep_only};
use crate::store::media::Media;
use crate::store::state::{Job, MOVE, State};
use crate::store::{Guard, Inner};
use codax_core::change::{Change, Chunk, MoveRecord, PoolState};
use codax_core::extent::{self, Extent, FrameRun, PoolRun};
use codax_core::frame::FrameFlags;
use codax_core::namespace::Inode;
use codax_core::plan::Holder;
use codax_core::{
    DRAM, Error, ErrorKind, FileId, HUGE_PAGES, PageCount, PageNo, PageRange, PoolId, Result, SessionId,
};
use codax_os::process::Held;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Files of up to so many pages are moved together with others: above, what it costs to move one alone is lost beside the copy.
const TOGETHER_PAGES: u64 = 64;

/// Pages moved and journalled together.
const SEGMENT_PAGES: u64 = 128 * HUGE_PAGES;

/// A move of one file.
#[derive(Clone, Debug)]
pub(crate) struct Order<'a> {
    pub file: FileId,
    /// Which pages go where; what is there already stays.
    pub to: Vec<PoolRun>,
    /// The device's pool to which the pages go home, when a drain takes them away; `None` where they are to stay.
    pub home: Option<PoolId>,
    /// Whether copies are read back and compared before the old bytes go.
    pub verify: bool,
    /// Whether quotas are asked: what the operator has moved is only counted.
    pub bound: bool,
    pub job: &'a Job,
    pub pace: &'a Pace,
}

impl Order<'_> {
    /// What it asks to be moved, in bytes.
    pub fn bytes(&self) -> u64 {
        self.to.iter().map(|run| run.pages.bytes()).sum()
    }
}

/// Why a move could not be made, or not in full. What was committed before stays where it is now.
#[derive(Clone, Debug)]
pub(crate) enum Stuck {
    /// Somebody holds the file.
    Held(Vec<Holder>),
    /// It was cancelled.
    Cancelled,
    /// It failed.
    Failed(Error),
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Held(by) => {
                let by: Vec<_> = by.iter().map(|h| format!("{} {}", h.command, h.why)).collect();
                f.write_str(&by.join("; "))
            }
            Self::Cancelled => f.write_str("cancelled"),
            Self::Failed(e) => e.fmt(f),
        }
    }
}

impl From<Error> for Stuck {
    /// What isn't there in the middle of a move is an object of the file: that is damage, and not a name that can't be found.
    fn from(e: Error) -> Self {
        Self::Failed(match e.kind {
            ErrorKind::NotFound => Error::corrupt(format!(
                "its object is missing (codax check says what is lost): {}",
                e.message
            )),
            _ => e,
        })
    }
}

/// What of a file moves next: the pool it goes to, and its chunks, each with the pool it lies in.
type Cuts = (PoolId, Vec<(PoolId, PageRange)>);

/// A segment that is about to be moved: its frames are reserved, its file is busy.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub inode: Inode,
    pub to: PoolId,
    pub chunks: Vec<Chunk>,
    pub preempt: Arc<AtomicBool>,
    pub media: Media,
    /// Whether the file has an object in the target's medium already.
    pub target_exists: bool,
}

impl Prepared {
    pub fn old_extents(&self, chunks: &[Chunk]) -> Vec<Extent> {
        chunks.iter().flat_map(|c| extent::slice(&self.inode.extents, c.pages)).collect()
    }

    pub fn new_extents(&self, chunks: &[Chunk]) -> Vec<Extent> {
        chunks.iter().flat_map(|c| c.extents(self.to)).collect()
    }

    /// Takes back what the medium has given beside the pages that were copied, in the file's holes and where it lies in other pools: it may take whole
    /// huge pages.
    pub fn keep_holes(&self, target: &dyn Backing, object: BorrowedFd<'_>) -> Result<()> {
        let owned = all_in(&self.media, self.to, &self.inode.extents, &self.new_extents(&self.chunks));
        self.chunks.iter().try_for_each(|c| keep_only(target, object, &owned, c.pages, self.inode.len))
    }

    /// The pages that are in the target pool once so many chunks are.
    pub fn in_target(&self, done: usize) -> Vec<PageRange> {
        let owned =
            all_in(&self.media, self.to, &self.inode.extents, &self.new_extents(&self.chunks[..done]));
        extent::pool_runs(&owned).into_iter().map(|run| run.pages).collect()
    }

    /// The media in which the pages are.
    pub fn sources(&self) -> BTreeSet<PoolId> {
        self.chunks.iter().map(|c| self.media.of(c.from)).collect()
    }
}

impl Inner {
    /// Moves a file's pages as ordered; returns the bytes that were moved.
    pub fn move_pages(&self, order: &Order<'_>) -> std::result::Result<u64, (u64, Stuck)> {
        let mut moved = 0;
        // Whose mappings were the only ones when the kernel was asked last.
        let mut known = BTreeSet::new();
        loop {
            if order.job.cancelled() {
                return Err((moved, Stuck::Cancelled));
            }
            let st = self.lock();
            let mut st = self.wait_turn(st, order.file).map_err(|stuck| (moved, stuck))?;
            let at_rest = self.movable(&mut st, order.file).map_err(|e| (moved, e.into()))?;
            let Some(by_kernel) = self.moved_by_kernel(&st, order) else { return Ok(moved) };
            if !at_rest && !by_kernel {
                let openers = st.openers(order.file);
                drop(st);
                return Err((moved, Stuck::Held(self.mount_holders(order.file, openers))));
            }
            let mappers: BTreeSet<SessionId> =
                st.live.get(&order.file).map(|l| l.mappers.keys().copied().collect()).unwrap_or_default();
            if !by_kernel && !mappers.is_empty() && mappers != known {
                drop(st);
                known = mappers;
                let strangers = self.strangers(order.file).map_err(|e| (moved, e.into()))?;
                if !strangers.is_empty() {
                    return Err((moved, Stuck::Held(strangers)));
                }
                continue;
            }
            let prepared = match self.prepare(&mut st, order) {
                Ok(Some(prepared)) => prepared,
                Ok(None) => return Ok(moved),
                Err(stuck) => return Err((moved, stuck)),
            };
            let mapped = st.live.get(&order.file).is_some_and(|l| !l.mappers.is_empty());
            let lost =
                mapped.then(|| prepared.chunks.iter().find_map(|c| prepared.inode.first_lost(c.pages)));
            if let Some(lost) = lost.flatten() {
                // Who maps them sees that they are gone, and would see zeros elsewhere.
                let unused = prepared.new_extents(&prepared.chunks);
                st.free(&unused);
                self.end_busy(&mut st, order.file);
                return Err((moved, Stuck::Failed(crate::fs::gone_bytes(&st, order.file, lost))));
            }
            drop(st);
            let (bytes, stuck) = if by_kernel {
                self.move_by_kernel(order, prepared)
            } else if mapped {
                self.move_live(order, prepared)
            } else {
                self.move_idle(vec![(order, prepared)]).pop().unwrap_or_default()
            };
            moved += bytes;
            match stuck {
                None => {}
                // What can't be read is known now, and isn't copied any more.
                Some(Stuck::Failed(_)) if !by_kernel && self.note_damage(order.file) => {}
                Some(stuck) => return Err((moved, stuck)),
            }
        }
    }

    /// Whether the file lies where its inode says, and the kernel doesn't serve it to anybody. What it has beyond its end goes: a copy wouldn't have it.
    fn movable(&self, st: &mut State, file: FileId) -> Result<bool> {
        if !self.settle(st, file)? && !self.settle_shared(st, file)? || st.served_by_kernel(file) {
            return Ok(false);
        }
        let Some(inode) = st.ns.get(file) else { return Ok(true) };
        let end = st.end_of(inode, inode.len).0;
        if inode.extents.last().is_some_and(|e| e.pages().end() > end) {
            let inode = inode.clone();
            let times = (inode.mtime_ns, inode.ctime_ns);
            self.shrink(st, &inode, inode.len)?;
            let now = st.ns.get(file).cloned().unwrap_or(inode);
            let dated = Inode { mtime_ns: times.0, ctime_ns: times.1, ..now };
            self.commit(st, &[Change::Put(Box::new(dated))])?;
        }
        Ok(true)
    }

    /// Who has the file open or mapped through a mount: those that `/proc` shows, and `openers` where it shows nobody.
    pub(crate) fn mount_holders(&self, file: FileId, openers: Vec<Holder>) -> Vec<Holder> {
        let (identities, dead): (HashSet<(u64, u64)>, _) = {
            let st = self.lock();
            (st.mount_identities(file).collect(), st.dead_mounts(file))
        };
        let shown = codax_os::process::holders(&identities).unwrap_or_default();
        let mut holders: Vec<Holder> = shown.iter().map(mount_holder).collect();
        holders.dedup();
        if holders.is_empty() {
            holders = keepers(&dead);
        }
        if holders.is_empty() { openers } else { holders }
    }

    /// Moves several files, each as [`Inner::move_pages`] would: what nobody uses and is small goes together, the rest one by one.
    pub fn move_many(&self, orders: &[Order<'_>]) -> Vec<std::result::Result<u64, (u64, Stuck)>> {
        let mut together = Vec::new();
        let mut at = Vec::new();
        {
            let mut st = self.lock();
            for (i, order) in orders.iter().enumerate() {
                let small = matches!(&order.to[..], [run] if run.pages.count.0 <= TOGETHER_PAGES);
                let alone =
                    st.live.contains_key(&order.file) || self.moved_by_kernel(&st, order) == Some(true);
                if !small || alone || order.job.cancelled() {
                    continue;
                }
                // What can't be prepared finds out why when its own turn comes.
                if !matches!(self.movable(&mut st, order.file), Ok(true)) {
                    continue;
                }
                if let Ok(Some(prepared)) = self.prepare(&mut st, order) {
                    together.push((order, prepared));
                    at.push(i);
                }
            }
        }
        let mut moved: BTreeMap<usize, idle::Outcome> =
            at.into_iter().zip(self.move_idle(together)).collect();
        let result = |(i, order): (usize, &Order<'_>)| match moved.remove(&i) {
            Some((bytes, Some(stuck))) => Err((bytes, stuck)),
            Some((bytes, None)) if bytes == order.bytes() => Ok(bytes),
            // Cut short, or not begun.
            Some((bytes, None)) => self.move_pages(order).map(|b| b + bytes).map_err(|(b, s)| (b + bytes, s)),
            None => self.move_pages(order),
        };
        orders.iter().enumerate().map(result).collect()
    }

    /// Waits until nobody changes the file, those who wait for it have had their turn, and sessions that are about to end have ended: all three at
    /// one moment.
    fn wait_turn<'a>(&'a self, mut st: Guard<'a>, file: FileId) -> std::result::Result<Guard<'a>, Stuck> {
        let (begun, patience) = (self.env.now(), self.options().ack_timeout);
        loop {
            let waited = self.env.now() - begun;
            let used = st.live.get(&file).filter(|l| l.busy.is_some() || l.waiters > 0 || l.io > 0);
            match used {
                Some(live) if waited >= 2 * patience => {
                    let what = live.busy.as_ref().map_or("use", |b| b.what);
                    let why = format!("a {what} of it is not over");
                    return Err(Stuck::Held(vec![Holder { pid: None, command: "codax".into(), why }]));
                }
                None if waited >= patience || !st.leaving(file) => return Ok(st),
                _ => st = self.wait_changed(st, Duration::from_millis(100)),
            }
        }
    }

    /// Waits for sessions that have lost their control connection: the client is about to end, or to come back with a new session, and either is heard of
    /// in a moment. If it isn't, they are holders like others.
    pub fn wait_for_leavers<'a>(&'a self, mut st: Guard<'a>, leaving: impl Fn(&State) -> bool) -> Guard<'a> {
        let deadline = self.env.now() + self.options().ack_timeout;
        while leaving(&st) && self.env.now() < deadline {
            st = self.wait_changed(st, Duration::from_millis(100));
        }
        st
    }

    /// The next segment of the order, its frames reserved and the file busy; `None` if there is nothing left to move.
    fn prepare(&self, st: &mut State, order: &Order<'_>) -> std::result::Result<Option<Prepared>, Stuck> {
        let Some(inode) = st.ns.get(order.file).cloned() else { return Ok(None) };
        let Some((to, cuts)) = self.next_cuts(st, &inode, &order.to).map_err(Stuck::Failed)? else {
            return Ok(None);
        };
        let wanted: Vec<Extent> =
            cuts.iter().flat_map(|(_, pages)| extent::slice(&inode.extents, *pages)).collect();
        let by_kernel = cuts.first().is_some_and(|(from, _)| st.media.same(*from, to));
        if st.pool(to).record.state != PoolState::Online {
            let name = st.pool_name(to);
            return Err(Stuck::Failed(Error::device_state(format!(
                "pool {name} is not online: nothing can be moved to it"
            ))));
        }
        let holders = match by_kernel {
            true => st.pinned_by(order.file, &wanted),
            false => st.holders_of(order.file, &wanted),
        };
        if !holders.is_empty() {
            return Err(Stuck::Held(holders));
        }
        if !by_kernel && st.has_held(order.file, to) {
            self.retry_held(st);
            if st.has_held(order.file, to) {
                let why = format!("still holds what it had in {}", st.pool_name(to));
                return Err(Stuck::Held(vec![Holder { pid: None, command: "a process".into(), why }]));
            }
        }
        let target_exists = !st.media.extents(to, &inode.extents).is_empty();
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut ahead: u64 = order.to.iter().filter(|run| run.pool == to).map(|run| run.pages.count.0).sum();
        for (from, pages) in cuts {
            ahead = ahead.saturating_sub(pages.count.0);
            let near = chunks
                .last()
                .and_then(|c: &Chunk| c.target.last())
                .map(|r| codax_core::Frame(r.frame.0 + r.count.0));
            let pages_there = units::with_frames(st, &inode, to, pages);
            let row = (near, PageCount(ahead));
            let reserved = match order.bound {
                true => st.reserve_ahead(to, order.file, pages_there, row),
                false => st.take_ahead(to, order.file, pages_there, row),
            };
            match reserved {
                Ok(extents) => {
                    let target =
                        extents.iter().map(|e| FrameRun { frame: e.frame, count: e.count }).collect();
                    chunks.push(Chunk { pages, from, target });
                }
                Err(e) => {
                    let taken: Vec<Extent> = chunks.iter().flat_map(|c| c.extents(to)).collect();
                    st.free(&taken);
                    return Err(Stuck::Failed(e));
                }
            }
        }
        for chunk in &chunks {
            st.flag(order.file, chunk.pages, FrameFlags::MOVING, true);
        }
        let preempt = self.make_busy(st, order.file, MOVE);
        Ok(Some(Prepared { inode, to, chunks, preempt, media: st.media.clone(), target_exists }))
    }

    /// Whether what comes next of an order is moved by the kernel; `None` if nothing is left to move.
    fn moved_by_kernel(&self, st: &State, order: &Order<'_>) -> Option<bool> {
        match self.next_cuts(st, st.ns.get(order.file)?, &order.to) {
            Ok(cuts) => cuts.and_then(|(to, cuts)| cuts.first().map(|(from, _)| st.media.same(*from, to))),
            // Why it can't be moved at all is said when it is prepared.
            Err(_) => Some(false),
        }
    }

    /// Says in the journal which pages are on their way.
    fn begin_in_journal(&self, st: &mut State, order: &Order<'_>, prepared: &Prepared) -> Result<MoveRecord> {
        let (id, slot) = st
            .take_move()
            .ok_or_else(|| Error::busy("all commit words are in use: too many moves at once"))?;
        let (to, home, chunks) = (prepared.to, order.home, prepared.chunks.clone());
        let record = MoveRecord { id, slot, file: order.file, to, home, chunks };
        self.journal.words().begin(slot, id)?;
        self.journal.append(&[Change::MoveBegin(record.clone())])?;
        Ok(record)
    }

    /// The next segment of what is ordered: the pool it goes to, and the chunks, each in one pool.
    fn next_cuts(&self, st: &State, inode: &Inode, to: &[PoolRun]) -> Result<Option<Cuts>> {
        // A part of a huge page is never left alone if it can be helped: the kernel may make it whole again, holes and all.
        let size = |to: PoolId, wanted: &[Extent]| {
            let huge = st.pool(to).huge || wanted.iter().any(|e| st.pool(e.pool).huge);
            self.options().chunk_pages(huge)
        };
        if st.block() > 1 {
            return units::next_cuts(st, inode, to, &size);
        }
        Ok(next_segment(inode, to, &st.media).map(|(to, wanted)| {
            let size = size(to, &wanted);
            (to, chunked(&wanted, size))
        }))
    }

    /// Processes that hold an object of the file and don't use it through a session.
    fn strangers(&self, file: FileId) -> Result<Vec<Holder>> {
        let backings: Vec<_> = {
            let st = self.lock();
            let objects = st.ns.get(file).map(|i| st.media.of_extents(&i.extents)).unwrap_or_default();
            objects.into_iter().map(|m| st.pool(m).backing.clone()).collect()
        };
        let mut on_devices = Vec::new();
        for backing in &backings {
            on_devices.extend(self.strangers_on_device(&**backing, &backing.mappings()?, &[file])?);
        }
        let mut identities = HashSet::new();
        for backing in backings {
            let object = backing.open(file, false)?;
            let stat = codax_os::object::stat(object.as_fd())
                .map_err(|e| crate::backing::os_error("stat object of", &file, &e))?;
            identities.insert((stat.dev, stat.ino));
        }
        // A mapping through a mount doesn't switch, whoever has it.
        let by_mount: HashSet<(u64, u64)> = self.lock().kernel_identities(file).collect();
        let through = |h: &Held| by_mount.contains(&(h.dev, h.ino));
        identities.extend(&by_mount);
        let held = codax_os::process::holders(&identities)
            .map_err(|e| crate::backing::os_error("look through", &"/proc", &e))?;
        let strange: Vec<_> = {
            let st = self.lock();
            let strange = |h: &Held| match through(h) {
                true => matches!(h.what, codax_os::process::Hold::Mapped { .. }),
                false => !st.uses(h.pid, file),
            };
            held.into_iter().filter(strange).collect()
        };
        let strange = confirmed(strange, &identities)?;
        let mut strange: Vec<_> =
            strange.iter().map(|h| if through(h) { mount_holder(h) } else { stranger(h) }).collect();
        strange.extend(on_devices.iter().map(|(_, h)| stranger(h)));
        strange.dedup();
        Ok(strange)
    }

    /// Processes that map a device by themselves where one of these files lies, with the file, and don't use it through a session; of those that have been
    /// seen to map it.
    pub(crate) fn strangers_on_device(
        &self,
        backing: &dyn Backing,
        seen: &[Held],
        files: &[FileId],
    ) -> Result<Vec<(FileId, Held)>> {
        let strange = |st: &State, mapped: &[Held]| -> Vec<(FileId, Held)> {
            let all = mapped.iter().flat_map(|h| files.iter().map(move |file| (*file, h)));
            let strange = all
                .filter(|(file, h)| backing.is_mapped(*file, &[PageRange::ALL], h) && !st.uses(h.pid, *file));
            strange.map(|(file, h)| (file, h.clone())).collect()
        };
        let st = self.lock();
        if strange(&st, seen).is_empty() {
            return Ok(Vec::new());
        }
        // A client may have unmapped it, and said so, since it was seen. It maps after it has asked and says so after it has unmapped, and neither
        // is heard while the state is locked: who is seen now without a session is a stranger.
        Ok(strange(&st, &backing.mappings()?))
    }

    /// Who holds an object of the file, as the kernel says.
    pub fn holders_by_kernel(&self, file: FileId, pools: &BTreeSet<PoolId>) -> Vec<Holder> {
        let backings: Vec<_> = {
            let st = self.lock();
            pools.iter().map(|&p| st.pool(p).backing.clone()).collect()
        };
        let identities = backings
            .iter()
            .filter_map(|b| b.open(file, false).ok())
            .filter_map(|o| codax_os::object::stat(o.as_fd()).ok())
            .map(|s| (s.dev, s.ino))
            .collect();
        let mut holders: Vec<Holder> =
            codax_os::process::holders(&identities).unwrap_or_default().iter().map(stranger).collect();
        for backing in &backings {
            let mapped = backing.mappings().unwrap_or_default();
            let here = mapped.iter().filter(|h| backing.is_mapped(file, &[PageRange::ALL], h));
            holders.extend(here.map(stranger));
        }
        if holders.is_empty() {
            holders.push(unseen());
        }
        holders.dedup();
        holders
    }
}

/// Who holds an object, as a lease that is refused says, and shows nowhere. Mostly that is over in a moment.
pub(crate) fn unseen() -> Holder {
    let why = "holds it, and belongs to another user or is gone by now".to_owned();
    Holder { pid: None, command: "a process".into(), why }
}

/// Those of `suspects` that still hold an object: a client may have let go of it, and of its session, since it was seen.
pub(crate) fn confirmed(suspects: Vec<Held>, objects: &HashSet<(u64, u64)>) -> Result<Vec<Held>> {
    if suspects.is_empty() {
        return Ok(suspects);
    }
    let again = codax_os::process::holders(objects)
        .map_err(|e| crate::backing::os_error("look through", &"/proc", &e))?;
    let still: HashSet<_> = again.iter().map(|h| (h.pid, h.dev, h.ino)).collect();
    Ok(suspects.into_iter().filter(|h| still.contains(&(h.pid, h.dev, h.ino))).collect())
}

pub(crate) fn stranger(held: &codax_os::process::Held) -> Holder {
    let why = match held.what {
        codax_os::process::Hold::Mapped { .. } => {
            "maps it without the client library, or has not reconnected yet"
        }
        codax_os::process::Hold::Descriptor => "has a descriptor of it",
    };
    Holder { pid: Some(held.pid), command: held.command.clone(), why: why.into() }
}

/// Who keeps mounts there that nobody serves any more. A process of another mount namespace is in the words only: it may know nothing of the mount, and it
/// would not help to end it alone.
pub(crate) fn keepers(devices: &[u64]) -> Vec<Holder> {
    let found = |list: std::io::Result<Vec<(u32, String)>>| list.unwrap_or_default();
    let users = devices.iter().flat_map(|dev| found(codax_os::process::users_of(*dev)));
    let why = "keeps a mount there whose daemon has gone";
    let mut holders: Vec<Holder> =
        users.map(|(pid, command)| Holder { pid: Some(pid), command, why: why.into() }).collect();
    if holders.is_empty() {
        let spaces = devices.iter().flat_map(|dev| found(codax_os::process::namespaces_with(*dev)));
        let named = |(pid, name)| format!("the mount namespace of process {pid} ({name})");
        holders = spaces.map(|space| Holder { pid: None, command: named(space), why: why.into() }).collect();
    }
    holders.dedup();
    holders
}

pub(crate) fn mount_holder(held: &Held) -> Holder {
    let why = match held.what {
        codax_os::process::Hold::Mapped { .. } => "maps it through a mount",
        codax_os::process::Hold::Descriptor => "has it open through a mount",
    };
    Holder { pid: Some(held.pid), command: held.command.clone(), why: why.into() }
}

impl State {
    /// Whether a process has the file open or mapped through sessions only, all of which are there.
    pub fn uses(&self, pid: u32, file: FileId) -> bool {
        let its = |id: &SessionId| self.sessions.get(id).is_some_and(|s| s.pid == pid);
        if !self.attached_in_full(pid) {
            return false;
        }
        self.live.get(&file).is_some_and(|l| l.mappers.keys().chain(l.raw.keys()).any(its))
            || self.sessions.values().any(|s| s.pid == pid && s.handles.values().any(|h| h.file == file))
    }

    /// Whether all connections of a process that may map files have attached: after a restart they come one by one, and which of them a mapping belongs
    /// to can't be seen from outside.
    fn attached_in_full(&self, pid: u32) -> bool {
        let its = || self.sessions.values().filter(|s| s.pid == pid);
        let links = its().map(|s| s.links as usize).max().unwrap_or(0);
        its().filter(|s| s.mapper.is_some()).count() >= links
    }

    /// Whether a session that maps the file has lost its control connection.
    pub fn leaving(&self, file: FileId) -> bool {
        let lost = |id: &SessionId| self.sessions.get(id).is_some_and(|s| s.mapper.is_none());
        self.live.get(&file).is_some_and(|l| l.mappers.keys().any(lost))
    }

    /// Who has said that he needs these pages of a file where they are: nobody moves them, not even the kernel.
    pub fn pinned_by(&self, file: FileId, pages: &[Extent]) -> Vec<Holder> {
        let pins = self.live.get(&file).into_iter().flat_map(|live| &live.pins);
        let here = pins.filter(|(_, pin)| pages.iter().any(|e| e.pages().intersect(**pin).is_some()));
        let sessions = here.filter_map(|((id, _), _)| self.sessions.get(id));
        sessions.map(|s| s.holder("has pinned it for DMA")).collect()
    }

    /// Who keeps these pages of a file from being copied and switched, as far as the sessions say.
    pub fn holders_of(&self, file: FileId, pages: &[Extent]) -> Vec<Holder> {
        let Some(live) = self.live.get(&file) else { return Vec::new() };
        let session = |id| self.sessions.get(id);
        let raw = live.raw.keys().filter_map(session).map(|s| s.holder("copies it by descriptor"));
        let pinned = self.pinned_by(file, pages);
        let mut holders: Vec<Holder> = raw.chain(pinned).chain(self.openers(file)).collect();
        for (id, s) in live.mappers.keys().filter_map(|id| Some((id, session(id)?))) {
            holders.extend(s.immovable());
            let told: u64 = self
                .live
                .values()
                .flat_map(|l| &l.pins)
                .filter(|((owner, _), _)| owner == id)
                .map(|(_, p)| p.bytes())
                .sum();
            let pinned = codax_os::process::vm_pin_bytes(s.pid).unwrap_or(0);
            if pinned > told {
                holders.push(s.holder(format!(
                    "has {pinned} bytes pinned for DMA and told of {told}: pin mappings with Mapping::pin"
                )));
            }
        }
        holders.dedup();
        holders
    }
}

/// The first pool of `to` for which something is left to move, and the extents to move there, cut to a segment: all of them by the kernel, or all of
/// them by copying.
fn next_segment(inode: &Inode, to: &[PoolRun], media: &Media) -> Option<(PoolId, Vec<Extent>)> {
    let mut wanted: Vec<Extent> = Vec::new();
    let mut target = None;
    let mut by_kernel = None;
    let mut left = SEGMENT_PAGES;
    for run in to {
        if target.is_some_and(|t| t != run.pool) {
            continue;
        }
        for mut e in extent::slice(&inode.extents, run.pages) {
            let same = media.same(e.pool, run.pool);
            if e.pool == run.pool || left == 0 || same != *by_kernel.get_or_insert(same) {
                continue;
            }
            target = Some(run.pool);
            e.count.0 = e.count.0.min(left);
            left -= e.count.0;
            wanted.push(e);
        }
    }
    target.map(|t| (t, wanted))
}

/// The extents as runs of one pool each that don't cross a multiple of `size` pages: whole huge pages stay whole.
fn chunked(extents: &[Extent], size: u64) -> Vec<(PoolId, PageRange)> {
    let mut chunks = Vec::new();
    for run in extent::pool_runs(extents) {
        let mut at = run.pages.start.0;
        while at < run.pages.end() {
            let end = ((at / size + 1) * size).min(run.pages.end());
            chunks.push((run.pool, PageRange::new(at, end - at)));
            at = end;
        }
    }
    chunks
}

/// The inode as it is after its pages in `new` have moved there, from a device to which they go `home` if so.
pub(crate) fn relocated(now: &Inode, new: &[Extent], home: Option<PoolId>) -> Inode {
    let mut inode = now.clone();
    // What moves may lie scattered over the file: `replace` takes one run without gaps at a time.
    for run in new.chunk_by(|a, b| a.pages().end() == b.page.0) {
        inode.extents = extent::replace(&inode.extents, run).0;
    }
    // What it had behind its end, in a unit of the pool it left, went with the rest.
    let end = PageCount::for_bytes(inode.len).0;
    if let Some(last) = new.last().filter(|last| last.page.0 < end && last.pages().end() >= end) {
        extent::truncate(&mut inode.extents, PageCount(last.pages().end()));
    }
    let moved: Vec<PageRange> = new.iter().map(Extent::pages).collect();
    inode.away = without(&inode.away, &moved);
    if let Some(pool) = home {
        inode.away.extend(moved.iter().map(|&pages| PoolRun { pages, pool }));
        // What was there for want of room in `dram` is at home in `dram`, wherever a drain takes it.
        let spilled = now.away.iter().filter(|run| run.pool == DRAM);
        let homes = spilled
            .flat_map(|run| new.iter().filter_map(|e| Some((e.pool, run.pages.intersect(e.pages())?))));
        for (to, pages) in homes {
            inode.away = without(&inode.away, &[pages]);
            inode.away.extend((to != DRAM).then_some(PoolRun { pages, pool: DRAM }));
        }
        merge_runs(&mut inode.away);
    }
    inode
}

/// Sorts runs by page and joins neighbours of one pool; later entries win over what they overlap.
fn merge_runs(runs: &mut Vec<PoolRun>) {
    let mut result: Vec<PoolRun> = Vec::with_capacity(runs.len());
    for &run in runs.iter() {
        result = without(&result, &[run.pages]);
        result.push(run);
    }
    result.sort_by_key(|r| r.pages.start);
    let mut merged: Vec<PoolRun> = Vec::with_capacity(result.len());
    for run in result {
        match merged.last_mut() {
            Some(last) if last.pool == run.pool && last.pages.end() == run.pages.start.0 => {
                last.pages.count.0 += run.pages.count.0;
            }
            _ => merged.push(run),
        }
    }
    *runs = merged;
}

/// `runs` without the pages in `gone`.
pub(crate) fn without(runs: &[PoolRun], gone: &[PageRange]) -> Vec<PoolRun> {
    let mut left: Vec<PoolRun> = runs.to_vec();
    for g in gone {
        left = left
            .iter()
            .flat_map(|r| {
                let before = PageRange::new(
                    r.pages.start.0,
                    g.start.0.min(r.pages.end()).saturating_sub(r.pages.start.0),
                );
                let from = g.end().max(r.pages.start.0);
                let after = PageRange {
                    start: PageNo(from),
                    count: codax_core::PageCount(r.pages.end().saturating_sub(from)),
                };
                [before, after]
                    .into_iter()
                    .filter(|p| !p.is_empty())
                    .map(|pages| PoolRun { pages, pool: r.pool })
            })
            .collect();
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, count: u64, pool: u16) -> PoolRun {
        PoolRun { pages: PageRange::new(start, count), pool: PoolId(pool) }
    }

    #[test]
    fn without_cuts_the_middle_and_the_ends() {
        assert_eq!(without(&[run(0, 10, 1)], &[PageRange::new(3, 2)]), [run(0, 3, 1), run(5, 5, 1)]);
        assert_eq!(without(&[run(0, 10, 1)], &[PageRange::new(0, 4)]), [run(4, 6, 1)]);
        assert_eq!(without(&[run(4, 6, 1)], &[PageRange::new(0, 20)]), []);
        assert_eq!(without(&[run(4, 6, 1)], &[PageRange::new(20, 2)]), [run(4, 6, 1)]);
        assert_eq!(without(&[run(4, 6, 1)], &[PageRange::new(0, 2)]), [run(4, 6, 1)]);
    }

    #[test]
    fn merged_runs_don_t_overlap_and_neighbours_join() {
        let mut runs = vec![run(4, 4, 1), run(0, 4, 1), run(6, 4, 2)];
        merge_runs(&mut runs);
        assert_eq!(runs, [run(0, 6, 1), run(6, 4, 2)]);
    }

    #[test]
    fn what_spilled_is_at_home_in_dram_wherever_a_drain_takes_it() {
        let e = |page, count, pool| Extent {
            page: PageNo(page),
            count: codax_core::PageCount(count),
            pool: PoolId(pool),
            frame: codax_core::Frame(page),
        };
        let mut inode = Inode::new(FileId(9), codax_core::namespace::Kind::File, 0, 0, 0, 0);
        inode.len = 12 * codax_core::PAGE_SIZE;
        inode.extents = vec![e(0, 12, 1)];
        inode.away = vec![run(4, 8, 0)];
        // To another device, to dram, and by somebody's wish.
        let elsewhere = relocated(&inode, &[e(0, 12, 2)], Some(PoolId(1)));
        assert_eq!(elsewhere.away, [run(0, 4, 1), run(4, 8, 0)]);
        assert_eq!(relocated(&inode, &[e(0, 8, 0)], Some(PoolId(1))).away, [run(0, 4, 1), run(8, 4, 0)]);
        assert_eq!(relocated(&inode, &[e(0, 12, 2)], None).away, []);
    }

    #[test]
    fn chunks_are_aligned_and_stay_in_one_pool() {
        let e = |page, count, pool| Extent {
            page: PageNo(page),
            count: codax_core::PageCount(count),
            pool: PoolId(pool),
            frame: codax_core::Frame(page),
        };
        let chunks = chunked(&[e(100, 600, 1), e(700, 100, 2)], 512);
        let got: Vec<_> = chunks.iter().map(|(p, r)| (p.0, r.start.0, r.count.0)).collect();
        assert_eq!(got, [(1, 100, 412), (1, 512, 188), (2, 700, 100)]);
    }
}
