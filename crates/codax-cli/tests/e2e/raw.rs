//! Clients that need more than the library's safe interface: forks, system calls into a mapping, the system's own locks in moved memory.
#![allow(unsafe_code)]
//! Unsafe code: `fork` and its likes, slices of mappings, and process-shared locks of the C library inside a mapping. Each use says why it is sound; none
//! of it is used by a test directly, only by processes of their own.

use crate::client::{STRIDE, say, serve};
use crate::rig::{pattern, until};
use codax::{Access, ErrorKind, Mapping, OpenOptions, Store};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Whether a part of a file can be mapped, shared; it is unmapped at once.
///
/// Where the kernel chooses: a mapping over something, as `codax_os` makes them, leaves a gap when a filesystem refuses it, and that is anybody's.
pub fn can_map(fd: &impl std::os::fd::AsRawFd, len: usize, write: bool) -> std::io::Result<()> {
    let access = if write { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
    // SAFETY: a new mapping where nothing is; nobody uses it before it goes again.
    let mapped =
        unsafe { libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
    if mapped == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the mapping just made, of this length.
    unsafe { libc::munmap(mapped, len) };
    Ok(())
}

fn map(store: &Store, path: &str) -> (codax::File, Mapping) {
    let file = OpenOptions::new().read(true).write(true).open(store, path).expect("the file is there");
    let mapping = file.map(.., Access::ReadWrite).expect("mapped");
    (file, mapping)
}

/// From `linux/mempolicy.h`.
const MPOL_BIND: libc::c_int = 2;
const MPOL_MF_MOVE: libc::c_int = 1 << 1;

/// Binds a file to a NUMA node behind the store's back when told to (`bind`), with all its pages; `get OFFSET` otherwise.
pub fn mbind(store: &Store, path: &str, node: u64) {
    let (_file, mapping) = map(store, path);
    let memory = mapping.memory();
    serve(|line| match line[0] {
        "bind" => {
            // Only what it has touched is moved.
            (0..memory.len()).step_by(4096).for_each(|at| assert!(memory.load_u64(at) < u64::MAX));
            let nodes: libc::c_ulong = 1 << node;
            // SAFETY: the range is the mapping's, which stays where it is with every byte; the kernel reads one word of nodes.
            let done = unsafe {
                let bytes = memory.as_slice();
                let (at, len) = (bytes.as_ptr(), bytes.len());
                libc::syscall(libc::SYS_mbind, at, len, MPOL_BIND, &raw const nodes, 64, MPOL_MF_MOVE)
            };
            if done == 0 { "bound".to_owned() } else { std::io::Error::last_os_error().to_string() }
        }
        _ => memory.load_u64(line[1].parse().expect("an offset")).to_string(),
    });
}

/// Forks when told to (`fork`), and answers with the child's number; the child says what it found, and sleeps until `reap`. `get` and `set` use the first word.
pub fn fork(store: &Store, path: &str) {
    let (file, mapping) = map(store, path);
    let mut forked = None;
    serve(|line| match line[0] {
        "fork" => {
            // SAFETY: the child uses its own copy of this process; what other threads held at the fork (the library's two sleep in system calls, the
            // others of the test harness wait for this one) it doesn't wait for, except the allocator, which glibc keeps usable.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                in_fork(store, &file, &mapping);
            }
            assert!(pid > 0, "fork");
            forked = Some(pid);
            pid.to_string()
        }
        "reap" => {
            let pid = forked.take().expect("forked");
            let mut status = 0;
            // SAFETY: ends and waits for our own child, whose number can't be another's before that; the status goes to a variable of ours.
            let waited =
                unsafe { (libc::kill(pid, libc::SIGKILL), libc::waitpid(pid, &raw mut status, 0)).1 };
            (waited == pid).to_string()
        }
        "get" => mapping.memory().load_u64(0).to_string(),
        _ => {
            mapping.memory().atomic_u64(0).fetch_add(1, Ordering::SeqCst);
            "done".to_owned()
        }
    });
}

fn in_fork(store: &Store, file: &codax::File, mapping: &Mapping) -> ! {
    let kinds = [
        file.len().map_err(|e| e.kind).err(),
        store.stat("/f").map_err(|e| e.kind).err(),
        file.map(.., Access::ReadOnly).map_err(|e| e.kind).err(),
        mapping.pin().map_err(|e| e.kind).err(),
    ];
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let base = format!("{:x}-", mapping.as_ptr().addr());
    let inherited = maps.lines().any(|line| line.starts_with(&base));
    let anew = Store::connect(store.dir()).and_then(|anew| anew.stat("/f")).is_ok();
    let refused = kinds.iter().all(|kind| *kind == Some(ErrorKind::Invalid));
    say(&format!("child: refused={refused} inherited={inherited} anew={anew}"));
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}

/// Reads a file of this machine into the mapping with one system call, writes it out of it with another, and compares, all the time. Any line is answered with how
/// often.
pub fn pread(store: &Store, path: &str, beside: &str) {
    let (_file, mapping) = map(store, path);
    let len = mapping.len();
    let open = |name: &str| {
        let path = std::path::Path::new(beside).join(name);
        std::fs::File::options().read(true).write(true).create(true).truncate(true).open(path).expect("ours")
    };
    let (source, target) = (open("source"), open("target"));
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let round = rounds.load(Ordering::Relaxed);
                let bytes = pattern(len as u64, round);
                source.write_all_at(&bytes, 0).expect("room");
                // SAFETY: nobody else has the file open, so until it ends only this call touches the bytes.
                let slice = unsafe { mapping.memory().as_mut_slice() };
                let into = source.read_exact_at(slice, 0);
                assert!(into.is_ok(), "a read into a mapping: {into:?}");
                // SAFETY: as above; the exclusive slice is not used any more.
                let out = target.write_all_at(unsafe { mapping.memory().as_slice() }, 0);
                assert!(out.is_ok(), "a write out of a mapping: {out:?}");
                let mut copied = vec![0; len];
                target.read_exact_at(&mut copied, 0).expect("written");
                assert!(copied == bytes, "round {round}: other bytes came back");
                rounds.store(round + 1, Ordering::Relaxed);
            }
        });
        serve(|_| rounds.load(Ordering::Relaxed).to_string());
        stop.store(true, Ordering::Relaxed);
    });
}

