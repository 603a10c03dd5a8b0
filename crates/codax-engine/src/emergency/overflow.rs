//! Where pages for `dram` go that find no room there.

use super::told::Cause;
use super::{Allowed, floor};
use crate::budget::Budget;
use crate::store::Inner;
use crate::store::blocks::frames;
use crate::store::lost::WithMemory;
use crate::store::state::State;
use codax_core::change::PoolState;
use codax_core::emergency::{Offer, When, margin, spill};
use codax_core::extent::{self, Extent, FrameRun, PoolRun};
use codax_core::frame::FrameFlags;
use codax_core::placement::{Placement, Room};
use codax_core::units::format_size;
use codax_core::{DRAM, Error, FileId, HUGE_PAGES, PAGE_SIZE, PageCount, PageRange, PoolId, Result};
use std::collections::BTreeSet;
use std::time::Duration;

/// How often it is said of a file that there was no room anywhere: who writes a byte at a time would say nothing else.
const REFUSALS_EVERY: Duration = Duration::from_secs(1);

/// Frames that new pages of a file have got.
#[derive(Debug, Default)]
pub(crate) struct Placed {
    pub extents: Vec<Extent>,
    /// Those of the pages that are on a device for want of room in `dram`.
    pub spilled: Vec<PageRange>,
    /// Why they are, unless it is only that they are beside others that are.
    pub cause: Option<Cause>,
}

impl Placed {
    /// The frames of those.
    pub(super) fn spilled(&self) -> impl Iterator<Item = Extent> {
        self.spilled.iter().flat_map(|pages| extent::slice(&self.extents, *pages))
    }

    /// With those of more pages.
    pub fn extend(&mut self, more: Self) {
        self.extents.extend(more.extents);
        self.spilled.extend(more.spilled);
        self.cause = more.cause.or(self.cause);
    }
}

/// Where new pages go, those of them that are an emergency's, and why.
pub(crate) type Overflow = (Vec<PoolRun>, Vec<PageRange>, Cause);

/// What there is to go by when pages are for `dram`.
struct Need {
    /// Bytes.
    bytes: u64,
    /// Whether `dram` has frames for them, and the limit of the daemon's memory leaves enough.
    fits: bool,
    /// Whether it is that limit which doesn't.
    limited: bool,
    /// What can be had of memory, where somebody's condition wants to know.
    left: Option<u64>,
}

impl State {
    /// Whether pages of a file may be on a device for want of room.
    pub fn may_spill(&self, file: FileId) -> bool {
        !self.emergency.allowed.is_empty() && !self.ns.forbids_emergency(file)
    }

