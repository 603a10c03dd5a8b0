//! FUSE mounts: making, finding and ending them. What speaks over `/dev/fuse` is another crate's.
#![forbid(unsafe_code)]

use crate::mounts;
use crate::process::filesystem_of;
use crate::util::invalid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The device through which a filesystem is served.
pub const DEVICE: &str = "/dev/fuse";

/// The program that mounts for users who may not.
pub const HELPER: &str = "fusermount3";

/// How long the helper may take.
const HELPER_LIMIT: Duration = Duration::from_secs(10);

/// What a mount is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The source, as mount tables have it.
    pub source: &'a str,
    /// What comes after `fuse.` in the filesystem's type.
    pub subtype: &'a str,
    /// Whether other users than the one who mounts may enter.
    pub allow_other: bool,
    /// The largest read, in bytes.
    pub max_read: u32,
    /// What else it is to be like: words of mount(8) for flags of mount(2).
    pub words: &'a [&'a str],
}

/// The flag of mount(2) that a word of mount(8) stands for.
fn flag(word: &str) -> io::Result<MountFlags> {
    Ok(match word {
        "ro" => MountFlags::RDONLY,
        "noexec" => MountFlags::NOEXEC,
        "sync" => MountFlags::SYNCHRONOUS,
        "dirsync" => MountFlags::DIRSYNC,
        "noatime" => MountFlags::NOATIME,
        "nodiratime" => MountFlags::NODIRATIME,
        "strictatime" => MountFlags::STRICTATIME,
        "lazytime" => MountFlags::LAZYTIME,
        _ => return Err(invalid("a mount has no such option")),
    })
}

/// Mounts by mount(2): set-user-id and devices are not honoured, reads change no time, access is the kernel's to control. What is written to the
/// descriptor serves the mount.
pub fn mount(path: &Path, options: &Options<'_>) -> io::Result<OwnedFd> {
    let device = open_device()?;
    let (uid, gid) = (crate::process::uid(), crate::process::gid());
    let other = if options.allow_other { ",allow_other" } else { "" };
    let data = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},default_permissions,max_read={}{other}",
        device.as_raw_fd(),
        options.max_read
    );
    let data = CString::new(data).map_err(|_| invalid("an option has a zero byte"))?;
    let kind = format!("fuse.{}", options.subtype);
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    for word in options.words {
        flags |= flag(word)?;
    }
    rustix::mount::mount(options.source, path, kind.as_str(), flags, data.as_c_str())?;
    Ok(device)
}

/// Mounts by [`HELPER`], for users who may not mount. `NotFound` if it is not there; else what it says is the error's text.
pub fn mount_helped(path: &Path, options: &Options<'_>) -> io::Result<OwnedFd> {
    let (ours, its) = crate::sock::pair()?;
    let other = if options.allow_other { ",allow_other" } else { "" };
    let mut words = format!(
        "fsname={},subtype={},default_permissions,max_read={},nosuid,nodev,noatime{other}",
        options.source, options.subtype, options.max_read
    );
    for word in options.words {
        words += ",";
        words += word;
    }
    // It is told the number of a descriptor that it has from us. As standard input it has that without being inherited by
    // whatever else is started meanwhile.
    let mut helper = Command::new(HELPER);
    helper.args(["-o", &words, "--"]).arg(path).env("_FUSE_COMMFD", "0");
    helper.stdin(Stdio::from(its)).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = helper.spawn()?;
    // Our copy of its end went with the command.
    drop(helper);
    crate::sock::set_recv_timeout(&ours, Some(HELPER_LIMIT))?;
    let received = crate::sock::recv(&ours, &mut Vec::new(), 16);
    let output = child.wait_with_output()?;
    match received {
        Ok((_, fds)) if !fds.is_empty() => Ok(fds.into_iter().next().ok_or(io::ErrorKind::NotFound)?),
        Err(e) if output.status.success() => Err(e),
        _ => Err(io::Error::other(said(&output.stderr))),
    }
}

