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
//!
//! The store writes it through a mapping, a few nanoseconds for a record: each create, move and removal does so under the state's lock. It is a file of
//! the owner's, who may cut it, and the next store beyond its end is SIGBUS then. `check` finds it before ([`FrameTable::fault`]): that looks
//! through a descriptor, to which what lies beyond the end is zeros.

use crate::journal::storage::failed;
use crate::journal::wrong_version;
use codax_core::extent::FrameRun;
use codax_core::frame::{FrameFlags, FrameRecord, FrameState, PAGE_MAX, RECORD_BYTES};
use codax_core::name::NAME_MAX;
use codax_core::{Error, FileId, Frame, PageCount, PageNo, Result};
use codax_os::words::SharedWords;
use std::collections::HashMap;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
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

/// Records read in one call at most.
const AT_ONCE: usize = 4096;

/// A pool's frame table, for the store that keeps it.
#[derive(Debug)]
pub struct FrameTable {
    file: File,
    words: SharedWords,
    path: PathBuf,
    pool: String,
    frames: u64,
    /// Whether it is in its place, for others to see.
    published: bool,
    /// Pins beyond the 255 that a record can hold, by frame. Its lock is the writers': changing a record takes a load and a store.
    beyond: Mutex<HashMap<u64, u32>>,
}

impl FrameTable {
    /// Makes the table of `pool` anew, with `frames` frames, all of them free, and puts it in its place.
    pub fn create(path: &Path, pool: &str, frames: u64) -> Result<Self> {
        let mut table = Self::prepare(path, pool, frames)?;
        table.publish()?;
        Ok(table)
    }

    /// Makes a table that is not in its place before [`FrameTable::publish`], and leaves nothing if that never comes. Its memory is
    /// taken at once: a store in it needs none.
    pub fn prepare(path: &Path, pool: &str, frames: u64) -> Result<Self> {
        if pool.len() > NAME_MAX {
            return Err(Error::invalid(format!("the pool's name {pool:?} has more than {NAME_MAX} bytes")));
        }
        let made = make(path, pool, frames).and_then(|file| Ok((file, SharedWords::open_rw(&beside(path))?)));
        let (file, words) =
            made.map_err(|error| failed("make the frame table", &path.display().to_string(), &error))?;
        Ok(Self {
            file,
            words,
            path: path.to_owned(),
            pool: pool.to_owned(),
            frames,
            published: false,
            beyond: Mutex::default(),
        })
    }

    /// Puts the table in the place of the one before.
    pub fn publish(&mut self) -> Result<()> {
        if !self.published {
            std::fs::rename(beside(&self.path), &self.path).map_err(|error| {
                failed("publish the frame table", &self.path.display().to_string(), &error)
            })?;
            self.published = true;
        }
        Ok(())
    }

