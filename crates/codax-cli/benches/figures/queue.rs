//! A coprocessor's round trips and throughput beside what the machine can do: a cache line that two CPUs write by turns; beside a ring that does nothing else, a pair
//! of pipes, and iceoryx2's request and response. Each pair is two processes, on a CPU each.
//!
//! Times are of blocks of a few dozen round trips, and the median of a round's blocks is taken: what else runs on the machine takes a CPU away for
//! milliseconds, which is some blocks out of many.

use crate::rig::Rig;
use crate::stats::{median, ratios, spread};
use anyhow::{Context, Result, bail, ensure};
use codax::queue::{Batch, Closed, Completion, Descriptor, Opcode, Queue, Refused, Ticket, Unfinished};
use codax_os::area::Region;
use codax_os::cpu;
use codax_os::ring::{Ring, Submitter};
use std::ffi::OsStr;
use std::fs::File;
use std::hint::spin_loop;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const ROUNDS: usize = 25;

/// Round trips of a block, and blocks of a round.
const BLOCK: u64 = 64;
const BLOCKS: u64 = 200;

/// The same where each takes system calls.
const SLOW_BLOCKS: u64 = 20;

/// Requests of a batch, batches of a block, and of a round; two are under way at a time.
const BATCH: usize = 64;
const BATCHES_BLOCK: u64 = 32;
const BATCHES: u64 = 32 * 50;

const SLOTS: u32 = 256;

/// Tells a child what to be: `ring PATH`, `line PATH`, `stdio`.
const ROLE: &str = "CODAX_QUEUE";

/// The yardstick of iceoryx2: a program of its own (see its Cargo.toml), since it takes a C compiler's library to build.
const ICEORYX2: &str = "CODAX_BENCH_ICEORYX2";

/// The end of a queue that hands in requests.
trait Submits {
    fn submit_batch(&self, requests: &[Descriptor]) -> Result<Batch, Closed>;
    fn submit(&self, request: &Descriptor) -> Result<Ticket, Refused>;
    fn wait(&self, ticket: Ticket) -> Result<Completion, Unfinished>;
}

/// A ring, and nothing behind it.
impl Submits for Submitter {
    fn submit_batch(&self, requests: &[Descriptor]) -> Result<Batch, Closed> {
        self.submit_batch(requests)
    }
    fn submit(&self, request: &Descriptor) -> Result<Ticket, Refused> {
        self.try_submit(request)
    }
    fn wait(&self, ticket: Ticket) -> Result<Completion, Unfinished> {
        self.wait(ticket, None)
    }
}

/// A coprocessor.
impl Submits for Queue {
    fn submit_batch(&self, requests: &[Descriptor]) -> Result<Batch, Closed> {
        self.submit_batch(requests)
    }
    fn submit(&self, request: &Descriptor) -> Result<Ticket, Refused> {
        self.submit(request)
    }
    fn wait(&self, ticket: Ticket) -> Result<Completion, Unfinished> {
        self.wait(ticket, None)
    }
}

/// Nothing to do.
fn nothing() -> Descriptor {
    Descriptor { opcode: Opcode::Nop.number(), ..Descriptor::default() }
}

pub fn run(rig: &Rig) -> Result<()> {
    let (cpus, other) = (cpu::allowed()?, Rig::other_cpu()?);
    ensure!(cpus[0] != other, "the figure wants two CPUs");
    cpu::stay_on(&cpus[..1])?;
    let done = measure(rig, other);
    cpu::stay_on(&cpus)?;
    done
}

