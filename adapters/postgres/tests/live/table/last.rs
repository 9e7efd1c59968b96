//! The logging last resource: a branch that commits together with the row of its decision.

use std::sync::Arc;
use std::time::Duration;

use unanimous_core::ports::{
    Branch, BranchErrorKind, Cause, DecisionTable, OnePhaseReply, OpeningRow, Resource,
    ResourceManager, RowState, TableErrorKind, TableHome,
};
use unanimous_core::protocol::Decision;
use unanimous_core::xid::Gtrid;
use unanimous_postgres::{Isolation, PgBranch, Postgres, PostgresBuilder};
use unanimous_testing::{Wire, WireFault};
use xtask::servers::{Kind, Options, Server};

use super::suite::lazily;
use super::support::{PENDING, TableDb, decide, row, slot};
use crate::support::{Db, backend_pid, eventually};

fn statement(table: &Arc<dyn DecisionTable>, opening: &OpeningRow, sequence: u64) -> String {
    table.last_statement(slot(opening), &row(opening, sequence))
}

/// An open branch of this transaction that has inserted the row `(sequence, 'v')`.
async fn branch(t: &TableDb, resource: &Postgres, own: &OpeningRow, sequence: u64) -> PgBranch {
    let mut env = t.db.env(sequence);
    env.xid.gtrid = own.opening.gtrid(sequence);
    let branch = resource.open(env).await.unwrap();
    t.db.insert(&branch, sequence).await;
    branch
}

#[track_caller]
fn assert_committed(reply: OnePhaseReply) {
    assert!(matches!(reply, OnePhaseReply::Committed), "{reply:?}");
}

#[track_caller]
fn assert_rolled_back(reply: OnePhaseReply, cause: Cause) -> String {
    match reply {
        OnePhaseReply::RolledBack(error) => {
            let text = error.to_string();
            assert_eq!(error.kind(), BranchErrorKind::RolledBack(cause), "{text}");
            text
        }
        other => panic!("not rolled back: {other:?}"),
    }
}

impl TableDb {
    /// Row and decision are both there, or neither is.
    async fn assert_both(&self, own: &OpeningRow, sequence: u64, there: bool) {
        let state = self.state(own.opening.gtrid(sequence)).await;
        assert_eq!(state.as_deref(), there.then_some("C"));
        assert_eq!(self.db.has_row(sequence).await, there);
    }
}

/// Asks again as long as it is refused because it would have waited for too long.
async fn until_put(t: &TableDb, gtrid: Gtrid) -> RowState {
    loop {
        match t.table.put_rollback(gtrid).await {
            Ok(state) => return state,
            Err(error) => assert_eq!(error.kind(), TableErrorKind::Busy, "{error}"),
        }
    }
}

/// The branch's own guard comes first, and its session is used again.
async fn a_branch_that_is_no_longer_its_own_records_nothing(db: &Db) {
    let t = TableDb::new(db).await;
    let own = t.join().await;
    for (sequence, soil) in [(1, "SELECT 1/0"), (2, "COMMIT"), (3, "ROLLBACK AND CHAIN")] {
        let mut soiled = branch(&t, &t.db.resource, &own, sequence).await;
        // The failed statement is what is wanted.
        let _ = soiled.batch_execute(soil).await;
        let reply = soiled
            .commit_last(&statement(&t.table, &own, sequence))
            .await;
        assert_rolled_back(reply, Cause::RollbackOnly);
        assert_eq!(t.state(own.opening.gtrid(sequence)).await, None, "{soil}");
    }
    let mut clean = branch(&t, &t.db.resource, &own, 4).await;
    let pid = backend_pid(&clean).await;
    assert_committed(clean.commit_last(&statement(&t.table, &own, 4)).await);
    t.assert_both(&own, 4, true).await;
    Box::new(clean).release().await;
    let idle = format!("SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND state = 'idle'");
    eventually("it is pooled", async || !t.db.sql(&idle).await.is_empty()).await;
    t.drop_from(db).await;
}

