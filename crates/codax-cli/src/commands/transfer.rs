//! `codax put`, `get` and `cat`: bytes into the store and out of it.

use super::tree::{self, Tree};
use super::{Context, files, stat, stat_if_there, users};
use crate::args::{GetArgs, PathsArgs, PutArgs, checked};
use crate::output::json::PathForm;
use crate::output::progress::Progress;
use crate::output::text::{self, printable};
use anyhow::{Context as _, Result};
use codax::{PutOptions, Store};
use codax_core::name::{Name, StorePath};
use codax_core::namespace::Kind;
use codax_core::request::PlacementSpec;
use codax_core::units::format_size;
use codax_core::{Error, ErrorKind};
use serde::Serialize;
use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind as Io, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Stands for standard input or output.
const STANDARD: &str = "-";
/// What it is called in messages.
const STANDARD_OUTPUT: &str = "standard output";

/// A file that was copied, as JSON has it.
#[derive(Serialize)]
struct Row {
    /// The path in the store.
    #[serde(flatten)]
    path: PathForm,
    bytes: u64,
}

/// Copies into the store, with all that goes for each file.
struct Putting<'a> {
    store: &'a Store,
    placement: Option<PlacementSpec>,
    no_emergency: bool,
    replace: bool,
    umask: u16,
    shown: Shown,
}

/// A file to put.
struct Source<R> {
    /// What it is called in messages.
    name: String,
    reader: R,
    /// Permission bits.
    mode: u16,
    /// Its length, if it has one.
    len: Option<u64>,
}

impl Source<File> {
    fn open(path: &Path) -> Result<(Self, std::fs::Metadata)> {
        let opened = File::open(path).and_then(|file| file.metadata().map(|meta| (file, meta)));
        let (reader, meta) = opened.with_context(|| format!("reading {}", path.display()))?;
        let len = meta.is_file().then_some(meta.len());
        Ok((Self { name: path.display().to_string(), reader, mode: tree::mode_of(&meta), len }, meta))
    }
}

/// How far all files together are.
struct Shown {
    progress: Progress,
    done: u64,
    total: u64,
}

impl Shown {
    fn new(context: &Context, what: String, total: u64) -> Self {
        Self { progress: context.progress(what), done: 0, total }
    }

    /// Shows nothing: a bar would be in the middle of what is printed.
    fn nothing() -> Self {
        Self { progress: Progress::quiet(), done: 0, total: 0 }
    }

    fn add(&mut self, bytes: usize) {
        self.done += bytes as u64;
        self.progress.bytes(self.done, self.total.max(self.done), "");
    }
}

/// A reader or writer whose bytes are counted, and whose error is kept: the library's own has no cause to look at.
struct Watched<'a, T> {
    inner: T,
    shown: &'a mut Shown,
    error: Option<io::Error>,
}

impl<'a, T> Watched<'a, T> {
    const fn new(inner: T, shown: &'a mut Shown) -> Self {
        Self { inner, shown, error: None }
    }

    fn note(&mut self, done: io::Result<usize>) -> io::Result<usize> {
        match done {
            Ok(n) => self.shown.add(n),
            Err(error) if error.kind() == Io::Interrupted => return Err(error),
            Err(error) => {
                let kind = error.kind();
                self.error = Some(error);
                return Err(kind.into());
            }
        }
        done
    }

    /// What `done` says of `path`, or the error that was kept, if that is why it failed; `what` was being done.
    fn explain<R>(self, done: codax_core::Result<R>, path: &StorePath, what: impl Display) -> Result<R> {
        match (done, self.error) {
            (Err(_), Some(error)) => Err(anyhow::Error::new(error).context(what.to_string())),
            (Err(error), None) => Err(naming(path, error).into()),
            (Ok(done), _) => Ok(done),
        }
    }
}

impl<T: Read> Read for Watched<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let done = self.inner.read(buffer);
        self.note(done)
    }
}

impl<T: Write> Write for Watched<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = self.inner.write(bytes);
        self.note(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        let done = self.inner.flush();
        self.note(done.map(|()| 0)).map(drop)
    }
}

/// The error, with the path in front if it doesn't begin with it: it may be one of many.
fn naming(path: &StorePath, error: Error) -> Error {
    let path = path.to_string();
    if error.message.starts_with(&path) { error } else { Error::new(error.kind, format!("{path}: {error}")) }
}

