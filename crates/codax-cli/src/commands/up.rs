//! `codax up`: serves a store, here or in the background.

use super::Context;
use crate::args::UpArgs;
use crate::output::json::{self, PathForm};
use crate::output::text::printable;
use anyhow::Result;
use codax_core::units::format_size;
use codax_daemon::{CommandLine, Config, detach};
use serde::Serialize;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

#[derive(Serialize)]
struct Row {
    /// The store's directory.
    #[serde(flatten)]
    dir: PathForm,
    pid: u32,
    detached: bool,
}

/// `codax up`.
pub fn run(context: &Context, args: &UpArgs) -> Result<()> {
    let line = CommandLine {
        store: context.given.clone(),
        dram: args.dram.clone(),
        devices: args.devices.clone(),
        config: args.config.clone(),
        mount: args.mount.clone(),
        mount_options: args.mount_options.clone(),
    };
    let config = Config::load(&line)?;
    if args.detach {
        return up_detached(context, config);
    }
    let dir = config.store.clone();
    let ready = |info: &codax_core::info::StoreInfo| {
        let pools = info.pools.iter().map(|pool| format!("{} {}", pool.name, format_size(pool.bytes)));
        let pools = pools.collect::<Vec<_>>().join(", ");
        let mut text = format!("{} is served by process {}: {pools}\n", dir.display(), info.pid);
        for line in &info.recovery {
            text += &format!("  {}\n", printable(line));
        }
        say(context, &dir, info.pid, text);
    };
    Ok(codax_daemon::serve(config, ready)?)
}

fn up_detached(context: &Context, config: Config) -> Result<()> {
    if detach::is_child() {
        return Ok(detach::serve(config)?);
    }
    let pid = detach::spawn()?;
    let dir = config.store;
    let log = dir.join(codax_daemon::LOG_FILE);
    let text = format!("{} is served by process {pid}, which logs to {}\n", dir.display(), log.display());
    let row = Row { dir: PathForm::new(dir.as_os_str().as_bytes()), pid, detached: true };
    context.print([row], || text)
}

/// Says that the store is served. That nobody reads it is no reason to stop.
fn say(context: &Context, dir: &Path, pid: u32, text: String) {
    let row = Row { dir: PathForm::new(dir.as_os_str().as_bytes()), pid, detached: false };
    let mut out = std::io::stdout().lock();
    let said = match context.json {
        true => json::write(&mut out, context.command, [row]),
        false => out.write_all(text.as_bytes()),
    };
    if let Err(error) = said.and_then(|()| out.flush()) {
        tracing::debug!("standard output: {error}");
    }
}
