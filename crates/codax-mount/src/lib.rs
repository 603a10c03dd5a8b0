//! A codax store as a filesystem: mounts of it through FUSE.
//!
//! | module | what |
//! | --- | --- |
//! | [`Mount`] | one mount: made, told of changes, ended |
//! | [`point`] | the directory it is on: what may be wrong with it, who uses it |
//! | [`record`] | where it is mounted, for the daemon after a crash |
//! | `adapter` | requests of the kernel to the store's view ([`codax_engine::fs`]); the only place that knows the FUSE library |
//! | `listing` | a directory that is being read: positions that stay right whatever is removed meanwhile |
//! | `special` | `.codax`: the store's state as files |
//!
//! # What is cached, and where
//!
//! The kernel caches names and attributes for [`VALID`], and is told at once of what others than itself change (library, command line, another
//! mount). Contents are never cached on a privileged mount: a file is its object (passthrough), or each call goes to the daemon (direct I/O). On
//! an unprivileged mount contents are in the page cache, and are dropped when a change of length or modification time is seen.
#![forbid(unsafe_code)]

mod adapter;
mod handles;
mod listing;
mod mount;
pub mod point;
pub mod record;
mod special;

pub use mount::{Mount, MountFacts};

use std::time::Duration;

/// How long the kernel may use a name or an attribute without asking again.
pub const VALID: Duration = Duration::from_secs(1);

/// The name in the mount's root below which the store's state is.
pub const SPECIAL: &str = ".codax";

/// What mount tables call a mount of ours, after `fuse.`.
pub const SUBTYPE: &str = "codax";
