//! The pure part of codax: what frames, extents, files, placements, plans and live moves *are*.
//!
//! No I/O, no clock, no randomness, no unsafe code. Everything here is a value or a function of values, so it can be
//! tested against plain models and run in a simulation.
#![forbid(unsafe_code)]

pub mod alloc;
pub mod change;
pub mod driver;
pub mod emergency;
pub mod error;
pub mod extent;
pub mod frame;
pub mod ids;
pub mod info;
pub mod live;
pub mod mounting;
pub mod name;
pub mod namespace;
pub mod placement;
pub mod plan;
pub mod quota;
pub mod request;
pub mod segment;
pub mod units;

pub use error::{Error, ErrorKind, Result};
pub use ids::*;
