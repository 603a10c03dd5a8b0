//! A process that uses mapped files without a pause while the demo moves them: it increments records, or reads them, and reads loaded
//! files over and over.
//!
//! The first line of its standard input is a [`Job`], the second `stop`; it answers each with a line, [`Ready`] and [`Report`]. It ends when its input does.

use super::records::{Dice, RECORD, Record};
use super::waits::{Stopwatch, Waits};
use anyhow::{Context as _, Result};
use codax::{Access, File, Mapping, OpenOptions, Store};
use codax_core::Error;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use xxhash_rust::xxh3::Xxh3;

/// Variable that makes this program a worker, of the store that it names. Not a command: nobody is to type it.
pub const STORE: &str = "CODAX_DEMO_WORKER";

/// The store, if this process is a worker.
pub fn called() -> Option<PathBuf> {
    std::env::var_os(STORE).map(PathBuf::from)
}

/// Bytes of a loaded file that are read as one access.
const BLOCK: usize = 4096;

/// Records that a writer and a reader use between two blocks.
const RECORDS_PER_BLOCK: [usize; 2] = [64, 16];

/// What a worker is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// Which counters are its own and how many writers there are; `None` for one that only reads.
    pub writer: Option<(usize, usize)>,
    /// The files with records.
    pub records: Vec<String>,
    /// Loaded files to read.
    pub files: Vec<Loaded>,
}

/// A file that was loaded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Loaded {
    /// Its path in the store.
    pub path: String,
    /// Its length.
    pub len: u64,
    /// Checksum of what was read from the source.
    pub sum: u64,
}

/// A worker has mapped everything and begins.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready {
    /// Its process.
    pub pid: u32,
}

/// What a worker did and found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// How often it incremented records, for each file.
    pub increments: Vec<u64>,
    /// Records it read.
    pub reads: u64,
    /// Loaded files it read to the end.
    pub files_read: u64,
    /// Its own increments that are not there at the end.
    pub lost_writes: u64,
    /// Counters that went back.
    pub stale_reads: u64,
    /// Records and files that were not what they must be.
    pub checksum_errors: u64,
    /// How long its accesses waited.
    pub waits: Waits,
    /// Waits as the library counted them.
    pub library_waits: u64,
}

/// The process.
pub fn run(store: &Path) -> Result<()> {
    let mut input = io::BufReader::new(io::stdin()).lines();
    let job = input.next().context("standard input: there is no job")??;
    let job: Job = serde_json::from_str(&job)?;
    // It makes no system call on what is mapped, so it can be moved where those could not be caught.
    let store = Store::options().allow_user_faults(true).connect(store)?;
    let mut worker = Worker::new(&store, &job)?;
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let listen = move || match input.next() {
        Some(Ok(line)) if line == "stop" => told.store(true, Ordering::Relaxed),
        // Whoever wanted it is gone.
        _ => std::process::exit(1),
    };
    std::thread::Builder::new().name("listen".to_owned()).spawn(listen)?;
    say(&Ready { pid: std::process::id() })?;
    worker.work(&stop);
    worker.report.library_waits = store.waits().count;
    say(&worker.settled())
}

fn say(line: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// A file with records, and what this process knows of each.
struct Book {
    mapping: Mapping,
    /// Own increments.
    counts: Vec<u32>,
    /// The highest shared counter seen.
    seen: Vec<u64>,
}

/// A loaded file that is being read.
struct Reading {
    mapping: Mapping,
    sum: u64,
}

struct Worker {
    writer: Option<(usize, usize)>,
    books: Vec<Book>,
    files: Vec<Reading>,
    report: Report,
}

impl Worker {
    fn new(store: &Store, job: &Job) -> Result<Self> {
        let book = |path: &String| -> codax::Result<Book> {
            let (options, access) = match job.writer {
                Some(_) => (OpenOptions::new().read(true).write(true), Access::ReadWrite),
                None => (OpenOptions::new().read(true), Access::ReadOnly),
            };
            let (_, mapping) = options.open_mapped(store, path, .., access)?;
            let count = mapping.len() / RECORD;
            Ok(Book { mapping, counts: vec![0; count], seen: vec![0; count] })
        };
        let reading = |file: &Loaded| -> codax::Result<Reading> {
            let mapping = File::open(store, &file.path)?.map(.., Access::ReadOnly)?;
            Ok(Reading { mapping, sum: file.sum })
        };
        let books = job.records.iter().map(book).collect::<codax::Result<Vec<_>>>()?;
        if books.is_empty() || books.iter().any(|book| book.counts.is_empty()) {
            return Err(Error::invalid("a worker needs records").into());
        }
        Ok(Self {
            writer: job.writer,
            report: Report { increments: vec![0; books.len()], ..Report::default() },
            files: job.files.iter().map(reading).collect::<codax::Result<_>>()?,
            books,
        })
    }

    /// Works until it is to stop.
    fn work(&mut self, stop: &AtomicBool) {
        let mut dice = Dice::new(std::process::id().into());
        let mut hash = Xxh3::new();
        let mut block = [0; BLOCK];
        let (mut file, mut at) = (0, 0);
        let records = RECORDS_PER_BLOCK[usize::from(self.writer.is_none())];
        let mut watch = Stopwatch::start();
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..records {
                let which = dice.below(self.books.len());
                let record = dice.below(self.books[which].counts.len());
                self.use_record(which, record);
                watch.lap();
            }
            let Some(reading) = self.files.get(file) else { continue };
            let part = &mut block[..BLOCK.min(reading.mapping.len() - at)];
            reading.mapping.memory().read_at(at, part);
            hash.update(part);
            at += part.len();
            if at == reading.mapping.len() {
                self.report.files_read += 1;
                self.report.checksum_errors += u64::from(hash.digest() != reading.sum);
                hash.reset();
                (file, at) = ((file + 1) % self.files.len(), 0);
            }
            watch.lap();
        }
        self.report.waits = watch.waits();
    }

    #[inline]
    fn use_record(&mut self, which: usize, index: usize) {
        let book = &mut self.books[which];
        let record = Record::new(book.mapping.memory(), index);
        let now = match self.writer {
            Some((own, writers)) => {
                book.counts[index] += 1;
                self.report.increments[which] += 1;
                let before = record.increment(own);
                if index % writers == own {
                    record.stamp();
                }
                before
            }
            None => {
                self.report.reads += 1;
                self.report.checksum_errors += u64::from(!record.is_sound());
                record.shared()
            }
        };
        self.report.stale_reads += u64::from(now < book.seen[index]);
        book.seen[index] = book.seen[index].max(now);
    }

    /// Compares its own counters with what it did.
    fn settled(mut self) -> Report {
        let Some((own, _)) = self.writer else { return self.report };
        for book in &self.books {
            for (index, &count) in book.counts.iter().enumerate() {
                let found = Record::new(book.mapping.memory(), index).counter(own);
                self.report.lost_writes += found.abs_diff(count.into());
            }
        }
        self.report
    }
}
