use crate::driver::Drive;
use codax_core::driver::{DeviceInfo, QueueId};
use codax_core::info::{
    Event, FileInfo, Finding, JobInfo, JobReport, QuotaInfo, ServedOn, StoreInfo, Strangers,
};
use codax_core::mounting::MountOptions;
use codax_core::name::StorePath;
use codax_core::request::{Handle, Layout, Mapped, Open, PinId, PlacementSpec, QuotaOf};
use codax_core::{Error, FileId, PageRange};
use serde::{Deserialize, Serialize};

/// First message of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::MAGIC`].
    pub magic: u32,
    /// [`crate::VERSION`].
    pub version: u32,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Must come first. Answered by [`Reply::Welcome`].
    Hello(Hello),
    /// Before the first `Map`. Carries one descriptor, the daemon's end of the control socket. Answered by [`Reply::Attached`].
    Attach(Attach),
    /// Opens or creates a file. Answered by [`Reply::Opened`], with descriptors if `map` was asked for.
    Open(Open),
    /// *One-way.* Forgets a handle (and frees a file without names when it was the last that held it).
    Close(Handle),
    /// Where the file's pages are; the session counts as a mapper from now on, until as many `Unmap`s as `Map`s. Answered by [`Reply::Layout`] with a descriptor for
    /// each pool that occurs in the layout's runs, in the order of first occurrence; each is an open description of its own,
    /// read-only unless `write`.
    Map {
        /// The file.
        handle: Handle,
        /// Whether the mapping may write; `Permission` if the handle may not.
        write: bool,
    },
    /// *One-way.* The process has so many connections now, as in [`Attach::links`].
    Links(u32),
    /// *One-way.* A mapping is gone.
    Unmap {
        /// The file.
        file: FileId,
    },
    /// As `Map`, for copying by descriptor: the session holds the file *raw* until `RawDone` (or its end), and a raw-held file is busy for
    /// moves. Answered as `Map` is.
    Raw {
        /// The file.
        handle: Handle,
        /// Whether to write.
        write: bool,
    },
    /// *One-way.* The descriptors got by `Raw` are closed.
    RawDone {
        /// The file.
        file: FileId,
    },
    /// Bytes of a file, through the daemon: of one that lies where the client may not map it. Answered by [`Reply::Bytes`]: fewer than asked for where the file
    /// ends, or where more don't fit a packet.
    Read {
        /// The file, opened for reading.
        handle: Handle,
        /// The first byte.
        at: u64,
        /// How many.
        len: u32,
    },
    /// Writes bytes of a file through the daemon. They are within its length: this makes no file longer. Answered by [`Reply::Done`].
    Write {
        /// The file, opened for writing.
        handle: Handle,
        /// The first byte.
        at: u64,
        /// At most [`crate::BYTES_MAX`].
        bytes: Vec<u8>,
    },
    /// Makes what was stored in a file durable, as far as where it lies outlives the power. Answered by [`Reply::Done`].
    Sync(Handle),
    /// Sets a file's length; new pages are zero, and backed when this returns. Answered by [`Reply::Done`].
    SetLen {
        /// The file, opened for writing.
        handle: Handle,
        /// New length in bytes.
        len: u64,
    },
    /// Gives a file made with `unnamed` its name. Answered by [`Reply::Done`].
    Publish {
        /// The file.
        handle: Handle,
        /// Its name.
        path: StorePath,
        /// Whether an existing file of that name is replaced (else `Exists`).
        replace: bool,
    },
    /// Holds a range for DMA: it is not moved until `Unpin`. Waits for a chunk of it that is being moved. Answered by [`Reply::Pinned`].
    Pin {
        /// The file.
        handle: Handle,
        /// The pages.
        pages: PageRange,
    },
    /// Ends a pin. Answered by [`Reply::Done`].
    Unpin(PinId),
    /// A file by name. Answered by [`Reply::File`].
    Stat(StorePath),
    /// An open file. Answered by [`Reply::File`].
    StatHandle(Handle),
    /// A directory's entries after the name `after`, as many as fit a packet. Answered by [`Reply::Entries`].
    ReadDir {
        /// The directory.
        path: StorePath,
        /// The name to go on after.
        after: Option<Vec<u8>>,
    },
    /// Makes a directory. Answered by [`Reply::Done`].
    Mkdir {
        /// Its path.
        path: StorePath,
        /// Permission bits, umask already taken off.
        mode: u16,
        /// A placement of its own.
        placement: Option<PlacementSpec>,
    },
    /// Removes a file or an empty directory, or with `recursive` a whole tree. Answered by [`Reply::Done`].
    Remove {
        /// Its path.
        path: StorePath,
        /// Whether what is below a directory goes too.
        recursive: bool,
    },
    /// Renames. Answered by [`Reply::Done`].
    Rename {
        /// Old path.
        from: StorePath,
        /// New path.
        to: StorePath,
        /// Whether an existing target is `Exists` instead of replaced.
        noreplace: bool,
    },
    /// Changes attributes. Answered by [`Reply::Done`].
    SetAttr {
        /// The file or directory.
        path: StorePath,
        /// Permission bits.
        mode: Option<u16>,
        /// Owner.
        uid: Option<u32>,
        /// Group.
        gid: Option<u32>,
        /// Placement; `Some(None)` makes it the directory's again. What is there already stays where it is.
        placement: Option<Option<PlacementSpec>>,
    },
    /// Whether a file, or what is in a directory, may be on a device for want of room in `dram`; a directory above that forbids it comes before. Answered by
    /// [`Reply::Done`].
    SetEmergency {
        /// The file or directory.
        path: StorePath,
        /// Whether it may.
        allowed: bool,
    },
    /// Bytes and files below a path, per pool. Answered by [`Reply::Usage`].
    Usage(StorePath),
    /// Moves pages of a file to a pool. Needs write permission on the file. Answered by progress and [`Reply::Job`]. A client that hangs up cancels it.
    Move {
        /// The file.
        path: StorePath,
        /// The pool's name.
        to: String,
        /// Byte offset and length; `None` for all.
        range: Option<(u64, u64)>,
    },
    /// Drains a device. Store's owner only. Answered by progress and [`Reply::Job`]. A client that hangs up cancels it: the device is online again.
    Drain {
        /// The device's name.
        pool: String,
        /// Only plan.
        dry_run: bool,
        /// How long to wait for held files, in nanoseconds; 0 refuses at once.
        wait_ns: u64,
        /// Bandwidth limit in bytes per second.
        limit: Option<u64>,
        /// Whether to kill who holds a file and does not let go within the wait (and who answers late).
        evict: bool,
        /// Whether what outlives the power may go where it doesn't.
        volatile: bool,
        /// Whether a device that doesn't come to a safe point in time is reset.
        reset: bool,
        /// Whether its coprocessor goes on: only its memory is emptied.
        running: bool,
    },
    /// Puts a device back in service, and brings home what a drain took away; cancels a drain that runs. Store's owner only. Answered by progress
    /// and [`Reply::Job`].
    Online {
        /// The device's name.
        pool: String,
        /// Whether it is reset, and the state that is kept of it dropped.
        anew: bool,
    },
    /// Lets go of an offline device's memory. Store's owner only. Answered by [`Reply::Done`].
    DetachDevice {
        /// The device's name.
        pool: String,
    },
    /// Takes a detached device's memory again. Store's owner only. Answered by [`Reply::Done`].
    AttachDevice {
        /// The device's name.
        pool: String,
    },
    /// What the store says of itself. Answered by [`Reply::Store`].
    Status,
    /// Events from number `since` on (at most as many as fit a packet); with `wait` the answer comes when there is one, or empty after a second.
    /// Store's owner only. Answered by [`Reply::Events`].
    Events {
        /// First number wanted.
        since: u64,
        /// Whether to wait for one.
        wait: bool,
    },
    /// Compares table, journal and objects. Store's owner only. Answered by [`Reply::Findings`].
    Check {
        /// Whether to mend.
        repair: bool,
    },
    /// Reads the configuration again. Store's owner only. Answered by [`Reply::Lines`]: what changed, and what needs a restart.
    Reload,
    /// Mounts the store on an empty directory, given by an absolute path. Store's owner only. Answered by [`Reply::Done`].
    Mount {
        /// The directory.
        dir: Vec<u8>,
        /// What the mount is to be like.
        options: MountOptions,
    },
    /// Unmounts it from a directory, or from all. Store's owner only. Answered by [`Reply::Dirs`]: from where.
    Umount {
        /// The directory.
        dir: Option<Vec<u8>>,
    },
    /// How a file is served on the mounts. Answered by [`Reply::Served`].
    Served(StorePath),
    /// Ends the daemon; with `purge` the store is deleted with everything it mounted. Store's owner only. Answered by [`Reply::Done`] once
    /// the store is closed (the process ends right after).
    Down {
        /// Whether to delete the store.
        purge: bool,
    },
    /// Moves what processes have on a device's NUMA node to the nodes of `dram`, or says what would be moved. Store's owner only. Answered by
    /// [`Reply::Strangers`].
    EvictStrangers {
        /// The device's name.
        pool: String,
        /// Only plan.
        dry_run: bool,
    },
    /// A device, and what its driver says of it now. Answered by [`Reply::Device`].
    Device {
        /// Its name.
        pool: String,
    },
    /// This connection is that of a device's driver from now on. For the user that the configuration names, and root. Answered by [`Reply::Done`], and then see
    /// [`crate::driver`].
    Drive(Box<Drive>),
    /// Lets a user or directory have no more than so much of a pool, or as much as there is again. Store's owner only. Answered by [`Reply::Done`].
    SetQuota {
        /// Whose.
        of: QuotaOf,
        /// The pool's name; `None`, where the limit is taken away, for all.
        pool: Option<String>,
        /// The limit in bytes; `None` takes it away.
        bytes: Option<u64>,
    },
    /// Quotas from number `first` on, counted from 0, as many as fit a packet. Answered by [`Reply::Quotas`].
    Quotas {
        /// First number wanted.
        first: u64,
    },
    /// A queue to a device's coprocessor. Answered by [`Reply::Queue`] with the descriptor of its ring, of which the client takes the submitter's end. It is closed when the
    /// session ends.
    Queue {
        /// The device's name.
        pool: String,
        /// Requests that fit in: a power of two.
        slots: u32,
    },
    /// Lets descriptors of a queue name a file, to read it as far as the handle may, and with `write` to write it. Answered by [`Reply::Granted`].
    Grant {
        /// The session's queue.
        queue: QueueId,
        /// The session's file.
        handle: Handle,
        /// Whether it may be written.
        write: bool,
    },
    /// *One-way.* Closes a queue.
    CloseQueue(QueueId),
    /// Opens a file that was granted to a queue of a device that the session's process drives. Answered by [`Reply::Opened`].
    OpenGranted {
        /// The queue.
        queue: QueueId,
        /// What its descriptors call the file.
        number: u32,
    },
}

