//! The frame table of a pool: a shared file in which every frame has a record, and which tools map and read without asking anyone.
//!
//! A file of little-endian words of 8 bytes (mode 0644):
//!
//! ```text
//! word 0        "codaxfrm"
//! word 1        bits 0..32 format version, bits 32..64 bytes in a record (16)
//! word 2        number of frames
//! word 3        length of the pool's name in bytes
//! word 4..36    the pool's name, padded with zeros
//! word 36..512  0
//! word 512..    two words for each frame (codax_core::frame)
//! ```
//!
//! It is derived from the journal: made anew at each start, under another name first, so that no reader ever sees an unfinished one. A
//! reader that has the one before mapped sees it stand still.

use crate::journal::storage::failed;
use crate::journal::wrong_version;
use codax_core::extent::FrameRun;
use codax_core::frame::{FrameFlags, FrameRecord, FrameState, PAGE_MAX, RECORD_BYTES};
use codax_core::name::NAME_MAX;
use codax_core::{Error, FileId, Frame, PageNo, Result};
use codax_os::words::SharedWords;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Version of the table's format.
pub const TABLE_VERSION: u32 = 1;

const MAGIC: u64 = u64::from_le_bytes(*b"codaxfrm");
const HEADER: usize = 512;
const RECORD: usize = RECORD_BYTES / 8;
const NAME: usize = 4;
const NAME_WORDS: usize = 32;
const _: () =
    assert!(HEADER * 8 == 4096 && RECORD == 2 && NAME_MAX <= NAME_WORDS * 8 && NAME + NAME_WORDS <= HEADER);

/// A pool's frame table, for the store that keeps it.
#[derive(Debug)]
pub struct FrameTable {
    words: SharedWords,
    frames: u64,
    /// Pins beyond the 255 that a record can hold, by frame. Its lock is the writers': changing a record takes a load and a store.
    beyond: Mutex<HashMap<u64, u32>>,
}

impl FrameTable {
    /// Makes the table of `pool` anew, with `frames` frames, all of them free. Its memory is taken at once: a store in it never fails.
    pub fn create(path: &Path, pool: &str, frames: u64) -> Result<Self> {
        if pool.len() > NAME_MAX {
            return Err(Error::invalid(format!("the pool's name {pool:?} has more than {NAME_MAX} bytes")));
        }
        let words = make(path, pool, frames);
        let words =
            words.map_err(|error| failed("make the frame table", &path.display().to_string(), &error))?;
        Ok(Self { words, frames, beyond: Mutex::default() })
    }

    /// The frames of `run` hold (or will hold) the pages of `file` from `first` on. Flags, pins and counts start from zero.
    ///
    /// # Panics
    /// As every method here does, when the frames are not the table's: the allocator hands out no others.
    pub fn assign(&self, run: FrameRun, file: FileId, first: PageNo, state: FrameState) {
        let mut beyond = self.lock();
        for at in self.numbers(run) {
            beyond.remove(&at);
            let page = shown_page(PageNo(first.0 + (at - run.frame.0)));
            self.put(at, FrameRecord { owner: Some(file), page, state, ..FrameRecord::default() });
        }
    }

    /// The frames of `run` are nobody's.
    pub fn free(&self, run: FrameRun) {
        let mut beyond = self.lock();
        for at in self.numbers(run) {
            beyond.remove(&at);
            self.put(at, FrameRecord::default());
        }
    }

    /// Sets or clears `flags`.
    pub fn set_flags(&self, run: FrameRun, flags: FrameFlags, on: bool) {
        let _writers = self.lock();
        for at in self.numbers(run) {
            let mut record = self.at(at);
            record.flags.set(flags, on);
            self.put(at, record);
        }
    }

    /// Changes the number of pins by `by`, and with it the flag `PINNED`.
    pub fn pins(&self, run: FrameRun, by: impl Into<i32>) {
        let by = by.into();
        let mut beyond = self.lock();
        for at in self.numbers(run) {
            let mut record = self.at(at);
            let pins = u32::from(record.pins) + beyond.get(&at).copied().unwrap_or(0);
            let pins = pins.saturating_add_signed(by);
            record.pins = u8::try_from(pins).unwrap_or(u8::MAX);
            record.flags.set(FrameFlags::PINNED, pins > 0);
            match pins - u32::from(record.pins) {
                0 => drop(beyond.remove(&at)),
                more => drop(beyond.insert(at, more)),
            }
            self.put(at, record);
        }
    }

