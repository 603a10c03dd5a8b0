//! Futexes in memory that moves: finding the threads that sleep on the old object, and waking them.
//!
//! The kernel keys a process-shared futex by the object behind its address. A thread that went to sleep before the
//! object was switched waits where no later wake arrives, so after a switch each sleeper is woken through a mapping
//! of the old object; it looks at its word again and, if it must, sleeps on the new one.
//!
//! Not covered: priority-inheritance futexes, whose waiters the kernel itself queues for the owner.
#![allow(unsafe_code)]
//! Unsafe code: `futex` and `process_vm_readv` with addresses that the kernel checks.

use rustix::thread::futex::Flags;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

const SYS_FUTEX: u64 = libc::SYS_futex.unsigned_abs();
const SYS_FUTEX_WAITV: u64 = libc::SYS_futex_waitv.unsigned_abs();
/// One number on all machines; the libc crate has it for a few only.
const SYS_FUTEX_WAIT: u64 = 455;

const FUTEX_PRIVATE: u64 = 128;
/// CPU time after which a thread that was running at a switch has left the few instructions between looking its futex
/// up and queueing on it, in ns.
const PAST_LOOKUP_NS: u64 = 250_000;
/// Most futexes that one `futex_waitv` takes.
const WAITV_MAX: u64 = 128;

/// Sleeps while the word is `expected`, until woken or, after `timeout`, with `TimedOut`. `WouldBlock` if the word is
/// another. Shared between processes.
pub fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(rustix::event::Timespec::try_from).transpose();
    let timeout = timeout.map_err(|_| crate::util::invalid("a timeout is too long"))?;
    Ok(rustix::thread::futex::wait(word, Flags::empty(), expected, timeout.as_ref())?)
}

/// Wakes up to `count` sleepers, of all processes, on the word at an address, which may be any; returns how many.
pub fn wake(addr: usize, count: u32) -> io::Result<u32> {
    let count = libc::c_int::try_from(count).unwrap_or(libc::c_int::MAX);
    // SAFETY: FUTEX_WAKE uses the address as a key; the kernel neither reads nor writes there, and answers EFAULT or
    // EINVAL if nothing is mapped or it is not aligned.
    let woken = unsafe { libc::syscall(libc::SYS_futex, addr, libc::FUTEX_WAKE, count) };
    u32::try_from(woken).map_err(|_| io::Error::last_os_error())
}

/// A thread that sleeps on a shared futex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sleeper {
    /// The thread.
    pub tid: u32,
    /// The word's address.
    pub addr: usize,
}

/// This process's threads that sleep on a shared futex in one of the ranges (start, end), one entry for each word.
pub fn sleepers(ranges: &[(usize, usize)]) -> io::Result<Vec<Sleeper>> {
    let within = |addr: usize| ranges.iter().any(|(start, end)| (*start..*end).contains(&addr));
    let mut found = Vec::new();
    for tid in threads()? {
        if let Activity::Call(number, args) = activity(tid)? {
            let words = words_of(number, &args, within);
            found.extend(words.into_iter().filter(|a| within(*a)).map(|addr| Sleeper { tid, addr }));
        }
    }
    Ok(found)
}

/// Decides when no thread can go to sleep on an old object any more. Made at a switch; then, until it [is
/// settled](Self::settled), wake the [`sleepers`],
/// **and once more after it is**.
///
/// A thread that runs in the instant of the switch may be on its way into a futex call, with the old object looked up
/// already. It is off that way once it was seen blocked, or gone, or has used a quarter of a millisecond of CPU time since.
#[derive(Debug)]
pub struct Settler {
    /// Thread, and the CPU time it had used, in ns.
    pending: Vec<(u32, u64)>,
}

impl Settler {
    /// Notes the threads that run now, without those that never wait on a futex in moved memory.
    pub fn new(exclude: &[u32]) -> io::Result<Self> {
        let mut pending = Vec::new();
        for tid in threads()?.into_iter().filter(|tid| !exclude.contains(tid)) {
            if activity(tid)? == Activity::Running
                && let Some(used) = cpu_time_ns(tid)
            {
                pending.push((tid, used));
            }
        }
        Ok(Self { pending })
    }

    /// Looks again; whether all of them have left.
    pub fn settled(&mut self) -> io::Result<bool> {
        let mut pending = Vec::new();
        for (tid, used_before) in self.pending.drain(..) {
            if activity(tid)? == Activity::Running
                && let Some(used) = cpu_time_ns(tid)
                && used.saturating_sub(used_before) <= PAST_LOOKUP_NS
            {
                pending.push((tid, used_before));
            }
        }
        self.pending = pending;
        Ok(self.pending.is_empty())
    }

    /// The threads that have not left as of the last look.
    pub fn pending(&self) -> impl Iterator<Item = u32> + '_ {
        self.pending.iter().map(|(tid, _)| *tid)
    }
}

/// What a thread is doing, by `/proc/self/task/TID/syscall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    /// It runs, or could.
    Running,
    /// It sleeps in a system call with these arguments.
    Call(u64, [u64; 6]),
    /// It sleeps elsewhere in the kernel, or has ended.
    Elsewhere,
}

fn activity(tid: u32) -> io::Result<Activity> {
    let text = read_of_thread(tid, "syscall")?;
    Ok(text.map_or(Activity::Elsewhere, |text| parse_activity(&text)))
}

