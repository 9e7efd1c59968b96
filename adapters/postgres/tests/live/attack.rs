//! What tries to make the adapter lie: roles that end with the transaction, futures that are
//! dropped at every point, statements of the protocol by hand, and odd names.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use unanimous_core::ports::{
    Absence, Branch, BranchErrorKind, Evidence, InspectOptions, OnePhaseReply, Resource,
    ResourceManager, TableHome,
};
use unanimous_core::protocol::Decision;
use unanimous_postgres::{PgBranch, Postgres};
use unanimous_testing::drop_after;

use crate::prepare::{deferred_trigger, drop_trigger, during_sleep};
use crate::support::{Db, backend_pid, expect_prepared, expect_rolled_back, random, record};

/// A prepared transaction belongs to the role that was current at prepare, and a role that was set
/// with `SET LOCAL` is gone right after it: both the branch and recovery have to take it again.
async fn i6_a_branch_prepared_under_another_role_is_ended(db: &Db) {
    let role = format!("Role \"{:016x}", random());
    let quoted = format!("\"{}\"", role.replace('"', "\"\""));
    let table = &db.table;
    db.admin(&format!(
        "CREATE ROLE {quoted}; GRANT {quoted} TO app; GRANT ALL ON {table} TO {quoted}"
    ))
    .await;
    let single = db.build(|builder| builder.pool_size(1));
    for (sequence, set) in [(1, "SET LOCAL ROLE"), (2, "SET ROLE")] {
        let mut branch = single.open(db.env(sequence)).await.unwrap();
        let pid = backend_pid(&branch).await;
        branch
            .batch_execute(&format!("{set} {quoted}"))
            .await
            .unwrap();
        db.insert(&branch, sequence).await;
        expect_prepared(branch.prepare().await);
        branch.commit().await.unwrap();
        Box::new(branch).release().await;
        let next = single.open(db.env(100)).await.unwrap();
        assert_eq!(backend_pid(&next).await, pid, "the session is used again");
        let user = next.query_one("SELECT current_user::text", &[]).await;
        assert_eq!(user.unwrap().get::<_, String>(0), "app");

        let mut branch = db.open(sequence + 10).await;
        branch
            .batch_execute(&format!("{set} {quoted}"))
            .await
            .unwrap();
        db.insert(&branch, sequence + 10).await;
        expect_prepared(branch.prepare().await);
        drop(branch);
        let decision = if sequence == 1 {
            Decision::Commit
        } else {
            Decision::Rollback
        };
        db.resource
            .finish(&db.xid(sequence + 10), decision, None)
            .await
            .unwrap();
    }
    assert!(db.has_row(1).await && db.has_row(2).await);
    assert!(db.has_row(11).await && !db.has_row(12).await);
    // Nothing of the role is left where recovery looks next.
    db.resource.recover().await.unwrap();
    let (branch, _) = db.prepared(20).await;
    drop(branch);
    db.resource
        .finish(&db.xid(20), Decision::Commit, None)
        .await
        .unwrap();
    db.sql(&format!("DROP TABLE {table}")).await;
    db.admin(&format!("DROP ROLE {quoted}")).await;
}