    /// Where new pages go of which some are for `dram`, if not all of those are to be there: the runs, which of them are an emergency's, and why. `NoSpace`, with
    /// the reason of each device, if there is no room anywhere. These devices are as `full`.
    pub fn overflow(
        &self,
        (placement, file): (&Placement, Option<FileId>),
        pages: PageRange,
        block: u64,
        full: &BTreeSet<PoolId>,
    ) -> Result<Option<Overflow>> {
        let quota = |pool| file.map_or(u64::MAX, |file| self.quota_room(file, pool).0);
        let room = |id| {
            let room = self.room(id);
            Room { free: room.free.min(PageCount(quota(id))), ..room }.unless(full.contains(&id))
        };
        let Some((mut runs, rest)) = placement.for_dram(pages, block, &room) else {
            return Ok(None);
        };
        let named: Option<PoolId> = match placement {
            Placement::Prefer(pool) => Some(*pool),
            _ => None,
        };
        let floors = || self.emergency.allowed.values().filter_map(floor);
        let dram = self.room(DRAM).free.0;
        let budget =
            Budget::of_this_process().and_then(Budget::left).map_or(u64::MAX, |left| left / PAGE_SIZE);
        let need = Need {
            bytes: rest.bytes(),
            fits: rest.count.0 <= dram.min(budget),
            limited: rest.count.0 > budget,
            left: floors().next().and_then(|_| self.memory_left()),
        };
        let above = |floor: u64| need.left.is_none_or(|left| left >= floor.saturating_add(need.bytes));
        // That a tenant may have no more of dram is no emergency, and no way past it.
        if rest.count.0 > quota(DRAM) || need.fits && floors().all(above) {
            return Ok(None);
        }
        let mut offers = vec![Offer { pool: DRAM, frames: dram.min(budget).min(quota(DRAM)), unit: 1 }];
        let mut why = Vec::new();
        for pool in self.by_cost().into_iter().filter(|pool| Some(*pool) != named) {
            match self.offer(pool, &need) {
                Ok(_) if full.contains(&pool) => {
                    why.push(format!("{}: {}", self.pool_name(pool), self.pool(pool).fit.why()));
                }
                Ok(frames) => {
                    offers.push(Offer { pool, frames: frames.min(quota(pool)), unit: self.unit(pool) });
                }
                Err(reason) => why.push(format!("{} {reason}", self.pool_name(pool))),
            }
        }
        let mut spilled = None;
        if let Some(left) = need.left.filter(|_| offers.len() > 1) {
            // What is below the lowest of the floors is for files only where nothing else is left.
            let above = left.saturating_sub(floors().min().unwrap_or(0)) / PAGE_SIZE;
            let dram = Offer { frames: offers[0].frames.min(above), ..offers[0] };
            spilled = spill(rest, block, &[&[dram], &offers[1..]].concat());
        }
        match spilled.or_else(|| spill(rest, block, &offers)) {
            Some(more) if more.iter().all(|run| run.pool == DRAM) => Ok(None),
            Some(more) => {
                let spilled = more.iter().filter(|run| run.pool != DRAM).map(|run| run.pages).collect();
                runs.extend(more);
                Ok(Some((runs, spilled, if need.fits { Cause::Short } else { Cause::Full })))
            }
            None if need.fits => Ok(None),
            None => {
                let fits = dram.min(budget).min(rest.count.0);
                Err(self.nowhere(PageCount(rest.count.0 - fits), &offers[1..], why, file))
            }
        }
    }

    /// Why so much finds no room in `dram` nor anywhere else: what devices offer, and why others don't.
    fn nowhere(&self, lacks: PageCount, offers: &[Offer], why: Vec<String>, file: Option<FileId>) -> Error {
        let offer = |offer: &Offer| {
            format!(
                "{} has room for {}{}",
                self.pool_name(offer.pool),
                format_size(PageCount(offer.frames).bytes()),
                self.bound(offer, file)
            )
        };
        let room: Vec<String> = offers.iter().map(offer).chain(why).collect();
        Error::no_space(format!(
            "no space in pool `dram`: {} ({} bytes) more are needed, and for an emergency {}",
            format_size(lacks.bytes()),
            lacks.bytes(),
            room.join(", ")
        ))
    }

    /// Devices that take what has spilled to `from` when that is drained and `dram` has no room, the cheapest first, and how many frames of each.
    pub fn help_for(&self, from: PoolId) -> Vec<(PoolId, u64)> {
        let bytes = self.pool(from).spilled.bytes();
        if bytes == 0 {
            return Vec::new();
        }
        let budget = Budget::of_this_process().and_then(Budget::left);
        // What moves between devices of the host's memory has its part of the limit already.
        let limited = budget.is_some_and(|left| left < bytes) && !self.pool(from).backing.is_charged();
        let need = Need { bytes, fits: false, limited, left: self.memory_left() };
        let others = self.by_cost().into_iter().filter(|pool| *pool != from);
        others.filter_map(|pool| Some((pool, self.offer(pool, &need).ok()?))).collect()
    }

