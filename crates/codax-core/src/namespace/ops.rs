//! What clients ask of the namespace: each looks, checks, and returns the changes that would do it.

use super::at::link;
use super::{Cred, Inode, Kind, Namespace, SETGID, SETUID, SetAttr, Want};
use crate::change::Change;
use crate::name::{Name, StorePath};
use crate::placement::Placement;
use crate::{Error, ErrorKind, FileId, ROOT, Result};

const STICKY: u16 = 0o1000;
const GROUP_EXEC: u16 = 0o010;
/// What mkdir(2) takes.
const MKDIR_MODE: u16 = 0o1777;
const MODE_MAX: u16 = 0o7777;

/// What making or removing an entry asks of the directory.
const CHANGE_ENTRIES: Want = Want(Want::WRITE.0 | Want::EXEC.0);

impl Cred {
    fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    fn allows(&self, inode: &Inode, want: Want) -> bool {
        // As everywhere in POSIX, the first class that fits decides, even if a later one would allow more.
        let allowed = match () {
            () if self.admin => return true,
            () if self.uid == inode.uid => inode.mode >> 6,
            () if self.in_group(inode.gid) => inode.mode >> 3,
            () => inode.mode,
        };
        u16::from(want.0) & !allowed & 7 == 0
    }

    fn owns(&self, inode: &Inode) -> bool {
        self.admin || self.uid == inode.uid
    }
}

impl Namespace {
    /// The inode that `path` names. Every directory on the way must be searchable by `cred`.
    pub fn resolve(&self, cred: &Cred, path: &StorePath) -> Result<FileId> {
        self.walk(cred, path, path.components().len())
    }

    /// Whether `cred` may do `want` to `id`; a `Permission` error that names `path` if not.
    pub fn check(&self, cred: &Cred, id: FileId, want: Want, path: &StorePath) -> Result<()> {
        let inode = self.inode(id)?;
        if cred.allows(inode, want) {
            return Ok(());
        }
        let verb = match want {
            _ if inode.kind == Kind::Dir && want.0 & Want::WRITE.0 != 0 => "make or remove entries in",
            _ if inode.kind == Kind::Dir && want.0 & Want::READ.0 != 0 => "list",
            _ if inode.kind == Kind::Dir => "search",
            _ if want.0 & Want::WRITE.0 != 0 => "write",
            _ if want.0 & Want::READ.0 != 0 => "read",
            _ => "execute",
        };
        let Inode { mode, uid, gid, .. } = inode;
        Err(Error::permission(format!(
            "{path}: user {} may not {verb} it (mode {mode:04o}, owner {uid}:{gid})",
            cred.uid
        )))
    }

    /// Where a new file `path` would go: its parent (searchable and writable by `cred`) and its name. `Exists` if it is there.
    pub fn parent_for_new(&self, cred: &Cred, path: &StorePath) -> Result<(FileId, Name)> {
        if path.components().is_empty() {
            return Err(exists(path));
        }
        let (parent, name, child) = self.entry(cred, path)?;
        if child.is_some() {
            return Err(exists(path));
        }
        self.check_parent(cred, parent, path)?;
        Ok((parent, name.clone()))
    }

    /// The changes that make `inode` (of a new id, `nlink` as it should be after) the child `name` of `parent`. setgid directories
    /// hand on their group, and directories their setgid bit. The directory's times become those of `inode`.
    pub fn create(&self, parent: FileId, name: &Name, mut inode: Inode) -> Vec<Change> {
        self.inherit_group(parent, &mut inode);
        let link = link(parent, name, inode.id);
        let touched = self.touched(parent, inode.ctime_ns);
        [Change::Put(Box::new(inode)), link].into_iter().chain(touched).collect()
    }

    /// Gives `inode` the group of directory `parent` if that is setgid, as for anything new in it.
    pub fn inherit_group(&self, parent: FileId, inode: &mut Inode) {
        let Some(parent) = self.get(parent).filter(|parent| parent.mode & SETGID != 0) else { return };
        match inode.kind {
            Kind::Dir => inode.mode |= SETGID,
            // Nobody gets a program that runs as a group they may not be in.
            _ if inode.gid != parent.gid && inode.mode & GROUP_EXEC != 0 => inode.mode &= !SETGID,
            _ => {}
        }
        inode.gid = parent.gid;
    }

    /// The changes that make directory `path`.
    pub fn mkdir(
        &mut self,
        cred: &Cred,
        path: &StorePath,
        mode: u16,
        placement: Option<Placement>,
        now_ns: i64,
    ) -> Result<Vec<Change>> {
        let (parent, name) = self.parent_for_new(cred, path)?;
        let id = self.take_id();
        let inode = Inode::new(id, Kind::Dir, mode & MKDIR_MODE, cred.uid, cred.gid, now_ns);
        let inode = Inode { placement, ..inode };
        Ok(self.create(parent, &name, inode))
    }

