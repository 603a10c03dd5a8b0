//! Names and paths of the store, checked once, where they come in.

use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt::{self, Write as _};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Longest name in bytes, as on Linux.
pub const NAME_MAX: usize = 255;

/// Longest path in bytes, its leading `/` included.
pub const PATH_MAX: usize = 4096;

/// A path component: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`. Any other bytes, UTF-8 or not.
#[derive(Clone)]
pub struct Name(Bytes);

/// A store holds each file's name twice (in the directory and in the link to it), and most are short: these take no allocation of their
/// own, the others share one. As many bytes are short as fit beside the tag without making this larger than a long name needs.
#[derive(Clone)]
enum Bytes {
    Short { len: u8, bytes: [u8; SHORT_MAX] },
    Long(Arc<[u8]>),
}

const SHORT_MAX: usize = 22;
const _: () = assert!(size_of::<Option<Name>>() == 24);

/// An absolute path within the store, as components; the root has none. A leading `/` may be left out when it is parsed; empty
/// components, `.` and `..` are errors, and so are paths of more than 4096 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct StorePath(Vec<Name>);

impl Name {
    /// Checks a component.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        let invalid = |why: &str| Err(Error::invalid(format!("`{}` is not a name: {why}", Escaped(bytes))));
        if bytes.len() > NAME_MAX {
            let shown = Escaped(&bytes[..32]);
            let why =
                format!("the name `{shown}...` has {} bytes: at most {NAME_MAX} are allowed", bytes.len());
            return Err(Error::new(ErrorKind::NameTooLong, why));
        }
        match bytes {
            b"" => invalid("it is empty"),
            b"." | b".." => invalid("`.` and `..` do not exist in a store"),
            _ if bytes.contains(&b'/') => invalid("a name has no `/`"),
            _ if bytes.contains(&0) => invalid("a name has no NUL byte"),
            _ => Ok(Self(Bytes::new(bytes))),
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Short { len, bytes } => &bytes[..usize::from(*len)],
            Bytes::Long(bytes) => bytes,
        }
    }
}

impl Bytes {
    fn new(name: &[u8]) -> Self {
        let mut bytes = [0; SHORT_MAX];
        match (bytes.get_mut(..name.len()), u8::try_from(name.len())) {
            (Some(short), Ok(len)) => {
                short.copy_from_slice(name);
                Self::Short { len, bytes }
            }
            _ => Self::Long(name.into()),
        }
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Name {}

/// By bytes.
impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Escaped as in a [`StorePath`].
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(self.as_bytes()).fmt(f)
    }
}

impl StorePath {
    /// Checks a path. One trailing `/` is allowed.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.is_empty() {
            return Err(Error::invalid("the path is empty: the root is `/`"));
        }
        let inner = bytes.strip_prefix(b"/").unwrap_or(bytes);
        let inner = inner.strip_suffix(b"/").unwrap_or(inner);
        if inner.len() >= PATH_MAX {
            let shown = Escaped(&bytes[..32]);
            let why =
                format!("the path `{shown}...` has {} bytes: at most {PATH_MAX} are allowed", bytes.len());
            return Err(Error::new(ErrorKind::NameTooLong, why));
        }
        if inner.is_empty() {
            // `/` is the root, `//` has an empty component.
            return match bytes {
                b"/" => Ok(Self::root()),
                _ => Err(Error::invalid(format!("`{}` has an empty component", Escaped(bytes)))),
            };
        }
        let name = |part: &[u8]| {
            Name::new(part).map_err(|error| match error.kind {
                ErrorKind::Invalid => Error::invalid(format!("path `{}`: {error}", Escaped(bytes))),
                _ => error,
            })
        };
        inner.split(|&byte| byte == b'/').map(name).collect::<Result<_>>().map(Self)
    }

    /// The root.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Its components.
    #[must_use]
    pub fn components(&self) -> &[Name] {
        &self.0
    }

    /// The path before the last component, and that; `None` for the root.
    #[must_use]
    pub fn split_last(&self) -> Option<(Self, &Name)> {
        let (last, before) = self.0.split_last()?;
        Some((Self(before.to_vec()), last))
    }

    /// The path with one more component.
    #[must_use]
    pub fn join(&self, name: &Name) -> Self {
        let mut components = Vec::with_capacity(self.0.len() + 1);
        components.extend_from_slice(&self.0);
        components.push(name.clone());
        Self(components)
    }

    /// The path as bytes, with a leading `/`.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        if self.0.is_empty() {
            return b"/".to_vec();
        }
        let mut bytes = Vec::with_capacity(self.0.iter().map(|name| name.as_bytes().len() + 1).sum());
        for name in &self.0 {
            bytes.push(b'/');
            bytes.extend_from_slice(name.as_bytes());
        }
        bytes
    }
}

