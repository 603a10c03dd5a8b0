//! The journal: where the store's metadata outlives the daemon.
//!
//! A directory with these files:
//!
//! | file | what |
//! | --- | --- |
//! | `log.N` | what was committed last, a frame for each commit |
//! | `db` | everything before the oldest log, folded together (redb) |
//! | `words` | how much of the logs is committed, and how far live moves came |
//!
//! **Commit.** A frame is written behind the committed part of the log, then the log's committed length is stored in `words`. That
//! store is the instant of commit.
//!
//! **Fold.** When the log has grown, a new one is begun: made, then its length is stored in the other of the two words for
//! committed lengths. From that instant commits go there. The old log is written into the database in one transaction, together
//! with the number of its last frame, and removed. At most two logs are there at any time.
//!
//! **Open.** The word of the later log says which log is the last; it must be there, as must be the one before unless the database
//! has it already. Everything committed must be there and check; what lies beyond was never acknowledged, and is dropped.
//!
//! **First open.** `log.1`, then `db`, then `words` under another name; the instant at which it gets its own is the one at which the store
//! begins. Before, everything is made anew.

mod database;
mod log;
pub mod storage;
mod words;

pub use words::{CommitWords, SLOTS, WORDS};

use crate::env::Env;
use codax_core::change::Change;
use codax_core::{Error, Result};
use database::{DB, DB_NEW, Database, Rows};
use log::Log;
pub(crate) use log::wrong_version;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use storage::{Files, Storage, failed};
use words::{Committed, JournalWords};

/// A log with this many bytes of frames or more is folded into the database.
pub const FOLD_AT: u64 = 4 << 20;

/// A buffer for frames is not kept beyond this size, in bytes.
const BUFFER_KEPT: usize = 1 << 20;

/// The journal of a store that is open.
#[derive(Debug)]
pub struct Journal {
    storage: Arc<dyn Storage>,
    env: Arc<dyn Env>,
    words: JournalWords,
    writer: Mutex<Writer>,
    /// Taken before `writer` by those who take both.
    folder: Mutex<Folder>,
    /// Bytes of frames in the log that is being folded.
    sealed_bytes: AtomicU64,
}

/// The end at which frames are added.
#[derive(Debug)]
struct Writer {
    log: Log,
    buffer: Vec<u8>,
    /// What a sync left behind is not known when it failed, nor is what a failed store of a word did: nothing goes after it.
    failed: bool,
}

/// The end at which they are taken into the database.
#[derive(Debug)]
struct Folder {
    database: Database,
    /// The log that is to be folded, and ended when the last one began.
    sealed: Option<Log>,
}

impl Journal {
    /// Opens the journal in `dir`, a directory on a tmpfs, and makes it if there is none. Gives `load` what it holds: inodes, links,
    /// pools and moves as the database has them, then what was committed since, in order.
    ///
    /// Returns what was mended, too, a line each. `Corrupt` if something committed is missing or damaged, or of another format version;
    /// `load` may have been given a part by then.
    pub fn open(
        dir: &Path,
        env: Arc<dyn Env>,
        load: &mut dyn FnMut(Change) -> Result<()>,
    ) -> Result<(Self, Vec<String>)> {
        Self::open_on(Arc::new(Files::new(dir)), env, load)
    }

    /// As [`Journal::open`], on any medium.
    pub fn open_on(
        storage: Arc<dyn Storage>,
        env: Arc<dyn Env>,
        load: &mut dyn FnMut(Change) -> Result<()>,
    ) -> Result<(Self, Vec<String>)> {
        let names = storage.list().map_err(|error| failed("list", &storage.describe(""), &error))?;
        if !names.iter().any(|name| name == WORDS) {
            make(&*storage, &*env, &names)?;
        }
        let mut notes = Vec::new();
        let words = JournalWords::open(&*storage)?;
        let (log, sealed) = open_logs(&*storage, &words, &mut notes)?;
        let database = Database::open(&*storage, words.epoch())?;
        let sealed = check_sequence(&*storage, &database, &log, sealed)?;

        database.load(load)?;
        for log in sealed.iter().chain([&log]) {
            log.replay(database.folded(), load)?;
        }
        let journal = Self {
            sealed_bytes: AtomicU64::new(sealed.as_ref().map_or(0, Log::frame_bytes)),
            storage,
            env,
            words,
            writer: Mutex::new(Writer { log, buffer: Vec::new(), failed: false }),
            folder: Mutex::new(Folder { database, sealed }),
        };
        Ok((journal, notes))
    }

    /// Commits `changes`, all of them or none: they survive a `kill -9` when this returns. After an error they are not committed,
    /// unless it is an `Internal` one after which the journal takes nothing more: then a restart tells.
    pub fn append(&self, changes: &[Change]) -> Result<()> {
        let mut writer = self.writer()?;
        if changes.is_empty() {
            return Ok(());
        }
        let Writer { log, buffer, failed } = &mut *writer;
        let end = log.write(changes, buffer)?;
        self.env.reached("journal.written");
        let committed = log.sync().and_then(|()| self.words.commit(log.number, end));
        if let Err(error) = committed {
            *failed = true;
            return Err(storage::failed("commit to", &self.storage.describe(WORDS), &error));
        }
        log.advance(end);
        self.env.reached("journal.committed");
        if buffer.capacity() > BUFFER_KEPT {
            *buffer = Vec::new();
        }
        Ok(())
    }

