//! Operations of a coprocessor on a file of 256 MiB over the same functions called directly by the program, on the same CPU; how soon it is at rest while an operation on
//! 1 GiB runs; and how soon one side hears that the other is dead.
//!
//! Both halves of a comparison have their pages in their page tables before, and take turns that change places.

use crate::rig::Rig;
use crate::stats::{median, quantile, ratios, spread};
use anyhow::{Context, Result, bail, ensure};
use codax::queue::{Completion, Opcode, Queue, Range, Spec, Ticket, Unfinished, Which, descriptor};
use codax::{Access, File, Mapping, OpenOptions, Reply, Request, Store};
use codax_ops::kernel::{self, float};
use codax_os::cpu;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::VecDeque;
use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LEN: u64 = 256 << 20;
const ROUNDS: usize = 25;
const NEEDLE: &[u8] = b"not in there";

/// What is stopped runs on so many bytes, and is stopped so often.
const LONG: u64 = 1 << 30;
const STOPS: usize = 200;

/// How often a program dies, and a coprocessor, which is started again after a pause that grows.
const DEATHS: [usize; 2] = [10, 5];

/// How long something that must come is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tells a child to hold a queue of the store in this directory, with work in it.
const HOLD: &str = "CODAX_HOLD";

pub fn run(rig: &Rig) -> Result<()> {
    let store = rig.connect()?;
    Rig::coprocessor(&store, "sim0")?;
    let (cpus, other) = (cpu::allowed()?, Rig::other_cpu()?);
    // The CPU that the coprocessor has: who waits for it sleeps.
    cpu::stay_on(&[other])?;
    let measured = operations(&store);
    cpu::stay_on(&cpus)?;
    measured?;
    stops(&store)?;
    deaths(&store)
}

fn file(store: &Store, path: &str, len: u64) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).open(store, path)?;
    file.set_len(len)?;
    Ok(file)
}

/// Floats of moderate size; as bytes they are anything.
fn fill(mapping: &Mapping) {
    let (mut x, memory) = (88_172_645_463_325_252_u64, mapping.memory());
    for at in (0..memory.len()).step_by(8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memory.store_u64(at, x & 0xbfff_ffff_bfff_ffff);
    }
}

/// A queue with the ranges of two files.
struct Ranges {
    queue: Queue,
    input: Range,
    output: Range,
}

impl Ranges {
    fn spec(&self, opcode: Opcode) -> Spec {
        let spec = Spec::new(opcode);
        match opcode {
            Opcode::Fill => spec.with(Which::Output, self.output).parameter([7]),
            Opcode::Copy => spec.with(Which::Input, self.input).with(Which::Output, self.output),
            Opcode::Search => spec.with(Which::Input, self.input).parameter(NEEDLE),
            _ => spec.with(Which::Input, self.input),
        }
    }

    fn submit(&self, opcode: Opcode) -> Result<Ticket> {
        Ok(self.queue.submit(&descriptor(&self.spec(opcode))?)?)
    }

    /// Seconds that a request takes.
    fn time(&self, opcode: Opcode) -> Result<f64> {
        let begun = Instant::now();
        match self.queue.wait(self.submit(opcode)?, None) {
            Ok(Completion { status: 0, .. }) => Ok(begun.elapsed().as_secs_f64()),
            other => bail!("{opcode}: {other:?}"),
        }
    }
}

/// Seconds that the same function takes, called directly.
fn direct(opcode: Opcode, input: &[u8], output: &mut [u8]) -> f64 {
    let begun = Instant::now();
    match opcode {
        Opcode::Copy => output.copy_from_slice(input),
        Opcode::Fill => output.fill(7),
        Opcode::Search => drop(black_box(memchr::memmem::find(input, NEEDLE))),
        Opcode::Crc32c => drop(black_box(kernel::crc32c(0, input))),
        _ => {
            let mut lanes = [0.0; float::LANES];
            float::sum_f32(&mut lanes, input);
            black_box(float::total(&lanes));
        }
    }
    begun.elapsed().as_secs_f64()
}

