//! Open files.

use crate::link::{Attempt, Turn, lock, unexpected};
use crate::mapping::{Access, Mapping, Placed};
use crate::store::{Client, Store, reply_as, store_path};
use codax_core::driver::Granted;
use codax_core::extent::Extent;
use codax_core::info::FileInfo;
use codax_core::name::StorePath;
use codax_core::placement::Placement;
use codax_core::request::{Handle, Open, PlacementSpec};
use codax_core::{Error, ErrorKind, FileId, Result};
use codax_wire::{BYTES_MAX, Reply, Request};
use std::ffi::OsStr;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex};

/// How to open a file, as with [`std::fs::OpenOptions`], and where a new one's bytes go.
///
/// ```
/// # fn main() -> codax::Result<()> {
/// # let private = codax_testkit::Private::start()?;
/// # let dir = private.dir();
/// let store = codax::Store::connect(dir)?;
/// let file = codax::OpenOptions::new()
///     .read(true)
///     .write(true)
///     .create(true)
///     .on("sim0")
///     .len(16 << 20)
///     .open(&store, "/index")?;
/// assert_eq!(file.len()?, 16 << 20);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    read: bool,
    write: bool,
    create: bool,
    create_new: bool,
    truncate: bool,
    unnamed: bool,
    mode: Option<u16>,
    placement: Option<PlacementSpec>,
    no_emergency: bool,
    len: u64,
}

impl OpenOptions {
    /// Nothing is asked for yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// To read.
    #[must_use]
    pub fn read(mut self, read: bool) -> Self {
        self.read = read;
        self
    }

    /// To write.
    #[must_use]
    pub fn write(mut self, write: bool) -> Self {
        self.write = write;
        self
    }

    /// Makes the file if it isn't there.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Makes the file; `Exists` if it is there.
    #[must_use]
    pub fn create_new(mut self, create_new: bool) -> Self {
        self.create_new = create_new;
        self
    }

    /// Cuts the file to length 0 (needs `write`).
    #[must_use]
    pub fn truncate(mut self, truncate: bool) -> Self {
        self.truncate = truncate;
        self
    }

    /// Makes a new file that has no name and goes with the last who has it open or mapped, as `O_TMPFILE` of open(2) (needs `write`). The path says in
    /// which directory, whose placement it has; its last part is for messages only.
    #[must_use]
    pub fn unnamed(mut self, unnamed: bool) -> Self {
        self.unnamed = unnamed;
        self
    }

    /// Permission bits of a new file, instead of `0o666`. The umask that the process had when it connected is
    /// taken off.
    #[must_use]
    pub fn mode(mut self, mode: u16) -> Self {
        self.mode = Some(mode);
        self
    }

    /// A new file goes to this pool and to no other: full is no space. Without any placement the directory's applies.
    #[must_use]
    pub fn on(self, pool: &str) -> Self {
        self.placement(Some(PlacementSpec::On { pool: pool.to_owned(), strict: false }))
    }

    /// A new file goes to this pool, and to `dram` when it is full.
    #[must_use]
    pub fn prefer(self, pool: &str) -> Self {
        self.placement(Some(PlacementSpec::Prefer { pool: pool.to_owned() }))
    }

    /// A new file goes to these pools in turns of 2 MiB.
    #[must_use]
    pub fn interleave(self, pools: &[&str]) -> Self {
        let pools = pools.iter().map(|&pool| pool.to_owned()).collect();
        self.placement(Some(PlacementSpec::Interleave { pools }))
    }

    /// A new file's placement, or `None` for the directory's.
    #[must_use]
    pub fn placement(mut self, placement: Option<PlacementSpec>) -> Self {
        self.placement = placement;
        self
    }

    /// A new file is never on a device for want of room in `dram`, whatever is allowed there: full is no space.
    #[must_use]
    pub fn no_emergency(mut self, never: bool) -> Self {
        self.no_emergency = never;
        self
    }

