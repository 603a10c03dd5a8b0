//! Which files the demo loads.

use codax_core::units::format_size;
use codax_core::{Error, ErrorKind, Result};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Bytes that are loaded if nothing else is said.
const BYTES_DEFAULT: u64 = 256 << 20;

/// Most files that are taken.
const FILES_MAX: usize = 20_000;

/// Most directories that are walked, so that a tree without an end is noticed.
const DIRS_MAX: usize = 20_000;

/// A file to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it is.
    pub path: PathBuf,
    /// Its length when it was looked at.
    pub len: u64,
}

/// The files to load: of `input`, or of what is on every machine; at most `size` bytes of them.
pub fn choose(input: Option<&Path>, size: Option<u64>) -> Result<Vec<Source>> {
    if size == Some(0) {
        return Err(Error::invalid("--size 0: there would be nothing to load"));
    }
    let limit = size.unwrap_or(if input.is_some() { u64::MAX } else { BYTES_DEFAULT });
    let roots = match input {
        Some(dir) => vec![dir.to_owned()],
        None => usual_places(),
    };
    let mut files = Vec::new();
    let mut left = limit;
    for (i, root) in roots.iter().enumerate() {
        // Each gets its share, and what those before it left.
        let share = left / (roots.len() - i) as u64;
        match collect(root, share, &mut files) {
            Ok(taken) => left -= taken,
            // Of the usual places one may be missing.
            Err(error) if input.is_some() => return Err(about(root, &error)),
            Err(_) => {}
        }
    }
    if files.is_empty() {
        let places = roots.iter().map(|root| root.display().to_string()).collect::<Vec<_>>().join(" and ");
        let most =
            if limit == u64::MAX { String::new() } else { format!(" of {} or less", format_size(limit)) };
        return Err(Error::invalid(format!(
            "{places}: no file{most} that can be read: choose another with --input"
        )));
    }
    Ok(files)
}

/// Directories with files of all sizes.
fn usual_places() -> Vec<PathBuf> {
    [Some(PathBuf::from("/usr/lib")), toolchain()].into_iter().flatten().filter(|dir| dir.is_dir()).collect()
}

/// The libraries of the Rust toolchain, if there is one.
fn toolchain() -> Option<PathBuf> {
    let said = Command::new("rustc").args(["--print", "sysroot"]).stderr(Stdio::null()).output().ok();
    let sysroot =
        said.filter(|said| said.status.success()).and_then(|said| String::from_utf8(said.stdout).ok());
    if let Some(sysroot) = sysroot {
        return Some(Path::new(sysroot.trim()).join("lib"));
    }
    let rustup = PathBuf::from(std::env::var_os("HOME")?).join(".rustup/toolchains");
    let newest = rustup.read_dir().ok()?.filter_map(|entry| Some(entry.ok()?.path())).max()?;
    Some(newest.join("lib"))
}

/// Adds files below `root` of at most `limit` bytes together, in the order of their names; returns how many bytes they have.
fn collect(root: &Path, limit: u64, files: &mut Vec<Source>) -> std::io::Result<u64> {
    let mut left = limit;
    let mut todo = vec![root.to_owned()];
    let mut walked = 0;
    while let Some(dir) = todo.pop() {
        let entries = match dir.read_dir() {
            Ok(entries) => entries,
            Err(error) if walked == 0 => return Err(error),
            Err(_) => continue,
        };
        walked += 1;
        let mut entries: Vec<_> = entries.flatten().collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        let mut below = Vec::new();
        for entry in entries {
            if files.len() >= FILES_MAX || left == 0 {
                return Ok(limit - left);
            }
            // Of the entry itself: links are not followed.
            let Ok(meta) = entry.metadata() else { continue };
            let (path, len) = (entry.path(), meta.len());
            if meta.is_dir() && walked + todo.len() < DIRS_MAX {
                below.push(path);
            } else if meta.is_file() && len > 0 && len <= left && File::open(&path).is_ok() {
                files.push(Source { path, len });
                left -= len;
            }
        }
        todo.extend(below.into_iter().rev());
    }
    Ok(limit - left)
}

fn about(root: &Path, error: &std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied => ErrorKind::Permission,
        std::io::ErrorKind::NotADirectory => ErrorKind::NotDir,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("--input {}: {error}", root.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_are_taken_up_to_the_limit_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        for (name, len) in [("a", 10), ("b/c", 20), ("b/empty", 0), ("d", 40)] {
            fs::write(dir.path().join(name), vec![1; len]).unwrap();
        }
        std::os::unix::fs::symlink("/", dir.path().join("b/link")).unwrap();
        let names = |limit| {
            let files = choose(Some(dir.path()), limit).unwrap();
            files
                .iter()
                .map(|file| file.path.strip_prefix(dir.path()).unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(None), [Path::new("a"), Path::new("d"), Path::new("b/c")]);
        assert_eq!(names(Some(30)), [Path::new("a"), Path::new("b/c")]);
        assert_eq!(choose(Some(dir.path()), Some(9)).unwrap_err().kind, ErrorKind::Invalid);
    }

    #[test]
    fn what_cannot_be_loaded_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let kind = |input: &Path, size| choose(Some(input), size).unwrap_err().kind;
        assert_eq!(kind(dir.path(), None), ErrorKind::Invalid);
        assert_eq!(kind(dir.path(), Some(0)), ErrorKind::Invalid);
        assert_eq!(kind(&dir.path().join("none"), None), ErrorKind::NotFound);
        let file = dir.path().join("file");
        fs::write(&file, "1").unwrap();
        assert_eq!(kind(&file, None), ErrorKind::NotDir);
    }
}
