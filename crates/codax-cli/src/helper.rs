//! The program as a helper of mount(8): called `mount.fuse.codax`, as a link in `/sbin`, with what a line of `fstab` says.
//!
//! ```text
//! SOURCE            DIR         TYPE        OPTIONS
//! /run/codax        /mnt/codax  fuse.codax  defaults                  0 0
//! codax             /mnt/codax  fuse.codax  config=/etc/codax.toml    0 0
//! ```
//!
//! SOURCE is the store's directory if it begins with `/`, else the default one. A store that is served is mounted by its daemon; for one that isn't, a
//! daemon is started, with `config=FILE`, `dram=SIZE` and any number of `device=DEVICE` as `codax up` takes them. Options of mounts
//! ([`MountOptions`]) are honoured; those that are meant for mount(8) and for systemd are accepted and ignored.

use codax::Store;
use codax_core::mounting::MountOptions;
use codax_core::{Error, ErrorKind, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name by which mount(8) calls us.
const NAME: &str = "mount.fuse.codax";

/// Keys of a device that follow its backing, as `codax up --device` takes them.
const DEVICE_KEYS: [&str; 10] =
    ["read_ns", "write_ns", "gbps", "cpu", "page", "reserve", "cpus", "size", "format", "persistent"];

/// What mount(8) wants.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The store's directory, if it is named.
    pub store: Option<OsString>,
    /// The mount point.
    pub dir: OsString,
    /// What the mount is to be like.
    pub options: MountOptions,
    /// Options for `codax up`, should a daemon have to be started.
    pub up: Vec<OsString>,
}

/// What mount(8) wants, if it is the one who calls us.
pub fn called() -> Option<Result<Wanted>> {
    let mut words = std::env::args_os();
    let name = words.next()?;
    (Path::new(&name).file_name() == Some(OsStr::new(NAME))).then(|| wanted(words))
}

impl Wanted {
    /// Goes on as `codax mount` where the store is served, else as `codax up --detach --mount`: this process becomes that one.
    pub fn run(self) -> Result<()> {
        let store = self.store.map_or_else(codax_wire::default_dir, PathBuf::from);
        let failed = |e: std::io::Error| Error::internal(format!("start codax: {e}"));
        let mut codax = Command::new(std::env::current_exe().map_err(failed)?);
        codax.arg("--store").arg(&store);
        match Store::connect(&store) {
            Err(e) if e.kind == ErrorKind::NoDaemon => {
                codax.args(["up", "--detach", "--mount"]).arg(self.dir).args(self.up);
                codax.arg("--mount-options");
            }
            _ => {
                codax.arg("mount").arg(self.dir).arg("--options");
            }
        }
        codax.arg(self.options.to_string());
        Err(failed(codax.exec()))
    }
}

/// `SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`.
fn wanted(mut words: impl Iterator<Item = OsString>) -> Result<Wanted> {
    let missing = || Error::invalid(format!("usage: {NAME} SOURCE DIR [-o OPTIONS]"));
    let source = words.next().ok_or_else(missing)?;
    let mut wanted = Wanted { dir: words.next().ok_or_else(missing)?, ..Wanted::default() };
    wanted.store = source.as_bytes().starts_with(b"/").then_some(source);
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"-o" => options(&words.next().ok_or_else(missing)?, &mut wanted)?,
            b"-t" | b"-N" => drop(words.next()),
            b"-s" | b"-f" | b"-n" | b"-v" => {}
            _ => return Err(missing()),
        }
    }
    Ok(wanted)
}

/// Options as in `fstab`: separated by commas. A device has commas of its own: what follows it with one of its keys is part of it.
fn options(list: &OsStr, wanted: &mut Wanted) -> Result<()> {
    let up = &mut wanted.up;
    for option in list.as_bytes().split(|b| *b == b',').filter(|option| !option.is_empty()) {
        let text = String::from_utf8_lossy(option);
        let (key, value) = text.split_once('=').unwrap_or((&text, ""));
        match key {
            "config" | "dram" | "device" => up.push(format!("--{key}={value}").into()),
            _ if DEVICE_KEYS.contains(&key) && up.last().is_some_and(is_device) => {
                let device = up.pop().unwrap_or_default();
                up.push(
                    [device.as_os_str(), OsStr::new(","), OsStr::from_bytes(option)].into_iter().collect(),
                );
            }
            _ if wanted.options.take(&text).map_err(|e| Error::new(e.kind, format!("{NAME}: {e}")))? => {}
            _ => return Err(Error::invalid(format!("{NAME}: no option `{text}`"))),
        }
    }
    Ok(())
}

fn is_device(word: &OsString) -> bool {
    word.as_bytes().starts_with(b"--device=")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(words: &[&str]) -> Result<Wanted> {
        wanted(words.iter().map(OsString::from))
    }

    #[test]
    fn a_line_of_fstab_is_understood() {
        let options = "ro,noauto,x-systemd.automount,config=/c.toml,device=a=emulated:1GiB,read_ns=3,gbps=2,\
                       nofail,noatime,relatime,noexec";
        let got = ask(&["/run/s", "/mnt", "-n", "-o", options, "-t", "fuse.codax"]).unwrap();
        assert_eq!(got.store, Some("/run/s".into()));
        assert_eq!(got.dir, "/mnt");
        assert_eq!(got.options.to_string(), "ro,noexec");
        assert_eq!(got.up, ["--config=/c.toml", "--device=a=emulated:1GiB,read_ns=3,gbps=2"]);
        assert_eq!(ask(&["codax", "/mnt"]).unwrap().store, None);
        let options = "device=a=fsdax:/mnt/pmem0/codax,size=1GiB,format,persistent=no,ro,device=b=numa:1,page=4K,reserve=all";
        let got = ask(&["codax", "/mnt", "-o", options]).unwrap();
        let devices = [
            "--device=a=fsdax:/mnt/pmem0/codax,size=1GiB,format,persistent=no",
            "--device=b=numa:1,page=4K,reserve=all",
        ];
        assert_eq!(got.up, devices);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            &["codax"][..],
            &[],
            &["a", "b", "-o"],
            &["a", "b", "-o", "remount,ro"],
            &["a", "b", "-o", "colour"],
            &["a", "b", "-z"],
            &["a", "b", "-o", "gbps=1"],
        ] {
            assert!(ask(bad).is_err(), "{bad:?}");
        }
    }
}
