//! What is forced, by looking how far the server has flushed its log: also where nothing changed.
//! (That it survives a crash is shown by the suite; that a crash happens to lose what was not
//! flushed yet, nobody can arrange.)

use unanimous_core::ports::RowAnswer;
use unanimous_mysql::mysql_async::Conn;
use unanimous_mysql::mysql_async::prelude::Queryable;
use xtask::servers::Kind;

use super::support::{PENDING, TableDb};
use crate::support::{Db, start};

const TIMES: usize = 50;

/// A client that makes log which nobody forces, and one that looks how far the server has flushed.
struct Watch {
    writer: Conn,
    admin: Conn,
    table: String,
    is_mariadb: bool,
    written: u64,
}

impl Watch {
    async fn new(t: &TableDb) -> Self {
        Self {
            writer: t.held("SELECT 1").await,
            admin: t.db.admin().await,
            table: t.db.table.clone(),
            is_mariadb: t.db.is_mariadb(),
            written: 0,
        }
    }

    async fn status(&mut self, name: &str) -> u64 {
        let sql = format!("SHOW GLOBAL STATUS LIKE '{name}'");
        let row: Option<(String, u64)> = self.admin.query_first(sql).await.unwrap();
        row.unwrap().1
    }

    /// What [`flushed`](Self::flushed) has to reach. MariaDB does not count its flushes, and MySQL
    /// tells only now and then how far it has flushed.
    async fn goal(&mut self) -> u64 {
        if self.is_mariadb {
            self.status("Innodb_lsn_current").await
        } else {
            self.flushed().await + 1
        }
    }

    async fn flushed(&mut self) -> u64 {
        let name = if self.is_mariadb {
            "Innodb_lsn_flushed"
        } else {
            "Innodb_os_log_fsyncs"
        };
        self.status(name).await
    }

    /// After how many calls of so many all that was written before is flushed.
    async fn flushed_by(&mut self, mut call: impl AsyncFnMut()) -> usize {
        let mut flushed = 0;
        for _ in 0..TIMES {
            self.written += 1;
            let write = format!("INSERT INTO {} VALUES ({}, 'v')", self.table, self.written);
            self.writer.query_drop(write).await.unwrap();
            let goal = self.goal().await;
            call().await;
            flushed += usize::from(self.flushed().await >= goal);
        }
        flushed
    }
}

/// The control: a request that wrote nothing flushes nothing, an upsert that changes nothing
/// included. Without a binary log others see a row before it is flushed.
async fn i2_what_is_forced_flushes_even_where_nothing_changes(kind: Kind) {
    let server = start(kind, &[]);
    let t = TableDb::of(Db::on(&server).await).await;
    let own = t.own.opening.epoch;
    t.decide(&[1]).await.unwrap();
    let mut watch = Watch::new(&t).await;
    let mut plain = t.db.plain().await;
    let gtrid = t.row(1).gtrid;
    let no_change = format!(
        "INSERT INTO unanimous_decision (gtrid, epoch, state, branches) \
         VALUES ('{gtrid}', 1, 'C', '') ON DUPLICATE KEY UPDATE epoch = unanimous_decision.epoch"
    );
    let idle = watch.flushed_by(async || {
        plain.query_drop(&no_change).await.unwrap();
        t.table.find(gtrid, None).await.unwrap();
    });
    let idle = idle.await;
    // The server flushes about once a second by itself.
    assert!(idle < TIMES / 2, "{idle} flushes without a write");

    let mut counts = Vec::new();
    let again = watch.flushed_by(async || {
        assert_eq!(t.decide(&[1]).await.unwrap().answers, [PENDING]);
    });
    counts.push(("decide, again", again.await));
    let put = watch.flushed_by(async || {
        t.table.put_rollback(gtrid).await.unwrap();
    });
    counts.push(("put_rollback, a row stands", put.await));
    let name = "orders".parse().unwrap();
    let noted = watch.flushed_by(async || {
        t.table.record_heuristic(gtrid, &name, 'r').await.unwrap();
    });
    counts.push(("record_heuristic, again", noted.await));
    let read = watch.flushed_by(async || {
        t.table.read(own, Some(own)).await.unwrap();
    });
    counts.push(("read", read.await));
    let found = watch.flushed_by(async || {
        t.table.find(gtrid, Some(own)).await.unwrap();
    });
    counts.push(("find", found.await));
    let made = watch.flushed_by(async || {
        t.table.init(t.own.opening.manager).await.unwrap();
    });
    counts.push(("init, again", made.await));
    let closed = watch.flushed_by(async || t.table.close(own).await.unwrap());
    counts.push(("close, again", closed.await));
    let refused = watch.flushed_by(async || {
        let answers = t.decide(&[2]).await.unwrap().answers;
        assert_eq!(answers, [RowAnswer::EpochClosed]);
    });
    counts.push(("decide, closed", refused.await));
    t.table.release(own).await.unwrap();
    let read = watch.flushed_by(async || {
        t.table.read(own, Some(own)).await.unwrap();
    });
    counts.push(("read, by a member that is gone", read.await));
    println!("{TIMES} times each: without a write {idle}, {counts:?}");
    for (what, count) in counts {
        assert_eq!(count, TIMES, "{what}");
    }
}

on_own!(i2_what_is_forced_flushes_even_where_nothing_changes);
