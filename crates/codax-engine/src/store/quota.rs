//! Quotas, as the store carries them out: who pays for a file, what is refused, and what is told.
//!
//! Frames are charged by [`State::take`] and credited by [`State::free`], whoever asked for them. Who pays is found again by each commit that gives files
//! other owners or names. All of it is derived: from the quotas in the journal, the namespace, and the frame tables, which say whose each frame is.

use crate::store::Inner;
use crate::store::session::Session;
use crate::store::state::State;
use codax_core::change::Change;
use codax_core::info::QuotaInfo;
use codax_core::name::Name;
use codax_core::namespace::{Inode, Kind};
use codax_core::quota::{Account, News, Quota, Quotas, Subject, UNLIMITED};
use codax_core::request::QuotaOf;
use codax_core::units::format_size;
use codax_core::{Error, ErrorKind, FileId, PAGE_SIZE, PageCount, PoolId, Result};
use std::collections::{BTreeMap, BTreeSet};

/// The owner and the directory of a file that the namespace doesn't know of yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maker {
    pub uid: u32,
    pub dir: FileId,
}

/// Those who paid for files before a commit; nobody does where there is no quota.
pub(crate) type Payers = Option<Vec<(FileId, Vec<Subject>)>>;

impl Session {
    /// Lets a user, or a directory with all that is below it, have so many bytes of a pool, in whole frames; `None`: as many as there are. Without a pool, of
    /// all pools on which it has a quota.
    pub fn set_quota(&self, of: &QuotaOf, pool: Option<&str>, bytes: Option<u64>) -> Result<()> {
        self.require_admin(if bytes.is_some() { "quota set" } else { "quota clear" })?;
        let inner = &self.store.inner;
        let mut st = inner.lock();
        inner.tell_quotas(&mut st);
        let subject = self.subject(&st, of)?;
        if let Some(bytes) = bytes.filter(|bytes| (1..PAGE_SIZE).contains(bytes)) {
            let line = format!("a quota of {bytes} bytes is less than one frame, which has {PAGE_SIZE}");
            return Err(Error::invalid(line));
        }
        let pools = match pool {
            Some(pool) => vec![st.pool_for_files(pool)?],
            None => st.quotas.of(subject).map(|account| account.pool).collect(),
        };
        let name = st.subject_text(subject);
        let none = |pool: &PoolId| bytes.is_none() && st.quotas.get(subject, *pool).is_none();
        if pools.is_empty() || pools.iter().any(none) {
            let on = pool.map(|pool| format!(" on {pool}")).unwrap_or_default();
            return Err(Error::not_found(format!("{name} has no quota{on}")));
        }
        // What programs wrote by themselves counts from the beginning.
        inner.refresh_all(&mut st);
        let limit = bytes.map(|bytes| PageCount(bytes / PAGE_SIZE));
        let quotas = pools.iter().map(|pool| Change::Quota(Quota { subject, pool: *pool, limit }));
        inner.commit(&mut st, &quotas.collect::<Vec<_>>())?;
        inner.find_growth(&mut st);
        for pool in pools {
            let line = match st.quotas.get(subject, pool) {
                Some(account) => format!("set: {}", state_text(&account)),
                None => "cleared".to_owned(),
            };
            inner.event("quota", &name, &format!("{}: {line}", st.pool_name(pool)), 0);
        }
        Ok(())
    }

    fn subject(&self, st: &State, of: &QuotaOf) -> Result<Subject> {
        let path = match of {
            QuotaOf::User(uid) => return Ok(Subject::User(*uid)),
            QuotaOf::Dir(path) => path,
        };
        let dir = st.ns.resolve(&self.cred, path)?;
        match st.ns.get(dir).map(|inode| inode.kind) {
            Some(Kind::Dir) => Ok(Subject::Dir(dir)),
            _ => {
                let line = format!("{path} is not a directory: a quota is a directory's or a user's");
                Err(Error::new(ErrorKind::NotDir, line))
            }
        }
    }

    /// The quotas from the `first` on, at most `max` of them, and how many come after these: those that the session may know of. What programs took by
    /// themselves is looked for before.
    #[must_use]
    pub fn quotas(&self, first: usize, max: usize) -> (Vec<QuotaInfo>, u64) {
        let inner = &self.store.inner;
        let mut st = inner.lock();
        if !st.quotas.in_force() {
            return (Vec::new(), 0);
        }
        inner.refresh_all(&mut st);
        inner.find_growth(&mut st);
        let seen = |account: &Account| match account.subject {
            Subject::User(uid) => self.cred.admin || uid == self.cred.uid,
            // Names are for those who may look for them.
            Subject::Dir(dir) => st.ns.path_of(dir).is_some_and(|at| st.ns.resolve(&self.cred, &at).is_ok()),
        };
        let seen: Vec<Account> = st.quotas.accounts().filter(seen).collect();
        let rest = seen.get(first..).unwrap_or_default();
        let shown = &rest[..max.min(rest.len())];
        let infos = shown.iter().map(|account| st.quota_info(account)).collect();
        (infos, (rest.len() - shown.len()) as u64)
    }
}

