//! Whether memory is short: the thread that asks, as long as a device's use depends on it.

use super::Allowed;
use crate::store::Inner;
use crate::store::state::State;
use codax_core::PoolId;
use codax_core::emergency::{Emergency, When};
use codax_os::probe;
use codax_os::psi::{self, Trigger};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

/// How often free memory is looked at when it is short or nearly so, and when it isn't.
const OFTEN: Duration = Duration::from_millis(50);
const SELDOM: Duration = Duration::from_millis(250);

/// How often an alarm that the kernel tells is looked at while it lasts, and how long is waited for one: until then nobody may have closed the store.
const LASTING: Duration = Duration::from_millis(500);
const QUIET: Duration = Duration::from_secs(5);

/// Where nothing is said of when memory is lent: when less than this part of the machine's is free.
const FREE_PART: u64 = 32;

/// What tells of processes that wait for memory.
#[derive(Debug)]
struct Source {
    /// Says when to look; none where the kernel tells only who is privileged: then it is looked at now and then. What it says is not enough: the kernel counts
    /// to a new trigger all that was waited since it last had one to serve.
    trigger: Option<Trigger>,
    /// How long they have waited in all.
    path: PathBuf,
    /// What that was, and when.
    seen: VecDeque<(Duration, Duration)>,
}

/// How a device's condition is measured.
#[derive(Debug)]
enum Gauge {
    /// It isn't: nothing depends on it.
    None,
    /// By what is free, below so many bytes.
    Free(u64),
    /// By who waits.
    Stall { full: bool, stall: Duration, window: Duration, sources: Vec<Source> },
}

#[derive(Debug, Default)]
struct Watcher {
    gauges: BTreeMap<PoolId, (Emergency, Gauge)>,
    /// Devices whose sources have told since the last turn.
    told: Vec<PoolId>,
}

impl State {
    /// Whether a device has a reserve of which it may lend.
    pub(super) fn lends(&self, pool: PoolId) -> bool {
        self.pool(pool).backing.lender().is_some()
    }
}

impl Inner {
    /// Looks whether memory is short, on a thread that is there as long as something depends on it.
    pub(crate) fn start_watch(&self, st: &mut State) {
        if st.emergency.allowed.is_empty() || std::mem::replace(&mut st.emergency.watched, true) {
            return;
        }
        let weak = self.me.clone();
        let work = move || {
            let mut watcher = Watcher::default();
            loop {
                let Some(inner) = weak.upgrade() else { return };
                let Some(next) = watcher.turn(&inner) else { return };
                drop(inner);
                watcher.wait(next);
            }
        };
        self.env.spawn("pressure", Box::new(work));
    }
}

impl Watcher {
    /// Looks at everything, and does what follows; how long nothing else needs to be looked at. `None` if nothing depends on it any more.
    fn turn(&mut self, inner: &Inner) -> Option<Duration> {
        let mut next = QUIET;
        let pools: Vec<PoolId> = {
            let mut st = inner.lock();
            if st.closing || st.emergency.allowed.is_empty() {
                st.emergency.watched = false;
                return None;
            }
            self.gauges.retain(|pool, (settings, _)| {
                st.emergency.allowed.get(pool).is_some_and(|allowed| allowed.settings == *settings)
            });
            let pools: Vec<PoolId> = st.emergency.allowed.keys().copied().collect();
            for &pool in &pools {
                self.prepare(inner, &mut st, pool);
            }
            let floors = self.gauges.values().any(|(_, gauge)| matches!(gauge, Gauge::Free(_)));
            let left = if floors { st.memory_left() } else { None };
            for &pool in &pools {
                next = next.min(self.look(inner, &mut st, pool, left));
            }
            pools
        };
        for pool in pools {
            if inner.look_after_loan(pool) {
                next = next.min(OFTEN);
            }
        }
        Some(next)
    }

    /// Sees to it that a device has its gauge, or that it is said why it can't have one.
    fn prepare(&mut self, inner: &Inner, st: &mut State, pool: PoolId) {
        if self.gauges.contains_key(&pool) {
            return;
        }
        let lends = st.lends(pool);
        if let Some(why) = st.pool(pool).backing.lender().and_then(|lender| lender.why_not()) {
            inner.lends_nothing(st, pool, why);
        }
        let name = st.pool_name(pool);
        let Some(allowed) = st.emergency.allowed.get_mut(&pool) else { return };
        let gauge = match allowed.settings.when {
            Some(When::Stall { full, stall, window }) => {
                match sources(inner.env.now(), full, stall, window) {
                    sources if sources.is_empty() => {
                        let why = "the kernel doesn't tell how long processes wait for memory (a kernel with CONFIG_PSI, booted with psi=1)";
                        tracing::warn!("device {name}: its emergency never comes: {why}");
                        inner.event(
                            "refuse",
                            &name,
                            &format!("emergency: its condition can't be measured: {why}"),
                            allowed.at_most,
                        );
                        allowed.unmeasured = Some(why.to_owned());
                        Gauge::None
                    }
                    sources => {
                        allowed.alarm = codax_core::emergency::Alarm::told_every(window);
                        Gauge::Stall { full, stall, window, sources }
                    }
                }
            }
            Some(When::Free(bytes)) if lends => Gauge::Free(bytes),
            None if lends => Gauge::Free(probe::memory_total().unwrap_or(0) / FREE_PART),
            // It is asked when something is placed.
            _ => Gauge::None,
        };
        self.gauges.insert(pool, (allowed.settings, gauge));
    }

