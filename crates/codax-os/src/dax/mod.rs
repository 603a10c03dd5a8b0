//! DAX devices in devdax mode: memory that is mapped as `/dev/daxX.Y`, and read and written in no other way.

mod error;
mod map;

pub use error::OpenError;
pub use map::DaxMap;

use crate::topology::{self, Mode, SYSFS};
use rustix::io::Errno;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A DAX device, held open.
#[derive(Debug)]
pub struct DaxDevice {
    file: File,
    path: PathBuf,
    about: topology::Dax,
    len: u64,
    align: u64,
    id: DeviceId,
    write: bool,
}

/// What a device's node is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceId {
    /// Device number of the filesystem that the node is in, as in `/proc/*/maps`. Another node of the same device has another.
    pub dev: u64,
    /// The node's inode number, as there.
    pub ino: u64,
    /// The device's own number (`st_rdev`), of all its nodes.
    pub number: u64,
}

impl DaxDevice {
    /// Opens a device in devdax mode, for reading or for writing too.
    pub fn open(path: &Path, write: bool) -> Result<Self, OpenError> {
        Self::open_by(Path::new(SYSFS), path, write)
    }

    /// As [`Self::open`], with what the sysfs below `root` says.
    pub fn open_by(root: &Path, path: &Path, write: bool) -> Result<Self, OpenError> {
        let failed = |error| OpenError::of_path(path, error);
        let node = match std::fs::metadata(path) {
            // Only who is in devdax mode has a device file.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let name = path.file_name().and_then(|name| name.to_str());
                let about = name.and_then(|name| topology::dax_named(root, name));
                return Err(about.and_then(|about| not_devdax(&about)).unwrap_or_else(|| failed(e)));
            }
            other => other.map_err(failed)?,
        };
        let not_dax = || OpenError::NotDax(path.to_owned());
        if !node.file_type().is_char_device() {
            return Err(not_dax());
        }
        let about = topology::dax_of(root, node.rdev()).ok_or_else(not_dax)?;
        if let Some(error) = not_devdax(&about) {
            return Err(error);
        }
        let file = OpenOptions::new().read(true).write(write).open(path);
        let file = file.map_err(|error| OpenError::of_device(&about.name, path, error))?;
        // It may be another by now: a name is given again to whatever device comes next.
        let opened = file.metadata().map_err(failed)?;
        if opened.rdev() != node.rdev() || !opened.file_type().is_char_device() {
            return Err(OpenError::Gone(about.name));
        }
        let untold = |what| OpenError::Untold { name: about.name.clone(), what };
        let len = about.bytes.filter(|bytes| *bytes > 0).ok_or_else(|| untold("size"))?;
        let align = about.align.filter(|align| align.is_power_of_two()).ok_or_else(|| untold("align"))?;
        let id = DeviceId { dev: opened.dev(), ino: opened.ino(), number: opened.rdev() };
        Ok(Self { file, path: path.to_owned(), about, len, align, id, write })
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name, as `dax0.0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.about.name
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: a device has bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// What mappings are aligned to, in bytes: address, offset and length.
    #[must_use]
    pub fn align(&self) -> u64 {
        self.align
    }

    /// Whether it is a part of an NVDIMM, whose contents outlive the power.
    #[must_use]
    pub fn persistent(&self) -> bool {
        self.about.persistent
    }

    /// The node that its memory would be.
    #[must_use]
    pub fn target_node(&self) -> Option<u32> {
        self.about.target_node
    }

    /// What its node is known by.
    #[must_use]
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// Whether it is open for writing.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.write
    }

    /// Maps `len` bytes at `off`, and what is around them to the device's alignment.
    pub fn map(&self, off: u64, len: u64) -> io::Result<DaxMap> {
        if off.checked_add(len).is_none_or(|end| end > self.len) {
            let name = self.name();
            let line = format!("{len} bytes at {off} don't lie in {name}, which has {} bytes", self.len);
            return Err(crate::util::invalid(line));
        }
        DaxMap::new(&self.file, off, len, self.write)
    }

    /// Keeps others out that ask for the same (flock(2)), until this is dropped and every duplicate of its descriptor; `Busy` if somebody has it.
    pub fn lock(&self) -> Result<(), OpenError> {
        self.file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::Busy(self.name().to_owned()),
            TryLockError::Error(error) => OpenError::of_device(self.name(), &self.path, error),
        })
    }

    /// What has become of it, if it can't be reached any more: its node or its driver has gone, or another device has its place. Opens nothing.
    #[must_use]
    pub fn gone(&self) -> Option<OpenError> {
        let gone = || OpenError::Gone(self.name().to_owned());
        let Ok(node) = std::fs::metadata(&self.path) else { return Some(gone()) };
        let there = topology::dax_of(Path::new(SYSFS), node.rdev());
        let Some(about) =
            there.filter(|about| node.rdev() == self.id.number && about.name == self.about.name)
        else {
            return Some(gone());
        };
        not_devdax(&about)
    }

    /// The ranges (offset, length in bytes) that the kernel knows to be unreadable, in order.
    pub fn bad_blocks(&self) -> io::Result<Vec<(u64, u64)>> {
        topology::bad_blocks_of_dax(Path::new(SYSFS), self.name())
    }
}

impl AsFd for DaxDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Why a device can't be mapped that isn't in devdax mode.
fn not_devdax(about: &topology::Dax) -> Option<OpenError> {
    let name = about.name.clone();
    match &about.mode {
        Mode::Devdax => None,
        Mode::SystemRam => Some(OpenError::SystemRam(name)),
        Mode::Unbound => Some(OpenError::Unbound(name)),
        Mode::Other(driver) => Some(OpenError::OtherDriver { name, driver: driver.clone() }),
    }
}

/// Whether an error says that a device has gone, or its driver.
fn is_gone(error: &io::Error) -> bool {
    let errnos = [Errno::NXIO, Errno::NODEV];
    errnos.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A sysfs in which `/dev/null` is a device of this driver.
    fn sysfs(driver: Option<&str>) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        let device = at("devices/ndbus0/region0/dax0.1/dax0.0");
        for dir in [&device, &at("bus/dax/devices"), &at("dev/char")] {
            fs::create_dir_all(dir).unwrap();
        }
        for (name, value) in [("size", "4194304"), ("align", "2097152"), ("target_node", "3")] {
            fs::write(device.join(name), value).unwrap();
        }
        let number = fs::metadata("/dev/null").unwrap().rdev();
        let number = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
        for link in ["bus/dax/devices/dax0.0", &format!("dev/char/{number}")] {
            std::os::unix::fs::symlink(&device, at(link)).unwrap();
        }
        if let Some(driver) = driver {
            std::os::unix::fs::symlink(at("bus/dax/drivers").join(driver), device.join("driver")).unwrap();
        }
        root
    }

    #[test]
    fn a_device_is_what_sysfs_says() {
        let root = sysfs(Some("device_dax"));
        let device = DaxDevice::open_by(root.path(), Path::new("/dev/null"), true).unwrap();
        assert_eq!((device.name(), device.len(), device.align()), ("dax0.0", 4 << 20, 2 << 20));
        assert_eq!((device.persistent(), device.target_node()), (true, Some(3)));
        let stat = fs::metadata("/dev/null").unwrap();
        let id = DeviceId { dev: stat.dev(), ino: stat.ino(), number: stat.rdev() };
        assert_eq!(device.id(), id);
        assert!(device.map(3 << 20, 2 << 20).is_err(), "beyond its end");
    }

    #[test]
    fn what_is_no_device_in_devdax_mode_is_told() {
        let null = Path::new("/dev/null");
        let open = |root: &tempfile::TempDir, path| DaxDevice::open_by(root.path(), path, false).unwrap_err();
        let root = sysfs(Some("kmem"));
        let ram = open(&root, null);
        assert!(matches!(&ram, OpenError::SystemRam(name) if name == "dax0.0"), "{ram}");
        assert!(ram.to_string().contains("daxctl reconfigure-device -m devdax dax0.0"), "{ram}");
        assert!(matches!(open(&sysfs(None), null), OpenError::Unbound(_)));
        assert!(matches!(open(&sysfs(Some("x")), null), OpenError::OtherDriver { .. }));
        assert!(matches!(open(&root, Path::new("/dev/zero")), OpenError::NotDax(_)));
        assert!(matches!(open(&root, root.path()), OpenError::NotDax(_)));
        assert!(matches!(open(&root, Path::new("/dev/dax.none")), OpenError::Missing(_)));
        let sizeless = sysfs(Some("device_dax"));
        fs::remove_file(sizeless.path().join("bus/dax/devices/dax0.0/size")).unwrap();
        assert!(matches!(open(&sizeless, null), OpenError::Untold { what: "size", .. }));
        assert!(matches!(DaxDevice::open(null, false).unwrap_err(), OpenError::NotDax(_)));
    }
}
