//! Processes: who holds an object, and what this one may do.
#![allow(unsafe_code)]
//! Unsafe code: `pthread_sigmask` with a set of our own.

use crate::util::{field_kib, to_u64};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::process::{Pid, PidfdFlags, Resource, Signal};
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Bit of the capability to lock memory beyond the limit (`CAP_IPC_LOCK`).
const CAP_IPC_LOCK: u32 = 14;

/// A process that holds an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub command: String,
    /// Device number of the object's filesystem.
    pub dev: u64,
    /// The object's inode number.
    pub ino: u64,
    /// How it holds it.
    pub what: Hold,
}

/// How a process holds an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It maps a part.
    Mapped {
        /// Offset in the object, in bytes.
        off: u64,
        /// Length in bytes.
        len: u64,
        /// Whether it may write.
        writable: bool,
    },
    /// It has it open.
    Descriptor,
}

/// Who holds the objects (device, inode), by one pass over `/proc`. This process, those that end meanwhile and those
/// we may not look into are left out: an empty answer proves nothing, a [lease](crate::object::try_write_lease) does.
pub fn holders(objects: &HashSet<(u64, u64)>) -> io::Result<Vec<Held>> {
    if objects.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = |id| objects.contains(&id);
    holders_where(|_, _, id| wanted(id), |stat| wanted(identity_of(stat)))
}

/// Who holds anything on the filesystem with this device number; as [`holders`].
pub fn holders_on(dev: u64) -> io::Result<Vec<Held>> {
    holders_where(|_, _, (on, _)| on == dev, |stat| identity_of(stat).0 == dev)
}

/// Who holds a device, by the number that its nodes have (`st_rdev`): whatever the node that they opened it by. Its identity in the result is that
/// node's. As [`holders`]; who maps it and has closed it is seen by those who may look at their mappings (CAP_CHECKPOINT_RESTORE), or if it was opened by
/// the node `of` (device, inode).
pub fn holders_of_device(number: u64, of: (u64, u64)) -> io::Result<Vec<Held>> {
    let is_it = |stat: &Statx| device_number(stat) == Some(number);
    // A list of mappings names the node alone, so shared ones are looked at, which are few.
    let shows = |pid, line: &[u8], id| id == of || mapped_file(pid, line).is_some_and(|stat| is_it(&stat));
    holders_where(shows, is_it)
}

/// What a shared mapping is of, as a line of `/proc/PID/maps` has it.
fn mapped_file(pid: u32, line: &[u8]) -> Option<Statx> {
    let mut words = line.split(|b| *b == b' ');
    let (start, end) = range_of(words.next()?)?;
    if words.next()?.get(3) != Some(&b's') {
        return None;
    }
    stat_of(CWD, format!("/proc/{pid}/map_files/{start:x}-{end:x}"))
}

/// Who maps what `maps` says of, given the process, the line of its mappings and the identity there; or has open what `opens` says of.
fn holders_where(
    maps: impl Fn(u32, &[u8], (u64, u64)) -> bool,
    opens: impl Fn(&Statx) -> bool,
) -> io::Result<Vec<Held>> {
    let mut found = Vec::new();
    let own = std::process::id();
    let mut text = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == own {
            continue;
        }
        text.clear();
        let read = File::open(format!("/proc/{pid}/maps")).and_then(|mut f| f.read_to_end(&mut text));
        // A kernel thread and a process that has ended have no memory, and no files worth looking at.
        if read.is_err() || text.is_empty() {
            continue;
        }
        let before = found.len();
        let hold = |(dev, ino), what| Held { pid, command: String::new(), dev, ino, what };
        let lines = text.split(|b| *b == b'\n').filter_map(|line| Some((line, mapping_of(line)?)));
        found.extend(
            lines.filter(|(line, (id, _))| maps(pid, line, *id)).map(|(_, (id, what))| hold(id, what)),
        );
        let open = stats_of_descriptors(pid).unwrap_or_default();
        found.extend(
            open.iter().filter(|stat| opens(stat)).map(|stat| hold(identity_of(stat), Hold::Descriptor)),
        );
        if found.len() > before {
            let command = command(pid);
            found[before..].iter_mut().for_each(|held| held.command.clone_from(&command));
        }
    }
    Ok(found)
}

/// What a line of `/proc/PID/maps` says: `START-END PERMS OFFSET MAJOR:MINOR INODE PATH`, numbers but the inode in
/// hexadecimal.
fn mapping_of(line: &[u8]) -> Option<((u64, u64), Hold)> {
    let mut parts = line.splitn(6, |b| *b == b' ').skip(1);
    let (perms, off, _, ino) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if ino == b"0" {
        return None;
    }
    let (range, dev) = area_of(line)?;
    let ino = std::str::from_utf8(ino).ok()?.parse().ok()?;
    let writable = perms.get(1) == Some(&b'w');
    let len = range.end.checked_sub(range.start)?;
    Some(((dev, ino), Hold::Mapped { off: hex(off)?, len, writable }))
}

