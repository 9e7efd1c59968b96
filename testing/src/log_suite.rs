//! The contract of `unanimous_core::ports::DecisionLog`, in executable form.
//!
//! The author of a log implements [`Place`] (a folder, a schema) and hands a function that makes
//! new places to [`run`]. Each property is also a function of its own in [`records`], [`epochs`],
//! [`concurrency`] and [`members`], which takes one new, empty place.
//!
//! What it cannot check: that a record survives the loss of power. It reopens the log after
//! dropping it without shutdown; a file log's own tests keep written and synced bytes apart.

pub mod concurrency;
pub mod epochs;
pub mod members;
pub mod records;

use std::sync::Arc;
use std::time::Duration;

use unanimous_core::ports::{
    BranchRecord, DecideError, DecisionLog, DecisionRecord, Evidence, LogHome, Lookup,
    ServerIdentity,
};
use unanimous_core::xid::{Gtrid, Opening};

/// Where one log lives. It ends, and may be cleaned up, when this is dropped.
pub trait Place: Send + Sync + 'static {
    /// The home of this log, to be opened. Every call gives the same log.
    fn home(&self) -> Box<dyn LogHome>;

    /// Can several members have it open at the same time? If not, opening it closes the epochs of
    /// all earlier openings.
    fn is_shared(&self) -> bool;

    /// Does a shared log list its members, and does one whose epoch was closed by another go on
    /// under a new one by itself?
    fn keeps_members(&self) -> bool {
        self.is_shared()
    }
}

/// Runs every property, each in a new place.
///
/// # Panics
/// When a property does not hold; the last name that was printed is the property's.
pub async fn run<P: Place>(make: impl AsyncFn() -> P) {
    macro_rules! run_each {
        ($module:ident: $($property:ident),+ $(,)?) => {
            $(
                println!("{}", stringify!($property));
                $module::$property(&make().await).await;
            )+
        };
    }
    run_each!(records:
        a_decision_survives_without_shutdown,
        a_decision_comes_back_exactly,
        deciding_again_is_recorded_once,
        completing_ends_a_decision,
        completing_what_was_never_decided_does_nothing,
        a_completion_survives_a_shutdown,
        a_completion_that_was_forced_survives_without_shutdown,
        a_heuristic_is_kept,
        a_hazard_is_replaced_by_what_is_known,
        records_by_hand_are_kept,
        a_decision_says_when_it_was_made,
        many_decisions_are_kept_apart,
    );
    run_each!(epochs:
        each_opening_has_an_epoch_and_a_nonce_of_its_own,
        what_is_not_decided_is_open_until_its_epoch_is_closed,
        a_closed_epoch_refuses_new_decisions_and_confirms_old_ones,
        a_completed_decision_of_a_closed_epoch_is_not_refused,
        closing_twice_is_closing_once,
        reopening_closes_the_epochs_of_the_dead,
        an_opening_that_is_not_listed_is_unknown_and_cannot_decide,
        a_shutdown_closes_the_epoch_and_keeps_the_decisions,
        members_of_a_shared_log_see_and_close_each_other,
    );
    run_each!(concurrency:
        sixty_four_deciders_are_all_recorded,
        a_close_among_deciders_leaves_both_answers_final,
        a_decide_that_is_given_up_is_resolved_by_repeating_it,
    );
    run_each!(members:
        members_that_open_at_once_are_listed_to_each_other,
        what_one_member_completes_is_completed_for_all,
        what_a_survivor_finds_is_what_the_owner_is_told,
        a_close_by_another_member_leaves_both_answers_final,
        a_member_that_shuts_down_takes_nobody_along,
        a_member_whose_epoch_was_closed_goes_on_under_a_new_one,
        members_are_listed_with_what_became_of_them,
    );
}

/// Opens the log. Whoever had it open was dropped; how soon it lets go is its own affair.
async fn open<P: Place>(place: &P) -> Arc<dyn DecisionLog> {
    let mut tries = 0;
    loop {
        match place.home().open().await {
            Ok(log) => return log,
            Err(error) if tries == 100 => panic!("the log cannot be opened: {error}"),
            Err(_) => tries += 1,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Drops the log as a crash does, without shutdown, and opens it again.
async fn reopen<P: Place>(place: &P, log: Arc<dyn DecisionLog>) -> Arc<dyn DecisionLog> {
    drop(log);
    open(place).await
}

fn branch(resource: &str, identity: &str, evidence: &str) -> BranchRecord {
    BranchRecord {
        resource: resource.parse().expect("a resource name"),
        identity: ServerIdentity::new(identity).expect("a server identity"),
        evidence: Evidence::new(evidence).expect("evidence"),
    }
}

fn decision(gtrid: Gtrid) -> DecisionRecord {
    DecisionRecord {
        gtrid,
        branches: vec![
            branch("orders", "pg 7/1/app", "xid 1234"),
            branch("ledger", "my 5-6-7", ""),
        ],
    }
}

fn nth(opening: Opening, sequence: u64) -> DecisionRecord {
    decision(opening.gtrid(sequence))
}

async fn decide(log: &Arc<dyn DecisionLog>, decision: &DecisionRecord) {
    let decided = log.decide(decision).await;
    decided.expect("a decision of an open epoch is recorded");
}

async fn assert_refused(log: &Arc<dyn DecisionLog>, decision: &DecisionRecord) {
    match log.decide(decision).await {
        Err(DecideError::Refused(_)) => {}
        other => panic!("expected a refusal, got {other:?}"),
    }
}

async fn lookup(log: &Arc<dyn DecisionLog>, gtrid: Gtrid) -> Lookup {
    log.lookup(gtrid).await.expect("the log can be read")
}

/// The decisions that are not completed, in the order of their gtrids.
async fn pending(log: &Arc<dyn DecisionLog>) -> Vec<DecisionRecord> {
    let mut pending = log.pending().await.expect("the log can be read");
    pending.sort_by_key(|decision| decision.gtrid);
    pending
}
