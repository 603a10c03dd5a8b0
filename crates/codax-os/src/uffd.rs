//! userfaultfd: threads that touch a range wait until we say so.
#![allow(unsafe_code)]
//! Unsafe code: `ioctl` with the structures of `linux/userfaultfd.h`, whose sizes and numbers are proved below.
//! Registering and protecting a range makes accesses to it wait and changes no byte, so the functions are safe for
//! any address.

use crate::util::{check, to_u64, to_usize};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdRange {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Register {
    range: UffdRange,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct WriteProtect {
    range: UffdRange,
    mode: u64,
}

/// `struct uffd_msg`: event (1 byte, 7 reserved), then three words whose meaning the event says.
const MSG_BYTES: usize = 32;

/// An ioctl number: direction (1 the kernel reads, 2 it writes), size of the argument, type, command.
const fn number(direction: u64, size: usize, command: u64) -> u64 {
    direction << 30 | to_u64(size) << 16 | 0xAA << 8 | command
}

const UFFDIO_API: u64 = number(3, size_of::<Api>(), 0x3F);
const UFFDIO_REGISTER: u64 = number(3, size_of::<Register>(), 0x00);
const UFFDIO_UNREGISTER: u64 = number(2, size_of::<UffdRange>(), 0x01);
const UFFDIO_WAKE: u64 = number(2, size_of::<UffdRange>(), 0x02);
const UFFDIO_WRITEPROTECT: u64 = number(3, size_of::<WriteProtect>(), 0x06);
const USERFAULTFD_IOC_NEW: u64 = number(0, 0, 0);

// As the C preprocessor gives them, from linux/userfaultfd.h.
const _: () = assert!(size_of::<Api>() == 24 && size_of::<UffdRange>() == 16);
const _: () = assert!(size_of::<Register>() == 32 && size_of::<WriteProtect>() == 24);
const _: () = assert!(UFFDIO_API == 0xC018_AA3F && UFFDIO_REGISTER == 0xC020_AA00);
const _: () = assert!(UFFDIO_UNREGISTER == 0x8010_AA01 && UFFDIO_WAKE == 0x8010_AA02);
const _: () = assert!(UFFDIO_WRITEPROTECT == 0xC018_AA06 && USERFAULTFD_IOC_NEW == 0xAA00);

const UFFD_API: u64 = 0xAA;
const MODE_MISSING: u64 = 1;
const MODE_WP: u64 = 2;
const EVENT_PAGEFAULT: u8 = 0x12;
const EVENT_REMAP: u8 = 0x14;
const FAULT_WRITE: u64 = 1;
const FAULT_WP: u64 = 2;
const USER_MODE_ONLY: libc::c_int = 1;

/// What a live move can't do without: (bit, name).
const NEEDED: [(u64, &str); 4] = [
    (1 << 0, "PAGEFAULT_FLAG_WP"),
    (1 << 2, "EVENT_REMAP"),
    (1 << 12, "WP_HUGETLBFS_SHMEM"),
    (1 << 13, "WP_UNPOPULATED"),
];
const THREAD_ID: u64 = 1 << 8;

/// The device from which a userfaultfd that covers system calls can be made without privilege.
pub const DEVICE: &str = "/dev/userfaultfd";

/// A userfaultfd of this process. One thread reads events while others register, protect and wake.
#[derive(Debug)]
pub struct Uffd {
    fd: OwnedFd,
}

/// What [`Uffd::next_event`] read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A thread touched a held page, and waits.
    Fault {
        /// The page's address.
        addr: usize,
        /// The thread, or 0 if the kernel doesn't say.
        tid: u32,
        /// Whether it wants to write.
        write: bool,
        /// Whether it met a write protection; otherwise a placeholder.
        protected: bool,
    },
    /// A registered range was moved; who moved it goes on now that this is read.
    Remap {
        /// Where it was.
        from: usize,
        /// Where it is.
        to: usize,
        /// Its length in bytes.
        len: usize,
    },
    /// The other descriptor became readable.
    Stopped,
}

/// Opens [`DEVICE`]. Whoever holds it can make a userfaultfd for kernel-mode faults of its own memory; a daemon that
/// may open it hands it to clients that may not.
pub fn open_device() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// The names of features this kernel lacks for live moves; none if it can do them.
pub fn missing_features() -> io::Result<Vec<&'static str>> {
    let (fd, _) = create(None)?;
    Ok(lacking(available(&fd)?))
}

