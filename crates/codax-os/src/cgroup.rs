//! Memory cgroups: what a process may have in all, and how much of it is taken (`Documentation/admin-guide/cgroup-v2.rst`, and `cgroup-v1/memory.rst`).
//!
//! A limit holds for all processes below it, so each cgroup from the process's own up to the top counts. Memory is charged to the cgroup of the
//! task that first touches it, and stays charged there when the kernel migrates it or the task ends.
#![forbid(unsafe_code)]

use crate::mounts::{point_and_type, root_and_options};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// From here on a limit is none: version 1 writes the largest number of bytes that is whole pages.
const UNLIMITED: u64 = 1 << 62;

/// Which of the two interfaces memory cgroups are under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy of its own for each controller.
    V1,
    /// One hierarchy for all of them.
    V2,
}

/// The files of one version.
struct Files {
    max: &'static str,
    high: Option<&'static str>,
    used: &'static str,
    /// Names in `memory.stat` of page cache that the kernel gives up before it refuses anything, cgroups below included.
    cache: [&'static str; 2],
}

impl Version {
    const fn files(self) -> Files {
        match self {
            Self::V1 => Files {
                max: "memory.limit_in_bytes",
                high: None,
                used: "memory.usage_in_bytes",
                cache: ["total_inactive_file", "total_active_file"],
            },
            Self::V2 => Files {
                max: "memory.max",
                high: Some("memory.high"),
                used: "memory.current",
                cache: ["inactive_file", "active_file"],
            },
        }
    }
}

/// The memory cgroups that a process is in, the innermost first.
#[derive(Clone, Debug)]
pub struct MemoryCgroups {
    version: Version,
    /// Where the hierarchy is mounted.
    mount: PathBuf,
    dirs: Vec<PathBuf>,
}

/// A limit, and how near it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The cgroup that has it, as a path in its hierarchy.
    pub cgroup: String,
    /// The file that sets it.
    pub file: PathBuf,
    /// Bytes that there may be.
    pub bytes: u64,
    /// Bytes that there are.
    pub used: u64,
    /// Bytes of them in page cache, which the kernel gives up first.
    pub cache: u64,
}

impl Limit {
    /// Bytes that can still be had.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.bytes.saturating_add(self.cache).saturating_sub(self.used)
    }
}

impl MemoryCgroups {
    /// Those of a process (`None`: this one); `None` where there are no memory cgroups, or they are not mounted where this process sees them.
    #[must_use]
    pub fn of(pid: Option<u32>) -> Option<Self> {
        let pid = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let cgroups = fs::read_to_string(Path::new("/proc").join(pid).join("cgroup")).ok()?;
        Self::find(&cgroups, &fs::read("/proc/self/mountinfo").ok()?)
    }

    /// The one in this directory alone, of version 2.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        Self { version: Version::V2, mount: dir.to_owned(), dirs: vec![dir.to_owned()] }
    }

    /// By the texts of `/proc/PID/cgroup` and of mountinfo.
    fn find(cgroups: &str, mountinfo: &[u8]) -> Option<Self> {
        // Lines are `ID:CONTROLLERS:PATH`, without controllers for version 2. A controller is in one hierarchy.
        let path = |is: &dyn Fn(&str) -> bool| {
            let mut lines = cgroups.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
            lines.find(|(controllers, _)| is(controllers)).map(|(_, path)| path)
        };
        let first = path(&|controllers| controllers.split(',').any(|controller| controller == "memory"));
        let (version, path) = match first {
            Some(path) => (Version::V1, path),
            None => (Version::V2, path(&str::is_empty)?),
        };
        let (mount, root) = mountinfo.split(|b| *b == b'\n').find_map(|line| {
            let (point, kind) = point_and_type(line)?;
            let (root, options) = root_and_options(line)?;
            let is = match version {
                Version::V1 => kind == b"cgroup" && options.split(|b| *b == b',').any(|o| o == b"memory"),
                Version::V2 => kind == b"cgroup2",
            };
            is.then(|| [point, root].map(|path| PathBuf::from(OsString::from_vec(path)))).map(|[a, b]| (a, b))
        })?;
        // In a container only a part of the hierarchy may be mounted, and the process's own cgroup is that part or below it.
        let below = Path::new(path).strip_prefix(&root).unwrap_or(Path::new(""));
        let dirs = below.ancestors().map(|dir| mount.join(dir)).filter(|dir| dir.is_dir()).collect();
        Some(Self { version, mount, dirs })
    }

    /// Which interface they are under.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Whether the kernel tells of each how much its processes wait for memory (version 2 alone).
    #[must_use]
    pub fn has_pressure(&self) -> bool {
        self.dirs.first().is_some_and(|dir| dir.join("memory.pressure").exists())
    }

    /// Their directories, the innermost first.
    #[must_use]
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// The limit that leaves least, if there is one: beyond it the kernel refuses memory, and ends processes.
    #[must_use]
    pub fn limit(&self) -> Option<Limit> {
        self.nearest(self.version.files().max)
    }

    /// The lower limit that leaves least, if there is one: beyond it the kernel slows processes down (version 2 alone).
    #[must_use]
    pub fn soft_limit(&self) -> Option<Limit> {
        self.nearest(self.version.files().high?)
    }

    fn nearest(&self, file: &str) -> Option<Limit> {
        self.dirs.iter().filter_map(|dir| self.limit_in(dir, file)).min_by_key(Limit::left)
    }

    fn limit_in(&self, dir: &Path, file: &str) -> Option<Limit> {
        let file = dir.join(file);
        let bytes = number(&file).filter(|bytes| *bytes < UNLIMITED)?;
        let files = self.version.files();
        let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
        let cache = |name: &str| {
            stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<u64>().ok())
        };
        let cgroup = dir.strip_prefix(&self.mount).unwrap_or(dir);
        Some(Limit {
            cgroup: format!("/{}", cgroup.display()),
            file,
            bytes,
            used: number(&dir.join(files.used))?,
            cache: files.cache.into_iter().filter_map(cache).sum(),
        })
    }
}

