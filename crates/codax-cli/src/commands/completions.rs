//! `codax completions`.

use super::Context;
use crate::args::{Cli, CompletionsArgs};
use anyhow::Result;
use clap::CommandFactory;
use serde::Serialize;

#[derive(Serialize)]
struct Row {
    shell: String,
    script: String,
}

/// `codax completions`.
pub fn run(context: &Context, args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "codax", &mut script);
    let script = String::from_utf8(script)?;
    context.print([Row { shell: args.shell.to_string(), script: script.clone() }], || script)
}
