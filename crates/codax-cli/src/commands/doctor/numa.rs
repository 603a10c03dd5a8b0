//! What the kernel does with memory by itself that would bring others' pages to a device, and what codax needs to see and prevent it.

use super::{Level, Row};
use codax_os::cgroup::Version;
use codax_os::probe::{Facts, NumaFacts};

/// Bit of `kernel.numa_balancing` that sorts pages into tiers.
const BALANCING_TIERS: u64 = 2;

/// The rows, in their order.
pub fn rows(facts: &Facts) -> Vec<Row> {
    vec![
        tiers(&facts.numa),
        demotion(&facts.numa),
        balancing(&facts.numa),
        zone_reclaim(&facts.numa),
        pressure(facts),
        privileges(facts),
        cgroups(facts),
    ]
}

fn list(nodes: &[u32]) -> String {
    nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn tiers(numa: &NumaFacts) -> Row {
    let fact = "memory tiers";
    let tiers: Vec<_> =
        numa.tiers.iter().map(|(tier, nodes)| format!("{tier}: nodes {}", list(nodes))).collect();
    if tiers.len() < 2 {
        return Row::ok(fact, "one", "the kernel takes no memory for slower than other: it demotes nothing");
    }
    let follows = "the kernel takes memory of a higher tier for slower: with demotion, what it would reclaim goes there";
    Row::ok(fact, tiers.join("; "), follows)
}

fn demotion(numa: &NumaFacts) -> Row {
    let fact = "demotion";
    match numa.demotion {
        None => Row::ok(fact, "not in this kernel", "no page is brought to a slower node by it"),
        Some(false) => Row::ok(fact, "off", "what the kernel reclaims it doesn't bring to a device"),
        Some(true) if numa.far.is_empty() => {
            Row::ok(fact, "on", "there is no node without CPUs that it could bring pages to")
        }
        Some(true) => {
            let follows = format!(
                "pages of any program that the kernel would reclaim land on nodes {}; of codax's own it takes none",
                list(&numa.far)
            );
            let mend = "echo false > /sys/kernel/mm/numa/demotion_enabled";
            Row::bad(Level::Limited, fact, "on", follows, mend)
        }
    }
}

fn balancing(numa: &NumaFacts) -> Row {
    let fact = "NUMA balancing";
    match numa.balancing {
        None => Row::ok(fact, "not in this kernel", "no page follows who uses it"),
        Some(0) => Row::ok(fact, "off", "no page follows who uses it"),
        Some(mode) if mode & BALANCING_TIERS != 0 && !numa.far.is_empty() => {
            let follows = "pages in use are brought from slower nodes to faster ones, and others make room for them by demotion: \
                           pages of any program land on devices";
            let mend = "sysctl kernel.numa_balancing=0 (or 1)";
            Row::bad(Level::Limited, fact, format!("mode {mode}, with tiers"), follows, mend)
        }
        Some(mode) => {
            let follows = "pages are brought to nodes with CPUs: none to a device";
            Row::ok(fact, format!("mode {mode}"), follows)
        }
    }
}

fn zone_reclaim(numa: &NumaFacts) -> Row {
    let fact = "node reclaim";
    if numa.far.is_empty() {
        return Row::ok(
            fact,
            "no other node",
            "there is no node without CPUs that memory could be taken from",
        );
    }
    match numa.zone_reclaim {
        Some(0) => {
            let follows = format!(
                "when the nodes with CPUs are full, programs and the page cache take memory of nodes {} before anything is reclaimed",
                list(&numa.far)
            );
            let mend = "sysctl vm.zone_reclaim_mode=1 (it makes this rarer, and prevents it only where a device's memory is set aside)";
            Row::bad(Level::Limited, fact, "off", follows, mend)
        }
        Some(mode) => {
            let follows = "page cache of a full node is given up first; when that doesn't suffice, memory of other nodes is taken";
            Row::ok(fact, format!("mode {mode}"), follows)
        }
        None => Row::ok(fact, "unknown", "the kernel doesn't say when it takes memory of other nodes"),
    }
}

fn pressure(facts: &Facts) -> Row {
    let fact = "memory pressure";
    if facts.pressure {
        let follows = "how much programs wait for memory can be seen (/proc/pressure/memory)";
        return Row::ok(fact, "told (PSI)", follows);
    }
    let mend = "a kernel with CONFIG_PSI, booted with psi=1";
    let follows =
        "how much programs wait for memory can't be seen: a device with when=some: or full: never helps out";
    Row::bad(Level::Limited, fact, "not told", follows, mend)
}

fn privileges(facts: &Facts) -> Row {
    let fact = "privileges";
    if facts.lacking.is_empty() {
        let follows =
            "this user may mount pools, keep memory to nodes, move others' pages and see who is where";
        return Row::ok(fact, format!("user {}, all that are wanted", facts.uid), follows);
    }
    let follows = "mounts want CAP_SYS_ADMIN; moves of others' pages CAP_SYS_NICE; locked pools CAP_IPC_LOCK; a look at others' memory \
                   CAP_SYS_PTRACE. Devices that are NUMA nodes want root";
    let value = format!("user {}, without {}", facts.uid, facts.lacking.join(", "));
    Row::bad(Level::Limited, fact, value, follows, "run codax as root")
}

fn cgroups(facts: &Facts) -> Row {
    let fact = "cgroups";
    match facts.cgroups {
        Some(Version::V2) if facts.cgroup_pressure => Row::ok(
            fact,
            "version 2",
            "limits of memory are seen and kept to, and the pressure of each group",
        ),
        Some(Version::V2) => {
            let follows = "limits of memory are seen and kept to; the pressure of a group is not told";
            Row::ok(fact, "version 2", follows)
        }
        Some(Version::V1) => {
            let follows = "limits of memory are seen and kept to; the kernel tells the pressure of the whole machine alone";
            let mend = "boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all";
            Row::bad(Level::Limited, fact, "version 1", follows, mend)
        }
        None => {
            let follows = "no limit of memory is seen: if there is one that this process can't see, the kernel may end the daemon for it";
            let mend = "mount -t cgroup2 none /sys/fs/cgroup; in a container, have it see its cgroup";
            Row::bad(Level::Limited, fact, "none", follows, mend)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::good;
    use super::*;

    fn limited(facts: &Facts) -> Vec<String> {
        let rows = rows(facts);
        for row in &rows {
            assert_eq!(row.mend.is_none(), row.level == Level::Ok, "{row:?}");
        }
        rows.into_iter().filter(|row| row.level != Level::Ok).map(|row| row.fact.into_owned()).collect()
    }

    #[test]
    fn what_brings_pages_to_a_device_is_named() {
        assert_eq!(limited(&good()), [""; 0]);
        let numa = NumaFacts {
            demotion: Some(true),
            balancing: Some(3),
            zone_reclaim: Some(0),
            tiers: vec![(4, vec![0]), (22, vec![1, 2])],
            far: vec![],
        };
        let mut facts = Facts { numa, ..good() };
        assert_eq!(limited(&facts), [""; 0], "without a device's node it brings them nowhere");
        facts.numa.far = vec![1, 2];
        assert_eq!(limited(&facts), ["demotion", "NUMA balancing", "node reclaim"]);
        assert_eq!(tiers(&facts.numa).value, "4: nodes 0; 22: nodes 1,2");
        facts.numa.balancing = Some(1);
        assert_eq!(limited(&facts), ["demotion", "node reclaim"]);
    }

    #[test]
    fn each_kind_of_cgroups_has_its_consequence() {
        let of = |cgroups| cgroups_of(cgroups).value;
        assert_eq!([Some(Version::V1), Some(Version::V2), None].map(of), ["version 1", "version 2", "none"]);
        assert_eq!(cgroups_of(Some(Version::V2)).level, Level::Ok);
        let lacking = Facts { lacking: vec!["CAP_SYS_NICE"], uid: 1000, pressure: false, ..good() };
        assert_eq!(limited(&lacking), ["memory pressure", "privileges"]);
        assert_eq!(privileges(&lacking).value, "user 1000, without CAP_SYS_NICE");
    }

    fn cgroups_of(version: Option<Version>) -> Row {
        cgroups(&Facts { cgroups: version, ..good() })
    }
}
