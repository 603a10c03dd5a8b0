//! Entries as bytes. All numbers are little-endian; every entry begins at a multiple of 8 and ends at one.
//!
//! ```text
//! entry    0..4    length in bytes, with this header and the zeros at its end
//!          4..6    kind: 1 put, 2 drop, 3 link, 4 unlink
//!          6..8    0
//! drop     8..16   id
//! link     8..16   directory's id
//! unlink  16..24   child's id; 0 in unlink
//!         24..26   length of the name in bytes
//!         26..32   0
//!         32..     name, then zeros
//! put      8..16   id
//!         16..24   version
//!         24..32   length of the file in bytes
//!         32..40   last access                      times in nanoseconds since 1970, signed
//!         40..48   last change of contents
//!         48..56   last change of the inode
//!         56..60   owner
//!         60..64   group
//!         64..68   names that lead to it
//!         68..72   device of a device's node
//!         72..74   permission bits
//!         74..75   what it is: 1 file, 2 directory, 3 symbolic link, 4 named pipe, 5 socket, 6 character device, 7 block device
//!         75..76   placement: 0 none, 1 on, 2 on and nowhere else even in a drain, 3 prefer, 4 interleave
//!         76..80   number of extents
//!         80..82   number of pools in the placement
//!         82..84   number of extended attributes
//!         84..88   length of a symbolic link's target in bytes
//!         88..     extents, 40 bytes each; then each pool's name as length (2 bytes) and bytes; then the target; then each attribute
//!                  as length of the name (2 bytes), length of the value (4 bytes), name, value, in the order of names; then zeros
//! extent   0..8    first page in the file
//!          8..16   number of pages, and of frames
//!         16..24   first frame
//!         24..40   id of the pool
//! ```

use super::entry::{Entry, Node, NodeExtent};
use super::half::Record;
use crate::fields::{bytes_at, fields, i64_at, is_zero, put, u16_at, u32_at, u64_at};
use codax_core::PoolUuid;
use codax_core::name::NAME_MAX;
use codax_core::namespace::{Extra, Kind};
use codax_core::request::PlacementSpec;
use codax_core::{Error, FileId, Frame, PageCount, PageNo, Result};

fields! {
    /// Bytes of an entry's header.
    const ENTRY_HEADER = 8 {
        AT_LEN 0..4,
        AT_KIND 4..6,
        AT_ZERO 6..8,
    }
}

fields! {
    /// Bytes of a drop.
    const DROP_BYTES = 16 {
        DROP_ENTRY 0..8,
        DROP_ID 8..16,
    }
}

fields! {
    /// Bytes of a link or unlink before its name.
    const LINK_HEADER = 32 {
        LINK_ENTRY 0..8,
        LINK_DIR 8..16,
        LINK_CHILD 16..24,
        LINK_NAME_LEN 24..26,
        LINK_ZERO 26..32,
    }
}

fields! {
    /// Bytes of a put before its extents.
    const NODE_HEADER = 88 {
        NODE_ENTRY 0..8,
        NODE_ID 8..16,
        NODE_VERSION 16..24,
        NODE_LEN 24..32,
        NODE_ATIME 32..40,
        NODE_MTIME 40..48,
        NODE_CTIME 48..56,
        NODE_UID 56..60,
        NODE_GID 60..64,
        NODE_NLINK 64..68,
        NODE_RDEV 68..72,
        NODE_MODE 72..74,
        NODE_KIND 74..75,
        NODE_PLACEMENT 75..76,
        NODE_EXTENTS 76..80,
        NODE_POOLS 80..82,
        NODE_XATTRS 82..84,
        NODE_TARGET 84..88,
    }
}

fields! {
    /// Bytes of an extent.
    const EXTENT_BYTES = 40 {
        EXTENT_PAGE 0..8,
        EXTENT_COUNT 8..16,
        EXTENT_FRAME 16..24,
        EXTENT_POOL 24..40,
    }
}

const _: () = {
    assert!(
        DROP_ENTRY.end == ENTRY_HEADER && LINK_ENTRY.end == ENTRY_HEADER && NODE_ENTRY.end == ENTRY_HEADER
    );
    assert!(DROP_BYTES.is_multiple_of(8) && LINK_HEADER.is_multiple_of(8) && NODE_HEADER.is_multiple_of(8));
    assert!(EXTENT_BYTES.is_multiple_of(8) && EXTENT_POOL.end - EXTENT_POOL.start == size_of::<PoolUuid>());
};

