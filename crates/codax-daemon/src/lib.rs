//! Serves a store: sessions over a socket, signals, configuration, life in the background.
//!
//! | module | what |
//! | --- | --- |
//! | [`Config`] | what it is started with: command line, `codax.toml`, defaults |
//! | `server` | opens the store, takes connections, ends in order |
//! | `session` | one client: handshake, then one request after the other |
//! | `dispatch` | what each request means to the engine |
//! | `control` | the socket over which a client is told to switch its mappings |
//! | `drive` | a device's driver in a process of its own |
//! | `coprocessors` | this program once more, as a device's coprocessor |
//! | [`detach`] | the same program again, in the background |
//!
//! An idle daemon uses no CPU: every thread blocks in a system call. One client can't harm another: each has a thread, a bound on what it may
//! queue, and a time limit wherever the daemon would wait for it.
#![forbid(unsafe_code)]

mod config;
mod control;
mod coprocessors;
mod dax;
pub mod detach;
mod device;
mod dispatch;
mod drive;
mod emergency;
mod env;
mod fit;
mod logging;
mod mounts;
mod nodes;
mod place;
mod quantity;
mod registry;
mod server;
mod session;

pub use config::{CommandLine, Config, LOG_VARIABLE};
pub use coprocessors::SUBCOMMAND;
pub use device::{DEVICE_KEYS, DEVICE_NAME_MAX, parse_device};
pub use env::{HOOKS_VARIABLE, RealEnv};
pub use server::serve;

/// Where the log of a detached daemon is, below the store's directory.
pub const LOG_FILE: &str = "meta/daemon.log";
