//! A drain of 20,000 files of 16 KiB, over `cp -a` of the same tree from tmpfs to tmpfs.

use crate::rig::Rig;
use crate::stats::{ratios, spread};
use anyhow::{Context, Result, ensure};
use codax::PutOptions;
use codax_os::mounts;
use std::process::Command;
use std::time::Instant;

const FILES: usize = 20_000;
const SIZE: usize = 16 << 10;
const ROUNDS: usize = 5;

pub fn run(rig: &Rig) -> Result<()> {
    let store = rig.connect()?;
    let (from, to) = (rig.scratch().join("from"), rig.scratch().join("to"));
    for dir in [&from, &to] {
        std::fs::create_dir(dir)?;
        if mounts::can_mount() {
            mounts::mount_tmpfs(dir, 1 << 30, "never", true, &[])?;
        }
    }
    let body = vec![7u8; SIZE];
    let options = PutOptions {
        placement: Some(codax_core::request::PlacementSpec::On { pool: "sim0".into(), strict: false }),
        ..PutOptions::default()
    };
    for i in 0..FILES {
        std::fs::write(from.join(format!("f{i}")), &body)?;
        store.put(&mut &body[..], format!("/f{i}"), &options)?;
    }
    let (mut drains, mut copies) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let target = to.join(format!("r{round}"));
        let begun = Instant::now();
        let status = Command::new("cp").arg("-a").arg(&from).arg(&target).status().context("cp")?;
        copies.push(begun.elapsed().as_secs_f64());
        ensure!(status.success(), "cp failed");
        std::fs::remove_dir_all(&target)?;

        let begun = Instant::now();
        rig.codax(&["device", "drain", "sim0"])?;
        drains.push(begun.elapsed().as_secs_f64());
        rig.codax(&["device", "online", "sim0"])?;
    }
    println!("drain of {FILES} files of {SIZE} bytes: {}", spread(&drains, "s"));
    println!("cp -a of the same: {}", spread(&copies, "s"));
    println!("cp over drain: {}", spread(&ratios(&copies, &drains), "x"));
    for dir in [&from, &to] {
        if mounts::can_mount() {
            mounts::umount(dir)?;
        }
    }
    Ok(())
}
