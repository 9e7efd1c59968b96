//! Heuristic ends on their way to the log.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};
use tracing::error;
use unanimous_core::protocol::Heuristic;
use unanimous_core::xid::{Gtrid, ResourceName, Xid};

use super::{Recovery, lock};
use crate::bounded::bounded;
use crate::manager::Inner;
use crate::observe::Point;

impl Recovery {
    /// Records a heuristic end durably. If the log cannot take it now, or whoever asks is stopped
    /// meanwhile, the branch stays unresolved, and every later pass tries again, and the end of the
    /// manager: see [`record_left`](Self::record_left). Not of a hazard: what leads to it is found
    /// again, or it is none any more.
    pub(crate) async fn record_heuristic(
        &self,
        inner: &Inner,
        gtrid: Gtrid,
        resource: &ResourceName,
        heuristic: Heuristic,
    ) -> bool {
        let bqual = resource.clone();
        let xid = Xid { gtrid, bqual };
        let heuristic = match (self.unrecorded(&xid), heuristic) {
            // That it may have ended so takes nothing back that is known.
            (Some(known), Heuristic::Hazard) => known,
            (None, Heuristic::Hazard) => {
                error!(target: "unanimous", %gtrid, %resource, ?heuristic,
                    "a branch may have ended against the decision; a person has to look");
                heuristic
            }
            // Before the log is asked: a shutdown ends passes, and the server will not say it
            // again.
            (_, Heuristic::Commit | Heuristic::Rollback | Heuristic::Mixed) => {
                self.note_unrecorded(&xid, heuristic);
                heuristic
            }
        };
        inner.probes.at(resource, Point::BeforeHeuristic).await;
        let recording = inner.log.record_heuristic(gtrid, resource, heuristic);
        let recorded = bounded(inner.config.finish_timeout, recording).await;
        inner.probes.at(resource, Point::HeuristicAnswered).await;
        let recorded = match recorded {
            Ok(recorded) => recorded.map_err(|error| error.to_string()),
            Err(silence) => Err(format!("the log: {silence}")),
        };
        match recorded {
            Ok(()) => {
                let mut unrecorded = lock(&self.unrecorded);
                // Perhaps more is known by now.
                if unrecorded.get(&xid) == Some(&heuristic) {
                    unrecorded.remove(&xid);
                }
                true
            }
            Err(error) => {
                error!(target: "unanimous", %gtrid, %resource, ?heuristic, %error,
                    "a heuristic end could not be recorded yet");
                false
            }
        }
    }

    /// Tells it, and keeps it until the log has taken it.
    fn note_unrecorded(&self, xid: &Xid, heuristic: Heuristic) {
        let known = lock(&self.unrecorded).insert(xid.clone(), heuristic);
        if known != Some(heuristic) {
            let (gtrid, resource) = (xid.gtrid, &xid.bqual);
            error!(target: "unanimous", %gtrid, %resource, ?heuristic,
                "a branch ended against the decision; a person has to look");
        }
    }

    /// Offers the log once more the heuristic ends that it has not taken yet.
    pub(crate) async fn record_left(&self, inner: &Inner) {
        // The same order for the same luck.
        let left = BTreeMap::from_iter(lock(&self.unrecorded).clone());
        let recording = stream::iter(left).for_each_concurrent(
            inner.config.recovery_concurrency.max(1),
            |(xid, end)| async move {
                if self.unrecorded(&xid) != Some(end) {
                    return; // Recorded meanwhile.
                }
                // What it does not take now is offered again.
                let _ = { self.record_heuristic(inner, xid.gtrid, &xid.bqual, end) }.await;
            },
        );
        recording.await;
    }

    /// A heuristic end of this branch that the log has still to take.
    pub(crate) fn unrecorded(&self, xid: &Xid) -> Option<Heuristic> {
        lock(&self.unrecorded).get(xid).copied()
    }

    /// Whether there is one of any branch.
    pub(crate) fn is_any_unrecorded(&self) -> bool {
        !lock(&self.unrecorded).is_empty()
    }
}