const PUT: u16 = 1;
const DROP: u16 = 2;
const LINK: u16 = 3;
const UNLINK: u16 = 4;

const MODE_MAX: u16 = 0o7777;

/// Bytes before a pool's name: its length.
const POOL_HEADER: usize = 2;
/// Bytes before an attribute's name: the lengths of name and value.
const XATTR_HEADER: usize = 6;

/// Bytes of the entry that puts a node.
pub(super) fn node_bytes(node: &Node) -> u64 {
    let pools: usize = pools_of(node).iter().map(|name| POOL_HEADER + name.len()).sum();
    let xattrs: usize = node.extra.xattrs.iter().map(|(n, v)| XATTR_HEADER + n.len() + v.len()).sum();
    let all = NODE_HEADER + node.extents.len() * EXTENT_BYTES + pools + node.extra.target.len() + xattrs;
    all.next_multiple_of(8) as u64
}

/// Bytes of the entry that links or unlinks a name.
pub(super) fn link_bytes(name: &[u8]) -> u64 {
    (LINK_HEADER + name.len()).next_multiple_of(8) as u64
}

/// Adds an entry's bytes to `out`. `Invalid` for what has no place in it; `out` is of no use then.
pub(super) fn encode(entry: &Entry, out: &mut Vec<u8>) -> Result<()> {
    match entry {
        Entry::Put(node) => encode_node(node, out),
        Entry::Drop(id) => {
            let at = begin(out, DROP, DROP_BYTES);
            put(&mut out[at..], DROP_ID, &id.0.to_le_bytes());
            end(out, at)
        }
        Entry::Link { dir, name, child } => encode_name(LINK, *dir, name, *child, out),
        Entry::Unlink { dir, name } => encode_name(UNLINK, *dir, name, FileId(0), out),
    }
}

/// [`encode`] of an [`Entry::Link`].
pub(super) fn encode_link(dir: FileId, name: &[u8], child: FileId, out: &mut Vec<u8>) -> Result<()> {
    encode_name(LINK, dir, name, child, out)
}

fn encode_name(kind: u16, dir: FileId, name: &[u8], child: FileId, out: &mut Vec<u8>) -> Result<()> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(Error::invalid(format!("a name of {} bytes: 1 to {NAME_MAX} have a place", name.len())));
    }
    let at = begin(out, kind, LINK_HEADER);
    let len = fitting::<u16>(name.len(), "a name")?;
    put(&mut out[at..], LINK_DIR, &dir.0.to_le_bytes());
    put(&mut out[at..], LINK_CHILD, &child.0.to_le_bytes());
    put(&mut out[at..], LINK_NAME_LEN, &len.to_le_bytes());
    out.extend_from_slice(name);
    end(out, at)
}