/// `codax put`.
pub fn put(context: &Context, args: &PutArgs) -> Result<()> {
    let path = checked::path(&args.path)?;
    let placement = checked::placement(&args.place)?;
    let src = &args.src;
    let start = |store, total| {
        let shown = Shown::new(context, format!("putting {}", src.display()), total);
        let (no_emergency, replace) = (args.place.no_emergency, args.force);
        Putting { store, placement, no_emergency, replace, umask: users::umask(), shown }
    };
    if src.as_os_str() == STANDARD {
        let store = context.store()?;
        let source =
            Source { name: "standard input".to_owned(), reader: io::stdin().lock(), mode: 0o666, len: None };
        let row = start(&store, 0).one(source, &path)?;
        return context.print([row], String::new);
    }
    let (source, meta) = Source::open(src)?;
    if meta.is_dir() && !args.recursive {
        let message = format!("{} is a directory: put it with -r", src.display());
        return Err(Error::new(ErrorKind::IsDir, message).into());
    }
    let store = context.store()?;
    let path = into_directory(&store, path, src)?;
    if meta.is_dir() {
        let tree = tree::local(src, &path)?;
        return put_tree(context, start(&store, tree.bytes()), &tree);
    }
    let row = start(&store, meta.len()).one(source, &path)?;
    context.print([row], String::new)
}

/// `path`, or what `src` is called in it if it is a directory.
fn into_directory(store: &Store, path: StorePath, src: &Path) -> Result<StorePath> {
    if stat_if_there(store, &path)?.is_none_or(|info| info.kind != Kind::Dir) {
        return Ok(path);
    }
    let name = src.canonicalize().ok().and_then(|src| src.file_name().map(OsStr::to_owned));
    let name = src.file_name().map(OsStr::to_owned).or(name).ok_or_else(|| {
        Error::invalid(format!("{} has no name of its own: give the path in full", src.display()))
    })?;
    Ok(path.join(&Name::new(name.as_bytes())?))
}

impl Putting<'_> {
    fn one(&mut self, from: Source<impl Read>, path: &StorePath) -> Result<Row> {
        let options = PutOptions {
            placement: self.placement.clone(),
            no_emergency: self.no_emergency,
            mode: Some(from.mode & !self.umask),
            replace: self.replace,
            known_len: from.len,
        };
        let mut reader = Watched::new(from.reader, &mut self.shown);
        let put = self.store.put(&mut reader, OsStr::from_bytes(&path.to_bytes()), &options);
        let bytes = reader.explain(put, path, format_args!("reading {}", from.name))?;
        Ok(Row { path: path.into(), bytes })
    }

    /// Makes a directory, unless it is there already.
    fn directory(&self, path: &StorePath) -> Result<()> {
        match files::make(self.store, path, (self.placement.clone(), self.no_emergency)) {
            Err(error) if crate::kind_of(&error) == ErrorKind::Exists => match stat(self.store, path)?.kind {
                Kind::Dir => Ok(()),
                _ => Err(error),
            },
            made => made,
        }
    }
}

fn put_tree(context: &Context, mut putting: Putting<'_>, tree: &Tree<PathBuf, StorePath>) -> Result<()> {
    for dir in &tree.dirs {
        putting.directory(dir)?;
    }
    let mut rows = Vec::new();
    for file in &tree.files {
        rows.push(putting.one(Source::open(&file.from)?.0, &file.to)?);
    }
    drop(putting);
    say_skipped(tree.skipped.len(), tree.skipped.first().map(|path| path.display().to_string()));
    context.print(&rows, || summary(&rows))
}

/// Tells what a copied tree had that is neither file nor directory.
fn say_skipped(count: usize, first: Option<String>) {
    if let Some(first) = first {
        let links = text::count(count as u64, "link");
        eprintln!("codax: left out {links} or special files, the first of them {}", printable(&first));
    }
}

fn summary(rows: &[Row]) -> String {
    let bytes = rows.iter().map(|row| row.bytes).sum();
    format!("{}, {}\n", text::count(rows.len() as u64, "file"), format_size(bytes))
}

