//! I6: GIDs of others whose bytes are no UTF-8. PostgreSQL takes them in a database with another
//! encoding, and refuses to send them as text to a client that speaks UTF-8.

use std::collections::BTreeSet;

use unanimous::TransactionManager;
use unanimous::log::FileLog;
use unanimous::postgres::Postgres;
use xtask::servers::{Kind, Server};

use super::{create, start};
use crate::support::{Account, Bank, short_intervals};

/// As SQL, and as a report shows them.
const GIDS: [(&str, &str); 4] = [
    (r"E'caf\xe9'", r"E'caf\xe9'"),
    (r"E'\x81\x8d\'\\ \n'", r"E'\x81\x8d\x27\x5c \x0a'"),
    ("'it''s plain'", "it's plain"),
    // UTF-8, wherever it is.
    (r"E'\xc3\xa9'", "\u{e9}"),
];

fn to_database(url: &str, database: &str) -> String {
    let (server, _) = url.rsplit_once('/').unwrap();
    format!("{server}/{database}")
}

async fn admin(server: &Server, database: &str, sql: String) {
    let account = Account {
        url: to_database(&server.admin_url(), database),
        table: String::new(),
        is_postgres: true,
    };
    account.sql(&sql).await;
}

/// From a database that takes any bytes for text: elsewhere the GIDs of all databases of the
/// cluster cannot even be looked at.
async fn listed(server: &Server) -> BTreeSet<Vec<u8>> {
    let account = Account {
        url: to_database(&server.admin_url(), "sql_ascii"),
        table: String::new(),
        is_postgres: true,
    };
    let sql = "SELECT convert_to(gid, getdatabaseencoding()) FROM pg_prepared_xacts";
    let ask = move |client: &mut postgres::Client| client.query(sql, &[]).unwrap();
    let rows = account.postgres(ask).await;
    rows.iter().map(|row| row.get(0)).collect()
}

async fn in_a_database_with(server: &Server, encoding: &str) {
    let name = encoding.to_lowercase();
    let create_database = format!(
        "CREATE DATABASE {name} OWNER app ENCODING '{encoding}' TEMPLATE template0 \
         LC_COLLATE 'C' LC_CTYPE 'C'"
    );
    admin(server, "app", create_database).await;
    let account = Account {
        url: to_database(&server.url(), &name),
        table: "t".to_owned(),
        is_postgres: true,
    };
    account.sql(&create("t")).await;
    let orders = Postgres::connect("orders", &account.url);
    let folder = tempfile::tempdir().unwrap();
    let manager = || async {
        let log = FileLog::at(folder.path().join("log"));
        let builder = TransactionManager::builder().log(log).resource(&orders);
        builder.config(short_intervals).start().await.unwrap()
    };
    let tm = manager().await;
    let gtrid = tm.begin().gtrid();
    tm.shutdown().await.unwrap();
    let before = listed(server).await;
    for (gid, _) in GIDS {
        // Unique in the cluster.
        let gid = format!("{}{name}'", &gid[..gid.len() - 1]);
        account
            .sql(&format!("BEGIN; PREPARE TRANSACTION {gid}"))
            .await;
    }
    let planted = listed(server).await;
    assert_eq!(planted.len(), before.len() + GIDS.len());
    let ours = format!("BEGIN; PREPARE TRANSACTION 'unanimous:{gtrid}:orders'");
    account.sql(&ours).await;

    let tm = manager().await;
    let report = tm.start_report();
    let at = &report.resources[0];
    assert!(at.error.is_none(), "{report}");
    assert_eq!(at.rolled_back, 1, "{report}");
    let shown: BTreeSet<&str> = at.foreign.iter().map(String::as_str).collect();
    let expected = GIDS.map(|(_, shown)| match shown.strip_suffix('\'') {
        Some(shown) if shown.starts_with("E'") => format!("{shown}{name}'"),
        _ => format!("{shown}{name}"),
    });
    assert_eq!(shown, expected.iter().map(String::as_str).collect());
    tm.shutdown().await.unwrap();
    assert_eq!(listed(server).await, planted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_gids_of_others_that_are_no_utf_8_keep_recovery_from_nothing() {
    for kind in [Kind::Postgres15, Kind::PostgresNewest] {
        let server = start(kind, &["-c", "max_prepared_transactions=30"]).await;
        for encoding in ["SQL_ASCII", "WIN1252"] {
            in_a_database_with(&server, encoding).await;
        }
    }
}
