//! What the journal asks of the medium under it: one narrow trait, so that tests can implement it badly on purpose.
//!
//! The journal relies on this and on nothing else:
//!
//! - what was written to a file, or stored in a word, is read back by this process and by the next one, however this one ends;
//! - a word is stored whole or not at all; a file's bytes may be written in part when the process dies in the middle;
//! - after a power failure a medium that keeps its contents has at least what was synced; of the rest, any part.
//!
//! On a tmpfs (`Files`) contents go with the power, so there is nothing that a sync could save, and it does nothing.

use codax_core::{Error, ErrorKind};
use codax_os::words::SharedWords;
use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A directory of files.
pub trait Storage: Send + Sync + Debug {
    /// The names of its files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens a file that is there.
    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;
    /// Makes an empty file; one of that name is emptied.
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;
    /// Opens a file that is there as shared words.
    fn words(&self, name: &str) -> io::Result<Box<dyn StorageWords>>;
    /// Gives a file another name, in one step; one of that name is replaced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// What was made, renamed and removed so far survives a power failure.
    fn sync(&self) -> io::Result<()>;
    /// The file's name for people.
    fn describe(&self, name: &str) -> String;
}

/// A file.
pub trait StorageFile: Send + Sync + Debug {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether nothing is in it.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `bytes` from byte `offset` on; `UnexpectedEof` if the file ends before.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` from byte `offset` on; the file grows as needed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts the file, or adds zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// What was written so far survives a power failure.
    fn sync(&self) -> io::Result<()>;
}

/// A file of words that other processes see change.
pub trait StorageWords: Send + Sync + Debug {
    /// One word.
    fn load(&self, index: usize) -> u64;
    /// Stores a word, whole and at once, after everything this thread wrote before.
    fn store(&self, index: usize, value: u64) -> io::Result<()>;
    /// What was stored so far survives a power failure.
    fn sync(&self) -> io::Result<()>;
}

/// Files in a directory of a tmpfs.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
}

impl Files {
    /// The files of `dir`.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }
}

impl Storage for Files {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            // A name that isn't UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).open(self.dir.join(name))?))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        Ok(Box::new(options.open(self.dir.join(name))?))
    }

    fn words(&self, name: &str) -> io::Result<Box<dyn StorageWords>> {
        Ok(Box::new(SharedWords::open_rw(&self.dir.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn describe(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

impl StorageFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl StorageWords for SharedWords {
    fn load(&self, index: usize) -> u64 {
        Self::load(self, index)
    }

    fn store(&self, index: usize, value: u64) -> io::Result<()> {
        Self::store(self, index, value);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The error of an operation on the file that people know as `what`.
pub(crate) fn failed(doing: &str, what: &str, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        io::ErrorKind::PermissionDenied => ErrorKind::Permission,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("can't {doing} {what}: {error}"))
}