    /// The record of a frame.
    #[must_use]
    pub fn get(&self, frame: Frame) -> FrameRecord {
        assert!(frame.0 < self.frames, "frame {frame} of {}", self.frames);
        self.at(frame.0)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        self.beyond.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn numbers(&self, run: FrameRun) -> std::ops::Range<u64> {
        let end = run.frame.0 + run.count.0;
        assert!(end <= self.frames, "frames {}..{end} of {}", run.frame, self.frames);
        run.frame.0..end
    }

    fn at(&self, frame: u64) -> FrameRecord {
        // Nobody else writes here, and what was encoded decodes.
        load(&self.words, frame).unwrap_or_default()
    }

    fn put(&self, frame: u64, record: FrameRecord) {
        let at = record_at(frame);
        for (i, word) in record.encode().into_iter().enumerate() {
            self.words.store(at + i, word);
        }
    }
}

/// What a record says of a page: files with holes may be longer than its field counts, and their pages beyond all show the last.
pub(crate) fn shown_page(page: PageNo) -> PageNo {
    page.min(PAGE_MAX)
}

/// A pool's frame table, for those who look. What they see of a frame that is changing may be half of the old and half of the new.
#[derive(Debug)]
pub struct TableReader {
    words: SharedWords,
    pool: String,
    frames: u64,
}

impl TableReader {
    /// Opens a table.
    pub fn open(path: &Path) -> Result<Self> {
        let what = path.display().to_string();
        let words = SharedWords::open_ro(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::not_found(format!("there is no frame table {what}")),
            _ => failed("open the frame table", &what, &error),
        })?;
        let damaged = |how: String| Error::corrupt(format!("{what} is not a whole frame table: {how}"));
        if words.len() < HEADER || words.load(0) != MAGIC {
            return Err(damaged("its header is missing".into()));
        }
        let [version, record_bytes] = halves(words.load(1));
        if version != TABLE_VERSION {
            return Err(wrong_version(&what, version, TABLE_VERSION));
        }
        if record_bytes as usize != RECORD_BYTES {
            return Err(damaged(format!("its records have {record_bytes} bytes")));
        }
        let frames = words.load(2);
        let room = (words.len() - HEADER) / RECORD;
        if usize::try_from(frames).ok() != Some(room) {
            return Err(damaged(format!("it says {frames} frames and has room for {room}")));
        }
        let pool = pool_name(&words).ok_or_else(|| damaged("its pool's name makes no sense".into()))?;
        Ok(Self { words, pool, frames })
    }

    /// The pool's name.
    #[must_use]
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// How many frames the pool has.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// The record of a frame; `Corrupt` if it can't be true, `Invalid` if there is no such frame.
    pub fn get(&self, frame: Frame) -> Result<FrameRecord> {
        if frame.0 >= self.frames {
            return Err(Error::invalid(format!(
                "pool {} has no frame {frame}, only {}",
                self.pool, self.frames
            )));
        }
        load(&self.words, frame.0)
    }
}

fn load(words: &SharedWords, frame: u64) -> Result<FrameRecord> {
    let at = record_at(frame);
    FrameRecord::decode([words.load(at), words.load(at + 1)])
}

/// The index of a frame's first word. The frame is the table's, so there is one.
#[allow(clippy::cast_possible_truncation, reason = "targets have 64 bits, and the words are mapped")]
const fn record_at(frame: u64) -> usize {
    HEADER + frame as usize * RECORD
}

fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

fn pool_name(words: &SharedWords) -> Option<String> {
    let len = usize::try_from(words.load(3)).ok().filter(|&len| len <= NAME_MAX)?;
    let bytes = (NAME..NAME + NAME_WORDS).flat_map(|i| words.load(i).to_le_bytes()).take(len).collect();
    String::from_utf8(bytes).ok()
}

