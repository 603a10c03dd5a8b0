//! The acts of the demo, one after the other.

use super::bench;
use super::crew::{Crew, Worker};
use super::plan::Source;
use super::records::{RECORD, Record, WRITERS_MAX};
use super::report::Outcome;
use super::worker::{self, Job, Loaded};
use crate::output::progress::Progress;
use crate::output::text::{count, pace, printable};
use codax::{Access, File, OpenOptions, PlacementSpec, PutOptions, Reply, Request, Store};
use codax_core::change::PoolState;
use codax_core::info::{JobReport, PoolInfo};
use codax_core::units::format_size;
use codax_core::{Error, ErrorKind, PAGE_SIZE, Result};
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::Xxh3;

const DEVICE: &str = "sim0";
const DRAM: &str = "dram";

/// The files with records, and where they are at home.
const RECORDS: [(&str, &str); 2] = [("/records/0", DEVICE), ("/records/1", DRAM)];

/// Bytes of each of them.
const RECORDS_BYTES: u64 = 32 << 20;

/// The file that is moved under one writer to see how fast that is, its bytes, and how often it goes to and fro.
const BENCH: &str = "/bench";
const BENCH_BYTES: u64 = 128 << 20;
const BENCH_ROUNDS: usize = 6;

/// How often files go to and fro under the workers.
const MOVE_ROUNDS: u64 = 6;

/// Processes that write.
const WRITERS: usize = 2;
const _: () = assert!(WRITERS <= WRITERS_MAX);

/// Most loaded files that a worker maps, of at most so many bytes each.
const WORKER_FILES: usize = 8;
const WORKER_FILE_BYTES: u64 = 8 << 20;

/// The chunk of a move at which the daemon dies; where the kernel moves the pages, it takes many of them at once.
const KILL_AT: &str = "move:copied:4=kill";
const KILL_BY_KERNEL: &str = "move:copied:1=kill";

/// How long a drain waits for files that are held, and the demo for its workers to be back.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long is looked whether workers go on.
const GLANCE: Duration = Duration::from_millis(250);

/// Memory that all this takes beside the loaded files.
const BESIDE: u64 = 640 << 20;

/// Room in each pool for so many bytes of files: each can hold everything.
pub fn pool_bytes(sources: &[Source]) -> u64 {
    let files: u64 = sources.iter().map(|source| source.len.next_multiple_of(PAGE_SIZE)).sum();
    let own = RECORDS_BYTES * RECORDS.len() as u64 + BENCH_BYTES + bench::ACCESS_BYTES as u64;
    (files + own + (64 << 20)).next_multiple_of(2 << 20)
}

/// An error if these files are more than memory can take.
pub fn check_memory(sources: &[Source]) -> Result<()> {
    let bytes: u64 = sources.iter().map(|source| source.len).sum();
    let free = free_memory();
    if bytes.saturating_add(BESIDE) <= free {
        return Ok(());
    }
    Err(Error::no_space(format!(
        "{} of files are too much: the demo needs {} beside them, and {} of memory are free; choose less with --size",
        format_size(bytes),
        format_size(BESIDE),
        format_size(free)
    )))
}

fn free_memory() -> u64 {
    let table = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = table.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    let memory = kib.map_or(u64::MAX, |kib| kib << 10);
    if codax_os::mounts::can_mount() {
        return memory;
    }
    memory.min(codax_os::mounts::fs_free("/dev/shm".as_ref()).unwrap_or(u64::MAX))
}

/// The play.
#[derive(Debug)]
pub struct Script<'a> {
    crew: Crew<'a>,
    daemon: u32,
    store: Store,
    /// What was loaded, and the pool it is at home in.
    files: Vec<(Loaded, &'static str)>,
    workers: Vec<Worker>,
    out: Outcome,
}

/// Plays all acts; errors are what makes going on useless.
pub fn play(crew: Crew<'_>, sources: &[Source]) -> Result<Outcome> {
    let begun = Instant::now();
    let daemon = crew.start_daemon(None)?;
    let store = Store::options().allow_user_faults(true).connect(crew.store_dir())?;
    let mut script =
        Script { crew, daemon, store, files: Vec::new(), workers: Vec::new(), out: Outcome::default() };
    script.load(sources)?;
    script.measure()?;
    script.start_workers()?;
    script.move_files()?;
    script.out.drained = script.drain()?;
    script.offline()?;
    script.out.returned = script.online()?;
    script.out.recovered = script.kill_and_recover()?;
    script.out.drained &= script.drain()?;
    script.stop_workers()?;
    script.verify_files()?;
    script.purge()?;
    script.out.elapsed = begun.elapsed();
    Ok(script.out)
}

