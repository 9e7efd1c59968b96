//! Where the runtime can be watched: named points, for tests that make something fail there.
//!
//! Spans and events for people go through `tracing` where they happen: a span per transaction with
//! its gtrid, debug events per branch with phase and duration, warnings only for what a person or
//! recovery has to see to.

use std::sync::Arc;

use async_trait::async_trait;
use unanimous_core::xid::ResourceName;

/// Makes [`Point`] and its catalogue from one list, so that neither can lack what the other has.
macro_rules! points {
    (
        of a resource { $($local:ident = $local_name:literal,)+ }
        of the whole { $($whole:ident = $whole_name:literal,)+ }
    ) => {
        /// A point that has been reached.
        #[doc(hidden)]
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Point {
            $($local(ResourceName),)+
            $($whole,)+
        }

        impl Point {
            /// The names of all points that are reached once for each resource.
            pub const OF_A_RESOURCE: &[&str] = &[$($local_name),+];
            /// The names of all others.
            pub const OF_THE_WHOLE: &[&str] = &[$($whole_name),+];

            /// Its name in the catalogue.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$local(_) => $local_name,)+
                    $(Self::$whole => $whole_name,)+
                }
            }

            /// The resource that it is about.
            pub const fn resource(&self) -> Option<&ResourceName> {
                match self {
                    $(Self::$local(name))|+ => Some(name),
                    $(Self::$whole)|+ => None,
                }
            }
        }
    };
}

points! {
    of a resource {
        BeforeOpen = "open.before",
        Opened = "open.answered",
        BeforePrepare = "prepare.before",
        PrepareAnswered = "prepare.answered",
        BeforeReaderEnd = "reader.before",
        ReaderEnded = "reader.answered",
        BeforeOnePhase = "one_phase.before",
        OnePhaseAnswered = "one_phase.answered",
        BeforeLast = "last.before",
        LastAnswered = "last.answered",
        BeforeCommit = "commit.before",
        CommitAnswered = "commit.answered",
        BeforeRollback = "rollback.before",
        RollbackAnswered = "rollback.answered",
        HandedOver = "driver.handed_over",
        BeforeRelease = "release.before",
        Released = "release.answered",
        BeforeLateCheck = "recovery.before_late_check",
        LateChecked = "recovery.late_checked",
        PassBegun = "recovery.pass_begun",
        PreparedSeen = "recovery.prepared_seen",
        ActiveSeen = "recovery.active_seen",
        LogRead = "recovery.log_read",
        PreparedSeenAgain = "recovery.prepared_seen_again",
        ByHandRead = "recovery.by_hand_read",
        BeforeLookup = "recovery.before_lookup",
        BeforeFinish = "recovery.before_finish",
        FinishAnswered = "recovery.finish_answered",
        BeforeProof = "recovery.before_proof",
        ProofAnswered = "recovery.proof_answered",
        BeforeHeuristic = "heuristic.before",
        HeuristicAnswered = "heuristic.answered",
        BranchesEnded = "recovery.branches_ended",
        PassEnded = "recovery.pass_ended",
    }
    of the whole {
        StartBegun = "start.begun",
        ResourcesChecked = "start.resources_checked",
        LogOpened = "start.log_opened",
        FirstPassDone = "start.first_pass_done",
        Started = "start.recovery_runs",
        EnlistBegun = "enlist.begun",
        EnlistDone = "enlist.done",
        CommitBegun = "commit.begun",
        RollbackBegun = "rollback.begun",
        BeforeDecide = "decide.before",
        DecisionDurable = "decide.durable",
        DecisionRefused = "decide.refused",
        DecisionUncertain = "decide.uncertain",
        BeforeDecideAgain = "decide.before_again",
        DecisionOverdue = "decide.overdue",
        BeforeComplete = "complete.before",
        Completed = "complete.noted",
        BeforeAnswer = "end.before_answer",
        Answered = "end.answered",
        LeftActive = "end.left_active",
        BeforeCompletedLook = "completed.before_look",
        CompletedLooked = "completed.looked",
        BeforeOutcome = "outcome.before",
        OutcomeAnswered = "outcome.answered",
        ShutdownBegun = "shutdown.begun",
        Drained = "shutdown.drained",
        RecoveryStopped = "shutdown.recovery_stopped",
        LastPassDone = "shutdown.last_pass_done",
        LogClosed = "shutdown.log_closed",
    }
}

/// Is told of every point before the runtime goes on.
#[doc(hidden)]
#[async_trait]
pub trait Probe: Send + Sync + 'static {
    async fn reached(&self, point: Point);

    /// The luck of a pause's jitter, where a test owns it.
    fn luck(&self) -> Option<u32> {
        None
    }
}

/// No probe in production: then a point costs one branch.
#[derive(Clone, Default)]
pub(crate) struct Probes(pub(crate) Option<Arc<dyn Probe>>);

impl Probes {
    pub(crate) async fn reached(&self, point: impl FnOnce() -> Point) {
        if let Some(probe) = &self.0 {
            probe.reached(point()).await;
        }
    }

    /// The same for a point of a resource.
    pub(crate) async fn at(&self, name: &ResourceName, point: fn(ResourceName) -> Point) {
        self.reached(|| point(name.clone())).await;
    }

    /// Random bits for a pause's jitter; the highest if the system has none.
    pub(crate) fn luck(&self) -> u32 {
        let owned = self.0.as_ref().and_then(|probe| probe.luck());
        owned.unwrap_or_else(|| getrandom::u32().unwrap_or(u32::MAX))
    }
}
