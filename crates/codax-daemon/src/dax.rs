//! Devices that are memory the kernel maps without a page cache: DAX devices, and files of DAX filesystems.

use crate::quantity::{Size, pool_bytes};
use codax_core::{Error, Result};
use codax_engine::{DaxSpec, Format};
use serde::Deserialize;
use std::path::{Path, PathBuf};

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

/// What is asked for a device file, or for a directory of `files`, with nothing else said of it; whether it can be had, the machine has to be asked.
pub(crate) fn spec(path: &Path, files: bool) -> Result<DaxSpec> {
    let what = if files { "the directory, as /mnt/pmem0/codax" } else { "the device file, as /dev/dax0.0" };
    Ok(DaxSpec { path: checked(path, what)?, files, format: Format::Never, persistent: None })
}

/// The backing's word.
pub(crate) fn backing(spec: &DaxSpec) -> &'static str {
    if spec.files { "fsdax" } else { "devdax" }
}

/// The keys that only such a device has, as an error lists them before others.
pub(crate) fn keys(spec: &DaxSpec) -> &'static str {
    if spec.files { "size, format, persistent, " } else { "format, persistent, " }
}

/// Its capacity, as it is given. `Invalid` for a device file, which is as large as it is.
pub(crate) fn size(spec: &DaxSpec, wanted: Size) -> Result<u64> {
    if !spec.files {
        let why = "`size` is nothing that a devdax device is given: all of it is the pool's";
        return Err(Error::invalid(why));
    }
    pool_bytes(wanted)
}

/// Takes what only such a device has on the command line; whether it was that.
pub(crate) fn item(
    spec: &mut DaxSpec,
    bytes: &mut Option<u64>,
    key: &str,
    value: Option<&str>,
) -> Result<bool> {
    match (key, value) {
        ("format", None) => spec.format = Format::IfNotOurs,
        ("format", Some("force")) => spec.format = Format::Force,
        ("format", Some(other)) => {
            let other = other.escape_debug();
            return Err(Error::invalid(format!("format: `{other}`: write format or format=force")));
        }
        ("persistent", Some("yes")) => spec.persistent = Some(true),
        ("persistent", Some("no")) => spec.persistent = Some(false),
        ("persistent", _) => {
            let other = value.unwrap_or_default().escape_debug();
            return Err(Error::invalid(format!("persistent: `{other}` is neither yes nor no")));
        }
        ("size", _) => *bytes = Some(size(spec, Size::parse(value.unwrap_or_default())?)?),
        _ => return Ok(false),
    }
    Ok(true)
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
            let error = spec(Path::new(bad), false).expect_err("refused");
            assert!(error.message.contains(says) && !error.message.contains('\n'), "{bad:?}: {error}");
        }
        assert_eq!(spec(Path::new("/mnt/a b"), true).expect("a path").path, Path::new("/mnt/a b"));
    }
}
