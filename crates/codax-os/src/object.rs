//! Objects: the files of tmpfs or hugetlbfs that hold the bytes of files, one for each (file, pool).
#![allow(unsafe_code)]
//! Unsafe code: `fcntl` with lease commands, which take integers and touch no memory of ours, and `cachestat`.

use crate::hugetlb;
use crate::util::{PAGE, check, invalid, retry, to_u64};
use rustix::fs::{
    AtFlags, Dir, FallocateFlags, FileType, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps,
};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// `fcntl` command that chooses a lease's signal; from `asm-generic/fcntl.h`, not in the libc crate for glibc.
const F_SETSIG: libc::c_int = 10;

/// A directory of objects, held open: later calls don't look its path up again.
#[derive(Debug)]
pub struct ObjectDir {
    fd: OwnedFd,
}

/// What the kernel says of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectStat {
    /// Its length (`i_size`), in bytes.
    pub len: u64,
    /// Bytes of memory it takes.
    pub allocated_bytes: u64,
    /// Device number of its filesystem, as in `/proc/*/maps`.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Last change of contents, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Last change of the inode, in nanoseconds since 1970.
    pub ctime_ns: i64,
}

impl From<Stat> for ObjectStat {
    fn from(stat: Stat) -> Self {
        Self {
            len: u64::try_from(stat.st_size).unwrap_or(0),
            allocated_bytes: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
            dev: stat.st_dev,
            ino: stat.st_ino,
            mtime_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            ctime_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// A time of the kernel's as one number.
fn nanoseconds(seconds: i64, nanoseconds: impl TryInto<i64>) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds.try_into().unwrap_or(0))
}

impl ObjectDir {
    /// Opens a directory. `NotFound` and `NotADirectory` as the kernel says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// Device number of the directory's filesystem, and so of all its objects.
    pub fn device(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_dev)
    }

    /// Makes an object (mode 0600) of `len_bytes` bytes, all of it a hole. `AlreadyExists` if there is one.
    pub fn create(&self, name: &str, len_bytes: u64) -> io::Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(&self.fd, checked(name)?, flags, Mode::RUSR | Mode::WUSR)?;
        if len_bytes > 0
            && let Err(e) = rustix::fs::ftruncate(&fd, len_bytes)
        {
            let _ = self.remove(name);
            return Err(e.into());
        }
        Ok(fd)
    }

    /// Opens an object, through an open description of its own.
    pub fn open_object(&self, name: &str, write: bool) -> io::Result<OwnedFd> {
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        retry(|| rustix::fs::openat(&self.fd, checked_errno(name)?, flags, Mode::empty()))
    }

    /// Opens an object for writing with a [write lease](try_write_lease); `None` if anybody else has it, also if they have such a lease themselves:
    /// an ordinary open would wait for its end.
    pub fn open_leased(&self, name: &str) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        match retry(|| rustix::fs::openat(&self.fd, checked_errno(name)?, flags, Mode::empty())) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
            Ok(fd) => Ok(try_write_lease(&fd)?.then_some(fd)),
        }
    }

    /// Removes an object's name; its memory goes when nobody holds it any more.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, checked(name)?, AtFlags::empty())?)
    }

    /// All objects, in no order. What is not a regular file, or goes while we look, is left out.
    pub fn list(&self) -> io::Result<Vec<(String, ObjectStat)>> {
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                    found.push((name.to_owned(), ObjectStat::from(stat)));
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(found)
    }
}

fn checked_errno(name: &str) -> rustix::io::Result<&str> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(Errno::INVAL);
    }
    Ok(name)
}

fn checked(name: &str) -> io::Result<&str> {
    checked_errno(name).map_err(|_| invalid(format!("{name:?} is no name for an object")))
}

/// Fills a range with memory; what is there stays, the length too. `StorageFull` (ENOSPC) takes back what this call
/// took.
///
/// Where the mount has huge pages the kernel may take larger pages than asked for, up to the object's length, and
/// then allocates more: exact are ranges whose ends are multiples of 2 MiB or the object's end.
pub fn allocate(fd: impl AsFd, off: u64, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    retry(|| rustix::fs::fallocate(&fd, FallocateFlags::KEEP_SIZE, off, len))
}

/// Has what was written to an object reach what it is kept on, with all that is needed to read it again.
pub fn sync(fd: impl AsFd) -> io::Result<()> {
    retry(|| rustix::fs::fdatasync(&fd))
}

/// Gives the memory of a range back; the range is a hole afterwards.
pub fn punch(fd: impl AsFd, off: u64, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    let flags = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE;
    retry(|| rustix::fs::fallocate(&fd, flags, off, len))
}

/// Sets the length; growth is a hole until it is allocated.
pub fn set_len(fd: impl AsFd, len: u64) -> io::Result<()> {
    retry(|| rustix::fs::ftruncate(&fd, len))
}

/// Sets the time of the last change of contents; the time of access stays.
pub fn set_mtime(fd: impl AsFd, ns: i64) -> io::Result<()> {
    let last_modification =
        Timespec { tv_sec: ns.div_euclid(1_000_000_000), tv_nsec: ns.rem_euclid(1_000_000_000) };
    let last_access = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    Ok(rustix::fs::futimens(fd, &Timestamps { last_access, last_modification })?)
}

