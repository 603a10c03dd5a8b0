//! What is on the nodes of devices that codax didn't put there.

use super::{Level, Row};
use crate::commands::occupants::{self, NodeRow};
use codax_core::change::PoolState;
use codax_core::info::{Exclusive, PoolInfo, StoreInfo};
use codax_core::units::format_size;
use codax_os::numa;
use codax_os::occupants::Filesystems;
use codax_os::topology;
use std::path::Path;

/// So much of a node may be free below a reserve, in bytes and as a part: the kernel doesn't give it away.
const LEFT_MIN: u64 = 16 << 20;
const LEFT_PART: u64 = 32;

/// A row for each node that is a device of the store's, and for each other that could be one.
pub fn rows(dir: &Path, store: Option<&StoreInfo>, far: &[u32]) -> Vec<Row> {
    let pools = store.map_or(&[][..], |store| &store.pools);
    let ours = occupants::filesystems(dir, store);
    let of = |node: u32| {
        let on = |pool: &&PoolInfo| pool.numa.is_some_and(|memory| memory.node == node);
        pools.iter().find(on).filter(|pool| pool.state != PoolState::Detached)
    };
    // A device may have CPUs, and its node may be gone.
    let mut nodes: Vec<u32> =
        pools.iter().filter_map(|pool| Some(pool.numa?.node)).chain(far.iter().copied()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes.into_iter().map(|node| row(Place::of(node, store.is_some()), of(node), &ours)).collect()
}

/// What there is to know of a node beside who is on it.
#[derive(Clone, Copy, Debug)]
struct Place {
    node: u32,
    /// Whether a daemon says which nodes are devices.
    told: bool,
    /// What the kernel keeps free of it, and on processors' lists: to whom finds no other memory it gives of that.
    kept: u64,
    /// It is the host's own memory as well: a reserve has a part of it only.
    with_dram: bool,
}

impl Place {
    fn of(node: u32, told: bool) -> Self {
        let kept = numa::watermarks(node).map_or(0, |marks| marks.min + marks.kept);
        let nodes = topology::nodes(Path::new(topology::SYSFS));
        let with_dram = nodes.iter().any(|each| each.node == node && !each.cpus.is_empty());
        Self { node, told, kept, with_dram }
    }
}

fn row(place: Place, pool: Option<&PoolInfo>, ours: &Filesystems) -> Row {
    let node = place.node;
    let fact = pool.map_or_else(|| format!("node {node}"), |pool| format!("{} (node {node})", pool.name));
    match NodeRow::look(node, pool, ours) {
        Ok(found) => judge(fact, found, pool, place),
        Err(e) => {
            let follows = "what is on it can't be seen";
            Row::bad(Level::Limited, fact, e.to_string(), follows, "codax device discover")
        }
    }
}

/// Whether a node is as it should be.
fn judge(fact: String, found: NodeRow, pool: Option<&PoolInfo>, place: Place) -> Row {
    let (size, strangers) = (format_size(found.total), found.strangers());
    let value = format!("{} of others on {size}", format_size(strangers));
    let row = match pool {
        Some(pool) if pool.exclusive != Exclusive::None => exclusive(fact, value, &found, (pool, place)),
        _ if strangers == 0 => Row::ok(fact, value, clean(&found)),
        Some(pool) => {
            let follows = "it may stay there (exclusive=none), in the way of what is put on the device, and of a detach";
            Row::bad(Level::Limited, fact, value, follows, evict(pool))
        }
        None => {
            let follows = match place.told {
                true => "it is no device of this store; were it to be one, so much would be in the way",
                false => {
                    "whether it is a device is not known without a daemon; were it to be one, so much would be in the way"
                }
            };
            let mend =
                format!("as root: migratepages PID {node} NODES, for each process below", node = place.node);
            Row::bad(Level::Limited, fact, value, follows, mend)
        }
    };
    Row { details: found.lines(), node: Some(found), ..row }
}

/// The same of one that is to be the device's alone.
fn exclusive(fact: String, value: String, found: &NodeRow, (pool, place): (&PoolInfo, Place)) -> Row {
    let (strangers, lent) = (found.strangers(), pool.emergency.lent);
    let over = strangers.saturating_sub(lent);
    let loan = format!("{} are lent to the rest of the system (emergency=allow)", format_size(lent));
    if lent > 0 && over <= place.kept {
        let follows = format!("{loan}, and come back when memory is not short any more");
        let mend = "free memory: codax events says since when it is short";
        return Row::bad(Level::Limited, fact, value, follows, mend);
    }
    if over > 0 {
        let mut follows = "it stands in the way of what is put on the device, and of a detach".to_owned();
        if lent > 0 {
            follows = format!("{loan}, and others have {} more than that: {follows}", format_size(over));
        }
        return Row::bad(Level::Missing, fact, value, follows, evict(pool));
    }
    match unpopulated(found, pool, place) {
        0 => Row::ok(fact, value, clean(found)),
        lacks => {
            let follows = format!(
                "{} of it are not populated: who finds no other memory may land there until they are",
                format_size(lacks)
            );
            let mend = "codax events says how far that is, or what is in the way (reserve)";
            Row::bad(Level::Limited, fact, value, follows, mend)
        }
    }
}

/// What a device's reserve lacks of its node.
fn unpopulated(found: &NodeRow, pool: &PoolInfo, place: Place) -> u64 {
    let Some(populated) = pool.populated else { return 0 };
    let stays = (found.total / LEFT_PART).max(LEFT_MIN);
    let rest = if place.with_dram || found.free <= stays { 0 } else { found.free };
    pool.free.saturating_sub(populated).max(rest)
}

fn clean(found: &NodeRow) -> String {
    format!("nothing of others is on it; {} of it stay with the kernel", format_size(found.kernel))
}

fn evict(pool: &PoolInfo) -> String {
    format!("codax device evict-strangers {}", pool.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::probe::sample;
    use codax_core::emergency::EmergencyInfo;
    use codax_os::occupants::{Occupant, Occupants};

    const PLACE: Place = Place { node: 1, told: true, kept: 1 << 20, with_dram: false };

    /// What is said of an exclusive device of which so much is lent, and whose reserve has what is said; with so much free, and others', on its node of 1 GiB.
    fn of_device((lent, populated): (u64, u64), free: u64, others: u64) -> Row {
        let pool = PoolInfo {
            free: 512 << 20,
            exclusive: Exclusive::Reserve,
            populated: Some(populated),
            emergency: EmergencyInfo { lent, ..EmergencyInfo::default() },
            ..sample(1, "cxl0", PoolState::Online)
        };
        let found = Occupants { total: 1 << 30, free, anonymous: others, ..Occupants::default() };
        judge("cxl0 (node 1)".into(), NodeRow::new(1, found, populated), Some(&pool), PLACE)
    }

    #[test]
    fn no_more_of_others_than_is_lent_is_as_it_should_be() {
        let (mib, whole) = (1 << 20, 900 << 20);
        let lent = of_device((32 * mib, whole), 8 * mib, 32 * mib);
        assert_eq!(lent.level, Level::Limited);
        let little = of_device((32 * mib, whole), 0, 33 * mib);
        assert_eq!(little.level, Level::Limited, "of what the kernel keeps free");
        let more = of_device((32 * mib, whole), 0, 100 * mib);
        assert_eq!(
            (more.level, more.mend.as_deref()),
            (Level::Missing, Some("codax device evict-strangers cxl0"))
        );
        assert!(more.follows.contains("32 MiB are lent") && more.follows.contains("68 MiB more"), "{more:?}");
        let unasked = of_device((0, whole), 0, mib);
        assert_eq!(unasked.level, Level::Missing);
    }

    #[test]
    fn a_reserve_that_is_not_populated_is_not_as_it_should_be() {
        let (mib, whole) = (1 << 20, 900 << 20);
        assert_eq!(of_device((0, whole), 8 * mib, 0).level, Level::Ok);
        for (populated, free, lacks) in [(500 * mib, 8 * mib, "12 MiB"), (700 * mib, 300 * mib, "300 MiB")] {
            let row = of_device((0, populated), free, 0);
            assert_eq!(row.level, Level::Limited);
            assert!(row.follows.starts_with(&format!("{lacks} of it are not populated")), "{row:?}");
        }
    }

    #[test]
    fn a_device_with_others_pages_is_not_as_it_should_be() {
        let process = Occupant { pid: 7, command: "hog".into(), bytes: 3 << 20, huge: 0, pinned: 0 };
        let found = Occupants {
            total: 64 << 20,
            free: 50 << 20,
            shared: 8 << 20,
            anonymous: 2 << 20,
            kernel: 4 << 20,
            processes: vec![process],
            ..Occupants::default()
        };
        let row = |found: &Occupants, store: u64| {
            judge("x".into(), NodeRow::new(1, found.clone(), store), None, PLACE)
        };
        let other = row(&found, 7 << 20);
        assert_eq!((other.level, other.value.as_str()), (Level::Limited, "3 MiB of others on 64 MiB"));
        assert!(
            other.details.iter().any(|line| line.contains("process 7 (hog): 3 MiB")),
            "{:?}",
            other.details
        );
        let clean = row(&Occupants { anonymous: 0, ..found }, 8 << 20);
        assert_eq!((clean.level, clean.mend), (Level::Ok, None));
        let json = serde_json::to_value(clean.node).expect("JSON");
        let movable = |kind: &str| json["movable"][kind].as_bool();
        assert_eq!((movable("shared"), movable("huge")), (Some(true), Some(true)));
        assert_eq!((movable("page_cache"), movable("slab")), (Some(true), Some(false)));
    }
}
