//! The append log in front of the database.
//!
//! A log is a file `log.N`: a header of 64 bytes, then frames without gaps. All numbers are little-endian.
//!
//! ```text
//! header   0..8    "codaxlog"
//!          8..12   format version                 magic, version and checksum keep their places in every version
//!          12..16  crc32c of bytes 0..12 and 16..64
//!          16..24  epoch of the store
//!          24..32  N
//!          32..40  sequence number of the first frame
//!          40..64  0
//! frame    0..4    length of the payload in bytes
//!          4..8    crc32c of bytes 0..4 and of everything from byte 8 on
//!          8..16   sequence number, one more than the frame's before
//!          16..    payload: the changes, a postcard sequence of codax_core::change::Change
//! ```
//!
//! How many bytes of a log count is in the words file. What lies beyond was never acknowledged. What lies before must check.

use super::storage::{Storage, StorageFile, failed};
use crate::fields::{u32_at, u64_at};
use codax_core::change::Change;
use codax_core::{Error, Result};
use std::ops::Range;

/// Version of the log's format.
pub const LOG_VERSION: u32 = 6;

/// The oldest version that is read as it is: 4 has no quotas, 5 no devices with a software coprocessor, or without memory, and less of drains.
pub(super) const OLDEST_VERSION: u32 = 4;

const MAGIC: &[u8; 8] = b"codaxlog";
const AT_MAGIC: Range<usize> = 0..8;
const AT_VERSION: Range<usize> = 8..12;
const AT_CHECK: Range<usize> = 12..16;
const AT_EPOCH: Range<usize> = 16..24;
const AT_NUMBER: Range<usize> = 24..32;
const AT_FIRST: Range<usize> = 32..40;
const AT_ZERO: Range<usize> = 40..HEADER;

/// Bytes of a log's header.
const HEADER_BYTES: u32 = 64;
const HEADER: usize = HEADER_BYTES as usize;

const FRAME_LEN: Range<usize> = 0..4;
const FRAME_CHECK: Range<usize> = 4..8;
const FRAME_SEQ: Range<usize> = 8..16;
const FRAME_HEADER_BYTES: u32 = 16;
const FRAME_HEADER: usize = FRAME_HEADER_BYTES as usize;

const _: () = {
    assert!(AT_MAGIC.end == AT_VERSION.start && AT_VERSION.end == AT_CHECK.start);
    assert!(AT_CHECK.end == AT_EPOCH.start && AT_EPOCH.end == AT_NUMBER.start);
    assert!(AT_NUMBER.end == AT_FIRST.start && AT_FIRST.end == AT_ZERO.start);
    assert!(AT_MAGIC.end == MAGIC.len() && HEADER.is_multiple_of(8));
    assert!(FRAME_LEN.end == FRAME_CHECK.start && FRAME_CHECK.end == FRAME_SEQ.start);
    assert!(FRAME_SEQ.end == FRAME_HEADER);
};

/// The log's file name.
pub(super) fn file_name(number: u64) -> String {
    format!("log.{number}")
}

/// The number of the log of this file name, if it is one.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_prefix("log.")?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

/// Whether there is no frame in the log, not even a part of one.
pub(super) fn is_unused(storage: &dyn Storage, number: u64) -> Result<bool> {
    let name = file_name(number);
    let len = storage.open(&name).and_then(|file| file.len());
    Ok(len.map_err(|error| failed("open", &storage.describe(&name), &error))? <= HEADER_BYTES.into())
}

/// A log, up to what is committed of it.
#[derive(Debug)]
pub(super) struct Log {
    file: Box<dyn StorageFile>,
    pub(super) number: u64,
    /// Sequence number of the first frame.
    pub(super) first: u64,
    /// Sequence number of the next frame.
    pub(super) next: u64,
    /// Committed bytes.
    pub(super) committed: u32,
    what: String,
}

