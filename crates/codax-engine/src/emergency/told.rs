//! What is said of files that spill: once for each that begins to, and then as it becomes much more. Who writes a page at a time would fill the record of events.

use super::overflow::Placed;
use crate::store::Inner;
use crate::store::state::State;
use codax_core::namespace::Inode;
use codax_core::plan::PlannedMove;
use codax_core::{FileId, PoolId, extent};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// After so long it is said also of a file of which less than twice as much has spilled.
const AGAIN: Duration = Duration::from_secs(60);

/// Why pages for `dram` are on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cause {
    /// `dram` has no room for them.
    #[default]
    Full,
    /// It has, but less memory would be left than a device's condition says.
    Short,
}

/// What has spilled of a file, and what has been said of it.
#[derive(Debug, Default)]
pub(crate) struct Told {
    cause: Cause,
    /// Bytes that have spilled since none were on a device.
    spilled: u64,
    /// How many of them have been told.
    told: u64,
    /// When.
    at: Duration,
}

impl Told {
    /// What there is to say by now, in bytes; `None` if it can wait.
    fn due(&mut self, now: Duration) -> Option<u64> {
        let more = self.spilled - self.told;
        let much = self.spilled >= 2 * self.told || now.saturating_sub(self.at) >= AGAIN;
        if more == 0 || !much {
            return None;
        }
        (self.told, self.at) = (self.spilled, now);
        Some(more)
    }
}

impl State {
    /// Why some of a file is on a device for want of room in `dram`, if it is and that was seen since the start.
    pub fn why_spilled(&self, inode: &Inode) -> Option<String> {
        let pools: BTreeSet<PoolId> = inode.spilled().iter().map(|e| e.pool).collect();
        let told = self.emergency.told.get(&inode.id).filter(|_| !pools.is_empty())?;
        Some(self.cause_text(told.cause, &pools))
    }

    /// A cause, for people; of one that is a condition, which the devices have on which something is.
    fn cause_text(&self, cause: Cause, pools: &BTreeSet<PoolId>) -> String {
        match cause {
            Cause::Full => "dram has no room for it".to_owned(),
            Cause::Short => {
                let allowed = pools.iter().filter_map(|pool| self.emergency.allowed.get(pool));
                let when: BTreeSet<_> = allowed.filter_map(|a| Some(a.settings.when?.to_string())).collect();
                format!("memory is short ({})", Vec::from_iter(when).join(", "))
            }
        }
    }
}

impl Inner {
    /// Notes and says that new pages of a file are on devices for want of room in `dram`. Of one without a name it is said when it gets one.
    pub fn tell_spilled(&self, st: &mut State, file: FileId, placed: &Placed) {
        if placed.spilled.is_empty() {
            return;
        }
        st.emergency.homing.spilled(self.env.now());
        self.start_homing(st);
        let told = st.emergency.told.entry(file).or_default();
        told.cause = placed.cause.unwrap_or(told.cause);
        told.spilled += placed.spilled().map(|e| e.count.bytes()).sum::<u64>();
        if st.live.get(&file).is_none_or(|live| live.unnamed.is_none()) {
            self.say_spilled(st, file);
        }
    }

    /// Says that a drain has taken what has spilled of a file to other devices.
    pub fn tell_passed_on(&self, planned: &PlannedMove, from: PoolId) {
        let st = self.lock();
        let Some(inode) = st.ns.get(planned.file) else { return };
        let spilled = inode.spilled();
        let mut passed: BTreeMap<PoolId, u64> = BTreeMap::new();
        for run in &planned.to {
            let there = extent::slice(&spilled, run.pages);
            let bytes = there.iter().filter(|e| e.pool == run.pool).map(|e| e.count.bytes()).sum::<u64>();
            *passed.entry(run.pool).or_default() += bytes;
        }
        passed.retain(|_, bytes| *bytes > 0);
        if passed.is_empty() {
            return;
        }
        let names: Vec<String> = passed.keys().map(|pool| st.pool_name(*pool)).collect();
        let (names, from) = (names.join(", "), st.pool_name(from));
        let detail = format!("in {names}, since {from} is drained and dram has no room for it");
        self.event("emergency", &planned.path, &detail, passed.values().sum());
    }

    /// Says how much of a file is on devices for want of room in `dram`, if there is something new to say.
    pub fn say_spilled(&self, st: &mut State, file: FileId) {
        let now = self.env.now();
        let spilled = st.ns.get(file).map(|inode| inode.spilled()).unwrap_or_default();
        let Some(told) = st.emergency.told.get_mut(&file) else { return };
        // Some may have been cut off again.
        told.spilled = told.spilled.min(told.told + spilled.iter().map(|e| e.count.bytes()).sum::<u64>());
        let (cause, Some(bytes)) = (told.cause, told.due(now)) else { return };
        let pools: BTreeSet<_> = spilled.iter().map(|e| e.pool).collect();
        let names: Vec<String> = pools.iter().map(|pool| st.pool_name(*pool)).collect();
        let why = st.cause_text(cause, &pools);
        self.event("emergency", &st.path(file), &format!("in {}, since {why}", names.join(", ")), bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_doubles_is_told_and_what_doesn_t_after_a_while() {
        let mut told = Told::default();
        let mut at = |secs, spilled| {
            told.spilled = spilled;
            told.due(Duration::from_secs(secs))
        };
        assert_eq!(at(1, 0), None);
        assert_eq!(
            [at(1, 4), at(1, 7), at(1, 8), at(2, 15), at(3, 40)],
            [Some(4), None, Some(4), None, Some(32)]
        );
        assert_eq!(
            [at(62, 41), at(63, 41), at(64, 42), at(500, 42), at(900, 42)],
            [None, Some(1), None, Some(1), None]
        );
    }
}
