//! `codax device show`.

use super::{backing, gbps, job, state};
use crate::commands::status::emergency_lines;
use crate::commands::{Context, info, unexpected};
use crate::output::progress::held_lines;
use crate::output::{table, text};
use anyhow::Result;
use codax_core::change::LinkModel;
use codax_core::driver::{Cache, DeviceInfo, Health, Needs, Reach, Standing};
use codax_core::emergency::EmergencyInfo;
use codax_core::info::{Exclusive, PoolInfo};
use codax_core::units::format_size;
use codax_core::{DRAM, Error, PAGE_SIZE};
use codax_wire::{Reply, Request};
use serde::Serialize;

/// A pool with what its device's driver says.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    pool: &'a PoolInfo,
    /// None for `dram`, which is no device.
    device: Option<DeviceInfo>,
}

/// Shows one.
pub fn run(context: &Context, name: &str) -> Result<()> {
    let store = context.store()?;
    let pools = info(&store)?.pools;
    let Some(pool) = pools.iter().find(|pool| pool.name == name) else {
        let names: Vec<_> = pools.iter().map(|pool| pool.name.as_str()).collect();
        return Err(Error::not_found(format!("no device {name}; there are {}", names.join(", "))).into());
    };
    let device = match pool.id {
        DRAM => None,
        _ => match store.call(Request::Device { pool: name.to_owned() })? {
            Reply::Device(device) => Some(*device),
            other => return Err(unexpected(&other).into()),
        },
    };
    let row = Row { pool, device };
    context.print([&row], || {
        let told = row.device.as_ref().map(|device| driver_facts(pool, device));
        table::facts(facts_of(pool).into_iter().chain(told.into_iter().flatten()).collect::<Vec<_>>())
    })
}

/// What a device is and does, as its driver says.
fn driver_facts(pool: &PoolInfo, device: &DeviceInfo) -> Vec<(&'static str, String)> {
    let told = &device.description;
    let list = |list: Vec<String>| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    let cache = |cache: &Cache| format!("{} {}", cache.name, format_size(cache.bytes));
    let caches = list(told.caches.iter().map(cache).collect());
    let caches = match told.reach {
        _ if !told.caches_files() => caches,
        Reach::Own => format!("{caches}; of its own memory only"),
        Reach::Any => format!("{caches}; of any memory"),
        Reach::Nothing => caches,
    };
    let pid = device.pid.map_or_else(String::new, |pid| format!(", process {pid}"));
    let driver = match &device.driverless {
        Some(last) => format!("none: {last} is gone"),
        None if told.version.is_empty() => format!("{}{pid}", told.driver),
        None => format!("{} {}{pid}", told.driver, told.version),
    };
    let health = match &device.health {
        Ok(Health::Well) => String::new(),
        Ok(Health::Degraded(why)) => format!("degraded: {why}"),
        Ok(Health::Failed(why)) => format!("failed: {why}"),
        Err(e) => format!("its driver does not say: {e}"),
    };
    let standing = match &device.standing {
        _ if !told.caches_files() => String::new(),
        Standing::Running => "running".to_owned(),
        Standing::Stopped => "at rest".to_owned(),
        Standing::Failed(why) => format!("has failed: {why}"),
    };
    let saved = |bytes| format!("{} are saved, for codax device online", format_size(bytes));
    let counters = device.counters.iter().map(|counter| format!("{} {}", counter.name, counter.value));
    vec![
        ("class", told.class.name().to_owned()),
        ("caches", caches),
        ("link", link(pool, &told.link.name)),
        ("driver", driver),
        ("operations", if told.caches_files() { list(told.operations.clone()) } else { String::new() }),
        ("coprocessor", standing),
        ("its state", device.saved.map_or_else(String::new, saved)),
        ("health", health),
        ("needs", needs(&told.needs)),
        ("counters", list(counters.collect())),
    ]
}

/// What a link is called, and its figures: those of the configuration, or else of its driver.
fn link(pool: &PoolInfo, name: &str) -> String {
    let LinkModel { read_ns, write_ns, mbps } = pool.link;
    let name = (!name.is_empty()).then(|| name.to_owned());
    let figures = [
        read_ns.map(|ns| format!("read {ns} ns")),
        write_ns.map(|ns| format!("write {ns} ns")),
        mbps.map(|_| format!("{} GB/s", gbps(mbps))),
    ];
    let figures: Vec<String> = figures.into_iter().flatten().collect();
    let figures = (!figures.is_empty()).then(|| format!("{}, as announced", figures.join(", ")));
    let told: Vec<String> = name.into_iter().chain(figures).collect();
    if told.is_empty() { "none".to_owned() } else { told.join(": ") }
}

/// What a device needs of its memory, if it is anything.
fn needs(needs: &Needs) -> String {
    let mut all = Vec::new();
    if needs.unit > PAGE_SIZE {
        all.push(format!("whole units of {}", format_size(needs.unit)));
    }
    if needs.contiguous {
        all.push("each file in one run".to_owned());
    }
    if needs.align > PAGE_SIZE {
        all.push(format!("from multiples of {} on", format_size(needs.align)));
    }
    all.join(", ")
}

