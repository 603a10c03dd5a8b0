//! Names of users and groups, from the machine's own files.

use codax_core::{Error, Result};
use std::collections::HashMap;

/// Numbers and names of one of the files `/etc/passwd` and `/etc/group`.
#[derive(Debug, Default)]
pub struct Names {
    what: &'static str,
    by_id: HashMap<u32, String>,
}

impl Names {
    /// The users.
    pub fn users() -> Self {
        Self::parse("user", &std::fs::read("/etc/passwd").unwrap_or_default())
    }

    /// The groups.
    pub fn groups() -> Self {
        Self::parse("group", &std::fs::read("/etc/group").unwrap_or_default())
    }

    /// Both files have `name:password:number:` first; what looks otherwise is passed over.
    fn parse(what: &'static str, bytes: &[u8]) -> Self {
        let mut by_id = HashMap::new();
        for line in String::from_utf8_lossy(bytes).lines() {
            let mut fields = line.split(':');
            if let (Some(name), Some(id)) = (fields.next(), fields.nth(1).and_then(|id| id.parse().ok())) {
                by_id.entry(id).or_insert_with(|| name.to_owned());
            }
        }
        Self { what, by_id }
    }

    /// The name of `id`, or its number.
    pub fn name(&self, id: u32) -> String {
        self.by_id.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }

    /// The name of `id` with its number, by which messages of the daemon call it: names are each machine's own.
    pub fn name_and_number(&self, id: u32) -> String {
        self.by_id.get(&id).map_or_else(|| id.to_string(), |name| format!("{name} ({id})"))
    }

    /// The number of `name`, which may be a number already.
    pub fn id(&self, name: &str) -> Result<u32> {
        let known = self.by_id.iter().find(|(_, known)| *known == name).map(|(id, _)| *id);
        // The highest number means "leave as it is" to the kernel.
        known.or_else(|| name.parse().ok().filter(|id| *id != u32::MAX)).ok_or_else(|| {
            Error::invalid(format!("{name}: no such {} on this machine; give a name or a number", self.what))
        })
    }
}

/// `USER`, `USER:GROUP` or `:GROUP`, as numbers.
pub fn parse_owner(typed: &str, users: &Names, groups: &Names) -> Result<(Option<u32>, Option<u32>)> {
    let (user, group) = typed.split_once(':').unwrap_or((typed, ""));
    if user.is_empty() && group.is_empty() {
        return Err(Error::invalid(format!("owner {typed:?}: wants USER, USER:GROUP or :GROUP")));
    }
    let id = |names: &Names, name: &str| if name.is_empty() { Ok(None) } else { names.id(name).map(Some) };
    Ok((id(users, user)?, id(groups, group)?))
}

/// The permission bits that new files don't get.
pub fn umask() -> u16 {
    // It can only be read by setting it; nothing is made meanwhile.
    let mask = codax_os::process::umask(0o077);
    codax_os::process::umask(mask);
    u16::try_from(mask & 0o777).unwrap_or(0o077)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_names_or_numbers() {
        let users = Names::parse("user", b"root:x:0:0::/root:/bin/sh\nbroken\nann:x:1000:1000:::\n");
        let groups = Names::parse("group", b"root:x:0:\nstaff:x:50:ann\n");
        let owner = |typed| parse_owner(typed, &users, &groups);
        assert_eq!(owner("ann").unwrap(), (Some(1000), None));
        assert_eq!(owner("ann:staff").unwrap(), (Some(1000), Some(50)));
        assert_eq!(owner("ann:").unwrap(), (Some(1000), None));
        assert_eq!(owner(":7").unwrap(), (None, Some(7)));
        assert_eq!(owner("12:staff").unwrap(), (Some(12), Some(50)));
        for bad in ["", ":", "bob", "4294967295", "-1", "ann:bob", "a:b:c"] {
            assert!(owner(bad).is_err(), "{bad}");
        }
        assert_eq!((users.name(1000), users.name(7)), ("ann".to_owned(), "7".to_owned()));
    }
}
