//! The store as a filesystem, mounted for real. Wants root and `/dev/fuse`.

mod appends;
mod coherence;
mod points;
mod posix;
mod programs;
mod scenarios;
mod spills;
mod systemd;

pub use coherence::map_path;

use crate::rig::{Plan, Rig, root, skipped};
use std::path::PathBuf;

/// Whether the kernel lets us mount; else the test is skipped by its name.
pub fn can_mount(test: &str) -> bool {
    let why = match codax_os::fuse::open_device() {
        _ if !root() || !codax_os::mounts::can_mount() => "only root may mount directly".to_owned(),
        Err(e) => format!("{}: {e}", codax_os::fuse::DEVICE),
        Ok(_) => return true,
    };
    skipped(test, &why);
    false
}

/// A store that is mounted.
pub struct Mounted {
    pub rig: Rig,
    pub dir: PathBuf,
}

impl Mounted {
    /// A path in the mount.
    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// A store as planned, mounted beside itself; `None` where nothing can be mounted.
pub fn mounted(test: &str, plan: Plan) -> Option<Mounted> {
    if !can_mount(test) {
        return None;
    }
    let rig = plan.up();
    let dir = rig.beside("mnt");
    std::fs::create_dir(&dir).expect("ours");
    rig.ok(&["mount", dir.to_str().expect("text")]);
    Some(Mounted { rig, dir })
}
