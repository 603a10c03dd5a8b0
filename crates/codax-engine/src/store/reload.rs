//! What of the options can change in a running store.

use crate::options::{DeviceSpec, StoreOptions};
use crate::store::Store;
use crate::store::lifecycle::reconcile;
use crate::store::media::DramPages;
use crate::store::state::State;
use codax_core::Result;
use codax_core::change::{Change, PoolRecord};
use std::sync::{Arc, PoisonError};

impl Store {
    /// Takes what can change in a running store: links of devices, time-outs, chunk size. Returns a line for each change, and for each that
    /// needs a restart.
    pub fn reload(&self, new: &StoreOptions) -> Result<Vec<String>> {
        let mut st = self.inner.lock();
        let known: Vec<PoolRecord> = st.pools.iter().map(|p| p.record.clone()).collect();
        let mut lines = self.reload_pools(&mut st, &known, new)?;
        let records: Vec<PoolRecord> = st.pools.iter().map(|pool| pool.record.clone()).collect();
        let allowed = st.emergency.allow(new, records.iter())?;
        allowed.iter().for_each(|line| self.inner.event("reload", "store", line, 0));
        lines.extend(allowed);
        self.inner.start_watch(&mut st);
        drop(st);
        let mut options = self.inner.options.write().unwrap_or_else(PoisonError::into_inner);
        lines.extend(differences(&options, new));
        let devices = devices(&options, new, &known);
        let StoreOptions { ack_timeout, chunk_bytes, resume_wait, quiesce_timeout, .. } = *new;
        *options = Arc::new(StoreOptions {
            ack_timeout,
            chunk_bytes,
            resume_wait,
            quiesce_timeout,
            devices,
            ..(**options).clone()
        });
        Ok(lines)
    }

    /// What the journal has of pools.
    fn reload_pools(&self, st: &mut State, known: &[PoolRecord], new: &StoreOptions) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for record in reconcile(known, new, DramPages(None), &*self.inner.env)? {
            let Some(at) = known.iter().position(|p| p.id == record.id) else {
                lines.push(format!("device {} is new: it is taken up at the next start", record.name));
                continue;
            };
            let mut now = record;
            let before = &st.pools[at].record;
            now.state = before.state;
            // Who drives it is another one from the next start on.
            now.backing = before.backing;
            (now.drain_limit, now.drain_terms) = (before.drain_limit, before.drain_terms);
            self.inner.commit(st, &[Change::Pool(now.clone())])?;
            let name = &now.name;
            if now.link != known[at].link {
                lines.push(format!("device {name}: link model changed"));
            }
            if now.dax != known[at].dax {
                lines.push(format!(
                    "device {name}: its path counts when it is attached, or at the next start"
                ));
            }
            st.pools[at].record = now;
        }
        Ok(lines)
    }
}

/// What of the rest is another, and when it takes effect.
fn differences(options: &StoreOptions, new: &StoreOptions) -> Vec<String> {
    let mut lines = Vec::new();
    if options.ack_timeout != new.ack_timeout {
        lines.push(format!("ack_timeout is {:?} now", new.ack_timeout));
    }
    if options.chunk_bytes != new.chunk_bytes {
        lines.push("chunk changed".to_owned());
    }
    if options.dram_nodes != new.dram_nodes {
        lines.push("dram_nodes takes effect at the next start".to_owned());
    }
    let knows = |name: &str| options.devices.iter().find(|device| device.name == name)?.exclusive;
    for device in new.devices.iter().filter(|device| device.exclusive != knows(&device.name)) {
        lines.push(format!("device {}: exclusive takes effect at the next start", device.name));
    }
    if options.huge != new.huge {
        lines.push("huge takes effect in pools made after the next start".to_owned());
    }
    if options.quiesce_timeout != new.quiesce_timeout {
        lines.push(format!("quiesce_timeout is {:?} now", new.quiesce_timeout));
    }
    lines
}

/// The devices' options, with what is another now and can be.
fn devices(options: &StoreOptions, new: &StoreOptions, known: &[PoolRecord]) -> Vec<DeviceSpec> {
    let mut devices = options.devices.clone();
    devices.iter_mut().for_each(|device| (device.emergency, device.driver_user) = (None, None));
    for now in &new.devices {
        match devices.iter_mut().find(|device| device.name == now.name) {
            Some(device) => {
                (device.dax, device.emergency) = (now.dax.clone(), now.emergency);
                device.driver_user = now.driver_user;
            }
            // What is said of a device that the options left out until now counts when it is attached.
            None if now.dax.is_some() && known.iter().any(|pool| pool.name == now.name) => {
                devices.push(now.clone());
            }
            None => {}
        }
    }
    devices
}
