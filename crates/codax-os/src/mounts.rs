//! tmpfs mounts of pools.
#![forbid(unsafe_code)]

use crate::util::{field, invalid};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `f_type` of tmpfs.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Bit of the capability that `mount` asks for (`CAP_SYS_ADMIN`).
const CAP_SYS_ADMIN: u32 = 21;

/// Whether a path lies on tmpfs.
pub fn is_tmpfs(path: &Path) -> io::Result<bool> {
    Ok(rustix::fs::statfs(path)?.f_type == TMPFS_MAGIC)
}

/// Whether a path is the root of a mount. Asks nobody who serves it.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(CWD, path, flags, StatxFlags::TYPE)?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Whether this process may mount: `CAP_SYS_ADMIN` is in its effective set.
#[must_use]
pub fn can_mount() -> bool {
    has_capability(CAP_SYS_ADMIN)
}

/// Whether a capability is in the effective set of this process.
pub(crate) fn has_capability(bit: u32) -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return false };
    let set = field(&status, "CapEff").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    set.is_some_and(|set| set >> bit & 1 == 1)
}

/// Mounts a tmpfs of `size` bytes (mode 0700, no devices, no set-user-id, no limit on files) with huge pages as
/// `huge` says (`never`, `always`, `within_size`, `advise`), and without swap if `noswap` and the kernel knows that
/// (6.4). New files in it prefer these nodes, unless there are none. Returns whether it is without swap.
pub fn mount_tmpfs(path: &Path, size: u64, huge: &str, noswap: bool, nodes: &[u32]) -> io::Result<bool> {
    if huge.contains(',') || size == 0 {
        return Err(invalid(format!("a tmpfs of {size} bytes with huge={huge} can't be")));
    }
    let policy = policy_option(nodes);
    let mount = |noswap: bool| -> io::Result<()> {
        let extra = if noswap { ",noswap" } else { "" };
        let data = CString::new(format!("size={size},mode=700,nr_inodes=0,huge={huge}{extra}{policy}"))
            .map_err(|_| invalid("huge= has a zero byte"))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        Ok(rustix::mount::mount("codax", path, "tmpfs", flags, data.as_c_str())?)
    };
    if noswap {
        match mount(true) {
            Ok(()) => return Ok(true),
            Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
            Err(e) => return Err(e),
        }
    }
    mount(false).map(|()| false)
}

/// Where a mounted tmpfs has memory for new files from; files that are there keep to what they have.
pub fn prefer_nodes(path: &Path, nodes: &[u32]) -> io::Result<()> {
    let policy = if nodes.is_empty() { ",mpol=default".to_owned() } else { policy_option(nodes) };
    let data = CString::new(&policy[1..]).map_err(|_| invalid("mpol"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(rustix::mount::mount_remount(path, flags, data.as_c_str())?)
}

/// The option of tmpfs's (tmpfs(5)) by which new files prefer these nodes. They are never bound: a node that is full would have the kernel end
/// bystanders, which gives it nothing back.
fn policy_option(nodes: &[u32]) -> String {
    match nodes {
        [] => String::new(),
        [node] => format!(",mpol=prefer:{node}"),
        _ => {
            let nodes = nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            format!(",mpol=prefer (many):{nodes}")
        }
    }
}

/// What a mounted tmpfs is like, whoever mounted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TmpfsKind {
    /// Whether it may give huge pages.
    pub huge: bool,
    /// Whether its pages are never swapped.
    pub noswap: bool,
}

/// What the tmpfs is like that is mounted on a path, by `/proc/self/mountinfo`. `NotFound` if none is.
pub fn tmpfs_kind(path: &Path) -> io::Result<TmpfsKind> {
    let path = std::fs::canonicalize(path)?;
    let table = std::fs::read(Path::new("/proc/self/mountinfo"))?;
    // The last mount on a path covers those before it.
    let options = table.split(|b| *b == b'\n').rev().find_map(|line| options_of(line, &path));
    let options = options.ok_or(io::ErrorKind::NotFound)?;
    let has = |name: &str| options.split(',').any(|option| option == name);
    let huge = options.split(',').any(|o| o.strip_prefix("huge=").is_some_and(|mode| mode != "never"));
    Ok(TmpfsKind { huge, noswap: has("noswap") })
}

/// The filesystem's own options in a line of mountinfo (proc_pid_mountinfo(5)), if it is of this mount point: they are the last field; the mount
/// point is the fifth.
fn options_of(line: &[u8], path: &Path) -> Option<String> {
    let mut fields = line.split(|b| *b == b' ');
    let mount_point = unescaped(fields.nth(4)?);
    let options = fields.next_back()?;
    (mount_point == path.as_os_str().as_bytes()).then(|| String::from_utf8_lossy(options).into_owned())
}

/// Mount point and type of the filesystem, of a line of mountinfo: the type is the field after a lone `-`.
pub(crate) fn point_and_type(line: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut fields = line.split(|b| *b == b' ');
    let point = unescaped(fields.nth(4)?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some((point, kind))
}

/// What is mounted, as a device's path, of a line of mountinfo: the second field after a lone `-`.
pub(crate) fn source_of(line: &[u8]) -> Option<&[u8]> {
    line.split(|b| *b == b' ').skip_while(|field| *field != b"-").nth(2)
}

/// The directory of the filesystem that is mounted, and the filesystem's own options, of a line of mountinfo: the fourth field, and the last.
pub(crate) fn root_and_options(line: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut fields = line.split(|b| *b == b' ');
    let root = unescaped(fields.nth(3)?);
    Some((root, fields.next_back()?))
}

/// Device number of the filesystem, of a line of mountinfo: the third field, `MAJOR:MINOR`.
pub(crate) fn device_of(line: &[u8]) -> Option<u64> {
    let field = std::str::from_utf8(line.split(|b| *b == b' ').nth(2)?).ok()?;
    let (major, minor) = field.split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// The value of an extended attribute, up to a page of it; `None` where there is none of that name.
pub fn attribute(path: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 4096];
    match rustix::fs::getxattr(path, name, &mut value[..]) {
        Ok(len) => {
            value.truncate(len);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Bytes that a filesystem still has room for.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bfree.saturating_mul(stat.f_frsize))
}

/// Blanks and the like are written as a backslash and three octal digits there.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.first_chunk::<3>().filter(|_| first == b'\\');
        let code = code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    bytes
}

/// Changes the size of a mounted tmpfs. `InvalidInput` if it holds more.
pub fn resize_tmpfs(path: &Path, size: u64) -> io::Result<()> {
    let data = CString::new(format!("size={size}")).map_err(|_| invalid("size"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(rustix::mount::mount_remount(path, flags, data.as_c_str())?)
}

/// Unmounts: the path is free at once, the memory when nobody has a file there open or mapped any more.
pub fn umount(path: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?)
}

/// Free space of the filesystem of a path, in bytes.
pub fn fs_free(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read() {
        let line = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - fuse.codax codax rw,user_id=0";
        assert_eq!(point_and_type(line), Some((b"/mnt 2".to_vec(), &b"fuse.codax"[..])));
        assert_eq!(device_of(line), Some(rustix::fs::makedev(98, 0)));
        assert_eq!(source_of(line), Some(&b"codax"[..]));
        assert_eq!(root_and_options(line), Some((b"/mnt1".to_vec(), &b"rw,user_id=0"[..])));
        assert_eq!((point_and_type(b"36 35 98:0 / /mnt rw"), device_of(b"36 35 x")), (None, None));
    }
}
