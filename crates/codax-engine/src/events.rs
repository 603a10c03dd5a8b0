//! Events: the record of what the store did and refused, and why.
//!
//! The last [`KEPT`] are in memory. All go to `events.jsonl` (mode 0600), one JSON object a line; when that has grown beyond [`ROTATE_AT`] it
//! becomes `events.1.jsonl`, in place of the one before. Numbers go on over restarts.

use crate::journal::storage::failed;
use codax_core::Result;
use codax_core::info::Event;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many events are kept in memory.
pub const KEPT: usize = 4096;

/// Size in bytes at which the file is put aside.
pub const ROTATE_AT: u64 = 4 << 20;

const FILE: &str = "events.jsonl";
const FILE_BEFORE: &str = "events.1.jsonl";

/// The record of what the store did and why.
#[derive(Debug)]
pub struct Events {
    dir: PathBuf,
    inner: Mutex<Inner>,
    recorded: Condvar,
}

#[derive(Debug)]
struct Inner {
    ring: VecDeque<Event>,
    last: u64,
    file: File,
    len: u64,
    line: Vec<u8>,
    /// Whether the last write failed, so that only the first failure is logged.
    failing: bool,
}

impl Events {
    /// Opens the files in `dir`, makes them if there are none. A last line that was cut short is dropped.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let opened = open_file(&path).and_then(|file| {
            let bytes = std::fs::read(&path)?;
            let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
            file.set_len(whole as u64)?;
            Ok((file, whole as u64, bytes))
        });
        let (file, len, bytes) =
            opened.map_err(|error| failed("open", &path.display().to_string(), &error))?;
        let mut ring = VecDeque::new();
        take_lines(&mut ring, &std::fs::read(dir.join(FILE_BEFORE)).unwrap_or_default());
        take_lines(&mut ring, &bytes);
        let last = ring.back().map_or(0, |event| event.seq);
        let inner = Inner { ring, last, file, len, line: Vec::new(), failing: false };
        Ok(Self { dir: dir.to_owned(), inner: Mutex::new(inner), recorded: Condvar::new() })
    }

    /// Records an event that happened at `time_ns` since 1970, and returns its number. A file that can't be written is logged, and doesn't
    /// stop the store.
    pub fn record(&self, time_ns: i64, what: &str, subject: &str, detail: &str, bytes: u64) -> u64 {
        let mut inner = self.inner();
        let seq = inner.last + 1;
        inner.last = seq;
        let event =
            Event { seq, time_ns, what: what.into(), subject: subject.into(), detail: detail.into(), bytes };
        match inner.write(&self.dir, &event) {
            Ok(()) => inner.failing = false,
            Err(error) if !inner.failing => {
                inner.failing = true;
                tracing::warn!("can't write {}: {error}", self.dir.join(FILE).display());
            }
            Err(_) => {}
        }
        push(&mut inner.ring, event);
        drop(inner);
        self.recorded.notify_all();
        seq
    }

    /// At most `max` of the events kept whose numbers are above `since`, oldest first.
    #[must_use]
    pub fn since(&self, since: u64, max: usize) -> Vec<Event> {
        let inner = self.inner();
        let start = inner.ring.partition_point(|event| event.seq <= since);
        inner.ring.range(start..).take(max).cloned().collect()
    }

    /// Waits until there is an event with a number above `since`; `false` if `timeout` passes first.
    #[must_use]
    pub fn wait(&self, since: u64, timeout: Duration) -> bool {
        let waited = self.recorded.wait_timeout_while(self.inner(), timeout, |inner| inner.last <= since);
        waited.unwrap_or_else(PoisonError::into_inner).0.last > since
    }

    /// The last event's number, 0 if there is none.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.inner().last
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in there is ever half done in a way that matters.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self, dir: &Path, event: &Event) -> io::Result<()> {
        if self.len >= ROTATE_AT {
            std::fs::rename(dir.join(FILE), dir.join(FILE_BEFORE))?;
            self.file = open_file(&dir.join(FILE))?;
            self.len = 0;
        }
        self.line.clear();
        serde_json::to_writer(&mut self.line, event)?;
        self.line.push(b'\n');
        if let Err(error) = self.file.write_all(&self.line) {
            // Half a line would take the next one with it.
            let _ = self.file.set_len(self.len);
            return Err(error);
        }
        self.len += self.line.len() as u64;
        Ok(())
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn push(ring: &mut VecDeque<Event>, event: Event) {
    if ring.len() == KEPT {
        ring.pop_front();
    }
    ring.push_back(event);
}

/// Puts the last events of a file into `ring`. A line that makes no sense, or is out of order, is passed over.
fn take_lines(ring: &mut VecDeque<Event>, bytes: &[u8]) {
    let lines = bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    let from = lines.clone().count().saturating_sub(KEPT);
    for event in lines.skip(from).filter_map(|line| serde_json::from_slice::<Event>(line).ok()) {
        if ring.back().is_none_or(|last| last.seq < event.seq) {
            push(ring, event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(events: &Events, detail: &str) -> u64 {
        events.record(1, "move", "/a", detail, 4096)
    }

    #[test]
    fn numbers_go_on_over_restarts_and_a_torn_line_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let events = Events::open(dir.path()).unwrap();
        assert_eq!((record(&events, "one"), record(&events, "two\n\"quoted\"")), (1, 2));
        drop(events);
        let mut file = OpenOptions::new().append(true).open(dir.path().join(FILE)).unwrap();
        file.write_all(b"{\"seq\":3,\"time").unwrap();
        let events = Events::open(dir.path()).unwrap();
        assert_eq!(record(&events, "three"), 3);
        let events = Events::open(dir.path()).unwrap();
        let details: Vec<String> = events.since(1, 10).into_iter().map(|event| event.detail).collect();
        assert_eq!(details, ["two\n\"quoted\"", "three"]);
        assert_eq!(events.since(0, 1)[0].seq, 1);
        assert!(events.since(3, 10).is_empty());
    }

    #[test]
    fn memory_and_files_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let events = Events::open(dir.path()).unwrap();
        let detail = "x".repeat(2000);
        for _ in 0..KEPT + 3000 {
            record(&events, &detail);
        }
        assert_eq!(events.since(0, usize::MAX).len(), KEPT);
        for name in [FILE, FILE_BEFORE] {
            assert!(std::fs::metadata(dir.path().join(name)).unwrap().len() < ROTATE_AT + 4096);
        }
        let last = events.last();
        drop(events);
        let events = Events::open(dir.path()).unwrap();
        assert_eq!(events.last(), last);
        let kept = events.since(0, usize::MAX);
        assert!(kept.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
    }

    #[test]
    fn waiting_ends_with_an_event_or_with_the_time() {
        let dir = tempfile::tempdir().unwrap();
        let events = Events::open(dir.path()).unwrap();
        assert!(!events.wait(0, Duration::from_millis(1)));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| events.wait(0, Duration::from_secs(60)));
            record(&events, "one");
            assert!(waiting.join().unwrap());
        });
    }
}
