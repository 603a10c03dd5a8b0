//! What it costs one CPU to tell another something: a cache line goes to and fro between the two.

use super::Terms;
use super::figures::Summary;
use crate::output::table;
use anyhow::{Context as _, Result};
use codax_os::cpu;
use codax_os::topology::Cpu;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So many CPUs are all tried; of more, some are chosen.
const CPUS_MAX: usize = 16;

/// How long a pair is tried.
const PAIR: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// How long an answer may take: far more than a busy scheduler needs.
const PATIENCE: Duration = Duration::from_secs(5);

/// Round trips of one sample, at most: where two CPUs take turns on one of the machine below, each takes milliseconds.
const ROUNDS_MAX: u32 = 128;

/// The line's last value.
const STOP: u64 = u64::MAX;

/// The matrix, as JSON has it.
#[derive(Debug, Serialize)]
pub struct HandoverRow {
    /// The CPUs of its rows and columns.
    pub cpus: Vec<u32>,
    /// Nanoseconds from a row's CPU to a column's, the median; null from a CPU to itself.
    pub ns: Vec<Vec<Option<f64>>>,
    /// How many CPUs were left out.
    left_out: usize,
}

/// Measures each pair of CPUs on which this may run, or of some of them.
pub fn measure(terms: &Terms, all: bool) -> Result<HandoverRow> {
    let allowed = cpu::allowed().context("asking on which CPUs this may run")?;
    let cpus = if all { allowed.clone() } else { sample(&allowed, &terms.cpus) };
    let pairs = u32::try_from(cpus.len() * cpus.len().saturating_sub(1) / 2).unwrap_or(u32::MAX);
    let time = (terms.time / pairs.max(1)).clamp(PAIR.0, PAIR.1);
    let mut ns = vec![vec![None; cpus.len()]; cpus.len()];
    for i in 0..cpus.len() {
        for j in i + 1..cpus.len() {
            terms.go_on()?;
            let what = || format!("handing a line from CPU {} to CPU {}", cpus[i], cpus[j]);
            let taken = Some(pair(cpus[i], cpus[j], time).with_context(what)?.median);
            // Half of a round trip, so it is the same both ways.
            (ns[i][j], ns[j][i]) = (taken, taken);
        }
    }
    Ok(HandoverRow { left_out: allowed.len() - cpus.len(), cpus, ns })
}

/// Some of many CPUs that stand for the rest: one of each core; if those are too many one of each last-level cache, and of the first cache
/// also a sibling of its core and another core, so that each kind of way is in it.
fn sample(allowed: &[u32], known: &[Cpu]) -> Vec<u32> {
    if allowed.len() <= CPUS_MAX {
        return allowed.to_vec();
    }
    // A CPU of which nothing is known shares nothing.
    let alone = |cpu: u32| Cpu { cpu, core: cpu, cluster: cpu, socket: cpu, cache_bytes: None };
    let of = |cpu: &u32| known.iter().find(|known| known.cpu == *cpu).cloned().unwrap_or_else(|| alone(*cpu));
    let mut cores = BTreeMap::new();
    let mut caches = BTreeMap::new();
    for cpu in allowed {
        let place = of(cpu);
        cores.entry((place.socket, place.core)).or_insert(*cpu);
        caches.entry((place.socket, place.cluster)).or_insert(*cpu);
    }
    let mut chosen: BTreeSet<u32> = cores.into_values().collect();
    if chosen.len() > CPUS_MAX {
        let first = of(&allowed[0]);
        let sibling = allowed[1..].iter().find(|cpu| of(cpu).core == first.core);
        let beside =
            allowed.iter().find(|cpu| of(cpu).cluster == first.cluster && of(cpu).core != first.core);
        // The first of all stays; of too many caches some in equal steps.
        let caches: Vec<u32> = caches.into_values().collect();
        let step = caches.len().div_ceil(CPUS_MAX - 2).max(1);
        chosen = caches.into_iter().step_by(step).chain(sibling.copied()).chain(beside.copied()).collect();
    }
    chosen.into_iter().collect()
}

/// A cache line with nothing else in it, also where two come together.
#[repr(align(128))]
struct Line(AtomicU64);

/// Tells the other side to end, whatever becomes of this one.
struct Stop<'a>(&'a Line);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.0.store(STOP, Ordering::Release);
    }
}

/// A hand-over between two CPUs, in nanoseconds.
fn pair(a: u32, b: u32, time: Duration) -> io::Result<Summary> {
    let line = Line(AtomicU64::new(0));
    std::thread::scope(|scope| {
        let answering = scope.spawn(|| {
            let _stop = Stop(&line);
            cpu::stay_on(&[b])?;
            answer(&line);
            Ok(())
        });
        let asking = scope.spawn(|| {
            let _stop = Stop(&line);
            cpu::stay_on(&[a])?;
            ask(&line, time)
        });
        let asked = asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let answered: io::Result<()> =
            answering.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Why one ended without the other is what it says itself.
        answered.and(asked)
    })
}

/// Makes each odd value even. Ends when it is told to: by the other side's end at the latest, which never waits long.
fn answer(line: &Line) {
    loop {
        match line.0.load(Ordering::Acquire) {
            STOP => return,
            odd if odd % 2 == 1 => {
                // The other side may have lost patience meanwhile.
                let _ = line.0.compare_exchange(odd, odd + 1, Ordering::AcqRel, Ordering::Acquire);
            }
            _ => std::hint::spin_loop(),
        }
    }
}

