//! The daemon's side of a store, as much of it as a client sees: two pools of tmpfs objects, of which the second may be a device, files, and moves that a
//! test drives step by step. Not a store: no journal, no allocation, no permissions.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod device;
pub mod traffic;

use codax_core::extent::PoolRun;
use codax_core::info::FileInfo;
use codax_core::live::{MoverAck, MoverMsg, Step, encode_word};
use codax_core::namespace::Kind;
use codax_core::placement::Placement;
use codax_core::request::{Handle, Layout, Mapped, OnDevice, Open, PinId};
use codax_core::{Error, FileId, MoveId, PAGE_SIZE, PageCount, PageRange, PoolId};
use codax_os::copy::SourceMap;
use codax_os::object::{self, ObjectDir};
use codax_os::sock;
use codax_os::words::SharedWords;
use codax_wire::{Channel, Reply, Request, SOCKET, VERSION};
use device::Device;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

pub const POOLS: u16 = 2;
const WORDS: usize = 8;

pub struct Fake {
    _tmp: [tempfile::TempDir; 2],
    dir: PathBuf,
    state: Arc<Mutex<State>>,
}

pub struct State {
    pools: Vec<ObjectDir>,
    /// What pool 1 is, if it isn't objects.
    pub device: Option<Device>,
    /// Pools that are said to outlive the power.
    pub persistent: Vec<u16>,
    /// Whether chunks are said to lie where the kernel can't write-protect.
    pub closed: bool,
    /// Pages of the largest unit: mappings and moves are of whole ones.
    pub block: u64,
    /// The pool that new pages go to.
    pub first: u16,
    pub words: Arc<SharedWords>,
    pub files: HashMap<FileId, FakeFile>,
    pub names: HashMap<Vec<u8>, FileId>,
    next_file: u64,
    next_handle: u32,
    next_move: u32,
    /// All sockets, to be cut when the daemon "dies".
    sockets: Vec<OwnedFd>,
    listener: Option<OwnedFd>,
    pub controls: Vec<Arc<Channel>>,
    /// What each `Attach` that carried a descriptor said.
    pub attached: Vec<Vec<Mapped>>,
    /// One-way requests and pins, as they came.
    pub heard: Vec<Request>,
    /// Answers `Map` only when this is over.
    pub hold_maps: bool,
    pub generation: u32,
}

#[derive(Clone)]
pub struct FakeFile {
    pub len: u64,
    /// The pool of each page.
    pub pages: Vec<u16>,
}

fn object_name(file: FileId) -> String {
    format!("{:016x}", file.0)
}

impl FakeFile {
    fn layout(&self) -> Layout {
        let mut runs: Vec<PoolRun> = Vec::new();
        for (page, &pool) in (0..).zip(&self.pages) {
            match runs.last_mut() {
                Some(run) if run.pool.0 == pool => run.pages.count.0 += 1,
                _ => runs.push(PoolRun { pages: PageRange::new(page, 1), pool: PoolId(pool) }),
            }
        }
        Layout { len: self.len, runs, block: 1, ..Layout::default() }
    }

    /// Those of some pages that are the file's.
    fn within(&self, pages: PageRange) -> PageRange {
        pages.intersect(PageRange::new(0, self.pages.len() as u64)).unwrap()
    }

    /// Its pages in a pool.
    fn pages_in(&self, pool: u16) -> Vec<PageRange> {
        let runs = self.layout().runs.into_iter().filter(|run| run.pool.0 == pool);
        runs.map(|run| run.pages).collect()
    }
}

impl State {
    pub fn object(&self, file: FileId, pool: u16) -> OwnedFd {
        self.pools[usize::from(pool)].open_object(&object_name(file), true).unwrap()
    }

    fn set_len(&mut self, file: FileId, len: u64) {
        let record = self.files.get_mut(&file).unwrap();
        let (old, pages) = (record.pages.len(), usize::try_from(PageCount::for_bytes(len).0).unwrap());
        record.len = len;
        record.pages.resize(pages, self.first);
        for pool in 0..POOLS {
            let object = self.object(file, pool);
            let bytes = PageCount::for_bytes(len).bytes();
            object::set_len(&object, bytes).unwrap();
            if pool == self.first && pages > old {
                object::allocate(&object, 0, bytes).unwrap();
            }
        }
    }