    /// Length of a new file in bytes: zeros, backed when the call returns. A file that is there keeps its own.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "it sets a length")]
    pub fn len(mut self, len: u64) -> Self {
        self.len = len;
        self
    }

    /// Opens the file.
    pub fn open(&self, store: &Store, path: impl AsRef<OsStr>) -> Result<File> {
        let open = self.request(store, store_path(path)?)?;
        let (opened, _) = store.with(|turn| ask_open(turn, &open))?;
        Ok(File::new(store, &open, &opened))
    }

    /// Opens the file and maps `range` of it (as [`File::map`] does) in one request.
    pub fn open_mapped(
        &self,
        store: &Store,
        path: impl AsRef<OsStr>,
        range: impl RangeBounds<u64>,
        access: Access,
    ) -> Result<(File, Mapping)> {
        let mut open = self.request(store, store_path(path)?)?;
        open.map = Some(access == Access::ReadWrite);
        let switcher = store.client.switcher()?;
        let making = switcher.making();
        let (opened, placed) = store.with(|turn| ask_open(turn, &open))?;
        let file = File::new(store, &open, &opened);
        let placed = placed.ok_or_else(|| Error::corrupt("the daemon opened a file and did not map it"))?;
        let mapping = Mapping::make(&file.inner, &switcher, &range, access, Some((making, placed)))?;
        Ok((file, mapping))
    }

    fn request(&self, store: &Store, path: StorePath) -> Result<Open> {
        let write = self.write;
        if !(self.read || write) {
            return Err(Error::invalid(format!("open {path}: neither to read nor to write")));
        }
        if (self.create || self.create_new || self.truncate || self.unnamed) && !write {
            return Err(Error::invalid(format!(
                "open {path}: to create or truncate a file needs write access"
            )));
        }
        Ok(Open {
            path,
            read: self.read,
            write,
            create: self.create || self.create_new,
            exclusive: self.create_new,
            truncate: self.truncate,
            unnamed: self.unnamed,
            mode: self.mode.unwrap_or(0o666) & !store.client.umask,
            placement: self.placement.clone(),
            no_emergency: self.no_emergency,
            len: self.len,
            map: None,
        })
    }
}

/// What a request to open was answered with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened {
    pub(crate) handle: Handle,
    pub(crate) file: FileId,
    pub(crate) len: u64,
    generation: u64,
}

pub(crate) fn ask_open(turn: &Turn<'_>, open: &Open) -> Attempt<(Opened, Option<Placed>)> {
    let (reply, fds) = turn.ask_fds(&Request::Open(open.clone()), &[])?;
    match reply {
        Reply::Opened { handle, file, len, layout, .. } => {
            let opened = Opened { handle, file, len, generation: turn.generation() };
            let placed = layout.map(|layout| Placed::new(file, layout, fds, turn.generation())).transpose();
            Ok((opened, placed?))
        }
        other => Err(unexpected(&other).into()),
    }
}

/// An open file.
///
/// It stays open while the daemon is away; the next use after that opens the file by its name again, and fails with
/// `NotFound` if the name means another file by then.
#[derive(Clone, Debug)]
pub struct File {
    pub(crate) inner: Arc<Inner>,
}

/// What a file's clones and its mappings share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) client: Arc<Client>,
    pub(crate) path: StorePath,
    pub(crate) id: FileId,
    read: bool,
    write: bool,
    /// It can't be opened again by its name.
    nameless: bool,
    /// The handle, and the connection it is good for.
    handle: Mutex<(u64, Handle)>,
}

impl File {
    /// Opens a file to read.
    pub fn open(store: &Store, path: impl AsRef<OsStr>) -> Result<Self> {
        OpenOptions::new().read(true).open(store, path)
    }

    /// Opens a file to read and write; makes it if it isn't there, and cuts it to length 0 if it is.
    pub fn create(store: &Store, path: impl AsRef<OsStr>) -> Result<Self> {
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(store, path)
    }