/// Seconds that memory takes for its bytes: as many at a time as the compiler can have, and nothing done with them that takes long.
fn read(input: &[u8]) -> f64 {
    let begun = Instant::now();
    let mut lanes = [0_u64; 8];
    for line in input.as_chunks::<64>().0 {
        for (lane, word) in lanes.iter_mut().zip(line.as_chunks::<8>().0) {
            *lane |= u64::from_le_bytes(*word);
        }
    }
    black_box(lanes);
    begun.elapsed().as_secs_f64()
}

fn operations(store: &Store) -> Result<()> {
    let [from, to] = [file(store, "/from", LEN)?, file(store, "/to", LEN)?];
    let [input, output] = [from.map(.., Access::ReadWrite)?, to.map(.., Access::ReadWrite)?];
    fill(&input);
    output.memory().fill(0, output.len(), 1);
    let queue = store.device("sim0").queue(64)?;
    let range = |file: &File, write| -> Result<Range> {
        Ok(Range { file: queue.file(file, write)?.into(), start: 0, len: LEN })
    };
    let ranges = Ranges { input: range(&from, false)?, output: range(&to, true)?, queue };
    // SAFETY: nobody else has these files, and the coprocessor is waited for before either slice is used.
    let (input, output) = unsafe { (input.memory().as_slice(), output.memory().as_mut_slice()) };

    let plain: Vec<f64> = (0..ROUNDS).map(|_| read(input)).collect();
    let rate = |times: &[f64]| LEN as f64 / median(times) / 1e9;
    println!("memory read by a plain loop: {:.2} GB/s", rate(&plain));
    for opcode in [Opcode::Crc32c, Opcode::SumF32, Opcode::Search, Opcode::Copy, Opcode::Fill] {
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let first = (round % 2 == 0).then(|| direct(opcode, input, output));
            let one = ranges.time(opcode)?;
            let other = first.unwrap_or_else(|| direct(opcode, input, output));
            // The first one warms up.
            if round > 0 {
                ours.push(one);
                plain.push(other);
            }
        }
        println!(
            "{opcode}: ratio {} ({:.2} GB/s by the coprocessor, {:.2} GB/s directly)",
            spread(&ratios(&plain, &ours), "x"),
            rate(&ours),
            rate(&plain)
        );
    }
    store.remove("/from", false)?;
    Ok(store.remove("/to", false)?)
}

/// How soon the coprocessor is at a safe point, as the daemon sees it, while an operation on a large file runs.
fn stops(store: &Store) -> Result<()> {
    let long = file(store, "/long", LONG)?;
    let queue = store.device("sim0").queue(64)?;
    let input = Range { file: queue.file(&long, true)?.into(), start: 0, len: LONG };
    let ranges = Ranges { queue, input, output: input };
    // The first to touch memory waits for where it comes from.
    ranges.time(Opcode::Fill)?;
    let mut seen = 0;
    for opcode in [Opcode::Crc32c, Opcode::Fill] {
        let mut at_work = VecDeque::new();
        let mut took = Vec::new();
        for _ in 0..STOPS {
            while at_work.len() < 4 {
                at_work.push_back(ranges.submit(opcode)?);
            }
            // Somewhere in one of them: they take tens of milliseconds.
            std::thread::sleep(Duration::from_millis(3));
            took.push(stop(store, &mut seen)?);
            while let Some(oldest) = at_work.pop_front() {
                match ranges.queue.poll(oldest) {
                    Ok(Completion { status: 0, .. }) => {}
                    Err(Unfinished::Pending(oldest)) => {
                        at_work.push_front(oldest);
                        break;
                    }
                    other => bail!("{other:?}"),
                }
            }
            ensure!(!at_work.is_empty(), "it was at rest before it was stopped");
        }
        println!(
            "{opcode} of {} MiB at a safe point after {:.3} ms (p99 {:.3} ms, longest {:.3} ms, {STOPS} times)",
            LONG >> 20,
            median(&took),
            quantile(&took, 0.99),
            quantile(&took, 1.0)
        );
        for ticket in at_work {
            ensure!(matches!(ranges.queue.wait(ticket, None), Ok(Completion { status: 0, .. })), "{opcode}");
        }
    }
    drop(ranges);
    Ok(store.remove("/long", false)?)
}

