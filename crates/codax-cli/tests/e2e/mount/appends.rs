//! Appending to one file: by several writers through two mounts, and by calls that are larger than one request.

use super::programs::{sh, there};
use super::{Mounted, mounted};
use crate::rig::{Plan, pattern};
use rustix::fs::{Mode, OFlags, XattrFlags};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

/// Bytes of a record: not of a size that pages are a multiple of.
const RECORD: usize = 40;

fn record(writer: usize, number: usize) -> Vec<u8> {
    let text = format!("writer {writer} record {number}");
    format!("{text:.<width$}\n", width = RECORD - 1).into_bytes()
}

/// Four writers, two in each of the directories, append to the file of this name; all that they wrote is there afterwards, in order for each of them.
fn append_by_four(dirs: [&Path; 2], name: &str) {
    const EACH: usize = 5000;
    fs::write(dirs[0].join(name), "").expect("room");
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let path = dirs[writer % 2].join(name);
            scope.spawn(move || {
                let mut file = OpenOptions::new().append(true).open(path).expect("there");
                (0..EACH).for_each(|number| file.write_all(&record(writer, number)).expect("room"));
            });
        }
    });
    let bytes = fs::read(dirs[1].join(name)).expect("there");
    assert_eq!(bytes.len(), 4 * EACH * RECORD, "{name}: nothing is lost");
    let mut next = [0; 4];
    for (at, line) in bytes.chunks(RECORD).enumerate() {
        let writer = (0..4).find(|writer| line == record(*writer, next[*writer]));
        let writer = writer.unwrap_or_else(|| panic!("{name}: record {at} is torn or out of its turn"));
        next[writer] += 1;
    }
}

#[test]
fn what_is_appended_through_two_mounts_is_all_there() {
    let Some(Mounted { rig, dir }) = mounted("what_is_appended_through_two_mounts", Plan::new()) else {
        return;
    };
    let other = rig.beside("other");
    fs::create_dir(&other).expect("ours");
    rig.ok(&["mount", other.to_str().expect("text")]);
    // Served by the kernel, and by the daemon.
    append_by_four([&dir, &other], "in-one");
    rig.ok(&["mkdir", "/spread", "--interleave", "dram,sim0"]);
    append_by_four([&dir, &other], "spread/f");
    rig.ok(&["umount"]);
    rig.sound();
}

/// With asynchronous direct I/O the kernel would send the requests of one such call at once.
#[test]
fn large_direct_appends_are_complete_and_in_order() {
    const NAME: &str = "large_direct_appends_are_complete_and_in_order";
    const EACH: usize = 8 << 20;
    let Some(Mounted { rig, dir }) = mounted(NAME, Plan::new()) else { return };
    let spread = dir.join("spread");
    fs::create_dir(&spread).expect("room");
    rustix::fs::setxattr(&spread, "user.codax.interleave", b"dram,sim0", XattrFlags::empty()).expect("pools");
    let wanted = pattern(3 * EACH as u64, 9);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::DIRECT;
    let file = rustix::fs::open(spread.join("f"), flags, Mode::RUSR | Mode::WUSR).expect("room");
    for part in wanted.chunks(EACH) {
        let parts: Vec<_> = part.chunks(EACH / 4).map(std::io::IoSlice::new).collect();
        assert_eq!(rustix::io::writev(&file, &parts), Ok(EACH));
    }
    drop(file);
    assert!(fs::read(spread.join("f")).expect("there") == wanted);
    if !there(NAME, "python3") {
        return;
    }
    fs::remove_file(spread.join("f")).expect("there");
    fs::write(rig.beside("wanted"), &wanted).expect("room");
    // As programs with queues do it: io_setup, io_submit and io_getevents have no functions in the C library.
    let script = format!(
        "import ctypes, mmap, os, platform, struct
calls = dict(x86_64=(206, 209, 208), aarch64=(0, 2, 4))[platform.machine()]
call = ctypes.CDLL(None, use_errno=True).syscall
def done(*words):
    got = call(*words)
    assert got >= 0, os.strerror(ctypes.get_errno())
    return got
wanted = open('../../wanted', 'rb').read()
memory = mmap.mmap(-1, len(wanted)); memory[:] = wanted
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
file = os.open('f', os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_DIRECT)
queue = ctypes.c_ulong(0)
done(calls[0], 8, ctypes.byref(queue))
for at in range(0, len(wanted), {EACH}):
    block = ctypes.create_string_buffer(struct.pack('<QIiHhIQQqQII', 0, 0, 0, 1, 0, file, start + at, {EACH}, 0, 0, 0, 0), 64)
    blocks = (ctypes.c_void_p * 1)(ctypes.addressof(block))
    assert done(calls[1], queue, 1, blocks) == 1
    event = ctypes.create_string_buffer(32)
    assert done(calls[2], queue, 1, 1, event, None) == 1
    assert struct.unpack('<QQqq', event.raw)[2] == {EACH}
assert open('f', 'rb').read() == wanted"
    );
    sh(&spread, &format!("python3 - <<'END'\n{script}\nEND\n"));
    rig.sound();
}
