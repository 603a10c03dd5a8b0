//! What became of a request, in words.

use codax_os::ring::Completion;
use std::fmt;

/// The status of a [`Completion`]: 0, or the negative of an errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[non_exhaustive]
pub enum Status {
    /// It is done.
    Done = 0,
    /// A byte, or a file, can't be reached: the file was cut meanwhile, or lies where the coprocessor can't map it (`EIO`). What was written before stays written.
    Unreachable = -5,
    /// The descriptor names a file that was not granted (`EBADF`).
    NoFile = -9,
    /// The device is drained, and the request did not want to wait (`EAGAIN`).
    Drained = -11,
    /// A file was not granted for reading, or not for writing (`EACCES`).
    NotAllowed = -13,
    /// The descriptor makes no sense for its operation: lengths, alignment, overlap, parameter (`EINVAL`).
    Invalid = -22,
    /// A file has holes where it is to be written, and there is no room for them (`ENOSPC`).
    NoSpace = -28,
    /// A range ends beyond its file (`ERANGE`).
    Beyond = -34,
    /// There is no such operation (`EOPNOTSUPP`).
    NoOperation = -95,
    /// The device was reset while it was at it (`ECONNRESET`).
    Reset = -104,
    /// A file has holes where it is to be written, and a quota has no room for them (`EDQUOT`).
    QuotaExceeded = -122,
    /// It was cancelled (`ECANCELED`).
    Cancelled = -125,
    /// None of these: another device's.
    Other = i32::MIN,
}

impl Status {
    /// All but `Other`.
    const ALL: [Self; 12] = [
        Self::Done,
        Self::Unreachable,
        Self::NoFile,
        Self::Drained,
        Self::NotAllowed,
        Self::Invalid,
        Self::NoSpace,
        Self::Beyond,
        Self::NoOperation,
        Self::Reset,
        Self::QuotaExceeded,
        Self::Cancelled,
    ];

    /// What a completion says.
    #[must_use]
    pub fn of(completion: &Completion) -> Self {
        let known = Self::ALL.into_iter().find(|status| status.number() == completion.status);
        known.unwrap_or(Self::Other)
    }

    /// As a completion has it.
    #[must_use]
    pub const fn number(self) -> i32 {
        self as i32
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Unreachable => "a part of a file can't be reached: it was cut meanwhile, or lies where the coprocessor can't map it",
            Self::NoFile => "it names a file that the queue was not given",
            Self::Drained => "the device is being drained",
            Self::NotAllowed => "the queue was not given a file for that: for reading, or for writing",
            Self::Invalid => "the ranges and parameters make no sense for the operation",
            Self::NoSpace => "there is no space for the holes of a file that is to be written",
            Self::Beyond => "a range ends beyond its file",
            Self::NoOperation => "the device has no such operation",
            Self::Reset => "the device was reset",
            Self::QuotaExceeded => "a quota has no room for the holes of a file that is to be written",
            Self::Cancelled => "it was cancelled",
            Self::Other => "it failed with a status that this release doesn't know",
        })
    }
}
