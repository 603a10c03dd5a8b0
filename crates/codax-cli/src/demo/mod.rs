//! `codax demo`: the main job from end to end, with real files and real processes, and nothing left behind.
//!
//! [`plan`] chooses the files, [`stage`] is the private place with its processes, [`crew`] starts them, [`worker`] is what those that use the
//! files do, [`script`] is the acts, [`report`] what they found.

mod bench;
mod crew;
mod plan;
mod records;
mod report;
mod script;
mod stage;
mod waits;
pub mod worker;

use crate::args::DemoArgs;
use anyhow::Result;
use codax_core::units::parse_size;
use std::io::Write;

/// `codax demo`.
pub fn run(args: &DemoArgs, json: bool) -> Result<()> {
    let size = args.size.as_deref().map(parse_size).transpose()?;
    let sources = plan::choose(args.input.as_deref(), size)?;
    script::check_memory(&sources)?;
    let stage = stage::Stage::new()?;
    let crew = crew::Crew::new(&stage, script::pool_bytes(&sources), &args.device)?;
    let outcome = script::play(crew, &sources);
    // Before anything is printed that somebody may take for the end.
    drop(stage);
    let outcome = outcome?;
    let mut out = std::io::stdout().lock();
    match json {
        true => writeln!(out, "{}", outcome.json()?)?,
        false => write!(out, "\n{}", outcome.table())?,
    }
    out.flush()?;
    Ok(outcome.verdict()?)
}
