//! Huge pages of the kernel's own pools (hugetlb): a node's reserve, mounts of hugetlbfs, and what its files do differently.
//!
//! They are set aside per node and size, never split, swapped or merged, and are not there for anything else. A file of hugetlbfs is as long as whole
//! pages, can be read and mapped, and not written to by write(2). Told in the kernel's `admin-guide/mm/hugetlbpage.rst`.
#![allow(unsafe_code)]
//! Unsafe code: `set_mempolicy` and `get_mempolicy` with a mask of our own, mappings that are unmapped by the functions that made them, and
//! copies by the kernel into a mapping that no Rust reference points into.
//! The kernel writes it, so a page that is gone is a short count, where a store would be SIGBUS.

use crate::area::Area;
use crate::util::{check, invalid, to_u64, to_usize};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use std::ffi::CString;
use std::fs::{File, TryLockError};
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut, with_exposed_provenance_mut};

/// `f_type` of hugetlbfs.
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// Size of a page of the file, if it is one of hugetlbfs.
pub fn page_of(fd: impl AsFd) -> io::Result<Option<u64>> {
    let stat = rustix::fs::fstatfs(fd)?;
    Ok((stat.f_type == HUGETLBFS_MAGIC)
        .then(|| u64::try_from(stat.f_bsize).unwrap_or(0))
        .filter(|size| *size > 0))
}

/// Bytes that a mount may still take, by a file on it.
pub fn left(fd: impl AsFd) -> io::Result<u64> {
    let stat = rustix::fs::fstatfs(fd)?;
    Ok(stat.f_bfree.saturating_mul(u64::try_from(stat.f_bsize).unwrap_or(0)))
}

/// Whether a path lies on hugetlbfs.
pub fn is_hugetlbfs(path: &Path) -> io::Result<bool> {
    Ok(rustix::fs::statfs(path)?.f_type == HUGETLBFS_MAGIC)
}

