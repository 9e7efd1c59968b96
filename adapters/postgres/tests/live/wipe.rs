//! What a branch leaves in its session is gone before the next one gets it (I8).

use std::time::Duration;

use unanimous_core::ports::{Branch, BranchEnv, BranchErrorKind, Resource, ResourceManager};
use unanimous_postgres::{PgBranch, Postgres};
use unanimous_testing::{Wire, WireFault};

use crate::support::{Db, backend_pid, eventually, expect_prepared, random};

/// One connection only, so that the next branch has to get the same session.
fn single(db: &Db) -> Postgres {
    db.build(|builder| builder.pool_size(1))
}

async fn i8_session_state_does_not_reach_the_next_branch(db: &Db) {
    let role = format!("role_{:016x}", random());
    db.admin(&format!("CREATE ROLE {role}; GRANT {role} TO app"))
        .await;
    let resource = single(db);
    let mut branch = resource.open(db.env(1)).await.unwrap();
    let pid = backend_pid(&branch).await;
    branch
        .batch_execute(&format!(
            "SET search_path = pg_catalog; SET my.own = 'x'; SET statement_timeout = '1h'; \
             SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE; \
             SELECT pg_advisory_lock(4730); PREPARE \"By Sql\" AS SELECT 1; SET ROLE {role}"
        ))
        .await
        .unwrap();
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    Box::new(branch).release().await;

    let next = resource.open(db.env(2)).await.unwrap();
    assert_eq!(backend_pid(&next).await, pid, "the session is used again");
    for (question, answer) in [
        ("SHOW search_path", "\"$user\", public"),
        ("SELECT coalesce(current_setting('my.own', true), '')", ""),
        ("SHOW statement_timeout", "0"),
        ("SHOW default_transaction_isolation", "read committed"),
        ("SELECT current_user::text", "app"),
        (
            "SELECT count(*)::text FROM pg_prepared_statements WHERE from_sql",
            "0",
        ),
        (
            "SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory' \
             AND pid = pg_backend_pid()",
            "0",
        ),
    ] {
        let row = next.query_one(question, &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), answer, "{question}");
    }
    drop(next);
    db.admin(&format!("DROP ROLE {role}")).await;
}

/// What cannot be prepared stays in the session just the same when it was committed in one phase.
async fn i8_temporary_tables_cursors_and_listening_are_wiped_after_one_phase(db: &Db) {
    let resource = single(db);
    let mut branch = resource.open(db.env(1)).await.unwrap();
    let pid = backend_pid(&branch).await;
    branch
        .batch_execute(
            "CREATE TEMP TABLE left_over (i int); LISTEN left_over; \
             DECLARE left_over CURSOR WITH HOLD FOR SELECT 1",
        )
        .await
        .unwrap();
    branch.commit_one_phase().await;
    Box::new(branch).release().await;
    let next = resource.open(db.env(2)).await.unwrap();
    assert_eq!(backend_pid(&next).await, pid);
    for question in [
        "SELECT count(*) FROM pg_class WHERE relname = 'left_over'",
        "SELECT count(*) FROM pg_listening_channels()",
        "SELECT count(*) FROM pg_cursors WHERE name = 'left_over'",
    ] {
        assert_eq!(
            next.query_one(question, &[])
                .await
                .unwrap()
                .get::<_, i64>(0),
            0,
            "{question}"
        );
    }
}

/// The driver keeps statements of its own prepared to look up types; they have to survive.
async fn the_drivers_own_statements_survive_the_wipe(db: &Db) {
    let resource = single(db);
    let kind = format!("kind_{:016x}", random());
    db.sql(&format!("CREATE TYPE {kind} AS ENUM ('a', 'b')"))
        .await;
    for sequence in 1..=3 {
        let mut branch: PgBranch = resource.open(db.env(sequence)).await.unwrap();
        let row = branch
            .query_one(&format!("SELECT 'a'::{kind}::text, 'b'::{kind}"), &[])
            .await;
        assert_eq!(row.unwrap().get::<_, String>(0), "a");
        branch.rollback().await.unwrap();
        Box::new(branch).release().await;
    }
    db.sql(&format!("DROP TYPE {kind}")).await;
}

