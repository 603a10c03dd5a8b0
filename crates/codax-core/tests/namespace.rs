//! The namespace against a plain map of paths.

use codax_core::change::Change;
use codax_core::extent::Extent;
use codax_core::name::{Name, StorePath};
use codax_core::namespace::{Cred, Inode, Kind, Namespace};
use codax_core::placement::Placement;
use codax_core::{DRAM, ErrorKind, FileId, Frame, PageCount, PageNo, PoolId, ROOT};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const ADMIN: Cred = Cred { uid: 0, gid: 0, groups: Vec::new(), admin: true };

#[derive(Clone, Debug)]
enum Op {
    Create(String),
    Mkdir(String, Option<u16>),
    /// Removes, and drops the file at once if the flag says so.
    Remove(String, bool),
    RemoveTree(String),
    Rename(String, String, bool),
    Orphan,
    LinkOrphan(prop::sample::Index, String, bool),
}

fn op() -> impl Strategy<Value = Op> {
    // Few names, one of them too long to be kept inline, and few levels, so that paths meet.
    let name = prop_oneof![4 => Just("a"), 3 => Just("b"), 1 => Just("a name of more than twenty-two bytes")];
    let path = prop::collection::vec(name, 0..4).prop_map(|names| format!("/{}", names.join("/")));
    let path = || path.clone();
    prop_oneof![
        4 => path().prop_map(Op::Create),
        4 => (path(), prop::option::weighted(0.3, 0..4u16)).prop_map(|(path, pool)| Op::Mkdir(path, pool)),
        2 => (path(), any::<bool>()).prop_map(|(path, drop)| Op::Remove(path, drop)),
        1 => path().prop_map(Op::RemoveTree),
        4 => (path(), path(), prop::bool::weighted(0.2)).prop_map(|(from, to, no)| Op::Rename(from, to, no)),
        1 => Just(Op::Orphan),
        2 => (any::<prop::sample::Index>(), path(), any::<bool>()).prop_map(|(i, path, replace)| Op::LinkOrphan(i, path, replace)),
    ]
}

#[derive(Clone, Debug, PartialEq)]
enum Entry {
    File(FileId),
    Dir(Option<u16>),
}

/// What is at each path (without the root), and the files without one.
#[derive(Default)]
struct Model {
    paths: BTreeMap<String, Entry>,
    orphans: BTreeSet<FileId>,
}

impl Model {
    /// What is at `path`, whose directories must be there.
    fn at(&self, path: &str) -> Result<Option<&Entry>, ErrorKind> {
        for (end, _) in path.match_indices('/').skip(1) {
            match self.paths.get(&path[..end]) {
                None => return Err(ErrorKind::NotFound),
                Some(Entry::File(_)) => return Err(ErrorKind::NotDir),
                Some(Entry::Dir(_)) => {}
            }
        }
        Ok(self.paths.get(path))
    }

    fn vacant(&self, path: &str) -> Result<(), ErrorKind> {
        match path == "/" || self.at(path)?.is_some() {
            true => Err(ErrorKind::Exists),
            false => Ok(()),
        }
    }

    fn present(&self, path: &str) -> Result<Entry, ErrorKind> {
        match path {
            "/" => Err(ErrorKind::Invalid),
            _ => self.at(path)?.cloned().ok_or(ErrorKind::NotFound),
        }
    }

    fn below(&self, path: &str) -> Vec<String> {
        let prefix = format!("{}/", path.trim_end_matches('/'));
        self.paths.keys().filter(|path| path.starts_with(&prefix)).cloned().collect()
    }

    fn forget(&mut self, path: &str) {
        if let Some(Entry::File(id)) = self.paths.remove(path) {
            self.orphans.insert(id);
        }
    }

