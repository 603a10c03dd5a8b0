//! The database behind the log: a redb file `db` with the state of everything up to some frame of the log.
//!
//! ```text
//! table "rows"    key: kind, then id big-endian     value: crc32c of key and contents (4 bytes, little-endian), then contents
//!                   0, file id (8)                    Inode, as postcard
//!                   1, directory's id (8), name       child's id (8, little-endian)
//!                   2, pool id (2)                    PoolRecord, as postcard
//!                   3, move id (4)                    MoveRecord, as postcard
//!                   4                                 first file id that was never given out (8, little-endian)
//!                   5, whose, pool id (2)             Quota, as postcard; whose: 0, uid (4), or 1, directory's id (8)
//! table "state"   key: ()                           value of 36 bytes, all little-endian:
//!                                                     0..4    format version       4..8    crc32c of 0..4 and 8..36
//!                                                     8..16   epoch of the store   16..24  sequence number of the last frame folded in
//!                                                     24..32  number of rows       32..36  0
//! ```
//!
//! redb has checksums of its own, for each page; they are checked when the file is opened. Ours are beside them because what redb
//! does with a damaged page may be to go back to the commit before: a state that was true once. So the log's first sequence
//! number is held against the last one folded in, and what redb panics about is damage, too.

use super::log::{LOG_VERSION, OLDEST_VERSION, wrong_version};
use super::storage::{Storage, StorageFile, failed};
use crate::fields::{u32_at, u64_at};
use codax_core::change::Change;
use codax_core::quota::{Quota, Subject};
use codax_core::{Error, FileId, Result};
use redb::{ReadableDatabase, ReadableTableMetadata, TableDefinition};
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Version of the database's format: the log's.
pub const DATABASE_VERSION: u32 = LOG_VERSION;

/// The database's file.
pub(super) const DB: &str = "db";

/// Name under which a successor of the database is made.
pub(super) const DB_NEW: &str = "db.new";

/// Memory that redb may use to keep pages, in bytes.
const CACHE: usize = 4 << 20;

const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
const STATE: TableDefinition<'_, (), &[u8]> = TableDefinition::new("state");

const INODE: u8 = 0;
const LINK: u8 = 1;
const POOL: u8 = 2;
const MOVE: u8 = 3;
const IDS: u8 = 4;
const QUOTA: u8 = 5;

const STATE_BYTES: usize = 36;

/// What the table `state` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    epoch: u64,
    folded: u64,
    rows: u64,
}

impl State {
    fn encode(self) -> [u8; STATE_BYTES] {
        let mut bytes = [0; STATE_BYTES];
        bytes[0..4].copy_from_slice(&DATABASE_VERSION.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.folded.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.rows.to_le_bytes());
        let check = state_check(&bytes);
        bytes[4..8].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        if bytes.len() != STATE_BYTES || state_check(bytes) != u32_at(bytes, 4..8) {
            return Err(Error::corrupt(format!("{what}: the record of its state is damaged")));
        }
        let version = u32_at(bytes, 0..4);
        if !(OLDEST_VERSION..=DATABASE_VERSION).contains(&version) {
            return Err(wrong_version(what, version, DATABASE_VERSION));
        }
        let [epoch, folded, rows] = [8..16, 16..24, 24..32].map(|range| u64_at(bytes, range));
        Ok(Self { epoch, folded, rows })
    }
}

fn state_check(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..4]), &bytes[8..])
}

/// Rows to write (`None`: to remove), the last word on each key.
#[derive(Debug, Default)]
pub(super) struct Rows(BTreeMap<Vec<u8>, Option<Vec<u8>>>);

