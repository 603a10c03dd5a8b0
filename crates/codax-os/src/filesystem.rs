//! What the filesystem of a directory is like: which it is, whether its files are mapped without the page cache, and whether they outlive the power.
#![forbid(unsafe_code)]

use crate::topology::SYSFS;
use rustix::fs::{AtFlags, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Filesystems that are memory.
const IN_MEMORY: [&str; 4] = ["tmpfs", "ramfs", "hugetlbfs", "devtmpfs"];

/// Why nothing can be had of the filesystem of a file, since its device has gone or it has been shut down; `None` as long as that isn't known: whoever
/// has no descriptor left, or no such file, knows nothing of its filesystem.
pub fn gone(file: &Path) -> Option<io::Error> {
    let error = rustix::fs::open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).err()?;
    let gone = [Errno::IO, Errno::NODEV, Errno::NXIO, Errno::SHUTDOWN, Errno::UCLEAN, Errno::STALE];
    gone.contains(&error).then(|| error.into())
}

/// What the filesystem of a directory is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// Its name in the list of mounts, as `ext4`.
    pub name: String,
    /// The block device that it is on, as `pmem1`, where it is on one.
    pub disk: Option<String>,
    /// Whether new files in the directory are mapped without the page cache.
    pub dax: bool,
    /// Whether it outlives the power: not of memory, nor on a disk that is memory (`ram0`, `zram0`).
    pub persistent: bool,
    /// Bytes that it has room for.
    pub free_bytes: u64,
}

/// What the filesystem of a directory is like. Makes a file without a name there, which is gone again when this returns, so the directory must be writable.
pub fn of(dir: &Path) -> io::Result<Filesystem> {
    let probe = nameless(dir)?;
    let dev = crate::object::stat(&probe)?.dev;
    let (name, source) = mount_of(dir)?;
    let disk = disk_of(dev, &source);
    let in_memory = IN_MEMORY.contains(&name.as_str());
    let on_memory = disk.as_deref().is_some_and(is_memory);
    Ok(Filesystem {
        dax: is_dax(&probe)?,
        persistent: !in_memory && !on_memory,
        free_bytes: crate::mounts::fs_free(dir)?,
        name,
        disk,
    })
}

/// Whether a file is mapped without the page cache (`STATX_ATTR_DAX`).
pub fn is_dax(fd: impl AsFd) -> io::Result<bool> {
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    Ok(stat.stx_attributes.contains(StatxAttributes::DAX))
}

/// A file in a directory, to read and write, that never has a name.
fn nameless(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR)?)
}

/// Name and source of the filesystem that a path lies on: of the mounts that the path is below, the last one with the longest path is what is seen.
fn mount_of(path: &Path) -> io::Result<(String, String)> {
    let path = std::fs::canonicalize(path)?;
    let table = std::fs::read(crate::topology::MOUNTINFO)?;
    let mut best: Option<(usize, &[u8], &[u8])> = None;
    for line in table.split(|b| *b == b'\n') {
        let Some((point, name)) = crate::mounts::point_and_type(line) else { continue };
        let source = crate::mounts::source_of(line).unwrap_or_default();
        let around = path.starts_with(Path::new(std::ffi::OsStr::from_bytes(&point)));
        if around && best.is_none_or(|(len, ..)| len <= point.len()) {
            best = Some((point.len(), name, source));
        }
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (_, name, source) = best.ok_or(io::ErrorKind::NotFound)?;
    Ok((text(name), text(source)))
}

/// The block device of this number, or else the one that a mount's source names.
fn disk_of(dev: u64, source: &str) -> Option<String> {
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let by_number = std::fs::canonicalize(format!("{SYSFS}/dev/block/{major}:{minor}")).ok();
    let by_name = || std::fs::canonicalize(source).ok().filter(|path| path.starts_with("/dev"));
    let path = by_number.or_else(by_name)?;
    Some(path.file_name()?.to_str()?.to_owned())
}

/// Whether a disk of this name is ordinary memory.
fn is_memory(disk: &str) -> bool {
    ["ram", "zram"].iter().any(|kind| {
        let number = disk.strip_prefix(kind);
        number.is_some_and(|number| number.bytes().next().is_some_and(|first| first.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_from_disks() {
        let shm = of(Path::new("/dev/shm")).unwrap();
        assert_eq!((shm.name.as_str(), shm.disk.as_deref()), ("tmpfs", None));
        assert!(!shm.persistent && !shm.dax && shm.free_bytes > 0);
        assert!(of(Path::new("/proc")).is_err());
        for (disk, memory) in [("ram0", true), ("zram1", true), ("ramdisk", false), ("pmem0", false)] {
            assert_eq!(is_memory(disk), memory, "{disk}");
        }
    }

    #[test]
    fn a_build_directory_has_a_filesystem_with_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let found = of(dir.path()).unwrap();
        assert!(!found.name.is_empty());
        assert_eq!(found.name == "tmpfs", crate::mounts::is_tmpfs(dir.path()).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the probe left a file");
    }
}
