//! Drivers: what a device tells of itself, and what the store asks of the one who knows it.
//!
//! A device with caches takes part in coherence, and a coprocessor has state that only its own driver can save. So each device has a [`Driver`], in the
//! daemon's process or in one of its own. The store calls it from one thread, one call at a time, and waits for an answer no longer than it says it will: what
//! comes later is not heard. How the calls follow one another is in `docs/drivers.md`.

use crate::change::LinkModel;
use crate::{Error, FileId, PAGE_SIZE, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The largest state that is kept of a device, in bytes.
pub const STATE_MAX: usize = 16 << 20;

/// The longest name or text that a driver may give, in bytes.
pub const TEXT_MAX: usize = 64;

/// The longest list that a driver may give.
pub const LIST_MAX: usize = 64;

/// Who knows a device.
///
/// Only [`Driver::describe`] has to be there: what a device doesn't have needs no code. An error of any call is told to who waits for it, with the device's and the
/// driver's name.
pub trait Driver: Send + Sync + Debug {
    /// What the device is. Asked once, before anything else.
    fn describe(&self) -> Description;

    /// Writes back what the device's caches have of these ranges, and forgets it, with all translations of their addresses. Called before their bytes are copied
    /// elsewhere and again before their memory is given to somebody else; when it returns the device must not touch what it remembers of them: it has to look up
    /// anew where they are.
    fn write_back(&self, ranges: &[Range]) -> Result<()> {
        let _ = ranges;
        Ok(())
    }

    /// Brings what runs to a point at which it can be saved, and starts nothing new, within the time given. What can't stop in time is an error; the device is
    /// told to [resume](Driver::resume) then.
    fn quiesce(&self, within: Duration) -> Result<()> {
        let _ = within;
        Ok(())
    }

    /// The state of a device that is at rest: of 1 byte to [`STATE_MAX`]. Called only where the description says that there is one. With it the driver gives up all
    /// queues, and how far each of them is belongs to the state.
    fn save(&self) -> Result<Vec<u8>> {
        Err(Error::not_supported("it has no state"))
    }

    /// Stops the device whatever it does, and forgets its state. It is at rest afterwards, and its queues are given up.
    fn reset(&self) -> Result<()> {
        Ok(())
    }

    /// Gives a device at rest the state that [`Driver::save`] returned, of this driver or of another process with the same name. It has been handed the queues before.
    fn restore(&self, state: &[u8]) -> Result<()> {
        let _ = state;
        Ok(())
    }

    /// The device may run, from the state that it has. It is at rest until this is called for the first time.
    fn resume(&self) -> Result<()> {
        Ok(())
    }

    /// How it is.
    fn health(&self) -> Result<Health> {
        Ok(Health::Well)
    }

    /// What it has counted, at most [`LIST_MAX`] of them.
    fn counters(&self) -> Result<Vec<Counter>> {
        Ok(Vec::new())
    }

    /// A program wants to hand in work: `ring` is the memory of its queue (`docs/queues.md`), of which the device takes the consumer's end when it runs. Called while it
    /// runs, and before [`Driver::restore`] and [`Driver::resume`] for each queue that waits for it. One that comes while it is at rest may be closed at once: so the store asks
    /// whether it takes any.
    fn open_queue(&self, queue: QueueId, ring: OwnedFd) -> Result<()> {
        let _ = (queue, ring);
        Err(Error::not_supported("it takes no queues"))
    }

    /// Descriptors of that queue may name this file, from now on until the queue is closed or given up.
    fn grant(&self, file: Granted) -> Result<()> {
        let _ = file;
        Err(Error::not_supported("it takes no queues"))
    }

    /// The queue is closed: nobody hands in anything, and nobody wants what was handed in.
    fn close_queue(&self, queue: QueueId) -> Result<()> {
        let _ = queue;
        Ok(())
    }
}

/// Names a queue of a store; no two ever have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QueueId(pub u64);

/// A file that a program has given to a queue of its own, with the rights that it has itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// The queue.
    pub queue: QueueId,
    /// What descriptors call the file, from 1 on.
    pub number: u32,
    /// The file.
    pub file: FileId,
    /// Whether it may be read.
    pub read: bool,
    /// Whether it may be written.
    pub write: bool,
}