    pub fn make(&mut self, name: Option<&str>, len: u64) -> FileId {
        self.next_file += 1;
        let file = FileId(self.next_file);
        for pool in &self.pools {
            drop(pool.create(&object_name(file), 0).unwrap());
        }
        self.files.insert(file, FakeFile { len: 0, pages: Vec::new() });
        self.set_len(file, len);
        if let Some(name) = name {
            self.names.insert(name.as_bytes().to_vec(), file);
        }
        file
    }

    fn open(&mut self, open: &Open, handles: &mut HashMap<Handle, FileId>) -> (Reply, Vec<OwnedFd>) {
        let path = open.path.to_bytes();
        let known = self.names.get(&path).copied().filter(|_| !open.unnamed);
        let (file, created) = match known {
            Some(_) if open.exclusive => return (Reply::Error(Error::exists("it is there")), Vec::new()),
            Some(file) => (file, false),
            None if open.create => {
                let file = self.make(None, open.len);
                if !open.unnamed {
                    self.names.insert(path, file);
                }
                (file, true)
            }
            None => {
                return (Reply::Error(Error::not_found(format!("{}: no such file", open.path))), Vec::new());
            }
        };
        self.next_handle += 1;
        let handle = Handle(self.next_handle);
        handles.insert(handle, file);
        let (layout, fds) = match open.map {
            Some(_) => {
                let (layout, fds) = self.layout(file);
                (Some(layout), fds)
            }
            None => (None, Vec::new()),
        };
        (Reply::Opened { handle, file, len: self.files[&file].len, created, layout }, fds)
    }

    fn layout(&self, file: FileId) -> (Layout, Vec<OwnedFd>) {
        let record = &self.files[&file];
        let mut layout = record.layout();
        let mut pools: Vec<PoolId> = Vec::new();
        for run in &layout.runs {
            if !pools.contains(&run.pool) {
                pools.push(run.pool);
            }
        }
        layout.block = self.block;
        layout.persistent = self.persistent.iter().map(|&pool| PoolId(pool)).collect();
        if let Some(device) = self.device.as_ref().filter(|_| pools.contains(&PoolId(1))) {
            pools.retain(|pool| pool.0 != 1);
            layout.devices.push(device.place(file, &record.pages_in(1)));
        }
        (layout, pools.iter().map(|pool| self.object(file, pool.0)).collect())
    }

    /// Reads bytes where they are.
    fn read(&self, file: FileId, at: u64, len: u64) -> Vec<u8> {
        let record = &self.files[&file];
        let end = (at + len).min(record.len);
        let mut bytes = Vec::new();
        while at + (bytes.len() as u64) < end {
            let at = at + bytes.len() as u64;
            let len = (PAGE_SIZE - at % PAGE_SIZE).min(end - at);
            let pool = record.pages[usize::try_from(at / PAGE_SIZE).unwrap()];
            bytes.extend(self.read_from(file, pool, at, len));
        }
        bytes
    }

    /// Reads bytes of a file as its place in a pool has them.
    fn read_from(&self, file: FileId, pool: u16, at: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        match self.device.as_ref().filter(|device| pool == 1 && device.is_real()) {
            Some(device) => device.read(file, at, &mut bytes),
            None => {
                assert_eq!(object::read_at(self.object(file, pool), &mut bytes, at).unwrap(), bytes.len())
            }
        }
        bytes
    }

    /// Writes bytes of a file to its place in a pool.
    fn write_to(&self, file: FileId, pool: u16, at: u64, bytes: &[u8]) {
        match self.device.as_ref().filter(|device| pool == 1 && device.is_real()) {
            Some(device) => device.write(file, at, bytes),
            None => object::write_all_at(self.object(file, pool), bytes, at).unwrap(),
        }
    }

    fn info(&self, file: FileId) -> FileInfo {
        FileInfo {
            id: file,
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            len: self.files[&file].len,
            backed: self.files[&file].len.next_multiple_of(4096),
            mtime_ns: 0,
            ctime_ns: 0,
            placement: Placement::Prefer(PoolId(0)),
            placement_own: false,
            no_emergency: false,
            extents: Vec::new(),
            away: Vec::new(),
            spilled: None,
            runs: Vec::new(),
            mapped_by: Vec::new(),
            pins: 0,
            persistent: false,
            lost: Vec::new(),
        }
    }
}

impl Fake {
    pub fn start() -> Self {
        Self::start_with(Path::new("/dev/shm"))
    }

