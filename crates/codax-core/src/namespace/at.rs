//! What a mount asks of the namespace, by directory and name: each looks, and returns the changes that would do it. Who may is not asked: the
//! kernel has seen to that.

use super::{Inode, Kind, Namespace, SETGID};
use crate::change::Change;
use crate::name::Name;
use crate::{Error, ErrorKind, FileId, ROOT, Result};

/// An entry of a directory: the directory, the name, and what it names.
type Entry<'a> = (FileId, &'a Name, FileId);

impl Namespace {
    /// What directory `dir` has under `name`.
    pub fn at(&self, dir: FileId, name: &Name) -> Result<FileId> {
        self.directory(dir)?;
        self.lookup(dir, name).ok_or_else(|| self.missing(dir, name))
    }

    /// The changes that make `inode` (of a new id) the entry `name` of directory `dir`, with the group of that if it is setgid.
    pub fn make_at(&self, dir: FileId, name: &Name, mut inode: Inode) -> Result<Vec<Change>> {
        let parent = self.directory(dir)?;
        self.vacant(dir, name)?;
        if parent.mode & SETGID != 0 {
            inode.gid = parent.gid;
            if inode.kind == Kind::Dir {
                inode.mode |= SETGID;
            }
        }
        let (now, made) = (inode.ctime_ns, link(dir, name, inode.id));
        Ok([Change::Put(Box::new(inode)), made].into_iter().chain(self.touched(dir, now)).collect())
    }

    /// The changes of link(2): one more name for `id`.
    pub fn link_at(&self, id: FileId, dir: FileId, name: &Name, now_ns: i64) -> Result<Vec<Change>> {
        let old = self.inode(id)?;
        if old.kind == Kind::Dir {
            return Err(Error::new(ErrorKind::NotPermitted, "a directory has one name"));
        }
        if old.nlink == 0 {
            return Err(Error::not_found(format!("inode {id} has no name any more, and gets no new one")));
        }
        self.directory(dir)?;
        self.vacant(dir, name)?;
        let new = Inode { nlink: old.nlink + 1, ctime_ns: now_ns, ..old.clone() };
        let changes = [Change::Put(Box::new(new)), link(dir, name, id)];
        Ok(changes.into_iter().chain(self.touched(dir, now_ns)).collect())
    }

    /// The changes of unlink(2) and rmdir(2), and what loses its name: `dirs` says whether a directory is wanted.
    pub fn remove_at(
        &self,
        dir: FileId,
        name: &Name,
        dirs: bool,
        now_ns: i64,
    ) -> Result<(FileId, Vec<Change>)> {
        let child = self.at(dir, name)?;
        let is_dir = self.inode(child)?.kind == Kind::Dir;
        match (is_dir, dirs) {
            (true, false) => return Err(Error::new(ErrorKind::IsDir, format!("{name}: is a directory"))),
            (false, true) => return Err(Error::new(ErrorKind::NotDir, format!("{name}: not a directory"))),
            _ if self.entry_count(child) > 0 => return Err(not_empty(name)),
            _ => {}
        }
        Ok((child, self.without_entry(dir, name, child, now_ns)?))
    }

    /// The changes of rename(2), with `RENAME_NOREPLACE` if so; and what loses its name.
    pub fn rename_at(
        &self,
        from: (FileId, &Name),
        to: (FileId, &Name),
        noreplace: bool,
        now_ns: i64,
    ) -> Result<(Option<FileId>, Vec<Change>)> {
        let source = self.at(from.0, from.1)?;
        self.directory(to.0)?;
        let target = self.lookup(to.0, to.1);
        if noreplace && target.is_some() {
            return Err(Error::exists(format!("{}: exists already", to.1)));
        }
        if target == Some(source) {
            return Ok((None, Vec::new()));
        }
        self.not_below(source, to.0, from.1)?;
        if let Some(target) = target {
            self.may_replace(source, target, to.1)?;
        }
        let changes = self.moved((from.0, from.1, source), (to.0, to.1, target), now_ns)?;
        Ok((target, changes))
    }

    /// The changes of rename(2) with `RENAME_EXCHANGE`.
    pub fn exchange_at(
        &self,
        from: (FileId, &Name),
        to: (FileId, &Name),
        now_ns: i64,
    ) -> Result<Vec<Change>> {
        let (a, b) = (self.at(from.0, from.1)?, self.at(to.0, to.1)?);
        if a == b {
            return Ok(Vec::new());
        }
        self.not_below(a, to.0, from.1)?;
        self.not_below(b, from.0, to.1)?;
        // Neither has a name in between: a directory may have one only.
        let mut changes = vec![unlink(from.0, from.1), unlink(to.0, to.1)];
        changes.extend([link(to.0, to.1, a), link(from.0, from.1, b)]);
        for id in [a, b] {
            let inode = self.inode(id)?.clone();
            changes.push(Change::Put(Box::new(Inode { ctime_ns: now_ns, ..inode })));
        }
        changes.extend(self.touched_both(from.0, to.0, now_ns));
        Ok(changes)
    }

