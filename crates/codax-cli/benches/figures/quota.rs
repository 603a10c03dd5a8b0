//! Writes through a mount under a quota, which the daemon serves, beside those that the kernel serves where there is none, in turns.

use crate::mount::in_turns;
use crate::rig::Rig;
use crate::stats::{median, ratios, spread};
use anyhow::{Context, Result};
use codax_os::mounts;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a file, and of it what small pieces are written of.
const LEN: u64 = 64 << 20;
const SMALL_LEN: u64 = 16 << 20;

const ROUNDS: usize = 11;

pub fn run(rig: &Rig) -> Result<()> {
    if !mounts::can_mount() || codax_os::fuse::open_device().is_err() {
        println!("skipped: wants root and /dev/fuse");
        return Ok(());
    }
    let dir = rig.scratch().join("mnt");
    fs::create_dir(&dir)?;
    rig.codax(&["mount", dir.to_str().context("text")?])?;
    rig.codax(&["mkdir", "/free", "/bound", "--on", "sim0"])?;
    rig.codax(&["quota", "set", "--dir", "/bound", "sim0", "512MiB"])?;
    let (bound, free) = (dir.join("bound"), dir.join("free"));
    for (what, piece, len) in [("4 KiB", 4096, SMALL_LEN), ("1 MiB", 1 << 20, LEN)] {
        let block = vec![5; piece];
        let pieces = len / piece as u64;
        let grow = |dir: &Path| grow(dir, &block, pieces);
        let over = |dir: &Path| {
            let file = OpenOptions::new().write(true).open(dir.join("f"))?;
            write(&file, &block, pieces)
        };
        for (how, work) in [("grows by", &grow as &dyn Fn(&Path) -> Result<()>), ("in place,", &over)] {
            work(&bound)?;
            work(&free)?;
            let [a, b] = in_turns(ROUNDS, [Box::new(|| work(&bound)), Box::new(|| work(&free))])?;
            let each = |times: &[f64]| median(times) * 1e6 / pieces as f64;
            println!(
                "{how} {what}: {:.1} us a write under a quota, {:.1} us without: {}",
                each(&a),
                each(&b),
                spread(&ratios(&a, &b), "x")
            );
        }
    }
    rig.codax(&["umount"])?;
    Ok(())
}

/// A file anew, as long as its pieces.
fn grow(dir: &Path, block: &[u8], pieces: u64) -> Result<()> {
    write(&File::create(dir.join("f"))?, block, pieces)
}

fn write(file: &File, block: &[u8], pieces: u64) -> Result<()> {
    Ok((0..pieces).try_for_each(|i| file.write_all_at(block, i * block.len() as u64))?)
}