/// The snapshot of the branch is older than the close; the conflict says that a new one may do.
async fn a_close_after_the_snapshot_is_seen_at_every_isolation_level(db: &Db) {
    let t = TableDb::new(db).await;
    for (sequence, isolation) in [
        (1, Isolation::ReadCommitted),
        (2, Isolation::RepeatableRead),
        (3, Isolation::Serializable),
    ] {
        let own = t.join().await;
        let resource = t.db.build(|builder| builder.isolation(isolation));
        let mut late = branch(&t, &resource, &own, sequence).await;
        t.table.close(own.opening.epoch).await.unwrap();
        let reply = late.commit_last(&statement(&t.table, &own, sequence)).await;
        let text = assert_rolled_back(reply, Cause::Conflict);
        let expected = match isolation {
            Isolation::ReadCommitted => "took this one for dead",
            Isolation::RepeatableRead | Isolation::Serializable => "40001",
        };
        assert!(text.contains(expected), "{text}");
        t.assert_both(&own, sequence, false).await;
        let mut next = branch(&t, &resource, &own, sequence).await;
        let reply = next.commit_last(&statement(&t.table, &own, sequence)).await;
        let text = assert_rolled_back(reply, Cause::Conflict);
        assert!(text.contains("took this one for dead"), "{text}");
    }
    t.drop_from(db).await;
}

/// Many at once, in one slot, under the strictest isolation: none is in another's way.
async fn last_resources_do_not_conflict_with_each_other(db: &Db) {
    let t = TableDb::new(db).await;
    let own = t.join().await;
    let resource =
        t.db.build(|builder| builder.isolation(Isolation::Serializable));
    let mut open = Vec::new();
    for sequence in 1..=8 {
        open.push((sequence, branch(&t, &resource, &own, sequence).await));
    }
    let mut committing = Vec::new();
    for (sequence, mut branch) in open {
        let statement = statement(&t.table, &own, sequence);
        committing.push(tokio::spawn(
            async move { branch.commit_last(&statement).await },
        ));
    }
    for committed in committing {
        assert_committed(committed.await.unwrap());
    }
    let pending = t.table.read(own.opening.epoch, None).await.unwrap().pending;
    assert_eq!(pending.len(), 8);
    t.drop_from(db).await;
}

/// The lead's own case: a refusal stands, and the commit comes late. An upsert would commit.
async fn a_late_commit_does_not_get_past_a_refusal(db: &Db) {
    let t = TableDb::new(db).await;
    let own = t.join().await;
    let mut late = branch(&t, &t.db.resource, &own, 1).await;
    let put = t.table.put_rollback(own.opening.gtrid(1)).await.unwrap();
    assert_eq!(put, RowState::RolledBack);
    let reply = late.commit_last(&statement(&t.table, &own, 1)).await;
    let text = assert_rolled_back(reply, Cause::Refused);
    assert!(text.contains("23505"), "{text}");
    assert!(!db.has_row(1).await && !t.db.has_row(1).await);
    assert_eq!(t.state(own.opening.gtrid(1)).await.as_deref(), Some("R"));

    // What it must not be.
    let upsert = statement(&t.table, &own, 1) + " ON CONFLICT (gtrid) DO NOTHING";
    let mut wrong = branch(&t, &t.db.resource, &own, 1).await;
    assert_committed(wrong.commit_last(&upsert).await);
    assert!(t.db.has_row(1).await, "an upsert commits over a refusal");
    t.drop_from(db).await;
}

/// A key, or an epoch, that somebody else holds: refused in bounded time, as a conflict.
async fn a_contested_row_is_not_awaited_for_ever(db: &Db) {
    let t = TableDb::new(db).await;
    let own = t.join().await;
    let key = format!(
        "BEGIN; INSERT INTO unanimous.unanimous_decision VALUES ('{}', 1, 'R', '')",
        own.opening.gtrid(1)
    );
    let closing = "BEGIN; UPDATE unanimous.unanimous_epoch SET closed = true".to_owned();
    for (sequence, held) in [(1, key), (2, closing)] {
        let holder = t.client().await;
        holder.batch_execute(&held).await.unwrap();
        let mut env = t.db.env(sequence);
        env.xid.gtrid = own.opening.gtrid(sequence);
        // The branch's own limit is not the one that counts.
        env.lock_timeout = Duration::from_secs(3600);
        let mut waits = t.db.resource.open(env).await.unwrap();
        t.db.insert(&waits, sequence).await;
        let reply = waits
            .commit_last(&statement(&t.table, &own, sequence))
            .await;
        let text = assert_rolled_back(reply, Cause::Conflict);
        assert!(text.contains("55P03"), "{text}");
        holder.batch_execute("ROLLBACK").await.unwrap();
        t.assert_both(&own, sequence, false).await;
    }
    t.drop_from(db).await;
}

