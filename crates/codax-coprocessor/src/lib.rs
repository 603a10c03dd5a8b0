//! The software coprocessor: a process that drives a device of a store as any vendor's would, takes programs' queues and carries out the operations of `codax_ops` on the
//! files that were granted to them, which it maps through the client library, so that they may move meanwhile.
//!
//! * `accesses`: what was read and written of each pool
//! * `device`: the driver: comes to rest, is saved, goes on
//! * `gate`: who may take a step
//! * `queue`: a thread for each queue: requests in order, in steps
//! * `counts`: what was done, by the thread that did it
//! * `files`: granted files, opened and mapped when a request names them
//! * `work`: a request that is being carried out
//! * `places`: where its ranges lie, and how they are reached
//! * `saved`: the state as bytes

mod accesses;
mod counts;
mod device;
mod files;
mod gate;
mod places;
mod queue;
mod saved;
mod work;

use accesses::Accesses;
use codax::driver::serve;
use codax::{ErrorKind, Result, Store};
use codax_core::Error;
use codax_os::guard::Guard;
use std::path::Path;

/// Is the coprocessor of a device of the store in `dir` until the daemon goes; on one CPU if that is said.
pub fn run(dir: &Path, device: &str, cpu: Option<u32>) -> Result<()> {
    // The daemon started it by a link of /proc's, whose name it has now; messages and ps(1) have that.
    let _ = std::fs::write("/proc/self/comm", "codax");
    if let Some(cpu) = cpu {
        // Before there are other threads: they have it from this one.
        codax_os::cpu::stay_on(&[cpu]).map_err(|e| Error::invalid(format!("cpu={cpu}: {e}")))?;
    }
    let guard = Guard::install().map_err(|e| Error::internal(format!("handle SIGBUS: {e}")))?;
    // No system call touches what it maps.
    let store = Store::options().allow_user_faults(true).connect(dir)?;
    // This thread brings the others to rest, and may have one CPU with them.
    let _ = codax_os::process::run_soon();
    let pools = store.status()?.pools;
    let has_memory = pools.iter().any(|pool| pool.name == device && pool.bytes > 0);
    let accesses = Accesses::new(Store::connect(dir)?, pools.into_iter().map(|pool| pool.name));
    let software = device::Software::new(store.clone(), guard, accesses, has_memory);
    let served = serve(&store, device, &software);
    software.end();
    match served {
        Err(e) if e.kind == ErrorKind::NoDaemon => Ok(()),
        other => other,
    }
}