impl Inner {
    /// Puts into the record of events what happened to quotas.
    pub fn tell_quotas(&self, st: &mut State) {
        if !st.quotas.in_force() {
            return;
        }
        for news in st.quotas.take_news() {
            let (account, count, line) = match news {
                News::Refused(account, count) => {
                    (account, count, format!("refused more: {}", state_text(&account)))
                }
                News::Over(account) => {
                    let line = format!("over: {}; nothing new until it has less", state_text(&account));
                    (account, PageCount(account.used.0.saturating_sub(account.limit.0)), line)
                }
                News::Under(account) => {
                    (account, account.used, format!("no longer over: {}", state_text(&account)))
                }
            };
            let line = format!("{}: {line}", st.pool_name(account.pool));
            self.event("quota", &st.subject_text(account.subject), &line, count.bytes());
        }
    }
}

impl State {
    fn quota_info(&self, account: &Account) -> QuotaInfo {
        QuotaInfo {
            of: match account.subject {
                Subject::User(uid) => QuotaOf::User(uid),
                Subject::Dir(dir) => QuotaOf::Dir(self.ns.path_of(dir).unwrap_or_default()),
            },
            pool: self.pool_name(account.pool),
            used: account.used.bytes(),
            limit: account.limit.bytes(),
            over: account.is_over(),
        }
    }

    fn subject_text(&self, subject: Subject) -> String {
        match subject {
            Subject::User(uid) => format!("user {uid}"),
            Subject::Dir(dir) => self.path(dir),
        }
    }

    /// Directories with a quota among `dir` and those above it.
    fn paying_dirs(&self, dir: FileId) -> Vec<Subject> {
        let above = std::iter::successors(Some(dir), |dir| Some(self.ns.parent_of(*dir)?.0));
        above.map(Subject::Dir).filter(|dir| self.quotas.has(*dir)).collect()
    }

    /// Who pays for a file as it is named now; `None` of one without a name, for which those pay who did when it had one.
    fn payers_by_name(&self, file: FileId) -> Option<Vec<Subject>> {
        let maker = self.making.get(&file).copied().or_else(|| {
            let uid = self.ns.get(file)?.uid;
            let named = self.ns.parent_of(file).map(|(dir, _)| dir);
            let unnamed = || Some(self.live.get(&file)?.unnamed.as_ref()?.dir);
            Some(Maker { uid, dir: named.or_else(unnamed)? })
        })?;
        Some(self.payers_of(maker))
    }

    fn payers_of(&self, maker: Maker) -> Vec<Subject> {
        [Subject::User(maker.uid)].into_iter().chain(self.paying_dirs(maker.dir)).collect()
    }

    /// Who pays for a file.
    fn payers(&self, file: FileId) -> Vec<Subject> {
        let known = || self.quotas.payers(file).map(<[Subject]>::to_vec);
        let owner = || self.ns.get(file).map(|inode| Subject::User(inode.uid)).into_iter().collect();
        self.payers_by_name(file).or_else(known).unwrap_or_else(owner)
    }

    /// What of a pool a file may still be given, as far as quotas go.
    pub fn quota_room(&self, file: FileId, pool: PoolId) -> PageCount {
        match self.quotas.in_force() {
            true => self.quotas.room(&self.payers(file), pool),
            false => UNLIMITED,
        }
    }

    /// The same of a file that is about to be made.
    pub fn quota_room_of(&self, maker: Maker, pool: PoolId) -> PageCount {
        match self.quotas.in_force() {
            true => self.quotas.room(&self.payers_of(maker), pool),
            false => UNLIMITED,
        }
    }

    /// How the tightest quota on a pool stands among those of who pays for a file, for people.
    pub fn quota_text(&self, file: FileId, pool: PoolId) -> Option<String> {
        let account = self.quotas.tightest(&self.payers(file), pool)?;
        Some(format!("{} has {}", self.subject_text(account.subject), state_text(&account)))
    }

    /// Whether a quota binds what a file gets in the medium of `pool`.
    pub fn is_bound(&self, file: FileId, pool: PoolId) -> bool {
        if !self.quotas.in_force() {
            return false;
        }
        let payers = self.payers(file);
        let mut pools = self.media.pools(self.media.of(pool));
        pools.any(|pool| self.quotas.tightest(&payers, pool).is_some())
    }