/// A part of a file, as a device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The file's number.
    pub file: FileId,
    /// The first byte in the file.
    pub at: u64,
    /// Bytes.
    pub len: u64,
    /// The byte of the device's own memory at which it lies, if it lies there.
    pub memory: Option<u64>,
}

/// The classes of devices that CXL has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Caches and no memory: a NIC.
    Type1,
    /// Caches and memory: a GPU, an FPGA.
    Type2,
    /// Memory only: an expander.
    Type3,
}

impl Class {
    /// The class, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Type1 => "type 1",
            Self::Type2 => "type 2",
            Self::Type3 => "type 3",
        }
    }
}

/// What memory a device has in its caches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Its own only.
    Own,
    /// Any, wherever a file lies.
    #[default]
    Any,
    /// None: it reaches files through mappings of the client library and by a CPU, and these are switched.
    Nothing,
}

/// A cache of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// What it is called.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// What a device's link is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// What it is called, as "CXL 2.0 x8"; may be empty.
    pub name: String,
    /// What it announces: counts where the configuration says nothing.
    pub model: LinkModel,
}

/// What files in a device's memory have to be like, and what of it no file may have. All in bytes, multiples of a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// What a file has of it is whole units of this size: that is what the device's memory has to be made of (`page` in the configuration).
    pub unit: u64,
    /// Each run of a file's pages begins at a multiple of this, a power of two.
    pub align: u64,
    /// Whether pages that follow each other in a file have to follow each other in the memory.
    pub contiguous: bool,
    /// What is the device's own, as first byte and length: files are never given it.
    pub private: Vec<(u64, u64)>,
}

impl Default for Needs {
    fn default() -> Self {
        Self { unit: PAGE_SIZE, align: PAGE_SIZE, contiguous: false, private: Vec::new() }
    }
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The driver's name. A state goes back to a driver of the same name.
    pub driver: String,
    /// Its version, for people.
    pub version: String,
    /// The device's class.
    pub class: Class,
    /// How much memory it has, in bytes, if the driver knows: no less than the store has of it. 0 with type 1.
    pub memory: Option<u64>,
    /// Its caches; none with type 3.
    pub caches: Vec<Cache>,
    /// What they have in them.
    pub reach: Reach,
    /// Its link.
    pub link: Link,
    /// What it can do, for people and programs.
    pub operations: Vec<String>,
    /// Whether it has a state that a drain has to save.
    pub has_state: bool,
    /// What it needs of its memory.
    pub needs: Needs,
}

impl Description {
    /// A device that is nothing but memory.
    #[must_use]
    pub fn memory_only(driver: &str, version: &str) -> Self {
        Self {
            driver: driver.into(),
            version: version.into(),
            class: Class::Type3,
            memory: None,
            caches: Vec::new(),
            reach: Reach::Own,
            link: Link::default(),
            operations: Vec::new(),
            has_state: false,
            needs: Needs::default(),
        }
    }

    /// A device with a coprocessor that has caches.
    #[must_use]
    pub fn coprocessor(driver: &str, version: &str) -> Self {
        Self { class: Class::Type2, reach: Reach::Any, ..Self::memory_only(driver, version) }
    }

    /// Whether it may have bytes of files in its caches.
    #[must_use]
    pub fn caches_files(&self) -> bool {
        self.class != Class::Type3
    }

