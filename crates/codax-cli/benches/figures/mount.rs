//! The mount beside a bare passthrough filesystem and plain tmpfs, in turns: through mappings, by calls, with small files, with many files.

use crate::rig::Rig;
use crate::stats::{median, ratios, spread};
use crate::yardstick::Yardstick;
use anyhow::{Context, Result, ensure};
use codax_os::area::Region;
use codax_os::mounts;
use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Bytes of the large file, of a block, of a small piece.
const LEN: usize = 128 << 20;
const BLOCK: usize = 1 << 20;
const PIECE: usize = 4096;

const WORDS: usize = LEN / 8;

/// Pieces that are read or written in one round, and rounds.
const PIECES: usize = 20_000;
const ROUNDS: usize = 11;

/// Small files of a client in one round.
const SMALL: usize = 2_000;
const SMALL_ROUNDS: usize = 5;

/// Files in one directory.
const MANY: [usize; 3] = [25_000, 50_000, 100_000];

/// Room for all of it, in bytes.
const ROOM: u64 = 1 << 30;

/// The three places.
struct Places {
    codax: PathBuf,
    bare: PathBuf,
    tmpfs: PathBuf,
}

impl Places {
    fn each(&self) -> [(&'static str, &Path); 3] {
        [("codax", &self.codax), ("bare", &self.bare), ("tmpfs", &self.tmpfs)]
    }
}

pub fn run(rig: &Rig) -> Result<()> {
    if !mounts::can_mount() || codax_os::fuse::open_device().is_err() {
        println!("skipped: wants root and /dev/fuse");
        return Ok(());
    }
    let at = |name: &str| -> Result<PathBuf> {
        let path = rig.scratch().join(name);
        fs::create_dir(&path)?;
        Ok(path)
    };
    let (source, places) =
        (at("source")?, Places { codax: at("codax")?, bare: at("bare")?, tmpfs: at("tmpfs")? });
    let _source = Tmpfs::mount(&source)?;
    let _tmpfs = Tmpfs::mount(&places.tmpfs)?;
    let mut bare = Yardstick::start(&source, &places.bare)?;
    rig.codax(&["mount", places.codax.to_str().context("text")?])?;

    mappings(&places)?;
    calls(&places)?;
    for (clients, one_cpu) in [(1, false), (2, false), (1, true)] {
        small(rig, &places, &mut bare, clients, one_cpu)?;
    }
    many(&places)?;
    rig.codax(&["umount"])?;
    Ok(())
}

/// A tmpfs like a pool's, unmounted when dropped.
struct Tmpfs<'a>(&'a Path);

impl<'a> Tmpfs<'a> {
    fn mount(path: &'a Path) -> Result<Self> {
        mounts::mount_tmpfs(path, ROOM, "within_size", true, &[])?;
        Ok(Self(path))
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _ = mounts::umount(self.0);
    }
}

