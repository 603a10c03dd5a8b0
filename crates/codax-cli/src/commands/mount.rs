//! `codax mount` and `umount`: the store as a filesystem for every program.

use super::{Context, done, unexpected};
use crate::args::{MountArgs, UmountArgs};
use crate::output::json::PathForm;
use crate::output::text::printable;
use anyhow::Result;
use codax_core::Error;
use codax_core::mounting::MountOptions;
use codax_wire::{Reply, Request};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// `codax mount`.
pub fn mount(context: &Context, args: &MountArgs) -> Result<()> {
    let dir = absolute(&args.dir)?;
    let options = MountOptions::parse(&args.options.join(","))?;
    done(&context.store()?, Request::Mount { dir: bytes(&dir), options })?;
    context.print([PathForm::new(dir.as_os_str().as_bytes())], String::new)
}

/// `codax umount`.
pub fn umount(context: &Context, args: &UmountArgs) -> Result<()> {
    let dir = args.dir.as_deref().map(absolute).transpose()?;
    let gone = match context.store()?.call(Request::Umount { dir: dir.as_deref().map(bytes) })? {
        Reply::Dirs(gone) => gone,
        other => return Err(unexpected(&other).into()),
    };
    context.print(gone.iter().map(|dir| PathForm::new(dir)), || {
        let lines = gone.iter().map(|dir| printable(&String::from_utf8_lossy(dir)) + "\n");
        if args.dir.is_some() { String::new() } else { lines.collect() }
    })
}

/// The daemon has another working directory. Links are its to follow: what a dead mount is on can't be looked at.
fn absolute(dir: &Path) -> Result<PathBuf> {
    Ok(std::path::absolute(dir).map_err(|e| Error::invalid(format!("{}: {e}", dir.display())))?)
}

fn bytes(dir: &Path) -> Vec<u8> {
    dir.as_os_str().as_bytes().to_vec()
}
