//! Whatever happens to the process and to its medium, and when: what was acknowledged is there afterwards, and nothing is half there.

mod journal_support;

use codax_core::change::{Change, PoolState};
use codax_core::quota::{Quota, Subject};
use codax_core::{ErrorKind, FileId, MoveId, PageCount, PoolId};
use codax_engine::journal::Journal;
use journal_support::{Fault, Model, Sim, link, move_begin, open, pool, put, unlink};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    /// Commit these.
    Append(Vec<Change>),
    /// Fold what is there if it is more than so many bytes.
    Fold(u64),
    /// Fold everything, and open again.
    Reopen,
    /// Write everything anew.
    Rewrite,
    /// Leave without closing, and open again.
    Drop,
    /// Something goes wrong so many calls of the medium later.
    Arm(u64, Fault),
}

fn change() -> impl Strategy<Value = Change> {
    let name = prop::collection::vec(any::<u8>(), 1..4);
    prop_oneof![
        (1..6_u64, 0..100_000_u64).prop_map(|(id, len)| put(id, len)),
        (1..6_u64).prop_map(|id| Change::Drop(FileId(id))),
        (1..3_u64, name.clone(), 1..6_u64).prop_map(|(dir, name, child)| link(dir, &name, child)),
        (1..3_u64, name).prop_map(|(dir, name)| unlink(dir, &name)),
        (0..3_u16).prop_map(|id| pool(id, PoolState::Draining)),
        (1..4_u32).prop_map(move_begin),
        (1..4_u32).prop_map(|id| Change::MoveEnd(MoveId(id))),
        (1..9_u64).prop_map(|id| Change::IdsBelow(FileId(id))),
        (subject(), 0..3_u16, prop::option::of(0..9_u64)).prop_map(|(subject, pool, limit)| {
            Change::Quota(Quota { subject, pool: PoolId(pool), limit: limit.map(PageCount) })
        }),
    ]
}

fn subject() -> impl Strategy<Value = Subject> {
    prop_oneof![(0..3_u32).prop_map(Subject::User), (1..3_u64).prop_map(|id| Subject::Dir(FileId(id))),]
}

fn op() -> impl Strategy<Value = Op> {
    let fault = prop_oneof![Just(Fault::Error), Just(Fault::Kill), Just(Fault::PowerLoss)];
    prop_oneof![
        8 => prop::collection::vec(change(), 1..6).prop_map(Op::Append),
        2 => prop_oneof![Just(1), Just(200_u64)].prop_map(Op::Fold),
        1 => Just(Op::Reopen),
        1 => Just(Op::Rewrite),
        1 => Just(Op::Drop),
        2 => (0..60_u64, fault).prop_map(|(calls, fault)| Op::Arm(calls, fault)),
    ]
}

/// What a journal may hold: what was acknowledged, and perhaps the one commit that was under way.
struct Allowed {
    acknowledged: Model,
    in_doubt: Option<Model>,
}

impl Allowed {
    fn check(&mut self, found: Model) {
        let in_doubt = self.in_doubt.take();
        assert!(
            found == self.acknowledged || Some(&found) == in_doubt.as_ref(),
            "found {found:#?}\nacknowledged {:#?}\nin doubt {in_doubt:#?}",
            self.acknowledged
        );
        self.acknowledged = found;
    }
}

/// Opens the journal, however often it is killed in it.
fn open_checked(sim: &Sim, allowed: &mut Allowed) -> Journal {
    loop {
        match open(sim) {
            Ok((journal, found, _)) => {
                allowed.check(found);
                return journal;
            }
            Err(error) if sim.is_dead() => {
                assert_ne!(error.kind, ErrorKind::Corrupt, "{error}");
                sim.restart();
            }
            // A call that failed on purpose; the next attempt has nothing in its way.
            Err(error) => assert!(error.message.contains("on purpose"), "{error}"),
        }
    }
}