impl Rows {
    /// Takes in one more change.
    pub(super) fn change(&mut self, change: &Change) -> Result<()> {
        let (key, contents) = match change {
            Change::Put(inode) => {
                (key(INODE, &inode.id.0.to_be_bytes(), &[]), Some(postcard::to_extend(&**inode, vec![0; 4])))
            }
            Change::Drop(id) => (key(INODE, &id.0.to_be_bytes(), &[]), None),
            Change::Link { dir, name, child } => {
                let mut value = vec![0; 4];
                value.extend(child.0.to_le_bytes());
                (key(LINK, &dir.0.to_be_bytes(), name), Some(Ok(value)))
            }
            Change::Unlink { dir, name } => (key(LINK, &dir.0.to_be_bytes(), name), None),
            Change::Pool(pool) => {
                (key(POOL, &pool.id.0.to_be_bytes(), &[]), Some(postcard::to_extend(pool, vec![0; 4])))
            }
            Change::MoveBegin(record) => {
                (key(MOVE, &record.id.0.to_be_bytes(), &[]), Some(postcard::to_extend(record, vec![0; 4])))
            }
            Change::MoveEnd(id) => (key(MOVE, &id.0.to_be_bytes(), &[]), None),
            Change::IdsBelow(id) => {
                let mut value = vec![0; 4];
                value.extend(id.0.to_le_bytes());
                (key(IDS, &[], &[]), Some(Ok(value)))
            }
            Change::Quota(quota) => {
                let contents = quota.limit.map(|_| postcard::to_extend(quota, vec![0; 4]));
                (quota_key(quota), contents)
            }
        };
        let value = contents
            .transpose()
            .map_err(|error| Error::internal(format!("can't write a row down: {error}")))?
            .map(|mut value| {
                let check = row_check(&key, &value[4..]);
                value[..4].copy_from_slice(&check.to_le_bytes());
                value
            });
        self.0.insert(key, value);
        Ok(())
    }
}

fn key(kind: u8, id: &[u8], name: &[u8]) -> Vec<u8> {
    [&[kind], id, name].concat()
}

fn quota_key(quota: &Quota) -> Vec<u8> {
    let pool = quota.pool.0.to_be_bytes();
    match quota.subject {
        Subject::User(uid) => key(QUOTA, &[&[0][..], &uid.to_be_bytes()].concat(), &pool),
        Subject::Dir(dir) => key(QUOTA, &[&[1][..], &dir.0.to_be_bytes()].concat(), &pool),
    }
}

fn row_check(key: &[u8], contents: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), contents)
}

/// What a row says; `None` if it can't be true.
fn decode_row(key: &[u8], value: &[u8]) -> Option<Change> {
    let (check, contents) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*check) != row_check(key, contents) {
        return None;
    }
    let (&kind, key) = key.split_first()?;
    let change = match kind {
        INODE => Change::Put(Box::new(postcard::from_bytes(contents).ok()?)),
        LINK => {
            let (dir, name) = key.split_first_chunk::<8>()?;
            let child = FileId(u64::from_le_bytes(contents.try_into().ok()?));
            Change::Link { dir: FileId(u64::from_be_bytes(*dir)), name: name.to_vec(), child }
        }
        POOL => Change::Pool(postcard::from_bytes(contents).ok()?),
        MOVE => Change::MoveBegin(postcard::from_bytes(contents).ok()?),
        IDS => Change::IdsBelow(FileId(u64::from_le_bytes(contents.try_into().ok()?))),
        QUOTA => Change::Quota(postcard::from_bytes(contents).ok()?),
        _ => return None,
    };
    let id_matches = match &change {
        Change::Put(inode) => key == inode.id.0.to_be_bytes(),
        Change::Pool(pool) => key == pool.id.0.to_be_bytes(),
        Change::MoveBegin(record) => key == record.id.0.to_be_bytes(),
        Change::Quota(quota) => key == &quota_key(quota)[1..],
        _ => true,
    };
    id_matches.then_some(change)
}

/// The open database.
#[derive(Debug)]
pub(super) struct Database {
    /// There until the database is dropped.
    redb: Option<redb::Database>,
    state: State,
    what: String,
}

