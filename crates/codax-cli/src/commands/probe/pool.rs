//! One pool: a file of its own in it, that nobody else sees.

use super::Terms;
use super::announced::Announced;
use super::memory::{self, Measured};
use anyhow::{Context as _, Result};
use codax::{Access, File, Mapping, OpenOptions, Store};
use codax_core::info::PoolInfo;
use codax_core::name::StorePath;
use codax_core::units::format_size;
use codax_core::{Error, PAGE_SIZE};
use codax_os::cpu;
use serde::Serialize;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// The least that is measured in.
pub const SIZE_MIN: u64 = 1 << 20;

/// What is measured in by itself, between these, is twice the last-level cache.
const SIZES: (u64, u64) = (64 << 20, 512 << 20);

/// A pool, as JSON has it.
#[derive(Serialize)]
pub struct PoolRow {
    pub name: String,
    /// Bytes over which loads went at random.
    pub bytes: u64,
    /// The node of the CPUs it was measured from; null if it isn't known.
    pub node: Option<u32>,
    pub announced: Announced,
    pub measured: Measured,
    /// What to know about the figures.
    pub notes: Vec<String>,
}

/// Measures a pool.
pub fn measure(store: &Store, pool: &PoolInfo, dir: &StorePath, terms: &Terms) -> Result<PoolRow> {
    terms.go_on()?;
    let (node, cpus) = near()?;
    let cache =
        terms.cpus.iter().filter(|cpu| cpus.contains(&cpu.cpu)).filter_map(|cpu| cpu.cache_bytes).max();
    let size = size(pool, terms.size, cache, codax_os::probe::memory_available())?;
    let (file, mapping) =
        make(store, &pool.name, dir, size).with_context(|| format!("measuring {}", pool.name))?;
    let measured = std::thread::scope(|scope| -> Result<Measured> {
        // A thread of its own stays near its memory; this one goes where it likes.
        let measuring = scope.spawn(|| {
            cpu::stay_on(&cpus)?;
            Ok(memory::measure(mapping.memory(), terms.time, &|| terms.go_on())?)
        });
        measuring.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let measured = measured?;
    let strayed = file.extents()?.iter().any(|extent| extent.pool != pool.id);
    if strayed {
        let name = &pool.name;
        return Err(Error::busy(format!("{name}: what was measured was moved away meanwhile")).into());
    }
    Ok(PoolRow {
        name: pool.name.clone(),
        bytes: measured.chain_bytes,
        node,
        announced: Announced::of(pool, node),
        notes: notes(measured.chain_bytes, size, terms.size.unwrap_or_else(|| wanted(cache)), cache),
        measured,
    })
}

/// The node of the CPU we are on, and the CPUs of it on which we may run; all of those if there is no such node.
fn near() -> Result<(Option<u32>, Vec<u32>)> {
    let allowed = cpu::allowed().context("asking on which CPUs this may run")?;
    let current = cpu::current();
    let nodes = codax_os::topology::nodes(std::path::Path::new(codax_os::topology::SYSFS));
    Ok(match nodes.into_iter().find(|node| node.cpus.contains(&current)) {
        Some(node) => {
            let near: Vec<_> = node.cpus.into_iter().filter(|cpu| allowed.contains(cpu)).collect();
            (Some(node.node), if near.is_empty() { allowed } else { near })
        }
        None => (None, allowed),
    })
}

/// So much that the caches can't hold it.
fn wanted(cache: Option<u64>) -> u64 {
    cache.unwrap_or(0).saturating_mul(2).clamp(SIZES.0, SIZES.1)
}

/// Bytes to measure in: what was asked for, or else what is wanted, if that leaves enough to everybody else.
fn size(
    pool: &PoolInfo,
    asked: Option<u64>,
    cache: Option<u64>,
    available: Option<u64>,
) -> codax_core::Result<u64> {
    let free = format_size(pool.free);
    if let Some(asked) = asked {
        if asked > pool.free {
            let asked = format_size(asked);
            return Err(Error::no_space(format!("{}: {free} are free, too little for {asked}", pool.name)));
        }
        return Ok(asked);
    }
    let room = (pool.free / 2).min(available.map_or(u64::MAX, |bytes| bytes / 4));
    let size = wanted(cache).min(room) / PAGE_SIZE * PAGE_SIZE;
    if size < SIZE_MIN {
        let name = &pool.name;
        return Err(Error::no_space(format!(
            "{name}: {free} are free, too little to measure in: that takes half of what is free, and 1 MiB at least"
        )));
    }
    Ok(size)
}

/// A file without a name, so that it goes with this process, whatever becomes of that.
fn make(store: &Store, pool: &str, dir: &StorePath, size: u64) -> Result<(File, Mapping)> {
    let mut path = dir.to_bytes();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend(format!(".codax-probe-{}", std::process::id()).bytes());
    let path = OsStr::from_bytes(&path);
    let options = OpenOptions::new().read(true).write(true).unnamed(true).mode(0o600).on(pool).len(size);
    Ok(options.open_mapped(store, path, .., Access::ReadWrite)?)
}

fn notes(bytes: u64, had: u64, wanted: u64, cache: Option<u64>) -> Vec<String> {
    let mut notes = Vec::new();
    if bytes < had {
        notes.push(format!("the time did not suffice for the {} that were to be had", format_size(had)));
    }
    if had < wanted {
        notes.push("less than usual, since no more is free".to_owned());
    }
    if let Some(cache) = cache.filter(|cache| bytes < cache.saturating_mul(2)) {
        let cache = format_size(cache);
        notes.push(format!(
            "a last-level cache of {cache} holds some of it, so these figures may be the cache's"
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_core::ErrorKind;
    use codax_core::change::PoolState;

    fn pool(free: u64) -> PoolInfo {
        PoolInfo { free, ..super::super::sample(1, "sim0", PoolState::Online) }
    }

    #[test]
    fn what_is_measured_in_outgrows_the_cache_and_leaves_room() {
        let much = 4 << 30;
        let of = |free, cache, available| size(&pool(free), None, cache, available).expect("room");
        assert_eq!(of(much, None, None), 64 << 20);
        assert_eq!(of(much, Some(48 << 20), None), 96 << 20);
        assert_eq!(of(much, Some(1 << 30), None), 512 << 20);
        assert_eq!(of(much, None, Some(40 << 20)), 10 << 20);
        assert_eq!(of((4 << 20) + 4096, None, None), 2 << 20);
    }

    #[test]
    fn a_pool_that_is_too_full_is_named() {
        for (free, asked) in [((2 << 20) - 4096, None), (0, None), (8 << 20, Some((8 << 20) + 4096))] {
            let error = size(&pool(free), asked, None, None).unwrap_err();
            assert!(error.kind == ErrorKind::NoSpace && error.message.starts_with("sim0: "), "{error}");
        }
        assert_eq!(size(&pool(8 << 20), Some(8 << 20), None, None).unwrap(), 8 << 20);
    }

    #[test]
    fn figures_that_may_be_the_caches_say_so() {
        let much = 64 << 20;
        assert_eq!(notes(much, much, much, Some(32 << 20)), Vec::<String>::new());
        assert_eq!(notes(much, much, much, None), Vec::<String>::new());
        assert!(notes(much, much, much, Some(33 << 20))[0].contains("33 MiB"));
        assert!(notes(much / 2, much, much, None)[0].contains("the time"));
        assert!(notes(much / 2, much / 2, much, None)[0].contains("no more is free"));
    }
}