    pub(crate) fn new(store: &Store, open: &Open, opened: &Opened) -> Self {
        Self {
            inner: Arc::new(Inner {
                client: Arc::clone(&store.client),
                path: open.path.clone(),
                id: opened.file,
                read: open.read,
                write: open.write,
                nameless: open.unnamed,
                handle: Mutex::new((opened.generation, opened.handle)),
            }),
        }
    }

    /// A file that was granted to a queue of a device which this process drives ([`crate::driver::Driver::grant`]), with the rights that it was granted with.
    pub fn open_granted(store: &Store, granted: &Granted) -> Result<Self> {
        let Granted { queue, number, .. } = *granted;
        let opened = store.with(|turn| match turn.ask(&Request::OpenGranted { queue, number })? {
            Reply::Opened { handle, file, len, .. } => {
                Ok(Opened { handle, file, len, generation: turn.generation() })
            }
            other => Err(unexpected(&other).into()),
        })?;
        Ok(Self {
            inner: Arc::new(Inner {
                client: Arc::clone(&store.client),
                path: StorePath::root(),
                id: opened.file,
                read: granted.read,
                write: granted.write,
                nameless: true,
                handle: Mutex::new((opened.generation, opened.handle)),
            }),
        })
    }

    /// The file's number, which no other file of the store ever has.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.inner.id
    }

    /// What the store knows of it.
    pub fn info(&self) -> Result<FileInfo> {
        reply_as!(self.inner.ask(Request::StatHandle)?, Reply::File(info) => *info)
    }

    /// Its length in bytes.
    #[allow(
        clippy::len_without_is_empty,
        reason = "it asks the daemon, and files that are empty are rarely the question"
    )]
    pub fn len(&self) -> Result<u64> {
        Ok(self.info()?.len)
    }

    /// Sets its length. New bytes are zero, and backed when this returns: `NoSpace` otherwise, and the length is what it was.
    ///
    /// Mappings keep the range they were made with. What a mapping has beyond the end of a file that was cut is SIGBUS to touch, as with mmap(2);
    /// map again what grows there later.
    pub fn set_len(&self, len: u64) -> Result<()> {
        reply_as!(self.inner.ask(|handle| Request::SetLen { handle, len })?, Reply::Done => ())
    }

    /// The placement in force for it.
    pub fn placement(&self) -> Result<Placement> {
        Ok(self.info()?.placement)
    }

    /// Where its pages are.
    pub fn extents(&self) -> Result<Vec<Extent>> {
        Ok(self.info()?.extents)
    }

    /// Maps the bytes `range` of the file, within its length and not empty (`Invalid` otherwise). The mapping may be moved, cut and dropped
    /// independently of others, of the same bytes too; it outlives this `File`.
    ///
    /// What lies on a DAX device is mapped by those who may open that (`/dev/dax0.0`): `Permission` for others, and `NotSupported` where it can't be opened
    /// for another reason. [`File::read_at`] and [`File::write_at`] are for all.
    ///
    /// ```
    /// # fn main() -> codax::Result<()> {
    /// # let private = codax_testkit::Private::start()?;
    /// # let dir = private.dir();
    /// use codax::{Access, File, Store};
    /// let store = Store::connect(dir)?;
    /// let file = File::create(&store, "/counters")?;
    /// file.set_len(4096)?;
    /// let mapping = file.map(.., Access::ReadWrite)?;
    /// let counter = mapping.memory().atomic_u64(0);
    /// assert_eq!(counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn map(&self, range: impl RangeBounds<u64>, access: Access) -> Result<Mapping> {
        let switcher = self.inner.client.switcher()?;
        Mapping::make(&self.inner, &switcher, &range, access, None)
    }

    /// Reads bytes from `offset` on through the daemon, until the buffer is full or the file ends; returns how many. Holes read as zeros. The bytes may lie where
    /// this process may not map them. Where they are gone it is `Lost`.
    ///
    /// ```
    /// # fn main() -> codax::Result<()> {
    /// # let private = codax_testkit::Private::start()?;
    /// # let dir = private.dir();
    /// use codax::{File, Store};
    /// let store = Store::connect(dir)?;
    /// let file = File::create(&store, "/records")?;
    /// file.set_len(100)?;
    /// file.write_at(b"the last one", 88)?;
    /// let mut last = [0; 20];
    /// assert_eq!(file.read_at(&mut last, 92)?, 8);
    /// assert_eq!(&last[..8], b"last one");
    /// # Ok(())
    /// # }
    /// ```
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    /// Writes bytes from `offset` on through the daemon, within the file's length: `Invalid` beyond it, and then a part of them may be written. They can be
    /// read, by whoever maps the file too, when this returns; durable they are after [`File::sync`].
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.inner.write_at(bytes, offset)
    }

    /// Makes what was written to the file through the daemon durable, as far as it lies in persistent pools; in others it does nothing. What this process stored
    /// in a mapping is made durable by [`Mapping::persist`].
    pub fn sync(&self) -> Result<()> {
        reply_as!(self.inner.ask(Request::Sync)?, Reply::Done => ())
    }
}