impl Uffd {
    /// A userfaultfd, and whether it covers faults of system calls (kernel mode) too: made from `device` if there is
    /// one, else from one's own right, else for user-mode faults only. `Unsupported` names what the kernel lacks.
    pub fn new(device: Option<BorrowedFd<'_>>) -> io::Result<(Self, bool)> {
        // A descriptor answers once, so features are asked for with one and set with another.
        let features = available(&create(device)?.0)?;
        let lacking = lacking(features);
        if !lacking.is_empty() {
            let names = lacking.join(", ");
            let line = format!("this kernel's userfaultfd lacks {names}; live moves need Linux 6.5 or newer");
            return Err(io::Error::new(io::ErrorKind::Unsupported, line));
        }
        let (fd, kernel_faults) = create(device)?;
        let wanted = NEEDED.iter().fold(features & THREAD_ID, |all, (bit, _)| all | bit);
        handshake(&fd, wanted)?;
        Ok((Self { fd }, kernel_faults))
    }

    /// Registers a range of writable shared mappings, so that it can be write-protected. `PermissionDenied` for
    /// read-only ones, `ResourceBusy` if another userfaultfd has it.
    pub fn register_wp(&self, addr: usize, len: usize) -> io::Result<()> {
        self.register(addr, len, MODE_WP)
    }

    /// Registers private memory, so that accesses to pages that are not there wait.
    pub fn register_missing(&self, addr: usize, len: usize) -> io::Result<()> {
        self.register(addr, len, MODE_MISSING)
    }

    fn register(&self, addr: usize, len: usize, mode: u64) -> io::Result<()> {
        let mut arg = Register { range: range(addr, len), mode, ioctls: 0 };
        // SAFETY: UFFDIO_REGISTER reads and writes a `struct uffdio_register` (size proved above), which `arg` is,
        // exclusively borrowed.
        unsafe { ioctl(&self.fd, UFFDIO_REGISTER, (&raw mut arg).cast()) }
    }

    /// Ends the registration of a range; parts that have none are left alone. Protection is lifted, and who waits
    /// there is woken.
    pub fn unregister(&self, addr: usize, len: usize) -> io::Result<()> {
        let mut arg = range(addr, len);
        // SAFETY: UFFDIO_UNREGISTER reads a `struct uffdio_range`, which `arg` is.
        unsafe { ioctl(&self.fd, UFFDIO_UNREGISTER, (&raw mut arg).cast()) }
    }

    /// Holds writes to a registered range, or lets them go on (and wakes who waits).
    pub fn write_protect(&self, addr: usize, len: usize, protect: bool) -> io::Result<()> {
        let mut arg = WriteProtect { range: range(addr, len), mode: u64::from(protect) };
        loop {
            // SAFETY: UFFDIO_WRITEPROTECT reads a `struct uffdio_writeprotect`, which `arg` is.
            match unsafe { ioctl(&self.fd, UFFDIO_WRITEPROTECT, (&raw mut arg).cast()) } {
                // Another thread is in `mremap`, until the reader has read its event.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                other => return other,
            }
        }
    }

    /// Wakes the threads that wait in a range; they try their access again.
    pub fn wake(&self, addr: usize, len: usize) -> io::Result<()> {
        let mut arg = range(addr, len);
        // SAFETY: UFFDIO_WAKE reads a `struct uffdio_range`, which `arg` is.
        unsafe { ioctl(&self.fd, UFFDIO_WAKE, (&raw mut arg).cast()) }
    }

