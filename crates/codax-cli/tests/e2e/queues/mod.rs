//! Work on files by a software coprocessor: `codax run`, programs with queues, and what happens to work in flight.

pub mod harm;

use crate::client::{self, Client};
use crate::mount::{Mounted, mounted};
use crate::rig::{MIB, NOBODY, Plan, Rig, pattern, root, run_limited, skipped, until};
use codax::queue::{
    Completion, Descriptor, Opcode, Queue, Range, Spec, Ticket, Unfinished, Which, descriptor,
};
use codax::{File, OpenOptions, Request, Store};
use codax_core::driver::QueueId;
use codax_wire::Reply;
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

/// A store with a coprocessor.
fn rig() -> Rig {
    Plan::new().dram("256MiB").device_as("sim0=software:128MiB").patient(Duration::from_secs(60)).up()
}

fn result(rig: &Rig, words: &[&str]) -> String {
    let row = rig.row(&[&["run", "sim0"], words].concat());
    assert_eq!((&row["device"], &row["operation"]), (&"sim0".into(), &words[0].into()));
    row["result"].as_str().expect("text").to_owned()
}

/// CRC-32C, byte by byte.
pub fn crc32c(bytes: &[u8]) -> String {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    let table: [u32; 256] =
        std::array::from_fn(|byte| (0..8).fold(u32::try_from(byte).expect("small"), step));
    let index = |crc: u32, byte: u8| usize::from(crc.to_le_bytes()[0] ^ byte);
    let crc = bytes.iter().fold(!0, |crc: u32, byte| table[index(crc, *byte)] ^ crc >> 8);
    format!("{:08x}", !crc)
}

fn pid(rig: &Rig) -> u64 {
    let pid = || rig.row(&["device", "show", "sim0"])["device"]["pid"].as_u64();
    until("a coprocessor", pid)
}

fn counter(rig: &Rig, name: &str) -> u64 {
    let row = rig.row(&["device", "show", "sim0"]);
    let counters = row["device"]["counters"].as_array().expect("a list");
    let found = counters.iter().find(|counter| counter["name"] == name);
    found.and_then(|counter| counter["value"].as_u64()).unwrap_or_else(|| panic!("no counter {name}"))
}

/// The role of a program with a queue of `words[0]` requests, to `sim0` or `words[1]`.
///
/// `file PATH MODE` grants a file, read only or with `rw`; `crc NUMBER LEN COUNT` hands in so many; `ask OPCODE FLAGS FILE FILE AT AT LEN ARGUMENT` hands in one. `wait` waits
/// for the oldest, `done` says how many of them are complete, `cancel` cancels the latest, and `cancel all but the first` all that are on their way but the first; `id`
/// says what the daemon calls the queue.
pub fn submit(store: &Store, words: &[&str]) {
    let device = words.get(1).unwrap_or(&"sim0");
    let queue = store.device(device).queue(words[0].parse().expect("a number")).expect("a queue");
    let mut tickets: Vec<Result<Ticket, Completion>> = Vec::new();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    client::serve(|line| match line {
        ["file", path, mode] => {
            let options = OpenOptions::new().read(true).write(*mode == "rw");
            let granted = options.open(store, path).and_then(|file| queue.file(&file, mode.contains('w')));
            granted.map_or_else(|e| format!("{:?}: {e}", e.kind), |number| number.to_string())
        }
        ["crc", file, len, count] => {
            let range = Range { file: number(file), start: 0, len: number(len) };
            let one = descriptor(&Spec::new(Opcode::Crc32c).with(Which::Input, range)).expect("it has sense");
            let count = usize::try_from(number(count)).expect("a number");
            let batch = queue.submit_batch(&vec![one; count]).expect("open");
            let handed = batch.len();
            tickets.extend(batch.map(Ok));
            handed.to_string()
        }
        ["ask", rest @ ..] => match queue.submit(&described(rest)) {
            Ok(ticket) => {
                tickets.push(Ok(ticket));
                "handed in".to_owned()
            }
            Err(refused) => format!("{:?}: {refused}", std::io::Error::from(refused).kind()),
        },
        ["wait"] => match tickets.remove(0) {
            Ok(ticket) => told(queue.wait(ticket, None)),
            Err(complete) => told(Ok(complete)),
        },
        ["done"] => {
            tickets = std::mem::take(&mut tickets).into_iter().map(|one| look(&queue, one)).collect();
            tickets.iter().filter(|one| one.is_err()).count().to_string()
        }
        ["cancel"] => {
            let Some(Ok(latest)) = tickets.last() else { panic!("nothing is on its way") };
            queue.cancel(latest.id());
            "asked for".to_owned()
        }
        ["cancel", "all", "but", "the", "first"] => {
            tickets = std::mem::take(&mut tickets).into_iter().map(|one| look(&queue, one)).collect();
            let pending = tickets.iter().filter_map(|one| one.as_ref().ok());
            pending.skip(1).for_each(|ticket| queue.cancel(ticket.id()));
            "asked for".to_owned()
        }
        ["id"] => queue.id().0.to_string(),
        other => panic!("no such line: {other:?}"),
    });
}

fn look(queue: &Queue, one: Result<Ticket, Completion>) -> Result<Ticket, Completion> {
    match one.map(|ticket| queue.poll(ticket)) {
        Ok(Ok(complete)) | Err(complete) => Err(complete),
        Ok(Err(Unfinished::Pending(ticket))) => Ok(ticket),
        Ok(Err(Unfinished::Closed(why))) => panic!("{why}"),
    }
}

fn told(found: Result<Completion, Unfinished>) -> String {
    match found {
        Ok(Completion { status: 0, result, .. }) => {
            let [a, b, c, d, ..] = result;
            format!("{:08x}", u32::from_le_bytes([a, b, c, d]))
        }
        Ok(failed) => failed.status.to_string(),
        Err(Unfinished::Closed(why)) => why.to_string(),
        Err(Unfinished::Pending(_)) => panic!("it waits until it is complete"),
    }
}

