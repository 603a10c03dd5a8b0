//! Waking threads that sleep on a futex in memory that was switched.
//!
//! The kernel knows a process-shared futex by the object behind its address. Who went to sleep before the switch is woken through a mapping of the old
//! object, looks at its word again, and sleeps on the new one if it must.

use codax_os::area::Area;
use codax_os::futex::{self, Settler};
use std::time::{Duration, Instant};

/// How long to wait for threads that may be on their way to sleep, at most. They need a quarter of a millisecond of CPU time each.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_micros(250);

/// A mapping of the old object, and the addresses at which the program had it.
#[derive(Debug)]
pub(super) struct Old {
    pub(super) start: usize,
    pub(super) area: Area,
}

/// Wakes who sleeps on a futex in these ranges (the program's address, where the old object is mapped now).
pub(super) fn wake_sleepers<'a>(old: impl Iterator<Item = (usize, &'a Area)> + Clone) {
    let ranges: Vec<_> = old.clone().map(|(start, area)| (start, start + area.len())).collect();
    if ranges.is_empty() {
        return;
    }
    // Without /proc nobody can be found; those who sleep then wake when their own time limit says so.
    for sleeper in futex::sleepers(&ranges).unwrap_or_default() {
        for (start, area) in old.clone() {
            if (start..start + area.len()).contains(&sleeper.addr) {
                let _ = futex::wake(area.base() + (sleeper.addr - start), u32::MAX);
            }
        }
    }
}

/// Wakes them until none can be left. `exclude`: threads that never sleep in a mapping.
pub(super) fn settle(old: &[Old], exclude: &[u32]) {
    if old.is_empty() {
        return;
    }
    let areas = old.iter().map(|old| (old.start, &old.area));
    let until = Instant::now() + SETTLE_MAX;
    let mut settler = Settler::new(exclude).ok();
    loop {
        wake_sleepers(areas.clone());
        let settled = settler.as_mut().is_none_or(|settler| settler.settled().unwrap_or(true));
        if settled || Instant::now() > until {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    wake_sleepers(areas);
}
