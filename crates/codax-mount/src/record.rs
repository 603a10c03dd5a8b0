//! Where a store is mounted, written down for the daemon that comes after a crash.

use crate::point;
use codax_core::{Error, Result};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Name of the file in the store's `meta` directory: the directories' paths, each with a zero byte after it.
const FILE: &str = "mounts";

/// The directories that are written down in `meta`; none if nothing is.
pub fn read(meta: &Path) -> Result<Vec<PathBuf>> {
    let path = meta.join(FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(failed(&path, &e)),
    };
    let names = bytes.split(|b| *b == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| OsString::from_vec(name.to_vec()).into()).collect())
}

/// Writes them down.
pub fn write<'a>(meta: &Path, dirs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let (path, new) = (meta.join(FILE), meta.join("mounts.new"));
    let mut bytes = Vec::new();
    for dir in dirs {
        bytes.extend_from_slice(dir.as_os_str().as_bytes());
        bytes.push(0);
    }
    std::fs::write(&new, bytes).and_then(|()| std::fs::rename(&new, &path)).map_err(|e| failed(&path, &e))
}

/// Takes away what a daemon that was killed has left mounted, and returns where that was.
pub fn clean(meta: &Path) -> Result<Vec<PathBuf>> {
    let dirs = read(meta)?;
    for dir in &dirs {
        point::clean_dead(dir)?;
    }
    Ok(dirs)
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
        let dirs = [PathBuf::from("/a b"), PathBuf::from(OsString::from_vec(b"/new\nline\xff".to_vec()))];
        write(meta.path(), dirs.iter().map(PathBuf::as_path)).unwrap();
        assert_eq!(read(meta.path()).unwrap(), dirs);
        assert_eq!(clean(meta.path()).unwrap(), dirs);
        write(meta.path(), []).unwrap();
        assert!(read(meta.path()).unwrap().is_empty());
    }
}
