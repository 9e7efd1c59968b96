//! `check`: is everything fit?

use unanimous::operator::{Checked, CheckedLog, ConfigFile};

use crate::args::Format;
use crate::output::{plain, table, to_json};
use crate::run::{CLEAN, Failure};

pub(crate) async fn run(file: &ConfigFile, format: Format) -> Result<u8, Failure> {
    let parts = file.parts()?;
    let checked = Checked::run(file, &parts).await;
    match format {
        Format::Json => to_json(serde_json::to_value(&checked))?,
        Format::Table => show(&checked)?,
    }
    if checked.is_fit() {
        Ok(CLEAN)
    } else {
        Err(Failure::Reported)
    }
}

fn show(checked: &Checked) -> Result<(), Failure> {
    let row = |what: String, problem: &Option<String>, fit: String| match problem {
        None => vec![what, "ok".into(), fit],
        Some(problem) => vec![what, "PROBLEM".into(), plain(problem)],
    };
    let log = &checked.log;
    let mut rows = vec![row("log".into(), &log.problem, describe(log))];
    for resource in &checked.resources {
        let what = format!("resource {}", resource.resource);
        let server = resource.server.clone().unwrap_or_default();
        let fit = format!("server {}", plain(&server));
        rows.push(row(what, &resource.problem, fit));
    }
    table(&["WHAT", "STATE", "DETAIL"], rows)
}

fn describe(log: &CheckedLog) -> String {
    if !log.exists {
        return format!(
            "{}: the application will make it at its first start",
            log.folder
        );
    }
    let holder = if log.has_application {
        ", held by an application that answers"
    } else {
        ""
    };
    format!(
        "{}: {} pending decisions, {} heuristic ends{holder}",
        log.folder, log.pending, log.heuristics
    )
}
