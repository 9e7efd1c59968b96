//! The tables themselves: how they are made, looked at, and what an account needs.

use unanimous_core::ports::{Branch, HandRow, TableErrorKind, TableHome};
use unanimous_core::xid::Gtrid;
use unanimous_postgres::Postgres;
use xtask::servers::{Kind, Options, Server, standby_of};

use super::support::{PENDING, TableDb, ask, assert_error, decide, manager, resource};
use crate::support::{Db, eventually, oracle, random};

/// Version 1 of the schema as it was published. It does not change: a new version has a new file.
const GOLDEN: &str = include_str!("schema-v1.sql");

/// What the catalog says of every column, key, check and index.
const CATALOG: &str = "SELECT 'column', c.relname, a.attname, \
    format_type(a.atttypid, a.atttypmod), \
    a.attnotnull::text, coalesce(co.collname, ''), coalesce(pg_get_expr(d.adbin, d.adrelid), '') \
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 \
    LEFT JOIN pg_collation co ON co.oid = a.attcollation \
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum \
    WHERE c.relnamespace = 'unanimous'::regnamespace AND c.relkind = 'r' \
    UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, \
    pg_get_constraintdef(oid), '', '', '' FROM pg_constraint \
    WHERE connamespace = 'unanimous'::regnamespace \
    UNION ALL SELECT 'index', tablename, indexname, indexdef, '', '', '' FROM pg_indexes \
    WHERE schemaname = 'unanimous' \
    UNION ALL SELECT 'log', version::text, manager, last_epoch::text, '', '', '' \
    FROM unanimous.unanimous_log ORDER BY 1, 2, 3";

async fn what_is_made_is_what_is_published(db: &Db) {
    let (one, other) = (TableDb::empty(db).await, TableDb::empty(db).await);
    assert_eq!(one.table.ddl(manager(0)), GOLDEN);
    one.table.init(manager(0)).await.unwrap();
    other.db.sql(GOLDEN).await;
    let made = one.db.sql(CATALOG).await;
    assert!(made.len() > 30, "{made:?}");
    assert_eq!(made, other.db.sql(CATALOG).await);
    let documented = include_str!("../../../../../docs/table-log-postgres.md");
    let body = GOLDEN.replace(&manager(0).to_string(), "<manager>");
    assert!(documented.contains(&body), "the page shows another schema");
    one.drop_from(db).await;
    other.drop_from(db).await;
}

/// Members that start for the first time at the same moment.
async fn tables_can_be_made_by_many_at_once(db: &Db) {
    let t = TableDb::empty(db).await;
    let making = (0..6).map(|of| {
        let table = resource(&t.db.url).decision_table();
        tokio::spawn(async move { table.init(manager(of)).await })
    });
    for made in making.collect::<Vec<_>>() {
        made.await.unwrap().unwrap();
    }
    let named = t.table.check().await.unwrap().manager;
    assert!((0..6).any(|of| manager(of) == named));
    t.drop_from(db).await;
}

/// Whoever makes them once more waits for a member that joins, and that one for nobody.
async fn a_member_joins_while_the_tables_are_made_again(db: &Db) {
    let t = TableDb::new(db).await;
    let member = t.client().await;
    let begin = "BEGIN; UPDATE unanimous.unanimous_log SET last_epoch = last_epoch + 1";
    member.batch_execute(begin).await.unwrap();
    let (url, ddl) = (t.db.url.clone(), t.table.ddl(manager(1)));
    let making = tokio::spawn(async move { oracle(&url, &ddl).await });
    t.waiters(1).await;
    let join = "INSERT INTO unanimous.unanimous_opening (epoch, nonce, identity, label) \
        VALUES (1, 'a', 'b', 'c'); COMMIT";
    member.batch_execute(join).await.unwrap();
    making.await.unwrap().unwrap();
    t.drop_from(db).await;
}

