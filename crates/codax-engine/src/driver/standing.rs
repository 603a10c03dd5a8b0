//! A driver's life with the store: taken, stopped by a drain with its device's state saved, and going on after the return.
//!
//! A driver that has just been taken is at rest. It goes on (first with the state that is kept of its device, if there is one) where its device is online, at once or when
//! it is by `online`.

use crate::driver::saved::{Saved, SavedState};
use crate::driver::{Call, Driven, Fault, LOOK_EVERY};
use crate::store::state::{Job, State, is_dram};
use crate::store::{Inner, Layout, Store};
use codax_core::change::{LinkModel, PoolRecord, PoolState};
use codax_core::driver::{Class, DeviceInfo, Driver, Health, LIST_MAX, Link, STATE_MAX, Standing, TEXT_MAX};
use codax_core::units::format_size;
use codax_core::{Error, ErrorKind, PageCount, PoolId, Result};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

/// How long who only wants to see a device waits for its driver, at most.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);

/// A device has this driver as long as this value is there. It goes when the driver is gone with all that it mapped.
#[derive(Debug)]
pub struct Driving {
    inner: Weak<Inner>,
    pool: PoolId,
    driver: Arc<Driven>,
}

impl Store {
    /// Takes a driver for a device, from the process `pid` if that is another one. Where the device is online, the driver is told to go on, beside the caller.
    ///
    /// Errors: `Busy` if the device has one, `Invalid` for a description that can't be true, `DeviceState` if what it needs of the device's memory can't be had.
    pub fn drive(&self, device: &str, driver: Arc<dyn Driver>, pid: Option<u32>) -> Result<Driving> {
        let inner = &self.inner;
        let about = |e: Error| Error::new(e.kind, format!("device {device}: {e}"));
        let description = driver.describe();
        description.check().map_err(about)?;
        let mut st = inner.lock();
        let pool = st.pool_named(device)?;
        if is_dram(pool) {
            return Err(Error::invalid("dram is the host's own memory: it has no driver"));
        }
        let had = &st.pool(pool).driver;
        if had.is_active() {
            let other = had.name();
            return Err(about(Error::busy(format!(
                "{other} drives it already: it has one driver at a time"
            ))));
        }
        let bytes = PageCount(st.pool(pool).record.frames).bytes();
        if bytes == 0 && description.class == Class::Type3 {
            return Err(about(Error::invalid("its driver says that it is memory only, and it has none")));
        }
        let memory = if description.class == Class::Type1 { Some(0) } else { description.memory };
        if let Some(memory) = memory.filter(|memory| *memory < bytes) {
            let (says, has) = (format_size(memory), format_size(bytes));
            let line = format!("its driver says that it has {says} of memory, and the store has {has} of it");
            return Err(about(Error::invalid(line)));
        }
        st.set_needs(pool, &description.needs).map_err(about)?;
        inner.saved().keep_description(device, &description)?;
        let driven = Arc::new(Driven::active(driver, description, pid, &*inner.env));
        st.pool_mut(pool).driver = driven.clone();
        drop(st);
        inner.changed.notify_all();
        inner.event("driver", device, &format!("{} drives it", driven.name()), 0);
        let me = inner.me.clone();
        let start = move || {
            let Some(inner) = me.upgrade() else { return };
            if let Err(e) = inner.start_device(pool, false, true) {
                tracing::warn!("{e}");
            }
        };
        inner.env.spawn("start driver", Box::new(start));
        Ok(Driving { inner: inner.me.clone(), pool, driver: driven })
    }

    /// Whose processes may drive a device, beside root's.
    #[must_use]
    pub fn driver_user(&self, device: &str) -> u32 {
        let options = self.inner.options();
        let given = options.devices.iter().find(|spec| spec.name == device);
        given.and_then(|spec| spec.driver_user).unwrap_or(self.inner.uid)
    }

    /// Waits until a device has a driver of its own, for so long.
    #[must_use]
    pub fn wait_for_driver(&self, device: &str, within: Duration) -> bool {
        let inner = &self.inner;
        let st = inner.lock();
        let driven = |st: &State| st.pool_named(device).is_ok_and(|pool| st.pool(pool).driver.is_active());
        let (st, _) = inner
            .changed
            .wait_timeout_while(st, within, |st| !driven(st))
            .unwrap_or_else(PoisonError::into_inner);
        driven(&st)
    }

