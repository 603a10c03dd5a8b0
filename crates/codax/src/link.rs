//! The connection to the daemon: one request at a time, and what happens when the daemon goes away.

use codax_core::{Error, ErrorKind, Result};
use codax_os::sock;
use codax_wire::{Channel, Hello, MAGIC, Reply, Request, SOCKET, VERSION};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// How long a request waits for the switcher's attempt to reconnect.
const RECONNECT_WAIT: Duration = Duration::from_secs(2);

/// How long the daemon may take to answer the first message.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// Locks; a panic of another holder is no reason to stop: nothing here is left half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection, and which one it is: handles and pins are valid on the connection they were got over.
#[derive(Clone, Debug)]
pub(crate) struct Conn {
    channel: Arc<Channel>,
    pub(crate) generation: u64,
}

/// What keeps a request from being answered.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The daemon was gone before the request was sent: it can be sent again.
    Unsent,
    /// Anything else.
    Failed(Error),
}

/// The result of a part of a request.
pub(crate) type Attempt<T> = std::result::Result<T, Trouble>;

impl From<Error> for Trouble {
    fn from(e: Error) -> Self {
        Self::Failed(e)
    }
}

#[derive(Debug, Default)]
struct State {
    conn: Option<Conn>,
    generation: u64,
    /// Whether the switcher makes the connections: only it knows when what the client maps is settled.
    attached: bool,
    /// Attempts of the switcher to reconnect.
    attempts: u64,
    /// A request waits for such an attempt.
    wanted: bool,
    /// Connections that no answer can be expected over any more. They stay open while the daemon counts mappings on them: it would take
    /// their end for ours, and go on with moves without us.
    retired: Vec<Conn>,
    /// One-way requests for the connection that the switcher is making.
    owed: Vec<Request>,
    stop: bool,
}

/// The client's side of the connection.
#[derive(Debug)]
pub(crate) struct Link {
    dir: PathBuf,
    /// The process that connected. In its forks nothing here may be used: sockets, locks and threads are the parent's.
    pid: u32,
    turn: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
}

/// The right to ask: one request is under way at a time.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    link: &'a Link,
    conn: Conn,
}

