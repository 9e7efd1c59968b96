//! Connections that break, futures that are dropped, rights that are missing, servers that do not
//! write.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use unanimous_core::ports::{
    Branch, DecisionTable, OnePhaseReply, ResourceManager, RowState, TableErrorKind, TableHome,
};
use unanimous_core::protocol::Decision;
use unanimous_mysql::Mysql;
use unanimous_mysql::mysql_async::Opts;
use unanimous_mysql::mysql_async::prelude::Queryable;
use unanimous_testing::{Wire, WireFault, drop_after};
use xtask::servers::Kind;

use super::support::{PENDING, TableDb, assert_error};
use crate::meddling::{self, Meddling};
use crate::support::{Db, eventually, start};
use crate::trips::{proxy, until_quiet};

/// Whether the request arrived or not: nobody can tell.
async fn a_lost_reply_is_lost(db: &Db) {
    let mut t = TableDb::new(db).await;
    let (wire, url) = Wire::between(&t.db.url).await.unwrap();
    let through = Mysql::builder("ledger", url).build().unwrap();
    t.table = through.decision_table();
    for (sequence, fault) in [(1, WireFault::CutReply), (2, WireFault::CutRequest)] {
        t.table.check().await.unwrap();
        wire.set(fault);
        let says = ["cannot record decisions", "it may have happened"];
        assert_error(t.decide(&[sequence]).await, TableErrorKind::Lost, &says);
        let arrived = fault == WireFault::CutReply;
        if arrived {
            let gtrid = t.row(sequence).gtrid;
            eventually("the request runs on", async || {
                t.state(gtrid).await.is_some()
            })
            .await;
        } else {
            assert_eq!(t.state(t.row(sequence).gtrid).await, None);
        }
        assert_eq!(t.decide(&[sequence]).await.unwrap().answers, [PENDING]);
    }
    wire.set(WireFault::Down);
    let lost = t.decide(&[3]).await;
    assert_error(lost, TableErrorKind::Lost, &[]);
    let not_sent = t.decide(&[3]).await;
    assert_error(not_sent, TableErrorKind::NotSent, &["cannot connect"]);
    wire.set(WireFault::None);
    assert_eq!(t.decide(&[3]).await.unwrap().answers, [PENDING]);
    t.drop_database().await;
}

/// While it waits for a lock, and after each poll.
async fn i7_a_dropped_request_leaves_no_session_behind(db: &Db) {
    let mut t = TableDb::new(db).await;
    let resource = t.db.build(|builder| builder.recovery_sessions(1));
    t.table = resource.decision_table();
    t.table.check().await.unwrap();
    let name = t.db.url.rsplit_once('/').unwrap().1.to_owned();
    let sessions =
        format!("SELECT COUNT(*) FROM information_schema.processlist WHERE db = '{name}'");
    let before: u64 =
        t.db.admin()
            .await
            .query_first(&sessions)
            .await
            .unwrap()
            .unwrap();
    let key = t.row(1).gtrid;
    let holder = t
        .held(&format!(
            "INSERT INTO unanimous_decision (gtrid, epoch, state, branches) \
             VALUES ('{key}', 1, 'R', '')"
        ))
        .await;
    let waiting = tokio::time::timeout(Duration::from_millis(500), t.decide(&[1])).await;
    assert!(waiting.is_err(), "it waits for the key");
    drop(holder);
    for polls in 1.. {
        if let Some(decided) = drop_after(polls, t.decide(&[1])).await {
            assert_eq!(decided.unwrap().answers, [PENDING]);
            break;
        }
    }
    // The one pooled session, and the client that asks.
    eventually("nothing is left of them", async || {
        let mut admin = t.db.admin().await;
        let now: u64 = admin.query_first(&sessions).await.unwrap().unwrap();
        now <= before
    })
    .await;
    t.assert_all_free().await;
    t.drop_database().await;
}

/// Branches whose server does not answer take none of the log's sessions.
async fn i6_recovery_leaves_the_log_its_sessions(db: &Db) {
    let t = TableDb::new(db).await;
    let (url, meddler) = meddling::proxy(&t.db.url, Meddling::Keeps("XA ROLLBACK")).await;
    let resource = Mysql::builder("ledger", url)
        .recovery_sessions(2)
        .pool_timeout(Duration::from_secs(3))
        .build()
        .unwrap();
    let table = resource.decision_table();
    table.check().await.unwrap();
    let mut ending = tokio::task::JoinSet::new();
    for sequence in 1..=2 {
        let (resource, xid) = (resource.clone(), t.db.xid(sequence));
        ending.spawn(async move { resource.finish(&xid, Decision::Rollback, None).await });
    }
    eventually("both wait", async || {
        meddler.kept.load(Ordering::SeqCst) == 2
    })
    .await;
    let decided = table.decide(t.slot(), None, &[t.row(1)]).await;
    assert_eq!(decided.unwrap().answers, [PENDING]);
    table.beat(t.own.opening.epoch).await.unwrap();
    t.drop_database().await;
}

