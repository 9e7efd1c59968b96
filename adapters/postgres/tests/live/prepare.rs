//! What forbids a prepare, what each refusal means, and that the session is idle afterwards.

use std::time::Duration;

use unanimous_core::ports::{
    Branch, BranchErrorKind, Cause, PrepareReply, Resource, ResourceManager, XidOwner,
};
use unanimous_core::protocol::Decision;
use unanimous_postgres::tokio_postgres::{self, NoTls};
use unanimous_postgres::{Isolation, PgBranch};

use crate::support::{
    Db, backend_pid, eventually, expect_cause, expect_prepared, expect_rolled_back,
    expect_undetermined,
};

/// After a refused prepare the branch is released; its session has to be fit for the next one.
async fn assert_session_is_idle_and_reused(db: &Db, branch: PgBranch, sequence: u64) {
    let pid = backend_pid(&branch).await;
    Box::new(branch).release().await;
    // The wipe goes on in the background: until it is done, branches get other connections. They
    // are kept, so that those do not come back first.
    let mut others = Vec::new();
    eventually("the session is used again", async || {
        let next = db.open(sequence + 100 + others.len() as u64).await;
        let same = backend_pid(&next).await == pid;
        others.push(next);
        same
    })
    .await;
}

async fn a_prepared_branch_is_listed_until_it_is_committed(db: &Db) {
    let (mut branch, record) = db.prepared(1).await;
    assert!(db.is_prepared(1).await && db.is_listed(1).await);
    assert!(!db.has_row(1).await);
    assert!(record.evidence.as_str().starts_with("xid8="));
    branch.commit().await.unwrap();
    assert!(db.has_row(1).await && !db.is_prepared(1).await);
    assert_session_is_idle_and_reused(db, branch, 1).await;
}

async fn every_kind_of_work_that_cannot_be_prepared_is_refused_with_the_reason(db: &Db) {
    let table = &db.table;
    let works = [
        "CREATE TEMP TABLE tmp_of_branch (i int)".to_owned(),
        "CREATE FUNCTION pg_temp.one() RETURNS int LANGUAGE sql AS 'SELECT 1'; \
         SELECT pg_temp.one()"
            .to_owned(),
        "LISTEN a_channel".to_owned(),
        "NOTIFY a_channel".to_owned(),
        "SELECT pg_notify('a_channel', '')".to_owned(),
        format!("DECLARE c CURSOR WITH HOLD FOR SELECT * FROM {table}"),
        "SELECT pg_export_snapshot()".to_owned(),
        "SELECT pg_advisory_lock(4711); SELECT pg_advisory_xact_lock(4711)".to_owned(),
    ];
    for (sequence, work) in (1..).zip(works) {
        let mut branch = db.open_with_row(sequence).await;
        branch.batch_execute(&work).await.unwrap();
        let error = expect_cause(branch.prepare().await, Cause::Refused);
        let text = error.to_string();
        assert!(
            text.contains("0A000") && text.contains("temporary table"),
            "{text}"
        );
        db.assert_nothing_of(sequence).await;
        assert_session_is_idle_and_reused(db, branch, 1000 * sequence).await;
    }
}

/// Reading a temporary table of the session is enough to be refused.
async fn a_mere_read_of_a_temporary_table_is_refused(db: &Db) {
    let setup = "CREATE TEMP TABLE tmp_of_session (i int)";
    let resource = db.build(|builder| builder.session_setup(setup));
    for (sequence, work) in [
        (1, "SELECT * FROM tmp_of_session"),
        (2, "INSERT INTO tmp_of_session VALUES (1)"),
    ] {
        let mut branch = resource.open(db.env(sequence)).await.unwrap();
        db.insert(&branch, sequence).await;
        branch.batch_execute(work).await.unwrap();
        let error = expect_cause(branch.prepare().await, Cause::Refused);
        assert!(error.to_string().contains("0A000"), "{error}");
        db.assert_nothing_of(sequence).await;
    }
}

