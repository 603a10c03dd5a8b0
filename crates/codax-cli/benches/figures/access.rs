//! Loads and stores through a mapping of the store, over those through a plain mapping of a tmpfs file of the same size and kind.

use crate::rig::Rig;
use crate::stats::{median, ratios, spread};
use anyhow::Result;
use codax::{Access, OpenOptions};
use codax_os::area::Region;
use codax_os::{mounts, object};
use std::hint::black_box;
use std::time::Instant;

const LEN: usize = 256 << 20;
const WORDS: usize = LEN / 8;
const RANDOM: usize = 1 << 20;
const ROUNDS: usize = 15;

pub fn run(rig: &Rig) -> Result<()> {
    let store = rig.connect()?;
    let (_file, mapping) = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .len(LEN as u64)
        .open_mapped(&store, "/access", .., Access::ReadWrite)?;

    let plain_dir = rig.scratch().join("plain");
    std::fs::create_dir(&plain_dir)?;
    let mounted =
        mounts::can_mount() && mounts::mount_tmpfs(&plain_dir, 2 * LEN as u64, "within_size", true).is_ok();
    let objects = object::ObjectDir::open(&plain_dir)?;
    let fd = objects.create("plain", LEN as u64)?;
    object::allocate(&fd, 0, LEN as u64)?;
    let region = Region::reserve(LEN)?;
    region.place(0, LEN, &fd, 0, true)?;

    let ours = mapping.memory().cells::<u64>(0, WORDS);
    let plain = region.base() as *mut u64;
    // SAFETY: `plain` points to WORDS words that stay mapped, read and write, until `region` is dropped at
    // the end; all accesses are volatile and nobody else has the file.
    let load = |i: usize| unsafe { plain.add(i).read_volatile() };
    // SAFETY: as above.
    let store_at = |i: usize, v: u64| unsafe { plain.add(i).write_volatile(v) };
    let order: Vec<u32> = (0..RANDOM)
        .scan(88_172_645_463_325_252u64, |x, _| {
            *x ^= *x << 13;
            *x ^= *x >> 7;
            *x ^= *x << 17;
            Some((*x % WORDS as u64) as u32)
        })
        .collect();

    for i in 0..WORDS {
        ours.store(i, 1);
        store_at(i, 1);
    }
    compare(
        "sequential loads",
        || (0..WORDS).fold(0u64, |a, i| a.wrapping_add(ours.load(i))),
        || (0..WORDS).fold(0u64, |a, i| a.wrapping_add(load(i))),
    );
    compare(
        "sequential stores",
        || {
            (0..WORDS).for_each(|i| ours.store(i, i as u64));
            0
        },
        || {
            (0..WORDS).for_each(|i| store_at(i, i as u64));
            0
        },
    );
    compare(
        "random loads",
        || order.iter().fold(0u64, |a, &i| a.wrapping_add(ours.load(i as usize))),
        || order.iter().fold(0u64, |a, &i| a.wrapping_add(load(i as usize))),
    );
    compare(
        "random stores",
        || {
            order.iter().for_each(|&i| ours.store(i as usize, 7));
            0
        },
        || {
            order.iter().for_each(|&i| store_at(i as usize, 7));
            0
        },
    );
    drop(region);
    if mounted {
        mounts::umount(&plain_dir)?;
    }
    Ok(())
}

/// Ratio of rates, ours over plain, in turns that change places.
fn compare(what: &str, ours: impl Fn() -> u64, plain: impl Fn() -> u64) {
    let time = |f: &dyn Fn() -> u64| {
        let begun = Instant::now();
        black_box(f());
        begun.elapsed().as_secs_f64()
    };
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        if round % 2 == 0 {
            a.push(time(&ours));
            b.push(time(&plain));
        } else {
            b.push(time(&plain));
            a.push(time(&ours));
        }
    }
    println!(
        "{what}: ratio {} (ours {:.4} s, plain {:.4} s)",
        spread(&ratios(&b, &a), "x"),
        median(&a),
        median(&b)
    );
}
