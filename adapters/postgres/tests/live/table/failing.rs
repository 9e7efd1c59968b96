//! Answers that are lost, sessions that die, futures that are dropped, limits of the account.

use std::sync::Arc;
use std::time::Duration;

use unanimous_core::ports::{
    DecisionTable, OpeningRow, RowState, TableError, TableErrorKind, TableHome,
};
use unanimous_core::xid::{Epoch, Gtrid};
use unanimous_testing::{Wire, WireFault, drop_after};
use xtask::servers::{Kind, Server};

use super::suite::lazily;
use super::support::{PENDING, TableDb, assert_error, decide, resource, row, slot};
use crate::support::{Db, eventually};

/// Every method once, in an order in which each has something to do.
async fn each_method(
    table: &Arc<dyn DecisionTable>,
    t: &TableDb,
    mut after: impl AsyncFnMut(&str),
) {
    let orders = "orders".parse().unwrap();
    table.init(t.db.opening.manager).await.unwrap();
    after("init").await;
    table.check().await.unwrap();
    after("check").await;
    let own = table.join(7, "one").await.unwrap();
    let (epoch, gtrid) = (own.opening.epoch, own.opening.gtrid(1));
    after("join").await;
    assert_eq!(
        decide(table, &own, &[1, 2]).await.unwrap().answers,
        [PENDING; 2]
    );
    after("decide").await;
    let put = table.put_rollback(own.opening.gtrid(3)).await.unwrap();
    assert_eq!(put, RowState::RolledBack);
    after("put_rollback").await;
    table.record_heuristic(gtrid, &orders, 'r').await.unwrap();
    after("record_heuristic").await;
    table.complete(&[gtrid]).await.unwrap();
    after("complete").await;
    table.forget(&[gtrid]).await.unwrap();
    after("forget").await;
    assert_eq!(table.beat(epoch).await.unwrap().len(), 1);
    after("beat").await;
    assert_eq!(
        table.read(epoch, Some(epoch)).await.unwrap().pending.len(),
        1
    );
    after("read, forced").await;
    let read = table.read(epoch, None).await.unwrap();
    assert_eq!(read.openings, std::slice::from_ref(&own));
    after("read").await;
    let found = table.find(gtrid, Some(epoch)).await.unwrap();
    assert_eq!((found.row, found.heuristics), (None, vec![(orders, 'r')]));
    after("find").await;
    table.close(epoch).await.unwrap();
    after("close").await;
    assert_eq!(table.closed_for(Duration::ZERO).await.unwrap(), [epoch]);
    after("closed_for").await;
    table.release(epoch).await.unwrap();
    after("release").await;
}

/// But for the connection itself, and the tables, which are looked for before they are made.
async fn each_method_is_one_round_trip(db: &Db) {
    let t = TableDb::new(db).await;
    let (wire, url) = Wire::between(&t.db.url).await.unwrap();
    let table = resource(&url).decision_table();
    table.check().await.unwrap();
    let mut before = wire.round_trips();
    each_method(&table, &t, async |method| {
        let trips = wire.round_trips() - before;
        let expected = if method == "init" { 2 } else { 1 };
        assert_eq!(trips, expected, "{method}");
        before = wire.round_trips();
    })
    .await;
    assert_eq!(wire.connections(), 1, "one session served them all");
    table.complete(&[]).await.unwrap();
    table.forget(&[]).await.unwrap();
    assert_eq!(wire.round_trips(), before, "nothing is nothing");
    t.drop_from(db).await;
}

fn kind<T: std::fmt::Debug>(answer: Result<T, TableError>) -> TableErrorKind {
    answer.unwrap_err().kind()
}