/// Makes a table of free frames and puts it in the place of the one before.
fn make(path: &Path, pool: &str, frames: u64) -> io::Result<SharedWords> {
    let new = beside(path);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let count =
        usize::try_from(frames).ok().and_then(|frames| frames.checked_mul(RECORD)?.checked_add(HEADER));
    let count = count.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "too many frames"))?;
    let words = SharedWords::create(&new, count, 0o644)?;
    words.store(0, MAGIC);
    words.store(1, u64::from(TABLE_VERSION) | (RECORD_BYTES as u64) << 32);
    words.store(2, frames);
    words.store(3, pool.len() as u64);
    for (i, bytes) in pool.as_bytes().chunks(8).enumerate() {
        let word = std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(0));
        words.store(NAME + i, u64::from_le_bytes(word));
    }
    std::fs::rename(&new, path)?;
    Ok(words)
}

/// The name under which the successor of file `path` is made.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_core::{ErrorKind, PageCount};
    use std::os::unix::fs::PermissionsExt;

    fn run(frame: u64, count: u64) -> FrameRun {
        FrameRun { frame: Frame(frame), count: PageCount(count) }
    }

    #[test]
    fn a_reader_sees_what_was_assigned() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sim0");
        let table = FrameTable::create(&path, "sim0", 1000).unwrap();
        let reader = TableReader::open(&path).unwrap();
        assert_eq!((reader.pool(), reader.frames()), ("sim0", 1000));
        assert_eq!(reader.get(Frame(999)).unwrap(), FrameRecord::default());

        table.assign(run(10, 5), FileId(7), PageNo(1 << 20), FrameState::Used);
        table.set_flags(run(11, 1), FrameFlags::MOVING, true);
        let record = reader.get(Frame(11)).unwrap();
        assert_eq!((record.owner, record.page), (Some(FileId(7)), PageNo((1 << 20) + 1)));
        assert_eq!((record.state, record.flags), (FrameState::Used, FrameFlags::MOVING));
        assert_eq!(reader.get(Frame(15)).unwrap().owner, None);
        table.set_flags(run(11, 1), FrameFlags::MOVING, false);
        assert_eq!(reader.get(Frame(11)).unwrap().flags, FrameFlags::empty());
        table.free(run(10, 5));
        assert_eq!(reader.get(Frame(12)).unwrap(), FrameRecord::default());
        assert_eq!(reader.get(Frame(1000)).unwrap_err().kind, ErrorKind::Invalid);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }

    #[test]
    fn pins_count_beyond_what_a_record_shows() {
        let dir = tempfile::tempdir().unwrap();
        let table = FrameTable::create(&dir.path().join("t"), "dram", 4).unwrap();
        table.assign(run(0, 4), FileId(7), PageNo(0), FrameState::Used);
        for _ in 0..300 {
            table.pins(run(1, 2), 1);
        }
        assert_eq!(table.get(Frame(1)).pins, 255);
        for _ in 0..299 {
            table.pins(run(1, 2), -1);
        }
        assert_eq!((table.get(Frame(2)).pins, table.get(Frame(2)).flags), (1, FrameFlags::PINNED));
        table.pins(run(1, 2), -1);
        assert_eq!((table.get(Frame(2)).pins, table.get(Frame(2)).flags), (0, FrameFlags::empty()));
        assert_eq!(table.get(Frame(3)).pins, 0);
    }

    #[test]
    fn a_new_table_leaves_old_readers_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let before = FrameTable::create(&path, "dram", 4).unwrap();
        before.assign(run(0, 1), FileId(7), PageNo(0), FrameState::Used);
        let reader = TableReader::open(&path).unwrap();
        let _after = FrameTable::create(&path, "dram", 8).unwrap();
        assert_eq!(reader.get(Frame(0)).unwrap().owner, Some(FileId(7)));
        assert_eq!(TableReader::open(&path).unwrap().get(Frame(0)).unwrap().owner, None);
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        assert_eq!(TableReader::open(&path).unwrap_err().kind, ErrorKind::NotFound);
        drop(FrameTable::create(&path, "dram", 100).unwrap());
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 8, 4096, whole.len() - 16] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(TableReader::open(&path).is_err(), "cut at {cut}");
        }
        let mut newer = whole.clone();
        newer[8] = 2;
        std::fs::write(&path, &newer).unwrap();
        assert!(TableReader::open(&path).unwrap_err().message.contains("version 2"));
    }
}
