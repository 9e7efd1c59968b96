//! The databases as an independent client sees them: rows, what is prepared, locks, sessions.

use std::collections::HashMap;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use unanimous::postgres::tokio_postgres;

use super::cell::Mix;
use crate::support::Db;

/// How many rows a cell has: one for each transaction.
pub(crate) const ROWS: i64 = 16;

/// One database of a cell.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) is_postgres: bool,
}

impl Place {
    pub(super) fn of(mix: Mix, own: Option<(Db, &str)>) -> Vec<Self> {
        let place = |db: &Db| {
            let own = own.filter(|(own, _)| own == db).map(|(_, url)| url);
            Self {
                url: own.map_or_else(|| db.url(), str::to_owned),
                is_postgres: db.is_postgres(),
            }
        };
        mix.branches().0.iter().map(place).collect()
    }
}

/// Connections of nobody's but the judge's.
#[derive(Default)]
pub(crate) struct Judges {
    postgres: HashMap<String, tokio_postgres::Client>,
    mysql: HashMap<String, mysql_async::Conn>,
}

pub(crate) type Answer = Result<Vec<Vec<u8>>, String>;

impl Judges {
    /// The first column of what the database answers. A server that has just come back may refuse
    /// at first.
    pub(crate) async fn ask(&mut self, place: &Place, sql: &str) -> Answer {
        let mut answer = self.try_ask(place, sql).await;
        for _ in 0..300 {
            if answer.is_ok() {
                break;
            }
            self.postgres.remove(&place.url);
            self.mysql.remove(&place.url);
            tokio::time::sleep(Duration::from_millis(50)).await;
            answer = self.try_ask(place, sql).await;
        }
        answer
    }

    pub(crate) async fn try_ask(&mut self, place: &Place, sql: &str) -> Answer {
        if place.is_postgres {
            let client = self.postgres(&place.url).await?;
            let messages = client.simple_query(sql).await;
            let messages = messages.map_err(|error| format!("{error:?}"))?;
            let rows = messages.into_iter().filter_map(|message| {
                let tokio_postgres::SimpleQueryMessage::Row(row) = message else {
                    return None;
                };
                Some(row.get(0).unwrap_or_default().as_bytes().to_vec())
            });
            Ok(rows.collect())
        } else {
            let conn = self.mysql(&place.url).await?;
            let rows: Vec<mysql_async::Row> =
                conn.query(sql).await.map_err(|error| error.to_string())?;
            let column = if sql == "XA RECOVER" { 3 } else { 0 };
            let value = |row: mysql_async::Row| row.get::<Vec<u8>, _>(column).unwrap_or_default();
            Ok(rows.into_iter().map(value).collect())
        }
    }

    async fn postgres(&mut self, url: &str) -> Result<&tokio_postgres::Client, String> {
        if !self.postgres.contains_key(url) {
            let connected = tokio_postgres::connect(url, tokio_postgres::NoTls).await;
            let (client, connection) = connected.map_err(|error| error.to_string())?;
            // Its end is told by the client.
            tokio::spawn(async move { drop(connection.await) });
            self.postgres.insert(url.to_owned(), client);
        }
        Ok(&self.postgres[url])
    }

    async fn mysql(&mut self, url: &str) -> Result<&mut mysql_async::Conn, String> {
        if !self.mysql.contains_key(url) {
            let opts = mysql_async::Opts::from_url(url).map_err(|error| error.to_string())?;
            let opts = mysql_async::OptsBuilder::from_opts(opts).prefer_socket(false);
            let conn = mysql_async::Conn::new(opts).await;
            let conn = conn.map_err(|error| error.to_string())?;
            self.mysql.insert(url.to_owned(), conn);
        }
        Ok(self.mysql.get_mut(url).expect("just inserted"))
    }

    /// Makes the table of this run.
    pub(crate) async fn make_table(&mut self, place: &Place, table: &str) {
        let engine = if place.is_postgres {
            ""
        } else {
            " ENGINE=InnoDB"
        };
        let sql = format!("CREATE TABLE {table} (id BIGINT PRIMARY KEY, n INT){engine}");
        self.ask(place, &sql).await.unwrap();
    }