    fn remove(&mut self, path: &str) -> Result<(), ErrorKind> {
        self.present(path)?;
        if !self.below(path).is_empty() {
            return Err(ErrorKind::NotEmpty);
        }
        self.forget(path);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str, noreplace: bool) -> Result<(), ErrorKind> {
        let source = self.present(from)?;
        if to == "/" {
            return Err(ErrorKind::Invalid);
        }
        let target = self.at(to)?;
        if target.is_some() && noreplace {
            return Err(ErrorKind::Exists);
        }
        if from == to {
            return Ok(());
        }
        if to.starts_with(&format!("{from}/")) {
            return Err(ErrorKind::Invalid);
        }
        match (&source, target) {
            (Entry::File(_), Some(Entry::Dir(_))) => return Err(ErrorKind::IsDir),
            (Entry::Dir(_), Some(Entry::File(_))) => return Err(ErrorKind::NotDir),
            (Entry::Dir(_), Some(Entry::Dir(_))) if !self.below(to).is_empty() => {
                return Err(ErrorKind::NotEmpty);
            }
            _ => {}
        }
        self.forget(to);
        for old in self.below(from) {
            let entry = self.paths.remove(&old).unwrap();
            self.paths.insert(format!("{to}{}", &old[from.len()..]), entry);
        }
        self.paths.remove(from);
        self.paths.insert(to.into(), source);
        Ok(())
    }

    fn link_orphan(&mut self, id: FileId, path: &str, replace: bool) -> Result<(), ErrorKind> {
        if path == "/" {
            return Err(ErrorKind::Invalid);
        }
        match self.at(path)? {
            Some(_) if !replace => return Err(ErrorKind::Exists),
            Some(Entry::Dir(_)) => return Err(ErrorKind::IsDir),
            _ => {}
        }
        self.forget(path);
        self.orphans.remove(&id);
        self.paths.insert(path.into(), Entry::File(id));
        Ok(())
    }

    /// The pool of the nearest directory at or above `path` that has one.
    fn pool(&self, path: &str) -> PoolId {
        let mut ends: Vec<usize> = path.match_indices('/').skip(1).map(|(end, _)| end).collect();
        ends.push(path.len());
        let own = |end: &usize| match self.paths.get(&path[..*end]) {
            Some(Entry::Dir(pool)) => *pool,
            _ => None,
        };
        PoolId(ends.iter().rev().find_map(own).unwrap_or(DRAM.0))
    }
}

fn parse(path: &str) -> StorePath {
    StorePath::parse(path.as_bytes()).unwrap()
}

fn file(id: FileId, nlink: u32) -> Inode {
    let extent = Extent { page: PageNo(0), count: PageCount(2), pool: DRAM, frame: Frame(id.0 * 2) };
    Inode { nlink, len: 5000, extents: vec![extent], ..Inode::new(id, Kind::File, 0o644, 1, 2, 1) }
}

/// The namespace under test, and every change it ever made.
struct Tested {
    ns: Namespace,
    journal: Vec<Change>,
}

