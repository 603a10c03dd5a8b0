//! Where a store is mounted, written down for the daemon that comes after a crash.

use crate::point;
use codax_core::{Error, Result};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Name of the file in the store's `meta` directory: for each mount its device number in hexadecimal, a blank, the directory's path and a zero byte. The path
/// is empty for a mount that is gone and that somebody still uses.
const FILE: &str = "mounts";

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its device number.
    pub dev: u64,
    /// Where it is; nowhere any more, if somebody still uses what is gone.
    pub dir: Option<PathBuf>,
}

/// The mounts that are written down in `meta`; none if nothing is.
pub fn read(meta: &Path) -> Result<Vec<Entry>> {
    let path = meta.join(FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(failed(&path, &e)),
    };
    let entries = bytes.split(|b| *b == 0).filter(|entry| !entry.is_empty());
    let damaged = || Error::corrupt(format!("{}: it can't be read: remove it", path.display()));
    entries.map(|entry| parsed(entry).ok_or_else(damaged)).collect()
}

fn parsed(entry: &[u8]) -> Option<Entry> {
    let blank = entry.iter().position(|b| *b == b' ')?;
    let dev = u64::from_str_radix(std::str::from_utf8(&entry[..blank]).ok()?, 16).ok()?;
    let dir = &entry[blank + 1..];
    Some(Entry { dev, dir: (!dir.is_empty()).then(|| OsStr::from_bytes(dir).into()) })
}

/// Writes them down.
pub fn write(meta: &Path, entries: &[Entry]) -> Result<()> {
    let (path, new) = (meta.join(FILE), meta.join("mounts.new"));
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend_from_slice(format!("{:x} ", entry.dev).as_bytes());
        bytes.extend_from_slice(entry.dir.as_ref().map_or(b"", |dir| dir.as_os_str().as_bytes()));
        bytes.push(0);
    }
    std::fs::write(&new, bytes).and_then(|()| std::fs::rename(&new, &path)).map_err(|e| failed(&path, &e))
}

/// Takes away what a daemon that was killed has left mounted, and returns what it had.
pub fn clean(meta: &Path) -> Result<Vec<Entry>> {
    let entries = read(meta)?;
    for dir in entries.iter().filter_map(|entry| entry.dir.as_deref()) {
        point::clean_dead(dir)?;
    }
    Ok(entries)
}

fn failed(path: &Path, e: &io::Error) -> Error {
    Error::internal(format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_is_written_and_read() {
        let meta = tempfile::tempdir().unwrap();
        assert!(read(meta.path()).unwrap().is_empty());
        let dirs = [Some(&b"/a b"[..]), Some(b"/new\nline\xff"), None];
        let entries: Vec<_> = (0x3f..)
            .zip(dirs)
            .map(|(dev, dir)| Entry { dev, dir: dir.map(|dir| OsStr::from_bytes(dir).into()) })
            .collect();
        write(meta.path(), &entries).unwrap();
        assert_eq!(read(meta.path()).unwrap(), entries);
        assert_eq!(clean(meta.path()).unwrap(), entries);
        write(meta.path(), &[]).unwrap();
        assert!(read(meta.path()).unwrap().is_empty());
        std::fs::write(meta.path().join(FILE), "x y").unwrap();
        assert_eq!(read(meta.path()).unwrap_err().kind, codax_core::ErrorKind::Corrupt);
    }
}