    /// With the objects of pool 1 below a directory.
    pub fn start_with(files: &Path) -> Self {
        let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
        let second = tempfile::tempdir_in(files).unwrap();
        let dir = tmp.path().to_owned();
        let pools = [dir.join("pool0"), second.path().join("pool1")].map(|path| {
            std::fs::create_dir(&path).unwrap();
            ObjectDir::open(&path).unwrap()
        });
        let state = State {
            pools: pools.into(),
            device: None,
            persistent: Vec::new(),
            closed: false,
            block: 1,
            first: 0,
            words: Arc::new(SharedWords::create(&dir.join("words"), WORDS, 0o644).unwrap()),
            files: HashMap::new(),
            names: HashMap::new(),
            next_file: 1,
            next_handle: 0,
            next_move: 0,
            sockets: Vec::new(),
            listener: None,
            controls: Vec::new(),
            attached: Vec::new(),
            heard: Vec::new(),
            hold_maps: false,
            generation: 0,
        };
        let fake = Self { _tmp: [tmp, second], dir, state: Arc::new(Mutex::new(state)) };
        fake.serve();
        fake
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Listens; also after [`Fake::die`].
    pub fn serve(&self) {
        let listener = sock::listen(&self.dir.join(SOCKET), 0o666).unwrap();
        let mut state = self.state();
        state.generation += 1;
        let generation = state.generation;
        state.listener = Some(listener.try_clone().unwrap());
        drop(state);
        let shared = Arc::clone(&self.state);
        let words = self.dir.join("words");
        std::thread::spawn(move || {
            while let Ok(fd) = sock::accept(&listener) {
                let mut state = shared.lock().unwrap();
                if state.generation != generation {
                    return;
                }
                state.sockets.push(fd.try_clone().unwrap());
                drop(state);
                let (shared, words) = (Arc::clone(&shared), words.clone());
                std::thread::spawn(move || session(&shared, &Channel::new(fd), &words));
            }
        });
    }

    /// Cuts all connections, as SIGKILL does.
    pub fn die(&self) {
        let mut state = self.state();
        state.generation += 1;
        std::fs::remove_file(self.dir.join(SOCKET)).unwrap();
        state.listener.take().iter().chain(&state.sockets).for_each(|fd| sock::shutdown(fd).unwrap());
        for control in &state.controls {
            sock::shutdown(&**control).unwrap();
        }
        state.sockets.clear();
        state.controls.clear();
        state.heard.clear();
    }

    /// Waits until `true`.
    pub fn until(&self, what: &str, condition: impl Fn(&mut State) -> bool) {
        let start = Instant::now();
        while !condition(&mut self.state()) {
            assert!(start.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A move of all of a file to `to`.
    pub fn mover(&self, file: FileId, to: u16, chunk_pages: u64) -> Mover<'_> {
        let mut state = self.state();
        state.next_move += 1;
        let id = MoveId(state.next_move);
        let slot = u16::try_from(id.0 % 8).unwrap();
        let pages = u64::try_from(state.files[&file].pages.len()).unwrap();
        let chunks = (0..pages).step_by(usize::try_from(chunk_pages).unwrap());
        let chunks: Vec<_> = chunks
            .map(|start| PageRange::new(start, chunk_pages.min(pages - start)).widened(state.block))
            .collect();
        let controls = state.controls.clone();
        state.words.store(usize::from(slot), encode_word(id, 0));
        drop(state);
        Mover { fake: self, controls, id, slot, file, to, chunks }
    }

    /// Moves all of a file, with all steps.
    pub fn move_file(&self, file: FileId, to: u16, chunk_pages: u64) {
        let mover = self.mover(file, to, chunk_pages);
        mover.begin();
        let single = mover.mappings() == 1;
        for chunk in mover.each() {
            mover.freeze(chunk);
            mover.copy(chunk);
            if !single {
                mover.hold(chunk);
            }
            mover.commit(chunk);
            mover.switch(chunk);
        }
        mover.end();
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if self.state().listener.is_some() {
            self.die();
        }
    }
}

/// A segment, step by step; each step waits for all answers.
pub struct Mover<'a> {
    fake: &'a Fake,
    controls: Vec<Arc<Channel>>,
    id: MoveId,
    slot: u16,
    file: FileId,
    to: u16,
    pub chunks: Vec<PageRange>,
}

impl Mover<'_> {
    pub fn each(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.chunks.len()).unwrap()
    }

    /// Where on a device the chunks will be.
    fn device(&self) -> Option<OnDevice> {
        let state = self.fake.state();
        let device = state.device.as_ref().filter(|_| self.to == 1)?;
        let within = |pages: &PageRange| state.files[&self.file].within(*pages);
        Some(device.place(self.file, &self.chunks.iter().map(within).collect::<Vec<_>>()))
    }

