//! `check`: is everything fit? Shows every finding with what mends it.

use unanimous::operator::{Checked, CheckedFinding, CheckedLog, ConfigFile};
use unanimous::ports::Severity;

use crate::args::Format;
use crate::output::{lines, plain, table, to_json};
use crate::run::{CLEAN, Failure, WARNED, patiently, talk};

pub(crate) async fn run(file: &ConfigFile, format: Format) -> Result<u8, Failure> {
    let checked = patiently(Checked::run(file)).await;
    match format {
        Format::Json => to_json(serde_json::to_value(&checked))?,
        Format::Table => show(&checked)?,
    }
    sum_up(&checked);
    match checked.worst() {
        None | Some(Severity::Note) => Ok(CLEAN),
        Some(Severity::Warning) => Ok(WARNED),
        Some(Severity::Error) => Err(Failure::Reported),
    }
}

/// A row for what was looked at, then one for each finding. The mend stands below the evidence, on
/// lines of its own, so that it can be copied in one piece.
fn show(checked: &Checked) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let mut add = |what: &str, seen: String, findings: &[CheckedFinding]| {
        let is_ok = findings
            .iter()
            .all(|finding| finding.severity == Severity::Note);
        let state = if is_ok { "ok" } else { "-" };
        rows.push(vec![what.into(), state.into(), "-".into(), seen]);
        for finding in findings {
            rows.push(vec![
                what.into(),
                finding.severity.as_str().into(),
                plain(&finding.subject),
                format!("{}\n{}", plain(&finding.evidence), lines(&finding.mend)),
            ]);
        }
    };
    add("log", describe(&checked.log), &checked.log.findings);
    for at in &checked.resources {
        let server = at.server.as_deref().unwrap_or("no answer");
        let identity = at.identity.as_deref().unwrap_or("unknown");
        let seen = format!("{}, identity {}", plain(server), plain(identity));
        add(&at.resource, seen, &at.findings);
    }
    table(
        &[
            "WHAT",
            "SEVERITY",
            "SUBJECT",
            "EVIDENCE, AND BELOW IT THE MEND",
        ],
        rows,
    )
}

fn describe(log: &CheckedLog) -> String {
    if !log.exists && log.folder.is_none() {
        return format!("{}: no log seen", plain(&log.place));
    }
    if !log.exists {
        return format!(
            "{}: no log yet; the application makes it at its first start",
            plain(&log.place)
        );
    }
    let holder = match (&log.folder, log.has_application) {
        (Some(_), true) => ", held by an application that answers",
        (None, true) => ", shared by members that live",
        (_, false) => "",
    };
    format!(
        "{}: pending decisions: {}, heuristic ends: {}{holder}",
        plain(&log.place),
        log.pending,
        log.heuristics
    )
}

fn sum_up(checked: &Checked) {
    let resources = checked.resources.iter().flat_map(|at| &at.findings);
    let findings: Vec<_> = checked.log.findings.iter().chain(resources).collect();
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let fitness = if checked.fit { "fit" } else { "not fit" };
    talk(&format!(
        "{fitness}: {} errors, {} warnings, {} notes",
        count(Severity::Error),
        count(Severity::Warning),
        count(Severity::Note)
    ));
}
