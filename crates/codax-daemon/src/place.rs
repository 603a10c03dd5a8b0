//! The store's directory as the daemon finds it: whose it is, and that no other daemon serves it.

use codax_core::{Error, ErrorKind, Result};
use codax_engine::store::Layout;
use codax_wire::SOCKET;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a lock is tried that another daemon holds which has no socket (it is starting, or ending), and how long between.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// The directory, locked: it is this daemon's as long as this lives.
#[derive(Debug)]
pub(crate) struct Place {
    dir: PathBuf,
    /// The directories that had to be made for it, the outermost first.
    made: Vec<PathBuf>,
    /// Whether no store was there.
    new: bool,
    _lock: OwnedFd,
}

impl Place {
    /// Makes the directory if it isn't there, and locks it. `Permission` if it belongs to somebody else or others may write to it, `Busy` if it is
    /// served already.
    pub fn take(dir: &Path) -> Result<Self> {
        let mut made: Vec<_> = dir.ancestors().take_while(|dir| !dir.exists()).map(Path::to_owned).collect();
        made.reverse();
        let lock = Self::lock(dir).inspect_err(|_| remove_empty(&made))?;
        let new = !Layout { dir: dir.to_owned() }.meta().exists();
        Ok(Self { dir: dir.to_owned(), made, new, _lock: lock })
    }

    fn lock(dir: &Path) -> Result<OwnedFd> {
        codax_engine::store::prepare_dir(dir)?;
        let found = fs::metadata(dir).map_err(|e| about(dir, &e))?;
        if found.mode() & 0o022 != 0 {
            return Err(Error::permission(format!(
                "store {0}: others may write to the directory: chmod go-w {0}, or choose another with --store",
                dir.display()
            )));
        }
        let path = dir.join("lock");
        let mut tries = 1..=LOCK_TRIES;
        while tries.next().is_some() {
            match try_lock(&path).map_err(|e| about(dir, &e))? {
                Some(lock) => return Ok(lock),
                None if dir.join(SOCKET).exists() => break,
                None => std::thread::sleep(LOCK_PAUSE),
            }
        }
        let pid = fs::read_to_string(&path).unwrap_or_default();
        Err(Error::busy(format!(
            "store {0}: another daemon serves it (pid {1}): end it with codax down --store {0}",
            dir.display(),
            pid.trim()
        )))
    }

    /// Leaves everything as it was found: a store that was made here goes. For a start that failed.
    pub fn leave(&self) {
        if !self.new {
            return;
        }
        if let Err(e) = codax_engine::store::purge_contents(&Layout { dir: self.dir.clone() }) {
            tracing::warn!("{}: what a start has left that failed: {e}", self.dir.display());
        }
        remove_empty(&self.made);
    }

    /// Binds the socket, in place of one that a daemon before left.
    pub fn listen(&self, mode: u32) -> Result<OwnedFd> {
        codax_os::sock::listen(&self.socket(), mode).map_err(|e| about(&self.dir, &e))
    }

    /// Removes the socket: there is nobody to connect to.
    pub fn remove_socket(&self) {
        match fs::remove_file(self.socket()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{}: {e}", self.socket().display())
            }
            _ => {}
        }
    }

    /// Changes who may connect.
    pub fn set_socket_mode(&self, mode: u32) -> Result<()> {
        fs::set_permissions(self.socket(), fs::Permissions::from_mode(mode)).map_err(|e| about(&self.dir, &e))
    }

    fn socket(&self) -> PathBuf {
        self.dir.join(SOCKET)
    }
}

/// Removes directories, the last first. One that somebody has put something into stays.
fn remove_empty(dirs: &[PathBuf]) {
    for dir in dirs.iter().rev() {
        let _ = fs::remove_dir(dir);
    }
}

/// Locks the file. `None` if somebody else has it.
fn try_lock(path: &Path) -> io::Result<Option<OwnedFd>> {
    loop {
        let Some(lock) = codax_os::lockfile::take(path)? else { return Ok(None) };
        // A daemon that deletes its store removes the file while it holds it: what we got may be a lock on nothing.
        let locked = codax_os::object::stat(lock.as_fd())?;
        if fs::metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (locked.dev, locked.ino)) {
            return Ok(Some(lock));
        }
        if !path.parent().is_some_and(Path::exists) {
            return Err(io::ErrorKind::NotFound.into());
        }
    }
}

fn about(dir: &Path, e: &io::Error) -> Error {
    let kind = match e.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Permission,
        io::ErrorKind::StorageFull => ErrorKind::NoSpace,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("store {}: {e}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On tmpfs, as a user's store has to be.
    fn root() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").unwrap()
    }

    #[test]
    fn a_directory_is_taken_once() {
        let root = root();
        let dir = root.path().join("a/store");
        let place = Place::take(&dir).unwrap();
        let _socket = place.listen(0o600).unwrap();
        let again = Place::take(&dir).unwrap_err();
        assert_eq!(again.kind, ErrorKind::Busy);
        assert!(again.message.contains(&format!("pid {}", std::process::id())), "{again}");
        place.remove_socket();
        drop(place);
        drop(Place::take(&dir).unwrap());
    }

    #[test]
    fn a_start_that_fails_leaves_what_was_there() {
        let root = root();
        let dir = root.path().join("a/store");
        Place::take(&dir).unwrap().leave();
        assert!(!root.path().join("a").exists());
        fs::create_dir_all(dir.join("mine")).unwrap();
        Place::take(&dir).unwrap().leave();
        assert!(dir.join("mine").exists() && !dir.join("lock").exists());
        fs::create_dir_all(dir.join("meta")).unwrap();
        Place::take(&dir).unwrap().leave();
        assert!(dir.join("meta").exists() && dir.join("lock").exists());
    }

    #[test]
    fn bad_directories_are_refused() {
        let root = root();
        let open = root.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(Place::take(&open).unwrap_err().kind, ErrorKind::Permission);
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(Place::take(&file).unwrap_err().kind, ErrorKind::Invalid);
        if codax_os::process::uid() == 0 {
            let theirs = root.path().join("theirs");
            fs::create_dir(&theirs).unwrap();
            std::os::unix::fs::chown(&theirs, Some(1234), None).unwrap();
            let error = Place::take(&theirs).unwrap_err();
            assert!(error.kind == ErrorKind::Permission && error.message.contains("1234"), "{error}");
        }
    }
}
