//! Makes an answer fit a packet: lists are cut, and where nobody could tell that they were, the last item says so.

use codax_core::info::{Finding, JobInfo, Severity};
use codax_core::{Error, ErrorKind, Result};
use codax_wire::{Channel, Reply};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Most files that a report of progress names.
const WAITING_MAX: usize = 32;

/// Most bytes of an error's line.
const LINE_MAX: usize = 16 << 10;

/// Sends an answer, cut as far as needed.
pub(crate) fn send(channel: &Channel, mut reply: Reply, fds: &[OwnedFd]) -> Result<()> {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    if let Reply::Error(error) = &mut reply {
        cut_line(&mut error.message);
    }
    loop {
        match channel.send(&reply, &fds) {
            Err(e) if e.kind == ErrorKind::Invalid => {
                if !cut(&mut reply) {
                    let what = "the answer is too large for a packet: the file lies in too many pieces; move it to one pool";
                    return channel.send(&Reply::Error(Error::internal(what)), &[]);
                }
            }
            sent => return sent,
        }
    }
}

/// Progress, with a bound on what it names.
pub(crate) fn progress(info: &JobInfo) -> Reply {
    let mut info = info.clone();
    info.waiting.truncate(WAITING_MAX);
    Reply::Progress(info)
}

/// Makes the answer about half as large. False if there is nothing to leave out.
///
/// The files of a plan are counted in its report, a directory's and the events' readers ask for what follows the last one they got, and
/// extents are left out only where the runs say the same by pool.
fn cut(reply: &mut Reply) -> bool {
    match reply {
        Reply::File(info) if !info.extents.is_empty() => {
            info.extents.clear();
            true
        }
        Reply::Entries { entries, more } => {
            *more = true;
            halve(entries) > 0
        }
        Reply::Job(report) => {
            let plan =
                report.plan.as_mut().map_or(0, |plan| halve(&mut plan.moves) + halve(&mut plan.obstacles));
            plan + halve(&mut report.left) > 0
        }
        Reply::Store(info) => {
            let left_out = halve(&mut info.recovery);
            if left_out > 0 {
                info.recovery.push("… and more: see the daemon's log".into());
            }
            let quotas = halve(&mut info.quotas);
            info.more_quotas += quotas as u64;
            let left_out = left_out + quotas;
            let jobs = info.pools.iter_mut().filter_map(|pool| pool.job.as_mut());
            left_out + jobs.map(|job| halve(&mut job.waiting)).sum::<usize>() > 0
        }
        Reply::Events(events) => halve(events) > 0,
        Reply::Quotas { quotas, more } => {
            let left_out = halve(quotas);
            *more += left_out as u64;
            // Who reads on begins after what they got.
            left_out > 0 && !quotas.is_empty()
        }
        Reply::Findings(findings) => cut_findings(findings),
        Reply::Lines(lines) => halve(lines) > 0,
        Reply::Strangers(strangers) => {
            let left_out = halve(&mut strangers.processes);
            strangers.more += left_out as u64;
            left_out > 0
        }
        _ => false,
    }
}

fn cut_findings(findings: &mut Vec<Finding>) -> bool {
    let left_out = findings.split_off(findings.len().div_ceil(2));
    if left_out.is_empty() || findings.is_empty() {
        return false;
    }
    let lost = left_out.iter().any(|f| f.severity == Severity::Lost);
    findings.push(Finding {
        severity: if lost { Severity::Lost } else { Severity::Mendable },
        what: "… and more that are not listed: mend these first".into(),
        repaired: left_out.iter().all(|f| f.repaired),
    });
    left_out.len() > 1
}

/// Leaves out the second half (of one item, the item). Returns how many went.
fn halve<T>(items: &mut Vec<T>) -> usize {
    let before = items.len();
    items.truncate(before / 2);
    before - items.len()
}

fn cut_line(line: &mut String) {
    if line.len() > LINE_MAX {
        let end = (0..=LINE_MAX).rev().find(|&at| line.is_char_boundary(at)).unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_core::FileId;
    use codax_core::info::{HeldFile, JobReport};
    use codax_core::plan::{Plan, PlannedMove};

    fn through(reply: Reply) -> Reply {
        let (here, there) = codax_os::sock::pair().unwrap();
        send(&Channel::new(here), reply, &[]).unwrap();
        Channel::new(there).recv().unwrap().unwrap().0
    }

    fn finding(severity: Severity, number: usize) -> Finding {
        Finding { severity, what: format!("frame {number} of sim0 has two owners"), repaired: false }
    }

    #[test]
    fn a_plan_is_cut() {
        let planned = |n| PlannedMove { file: FileId(n), path: format!("/some/file/{n}"), to: Vec::new() };
        let plan = Plan { moves: (0..20_000).map(planned).collect(), ..Plan::default() };
        let report = JobReport { files: 20_000, plan: Some(plan.clone()), ..JobReport::default() };
        let Reply::Job(got) = through(Reply::Job(Box::new(report))) else { panic!() };
        let moves = got.plan.unwrap().moves;
        assert!(got.files == 20_000 && moves.len() > 1000 && plan.moves.starts_with(&moves));
    }

    #[test]
    fn findings_that_are_left_out_are_mentioned_with_the_worst_of_them() {
        let mut findings: Vec<_> = (0..20_000).map(|n| finding(Severity::Mendable, n)).collect();
        findings[19_999].severity = Severity::Lost;
        let Reply::Findings(got) = through(Reply::Findings(findings)) else { panic!() };
        let last = got.last().unwrap();
        assert!(got.len() > 1000 && last.what.contains("and more") && last.severity == Severity::Lost);
        assert_eq!(got.iter().filter(|f| f.what.contains("and more")).count(), 1);
    }

    #[test]
    fn what_cannot_be_cut_is_an_error() {
        let layout = codax_core::request::Layout {
            len: 1,
            block: 1,
            devices: Vec::new(),
            persistent: Vec::new(),
            runs: vec![
                codax_core::extent::PoolRun {
                    pages: codax_core::PageRange::new(1 << 40, 1 << 40),
                    pool: codax_core::PoolId(1)
                };
                20_000
            ],
        };
        let Reply::Error(error) = through(Reply::Layout(layout)) else { panic!() };
        assert!(error.message.contains("too many pieces"));
        let Reply::Error(error) = through(Reply::Error(Error::busy("ä".repeat(1 << 20)))) else { panic!() };
        assert!(error.kind == ErrorKind::Busy && error.message.len() < 2 * LINE_MAX);
    }

    #[test]
    fn progress_names_a_bounded_number_of_files() {
        let waiting = vec![HeldFile { path: "/a".into(), by: Vec::new() }; 10_000];
        let Reply::Progress(got) = progress(&JobInfo { waiting, ..JobInfo::default() }) else { panic!() };
        assert_eq!(got.waiting.len(), WAITING_MAX);
    }
}
