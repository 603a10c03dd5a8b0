//! `--detach`: the same program again, in the background.
//!
//! The program starts itself a second time with the same arguments and the variable [`CHILD_VARIABLE`], and waits. The second one leaves the session, serves the
//! store, and says so over its standard output, which is a pipe to the first; or it says there why it can't. Until then its standard
//! error is the first one's; afterwards it is `meta/daemon.log` in the store's directory. No process is forked after threads were started.

use crate::{Config, LOG_FILE, server};
use codax_core::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Set for the second process.
pub const CHILD_VARIABLE: &str = "CODAX_DETACHED";

/// What the second process says when it serves.
const READY: &str = "ready\n";

/// Whether this process is the second one: it calls [`serve`], and prints nothing to standard output.
#[must_use]
pub fn is_child() -> bool {
    std::env::var_os(CHILD_VARIABLE).is_some()
}

/// Starts this program again in the background, with the same arguments, and waits until it serves the store. Returns its process id, or the error that
/// kept it from serving.
pub fn spawn() -> Result<u32> {
    let failed = |e: io::Error| Error::internal(format!("--detach: start the daemon: {e}"));
    let program = std::env::current_exe().map_err(failed)?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(CHILD_VARIABLE, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut said = String::new();
    let mut output =
        child.stdout.take().ok_or_else(|| Error::internal("--detach: the daemon has no output"))?;
    output.read_to_string(&mut said).map_err(failed)?;
    if said == READY {
        return Ok(child.id());
    }
    let status = child.wait().map_err(failed)?;
    Err(toml::from_str(&said).unwrap_or_else(|_| {
        Error::internal(format!("--detach: the daemon ended before it served the store: {status}"))
    }))
}

/// Serves the store as the second process. Where it can't begin to, the first one has the error and this one's standard error is silent.
pub fn serve(config: Config) -> Result<()> {
    // Fails for the leader of a process group, which has no terminal to lose either.
    let _ = rustix::process::setsid();
    let dir = config.store.clone();
    let mut ready = false;
    let served = server::run(
        config,
        |_| {
            announce(&dir)?;
            ready = true;
            Ok(())
        },
        // The log is in what is about to be unmounted.
        |purge| if purge { silence() } else { Ok(()) },
    );
    if let Err(e) = &served
        && !ready
    {
        let said = toml::to_string(e).unwrap_or_default();
        let _ = io::stdout().write_all(said.as_bytes()).and_then(|()| io::stdout().flush());
        let _ = silence();
    }
    served
}

/// Tells the first process that all is well, and lets go of everything it shares with this one.
fn announce(dir: &Path) -> Result<()> {
    let file = log(dir)?;
    let failed = |e: io::Error| Error::internal(format!("tell that the store is served: {e}"));
    std::env::set_current_dir("/").map_err(failed)?;
    let mut stdout = io::stdout();
    stdout.write_all(READY.as_bytes()).and_then(|()| stdout.flush()).map_err(failed)?;
    redirect(&file).map_err(failed)
}

/// The log of the store in this directory, to be written on.
pub(crate) fn log(dir: &Path) -> Result<File> {
    let path = dir.join(LOG_FILE);
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    opened.map_err(|e| Error::internal(format!("{}: {e}", path.display())))
}

fn silence() -> Result<()> {
    let null = OpenOptions::new().write(true).open("/dev/null");
    null.and_then(|null| redirect(&null)).map_err(|e| Error::internal(format!("/dev/null: {e}")))
}

fn redirect(to: &File) -> io::Result<()> {
    rustix::stdio::dup2_stdout(to.as_fd())?;
    rustix::stdio::dup2_stderr(to.as_fd())?;
    Ok(())
}
