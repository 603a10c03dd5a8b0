//! A daemon's life: lock, store, socket, connections, signals, end.
//!
//! The main thread waits for commands, from signals and from clients. One thread takes connections, one waits for signals, and each session has its own.

use crate::config::Config;
use crate::coprocessors::Coprocessors;
use crate::device::Software;
use crate::env::RealEnv;
use crate::logging::Log;
use crate::mounts::Mounts;
use crate::place::Place;
use crate::registry::{Registry, SESSIONS_MAX};
use crate::session::{self, STACK_BYTES};
use codax_core::info::StoreInfo;
use codax_core::namespace::Cred;
use codax_core::{Error, Result};
use codax_engine::{Peer, Store};
use codax_wire::Channel;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::thread;
use std::time::Duration;
use tracing::{debug, error, info, warn};

/// How long connections may take to end when the daemon does.
const FINISH_LIMIT: Duration = Duration::from_secs(2);

/// Pause before the next connection is taken when descriptors or threads have run out.
const SCARCE_PAUSE: Duration = Duration::from_millis(100);

/// What the main thread is asked for, and where its answer goes.
#[derive(Debug)]
pub(crate) enum Command {
    /// Read the configuration again.
    Reload(Option<SyncSender<Result<Vec<String>>>>),
    /// Close the store and end.
    Stop { purge: bool, answer: Option<SyncSender<Result<()>>> },
}

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub store: Store,
    pub mounts: Arc<Mounts>,
    pub commands: Sender<Command>,
    /// `/dev/userfaultfd`, if this daemon may open it: with it, clients catch faults of system calls too.
    pub userfaultfd: Option<OwnedFd>,
    /// The store is being closed.
    pub stopping: AtomicBool,
    registry: Arc<Registry>,
    owner: u32,
}

/// Serves the store until a signal or a client ends it; `ready` is called when clients can connect. Takes the process's handlers of SIGTERM,
/// SIGINT (end) and SIGHUP (reload), and its umask.
pub fn serve(config: Config, ready: impl FnOnce(&StoreInfo)) -> Result<()> {
    let ready = |info: &StoreInfo| {
        ready(info);
        Ok(())
    };
    run(config, ready, |_| Ok(()))
}

/// As [`serve`]; `closing` is called before the store is closed, with whether it will be deleted.
pub(crate) fn run(
    config: Config,
    ready: impl FnOnce(&StoreInfo) -> Result<()>,
    closing: impl FnOnce(bool) -> Result<()>,
) -> Result<()> {
    let log = Log::start(&config.log)?;
    codax_os::process::umask(0o022);
    raise_descriptor_limit();
    let place = Arc::new(Place::take(&config.store)?);
    let mut begun = false;
    let ready = |info: &StoreInfo| {
        begun = true;
        ready(info)
    };
    let served = serve_in(place.clone(), config, log, ready, closing);
    if served.is_err() && !begun {
        place.leave();
    }
    served
}

/// Serves the store in a directory that this daemon has locked.
fn serve_in(
    place: Arc<Place>,
    config: Config,
    log: Log,
    ready: impl FnOnce(&StoreInfo) -> Result<()>,
    closing: impl FnOnce(bool) -> Result<()>,
) -> Result<()> {
    let env = Arc::new(RealEnv::new()?);
    let store = Store::open(config.store_options()?, env).map_err(|e| config.placed(e))?;
    let listener = Arc::new(place.listen(config.socket_mode)?);
    let (commands, wanted) = channel();
    let meta = codax_engine::store::Layout { dir: config.store.clone() }.meta();
    let shared = Arc::new(Shared {
        mounts: Mounts::new(store.clone(), meta),
        owner: store.owner(),
        store,
        commands: commands.clone(),
        userfaultfd: codax_os::uffd::open_device().ok(),
        stopping: AtomicBool::new(false),
        registry: Arc::default(),
    });
    let signals = watch_signals(commands)?;
    let acceptor = start("accept", {
        let (shared, listener) = (shared.clone(), listener.clone());
        move || accept(&shared, &listener)
    })?;
    let info = shared.store.info();
    let mut daemon = Daemon { config, log, place, shared };
    let mount = daemon.config.mount.clone();
    let mount = mount.as_deref().map(|dir| (dir, daemon.config.mount_options));
    let coprocessors =
        Coprocessors::start(&daemon.shared.store, &daemon.config.store, &daemon.config.devices);
    let (begun, coprocessors) = match coprocessors {
        Ok(started) => (daemon.shared.mounts.start(mount).and_then(|()| ready(&info)), Some(started)),
        Err(e) => (Err(e), None),
    };
    let (purge, answer) = if begun.is_ok() { daemon.run(&wanted) } else { (false, None) };
    notify(&[NotifyState::Stopping]);
    // What they map is let go of while somebody takes it back.
    if let Some(coprocessors) = coprocessors {
        coprocessors.end();
    }
    daemon.shared.stopping.store(true, Ordering::Release);
    daemon.place.remove_socket();
    let _ = codax_os::sock::shutdown(listener.as_fd());
    // It has nothing to tell.
    let _ = acceptor.join();
    // Who is inside may still be writing: what they have done is taken in before the store is closed.
    daemon.shared.mounts.end();
    let closed = closing(purge).and_then(|()| daemon.shared.store.close(purge));
    if let Some(answer) = answer {
        let _ = answer.send(closed.clone());
    }
    // Whoever asked for something meanwhile hears that it is too late.
    drop(wanted);
    // Control sockets end only now: to a client their end means that the store's memory will not change any more.
    daemon.shared.registry.finish(FINISH_LIMIT);
    signals.close();
    begun.and(closed)
}

