//! Every finding of the preflight on a server that is brought to it, and its mend, pasted.

use unanimous_core::ports::{Branch, ResourceManager, Severity};
use unanimous_postgres::Postgres;
use xtask::servers::{Kind, Options, Server};

use crate::support::{Db, eventually, finding, findings, random};

/// Runs what a mend says, as an administrator would paste it: statement by statement in one
/// session. The comment is for him.
pub(crate) async fn paste(db: &Db, mend: &str) {
    let text = mend.split("--").next().unwrap().to_owned();
    let url = db.admin_url.clone();
    let run = move || {
        let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
        for statement in text.split(';').filter(|text| !text.trim().is_empty()) {
            client.simple_query(statement).unwrap();
        }
    };
    tokio::task::spawn_blocking(run).await.unwrap();
}

async fn set(db: &Db, setting: &str, value: &str) {
    let sql = format!("ALTER SYSTEM SET {setting} = {value}; SELECT pg_reload_conf()");
    paste(db, &sql).await;
}

/// Settings that are read again while the server runs.
const SETTINGS: &[(&str, &str, Severity)] = &[
    ("fsync", "off", Severity::Error),
    ("full_page_writes", "off", Severity::Warning),
    ("synchronous_commit", "local", Severity::Note),
    ("synchronous_standby_names", "'nobody'", Severity::Warning),
    ("standard_conforming_strings", "off", Severity::Note),
    ("default_transaction_read_only", "on", Severity::Warning),
    ("idle_session_timeout", "'30s'", Severity::Warning),
    ("idle_session_timeout", "'1h'", Severity::Note),
    ("transaction_timeout", "'10min'", Severity::Note),
    ("statement_timeout", "'500ms'", Severity::Warning),
];

async fn every_setting_that_harms_is_found_and_its_mend_mends_it(kind: Kind) {
    let server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    assert_eq!(db.resource.preflight().await.unwrap().findings, []);
    for (setting, value, severity) in SETTINGS {
        if *setting == "transaction_timeout" && kind == Kind::Postgres15 {
            continue;
        }
        set(&db, setting, value).await;
        eventually("it is found", async || {
            !findings(&db.resource, setting).await.is_empty()
        })
        .await;
        let found = finding(&db.resource, setting).await;
        assert_eq!(found.severity, *severity, "{found}");
        assert!(found.evidence.contains(setting), "{found}");
        // Nothing else is found with it.
        let all = db.resource.preflight().await.unwrap().findings;
        assert_eq!(all.len(), 1, "{all:?}");
        let mend = found.mend.split(": ").last().unwrap();
        paste(&db, mend).await;
        eventually("it is mended", async || {
            findings(&db.resource, setting).await.is_empty()
        })
        .await;
        paste(
            &db,
            &format!("ALTER SYSTEM RESET {setting}; SELECT pg_reload_conf()"),
        )
        .await;
        paste(&db, "ALTER ROLE app IN DATABASE app RESET ALL").await;
    }
}

/// Weak commits matter more where a standby may take over.
async fn weak_commits_with_standbys_are_a_warning(kind: Kind) {
    let options = [
        "-c",
        "synchronous_commit=off",
        "-c",
        "synchronous_standby_names=nobody",
    ];
    let server = Server::start(kind, &Options::new().args(options)).unwrap();
    let db = Db::on(&server).await;
    let found = finding(&db.resource, "synchronous_commit").await;
    assert_eq!(found.severity, Severity::Warning, "{found}");
    paste(&db, &found.mend).await;
    assert_eq!(findings(&db.resource, "synchronous_commit").await, []);
}

/// None, too few for the pool, and too few of them free.
async fn slots_for_prepared_transactions_are_counted(kind: Kind) {
    let with = |slots: u32| {
        Options::new().args([
            "-c".to_owned(),
            format!("max_prepared_transactions={slots}"),
        ])
    };
    let mut server = Server::start(kind, &with(0)).unwrap();
    let db = Db::on(&server).await;
    for (slots, severity) in [(0, Severity::Error), (15, Severity::Warning)] {
        server.restart_with(&with(slots)).unwrap();
        let found = finding(&db.resource, "max_prepared_transactions").await;
        assert_eq!(found.severity, severity, "{found}");
        let mend =
            "ALTER SYSTEM SET max_prepared_transactions = 100; -- as a superuser, then restart";
        assert!(found.mend.starts_with(mend), "{found}");
    }
    server.restart_with(&with(16)).unwrap();
    assert_eq!(db.resource.preflight().await.unwrap().findings, []);
    let (mut branch, _) = db.prepared(1).await;
    let found = finding(&db.resource, "free_prepared_slots").await;
    assert_eq!(found.severity, Severity::Warning);
    assert!(found.evidence.contains("1 of 16"), "{found}");
    branch.commit().await.unwrap();
    assert_eq!(db.resource.preflight().await.unwrap().findings, []);
}

