//! Copying whole files in and out.

use crate::file::{File, Inner, ask_open};
use crate::link::{Trouble, unexpected};
use crate::mapping::{Access, by_pool, is_not_mapped, to_usize};
use crate::store::{Store, reply_as, store_path};
use codax_core::extent::PoolRun;
use codax_core::info::FileInfo;
use codax_core::name::StorePath;
use codax_core::request::{Open, PlacementSpec};
use codax_core::{Error, ErrorKind, PAGE_SIZE, PageRange, PoolId, Result};
use codax_os::object;
use codax_wire::{Reply, Request};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;

/// Bytes copied at once.
const BUFFER: usize = 1 << 20;

/// Most bytes by which a file of unknown length grows at once.
const GROW_MAX: u64 = 64 << 20;

/// Most bytes mapped at once to copy a file out.
const WINDOW: u64 = 64 << 20;

/// How [`Store::put`] makes a file.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// Where its bytes go; `None` for what the directory says.
    pub placement: Option<PlacementSpec>,
    /// It is never on a device for want of room in `dram`, whatever is allowed there.
    pub no_emergency: bool,
    /// Permission bits, the umask already taken off; `None` for `0o666` less the umask.
    pub mode: Option<u16>,
    /// Whether a file of that name is replaced; else it is `Exists`.
    pub replace: bool,
    /// How many bytes the source has, if that is known: the file is made in one piece then.
    pub known_len: Option<u64>,
}

impl Store {
    /// Copies everything that `source` gives into a new file `path`, and returns how many bytes that were. The file has its name once all of it is there; on an
    /// error nothing is left behind.
    ///
    /// ```
    /// # fn main() -> codax::Result<()> {
    /// # let private = codax_testkit::Private::start()?;
    /// # let dir = private.dir();
    /// let store = codax::Store::connect(dir)?;
    /// let options = codax::PutOptions { replace: true, ..Default::default() };
    /// let bytes = store.put(&mut &b"some bytes"[..], "/greeting", &options)?;
    /// assert_eq!(bytes, 10);
    ///
    /// let mut back = Vec::new();
    /// store.get("/greeting", &mut back)?;
    /// assert_eq!(back, b"some bytes");
    /// # Ok(())
    /// # }
    /// ```
    pub fn put(&self, source: &mut dyn Read, path: impl AsRef<OsStr>, options: &PutOptions) -> Result<u64> {
        let path = store_path(path)?;
        let mut buffer = vec![0; BUFFER];
        // What fits the buffer has a known length before the daemon is asked.
        let first = fill(source, &mut buffer)?;
        let ended = first < buffer.len();
        if !(ended || options.replace) && self.call(Request::Stat(path.clone())).is_ok() {
            return Err(Error::exists(format!("{path} exists")));
        }
        let so_far = first as u64;
        let len = if ended { so_far } else { options.known_len.map_or(so_far, |len| len.max(so_far)) };
        let open = Open {
            path,
            read: false,
            write: true,
            create: true,
            exclusive: !options.replace,
            truncate: false,
            unnamed: true,
            mode: options.mode.unwrap_or(0o666 & !self.client.umask),
            placement: options.placement.clone(),
            no_emergency: options.no_emergency,
            len,
            map: None,
        };
        let (opened, _) = self.with(|turn| ask_open(turn, &open))?;
        // Unless it is published, it goes when this handle is closed.
        let file = File::new(self, &open, &opened);
        let mut sink = Sink { file: &file.inner, len, raw: None };
        let mut at = 0;
        let mut filled = first;
        loop {
            sink.write(at, &buffer[..filled])?;
            at += filled as u64;
            if filled < buffer.len() {
                break;
            }
            filled = fill(source, &mut buffer)?;
        }
        sink.finish(at)?;
        let publish = |handle| Request::Publish { handle, path: open.path.clone(), replace: options.replace };
        reply_as!(file.inner.ask(publish)?, Reply::Done => ())?;
        Ok(at)
    }