/// Where everybody may create in `public`, somebody has made there what fits our statements better
/// than the server's own: it would run with the rights of whoever connects (CVE-2018-1058).
async fn i8_nobodys_functions_run_in_sessions_of_ours(db: &Db) {
    let name = format!("theirs_{:016x}", random());
    db.admin(&format!("CREATE DATABASE {name} OWNER app")).await;
    let theirs = db.in_database(&name).await;
    theirs
        .sql(
            "CREATE FUNCTION trap(numeric, integer) RETURNS numeric LANGUAGE plpgsql \
             AS $$ BEGIN RAISE EXCEPTION 'a trap'; END $$; \
             CREATE OPERATOR * (LEFTARG = numeric, RIGHTARG = integer, FUNCTION = trap); \
             CREATE FUNCTION unnest(text[]) RETURNS SETOF text LANGUAGE plpgsql \
             AS $$ BEGIN RAISE EXCEPTION 'a trap'; END $$; \
             CREATE FUNCTION counted(bigint, text) RETURNS bigint LANGUAGE plpgsql \
             AS $$ BEGIN RAISE EXCEPTION 'a trap'; END $$; \
             CREATE AGGREGATE count(text) (SFUNC = counted, STYPE = bigint, INITCOND = '0')",
        )
        .await;
    let resource = &theirs.resource;
    resource.preflight().await.unwrap();
    resource.checkup().await.unwrap();
    let table = resource.decision_table();
    table.init(theirs.opening.manager).await.unwrap();
    let own = table.join(1, "a test").await.unwrap().opening;
    table.beat(own.epoch).await.unwrap();
    table.closed_for(Duration::ZERO).await.unwrap();
    let (branch, record) = theirs.prepared(1).await;
    let path = branch.query_one("SHOW search_path", &[]).await.unwrap();
    let path: String = path.get(0);
    assert!(path.contains("public"), "the application's own: {path}");
    drop(branch);
    assert_eq!(resource.recover().await.unwrap().branches.len(), 1);
    let xid = theirs.xid(1);
    resource.inspect(InspectOptions::DETAILS).await.unwrap();
    resource.finish(&xid, Decision::Commit, None).await.unwrap();
    let absence = resource.absent(&xid, &record).await.unwrap();
    assert_eq!(absence, Absence::Finished);
    db.admin(&format!("DROP DATABASE {name} WITH (FORCE)"))
        .await;
}

/// A role that was taken away meanwhile cannot be taken again: nothing is done, and it is told.
async fn a_branch_whose_role_was_revoked_waits_for_a_person(db: &Db) {
    let role = format!("role_{:016x}", random());
    let table = &db.table;
    db.admin(&format!(
        "CREATE ROLE {role}; GRANT {role} TO app; GRANT ALL ON {table} TO {role}"
    ))
    .await;
    let mut branch = db.open(1).await;
    branch
        .batch_execute(&format!("SET LOCAL ROLE {role}"))
        .await
        .unwrap();
    db.insert(&branch, 1).await;
    expect_prepared(branch.prepare().await);
    db.admin(&format!("REVOKE {role} FROM app")).await;
    let error = branch.commit().await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Failed, "{error}");
    assert!(error.to_string().contains("SET ROLE"), "{error}");
    let error = db.resource.finish(&db.xid(1), Decision::Commit, None).await;
    assert_eq!(error.unwrap_err().kind(), BranchErrorKind::Failed);
    assert!(db.is_prepared(1).await, "nothing was done");
    db.admin(&format!("GRANT {role} TO app")).await;
    branch.commit().await.unwrap();
    assert!(db.has_row(1).await);
    db.sql(&format!("DROP TABLE {table}")).await;
    db.admin(&format!("DROP ROLE {role}")).await;
}

/// Wherever the future of a statement is dropped: what is committed is all of it or nothing, and
/// no answer is taken for another.
async fn i7_a_statement_dropped_at_any_point_is_all_or_nothing(db: &Db) {
    let table = &db.table;
    let mut is_done = false;
    for times in 0.. {
        if is_done {
            break;
        }
        let id = times as u64 + 1;
        let branch = db.open(id).await;
        let sql = format!("INSERT INTO {table} VALUES ($1, 'v') RETURNING 'wrong'");
        let number = i32::try_from(id).unwrap();
        is_done = drop_after(times, branch.query(&sql, &[&number]))
            .await
            .is_some();
        let mut branch = branch;
        let right = branch.query_one("SELECT 'right'", &[]).await.unwrap();
        assert_eq!(right.get::<_, String>(0), "right", "{times} polls");
        let in_it: i64 = branch
            .query_one(
                &format!("SELECT count(*) FROM {table} WHERE id = $1"),
                &[&number],
            )
            .await
            .unwrap()
            .get(0);
        expect_prepared(branch.prepare().await);
        branch.commit().await.unwrap();
        assert_eq!(db.has_row(id).await, in_it == 1, "{times} polls");
    }
}

