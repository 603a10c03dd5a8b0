//! What a catalog holds, in memory: the live set, which a compaction writes, and which is compared with a journal.

use super::codec;
use super::entry::{Entry, Node};
use codax_core::FileId;
use std::collections::BTreeMap;

/// Nodes and links. Applying entries to it is what the catalog means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    nodes: BTreeMap<FileId, Node>,
    links: BTreeMap<(FileId, Vec<u8>), FileId>,
    /// What all of it takes on the medium, as entries.
    bytes: u64,
}

/// What takes an entry back: what was there before.
#[derive(Debug)]
pub(super) enum Undo {
    Node(FileId, Option<Node>),
    Link((FileId, Vec<u8>), Option<FileId>),
}

impl Contents {
    /// All nodes, in the order of their ids.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.nodes.values()
    }

    /// A node.
    #[must_use]
    pub fn node(&self, id: FileId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// All links as directory, name and what it names, in the order of directories and names.
    pub fn links(&self) -> impl ExactSizeIterator<Item = (FileId, &[u8], FileId)> {
        self.links.iter().map(|((dir, name), child)| (*dir, &name[..], *child))
    }

    /// What `dir` has under `name`.
    #[must_use]
    pub fn link(&self, dir: FileId, name: &[u8]) -> Option<FileId> {
        self.links.get(&(dir, name.to_vec())).copied()
    }

    /// What `dir` has.
    pub fn names_in(&self, dir: FileId) -> impl Iterator<Item = (&[u8], FileId)> {
        let all = self.links.range((dir, Vec::new())..).take_while(move |((its, _), _)| *its == dir);
        all.map(|((_, name), child)| (&name[..], *child))
    }

    /// Does `entry`.
    pub fn apply(&mut self, entry: &Entry) {
        self.change(entry);
    }

    /// Does `entry`, and returns what takes it back.
    pub(super) fn change(&mut self, entry: &Entry) -> Undo {
        match entry {
            Entry::Put(node) => Undo::Node(node.id, self.set_node(node.id, Some((**node).clone()))),
            Entry::Drop(id) => Undo::Node(*id, self.set_node(*id, None)),
            Entry::Link { dir, name, child } => {
                let key = (*dir, name.clone());
                Undo::Link(key.clone(), self.set_link(key, Some(*child)))
            }
            Entry::Unlink { dir, name } => {
                let key = (*dir, name.clone());
                Undo::Link(key.clone(), self.set_link(key, None))
            }
        }
    }

    /// Takes one entry back: the last one that was done.
    pub(super) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Node(id, before) => drop(self.set_node(id, before)),
            Undo::Link(key, before) => drop(self.set_link(key, before)),
        }
    }

    /// What all of it takes on the medium, as entries.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The entries that make `wanted` of it.
    #[must_use]
    pub fn difference(&self, wanted: &Self) -> Vec<Entry> {
        let puts = wanted.nodes.values().filter(|node| self.node(node.id) != Some(node));
        let drops = self.nodes.keys().filter(|id| !wanted.nodes.contains_key(id));
        let links = wanted.links.iter().filter(|(key, child)| self.links.get(key) != Some(child));
        let unlinks = self.links.keys().filter(|key| !wanted.links.contains_key(key));
        let mut entries: Vec<Entry> = puts.map(|node| Entry::Put(Box::new(node.clone()))).collect();
        entries.extend(links.map(|((dir, name), child)| Entry::Link {
            dir: *dir,
            name: name.clone(),
            child: *child,
        }));
        entries.extend(unlinks.map(|(dir, name)| Entry::Unlink { dir: *dir, name: name.clone() }));
        entries.extend(drops.map(|id| Entry::Drop(*id)));
        entries
    }

    fn set_node(&mut self, id: FileId, node: Option<Node>) -> Option<Node> {
        self.bytes += node.as_ref().map_or(0, codec::node_bytes);
        let before = match node {
            Some(node) => self.nodes.insert(id, node),
            None => self.nodes.remove(&id),
        };
        self.bytes -= before.as_ref().map_or(0, codec::node_bytes);
        before
    }

    fn set_link(&mut self, key: (FileId, Vec<u8>), child: Option<FileId>) -> Option<FileId> {
        let bytes = codec::link_bytes(&key.1);
        let before = match child {
            Some(child) => self.links.insert(key, child),
            None => self.links.remove(&key),
        };
        self.bytes += u64::from(child.is_some()) * bytes;
        self.bytes -= u64::from(before.is_some()) * bytes;
        before
    }
}

impl<'a> FromIterator<&'a Entry> for Contents {
    fn from_iter<T: IntoIterator<Item = &'a Entry>>(entries: T) -> Self {
        let mut contents = Self::default();
        entries.into_iter().for_each(|entry| contents.apply(entry));
        contents
    }
}