fn measure(rig: &Rig, other_cpu: u32) -> Result<()> {
    let line = rig.scratch().join("line");
    File::create_new(&line)?.write_all(&[0; PAGE])?;
    let page = page(&line)?;
    let line_at = page.memory().atomic_u64(0);
    let (ring, fd) = Ring::create(SLOTS)?;
    let submitter = ring.submitter()?;
    let ring_at = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());

    let queue = Rig::coprocessor(&rig.connect()?, "sim0")?.0.queue(SLOTS)?;

    let me = std::env::current_exe()?;
    let child = |role: &[&OsStr]| Other::start(&me, role, other_cpu);
    let mut pong = child(&["line".as_ref(), line.as_ref()])?;
    let mut bare = child(&["ring".as_ref(), ring_at.as_ref()])?;
    let mut echo = child(&["echo".as_ref()])?;
    let mut iceoryx2 = match std::env::var_os(ICEORYX2) {
        Some(program) => {
            let name = format!("codax-{}", std::process::id());
            let other = Other::start(program.as_ref(), &["serve".as_ref(), name.as_ref()], other_cpu)?;
            let block = BLOCK.to_string();
            let ask = [OsStr::new("ask"), name.as_ref(), block.as_ref()];
            Some((other, Other::start(program.as_ref(), &ask, cpu::allowed()?[0])?))
        }
        None => {
            println!("without iceoryx2: {ICEORYX2} doesn't say where its yardstick is");
            None
        }
    };

    let [mut swap, mut store, mut trip, mut bare_trip, mut pipe, mut ice, mut flow, mut bare_flow] =
        [const { Vec::new() }; 8];
    for _ in 0..ROUNDS {
        for (by, times) in [(SWAP, &mut swap), (STORE, &mut store)] {
            line_at.store(0, Ordering::SeqCst);
            pong.say(&format!("{by} {}", BLOCK * BLOCKS))?;
            let mut n = 0;
            times.push(blocks(BLOCKS, BLOCK, || {
                for _ in 0..BLOCK {
                    ping(line_at, by, n);
                    n += 2;
                }
                Ok(())
            })?);
        }
        trip.push(trips(&queue)?);
        flow.push(batches(&queue)?);
        bare.say(&format!("trips {}", BLOCK * BLOCKS))?;
        bare_trip.push(trips(&submitter)?);
        bare.say(&format!("flow {}", BATCH as u64 * BATCHES))?;
        bare_flow.push(batches(&submitter)?);
        pipe.push(blocks(SLOW_BLOCKS, BLOCK, || (0..BLOCK).try_for_each(|_| echo.round_trip()))?);
        if let Some((server, client)) = &mut iceoryx2 {
            let count = (BLOCK * BLOCKS).to_string();
            server.say(&count)?;
            client.say(&count)?;
            ice.push(client.hear()?.parse()?);
        }
    }
    println!(
        "a line written by turns, by swaps: {}; by stores: {}",
        spread(&swap, "ns"),
        spread(&store, "ns")
    );
    println!(
        "round trip of a no-op: {}; through a bare ring {}",
        spread(&trip, "ns"),
        spread(&bare_trip, "ns")
    );
    println!("over the line written by swaps: {}", spread(&ratios(&trip, &swap), "x"));
    println!("over the line written by stores: {}", spread(&ratios(&trip, &store), "x"));
    println!("over that through a bare ring: {}", spread(&ratios(&trip, &bare_trip), "x"));
    println!("pipes over it: {} ({})", spread(&ratios(&pipe, &trip), "x"), spread(&pipe, "ns"));
    if !ice.is_empty() {
        println!("iceoryx2 over it: {} ({})", spread(&ratios(&ice, &trip), "x"), spread(&ice, "ns"));
    }
    let rates = |flow: &[f64]| -> Vec<f64> { flow.iter().map(|ns| 1e3 / ns).collect() };
    println!(
        "no-ops in batches of {BATCH}: {}; through a bare ring {}",
        spread(&rates(&flow), "million/s"),
        spread(&rates(&bare_flow), "million/s")
    );
    println!("one of them over a line handed over and back: {}", spread(&ratios(&flow, &swap), "x"));
    Ok(())
}

const PAGE: usize = 4096;

/// How a line is written: with a locked instruction, which hands it over at once, or with a plain store, which may linger in the CPU that made it.
const SWAP: &str = "swap";
const STORE: &str = "store";

fn page(path: impl AsRef<std::path::Path>) -> Result<Region> {
    let page = Region::reserve(PAGE)?;
    page.place(0, PAGE, File::options().read(true).write(true).open(path)?, 0, true)?;
    Ok(page)
}

/// The median of so many blocks of so many, in ns for one.
fn blocks(blocks: u64, of: u64, mut block: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..blocks {
        let begun = Instant::now();
        block()?;
        times.push(begun.elapsed().as_nanos() as f64 / of as f64);
    }
    Ok(median(&times))
}

fn write(line: &AtomicU64, by: &str, value: u64) {
    if by == SWAP {
        line.swap(value, Ordering::AcqRel);
    } else {
        line.store(value, Ordering::Release);
    }
}

fn until(line: &AtomicU64, value: u64) {
    while line.load(Ordering::Acquire) != value {
        spin_loop();
    }
}

/// Writes the line that has `n`, and sees it written again.
fn ping(line: &AtomicU64, by: &str, n: u64) {
    write(line, by, n + 1);
    until(line, n + 2);
}

