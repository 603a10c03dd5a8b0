//! What each request means to the engine.

use crate::control::{Attached, Control};
use crate::fit;
use crate::server::{Command, Shared};
use crate::session::STACK_BYTES;
use codax_core::info::{JobInfo, StoreInfo};
use codax_core::request::Layout;
use codax_core::{Error, Result};
use codax_engine::{DrainOptions, Session};
use codax_wire::{Attach, Channel, PACKET_MAX, Reply, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// Bytes of a packet that a directory's entries may take: the rest is for the message around them.
const ENTRIES_BYTES: usize = PACKET_MAX - 1024;

/// Most events in one answer.
const EVENTS_MAX: usize = 512;

/// Most quotas in one answer, and beside what else there is to say of the store.
const QUOTAS_MAX: usize = 512;
const QUOTAS_SHOWN: usize = 64;

/// How long a request for events waits for one.
const EVENTS_WAIT: Duration = Duration::from_secs(1);

/// Shortest time between two reports of progress. The engine asks at least every 100 ms whether to go on, so no report is later than 250 ms.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// An answer with the descriptors beside it.
pub(crate) type Answer = (Reply, Vec<OwnedFd>);

/// A client, between its greeting and its end.
#[derive(Debug)]
pub(crate) struct Client<'a> {
    shared: &'a Shared,
    channel: &'a Arc<Channel>,
    session: Arc<Session>,
    control: Option<Attached>,
}

impl<'a> Client<'a> {
    pub fn new(shared: &'a Shared, channel: &'a Arc<Channel>, session: Arc<Session>) -> Self {
        Self { shared, channel, session, control: None }
    }

    /// Ends the control socket and its thread.
    pub fn end(&mut self) {
        if let Some(control) = self.control.take() {
            control.end();
        }
    }

    /// Does what is asked. Descriptors that came with a request that has no use for them are closed.
    ///
    /// When this returns, mounts show what was changed.
    pub fn handle(&mut self, request: Request, fds: Vec<OwnedFd>) -> Result<Answer> {
        let shows = shows_in_mounts(&request);
        let answer = self.answer(request, fds);
        if shows {
            self.shared.mounts.tell_changes();
        }
        answer
    }

    fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) -> Result<Answer> {
        match request {
            Request::Hello(_) => Err(Error::invalid("this session has been greeted already")),
            Request::Drive(_) => Err(misplaced(&request)),
            Request::Attach(attach) => self.attach(&attach, fds),
            Request::Move { .. } | Request::Drain { .. } | Request::Online { .. } => {
                self.job(request).map(alone)
            }
            Request::Status
            | Request::Device { .. }
            | Request::DetachDevice { .. }
            | Request::AttachDevice { .. }
            | Request::EvictStrangers { .. }
            | Request::SetQuota { .. }
            | Request::Quotas { .. }
            | Request::Events { .. }
            | Request::Check { .. }
            | Request::Reload
            | Request::Mount { .. }
            | Request::Umount { .. }
            | Request::Down { .. } => self.about_store(&request).map(alone),
            Request::Open(_)
            | Request::Close(_)
            | Request::Links(_)
            | Request::Map { .. }
            | Request::Unmap { .. }
            | Request::Raw { .. }
            | Request::RawDone { .. }
            | Request::Read { .. }
            | Request::Write { .. }
            | Request::Sync(_)
            | Request::SetLen { .. }
            | Request::Publish { .. }
            | Request::Pin { .. }
            | Request::Unpin(_)
            | Request::StatHandle(_) => self.open_file(request),
            Request::Queue { .. }
            | Request::Grant { .. }
            | Request::CloseQueue(_)
            | Request::OpenGranted { .. } => self.queue(&request),
            Request::Stat(_)
            | Request::ReadDir { .. }
            | Request::Mkdir { .. }
            | Request::Remove { .. }
            | Request::Rename { .. }
            | Request::SetAttr { .. }
            | Request::SetEmergency { .. }
            | Request::Served(_)
            | Request::Usage(_) => self.named(&request).map(alone),
        }
    }

    fn attach(&mut self, attach: &Attach, fds: Vec<OwnedFd>) -> Result<Answer> {
        let (kernel_faults, user_faults_ok) = (attach.kernel_faults, attach.user_faults_ok);
        self.session.set_links(attach.links)?;
        let words = self.shared.store.words_fd()?;
        match (fds.into_iter().next(), &self.control) {
            (None, Some(_)) => self.session.set_faults(kernel_faults, user_faults_ok)?,
            (None, None) => return Err(Error::invalid("attach: the control socket is missing")),
            (Some(_), Some(_)) => {
                return Err(Error::invalid("attach: this session has a control socket already"));
            }
            (Some(fd), None) => {
                let control = Arc::new(Control::new(fd, self.session.pidfd())?);
                self.control = Some(Attached::start(
                    control.clone(),
                    self.session.clone(),
                    Arc::clone(self.channel),
                    STACK_BYTES,
                )?);
                self.session.attach(control, kernel_faults, user_faults_ok)?;
                self.session.reattach(&attach.mapped)?;
            }
        }
        let device = self.shared.userfaultfd.as_ref().map(|fd| fd.try_clone()).transpose();
        let device = device.map_err(|e| Error::internal(format!("attach: copy a descriptor: {e}")))?;
        Ok((Reply::Attached, std::iter::once(words).chain(device).collect()))
    }

    fn open_file(&self, request: Request) -> Result<Answer> {
        let session = &self.session;
        let reply = match request {
            Request::Open(open) => {
                let opened = session.open(&open)?;
                let (layout, fds) =
                    opened.layout.map_or_else(|| (None, Vec::new()), |(l, fds)| (Some(l), fds));
                let (handle, file, len, created) = (opened.handle, opened.file, opened.len, opened.created);
                return Ok((Reply::Opened { handle, file, len, created, layout }, fds));
            }
            Request::Map { handle, write } => return session.map(handle, write).map(laid_out),
            Request::Raw { handle, write } => return session.raw(handle, write).map(laid_out),
            Request::Close(handle) => {
                session.close(handle);
                Reply::Done
            }
            Request::Links(links) => done(session.set_links(links)?),
            Request::Unmap { file } => {
                session.unmap(file);
                Reply::Done
            }
            Request::RawDone { file } => {
                session.raw_done(file);
                Reply::Done
            }
            Request::Read { handle, at, len } => {
                let mut bytes = vec![0; (len as usize).min(codax_wire::BYTES_MAX)];
                let got = session.read_at(handle, at, &mut bytes)?;
                bytes.truncate(got);
                Reply::Bytes(bytes)
            }
            Request::Write { handle, at, bytes } => done(session.write_at(handle, at, &bytes)?),
            Request::Sync(handle) => done(session.sync(handle)?),
            Request::SetLen { handle, len } => done(session.set_len(handle, len)?),
            Request::Publish { handle, path, replace } => done(session.publish(handle, &path, replace)?),
            Request::Pin { handle, pages } => Reply::Pinned(session.pin(handle, pages)?),
            Request::Unpin(pin) => done(session.unpin(pin)?),
            Request::StatHandle(handle) => Reply::File(Box::new(session.stat_handle(handle)?)),
            other => return Err(misplaced(&other)),
        };
        Ok(alone(reply))
    }

    fn queue(&self, request: &Request) -> Result<Answer> {
        let session = &self.session;
        Ok(alone(match request {
            Request::Queue { pool, slots } => {
                let (queue, ring) = session.open_queue(pool, *slots)?;
                return Ok((Reply::Queue(queue), vec![ring]));
            }
            Request::Grant { queue, handle, write } => {
                Reply::Granted(session.grant(*queue, *handle, *write)?)
            }
            Request::CloseQueue(queue) => {
                session.close_queue(*queue);
                Reply::Done
            }
            Request::OpenGranted { queue, number } => {
                let opened = session.open_granted(*queue, *number)?;
                let (handle, file, len) = (opened.handle, opened.file, opened.len);
                Reply::Opened { handle, file, len, created: false, layout: None }
            }
            other => return Err(misplaced(other)),
        }))
    }

    fn named(&self, request: &Request) -> Result<Reply> {
        let session = &self.session;
        Ok(match request {
            Request::Stat(path) => Reply::File(Box::new(session.stat(path)?)),
            Request::ReadDir { path, after } => {
                let (entries, more) = session.read_dir(path, after.as_deref(), ENTRIES_BYTES)?;
                Reply::Entries { entries, more }
            }
            Request::Mkdir { path, mode, placement } => {
                done(session.mkdir(path, *mode, placement.as_ref())?)
            }
            Request::Remove { path, recursive } => done(session.remove(path, *recursive)?),
            Request::Rename { from, to, noreplace } => done(session.rename(from, to, *noreplace)?),
            Request::SetAttr { path, mode, uid, gid, placement } => {
                let placement = placement.as_ref().map(Option::as_ref);
                done(session.set_attr(path, *mode, *uid, *gid, placement)?)
            }
            Request::SetEmergency { path, allowed } => done(session.set_emergency(path, *allowed)?),
            Request::Served(path) => Reply::Served(self.shared.mounts.served(session.stat(path)?.id)?),
            Request::Usage(path) => {
                let (files, dirs, len, backed) = session.usage(path)?;
                Reply::Usage { files, dirs, len, backed }
            }
            other => return Err(misplaced(other)),
        })
    }

    /// What takes time: the client hears how far it is, and cancels it by hanging up.
    fn job(&self, request: Request) -> Result<Reply> {
        let mut reporter = Reporter { channel: self.channel, last: Instant::now() };
        let mut progress = |info: &JobInfo| reporter.report(info);
        let mut report = match request {
            Request::Move { path, to, range } => self.session.move_file(&path, &to, range, &mut progress)?,
            Request::Drain { pool, dry_run, wait_ns, limit, evict, volatile, reset, running } => {
                let wait = Duration::from_nanos(wait_ns);
                let options = DrainOptions { dry_run, wait, limit, evict, volatile, reset, running };
                self.session.drain(&pool, options, &mut progress)?
            }
            Request::Online { pool, anew: false } => self.session.online(&pool, &mut progress)?,
            Request::Online { pool, anew: true } => self.session.online_anew(&pool, &mut progress)?,
            other => return Err(misplaced(&other)),
        };
        if let Some(plan) = &report.plan {
            // A plan too large for a packet is cut: this says how many moves it has.
            report.files = report.files.max(plan.moves.len() as u64);
        }
        Ok(Reply::Job(Box::new(report)))
    }

    fn about_store(&self, request: &Request) -> Result<Reply> {
        let store = &self.shared.store;
        Ok(match request {
            Request::Status => {
                let mounts = self.shared.mounts.info();
                let (quotas, more_quotas) = self.session.quotas(0, QUOTAS_SHOWN);
                let info = StoreInfo { mounts, quotas, more_quotas, ..store.info() };
                Reply::Store(Box::new(info))
            }
            Request::Mount { dir, options } => {
                self.session.require_admin("mount")?;
                done(self.shared.mounts.mount(Path::new(OsStr::from_bytes(dir)), *options)?)
            }
            Request::Umount { dir } => {
                self.session.require_admin("umount")?;
                let dir = dir.as_deref().map(|dir| Path::new(OsStr::from_bytes(dir)));
                let gone = self.shared.mounts.umount(dir)?.into_iter();
                Reply::Dirs(gone.map(|dir| dir.into_os_string().into_vec()).collect())
            }
            Request::Device { pool } => Reply::Device(Box::new(store.device(pool)?)),
            Request::DetachDevice { pool } => done(self.session.detach_device(pool)?),
            Request::AttachDevice { pool } => done(self.session.attach_device(pool)?),
            Request::EvictStrangers { pool, dry_run } => {
                let mounts = self.shared.mounts.devices();
                Reply::Strangers(Box::new(self.session.evict_strangers(pool, *dry_run, &mounts)?))
            }
            Request::SetQuota { of, pool, bytes } => {
                done(self.session.set_quota(of, pool.as_deref(), *bytes)?)
            }
            Request::Quotas { first } => {
                let first = usize::try_from(*first).unwrap_or(usize::MAX);
                let (quotas, more) = self.session.quotas(first, QUOTAS_MAX);
                Reply::Quotas { quotas, more }
            }
            Request::Events { since, wait } => {
                self.session.require_admin("events")?;
                if *wait {
                    // Whether one has come shows in the answer.
                    let _ = store.wait_events(*since, EVENTS_WAIT);
                }
                Reply::Events(store.events(*since, EVENTS_MAX))
            }
            Request::Check { repair } => {
                self.session.require_admin("check")?;
                Reply::Findings(store.check(*repair)?)
            }
            Request::Reload => {
                self.session.require_admin("reload")?;
                Reply::Lines(self.command(|answer| Command::Reload(Some(answer)))?)
            }
            Request::Down { purge } => {
                self.session.require_admin(if *purge { "down --purge" } else { "down" })?;
                done(self.command(|answer| Command::Stop { purge: *purge, answer: Some(answer) })?)
            }
            other => return Err(misplaced(other)),
        })
    }

    /// Has the main thread do something, and waits for its answer.
    fn command<T>(
        &self,
        command: impl FnOnce(std::sync::mpsc::SyncSender<Result<T>>) -> Command,
    ) -> Result<T> {
        let ending = || Error::busy("the daemon is ending");
        let (answer, wait) = sync_channel(1);
        self.shared.commands.send(command(answer)).map_err(|_| ending())?;
        wait.recv().map_err(|_| ending())?
    }
}

