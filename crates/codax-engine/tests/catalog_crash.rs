//! Whatever happens to the process, the power and the calls, and when: a batch that was acknowledged is there afterwards, and none is half there.

mod catalog_support;

use catalog_support::{Fault, Medium, after, is_lost, link, open, put, small, superblock, unlink};
use codax_core::PoolUuid;
use codax_core::{ErrorKind, FileId};
use codax_engine::catalog::{Catalog, Contents, Copies, Entry, Found, probe};
use proptest::prelude::*;
use std::collections::BTreeMap;

const HALF: u64 = 4096;

#[derive(Clone, Debug)]
enum Op {
    Append(Vec<Entry>),
    /// Another store takes it.
    Owner(u64),
    /// Leave without closing, and open again.
    Reopen,
    /// Check, and mend.
    Check,
    /// Something goes wrong so many calls later.
    Arm(u64, Fault),
}

fn entry() -> impl Strategy<Value = Entry> {
    let name = prop::collection::vec(any::<u8>(), 1..40);
    prop_oneof![
        3 => (1..8_u64, any::<u64>(), 0..6_u64).prop_map(|(id, version, extents)| put(id, version, extents)),
        1 => (1..8_u64).prop_map(|id| Entry::Drop(FileId(id))),
        2 => (1..3_u64, name.clone(), 1..8_u64).prop_map(|(dir, name, child)| link(dir, &name, child)),
        2 => (1..3_u64, 0..3_u8, 1..8_u64).prop_map(|(dir, name, child)| link(dir, &[name], child)),
        1 => (1..3_u64, 0..3_u8).prop_map(|(dir, name)| unlink(dir, &[name])),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let fault = prop_oneof![1 => Just(Fault::Error), 1 => Just(Fault::Kill), 3 => Just(Fault::PowerLoss)];
    prop_oneof![
        10 => prop::collection::vec(entry(), 1..5).prop_map(Op::Append),
        1 => (1..9_u64).prop_map(Op::Owner),
        1 => Just(Op::Reopen),
        1 => Just(Op::Check),
        3 => (0..24_u64, fault).prop_map(|(calls, fault)| Op::Arm(calls, fault)),
    ]
}

/// What a catalog means, in the plainest words.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    nodes: BTreeMap<u64, Entry>,
    links: BTreeMap<(u64, Vec<u8>), u64>,
}

impl Model {
    fn with(&self, entries: &[Entry]) -> Self {
        let mut model = self.clone();
        for entry in entries {
            match entry {
                Entry::Put(node) => drop(model.nodes.insert(node.id.0, entry.clone())),
                Entry::Drop(id) => drop(model.nodes.remove(&id.0)),
                Entry::Link { dir, name, child } => drop(model.links.insert((dir.0, name.clone()), child.0)),
                Entry::Unlink { dir, name } => drop(model.links.remove(&(dir.0, name.clone()))),
            }
        }
        model
    }

    fn of(contents: &Contents) -> Self {
        let nodes = contents.nodes().map(|node| (node.id.0, Entry::Put(Box::new(node.clone()))));
        let links = contents.links().map(|(dir, name, child)| ((dir.0, name.to_vec()), child.0));
        Self { nodes: nodes.collect(), links: links.collect() }
    }
}

/// What a catalog may hold: what was acknowledged, and perhaps the one batch that was under way.
#[derive(Default)]
struct Allowed {
    acknowledged: Model,
    in_doubt: Option<Model>,
    /// A store's taking it was cut off, which may leave a superblock torn.
    owner_in_doubt: bool,
}

impl Allowed {
    fn check(&mut self, catalog: &Catalog) {
        let found = Model::of(catalog.contents());
        let in_doubt = self.in_doubt.take();
        assert!(
            found == self.acknowledged || Some(&found) == in_doubt.as_ref(),
            "found {found:#?}\nacknowledged {:#?}\nin doubt {in_doubt:#?}",
            self.acknowledged
        );
        self.acknowledged = found;
    }
}

/// Opens the catalog, however often the power fails in it.
fn open_checked(medium: &Medium, allowed: &mut Allowed) -> Catalog {
    loop {
        let opened = open(medium);
        if medium.is_dead() {
            medium.restart();
            continue;
        }
        let armed = medium.disarm();
        let (mut catalog, findings) = match opened {
            Ok(opened) => opened,
            // A call that failed on purpose; the next attempt has nothing in its way.
            Err(error) => {
                assert!(error.message.contains("on purpose"), "{error}");
                continue;
            }
        };
        assert!(!is_lost(&findings), "{findings:?}");
        allowed.check(&catalog);
        if !allowed.owner_in_doubt && armed {
            let damage: Vec<_> = findings.iter().filter(|finding| !finding.repaired).collect();
            assert!(damage.is_empty(), "a power failure is no damage: {damage:?}");
        }
        // A call that failed on purpose, or a superblock that is torn.
        catalog.check(true).unwrap();
        allowed.owner_in_doubt = false;
        assert_eq!(catalog.check(false).unwrap(), []);
        return catalog;
    }
}

