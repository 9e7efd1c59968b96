//! Two accounts, and passwords that change while the application runs.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use unanimous_core::ports::{
    Absence, Branch, BranchErrorKind, Problem, Resource, ResourceManager, Severity,
};
use unanimous_core::protocol::{Decision, Heuristic};
use unanimous_postgres::{Postgres, tokio_postgres};
use xtask::servers::{Kind, Options, Server};

use crate::support::{
    Db, backend_pid, eventually, evidence_of_an_active, expect_prepared, finding, findings, random,
    record, whole,
};

/// A role of the test's own, whose address is given.
struct Role {
    name: String,
    url: String,
}

async fn role(db: &Db, prefix: &str) -> Role {
    let name = format!("{prefix}_{:016x}", random());
    db.admin(&format!("CREATE ROLE {name} LOGIN PASSWORD 'first-secret'"))
        .await;
    Role {
        url: db
            .url
            .replace("app:app-secret", &format!("{name}:first-secret")),
        name,
    }
}

async fn drop_roles(db: &Db, roles: &[&Role]) {
    for role in roles {
        let name = &role.name;
        db.admin(&format!("DROP OWNED BY {name}; DROP ROLE {name}"))
            .await;
    }
}

fn with_recovery(app: &Role, recovery: &str) -> Postgres {
    let builder = Postgres::builder("orders", &app.url);
    builder.recovery_address(recovery).build().unwrap()
}

/// The application's role has its table and nothing else; recovery's is a member of it.
async fn i6_recovery_works_by_an_account_of_its_own(db: &Db) {
    let (app, recovery) = (role(db, "app").await, role(db, "recovery").await);
    let (table, app_name, recovery_name) = (&db.table, &app.name, &recovery.name);
    db.admin(&format!(
        "GRANT SELECT, INSERT ON {table} TO {app_name}; GRANT {app_name} TO {recovery_name}"
    ))
    .await;
    let resource = with_recovery(&app, &recovery.url);
    let preflight = resource.preflight().await.unwrap();
    assert!(preflight.is_fit(), "{preflight:?}");

    for (id, decision) in [(1, Decision::Commit), (2, Decision::Rollback)] {
        let mut branch = resource.open(db.env(id)).await.unwrap();
        db.insert(&branch, id).await;
        let evidence = expect_prepared(branch.prepare().await);
        let record = record(&branch, evidence);
        drop(branch);
        let listed = resource.recover().await.unwrap().branches;
        assert!(!listed.is_empty());
        resource.finish(&db.xid(id), decision, None).await.unwrap();
        // The session that took the application's role gave it back, and is used again.
        let mine = format!("SELECT 1 FROM pg_stat_activity WHERE usename = '{recovery_name}'");
        assert_eq!(db.admin(&mine).await.len(), 1);
        let absence = resource.absent(&db.xid(id), &record).await.unwrap();
        let expected = match decision {
            Decision::Commit => Absence::Finished,
            Decision::Rollback => Absence::Heuristic(Heuristic::Rollback),
        };
        assert_eq!(absence, expected);
    }
    assert!(db.has_row(1).await && !db.has_row(2).await);

    // The fence: a session of the application's account is ended by recovery's.
    let active = resource.open(db.env(3)).await.unwrap();
    db.insert(&active, 3).await;
    let (pid, of_it) = (
        backend_pid(&active).await,
        evidence_of_an_active(&active).await,
    );
    let absence = resource.absent(&db.xid(3), &of_it).await.unwrap();
    assert_eq!(absence, Absence::Heuristic(Heuristic::Rollback));
    db.wait_gone(pid).await;
    let users = "SELECT DISTINCT usename FROM pg_stat_activity WHERE usename LIKE 'recovery_%'";
    let users = db.admin(users).await;
    assert!(users.iter().any(|row| row[0] == recovery.name), "{users:?}");
    drop((active, resource));
    db.admin(&format!("REVOKE {app_name} FROM {recovery_name}"))
        .await;
    drop_roles(db, &[&app, &recovery]).await;
}