    /// Looks whether memory is short for a device; how long that needn't be looked at again.
    fn look(&mut self, inner: &Inner, st: &mut State, pool: PoolId, left: Option<u64>) -> Duration {
        let now = inner.env.now();
        let name = st.pool_name(pool);
        let unused = st.unused_on(pool);
        let (Some((_, gauge)), Some(allowed)) =
            (self.gauges.get_mut(&pool), st.emergency.allowed.get_mut(&pool))
        else {
            return QUIET;
        };
        let told = self.told.contains(&pool);
        let (short, next) = match gauge {
            Gauge::None => return QUIET,
            Gauge::Free(floor) => {
                // What is lent and nobody has taken can be had as well.
                let left = left.map_or(u64::MAX, |left| left + unused);
                allowed.floor = *floor;
                (left < *floor, if left < *floor * 4 { OFTEN } else { SELDOM })
            }
            Gauge::Stall { full, stall, window, sources } => {
                let mut short = false;
                for source in sources.iter_mut() {
                    let exceeds = source.exceeds(now, *full, *stall, *window);
                    short |= exceeds && (told || source.trigger.is_none());
                }
                let all_told = sources.iter().all(|source| source.trigger.is_some());
                (short, if all_told { QUIET } else { *window / 4 })
            }
        };
        if allowed.alarm.see(now, short) {
            let cause = cause(allowed);
            let line = match allowed.alarm.is_on() {
                true => {
                    allowed.unlent = None;
                    format!("memory is short ({cause})")
                }
                false => format!("memory is not short any more ({cause})"),
            };
            inner.event("pressure", &name, &line, allowed.at_most);
        }
        if allowed.alarm.is_on() { next.min(LASTING) } else { next }
    }

    /// Waits until something is told, or for so long.
    fn wait(&mut self, time: Duration) {
        let mut pools = Vec::new();
        let mut triggers = Vec::new();
        for (pool, (_, gauge)) in &self.gauges {
            let Gauge::Stall { sources, .. } = gauge else { continue };
            for trigger in sources.iter().filter_map(|source| source.trigger.as_ref()) {
                pools.push(*pool);
                triggers.push(trigger);
            }
        }
        let told = psi::wait(&triggers, time);
        self.told.clear();
        match told {
            Ok(told) => {
                self.told.extend(pools.iter().zip(told).filter(|(_, told)| *told).map(|(pool, _)| *pool))
            }
            // What told of it is gone: what there is now is found anew.
            Err(e) => {
                tracing::warn!("memory pressure: {e}");
                self.gauges.clear();
                std::thread::sleep(LASTING);
            }
        }
    }
}

/// The condition that a device waits for, for people.
pub(super) fn cause(allowed: &Allowed) -> String {
    match allowed.settings.when {
        Some(when @ When::Stall { .. }) => when.to_string(),
        _ => When::Free(allowed.floor).to_string(),
    }
}

/// What tells of processes that wait for memory, here.
fn sources(now: Duration, full: bool, stall: Duration, window: Duration) -> Vec<Source> {
    let source = |path: PathBuf| {
        let seen = VecDeque::from([(now, psi::waited(&path, full).ok()?)]);
        Some(Source { trigger: Trigger::new(&path, full, stall, window).ok(), path, seen })
    };
    psi::files().into_iter().filter_map(source).collect()
}

impl Source {
    /// Whether processes have waited for longer than `stall` within the last `window`, or since it was looked at before.
    fn exceeds(&mut self, now: Duration, full: bool, stall: Duration, window: Duration) -> bool {
        let Self { path, seen, .. } = self;
        let Ok(total) = psi::waited(path, full) else { return false };
        seen.push_back((now, total));
        // One that is older than the window stays, to be compared with.
        while seen.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= window) {
            seen.pop_front();
        }
        seen.front().is_some_and(|(_, then)| total.saturating_sub(*then) >= stall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_compared_with_a_window_before() {
        let dir = tempfile::tempdir().expect("room");
        let path = dir.path().join("memory.pressure");
        let write =
            |ms: u64| std::fs::write(&path, format!("some avg10=0.00 total={}\n", ms * 1000)).expect("room");
        let mut source = Source { trigger: None, path: path.clone(), seen: VecDeque::new() };
        let mut at = |now, waited| {
            write(waited);
            let ms = Duration::from_millis;
            source.exceeds(ms(now), false, ms(150), ms(1000))
        };
        assert!(!at(0, 5000), "what was before isn't known");
        assert!(!at(250, 5100));
        assert!(at(500, 5150));
        assert!(at(1000, 5160));
        assert!(!at(1500, 5200));
        assert!(!at(3000, 5300));
    }
}
