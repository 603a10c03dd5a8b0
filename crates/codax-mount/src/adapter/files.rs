//! Open files.

use super::convert::{access, errno, file_id, permissions, who};
use super::{Adapter, GENERATION, REQUEST_BYTES, answered, writable, writable_file};
use crate::VALID;
use crate::special::Node;
use codax_core::{Error, FileId};
use codax_engine::fs::{Allocate, FsHandle, FsOpen, How, New, NewKind};
use fuser::{
    BackingId, Errno, FileHandle, FopenFlags, INodeNo, OpenFlags, ReplyCreate, ReplyData, ReplyOpen, Request,
};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A flag of open(2).
const O_APPEND: i32 = 0o2000;

/// Flags of fallocate(2).
const KEEP_SIZE: i32 = 0x01;
const PUNCH_HOLE: i32 = 0x02;
const ZERO_RANGE: i32 = 0x10;

/// Ways of lseek(2).
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

thread_local! {
    /// What a read is answered from.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn handle(handle: FileHandle) -> FsHandle {
    FsHandle(handle.0)
}

/// How an open is answered.
struct Answer {
    handle: FileHandle,
    flags: FopenFlags,
    backing: Option<Arc<BackingId>>,
}

impl Adapter {
    pub(super) fn answer_open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let id = file_id(inode);
        let (read, write) = access(flags);
        let opened = match Node::of(id) {
            Some(_) if write => Err(Errno::EROFS),
            Some(node) => answered(self.special.open(node)).map(|handle| Answer {
                handle: FileHandle(handle),
                flags: FopenFlags::FOPEN_DIRECT_IO,
                backing: None,
            }),
            None => answered(self.fs().open(id, read, write, who(request)))
                .and_then(|open| self.opened(id, open, |object| reply.open_backing(object))),
        };
        match opened {
            Ok(Answer { handle, flags, backing: None }) => reply.opened(handle, flags),
            Ok(Answer { handle, flags, backing: Some(id) }) => reply.opened_passthrough(handle, flags, &id),
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) fn answer_create(
        &self,
        request: &Request,
        (parent, name): (INodeNo, &OsStr),
        mode: u32,
        flags: OpenFlags,
        reply: ReplyCreate,
    ) {
        let (read, write) = access(flags);
        let new = New { mode: permissions(mode), who: who(request), kind: NewKind::File };
        let created = writable(parent, name).and_then(|(dir, name)| {
            let (made, open) = answered(self.fs().create(dir, name, &new, read, write))?;
            let answer = self.opened(made.id, open, |object| reply.open_backing(object))?;
            let attr = super::convert::attr(&made);
            self.told(&attr);
            Ok((attr, answer))
        });
        match created {
            Ok((attr, Answer { handle, flags, backing: None })) => {
                reply.created(&VALID, &attr, GENERATION, handle, flags);
            }
            Ok((attr, Answer { handle, flags, backing: Some(id) })) => {
                reply.created_passthrough(&VALID, &attr, GENERATION, handle, flags, &id);
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// What the kernel is told of a file that was opened.
    fn opened(
        &self,
        id: FileId,
        open: FsOpen,
        register: impl FnOnce(OwnedFd) -> io::Result<BackingId>,
    ) -> Result<Answer, Errno> {
        let handle = FileHandle(open.handle.0);
        match open.how {
            How::Passthrough(object) => match self.backings.open(id, object, register) {
                Ok(backing) => {
                    // A mapping is the object's either way.
                    let daemon = FopenFlags::FOPEN_DIRECT_IO;
                    let flags = if open.direct { daemon } else { FopenFlags::empty() };
                    Ok(Answer { handle, flags, backing: Some(backing) })
                }
                Err(e) => {
                    self.fs().release(open.handle);
                    Err(errno(&Error::internal(format!("register the object of #{id}: {e}"))))
                }
            },
            // What the page cache held would be stale as soon as the library writes; only where nothing better can be had are contents cached.
            How::Daemon if self.passthrough() => {
                Ok(Answer { handle, flags: FopenFlags::FOPEN_DIRECT_IO, backing: None })
            }
            How::Daemon => Ok(Answer { handle, flags: FopenFlags::empty(), backing: None }),
        }
    }

    pub(super) fn close(&self, inode: INodeNo, of: FileHandle) {
        let id = file_id(inode);
        if Node::of(id).is_some() {
            return self.special.release(of.0);
        }
        // First: the lease that proves a file unused is refused as long as the kernel has its object.
        self.backings.close(id);
        self.fs().release(handle(of));
    }

    pub(super) fn answer_read(
        &self,
        inode: INodeNo,
        of: FileHandle,
        offset: u64,
        size: u32,
        reply: ReplyData,
    ) {
        if Node::of(file_id(inode)).is_some() {
            let text = self.special.read(of.0);
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
            let end = start.saturating_add(size as usize).min(text.len());
            return reply.data(&text[start..end]);
        }
        BUFFER.with_borrow_mut(|buffer| {
            let size = size.min(REQUEST_BYTES) as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match self.fs().read(handle(of), offset, &mut buffer[..size]) {
                Ok(count) => reply.data(&buffer[..count]),
                Err(e) => reply.error(errno(&e)),
            }
        });
    }

    pub(super) fn write_at(
        &self,
        inode: INodeNo,
        of: FileHandle,
        (offset, flags): (u64, OpenFlags),
        data: &[u8],
        kill: bool,
    ) -> Result<u32, Errno> {
        writable_file(inode)?;
        // The kernel appends at the length that it remembers, and the library or another mount may have changed it. What it sends of one call comes
        // in order, each part when the one before has been answered.
        let written = match flags.0 & O_APPEND {
            0 => self.fs().write(handle(of), offset, data, kill),
            _ => self.fs().append(handle(of), data, kill),
        };
        let count = answered(written)?;
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    pub(super) fn allocate(
        &self,
        inode: INodeNo,
        of: FileHandle,
        (offset, length): (u64, u64),
        mode: i32,
    ) -> Result<(), Errno> {
        writable_file(inode)?;
        if mode & !(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let how = Allocate {
            keep_size: mode & KEEP_SIZE != 0,
            punch: mode & PUNCH_HOLE != 0,
            zero: mode & ZERO_RANGE != 0,
        };
        answered(self.fs().allocate(handle(of), offset, length, how))
    }

    pub(super) fn seek(
        &self,
        inode: INodeNo,
        of: FileHandle,
        offset: i64,
        whence: i32,
    ) -> Result<i64, Errno> {
        writable_file(inode).map_err(|_| Errno::EINVAL)?;
        let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        let found = match whence {
            SEEK_DATA => self.fs().seek_data(handle(of), from),
            SEEK_HOLE => self.fs().seek_hole(handle(of), from),
            _ => return Err(Errno::EINVAL),
        };
        i64::try_from(answered(found)?).map_err(|_| Errno::EOVERFLOW)
    }

    pub(super) fn copy(
        &self,
        (inode_from, from, offset_from): (INodeNo, FileHandle, u64),
        (inode_to, to, offset_to): (INodeNo, FileHandle, u64),
        len: u64,
    ) -> Result<u32, Errno> {
        // The special files are read-only, and have no length that one could copy by: the kernel copies by reading.
        writable_file(inode_to)?;
        writable_file(inode_from).map_err(|_| Errno::EOPNOTSUPP)?;
        // As much as a count of 32 bits can tell; who wants more asks again.
        let len = len.min(u64::from(u32::MAX / 2));
        let count = self.fs().copy_range(handle(from), offset_from, handle(to), offset_to, len);
        Ok(u32::try_from(answered(count)?).unwrap_or(u32::MAX))
    }
}