    /// A device and what its driver says of it now.
    pub fn device(&self, name: &str) -> Result<DeviceInfo> {
        let inner = &self.inner;
        let (driver, link, last) = {
            let st = inner.lock();
            let pool = st.pool_named(name)?;
            (st.pool(pool).driver.clone(), st.link(pool), inner.saved().description(name)?)
        };
        let patience = inner.options().ack_timeout.min(LOOK_PATIENCE);
        let told = |fault: Fault| Error::new(ErrorKind::Busy, fault.to_string());
        let asked = driver.is_active();
        let health = match asked {
            true => driver.ask(Call::within(patience), |driver| driver.health()).map_err(told),
            false => Ok(Health::Well),
        };
        let mut counters = match health.is_ok() && asked {
            true => driver.ask(Call::within(patience), |driver| driver.counters()).unwrap_or_default(),
            false => Vec::new(),
        };
        let of_queues = inner.lock().queue_counters(name, asked);
        counters.truncate(LIST_MAX - of_queues.len());
        counters.extend(of_queues);
        counters.iter_mut().for_each(|counter| shorten(&mut counter.name));
        // Whose driver is gone is what that said, and at rest.
        let gone = last.filter(|_| !asked);
        let standing = if gone.is_some() { Standing::Stopped } else { driver.standing() };
        let driverless = gone.as_ref().map(|last| last.driver.clone());
        let mut description = gone.unwrap_or_else(|| driver.description.clone());
        description.link = Link { model: link, ..description.link };
        Ok(DeviceInfo {
            driverless,
            description,
            pid: driver.pid,
            standing,
            health,
            counters,
            saved: inner.saved().state_bytes(name),
        })
    }
}

