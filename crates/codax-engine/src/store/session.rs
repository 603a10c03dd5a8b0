//! Sessions: who is connected, what they hold, and how mappers are told what to do.

use crate::mover::live::Input;
use crate::store::Store;
use crate::store::state::{MapperEntry, State};
use codax_core::extent;
use codax_core::frame::FrameFlags;
use codax_core::live::{MoverAck, MoverMsg, Step};
use codax_core::namespace::{Cred, Want};
use codax_core::plan::Holder;
use codax_core::request::{Handle, Layout, Mapped, PinId};
use codax_core::{Error, FileId, PageRange, Result, SessionId};
use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The process at the other end of a session.
#[derive(Debug)]
pub struct Peer {
    /// Who it is.
    pub cred: Cred,
    /// Its process id, as the kernel says.
    pub pid: u32,
    /// A descriptor of the process, so that the right one is meant when it has to be killed.
    pub pidfd: Option<OwnedFd>,
}

/// How a mapper is reached: its control socket.
pub trait Mapper: Send + Sync + std::fmt::Debug {
    /// Sends a message, in order, without waiting for the other side. An error means that the mapper can't be reached any more.
    fn send(&self, message: &MoverMsg, fd: Option<BorrowedFd<'_>>) -> Result<()>;
}

/// A session as the state keeps it.
#[derive(Debug)]
pub(crate) struct SessionEntry {
    pub pid: u32,
    pub command: String,
    pub pidfd: Option<Arc<OwnedFd>>,
    pub mapper: Option<Arc<dyn Mapper>>,
    pub kernel_faults: bool,
    pub user_faults_ok: bool,
    /// Connections with mappings that its process says it has.
    pub links: u32,
    pub handles: HashMap<Handle, OpenFile>,
    next_handle: u32,
    next_pin: u32,
}

/// An open file of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenFile {
    pub file: FileId,
    pub read: bool,
    pub write: bool,
}

impl SessionEntry {
    pub fn add_handle(&mut self, open: OpenFile) -> Handle {
        self.next_handle += 1;
        let handle = Handle(self.next_handle);
        self.handles.insert(handle, open);
        handle
    }

    pub fn holder(&self, why: impl Into<String>) -> Holder {
        Holder { pid: Some(self.pid), command: self.command.clone(), why: why.into() }
    }

    /// Why a file that this session maps can't be moved now, if it can't.
    pub fn immovable(&self) -> Option<Holder> {
        if self.mapper.is_none() {
            return Some(self.holder("maps it and can't be told to switch: its control connection is gone"));
        }
        if !self.kernel_faults && !self.user_faults_ok {
            return Some(self.holder(
                "maps it without the right to catch faults of system calls: give it /dev/userfaultfd, set vm.unprivileged_userfaultfd=1, or let the program opt in (see codax doctor)",
            ));
        }
        None
    }
}

/// A connected client. Dropping it is the client's death: all it held is free.
#[derive(Debug)]
pub struct Session {
    pub(crate) store: Store,
    pub(crate) id: SessionId,
    pub(crate) cred: Cred,
}

/// Where a file's pages are, and a descriptor for each pool that occurs, in the order of first occurrence.
pub type LayoutFds = (Layout, Vec<OwnedFd>);

impl Store {
    /// A client has connected.
    #[must_use]
    pub fn connect(&self, peer: Peer) -> Session {
        let mut st = self.inner.lock();
        st.next_session += 1;
        let id = SessionId(st.next_session);
        let cred = peer.cred.clone();
        let entry = SessionEntry {
            pid: peer.pid,
            command: codax_os::process::command(peer.pid),
            pidfd: peer.pidfd.map(Arc::new),
            mapper: None,
            kernel_faults: false,
            user_faults_ok: false,
            links: 0,
            handles: HashMap::new(),
            next_handle: 0,
            next_pin: 0,
        };
        st.sessions.insert(id, entry);
        Session { store: self.clone(), id, cred }
    }
}

impl Session {
    /// Who it is.
    #[must_use]
    pub fn cred(&self) -> &Cred {
        &self.cred
    }

    /// A descriptor of its process, if there is one.
    #[must_use]
    pub fn pidfd(&self) -> Option<Arc<OwnedFd>> {
        self.store.inner.lock().sessions.get(&self.id).and_then(|s| s.pidfd.clone())
    }

    /// `Permission` unless the session is the store's owner or root. `what` names the act.
    pub fn require_admin(&self, what: &str) -> Result<()> {
        if self.cred.admin {
            return Ok(());
        }
        Err(Error::permission(format!(
            "{what}: only the store's owner (uid {}) and root may",
            self.store.inner.uid
        )))
    }