/// Length, memory and identity.
pub fn stat(fd: impl AsFd) -> io::Result<ObjectStat> {
    Ok(rustix::fs::fstat(fd)?.into())
}

/// The number of the device that a character device is (`st_rdev`); `None` for anything else, files too.
pub fn char_device(fd: impl AsFd) -> io::Result<Option<u64>> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice).then_some(stat.st_rdev))
}

/// The ranges (offset, length in bytes) that hold data, in order. Pages that were [allocated](allocate) and never
/// touched since count as holes here, though they take memory: [`resident_bytes`] sees them. Moves the descriptor's
/// file position.
pub fn data_ranges(fd: impl AsFd) -> io::Result<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    loop {
        let start = match rustix::fs::seek(&fd, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(ranges),
            Err(e) => return Err(e.into()),
        };
        // Past the end only if somebody truncated it meanwhile.
        let end = match rustix::fs::seek(&fd, SeekFrom::Hole(start)) {
            Ok(end) => end,
            Err(Errno::NXIO) => return Ok(ranges),
            Err(e) => return Err(e.into()),
        };
        ranges.push((start, end - start));
        at = end;
    }
}

/// One number on all machines; the libc crate doesn't have it.
const SYS_CACHESTAT: libc::c_long = 451;

/// Bytes of a range that take memory (whole pages), whether they were ever touched or not; those in swap don't count.
/// `Unsupported` (ENOSYS) before Linux 6.5, and (EOPNOTSUPP) on hugetlbfs.
pub fn resident_bytes(fd: impl AsFd, off: u64, len: u64) -> io::Result<u64> {
    // A length of 0 would mean "to the end".
    if len == 0 {
        return Ok(0);
    }
    // What a DAX filesystem maps isn't in the page cache, and cachestat(2) takes what is there in its place for pages that were evicted: a null pointer in the kernel
    // (6.12), which ends the process.
    if crate::filesystem::is_dax(&fd)? {
        let end = off.saturating_add(len);
        let here = |(at, bytes): (u64, u64)| (at + bytes).min(end).saturating_sub(at.max(off));
        return Ok(data_ranges(fd)?.into_iter().map(here).sum());
    }
    let range = [off, len];
    // Pages: cached, dirty, under writeback, evicted, recently evicted.
    let mut counts = [0u64; 5];
    // SAFETY: the kernel reads a `struct cachestat_range` (two 64-bit words) and writes a `struct cachestat` (five),
    // which these arrays are.
    let result = unsafe {
        libc::syscall(SYS_CACHESTAT, fd.as_fd().as_raw_fd(), range.as_ptr(), counts.as_mut_ptr(), 0)
    };
    check(libc::c_int::try_from(result).unwrap_or(-1))?;
    Ok(counts[0] * to_u64(PAGE))
}

/// Whether nobody else holds the object: true if the kernel grants a write lease, false as long as any other open
/// description or mapping of it exists anywhere. The lease is kept until [`drop_lease`] or the last close of `fd`.
///
/// Should somebody open the object while the lease is held, the kernel sends SIGURG (ignored unless handled) and lets
/// the opener wait, so drop it soon. `fd` must be open for writing, and its file the caller's own (or `CAP_LEASE`).
pub fn try_write_lease(fd: impl AsFd) -> io::Result<bool> {
    let raw = fd.as_fd().as_raw_fd();
    // The default, SIGIO, would end the process.
    // SAFETY: F_SETSIG takes an integer and touches no memory of this process; `fd` is open as long as it is
    // borrowed.
    check(unsafe { libc::fcntl(raw, F_SETSIG, libc::SIGURG) })?;
    // SAFETY: F_SETLEASE takes an integer and touches no memory of this process; `fd` is open as long as it is
    // borrowed.
    match check(unsafe { libc::fcntl(raw, libc::F_SETLEASE, libc::F_WRLCK) }) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Gives the lease of [`try_write_lease`] back.
pub fn drop_lease(fd: impl AsFd) -> io::Result<()> {
    let raw = fd.as_fd().as_raw_fd();
    // SAFETY: F_SETLEASE takes an integer and touches no memory of this process; `fd` is open as long as it is
    // borrowed.
    check(unsafe { libc::fcntl(raw, libc::F_SETLEASE, libc::F_UNLCK) }).map(drop)
}

/// Reads until `buf` is full or the object ends; returns the bytes read.
pub fn read_at(fd: impl AsFd, buf: &mut [u8], off: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match retry(|| rustix::io::pread(&fd, &mut buf[done..], off + to_u64(done)))? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

/// Writes at the end, which the kernel looks up under the same lock; returns how many bytes.
pub fn append(fd: impl AsFd, buf: &[u8]) -> io::Result<usize> {
    let parts = [io::IoSlice::new(buf)];
    retry(|| rustix::io::pwritev2(&fd, &parts, 0, rustix::io::ReadWriteFlags::APPEND))
}

/// Writes all of `buf`. Of an object on hugetlbfs, which is not written to by write(2), as far as it reaches: `WriteZero` beyond.
pub fn write_all_at(fd: impl AsFd, buf: &[u8], off: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match retry(|| rustix::io::pwrite(&fd, &buf[done..], off + to_u64(done))) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(e) => match hugetlb::refused(&fd, &e) {
                Some(page) => return hugetlb::write_at(&fd, &buf[done..], off + to_u64(done), page),
                None => return Err(e),
            },
        }
    }
    Ok(())
}
