//! `codax ls`, `stat`, `mkdir` and `rm`.

use super::users::{self, Names};
use super::{Context, done, pool_names, stat, tree, unexpected};
use crate::args::{LsArgs, MkdirArgs, PathsArgs, RmArgs, checked};
use crate::output::json::{FileRow, MountedRow, PathForm, PoolNames};
use crate::output::{table, text};
use anyhow::Result;
use codax::Store;
use codax_core::info::FileInfo;
use codax_core::name::StorePath;
use codax_core::namespace::Kind;
use codax_core::request::PlacementSpec;
use codax_core::{DRAM_NAME, Error, ErrorKind};
use codax_wire::{Reply, Request};

/// `codax ls`.
pub fn ls(context: &Context, args: &LsArgs) -> Result<()> {
    let path = checked::path(&args.path)?;
    let store = context.store()?;
    let info = stat(&store, &path)?;
    let listed = match info.kind {
        Kind::Dir => tree::entries(&store, &path)?,
        _ => vec![(path, info)],
    };
    let names = if args.long || context.json { pool_names(&store)? } else { PoolNames::default() };
    let rows = listed.iter().map(|(path, info)| FileRow::new(path, info, &names));
    context.print(rows, || if args.long { long_list(&listed, &names) } else { short_list(&listed) })
}

/// The last component as people see it.
fn shown_name(path: &StorePath, info: &FileInfo) -> String {
    let slash = if info.kind == Kind::Dir { "/" } else { "" };
    path.components().last().map_or_else(|| "/".to_owned(), |name| format!("{name}{slash}"))
}

fn short_list(listed: &[(StorePath, FileInfo)]) -> String {
    listed.iter().fold(String::new(), |out, (path, info)| out + &shown_name(path, info) + "\n")
}

fn long_list(listed: &[(StorePath, FileInfo)], names: &PoolNames) -> String {
    let (users, groups) = (Names::users(), Names::groups());
    let mut table = table::new(&["mode", "owner", "group", ">bytes", ">backed", "pools", "changed", "name"]);
    for (path, info) in listed {
        let mut pools: Vec<_> = info.runs.iter().map(|run| names.get(run.pool)).collect();
        pools.sort_unstable();
        pools.dedup();
        let row = [
            text::mode(info.kind, info.mode),
            users.name(info.uid),
            groups.name(info.gid),
            info.len.to_string(),
            info.backed.to_string(),
            if pools.is_empty() { "-".to_owned() } else { pools.join(",") },
            text::time(info.mtime_ns),
            shown_name(path, info),
        ];
        table::row(&mut table, row);
    }
    if listed.is_empty() { String::new() } else { table::text(&table) }
}

/// `codax stat`.
pub fn stat_all(context: &Context, args: &PathsArgs) -> Result<()> {
    let paths = checked::paths(&args.paths)?;
    let store = context.store()?;
    let names = pool_names(&store)?;
    let mut rows = Vec::new();
    for path in &paths {
        let info = stat(&store, path)?;
        let mut row = FileRow::new(path, &info, &names);
        if info.kind == Kind::File {
            row.mounted = mounted(&store, path)?;
        }
        rows.push((path, row));
    }
    context.print(rows.iter().map(|(_, row)| row), || {
        rows.iter().map(|(path, row)| stat_text(path, row)).collect::<Vec<_>>().join("\n")
    })
}

/// How mounts serve a file.
fn mounted(store: &Store, path: &StorePath) -> Result<Vec<MountedRow>> {
    match store.call(Request::Served(path.clone()))? {
        Reply::Served(on) => Ok(on.into_iter().map(MountedRow::from).collect()),
        other => Err(unexpected(&other).into()),
    }
}

fn stat_text(path: &StorePath, row: &FileRow) -> String {
    let own = if row.placement.own { "its own" } else { "a directory's above" };
    let span = |page: u64, pages: u64| match pages {
        1 => format!("page {page}"),
        _ => format!("pages {page}-{}", page + pages - 1),
    };
    let extents = row.extents.iter().map(|extent| {
        let frames = match extent.pages {
            1 => format!("frame {}", extent.frame),
            pages => format!("frames {}-{}", extent.frame, extent.frame + pages - 1),
        };
        format!("{} in {}, {frames}", span(extent.page, extent.pages), extent.pool)
    });
    let away = row.away.iter().map(|run| format!("{} at home in {}", span(run.page, run.pages), run.pool));
    let lines = |lines: &mut dyn Iterator<Item = String>| lines.collect::<Vec<_>>().join("\n");
    let file = row.kind == Kind::File;
    let if_file = |text: String| if file { text } else { String::new() };
    table::facts([
        ("path", path.to_string()),
        ("id", row.id.to_string()),
        ("mode", format!("{} ({:04o})", text::mode(row.kind, row.mode), row.mode)),
        ("owner", format!("{} ({})", Names::users().name(row.uid), row.uid)),
        ("group", format!("{} ({})", Names::groups().name(row.gid), row.gid)),
        ("links", row.nlink.to_string()),
        ("bytes", if_file(row.len.to_string())),
        ("backed", if_file(format!("{} bytes in frames", row.backed))),
        ("changed", format!("{} (inode {})", text::time(row.mtime_ns), text::time(row.ctime_ns))),
        ("placement", format!("{} ({own})", text::placement(&row.placement))),
        ("emergency", emergency_text(row)),
        ("served", if_file(served_text(row))),
        ("mapped by", if_file(processes(&row.mapped_by))),
        ("pinned", if row.pins > 0 { text::count(row.pins.into(), "range") } else { String::new() }),
        ("power", if_file(power_text(row))),
        ("lies", lines(&mut extents.into_iter())),
        ("away", lines(&mut away.into_iter())),
        (
            "lost",
            lines(
                &mut row
                    .lost
                    .iter()
                    .map(|run| format!("{}: reading them is an error", span(run.page, run.pages))),
            ),
        ),
    ])
}

