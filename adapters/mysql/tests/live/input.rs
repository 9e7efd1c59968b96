//! Bad input, line by line: what an application or its operator can get wrong, the error that names
//! it with its mend, and that nothing is lost.

use unanimous_core::ports::{
    Branch, BranchError, BranchErrorKind, Cause, OnePhaseReply, PrepareReply, Problem, Resource,
    ResourceManager, XidOwner,
};
use unanimous_core::protocol::Decision;
use unanimous_mysql::mysql_async::prelude::Queryable;
use unanimous_mysql::{Mysql, MysqlBranch};
use unanimous_testing::{Wire, WireFault};
use xtask::servers::Kind;

use crate::support::{Db, code, eventually, expect_prepared, expect_rolled_back, random, start};

/// Runs a statement in a branch that has inserted row 1, expects `code`, and that the branch votes
/// to roll back with a text that holds `says`.
async fn refused(db: &Db, sql: &str, expected: u16, says: &str) {
    let mut branch = db.active(1).await;
    let error = branch.query_drop(sql).await.unwrap_err();
    assert_eq!(code(&error), expected, "{sql}: {error}");
    assert!(!db.has(1).await, "{sql} has committed it");
    let (cause, vote) = expect_rolled_back(branch.prepare().await);
    assert_eq!(cause, Cause::Refused, "{sql}: {vote}");
    assert!(vote.to_string().contains(says), "{sql}: {vote}");
    assert!(!db.is_listed(1).await && !db.has(1).await, "{sql}");
}

/// Whatever would end the transaction is refused by both servers (1399), and nothing has happened.
/// The branch goes on if the application says so.
async fn a_statement_that_would_end_the_branch_is_refused(db: &Db) {
    let table = &db.table;
    for sql in [
        "COMMIT",
        "COMMIT AND CHAIN",
        "ROLLBACK",
        "ROLLBACK AND CHAIN",
        "BEGIN",
        "START TRANSACTION",
        "START TRANSACTION READ ONLY",
        &format!("TRUNCATE TABLE {table}"),
        &format!("CREATE TABLE {table}_2 (a INT)"),
        &format!("ALTER TABLE {table} ADD COLUMN w INT"),
        &format!("CREATE INDEX i ON {table} (v)"),
        &format!("DROP TABLE {table}"),
        &format!("RENAME TABLE {table} TO {table}_2"),
        &format!("LOCK TABLES {table} WRITE"),
        &format!("ANALYZE TABLE {table}"),
    ] {
        refused(db, sql, 1399, "1399").await;
    }
    let mut branch = db.active(2).await;
    let error = branch.query_drop("COMMIT").await.unwrap_err();
    assert_eq!(code(&error), 1399);
    assert!(branch.statement_error_handled());
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    assert!(db.has(2).await);
}

/// XA by hand with another XID, or out of turn: refused.
async fn another_xa_transaction_inside_the_branch_is_refused(db: &Db) {
    for sql in [
        "XA START 'other'",
        "XA PREPARE 'other'",
        "XA COMMIT 'other'",
        "XA ROLLBACK 'other'",
    ] {
        let mut branch = db.active(1).await;
        let error = branch.query_drop(sql).await.unwrap_err();
        let expected = [1397, 1399, 1400];
        assert!(expected.contains(&code(&error)), "{sql}: {error}");
        let (_, vote) = expect_rolled_back(branch.prepare().await);
        assert!(vote.to_string().contains("XAER"), "{sql}: {vote}");
        assert!(!db.is_listed(1).await && !db.has(1).await, "{sql}");
    }
}

/// XA by hand with the branch's own XID: the adapter sees that the transaction is no longer the one
/// that it has opened. What the hand has committed stays, and no other branch is committed with it.
async fn ending_the_branch_by_hand_is_noticed(db: &Db) {
    let literal = db.literal(1);
    for (sql, is_there) in [
        (format!("XA END {literal}"), false),
        (format!("XA END {literal}; XA PREPARE {literal}"), false),
        (format!("XA END {literal}; XA ROLLBACK {literal}"), false),
        (
            format!("XA END {literal}; XA COMMIT {literal} ONE PHASE"),
            true,
        ),
    ] {
        let mut branch = db.active(1).await;
        branch.query_drop(&sql).await.unwrap();
        let (_, vote) = expect_rolled_back(branch.prepare().await);
        let text = vote.to_string();
        let says = ["has ended the transaction", "refused to end its work"];
        assert!(says.iter().any(|says| text.contains(says)), "{sql}: {text}");
        assert_eq!(db.has(1).await, is_there, "{sql}");
        assert!(!db.is_listed(1).await, "{sql}");
    }
}

