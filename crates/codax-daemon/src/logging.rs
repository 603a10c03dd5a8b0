//! What the daemon says of itself, on standard error.

use codax_core::{Error, Result};
use std::io::IsTerminal;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

/// Changes what is logged. Does nothing where the program has set up a log of its own.
#[derive(Debug)]
pub(crate) struct Log(Option<Handle<EnvFilter, Registry>>);

impl Log {
    /// Logs to standard error what `filter` lets through.
    pub fn start(filter: &str) -> Result<Self> {
        let (filter, handle) = reload::Layer::new(parse(filter)?);
        // Standard error is a file before long where the daemon is detached.
        let colours = std::io::stderr().is_terminal() && !crate::detach::is_child();
        let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
        let started = tracing_subscriber::registry().with(filter).with(lines).try_init();
        Ok(Self(started.ok().map(|()| handle)))
    }

    /// Logs what `filter` lets through from now on.
    pub fn set(&self, filter: &str) -> Result<()> {
        let Some(handle) = &self.0 else { return Ok(()) };
        handle.reload(parse(filter)?).map_err(|e| Error::internal(format!("log: {e}")))
    }
}

fn parse(filter: &str) -> Result<EnvFilter> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|e| Error::invalid(format!("log: `{filter}` is not a filter: {e}")))
}