/// Pins a mapping, reads `source` into it past the page cache, and says `read`; after the next line it unpins.
pub fn direct(store: &Store, path: &str, source: &str) {
    let (_file, mapping) = map(store, path);
    let file = std::fs::File::options().read(true).custom_flags(libc::O_DIRECT).open(source);
    let Ok(file) = file else { return say("no O_DIRECT") };
    {
        let address = mapping.memory();
        let pin = mapping.pin().expect("pinned");
        // SAFETY: nobody else touches the file's bytes while the slice is there; the test waits for what is said below. The slice is made from the view, not
        // from the mapping, whose pin is alive: both name the same memory, and only the slice is used for access.
        let slice = unsafe { std::slice::from_raw_parts_mut(address.as_ptr(), address.len()) };
        if let Err(e) = file.read_exact_at(slice, 0) {
            return say(&format!("no O_DIRECT: {e}"));
        }
        say("read");
        let _ = std::io::stdin().lines().next();
        drop(pin);
    }
    say("unpinned");
    // SAFETY: only read from here on.
    let same = *unsafe { mapping.memory().as_mut_slice() } == std::fs::read(source).expect("there")[..];
    say(&format!("same={same}"));
    let _ = std::io::stdin().lines().next();
}

/// What processes share in the moved memory: at page 0 a mutex, at page 1 a condition variable, and further on what they guard.
struct Shared<'a> {
    mutex: *mut libc::pthread_mutex_t,
    condvar: *mut libc::pthread_cond_t,
    /// Guarded by the mutex: whose turn it is, and two counters that must always be equal.
    turn: &'a AtomicU64,
    first: &'a AtomicU64,
    second: &'a AtomicU64,
}

const CONDVAR_AT: usize = 4096;
const DATA_AT: usize = 3 << 20;

