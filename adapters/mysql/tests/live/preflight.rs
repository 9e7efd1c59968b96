//! What the preflight objects to, and that its mend mends.

use unanimous_core::ports::{BranchErrorKind, Problem, Resource, ResourceError, ResourceManager};
use unanimous_mysql::Mysql;
use unanimous_mysql::mysql_async::prelude::Queryable;
use xtask::servers::{Kind, Options};

use crate::support::{Db, random, start};

fn objection(error: &ResourceError) -> String {
    assert_eq!(error.problem(), Problem::Unfit, "{error}");
    error.to_string()
}

/// The statement between `from` and `to` in a message.
fn statement<'a>(message: &'a str, from: &str, to: Option<&str>) -> &'a str {
    let begin = message
        .find(from)
        .unwrap_or_else(|| panic!("{from} in {message}"));
    let rest = &message[begin..];
    let end = to.map_or(rest.len(), |to| rest.find(to).unwrap());
    &rest[..end]
}

async fn a_fit_server_passes_again_and_again(db: &Db) {
    let identity = db.resource.preflight().await.unwrap().identity.unwrap();
    let prefix = if db.is_mariadb() {
        "mariadb:"
    } else {
        "mysql:"
    };
    assert!(identity.as_str().starts_with(prefix), "{identity}");
    assert_eq!(
        db.resource.preflight().await.unwrap().identity.unwrap(),
        identity
    );
    assert_eq!(
        db.build(|builder| builder)
            .preflight()
            .await
            .unwrap()
            .identity
            .unwrap(),
        identity
    );
}

/// Without the flush at each commit an acknowledged prepare vanishes with the server.
async fn a_server_that_does_not_flush_is_refused(kind: Kind) {
    let args = [
        "--innodb-flush-log-at-trx-commit=0",
        "--log-bin=binlog",
        "--sync-binlog=0",
    ];
    let mut server = start(kind, &args);
    let resource = Mysql::builder("ledger", server.url()).build().unwrap();
    let message = objection(&resource.preflight().await.unwrap_err());
    assert!(
        message.contains("innodb_flush_log_at_trx_commit = 1"),
        "{message}"
    );
    assert!(message.contains("sync_binlog = 1"), "{message}");
    let options = Options::new().args(["--log-bin=binlog", "--sync-binlog=1", "--server-id=1"]);
    tokio::task::block_in_place(|| server.restart_with(&options)).unwrap();
    resource.preflight().await.unwrap();
}

/// MySQL answers 1401, which reads like a broken branch, to an account without XA_RECOVER_ADMIN.
async fn a_missing_privilege_is_named_and_granting_it_mends_it(db: &Db) {
    let user = format!("u{:08x}", random() as u32);
    let mut admin = db.admin().await;
    admin
        .query_drop(format!(
            "CREATE USER '{user}'@'%' IDENTIFIED BY 'pw'; \
             GRANT SELECT, INSERT ON app.* TO '{user}'@'%'"
        ))
        .await
        .unwrap();
    let url = db.url.replace("app:app-secret", &format!("{user}:pw"));
    let resource = Mysql::builder("ledger", url).build().unwrap();
    let result = resource.preflight().await;
    if db.is_mariadb() {
        result.unwrap();
    } else {
        let message = objection(&result.unwrap_err());
        let error = resource.recover().await.unwrap_err();
        assert_eq!(objection(&error), message);
        let grant = statement(&message, "GRANT XA_RECOVER_ADMIN", None);
        admin.query_drop(grant).await.unwrap();
        resource.preflight().await.unwrap();
    }
    admin
        .query_drop(format!("DROP USER '{user}'@'%'"))
        .await
        .unwrap();
}

/// MariaDB needs a row that tells it from its copies; without the right to make it, the message has
/// the statements for the administrator.
async fn a_mariadb_without_its_identity_row_says_what_to_run(db: &Db) {
    if !db.is_mariadb() {
        return;
    }
    let name = format!("db_{:08x}", random() as u32);
    let mut admin = db.admin().await;
    let set_up = format!(
        "CREATE DATABASE {name}; CREATE USER '{name}'@'%' IDENTIFIED BY 'pw'; \
         GRANT INSERT ON {name}.* TO '{name}'@'%'"
    );
    admin.query_drop(set_up).await.unwrap();
    let host = db
        .url
        .split_once('@')
        .unwrap()
        .1
        .rsplit_once('/')
        .unwrap()
        .0;
    let resource = Mysql::builder("ledger", format!("mysql://{name}:pw@{host}/{name}"));
    let resource = resource.build().unwrap();
    let message = objection(&resource.preflight().await.unwrap_err());
    let opened = resource.open(db.env(1)).await.unwrap_err();
    assert_eq!(opened.kind(), BranchErrorKind::Failed, "{opened}");
    let mend = statement(&message, "CREATE TABLE", None);
    admin.query_drop(format!("USE {name}")).await.unwrap();
    admin.query_drop(mend).await.unwrap();
    let identity = resource.preflight().await.unwrap().identity.unwrap();
    let mut branch = resource.open(db.env(1)).await.unwrap();
    assert_eq!(*unanimous_core::ports::Branch::identity(&branch), identity);
    unanimous_core::ports::Branch::rollback(&mut branch)
        .await
        .unwrap();
    admin
        .query_drop(format!("DROP USER '{name}'@'%'; DROP DATABASE {name}"))
        .await
        .unwrap();
}

/// A session that was connected before the row was made learns of it.
async fn the_identity_row_is_found_by_sessions_that_are_older(kind: Kind) {
    let server = start(kind, &[]);
    let resource = Mysql::builder("ledger", server.url()).build().unwrap();
    let scanned = resource.recover().await;
    assert_eq!(scanned.is_err(), kind == Kind::Mariadb, "{scanned:?}");
    let identity = resource.preflight().await.unwrap().identity.unwrap();
    assert_eq!(resource.recover().await.unwrap().identity, identity);
}

on_both!(
    a_fit_server_passes_again_and_again,
    a_missing_privilege_is_named_and_granting_it_mends_it,
    a_mariadb_without_its_identity_row_says_what_to_run,
);
on_own!(
    a_server_that_does_not_flush_is_refused,
    the_identity_row_is_found_by_sessions_that_are_older,
);
