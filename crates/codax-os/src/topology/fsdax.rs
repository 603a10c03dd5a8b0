//! Filesystems whose files are mapped without the page cache: ext4 and xfs on persistent memory, mounted with `dax`.
#![forbid(unsafe_code)]

use super::dax::is_nvdimm;
use super::reader::Reader;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Length of a sector, the unit of a block device's size.
const SECTOR: u64 = 512;

/// A filesystem mounted with `dax`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fsdax {
    /// Where it is mounted.
    pub dir: PathBuf,
    /// `ext4` or `xfs`.
    pub kind: String,
    /// The block device, as `pmem0`.
    pub device: String,
    /// Size of the block device, in bytes.
    pub bytes: Option<u64>,
    /// Whether every file is mapped so; else those that have the flag.
    pub always: bool,
    /// Whether the block device is a part of an NVDIMM, whose contents outlive the power.
    pub persistent: bool,
}

/// Those in the text of a `mountinfo`, each block device once.
pub(super) fn read(sys: &Reader<'_>, mountinfo: &[u8]) -> Vec<Fsdax> {
    let mut found: Vec<Fsdax> = Vec::new();
    for line in mountinfo.split(|b| *b == b'\n') {
        let Some(mut mount) = of_line(line) else { continue };
        if found.iter().any(|other| other.device == mount.device) {
            continue;
        }
        let sectors: Option<u64> = sys.number(&format!("class/block/{}/size", mount.device));
        mount.bytes = sectors.and_then(|sectors| sectors.checked_mul(SECTOR));
        mount.persistent = is_nvdimm(sys, &format!("class/block/{}", mount.device));
        found.push(mount);
    }
    found
}

/// `ID PARENT MAJOR:MINOR ROOT DIR OPTIONS [TAG...] - KIND SOURCE OPTIONS`.
fn of_line(line: &[u8]) -> Option<Fsdax> {
    let mut words = line.split(|b| *b == b' ');
    let dir = words.nth(4)?;
    let mut rest = words.skip_while(|word| *word != b"-").skip(1);
    let kind = std::str::from_utf8(rest.next()?).ok().filter(|kind| matches!(*kind, "ext4" | "xfs"))?;
    let source = std::str::from_utf8(rest.next()?).ok()?;
    let always = rest.next()?.split(|b| *b == b',').find_map(|option| match option {
        b"dax" | b"dax=always" => Some(true),
        b"dax=inode" => Some(false),
        _ => None,
    })?;
    // The name is a file's in a directory of devices: nothing else may come of it.
    let device =
        source.strip_prefix("/dev/").filter(|name| !name.is_empty() && !name.contains(['/', '.']))?;
    Some(Fsdax {
        dir: PathBuf::from(OsString::from_vec(unescaped(dir))),
        kind: kind.to_owned(),
        device: device.to_owned(),
        bytes: None,
        always,
        persistent: false,
    })
}

/// The kernel writes spaces and the like as `\040`.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, more)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| u8::from_str_radix(std::str::from_utf8(more.get(..3)?).ok()?, 8).ok())
            .flatten();
        out.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &more[3..] } else { more };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_with_dax_are_found_and_others_are_not() {
        let mount =
            of_line(b"36 35 259:1 / /mnt/a\\040b rw,noatime shared:3 - ext4 /dev/pmem1 rw,dax=always");
        let wanted = Fsdax {
            dir: "/mnt/a b".into(),
            kind: "ext4".into(),
            device: "pmem1".into(),
            bytes: None,
            always: true,
            persistent: false,
        };
        assert_eq!(mount, Some(wanted));
        let inode = of_line(b"36 35 259:1 / /m rw - xfs /dev/pmem0 rw,attr2,dax=inode").expect("it is one");
        assert!(!inode.always);
        for other in [
            &b""[..],
            b"36 35 259:1 / /m rw - ext4 /dev/sda1 rw,dax=never",
            b"36 35 259:1 / /m rw - ext4 /dev/sda1 rw",
            b"36 35 0:1 / /m rw - tmpfs tmpfs rw,dax",
            b"36 35 0:1 / /m rw - virtiofs fs rw,dax=always",
            b"36 35 259:1 / /m rw - ext4",
            b"36 35 259:1 / /m rw - ext4 /dev/../../etc rw,dax",
            b"- - - - -",
        ] {
            assert_eq!(of_line(other), None, "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn what_looks_like_an_escape_stays() {
        assert_eq!(unescaped(b"a\\134b\\9\\04"), b"a\\b\\9\\04");
    }
}
