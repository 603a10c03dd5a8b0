//! `codax pages`: what lies in every frame of a pool, from the frame table itself. Asks nobody, so it works without a daemon.

use super::Context;
use crate::args::PagesArgs;
use crate::args::checked::{self, FileSelector};
use crate::output::json::{self, PathForm};
use anyhow::Result;
use codax_core::name::StorePath;
use codax_core::{Error, ErrorKind, FileId, Frame};
use codax_engine::names::{self, Names};
use codax_engine::runs::{Run, flags, runs, state};
use codax_engine::table::TableReader;
use serde::Serialize;
use std::collections::HashMap;
use std::io::{self, BufWriter, Write};

/// `codax pages`.
pub fn run(context: &Context, args: &PagesArgs) -> Result<()> {
    let selector = args.file.as_deref().map(checked::file_selector).transpose()?;
    let table = open_table(context, &args.pool)?;
    let names = read_names(context);
    let file = selector.map(|selector| find(selector, &names)).transpose()?;
    let mut paths = Paths { names: names.unwrap_or_default(), known: HashMap::new() };

    let records = (0..table.frames()).map(|frame| (Frame(frame), table.get(Frame(frame)).ok()));
    let runs = runs(records, args.each).filter(|run| file.is_none_or(|file| run.owner() == Some(file)));
    let mut out = BufWriter::new(io::stdout().lock());
    if context.json {
        json::write(&mut out, context.command, runs.map(|run| Row::new(&run, &mut paths)))?;
    } else {
        for run in runs {
            writeln!(out, "{}", line(&run, &mut paths))?;
        }
    }
    Ok(out.flush()?)
}

/// Opens the table of pool `pool`. A pool's name is also a file's, so it is checked before it becomes part of a path.
fn open_table(context: &Context, pool: &str) -> codax_core::Result<TableReader> {
    codax_core::name::Name::new(pool.as_bytes())?;
    TableReader::open(&context.dir.join("frames").join(pool)).map_err(|error| match error.kind {
        ErrorKind::NotFound => {
            let dir = context.dir.display();
            Error::not_found(format!("the store {dir} has no pool {pool}: there is no {dir}/frames/{pool}"))
        }
        _ => error,
    })
}

/// The names of files, which only the store's owner may read; nobody else needs more than numbers.
fn read_names(context: &Context) -> codax_core::Result<Names> {
    names::read(&context.dir.join("meta/names"))
}

/// The number of the file that is meant.
fn find(selector: FileSelector, names: &codax_core::Result<Names>) -> codax_core::Result<FileId> {
    let path = match selector {
        FileSelector::Id(id) => return Ok(id),
        FileSelector::Path(path) => path,
    };
    let names = names.as_ref().map_err(|error| {
        Error::new(
            error.kind,
            format!("{path}: can't be looked up ({error}); give the file's number, as #12"),
        )
    })?;
    let by_place: HashMap<_, _> =
        names.iter().map(|(id, (parent, name))| ((*parent, name.as_slice()), *id)).collect();
    path.components()
        .iter()
        .try_fold(codax_core::ROOT, |dir, name| by_place.get(&(dir, name.as_bytes())).copied())
        .ok_or_else(|| Error::not_found(format!("{path}: no such file")))
}

/// Paths of files, each worked out once.
struct Paths {
    names: Names,
    known: HashMap<FileId, Option<StorePath>>,
}

impl Paths {
    fn get(&mut self, id: FileId) -> Option<&StorePath> {
        let names = &self.names;
        let path = || names::path_of(names, id).and_then(|bytes| StorePath::parse(&bytes).ok());
        self.known.entry(id).or_insert_with(path).as_ref()
    }
}

/// A run, as JSON has it.
#[derive(Serialize)]
struct Row {
    frame: u64,
    frames: u64,
    /// "free", "used", "reserved", "held" or "retired"; "damaged" for a record that can't be true.
    state: &'static str,
    flags: Vec<&'static str>,
    pins: u8,
    /// The owner; null for none.
    file: Option<u64>,
    /// The owner's page in the first frame; null without one.
    page: Option<u64>,
    cpu_heat: u8,
    device_heat: u8,
    path: Option<String>,
    /// Null if nobody owns it or the names can't be read.
    path_hex: Option<String>,
}

impl Row {
    fn new(run: &Run, paths: &mut Paths) -> Self {
        let form = run.owner().and_then(|owner| paths.get(owner)).map(PathForm::from);
        let record = run.record.unwrap_or_default();
        Self {
            frame: run.frame.0,
            frames: run.count,
            state: state(run.record.as_ref()),
            flags: flags(record.flags),
            pins: record.pins,
            file: record.owner.map(|owner| owner.0),
            page: record.owner.map(|_| record.page.0),
            cpu_heat: record.cpu_heat,
            device_heat: record.device_heat,
            path: form.as_ref().and_then(|form| form.path.clone()),
            path_hex: form.map(|form| form.path_hex),
        }
    }
}

fn line(run: &Run, paths: &mut Paths) -> String {
    run.line(|owner| paths.get(owner).map(ToString::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_core::PageNo;
    use codax_core::frame::{FrameFlags, FrameRecord, FrameState};

    fn used(file: u64, page: u64) -> Option<FrameRecord> {
        let (owner, page) = (Some(FileId(file)), PageNo(page));
        Some(FrameRecord { owner, page, state: FrameState::Used, ..FrameRecord::default() })
    }

    fn shown(records: &[Option<FrameRecord>], each: bool) -> Vec<String> {
        let named = (codax_core::ROOT, b"a\n".to_vec());
        let mut paths = Paths { names: HashMap::from([(FileId(12), named)]), known: HashMap::new() };
        paths.known.insert(FileId(12), StorePath::parse(b"/a\n").ok());
        let records = records.iter().enumerate().map(|(i, record)| (Frame(i as u64), *record));
        runs(records, each).map(|run| line(&run, &mut paths)).collect()
    }

    #[test]
    fn frames_that_continue_each_other_are_one_row() {
        let mut pinned = used(12, 3).unwrap();
        (pinned.flags, pinned.pins) = (FrameFlags::PINNED, 2);
        let free = Some(FrameRecord::default());
        let records = [
            used(12, 0),
            used(12, 1),
            used(12, 2),
            Some(pinned),
            used(13, 4),
            used(13, 7),
            free,
            free,
            None,
            None,
        ];
        assert_eq!(
            shown(&records, false),
            [
                "frames 0-2 file 12 (/a\\n) page 0 used",
                "frame 3 file 12 (/a\\n) page 3 used pinned pins 2",
                "frame 4 file 13 page 4 used",
                "frame 5 file 13 page 7 used",
                "frames 6-7 free",
                "frames 8-9 damaged",
            ]
        );
        assert_eq!(shown(&records, true).len(), records.len());
    }

    #[test]
    fn a_row_has_every_field_whoever_owns_it() {
        let mut paths = Paths { names: HashMap::new(), known: HashMap::new() };
        let keys = |record, paths: &mut Paths| {
            let run = Run { frame: Frame(0), count: 1, record };
            let row = serde_json::json!(Row::new(&run, paths));
            row.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(keys(used(1, 2), &mut paths), keys(None, &mut paths));
    }
}
