//! Between the store's vocabulary and the FUSE library's.

use codax_core::namespace::Kind;
use codax_core::{Error, ErrorKind, FileId};
use codax_engine::fs::{Attr, NewKind, Stamp, Who};
use fuser::{Errno, FileAttr, FileType, INodeNo, OpenAccMode, OpenFlags, Request, TimeOrNow};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A sector of stat(2)'s count of blocks, in bytes.
const SECTOR: u64 = 512;

/// What stat(2) says is a good size to read and write in, in bytes.
const BLOCK_SIZE: u32 = 4096;

/// Bits of a mode that say what an inode is.
const KIND_BITS: u32 = 0o170_000;

/// The errno of an error of the store. What is nobody's fault but ours or the system's is logged.
pub(super) fn errno(e: &Error) -> Errno {
    let errno = Errno::from_i32(e.kind.errno());
    if errno == Errno::EIO {
        tracing::error!("a mount answers with EIO: {e}");
    } else if e.kind == ErrorKind::DeviceState {
        tracing::debug!("a mount answers with {errno:?}: {e}");
    } else {
        tracing::trace!("a mount answers with {errno:?}: {e}");
    }
    errno
}

pub(super) fn who(request: &Request) -> Who {
    Who { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

pub(super) fn file_id(inode: INodeNo) -> FileId {
    FileId(inode.0)
}

/// Whether an open is for reading, and whether for writing.
pub(super) fn access(flags: OpenFlags) -> (bool, bool) {
    match flags.acc_mode() {
        OpenAccMode::O_RDONLY => (true, false),
        OpenAccMode::O_WRONLY => (false, true),
        OpenAccMode::O_RDWR => (true, true),
    }
}

pub(super) fn attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.id.0),
        size: attr.len,
        blocks: attr.backed.div_ceil(SECTOR),
        atime: time(attr.atime_ns),
        mtime: time(attr.mtime_ns),
        ctime: time(attr.ctime_ns),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// What mknod(2) is asked to make; `None` for what can't be made so.
pub(super) fn node_kind(mode: u32, rdev: u32) -> Option<NewKind> {
    Some(match mode & KIND_BITS {
        0 | 0o100_000 => NewKind::File,
        0o010_000 => NewKind::Fifo,
        0o140_000 => NewKind::Socket,
        0o020_000 => NewKind::Char(rdev),
        0o060_000 => NewKind::Block(rdev),
        _ => return None,
    })
}

/// Permission bits of a mode.
pub(super) fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or_default()
}

pub(super) fn stamp(time: TimeOrNow) -> Stamp {
    match time {
        TimeOrNow::Now => Stamp::Now,
        TimeOrNow::SpecificTime(time) => Stamp::At(nanos(time)),
    }
}

fn time(ns: i64) -> SystemTime {
    let span = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 { UNIX_EPOCH - span } else { UNIX_EPOCH + span }
}

/// A time that the library made of what the kernel said, in nanoseconds since 1970, cut to what 64 bits hold (the years 1677 to 2262).
pub(super) fn nanos(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        // fuser 0.18 takes the nanoseconds, which the kernel counts forward, for ones that count backward as the seconds do.
        Err(before) => {
            let (secs, nanos) = (before.duration().as_secs(), before.duration().subsec_nanos());
            let secs = i64::try_from(secs).ok().and_then(|secs| secs.checked_mul(-1_000_000_000));
            secs.map_or(i64::MIN, |ns| ns + i64::from(nanos))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_there_and_back() {
        for ns in [0, 1, 1_700_000_000_123_456_789, i64::MAX] {
            assert_eq!(nanos(time(ns)), ns);
        }
        // -1.3 s is for the kernel -2 s and 700,000,000 ns, and for the library the time 2.7 s before 1970.
        assert_eq!(nanos(UNIX_EPOCH - Duration::new(2, 700_000_000)), -1_300_000_000);
        assert_eq!(time(-1_300_000_000), UNIX_EPOCH - Duration::from_nanos(1_300_000_000));
        assert_eq!(nanos(UNIX_EPOCH - Duration::from_secs(1 << 62)), i64::MIN);
    }

    #[test]
    fn a_device_that_takes_nothing_new_is_full() {
        assert_eq!(errno(&Error::device_state("it drains")), Errno::ENOSPC);
        assert_eq!(errno(&Error::corrupt("it is lost")), Errno::EIO);
    }

    #[test]
    fn modes_say_what_is_made() {
        assert_eq!(node_kind(0o100_644, 0), Some(NewKind::File));
        assert_eq!(node_kind(0o010_644, 0), Some(NewKind::Fifo));
        assert_eq!(node_kind(0o020_644, 7), Some(NewKind::Char(7)));
        assert_eq!(node_kind(0o040_755, 0), None);
        assert_eq!(permissions(0o104_755), 0o4755);
    }
}
