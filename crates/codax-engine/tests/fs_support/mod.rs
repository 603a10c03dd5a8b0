//! What the tests of the store as a mount sees it share.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub use crate::store_support::*;
use codax_core::{ErrorKind, FileId, ROOT};
use codax_engine::Store;
use codax_engine::fs::{Fs, FsHandle, FsOpen, How, New, NewKind, Who};
use std::os::fd::OwnedFd;

pub const WHO: Who = Who { uid: 1000, gid: 1000, pid: 1 };

pub fn new(kind: NewKind) -> New {
    New { mode: 0o755, who: WHO, kind }
}

pub fn mkdir(fs: &Fs, dir: FileId, name: &str) -> FileId {
    fs.make(dir, name.as_bytes(), &new(NewKind::Dir)).expect("mkdir").id
}

pub fn create(fs: &Fs, dir: FileId, name: &str) -> (FileId, FsOpen) {
    let (attr, open) = fs.create(dir, name.as_bytes(), &new(NewKind::File), true, true).expect("created");
    (attr.id, open)
}

/// A file that the daemon serves, closed, with these bytes.
pub fn put_file(fs: &Fs, name: &str, bytes: &[u8]) -> FileId {
    let (id, open) = create(fs, ROOT, name);
    match open.how {
        How::Daemon => assert_eq!(fs.write(open.handle, 0, bytes, false), Ok(bytes.len())),
        How::Passthrough(fd) => codax_os::object::write_all_at(&fd, bytes, 0).expect("written"),
    }
    fs.release(open.handle);
    id
}

pub fn open(fs: &Fs, id: FileId) -> FsOpen {
    fs.open(id, true, true, WHO).expect("opens")
}

pub fn object_of(open: FsOpen) -> (FsHandle, OwnedFd) {
    match open.how {
        How::Passthrough(fd) => (open.handle, fd),
        How::Daemon => panic!("served by the daemon"),
    }
}

pub fn read_all(fs: &Fs, id: FileId) -> Vec<u8> {
    let open = open(fs, id);
    let mut bytes = vec![0xee; usize::try_from(fs.attr(id).expect("attr").len).expect("small") + 10];
    let got = fs.read(open.handle, 0, &mut bytes).expect("read");
    bytes.truncate(got);
    fs.release(open.handle);
    bytes
}

pub fn kind<T: std::fmt::Debug>(result: codax_core::Result<T>) -> ErrorKind {
    result.expect_err("an error").kind
}

pub fn names(fs: &Fs, dir: FileId) -> Vec<String> {
    let all = fs.entries(dir, None, usize::MAX).expect("entries");
    all.into_iter().map(|(name, _)| String::from_utf8(name).expect("utf-8")).collect()
}

pub fn clean(store: &Store) {
    assert_eq!(store.check(false).expect("check"), []);
}

pub fn used(store: &Store) -> u64 {
    store.info().pools.iter().map(|p| p.used + p.held).sum()
}
