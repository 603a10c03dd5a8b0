//! Reading and writing through the daemon: of files that lie in several objects, and of all files on a mount without privilege.
//!
//! Where all the pages are there, bytes are read and written while others do the same; nobody moves the file meanwhile. What fills holes or makes a file
//! longer has the file for itself.

use super::names::without_suid;
use super::serve::MountHandle;
use super::space::check_end;
use super::{Fs, FsHandle, Pools, gone};
use crate::backing::Backing;
use crate::store::state::State;
use crate::store::{Guard, Inner};
use codax_core::change::Change;
use codax_core::extent::{self, Extent, PoolRun};
use codax_core::namespace::Inode;
use codax_core::{Error, ErrorKind, FileId, PAGE_SIZE, PageRange, PoolId, Result};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Bytes copied at once by [`Fs::copy_range`].
const COPY_BYTES: usize = 1 << 20;

/// Bytes copied by one call of [`Fs::copy_range`]: the caller may be interrupted between two.
const COPY_MAX: u64 = 64 << 20;

/// Where some bytes of a file are: taken under the lock, used without it while the file is kept from moving.
struct Where {
    /// Length of the file; of one that is ahead, more than it could be.
    len: u64,
    runs: Vec<PoolRun>,
    objects: BTreeMap<PoolId, (Arc<dyn Backing>, OwnedFd)>,
}

/// Where a write goes.
#[derive(Clone, Copy, Debug)]
enum At {
    Offset(u64),
    /// Where the file ends when it is written to.
    End,
}

impl At {
    fn offset(self, st: &State, file: FileId) -> u64 {
        match self {
            Self::Offset(off) => off,
            Self::End => st.ns.get(file).map_or(0, |inode| inode.len),
        }
    }
}

impl Where {
    /// The bytes from `off` on, `len` of them, to be read or written.
    fn new(st: &State, inode: &Inode, off: u64, len: u64, write: bool) -> Result<Self> {
        let pages = PageRange::of_bytes(off, len);
        if let Some(lost) = inode.first_lost(pages).filter(|_| write) {
            return Err(gone_bytes(st, inode.id, lost));
        }
        let (runs, file_len) = match inode.ahead {
            // The object says what there is.
            Some(pool) => (vec![PoolRun { pages, pool }], u64::MAX),
            None => (extent::pool_runs(&extent::slice(&inode.extents, pages)), inode.len),
        };
        let mut objects = BTreeMap::new();
        for pool in runs.iter().map(|run| run.pool) {
            if let Entry::Vacant(entry) = objects.entry(pool) {
                entry.insert((st.pool(pool).backing.clone(), st.open_object(pool, inode.id, write)?));
            }
        }
        Ok(Self { len: file_len, runs, objects })
    }

    /// Reads as much as there is; holes are zeros.
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<usize> {
        let wanted = usize::try_from(self.len.saturating_sub(off)).unwrap_or(usize::MAX).min(buf.len());
        let buf = &mut buf[..wanted];
        let ahead = self.len == u64::MAX;
        if !ahead {
            buf.fill(0);
        }
        let mut got = 0;
        for (run, from, to) in self.parts(off, buf.len()) {
            let (backing, object) = &self.objects[&run.pool];
            let part = &mut buf[from..to];
            got = from + backing.read(object.as_fd(), part, off + from as u64)?;
        }
        Ok(if ahead { got } else { wanted })
    }

    /// Writes bytes for which there is memory already.
    fn write(&self, off: u64, data: &[u8]) -> Result<()> {
        for (run, from, to) in self.parts(off, data.len()) {
            let (backing, object) = &self.objects[&run.pool];
            backing.write(object.as_fd(), &data[from..to], off + from as u64)?;
        }
        Ok(())
    }

