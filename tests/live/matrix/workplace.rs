//! Databases of one worker: what managers with a log in a table leave there meets nobody else's.

use super::rows::Places;
use crate::databases::{Judges, Own, Place};
use crate::support::Db;
use xtask::servers::{APP_USER, shared};

/// The tables of a log, as MySQL and MariaDB hold them.
const TABLES: [&str; 7] = [
    "unanimous_log",
    "unanimous_opening",
    "unanimous_epoch",
    "unanimous_decision",
    "unanimous_heuristic",
    "unanimous_by_hand",
    "unanimous_member",
];

/// See the module. All of its databases have one name.
pub(super) struct Workplace {
    pub(super) name: String,
    admins: Vec<Place>,
    table: String,
}

impl Workplace {
    /// Makes the databases, with the table of this run in each.
    pub(super) async fn make(
        judges: &mut Judges,
        name: String,
        table: &str,
        own: Option<&Own>,
    ) -> Self {
        let set = shared();
        let shared = [
            (Db::Postgres15, set.pg15),
            (Db::PostgresNewest, set.pg_newest),
            (Db::Mysql, set.mysql),
            (Db::Mariadb, set.mariadb),
        ];
        let place = |db: Db, url| Place {
            url,
            is_postgres: db.is_postgres(),
        };
        let mut users: Vec<Place> = Vec::new();
        let mut admins = Vec::new();
        for (db, address) in shared {
            let of = own.filter(|own| own.db == db);
            let url = of.map_or(address.url, |own| own.url.clone());
            let admin_url = of.map_or(address.admin_url, |own| own.admin_url.clone());
            users.push(place(db, url).database(&name));
            admins.push(place(db, admin_url));
        }
        for admin in &admins {
            for sql in making(admin, &name) {
                judges.ask(admin, &sql).await.unwrap();
            }
        }
        for user in &users {
            judges.make_table(user, table).await;
        }
        let table = table.to_owned();
        Self {
            name,
            admins,
            table,
        }
    }

    /// Nothing of an earlier cell is in the way. `false` if that cannot be had.
    pub(super) async fn clear(&self, judges: &mut Judges, places: &Places) -> bool {
        let Some(log) = places.log.table() else {
            return true;
        };
        let limit = if log.is_postgres {
            "SET lock_timeout = '2s'"
        } else {
            "SET lock_wait_timeout = 2"
        };
        judges.ask(log, limit).await.unwrap();
        let sql = if log.is_postgres {
            "DROP SCHEMA IF EXISTS unanimous CASCADE".to_owned()
        } else {
            format!("DROP TABLE IF EXISTS {}", TABLES.join(", "))
        };
        judges.try_ask(log, &sql).await.is_ok()
    }

    /// Removes the databases, as far as failed cells allow.
    pub(super) async fn remove(self, judges: &mut Judges) {
        for admin in &self.admins {
            // Its server may have been killed since.
            let _ = judges.ask(admin, "SELECT 1").await;
            let user = admin.database(&self.name);
            judges.drop_table(&user, &self.table).await;
            let force = if admin.is_postgres {
                " WITH (FORCE)"
            } else {
                ""
            };
            let sql = format!("DROP DATABASE {}{force}", self.name);
            if let Err(error) = judges.try_ask(admin, &sql).await {
                eprintln!("{} stays: {error}", self.name);
            }
        }
    }
}

fn making(admin: &Place, name: &str) -> Vec<String> {
    if admin.is_postgres {
        vec![format!("CREATE DATABASE {name} OWNER {APP_USER}")]
    } else {
        vec![
            format!("CREATE DATABASE {name}"),
            format!("GRANT ALL ON {name}.* TO '{APP_USER}'@'%'"),
        ]
    }
}
