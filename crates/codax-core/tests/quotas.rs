//! Quotas against a count of every frame of every file, made anew after each step.

use codax_core::quota::{Account, News, Quota, Quotas, Subject, UNLIMITED};
use codax_core::{FileId, PageCount, PoolId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const SIM: PoolId = PoolId(1);

#[derive(Clone, Debug)]
enum Op {
    Set(Subject, u16, Option<u64>),
    /// More frames, if those who pay may have them.
    Ask(u64, u16, u64),
    /// More frames that nobody asked for.
    Find(u64, u16, u64),
    Free(u64, u16, u64),
    /// Another owner, other directories.
    Pay(u64, u32, u64),
    /// It has no name any more, and is open.
    Unlink(u64),
    /// It is dropped, and its frames are held.
    Drop(u64),
}

/// A file: who owns it, the directory it is in (and all of those with a lower number), whether it has a name, frames by pool.
#[derive(Clone, Debug, Default)]
struct File {
    uid: u32,
    dir: u64,
    /// Who paid when it had its last name.
    last: Option<Vec<Subject>>,
    dropped: bool,
    frames: BTreeMap<u16, u64>,
}

impl File {
    /// Directory 3 is in 2, and that in 1.
    fn payers(&self) -> Vec<Subject> {
        let dirs = (1..=self.dir).map(|dir| Subject::Dir(FileId(dir)));
        self.last.clone().unwrap_or_else(|| [Subject::User(self.uid)].into_iter().chain(dirs).collect())
    }
}

#[derive(Default)]
struct Model {
    files: BTreeMap<u64, File>,
    limits: BTreeMap<(Subject, u16), u64>,
}

impl Model {
    fn used(&self, subject: Subject, pool: u16) -> u64 {
        let pays = self.files.values().filter(|file| file.payers().contains(&subject));
        pays.map(|file| file.frames.get(&pool).copied().unwrap_or(0)).sum()
    }

    fn room(&self, payers: &[Subject], pool: u16) -> u64 {
        let rooms = payers.iter().filter_map(|payer| {
            let limit = self.limits.get(&(*payer, pool))?;
            Some(limit.saturating_sub(self.used(*payer, pool)))
        });
        rooms.min().unwrap_or(u64::MAX)
    }
}

fn subject() -> impl Strategy<Value = Subject> {
    prop_oneof![(0..3_u32).prop_map(Subject::User), (1..4_u64).prop_map(|id| Subject::Dir(FileId(id)))]
}

fn op() -> impl Strategy<Value = Op> {
    let (file, pool, count) = (0..4_u64, 0..2_u16, 1..9_u64);
    prop_oneof![
        2 => (subject(), pool.clone(), prop::option::weighted(0.8, 0..20_u64)).prop_map(|(s, p, l)| Op::Set(s, p, l)),
        5 => (file.clone(), pool.clone(), count.clone()).prop_map(|(f, p, n)| Op::Ask(f, p, n)),
        2 => (file.clone(), pool.clone(), count.clone()).prop_map(|(f, p, n)| Op::Find(f, p, n)),
        3 => (file.clone(), pool, count).prop_map(|(f, p, n)| Op::Free(f, p, n)),
        2 => (file.clone(), 0..3_u32, 0..4_u64).prop_map(|(f, uid, dir)| Op::Pay(f, uid, dir)),
        1 => file.clone().prop_map(Op::Unlink),
        1 => file.prop_map(Op::Drop),
    ]
}

proptest! {
    #[test]
    fn every_frame_is_charged_to_all_who_pay_for_its_file(ops in prop::collection::vec(op(), 1..60)) {
        let (mut quotas, mut model) = (Quotas::default(), Model::default());
        let mut over = BTreeSet::new();
        for op in ops {
            step(&mut quotas, &mut model, &op)?;
            let found: Vec<Account> = quotas.accounts().collect();
            let expected: Vec<Account> = model.limits.iter().map(|(&(subject, pool), &limit)| Account {
                subject,
                pool: PoolId(pool),
                limit: PageCount(limit),
                used: PageCount(model.used(subject, pool)),
            }).collect();
            prop_assert_eq!(&found, &expected, "after {:?}", op);
            // Who gets over, or under again, without a change of the quota, is told of it.
            let now: BTreeSet<_> = found.iter().filter(|a| a.is_over()).map(|a| (a.subject, a.pool)).collect();
            let news = quotas.take_news();
            if !matches!(op, Op::Set(..)) {
                for key in now.symmetric_difference(&over) {
                    let told = news.iter().any(|news| match news {
                        News::Over(a) => now.contains(key) && (a.subject, a.pool) == *key,
                        News::Under(a) => !now.contains(key) && (a.subject, a.pool) == *key,
                        News::Refused(..) => false,
                    });
                    prop_assert!(told, "of {:?}: {:?}", key, news);
                }
            }
            over = now;
        }
    }
}

fn step(quotas: &mut Quotas, model: &mut Model, op: &Op) -> Result<(), TestCaseError> {
    let alive = |model: &Model, id: &u64| model.files.get(id).is_none_or(|file| !file.dropped);
    match op {
        Op::Set(subject, pool, limit) => {
            quotas.set(&Quota { subject: *subject, pool: PoolId(*pool), limit: limit.map(PageCount) });
            match limit {
                Some(limit) => drop(model.limits.insert((*subject, *pool), *limit)),
                None => drop(model.limits.remove(&(*subject, *pool))),
            }
            if quotas.in_force() {
                let frames = model.files.iter().flat_map(|(id, file)| {
                    file.frames.iter().map(|(pool, n)| (FileId(*id), PoolId(*pool), PageCount(*n)))
                });
                // What was counted until now is right, too.
                if quotas.files().next().is_none() {
                    quotas.recount_frames(frames);
                }
                quotas.recount_payers(|id| model.files.get(&id.0).map(File::payers));
            }
        }
        Op::Ask(id, pool, count) if alive(model, id) => {
            let file = model.files.entry(*id).or_default();
            let payers = file.payers();
            let room = model.room(&payers, *pool);
            prop_assert_eq!(quotas.room(&payers, PoolId(*pool)).0, room);
            let refused = quotas.refusal(&payers, PoolId(*pool), PageCount(*count));
            prop_assert_eq!(refused.is_some(), *count > room);
            if refused.is_none() {
                quotas.charge(FileId(*id), PoolId(*pool), PageCount(*count), || payers);
                *model.files.entry(*id).or_default().frames.entry(*pool).or_default() += count;
            }
        }
        Op::Find(id, pool, count) if alive(model, id) => {
            let file = model.files.entry(*id).or_default();
            quotas.charge(FileId(*id), PoolId(*pool), PageCount(*count), || file.payers());
            *file.frames.entry(*pool).or_default() += count;
        }
        Op::Free(id, pool, count) => {
            let Some(frames) = model.files.get_mut(id).and_then(|file| file.frames.get_mut(pool)) else {
                return Ok(());
            };
            let count = (*count).min(*frames);
            *frames -= count;
            quotas.credit(FileId(*id), PoolId(*pool), PageCount(count));
        }
        Op::Pay(id, uid, dir) if alive(model, id) => {
            let file = model.files.entry(*id).or_default();
            (file.uid, file.dir, file.last) = (*uid, *dir, None);
            quotas.charge_to(FileId(*id), file.payers(), false);
        }
        Op::Unlink(id) if alive(model, id) => {
            let file = model.files.entry(*id).or_default();
            file.last = Some(file.payers());
            quotas.charge_to(FileId(*id), file.payers(), true);
        }
        Op::Drop(id) if alive(model, id) => {
            let file = model.files.entry(*id).or_default();
            file.last = Some(file.payers());
            file.dropped = true;
            quotas.gone(FileId(*id));
        }
        _ => {}
    }
    Ok(())
}

fn quotas(limit: u64) -> Quotas {
    let mut quotas = Quotas::default();
    quotas.set(&Quota { subject: Subject::User(1), pool: SIM, limit: Some(PageCount(limit)) });
    quotas
}

fn told(quotas: &mut Quotas) -> usize {
    quotas.take_news().iter().filter(|news| matches!(news, News::Refused(..))).count()
}

#[test]
fn a_refusal_is_told_once_until_there_is_less() {
    let mut quotas = quotas(10);
    let payers = || vec![Subject::User(1)];
    quotas.charge(FileId(2), SIM, PageCount(10), payers);
    for expected in [1, 0, 0] {
        // A part of the request was taken, and given back when the rest was refused.
        quotas.charge(FileId(3), SIM, PageCount(1), payers);
        assert!(quotas.refusal(&payers(), SIM, PageCount(1)).is_some());
        quotas.credit(FileId(3), SIM, PageCount(1));
        assert_eq!(told(&mut quotas), expected);
    }
    quotas.credit(FileId(2), SIM, PageCount(1));
    assert!(quotas.refusal(&payers(), SIM, PageCount(2)).is_some());
    assert_eq!(told(&mut quotas), 1);
    // Less was asked for instead.
    quotas.credit(FileId(2), SIM, PageCount(1));
    let before = quotas.refusals();
    assert!(quotas.refusal(&payers(), SIM, PageCount(3)).is_some());
    quotas.forget_refusals(before);
    assert_eq!(told(&mut quotas), 0);
}

#[test]
fn the_tightest_quota_binds_and_others_are_not_asked() {
    let mut quotas = quotas(10);
    quotas.set(&Quota { subject: Subject::Dir(FileId(5)), pool: SIM, limit: Some(PageCount(3)) });
    let both = [Subject::User(1), Subject::Dir(FileId(5))];
    assert_eq!(quotas.room(&both, SIM), PageCount(3));
    assert_eq!(quotas.room(&both, PoolId(0)), UNLIMITED);
    assert_eq!(quotas.room(&[Subject::User(2)], SIM), UNLIMITED);
    let refused = quotas.refusal(&both, SIM, PageCount(4)).expect("too many");
    assert_eq!((refused.subject, refused.limit), (Subject::Dir(FileId(5)), PageCount(3)));
    assert_eq!(quotas.refusal(&both, SIM, PageCount(3)), None);
}

#[test]
fn without_quotas_nothing_is_kept() {
    let mut quotas = quotas(10);
    quotas.charge(FileId(2), SIM, PageCount(4), || vec![Subject::User(1)]);
    quotas.charge_to(FileId(3), vec![Subject::User(1)], true);
    assert_eq!(quotas.files().count(), 2);
    quotas.set(&Quota { subject: Subject::User(1), pool: SIM, limit: None });
    assert!(!quotas.in_force());
    assert_eq!(quotas.files().count(), 0);
    quotas.charge(FileId(2), SIM, PageCount(4), || unreachable!("nobody pays"));
    assert_eq!(quotas.files().count(), 0);
}
