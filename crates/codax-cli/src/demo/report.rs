//! What the demo found, as a table and as JSON.

use super::bench::AccessRatios;
use super::waits::Waits;
use super::worker;
use crate::output::json::SCHEMA;
use crate::output::table;
use codax_core::units::{format_duration, format_size};
use codax_core::{Error, Result};
use serde::Serialize;
use std::time::Duration;

/// What is found out in the course of the acts.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Files that were loaded, and their bytes.
    pub files: u64,
    pub bytes: u64,
    /// Bytes that moves, drains and returns have moved.
    pub moved_bytes: u64,
    /// Increments of all writers, and how many of them are missing.
    pub increments: u64,
    pub lost_writes: u64,
    /// Records that were read, files that were read to the end.
    pub reads: u64,
    pub files_read: u64,
    pub stale_reads: u64,
    pub checksum_errors: u64,
    /// Both drains emptied the device and took it offline.
    pub drained: bool,
    /// What was drained came home.
    pub returned: bool,
    /// After the kill: workers went on, reconnected, everything is there, and `check` finds nothing.
    pub recovered: bool,
    pub access: AccessRatios,
    /// Bytes a nanosecond.
    pub move_gbps: f64,
    pub memcpy_gbps: f64,
    pub waits: Waits,
    pub library_waits: u64,
    pub elapsed: Duration,
}

/// The object that `--json` prints.
#[derive(Serialize)]
struct Row {
    schema: u32,
    command: &'static str,
    files: u64,
    bytes: u64,
    moved_bytes: u64,
    increments: u64,
    reads: u64,
    files_read: u64,
    lost_writes: u64,
    stale_reads: u64,
    checksum_errors: u64,
    drained: bool,
    returned: bool,
    recovered: bool,
    access_ratio: f64,
    access_ratios: AccessRatios,
    move_gbps: f64,
    memcpy_gbps: f64,
    waits: u64,
    wait_us_p50: u64,
    wait_us_p99: u64,
    wait_us_max: u64,
    library_waits: u64,
    elapsed_ms: u64,
}

impl Outcome {
    /// Adds what a worker says.
    pub fn add(&mut self, report: &worker::Report) {
        self.increments += report.increments.iter().sum::<u64>();
        self.reads += report.reads;
        self.files_read += report.files_read;
        self.stale_reads += report.stale_reads;
        self.checksum_errors += report.checksum_errors;
        self.waits.merge(&report.waits);
        self.library_waits += report.library_waits;
    }

    /// The object as a line.
    pub fn json(&self) -> serde_json::Result<String> {
        let row = Row {
            schema: SCHEMA,
            command: "demo",
            files: self.files,
            bytes: self.bytes,
            moved_bytes: self.moved_bytes,
            increments: self.increments,
            reads: self.reads,
            files_read: self.files_read,
            lost_writes: self.lost_writes,
            stale_reads: self.stale_reads,
            checksum_errors: self.checksum_errors,
            drained: self.drained,
            returned: self.returned,
            recovered: self.recovered,
            access_ratio: thousandths(self.access.overall()),
            access_ratios: self.access.map(thousandths),
            move_gbps: thousandths(self.move_gbps),
            memcpy_gbps: thousandths(self.memcpy_gbps),
            waits: self.waits.count(),
            wait_us_p50: self.waits.percentile_us(50),
            wait_us_p99: self.waits.percentile_us(99),
            wait_us_max: self.waits.percentile_us(100),
            library_waits: self.library_waits,
            elapsed_ms: u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX),
        };
        serde_json::to_string(&row)
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let yes = |done| if done { "yes" } else { "NO" }.to_owned();
        let [p50, p99, max] = [50, 99, 100].map(|p| Duration::from_micros(self.waits.percentile_us(p)));
        let rows = [
            ("files loaded", format!("{} ({})", self.files, format_size(self.bytes))),
            ("moved under them", format_size(self.moved_bytes)),
            ("increments", self.increments.to_string()),
            ("  lost", self.lost_writes.to_string()),
            ("records read", self.reads.to_string()),
            ("  stale", self.stale_reads.to_string()),
            ("files read by workers", self.files_read.to_string()),
            ("checksum errors", self.checksum_errors.to_string()),
            ("drained, offline", yes(self.drained)),
            ("came home", yes(self.returned)),
            ("recovered after SIGKILL", yes(self.recovered)),
            ("access, of a plain mapping", format!("{:.3}", self.access.overall())),
            ("live move", self.move_rate()),
            ("accesses that waited", self.waits.count().to_string()),
            ("  half of them, at most", format_duration(p50)),
            ("  99 %, at most", format_duration(p99)),
            ("  the longest", format_duration(max)),
        ];
        let mut table = table::new(&["", ">"]);
        for (what, value) in rows {
            table::row(&mut table, [what.to_owned(), value]);
        }
        table::text(&table).trim_start().to_owned()
    }

    fn move_rate(&self) -> String {
        let ratio = self.move_gbps / self.memcpy_gbps;
        format!("{:.2} GB/s ({ratio:.2} of memcpy's {:.2})", self.move_gbps, self.memcpy_gbps)
    }

    /// An error that says what went wrong, if anything did.
    pub fn verdict(&self) -> Result<()> {
        let counts = [
            (self.lost_writes, "writes were lost"),
            (self.stale_reads, "reads were stale"),
            (self.checksum_errors, "checksums were wrong"),
        ];
        let states = [
            (self.drained, "sim0 was not drained"),
            (self.returned, "what was drained did not come home"),
            (self.recovered, "the store did not recover from SIGKILL"),
        ];
        let counts =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        let states = states.iter().filter(|(done, _)| !done).map(|(_, what)| (*what).to_owned());
        let wrong: Vec<_> = counts.chain(states).collect();
        if wrong.is_empty() { Ok(()) } else { Err(Error::internal(format!("demo: {}", wrong.join(", ")))) }
    }
}

fn thousandths(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_outcome_without_any_loss_is_well() {
        let well = || Outcome { drained: true, returned: true, recovered: true, ..Outcome::default() };
        assert!(well().verdict().is_ok());
        let error = Outcome { lost_writes: 2, drained: false, ..well() }.verdict().unwrap_err();
        assert_eq!(error.message, "demo: 2 writes were lost, sim0 was not drained");
        assert!(Outcome { stale_reads: 1, ..well() }.verdict().is_err());
        assert!(Outcome { checksum_errors: 1, ..well() }.verdict().is_err());
        assert!(Outcome { recovered: false, ..well() }.verdict().is_err());
    }

    #[test]
    fn the_json_has_what_the_documentation_promises() {
        let json: serde_json::Value = serde_json::from_str(&Outcome::default().json().unwrap()).unwrap();
        for key in [
            "schema",
            "files",
            "bytes",
            "moved_bytes",
            "lost_writes",
            "stale_reads",
            "checksum_errors",
            "drained",
            "recovered",
            "access_ratio",
            "move_gbps",
            "memcpy_gbps",
            "waits",
            "wait_us_p50",
            "wait_us_p99",
            "wait_us_max",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
    }
}
