//! Names and attributes.

use super::{Attr, Entries, Fs, New, NewKind, RenameFlags, Set, Stamp, gone};
use crate::store::state::State;
use codax_core::change::Change;
use codax_core::name::Name;
use codax_core::namespace::{Extra, Inode, Kind, SETGID, SETUID};
use codax_core::{Error, ErrorKind, FileId, PoolId, ROOT, Result};

const MODE_BITS: u16 = 0o7777;
const GROUP_EXEC: u16 = 0o010;

impl Fs {
    /// What directory `dir` has under `name`.
    pub fn lookup(&self, dir: FileId, name: &[u8]) -> Result<Attr> {
        let name = Name::new(name)?;
        let mut st = self.lock();
        let id = st.ns.at(dir, &name)?;
        self.attr_now(&mut st, id)
    }

    /// The attributes of an inode.
    pub fn attr(&self, id: FileId) -> Result<Attr> {
        self.attr_now(&mut self.lock(), id)
    }

    /// The attributes of an inode, whose object may know better than it.
    fn attr_now(&self, st: &mut State, id: FileId) -> Result<Attr> {
        self.inner().refresh(st, id);
        st.attr(id)
    }

    /// Sets attributes.
    pub fn set(&self, id: FileId, set: &Set) -> Result<Attr> {
        if let Some(len) = set.len {
            self.set_len(id, len)?;
        }
        let mut st = self.lock();
        let old = st.inode(id).ok_or_else(|| gone(id))?;
        let now = self.now();
        let stamp = |stamp| match stamp {
            Stamp::Now => now,
            Stamp::At(ns) => ns,
        };
        let new = Inode {
            mode: mode_after(old, set),
            uid: set.uid.unwrap_or(old.uid),
            gid: set.gid.unwrap_or(old.gid),
            atime_ns: set.atime.map_or(old.atime_ns, stamp),
            mtime_ns: set.mtime.map_or(old.mtime_ns, stamp),
            ctime_ns: set.ctime_ns.unwrap_or(now),
            ..old.clone()
        };
        // A length alone is journalled already.
        let more = Set { len: None, ..*set };
        if more != Set::default() {
            if set.mtime.is_some() {
                if let Some(used) = st.live.get_mut(&id).and_then(|l| l.mount.as_mut()) {
                    used.wrote_ns = None;
                }
                self.inner().date_object(&st, &new)?;
            }
            self.inner().put(&mut st, new)?;
        }
        self.attr_now(&mut st, id)
    }

    /// Takes setuid and setgid away for a request that sets nothing else. Either somebody writes to what the kernel serves, and then has it open; or
    /// somebody changes the owner to nobody new, which of such a file only its owner and root may.
    pub fn drop_set_ids(&self, id: FileId, uid: u32) -> Result<Attr> {
        let st = self.lock();
        let inode = st.inode(id).ok_or_else(|| gone(id))?;
        let goes = inode.kind != Kind::Dir && without_suid(inode.mode) != inode.mode;
        if goes && uid != 0 && uid != inode.uid && !self.writes(&st, id) {
            let line = format!("{}: only its owner and root may take setuid away", st.path(id));
            return Err(Error::new(ErrorKind::NotPermitted, line));
        }
        drop(st);
        self.set(id, &Set { kill_suid: true, ..Set::default() })
    }

    /// Makes a directory, a link, a pipe or the like, or an empty file. `Exists` if the name is taken.
    pub fn make(&self, dir: FileId, name: &[u8], new: &New) -> Result<Attr> {
        let name = Name::new(name)?;
        let mut st = self.lock();
        let id = self.take_id(&mut st)?;
        self.put_new(&mut st, (dir, &name), new, id, None)?;
        st.attr(id)
    }

    /// A number for something new.
    pub(super) fn take_id(&self, st: &mut State) -> Result<FileId> {
        if st.closing {
            return Err(Error::new(ErrorKind::NoDaemon, "the store is being closed"));
        }
        self.inner().allow_id(st)?;
        Ok(st.ns.take_id())
    }

    /// Journals something new, of number `id`; `ahead` is where its object is, if it has one.
    pub(super) fn put_new(
        &self,
        st: &mut State,
        (dir, name): (FileId, &Name),
        new: &New,
        id: FileId,
        ahead: Option<PoolId>,
    ) -> Result<()> {
        let (kind, rdev) = match new.kind {
            NewKind::File => (Kind::File, 0),
            NewKind::Dir => (Kind::Dir, 0),
            NewKind::Symlink(_) => (Kind::Symlink, 0),
            NewKind::Fifo => (Kind::Fifo, 0),
            NewKind::Socket => (Kind::Socket, 0),
            NewKind::Char(rdev) => (Kind::CharDevice, rdev),
            NewKind::Block(rdev) => (Kind::BlockDevice, rdev),
        };
        let inode = Inode::new(id, kind, new.mode & MODE_BITS, new.who.uid, new.who.gid, self.now());
        let mut inode = Inode { rdev, ahead, ..inode };
        if let NewKind::Symlink(target) = &new.kind {
            inode.len = target.len() as u64;
            inode.extra = Some(Box::new(Extra { target: target.clone(), ..Extra::default() }));
        }
        let changes = st.ns.make_at(dir, name, inode)?;
        self.inner().commit(st, &changes)
    }

    /// Gives a file one more name.
    pub fn link(&self, id: FileId, dir: FileId, name: &[u8]) -> Result<Attr> {
        let name = Name::new(name)?;
        let mut st = self.lock();
        let changes = st.ns.link_at(id, dir, &name, self.now())?;
        self.inner().commit(&mut st, &changes)?;
        self.attr_now(&mut st, id)
    }