/// Whatever of the protocol is dropped half-way: the session is not lent again.
async fn i7_a_prepare_dropped_at_any_point_leaves_no_session(db: &Db) {
    let resource = db.build(|builder| builder.pool_size(1));
    let mut is_done = false;
    for times in 0.. {
        if is_done {
            break;
        }
        let id = times as u64 + 1;
        let mut branch = resource.open(db.env(id)).await.unwrap();
        let pid = backend_pid(&branch).await;
        db.insert(&branch, id).await;
        is_done = drop_after(times, branch.prepare()).await.is_some();
        Box::new(branch).release().await;
        let next = resource.open(db.env(1000 + id)).await.unwrap();
        assert_ne!(backend_pid(&next).await, pid, "{times} polls");
        assert!(!db.has_row(id).await);
    }
}

/// The statements of the protocol, sent by hand, never bring about a vote to commit.
async fn the_protocol_by_hand_is_a_rollback_vote(db: &Db) {
    for (id, by_hand) in [
        (1, "PREPARE TRANSACTION '{}'; ROLLBACK PREPARED '{}'"),
        (2, "ROLLBACK; BEGIN"),
        (3, "SET LOCAL unanimous.xid = 'x'"),
        (4, "RESET ALL"),
        (5, "ROLLBACK AND CHAIN"),
    ] {
        let mut branch = db.open_with_row(id).await;
        for statement in by_hand.split("; ") {
            let sql = statement.replace("{}", &db.gid(id));
            branch.batch_execute(&sql).await.unwrap();
        }
        expect_rolled_back(branch.prepare().await);
        db.assert_nothing_of(id).await;
    }
    let mut branch = db.open_with_row(9).await;
    branch.batch_execute("DISCARD ALL").await.unwrap_err();
    expect_rolled_back(branch.prepare().await);
    db.assert_nothing_of(9).await;
}

/// A number of a process says nothing without its start: the new bearer is spared.
async fn i5_the_new_bearer_of_a_process_number_is_spared(db: &Db) {
    let innocent = db.open_with_row(1).await;
    let (mut branch, mut of_it) = db.prepared(2).await;
    branch.rollback().await.unwrap();
    let (pid, xid8) = (backend_pid(&innocent).await, xid8(&innocent).await);
    let evidence = of_it.evidence.as_str();
    let field = |name: &str| {
        let rest = evidence.split_once(name).unwrap().1;
        rest.split(' ').next().unwrap().to_owned()
    };
    // In progress, and the process was started at another time than the evidence says.
    let text = format!("xid8={xid8} pid={pid} since=1 server={}", field("server="));
    of_it.evidence = Evidence::new(text).unwrap();
    let absence = db.resource.absent(&db.xid(2), &of_it).await.unwrap();
    assert!(matches!(absence, Absence::InDoubt(_)), "{absence:?}");
    assert_eq!(backend_pid(&innocent).await, pid, "it lives");
}

async fn xid8(branch: &PgBranch) -> String {
    let row = branch
        .query_one("SELECT pg_current_xact_id()::text", &[])
        .await;
    row.unwrap().get(0)
}

/// The connection is lost while the commit still runs on the server: its session is ended, so that
/// the rollback is proven.
async fn i3_a_commit_in_one_phase_that_still_runs_is_ended_and_proven(db: &Db) {
    deferred_trigger(db, "PERFORM pg_sleep(60)").await;
    let (url, cut) = cuttable(&db.url).await;
    let resource = Postgres::builder("orders", url).build().unwrap();
    let mut branch = resource.open(db.env(1)).await.unwrap();
    let pid = backend_pid(&branch).await;
    db.insert(&branch, 1).await;
    let commit = tokio::spawn(async move { branch.commit_one_phase().await });
    during_sleep(db, pid).await;
    cut.send(()).unwrap();
    let reply = commit.await.unwrap();
    assert!(matches!(reply, OnePhaseReply::RolledBack(_)), "{reply:?}");
    db.wait_gone(pid).await;
    db.assert_nothing_of(1).await;
    drop_trigger(db).await;
}

