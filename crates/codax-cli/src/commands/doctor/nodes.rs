//! What is on the nodes of devices that codax didn't put there.

use super::{Level, Row};
use crate::commands::occupants::{self, NodeRow};
use codax_core::change::PoolState;
use codax_core::info::{Exclusive, PoolInfo, StoreInfo};
use codax_core::units::format_size;
use codax_os::occupants::Filesystems;
use std::path::Path;

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
    nodes.into_iter().map(|node| row(node, of(node), &ours)).collect()
}

fn row(node: u32, pool: Option<&PoolInfo>, ours: &Filesystems) -> Row {
    let fact = pool.map_or_else(|| format!("node {node}"), |pool| format!("{} (node {node})", pool.name));
    let found = match NodeRow::look(node, pool, ours) {
        Ok(found) => found,
        Err(e) => {
            let follows = "what is on it can't be seen";
            return Row::bad(Level::Limited, fact, e.to_string(), follows, "codax device discover");
        }
    };
    judge(fact, found, pool)
}

fn judge(fact: String, found: NodeRow, pool: Option<&PoolInfo>) -> Row {
    let (size, strangers) = (format_size(found.total), found.strangers());
    let value = format!("{} of others on {size}", format_size(strangers));
    let kept = format!("{} of it stay with the kernel", format_size(found.kernel));
    let row = match (strangers, pool) {
        (0, _) => Row::ok(fact, value, format!("nothing of others is on it; {kept}")),
        (_, Some(pool)) if pool.exclusive == Exclusive::None => {
            let follows = "it may stay there (exclusive=none), in the way of what is put on the device, and of a detach";
            let mend = format!("codax device evict-strangers {}", pool.name);
            Row::bad(Level::Limited, fact, value, follows, mend)
        }
        (_, Some(pool)) if pool.emergency.lent > 0 => {
            let lent = format_size(pool.emergency.lent);
            let follows = format!(
                "{lent} are lent to the rest of the system (emergency=allow), and come back when memory is not short any more"
            );
            Row::bad(
                Level::Limited,
                fact,
                value,
                follows,
                "free memory: codax events says since when it is short",
            )
        }
        (_, Some(pool)) => {
            let follows = "it stands in the way of what is put on the device, and of a detach";
            let mend = format!("codax device evict-strangers {}", pool.name);
            Row::bad(Level::Missing, fact, value, follows, mend)
        }
        (_, None) => {
            let follows = "it is no device of this store; were it to be one, so much would be in the way";
            let mend =
                format!("as root: migratepages PID {node} NODES, for each process below", node = found.node);
            Row::bad(Level::Limited, fact, value, follows, mend)
        }
    };
    Row { details: found.lines(), node: Some(found), ..row }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_os::occupants::{Occupant, Occupants};

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
        let row =
            |found: &Occupants, store: u64| judge("x".into(), NodeRow::new(1, found.clone(), store), None);
        let other = row(&found, 7 << 20);
        assert_eq!((other.level, other.value.as_str()), (Level::Limited, "3 MiB of others on 64 MiB"));
        assert!(
            other.details.iter().any(|line| line.contains("process 7 (hog): 3 MiB")),
            "{:?}",
            other.details
        );
        let clean = row(&Occupants { anonymous: 0, ..found }, 8 << 20);
        assert_eq!((clean.level, clean.mend), (Level::Ok, None));
    }
}
