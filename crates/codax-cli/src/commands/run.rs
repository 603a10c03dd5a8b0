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
use codax_core::{Error, ErrorKind, FileId};
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
    /// What an operation that writes has written, where no path was given for it. JSON has no NaN and no infinity: these are text.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Vec<serde_json::Value>>,
}

/// An operation with its files open.
struct Job<'a> {
    store: &'a Store,
    queue: Queue,
    spec: Spec,
    /// Which files it reads, by the paths that were given: one file may have several.
    reads: Vec<(Which, FileId, &'a OsStr)>,
    /// Where the string is that is searched for, if it lies in a file.
    string: Option<Range>,
    /// What was written, to be printed.
    output: Option<File>,
}

/// Where an operation writes: to this path, or into a file without a name, to be printed.
type Written<'a> = Option<&'a OsString>;

/// What stands for the number of a file that is not made yet: no queue has so many.
const UNMADE: u32 = u32::MAX;

/// Longest string that is searched for.
const STRING_MAX: usize = 256;

/// `codax run`.
pub fn run(context: &Context, args: &RunArgs) -> Result<()> {
    let opcode: Opcode = args.operation.parse().map_err(|e| Error::invalid(format!("{e}")))?;
    let range = args.range.as_deref().map(checked::range).transpose()?;
    let at = parse_size(&args.result_at)?;
    let store = context.store()?;
    // What a driver has not implemented is no failure of ours.
    let without = |e: Error| if e.kind == ErrorKind::NotSupported { Error::invalid(e.message) } else { e };
    let queue = store.device(&args.device).queue(SLOTS).map_err(without)?;
    let spec = Spec::new(opcode);
    let mut job = Job { store: &store, queue, spec, reads: Vec::new(), string: None, output: None };
    let written = job.prepare(args, range)?;
    // Before anything is made.
    let result = args.result_to.as_deref().map(|path| (path, at));
    job.check(result)?;
    if let Some(written) = written {
        job.take(written)?;
    }
    let request = job.request(result)?;
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
fn shown(device: &str, result: &str, output: Option<&[serde_json::Value]>, bytes: u64, nanos: u64) -> String {
    if let Some(numbers) = output {
        return numbers.iter().fold(String::new(), |mut lines, number| {
            let _ = match number.as_str() {
                Some(text) => writeln!(lines, "{text}"),
                None => writeln!(lines, "{number}"),
            };
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

impl<'a> Job<'a> {
    /// Opens the files that have to be there, and says what is to be done with them; returns where it writes, if there is a file to be made for it perhaps.
    fn prepare(&mut self, args: &'a RunArgs, range: Option<(u64, u64)>) -> Result<Option<Written<'a>>> {
        let opcode = self.spec.opcode;
        let [first, second] = [args.more.first(), args.more.get(1)];
        let most = match opcode {
            Opcode::MatvecF32 => 2,
            Opcode::Copy | Opcode::Compare | Opcode::Fill | Opcode::Search | Opcode::Histogram => 1,
            _ => usize::from(opcode.shape().elements[Which::Second as usize].is_some()),
        };
        if args.more.len() > most {
            return Err(usage(opcode, "was given more than it takes").into());
        }
        if opcode == Opcode::Nop {
            let nothing = args.path.is_none() && range.is_none();
            let takes = || usage(opcode, "takes neither a PATH nor --range").into();
            return if nothing { Ok(None) } else { Err(takes()) };
        }
        let path = args.path.as_ref().ok_or_else(|| usage(opcode, "without a PATH"))?;
        if opcode == Opcode::Fill {
            self.spec.parameter = vec![byte(first)?];
            return self.give(Which::Output, path, range).map(|()| None);
        }
        self.give(Which::Input, path, range)?;
        match opcode {
            Opcode::Search => {
                let string = string(first)?;
                if string.len() <= INLINE_MAX && args.result_to.is_none() {
                    self.spec.parameter = string;
                } else {
                    self.string = Some(self.put_string(&string)?);
                }
                Ok(None)
            }
            Opcode::MatvecF32 => {
                self.give(Which::Second, first.ok_or_else(|| usage(opcode, "without a VECTOR"))?, None)?;
                let columns = self.spec.len(Which::Second) / 4;
                if self.spec.len(Which::Second) > self.spec.len(Which::Input) {
                    let line = format!("{opcode}: a VECTOR of {columns} numbers is longer than the matrix");
                    return Err(Error::invalid(line).into());
                }
                let rows = (self.spec.len(Which::Input) / 4).checked_div(columns).unwrap_or(0);
                Ok(Some(self.will_write(second, rows * 4)))
            }
            Opcode::Copy => {
                let output = first.ok_or_else(|| usage(opcode, "without an OUTPUT"))?;
                Ok(Some(self.will_write(Some(output), self.spec.len(Which::Input))))
            }
            Opcode::Histogram => Ok(Some(self.will_write(first, HISTOGRAM_LEN))),
            _ if most == 1 => {
                let second = first.ok_or_else(|| usage(opcode, "without a SECOND"))?;
                self.give(Which::Second, second, None)?;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Notes that so much will be written, to a file that may have to be made yet.
    fn will_write(&mut self, path: Written<'a>, len: u64) -> Written<'a> {
        self.put(Which::Output, Range { file: UNMADE.into(), start: 0, len });
        path
    }

    /// Puts what is searched for into a file that goes with this process.
    fn put_string(&self, string: &[u8]) -> Result<Range> {
        let len = string.len() as u64;
        let file = self.scratch("/TEXT", len)?;
        file.write_at(string, 0)?;
        Ok(Range { file: self.queue.file(&file, false)?.into(), start: 0, len })
    }

    /// A file without a name that goes with this process; `called` is for messages.
    fn scratch(&self, called: &str, len: u64) -> Result<File> {
        let options = OpenOptions::new().read(true).write(true).unnamed(true).mode(0o600).on("dram").len(len);
        Ok(options.open(self.store, called)?)
    }

    fn plain(&self) -> Result<Descriptor> {
        Ok(match (self.string, self.spec.ranges[Which::Input as usize]) {
            (Some(string), Some(input)) => search_for(input, string)?,
            _ => descriptor(&self.spec)?,
        })
    }

    /// Whether it makes sense, before its files are made.
    fn check(&self, result: Option<(&OsStr, u64)>) -> Result<()> {
        let plain = self.plain()?;
        if let Some((_, at)) = result {
            result_to(&plain, UNMADE, at)?;
            result_end(at)?;
        }
        Ok(())
    }

    /// What is handed in.
    fn request(&self, result: Option<(&OsStr, u64)>) -> Result<Descriptor> {
        let plain = self.plain()?;
        let Some((path, at)) = result else { return Ok(plain) };
        let len = result_end(at)?;
        let file = self.open_or_make(path, len)?;
        grow(&file, len)?;
        Ok(result_to(&plain, self.queue.file(&file, true)?, at)?)
    }

    /// A file that is there, or a part of it.
    fn give(&mut self, which: Which, path: &'a OsStr, range: Option<(u64, u64)>) -> Result<()> {
        let write = which == Which::Output;
        let file = OpenOptions::new().read(!write).write(write).open(self.store, path)?;
        let there = file.len()?;
        let (start, len) = range.unwrap_or((0, there));
        if start.checked_add(len).is_none_or(|end| end > there) {
            let (path, there) = (path.display(), format_size(there));
            let line = format!("{path}: {len} bytes from {start} on end beyond its file, which has {there}");
            return Err(Error::invalid(line).into());
        }
        if !write {
            self.reads.push((which, file.id(), path));
        }
        self.name(which, &file, start, len)
    }

    /// A file to be written: made longer if it is shorter. Without a path it has no name, and is printed.
    fn take(&mut self, path: Written<'_>) -> Result<()> {
        let len = self.spec.len(Which::Output);
        let file = match path {
            Some(path) => {
                let file = self.open_or_make(path, len)?;
                // Before it is changed.
                self.lies_apart(file.id(), path)?;
                grow(&file, len)?;
                file
            }
            None => {
                let file = self.scratch("/OUTPUT", len)?;
                self.output = Some(file.clone());
                file
            }
        };
        self.name(Which::Output, &file, 0, len)
    }

    /// A file as it is, or a new one, which has this length from the beginning: if there is no room, none is made.
    fn open_or_make(&self, path: &OsStr, len: u64) -> Result<File> {
        Ok(OpenOptions::new().write(true).create(true).len(len).open(self.store, path)?)
    }

    /// Refuses an output that lies on what is read. The queue has another number for each time that it was given a file, and a file may have several paths.
    fn lies_apart(&self, file: FileId, path: &OsStr) -> Result<()> {
        let range = |which: Which| self.spec.ranges[which as usize].unwrap_or_default();
        let output = range(Which::Output);
        let on_output = |(which, id, _): &&(Which, FileId, &OsStr)| {
            *id == file && Range { file: output.file, ..range(*which) }.overlaps(&output)
        };
        let Some((which, _, read)) = self.reads.iter().find(on_output) else { return Ok(()) };
        let said = |Range { start, len, .. }: Range, path: &OsStr| {
            format!("{len} bytes of {} from {start} on", path.display())
        };
        let (output, read) = (said(output, path), said(range(*which), read));
        let opcode = self.spec.opcode;
        let line = format!(
            "{opcode}: the output, {output}, overlaps the {which} range, {read}, in the same file: give another OUTPUT"
        );
        Err(Error::invalid(line).into())
    }

    fn name(&mut self, which: Which, file: &File, start: u64, len: u64) -> Result<()> {
        let number = self.queue.file(file, which == Which::Output)?;
        self.put(which, Range { file: number.into(), start, len });
        Ok(())
    }

    fn put(&mut self, which: Which, range: Range) {
        let spec = std::mem::replace(&mut self.spec, Spec::new(Opcode::Nop));
        self.spec = spec.with(which, range);
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
            // Of what goes through no bytes there is nothing to show.
            if request.len > 0 {
                progress.bytes(request.len.saturating_sub(left), request.len, "");
            }
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
fn numbers(file: &File, opcode: Opcode) -> Result<Vec<serde_json::Value>> {
    let mut bytes = vec![0; usize::try_from(file.len()?)?];
    file.read_at(&mut bytes, 0)?;
    Ok(if opcode == Opcode::Histogram {
        let (counts, _) = bytes.as_chunks::<8>();
        counts.iter().map(|count| u64::from_le_bytes(*count).into()).collect()
    } else {
        let (rows, _) = bytes.as_chunks::<4>();
        rows.iter().map(|row| number(f32::from_le_bytes(*row).into())).collect()
    })
}

/// A number, or the word for what is none in JSON, as the results of other operations have it.
fn number(value: f64) -> serde_json::Value {
    let number = serde_json::Number::from_f64(value).map(serde_json::Value::Number);
    number.unwrap_or_else(|| value.to_string().into())
}

/// Has a file this length, if it is shorter.
fn grow(file: &File, len: u64) -> Result<()> {
    if file.len()? < len {
        file.set_len(len)?;
    }
    Ok(())
}

/// Where a result ends.
fn result_end(at: u64) -> Result<u64> {
    let end = at.checked_add(RESULT_LEN);
    Ok(end.ok_or_else(|| Error::invalid(format!("--result-at {at}: too far")))?)
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