impl From<Vec<Name>> for StorePath {
    /// The path of these components, from the root on.
    fn from(components: Vec<Name>) -> Self {
        Self(components)
    }
}

impl TryFrom<Vec<u8>> for StorePath {
    type Error = Error;
    fn try_from(bytes: Vec<u8>) -> Result<Self> {
        Self::parse(&bytes)
    }
}

impl From<StorePath> for Vec<u8> {
    fn from(path: StorePath) -> Self {
        path.to_bytes()
    }
}

/// For people: control characters, backslashes and bytes that are not UTF-8 are escaped (`\n`, `\x9f`, `\\`), so that a name can't
/// take over a terminal.
impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            f.write_char('/')?;
        }
        self.0.iter().try_for_each(|name| write!(f, "/{name}"))
    }
}

/// Bytes for people. Undone by reading the escapes as in a Rust byte string (`\u{..}` as in a string).
struct Escaped<'a>(&'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As nearly all names are.
        let plain = |b: &u8| matches!(b, b' '..=b'~') && *b != b'\\';
        if let Some(text) = str::from_utf8(self.0).ok().filter(|_| self.0.iter().all(plain)) {
            return f.write_str(text);
        }
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    '\n' => f.write_str("\\n")?,
                    '\r' => f.write_str("\\r")?,
                    '\t' => f.write_str("\\t")?,
                    _ if c.is_ascii_control() => write!(f, "\\x{:02x}", u32::from(c))?,
                    _ if c.is_control() || reorders(c) => write!(f, "{}", c.escape_unicode())?,
                    _ => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Whether `c` breaks the line, or makes a terminal show what follows in another order: a name could look like another one.
fn reorders(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(bytes: &[u8]) -> ErrorKind {
        StorePath::parse(bytes).unwrap_err().kind
    }

    #[test]
    fn paths() {
        for (text, canonical) in
            [("/", "/"), ("a", "/a"), ("/a", "/a"), ("/a/", "/a"), ("a/b c/...", "/a/b c/...")]
        {
            assert_eq!(StorePath::parse(text.as_bytes()).unwrap().to_bytes(), canonical.as_bytes());
        }
        for bad in ["", "//", "///", "//a", "/a//", "a//b", ".", "..", "/a/../b", "/a/.", "a\0b"] {
            assert_eq!(kind(bad.as_bytes()), ErrorKind::Invalid, "{bad:?}");
        }
    }

    #[test]
    fn lengths() {
        assert!(StorePath::parse(&[b'x'; 255]).is_ok());
        assert_eq!(kind(&[b'x'; 256]), ErrorKind::NameTooLong);
        let long = b"/x".repeat(2048);
        assert_eq!(StorePath::parse(&long).unwrap().to_bytes(), long);
        // Without its `/` it is one byte shorter, but the path isn't.
        assert_eq!(kind(&[&long[1..], b"x"].concat()), ErrorKind::NameTooLong);
    }

    #[test]
    fn errors_name_the_path() {
        let error = StorePath::parse(b"/data/../etc\x1b").unwrap_err();
        assert!(error.message.contains(r"`/data/../etc\x1b`"), "{error}");
    }

    #[test]
    fn display_takes_over_no_terminal() {
        let path = StorePath::parse(b"/a\n\x1b[31m/\\\xff\xc3\xa9/\xe2\x80\xae").unwrap();
        assert_eq!(path.to_string(), r"/a\n\x1b[31m/\\\xffé/\u{202e}");
        assert_eq!(StorePath::root().to_string(), "/");
    }

    #[test]
    fn short_and_long_names_are_in_byte_order() {
        let name = |bytes: &[u8]| Name::new(bytes).unwrap();
        assert!(name(&[b'a'; 40]) < name(b"b"));
        assert!(name(&[b'a'; 22]) < name(&[b'a'; 23]));
        assert_eq!(name(&[b'a'; 23]).as_bytes(), [b'a'; 23]);
        assert_eq!(name(&[b'a'; 22]).as_bytes(), [b'a'; 22]);
    }

    #[test]
    fn split_and_join() {
        let path = StorePath::parse(b"/a/b").unwrap();
        let (parent, name) = path.split_last().unwrap();
        assert_eq!(parent.to_string(), "/a");
        assert_eq!(parent.join(name), path);
        assert!(StorePath::root().split_last().is_none());
    }
}
