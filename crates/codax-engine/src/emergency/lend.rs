//! Lending memory of a device's reserve to the rest of the system: what is lent is free on the node, for whoever comes, and its frames are nobody's.

use super::Allowed;
use super::watch::cause;
use crate::backing::Lender;
use crate::store::Inner;
use crate::store::blocks::frames;
use crate::store::state::{Pool, State};
use codax_core::change::PoolState;
use codax_core::emergency::{LoanAction, LoanView};
use codax_core::extent::FrameRun;
use codax_core::placement::Placement;
use codax_core::units::format_size;
use codax_core::{Frame, PageCount, PoolId, Result};
use codax_os::{numa, probe};
use std::time::Duration;

/// How often others' pages are moved off the node, to get back what they have of it.
const EVICT_EVERY: Duration = Duration::from_secs(1);

/// Of the machine's memory this part has to be free elsewhere before something is taken back, where pressure and no floor says when it is lent.
const SPARE_PART: u64 = 16;

/// How much has to have come back for that to be said before all has.
const TELL: u64 = 16 << 20;

impl Pool {
    /// Whether anything of it may be lent, or used for files: nothing of one that is drained, or is about to be.
    pub(super) fn may_help(&self) -> bool {
        self.record.state == PoolState::Online && self.job.is_none() && self.recalls == 0
    }
}

impl State {
    /// What there is to go by when memory of a device is lent, or taken back.
    fn loan_view(&mut self, now: Duration, pool: PoolId, lender: &dyn Lender) -> Option<LoanView> {
        let claimed = self.emergency.allowed.get_mut(&pool)?.is_claimed(now);
        let allowed = self.emergency.allowed.get(&pool)?;
        let p = self.pool(pool);
        let serves = p.may_help();
        let short = allowed.alarm.is_on() && allowed.unmeasured.is_none();
        let floor = match allowed.floor {
            0 => probe::memory_total().unwrap_or(0) / SPARE_PART,
            floor => floor + floor / 4,
        };
        let lent = allowed.loan.lent() > 0;
        let lends = short && allowed.unlent.is_none() && lender.is_populated();
        let spare = || p.alloc.free().bytes().min(lender.held().unwrap_or(0));
        Some(LoanView {
            short,
            limit: if serves { allowed.at_most.saturating_sub(p.spilled.bytes()) } else { 0 },
            unused: if short { self.unused_on(pool) } else { 0 },
            spare: if lends { spare() } else { 0 },
            elsewhere: if lent && !short { self.memory_left().unwrap_or(0).saturating_sub(floor) } else { 0 },
            wanted: claimed || !serves,
            unit: lender.unit(),
        })
    }

    /// Why what is lent of a device is taken back where so much may be lent, for people.
    fn why_back(&self, now: Duration, pool: PoolId, limit: u64) -> &'static str {
        let allowed = self.emergency.allowed.get(&pool);
        match allowed {
            _ if !self.pool(pool).may_help() => "for a drain",
            Some(allowed) if now < allowed.claimed => "for a file that found no room",
            Some(allowed) if allowed.loan.lent() <= limit => "since memory is not short any more",
            _ => "since no more than that is allowed of it (at_most)",
        }
    }

    /// What of a device's loan nobody has taken yet.
    pub(super) fn unused_on(&self, pool: PoolId) -> u64 {
        let lent = self.emergency.allowed.get(&pool).map_or(0, |allowed| allowed.loan.lent());
        let node = self.pool(pool).record.numa.filter(|_| lent > 0);
        let marks = node.and_then(|memory| numa::watermarks(memory.node).ok());
        marks.map_or(0, |marks| marks.free.saturating_sub(marks.low).min(lent))
    }

    /// Frames whose memory has come back can be given out again.
    fn unlend(&mut self, pool: PoolId, bytes: u64) {
        let p = self.pool_mut(pool);
        let mut count = PageCount::for_bytes(bytes).0;
        while count > 0 {
            let Some(last) = p.lent.pop() else { break };
            let back = last.count.0.min(count);
            count -= back;
            let kept = last.count.0 - back;
            let run = FrameRun { frame: Frame(last.frame.0 + kept), count: PageCount(back) };
            p.table.free(run);
            p.alloc.release(run);
            p.lent.extend((kept > 0).then_some(FrameRun { count: PageCount(kept), ..last }));
        }
        p.tell_unused();
        self.fit_medium(pool);
    }

    /// Wants back what is lent of the pools of a placement, since a file has found no room there; what to tell who made it.
    pub fn want_back(&mut self, placement: &Placement) -> String {
        let pools = match placement {
            Placement::On { pool, .. } | Placement::Prefer(pool) => vec![*pool],
            Placement::Interleave(pools) => pools.clone(),
        };
        let mut said = String::new();
        for pool in pools {
            let name = self.pool_name(pool);
            let Some(allowed) = self.emergency.allowed.get_mut(&pool) else { continue };
            let lent = allowed.loan.lent();
            if lent > 0 {
                allowed.wanted = true;
                let lent = format_size(lent);
                said += &format!(
                    "; {lent} of {name} are lent to the rest of the system and are wanted back now: try again"
                );
            }
        }
        said
    }
}