/// The median time of a round trip, in ns.
fn trips(queue: &impl Submits) -> Result<f64> {
    blocks(BLOCKS, BLOCK, || (0..BLOCK).try_for_each(|_| round_trip(queue)))
}

fn round_trip(queue: &impl Submits) -> Result<()> {
    match queue.submit(&nothing()).map(|ticket| queue.wait(ticket)) {
        Ok(Ok(Completion { status: 0, .. })) => Ok(()),
        other => bail!("{other:?}"),
    }
}

/// The median time of some batches, in ns for a request of them.
fn batches(queue: &impl Submits) -> Result<f64> {
    let requests = [nothing(); BATCH];
    let mut before: Option<Batch> = None;
    let mut submitted = 0;
    let median = blocks(BATCHES / BATCHES_BLOCK, BATCH as u64 * BATCHES_BLOCK, || {
        for _ in 0..BATCHES_BLOCK {
            let batch = queue.submit_batch(&requests)?;
            submitted += batch.len();
            before.replace(batch).map_or(Ok(()), |batch| collect(queue, batch))?;
        }
        Ok(())
    })?;
    ensure!(submitted as u64 == BATCH as u64 * BATCHES, "{}", Refused::Full);
    before.map_or(Ok(()), |batch| collect(queue, batch))?;
    Ok(median)
}

fn collect(queue: &impl Submits, batch: Batch) -> Result<()> {
    for ticket in batch {
        if let Err(unfinished) = queue.wait(ticket) {
            bail!("{unfinished:?}");
        }
    }
    Ok(())
}

/// A process that answers, on a CPU of its own, and is told on its standard input what comes. Ended when dropped.
struct Other {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Other {
    fn start(program: &std::path::Path, args: &[&OsStr], cpu: u32) -> Result<Self> {
        let (mine, one) = (cpu::allowed()?, [cpu]);
        let mut command = Command::new(program);
        command.env(ROLE, "").args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        // It inherits where this thread may run.
        cpu::stay_on(&one)?;
        let child = command.spawn();
        cpu::stay_on(&mine)?;
        let mut child = child.with_context(|| format!("starting {}", program.display()))?;
        let (to, from) = (child.stdin.take().context("piped")?, child.stdout.take().context("piped")?);
        let mut other = Self { child, to, from: BufReader::new(from) };
        ensure!(other.hear()? == "ready", "the other process is not ready");
        Ok(other)
    }

    fn say(&mut self, what: &str) -> Result<()> {
        Ok(writeln!(self.to, "{what}")?)
    }

    fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Sends as many bytes as a descriptor has, and gets them back.
    fn round_trip(&mut self) -> Result<()> {
        let mut bytes = [7; 64];
        self.to.write_all(&bytes)?;
        Ok(self.from.read_exact(&mut bytes)?)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Is the other process, if this one was started to be that.
pub fn child() -> Option<Result<()>> {
    std::env::var_os(ROLE)?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    Some(answer(&args))
}

fn answer(args: &[String]) -> Result<()> {
    let commands = std::io::stdin().lock().lines().map(|line| {
        let line = line?;
        let (what, count) = line.split_once(' ').context("WHAT COUNT")?;
        anyhow::Ok((what.to_owned(), count.parse::<u64>()?))
    });
    match args {
        [role, path] if role == "line" => {
            let page = page(path)?;
            let line = page.memory().atomic_u64(0);
            println!("ready");
            for command in commands {
                let (by, count) = command?;
                for n in (0..count * 2).step_by(2) {
                    until(line, n + 1);
                    write(line, &by, n + 2);
                }
            }
        }
        [role, path] if role == "ring" => {
            let mut consumer = Ring::open(File::options().read(true).write(true).open(path)?)?.consumer()?;
            println!("ready");
            for command in commands {
                let (what, mut left) = command?;
                while left > 0 {
                    let Some(request) = consumer.next(None)? else { continue };
                    left -= 1;
                    if what == "trips" || left == 0 {
                        consumer.complete(request, &Completion::default());
                    } else {
                        consumer.post(request, &Completion::default());
                    }
                }
            }
        }
        _ => {
            drop(commands);
            println!("ready");
            let (mut from, mut to) = (std::io::stdin().lock(), std::io::stdout().lock());
            let mut bytes = [0; 64];
            while from.read_exact(&mut bytes).is_ok() {
                to.write_all(&bytes)?;
                to.flush()?;
            }
        }
    }
    Ok(())
}