    /// Writes at the end of an object that is ahead of its file; returns how many bytes. The kernel does not let others write there in between.
    fn append(&self, data: &[u8]) -> Result<usize> {
        let ahead = self.objects.values().next().filter(|_| self.len == u64::MAX);
        let (backing, object) = ahead.ok_or_else(|| Error::internal("an append to what is not ahead"))?;
        backing.append(object.as_fd(), data)
    }

    /// The runs, with the parts of a buffer of `len` bytes at `off` that lie in them.
    fn parts(&self, off: u64, len: usize) -> impl Iterator<Item = (&PoolRun, usize, usize)> {
        let end = off + len as u64;
        self.runs.iter().filter_map(move |run| {
            let from = run.pages.offset().max(off);
            let to = (run.pages.offset() + run.pages.bytes()).min(end);
            let at = |byte: u64| usize::try_from(byte - off).ok();
            (from < to).then(|| Some((run, at(from)?, at(to)?)))?
        })
    }
}

impl Fs {
    /// Reads from `off` on until `buf` is full or the file ends; returns how many bytes. Holes read as zeros.
    pub fn read(&self, handle: FsHandle, off: u64, buf: &mut [u8]) -> Result<usize> {
        let inner = self.inner();
        let st = self.lock();
        let open = self.handle(&st, handle, false)?;
        inner.read_bytes(st, open.file, off, buf)
    }

    /// Writes bytes from `off` on; returns how many: fewer where the pool got full on the way. With `kill_suid` setuid and setgid go.
    pub fn write(&self, handle: FsHandle, off: u64, data: &[u8], kill_suid: bool) -> Result<usize> {
        self.write_at(handle, At::Offset(off), data, kill_suid)
    }

    /// [`Fs::write`] at the end, which nobody else can move between looking and writing.
    pub fn append(&self, handle: FsHandle, data: &[u8], kill_suid: bool) -> Result<usize> {
        self.write_at(handle, At::End, data, kill_suid)
    }

    fn write_at(&self, handle: FsHandle, at: At, data: &[u8], kill_suid: bool) -> Result<usize> {
        if let At::Offset(off) = at {
            check_end(off.saturating_add(data.len() as u64))?;
        }
        let st = self.lock();
        let open = self.handle(&st, handle, true)?;
        if data.is_empty() {
            return Ok(0);
        }
        let mut data = data;
        let mut st = Some(st);
        loop {
            let guard = st.take().unwrap_or_else(|| self.lock());
            // Only where pages end, so it needn't be the last word.
            let near = at.offset(&guard, open.file);
            match self.write_some(guard, open.file, at, data, kill_suid) {
                Err(e) if is_refused(&e) => match shorter(near, data) {
                    Some(less) => data = less,
                    None => return Err(e),
                },
                result => return result,
            }
        }
    }