impl Inner {
    /// Lends some of a device, or takes some back, if it is time to; whether it is to be looked at again soon.
    pub(super) fn look_after_loan(&self, pool: PoolId) -> bool {
        let (lender, action, name, why) = {
            let mut st = self.lock();
            let Some(lender) = st.pool(pool).backing.lender() else { return false };
            let now = self.env.now();
            self.tell_too_little(&mut st, pool, lender.unit());
            let Some(view) = st.loan_view(now, pool, &*lender) else { return false };
            let (name, why) = (st.pool_name(pool), st.why_back(now, pool, view.limit));
            let Some(allowed) = st.emergency.allowed.get_mut(&pool) else { return false };
            let action = allowed.loan.next(now, view);
            if view.short && !view.wanted && allowed.loan.lent() <= view.limit {
                // Nobody wants anything back any more.
                allowed.owed = 0;
            }
            if allowed.loan.lent() == 0 && allowed.at_most == 0 {
                // It is allowed no more, and nothing is to come back.
                st.emergency.allowed.remove(&pool);
                return false;
            }
            (lender, action, name, why)
        };
        self.env.reached("loan:decided");
        let done = match action {
            LoanAction::Rest => Ok(()),
            LoanAction::Lend(bytes) => self.lend(pool, &name, &*lender, bytes),
            LoanAction::TakeBack(bytes) => self.take_back(pool, &name, &*lender, (bytes, why)),
        };
        if let Err(e) = done {
            self.lends_nothing(&mut self.lock(), pool, e.message);
        }
        let st = self.lock();
        st.emergency
            .allowed
            .get(&pool)
            .is_some_and(|allowed| allowed.loan.lent() > 0 || allowed.alarm.is_on())
    }

    /// Says why nothing of a device can be lent, or taken back. It is tried again when memory is short the next time.
    pub(super) fn lends_nothing(&self, st: &mut State, pool: PoolId, why: String) {
        let name = st.pool_name(pool);
        let Some(allowed) = st.emergency.allowed.get_mut(&pool) else { return };
        if allowed.unlent.as_ref() == Some(&why) {
            return;
        }
        let line = format!("emergency: nothing can be lent to the rest of the system, or taken back: {why}");
        tracing::warn!("device {name}: {line}");
        self.event("refuse", &name, &line, allowed.at_most);
        allowed.unlent = Some(why);
    }

    /// Says so if a device may lend less than a page, which it lends whole.
    fn tell_too_little(&self, st: &mut State, pool: PoolId, unit: u64) {
        let Some(at_most) = st.emergency.allowed.get(&pool).map(|allowed| allowed.at_most) else { return };
        // Of one that is allowed nothing any more only what is lent comes back.
        if (1..unit).contains(&at_most) {
            let (at_most, page) = (format_size(at_most), format_size(unit));
            self.lends_nothing(st, pool, format!("at_most allows {at_most}, less than a page, {page}"));
        }
    }

