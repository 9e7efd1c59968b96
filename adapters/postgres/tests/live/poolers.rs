//! A pooler in between, in transaction mode and in session mode.

use unanimous_core::ports::{
    Absence, Branch, BranchErrorKind, DecisionRow, EpochSlot, PrepareReply, Resource,
    ResourceManager, Severity, TableErrorKind, TableHome,
};
use unanimous_core::protocol::Decision;
use unanimous_postgres::Postgres;
use xtask::servers::{Kind, Options, PgBouncer, Server};

use crate::standbys::{cancelled, wait_for_standbys};
use crate::support::{Db, finding, findings, oracle};

async fn a_pooler_in_transaction_mode_is_unfit(kind: Kind) {
    let server = Server::start(kind, &Options::new()).unwrap();
    let own_limit = oracle(&server.url(), "SHOW lock_timeout").await.unwrap();
    for lines in [
        &["default_pool_size = 1"][..],
        &["default_pool_size = 5", "min_pool_size = 3"],
        &[
            "default_pool_size = 5",
            "min_pool_size = 3",
            "server_round_robin = 1",
        ],
    ] {
        let pooler = PgBouncer::start(&server, &Options::new().args(lines.to_vec())).unwrap();
        let resource = Postgres::builder("orders", pooler.url()).build().unwrap();
        let found = finding(&resource, "pooler").await;
        assert_eq!(found.severity, Severity::Error, "{lines:?}: {found}");
        assert!(found.mend.contains("pool_mode = session"), "{found}");
        // What was looked at is others' session now, who find their tables there.
        resource.checkup().await.unwrap();
        if let Err(error) = resource.recover().await {
            assert!(error.to_string().contains("pooler"), "{error}");
        }
        let table = resource.decision_table().check().await.unwrap_err();
        assert_eq!(table.kind(), TableErrorKind::Missing, "{table}");
        for _ in 0..6 {
            let path = oracle(&pooler.url(), "SHOW search_path").await.unwrap();
            assert_eq!(path, [["\"$user\", public"]], "{lines:?}");
            let limit = oracle(&pooler.url(), "SHOW lock_timeout").await.unwrap();
            assert_eq!(limit, own_limit, "{lines:?}");
        }
    }
}

/// The application's own way leads to the server. What recovery relies on would be another
/// session's: its commits would be as durable as the account's default is, and nobody awaited.
async fn i1_a_pooler_before_recovery_alone_is_unfit_and_ends_nothing(kind: Kind) {
    let server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    let (mut branch, record) = db.prepared(1).await;
    let lines = [
        "default_pool_size = 2",
        "min_pool_size = 2",
        "server_round_robin = 1",
    ];
    db.admin("ALTER ROLE app SET synchronous_commit = off")
        .await;
    let pooler = PgBouncer::start(&server, &Options::new().args(lines)).unwrap();
    let through = Postgres::builder("orders", pooler.url()).build().unwrap();
    // Just two, lent in turn: each of two connections may see its own every time.
    let_it_have_several_sessions(&db, &through).await;
    let resource = db.build(|builder| builder.recovery_address(pooler.url()));
    let found = finding(&resource, "pooler").await;
    assert_eq!(found.severity, Severity::Error, "{found}");
    assert!(found.evidence.contains("recovery_address"), "{found}");

    wait_for_standbys(&db, "nobody").await;
    cancelled(&db, branch.commit()).await.unwrap_err();
    let xid = db.xid(1);
    for _ in 0..4 {
        let resource = db.build(|builder| builder.recovery_address(pooler.url()));
        match cancelled(&db, resource.absent(&xid, &record)).await {
            Ok(absence) => assert!(matches!(absence, Absence::InDoubt(_)), "{absence:?}"),
            Err(error) => assert!(error.to_string().contains("pooler"), "{error}"),
        }
    }
}

async fn a_pooler_in_session_mode_does_no_harm(kind: Kind) {
    let server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    let pooler = PgBouncer::start(&server, &Options::new().args(["pool_mode = session"])).unwrap();
    let resource = Postgres::builder("orders", pooler.url()).build().unwrap();
    assert_eq!(findings(&resource, "pooler").await, []);
    db.assert_works_through(&resource).await;
    for (sequence, through, is_confirmed) in [(2, &db.resource, false), (3, &resource, true)] {
        let (branch, _) = db.prepared(sequence).await;
        drop(branch);
        let xid = db.xid(sequence);
        let finish = through.finish(&xid, Decision::Commit, None);
        finish.await.unwrap();
        assert!(db.has_row(sequence).await);
        assert_eq!(db.was_confirmed().await, is_confirmed, "{sequence}");
    }
}

/// Several branches at once, so that the pooler has several sessions to choose from.
async fn let_it_have_several_sessions(db: &Db, resource: &Postgres) {
    for sequences in [[101, 102], [103, 104]] {
        let open = sequences.map(|sequence| resource.open(db.env(sequence)));
        for branch in futures_util::future::join_all(open).await {
            branch.unwrap().rollback().await.unwrap();
        }
    }
}

