//! Walking directories, of the store and of this machine.

use super::unexpected;
use anyhow::{Context as _, Result};
use codax::Store;
use codax_core::Error;
use codax_core::info::FileInfo;
use codax_core::name::{Name, StorePath};
use codax_core::namespace::Kind;
use codax_wire::{Reply, Request};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Deepest tree that is walked, so that one that never ends is noticed.
const DEPTH_MAX: usize = 256;

/// All entries of a directory of the store.
pub fn entries(store: &Store, dir: &StorePath) -> Result<Vec<(StorePath, FileInfo)>> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let (entries, more) = match store.call(Request::ReadDir { path: dir.clone(), after })? {
            Reply::Entries { entries, more } => (entries, more),
            other => return Err(unexpected(&other).into()),
        };
        after = entries.last().map(|(name, _)| name.clone());
        for (name, info) in entries {
            all.push((dir.join(&Name::new(&name)?), info));
        }
        if !more || after.is_none() {
            return Ok(all);
        }
    }
}

/// A tree that is to be copied: directories before what is in them.
#[derive(Debug)]
pub struct Tree<From, To> {
    /// Directories to make.
    pub dirs: Vec<To>,
    /// Files to copy.
    pub files: Vec<Copy<From, To>>,
    /// What is neither file nor directory, and stays behind.
    pub skipped: Vec<From>,
}

/// A file to copy.
#[derive(Debug)]
pub struct Copy<From, To> {
    /// What.
    pub from: From,
    /// Where to.
    pub to: To,
    /// Its length when it was looked at.
    pub len: u64,
    /// Its permission bits.
    pub mode: u16,
}

impl<From, To> Tree<From, To> {
    const fn new() -> Self {
        Self { dirs: Vec::new(), files: Vec::new(), skipped: Vec::new() }
    }

    /// Sum of the files' lengths.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len).sum()
    }
}

/// The tree below `src`, a directory of this machine, as it is to be below `dst` in the store.
pub fn local(src: &Path, dst: &StorePath) -> Result<Tree<PathBuf, StorePath>> {
    let mut tree = Tree::new();
    let mut todo = vec![(src.to_owned(), dst.clone())];
    while let Some((from, to)) = todo.pop() {
        check_depth(to.components().len(), &to)?;
        let reading = || format!("reading {}", from.display());
        let mut entries =
            from.read_dir().and_then(Iterator::collect::<Result<Vec<_>, _>>).with_context(reading)?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        tree.dirs.push(to.clone());
        for entry in entries {
            let to = to.join(&Name::new(entry.file_name().as_bytes())?);
            let from = entry.path();
            let meta = entry.metadata().with_context(|| format!("reading {}", from.display()))?;
            if meta.is_dir() {
                todo.push((from, to));
            } else if meta.is_file() {
                tree.files.push(Copy { from, to, len: meta.len(), mode: mode_of(&meta) });
            } else {
                tree.skipped.push(from);
            }
        }
    }
    Ok(tree)
}

/// The permission bits of a file of this machine, without set-id bits.
pub fn mode_of(meta: &std::fs::Metadata) -> u16 {
    u16::try_from(meta.permissions().mode() & 0o777).unwrap_or(0o600)
}

/// The tree below `src`, a directory of the store, as it is to be below `dst` on this machine.
pub fn stored(store: &Store, src: &StorePath, dst: &Path) -> Result<Tree<StorePath, PathBuf>> {
    let mut tree = Tree::new();
    let mut todo = vec![(src.clone(), dst.to_owned())];
    while let Some((from, to)) = todo.pop() {
        check_depth(from.components().len(), &from)?;
        tree.dirs.push(to.clone());
        for (path, info) in entries(store, &from)? {
            let Some((_, name)) = path.split_last() else { continue };
            let to = to.join(std::ffi::OsStr::from_bytes(name.as_bytes()));
            match info.kind {
                Kind::Dir => todo.push((path, to)),
                Kind::File => tree.files.push(Copy { from: path, to, len: info.len, mode: info.mode }),
                _ => tree.skipped.push(path),
            }
        }
    }
    Ok(tree)
}

fn check_depth(depth: usize, path: &StorePath) -> codax_core::Result<()> {
    if depth > DEPTH_MAX {
        return Err(Error::invalid(format!("{path}: directories are nested more than {DEPTH_MAX} deep")));
    }
    Ok(())
}