impl Log {
    /// Makes a log with no frames. It counts once its committed length is stored.
    pub(super) fn create(storage: &dyn Storage, epoch: u64, number: u64, first: u64) -> Result<Self> {
        let name = file_name(number);
        let what = storage.describe(&name);
        let mut header = [0; HEADER];
        header[AT_MAGIC].copy_from_slice(MAGIC);
        header[AT_VERSION].copy_from_slice(&LOG_VERSION.to_le_bytes());
        header[AT_EPOCH].copy_from_slice(&epoch.to_le_bytes());
        header[AT_NUMBER].copy_from_slice(&number.to_le_bytes());
        header[AT_FIRST].copy_from_slice(&first.to_le_bytes());
        let check = header_check(&header);
        header[AT_CHECK].copy_from_slice(&check.to_le_bytes());
        let make = || {
            let file = storage.create(&name)?;
            file.write_at(&header, 0)?;
            file.sync()?;
            storage.sync()?;
            Ok(file)
        };
        let file = make().map_err(|error| failed("make", &what, &error))?;
        Ok(Self { file, number, first, next: first, committed: HEADER_BYTES, what })
    }

    /// Opens a log of which `committed` bytes count, and checks every one of them. Returns how many bytes beyond them were
    /// dropped, too.
    pub(super) fn open(
        storage: &dyn Storage,
        epoch: u64,
        number: u64,
        committed: u32,
    ) -> Result<(Self, u64)> {
        let name = file_name(number);
        let what = storage.describe(&name);
        let opened = storage.open(&name).and_then(|file| file.len().map(|len| (file, len)));
        let (file, len) = opened.map_err(|error| failed("open", &what, &error))?;
        if len < u64::from(committed) {
            return Err(Error::corrupt(format!("{what} ends at byte {len}, and {committed} were committed")));
        }
        let mut log = Self { file, number, first: 0, next: 0, committed, what };
        (log.first, log.next) = log.check(epoch)?;
        let tail = len - u64::from(committed);
        if tail > 0 {
            log.file.set_len(committed.into()).map_err(|error| failed("cut", &log.what, &error))?;
        }
        Ok((log, tail))
    }

    /// Checks every committed byte. Returns the sequence numbers of the first frame and of the next one.
    pub(super) fn check(&self, epoch: u64) -> Result<(u64, u64)> {
        let bytes = self.read()?;
        let first = check_header(&bytes, &self.what, epoch, self.number)?;
        let mut frames = Frames::new(&bytes, first, &self.what);
        while frames.next_payload()?.is_some() {}
        Ok((first, frames.seq))
    }

    /// The version that its header says.
    pub(super) fn version(&self) -> Result<u32> {
        let bytes = self.read()?;
        check_header_present(&bytes, &self.what)?;
        Ok(u32_at(&bytes, AT_VERSION))
    }

    /// Bytes of frames.
    pub(super) fn frame_bytes(&self) -> u64 {
        u64::from(self.committed - HEADER_BYTES)
    }

    /// Writes `changes` as one frame behind the committed bytes, by way of `buffer`. Returns what the committed length has to be
    /// for it to count; [`Log::advance`] then makes it so here.
    pub(super) fn write(&self, changes: &[Change], buffer: &mut Vec<u8>) -> Result<u32> {
        buffer.clear();
        buffer.resize(FRAME_HEADER, 0);
        *buffer = postcard::to_extend(changes, std::mem::take(buffer))
            .map_err(|error| Error::internal(format!("can't write changes down: {error}")))?;
        let len = u32::try_from(buffer.len() - FRAME_HEADER).ok();
        let end = len.and_then(|len| self.committed.checked_add(FRAME_HEADER_BYTES)?.checked_add(len));
        let (Some(len), Some(end)) = (len, end) else {
            let what = &self.what;
            return Err(Error::no_space(format!("{what} is full: it could not be taken into the database")));
        };
        buffer[FRAME_LEN].copy_from_slice(&len.to_le_bytes());
        buffer[FRAME_SEQ].copy_from_slice(&self.next.to_le_bytes());
        let check = frame_check(buffer);
        buffer[FRAME_CHECK].copy_from_slice(&check.to_le_bytes());
        self.file
            .write_at(buffer, self.committed.into())
            .map_err(|error| failed("write", &self.what, &error))?;
        Ok(end)
    }

