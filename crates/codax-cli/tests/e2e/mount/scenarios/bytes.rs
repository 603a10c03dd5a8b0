//! Scenarios of what is in files: reads, writes, mappings, lengths, holes, locks.

use super::*;

pub fn opens(dir: &Path, log: &mut Log) {
    let (file, sub, link) = (dir.join("f"), dir.join("d"), dir.join("l"));
    fs::write(&file, "12345").expect("room");
    fs::create_dir(&sub).expect("room");
    symlink("f", &link).expect("room");
    let rw = OFlags::RDWR;
    for (what, path, flags) in [
        ("plain", &file, rw),
        ("missing", &dir.join("none"), rw),
        ("below a file", &file.join("x"), rw),
        ("excl of a file", &file, rw | OFlags::CREATE | OFlags::EXCL),
        ("excl of a link", &link, rw | OFlags::CREATE | OFlags::EXCL),
        ("create there", &file, rw | OFlags::CREATE),
        ("a directory to write", &sub, rw),
        ("a directory to create", &sub, rw | OFlags::CREATE),
        ("a directory", &sub, OFlags::RDONLY),
        ("O_DIRECTORY of a file", &file, OFlags::RDONLY | OFlags::DIRECTORY),
        ("O_NOFOLLOW of a link", &link, rw | OFlags::NOFOLLOW),
        ("through a link", &link, rw),
        ("O_PATH", &file, OFlags::PATH),
        ("append", &file, OFlags::WRONLY | OFlags::APPEND),
        ("direct", &file, rw | OFlags::DIRECT),
        ("sync", &file, rw | OFlags::SYNC),
        ("truncate", &file, OFlags::WRONLY | OFlags::TRUNC),
    ] {
        log.note(what, open(path, flags).map(drop));
    }
    log.note("after truncation", stat(&file));
    fs::write(&file, "again").expect("room");
    let read_truncate = open(&link, OFlags::RDONLY | OFlags::TRUNC);
    log.note("truncated through a link", read_truncate.map(drop));
    log.note("and is", stat(&file));
    log.note(
        "created with a mode",
        rustix::fs::open(dir.join("m"), rw | OFlags::CREATE, Mode::from_raw_mode(0o4751)).map(drop),
    );
    log.note("which is", stat(&dir.join("m")));
    let read_only = open(&file, OFlags::RDONLY).expect("there");
    log.note("write to a read-only one", rustix::io::write(&read_only, b"x"));
    log.note("truncate a read-only one", rustix::fs::ftruncate(&read_only, 1));
    let write_only = open(&file, OFlags::WRONLY).expect("there");
    log.note("read of a write-only one", rustix::io::read(&write_only, &mut [0; 1]));
}

pub fn reads_and_writes(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).expect("room");
    let mut buf = [7; 16];
    log.note("read of nothing", errno(file.read_at(&mut buf, 0)));
    log.note("write of nothing", errno(file.write_at(&[], 100)));
    log.note("length", stat(&path));
    log.note("write at 3", errno(file.write_at(b"abc", 3)));
    log.note("read", (errno(file.read_at(&mut buf, 0)), buf));
    log.note("write far", errno(file.write_at(b"z", 3 << 20)));
    let mut hole = [9; 100];
    log.note("read the hole", (errno(file.read_at(&mut hole, 1 << 20)), hole.iter().all(|b| *b == 0)));
    log.note("read across the end", errno(file.read_at(&mut buf, (3 << 20) - 4)));
    log.note("read at the end", errno(file.read_at(&mut buf, (3 << 20) + 1)));
    log.note("read beyond", errno(file.read_at(&mut buf, 1 << 40)));
    log.note("length", stat(&path));
    let block: Vec<u8> = (0..2 << 20).map(|i: u32| (i % 251) as u8).collect();
    log.note("a large write", errno(file.write_at(&block, 4097)));
    let mut back = vec![0; block.len()];
    log.note("and read", (errno(file.read_at(&mut back, 4097)), back == block));
    log.note("vectors", {
        let parts =
            [std::io::IoSlice::new(b"one"), std::io::IoSlice::new(b""), std::io::IoSlice::new(b"two")];
        rustix::io::pwritev(&file, &parts, 10)
    });
    log.note("read", (errno(file.read_at(&mut buf, 8)), buf));
    log.note("fsync", (errno(file.sync_all()), errno(file.sync_data())));
}