    /// The limit of the tightest quota on a pool among those of a directory and the ones above it, and what that leaves.
    pub fn quota_of_dir(&self, dir: FileId, pool: PoolId) -> Option<Account> {
        if !self.quotas.in_force() {
            return None;
        }
        self.quotas.tightest(&self.paying_dirs(dir), pool)
    }

    /// `QuotaExceeded` if those who pay for a file may not have so many frames of a pool more.
    pub fn check_quota(&mut self, pool: PoolId, file: FileId, count: PageCount) -> Result<()> {
        if !self.quotas.in_force() {
            return Ok(());
        }
        let payers = self.payers(file);
        match self.quotas.refusal(&payers, pool, count) {
            None => Ok(()),
            Some(account) => Err(self.exceeded(&account, count)),
        }
    }

    fn exceeded(&self, account: &Account, count: PageCount) -> Error {
        let line = format!(
            "{} has {} on pool {}, and {} more are asked for: remove files or move them elsewhere, or have the quota raised (codax quota set)",
            self.subject_text(account.subject),
            state_text(account),
            self.pool_name(account.pool),
            bytes_text(count)
        );
        Error::new(ErrorKind::QuotaExceeded, line)
    }

    /// A file has so many frames of a pool more.
    pub fn charge(&mut self, file: FileId, pool: PoolId, count: PageCount) {
        if !self.quotas.in_force() {
            return;
        }
        let payers = if self.quotas.payers(file).is_some() { Vec::new() } else { self.payers(file) };
        self.quotas.charge(file, pool, count, || payers);
    }

    /// Whose the frames from `frame` on are, if that has to be known when they are free.
    pub fn charged(&self, pool: PoolId, frame: codax_core::Frame) -> Option<FileId> {
        if self.quotas.in_force() { self.pool(pool).table.get(frame).owner } else { None }
    }

    /// `QuotaExceeded` if files that `changes` give names would then be charged to a directory that may not have so much more.
    pub fn check_entered(&mut self, changes: &[Change]) -> Result<()> {
        if !self.quotas.in_force() {
            return Ok(());
        }
        let mut more: BTreeMap<(Subject, PoolId), i128> = BTreeMap::new();
        for change in changes {
            let Change::Link { dir, child, .. } = change else { continue };
            let unnamed = || Some(self.live.get(child)?.unnamed.as_ref()?.dir);
            let from = self.ns.parent_of(*child).map(|(dir, _)| dir).or_else(unnamed);
            let (from, to) =
                (from.map(|dir| self.paying_dirs(dir)).unwrap_or_default(), self.paying_dirs(*dir));
            for (pool, count) in self.charged_below(*child) {
                let count = i128::from(count.0);
                to.iter()
                    .filter(|dir| !from.contains(dir))
                    .for_each(|dir| *more.entry((*dir, pool)).or_default() += count);
                from.iter()
                    .filter(|dir| !to.contains(dir))
                    .for_each(|dir| *more.entry((*dir, pool)).or_default() -= count);
            }
        }
        for ((subject, pool), count) in more {
            let Ok(count) = u64::try_from(count) else { continue };
            if let Some(account) =
                self.quotas.refusal(&[subject], pool, PageCount(count)).filter(|_| count > 0)
            {
                return Err(self.exceeded(&account, PageCount(count)));
            }
        }
        Ok(())
    }

    /// What a file, or all files below a directory, are charged for. One with other names stays where the first of them is.
    fn charged_below(&self, id: FileId) -> Vec<(PoolId, PageCount)> {
        let alone = |file: &FileId| self.ns.get(*file).is_some_and(|inode| inode.nlink <= 1);
        self.below(id).into_iter().filter(alone).flat_map(|file| self.quotas.frames(file)).collect()
    }

    /// An inode that isn't a directory, or those of all below one that have a bill.
    fn below(&self, id: FileId) -> Vec<FileId> {
        if self.ns.get(id).is_none_or(|inode| inode.kind != Kind::Dir) {
            return vec![id];
        }
        if !self.quotas.any_dir() {
            return Vec::new();
        }
        let below = self.ns.subtree(id).into_iter().map(|(_, _, id)| id);
        below.filter(|file| self.quotas.payers(*file).is_some()).collect()
    }

