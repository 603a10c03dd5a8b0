//! Memory of a device's node that processes have and the store didn't put there: who, and bringing it to the nodes of the host's own memory.

use crate::backing::os_error;
use crate::store::{Inner, Session};
use codax_core::info::{Stranger, Strangers};
use codax_core::units::format_size;
use codax_core::{Error, PoolId, Result};
use codax_os::evict::{Moved, move_off};
use codax_os::occupants::{self, Filesystems, Occupant};
use codax_os::topology::{self, Node};
use std::path::Path;

/// Most processes that are named in a line.
const SHOWN: usize = 3;

impl Session {
    /// Moves what processes have on a device's node elsewhere, or with `dry_run` only says what that is. What they map of the store's files, in its pools and on
    /// these filesystems, stays. `Invalid` for a device that is no node.
    pub fn evict_strangers(&self, name: &str, dry_run: bool, mounts: &[u64]) -> Result<Strangers> {
        self.require_admin(&format!("evict strangers from {name}"))?;
        let inner = &self.store.inner;
        let pool = inner.lock().pool_named(name)?;
        let strangers = inner.evict_strangers(pool, dry_run, mounts)?;
        if !dry_run {
            inner.note_moved(name, &strangers, "by hand");
        }
        Ok(strangers)
    }
}

impl Inner {
    fn evict_strangers(&self, pool: PoolId, dry_run: bool, mounts: &[u64]) -> Result<Strangers> {
        let st = self.lock();
        let name = st.pool_name(pool);
        let Some(memory) = st.pool(pool).record.numa else {
            return Err(Error::invalid(format!("{name} is no NUMA node: nobody else has memory on it")));
        };
        let pools = st.pools.iter().filter_map(|pool| pool.backing.device().ok());
        let reserves = st.pools.iter().filter_map(|pool| pool.backing.holder()?.device().ok());
        let ours = filesystems(pools.chain(reserves).chain(mounts.iter().copied()));
        drop(st);
        let node = memory.node;
        let nodes = topology::nodes(Path::new(topology::SYSFS));
        let to = refuges(&nodes, node, &self.options().dram_nodes);
        let room = nodes.iter().filter(|node| to.contains(&node.node)).filter_map(|node| node.free).sum();
        let failed = |e| os_error("look at NUMA node", &node, &e);
        let found = occupants::on(node, &ours).map_err(failed)?;
        let mut strangers = Strangers { node, to, room, ..Strangers::default() };
        for process in found.processes {
            let to = &strangers.to;
            let (moved, why) = match dry_run {
                true => (0, obstacle(&process, room)),
                false => report(&process, move_off(process.pid, node, to, &ours)),
            };
            let Occupant { pid, command, bytes, .. } = process;
            strangers.processes.push(Stranger { pid, command, bytes, moved, why });
        }
        Ok(strangers)
    }

    /// Says what was moved, and why.
    fn note_moved(&self, name: &str, strangers: &Strangers, why: &str) {
        let moved = strangers.processes.iter().map(|process| process.moved).sum();
        self.event("strangers", name, &moved_line(strangers, why), moved);
    }

    /// The same on the store's own account, as far as processes are concerned that mounts know of.
    fn strangers_on(&self, pool: PoolId, dry_run: bool) -> Result<Strangers> {
        let mounts = self.lock().mount_devices();
        self.evict_strangers(pool, dry_run, &mounts)
    }

    /// Moves what others have on a device's node elsewhere, as far as there is room.
    pub(crate) fn move_strangers_off(&self, pool: PoolId) -> Result<()> {
        let strangers = self.strangers_on(pool, false)?;
        if strangers.processes.iter().any(|process| process.moved > 0) {
            let name = self.lock().pool_name(pool);
            self.note_moved(&name, &strangers, "to get back what is lent");
        }
        Ok(())
    }

    /// Who has memory on a device's node, for people.
    pub(crate) fn who_is_on(&self, pool: PoolId) -> String {
        let found = self.strangers_on(pool, true).map(|strangers| strangers.processes).unwrap_or_default();
        let named = |each: &Stranger| {
            let why = if each.why.is_empty() { String::new() } else { format!(" ({})", each.why) };
            format!("process {} ({}) has {}{why}", each.pid, each.command, format_size(each.bytes))
        };
        match found.len() {
            0 => "the kernel, or who can't be seen".to_owned(),
            1..=SHOWN => found.iter().map(named).collect::<Vec<_>>().join(", "),
            more => {
                let shown: Vec<String> = found.iter().take(SHOWN).map(named).collect();
                format!("{} and {} more", shown.join(", "), more - SHOWN)
            }
        }
    }
}