/// Whether a file may be on a device for want of room in `dram`, and why it is.
fn emergency_text(row: &FileRow) -> String {
    let spilled = row.away.iter().any(|run| run.pool == DRAM_NAME);
    let why = match (&row.spilled, spilled) {
        (Some(why), _) => format!("on a device, since {why}"),
        (None, true) => {
            "on a device, since there was no room for it in dram, or too little memory".to_owned()
        }
        (None, false) => String::new(),
    };
    match row.no_emergency {
        true if why.is_empty() => "never: it is on no device for want of room".to_owned(),
        true => format!("never, for what it gets by now; {why}"),
        false => why,
    }
}

/// Whether a file is there when the power was gone.
fn power_text(row: &FileRow) -> String {
    let text = if row.persistent {
        "outlives it: all of it is on persistent media"
    } else {
        "is gone with it, or a part is"
    };
    if row.runs.is_empty() { String::new() } else { text.to_owned() }
}

fn served_text(row: &FileRow) -> String {
    let mut text = "by mapping, through the client library".to_owned();
    for MountedRow { dir, by, why } in &row.mounted {
        let dir = dir.as_deref().map_or("a mount by root".to_owned(), text::printable);
        text += &format!("\non {dir} {}: {why}", text::served_by(*by));
    }
    text
}

fn processes(pids: &[u32]) -> String {
    if pids.is_empty() {
        return "nobody".to_owned();
    }
    let named = |pid: &u32| format!("{pid} ({})", codax_os::process::command(*pid));
    format!("process {}", pids.iter().map(named).collect::<Vec<_>>().join(", "))
}

/// `codax mkdir`.
pub fn mkdir(context: &Context, args: &MkdirArgs) -> Result<()> {
    let placement = checked::placement(&args.place)?;
    let paths = checked::paths(&args.paths)?;
    let store = context.store()?;
    for path in &paths {
        if args.parents {
            make_with_parents(&store, path, (placement.as_ref(), args.place.no_emergency))?;
        } else {
            make(&store, path, (placement.clone(), args.place.no_emergency))?;
        }
    }
    context.print(paths.iter().map(PathForm::from), String::new)
}

/// Makes one directory, whose files may be forbidden to be on devices for want of room.
pub fn make(
    store: &Store,
    path: &StorePath,
    (placement, no_emergency): (Option<PlacementSpec>, bool),
) -> Result<()> {
    let mode = 0o777 & !users::umask();
    done(store, Request::Mkdir { path: path.clone(), mode, placement })?;
    if no_emergency {
        done(store, Request::SetEmergency { path: path.clone(), allowed: false })?;
    }
    Ok(())
}

/// Makes a directory and those above it that are missing. A placement is the last one's own; a directory that is there already
/// does not get it.
fn make_with_parents(
    store: &Store,
    path: &StorePath,
    (placement, no_emergency): (Option<&PlacementSpec>, bool),
) -> Result<()> {
    let mut so_far = StorePath::root();
    for name in path.components() {
        so_far = so_far.join(name);
        let own = if so_far == *path { placement } else { None };
        let never = no_emergency && so_far == *path;
        let Err(error) = make(store, &so_far, (own.cloned(), never)) else { continue };
        // A directory above may be one that can't be written, and be there all the same.
        let there = super::stat_if_there(store, &so_far)?;
        if own.is_some() || never || there.is_none_or(|info| info.kind != Kind::Dir) {
            return Err(error);
        }
    }
    Ok(())
}

/// `codax rm`.
pub fn rm(context: &Context, args: &RmArgs) -> Result<()> {
    let paths = checked::paths(&args.paths)?;
    if paths.contains(&StorePath::root()) {
        return Err(Error::invalid(
            "/: the root of the store can't be removed; `codax down --purge` deletes the store",
        )
        .into());
    }
    let store = context.store()?;
    let mut gone = Vec::new();
    for path in paths {
        match done(&store, Request::Remove { path: path.clone(), recursive: args.recursive }) {
            Ok(()) => gone.push(PathForm::from(&path)),
            Err(error) if args.force && crate::kind_of(&error) == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    context.print(gone, String::new)
}
