//! The codax store: its journal, its pools, and how files are placed, moved and drained. Knows no sockets; embeddable in one process.
//!
//! * [`store`]: the store and its sessions: files, names, who uses what.
//! * `mover`: moves of files, idle and mapped ones.
//! * `drain`: drains and returns; `emergency`: what is on devices for want of memory. [`driver`]: devices' drivers: caches, state, and what they need
//!   of their memory.
//! * [`check`]: comparing table, journal and objects; `patrol`: whether pages still lie where they were put; `strangers`: who else is on a node.
//! * [`journal`]: what survives; [`table`] (with [`runs`]), [`names`], [`events`]: what is derived from it, for tools and people.
//! * [`catalog`]: what a DAX pool's medium knows of its files, so that another boot or another store finds them.
//! * [`backing`] and [`env`](mod@env): what the engine stands on, as traits.
#![forbid(unsafe_code)]

pub mod backing;
mod budget;
pub mod catalog;
pub mod check;
mod dax;
mod drain;
pub mod driver;
mod emergency;
pub mod env;
pub mod events;
mod fields;
pub mod fs;
pub mod journal;
mod mover;
pub mod names;
pub mod options;
mod patrol;
pub mod runs;
pub mod store;
mod strangers;
pub mod table;

pub use drain::DrainOptions;
pub use options::{DaxSpec, DeviceSpec, Format, HugeMode, StoreOptions};
pub use store::{Mapper, Opened, Peer, Session, Store};
