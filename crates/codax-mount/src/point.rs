//! The directory that a store is mounted on.

use crate::SUBTYPE;
use codax_core::{Error, ErrorKind, Result};
use codax_os::{fuse, mounts};
use std::io;
use std::path::{Path, PathBuf};

/// Most users of a mount that an error names.
const USERS_NAMED: usize = 8;

/// Checks that a store can be mounted on `dir`, and returns its path without links.
///
/// `NotFound`, `NotDir`, `NotEmpty`, `Busy` (something is mounted there) say what is wrong and what to do.
pub fn check(dir: &Path) -> Result<PathBuf> {
    refuse_dead(dir)?;
    let shown = dir.display();
    let path = dir.canonicalize().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            Error::not_found(format!("mount point {shown}: there is no such directory: mkdir {shown}"))
        }
        _ => about(dir, &e),
    })?;
    if mounts::is_mount_point(&path).map_err(|e| about(dir, &e))? {
        return Err(Error::busy(format!(
            "mount point {shown}: something is mounted there already: umount {shown}, or choose another"
        )));
    }
    if !path.is_dir() {
        return Err(Error::new(ErrorKind::NotDir, format!("mount point {shown}: it is not a directory")));
    }
    let mut entries = std::fs::read_dir(&path).map_err(|e| about(dir, &e))?;
    if entries.next().is_some() {
        let text = format!("mount point {shown}: it is not empty, and a mount would hide what is in it");
        return Err(Error::new(ErrorKind::NotEmpty, text));
    }
    Ok(path)
}

/// `Busy` if what is mounted on `dir` has lost its server. What this store had mounted [is cleaned up](crate::record::clean) by what is written down of it,
/// so that is another's.
fn refuse_dead(dir: &Path) -> Result<()> {
    if !fuse::is_dead(dir) {
        return Ok(());
    }
    // Links in what comes before it can be followed; it can't be looked at itself.
    let parent = dir.parent().unwrap_or(Path::new("/")).canonicalize().map_err(|e| about(dir, &e))?;
    let path = dir.file_name().map_or_else(|| parent.clone(), |name| parent.join(name));
    let stores = fuse::mounted(SUBTYPE).map_err(|e| about(dir, &e))?.contains(&path);
    let what = if stores { "another store" } else { "another filesystem" };
    let shown = dir.display();
    Err(Error::busy(format!(
        "mount point {shown}: {what} is mounted there whose server has gone: umount -l {shown}"
    )))
}

/// The error that somebody uses a mount, with the processes that do as far as `/proc` shows them.
pub(crate) fn busy(dir: &Path, dev: u64) -> Error {
    let users = codax_os::process::users_of(dev).unwrap_or_default();
    let named: Vec<_> = users.iter().take(USERS_NAMED).map(|(pid, name)| format!("{pid} ({name})")).collect();
    let more = users.len().saturating_sub(USERS_NAMED);
    let who = match (named.is_empty(), more) {
        (true, _) => "by nobody that /proc shows".to_owned(),
        (_, 0) => format!("by process {}", named.join(", ")),
        _ => format!("by process {} and {more} more", named.join(", ")),
    };
    Error::busy(format!("{}: it is in use {who}", dir.display()))
}

/// What went wrong at a mount point.
pub(crate) fn about(dir: &Path, e: &io::Error) -> Error {
    let kind = match e.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::NotADirectory => ErrorKind::NotDir,
        io::ErrorKind::PermissionDenied => ErrorKind::Permission,
        io::ErrorKind::InvalidInput => ErrorKind::Invalid,
        io::ErrorKind::ResourceBusy => ErrorKind::Busy,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("mount point {}: {e}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_mount_point_is_said_in_a_line() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        std::fs::create_dir_all(at("full/x")).unwrap();
        std::fs::create_dir(at("empty")).unwrap();
        for (name, kind, says) in [
            ("missing", ErrorKind::NotFound, "mkdir"),
            ("file", ErrorKind::NotDir, "not a directory"),
            ("full", ErrorKind::NotEmpty, "not empty"),
        ] {
            let error = check(&at(name)).unwrap_err();
            assert!(error.kind == kind && error.message.contains(says), "{error:?}");
            assert!(error.message.contains(name) && !error.message.contains('\n'), "{error}");
        }
        assert_eq!(check(Path::new("/proc")).unwrap_err().kind, ErrorKind::Busy);
        assert_eq!(check(&at("empty")).unwrap(), at("empty").canonicalize().unwrap());
    }
}
