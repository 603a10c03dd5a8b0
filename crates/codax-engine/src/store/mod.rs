//! The store: one namespace, its pools and its journal.
//!
//! All state in memory is behind one lock (`state::State`). A change is made in this order: look and reserve frames under the lock; work on
//! objects outside it; then, under the lock again, journal, memory, frame table. What has been journalled has happened; what has not is swept up at the
//! next start.

mod admin;
mod attach;
pub(crate) mod blocks;
mod bytes;
mod exclusive;
pub(crate) mod files;
mod growth;
pub(crate) mod held;
mod lifecycle;
pub(crate) mod lost;
pub(crate) mod media;
mod new_pools;
pub(crate) mod quota;
mod recover;
mod reload;
pub(crate) use admin::pages_in;
pub use exclusive::{check_movable, kept_modes};
pub use lifecycle::{Layout, prepare_dir, purge_contents, purge_dir, purge_idle};
pub use recover::MakeBacking;
pub(crate) use recover::{names_of, resident, stale_ranges};
pub(crate) mod session;
pub(crate) mod state;

pub use files::Opened;
pub use session::{Mapper, Peer, Session};

use crate::env::Env;
use crate::events::Events;
use crate::journal::Journal;
use crate::names::NamesFile;
use crate::options::StoreOptions;
use codax_core::change::Change;
use codax_core::frame::FrameFlags;
use codax_core::name::Name;
use codax_core::namespace::{Inode, Kind, Namespace};
use codax_core::{Error, FileId, PageRange, Result};
use state::{Busy, Live, State};
use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

/// How long an operation waits for a file whose pages are on the move. A move makes room at the next chunk, so this passes only when a
/// mapper of the file doesn't answer.
const BUSY_WAIT: Duration = Duration::from_secs(10);

/// Ids for which the journal is asked at once.
const IDS_AT_ONCE: u64 = 4096;

/// A store. Clones are the same store.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub env: Arc<dyn Env>,
    pub options: RwLock<Arc<StoreOptions>>,
    pub state: Mutex<State>,
    /// Something changed that somebody may wait for: a file is not busy any more, a holder let go, a session went.
    pub changed: Condvar,
    pub journal: Journal,
    pub names: NamesFile,
    pub events: Events,
    /// The user that the store belongs to.
    pub uid: u32,
    /// Drawn anew at each start.
    pub epoch: u64,
    pub started: Duration,
    /// For work that outlives the call that began it.
    pub me: Weak<Inner>,
    /// Dropped last of all: who has another of it sees when the rest is gone.
    pub last: Arc<()>,
}

pub(crate) type Guard<'a> = MutexGuard<'a, State>;

impl Inner {
    pub fn myself(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    pub fn lock(&self) -> Guard<'_> {
        self.lock_for(None)
    }

