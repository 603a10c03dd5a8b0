//! Drains and returns: emptying a device's pool, and bringing home what was in it.
//!
//! `online → draining → offline → online` (and `offline → detached → offline`, in `store::attach`); each step is in the journal before it takes effect, so a restart goes on where it stopped.

mod planning;

use crate::mover::{Order, Pace, Stuck};
use crate::store::blocks::frames;
use crate::store::lost::{WithMemory, nodes_of};
use crate::store::state::{Job, State, is_dram};
use crate::store::{Inner, Session, Store, pages_in};
use codax_core::change::{Change, DrainTerms, PoolRecord, PoolState};
use codax_core::extent::{self, PoolRun};
use codax_core::info::{HeldFile, JobInfo, JobReport};
use codax_core::name::StorePath;
use codax_core::namespace::{Inode, Kind, Want};
use codax_core::plan::{Holder, Plan, PlannedMove};
use codax_core::{Error, ErrorKind, FileId, HUGE_PAGES, PageCount, PageRange, PoolId, Result};
use planning::{describe_held, held_by, nobody_shows, refusal};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// How often held files are tried again while a drain waits: a lease that is granted again makes no sound.
const RETRY_EVERY: Duration = Duration::from_millis(50);

/// How long a drain waits for processes that it killed to be gone.
const EVICT_WAIT: Duration = Duration::from_secs(5);

/// How a drain is to go.
#[derive(Clone, Copy, Debug, Default)]
pub struct DrainOptions {
    /// Only plan.
    pub dry_run: bool,
    /// How long to wait for held files; zero refuses at once.
    pub wait: Duration,
    /// Bandwidth limit in bytes per second.
    pub limit: Option<u64>,
    /// Whether to kill who doesn't let go.
    pub evict: bool,
    /// Whether what outlives the power may go where it doesn't.
    pub volatile: bool,
    /// Whether a device that doesn't come to a safe point in time is reset.
    pub reset: bool,
    /// Whether its coprocessor goes on: only its memory is emptied.
    pub running: bool,
}

impl DrainOptions {
    /// Of a drain that a restart goes on with, and waits for what is held for so long.
    fn resumed(record: &PoolRecord, wait: Duration) -> Self {
        let (limit, DrainTerms { volatile, reset, running }) = (record.drain_limit, record.drain_terms);
        Self { wait, limit, volatile, reset, running, ..Self::default() }
    }

    /// What of them the journal keeps, beside the limit.
    fn terms(&self) -> DrainTerms {
        DrainTerms { volatile: self.volatile, reset: self.reset, running: self.running }
    }
}

/// Files that a thread of a drain takes at once, and the bytes after which it takes no more.
const FILES_AT_ONCE: usize = 32;
const BYTES_AT_ONCE: u64 = 2 << 20;

/// Told how far a job is; `false` cancels it.
pub type Progress<'a> = &'a mut dyn FnMut(&JobInfo) -> bool;