/// Cuts a text to what may be shown of a driver's.
fn shorten(text: &mut String) {
    let end = (0..=TEXT_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
}

impl Drop for Driving {
    fn drop(&mut self) {
        self.driver.end();
        let Some(inner) = self.inner.upgrade() else { return };
        // Who brings it to rest or lets it go on has seen the end, and is done.
        let turn = self.driver.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let name = inner.lock().pool_name(self.pool);
        let kept = self.driver.standing() != Standing::Running && inner.saved().state_bytes(&name).is_some();
        let mut st = inner.lock();
        let pool = st.pool_mut(self.pool);
        if Arc::ptr_eq(&pool.driver, &self.driver) {
            pool.driver = Arc::new(Driven::nobody(&pool.record));
        }
        inner.leave_queues(&mut st, &name, &self.driver, kept);
        drop((st, turn));
        inner.changed.notify_all();
        inner.event("driver", &name, &format!("{} is gone", self.driver.name()), 0);
        inner.retry_stale();
    }
}

impl Inner {
    pub(super) fn saved(&self) -> Saved {
        Saved::in_dir(Layout { dir: self.options().dir.clone() }.meta())
    }

    fn driver_of(&self, pool: PoolId) -> (String, Arc<Driven>) {
        let st = self.lock();
        (st.pool_name(pool), st.pool(pool).driver.clone())
    }

    /// Lets a device go on that is at rest: from the state that is kept of it, if one is, or with `anew` from none. With `online` only if it is, or a drain lets it go on; then
    /// who hangs isn't waited for.
    pub fn start_device(&self, pool: PoolId, anew: bool, online: bool) -> Result<()> {
        let (name, driver) = self.driver_of(pool);
        let _turn = driver.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let away = online && !may_run(&self.lock().pool(pool).record);
        if !driver.is_active() && anew {
            self.forget_queues(&name);
            return self.saved().drop_state(&name);
        }
        if !driver.is_active() || away || (driver.standing() == Standing::Running && !anew) {
            return Ok(());
        }
        let had_failed = matches!(driver.standing(), Standing::Failed(_));
        let call = self.call_in_any_case();
        let patience = if online { LOOK_EVERY } else { call.patience };
        let before = if anew { Ok(()) } else { driver.ask(Call::within(patience), |_| Ok(())) };
        if online && matches!(before, Err(Fault::Late(_))) {
            self.start_when_it_answers(pool, &driver);
            return Ok(());
        }
        self.went_well(pool, &driver, "what it was asked before", before)?;
        if anew || self.lock().forgets_queues(&name) {
            let reset = self.reset(&driver, call);
            self.went_well(pool, &driver, "reset", reset)?;
            self.forget_queues(&name);
            self.saved().drop_state(&name)?;
        } else {
            self.give_back_state(pool, &name, &driver)?;
        }
        if driver.is_gone() {
            return Ok(());
        }
        self.hand_over_queues(&name, &driver);
        let resumed = driver.ask(call, |driver| driver.resume());
        self.went_well(pool, &driver, "resume", resumed)?;
        {
            // Who opens a queue asks the driver himself from now on.
            let _st = self.lock();
            driver.set_standing(Standing::Running);
        }
        self.hand_over_queues(&name, &driver);
        if had_failed {
            self.event("driver", &name, "it goes on", 0);
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Gives a driver back the state that is kept of its device, if one is, and the queues before.
    fn give_back_state(&self, pool: PoolId, name: &str, driver: &Arc<Driven>) -> Result<()> {
        let Some(SavedState { driver: whose, state }) = self.saved().state(name)? else { return Ok(()) };
        if whose != driver.description.driver {
            let own = &driver.description.driver;
            driver.set_standing(Standing::Failed(format!("the state that is kept is {whose}'s")));
            return Err(Error::device_state(format!(
                "{name}: the state that is kept of it is that of the driver {whose}, and {own} drives it: start {whose}, or begin anew with codax device online {name} --reset-device"
            )));
        }
        self.hand_over_queues(name, driver);
        match driver.ask(self.call_in_any_case(), move |driver| driver.restore(&state)) {
            // Before it goes on: a state is given back once.
            Ok(()) => self.saved().drop_state(name),
            fault => self.went_well(pool, driver, "restore", fault).map_err(|e| {
                let mut st = self.lock();
                st.take_queues(driver, false);
                self.attend_queues(&mut st, name);
                Error::device_state(format!(
                    "{}; its state is kept: try again, or begin anew with codax device online {name} --reset-device",
                    e.message
                ))
            }),
        }
    }

    /// What a driver was asked for to go on has come to this. Whose process is gone has nothing to go on with. One that is late may go on when it answers.
    fn went_well(
        &self,
        pool: PoolId,
        driver: &Arc<Driven>,
        what: &str,
        result: std::result::Result<(), Fault>,
    ) -> Result<()> {
        let fault = match result {
            Ok(()) | Err(Fault::Gone) => return Ok(()),
            Err(fault) => fault,
        };
        driver.set_standing(Standing::Failed(format!("{what}: {fault}")));
        if matches!(fault, Fault::Late(_)) {
            self.start_when_it_answers(pool, driver);
        }
        let name = self.lock().pool_name(pool);
        Err(Error::device_state(format!("{name}: its driver {}: {what}: {fault}", driver.name())))
    }

    /// Lets a device go on, if it may, as soon as its driver has answered all that it was asked. That may be never, so it is beside the caller.
    fn start_when_it_answers(&self, pool: PoolId, driver: &Arc<Driven>) {
        if driver.awaited.swap(true, Ordering::AcqRel) {
            return;
        }
        let (me, driver) = (self.me.clone(), driver.clone());
        let wait = move || {
            let over = || me.strong_count() == 0;
            let call = Call { patience: Duration::MAX, in_any_case: false, unwanted: &over };
            let answered = driver.ask(call, |_| Ok(()));
            driver.awaited.store(false, Ordering::Release);
            let Some(inner) = me.upgrade().filter(|_| answered.is_ok()) else { return };
            if let Err(e) = inner.start_device(pool, false, true) {
                tracing::warn!("{e}");
            }
        };
        self.env.spawn("late driver", Box::new(wait));
    }

    /// How a driver is asked for what changes what its device does.
    fn call_in_any_case(&self) -> Call<'static> {
        Call { in_any_case: true, ..Call::within(self.options().quiesce_timeout) }
    }

    /// Brings a device to rest and keeps its state, if it has one. With `reset` one that doesn't come to rest is reset, and its state is lost. A device without a driver
    /// is at rest.
    pub fn stop_device(&self, pool: PoolId, reset: bool, job: &Job) -> Result<()> {
        let (name, driver) = self.driver_of(pool);
        let _turn = driver.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if !driver.is_active() || driver.standing() == Standing::Stopped {
            return Ok(());
        }
        let unwanted = || job.cancelled();
        let call = Call { unwanted: &unwanted, ..self.call_in_any_case() };
        let within = call.patience;
        let begun = self.env.now();
        match driver.ask(call, move |driver| driver.quiesce(within)) {
            Ok(()) => {
                let took = (self.env.now() - begun).as_micros();
                self.event("driver", &name, &format!("it is at a safe point after {took} us"), 0);
                self.save_state(&name, &driver, call)?;
            }
            Err(Fault::Gone) => {
                self.lost(&name, "its driver is gone");
                return Ok(());
            }
            Err(fault) => {
                // It was asked all the same: whatever ends this, it may come to rest, and has to be told to go on.
                driver.set_standing(Standing::Failed(format!("quiesce: {fault}")));
                self.reset_instead(&name, &driver, call, reset, &fault)?;
            }
        }
        driver.set_standing(Standing::Stopped);
        self.attend_queues(&mut self.lock(), &name);
        Ok(())
    }

    /// Keeps the state of a device that is at rest, if it has one. Its driver gives its queues up.
    fn save_state(&self, name: &str, driver: &Arc<Driven>, call: Call<'_>) -> Result<()> {
        if !driver.description.has_state {
            return Ok(());
        }
        let who = driver.name();
        let kept = match self.save(driver, call) {
            Ok(state) => self.keep_state(name, driver, state),
            Err(Fault::Gone) => {
                self.lost(name, "its driver is gone");
                self.lose_queues(name);
                Ok(())
            }
            Err(fault) => Err(Error::device_state(format!(
                "{name}: its driver {who} has not handed over its state: {fault}"
            ))),
        };
        kept.inspect_err(|e| driver.set_standing(Standing::Failed(format!("save: {}", e.message))))
    }

    /// Resets a device that has not come to rest for this reason, if that is wanted.
    fn reset_instead(
        &self,
        name: &str,
        driver: &Arc<Driven>,
        call: Call<'_>,
        wanted: bool,
        fault: &Fault,
    ) -> Result<()> {
        let who = driver.name();
        if matches!(fault, Fault::Unwanted) {
            return Err(Error::cancelled(format!("drain {name}: cancelled")));
        }
        if !wanted {
            return Err(Error::busy(format!(
                "{name} has not come to a safe point: its driver {who}: {fault}; nothing has moved. --reset-device resets it, and its state is lost"
            )));
        }
        match self.reset(driver, call) {
            Ok(()) => {
                self.lost(name, &format!("{who} was reset, since it did not come to a safe point: {fault}"))
            }
            Err(Fault::Gone) => self.lost(name, "its driver is gone"),
            Err(again) => {
                driver.set_standing(Standing::Failed(format!("reset: {again}")));
                return Err(Error::device_state(format!(
                    "{name} has not come to a safe point, and can't be reset: its driver {who}: {again}: end it, then {name} has none"
                )));
            }
        }
        self.forget_queues(name);
        Ok(())
    }

    fn lost(&self, name: &str, how: &str) {
        self.event("driver", name, &format!("{how}; its state is lost"), 0);
    }

    /// Has a driver hand over the device's state, and give up its queues.
    fn save(&self, driver: &Arc<Driven>, call: Call<'_>) -> std::result::Result<Vec<u8>, Fault> {
        self.giving_up(driver, false, |driver| driver.begin(true, |driver| driver.save()))?.wait(driver, call)
    }

    /// Has a driver forget what the device is at, and give up its queues, which is final: if it is late nobody knows what it has done.
    fn reset(&self, driver: &Arc<Driven>, call: Call<'_>) -> std::result::Result<(), Fault> {
        self.giving_up(driver, true, |driver| driver.begin(true, |driver| driver.reset()))?.wait(driver, call)
    }

    /// What it is handed before, it gives up; what comes after is kept for it.
    fn giving_up<T>(&self, driver: &Arc<Driven>, forgotten: bool, ask: impl FnOnce(&Driven) -> T) -> T {
        let mut st = self.lock();
        driver.set_standing(Standing::Stopped);
        st.take_queues(driver, forgotten);
        ask(driver)
    }

    fn keep_state(&self, name: &str, driver: &Driven, state: Vec<u8>) -> Result<()> {
        let wrong = match state.len() {
            0 => "an empty state".to_owned(),
            len if len > STATE_MAX => {
                format!("a state of {len} bytes, and {} are kept at most", format_size(STATE_MAX as u64))
            }
            len => {
                self.event("driver", name, "its state is saved", len as u64);
                let driver = driver.description.driver.clone();
                return self.saved().keep_state(name, &SavedState { driver, state });
            }
        };
        Err(Error::device_state(format!("{name}: its driver {} gave {wrong}", driver.name())))
    }
}

/// Whether a device's coprocessor may run: it is online, or a drain takes or took its memory only.
pub(super) fn may_run(record: &PoolRecord) -> bool {
    match record.state {
        PoolState::Online => true,
        PoolState::Draining | PoolState::Offline => record.drain_terms.running,
        PoolState::Detached => false,
    }
}

impl State {
    /// What the link of a device announces: as it is configured, or else as its driver says.
    pub fn link(&self, pool: PoolId) -> LinkModel {
        let pool = self.pool(pool);
        let (own, told) = (pool.record.link, pool.driver.description.link.model);
        LinkModel {
            read_ns: own.read_ns.or(told.read_ns),
            write_ns: own.write_ns.or(told.write_ns),
            mbps: own.mbps.or(told.mbps),
        }
    }
}
