//! The client library of codax: files in the memory of devices, mapped, and moved while they are in use.
//!
//! A store's daemon (`codax up`) keeps files in *pools*: the host's own memory (`dram`) and the memory of attached devices. A program
//! connects, opens files, and maps them; loads and stores then go straight to the memory that holds the bytes. When a file is moved to
//! another pool, or a device is drained, the mapping stays where it is and shows the bytes at their new place: the library's own threads do
//! what there is to do.
//!
//! ```no_run
//! use codax::{Access, OpenOptions, Store};
//! use std::sync::atomic::Ordering;
//!
//! # fn main() -> codax::Result<()> {
//! let store = Store::connect_default()?;
//!
//! // A file of 64 MiB in the device `sim0`, mapped in the same step.
//! let options = OpenOptions::new().read(true).write(true).create(true).on("sim0").len(64 << 20);
//! let (file, mapping) = options.open_mapped(&store, "/table", .., Access::ReadWrite)?;
//!
//! // Volatile and atomic access; other processes may do the same at the same time.
//! let memory = mapping.memory();
//! memory.write_at(4096, b"a record");
//! memory.atomic_u64(0).fetch_add(1, Ordering::Relaxed);
//!
//! // Somebody moves it to system memory; nothing changes for who uses it.
//! store.move_file("/table", "dram", None, &mut |_| ())?;
//! assert_eq!(&memory.read::<8>(4096), b"a record");
//! assert_eq!(file.len()?, 64 << 20);
//! # Ok(())
//! # }
//! ```
//!
//! For transfers that go past the CPU's page tables a mapping is pinned:
//!
//! ```no_run
//! # fn main() -> codax::Result<()> {
//! # let store = codax::Store::connect_default()?;
//! use codax::{Access, File};
//! let mapping = File::open(&store, "/table")?.map(..1 << 20, Access::ReadOnly)?;
//! let pin = mapping.pin()?;
//! // … an O_DIRECT write from `mapping.as_ptr()` …
//! drop(pin);
//! # Ok(())
//! # }
//! ```
//!
//! # What to know
//!
//! * A client that maps nothing costs a socket. With its first mapping the library starts two threads, with all signals blocked.
//! * After a fork the child's handles answer with an error of kind `Invalid`, and the memory of mappings is not there: connect anew.
//! * While the daemon is away mappings work; requests fail with [`ErrorKind::NoDaemon`]. The library reconnects by itself.
//! * There is no isolation between programs of one user.
#![forbid(unsafe_code)]

mod file;
mod link;
mod mapping;
mod store;
mod switcher;
mod transfer;

pub use codax_core::placement::Placement;
pub use codax_core::request::PlacementSpec;
pub use codax_core::{Error, ErrorKind, FileId, Result, extent, info};
pub use codax_os::area::Memory;
pub use codax_wire::{Reply, Request};
pub use file::{File, OpenOptions};
pub use mapping::{Access, Mapping, Pin};
pub use store::{ConnectOptions, Store, default_dir};
pub use switcher::WaitStats;
pub use transfer::PutOptions;
