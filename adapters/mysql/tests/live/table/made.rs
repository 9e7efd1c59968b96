//! The tables: made as the golden file says, to the end or again, and refused when they are not
//! ours.

use unanimous_core::ports::{TableErrorKind, TableHome};
use unanimous_core::xid::ManagerId;
use unanimous_mysql::mysql_async::prelude::Queryable;

use super::support::{TableDb, assert_error};
use crate::support::Db;

const GOLDEN: &str = include_str!("schema-v1.sql");
const PAGE: &str = include_str!("../../../../../docs/table-log-mysql.md");

const TABLES: [&str; 6] = ["log", "opening", "epoch", "decision", "heuristic", "member"];

async fn definitions(db: &Db) -> Vec<String> {
    let mut conn = db.plain().await;
    let mut all = Vec::new();
    for table in TABLES {
        let sql = format!("SHOW CREATE TABLE unanimous_{table}");
        let (_, definition): (String, String) = conn.query_first(sql).await.unwrap().unwrap();
        all.push(definition);
    }
    all
}

/// The golden file is what `ddl` says, what the page shows, and makes what `init` makes.
async fn the_schema_is_the_golden_one(db: &Db) {
    let (by_init, by_hand) = (db.in_own_database().await, db.in_own_database().await);
    let manager = ManagerId::from_bytes([0; 10]);
    let table = by_init.resource.decision_table();
    let database = by_init.url.rsplit_once('/').unwrap().1;
    let ddl = table.ddl(manager).replace(&format!("`{database}`."), "");
    assert_eq!(ddl, GOLDEN);
    assert!(PAGE.contains(GOLDEN), "the page shows another schema");
    table.init(manager).await.unwrap();
    by_hand.sql(GOLDEN).await;
    assert_eq!(definitions(&by_init).await, definitions(&by_hand).await);
    let other = by_hand.resource.decision_table();
    assert_eq!(other.check().await.unwrap().manager, manager);
    by_init.drop_database().await;
    by_hand.drop_database().await;
}

/// After a crash between any two steps nothing uses the tables, and they can be made to the end.
async fn making_the_tables_can_be_repeated_after_every_step(db: &Db) {
    let manager = ManagerId::from_bytes([1; 10]);
    let steps = GOLDEN.split(";\n").map(str::trim);
    let steps: Vec<_> = steps.filter(|step| !step.is_empty()).collect();
    assert_eq!(steps.len(), 8);
    for done in 0..steps.len() {
        let own = db.in_own_database().await;
        for step in &steps[..done] {
            own.sql(step).await;
        }
        let table = own.resource.decision_table();
        assert_error(table.check().await, TableErrorKind::Missing, &[]);
        let early = table.join(1, "early").await.unwrap_err().kind();
        let kinds = [TableErrorKind::Missing, TableErrorKind::Unfit];
        assert!(kinds.contains(&early), "{early:?} after {done} steps");
        table.init(manager).await.unwrap();
        assert_eq!(table.check().await.unwrap().manager, manager);
        assert_eq!(table.join(1, "first").await.unwrap().opening.epoch.0, 1);
        own.drop_database().await;
    }
}

/// Each says what is wrong.
async fn tables_that_are_not_as_they_should_be_are_unfit(db: &Db) {
    let t = TableDb::new(db).await;
    for (damage, mend, says) in [
        (
            "UPDATE unanimous_log SET version = 2",
            "UPDATE unanimous_log SET version = 1",
            "they are of version 2",
        ),
        (
            "UPDATE unanimous_log SET manager = 'nobody'",
            "SELECT 1",
            "a row of unanimous_log",
        ),
        (
            "ALTER TABLE unanimous_decision ENGINE=MyISAM",
            "ALTER TABLE unanimous_decision ENGINE=InnoDB",
            "is not an InnoDB table",
        ),
        (
            "ALTER TABLE unanimous_member RENAME COLUMN beats TO pulse",
            "ALTER TABLE unanimous_member RENAME COLUMN pulse TO beats",
            "not as version 1",
        ),
    ] {
        t.db.sql(damage).await;
        assert_error(t.table.check().await, TableErrorKind::Unfit, &[says]);
        t.db.sql(mend).await;
        let manager = t.own.opening.manager;
        t.db.sql(&format!("UPDATE unanimous_log SET manager = '{manager}'"))
            .await;
        t.table.check().await.unwrap();
    }
    t.db.sql("UPDATE unanimous_log SET version = 2").await;
    let joined = t.table.join(1, "late").await;
    assert_error(joined, TableErrorKind::Unfit, &[]);
    t.drop_database().await;
}

on_both!(
    the_schema_is_the_golden_one,
    making_the_tables_can_be_repeated_after_every_step,
    tables_that_are_not_as_they_should_be_are_unfit,
);