/// What the main thread works with.
struct Daemon {
    config: Config,
    log: Log,
    place: Arc<Place>,
    shared: Arc<Shared>,
}

impl Daemon {
    /// Does what is asked until it is to end: whether the store is to be deleted, and who wants to know of it.
    fn run(&mut self, wanted: &Receiver<Command>) -> (bool, Option<SyncSender<Result<()>>>) {
        info!(dir = %self.config.store.display(), "serving");
        notify(&[NotifyState::Ready]);
        while let Ok(command) = wanted.recv() {
            match command {
                Command::Stop { purge, answer } => return (purge, answer),
                Command::Reload(answer) => {
                    let lines = self.reload();
                    match &lines {
                        Ok(lines) => info!("configuration read again: {}", lines.join("; ")),
                        Err(e) => error!("the configuration stays as it was: {e}"),
                    }
                    if let Some(answer) = answer {
                        let _ = answer.send(lines);
                    }
                }
            }
        }
        (false, None)
    }

    fn reload(&mut self) -> Result<Vec<String>> {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(e) => warn!("sd_notify: {e}"),
        }
        let lines = self.take_config();
        notify(&[NotifyState::Ready]);
        lines
    }

    fn take_config(&mut self) -> Result<Vec<String>> {
        let new = self.config.reload()?;
        let mut lines = self.shared.store.reload(&new.store_options()?).map_err(|e| new.placed(e))?;
        if new.log != self.config.log {
            self.log.set(&new.log)?;
            lines.push(format!("log is {} now", new.log));
        }
        if new.socket_mode != self.config.socket_mode {
            self.place.set_socket_mode(new.socket_mode)?;
            lines.push(format!("socket_mode is {:04o} now", new.socket_mode));
        }
        if (&new.mount, new.mount_options) != (&self.config.mount, self.config.mount_options) {
            lines.push("mount needs a restart, or codax mount and codax umount".to_owned());
        }
        if coprocessors(&new) != coprocessors(&self.config) {
            lines.push("coprocessors of devices need a restart".to_owned());
        }
        if new.store != self.config.store {
            lines.push(format!("store {} needs a restart", new.store.display()));
        }
        // The directory that is served is the one that was locked.
        let store = std::mem::replace(&mut self.config, new).store;
        self.config.store = store;
        Ok(lines)
    }
}

/// Which devices have one, and of what kind.
fn coprocessors(config: &Config) -> Vec<(&str, Software)> {
    let all = config.devices.iter();
    all.filter_map(|device| Some((device.name.as_str(), device.software?))).collect()
}

fn watch_signals(commands: Sender<Command>) -> Result<Handle> {
    let failed = |e: io::Error| Error::internal(format!("watch signals: {e}"));
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(failed)?;
    let handle = signals.handle();
    start("signals", move || {
        for signal in signals.forever() {
            let command = match signal {
                SIGHUP => Command::Reload(None),
                _ => Command::Stop { purge: false, answer: None },
            };
            if commands.send(command).is_err() {
                return;
            }
        }
    })?;
    Ok(handle)
}

pub(crate) fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>> {
    let builder = thread::Builder::new().name(name.into()).stack_size(STACK_BYTES);
    builder.spawn(work).map_err(|e| Error::internal(format!("start the thread {name}: {e}")))
}

/// Takes connections until the listener is shut down.
fn accept(shared: &Arc<Shared>, listener: &OwnedFd) {
    loop {
        let accepted = codax_os::sock::accept(listener);
        if shared.stopping.load(Ordering::Acquire) {
            return;
        }
        // Descriptors or threads have run out, or memory has: they come back when somebody hangs up.
        if let Err(e) = accepted.and_then(|fd| welcome(shared, fd)) {
            warn!("take a connection: {e}");
            thread::sleep(SCARCE_PAUSE);
        }
    }
}

fn welcome(shared: &Arc<Shared>, fd: OwnedFd) -> io::Result<()> {
    let peer = codax_os::sock::peer(&fd)?;
    let admin = peer.uid == 0 || peer.uid == shared.owner;
    let cred = Cred { uid: peer.uid, gid: peer.gid, groups: peer.groups, admin };
    let peer = Peer { cred, pid: peer.pid, pidfd: peer.pidfd };
    debug!(pid = peer.pid, uid = peer.cred.uid, "connected");
    let channel = Arc::new(Channel::new(fd));
    let Some(place) = shared.registry.enter(&channel, admin) else {
        // Its greeting is on the way; unread it would take the answer with it.
        codax_os::sock::set_recv_timeout(channel.as_fd(), Some(SCARCE_PAUSE))?;
        let _ = channel.recv::<codax_wire::Request>();
        let full = format!("the daemon serves {SESSIONS_MAX} sessions already: try again later");
        session::refuse(&channel, Error::busy(full));
        return Ok(());
    };
    let shared = shared.clone();
    let builder = thread::Builder::new().name("session".into()).stack_size(STACK_BYTES);
    builder.spawn(move || session::serve(&shared, &channel, peer, place)).map(drop)
}

/// Each session takes a handful of descriptors, and the usual limit is 1024 in all.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(e) = setrlimit(Resource::Nofile, raised) {
        warn!("raise the limit of open files: {e}");
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        warn!("sd_notify: {e}");
    }
}