/// Also while it still runs at the server: the refusal waits for it, and finds it.
async fn i3_a_lost_reply_is_undetermined_and_the_row_tells(db: &Db) {
    let t = TableDb::new(db).await;
    let own = t.join().await;
    let (wire, url) = Wire::between(&t.db.url).await.unwrap();
    for (sequence, fault) in [(1, WireFault::CutReply), (2, WireFault::CutRequest)] {
        let resource = super::support::resource(&url);
        let mut branch = branch(&t, &resource, &own, sequence).await;
        let pid = backend_pid(&branch).await;
        let text = statement(&t.table, &own, sequence);
        // What the driver sends when a statement is dropped must not be what is cut.
        branch.batch_execute("SELECT 1").await.unwrap();
        wire.set(fault);
        let reply = branch.commit_last(&text).await;
        match reply {
            OnePhaseReply::Undetermined(error) => {
                assert_eq!(error.kind(), BranchErrorKind::Undetermined, "{error}");
            }
            other => panic!("nobody can know: {other:?}"),
        }
        drop(branch);
        // It may come before the commit, or after it; never beside it.
        let put = until_put(&t, own.opening.gtrid(sequence)).await;
        t.db.wait_gone(pid).await;
        let happened = put == RowState::Pending;
        assert!(
            !happened || fault == WireFault::CutReply,
            "it was never sent"
        );
        assert_eq!(t.db.has_row(sequence).await, happened, "{put:?}");
    }
    // Running on: a deferred trigger keeps the commit at the server, which notices no end of the
    // connection, unless it is asked to cancel, as at the deadline.
    crate::prepare::deferred_trigger(&t.db, "PERFORM pg_sleep(1)").await;
    for (sequence, is_given_up) in [(3, false), (4, true)] {
        wire.set(WireFault::None);
        let mut running = branch(&t, &super::support::resource(&url), &own, sequence).await;
        let pid = backend_pid(&running).await;
        let last = statement(&t.table, &own, sequence);
        let committing = tokio::spawn(async move { running.commit_last(&last).await });
        crate::prepare::during_sleep(&t.db, pid).await;
        if is_given_up {
            committing.abort();
        } else {
            wire.set(WireFault::Down);
        }
        let put = until_put(&t, own.opening.gtrid(sequence)).await;
        let happened = put == RowState::Pending;
        assert!(happened || is_given_up, "nobody has cancelled it");
        assert_eq!(t.db.has_row(sequence).await, happened, "{put:?}");
    }
    t.drop_from(db).await;
}

