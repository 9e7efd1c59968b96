//! The contract of `unanimous_core::ports::DecisionTable`, in executable form.
//!
//! The author of a table implements [`Place`] (a schema, a database) and hands a function that
//! makes new places to [`run`]. Each property is also a function of its own in [`tables`],
//! [`decisions`], [`epochs`], [`last`] and [`durability`], which takes one new, empty place.
//!
//! What it cannot check: that a crash loses only what is not forced, where the place cannot crash
//! its server; and which answer follows a connection that breaks.

pub mod decisions;
pub mod durability;
pub mod epochs;
pub mod hold;
pub mod last;
pub mod tables;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use unanimous_core::ports::{
    Branch, Decided, DecisionRow, DecisionTable, EpochSlot, Found, OpeningRow, RowAnswer, RowState,
    Snapshot, SourceError, TableError, TableErrorKind,
};
use unanimous_core::xid::{Epoch, Gtrid, ManagerId, Opening};

/// Where the tables of one decision log live. It ends, and may be cleaned up, when this is dropped.
#[async_trait]
pub trait Place: Send + Sync + 'static {
    /// Another handle onto these tables, as another process would have it.
    fn table(&self) -> Arc<dyn DecisionTable>;

    /// Runs what [`DecisionTable::ddl`] says, as a person does.
    async fn run_ddl(&self, ddl: &str);

    /// Runs a statement in a transaction of its own in this database, and leaves that open.
    ///
    /// # Errors
    /// The statement failed; the transaction is rolled back.
    async fn hold(&self, statement: &str) -> Result<Box<dyn Held>, SourceError>;

    /// Opens a branch of this transaction in this database, and writes a row of the application in
    /// it, under this key (of at most 40 bytes of `a-z 0-9 -`).
    async fn branch(&self, gtrid: Gtrid, key: &str) -> Box<dyn Branch>;

    /// Whether the row of that key is committed.
    async fn is_committed(&self, key: &str) -> bool;

    /// Stops the server as by kill -9 and starts it again, and answers true; or false where that
    /// cannot be done.
    async fn crash(&self) -> bool;
}

/// A transaction that is left open. Dropping it closes its connection.
#[async_trait]
pub trait Held: Send {
    /// Commits it.
    async fn commit(self: Box<Self>);

    /// Rolls it back.
    async fn rollback(self: Box<Self>);
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
                // On the heap: each property's future would be a part of this one.
                Box::pin(async { $module::$property(&make().await).await }).await;
            )+
        };
    }
    run_each!(tables:
        tables_that_are_not_there_are_missing,
        tables_are_made_once,
        tables_are_made_by_hand,
        epochs_rise,
        members_that_join_at_once_have_epochs_of_their_own,
        an_opening_comes_back_exactly,
        beats_rise_and_list_the_members,
        a_heuristic_is_noted_once,
        records_by_hand_are_kept,
        a_decision_says_when_it_was_made,
    );
    run_each!(decisions:
        a_decision_is_found_and_read,
        a_decision_comes_back_exactly,
        deciding_again_changes_nothing,
        a_batch_is_answered_row_by_row,
        nothing_is_nothing,
        only_pending_rows_are_completed,
        only_completed_rows_are_forgotten,
        a_refusal_is_put_once,
        a_refusal_never_replaces_a_decision,
        deciders_at_once_are_all_recorded,
    );
    run_each!(epochs:
        a_slot_that_is_not_there_is_unfit,
        a_closed_epoch_takes_no_decision,
        another_server_than_its_home_decides_nothing,
        closing_is_idempotent_and_touches_no_other,
        a_close_among_deciders_leaves_both_answers_final,
        releasing_keeps_what_is_pending,
        an_open_epoch_is_not_released,
        older_open_openings_are_always_read,
        closed_epochs_are_listed_until_they_are_released,
    );
    run_each!(hold:
        what_is_new_waits_until_decisions_are_set_free,
        what_was_decided_is_ended_while_decisions_are_held,
        holding_waits_for_a_last_resource,
        whoever_is_gone_holds_nothing,
    );
    run_each!(last:
        a_branch_in_this_database_has_its_scope,
        the_row_commits_with_the_branch,
        the_row_is_rolled_back_with_the_branch,
        the_row_comes_back_exactly,
        a_closed_epoch_rolls_the_branch_back,
        a_slot_that_is_not_there_rolls_the_branch_back,
        a_standing_row_rolls_the_branch_back,
        closing_waits_for_a_last_resource,
        a_refusal_waits_for_a_last_resource,
        a_decision_waits_for_a_last_resource,
        a_stuck_last_resource_holds_up_nobody_else,
    );
    run_each!(durability:
        what_is_forced_survives_a_crash,
        what_was_read_survives_a_crash,
    );
}

/// A place with its tables, and a member.
struct Suite<'a, P> {
    place: &'a P,
    table: Arc<dyn DecisionTable>,
    own: Opening,
}

impl<'a, P: Place> Suite<'a, P> {
    async fn start(place: &'a P) -> Self {
        let table = place.table();
        table.init(manager()).await.expect("tables can be made");
        let own = table.join(random(), "suite").await;
        let own = own.expect("a member can join").opening;
        Self { place, table, own }
    }