    /// Waits for the next event, or until `stop` is readable, which comes first. A fault whose thread was woken
    /// before anybody read it is never seen.
    pub fn next_event(&self, stop: impl AsFd) -> io::Result<Event> {
        loop {
            let mut fds = [PollFd::new(&stop, PollFlags::IN), PollFd::new(&self.fd, PollFlags::IN)];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) if !fds[0].revents().is_empty() => return Ok(Event::Stopped),
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            let mut message = [0; MSG_BYTES];
            match rustix::io::read(&self.fd, &mut message) {
                Ok(MSG_BYTES) => {
                    if let Some(event) = decode(&message) {
                        return Ok(event);
                    }
                }
                Ok(n) => return Err(io::Error::other(format!("userfaultfd gave a message of {n} bytes"))),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

fn decode(message: &[u8; MSG_BYTES]) -> Option<Event> {
    let word = |i: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&message[i * 8..i * 8 + 8]);
        u64::from_le_bytes(bytes)
    };
    match message[0] {
        EVENT_PAGEFAULT => Some(Event::Fault {
            addr: to_usize(word(2)),
            tid: u32::try_from(word(3) & 0xFFFF_FFFF).unwrap_or(0),
            write: word(1) & FAULT_WRITE != 0,
            protected: word(1) & FAULT_WP != 0,
        }),
        EVENT_REMAP => {
            Some(Event::Remap { from: to_usize(word(1)), to: to_usize(word(2)), len: to_usize(word(3)) })
        }
        _ => None,
    }
}

fn range(addr: usize, len: usize) -> UffdRange {
    UffdRange { start: to_u64(addr), len: to_u64(len) }
}

fn lacking(features: u64) -> Vec<&'static str> {
    NEEDED.iter().filter(|(bit, _)| features & bit == 0).map(|(_, name)| *name).collect()
}

/// Asks a fresh descriptor, which is used up by it, which features there are.
fn available(fd: &OwnedFd) -> io::Result<u64> {
    handshake(fd, 0)
}

fn handshake(fd: &OwnedFd, features: u64) -> io::Result<u64> {
    let mut arg = Api { api: UFFD_API, features, ioctls: 0 };
    // SAFETY: UFFDIO_API reads and writes a `struct uffdio_api` (size proved above), which `arg` is, exclusively
    // borrowed.
    unsafe { ioctl(fd, UFFDIO_API, (&raw mut arg).cast())? };
    Ok(arg.features)
}

/// A fresh descriptor, non-blocking, and whether it may handle faults of the kernel.
fn create(device: Option<BorrowedFd<'_>>) -> io::Result<(OwnedFd, bool)> {
    if let Some(fd) = device.and_then(|device| create_from(device).ok()) {
        return Ok((fd, true));
    }
    if let Ok(fd) = create_by_call(0) {
        return Ok((fd, true));
    }
    if let Some(fd) = open_device().ok().and_then(|device| create_from(device.as_fd()).ok()) {
        return Ok((fd, true));
    }
    create_by_call(USER_MODE_ONLY).map(|fd| (fd, false))
}

fn create_from(device: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: USERFAULTFD_IOC_NEW takes flags by value and touches no memory; on a descriptor that is something else
    // it fails.
    let raw = check(unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW as _, flags) })?;
    // SAFETY: a success returns a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn create_by_call(extra: libc::c_int) -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | extra;
    // SAFETY: `userfaultfd` takes flags by value and touches no memory.
    let raw = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    let raw = check(libc::c_int::try_from(raw).unwrap_or(-1))?;
    // SAFETY: a success returns a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// # Safety
///
/// `arg` points to what `request` reads and writes.
unsafe fn ioctl(fd: &OwnedFd, request: u64, arg: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: the caller's contract; the descriptor is open as long as it is borrowed.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, arg) }).map(drop)
}