    /// What was written so far survives a power failure, where the medium does.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        self.file.sync()
    }

    /// One more frame is committed, up to byte `end`.
    pub(super) fn advance(&mut self, end: u32) {
        self.committed = end;
        self.next += 1;
    }

    /// Gives `each` the committed changes in order, but for those of frames up to number `folded`.
    pub(super) fn replay(&self, folded: u64, each: &mut dyn FnMut(Change) -> Result<()>) -> Result<()> {
        let bytes = self.read()?;
        check_header_present(&bytes, &self.what)?;
        let mut frames = Frames::new(&bytes, self.first, &self.what);
        while let Some((at, payload)) = frames.next_payload()? {
            if frames.seq - 1 <= folded {
                continue;
            }
            let wrong = |error| {
                Error::corrupt(format!("{}: the frame at byte {at} makes no sense: {error}", self.what))
            };
            let (count, mut rest) = postcard::take_from_bytes::<u64>(payload).map_err(wrong)?;
            for _ in 0..count {
                let (change, left) = postcard::take_from_bytes(rest).map_err(wrong)?;
                rest = left;
                each(change)?;
            }
            if !rest.is_empty() {
                return Err(Error::corrupt(format!("{}: the frame at byte {at} is too long", self.what)));
            }
        }
        Ok(())
    }

    fn read(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.committed as usize];
        self.file.read_at(&mut bytes, 0).map_err(|error| failed("read", &self.what, &error))?;
        Ok(bytes)
    }
}

/// The frames of a log whose header is checked.
struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next frame's number.
    seq: u64,
    what: &'a str,
}

impl<'a> Frames<'a> {
    fn new(bytes: &'a [u8], first: u64, what: &'a str) -> Self {
        Self { bytes, at: HEADER, seq: first, what }
    }

    /// The next frame's offset and payload; `None` at the end.
    fn next_payload(&mut self) -> Result<Option<(usize, &'a [u8])>> {
        let at = self.at;
        let rest = &self.bytes[at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let damaged = |how: &str| {
            Error::corrupt(format!(
                "{}: the frame at byte {at} is damaged ({how}), and it was committed",
                self.what
            ))
        };
        if rest.len() < FRAME_HEADER {
            return Err(damaged("no room for its header"));
        }
        let len = u32_at(rest, FRAME_LEN) as usize;
        let frame =
            rest.get(..FRAME_HEADER + len).ok_or_else(|| damaged("it says more bytes than there are"))?;
        if frame_check(frame) != u32_at(frame, FRAME_CHECK) {
            return Err(damaged("its checksum differs"));
        }
        if u64_at(frame, FRAME_SEQ) != self.seq {
            return Err(damaged("its number is out of order"));
        }
        self.at += frame.len();
        self.seq += 1;
        Ok(Some((at, &frame[FRAME_HEADER..])))
    }
}

fn frame_check(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[FRAME_LEN]), &frame[FRAME_SEQ.start..])
}

fn header_check(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..AT_CHECK.start]), &header[AT_CHECK.end..HEADER])
}

fn check_header_present(bytes: &[u8], what: &str) -> Result<()> {
    if bytes.len() < HEADER {
        return Err(Error::corrupt(format!(
            "{what}: {} bytes were committed, less than a header",
            bytes.len()
        )));
    }
    Ok(())
}

/// Checks a header and returns the sequence number of the first frame.
fn check_header(bytes: &[u8], what: &str, epoch: u64, number: u64) -> Result<u64> {
    check_header_present(bytes, what)?;
    if bytes[AT_MAGIC] != *MAGIC || header_check(bytes) != u32_at(bytes, AT_CHECK) {
        return Err(Error::corrupt(format!("{what}: the header is damaged")));
    }
    let version = u32_at(bytes, AT_VERSION);
    if !(OLDEST_VERSION..=LOG_VERSION).contains(&version) {
        return Err(wrong_version(what, version, LOG_VERSION));
    }
    if u64_at(bytes, AT_EPOCH) != epoch
        || u64_at(bytes, AT_NUMBER) != number
        || bytes[AT_ZERO].iter().any(|&b| b != 0)
    {
        return Err(Error::corrupt(format!("{what} is not this store's log {number}")));
    }
    Ok(u64_at(bytes, AT_FIRST))
}

/// The error for a file of another format version than ours.
pub(crate) fn wrong_version(what: &str, found: u32, ours: u32) -> Error {
    Error::corrupt(format!(
        "{what} has format version {found}, and this codax knows version {ours}: start the codax that made it, or delete the store with `codax down --purge`"
    ))
}
