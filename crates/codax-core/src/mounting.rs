//! What a mount is to be like, in the words of mount(8).

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of a mount that the kernel honours. The default is mount(8)'s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOptions(u16);

/// Each option with the word for it.
const SET: [(&str, u16); 8] = [
    ("ro", 1),
    ("noexec", 1 << 1),
    ("sync", 1 << 2),
    ("dirsync", 1 << 3),
    ("noatime", 1 << 4),
    ("nodiratime", 1 << 5),
    ("strictatime", 1 << 6),
    ("lazytime", 1 << 7),
];

/// Words that take options away which came before.
const UNSET: [(&str, &[&str]); 11] = [
    ("rw", &["ro"]),
    ("exec", &["noexec"]),
    ("async", &["sync"]),
    ("atime", &["noatime"]),
    ("diratime", &["nodiratime"]),
    ("relatime", &["noatime", "strictatime"]),
    ("nostrictatime", &["strictatime"]),
    ("nolazytime", &["lazytime"]),
    ("noatime", &["strictatime"]),
    ("strictatime", &["noatime"]),
    ("defaults", &["ro", "noexec", "sync"]),
];

/// Words that say nothing to us: what they ask for is so anyway, or is the business of who calls us.
const IGNORED: [&str; 22] = [
    "auto",
    "noauto",
    "nofail",
    "user",
    "nouser",
    "users",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "_netdev",
    "comment",
    "nosuid",
    "nodev",
    "suid",
    "dev",
    "norelatime",
    "nomand",
    "silent",
    "loud",
    "allow_other",
    "default_permissions",
];

impl MountOptions {
    /// Takes one option as `fstab` has it; what comes later counts. `false` if it is none that a mount has. `Invalid` for `remount`.
    pub fn take(&mut self, option: &str) -> Result<bool> {
        let key = option.split_once('=').map_or(option, |(key, _)| key);
        let bit = |word: &str| SET.iter().find(|(set, _)| *set == word).map(|(_, bit)| *bit);
        let unset = UNSET.iter().find(|(word, _)| *word == option).map(|(_, words)| *words);
        if option == "remount" {
            return Err(Error::invalid("remount: a mount stays as it was made: unmount, and mount again"));
        }
        for word in unset.unwrap_or_default() {
            self.0 &= !bit(word).unwrap_or(0);
        }
        self.0 |= bit(option).unwrap_or(0);
        let meant_for_others = IGNORED.contains(&key) || key.starts_with("x-") || key.starts_with("X-");
        Ok(unset.is_some() || bit(option).is_some() || meant_for_others)
    }

    /// Takes options that are separated by commas. `Invalid` names the one that is none.
    pub fn parse(list: &str) -> Result<Self> {
        let mut options = Self::default();
        for option in list.split(',').filter(|option| !option.is_empty()) {
            if !options.take(option)? {
                return Err(Error::invalid(format!("a mount has no option `{option}`")));
            }
        }
        Ok(options)
    }

    /// The words for those that are set: what [`Self::parse`] makes the same of.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        SET.into_iter().filter(move |(_, bit)| self.0 & bit != 0).map(|(word, _)| word)
    }
}

impl std::fmt::Display for MountOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words().collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_later_counts() {
        for (list, means) in [
            ("", ""),
            ("defaults,nofail,x-systemd.automount,user=me,_netdev,comment=a", ""),
            ("ro,noexec,noatime", "ro,noexec,noatime"),
            ("ro,rw", ""),
            ("noatime,strictatime", "strictatime"),
            ("noatime,relatime", ""),
            ("sync,dirsync,lazytime,nodiratime,defaults", "dirsync,nodiratime,lazytime"),
        ] {
            let options = MountOptions::parse(list).unwrap();
            assert_eq!(options.to_string(), means, "{list}");
            assert_eq!(MountOptions::parse(&options.to_string()).unwrap(), options);
        }
    }

    #[test]
    fn what_is_none_is_named() {
        for bad in ["ro,colour", "ro=1", "remount", "rw,remount,ro"] {
            let error = MountOptions::parse(bad).unwrap_err();
            assert!(bad.split(',').any(|word| error.message.contains(word)), "{error}");
        }
    }
}