    fn entry<'a>(&self, st: &'a mut State) -> Result<&'a mut SessionEntry> {
        st.sessions.get_mut(&self.id).ok_or_else(|| Error::internal("the session is over"))
    }

    pub(crate) fn handle(&self, st: &State, handle: Handle) -> Result<OpenFile> {
        let open = st.sessions.get(&self.id).and_then(|s| s.handles.get(&handle)).copied();
        open.ok_or_else(|| Error::invalid(format!("handle {} is not open in this session", handle.0)))
    }

    /// The session has a control socket: it can map files.
    pub fn attach(&self, mapper: Arc<dyn Mapper>, kernel_faults: bool, user_faults_ok: bool) -> Result<()> {
        let mut st = self.store.inner.lock();
        let entry = self.entry(&mut st)?;
        entry.mapper = Some(mapper);
        entry.kernel_faults = kernel_faults;
        entry.user_faults_ok = user_faults_ok;
        Ok(())
    }

    /// Which faults the session can catch, found out after it attached.
    pub fn set_faults(&self, kernel_faults: bool, user_faults_ok: bool) -> Result<()> {
        let mut st = self.store.inner.lock();
        let entry = self.entry(&mut st)?;
        entry.kernel_faults = kernel_faults;
        entry.user_faults_ok = user_faults_ok;
        Ok(())
    }

    /// How many connections the session's process has over which it may map files. Until so many have attached, what it maps counts as held.
    pub fn set_links(&self, links: u32) -> Result<()> {
        let mut st = self.store.inner.lock();
        self.entry(&mut st)?.links = links;
        drop(st);
        self.store.inner.changed.notify_all();
        Ok(())
    }

    /// The session maps these files since before the daemon was started.
    pub fn reattach(&self, mapped: &[Mapped]) -> Result<()> {
        let inner = &self.store.inner;
        let mut st = inner.lock();
        for m in mapped {
            let Some(inode) = st.ns.get(m.file) else {
                let subject = format!("#{}", m.file);
                inner.event("refuse", &subject, "a client maps a file that is not in this store", 0);
                continue;
            };
            let path = st.ns.path_of(m.file).unwrap_or_default();
            let want = if m.write { Want(Want::READ.0 | Want::WRITE.0) } else { Want::READ };
            if let Err(e) = st.ns.check(&self.cred, m.file, want, &path) {
                // What it maps it maps; it is not told where the file goes, and counts as a stranger who holds it.
                inner.event("refuse", &st.path(m.file), &format!("a client says it maps it: {e}"), 0);
                continue;
            }
            if m.runs.iter().any(|run| run.pages.start.0.checked_add(run.pages.count.0).is_none()) {
                return Err(Error::invalid(format!(
                    "{}: a client maps pages beyond all files",
                    st.path(m.file)
                )));
            }
            for run in &m.runs {
                let here = extent::slice(&inode.extents, run.pages);
                if here.iter().any(|e| !st.media.same(e.pool, run.pool)) {
                    return Err(Error::corrupt(format!(
                        "{}: a client sees pages {}..{} in another object than the journal",
                        st.path(m.file),
                        run.pages.start,
                        run.pages.end()
                    )));
                }
            }
            let entry = MapperEntry { mappings: m.mappings, write: m.write };
            st.live.entry(m.file).or_default().mappers.insert(self.id, entry);
            st.lost_orphans.remove(&m.file);
        }
        inner.changed.notify_all();
        Ok(())
    }

    /// The control socket is about to end while the session lives: what it maps can't be moved any more. When this returns nothing is committed that the
    /// session would have to be told of; only then may the client see the end, at which it settles by the commit words.
    pub fn control_lost(&self) {
        let (done, reached) = std::sync::mpsc::channel();
        {
            let mut st = self.store.inner.lock();
            if let Some(entry) = st.sessions.get_mut(&self.id) {
                entry.mapper = None;
            }
            for driver in st.segments.values().filter_map(|s| s.to_driver.as_ref()) {
                let _ = driver.send(Input::Gone(self.id));
                let _ = driver.send(Input::Barrier(done.clone()));
            }
        }
        drop(done);
        // It ends when every driver has answered, or is gone with what was sent to it.
        while reached.recv().is_ok() {}
    }

    /// A mapper's answer.
    pub fn ack(&self, ack: MoverAck) {
        let mut st = self.store.inner.lock();
        let id = ack.id;
        let ended = ack.step == Step::End;
        if let Some(driver) = st.segments.get(&id).and_then(|s| s.to_driver.as_ref()) {
            // A driver that is gone has left the segment: nobody waits for this.
            let _ = driver.send(Input::Ack(self.id, ack));
        }
        if ended {
            st.straggler_done(id, self.id);
            self.store.inner.changed.notify_all();
        }
    }

    /// Forgets a handle.
    pub fn close(&self, handle: Handle) {
        let inner = &self.store.inner;
        let mut st = inner.lock();
        let Some(open) = st.sessions.get_mut(&self.id).and_then(|s| s.handles.remove(&handle)) else {
            return;
        };
        if let Some(live) = st.live.get_mut(&open.file) {
            live.opens -= 1;
        }
        inner.reap(&mut st, open.file);
    }

    /// Counts the session as a mapper of the file, and says where its pages are.
    pub fn map(&self, handle: Handle, write: bool) -> Result<LayoutFds> {
        let inner = &self.store.inner;
        let st = inner.lock();
        let open = self.handle(&st, handle)?;
        self.check_access(&st, open, write)?;
        let st = inner.wait_idle(st, open.file)?;
        let mut st = inner.whole(st, open.file)?;
        self.map_now(&mut st, open.file, write)
    }

    pub(crate) fn require_mapper(&self, st: &mut State) -> Result<()> {
        if self.entry(st)?.mapper.is_some() {
            return Ok(());
        }
        Err(Error::invalid("map: attach a control socket first"))
    }

    pub(crate) fn map_now(&self, st: &mut State, file: FileId, write: bool) -> Result<LayoutFds> {
        self.require_mapper(st)?;
        let layout = self.store.inner.layout(st, file, write)?;
        if write {
            st.watch(file);
        }
        let entry = st.live.entry(file).or_default().mappers.entry(self.id).or_default();
        entry.mappings += 1;
        entry.write |= write;
        Ok(layout)
    }

    /// A mapping of the file is gone.
    pub fn unmap(&self, file: FileId) {
        let inner = &self.store.inner;
        let mut st = inner.lock();
        let Some(live) = st.live.get_mut(&file) else { return };
        let Some(entry) = live.mappers.get_mut(&self.id) else { return };
        entry.mappings = entry.mappings.saturating_sub(1);
        if entry.mappings == 0 {
            let wrote = entry.write;
            live.mappers.remove(&self.id);
            if wrote {
                inner.touch(&mut st, file);
            }
        }
        inner.reap(&mut st, file);
        inner.changed.notify_all();
    }

    /// As [`Session::map`], to copy by descriptor: the file stays where it is until [`Session::raw_done`]. Who only reads is told of holes, as pages
    /// in no run: they are zeros.
    pub fn raw(&self, handle: Handle, write: bool) -> Result<LayoutFds> {
        let inner = &self.store.inner;
        let st = inner.lock();
        let open = self.handle(&st, handle)?;
        self.check_access(&st, open, write)?;
        let mut st = inner.wait_idle(st, open.file)?;
        if write {
            st = inner.whole(st, open.file)?;
        } else {
            inner.refresh(&mut st, open.file);
        }
        let layout = inner.layout(&st, open.file, write)?;
        if write {
            st.watch(open.file);
        }
        let raw = st.live.entry(open.file).or_default().raw.entry(self.id).or_default();
        raw.count += 1;
        raw.write |= write;
        Ok(layout)
    }

    /// The descriptors got by [`Session::raw`] are closed.
    pub fn raw_done(&self, file: FileId) {
        let inner = &self.store.inner;
        let mut st = inner.lock();
        let Some(live) = st.live.get_mut(&file) else { return };
        let Some(raw) = live.raw.get_mut(&self.id) else { return };
        raw.count -= 1;
        let wrote = raw.write;
        if raw.count == 0 {
            live.raw.remove(&self.id);
        }
        if wrote {
            inner.touch(&mut st, file);
        }
        inner.reap(&mut st, file);
        inner.changed.notify_all();
    }

    pub(crate) fn check_access(&self, st: &State, open: OpenFile, write: bool) -> Result<()> {
        let allowed = if write { open.write } else { open.read || open.write };
        if !allowed {
            let path = st.path(open.file);
            return Err(Error::permission(format!(
                "{path} is not open for {}",
                if write { "writing" } else { "reading" }
            )));
        }
        Ok(())
    }

    /// Holds pages for DMA.
    pub fn pin(&self, handle: Handle, pages: PageRange) -> Result<PinId> {
        let inner = &self.store.inner;
        let st = inner.lock();
        let open = self.handle(&st, handle)?;
        let st = inner.wait_idle(st, open.file)?;
        let mut st = inner.whole(st, open.file)?;
        let inode = st.ns.get(open.file).ok_or_else(|| Error::not_found(format!("#{}", open.file)))?;
        let have = codax_core::PageCount::for_bytes(inode.len).0;
        // A client says it: the sum may be more than a number can be.
        let end = pages.start.0.checked_add(pages.count.0);
        if pages.is_empty() || end.is_none_or(|end| end > have) {
            return Err(Error::invalid(format!(
                "{}: {} pages from {} on can't be pinned: it has {have}",
                st.path(open.file),
                pages.count,
                pages.start
            )));
        }
        let entry = self.entry(&mut st)?;
        entry.next_pin += 1;
        let pin = PinId(entry.next_pin);
        st.live.entry(open.file).or_default().pins.insert((self.id, pin), pages);
        st.count_pins(open.file, pages, 1);
        Ok(pin)
    }

    /// Ends a pin.
    pub fn unpin(&self, pin: PinId) -> Result<()> {
        let inner = &self.store.inner;
        let mut st = inner.lock();
        let found = st.live.iter().find_map(|(file, l)| l.pins.get(&(self.id, pin)).map(|r| (*file, *r)));
        let (file, pages) =
            found.ok_or_else(|| Error::invalid(format!("pin {} is not this session's", pin.0)))?;
        st.end_pin(file, (self.id, pin), pages);
        inner.reap(&mut st, file);
        inner.changed.notify_all();
        Ok(())
    }
}

