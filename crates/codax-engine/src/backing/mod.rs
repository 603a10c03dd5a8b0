//! What holds the bytes of a pool: one object for each file, reached through one narrow trait.

mod devdax;
mod fsdax;
mod gather;
mod hugetlb;
mod missing;
mod reserve;
mod shm;

pub(crate) use devdax::Devdax;
pub(crate) use fsdax::{Fsdax, OBJECTS};
pub(crate) use hugetlb::{Hugetlb, Place, give_back, raised_path};
pub(crate) use missing::Missing;
pub use reserve::Reserve;
pub(crate) use reserve::Share;
pub use shm::{Shm, ShmOptions};

use codax_core::extent::{Extent, FrameRun};
use codax_core::info::ReserveInfo;
use codax_core::{Error, ErrorKind, FileId, PageCount, PageRange, Result};
use codax_os::copy::SourceMap;
use codax_os::object;
use codax_os::process::Held;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// What keeps memory of a node from others, and can lend it to them: all in whole pages.
pub trait Lender: Send + Sync {
    /// Bytes of a page.
    fn unit(&self) -> u64;
    /// Bytes that it has, in files of nobody.
    fn held(&self) -> Result<u64>;
    /// Whether it has had all that there was for it once. Before, others have what it hasn't got yet in any case.
    fn is_populated(&self) -> bool {
        true
    }
    /// Why it can lend nothing, if it can't.
    fn why_not(&self) -> Option<String> {
        None
    }
    /// Gives so many bytes to the node, or as many as there are, for whoever comes; returns how many. They are not taken again until they are taken back.
    fn lend(&self, bytes: u64) -> Result<u64>;
    /// Takes up to so many bytes of what was lent, as far as the node has them free by now; returns how many.
    fn take_back(&self, bytes: u64) -> Result<u64>;
    /// Some was lent before the start: beside that it is to have so many bytes. Said before anything is taken.
    fn go_on(&self, _unused: u64) -> Result<()> {
        Ok(())
    }
    /// Nothing is lent any more.
    fn is_whole(&self) {}
}

/// What an object is, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Length in bytes.
    pub len: u64,
    /// Pages that have memory.
    pub allocated: PageCount,
    /// Device number and inode number, by which its holders are found.
    pub identity: (u64, u64),
}

/// Where on a device pages of a file are, for those who map them by themselves.
pub use codax_core::request::OnDevice;

