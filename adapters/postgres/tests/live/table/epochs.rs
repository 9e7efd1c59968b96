//! Epochs: joined, decided under, closed and released, also at the same time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use unanimous_core::ports::{RowAnswer, RowState, SLOTS, TableErrorKind};
use unanimous_core::xid::Epoch;

use super::support::{PENDING, TableDb, assert_error, decide, row, slot};
use crate::support::Db;

async fn members_that_join_at_once_get_epochs_of_their_own(db: &Db) {
    let t = TableDb::new(db).await;
    let mut joining = Vec::new();
    for random in 0..8 {
        let table = t.db.build(|builder| builder.recovery_sessions(2)).table();
        joining.push(tokio::spawn(async move {
            table.join(random, "one of many").await
        }));
    }
    let mut epochs = BTreeSet::new();
    for joined in joining {
        epochs.insert(joined.await.unwrap().unwrap().opening.epoch);
    }
    assert_eq!(epochs, (1..=8).map(Epoch).collect());
    let slots = "SELECT count(*) FROM unanimous.unanimous_epoch WHERE NOT closed";
    assert_eq!(t.db.sql(slots).await[0][0], (8 * SLOTS).to_string());
    // Never again, also when it is released, and its opening deleted by hand.
    t.table.close(Epoch(8)).await.unwrap();
    t.table.release(Epoch(8)).await.unwrap();
    t.db.sql("DELETE FROM unanimous.unanimous_opening WHERE epoch = 8")
        .await;
    assert_eq!(t.join().await.opening.epoch, Epoch(9));
    t.drop_from(db).await;
}

trait Table {
    fn table(&self) -> Arc<dyn unanimous_core::ports::DecisionTable>;
}

impl Table for unanimous_postgres::Postgres {
    fn table(&self) -> Arc<dyn unanimous_core::ports::DecisionTable> {
        unanimous_core::ports::TableHome::decision_table(self)
    }
}

/// What the first question has put there is committed, whatever becomes of the second, about a row
/// that was there before: a refusal of that is no refusal of all.
async fn i3_what_is_left_of_a_batch_takes_nothing_back(db: &Db) {
    let t = TableDb::new(db).await;
    let own = t.join().await;
    let stands = RowAnswer::Stands(RowState::RolledBack);
    t.table.put_rollback(own.opening.gtrid(2)).await.unwrap();
    let answers = decide(&t.table, &own, &[1, 2, 3]).await.unwrap().answers;
    assert_eq!(answers, [PENDING, stands, PENDING]);

    // The server itself refuses the second question, which is the first to see the fifth row.
    let [second, fifth] = [2, 5].map(|sequence| own.opening.gtrid(sequence));
    t.db.sql(&format!(
        "CREATE FUNCTION unanimous.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF NEW.gtrid = '{second}' AND EXISTS \
         (SELECT FROM unanimous.unanimous_decision WHERE gtrid = '{fifth}') \
         THEN RAISE EXCEPTION 'no' USING ERRCODE = '55P03'; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON unanimous.unanimous_decision \
         FOR EACH ROW EXECUTE FUNCTION unanimous.refuse()"
    ))
    .await;
    let error = decide(&t.table, &own, &[2, 5, 6]).await.unwrap_err();
    assert_error(&error, TableErrorKind::Lost, "55P03");
    t.db.sql("DROP FUNCTION unanimous.refuse() CASCADE").await;
    let answers = decide(&t.table, &own, &[2, 5, 6]).await.unwrap().answers;
    assert_eq!(answers, [stands, PENDING, PENDING]);
    t.drop_from(db).await;
}

/// The close waits for whoever holds a slot, and finds what he has decided.
async fn a_close_waits_for_a_decision_in_flight(db: &Db) {
    let t = TableDb::new(db).await;
    let own = t.join().await;
    let first = row(&own, 1);
    // Holds the key of the decision, which then waits with its slot locked.
    let holder = t.client().await;
    let hold = format!(
        "BEGIN; INSERT INTO unanimous.unanimous_decision VALUES ('{}', 1, 'C', 'late')",
        first.gtrid
    );
    holder.batch_execute(&hold).await.unwrap();
    let (table, opening) = (Arc::clone(&t.table), own.clone());
    let deciding = tokio::spawn(async move { decide(&table, &opening, &[1, 2]).await });
    t.waiters(1).await;
    let (table, epoch) = (Arc::clone(&t.table), own.opening.epoch);
    let closing = tokio::spawn(async move { table.close(epoch).await });
    t.waiters(2).await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(deciding.await.unwrap().unwrap().answers, [PENDING, PENDING]);
    closing.await.unwrap().unwrap();
    assert_eq!(t.state(first.gtrid).await.as_deref(), Some("C"));
    // What stands, stands; nothing is added.
    let again = decide(&t.table, &own, &[1, 3]).await.unwrap();
    assert_eq!(again.answers, [PENDING, RowAnswer::EpochClosed]);
    assert!(!again.is_released);
    t.drop_from(db).await;
}

