//! `codax mv`, `move` and `placement`: other names, other frames, other rules.

use super::device::JobRow;
use super::{Context, done, pool_names, stat, stat_if_there, unexpected};
use crate::args::{MoveArgs, MvArgs, PlacementArgs, checked};
use crate::output::json::{PathForm, PlacementRow};
use crate::output::text;
use anyhow::Result;
use codax_core::Error;
use codax_core::namespace::Kind;
use codax_core::units::format_size;
use codax_wire::{Reply, Request};
use serde::Serialize;

#[derive(Serialize)]
struct Renamed {
    from: Option<String>,
    from_hex: String,
    to: Option<String>,
    to_hex: String,
}

/// `codax mv`.
pub fn rename(context: &Context, args: &MvArgs) -> Result<()> {
    let (from, mut to) = (checked::path(&args.from)?, checked::path(&args.to)?);
    let Some((_, name)) = from.split_last() else {
        return Err(Error::invalid("/: the root of the store can't be renamed").into());
    };
    let store = context.store()?;
    if stat_if_there(&store, &to)?.is_some_and(|info| info.kind == Kind::Dir) {
        to = to.join(name);
    }
    let (old, new) = (PathForm::from(&from), PathForm::from(&to));
    done(&store, Request::Rename { from, to, noreplace: args.no_clobber })?;
    let row = Renamed { from: old.path, from_hex: old.path_hex, to: new.path, to_hex: new.path_hex };
    context.print([row], String::new)
}

/// `codax move`.
pub fn relocate(context: &Context, args: &MoveArgs) -> Result<()> {
    let path = checked::path(&args.path)?;
    let range = args.range.as_deref().map(checked::range).transpose()?;
    let store = context.store()?;
    super::on_interrupt(format!("cancelled: {path} keeps what has been moved, the rest stays where it was"))?;
    let mut progress = context.progress(format!("moving {path}"));
    let request = Request::Move { path: path.clone(), to: args.to.clone(), range };
    let reply = store.call_with_progress(request, &mut |job| progress.job(job))?;
    drop(progress);
    let Reply::Job(report) = reply else { return Err(unexpected(&reply).into()) };
    let row = JobRow::new(path.to_string(), &report, &pool_names(&store)?);
    context.print([row], || {
        let (size, pace) = (format_size(report.bytes), text::pace(report.bytes, report.nanos));
        format!("{path}: {size} moved to {} in {pace}\n", text::printable(&args.to))
    })
}

#[derive(Serialize)]
struct PlacementOf {
    #[serde(flatten)]
    path: PathForm,
    placement: PlacementRow,
    /// Whether it is never on a device for want of room in `dram`.
    no_emergency: bool,
}

/// `codax placement`.
pub fn placement(context: &Context, args: &PlacementArgs) -> Result<()> {
    let path = checked::path(&args.path)?;
    let given = checked::placement(&args.place)?;
    let store = context.store()?;
    let change = if args.clear { Some(None) } else { given.map(Some) };
    let forbids = args.place.no_emergency;
    let changed = change.is_some() || forbids || args.emergency;
    if change.is_some() {
        let path = path.clone();
        done(&store, Request::SetAttr { path, mode: None, uid: None, gid: None, placement: change })?;
    }
    if forbids || args.emergency {
        done(&store, Request::SetEmergency { path: path.clone(), allowed: args.emergency })?;
    }
    let info = stat(&store, &path)?;
    let row = PlacementRow::new(&info.placement, info.placement_own, &pool_names(&store)?);
    let no_emergency = info.no_emergency;
    let line = if changed { String::new() } else { placement_line(&row, no_emergency) };
    context.print([PlacementOf { path: (&path).into(), placement: row, no_emergency }], || line)
}

fn placement_line(row: &PlacementRow, no_emergency: bool) -> String {
    let whose = if row.own { "" } else { "  (from a directory above)" };
    let never = if no_emergency { " --no-emergency" } else { "" };
    format!("{}{never}{whose}\n", text::placement(row))
}
