//! Scenarios of system calls, each in a fresh directory. What they note must not depend on where that is.

mod bytes;
mod names;
mod owners;

use super::posix::Log;
use crate::raw::can_map;
use codax_os::area::Region;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FlockOperation, Gid, Mode, OFlags, RenameFlags, SeekFrom, Timespec,
    Timestamps, UTIME_NOW, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

/// A scenario and its name.
pub type Scenario = (&'static str, fn(&Path, &mut Log));

pub const SCENARIOS: &[Scenario] = &[
    ("opens", bytes::opens),
    ("reads_and_writes", bytes::reads_and_writes),
    ("far_offsets", bytes::far_offsets),
    ("truncation", bytes::truncation),
    ("running_program", bytes::running_program),
    ("renames", names::renames),
    ("unlink_while_open", names::unlink_while_open),
    ("removed_while_known", names::removed_while_known),
    ("hard_links", names::hard_links),
    ("symbolic_links", names::symbolic_links),
    ("directories", names::directories),
    ("reading_while_removing", names::reading_while_removing),
    ("modes_and_owners", owners::modes_and_owners),
    ("access_of_others", owners::access_of_others),
    ("setgid_and_sticky", owners::setgid_and_sticky),
    ("setuid_goes", owners::setuid_goes),
    ("setuid_set_while_open", owners::setuid_set_while_open),
    ("times", owners::times),
    ("allocation", bytes::allocation),
    ("holes", bytes::holes),
    ("copies", bytes::copies),
    ("locks", bytes::locks),
    ("attributes", owners::attributes),
    ("special_files", names::special_files),
    ("names", names::names),
    ("mappings", bytes::mappings),
    ("appends", bytes::appends),
    ("descriptors", bytes::descriptors),
];

const NOBODY: u32 = 65534;

/// The error number, or the value.
fn errno<T>(result: std::io::Result<T>) -> Result<T, i32> {
    result.map_err(|e| e.raw_os_error().unwrap_or(0))
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))
}

/// What stat(2) says that doesn't depend on the place: not numbers, times and, of directories, lengths.
fn stat(path: &Path) -> Result<(u32, u64, u32, u32, Option<u64>), i32> {
    errno(fs::symlink_metadata(path)).map(|meta| {
        let len = (!meta.is_dir()).then_some(meta.len());
        (meta.mode(), meta.nlink(), meta.uid(), meta.gid(), len)
    })
}

fn listed(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut names: Vec<_> =
        entries.map(|entry| format!("{:?}", entry.expect("an entry").file_name())).collect();
    names.sort();
    names
}

/// Does something as an ordinary user, on a thread that is one for the rest of its life.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            rustix::thread::set_thread_groups(&[]).expect("root may");
            rustix::thread::set_thread_res_gid(gid, gid, gid).expect("root may");
            rustix::thread::set_thread_res_uid(uid, uid, uid).expect("root may");
            work()
        });
        thread.join().expect("no panic")
    })
}

fn stamps(atime_ns: i64, mtime_ns: i64) -> Timestamps {
    let spec =
        |ns: i64| Timespec { tv_sec: ns.div_euclid(1_000_000_000), tv_nsec: ns.rem_euclid(1_000_000_000) };
    Timestamps { last_access: spec(atime_ns), last_modification: spec(mtime_ns) }
}
