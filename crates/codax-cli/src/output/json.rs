//! The JSON of every command: one envelope, and rows whose shape never depends on what is in them.

use super::text::hex;
use codax_core::extent::{Extent, PoolRun};
use codax_core::info::{FileInfo, ServedBy, ServedOn};
use codax_core::name::StorePath;
use codax_core::namespace::Kind;
use codax_core::placement::Placement;
use codax_core::plan::{Obstacle, Plan};
use codax_core::{PoolId, info};
use serde::Serialize;
use std::collections::HashMap;
use std::io::{self, Write};

/// Number of the form that all of this has; grows when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// Writes the envelope with `rows`, one row at a time, and a newline.
pub fn write<T: Serialize>(
    out: &mut dyn Write,
    command: &str,
    rows: impl IntoIterator<Item = T>,
) -> io::Result<()> {
    write!(out, "{{\"schema\":{SCHEMA},\"command\":{},\"rows\":[", serde_json::Value::from(command))?;
    for (i, row) in rows.into_iter().enumerate() {
        if i > 0 {
            out.write_all(b",")?;
        }
        serde_json::to_writer(&mut *out, &row)?;
    }
    out.write_all(b"]}\n")
}

/// A path or another string of bytes: as text if it is UTF-8, and always in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathForm {
    /// The text, if the bytes are UTF-8.
    pub path: Option<String>,
    /// The bytes.
    pub path_hex: String,
}

impl PathForm {
    /// The form of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self { path: std::str::from_utf8(bytes).ok().map(str::to_owned), path_hex: hex(bytes) }
    }
}

impl From<&StorePath> for PathForm {
    fn from(path: &StorePath) -> Self {
        Self::new(&path.to_bytes())
    }
}

/// As [`PathForm`], for a single component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NameForm {
    /// The text, if the bytes are UTF-8.
    pub name: Option<String>,
    /// The bytes.
    pub name_hex: String,
}

impl NameForm {
    /// The form of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        let PathForm { path, path_hex } = PathForm::new(bytes);
        Self { name: path, name_hex: path_hex }
    }
}

/// Names of the pools, by id.
#[derive(Clone, Debug, Default)]
pub struct PoolNames(HashMap<PoolId, String>);

impl PoolNames {
    /// The names of these pools.
    pub fn new(pools: &[info::PoolInfo]) -> Self {
        Self(pools.iter().map(|pool| (pool.id, pool.name.clone())).collect())
    }

    /// The name of `id`; its number for one that came after the names were asked for.
    pub fn get(&self, id: PoolId) -> String {
        self.0.get(&id).cloned().unwrap_or_else(|| format!("#{id}"))
    }
}

/// A placement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlacementRow {
    /// "on", "prefer" or "interleave".
    pub policy: &'static str,
    /// The pools.
    pub pools: Vec<String>,
    /// Whether not even a drain may take it elsewhere.
    pub strict: bool,
    /// Whether it is the file's own, else a directory's above.
    pub own: bool,
}

impl PlacementRow {
    /// The row of `placement`.
    pub fn new(placement: &Placement, own: bool, names: &PoolNames) -> Self {
        let (policy, pools, strict) = match placement {
            Placement::On { pool, strict } => ("on", vec![names.get(*pool)], *strict),
            Placement::Prefer(pool) => ("prefer", vec![names.get(*pool)], false),
            Placement::Interleave(pools) => {
                ("interleave", pools.iter().map(|pool| names.get(*pool)).collect(), false)
            }
        };
        Self { policy, pools, strict, own }
    }
}

/// A run of pages in consecutive frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExtentRow {
    /// First page in the file.
    pub page: u64,
    /// Number of pages and frames.
    pub pages: u64,
    /// The pool.
    pub pool: String,
    /// First frame.
    pub frame: u64,
}

/// A run of pages in one pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunRow {
    /// First page in the file.
    pub page: u64,
    /// Number of pages.
    pub pages: u64,
    /// The pool.
    pub pool: String,
}