pub fn far_offsets(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).expect("room");
    let max = u64::try_from(i64::MAX).expect("positive");
    // Lengths that are possible and absurd are left out: those of the store's files are limited to less.
    for at in [max + 1, u64::MAX] {
        log.note(format!("truncate to {at:#x}"), rustix::fs::ftruncate(&file, at));
    }
    for at in [max, max - 1, max - (1 << 20), max + 1, u64::MAX] {
        log.note(format!("write at {at:#x}"), rustix::io::pwrite(&file, b"ab", at));
        log.note(format!("read at {at:#x}"), rustix::io::pread(&file, &mut [0; 2], at));
        log.note("length", stat(&path));
        log.note("back", rustix::fs::ftruncate(&file, 0));
    }
    log.note("allocate far", rustix::fs::fallocate(&file, FallocateFlags::empty(), max - 1, 2));
    log.note("allocate nothing", rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 0));
    log.note("seek far", rustix::fs::seek(&file, SeekFrom::Start(max)));
    log.note("seek data far", rustix::fs::seek(&file, SeekFrom::Data(max)));
    log.note("length", stat(&path));
}

pub fn truncation(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    fs::write(&path, vec![b'x'; 10_000]).expect("room");
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("there");
    let read = |log: &mut Log| {
        let bytes = fs::read(&path).expect("there");
        let marks: Vec<_> =
            bytes.iter().enumerate().filter(|(i, b)| *i > 0 && bytes[i - 1] != **b).map(|(i, _)| i).collect();
        log.note("content", (bytes.len(), bytes.first().copied(), marks));
    };
    for len in [5000, 10_000, 4096, 4097, 0, 20_000, 1] {
        log.note(format!("to {len}"), errno(file.set_len(len)));
        read(log);
    }
    log.note("by path", errno(OpenOptions::new().write(true).truncate(true).open(&path).map(drop)));
    read(log);
    log.note("the next write", errno(file.write_at(b"y", 2)));
    read(log);
    log.note("of a directory", errno(OpenOptions::new().write(true).open(dir).and_then(|d| d.set_len(0))));
}

/// A program that runs is not written to, and not cut either by who opens it to read.
pub fn running_program(dir: &Path, log: &mut Log) {
    let path = dir.join("sleep");
    fs::copy("/bin/sleep", &path).expect("room");
    let mut program = std::process::Command::new(&path).arg("1000").spawn().expect("it can be executed");
    let before = fs::metadata(&path).expect("there").len();
    let (write, truncate) = (OFlags::WRONLY, OFlags::RDONLY | OFlags::TRUNC);
    for (what, flags) in
        [("to write", write), ("to read, cut", truncate), ("to write, cut", write | OFlags::TRUNC)]
    {
        log.note(what, open(&path, flags).map(drop));
        log.note("as long as before", fs::metadata(&path).expect("there").len() == before);
    }
    log.note("it runs", program.try_wait().expect("ours").is_none());
    program.kill().expect("ours");
    program.wait().expect("ours");
    log.note("when it has ended", open(&path, truncate).map(drop));
    log.note("length", fs::metadata(&path).expect("there").len());
}