/// Plans are kept, and are not what a branch left: under another path the server makes them anew.
async fn a_plan_that_is_kept_is_made_anew_where_it_does_not_fit(db: &Db) {
    let (resource, table) = (single(db), &db.table);
    db.sql(&format!(
        "CREATE SCHEMA s_{table}; CREATE TABLE s_{table}.{table} (id integer, v text); \
         INSERT INTO s_{table}.{table} VALUES (1, 'there'); \
         INSERT INTO {table} VALUES (1, 'here'); \
         CREATE FUNCTION s_{table}.look() RETURNS text LANGUAGE plpgsql AS \
         $$ DECLARE found text; BEGIN SELECT v INTO found FROM {table}; RETURN found; END $$"
    ))
    .await;
    for (sequence, path, seen) in [
        (1, "public".to_owned(), "here"),
        (2, format!("s_{table}"), "there"),
        (3, "public".to_owned(), "here"),
    ] {
        let mut branch = resource.open(db.env(sequence)).await.unwrap();
        let set = format!("SET search_path = {path}");
        branch.batch_execute(&set).await.unwrap();
        let look = format!("SELECT s_{table}.look()");
        let row = branch.query_one(&look, &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), seen);
        expect_prepared(branch.prepare().await);
        branch.commit().await.unwrap();
        Box::new(branch).release().await;
    }
    db.sql(&format!("DROP SCHEMA s_{table} CASCADE")).await;
}

/// A release in any other state than "its end is known" closes the connection.
async fn i8_a_branch_whose_end_is_not_known_is_not_pooled(db: &Db) {
    let resource = single(db);
    let mut branch = resource.open(db.env(1)).await.unwrap();
    let pid = backend_pid(&branch).await;
    expect_prepared(branch.prepare().await);
    Box::new(branch).release().await;
    db.wait_gone(pid).await;
    let next = resource.open(db.env(2)).await.unwrap();
    assert_ne!(backend_pid(&next).await, pid);
    drop(next);
    db.clean_prepared(1).await;
}

async fn a_pool_that_is_used_up_says_so(db: &Db) {
    let resource = db.build(|builder| {
        builder
            .pool_size(1)
            .pool_timeout(Duration::from_millis(100))
    });
    let first = resource.open(db.env(1)).await.unwrap();
    let error = resource.open(db.env(2)).await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("raise pool_size"), "{error}");
    drop(first);
    resource.open(db.env(3)).await.unwrap();
}

/// Branches that hold every connection do not keep recovery from ending others.
async fn i6_recovery_works_while_the_pool_is_used_up(db: &Db) {
    let resource = single(db);
    let mut branch = resource.open(db.env(1)).await.unwrap();
    expect_prepared(branch.prepare().await);
    drop(branch);
    let holder = resource.open(db.env(2)).await.unwrap();
    resource.recover().await.unwrap();
    let xid = db.xid(1);
    resource
        .finish(&xid, unanimous_core::protocol::Decision::Rollback, None)
        .await
        .unwrap();
    assert!(!db.is_prepared(1).await);
    drop(holder);
}

/// Dropping every clone of the resource ends its sessions.
async fn a_resource_that_is_dropped_closes_its_connections(db: &Db) {
    let resource = single(db);
    let mut branch = resource.open(db.env(1)).await.unwrap();
    let pid = backend_pid(&branch).await;
    branch.rollback().await.unwrap();
    Box::new(branch).release().await;
    let name = format!("SELECT application_name FROM pg_stat_activity WHERE pid = {pid}");
    eventually("it is wiped", async || {
        db.sql(&name).await == [["unanimous"]]
    })
    .await;
    drop(resource);
    db.wait_gone(pid).await;
}

