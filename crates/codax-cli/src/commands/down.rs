//! `codax down` and `reload`: words to the daemon.

use super::{Context, done, info, unexpected};
use crate::args::DownArgs;
use crate::output::json::PathForm;
use crate::output::text;
use anyhow::Result;
use codax::Store;
use codax_core::ErrorKind;
use codax_wire::{Reply, Request};
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

#[derive(Serialize)]
struct Row {
    /// The store's directory.
    #[serde(flatten)]
    dir: PathForm,
    purged: bool,
}

/// `codax down`.
pub fn down(context: &Context, args: &DownArgs) -> Result<()> {
    let connected = Store::connect(&context.dir);
    let nobody = connected.as_ref().is_err_and(|e| e.kind == ErrorKind::NoDaemon);
    if args.purge && nobody && context.dir.join("lock").exists() {
        // A store whose daemon can't start must be deletable, too, with what it left mounted.
        codax_mount::record::clean(&codax_engine::store::Layout { dir: context.dir.clone() }.meta())?;
        codax_engine::store::purge_idle(&context.dir)?;
    } else {
        let store = context.store()?;
        let daemon = info(&store)?.pid;
        done(&store, Request::Down { purge: args.purge })?;
        wait_for_end(daemon);
    }
    let row = Row { dir: PathForm::new(context.dir.as_os_str().as_bytes()), purged: args.purge };
    context.print([row], String::new)
}

/// Waits until the process is gone, so that the next `codax up` finds the store free. It was about to end when it answered.
fn wait_for_end(pid: u32) {
    for _ in 0..500 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The state follows the name in parentheses; one that waits to be reaped has let go of everything.
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with(['Z', 'X']));
        if state.unwrap_or(true) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[derive(Serialize)]
struct Line<'a> {
    line: &'a str,
}

/// `codax reload`.
pub fn reload(context: &Context) -> Result<()> {
    let lines = match context.store()?.call(Request::Reload)? {
        Reply::Lines(lines) => lines,
        other => return Err(unexpected(&other).into()),
    };
    context.print(lines.iter().map(|line| Line { line }), || match lines.is_empty() {
        true => "nothing changed\n".to_owned(),
        false => lines.iter().map(|line| text::printable(line) + "\n").collect(),
    })
}