    /// Writes all of `data`, or nothing; at the end of an object that is ahead, as much as there is room for.
    fn write_some(&self, st: Guard<'_>, file: FileId, at: At, data: &[u8], kill_suid: bool) -> Result<usize> {
        let inner = self.inner();
        let len = data.len() as u64;
        let mut st = inner.wait_still(st, file)?;
        let inode = st.ns.get(file).ok_or_else(|| gone(file))?;
        if kill_suid && without_suid(inode.mode) != inode.mode {
            let new = Inode { mode: without_suid(inode.mode), ..inode.clone() };
            inner.commit(&mut st, &[Change::Put(Box::new(new))])?;
        }
        let off = at.offset(&st, file);
        let (end, pages) = (off.saturating_add(len), PageRange::of_bytes(off, len));
        let inode = st.ns.get(file).ok_or_else(|| gone(file))?;
        let has_frames = end <= inode.len && inode.holes(pages).is_empty();
        if inode.ahead.is_some_and(|pool| st.is_counted(file, pool)) && !has_frames {
            return self.write_charged(st, file, at, data);
        }
        if inode.ahead.is_some() || has_frames {
            let place = Where::new(&st, inode, off, len, true)?;
            begin_io(&mut st, file);
            drop(st);
            let written = match at {
                // Not below the end of a file that isn't ahead: where that is, its object knows.
                At::End => place.append(data),
                At::Offset(_) => place.write(off, data).map(|()| data.len()),
            };
            let mut st = inner.end_io(file, place);
            self.wrote(&mut st, file);
            return written;
        }
        let st = inner.wait_idle(st, file)?;
        let inode = st.ns.get(file).ok_or_else(|| gone(file))?.clone();
        if inode.ahead.is_some() {
            return self.write_some(st, file, at, data, false);
        }
        // From here on nobody else makes it longer or shorter.
        let off = at.offset(&st, file);
        let end = off.saturating_add(len);
        check_end(end)?;
        let pages = (PageRange::of_bytes(off, len), Pools::Placed);
        let write = |inner: &Inner, filled: &[Extent]| inner.write_filled(&inode, filled, off, data);
        let (mut st, result) = inner.fill(st, &inode, pages, inode.len.max(end), Some(self.now()), write);
        if let Some(used) = st.live.get_mut(&file).and_then(|l| l.mount.as_mut()).filter(|_| result.is_ok()) {
            // It is in the journal already.
            used.wrote_ns = None;
        }
        result.map(|()| data.len())
    }

    /// Writes to an object that is ahead of its file, where what that takes is counted, for a quota or an emergency: frames first, as everywhere, since
    /// programs that the kernel serves are not asked.
    fn write_charged(&self, st: Guard<'_>, file: FileId, at: At, data: &[u8]) -> Result<usize> {
        let inner = self.inner();
        let mut st = inner.wait_idle(st, file)?;
        inner.absorb(&mut st, file)?;
        let off = at.offset(&st, file);
        check_end(off.saturating_add(data.len() as u64))?;
        let kept = match inner.reserve_ahead(&mut st, file, PageRange::of_bytes(off, data.len() as u64)) {
            Ok(kept) => kept,
            Err(e) => {
                inner.tell_no_room(&mut st, file, &e, data.len() as u64);
                return Err(e);
            }
        };
        let (mut st, written) = inner.with_ahead(st, file, "write", |backing, object| match at {
            At::End => backing.append(object, data),
            At::Offset(_) => backing.write(object, data, off).map(|()| data.len()),
        });
        // They are for what is absorbed now.
        st.free(&kept);
        inner.absorb(&mut st, file)?;
        written
    }

    /// The handle, open for reading, or for writing if `write` says so.
    pub(super) fn handle(&self, st: &State, handle: FsHandle, write: bool) -> Result<MountHandle> {
        let open = st.handles.get(&handle).filter(|open| if write { open.write } else { open.read });
        open.copied().ok_or_else(|| {
            Error::new(ErrorKind::BadHandle, format!("handle {} is not open for this", handle.0))
        })
    }

    /// The daemon has written to the file: its time is journalled later, with the next change or when it is closed.
    pub(super) fn wrote(&self, st: &mut State, file: FileId) {
        let now = self.now();
        let ahead = st.ns.get(file).is_none_or(|inode| inode.ahead.is_some());
        if let Some(used) = st.live.get_mut(&file).and_then(|l| l.mount.as_mut()).filter(|_| !ahead) {
            used.wrote_ns = Some(now);
        }
    }

    /// Where the next data is from `off` on; `PastEnd` if there is none.
    pub fn seek_data(&self, handle: FsHandle, off: u64) -> Result<u64> {
        let (inode, len) = self.seekable(handle, off)?;
        let found = inode.data().into_iter().find(|pages| pages.offset() + pages.bytes() > off);
        let found = found.map(|pages| pages.offset().max(off)).filter(|at| *at < len);
        found.ok_or_else(|| past_end(off))
    }