    /// The changes that take the name `path` away. A file's inode stays with one link less (0: the caller drops it when nobody
    /// holds it); an empty directory goes with its entry. `NotEmpty` for a directory with entries, `Permission` as in unlink(2)
    /// with sticky directories, `Invalid` for the root.
    pub fn remove(&self, cred: &Cred, path: &StorePath, now_ns: i64) -> Result<Vec<Change>> {
        let (parent, child, name) = self.existing(cred, path)?;
        self.remove_child(cred, parent, name, child, path, now_ns)
    }

    /// [`Self::remove`] for the entry `name` of directory `parent`, as found in [`Self::subtree`]. The way to the directory is the caller's
    /// to check.
    pub fn remove_entry(&self, cred: &Cred, parent: FileId, name: &Name, now_ns: i64) -> Result<Vec<Change>> {
        let path = self.path_of(parent).unwrap_or_default().join(name);
        let child = self.lookup(parent, name).ok_or_else(|| not_found(&path))?;
        self.remove_child(cred, parent, name, child, &path, now_ns)
    }

    fn remove_child(
        &self,
        cred: &Cred,
        parent: FileId,
        name: &Name,
        child: FileId,
        path: &StorePath,
        now_ns: i64,
    ) -> Result<Vec<Change>> {
        self.check_removal(cred, parent, child, path)?;
        if self.entry_count(child) > 0 {
            return Err(Error::new(ErrorKind::NotEmpty, format!("{path}: the directory is not empty")));
        }
        self.without_entry(parent, name, child, now_ns)
    }

    /// The changes of rename(2): an existing target is replaced (file by file, empty directory by directory) unless `noreplace`.
    /// Moving a directory below itself is `Invalid`.
    pub fn rename(
        &self,
        cred: &Cred,
        from: &StorePath,
        to: &StorePath,
        noreplace: bool,
        now_ns: i64,
    ) -> Result<Vec<Change>> {
        let (from_dir, source, from_name) = self.existing(cred, from)?;
        let (to_dir, to_name, target) = self.entry(cred, to)?;
        if target.is_some() && noreplace {
            return Err(exists(to));
        }
        if target == Some(source) {
            return Ok(Vec::new());
        }
        if self.is_within(to_dir, source) {
            return Err(Error::invalid(format!("{from} can't be moved below itself, to {to}")));
        }
        self.check_removal(cred, from_dir, source, from)?;
        match target {
            Some(target) => self.check_replacement(cred, (source, to_dir, target), to)?,
            None => self.check_parent(cred, to_dir, to)?,
        }
        let moved = self.inode(source)?;
        if moved.kind == Kind::Dir && from_dir != to_dir {
            // Its `..` changes.
            self.check(cred, source, Want::WRITE, from)?;
        }
        self.moved((from_dir, from_name, source), (to_dir, to_name, target), now_ns)
    }

    /// The changes that give orphan `id` (nlink 0) the name `path`; with `replace` an existing file of that name loses it.
    pub fn link_orphan(
        &self,
        cred: &Cred,
        id: FileId,
        path: &StorePath,
        replace: bool,
        now_ns: i64,
    ) -> Result<Vec<Change>> {
        let orphan = self.inode(id)?;
        if orphan.kind != Kind::File || orphan.nlink != 0 || self.parent_of(id).is_some() {
            return Err(Error::invalid(format!("{path}: only a file without a name can be given this one")));
        }
        let (parent, name, target) = self.entry(cred, path)?;
        match target {
            Some(_) if !replace => return Err(exists(path)),
            Some(target) => self.check_replacement(cred, (id, parent, target), path)?,
            None => self.check_parent(cred, parent, path)?,
        }
        let named = Inode { nlink: 1, ctime_ns: now_ns, ..orphan.clone() };
        let mut changes = vec![Change::Put(Box::new(named)), link(parent, name, id)];
        if let Some(target) = target {
            changes.push(self.nameless(target, now_ns)?);
        }
        changes.extend(self.touched(parent, now_ns));
        Ok(changes)
    }