/// A table of another server, through `postgres_fdw`: a mere read is enough to be refused. It has
/// to be, because what is written there would not be part of the branch.
async fn a_foreign_table_that_was_only_read_is_refused(db: &Db) {
    let table = &db.table;
    let address: tokio_postgres::Config = db.url.parse().unwrap();
    let (port, user) = (address.get_ports()[0], address.get_user().unwrap());
    let password = String::from_utf8(address.get_password().unwrap().to_vec()).unwrap();
    let name = address.get_dbname().unwrap();
    db.admin(&format!(
        "CREATE EXTENSION IF NOT EXISTS postgres_fdw; \
         CREATE SERVER {table}_server FOREIGN DATA WRAPPER postgres_fdw \
         OPTIONS (host '127.0.0.1', port '{port}', dbname '{name}'); \
         CREATE USER MAPPING FOR {user} SERVER {table}_server \
         OPTIONS (user '{user}', password '{password}'); \
         CREATE FOREIGN TABLE {table}_far (id int) SERVER {table}_server \
         OPTIONS (table_name '{table}'); GRANT SELECT ON {table}_far TO {user}"
    ))
    .await;
    let mut branch = db.open_with_row(1).await;
    let read = format!("SELECT count(*) FROM {table}_far");
    branch.batch_execute(&read).await.unwrap();
    let error = expect_cause(branch.prepare().await, Cause::Refused);
    assert!(error.to_string().contains("0A000"), "{error}");
    db.assert_nothing_of(1).await;
    drop(branch);
    db.admin(&format!("DROP SERVER {table}_server CASCADE"))
        .await;
}

async fn work_that_looks_alike_can_be_prepared(db: &Db) {
    let table = &db.table;
    let works = [
        "SELECT pg_advisory_lock(4712)".to_owned(),
        "SELECT pg_advisory_xact_lock(4713)".to_owned(),
        "UNLISTEN *".to_owned(),
        format!("DECLARE c CURSOR FOR SELECT * FROM {table}"),
        format!("CREATE TABLE {table}_2 (i int); TRUNCATE {table}_2; DROP TABLE {table}_2"),
        "SET statement_timeout = 0".to_owned(),
    ];
    for (sequence, work) in (1..).zip(works) {
        let mut branch = db.open_with_row(sequence).await;
        branch.batch_execute(&work).await.unwrap();
        expect_prepared(branch.prepare().await);
        branch.rollback().await.unwrap();
        db.assert_nothing_of(sequence).await;
        Box::new(branch).release().await;
    }
}

async fn a_gid_that_is_prepared_already_is_a_duplicate_and_is_left_alone(db: &Db) {
    let gid = db.gid(1);
    let twin = format!(
        "BEGIN; CREATE TABLE {}_twin (i int); PREPARE TRANSACTION '{gid}'",
        db.table
    );
    db.sql(&twin).await;
    let mut branch = db.open_with_row(1).await;
    let error = expect_rolled_back(branch.prepare().await);
    assert_eq!(error.kind(), BranchErrorKind::DuplicateXid, "{error}");
    assert!(db.is_prepared(1).await, "the twin is as it was");
    db.sql(&format!("ROLLBACK PREPARED '{gid}'")).await;
    db.assert_nothing_of(1).await;
    assert_session_is_idle_and_reused(db, branch, 1).await;
}

async fn a_deferred_constraint_refuses_at_prepare(db: &Db) {
    let table = &db.table;
    db.sql(&format!(
        "CREATE TABLE {table}_child (id int REFERENCES {table} DEFERRABLE INITIALLY DEFERRED)"
    ))
    .await;
    let mut branch = db.open_with_row(1).await;
    let orphan = format!("INSERT INTO {table}_child VALUES (999)");
    branch.batch_execute(&orphan).await.unwrap();
    let error = expect_cause(branch.prepare().await, Cause::Refused);
    assert!(error.to_string().contains("23503"), "{error}");
    db.assert_nothing_of(1).await;
    assert_session_is_idle_and_reused(db, branch, 1).await;
    db.sql(&format!("DROP TABLE {table}_child")).await;
}

/// A trigger that runs `body` at the very end of the transaction.
pub(crate) async fn deferred_trigger(db: &Db, body: &str) {
    let table = &db.table;
    db.sql(&format!(
        "SET synchronous_commit = local; \
         CREATE FUNCTION {table}_at_end() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN {body}; RETURN NULL; END $$; \
         CREATE CONSTRAINT TRIGGER at_end AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION {table}_at_end()"
    ))
    .await;
}

