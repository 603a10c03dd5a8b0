//! Pools with a medium of their own: DAX devices and directories of files that are mapped as memory.
//!
//! Such a medium says whose it is, and what is on it (its [catalog](crate::catalog)). While the store lives the journal is the truth, and each commit
//! that concerns a file there is told the catalog first ([`record`]). When the store has gone with the power, a new one takes the files from
//! the catalogs ([`import`]).

mod areas;
mod import;
mod leftover;
mod medium;
mod record;
mod watch;

pub(crate) use areas::catalogs;
pub(crate) use import::{Imported, Source, import};
pub(crate) use medium::{Plan, Take, Taken, open, plan};
pub(crate) use record::wanted;
pub(crate) use watch::{frames_of, units_of};
