//! What one branch leaves in its session, the next does not find (I8).

use unanimous_core::ports::{Branch, Resource};
use unanimous_mysql::mysql_async::Row;
use unanimous_mysql::mysql_async::prelude::Queryable;
use xtask::servers::Kind;

use crate::support::{Db, connection_id, expect_prepared, start};

/// COM_RESET_CONNECTION alone leaves the current database as it was: seen on both servers.
async fn i8_nothing_of_a_branch_is_left_in_its_session(db: &Db) {
    let resource = db.build(|builder| builder.pool_size(1).session_setup("SET @setup = 7"));
    let mut branch = resource.open(db.env(1)).await.unwrap();
    let first = connection_id(&mut branch).await;
    let lock = format!("lock_{}", db.table);
    branch
        .query_drop(
            format!(
                "USE information_schema; SET NAMES latin1; SET SESSION sql_mode = 'ANSI_QUOTES'; \
             SET @left = 1, @setup = 8; SET SESSION max_execution_time = 5; \
             PREPARE mine FROM 'SELECT 1'; DO GET_LOCK('{lock}', 0)"
            )
            .replace(
                "max_execution_time",
                if db.is_mariadb() {
                    "max_statement_time"
                } else {
                    "max_execution_time"
                },
            ),
        )
        .await
        .unwrap();
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    Box::new(branch).release().await;

    let mut next = resource.open(db.env(2)).await.unwrap();
    assert_eq!(
        connection_id(&mut next).await,
        first,
        "the session is used again"
    );
    let row: Row = next
        .query_first(format!(
            "SELECT DATABASE(), @@character_set_client, @@sql_mode LIKE '%ANSI_QUOTES%', @left, \
             @setup, IS_FREE_LOCK('{lock}'), @@autocommit"
        ))
        .await
        .unwrap()
        .unwrap();
    let (database, charset, ansi, left, setup, free, autocommit) =
        unanimous_mysql::mysql_async::from_row::<(String, String, bool, Option<u8>, u8, bool, u8)>(
            row,
        );
    assert_eq!((database.as_str(), charset.as_str()), ("app", "utf8mb4"));
    assert_eq!(
        (ansi, left, setup, free, autocommit),
        (false, None, 7, true, 1)
    );
    next.query_drop("EXECUTE mine").await.unwrap_err();
    next.rollback().await.unwrap();
}

/// The driver's statement cache is emptied with the session's statements.
async fn statements_that_were_prepared_before_a_wipe_are_prepared_again(db: &Db) {
    let resource = db.build(|builder| builder.pool_size(1));
    for sequence in 1..=3 {
        let mut branch = resource.open(db.env(sequence)).await.unwrap();
        db.insert(&mut branch, sequence).await.unwrap();
        expect_prepared(branch.prepare().await);
        branch.commit().await.unwrap();
        Box::new(branch).release().await;
    }
    assert!(db.has(1).await && db.has(2).await && db.has(3).await);
}

async fn isolation_and_session_set_up_are_those_of_the_resource(db: &Db) {
    use unanimous_mysql::mysql_async::IsolationLevel;
    let resource = db.build(|builder| {
        builder
            .pool_size(1)
            .isolation(IsolationLevel::ReadCommitted)
            .session_setup("SET SESSION autocommit = 0; SET @setup = 7 -- with a comment")
    });
    for sequence in 1..=2 {
        let mut branch = resource.open(db.env(sequence)).await.unwrap();
        let count = format!("SELECT COUNT(*) FROM {}", db.table);
        let before: u64 = branch.query_first(&count).await.unwrap().unwrap();
        db.sql(&format!(
            "INSERT INTO {} VALUES (10{sequence}, 'v')",
            db.table
        ))
        .await;
        let after: u64 = branch.query_first(&count).await.unwrap().unwrap();
        assert_eq!(after, before + 1, "READ COMMITTED sees it");
        let set: (u8, u8) = branch
            .query_first("SELECT @@autocommit, @setup")
            .await
            .unwrap()
            .unwrap();
        assert_eq!(set, (1, 7));
        branch.rollback().await.unwrap();
        Box::new(branch).release().await;
    }
}

/// COM_RESET_CONNECTION alone leaves the active roles as they were, too.
async fn i8_a_role_that_was_taken_is_not_carried_over(db: &Db) {
    let role = format!("r_{}", &db.table[2..10]);
    let mut admin = db.admin().await;
    admin
        .query_drop(format!("CREATE ROLE {role}; GRANT {role} TO 'app'@'%'"))
        .await
        .unwrap();
    let resource = db.build(|builder| builder.pool_size(1));
    let mut branch = resource.open(db.env(1)).await.unwrap();
    branch
        .query_drop(format!("SET ROLE {role}; USE information_schema"))
        .await
        .unwrap();
    let taken: Option<String> = branch
        .query_first("SELECT CURRENT_ROLE()")
        .await
        .unwrap()
        .unwrap();
    assert!(taken.unwrap().contains(&role));
    branch.rollback().await.unwrap();
    Box::new(branch).release().await;
    let mut next = resource.open(db.env(2)).await.unwrap();
    let taken: Option<String> = next
        .query_first("SELECT CURRENT_ROLE()")
        .await
        .unwrap()
        .unwrap();
    let none = taken.is_none_or(|role| role == "NONE");
    let database: Option<String> = next.query_first("SELECT DATABASE()").await.unwrap();
    assert_eq!(database.as_deref(), Some("app"), "put right without set-up");
    next.rollback().await.unwrap();
    admin.query_drop(format!("DROP ROLE {role}")).await.unwrap();
    assert!(none, "the role was carried over");
}

/// COM_RESET_CONNECTION gives the session the server's own character set on MySQL, whatever the
/// login has asked for (bugs.mysql.com 97633), and the driver goes on sending UTF-8.
async fn i8_text_is_written_alike_by_every_branch_of_a_session(kind: Kind) {
    let server = start(kind, &["--character-set-server=latin1"]);
    let db = Db::on(&server).await;
    let table = &db.table;
    db.sql(&format!(
        "ALTER TABLE {table} MODIFY v VARCHAR(40) CHARACTER SET utf8mb4"
    ))
    .await;
    let resource = db.build(|builder| builder.pool_size(1));
    let mut spoken = Vec::new();
    for sequence in 1..=2 {
        let mut branch = resource.open(db.env(sequence)).await.unwrap();
        let insert = format!("INSERT INTO {table} VALUES ({sequence}, 'ü')");
        branch.query_drop(insert).await.unwrap();
        let names = "SELECT @@character_set_client, @@collation_connection, \
                     @@character_set_results";
        let names: Option<(String, String, String)> = branch.query_first(names).await.unwrap();
        spoken.push(names.unwrap());
        expect_prepared(branch.prepare().await);
        branch.commit().await.unwrap();
        Box::new(branch).release().await;
    }
    let written = format!("SELECT HEX(v) FROM {table} ORDER BY id");
    let written: Vec<String> = db.plain().await.query(written).await.unwrap();
    assert_eq!(written, ["C3BC", "C3BC"]);
    assert_eq!(spoken[0], spoken[1]);
}

on_both!(
    i8_nothing_of_a_branch_is_left_in_its_session,
    statements_that_were_prepared_before_a_wipe_are_prepared_again,
    isolation_and_session_set_up_are_those_of_the_resource,
    i8_a_role_that_was_taken_is_not_carried_over,
);
on_own!(i8_text_is_written_alike_by_every_branch_of_a_session);