fn described(words: &[&str]) -> Descriptor {
    let numbers: Vec<u64> = words.iter().map(|word| word.parse().expect("a number")).collect();
    let [opcode, flags, first, second, at, other, len, argument] = numbers[..] else { panic!("{words:?}") };
    let small = |number: u64| u32::try_from(number).expect("32 bits");
    let mut arguments = [0; 16];
    arguments[..8].copy_from_slice(&argument.to_le_bytes());
    Descriptor {
        opcode: u16::try_from(opcode).expect("16 bits"),
        flags: u16::try_from(flags).expect("16 bits"),
        files: [small(first), small(second)],
        offsets: [at, other],
        len,
        argument: arguments,
    }
}

#[test]
fn each_operation_gives_what_the_test_computes() {
    let rig = rig();
    let bytes = pattern(3 * MIB + 5, 1);
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    assert_eq!(result(&rig, &["nop"]), "done");
    assert_eq!(result(&rig, &["crc32c", "/f"]), crc32c(&bytes));
    let part = usize::try_from(MIB).expect("it fits");
    assert_eq!(result(&rig, &["crc32c", "/f", "--range", "1MiB:1000"]), crc32c(&bytes[part..part + 1000]));
    assert_eq!(result(&rig, &["xxh3", "/f"]), format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&bytes)));
    let counts: Vec<u64> =
        (0..=255).map(|byte| bytes.iter().filter(|b| **b == byte).count() as u64).collect();
    let row = rig.row(&["run", "sim0", "histogram", "/f"]);
    assert_eq!(row["output"], serde_json::json!(counts));

    assert_eq!(result(&rig, &["copy", "/f", "/copy"]), format!("{} bytes", bytes.len()));
    assert!(rig.get("/copy") == bytes);
    assert_eq!(result(&rig, &["compare", "/f", "/copy"]), "equal");
    result(&rig, &["fill", "/copy", "0", "--range", "2MiB:1MiB"]);
    let two = usize::try_from(2 * MIB).expect("it fits");
    let at = two + bytes[two..].iter().position(|byte| *byte != 0).expect("not all are zero");
    assert_eq!(result(&rig, &["compare", "/f", "/copy"]), format!("differs at {at}: greater"));
    let copied = rig.get("/copy");
    assert!(
        copied[two..][..part].iter().all(|byte| *byte == 0) && copied[two + part..] == bytes[two + part..]
    );

    rig.put("/text", b"the needle is in the hay", &[]).ok();
    assert_eq!(result(&rig, &["search", "/text", "needle"]), "found at 4");
    assert_eq!(result(&rig, &["search", "/text", "needles"]), "none");
    assert_eq!(result(&rig, &["search", "/text", "needle is in the hay"]), "found at 4");
    // Results side by side in a file, which grows for them.
    for (words, at) in [(&["search", "/text", "is"][..], "16"), (&["crc32c", "/f"], "32")] {
        let told = result(&rig, &[words, &["--result-to", "/results", "--result-at", at]].concat());
        assert_eq!(told, format!("written to /results at {at}"));
    }
    let results = rig.get("/results");
    let number = |at: usize| u64::from_le_bytes(results[at..at + 8].try_into().expect("eight"));
    assert_eq!((results.len(), number(16), number(24)), (48, 11, 1));
    assert_eq!(format!("{:08x}", number(32)), crc32c(&bytes));

    // Whole numbers: sums are exact in whatever order.
    let whole = |seed: i16| (0..5000_i16).map(move |i| i.wrapping_mul(31).wrapping_add(seed) % 101);
    let to_bytes = |kind: &str, seed| -> Vec<u8> {
        match kind {
            "f32" => whole(seed).flat_map(|n| f32::from(n).to_le_bytes()).collect(),
            "f64" => whole(seed).flat_map(|n| f64::from(n).to_le_bytes()).collect(),
            _ => whole(seed).flat_map(|n| i64::from(n).to_le_bytes()).collect(),
        }
    };
    let numbers: Vec<i64> = whole(1).map(i64::from).collect();
    let others: Vec<i64> = whole(2).map(i64::from).collect();
    let dot: i64 = numbers.iter().zip(&others).map(|(a, b)| a * b).sum();
    for kind in ["f32", "f64", "i64"] {
        let (a, b) = (format!("/{kind}-a"), format!("/{kind}-b"));
        rig.put(&a, &to_bytes(kind, 1), &["--on", "sim0"]).ok();
        rig.put(&b, &to_bytes(kind, 2), &[]).ok();
        let wanted = [
            ("sum", numbers.iter().sum()),
            ("min", *numbers.iter().min().expect("some")),
            ("max", *numbers.iter().max().expect("some")),
        ];
        for (operation, wanted) in wanted {
            let operation = format!("{operation}-{kind}");
            assert_eq!(result(&rig, &[&operation, &a]), wanted.to_string(), "{operation}");
        }
        assert_eq!(result(&rig, &[&format!("dot-{kind}"), &a, &b]), dot.to_string(), "dot-{kind}");
    }
    // 50 rows of 100.
    let vector: Vec<u8> = (0..100_u8).flat_map(|n| f32::from(n % 7).to_le_bytes()).collect();
    rig.put("/vector", &vector, &[]).ok();
    let rows: Vec<f64> = numbers
        .chunks(100)
        .map(|row| row.iter().zip(0..).map(|(n, at)| n * (at % 7)).sum::<i64>())
        .map(|sum| f64::from(i32::try_from(sum).expect("it is small")))
        .collect();
    let row = rig.row(&["run", "sim0", "matvec-f32", "/f32-a", "/vector"]);
    assert_eq!(row["output"], serde_json::json!(rows));
    rig.ok(&["run", "sim0", "matvec-f32", "/f32-a", "/vector", "/rows"]);
    let written: Vec<f64> =
        rig.get("/rows").as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect();
    assert_eq!(written, rows);
    assert_eq!(counter(&rig, "queue depth"), 0);
    rig.sound();
}

