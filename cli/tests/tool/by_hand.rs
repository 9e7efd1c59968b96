//! Branches that were prepared without any manager: by other programs, by a person, or late.

use std::time::Duration;

use mysql_async::prelude::Queryable;

use crate::support::Service;

/// The X/Open format id of Unanimous.
const FORMAT_ID: u32 = 0x554E_414E;

/// The same opening, another transaction: as if its prepare had come late.
pub(crate) fn other_of(gtrid: &str) -> String {
    let (opening, sequence) = gtrid.rsplit_once('-').unwrap();
    format!("{opening}-{sequence}777")
}

/// The same manager and epoch, an opening that no log lists.
pub(crate) fn unlisted_of(gtrid: &str) -> String {
    let parts: Vec<_> = gtrid.split('-').collect();
    let nonce = parts[2];
    let last = if nonce.ends_with('0') { "1" } else { "0" };
    let nonce = format!("{}{last}", &nonce[..nonce.len() - 1]);
    [parts[0], parts[1], &nonce, parts[3]].join("-")
}

impl Service {
    /// Prepares a row in the orders under this text.
    pub(crate) async fn prepare_orders(&self, gid: &str, id: u32) {
        let (table, gid) = (&self.table, gid.replace('\'', "''"));
        self.orders(&format!(
            "BEGIN; INSERT INTO {table} VALUES ({id}); SAVEPOINT s; PREPARE TRANSACTION '{gid}'"
        ))
        .await;
    }

    /// Ends it again. Fails if it is not there any more.
    pub(crate) async fn unprepare_orders(&self, gid: &str) {
        let gid = gid.replace('\'', "''");
        self.orders(&format!("ROLLBACK PREPARED '{gid}'")).await;
    }

    /// Prepares a row in the ledger under this XID, in the server's words.
    pub(crate) async fn prepare_ledger(&self, xid: &str, id: u32) {
        let mut session = self.ledger().await;
        let table = &self.table;
        for sql in [
            format!("XA START {xid}"),
            format!("INSERT INTO {table} VALUES ({id})"),
            format!("XA END {xid}"),
            format!("XA PREPARE {xid}"),
        ] {
            session.query_drop(sql).await.unwrap();
        }
        session.disconnect().await.unwrap();
    }

    /// Ends it again. Fails if it is not there any more.
    pub(crate) async fn unprepare_ledger(&self, xid: &str) {
        let mut session = self.ledger().await;
        let mut attempt = 1;
        // Until the session that prepared it is gone, MariaDB does not know it.
        while let Err(error) = session.query_drop(format!("XA ROLLBACK {xid}")).await {
            assert!(attempt < 100, "{error}");
            attempt += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Unanimous's own names for a branch, in PostgreSQL's words.
pub(crate) fn gid(gtrid: &str, resource: &str) -> String {
    format!("unanimous:{gtrid}:{resource}")
}

/// The same in MySQL's words.
pub(crate) fn xid(gtrid: &str, resource: &str) -> String {
    let hex = |text: &str| text.bytes().map(|b| format!("{b:02x}")).collect::<String>();
    format!("X'{}',X'{}',{FORMAT_ID}", hex(gtrid), hex(resource))
}
