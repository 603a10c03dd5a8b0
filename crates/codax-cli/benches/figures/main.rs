//! The figures of BENCHMARKS.md. Each compares two things in one run, in turns, and prints median and spread.
//!
//! `cargo bench -p codax-cli --bench figures -- [NAME]...`, with the names of [`FIGURES`]; all of them without one.
#![allow(unsafe_code)]
// Indices below a few hundred million, and quantiles of positive figures.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
//! Unsafe code: raw pointers into mappings of this process, as the plain half of comparisons; each mapping outlives its use.

mod access;
mod coprocessor;
mod create;
mod drain;
mod mount;
mod moving;
mod nodes;
mod queue;
mod quota;
mod restart;
mod rig;
mod stats;
mod yardstick;

type Figure = fn(&rig::Rig) -> anyhow::Result<()>;

/// A figure's name, the options its store is started with, and what measures it.
const FIGURES: &[(&str, &[&str], &str, Figure)] = &[
    ("access", &["--dram", "1GiB", "--device", "sim0=emulated:1GiB"], "", access::run),
    ("move-huge", &["--dram", "2GiB", "--device", "sim0=emulated:2GiB"], "", moving::run),
    ("move-4k", &["--dram", "2GiB", "--device", "sim0=emulated:2GiB"], "huge = \"never\"\n", moving::run),
    ("nodes-thp", NODES_THP, "ack_timeout = \"60s\"\n", nodes::run),
    ("nodes-4k", NODES_4K, "ack_timeout = \"60s\"\nhuge = \"never\"\n", nodes::run),
    ("nodes-2m", NODES_2M, "ack_timeout = \"60s\"\n", nodes::run_reserved),
    ("create", &["--dram", "1GiB", "--device", "sim0=emulated:1GiB"], "", create::run),
    ("drain", &["--dram", "2GiB", "--device", "sim0=emulated:2GiB"], "", drain::run),
    ("mount", &["--dram", "1GiB", "--device", "sim0=emulated:1GiB"], "", mount::run),
    ("queue", &["--dram", "64MiB", "--device", "sim0=software:64MiB,cpu={cpu}"], "", queue::run),
    ("coprocessor", &["--dram", "2GiB", "--device", "sim0=software:1GiB,cpu={cpu}"], "", coprocessor::run),
    ("quota", &["--dram", "64MiB", "--device", "sim0=emulated:1GiB"], "", quota::run),
    ("restart", &["--dram", "2GiB", "--device", "sim0=emulated:1GiB"], "", restart::run),
];

const NODES_THP: &[&str] = &[
    "--dram",
    "300MiB",
    "--device",
    "cxl0=numa:1,page=thp,reserve=300MiB",
    "--device",
    "sim0=emulated:300MiB",
];
const NODES_4K: &[&str] = &[
    "--dram",
    "300MiB",
    "--device",
    "cxl0=numa:1,page=4K,reserve=300MiB",
    "--device",
    "sim0=emulated:300MiB",
];
const NODES_2M: &[&str] = &[
    "--dram",
    "300MiB",
    "--device",
    "cxl0=numa:1,page=2M,reserve=300MiB",
    "--device",
    "cxl1=numa:2,page=2M,reserve=300MiB",
    "--device",
    "sim0=emulated:300MiB",
];

fn main() -> anyhow::Result<()> {
    if let Some(result) = moving::child() {
        return result;
    }
    if let Some(result) = queue::child() {
        return result;
    }
    if let Some(result) = coprocessor::child() {
        return result;
    }
    if let Some(result) = yardstick::child() {
        return result;
    }
    // cargo adds --bench.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    for name in &wanted {
        anyhow::ensure!(
            FIGURES.iter().any(|(n, ..)| n == name),
            "no figure {name}: there are {}",
            FIGURES.iter().map(|(n, ..)| *n).collect::<Vec<_>>().join(", ")
        );
    }
    for (name, options, config, run) in FIGURES {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            println!("== {name}");
            if let Some(why) = nodes::missing(name) {
                println!("skipped: {name}: {why}");
                continue;
            }
            let rig = rig::Rig::start(options, config)?;
            run(&rig)?;
        }
    }
    Ok(())
}