#[test]
fn what_can_not_be_run_is_refused_in_a_line() {
    let rig = Plan::new().device_as("sim0=software:16MiB").and_device("plain=emulated:16MiB").up();
    rig.put("/f", &pattern(4099, 1), &[]).ok();
    rig.put("/g", &pattern(99, 1), &[]).ok();
    rig.put("/m", &[0; 16], &[]).ok();
    rig.put("/v", &[0; 20], &[]).ok();
    rig.ok(&["mkdir", "/hot", "--on", "plain"]);
    rig.put("/hot/full", &pattern(16 * MIB, 1), &[]).ok();
    let names = || rig.ok(&["ls", "/"]).text().to_owned() + rig.ok(&["ls", "/hot"]).text();
    let before = names();
    for device in ["plain", "dram"] {
        rig.run(&["run", device, "crc32c", "/f"]).fails(2, &[device, "without a coprocessor", "software"]);
    }
    rig.run(&["run", "none", "crc32c", "/f"]).fails(3, &["none"]);
    for (words, code, says) in [
        (&["bogus", "/f"][..], 2, "there are nop, copy"),
        (&["crc32c"], 2, "without a PATH"),
        (&["crc32c", "/f", "/g"], 2, "more than it takes"),
        (&["crc32c", "/none"], 3, "/none"),
        (&["crc32c", "/f", "--range", "4000:100"], 2, "beyond its file"),
        (&["crc32c", "/f", "--range", "4000"], 2, "OFFSET:LENGTH"),
        (&["sum-f32", "/f"], 2, "multiple"),
        (&["nop", "/f"], 2, "nop takes neither a PATH nor --range"),
        (&["nop", "--range", "0:1"], 2, "nop takes neither a PATH nor --range"),
        (&["fill", "/f", "1", "2"], 2, "fill was given more than it takes"),
        (&["compare", "/f", "/g"], 2, "second"),
        (&["fill", "/f", "256"], 2, "from 0 to 255"),
        (&["search", "/f", &"x".repeat(257)], 2, "1 to 256"),
        (&["copy", "/f", "/made", "--result-to", "/r"], 2, "has an output"),
        (&["crc32c", "/f", "--result-at", "16"], 2, "--result-to"),
        (&["crc32c", "/f", "--result-to", "/g", "--result-at", "18446744073709551615"], 2, "too far"),
        (&["search", "/f"], 2, "without a TEXT"),
        (&["matvec-f32", "/m", "/v", "/made"], 2, "longer than the matrix"),
        (&["copy", "/f", "/made", "--range", "4000:100"], 2, "beyond its file"),
        (&["sum-f32", "/f", "--result-to", "/made"], 2, "multiple"),
        (&["crc32c", "/f", "--range", "4099:1", "--result-to", "/made"], 2, "beyond its file"),
        (&["crc32c", "/f", "--result-to", "/made", "--result-at", "9223372036854775807"], 2, "/made"),
        (&["crc32c", "/f", "--result-to", "/hot/made"], 4, "no space"),
        (&["copy", "/f", "/hot/made"], 4, "no space"),
    ] {
        rig.run(&[&["run", "sim0"], words].concat()).fails(code, &[says]);
    }
    assert_eq!(names(), before, "nothing was made for what was refused");
    // What is written for nobody to keep lies elsewhere.
    assert_eq!(result(&rig, &["search", "/hot/full", &"no such text".repeat(2)]), "none");
    assert_eq!(
        rig.row(&["run", "sim0", "histogram", "/hot/full"])["output"].as_array().map(Vec::len),
        Some(256)
    );
    assert_eq!(names(), before);
    assert!(rig.get("/f") == pattern(4099, 1));
}

#[test]
fn an_output_on_what_is_read_is_named_and_nothing_is_changed() {
    let plan = Plan::new().device_as("sim0=software:16MiB");
    let (rig, dir) = match mounted("an output on a hard link", plan.clone()) {
        Some(Mounted { rig, dir }) => (rig, Some(dir)),
        None => (plan.up(), None),
    };
    let numbers: Vec<u8> = (0..64_u8).flat_map(|n| f32::from(n).to_le_bytes()).collect();
    let files = [("/small", pattern(16, 1)), ("/m", numbers.clone()), ("/v", numbers[..4].to_vec())];
    files.iter().for_each(|(path, bytes)| drop(rig.put(path, bytes, &[]).ok()));
    let refused = |words: &[&str], says: &[&str]| {
        rig.run(&[&["run", "sim0"], words].concat()).fails(2, &[&["overlaps", "same file"], says].concat());
        files.iter().for_each(|(path, bytes)| assert!(rig.get(path) == *bytes, "{words:?}: {path}"));
    };
    let of = "16 bytes of /small from 0 on";
    refused(&["histogram", "/small", "/small"], &["the output, 2048 bytes of /small from 0 on", "input", of]);
    refused(&["copy", "/small", "/small"], &["copy: the output", of]);
    refused(&["copy", "/small", "/small", "--range", "3:9"], &["9 bytes of /small from 3 on"]);
    refused(&["matvec-f32", "/m", "/v", "/v"], &["256 bytes of /v", "second range, 4 bytes of /v"]);
    refused(&["matvec-f32", "/m", "/v", "/m"], &["256 bytes of /m", "input"]);
    if let Some(dir) = dir {
        std::fs::hard_link(dir.join("small"), dir.join("other")).expect("one file, two names");
        refused(&["copy", "/small", "/other"], &["16 bytes of /other", of]);
        refused(&["histogram", "/other", "/small"], &["2048 bytes of /small", "16 bytes of /other"]);
    }
    // Apart in one file.
    rig.ok(&["run", "sim0", "copy", "/small", "/small", "--range", "8:8"]);
    assert_eq!(rig.get("/small"), [&pattern(16, 1)[8..], &pattern(16, 1)[8..]].concat());
    rig.sound();
}

