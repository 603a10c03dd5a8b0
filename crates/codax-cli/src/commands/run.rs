//! `codax run`: an operation on files, by a device's coprocessor.

use super::Context;
use crate::args::{RunArgs, checked};
use crate::output::progress::Progress;
use crate::output::text::{self, printable};
use anyhow::Result;
use codax::queue::{
    Closed, Completion, Descriptor, INLINE_MAX, Opcode, Outcome, Queue, RESULT_LEN, Range, Refused, Spec,
    Status, Ticket, Unfinished, Value, Which, descriptor, result_to, search_for,
};
use codax::{File, OpenOptions, Store};
use codax_core::driver::Standing;
use codax_core::units::{format_size, parse_size};
use codax_core::{Error, ErrorKind};
use serde::Serialize;
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

/// Requests that fit in its queue: it has one.
const SLOTS: u32 = 2;

/// Time between two looks at how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long it has not begun when it is said why.
const SILENT: Duration = Duration::from_secs(1);

/// Bytes that `histogram` writes.
const HISTOGRAM_LEN: u64 = 2048;

#[derive(Serialize)]
struct Row {
    device: String,
    operation: &'static str,
    /// The result in words, as it is printed without --json.
    result: String,
    /// Its 16 bytes; offset and length of where it was written.
    result_hex: String,
    /// Bytes that it went through.
    bytes: u64,
    /// How long it took, by the coprocessor's account.
    nanos: u64,
    /// What an operation that writes has written, where no path was given for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Vec<serde_json::Number>>,
}

/// An operation with its files open.
struct Job<'a> {
    store: &'a Store,
    queue: Queue,
    spec: Spec,
    /// Where the string is that is searched for, if it lies in a file.
    string: Option<Range>,
    /// What was written, to be printed.
    output: Option<File>,
}

/// Longest string that is searched for.
const STRING_MAX: usize = 256;

/// `codax run`.
pub fn run(context: &Context, args: &RunArgs) -> Result<()> {
    let opcode: Opcode = args.operation.parse().map_err(|e| Error::invalid(format!("{e}")))?;
    let range = args.range.as_deref().map(checked::range).transpose()?;
    let at = parse_size(&args.result_at)?;
    let store = context.store()?;
    let queue = store.device(&args.device).queue(SLOTS)?;
    let mut job = Job { store: &store, queue, spec: Spec::new(opcode), string: None, output: None };
    job.prepare(args, range)?;
    let request = job.request(args.result_to.as_deref(), at)?;
    let completion = job.carry_out(context, args, &request)?;
    let status = Status::of(&completion);
    if status != Status::Done {
        let path = args.path.as_deref().map_or_else(String::new, |path| format!(" of {}", path.display()));
        let line = format!("{} {opcode}{path}: {status}", args.device);
        return Err(Error::new(kind_of(status), line).into());
    }
    let result = args.result_to.is_none().then(|| Outcome(completion.result).value(opcode));
    // Some end where they have found something.
    let len = match result {
        Some(Value::Found(Some(at)) | Value::Difference(Some((at, _)))) => request.len.min(at + 1),
        _ => request.len,
    };
    let path = args.result_to.as_deref().unwrap_or_default().display();
    let result = result.map_or_else(|| format!("written to {path} at {at}"), |result| result.to_string());
    let output = job.output.as_ref().map(|file| numbers(file, opcode)).transpose()?;
    let row = Row {
        device: args.device.clone(),
        operation: opcode.name(),
        result: result.clone(),
        result_hex: completion.result.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
        bytes: len,
        nanos: completion.took_ns,
        output: output.clone(),
    };
    context.print([row], || shown(&args.device, &result, output.as_deref(), len, completion.took_ns))
}

/// What a person sees: what was written in lines, or the result in one.
fn shown(
    device: &str,
    result: &str,
    output: Option<&[serde_json::Number]>,
    bytes: u64,
    nanos: u64,
) -> String {
    if let Some(numbers) = output {
        return numbers.iter().fold(String::new(), |mut lines, number| {
            let _ = writeln!(lines, "{number}");
            lines
        });
    }
    if bytes == 0 {
        return format!("{}\n", printable(result));
    }
    let (size, pace) = (format_size(bytes), text::pace(bytes, nanos));
    let result = printable(result);
    format!("{result}\n  {size} by {} in {pace}\n", printable(device))
}

