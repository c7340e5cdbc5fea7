//! `check` and `scrub`: prove volumes from the store alone.
//!
//! Ctrl-C ends them in order: what was found until then is printed, and the exit code says that the
//! check was not finished.

use std::ffi::OsStr;

use anyhow::{Result, bail};
use lsvd_volume::CheckReport;
use lsvd_volume::check::{Finding, Severity};

use super::{perform_until, volume_name};
use crate::config::Settings;
use crate::control::protocol::Request;
use crate::exit::usage;
use crate::output::{Output, line};
use crate::signals;
use crate::sizes::{parse_bytes, show_bytes};

/// What to check, as the command line says it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// All volumes, if none.
    pub(super) name: Option<&'a OsStr>,
    pub(super) repair: bool,
    pub(super) deep: bool,
    /// Most bytes to read in a second.
    pub(super) rate: Option<&'a str>,
}

pub(super) fn run(settings: &Settings, wanted: Wanted<'_>, output: Output) -> Result<()> {
    let Wanted { name, repair, deep, rate } = wanted;
    let bytes_per_s = match rate.map(parse_bytes) {
        Some(Ok(0)) => return Err(usage("--rate: with 0 bytes a second nothing is ever read")),
        Some(Err(why)) => return Err(usage(format!("--rate: {why}"))),
        Some(Ok(bytes)) => Some(bytes),
        None => None,
    };
    let name = name.map(volume_name).transpose()?;
    // Before the first thread, so that a signal waits until it is looked for.
    signals::block()?;
    let request = Request::Check { name, repair, deep, bytes_per_s };
    let interrupted = || {
        let come = signals::pending().is_some();
        if come {
            // Who is in such a hurry need not wait for the store: the next one ends all.
            signals::unblock();
        }
        come
    };
    let done = perform_until(settings, &request, interrupted)?;
    let report: CheckReport = serde_json::from_value(done.clone())?;
    output.print(&done, |_| show(&report))?;
    match (report.tally.damage, report.complete) {
        (0, true) => Ok(()),
        (0, false) => bail!("it was left off; what was looked at until then is not damaged"),
        (1, _) => bail!("1 damaged thing was found"),
        (many, _) => bail!("{many} damaged things were found"),
    }
}

fn show(report: &CheckReport) -> String {
    let mut text: String = report.findings.iter().map(show_finding).collect();
    if report.findings_not_listed > 0 {
        text.push_str(&line(format!("… and {} more", report.findings_not_listed)));
    }
    for volume in &report.volumes {
        let frames = match volume.frames {
            0 => String::new(),
            many => format!(", {many} frames ({}) read", show_bytes(volume.frame_bytes)),
        };
        let waiting = match volume.condemned_objects {
            0 => String::new(),
            many => format!(", {many} of them wait to be deleted"),
        };
        text.push_str(&line(format!(
            "{}: checkpoint {}, {} objects ({}){waiting}, {} behind it, {} leaves, {} extents ({}){frames}",
            volume.name,
            volume.checkpoint,
            volume.objects,
            show_bytes(volume.stored_bytes),
            volume.objects_after_checkpoint,
            volume.leaves,
            volume.extents,
            show_bytes(volume.mapped_bytes),
        )));
    }
    let tally = report.tally;
    let verdict = match (tally.damage, report.complete) {
        (0, true) => "no damage".to_owned(),
        (0, false) => "no damage in what was looked at".to_owned(),
        (many, _) => format!("{many} damaged"),
    };
    text.push_str(&line(format!(
        "{verdict}; {} leaked ({}), {} orphaned, {} notes; {} mended",
        tally.leaks,
        show_bytes(tally.leaked_bytes),
        tally.orphans,
        tally.notes,
        tally.mended
    )));
    text
}

fn show_finding(finding: &Finding) -> String {
    let kind = match finding.severity {
        Severity::Damage => "DAMAGE",
        Severity::Leak => "leak",
        Severity::Orphan => "orphan",
        Severity::Note => "note",
    };
    let Finding { what, detail, advice, .. } = finding;
    let then = if finding.mended { "mended" } else { advice };
    line(format!("{kind}: {what}: {detail} ({then})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_readable() {
        let text = show(&CheckReport { complete: true, ..CheckReport::default() });
        assert_eq!(text, "no damage; 0 leaked (0 B), 0 orphaned, 0 notes; 0 mended\n");
    }
}