    /// The devices that are allowed, the cheapest first: by what they announce of a read, and then by name.
    fn by_cost(&self) -> Vec<PoolId> {
        let mut pools: Vec<PoolId> = self.emergency.allowed.keys().copied().collect();
        let cost = |pool: &PoolId| {
            let link = self.link(*pool);
            let ns = |ns: Option<u32>| ns.unwrap_or(u32::MAX);
            (ns(link.read_ns), ns(link.write_ns), self.pool_name(*pool))
        };
        pools.sort_by_cached_key(cost);
        pools
    }

    /// How many frames of a device may be used now; else why none.
    fn offer(&self, pool: PoolId, need: &Need) -> std::result::Result<u64, String> {
        let allowed = self.helper(pool)?;
        let p = self.pool(pool);
        let pressed = match allowed.settings.when {
            None => !need.fits,
            Some(When::Free(floor)) => need.left.is_some_and(|left| left < floor.saturating_add(need.bytes)),
            Some(When::Stall { .. }) => !need.fits && allowed.alarm.is_on(),
        };
        if !pressed {
            let when = allowed.settings.when.map_or_else(String::new, |when| format!(" ({when})"));
            return Err(format!("waits for its condition{when}"));
        }
        if need.limited && p.backing.is_charged() {
            return Err("would take the same memory as dram".to_owned());
        }
        self.left_of(pool, allowed)
    }

    /// What is allowed of a device that can help out, be its condition fulfilled or not; else why it can't.
    fn helper(&self, pool: PoolId) -> std::result::Result<&Allowed, String> {
        let Some(allowed) = self.emergency.allowed.get(&pool) else { return Err("says never".to_owned()) };
        let p = self.pool(pool);
        if p.record.state != PoolState::Online || p.job.is_some() {
            return Err("is not online".to_owned());
        }
        if !p.may_help() {
            return Err("is about to be drained".to_owned());
        }
        let nodes: Vec<u32> = p.record.numa.iter().map(|memory| memory.node).collect();
        if let Some(gone) = self.without_device(pool).or_else(|| WithMemory::now().lost(&nodes)) {
            return Err(format!("is not there ({gone})"));
        }
        match &allowed.unmeasured {
            Some(why) => Err(format!("waits for a condition that can't be measured here: {why}")),
            None => Ok(allowed),
        }
    }

    /// How many frames are left of what is allowed of a device; else why none.
    fn left_of(&self, pool: PoolId, allowed: &Allowed) -> std::result::Result<u64, String> {
        let p = self.pool(pool);
        let used = p.spilled.0 + frames(&p.lent).0;
        let may = (allowed.at_most / PAGE_SIZE).saturating_sub(used);
        match self.room(pool).free.0.min(may) {
            0 if may == 0 => {
                Err(format!("has all that at_most allows of it, {}", format_size(allowed.at_most)))
            }
            0 => Err("is full".to_owned()),
            frames => Ok(frames),
        }
    }

    /// Whether some of a file is on a device for want of room in `dram`.
    pub fn has_spilled(&self, file: FileId, pool: PoolId) -> bool {
        self.ns.get(file).is_some_and(|inode| inode.spilled().iter().any(|e| e.pool == pool))
    }

    /// `NoSpace` if so much `more` of a file may not come to a device to which it has spilled, and from where a mount's kernel serves it. It can't grow elsewhere as long
    /// as that is so; therefore the device's condition isn't asked: that is beside what has spilled, and goes home with it.
    pub fn check_spilling(&self, file: FileId, pool: PoolId, more: PageCount) -> Result<()> {
        let named = || self.placement(file).pools().contains(&pool);
        if more.0 == 0 || !self.has_spilled(file, pool) || named() {
            return Ok(());
        }
        let left = match self.ns.forbids_emergency(file) {
            true => Err("is not for it by now".to_owned()),
            false => self.helper(pool).and_then(|allowed| self.left_of(pool, allowed)),
        };
        let why = match left {
            Ok(left) if left >= more.0 => return Ok(()),
            Ok(left) => format!("has room for {}", format_size(PageCount(left).bytes())),
            Err(why) => why,
        };
        Err(Error::no_space(format!(
            "{}: it is open, and on {} for want of room in `dram`, where it needs {} ({} bytes) more: that {why}",
            self.path(file),
            self.pool_name(pool),
            format_size(more.bytes()),
            more.bytes()
        )))
    }

