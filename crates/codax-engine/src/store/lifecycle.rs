//! A store's start and end: its directory, its mounts, its pools.

use crate::backing::{Backing, Hugetlb, Missing, Place, Shm, ShmOptions, give_back, os_error, raised_path};
use crate::catalog::Catalog;
use crate::dax::{self, Take};
use crate::emergency::check_settings;
use crate::env::Env;
use crate::journal;
use crate::options::{DaxSpec, DeviceSpec, Format, HugeMode, StoreOptions};
use crate::patrol::Patrol;
use crate::store::Store;
use crate::store::attach::{take_out, unmount};
use crate::store::exclusive::{drop_reserves, open_reserve};
use crate::store::lost::{WithMemory, nodes_of};
use crate::store::media::{DramPages, medium_for};
use crate::store::recover::MakeBacking;
use crate::store::state::is_dram;
use codax_core::change::{BackingKind, DaxMemory, NodeMemory, PageKind, PoolRecord, PoolState};
use codax_core::{DRAM, DRAM_NAME, Error, ErrorKind, PAGE_SIZE, PageCount, PoolId, Result};
use codax_os::mounts::{self, TmpfsKind};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Space of the journal's own mount.
const META_BYTES: u64 = 1 << 30;

/// How often the journal is looked at for folding.
const MAINTAIN_EVERY: Duration = Duration::from_secs(5);

/// Where things are in a store's directory.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The store's directory.
    pub dir: PathBuf,
}

impl Layout {
    /// Journal, names and events: the daemon's own.
    #[must_use]
    pub fn meta(&self) -> PathBuf {
        self.dir.join("meta")
    }

    /// The names file.
    #[must_use]
    pub fn names(&self) -> PathBuf {
        self.meta().join("names")
    }

    /// The commit words.
    #[must_use]
    pub fn words(&self) -> PathBuf {
        self.meta().join(journal::WORDS)
    }

    /// The frame tables, one for each pool, for everybody to read.
    #[must_use]
    pub fn frames(&self) -> PathBuf {
        self.dir.join("frames")
    }

    /// The frame table of a pool.
    #[must_use]
    pub fn frame_table(&self, pool: &str) -> PathBuf {
        self.frames().join(pool)
    }

    /// What is populated for a pool and in none of its files.
    #[must_use]
    pub fn reserve(&self, pool: &str) -> PathBuf {
        self.reserves().join(pool)
    }

    /// The same of all pools: the daemon's own.
    #[must_use]
    pub fn reserves(&self) -> PathBuf {
        self.dir.join("reserve")
    }

    /// The objects of a pool: the daemon's own.
    #[must_use]
    pub fn pool(&self, pool: &str) -> PathBuf {
        self.dir.join("pools").join(pool)
    }
}

/// The directory of a pool's objects, as it came to be.
#[derive(Clone, Debug)]
pub(crate) struct Medium {
    pub path: PathBuf,
    pub huge: bool,
    pub swappable: bool,
    pub shm: ShmOptions,
}

pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(|e| os_error("make", &path.display(), &e)),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(os_error("make", &path.display(), &e)),
    }
}

/// Makes the store's directory, or checks that an existing one may be ours. Called before the daemon's lock is taken in it.
pub fn prepare_dir(dir: &Path) -> Result<()> {
    if !dir.exists() {
        let missing: Vec<_> = dir.ancestors().take_while(|a| !a.exists()).map(Path::to_owned).collect();
        for part in missing.iter().rev() {
            make_dir(part, 0o755)?;
        }
    }
    let meta = fs::metadata(dir).map_err(|e| os_error("look at", &dir.display(), &e))?;
    if !meta.is_dir() {
        return Err(Error::invalid(format!("{} is not a directory", dir.display())));
    }
    let me = codax_os::process::uid();
    if meta.uid() != me {
        return Err(Error::permission(format!(
            "{} belongs to uid {}: a store is served by its owner; choose another with --store",
            dir.display(),
            meta.uid()
        )));
    }
    if !mounts::can_mount() && !mounts::is_tmpfs(dir).map_err(|e| os_error("look at", &dir.display(), &e))? {
        return Err(Error::invalid(format!(
            "{} is not on tmpfs, and only root may mount one: use a directory below /dev/shm or $XDG_RUNTIME_DIR",
            dir.display()
        )));
    }
    Ok(())
}