/// Session state that a branch changes is its own: neither the branch nor the next one suffers.
async fn session_state_of_a_branch_does_no_harm(db: &Db) {
    let resource = db.build(|builder| builder.pool_size(1));
    for (sequence, sql) in [
        (1, "SET autocommit = 0"),
        (2, "USE information_schema"),
        (3, "SET ROLE NONE"),
        (4, "SET SESSION wait_timeout = 5"),
        (5, "SET SESSION innodb_lock_wait_timeout = 7"),
    ] {
        let mut branch = resource.open(db.env(sequence)).await.unwrap();
        branch.query_drop(sql).await.unwrap();
        let insert = format!("INSERT INTO app.{} VALUES ({sequence}, 'v')", db.table);
        branch.query_drop(insert).await.unwrap();
        expect_prepared(branch.prepare().await);
        branch.commit().await.unwrap();
        Box::new(branch).release().await;
        assert!(db.has(sequence).await, "{sql}");
        let mut next = resource.open(db.env(100 + sequence)).await.unwrap();
        db.insert(&mut next, 100 + sequence).await.unwrap();
        expect_prepared(next.prepare().await);
        next.commit().await.unwrap();
        assert!(db.has(100 + sequence).await, "after {sql}");
    }
}

/// MySQL refuses what cannot be replicated or undone inside XA; the rest of the branch is unharmed.
async fn statements_that_xa_does_not_allow_are_refused_by_their_code(db: &Db) {
    refused(
        db,
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        1568,
        "1568",
    )
    .await;
    refused(db, "SELECT broken", 1054, "statement_error_handled").await;
    refused(db, "INSERT INTO no_such_table VALUES (1)", 1146, "1146").await;
}

/// Healthy again by a savepoint; the error says how to say so.
async fn a_failed_statement_that_a_savepoint_undid_can_be_committed(db: &Db) {
    let mut branch = db.active(1).await;
    branch.query_drop("SAVEPOINT before_it").await.unwrap();
    db.insert(&mut branch, 2).await.unwrap();
    db.insert(&mut branch, 1).await.unwrap_err();
    branch
        .query_drop("ROLLBACK TO SAVEPOINT before_it")
        .await
        .unwrap();
    assert!(branch.statement_error_handled());
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    assert!(db.has(1).await && !db.has(2).await);

    let mut unsaid = db.active(3).await;
    unsaid.query_drop("SAVEPOINT before_it").await.unwrap();
    db.insert(&mut unsaid, 1).await.unwrap_err();
    unsaid
        .query_drop("ROLLBACK TO SAVEPOINT before_it")
        .await
        .unwrap();
    let (_, vote) = expect_rolled_back(unsaid.prepare().await);
    assert!(
        vote.to_string().contains("statement_error_handled"),
        "{vote}"
    );
    assert!(!db.has(3).await);
}

/// What a MyISAM table was given stays there, whatever is decided: documented, and shown here.
async fn a_myisam_table_is_not_rolled_back(db: &Db) {
    let table = format!("{}_m", db.table);
    db.sql(&format!("CREATE TABLE {table} (a INT) ENGINE=MyISAM"))
        .await;
    let mut branch = db.active(1).await;
    branch
        .query_drop(format!("INSERT INTO {table} VALUES (1)"))
        .await
        .unwrap();
    branch.rollback().await.unwrap();
    assert!(!db.has(1).await);
    let left: u64 = db.one(&format!("SELECT COUNT(*) FROM {table}")).await;
    assert_eq!(left, 1);
    db.sql(&format!("DROP TABLE {table}")).await;
}