impl Session {
    /// Moves pages of a file to a pool: the whole file, or the 2 MiB blocks that a range of bytes (offset, length) touches.
    pub fn move_file(
        &self,
        path: &StorePath,
        to: &str,
        range: Option<(u64, u64)>,
        progress: Progress<'_>,
    ) -> Result<JobReport> {
        let inner = &self.store.inner;
        let (file, pages, pace, pool) = {
            let mut st = inner.lock();
            let file = st.ns.resolve(&self.cred, path)?;
            st.ns.check(&self.cred, file, Want::WRITE, path)?;
            let inode = st.ns.get(file).ok_or_else(|| Error::not_found(format!("{path} is gone")))?.clone();
            let inode = &inode;
            if inode.kind == Kind::Dir {
                return Err(Error::new(ErrorKind::IsDir, format!("{path} is a directory: move its files")));
            }
            let pool = st.pool_for_files(to)?;
            let pages = blocks(inode, range, path, st.block())?;
            let refused =
                |e: &Error| inner.event("refuse", &path.to_string(), &format!("move: {e}"), pages.bytes());
            takes(&mut st, pool, inode, pages).inspect_err(refused)?;
            (file, pages, pace(&st, inode.extents.iter().map(|e| e.pool).chain([pool]), None), pool)
        };
        let job = Arc::new(Job::new("move"));
        job.update(|j| (j.total, j.files_total) = (pages.bytes(), 1));
        let order_to = vec![PoolRun { pages, pool }];
        let path_text = path.to_string();
        inner.run_job(&job, progress, move |inner, job| {
            let order =
                Order { file, to: order_to, home: None, verify: false, bound: true, job, pace: &pace };
            let (bytes, stuck) = match inner.move_pages(&order) {
                Ok(bytes) => (bytes, None),
                Err((bytes, stuck)) => (bytes, Some(stuck)),
            };
            let Some(stuck) = stuck else {
                let pool_name = {
                    let mut st = inner.lock();
                    inner.keep_what_is_moved(&mut st, file, pages, pool)?;
                    st.pool_name(pool)
                };
                inner.event("move", &path_text, &format!("to {pool_name}"), bytes);
                return Ok(JobReport { bytes, files: 1, ..JobReport::default() });
            };
            let e = explain(&path_text, stuck);
            inner.event("refuse", &path_text, &format!("move: {e}"), bytes);
            Err(e)
        })
    }

    /// Takes everything out of a device's pool and the device out of service.
    pub fn drain(&self, name: &str, options: DrainOptions, progress: Progress<'_>) -> Result<JobReport> {
        self.require_admin(&format!("drain {name}"))?;
        let inner = &self.store.inner;
        let pool = {
            let st = inner.lock();
            let pool = st.pool_named(name)?;
            let held =
                || st.files_on(pool).flat_map(|inode| pages_in(inode, pool)).map(|pages| pages.bytes());
            let refused =
                |e: &Error| inner.event("refuse", name, &format!("drain: {e}"), held().sum::<u64>());
            drainable(&st, pool, name).inspect_err(refused)?;
            pool
        };
        let _recall = if options.dry_run {
            None
        } else {
            let lent = frames(&inner.lock().pool(pool).lent).bytes();
            let refused = |e: &Error| inner.event("refuse", name, &e.message, lent);
            Some(inner.recall(pool, name, options.wait, progress).inspect_err(refused)?)
        };
        let plan = inner.plan_patiently(pool, options.volatile)?;
        if options.dry_run {
            return Ok(JobReport { plan: Some(plan), ..JobReport::default() });
        }
        let waits = options.evict || !options.wait.is_zero();
        if let Some(e) = refusal(name, &plan, waits) {
            inner.event("refuse", name, &e.message, plan.bytes());
            return Err(e);
        }
        let job = Arc::new(Job::new("drain"));
        {
            let mut st = inner.lock();
            drainable(&st, pool, name)?;
            inner.set_pool_state(&mut st, pool, PoolState::Draining, &options)?;
            st.pool_mut(pool).job = Some(job.clone());
        }
        inner.event("drain", name, &format!("begins: {} files", plan.moves.len()), plan.frames.bytes());
        inner.run_job(&job, progress, move |inner, job| inner.drain_job(pool, Some(plan), options, job))
    }

    /// Puts a device back in service, and brings home what a drain took away; cancels a drain that runs. What its coprocessor was doing goes on; where that fails the
    /// device stays as it is.
    pub fn online(&self, name: &str, progress: Progress<'_>) -> Result<JobReport> {
        self.put_online(name, false, progress)
    }

    /// [`Session::online`] of a device that is reset: the state that is kept of it is dropped.
    pub fn online_anew(&self, name: &str, progress: Progress<'_>) -> Result<JobReport> {
        self.put_online(name, true, progress)
    }

