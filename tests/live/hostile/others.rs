//! What others have prepared on a server: planted, and listed by a client of its own.

use std::collections::BTreeSet;

use mysql_async::prelude::Queryable;
use unanimous::Gtrid;

use super::names::{self, Near, OtherXid, Whose};
use crate::support::Account;

/// What was planted.
pub(super) enum Others {
    Gids(Vec<(Whose, String)>),
    Xids(Vec<(Whose, OtherXid)>),
}

impl Others {
    /// Prepares so many transactions of others, each with a row in a table of theirs.
    pub(super) async fn plant(at: &Account, near: &Near, count: usize) -> Self {
        at.sql("CREATE TABLE others (id INT PRIMARY KEY)").await;
        if at.is_postgres {
            let gids = names::gids(near, count);
            plant_gids(at, &gids).await;
            Self::Gids(gids)
        } else {
            let xids = names::xids(near, count);
            plant_xids(at, &xids).await;
            Self::Xids(xids)
        }
    }

    pub(super) fn count(&self, wanted: Whose) -> usize {
        let whose: Vec<Whose> = match self {
            Self::Gids(gids) => gids.iter().map(|(whose, _)| *whose).collect(),
            Self::Xids(xids) => xids.iter().map(|(whose, _)| *whose).collect(),
        };
        whose.into_iter().filter(|whose| *whose == wanted).count()
    }

    /// The texts by which a report names those that are nobody's of ours.
    pub(super) fn foreign_texts(&self) -> Option<BTreeSet<String>> {
        match self {
            Self::Gids(gids) => {
                let foreign = gids.iter().filter(|(whose, _)| *whose == Whose::Foreign);
                Some(foreign.map(|(_, gid)| gid.clone()).collect())
            }
            Self::Xids(_) => None,
        }
    }

    /// Exactly these are listed, byte for byte.
    pub(super) fn assert_are(&self, listed: &BTreeSet<Listed>) {
        let planted: BTreeSet<Vec<u8>> = match self {
            Self::Gids(gids) => gids
                .iter()
                .map(|(_, gid)| gid.clone().into_bytes())
                .collect(),
            Self::Xids(xids) => xids.iter().map(|(_, xid)| bytes_of(xid)).collect(),
        };
        let found: BTreeSet<Vec<u8>> = listed.iter().map(|listed| listed.name.clone()).collect();
        assert_eq!(listed.len(), found.len());
        assert!(
            planted == found,
            "planted {}, listed {}",
            planted.len(),
            found.len()
        );
    }
}

fn bytes_of(xid: &OtherXid) -> Vec<u8> {
    let OtherXid {
        format_id,
        gtrid,
        bqual,
    } = xid;
    let mut bytes = format!("{format_id} {} {} ", gtrid.len(), bqual.len()).into_bytes();
    bytes.extend(gtrid);
    bytes.extend(bqual);
    bytes
}

/// The name under which the server lists our branch of this transaction.
fn name_of_ours(at: &Account, gtrid: Gtrid) -> Vec<u8> {
    if at.is_postgres {
        return format!("unanimous:{gtrid}:orders").into_bytes();
    }
    bytes_of(&OtherXid {
        format_id: 0x554E_414E,
        gtrid: gtrid.to_string().into_bytes(),
        bqual: b"orders".to_vec(),
    })
}

/// A prepared transaction as its server lists it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listed {
    /// The GID, or the format id, the lengths and the bytes of the XID.
    name: Vec<u8>,
    /// What tells it from another one of the same name, where the server says it: its number, when
    /// it was prepared, by whom and where.
    which: String,
}

/// All that the server holds prepared: our branches of these transactions, and the rest.
pub(super) async fn listed(at: &Account, ours: &[Gtrid]) -> (BTreeSet<Listed>, BTreeSet<Listed>) {
    let all = if at.is_postgres {
        listed_gids(at).await
    } else {
        listed_xids(at).await
    };
    let ours: Vec<_> = ours.iter().map(|gtrid| name_of_ours(at, *gtrid)).collect();
    all.into_iter().partition(|one| ours.contains(&one.name))
}

async fn listed_gids(at: &Account) -> Vec<Listed> {
    let sql = "SELECT convert_to(gid, getdatabaseencoding()), \
        concat_ws(' ', transaction, prepared, owner, database) FROM pg_prepared_xacts";
    let url = at.url.clone();
    let ask = move || {
        let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
        client.query(sql, &[]).unwrap()
    };
    let rows = tokio::task::spawn_blocking(ask).await.unwrap();
    let listed = rows.iter().map(|row| Listed {
        name: row.get(0),
        which: row.get(1),
    });
    listed.collect()
}

async fn listed_xids(at: &Account) -> Vec<Listed> {
    let mut conn = at.mysql().await;
    let version: String = conn.query_first("SELECT VERSION()").await.unwrap().unwrap();
    let is_mariadb = version.contains("MariaDB");
    let recover = if is_mariadb {
        "XA RECOVER"
    } else {
        "XA RECOVER CONVERT XID"
    };
    let rows: Vec<(i64, usize, usize, Vec<u8>)> = conn.query(recover).await.unwrap();
    let listed = rows.into_iter().map(|(format_id, gtrid, bqual, data)| {
        let data = if is_mariadb { data } else { from_hex(&data) };
        assert_eq!(data.len(), gtrid + bqual);
        let (gtrid, bqual) = data.split_at(gtrid);
        Listed {
            name: bytes_of(&OtherXid {
                format_id,
                gtrid: gtrid.to_vec(),
                bqual: bqual.to_vec(),
            }),
            which: String::new(),
        }
    });
    listed.collect()
}

fn from_hex(text: &[u8]) -> Vec<u8> {
    let digits = std::str::from_utf8(text)
        .unwrap()
        .strip_prefix("0x")
        .unwrap();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

async fn plant_gids(at: &Account, gids: &[(Whose, String)]) {
    let url = at.url.clone();
    let prepare = |(id, (_, gid)): (usize, &(Whose, String))| {
        let gid = gid.replace('\'', "''");
        format!("BEGIN; INSERT INTO others VALUES ({id}); PREPARE TRANSACTION '{gid}'")
    };
    let texts: Vec<String> = gids.iter().enumerate().map(prepare).collect();
    let plant = move || {
        let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
        for text in texts {
            client.batch_execute(&text).unwrap();
        }
    };
    tokio::task::spawn_blocking(plant).await.unwrap();
}

/// Each on a connection of its own: MariaDB lets no connection that has prepared go on.
async fn plant_xids(at: &Account, xids: &[(Whose, OtherXid)]) {
    for (id, (_, xid)) in xids.iter().enumerate() {
        let xid = xid.literal();
        prepare_xid(at, &xid, &format!("INSERT INTO others VALUES ({id})")).await;
    }
}

/// Prepares one statement under this XID, and goes away.
pub(super) async fn prepare_xid(at: &Account, xid: &str, sql: &str) {
    let mut conn = at.mysql().await;
    let all = format!("XA START {xid}; {sql}; XA END {xid}; XA PREPARE {xid}");
    conn.query_drop(all).await.unwrap();
    conn.disconnect().await.unwrap();
}
