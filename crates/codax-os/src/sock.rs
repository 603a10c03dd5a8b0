//! Unix sockets whose packets carry descriptors (`SOCK_SEQPACKET`), and who is at the other end.
#![allow(unsafe_code)]
//! Unsafe code: `getsockopt` for three options that rustix doesn't have, into buffers of the size that is passed
//! along.

use crate::util::{invalid, retry};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Most descriptors beside one packet.
pub const FDS_MAX: usize = 64;

/// Longest path that fits into a socket's address, in bytes.
const PATH_MAX: usize = 107;

/// Who is at the other end of a connection, as of its making.
#[derive(Debug)]
pub struct Peer {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process, which may be another by now; `pidfd` is not.
    pub pid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The process itself, if it still is.
    pub pidfd: Option<OwnedFd>,
}

/// Listens at a path, with permissions `mode`. A socket that lies there is replaced: whoever calls this holds the
/// store's lock.
pub fn listen(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    if let Ok(stat) = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
        && FileType::from_raw_mode(stat.st_mode) == FileType::Socket
    {
        rustix::fs::unlink(path)?;
    }
    let fd = socket()?;
    let (address, _dir) = address(path)?;
    rustix::net::bind(&fd, &address)?;
    // Nobody can connect before `listen`, so nobody can before the mode is right.
    rustix::fs::chmod(path, Mode::from_raw_mode(mode))?;
    rustix::net::listen(&fd, 1024)?;
    Ok(fd)
}

/// Waits for the next connection.
pub fn accept(listener: impl AsFd) -> io::Result<OwnedFd> {
    loop {
        match retry(|| rustix::net::accept_with(&listener, SocketFlags::CLOEXEC)) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            other => return other,
        }
    }
}

/// Connects to a listener. `NotFound` or `ConnectionRefused` if there is none.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let fd = socket()?;
    let (address, _dir) = address(path)?;
    retry(|| rustix::net::connect(&fd, &address))?;
    Ok(fd)
}

/// Two connected sockets.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one packet, with up to [`FDS_MAX`] descriptors. `BrokenPipe` if the other end is gone; `WouldBlock` if a
/// [timeout](set_send_timeout) ran out.
pub fn send(fd: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > FDS_MAX {
        return Err(invalid(format!("{} descriptors are more than a packet carries ({FDS_MAX})", fds.len())));
    }
    let sent = retry(|| {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        rustix::net::sendmsg(&fd, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })?;
    // A packet is sent whole or not at all.
    debug_assert_eq!(sent, bytes.len());
    Ok(())
}

/// Whether a packet, or the end of the connection, can be received without waiting.
pub fn readable(fd: impl AsFd) -> io::Result<bool> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut polled = [PollFd::new(&fd, PollFlags::IN)];
    Ok(retry(|| poll(&mut polled, Some(&now)))? > 0)
}

/// Whether the other side has ended the connection.
#[must_use]
pub fn has_ended(fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    let mut polled = [PollFd::new(&fd, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let ended = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    matches!(poll(&mut polled, Some(&now)), Ok(1..)) && polled[0].revents().intersects(ended)
}

/// Waits for one packet: its length, 0 at the end of the connection, and the descriptors beside it (closed on exec).
/// The bytes are the first of `buf`, which grows to `max` bytes and never shrinks. `InvalidData` for a packet of more
/// bytes or descriptors, which is lost; `WouldBlock` if a [timeout](set_recv_timeout) ran out.
pub fn recv(fd: impl AsFd, buf: &mut Vec<u8>, max: usize) -> io::Result<(usize, Vec<OwnedFd>)> {
    if buf.len() < max {
        buf.resize(max, 0);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = retry(|| {
        let mut parts = [IoSliceMut::new(&mut buf[..max])];
        rustix::net::recvmsg(&fd, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a packet is larger than the protocol allows",
        ));
    }
    Ok((message.bytes, fds))
}

/// Lets [`recv`] wait for `timeout` at most; for ever with `None`.
pub fn set_recv_timeout(fd: impl AsFd, timeout: Option<Duration>) -> io::Result<()> {
    Ok(sockopt::set_socket_timeout(fd, sockopt::Timeout::Recv, timeout)?)
}

/// Lets [`send`] wait for room for `timeout` at most; for ever with `None`.
pub fn set_send_timeout(fd: impl AsFd, timeout: Option<Duration>) -> io::Result<()> {
    Ok(sockopt::set_socket_timeout(fd, sockopt::Timeout::Send, timeout)?)
}

/// Ends both directions: whoever waits in [`recv`] at either end returns.
pub fn shutdown(fd: impl AsFd) -> io::Result<()> {
    match rustix::net::shutdown(fd, rustix::net::Shutdown::Both) {
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Who is at the other end.
pub fn peer(fd: impl AsFd) -> io::Result<Peer> {
    let fd = fd.as_fd();
    // Pid, user, group: `struct ucred`.
    let mut cred = [0u32; 3];
    get_option(fd, libc::SO_PEERCRED, &mut cred)?;
    let [pid, uid, gid] = cred;
    let pidfd = peer_pidfd(fd).or_else(|_| open_pidfd(pid)).ok();
    Ok(Peer { uid, gid, pid, groups: peer_groups(fd)?, pidfd })
}

fn peer_groups(fd: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0; 64];
    loop {
        match get_option(fd, libc::SO_PEERGROUPS, &mut groups) {
            Ok(count) => {
                groups.truncate(count);
                return Ok(groups);
            }
            // A process has 65,536 groups at most.
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) && groups.len() < 1 << 16 => {
                groups.resize(groups.len() * 4, 0);
            }
            Err(e) => return Err(e),
        }
    }
}

fn peer_pidfd(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut raw = [u32::MAX];
    get_option(fd, libc::SO_PEERPIDFD, &mut raw)?;
    let raw =
        libc::c_int::try_from(raw[0]).map_err(|_| io::Error::other("SO_PEERPIDFD gave no descriptor"))?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| invalid("the other end's process is not visible here"))?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// A socket option made of 32-bit words; returns how many the kernel wrote.
fn get_option(fd: BorrowedFd<'_>, name: libc::c_int, words: &mut [u32]) -> io::Result<usize> {
    let bytes = size_of_val(words);
    let mut len = libc::socklen_t::try_from(bytes).map_err(|_| invalid("a socket option is too large"))?;
    // SAFETY: the kernel writes at most `len` bytes, which is the size of `words`, where every bit pattern is a
    // value.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, words.as_mut_ptr().cast(), &raw mut len)
    };
    crate::util::check(result)?;
    Ok(usize::try_from(len).unwrap_or(0).min(bytes) / size_of::<u32>())
}

fn socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// The address of a path of any length: one that doesn't fit goes through a descriptor of its directory, which must
/// stay open while the address is used.
fn address(path: &Path) -> io::Result<(SocketAddrUnix, Option<OwnedFd>)> {
    if path.as_os_str().len() <= PATH_MAX {
        return Ok((SocketAddrUnix::new(path)?, None));
    }
    let name = path.file_name().ok_or_else(|| invalid("a socket's path has no name"))?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    Ok((SocketAddrUnix::new(&short)?, Some(dir)))
}
