//! Small conversions that several modules need.

use std::io;
use std::str::FromStr;

/// The page of every supported machine's small mappings, in bytes.
pub(crate) const PAGE: usize = 4096;

/// An `InvalidInput` error with a line for people.
pub(crate) fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message.into())
}

/// Bytes of memory as a file's count of bytes. Lossless: the crate compiles for 64-bit machines only.
pub(crate) const fn to_u64(value: usize) -> u64 {
    value as u64
}

/// A file's count of bytes as bytes of memory. Lossless: the crate compiles for 64-bit machines only.
#[allow(clippy::cast_possible_truncation)] // usize has 64 bits, see lib.rs
pub(crate) const fn to_usize(value: u64) -> usize {
    value as usize
}

/// The value of a line `KEY: VALUE [unit]` in a file like `/proc/self/status`.
pub(crate) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
}

/// A line in kB of a file like `/proc/meminfo`, in bytes.
pub(crate) fn field_kib(text: &str, key: &str) -> Option<u64> {
    let number = field(text, key)?.split_whitespace().next()?;
    u64::from_str(number).ok()?.checked_mul(1024)
}

/// Repeats a call that a signal interrupted.
pub(crate) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

/// The result of a libc call that returns -1 and sets `errno`.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