#[test]
fn what_is_only_written_need_not_be_read() {
    if !root() {
        return skipped("what_is_only_written_need_not_be_read", "other users need root");
    }
    let rig = Plan::new().device_as("sim0=software:16MiB").user(NOBODY).up();
    rig.put("/f", &pattern(4099, 1), &[]).ok();
    let run = |words: &[&str]| {
        let all = [&["run", "sim0"], words].concat();
        run_limited(rig.command(&all).uid(NOBODY - 1).gid(NOBODY - 1), all.join(" "), b"")
    };
    for path in ["/out", "/results"] {
        rig.put(path, b"", &[]).ok();
        rig.ok(&["chmod", "602", path]);
    }
    run(&["copy", "/f", "/out"]).ok();
    assert!(rig.get("/out") == pattern(4099, 1));
    run(&["crc32c", "/f", "--result-to", "/results"]).ok();
    assert_eq!(rig.get("/results").len(), 16);
    run(&["crc32c", "/out"]).fails(7, &["/out"]);
    rig.ok(&["chmod", "604", "/out"]);
    run(&["copy", "/f", "/out"]).fails(7, &["/out"]);
    rig.sound();
}

#[test]
fn rows_that_are_no_numbers_are_printed_as_sums_are() {
    let rig = Plan::new().device_as("sim0=software:16MiB").up();
    let bytes = |numbers: &[f32]| -> Vec<u8> { numbers.iter().flat_map(|n| n.to_le_bytes()).collect() };
    rig.put("/m", &bytes(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 2.5]), &[]).ok();
    rig.put("/v", &bytes(&[1.0]), &[]).ok();
    assert_eq!(rig.ok(&["run", "sim0", "matvec-f32", "/m", "/v"]).text(), "NaN\ninf\n-inf\n2.5\n");
    let row = rig.row(&["run", "sim0", "matvec-f32", "/m", "/v"]);
    assert_eq!(row["output"], serde_json::json!(["NaN", "inf", "-inf", 2.5]));
    assert_eq!(result(&rig, &["sum-f32", "/m"]), "NaN");
}

#[test]
fn a_no_op_that_waits_shows_no_bytes() {
    let rig = rig();
    rig.ok(&["device", "drain", "sim0"]);
    let mut run = rig.command(&["run", "sim0", "nop"]);
    let mut run = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut stderr = BufReader::new(run.stderr.take().expect("piped"));
    let mut said = String::new();
    stderr.read_line(&mut said).expect("text");
    assert!(said.contains("is at rest"), "{said}");
    // What is shown comes every 2 s.
    std::thread::sleep(Duration::from_millis(2500));
    rig.ok(&["device", "online", "sim0"]);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).expect("text");
    assert!(run.wait().expect("it ends").success());
    assert_eq!(rest, "");
}

#[test]
fn what_is_only_read_keeps_its_holes() {
    let plan = Plan::new().dram("64MiB").device_as("sim0=software:64MiB");
    let Some(Mounted { rig, dir }) = mounted("what_is_only_read_keeps_its_holes", plan) else { return };
    let sparse = |name: &str, len: u64, (at, bytes): (u64, &[u8])| {
        let file = std::fs::File::create_new(dir.join(name)).expect("there is none");
        file.set_len(len).expect("it takes nothing");
        file.write_all_at(bytes, at).expect("there is room");
    };
    let text = b"the needle is in the haystack";
    // Where what is asked for at a time ends.
    sparse("hs", 500 * MIB, (300 * MIB + (64 << 10) - 5, text));
    rig.put("/small", text, &[]).ok();
    let used = || rig.pool("dram", "used");
    let before = used();
    let mut there = vec![0; 1 << 20];
    there[(64 << 10) - 5..][..text.len()].copy_from_slice(text);
    assert_eq!(result(&rig, &["crc32c", "/hs", "--range", "300MiB:1MiB"]), crc32c(&there));
    assert_eq!(result(&rig, &["crc32c", "/hs", "--range", "499MiB:1MiB"]), crc32c(&vec![0; 1 << 20]));
    let found = result(&rig, &["search", "/hs", "needle is in the haystack", "--range", "300MiB:2MiB"]);
    assert_eq!(found, format!("found at {}", (64 << 10) - 1));
    result(&rig, &["copy", "/hs", "/copy", "--range", "300MiB:1MiB"]);
    assert!(rig.get("/copy") == there);
    assert_eq!(used(), before + MIB, "only the copy takes frames");
    // What is written has none, and says when there is no room.
    rig.run(&["run", "sim0", "copy", "/small", "/hs"]).fails(4, &["no space"]);
    std::fs::create_dir(dir.join("q")).expect("ours");
    rig.ok(&["quota", "set", "--dir", "/q", "dram", "4MiB"]);
    sparse("q/hs", 16 * MIB, (0, text));
    rig.run(&["run", "sim0", "fill", "/q/hs", "7", "--range", "0:4KiB"]).fails(11, &["quota"]);
    assert_eq!(result(&rig, &["crc32c", "/q/hs", "--range", "0:29"]), crc32c(text));
    rig.sound();
}