    /// Refuses what can't be true.
    pub fn check(&self) -> Result<()> {
        let wrong = |why: String| Err(Error::invalid(why));
        let caches = self.caches.iter().map(|cache| &cache.name);
        let texts = [&self.driver, &self.version, &self.link.name];
        for text in texts.into_iter().chain(caches).chain(&self.operations) {
            if text.len() > TEXT_MAX || text.chars().any(char::is_control) {
                let shown: String = text.chars().take(16).collect();
                return wrong(format!(
                    "`{}…` is longer than {TEXT_MAX} bytes or no plain text",
                    shown.escape_debug()
                ));
            }
        }
        if self.driver.is_empty() {
            return wrong("the driver has no name".into());
        }
        for (what, len) in [
            ("caches", self.caches.len()),
            ("operations", self.operations.len()),
            ("private ranges", self.needs.private.len()),
        ] {
            if len > LIST_MAX {
                return wrong(format!("{len} {what} are more than {LIST_MAX}"));
            }
        }
        match self.class {
            Class::Type3 if !self.caches.is_empty() || self.has_state => {
                wrong("a device of type 3 is memory only: it has no caches and no state".into())
            }
            Class::Type1 if self.memory.unwrap_or(0) > 0 || !self.needs.private.is_empty() => {
                wrong("a device of type 1 has no memory".into())
            }
            _ => self.needs.check(),
        }
    }
}

impl Needs {
    fn check(&self) -> Result<()> {
        for (what, bytes) in [("unit", self.unit), ("align", self.align)] {
            if bytes < PAGE_SIZE || !bytes.is_power_of_two() {
                return Err(Error::invalid(format!("{what}: {bytes} is not a power of two from 4096 on")));
            }
        }
        let mut end = 0;
        for &(at, len) in &self.private {
            let whole = at.is_multiple_of(PAGE_SIZE) && len.is_multiple_of(PAGE_SIZE) && len > 0;
            match at.checked_add(len).filter(|_| whole && at >= end) {
                Some(next) => end = next,
                None => {
                    return Err(Error::invalid(format!(
                        "private: {len} bytes at {at} are no whole pages, or don't come in order"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// How a device is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Well.
    Well,
    /// It works, and something is wrong with it.
    Degraded(String),
    /// It doesn't work.
    Failed(String),
}

/// Something that a device has counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// What.
    pub name: String,
    /// How many.
    pub value: u64,
}

/// Where a coprocessor is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It has been told that it may run.
    Running,
    /// It is at rest.
    Stopped,
    /// It has not come to rest, or could not go on, for this reason.
    Failed(String),
}

/// A device and who knows it, as far as he tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// What it is.
    pub description: Description,
    /// The process of its driver, where that is one of its own.
    pub pid: Option<u32>,
    /// The driver that it had, where it has none now and the store knows of one.
    pub driverless: Option<String>,
    /// Where its coprocessor is.
    pub standing: Standing,
    /// How it is; an error of the driver's, or that it doesn't answer.
    pub health: std::result::Result<Health, Error>,
    /// What it has counted; empty if the driver doesn't answer.
    pub counters: Vec<Counter>,
    /// Bytes of its state that the store keeps until it goes on.
    pub saved: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_true_is_refused_in_one_line() {
        let well = Description::coprocessor("npu", "1");
        well.check().unwrap();
        let refused = |change: &dyn Fn(&mut Description)| {
            let mut bad = well.clone();
            change(&mut bad);
            let e = bad.check().unwrap_err();
            assert!(e.kind == crate::ErrorKind::Invalid && !e.message.contains('\n'), "{e}");
            e.message
        };
        assert!(refused(&|d| d.driver.clear()).contains("no name"));
        assert!(refused(&|d| d.version = "x".repeat(65)).contains("longer than 64"));
        assert!(refused(&|d| d.operations = vec!["a\nb".into()]).contains("a\\nb"));
        assert!(refused(&|d| d.operations = vec!["a".into(); 65]).contains("65 operations"));
        assert!(refused(&|d| (d.class, d.has_state) = (Class::Type3, true)).contains("memory only"));
        assert!(refused(&|d| (d.class, d.memory) = (Class::Type1, Some(1))).contains("no memory"));
        assert!(refused(&|d| d.needs.align = 12288).contains("align: 12288"));
        assert!(refused(&|d| d.needs.unit = 0).contains("unit: 0"));
        for private in [vec![(1, 4096)], vec![(0, 0)], vec![(4096, 4096), (0, 4096)], vec![(4096, u64::MAX)]]
        {
            assert!(refused(&|d| d.needs.private.clone_from(&private)).contains("private"));
        }
    }
}
