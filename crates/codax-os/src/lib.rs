//! What codax asks of the kernel, behind safe functions: objects on tmpfs, userfaultfd, leases, sockets that carry
//! descriptors, mounts, and what `/proc` says.
//!
//! The only home of unsafe code. A module that needs it opts in at its head and states there what it must uphold;
//! everything else forbids it. Functions return [`std::io::Result`]; the crates above say what it means for the
//! store.
//!
//! Addresses are plain `usize` here, since what lies behind them changes under the program (that is the point of a
//! move); loads and stores go through [`area::Memory`] only.

#[cfg(not(all(target_os = "linux", target_pointer_width = "64", target_endian = "little")))]
compile_error!("codax runs on 64-bit little-endian Linux");

pub mod area;
pub mod cgroup;
pub mod copy;
pub mod cpu;
pub mod dax;
pub mod durable;
pub mod event;
pub mod evict;
pub mod filesystem;
mod fork;
pub mod fuse;
pub mod futex;
pub mod guard;
pub mod hugetlb;
pub mod lockfile;
mod memory;
pub mod mounts;
pub mod numa;
pub mod object;
pub mod occupants;
pub mod probe;
pub mod process;
pub mod psi;
pub mod ring;
pub mod sock;
pub mod topology;
mod transfer;
pub mod uffd;
mod util;
pub mod words;
