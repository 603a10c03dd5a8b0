//! The unit in `dist/`, under a manager of systemd's.

use super::can_mount;
use crate::rig::{Plan, run_limited, skipped};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Control groups in which a manager puts itself and its units where it is the first of its namespace: it leaves them there, empty.
fn groups() -> BTreeSet<PathBuf> {
    let top = PathBuf::from("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(&top).into_iter().flatten().flatten().map(|entry| entry.path());
    let groups =
        hierarchies.chain([top.clone()]).flat_map(|at| [at.join("init.scope"), at.join("app.slice")]);
    groups.filter(|group| group.exists()).collect()
}

#[test]
fn the_unit_starts_reloads_restarts_and_stops() {
    const NAME: &str = "the_unit_starts_reloads_restarts_and_stops";
    if !can_mount(NAME) {
        return;
    }
    let there = |program: &str| ["/usr/bin", "/bin"].iter().any(|dir| Path::new(dir).join(program).exists());
    if let Some(missing) = ["systemd", "systemctl", "unshare"].into_iter().find(|program| !there(program)) {
        return skipped(NAME, &format!("{missing} is not installed"));
    }
    let before = groups();
    let rig = Plan::new().place();
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/codax.service");
    let mut alone = Command::new("unshare");
    alone.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]);
    alone.args(["sh", "-c", include_str!("systemd.sh"), "sh"]).arg(rig.beside("systemd"));
    let said = run_limited(alone.arg(env!("CARGO_BIN_EXE_codax")).arg(unit), NAME.to_owned(), b"");
    for group in groups().difference(&before) {
        // Only an empty one goes.
        let _ = fs::remove_dir(group);
    }
    if said.code == 77 {
        return skipped(NAME, &format!("systemd does not run here: {}", said.text().trim()));
    }
    assert_eq!(said.ok().text(), "started\nreloaded\nrestarted\nstopped\npurged\n");
}
