//! Devices that whoever maps them opens himself: no descriptor of them comes from the daemon.

use codax_core::request::OnDevice;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Opens a device, if its path is what the daemon says: the character device of that number.
pub(crate) fn open(device: &OnDevice, write: bool) -> io::Result<OwnedFd> {
    let other = || io::Error::other("it is another device than the daemon's");
    // Looked at before: who opens what is something else may wait there, or start something.
    let node = std::fs::metadata(&device.path)?;
    if !node.file_type().is_char_device() || node.rdev() != device.rdev {
        return Err(other());
    }
    let file = File::options().read(true).write(write).open(&device.path)?;
    // It may be another by now.
    let opened = file.metadata()?;
    if !opened.file_type().is_char_device() || opened.rdev() != device.rdev {
        return Err(other());
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(path: &str, rdev: u64) -> OnDevice {
        OnDevice { path: path.to_owned(), rdev, ..OnDevice::default() }
    }

    #[test]
    fn only_the_device_that_the_daemon_means_is_opened() {
        let null = std::fs::metadata("/dev/null").unwrap().rdev();
        let zero = std::fs::metadata("/dev/zero").unwrap().rdev();
        open(&device("/dev/null", null), true).unwrap();
        open(&device("/dev/null", null), false).unwrap();
        let refused = |path: &str, rdev| open(&device(path, rdev), false).unwrap_err().to_string();
        assert!(refused("/dev/null", zero).contains("another device"));
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        assert!(refused(path, file.as_file().metadata().unwrap().rdev()).contains("another device"));
        let none = open(&device("/dev/dax.none", null), false).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
    }
}
