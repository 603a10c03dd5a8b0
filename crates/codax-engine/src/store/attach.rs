//! Detaching a device that a drain has emptied, so that its memory can leave the machine, and attaching it again.

use crate::backing::{Shm, ShmOptions, os_error};
use crate::store::Session;
use crate::store::lifecycle::{Layout, prepare_pool};
use crate::store::state::{State, is_dram};
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
        let path = layout.pool(name);
        // What other pools have objects in stays, with none of its memory on this device.
        if !st.media.is_shared(st.media.of(pool)) {
            match take_out(&path).and_then(|()| Shm::new(&path, ShmOptions::default())) {
                Ok(empty) => st.pool_mut(pool).backing = Arc::new(empty),
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
        let medium = prepare_pool(&layout, &record, &all, &inner.options())?;
        let huge = medium.huge;
        let shm = Shm::new(&medium.path, medium.shm)?;
        inner.set_pool_state(&mut st, pool, PoolState::Offline, None)?;
        let pool = st.pool_mut(pool);
        (pool.huge, pool.swappable, pool.backing) = (huge, medium.swappable, Arc::new(shm));
        drop(st);
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

/// Unmounts the tmpfs that holds a device's objects, if it is one of its own.
pub(crate) fn take_out(path: &Path) -> Result<()> {
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
        Some(free) if free < bytes => Err(Error::device_state(format!(
            "{name}: NUMA node {node} has {} free, and {name} has {}: others use it (codax device show {name})",
            format_size(free),
            format_size(bytes)
        ))),
        Some(_) => Ok(()),
    }
}