/// The addresses that a process has mapped, and what [`area_of`] says of each.
pub(crate) fn areas(pid: u32) -> io::Result<Vec<(Range<u64>, u64)>> {
    let maps = std::fs::read(format!("/proc/{pid}/maps"))?;
    Ok(maps.split(|b| *b == b'\n').filter_map(area_of).collect())
}

/// The addresses in such a line, and the device number of the filesystem whose file is mapped there, 0 for memory of the process's own.
pub(crate) fn area_of(line: &[u8]) -> Option<(Range<u64>, u64)> {
    let mut parts = line.splitn(6, |b| *b == b' ');
    let (range, dev) = (parts.next()?, parts.nth(2)?);
    let (start, end) = range_of(range)?;
    let (major, minor) = hex_pair(dev, b':')?;
    Some((start..end, rustix::fs::makedev(u32::try_from(major).ok()?, u32::try_from(minor).ok()?)))
}

/// Beginning and end of a mapping, `START-END`.
fn range_of(text: &[u8]) -> Option<(u64, u64)> {
    hex_pair(text, b'-')
}

fn hex(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn hex_pair(text: &[u8], between: u8) -> Option<(u64, u64)> {
    let place = text.iter().position(|b| *b == between)?;
    Some((hex(&text[..place])?, hex(&text[place + 1..])?))
}

/// The files that a process has open.
fn descriptors_of(pid: u32) -> io::Result<Vec<(u64, u64)>> {
    Ok(stats_of_descriptors(pid)?.iter().map(identity_of).collect())
}

/// What the files are that a process has open.
fn stats_of_descriptors(pid: u32) -> io::Result<Vec<Statx>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, format!("/proc/{pid}/fd"), flags, Mode::empty())?;
    let mut found = Vec::new();
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        if entry.file_name().to_bytes().starts_with(b".") {
            continue;
        }
        found.extend(stat_of(&dir, entry.file_name()));
    }
    Ok(found)
}

/// Device and inode of what a link in `/proc` leads to.
fn identity(dir: impl AsFd, name: impl rustix::path::Arg) -> Option<(u64, u64)> {
    stat_of(dir, name).as_ref().map(identity_of)
}

/// What a link in `/proc` leads to: the file itself, whatever its path is by now. Never asks whoever
/// serves its filesystem: that may be this process, or nobody any more.
fn stat_of(dir: impl AsFd, name: impl rustix::path::Arg) -> Option<Statx> {
    let wanted = StatxFlags::INO | StatxFlags::TYPE;
    rustix::fs::statx(dir, name, AtFlags::STATX_DONT_SYNC, wanted).ok()
}

fn identity_of(stat: &Statx) -> (u64, u64) {
    (rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino)
}

/// The number of the character device that it is.
fn device_number(stat: &Statx) -> Option<u64> {
    let is_device = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::CharacterDevice;
    is_device.then(|| rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor))
}

/// Device number of the filesystem that a path is on, or that is mounted there, as in `/proc/PID/maps`. Asks nobody who serves it.
pub fn filesystem_of(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE)?;
    Ok(rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor))
}

/// Processes that use a filesystem, by its device number: that have a file of it open or mapped, or are in a directory of it. Those we may
/// not look into are left out.
pub fn users_of(dev: u64) -> io::Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let links = ["cwd", "root", "exe"].into_iter();
        let here = |(of, _)| of == dev;
        let used = links.filter_map(|link| identity(CWD, format!("/proc/{pid}/{link}"))).any(here)
            || descriptors_of(pid).unwrap_or_default().into_iter().any(here)
            || std::fs::read(format!("/proc/{pid}/maps"))
                .is_ok_and(|text| text.split(|b| *b == b'\n').filter_map(mapping_of).any(|(id, _)| here(id)));
        if used {
            found.push((pid, command(pid)));
        }
    }
    Ok(found)
}

/// A process of each other mount namespace in which a filesystem is mounted, by its device number. Those we may not look into are left out.
pub fn namespaces_with(dev: u64) -> io::Result<Vec<(u32, String)>> {
    let space = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let mut seen: HashSet<_> = space("self").into_iter().collect();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().filter(|name| name.parse::<u32>().is_ok()) else { continue };
        let Some(its) = space(pid) else { continue };
        if !seen.insert(its) {
            continue;
        }
        let table = std::fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        if table.split(|b| *b == b'\n').filter_map(crate::mounts::device_of).any(|of| of == dev)
            && let Ok(pid) = pid.parse()
        {
            found.push((pid, command(pid)));
        }
    }
    Ok(found)
}

