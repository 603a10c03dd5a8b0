//! Bytes read, written and made durable through the daemon, for clients that may not map where a file lies.

use crate::store::Session;
use codax_core::request::Handle;
use codax_core::{Error, Result};

impl Session {
    /// Reads from `at` on until `buf` is full or the file ends; returns how many bytes. Holes read as zeros. `Lost` where the bytes are gone.
    pub fn read_at(&self, handle: Handle, at: u64, buf: &mut [u8]) -> Result<usize> {
        let inner = &self.store.inner;
        let st = inner.lock();
        let open = self.handle(&st, handle)?;
        self.check_access(&st, open, false)?;
        inner.read_bytes(st, open.file, at, buf)
    }

    /// Writes bytes that the file has already. `Invalid` beyond its end.
    pub fn write_at(&self, handle: Handle, at: u64, bytes: &[u8]) -> Result<()> {
        let inner = &self.store.inner;
        let st = inner.lock();
        let open = self.handle(&st, handle)?;
        self.check_access(&st, open, true)?;
        let st = inner.wait_idle(st, open.file)?;
        let st = inner.whole(st, open.file)?;
        let len = st.ns.get(open.file).map_or(0, |inode| inode.len);
        if at.checked_add(bytes.len() as u64).is_none_or(|end| end > len) {
            let path = st.path(open.file);
            return Err(Error::invalid(format!(
                "{path}: {} bytes at {at} go beyond its end at {len}: make it longer first",
                bytes.len()
            )));
        }
        inner.write_bytes(st, open.file, at, bytes)?;
        inner.touch(&mut inner.lock(), open.file);
        Ok(())
    }

    /// Makes what was stored in a file durable, as far as where it lies outlives the power.
    pub fn sync(&self, handle: Handle) -> Result<()> {
        let inner = &self.store.inner;
        let st = inner.lock();
        let open = self.handle(&st, handle)?;
        inner.sync_bytes(st, open.file)
    }
}