/// On a new connection: nobody asks a second time.
async fn i3_a_lost_reply_is_lost(db: &Db) {
    let t = TableDb::new(db).await;
    let own = t.join().await;
    let (wire, url) = Wire::between(&t.db.url).await.unwrap();
    let fresh = || resource(&url).decision_table();
    // The third answer is that to the request: log-in and facts come before it.
    let mut lost = Vec::new();
    for (fault, there) in [(WireFault::CutReply, true), (WireFault::CutRequest, false)] {
        let table = fresh();
        let waiting = hold_first_request(&t, &own.opening.gtrid(9).to_string()).await;
        let (asked, opening) = (Arc::clone(&table), own.clone());
        let deciding = tokio::spawn(async move { decide(&asked, &opening, &[9]).await });
        t.waiters(1).await;
        // It was sent; its reply is what is cut now, or the whole connection.
        match fault {
            WireFault::CutReply => wire.set(WireFault::TearReplies(0)),
            _ => wire.set(WireFault::Down),
        }
        waiting.batch_execute("ROLLBACK").await.unwrap();
        lost.push(kind(deciding.await.unwrap()));
        wire.set(WireFault::None);
        eventually("it is decided, or rolled back", async || {
            there == (t.state(own.opening.gtrid(9)).await.is_some()) || !there
        })
        .await;
        let again = decide(&fresh(), &own, &[9]).await.unwrap();
        assert_eq!(again.answers, [PENDING], "asked again, it is so");
    }
    assert_eq!(lost, [TableErrorKind::Lost; 2]);
    t.drop_from(db).await;
}

/// Whoever inserts this key waits for the client.
async fn hold_first_request(
    t: &TableDb,
    gtrid: &str,
) -> unanimous_postgres::tokio_postgres::Client {
    let holder = t.client().await;
    t.db.sql(&format!(
        "DELETE FROM unanimous.unanimous_decision WHERE gtrid = '{gtrid}'"
    ))
    .await;
    let hold =
        format!("BEGIN; INSERT INTO unanimous.unanimous_decision VALUES ('{gtrid}', 1, 'C', '')");
    holder.batch_execute(&hold).await.unwrap();
    holder
}

/// A pooled session that died is replaced; but a join is not asked a second time, for it may have
/// happened, and a decision is not, for its row may be deleted by then: only who asked first knows
/// what it means that it is not there.
async fn a_dead_pooled_session_is_replaced_where_that_changes_nothing(db: &Db) {
    let t = TableDb::new(db).await;
    let own = t.join().await;
    let (wire, url) = Wire::between(&t.db.url).await.unwrap();
    let table = resource(&url).decision_table();
    table.check().await.unwrap();
    wire.set(WireFault::CutReply);
    let error = decide(&table, &own, &[1]).await.unwrap_err();
    assert_error(&error, TableErrorKind::Lost, "cannot record decisions");
    assert_eq!(wire.fault(), WireFault::None, "it was cut");
    assert_eq!(decide(&table, &own, &[1]).await.unwrap().answers, [PENDING]);
    wire.set(WireFault::CutReply);
    let put = table.put_rollback(own.opening.gtrid(1)).await.unwrap();
    assert_eq!(put, RowState::Pending);
    wire.set(WireFault::CutReply);
    let error = table.join(1, "twice").await.unwrap_err();
    assert_error(&error, TableErrorKind::Lost, "cannot join");
    let openings = "SELECT 1 FROM unanimous.unanimous_opening";
    eventually("it has happened once", async || {
        t.db.sql(openings).await.len() == 2
    })
    .await;
    t.drop_from(db).await;
}

/// What the first attempt did is not known, whatever the second meets.
async fn i3_what_was_sent_once_is_not_called_unsent(db: &Db) {
    let t = TableDb::new(db).await;
    let own = t.join().await;
    let (wire, url) = Wire::between(&t.db.url).await.unwrap();
    let table = resource(&url).decision_table();
    table.check().await.unwrap();
    let holder = hold_first_request(&t, &own.opening.gtrid(1).to_string()).await;
    let (asked, opening) = (Arc::clone(&table), own.clone());
    let deciding = tokio::spawn(async move { decide(&asked, &opening, &[1]).await });
    t.waiters(1).await;
    wire.set(WireFault::Down);
    assert_eq!(kind(deciding.await.unwrap()), TableErrorKind::Lost);
    holder.batch_execute("ROLLBACK").await.unwrap();
    let unsent = decide(&table, &own, &[2]).await.unwrap_err();
    assert_error(&unsent, TableErrorKind::NotSent, "cannot record decisions");
    wire.set(WireFault::None);
    assert_eq!(decide(&table, &own, &[1]).await.unwrap().answers, [PENDING]);
    t.drop_from(db).await;
}

