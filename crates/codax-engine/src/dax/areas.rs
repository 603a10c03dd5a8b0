//! Where the copies of a catalog are: at both ends of a device, or in two files.

use crate::backing::os_error;
use crate::catalog::{Area, Copies, Geometry};
use codax_core::{Error, Result};
use codax_os::dax::{DaxDevice, DaxMap};
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a device, or of a file, that are mapped.
#[derive(Debug)]
struct Mapped {
    map: DaxMap,
    at: u64,
    len: u64,
    what: String,
}

impl Mapped {
    fn failed(&self, what: &str, e: &std::io::Error) -> Error {
        os_error(what, &self.what, e)
    }

    fn short(&self, at: u64) -> Error {
        Error::lost(format!(
            "{}: byte {at} of the catalog is out of reach: its memory is damaged, or the device has gone",
            self.what
        ))
    }
}

impl Area for Mapped {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        let got = self.map.read(self.at + at, bytes).map_err(|e| self.failed("read", &e))?;
        if got < bytes.len() { Err(self.short(at + got as u64)) } else { Ok(()) }
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let done = self.map.write(self.at + at, bytes).map_err(|e| self.failed("write", &e))?;
        if done < bytes.len() { Err(self.short(at + done as u64)) } else { Ok(()) }
    }

    fn persist(&self, at: u64, len: u64) -> Result<()> {
        self.map.persist(self.at + at, len).map_err(|e| self.failed("make durable", &e))
    }

    fn describe(&self) -> String {
        self.what.clone()
    }
}

/// A copy that isn't there yet.
#[derive(Debug)]
struct Nothing(String);

impl Area for Nothing {
    fn len(&self) -> u64 {
        0
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() { Ok(()) } else { Err(Error::not_found(format!("{} has no byte {at}", self.0))) }
    }

    fn write(&self, _at: u64, _bytes: &[u8]) -> Result<()> {
        Err(Error::not_found(format!("{} is not there", self.0)))
    }

    fn persist(&self, _at: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn describe(&self) -> String {
        self.0.clone()
    }
}

/// The ends of a device, each so long.
pub(super) fn of_device(device: &DaxDevice, copy_bytes: u64) -> Result<Copies> {
    let what = device.path().display().to_string();
    let area = |at: u64| -> Result<Arc<dyn Area>> {
        let len = copy_bytes.min(device.len());
        let map = device.map(at, len).map_err(|e| os_error("map", &what, &e))?;
        Ok(Arc::new(Mapped { map, at, len, what: what.clone() }))
    };
    Ok([area(0)?, area(device.len().saturating_sub(copy_bytes))?])
}

/// The files of a directory that are the copies.
pub(crate) fn catalogs(dir: &Path) -> [PathBuf; 2] {
    [dir.join("catalog.0"), dir.join("catalog.1")]
}

/// The directory, which nobody else has as long as this is open: whatever is in it by then.
pub(super) fn lock(dir: &Path) -> Result<File> {
    let file = File::open(dir).map_err(|e| os_error("open", &dir.display(), &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::busy(format!("{} is used by another store", dir.display())))
        }
        Err(TryLockError::Error(e)) => Err(os_error("lock", &dir.display(), &e)),
    }
}

/// Those files as they are.
pub(super) fn of_directory(dir: &Path) -> Result<Copies> {
    let area = |path: &Path| -> Result<Arc<dyn Area>> {
        let what = path.display().to_string();
        let failed = |what: &str, e: &std::io::Error| os_error(what, &path.display(), e);
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Arc::new(Nothing(what))),
            other => other.map_err(|e| failed("open", &e))?,
        };
        let len = file.metadata().map_err(|e| failed("look at", &e))?.len();
        if len == 0 {
            return Ok(Arc::new(Nothing(what)));
        }
        let map = DaxMap::new(&file, 0, len, true).map_err(|e| failed("map", &e))?;
        Ok(Arc::new(Mapped { map, at: 0, len, what }))
    };
    let [first, second] = catalogs(dir);
    Ok([area(&first)?, area(&second)?])
}

/// Makes the files as long as the geometry says, what is missing of them as zeros.
pub(super) fn make_files(dir: &Path, geometry: &Geometry) -> Result<()> {
    for path in catalogs(dir) {
        let failed = |e: std::io::Error| os_error("make", &path.display(), &e);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(failed)?;
        if file.metadata().map_err(failed)?.len() != geometry.copy_bytes {
            file.set_len(geometry.copy_bytes).map_err(failed)?;
        }
        codax_os::object::allocate(&file, 0, geometry.copy_bytes).map_err(failed)?;
        file.sync_all().map_err(failed)?;
    }
    let sync = |dir: &Path| File::open(dir).and_then(|dir| dir.sync_all());
    sync(dir).map_err(|e| os_error("make durable", &dir.display(), &e))
}