    /// [`Inner::lock`] on behalf of a mount, if so.
    pub fn lock_for(&self, mount: Option<u64>) -> Guard<'_> {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        guard.acting = mount;
        guard
    }

    pub fn wait_changed<'a>(&self, guard: Guard<'a>, time: Duration) -> Guard<'a> {
        let acting = guard.acting;
        let mut guard = self.changed.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner).0;
        guard.acting = acting;
        guard
    }

    pub fn options(&self) -> Arc<StoreOptions> {
        self.options.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Journals changes and does them.
    pub fn commit(&self, st: &mut State, changes: &[Change]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let cleared = st.quotas_of_dropped(changes);
        let changes =
            &*if cleared.is_empty() { Cow::from(changes) } else { [changes, &cleared].concat().into() };
        for change in changes {
            if let Change::Put(inode) = change {
                Namespace::check_inode(inode)?;
            }
        }
        self.record(st, changes)?;
        if let Err(e) = self.journal.append(changes) {
            // The catalogs have been told of what will not happen.
            self.align_catalogs(st);
            return Err(e);
        }
        self.env.reached("committed");
        let places_anew = self.places_anew(st, changes);
        let payers = st.payers_before(changes);
        let cuts = changes.iter().any(|change| st.is_cut_by(change));
        changes.iter().for_each(|change| self.apply(st, change));
        if cuts && let Err(e) = self.journal.words().count_cut() {
            // It is a store into mapped memory.
            tracing::error!("{e}");
        }
        st.charge_anew(payers, changes);
        self.tell_quotas(st);
        if places_anew {
            self.align_catalogs(st);
        }
        for mount in st.mounts.iter().filter(|m| st.acting != Some(m.id)) {
            mount.note(changes);
        }
        Ok(())
    }

    /// Does what the journal says: in the namespace, in what is counted, and in the names file.
    fn apply(&self, st: &mut State, change: &Change) {
        // Who had the name before: gone with it, or replaced by another.
        let before = match change {
            Change::Unlink { dir, name } | Change::Link { dir, name, .. } => {
                Name::new(name).ok().and_then(|n| st.ns.lookup(*dir, &n))
            }
            _ => None,
        };
        if let Change::Drop(id) = change {
            st.keep_known(*id, self.env.wall_ns());
        }
        let put = match change {
            Change::Put(inode) => Some((inode.id, inode.ahead)),
            Change::Drop(id) => Some((*id, None)),
            _ => None,
        };
        let ahead = put.map(|(id, now)| (st.ns.get(id).and_then(|inode| inode.ahead), now));
        if let Change::Quota(quota) = change {
            st.quotas.set(quota);
        }
        if let Err(e) = st.ns.apply(change) {
            // The journal says what memory can't: whatever came next would be built on one of two truths.
            tracing::error!("a change that is in the journal can't be true: {e}");
            std::process::abort();
        }
        if let Some((was, now)) = ahead {
            st.count_ahead(was, now);
        }
        if let Err(e) = self.name(st, change, before) {
            tracing::warn!("names file: {e}");
        }
    }

    /// Keeps the names file, which only serves tools that look at a dead store: it is written anew at each start. `before` had the name that a change gives or takes.
    fn name(&self, st: &State, change: &Change, before: Option<FileId>) -> Result<()> {
        match change {
            Change::Link { dir, name, child } => self.names.set(*child, *dir, name)?,
            Change::Drop(id) => self.names.remove(*id)?,
            _ => {}
        }
        // Another of its names counts now.
        match before.and_then(|id| Some((id, st.ns.parent_of(id)?))) {
            Some((id, (dir, name))) => self.names.set(id, dir, name.as_bytes()),
            None => Ok(()),
        }
    }

    /// Makes sure that the next id is one that a restart won't give out again. To be called before one is taken.
    pub fn allow_id(&self, st: &mut State) -> Result<()> {
        if st.ns.next_id() < st.ids_below {
            return Ok(());
        }
        let below = FileId(st.ns.next_id().0 + IDS_AT_ONCE);
        self.commit(st, &[Change::IdsBelow(below)])?;
        st.ids_below = below;
        Ok(())
    }

    pub fn event(&self, what: &str, subject: &str, detail: &str, bytes: u64) {
        tracing::debug!(what, subject, detail, bytes);
        self.events.record(self.env.wall_ns(), what, subject, detail, bytes);
    }

    /// Waits until nobody changes where the pages of `file` are, or reads or writes them for a mount; asks a move to make room.
    pub fn wait_idle<'a>(&'a self, st: Guard<'a>, file: FileId) -> Result<Guard<'a>> {
        self.wait_for(st, file, |live| live.io == 0)
    }

    /// Waits until nobody changes where the pages of `file` are.
    pub fn wait_still<'a>(&'a self, st: Guard<'a>, file: FileId) -> Result<Guard<'a>> {
        self.wait_for(st, file, |_| true)
    }

    fn wait_for<'a>(
        &'a self,
        mut st: Guard<'a>,
        file: FileId,
        may_go: impl Fn(&Live) -> bool,
    ) -> Result<Guard<'a>> {
        let mut deadline = None;
        loop {
            let Some(live) = st.live.get_mut(&file) else { return Ok(st) };
            if live.busy.is_none() && may_go(live) {
                return Ok(st);
            }
            let busy = live.busy.clone();
            let now = self.env.now();
            let deadline = *deadline.get_or_insert(now + BUSY_WAIT);
            if now >= deadline {
                let path = st.path(file);
                let what = busy.map_or("read or write", |b| b.what);
                return Err(Error::busy(format!(
                    "{path}: a {what} of it waits for a process that does not answer (see codax status): try again later"
                )));
            }
            if let Some(busy) = busy {
                busy.preempt.store(true, Ordering::Relaxed);
            }
            live.waiters += 1;
            st = self.wait_changed(st, deadline - now);
            if let Some(live) = st.live.get_mut(&file) {
                live.waiters -= 1;
            }
            // Who waits to move it on may go on when the last of us is through.
            self.changed.notify_all();
        }
    }

    /// Makes `file` busy with `what`; others wait until [`Inner::end_busy`].
    pub fn make_busy(&self, st: &mut State, file: FileId, what: &'static str) -> Arc<AtomicBool> {
        let preempt = Arc::new(AtomicBool::new(false));
        st.live.entry(file).or_default().busy = Some(Busy { what, preempt: preempt.clone() });
        preempt
    }

    pub fn end_busy(&self, st: &mut State, file: FileId) {
        self.not_busy(st, file);
        self.changed.notify_all();
    }

    /// As [`Inner::end_busy`], but those who wait are the caller's to wake.
    pub fn not_busy(&self, st: &mut State, file: FileId) {
        if let Some(live) = st.live.get_mut(&file) {
            live.busy = None;
        }
        st.flag(file, PageRange::ALL, FrameFlags::MOVING, false);
        self.reap(st, file);
    }

    /// Drops what nobody uses any more: the record of who uses a file, and a file without names, unless it is from before the start and clients may come
    /// back for it.
    pub fn reap(&self, st: &mut State, file: FileId) {
        if st.live.get(&file).is_some_and(|l| !l.unused()) {
            return;
        }
        st.live.remove(&file);
        if st.lost_orphans.contains(&file) {
            return;
        }
        let gone = |i: &&Inode| i.nlink == 0 && i.kind != Kind::Dir;
        let orphan = st.ns.get(file).filter(gone).map(|i| (i.extents.clone(), i.ahead));
        let Some((extents, ahead)) = orphan else { return };
        if let Err(e) = self.commit(st, &[Change::Drop(file)]) {
            // It stays an orphan; the next start drops it.
            tracing::error!("drop #{file}: {e}");
            return;
        }
        self.give_up(st, file, extents);
        if let Some(pool) = ahead {
            // Its object may have no pages that are known.
            self.give_back_object(st, file, pool);
        }
    }
}
