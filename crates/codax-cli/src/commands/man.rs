//! `codax man`: manual pages from the same descriptions as the help.

use super::Context;
use crate::args::{Cli, ManArgs};
use crate::output::json::PathForm;
use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// `codax man`.
pub fn run(context: &Context, args: &ManArgs) -> Result<()> {
    let dir = &args.dir;
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    write(command, dir, &mut pages).with_context(|| format!("writing to {}", dir.display()))?;
    context.print(pages.iter().map(|page| PathForm::new(page.as_os_str().as_bytes())), String::new)
}

/// Writes the page of `command` and those of its subcommands.
fn write(command: Command, dir: &Path, pages: &mut Vec<PathBuf>) -> std::io::Result<()> {
    pages.push(Man::new(command.clone()).manual("codax").generate_to(dir)?);
    command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set())
        .try_for_each(|sub| write(sub.clone(), dir, pages))
}
