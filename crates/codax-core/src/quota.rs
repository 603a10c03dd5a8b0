//! Quotas: how many frames of a pool a user may have, or a directory with all that is below it; and who has how many.
//!
//! Frames are charged when they are taken and credited when they are free again, so what is on its way (a file in the making, the target of a move) and
//! what a file has left and somebody still holds is counted too. Each file has a *bill*: the frames it has of each pool, and the *payers* that they are
//! charged to. Who that is the caller says; here is only counted.

use crate::{FileId, PageCount, PoolId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Whose frames are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Subject {
    /// A user: all files that are theirs.
    User(u32),
    /// A directory: all files below it.
    Dir(FileId),
}

/// A quota, as the journal keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Whose.
    pub subject: Subject,
    /// Of which pool.
    pub pool: PoolId,
    /// How many frames; `None` where there is no quota any more.
    pub limit: Option<PageCount>,
}

/// What is left to those who pay for a file: no more than what the tightest quota among them leaves.
pub const UNLIMITED: PageCount = PageCount(u64::MAX);

/// A quota and what is charged to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Whose.
    pub subject: Subject,
    /// Of which pool.
    pub pool: PoolId,
    /// Frames that it may have.
    pub limit: PageCount,
    /// Frames that it has: more than it may where the quota came later, or where they were not asked for.
    pub used: PageCount,
}

impl Account {
    /// Whether it has more than it may: it gets nothing until it has less.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.used > self.limit
    }

    /// What it may still have.
    #[must_use]
    pub fn room(&self) -> PageCount {
        PageCount(self.limit.0.saturating_sub(self.used.0))
    }
}

/// What is to be told of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It asked for so many frames more than it may have, for the first time since it had fewer.
    Refused(Account, PageCount),
    /// It has more than it may by now.
    Over(Account),
    /// It has no more than it may again.
    Under(Account),
}

/// Frames of an account, and what was told of it.
#[derive(Clone, Copy, Debug, Default)]
struct Frames {
    limit: u64,
    used: u64,
    /// What was used when a refusal was told: another one is told once it was less.
    told: Option<u64>,
}

/// What a file is charged for, and to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Bill {
    payers: Vec<Subject>,
    frames: BTreeMap<PoolId, u64>,
    /// The payers are to be remembered though it has no frames now.
    kept: bool,
}

/// All quotas of a store, and the bills of its files; there are none where there is no quota.
#[derive(Clone, Debug, Default)]
pub struct Quotas {
    accounts: BTreeMap<(Subject, PoolId), Frames>,
    bills: BTreeMap<FileId, Bill>,
    refused: Vec<News>,
    crossed: Vec<News>,
}

impl Quotas {
    /// Whether there is any.
    #[must_use]
    pub fn in_force(&self) -> bool {
        !self.accounts.is_empty()
    }

    /// Whether it has one on some pool.
    #[must_use]
    pub fn has(&self, subject: Subject) -> bool {
        self.of(subject).next().is_some()
    }