#[test]
fn a_cpu_that_is_not_there_is_refused_by_name() {
    let rig = Plan::new().device_as("sim0=software:16MiB,cpu=99999").place();
    rig.try_up("").expect_err("there is none").fails(2, &["sim0", "cpu=99999"]);
}

#[test]
fn bad_descriptors_are_refused_one_by_one_and_harm_nobody() {
    let rig = rig();
    rig.put("/f", &pattern(10_000, 1), &["--on", "sim0"]).ok();
    rig.put("/w", &pattern(10_000, 2), &[]).ok();
    rig.put("/long", &[7; 300], &[]).ok();
    rig.put("/tiny", &[7; 15], &[]).ok();
    let first = pid(&rig);
    let mut program = Client::start(&rig, "submit", &["64"]);
    for (number, path, mode) in
        [("1", "/f", "ro"), ("2", "/w", "rw"), ("3", "/long", "ro"), ("4", "/w", "rw"), ("5", "/tiny", "rw")]
    {
        assert_eq!(program.ask(&format!("file {path} {mode}")), number);
    }
    assert!(program.ask("file /f w").starts_with("Permission"), "not open for writing");
    let huge = u64::MAX;
    for (request, status) in [
        // No such operation, file, or right.
        ("999 0 1 0 0 0 100 0".to_owned(), "-95"),
        ("6 0 9 0 0 0 100 0".into(), "-9"),
        ("6 0 0 0 0 0 100 0".into(), "-9"),
        ("3 0 1 0 0 0 100 0".into(), "-13"),
        ("2 0 2 1 0 0 100 0".into(), "-13"),
        // Beyond the file, and beyond all files.
        ("6 0 1 0 1 0 10000 0".into(), "-34"),
        (format!("6 0 1 0 {huge} 0 {huge} 0"), "-34"),
        (format!("2 0 1 2 0 {huge} 10000 0"), "-34"),
        // Overlapping, by one number and by two; torn; without a string; with one that is too long.
        ("2 0 2 2 0 50 100 0".into(), "-22"),
        ("2 0 2 4 0 50 100 0".into(), "-22"),
        ("16 0 1 0 0 0 10 0".into(), "-22"),
        ("5 0 1 0 0 0 100 0".into(), "-22"),
        ("5 0 1 0 0 17 100 0".into(), "-22"),
        ("5 0 1 3 0 0 100 257".into(), "-22"),
        ("32 0 1 1 0 0 16 0".into(), "-9"),
        ("32 0 1 1 0 0 16 2".into(), "-22"),
        ("32 0 1 1 0 0 18 17179869186".into(), "-22"),
        // And some that are well.
        ("5 0 3 3 0 100 300 200".into(), "00000000"),
        ("6 65531 1 0 0 0 10000 0".into(), &crc32c(&pattern(10_000, 1))),
        // A result to a file: of none, of one that is only read, beyond its end, beside an output, and well.
        ("6 4 1 0 0 0 10000 0".into(), "-9"),
        (format!("6 4 1 0 0 0 10000 {}", 3_u64 << 32), "-13"),
        (format!("6 4 1 0 0 0 10000 {}", 5_u64 << 32), "-34"),
        (format!("3 4 2 0 0 0 10000 {}", 2_u64 << 32), "-22"),
        (format!("5 4 3 3 0 100 300 {}", 200 | 2_u64 << 32), "00000000"),
        (format!("6 4 1 0 0 0 10000 {}", 2_u64 << 32), "00000000"),
    ] {
        assert_eq!(program.ask(&format!("ask {request}")), "handed in");
        assert_eq!(program.ask("wait"), status, "{request}");
    }
    let [a, b, c, d] = [0, 1, 2, 3].map(|at| rig.get("/w")[at]);
    assert_eq!(format!("{:08x}", u32::from_le_bytes([a, b, c, d])), crc32c(&pattern(10_000, 1)));
    // What has no room is refused, and nothing is lost.
    assert_eq!(program.ask("crc 1 10000 100"), "64");
    assert!(program.ask("ask 1 0 0 0 0 0 0 0").starts_with("WouldBlock"));
    for _ in 0..64 {
        assert_eq!(program.ask("wait"), crc32c(&pattern(10_000, 1)));
    }
    program.end();
    assert_eq!(pid(&rig), first, "the coprocessor is the same");
    rig.sound();
}

/// A program that has handed in a hundred sums of a file in `sim0`, what each is, and the file's length.
fn at_work(rig: &Rig) -> (Client, String, usize) {
    let bytes = pattern(32 * MIB, 3);
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    let mut program = Client::start(rig, "submit", &["256"]);
    assert_eq!(program.ask("file /f ro"), "1");
    assert_eq!(program.ask(&format!("crc 1 {} 100", bytes.len())), "100");
    (program, crc32c(&bytes), bytes.len())
}

