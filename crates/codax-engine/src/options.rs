//! What a store is opened with.

use codax_core::change::{BackingKind, LinkModel, NodeMemory};
use codax_core::emergency::Emergency;
use codax_core::info::Exclusive;
use codax_core::{HUGE_SIZE, PAGE_SIZE};
use std::path::PathBuf;
use std::time::Duration;

/// Where tmpfs gives huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugeMode {
    /// Where a file fills them: small files cost what they are. The default.
    #[default]
    WithinSize,
    /// Never.
    Never,
    /// Where a client asks with `madvise`.
    Advise,
    /// Always, also for a file of one byte.
    Always,
}

impl HugeMode {
    /// The value of tmpfs's `huge=` option (tmpfs(5)).
    #[must_use]
    pub const fn mount_option(self) -> &'static str {
        match self {
            Self::WithinSize => "within_size",
            Self::Never => "never",
            Self::Advise => "advise",
            Self::Always => "always",
        }
    }
}

/// Whether a medium may be made a pool's, whatever is on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Never: it is one, or is left alone.
    #[default]
    Never,
    /// If it isn't one, or is damaged. One that is stays what it is.
    IfNotOurs,
    /// Always, when the store takes it for the first time: all files of it are gone.
    Force,
}

/// A medium of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaxSpec {
    /// The DAX device, or the directory.
    pub path: PathBuf,
    /// Whether it is a directory of files, rather than a device.
    pub files: bool,
    /// Whether it may be made a pool's.
    pub format: Format,
    /// Whether it outlives the power, if the machine is not to be asked.
    pub persistent: Option<bool>,
}

/// A device beside `dram`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Its name, and its pool's.
    pub name: String,
    /// Capacity in bytes, 0 of a device without memory; `None` takes the store's, or [`DeviceSpec::default_bytes`] for a new one.
    pub bytes: Option<u64>,
    /// Capacity of a device that is new and given none.
    pub default_bytes: u64,
    /// The NUMA node whose memory it is, if it is one's.
    pub numa: Option<NodeMemory>,
    /// What keeps others' memory off its node; `None` for what the store knows of it.
    pub exclusive: Option<Exclusive>,
    /// The medium of its own that it is, if it is one.
    pub dax: Option<DaxSpec>,
    /// Whether and how it helps out when memory is exhausted; `None` for never.
    pub emergency: Option<Emergency>,
    /// What its link announces.
    pub link: LinkModel,
    /// Why its memory is not there, if it isn't: only a device that is detached may be without.
    pub missing: Option<String>,
    /// The user whose processes may drive it, beside root; `None` for the store's owner.
    pub driver_user: Option<u32>,
    /// Whether it is there for a coprocessor in software, which the daemon starts.
    pub software: bool,
}

impl DeviceSpec {
    /// An emulated device.
    #[must_use]
    pub fn emulated(name: impl Into<String>, bytes: u64, link: LinkModel) -> Self {
        Self {
            name: name.into(),
            bytes: Some(bytes),
            default_bytes: bytes,
            numa: None,
            exclusive: None,
            dax: None,
            emergency: None,
            link,
            missing: None,
            driver_user: None,
            software: false,
        }
    }

    /// What holds its bytes.
    pub(crate) fn backing(&self) -> BackingKind {
        match &self.dax {
            Some(dax) if dax.files => BackingKind::Fsdax,
            Some(_) => BackingKind::Devdax,
            None if self.numa.is_some() => BackingKind::Numa,
            None if self.software => BackingKind::Software,
            None if self.bytes == Some(0) => BackingKind::None,
            None => BackingKind::Emulated,
        }
    }
}

/// What a store is opened with.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The store's directory.
    pub dir: PathBuf,
    /// Capacity of `dram` in bytes; `None` takes the store's, or [`StoreOptions::dram_default`] for a new one.
    pub dram_bytes: Option<u64>,
    /// Capacity of `dram` in a new store that is given none.
    pub dram_default: u64,
    /// The NUMA nodes of `dram`: the host's own memory. None: wherever the kernel gives it.
    pub dram_nodes: Vec<u32>,
    /// Devices; those the store knows already may be left out.
    pub devices: Vec<DeviceSpec>,
    /// Huge pages.
    pub huge: HugeMode,
    /// How long a mapper may take to answer a step of a move.
    pub ack_timeout: Duration,
    /// Bytes moved as one step, between 64 KiB and 2 MiB; `None` takes 2 MiB where one of the pools has huge pages and 512 KiB elsewhere, so that
    /// an access waits about as long in both.
    pub chunk_bytes: Option<u64>,
    /// How long a device's driver may take to bring it to a safe point, to save its state and to take it back.
    pub quiesce_timeout: Duration,
    /// How long a drain that a restart interrupted waits for held files, clients that reconnect among them.
    pub resume_wait: Duration,
}

impl StoreOptions {
    /// The defaults for a store in `dir`.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            dram_bytes: None,
            dram_default: 1 << 30,
            dram_nodes: Vec::new(),
            devices: Vec::new(),
            huge: HugeMode::default(),
            ack_timeout: Duration::from_secs(2),
            chunk_bytes: None,
            quiesce_timeout: Duration::from_secs(10),
            resume_wait: Duration::from_secs(60),
        }
    }

    /// Pages moved as one step.
    pub(crate) fn chunk_pages(&self, huge: bool) -> u64 {
        let default = if huge { HUGE_SIZE } else { HUGE_SIZE / 4 };
        self.chunk_bytes.unwrap_or(default).clamp(64 << 10, HUGE_SIZE) / PAGE_SIZE
    }
}