/// Whether [`HELPER`] is there to be called.
#[must_use]
pub fn helper_is_there() -> bool {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&dirs).any(|dir| dir.join(HELPER).is_file())
}

/// What a helper said, as one line.
fn said(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { format!("{HELPER} failed") } else { lines.join("; ") }
}

/// Opens [`DEVICE`].
pub fn open_device() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// Whether a mount on a path has lost whoever served it.
#[must_use]
pub fn is_dead(path: &Path) -> bool {
    // Whoever serves it must be asked: the kernel would answer from what it remembers.
    let asked = rustix::fs::statx(CWD, path, AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS);
    asked.err() == Some(Errno::NOTCONN)
}

/// Ends a mount. With `lazy` its path is free at once, and it goes when nobody uses it any more; without, `ResourceBusy` if somebody
/// does. Asks [`HELPER`] where this process may not.
pub fn umount(path: &Path, lazy: bool) -> io::Result<()> {
    let flags = if lazy { UnmountFlags::NOFOLLOW | UnmountFlags::DETACH } else { UnmountFlags::NOFOLLOW };
    match rustix::mount::unmount(path, flags) {
        Err(Errno::PERM) if !mounts::can_mount() => umount_helped(path, lazy),
        other => Ok(other?),
    }
}

fn umount_helped(path: &Path, lazy: bool) -> io::Result<()> {
    let mut helper = Command::new(HELPER);
    helper.arg("-u").args(lazy.then_some("-z")).arg("--").arg(path);
    let output = helper.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = said(&output.stderr);
    let kind =
        if text.contains("busy") { io::ErrorKind::ResourceBusy } else { io::ErrorKind::PermissionDenied };
    Err(io::Error::new(kind, text))
}

/// Whether the kernel has ended the connection that a descriptor of [`DEVICE`] serves: the filesystem is gone, or has been cut off by force.
pub fn is_cut(device: impl AsFd) -> io::Result<bool> {
    let mut polled = [PollFd::new(&device, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(polled[0].revents().contains(PollFlags::ERR))
}

/// The places where a filesystem of type `fuse.SUBTYPE` is mounted, as this process sees them.
pub fn mounted(subtype: &str) -> io::Result<Vec<PathBuf>> {
    Ok(points(subtype)?.into_iter().map(|(_, point)| point).collect())
}

/// The same with their device numbers, in the order of the mount table: of two at one place the last covers the others.
pub fn points(subtype: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    let kind = format!("fuse.{subtype}");
    let points = table.split(|b| *b == b'\n').filter_map(|line| {
        let (point, found) = mounts::point_and_type(line)?;
        let point = PathBuf::from(std::ffi::OsStr::from_bytes(&point));
        (found == kind.as_bytes()).then_some((mounts::device_of(line)?, point))
    });
    Ok(points.collect())
}

/// Frees all places where the filesystem with this device number is mounted, if it is of type `fuse.SUBTYPE` and, with `dead`, nobody serves it any more.
/// Who uses it goes on. Returns the places.
pub fn detach_all(subtype: &str, dev: u64, dead: bool) -> io::Result<Vec<PathBuf>> {
    let mut gone = Vec::new();
    for (_, point) in points(subtype)?.into_iter().rev().filter(|(on, _)| *on == dev) {
        // What is covered by something else can't be reached.
        if filesystem_of(&point).is_ok_and(|on| on == dev) && (!dead || is_dead(&point)) {
            umount(&point, true)?;
            gone.push(point);
        }
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_helper_says_is_one_line() {
        assert_eq!(said(b"fusermount3: no\n  really \n"), "fusermount3: no; really");
        assert_eq!(said(b"\n"), "fusermount3 failed");
    }

    #[test]
    fn a_plain_directory_is_no_dead_mount() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_dead(dir.path()) && !is_dead(&dir.path().join("missing")));
        assert!(mounted("nobody-has-this").unwrap().is_empty());
    }
}
