//! Names, attributes, directories, extended attributes.

use super::convert::{self, errno, file_id, stamp, who};
use super::{Adapter, answered, writable, writable_file};
use crate::handles::lock;
use crate::listing::{AFTER_PARENT, AFTER_SELF};
use crate::special::{Node, is_top};
use codax_core::{ErrorKind, FileId, ROOT};
use codax_engine::fs::{self, Attr, Entries, Fs, New, NewKind, Set};
use fuser::{Errno, FileAttr, INodeNo, RenameFlags, ReplyStatfs, ReplyXattr, Request, TimeOrNow};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::SystemTime;

/// Entries asked of the store at once. More than fit an answer are thrown away; there are about 25 to a page of memory.
const ENTRIES_AT_ONCE: usize = 64;

/// The unit of statfs(2), in bytes, and the longest name.
const BLOCK: u32 = 4096;
const NAME_BYTES: u32 = 255;

/// The attribute by which a mount says how it serves a file, and what it says of the store's state as files.
const SERVED: &[u8] = b"user.codax.served";
const STATE: &[u8] = b"state: made by the daemon when it is opened, and read-only";

/// Flags of setxattr(2).
const XATTR_CREATE: i32 = 1;
const XATTR_REPLACE: i32 = 2;

/// Times that setattr is to set.
pub(super) struct Times {
    pub atime: Option<TimeOrNow>,
    pub mtime: Option<TimeOrNow>,
    pub ctime: Option<SystemTime>,
}

/// What setattr is to do.
///
/// Whether setuid and setgid go is for the kernel to say, and the library doesn't hand it on. They always go with a change of owner; with a truncation,
/// unless root truncates (who has `CAP_FSETID`). A request that sets nothing can only be about them: somebody writes to what the kernel serves, or changes the
/// owner to nobody new.
pub(super) fn settings(
    request: &Request,
    mode: Option<u32>,
    (uid, gid): (Option<u32>, Option<u32>),
    len: Option<u64>,
    times: Times,
) -> Set {
    let nothing = mode.is_none()
        && (uid, gid, len) == (None, None, None)
        && times.atime.is_none()
        && times.mtime.is_none()
        && times.ctime.is_none();
    Set {
        mode: mode.map(convert::permissions),
        uid,
        gid,
        len,
        atime: times.atime.map(stamp),
        mtime: times.mtime.map(stamp),
        ctime_ns: times.ctime.map(convert::nanos),
        kill_suid: nothing || uid.is_some() || gid.is_some() || (len.is_some() && request.uid() != 0),
    }
}

pub(super) fn rename_flags(flags: RenameFlags) -> Result<fs::RenameFlags, Errno> {
    let known = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE;
    if !known.contains(flags) {
        return Err(Errno::EINVAL);
    }
    Ok(fs::RenameFlags {
        noreplace: flags.contains(RenameFlags::RENAME_NOREPLACE),
        exchange: flags.contains(RenameFlags::RENAME_EXCHANGE),
    })
}

pub(super) fn answer_statfs(fs: &Fs, id: FileId, reply: ReplyStatfs) {
    let id = if Node::of(id).is_some() { ROOT } else { id };
    match fs.statfs(id) {
        Ok(stat) => {
            let blocks = |bytes: u64| bytes / u64::from(BLOCK);
            let (all, free, available) = (blocks(stat.bytes), blocks(stat.free), blocks(stat.available));
            reply.statfs(all, free, available, stat.files, stat.files_free, BLOCK, NAME_BYTES, BLOCK);
        }
        Err(e) => reply.error(errno(&e)),
    }
}

/// Answers with a value, or only with its size if that was asked.
pub(super) fn answer_xattr(value: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    let len = |value: &[u8]| u32::try_from(value.len()).unwrap_or(u32::MAX);
    match value {
        Ok(value) if size == 0 => reply.size(len(&value)),
        Ok(value) if len(&value) <= size => reply.data(&value),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(errno) => reply.error(errno),
    }
}

/// Takes an entry of a directory: the position after it, its name and attributes. True if there is no room for it.
pub(super) type Add<'a> = dyn FnMut(u64, &[u8], &Attr) -> bool + 'a;

impl Adapter {
    /// What a directory has under a name. That there is nothing is an answer that the kernel may remember: inode 0.
    pub(super) fn find(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let (dir, name) = (file_id(parent), name.as_bytes());
        let found = match Node::of(dir) {
            Some(node) => self.special.lookup(node, name),
            None if is_top(dir, name) => Ok(self.special.attr(Node::Top)),
            None => self.fs().lookup(dir, name),
        };
        match found {
            Ok(found) => Ok(convert::attr(&found)),
            Err(e) if e.kind == ErrorKind::NotFound => {
                Ok(FileAttr { ino: INodeNo(0), ..convert::attr(&self.special.attr(Node::Top)) })
            }
            Err(e) => Err(errno(&e)),
        }
    }