impl Inner {
    /// The handle on the connection of `turn`: the file is opened again after the daemon was away.
    pub(crate) fn handle(&self, turn: &Turn<'_>) -> Attempt<Handle> {
        let mut known = lock(&self.handle);
        if known.0 == turn.generation() {
            return Ok(known.1);
        }
        if self.nameless {
            let line = format!("the daemon went away while {} was being written: put it again", self.path);
            return Err(Error::new(ErrorKind::NoDaemon, line).into());
        }
        let open = Open {
            path: self.path.clone(),
            read: self.read,
            write: self.write,
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
        let (opened, _) = ask_open(turn, &open)?;
        if opened.file != self.id {
            self.client.link.tell(turn.generation(), &Request::Close(opened.handle));
            return Err(
                Error::not_found(format!("{} was replaced while the daemon was away", self.path)).into()
            );
        }
        *known = (turn.generation(), opened.handle);
        Ok(opened.handle)
    }

    pub(crate) fn ask(&self, request: impl Fn(Handle) -> Request) -> Result<Reply> {
        self.client.link.with(|turn| turn.ask(&request(self.handle(turn)?)))
    }

    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let part = (buffer.len() - done).min(BYTES_MAX);
            let (at, len) = (beyond(offset, done)?, u32::try_from(part).unwrap_or(u32::MAX));
            let reply = self.ask(|handle| Request::Read { handle, at, len })?;
            let bytes = reply_as!(reply, Reply::Bytes(bytes) => bytes)?;
            if bytes.is_empty() {
                break;
            }
            let space = buffer[done..].get_mut(..bytes.len());
            space
                .ok_or_else(|| Error::corrupt("the daemon sent more bytes than asked for"))?
                .copy_from_slice(&bytes);
            done += bytes.len();
        }
        Ok(done)
    }

    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        for (n, part) in bytes.chunks(BYTES_MAX).enumerate() {
            let at = beyond(offset, n * BYTES_MAX)?;
            let write = |handle| Request::Write { handle, at, bytes: part.to_vec() };
            reply_as!(self.ask(write)?, Reply::Done => ())?;
        }
        Ok(())
    }
}

/// An offset and so many bytes.
fn beyond(offset: u64, bytes: usize) -> Result<u64> {
    let end = offset.checked_add(bytes as u64);
    end.ok_or_else(|| Error::invalid(format!("no file has bytes beyond {offset} and {bytes} more")))
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Not by locking: in a fork the lock may be held by a thread that isn't there.
        let (generation, handle) = *self.handle.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.client.link.tell(generation, &Request::Close(handle));
    }
}
