//! Checks, before anything happens: the log's folder and every server. Nothing is changed in the
//! folder; a server is asked what a start of the application would ask it, and then looked at more
//! closely. `docs/findings.md` lists every subject of a finding.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use unanimous_core::ports::{Finding, Preflight, Problem, ResourceError, Severity};
use unanimous_core::xid::ResourceName;

use super::adapters;
use super::check_log::CheckedLog;
use super::file::ConfigFile;
use super::finding::CheckedFinding;
use crate::bounded::{Unanswered, bounded};
use crate::manager::AnyResource;

/// How long one server's check may take.
const CHECK_LIMIT: Duration = Duration::from_secs(30);

/// What the checks found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Checked {
    /// No finding is an error: an application can work with this.
    pub fit: bool,
    /// The decision log.
    pub log: CheckedLog,
    /// By resource, in the order of their names.
    pub resources: Vec<CheckedResource>,
}

/// What a server's check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CheckedResource {
    /// Which.
    pub resource: String,
    /// Product and version, if the server answered.
    pub server: Option<String>,
    /// Which server it is: what decisions remember of it.
    pub identity: Option<String>,
    /// What was found, the worst first. Empty: all is well.
    pub findings: Vec<CheckedFinding>,
}

impl Checked {
    /// Looks at the log's folder and asks every server, in parallel; a minute at most for each.
    pub async fn run(file: &ConfigFile) -> Self {
        Self::run_for(file, |_| true).await
    }

    /// The same for some of the resources only. The log is looked at in any case.
    pub async fn run_for(file: &ConfigFile, which: impl Fn(&ResourceName) -> bool) -> Self {
        let mut checks = JoinSet::new();
        for (name, built) in file.build_each() {
            if !which(&name) {
                continue;
            }
            checks.spawn(async move {
                let checked = match built {
                    Ok(resource) => examine(&*resource).await,
                    Err(problem) => return CheckedResource::unusable(&name, &problem),
                };
                match checked {
                    Ok(Ok(preflight)) => CheckedResource::new(&name, preflight),
                    Ok(Err(error)) => CheckedResource::refused(&name, &error),
                    Err(silence) => CheckedResource::away(&name, &silence.to_string()),
                }
            });
        }
        let log = CheckedLog::look(file).await;
        let mut resources = checks.join_all().await;
        resources.sort_by(|a, b| a.resource.cmp(&b.resource));
        tell_twins(&mut resources);
        let mut checked = Self {
            fit: false,
            log,
            resources,
        };
        checked.fit = checked.worst() < Some(Severity::Error);
        checked
    }

    /// The worst of all findings; `None` if nothing was found.
    pub fn worst(&self) -> Option<Severity> {
        let resources = self.resources.iter().flat_map(|at| &at.findings);
        let findings = self.log.findings.iter().chain(resources);
        findings.map(|finding| finding.severity).max()
    }
}

/// What a start would ask, and, if that tells the server, what only a person wants to know.
pub(super) async fn examine(
    resource: &dyn AnyResource,
) -> Result<Result<Preflight, ResourceError>, Unanswered> {
    let mut preflight = match bounded(CHECK_LIMIT, resource.preflight()).await {
        Ok(Ok(preflight)) => preflight,
        other => return other,
    };
    if preflight.identity.is_none() || preflight.is_read_only {
        return Ok(Ok(preflight));
    }
    let refused = |evidence: String| {
        let mend = "do what this says, then check again";
        Finding::new(Severity::Warning, "checkup", evidence, mend)
    };
    match bounded(CHECK_LIMIT, resource.checkup()).await {
        Ok(Ok(found)) => preflight.findings.extend(found),
        Ok(Err(error)) => preflight.findings.push(refused(error.to_string())),
        Err(silence) => preflight.findings.push(refused(silence.to_string())),
    }
    let (server, identity) = (preflight.server, preflight.identity);
    Ok(Ok(Preflight::new(server, identity, preflight.findings)))
}

/// Two resources with one identity are one server, or a copy of its data: what is prepared in one
/// would be looked for in the other.
fn tell_twins(resources: &mut [CheckedResource]) {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for at in resources.iter() {
        if let Some(identity) = &at.identity {
            let of_it = names.entry(identity.clone()).or_default();
            of_it.push(at.resource.clone());
        }
    }
    for at in resources {
        let twins = at
            .identity
            .as_ref()
            .and_then(|identity| names.get(identity));
        if let Some(twins) = twins.filter(|twins| twins.len() > 1) {
            at.findings.insert(0, twin(twins).into());
        }
    }
}

fn twin(names: &[String]) -> Finding {
    Finding::new(
        Severity::Error,
        "identity",
        format!(
            "resources {} have one identity: they lead to one server, or one's data is a copy of \
             the other's; recovery could take a branch of one for that of the other",
            names.join(" and ")
        ),
        format!(
            "name each server once; if one is a copy that is to live on its own, give it an \
             identity of its own: {}",
            adapters::IDENTITIES
        ),
    )
}

impl CheckedResource {
    fn new(name: &ResourceName, preflight: Preflight) -> Self {
        Self {
            resource: name.to_string(),
            server: Some(preflight.server),
            identity: preflight.identity.map(|identity| identity.to_string()),
            findings: preflight.findings.into_iter().map(Into::into).collect(),
        }
    }

    /// The server told nothing but this. Errors of adapters say first what is wrong, then, after a
    /// semicolon, what to do.
    fn alone(name: &ResourceName, subject: &str, problem: &str, mend: &str) -> Self {
        let of_resource = format!("resource {name}: ");
        let problem = problem.strip_prefix(&of_resource).unwrap_or(problem);
        let (evidence, mend) = problem.split_once("; ").unwrap_or((problem, mend));
        Self {
            resource: name.to_string(),
            server: None,
            identity: None,
            findings: vec![Finding::new(Severity::Error, subject, evidence, mend).into()],
        }
    }

    fn unusable(name: &ResourceName, problem: &str) -> Self {
        let mend = format!("correct [resources.{name}] in the config file");
        Self::alone(name, "config file", problem, &mend)
    }

    fn refused(name: &ResourceName, error: &ResourceError) -> Self {
        let mend = if error.problem() == Problem::Unavailable {
            AWAY_MEND
        } else {
            "do what this says, then check again"
        };
        Self::alone(name, "connection", &error.to_string(), mend)
    }

    fn away(name: &ResourceName, silence: &str) -> Self {
        Self::alone(name, "connection", silence, AWAY_MEND)
    }
}

pub(super) const AWAY_MEND: &str = "see that the server runs, and that address, login and \
     firewall are right; if a password's file, variable or command is named: that it gives the \
     password";
