//! `check`: is everything fit? Shows every finding with what mends it.

use clap::{Args, ValueEnum};
use unanimous::operator::{Checked, CheckedFinding, CheckedLog, ConfigFile};
use unanimous::ports::Severity;

use crate::args::Format;
use crate::output::{lines, plain, table, to_json};
use crate::run::{CLEAN, Failure, WARNED, patiently, talk};

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Ask only this resource. May be given more than once. The log is looked at in any case.
    #[arg(long, value_name = "NAME")]
    resource: Vec<String>,
    /// The least severity that makes the exit code other than 0.
    #[arg(long, value_enum, default_value_t = FailOn::Warning)]
    fail_on: FailOn,
    /// Findings on this subject are known: they are shown, and do not count for the exit code. May
    /// be given more than once. docs/findings.md lists the subjects.
    #[arg(long, value_name = "SUBJECT")]
    allow: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// Exit with 1 if there are warnings, with 2 if there are errors.
    Warning,
    /// Exit with 2 if there are errors, else with 0.
    Error,
}

impl Check {
    fn allows(&self, finding: &CheckedFinding) -> bool {
        self.allow.contains(&finding.subject)
    }

    /// Names that the file does not have would go unnoticed for ever.
    fn refuse_strangers(&self, file: &ConfigFile) -> Result<(), Failure> {
        let is_known = |name: &str| file.resource_names().any(|known| known.as_str() == name);
        match self.resource.iter().find(|name| !is_known(name)) {
            Some(name) => {
                let text = format!("the config file names no resource {}", plain(name));
                Err(Failure::Message(text))
            }
            None => Ok(()),
        }
    }
}

pub(crate) async fn run(file: &ConfigFile, options: &Check, format: Format) -> Result<u8, Failure> {
    options.refuse_strangers(file)?;
    let which = |name: &unanimous::ResourceName| {
        let mut wanted = options.resource.iter();
        options.resource.is_empty() || wanted.any(|wanted| name.as_str() == wanted)
    };
    let checked = patiently(Checked::run_for(file, which)).await;
    match format {
        Format::Json => to_json(serde_json::to_value(&checked))?,
        Format::Table => show(&checked, options)?,
    }
    sum_up(&checked, options);
    let counted = all(&checked).filter(|finding| !options.allows(finding));
    match counted.map(|finding| finding.severity).max() {
        None | Some(Severity::Note) => Ok(CLEAN),
        Some(Severity::Warning) => Ok(match options.fail_on {
            FailOn::Warning => WARNED,
            FailOn::Error => CLEAN,
        }),
        Some(Severity::Error) => Err(Failure::Reported),
    }
}

fn all(checked: &Checked) -> impl Iterator<Item = &CheckedFinding> {
    let resources = checked.resources.iter().flat_map(|at| &at.findings);
    checked.log.findings.iter().chain(resources)
}

/// A row for what was looked at, then one for each finding. The mend stands below the evidence, on
/// lines of its own, so that it can be copied in one piece.
fn show(checked: &Checked, options: &Check) -> Result<(), Failure> {
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
                if options.allows(finding) {
                    format!("{}, allowed", finding.severity)
                } else {
                    finding.severity.to_string()
                },
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

fn sum_up(checked: &Checked, options: &Check) {
    let count = |severity| all(checked).filter(|f| f.severity == severity).count();
    let fitness = if checked.fit { "fit" } else { "not fit" };
    let allowed = match all(checked).filter(|f| options.allows(f)).count() {
        0 => String::new(),
        count => format!(", {count} of them allowed"),
    };
    talk(&format!(
        "{fitness}: {} errors, {} warnings, {} notes{allowed}",
        count(Severity::Error),
        count(Severity::Warning),
        count(Severity::Note)
    ));
    for subject in &options.allow {
        if !all(checked).any(|finding| finding.subject == *subject) {
            talk(&format!("allowed, and not found: {}", plain(subject)));
        }
    }
}
