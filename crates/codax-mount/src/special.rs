//! `.codax`: the store's state as files, read-only, made when they are opened.
//!
//! ```text
//! .codax/status                  a line for the store, and one for each pool
//! .codax/status.json             what `codax status --json` tells
//! .codax/pools/NAME/status       the pool's line
//! .codax/pools/NAME/status.json
//! .codax/pools/NAME/frames       what lies in every frame, as `codax pages` prints it
//! ```
//!
//! Inode numbers are beyond those of files.

use crate::SPECIAL;
use crate::handles::Handles;
use codax_core::info::{PoolInfo, StoreInfo};
use codax_core::namespace::Kind;
use codax_core::{Error, FileId, Frame, PoolId, ROOT, Result};
use codax_engine::Store;
use codax_engine::fs::Attr;
use codax_engine::runs::runs;
use codax_engine::store::Layout;
use codax_engine::table::TableReader;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

/// Where our inode numbers begin: the namespace counts up from 1, and does not get here.
const FIRST: u64 = 1 << 63;

/// Where those of pools begin, and how many each has.
const POOLS: u64 = FIRST + 16;
const PER_POOL: u64 = 4;

/// A file or directory here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Top,
    Status,
    StatusJson,
    Pools,
    Pool(PoolId),
    Frames(PoolId),
    PoolStatus(PoolId),
    PoolStatusJson(PoolId),
}

impl Node {
    /// The node with an inode number; `None` for the number of a file of the store.
    pub fn of(id: FileId) -> Option<Self> {
        let at = id.0.checked_sub(FIRST)?;
        let pool = PoolId(u16::try_from(id.0.saturating_sub(POOLS) / PER_POOL).unwrap_or(u16::MAX));
        Some(match at {
            1 => Self::Status,
            2 => Self::StatusJson,
            3 => Self::Pools,
            0..16 => Self::Top,
            _ => match (id.0 - POOLS) % PER_POOL {
                0 => Self::Pool(pool),
                1 => Self::Frames(pool),
                2 => Self::PoolStatus(pool),
                _ => Self::PoolStatusJson(pool),
            },
        })
    }

    pub fn id(self) -> FileId {
        let of = |pool: PoolId, at| POOLS + u64::from(pool.0) * PER_POOL + at;
        FileId(match self {
            Self::Top => FIRST,
            Self::Status => FIRST + 1,
            Self::StatusJson => FIRST + 2,
            Self::Pools => FIRST + 3,
            Self::Pool(pool) => of(pool, 0),
            Self::Frames(pool) => of(pool, 1),
            Self::PoolStatus(pool) => of(pool, 2),
            Self::PoolStatusJson(pool) => of(pool, 3),
        })
    }

    pub fn is_dir(self) -> bool {
        matches!(self, Self::Top | Self::Pools | Self::Pool(_))
    }

    /// The directory that it is in.
    pub fn parent(self) -> FileId {
        match self {
            Self::Top => ROOT,
            Self::Status | Self::StatusJson | Self::Pools => Self::Top.id(),
            Self::Pool(_) => Self::Pools.id(),
            Self::Frames(pool) | Self::PoolStatus(pool) | Self::PoolStatusJson(pool) => Self::Pool(pool).id(),
        }
    }
}

/// Whether a name in a directory is where this begins.
pub(crate) fn is_top(dir: FileId, name: &[u8]) -> bool {
    dir == ROOT && name == SPECIAL.as_bytes()
}

/// The state of a store, as files.
#[derive(Debug)]
pub(crate) struct Special {
    store: Store,
    /// What was made for those who have a file open.
    open: Handles<Vec<u8>>,
}

impl Special {
    pub fn new(store: Store) -> Self {
        Self { store, open: Handles::default() }
    }

    /// What a directory has under a name.
    pub fn lookup(&self, dir: Node, name: &[u8]) -> Result<Attr> {
        let found = self.entries(dir).into_iter().find(|(n, _)| n == name);
        found.map(|(_, node)| self.attr(node)).ok_or_else(|| Error::not_found("no such file"))
    }

    /// What a directory has, in byte order.
    pub fn entries(&self, dir: Node) -> Vec<(Vec<u8>, Node)> {
        match dir {
            Node::Top => vec![
                (b"pools".to_vec(), Node::Pools),
                (b"status".to_vec(), Node::Status),
                (b"status.json".to_vec(), Node::StatusJson),
            ],
            Node::Pools => {
                let pools = self.store.info().pools.into_iter();
                let mut pools: Vec<_> =
                    pools.map(|pool| (pool.name.into_bytes(), Node::Pool(pool.id))).collect();
                pools.sort_unstable_by(|a, b| a.0.cmp(&b.0));
                pools
            }
            Node::Pool(pool) => vec![
                (b"frames".to_vec(), Node::Frames(pool)),
                (b"status".to_vec(), Node::PoolStatus(pool)),
                (b"status.json".to_vec(), Node::PoolStatusJson(pool)),
            ],
            _ => Vec::new(),
        }
    }