/// Polls `ended` to its end, and hands its answer out only when the server has the wipe of the
/// session, too: whoever sends that behind the answer never comes to it.
async fn ended_and_wiped<T>(db: &Db, wire: &Wire, pid: i32, ended: impl Future<Output = T>) -> T {
    wire.set(WireFault::HoldReplies);
    let question =
        format!("SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND query LIKE 'CLOSE ALL;%'");
    let seen = eventually("the wipe is sent with the end", async || {
        !db.sql(&question).await.is_empty()
    });
    let answer = async {
        seen.await;
        wire.set(WireFault::None);
    };
    tokio::join!(ended, answer).0
}

/// Begin, work, prepare, commit: as many as by hand. All on one connection: a request to cancel
/// would be counted, whenever it comes.
#[tokio::test]
async fn the_wipe_takes_no_round_trip_of_its_own() {
    let db = Db::shared(xtask::servers::Kind::PostgresNewest).await;
    let (wire, url) = Wire::between(&db.url).await.unwrap();
    let resource = Postgres::builder("orders", url)
        .pool_size(1)
        .build()
        .unwrap();
    let mut branch = resource.open(db.env(1)).await.unwrap();
    let pid = backend_pid(&branch).await;
    branch.rollback().await.unwrap();
    Box::new(branch).release().await;
    // Waits until the only session is wiped, as each of the next does.
    let mut branch = resource.open(db.env(2)).await.unwrap();
    for sequence in 2..=4 {
        let trips = wire.round_trips() - 1;
        db.insert_by_text(&branch, sequence).await;
        expect_prepared(branch.prepare().await);
        let committed = ended_and_wiped(&db, &wire, pid, branch.commit()).await;
        committed.unwrap();
        Box::new(branch).release().await;
        branch = resource.open(db.env(sequence + 1)).await.unwrap();
        assert_eq!(wire.round_trips() - trips, 5, "four, and the next BEGIN");
    }
    branch.rollback().await.unwrap();
    Box::new(branch).release().await;
    // Begin, work, end: so it is for a reader. What is rolled back is wiped afterwards.
    for (sequence, read_only) in [(6, true), (7, false), (8, false)] {
        let env = BranchEnv {
            read_only,
            ..db.env(sequence)
        };
        let mut branch = resource.open(env).await.unwrap();
        let trips = wire.round_trips() - 1;
        branch.batch_execute("SELECT 1").await.unwrap();
        if read_only {
            let ended = ended_and_wiped(&db, &wire, pid, branch.end_read_only()).await;
            ended.unwrap();
        } else {
            branch.rollback().await.unwrap();
        }
        Box::new(branch).release().await;
        let mut next = resource.open(db.env(sequence + 100)).await.unwrap();
        let expected = if read_only { 4 } else { 5 };
        assert_eq!(wire.round_trips() - trips, expected, "with the next BEGIN");
        next.rollback().await.unwrap();
        Box::new(next).release().await;
    }
    db.clean().await;
}

/// A request to cancel is a connection of its own, and what is prepared has nothing to cancel.
async fn a_prepared_branch_that_is_dropped_cancels_nothing(db: &Db) {
    let (wire, url) = Wire::between(&db.url).await.unwrap();
    let resource = Postgres::builder("orders", url).build().unwrap();
    let mut branch = resource.open(db.env(1)).await.unwrap();
    let pid = backend_pid(&branch).await;
    expect_prepared(branch.prepare().await);
    let trips = wire.round_trips();
    drop(branch);
    db.wait_gone(pid).await;
    assert_eq!(wire.round_trips(), trips);
    db.clean_prepared(1).await;
}

on_both!(
    i8_session_state_does_not_reach_the_next_branch,
    i8_temporary_tables_cursors_and_listening_are_wiped_after_one_phase,
    the_drivers_own_statements_survive_the_wipe,
    i8_a_branch_whose_end_is_not_known_is_not_pooled,
    a_pool_that_is_used_up_says_so,
    i6_recovery_works_while_the_pool_is_used_up,
    a_resource_that_is_dropped_closes_its_connections,
    a_prepared_branch_that_is_dropped_cancels_nothing,
    a_plan_that_is_kept_is_made_anew_where_it_does_not_fit,
);
