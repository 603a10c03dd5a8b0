//! What programs may do to a filesystem, done to the mount and to a directory on tmpfs: both must say the same.

use super::mounted;
use super::scenarios::SCENARIOS;
use crate::rig::Plan;
use std::fmt::Debug;
use std::fs;
use std::path::Path;

/// What the calls of a scenario gave.
#[derive(Debug, Default)]
pub struct Log(Vec<String>);

impl Log {
    /// Notes a result under a name.
    pub fn note(&mut self, what: impl Into<String>, result: impl Debug) {
        self.0.push(format!("{}: {result:?}", what.into()));
    }
}

fn said(scenario: fn(&Path, &mut Log), dir: &Path) -> Vec<String> {
    fs::create_dir(dir).expect("fresh");
    let mut log = Log::default();
    scenario(dir, &mut log);
    log.0
}

/// Compared in pools without huge pages, as the other tmpfs is: where a hole is filled with a huge page, more of it is gone.
#[test]
fn the_mount_does_what_tmpfs_does() {
    compare("the_mount_does_what_tmpfs_does", &[]);
}

/// The same where the daemon writes beside mappings of the objects. The quota is one that no scenario comes to.
#[test]
fn the_mount_does_what_tmpfs_does_under_a_quota() {
    let set = ["quota", "set", "--dir", "/", "dram", "4096TiB"];
    compare("the_mount_does_what_tmpfs_does_under_a_quota", &[&set]);
}

/// Runs all scenarios in a mount and beside it, after these commands.
fn compare(test: &str, before: &[&[&str]]) {
    let Some(mounted) = mounted(test, Plan::new().config("huge = \"never\"\n")) else { return };
    before.iter().for_each(|words| drop(mounted.rig.ok(words)));
    let plain = mounted.rig.beside("plain");
    fs::create_dir(&plain).expect("ours");
    let mut differences = Vec::new();
    for (name, scenario) in SCENARIOS {
        let wanted = said(*scenario, &plain.join(name));
        let got = said(*scenario, &mounted.at(name));
        assert!(!wanted.is_empty(), "{name} shows nothing");
        for i in 0..wanted.len().max(got.len()) {
            let (wanted, got) = (wanted.get(i), got.get(i));
            if wanted != got {
                differences.push(format!("{name}\n  tmpfs {wanted:?}\n  mount {got:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    mounted.rig.sound();
    drop(fs::remove_dir_all(&plain));
    for entry in fs::read_dir(&mounted.dir).expect("there") {
        fs::remove_dir_all(entry.expect("an entry").path()).expect("what was made can be removed");
    }
    mounted.rig.sound();
    assert_eq!(mounted.rig.pool("dram", "used"), 0, "and leaves nothing");
}