/// `SET LOCAL ROLE` in the branch, to a role that knows nothing of the log.
async fn a_role_without_rights_rolls_back_and_says_what_it_needs(db: &Db) {
    let t = TableDb::new(db).await;
    let own = t.join().await;
    let role = format!("poor_{:016x}", crate::support::random());
    t.db.admin(&format!("CREATE ROLE {role}; GRANT {role} TO app"))
        .await;
    let found = || async {
        let all = t.db.resource.preflight().await.unwrap().findings;
        let mut of_it = all.into_iter();
        of_it.find(|finding| finding.subject == "last resource")
    };
    assert_eq!(found().await, None);
    t.db.admin("REVOKE INSERT ON unanimous.unanimous_decision FROM app")
        .await;
    let finding = found().await.unwrap();
    assert!(finding.mend.contains("GRANT INSERT"), "{finding}");
    t.db.admin(&finding.mend).await;
    assert_eq!(found().await, None);
    let mut poor = branch(&t, &t.db.resource, &own, 1).await;
    poor.batch_execute(&format!("SET LOCAL ROLE {role}"))
        .await
        .unwrap();
    let reply = poor.commit_last(&statement(&t.table, &own, 1)).await;
    let text = assert_rolled_back(reply, Cause::NoRightsAsLast);
    assert!(
        text.contains("42501") && text.contains("rights of a last resource"),
        "{text}"
    );
    t.assert_both(&own, 1, false).await;
    // The rights that are documented are enough.
    t.db.admin(&format!(
        "GRANT USAGE ON SCHEMA unanimous TO {role}; \
         GRANT INSERT ON unanimous.unanimous_decision TO {role}; \
         GRANT SELECT, UPDATE (slot) ON unanimous.unanimous_epoch TO {role}"
    ))
    .await;
    let mut rich = branch(&t, &t.db.resource, &own, 2).await;
    rich.batch_execute(&format!("SET LOCAL ROLE {role}"))
        .await
        .unwrap();
    assert_committed(rich.commit_last(&statement(&t.table, &own, 2)).await);
    t.assert_both(&own, 2, true).await;
    t.db.admin(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
    t.drop_from(db).await;
}

/// Ours is for the epoch and the key; what a deferred trigger locks at the commit is the branch's.
async fn the_branchs_own_limit_for_locks_holds_at_its_commit(db: &Db) {
    let t = TableDb::new(db).await;
    let own = t.join().await;
    let tell = "RAISE EXCEPTION 'limited to %', current_setting('lock_timeout')";
    crate::prepare::deferred_trigger(&t.db, tell).await;
    let mut last = branch(&t, &t.db.resource, &own, 1).await;
    let set = "SET LOCAL lock_timeout = 98765";
    last.batch_execute(set).await.unwrap();
    match last.commit_last(&statement(&t.table, &own, 1)).await {
        OnePhaseReply::RolledBack(error) => {
            assert!(error.to_string().contains("limited to 98765ms"), "{error}");
        }
        reply => panic!("{reply:?}"),
    }
    t.drop_from(db).await;
}

on_both!(
    the_branchs_own_limit_for_locks_holds_at_its_commit,
    a_branch_that_is_no_longer_its_own_records_nothing,
    a_close_after_the_snapshot_is_seen_at_every_isolation_level,
    last_resources_do_not_conflict_with_each_other,
    a_late_commit_does_not_get_past_a_refusal,
    a_contested_row_is_not_awaited_for_ever,
    i3_a_lost_reply_is_undetermined_and_the_row_tells,
    a_role_without_rights_rolls_back_and_says_what_it_needs,
);

/// Although commits of this server are asynchronous.
async fn i2_what_a_last_resource_has_committed_survives_a_crash(kind: Kind) {
    let mut server = Server::start(kind, &lazily()).unwrap();
    let t = TableDb::new(&Db::on(&server).await).await;
    let own = t.join().await;
    let mut last = branch(&t, &t.db.resource, &own, 1).await;
    assert_committed(last.commit_last(&statement(&t.table, &own, 1)).await);
    server.kill();
    server.restart().unwrap();
    t.assert_both(&own, 1, true).await;
}

/// The server answers success to a commit whose wait for the standby somebody has cancelled.
async fn i2_what_a_standby_may_not_have_is_not_answered_as_done(kind: Kind) {
    let quietly = Options::new().args(["-c", "client_min_messages=error"]);
    let server = Server::start(kind, &quietly).unwrap();
    let t = TableDb::new(&Db::on(&server).await).await;
    let own = t.join().await;
    t.db.admin("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        .await;
    t.db.admin("SELECT pg_reload_conf()").await;
    let waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let cancel = async || {
        eventually("it waits for a standby", async || {
            !t.db.sql(waiting).await.is_empty()
        })
        .await;
        let stop = format!("SELECT pg_cancel_backend(pid) FROM ({waiting}) w");
        t.db.sql(&stop).await;
    };
    let mut last = branch(&t, &t.db.resource, &own, 1).await;
    let text = statement(&t.table, &own, 1);
    let (reply, ()) = tokio::join!(last.commit_last(&text), cancel());
    assert!(matches!(reply, OnePhaseReply::Undetermined(_)), "{reply:?}");
    let table = super::support::resource(&t.db.url).decision_table();
    let (decided, ()) = tokio::join!(decide(&table, &own, &[2]), cancel());
    let lost = TableErrorKind::Lost;
    super::support::assert_error(&decided.unwrap_err(), lost, "synchronous standby");
    t.db.admin("ALTER SYSTEM SET synchronous_standby_names = ''")
        .await;
    t.db.admin("SELECT pg_reload_conf()").await;
    assert_eq!(
        decide(&table, &own, &[1, 2]).await.unwrap().answers,
        [PENDING, PENDING]
    );
}

/// Ends of branches that wait for a standby have taken all sessions of recovery.
async fn i6_slow_ends_do_not_keep_the_table_waiting(kind: Kind) {
    let server = Server::start(kind, &Options::new()).unwrap();
    let t = TableDb::new(&Db::on(&server).await).await;
    let own = t.join().await;
    let of_few = |builder: PostgresBuilder| {
        let builder = builder.recovery_sessions(1);
        builder.pool_timeout(Duration::from_millis(100))
    };
    let resource = t.db.build(of_few);
    let table = resource.decision_table();
    t.db.prepared(1).await;
    t.db.admin("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        .await;
    t.db.admin("SELECT pg_reload_conf()").await;
    let (slow, xid) = (resource.clone(), t.db.xid(1));
    let ending = tokio::spawn(async move { slow.finish(&xid, Decision::Commit, None).await });
    let waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    eventually("it waits for a standby", async || {
        !t.db.sql(waiting).await.is_empty()
    })
    .await;
    resource.recover().await.unwrap_err();
    let beats = table.beat(own.opening.epoch).await.unwrap();
    assert_eq!(beats.len(), 1);
    ending.abort();
}

mod own {
    use super::*;
    on_own!(
        i6_slow_ends_do_not_keep_the_table_waiting,
        i2_what_a_last_resource_has_committed_survives_a_crash,
        i2_what_a_standby_may_not_have_is_not_answered_as_done,
    );
}