#[test]
fn moves_and_drains_under_work_in_flight_lose_nothing() {
    let rig = rig();
    let (mut program, sum, len) = at_work(&rig);
    // What lies in the ring counts, too.
    let before = program.number("done");
    let depth = counter(&rig, "queue depth");
    let after = program.number("done");
    assert!((100 - after..=100 - before).contains(&depth), "{before} to {after} are done, and {depth} not");
    for to in ["dram", "sim0"] {
        rig.ok(&["move", "/f", "--to", to]);
        assert_eq!(rig.pools_of("/f"), [to]);
    }
    rig.ok(&["device", "drain", "sim0"]);
    assert_eq!(rig.pools_of("/f"), ["dram"]);
    let done = program.number("done");
    assert!(done < 100, "all was done before the drain");
    let shown = rig.ok(&["device", "show", "sim0"]);
    assert!(shown.text().contains("at rest") && shown.text().contains("are saved"), "{shown}");
    // One that doesn't want to wait is told at once, and one that does waits behind the others.
    assert_eq!(program.ask("ask 1 2 0 0 0 0 0 0"), "handed in");
    until("an answer to who doesn't wait", || (program.number("done") == done + 1).then_some(()));
    assert_eq!(program.ask("ask 1 0 0 0 0 0 0 0"), "handed in");
    // Another one is cancelled while it waits.
    assert_eq!(program.ask(&format!("ask 6 0 1 0 0 0 {len} 0")), "handed in");
    assert_eq!(program.ask("cancel"), "asked for");
    until("the end of what was cancelled", || (program.number("done") == done + 2).then_some(()));
    assert_eq!(counter(&rig, "operations"), done);

    rig.ok(&["device", "online", "sim0"]);
    for n in 0..100 {
        assert_eq!(program.ask("wait"), sum, "{n}");
    }
    assert_eq!([program.ask("wait"), program.ask("wait"), program.ask("wait")], ["-11", "00000000", "-125"]);
    assert_eq!(rig.pools_of("/f"), ["sim0"]);
    // Each was carried out once.
    assert_eq!((counter(&rig, "operations"), counter(&rig, "queue depth")), (101, 0));
    program.end();
    rig.sound();
}

#[test]
fn a_device_that_is_drained_of_data_only_goes_on_computing() {
    let rig = rig();
    let (mut program, sum, _) = at_work(&rig);
    rig.ok(&["device", "drain", "sim0", "--keep-running"]);
    assert_eq!(rig.pools_of("/f"), ["dram"]);
    for n in 0..100 {
        assert_eq!(program.ask("wait"), sum, "{n}");
    }
    program.end();
    // So does the next process, and the next daemon's.
    replaced(&rig);
    assert_eq!(result(&rig, &["crc32c", "/f"]), sum);
    rig.kill();
    rig.up();
    assert_eq!(result(&rig, &["crc32c", "/f"]), sum);
    rig.ok(&["device", "online", "sim0"]);
    assert_eq!(rig.pools_of("/f"), ["sim0"]);
    // Those terms were that drain's.
    rig.ok(&["device", "drain", "sim0"]);
    let shown = rig.ok(&["device", "show", "sim0"]);
    assert!(shown.text().contains("at rest"), "{shown}");
    rig.sound();
}

fn signal(pid: u64, signal: Signal) {
    let process = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    rustix::process::kill_process(process, signal).expect("it is there");
}

fn kill(pid: u64) {
    signal(pid, Signal::KILL);
}

/// Kills the coprocessor and waits for the next one.
fn replaced(rig: &Rig) -> u64 {
    let first = pid(rig);
    kill(first);
    next_after(rig, first)
}

/// The coprocessor that comes after this one, which has ended.
fn next_after(rig: &Rig, first: u64) -> u64 {
    until("another coprocessor", || {
        rig.row(&["device", "show", "sim0"])["device"]["pid"].as_u64().filter(|pid| *pid != first)
    })
}

#[test]
fn work_in_flight_outlives_the_coprocessor_of_a_drained_device_and_completes_once() {
    let rig = rig();
    let (mut program, sum, len) = at_work(&rig);
    rig.ok(&["device", "drain", "sim0"]);
    let done = program.number("done");
    assert!(done < 100, "all was done before the drain");
    assert_eq!((counter(&rig, "operations"), counter(&rig, "queue depth")), (done, 100 - done));
    let first = pid(&rig);
    kill(first);
    // Whether there is a coprocessor or not: who doesn't want to wait is told, and so is who has given it up.
    for _ in 0..20 {
        assert_eq!(program.ask("ask 1 2 0 0 0 0 0 0"), "handed in");
        assert_eq!(program.ask(&format!("ask 6 0 1 0 0 0 {len} 0")), "handed in");
        assert_eq!(program.ask("cancel"), "asked for");
    }
    until("answers", || (program.number("done") == done + 40).then_some(()));
    // And once more when it waits for its device, with a file that it was given since.
    next_after(&rig, first);
    replaced(&rig);
    assert_eq!(program.ask("file /f ro"), "2");
    assert_eq!(program.ask(&format!("crc 2 {len} 10")), "10");
    assert_eq!(counter(&rig, "queue depth"), 110 - done);
    replaced(&rig);
    rig.ok(&["device", "online", "sim0"]);
    for n in 0..100 {
        assert_eq!(program.ask("wait"), sum, "{n}");
    }
    for n in 0..20 {
        assert_eq!([program.ask("wait"), program.ask("wait")], ["-11", "-125"], "{n}");
    }
    for n in 0..10 {
        assert_eq!(program.ask("wait"), sum, "{n}");
    }
    // This process has carried out what the first one had not.
    assert_eq!((counter(&rig, "operations"), counter(&rig, "queue depth")), (110 - done, 0));
    assert_eq!(rig.pools_of("/f"), ["sim0"]);
    program.end();
    rig.sound();
}

