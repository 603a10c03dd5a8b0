//! The names file: which path belongs to which id, for tools that read the frame table when no daemon is there.
//!
//! An append-only file (mode 0600: names are for the store's owner only). Little-endian:
//!
//! ```text
//! header   0..8   "codaxnam"    8..12  format version    12..16  0
//! record   0..4   length of the name in bytes, 0 for "has no name any more"
//!          4..8   crc32c of bytes 0..4 and of everything from byte 8 on
//!          8..16  id     16..24  id of the directory     24..  name
//! ```
//!
//! The last record on an id counts. It is derived from the journal and written anew at each start; so its reader takes what checks and
//! stops at the first record that doesn't (the last one may be torn).

use crate::table::beside;
use codax_core::{Error, FileId, ROOT, Result};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

const MAGIC: &[u8; 8] = b"codaxnam";
const VERSION: u32 = 1;
const HEADER: usize = 16;
const RECORD: usize = 24;

/// Garbage below this many bytes is left where it is.
const GARBAGE_KEPT: u64 = 64 << 10;

/// What a names file says: parent and name of each id.
pub type Names = HashMap<FileId, (FileId, Vec<u8>)>;

/// The names file, open for appending.
#[derive(Debug)]
pub struct NamesFile {
    path: PathBuf,
    /// Taken, before `end`, by those who write the file anew.
    rewriting: Mutex<()>,
    end: Mutex<End>,
}

#[derive(Debug)]
struct End {
    file: File,
    /// Length of the file in bytes.
    len: u64,
    /// Bytes of the records that were there when it was last written anew; what was appended since may be garbage.
    fresh: u64,
    record: Vec<u8>,
}

impl NamesFile {
    /// Writes the file anew, with `names` of (id, parent, name).
    pub fn rewrite<'a>(path: &Path, names: impl Iterator<Item = (FileId, FileId, &'a [u8])>) -> Result<Self> {
        let made = write_new(path, names).and_then(|(file, len)| {
            std::fs::rename(beside(path), path)?;
            Ok((file, len))
        });
        let (file, len) = made.map_err(|error| failed("write", path, &error))?;
        let end = End { file, len, fresh: len, record: Vec::new() };
        Ok(Self { path: path.to_owned(), rewriting: Mutex::default(), end: Mutex::new(end) })
    }

    /// Writes the file anew, as [`NamesFile::rewrite`] does, in place of one that somebody has damaged. Nobody may change names meanwhile.
    pub fn restore<'a>(&self, names: impl Iterator<Item = (FileId, FileId, &'a [u8])>) -> Result<()> {
        let _alone = self.rewriting.lock().unwrap_or_else(PoisonError::into_inner);
        let Self { end, .. } = Self::rewrite(&self.path, names)?;
        *self.end() = end.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(())
    }

    /// Reads the file as others see it.
    pub fn read(&self) -> Result<Names> {
        read(&self.path)
    }

    /// `id` is `name` in `parent` now.
    pub fn set(&self, id: FileId, parent: FileId, name: &[u8]) -> Result<()> {
        let mut end = self.end();
        let End { file, len, record, .. } = &mut *end;
        record.clear();
        put_record(record, id, parent, name);
        // A write that came up short is written over by the next one: no record is left torn in the middle.
        file.write_all_at(record, *len).map_err(|error| failed("write", &self.path, &error))?;
        *len += record.len() as u64;
        Ok(())
    }

    /// `id` has no name any more.
    pub fn remove(&self, id: FileId) -> Result<()> {
        self.set(id, FileId(0), &[])
    }

    /// Writes the file anew if more than half of it may be garbage. For a background thread: nobody waits but for the last step.
    pub fn maintain(&self) -> Result<()> {
        let _alone = self.rewriting.lock().unwrap_or_else(PoisonError::into_inner);
        let len = {
            let end = self.end();
            if end.len < 2 * end.fresh + GARBAGE_KEPT {
                return Ok(());
            }
            end.len
        };
        let bytes = std::fs::read(&self.path).map_err(|error| failed("read", &self.path, &error))?;
        // What was appended since `len` was read is appended again below.
        let before = bytes.get(..usize::try_from(len).unwrap_or(usize::MAX)).unwrap_or(&bytes);
        let names = parse(before, &self.path)?;
        drop(bytes);
        let live = names.iter().map(|(&id, (parent, name))| (id, *parent, &name[..]));
        let swap = || -> io::Result<()> {
            let (file, fresh) = write_new(&self.path, live)?;
            let mut end = self.end();
            let mut since = vec![0; usize::try_from(end.len - len).map_err(io::Error::other)?];
            end.file.read_exact_at(&mut since, len)?;
            file.write_all_at(&since, fresh)?;
            std::fs::rename(beside(&self.path), &self.path)?;
            (end.file, end.len, end.fresh) = (file, fresh + since.len() as u64, fresh);
            Ok(())
        };
        swap().map_err(|error| failed("write", &self.path, &error))
    }

    fn end(&self) -> MutexGuard<'_, End> {
        // Nothing in there can panic half-way.
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a names file.
pub fn read(path: &Path) -> Result<Names> {
    let bytes = std::fs::read(path).map_err(|error| failed("read", path, &error))?;
    parse(&bytes, path)
}