/// A number; `None` also for `max`.
fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(dir).expect("ours");
        files.iter().for_each(|(name, text)| fs::write(dir.join(name), text).expect("ours"));
    }

    #[test]
    fn the_nearest_limit_of_all_levels_counts() {
        let root = tempfile::tempdir().expect("room");
        let mount = root.path().join("cg");
        let stat = "anon 5\ninactive_file 100\nactive_file 20\ninactive_file_x 7\n";
        write(&mount, &[]);
        write(
            &mount.join("a"),
            &[("memory.max", "5000\n"), ("memory.current", "4500\n"), ("memory.stat", stat)],
        );
        let inner = mount.join("a/b");
        write(&inner, &[("memory.max", "max\n"), ("memory.high", "900\n"), ("memory.current", "600\n")]);
        let mounts = format!("30 25 0:26 / {} rw - cgroup2 cgroup rw\n", mount.display());
        let cgroups = MemoryCgroups::find("0::/a/b\n", mounts.as_bytes()).expect("there");
        let limit = cgroups.limit().expect("one of them");
        assert_eq!((limit.cgroup.as_str(), limit.bytes, limit.used, limit.cache), ("/a", 5000, 4500, 120));
        assert_eq!((limit.left(), limit.file), (620, mount.join("a/memory.max")));
        assert_eq!(cgroups.soft_limit().map(|limit| limit.left()), Some(300));
        write(&inner, &[("memory.max", "1000\n")]);
        assert_eq!(cgroups.limit().map(|limit| limit.left()), Some(400));
        write(&inner, &[("memory.current", "2000\n")]);
        assert_eq!(cgroups.limit().map(|limit| limit.left()), Some(0));
    }

    #[test]
    fn the_first_version_has_a_hierarchy_for_memory_and_writes_no_limit_as_a_number() {
        let root = tempfile::tempdir().expect("room");
        let mount = root.path().join("memory");
        let own = mount.join("x");
        write(
            &mount,
            &[("memory.limit_in_bytes", "9223372036854771712\n"), ("memory.usage_in_bytes", "70\n")],
        );
        write(&own, &[("memory.limit_in_bytes", "9223372036854771712\n"), ("memory.usage_in_bytes", "50\n")]);
        let text = "9:name=systemd:/y\n4:cpu,memory:/docker/x\n0::/\n";
        let mounts = format!(
            "29 25 0:25 / /elsewhere rw - cgroup2 cgroup rw\n30 25 0:26 /docker {} rw - cgroup cgroup rw,memory\n",
            mount.display()
        );
        let cgroups = MemoryCgroups::find(text, mounts.as_bytes()).expect("there");
        assert_eq!((cgroups.limit(), cgroups.soft_limit()), (None, None));
        let stat = "inactive_file 1\ntotal_inactive_file 8\ntotal_active_file 2\n";
        write(&own, &[("memory.limit_in_bytes", "100\n"), ("memory.stat", stat)]);
        let limit = cgroups.limit().expect("set now");
        assert_eq!((limit.cgroup.as_str(), limit.left()), ("/x", 60));
        assert!(
            MemoryCgroups::find("", mounts.as_bytes()).is_none() && MemoryCgroups::find(text, b"").is_none()
        );
    }
}