/// What is missing is found, with the statement to paste, which mends it.
async fn a_missing_membership_is_found_and_its_mend_mends_it(db: &Db) {
    let (app, recovery) = (role(db, "app").await, role(db, "recovery").await);
    let resource = with_recovery(&app, &recovery.url);
    let found = finding(&resource, "membership").await;
    assert_eq!(found.severity, Severity::Error);
    assert!(found.evidence.contains("not a member"), "{found}");
    db.admin(&found.mend).await;
    assert!(resource.preflight().await.unwrap().is_fit());

    // A member that does not inherit may become the role, and does not see its sessions.
    let (app_name, recovery_name) = (&app.name, &recovery.name);
    let not_inherited = match db.kind {
        Kind::Postgres15 => format!("ALTER ROLE {recovery_name} NOINHERIT"),
        _ => format!("GRANT {app_name} TO {recovery_name} WITH INHERIT FALSE"),
    };
    db.admin(&not_inherited).await;
    let found = finding(&resource, "membership").await;
    assert!(found.evidence.contains("does not inherit"), "{found}");
    db.admin(&found.mend).await;
    assert_eq!(findings(&resource, "membership").await, []);
    db.admin(&format!("REVOKE {app_name} FROM {recovery_name}"))
        .await;

    // A superuser needs no membership, and is not asked for one.
    let resource = with_recovery(&app, &db.admin_url);
    assert!(resource.preflight().await.unwrap().is_fit());
    let admin = Role {
        name: String::new(),
        url: db.admin_url.clone(),
    };
    db.admin(&format!("GRANT postgres TO {recovery_name}"))
        .await;
    let found = finding(&with_recovery(&admin, &recovery.url), "superuser").await;
    assert_eq!(found.severity, Severity::Warning);
    db.admin(&format!("REVOKE postgres FROM {recovery_name}"))
        .await;
    drop_roles(db, &[&app, &recovery]).await;
}

async fn an_account_that_leads_elsewhere_or_nowhere_is_found(db: &Db) {
    let resource = |url: &str| {
        let builder = Postgres::builder("orders", &db.url);
        builder.recovery_address(url).build().unwrap()
    };
    let wrong = db.url.replace("app-secret", "not-the-secret");
    for (url, words) in [
        (db.url_of("postgres"), "another server or database"),
        (wrong, "28P01"),
        (db.url_of("no_such_database"), "3D000"),
    ] {
        let resource = resource(&url);
        let preflight = resource.preflight().await.unwrap();
        assert!(!preflight.is_fit());
        let found = finding(&resource, "recovery_address").await;
        assert!(found.evidence.contains(words), "{found}");
        assert!(
            !format!("{found:?} {resource:?}").contains("secret"),
            "{found}"
        );
        // The application's account is another matter.
        resource.open(db.env(1)).await.unwrap();
    }
    let error = resource("postgres://app@127.0.0.1:1/app").preflight().await;
    assert_eq!(error.unwrap_err().problem(), Problem::Unavailable);
}

type Asked = Arc<Mutex<String>>;

