//! tmpfs mounts of pools.
#![forbid(unsafe_code)]

use crate::util::{field, invalid};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::io;
use std::path::Path;

/// `f_type` of tmpfs.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Bit of the capability that `mount` asks for (`CAP_SYS_ADMIN`).
const CAP_SYS_ADMIN: u32 = 21;

/// Whether a path lies on tmpfs.
pub fn is_tmpfs(path: &Path) -> io::Result<bool> {
    Ok(rustix::fs::statfs(path)?.f_type == TMPFS_MAGIC)
}

/// Whether a path is the root of a mount.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
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
/// (6.4). Returns whether it is without swap.
pub fn mount_tmpfs(path: &Path, size: u64, huge: &str, noswap: bool) -> io::Result<bool> {
    if huge.contains(',') || size == 0 {
        return Err(invalid(format!("a tmpfs of {size} bytes with huge={huge} can't be")));
    }
    let mount = |noswap: bool| -> io::Result<()> {
        let extra = if noswap { ",noswap" } else { "" };
        let data = CString::new(format!("size={size},mode=700,nr_inodes=0,huge={huge}{extra}"))
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