/// Tells a client how far a job is.
struct Reporter<'a> {
    channel: &'a Channel,
    last: Instant,
}

impl Reporter<'_> {
    /// False if the client has hung up. A client that doesn't read misses reports and holds nobody up.
    fn report(&mut self, info: &JobInfo) -> bool {
        let mut polled = [PollFd::new(self.channel, PollFlags::OUT | PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut polled, Some(&now)).is_err() {
            // Interrupted: the next time will tell.
            return true;
        }
        let state = polled[0].revents();
        if state.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::RDHUP) {
            return false;
        }
        if !state.contains(PollFlags::OUT) || self.last.elapsed() < PROGRESS_EVERY {
            return true;
        }
        self.last = Instant::now();
        self.channel.send(&fit::progress(info), &[]).is_ok()
    }
}

/// Whether a request may change what the kernel has cached of a mount: names, lengths, owners, modes.
fn shows_in_mounts(request: &Request) -> bool {
    matches!(
        request,
        Request::Open(_)
            | Request::Close(_)
            | Request::SetLen { .. }
            | Request::Publish { .. }
            | Request::Mkdir { .. }
            | Request::Remove { .. }
            | Request::Rename { .. }
            | Request::SetAttr { .. }
            | Request::SetEmergency { .. }
            | Request::RawDone { .. }
    )
}

fn alone(reply: Reply) -> Answer {
    (reply, Vec::new())
}

fn laid_out((layout, fds): (Layout, Vec<OwnedFd>)) -> Answer {
    (Reply::Layout(layout), fds)
}

fn done((): ()) -> Reply {
    Reply::Done
}

/// [`Client::handle`] sorts requests into groups; this one is in the wrong one.
fn misplaced(request: &Request) -> Error {
    Error::internal(format!("no answer is known to {request:?}"))
}