/// A dropped future closes its session: no lock of it stays, also while it waits for one.
async fn i7_a_future_that_is_dropped_leaves_no_session_behind(db: &Db) {
    let t = TableDb::new(db).await;
    let own = t.join().await;
    let table = resource(&t.db.url).decision_table();
    let busy = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
        AND pid <> pg_backend_pid() AND state <> 'idle'";
    for polls in 1..40 {
        let done = drop_after(polls, decide(&table, &own, &[polls as u64])).await;
        eventually("no session is left busy", async || {
            t.db.sql(busy).await.is_empty()
        })
        .await;
        // Whatever became of it, asked again it is so.
        let again = decide(&table, &own, &[polls as u64]).await.unwrap();
        assert_eq!(again.answers, [PENDING]);
        if done.is_some() {
            break;
        }
    }
    let holder = hold_first_request(&t, &own.opening.gtrid(77).to_string()).await;
    let (asked, opening) = (Arc::clone(&table), own.clone());
    let waiting = tokio::spawn(async move { decide(&asked, &opening, &[77]).await });
    t.waiters(1).await;
    waiting.abort();
    t.waiters(0).await;
    // Its share of the slot is gone, too, although the key is still held.
    holder.batch_execute("COMMIT").await.unwrap();
    t.table.close(own.opening.epoch).await.unwrap();
    t.drop_from(db).await;
}

/// Settings of the account that would change what a statement means, or end it.
async fn the_accounts_own_settings_change_nothing(db: &Db) {
    let t = TableDb::new(db).await;
    let database =
        t.db.sql("SELECT current_database()")
            .await
            .remove(0)
            .remove(0);
    for (setting, value) in [
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_read_only", "on"),
        ("standard_conforming_strings", "off"),
        ("search_path", "nowhere"),
        ("synchronous_commit", "off"),
        ("lock_timeout", "1"),
        ("DateStyle", "German"),
        ("IntervalStyle", "sql_standard"),
        ("extra_float_digits", "-15"),
        ("bytea_output", "escape"),
    ] {
        let set = format!("ALTER ROLE app IN DATABASE {database} SET {setting} = '{value}'");
        t.db.admin(&set).await;
    }
    let table = resource(&t.db.url).decision_table();
    let own = table.join(1, "it's \\ here").await.unwrap();
    assert_eq!(own.label, "it's \\ here");
    let mut odd = row(&own, 1);
    odd.branches = "\\' \\\\'' \t\n$$ E'\\n".to_owned();
    let decided = table
        .decide(slot(&own), None, &[odd.clone()])
        .await
        .unwrap();
    assert_eq!(decided.answers, [PENDING]);
    let read = table.read(Epoch(0), Some(own.opening.epoch)).await.unwrap();
    assert_eq!(read.pending, [odd]);
    each_method_again(&table, &own).await;
    t.drop_from(db).await;
}

async fn each_method_again(table: &Arc<dyn DecisionTable>, own: &OpeningRow) {
    let epoch = own.opening.epoch;
    table.put_rollback(own.opening.gtrid(5)).await.unwrap();
    table.complete(&[own.opening.gtrid(1)]).await.unwrap();
    table.beat(epoch).await.unwrap();
    table.find(own.opening.gtrid(1), Some(epoch)).await.unwrap();
    table.close(epoch).await.unwrap();
    assert_eq!(table.closed_for(Duration::ZERO).await.unwrap(), [epoch]);
    table.release(epoch).await.unwrap();
}

on_both!(
    each_method_is_one_round_trip,
    i3_a_lost_reply_is_lost,
    a_dead_pooled_session_is_replaced_where_that_changes_nothing,
    i3_what_was_sent_once_is_not_called_unsent,
    i7_a_future_that_is_dropped_leaves_no_session_behind,
    the_accounts_own_settings_change_nothing,
);

/// A server that loses what nobody has forced, with a member.
struct Lossy {
    server: Server,
    t: TableDb,
    own: OpeningRow,
}

impl Lossy {
    async fn start(kind: Kind) -> Self {
        let server = Server::start(kind, &lazily()).unwrap();
        let t = TableDb::new(&Db::on(&server).await).await;
        let own = t.join().await;
        Self { server, t, own }
    }

    fn gtrid(&self, sequence: u64) -> Gtrid {
        self.own.opening.gtrid(sequence)
    }

    /// Somebody has written this row, and not forced it.
    async fn write(&self, sequence: u64, state: &str) {
        let (gtrid, epoch) = (self.gtrid(sequence), self.own.opening.epoch);
        let insert = format!(
            "INSERT INTO unanimous.unanimous_decision VALUES ('{gtrid}', {epoch}, '{state}', '')"
        );
        self.t.db.sql(&insert).await;
    }

    fn crash(&mut self) {
        self.server.kill();
        self.server.restart().unwrap();
    }

