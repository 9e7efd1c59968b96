//! What people do wrong: each is told by an error that names the thing and what mends it, and
//! loses nothing. More of it, each beside what it is about: `guard`, `prepare`, `attack`,
//! `settings`, `credentials`, `tls`, `preflight`.

use unanimous_core::ports::{
    Branch, BranchErrorKind, Cause, OnePhaseReply, Problem, Resource, ResourceManager, XidOwner,
};
use unanimous_core::protocol::Decision;
use unanimous_postgres::Postgres;
use unanimous_testing::{Wire, WireFault};

use crate::support::{
    Db, backend_pid, eventually, expect_cause, expect_prepared, expect_undetermined, random, whole,
};

/// PostgreSQL only warns, and so it does no harm.
async fn a_begin_in_a_branch_does_no_harm(db: &Db) {
    let mut branch = db.open_with_row(1).await;
    branch.batch_execute("BEGIN").await.unwrap();
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    assert!(db.has_row(1).await);
}

/// Prepared by hand, under another name or under ours: the branch votes to roll back. What has our
/// name is ended by recovery, what has another is nobody's but his who gave it.
async fn a_prepare_by_hand_is_told_and_left_to_recovery_or_its_owner(db: &Db) {
    let foreign = format!("by_hand_{:016x}", random());
    let mut branch = db.open_with_row(1).await;
    let text = format!("PREPARE TRANSACTION '{foreign}'");
    branch.batch_execute(&text).await.unwrap();
    let error = expect_cause(branch.prepare().await, Cause::RollbackOnly);
    assert!(error.to_string().contains("PREPARE TRANSACTION"), "{error}");
    let mut own = db.open_with_row(2).await;
    let text = format!("PREPARE TRANSACTION '{}'", db.gid(2));
    own.batch_execute(&text).await.unwrap();
    expect_cause(own.prepare().await, Cause::RollbackOnly);

    let scan = db.resource.recover().await.unwrap();
    let of = |owner: XidOwner| scan.branches.iter().any(|branch| branch.owner == owner);
    assert!(of(XidOwner::Foreign(foreign.clone())));
    assert!(of(XidOwner::Unanimous(db.xid(2))));
    let rolled_back = db
        .resource
        .finish(&db.xid(2), Decision::Rollback, None)
        .await;
    rolled_back.unwrap();
    db.assert_nothing_of(2).await;
    db.sql(&format!("COMMIT PREPARED '{foreign}'")).await;
    assert!(db.has_row(1).await, "it was his, and is not lost");
}

async fn a_failed_statement_that_a_savepoint_undid_is_forgotten(db: &Db) {
    for id in 1..=2 {
        let mut branch = db.open_with_row(id).await;
        branch.batch_execute("SAVEPOINT before").await.unwrap();
        let again = format!("INSERT INTO {} VALUES ({id}, 'again')", db.table);
        branch.batch_execute(&again).await.unwrap_err();
        let undo = "ROLLBACK TO before";
        branch.batch_execute(undo).await.unwrap();
        if id == 1 {
            expect_prepared(branch.prepare().await);
            branch.commit().await.unwrap();
        } else {
            let reply = branch.commit_one_phase().await;
            assert!(matches!(reply, OnePhaseReply::Committed), "{reply:?}");
        }
        assert!(db.has_row(id).await);
    }
}

/// Writes through `dblink` are on a connection of the server's own: no part of the branch.
async fn what_dblink_writes_is_no_part_of_the_branch(db: &Db) {
    let address: postgres::Config = db.url.parse().unwrap();
    let password = String::from_utf8(address.get_password().unwrap().to_vec()).unwrap();
    let way = format!(
        "host=127.0.0.1 port={} dbname={} user={} password={password}",
        address.get_ports()[0],
        address.get_dbname().unwrap(),
        address.get_user().unwrap()
    );
    db.admin("CREATE EXTENSION IF NOT EXISTS dblink").await;
    let mut branch = db.open_with_row(1).await;
    let write = format!("INSERT INTO {} VALUES (2, ''far'')", db.table);
    branch
        .batch_execute(&format!("SELECT dblink_exec('{way}', '{write}')"))
        .await
        .unwrap();
    expect_prepared(branch.prepare().await);
    branch.rollback().await.unwrap();
    assert!(!db.has_row(1).await);
    assert!(
        db.has_row(2).await,
        "documented: it is committed on its own"
    );
}