/// Filesystems of the store's. Memory of no file is of device 0, and so is what stands for a device that isn't there.
fn filesystems(devices: impl Iterator<Item = u64>) -> Filesystems {
    devices.filter(|device| *device != 0).collect()
}

/// Where strangers are moved to: the nodes of `dram`, or else those with CPUs.
fn refuges(nodes: &[Node], node: u32, dram: &[u32]) -> Vec<u32> {
    let chosen =
        |other: &&Node| if dram.is_empty() { !other.cpus.is_empty() } else { dram.contains(&other.node) };
    nodes.iter().filter(chosen).map(|other| other.node).filter(|other| *other != node).collect()
}

/// What was moved, for people.
fn moved_line(strangers: &Strangers, why: &str) -> String {
    let names = strangers.processes.iter().filter(|process| process.moved > 0).take(8);
    let names: Vec<_> = names.map(|process| format!("{} ({})", process.pid, process.command)).collect();
    let mut line = match names.is_empty() {
        true => format!("no pages of processes moved off, {why}"),
        false => format!("pages of processes moved off, {why}: {}", names.join(", ")),
    };
    let stay = strangers.processes.iter().filter(|process| !process.why.is_empty()).count();
    if stay > 0 {
        line += &format!("; of {stay} some stay");
    }
    line
}

/// What may keep pages of a process where they are.
fn obstacle(process: &Occupant, room: u64) -> String {
    if process.pinned > 0 {
        return format!("{} are pinned for devices", format_size(process.pinned));
    }
    if process.bytes > room {
        return format!("only {} are free on the other nodes", format_size(room));
    }
    if process.huge > 0 {
        return format!("{} are huge pages, which go to where such are free", format_size(process.huge));
    }
    String::new()
}

/// What became of a process's pages: bytes that were moved, and why others were not.
fn report(process: &Occupant, done: std::io::Result<Moved>) -> (u64, String) {
    match done {
        Ok(Moved { moved, left: 0 }) => (moved, String::new()),
        Ok(Moved { moved, left }) => {
            let why = match process.pinned {
                0 => "the other nodes have no room for them, or somebody has them in use",
                _ => "pinned for devices",
            };
            (moved, format!("{} stay: {why}", format_size(left)))
        }
        Err(e) => (0, e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_go_to_the_host_s_own_memory() {
        let node = |node, cpus: &[u32]| Node { node, cpus: cpus.to_vec(), ..Node::default() };
        let nodes = [node(0, &[0]), node(1, &[]), node(2, &[]), node(3, &[1])];
        assert_eq!(refuges(&nodes, 1, &[]), [0, 3]);
        assert_eq!(refuges(&nodes, 1, &[2, 1]), [2]);
    }

    #[test]
    fn memory_of_no_file_is_never_the_store_s() {
        assert_eq!(filesystems([0, 7, 0].into_iter()), Filesystems::from([7]));
    }

    #[test]
    fn what_was_moved_is_told_with_its_cause() {
        let process = |pid, moved, why: &str| Stranger {
            pid,
            command: "hog".into(),
            bytes: 8 << 20,
            moved,
            why: why.into(),
        };
        let line = |processes: &[Stranger]| {
            moved_line(&Strangers { processes: processes.to_vec(), ..Strangers::default() }, "by hand")
        };
        assert_eq!(line(&[]), "no pages of processes moved off, by hand");
        assert_eq!(
            line(&[process(7, 0, "pinned")]),
            "no pages of processes moved off, by hand; of 1 some stay"
        );
        let some = [process(7, 4096, ""), process(8, 4096, "pinned"), process(9, 0, "gone")];
        assert_eq!(line(&some[..1]), "pages of processes moved off, by hand: 7 (hog)");
        assert_eq!(line(&some), "pages of processes moved off, by hand: 7 (hog), 8 (hog); of 2 some stay");
    }

    #[test]
    fn what_stays_is_explained() {
        let process = Occupant { pid: 1, command: "x".into(), bytes: 8 << 20, huge: 0, pinned: 0 };
        assert_eq!(obstacle(&process, 8 << 20), "");
        assert_eq!(obstacle(&process, 4 << 20), "only 4 MiB are free on the other nodes");
        let pinned = Occupant { pinned: 1 << 20, ..process.clone() };
        assert_eq!(obstacle(&pinned, 8 << 20), "1 MiB are pinned for devices");
        assert_eq!(
            report(&pinned, Ok(Moved { moved: 7, left: 4096 })),
            (7, "4 KiB stay: pinned for devices".into())
        );
        assert_eq!(report(&process, Ok(Moved { moved: 7, left: 0 })), (7, String::new()));
    }
}
