//! A DAX device that is mapped as such: the pool's frames are the device's own.
//!
//! There are no objects on it: which frames a file has is known here, as the store says it ([`Backing::bind`]). What stands for an object is a *token*, an
//! empty file beside the journal: who has it leased is the only one here that works on the file. Nobody else is ever given it, since a
//! descriptor of the device is all or nothing: those who may open the device map it by themselves, and are found by their mappings.

use super::{Backing, ObjectInfo, OnDevice, Shm, ShmOptions, os_error};
use crate::dax::{frames_of, units_of};
use codax_core::extent::{self, Extent, FrameRun};
use codax_core::request::DeviceRun;
use codax_core::{Error, FileId, Frame, PageCount, PageNo, PageRange, PoolId, Result};
use codax_os::copy::{Piece, SourceMap};
use codax_os::dax::{DaxDevice, DaxMap};
use codax_os::object;
use codax_os::process::{Held, Hold};
use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The pool that extents in here are said to be of: there is only one.
const HERE: PoolId = PoolId(0);

/// Files in the frames of a device.
#[derive(Debug)]
pub(crate) struct Devdax {
    tokens: Shm,
    device: DaxDevice,
    map: DaxMap,
    /// The byte of the device at which frame 0 is.
    data: u64,
    /// Pages of a unit.
    unit: u64,
    placed: Mutex<Placed>,
}

/// Which frames files have.
#[derive(Debug, Default)]
struct Placed {
    files: HashMap<FileId, FileFrames>,
    /// Whose token it is, by its inode number.
    tokens: HashMap<u64, FileId>,
    /// Units that could not be cleared or written to.
    unfit: Vec<FrameRun>,
}

#[derive(Debug, Default)]
struct FileFrames {
    extents: Vec<Extent>,
    /// Pages whose frames still hold what their last owner left.
    unclean: Vec<PageRange>,
}

/// Bytes of a file that lie together on the device.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Where on the device.
    at: u64,
    /// Where in the file.
    off: u64,
    len: u64,
}

impl Devdax {
    /// The files on `device`, whose frame 0 is at byte `data`. Their tokens are in `tokens`.
    pub fn new(device: DaxDevice, tokens: &Path, data: u64, unit: u64) -> Result<Self> {
        let failed = |e: std::io::Error| os_error("map", &device.path().display(), &e);
        let map = device.map(0, device.len()).map_err(failed)?;
        let tokens = Shm::new(tokens, ShmOptions::default())?;
        let placed = Placed {
            tokens: tokens.list()?.into_iter().map(|(file, info)| (info.identity.1, file)).collect(),
            ..Placed::default()
        };
        Ok(Self { tokens, device, map, data, unit, placed: Mutex::new(placed) })
    }