    fn put_online(&self, name: &str, anew: bool, progress: Progress<'_>) -> Result<JobReport> {
        self.require_admin(&format!("online {name}"))?;
        let inner = &self.store.inner;
        let job = Arc::new(Job::new("online"));
        let pool = {
            let mut st = inner.lock();
            let pool = st.pool_named(name)?;
            if is_dram(pool) {
                return Err(Error::invalid("dram is the host's own memory: it is always online"));
            }
            while let Some(running) = st.pool(pool).job.clone() {
                running.cancel();
                inner.changed.notify_all();
                st = inner.wait_changed(st, PROGRESS_EVERY);
            }
            if st.pool(pool).record.state == PoolState::Detached {
                return Err(Error::device_state(format!(
                    "{name} is detached: codax device attach {name} first"
                )));
            }
            // One that drains stays online with what it has.
            if st.pool(pool).record.state == PoolState::Offline {
                let nodes = nodes_of(&st.pool(pool).record, &inner.options());
                if let Some(why) = WithMemory::now().lost(&nodes) {
                    return Err(Error::device_state(format!("{name}: {why}")));
                }
            }
            st.pool_mut(pool).job = Some(job.clone());
            pool
        };
        inner.run_job(&job, progress, move |inner, job| {
            let report = inner.put_in_service(pool, anew).and_then(|()| inner.bring_home(pool, job));
            inner.lock().pool_mut(pool).job = None;
            inner.changed.notify_all();
            report
        })
    }
}

impl Store {
    /// Goes on with drains that a restart interrupted.
    pub(crate) fn resume_drains(&self) {
        let inner = &self.inner;
        let mut st = inner.lock();
        let draining: Vec<PoolId> =
            st.pools.iter().filter(|p| p.record.state == PoolState::Draining).map(|p| p.record.id).collect();
        for pool in draining {
            let job = Arc::new(Job::new("drain"));
            st.pool_mut(pool).job = Some(job.clone());
            let name = st.pool_name(pool);
            inner.event("drain", &name, "goes on after a restart", 0);
            let options = DrainOptions::resumed(&st.pool(pool).record, inner.options().resume_wait);
            let store = self.clone();
            inner.env.spawn(
                "drain",
                Box::new(move || {
                    if let Err(e) = store.inner.drain_job(pool, None, options, &job) {
                        tracing::warn!("drain of {name} after a restart: {e}");
                    }
                }),
            );
        }
    }
}

/// What the threads of a drain share.
#[derive(Debug, Default)]
struct Round {
    moves: Vec<PlannedMove>,
    /// Where in `moves` the next files to be taken begin.
    next: Mutex<usize>,
    bytes: AtomicU64,
    files: AtomicU64,
    held: Mutex<Vec<HeldFile>>,
    failed: Mutex<Option<Error>>,
}

impl Round {
    /// The next files that a thread is to move.
    fn take(&self) -> &[PlannedMove] {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = *next;
        let mut bytes = 0;
        while *next < self.moves.len() && *next - begin < FILES_AT_ONCE && bytes < BYTES_AT_ONCE {
            bytes += self.moves[*next].to.iter().map(|run| run.pages.bytes()).sum::<u64>();
            *next += 1;
        }
        &self.moves[begin..*next]
    }

    /// Counts what became of a file.
    fn moved(&self, planned: &PlannedMove, result: std::result::Result<u64, (u64, Stuck)>, job: &Job) {
        let (bytes, stuck) = result.map_or_else(|(bytes, stuck)| (bytes, Some(stuck)), |bytes| (bytes, None));
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        match stuck {
            None => {
                self.files.fetch_add(1, Ordering::Relaxed);
                job.update(|j| j.files_done += 1);
            }
            Some(Stuck::Held(by)) => {
                let held = HeldFile { path: planned.path.clone(), by };
                self.held.lock().unwrap_or_else(PoisonError::into_inner).push(held);
            }
            Some(Stuck::Cancelled) => {}
            Some(Stuck::Failed(e)) => {
                // One file that can't be read doesn't keep the others from moving; it keeps the drain from succeeding.
                let e = Error::new(e.kind, format!("{}: {}", planned.path, e.message));
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
            }
        }
    }
}

