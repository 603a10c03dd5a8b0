//! Opening a store: from the journal to the truth, and from the truth to frames and objects that agree with it.

mod sweep;

pub(crate) use sweep::{resident, stale_ranges};

use crate::backing::{Backing, Shm};
use crate::dax::{Imported, Source, Take, import};
use crate::driver::{Driven, Fit, remember_needs};
use crate::env::Env;
use crate::events::Events;
use crate::journal::{CommitWords, Journal};
use crate::names::NamesFile;
use crate::options::StoreOptions;
use crate::store::exclusive::{check_mode, keep_modes, mode_of};
use crate::store::lifecycle::{Layout, dram_pages, open_backing, prepare_dir, prepare_meta, reconcile};
use crate::store::lost::{WithMemory, nodes_of};
use crate::store::new_pools::NewPools;
use crate::store::state::{Note, Pool, State, Trouble, marked};
use crate::store::{Inner, Store};
use crate::table::FrameTable;
use codax_core::alloc::FrameAllocator;
use codax_core::change::{Change, MoveRecord, PoolRecord, PoolState};
use codax_core::extent::{Extent, FrameRun};
use codax_core::frame::{FrameFlags, FrameState};
use codax_core::namespace::{Inode, Namespace};
use codax_core::quota::Quotas;
use codax_core::{Error, ErrorKind, FileId, MoveId, PageCount, PoolId, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, RwLock};

/// A file that a medium calls by another number: which pool's, theirs, ours.
type Renumbered = (PoolId, FileId, FileId);

/// How a pool's objects are reached; tests put one in that fails on purpose.
pub type MakeBacking = dyn Fn(&PoolRecord, Shm) -> Arc<dyn Backing>;

/// What the journal said.
#[derive(Default)]
struct Replayed {
    ns: Namespace,
    pools: BTreeMap<PoolId, PoolRecord>,
    moves: BTreeMap<MoveId, MoveRecord>,
    ids_below: FileId,
    quotas: Quotas,
}

impl Replayed {
    fn take(&mut self, change: Change) -> Result<()> {
        match change {
            Change::Pool(p) => {
                self.pools.insert(p.id, p);
            }
            Change::MoveBegin(m) => {
                self.moves.insert(m.id, m);
            }
            Change::MoveEnd(id) => {
                self.moves.remove(&id);
            }
            Change::IdsBelow(id) => {
                self.ids_below = id;
                self.ns.never_below(id);
            }
            Change::Quota(quota) => self.quotas.set(&quota),
            other => self.ns.apply(&other)?,
        }
        Ok(())
    }
}

/// The inode after what its unfinished segment committed.
pub(crate) fn with_committed(inode: &Inode, record: &MoveRecord, committed: u32) -> Inode {
    let mut now = inode.clone();
    for chunk in record.chunks.iter().take(committed as usize) {
        let moved: Vec<Extent> = chunk.extents(record.to).collect();
        now = crate::mover::relocated(&now, &moved, record.home);
    }
    now
}

impl Store {
    /// Opens the store in `options.dir`, or makes one there. The caller holds the directory's lock.
    pub fn open(options: StoreOptions, env: Arc<dyn Env>) -> Result<Self> {
        Self::open_with(options, env, &|_, shm| Arc::new(shm))
    }