pub(crate) async fn drop_trigger(db: &Db) {
    let table = &db.table;
    db.sql(&format!("DROP FUNCTION {table}_at_end() CASCADE"))
        .await;
}

async fn an_error_of_the_applications_own_code_at_prepare_is_a_refusal(db: &Db) {
    deferred_trigger(db, "RAISE EXCEPTION 'no' USING ERRCODE = 'P0042'").await;
    let mut branch = db.open_with_row(1).await;
    let error = expect_cause(branch.prepare().await, Cause::Refused);
    assert!(error.to_string().contains("P0042"), "{error}");
    db.assert_nothing_of(1).await;
    assert_session_is_idle_and_reused(db, branch, 1).await;
    drop_trigger(db).await;
}

async fn a_serialization_failure_at_prepare_is_a_conflict(db: &Db) {
    let resource = db.build(|builder| builder.isolation(Isolation::Serializable));
    db.sql(&format!(
        "INSERT INTO {} VALUES (100, 'a'), (200, 'b')",
        db.table
    ))
    .await;
    let mut one = resource.open(db.env(1)).await.unwrap();
    let mut two = resource.open(db.env(2)).await.unwrap();
    // Write skew: each reads what the other writes.
    for (branch, writes) in [(&one, 100), (&two, 200)] {
        let read = format!("SELECT count(*) FROM {} WHERE v <> 'done'", db.table);
        branch.query_one(&read, &[]).await.unwrap();
        let write = format!("UPDATE {} SET v = 'done' WHERE id = {writes}", db.table);
        branch.batch_execute(&write).await.unwrap();
    }
    expect_prepared(one.prepare().await);
    let error = expect_cause(two.prepare().await, Cause::Conflict);
    assert!(error.to_string().contains("40001"), "{error}");
    assert!(!db.is_prepared(2).await);
    one.rollback().await.unwrap();
}

async fn a_cancelled_prepare_is_rolled_back(db: &Db) {
    deferred_trigger(db, "PERFORM pg_sleep(60)").await;
    let mut branch = db.open_with_row(1).await;
    let pid = backend_pid(&branch).await;
    let prepare = tokio::spawn(async move { (branch.prepare().await, branch) });
    during_sleep(db, pid).await;
    db.sql(&format!("SELECT pg_cancel_backend({pid})")).await;
    let (reply, branch) = prepare.await.unwrap();
    let error = expect_cause(reply, Cause::Timeout);
    assert!(error.to_string().contains("57014"), "{error}");
    db.assert_nothing_of(1).await;
    drop_trigger(db).await;
    assert_session_is_idle_and_reused(db, branch, 1).await;
}

/// FATAL is a database error to the driver, whose `is_closed` says no: it proves nothing.
async fn a_session_that_is_ended_during_prepare_is_undetermined(db: &Db) {
    deferred_trigger(db, "PERFORM pg_sleep(60)").await;
    let mut branch = db.open_with_row(1).await;
    let pid = backend_pid(&branch).await;
    let prepare = tokio::spawn(async move { (branch.prepare().await, branch) });
    during_sleep(db, pid).await;
    db.sql(&format!("SELECT pg_terminate_backend({pid})")).await;
    let (reply, mut branch) = prepare.await.unwrap();
    let error = expect_undetermined(reply);
    assert!(error.to_string().contains("57P01"), "{error}");
    branch.commit().await.unwrap_err();
    branch.rollback().await.unwrap_err();
    db.wait_gone(pid).await;
    db.assert_nothing_of(1).await;
    drop_trigger(db).await;
}

/// Waits until the session sleeps, in a statement or in the trigger that its end fires.
pub(crate) async fn during_sleep(db: &Db, pid: i32) {
    let asleep =
        format!("SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'");
    eventually("the statement is under way", async || {
        !db.sql(&asleep).await.is_empty()
    })
    .await;
}

/// A lost connection *before* prepare is a certain rollback: nothing was sent.
async fn a_session_that_was_ended_before_prepare_is_rolled_back(db: &Db) {
    let mut branch = db.open_with_row(1).await;
    let pid = backend_pid(&branch).await;
    db.sql(&format!("SELECT pg_terminate_backend({pid}, 5000)"))
        .await;
    eventually("the driver notices", async || branch.is_closed()).await;
    let error = expect_cause(branch.prepare().await, Cause::Unreachable);
    assert!(error.to_string().contains("57P01"), "{error}");
    db.assert_nothing_of(1).await;
}