impl<'a> Shared<'a> {
    fn new(mapping: &'a Mapping) -> Self {
        let memory = mapping.memory();
        assert!(memory.len() > DATA_AT + 64);
        let base = memory.as_ptr();
        Self {
            mutex: base.cast(),
            // SAFETY: within the mapping, whose length was looked at.
            condvar: unsafe { base.add(CONDVAR_AT) }.cast(),
            turn: memory.atomic_u64(DATA_AT),
            first: memory.atomic_u64(2 * CONDVAR_AT),
            second: memory.atomic_u64(DATA_AT + 8),
        }
    }

    /// For one process, before the others.
    fn init(&self) {
        // SAFETY: both are in memory of the mapping's, aligned to a page, and no one else uses them yet; the attributes live until they have been used.
        unsafe {
            let mut mutex: libc::pthread_mutexattr_t = std::mem::zeroed();
            let mut condvar: libc::pthread_condattr_t = std::mem::zeroed();
            let set = [
                libc::pthread_mutexattr_init(&raw mut mutex),
                libc::pthread_mutexattr_setpshared(&raw mut mutex, libc::PTHREAD_PROCESS_SHARED),
                libc::pthread_mutex_init(self.mutex, &raw const mutex),
                libc::pthread_condattr_init(&raw mut condvar),
                libc::pthread_condattr_setpshared(&raw mut condvar, libc::PTHREAD_PROCESS_SHARED),
                libc::pthread_cond_init(self.condvar, &raw const condvar),
            ];
            assert_eq!(set, [0; 6]);
        }
    }

    fn lock(&self) {
        // SAFETY: initialised before this process was told of it, and never destroyed while it is mapped.
        assert_eq!(unsafe { libc::pthread_mutex_lock(self.mutex) }, 0);
    }

    fn unlock(&self) {
        // SAFETY: as above; this thread holds it.
        assert_eq!(unsafe { libc::pthread_mutex_unlock(self.mutex) }, 0);
    }

    fn wait(&self) {
        // SAFETY: as above; this thread holds the mutex.
        assert_eq!(unsafe { libc::pthread_cond_wait(self.condvar, self.mutex) }, 0);
    }

    fn wake_all(&self) {
        // SAFETY: as above.
        assert_eq!(unsafe { libc::pthread_cond_broadcast(self.condvar) }, 0);
    }
}

// SAFETY: the locks are made for use by several threads and processes; the rest is atomic.
unsafe impl Sync for Shared<'_> {}

/// Takes turns with the other players by a mutex and a condition variable in the file: `me` of `players`. Any line is answered with the turns so far; `stop` says that
/// no more turns begin anywhere.
pub fn turns(store: &Store, path: &str, me: u64, players: u64) {
    const OVER: u64 = u64::MAX;
    let (_file, mapping) = map(store, path);
    let shared = Shared::new(&mapping);
    if me == 0 {
        shared.init();
    }
    let played = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let player = scope.spawn(|| {
            loop {
                shared.lock();
                loop {
                    let turn = shared.turn.load(Ordering::Relaxed);
                    if turn == OVER || turn % players == me {
                        break;
                    }
                    shared.wait();
                }
                let turn = shared.turn.load(Ordering::Relaxed);
                if turn != OVER {
                    let (first, second) = (
                        shared.first.fetch_add(1, Ordering::Relaxed),
                        shared.second.fetch_add(1, Ordering::Relaxed),
                    );
                    assert_eq!(first, second, "two were in at once");
                    shared.turn.store(turn + 1, Ordering::Relaxed);
                    played.fetch_add(1, Ordering::Relaxed);
                }
                shared.wake_all();
                shared.unlock();
                if turn == OVER {
                    return;
                }
            }
        });
        serve(|line| {
            if line[0] == "stop" {
                shared.lock();
                shared.turn.store(OVER, Ordering::Relaxed);
                shared.wake_all();
                shared.unlock();
            }
            if line[0] == "over" {
                until("the player's end", || player.is_finished().then_some(()));
            }
            played.load(Ordering::Relaxed).to_string()
        });
    });
}

/// A shared mapping of a whole file, as any program makes one.
struct Mapped {
    base: *mut u8,
    len: usize,
}

