//! What the findings of a check mean to the runtime: errors keep a server from being used, the rest
//! is told in tracing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{info, warn};
use unanimous_core::ports::{Preflight, Problem, ResourceError, Severity};
use unanimous_core::xid::ResourceName;

use crate::error::StartError;
use crate::manager::AnyResource;

/// Checks all resources in parallel. Refuses to start on servers that cannot do their part, all of
/// them at once; goes on without those that do not answer, which it names.
pub(crate) async fn check_all(
    resources: &BTreeMap<ResourceName, Arc<dyn AnyResource>>,
    limit: Duration,
) -> Result<BTreeSet<ResourceName>, StartError> {
    let mut unchecked: BTreeSet<ResourceName> = resources.keys().cloned().collect();
    let mut checks = JoinSet::new();
    for resource in resources.values() {
        let resource = Arc::clone(resource);
        checks.spawn(async move {
            let checked = tokio::time::timeout(limit, resource.preflight()).await;
            (resource.name().clone(), checked)
        });
    }
    let mut unfit = Vec::new();
    while let Some(checked) = checks.join_next().await {
        match checked {
            Ok((resource, Ok(checked))) => match judge(&resource, checked) {
                Ok(()) => drop(unchecked.remove(&resource)),
                Err(error) if error.problem() == Problem::Unfit => unfit.push(error),
                Err(error) => warn!(target: "unanimous", %error, "not checked at start"),
            },
            Ok((resource, Err(_))) => {
                warn!(target: "unanimous", %resource, "not checked at start: no answer");
            }
            Err(error) => warn!(target: "unanimous", %error, "a check at start failed"),
        }
    }
    if unfit.is_empty() {
        Ok(unchecked)
    } else {
        unfit.sort_by(|a, b| a.resource().cmp(b.resource()));
        Err(StartError::Unfit(unfit))
    }
}

/// Fit, which includes what is told in tracing; or all that keeps the server from being used.
///
/// A server that has nothing against it but that it takes no writes is as one that is away: a
/// fail-over must not keep an application from starting (I6).
pub(crate) fn judge(
    resource: &ResourceName,
    checked: Result<Preflight, ResourceError>,
) -> Result<(), ResourceError> {
    let preflight = checked?;
    let errors: Vec<String> = preflight.errors().map(ToString::to_string).collect();
    if errors.is_empty() {
        tell(resource, &preflight);
        return Ok(());
    }
    let problem = if preflight.is_read_only && errors.len() == 1 {
        Problem::Unavailable
    } else {
        Problem::Unfit
    };
    let text = errors.join(". ");
    Err(ResourceError::new(problem, resource.clone(), text))
}

/// Says what does not keep the server from being used.
fn tell(resource: &ResourceName, preflight: &Preflight) {
    for finding in &preflight.findings {
        let (subject, evidence, mend) = (&finding.subject, &finding.evidence, &finding.mend);
        match finding.severity {
            Severity::Error => {}
            Severity::Warning => {
                warn!(target: "unanimous", %resource, %subject, %mend, "{evidence}");
            }
            Severity::Note => info!(target: "unanimous", %resource, %subject, %mend, "{evidence}"),
        }
    }
}
