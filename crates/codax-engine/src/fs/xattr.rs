//! Extended attributes: what users set, and placement and emergencies under the names `user.codax.*`.

use super::{Fs, gone};
use crate::store::state::State;
use codax_core::emergency;
use codax_core::name::NAME_MAX;
use codax_core::namespace::{Extra, Inode, Kind};
use codax_core::placement::Placement;
use codax_core::request::PlacementSpec;
use codax_core::{Error, ErrorKind, FileId, Result};
use std::collections::BTreeMap;

/// What is codax's own.
const OWN: &[u8] = b"user.codax.";
/// The pool in which a file is, or what is made in a directory; `,strict` behind it keeps drains from taking it elsewhere.
const ON: &[u8] = b"user.codax.on";
/// The pool in which it is as long as there is room.
const PREFER: &[u8] = b"user.codax.prefer";
/// The pools over which it is spread, with commas.
const INTERLEAVE: &[u8] = b"user.codax.interleave";
/// Where a file's bytes are: a line for each extent. Read-only, and not listed, so that who copies attributes doesn't try to set it.
const EXTENTS: &[u8] = b"user.codax.extents";
/// By whom a file's bytes are served on this mount, and why. Read-only, and not listed.
const SERVED: &[u8] = b"user.codax.served";

/// Longest value, as on Linux; all values of an inode together are no longer.
const VALUE_MAX: usize = 64 << 10;

/// Longest list of names, each with the zero that ends it, as on Linux: a longer one nobody could ask for.
const NAMES_MAX: usize = 64 << 10;

impl Fs {
    /// The value of an attribute; `NoData` if there is none.
    pub fn xattr(&self, id: FileId, name: &[u8]) -> Result<Vec<u8>> {
        if name == SERVED {
            let served = self.served(id).map_err(|_| no_such(name))?;
            return Ok(format!("{}: {}", served.by.name(), served.why).into_bytes());
        }
        let mut st = self.lock();
        if name == EXTENTS {
            self.inner().refresh(&mut st, id);
        }
        let inode = st.inode(id).ok_or_else(|| gone(id))?;
        check_name(name)?;
        let value = if name == EXTENTS {
            (inode.kind == Kind::File).then(|| extents_text(&st, inode))
        } else if name.starts_with(OWN) && name != emergency::ATTRIBUTE {
            inode
                .placement
                .as_ref()
                .map(|p| placement_text(&st, p))
                .filter(|(n, _)| *n == name)
                .map(|(_, v)| v)
        } else {
            inode.extra.as_ref().and_then(|extra| extra.xattrs.get(name).cloned())
        };
        value.ok_or_else(|| no_such(name))
    }

    /// The names of its attributes.
    pub fn xattrs(&self, id: FileId) -> Result<Vec<Vec<u8>>> {
        let st = self.lock();
        let inode = st.inode(id).ok_or_else(|| gone(id))?;
        let own = inode.placement.as_ref().map(|p| placement_text(&st, p).0.to_vec());
        let users = inode.extra.iter().flat_map(|extra| extra.xattrs.keys().cloned());
        Ok(own.into_iter().chain(users).collect())
    }

    /// Sets an attribute; `create` wants it not to be there, `replace` to be there.
    pub fn set_xattr(
        &self,
        id: FileId,
        name: &[u8],
        value: &[u8],
        create: bool,
        replace: bool,
    ) -> Result<()> {
        check_name(name)?;
        if value.len() > VALUE_MAX {
            return Err(Error::new(ErrorKind::TooBig, format!("a value of {} bytes", value.len())));
        }
        let there = match self.xattr(id, name) {
            Ok(_) => true,
            Err(e) if e.kind == ErrorKind::NoData => false,
            Err(e) => return Err(e),
        };
        if there && create {
            return Err(Error::exists(format!("{}: exists already", name.escape_ascii())));
        }
        if !there && replace {
            return Err(no_such(name));
        }
        let mut st = self.lock();
        let inode = st.inode(id).ok_or_else(|| gone(id))?;
        let mut new = inode.clone();
        if name == emergency::ATTRIBUTE {
            if value != emergency::NEVER {
                return Err(Error::invalid("user.codax.emergency is `never`, or is not there"));
            }
            new.set_emergency(true);
        } else if name.starts_with(OWN) {
            let placement = placement_from(&st, name, value).inspect_err(|e| {
                tracing::warn!("{}: {} = {}: {e}", st.path(id), name.escape_ascii(), value.escape_ascii());
            })?;
            new.placement = Some(placement);
        } else {
            let extra = new.extra.get_or_insert_default();
            extra.xattrs.insert(name.to_vec(), value.to_vec());
            let values: usize = extra.xattrs.values().map(Vec::len).sum();
            let names: usize = extra.xattrs.keys().map(|name| name.len() + 1).sum();
            // The placement's is listed, too.
            if values > VALUE_MAX || names + PREFER.len().max(INTERLEAVE.len()) + 1 > NAMES_MAX {
                return Err(Error::no_space(format!(
                    "{}: its attributes are too long together",
                    st.path(id)
                )));
            }
        }
        new.ctime_ns = self.now();
        self.inner().put(&mut st, new)?;
        self.inner().keep_what_is_placed(&mut st)
    }

