//! `codax check`: whether table, journal and objects agree.

use super::{Context, unexpected};
use crate::args::CheckArgs;
use crate::output::text;
use anyhow::Result;
use codax_core::Error;
use codax_core::info::{Finding, Severity};
use codax_wire::{Reply, Request};

/// `codax check`.
pub fn run(context: &Context, args: &CheckArgs) -> Result<()> {
    let findings = match context.store()?.call(Request::Check { repair: args.repair })? {
        Reply::Findings(findings) => findings,
        other => return Err(unexpected(&other).into()),
    };
    context.print(&findings, || match findings.is_empty() {
        true => "frame table, journal and objects agree\n".to_owned(),
        false => findings.iter().map(line).collect(),
    })?;
    Ok(verdict(&findings)?)
}

fn line(finding: &Finding) -> String {
    let word = match (finding.severity, finding.repaired) {
        (Severity::Mendable, true) => "mended",
        (Severity::Mendable, false) => "differs",
        (Severity::Lost, _) => "lost",
    };
    format!("{word}: {}\n", text::printable(&finding.what))
}

/// Differences that are there still, and losses, are errors.
fn verdict(findings: &[Finding]) -> codax_core::Result<()> {
    let lost = findings.iter().filter(|finding| finding.severity == Severity::Lost).count();
    let left = findings.iter().filter(|finding| !finding.repaired).count();
    match (lost, left) {
        (0, 0) => Ok(()),
        (0, left) => {
            let differences = text::count(left as u64, "difference");
            Err(Error::corrupt(format!("{differences}; `codax check --repair` mends what can be mended")))
        }
        (lost, left) => Err(Error::corrupt(format!("{lost} lost, {left} not mended"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, repaired: bool) -> Finding {
        Finding { severity, what: "frame 5 of sim0".to_owned(), repaired }
    }

    #[test]
    fn only_what_was_mended_without_a_loss_is_well() {
        assert!(verdict(&[]).is_ok());
        assert!(verdict(&[finding(Severity::Mendable, true)]).is_ok());
        for bad in [
            finding(Severity::Mendable, false),
            finding(Severity::Lost, true),
            finding(Severity::Lost, false),
        ] {
            assert_eq!(verdict(&[bad]).unwrap_err().kind, codax_core::ErrorKind::Corrupt);
        }
    }
}
