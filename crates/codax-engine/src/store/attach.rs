//! Detaching a device that a drain has emptied, so that its memory can leave the machine, and attaching it again.

use crate::backing::{Backing, Shm, ShmOptions, give_back, os_error, raised_path};
use crate::dax::Take;
use crate::drain::DrainOptions;
use crate::store::blocks::{own_medium, with_retired};
use crate::store::exclusive::{check_mode, drop_reserve};
use crate::store::lifecycle::{Layout, Opened, detached_huge, huge_place, is_shared, open_backing};
use crate::store::recover::adopt;
use crate::store::state::{Job, State, is_dram};
use crate::store::{Inner, Session};
use codax_core::change::{Change, PoolRecord, PoolState};
use codax_core::units::format_size;
use codax_core::{Error, PageCount, PoolId, Result};
use codax_os::{mounts, topology};
use std::path::Path;
use std::sync::Arc;

impl Session {
    /// Lets go of an offline device: nothing of the store's is on it afterwards. `DeviceState` if it is not offline.
    pub fn detach_device(&self, name: &str) -> Result<()> {
        self.require_admin(&format!("detach {name}"))?;
        let inner = &self.store.inner;
        let mut st = inner.lock();
        let pool = device(&st, name)?;
        let wrong = |why: &str| Err(Error::device_state(format!("{name} is {why}")));
        match st.pool(pool).record.state {
            PoolState::Offline => {}
            PoolState::Detached => return wrong("detached already"),
            PoolState::Online => return wrong("online: codax device drain takes out what is on it"),
            PoolState::Draining => return wrong("being drained: wait for that to end"),
        }
        inner.set_pool_state(&mut st, pool, PoolState::Detached, &DrainOptions::default())?;
        // The journal says so already: a start would take it out of its place as well.
        let layout = Layout { dir: inner.options().dir.clone() };
        match without_memory(&layout, &st, pool) {
            Ok(None) => {}
            Ok(Some(empty)) => {
                let pool = st.pool_mut(pool);
                pool.catalog = None;
                pool.set_absent(PageCount(0));
                pool.backing = empty;
            }
            Err(e) => {
                inner.set_pool_state(&mut st, pool, PoolState::Offline, &DrainOptions::default())?;
                return Err(e);
            }
        }
        drop(st);
        inner.event("detach", name, "its memory is not the store's any more", 0);
        Ok(())
    }

    /// Takes a detached device again; it is offline then. `DeviceState` if its memory isn't there.
    pub fn attach_device(&self, name: &str) -> Result<()> {
        self.require_admin(&format!("attach {name}"))?;
        let inner = &self.store.inner;
        let mut st = inner.lock();
        let pool = device(&st, name)?;
        let record = st.pool(pool).record.clone();
        // One whose device has gone by itself stays what it was: its files are there again when it is.
        let gone = st.without_device(pool).is_some();
        if record.state != PoolState::Detached && !gone {
            return Err(Error::device_state(format!("{name} is not detached")));
        }
        memory_is_there(&record)?;
        check_mode(&record, st.pool(pool).exclusive)?;
        let layout = Layout { dir: inner.options().dir.clone() };
        let all: Vec<PoolRecord> = st.pools.iter().map(|p| p.record.clone()).collect();
        let state = if gone { record.state } else { PoolState::Offline };
        let attached = PoolRecord { state, ..record.clone() };
        let make = |_: &PoolRecord, shm| Arc::new(shm) as Arc<dyn Backing>;
        // To take a node's huge pages takes its time.
        st.pool_mut(pool).job = Some(Arc::new(Job::new("attach")));
        drop(st);
        let take = if gone { Take::Again } else { Take::Empty };
        let opened = open_backing(&layout, &attached, (&all, take), (&inner.options(), &*inner.env), &make);
        let mut st = inner.lock();
        st.pool_mut(pool).job = None;
        inner.changed.notify_all();
        let taken = opened.and_then(|opened| inner.take_opened(&mut st, attached, opened));
        if let Err(e) = taken {
            if !gone && let Err(e) = take_out(&layout, &record, &all) {
                tracing::warn!("{name}: after an attach that failed: {e}");
            }
            return Err(e);
        }
        inner.bring_in_line(&mut st, pool);
        drop(st);
        inner.keep_reserve(pool);
        inner.event("attach", name, "its memory is the store's again", 0);
        Ok(())
    }
}