impl Inner {
    /// Runs `work` beside the caller, who tells progress meanwhile.
    fn run_job(
        &self,
        job: &Arc<Job>,
        progress: Progress<'_>,
        work: impl FnOnce(&Arc<Self>, &Job) -> Result<JobReport> + Send + 'static,
    ) -> Result<JobReport> {
        let me = self.myself().ok_or_else(|| Error::internal("the store is gone"))?;
        let begun = self.env.now();
        let (done, result) = mpsc::channel();
        let its_job = job.clone();
        self.env.spawn(
            "job",
            Box::new(move || {
                let report = work(&me, &its_job);
                // Who hears of it may close the store.
                drop(me);
                let _ = done.send(report);
            }),
        );
        loop {
            match result.recv_timeout(PROGRESS_EVERY) {
                Ok(report) => {
                    let nanos = u64::try_from((self.env.now() - begun).as_nanos()).unwrap_or(u64::MAX);
                    return report.map(|r| JobReport { nanos, ..r });
                }
                Err(RecvTimeoutError::Timeout) => {
                    if !progress(&job.info()) {
                        job.cancel();
                        self.changed.notify_all();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Err(Error::internal("the job's thread died")),
            }
        }
    }

    /// Journals where a device is; `drain` says how it got there, while it drains.
    pub(crate) fn set_pool_state(
        &self,
        st: &mut State,
        pool: PoolId,
        state: PoolState,
        drain: &DrainOptions,
    ) -> Result<()> {
        let (drain_limit, drain_terms) = (drain.limit, drain.terms());
        let record = PoolRecord { state, drain_limit, drain_terms, ..st.pool(pool).record.clone() };
        self.commit(st, &[Change::Pool(record.clone())])?;
        st.pool_mut(pool).record = record;
        Ok(())
    }

    /// A drain from its begin in the journal to its end, whatever that is. `plan` is the one it was begun with.
    fn drain_job(
        self: &Arc<Self>,
        pool: PoolId,
        plan: Option<Plan>,
        options: DrainOptions,
        job: &Job,
    ) -> Result<JobReport> {
        let name = self.lock().pool_name(pool);
        let stopped = if options.running { Ok(()) } else { self.stop_device(pool, options.reset, job) };
        let stopped = stopped.map_err(|e| if job.cancelled() { self.cut_short(&name) } else { e });
        let result = stopped.and_then(|()| self.empty_pool(pool, plan, options, job));
        let mut st = self.lock();
        // A device that was drained of data only goes on, also with another driver and after a restart.
        let offline = DrainOptions { running: options.running, ..DrainOptions::default() };
        let ended = match &result {
            Ok(_) => self.set_pool_state(&mut st, pool, PoolState::Offline, &offline),
            // The next start goes on with it.
            Err(_) if st.closing => Ok(()),
            Err(_) => self.set_pool_state(&mut st, pool, PoolState::Online, &DrainOptions::default()),
        };
        drop(st);
        let goes_on = if result.is_err() { self.start_device(pool, false, true) } else { Ok(()) };
        if let Err(e) = goes_on {
            tracing::warn!("after a drain that has ended: {e}");
        }
        self.lock().pool_mut(pool).job = None;
        self.changed.notify_all();
        match &result {
            Ok(report) => {
                self.event("drain", &name, &format!("done: {} files; offline", report.files), report.bytes)
            }
            Err(e) => self.event("drain", &name, &format!("ended, the device is online again: {e}"), 0),
        }
        ended.and(result)
    }

    fn empty_pool(
        self: &Arc<Self>,
        pool: PoolId,
        mut first: Option<Plan>,
        options: DrainOptions,
        job: &Job,
    ) -> Result<JobReport> {
        let name = self.lock().pool_name(pool);
        let mut deadline = self.env.now() + options.wait;
        let mut evict = options.evict;
        let mut patience = None;
        let (mut bytes, mut files) = (0, 0);
        loop {
            let plan = first.take().map_or_else(|| self.plan(pool, options.volatile), Ok)?;
            job.update(|j| {
                j.total = j.done.max(bytes) + plan.frames.bytes();
                j.files_total = files + plan.moves.len() as u64;
            });
            // Waiting helps against holders, and against nothing else.
            if let Some(e) = refusal(&name, &plan, true) {
                return Err(e);
            }
            let (round, held) = self.drain_round(pool, plan, options, job)?;
            bytes += round.bytes.load(Ordering::Relaxed);
            files += round.files.load(Ordering::Relaxed);
            self.grow_elsewhere(&mut self.lock(), pool);
            if self.proved_empty(pool)? {
                return Ok(JobReport { bytes, files, ..JobReport::default() });
            }
            job.update(|j| j.waiting = held.clone());
            // A lease was refused, and who held the object is gone by now: the next time it will be granted.
            let leaving = match held.iter().all(nobody_shows) {
                true => self.env.now() < *patience.get_or_insert(self.env.now() + self.options().ack_timeout),
                false => {
                    patience = None;
                    false
                }
            };
            if self.env.now() >= deadline && !leaving {
                if !evict {
                    return Err(Error::busy(format!("drain {name}: {}", describe_held(&held))));
                }
                evict = false;
                deadline = self.env.now() + EVICT_WAIT;
                self.evict(pool, &held);
            }
            let st = self.lock();
            drop(self.wait_changed(st, RETRY_EVERY));
            self.retry_stale();
            if job.cancelled() {
                return Err(self.cut_short(&name));
            }
            let mut st = self.lock();
            self.retry_held(&mut st);
        }
    }

    /// What a drain says that did not come to its end.
    fn cut_short(&self, name: &str) -> Error {
        if self.lock().closing {
            let line = format!("drain {name}: the daemon ends; the drain goes on at the next codax up");
            return Error::new(ErrorKind::NoDaemon, line);
        }
        Error::cancelled(format!(
            "drain {name}: cancelled; what has moved stays away until codax device online {name}"
        ))
    }

    /// Makes the moves of a plan, several at a time; returns what could not be moved because somebody holds it.
    fn drain_round(
        self: &Arc<Self>,
        pool: PoolId,
        plan: Plan,
        options: DrainOptions,
        job: &Job,
    ) -> Result<(Arc<Round>, Vec<HeldFile>)> {
        let held = held_by(&plan);
        let held_paths: BTreeSet<&str> = held.iter().map(|h| h.path.as_str()).collect();
        let moves = plan.moves.into_iter().filter(|m| !held_paths.contains(m.path.as_str())).collect();
        let round = Arc::new(Round { moves, ..Round::default() });
        let pace = {
            let st = self.lock();
            let targets = round.moves.iter().flat_map(|m| m.to.iter().map(|r| r.pool));
            pace(&st, targets.chain([pool]), options.limit)
        };
        let workers =
            std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 4).min(round.moves.len());
        std::thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(|| self.drain_worker(pool, &round, &pace, job));
            }
            self.drain_worker(pool, &round, &pace, job);
        });
        if let Some(e) = round.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(e);
        }
        if job.cancelled() {
            let name = self.lock().pool_name(pool);
            return Err(self.cut_short(&name));
        }
        let mut all = held;
        all.append(&mut round.held.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((round, all))
    }

    fn drain_worker(&self, pool: PoolId, round: &Round, pace: &Pace, job: &Job) {
        loop {
            let planned = round.take();
            if planned.is_empty() || job.cancelled() {
                return;
            }
            let order = |m: &PlannedMove| Order {
                file: m.file,
                to: m.to.clone(),
                home: Some(pool),
                verify: true,
                bound: false,
                job,
                pace,
            };
            let orders: Vec<Order<'_>> = planned.iter().map(order).collect();
            for (planned, result) in planned.iter().zip(self.move_many(&orders)) {
                if result.is_ok() {
                    self.tell_passed_on(planned, pool);
                }
                round.moved(planned, result, job);
            }
        }
    }

    /// Whether no frame of the pool is taken, and none of its memory is left in an object.
    fn proved_empty(&self, pool: PoolId) -> Result<bool> {
        let (medium, node, huge) = {
            let mut st = self.lock();
            self.refresh_all(&mut st);
            self.retry_held(&mut st);
            let p = st.pool(pool);
            let ours = frames(&p.absent).0 + frames(&p.private).0;
            // What is lent others have: its frames are not free.
            if p.alloc.free().0 + ours != p.alloc.capacity().0 || p.ahead > 0 {
                return Ok(false);
            }
            if !st.media.is_shared(st.media.of(pool)) {
                return Ok(p.backing.list()?.is_empty());
            }
            (st.media.of(pool), p.record.numa.map(|memory| memory.node), p.record.unit() > 1)
        };
        // Of other pools' pages some may lie on the node, where their own were full.
        let anything = |node| !matches!(codax_os::occupants::shared_on(node), Ok(0));
        // The node doesn't count huge pages as shared memory.
        if huge || node.is_some_and(anything) {
            self.bring_strays(medium)?;
        }
        Ok(true)
    }

    /// Kills those who hold files of a pool: the operator said so.
    fn evict(&self, pool: PoolId, held: &[HeldFile]) {
        let mut processes: BTreeMap<u32, Vec<(&str, &Holder)>> = BTreeMap::new();
        for file in held {
            for (pid, by) in file.by.iter().filter_map(|by| Some((by.pid?, by))) {
                processes.entry(pid).or_default().push((&file.path, by));
            }
        }
        for (pid, holds) in processes {
            let (killed, name, bytes) = {
                let st = self.lock();
                let killed = match st.sessions.values().find(|s| s.pid == pid) {
                    Some(session) => session.kill(),
                    None => codax_os::process::pidfd(pid)
                        .and_then(codax_os::process::kill)
                        .map_err(|e| crate::backing::os_error("kill process", &pid, &e)),
                };
                let paths: BTreeSet<&str> = holds.iter().map(|(path, _)| *path).collect();
                (killed, st.pool_name(pool), bytes_of(&st, pool, &paths))
            };
            let Some((path, by)) = holds.first() else { continue };
            let more = if holds.len() > 1 {
                format!(" (and {} more files)", holds.len() - 1)
            } else {
                String::new()
            };
            match killed {
                Ok(()) => {
                    let why = format!("for the drain of {name}: {}{more}", by.why);
                    self.event(
                        "evict",
                        path,
                        &format!("process {pid} ({}) was killed {why}", by.command),
                        bytes,
                    );
                }
                Err(e) => self.event("refuse", path, &format!("evict: {e}"), bytes),
            }
        }
    }

    /// Lets a device go on, and its pool be given out.
    fn put_in_service(&self, pool: PoolId, anew: bool) -> Result<()> {
        self.start_device(pool, anew, false)?;
        let mut st = self.lock();
        match st.pool(pool).record.state {
            PoolState::Online => Ok(()),
            _ => self.set_pool_state(&mut st, pool, PoolState::Online, &DrainOptions::default()),
        }
    }

    fn bring_home(&self, pool: PoolId, job: &Job) -> Result<JobReport> {
        let name = self.lock().pool_name(pool);
        let (orders, pace) = {
            let st = self.lock();
            let away = || st.ns.inodes().filter(|i| i.away.iter().any(|r| r.pool == pool));
            let orders: Vec<(FileId, Vec<PoolRun>)> =
                away().map(|i| (i.id, i.away.iter().filter(|r| r.pool == pool).copied().collect())).collect();
            let from = away().flat_map(|i| i.extents.iter().map(|e| e.pool));
            (orders, pace(&st, from.chain([pool]), None))
        };
        let total = orders.iter().flat_map(|(_, runs)| runs).map(|r| r.pages.bytes()).sum();
        job.update(|j| (j.total, j.files_total) = (total, orders.len() as u64));
        let mut report = JobReport::default();
        for (file, to) in orders {
            let order = Order { file, to, home: None, verify: true, bound: false, job, pace: &pace };
            let (bytes, stuck) = match self.move_pages(&order) {
                Ok(bytes) => (bytes, None),
                Err((bytes, stuck)) => (bytes, Some(stuck)),
            };
            report.bytes += bytes;
            let path = self.lock().path(file);
            match stuck {
                None => {
                    report.files += 1;
                    job.update(|j| j.files_done += 1);
                }
                Some(Stuck::Held(by)) => report.left.push(HeldFile { path, by }),
                Some(Stuck::Cancelled) => {
                    return Err(Error::cancelled(format!("online {name}: cancelled; the device is online")));
                }
                Some(Stuck::Failed(e)) => {
                    let by = vec![Holder { pid: None, command: "codax".into(), why: e.message }];
                    report.left.push(HeldFile { path, by });
                }
            }
        }
        let detail = format!("{} files came home, {} stayed away", report.files, report.left.len());
        self.event("online", &name, &detail, report.bytes);
        Ok(report)
    }
}

