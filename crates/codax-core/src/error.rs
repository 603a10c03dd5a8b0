//! The one error type of the store: a small kind to match on, and a line that names the thing and what to do.

use serde::{Deserialize, Serialize};

/// What went wrong, to match on. The program's exit codes and a mount's errnos are made from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A defect of codax itself, or a failure of the system that has no better name.
    Internal,
    /// An argument makes no sense: a name, size, range or combination (EINVAL).
    Invalid,
    /// A path component is longer than 255 bytes (ENAMETOOLONG).
    NameTooLong,
    /// No such file, directory, pool or device (ENOENT).
    NotFound,
    /// A component of a path is not a directory (ENOTDIR).
    NotDir,
    /// A directory where a file is wanted (EISDIR).
    IsDir,
    /// A directory that still holds something (ENOTEMPTY).
    NotEmpty,
    /// A pool has too few free frames (ENOSPC).
    NoSpace,
    /// Somebody else uses it: a held file, a drain that runs, another daemon (EBUSY).
    Busy,
    /// The device is not in a state that allows this: draining, offline, another size (EIO at a mount).
    DeviceState,
    /// The caller may not do this (EACCES).
    Permission,
    /// No daemon serves the store.
    NoDaemon,
    /// What the store's own files or a message say can't be true (EIO at a mount).
    Corrupt,
    /// It is there already (EEXIST).
    Exists,
    /// The operation was cancelled, by its client or by the operator.
    Cancelled,
    /// The caller may not do this to such a thing, whatever its mode says (EPERM).
    NotPermitted,
    /// The file has no extended attribute of this name (ENODATA).
    NoData,
    /// Nothing there at or after this offset (ENXIO).
    PastEnd,
    /// A value is larger than may be (E2BIG).
    TooBig,
    /// A file can't be as long (EFBIG).
    FileTooBig,
    /// The store can't do this (EOPNOTSUPP).
    NotSupported,
    /// The handle is not open, or not open for this (EBADF).
    BadHandle,
    /// Bytes of a file are gone, or out of reach with the device that has them (EIO).
    Lost,
    /// A user or a directory may have no more frames of a pool (EDQUOT).
    QuotaExceeded,
}

impl ErrorKind {
    /// The errno that a mount answers with.
    #[must_use]
    pub const fn errno(self) -> i32 {
        // As in Linux's `asm-generic/errno*.h`, which is the same on all that codax runs on.
        match self {
            Self::NotPermitted => 1,
            Self::NotFound => 2,
            Self::Cancelled => 4,
            Self::Internal | Self::Corrupt | Self::Lost => 5,
            Self::PastEnd => 6,
            Self::TooBig => 7,
            Self::BadHandle => 9,
            Self::Permission => 13,
            Self::Busy => 16,
            Self::Exists => 17,
            Self::NotDir => 20,
            Self::IsDir => 21,
            Self::Invalid => 22,
            Self::FileTooBig => 27,
            // A device that takes nothing new is as full: what programs know of EIO is broken hardware.
            Self::NoSpace | Self::DeviceState => 28,
            Self::NameTooLong => 36,
            Self::NotEmpty => 39,
            Self::NoData => 61,
            Self::NotSupported => 95,
            Self::NoDaemon => 107,
            Self::QuotaExceeded => 122,
        }
    }
}

/// An error of the store: a kind, and one line for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What to match on.
    pub kind: ErrorKind,
    /// One line that names the thing and, where there is something to do, says what.
    pub message: String,
}

/// Result with the store's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind` with a line for people.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

macro_rules! shorthand {
    ($($name:ident => $kind:ident),* $(,)?) => {
        impl Error {$(
            #[doc = concat!("Shorthand for an error of kind [`ErrorKind::", stringify!($kind), "`].")]
            #[must_use]
            pub fn $name(message: impl Into<String>) -> Self {
                Self::new(ErrorKind::$kind, message)
            }
        )*}
    };
}

shorthand! {
    internal => Internal,
    invalid => Invalid,
    not_found => NotFound,
    no_space => NoSpace,
    busy => Busy,
    device_state => DeviceState,
    permission => Permission,
    corrupt => Corrupt,
    exists => Exists,
    cancelled => Cancelled,
    no_data => NoData,
    not_supported => NotSupported,
    lost => Lost,
}