    /// As [`Store::open`], with the pools' backing made by `make`.
    ///
    /// What a start does to a store, in this order: first everything that can be refused; then what the journal needs to be told in any
    /// case; and new pools last, when they are made. So a start that fails leaves the store as it was.
    pub fn open_with(options: StoreOptions, env: Arc<dyn Env>, make: &MakeBacking) -> Result<Self> {
        let started = env.now();
        prepare_dir(&options.dir)?;
        let layout = Layout { dir: options.dir.clone() };
        prepare_meta(&layout)?;
        let (journal, mut replayed, mut notes) = replay(&layout, &env)?;

        let known: Vec<PoolRecord> = replayed.pools.values().cloned().collect();
        let mut changed: Vec<Change> = reconcile(&known, &options, dram_pages(&layout, &options), &*env)?
            .into_iter()
            .map(Change::Pool)
            .collect();
        changed.iter().try_for_each(|change| replayed.take(change.clone()))?;
        let mut new_pools = NewPools::new(&layout, &known, replayed.pools.values().cloned().collect());
        let (mut pools, said) = open_pools(&layout, &replayed, (&options, &*env), make, &mut new_pools)?;
        notes.extend(said);
        notes.extend(without_memory(&replayed, &options));

        if replayed.ns.count() == 0 {
            let format = Namespace::format(codax_os::process::uid(), codax_os::process::gid(), env.wall_ns());
            journal.append(&format)?;
            format.into_iter().try_for_each(|change| replayed.take(change))?;
        }
        let renumbered = take_in(&mut replayed, &pools, &known, (&mut changed, &mut notes))?;
        let on_their_way: Vec<MoveRecord> = replayed.moves.values().cloned().collect();
        settle_moves(&journal, &mut replayed, &mut notes)?;
        claim_frames(&replayed.ns, &mut pools)?;
        for pool in pools.iter().filter(|pool| pool.catalog.is_some()) {
            adopt(&replayed.ns, pool.record.id, &*pool.backing)?;
        }
        for pool in &mut pools {
            pool.take_lent(&layout)?;
            notes.extend(remember_needs(&layout, &replayed.ns, pool)?);
            pool.know_bad_frames(&mut changed);
            pool.retire();
        }
        let names = NamesFile::rewrite(&layout.names(), names_of(&replayed.ns))?;
        let events = Events::open(&layout.meta())?;
        let state = state_of(replayed, pools, &on_their_way, &*env);
        let epoch = env.random();
        let inner = Arc::new_cyclic(|me| Inner {
            env,
            options: RwLock::new(Arc::new(options)),
            state: Mutex::new(state),
            changed: Condvar::new(),
            journal,
            names,
            events,
            uid: codax_os::process::uid(),
            epoch,
            started,
            me: me.clone(),
            last: Arc::default(),
        });
        inner.take_memory(&on_their_way, &renumbered, &mut notes)?;
        inner.journal.renew()?;
        // All of them or none.
        inner.journal.append(&changed)?;
        new_pools.keep();
        keep_modes(&layout, inner.lock().pools.iter().map(|pool| &pool.record), &inner.options())?;
        inner.align_catalogs(&mut inner.lock());
        inner.forget_numbers(&renumbered);
        inner.fit_media();
        Self::begin(inner, notes)
    }

    /// Says what a start has found, and has the store's own threads begin.
    fn begin(inner: Arc<Inner>, notes: Vec<Note>) -> Result<Self> {
        let inodes = inner.lock().ns.count();
        inner.event("start", "store", &format!("{inodes} inodes; {} notes of recovery", notes.len()), 0);
        for note in &notes {
            inner.event("recover", "store", &note.what, 0);
        }
        inner.lock().recovery = notes;
        let store = Self { inner };
        for pool in store.inner.pool_ids() {
            store.inner.tell_reserve(&store.inner.lock(), pool);
            store.inner.keep_reserve(pool);
        }
        store.inner.watch_emergencies()?;
        store.start_maintenance();
        store.resume_drains();
        Ok(store)
    }
}

/// What the journal says. One that is damaged starts no store.
fn replay(layout: &Layout, env: &Arc<dyn Env>) -> Result<(Journal, Replayed, Vec<Note>)> {
    let mut replayed = Replayed::default();
    let damaged = |e: Error| match e.kind {
        ErrorKind::Corrupt => Error::corrupt(format!(
            "the store {} can't be started: {}; codax down --purge deletes it",
            layout.dir.display(),
            e.message
        )),
        _ => e,
    };
    let (journal, said) =
        Journal::open(&layout.meta(), env.clone(), &mut |change| replayed.take(change)).map_err(damaged)?;
    Ok((journal, replayed, said.into_iter().map(Note::from).collect()))
}

impl State {
    /// The latest version of a file that a medium knows.
    fn newest_version(&self) -> u64 {
        let catalogs = self.pools.iter().filter_map(|pool| pool.catalog.as_ref());
        let versions = catalogs.flat_map(|catalog| catalog.contents().nodes().map(|node| node.version));
        versions.max().unwrap_or(0)
    }
}