    /// Who pays now for the files that changes give other owners or names.
    pub fn payers_before(&self, changes: &[Change]) -> Payers {
        if !self.quotas.in_force() {
            return None;
        }
        let mut files = BTreeSet::new();
        for change in changes {
            match change {
                Change::Put(new) if new.kind == Kind::File => {
                    let same = |old: &Inode| (old.uid, old.nlink) == (new.uid, new.nlink);
                    files.extend((!self.ns.get(new.id).is_some_and(same)).then_some(new.id));
                }
                Change::Drop(id) => drop(files.insert(*id)),
                Change::Link { dir, name, child } => {
                    files.extend(self.below(*child));
                    files.extend(Name::new(name).ok().and_then(|name| self.ns.lookup(*dir, &name)));
                }
                Change::Unlink { dir, name } => {
                    let child = Name::new(name).ok().and_then(|name| self.ns.lookup(*dir, &name));
                    files.extend(child.into_iter().flat_map(|child| self.below(child)));
                }
                _ => {}
            }
        }
        Some(files.into_iter().map(|file| (file, self.payers(file))).collect())
    }

    /// Has those pay who are to from now on, after changes that were made.
    pub fn charge_anew(&mut self, before: Payers, changes: &[Change]) {
        let set = |change: &Change| matches!(change, Change::Quota(Quota { limit: Some(_), .. }));
        match &before {
            None if self.quotas.in_force() => self.count_quotas(),
            // What each file has is known.
            Some(_) if changes.iter().any(set) => self.with_quotas(Self::recount_payers),
            _ => {}
        }
        for (file, mut payers) in before.into_iter().flatten() {
            let Some(inode) = self.ns.get(file) else {
                self.quotas.gone(file);
                continue;
            };
            match self.payers_by_name(file) {
                Some(payers) => self.quotas.charge_to(file, payers, false),
                None => {
                    // Its directories are those where it was last; its owner may be another one.
                    let owner = Subject::User(inode.uid);
                    payers.retain(|payer| matches!(payer, Subject::Dir(_)));
                    payers.insert(0, owner);
                    self.quotas.charge_to(file, payers, true);
                }
            }
        }
    }

    /// The quotas of directories that changes remove, as changes that clear them.
    pub fn quotas_of_dropped(&self, changes: &[Change]) -> Vec<Change> {
        if !self.quotas.in_force() {
            return Vec::new();
        }
        let dropped = changes.iter().filter_map(|change| match change {
            Change::Drop(id) => Some(Subject::Dir(*id)),
            _ => None,
        });
        let quotas = dropped.flat_map(|dir| self.quotas.of(dir));
        quotas
            .map(|Account { subject, pool, .. }| Change::Quota(Quota { subject, pool, limit: None }))
            .collect()
    }

    /// Counts what is charged to whom anew.
    pub fn count_quotas(&mut self) {
        self.with_quotas(Self::recount);
    }

    fn with_quotas(&mut self, work: impl FnOnce(&Self, &mut Quotas)) {
        let mut quotas = self.quotas.clone();
        work(self, &mut quotas);
        self.quotas = quotas;
    }

    /// Quotas whose use was counted anew is not what it is said to be: whose, and what each says.
    pub fn miscounted(&self) -> Vec<String> {
        let mut counted = self.quotas.clone();
        self.recount(&mut counted);
        let pairs = self.quotas.accounts().zip(counted.accounts());
        let wrong = pairs.filter(|(kept, counted)| kept != counted).map(|(kept, counted)| {
            format!(
                "the quota of {} on {} counts {} frames where there are {}",
                self.subject_text(kept.subject),
                self.pool_name(kept.pool),
                kept.used,
                counted.used
            )
        });
        wrong.collect()
    }

    fn recount(&self, quotas: &mut Quotas) {
        if !quotas.in_force() {
            return;
        }
        let mut frames: BTreeMap<(FileId, PoolId), u64> = BTreeMap::new();
        for pool in &self.pools {
            pool.table.for_each(pool.all_frames(), |_, record| {
                if let Some(owner) = record.ok().and_then(|record| record.owner) {
                    *frames.entry((owner, pool.record.id)).or_default() += 1;
                }
            });
        }
        quotas.recount_frames(frames.into_iter().map(|((file, pool), n)| (file, pool, PageCount(n))));
        self.recount_payers(quotas);
    }

    fn recount_payers(&self, quotas: &mut Quotas) {
        // Of a file without a name that had no bill, its owner is all that is known.
        quotas.recount_payers(|file| {
            let new = self.quotas.payers(file).is_none();
            self.payers_by_name(file).or_else(|| new.then(|| self.payers(file)))
        });
    }
}

/// What an account has of what it may have, for people.
fn state_text(account: &Account) -> String {
    format!("{} of the {} that its quota allows", bytes_text(account.used), bytes_text(account.limit))
}

fn bytes_text(count: PageCount) -> String {
    match count.bytes() {
        bytes @ 0..1024 => format!("{bytes} bytes"),
        bytes => format!("{} ({bytes} bytes)", format_size(bytes)),
    }
}