    pub(super) fn attr_of(&self, id: FileId) -> Result<Attr, Errno> {
        match Node::of(id) {
            Some(node) => Ok(self.special.attr(node)),
            None => answered(self.fs().attr(id)),
        }
    }

    pub(super) fn make(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        kind: NewKind,
    ) -> Result<FileAttr, Errno> {
        let (dir, name) = writable(parent, name)?;
        let new = New { mode: convert::permissions(mode), who: who(request), kind };
        answered(self.fs().make(dir, name, &new))
            .map(|made| convert::attr(&made))
            .inspect(|attr| self.told(attr))
    }

    /// Hands out a directory's entries from a position on, until `add` has no room.
    pub(super) fn list(&self, dir: FileId, handle: u64, offset: u64, add: &mut Add<'_>) -> Result<(), Errno> {
        let listing = self.listings.get(handle).unwrap_or_default();
        let mut listing = lock(&listing);
        let mut position = offset;
        if position == 0 {
            listing.rewind();
        }
        if position < AFTER_PARENT {
            let own = self.attr_of(dir)?;
            // The kernel wants the parent's number, and nothing else of it.
            let parent = Attr { id: self.parent(dir)?, ..own };
            for (at, attr, name) in [(AFTER_SELF, &own, &b"."[..]), (AFTER_PARENT, &parent, &b".."[..])] {
                if position < at {
                    if add(at, name, attr) {
                        return Ok(());
                    }
                    position = at;
                }
            }
        }
        let mut after = listing.name(position).map(<[u8]>::to_vec);
        if after.is_none() && position != AFTER_PARENT {
            // Nobody was given this position: there is nothing after it.
            return Ok(());
        }
        loop {
            let entries = answered(self.entries(dir, after.as_deref()))?;
            let more = entries.len() == ENTRIES_AT_ONCE;
            for (name, attr) in entries {
                if !is_top(dir, &name) {
                    let next = listing.after(position, &name);
                    if add(next, &name, &attr) {
                        return Ok(());
                    }
                    position = next;
                }
                after = Some(name);
            }
            if !more {
                return Ok(());
            }
        }
    }

    fn parent(&self, dir: FileId) -> Result<FileId, Errno> {
        match Node::of(dir) {
            Some(node) => Ok(node.parent()),
            None => answered(self.fs().parent(dir)),
        }
    }

    fn entries(&self, dir: FileId, after: Option<&[u8]>) -> codax_core::Result<Entries> {
        let Some(node) = Node::of(dir) else { return self.fs().entries(dir, after, ENTRIES_AT_ONCE) };
        let entries = self.special.entries(node).into_iter();
        let rest = entries.filter(|(name, _)| after.is_none_or(|after| name.as_slice() > after));
        Ok(rest.take(ENTRIES_AT_ONCE).map(|(name, node)| (name, self.special.attr(node))).collect())
    }

    pub(super) fn xattr(&self, inode: INodeNo, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let id = file_id(inode);
        match (Node::of(id), is_kept(name)) {
            (None, true) => answered(self.fs().xattr(id, name)),
            (Some(_), _) if name == SERVED => Ok(STATE.to_vec()),
            // Security modules ask at every turn: there is nothing.
            _ => Err(Errno::ENODATA),
        }
    }

    /// The names, each with a zero byte after it.
    pub(super) fn xattr_names(&self, inode: INodeNo) -> Result<Vec<u8>, Errno> {
        let id = file_id(inode);
        let names = if Node::of(id).is_some() { Vec::new() } else { answered(self.fs().xattrs(id))? };
        Ok(names.into_iter().flat_map(|name| name.into_iter().chain([0])).collect())
    }

    pub(super) fn set_xattr(
        &self,
        inode: INodeNo,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Result<(), Errno> {
        let id = writable_file(inode)?;
        if !is_kept(name) {
            return Err(Errno::EOPNOTSUPP);
        }
        if [&b"user."[..], b"trusted."].contains(&name) {
            // A name of no bytes.
            return Err(Errno::EINVAL);
        }
        let (create, replace) = (flags & XATTR_CREATE != 0, flags & XATTR_REPLACE != 0);
        answered(self.fs().set_xattr(id, name, value, create, replace))
    }

    pub(super) fn remove_xattr(&self, inode: INodeNo, name: &[u8]) -> Result<(), Errno> {
        let id = writable_file(inode)?;
        if !is_kept(name) {
            return Err(Errno::ENODATA);
        }
        answered(self.fs().remove_xattr(id, name))
    }
}

/// Whether an extended attribute of this name is kept: the user's own, and those of root's tools. Others mean something to the kernel, and would not
/// mean it here.
fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name.starts_with(b"trusted.")
}
