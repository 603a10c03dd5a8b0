//! By whom a file in a mount is served. Asks the mount itself, whichever store it is of.

use super::{Level, Row};
use crate::output::text;
use anyhow::{Context, Result};
use codax_core::Error;
use codax_core::info::ServedBy;
use std::path::Path;

/// The attribute by which a mount says it.
const ATTRIBUTE: &str = "user.codax.served";

/// How the mount serves a file, or new files in a directory.
pub(super) fn look(file: &Path) -> Result<Row> {
    let shown = file.display();
    let value = codax_os::mounts::attribute(file, ATTRIBUTE).with_context(|| shown.to_string())?;
    let value = value.ok_or_else(|| {
        Error::invalid(format!("{shown}: it is no file or directory in a mount of a store"))
    })?;
    let value = String::from_utf8_lossy(&value);
    let (by, why) = value.split_once(": ").unwrap_or((&value, ""));
    let by =
        [ServedBy::Kernel, ServedBy::Daemon, ServedBy::Cache].into_iter().find(|known| known.name() == by);
    let by = by.ok_or_else(|| Error::corrupt(format!("{shown}: its mount says {value:?}")))?;
    let follows = format!("served {}", text::served_by(by));
    let value = format!("{shown}: {why}");
    Ok(match by {
        ServedBy::Kernel => Row::ok("file", value, follows),
        ServedBy::Daemon => {
            let mend = "bring it into one pool (codax move), or give the directory's placement one (codax placement)";
            Row::bad(Level::Limited, "file", value, follows, mend)
        }
        ServedBy::Cache => {
            let mend = "mount it as root, on Linux 6.9 or newer (codax doctor)";
            Row::bad(Level::Limited, "file", value, follows, mend)
        }
    })
}