/// What is known of a pool and its memory.
fn facts_of(pool: &PoolInfo) -> Vec<(&'static str, String)> {
    let held =
        format!("{}, frames that no file owns any more and somebody still holds", format_size(pool.held));
    let private = format!("{}, the device's own", format_size(pool.private));
    // Of what has no memory there is nothing to say of memory.
    let memory = |text: String| if pool.bytes > 0 { text } else { String::new() };
    let swap = if pool.swappable { "the kernel may swap its pages out" } else { "no" };
    let moves = match &pool.moves_with[..] {
        [] => String::new(),
        pools => format!("moves from and to {}, whoever uses the file", pools.join(", ")),
    };
    let job_lines = pool.job.as_ref().map_or_else(String::new, |running| {
        [vec![job(running)], held_lines(&running.waiting)].concat().join("\n")
    });
    vec![
        ("device", pool.name.clone()),
        ("backing", backing(pool)),
        ("state", state(pool.state).to_owned()),
        ("missing", pool.missing.clone().unwrap_or_default()),
        (
            "size",
            match pool.bytes {
                0 => "none: it has no memory, and works on files that are elsewhere".to_owned(),
                bytes => format!("{} ({bytes} bytes)", format_size(bytes)),
            },
        ),
        ("used", memory(format!("{} by {}", format_size(pool.used), text::count(pool.files, "file")))),
        ("held", if pool.held > 0 { held } else { String::new() }),
        ("private", if pool.private > 0 { private } else { String::new() }),
        ("free", memory(format_size(pool.free))),
        ("keeps", kept(pool)),
        ("damaged", if pool.retired > 0 { format_size(pool.retired) } else { String::new() }),
        ("huge pages", memory(huge(pool))),
        ("exclusive", exclusive(pool)),
        ("emergency", memory(emergency(pool))),
        ("swap", memory(swap.to_owned())),
        ("by the kernel", moves),
        ("job", job_lines),
    ]
}

/// What an emergency may have of a device, and has.
fn emergency(pool: &PoolInfo) -> String {
    let EmergencyInfo { allowed, at_most, when, pressed, .. } = &pool.emergency;
    if pool.id == DRAM {
        return String::new();
    }
    let allowed = match (allowed, when) {
        (false, _) => "never".to_owned(),
        (true, None) => format!("allow: {} at most", format_size(*at_most)),
        (true, Some(when)) => {
            let now = if *pressed { ", which is so now" } else { "" };
            format!("allow: {} at most, when {when}{now}", format_size(*at_most))
        }
    };
    [vec![allowed], emergency_lines(pool)].concat().join("\n")
}

/// What keeps others off a device's node, and what of that is there.
fn exclusive(pool: &PoolInfo) -> String {
    if pool.numa.is_none() {
        return String::new();
    }
    let mode = pool.exclusive.name();
    match (pool.exclusive, pool.populated) {
        (Exclusive::None, _) => format!("{mode}: others' memory may land on the node"),
        (Exclusive::Movable, _) => {
            format!(
                "{mode}: others' memory may land on the node, and codax device evict-strangers moves it away"
            )
        }
        (Exclusive::Reserve, None) => format!("{mode}: its huge pages are nobody else's"),
        (Exclusive::Reserve, Some(populated)) => match pool.free.saturating_sub(populated) {
            0 => format!("{mode}: {} are populated, all that it has room for", format_size(populated)),
            missing => format!(
                "{mode}: {} are populated, {} are missing: others have them, or they are on their way",
                format_size(populated),
                format_size(missing)
            ),
        },
    }
}

/// Whether what a medium of its own holds outlives the power, and what it is called.
fn kept(pool: &PoolInfo) -> String {
    let Some(memory) = &pool.dax else { return String::new() };
    let how = if pool.persistent {
        "persistent: files outlive the power"
    } else {
        "volatile: nothing outlives the power"
    };
    format!("{how}; pool {}", memory.uuid)
}

/// What a pool has of huge pages, and what it lacks.
fn huge(pool: &PoolInfo) -> String {
    let Some(reserve) = &pool.reserve else {
        return if pool.huge { "where they are whole" } else { "no" }.to_owned();
    };
    let (page, taken) = (format_size(reserve.page), format_size(reserve.taken));
    let mut text = format!(
        "{taken} in pages of {page}, set aside on the node; {} of it stay with the kernel",
        format_size(reserve.kernel)
    );
    if reserve.missing > 0 {
        text +=
            &format!("\n{} are missing, and given to nobody: {}", format_size(reserve.missing), reserve.why);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_said_where_there_are_any() {
        assert_eq!(needs(&Needs::default()), "");
        let all = Needs { unit: 2 << 20, align: 4 << 20, contiguous: true, private: Vec::new() };
        let said = "whole units of 2 MiB, each file in one run, from multiples of 4 MiB on";
        assert_eq!(needs(&all), said);
    }
}