/// Those who wait for a lock have not more.
async fn the_log_has_four_sessions_of_its_own(db: &Db) {
    let t = TableDb::new(db).await;
    let holder = t.held("SELECT 1 FROM unanimous_log FOR UPDATE").await;
    let mut joining = tokio::task::JoinSet::new();
    for random in 0..6 {
        let table = Arc::clone(&t.table);
        joining.spawn(async move { table.join(random, "one of many").await });
    }
    t.waiters(4).await;
    drop(holder);
    for joined in joining.join_all().await {
        joined.unwrap();
    }
    t.drop_database().await;
}

/// Says what to grant; with that, and no more, every method works.
async fn an_account_without_rights_is_told_what_to_grant(db: &Db) {
    let mut t = TableDb::new(db).await;
    let name = t.db.url.rsplit_once('/').unwrap().1.to_owned();
    let user = format!("u_{}", &name[4..]);
    let mut admin = t.db.admin().await;
    let make = format!(
        "CREATE USER '{user}'@'%' IDENTIFIED BY 'pw'; GRANT REFERENCES ON {name}.* TO '{user}'@'%'"
    );
    admin.query_drop(make).await.unwrap();
    let server = t.db.url.rsplit_once('@').unwrap().1;
    let url = format!("mysql://{user}:pw@{server}");
    let resource = Mysql::builder("ledger", url).build().unwrap();
    t.table = resource.decision_table();
    let manager = t.own.opening.manager;
    let identity = format!("GRANT SELECT ON {name}.unanimous_identity TO '{user}'@'%'");
    if t.db.is_mariadb() {
        admin.query_drop(identity).await.unwrap();
    }
    // The administrator's ends the connection whose rights are looked at.
    for recovery in [&t.db.url, &t.db.admin_url] {
        let both = Mysql::builder("ledger", format!("mysql://{user}:pw@{server}"));
        let both = both.recovery_address(recovery.clone()).build().unwrap();
        let all = both.preflight().await.unwrap().findings;
        let finding = all
            .iter()
            .find(|finding| finding.subject == "last resource");
        let mend = &finding.unwrap().mend;
        for right in [
            "GRANT SELECT ON unanimous_epoch",
            "GRANT INSERT ON unanimous_decision",
        ] {
            assert!(mend.contains(right), "{mend}");
        }
    }
    let says = ["grant the account SELECT, INSERT, UPDATE and DELETE"];
    assert_error(t.decide(&[1]).await, TableErrorKind::Refused, &says);
    assert_error(t.table.check().await, TableErrorKind::Refused, &says);
    let tables = "log opening epoch decision heuristic by_hand member";
    for table in tables.split(' ') {
        let rights = "SELECT, INSERT, UPDATE, DELETE";
        let grant = format!("GRANT {rights} ON {name}.unanimous_{table} TO '{user}'@'%'");
        admin.query_drop(grant).await.unwrap();
    }
    t.table = Mysql::builder("ledger", format!("mysql://{user}:pw@{server}"))
        .build()
        .unwrap()
        .decision_table();
    t.table.init(manager).await.unwrap();
    let joined = t.table.join(1, "another").await.unwrap().opening;
    assert_eq!(t.decide(&[1]).await.unwrap().answers, [PENDING]);
    every_method_once(&*t.table, joined).await;
    // Where the tables are not, CREATE is missing.
    t.db.sql("DROP TABLE unanimous_log").await;
    let init = t.table.init(manager).await;
    assert_error(init, TableErrorKind::Refused, &["and CREATE to make them"]);
    let drop_user = format!("DROP USER '{user}'@'%'");
    admin.query_drop(drop_user).await.unwrap();
    t.drop_database().await;
}

