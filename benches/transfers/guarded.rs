//! Two phases by hand with the very statements of ours: the limits of a branch, the guard before
//! its prepare, the wipe of its session. No log, no recovery.
//!
//! It is the limit of whatever leaves nothing of one branch to the next, and prepares nothing that
//! is not what was begun: what it takes, no coordinator can save.

use futures_util::future::try_join;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use unanimous::postgres::tokio_postgres::Client;

use crate::Error;

/// As in `unanimous_postgres`.
const WIPE: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; \
    SET tcp_user_timeout = 60000; SET tcp_keepalives_idle = 15; \
    SET tcp_keepalives_interval = 15; SET tcp_keepalives_count = 3; UNLISTEN *; DISCARD TEMP; \
    DISCARD SEQUENCES; SELECT pg_catalog.pg_advisory_unlock_all(); \
    SELECT (pg_catalog.pg_prepared_statement()).from_sql";

/// As in `unanimous_mysql`, for a session that was reset.
const SETTINGS: &str = "NAMES utf8mb4 COLLATE utf8mb4_general_ci, SESSION autocommit = 1, \
    SESSION innodb_lock_wait_timeout = 50, lock_wait_timeout = 50, wait_timeout = 60; USE `app`; \
    SET ROLE NONE";

pub(crate) async fn prepare_both(
    pg: &Client,
    my: &mut Conn,
    xid: &str,
    debit: &str,
    credit: &str,
) -> Result<(), Error> {
    let pay = async {
        let begin = format!(
            "BEGIN; SET LOCAL unanimous.xid = {xid}; SET LOCAL lock_timeout = 10000; \
             SET LOCAL idle_in_transaction_session_timeout = 60000; \
             SET LOCAL application_name = {xid}"
        );
        pg.batch_execute(&begin).await?;
        Ok::<_, Error>(pg.batch_execute(debit).await?)
    };
    let get = async {
        my.query_drop(format!("SET {SETTINGS}; XA START {xid}"))
            .await?;
        Ok::<_, Error>(my.query_drop(credit).await?)
    };
    try_join(pay, get).await?;
    let pay = async {
        let prepare = format!(
            "SELECT CASE WHEN pg_catalog.pg_backend_pid() = 0 \
             THEN pg_catalog.current_setting('unanimous.another_server_session_answers') \
             WHEN pg_catalog.current_setting('unanimous.xid', true) IS DISTINCT FROM {xid} \
             THEN pg_catalog.current_setting('unanimous.the_marker_of_the_branch_is_gone') \
             ELSE pg_catalog.pg_current_xact_id()::text END; \
             SET client_min_messages = warning; SET synchronous_commit = on; \
             SAVEPOINT unanimous_guard; PREPARE TRANSACTION {xid}"
        );
        Ok::<_, Error>(pg.batch_execute(&prepare).await?)
    };
    let end_and_prepare = format!("XA END {xid}; XA PREPARE {xid}");
    let get = async { Ok::<_, Error>(my.query_drop(end_and_prepare).await?) };
    try_join(pay, get).await?;
    Ok(())
}

pub(crate) async fn commit_both(pg: &Client, my: &mut Conn, xid: &str) -> Result<(), Error> {
    let pay = async {
        let commit = format!("COMMIT PREPARED {xid}");
        try_join(pg.batch_execute(&commit), pg.batch_execute(WIPE)).await?;
        Ok::<_, Error>(())
    };
    let get = async { Ok::<_, Error>(my.query_drop(format!("XA COMMIT {xid}")).await?) };
    try_join(pay, get).await?;
    Ok(())
}
