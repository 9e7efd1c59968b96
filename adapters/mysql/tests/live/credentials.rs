//! Accounts: one of its own for recovery, with no more privileges than the documentation lists, and
//! passwords that change while the application runs.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::timeout;
use unanimous_core::ports::{
    Absence, Branch, BranchErrorKind, Problem, Resource, ResourceManager, Severity,
};
use unanimous_core::protocol::Decision;
use unanimous_mysql::mysql_async::Opts;
use unanimous_mysql::mysql_async::prelude::Queryable;
use unanimous_mysql::{Mysql, MysqlBuilder};
use xtask::servers::Kind;

use crate::preflight::the;
use crate::support::{Db, connection_id, eventually, expect_prepared, random, start};

/// Accounts of one test, in the database `app`.
struct Accounts {
    app: String,
    recovery: String,
}

impl Accounts {
    /// An application's account that may do what its tables need, and one for recovery that may do
    /// nothing but enter the database.
    async fn new(db: &Db) -> Self {
        let name = format!("{:08x}", random() as u32);
        let accounts = Self {
            app: format!("a{name}"),
            recovery: format!("r{name}"),
        };
        let (app, recovery, table) = (&accounts.app, &accounts.recovery, &db.table);
        let mut sql = format!(
            "CREATE USER {app}@'%' IDENTIFIED BY 'app-pw'; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON app.{table} TO {app}@'%'; \
             CREATE USER {recovery}@'%' IDENTIFIED BY 'rec-pw'; \
             GRANT REFERENCES ON app.* TO {recovery}@'%'"
        );
        if db.is_mariadb() {
            sql += &format!(
                "; GRANT SELECT ON app.unanimous_identity TO {app}@'%'; \
                 GRANT SELECT ON app.unanimous_identity TO {recovery}@'%'"
            );
        }
        db.admin().await.query_drop(sql).await.unwrap();
        accounts
    }

    /// What the documentation lists for recovery, beside entering the database.
    async fn grant(&self, db: &Db) {
        let recovery = &self.recovery;
        let sql = if db.is_mariadb() {
            format!("GRANT PROCESS, CONNECTION ADMIN ON *.* TO {recovery}@'%'")
        } else {
            format!(
                "GRANT PROCESS ON *.* TO {recovery}@'%'; \
                 GRANT CONNECTION_ADMIN, XA_RECOVER_ADMIN ON *.* TO {recovery}@'%'"
            )
        };
        db.admin().await.query_drop(sql).await.unwrap();
    }

    fn url(&self, db: &Db) -> String {
        let login = format!("{}:app-pw", self.app);
        db.url.replace("app:app-secret", &login)
    }

    /// Without a database: it is the resource's.
    fn recovery_url(&self, db: &Db) -> String {
        let login = format!("{}:rec-pw", self.recovery);
        let url = db.url.replace("app:app-secret", &login);
        url.strip_suffix("/app").unwrap().to_owned()
    }

    fn resource(&self, db: &Db) -> Mysql {
        Mysql::builder("ledger", self.url(db))
            .recovery_address(self.recovery_url(db))
            .build()
            .unwrap()
    }

    async fn drop(&self, db: &Db) {
        let sql = format!("DROP USER {}@'%', {}@'%'", self.app, self.recovery);
        db.admin().await.query_drop(sql).await.unwrap();
    }
}