    async fn state_after_a_crash(&mut self, sequence: u64) -> Option<String> {
        self.crash();
        self.t.state(self.gtrid(sequence)).await
    }

    async fn count(&self, from: &str) -> usize {
        let select = format!("SELECT 1 FROM unanimous.{from}");
        self.t.db.sql(&select).await.len()
    }
}

/// Each time somebody has done it before, without forcing it: the answer rests on that, and forces
/// it. What nobody forces is lost here, or the test would show nothing.
async fn i2_what_was_there_already_is_forced_by_whoever_answers_it(kind: Kind) {
    let mut lossy = Lossy::start(kind).await;
    let (epoch, table) = (lossy.own.opening.epoch, Arc::clone(&lossy.t.table));
    let pending = Some("C".to_owned());

    // The server's own processes may force something in between, but not each time.
    let mut is_lost = false;
    for sequence in 100..110 {
        lossy.write(sequence, "C").await;
        table.complete(&[lossy.gtrid(sequence)]).await.unwrap();
        is_lost = lossy.state_after_a_crash(sequence).await.is_none();
        if is_lost {
            break;
        }
    }
    assert!(is_lost, "all of it was forced");

    lossy.write(1, "C").await;
    assert_eq!(
        decide(&table, &lossy.own, &[1]).await.unwrap().answers,
        [PENDING]
    );
    assert_eq!(lossy.state_after_a_crash(1).await, pending, "decide");

    lossy.write(2, "C").await;
    let put = table.put_rollback(lossy.gtrid(2)).await.unwrap();
    assert_eq!(put, RowState::Pending);
    assert_eq!(lossy.state_after_a_crash(2).await, pending, "put_rollback");

    lossy.write(3, "C").await;
    let found = table.find(lossy.gtrid(3), Some(epoch)).await.unwrap();
    assert!(found.row.is_some());
    assert_eq!(lossy.state_after_a_crash(3).await, pending, "find");

    lossy.write(4, "C").await;
    // Also of one whose own row is gone.
    table.read(Epoch(0), Some(Epoch(99))).await.unwrap();
    assert_eq!(lossy.state_after_a_crash(4).await, pending, "read");
}

/// The same for what is no decision.
async fn i2_what_is_so_already_is_forced_by_whoever_answers_it(kind: Kind) {
    let mut lossy = Lossy::start(kind).await;
    let (epoch, table) = (lossy.own.opening.epoch, Arc::clone(&lossy.t.table));
    let (gtrid, orders) = (lossy.gtrid(1), "orders".parse().unwrap());
    let heuristic = format!(
        "INSERT INTO unanimous.unanimous_heuristic (gtrid, resource, ended) \
         VALUES ('{gtrid}', 'orders', 'c')"
    );
    lossy.t.db.sql(&heuristic).await;
    table.record_heuristic(gtrid, &orders, 'r').await.unwrap();
    lossy.crash();
    let found = table.find(gtrid, Some(epoch)).await.unwrap();
    assert_eq!(found.heuristics, [(orders, 'c')]);

    let close = format!(
        "UPDATE unanimous.unanimous_epoch SET closed = true WHERE epoch = {epoch}; \
         UPDATE unanimous.unanimous_opening SET closed_at = now() WHERE epoch = {epoch}"
    );
    lossy.t.db.sql(&close).await;
    table.close(epoch).await.unwrap();
    lossy.crash();
    assert_eq!(
        lossy
            .count("unanimous_opening WHERE closed_at IS NULL")
            .await,
        0
    );
    assert_eq!(lossy.count("unanimous_epoch WHERE NOT closed").await, 0);

    table.release(epoch).await.unwrap();
    assert!(decide(&table, &lossy.own, &[9]).await.unwrap().is_released);
    lossy.crash();
    assert_eq!(
        lossy
            .count("unanimous_opening WHERE released_at IS NULL")
            .await,
        0
    );

    let other = lossy.t.db.opening.manager;
    lossy.t.db.sql("DROP SCHEMA unanimous CASCADE").await;
    lossy.t.db.sql(&table.ddl(other)).await;
    table.init(other).await.unwrap();
    lossy.crash();
    assert_eq!(
        lossy.count("unanimous_opening").await,
        0,
        "new tables, and there"
    );
}

mod own {
    use super::*;
    on_own_single_threaded!(
        i2_what_was_there_already_is_forced_by_whoever_answers_it,
        i2_what_is_so_already_is_forced_by_whoever_answers_it,
    );
}
