//! Values of sysfs: one file, one value. What isn't there is `None`; what is there and makes no sense is `None` too, and noted.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Longest file that is read. Those of sysfs are a page, but for lists.
const TEXT_MAX: u64 = 64 << 10;

/// Numbers beyond this are no CPU's and no node's.
const LIST_MAX: u32 = 1 << 16;

/// A value that made no sense, and was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Garbled {
    /// The file.
    pub path: PathBuf,
    /// What it says, or why it can't be read.
    pub says: String,
}

/// Reads files below a root.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    root: &'a Path,
    garbled: RefCell<Vec<Garbled>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(root: &'a Path) -> Self {
        Self { root, garbled: RefCell::default() }
    }

    /// What made no sense so far.
    pub(super) fn into_garbled(self) -> Vec<Garbled> {
        self.garbled.into_inner()
    }

    fn note(&self, path: &str, says: &str) {
        // A file may be asked for twice, and a stranger's tree may hold anything of any length.
        let garbled = Garbled { path: self.root.join(path), says: says.chars().take(80).collect() };
        let mut all = self.garbled.borrow_mut();
        if !all.contains(&garbled) {
            all.push(garbled);
        }
    }

    /// A file's text, without white space at its ends.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let read =
            File::open(self.root.join(path)).and_then(|file| file.take(TEXT_MAX).read_to_end(&mut bytes));
        match read {
            Ok(_) => Some(String::from_utf8_lossy(&bytes).trim().to_owned()),
            Err(error) if is_absent(&error) => None,
            Err(error) => {
                self.note(path, &error.to_string());
                None
            }
        }
    }

    /// A file's value, as `parse` understands it.
    fn value<T>(&self, path: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.text(path)?;
        let value = parse(&text);
        if value.is_none() {
            self.note(path, &text);
        }
        value
    }

    /// A number, decimal or with `0x`.
    pub(super) fn number<T: TryFrom<u64>>(&self, path: &str) -> Option<T> {
        self.value(path, |text| number(text)?.try_into().ok())
    }

    /// A number that is hexadecimal without saying so.
    pub(super) fn hexadecimal(&self, path: &str) -> Option<u64> {
        self.value(path, |text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok())
    }

    /// The number of a node; `None` also for -1, by which the kernel says that there is none.
    pub(super) fn node(&self, path: &str) -> Option<u32> {
        self.value(path, |text| match text {
            "-1" => Some(None),
            _ => u32::from_str(text).ok().map(Some),
        })
        .flatten()
    }

    /// A size with `K`, `M` or `G`, in bytes.
    pub(super) fn size(&self, path: &str) -> Option<u64> {
        self.value(path, |text| {
            let (digits, shift) = match text.as_bytes().last()? {
                b'K' => (&text[..text.len() - 1], 10),
                b'M' => (&text[..text.len() - 1], 20),
                b'G' => (&text[..text.len() - 1], 30),
                _ => (text, 0),
            };
            u64::from_str(digits).ok()?.checked_mul(1 << shift)
        })
    }

    /// A list of CPUs or nodes, as `0-3,8`.
    pub(super) fn list(&self, path: &str) -> Option<Vec<u32>> {
        self.value(path, list)
    }

    /// Ranges in bytes, of a list of bad blocks; none where there is no list.
    pub(super) fn blocks(&self, path: &str) -> Option<Vec<(u64, u64)>> {
        let Some(text) = self.text(path) else { return Some(Vec::new()) };
        let found = super::badblocks::parse(&text);
        if found.is_none() {
            self.note(path, &text);
        }
        found
    }

    /// Numbers between white space.
    pub(super) fn numbers(&self, path: &str) -> Option<Vec<u32>> {
        self.value(path, |text| text.split_whitespace().map(|word| word.parse().ok()).collect())
    }

    /// A line of a node's `meminfo` (`Node 0 MemTotal: 5 kB`), in bytes.
    pub(super) fn meminfo(&self, path: &str, key: &str) -> Option<u64> {
        let text = self.text(path)?;
        let line = text.lines().find(|line| line.split_whitespace().nth(2) == Some(key))?;
        let kib = line.split_whitespace().nth(3).and_then(|number| u64::from_str(number).ok());
        let bytes = kib.and_then(|kib| kib.checked_mul(1024));
        if bytes.is_none() {
            self.note(path, line);
        }
        bytes
    }

    /// Names in a directory that are `prefix` and what `rest` understands, in its order.
    pub(super) fn entries<T: Ord>(
        &self,
        dir: &str,
        prefix: &str,
        rest: impl Fn(&str) -> Option<T>,
    ) -> Vec<(T, String)> {
        let read = match std::fs::read_dir(self.root.join(dir)) {
            Ok(read) => read,
            Err(error) => {
                if !is_absent(&error) {
                    self.note(dir, &error.to_string());
                }
                return Vec::new();
            }
        };
        let named = |name: &str| Some((rest(name.strip_prefix(prefix)?)?, format!("{dir}/{name}")));
        let mut found: Vec<_> =
            read.flatten().filter_map(|entry| named(entry.file_name().to_str()?)).collect();
        found.sort_unstable();
        found
    }

    /// As [`Self::entries`], for names that end with a number.
    pub(super) fn numbered(&self, dir: &str, prefix: &str) -> Vec<(u32, String)> {
        self.entries(dir, prefix, |rest| plain_number(rest)?.try_into().ok())
    }

    /// The last name in what a symbolic link leads to.
    pub(super) fn link(&self, path: &str) -> Option<String> {
        let target = std::fs::read_link(self.root.join(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// Where something really is: sysfs lists each device where it hangs, and links to it from elsewhere.
    pub(super) fn real(&self, path: &str) -> Option<PathBuf> {
        std::fs::canonicalize(self.root.join(path)).ok()
    }
}

/// Whether it just isn't there. A driver may also refuse a value that its device doesn't have.
fn is_absent(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    ) || [Errno::NXIO, Errno::NODEV, Errno::OPNOTSUPP]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// A number in digits alone, without `+`.
pub(super) fn plain_number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A number, decimal or with `0x`.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => plain_number(text),
    }
}

/// `0-3,8` in full; empty text is an empty list.
pub(super) fn list(text: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= LIST_MAX {
            return None;
        }
        all.extend(first..=last);
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_others_are_not() {
        assert_eq!(list(""), Some(vec![]));
        assert_eq!(list("0"), Some(vec![0]));
        assert_eq!(list("0-2,8,1"), Some(vec![0, 1, 2, 8]));
        for bad in ["a", "1-", "-1", "3-1", "0-4294967295", "1,,2", "0 1"] {
            assert_eq!(list(bad), None, "{bad}");
        }
    }

    #[test]
    fn numbers_are_digits() {
        assert_eq!((number("12"), number("0x1f")), (Some(12), Some(31)));
        for bad in ["", "+1", "-1", "0x", "1 2", "18446744073709551616", "ten"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }
}