fn kind_of(status: Status) -> ErrorKind {
    match status {
        Status::Cancelled => ErrorKind::Cancelled,
        Status::NotAllowed => ErrorKind::Permission,
        Status::Drained | Status::Reset => ErrorKind::DeviceState,
        Status::Unreachable => ErrorKind::Lost,
        Status::NoSpace => ErrorKind::NoSpace,
        Status::QuotaExceeded => ErrorKind::QuotaExceeded,
        _ => ErrorKind::Invalid,
    }
}

impl Job<'_> {
    /// Opens the files, and says what is to be done with them.
    fn prepare(&mut self, args: &RunArgs, range: Option<(u64, u64)>) -> Result<()> {
        let opcode = self.spec.opcode;
        let [first, second] = [args.more.first(), args.more.get(1)];
        let most = match opcode {
            Opcode::MatvecF32 => 2,
            Opcode::Copy | Opcode::Compare | Opcode::Fill | Opcode::Search | Opcode::Histogram => 1,
            _ => usize::from(opcode.shape().elements[Which::Second as usize].is_some()),
        };
        if args.more.len() > most || opcode == Opcode::Nop && args.path.is_some() {
            return Err(usage(opcode, "more than it takes").into());
        }
        if opcode == Opcode::Nop {
            return Ok(());
        }
        let path = args.path.as_ref().ok_or_else(|| usage(opcode, "without a PATH"))?;
        if opcode == Opcode::Fill {
            self.spec.parameter = vec![byte(first)?];
            return self.give(Which::Output, path, range);
        }
        self.give(Which::Input, path, range)?;
        match opcode {
            Opcode::Search => {
                let string = string(first)?;
                if string.len() <= INLINE_MAX && args.result_to.is_none() {
                    self.spec.parameter = string;
                } else {
                    self.string = Some(self.put_string(path, &string)?);
                }
            }
            Opcode::MatvecF32 => {
                self.give(Which::Second, first.ok_or_else(|| usage(opcode, "without a VECTOR"))?, None)?;
                let columns = self.spec.len(Which::Second) / 4;
                let rows = (self.spec.len(Which::Input) / 4).checked_div(columns).unwrap_or(0);
                self.take(second, path, rows * 4)?;
            }
            Opcode::Copy => {
                let output = first.ok_or_else(|| usage(opcode, "without an OUTPUT"))?;
                self.take(Some(output), path, self.spec.len(Which::Input))?;
            }
            Opcode::Histogram => self.take(first, path, HISTOGRAM_LEN)?,
            _ if most == 1 => {
                let second = first.ok_or_else(|| usage(opcode, "without a SECOND"))?;
                self.give(Which::Second, second, None)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Puts what is searched for into a file that goes with this process.
    fn put_string(&self, beside: &OsStr, string: &[u8]) -> Result<Range> {
        let len = string.len() as u64;
        let options = OpenOptions::new().read(true).write(true).unnamed(true).len(len);
        let file = options.open(self.store, beside)?;
        file.write_at(string, 0)?;
        Ok(Range { file: self.queue.file(&file, false)?.into(), start: 0, len })
    }

    /// What is handed in.
    fn request(&self, result_path: Option<&OsStr>, at: u64) -> Result<Descriptor> {
        let request = match (self.string, self.spec.ranges[Which::Input as usize]) {
            (Some(string), Some(input)) => search_for(input, string)?,
            _ => descriptor(&self.spec)?,
        };
        let Some(path) = result_path else { return Ok(request) };
        // Before a file is made for nothing.
        result_to(&request, 0, at)?;
        let end =
            at.checked_add(RESULT_LEN).ok_or_else(|| Error::invalid(format!("--result-at {at}: too far")))?;
        let file = OpenOptions::new().read(true).write(true).create(true).open(self.store, path)?;
        if file.len()? < end {
            file.set_len(end)?;
        }
        Ok(result_to(&request, self.queue.file(&file, true)?, at)?)
    }

    /// A file that is there, or a part of it.
    fn give(&mut self, which: Which, path: &OsStr, range: Option<(u64, u64)>) -> Result<()> {
        let write = which == Which::Output;
        let file = OpenOptions::new().read(!write).write(write).open(self.store, path)?;
        let len = file.len()?;
        let (start, len) = range.unwrap_or((0, len));
        self.name(which, &file, start, len)
    }

    /// A file to be written: made longer if it is shorter. Without a path it has no name, and is printed.
    fn take(&mut self, path: Option<&OsString>, beside: &OsStr, len: u64) -> Result<()> {
        let options = OpenOptions::new().read(true).write(true);
        let file = match path {
            Some(path) => {
                let file = options.create(true).open(self.store, path)?;
                if file.len()? < len {
                    file.set_len(len)?;
                }
                file
            }
            None => {
                let file = options.unnamed(true).len(len).open(self.store, beside)?;
                self.output = Some(file.clone());
                file
            }
        };
        self.name(Which::Output, &file, 0, len)
    }

    fn name(&mut self, which: Which, file: &File, start: u64, len: u64) -> Result<()> {
        let number = self.queue.file(file, which == Which::Output)?;
        let spec = std::mem::replace(&mut self.spec, Spec::new(Opcode::Nop));
        self.spec = spec.with(which, Range { file: number.into(), start, len });
        Ok(())
    }

    /// Hands it in, and shows how far it is until it is complete.
    fn carry_out(&self, context: &Context, args: &RunArgs, request: &Descriptor) -> Result<Completion> {
        let closed = |Closed(reason): Closed| {
            let line =
                format!("{}: {}: what it was at is lost, and may be half done", args.device, Closed(reason));
            Error::device_state(line)
        };
        let mut ticket: Ticket = self.queue.submit(request).map_err(|refused| match refused {
            Refused::Closed(why) => closed(why),
            Refused::Full => Error::internal("a new queue has no room"),
        })?;
        let mut progress = context.progress(format!("{} on {}", args.operation, args.device));
        let mut silent = Some(Instant::now());
        loop {
            match self.queue.wait(ticket, Some(Instant::now() + LOOK_EVERY)) {
                Ok(completion) => return Ok(completion),
                Err(Unfinished::Closed(why)) => return Err(closed(why).into()),
                Err(Unfinished::Pending(pending)) => ticket = pending,
            }
            let left = self.queue.left(&ticket);
            if silent.take_if(|since| since.elapsed() > SILENT).is_some() && left == request.len {
                self.say_why_it_waits(&args.device, &progress);
            }
            progress.bytes(request.len.saturating_sub(left), request.len, "");
        }
    }
}

impl Job<'_> {
    fn say_why_it_waits(&self, device: &str, progress: &Progress) {
        // Who doesn't know waits all the same.
        if let Ok(Standing::Stopped) = self.store.device(device).info().map(|info| info.standing) {
            progress.line(&format!(
                "{device} is at rest: it goes on when it is online again (codax device online {device})"
            ));
        }
    }
}

/// What was written to a file, as numbers.
fn numbers(file: &File, opcode: Opcode) -> Result<Vec<serde_json::Number>> {
    let mut bytes = vec![0; usize::try_from(file.len()?)?];
    file.read_at(&mut bytes, 0)?;
    Ok(if opcode == Opcode::Histogram {
        let (counts, _) = bytes.as_chunks::<8>();
        counts.iter().map(|count| u64::from_le_bytes(*count).into()).collect()
    } else {
        let (rows, _) = bytes.as_chunks::<4>();
        // JSON has no NaN and no infinity.
        let number = |row: &[u8; 4]| serde_json::Number::from_f64(f32::from_le_bytes(*row).into());
        let finite = || Error::invalid("a row is no number, or infinite: give an OUTPUT path for the bytes");
        rows.iter().map(|row| number(row).ok_or_else(finite)).collect::<Result<_, _>>()?
    })
}

fn usage(opcode: Opcode, what: &str) -> Error {
    Error::invalid(format!("{opcode} {what}: see codax run --help"))
}

fn byte(typed: Option<&OsString>) -> Result<u8> {
    let typed = typed.ok_or_else(|| usage(Opcode::Fill, "without a BYTE"))?;
    let byte = typed.to_str().and_then(|text| text.parse().ok());
    Ok(byte.ok_or_else(|| Error::invalid(format!("fill {}: no number from 0 to 255", typed.display())))?)
}

fn string(typed: Option<&OsString>) -> Result<Vec<u8>> {
    let typed = typed.ok_or_else(|| usage(Opcode::Search, "without a TEXT"))?;
    let string = typed.as_bytes();
    if string.is_empty() || string.len() > STRING_MAX {
        let len = string.len();
        return Err(Error::invalid(format!("search for {len} bytes: 1 to {STRING_MAX} can be given")).into());
    }
    Ok(string.to_vec())
}
