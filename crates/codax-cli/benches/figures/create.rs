//! Create, map 64 KiB, unmap, remove: one client, one file at a time.

use crate::rig::Rig;
use crate::stats::{quantile, spread};
use anyhow::Result;
use codax::{Access, OpenOptions};
use std::time::Instant;

const ROUNDS: usize = 5000;

pub fn run(rig: &Rig) -> Result<()> {
    let store = rig.connect()?;
    let mut times = Vec::with_capacity(ROUNDS);
    for i in 0..ROUNDS {
        let path = format!("/f{i}");
        let begun = Instant::now();
        let (file, mapping) = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .len(64 << 10)
            .open_mapped(&store, &path, .., Access::ReadWrite)?;
        drop(mapping);
        drop(file);
        store.remove(&path, false)?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    println!("create + map + unmap + remove: {}, p99 {:.1} us", spread(&times, "us"), quantile(&times, 0.99));
    Ok(())
}