    /// Where it is, or will be.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong with the file itself, if something is: who owns it may have cut it, written to it or put another in its place.
    pub fn fault(&self) -> Result<Option<String>> {
        let what = self.path.display().to_string();
        let look = |error: &io::Error| failed("look at the frame table", &what, error);
        let ours = self.file.metadata().map_err(|e| look(&e))?;
        match std::fs::symlink_metadata(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Some("is missing".into())),
            Err(e) => return Err(look(&e)),
            Ok(there) if (there.dev(), there.ino()) != (ours.dev(), ours.ino()) => {
                return Ok(Some("is another file than the store's".into()));
            }
            Ok(_) => {}
        }
        let whole = offset(self.frames);
        if ours.len() != whole {
            return Ok(Some(format!("has {} bytes, not {whole}", ours.len())));
        }
        let mut header = vec![0; HEADER * 8];
        self.file.read_exact_at(&mut header, 0).map_err(|e| look(&e))?;
        Ok((header != self::header(&self.pool, self.frames)).then(|| "has a damaged header".into()))
    }

    /// The frames of `run` hold (or will hold) the pages of `file` from `first` on. Flags, pins and counts start from zero.
    ///
    /// # Panics
    /// As every method here does, when the frames are not the table's: the allocator hands out no others.
    pub fn assign(&self, run: FrameRun, file: FileId, first: PageNo, state: FrameState) {
        let mut beyond = self.lock();
        forget(&mut beyond, self.numbers(run));
        self.write(run, |at| {
            let page = shown_page(PageNo(first.0 + (at - run.frame.0)));
            FrameRecord { owner: Some(file), page, state, ..FrameRecord::default() }
        });
    }

    /// The frames of `run` are taken by somebody that the journal doesn't know yet.
    pub fn reserve(&self, run: FrameRun) {
        let mut beyond = self.lock();
        forget(&mut beyond, self.numbers(run));
        self.write(run, |_| FrameRecord { state: FrameState::Reserved, ..FrameRecord::default() });
    }

    /// The frames of `run` are nobody's.
    pub fn free(&self, run: FrameRun) {
        let mut beyond = self.lock();
        forget(&mut beyond, self.numbers(run));
        self.write(run, |_| FrameRecord::default());
    }

    /// The frames of `run` are never used again: their memory is damaged.
    pub fn retire(&self, run: FrameRun) {
        let mut beyond = self.lock();
        forget(&mut beyond, self.numbers(run));
        let (state, flags) = (FrameState::Retired, FrameFlags::POISONED);
        self.write(run, |_| FrameRecord { state, flags, ..FrameRecord::default() });
    }

    /// Whether a frame is never used again.
    pub fn is_retired(&self, frame: Frame) -> bool {
        let mut retired = false;
        self.for_each(FrameRun { frame, count: PageCount(1) }, |_, record| {
            retired = record.is_ok_and(|record| record.state == FrameState::Retired);
        });
        retired
    }

    /// Sets or clears `flags`.
    pub fn set_flags(&self, run: FrameRun, flags: FrameFlags, on: bool) {
        let _writers = self.lock();
        self.change(run, |_, record| record.flags.set(flags, on));
    }

    /// Changes the number of pins by `by`, and with it the flag `PINNED`.
    pub fn pins(&self, run: FrameRun, by: impl Into<i32>) {
        let by = by.into();
        let mut beyond = self.lock();
        self.change(run, |at, record| {
            let pins = u32::from(record.pins) + beyond.get(&at).copied().unwrap_or(0);
            let pins = pins.saturating_add_signed(by);
            record.pins = u8::try_from(pins).unwrap_or(u8::MAX);
            record.flags.set(FrameFlags::PINNED, pins > 0);
            match pins - u32::from(record.pins) {
                0 => drop(beyond.remove(&at)),
                more => drop(beyond.insert(at, more)),
            }
        });
    }

    /// The record of a frame.
    #[must_use]
    pub fn get(&self, frame: Frame) -> FrameRecord {
        let mut record = FrameRecord::default();
        self.for_each(FrameRun { frame, count: PageCount(1) }, |_, found| record = found.unwrap_or_default());
        record
    }

    /// Shows `look` the record of each frame of `run`: an error for one that can't be true.
    pub fn for_each(&self, run: FrameRun, mut look: impl FnMut(Frame, Result<FrameRecord>)) {
        for part in self.parts(run) {
            let bytes = self.read(&part);
            for (at, record) in part.zip(bytes.as_chunks::<RECORD_BYTES>().0) {
                look(Frame(at), decode(record));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        self.beyond.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn numbers(&self, run: FrameRun) -> Range<u64> {
        let end = run.frame.0 + run.count.0;
        assert!(end <= self.frames, "frames {}..{end} of {}", run.frame, self.frames);
        run.frame.0..end
    }

    /// The frames of `run`, as many at a time as are read in one call.
    fn parts(&self, run: FrameRun) -> impl Iterator<Item = Range<u64>> + use<> {
        let all = self.numbers(run);
        let end = all.end;
        all.step_by(AT_ONCE).map(move |from| from..end.min(from + AT_ONCE as u64))
    }

    /// The bytes of these records; zeros where the file has none.
    fn read(&self, frames: &Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; bytes_of(frames)];
        let mut done = 0;
        while done < bytes.len() {
            match self.file.read_at(&mut bytes[done..], offset(frames.start) + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    tracing::warn!("read the frame table {}: {e}", self.path.display());
                    break;
                }
            }
        }
        bytes
    }

    fn write(&self, run: FrameRun, record: impl Fn(u64) -> FrameRecord) {
        self.numbers(run).for_each(|at| self.put(at, &record(at)));
    }

    fn change(&self, run: FrameRun, mut change: impl FnMut(u64, &mut FrameRecord)) {
        for at in self.numbers(run) {
            // Nobody else is to write here, and what was encoded decodes.
            let mut record = load(&self.words, at).unwrap_or_default();
            change(at, &mut record);
            self.put(at, &record);
        }
    }

    fn put(&self, frame: u64, record: &FrameRecord) {
        let at = record_at(frame);
        for (i, word) in record.encode().into_iter().enumerate() {
            self.words.store(at + i, word);
        }
    }
}

