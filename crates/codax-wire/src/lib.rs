//! What clients and daemon say to each other.
//!
//! A session is a `SOCK_SEQPACKET` connection to the socket `sock` in the store's directory. One packet is one message: a
//! [`Request`] or [`Reply`] in postcard, with descriptors beside it (`SCM_RIGHTS`) where its doc says so. Every request but those marked
//! *one-way* is answered by one [`Reply`], or by any number of [`Reply::Progress`] and then one other. A packet is at most
//! [`PACKET_MAX`] bytes. The daemon checks the peer's user (`SO_PEERCRED`) and drops a connection that says something else than
//! [`Request::Hello`] first, says nothing for [`HELLO_TIMEOUT`], or sends what can't be decoded (after a reply that says so).
//!
//! A client that maps files also hands over one end of a `SOCK_SEQPACKET` socket pair ([`Request::Attach`]), over which the daemon
//! sends [`codax_core::live::MoverMsg`] and gets [`codax_core::live::MoverAck`].
//!
//! A device's driver in a process of its own turns the roles round: see [`driver`].
#![forbid(unsafe_code)]

mod channel;
mod dir;
pub mod driver;
mod message;

pub use channel::Channel;
pub use dir::default_dir;
pub use message::*;

/// Name of the socket in the store's directory.
pub const SOCKET: &str = "sock";

/// First field of [`Hello`], so that a stranger's protocol is recognised.
pub const MAGIC: u32 = 0x5844_4303;

/// Version of the protocol; both sides must have the same.
pub const VERSION: u32 = 5;

/// Largest packet, in bytes.
pub const PACKET_MAX: usize = 128 << 10;

/// Most bytes of a file in one message.
pub const BYTES_MAX: usize = 96 << 10;

/// How long a new connection may say nothing.
pub const HELLO_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