    fn placed(&self) -> MutexGuard<'_, Placed> {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, file: FileId, token: OwnedFd) -> Result<OwnedFd> {
        let stat = object::stat(&token).map_err(|e| os_error("look at the token of", &file, &e))?;
        self.placed().tokens.insert(stat.ino, file);
        Ok(token)
    }

    fn file_of(&self, token: BorrowedFd<'_>) -> Result<(FileId, u64)> {
        let stat = object::stat(token).map_err(|e| os_error("look at", &"a token", &e))?;
        let file = self.placed().tokens.get(&stat.ino).copied();
        Ok((file.ok_or_else(|| Error::internal("a token of no file"))?, stat.len))
    }

    /// Frames that have room on the device behind where its data begins.
    fn frames(&self) -> u64 {
        self.device.len().saturating_sub(self.data) / PageCount(1).bytes()
    }

    fn byte_of(&self, frame: Frame) -> u64 {
        self.data + PageCount(frame.0).bytes()
    }

    /// Where bytes of a file are; what has no frame is left out.
    fn parts(&self, file: FileId, off: u64, len: u64) -> Vec<Part> {
        let placed = self.placed();
        let Some(frames) = placed.files.get(&file) else { return Vec::new() };
        let end = off.saturating_add(len);
        let part = |e: Extent| {
            let (from, to) = (e.page.offset().max(off), (e.page.offset() + e.count.bytes()).min(end));
            let at = self.byte_of(e.frame) + (from - e.page.offset());
            (from < to).then_some(Part { at, off: from, len: to - from })
        };
        extent::slice(&frames.extents, PageRange::of_bytes(off, len)).into_iter().filter_map(part).collect()
    }

    /// Where pages of a file are, however many.
    fn whole_parts(&self, file: FileId, pages: PageRange) -> Vec<Part> {
        let placed = self.placed();
        let Some(frames) = placed.files.get(&file) else { return Vec::new() };
        let part = |e: Extent| Part { at: self.byte_of(e.frame), off: e.page.offset(), len: e.count.bytes() };
        extent::slice(&frames.extents, pages).into_iter().map(part).collect()
    }

    /// What can't be read or written: the memory is damaged, or the device has gone.
    fn unreachable(&self, what: &str, part: Part, done: u64) -> Error {
        Error::lost(format!(
            "{}: {what} ends at byte {} of the device: its memory is damaged there, or the device has gone",
            self.device.path().display(),
            part.at + done
        ))
    }

    /// Bytes could not be cleared, written or made durable: the units of those that are damaged are unfit for others, too.
    fn note_unfit(&self, part: Part) {
        let damaged = self.map.unreadable(part.at, part.len).unwrap_or_default();
        if damaged.is_empty() || !self.is_there() {
            return;
        }
        let mut placed = self.placed();
        for unit in frames_of(&damaged, self.data, self.unit, self.frames()) {
            if !placed.unfit.contains(&unit) {
                placed.unfit.push(unit);
            }
        }
    }

    fn stopped(&self, what: &str, part: Part, done: u64) -> Error {
        self.note_unfit(part);
        self.unreachable(what, part, done)
    }

    /// Whether a page can be read.
    fn is_whole(&self, at: u64) -> bool {
        self.map.unreadable(at, PageCount(1).bytes()).is_ok_and(|found| found.is_empty())
    }

    /// Whether what can't be read is damaged: of a device that goes mappings are empty before its driver has left it, and then neither superblock can be read.
    fn is_there(&self) -> bool {
        let last = self.map.len() - PageCount(1).bytes();
        (self.is_whole(0) || self.is_whole(last)) && self.gone().is_none()
    }

    fn failed(&self, what: &str, e: &std::io::Error) -> Error {
        os_error(what, &self.device.path().display(), e)
    }

    /// Makes zeros of pages that still hold what their last owner left.
    fn clean(&self, file: FileId, pages: PageRange) -> Result<()> {
        let unclean: Vec<PageRange> = {
            let placed = self.placed();
            let all = placed.files.get(&file).map(|frames| &frames.unclean[..]).unwrap_or_default();
            all.iter().filter_map(|run| run.intersect(pages)).collect()
        };
        for run in unclean {
            for part in self.parts(file, run.offset(), run.bytes()) {
                let done = self.map.zero(part.at, part.len).map_err(|e| self.failed("clear", &e))?;
                if done < part.len {
                    return Err(self.stopped("clearing", part, done));
                }
                // A frame that can't be read may seem to take zeros.
                self.map
                    .persist(part.at, part.len)
                    .inspect_err(|_| self.note_unfit(part))
                    .map_err(|e| self.failed("make durable", &e))?;
            }
            if let Some(frames) = self.placed().files.get_mut(&file) {
                frames.unclean = frames.unclean.iter().flat_map(|left| left.without(run)).collect();
            }
        }
        Ok(())
    }
}

impl Backing for Devdax {
    fn object_len(&self, len: u64) -> u64 {
        len.next_multiple_of(PageCount(self.unit).bytes())
    }

    fn create(&self, file: FileId, len: u64) -> Result<OwnedFd> {
        self.known(file, self.tokens.create(file, self.object_len(len))?)
    }

    fn open(&self, file: FileId, write: bool) -> Result<OwnedFd> {
        self.known(file, self.tokens.open(file, write)?)
    }

    fn remove(&self, file: FileId) -> Result<()> {
        self.tokens.remove(file)?;
        let mut placed = self.placed();
        placed.files.remove(&file);
        placed.tokens.retain(|_, its| *its != file);
        Ok(())
    }

    fn device(&self) -> Result<u64> {
        self.tokens.device()
    }

    fn list(&self) -> Result<Vec<(FileId, ObjectInfo)>> {
        let mut objects = self.tokens.list()?;
        let placed = self.placed();
        for (file, info) in &mut objects {
            let extents = placed.files.get(file).map(|frames| &frames.extents[..]).unwrap_or_default();
            info.allocated = PageCount(extents.iter().map(|e| e.count.0).sum());
        }
        Ok(objects)
    }

    fn strays(&self) -> Result<Vec<String>> {
        self.tokens.strays()
    }

    fn bind(&self, file: FileId, extents: &[Extent]) -> Result<()> {
        let mut placed = self.placed();
        let frames = placed.files.entry(file).or_default();
        for e in extents {
            frames.extents = extent::insert(&frames.extents, &[Extent { pool: HERE, ..*e }]);
            frames.unclean.push(e.pages());
        }
        Ok(())
    }

