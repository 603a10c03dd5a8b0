//! Live moves of a large file under one process that writes at full speed, over `memcpy` between warm buffers in the same run; and how long
//! accesses waited that met a move.

use crate::rig::Rig;
use crate::stats::{quantile, spread};
use anyhow::{Context, Result, ensure};
use codax::{Access, OpenOptions, Store};
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const LEN: u64 = 512 << 20;
const MOVES: usize = 16;
/// Moves before those that count: memory that is used for the first time has to come from somewhere, on a virtual machine from its host.
const WARM_UP: usize = 4;
/// Slower accesses than this met a move, or lost the processor; the library tells which.
const WAIT_US: f64 = 20.0;
const CHILD: &str = "CODAX_BENCH_WRITER";

pub fn run(rig: &Rig) -> Result<()> {
    let store = rig.connect()?;
    drop(OpenOptions::new().write(true).create(true).len(LEN).open(&store, "/moved")?);
    let mut child = Command::new(std::env::current_exe()?)
        .env(CHILD, rig.store_dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(child.stdout.take().context("stdout")?).lines();
    ensure!(said.next().context("ready")?? == "ready", "the writer is not ready");

    let (from, mut to_buffer) = (vec![1u8; COPIED], vec![2u8; COPIED]);
    let (mut moves, mut copies) = (Vec::new(), Vec::new());
    let mut stdin = child.stdin.take().context("stdin")?;
    for i in 0..WARM_UP + MOVES {
        if i == WARM_UP {
            stdin.write_all(b"count\n")?;
            moves.clear();
            copies.clear();
        }
        copies.push(memcpy_gbps(&from, &mut to_buffer));
        let to = if i % 2 == 0 { "sim0" } else { "dram" };
        let report = store.move_file("/moved", to, None, &mut |_| {})?;
        ensure!(report.bytes == LEN, "only {} bytes moved", report.bytes);
        moves.push(report.bytes as f64 / report.nanos as f64);
    }
    stdin.write_all(b"stop\n")?;
    let result = said.next().context("result")??;
    child.wait()?;
    let ratio: Vec<f64> = moves.iter().zip(&copies).map(|(m, c)| m / c).collect();
    println!("live move: {}", spread(&moves, "GB/s"));
    println!("memcpy between warm buffers: {}", spread(&copies, "GB/s"));
    println!("ratio: {}", spread(&ratio, "x"));
    println!("{result}");
    Ok(())
}

/// Bytes of the buffers: far more than the caches hold, as what is moved is.
const COPIED: usize = 512 << 20;

/// `memcpy` in steps of 2 MiB between two buffers all of whose pages are there: the memory bus is the limit.
fn memcpy_gbps(from: &[u8], to: &mut [u8]) -> f64 {
    const STEP: usize = 2 << 20;
    let begun = Instant::now();
    for (from, to) in from.chunks(STEP).zip(to.chunks_mut(STEP)) {
        to.copy_from_slice(black_box(from));
    }
    black_box(to);
    COPIED as f64 / begun.elapsed().as_nanos() as f64
}

/// The writer's process: increments a word in random pages until it is told to stop, and says what it saw.
pub fn child() -> Option<Result<()>> {
    let dir = std::env::var_os(CHILD)?;
    Some(write_until_told(&dir))
}

fn write_until_told(dir: &std::ffi::OsStr) -> Result<()> {
    let store = Store::connect(dir)?;
    let file = OpenOptions::new().read(true).write(true).open(&store, "/moved")?;
    let mapping = file.map(.., Access::ReadWrite)?;
    let pages = mapping.len() / 4096;
    let memory = mapping.memory();
    let words = memory.cells::<u64>(0, mapping.len() / 8);
    (0..pages).for_each(|p| words.store(p * 512, 0));
    let mut mine = vec![0u64; pages];
    let (count, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let waits = std::thread::scope(|scope| {
        scope.spawn(|| {
            for flag in [&count, &stop] {
                let _ = std::io::stdin().read_line(&mut String::new());
                flag.store(true, Ordering::Relaxed);
            }
        });
        println!("ready");
        let (mut waits, mut others): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
        let mut met = store.waits().count;
        let mut x = 88_172_645_463_325_252u64;
        let (mut lost, mut stale) = (0u64, 0u64);
        while !stop.load(Ordering::Relaxed) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let p = (x % pages as u64) as usize;
            let begun = Instant::now();
            let seen = words.load(p * 512);
            words.store(p * 512, seen + 1);
            let took = begun.elapsed();
            if seen != mine[p] {
                stale += 1;
            }
            mine[p] = seen + 1;
            let us = took.as_secs_f64() * 1e6;
            if us > WAIT_US {
                // Nobody else maps the file in this process: what was counted since the last slow access was this one.
                let now = store.waits().count;
                let by_move = std::mem::replace(&mut met, now) != now;
                if count.load(Ordering::Relaxed) {
                    if by_move { &mut waits } else { &mut others }.push(us);
                }
            }
        }
        for (p, count) in mine.iter().enumerate() {
            lost += u64::from(words.load(p * 512) != *count);
        }
        let library = store.waits();
        println!(
            "increments: {}, lost writes {lost}, stale reads {stale}; accesses that met a move: {}; others over {WAIT_US} us: {}; the library's own measure: p99 {} us",
            mine.iter().sum::<u64>(),
            percentiles(&waits),
            percentiles(&others),
            library.us_p99,
        );
        waits
    });
    ensure!(!waits.is_empty(), "no access met a move");
    Ok(())
}

fn percentiles(us: &[f64]) -> String {
    if us.is_empty() {
        return "none".to_owned();
    }
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|q| quantile(us, q));
    format!("{}, p50 {p50:.0} us, p99 {p99:.0} us, max {max:.0} us", us.len())
}
