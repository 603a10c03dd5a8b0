//! Why a DAX device can't be opened.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a DAX device can't be opened, each with a line that says what to do.
#[derive(Debug)]
pub enum OpenError {
    /// There is nothing of this path.
    Missing(PathBuf),
    /// It is something else.
    NotDax(PathBuf),
    /// Its memory is a node's.
    SystemRam(String),
    /// No driver has it.
    Unbound(String),
    /// Another driver has it.
    OtherDriver {
        /// The device.
        name: String,
        /// The driver.
        driver: String,
    },
    /// The kernel doesn't tell what it must.
    Untold {
        /// The device.
        name: String,
        /// The value that isn't there, or makes no sense.
        what: &'static str,
    },
    /// Somebody has it who shares it with nobody.
    Busy(String),
    /// This process may not.
    Denied(PathBuf),
    /// The device has gone, or its driver.
    Gone(String),
    /// The kernel says another error.
    Other(PathBuf, io::Error),
}

impl OpenError {
    /// What an error of a path is.
    pub(super) fn of_path(path: &Path, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing(path.to_owned()),
            io::ErrorKind::PermissionDenied => Self::Denied(path.to_owned()),
            _ => Self::Other(path.to_owned(), error),
        }
    }

    /// What an error of a device is that was there just now.
    pub(super) fn of_device(name: &str, path: &Path, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ResourceBusy => Self::Busy(name.to_owned()),
            io::ErrorKind::NotFound => Self::Gone(name.to_owned()),
            _ if super::is_gone(&error) => Self::Gone(name.to_owned()),
            _ => Self::of_path(path, error),
        }
    }

    /// The nearest of the kernel's kinds of errors.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Missing(_) | Self::Gone(_) => io::ErrorKind::NotFound,
            Self::NotDax(_) => io::ErrorKind::InvalidInput,
            Self::SystemRam(_) | Self::Busy(_) => io::ErrorKind::ResourceBusy,
            Self::Unbound(_) | Self::OtherDriver { .. } | Self::Untold { .. } => io::ErrorKind::Unsupported,
            Self::Denied(_) => io::ErrorKind::PermissionDenied,
            Self::Other(_, error) => error.kind(),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => {
                write!(f, "there is no {}; `daxctl list` names the devices that there are", path.display())
            }
            Self::NotDax(path) => write!(f, "{} is no DAX device (/dev/daxX.Y)", path.display()),
            Self::SystemRam(name) => write!(
                f,
                "{name} is in use as system RAM; `daxctl reconfigure-device -m devdax {name}` takes it back"
            ),
            Self::Unbound(name) => {
                write!(f, "{name} has no driver; `daxctl reconfigure-device -m devdax {name}` gives it one")
            }
            Self::OtherDriver { name, driver } => write!(
                f,
                "{name} belongs to the driver {driver}; `daxctl reconfigure-device -m devdax {name}` gives it another"
            ),
            Self::Untold { name, what } => write!(f, "sysfs tells no `{what}` of {name}"),
            Self::Busy(name) => write!(f, "{name} is in use by another program"),
            Self::Denied(path) => write!(f, "no permission to open {}", path.display()),
            Self::Gone(name) => write!(f, "{name} has gone, or its driver; `daxctl list` says what is there"),
            Self::Other(path, error) => write!(f, "{} can't be opened: {error}", path.display()),
        }
    }
}

impl Error for OpenError {}

impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> Self {
        Self::new(error.kind(), error)
    }
}