    /// Copies the file `path` to `target`, and returns how many bytes that were. It may be moved meanwhile. If it is cut meanwhile, that is
    /// `Corrupt`; where the kernel doesn't wait for moves (see [`crate::ConnectOptions::allow_user_faults`]) the process may end with SIGBUS, as any that maps it.
    pub fn get(&self, path: impl AsRef<OsStr>, target: &mut dyn Write) -> Result<u64> {
        let open = Open {
            path: store_path(path)?,
            read: true,
            write: false,
            create: false,
            exclusive: false,
            truncate: false,
            unnamed: false,
            mode: 0,
            placement: None,
            no_emergency: false,
            len: 0,
            map: None,
        };
        let (opened, _) = self.with(|turn| ask_open(turn, &open))?;
        let file = File::new(self, &open, &opened);
        let len = opened.len;
        let mut buffer = vec![0; BUFFER.min(to_usize(len)?)];
        // What is mapped has no holes: they would be filled, and who only reads fills none.
        if len > 0 && has_holes(&file.info()?, len) {
            copy_by_descriptor(&file.inner, 0..len, &mut buffer, target)?;
            return Ok(len);
        }
        let mut at = 0;
        while at < len {
            let window = at..len.min(at + WINDOW);
            let mapping = match file.map(window.clone(), Access::ReadOnly) {
                Ok(mapping) => mapping,
                // It lies where not everybody maps it, and may lie elsewhere in a moment.
                Err(e) if is_not_mapped(&e) => {
                    at = window.end;
                    copy_by_descriptor(&file.inner, window, &mut buffer, target)?;
                    continue;
                }
                Err(e) => return Err(e),
            };
            for off in (0..mapping.len()).step_by(BUFFER) {
                let part = &mut buffer[..BUFFER.min(mapping.len() - off)];
                let got = mapping.copy_out(off, part);
                if got < part.len() {
                    return Err(unreadable(&file, at + (off + got) as u64));
                }
                target.write_all(part).map_err(|e| system("write what was read", &e))?;
            }
            at += mapping.len() as u64;
        }
        Ok(len)
    }
}

/// Whether some of the first `len` bytes have no memory.
fn has_holes(info: &FileInfo, len: u64) -> bool {
    let pages = PageRange::of_bytes(0, len);
    let within: u64 =
        info.runs.iter().filter_map(|run| run.pages.intersect(pages)).map(|pages| pages.bytes()).sum();
    let told: u64 = info.runs.iter().map(|run| run.pages.bytes()).sum();
    // There may be memory behind the end, and of very many runs not all are told.
    info.backed < pages.bytes() || told == info.backed && within < pages.bytes()
}

/// Copies a range of a file's bytes out. It can't be moved while a buffer is filled, and can while that is written.
fn copy_by_descriptor(
    file: &Inner,
    range: Range<u64>,
    buffer: &mut [u8],
    target: &mut dyn Write,
) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        let wanted = to_usize(range.end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        let part = &mut buffer[..wanted];
        Raw::get(file, false)?.read(at, part)?;
        target.write_all(part).map_err(|e| system("write what was read", &e))?;
        at += wanted as u64;
    }
    Ok(())
}

/// Why the byte `gone` of a mapped file can't be read: the daemon looks, and knows from then on what is lost with damaged memory or a device.
fn unreadable(file: &File, gone: u64) -> Error {
    match file.read_at(&mut [0], gone) {
        Err(e) if e.kind == ErrorKind::Lost => e,
        _ => cut(&file.inner.path, gone),
    }
}

fn cut(path: &StorePath, gone: u64) -> Error {
    Error::corrupt(format!(
        "{path}: its bytes from {gone} on can't be read: its object has been cut by who may write it (codax check says what is lost)"
    ))
}

/// A file that is being written by descriptor.
struct Sink<'a> {
    file: &'a Inner,
    /// Length it has now.
    len: u64,
    raw: Option<Raw<'a>>,
}