    async fn join(&self) -> Opening {
        let row = self.table.join(random(), "another").await;
        row.expect("a member can join").opening
    }

    fn row(&self, sequence: u64) -> DecisionRow {
        row(self.own, sequence)
    }

    async fn decide(&self, rows: &[DecisionRow]) -> Vec<RowAnswer> {
        self.decided(rows).await.answers
    }

    async fn decided(&self, rows: &[DecisionRow]) -> Decided {
        let epoch = rows[0].gtrid.opening.epoch;
        let decided = self.table.decide(EpochSlot { epoch, slot: 0 }, None, rows);
        decided.await.expect("the table answers")
    }

    /// As another process finds it.
    async fn find(&self, gtrid: Gtrid) -> Found {
        let found = self.place.table().find(gtrid, Some(self.own.epoch)).await;
        found.expect("the table can be read")
    }

    async fn state(&self, gtrid: Gtrid) -> Option<RowState> {
        self.find(gtrid).await.row.map(|(state, _)| state)
    }

    /// As another process reads it: openings and pending rows in their order.
    async fn read(&self, from: Epoch) -> Snapshot {
        let read = self.place.table().read(from, Some(self.own.epoch)).await;
        let mut snapshot = read.expect("the table can be read");
        snapshot.openings.sort_by_key(|row| row.opening.epoch);
        snapshot.pending.sort_by_key(|row| row.gtrid);
        snapshot
    }

    async fn pending(&self) -> Vec<DecisionRow> {
        self.read(Epoch(0)).await.pending
    }

    async fn opening(&self, epoch: Epoch) -> OpeningRow {
        let listed = self.read(Epoch(0)).await.openings;
        let mut found = listed.into_iter().filter(|row| row.opening.epoch == epoch);
        let row = found.next().expect("every opening is listed");
        assert_eq!(found.next(), None, "once");
        row
    }

    async fn close(&self, epoch: Epoch) {
        let closed = until_answered(|| self.table.close(epoch)).await;
        closed.expect("an epoch can be closed");
    }

    /// Puts four rows there: pending, completed, refused, and none.
    async fn rows_in_every_state(&self) -> [DecisionRow; 4] {
        let rows = [self.row(1), self.row(2), self.row(3), self.row(4)];
        self.decide(&rows[..2]).await;
        let completed = self.table.complete(&[rows[1].gtrid]).await;
        completed.expect("a row can be completed");
        let put = self.table.put_rollback(rows[2].gtrid).await;
        assert_eq!(put.expect("a refusal can be put"), RowState::RolledBack);
        rows
    }
}

const PENDING: RowAnswer = RowAnswer::Stands(RowState::Pending);
const COMPLETED: RowAnswer = RowAnswer::Stands(RowState::Completed);
const ROLLED_BACK: RowAnswer = RowAnswer::Stands(RowState::RolledBack);

fn row(opening: Opening, sequence: u64) -> DecisionRow {
    DecisionRow {
        gtrid: opening.gtrid(sequence),
        branches: format!("orders\tpg 7/1/app\txid {sequence}\nledger\tmy 5-6-7\t"),
    }
}

const fn slot(opening: Opening, slot: u32) -> EpochSlot {
    EpochSlot {
        epoch: opening.epoch,
        slot,
    }
}

/// Texts that a careless statement would not bring back.
fn texts() -> Vec<String> {
    let printable: String = (' '..='~').collect();
    let awkward = [
        "",
        " ",
        " a ",
        "'",
        "''",
        "\"",
        "`",
        "\\",
        "\\'",
        "\\\\'; --",
        "\\n",
        "a\tb\nc\n",
        "\n",
        "\t",
        "$1",
        "$$",
        "$x$",
        "?",
        ":a",
        "@a",
        "%s",
        "%",
        "_",
        "/* */",
        "-- a",
        "{}",
        "NULL",
    ];
    let long = format!("'\\{}'\n", "0123456789abcdef".repeat(4096));
    let mut texts: Vec<_> = awkward.map(String::from).to_vec();
    texts.extend([printable, long]);
    texts
}

/// Asks again as long as it was refused for a lock that was not free in time, or a broken
/// connection; only what can be repeated.
async fn until_answered<R, F: Future<Output = Result<R, TableError>>>(
    mut ask: impl FnMut() -> F,
) -> Result<R, TableError> {
    for _ in 0..600 {
        match ask().await {
            Err(error) if !is_final(error.kind()) => {}
            answer => return answer,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ask().await
}

const fn is_final(kind: TableErrorKind) -> bool {
    match kind {
        TableErrorKind::Missing | TableErrorKind::Unfit => true,
        TableErrorKind::NotSent
        | TableErrorKind::Refused
        | TableErrorKind::Busy
        | TableErrorKind::Lost => false,
    }
}

#[track_caller]
fn assert_kind<R: std::fmt::Debug>(answer: Result<R, TableError>, kind: TableErrorKind) {
    match answer {
        Err(error) => assert_eq!(error.kind(), kind, "{error}"),
        Ok(answer) => panic!("expected {kind:?}, got {answer:?}"),
    }
}

fn manager() -> ManagerId {
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&random().to_be_bytes());
    ManagerId::from_bytes(bytes)
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