impl Drop for FrameTable {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_file(beside(&self.path));
        }
    }
}

/// Pins of frames that get another owner are nobody's.
fn forget(beyond: &mut HashMap<u64, u32>, frames: Range<u64>) {
    if !beyond.is_empty() {
        beyond.retain(|at, _| !frames.contains(at));
    }
}

fn decode(bytes: &[u8; RECORD_BYTES]) -> Result<FrameRecord> {
    let word = |from: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[from + i]));
    FrameRecord::decode([word(0), word(8)])
}

#[allow(clippy::cast_possible_truncation, reason = "parts are small")]
fn bytes_of(frames: &Range<u64>) -> usize {
    (frames.end - frames.start) as usize * RECORD_BYTES
}

/// Where a frame's record begins in the file, in bytes.
const fn offset(frame: u64) -> u64 {
    HEADER as u64 * 8 + frame * RECORD_BYTES as u64
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
        let open = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Error::not_found(format!("there is no frame table {what}")),
            _ => failed("open the frame table", &what, &error),
        };
        let damaged = |how: String| {
            Error::corrupt(format!(
                "{what} is not a whole frame table: {how}; codax check --repair makes it anew"
            ))
        };
        let file = File::open(path).map_err(open)?;
        let len = file.metadata().map_err(open)?.len();
        // What is empty can't be mapped.
        if len < offset(0) {
            return Err(damaged(format!("it was cut to {len} bytes")));
        }
        let words = SharedWords::from_fd_ro(file).map_err(open)?;
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

/// Makes a table of free frames beside the one before.
fn make(path: &Path, pool: &str, frames: u64) -> io::Result<File> {
    let new = beside(path);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let bytes = frames.checked_mul(RECORD_BYTES as u64).and_then(|bytes| bytes.checked_add(offset(0)));
    let bytes = bytes.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "too many frames"))?;
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(&new)?;
    let filled = || {
        // Whatever the umask says: everybody may read it.
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.set_len(bytes)?;
        codax_os::object::allocate(&file, 0, bytes)?;
        file.write_all_at(&header(pool, frames), 0)
    };
    if let Err(error) = filled() {
        let _ = std::fs::remove_file(&new);
        return Err(error);
    }
    Ok(file)
}

/// The bytes before the records.
fn header(pool: &str, frames: u64) -> Vec<u8> {
    let version = u64::from(TABLE_VERSION) | (RECORD_BYTES as u64) << 32;
    let words = [MAGIC, version, frames, pool.len() as u64];
    let mut bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    bytes.extend(pool.as_bytes());
    bytes.resize(HEADER * 8, 0);
    bytes
}

/// The name under which the successor of file `path` is made.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

/// Whether a file of this name is one that [`beside`] named.
pub(crate) fn is_unfinished(name: &std::ffi::OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b".") && name.ends_with(b".new")
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
    fn a_table_that_nobody_publishes_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let before = FrameTable::create(&path, "dram", 4).unwrap();
        before.assign(run(0, 1), FileId(7), PageNo(0), FrameState::Used);
        drop(FrameTable::prepare(&path, "dram", 4).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(TableReader::open(&path).unwrap().get(Frame(0)).unwrap().owner, Some(FileId(7)));
        assert_eq!(before.fault().unwrap(), None);
    }

    #[test]
    fn a_table_that_somebody_cuts_or_writes_to_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let table = FrameTable::create(&path, "dram", 10_000).unwrap();
        let found = || table.fault().unwrap().unwrap_or_default();
        let whole = std::fs::read(&path).unwrap();
        for at in [0, 8, 16, 24, 32, 4095] {
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[0xff], at).unwrap();
            assert!(found().contains("header"), "byte {at}");
            file.write_all_at(&whole[..4096], 0).unwrap();
            assert_eq!(table.fault().unwrap(), None);
        }
        std::fs::write(&path, b"").unwrap();
        assert!(found().contains("has 0 bytes"), "{}", found());
        assert_eq!(table.get(Frame(9999)), FrameRecord::default());
        std::fs::remove_file(&path).unwrap();
        assert!(found().contains("missing"));
        std::fs::write(&path, &whole).unwrap();
        assert!(found().contains("another file"));
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
            let error = TableReader::open(&path).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Corrupt, "cut at {cut}: {error}");
        }
        let mut newer = whole.clone();
        newer[8] = 2;
        std::fs::write(&path, &newer).unwrap();
        assert!(TableReader::open(&path).unwrap_err().message.contains("version 2"));
    }
}
