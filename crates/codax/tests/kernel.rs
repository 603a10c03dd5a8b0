//! What the kernel does with a mapping that moves: forks, and system calls that copy into and out of it.
#![allow(unsafe_code)]
//! Unsafe code: `fork`, and slices of mappings, which nobody else touches while they are there.

mod fake;

use codax::{Access, ErrorKind, OpenOptions, Store};
use fake::Fake;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

const LEN: usize = 256 << 10;

/// Runs `work` in a forked child; its panic or `false` fails the test.
fn in_fork(work: impl FnOnce() -> bool) {
    // SAFETY: the child runs code of this test and the standard library with its own copy of everything; what other threads held
    // at the fork it doesn't wait for, which is what the test is about (glibc keeps its allocator usable in the child).
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(false);
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    let mut status = 0;
    // SAFETY: waits for our child and writes its status to a variable of ours.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!((waited, status), (pid, 0));
}

#[test]
fn a_forked_child_has_no_mapping_and_connects_anew() {
    let fake = Fake::start();
    let id = fake.state().make(Some("/f"), LEN as u64);
    let store = Store::connect(fake.dir()).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&store, "/f").unwrap();
    let mapping = file.map(.., Access::ReadWrite).unwrap();
    mapping.memory().store_u64(0, 42);
    let base = format!("{:x}-", mapping.as_ptr().addr());
    let heard = fake.state().heard.len();
    let handles = (store.clone(), file.clone(), file.map(..4096, Access::ReadOnly).unwrap());
    in_fork(move || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let (store, file, mapping) = handles;
        let refused = [
            file.len().unwrap_err().kind,
            store.stat("/f").unwrap_err().kind,
            file.map(.., Access::ReadOnly).unwrap_err().kind,
            mapping.pin().unwrap_err().kind,
        ];
        drop(mapping);
        drop(file);
        let dir = store.dir().to_owned();
        drop(store);
        let anew = Store::connect(dir).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&anew, "/f").unwrap();
        let mine = file.map(.., Access::ReadWrite).unwrap();
        let seen = mine.memory().load_u64(0);
        mine.memory().store_u64(8, 43);
        let inherited = maps.lines().any(|line| line.starts_with(&base));
        !inherited && refused == [ErrorKind::Invalid; 4] && seen == 42
    });
    // What the child dropped of ours it kept to itself: there is its own mapping, and the one that this process gave to the closure.
    assert_eq!(file.len().unwrap(), LEN as u64);
    let unmapped = |state: &mut fake::State| {
        let heard = state.heard[heard..].iter();
        heard.filter(|heard| matches!(heard, codax::Request::Unmap { .. })).count()
    };
    fake.until("both unmaps", |state| unmapped(state) >= 2);
    assert_eq!(unmapped(&mut fake.state()), 2);
    assert_eq!(mapping.memory().load_u64(8), 43);
    // The child's connection has ended with it.
    fake.state().controls.truncate(1);
    fake.move_file(id, 1, 16);
    mapping.memory().store_u64(16, 44);
    assert_eq!(mapping.memory().load_u64(0), 42);
}

#[test]
fn system_calls_into_and_out_of_a_mapping_wait_as_loads_and_stores_do() {
    let fake = Fake::start();
    let id = fake.state().make(Some("/f"), LEN as u64);
    let store = Store::connect(fake.dir()).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&store, "/f").unwrap();
    let (mut into, out_of) =
        (file.map(.., Access::ReadWrite).unwrap(), file.map(.., Access::ReadOnly).unwrap());
    let source = tempfile::tempfile().unwrap();
    let target = tempfile::tempfile().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                let bytes = round.to_le_bytes().repeat(LEN / 8);
                source.write_all_at(&bytes, 0).unwrap();
                let memory = &mut into;
                // SAFETY: until the next round only these two calls touch the file's bytes, one after the other.
                let slice = unsafe { memory.memory().as_mut_slice() };
                source.read_exact_at(slice, 0).unwrap();
                // SAFETY: as above; nobody writes meanwhile.
                target.write_all_at(unsafe { out_of.memory().as_slice() }, 0).unwrap();
                let mut copied = vec![0; LEN];
                target.read_exact_at(&mut copied, 0).unwrap();
                assert!(copied == bytes, "round {round}");
            }
        });
        for round in 0..30_u16 {
            fake.move_file(id, u16::from(round % 2 == 0), [16, 64, 9][usize::from(round % 3)]);
        }
        stop.store(true, Ordering::Relaxed);
    });
}
