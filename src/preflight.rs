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

#[cfg(test)]
mod tests {
    use super::*;
    use unanimous_core::ports::Finding;

    #[test]
    fn i6_only_a_server_that_is_nothing_but_read_only_is_taken_for_away() {
        let orders: ResourceName = "orders".parse().unwrap();
        let judged = |severities: &[Severity], is_read_only| {
            let found = severities.iter();
            let found = found.map(|severity| Finding::new(*severity, "subject", "seen", "mend"));
            let checked = Preflight::new("server", None, found.collect());
            let judged = judge(&orders, Ok(checked.read_only(is_read_only)));
            judged.map_err(|error| error.problem())
        };
        use Severity::{Error, Note, Warning};
        assert_eq!(judged(&[], false), Ok(()));
        assert_eq!(judged(&[Warning, Note], true), Ok(()));
        assert_eq!(judged(&[Error, Note], true), Err(Problem::Unavailable));
        assert_eq!(judged(&[Error, Error], true), Err(Problem::Unfit));
        assert_eq!(judged(&[Error], false), Err(Problem::Unfit));
        assert_eq!(judged(&[Error, Error], false), Err(Problem::Unfit));
        let away = ResourceError::new(Problem::Unavailable, orders.clone(), "away");
        let error = judge(&orders, Err(away)).unwrap_err();
        assert_eq!(error.problem(), Problem::Unavailable);
    }
}