    fn ask(&self, message: &MoverMsg, step: Step, object: Option<&OwnedFd>) -> Vec<MoverAck> {
        for control in &self.controls {
            let fds: Vec<_> = object.iter().map(|fd| fd.as_fd()).collect();
            control.send(message, &fds).unwrap();
        }
        self.controls
            .iter()
            .map(|control| {
                let (ack, _) = control.recv::<MoverAck>().unwrap().expect("an answer");
                assert_eq!((ack.id, ack.step), (self.id, step));
                ack
            })
            .collect()
    }

    fn must(&self, message: &MoverMsg, step: Step) {
        for ack in self.ask(message, step, None) {
            assert_eq!(ack.refused, None);
        }
    }

    pub fn try_begin(&self) -> Vec<MoverAck> {
        let persistent = self.fake.state().persistent.contains(&self.to);
        let message = MoverMsg::Begin {
            id: self.id,
            slot: self.slot,
            file: self.file,
            to: PoolId(self.to),
            chunks: self.chunks.clone(),
            persistent,
            device: self.device(),
        };
        let object = self.fake.state().object(self.file, self.to);
        let object = Some(object).filter(|_| !matches!(message, MoverMsg::Begin { device: Some(_), .. }));
        self.ask(&message, Step::Begin, object.as_ref())
    }

    pub fn begin(&self) -> u32 {
        let acks = self.try_begin();
        assert!(acks.iter().all(|ack| ack.refused.is_none()), "{acks:?}");
        acks.iter().map(|ack| ack.mappings).sum()
    }

    /// How many mappings there are in all: of what was heard, as the daemon counts them.
    pub fn mappings(&self) -> usize {
        let state = self.fake.state();
        let made = state.heard.iter().filter(|heard| matches!(heard, Request::Map { .. })).count();
        let gone = state.heard.iter().filter(|heard| matches!(heard, Request::Unmap { .. })).count();
        made - gone
    }

    pub fn freeze(&self, chunk: u32) {
        let closed = self.fake.state().closed;
        self.must(&MoverMsg::Freeze { id: self.id, chunk, closed }, Step::Freeze(chunk));
    }

    pub fn copy(&self, chunk: u32) {
        let state = self.fake.state();
        let pages = state.files[&self.file].within(self.chunks[chunk as usize]);
        let from = state.files[&self.file].pages[usize::try_from(pages.start.0).unwrap()];
        if state.device.is_some() {
            let bytes = state.read_from(self.file, from, pages.offset(), pages.bytes());
            state.write_to(self.file, self.to, pages.offset(), &bytes);
            return;
        }
        let len = PageCount::for_bytes(state.files[&self.file].len).bytes();
        let source = SourceMap::new(state.object(self.file, from), len).unwrap();
        let target = state.object(self.file, self.to);
        assert_eq!(source.copy_to(pages.offset(), pages.bytes(), &target).unwrap(), pages.bytes());
    }

    pub fn hold(&self, chunk: u32) {
        self.must(&MoverMsg::Hold { id: self.id, chunk }, Step::Hold(chunk));
    }

    pub fn commit(&self, chunk: u32) {
        let mut state = self.fake.state();
        let pages = state.files[&self.file].within(self.chunks[chunk as usize]);
        for page in pages.start.0..pages.end() {
            state.files.get_mut(&self.file).unwrap().pages[usize::try_from(page).unwrap()] = self.to;
        }
        state.words.store(usize::from(self.slot), encode_word(self.id, chunk + 1));
    }

    /// All mappers have switched; the old frames are cleared so that a stale read is seen.
    pub fn switch(&self, chunk: u32) {
        self.must(&MoverMsg::Switch { id: self.id, chunk }, Step::Switch(chunk));
    }

    pub fn roll_back(&self, chunk: u32) {
        self.must(&MoverMsg::Rollback { id: self.id, chunk }, Step::Rollback(chunk));
    }

    /// Ends the segment and gives the old frames of what was moved back.
    pub fn end(&self) {
        self.must(&MoverMsg::End { id: self.id }, Step::End);
        let state = self.fake.state();
        let record = &state.files[&self.file];
        for pool in 0..POOLS {
            let object = state.object(self.file, pool);
            for (page, _) in (0..).zip(&record.pages).filter(|(_, home)| **home != pool) {
                match &state.device {
                    Some(_) => state.write_to(self.file, pool, page * PAGE_SIZE, &[0; 4096]),
                    None => object::punch(&object, page * PAGE_SIZE, PAGE_SIZE).unwrap(),
                }
            }
        }
    }
}