/// The network goes away at each step: what may have happened is undetermined, and recovery finds
/// it as soon as the server can be reached again.
async fn a_server_that_becomes_unreachable_loses_nothing(db: &Db) {
    let (wire, url) = Wire::between(&db.url).await.unwrap();
    let resource = Mysql::builder("ledger", url).build().unwrap();
    let mut active = resource.open(db.env(1)).await.unwrap();
    db.insert(&mut active, 1).await.unwrap();
    let mut prepared = resource.open(db.env(2)).await.unwrap();
    db.insert(&mut prepared, 2).await.unwrap();
    expect_prepared(prepared.prepare().await);
    wire.set(WireFault::Down);

    let error = resource.open(db.env(3)).await.unwrap_err();
    cannot_open(&error, BranchErrorKind::Unavailable, &["cannot connect"]);
    match active.prepare().await {
        PrepareReply::Undetermined(_) | PrepareReply::RolledBack(_) => {}
        other => panic!("{other:?}"),
    }
    let error = prepared.commit().await.unwrap_err();
    cannot_open(&error, BranchErrorKind::Undetermined, &["cannot commit"]);
    let error = resource.recover().await.unwrap_err();
    assert_eq!(error.problem(), Problem::Unavailable, "{error}");
    let error = resource.finish(&db.xid(2), Decision::Commit, None).await;
    assert_eq!(error.unwrap_err().kind(), BranchErrorKind::Unavailable);
    drop((active, prepared));

    wire.set(WireFault::None);
    eventually("it is listed through the network", async || {
        let scan = resource.recover().await.unwrap();
        let ours = XidOwner::Unanimous(db.xid(2));
        scan.branches.iter().any(|branch| branch.owner == ours)
    })
    .await;
    db.finish(&db.xid(2), Decision::Commit).await;
    assert!(!db.has(1).await && db.has(2).await && !db.is_listed(1).await);
}

fn cannot_open(error: &BranchError, kind: BranchErrorKind, says: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    let text = error.to_string();
    for says in says {
        assert!(text.contains(says), "{says}: {text}");
    }
}

/// A wrong user, database or address: named, with what to do.
async fn an_address_that_leads_nowhere_says_what_to_check(db: &Db) {
    let (login, rest) = db.url.split_once('@').unwrap();
    let host = rest.strip_suffix("/app").unwrap();
    let (_, port) = host.split_once(':').unwrap();
    for (url, kind, says) in [
        (
            db.url.replace("app-secret", "wrong"),
            BranchErrorKind::Failed,
            ["1045", "check user and password"],
        ),
        (
            format!("{login}@{host}/no_such_database"),
            BranchErrorKind::Failed,
            ["no_such_database", "check the database in the address"],
        ),
        (
            format!("{}@{host}/no_such_database", db.admin_login()),
            BranchErrorKind::Failed,
            ["1049", "or create it"],
        ),
        (
            format!("{login}@127.0.0.1:1/app"),
            BranchErrorKind::Unavailable,
            ["cannot connect", "onnection refused"],
        ),
        (
            format!("{login}@no-such-host.invalid:{port}/app"),
            BranchErrorKind::Unavailable,
            ["cannot connect", "cannot connect"],
        ),
    ] {
        let resource = Mysql::builder("ledger", url).build().unwrap();
        let error = resource.open(db.env(1)).await.unwrap_err();
        cannot_open(&error, kind, &says);
        let problem = match kind {
            BranchErrorKind::Failed => Problem::Unfit,
            _ => Problem::Unavailable,
        };
        assert_eq!(resource.preflight().await.unwrap_err().problem(), problem);
        assert_eq!(resource.recover().await.unwrap_err().problem(), problem);
        let ended = resource.finish(&db.xid(1), Decision::Rollback, None).await;
        assert_eq!(ended.unwrap_err().kind(), BranchErrorKind::Unavailable);
    }
}