impl Link {
    /// Connects to the daemon of the store in `dir`.
    pub(crate) fn connect(dir: &Path) -> Result<Self> {
        let conn = Conn { channel: Arc::new(connect(dir)?), generation: 1 };
        Ok(Self {
            dir: dir.to_owned(),
            pid: std::process::id(),
            turn: Mutex::new(()),
            state: Mutex::new(State { conn: Some(conn), generation: 1, ..State::default() }),
            changed: Condvar::new(),
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether this process is a fork of the one that connected.
    pub(crate) fn is_fork(&self) -> bool {
        std::process::id() != self.pid
    }

    pub(crate) fn check_fork(&self) -> Result<()> {
        if self.is_fork() {
            return Err(Error::invalid("this process is a fork of the one that connected: connect anew"));
        }
        Ok(())
    }

    /// Asks, as often as `work` likes, with nobody else's requests in between. What could not be sent because the daemon was gone is tried
    /// once more over a new connection, from the beginning of `work`.
    pub(crate) fn with<T>(&self, mut work: impl FnMut(&Turn<'_>) -> Attempt<T>) -> Result<T> {
        self.check_fork()?;
        let _turn = lock(&self.turn);
        for _ in 0..2 {
            let turn = Turn { link: self, conn: self.current()? };
            match work(&turn) {
                Ok(done) => return Ok(done),
                Err(Trouble::Failed(e)) => return Err(e),
                Err(Trouble::Unsent) => {}
            }
        }
        Err(self.no_daemon())
    }

    /// Sends a one-way request over the connection `generation`; on a later one it means nothing.
    pub(crate) fn tell(&self, generation: u64, request: &Request) {
        if self.is_fork() {
            return;
        }
        let mut state = lock(&self.state);
        if generation > state.generation {
            state.owed.push(request.clone());
            return;
        }
        let conn = state.conn.clone();
        drop(state);
        if let Some(conn) = conn.filter(|conn| conn.generation == generation) {
            // A daemon that is gone has forgotten what this is about.
            let _ = conn.channel.send(request, &[]);
        }
    }

    /// Sends a one-way request over the connection that there is, if there is one.
    pub(crate) fn tell_now(&self, request: &Request) {
        let conn = lock(&self.state).conn.clone();
        if let Some(conn) = conn {
            let _ = conn.channel.send(request, &[]);
        }
    }

    /// The number of the connection that the switcher is about to make, for which nothing is owed yet.
    pub(crate) fn next_generation(&self) -> u64 {
        let mut state = lock(&self.state);
        state.owed.clear();
        state.generation + 1
    }

    /// From now on the switcher makes the connections.
    pub(crate) fn attached(&self) {
        lock(&self.state).attached = true;
    }

    /// The switcher lost its socket, and what moved is settled.
    pub(crate) fn lost(&self) {
        let mut state = lock(&self.state);
        state.conn = None;
        state.retired.clear();
    }

    /// The switcher has tried to reconnect.
    pub(crate) fn tried(&self, channel: Option<Channel>) {
        let mut state = lock(&self.state);
        state.attempts += 1;
        state.wanted = false;
        let owed = std::mem::take(&mut state.owed);
        if let Some(channel) = channel {
            state.generation += 1;
            let channel = Arc::new(channel);
            state.conn = Some(Conn { channel: Arc::clone(&channel), generation: state.generation });
            drop(state);
            for request in owed {
                let _ = channel.send(&request, &[]);
            }
        }
        self.changed.notify_all();
    }

    /// Sleeps between two attempts, until somebody wants a connection. Returns whether to try on.
    pub(crate) fn pause(&self, pause: Duration) -> bool {
        let state = lock(&self.state);
        let (state, _) = self
            .changed
            .wait_timeout_while(state, pause, |state| !state.stop && !state.wanted)
            .unwrap_or_else(PoisonError::into_inner);
        !state.stop
    }

    pub(crate) fn stop(&self) {
        lock(&self.state).stop = true;
        self.changed.notify_all();
    }

    pub(crate) fn stopped(&self) -> bool {
        lock(&self.state).stop
    }

    /// The connection, made anew if need be.
    fn current(&self) -> Result<Conn> {
        let mut state = lock(&self.state);
        if let Some(conn) = &state.conn {
            return Ok(conn.clone());
        }
        if state.attached {
            state.wanted = true;
            self.changed.notify_all();
            let attempts = state.attempts;
            let (state, _) = self
                .changed
                .wait_timeout_while(state, RECONNECT_WAIT, |state| {
                    state.conn.is_none() && state.attempts == attempts
                })
                .unwrap_or_else(PoisonError::into_inner);
            return state.conn.clone().ok_or_else(|| self.no_daemon());
        }
        drop(state);
        let channel = Arc::new(connect(&self.dir)?);
        let mut state = lock(&self.state);
        state.generation += 1;
        let conn = Conn { channel, generation: state.generation };
        state.conn = Some(conn.clone());
        Ok(conn)
    }

    fn no_daemon(&self) -> Error {
        no_daemon(&self.dir)
    }
}

impl Turn<'_> {
    pub(crate) fn generation(&self) -> u64 {
        self.conn.generation
    }

    /// Sends a request and waits for its answer; an error of the daemon's is an error here.
    pub(crate) fn ask(&self, request: &Request) -> Attempt<Reply> {
        Ok(self.ask_fds(request, &[])?.0)
    }

    /// The same, with descriptors both ways.
    pub(crate) fn ask_fds(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Attempt<(Reply, Vec<OwnedFd>)> {
        let answer = match self.conn.channel.send(request, fds) {
            Ok(()) => answer(&self.conn.channel, &mut |_| ()),
            Err(e) if e.kind == ErrorKind::NoDaemon => {
                self.link.forget(self.conn.generation);
                return Err(Trouble::Unsent);
            }
            Err(e) => return Err(e.into()),
        };
        match answer {
            Ok(Some((Reply::Error(e), _))) => Err(e.into()),
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => {
                self.link.forget(self.conn.generation);
                Err(Error::new(ErrorKind::NoDaemon, "the daemon went away before it answered").into())
            }
            // That packet was the answer, so the next one answers the next request.
            Err(e) if e.kind == ErrorKind::Corrupt => Err(e.into()),
            Err(e) => {
                self.link.forget(self.conn.generation);
                Err(e.into())
            }
        }
    }
}

impl Link {
    /// Whether a connection is there still.
    pub(crate) fn is_live(&self, generation: u64) -> bool {
        let conn = lock(&self.state).conn.clone();
        conn.is_some_and(|conn| conn.generation == generation && !sock::has_ended(&*conn.channel))
    }

    fn forget(&self, generation: u64) {
        let mut state = lock(&self.state);
        if let Some(conn) = state.conn.take_if(|conn| conn.generation == generation)
            && state.attached
        {
            state.retired.push(conn);
        }
    }
}

/// The last answer to a request; those before it are progress.
pub(crate) fn answer(
    channel: &Channel,
    progress: &mut dyn FnMut(&codax_core::info::JobInfo),
) -> Result<Option<(Reply, Vec<OwnedFd>)>> {
    loop {
        match channel.recv_soon()? {
            Some((Reply::Progress(job), _)) => progress(&job),
            answer => return Ok(answer),
        }
    }
}

/// Connects and shakes hands.
pub(crate) fn connect(dir: &Path) -> Result<Channel> {
    let channel = connect_limited(dir)?;
    limit(&channel, None)?;
    Ok(channel)
}

/// Sets how long to wait for an answer.
pub(crate) fn limit(channel: &Channel, limit: Option<Duration>) -> Result<()> {
    sock::set_recv_timeout(channel, limit)
        .map_err(|e| Error::internal(format!("set a socket's time limit: {e}")))
}

/// Connects and shakes hands; answers are waited for [`WELCOME_TIMEOUT`] at most.
pub(crate) fn connect_limited(dir: &Path) -> Result<Channel> {
    let path = dir.join(SOCKET);
    let fd = sock::connect(&path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => no_daemon(dir),
        io::ErrorKind::NotADirectory => {
            Error::invalid(format!("{} is not a store: it is no directory", dir.display()))
        }
        io::ErrorKind::PermissionDenied => Error::permission(format!("connect to {}: {e}", path.display())),
        _ => Error::internal(format!("connect to {}: {e}", path.display())),
    })?;
    let channel = Channel::new(fd);
    limit(&channel, Some(WELCOME_TIMEOUT))?;
    channel.send(&Request::Hello(Hello { magic: MAGIC, version: VERSION }), &[])?;
    match answer(&channel, &mut |_| ())? {
        Some((Reply::Welcome { version: VERSION, .. }, _)) => {}
        Some((Reply::Welcome { version, .. }, _)) => {
            return Err(Error::invalid(format!(
                "the daemon of {} speaks version {version} of the protocol, this client {VERSION}: use the same release",
                dir.display()
            )));
        }
        Some((Reply::Error(e), _)) => return Err(e),
        Some((other, _)) => return Err(unexpected(&other)),
        None => return Err(no_daemon(dir)),
    }
    Ok(channel)
}

/// An answer of another kind than the request has.
pub(crate) fn unexpected(reply: &Reply) -> Error {
    let text = format!("{reply:?}");
    let kind = text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    Error::corrupt(format!("the daemon answered `{kind}` where that makes no sense"))
}

fn no_daemon(dir: &Path) -> Error {
    Error::new(
        ErrorKind::NoDaemon,
        format!("no daemon serves {}: start it with `codax up --store {}`", dir.display(), dir.display()),
    )
}

/// What tells the store in `dir` from a later one in the same place: a restart keeps the directory of its metadata, a purge doesn't.
pub(crate) type Identity = Option<(u64, u64, Option<SystemTime>)>;

/// The identity of the store in `dir` now.
pub(crate) fn identity(dir: &Path) -> Identity {
    let meta = std::fs::metadata(dir.join("meta")).ok()?;
    Some((meta.dev(), meta.ino(), meta.created().ok()))
}