/// Makes a directory of the store a tmpfs of its own where that is allowed; an earlier daemon's mount is used as it is.
fn own_tmpfs(path: &Path, bytes: u64, huge: HugeMode, nodes: &[u32]) -> Result<Option<TmpfsKind>> {
    make_dir(path, 0o700)?;
    if !mounts::can_mount() {
        return Ok(None);
    }
    let failed = |what: &str, e: &std::io::Error| os_error(what, &path.display(), e);
    if !mounts::is_mount_point(path).map_err(|e| failed("look at", &e))? {
        mounts::mount_tmpfs(path, bytes, huge.mount_option(), true, nodes)
            .map_err(|e| failed("mount a tmpfs on", &e))?;
    } else if !nodes.is_empty() && WithMemory::now().lost(nodes).is_none() {
        mounts::prefer_nodes(path, nodes).map_err(|e| failed("set the memory policy of the tmpfs on", &e))?;
    }
    mounts::tmpfs_kind(path).map(Some).map_err(|e| failed("look at the tmpfs on", &e))
}

/// Directories and mounts that the journal needs.
pub(crate) fn prepare_meta(layout: &Layout) -> Result<()> {
    own_tmpfs(&layout.meta(), META_BYTES, HugeMode::Never, &[])?;
    make_dir(&layout.dir.join("pools"), 0o700)?;
    make_dir(&layout.frames(), 0o755)?;
    drop_unfinished(&layout.frames())
}