impl RunRow {
    fn new(run: &PoolRun, names: &PoolNames) -> Self {
        Self { page: run.pages.start.0, pages: run.pages.count.0, pool: names.get(run.pool) }
    }
}

/// A file or directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileRow {
    #[serde(flatten)]
    pub path: PathForm,
    #[serde(flatten)]
    pub name: NameForm,
    pub id: u64,
    pub kind: Kind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    /// Length in bytes.
    pub len: u64,
    /// Bytes of frames it takes.
    pub backed: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub placement: PlacementRow,
    /// Whether it is never on a device for want of room in `dram`.
    pub no_emergency: bool,
    /// In whose frames; empty in listings.
    pub extents: Vec<ExtentRow>,
    /// In which pools.
    pub runs: Vec<RunRow>,
    /// What a drain took elsewhere; `pool` is its home. What is at home in `dram` found no room there.
    pub away: Vec<RunRow>,
    /// Why it found none; null where nothing of it has spilled, or the daemon was started since.
    pub spilled: Option<String>,
    /// How programs reach its bytes: "mapping" is the client library's; null for a directory.
    pub served: Option<&'static str>,
    /// How the mounts serve it, or would if it were opened now; empty for a directory, and in listings.
    pub mounted: Vec<MountedRow>,
    /// Processes that map it.
    pub mapped_by: Vec<u32>,
    /// Pinned ranges.
    pub pins: u32,
    /// Whether it outlives the power: each of its extents lies where that is so.
    pub persistent: bool,
    /// Pages whose bytes are gone; empty in listings.
    pub lost: Vec<PagesRow>,
}

/// A run of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PagesRow {
    /// The first of them.
    pub page: u64,
    /// How many.
    pub pages: u64,
}

impl FileRow {
    /// The row of `info`, which `path` names.
    pub fn new(path: &StorePath, info: &FileInfo, names: &PoolNames) -> Self {
        let extent = |e: &Extent| ExtentRow {
            page: e.page.0,
            pages: e.count.0,
            pool: names.get(e.pool),
            frame: e.frame.0,
        };
        Self {
            path: path.into(),
            name: NameForm::new(path.components().last().map_or(b"/", |name| name.as_bytes())),
            id: info.id.0,
            kind: info.kind,
            mode: info.mode,
            uid: info.uid,
            gid: info.gid,
            nlink: info.nlink,
            len: info.len,
            backed: info.backed,
            mtime_ns: info.mtime_ns,
            ctime_ns: info.ctime_ns,
            placement: PlacementRow::new(&info.placement, info.placement_own, names),
            no_emergency: info.no_emergency,
            extents: info.extents.iter().map(extent).collect(),
            runs: info.runs.iter().map(|run| RunRow::new(run, names)).collect(),
            away: info.away.iter().map(|run| RunRow::new(run, names)).collect(),
            spilled: info.spilled.clone(),
            served: (info.kind == Kind::File).then_some("mapping"),
            mounted: Vec::new(),
            mapped_by: info.mapped_by.clone(),
            pins: info.pins,
            persistent: info.persistent,
            lost: info.lost.iter().map(|run| PagesRow { page: run.start.0, pages: run.count.0 }).collect(),
        }
    }
}

/// How a mount serves a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MountedRow {
    /// The directory of the mount; null for any by root.
    pub dir: Option<String>,
    /// "kernel" (from its object: a mapping is the memory itself), "daemon" (nothing is cached) or "cache" (the daemon, through the page cache).
    pub by: ServedBy,
    /// Why.
    pub why: String,
}

impl From<ServedOn> for MountedRow {
    fn from(ServedOn { dir, served }: ServedOn) -> Self {
        let dir = dir.map(|dir| String::from_utf8_lossy(&dir).into_owned());
        Self { dir, by: served.by, why: served.why }
    }
}