/// Mounts a hugetlbfs of pages of this size (mode 0700) that never takes more than `size` bytes, if it is said. Of what it doesn't take, `min` bytes are kept
/// for it: the kernel promises them to nobody else. `OutOfMemory` if there are not so many free pages.
pub fn mount(path: &Path, page: u64, size: Option<u64>, min: u64) -> io::Result<()> {
    let size = size.map(|size| format!(",size={size}")).unwrap_or_default();
    let min = if min == 0 { String::new() } else { format!(",min_size={min}") };
    let data = CString::new(format!("pagesize={page}{size}{min},mode=700"));
    let data = data.map_err(|_| invalid("a zero byte in options"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(rustix::mount::mount("codax", path, "hugetlbfs", flags, data.as_c_str())?)
}

/// Has the kernel promise free pages to holes of a file, so that nobody else is given them; whether there are so many that it has promised to nobody. The
/// promise is the file's, until a page is put there or the file is cut: to punch a hole doesn't end it.
pub fn promise(fd: impl AsFd, off: u64, len: u64) -> io::Result<bool> {
    use rustix::mm::{MapFlags, ProtFlags};
    let len = to_usize(len);
    let _no_fork = crate::fork::gate();
    // SAFETY: a null address lets the kernel choose one where nothing is mapped.
    match unsafe { rustix::mm::mmap(null_mut(), len, ProtFlags::READ, MapFlags::SHARED, fd, off) } {
        Err(Errno::NOMEM) => Ok(false),
        Err(e) => Err(e.into()),
        // SAFETY: the mapping just made, which nobody else knows.
        Ok(at) => unsafe { rustix::mm::munmap(at, len).map(|()| true).map_err(Into::into) },
    }
}

/// Whether a program can have a huge page of 2 MiB now, as any may ask for one: in anonymous memory, where this thread's memory comes from.
pub fn can_be_had() -> io::Result<bool> {
    use rustix::mm::{Advice, MapFlags, ProtFlags};
    const LEN: usize = 2 << 20;
    let flags = MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB;
    // SAFETY: a null address lets the kernel choose one where nothing is mapped.
    let mapped =
        unsafe { rustix::mm::mmap_anonymous(null_mut(), LEN, ProtFlags::READ | ProtFlags::WRITE, flags) };
    let at = match mapped {
        Err(Errno::NOMEM) => return Ok(false),
        other => other?,
    };
    // SAFETY: the mapping just made, which nobody else knows; populating it is an error where a store would be SIGBUS.
    let had = unsafe { rustix::mm::madvise(at, LEN, Advice::LinuxPopulateWrite) };
    // SAFETY: as above; nobody uses it.
    unsafe { rustix::mm::munmap(at, LEN)? };
    Ok(had.is_ok())
}

/// Where the kernel tells of the huge pages of all nodes.
const HUGEPAGES: &str = "/sys/kernel/mm/hugepages";

/// The huge pages of one size that a node has set aside.
#[derive(Clone, Debug)]
pub struct NodePages {
    dir: PathBuf,
}

impl NodePages {
    /// Those of `page` bytes on `node`. `Unsupported` if the kernel or the machine has no such pages, `NotFound` if the node isn't there.
    pub fn of(node: u32, page: u64) -> io::Result<Self> {
        let name = format!("hugepages-{}kB", page / 1024);
        if !Path::new(HUGEPAGES).join(&name).exists() {
            let line = format!("this kernel or machine has no hugetlb pages of {} MiB", page >> 20);
            return Err(io::Error::new(io::ErrorKind::Unsupported, line));
        }
        let dir = PathBuf::from(format!("/sys/devices/system/node/node{node}/hugepages")).join(name);
        if !dir.exists() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self { dir })
    }

    /// Keeps other daemons from changing how many there are, and from taking what is free, until the file is dropped.
    pub fn lock(&self) -> io::Result<File> {
        let file = File::open(self.dir.join("nr_hugepages"))?;
        file.lock()?;
        Ok(file)
    }

    /// The same, if nobody else does now.
    pub fn try_lock(&self) -> io::Result<Option<File>> {
        let file = File::open(self.dir.join("nr_hugepages"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    /// Whether this process may change how many there are, or why it may not.
    pub fn may_change(&self) -> io::Result<()> {
        File::options().write(true).open(self.dir.join("nr_hugepages")).map(drop)
    }

    /// How many there are, used or not.
    pub fn total(&self) -> io::Result<u64> {
        self.read("nr_hugepages")
    }

    /// How many of them are set aside: the others, the surplus, are small pages again when who uses them lets go of them.
    pub fn set_aside(&self) -> io::Result<u64> {
        Ok(self.total()?.saturating_sub(self.surplus()?))
    }

    fn surplus(&self) -> io::Result<u64> {
        self.read("surplus_hugepages")
    }

    /// How many nobody uses.
    pub fn free(&self) -> io::Result<u64> {
        self.read("free_hugepages")
    }

    /// How many nobody uses and nobody has been promised. Promises are not kept by node: all of them may be about this one.
    pub fn available(&self) -> io::Result<u64> {
        let all = self.of_all_nodes();
        let left = all.read("free_hugepages")?.saturating_sub(all.read("resv_hugepages")?);
        Ok(self.free()?.min(left))
    }

    /// Whether no node has a free one, and the kernel may make none when it is asked for one.
    pub fn are_gone(&self) -> io::Result<bool> {
        let all = self.of_all_nodes();
        Ok(all.read("free_hugepages")? == 0 && all.read("nr_overcommit_hugepages")? == 0)
    }

    fn of_all_nodes(&self) -> Self {
        Self { dir: Path::new(HUGEPAGES).join(self.dir.file_name().unwrap_or_default()) }
    }

    /// Asks the kernel to set so many aside, and returns how many there are then in all: fewer where it finds no memory that it can put together.
    pub fn set_total(&self, pages: u64) -> io::Result<u64> {
        std::fs::write(self.dir.join("nr_hugepages"), pages.to_string())?;
        self.total()
    }

    /// Has the kernel make small pages of free ones until so many are set aside, as far as there are free ones that nobody has been promised; returns how many
    /// there are then in all.
    pub fn dissolve(&self, pages: u64) -> io::Result<u64> {
        let surplus = self.surplus()?;
        let left = self.set_total(pages)?;
        // Of what is used it has only said that it goes some day: that stays set aside.
        if self.surplus()? > surplus {
            self.set_total(left.saturating_sub(surplus))?;
        }
        Ok(left)
    }

    fn read(&self, name: &str) -> io::Result<u64> {
        let text = std::fs::read_to_string(self.dir.join(name))?;
        text.trim().parse().map_err(|_| io::Error::other(format!("{name} says {text:?}")))
    }
}

/// From `linux/mempolicy.h`.
const MPOL_PREFERRED: libc::c_int = 1;
const MPOL_BIND: libc::c_int = 2;

/// Nodes that a mask has bits for, as many as a kernel may be built with.
const NODES_MAX: usize = 1024;

type NodeMask = [u64; NODES_MAX / 64];

/// Where this thread's memory comes from, as long as it lives. Then it is again as it was.
#[derive(Debug)]
pub struct Policy {
    mode: libc::c_int,
    mask: NodeMask,
    // The policy is a thread's.
    _thread: PhantomData<*const ()>,
}

impl Policy {
    /// From `node` if it has any left; else from another.
    pub fn prefer(node: u32) -> io::Result<Self> {
        Self::set(MPOL_PREFERRED, node)
    }

    /// From `node`, or not at all: the small pages too that the kernel needs for itself. Where the node is full of huge pages it ends this process for want of
    /// them.
    pub fn bind(node: u32) -> io::Result<Self> {
        Self::set(MPOL_BIND, node)
    }

    fn set(mode: libc::c_int, node: u32) -> io::Result<Self> {
        let mut before = Self { mode: 0, mask: [0; NODES_MAX / 64], _thread: PhantomData };
        let mut only: NodeMask = [0; NODES_MAX / 64];
        let word = usize::try_from(node / 64).unwrap_or(usize::MAX);
        *only.get_mut(word).ok_or_else(|| invalid(format!("node {node} is beyond all nodes")))? |=
            1 << (node % 64);
        // SAFETY: the kernel writes one integer and a mask of NODES_MAX bits, which is what it is given; no address is asked about.
        let got = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                &raw mut before.mode,
                before.mask.as_mut_ptr(),
                NODES_MAX,
                null::<u8>(),
                0,
            )
        };
        check(libc::c_int::try_from(got).unwrap_or(-1))?;
        set_policy(mode, Some(&only))?;
        Ok(before)
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        // What was in force is allowed.
        let mask = self.mask.iter().any(|word| *word != 0).then_some(&self.mask);
        let _ = set_policy(self.mode, mask);
    }
}

fn set_policy(mode: libc::c_int, mask: Option<&NodeMask>) -> io::Result<()> {
    // The kernel takes the number of bits for one more than it is.
    let (mask, bits) = mask.map_or((null(), 0), |mask| (mask.as_ptr(), NODES_MAX + 1));
    // SAFETY: the kernel reads a mask of NODES_MAX bits, or none; it changes no memory of ours.
    let set = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) };
    check(libc::c_int::try_from(set).unwrap_or(-1)).map(drop)
}