/// The network is gone: at open, before prepare, at the end, and for recovery. Each says where and
/// why, and when it is back nothing is lost.
async fn an_unreachable_server_is_told_at_every_step_and_loses_nothing(db: &Db) {
    let (wire, url) = Wire::between(&db.url).await.unwrap();
    let resource = Postgres::builder("orders", url).build().unwrap();
    let mut active = resource.open(db.env(1)).await.unwrap();
    db.insert(&active, 1).await;
    let mut prepared = resource.open(db.env(2)).await.unwrap();
    db.insert(&prepared, 2).await;
    let pid = backend_pid(&prepared).await;
    expect_prepared(prepared.prepare().await);
    wire.set(WireFault::Down);
    eventually("both are cut", async || {
        active.is_closed() && prepared.is_closed()
    })
    .await;

    let opened = resource.open(db.env(3)).await.unwrap_err();
    assert_eq!(opened.kind(), BranchErrorKind::Unavailable, "{opened}");
    let refused = expect_cause(active.prepare().await, Cause::Unreachable);
    let lost = prepared.commit().await.unwrap_err();
    assert_eq!(lost.kind(), BranchErrorKind::Undetermined, "{lost}");
    let scanned = resource.recover().await.unwrap_err();
    assert_eq!(scanned.problem(), Problem::Unavailable, "{scanned}");
    let finished = resource.finish(&db.xid(2), Decision::Commit, None).await;
    let finished = finished.unwrap_err();
    assert_eq!(finished.kind(), BranchErrorKind::Unavailable, "{finished}");
    for (error, asked) in [
        (opened.to_string(), "cannot open a branch"),
        (refused.to_string(), "cannot prepare"),
        (lost.to_string(), "cannot commit the prepared branch"),
        (scanned.to_string(), "cannot list what is prepared"),
        (finished.to_string(), "cannot commit a prepared branch"),
    ] {
        assert!(error.starts_with("resource orders: "), "{error}");
        assert!(error.contains(asked), "{error}");
    }

    wire.set(WireFault::None);
    db.wait_gone(pid).await;
    resource
        .finish(&db.xid(2), Decision::Commit, None)
        .await
        .unwrap();
    assert!(db.has_row(2).await);
    db.assert_nothing_of(1).await;
}

/// Nobody listens at all, and a name that nobody has.
async fn an_address_at_which_nobody_is_is_told(db: &Db) {
    for url in [
        "postgres://app@127.0.0.1:1/app",
        "postgres://app@nobody.invalid/app",
    ] {
        let resource = Postgres::builder("orders", url).build().unwrap();
        let error = resource.open(db.env(1)).await.unwrap_err();
        assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{error}");
        assert!(
            error.to_string().contains("error connecting to server: "),
            "{error}"
        );
        let error = resource.preflight().await.unwrap_err();
        assert_eq!(error.problem(), Problem::Unavailable, "{error}");
    }
}

async fn used_up_connections_are_told_with_the_mend(db: &Db) {
    let role = format!("one_{:016x}", random());
    db.admin(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'x' CONNECTION LIMIT 1"
    ))
    .await;
    let url = db.url.replace("app:app-secret", &format!("{role}:x"));
    let resource = Postgres::builder("orders", url).build().unwrap();
    let first = resource.open(db.env(1)).await.unwrap();
    let error = resource.open(db.env(2)).await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("53300") && text.contains("CONNECTION LIMIT"),
        "{text}"
    );
    first.batch_execute("SELECT 1").await.unwrap();
    drop((first, resource));
    eventually("the role is free", async || {
        let gone = format!("SELECT 1 FROM pg_stat_activity WHERE usename = '{role}'");
        db.admin(&gone).await.is_empty()
    })
    .await;
    db.admin(&format!("DROP ROLE {role}")).await;
}

/// The server's code and message, and not its detail, which quotes the row.
async fn i8_an_error_shows_code_and_message_and_no_row(db: &Db) {
    let table = &db.table;
    db.sql(&format!(
        "ALTER TABLE {table} ADD UNIQUE (v) DEFERRABLE INITIALLY DEFERRED; \
         INSERT INTO {table} VALUES (100, 's3cret')"
    ))
    .await;
    let mut branch = db.open(1).await;
    let twin = format!("INSERT INTO {table} VALUES (1, 's3cret')");
    branch.batch_execute(&twin).await.unwrap();
    let error = expect_cause(branch.prepare().await, Cause::Refused);
    let text = error.to_string();
    assert!(
        text.contains("23505") && text.contains("duplicate key"),
        "{text}"
    );
    assert!(
        !text.contains("s3cret") && !text.contains("db error"),
        "{text}"
    );
    // The driver's own error is kept as the source, for the application to look into.
    assert!(whole(&error).contains("s3cret"));
    db.assert_nothing_of(1).await;
}

/// A request whose answer is lost is told as such, with what was asked.
async fn i3_a_lost_answer_says_what_was_asked(db: &Db) {
    let (wire, url) = Wire::between(&db.url).await.unwrap();
    let resource = Postgres::builder("orders", url).build().unwrap();
    let mut branch = resource.open(db.env(1)).await.unwrap();
    db.insert_by_text(&branch, 1).await;
    wire.set(WireFault::CutReply);
    let error = expect_undetermined(branch.prepare().await);
    assert!(
        error
            .to_string()
            .contains("cannot prepare: connection closed"),
        "{error}"
    );
    drop(branch);
    eventually("it is listed", async || db.is_listed(1).await).await;
    resource
        .finish(&db.xid(1), Decision::Rollback, None)
        .await
        .unwrap();
    db.assert_nothing_of(1).await;
}

on_both!(
    a_begin_in_a_branch_does_no_harm,
    a_prepare_by_hand_is_told_and_left_to_recovery_or_its_owner,
    a_failed_statement_that_a_savepoint_undid_is_forgotten,
    what_dblink_writes_is_no_part_of_the_branch,
    an_unreachable_server_is_told_at_every_step_and_loses_nothing,
    an_address_at_which_nobody_is_is_told,
    used_up_connections_are_told_with_the_mend,
    i8_an_error_shows_code_and_message_and_no_row,
    i3_a_lost_answer_says_what_was_asked,
);