async fn what_is_asked_in_the_wrong_state_is_refused(db: &Db) {
    let mut branch = db.open_with_row(1).await;
    let error = branch.commit().await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::WrongState);
    // A request that found the branch elsewhere changes nothing.
    expect_prepared(branch.prepare().await);
    let error = expect_wrong_state(branch.prepare().await);
    assert!(error.contains("Prepared"), "{error}");
    branch.commit().await.unwrap();
    assert!(db.has_row(1).await);
}

fn expect_wrong_state(reply: PrepareReply) -> String {
    match reply {
        PrepareReply::Undetermined(error) => {
            assert_eq!(error.kind(), BranchErrorKind::WrongState);
            error.to_string()
        }
        other => panic!("{other:?}"),
    }
}

/// A prepare that is given up at its deadline leaves a branch whose drop closes the connection and
/// cancels what runs there. It may have been prepared before the cancel came: nothing is concluded.
async fn a_prepare_that_is_given_up_leaves_no_session(db: &Db) {
    deferred_trigger(db, "PERFORM pg_sleep(60)").await;
    let mut branch = db.open_with_row(1).await;
    let pid = backend_pid(&branch).await;
    let given_up = tokio::time::timeout(Duration::from_millis(300), branch.prepare()).await;
    assert!(given_up.is_err());
    branch.commit().await.unwrap_err();
    drop(branch);
    db.wait_gone(pid).await;
    db.assert_nothing_of(1).await;
    drop_trigger(db).await;
}

/// Whose process dies cannot cancel: its prepare goes on, and surfaces when nobody waits for it.
async fn a_prepare_whose_process_dies_surfaces_later(db: &Db) {
    deferred_trigger(db, "PERFORM pg_sleep(1)").await;
    let text = format!(
        "BEGIN; INSERT INTO {} VALUES (1, 'v'); PREPARE TRANSACTION '{}'",
        db.table,
        db.gid(1)
    );
    let (client, connection) = tokio_postgres::connect(&db.url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let prepare = tokio::time::timeout(Duration::from_millis(300), client.batch_execute(&text));
    assert!(prepare.await.is_err());
    connection.abort();
    drop(client);
    // A scan now sees nothing, and proves nothing.
    let first = db.resource.recover().await.unwrap();
    let own = XidOwner::Unanimous(db.xid(1));
    assert!(first.branches.iter().all(|branch| branch.owner != own));
    eventually("it surfaces", async || db.is_listed(1).await).await;
    db.resource
        .finish(&db.xid(1), Decision::Rollback, None)
        .await
        .unwrap();
    drop_trigger(db).await;
}

/// The application's own warning has the code of the server's about its standbys.
async fn a_warning_of_the_applications_own_code_is_no_doubt(db: &Db) {
    deferred_trigger(db, "RAISE WARNING 'all is well'").await;
    let mut branch = db.open_with_row(1).await;
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    drop_trigger(db).await;
}

on_both!(
    a_warning_of_the_applications_own_code_is_no_doubt,
    a_prepared_branch_is_listed_until_it_is_committed,
    every_kind_of_work_that_cannot_be_prepared_is_refused_with_the_reason,
    a_mere_read_of_a_temporary_table_is_refused,
    a_foreign_table_that_was_only_read_is_refused,
    work_that_looks_alike_can_be_prepared,
    a_gid_that_is_prepared_already_is_a_duplicate_and_is_left_alone,
    a_deferred_constraint_refuses_at_prepare,
    an_error_of_the_applications_own_code_at_prepare_is_a_refusal,
    a_serialization_failure_at_prepare_is_a_conflict,
    a_cancelled_prepare_is_rolled_back,
    a_session_that_is_ended_during_prepare_is_undetermined,
    a_session_that_was_ended_before_prepare_is_rolled_back,
    what_is_asked_in_the_wrong_state_is_refused,
    a_prepare_that_is_given_up_leaves_no_session,
    a_prepare_whose_process_dies_surfaces_later,
);