    fn lend(&self, pool: PoolId, name: &str, lender: &dyn Lender, bytes: u64) -> Result<()> {
        let noted = {
            let mut st = self.lock();
            let p = st.pool_mut(pool);
            // A drain may have come since that was decided.
            if !p.may_help() {
                return Ok(());
            }
            let Some(runs) = p.alloc.allocate(PageCount::for_bytes(bytes), None) else { return Ok(()) };
            runs.iter().for_each(|run| p.table.reserve(*run));
            p.lent.extend(runs);
            p.tell_unused();
            st.fit_medium(pool);
            self.note_lent(&st, pool)
        };
        let lent = noted.and_then(|()| lender.lend(bytes));
        let mut st = self.lock();
        let given = *lent.as_ref().unwrap_or(&0);
        st.unlend(pool, bytes - given.min(bytes));
        let noted = self.note_lent(&st, pool);
        if given == 0 {
            self.changed.notify_all();
            return lent.and(noted);
        }
        // It may be allowed nothing any more: then this is to come back.
        let allowed = st.emergency.allowed.entry(pool).or_insert_with(Allowed::nothing);
        allowed.loan.lent_more(given);
        allowed.owed = 0;
        let (all, cause) = (format_size(allowed.loan.lent()), cause(allowed));
        drop(st);
        let line = format!("to the rest of the system, whose memory is short ({cause}): {all} in all");
        self.event("lend", name, &line, given);
        noted
    }

    fn take_back(
        &self,
        pool: PoolId,
        name: &str,
        lender: &dyn Lender,
        (bytes, why): (u64, &str),
    ) -> Result<()> {
        let mut got = lender.take_back(bytes)?;
        let mut failed = Ok(());
        if got < bytes && self.may_evict(pool) {
            // Who has it may have it elsewhere, now that there is room.
            let moved = self.move_strangers_off(pool).and_then(|_| lender.take_back(bytes - got));
            // What has come before that has come whatever becomes of the rest.
            failed = moved.map(|more| got += more);
        }
        let mut st = self.lock();
        // The holder has more of the node than the pool has frames: that makes up for a page here and there which the kernel doesn't let go of.
        let p = st.pool(pool);
        let unused = p.alloc.free().0 + frames(&p.lent).0 + frames(&p.private).0;
        let whole = lender.held().is_ok_and(|held| held >= PageCount(unused).bytes());
        let lent = frames(&p.lent).bytes();
        let (got, bytes) = if whole { (lent, lent) } else { (got, bytes) };
        st.unlend(pool, got);
        let noted = self.note_lent(&st, pool);
        let Some(allowed) = st.emergency.allowed.get_mut(&pool) else { return Ok(()) };
        allowed.loan.got_back(got);
        allowed.back += got;
        let before = std::mem::replace(&mut allowed.owed, bytes.saturating_sub(got));
        let (lent, owed) = (allowed.loan.lent(), allowed.owed);
        let back = if allowed.back >= TELL || lent == 0 { std::mem::take(&mut allowed.back) } else { 0 };
        if lent == 0 {
            allowed.is_back(self.env.now());
            lender.is_whole();
        }
        drop(st);
        if back > 0 {
            let rest = if lent == 0 { "nothing is".to_owned() } else { format!("{} are", format_size(lent)) };
            let line = format!("from the rest of the system, {why}: {rest} lent any more");
            self.event("return", name, &line, back);
        }
        if owed > 0 && before == 0 {
            let who = self.who_is_on(pool);
            self.event("owed", name, &format!("wanted back, and others still have it: {who}"), owed);
        }
        self.changed.notify_all();
        failed.and(noted)
    }

    /// Whether it is time to move others' pages off a device's node.
    fn may_evict(&self, pool: PoolId) -> bool {
        let now = self.env.now();
        let mut st = self.lock();
        let Some(allowed) = st.emergency.allowed.get_mut(&pool) else { return false };
        let due = allowed.evicted.is_none_or(|last| now.saturating_sub(last) >= EVICT_EVERY);
        if due {
            allowed.evicted = Some(now);
        }
        due
    }
}