    /// Those of a subject, in the order of the pools.
    pub fn of(&self, subject: Subject) -> impl Iterator<Item = Account> + '_ {
        let all = (subject, PoolId(0))..=(subject, PoolId(u16::MAX));
        self.accounts.range(all).map(|(key, frames)| account(*key, frames))
    }

    /// All of them, in one order.
    pub fn accounts(&self) -> impl Iterator<Item = Account> + '_ {
        self.accounts.iter().map(|(key, frames)| account(*key, frames))
    }

    /// The quota of a subject on a pool.
    #[must_use]
    pub fn get(&self, subject: Subject, pool: PoolId) -> Option<Account> {
        let key = (subject, pool);
        self.accounts.get(&key).map(|frames| account(key, frames))
    }

    /// Whether some directory has one.
    #[must_use]
    pub fn any_dir(&self) -> bool {
        self.accounts.range((Subject::Dir(FileId(0)), PoolId(0))..).next().is_some()
    }

    /// Sets a quota, or takes it away. What a new subject has is not known before the next [`Quotas::recount_payers`].
    pub fn set(&mut self, quota: &Quota) {
        let key = (quota.subject, quota.pool);
        match quota.limit {
            Some(limit) => {
                let frames = self.accounts.entry(key).or_default();
                (frames.limit, frames.told) = (limit.0, None);
            }
            None => drop(self.accounts.remove(&key)),
        }
        if self.accounts.is_empty() {
            *self = Self::default();
        }
    }

    /// Takes what each file has from who knows it; to be followed by [`Quotas::recount_payers`].
    pub fn recount_frames(&mut self, frames: impl IntoIterator<Item = (FileId, PoolId, PageCount)>) {
        let before = std::mem::take(&mut self.bills);
        for (file, pool, count) in frames {
            let bill = self.bills.entry(file).or_default();
            *bill.frames.entry(pool).or_default() += count.0;
        }
        for (file, old) in before {
            if old.kept {
                self.bills.entry(file).or_default().kept = true;
            }
            if let Some(bill) = self.bills.get_mut(&file) {
                bill.payers = old.payers;
            }
        }
    }

    /// Finds anew who pays for each file, and counts what that makes. For a file without payers of its own (`None`) those that it had are kept.
    pub fn recount_payers(&mut self, payers: impl Fn(FileId) -> Option<Vec<Subject>>) {
        self.accounts.values_mut().for_each(|frames| frames.used = 0);
        for (file, bill) in &mut self.bills {
            if let Some(payers) = payers(*file) {
                bill.payers = payers;
            }
            for payer in &bill.payers {
                for (pool, count) in &bill.frames {
                    if let Some(frames) = self.accounts.get_mut(&(*payer, *pool)) {
                        frames.used += count;
                    }
                }
            }
        }
    }

    /// What of a pool these may still be given.
    #[must_use]
    pub fn room(&self, payers: &[Subject], pool: PoolId) -> PageCount {
        self.tightest(payers, pool).map_or(UNLIMITED, |account| account.room())
    }

    /// The account among these that leaves least of a pool.
    #[must_use]
    pub fn tightest(&self, payers: &[Subject], pool: PoolId) -> Option<Account> {
        payers.iter().filter_map(|payer| self.get(*payer, pool)).min_by_key(Account::room)
    }

    /// The account that stands in the way of so many more frames, if one does; that it was asked is noted.
    pub fn refusal(&mut self, payers: &[Subject], pool: PoolId, count: PageCount) -> Option<Account> {
        let tightest = self.tightest(payers, pool).filter(|account| count > account.room())?;
        self.refused.push(News::Refused(tightest, count));
        Some(tightest)
    }

    /// How many refusals are noted; [`Quotas::forget_refusals`] forgets those since.
    #[must_use]
    pub fn refusals(&self) -> usize {
        self.refused.len()
    }

    /// Forgets the refusals after so many: less was asked for instead.
    pub fn forget_refusals(&mut self, since: usize) {
        self.refused.truncate(since);
    }

    /// A file has so many frames more. `payers` are those of one that has no bill yet.
    pub fn charge(
        &mut self,
        file: FileId,
        pool: PoolId,
        count: PageCount,
        payers: impl FnOnce() -> Vec<Subject>,
    ) {
        if !self.in_force() || count.0 == 0 {
            return;
        }
        let bill = self.bills.entry(file).or_insert_with(|| Bill { payers: payers(), ..Bill::default() });
        *bill.frames.entry(pool).or_default() += count.0;
        for payer in bill.payers.clone() {
            self.adjust((payer, pool), count.0, 0);
        }
    }

    /// A file has so many frames fewer.
    pub fn credit(&mut self, file: FileId, pool: PoolId, count: PageCount) {
        let Some(bill) = self.bills.get_mut(&file) else { return };
        let Some(frames) = bill.frames.get_mut(&pool) else { return };
        let count = count.0.min(*frames);
        *frames -= count;
        if *frames == 0 {
            bill.frames.remove(&pool);
        }
        let payers = bill.payers.clone();
        if bill.frames.is_empty() && !bill.kept {
            self.bills.remove(&file);
        }
        for payer in payers {
            self.adjust((payer, pool), 0, count);
        }
    }

    /// A file has these payers from now on. With `kept` they are remembered also while it has no frames: nobody could find them again.
    pub fn charge_to(&mut self, file: FileId, payers: Vec<Subject>, kept: bool) {
        if kept && self.in_force() {
            self.bills.entry(file).or_default();
        }
        let Some(bill) = self.bills.get_mut(&file) else { return };
        bill.kept = kept;
        let before = std::mem::replace(&mut bill.payers, payers.clone());
        let frames = bill.frames.clone();
        if frames.is_empty() && !kept {
            self.bills.remove(&file);
        }
        for (pool, count) in frames {
            before
                .iter()
                .filter(|payer| !payers.contains(payer))
                .for_each(|p| self.adjust((*p, pool), 0, count));
            payers
                .iter()
                .filter(|payer| !before.contains(payer))
                .for_each(|p| self.adjust((*p, pool), count, 0));
        }
    }

    /// A file is gone: what it still has is charged as before, until it is free.
    pub fn gone(&mut self, file: FileId) {
        let Some(bill) = self.bills.get_mut(&file) else { return };
        bill.kept = false;
        if bill.frames.is_empty() {
            self.bills.remove(&file);
        }
    }

    /// Who pays for a file, if it has a bill.
    #[must_use]
    pub fn payers(&self, file: FileId) -> Option<&[Subject]> {
        self.bills.get(&file).map(|bill| &bill.payers[..])
    }

    /// The frames that a file is charged for.
    pub fn frames(&self, file: FileId) -> impl Iterator<Item = (PoolId, PageCount)> + '_ {
        let frames = self.bills.get(&file).into_iter().flat_map(|bill| &bill.frames);
        frames.map(|(pool, count)| (*pool, PageCount(*count)))
    }

    /// Files with a bill.
    pub fn files(&self) -> impl Iterator<Item = FileId> + '_ {
        self.bills.keys().copied()
    }

    /// What is to be told since this was asked last.
    pub fn take_news(&mut self) -> Vec<News> {
        let mut news = std::mem::take(&mut self.crossed);
        for refusal in std::mem::take(&mut self.refused) {
            let News::Refused(account, _) = refusal else { continue };
            let Some(frames) = self.accounts.get_mut(&(account.subject, account.pool)) else { continue };
            // Others took back what they had got for the same request before it was refused.
            if frames.told.is_none() {
                frames.told = Some(frames.used);
                news.push(refusal);
            }
        }
        news
    }

    fn adjust(&mut self, key: (Subject, PoolId), more: u64, fewer: u64) {
        let Some(frames) = self.accounts.get_mut(&key) else { return };
        let was_over = frames.used > frames.limit;
        frames.used = (frames.used + more).saturating_sub(fewer);
        if frames.told.is_some_and(|told| frames.used < told) {
            frames.told = None;
        }
        let now = account(key, frames);
        match (was_over, now.is_over()) {
            (false, true) => self.crossed.push(News::Over(now)),
            (true, false) => self.crossed.push(News::Under(now)),
            _ => {}
        }
    }
}

fn account((subject, pool): (Subject, PoolId), frames: &Frames) -> Account {
    Account { subject, pool, limit: PageCount(frames.limit), used: PageCount(frames.used) }
}
