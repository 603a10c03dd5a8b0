//! Names, attributes, and what the store says of itself.

use crate::store::blocks::frames;
use crate::store::lost::{WithMemory, nodes_of};
use crate::store::session::Session;
use crate::store::state::State;
use crate::store::{Guard, Inner, Store};
use codax_core::change::PoolState;
use codax_core::extent::{self, pool_runs};
use codax_core::info::{Event, FileInfo, PoolInfo, StoreInfo};
use codax_core::name::StorePath;
use codax_core::namespace::{Inode, Kind, SetAttr, Want};
use codax_core::request::{Handle, PlacementSpec};
use codax_core::{Error, ErrorKind, FileId, PageCount, Result};
use codax_os::process::Hold;
use std::collections::BTreeMap;
use std::time::Duration;

/// Most processes that are named as mapping a file.
const MAPPERS_NAMED: usize = 256;

/// A directory's entries, and whether there are more.
pub type Listing = (Vec<(Vec<u8>, FileInfo)>, bool);

/// Files, directories, bytes, and bytes of frames per pool name.
pub type Usage = (u64, u64, u64, Vec<(String, u64)>);

/// Names removed under one hold of the lock, so that a large tree doesn't hold up everybody else.
const REMOVE_BATCH: usize = 256;

impl Session {
    /// A file by name.
    pub fn stat(&self, path: &StorePath) -> Result<FileInfo> {
        let mut st = self.store.inner.lock();
        let file = st.ns.resolve(&self.cred, path)?;
        self.store.inner.refresh(&mut st, file);
        let info = st.file_info(file, true).ok_or_else(|| Error::not_found(format!("{path} is gone")))?;
        Ok(self.store.inner.with_mount_mappers(st, info))
    }

    /// An open file.
    pub fn stat_handle(&self, handle: Handle) -> Result<FileInfo> {
        let mut st = self.store.inner.lock();
        let open = self.handle(&st, handle)?;
        self.store.inner.refresh(&mut st, open.file);
        let info = st.file_info(open.file, true);
        let info = info.ok_or_else(|| Error::not_found(format!("#{} is gone", open.file)))?;
        Ok(self.store.inner.with_mount_mappers(st, info))
    }

    /// A directory's entries after the name `after`, of about `max_bytes` when encoded, and whether there are more.
    pub fn read_dir(&self, path: &StorePath, after: Option<&[u8]>, max_bytes: usize) -> Result<Listing> {
        let mut st = self.store.inner.lock();
        let dir = st.ns.resolve(&self.cred, path)?;
        self.store.inner.refresh_all(&mut st);
        let inode = st.ns.get(dir).ok_or_else(|| Error::not_found(format!("{path} is gone")))?;
        if inode.kind != Kind::Dir {
            return Err(Error::new(ErrorKind::NotDir, format!("{path} is not a directory")));
        }
        st.ns.check(&self.cred, dir, Want::READ, path)?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (name, id) in st.ns.entries(dir, after) {
            let Some(info) = st.file_info(id, false) else { continue };
            // An upper bound of what postcard makes of it.
            bytes += name.as_bytes().len()
                + 160
                + 24 * (info.runs.len() + info.away.len())
                + 4 * info.mapped_by.len();
            if bytes > max_bytes && !entries.is_empty() {
                return Ok((entries, true));
            }
            entries.push((name.as_bytes().to_vec(), info));
        }
        Ok((entries, false))
    }

    /// Makes a directory.
    pub fn mkdir(&self, path: &StorePath, mode: u16, placement: Option<&PlacementSpec>) -> Result<()> {
        let inner = &self.store.inner;
        let mut st = inner.lock();
        let placement = placement.map(|p| st.placement_of(p)).transpose()?;
        inner.allow_id(&mut st)?;
        let changes = st.ns.mkdir(&self.cred, path, mode, placement, inner.env.wall_ns())?;
        inner.commit(&mut st, &changes)
    }