/// Tables that a start made and was killed before it put them in their place: nobody would ever use them, and they take memory.
fn drop_unfinished(frames: &Path) -> Result<()> {
    let failed = |e: std::io::Error| os_error("clear", &frames.display(), &e);
    for entry in fs::read_dir(frames).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if crate::table::is_unfinished(&entry.file_name()) {
            fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// A pool's objects, as they came to be.
pub(crate) struct Opened {
    pub huge: bool,
    pub swappable: bool,
    pub backing: Arc<dyn Backing>,
    /// What its medium says of itself, if that is its own.
    pub catalog: Option<Catalog>,
    /// Lines for people.
    pub notes: Vec<String>,
}

impl Opened {
    fn plain(medium: &Medium, backing: Arc<dyn Backing>) -> Self {
        let Medium { huge, swappable, .. } = *medium;
        Self { huge, swappable, backing, catalog: None, notes: Vec::new() }
    }
}

/// A pool's objects, and how their place came to be; tmpfs in the way that `make` says. Of a medium of its own that the
/// store has files on and that can't be had, nothing is there.
pub(crate) fn open_backing(
    layout: &Layout,
    pool: &PoolRecord,
    (all, take): (&[PoolRecord], Take),
    (options, env): (&StoreOptions, &dyn Env),
    make: &MakeBacking,
) -> Result<Opened> {
    let path = layout.pool(&pool.name);
    if !pool.has_memory() || pool.state == PoolState::Detached && !is_shared(pool, all) {
        let medium = empty_pool(layout, pool, all)?;
        return Ok(Opened::plain(&medium, Arc::new(Shm::new(&path, ShmOptions::default())?)));
    }
    if let Some(memory) = &pool.dax {
        return open_medium(path, pool, (memory, take), (options, env));
    }
    if let Some(memory) = pool.numa.filter(|memory| memory.page.is_reserved()) {
        if !mounts::can_mount() {
            return Err(only_root(pool));
        }
        // Its own tells a purge of the pool, wherever its objects are.
        make_dir(&path, 0o700)?;
        let place = huge_place(layout, pool, all);
        make_dir(&place.path, 0o700)?;
        let medium =
            Medium { path: place.path.clone(), huge: true, swappable: false, shm: ShmOptions::default() };
        if pool.state == PoolState::Detached {
            return Ok(Opened::plain(&medium, Arc::new(detached_huge(layout, pool, all, memory.page)?)));
        }
        let bytes = PageCount(pool.frames).bytes();
        let device = options.devices.iter().find(|device| device.name == pool.name);
        let emergency = device.and_then(|device| device.emergency);
        let lendable = emergency.map_or(Ok(0), |emergency| emergency.at_most.of(bytes))?;
        let backing = Hugetlb::open(place, &pool.name, memory, (bytes, lendable), &layout.meta())?;
        return Ok(Opened::plain(&medium, Arc::new(backing)));
    }
    let medium = prepare_pool(layout, pool, all, options)?;
    let shm = Shm::new(&medium.path, medium.shm.clone())?;
    Ok(Opened::plain(&medium, make(pool, shm)))
}

/// The objects of a pool on a medium of its own, whose tokens, if it has such, are in `path`.
fn open_medium(
    path: PathBuf,
    pool: &PoolRecord,
    (memory, take): (&DaxMemory, Take),
    (options, env): (&StoreOptions, &dyn Env),
) -> Result<Opened> {
    make_dir(&path, 0o700)?;
    let given = options.devices.iter().find(|device| device.name == pool.name);
    let known = || DaxSpec {
        path: PathBuf::from(&memory.path),
        files: pool.backing == BackingKind::Fsdax,
        format: Format::Never,
        persistent: Some(pool.persistent),
    };
    let spec = given.and_then(|device| device.dax.clone()).unwrap_or_else(known);
    let medium =
        Medium { path: path.clone(), huge: pool.unit() > 1, swappable: false, shm: ShmOptions::default() };
    match dax::open(pool, &spec, &path, take, env) {
        Ok(dax::Taken { backing, catalog, notes }) => {
            Ok(Opened { catalog: Some(catalog), notes, ..Opened::plain(&medium, backing) })
        }
        Err(e) if take != Take::Again => Err(e),
        Err(e) => {
            let notes = vec![format!("{e}; its files can't be had until codax device attach {}", pool.name)];
            let missing = Arc::new(Missing::new(&pool.name, &e.message));
            Ok(Opened { notes, ..Opened::plain(&medium, missing) })
        }
    }
}

/// Where the objects of a pool of huge pages are.
pub(crate) fn huge_place(layout: &Layout, pool: &PoolRecord, all: &[PoolRecord]) -> Place {
    let first = all.iter().find(|p| p.id == pool.medium).unwrap_or(pool);
    let sharers = all.iter().filter(|p| p.medium == pool.medium && is_shared(p, all));
    Place { path: layout.pool(&first.name), sharers: sharers.map(|p| p.name.clone()).collect() }
}

/// The objects of the other pools where a detached device of huge pages had its own.
pub(crate) fn detached_huge(
    layout: &Layout,
    pool: &PoolRecord,
    all: &[PoolRecord],
    page: PageKind,
) -> Result<Hugetlb> {
    take_out(layout, pool, all)?;
    Hugetlb::without_memory(huge_place(layout, pool, all), page)
}

fn only_root(pool: &PoolRecord) -> Error {
    Error::permission(format!(
        "pool {}: only root may bind memory to a NUMA node: run the daemon as root",
        pool.name
    ))
}

/// The directory of the objects of a pool on tmpfs.
fn prepare_pool(
    layout: &Layout,
    pool: &PoolRecord,
    all: &[PoolRecord],
    options: &StoreOptions,
) -> Result<Medium> {
    let bytes_of = |which: &dyn Fn(&&PoolRecord) -> bool| {
        all.iter().filter(which).map(|p| PageCount(p.frames).bytes()).sum::<u64>()
    };
    let shared = is_shared(pool, all);
    let holder = all.iter().find(|p| p.id == pool.medium).unwrap_or(pool);
    let path = layout.pool(&holder.name);
    let swap = codax_os::process::swap_total().unwrap_or(0) > 0;
    let nodes = nodes_of(pool, options);
    let reserve = if mounts::can_mount() { open_reserve(layout, pool, options)? } else { None };
    let huge = match pool.numa.map(|memory| memory.page) {
        Some(PageKind::Small) => HugeMode::Never,
        // Huge pages were asked for: this device has them, whatever the rest of the store has.
        Some(PageKind::Transparent) if options.huge == HugeMode::Never => HugeMode::WithinSize,
        _ => options.huge,
    };
    let mounted = if pool.id == holder.id {
        // What prefers a device's node by itself would go on with that when the device has gone.
        let preferred = if shared && !is_dram(pool.id) { &[][..] } else { &nodes };
        own_tmpfs(&path, bytes_of(&|p| p.medium == pool.medium), huge, preferred)?
    } else {
        // The first of them has mounted it, and says for whom.
        Some(mounts::tmpfs_kind(&path).map_err(|e| os_error("look at the tmpfs on", &path.display(), &e))?)
    };
    Ok(match mounted {
        Some(tmpfs) => Medium {
            path,
            swappable: swap && !tmpfs.noswap,
            huge: tmpfs.huge,
            shm: ShmOptions { nodes, shared, reserve, ..ShmOptions::default() },
        },
        None if !nodes.is_empty() => {
            return Err(only_root(pool));
        }
        None => {
            let limit = codax_os::process::memlock_limit();
            let may_lock = limit.is_none_or(|limit| limit >= bytes_of(&|_| true));
            let shm = ShmOptions { lock_memory: swap && may_lock, ..ShmOptions::default() };
            Medium { path, huge: false, swappable: swap && !may_lock, shm }
        }
    })
}

/// Whether other pools have their objects where this one has.
pub(crate) fn is_shared(pool: &PoolRecord, all: &[PoolRecord]) -> bool {
    all.iter().any(|other| other.medium == pool.medium && other.id != pool.id)
}

/// In which pages files lie in `dram`, in a store that has it or will make it.
pub(crate) fn dram_pages(layout: &Layout, options: &StoreOptions) -> DramPages {
    let huge = mounts::tmpfs_kind(&layout.pool(DRAM_NAME)).map(|kind| kind.huge);
    let page = match huge.unwrap_or(options.huge != HugeMode::Never) {
        true => PageKind::Transparent,
        false => PageKind::Small,
    };
    DramPages((!options.dram_nodes.is_empty()).then_some(page))
}

/// The directory of the pool of a device that is detached or has no memory: there is nothing in it.
fn empty_pool(layout: &Layout, pool: &PoolRecord, all: &[PoolRecord]) -> Result<Medium> {
    let path = layout.pool(&pool.name);
    make_dir(&path, 0o700)?;
    take_out(layout, pool, all)?;
    Ok(Medium { path, huge: false, swappable: false, shm: ShmOptions::default() })
}

/// The pools that the journal knows and the options name, as changes to be journalled for what is new or has another link.
pub(crate) fn reconcile(
    known: &[PoolRecord],
    options: &StoreOptions,
    dram_pages: DramPages,
    env: &dyn Env,
) -> Result<Vec<PoolRecord>> {
    let mut changed: Vec<PoolRecord> = Vec::new();
    let dram = options.dram_bytes.unwrap_or(options.dram_default);
    match known.iter().find(|p| p.id == DRAM) {
        None => changed.push(new_dram(dram)),
        Some(p) => {
            if let Some(bytes) = options.dram_bytes {
                same_size(p, bytes)?;
            }
        }
    }
    // Devices that the store knows may be left out of the options, and their nodes are theirs all the same.
    let attached = known.iter().filter(|p| p.state != PoolState::Detached);
    for (pool, memory) in attached.filter_map(|p| Some((p, p.numa?))) {
        if options.dram_nodes.contains(&memory.node) {
            let (node, name) = (memory.node, &pool.name);
            return Err(Error::invalid(format!(
                "dram_nodes: node {node} is the device {name} of this store"
            )));
        }
    }
    let mut next = u16::try_from(known.len().max(1)).unwrap_or(u16::MAX);
    for device @ DeviceSpec { name, missing, .. } in &options.devices {
        let there = known.iter().find(|p| p.name == *name);
        // What a device held before its node went offline is whole, and elsewhere: the kernel has seen to that, and the pool's tmpfs still has it.
        let layout = Layout { dir: options.dir.clone() };
        let medium =
            |p: &PoolRecord| known.iter().find(|other| other.id == p.medium).map(|p| layout.pool(&p.name));
        let is_there =
            |p: &PoolRecord| medium(p).is_some_and(|path| mounts::is_mount_point(&path).unwrap_or(false));
        let may_start = |p: &PoolRecord| p.state == PoolState::Detached || is_there(p);
        if let Some(missing) = missing.as_ref().filter(|_| !there.is_some_and(may_start)) {
            return Err(Error::invalid(format!("device {name}: {missing}")));
        }
        match there {
            Some(p) => {
                check_settings(device, p.frames)?;
                changed.extend(known_pool(p, device)?);
            }
            None => {
                let pool = new_pool(PoolId(next), device, (known, &changed), (dram_pages, env))?;
                check_settings(device, pool.frames)?;
                changed.push(pool);
                next += 1;
            }
        }
    }
    Ok(changed)
}

/// The host's own memory.
fn new_dram(bytes: u64) -> PoolRecord {
    PoolRecord {
        id: DRAM,
        name: DRAM_NAME.into(),
        backing: BackingKind::Shm,
        numa: None,
        dax: None,
        persistent: false,
        retired: Vec::new(),
        medium: DRAM,
        frames: bytes / PAGE_SIZE,
        link: Default::default(),
        state: PoolState::Online,
        drain_limit: None,
        drain_terms: Default::default(),
    }
}

/// A pool that the store knows, if the options change it.
fn known_pool(p: &PoolRecord, device: &DeviceSpec) -> Result<Option<PoolRecord>> {
    let DeviceSpec { name, bytes, numa, dax, link, .. } = device;
    same_size(p, bytes.unwrap_or(PageCount(p.frames).bytes()))?;
    let backing = device.backing();
    // Of one size they are the same but for who drives them.
    let same = p.backing == backing || is_plain(p.backing) && is_plain(backing);
    if p.numa != *numa || !same {
        return Err(Error::device_state(format!(
            "{name} is {} in this store and can't become {}: give the same, or purge the store",
            memory(p.numa, p.backing),
            memory(*numa, backing)
        )));
    }
    if dax.as_ref().and_then(|spec| spec.persistent).is_some_and(|wanted| wanted != p.persistent) {
        let is = if p.persistent { "persistent" } else { "volatile" };
        return Err(Error::device_state(format!(
            "{name} is {is} in this store: leave `persistent` out, or purge the store"
        )));
    }
    let link = if *link == Default::default() { p.link } else { *link };
    let path = dax.as_ref().map(|spec| spec.path.display().to_string());
    // The kernel gives devices other names from one start to the next.
    let dax = p.dax.clone().map(|old| DaxMemory { path: path.unwrap_or(old.path.clone()), ..old });
    let now = PoolRecord { link, dax, backing, ..p.clone() };
    Ok((now != *p).then_some(now))
}

/// What a device is that the store has not had before, beside those that it knows and those that are as new.
fn new_pool(
    id: PoolId,
    device: &DeviceSpec,
    (known, new): (&[PoolRecord], &[PoolRecord]),
    (dram_pages, env): (DramPages, &dyn Env),
) -> Result<PoolRecord> {
    let DeviceSpec { name, bytes, default_bytes, numa, dax, link, .. } = device;
    // A hugetlbfs that was mounted for one pool has room for that one.
    let alone = |p: &&PoolRecord| p.unit() > 1 && !is_shared(p, known);
    let open = known.iter().filter(|p| !alone(p));
    let before: Vec<PoolRecord> = open.chain(new).cloned().collect();
    let medium = numa.map_or(id, |memory| medium_for(&before, id, memory, dram_pages));
    let plan = dax.as_ref().map(|spec| dax::plan(spec, name, *bytes, env)).transpose()?;
    let (dax, persistent, frames) = match plan {
        Some(dax::Plan { memory, persistent, frames }) => {
            (Some(owned(memory, known.iter().chain(new))), persistent, frames)
        }
        None => (None, false, bytes.unwrap_or(*default_bytes) / PAGE_SIZE),
    };
    Ok(PoolRecord {
        id,
        medium,
        name: name.clone(),
        backing: device.backing(),
        numa: *numa,
        dax,
        persistent,
        retired: Vec::new(),
        frames,
        link: *link,
        state: PoolState::Online,
        drain_limit: None,
        drain_terms: Default::default(),
    })
}

/// A medium with the store's number on it, which all of its media have; but one that the store has known as another pool is not to be taken for that.
fn owned<'a>(memory: DaxMemory, pools: impl Iterator<Item = &'a PoolRecord>) -> DaxMemory {
    let mut owner = memory.owner;
    for its in pools.filter_map(|pool| pool.dax.as_ref()) {
        if its.uuid == memory.uuid {
            return memory;
        }
        owner = its.owner;
    }
    DaxMemory { owner, ..memory }
}

/// A device's memory, for people.
fn memory(numa: Option<NodeMemory>, backing: BackingKind) -> String {
    match (numa, backing) {
        (Some(m), _) => format!("node {} in pages of {}", m.node, m.page.name()),
        (None, BackingKind::Devdax) => "a DAX device".to_owned(),
        (None, BackingKind::Fsdax) => "a directory of files".to_owned(),
        (None, _) => "emulated".to_owned(),
    }
}

/// Whether it is the host's memory in place of a device's, or none.
fn is_plain(backing: BackingKind) -> bool {
    matches!(backing, BackingKind::Emulated | BackingKind::Software | BackingKind::None)
}

fn same_size(pool: &PoolRecord, bytes: u64) -> Result<()> {
    let have = PageCount(pool.frames).bytes();
    if have == bytes {
        return Ok(());
    }
    let how = if bytes == 0 { "give its size" } else { "give the same size, or none" };
    Err(Error::device_state(format!(
        "{} has {have} bytes in this store and can't become {bytes}: {how}, or purge the store",
        pool.name
    )))
}

impl Store {
    /// Folds the journal from time to time, tries again to take back what was held, and goes on patrol. Started once.
    pub(crate) fn start_maintenance(&self) {
        let weak = Arc::downgrade(&self.inner);
        let env = self.inner.env.clone();
        self.inner.env.spawn(
            "maintenance",
            Box::new(move || {
                let mut patrol = Patrol::default();
                loop {
                    env.sleep(MAINTAIN_EVERY);
                    let Some(inner) = weak.upgrade() else { return };
                    if inner.lock().closing {
                        return;
                    }
                    if let Err(e) = inner.journal.maintain().and_then(|()| inner.names.maintain()) {
                        tracing::error!("journal: {e}");
                    }
                    inner.retry_held(&mut inner.lock());
                    inner.retry_stale();
                    inner.find_growth(&mut inner.lock());
                    inner.tend();
                    inner.look_for_media();
                    inner.retire_unfit();
                    inner.patrol(&mut patrol);
                }
            }),
        );
    }

    /// A read-only descriptor of the commit words.
    pub fn words_fd(&self) -> Result<OwnedFd> {
        let path = Layout { dir: self.inner.options().dir.clone() }.words();
        let file = fs::File::open(&path).map_err(|e| os_error("open", &path.display(), &e))?;
        Ok(file.into())
    }

    /// Lets go of the store, and returns when its own threads have, too: then it can be opened again in this process.
    pub fn end(self) {
        let last = self.inner.last.clone();
        drop(self);
        // The last of its threads may be the one that closes the journal.
        while Arc::strong_count(&last) > 1 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends the store's work: moves and drains that run are stopped at the next chunk (a drain goes on at the next start), the journal is folded. With
    /// `purge` everything is deleted and unmounted.
    pub fn close(&self, purge: bool) -> Result<()> {
        let inner = &self.inner;
        let mut st = inner.lock();
        st.closing = true;
        let jobs = st.pools.iter().filter_map(|pool| pool.job.as_ref());
        jobs.chain(&st.emergency.job).for_each(|job| job.cancel());
        let deadline = inner.env.now() + 2 * inner.options().ack_timeout;
        while inner.env.now() < deadline && st.live.values().any(|l| l.busy.is_some()) {
            for live in st.live.values() {
                if let Some(busy) = &live.busy {
                    busy.preempt.store(true, std::sync::atomic::Ordering::Relaxed);
                }
            }
            st = inner.wait_changed(st, Duration::from_millis(100));
        }
        let names: Vec<String> = st.pools.iter().map(|p| p.record.name.clone()).collect();
        drop(st);
        inner.event("stop", "store", if purge { "purged" } else { "kept" }, 0);
        inner.journal.fold_above(0)?;
        if purge {
            let layout = Layout { dir: inner.options().dir.clone() };
            purge_dir(&layout, &names)?;
        }
        Ok(())
    }
}

/// Deletes a store that no daemon serves. `Busy` if one does, `NotFound` if there is no store.
pub fn purge_idle(dir: &Path) -> Result<()> {
    let layout = Layout { dir: dir.to_owned() };
    let lock = dir.join("lock");
    if !lock.exists() || !layout.meta().exists() {
        return Err(Error::not_found(format!("{} is not a store", dir.display())));
    }
    let taken = codax_os::lockfile::take(&lock).map_err(|e| os_error("lock", &lock.display(), &e))?;
    let Some(_lock) = taken else {
        return Err(Error::busy(format!(
            "{} is served by a daemon: codax down --purge asks it",
            dir.display()
        )));
    };
    purge_dir(&layout, &pool_names(&layout)?)
}

/// The pools that a store has directories of.
fn pool_names(layout: &Layout) -> Result<Vec<String>> {
    let pools = layout.dir.join("pools");
    let names = match fs::read_dir(&pools) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| os_error("list", &pools.display(), &e))?,
    };
    Ok(names.filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned())).collect())
}