/// With exactly what the documentation lists: orphans end as decided, stuck connections are ended.
async fn recovery_works_with_the_least_privileges(db: &mut Db) {
    let accounts = Accounts::new(db).await;
    accounts.grant(db).await;
    db.resource = accounts.resource(db);
    let found = db.resource.preflight().await.unwrap();
    assert!(found.is_fit(), "{found:#?}");

    let (orphan, _) = db.prepared(1).await;
    drop(orphan);
    assert!(db.is_listed(1).await);
    db.finish(&db.xid(1), Decision::Rollback).await;
    let (decided, record) = db.prepared(2).await;
    drop(decided);
    db.finish(&db.xid(2), Decision::Commit).await;
    let absence = db.resource.absent(&db.xid(2), &record).await.unwrap();
    assert_eq!(absence, Absence::Presumed);
    assert!(!db.has(1).await && db.has(2).await);

    let mut stuck = db.active(3).await;
    let connection = connection_id(&mut stuck).await;
    let running = stuck.query_drop("DO SLEEP(60)");
    assert!(timeout(Duration::from_millis(200), running).await.is_err());
    stuck.rollback().await.unwrap();
    assert!(!db.connections().await.contains(&connection));
    // A connection that is still open is ended before absence counts.
    let (mut open, record) = db.prepared(4).await;
    open.commit().await.unwrap();
    let absence = db.resource.absent(&db.xid(4), &record).await.unwrap();
    assert_eq!(absence, Absence::Presumed);
    accounts.drop(db).await;
}

/// A server quotes what it cannot read. The set-up SQL may hold secrets, so nothing of it is told.
async fn i8_a_session_set_up_that_fails_is_told_without_its_words(db: &mut Db) {
    for setup in [
        "SET @token = 's3cr3t' s3cr3t",
        "SET SESSION s3cr3t = 1",
        "SET SESSION sql_mode = 's3cr3t'",
        "SELECT * FROM s3cr3t",
    ] {
        let resource = db.build(|builder| builder.session_setup(setup));
        let error = resource.preflight().await.unwrap_err();
        assert_eq!(error.problem(), Problem::Unfit, "{setup}: {error}");
        let opened = resource.open(db.env(1)).await.map(drop).unwrap_err();
        for text in [format!("{error} {error:?}"), format!("{opened} {opened:?}")] {
            assert!(!text.contains("s3cr3t"), "{text}");
            assert!(text.contains("session_setup"), "{text}");
        }
    }
}

/// Each privilege that is missing is a finding, and what it says to paste mends it.
async fn each_privilege_that_recovery_lacks_is_found_and_mended(db: &mut Db) {
    let accounts = Accounts::new(db).await;
    let resource = accounts.resource(db);
    let mut admin = db.admin().await;
    let recovery = &accounts.recovery;
    if !db.is_mariadb() {
        let found = resource.preflight().await.unwrap();
        let finding = the(&found, "XA_RECOVER_ADMIN");
        assert!(finding.mend.contains(recovery.as_str()), "{finding}");
        admin.query_drop(&finding.mend).await.unwrap();
    }
    // It may not see the application's connections, and once it may, not end them.
    let found = resource.preflight().await.unwrap();
    let hidden = the(&found, "PROCESS").clone();
    assert_eq!(hidden.severity, Severity::Error);
    admin
        .query_drop(format!("GRANT PROCESS ON *.* TO {recovery}@'%'"))
        .await
        .unwrap();
    let found = resource.preflight().await.unwrap();
    let denied = the(&found, "CONNECTION_ADMIN");
    assert_eq!(denied.severity, Severity::Error);
    assert!(denied.evidence.contains("KILL answered"), "{denied}");
    assert_eq!(denied.mend, hidden.mend);
    admin.query_drop(&hidden.mend).await.unwrap();
    let found = resource.preflight().await.unwrap();
    assert!(found.is_fit(), "{found:#?}");
    accounts.drop(db).await;
}

/// The application's account needs no privilege to list branches; without recovery's it would.
async fn the_applications_account_needs_nothing_of_recoverys(db: &mut Db) {
    let accounts = Accounts::new(db).await;
    accounts.grant(db).await;
    let alone = Mysql::builder("ledger", accounts.url(db)).build().unwrap();
    let found = alone.preflight().await.unwrap();
    assert_eq!(found.is_fit(), db.is_mariadb(), "{found:#?}");
    assert!(accounts.resource(db).preflight().await.unwrap().is_fit());
    accounts.drop(db).await;
}