/// A line about an act that is over.
fn say(act: &str, what: &str) {
    eprintln!("{act:<8} {}", printable(what));
}

/// As [`pace`], since a moment.
fn pace_since(bytes: u64, begun: Instant) -> String {
    pace(bytes, u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

fn gbps(report: &JobReport) -> f64 {
    report.bytes as f64 / report.nanos.max(1) as f64
}

fn other(pool: &str) -> &'static str {
    if pool == DRAM { DEVICE } else { DRAM }
}

impl Script<'_> {
    /// Puts the files into the store, half on the device and half in system memory.
    fn load(&mut self, sources: &[Source]) -> Result<()> {
        let begun = Instant::now();
        let total = sources.iter().map(|source| source.len).sum();
        let mut progress = Progress::new("loading", true);
        let mut filled = [(0, DEVICE), (0, DRAM)];
        self.store.mkdir("/files", None)?;
        for (number, source) in sources.iter().enumerate() {
            filled.sort_unstable();
            let pool = filled[0].1;
            let path = format!("/files/{number:05}");
            // What was planned may be gone by now.
            let Ok(file) = std::fs::File::open(&source.path) else { continue };
            let mut reader = Hashed { inner: file, hash: Xxh3::new() };
            let placement = Some(PlacementSpec::On { pool: pool.to_owned(), strict: false });
            let options = PutOptions { placement, known_len: Some(source.len), ..PutOptions::default() };
            let len = self
                .store
                .put(&mut reader, &path, &options)
                .map_err(|e| Error::new(e.kind, format!("load {}: {e}", source.path.display())))?;
            filled[0].0 += len;
            self.out.bytes += len;
            self.files.push((Loaded { path, len, sum: reader.hash.digest() }, pool));
            progress.bytes(self.out.bytes, total, "");
        }
        drop(progress);
        self.out.files = self.files.len() as u64;
        let (files, size) = (count(self.out.files, "file"), format_size(self.out.bytes));
        say(
            "load",
            &format!(
                "{files}, {size}, half on {DEVICE} and half in {DRAM}, in {}",
                pace_since(self.out.bytes, begun)
            ),
        );
        Ok(())
    }

    /// Access beside a plain mapping, a live move under one writing process beside a plain copy.
    fn measure(&mut self) -> Result<()> {
        let dir = self.crew.store_dir();
        self.out.access = bench::access(&self.store, dir.parent().unwrap_or(&dir))?;
        say("access", &format!("{:.3} of a plain mapping's speed", self.out.access.overall()));
        self.out.memcpy_gbps = bench::copy_rate() / 1e9;
        self.make_records(BENCH, DRAM, BENCH_BYTES)?;
        let job = Job { writer: Some((0, 1)), records: vec![BENCH.to_owned()], files: Vec::new() };
        let mut workers = vec![self.crew.start_worker(&job)?];
        std::thread::sleep(GLANCE);
        let mut rates = Vec::new();
        for to in [DEVICE, DRAM].into_iter().cycle().take(2 * BENCH_ROUNDS) {
            rates.push(gbps(&self.move_file(BENCH, to)?));
        }
        rates.sort_by(f64::total_cmp);
        self.out.move_gbps = rates[BENCH_ROUNDS];
        let reports = self.crew.stop(&mut workers)?;
        self.settle(&[BENCH], &reports)?;
        self.store.remove(BENCH, false)?;
        let (live, plain) = (self.out.move_gbps, self.out.memcpy_gbps);
        say(
            "speed",
            &format!("{live:.2} GB/s for a live move under a writing process, {plain:.2} GB/s for memcpy"),
        );
        Ok(())
    }

    fn make_records(&self, path: &str, pool: &str, bytes: u64) -> Result<()> {
        let options = OpenOptions::new().read(true).write(true).create_new(true).on(pool).len(bytes);
        options.open(&self.store, path).map(drop)
    }

    fn start_workers(&mut self) -> Result<()> {
        self.store.mkdir("/records", None)?;
        for (path, pool) in RECORDS {
            self.make_records(path, pool, RECORDS_BYTES)?;
        }
        let readers = std::thread::available_parallelism().map_or(1, |n| (n.get() / 2).clamp(1, 2));
        let all = WRITERS + readers;
        for number in 0..all {
            let job = Job {
                writer: (number < WRITERS).then_some((number, WRITERS)),
                records: RECORDS.map(|(path, _)| path.to_owned()).into(),
                files: self.share(number, all),
            };
            let worker = self.crew.start_worker(&job)?;
            self.workers.push(worker);
        }
        say(
            "start",
            &format!(
                "{WRITERS} processes write records, {readers} {} them; all read loaded files",
                if readers == 1 { "reads" } else { "read" }
            ),
        );
        Ok(())
    }

    /// The loaded files of a worker: some that are not too large, another choice for each.
    fn share(&self, number: usize, workers: usize) -> Vec<Loaded> {
        let small: Vec<_> = self
            .files
            .iter()
            .map(|(file, _)| file)
            .filter(|file| (1..=WORKER_FILE_BYTES).contains(&file.len))
            .collect();
        let every = (small.len() / (WORKER_FILES * workers)).max(1);
        let own = small
            .chunks(every)
            .skip(number)
            .step_by(workers)
            .filter_map(|part| part.iter().max_by_key(|file| file.len));
        own.take(WORKER_FILES).map(|&file| file.clone()).collect()
    }

    fn move_file(&mut self, path: &str, to: &str) -> Result<JobReport> {
        let report = self.store.move_file(path, to, None, &mut |_| ())?;
        self.out.moved_bytes += report.bytes;
        Ok(report)
    }

    /// Records and loaded files that workers use go to and fro.
    fn move_files(&mut self) -> Result<()> {
        let begun = Instant::now();
        let before = self.out.moved_bytes;
        let mut paths: Vec<(String, &str)> = RECORDS.map(|(path, pool)| (path.to_owned(), pool)).into();
        for number in 0..self.workers.len() {
            let used = self.share(number, self.workers.len());
            let used = used.iter().take(2).map(|file| file.path.clone());
            paths.extend(used.filter_map(|path| {
                let (_, pool) = self.files.iter().find(|(file, _)| file.path == path)?;
                Some((path, *pool))
            }));
        }
        let mut progress = Progress::new("moving", true);
        for round in 1..=MOVE_ROUNDS {
            for (path, pool) in &paths {
                self.move_file(path, other(pool))?;
            }
            for (path, pool) in &paths {
                self.move_file(path, pool)?;
            }
            let done = self.out.moved_bytes - before;
            progress.bytes(done, done / round * MOVE_ROUNDS, "");
        }
        drop(progress);
        let bytes = self.out.moved_bytes - before;
        let files = count(paths.len() as u64, "file");
        say(
            "move",
            &format!(
                "{files} to and fro {MOVE_ROUNDS} times under them: {} in {}",
                format_size(bytes),
                pace_since(bytes, begun)
            ),
        );
        Ok(())
    }

    fn device(&self) -> Result<PoolInfo> {
        let pools = self.store.status()?.pools;
        pools
            .into_iter()
            .find(|pool| pool.name == DEVICE)
            .ok_or_else(|| Error::internal(format!("{DEVICE} is gone")))
    }

    fn job(&mut self, what: &str, request: Request) -> Result<JobReport> {
        let mut progress = Progress::new(what, true);
        match self.store.call_with_progress(request, &mut |job| progress.job(job))? {
            Reply::Job(report) => {
                self.out.moved_bytes += report.bytes;
                Ok(*report)
            }
            other => Err(Error::internal(format!("{what}: the daemon answered {other:?}"))),
        }
    }

    /// Empties the device under the workers. Whether that worked.
    fn drain(&mut self) -> Result<bool> {
        let wait_ns = u64::try_from(PATIENCE.as_nanos()).unwrap_or(u64::MAX);
        let pool = DEVICE.to_owned();
        let request = Request::Drain {
            pool,
            dry_run: false,
            wait_ns,
            limit: None,
            evict: false,
            volatile: true,
            reset: false,
            running: false,
        };
        match self.job("draining", request) {
            Ok(report) => {
                let files = count(report.files, "file");
                say(
                    "drain",
                    &format!(
                        "{files}, {} off {DEVICE} in {}",
                        format_size(report.bytes),
                        pace(report.bytes, report.nanos)
                    ),
                );
            }
            Err(e) => {
                say("drain", &format!("failed: {e}"));
                return Ok(false);
            }
        }
        let device = self.device()?;
        Ok(device.state == PoolState::Offline && device.used == 0 && device.held == 0)
    }

    /// Shows that the device is out of service.
    fn offline(&mut self) -> Result<()> {
        let device = self.device()?;
        if device.state != PoolState::Offline {
            return Ok(());
        }
        let placement = Some(PlacementSpec::On { pool: DEVICE.to_owned(), strict: false });
        let options = PutOptions { placement, ..PutOptions::default() };
        let refused = match self.store.put(&mut &b"?"[..], "/files/late", &options) {
            Err(e) if e.kind == ErrorKind::DeviceState => e.message,
            Err(e) => return Err(e),
            Ok(_) => return Err(Error::internal(format!("{DEVICE} is offline and took a file"))),
        };
        say("offline", &format!("{DEVICE} holds {}; a new file: {refused}", format_size(device.used)));
        Ok(())
    }

    /// Brings back the device and what was on it. Whether that worked.
    fn online(&mut self) -> Result<bool> {
        let report = self.job("coming home", Request::Online { pool: DEVICE.to_owned(), anew: false })?;
        say(
            "online",
            &format!(
                "{}, {} home in {}",
                count(report.files, "file"),
                format_size(report.bytes),
                pace(report.bytes, report.nanos)
            ),
        );
        let device = self.device()?;
        let at_home: u64 =
            self.files.iter().filter(|(_, pool)| *pool == DEVICE).map(|(file, _)| file.len).sum();
        Ok(device.state == PoolState::Online && device.used >= at_home && report.left.is_empty())
    }

    /// The daemon dies in the middle of a move, and another takes its place. Whether nothing came of it.
    fn kill_and_recover(&mut self) -> Result<bool> {
        let (path, home) = RECORDS[0];
        // A daemon that will die in its first move, at a chunk that is copied and not committed.
        let kill_at = if self.device()?.moves_with.is_empty() { KILL_AT } else { KILL_BY_KERNEL };
        self.store.call(Request::Down { purge: false })?;
        self.crew.await_daemon(self.daemon)?;
        self.daemon = self.crew.start_daemon(Some(kill_at))?;
        self.await_workers()?;
        say("restart", "the daemon ended and began again; the workers are connected again");
        let watched = File::open(&self.store, path)?.map(.., Access::ReadOnly)?;
        let sum =
            || (0..watched.len() / RECORD).map(|i| Record::new(watched.memory(), i).shared()).sum::<u64>();
        match self.move_file(path, other(home)) {
            Err(e) if e.kind == ErrorKind::NoDaemon => {}
            Err(e) => return Err(e),
            Ok(_) => {
                return Err(Error::internal("the daemon was to die in the middle of a move, and did not"));
            }
        }
        let status = self.crew.await_daemon(self.daemon)?;
        if status.signal() != Some(9) {
            return Err(Error::internal(format!("the daemon was to die of SIGKILL: {status}")));
        }
        let before = sum();
        std::thread::sleep(GLANCE);
        let meanwhile = sum().saturating_sub(before);
        say(
            "kill",
            &format!(
                "the daemon died of SIGKILL in the middle of a move; {meanwhile} increments in {} ms without one",
                GLANCE.as_millis()
            ),
        );
        drop(watched);
        let begun = Instant::now();
        self.daemon = self.crew.start_daemon(None)?;
        let started = begun.elapsed();
        self.await_workers()?;
        let clean = self.check()?;
        // The half that was moved goes back to the other one, under the workers as before.
        self.move_file(path, home)?;
        let errors = self.out.checksum_errors;
        self.verify_files()?;
        say(
            "recover",
            &format!(
                "a new daemon served after {} ms; {}",
                started.as_millis(),
                if clean { "table, journal and objects agree" } else { "the check FAILED" }
            ),
        );
        Ok(clean && meanwhile > 0 && self.out.checksum_errors == errors)
    }

    /// Waits until the daemon knows again what the workers map.
    fn await_workers(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let known = RECORDS.iter().map(|(path, _)| self.store.stat(path)).collect::<Result<Vec<_>>>();
            let missing = match known {
                Ok(files) => {
                    let known =
                        |worker: &&Worker| files.iter().all(|file| file.mapped_by.contains(&worker.pid));
                    match self.workers.iter().find(|worker| !known(worker)) {
                        None => return Ok(()),
                        Some(worker) => format!("worker {} has not reconnected", worker.pid),
                    }
                }
                Err(e) if e.kind == ErrorKind::NoDaemon => e.message,
                Err(e) => return Err(e),
            };
            if Instant::now() > deadline {
                return Err(Error::internal(missing));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn check(&self) -> Result<bool> {
        match self.store.call(Request::Check { repair: false })? {
            Reply::Findings(findings) => {
                findings.iter().for_each(|finding| say("check", &finding.what));
                Ok(findings.is_empty())
            }
            other => Err(Error::internal(format!("check: the daemon answered {other:?}"))),
        }
    }

    fn stop_workers(&mut self) -> Result<()> {
        let reports = self.crew.stop(&mut self.workers)?;
        let increments = self.out.increments;
        self.settle(&RECORDS.map(|(path, _)| path), &reports)?;
        let done = self.out.increments - increments;
        say(
            "stop",
            &format!(
                "{done} increments, {} lost; {} stale reads",
                self.out.lost_writes, self.out.stale_reads
            ),
        );
        Ok(())
    }

    /// Takes over what workers report, and compares what the writers did (the first of them) with what the store has.
    fn settle(&mut self, records: &[&str], reports: &[worker::Report]) -> Result<()> {
        reports.iter().for_each(|report| self.out.add(report));
        let by_themselves: u64 = reports.iter().map(|report| report.lost_writes).sum();
        let (mut own, mut shared) = (0, 0);
        for (file, path) in records.iter().enumerate() {
            let mapping = File::open(&self.store, path)?.map(.., Access::ReadOnly)?;
            let records = || (0..mapping.len() / RECORD).map(|i| Record::new(mapping.memory(), i));
            let done = |report: &worker::Report| report.increments[file];
            for (writer, report) in reports.iter().enumerate().take(WRITERS_MAX) {
                own += done(report).abs_diff(records().map(|record| record.counter(writer)).sum());
            }
            shared += reports.iter().map(done).sum::<u64>().abs_diff(records().map(Record::shared).sum());
            self.out.checksum_errors += records().filter(|record| !record.is_sound()).count() as u64;
        }
        self.out.lost_writes += own.max(by_themselves) + shared;
        Ok(())
    }

    /// Reads everything that was loaded and compares it with its source.
    fn verify_files(&mut self) -> Result<()> {
        let begun = Instant::now();
        let mut progress = Progress::new("verifying", true);
        let (mut read, mut wrong) = (0, 0);
        for (file, _) in &self.files {
            let mut sink = Hashed { inner: io::sink(), hash: Xxh3::new() };
            read += self.store.get(&file.path, &mut sink)?;
            wrong += u64::from(sink.hash.digest() != file.sum);
            progress.bytes(read, self.out.bytes, "");
        }
        drop(progress);
        self.out.checksum_errors += wrong;
        let files = count(self.files.len() as u64, "file");
        say(
            "verify",
            &format!("{files}, {} in {}, {wrong} of them wrong", format_size(read), pace_since(read, begun)),
        );
        Ok(())
    }

    /// The store ends and takes everything with it.
    fn purge(&mut self) -> Result<()> {
        if !self.check()? {
            self.out.recovered = false;
        }
        self.store.call(Request::Down { purge: true })?;
        let status = self.crew.await_daemon(self.daemon)?;
        let dir = self.crew.store_dir();
        if dir.exists() || !status.success() {
            return Err(Error::internal(format!(
                "{} was to be purged, and is still there ({status})",
                dir.display()
            )));
        }
        say("purge", "the store is gone");
        Ok(())
    }
}

/// Takes the checksum of what goes through.
struct Hashed<T> {
    inner: T,
    hash: Xxh3,
}

impl<T: Read> Read for Hashed<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

impl<T: Write> Write for Hashed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
