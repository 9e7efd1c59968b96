//! `unanimous log verify`.

use unanimous::operator::{ConfigFile, Verified, VerifiedFinding, VerifiedPart};
use unanimous::ports::Severity;

use crate::args::Format;
use crate::output::{blank, lines, or_dash, plain, table, to_json};
use crate::run::{CLEAN, Failure, WARNED, patiently, talk};

pub(crate) async fn run(file: &ConfigFile, format: Format) -> Result<u8, Failure> {
    let verified = patiently(Verified::run(file)).await?;
    match format {
        Format::Json => to_json(serde_json::to_value(&verified))?,
        Format::Table => show(&verified)?,
    }
    let fitness = if verified.sound { "sound" } else { "not sound" };
    let (place, manager) = (plain(&verified.place), or_dash(verified.manager.clone()));
    talk(&format!(
        "{fitness}: {place}, manager {manager}: {}",
        verified.counts
    ));
    match verified.worst() {
        None | Some(Severity::Note) => Ok(CLEAN),
        Some(Severity::Warning) => Ok(WARNED),
        Some(Severity::Error) => Err(Failure::Reported),
    }
}

fn show(verified: &Verified) -> Result<(), Failure> {
    let number = |number: Option<u64>| or_dash(number.map(|number| number.to_string()));
    let part = |part: &VerifiedPart| {
        vec![
            plain(&part.name),
            number(part.bytes),
            number(part.batches.map(|batches| batches as u64)),
            part.records.to_string(),
        ]
    };
    let rows = verified.parts.iter().map(part).collect();
    table(&["READ", "BYTES", "BATCHES", "RECORDS"], rows)?;
    if verified.findings.is_empty() {
        return Ok(());
    }
    blank()?;
    let finding = |at: &VerifiedFinding| {
        let found = &at.finding;
        vec![
            plain(&or_dash(at.part.clone())),
            number(at.offset),
            found.severity.as_str().to_owned(),
            plain(&found.subject),
            format!("{}\n{}", plain(&found.evidence), lines(&found.mend)),
        ]
    };
    let rows = verified.findings.iter().map(finding).collect();
    let evidence = "EVIDENCE, AND BELOW IT THE MEND";
    table(&["WHERE", "OFFSET", "SEVERITY", "SUBJECT", evidence], rows)
}
