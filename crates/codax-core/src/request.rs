//! What clients ask of a store: the bodies of requests, which travel over the wire as they are.

use crate::extent::PoolRun;
use crate::name::StorePath;
use crate::{FileId, PageRange, PoolId};
use serde::{Deserialize, Serialize};

/// Names an open file within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Handle(pub u32);

/// Names a pin within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PinId(pub u32);

/// A file that a reconnecting client maps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapped {
    /// The file.
    pub file: FileId,
    /// Number of its mappings.
    pub mappings: u32,
    /// Whether one of them may write.
    pub write: bool,
    /// Where the client sees its pages.
    pub runs: Vec<PoolRun>,
}

/// Body of a request to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The file; ignored when `unnamed`.
    pub path: StorePath,
    /// Wants to read.
    pub read: bool,
    /// Wants to write.
    pub write: bool,
    /// Make it if it isn't there.
    pub create: bool,
    /// `Exists` if it is there (with `create`).
    pub exclusive: bool,
    /// Cut to length 0 (with `write`).
    pub truncate: bool,
    /// Make a file without a name, in the directory of `path`: `Publish` names it, otherwise it goes with the session.
    pub unnamed: bool,
    /// Permission bits for a new file, umask already taken off.
    pub mode: u16,
    /// A placement of its own for a new file.
    pub placement: Option<PlacementSpec>,
    /// A new file is never on a device for want of room in `dram`.
    pub no_emergency: bool,
    /// Length of a new file.
    pub len: u64,
    /// Map it in the same step, as a request to map with this `write` would; needs an attached session.
    pub map: Option<bool>,
}

/// Where a file's pages are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Length in bytes.
    pub len: u64,
    /// Its pages, in order and without gaps.
    pub runs: Vec<PoolRun>,
    /// Moves and pages of this store may be as large as so many pages, 1 where all are small: who maps the file maps whole blocks of them, also where it ends
    /// within one.
    pub block: u64,
    /// Those of its pages that lie on devices which whoever maps them opens himself: no descriptor comes with the answer for their pools.
    pub devices: Vec<OnDevice>,
    /// Pools that outlive the power: what is stored there can be made durable.
    pub persistent: Vec<PoolId>,
}

/// Pages of a file that lie on a device, where each has a place of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnDevice {
    /// The device's pool.
    pub pool: PoolId,
    /// The device, to be opened by whoever may.
    pub path: String,
    /// Its number, as stat(2) says it of the path.
    pub rdev: u64,
    /// Where the pages are, in their order.
    pub runs: Vec<DeviceRun>,
}

/// Pages of a file in consecutive frames of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRun {
    /// The pages.
    pub pages: PageRange,
    /// The byte of the device at which the first of them is.
    pub at: u64,
}

/// A placement as people write it: pools by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlacementSpec {
    /// See [`crate::placement::Placement::On`].
    On {
        /// The pool's name.
        pool: String,
        /// Not even a drain may take it elsewhere.
        strict: bool,
    },
    /// See [`crate::placement::Placement::Prefer`].
    Prefer {
        /// The pool's name.
        pool: String,
    },
    /// See [`crate::placement::Placement::Interleave`].
    Interleave {
        /// The pools' names.
        pools: Vec<String>,
    },
}

/// Whose a quota is, as people write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuotaOf {
    /// A user.
    User(u32),
    /// A directory, with all that is below it.
    Dir(StorePath),
}
