//! Emergencies: pages for `dram` that find no room there go to devices whose operator allows it and come home again (`overflow`, `home`); for the rest of the
//! system memory is lent out of a device's reserve (`lend`), and a drain gets it back (`recall`). What is short is seen by `watch`; what follows is decided in `codax_core::emergency`.
//!
//! That pages are on a device for such a reason is in their inode: their home is `dram`, from where no drain ever takes anything.

mod home;
mod lend;
mod lent;
mod overflow;
mod recall;
mod stay;
mod told;
mod watch;

pub(crate) use overflow::Placed;

use crate::budget::Budget;
use crate::options::{DeviceSpec, StoreOptions};
use crate::store::Inner;
use crate::store::blocks::frames;
use crate::store::state::{Job, State};
use codax_core::change::PoolRecord;
use codax_core::emergency::{Alarm, AtMost, Emergency, EmergencyInfo, Homing, Loan, When};
use codax_core::{DRAM_NAME, Error, FileId, PageCount, PoolId, Result};
use codax_os::{numa, probe};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What is known of emergencies.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Devices that may be used.
    pub allowed: BTreeMap<PoolId, Allowed>,
    /// Files that have pages on devices for want of room, and some that have had.
    pub files: BTreeSet<FileId>,
    /// What has been said of them.
    told: BTreeMap<FileId, told::Told>,
    pub homing: Homing,
    /// Whether a thread looks after what is short.
    pub watched: bool,
    /// Whether the store is open: what a start takes in goes nowhere before.
    begun: bool,
    /// Whether a thread sees to it that they go home, and what it is doing.
    pub goes_home: bool,
    pub job: Option<Arc<Job>>,
    /// When it was said last of a file that it was refused something.
    refused: BTreeMap<FileId, Duration>,
}

/// For how long what is lent of a device is taken back for a file that found no room, and then kept for it: who was told to try again is to find it.
const CLAIMED: Duration = Duration::from_secs(10);

/// What is allowed of a device, and how it stands.
#[derive(Debug)]
pub(crate) struct Allowed {
    pub settings: Emergency,
    /// The same in bytes.
    pub at_most: u64,
    pub alarm: Alarm,
    /// The free memory below which it is on, if that is what it goes by.
    pub floor: u64,
    /// Why its condition can't be measured here.
    pub unmeasured: Option<String>,
    /// Why nothing of it can be lent, as was seen last.
    pub unlent: Option<String>,
    pub loan: Loan,
    /// A file has wanted back what is lent since that was looked at last.
    pub wanted: bool,
    /// Until when it is such a file's: taken back, and not lent.
    pub claimed: Duration,
    /// What was asked back and others still had, when it was asked last.
    pub owed: u64,
    /// What has come back and wasn't said yet.
    pub back: u64,
    /// When others' pages were moved off its node last.
    pub evicted: Option<Duration>,
}

impl Allowed {
    pub fn new(settings: Emergency, at_most: u64) -> Self {
        let (alarm, loan) = (Alarm::default(), Loan::default());
        let (floor, owed, back) = (0, 0, 0);
        let (unmeasured, unlent, evicted) = (None, None, None);
        let (wanted, claimed) = (false, Duration::ZERO);
        Self {
            settings,
            at_most,
            alarm,
            floor,
            unmeasured,
            unlent,
            loan,
            wanted,
            claimed,
            owed,
            back,
            evicted,
        }
    }

    /// Whether what is lent is a file's at `now`.
    pub fn is_claimed(&mut self, now: Duration) -> bool {
        if std::mem::take(&mut self.wanted) {
            self.claimed = now + CLAIMED;
        }
        now < self.claimed
    }

    /// All that was lent is back at `now`.
    pub fn is_back(&mut self, now: Duration) {
        if self.is_claimed(now) {
            self.claimed = now + CLAIMED;
        }
    }

    /// Of a device that is allowed nothing any more, of which something is lent still.
    pub fn nothing() -> Self {
        Self::new(Emergency { at_most: AtMost::ALL, when: None }, 0)
    }
}

/// What of its settings a device has otherwise now.
fn changed(device: &str, before: Option<Emergency>, now: Option<Emergency>) -> String {
    let (before, now) = match (before, now) {
        (Some(before), Some(now)) => (before, now),
        (_, Some(_)) => return format!("device {device}: emergency is allow now"),
        (_, None) => return format!("device {device}: emergency is never now"),
    };
    let at_most = (before.at_most != now.at_most).then(|| format!("at_most is {} now", now.at_most));
    let gone = || "when is gone: whenever dram has no room".to_owned();
    let when = now.when.map_or_else(gone, |when| format!("when is {when} now"));
    let when = (before.when != now.when).then_some(when);
    let words: Vec<String> = at_most.into_iter().chain(when).collect();
    format!("device {device}: {}", words.join(", "))
}

/// `Invalid` for settings that a device of so many frames can't have.
pub(crate) fn check_settings(device: &DeviceSpec, frames: u64) -> Result<()> {
    let Some(settings) = device.emergency else { return Ok(()) };
    if device.name == DRAM_NAME {
        return Err(Error::invalid("emergency is nothing that dram has: it is what devices help out"));
    }
    if frames == 0 {
        return Err(Error::invalid(format!(
            "device {}: emergency is nothing that a device without memory has",
            device.name
        )));
    }
    settings
        .at_most
        .of(PageCount(frames).bytes())
        .map(drop)
        .map_err(|e| Error::invalid(format!("device {}: {e}", device.name)))
}