    /// Where the next hole is from `off` on: the end counts as one. `PastEnd` if `off` is beyond it.
    pub fn seek_hole(&self, handle: FsHandle, off: u64) -> Result<u64> {
        let (inode, len) = self.seekable(handle, off)?;
        let mut at = off;
        for pages in inode.data() {
            let (start, end) = (pages.offset(), pages.offset() + pages.bytes());
            if start <= at && at < end {
                at = end;
            }
        }
        Ok(at.min(len))
    }

    fn seekable(&self, handle: FsHandle, off: u64) -> Result<(Inode, u64)> {
        let mut st = self.lock();
        let open = st.handles.get(&handle).copied();
        let open = open.ok_or_else(|| Error::new(ErrorKind::BadHandle, "the handle is not open"))?;
        self.inner().refresh(&mut st, open.file);
        let inode = st.ns.get(open.file).ok_or_else(|| gone(open.file))?;
        if off >= inode.len {
            return Err(past_end(off));
        }
        Ok((inode.clone(), inode.len))
    }

    /// Copies bytes from file to file, as copy_file_range(2): returns how many, which may be fewer than `len`.
    pub fn copy_range(
        &self,
        from: FsHandle,
        from_off: u64,
        to: FsHandle,
        to_off: u64,
        len: u64,
    ) -> Result<usize> {
        let len = len.min(COPY_MAX);
        let mut buf = vec![0; usize::try_from(len).unwrap_or(COPY_BYTES).min(COPY_BYTES)];
        let mut done = 0u64;
        while done < len {
            let want = usize::try_from(len - done).unwrap_or(COPY_BYTES).min(buf.len());
            let got = match self.read(from, from_off + done, &mut buf[..want]) {
                Ok(0) => break,
                Ok(got) => got,
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            };
            match self.write(to, to_off + done, &buf[..got], true) {
                Ok(put) => {
                    done += put as u64;
                    if put < got {
                        break;
                    }
                }
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(usize::try_from(done).unwrap_or(usize::MAX))
    }

    /// What fsync(2) asks for: all that was written is in memory that outlives the daemon, so only times are left to journal.
    pub fn sync(&self, handle: FsHandle) -> Result<()> {
        let mut st = self.lock();
        let open = st.handles.get(&handle).copied();
        let open = open.ok_or_else(|| Error::new(ErrorKind::BadHandle, "the handle is not open"))?;
        self.inner().flush_time(&mut st, open.file);
        self.inner().absorb(&mut st, open.file)?;
        self.inner().sync_bytes(st, open.file)
    }
}

impl Inner {
    /// Reads from `off` on until `buf` is full or the file ends, or comes to bytes that are gone; `Lost` where it begins with those.
    pub fn read_bytes(&self, st: Guard<'_>, file: FileId, off: u64, buf: &mut [u8]) -> Result<usize> {
        let mut st = self.wait_still(st, file)?;
        let inode = st.ns.get(file).ok_or_else(|| gone(file))?;
        if off > codax_core::namespace::LEN_MAX {
            return Ok(0);
        }
        let len = inode.len.saturating_sub(off).min(buf.len() as u64);
        let lost = inode.first_lost(PageRange::of_bytes(off, len)).filter(|_| len > 0);
        let there = lost.map_or(buf.len(), |lost| {
            usize::try_from(lost.offset().saturating_sub(off)).unwrap_or(usize::MAX).min(buf.len())
        });
        if let Some(lost) = lost.filter(|_| there == 0) {
            return Err(gone_bytes(&st, file, lost));
        }
        let buf = &mut buf[..there];
        let place = Where::new(&st, inode, off, buf.len() as u64, false)?;
        begin_io(&mut st, file);
        drop(st);
        let read = place.read(off, buf);
        let apart = place.objects.values().any(|(backing, _)| backing.is_closed_to_freeze());
        drop(self.end_io(file, place));
        match read {
            // What can't be read is known now, and so is what can.
            Err(_) if apart && self.note_damage(file) => self.read_bytes(self.lock(), file, off, buf),
            read => read,
        }
    }

    /// Writes bytes that are within the file, none of them in a hole.
    pub fn write_bytes(&self, mut st: Guard<'_>, file: FileId, off: u64, data: &[u8]) -> Result<()> {
        let inode = st.ns.get(file).ok_or_else(|| gone(file))?;
        let place = Where::new(&st, inode, off, data.len() as u64, true)?;
        begin_io(&mut st, file);
        drop(st);
        let written = place.write(off, data);
        drop(self.end_io(file, place));
        written
    }

    /// Makes what a file holds durable, as far as where it lies outlives the power.
    pub fn sync_bytes(&self, st: Guard<'_>, file: FileId) -> Result<()> {
        let mut st = self.wait_still(st, file)?;
        let inode = st.ns.get(file).ok_or_else(|| gone(file))?;
        let runs = extent::pool_runs(&inode.extents);
        let mut durable = runs.into_iter().filter(|run| st.pool(run.pool).record.persistent).peekable();
        if durable.peek().is_none() {
            return Ok(());
        }
        let durable: Vec<PoolRun> = durable.collect();
        let mut objects = BTreeMap::new();
        for pool in durable.iter().map(|run| run.pool) {
            objects.insert(pool, (st.pool(pool).backing.clone(), st.open_object(pool, file, true)?));
        }
        begin_io(&mut st, file);
        drop(st);
        let synced = durable.iter().try_for_each(|run| {
            let (backing, object) = &objects[&run.pool];
            backing.persist(object.as_fd(), run.pages)
        });
        drop(self.end_io(file, Where { len: 0, runs: Vec::new(), objects }));
        synced
    }

    /// The file can be moved again: not before our descriptors are gone, which would stand in the way of a lease.
    fn end_io(&self, file: FileId, place: Where) -> Guard<'_> {
        drop(place);
        let mut st = self.lock();
        if let Some(live) = st.live.get_mut(&file) {
            live.io -= 1;
            if live.io == 0 && (live.waiters > 0 || live.mount.is_none()) {
                self.changed.notify_all();
                self.reap(&mut st, file);
            }
        }
        st
    }

    /// Writes to pages of which some were just given memory, `filled`, and are not in the inode yet.
    fn write_filled(&self, inode: &Inode, filled: &[Extent], off: u64, data: &[u8]) -> Result<()> {
        let extents = extent::insert(&inode.extents, filled);
        let now = Inode { extents, ..inode.clone() };
        let place = Where::new(&self.lock(), &now, off, data.len() as u64, true)?;
        place.write(off, data)
    }
}

/// Whether there are no frames for what is written: where less is asked for, there may be.
fn is_refused(e: &Error) -> bool {
    matches!(e.kind, ErrorKind::NoSpace | ErrorKind::DeviceState | ErrorKind::QuotaExceeded)
}

/// Bytes of a file that are gone.
pub(crate) fn gone_bytes(st: &State, file: FileId, lost: PageRange) -> Error {
    Error::lost(format!(
        "{}: its bytes {}..{} are gone: they lay where the power keeps nothing, on a device that is not here, or in memory that is damaged (codax stat \
         says which)",
        st.path(file),
        lost.offset(),
        lost.offset() + lost.bytes()
    ))
}

fn begin_io(st: &mut State, file: FileId) {
    st.live.entry(file).or_default().io += 1;
}

/// The first half of `data`, up to the end of a page; `None` if that is all or nothing.
fn shorter(off: u64, data: &[u8]) -> Option<&[u8]> {
    let end = (off + data.len() as u64 / 2).next_multiple_of(PAGE_SIZE);
    let len = usize::try_from(end - off).ok().filter(|len| (1..data.len()).contains(len))?;
    Some(&data[..len])
}

fn past_end(off: u64) -> Error {
    Error::new(ErrorKind::PastEnd, format!("there is nothing at {off} and after it"))
}
