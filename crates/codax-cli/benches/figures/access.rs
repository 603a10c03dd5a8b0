//! Loads and stores through a mapping of the store, over those through a plain mapping of a tmpfs file of the same size and kind.
//!
//! Which frames of the machine a file gets decides how fast it is by more than what is measured here. So it is done with several pairs of files,
//! and the two of a pair are made in turns that change places.

use crate::rig::Rig;
use crate::stats::{median, ratios, spread};
use anyhow::Result;
use codax::{Access, File, Mapping, OpenOptions, Store};
use codax_os::area::Region;
use codax_os::{mounts, object};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

const LEN: usize = 256 << 20;
const WORDS: usize = LEN / 8;
const RANDOM: usize = 4 << 20;
const PAIRS: usize = 8;
const ROUNDS: usize = 4;

/// Seconds of ours and of the plain mapping, by what was done.
type Times = BTreeMap<&'static str, (Vec<f64>, Vec<f64>)>;

pub fn run(rig: &Rig) -> Result<()> {
    let store = rig.connect()?;
    let dir = rig.scratch().join("plain");
    std::fs::create_dir(&dir)?;
    let mounted =
        mounts::can_mount() && mounts::mount_tmpfs(&dir, 2 * LEN as u64, "within_size", true, &[]).is_ok();
    let order: Vec<u32> = (0..RANDOM)
        .scan(88_172_645_463_325_252u64, |x, _| {
            *x ^= *x << 13;
            *x ^= *x >> 7;
            *x ^= *x << 17;
            Some((*x % WORDS as u64) as u32)
        })
        .collect();
    let mut times = Times::new();
    for pair in 0..PAIRS {
        let (ours, plain);
        if pair % 2 == 0 {
            ours = make_ours(&store)?;
            plain = make_plain(&dir)?;
        } else {
            plain = make_plain(&dir)?;
            ours = make_ours(&store)?;
        }
        measure(&ours.1, &plain, &order, &mut times);
        drop(ours);
        store.remove("/access", false)?;
    }
    if mounted {
        mounts::umount(&dir)?;
    }
    for (what, (ours, plain)) in &times {
        println!(
            "{what}: ratio {} (ours {:.4} s, plain {:.4} s)",
            spread(&ratios(plain, ours), "x"),
            median(ours),
            median(plain)
        );
    }
    Ok(())
}

fn make_ours(store: &Store) -> Result<(File, Mapping)> {
    let options = OpenOptions::new().read(true).write(true).create(true).len(LEN as u64);
    Ok(options.open_mapped(store, "/access", .., Access::ReadWrite)?)
}

fn make_plain(dir: &Path) -> Result<Region> {
    let objects = object::ObjectDir::open(dir)?;
    let fd = objects.create("plain", LEN as u64)?;
    objects.remove("plain")?;
    object::allocate(&fd, 0, LEN as u64)?;
    let region = Region::reserve(LEN)?;
    region.place(0, LEN, &fd, 0, true)?;
    Ok(region)
}

/// Rates of the two, in turns that change places.
fn measure(ours: &Mapping, plain: &Region, order: &[u32], times: &mut Times) {
    let ours = ours.memory().cells::<u64>(0, WORDS);
    let plain = plain.base() as *mut u64;
    // SAFETY: `plain` points to WORDS words that stay mapped, read and write, as long as the region is borrowed; all accesses are volatile and
    // nobody else has the file.
    let load = |i: usize| unsafe { plain.add(i).read_volatile() };
    // SAFETY: as above.
    let store_at = |i: usize, v: u64| unsafe { plain.add(i).write_volatile(v) };
    for i in 0..WORDS {
        ours.store(i, 1);
        store_at(i, 1);
    }
    let mut compare = |what, a: &dyn Fn() -> u64, b: &dyn Fn() -> u64| {
        let (ours, plain) = times.entry(what).or_default();
        let time = |f: &dyn Fn() -> u64| {
            let begun = Instant::now();
            black_box(f());
            begun.elapsed().as_secs_f64()
        };
        for round in 0..ROUNDS {
            if round % 2 == 0 {
                ours.push(time(a));
                plain.push(time(b));
            } else {
                plain.push(time(b));
                ours.push(time(a));
            }
        }
    };
    compare("sequential loads", &|| ours.iter().fold(0, u64::wrapping_add), &|| {
        (0..WORDS).fold(0, |a, i| a.wrapping_add(load(i)))
    });
    let fill_ours = || {
        (0..ours.len()).for_each(|i| ours.store(i, i as u64));
        0
    };
    let fill_plain = || {
        (0..WORDS).for_each(|i| store_at(i, i as u64));
        0
    };
    compare("sequential stores", &fill_ours, &fill_plain);
    compare("random loads", &|| order.iter().fold(0, |a, &i| a.wrapping_add(ours.load(i as usize))), &|| {
        order.iter().fold(0, |a, &i| a.wrapping_add(load(i as usize)))
    });
    let scatter_ours = || {
        order.iter().for_each(|&i| ours.store(i as usize, 7));
        0
    };
    let scatter_plain = || {
        order.iter().for_each(|&i| store_at(i as usize, 7));
        0
    };
    compare("random stores", &scatter_ours, &scatter_plain);
}
