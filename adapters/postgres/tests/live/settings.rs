//! Settings and ways in that would make the protocol fail, found at the start, with the mend.

use unanimous_core::ports::{
    Branch, BranchErrorKind, Cause, Problem, Resource, ResourceError, ResourceManager, Severity,
};
use unanimous_postgres::{Postgres, tokio_postgres};
use xtask::servers::{APP_DATABASE, APP_PASSWORD, APP_USER, Kind, Options, Server};

use crate::support::{Db, expect_cause, expect_prepared, finding, oracle, whole};

async fn a_fit_server_passes(db: &Db) {
    let preflight = db.resource.preflight().await.unwrap();
    assert!(preflight.is_fit(), "{preflight:?}");
    let version = db.sql("SHOW server_version").await;
    let number = version[0][0].split(' ').next().unwrap();
    assert_eq!(preflight.server, format!("PostgreSQL {number}"));
}

async fn i8_a_wrong_password_is_unfit_and_no_text_shows_it(db: &Db) {
    let url = db.url.replace(APP_PASSWORD, "not-the-secret");
    let resource = Postgres::builder("orders", url).build().unwrap();
    let error: ResourceError = resource.preflight().await.unwrap_err();
    assert_eq!(error.problem(), Problem::Unfit, "{error}");
    let opened = resource.open(db.env(1)).await.unwrap_err();
    assert_eq!(opened.kind(), BranchErrorKind::Failed, "{opened}");
    for text in [whole(&error), whole(&opened), format!("{resource:?}")] {
        assert!(!text.contains("not-the-secret"), "{text}");
    }
    let branch = db.open(1).await;
    for text in [format!("{branch:?}"), format!("{:?}", db.resource)] {
        assert!(!text.contains(APP_PASSWORD), "{text}");
    }
}

async fn a_database_that_is_not_there_is_unfit(db: &Db) {
    let url = db.url_of("no_such_database");
    let resource = Postgres::builder("orders", url).build().unwrap();
    let error = resource.preflight().await.unwrap_err();
    assert_eq!(error.problem(), Problem::Unfit, "{error}");
    assert!(error.to_string().contains("check the database"), "{error}");
}

async fn set_up_sql_runs_in_every_session_and_its_error_is_told(db: &Db) {
    let resource = db.build(|builder| builder.session_setup("SET my.own = 'set up'"));
    for sequence in 1..=3 {
        let mut branch = resource.open(db.env(sequence)).await.unwrap();
        let own = "SELECT current_setting('my.own')";
        let row = branch.query_one(own, &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), "set up");
        branch.rollback().await.unwrap();
        Box::new(branch).release().await;
    }
    let resource = db.build(|builder| builder.session_setup("SET no_such_setting = 1"));
    let error = resource.open(db.env(4)).await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Failed, "{error}");
    // Recovery does not depend on it.
    resource.recover().await.unwrap();
}

async fn a_session_tells_whose_it_is(db: &Db) {
    let resource = db.build(|builder| builder.application_name("shop"));
    let branch = resource.open(db.env(7)).await.unwrap();
    let pid = crate::support::backend_pid(&branch).await;
    let name = format!("SELECT application_name FROM pg_stat_activity WHERE pid = {pid}");
    let expected = format!("shop {}", db.xid(7).gtrid);
    assert_eq!(db.sql(&name).await[0][0], expected);
}

on_both!(
    a_fit_server_passes,
    i8_a_wrong_password_is_unfit_and_no_text_shows_it,
    a_database_that_is_not_there_is_unfit,
    set_up_sql_runs_in_every_session_and_its_error_is_told,
    a_session_tells_whose_it_is,
);

async fn disabled_prepared_transactions_are_unfit_with_the_mend(kind: Kind) {
    let off = Options::new().args(["-c", "max_prepared_transactions=0"]);
    let server = Server::start(kind, &off).unwrap();
    let db = Db::on(&server).await;
    let found = finding(&db.resource, "max_prepared_transactions").await;
    assert_eq!(found.severity, Severity::Error);
    let mend = "ALTER SYSTEM SET max_prepared_transactions = 100";
    assert!(found.mend.contains(mend), "{found}");

    // Without having asked before, the first prepare says the same.
    let mut branch = db.open_with_row(1).await;
    let error = expect_cause(branch.prepare().await, Cause::Exhausted);
    assert!(error.to_string().contains("55000"), "{error}");
    assert!(error.to_string().contains(mend), "{error}");
    db.assert_nothing_of(1).await;
}

/// The server calls it "out of memory".
async fn used_up_slots_are_exhaustion(kind: Kind) {
    let one = Options::new().args(["-c", "max_prepared_transactions=1"]);
    let server = Server::start(kind, &one).unwrap();
    let db = Db::on(&server).await;
    let (mut first, _) = db.prepared(1).await;
    let mut second = db.open_with_row(2).await;
    let error = expect_cause(second.prepare().await, Cause::Exhausted);
    assert!(error.to_string().contains("53200"), "{error}");
    assert!(
        error
            .to_string()
            .contains("raise max_prepared_transactions"),
        "{error}"
    );
    db.assert_nothing_of(2).await;
    first.commit().await.unwrap();
    let mut third = db.open_with_row(3).await;
    expect_prepared(third.prepare().await);
}

/// A restart with fewer slots than are in use does not lose them: the server refuses to start.
async fn a_server_does_not_start_with_fewer_slots_than_it_needs(kind: Kind) {
    let mut server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    let (branch, _) = db.prepared(1).await;
    drop(branch);
    let off = Options::new().args(["-c", "max_prepared_transactions=0"]);
    assert!(server.restart_with(&off).is_err());
    assert!(
        server.log().contains("max_prepared_transactions"),
        "{}",
        server.log_tail()
    );
    server.restart_with(&Options::new()).unwrap();
    assert!(db.is_listed(1).await);
    let url = db.url.clone();
    oracle(&url, &format!("COMMIT PREPARED '{}'", db.gid(1)))
        .await
        .unwrap();
    assert!(db.has_row(1).await);
}

/// The limits for a vanished host mean nothing there, and are not refused either.
async fn a_unix_socket_is_an_address_like_any_other(kind: Kind) {
    let server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    let mut config = tokio_postgres::Config::new();
    config.host_path(server.sockets()).port(server.port());
    config
        .user(APP_USER)
        .password(APP_PASSWORD)
        .dbname(APP_DATABASE);
    let resource = Postgres::builder_with("orders", config).build().unwrap();
    db.assert_works_through(&resource).await;
}

mod own {
    use super::*;
    on_own!(
        a_unix_socket_is_an_address_like_any_other,
        disabled_prepared_transactions_are_unfit_with_the_mend,
        used_up_slots_are_exhaustion,
        a_server_does_not_start_with_fewer_slots_than_it_needs,
    );
}
