//! The client library of codax: files in the memory of devices, mapped, and moved while they are in use.
//!
//! A store's daemon (`codax up`) keeps files in *pools*: the host's own memory (`dram`) and the memory of attached devices. A program
//! connects, opens files, and maps them; loads and stores then go straight to the memory that holds the bytes. When a file is moved to
//! another pool, or a device is drained, the mapping stays where it is and shows the bytes at their new place: the library's own threads do
//! what there is to do.
//!
//! ```
//! use codax::{Access, OpenOptions, Store};
//! use std::sync::atomic::Ordering;
//!
//! # fn main() -> codax::Result<()> {
//! # let private = codax_testkit::Private::start()?;
//! # let dir = private.dir();
//! // `Store::connect_default()` takes the store that `codax up` serves without `--store`.
//! let store = Store::connect(dir)?;
//! # // No system call touches the mapping here, so that this runs for every user.
//! # let store = Store::options().allow_user_faults(true).connect(dir)?;
//!
//! // A file of 16 MiB in the device `sim0`, mapped in the same step.
//! let options = OpenOptions::new().read(true).write(true).create(true).on("sim0").len(16 << 20);
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
//! assert_eq!(file.len()?, 16 << 20);
//! # Ok(())
//! # }
//! ```
//!
//! For transfers that go past the CPU's page tables a mapping is pinned:
//!
//! ```
//! # fn main() -> codax::Result<()> {
//! # let private = codax_testkit::Private::start()?;
//! # let store = codax::Store::connect(private.dir())?;
//! # store.put(&mut &[7; 2 << 20][..], "/table", &codax::PutOptions::default())?;
//! use codax::{Access, ErrorKind, File};
//! let mapping = File::open(&store, "/table")?.map(..1 << 20, Access::ReadOnly)?;
//! let pin = mapping.pin()?;
//! // … an O_DIRECT write from `mapping.as_ptr()` …
//! let refused = store.move_file("/table", "sim0", None, &mut |_| ()).unwrap_err();
//! assert_eq!(refused.kind, ErrorKind::Busy);
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

mod device;
pub mod driver;
mod file;
mod link;
mod mapping;
mod persist;
pub mod queue;
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
pub use queue::{Device, Queue};
pub use store::{ConnectOptions, Store, default_dir};
pub use switcher::WaitStats;
pub use transfer::PutOptions;