impl State {
    /// Counts pins in the frame table.
    fn count_pins(&mut self, file: FileId, pages: PageRange, by: i32) {
        let extents = self.ns.get(file).map(|i| extent::slice(&i.extents, pages)).unwrap_or_default();
        for e in extents {
            let run = extent::FrameRun { frame: e.frame, count: e.count };
            self.pool_mut(e.pool).table.pins(run, by);
        }
        if by > 0 {
            self.flag(file, pages, FrameFlags::PINNED, true);
        }
    }

    fn end_pin(&mut self, file: FileId, key: (SessionId, PinId), pages: PageRange) {
        if let Some(live) = self.live.get_mut(&file) {
            live.pins.remove(&key);
        }
        self.count_pins(file, pages, -1);
        self.flag(file, pages, FrameFlags::PINNED, false);
        let still: Vec<_> =
            self.live.get(&file).map(|l| l.pins.values().copied().collect()).unwrap_or_default();
        for range in still {
            self.flag(file, range, FrameFlags::PINNED, true);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let inner = &self.store.inner;
        let mut st = inner.lock();
        let mut touched: Vec<FileId> = Vec::new();
        if let Some(entry) = st.sessions.remove(&self.id) {
            for open in entry.handles.values() {
                if let Some(live) = st.live.get_mut(&open.file) {
                    live.opens -= 1;
                }
                touched.push(open.file);
            }
        }
        inner.end_queues_of(&mut st, self.id);
        let mut pins: Vec<(FileId, (SessionId, PinId), PageRange)> = Vec::new();
        for (&file, live) in &mut st.live {
            pins.extend(live.pins.iter().filter(|((s, _), _)| *s == self.id).map(|(k, r)| (file, *k, *r)));
            let mapped = live.mappers.remove(&self.id).is_some();
            let raw = live.raw.remove(&self.id).is_some();
            if mapped || raw {
                touched.push(file);
            }
        }
        for (file, key, pages) in pins {
            st.end_pin(file, key, pages);
            touched.push(file);
        }
        let segments: Vec<_> = st.segments.keys().copied().collect();
        for id in segments {
            if let Some(driver) = st.segments.get(&id).and_then(|s| s.to_driver.as_ref()) {
                let _ = driver.send(Input::Gone(self.id));
            }
            st.straggler_done(id, self.id);
        }
        for file in touched {
            inner.reap(&mut st, file);
        }
        inner.retry_held(&mut st);
        inner.changed.notify_all();
    }
}

impl SessionEntry {
    /// Kills the process: the operator asked for it.
    pub fn kill(&self) -> Result<()> {
        let Some(pidfd) = &self.pidfd else {
            return Err(Error::internal(format!("process {} can't be killed safely: no pidfd", self.pid)));
        };
        codax_os::process::kill(std::os::fd::AsFd::as_fd(&**pidfd))
            .map_err(|e| crate::backing::os_error("kill process", &self.pid, &e))
    }
}