/// The administrator makes them; the account works with the documented rights, and is told by name
/// those that it lacks.
async fn an_account_needs_the_documented_rights_and_no_more(db: &Db) {
    let t = TableDb::empty(db).await;
    let role = format!("log_{:016x}", random());
    t.db.admin(&format!("CREATE ROLE {role} LOGIN PASSWORD 'first-secret'"))
        .await;
    let url =
        t.db.url
            .replace("app:app-secret", &format!("{role}:first-secret"));
    let table = resource(&url).decision_table();
    let missing = table.check().await.unwrap_err();
    assert_error(&missing, TableErrorKind::Missing, "unanimous_decision");
    let refused = table.init(manager(1)).await.unwrap_err();
    assert_error(&refused, TableErrorKind::Refused, "42501");
    t.db.admin(&t.table.ddl(manager(1))).await;

    let refused = table.check().await.unwrap_err();
    assert_error(&refused, TableErrorKind::Refused, "lacks rights");
    let text = refused.to_string();
    let grants: Vec<_> = text.split("GRANT ").skip(1).collect();
    assert_eq!(grants.len(), 8, "the schema, and each table: {text}");
    for method in ["join", "read", "beat"] {
        let error = match method {
            "join" => table.join(1, "a").await.map(|_| ()),
            "read" => table
                .read(unanimous_core::xid::Epoch(0), None)
                .await
                .map(|_| ()),
            _ => table.beat(unanimous_core::xid::Epoch(1)).await.map(|_| ()),
        };
        assert_error(&error.unwrap_err(), TableErrorKind::Refused, "42501");
    }
    for grant in grants {
        t.db.admin(&format!("GRANT {}", grant.trim())).await;
    }
    assert_eq!(table.check().await.unwrap().manager, manager(1));
    // Without any right to make something.
    table.init(manager(2)).await.unwrap();
    let own = table.join(1, "a").await.unwrap();
    assert_eq!(decide(&table, &own, &[1]).await.unwrap().answers, [PENDING]);
    let (epoch, gtrid) = (own.opening.epoch, own.opening.gtrid(1));
    table.put_rollback(own.opening.gtrid(2)).await.unwrap();
    table
        .record_heuristic(gtrid, &"orders".parse().unwrap(), 'r')
        .await
        .unwrap();
    for state in ['I', 'D'] {
        table.record_by_hand(&by_hand(gtrid, state)).await.unwrap();
    }
    assert_eq!(table.ends(None).await.unwrap().by_hand[0].state, 'D');
    assert_eq!(table.decided_at(&[gtrid]).await.unwrap().len(), 1);
    table.complete(&[gtrid]).await.unwrap();
    table.forget(&[gtrid]).await.unwrap();
    table.beat(epoch).await.unwrap();
    table.read(epoch, Some(epoch)).await.unwrap();
    table.find(gtrid, Some(epoch)).await.unwrap();
    table.close(epoch).await.unwrap();
    table.release(epoch).await.unwrap();
    t.db.admin(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
    t.drop_from(db).await;
}

fn by_hand(gtrid: Gtrid, state: char) -> HandRow {
    HandRow {
        id: 1,
        gtrid,
        resource: "orders".parse().unwrap(),
        state,
        words: "because".to_owned(),
    }
}

async fn tables_that_would_lose_decisions_are_unfit(db: &Db) {
    let t = TableDb::new(db).await;
    for (harm, words) in [
        (
            "ALTER TABLE unanimous.unanimous_decision SET UNLOGGED",
            "a crash would lose",
        ),
        (
            "ALTER TABLE unanimous.unanimous_decision DROP CONSTRAINT unanimous_decision_pkey",
            "primary key",
        ),
        (
            "UPDATE unanimous.unanimous_log SET version = 2",
            "of version 2",
        ),
        (
            "UPDATE unanimous.unanimous_log SET manager = 'x'",
            "is no id",
        ),
        ("DELETE FROM unanimous.unanimous_log", "names no manager"),
        (
            "ALTER TABLE unanimous.unanimous_log DROP version",
            "not those of the log's DDL",
        ),
    ] {
        t.db.sql(harm).await;
        let error = t.table.check().await.unwrap_err();
        assert_error(&error, TableErrorKind::Unfit, words);
        t.db.sql("DROP SCHEMA unanimous CASCADE").await;
        t.table.init(t.db.opening.manager).await.unwrap();
    }
    t.db.sql("DROP TABLE unanimous.unanimous_member").await;
    let error = t.table.check().await.unwrap_err();
    assert_error(
        &error,
        TableErrorKind::Missing,
        "unanimous_member is not there",
    );
    t.table.init(manager(9)).await.unwrap();
    assert_eq!(t.table.check().await.unwrap().manager, t.db.opening.manager);
    t.drop_from(db).await;
}

/// For messages; and a branch in this database is known by its scope.
async fn the_place_is_named_without_a_password(db: &Db) {
    let t = TableDb::new(db).await;
    let place = t.table.place();
    let url = &t.db.url;
    let tail = url.rsplit_once('@').unwrap().1;
    assert_eq!(place, format!("PostgreSQL {tail}, schema unanimous"));
    let branch = t.db.open(1).await;
    let state = t.table.check().await.unwrap();
    assert_eq!(branch.scope(), state.scope);
    assert_eq!(branch.identity(), &state.identity);
    let elsewhere = db.open(2).await;
    assert_ne!(elsewhere.scope(), state.scope, "another database");
    drop((branch, elsewhere));
    let made = Postgres::builder_from("orders", || async { Ok("host=db".parse()?) });
    let made = made.build().unwrap().decision_table().place();
    assert!(made.contains("builder_from"), "{made}");
    let many = resource("postgres://app:secret@a:1,b:2/shop").decision_table();
    assert_eq!(many.place(), "PostgreSQL a:1,b:2/shop, schema unanimous");
    t.drop_from(db).await;
}

on_both!(
    what_is_made_is_what_is_published,
    tables_can_be_made_by_many_at_once,
    a_member_joins_while_the_tables_are_made_again,
    an_account_needs_the_documented_rights_and_no_more,
    tables_that_would_lose_decisions_are_unfit,
    the_place_is_named_without_a_password,
);

async fn a_standby_is_refused(kind: Kind) {
    let primary = Server::start(kind, &Options::new()).unwrap();
    let t = TableDb::new(&Db::on(&primary).await).await;
    let standby = standby_of(&primary).unwrap();
    let name = ask(&t.db.url, "SELECT current_database()")
        .await
        .remove(0)
        .remove(0);
    let url = format!("{}{name}", standby.url().strip_suffix("app").unwrap());
    eventually("the standby has the tables", async || {
        let select = "SELECT 1 FROM unanimous.unanimous_log";
        oracle(&url, select).await.is_ok()
    })
    .await;
    let table = resource(&url).decision_table();
    let refused = TableErrorKind::Refused;
    let words = "connect to the primary";
    assert_error(&table.check().await.unwrap_err(), refused, words);
    assert_error(&table.join(1, "a").await.unwrap_err(), refused, words);
    let read = table.read(unanimous_core::xid::Epoch(0), None).await;
    assert_error(&read.unwrap_err(), refused, words);
}

mod own {
    use super::*;
    on_own!(a_standby_is_refused);
}
