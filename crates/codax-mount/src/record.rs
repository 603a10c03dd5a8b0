//! Where a store is mounted, written down for the daemon that comes after a crash.

use crate::SUBTYPE;
use codax_core::mounting::MountOptions;
use codax_core::{Error, Result};
use codax_os::fuse;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Name of the file in the store's `meta` directory: for each mount its device number in hexadecimal, a blank, its options and a blank if it has any, the
/// directory's path, which begins with `/`, and a zero byte. The path is empty for a mount that is on no directory any more and that somebody still uses.
const FILE: &str = "mounts";

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its device number.
    pub dev: u64,
    /// Where it is; nowhere any more, if somebody still uses what is gone.
    pub dir: Option<PathBuf>,
    /// What it was asked to be like.
    pub options: MountOptions,
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
    let rest = &entry[blank + 1..];
    let at = if rest.is_empty() { 0 } else { rest.iter().position(|b| *b == b'/')? };
    let (words, dir) = rest.split_at(at);
    let options = MountOptions::parse(std::str::from_utf8(words).ok()?.trim_end()).ok()?;
    Some(Entry { dev, dir: (!dir.is_empty()).then(|| OsStr::from_bytes(dir).into()), options })
}

/// Writes them down.
pub fn write(meta: &Path, entries: &[Entry]) -> Result<()> {
    let (path, new) = (meta.join(FILE), meta.join("mounts.new"));
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend_from_slice(format!("{:x} ", entry.dev).as_bytes());
        let options = entry.options.to_string();
        if entry.dir.is_some() && !options.is_empty() {
            bytes.extend_from_slice(format!("{options} ").as_bytes());
        }
        bytes.extend_from_slice(entry.dir.as_ref().map_or(b"", |dir| dir.as_os_str().as_bytes()));
        bytes.push(0);
    }
    std::fs::write(&new, bytes).and_then(|()| std::fs::rename(&new, &path)).map_err(|e| failed(&path, &e))
}

/// Takes away what a daemon that was killed has left mounted, wherever that is by now, and returns what it had. Mappings and open files of it live on. What
/// somebody else has mounted in its place since stays.
pub fn clean(meta: &Path) -> Result<Vec<Entry>> {
    let entries = read(meta)?;
    for dev in entries.iter().map(|entry| entry.dev).collect::<BTreeSet<_>>() {
        match fuse::detach_all(SUBTYPE, dev, true) {
            Err(e) => tracing::error!("unmount what a daemon served that has gone: {e}"),
            Ok(gone) => {
                for dir in gone {
                    tracing::info!(
                        "{}: unmounted what a daemon that was killed had left there",
                        dir.display()
                    );
                }
            }
        }
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
        let dirs = [Some(&b"/a b"[..]), Some(b"/new\nline\xff"), None, Some(b"/read/only")];
        // No filesystem has these numbers.
        let entries: Vec<_> = (0xffff_fff0..)
            .zip(dirs)
            .zip(["", "", "", "ro,noexec"])
            .map(|((dev, dir), options)| Entry {
                dev,
                dir: dir.map(|dir| OsStr::from_bytes(dir).into()),
                options: MountOptions::parse(options).unwrap(),
            })
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
