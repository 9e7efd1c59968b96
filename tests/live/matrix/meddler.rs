//! What a story itself does at points, before the fault strikes: a wire that is cut, a branch that
//! somebody else ends.

use std::sync::Arc;

use async_trait::async_trait;
use unanimous::ports::DecisionTable;
use unanimous::{Point, Probe};
use unanimous_testing::{Wire, WireFault};

use super::app::App;
use super::cell::{Cell, Story};
use super::strike::{DELAY, Striker};
use crate::databases::{Judges, Place};

/// Answers are lost on every connection: one that is lost alone, the table asks for again by
/// itself.
const TORN: WireFault = WireFault::TearReplies(0);

/// See the module; passes all points on.
pub(super) struct Meddler {
    cell: Cell,
    striker: Arc<Striker>,
    /// Where an independent client finds the target, if it is a branch.
    place: Option<Place>,
    log_place: Option<Place>,
    /// As another member has it.
    log: Option<Arc<dyn DecisionTable>>,
}

impl Meddler {
    pub(super) fn around(app: &App, striker: &Arc<Striker>) -> Arc<Self> {
        Arc::new(Self {
            cell: app.cell,
            striker: Arc::clone(striker),
            place: app.places.get(app.cell.target).cloned(),
            log_place: app.log_place.clone(),
            log: app.judged_table(),
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
            | Story::DownAtStart
            | Story::LastUnsent
            | Story::LastUnanswered
            | Story::LastLate
            | Story::Survivor
            | Story::Paused
            | Story::PausedUnsure => {}
        }
    }

    /// The last resource is to commit, and the commit is not sent yet.
    async fn before_last(&self, last: usize) {
        let wire = &self.striker.wires()[last];
        match self.cell.story {
            Story::LastUnsent => wire.set(WireFault::CutRequest),
            Story::LastUnanswered | Story::PausedUnsure => wire.set(WireFault::CutReply),
            Story::LastLate => self.hold_epoch().await,
            Story::Refused => {
                let latest = self.striker.latest();
                if let (Some(log), Some((gtrid, _))) = (&self.log, latest) {
                    // Whether or not it could be closed, what the application is told is true.
                    let _ = log.close(gtrid.opening.epoch).await;
                }
            }
            Story::Commit
            | Story::Rollback
            | Story::Uncertain
            | Story::Overdue
            | Story::CutCommit
            | Story::HandRollsBack
            | Story::HandCommits
            | Story::Asked
            | Story::RecoverCommit
            | Story::RecoverRollback
            | Story::RecoverProof
            | Story::DownAtStart
            | Story::Survivor
            | Story::Paused => {}
        }
    }

    /// Somebody is about to close the epoch, and takes longer than anybody waits for the last
    /// resource, but not so long that its server gives up.
    async fn hold_epoch(&self) {
        let (Some(place), Some((gtrid, _))) = (self.log_place.clone(), self.striker.latest())
        else {
            return;
        };
        let schema = if place.is_postgres { "unanimous." } else { "" };
        let epoch = gtrid.opening.epoch;
        let lock = format!("SELECT epoch FROM {schema}unanimous_epoch WHERE epoch = {epoch}");
        let mut judges = Judges::default();
        judges.try_ask(&place, "BEGIN").await.unwrap();
        let locked = judges.try_ask(&place, &format!("{lock} FOR UPDATE")).await;
        locked.unwrap();
        tokio::spawn(async move {
            tokio::time::sleep(DELAY).await;
            // Its server may have been killed.
            let _ = judges.try_ask(&place, "COMMIT").await;
        });
    }

    /// The log in a table records what it is asked to, and its answer is lost.
    fn before_decide(&self) {
        let loses_answer = matches!(
            self.cell.story,
            Story::Uncertain | Story::LastUnanswered | Story::PausedUnsure
        );
        if loses_answer && self.log_place.is_some() {
            self.log_wire().set(TORN);
        }
    }

    fn answer_is_lost(&self) {
        if self.log_place.is_some() {
            let_answers_come(&self.striker);
        }
    }

    fn log_wire(&self) -> &Wire {
        let wires = self.striker.wires();
        wires.last().expect("a log in a table has a wire")
    }

    async fn end_by_hand(&self, verb: &str, how: &str) {
        let Some((gtrid, _)) = self.striker.latest() else {
            return;
        };
        let (gtrid, mut judges) = (gtrid.to_string(), Judges::default());
        if let Some(place) = &self.place
            && judges.end_by_hand(place, &gtrid, verb).await
        {
            self.striker.hand_acted(how);
        }
    }
}

/// From here on the answers of a log in a table come, if they were lost.
pub(super) fn let_answers_come(striker: &Striker) {
    if let Some(wire) = striker.wires().last()
        && wire.fault() == TORN
    {
        wire.set(WireFault::None);
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
        if let (Point::BeforeLast(_), Some(last)) = (&point, self.cell.last_resource())
            && !self.striker.has_struck()
        {
            self.before_last(last).await;
        }
        if point == Point::BeforeDecide && !self.striker.has_struck() {
            self.before_decide();
        }
        if point == Point::DecisionUncertain {
            self.answer_is_lost();
        }
        self.striker.reached(point).await;
    }
}
