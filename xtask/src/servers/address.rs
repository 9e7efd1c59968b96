//! The shared set of servers, as the environment hands it to tests.

use std::env;

use super::{ADMIN_PASSWORD, APP_DATABASE, APP_PASSWORD, APP_USER, Kind, mysql, postgres};

/// Where one server of the shared set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address for the unprivileged user.
    pub url: String,
    /// The address for the administrator; the same as `url` if the environment names only one.
    pub admin_url: String,
}

impl Address {
    /// The address of a server of ours that listens on this port of 127.0.0.1.
    #[must_use]
    pub fn on(kind: Kind, port: u16) -> Self {
        let (scheme, admin) = if kind.is_postgres() {
            ("postgres", postgres::ADMIN_USER)
        } else {
            ("mysql", mysql::ADMIN_USER)
        };
        let url = |user, password| {
            format!("{scheme}://{user}:{password}@127.0.0.1:{port}/{APP_DATABASE}")
        };
        Self {
            url: url(APP_USER, APP_PASSWORD),
            admin_url: url(admin, ADMIN_PASSWORD),
        }
    }

    /// The address that the environment gives for a kind of server, if it gives one.
    #[must_use]
    pub fn from_env(kind: Kind) -> Option<Self> {
        Self::from_lookup(kind, |name| env::var(name).ok())
    }

    fn from_lookup(kind: Kind, lookup: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let given = |name| lookup(name).filter(|value| !value.is_empty());
        let url = given(kind.variable())?;
        let admin_url = given(kind.admin_variable()).unwrap_or_else(|| url.clone());
        Some(Self { url, admin_url })
    }
}

/// The shared servers, one of each kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// PostgreSQL 15 or the machine's.
    pub pg15: Address,
    /// The newest PostgreSQL.
    pub pg_newest: Address,
    /// MySQL.
    pub mysql: Address,
    /// MariaDB.
    pub mariadb: Address,
}

/// The shared set of servers.
///
/// Tests share it: each must keep to names of its own (tables, transaction ids) and leave nothing
/// prepared behind.
///
/// # Panics
/// When a server's address is not in the environment: a missing server is a failure.
#[must_use]
pub fn shared() -> Set {
    let address = |kind: Kind| {
        Address::from_env(kind).unwrap_or_else(|| {
            let variable = kind.variable();
            panic!(
                "no address for {kind}: run it through `cargo xtask test` or \
                 `cargo xtask servers -- COMMAND`, or set {variable}"
            )
        })
    };
    Set {
        pg15: address(Kind::Postgres15),
        pg_newest: address(Kind::PostgresNewest),
        mysql: address(Kind::Mysql),
        mariadb: address(Kind::Mariadb),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_administrator_is_optional_and_an_empty_value_is_none() {
        let only_url = |name: &str| (name == "UNANIMOUS_PG_URL").then(|| "postgres://a".to_owned());
        let address = Address::from_lookup(Kind::Postgres15, only_url).unwrap();
        assert_eq!(address.admin_url, "postgres://a");
        assert_eq!(Address::from_lookup(Kind::Mysql, only_url), None);
        assert_eq!(
            Address::from_lookup(Kind::Mysql, |_| Some(String::new())),
            None
        );
    }
}