    /// Folds the log into the database if it is larger than [`FOLD_AT`]. For a background thread: commits wait only while the new
    /// log is begun.
    pub fn maintain(&self) -> Result<()> {
        self.fold_above(FOLD_AT)
    }

    /// As [`Journal::maintain`], with another size in place of [`FOLD_AT`]: bytes of frames, 1 for any, as before a clean end. (A
    /// journal that is dropped without has lost nothing; its next start takes longer.)
    pub fn fold_above(&self, bytes: u64) -> Result<()> {
        self.fold_if(|log| Ok(log.frame_bytes() >= bytes))
    }

    /// Begins a new log if the last one is of an older version, whose readers don't know all that is written from here on.
    pub fn renew(&self) -> Result<()> {
        self.fold_if(|log| Ok(log.version()? < log::LOG_VERSION))
    }

    fn fold_if(&self, wanted: impl FnOnce(&Log) -> Result<bool>) -> Result<()> {
        let mut folder = self.folder()?;
        self.fold_sealed(&mut folder)?;
        let mut writer = self.writer()?;
        if wanted(&writer.log)? {
            self.rotate(&mut writer, &mut folder)?;
            drop(writer);
            self.fold_sealed(&mut folder)?;
        }
        Ok(())
    }

    /// Bytes of frames that are not folded into the database yet.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let current = self.writer.lock().map_or(0, |writer| writer.log.frame_bytes());
        current + self.sealed_bytes.load(Ordering::Relaxed)
    }

    /// A number drawn when the store was made.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.words.epoch()
    }

    /// The commit words of live moves.
    #[must_use]
    pub fn words(&self) -> &CommitWords {
        self.words.commit_words()
    }

    /// Reads everything that a restart would read, and checks it against what it should be. `Corrupt` if it isn't that.
    pub fn verify(&self) -> Result<()> {
        let mut folder = self.folder()?;
        let writer = self.writer()?;
        self.words.check(writer.log.number, writer.log.committed)?;
        for log in folder.sealed.iter().chain([&writer.log]) {
            if log.check(self.epoch())? != (log.first, log.next) {
                let name = self.storage.describe(&log::file_name(log.number));
                return Err(Error::corrupt(format!("{name} is not as it was written")));
            }
        }
        drop(writer);
        folder.database.verify()
    }

    /// Writes database, log and the journal's words anew, with `state` as what all commits so far come to: for a store whose files are
    /// damaged while what is in memory is whole. Commits wait. Until it is done, a restart finds what it would have found before.
    pub fn rewrite(&self, state: impl IntoIterator<Item = Change>) -> Result<()> {
        let mut rows = Rows::default();
        for change in state {
            rows.change(&change)?;
        }
        let mut folder = self.folder()?;
        let mut writer = self.writer()?;
        let storage = &self.storage;
        let database = Database::create(&**storage, DB_NEW, self.epoch(), &rows, writer.log.next - 1)?;
        let renamed = storage.sync().and_then(|()| storage.rename(DB_NEW, DB));
        renamed.map_err(|error| failed("replace", &storage.describe(DB), &error))?;
        folder.database = database;
        storage.sync().map_err(|error| failed("replace", &storage.describe(DB), &error))?;
        // Everything is folded in now: the logs are only replaced, and each of their words is stored once.
        self.fold_sealed(&mut folder)?;
        let words = self.words.restore_epoch();
        let words = words.and_then(|()| self.words.commit(writer.log.number, writer.log.committed));
        words.map_err(|error| failed("commit to", &storage.describe(WORDS), &error))?;
        self.rotate(&mut writer, &mut folder)?;
        self.fold_sealed(&mut folder)
    }

    /// Begins a new log; the one before is sealed.
    fn rotate(&self, writer: &mut Writer, folder: &mut Folder) -> Result<()> {
        let number = writer.log.number + 1;
        let next = Log::create(&*self.storage, self.words.epoch(), number, writer.log.next)?;
        self.env.reached("journal.log-made");
        if let Err(error) = self.words.commit(number, next.committed) {
            writer.failed = true;
            return Err(failed("commit to", &self.storage.describe(WORDS), &error));
        }
        self.env.reached("journal.rotated");
        let sealed = std::mem::replace(&mut writer.log, next);
        self.sealed_bytes.store(sealed.frame_bytes(), Ordering::Relaxed);
        folder.sealed = Some(sealed);
        Ok(())
    }

    /// Takes the sealed log into the database, if there is one.
    fn fold_sealed(&self, folder: &mut Folder) -> Result<()> {
        let Folder { database, sealed: Some(sealed) } = folder else { return Ok(()) };
        // It is in already if only removing it failed the last time.
        if database.folded() < sealed.next - 1 {
            let mut rows = Rows::default();
            sealed.replay(database.folded(), &mut |change| rows.change(&change))?;
            database.fold(&rows, sealed.next - 1)?;
        }
        self.env.reached("journal.folded");
        remove(&*self.storage, &log::file_name(sealed.number))?;
        self.env.reached("journal.log-removed");
        self.sealed_bytes.store(0, Ordering::Relaxed);
        folder.sealed = None;
        Ok(())
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>> {
        let writer = self.writer.lock().ok().filter(|writer| !writer.failed);
        writer.ok_or_else(|| {
            Error::internal("the journal failed before and takes nothing more: start the daemon again")
        })
    }

    fn folder(&self) -> Result<MutexGuard<'_, Folder>> {
        self.folder
            .lock()
            .map_err(|_| Error::internal("folding the journal failed before: start the daemon again"))
    }
}