    /// Those of the pages that were found in a file's object, which is in `pool`, that are on a device for want of room in `dram`: beside others that are, or where the object is
    /// `dram`'s and that was full by then. However much it is, it is there: it counts, so that less is given, and goes home.
    pub fn found_spilled(&self, file: FileId, pool: PoolId, found: &[Extent]) -> Vec<PageRange> {
        let placement = self.placement(file);
        let named = placement.pools();
        let spilled = |e: &&Extent| {
            e.pool != DRAM && !named.contains(&e.pool) && (pool == DRAM || self.has_spilled(file, e.pool))
        };
        found.iter().filter(spilled).map(Extent::pages).collect()
    }

    /// Why no more of a device is offered to a file, where it has more.
    fn bound(&self, offer: &Offer, file: Option<FileId>) -> String {
        let tight = file.filter(|file| self.quota_room(*file, offer.pool).0 == offer.frames);
        let quota = tight.and_then(|file| self.quota_text(file, offer.pool));
        let allowed = self.emergency.allowed.get(&offer.pool);
        let at_most = allowed.filter(|_| self.room(offer.pool).free.0 > offer.frames);
        let at_most =
            at_most.map(|allowed| format!("at_most allows {} in all", format_size(allowed.at_most)));
        quota.or(at_most).map_or_else(String::new, |why| format!(" ({why})"))
    }

    /// Whether a new page for `dram` would be on a device now.
    pub fn would_spill(&self, placement: &Placement) -> bool {
        self.would_spill_some(placement, self.block())
    }

    /// The same of the pages of a new file that may be of any size: if no more is left of `dram` than has to be left when something comes home.
    pub fn would_spill_soon(&self, placement: &Placement) -> bool {
        let left = self.room(DRAM).free;
        let near = left < margin(PageCount(self.pool(DRAM).record.frames));
        self.would_spill(placement)
            || near && self.would_spill_some(placement, (left.0 + 1).next_multiple_of(self.block()))
    }

    /// Whether some of so many pages would be on a device now.
    fn would_spill_some(&self, placement: &Placement, pages: u64) -> bool {
        if self.emergency.allowed.is_empty() {
            return false;
        }
        let block = self.block().max(HUGE_PAGES);
        let pages = PageRange::new(0, pages);
        matches!(self.overflow((placement, None), pages, block, &BTreeSet::new()), Ok(Some(_)))
    }

    /// Marks what has been placed so, before the journal has it.
    pub fn note_placed(&mut self, file: FileId, placed: &Placed) {
        if placed.spilled.is_empty() {
            return;
        }
        self.emergency.files.insert(file);
        for e in placed.spilled() {
            let run = FrameRun { frame: e.frame, count: e.count };
            let pool = self.pool_mut(e.pool);
            pool.table.set_flags(run, FrameFlags::EMERGENCY, true);
            pool.spilled.0 += e.count.0;
        }
    }
}

impl Inner {
    /// Says that new pages of a file found no room.
    pub fn tell_no_room(&self, st: &mut State, file: FileId, e: &Error, bytes: u64) {
        let now = self.env.now();
        st.emergency.refused.retain(|_, last| now.saturating_sub(*last) < REFUSALS_EVERY);
        let again = !st.emergency.refused.contains_key(&file);
        if e.kind == codax_core::ErrorKind::NoSpace && again {
            st.emergency.refused.insert(file, now);
            // One that is being made has no name yet.
            let unnamed = st.live.get(&file).and_then(|live| live.unnamed.as_ref());
            let subject = match unnamed.filter(|_| st.ns.path_of(file).is_none()) {
                Some(unnamed) => format!("a new file in {}", st.path(unnamed.dir)),
                None => st.path(file),
            };
            self.event("refuse", &subject, &e.message, bytes);
        }
    }
}