/// Where the objects of a pool are. An object lies at the same offsets as its file, and is as long, or as long as whole pages of the medium.
///
/// Pages that an object gives are zero until somebody writes them: the medium clears what it takes back.
pub trait Backing: Send + Sync + std::fmt::Debug {
    /// How long the object of a file of `len` bytes is.
    fn object_len(&self, len: u64) -> u64 {
        len
    }
    /// Makes the object of `file`, which is `len` bytes long, with no memory. `Exists` if there is one.
    fn create(&self, file: FileId, len: u64) -> Result<OwnedFd>;
    /// Opens the object of `file`: an open description of its own.
    fn open(&self, file: FileId, write: bool) -> Result<OwnedFd>;
    /// Removes the object; its memory goes when the last mapping does.
    fn remove(&self, file: FileId) -> Result<()>;
    /// The device number that all objects have in their identities.
    fn device(&self) -> Result<u64>;
    /// All objects.
    fn list(&self) -> Result<Vec<(FileId, ObjectInfo)>>;
    /// What else is where the objects are, by names for people: nothing of the store's.
    fn strays(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    /// Gives memory to these pages: zero, and never to be missing later. `NoSpace` if there isn't any.
    fn allocate(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()>;
    /// Gives memory to pages that will be written in whole, and sees to it that the medium has cleared what it has to clear: so that the write itself
    /// is fast, when somebody waits for it. A failure is not an error: the write tells.
    fn make_ready(&self, object: BorrowedFd<'_>, pages: PageRange);
    /// Sees to it that pages which are about to be written get their memory, and from where the pool is; where a write doesn't give it, this does.
    /// `NoSpace` if there isn't any.
    fn before_write(&self, _object: BorrowedFd<'_>, _pages: PageRange) -> Result<()> {
        Ok(())
    }
    /// Says which frames pages of a file are in from now on, before they get memory: for media where that is what they are.
    fn bind(&self, _file: FileId, _extents: &[Extent]) -> Result<()> {
        Ok(())
    }
    /// Says which frames a file of `len` bytes has since before the start, and makes its object if that doesn't outlive the power.
    fn adopt(&self, _file: FileId, _len: u64, _extents: &[Extent]) -> Result<()> {
        Ok(())
    }
    /// Gives the object of a file another number: it is there under both, until the first is removed.
    fn renumber(&self, _was: FileId, _is: FileId) -> Result<()> {
        Ok(())
    }
    /// Mappings that processes have of the device by themselves, whichever file they are of.
    fn mappings(&self) -> Result<Vec<Held>> {
        Ok(Vec::new())
    }
    /// Whether one of those shows these pages of a file.
    fn is_mapped(&self, _file: FileId, _pages: &[PageRange], _by: &Held) -> bool {
        false
    }
    /// The frames that those show, whichever file they are of.
    fn mapped(&self) -> Result<Vec<FrameRun>> {
        Ok(Vec::new())
    }
    /// Which of these pages of a file can't be read since their memory is damaged; none where nothing of the device can be read. Reads them all.
    fn damaged(&self, _file: FileId, _pages: &[PageRange]) -> Result<Vec<PageRange>> {
        Ok(Vec::new())
    }
    /// Frames whose memory is known to be damaged.
    fn bad_frames(&self) -> Vec<FrameRun> {
        Vec::new()
    }
    /// Frames that could not be given to files since their memory is damaged, as was seen by that.
    fn unfit(&self) -> Vec<FrameRun> {
        Vec::new()
    }
    /// Why nothing can be had of it, if its device isn't there.
    fn gone(&self) -> Option<String> {
        None
    }
    /// Where these pages are on a device that whoever maps them opens himself; `None` where objects are mapped by their descriptors.
    fn on_device(&self, _file: FileId, _pages: &[PageRange]) -> Option<OnDevice> {
        None
    }
    /// The object, mapped to be copied from.
    fn source(&self, _file: FileId, object: BorrowedFd<'_>, len: u64) -> Result<SourceMap> {
        SourceMap::new(object, len).map_err(|e| os_error("map", &"an object", &e))
    }
    /// Whether mappings of it can't be write-protected (userfaultfd(2) has only tmpfs and hugetlbfs).
    fn is_closed_to_freeze(&self) -> bool {
        false
    }
    /// Makes what is in these pages durable, as far as the medium is.
    fn persist(&self, _object: BorrowedFd<'_>, _pages: PageRange) -> Result<()> {
        Ok(())
    }
    /// How many of these pages have memory.
    fn resident(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<PageCount> {
        let bytes = object::resident_bytes(object, pages.offset(), pages.bytes())
            .map_err(|e| os_error("look at", &"an object", &e))?;
        Ok(PageCount::for_bytes(bytes))
    }
    /// Whether [`Backing::resident`] knows it of each page; else only of the object as a whole.
    fn tells_which(&self) -> bool {
        true
    }
    /// Whether who maps an object needs a descriptor to map it once more: the kernel doesn't duplicate mappings of it.
    fn is_never_duplicated(&self) -> bool {
        false
    }
    /// What it has of the kernel's huge pages, if it is made of such.
    fn reserve(&self) -> Option<ReserveInfo> {
        None
    }
    /// Whether what its objects are given counts for the limit of the daemon's memory.
    fn is_charged(&self) -> bool {
        false
    }
    /// The reserve that files get their memory from, where it is one of small or transparent huge pages.
    fn holder(&self) -> Option<Arc<Reserve>> {
        None
    }
    /// What can lend memory of its node.
    fn lender(&self) -> Option<Arc<dyn Lender>> {
        self.holder().map(|reserve| reserve as Arc<dyn Lender>)
    }
    /// Takes back to where it keeps them what huge pages objects have let go of. Called now and then.
    fn tend(&self) {}
    /// Says how many of the pool's frames no file has: a medium that keeps memory for them keeps so much.
    fn keep(&self, _unused: PageCount) {}
    /// The same, of a pool that begins: the memory is there when it returns, as far as there is any.
    fn keep_all(&self, _unused: PageCount) -> Result<()> {
        Ok(())
    }
    /// Says that so many pages of the pool have been brought to where another pool is, before their frames are free: a medium that keeps memory keeps that.
    fn gave(&self, _pages: PageCount) {}
    /// Sees to it that these pages, which have memory, lie where the pool is; the medium may have given them elsewhere. `NoSpace` where they can't
    /// be brought there: the pool's own memory is taken. `DeviceState` where it is gone.
    fn confirm(&self, _object: BorrowedFd<'_>, _pages: PageRange) -> Result<()> {
        Ok(())
    }
    /// Whether it says of pages where they are to lie.
    fn is_placed(&self) -> bool {
        false
    }
    /// Has new memory of these pages, and of all behind them if there is no end, come from where the pool is.
    fn prefer(&self, _object: BorrowedFd<'_>, _pages: PageRange) -> Result<()> {
        Ok(())
    }
    /// Has the kernel bring these pages to where the pool is, from where another pool of the same medium is, under whoever maps them; returns those that
    /// are there now. Others somebody keeps where they are, or there is no room.
    fn take_over(&self, _object: BorrowedFd<'_>, _pages: PageRange) -> Result<Vec<PageRange>> {
        Err(Error::internal("pages are brought only between the pools of one medium"))
    }
    /// Why so many pages more can't be brought to where the pool is, if that is for want of memory there.
    fn why_full(&self, _pages: PageCount) -> Option<Error> {
        None
    }
    /// How much memory all objects of the medium may have, in bytes.
    fn limit(&self, _bytes: u64) -> Result<()> {
        Ok(())
    }
    /// How many of these pages, which have memory, lie elsewhere than where the pool is.
    fn astray(&self, _object: BorrowedFd<'_>, _pages: PageRange) -> Result<PageCount> {
        Ok(PageCount(0))
    }
    /// Takes the memory of these pages back.
    fn release(&self, object: BorrowedFd<'_>, pages: PageRange) -> Result<()>;
    /// Sets the object's length to that for a file of `len` bytes.
    fn resize(&self, object: BorrowedFd<'_>, len: u64) -> Result<()>;
    /// Reads bytes from `at` on until `buf` is full or the object ends; returns how many.
    fn read(&self, object: BorrowedFd<'_>, buf: &mut [u8], at: u64) -> Result<usize>;
    /// Writes bytes from `at` on, all of them.
    fn write(&self, object: BorrowedFd<'_>, bytes: &[u8], at: u64) -> Result<()>;
    /// Writes bytes at the end of the object, wherever that is by now; returns how many: fewer where the medium got full.
    fn append(&self, object: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize>;
    /// Copies `len` bytes at `at` of a mapped object to the same place in another; returns how many: fewer where the source has been cut.
    fn copy(&self, from: &SourceMap, at: u64, len: u64, to: BorrowedFd<'_>) -> Result<u64>;
    /// Opens the object with a write lease: proof that no other open description of it and no mapping is left anywhere. `None` if there is one.
    fn sole_holder(&self, file: FileId) -> Result<Option<OwnedFd>>;
    /// The same where it is known already that none of its [mappings](Backing::mappings) shows the object.
    fn lease(&self, file: FileId) -> Result<Option<OwnedFd>> {
        self.sole_holder(file)
    }
    /// Keeps these pages of the object, and no others, from being swapped, where the pool itself doesn't. They have memory.
    fn lock(&self, file: FileId, object: BorrowedFd<'_>, pages: &[PageRange]) -> Result<()>;
    /// Undoes [`Backing::lock`]: a locked object is mapped, and so it has a holder.
    fn unlock(&self, file: FileId);
}

/// Zeros that are written at once, in bytes.
const ZEROS: usize = 64 << 10;

/// Writes zeros over bytes of an object, from `at` to `end`.
pub(crate) fn write_zeros(
    backing: &dyn Backing,
    object: BorrowedFd<'_>,
    mut at: u64,
    end: u64,
) -> Result<()> {
    while at < end {
        let n = usize::try_from(end - at).unwrap_or(ZEROS).min(ZEROS);
        backing.write(object, &[0; ZEROS][..n], at)?;
        at += n as u64;
    }
    Ok(())
}

/// An object's file name.
#[must_use]
pub fn object_name(file: FileId) -> String {
    format!("{:016x}", file.0)
}

/// The file whose object has this name, if it is an object's.
pub(crate) fn object_of(name: &str) -> Option<FileId> {
    let file = FileId(u64::from_str_radix(name, 16).ok()?);
    (object_name(file) == name).then_some(file)
}

/// Writes a small file that is there whole or not at all, by way of one of its own beside it.
pub(crate) fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut name = OsString::from("new-");
    name.push(path.file_name().unwrap_or_default());
    let new = path.with_file_name(name);
    fs::write(&new, text).and_then(|()| fs::rename(&new, path))
}

/// An error of the system as one of the store's.
pub(crate) fn os_error(what: &str, subject: &dyn std::fmt::Display, e: &io::Error) -> Error {
    let kind = match e.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::Permission,
        io::ErrorKind::AlreadyExists => ErrorKind::Exists,
        io::ErrorKind::StorageFull | io::ErrorKind::OutOfMemory => ErrorKind::NoSpace,
        io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => ErrorKind::Invalid,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("{what} {subject}: {e}"))
}
