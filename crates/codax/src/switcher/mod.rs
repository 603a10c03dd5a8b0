//! What lets a file's bytes move while this process maps them.
//!
//! Two threads, with all signals blocked, that never touch what is mapped. One listens to the daemon and does the steps of moves (here). The
//! other reads the userfaultfd, without which the first would wait in `mremap` for ever ([`fault`]). No thread of the program ever
//! holds a lock of the library while it touches a mapping, and neither of the two writes to the log, whose locks the program may hold then.

mod fault;
mod part;
mod registry;
mod runs;
mod segment;
mod settle;
mod siblings;
mod waits;
mod watch;

pub(crate) use registry::NewMapping;
pub(crate) use runs::{Durable, Run, of_layout};
pub use waits::WaitStats;

use crate::device;
use crate::link::{self, Attempt, Identity, Link, Turn, lock, unexpected};
use codax_core::live::{CUTS, MoverAck, MoverMsg, Step, decode_word};
use codax_core::{Error, ErrorKind, FileId, MoveId, Result};
use codax_os::area::Region;
use codax_os::uffd::Uffd;
use codax_os::words::SharedWords;
use codax_os::{event, process, sock};
use codax_wire::{Attach, Channel, Reply, Request};
use part::How;
use registry::Registry;
use segment::{Segment, Target, Tools};
use siblings::Sibling;
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use waits::Waits;

/// How often sleepers are looked for in the course of a segment. At its end it is done thoroughly.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The pause before a step that must succeed is tried again.
const AGAIN: Duration = Duration::from_millis(5);

/// The pause before the second attempt to reconnect; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Mapped areas that a move leaves free for the program.
const AREAS_SPARE: u64 = 256;

/// The result of a step that may be refused, with a clause that says why.
type Refusable = std::result::Result<(), String>;