pub fn allocation(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).expect("room");
    let keep = FallocateFlags::KEEP_SIZE;
    let punch = FallocateFlags::PUNCH_HOLE | keep;
    for (flags, at, len) in [
        (FallocateFlags::empty(), 0, 10_000),
        (keep, 0, 50_000),
        (FallocateFlags::empty(), 4096, 4096),
        (punch, 4096, 4096),
        (punch, 100, 10),
        (punch, 1 << 30, 4096),
        (FallocateFlags::PUNCH_HOLE, 0, 4096),
        (FallocateFlags::COLLAPSE_RANGE, 0, 4096),
        (FallocateFlags::INSERT_RANGE, 0, 4096),
        (FallocateFlags::empty(), 0, 0),
    ] {
        log.note(format!("{flags:?} {at} {len}"), rustix::fs::fallocate(&file, flags, at, len));
        log.note("is", stat(&path));
    }
    log.note("too much", rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 1 << 50));
    log.note("write", errno(file.write_at(&[5; 9000], 0)));
    log.note("punch", rustix::fs::fallocate(&file, punch, 10, 8000));
    let mut bytes = vec![1; 9000];
    file.read_exact_at(&mut bytes, 0).expect("there");
    log.note("zeros", bytes.iter().filter(|b| **b == 0).count());
    let read_only = File::open(&path).expect("there");
    log.note("of a read-only one", rustix::fs::fallocate(&read_only, keep, 0, 4096));
    log.note("of a directory", rustix::fs::fallocate(File::open(dir).expect("there"), keep, 0, 4096));
}

pub fn holes(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).expect("room");
    let seek = |log: &mut Log| {
        for at in [0, 4096, 5000, 8192, 1 << 20, (1 << 20) + 1, 2 << 20, 3 << 20] {
            log.note(
                format!("from {at}: data, hole"),
                (rustix::fs::seek(&file, SeekFrom::Data(at)), rustix::fs::seek(&file, SeekFrom::Hole(at))),
            );
        }
        log.note("blocks", fs::metadata(&path).expect("there").blocks());
    };
    seek(log);
    file.set_len(2 << 20).expect("room");
    seek(log);
    file.write_at(b"x", 5000).expect("room");
    file.write_at(&[1; 8192], 1 << 20).expect("room");
    seek(log);
    rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 1 << 20, 4096)
        .expect("room");
    seek(log);
    drop(file);
    let file = File::open(&path).expect("there");
    log.note(
        "opened again",
        (rustix::fs::seek(&file, SeekFrom::Data(0)), rustix::fs::seek(&file, SeekFrom::Data(8192))),
    );
}

