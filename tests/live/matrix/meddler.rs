//! What a story itself does at points, before the fault strikes: a wire that is cut, a branch that
//! somebody else ends.

use std::sync::Arc;

use async_trait::async_trait;
use unanimous::{Point, Probe};
use unanimous_testing::WireFault;

use super::cell::{Cell, Story};
use super::story::App;
use super::strike::Striker;
use crate::databases::{Judges, Place};

/// See the module; passes all points on.
pub(super) struct Meddler {
    cell: Cell,
    striker: Arc<Striker>,
    /// Where an independent client finds the target.
    place: Place,
}

impl Meddler {
    pub(super) fn around(app: &App, striker: &Arc<Striker>) -> Arc<Self> {
        Arc::new(Self {
            cell: app.cell,
            striker: Arc::clone(striker),
            place: app.places[app.cell.target].clone(),
        })
    }

    /// The target's branch is prepared, its commit is decided, and not sent yet.
    async fn before_commit(&self) {
        match self.cell.story {
            Story::CutCommit => self.striker.target_wire().set(WireFault::CutRequest),
            Story::HandRollsBack => self.end_by_hand("ROLLBACK", "rolledback").await,
            Story::HandCommits => self.end_by_hand("COMMIT", "committed").await,
            Story::Commit
            | Story::Rollback
            | Story::Refused
            | Story::Uncertain
            | Story::Overdue
            | Story::Asked
            | Story::RecoverCommit
            | Story::RecoverRollback
            | Story::RecoverProof
            | Story::DownAtStart => {}
        }
    }

    async fn end_by_hand(&self, verb: &str, how: &str) {
        let Some((gtrid, _)) = self.striker.latest() else {
            return;
        };
        let (gtrid, mut judges) = (gtrid.to_string(), Judges::default());
        if judges.end_by_hand(&self.place, &gtrid, verb).await {
            self.striker.hand_acted(how);
        }
    }
}

#[async_trait]
impl Probe for Meddler {
    async fn reached(&self, point: Point) {
        if let Point::BeforeCommit(name) = &point
            && name.as_str() == self.cell.target_name()
            && !self.striker.has_struck()
        {
            self.before_commit().await;
        }
        self.striker.reached(point).await;
    }
}