    fn adopt(&self, file: FileId, len: u64, extents: &[Extent]) -> Result<()> {
        match self.create(file, len) {
            Err(e) if e.kind == codax_core::ErrorKind::Exists => {}
            other => drop(other?),
        }
        let mut placed = self.placed();
        let frames = placed.files.entry(file).or_default();
        frames.extents = extents.iter().map(|e| Extent { pool: HERE, ..*e }).collect();
        frames.unclean.clear();
        Ok(())
    }

    fn on_device(&self, file: FileId, pages: &[PageRange]) -> Option<OnDevice> {
        let part = |part: Part| DeviceRun { pages: PageRange::of_bytes(part.off, part.len), at: part.at };
        let runs = pages.iter().flat_map(|run| self.parts(file, run.offset(), run.bytes())).map(part);
        let path = self.device.path().display().to_string();
        Some(OnDevice { pool: HERE, path, rdev: self.device.id().number, runs: runs.collect() })
    }

    fn source(&self, file: FileId, _object: BorrowedFd<'_>, len: u64) -> Result<SourceMap> {
        let piece = |part: Part| Piece { at: part.off, fd: &self.device, fd_off: part.at, len: part.len };
        let pieces: Vec<_> = self.parts(file, 0, self.object_len(len)).into_iter().map(piece).collect();
        SourceMap::of_pieces(&pieces).map_err(|e| self.failed("map a file on", &e))
    }

    fn is_closed_to_freeze(&self) -> bool {
        true
    }

    fn persist(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        let (file, _) = self.file_of(object)?;
        let parts = self.parts(file, pages.offset(), pages.bytes());
        parts
            .into_iter()
            .try_for_each(|part| self.map.persist(part.at, part.len))
            .map_err(|e| self.failed("make durable", &e))
    }

    fn mappings(&self) -> Result<Vec<Held>> {
        let id = self.device.id();
        let held = codax_os::process::holders_of_device(id.number, (id.dev, id.ino));
        let held = held.map_err(|e| os_error("look through", &"/proc", &e))?;
        Ok(held.into_iter().filter(|h| matches!(h.what, Hold::Mapped { .. })).collect())
    }

    fn is_mapped(&self, file: FileId, pages: &[PageRange], by: &Held) -> bool {
        let Hold::Mapped { off, len, .. } = by.what else { return false };
        let end = off.saturating_add(len);
        let mut parts = pages.iter().flat_map(|run| self.whole_parts(file, *run));
        parts.any(|part| part.at < end && off < part.at + part.len)
    }

    fn mapped(&self) -> Result<Vec<FrameRun>> {
        let run = |held: Held| match held.what {
            Hold::Mapped { off, len, .. } => Some(units_of(off, len, self.data, self.unit, self.frames())),
            Hold::Descriptor => None,
        };
        Ok(self.mappings()?.into_iter().filter_map(run).collect())
    }

    fn damaged(&self, file: FileId, pages: &[PageRange]) -> Result<Vec<PageRange>> {
        let failed = |e: std::io::Error| self.failed("look through", &e);
        let mut damaged = Vec::new();
        for part in pages.iter().flat_map(|run| self.parts(file, run.offset(), run.bytes())) {
            let found = self.map.unreadable(part.at, part.len).map_err(failed)?;
            damaged
                .extend(found.into_iter().map(|(at, len)| PageRange::of_bytes(at - part.at + part.off, len)));
        }
        Ok(if damaged.is_empty() || self.is_there() { damaged } else { Vec::new() })
    }

    fn unfit(&self) -> Vec<FrameRun> {
        self.placed().unfit.clone()
    }

    fn bad_frames(&self) -> Vec<FrameRun> {
        let bad = self.device.bad_blocks().unwrap_or_else(|e| {
            tracing::warn!("{}: its list of bad blocks: {e}", self.device.path().display());
            Vec::new()
        });
        frames_of(&bad, self.data, self.unit, self.frames())
    }

    fn gone(&self) -> Option<String> {
        self.device.gone().map(|e| e.to_string())
    }

    fn allocate(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        self.clean(self.file_of(object)?.0, pages)
    }

    fn make_ready(&self, object: BorrowedFd<'_>, pages: PageRange) {
        // The copy itself says what is wrong.
        let _ = self.allocate(object, pages);
    }

    fn before_write(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        self.allocate(object, pages.widened(self.unit))
    }