/// Runs `ops`; whether the last fault came.
fn run(seed: u64, ops: Vec<Op>) -> bool {
    let sim = Sim::new(seed);
    let mut allowed = Allowed { acknowledged: Model::default(), in_doubt: None };
    let mut journal = open_checked(&sim, &mut allowed);
    for op in ops {
        match op {
            Op::Append(changes) => {
                let after = allowed.acknowledged.with(&changes);
                match journal.append(&changes) {
                    Ok(()) => {
                        assert!(allowed.in_doubt.is_none(), "took a commit after one in doubt");
                        allowed.acknowledged = after;
                    }
                    // Only a commit that came as far as the word is in doubt, and none is taken after it.
                    Err(_) if sim.is_dead() || journal.append(&[]).is_err() => {
                        allowed.in_doubt.get_or_insert(after);
                    }
                    Err(_) => {}
                }
            }
            Op::Fold(bytes) => drop(journal.fold_above(bytes)),
            Op::Rewrite => {
                let rewritten = journal.rewrite(allowed.acknowledged.changes());
                if let Err(error) = rewritten.and_then(|()| journal.verify()) {
                    assert_ne!(error.kind, ErrorKind::Corrupt, "{error}");
                }
            }
            Op::Reopen => {
                drop(journal.fold_above(1));
                drop(journal);
                revive(&sim);
                journal = open_checked(&sim, &mut allowed);
            }
            Op::Drop => {
                drop(journal);
                revive(&sim);
                journal = open_checked(&sim, &mut allowed);
            }
            Op::Arm(calls, fault) => sim.arm(calls, fault),
        }
        if sim.is_dead() {
            drop(journal);
            sim.restart();
            journal = open_checked(&sim, &mut allowed);
        }
    }
    let came = !sim.disarm();
    drop(journal);
    revive(&sim);
    let journal = open_checked(&sim, &mut allowed);
    journal.verify().unwrap();
    journal.fold_above(1).unwrap();
    journal.verify().unwrap();
    drop(journal);
    let (_, found, notes) = open(&sim).unwrap();
    assert_eq!(found, allowed.acknowledged);
    assert!(notes.is_empty(), "{notes:?}");
    came
}

fn revive(sim: &Sim) {
    if sim.is_dead() {
        sim.restart();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn what_was_acknowledged_is_there(seed in any::<u64>(), ops in prop::collection::vec(op(), 1..40)) {
        run(seed, ops);
    }
}

/// Every call of a run that has everything in it, one after the other.
#[test]
fn killed_at_each_call() {
    for fault in [Fault::Kill, Fault::PowerLoss, Fault::Error] {
        for calls in 0.. {
            let ops = vec![
                Op::Append(vec![put(2, 5000), link(1, b"a", 2), pool(1, PoolState::Online)]),
                Op::Arm(calls, fault),
                Op::Append(vec![put(3, 1), link(1, b"b", 3)]),
                Op::Fold(1),
                Op::Append(vec![unlink(1, b"a"), Change::Drop(FileId(2)), move_begin(1)]),
                Op::Rewrite,
                Op::Reopen,
                Op::Append(vec![Change::MoveEnd(MoveId(1)), put(3, 2)]),
            ];
            if !run(calls, ops) {
                assert!(calls > 20, "the run has only {calls} calls");
                break;
            }
        }
    }
}

/// The same for the first open of an empty directory.
#[test]
fn killed_while_it_is_made() {
    for fault in [Fault::Kill, Fault::PowerLoss, Fault::Error] {
        for calls in 0.. {
            let sim = Sim::new(calls);
            let mut allowed = Allowed { acknowledged: Model::default(), in_doubt: None };
            sim.arm(calls, fault);
            let journal = open_checked(&sim, &mut allowed);
            let came = !sim.disarm();
            drop(journal);
            open_checked(&sim, &mut allowed).append(&[put(2, 1)]).unwrap();
            allowed.acknowledged = allowed.acknowledged.with(&[put(2, 1)]);
            open_checked(&sim, &mut allowed);
            if !came {
                break;
            }
        }
    }
}