/// Makes the files of a store that isn't there yet, or whose making was cut short; `names` are those of the files that are there.
fn make(storage: &dyn Storage, env: &dyn Env, names: &[String]) -> Result<()> {
    let is_there = |name: &str| names.iter().any(|n| n == name);
    let first = log::file_name(1);
    let mut begun = names.iter().any(|name| log::number_of(name).is_some_and(|number| number != 1));
    if is_there(&first) {
        begun |= !log::is_unused(storage, 1)?;
    } else {
        begun |= is_there(DB);
    }
    if begun {
        return Err(Error::corrupt(format!(
            "{} is missing, and the store was in use: how much of its log counts is not known",
            storage.describe(WORDS)
        )));
    }
    let epoch = env.random() | 1;
    let log = Log::create(storage, epoch, 1, 1)?;
    drop(Database::create(storage, DB, epoch, &Rows::default(), 0)?);
    JournalWords::create(storage, epoch, log.number, log.committed)
}

/// Opens the last log, and the one before if it is still there. Removes one that was made and not begun.
fn open_logs(
    storage: &dyn Storage,
    words: &JournalWords,
    notes: &mut Vec<String>,
) -> Result<(Log, Option<Log>)> {
    let names = storage.list().map_err(|error| failed("list", &storage.describe(""), &error))?;
    let numbers: Vec<u64> = names.iter().filter_map(|name| log::number_of(name)).collect();
    let (last, before) = words.committed()?;
    let mut open = |number, committed: Committed| -> Result<Log> {
        let (log, dropped) = Log::open(storage, words.epoch(), number, committed.bytes)?;
        if dropped > 0 {
            let name = storage.describe(&log::file_name(number));
            notes.push(format!("{name}: dropped {dropped} bytes at its end that were never acknowledged"));
        }
        Ok(log)
    };
    let number = *numbers.iter().find(|&&number| words::low(number) == last.number_low).ok_or_else(|| {
        let name = storage.describe(&log::file_name(last.number_low.into()));
        Error::corrupt(format!("{name} is missing; {} bytes of it were committed", last.bytes))
    })?;
    let log = open(number, last)?;
    let mut sealed = None;
    for &other in numbers.iter().filter(|&&other| other != number) {
        match before {
            _ if other == number + 1 && log::is_unused(storage, other)? => {
                remove(storage, &log::file_name(other))?;
            }
            Some(before) if other + 1 == number => sealed = Some(open(other, before)?),
            _ => {
                let name = storage.describe(&log::file_name(other));
                return Err(Error::corrupt(format!(
                    "{name} doesn't belong to this store, whose last log is {number}"
                )));
            }
        }
    }
    Ok((log, sealed))
}

/// Holds against each other what the database says is folded in and what the logs have. Returns the log that is still to be folded.
fn check_sequence(
    storage: &dyn Storage,
    database: &Database,
    log: &Log,
    sealed: Option<Log>,
) -> Result<Option<Log>> {
    let folded = database.folded();
    if let Some(sealed) = sealed.as_ref().filter(|sealed| sealed.next != log.first) {
        return Err(Error::corrupt(format!(
            "{} ends with frame {}, and the next log begins with {}",
            storage.describe(&log::file_name(sealed.number)),
            sealed.next - 1,
            log.first
        )));
    }
    let first = sealed.as_ref().map_or(log.first, |sealed| sealed.first);
    if folded + 1 < first || folded >= log.next {
        return Err(Error::corrupt(format!(
            "{} holds everything up to frame {folded}, and the logs have {first} to {}: one of them is not the last that was written",
            storage.describe(DB),
            log.next - 1
        )));
    }
    match sealed {
        // It was folded in, and removing it is all that was left.
        Some(sealed) if folded + 1 >= sealed.next => {
            remove(storage, &log::file_name(sealed.number))?;
            Ok(None)
        }
        sealed => Ok(sealed),
    }
}

fn remove(storage: &dyn Storage, name: &str) -> Result<()> {
    let removed = storage.remove(name).and_then(|()| storage.sync());
    removed.map_err(|error| failed("remove", &storage.describe(name), &error))
}
