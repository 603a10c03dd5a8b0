//! What the commands do, each on checked values.

mod check;
mod chmod;
mod completions;
mod device;
mod discover;
mod doctor;
mod down;
mod events;
mod files;
mod man;
mod mount;
mod mv;
mod occupants;
mod pages;
mod probe;
mod quota;
mod run;
mod status;
mod strangers;
mod transfer;
mod tree;
mod up;
mod users;

use crate::args::{Cli, Command};
use crate::output::json::{self, PoolNames};
use crate::output::progress::Progress;
use crate::output::text::printable;
use anyhow::Result;
use codax::Store;
use codax_core::info::StoreInfo;
use codax_core::name::StorePath;
use codax_core::{Error, ErrorKind};
use codax_wire::{Reply, Request};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

/// Does what was asked for.
pub fn run(cli: Cli) -> Result<()> {
    let context = Context {
        dir: cli.global.store.clone().unwrap_or_else(codax_wire::default_dir),
        given: cli.global.store,
        json: cli.global.json,
        command: cli.command.name(),
    };
    let context = &context;
    match cli.command {
        Command::Up(args) => up::run(context, &args),
        Command::Down(args) => down::down(context, &args),
        Command::Mount(args) => mount::mount(context, &args),
        Command::Umount(args) => mount::umount(context, &args),
        Command::Reload => down::reload(context),
        Command::Status => status::status(context),
        Command::Events(args) => events::run(context, &args),
        Command::Doctor(args) => doctor::run(context, &args),
        Command::Device(command) => device::run(context, &command),
        Command::Put(args) => transfer::put(context, &args),
        Command::Get(args) => transfer::get(context, &args),
        Command::Cat(args) => transfer::cat(context, &args),
        Command::Ls(args) => files::ls(context, &args),
        Command::Stat(args) => files::stat_all(context, &args),
        Command::Mkdir(args) => files::mkdir(context, &args),
        Command::Rm(args) => files::rm(context, &args),
        Command::Mv(args) => mv::rename(context, &args),
        Command::Chmod(args) => chmod::chmod(context, &args),
        Command::Chown(args) => chmod::chown(context, &args),
        Command::Df => status::df(context),
        Command::Du(args) => status::du(context, &args),
        Command::Placement(args) => mv::placement(context, &args),
        Command::Quota(args) => quota::run(context, &args),
        Command::Move(args) => mv::relocate(context, &args),
        Command::Run(args) => run::run(context, &args),
        Command::Pages(args) => pages::run(context, &args),
        Command::Probe(args) => probe::run(context, &args),
        Command::Check(args) => check::run(context, &args),
        Command::Demo(args) => crate::demo::run(&args, context.json),
        Command::Completions(args) => completions::run(context, &args),
        Command::Man(args) => man::run(context, &args),
        Command::Coprocessor(args) => Ok(codax_coprocessor::run(&context.dir, &args.device, args.cpu)?),
    }
}

/// What every command needs.
#[derive(Debug)]
struct Context {
    /// The store's directory.
    dir: PathBuf,
    /// The same, if it was named.
    given: Option<PathBuf>,
    /// Whether JSON is wanted.
    json: bool,
    /// The command's name, as JSON has it.
    command: &'static str,
}

impl Context {
    /// Connects to the store's daemon.
    fn store(&self) -> Result<Store> {
        Ok(Store::connect(&self.dir)?)
    }

    /// Prints the rows as JSON, or else `text`.
    fn print<T: Serialize>(
        &self,
        rows: impl IntoIterator<Item = T>,
        text: impl FnOnce() -> String,
    ) -> Result<()> {
        self.print_to(&mut BufWriter::new(io::stdout().lock()), rows, text)
    }

    /// As [`Self::print`], on standard error: for commands whose output is a file's content.
    fn print_aside<T: Serialize>(&self, rows: impl IntoIterator<Item = T>) -> Result<()> {
        self.print_to(&mut BufWriter::new(io::stderr().lock()), rows, String::new)
    }

    fn print_to<T: Serialize>(
        &self,
        out: &mut dyn Write,
        rows: impl IntoIterator<Item = T>,
        text: impl FnOnce() -> String,
    ) -> Result<()> {
        if self.json {
            json::write(out, self.command, rows)?;
        } else {
            out.write_all(text().as_bytes())?;
        }
        Ok(out.flush()?)
    }

    /// Progress of `what`, in lines where there is no terminal unless JSON is wanted.
    fn progress(&self, what: impl Into<String>) -> Progress {
        Progress::new(what, !self.json)
    }
}

/// A reply that does not belong to its request.
fn unexpected(reply: &Reply) -> Error {
    Error::corrupt(format!("the daemon gave an answer that does not belong to the question: {reply:?}"))
}

/// Asks for something that is answered by [`Reply::Done`].
fn done(store: &Store, request: Request) -> Result<()> {
    match store.call(request)? {
        Reply::Done => Ok(()),
        other => Err(unexpected(&other).into()),
    }
}

/// What the store says of itself.
fn info(store: &Store) -> Result<StoreInfo> {
    match store.call(Request::Status)? {
        Reply::Store(info) => Ok(*info),
        other => Err(unexpected(&other).into()),
    }
}

/// The names of the store's pools.
fn pool_names(store: &Store) -> Result<PoolNames> {
    Ok(PoolNames::new(&info(store)?.pools))
}

/// What `path` names.
fn stat(store: &Store, path: &StorePath) -> Result<codax_core::info::FileInfo> {
    match store.call(Request::Stat(path.clone()))? {
        Reply::File(info) => Ok(*info),
        other => Err(unexpected(&other).into()),
    }
}

/// As [`stat`], with `None` for what isn't there.
fn stat_if_there(store: &Store, path: &StorePath) -> Result<Option<codax_core::info::FileInfo>> {
    match stat(store, path) {
        Ok(info) => Ok(Some(info)),
        Err(error) if crate::kind_of(&error) == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// From now on Ctrl-C says `message` and ends the program; the daemon cancels what it does for a client that is gone.
fn on_interrupt(message: String) -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("interrupt".to_owned()).spawn(move || {
        if signals.forever().next().is_some() {
            eprintln!("\ncodax: {}", printable(&message));
            std::process::exit(crate::exit_code(ErrorKind::Cancelled).into());
        }
    })?;
    Ok(())
}