/// Body of [`Request::Attach`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Whether the client's userfaultfd (or the `/dev/userfaultfd` it would be handed) covers faults of system calls; the client finds out
    /// after the reply and says it again with a second `Attach` without a descriptor.
    pub kernel_faults: bool,
    /// Whether the program accepts that a system call into a chunk that moves may fail with EFAULT.
    pub user_faults_ok: bool,
    /// After a reconnect: what the client maps, as it sees it.
    pub mapped: Vec<Mapped>,
    /// Connections of the client's process to this store over which it maps or may map files, this one among them. As long as fewer have
    /// attached, what the process maps may belong to one that can't be told of moves yet.
    pub links: u32,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It did not work.
    Error(Error),
    /// To `Hello`.
    Welcome {
        /// [`crate::VERSION`].
        version: u32,
        /// The daemon's process id.
        pid: u32,
        /// A number that each start of a daemon draws anew.
        epoch: u64,
    },
    /// To `Attach`. Carries a read-only descriptor of the commit words and, if the daemon has one to give, one of `/dev/userfaultfd`.
    Attached,
    /// To `Open`.
    Opened {
        /// The handle.
        handle: Handle,
        /// The file.
        file: FileId,
        /// Its length in bytes.
        len: u64,
        /// Whether this call made it.
        created: bool,
        /// To `map`: the layout; descriptors as for [`Request::Map`].
        layout: Option<Layout>,
    },
    /// To `Map` and `Raw`.
    Layout(Layout),
    /// To `Pin`.
    Pinned(PinId),
    /// To `Read`.
    Bytes(Vec<u8>),
    /// It is done.
    Done,
    /// To `Stat` and `StatHandle`.
    File(Box<FileInfo>),
    /// To `ReadDir`.
    Entries {
        /// Names and what they name (without extents).
        entries: Vec<(Vec<u8>, FileInfo)>,
        /// Whether there are more.
        more: bool,
    },
    /// To `Usage`.
    Usage {
        /// Files below.
        files: u64,
        /// Directories below, itself included.
        dirs: u64,
        /// Sum of lengths.
        len: u64,
        /// Bytes of frames, per pool name.
        backed: Vec<(String, u64)>,
    },
    /// How far it is.
    Progress(JobInfo),
    /// To `Move`, `Drain` and `Online`.
    Job(Box<JobReport>),
    /// To `Status`.
    Store(Box<StoreInfo>),
    /// To `Events`.
    Events(Vec<Event>),
    /// To `Check`.
    Findings(Vec<Finding>),
    /// To `Reload`.
    Lines(Vec<String>),
    /// To `Umount`.
    Dirs(Vec<Vec<u8>>),
    /// To `Served`.
    Served(Vec<ServedOn>),
    /// To `EvictStrangers`.
    Strangers(Box<Strangers>),
    /// To `Device`.
    Device(Box<DeviceInfo>),
    /// To `Quotas`.
    Quotas {
        /// Quotas, in the order in which they are numbered.
        quotas: Vec<QuotaInfo>,
        /// How many come after them.
        more: u64,
    },
    /// To `Queue`. Carries the descriptor of the ring.
    Queue(QueueId),
    /// To `Grant`: what descriptors call the file.
    Granted(u32),
}