/// Puts odd values and waits for even ones, for `time`.
fn ask(line: &Line, time: Duration) -> io::Result<Summary> {
    let mut value = 0;
    let mut round = || -> io::Result<()> {
        if line.0.compare_exchange(value, value + 1, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return Err(io::Error::other("the other CPU's thread has ended"));
        }
        value += 2;
        wait_for(line, value)
    };
    // The first answer comes when the other thread runs.
    round()?;
    let begun = Instant::now();
    let mut samples = Vec::new();
    let mut rounds = 1;
    while samples.is_empty() || begun.elapsed() < time {
        let sample = Instant::now();
        for _ in 0..rounds {
            round()?;
        }
        let taken = sample.elapsed();
        if rounds < ROUNDS_MAX && taken < time / 20 {
            // Too short for the clock: it counts for warming up.
            rounds *= 2;
        } else {
            samples.push(taken.as_nanos() as f64 / f64::from(2 * rounds));
        }
    }
    Ok(Summary::of(samples))
}

fn wait_for(line: &Line, value: u64) -> io::Result<()> {
    let mut spins = 0_u32;
    let mut begun = None;
    loop {
        match line.0.load(Ordering::Acquire) {
            found if found == value => return Ok(()),
            STOP => return Err(io::Error::other("the other CPU's thread has ended")),
            _ => std::hint::spin_loop(),
        }
        spins = spins.wrapping_add(1);
        // The clock is too slow for each turn.
        if spins.is_multiple_of(1 << 12) && begun.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"));
        }
    }
}

/// The matrix as a table.
pub fn text(row: &HandoverRow) -> String {
    if row.cpus.len() < 2 {
        return "this may run on one CPU only: there is nobody to hand a line to\n".to_owned();
    }
    let headings: Vec<_> = ["handing a line over, ns".to_owned()]
        .into_iter()
        .chain(row.cpus.iter().map(|cpu| format!(">CPU {cpu}")))
        .collect();
    let headings: Vec<_> = headings.iter().map(String::as_str).collect();
    let mut table = table::new(&headings);
    for (cpu, ns) in row.cpus.iter().zip(&row.ns) {
        let cells = ns.iter().map(|ns| ns.map_or_else(|| "-".to_owned(), |ns| ns.to_string()));
        table.add_row([format!("CPU {cpu}")].into_iter().chain(cells));
    }
    let mut out = table::text(&table);
    if row.left_out > 0 {
        out += &format!("{} other CPUs were left out; --all-cpus takes them too\n", row.left_out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sockets of two caches each, of some cores each, of two CPUs each; the siblings are numbered behind all cores.
    fn machine(sockets: u32, cores: u32) -> Vec<Cpu> {
        let all = sockets * 2 * cores;
        (0..2 * all)
            .map(|cpu| {
                let core = cpu % all;
                let (cluster, socket) = (core / cores * cores, core / (2 * cores) * 2 * cores);
                Cpu { cpu, core, cluster, socket, cache_bytes: None }
            })
            .collect()
    }

    fn sampled(cpus: &[Cpu]) -> Vec<u32> {
        sample(&cpus.iter().map(|cpu| cpu.cpu).collect::<Vec<_>>(), cpus)
    }

    #[test]
    fn few_cpus_are_all_taken_and_many_are_sampled() {
        assert_eq!(sampled(&machine(1, 4)), (0..16).collect::<Vec<_>>());
        assert_eq!(sampled(&machine(2, 4)), (0..16).collect::<Vec<_>>(), "one of each core");
        // One of each cache, the first one's sibling, and a core beside it.
        assert_eq!(sampled(&machine(2, 32)), [0, 1, 32, 64, 96, 128]);
        let huge = sampled(&machine(64, 8));
        assert!(huge.len() <= CPUS_MAX && huge.contains(&0) && huge.contains(&1), "{huge:?}");
        let unknown = sample(&(0..40).collect::<Vec<_>>(), &[]);
        assert!(unknown.len() <= CPUS_MAX && unknown.len() > CPUS_MAX / 2, "{unknown:?}");
    }

    #[test]
    fn a_line_goes_to_and_fro() {
        let cpus = cpu::allowed().expect("we run somewhere");
        let (Some(a), Some(b)) = (cpus.first(), cpus.get(1)) else { return };
        let taken = pair(*a, *b, Duration::from_millis(1)).expect("both may run");
        assert!(taken.count > 0 && taken.median > 0.0, "{taken:?}");
    }

    #[test]
    fn a_cpu_that_is_not_there_ends_it_on_both_sides() {
        let here = cpu::allowed().expect("we run somewhere")[0];
        for (a, b) in [(here, u32::MAX), (u32::MAX, here)] {
            let error = pair(a, b, Duration::from_secs(60)).unwrap_err();
            assert!(error.to_string().contains("CPU"), "{error}");
        }
    }

    #[test]
    fn the_matrix_is_a_table() {
        let row = HandoverRow {
            cpus: vec![0, 5],
            ns: vec![vec![None, Some(50.5)], vec![Some(50.5), None]],
            left_out: 3,
        };
        let text = text(&row);
        let lines: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["CPU", "0", "-", "50.5"]);
        assert_eq!(lines[2], ["CPU", "5", "50.5", "-"]);
        assert!(text.contains("3 other CPUs"), "{text}");
    }
}