impl Tested {
    fn new() -> Self {
        let mut this = Self { ns: Namespace::new(), journal: Vec::new() };
        this.apply(Namespace::format(0, 0, 0));
        this
    }

    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.ns.apply(&change).unwrap();
            self.journal.push(change);
        }
    }

    fn try_apply(&mut self, changes: codax_core::Result<Vec<Change>>) -> Result<(), ErrorKind> {
        self.apply(changes.map_err(|error| error.kind)?);
        Ok(())
    }

    /// Does `op` to both and compares what came of it.
    fn run(&mut self, model: &mut Model, op: Op, now: i64) {
        let (got, expected) = match op {
            Op::Create(path) => {
                let expected = model.vacant(&path);
                let place = self.ns.parent_for_new(&ADMIN, &parse(&path)).map_err(|error| error.kind);
                let got = place.map(|(parent, name)| {
                    let id = self.ns.take_id();
                    model.paths.insert(path, Entry::File(id));
                    self.apply(self.ns.create(parent, &name, file(id, 1)));
                });
                (got, expected)
            }
            Op::Mkdir(path, pool) => {
                let placement = pool.map(|pool| Placement::On { pool: PoolId(pool), strict: false });
                let changes = self.ns.mkdir(&ADMIN, &parse(&path), 0o755, placement, now);
                let expected = model.vacant(&path);
                if expected.is_ok() {
                    model.paths.insert(path, Entry::Dir(pool));
                }
                (self.try_apply(changes), expected)
            }
            Op::Remove(path, drop) => {
                let file = match model.present(&path) {
                    Ok(Entry::File(id)) => Some(id),
                    _ => None,
                };
                let got = self.try_apply(self.ns.remove(&ADMIN, &parse(&path), now));
                let expected = model.remove(&path);
                if let Some(id) = file.filter(|_| drop) {
                    self.apply(vec![Change::Drop(id)]);
                    model.orphans.remove(&id);
                }
                (got, expected)
            }
            Op::RemoveTree(path) => {
                if let Ok(id) = self.ns.resolve(&ADMIN, &parse(&path)) {
                    for (parent, name, _) in self.ns.subtree(id) {
                        let changes = self.ns.remove_entry(&ADMIN, parent, &name, now);
                        self.try_apply(changes).unwrap();
                    }
                }
                for path in model.below(&path) {
                    model.forget(&path);
                }
                (self.try_apply(self.ns.remove(&ADMIN, &parse(&path), now)), model.remove(&path))
            }
            Op::Rename(from, to, noreplace) => {
                let changes = self.ns.rename(&ADMIN, &parse(&from), &parse(&to), noreplace, now);
                (self.try_apply(changes), model.rename(&from, &to, noreplace))
            }
            Op::Orphan => {
                let id = self.ns.take_id();
                model.orphans.insert(id);
                self.apply(vec![Change::Put(Box::new(file(id, 0)))]);
                (Ok(()), Ok(()))
            }
            Op::LinkOrphan(index, path, replace) => {
                if model.orphans.is_empty() {
                    return;
                }
                let id = *model.orphans.iter().nth(index.index(model.orphans.len())).unwrap();
                let changes = self.ns.link_orphan(&ADMIN, id, &parse(&path), replace, now);
                (self.try_apply(changes), model.link_orphan(id, &path, replace))
            }
        };
        assert_eq!(got, expected);
    }

    fn compare(&self, model: &Model) {
        let ns = &self.ns;
        // The tree as it is listed, each directory in two parts.
        let mut listed = BTreeMap::new();
        let mut dirs = vec![(ROOT, StorePath::root())];
        while let Some((dir, path)) = dirs.pop() {
            let all: Vec<(&Name, FileId)> = ns.entries(dir, None).collect();
            assert_eq!(all.len(), ns.entry_count(dir));
            assert!(all.is_sorted_by(|a, b| a.0 < b.0));
            if let Some(first) = all.first() {
                assert_eq!(ns.entries(dir, Some(first.0.as_bytes())).collect::<Vec<_>>(), all[1..]);
            }
            for (name, id) in all {
                let path = path.join(name);
                let inode = ns.get(id).unwrap();
                assert_eq!(ns.parent_of(id), Some((dir, name)));
                assert_eq!(ns.path_of(id), Some(path.clone()));
                assert_eq!(ns.resolve(&ADMIN, &path), Ok(id));
                assert_eq!(
                    ns.placement(id),
                    Placement::On { pool: model.pool(&path.to_string()), strict: false }
                );
                assert_eq!(inode.nlink, 1);
                let entry = match inode.kind {
                    Kind::Dir => {
                        dirs.push((id, path.clone()));
                        Entry::Dir(match inode.placement {
                            Some(Placement::On { pool, .. }) => Some(pool.0),
                            _ => None,
                        })
                    }
                    _ => Entry::File(id),
                };
                listed.insert(path.to_string(), entry);
            }
        }
        assert_eq!(listed, model.paths);
        assert_eq!(ns.count(), 1 + model.paths.len() + model.orphans.len());
        for &id in &model.orphans {
            assert_eq!((ns.path_of(id), ns.get(id).unwrap().nlink), (None, 0));
        }
    }
}

fn contents(ns: &Namespace) -> BTreeMap<FileId, (Inode, Option<StorePath>)> {
    ns.inodes().map(|inode| (inode.id, (inode.clone(), ns.path_of(inode.id)))).collect()
}

proptest! {
    #[test]
    fn the_namespace_is_a_map_of_paths(ops in prop::collection::vec(op(), 1..50)) {
        let mut tested = Tested::new();
        let mut model = Model::default();
        for (now, op) in (1..).zip(ops) {
            tested.run(&mut model, op, now);
            tested.compare(&model);
        }
        // A restart finds the same.
        let mut replayed = Namespace::new();
        for change in &tested.journal {
            replayed.apply(change).unwrap();
        }
        prop_assert_eq!(contents(&replayed), contents(&tested.ns));
        prop_assert_eq!(replayed.next_id(), tested.ns.next_id());
        prop_assert!(tested.ns.inodes().all(|inode| inode.id < tested.ns.next_id()));
    }
}