/// Whether a write was refused because the file is one of hugetlbfs; its page then.
pub(crate) fn refused(fd: impl AsFd, e: &io::Error) -> Option<u64> {
    if e.raw_os_error() != Some(libc::EINVAL) {
        return None;
    }
    page_of(fd).ok().flatten()
}

/// Writes bytes at `off` of a file of hugetlbfs, whose pages are `page` bytes: through a mapping, since it has no write(2). Returns how many: fewer where the
/// file ends or a page can't be had. The bytes may be a mapping that is cut meanwhile, which gives fewer too.
///
/// # Safety
///
/// `from..from + len` is memory that this process may give the kernel to read, whatever is there.
pub(crate) unsafe fn write_from(
    fd: impl AsFd,
    from: *const u8,
    len: usize,
    off: u64,
    page: u64,
) -> io::Result<usize> {
    // The kernel lengthens a file that is mapped for writing beyond its end.
    let end = crate::object::stat(&fd)?.len;
    let len = to_usize(end.saturating_sub(off)).min(len);
    if len == 0 {
        return Ok(0);
    }
    let start = off / page * page;
    let area = Area::object(&fd, start, to_usize(off - start) + len, true)?;
    let to = with_exposed_provenance_mut::<u8>(area.base() + to_usize(off - start));
    // SAFETY: the source is the caller's word; the destination is our mapping, which lives as long as `area` and into which nobody has references.
    unsafe { crate::transfer::transfer(from, to, len) }
}

/// As [`write_from`], of bytes of our own: all of them, or an error.
pub(crate) fn write_at(fd: impl AsFd, bytes: &[u8], off: u64, page: u64) -> io::Result<()> {
    // SAFETY: the bytes are borrowed for as long as the call takes.
    match unsafe { write_from(&fd, bytes.as_ptr(), bytes.len(), off, page)? } {
        n if n == bytes.len() => Ok(()),
        n => {
            let line = format!("the file ends, or has no page, {} bytes after {off}", to_u64(n));
            Err(io::Error::new(io::ErrorKind::WriteZero, line))
        }
    }
}