/// Two addresses that lead to two servers would look for branches where there are none.
async fn a_recovery_address_of_another_server_is_found(kind: Kind) {
    let (one, two) = (start(kind, &[]), start(kind, &[]));
    let resource = Mysql::builder("ledger", one.url())
        .recovery_address(two.admin_url())
        .build()
        .unwrap();
    let found = resource.preflight().await.unwrap();
    let finding = the(&found, "recovery_address");
    assert_eq!(finding.severity, Severity::Error);
    let same = Mysql::builder("ledger", one.url())
        .recovery_address(one.admin_url())
        .build()
        .unwrap();
    assert!(same.preflight().await.unwrap().is_fit());
}

/// A wrong password of recovery's is named with its address, and keeps no branch from opening.
async fn i8_a_refused_recovery_login_names_its_address(db: &mut Db) {
    let accounts = Accounts::new(db).await;
    let wrong = accounts.recovery_url(db).replace("rec-pw", "s3cr3t-word");
    let resource = Mysql::builder("ledger", accounts.url(db))
        .recovery_address(wrong)
        .build()
        .unwrap();
    for error in [
        resource.preflight().await.unwrap_err(),
        resource.recover().await.unwrap_err(),
    ] {
        assert_eq!(error.problem(), Problem::Unfit);
        let text = format!("{error} {error:?}");
        assert!(text.contains("recovery_address: cannot connect"), "{text}");
        assert!(!text.contains("s3cr3t-word"), "{text}");
    }
    let mut branch = resource.open(db.env(1)).await.unwrap();
    branch.rollback().await.unwrap();
    accounts.drop(db).await;
}

/// Asked before each new connection. Connections that are logged in go on, wiped or not.
async fn a_password_that_changes_is_asked_for(db: &mut Db) {
    let accounts = Accounts::new(db).await;
    accounts.grant(db).await;
    let password = Arc::new(Mutex::new("app-pw".to_owned()));
    let asked = Arc::new(AtomicUsize::new(0));
    let source = {
        let (password, asked) = (Arc::clone(&password), Arc::clone(&asked));
        move || {
            asked.fetch_add(1, Ordering::SeqCst);
            let password = password.lock().unwrap().clone();
            async move { Ok(password) }
        }
    };
    let url = accounts.url(db).replace(":app-pw", "");
    let recovery = accounts.recovery_url(db).replace(":rec-pw", "");
    let resource = Mysql::builder("ledger", url)
        .password_source(source)
        .recovery_address(recovery)
        .recovery_password_source(|| async { Ok("rec-pw".to_owned()) })
        .build()
        .unwrap();
    assert!(resource.preflight().await.unwrap().is_fit());
    let mut old = resource.open(db.env(1)).await.unwrap();
    let connection = connection_id(&mut old).await;
    old.rollback().await.unwrap();
    Box::new(old).release().await;

    let sql = format!("ALTER USER {}@'%' IDENTIFIED BY 'new-pw'", accounts.app);
    db.admin().await.query_drop(sql).await.unwrap();
    *password.lock().unwrap() = "new-pw".to_owned();
    let before = asked.load(Ordering::SeqCst);
    let mut pooled = loop {
        // The wipe of the first goes on in the background; until then a new one is made.
        let mut branch = resource.open(db.env(2)).await.unwrap();
        if connection_id(&mut branch).await == connection {
            break branch;
        }
        branch.rollback().await.unwrap();
    };
    db.insert(&mut pooled, 2).await.unwrap();
    let mut fresh = resource.open(db.env(3)).await.unwrap();
    assert!(asked.load(Ordering::SeqCst) > before);
    db.insert(&mut fresh, 3).await.unwrap();
    for branch in [&mut pooled, &mut fresh] {
        expect_prepared(branch.prepare().await);
        branch.commit().await.unwrap();
    }
    assert!(db.has(2).await && db.has(3).await);
    accounts.drop(db).await;
}

fn panics_at_once() -> std::future::Ready<Result<String, Box<dyn Error + Send + Sync>>> {
    panic!("s3cr3t-word")
}

