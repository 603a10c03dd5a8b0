//! The namespace as a mount uses it, with hard links and exchanges, against a plain map of (directory, name).

use codax_core::change::Change;
use codax_core::name::Name;
use codax_core::namespace::{Inode, Kind, Namespace};
use codax_core::{ErrorKind, FileId, ROOT};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A directory of those there are, and a name.
type Place = (prop::sample::Index, &'static str);

#[derive(Clone, Debug)]
enum Op {
    Make(Kind, Place),
    Link(prop::sample::Index, Place),
    Remove(Place, bool),
    Rename(Place, Place, bool),
    Exchange(Place, Place),
}

fn op() -> impl Strategy<Value = Op> {
    let place = || (any::<prop::sample::Index>(), prop_oneof![Just("a"), Just("b"), Just("c")]);
    let kind = prop_oneof![3 => Just(Kind::Dir), 2 => Just(Kind::File), 1 => Just(Kind::Fifo)];
    prop_oneof![
        4 => (kind, place()).prop_map(|(kind, place)| Op::Make(kind, place)),
        3 => (any::<prop::sample::Index>(), place()).prop_map(|(id, place)| Op::Link(id, place)),
        2 => (place(), any::<bool>()).prop_map(|(place, dirs)| Op::Remove(place, dirs)),
        4 => (place(), place(), prop::bool::weighted(0.2)).prop_map(|(from, to, no)| Op::Rename(from, to, no)),
        3 => (place(), place()).prop_map(|(a, b)| Op::Exchange(a, b)),
    ]
}

type At = (FileId, &'static str);

#[derive(Default)]
struct Model {
    entries: BTreeMap<At, FileId>,
    kinds: BTreeMap<FileId, Kind>,
}

impl Model {
    fn dirs(&self) -> Vec<FileId> {
        let dirs = self.kinds.iter().filter(|(_, kind)| **kind == Kind::Dir).map(|(id, _)| *id);
        [ROOT].into_iter().chain(dirs).collect()
    }

    fn place(&self, (dir, name): &Place) -> At {
        let dirs = self.dirs();
        (dirs[dir.index(dirs.len())], name)
    }

    fn is_dir(&self, id: FileId) -> bool {
        self.kinds.get(&id) == Some(&Kind::Dir)
    }

    fn is_empty(&self, dir: FileId) -> bool {
        !self.entries.keys().any(|(at, _)| *at == dir)
    }

    fn at(&self, at: At) -> Result<FileId, ErrorKind> {
        self.entries.get(&at).copied().ok_or(ErrorKind::NotFound)
    }

    /// Whether `dir` is `above` or below it.
    fn is_within(&self, dir: FileId, above: FileId) -> bool {
        let parent = |id| self.entries.iter().find(|(_, child)| **child == id).map(|((dir, _), _)| *dir);
        std::iter::successors(Some(dir), |id| parent(*id)).any(|id| id == above)
    }

    fn names(&self, id: FileId) -> usize {
        self.entries.values().filter(|child| **child == id).count()
    }

    /// A name is lost; what has none left is gone.
    fn forget(&mut self, at: At) {
        if let Some(id) = self.entries.remove(&at)
            && self.names(id) == 0
        {
            self.kinds.remove(&id);
        }
    }

    fn link(&mut self, id: FileId, to: At) -> Result<(), ErrorKind> {
        match () {
            () if self.is_dir(id) => Err(ErrorKind::NotPermitted),
            () if self.entries.contains_key(&to) => Err(ErrorKind::Exists),
            () => {
                self.entries.insert(to, id);
                Ok(())
            }
        }
    }

    fn remove(&mut self, at: At, dirs: bool) -> Result<(), ErrorKind> {
        let id = self.at(at)?;
        match (self.is_dir(id), dirs) {
            (true, false) => Err(ErrorKind::IsDir),
            (false, true) => Err(ErrorKind::NotDir),
            (true, true) if !self.is_empty(id) => Err(ErrorKind::NotEmpty),
            _ => {
                self.forget(at);
                Ok(())
            }
        }
    }

    fn rename(&mut self, from: At, to: At, noreplace: bool) -> Result<(), ErrorKind> {
        let source = self.at(from)?;
        let target = self.entries.get(&to).copied();
        if noreplace && target.is_some() {
            return Err(ErrorKind::Exists);
        }
        if target == Some(source) {
            return Ok(());
        }
        if self.is_dir(source) && self.is_within(to.0, source) {
            return Err(ErrorKind::Invalid);
        }
        match target.map(|target| (self.is_dir(source), self.is_dir(target), self.is_empty(target))) {
            Some((true, true, false)) => return Err(ErrorKind::NotEmpty),
            Some((false, true, _)) => return Err(ErrorKind::IsDir),
            Some((true, false, _)) => return Err(ErrorKind::NotDir),
            _ => {}
        }
        self.forget(to);
        self.entries.remove(&from);
        self.entries.insert(to, source);
        Ok(())
    }

    fn exchange(&mut self, from: At, to: At) -> Result<(), ErrorKind> {
        let (a, b) = (self.at(from)?, self.at(to)?);
        if a == b {
            return Ok(());
        }
        if self.is_dir(a) && self.is_within(to.0, a) || self.is_dir(b) && self.is_within(from.0, b) {
            return Err(ErrorKind::Invalid);
        }
        self.entries.insert(to, a);
        self.entries.insert(from, b);
        Ok(())
    }
}

/// The namespace under test, and every change it ever made.
struct Tested {
    ns: Namespace,
    journal: Vec<Change>,
}

impl Tested {
    fn apply(&mut self, changes: codax_core::Result<Vec<Change>>) -> Result<(), ErrorKind> {
        for change in changes.map_err(|error| error.kind)? {
            self.ns.apply(&change).unwrap();
            self.journal.push(change);
        }
        // What has no name and is not used goes, as in a store.
        let gone: Vec<FileId> =
            self.ns.inodes().filter(|inode| inode.nlink == 0).map(|inode| inode.id).collect();
        for id in gone {
            self.ns.apply(&Change::Drop(id)).unwrap();
            self.journal.push(Change::Drop(id));
        }
        Ok(())
    }

    fn run(&mut self, model: &mut Model, op: &Op, now: i64) {
        let name = |name: &str| Name::new(name.as_bytes()).unwrap();
        let (got, expected) = match op {
            Op::Make(kind, place) => {
                let at = model.place(place);
                let id = self.ns.take_id();
                let made = self.ns.make_at(at.0, &name(at.1), Inode::new(id, *kind, 0o644, 1, 1, now));
                let expected = if model.entries.contains_key(&at) { Err(ErrorKind::Exists) } else { Ok(()) };
                if expected.is_ok() {
                    model.entries.insert(at, id);
                    model.kinds.insert(id, *kind);
                }
                (self.apply(made), expected)
            }
            Op::Link(which, place) => {
                let ids: Vec<FileId> = model.kinds.keys().copied().collect();
                if ids.is_empty() {
                    return;
                }
                let (id, at) = (ids[which.index(ids.len())], model.place(place));
                let linked = self.ns.link_at(id, at.0, &name(at.1), now);
                (self.apply(linked), model.link(id, at))
            }
            Op::Remove(place, dirs) => {
                let at = model.place(place);
                let removed = self.ns.remove_at(at.0, &name(at.1), *dirs, now);
                (self.apply(removed.map(|(_, changes)| changes)), model.remove(at, *dirs))
            }
            Op::Rename(from, to, noreplace) => {
                let (from, to) = (model.place(from), model.place(to));
                let (from_name, to_name) = (name(from.1), name(to.1));
                let renamed = self.ns.rename_at((from.0, &from_name), (to.0, &to_name), *noreplace, now);
                (self.apply(renamed.map(|(_, changes)| changes)), model.rename(from, to, *noreplace))
            }
            Op::Exchange(from, to) => {
                let (from, to) = (model.place(from), model.place(to));
                let (from_name, to_name) = (name(from.1), name(to.1));
                let exchanged = self.ns.exchange_at((from.0, &from_name), (to.0, &to_name), now);
                (self.apply(exchanged), model.exchange(from, to))
            }
        };
        assert_eq!(got, expected, "{op:?}");
    }
}

fn compare(ns: &Namespace, model: &Model) {
    let listed: BTreeMap<(FileId, Vec<u8>), FileId> = model
        .dirs()
        .into_iter()
        .flat_map(|dir| ns.entries(dir, None).map(move |(name, id)| ((dir, name.as_bytes().to_vec()), id)))
        .collect();
    let expected: BTreeMap<(FileId, Vec<u8>), FileId> =
        model.entries.iter().map(|((dir, name), id)| ((*dir, name.as_bytes().to_vec()), *id)).collect();
    assert_eq!(listed, expected);
    assert_eq!(ns.count(), 1 + model.kinds.len());
    for (&id, &kind) in &model.kinds {
        let inode = ns.get(id).unwrap();
        assert_eq!((inode.kind, inode.nlink as usize), (kind, model.names(id)));
        // One of its names is the first, and leads to it.
        let (dir, name) = ns.parent_of(id).unwrap();
        assert_eq!(ns.lookup(dir, name), Some(id));
        assert!(ns.path_of(id).is_some());
    }
    for dir in model.dirs() {
        let below: BTreeSet<FileId> =
            model.entries.iter().filter(|((at, _), _)| *at == dir).map(|(_, id)| *id).collect();
        assert_eq!(ns.subdirs(dir) as usize, below.iter().filter(|id| model.is_dir(**id)).count());
    }
}

proptest! {
    #[test]
    fn names_lead_to_inodes_and_inodes_know_their_names(ops in prop::collection::vec(op(), 1..60)) {
        let mut tested = Tested { ns: Namespace::new(), journal: Vec::new() };
        tested.apply(Ok(Namespace::format(0, 0, 0))).unwrap();
        let mut model = Model::default();
        for (now, op) in (1..).zip(&ops) {
            tested.run(&mut model, op, now);
            compare(&tested.ns, &model);
        }
        // A restart finds the same.
        let mut replayed = Namespace::new();
        for change in &tested.journal {
            replayed.apply(change).unwrap();
        }
        compare(&replayed, &model);
    }
}
