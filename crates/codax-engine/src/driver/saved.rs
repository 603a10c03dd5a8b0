//! What the store remembers of a device in files beside the journal: its driver's last description, so that what it needs of its memory holds before it is back, and
//! its state between a drain and the return.
//!
//! ```text
//! bytes 0..8    "codaxdrv"
//!       8..12   format version, 1
//!       12..16  crc32c of what follows
//!       16..    the contents, in postcard
//! ```
//!
//! A file is written under another name first, so it is there whole or not at all; what doesn't check is an error that names it. It ends with the store, as the journal
//! does.

use crate::backing::os_error;
use crate::store::Inner;
use codax_core::driver::{Description, STATE_MAX};
use codax_core::{Error, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"codaxdrv";
const VERSION: u32 = 1;
const HEAD: usize = 16;

/// A device's state, and whose it is.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedState {
    /// The driver that gave it.
    pub driver: String,
    pub state: Vec<u8>,
}

/// The files of a store's devices.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    meta: PathBuf,
}

impl Saved {
    /// Those in the journal's directory.
    pub fn in_dir(meta: PathBuf) -> Self {
        Self { meta }
    }

    fn state_path(&self, device: &str) -> PathBuf {
        self.meta.join(format!("state.{device}"))
    }

    fn description_path(&self, device: &str) -> PathBuf {
        self.meta.join(format!("driver.{device}"))
    }

    /// The state that is kept of a device, if one is.
    pub fn state(&self, device: &str) -> Result<Option<SavedState>> {
        read(&self.state_path(device))
    }

    /// How many bytes of state are kept of a device.
    pub fn state_bytes(&self, device: &str) -> Option<u64> {
        self.state(device).ok()?.map(|saved| saved.state.len() as u64)
    }

    pub fn keep_state(&self, device: &str, saved: &SavedState) -> Result<()> {
        write(&self.state_path(device), saved)
    }

    pub fn drop_state(&self, device: &str) -> Result<()> {
        remove(&self.state_path(device))
    }

    /// What the device's driver said last.
    pub fn description(&self, device: &str) -> Result<Option<Description>> {
        read(&self.description_path(device))
    }

    pub fn keep_description(&self, device: &str, description: &Description) -> Result<()> {
        write(&self.description_path(device), description)
    }
}

impl Inner {
    /// Why what is kept of a device can't be read.
    pub(crate) fn unreadable(&self, device: &str) -> impl Iterator<Item = Error> {
        let saved = self.saved();
        [saved.state(device).err(), saved.description(device).err()].into_iter().flatten()
    }
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let contents =
        postcard::to_stdvec(value).map_err(|e| Error::internal(format!("encode {}: {e}", path.display())))?;
    let mut bytes = Vec::with_capacity(HEAD + contents.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&contents).to_le_bytes());
    bytes.extend_from_slice(&contents);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = path.with_file_name(format!("new.{name}"));
    let written = fs::write(&unfinished, &bytes).and_then(|()| fs::rename(&unfinished, path));
    written.map_err(|e| {
        let _ = fs::remove_file(&unfinished);
        os_error("write", &path.display(), &e)
    })
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(os_error("read", &path.display(), &e)),
    };
    let damaged = || Error::corrupt(format!("{} is damaged: remove it to go on without", path.display()));
    let (head, contents) = bytes.split_at_checked(HEAD).ok_or_else(damaged)?;
    let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap_or_default());
    if &head[..8] != MAGIC || contents.len() > STATE_MAX + 1024 {
        return Err(damaged());
    }
    if word(8) != VERSION {
        let other = word(8);
        return Err(Error::corrupt(format!(
            "{} has format version {other}, and this daemon knows {VERSION}: use a newer one",
            path.display()
        )));
    }
    if word(12) != crc32c::crc32c(contents) {
        return Err(damaged());
    }
    postcard::from_bytes(contents).map(Some).map_err(|_| damaged())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(os_error("remove", &path.display(), &e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_core::ErrorKind;

    #[test]
    fn a_state_is_read_back_whole_or_named() {
        let dir = tempfile::tempdir().unwrap();
        let saved = Saved::in_dir(dir.path().to_owned());
        assert_eq!(saved.state("d").unwrap(), None);
        let state = SavedState { driver: "npu".into(), state: vec![7; 100] };
        saved.keep_state("d", &state).unwrap();
        assert_eq!(saved.state("d").unwrap(), Some(state));
        assert_eq!((saved.state_bytes("d"), saved.state_bytes("e")), (Some(100), None));
        let path = dir.path().join("state.d");
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 4;
            fs::write(&path, &bad).unwrap();
            let e = saved.state("d").unwrap_err();
            assert!(e.kind == ErrorKind::Corrupt && e.message.contains("state.d"), "byte {at}: {e}");
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(saved.state("d").unwrap_err().kind, ErrorKind::Corrupt, "cut at {at}");
        }
        saved.drop_state("d").unwrap();
        saved.drop_state("d").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