// SAFETY: it is used by atomic operations only.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new(path: &str) -> Self {
        let file = std::fs::File::options().read(true).write(true).open(path).expect("the file is there");
        let len = usize::try_from(file.metadata().expect("there").len()).expect("small");
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        // SAFETY: a new mapping where nothing is.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, fd, 0) };
        assert_ne!(base, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Self { base: base.cast(), len }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.len);
        // SAFETY: within the mapping, which lasts as long as the process, and aligned.
        unsafe { AtomicU64::from_ptr(self.base.add(at).cast()) }
    }

    /// Counts in the words at `column` of all strides, by load and store: a store that is lost shows at the next round.
    fn count(&self, column: usize, round: u64) {
        for at in (0..self.len - STRIDE).step_by(STRIDE) {
            let word = self.word(at + column);
            let found = word.load(Ordering::Relaxed);
            assert_eq!(found, round, "column {column} of stride {at}");
            word.store(round + 1, Ordering::Relaxed);
        }
    }

    /// A futex (futex(2)) of all processes, at the begin of the last stride; a stranger at `column` has one of his own.
    fn futex(&self, column: usize, operation: libc::c_int) -> libc::c_long {
        let word = self.word(self.len - STRIDE + column).as_ptr();
        // SAFETY: a word of the mapping; the time is none.
        unsafe {
            libc::syscall(libc::SYS_futex, word, operation, i32::from(operation == libc::FUTEX_WAKE), 0)
        }
    }
}

/// A program that has a file mapped and doesn't know of codax: a thread and a forked child count in it, another thread sleeps on a futex in it. `keep` puts
/// the first pages into a pipe, which holds them where they are, until `release`; `wake` answers how many it woke; else it answers how many rounds both have
/// counted.
pub fn stranger(path: &str, column: u64) {
    let column = usize::try_from(column).expect("small");
    let mapped = Mapped::new(path);
    let parent = std::process::id();
    // SAFETY: the child does nothing but atomic operations, sleeps, and ends with its parent.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: numbers only.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        let mut round = 0;
        while std::os::unix::process::parent_id() == parent {
            mapped.count(column + 8, round);
            round += 1;
            // SAFETY: as above.
            unsafe { libc::usleep(500) };
        }
        // SAFETY: ends this process, and nothing of its parent's.
        unsafe { libc::_exit(0) };
    }
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let asleep = AtomicBool::new(false);
    let mut kept = None;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                mapped.count(column, rounds.load(Ordering::Relaxed));
                rounds.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        });
        let sleeper = scope.spawn(|| {
            asleep.store(true, Ordering::Relaxed);
            mapped.futex(column, libc::FUTEX_WAIT)
        });
        until("the sleeper's sleep", || asleep.load(Ordering::Relaxed).then_some(()));
        serve(|line| match line[0] {
            "keep" => {
                let (read, write) = std::io::pipe().expect("a pipe");
                let iov = libc::iovec { iov_base: mapped.base.cast(), iov_len: 8 << 12 };
                // SAFETY: a part of the mapping, which the pipe only reads.
                let put =
                    unsafe { libc::vmsplice(std::os::fd::AsRawFd::as_raw_fd(&write), &raw const iov, 1, 0) };
                kept = Some((read, write));
                if put == 8 << 12 { "kept".into() } else { std::io::Error::last_os_error().to_string() }
            }
            "release" => {
                kept = None;
                "released".into()
            }
            "wake" => {
                // It may be on its way to sleep still.
                until("somebody to be woken", || (mapped.futex(column, libc::FUTEX_WAKE) == 1).then_some(1))
                    .to_string()
            }
            _ => {
                // SAFETY: asks of our own child, whose status nobody wants.
                let ended = unsafe { libc::waitpid(child, std::ptr::null_mut(), libc::WNOHANG) };
                // It ends where it misses a store.
                assert_eq!(ended, 0, "the child");
                let its = mapped.word(column + 8).load(Ordering::Relaxed);
                rounds.load(Ordering::Relaxed).min(its).to_string()
            }
        });
        stop.store(true, Ordering::Relaxed);
        until("the sleeper's end", || {
            mapped.futex(column, libc::FUTEX_WAKE);
            sleeper.is_finished().then_some(())
        });
    });
}