/// The path of `id` with a leading `/`, if `names` lead up to the root.
#[must_use]
pub fn path_of(names: &Names, id: FileId) -> Option<Vec<u8>> {
    let mut components = Vec::new();
    let mut at = id;
    while at != ROOT {
        let (parent, name) = names.get(&at)?;
        components.push(name);
        at = *parent;
        if components.len() > names.len() {
            // Only a damaged file goes in circles.
            return None;
        }
    }
    if components.is_empty() {
        return Some(b"/".to_vec());
    }
    Some(components.iter().rev().fold(Vec::new(), |mut path, name| {
        path.push(b'/');
        path.extend_from_slice(name);
        path
    }))
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> Error {
    crate::journal::storage::failed(doing, &path.display().to_string(), error)
}

/// Writes a whole file beside `path` and returns it with its length.
fn write_new<'a>(
    path: &Path,
    names: impl Iterator<Item = (FileId, FileId, &'a [u8])>,
) -> io::Result<(File, u64)> {
    let path = beside(path);
    // One that was left by a start cut short could have been opened by somebody: begin with a file of our own.
    if let Err(error) = std::fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    let mut bytes = Vec::with_capacity(1 << 16);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.resize(HEADER, 0);
    let mut len = 0;
    for (id, parent, name) in names {
        put_record(&mut bytes, id, parent, name);
        if bytes.len() >= 1 << 16 {
            file.write_all(&bytes)?;
            len += bytes.len() as u64;
            bytes.clear();
        }
    }
    file.write_all(&bytes)?;
    Ok((file, len + bytes.len() as u64))
}

fn put_record(bytes: &mut Vec<u8>, id: FileId, parent: FileId, name: &[u8]) {
    let at = bytes.len();
    // Names have at most 255 bytes.
    let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
    bytes.extend(len.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(id.0.to_le_bytes());
    bytes.extend(parent.0.to_le_bytes());
    bytes.extend_from_slice(name);
    let check = record_check(&bytes[at..]);
    bytes[at + 4..at + 8].copy_from_slice(&check.to_le_bytes());
}

fn record_check(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..4]), &record[8..])
}

fn parse(bytes: &[u8], path: &Path) -> Result<Names> {
    let header = bytes.split_first_chunk::<HEADER>();
    let (header, mut rest) = header
        .filter(|(header, _)| header.starts_with(MAGIC))
        .ok_or_else(|| Error::corrupt(format!("{} is not a names file", path.display())))?;
    let version = u32::from_le_bytes(std::array::from_fn(|i| header[8 + i]));
    if version != VERSION {
        return Err(crate::journal::wrong_version(&path.display().to_string(), version, VERSION));
    }
    let mut names = Names::new();
    while let Some((id, parent, name)) = next_record(&mut rest) {
        if name.is_empty() {
            names.remove(&id);
        } else {
            names.insert(id, (parent, name.to_vec()));
        }
    }
    Ok(names)
}

fn next_record<'a>(rest: &mut &'a [u8]) -> Option<(FileId, FileId, &'a [u8])> {
    let head = rest.first_chunk::<RECORD>()?;
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
    let len = usize::try_from(word(0) & 0xffff_ffff).ok()?;
    let record = rest.get(..RECORD.checked_add(len)?)?;
    if u64::from(record_check(record)) != word(0) >> 32 {
        return None;
    }
    *rest = &rest[record.len()..];
    Some((FileId(word(8)), FileId(word(16)), &record[RECORD..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u64, parent: u64, name: &str) -> (FileId, (FileId, Vec<u8>)) {
        (FileId(id), (FileId(parent), name.as_bytes().to_vec()))
    }

    #[test]
    fn names_are_read_back_and_the_last_word_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names");
        let start = [(FileId(2), ROOT, &b"a"[..]), (FileId(3), FileId(2), b"b")];
        let file = NamesFile::rewrite(&path, start.into_iter()).unwrap();
        file.set(FileId(4), FileId(2), b"c\xff").unwrap();
        file.set(FileId(3), ROOT, b"moved").unwrap();
        file.set(FileId(5), ROOT, b"gone").unwrap();
        file.remove(FileId(5)).unwrap();
        let names = read(&path).unwrap();
        assert_eq!(names.len(), 3);
        assert_eq!(path_of(&names, FileId(4)).unwrap(), b"/a/c\xff");
        assert_eq!(path_of(&names, FileId(3)).unwrap(), b"/moved");
        assert_eq!(path_of(&names, ROOT).unwrap(), b"/");
        assert_eq!(path_of(&names, FileId(5)), None);
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_torn_last_record_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names");
        let file = NamesFile::rewrite(&path, std::iter::once((FileId(2), ROOT, &b"first"[..]))).unwrap();
        let whole = std::fs::metadata(&path).unwrap().len();
        file.set(FileId(3), ROOT, b"second").unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for cut in usize::try_from(whole).unwrap()..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert_eq!(read(&path).unwrap(), Names::from([entry(2, 1, "first")]), "cut at {cut}");
        }
    }

    #[test]
    fn garbage_is_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names");
        let file = NamesFile::rewrite(&path, std::iter::empty()).unwrap();
        for i in 0..10_000_u64 {
            file.set(FileId(2 + i % 5), ROOT, format!("name{i}").as_bytes()).unwrap();
            if i % 100 == 0 {
                file.maintain().unwrap();
            }
        }
        assert!(std::fs::metadata(&path).unwrap().len() < 2 * GARBAGE_KEPT);
        let expected: Names = (9995..10_000).map(|i| entry(2 + i % 5, 1, &format!("name{i}"))).collect();
        assert_eq!(read(&path).unwrap(), expected);
    }

    #[test]
    fn circles_and_other_files_are_refused() {
        let names = Names::from([entry(2, 3, "a"), entry(3, 2, "b")]);
        assert_eq!(path_of(&names, FileId(2)), None);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names");
        std::fs::write(&path, b"no").unwrap();
        assert!(read(&path).is_err());
    }
}
