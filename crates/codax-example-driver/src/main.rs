//! A driver to begin one's own with: `docs/drivers.md` walks through it.
//!
//! Its device is an adder: it adds up the bytes of a file, block after block, and says the sum. A thread stands for the hardware. It looks one block ahead, as a device with
//! a cache would, and it can be stopped between two blocks: how far it is and what it has added up so far is all its state.
//!
//! `codax-example-driver STORE DEVICE FILE`
#![forbid(unsafe_code)]

use codax::driver::{Cache, Counter, Description, Driver, Health, Link, Range, serve};
use codax::{Access, Error, ErrorKind, File, Mapping, Result, Store};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes in a block.
const BLOCK: u64 = 64 << 10;

/// How long the adder takes for one, so that it can be watched.
const PACE: Duration = Duration::from_millis(2);

/// What the hardware knows.
#[derive(Debug, Default)]
struct Registers {
    /// It may run.
    runs: bool,
    /// It is at work on a block.
    busy: bool,
    /// The next byte, and the sum of those before.
    at: u64,
    sum: u64,
    /// The block that it has read ahead, and where that is in the file.
    cache: Option<(u64, Vec<u8>)>,
    blocks: u64,
    /// Of `write_back`, and the bytes they were about.
    calls: u64,
    written_back: u64,
}

#[derive(Debug)]
struct Adder {
    file: File,
    mapping: Mapping,
    registers: Mutex<Registers>,
    changed: Condvar,
}

impl Adder {
    fn registers(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block at `at`. It may wait for a move of the file, so no lock is held here: `write_back` is called by that move, and must never wait for this.
    fn read(&self, at: u64) -> Vec<u8> {
        let len = BLOCK.min(self.mapping.len() as u64 - at);
        let mut block = vec![0; usize::try_from(len).unwrap_or(0)];
        self.mapping.memory().read_at(usize::try_from(at).unwrap_or(0), &mut block);
        block
    }

    /// What the hardware does.
    fn run(&self) {
        let end = self.mapping.len() as u64;
        loop {
            let registers = self.registers();
            let stopped = |r: &mut Registers| !r.runs || r.at >= end;
            let mut registers =
                self.changed.wait_while(registers, stopped).unwrap_or_else(PoisonError::into_inner);
            registers.busy = true;
            let (at, cached) = (registers.at, registers.cache.take());
            drop(registers);

            let block = cached.filter(|(of, _)| *of == at).map_or_else(|| self.read(at), |(_, block)| block);
            let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
            std::thread::sleep(PACE);
            let next = at + block.len() as u64;
            let calls = self.registers().calls;
            let ahead = (next < end).then(|| (next, self.read(next)));

            let mut registers = self.registers();
            // What was read while the store wanted it forgotten is not kept.
            registers.cache = ahead.filter(|_| registers.calls == calls);
            (registers.busy, registers.at) = (false, next);
            registers.sum += sum;
            registers.blocks += 1;
            if next >= end {
                println!("sum {}", registers.sum);
            }
            self.changed.notify_all();
        }
    }
}

impl Driver for Adder {
    fn describe(&self) -> Description {
        let cache = Cache { name: "block".into(), bytes: BLOCK };
        Description {
            caches: vec![cache],
            link: Link { name: "imagined x1".into(), ..Link::default() },
            operations: vec!["add".into()],
            has_state: true,
            ..Description::coprocessor("adder", env!("CARGO_PKG_VERSION"))
        }
    }

    fn write_back(&self, ranges: &[Range]) -> Result<()> {
        let mut registers = self.registers();
        let cached = registers.cache.as_ref().map(|(at, block)| *at..*at + block.len() as u64);
        let lies_in = |at: &std::ops::Range<u64>| {
            ranges.iter().any(|r| r.file == self.file.id() && r.at < at.end && at.start < r.at + r.len)
        };
        if cached.as_ref().is_some_and(lies_in) {
            registers.cache = None;
        }
        registers.calls += 1;
        registers.written_back += ranges.iter().map(|range| range.len).sum::<u64>();
        Ok(())
    }

    fn quiesce(&self, within: Duration) -> Result<()> {
        let mut registers = self.registers();
        registers.runs = false;
        let (registers, _) = self
            .changed
            .wait_timeout_while(registers, within, |r| r.busy)
            .unwrap_or_else(PoisonError::into_inner);
        if registers.busy {
            return Err(Error::busy(format!("it is at the block at {} still", registers.at)));
        }
        Ok(())
    }

    fn save(&self) -> Result<Vec<u8>> {
        let registers = self.registers();
        Ok([registers.at.to_le_bytes(), registers.sum.to_le_bytes()].concat())
    }

    fn reset(&self) -> Result<()> {
        self.quiesce(PACE * 100)?;
        let mut registers = self.registers();
        (registers.at, registers.sum, registers.cache) = (0, 0, None);
        Ok(())
    }

    fn restore(&self, state: &[u8]) -> Result<()> {
        let wrong =
            || Error::new(ErrorKind::Corrupt, format!("{} bytes are no state of an adder", state.len()));
        let (words, []) = state.as_chunks::<8>() else { return Err(wrong()) };
        let [at, sum] = *words else { return Err(wrong()) };
        let mut registers = self.registers();
        (registers.at, registers.sum) = (u64::from_le_bytes(at), u64::from_le_bytes(sum));
        Ok(())
    }

    fn resume(&self) -> Result<()> {
        self.registers().runs = true;
        self.changed.notify_all();
        Ok(())
    }

    fn health(&self) -> Result<Health> {
        Ok(Health::Well)
    }

    fn counters(&self) -> Result<Vec<Counter>> {
        let registers = self.registers();
        let counters = [("blocks", registers.blocks), ("bytes written back", registers.written_back)];
        Ok(counters.map(|(name, value)| Counter { name: name.into(), value }).into())
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("codax-example-driver: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [store, device, path] = &words[..] else {
        return Err(Error::invalid("usage: codax-example-driver STORE DEVICE FILE"));
    };
    // No system call touches the mapping, so it can be moved for every user.
    let store = Store::options().allow_user_faults(true).connect(store)?;
    let file = File::open(&store, path)?;
    let mapping = file.map(.., Access::ReadOnly)?;
    let (registers, changed) = Default::default();
    let adder = Arc::new(Adder { file, mapping, registers, changed });
    let hardware = adder.clone();
    std::thread::spawn(move || hardware.run());
    serve(&store, device, &*adder)
}