/// What files with these paths have of a pool.
fn bytes_of(st: &State, pool: PoolId, paths: &BTreeSet<&str>) -> u64 {
    let files = st.files_on(pool).filter(|inode| paths.contains(st.path(inode.id).as_str()));
    files.flat_map(|inode| pages_in(inode, pool)).map(|pages| pages.bytes()).sum()
}

fn drainable(st: &State, pool: PoolId, name: &str) -> Result<()> {
    if is_dram(pool) {
        return Err(Error::invalid("dram is the host's own memory: it can't be drained"));
    }
    match st.pool(pool).record.state {
        PoolState::Draining => {
            Err(Error::busy(format!("a drain of {name} runs already: codax device show {name}")))
        }
        PoolState::Offline => Err(Error::device_state(format!("{name} is offline already"))),
        PoolState::Detached => Err(Error::device_state(format!("{name} is detached"))),
        PoolState::Online if st.pool(pool).job.is_some() => {
            Err(Error::busy(format!("{name} is being brought online: try again when that is done")))
        }
        PoolState::Online => Ok(()),
    }
}

/// The pages a range of bytes stands for in a move: whole blocks of 2 MiB (or the largest unit that there is), since an extent costs each mapper an area of its address space.
fn blocks(inode: &Inode, range: Option<(u64, u64)>, path: &StorePath, block: u64) -> Result<PageRange> {
    let have = PageCount::for_bytes(inode.len);
    let Some((offset, len)) = range else { return Ok(PageRange::new(0, have.0)) };
    let end = offset.checked_add(len).filter(|&end| len > 0 && end <= inode.len).ok_or_else(|| {
        Error::invalid(format!("{path}: {len} bytes from {offset} on are not in it: it has {}", inode.len))
    })?;
    let touched = PageRange::of_bytes(offset, end - offset);
    let wide = touched.widened(block.max(HUGE_PAGES));
    Ok(PageRange::new(wide.start.0, wide.end().min(have.0) - wide.start.0))
}