impl Book {
    /// Takes what is allowed by now; returns a line for each device of which that has changed.
    pub fn allow<'a>(
        &mut self,
        options: &StoreOptions,
        pools: impl Iterator<Item = &'a PoolRecord>,
    ) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for pool in pools {
            let device = options.devices.iter().find(|device| device.name == pool.name);
            let settings = device.and_then(|device| device.emergency);
            let known = self.allowed.get_mut(&pool.id);
            if known.as_ref().map(|known| known.settings) == settings {
                continue;
            }
            let line = changed(&pool.name, known.as_ref().map(|known| known.settings), settings);
            let at_most = settings.map_or(Ok(0), |s| s.at_most.of(PageCount(pool.frames).bytes()))?;
            match (settings, known) {
                (Some(settings), Some(known)) => {
                    (known.settings, known.at_most) = (settings, at_most);
                    (known.unmeasured, known.unlent) = (None, None);
                }
                (Some(settings), None) => {
                    self.allowed.insert(pool.id, Allowed::new(settings, at_most));
                }
                // What is lent is to come back first.
                (None, Some(known)) if known.loan.lent() > 0 => {
                    if std::mem::replace(&mut known.at_most, 0) == 0 {
                        continue;
                    }
                }
                (None, _) => {
                    self.allowed.remove(&pool.id);
                }
            }
            lines.push(line);
        }
        Ok(lines)
    }
}

impl State {
    /// Counts anew what is on devices for want of room, unless some is on its way: of that the inodes don't know yet, or not any more.
    pub fn count_spilled(&mut self) {
        let on_its_way = |file: &FileId| self.making.contains_key(file) || self.is_busy(*file);
        if self.emergency.files.iter().any(on_its_way) {
            return;
        }
        let ns = &self.ns;
        let mut counted: BTreeMap<PoolId, u64> = BTreeMap::new();
        self.emergency.files.retain(|file| {
            let spilled = ns.get(*file).map(|inode| inode.spilled()).unwrap_or_default();
            spilled.iter().for_each(|e| *counted.entry(e.pool).or_default() += e.count.0);
            !spilled.is_empty()
        });
        let files = &self.emergency.files;
        self.emergency.told.retain(|file, _| files.contains(file));
        for pool in &mut self.pools {
            pool.spilled = PageCount(counted.get(&pool.record.id).copied().unwrap_or(0));
        }
    }

    /// What is so used of a device, and allowed.
    pub fn emergency_info(&self, pool: PoolId) -> EmergencyInfo {
        let files = self.emergency.files.iter().filter_map(|file| self.ns.get(*file));
        let spilled = files.flat_map(|inode| inode.spilled()).filter(|e| e.pool == pool);
        let used = spilled.map(|e| e.count.bytes()).sum();
        let lent = frames(&self.pool(pool).lent).bytes();
        let none = EmergencyInfo { used, lent, ..EmergencyInfo::default() };
        self.emergency.allowed.get(&pool).map_or(none.clone(), |allowed| EmergencyInfo {
            // What is lent of one that is allowed no more is looked after until it is back.
            allowed: allowed.at_most > 0,
            at_most: allowed.at_most,
            when: allowed.settings.when.map(|when| when.to_string()),
            pressed: allowed.alarm.is_on(),
            unmeasured: allowed.unmeasured.clone(),
            unlent: allowed.unlent.clone(),
            owed: allowed.owed,
            ..none
        })
    }

    /// What can be had of memory beside the devices' nodes, in bytes, below the limit that leaves least; `None` where nobody says.
    fn memory_left(&self) -> Option<u64> {
        let nodes = self.pools.iter().filter_map(|pool| pool.record.numa);
        let devices = nodes.filter_map(|memory| numa::watermarks(memory.node).ok()).map(|marks| marks.free);
        let machine = probe::memory_available()?.saturating_sub(devices.sum());
        Some(Budget::of_this_process().and_then(Budget::left).map_or(machine, |left| left.min(machine)))
    }
}

/// The floor that a device's condition is, if it is one.
fn floor(allowed: &Allowed) -> Option<u64> {
    match allowed.settings.when {
        Some(When::Free(floor)) => Some(floor),
        _ => None,
    }
}

impl Inner {
    /// Begins to look after emergencies. Called once, when the store is open.
    pub fn watch_emergencies(&self) -> Result<()> {
        let mut st = self.lock();
        let spilled = st.ns.inodes().filter(|inode| !inode.spilled().is_empty()).map(|inode| inode.id);
        st.emergency.files = spilled.collect();
        st.count_spilled();
        let records: Vec<PoolRecord> = st.pools.iter().map(|pool| pool.record.clone()).collect();
        st.emergency.allow(&self.options(), records.iter())?;
        self.resume_loans(&mut st)?;
        st.emergency.begun = true;
        self.start_homing(&mut st);
        self.start_watch(&mut st);
        Ok(())
    }
}