    /// Takes a name away, of anything but a directory.
    pub fn unlink(&self, dir: FileId, name: &[u8]) -> Result<()> {
        self.remove_name(dir, name, false)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, dir: FileId, name: &[u8]) -> Result<()> {
        self.remove_name(dir, name, true)
    }

    fn remove_name(&self, dir: FileId, name: &[u8], dirs: bool) -> Result<()> {
        let name = Name::new(name)?;
        let mut st = self.lock();
        let (child, changes) = st.ns.remove_at(dir, &name, dirs, self.now())?;
        self.commit_loss(&mut st, child, changes)
    }

    /// Renames; what had the new name loses it.
    pub fn rename(&self, from: (FileId, &[u8]), to: (FileId, &[u8]), flags: RenameFlags) -> Result<()> {
        let (from_name, to_name) = (Name::new(from.1)?, Name::new(to.1)?);
        let (from, to) = ((from.0, &from_name), (to.0, &to_name));
        let mut st = self.lock();
        let now = self.now();
        match (flags.noreplace, flags.exchange) {
            (true, true) => Err(Error::invalid("rename: an exchange replaces nothing")),
            (false, true) => {
                let changes = st.ns.exchange_at(from, to, now)?;
                st.check_entered(&changes)?;
                self.inner().commit(&mut st, &changes)
            }
            (noreplace, false) => {
                let (replaced, changes) = st.ns.rename_at(from, to, noreplace, now)?;
                st.check_entered(&changes)?;
                match replaced {
                    Some(replaced) => self.commit_loss(&mut st, replaced, changes),
                    None => self.inner().commit(&mut st, &changes),
                }
            }
        }
    }

    /// Commits changes by which `child` loses a name. Where that was its last and nobody uses it, it goes with the same record.
    fn commit_loss(&self, st: &mut State, child: FileId, mut changes: Vec<Change>) -> Result<()> {
        let inner = self.inner();
        let last = |i: &&Inode| i.kind != Kind::Dir && i.nlink <= 1 && i.ahead.is_none();
        let unused = st.ns.get(child).filter(last).filter(|_| !st.live.contains_key(&child));
        let Some(inode) = unused else {
            inner.commit(st, &changes)?;
            inner.reap(st, child);
            return Ok(());
        };
        let extents = inode.extents.clone();
        for change in &mut changes {
            if matches!(change, Change::Put(put) if put.id == child) {
                *change = Change::Drop(child);
            }
        }
        inner.commit(st, &changes)?;
        inner.give_up(st, child, extents);
        Ok(())
    }

    /// Where a symbolic link leads.
    pub fn read_link(&self, id: FileId) -> Result<Vec<u8>> {
        let st = self.lock();
        let inode = st.inode(id).ok_or_else(|| gone(id))?;
        match (&inode.extra, inode.kind) {
            (Some(extra), Kind::Symlink) => Ok(extra.target.clone()),
            _ => Err(Error::invalid(format!("inode {id} is not a symbolic link"))),
        }
    }

    /// Up to `max` entries of a directory whose names come after `after`, in byte order.
    pub fn entries(&self, dir: FileId, after: Option<&[u8]>, max: usize) -> Result<Entries> {
        let mut st = self.lock();
        match st.inode(dir).map(|i| i.kind) {
            None => return Err(gone(dir)),
            Some(Kind::Dir) => {}
            Some(_) => return Err(Error::new(ErrorKind::NotDir, format!("inode {dir} is not a directory"))),
        }
        let named: Vec<(Vec<u8>, FileId)> =
            st.ns.entries(dir, after).take(max).map(|(name, id)| (name.as_bytes().to_vec(), id)).collect();
        named
            .into_iter()
            .map(|(name, id)| {
                let attr = self.attr_now(&mut st, id)?;
                Ok((name, attr))
            })
            .collect()
    }

    /// The directory that directory `dir` is in; the root is in itself.
    pub fn parent(&self, dir: FileId) -> Result<FileId> {
        let st = self.lock();
        if dir == ROOT || st.gone.contains_key(&dir) {
            return Ok(dir);
        }
        st.ns.parent_of(dir).map(|(parent, _)| parent).ok_or_else(|| gone(dir))
    }
}

/// The mode after `set`: who changes the owner takes setuid and setgid away, as does who is asked to.
fn mode_after(old: &Inode, set: &Set) -> u16 {
    let owner = set.uid.is_some() || set.gid.is_some();
    match set.mode {
        Some(mode) => mode & MODE_BITS,
        None if (set.kill_suid || owner) && old.kind != Kind::Dir => without_suid(old.mode),
        None => old.mode,
    }
}

/// A mode without setuid, and without setgid where that makes programs run as the group.
pub(super) fn without_suid(mode: u16) -> u16 {
    let setgid = if mode & GROUP_EXEC == 0 { 0 } else { SETGID };
    mode & !(SETUID | setgid)
}

impl State {
    /// The attributes of an inode as they are in memory.
    pub fn attr(&self, id: FileId) -> Result<Attr> {
        let inode = self.inode(id).ok_or_else(|| gone(id))?;
        let wrote = self.live.get(&id).and_then(|l| l.mount.as_ref()?.wrote_ns);
        Ok(Attr {
            id,
            kind: inode.kind,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            nlink: match inode.kind {
                Kind::Dir if !self.gone.contains_key(&id) => 2 + self.ns.subdirs(id),
                _ => inode.nlink,
            },
            len: inode.len,
            backed: inode.backed(),
            atime_ns: inode.atime_ns,
            mtime_ns: wrote.unwrap_or(inode.mtime_ns),
            ctime_ns: wrote.map_or(inode.ctime_ns, |ns| ns.max(inode.ctime_ns)),
            rdev: inode.rdev,
        })
    }
}