    /// The changes of chmod(2), chown(2) and a placement's change, with their rules: the owner changes mode, placement, and the group to one of
    /// their own; only root the owner; chown clears setuid and setgid of files.
    pub fn set_attr(&self, cred: &Cred, path: &StorePath, set: &SetAttr, now_ns: i64) -> Result<Vec<Change>> {
        let old = self.inode(self.resolve(cred, path)?)?;
        let mut new = Inode { ctime_ns: now_ns, ..old.clone() };
        let refused =
            |what: &str| Error::permission(format!("{path}: user {} may not change its {what}", cred.uid));
        if !cred.owns(old) && *set != SetAttr::default() {
            return Err(refused("attributes: it belongs to somebody else"));
        }
        if let Some(uid) = set.uid {
            if uid != old.uid && !cred.admin {
                return Err(refused("owner: that takes root"));
            }
            new.uid = uid;
        }
        if let Some(gid) = set.gid {
            if gid != old.gid && !cred.admin && !cred.in_group(gid) {
                return Err(refused(&format!("group to {gid}, to which the user doesn't belong")));
            }
            new.gid = gid;
        }
        if (set.uid.is_some() || set.gid.is_some()) && old.kind == Kind::File {
            new.mode &= !(SETUID | SETGID);
        }
        if let Some(mode) = set.mode {
            if mode > MODE_MAX {
                return Err(Error::invalid(format!("{path}: {mode:o} is not a mode, the highest is 7777")));
            }
            new.mode = mode;
            if !cred.admin && !cred.in_group(new.gid) {
                new.mode &= !SETGID;
            }
        }
        if let Some(placement) = &set.placement {
            new.placement.clone_from(placement);
        }
        if let Some(allowed) = set.emergency {
            new.set_emergency(!allowed);
        }
        match *set == SetAttr::default() {
            true => Ok(Vec::new()),
            false => Ok(vec![Change::Put(Box::new(new))]),
        }
    }

    /// Follows the first `depth` components of `path`; errors name the part of it that they are about.
    fn walk(&self, cred: &Cred, path: &StorePath, depth: usize) -> Result<FileId> {
        let mut at = ROOT;
        for (depth, name) in path.components()[..depth].iter().enumerate() {
            self.check_search(cred, at, path, depth)?;
            at = self.lookup(at, name).ok_or_else(|| not_found(&first(path, depth + 1)))?;
        }
        Ok(at)
    }

    /// Whether `at`, which the first `depth` components of `path` name, is a directory that `cred` may search.
    fn check_search(&self, cred: &Cred, at: FileId, path: &StorePath, depth: usize) -> Result<()> {
        let inode = self.inode(at)?;
        match inode.kind {
            Kind::Dir if cred.allows(inode, Want::EXEC) => Ok(()),
            Kind::Dir => self.check(cred, at, Want::EXEC, &first(path, depth)),
            _ => Err(Error::new(ErrorKind::NotDir, format!("{}: not a directory", first(path, depth)))),
        }
    }

    /// The directory that `path` (not the root) would be in, its name there, and what is there now.
    fn entry<'a>(&self, cred: &Cred, path: &'a StorePath) -> Result<(FileId, &'a Name, Option<FileId>)> {
        let Some((name, before)) = path.components().split_last() else { return Err(root_stays(path)) };
        let parent = self.walk(cred, path, before.len())?;
        self.check_search(cred, parent, path, before.len())?;
        Ok((parent, name, self.lookup(parent, name)))
    }

    /// The directory that `path` is in, the inode and its name.
    fn existing<'a>(&self, cred: &Cred, path: &'a StorePath) -> Result<(FileId, FileId, &'a Name)> {
        let (parent, name, child) = self.entry(cred, path)?;
        Ok((parent, child.ok_or_else(|| not_found(path))?, name))
    }

    /// Whether `cred` may make and remove entries of `parent`, the directory that `path` is in.
    fn check_parent(&self, cred: &Cred, parent: FileId, path: &StorePath) -> Result<()> {
        match cred.allows(self.inode(parent)?, CHANGE_ENTRIES) {
            true => Ok(()),
            false => self.check(cred, parent, CHANGE_ENTRIES, &first(path, path.components().len() - 1)),
        }
    }

    /// Whether `cred` may take the entry `path` of `parent` away.
    fn check_removal(&self, cred: &Cred, parent: FileId, child: FileId, path: &StorePath) -> Result<()> {
        self.check_parent(cred, parent, path)?;
        let dir = self.inode(parent)?;
        if dir.mode & STICKY != 0 && !cred.owns(dir) && !cred.owns(self.inode(child)?) {
            let line =
                format!("{path}: its directory is sticky, and user {} owns neither of the two", cred.uid);
            return Err(Error::permission(line));
        }
        Ok(())
    }

    /// Whether `source` may take the place of `target`, which is `to` in `to_dir`.
    fn check_replacement(
        &self,
        cred: &Cred,
        (source, to_dir, target): (FileId, FileId, FileId),
        to: &StorePath,
    ) -> Result<()> {
        self.check_removal(cred, to_dir, target, to)?;
        self.may_replace(source, target, to)
    }
}

/// The first `depth` components of `path`.
fn first(path: &StorePath, depth: usize) -> StorePath {
    StorePath::from(path.components()[..depth].to_vec())
}

fn not_found(path: &StorePath) -> Error {
    Error::not_found(format!("{path}: no such file or directory"))
}

fn exists(path: &StorePath) -> Error {
    Error::exists(format!("{path}: exists already"))
}

fn root_stays(path: &StorePath) -> Error {
    Error::invalid(format!("{path}: the root can be neither moved nor removed"))
}
