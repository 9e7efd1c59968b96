//! What is written where people read it: enough to follow a transaction, nothing when all is well,
//! and never a secret (I8).

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;
use unanimous::log::FileLog;
use unanimous::mysql::Mysql;
use unanimous::postgres::Postgres;
use unanimous::{StartError, TransactionManager};

use crate::support::{Account, Bank, Db, Transfer, short_intervals, table};

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn up_to(&self, level: Level) -> tracing::subscriber::DefaultGuard {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(self.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Written {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

/// One commit and one rollback, watched at a level. One thread, so that the subscriber of this test
/// hears the tasks, too.
async fn watched(level: Level, test: &str) -> (String, unanimous::Gtrid) {
    let name = table(test);
    let from = Account::create(Db::PostgresNewest, &name).await;
    let to = Account::create(Db::Mysql, &name).await;
    let folder = tempfile::tempdir().unwrap();
    let transfer = Transfer::<Postgres, Mysql>::new(&from, &to);
    let tm = transfer
        .builder(&folder.path().join("log"))
        .start()
        .await
        .unwrap();
    let written = Written::default();
    let guard = written.up_to(level);
    let committed = transfer.begin(&tm).await.unwrap().commit().await.unwrap();
    transfer.begin(&tm).await.unwrap().rollback().await;
    tm.recover().await;
    drop(guard);
    tm.shutdown().await.unwrap();
    from.drop_table().await;
    to.drop_table().await;
    (written.text(), committed.gtrid())
}

#[tokio::test]
async fn a_healthy_commit_is_quiet() {
    let (text, _) = watched(Level::INFO, "quiet").await;
    assert_eq!(text, "");
}

#[tokio::test]
async fn a_commit_can_be_followed_by_gtrid_resource_and_phase() {
    let (text, gtrid) = watched(Level::DEBUG, "followed").await;
    for phase in ["prepare", "decide", "commit"] {
        let line = text.lines().find(|line| {
            line.contains(&gtrid.to_string()) && line.contains(&format!("phase=\"{phase}\""))
        });
        let line = line.unwrap_or_else(|| panic!("no {phase} of {gtrid} in:\n{text}"));
        assert!(line.contains("elapsed"), "{line}");
    }
    assert!(
        text.contains("resource=orders") && text.contains("resource=ledger"),
        "{text}"
    );
}

#[tokio::test]
async fn i8_no_password_is_written_at_any_level_or_shown_by_any_error() {
    let (text, _) = watched(Level::TRACE, "secrets").await;
    assert!(!text.contains("app-secret"), "{text}");

    let written = Written::default();
    let _guard = written.up_to(Level::TRACE);
    let wrong = |url: String| url.replace("app-secret", "wr0ng-pa55word");
    let orders = Postgres::connect("orders", &wrong(Db::PostgresNewest.url()));
    let ledger = Mysql::connect("ledger", &wrong(Db::Mysql.url()));
    let folder = tempfile::tempdir().unwrap();
    let started = TransactionManager::builder()
        .log(FileLog::at(folder.path().join("log")))
        .resource(&orders)
        .resource(&ledger)
        .config(short_intervals)
        .start()
        .await;
    let shown = match started {
        Ok(tm) => {
            let error = tm
                .begin()
                .enlist((&orders, &ledger))
                .await
                .map(|_| ())
                .unwrap_err();
            format!(
                "{error} {error:?} {:?} {orders:?} {ledger:?}",
                tm.start_report()
            )
        }
        Err(error) => format!("{error} {error:?} {orders:?} {ledger:?}"),
    };
    for text in [written.text(), shown] {
        assert!(!text.contains("wr0ng-pa55word"), "{text}");
    }
}

#[tokio::test]
async fn i6_the_start_does_not_wait_for_a_server_that_does_not_answer() {
    // A listener that never answers: worse than one that refuses.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let orders = Postgres::connect("orders", &format!("postgres://app@127.0.0.1:{port}/app"));
    let ledger = Mysql::connect("ledger", &Db::Mysql.url());
    let folder = tempfile::tempdir().unwrap();
    let builder = TransactionManager::builder()
        .log(FileLog::at(folder.path().join("log")))
        .resource(&orders)
        .resource(&ledger)
        .config(|config| config.start_timeout = Duration::from_millis(500));
    // The connect time-out is far longer; only the order of events is asserted.
    let tm = builder.start().await.unwrap();
    let unfinished = &tm.start_report().unfinished;
    assert_eq!(unfinished, &["orders".parse().unwrap()]);
    let mut tx = tm.begin();
    tx.enlist(&ledger).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn an_unfit_server_is_refused_at_start_with_the_mend() {
    use xtask::servers::{Kind, Options, Server};
    let options = Options::new().args(["-c", "max_prepared_transactions=0"]);
    let start = move || Server::start(Kind::PostgresNewest, &options);
    let server = tokio::task::spawn_blocking(start).await.unwrap().unwrap();
    let orders = Postgres::connect("orders", &server.url());
    let folder = tempfile::tempdir().unwrap();
    let builder = TransactionManager::builder()
        .log(FileLog::at(folder.path().join("log")))
        .resource(&orders);
    let error = builder.start().await.unwrap_err();
    assert!(matches!(error, StartError::Unfit(_)), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("orders") && text.contains("ALTER SYSTEM SET max_prepared"),
        "{text}"
    );
}