#[test]
fn what_runs_goes_on_in_the_next_coprocessor_where_it_was() {
    let rig = rig();
    let len = 32 * MIB;
    rig.put("/f", &vec![0; usize::try_from(len).expect("it fits")], &["--on", "sim0"]).ok();
    let mut program = Client::start(&rig, "submit", &["256"]);
    assert_eq!(program.ask("file /f rw"), "1");
    for byte in 1..=200 {
        assert_eq!(program.ask(&format!("ask 3 0 1 0 0 0 {len} {byte}")), "handed in");
    }
    // Each fills all of it, so it shows how far the one that runs is, if it isn't just at its end.
    let (at, byte) = loop {
        rig.ok(&["device", "drain", "sim0"]);
        let bytes = rig.get("/f");
        if let Some(at) = bytes.iter().position(|byte| *byte != bytes[0]) {
            break (at, bytes[0]);
        }
        assert!(bytes[0] < 200, "all was done before the drain");
        rig.ok(&["device", "online", "sim0"]);
    };
    assert_eq!(program.number("done"), u64::from(byte) - 1);
    replaced(&rig);
    assert_eq!(program.ask("cancel all but the first"), "asked for");
    until("the others' end", || (program.number("done") == 199).then_some(()));
    // What lies behind it, it doesn't touch again.
    let store = Store::connect(rig.dir()).expect("a daemon");
    let file = OpenOptions::new().write(true).open(&store, "/f").expect("it is there");
    file.write_at(&[255], 0).expect("written");
    drop((file, store));
    rig.ok(&["device", "online", "sim0"]);
    until("its end", || (program.number("done") == 200).then_some(()));
    let told: Vec<String> = (1..=200).map(|_| program.ask("wait")).collect();
    let well = format!("{len:08x}");
    assert!(told[..byte.into()].iter().all(|told| *told == well), "{told:?}");
    assert!(told[byte.into()..].iter().all(|told| told == "-125"), "{told:?}");
    let bytes = rig.get("/f");
    assert_eq!(bytes[0], 255, "it was begun anew, and was at {at}");
    assert!(bytes[1..].iter().all(|one| *one == byte));
    program.end();
    rig.sound();
}

#[test]
fn a_reset_device_tells_what_it_has_forgotten() {
    let rig = rig();
    let bytes = pattern(32 * MIB, 4);
    let sum = crc32c(&bytes);
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    let mut program = Client::start(&rig, "submit", &["256"]);
    assert_eq!(program.ask("file /f ro"), "1");
    assert_eq!(program.ask(&format!("crc 1 {} 100", bytes.len())), "100");
    rig.ok(&["device", "drain", "sim0"]);
    let done = program.number("done");
    rig.ok(&["device", "online", "sim0", "--reset-device"]);
    let told: Vec<String> = (0..100).map(|_| program.ask("wait")).collect();
    let (well, forgotten): (Vec<_>, Vec<_>) = told.iter().partition(|told| **told == sum);
    assert!(well.len() as u64 >= done && !forgotten.is_empty(), "{told:?}");
    assert!(forgotten.iter().all(|told| *told == "-104"), "{told:?}");
    program.end();
}

#[test]
fn what_a_reset_that_is_late_forgets_is_told_when_the_coprocessor_answers_or_dies() {
    let rig = Plan::new()
        .dram("256MiB")
        .device_as("sim0=software:128MiB")
        .config("quiesce_timeout = \"1s\"\n")
        .up();
    let bytes = pattern(32 * MIB, 6);
    let (sum, len) = (crc32c(&bytes), bytes.len());
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    let mut program = Client::start(&rig, "submit", &["256"]);
    assert_eq!(program.ask("file /f ro"), "1");
    for how in [Signal::CONT, Signal::KILL] {
        assert_eq!(program.ask(&format!("crc 1 {len} 100")), "100");
        let coprocessor = pid(&rig);
        signal(coprocessor, Signal::STOP);
        rig.run(&["device", "online", "sim0", "--reset-device"])
            .fails(6, &["sim0", "software", "reset", "1.0 s"]);
        signal(coprocessor, how);
        // The queue goes on, and what was half done is done in none of its requests.
        let told: Vec<String> = (0..100).map(|_| program.ask("wait")).collect();
        let (well, forgotten): (Vec<_>, Vec<_>) = told.iter().partition(|told| **told == sum);
        assert!(!forgotten.is_empty(), "{} were done", well.len());
        assert!(forgotten.iter().all(|told| *told == "-104"), "{told:?}");
        assert_eq!(program.ask(&format!("crc 1 {len} 1")), "1");
        assert_eq!(program.ask("wait"), sum);
    }
    program.end();
    rig.sound();
}

#[test]
fn a_coprocessor_goes_on_whose_drain_was_cancelled_before_it_was_at_rest() {
    let rig = rig();
    let bytes = pattern(MIB, 7);
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    let coprocessor = pid(&rig);
    signal(coprocessor, Signal::STOP);
    let mut drain = rig.command(&["device", "drain", "sim0"]);
    let mut drain = drain.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    until("a drain", || (rig.state("sim0") == "draining").then_some(()));
    signal(drain.id().into(), Signal::INT);
    assert!(!drain.wait().expect("it ends").success());
    until("the drain's end", || (rig.state("sim0") == "online").then_some(()));
    signal(coprocessor, Signal::CONT);
    assert_eq!(result(&rig, &["crc32c", "/f"]), crc32c(&bytes));
    rig.sound();
}

#[test]
fn a_coprocessor_that_is_killed_is_started_again_and_who_waits_is_told() {
    let rig = rig();
    let bytes = pattern(32 * MIB, 5);
    let sum = crc32c(&bytes);
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    let mut program = Client::start(&rig, "submit", &["256"]);
    assert_eq!(program.ask("file /f ro"), "1");
    assert_eq!(program.ask(&format!("crc 1 {} 100", bytes.len())), "100");
    let first = pid(&rig);
    kill(first);
    let told = std::iter::repeat_with(|| program.ask("wait")).find(|told| *told != sum);
    assert_eq!(told.as_deref(), Some("the process at the queue's other end has died"));
    let next = next_after(&rig, first);
    assert_eq!(result(&rig, &["crc32c", "/f"]), sum);
    assert!(rig.events("driver").iter().any(|line| line.contains("started again")));
    program.end();
    rig.sound();
    // It ends with the daemon.
    rig.down();
    until("the end of the coprocessor", || gone(next));
}