    /// Takes an attribute away; without its own placement a file has its directory's again.
    pub fn remove_xattr(&self, id: FileId, name: &[u8]) -> Result<()> {
        self.xattr(id, name)?;
        let mut st = self.lock();
        let mut new = st.inode(id).ok_or_else(|| gone(id))?.clone();
        if name == EXTENTS || name == SERVED {
            return Err(Error::invalid(format!("{} is read-only", name.escape_ascii())));
        } else if name.starts_with(OWN) && name != emergency::ATTRIBUTE {
            new.placement = None;
        } else if let Some(extra) = &mut new.extra {
            extra.xattrs.remove(name);
        }
        let empty = |extra: &Extra| extra.target.is_empty() && extra.xattrs.is_empty();
        new.extra = new.extra.filter(|extra| !empty(extra));
        new.ctime_ns = self.now();
        self.inner().put(&mut st, new)
    }
}

/// Only what users and administrators may set is kept: access lists and security labels would be kept, and not obeyed.
fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(Error::new(ErrorKind::NameTooLong, "the name of an attribute has at most 255 bytes"));
    }
    let kept =
        [&b"user."[..], b"trusted."].iter().any(|space| name.starts_with(space) && name.len() > space.len());
    match kept {
        true => Ok(()),
        false => Err(Error::not_supported(format!("{}: not kept by this store", name.escape_ascii()))),
    }
}

fn no_such(name: &[u8]) -> Error {
    Error::no_data(format!("{}: no such attribute", name.escape_ascii()))
}

/// A placement as attribute and value.
fn placement_text(st: &State, placement: &Placement) -> (&'static [u8], Vec<u8>) {
    match placement {
        Placement::On { pool, strict } => {
            let strict = if *strict { ",strict" } else { "" };
            (ON, format!("{}{strict}", st.pool_name(*pool)).into_bytes())
        }
        Placement::Prefer(pool) => (PREFER, st.pool_name(*pool).into_bytes()),
        Placement::Interleave(pools) => {
            let names: Vec<String> = pools.iter().map(|pool| st.pool_name(*pool)).collect();
            (INTERLEAVE, names.join(",").into_bytes())
        }
    }
}

fn placement_from(st: &State, name: &[u8], value: &[u8]) -> Result<Placement> {
    let text = std::str::from_utf8(value).map_err(|_| Error::invalid("no pool is called so"))?;
    let text = text.trim_end_matches(['\0', '\n']);
    let spec = if name == ON {
        let (pool, strict) = match text.strip_suffix(",strict") {
            Some(pool) => (pool, true),
            None => (text, false),
        };
        PlacementSpec::On { pool: pool.to_owned(), strict }
    } else if name == PREFER {
        PlacementSpec::Prefer { pool: text.to_owned() }
    } else if name == INTERLEAVE {
        PlacementSpec::Interleave { pools: text.split(',').map(str::to_owned).collect() }
    } else {
        return Err(Error::invalid(
            "not an attribute that can be set: there are on, prefer, interleave and emergency",
        ));
    };
    st.placement_of(&spec).map_err(|e| Error::invalid(e.message))
}

/// A line for each extent: offset and length in bytes, pool, first frame. Cut where a value must end.
fn extents_text(st: &State, inode: &Inode) -> Vec<u8> {
    let mut text = String::new();
    let names: BTreeMap<_, _> = inode.extents.iter().map(|e| (e.pool, st.pool_name(e.pool))).collect();
    for e in &inode.extents {
        let line = format!("{} {} {} {}\n", e.page.offset(), e.count.bytes(), names[&e.pool], e.frame);
        if text.len() + line.len() > VALUE_MAX {
            break;
        }
        text += &line;
    }
    text.into_bytes()
}
