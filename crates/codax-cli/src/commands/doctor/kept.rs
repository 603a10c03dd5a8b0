//! Devices that are to have their nodes to themselves, as the store's directory tells of them while no daemon is there to ask.

use super::{Level, Row};
use codax_core::info::Exclusive;
use codax_engine::store::kept_modes;
use std::io;
use std::path::Path;

/// A row for each: on which node it is, and what of that is the store's own, a daemon alone knows.
pub fn rows(dir: &Path) -> Vec<Row> {
    match kept_modes(dir) {
        Ok(modes) => modes.iter().filter_map(|(device, mode)| row(device, *mode)).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => {
            let follows = "which devices are to be exclusive is not known without a daemon";
            vec![Row::bad(Level::Limited, "exclusive", e.to_string(), follows, "ask as root, or codax up")]
        }
    }
}

fn row(device: &str, mode: Exclusive) -> Option<Row> {
    let follows =
        "without a daemon nobody keeps others off its node, and whether somebody is there is not known";
    let value = format!("exclusive={}, and no daemon runs", mode.name());
    (mode != Exclusive::None).then(|| Row::bad(Level::Missing, device.to_owned(), value, follows, "codax up"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_exclusive_is_not_as_it_should_be_without_a_daemon() {
        let dir = tempfile::tempdir().expect("room");
        assert!(rows(dir.path()).is_empty(), "there is no store");
        let meta = dir.path().join("meta");
        std::fs::create_dir(&meta).expect("ours");
        for (device, mode) in [("a", "reserve"), ("b", "none"), ("c", "movable")] {
            std::fs::write(meta.join(format!("exclusive.{device}")), mode).expect("room");
        }
        let found = rows(dir.path());
        let said: Vec<_> = found.iter().map(|row| (&*row.fact, &*row.value, row.level)).collect();
        let value = |mode: &str| format!("exclusive={mode}, and no daemon runs");
        assert_eq!(
            said,
            [("a", &*value("reserve"), Level::Missing), ("c", &*value("movable"), Level::Missing)]
        );
    }
}