/// An address that leads to the server. On a word, the connections made so far are closed towards
/// the client, and stay open towards the server.
async fn cuttable(url: &str) -> (String, broadcast::Sender<()>) {
    let (before, rest) = url.split_once('@').unwrap();
    let (server, database) = rest.split_once('/').unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("{before}@{}/{database}", listener.local_addr().unwrap());
    let (cut, _) = broadcast::channel(1);
    let (server, cuts) = (server.to_owned(), cut.clone());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(&server).await.unwrap();
            let mut cut = cuts.subscribe();
            tokio::spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
                    _ = cut.recv() => {}
                }
                drop(client);
                // As long as the test runs.
                std::future::pending::<()>().await;
                drop(server);
            });
        }
    });
    (address, cut)
}

/// Once a request for the end has got no positive answer, the branch is not asked again: it is
/// recovery's.
async fn i3_a_branch_whose_end_is_not_known_is_asked_nothing_more(db: &Db) {
    let (mut branch, _) = db.prepared(1).await;
    db.clean_prepared(1).await;
    let unknown = branch.commit().await.unwrap_err();
    assert_eq!(unknown.kind(), BranchErrorKind::UnknownXid, "{unknown}");
    let refused = branch.commit().await.unwrap_err();
    assert_eq!(refused.kind(), BranchErrorKind::WrongState, "{refused}");
    let refused = branch.rollback().await.unwrap_err();
    assert_eq!(refused.kind(), BranchErrorKind::WrongState, "{refused}");
}

/// Names and passwords that have to be encoded in an address, and quoted everywhere else.
async fn odd_names_and_passwords_work(db: &Db) {
    let unique = random();
    let (database, user) = (
        format!("odd '\"\\ ü%{unique:x}"),
        format!("o'd@d \"{unique:x}"),
    );
    let password = "p@s:s/w?o#r%d '\"\\ü";
    let name = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let (quoted, role) = (name(&database), name(&user));
    let secret = password.replace('\'', "''");
    db.admin(&format!("CREATE ROLE {role} LOGIN PASSWORD '{secret}'"))
        .await;
    db.admin(&format!("CREATE DATABASE {quoted} OWNER {role}"))
        .await;
    let encoded = |text: &str| {
        let bytes = text.bytes();
        bytes.map(|byte| format!("%{byte:02X}")).collect::<String>()
    };
    let (_, rest) = db.url.split_once('@').unwrap();
    let (server, _) = rest.split_once('/').unwrap();
    let url = format!(
        "postgres://{}:{}@{server}/{}",
        encoded(&user),
        encoded(password),
        encoded(&database)
    );
    let resource = Postgres::builder("orders", url).build().unwrap();
    resource.preflight().await.unwrap();
    for id in 1..=2 {
        let mut branch = resource.open(db.env(id)).await.unwrap();
        branch
            .batch_execute(&format!("CREATE TABLE t{id} (i int)"))
            .await
            .unwrap();
        let evidence = expect_prepared(branch.prepare().await);
        let record = record(&branch, evidence);
        if id == 1 {
            branch.commit().await.unwrap();
        } else {
            drop(branch);
            resource
                .finish(&db.xid(id), Decision::Commit, None)
                .await
                .unwrap();
        }
        let absence = resource.absent(&db.xid(id), &record).await.unwrap();
        assert_eq!(absence, Absence::Finished);
    }
    drop(resource);
    db.admin(&format!("DROP DATABASE {quoted} WITH (FORCE)"))
        .await;
    db.admin(&format!("DROP ROLE {role}")).await;
}

on_both!(
    i6_a_branch_prepared_under_another_role_is_ended,
    a_branch_whose_role_was_revoked_waits_for_a_person,
    i7_a_statement_dropped_at_any_point_is_all_or_nothing,
    i7_a_prepare_dropped_at_any_point_leaves_no_session,
    the_protocol_by_hand_is_a_rollback_vote,
    i5_the_new_bearer_of_a_process_number_is_spared,
    i3_a_commit_in_one_phase_that_still_runs_is_ended_and_proven,
    i3_a_branch_whose_end_is_not_known_is_asked_nothing_more,
    odd_names_and_passwords_work,
    i8_nobodys_functions_run_in_sessions_of_ours,
);