    fn resident(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<PageCount> {
        let (file, _) = self.file_of(object)?;
        let parts = self.parts(file, pages.offset(), pages.bytes());
        Ok(PageCount::for_bytes(parts.iter().map(|part| part.len).sum()))
    }

    fn tells_which(&self) -> bool {
        false
    }

    fn release(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()> {
        let (file, _) = self.file_of(object)?;
        if let Some(frames) = self.placed().files.get_mut(&file) {
            frames.extents = extent::remove(&frames.extents, pages).0;
            frames.unclean = frames.unclean.iter().flat_map(|left| left.without(pages)).collect();
        }
        Ok(())
    }

    fn resize(&self, object: BorrowedFd<'_>, len: u64) -> Result<()> {
        let len = self.object_len(len);
        self.tokens.resize(object, len)?;
        let end = PageCount::for_bytes(len);
        let cut = PageRange { start: PageNo(end.0), count: PageCount(u64::MAX - end.0) };
        let (file, _) = self.file_of(object)?;
        if self.whole_parts(file, cut).is_empty() {
            return Ok(());
        }
        // What is mapped stays known as the file's until it is given back.
        let mapped = self.mappings()?.iter().any(|held| self.is_mapped(file, &[cut], held));
        if mapped { Ok(()) } else { self.release(object, cut) }
    }

    fn read(&self, object: BorrowedFd<'_>, buf: &mut [u8], at: u64) -> Result<usize> {
        let (file, len) = self.file_of(object)?;
        let wanted = usize::try_from(len.saturating_sub(at)).unwrap_or(usize::MAX).min(buf.len());
        let buf = &mut buf[..wanted];
        buf.fill(0);
        for part in self.parts(file, at, wanted as u64) {
            let to = place(buf, at, part);
            let got = self.map.read(part.at, to).map_err(|e| self.failed("read", &e))?;
            if got < to.len() {
                return Err(self.unreachable("what can be read", part, got as u64));
            }
        }
        Ok(wanted)
    }

    fn write(&self, object: BorrowedFd<'_>, bytes: &[u8], at: u64) -> Result<()> {
        let (file, _) = self.file_of(object)?;
        let mut written = 0;
        for part in self.parts(file, at, bytes.len() as u64) {
            let from = usize::try_from(part.off - at).unwrap_or(usize::MAX);
            let from = &bytes[from..from + usize::try_from(part.len).unwrap_or(0)];
            let done = self.map.write(part.at, from).map_err(|e| self.failed("write", &e))?;
            if done < from.len() {
                return Err(self.stopped("what can be written", part, done as u64));
            }
            written += done;
        }
        if written == bytes.len() { Ok(()) } else { Err(Error::internal("a write to pages without frames")) }
    }

    fn append(&self, _object: BorrowedFd<'_>, _bytes: &[u8]) -> Result<usize> {
        Err(Error::internal("an append to an object whose end is not its file's"))
    }

    fn copy(&self, from: &SourceMap, at: u64, len: u64, to: BorrowedFd<'_>) -> Result<u64> {
        let (file, _) = self.file_of(to)?;
        let mut copied = 0;
        for part in self.parts(file, at, len) {
            let done = self
                .map
                .copy_from(part.at, from, part.off, part.len)
                .map_err(|e| self.failed("copy to", &e))?;
            copied += done;
            if done < part.len {
                // If it is here that it ended, and not where the bytes come from.
                self.note_unfit(part);
                break;
            }
        }
        Ok(copied)
    }

    fn sole_holder(&self, file: FileId) -> Result<Option<OwnedFd>> {
        let Some(lease) = self.lease(file)? else { return Ok(None) };
        let mapped = self.mappings()?.iter().any(|held| self.is_mapped(file, &[PageRange::ALL], held));
        Ok((!mapped).then_some(lease))
    }

    fn lease(&self, file: FileId) -> Result<Option<OwnedFd>> {
        self.tokens.sole_holder(file)?.map(|token| self.known(file, token)).transpose()
    }

    fn lock(&self, _file: FileId, _object: BorrowedFd<'_>, _pages: &[PageRange]) -> Result<()> {
        // A device is never swapped.
        Ok(())
    }

    fn unlock(&self, _file: FileId) {}
}

/// The part of a buffer for the bytes of a file from `at` on that a part goes to.
fn place(buf: &mut [u8], at: u64, part: Part) -> &mut [u8] {
    let from = usize::try_from(part.off - at).unwrap_or(usize::MAX);
    &mut buf[from..from + usize::try_from(part.len).unwrap_or(0)]
}