async fn connections_are_counted(db: &Db) {
    let (role, password) = (format!("few_{:016x}", random()), "few-secret");
    db.admin(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD '{password}' CONNECTION LIMIT 23; \
         GRANT ALL ON SCHEMA public TO {role}"
    ))
    .await;
    let url = db
        .url
        .replace("app:app-secret", &format!("{role}:{password}"));
    let resource = |pool| {
        Postgres::builder("orders", &url)
            .pool_size(pool)
            .build()
            .unwrap()
    };
    let found = finding(&resource(16), "max_connections").await;
    assert_eq!(found.severity, Severity::Warning, "{found}");
    assert!(
        found.evidence.contains("23") && found.evidence.contains("24"),
        "{found}"
    );
    assert_eq!(findings(&resource(15), "max_connections").await, []);
    db.admin(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
}

/// What is forgotten holds back vacuum. Logical replication's own are its own business.
async fn old_prepared_transactions_are_found(kind: Kind) {
    let server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    let subject = "old_prepared_transactions";
    // The time of prepare is the start of the transaction: the clock of the server cannot be
    // turned, so what it says is taken from two hours ahead by a view in front of the catalogue's.
    let (_branch, _) = db.prepared(1).await;
    assert_eq!(findings(&db.resource, subject).await, []);
    db.admin(
        "SET allow_system_table_mods = on; \
         ALTER VIEW pg_catalog.pg_prepared_xacts RENAME TO pg_prepared_really; \
         CREATE VIEW pg_catalog.pg_prepared_xacts AS SELECT transaction, gid, \
         prepared - interval '2 hours' AS prepared, owner, database \
         FROM pg_catalog.pg_prepared_really; \
         GRANT SELECT ON pg_catalog.pg_prepared_xacts TO PUBLIC",
    )
    .await;
    let found = finding(&db.resource, subject).await;
    assert_eq!(found.severity, Severity::Warning);
    assert!(found.evidence.starts_with("1 transactions"), "{found}");
    assert!(found.mend.contains("unanimous list"), "{found}");
    db.clean_prepared(1).await;
    db.sql("BEGIN; CREATE TABLE other (i int); PREPARE TRANSACTION 'pg_gid_16394_770'")
        .await;
    assert_eq!(findings(&db.resource, subject).await, []);
}

/// The right to call what recovery calls can be taken away.
async fn functions_that_may_not_be_called_are_found(kind: Kind) {
    let server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::on(&server).await;
    db.admin("REVOKE EXECUTE ON FUNCTION pg_xact_status(xid8) FROM PUBLIC")
        .await;
    let found = finding(&db.resource, "execute").await;
    assert_eq!(found.severity, Severity::Error, "{found}");
    assert!(found.evidence.contains("pg_xact_status"), "{found}");
    paste(&db, &found.mend).await;
    assert_eq!(findings(&db.resource, "execute").await, []);
}

async fn i8_set_up_sql_that_fails_is_an_error_that_does_not_quote_it(db: &Db) {
    for (setup, code) in [
        ("SET my.key = 's3cret' s3cret", "42601"),
        ("SET s3cret = 1", "42704"),
        ("SELECT 's3cret'::integer", "22P02"),
    ] {
        let resource = db.build(|builder| builder.session_setup(setup));
        let found = finding(&resource, "session_setup").await;
        assert_eq!(found.severity, Severity::Error);
        assert!(found.evidence.contains(code), "{found}");
        let error = unanimous_core::ports::Resource::open(&resource, db.env(1)).await;
        let texts = [
            format!("{found:?}"),
            crate::support::whole(&error.unwrap_err()),
        ];
        for text in texts {
            assert!(text.contains(code) && !text.contains("s3cret"), "{text}");
        }
    }
}

on_both!(
    connections_are_counted,
    i8_set_up_sql_that_fails_is_an_error_that_does_not_quote_it,
);

mod own {
    use super::*;
    on_own!(
        every_setting_that_harms_is_found_and_its_mend_mends_it,
        weak_commits_with_standbys_are_a_warning,
        slots_for_prepared_transactions_are_counted,
        old_prepared_transactions_are_found,
        functions_that_may_not_be_called_are_found,
    );
}