/// The two threads, and what they share with the mappings.
#[derive(Debug)]
pub(crate) struct Switcher {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Shared by the two threads and the mappings.
#[derive(Debug)]
pub(crate) struct Shared {
    link: Arc<Link>,
    /// The daemon's words, of the last attachment.
    words: Mutex<Arc<SharedWords>>,
    sibling: Sibling,
    uffd: Uffd,
    kernel_faults: bool,
    user_faults_ok: bool,
    waits: Waits,
    registry: Mutex<Registry>,
    /// A segment is over.
    ended: Condvar,
    /// The control socket, to be shut down at the end.
    control: Mutex<Option<OwnedFd>>,
    /// Readable when all is over.
    stop: OwnedFd,
    /// The thread that reads the userfaultfd, once it runs.
    reader: AtomicU32,
    identity: Mutex<Identity>,
}

/// What an `Attach` gives: our end of the control socket, the commit words, and perhaps a descriptor of `/dev/userfaultfd`.
struct Attached {
    control: OwnedFd,
    words: Arc<SharedWords>,
    device: Option<OwnedFd>,
}

/// A mapping that is being made: from before the daemon is asked until it is entered.
#[derive(Debug)]
pub(crate) struct Making {
    shared: Arc<Shared>,
    since: u64,
}

impl Drop for Making {
    fn drop(&mut self) {
        if !self.shared.link.is_fork() {
            lock(&self.shared.registry).stop_making();
        }
    }
}

impl Switcher {
    /// Attaches to the daemon and starts the threads.
    pub(crate) fn start(link: &Arc<Link>, user_faults_ok: bool) -> Result<Self> {
        let system = |what: &str, e: io::Error| Error::internal(format!("{what}: {e}"));
        let sibling = Sibling::enter(link);
        let (attached, uffd, kernel_faults, generation) =
            link.with(|turn| first_attach(turn, user_faults_ok, sibling.count()))?;
        let control = Channel::new(attached.control);
        let shared = Arc::new(Shared {
            link: Arc::clone(link),
            words: Mutex::new(Arc::clone(&attached.words)),
            sibling,
            uffd,
            kernel_faults,
            user_faults_ok,
            waits: Waits::default(),
            registry: Mutex::new(Registry::new(generation)),
            ended: Condvar::new(),
            control: Mutex::new(Some(duplicate(&control)?)),
            stop: event::new().map_err(|e| system("make an eventfd", e))?,
            reader: AtomicU32::new(0),
            identity: Mutex::new(link::identity(link.dir())),
        });
        link.attached();
        let mut switcher = Self { shared: Arc::clone(&shared), threads: Vec::new() };
        let words = attached.words;
        let (reader, worker) = (Arc::clone(&shared), shared);
        switcher.spawn("codax-faults", move || fault::run(&reader))?;
        switcher.spawn("codax-moves", move || run(&worker, control, words))?;
        Ok(switcher)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // A signal's handler may touch a mapping; and a thread that can't block signals can still work.
            let _ = process::block_signals();
            // Program threads wait for these, so they should come before those that only compute.
            let _ = process::run_soon();
            work();
        });
        match thread {
            Ok(thread) => self.threads.push(thread),
            Err(e) => {
                self.end();
                return Err(Error::internal(format!("start a thread: {e}")));
            }
        }
        Ok(())
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Ends the threads. There are no mappings any more.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.link.stop();
        let _ = event::signal(&self.shared.stop);
        if let Some(control) = &*lock(&self.shared.control) {
            let _ = sock::shutdown(control);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What mappings ask for.
impl Shared {
    /// See [`crate::Mapping::cuts`].
    pub(crate) fn cuts(&self) -> u64 {
        let words = lock(&self.words);
        if words.len() > CUTS { words.load(CUTS) } else { 0 }
    }

    /// To be called before the daemon is asked for a layout.
    pub(crate) fn making(self: &Arc<Self>) -> Making {
        let since = lock(&self.registry).start_making();
        Making { shared: Arc::clone(self), since }
    }

    /// Enters a mapping, so that moves include it. `None` if its layout may be an old one by now: it must be made again.
    pub(crate) fn add(&self, making: Making, new: &NewMapping<'_>) -> Option<u64> {
        let added = lock(&self.registry).add(making.since, new);
        drop(making);
        added
    }

    /// Ends a mapping. Returns the connection on which the daemon counts it.
    pub(crate) fn remove(&self, file: FileId, id: u64, region: Arc<Region>) -> u64 {
        let mut registry = lock(&self.registry);
        let generation = registry.remove(file, id);
        self.waits.forget(region.base(), region.len());
        // The last owner: the addresses are free before a step of a move can come to them.
        drop(region);
        drop(registry);
        generation
    }

    pub(crate) fn pinned(&self, file: FileId, id: u64, pinned: bool) {
        lock(&self.registry).pin(file, id, pinned);
    }

    /// Waits until no move of the file is under way here.
    pub(crate) fn await_segment(&self, file: FileId) {
        let registry = lock(&self.registry);
        drop(
            self.ended
                .wait_while(registry, |registry| registry.moving(file))
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Whether a system call that touches a chunk on the move waits for it, as loads and stores do.
    pub(crate) fn waits_in_kernel(&self) -> bool {
        self.kernel_faults
    }

    pub(crate) fn waits(&self) -> WaitStats {
        self.waits.stats()
    }
}

/// The steps of moves.
impl Shared {
    fn tools(&self) -> Tools<'_> {
        Tools { uffd: &self.uffd, waits: &self.waits }
    }

    /// Does what the daemon says.
    fn step(&self, message: MoverMsg, fds: Vec<OwnedFd>, words: &SharedWords) -> MoverAck {
        let done = |id, step, result: Refusable| MoverAck { id, step, mappings: 0, refused: result.err() };
        let tools = self.tools();
        match message {
            MoverMsg::Begin { id, slot, file, to, chunks, persistent, device } => {
                let mut registry = lock(&self.registry);
                let mappings = u32::try_from(registry.live(file).len()).unwrap_or(u32::MAX);
                let mut segment = Segment::new(file, slot, Target { pool: to, persistent, device }, chunks);
                let refused = begin(&registry, &mut segment, fds).err();
                registry.begin(id, segment);
                MoverAck { id, step: Step::Begin, mappings, refused }
            }
            MoverMsg::Freeze { id, chunk, closed } => {
                let how = How { object: fds.first(), closed };
                let frozen = self.try_closing(id, chunk, |segment, chunk| segment.freeze(tools, chunk, how));
                done(id, Step::Freeze(chunk), frozen.map_err(|e| format!("can't hold writes: {e}")))
            }
            MoverMsg::Hold { id, chunk } => {
                let held = self.try_closing(id, chunk, |segment, chunk| segment.hold(tools, chunk));
                done(id, Step::Hold(chunk), held.map_err(|e| format!("can't hold reads: {e}")))
            }
            MoverMsg::Switch { id, chunk } => {
                self.switch(id, chunk);
                done(id, Step::Switch(chunk), Ok(()))
            }
            MoverMsg::Rollback { id, chunk } => {
                self.roll_back(id, chunk);
                done(id, Step::Rollback(chunk), Ok(()))
            }
            MoverMsg::End { id } => {
                self.end_segment(id, words);
                done(id, Step::End, Ok(()))
            }
        }
    }

    /// A step that may fail, and closes the chunk to reads, perhaps.
    fn try_closing(
        &self,
        id: MoveId,
        chunk: u32,
        step: impl FnOnce(&mut Segment, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut registry = lock(&self.registry);
        let result = try_step(&mut registry, id, chunk, step);
        registry.disturbed(id, chunk);
        result
    }

    /// A step that must be done: what the kernel refuses (it is out of mapped areas) is tried until it does it. Until then the chunk stays closed.
    fn must(&self, mut step: impl FnMut(&mut Registry) -> io::Result<()>) {
        while step(&mut lock(&self.registry)).is_err() {
            std::thread::sleep(AGAIN);
        }
    }

    fn switch(&self, id: MoveId, chunk: u32) {
        let tools = self.tools();
        self.must(|registry| {
            let result = try_step(registry, id, chunk, |segment, chunk| segment.switch(tools, chunk));
            // In one with the step, also where it was done in part: what is known of a mapping is what it shows.
            registry.switched(id, chunk);
            result
        });
    }

    fn roll_back(&self, id: MoveId, chunk: u32) {
        let tools = self.tools();
        self.must(|registry| try_step(registry, id, chunk, |segment, chunk| segment.roll_back(tools, chunk)));
    }

    /// Wakes who sleeps in what a segment switched, now and then.
    fn look_for_sleepers(&self, id: MoveId) {
        if let Some(segment) = lock(&self.registry).segments.get_mut(&id)
            && segment.looked.elapsed() >= LOOK_EVERY
        {
            settle::wake_sleepers(segment.old().collect::<Vec<_>>().into_iter());
            segment.looked = Instant::now();
        }
    }

    /// Ends a segment: what is open is brought to the end that the journal says.
    fn end_segment(&self, id: MoveId, words: &SharedWords) {
        let mut registry = lock(&self.registry);
        let Some(segment) = registry.segments.get(&id) else { return };
        let committed = committed(words, segment.slot, id);
        let chunks = u32::try_from(segment.chunks.len()).unwrap_or(u32::MAX);
        let open: Vec<u32> = (0..chunks).filter(|&chunk| segment.is_open(chunk as usize)).collect();
        drop(registry);
        for chunk in open {
            if chunk < committed {
                self.switch(id, chunk);
            } else {
                self.roll_back(id, chunk);
            }
        }
        registry = lock(&self.registry);
        let old = registry.segments.get_mut(&id).map(Segment::take_old).unwrap_or_default();
        drop(registry);
        settle::settle(&old, &[process::thread_id(), self.reader.load(Ordering::Relaxed)]);
        drop(old);
        lock(&self.registry).segments.remove(&id);
        self.ended.notify_all();
    }
}

/// A step on a segment. One that isn't known has nothing to do here: its `Begin` was refused or lost.
fn try_step(
    registry: &mut Registry,
    id: MoveId,
    chunk: u32,
    step: impl FnOnce(&mut Segment, usize) -> io::Result<()>,
) -> io::Result<()> {
    match (registry.segments.get_mut(&id), usize::try_from(chunk)) {
        (Some(segment), Ok(chunk)) => step(segment, chunk),
        _ => Ok(()),
    }
}

/// Whether a move can be done here; if so, stages it.
fn begin(registry: &Registry, segment: &mut Segment, fds: Vec<OwnedFd>) -> Refusable {
    if registry.pinned(segment.file, &segment.chunks) {
        return Err("pinned for DMA".to_owned());
    }
    let live = registry.live(segment.file);
    let object = match &segment.to.device {
        // Nobody needs it.
        Some(_) if live.is_empty() => return Ok(()),
        Some(on) => device::open(on, live.iter().any(|live| live.write))
            .map_err(|e| format!("can't open {}, which it has to map: {e}", on.path))?,
        None => fds.into_iter().next().ok_or("the move came without its object")?,
    };
    let runs = segment.to.device.as_ref().map_or(0, |on| on.runs.len());
    enough_areas(live.len(), segment.chunks.len() + runs)?;
    segment.stage(live, &object).map_err(|e| format!("can't map the new object: {e}"))
}

/// Whether the kernel lets this process have the mapped areas that a move of so many pieces takes: it must not run out half-way.
fn enough_areas(mappings: usize, pieces: usize) -> Refusable {
    if mappings == 0 {
        return Ok(());
    }
    let max = std::fs::read_to_string("/proc/sys/vm/max_map_count");
    let max = max.ok().and_then(|text| text.trim().parse::<u64>().ok());
    let (Some(max), Ok(used)) = (max, process::map_count(std::process::id())) else { return Ok(()) };
    // For each part: two cuts in the region, one in what is staged, one more mapping of the old object.
    let wanted = 4 * u64::try_from(mappings * pieces).unwrap_or(u64::MAX / 4) + AREAS_SPARE;
    if used.saturating_add(wanted) > max {
        return Err(format!("has {used} of {max} mapped areas: raise vm.max_map_count"));
    }
    Ok(())
}

/// How many chunks of a segment are committed.
fn committed(words: &SharedWords, slot: u16, id: MoveId) -> u32 {
    let slot = usize::from(slot);
    if slot >= words.len() {
        return 0;
    }
    match decode_word(words.load(slot)) {
        Some((low, count)) if low == id.0 & 0xFF_FFFF => count,
        _ => 0,
    }
}

/// The thread that does the steps.
fn run(shared: &Shared, mut control: Channel, mut words: Arc<SharedWords>) {
    loop {
        serve(shared, &control, &words);
        // The daemon is dead, and all that it wrote is in memory.
        let open: HashSet<MoveId> = lock(&shared.registry).segments.keys().copied().collect();
        for id in open {
            shared.end_segment(id, &words);
        }
        shared.link.lost();
        match reconnect(shared) {
            Some(attached) => (control, words) = attached,
            None => return,
        }
    }
}

/// Does what the daemon says until it is gone.
fn serve(shared: &Shared, control: &Channel, words: &SharedWords) {
    loop {
        let (message, fds) = match control.recv::<MoverMsg>() {
            Ok(Some(message)) => message,
            // What can't be read isn't answered, and the daemon rolls back.
            Err(e) if e.kind == ErrorKind::Corrupt => continue,
            Ok(None) | Err(_) => return,
        };
        let ack = shared.step(message, fds, words);
        // If the daemon is gone, what it sent before is still done.
        let _ = control.send(&ack, &[]);
        if matches!(ack.step, Step::Switch(_)) {
            shared.look_for_sleepers(ack.id);
        }
    }
}

/// Connects again, as long as it takes. `None` when all is over.
fn reconnect(shared: &Shared) -> Option<(Channel, Arc<SharedWords>)> {
    let mut pause = PAUSE_MIN;
    while !shared.link.stopped() {
        if let Ok(attached) = reattach(shared) {
            return Some(attached);
        }
        shared.link.tried(None);
        if !shared.link.pause(pause) {
            return None;
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
    None
}

fn reattach(shared: &Shared) -> Result<(Channel, Arc<SharedWords>)> {
    let link = &shared.link;
    let channel = link::connect_limited(link.dir())?;
    let identity = link::identity(link.dir());
    let mut known = lock(&shared.identity);
    let mut registry = lock(&shared.registry);
    if *known != identity && !registry.is_empty() {
        // Its files have the same numbers and are others.
        return Err(Error::not_found(format!("{} is another store by now", link.dir().display())));
    }
    *known = identity;
    let mapped = registry.mapped(link.next_generation());
    drop((known, registry));
    let (ours, theirs) = control_pair()?;
    let (kernel_faults, user_faults_ok) = (shared.kernel_faults, shared.user_faults_ok);
    let links = shared.sibling.count();
    let request = Request::Attach(Attach { kernel_faults, user_faults_ok, mapped, links });
    channel.send(&request, &[theirs.as_fd()])?;
    drop(theirs);
    let attached = match link::answer(&channel, &mut |_| ())? {
        Some((Reply::Attached, fds)) => attached(ours, fds)?,
        Some((Reply::Error(e), _)) => return Err(e),
        Some((other, _)) => return Err(unexpected(&other)),
        None => return Err(Error::new(ErrorKind::NoDaemon, "the daemon went away again")),
    };
    link::limit(&channel, None)?;
    let control = Channel::new(attached.control);
    *lock(&shared.control) = Some(duplicate(&control)?);
    *lock(&shared.words) = Arc::clone(&attached.words);
    // Who stops us shuts the socket down after saying so: either the new one, or we see it here.
    if link.stopped() {
        return Err(Error::cancelled("the store is being closed"));
    }
    link.tried(Some(channel));
    // One that has gone since then found nobody to tell.
    link.tell_now(&Request::Links(shared.sibling.count()));
    Ok((control, attached.words))
}

/// The first `Attach`, and the second one that says what this process's userfaultfd can do.
fn first_attach(turn: &Turn<'_>, user_faults_ok: bool, links: u32) -> Attempt<(Attached, Uffd, bool, u64)> {
    let attach =
        |kernel_faults| Request::Attach(Attach { kernel_faults, user_faults_ok, mapped: Vec::new(), links });
    let (ours, theirs) = control_pair()?;
    let (reply, fds) = turn.ask_fds(&attach(false), &[theirs.as_fd()])?;
    drop(theirs);
    if reply != Reply::Attached {
        return Err(unexpected(&reply).into());
    }
    let attached = attached(ours, fds)?;
    let device = attached.device.as_ref().map(AsFd::as_fd);
    let (uffd, kernel_faults) = Uffd::new(device).map_err(|e| {
        Error::permission(format!("files can't be mapped here without userfaultfd: {e}; see `codax doctor`"))
    })?;
    turn.ask(&attach(kernel_faults))?;
    Ok((attached, uffd, kernel_faults, turn.generation()))
}

fn attached(control: OwnedFd, fds: Vec<OwnedFd>) -> Result<Attached> {
    let mut fds = fds.into_iter();
    let words = fds.next().ok_or_else(|| Error::corrupt("the daemon sent no commit words"))?;
    let words = SharedWords::from_fd_ro(words)
        .map_err(|e| Error::internal(format!("map the daemon's commit words: {e}")))?;
    Ok(Attached { control, words: Arc::new(words), device: fds.next() })
}

fn control_pair() -> Result<(OwnedFd, OwnedFd)> {
    sock::pair().map_err(|e| Error::internal(format!("make a pair of sockets: {e}")))
}

fn duplicate(channel: &Channel) -> Result<OwnedFd> {
    channel.as_fd().try_clone_to_owned().map_err(|e| Error::internal(format!("duplicate a socket: {e}")))
}