/// The decision waits for the close, and reads what it has written: also where the account's own
/// default would give it a snapshot from before.
async fn a_decision_waits_for_a_close_in_flight(db: &Db) {
    let t = TableDb::new(db).await;
    let (url, own) = (t.db.url.clone(), t.join().await);
    for (isolation, end, expected) in [
        ("read committed", "ROLLBACK", PENDING),
        ("read committed", "COMMIT", RowAnswer::EpochClosed),
        ("repeatable read", "ROLLBACK", PENDING),
        ("repeatable read", "COMMIT", RowAnswer::EpochClosed),
        ("serializable", "COMMIT", RowAnswer::EpochClosed),
    ] {
        let own = if end == "COMMIT" {
            t.join().await
        } else {
            own.clone()
        };
        let closer = t.client().await;
        let close = format!(
            "BEGIN; UPDATE unanimous.unanimous_epoch SET closed = true WHERE epoch = {}",
            own.opening.epoch
        );
        closer.batch_execute(&close).await.unwrap();
        let options = isolation.replace(" ", "%5C%20");
        let url = format!("{url}?options=-c%20default_transaction_isolation%3D{options}");
        let table = super::support::resource(&url).table();
        let deciding = tokio::spawn(async move { decide(&table, &own, &[7]).await });
        t.waiters(1).await;
        closer.batch_execute(end).await.unwrap();
        let answer = deciding.await.unwrap().unwrap().answers;
        assert_eq!(answer, [expected], "{isolation} {end}");
    }
    t.drop_from(db).await;
}

async fn what_waits_too_long_is_refused_and_can_be_asked_again(db: &Db) {
    let t = TableDb::new(db).await;
    let own = t.join().await;
    let holder = t.client().await;
    let hold = format!(
        "BEGIN; SELECT 1 FROM unanimous.unanimous_epoch WHERE epoch = {} FOR SHARE; \
         INSERT INTO unanimous.unanimous_decision VALUES ('{}', 1, 'C', ''); \
         SELECT 1 FROM unanimous.unanimous_log FOR UPDATE",
        own.opening.epoch,
        own.opening.gtrid(1)
    );
    holder.batch_execute(&hold).await.unwrap();
    let locked = "a lock was not to be had in time";
    let busy = TableErrorKind::Busy;
    let (close, put, decided, joined) = tokio::join!(
        t.table.close(own.opening.epoch),
        t.table.put_rollback(own.opening.gtrid(1)),
        decide(&t.table, &own, &[1]),
        t.table.join(1, "late"),
    );
    assert_error(&close.unwrap_err(), busy, locked);
    assert_error(&put.unwrap_err(), busy, locked);
    assert_error(&decided.unwrap_err(), busy, locked);
    assert_error(&joined.unwrap_err(), busy, locked);
    holder.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(
        decide(&t.table, &own, &[1]).await.unwrap().answers,
        [PENDING]
    );
    t.table.close(own.opening.epoch).await.unwrap();
    t.drop_from(db).await;
}

async fn what_is_not_there_is_unfit(db: &Db) {
    let t = TableDb::new(db).await;
    let own = t.join().await;
    let unfit = TableErrorKind::Unfit;
    let mut at = slot(&own);
    at.slot = SLOTS;
    let error = t.table.decide(at, None, &[row(&own, 1)]).await.unwrap_err();
    assert_error(&error, unfit, "no row for this epoch and slot");
    assert_eq!(t.state(own.opening.gtrid(1)).await, None);
    let error = t.table.close(Epoch(99)).await.unwrap_err();
    assert_error(&error, unfit, "not listed");
    let error = t.table.release(own.opening.epoch).await.unwrap_err();
    assert_error(&error, unfit, "only a closed epoch");
    t.drop_from(db).await;
}

async fn a_released_epoch_keeps_only_what_is_pending(db: &Db) {
    let t = TableDb::new(db).await;
    let own = t.join().await;
    let gtrid = |sequence| own.opening.gtrid(sequence);
    decide(&t.table, &own, &[1, 2]).await.unwrap();
    t.table.put_rollback(gtrid(3)).await.unwrap();
    t.table.complete(&[gtrid(2), gtrid(3)]).await.unwrap();
    assert_eq!(
        t.state(gtrid(3)).await.as_deref(),
        Some("R"),
        "only pending ones"
    );
    // Neither pending nor refused ones are deleted.
    t.table.forget(&[gtrid(1), gtrid(3)]).await.unwrap();
    t.table.close(own.opening.epoch).await.unwrap();
    let old = t.table.closed_for(Duration::ZERO).await.unwrap();
    assert_eq!(old, [own.opening.epoch]);
    assert_eq!(
        t.table.closed_for(Duration::from_secs(3600)).await.unwrap(),
        []
    );
    assert_eq!(t.table.closed_for(Duration::MAX).await.unwrap(), []);
    t.table.release(own.opening.epoch).await.unwrap();
    assert_eq!(t.table.closed_for(Duration::ZERO).await.unwrap(), []);
    let decided = decide(&t.table, &own, &[1, 2, 4]).await.unwrap();
    assert!(decided.is_released);
    let closed = RowAnswer::EpochClosed;
    assert_eq!(decided.answers, [PENDING, closed, closed]);
    assert!(t.table.beat(own.opening.epoch).await.unwrap().is_empty());
    let found = t
        .table
        .find(gtrid(1), Some(own.opening.epoch))
        .await
        .unwrap();
    assert!(found.opening.unwrap().is_released);
    assert_eq!(found.row.unwrap().0, RowState::Pending);
    t.drop_from(db).await;
}

on_both!(
    i3_what_is_left_of_a_batch_takes_nothing_back,
    members_that_join_at_once_get_epochs_of_their_own,
    a_close_waits_for_a_decision_in_flight,
    a_decision_waits_for_a_close_in_flight,
    what_waits_too_long_is_refused_and_can_be_asked_again,
    what_is_not_there_is_unfit,
    a_released_epoch_keeps_only_what_is_pending,
);
