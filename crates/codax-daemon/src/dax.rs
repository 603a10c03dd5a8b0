//! Devices that are memory the kernel maps without a page cache: DAX devices, and files of DAX filesystems.

use crate::quantity::{Size, pool_bytes};
use codax_core::change::LinkModel;
use codax_core::{Error, Result};
use codax_engine::{DaxSpec, DeviceSpec, Format};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// What is asked for such a device; whether it can be had, the machine has to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DaxWish {
    /// A character device in devdax mode, all of it.
    Device {
        /// Its device file.
        path: PathBuf,
        /// Whether a superblock may be written.
        format: Format,
        /// Whether what it holds outlives the power, where the machine's own word is wrong.
        persistent: Option<bool>,
    },
    /// Files in a directory.
    Files {
        /// The directory.
        path: PathBuf,
        /// Capacity in bytes; `None` for what the store has, or for what is free when the device is new.
        size: Option<u64>,
        /// Whether a superblock may be written.
        format: Format,
        /// Whether what it holds outlives the power, where the machine's own word is wrong.
        persistent: Option<bool>,
    },
}

/// `format` in the configuration.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged, expecting = "format: write true, false or \"force\"")]
pub(crate) enum WrittenFormat {
    Plain(bool),
    Word(Force),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
/// The word for it.
pub(crate) enum Force {
    Force,
}

impl From<WrittenFormat> for Format {
    fn from(written: WrittenFormat) -> Self {
        match written {
            WrittenFormat::Plain(false) => Self::Never,
            WrittenFormat::Plain(true) => Self::IfNotOurs,
            WrittenFormat::Word(Force::Force) => Self::Force,
        }
    }
}

impl DaxWish {
    /// A device file, with nothing said of it.
    pub(crate) fn device(path: &Path) -> Result<Self> {
        let path = checked(path, "the device file, as /dev/dax0.0")?;
        Ok(Self::Device { path, format: Format::Never, persistent: None })
    }

    /// A directory, in the same way.
    pub(crate) fn files(path: &Path) -> Result<Self> {
        let path = checked(path, "the directory, as /mnt/pmem0/codax")?;
        Ok(Self::Files { path, size: None, format: Format::Never, persistent: None })
    }

    /// What the engine is asked for.
    pub(crate) fn spec(&self, name: &str, link: LinkModel) -> DeviceSpec {
        let (files, bytes) = match self {
            Self::Device { .. } => (false, None),
            Self::Files { size, .. } => (true, *size),
        };
        let (Self::Device { path, format, persistent } | Self::Files { path, format, persistent, .. }) = self;
        let dax = DaxSpec { path: path.clone(), files, format: *format, persistent: *persistent };
        DeviceSpec {
            name: name.to_owned(),
            bytes,
            default_bytes: 0,
            numa: None,
            exclusive: None,
            dax: Some(dax),
            emergency: None,
            link,
            missing: None,
            driver_user: None,
        }
    }

    /// The backing's word.
    pub(crate) fn backing(&self) -> &'static str {
        match self {
            Self::Device { .. } => "devdax",
            Self::Files { .. } => "fsdax",
        }
    }

    /// Its device file or directory.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Device { path, .. } | Self::Files { path, .. } => path,
        }
    }

    /// The keys that only such a device has, as an error lists them before others.
    pub(crate) fn keys(&self) -> &'static str {
        match self {
            Self::Device { .. } => "format, persistent, ",
            Self::Files { .. } => "size, format, persistent, ",
        }
    }

    /// Says what may be written, and what outlives the power.
    pub(crate) fn set(&mut self, may: Format, outlives: Option<bool>) {
        match self {
            Self::Device { format, persistent, .. } | Self::Files { format, persistent, .. } => {
                (*format, *persistent) = (may, outlives);
            }
        }
    }

    /// Says the capacity. `Invalid` for a device, which is as large as it is.
    pub(crate) fn set_size(&mut self, wanted: Size) -> Result<()> {
        match self {
            Self::Device { .. } => Err(Error::invalid(
                "`size` is nothing that a devdax device is given: all of it is the pool's",
            )),
            Self::Files { size, .. } => {
                *size = Some(pool_bytes(wanted)?);
                Ok(())
            }
        }
    }

    /// Takes what only such a device has on the command line; whether it was that.
    pub(crate) fn item(&mut self, key: &str, value: Option<&str>) -> Result<bool> {
        let (Self::Device { format, persistent, .. } | Self::Files { format, persistent, .. }) = self;
        match (key, value) {
            ("format", None) => *format = Format::IfNotOurs,
            ("format", Some("force")) => *format = Format::Force,
            ("format", Some(other)) => {
                let other = other.escape_debug();
                return Err(Error::invalid(format!("format: `{other}`: write format or format=force")));
            }
            ("persistent", Some("yes")) => *persistent = Some(true),
            ("persistent", Some("no")) => *persistent = Some(false),
            ("persistent", _) => {
                let other = value.unwrap_or_default().escape_debug();
                return Err(Error::invalid(format!("persistent: `{other}` is neither yes nor no")));
            }
            ("size", _) => self.set_size(Size::parse(value.unwrap_or_default())?)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// A path that the command line can name, and a line of a report can hold.
fn checked(path: &Path, what: &str) -> Result<PathBuf> {
    let wrong = |why: &str| {
        let shown = path.to_string_lossy();
        Err(Error::invalid(format!("path `{}`: {why}", shown.escape_debug())))
    };
    match path.to_str() {
        None => wrong("it is not UTF-8"),
        Some("") => Err(Error::invalid(format!("`path` is missing: {what}"))),
        Some(text) if text.contains(',') => wrong("there is a comma in it, which ends a path in `--device`"),
        Some(text) if text.chars().any(char::is_control) => wrong("there is a control character in it"),
        Some(text) if !text.starts_with('/') => wrong("it does not begin with /"),
        Some(_) => Ok(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_written_is_a_word_or_a_truth() {
        #[derive(Deserialize)]
        struct Holder {
            format: Option<WrittenFormat>,
        }
        let read = |text: &str| {
            toml::from_str::<Holder>(text).map(|holder| holder.format.map(Format::from).unwrap_or_default())
        };
        for (text, format) in [
            ("", Format::Never),
            ("format = false", Format::Never),
            ("format = true", Format::IfNotOurs),
            ("format = \"force\"", Format::Force),
        ] {
            assert_eq!(read(text), Ok(format), "{text}");
        }
        for bad in ["format = \"yes\"", "format = 1", "format = \"\"", "format = []"] {
            let error = read(bad).expect_err("refused");
            assert!(error.message().contains("write true, false or \"force\""), "{bad}: {error}");
        }
    }

    #[test]
    fn paths_are_absolute_and_fit_a_line() {
        for (bad, says) in [
            ("", "`path` is missing"),
            ("dev/dax0.0", "does not begin with /"),
            ("/mnt/a,b", "comma"),
            ("/mnt/a\nb", "`/mnt/a\\nb`: there is a control character"),
            ("/mnt/\0", "control character"),
        ] {
            let error = DaxWish::device(Path::new(bad)).expect_err("refused");
            assert!(error.message.contains(says) && !error.message.contains('\n'), "{bad:?}: {error}");
        }
        assert_eq!(DaxWish::files(Path::new("/mnt/a b")).expect("a path").path(), Path::new("/mnt/a b"));
    }
}
