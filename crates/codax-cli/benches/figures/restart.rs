//! The restart of a store with 100,000 files after `kill -9`, and what memory the daemon takes with them.

use crate::rig::Rig;
use crate::stats::spread;
use anyhow::Result;
use codax::OpenOptions;

const FILES: usize = 100_000;
const ROUNDS: usize = 5;

pub fn run(rig: &Rig) -> Result<()> {
    let store = rig.connect()?;
    for d in 0..100 {
        store.mkdir(format!("/d{d}"), None)?;
        for i in 0..FILES / 100 {
            drop(
                OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .len(4096)
                    .open(&store, format!("/d{d}/f{i}"))?,
            );
        }
    }
    drop(store);
    let info = rig.connect()?.status()?;
    let frames: u64 = info.pools.iter().map(|p| p.bytes / 4096).sum();
    let goal = (64u64 << 20) + 400 * FILES as u64 + 16 * frames;
    println!(
        "daemon memory with {} inodes and {frames} frames: {} MiB resident (goal {} MiB)",
        info.inodes,
        rig.daemon_memory()? >> 20,
        goal >> 20
    );
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        rig.kill()?;
        times.push(rig.up()?.as_secs_f64());
    }
    println!("restart after kill -9 until the store answers: {}", spread(&times, "s"));
    println!("daemon memory after it: {} MiB", rig.daemon_memory()? >> 20);
    let begun = std::time::Instant::now();
    rig.codax(&["down"])?;
    println!("orderly stop: {:.3} s", begun.elapsed().as_secs_f64());
    let after = rig.up()?;
    println!("start after it: {:.3} s", after.as_secs_f64());
    Ok(())
}