/// The account's own limit (1226), the server's for every account (1203), and the server's (1040).
async fn a_server_without_a_free_connection_says_what_to_raise(kind: Kind) {
    let server = start(kind, &["--max-user-connections=3"]);
    let db = Db::on(&server).await;
    let resource = db.build(|builder| builder);
    let fill = async || {
        let mut branches: Vec<MysqlBranch> = Vec::new();
        loop {
            match resource.open(db.env(branches.len() as u64)).await {
                Ok(branch) => branches.push(branch),
                Err(error) => return (branches, error),
            }
            assert!(branches.len() < 16, "the limit is lower");
        }
    };
    let end = async |branches: Vec<MysqlBranch>| {
        for mut branch in branches {
            branch.rollback().await.unwrap();
            Box::new(branch).release().await;
        }
    };
    let (mut branches, error) = fill().await;
    cannot_open(
        &error,
        BranchErrorKind::Unavailable,
        &["max_user_connections", "lower pool_size"],
    );
    // Those that are open lose nothing.
    let mut first = branches.remove(0);
    db.insert(&mut first, 1).await.unwrap();
    expect_prepared(first.prepare().await);
    first.commit().await.unwrap();
    drop(first);
    end(branches).await;
    // The limit counts connections that the server is still closing.
    let sql = format!("SELECT COUNT(*) FROM {} WHERE id = 1", db.table);
    let count: Option<u64> = db.admin().await.query_first(sql).await.unwrap();
    assert_eq!(count, Some(1));
}

/// A table that is full, as on a full disk (1114): the branch rolls back, for want of room.
async fn a_full_table_rolls_back_for_want_of_room(db: &Db) {
    let table = format!("{}_full", db.table);
    db.sql(&format!(
        "SET SESSION max_heap_table_size = 16384; \
         CREATE TABLE {table} (a CHAR(200)) ENGINE=MEMORY"
    ))
    .await;
    let mut branch = db.active(1).await;
    let fill = format!(
        "INSERT INTO {table} WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n \
         WHERE i < 900) SELECT i FROM n"
    );
    let error = branch.query_drop(fill).await.unwrap_err();
    assert_eq!(code(&error), 1114, "{error}");
    assert_eq!(db.resource.cause_of(&error), Some(Cause::Exhausted));
    let OnePhaseReply::RolledBack(vote) = branch.commit_one_phase().await else {
        panic!("it was not rolled back")
    };
    assert_eq!(vote.kind(), BranchErrorKind::RolledBack(Cause::Exhausted));
    assert!(!db.has(1).await);
    db.sql(&format!("DROP TABLE {table}")).await;
}

/// MySQL's DDL is refused inside XA; MariaDB's temporary tables are allowed, and gone afterwards.
async fn a_temporary_table_does_not_survive_its_branch(db: &Db) {
    let name = format!("tmp_{:08x}", random() as u32);
    let sql = format!("CREATE TEMPORARY TABLE {name} (a INT)");
    if !db.is_mariadb() {
        refused(db, &sql, 4091, "4091").await;
        return;
    }
    let resource = db.build(|builder| builder.pool_size(1));
    let mut branch = resource.open(db.env(1)).await.unwrap();
    branch.query_drop(&sql).await.unwrap();
    db.insert(&mut branch, 1).await.unwrap();
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    Box::new(branch).release().await;
    let mut next = resource.open(db.env(2)).await.unwrap();
    let error = next
        .query_drop(format!("SELECT * FROM {name}"))
        .await
        .unwrap_err();
    assert_eq!(code(&error), 1146, "{error}");
    next.rollback().await.unwrap();
    assert!(db.has(1).await);
}

on_both!(
    a_statement_that_would_end_the_branch_is_refused,
    another_xa_transaction_inside_the_branch_is_refused,
    ending_the_branch_by_hand_is_noticed,
    session_state_of_a_branch_does_no_harm,
    statements_that_xa_does_not_allow_are_refused_by_their_code,
    a_failed_statement_that_a_savepoint_undid_can_be_committed,
    a_myisam_table_is_not_rolled_back,
    an_address_that_leads_nowhere_says_what_to_check,
    a_server_that_becomes_unreachable_loses_nothing,
    a_full_table_rolls_back_for_want_of_room,
    a_temporary_table_does_not_survive_its_branch,
);
on_own!(a_server_without_a_free_connection_says_what_to_raise);
