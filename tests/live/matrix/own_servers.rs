//! Servers that cells may kill: one of each kind, used by one cell after the other.

use std::sync::{Arc, Mutex};

use xtask::servers::{Kind, Options, Server};

use crate::support::Db;

/// A server that belongs to this run.
#[derive(Clone)]
pub(crate) struct Own {
    pub(crate) db: Db,
    pub(crate) url: String,
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
        let url = server.url();
        let server = Arc::new(Mutex::new(server));
        Self { db, url, server }
    }
}