/// Brings segments that a crash interrupted to their end: what their commit word counts is the truth.
fn settle_moves(journal: &Journal, replayed: &mut Replayed, notes: &mut Vec<Note>) -> Result<()> {
    let words: &CommitWords = journal.words();
    let moves: Vec<MoveRecord> = replayed.moves.values().cloned().collect();
    for record in moves {
        let committed = words.read(record.slot, record.id)?;
        if committed as usize > record.chunks.len() {
            return Err(Error::corrupt(format!(
                "the commit word of move {} counts {committed} chunks of {}",
                record.id,
                record.chunks.len()
            )));
        }
        let mut changes = Vec::new();
        if let Some(inode) = replayed.ns.get(record.file) {
            changes.push(Change::Put(Box::new(with_committed(inode, &record, committed))));
            let what = format!(
                "a move of {} was interrupted: {committed} of {} chunks are in their new place, the rest stayed",
                replayed
                    .ns
                    .path_of(record.file)
                    .map_or_else(|| format!("#{}", record.file), |p| p.to_string()),
                record.chunks.len()
            );
            notes.push(what.into());
        }
        changes.push(Change::MoveEnd(record.id));
        journal.append(&changes)?;
        changes.into_iter().try_for_each(|change| replayed.take(change))?;
    }
    Ok(())
}

/// Says of devices whose node has gone offline that they are without.
fn without_memory(replayed: &Replayed, options: &StoreOptions) -> Vec<Note> {
    let machine = WithMemory::now();
    let attached = replayed.pools.values().filter(|pool| pool.state != PoolState::Detached);
    attached
        .filter_map(|pool| {
            let why = machine.lost(&nodes_of(pool, options))?;
            let safe = "what it held is whole, on other nodes, and a drain empties it";
            let what = format!("{}: {why}; {safe}", pool.name);
            Some(Note { what, of: Some(Trouble::Memory(pool.id)) })
        })
        .collect()
}

fn open_pools(
    layout: &Layout,
    replayed: &Replayed,
    (options, env): (&StoreOptions, &dyn Env),
    make: &MakeBacking,
    new: &mut NewPools<'_>,
) -> Result<(Vec<Pool>, Vec<Note>)> {
    let all: Vec<PoolRecord> = replayed.pools.values().cloned().collect();
    for record in all.iter().filter(|record| record.state != PoolState::Detached) {
        check_mode(record, mode_of(layout, record, options)?)?;
    }
    let mut pools = Vec::with_capacity(replayed.pools.len());
    let mut notes = Vec::new();
    for (at, record) in replayed.pools.values().enumerate() {
        if usize::from(record.id.0) != at {
            return Err(Error::corrupt(format!("the journal names pool {} and not pool {at}", record.id)));
        }
        new.begin(record)?;
        let take = if new.is_new(record) { Take::First } else { Take::Again };
        let opened = open_backing(layout, record, (&all, take), (options, env), make)?;
        new.has_memory(record, &*opened.backing)?;
        let of = opened.catalog.is_none().then_some(Trouble::Memory(record.id));
        notes.extend(opened.notes.into_iter().map(|what| Note { what, of: of.clone() }));
        pools.push(Pool {
            alloc: FrameAllocator::new(record.frames),
            table: FrameTable::prepare(&layout.frame_table(&record.name), &record.name, record.frames)?,
            backing: opened.backing,
            catalog: opened.catalog,
            huge: opened.huge,
            swappable: opened.swappable,
            exclusive: mode_of(layout, record, options)?,
            ahead: 0,
            limit: None,
            held: BTreeMap::new(),
            job: None,
            absent: Vec::new(),
            driver: Arc::new(Driven::nobody(record)),
            fit: Fit::default(),
            private: Vec::new(),
            lent: Vec::new(),
            recalls: 0,
            spilled: PageCount(0),
            record: record.clone(),
        });
    }
    Ok((pools, notes))
}

/// The files that media bring which the store takes for the first time.
fn bring_in(replayed: &Replayed, pools: &[Pool], known: &[PoolRecord]) -> Result<Imported> {
    let new = pools.iter().filter(|pool| known.iter().all(|known| known.id != pool.record.id));
    let source = |pool: &Pool| {
        let catalog = pool.catalog.as_ref()?;
        let superblock = catalog.superblock();
        let (name, store) = (superblock.name.clone(), superblock.store);
        Some(Source { pool: pool.record.clone(), name, store, contents: catalog.contents().clone() })
    };
    let sources: Vec<Source> = new.filter_map(source).collect();
    if sources.is_empty() {
        return Ok(Imported::default());
    }
    let records: Vec<PoolRecord> = replayed.pools.values().cloned().collect();
    import(&replayed.ns, &records, &sources)
}