fn gone(pid: u64) -> Option<()> {
    (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
}

#[test]
fn a_daemon_that_is_killed_takes_its_coprocessor_with_it_and_the_next_has_another() {
    let cpu = *codax_os::cpu::allowed().expect("it runs somewhere").last().expect("it runs somewhere");
    let device =
        format!("[[device]]\nname = \"sim0\"\nbacking = \"software\"\nsize = \"64MiB\"\ncpu = {cpu}\n");
    let rig = Plan::new().without_devices().config(&format!("ack_timeout = \"1m\"\n{device}")).up();
    let bytes = pattern(32 * MIB, 9);
    let sum = crc32c(&bytes);
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    let first = pid(&rig);
    let status = std::fs::read_to_string(format!("/proc/{first}/status")).expect("it is there");
    assert!(status.starts_with("Name:\tcodax\n"), "{status}");
    assert!(status.lines().any(|line| line == format!("Cpus_allowed_list:\t{cpu}")), "{status}");
    let mut program = Client::start(&rig, "submit", &["256"]);
    assert_eq!(program.ask("file /f ro"), "1");
    assert_eq!(program.ask(&format!("crc 1 {} 100", bytes.len())), "100");
    // It maps the file by then.
    until("the first of them", || (program.number("done") > 0).then_some(()));
    rig.kill();
    let told = std::iter::repeat_with(|| program.ask("wait")).find(|told| *told != sum);
    assert_eq!(told.as_deref(), Some("the queue was closed by its other end"));
    until("the end of the coprocessor", || gone(first));
    rig.up();
    assert_ne!(pid(&rig), first);
    assert_eq!(result(&rig, &["crc32c", "/f"]), sum);
    let file = rig.beside("codax.toml");
    let text = std::fs::read_to_string(&file).expect("ours").replace(&format!("cpu = {cpu}\n"), "");
    std::fs::write(&file, text).expect("ours");
    assert_eq!(rig.ok(&["reload"]).text(), "coprocessors of devices need a restart\n");
    program.end();
    rig.sound();
}

#[test]
fn who_waits_for_a_device_at_rest_is_told_why() {
    let rig = rig();
    let bytes = pattern(MIB, 12);
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    rig.ok(&["device", "drain", "sim0"]);
    let mut run = rig.command(&["run", "sim0", "crc32c", "/f"]);
    let mut run = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut said = String::new();
    BufReader::new(run.stderr.take().expect("piped")).read_line(&mut said).expect("text");
    assert_eq!(said, "sim0 is at rest: it goes on when it is online again (codax device online sim0)\n");
    rig.ok(&["device", "online", "sim0"]);
    let ended = run.wait_with_output().expect("it ends");
    let told = String::from_utf8(ended.stdout).expect("text");
    assert!(ended.status.success() && told.starts_with(&crc32c(&bytes)), "{told}");
}

#[test]
fn who_waits_or_polls_while_the_device_is_at_rest_is_told_of_the_daemon_s_end() {
    for killed in [true, false] {
        let rig = rig();
        rig.put("/f", &pattern(MIB, 12), &["--on", "sim0"]).ok();
        rig.ok(&["device", "drain", "sim0"]);
        let mut run = rig.command(&["run", "sim0", "crc32c", "/f"]);
        let mut run = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut stderr = BufReader::new(run.stderr.take().expect("piped"));
        let mut said = String::new();
        stderr.read_line(&mut said).expect("text");
        assert!(said.contains("is at rest"), "{said}");
        let store = Store::connect(rig.dir()).expect("a daemon");
        let queue = store.device("sim0").queue(2).expect("a queue");
        let mut ticket = Some(queue.submit(&Descriptor::default()).expect("open"));
        if killed {
            rig.kill()
        } else {
            rig.down()
        }
        let why = until("the end of the queue", || match queue.poll(ticket.take().expect("not complete")) {
            Err(Unfinished::Pending(pending)) => {
                ticket = Some(pending);
                None
            }
            Err(Unfinished::Closed(why)) => Some(why.to_string()),
            Ok(complete) => panic!("{complete:?}"),
        });
        assert_eq!(why, "the process at the queue's other end has died");
        assert_eq!(run.wait().expect("it ends").code(), Some(6));
        stderr.read_to_string(&mut said).expect("text");
        assert!(said.contains(&why), "{said}");
    }
}

#[test]
fn files_that_are_removed_or_cut_while_the_device_is_at_rest_harm_nobody() {
    let rig = rig();
    let bytes = pattern(32 * MIB, 7);
    let (sum, len) = (crc32c(&bytes), bytes.len());
    let mut program = Client::start(&rig, "submit", &["256"]);
    for (path, number) in [("/gone", "1"), ("/cut", "2")] {
        rig.put(path, &bytes, &["--on", "sim0"]).ok();
        assert_eq!(program.ask(&format!("file {path} rw")), number);
    }
    assert_eq!(program.ask(&format!("crc 2 {len} 50")), "50");
    assert_eq!(program.ask(&format!("crc 1 {len} 10")), "10");
    rig.ok(&["device", "drain", "sim0"]);
    let done = program.number("done");
    assert!(done < 50, "all was done before the drain");
    replaced(&rig);
    rig.ok(&["rm", "/gone"]);
    let store = Store::connect(rig.dir()).expect("a daemon");
    let file = OpenOptions::new().write(true).open(&store, "/cut").expect("it is there");
    file.set_len(MIB).expect("it is cut");
    rig.ok(&["device", "online", "sim0"]);
    let told: Vec<String> = (0..60).map(|_| program.ask("wait")).collect();
    let done = usize::try_from(done).expect("it fits");
    assert!(told[..done].iter().chain(&told[50..]).all(|told| *told == sum), "{told:?}");
    // The one that ran can't reach what it has not read yet, and the others begin with a file that is too short.
    assert!(told[done..50].iter().all(|told| ["-5", "-34"].contains(&told.as_str())), "{told:?}");
    drop((file, store));
    program.end();
    rig.sound();
}