    /// As for files in `/proc`, nobody knows how long one is before it is read.
    pub fn attr(&self, node: Node) -> Attr {
        let (kind, mode, nlink) = if node.is_dir() { (Kind::Dir, 0o555, 2) } else { (Kind::File, 0o444, 1) };
        let owner = self.store.owner();
        Attr {
            id: node.id(),
            kind,
            mode,
            uid: owner,
            gid: 0,
            nlink,
            len: 0,
            backed: 0,
            atime_ns: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            rdev: 0,
        }
    }

    /// Makes a file's text; returns a handle to read it with.
    pub fn open(&self, node: Node) -> Result<u64> {
        Ok(self.open.open(self.text(node)?))
    }

    /// The text that was made at open.
    pub fn read(&self, handle: u64) -> Arc<Vec<u8>> {
        self.open.get(handle).unwrap_or_default()
    }

    pub fn release(&self, handle: u64) {
        self.open.close(handle);
    }

    fn text(&self, node: Node) -> Result<Vec<u8>> {
        let info = self.store.info();
        let pool = |id: PoolId| {
            let found = info.pools.iter().find(|pool| pool.id == id);
            found.ok_or_else(|| Error::not_found("this pool is not there any more"))
        };
        Ok(match node {
            Node::Status => status(&info).into_bytes(),
            Node::StatusJson => json(&store_json(&info)),
            Node::PoolStatus(id) => pool_line(pool(id)?).into_bytes(),
            Node::PoolStatusJson(id) => json(&serde_json::json!(pool(id)?)),
            Node::Frames(id) => frames(&info, &pool(id)?.name)?.into_bytes(),
            Node::Top | Node::Pools | Node::Pool(_) => {
                return Err(Error::new(codax_core::ErrorKind::IsDir, "it is a directory"));
            }
        })
    }
}

fn json(value: &serde_json::Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

fn store_json(info: &StoreInfo) -> serde_json::Value {
    let dir = OsString::from_vec(info.dir.clone());
    serde_json::json!({
        "schema": 1,
        "dir": dir.to_str(),
        "version": info.version,
        "pid": info.pid,
        "uptime_ns": info.uptime_ns,
        "uid": info.uid,
        "inodes": info.inodes,
        "sessions": info.sessions,
        "journal_bytes": info.journal_bytes,
        "pools": info.pools,
        "recovery": info.recovery,
    })
}

fn status(info: &StoreInfo) -> String {
    let dir = OsString::from_vec(info.dir.clone());
    let mut text = format!(
        "store {} version {} pid {} inodes {} sessions {}\n",
        dir.to_string_lossy().escape_debug(),
        info.version,
        info.pid,
        info.inodes,
        info.sessions
    );
    info.pools.iter().for_each(|pool| text += &pool_line(pool));
    text
}

fn pool_line(pool: &PoolInfo) -> String {
    let PoolInfo { name, state, bytes, used, held, free, files, .. } = pool;
    let state = serde_json::json!(state);
    let state = state.as_str().unwrap_or("unknown");
    format!("pool {name} {state} bytes {bytes} used {used} held {held} free {free} files {files}\n")
}

fn frames(info: &StoreInfo, pool: &str) -> Result<String> {
    let layout = Layout { dir: OsString::from_vec(info.dir.clone()).into() };
    let table = TableReader::open(&layout.frame_table(pool))?;
    let records = (0..table.frames()).map(|frame| (Frame(frame), table.get(Frame(frame)).ok()));
    Ok(runs(records, false).fold(String::new(), |mut text, run| {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{}", run.line(|_| None));
        text
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_nodes_belong_together() {
        let pools = [PoolId(0), PoolId(1), PoolId(u16::MAX - 1)];
        let of_pools = pools.into_iter().flat_map(|pool| {
            [Node::Pool(pool), Node::Frames(pool), Node::PoolStatus(pool), Node::PoolStatusJson(pool)]
        });
        let all = [Node::Top, Node::Status, Node::StatusJson, Node::Pools].into_iter().chain(of_pools);
        for node in all {
            assert_eq!(Node::of(node.id()), Some(node));
            assert!(node == Node::Top || Node::of(node.parent()).is_some_and(Node::is_dir));
        }
        assert_eq!(Node::of(ROOT), None);
        assert_eq!(Node::of(FileId(FIRST - 1)), None);
        assert!(is_top(ROOT, b".codax") && !is_top(FileId(2), b".codax") && !is_top(ROOT, b".coda"));
    }
}