    pub(crate) async fn drop_table(&mut self, place: &Place, table: &str) {
        // What a failed cell has left locked stays.
        let _ = self.try_ask(place, &format!("DROP TABLE {table}")).await;
    }

    /// Fresh rows, from `first` on.
    pub(crate) async fn make_rows(&mut self, place: &Place, table: &str, first: i64) {
        let rows: Vec<_> = (first..first + ROWS)
            .map(|id| format!("({id}, 0)"))
            .collect();
        let sql = format!("INSERT INTO {table} VALUES {}", rows.join(","));
        self.ask(place, &sql).await.unwrap();
    }

    /// How often each row was written.
    pub(crate) async fn rows(&mut self, place: &Place, table: &str, first: i64) -> Vec<u32> {
        let until = first + ROWS;
        let sql = format!("SELECT n FROM {table} WHERE id >= {first} AND id < {until} ORDER BY id");
        let rows = self.ask(place, &sql).await.unwrap();
        let number = |text: &Vec<u8>| String::from_utf8_lossy(text).parse().unwrap();
        rows.iter().map(number).collect()
    }

    /// How many branches of this manager, or of this transaction, are prepared.
    pub(crate) async fn prepared(&mut self, place: &Place, whose: &str) -> usize {
        let sql = if place.is_postgres {
            "SELECT gid FROM pg_prepared_xacts"
        } else {
            "XA RECOVER"
        };
        let gids = self.ask(place, sql).await.unwrap();
        let is_its = |gid: &&Vec<u8>| String::from_utf8_lossy(gid).contains(whose);
        gids.iter().filter(is_its).count()
    }

    /// Ends a prepared branch of this transaction, as a person at a client would; `verb` is COMMIT
    /// or ROLLBACK. `false` if there is none, or the server refuses.
    pub(super) async fn end_by_hand(&mut self, place: &Place, gtrid: &str, verb: &str) -> bool {
        let ending = if place.is_postgres {
            let listed = "SELECT gid FROM pg_prepared_xacts WHERE gid LIKE";
            let found = self.ask(place, &format!("{listed} '%:{gtrid}:%'")).await;
            let gid = found.unwrap().pop();
            gid.map(|gid| format!("{verb} PREPARED '{}'", String::from_utf8_lossy(&gid)))
        } else {
            let conn = self.mysql(&place.url).await.unwrap();
            let rows: Vec<(i64, usize, usize, String)> = conn.query("XA RECOVER").await.unwrap();
            let its = rows
                .into_iter()
                .find(|row| row.3.get(..row.1) == Some(gtrid));
            its.map(|(format, len, _, data)| {
                let (gtrid, bqual) = data.split_at(len);
                format!("XA {verb} '{gtrid}','{bqual}',{format}")
            })
        };
        match ending {
            Some(sql) => self.try_ask(place, &sql).await.is_ok(),
            None => false,
        }
    }

    /// Whether somebody holds a lock on one of the rows for longer than a moment.
    pub(crate) async fn is_locked(&mut self, place: &Place, table: &str, first: i64) -> bool {
        let limit = if place.is_postgres {
            "SET lock_timeout = '2s'"
        } else {
            "SET innodb_lock_wait_timeout = 2"
        };
        self.ask(place, limit).await.unwrap();
        let until = first + ROWS;
        let sql = format!("UPDATE {table} SET n = n + 0 WHERE id >= {first} AND id < {until}");
        self.try_ask(place, &sql).await.is_err()
    }

    /// How many sessions of this manager PostgreSQL knows. (Those of the others are counted on the
    /// wire.)
    pub(crate) async fn sessions(&mut self, place: &Place, manager: &str) -> usize {
        if !place.is_postgres {
            return 0;
        }
        let sql = "SELECT application_name FROM pg_stat_activity";
        let names = self.ask(place, sql).await.unwrap();
        let is_its = |name: &&Vec<u8>| String::from_utf8_lossy(name).contains(manager);
        names.iter().filter(is_its).count()
    }
}