async fn every_method_once(table: &dyn DecisionTable, own: unanimous_core::xid::Opening) {
    let gtrid = own.gtrid(1);
    let row = unanimous_core::ports::DecisionRow {
        gtrid,
        branches: "b".to_owned(),
    };
    let at = unanimous_core::ports::EpochSlot {
        epoch: own.epoch,
        slot: 0,
    };
    table.decide(at, None, &[row]).await.unwrap();
    let put = table.put_rollback(own.gtrid(2)).await.unwrap();
    assert_eq!(put, RowState::RolledBack);
    let name = "orders".parse().unwrap();
    table.record_heuristic(gtrid, &name, 'r').await.unwrap();
    let by_hand = unanimous_core::ports::HandRow {
        id: 1,
        gtrid,
        resource: name,
        state: 'I',
        words: "because".to_owned(),
    };
    table.record_by_hand(&by_hand).await.unwrap();
    let ends = table.ends(Some(own.epoch)).await.unwrap();
    assert_eq!(ends.by_hand, [by_hand]);
    assert_eq!(table.decided_at(&[gtrid]).await.unwrap().len(), 1);
    table.complete(&[gtrid]).await.unwrap();
    table.forget(&[gtrid]).await.unwrap();
    table.beat(own.epoch).await.unwrap();
    table.read(own.epoch, Some(own.epoch)).await.unwrap();
    table.find(gtrid, Some(own.epoch)).await.unwrap();
    table.close(own.epoch).await.unwrap();
    assert_eq!(table.closed_for(Duration::ZERO).await.unwrap(), [own.epoch]);
    table.release(own.epoch).await.unwrap();
}

/// Once for every method, on a session of the pool.
async fn every_method_is_one_round_trip(db: &Db) {
    let t = TableDb::new(db).await;
    let (url, commands) = proxy(&t.db.url).await;
    let resource = Mysql::builder("ledger", url).build().unwrap();
    let table = resource.decision_table();
    table.check().await.unwrap();
    until_quiet(&commands).await;
    commands.store(0, std::sync::atomic::Ordering::SeqCst);
    let own = table.join(1, "another").await.unwrap().opening;
    every_method_once(&*table, own).await;
    // With the join: decide, put, note, by hand, ends, when, complete, forget, beat, read, find,
    // close, list and release.
    let taken = commands.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(taken, 15);
    t.drop_database().await;
}

/// An application's function names the database: nothing is known of it before it was asked.
async fn a_table_where_options_are_asked_for(db: &Db) {
    let t = TableDb::new(db).await;
    let url = t.db.url.clone();
    let resource = Mysql::builder_from("ledger", move || {
        let url = url.clone();
        async move { Ok(Opts::from_url(&url)?) }
    });
    let table = resource.build().unwrap().decision_table();
    let early = table.last_statement(t.slot(), &t.row(1));
    assert!(early.starts_with("SIGNAL"), "{early}");
    let refused = t.db.plain().await.query_drop(early).await.unwrap_err();
    assert!(refused.to_string().contains("not known yet"), "{refused}");
    let state = table.check().await.unwrap();
    assert_eq!(state.manager, t.own.opening.manager);
    assert_eq!(table.last_statement(t.slot(), &t.row(1)), t.last(1));
    assert_eq!(table.place(), t.table.place());
    t.drop_database().await;
}

/// On a server that turned read-only, and after it: said, and nothing happened.
async fn a_read_only_server_is_refused(kind: Kind) {
    let server = start(kind, &[]);
    let t = TableDb::of(Db::on(&server).await).await;
    let mut admin = t.db.admin().await;
    admin.query_drop("SET GLOBAL read_only = 1").await.unwrap();
    let says = ["read-only", "connect to the primary"];
    assert_error(t.table.check().await, TableErrorKind::Refused, &says);
    assert_error(t.decide(&[1]).await, TableErrorKind::Refused, &says);
    let own = t.own.opening.epoch;
    let read = t.table.read(own, Some(own)).await;
    assert_error(read, TableErrorKind::Refused, &says);
    assert_error(t.table.close(own).await, TableErrorKind::Refused, &says);
    admin.query_drop("SET GLOBAL read_only = 0").await.unwrap();
    assert_eq!(t.decide(&[1]).await.unwrap().answers, [PENDING]);
    assert!(t.table.check().await.is_ok());
}