/// Takes in what media bring that the store has for the first time, and has their objects called by the numbers that it gives them: which pool's, theirs, ours.
fn take_in(
    replayed: &mut Replayed,
    pools: &[Pool],
    known: &[PoolRecord],
    (changed, notes): (&mut Vec<Change>, &mut Vec<Note>),
) -> Result<Vec<Renumbered>> {
    let brought = bring_in(replayed, pools, known)?;
    notes.extend(brought.notes.into_iter().map(Note::from));
    for change in brought.changes {
        replayed.take(change.clone())?;
        changed.push(change);
    }
    for (pool, theirs, ours) in &brought.renumbered {
        pools[usize::from(pool.0)].backing.renumber(*theirs, *ours)?;
    }
    Ok(brought.renumbered)
}

/// What a store knows when nothing has happened yet.
fn state_of(replayed: Replayed, pools: Vec<Pool>, on_their_way: &[MoveRecord], env: &dyn Env) -> State {
    let mut state = State::new(replayed.ns, pools);
    state.ids_below = replayed.ids_below;
    state.quotas = replayed.quotas;
    state.count_quotas();
    state.version = state.newest_version();
    state.quarantine = on_their_way.iter().map(|record| record.slot).collect();
    // A state may be kept of queues that an earlier daemon had.
    state.next_queue = env.random() >> 1;
    state.next_move = u32::try_from(1 + env.random() % 0xff_fffe).unwrap_or(1);
    state
}

/// Tells a medium of its own which frames files have.
pub(super) fn adopt(ns: &Namespace, pool: PoolId, backing: &dyn Backing) -> Result<()> {
    for inode in ns.inodes() {
        let here: Vec<Extent> = inode.extents.iter().filter(|e| e.pool == pool).copied().collect();
        if !here.is_empty() {
            backing.adopt(inode.id, inode.len, &here)?;
        }
    }
    Ok(())
}

/// Everything that has a name, as the names file has it: id, directory, name.
pub(crate) fn names_of(ns: &Namespace) -> impl Iterator<Item = (FileId, FileId, &[u8])> {
    ns.inodes().filter_map(|i| {
        let (parent, name) = ns.parent_of(i.id)?;
        Some((i.id, parent, name.as_bytes()))
    })
}

/// Gives each file the frames the journal says it has.
fn claim_frames(ns: &Namespace, pools: &mut [Pool]) -> Result<()> {
    for inode in ns.inodes() {
        for e in &inode.extents {
            let run = FrameRun { frame: e.frame, count: e.count };
            let pool = pools.get_mut(usize::from(e.pool.0));
            let claimed = pool.is_some_and(|pool| {
                let ok = pool.alloc.claim(run);
                if ok {
                    pool.table.assign(run, inode.id, e.page, FrameState::Used);
                }
                ok
            });
            if !claimed {
                return Err(Error::corrupt(format!(
                    "the journal gives file #{} frames {}..{} of pool {}, which are not free",
                    inode.id,
                    e.frame,
                    e.frame.0 + e.count.0,
                    e.pool
                )));
            }
        }
        for (pool, run) in marked(inode, &inode.extents) {
            pools[usize::from(pool.0)].table.set_flags(run, FrameFlags::EMERGENCY, true);
        }
    }
    Ok(())
}

impl Inner {
    /// Takes the pools' memory: what nobody claims is given back, and what is free is held.
    fn take_memory(
        &self,
        on_their_way: &[MoveRecord],
        renumbered: &[Renumbered],
        notes: &mut Vec<Note>,
    ) -> Result<()> {
        self.sweep(renumbered, notes)?;
        self.pool_ids().into_iter().try_for_each(|pool| self.hold_mapped(&mut self.lock(), pool))?;
        self.bring_back(on_their_way);
        let mut st = self.lock();
        // What lay in another pool's memory is out of it now.
        st.pools.iter_mut().try_for_each(Pool::take_reserve)?;
        st.pools.iter_mut().try_for_each(|pool| pool.table.publish())?;
        // Until here a medium says whose it was, and what its files were called there.
        st.pools.iter_mut().try_for_each(Pool::take_medium)
    }

    fn pool_ids(&self) -> Vec<PoolId> {
        self.lock().pools.iter().map(|pool| pool.record.id).collect()
    }
}