impl Database {
    /// Makes a database in the file `name`, in place of what is there, with `rows` as the effect of all frames up to number `folded`.
    pub(super) fn create(
        storage: &dyn Storage,
        name: &str,
        epoch: u64,
        rows: &Rows,
        folded: u64,
    ) -> Result<Self> {
        let what = storage.describe(name);
        let file = storage.create(name).map_err(|error| failed("make", &what, &error))?;
        let redb = open_redb(file, &what)?;
        let what = storage.describe(DB);
        let mut made = Self { redb: Some(redb), state: State { epoch, folded: 0, rows: 0 }, what };
        made.fold(rows, folded)?;
        Ok(made)
    }

    /// Opens the database of the store `epoch`, and checks every page of it.
    pub(super) fn open(storage: &dyn Storage, epoch: u64) -> Result<Self> {
        let what = storage.describe(DB);
        let file = storage.open(DB).and_then(|file| file.len().map(|len| (file, len)));
        let (file, len) = file.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::corrupt(format!("{what} is missing")),
            _ => failed("open", &what, &error),
        })?;
        if len == 0 {
            // redb would take it for a new one.
            return Err(Error::corrupt(format!("{what} is empty")));
        }
        let mut database = Self { redb: None, state: State { epoch, folded: 0, rows: 0 }, what };
        database.redb = Some(open_redb(file, &database.what)?);
        database.state = database.read_state()?;
        if database.state.epoch != epoch {
            return Err(Error::corrupt(format!("{} is not this store's database", database.what)));
        }
        Ok(database)
    }

    /// Sequence number of the last frame that is folded in.
    pub(super) fn folded(&self) -> u64 {
        self.state.folded
    }

    fn read_state(&self) -> Result<State> {
        let what = &self.what;
        guarded(what, || {
            let read = self.redb()?.begin_read().map_err(|e| damaged(what, e))?;
            let table = read.open_table(STATE).map_err(|e| damaged(what, e))?;
            let state = table.get(()).map_err(|e| damaged(what, e))?;
            let state =
                state.ok_or_else(|| Error::corrupt(format!("{what}: the record of its state is missing")))?;
            State::decode(state.value(), what)
        })
    }

    /// Checks every page and every row of the file.
    pub(super) fn verify(&mut self) -> Result<()> {
        let Self { redb: Some(redb), what, .. } = self else { return Ok(()) };
        if !guarded(what, || redb.check_integrity().map_err(|e| damaged(what, e)))? {
            return Err(Error::corrupt(format!(
                "{what} was damaged, and redb went back to what it could read"
            )));
        }
        if self.read_state()? != self.state {
            return Err(Error::corrupt(format!("{} is not as it was written last", self.what)));
        }
        self.load(&mut |_| Ok(()))
    }

    /// Gives `each` all rows, as the changes that make them: inodes, links, pools, moves.
    pub(super) fn load(&self, each: &mut dyn FnMut(Change) -> Result<()>) -> Result<()> {
        let what = &self.what;
        let mut rows = guarded(what, || {
            let read = self.redb()?.begin_read().map_err(|e| damaged(what, e))?;
            let table = read.open_table(ROWS).map_err(|e| damaged(what, e))?;
            table.range::<&[u8]>(..).map_err(|e| damaged(what, e))
        })?;
        let mut count = 0;
        // Only redb's part is guarded: a panic of `each` is the caller's own.
        while let Some(change) = guarded(what, || match rows.next() {
            None => Ok(None),
            Some(row) => {
                let (key, value) = row.map_err(|e| damaged(what, e))?;
                let change = decode_row(key.value(), value.value());
                change.map(Some).ok_or_else(|| {
                    Error::corrupt(format!("{what}: row {count} ({:02x?}) is damaged", key.value()))
                })
            }
        })? {
            each(change)?;
            count += 1;
        }
        if count != self.state.rows {
            return Err(Error::corrupt(format!(
                "{what} has {count} rows where {} were written",
                self.state.rows
            )));
        }
        Ok(())
    }

    /// Writes `rows`, the effect of all frames up to number `last`, in one transaction.
    pub(super) fn fold(&mut self, rows: &Rows, last: u64) -> Result<()> {
        let what = &self.what;
        let state = guarded(what, || {
            let write = self.redb()?.begin_write().map_err(|e| damaged(what, e))?;
            let state = {
                let mut table = write.open_table(ROWS).map_err(|e| damaged(what, e))?;
                for (key, value) in &rows.0 {
                    match value {
                        Some(value) => {
                            drop(table.insert(&key[..], &value[..]).map_err(|e| damaged(what, e))?)
                        }
                        None => drop(table.remove(&key[..]).map_err(|e| damaged(what, e))?),
                    }
                }
                State { folded: last, rows: table.len().map_err(|e| damaged(what, e))?, ..self.state }
            };
            {
                let mut table = write.open_table(STATE).map_err(|e| damaged(what, e))?;
                table.insert((), &state.encode()[..]).map_err(|e| damaged(what, e))?;
            }
            write.commit().map_err(|e| damaged(what, e))?;
            Ok(state)
        })?;
        self.state = state;
        Ok(())
    }

    fn redb(&self) -> Result<&redb::Database> {
        self.redb.as_ref().ok_or_else(|| Error::internal(format!("{} is closed", self.what)))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // redb writes when it closes, and may find damage there.
        let redb = self.redb.take();
        let closed = guarded(&self.what, || {
            drop(redb);
            Ok(())
        });
        if let Err(error) = closed {
            tracing::warn!("{error}");
        }
    }
}