fn seconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Times of each work, in turns whose order changes.
pub fn in_turns<const N: usize>(
    rounds: usize,
    mut work: [Box<dyn FnMut() -> Result<()> + '_>; N],
) -> Result<[Vec<f64>; N]> {
    let mut times = [const { Vec::new() }; N];
    for round in 0..rounds {
        for i in 0..N {
            let i = (i + round) % N;
            times[i].push(seconds(&mut work[i])?);
        }
    }
    Ok(times)
}

fn large(dir: &Path) -> Result<File> {
    let path = dir.join("large");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    for at in 0..LEN / BLOCK {
        file.write_all_at(&[1; BLOCK], (at * BLOCK) as u64)?;
    }
    Ok(file)
}

fn mapped(dir: &Path) -> Result<Region> {
    let fd: OwnedFd = OpenOptions::new().read(true).write(true).open(dir.join("large"))?.into();
    let region = Region::reserve(LEN)?;
    region.place(0, LEN, &fd, 0, true)?;
    Ok(region)
}

/// Loads and stores through a mapping made through the mount, over those through one of a tmpfs file.
fn mappings(places: &Places) -> Result<()> {
    large(&places.codax)?;
    large(&places.tmpfs)?;
    let (ours, plain) = (mapped(&places.codax)?, mapped(&places.tmpfs)?);
    let load = |region: &Region| {
        let base = region.base() as *const u64;
        // SAFETY: `base` points to WORDS words that stay mapped as long as `region` lives; accesses are volatile.
        black_box((0..WORDS).fold(0u64, |sum, i| sum.wrapping_add(unsafe { base.add(i).read_volatile() })));
        Ok(())
    };
    let store = |region: &Region| {
        let base = region.base() as *mut u64;
        // SAFETY: as above, and mapped for writing.
        (0..WORDS).for_each(|i| unsafe { base.add(i).write_volatile(i as u64) });
        Ok(())
    };
    for (what, work) in
        [("loads, mapped", &load as &dyn Fn(&Region) -> Result<()>), ("stores, mapped", &store)]
    {
        work(&ours)?;
        work(&plain)?;
        let [a, b] = in_turns(ROUNDS, [Box::new(|| work(&ours)), Box::new(|| work(&plain))])?;
        println!("{what}: over tmpfs {}", spread(&ratios(&b, &a), "x"));
    }
    Ok(())
}

/// Reads and writes of 4 KiB in no order, and of 1 MiB one after the other.
fn calls(places: &Places) -> Result<()> {
    let files = places.each().map(|(_, dir)| large(dir));
    let [ours, bare, plain] = files;
    let files = [ours?, bare?, plain?];
    let order: Vec<u64> =
        (0..PIECES as u64).map(|i| i * 7919 % (LEN / PIECE) as u64 * PIECE as u64).collect();
    let small = |file: &File, write: bool| -> Result<()> {
        let mut piece = [2; PIECE];
        for at in &order {
            if write { file.write_all_at(&piece, *at)? } else { file.read_exact_at(&mut piece, *at)? }
        }
        Ok(())
    };
    let stream = |file: &File, write: bool| -> Result<()> {
        let mut block = vec![3; BLOCK];
        for at in (0..LEN as u64).step_by(BLOCK) {
            if write { file.write_all_at(&block, at)? } else { file.read_exact_at(&mut block, at)? }
        }
        Ok(())
    };
    type Work<'a> = &'a dyn Fn(&File, bool) -> Result<()>;
    let rows: [(&str, Work<'_>, bool); 4] = [
        ("pread 4 KiB", &small, false),
        ("pwrite 4 KiB", &small, true),
        ("read 1 MiB", &stream, false),
        ("write 1 MiB", &stream, true),
    ];
    for (what, work, write) in rows {
        let [a, b, c] = in_turns(
            ROUNDS,
            [
                Box::new(|| work(&files[0], write)),
                Box::new(|| work(&files[1], write)),
                Box::new(|| work(&files[2], write)),
            ],
        )?;
        println!(
            "{what}: over tmpfs {}; bare passthrough {}",
            spread(&ratios(&c, &a), "x"),
            spread(&ratios(&c, &b), "x")
        );
    }
    for (_, dir) in places.each() {
        fs::remove_file(dir.join("large"))?;
    }
    Ok(())
}

/// One client's share of an operation on small files.
fn on_small(dir: &Path, what: &str) -> Result<()> {
    for i in 0..SMALL {
        let path = dir.join(format!("f{i}"));
        match what {
            "create + close" => drop(OpenOptions::new().write(true).create_new(true).open(path)?),
            "open + close" => drop(File::open(path)?),
            "cold stat" => ensure!(fs::metadata(path)?.is_file(), "a file"),
            _ => fs::remove_file(path)?,
        }
    }
    Ok(())
}

/// Lets all threads of a process run on these CPUs only.
fn stay(pid: u32, cpus: &[u32]) -> Result<()> {
    let cpus = cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut taskset = std::process::Command::new("taskset");
    let out = taskset.args(["-a", "-c", "-p", &cpus, &pid.to_string()]).output()?;
    ensure!(out.status.success(), "taskset: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

/// Small files, each client in a directory of its own: microseconds for each file. On `one_cpu` nobody waits for another processor to be woken, which
/// is much of a request's time on a machine whose processors are virtual.
fn small(rig: &Rig, places: &Places, bare: &mut Yardstick, clients: usize, one_cpu: bool) -> Result<()> {
    let all = codax_os::cpu::allowed()?;
    let cpus = if one_cpu { &all[..1] } else { &all[..] };
    const WHAT: [&str; 4] = ["create + close", "cold stat", "open + close", "unlink"];
    let mut times = [const { [const { Vec::new() }; 3] }; WHAT.len()];
    for _ in 0..SMALL_ROUNDS {
        for (of, dir) in places.each() {
            (0..clients)
                .try_for_each(|client| fs::create_dir(dir.join(format!("d{client}"))).with_context(|| of))?;
        }
        for (i, what) in WHAT.into_iter().enumerate() {
            if what == "cold stat" {
                // The kernel forgets what it knew of the files.
                rig.codax(&["umount"])?;
                rig.codax(&["mount", places.codax.to_str().context("text")?])?;
                bare.again()?;
            }
            stay(rig.daemon_pid()?, cpus)?;
            stay(bare.pid()?, cpus)?;
            for (place, (_, dir)) in places.each().into_iter().enumerate() {
                let took = seconds(|| both(dir, what, clients, cpus))?;
                times[i][place].push(took * 1e6 / SMALL as f64);
            }
            stay(rig.daemon_pid()?, &all)?;
            stay(bare.pid()?, &all)?;
        }
        for (_, dir) in places.each() {
            (0..clients).try_for_each(|client| fs::remove_dir(dir.join(format!("d{client}"))))?;
        }
    }
    for (what, [ours, bare, plain]) in WHAT.into_iter().zip(&times) {
        println!(
            "{what}, {clients} clients{}: {} (bare passthrough {:.1} us: {}; tmpfs {:.1} us: {:.1}x)",
            if one_cpu { " on one CPU" } else { "" },
            spread(ours, "us"),
            median(bare),
            spread(&ratios(ours, bare), "x"),
            median(plain),
            median(ours) / median(plain),
        );
    }
    Ok(())
}

fn both(dir: &Path, what: &str, clients: usize, cpus: &[u32]) -> Result<()> {
    std::thread::scope(|scope| {
        let clients = (0..clients).map(|client| {
            let dir = dir.join(format!("d{client}"));
            scope.spawn(move || {
                codax_os::cpu::stay_on(cpus)?;
                on_small(&dir, what)
            })
        });
        let clients: Vec<_> = clients.collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?)
    })
}

/// Many files in one directory: microseconds for each file, which should not grow with their number.
fn many(places: &Places) -> Result<()> {
    for (of, dir) in places.each() {
        for files in MANY {
            let dir = dir.join("many");
            fs::create_dir(&dir)?;
            let each = |took: f64| took * 1e6 / files as f64;
            let create = |i| File::create(dir.join(format!("f{i}"))).map(drop);
            let made = seconds(|| Ok((0..files).try_for_each(create)?))?;
            let mut line = format!("{files} files, {of}: create {:.1} us", each(made));
            for words in [&["ls", "-l"][..], &["find"], &["rm", "-r"]] {
                let took = seconds(|| {
                    let out = std::process::Command::new(words[0])
                        .args(&words[1..])
                        .arg(&dir)
                        .stdout(std::process::Stdio::null())
                        .status()?;
                    ensure!(out.success(), "{words:?}");
                    Ok(())
                })?;
                line += &format!(", {} {:.1} us", words.join(" "), each(took));
            }
            println!("{line}");
        }
    }
    Ok(())
}