    /// Removes a file or an empty directory, or a tree.
    pub fn remove(&self, path: &StorePath, recursive: bool) -> Result<()> {
        let inner = &self.store.inner;
        if path.components().is_empty() {
            return Err(Error::invalid(
                "/: the root directory can't be removed; codax down --purge deletes the store",
            ));
        }
        if recursive {
            self.remove_below(path)?;
        }
        let mut st = inner.lock();
        self.remove_one(&mut st, path)?;
        drop(st);
        Ok(())
    }

    fn remove_one(&self, st: &mut State, path: &StorePath) -> Result<()> {
        let inner = &self.store.inner;
        let file = st.ns.resolve(&self.cred, path)?;
        let changes = st.ns.remove(&self.cred, path, inner.env.wall_ns())?;
        inner.commit(st, &changes)?;
        inner.reap(st, file);
        Ok(())
    }

    fn remove_below(&self, path: &StorePath) -> Result<()> {
        let inner = &self.store.inner;
        let paths: Vec<StorePath> = {
            let st = inner.lock();
            let dir = st.ns.resolve(&self.cred, path)?;
            let below = st.ns.subtree(dir).into_iter();
            below.filter_map(|(dir, name, _)| Some(st.ns.path_of(dir)?.join(&name))).collect()
        };
        for batch in paths.chunks(REMOVE_BATCH) {
            let mut st = inner.lock();
            for path in batch {
                match self.remove_one(&mut st, path) {
                    Err(e) if e.kind == ErrorKind::NotFound => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// Renames; an existing target is replaced unless `noreplace`.
    pub fn rename(&self, from: &StorePath, to: &StorePath, noreplace: bool) -> Result<()> {
        let inner = &self.store.inner;
        let mut st = inner.lock();
        let replaced = st.ns.resolve(&self.cred, to).ok();
        let changes = st.ns.rename(&self.cred, from, to, noreplace, inner.env.wall_ns())?;
        st.check_entered(&changes)?;
        inner.commit(&mut st, &changes)?;
        if let Some(old) = replaced {
            inner.reap(&mut st, old);
        }
        Ok(())
    }

    /// Changes attributes.
    pub fn set_attr(
        &self,
        path: &StorePath,
        mode: Option<u16>,
        uid: Option<u32>,
        gid: Option<u32>,
        placement: Option<Option<&PlacementSpec>>,
    ) -> Result<()> {
        let inner = &self.store.inner;
        let mut st = inner.lock();
        let placement = match placement {
            Some(Some(spec)) => Some(Some(st.placement_of(spec)?)),
            Some(None) => Some(None),
            None => None,
        };
        let set = SetAttr { mode, uid, gid, placement, emergency: None };
        let changes = st.ns.set_attr(&self.cred, path, &set, inner.env.wall_ns())?;
        inner.commit(&mut st, &changes)?;
        inner.keep_what_is_placed(&mut st)
    }

    /// Says whether a file, or what is in a directory, may be on a device for want of room in `dram`.
    pub fn set_emergency(&self, path: &StorePath, allowed: bool) -> Result<()> {
        let inner = &self.store.inner;
        let mut st = inner.lock();
        let set = SetAttr { emergency: Some(allowed), ..SetAttr::default() };
        let changes = st.ns.set_attr(&self.cred, path, &set, inner.env.wall_ns())?;
        inner.commit(&mut st, &changes)
    }

    /// What lies below a path.
    pub fn usage(&self, path: &StorePath) -> Result<Usage> {
        let mut st = self.store.inner.lock();
        self.store.inner.refresh_all(&mut st);
        let root = st.ns.resolve(&self.cred, path)?;
        let mut all: Vec<FileId> = st.ns.subtree(root).into_iter().map(|(_, _, id)| id).collect();
        all.push(root);
        // A file with several names is counted once.
        all.sort_unstable();
        all.dedup();
        let (mut files, mut dirs, mut len) = (0, 0, 0);
        let mut backed: BTreeMap<_, u64> = BTreeMap::new();
        for inode in all.iter().filter_map(|&id| st.ns.get(id)) {
            match inode.kind {
                Kind::Dir => dirs += 1,
                _ => files += 1,
            }
            if inode.kind == Kind::File {
                len += inode.len;
            }
            for e in &inode.extents {
                *backed.entry(e.pool).or_default() += e.count.bytes();
            }
        }
        Ok((files, dirs, len, backed.into_iter().map(|(pool, b)| (st.pool_name(pool), b)).collect()))
    }
}

impl Inner {
    /// Adds those that map the file through a mount, as `/proc` shows them. That is looked through only if the kernel serves the file.
    fn with_mount_mappers(&self, st: Guard<'_>, mut info: FileInfo) -> FileInfo {
        if !st.served_by_kernel(info.id) {
            return info;
        }
        let identities = st.kernel_identities(info.id).collect();
        drop(st);
        // Who can't be seen there is missed.
        let held = codax_os::process::holders(&identities).unwrap_or_default();
        let maps = held.iter().filter(|h| matches!(h.what, Hold::Mapped { .. }));
        info.mapped_by.extend(maps.map(|h| h.pid));
        info.mapped_by.sort_unstable();
        info.mapped_by.dedup();
        info.mapped_by.truncate(MAPPERS_NAMED);
        info
    }
}

impl State {
    fn file_info(&self, file: FileId, extents: bool) -> Option<FileInfo> {
        let inode: &Inode = self.ns.get(file)?;
        let live = self.live.get(&file);
        let mut mapped_by: Vec<u32> = live
            .into_iter()
            .flat_map(|l| l.mappers.keys())
            .filter_map(|s| self.sessions.get(s).map(|s| s.pid))
            .collect();
        mapped_by.sort_unstable();
        mapped_by.dedup();
        mapped_by.truncate(MAPPERS_NAMED);
        Some(FileInfo {
            id: file,
            kind: inode.kind,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            nlink: inode.nlink,
            len: inode.len,
            backed: inode.backed(),
            mtime_ns: inode.mtime_ns,
            ctime_ns: inode.ctime_ns,
            placement: self.ns.placement(file),
            placement_own: inode.placement.is_some(),
            no_emergency: self.ns.forbids_emergency(file),
            extents: if extents { inode.extents.iter().take(2048).copied().collect() } else { Vec::new() },
            away: inode.away.iter().take(512).copied().collect(),
            spilled: self.why_spilled(inode),
            runs: pool_runs(&inode.extents).into_iter().take(if extents { 512 } else { 8 }).collect(),
            mapped_by,
            pins: u32::try_from(live.map_or(0, |l| l.pins.len())).unwrap_or(u32::MAX),
            persistent: self.is_persistent(inode),
            lost: inode.lost_pages().into_iter().take(512).collect(),
        })
    }

    /// Whether all that a file has outlives the power.
    fn is_persistent(&self, inode: &Inode) -> bool {
        let kept = |e: &codax_core::extent::Extent| self.pool(e.pool).record.persistent;
        !inode.extents.is_empty() && inode.extents.iter().all(kept)
    }

    fn pool_info(&self, at: usize, files: u64) -> PoolInfo {
        let p = &self.pools[at];
        let held: u64 = p.held.values().flatten().map(|e| e.count.bytes()).sum();
        let free = p.alloc.free().bytes();
        let bytes = PageCount(p.record.frames).bytes();
        let near = self.media.pools(p.record.medium).filter(|pool| *pool != p.record.id);
        let moves_with = near.map(|pool| self.pool_name(pool)).collect();
        // Of what is damaged a file may still have some.
        let retired = p.record.retired.iter().flat_map(|run| run.frame.0..run.frame.0 + run.count.0);
        let mut unused = 0;
        retired.for_each(|frame| unused += u64::from(p.table.is_retired(codax_core::Frame(frame))));
        let absent = frames(&p.absent).bytes() + frames(&p.lent).bytes() + PageCount(unused).bytes();
        let private = frames(&p.private).bytes();
        PoolInfo {
            id: p.record.id,
            name: p.record.name.clone(),
            backing: p.record.backing,
            numa: p.record.numa,
            dax: p.record.dax.clone(),
            persistent: p.record.persistent,
            retired: frames(&p.record.retired).bytes(),
            state: p.record.state,
            bytes,
            used: bytes - free - held - absent - private,
            private,
            held,
            free,
            files,
            link: self.link(p.record.id),
            swappable: p.swappable,
            huge: p.huge,
            moves_with,
            reserve: p.reserve_info(),
            exclusive: p.exclusive,
            emergency: self.emergency_info(p.record.id),
            populated: p.backing.holder().and_then(|reserve| reserve.held().ok()),
            job: p.job.as_ref().map(|j| j.info()),
            nodes: Vec::new(),
            missing: None,
        }
    }
}

impl Store {
    /// What the store says of itself.
    #[must_use]
    pub fn info(&self) -> StoreInfo {
        let inner: &Inner = &self.inner;
        let st = inner.lock();
        let mut files = vec![0u64; st.pools.len()];
        for inode in st.ns.inodes() {
            let mut pools: Vec<_> = inode.extents.iter().map(|e| usize::from(e.pool.0)).collect();
            pools.sort_unstable();
            pools.dedup();
            for pool in pools {
                files[pool] += 1;
            }
        }
        let options = inner.options();
        let with_memory = WithMemory::now();
        let mut pools: Vec<PoolInfo> = files.iter().enumerate().map(|(at, &n)| st.pool_info(at, n)).collect();
        for (info, pool) in pools.iter_mut().zip(&st.pools) {
            info.nodes = nodes_of(&pool.record, &options);
            if info.state != PoolState::Detached {
                info.missing = with_memory.lost(&info.nodes).or_else(|| st.without_device(info.id));
            }
        }
        StoreInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ns: u64::try_from((inner.env.now() - inner.started).as_nanos()).unwrap_or(u64::MAX),
            dir: std::os::unix::ffi::OsStrExt::as_bytes(options.dir.as_os_str()).to_vec(),
            uid: inner.uid,
            inodes: st.ns.count() as u64,
            sessions: st.sessions.len() as u64,
            journal_bytes: inner.journal.bytes(),
            pools,
            recovery: st.recovery.iter().take(64).map(|note| note.what.clone()).collect(),
            mounts: Vec::new(),
            quotas: Vec::new(),
            more_quotas: 0,
        }
    }

    /// Puts into the record of events what was done with the store from outside: what, to what, and more for people.
    pub fn note(&self, what: &str, subject: &str, detail: &str) {
        self.inner.event(what, subject, detail, 0);
    }

    /// Events from number `since` on.
    #[must_use]
    pub fn events(&self, since: u64, max: usize) -> Vec<Event> {
        self.inner.tell_quotas(&mut self.inner.lock());
        self.inner.events.since(since.saturating_sub(1), max)
    }

    /// Waits until there is an event of number `since` or later; whether there is one.
    #[must_use]
    pub fn wait_events(&self, since: u64, timeout: Duration) -> bool {
        self.inner.events.wait(since.saturating_sub(1), timeout)
    }

    /// The user that the store belongs to.
    #[must_use]
    pub fn owner(&self) -> u32 {
        self.inner.uid
    }

    /// A number that each start draws anew.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.inner.epoch
    }
}

/// The pages of `file` that lie in `pool`, as runs.
pub(crate) fn pages_in(inode: &Inode, pool: codax_core::PoolId) -> Vec<codax_core::PageRange> {
    extent::pool_runs(&inode.extents).into_iter().filter(|r| r.pool == pool).map(|r| r.pages).collect()
}