/// Whether `pool` can take all of these pages that it doesn't have yet: a move begins only if it can be made.
fn takes(st: &mut State, pool: PoolId, inode: &Inode, pages: PageRange) -> Result<()> {
    let name = st.pool_name(pool);
    if st.pool(pool).record.state != PoolState::Online {
        return Err(Error::device_state(format!("pool {name} is not online: nothing can be moved to it")));
    }
    let here = extent::slice(&inode.extents, pages);
    let runs = extent::pool_runs(&here).into_iter().filter(|run| run.pool != pool);
    let wanted: u64 = runs.map(|run| run.pages.widened(st.unit(pool)).count.0).sum();
    match wanted.saturating_sub(st.room(pool).free.0) {
        0 => st.check_quota(pool, inode.id, PageCount(wanted)),
        missing => Err(Error::no_space(format!(
            "pool {name} has no room: {} bytes are missing of the {} to be moved",
            PageCount(missing).bytes(),
            PageCount(wanted).bytes()
        ))),
    }
}

/// The rate that the links of these pools allow, and the operator.
pub(crate) fn pace(st: &State, pools: impl Iterator<Item = PoolId>, limit: Option<u64>) -> Pace {
    let pools: BTreeSet<PoolId> = pools.collect();
    let links = pools.into_iter().map(|p| st.link(p).mbps.map(|m| u64::from(m) * 1_000_000));
    Pace::new(links.chain([limit]))
}

/// Why a file stays as it is.
pub(crate) fn explain(path: &str, stuck: Stuck) -> Error {
    match stuck {
        Stuck::Held(by) => Error::busy(describe_held(&[HeldFile { path: path.to_owned(), by }])),
        Stuck::Cancelled => Error::cancelled(format!("{path}: the move was cancelled")),
        Stuck::Failed(e) => e,
    }
}