/// Nor by an account that may write there all the same, on sessions that were there before: what it
/// decided would be on no other server.
async fn i1_a_server_that_turned_read_only_decides_nothing_for_anybody(kind: Kind) {
    let server = start(kind, &[]);
    let t = TableDb::of(Db::on(&server).await).await;
    let mut admin = t.db.admin().await;
    let right = if t.db.is_mariadb() {
        "READ_ONLY ADMIN"
    } else {
        "CONNECTION_ADMIN"
    };
    let account: String = t.db.one("SELECT CURRENT_USER()").await;
    let (user, host) = account.split_once('@').unwrap();
    let grant = format!("GRANT {right} ON *.* TO '{user}'@'{host}'");
    admin.query_drop(grant).await.unwrap();
    let resource = Mysql::builder("ledger", &t.db.url).build().unwrap();
    let table = resource.decision_table();
    let decide = |sequence| {
        let row = t.row(sequence);
        let (table, at) = (&table, t.slot());
        async move { table.decide(at, None, &[row]).await }
    };
    assert_eq!(decide(1).await.unwrap().answers, [PENDING]);
    let mut last = t.branch(&resource, 2).await;
    admin.query_drop("SET GLOBAL read_only = 1").await.unwrap();
    t.db.plain()
        .await
        .query_drop("CREATE TABLE it_may_write (id INTEGER)")
        .await
        .unwrap();
    let own = t.own.opening.epoch;
    let says = ["the server is read-only", "connect to the primary"];
    let refused = TableErrorKind::Refused;
    assert_error(decide(3).await, refused, &says);
    assert_error(table.beat(own).await, refused, &says);
    assert_error(table.close(own).await, refused, &says);
    let gtrid = t.row(4).gtrid;
    assert_error(table.put_rollback(gtrid).await, refused, &says);
    let forced = table.find(gtrid, Some(own)).await.map(drop);
    assert_error(forced, refused, &says);
    assert_error(table.join(7, "another").await, refused, &says);
    assert_error(table.hold().await.map(drop), refused, &says);
    match last.commit_last(&t.last(2)).await {
        OnePhaseReply::RolledBack(error) => {
            assert!(error.to_string().contains(says[0]), "{error}");
        }
        reply => panic!("{reply:?}"),
    }
    admin.query_drop("SET GLOBAL read_only = 0").await.unwrap();
    for sequence in 2..=4 {
        assert_eq!(t.state(t.row(sequence).gtrid).await, None, "{sequence}");
    }
    assert_eq!(decide(3).await.unwrap().answers, [PENDING]);
}

/// The settings by which what was forced can be lost.
async fn preflight_finds_what_forgets_forced_writes(kind: Kind) {
    let args = [
        "--innodb-flush-log-at-trx-commit=2",
        "--log-bin=binlog",
        "--server-id=1",
        "--sync-binlog=0",
    ];
    let server = start(kind, &args);
    let resource = Mysql::builder("ledger", server.url()).build().unwrap();
    let preflight = resource.preflight().await.unwrap();
    for subject in ["innodb_flush_log_at_trx_commit", "sync_binlog"] {
        let found = preflight.findings.iter().find(|f| f.subject == subject);
        let severity = found.map(|finding| finding.severity);
        assert_eq!(severity, Some(unanimous_core::ports::Severity::Error));
    }
}

/// The tables are gone, the database is gone: each says what to make.
async fn what_is_not_there_is_missing(db: &Db) {
    let t = Arc::new(TableDb::new(db).await);
    t.db.sql("DROP TABLE unanimous_member").await;
    let says = ["make the tables", "own_"];
    assert_error(t.table.check().await, TableErrorKind::Missing, &says);
    let beat = t.table.beat(t.own.opening.epoch).await;
    assert_error(beat, TableErrorKind::Missing, &says);
    t.table.init(t.own.opening.manager).await.unwrap();
    t.table.check().await.unwrap();
    t.drop_database().await;
    let gone = t.decide(&[1]).await;
    assert_error(gone, TableErrorKind::Missing, &[]);
    let other = t.db.build(|builder| builder).decision_table();
    let gone = other.check().await;
    assert_error(
        gone,
        TableErrorKind::Refused,
        &["check the database in the address"],
    );
}

on_both!(
    i6_recovery_leaves_the_log_its_sessions,
    the_log_has_four_sessions_of_its_own,
    a_lost_reply_is_lost,
    i7_a_dropped_request_leaves_no_session_behind,
    an_account_without_rights_is_told_what_to_grant,
    every_method_is_one_round_trip,
    a_table_where_options_are_asked_for,
    what_is_not_there_is_missing,
);

on_own!(
    a_read_only_server_is_refused,
    i1_a_server_that_turned_read_only_decides_nothing_for_anybody,
    preflight_finds_what_forgets_forced_writes,
);
