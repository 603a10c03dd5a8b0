//! Media that outlive a store, as directories of a disk, and what is written on them by others.

use super::*;
use codax_core::info::Finding;
use codax_engine::catalog::{Area, Catalog, Copies, Entry, NodeExtent};
use codax_engine::{DaxSpec, Format};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A store with the pools `pmem0` and `pmem1` beside `dram`, in directories that outlive it.
#[derive(Debug)]
pub struct Media {
    dir: tempfile::TempDir,
}

impl Media {
    pub fn new() -> Self {
        // Of a disk, since nothing outlives the power elsewhere.
        let dir = tempfile::Builder::new().prefix("codax-media").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let media = Self { dir: dir.expect("a directory") };
        ["pmem0", "pmem1"].iter().for_each(|name| std::fs::create_dir(media.path(name)).expect("made"));
        media
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn device(&self, name: &str, format: Format) -> DeviceSpec {
        let dax = DaxSpec { path: self.path(name), files: true, format, persistent: Some(true) };
        DeviceSpec { dax: Some(dax), ..DeviceSpec::emulated(name, 16 * MIB, LinkModel::default()) }
    }

    /// A store in `rig` that has these media.
    pub fn options(&self, rig: &Rig, names: &[&str], format: Format) -> StoreOptions {
        let devices = names.iter().map(|name| self.device(name, format)).collect();
        StoreOptions { devices, ..rig.options() }
    }

    pub fn open(&self, rig: &Rig, names: &[&str]) -> Store {
        // What stores draw for themselves is never the same.
        static STORES: AtomicU64 = AtomicU64::new(1);
        let env = TestEnv::seeded(STORES.fetch_add(1, Ordering::Relaxed) << 32);
        Store::open(self.options(rig, names, Format::IfNotOurs), env).expect("the store opens")
    }

    /// Has a store of its own write files to media, and lets go of them.
    pub fn written(&self, names: &[&str], work: impl FnOnce(&Session)) {
        let rig = Rig::new();
        let store = self.open(&rig, names);
        work(&admin(&store));
        store.end();
    }
}

/// Both copies of a medium's catalog, as bytes.
pub fn catalogs(dir: &Path) -> [Vec<u8>; 2] {
    ["catalog.0", "catalog.1"].map(|name| std::fs::read(dir.join(name)).expect("there"))
}

/// The directory's lock is this process's, as long as it has the store in memory.
pub fn unlock(dir: &Path) {
    let was = dir.with_extension("was");
    // Another directory in its place is one that nobody has locked.
    std::fs::rename(dir, &was).expect("renamed");
    std::fs::create_dir(dir).expect("made");
    for entry in std::fs::read_dir(&was).expect("listed") {
        let entry = entry.expect("an entry");
        std::fs::rename(entry.path(), dir.join(entry.file_name())).expect("renamed");
    }
}

/// A copy of a catalog in a file.
#[derive(Debug)]
struct FileArea(File);

impl Area for FileArea {
    fn len(&self) -> u64 {
        self.0.metadata().expect("a file").len()
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.0.read_exact_at(bytes, at).expect("read");
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.0.write_all_at(bytes, at).expect("written");
        Ok(())
    }

    fn persist(&self, _at: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn describe(&self) -> String {
        "a copy".to_owned()
    }
}

/// The catalog of a medium that no store has, to be written to as by another host.
pub fn catalog(dir: &Path) -> Catalog {
    let area = |name: &str| -> Arc<dyn Area> {
        let file = File::options().read(true).write(true).open(dir.join(name)).expect("there");
        Arc::new(FileArea(file))
    };
    let copies: Copies = [area("catalog.0"), area("catalog.1")];
    let (catalog, findings): (Catalog, Vec<Finding>) = Catalog::open(copies, None).expect("a catalog");
    assert_eq!(findings, []);
    catalog
}

/// Writes another node in the place of the one that `name` leads to in the root.
pub fn change_node(dir: &Path, name: &str, change: impl FnOnce(&mut codax_engine::catalog::Node)) {
    let mut catalog = catalog(dir);
    let id = catalog.contents().link(codax_core::ROOT, name.as_bytes()).expect("named");
    let mut node = catalog.contents().node(id).expect("known").clone();
    change(&mut node);
    catalog.append(&[Entry::Put(Box::new(node))]).expect("written");
}

/// The only extent of what `name` leads to in the root.
pub fn extent_of(dir: &Path, name: &str) -> NodeExtent {
    let catalog = catalog(dir);
    let id = catalog.contents().link(codax_core::ROOT, name.as_bytes()).expect("named");
    catalog.contents().node(id).expect("known").extents[0]
}