/// `codax get`.
pub fn get(context: &Context, args: &GetArgs) -> Result<()> {
    let path = checked::path(&args.path)?;
    let standard = args.dst.as_os_str() == STANDARD;
    let store = context.store()?;
    let info = stat(&store, &path)?;
    if info.kind == Kind::Dir && (!args.recursive || standard) {
        let how = if standard { "can't go to standard output" } else { "get it with -r" };
        return Err(Error::new(ErrorKind::IsDir, format!("{path} is a directory: {how}")).into());
    }
    if standard {
        let bytes = write_out(&store, &path, io::stdout().lock(), &mut Shown::nothing(), STANDARD_OUTPUT)?;
        io::stdout().flush()?;
        return context.print_aside([Row { path: (&path).into(), bytes }]);
    }
    let dst = into_local(&path, &args.dst)?;
    let what = format!("getting {path}");
    if info.kind == Kind::File {
        let mut shown = Shown::new(context, what, info.len);
        let bytes = fetch(&store, &path, &dst, info.mode, args.force, &mut shown)?;
        drop(shown);
        return context.print([Row { path: (&path).into(), bytes }], String::new);
    }
    if info.kind != Kind::Dir {
        return Err(
            Error::invalid(format!("{path} is a link or a special file: it has no bytes to get")).into()
        );
    }
    let tree = tree::stored(&store, &path, &dst)?;
    for dir in &tree.dirs {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let mut shown = Shown::new(context, what, tree.bytes());
    let mut rows = Vec::new();
    for file in &tree.files {
        let bytes = fetch(&store, &file.from, &file.to, file.mode, args.force, &mut shown)?;
        rows.push(Row { path: (&file.from).into(), bytes });
    }
    drop(shown);
    say_skipped(tree.skipped.len(), tree.skipped.first().map(ToString::to_string));
    context.print(&rows, || summary(&rows))
}

/// `dst`, or what `path` is called in it if it is a directory.
fn into_local(path: &StorePath, dst: &Path) -> Result<PathBuf> {
    if !dst.is_dir() {
        return Ok(dst.to_owned());
    }
    match path.components().last() {
        Some(name) => Ok(dst.join(OsStr::from_bytes(name.as_bytes()))),
        None => {
            Err(Error::invalid(format!("{path} has no name: give a directory that isn't there yet")).into())
        }
    }
}

/// Copies one file out. What can't be copied whole leaves nothing behind; with `force` a file is replaced in one step, at the end.
fn fetch(
    store: &Store,
    from: &StorePath,
    to: &Path,
    mode: u16,
    force: bool,
    shown: &mut Shown,
) -> Result<u64> {
    let there = std::fs::metadata(to).ok();
    if there.as_ref().is_some_and(|meta| !meta.is_file() && !meta.is_dir()) {
        // A device or a pipe.
        let file =
            OpenOptions::new().write(true).open(to).with_context(|| format!("writing {}", to.display()))?;
        return copy_out(store, from, file, to, shown);
    }
    if there.is_some() && !force {
        return Err(Error::exists(format!("{} exists already; -f replaces it", to.display())).into());
    }
    let mut part = to.to_owned();
    if force {
        let name = to.file_name().unwrap_or_default().as_bytes();
        let name = [b".", name, b".part-", std::process::id().to_string().as_bytes()].concat();
        part.set_file_name(OsStr::from_bytes(&name));
    }
    let mode = u32::from(mode & 0o777);
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(&part);
    let file = opened.with_context(|| format!("writing {}", part.display()))?;
    let copied = copy_out(store, from, file, &part, shown).and_then(|bytes| {
        if force {
            std::fs::rename(&part, to).with_context(|| format!("writing {}", to.display()))?;
        }
        Ok(bytes)
    });
    if copied.is_err() {
        // The error that is on its way says more than this one could.
        let _ = std::fs::remove_file(&part);
    }
    copied
}

fn copy_out(store: &Store, from: &StorePath, to: File, name: &Path, shown: &mut Shown) -> Result<u64> {
    write_out(store, from, to, shown, &name.display().to_string())
}

fn write_out(store: &Store, from: &StorePath, to: impl Write, shown: &mut Shown, name: &str) -> Result<u64> {
    let mut to = Watched::new(to, shown);
    let got = store.get(OsStr::from_bytes(&from.to_bytes()), &mut to);
    to.explain(got, from, format_args!("writing {name}"))
}

/// `codax cat`.
pub fn cat(context: &Context, args: &PathsArgs) -> Result<()> {
    let paths = checked::paths(&args.paths)?;
    let store = context.store()?;
    let mut out = io::stdout().lock();
    let mut rows = Vec::new();
    for path in &paths {
        let bytes = write_out(&store, path, &mut out, &mut Shown::nothing(), STANDARD_OUTPUT)?;
        rows.push(Row { path: path.into(), bytes });
    }
    out.flush()?;
    context.print_aside(rows)
}