/// [`encode`] of an [`Entry::Put`].
pub(super) fn encode_node(node: &Node, out: &mut Vec<u8>) -> Result<()> {
    if node.mode > MODE_MAX {
        return Err(Error::invalid(format!("file {}: the mode {:o} has too many bits", node.id, node.mode)));
    }
    let pools = pools_of(node);
    let at = begin(out, PUT, NODE_HEADER);
    let head = &mut out[at..];
    put(head, NODE_ID, &node.id.0.to_le_bytes());
    put(head, NODE_VERSION, &node.version.to_le_bytes());
    put(head, NODE_LEN, &node.len.to_le_bytes());
    put(head, NODE_ATIME, &node.atime_ns.to_le_bytes());
    put(head, NODE_MTIME, &node.mtime_ns.to_le_bytes());
    put(head, NODE_CTIME, &node.ctime_ns.to_le_bytes());
    put(head, NODE_UID, &node.uid.to_le_bytes());
    put(head, NODE_GID, &node.gid.to_le_bytes());
    put(head, NODE_NLINK, &node.nlink.to_le_bytes());
    put(head, NODE_RDEV, &node.rdev.to_le_bytes());
    put(head, NODE_MODE, &node.mode.to_le_bytes());
    put(head, NODE_KIND, &[kind_code(node.kind)]);
    put(head, NODE_PLACEMENT, &[placement_code(node.placement.as_ref())]);
    put(head, NODE_EXTENTS, &fitting::<u32>(node.extents.len(), "a list of extents")?.to_le_bytes());
    put(head, NODE_POOLS, &fitting::<u16>(pools.len(), "a placement's list of pools")?.to_le_bytes());
    put(head, NODE_XATTRS, &fitting::<u16>(node.extra.xattrs.len(), "a list of attributes")?.to_le_bytes());
    put(head, NODE_TARGET, &fitting::<u32>(node.extra.target.len(), "a link's target")?.to_le_bytes());
    for extent in &node.extents {
        let mut bytes = [0; EXTENT_BYTES];
        put(&mut bytes, EXTENT_PAGE, &extent.page.0.to_le_bytes());
        put(&mut bytes, EXTENT_COUNT, &extent.count.0.to_le_bytes());
        put(&mut bytes, EXTENT_FRAME, &extent.frame.0.to_le_bytes());
        put(&mut bytes, EXTENT_POOL, &extent.pool.0);
        out.extend_from_slice(&bytes);
    }
    for pool in pools {
        out.extend(fitting::<u16>(pool.len(), "a pool's name")?.to_le_bytes());
        out.extend_from_slice(pool.as_bytes());
    }
    out.extend_from_slice(&node.extra.target);
    for (name, value) in &node.extra.xattrs {
        out.extend(fitting::<u16>(name.len(), "an attribute's name")?.to_le_bytes());
        out.extend(fitting::<u32>(value.len(), "an attribute's value")?.to_le_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(value);
    }
    end(out, at)
}

/// Begins an entry with a header of `header` bytes, and returns where.
fn begin(out: &mut Vec<u8>, kind: u16, header: usize) -> usize {
    let at = out.len();
    out.resize(at + header, 0);
    put(&mut out[at..], AT_KIND, &kind.to_le_bytes());
    at
}

/// Ends the entry that begins at `at`.
fn end(out: &mut Vec<u8>, at: usize) -> Result<()> {
    out.resize(at + (out.len() - at).next_multiple_of(8), 0);
    let len = fitting::<u32>(out.len() - at, "an entry")?;
    put(&mut out[at..], AT_LEN, &len.to_le_bytes());
    Ok(())
}

/// `count` as it is on the medium.
fn fitting<T: TryFrom<usize>>(count: usize, what: &str) -> Result<T> {
    T::try_from(count).map_err(|_| Error::invalid(format!("{what} of {count} is too long for the catalog")))
}

/// The entries of a record; `None` if one of them makes no sense.
pub(super) fn decode_all(record: &Record<'_>) -> Option<Vec<Entry>> {
    let mut rest = record.body();
    let mut entries = Vec::new();
    for _ in 0..record.entries {
        let len = u32_at(rest.get(..ENTRY_HEADER)?, AT_LEN) as usize;
        let (entry, behind) = rest.split_at_checked(len).filter(|_| len.is_multiple_of(8))?;
        entries.push(decode(entry)?);
        rest = behind;
    }
    rest.is_empty().then_some(entries)
}

/// The entry that is exactly `bytes`; `None` if it makes no sense.
pub(super) fn decode(bytes: &[u8]) -> Option<Entry> {
    let header = bytes.get(..ENTRY_HEADER)?;
    if !is_zero(&header[AT_ZERO]) {
        return None;
    }
    match u16_at(header, AT_KIND) {
        PUT => decode_node(bytes).map(|node| Entry::Put(Box::new(node))),
        DROP if bytes.len() == DROP_BYTES => Some(Entry::Drop(FileId(u64_at(bytes, DROP_ID)))),
        kind @ (LINK | UNLINK) => decode_name(bytes, kind),
        _ => None,
    }
}

fn decode_name(bytes: &[u8], kind: u16) -> Option<Entry> {
    let (header, mut rest) = bytes.split_at_checked(LINK_HEADER)?;
    let name = take(&mut rest, u16_at(header, LINK_NAME_LEN).into())?.to_vec();
    if name.is_empty() || name.len() > NAME_MAX || !is_zero(&header[LINK_ZERO]) || !is_padding(rest) {
        return None;
    }
    let dir = FileId(u64_at(header, LINK_DIR));
    match (kind, FileId(u64_at(header, LINK_CHILD))) {
        (LINK, child) => Some(Entry::Link { dir, name, child }),
        (_, FileId(0)) => Some(Entry::Unlink { dir, name }),
        _ => None,
    }
}

fn decode_node(bytes: &[u8]) -> Option<Node> {
    let (head, mut rest) = bytes.split_at_checked(NODE_HEADER)?;
    let count = u32_at(head, NODE_EXTENTS) as usize;
    let extents = take(&mut rest, count.checked_mul(EXTENT_BYTES)?)?.chunks_exact(EXTENT_BYTES);
    let extents = extents.map(decode_extent).collect();
    let mut pools = Vec::new();
    for _ in 0..u16_at(head, NODE_POOLS) {
        let len = u16_at(take(&mut rest, POOL_HEADER)?, 0..2);
        pools.push(str::from_utf8(take(&mut rest, len.into())?).ok()?.to_owned());
    }
    let target = take(&mut rest, u32_at(head, NODE_TARGET) as usize)?.to_vec();
    let mut extra = Extra { target, ..Extra::default() };
    for _ in 0..u16_at(head, NODE_XATTRS) {
        let lengths = take(&mut rest, XATTR_HEADER)?;
        let name = take(&mut rest, u16_at(lengths, 0..2).into())?.to_vec();
        let value = take(&mut rest, u32_at(lengths, 2..6) as usize)?.to_vec();
        if extra.xattrs.last_key_value().is_some_and(|(last, _)| *last >= name) {
            return None;
        }
        extra.xattrs.insert(name, value);
    }
    let mode = u16_at(head, NODE_MODE);
    if !is_padding(rest) || mode > MODE_MAX {
        return None;
    }
    Some(Node {
        id: FileId(u64_at(head, NODE_ID)),
        version: u64_at(head, NODE_VERSION),
        kind: kind_of(head[NODE_KIND.start])?,
        mode,
        uid: u32_at(head, NODE_UID),
        gid: u32_at(head, NODE_GID),
        nlink: u32_at(head, NODE_NLINK),
        rdev: u32_at(head, NODE_RDEV),
        len: u64_at(head, NODE_LEN),
        atime_ns: i64_at(head, NODE_ATIME),
        mtime_ns: i64_at(head, NODE_MTIME),
        ctime_ns: i64_at(head, NODE_CTIME),
        placement: placement_of(head[NODE_PLACEMENT.start], pools)?,
        extents,
        extra,
    })
}

fn decode_extent(bytes: &[u8]) -> NodeExtent {
    NodeExtent {
        page: PageNo(u64_at(bytes, EXTENT_PAGE)),
        count: PageCount(u64_at(bytes, EXTENT_COUNT)),
        pool: PoolUuid(bytes_at(bytes, EXTENT_POOL)),
        frame: Frame(u64_at(bytes, EXTENT_FRAME)),
    }
}

/// Takes `len` bytes off the front of `rest`.
fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    Some(taken)
}