/// Drains the device, which has no files, and puts it online again; what the event of its safe point says, in ms. `seen` is the last event that was read.
fn stop(store: &Store, seen: &mut u64) -> Result<f64> {
    let pool = || "sim0".to_owned();
    store.call(Request::Drain {
        pool: pool(),
        dry_run: false,
        wait_ns: 0,
        limit: None,
        evict: false,
        volatile: false,
        reset: false,
        running: false,
    })?;
    store.call(Request::Online { pool: pool(), anew: false })?;
    let mut took = None;
    loop {
        let Reply::Events(events) = store.call(Request::Events { since: *seen + 1, wait: false })? else {
            bail!("no events")
        };
        let Some(last) = events.last() else { break };
        *seen = last.seq;
        let us = |said: &str| {
            said.strip_prefix("it is at a safe point after ")?.strip_suffix(" us")?.parse::<f64>().ok()
        };
        took = events.iter().find_map(|event| us(&event.detail)).or(took);
    }
    Ok(took.context("no event of it")? / 1e3)
}

/// How soon the store knows that a program with a queue was killed, and a program that its coprocessor was.
fn deaths(store: &Store) -> Result<()> {
    let long = file(store, "/long", LONG)?;
    let (mut programs, mut coprocessors) = (Vec::new(), Vec::new());
    for _ in 0..DEATHS[0] {
        let mut program = hold(store)?;
        ensure!(queues(store)? == 1, "it has a queue");
        let begun = Instant::now();
        program.kill()?;
        until(|| Ok(queues(store)? == 0))?;
        programs.push(begun.elapsed().as_secs_f64() * 1e3);
        program.wait()?;
    }
    let mut told = String::new();
    for _ in 0..DEATHS[1] {
        let (device, pid) = Rig::coprocessor(store, "sim0")?;
        let queue = device.queue(64)?;
        let range = Range { file: queue.file(&long, false)?.into(), start: 0, len: LONG };
        let spec = Spec::new(Opcode::Crc32c).with(Which::Input, range);
        let ticket = queue.submit(&descriptor(&spec)?)?;
        std::thread::sleep(Duration::from_millis(5));
        let begun = Instant::now();
        let pid = Pid::from_raw(i32::try_from(pid)?).context("a pid")?;
        kill_process(pid, Signal::KILL)?;
        told = match queue.wait(ticket, None) {
            Err(Unfinished::Closed(why)) => why.to_string(),
            other => format!("{other:?}"),
        };
        coprocessors.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    for (who, times) in [("program", &programs), ("coprocessor", &coprocessors)] {
        println!(
            "the death of a {who} is known after {} (longest {:.3} ms)",
            spread(times, "ms"),
            quantile(times, 1.0)
        );
    }
    println!("who waited for the coprocessor was told: {told}");
    Ok(store.remove("/long", false)?)
}

/// Queues that the coprocessor has.
fn queues(store: &Store) -> Result<u64> {
    let counters = store.device("sim0").info()?.counters;
    Ok(counters.iter().find(|counter| counter.name == "queues").context("no such counter")?.value)
}

fn until(mut reached: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !reached()? {
        ensure!(begun.elapsed() < PATIENCE, "it does not come");
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// A program that waits for a long operation.
fn hold(store: &Store) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut child = command.env(HOLD, store.dir()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
    ensure!(line == "ready\n", "the program with a queue does not start");
    Ok(child)
}

/// Is that program, if this one was started to be it.
pub fn child() -> Option<Result<()>> {
    std::env::var_os(HOLD).map(|store| hold_on(store.as_ref()))
}

fn hold_on(store: &std::path::Path) -> Result<()> {
    let store = Store::connect(store)?;
    let file = File::open(&store, "/long")?;
    let queue = store.device("sim0").queue(64)?;
    let range = Range { file: queue.file(&file, false)?.into(), start: 0, len: LONG };
    let request = descriptor(&Spec::new(Opcode::Crc32c).with(Which::Input, range))?;
    let tickets = queue.submit_batch(&[request; 64])?;
    println!("ready");
    for ticket in tickets {
        ensure!(queue.wait(ticket, None).is_ok(), "it is complete");
    }
    Ok(())
}