pub fn copies(dir: &Path, log: &mut Log) {
    let at = |name: &str| dir.join(name);
    fs::write(at("a"), (0..100_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).expect("room");
    fs::write(at("b"), "12345").expect("room");
    let from = OpenOptions::new().read(true).write(true).open(at("a")).expect("there");
    let to = OpenOptions::new().read(true).write(true).open(at("b")).expect("there");
    for (off_in, off_out, len) in [(0, 3, 100_000), (399_990, 0, 100), (500_000, 0, 10), (0, 1 << 20, 4096)] {
        let (mut i, mut o) = (off_in, off_out);
        let copied = rustix::fs::copy_file_range(&from, Some(&mut i), &to, Some(&mut o), len);
        log.note(format!("{len} from {off_in} to {off_out}"), (copied, i, o));
    }
    log.note(
        "made",
        (fs::read(at("b")).expect("there").len(), fs::read(at("b")).expect("there")[3..7].to_vec()),
    );
    let (mut i, mut o) = (0, 10);
    log.note("onto itself", rustix::fs::copy_file_range(&from, Some(&mut i), &from, Some(&mut o), 100));
    let read_only = File::open(at("b")).expect("there");
    log.note("to a read-only one", rustix::fs::copy_file_range(&from, None, &read_only, None, 10));
    log.note("fs::copy", errno(fs::copy(at("a"), at("c"))));
    log.note("is the same", fs::read(at("a")).expect("there") == fs::read(at("c")).expect("there"));
}

pub fn locks(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    fs::write(&path, "0123456789").expect("room");
    let open = || OpenOptions::new().read(true).write(true).open(&path).expect("there");
    let (one, two) = (open(), open());
    let shared = FlockOperation::NonBlockingLockShared;
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    log.note("flock", rustix::fs::flock(&one, exclusive));
    log.note("of another", (rustix::fs::flock(&two, shared), rustix::fs::flock(&two, exclusive)));
    log.note("unlock", rustix::fs::flock(&one, FlockOperation::Unlock));
    log.note(
        "shared",
        (
            rustix::fs::flock(&one, shared),
            rustix::fs::flock(&two, shared),
            rustix::fs::flock(&two, exclusive),
        ),
    );
    drop(one);
    log.note("after a close", rustix::fs::flock(&two, exclusive));
    log.note("fcntl", rustix::fs::fcntl_lock(&two, exclusive));
    log.note("and off", rustix::fs::fcntl_lock(&two, FlockOperation::NonBlockingUnlock));
}

pub fn mappings(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    fs::write(&path, vec![b'a'; 10_000]).expect("room");
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("there");
    let region = Region::reserve(12_288).expect("room");
    log.note("shared", errno(region.place(0, 12_288, &file, 0, true)));
    region.memory().store_u64(8, u64::from_le_bytes(*b"mapped!!"));
    let mut buf = [0; 8];
    log.note("a store is read", (errno(file.read_at(&mut buf, 8)), buf));
    log.note(
        "a write is loaded",
        (errno(file.write_at(b"written!", 4096)), region.memory().load_u64(4096).to_le_bytes()),
    );
    log.note("beyond the end", region.memory().load_u64(10_000));
    log.note("grown", (errno(file.set_len(12_288)), region.memory().load_u64(12_000)));
    region.memory().store_u64(12_280, 7);
    drop(file);
    region.memory().store_u64(16, u64::from_le_bytes(*b"closed!!"));
    let bytes = fs::read(&path).expect("there");
    log.note("after the close", (bytes.len(), bytes[16..24].to_vec(), bytes[12_280]));
    let read_only = File::open(&path).expect("there");
    log.note("write through a read-only one", errno(can_map(&read_only, 4096, true)));
    log.note("read through it", errno(can_map(&read_only, 4096, false)));
    fs::remove_file(&path).expect("there");
    region.memory().store_u64(0, 9);
    log.note("after the unlink", region.memory().load_u64(0));
}

pub fn appends(dir: &Path, log: &mut Log) {
    const EACH: usize = 500;
    let path = dir.join("f");
    std::thread::scope(|scope| {
        for letter in [b'a', b'b'] {
            let path = &path;
            scope.spawn(move || {
                let mut file = OpenOptions::new().append(true).create(true).open(path).expect("room");
                (0..EACH).for_each(|_| file.write_all(&[letter; 16]).expect("room"));
            });
        }
    });
    let bytes = fs::read(&path).expect("there");
    let whole = bytes.chunks(16).all(|chunk| chunk.iter().all(|b| *b == chunk[0]));
    log.note("length, whole records", (bytes.len(), whole));
    fs::write(&path, "cut away").expect("room");
    let mut file = OpenOptions::new().append(true).read(true).open(&path).expect("there");
    file.set_len(3).expect("ours");
    log.note("append after truncation", (errno(file.write(b"end")), fs::read(&path).expect("there")));
}

pub fn descriptors(dir: &Path, log: &mut Log) {
    let path = dir.join("f");
    fs::write(&path, "text").expect("room");
    let file = File::open(&path).expect("there");
    let again = std::path::PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
    log.note(
        "opened again through /proc",
        errno(OpenOptions::new().append(true).open(&again).and_then(|mut f| f.write_all(b"!"))),
    );
    log.note("is", errno(fs::read(&path)));
    let linked = rustix::fs::linkat(CWD, &again, CWD, dir.join("g"), AtFlags::SYMLINK_FOLLOW);
    log.note("linked through /proc", (linked, stat(&dir.join("g"))));
    let at = open(dir, OFlags::PATH | OFlags::DIRECTORY).expect("there");
    fs::rename(dir.join("f"), dir.join("h")).expect("there");
    log.note(
        "by a directory's descriptor",
        rustix::fs::statat(at.as_fd(), "h", AtFlags::empty()).map(|stat| stat.st_size),
    );
    log.note("position", {
        let mut file = &file;
        let mut buf = [0; 2];
        (
            errno(file.read(&mut buf)),
            buf,
            rustix::fs::seek(file, SeekFrom::End(-1)),
            rustix::fs::seek(file, SeekFrom::Current(-9)),
        )
    });
    log.note("statfs", rustix::fs::statvfs(dir).map(|stat| (stat.f_bsize, stat.f_frsize, stat.f_namemax)));
}
