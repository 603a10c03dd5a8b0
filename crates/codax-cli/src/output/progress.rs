//! Progress on standard error: a bar on a terminal, otherwise a line now and then.

use super::text::printable;
use codax_core::info::{HeldFile, JobInfo};
use codax_core::units::format_size;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Time between two lines.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Shows how far something is.
#[derive(Debug)]
pub struct Progress {
    what: String,
    form: Form,
    waiting: Vec<HeldFile>,
}

#[derive(Debug)]
enum Form {
    Bar(ProgressBar),
    Lines { last: Instant },
    Quiet,
}

impl Progress {
    /// Progress of `what`. `lines` says whether lines are wanted where there is no terminal.
    pub fn new(what: impl Into<String>, lines: bool) -> Self {
        let what = printable(&what.into());
        let form = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(0).with_message(what.clone());
            bar.set_style(style());
            Form::Bar(bar)
        } else if lines {
            Form::Lines { last: Instant::now() }
        } else {
            Form::Quiet
        };
        Self { what, form, waiting: Vec::new() }
    }

    /// Progress that is not shown.
    pub const fn quiet() -> Self {
        Self { what: String::new(), form: Form::Quiet, waiting: Vec::new() }
    }

    /// So many bytes of so many are done; `rest` is said after them.
    pub fn bytes(&mut self, done: u64, total: u64, rest: &str) {
        match &mut self.form {
            Form::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(format!("{}{rest}", self.what));
            }
            Form::Lines { last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                eprintln!("{}: {} of {}{rest}", self.what, format_size(done), format_size(total));
            }
            Form::Lines { .. } | Form::Quiet => {}
        }
    }

    /// What the daemon says of its job; whom it waits for is said once.
    pub fn job(&mut self, job: &JobInfo) {
        if job.waiting != self.waiting {
            self.waiting.clone_from(&job.waiting);
            for line in held_lines(&job.waiting) {
                self.line(&format!("{}: waiting for {line}", self.what));
            }
        }
        let files = if job.files_total > 1 {
            format!(", {} of {} files", job.files_done, job.files_total)
        } else {
            String::new()
        };
        self.bytes(job.done, job.total, &files);
    }

    /// Says a line at once.
    pub fn line(&self, line: &str) {
        match &self.form {
            Form::Bar(bar) => bar.println(printable(line)),
            Form::Lines { .. } => eprintln!("{}", printable(line)),
            Form::Quiet => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Form::Bar(bar) = &self.form {
            bar.finish_and_clear();
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template(
        "{msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar())
    .progress_chars("=> ")
}

/// Who holds what, a line for each file and process.
pub fn held_lines(held: &[HeldFile]) -> Vec<String> {
    let mut lines = Vec::new();
    for file in held {
        for holder in &file.by {
            let pid = holder.pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
            lines.push(format!("{}: {pid} ({}): {}", file.path, holder.command, holder.why));
        }
        if file.by.is_empty() {
            lines.push(format!("{}: held by nobody that can be seen", file.path));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_core::plan::Holder;

    #[test]
    fn each_holder_has_a_line() {
        let by = |pid| Holder { pid, command: "cat".to_owned(), why: "pinned for DMA".to_owned() };
        let held = [
            HeldFile { path: "/a".to_owned(), by: vec![by(Some(7)), by(None)] },
            HeldFile { path: "/b".to_owned(), by: vec![] },
        ];
        assert_eq!(
            held_lines(&held),
            [
                "/a: process 7 (cat): pinned for DMA",
                "/a: a process (cat): pinned for DMA",
                "/b: held by nobody that can be seen"
            ]
        );
    }
}