/// Runs `ops`; whether the last fault came.
fn run(seed: u64, ops: Vec<Op>) -> bool {
    let geometry = small(HALF);
    let medium = Medium::blank(&geometry, seed);
    drop(Catalog::format(medium.copies(), superblock(geometry), || ()).unwrap());
    let mut allowed = Allowed::default();
    let mut catalog = open_checked(&medium, &mut allowed);
    for op in ops {
        match op {
            Op::Append(entries) => {
                let next = allowed.acknowledged.with(&entries);
                match catalog.append(&entries) {
                    Ok(()) => {
                        assert!(allowed.in_doubt.is_none(), "took a batch after one in doubt");
                        allowed.acknowledged = next;
                    }
                    Err(error) if error.kind == ErrorKind::NoSpace => {}
                    Err(error) => {
                        assert_eq!(error.kind, ErrorKind::Internal, "{error}");
                        // Only what may be on the medium is in doubt, and nothing is taken after it.
                        if medium.is_dead() || catalog.append(&[]).is_err() {
                            allowed.in_doubt.get_or_insert(next);
                        }
                    }
                }
                assert_eq!(Model::of(catalog.contents()), allowed.acknowledged);
            }
            Op::Owner(store) => {
                allowed.owner_in_doubt |= catalog.set_owner(store).is_err();
            }
            Op::Check => {
                let checked = catalog.check(true);
                if checked.is_ok_and(|findings| findings.iter().all(|finding| finding.repaired)) {
                    // What could not be written is not done now.
                    allowed.in_doubt = None;
                    allowed.owner_in_doubt = false;
                    if !medium.is_dead() {
                        // What could not be written meanwhile can be now.
                        medium.disarm();
                        catalog.check(true).unwrap();
                        assert_eq!(catalog.check(false).unwrap(), []);
                    }
                }
            }
            Op::Reopen => {
                drop(catalog);
                catalog = open_checked(&medium, &mut allowed);
            }
            Op::Arm(calls, fault) => medium.arm(calls, fault),
        }
        if medium.is_dead() {
            drop(catalog);
            medium.restart();
            catalog = open_checked(&medium, &mut allowed);
        }
    }
    let came = !medium.disarm();
    drop(catalog);
    let catalog = open_checked(&medium, &mut allowed);
    drop(catalog);
    let (catalog, findings) = open(&medium).unwrap();
    assert_eq!(findings, []);
    assert_eq!(Model::of(catalog.contents()), allowed.acknowledged);
    came
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    #[test]
    fn what_was_acknowledged_is_there(seed in any::<u64>(), ops in prop::collection::vec(op(), 1..60)) {
        run(seed, ops);
    }
}

/// Every call of a run that has everything in it, one after the other, and each several times since chance has a part in it.
#[test]
fn killed_at_each_call() {
    for fault in [Fault::Kill, Fault::PowerLoss, Fault::Error] {
        for calls in 0.. {
            let mut came = false;
            for seed in 0..4 {
                let mut ops = vec![Op::Append(vec![put(2, 1, 2), link(1, b"a", 2)]), Op::Arm(calls, fault)];
                // Two compactions.
                ops.extend((0..40).map(|n| Op::Append(vec![put(2 + n % 3, n, 3), link(1, &[65, 66], n)])));
                ops.extend([Op::Owner(5), Op::Append(vec![unlink(1, b"a"), Entry::Drop(FileId(2))])]);
                came |= run(seed * 1000 + calls, ops);
            }
            if !came {
                assert!(calls > 100, "the run has only {calls} calls");
                break;
            }
        }
    }
}

/// A process that ends in the middle of a call leaves what is seen and not durable; what the next one builds on it must not outlive it when the
/// power fails.
#[test]
fn the_power_fails_while_it_is_opened_after_a_failure() {
    for (before, failed, power) in (0..30).flat_map(|f| (0..12).map(move |p| (f % 2 * 11, f / 2, p))) {
        for seed in 0..4 {
            let append = |n: u64| Op::Append(vec![put(2 + n % 3, n, 3), link(1, b"name", n)]);
            let mut ops: Vec<Op> = (0..before).map(append).collect();
            ops.push(Op::Arm(failed, Fault::Error));
            ops.extend((20..24).map(append));
            ops.extend([Op::Arm(power, Fault::PowerLoss), Op::Reopen]);
            ops.extend((30..34).map(append));
            run(seed * 10_000 + failed * 100 + power, ops);
        }
    }
}

/// The power fails at each call of a format, of a blank medium and of one that has a pool.
#[test]
fn format_is_done_or_said_to_be_cut_off() {
    let geometry = small(HALF);
    let found = |copies: &Copies| probe(copies, Some(geometry.device_bytes));
    for seed in 0..20 {
        for calls in 0.. {
            for old in [false, true] {
                let medium = Medium::blank(&geometry, seed * 1000 + calls);
                let entries = [put(2, 1, 1), link(1, b"old", 2)];
                if old {
                    let mut old = superblock(geometry);
                    old.pool = PoolUuid([7; 16]);
                    Catalog::format(medium.copies(), old, || ()).unwrap().append(&entries).unwrap();
                }
                medium.arm(calls, Fault::PowerLoss);
                let done = Catalog::format(medium.copies(), superblock(geometry), || ()).is_ok();
                assert_eq!(medium.disarm(), done);
                medium.restart();
                match found(&medium.copies()) {
                    Found::Ours(superblock, _) if superblock.pool == PoolUuid([7; 16]) => {
                        assert!(old && !done);
                        let (catalog, _) = open(&medium).unwrap();
                        assert_eq!(*catalog.contents(), after(&Contents::default(), &entries));
                    }
                    Found::Ours(..) => {
                        let (mut catalog, findings) = open(&medium).unwrap();
                        assert!(!is_lost(&findings));
                        assert_eq!(*catalog.contents(), Contents::default());
                        assert_eq!(catalog.superblock().name, "pmem0");
                        catalog.append(&entries).unwrap();
                    }
                    Found::Blank => assert!(!old && !done),
                    Found::Foreign(_) | Found::Damaged(_) => assert!(!done),
                    found => panic!("{found:?}"),
                }
                // Said again, it is done.
                Catalog::format(medium.copies(), superblock(geometry), || ()).unwrap();
                assert_eq!(open(&medium).unwrap().1, []);
                if done && old {
                    assert!(calls >= 12, "a format has only {calls} calls");
                }
            }
            if calls > 24 {
                break;
            }
        }
    }
}