/// A process's name, as far as it says; `?` if it has ended.
#[must_use]
pub fn command(pid: u32) -> String {
    match std::fs::read(format!("/proc/{pid}/comm")) {
        Ok(name) => String::from_utf8_lossy(name.trim_ascii_end()).into_owned(),
        Err(_) => "?".to_owned(),
    }
}

/// Bytes of a process's memory that a device holds pinned (`VmPin`).
pub fn vm_pin_bytes(pid: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(field_kib(&status, "VmPin").unwrap_or(0))
}

/// Number of mappings a process has, to be compared with `vm.max_map_count`.
pub fn map_count(pid: u32) -> io::Result<u64> {
    let text = std::fs::read(format!("/proc/{pid}/maps"))?;
    Ok(to_u64(text.split(|b| *b == b'\n').filter(|line| !line.is_empty()).count()))
}

/// A descriptor of a process, which stays that of this process whatever becomes of its id. `NotFound` (ESRCH) if it
/// has ended.
pub fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| crate::util::invalid("0 is no process id"))?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Ends a process with SIGKILL. Nothing happens if it has ended.
pub fn kill(pidfd: impl AsFd) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Bytes this process may lock in memory; `None` if as much as it likes.
#[must_use]
pub fn memlock_limit() -> Option<u64> {
    if crate::mounts::has_capability(CAP_IPC_LOCK) {
        return None;
    }
    rustix::process::getrlimit(Resource::Memlock).current
}

/// Bytes of swap space of the machine.
pub fn swap_total() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    Ok(field_kib(&text, "SwapTotal").unwrap_or(0))
}

/// Sets the mask of permissions that new files don't get, for the whole process; returns the one before.
pub fn umask(mask: u32) -> u32 {
    rustix::process::umask(Mode::from_raw_mode(mask)).as_raw_mode()
}

/// Blocks all signals in the calling thread, so that handlers run in others.
pub fn block_signals() -> io::Result<()> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigfillset` initialises the set it is given, and `pthread_sigmask` reads it; it asks for no old set.
    let errno = unsafe {
        libc::sigfillset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut())
    };
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// `struct sched_attr` of sched_setattr(2), in its first version.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const _: () = assert!(size_of::<SchedAttr>() == 48);

/// The shortest slice that the kernel takes, in ns.
const SLICE_NS: u64 = 100_000;

/// `SCHED_FLAG_RESET_ON_FORK`: who is started by the thread has usual slices, and no raised nice value.
const RESET_ON_FORK: u64 = 1;

/// Lets the calling thread run soon when it wakes: for threads that others wait for and that run briefly.
///
/// It gets short slices of CPU time (Linux 6.12 and later, `sched_runtime` of a normal thread in sched_setattr(2)), and the highest nice
/// value where the process may raise it (CAP_SYS_NICE, RLIMIT_NICE). Without the latter a thread that has just used more than its share waits for the
/// next timer tick, up to 4 ms with the usual 250 Hz. Threads that it starts have neither.
pub fn run_soon() -> io::Result<()> {
    // 0 is the calling thread.
    let niced = rustix::process::setpriority_process(None, -20);
    short_slices()?;
    Ok(niced?)
}

/// Short slices for the calling thread, which gets no more CPU time by them.
fn short_slices() -> io::Result<()> {
    let mut attr = SchedAttr::default();
    let size = 48u32;
    // SAFETY: `attr` is 48 bytes that the kernel may write, as `size` says; 0 is the calling thread.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0) };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    if attr.policy != 0 {
        // Somebody has put it under another policy than the normal one: they know better.
        return Ok(());
    }
    attr.size = size;
    attr.runtime = SLICE_NS;
    attr.flags |= RESET_ON_FORK;
    // SAFETY: as above; the kernel reads it.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Stops this process (SIGSTOP), beginning with the calling thread: it goes no further before somebody continues it.
pub fn stop() -> io::Result<()> {
    // SAFETY: raise(3) sends a signal to the calling thread and touches no memory.
    if unsafe { libc::raise(libc::SIGSTOP) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Effective user of this process.
#[must_use]
pub fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Effective group of this process.
#[must_use]
pub fn gid() -> u32 {
    rustix::process::getegid().as_raw()
}

/// The calling thread.
#[must_use]
pub fn thread_id() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_is_read() {
        let line = b"7f0000000000-7f0000200000 rw-s 00400000 fc:1a 1234   /a file with spaces";
        let what = Hold::Mapped { off: 4 << 20, len: 2 << 20, writable: true };
        assert_eq!(mapping_of(line), Some(((rustix::fs::makedev(0xfc, 0x1a), 1234), what)));
        assert_eq!(mapping_of(b"7f00-7f10 r--p 00000000 00:00 0"), None);
        for garbage in [&b""[..], b"x", b"1-2 r 3 4 5 6", b"2-1 r--p 0 0:1 5 x"] {
            assert_eq!(mapping_of(garbage), None);
        }
    }
}