/// Deletes what a store has in its directory, and nothing else. The caller holds the directory's lock.
pub fn purge_contents(layout: &Layout) -> Result<()> {
    purge_pools(layout, &pool_names(layout)?)
}

/// Deletes what a store has in its directory, and nothing else; the directory itself goes if that leaves it empty.
pub fn purge_dir(layout: &Layout, pools: &[String]) -> Result<()> {
    purge_pools(layout, pools)?;
    match fs::remove_dir(&layout.dir) {
        Err(e)
            if e.kind() == std::io::ErrorKind::DirectoryNotEmpty
                || e.kind() == std::io::ErrorKind::ResourceBusy =>
        {
            tracing::warn!("{} holds something that is not the store's, and stays", layout.dir.display());
            Ok(())
        }
        Err(e) => Err(os_error("remove", &layout.dir.display(), &e)),
        Ok(()) => Ok(()),
    }
}

fn purge_pools(layout: &Layout, pools: &[String]) -> Result<()> {
    let dirs: Vec<PathBuf> = pools.iter().map(|p| layout.pool(p)).collect();
    drop_reserves(layout)?;
    dirs.iter().try_for_each(|dir| purge_mount(dir))?;
    // Several may have had their pages in one of them.
    pools.iter().try_for_each(|pool| give_back(&raised_path(&layout.meta(), pool)))?;
    purge_mount(&layout.meta())?;
    remove_tree(&layout.dir.join("pools"))?;
    remove_tree(&layout.reserves())?;
    remove_tree(&layout.frames())?;
    for name in ["sock", "lock"] {
        match fs::remove_file(layout.dir.join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(os_error("remove", &layout.dir.join(name).display(), &e));
            }
            _ => {}
        }
    }
    Ok(())
}

fn purge_mount(dir: &Path) -> Result<()> {
    unmount(dir)?;
    remove_tree(dir)
}

fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::new(ErrorKind::Internal, format!("remove {}: {e}", dir.display())))
        }
        _ => Ok(()),
    }
}