    /// The changes that move an entry, in place of what has the new name, which may be replaced by it.
    pub(super) fn moved(
        &self,
        (from_dir, from_name, source): Entry<'_>,
        (to_dir, to_name, target): (FileId, &Name, Option<FileId>),
        now_ns: i64,
    ) -> Result<Vec<Change>> {
        let mut changes = vec![unlink(from_dir, from_name), link(to_dir, to_name, source)];
        if let Some(target) = target {
            changes.push(self.nameless(target, now_ns)?);
        }
        let moved = self.inode(source)?.clone();
        changes.push(Change::Put(Box::new(Inode { ctime_ns: now_ns, ..moved })));
        changes.extend(self.touched_both(from_dir, to_dir, now_ns));
        Ok(changes)
    }

    /// The changes that take an entry away.
    pub(super) fn without_entry(
        &self,
        dir: FileId,
        name: &Name,
        child: FileId,
        now_ns: i64,
    ) -> Result<Vec<Change>> {
        let changes = [unlink(dir, name), self.nameless(child, now_ns)?];
        Ok(changes.into_iter().chain(self.touched(dir, now_ns)).collect())
    }

    /// Whether `source` can take the place of `target`, which is called `name`: file by file, empty directory by directory.
    pub(super) fn may_replace(
        &self,
        source: FileId,
        target: FileId,
        name: &dyn std::fmt::Display,
    ) -> Result<()> {
        match (self.inode(source)?.kind, self.inode(target)?.kind) {
            (Kind::Dir, Kind::Dir) if self.entry_count(target) > 0 => Err(not_empty(name)),
            (Kind::Dir, Kind::Dir) => Ok(()),
            (_, Kind::Dir) => Err(Error::new(ErrorKind::IsDir, format!("{name}: is a directory"))),
            (Kind::Dir, _) => Err(Error::new(ErrorKind::NotDir, format!("{name}: not a directory"))),
            _ => Ok(()),
        }
    }

    /// The change for an inode that loses a name.
    pub(super) fn nameless(&self, id: FileId, now_ns: i64) -> Result<Change> {
        let inode = self.inode(id)?;
        Ok(match inode.kind {
            Kind::Dir => Change::Drop(id),
            _ => {
                let nlink = inode.nlink.saturating_sub(1);
                Change::Put(Box::new(Inode { nlink, ctime_ns: now_ns, ..inode.clone() }))
            }
        })
    }

    /// The change for a directory whose entries change.
    pub(super) fn touched(&self, dir: FileId, now_ns: i64) -> Option<Change> {
        let inode = self.get(dir)?.clone();
        Some(Change::Put(Box::new(Inode { mtime_ns: now_ns, ctime_ns: now_ns, ..inode })))
    }

    fn touched_both(&self, a: FileId, b: FileId, now_ns: i64) -> impl Iterator<Item = Change> {
        let other = (a != b).then(|| self.touched(b, now_ns)).flatten();
        self.touched(a, now_ns).into_iter().chain(other)
    }

    pub(super) fn inode(&self, id: FileId) -> Result<&Inode> {
        self.get(id).ok_or_else(|| Error::not_found(format!("there is no inode {id}")))
    }

    /// Directory `dir`, as long as it has a name.
    fn directory(&self, dir: FileId) -> Result<&Inode> {
        let inode = self.inode(dir)?;
        match inode.kind {
            Kind::Dir if dir == ROOT || self.parent_of(dir).is_some() => Ok(inode),
            Kind::Dir => Err(Error::not_found(format!("directory {dir} was removed"))),
            _ => Err(Error::new(ErrorKind::NotDir, format!("inode {dir} is not a directory"))),
        }
    }

    fn vacant(&self, dir: FileId, name: &Name) -> Result<()> {
        match self.lookup(dir, name) {
            Some(_) => Err(Error::exists(format!("{name}: exists already"))),
            None => Ok(()),
        }
    }

    fn not_below(&self, moved: FileId, to_dir: FileId, name: &Name) -> Result<()> {
        match self.dirs.contains_key(&moved) && self.is_within(to_dir, moved) {
            true => Err(Error::invalid(format!("{name} can't be moved below itself"))),
            false => Ok(()),
        }
    }

    fn missing(&self, dir: FileId, name: &Name) -> Error {
        Error::not_found(format!("{name}: no such file in directory {dir}"))
    }
}

pub(super) fn link(dir: FileId, name: &Name, child: FileId) -> Change {
    Change::Link { dir, name: name.as_bytes().to_vec(), child }
}

fn unlink(dir: FileId, name: &Name) -> Change {
    Change::Unlink { dir, name: name.as_bytes().to_vec() }
}

fn not_empty(name: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::NotEmpty, format!("{name}: the directory is not empty"))
}