/// Where the preflight was left out or has missed it: the guard sees another server process, and
/// nothing is prepared.
async fn behind_a_pooler_that_was_missed_nothing_is_prepared(kind: Kind) {
    let server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    let lines = [
        "default_pool_size = 5",
        "min_pool_size = 3",
        "server_round_robin = 1",
    ];
    let pooler = PgBouncer::start(&server, &Options::new().args(lines)).unwrap();
    let resource = Postgres::builder("orders", pooler.url()).build().unwrap();
    let_it_have_several_sessions(&db, &resource).await;
    let mut seen = false;
    for sequence in 1..=20 {
        let mut branch = resource.open(db.env(sequence)).await.unwrap();
        db.insert_by_text(&branch, sequence).await;
        match branch.prepare().await {
            PrepareReply::Prepared(_) => branch.rollback().await.unwrap(),
            PrepareReply::RolledBack(error) => {
                assert!(error.to_string().contains("pooler"), "{error}");
                assert!(!db.is_prepared(sequence).await);
                seen = true;
            }
            reply => panic!("{reply:?}"),
        }
        drop(branch);
    }
    assert!(
        seen,
        "the pooler never gave another session: the test tests nothing"
    );
}

/// What commits a branch waits for standbys only where its session is set to that: by another one
/// it might be lost in a fail-over, and its decision be forgotten.
async fn i1_behind_a_pooler_that_was_missed_no_commit_of_recovery_is_believed(kind: Kind) {
    const COUNT: u64 = 8;
    let server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    let mut records = Vec::new();
    for sequence in 1..=COUNT {
        records.push((sequence, db.prepared(sequence).await.1));
    }
    db.admin("ALTER ROLE app SET synchronous_commit = off")
        .await;
    let lines = [
        "default_pool_size = 2",
        "min_pool_size = 2",
        "server_round_robin = 1",
    ];
    let pooler = PgBouncer::start(&server, &Options::new().args(lines)).unwrap();
    let branches = Postgres::builder("orders", pooler.url()).build().unwrap();
    let_it_have_several_sessions(&db, &branches).await;
    let through = db.build(|builder| builder.recovery_address(pooler.url()));
    wait_for_standbys(&db, "nobody").await;
    let mut doubted = 0;
    for (sequence, record) in &records {
        let xid = db.xid(*sequence);
        let finish = through.finish(&xid, Decision::Commit, None);
        let error = cancelled(&db, finish).await.unwrap_err();
        assert_eq!(error.kind(), BranchErrorKind::Undetermined, "{error}");
        assert!(!db.is_prepared(*sequence).await, "it was carried out");
        doubted += u64::from(error.to_string().contains("pooler"));
        let absence = cancelled(&db, db.resource.absent(&xid, record)).await;
        let absence = absence.unwrap();
        assert!(matches!(absence, Absence::InDoubt(_)), "{absence:?}");
    }
    assert!(doubted > 0, "no other session has carried one out");
    wait_for_standbys(&db, "").await;
    for (sequence, record) in &records {
        let absence = db.resource.absent(&db.xid(*sequence), record).await;
        assert_eq!(absence.unwrap(), Absence::Finished);
        assert!(db.has_row(*sequence).await);
    }
}

/// A log's sessions are set up once: what a decision relies on would be another session's.
async fn behind_a_pooler_that_was_missed_nothing_is_decided(kind: Kind) {
    let server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    let direct = db.resource.decision_table();
    direct.init(db.opening.manager).await.unwrap();
    let own = direct.join(1, "a test").await.unwrap().opening;
    let lines = [
        "default_pool_size = 5",
        "min_pool_size = 3",
        "server_round_robin = 1",
    ];
    let pooler = PgBouncer::start(&server, &Options::new().args(lines)).unwrap();
    let resource = Postgres::builder("orders", pooler.url()).build().unwrap();
    let found = resource.decision_table().preflight().await.unwrap();
    let found = found.unwrap().findings;
    assert!(found.iter().any(|found| found.subject == "pooler"));
    let_it_have_several_sessions(&db, &resource).await;
    let table = resource.decision_table();
    let at = EpochSlot {
        epoch: own.epoch,
        slot: 0,
    };
    let mut refused = 0;
    for sequence in 1..=20 {
        let gtrid = own.gtrid(sequence);
        let row = DecisionRow {
            gtrid,
            branches: "b".to_owned(),
        };
        let decided = table.decide(at, None, &[row]).await;
        let there = direct.find(gtrid, None).await.unwrap().row.is_some();
        assert_eq!(decided.is_ok(), there, "{decided:?}");
        if let Err(error) = decided {
            assert_eq!(error.kind(), TableErrorKind::Refused, "{error}");
            assert!(error.to_string().contains("pooler"), "{error}");
            refused += 1;
        }
    }
    assert!(refused > 0, "the pooler never gave another session");
}

on_own!(
    behind_a_pooler_that_was_missed_nothing_is_decided,
    a_pooler_in_transaction_mode_is_unfit,
    i1_a_pooler_before_recovery_alone_is_unfit_and_ends_nothing,
    a_pooler_in_session_mode_does_no_harm,
    behind_a_pooler_that_was_missed_nothing_is_prepared,
    i1_behind_a_pooler_that_was_missed_no_commit_of_recovery_is_believed,
);