impl<'a> Sink<'a> {
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = at + bytes.len() as u64;
        if end > self.len {
            let ample = end.max(self.len + self.len.min(GROW_MAX));
            match self.set_len(ample) {
                // There may be room for what is there, if not for what may come.
                Err(e) if is_full(&e) && ample > end => self.set_len(end)?,
                other => other?,
            }
        }
        let raw = match self.raw.take() {
            Some(raw) => raw,
            None => Raw::get(self.file, true)?,
        };
        self.raw.insert(raw).write(at, bytes)
    }

    /// Gives the file the length that was written.
    fn finish(&mut self, len: u64) -> Result<()> {
        self.raw = None;
        if len < self.len { self.set_len(len) } else { Ok(()) }
    }

    fn set_len(&mut self, len: u64) -> Result<()> {
        // What grows may lie in other pools, to which there are no descriptors yet.
        self.raw = None;
        reply_as!(self.file.ask(|handle| Request::SetLen { handle, len })?, Reply::Done => ())?;
        self.len = len;
        Ok(())
    }
}

/// The descriptors of a file's objects. What lies on devices has none: it is read and written through the daemon.
struct Raw<'a> {
    file: &'a Inner,
    generation: u64,
    len: u64,
    runs: Vec<PoolRun>,
    objects: HashMap<PoolId, OwnedFd>,
}

impl<'a> Raw<'a> {
    fn get(file: &'a Inner, write: bool) -> Result<Self> {
        let (layout, fds, generation) = file.client.link.with(|turn| {
            let handle = file.handle(turn)?;
            match turn.ask_fds(&Request::Raw { handle, write }, &[])? {
                (Reply::Layout(layout), fds) => Ok((layout, fds, turn.generation())),
                (other, _) => Err(Trouble::from(unexpected(&other))),
            }
        })?;
        let mut raw = Self { file, generation, len: layout.len, runs: Vec::new(), objects: HashMap::new() };
        raw.objects = by_pool(&layout, fds)?;
        raw.runs = layout.runs;
        Ok(raw)
    }

    /// Reads bytes; what is in no run is zeros.
    fn read(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        let end = at + buffer.len() as u64;
        if self.len < end {
            return Err(cut(&self.file.path, self.len));
        }
        buffer.fill(0);
        for run in &self.runs {
            let (from, to) = (run.pages.offset().max(at), (run.pages.end() * PAGE_SIZE).min(end));
            if from < to {
                let part = &mut buffer[to_usize(from - at)?..to_usize(to - at)?];
                let got = match self.objects.get(&run.pool) {
                    Some(object) => object::read_at(object, part, from).map_err(|e| system("read", &e))?,
                    None => self.file.read_at(part, from)?,
                };
                if got < part.len() {
                    return Err(cut(&self.file.path, from + got as u64));
                }
            }
        }
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let end = at + bytes.len() as u64;
        let pages = PageRange::of_bytes(at, end - at);
        let mut written = at;
        for run in self.runs.iter().filter(|run| run.pages.intersect(pages).is_some()) {
            let until = end.min(run.pages.end() * PAGE_SIZE);
            let part = &bytes[to_usize(written - at)?..to_usize(until - at)?];
            match self.objects.get(&run.pool) {
                Some(object) => {
                    object::write_all_at(object, part, written).map_err(|e| system("write", &e))?;
                }
                None => self.file.write_at(part, written)?,
            }
            written = until;
        }
        if written == end { Ok(()) } else { Err(Error::corrupt("the daemon's layout of a file has gaps")) }
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        self.objects.clear();
        self.file.client.link.tell(self.generation, &Request::RawDone { file: self.file.id });
    }
}

/// Reads until the buffer is full or the source ends.
fn fill(source: &mut dyn Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(system("read the source", &e)),
        }
    }
    Ok(filled)
}

/// Whether there is no room, for anybody or for those who pay for the file.
fn is_full(e: &Error) -> bool {
    matches!(e.kind, ErrorKind::NoSpace | ErrorKind::QuotaExceeded)
}

fn system(what: &str, e: &io::Error) -> Error {
    let kind = match e.kind() {
        io::ErrorKind::StorageFull => ErrorKind::NoSpace,
        io::ErrorKind::QuotaExceeded => ErrorKind::QuotaExceeded,
        io::ErrorKind::PermissionDenied => ErrorKind::Permission,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("{what}: {e}"))
}