fn open_redb(file: Box<dyn StorageFile>, what: &str) -> Result<redb::Database> {
    guarded(what, || {
        redb::Builder::new()
            .set_cache_size(CACHE)
            .set_check_integrity_on_open(true)
            .create_with_backend(Backend(file))
            .map_err(|e| damaged(what, e))
    })
}

/// Runs `work`, a few of redb's calls. redb panics on some kinds of damage.
fn guarded<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let why = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no reason given");
        Err(Error::corrupt(format!("{what} is damaged: {why}")))
    })
}

/// The error of a call of redb: what is not a failure of the medium is damage, since our own calls are right.
fn damaged(what: &str, error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof
            ) =>
        {
            failed("use", what, &error)
        }
        redb::Error::PreviousIo => Error::internal(format!("{what} failed before: start the daemon again")),
        error => Error::corrupt(format!("{what} is damaged: {error}")),
    }
}

/// A file as redb wants it. That no other process uses it is the daemon's lock's business.
#[derive(Debug)]
struct Backend(Box<dyn StorageFile>);

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(data, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flipped_bit_of_the_state_is_found_and_a_newer_version_is_refused() {
        let state = State { epoch: 1, folded: 2, rows: 3 };
        let bytes = state.encode();
        assert_eq!(State::decode(&bytes, "db"), Ok(state));
        for bit in 0..STATE_BYTES * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(State::decode(&bytes, "db").is_err(), "bit {bit}");
        }
        let mut older = bytes;
        older[0] -= 1;
        let check = state_check(&older);
        older[4..8].copy_from_slice(&check.to_le_bytes());
        assert_eq!(State::decode(&older, "db"), Ok(state));
        let mut newer = bytes;
        newer[0] += 1;
        let check = state_check(&newer);
        newer[4..8].copy_from_slice(&check.to_le_bytes());
        let error = State::decode(&newer, "db").unwrap_err();
        let says = format!("db has format version {}", DATABASE_VERSION + 1);
        assert!(error.message.contains(&says), "{error}");
    }

    #[test]
    fn each_flipped_bit_of_a_row_is_found() {
        let mut rows = Rows::default();
        let link = Change::Link { dir: FileId(1), name: b"name".to_vec(), child: FileId(7) };
        rows.change(&link).unwrap();
        let (key, value) = rows.0.pop_first().unwrap();
        let row = [&key[..], &value.unwrap()].concat();
        let decode = |row: &[u8]| decode_row(&row[..key.len()], &row[key.len()..]);
        assert_eq!(decode(&row), Some(link));
        for bit in 0..row.len() * 8 {
            let mut row = row.clone();
            row[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&row), None, "bit {bit}");
        }
    }
}