/// A function that fails, hangs or panics: nothing has happened, and the error names it.
async fn a_password_source_that_fails_is_named_and_nothing_has_happened(db: &mut Db) {
    let url = db.url.replace(":app-secret", "");
    let within = Duration::from_millis(300);
    let with = |builder: MysqlBuilder| builder.connect_timeout(within).build().unwrap();
    let builder = || Mysql::builder("ledger", &url);
    let fails = with(builder().password_source(|| async { Err("the vault is sealed".into()) }));
    let hangs = with(builder().password_source(std::future::pending));
    let panics = with(builder().password_source(panics_at_once));
    let panics_late = with(builder().password_source(|| async { panic!("s3cr3t-word") }));
    for (resource, says) in [
        (fails, "failed: the vault is sealed"),
        (hangs, "gave no answer in 300ms"),
        (panics, "panicked"),
        (panics_late, "panicked"),
    ] {
        let limit = Duration::from_secs(60);
        let opened = timeout(limit, resource.open(db.env(1))).await.unwrap();
        let error = opened.unwrap_err();
        assert_eq!(error.kind(), BranchErrorKind::Unavailable, "{error}");
        let text = format!("{error} {error:?}");
        assert!(
            text.contains(says) && text.contains("password_source"),
            "{text}"
        );
        assert!(text.contains("nothing has happened"), "{text}");
        assert!(!text.contains("s3cr3t-word"), "{text}");
        let error = resource.preflight().await.unwrap_err();
        assert_eq!(error.problem(), Problem::Unavailable, "{error}");
    }
}

/// All options are asked for, checked each time, and used for branches and for recovery.
async fn options_can_be_asked_for_each_connection(db: &mut Db) {
    let answer = Arc::new(Mutex::new(Ok(db.url.clone())));
    let source = {
        let answer = Arc::clone(&answer);
        move || {
            let answer: Result<String, &str> = answer.lock().unwrap().clone();
            async move { Ok(Opts::from_url(&answer?)?) }
        }
    };
    let resource = Mysql::builder_from("ledger", source).build().unwrap();
    db.resource = resource.clone();
    assert!(resource.preflight().await.unwrap().is_fit());
    let (branch, _) = db.prepared(1).await;
    drop(branch);
    db.finish(&db.xid(1), Decision::Commit).await;
    assert!(db.has(1).await);
    let host = db.url.strip_suffix("/app").unwrap();
    for (wrong, says) in [
        (Ok(host.to_owned()), "names no database"),
        (Err("no idea"), "given to builder_from failed: no idea"),
    ] {
        *answer.lock().unwrap() = wrong;
        let error = resource.preflight().await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    *answer.lock().unwrap() = Ok(db.url.clone());
    eventually("it works again", async || {
        resource.preflight().await.is_ok()
    })
    .await;
}

macro_rules! on_both_mut {
    ($($name:ident),+ $(,)?) => {
        mod mysql {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let mut db = crate::support::Db::shared(xtask::servers::Kind::Mysql).await;
                super::$name(&mut db).await;
                crate::support::Db::reset(&mut db);
                db.clean().await;
            })+
        }
        mod mariadb {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let mut db = crate::support::Db::shared(xtask::servers::Kind::Mariadb).await;
                super::$name(&mut db).await;
                crate::support::Db::reset(&mut db);
                db.clean().await;
            })+
        }
    };
}

on_both_mut!(
    recovery_works_with_the_least_privileges,
    each_privilege_that_recovery_lacks_is_found_and_mended,
    the_applications_account_needs_nothing_of_recoverys,
    i8_a_refused_recovery_login_names_its_address,
    a_password_that_changes_is_asked_for,
    a_password_source_that_fails_is_named_and_nothing_has_happened,
    options_can_be_asked_for_each_connection,
    i8_a_session_set_up_that_fails_is_told_without_its_words,
);
on_own!(a_recovery_address_of_another_server_is_found);
