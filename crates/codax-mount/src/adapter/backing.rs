//! Objects that the kernel serves files from, as it knows them: one for a file as long as it is open.

use crate::handles::lock;
use codax_core::FileId;
use fuser::BackingId;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

/// A file that is open in passthrough.
#[derive(Debug)]
struct Open {
    backing: Arc<BackingId>,
    handles: u64,
}

/// Registered objects, by file. All handles of a file share one registration, since the kernel refuses a second while it has the first.
#[derive(Debug, Default)]
pub(super) struct Backings {
    open: Mutex<HashMap<FileId, Open>>,
}

impl Backings {
    /// Counts a handle of `file`; the first registers `object`, by `register`.
    pub fn open(
        &self,
        file: FileId,
        object: OwnedFd,
        register: impl FnOnce(OwnedFd) -> io::Result<BackingId>,
    ) -> io::Result<Arc<BackingId>> {
        let mut files = lock(&self.open);
        if let Some(open) = files.get_mut(&file) {
            open.handles += 1;
            return Ok(open.backing.clone());
        }
        let backing = Arc::new(register(object)?);
        files.insert(file, Open { backing: backing.clone(), handles: 1 });
        Ok(backing)
    }

    /// Counts a handle off; the last ends the registration before this returns.
    pub fn close(&self, file: FileId) {
        let mut files = lock(&self.open);
        let Some(open) = files.get_mut(&file) else { return };
        open.handles -= 1;
        if open.handles == 0 {
            files.remove(&file);
        }
    }
}
