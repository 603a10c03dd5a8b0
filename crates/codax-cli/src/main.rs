//! The program `codax`: serves stores, and asks them.
//!
//! `args` is what was typed, `commands` does it, `output` shows it. Errors come up to here, where they are printed once and
//! become an exit code.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod demo;
mod helper;
mod output;

use args::Cli;
use codax_core::{Error, ErrorKind};
use output::text::printable;
use std::io::ErrorKind as Io;
use std::process::ExitCode;

/// What each kind of error is to the shell.
const fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Invalid | ErrorKind::NameTooLong | ErrorKind::NotDir | ErrorKind::IsDir => 2,
        ErrorKind::NotFound => 3,
        ErrorKind::NoSpace => 4,
        ErrorKind::Busy | ErrorKind::NotEmpty => 5,
        ErrorKind::DeviceState => 6,
        ErrorKind::Permission => 7,
        ErrorKind::NoDaemon => 8,
        ErrorKind::Corrupt | ErrorKind::Lost => 9,
        ErrorKind::Exists => 10,
        ErrorKind::QuotaExceeded => 11,
        ErrorKind::Cancelled => 130,
        _ => 1,
    }
}

fn main() -> ExitCode {
    let done = match (demo::worker::called(), helper::called()) {
        (Some(store), _) => demo::worker::run(&store),
        (None, Some(wanted)) => wanted.and_then(helper::Wanted::run).map_err(Into::into),
        (None, None) => Cli::typed().map_err(Into::into).and_then(commands::run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// Prints the error, a line for it and one for each cause, and says how to exit.
fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        // Whoever read our output has seen enough.
        return ExitCode::SUCCESS;
    }
    eprintln!("codax: {}", printable(&error.to_string()));
    for cause in error.chain().skip(1) {
        eprintln!("  because {}", printable(&cause.to_string()));
    }
    ExitCode::from(exit_code(kind_of(error)))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == Io::BrokenPipe))
}

/// The kind of the first cause that has one.
fn kind_of(error: &anyhow::Error) -> ErrorKind {
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<Error>() {
            return error.kind;
        }
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            return kind_of_io(error.kind());
        }
    }
    ErrorKind::Internal
}

/// The same table for files of this machine that a command reads or writes.
const fn kind_of_io(kind: Io) -> ErrorKind {
    match kind {
        Io::NotFound => ErrorKind::NotFound,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Permission,
        Io::AlreadyExists => ErrorKind::Exists,
        Io::StorageFull | Io::FileTooLarge => ErrorKind::NoSpace,
        Io::QuotaExceeded => ErrorKind::QuotaExceeded,
        Io::InvalidInput | Io::InvalidFilename | Io::NotADirectory | Io::IsADirectory => ErrorKind::Invalid,
        Io::DirectoryNotEmpty | Io::ResourceBusy => ErrorKind::Busy,
        _ => ErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        for (kind, code) in [
            (ErrorKind::Internal, 1),
            (ErrorKind::Invalid, 2),
            (ErrorKind::NameTooLong, 2),
            (ErrorKind::NotDir, 2),
            (ErrorKind::IsDir, 2),
            (ErrorKind::NotFound, 3),
            (ErrorKind::NoSpace, 4),
            (ErrorKind::Busy, 5),
            (ErrorKind::NotEmpty, 5),
            (ErrorKind::DeviceState, 6),
            (ErrorKind::Permission, 7),
            (ErrorKind::NoDaemon, 8),
            (ErrorKind::Corrupt, 9),
            (ErrorKind::Exists, 10),
            (ErrorKind::QuotaExceeded, 11),
            (ErrorKind::Cancelled, 130),
        ] {
            assert_eq!(exit_code(kind), code, "{kind:?}");
        }
    }

    #[test]
    fn kinds_are_found_below_contexts() {
        let store =
            Err::<(), _>(Error::no_space("sim0: 4096 bytes are missing")).context("putting a").unwrap_err();
        assert_eq!(kind_of(&store), ErrorKind::NoSpace);
        let local =
            Err::<(), _>(std::io::Error::from(Io::PermissionDenied)).context("reading a").unwrap_err();
        assert_eq!(kind_of(&local), ErrorKind::Permission);
        assert_eq!(kind_of(&anyhow::anyhow!("no idea")), ErrorKind::Internal);
    }

    #[test]
    fn a_reader_that_stops_reading_is_no_error() {
        let closed =
            Err::<(), _>(std::io::Error::from(Io::BrokenPipe)).context("writing output").unwrap_err();
        assert!(is_broken_pipe(&closed));
    }
}
