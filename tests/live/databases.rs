//! Databases as a judge sees them who is independent of what is tested; servers that may be killed,
//! and wires that may be cut.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use unanimous::postgres::tokio_postgres;

use unanimous_testing::Wire;
use xtask::servers::{Kind, Options, Server};

use crate::support::Db;

/// One database.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) is_postgres: bool,
}

impl Place {
    /// Another database on the same server.
    pub(crate) fn database(&self, name: &str) -> Self {
        let server = self.url.rsplit_once('/').expect("it names a database").0;
        Self {
            url: format!("{server}/{name}"),
            is_postgres: self.is_postgres,
        }
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
    pub(crate) async fn end_by_hand(&mut self, place: &Place, gtrid: &str, verb: &str) -> bool {
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
}

/// A server that belongs to this run.
#[derive(Clone)]
pub(crate) struct Own {
    pub(crate) db: Db,
    pub(crate) url: String,
    pub(crate) admin_url: String,
    pub(crate) server: Arc<Mutex<Server>>,
}

impl Own {
    /// Starts one.
    pub(crate) fn start(db: Db) -> Self {
        let kind = match db {
            Db::Postgres15 => Kind::Postgres15,
            Db::PostgresNewest => Kind::PostgresNewest,
            Db::Mysql => Kind::Mysql,
            Db::Mariadb => Kind::Mariadb,
        };
        let server = Server::start(kind, &Options::new()).unwrap();
        let (url, admin_url) = (server.url(), server.admin_url());
        let server = Arc::new(Mutex::new(server));
        Self {
            db,
            url,
            admin_url,
            server,
        }
    }
}

/// A wire to each place, and the places behind them.
pub(crate) async fn wires_to(places: &[Place]) -> (Vec<Wire>, Vec<Place>) {
    let (mut wires, mut behind) = (Vec::new(), Vec::new());
    for place in places {
        let (wire, url) = Wire::between(&place.url).await.unwrap();
        let is_postgres = place.is_postgres;
        wires.push(wire);
        behind.push(Place { url, is_postgres });
    }
    (wires, behind)
}