/// Whether an entry may end with these bytes.
fn is_padding(rest: &[u8]) -> bool {
    rest.len() < 8 && is_zero(rest)
}

fn kind_code(kind: Kind) -> u8 {
    match kind {
        Kind::File => 1,
        Kind::Dir => 2,
        Kind::Symlink => 3,
        Kind::Fifo => 4,
        Kind::Socket => 5,
        Kind::CharDevice => 6,
        Kind::BlockDevice => 7,
    }
}

fn kind_of(code: u8) -> Option<Kind> {
    Some(match code {
        1 => Kind::File,
        2 => Kind::Dir,
        3 => Kind::Symlink,
        4 => Kind::Fifo,
        5 => Kind::Socket,
        6 => Kind::CharDevice,
        7 => Kind::BlockDevice,
        _ => return None,
    })
}

fn placement_code(placement: Option<&PlacementSpec>) -> u8 {
    match placement {
        None => 0,
        Some(PlacementSpec::On { strict: false, .. }) => 1,
        Some(PlacementSpec::On { strict: true, .. }) => 2,
        Some(PlacementSpec::Prefer { .. }) => 3,
        Some(PlacementSpec::Interleave { .. }) => 4,
    }
}

fn placement_of(code: u8, mut pools: Vec<String>) -> Option<Option<PlacementSpec>> {
    if code == 4 {
        return Some(Some(PlacementSpec::Interleave { pools }));
    }
    let pool = pools.pop();
    let placement = match (code, pool) {
        (0, None) => None,
        (1 | 2, Some(pool)) => Some(PlacementSpec::On { pool, strict: code == 2 }),
        (3, Some(pool)) => Some(PlacementSpec::Prefer { pool }),
        _ => return None,
    };
    pools.is_empty().then_some(placement)
}

/// The names of the pools in a node's placement.
fn pools_of(node: &Node) -> &[String] {
    match &node.placement {
        None => &[],
        Some(PlacementSpec::On { pool, .. } | PlacementSpec::Prefer { pool }) => std::slice::from_ref(pool),
        Some(PlacementSpec::Interleave { pools }) => pools,
    }
}