/// What a drain would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanRow {
    /// Bytes that move.
    pub bytes: u64,
    pub moves: Vec<PlannedRow>,
    /// Why it can't be done now; empty if it can.
    pub obstacles: Vec<Obstacle>,
}

/// One move of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedRow {
    pub id: u64,
    /// The path, escaped as for people.
    pub file: String,
    pub to: Vec<RunRow>,
}

impl PlanRow {
    /// The row of `plan`.
    pub fn new(plan: &Plan, names: &PoolNames) -> Self {
        let moves = plan.moves.iter().map(|planned| PlannedRow {
            id: planned.file.0,
            file: planned.path.clone(),
            to: planned.to.iter().map(|run| RunRow::new(run, names)).collect(),
        });
        Self { bytes: plan.frames.bytes(), moves: moves.collect(), obstacles: plan.obstacles.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_core::{FileId, Frame, PageCount, PageNo, PageRange};
    use serde_json::{Value, json};

    fn written<T: Serialize>(rows: Vec<T>) -> String {
        let mut out = Vec::new();
        write(&mut out, "ls", rows).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_envelope_is_the_same_for_no_row_one_and_many() {
        assert_eq!(written::<u32>(vec![]), "{\"schema\":1,\"command\":\"ls\",\"rows\":[]}\n");
        assert_eq!(written(vec![1]), "{\"schema\":1,\"command\":\"ls\",\"rows\":[1]}\n");
        assert_eq!(written(vec![1, 2]), "{\"schema\":1,\"command\":\"ls\",\"rows\":[1,2]}\n");
    }

    #[test]
    fn names_that_are_not_utf8_are_null_and_hexadecimal() {
        assert_eq!(json!(PathForm::new(b"/a\xff")), json!({"path": null, "path_hex": "2f61ff"}));
        assert_eq!(json!(NameForm::new("ä\n".as_bytes())), json!({"name": "ä\n", "name_hex": "c3a40a"}));
    }

    fn info(kind: Kind) -> FileInfo {
        FileInfo {
            id: FileId(7),
            kind,
            mode: 0o644,
            uid: 1000,
            gid: 100,
            nlink: 1,
            len: 5000,
            backed: 8192,
            mtime_ns: 1,
            ctime_ns: 2,
            placement: Placement::On { pool: PoolId(1), strict: false },
            placement_own: true,
            no_emergency: false,
            extents: vec![],
            away: vec![],
            spilled: None,
            runs: vec![],
            mapped_by: vec![],
            pins: 0,
            persistent: false,
            lost: vec![],
        }
    }

    fn names() -> PoolNames {
        PoolNames([(PoolId(0), "dram".to_owned()), (PoolId(1), "sim0".to_owned())].into())
    }

    #[test]
    fn a_file_has_the_same_fields_whatever_it_is() {
        let path = StorePath::parse(b"/d/f").unwrap();
        let mut full = info(Kind::File);
        full.extents =
            vec![Extent { page: PageNo(0), count: PageCount(2), pool: PoolId(1), frame: Frame(9) }];
        full.runs = vec![PoolRun { pages: PageRange::new(0, 2), pool: PoolId(1) }];
        let full = json!(FileRow::new(&path, &full, &names()));
        let dir = json!(FileRow::new(&StorePath::root(), &info(Kind::Dir), &names()));
        let keys = |row: &Value| row.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&full), keys(&dir));
        assert_eq!(full["extents"], json!([{"page": 0, "pages": 2, "pool": "sim0", "frame": 9}]));
        assert_eq!(
            full["placement"],
            json!({"policy": "on", "pools": ["sim0"], "strict": false, "own": true})
        );
        assert_eq!((&full["name"], &full["served"]), (&json!("f"), &json!("mapping")));
        assert_eq!((&dir["name"], &dir["path"], &dir["served"]), (&json!("/"), &json!("/"), &Value::Null));
    }
}
