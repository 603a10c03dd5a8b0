//! By whom a file in a mount is served. Asks the mount itself, whichever store it is of.

use super::{Level, Row};
use crate::output::text;
use anyhow::{Context, Result};
use codax_core::Error;
use codax_core::info::ServedBy;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// The attribute by which a mount says it.
const ATTRIBUTE: &str = "user.codax.served";

/// What it says of the store's state as files.
const STATE: &str = "state";

/// How the mount serves a file, or new files in a directory.
pub(super) fn look(file: &Path) -> Result<Row> {
    let shown = file.display();
    let value = codax_os::mounts::attribute(file, ATTRIBUTE).with_context(|| shown.to_string())?;
    let Some(value) = value else { return without_bytes(file) };
    let value = String::from_utf8_lossy(&value);
    let (by, why) = value.split_once(": ").unwrap_or((&value, ""));
    if by == STATE {
        return Ok(Row::ok("file", format!("{shown}: {why}"), "the store's state, as text"));
    }
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

/// What has no such attribute: in a mount it is a link, a pipe, a socket or a device's node.
fn without_bytes(file: &Path) -> Result<Row> {
    let shown = file.display();
    let kind = std::fs::symlink_metadata(file).with_context(|| shown.to_string())?.file_type();
    let what = if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device's node"
    } else {
        ""
    };
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let in_mount =
        !what.is_empty() && codax_os::mounts::attribute(dir, ATTRIBUTE).is_ok_and(|found| found.is_some());
    if !in_mount {
        return Err(
            Error::invalid(format!("{shown}: it is no file or directory in a mount of a store")).into()
        );
    }
    Ok(Row::ok(
        "file",
        format!("{shown}: it is {what}"),
        "a name without bytes: the kernel serves it by itself",
    ))
}