impl Inner {
    /// Puts a pool's memory in its place: first all that can be refused, then the journal, and then what can't fail.
    fn take_opened(&self, st: &mut State, attached: PoolRecord, mut opened: Opened) -> Result<()> {
        let pool = attached.id;
        if let Some(why) = opened.backing.gone() {
            return Err(Error::device_state(why));
        }
        if let Some(catalog) = &mut opened.catalog {
            adopt(&st.ns, pool, &*opened.backing)?;
            own_medium(catalog, &attached)?;
        }
        // What the journal has of it may have changed meanwhile.
        let record = PoolRecord { state: attached.state, ..st.pool(pool).record.clone() };
        let record = with_retired(&record, opened.backing.bad_frames()).unwrap_or(record);
        if record != st.pool(pool).record {
            self.commit(st, &[Change::Pool(record.clone())])?;
        }
        let taken = st.pool_mut(pool);
        taken.record = record;
        (taken.huge, taken.swappable, taken.backing) = (opened.huge, opened.swappable, opened.backing);
        taken.catalog = opened.catalog;
        taken.retire();
        Ok(())
    }

    /// What has become of files while their pool's memory was away, and what it has for new ones. It is the store's whatever of this fails.
    fn bring_in_line(&self, st: &mut State, pool: PoolId) {
        let name = st.pool_name(pool);
        if let Err(e) = st.pool_mut(pool).take_reserve() {
            tracing::warn!("{name}: its reserve: {e}");
        }
        self.tell_reserve(st, pool);
        self.retry_held(st);
        if st.pool(pool).catalog.is_some() {
            let mut notes = Vec::new();
            let swept = self.sweep_medium(st, pool, &[], &mut notes);
            if let Err(e) = swept.and_then(|()| self.hold_mapped(st, pool)) {
                tracing::warn!("{name}: what was left over there: {e}");
            }
            for note in notes {
                self.event("recover", &name, &note.what, 0);
                st.recovery.push(note);
            }
        }
        self.align_catalogs(st);
    }
}

fn device(st: &State, name: &str) -> Result<PoolId> {
    let pool = st.pool_named(name)?;
    if is_dram(pool) {
        return Err(Error::invalid("dram is the host's own memory: it is always attached"));
    }
    if !st.pool(pool).record.has_memory() {
        let line =
            format!("{name} has no memory that could leave: codax device drain {name} is all it takes");
        return Err(Error::invalid(line));
    }
    if st.pool(pool).job.is_some() {
        return Err(Error::busy(format!("something is being done with {name}: codax device show {name}")));
    }
    Ok(pool)
}

/// Takes the memory of an empty pool out of its place, and returns what holds its objects then; `None` where that is what held them before: what other pools
/// have objects in stays, with none of its memory on this device.
fn without_memory(layout: &Layout, st: &State, pool: PoolId) -> Result<Option<Arc<dyn Backing>>> {
    let all: Vec<PoolRecord> = st.pools.iter().map(|p| p.record.clone()).collect();
    let record = &st.pool(pool).record;
    if let Some(reserve) = st.pool(pool).backing.holder() {
        reserve.close()?;
        drop_reserve(layout, &record.name)?;
    }
    match record.numa.filter(|memory| memory.page.is_reserved()) {
        _ if !is_shared(record, &all) => {
            take_out(layout, record, &all)?;
            Ok(Some(Arc::new(Shm::new(&layout.pool(&record.name), ShmOptions::default())?)))
        }
        Some(memory) => Ok(Some(Arc::new(detached_huge(layout, record, &all, memory.page)?))),
        None => Ok(None),
    }
}

/// Unmounts what holds a device's objects, if it is a mount of its own, and gives back the huge pages that were set aside for it: where other pools have
/// objects there too, of it only the holder goes.
pub(crate) fn take_out(layout: &Layout, pool: &PoolRecord, all: &[PoolRecord]) -> Result<()> {
    if is_shared(pool, all) {
        huge_place(layout, pool, all).remove_holder(&pool.name)?;
    } else {
        unmount(&layout.pool(&pool.name))?;
    }
    drop_reserve(layout, &pool.name)?;
    give_back(&raised_path(&layout.meta(), &pool.name))
}

/// Unmounts what is mounted there, if anything is.
pub(crate) fn unmount(path: &Path) -> Result<()> {
    if mounts::is_mount_point(path).unwrap_or(false) {
        mounts::umount(path).map_err(|e| os_error("unmount", &path.display(), &e))?;
    }
    Ok(())
}

fn memory_is_there(record: &PoolRecord) -> Result<()> {
    let Some(memory) = record.numa else { return Ok(()) };
    let (name, node) = (&record.name, memory.node);
    let nodes = topology::nodes(Path::new(topology::SYSFS));
    let bytes = PageCount(record.frames).bytes();
    let free = nodes.iter().find(|n| n.node == node && n.bytes.unwrap_or(0) > 0).and_then(|n| n.free);
    match free {
        None => Err(Error::device_state(format!(
            "{name}: NUMA node {node} has no memory online: daxctl online-memory, or codax device discover"
        ))),
        // Of huge pages it has as many as it gets.
        Some(free) if free < bytes && !memory.page.is_reserved() => Err(Error::device_state(format!(
            "{name}: NUMA node {node} has {} free, and {name} has {}: others use it (codax device show {name})",
            format_size(free),
            format_size(bytes)
        ))),
        Some(_) => Ok(()),
    }
}