fn parse_activity(text: &str) -> Activity {
    let mut parts = text.split_whitespace();
    let number = match parts.next() {
        Some("running") => return Activity::Running,
        Some(number) => number.parse(),
        None => return Activity::Elsewhere,
    };
    // "-1" is a thread that sleeps outside a system call, in a page fault.
    let Ok(number) = number else { return Activity::Elsewhere };
    let mut args = [0; 6];
    for (arg, part) in args.iter_mut().zip(parts) {
        *arg = part.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    }
    Activity::Call(number, args)
}

/// The addresses of the shared futexes that a system call sleeps on. An array of them is not looked at if it lies
/// itself where we must not touch memory.
fn words_of(number: u64, args: &[u64; 6], untouchable: impl Fn(usize) -> bool) -> Vec<usize> {
    let [addr, op, _, flags, ..] = *args;
    let private = match number {
        SYS_FUTEX => op,
        SYS_FUTEX_WAIT => flags,
        SYS_FUTEX_WAITV => {
            let (start, count) = (crate::util::to_usize(addr), op.min(WAITV_MAX));
            let bytes = crate::util::to_usize(count) * size_of::<WaitV>();
            if untouchable(start) || untouchable(start + bytes) {
                return Vec::new();
            }
            return waitv_words(start, crate::util::to_usize(count));
        }
        _ => return Vec::new(),
    };
    if private & FUTEX_PRIVATE != 0 { Vec::new() } else { vec![crate::util::to_usize(addr)] }
}

/// `struct futex_waitv`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct WaitV {
    val: u64,
    uaddr: u64,
    flags: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<WaitV>() == 24);

/// Reads a sleeping thread's array through the kernel: it may be gone by now, and must not end us with a signal.
fn waitv_words(start: usize, count: usize) -> Vec<usize> {
    let mut array = vec![WaitV::default(); count];
    let bytes = count * size_of::<WaitV>();
    let local = libc::iovec { iov_base: array.as_mut_ptr().cast(), iov_len: bytes };
    let remote = libc::iovec { iov_base: std::ptr::with_exposed_provenance_mut(start), iov_len: bytes };
    // SAFETY: `local` is `array`'s memory, for which every bit pattern is a value; the kernel checks the other
    // address.
    let n = unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
    array.truncate(usize::try_from(n).unwrap_or(0) / size_of::<WaitV>());
    let shared = array.into_iter().filter(|w| u64::from(w.flags) & FUTEX_PRIVATE == 0);
    shared.map(|w| crate::util::to_usize(w.uaddr)).collect()
}

/// CPU time a thread of this process has used, in ns; `None` if it has ended. To the nanosecond, where `/proc`'s figures follow the tick.
fn cpu_time_ns(tid: u32) -> Option<u64> {
    let tid = i32::try_from(tid).ok()?;
    // clock_getcpuclockid(3) and pthread_getcpuclockid(3) make the same number of a process or thread id: all bits inverted and shifted, and
    // below them 2 for the scheduler's clock and 4 for that of a thread.
    let clock: libc::clockid_t = (!tid << 3) | 6;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that the kernel may write; a clock that is no thread's of this process is EINVAL.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    let (s, ns) = (u64::try_from(time.tv_sec).ok()?, u64::try_from(time.tv_nsec).ok()?);
    (result == 0).then(|| s * 1_000_000_000 + ns)
}

fn threads() -> io::Result<Vec<u32>> {
    let mut tids = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task")? {
        tids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(tids)
}

/// A file of a thread of this process, or `None` if the thread has ended.
fn read_of_thread(tid: u32, file: &str) -> io::Result<Option<String>> {
    match std::fs::read_to_string(Path::new("/proc/self/task").join(tid.to_string()).join(file)) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_does_is_read_from_its_line() {
        assert_eq!(parse_activity("running\n"), Activity::Running);
        assert_eq!(parse_activity("-1 0x7ffd0 0x7f00\n"), Activity::Elsewhere);
        assert_eq!(parse_activity(""), Activity::Elsewhere);
        let call = parse_activity("202 0x7f12 0x89 0x2 0x0 0x0 0xffffffff 0x7ffd0 0x7f00\n");
        assert_eq!(call, Activity::Call(202, [0x7f12, 0x89, 2, 0, 0, 0xffff_ffff]));
    }

    #[test]
    fn private_futexes_and_other_calls_are_no_sleepers() {
        let words = |number, args| words_of(number, &args, |_| false);
        assert_eq!(words(SYS_FUTEX, [64, 0x109, 0, 0, 0, 0]), [64]);
        assert_eq!(words(SYS_FUTEX, [64, 0x189, 0, 0, 0, 0]), []);
        assert_eq!(words(SYS_FUTEX_WAIT, [64, 0, 0, 2, 0, 0]), [64]);
        assert_eq!(words(SYS_FUTEX_WAIT, [64, 0, 0, 2 | FUTEX_PRIVATE, 0, 0]), []);
        assert_eq!(words(SYS_FUTEX + 1, [64, 0, 0, 0, 0, 0]), []);
    }

    #[test]
    fn an_array_of_futexes_is_read_through_the_kernel() {
        let word = |uaddr, flags| WaitV { val: 0, uaddr, flags, reserved: 0 };
        let array = [word(64, 2), word(128, 2 | 128), word(192, 2)];
        let start = array.as_ptr().expose_provenance();
        let args = [crate::util::to_u64(start), 3, 0, 0, 0, 0];
        assert_eq!(words_of(SYS_FUTEX_WAITV, &args, |_| false), [64, 192]);
        assert_eq!(words_of(SYS_FUTEX_WAITV, &args, |addr| addr == start), []);
        assert_eq!(words_of(SYS_FUTEX_WAITV, &[4096, 3, 0, 0, 0, 0], |_| false), []);
    }
}
