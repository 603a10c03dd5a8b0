//! Bringing home what is on devices for want of room, once there is room again.

use super::floor;
use crate::budget::Budget;
use crate::drain::pace;
use crate::mover::{Order, Stuck};
use crate::store::Inner;
use crate::store::state::{Job, State};
use codax_core::emergency::margin;
use codax_core::extent::{self, PoolRun};
use codax_core::{DRAM, FileId, HUGE_PAGES, PAGE_SIZE, PageCount, PageRange};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked whether there is room.
const EVERY: Duration = Duration::from_millis(500);

/// How fast things come home, in bytes per second: nobody waits for it.
const RATE: u64 = 512 << 20;

/// Pages that are brought before it is looked again.
const AT_ONCE: u64 = 64 * HUGE_PAGES;

/// When a file is tried again that somebody holds.
const AGAIN: Duration = Duration::from_secs(10);

impl State {
    /// Pages for which there is room at home: some of it is left to whoever comes next.
    fn room_at_home(&self) -> u64 {
        if self.emergency.allowed.values().any(|allowed| allowed.alarm.is_on()) {
            return 0;
        }
        let dram = self.pool(DRAM);
        let frames = PageCount(dram.record.frames);
        let free = dram.alloc.free().0.saturating_sub(margin(frames).0);
        let budget = Budget::of_this_process().and_then(Budget::left);
        let budget = budget.map_or(u64::MAX, |left| left / PAGE_SIZE - left / PAGE_SIZE / 4);
        let highest = self.emergency.allowed.values().filter_map(floor).max();
        let above = highest.map_or(u64::MAX, |floor| {
            self.memory_left().map_or(0, |left| left.saturating_sub(floor + floor / 4) / PAGE_SIZE)
        });
        free.min(budget).min(above).min(AT_ONCE)
    }

    /// What goes home next: as much as there is room for, in whole blocks or to the end of a run.
    fn next_home(&self, not_yet: &BTreeMap<FileId, Duration>) -> Vec<(FileId, Vec<PoolRun>)> {
        let mut room = self.room_at_home();
        let block = self.block().max(HUGE_PAGES);
        let mut next = Vec::new();
        for &file in &self.emergency.files {
            if room == 0 {
                break;
            }
            let Some(inode) =
                self.ns.get(file).filter(|_| !not_yet.contains_key(&file) && !self.is_busy(file))
            else {
                continue;
            };
            let mut to = Vec::new();
            for run in extent::pool_runs(&inode.spilled()) {
                let end = match run.pages.count.0 <= room {
                    true => run.pages.end(),
                    false => (run.pages.start.0 + room) / block * block,
                };
                if end > run.pages.start.0 {
                    let pages = PageRange::new(run.pages.start.0, end - run.pages.start.0);
                    room -= pages.count.0;
                    to.push(PoolRun { pages, pool: DRAM });
                }
            }
            next.extend((!to.is_empty()).then_some((file, to)));
        }
        next
    }
}

impl Inner {
    /// Sees to it that what is on devices for want of room goes home, on a thread that is there as long as something is.
    pub(super) fn start_homing(&self, st: &mut State) {
        let none = st.emergency.files.is_empty() || !st.emergency.begun;
        if none || std::mem::replace(&mut st.emergency.goes_home, true) {
            return;
        }
        let (weak, env) = (self.me.clone(), self.env.clone());
        let work = move || {
            let mut not_yet = BTreeMap::new();
            loop {
                env.sleep(EVERY);
                let Some(inner) = weak.upgrade() else { return };
                if !inner.bring_home_spilled(&mut not_yet) {
                    return;
                }
            }
        };
        self.env.spawn("homing", Box::new(work));
    }

    /// Finds what programs have by themselves made of files that have spilled, and from which a mount's kernel serves them: it counts.
    fn find_spilled(&self, st: &mut State) {
        let ahead = |file: &FileId| st.ns.get(*file).is_some_and(|inode| inode.ahead.is_some());
        let files: Vec<FileId> = st.emergency.files.iter().copied().filter(ahead).collect();
        for file in files {
            // Who is at work on it takes in what there is by himself.
            if !st.is_busy(file) {
                self.refresh(st, file);
            }
        }
    }

    /// Brings home what there is room for; whether there is or may be more. `not_yet` are files that somebody holds, and until when they are left alone.
    fn bring_home_spilled(&self, not_yet: &mut BTreeMap<FileId, Duration>) -> bool {
        let now = self.env.now();
        not_yet.retain(|_, until| *until > now);
        let job = Arc::new(Job::new("home"));
        let (orders, pace) = {
            let mut st = self.lock();
            self.find_spilled(&mut st);
            st.count_spilled();
            if st.closing || st.emergency.files.is_empty() {
                st.emergency.goes_home = false;
                return false;
            }
            if !st.emergency.homing.may_go(now) {
                return true;
            }
            // By a placement further up, or a new place in the tree: whatever names the device by now.
            if let Err(e) = self.keep_what_is_placed(&mut st) {
                tracing::warn!("what is placed on a device by name: {e}");
                return true;
            }
            let orders = st.next_home(not_yet);
            let files = orders.iter().filter_map(|(file, _)| st.ns.get(*file));
            let from = files.flat_map(|inode| inode.spilled()).map(|e| e.pool).chain([DRAM]);
            let pace = pace(&st, from, Some(RATE));
            st.emergency.job = Some(job.clone());
            (orders, pace)
        };
        for (file, to) in orders {
            let from = {
                let st = self.lock();
                let spilled = st.ns.get(file).map(|inode| inode.spilled()).unwrap_or_default();
                spilled.iter().map(|e| st.pool_name(e.pool)).collect::<BTreeSet<_>>()
            };
            let asked = to.iter().map(|run| run.pages.bytes()).sum();
            let order = Order { file, to, home: None, verify: false, bound: false, job: &job, pace: &pace };
            let (bytes, stuck) = match self.move_pages(&order) {
                Ok(bytes) => (bytes, None),
                Err((bytes, stuck)) => (bytes, Some(stuck)),
            };
            let mut st = self.lock();
            if bytes > 0 {
                st.emergency.homing.came_home(self.env.now());
                let from = from.into_iter().collect::<Vec<_>>().join(", ");
                let detail = format!("from {from} to dram, where there is room again");
                self.event("home", &st.path(file), &detail, bytes);
            }
            match stuck {
                None | Some(Stuck::Cancelled) => {}
                Some(Stuck::Held(_)) => drop(not_yet.insert(file, self.env.now() + AGAIN)),
                Some(Stuck::Failed(e)) => {
                    not_yet.insert(file, self.env.now() + AGAIN);
                    tracing::warn!("{} stays on a device: {e}", st.path(file));
                    self.event("refuse", &st.path(file), &format!("to go home: {e}"), asked);
                }
            }
        }
        self.lock().emergency.job = None;
        true
    }
}
