//! Detaching a device that a drain has emptied, so that its memory can leave the machine, and attaching it again.

use crate::backing::{Backing, Shm, ShmOptions, give_back, os_error, raised_path};
use crate::store::Session;
use crate::store::exclusive::drop_reserve;
use crate::store::lifecycle::{Layout, open_backing};
use crate::store::state::{Job, State, is_dram};
use codax_core::change::{PoolRecord, PoolState};
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
        inner.set_pool_state(&mut st, pool, PoolState::Detached, None)?;
        // The journal says so already: a start would take it out of its place as well.
        let layout = Layout { dir: inner.options().dir.clone() };
        if let Some(reserve) = st.pool(pool).backing.holder()
            && let Err(e) = reserve.close().and_then(|()| drop_reserve(&layout, name))
        {
            inner.set_pool_state(&mut st, pool, PoolState::Offline, None)?;
            return Err(e);
        }
        // What other pools have objects in stays, with none of its memory on this device.
        if !st.media.is_shared(st.media.of(pool)) {
            let path = layout.pool(name);
            match take_out(&layout, name).and_then(|()| Shm::new(&path, ShmOptions::default())) {
                Ok(empty) => {
                    let pool = st.pool_mut(pool);
                    pool.set_absent(PageCount(0));
                    pool.backing = Arc::new(empty);
                }
                Err(e) => {
                    inner.set_pool_state(&mut st, pool, PoolState::Offline, None)?;
                    return Err(e);
                }
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
        if record.state != PoolState::Detached {
            return Err(Error::device_state(format!("{name} is not detached")));
        }
        memory_is_there(&record)?;
        let layout = Layout { dir: inner.options().dir.clone() };
        let all: Vec<PoolRecord> = st.pools.iter().map(|p| p.record.clone()).collect();
        let attached = PoolRecord { state: PoolState::Offline, ..record };
        let make = |_: &PoolRecord, shm| Arc::new(shm) as Arc<dyn Backing>;
        // To take a node's huge pages takes its time.
        st.pool_mut(pool).job = Some(Arc::new(Job::new("attach")));
        drop(st);
        let opened = open_backing(&layout, &attached, &all, &inner.options(), &make);
        let mut st = inner.lock();
        st.pool_mut(pool).job = None;
        inner.changed.notify_all();
        let (medium, backing) = opened?;
        inner.set_pool_state(&mut st, pool, PoolState::Offline, None)?;
        let taken = st.pool_mut(pool);
        (taken.huge, taken.swappable, taken.backing) = (medium.huge, medium.swappable, backing);
        taken.take_reserve();
        inner.tell_reserve(&st, pool);
        drop(st);
        inner.keep_reserve(pool);
        inner.event("attach", name, "its memory is the store's again", 0);
        Ok(())
    }
}

fn device(st: &State, name: &str) -> Result<PoolId> {
    let pool = st.pool_named(name)?;
    if is_dram(pool) {
        return Err(Error::invalid("dram is the host's own memory: it is always attached"));
    }
    if st.pool(pool).job.is_some() {
        return Err(Error::busy(format!("something is being done with {name}: codax device show {name}")));
    }
    Ok(pool)
}

/// Unmounts what holds a device's objects, if it is a mount of its own, and gives back the huge pages that were set aside for it.
pub(crate) fn take_out(layout: &Layout, name: &str) -> Result<()> {
    let path = layout.pool(name);
    if mounts::is_mount_point(&path).unwrap_or(false) {
        mounts::umount(&path).map_err(|e| os_error("unmount", &path.display(), &e))?;
    }
    drop_reserve(layout, name)?;
    give_back(&raised_path(&layout.meta(), name))
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