fn says(password: &Asked) -> impl Fn() -> std::future::Ready<Result<String, BoxError>> + use<> {
    let password = Arc::clone(password);
    move || {
        let password = password.lock().unwrap_or_else(PoisonError::into_inner);
        std::future::ready(Ok(password.clone()))
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The password is changed in the middle: what is open goes on, what is new asks again.
async fn passwords_are_asked_for_before_every_connection(db: &Db) {
    let (app, recovery) = (role(db, "app").await, role(db, "recovery").await);
    db.admin(&format!("GRANT {} TO {}", app.name, recovery.name))
        .await;
    let passwords: [Asked; 2] = Default::default();
    let resource = Postgres::builder("orders", app.url.replace(":first-secret", ""))
        .password_source(says(&passwords[0]))
        .recovery_address(recovery.url.replace(":first-secret", ""))
        .recovery_password_source(says(&passwords[1]))
        .build()
        .unwrap();
    let say = |text: &str| {
        for password in &passwords {
            text.clone_into(&mut password.lock().unwrap());
        }
    };
    say("first-secret");
    let mut branch = resource.open(db.env(1)).await.unwrap();
    let pid = backend_pid(&branch).await;
    resource.recover().await.unwrap();
    for name in [&app.name, &recovery.name] {
        db.admin(&format!("ALTER ROLE {name} PASSWORD 'second-secret'"))
            .await;
    }
    let error = resource.open(db.env(2)).await.unwrap_err();
    assert_eq!(error.kind(), BranchErrorKind::Failed, "{error}");
    // Pooled ones go on, of both accounts.
    branch.rollback().await.unwrap();
    Box::new(branch).release().await;
    let mut pooled = None;
    eventually("its session is wiped and lent again", async || {
        pooled = resource.open(db.env(3)).await.ok();
        pooled.is_some()
    })
    .await;
    let pooled = pooled.unwrap();
    assert_eq!(backend_pid(&pooled).await, pid);
    resource.recover().await.unwrap();
    say("second-secret");
    let new = resource.open(db.env(4)).await.unwrap();
    assert_ne!(backend_pid(&new).await, pid);
    assert!(resource.preflight().await.unwrap().is_fit());
    assert!(!format!("{resource:?} {}", whole(&error)).contains("secret"));
    drop((pooled, new, resource));
    drop_roles(db, &[&app, &recovery]).await;
}

/// A configuration made afresh for each connection.
async fn a_configuration_is_made_for_every_connection(db: &Db) {
    let made = Arc::new(AtomicUsize::new(0));
    let (url, count) = (db.url.clone(), Arc::clone(&made));
    let resource = Postgres::builder_from("orders", move || {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(
            url.parse::<tokio_postgres::Config>()
                .map_err(BoxError::from),
        )
    })
    .build()
    .unwrap();
    let mut branch = resource.open(db.env(1)).await.unwrap();
    db.insert(&branch, 1).await;
    expect_prepared(branch.prepare().await);
    branch.commit().await.unwrap();
    assert_eq!(made.load(Ordering::Relaxed), 1);
    let _second = resource.open(db.env(2)).await.unwrap();
    resource.recover().await.unwrap();
    assert_eq!(made.load(Ordering::Relaxed), 3);
    assert!(resource.preflight().await.unwrap().is_fit());
}

/// Whatever the function does: no branch, an error that names it, in bounded time.
async fn a_source_that_fails_hangs_or_panics_is_named(db: &Db) {
    let builder = || Postgres::builder("orders", &db.url);
    let configs = Postgres::builder_from("orders", || async { Err("the vault is shut".into()) });
    let fails = builder().password_source(|| async { Err("the vault is shut".into()) });
    let short = builder().connect_timeout(Duration::from_millis(200));
    let hangs = short.password_source(pending::<Result<String, BoxError>>);
    let panics = builder().password_source(|| async { panic!("s3cret") });
    let panics_at_once =
        builder().password_source(|| -> std::future::Ready<_> { panic!("s3cret") });
    for (builder, words) in [
        (fails, &["password_source failed", "the vault is shut"][..]),
        (hangs, &["password_source did not answer within 200ms"]),
        (panics, &["password_source panicked"]),
        (panics_at_once, &["password_source panicked"]),
        (configs, &["builder_from failed", "the vault is shut"]),
    ] {
        let resource = builder.build().unwrap();
        let opened = resource.open(db.env(1)).await.unwrap_err();
        assert_eq!(opened.kind(), BranchErrorKind::Unavailable, "{opened}");
        let scanned = resource.recover().await.unwrap_err();
        let checked = resource.preflight().await.unwrap_err();
        assert_eq!(checked.problem(), Problem::Unavailable, "{checked}");
        for text in [whole(&opened), whole(&scanned), whole(&checked)] {
            for word in words {
                assert!(text.contains(word), "{text}");
            }
            assert!(!text.contains("s3cret"), "{text}");
        }
    }
    let recovery = builder()
        .recovery_address(&db.url)
        .recovery_password_source(|| async { Err("the vault is shut".into()) })
        .build()
        .unwrap();
    let error = recovery.recover().await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("recovery_password_source failed"),
        "{error}"
    );
    recovery.open(db.env(1)).await.unwrap();
}

on_both!(
    i6_recovery_works_by_an_account_of_its_own,
    a_missing_membership_is_found_and_its_mend_mends_it,
    an_account_that_leads_elsewhere_or_nowhere_is_found,
    passwords_are_asked_for_before_every_connection,
    a_configuration_is_made_for_every_connection,
    a_source_that_fails_hangs_or_panics_is_named,
);

/// The account of recovery is asked of another server.
async fn another_server_is_found(kind: Kind) {
    let server = Server::start(kind, &Options::new()).unwrap();
    let db = Db::shared(kind).await;
    let builder = Postgres::builder("orders", &db.url);
    let resource = builder.recovery_address(server.url()).build().unwrap();
    let found = finding(&resource, "recovery_address").await;
    assert_eq!(found.severity, Severity::Error);
    assert!(found.evidence.contains("another server"), "{found}");
    db.clean().await;
}

mod own {
    use super::*;
    on_own!(another_server_is_found);
}