fn session(shared: &Mutex<State>, channel: &Channel, words: &Path) {
    let mut handles: HashMap<Handle, FileId> = HashMap::new();
    while let Ok(Some((request, fds))) = channel.recv::<Request>() {
        if let Some((reply, fds)) = answer(shared, &mut handles, request, fds, words) {
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            if channel.send(&reply, &fds).is_err() {
                return;
            }
        }
    }
}

fn answer(
    shared: &Mutex<State>,
    handles: &mut HashMap<Handle, FileId>,
    request: Request,
    fds: Vec<OwnedFd>,
    words: &Path,
) -> Option<(Reply, Vec<OwnedFd>)> {
    let mut state = shared.lock().unwrap();
    let plain = |reply| Some((reply, Vec::new()));
    match &request {
        Request::Hello(_) => plain(Reply::Welcome { version: VERSION, pid: 1, epoch: 1 }),
        Request::Attach(attach) => {
            for fd in fds {
                state.controls.push(Arc::new(Channel::new(fd)));
                state.attached.push(attach.mapped.clone());
                for mapped in attach.mapped.iter().flat_map(|m| vec![m.write; m.mappings as usize]) {
                    state.heard.push(Request::Map { handle: Handle(0), write: mapped });
                }
            }
            let words = std::fs::File::open(words).unwrap();
            Some((Reply::Attached, vec![words.into()]))
        }
        Request::Open(open) => {
            if let Some(write) = open.map {
                state.heard.push(Request::Map { handle: Handle(0), write });
            }
            Some(state.open(open, handles))
        }
        Request::Map { handle, .. } => {
            while state.hold_maps {
                drop(state);
                std::thread::sleep(Duration::from_millis(1));
                state = shared.lock().unwrap();
            }
            let (layout, fds) = state.layout(handles[handle]);
            state.heard.push(request.clone());
            Some((Reply::Layout(layout), fds))
        }
        Request::Raw { handle, .. } => {
            let (layout, fds) = state.layout(handles[handle]);
            Some((Reply::Layout(layout), fds))
        }
        Request::Read { handle, at, len } => {
            state.heard.push(request.clone());
            plain(Reply::Bytes(state.read(handles[handle], *at, u64::from(*len))))
        }
        Request::Write { handle, at, bytes } => {
            let file = handles[handle];
            if at + bytes.len() as u64 > state.files[&file].len {
                return plain(Reply::Error(Error::invalid("beyond its end")));
            }
            state.heard.push(Request::Write { handle: *handle, at: *at, bytes: Vec::new() });
            let mut written = 0;
            while written < bytes.len() {
                let at = at + written as u64;
                let len = usize::try_from(PAGE_SIZE - at % PAGE_SIZE).unwrap().min(bytes.len() - written);
                let pool = state.files[&file].pages[usize::try_from(at / PAGE_SIZE).unwrap()];
                state.write_to(file, pool, at, &bytes[written..written + len]);
                written += len;
            }
            plain(Reply::Done)
        }
        Request::Sync(_) => {
            state.heard.push(request.clone());
            plain(Reply::Done)
        }
        Request::SetLen { len, .. } if *len > 1 << 30 => plain(Reply::Error(Error::no_space("too large"))),
        Request::SetLen { handle, len } => {
            state.set_len(handles[handle], *len);
            plain(Reply::Done)
        }
        Request::Publish { handle, path, replace } => {
            if !replace && state.names.contains_key(&path.to_bytes()) {
                return plain(Reply::Error(Error::exists("it is there")));
            }
            state.names.insert(path.to_bytes(), handles[handle]);
            plain(Reply::Done)
        }
        Request::StatHandle(handle) => {
            let info = state.info(handles[handle]);
            plain(Reply::File(Box::new(info)))
        }
        Request::Pin { .. } => {
            state.heard.push(request.clone());
            plain(Reply::Pinned(PinId(1)))
        }
        Request::Unpin(_) => {
            state.heard.push(request.clone());
            plain(Reply::Done)
        }
        Request::Close(_) | Request::Unmap { .. } | Request::RawDone { .. } | Request::Links(_) => {
            state.heard.push(request.clone());
            None
        }
        _ => plain(Reply::Error(Error::invalid("not part of the fake"))),
    }
}
