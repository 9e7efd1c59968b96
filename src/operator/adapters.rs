//! From an address to a resource, by its scheme. The one place of the runtime that names databases:
//! whoever writes an address into a file names one.

use std::any::Any;
use std::sync::Arc;

#[cfg(any(feature = "postgres", feature = "mysql"))]
use unanimous_core::ports::{DecisionTable, TableHome, TableMove, TableMoves};
#[cfg(not(any(feature = "postgres", feature = "mysql")))]
use unanimous_core::ports::{DecisionTable, TableMove};
use unanimous_core::xid::ResourceName;

use super::entry::{Credentials, Tuning};
#[cfg(any(feature = "postgres", feature = "mysql"))]
use super::{secret::Source, text::IsolationText};
use crate::manager::AnyResource;

type Built = Result<Arc<dyn AnyResource>, String>;

/// The resource at this address. Does not connect.
///
/// # Errors
/// The address or a setting cannot be used: why, without its password, and what to write.
pub(super) fn resource(
    name: &ResourceName,
    login: Credentials,
    recovery: Option<Credentials>,
    tuning: Tuning,
) -> Built {
    let scheme = login.url.split_once("://");
    match scheme.map_or("", |(scheme, _)| scheme) {
        "postgres" | "postgresql" => postgres(name, login, recovery, tuning),
        "mysql" => mysql(name, login, recovery, tuning),
        _ => Err(format!(
            "resource {name}: the address cannot be read: write \
             postgres://user@host:5432/database or, for MySQL and MariaDB, \
             mysql://user@host:3306/database"
        )),
    }
}

/// How a copied server is given an identity of its own: MySQL makes a `server_uuid` at a start
/// without `auto.cnf`, the preflight makes MariaDB's row, and PostgreSQL's cluster gets its number
/// from `initdb` alone.
pub(super) const IDENTITIES: &str = "MySQL: stop it, remove auto.cnf from its data folder, start \
     it. MariaDB: DELETE FROM unanimous_identity, and check again. PostgreSQL: restore a dump into \
     a new cluster (initdb)";

/// The kinds of database that can hold a decision log, by their schemes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Postgres,
    Mysql,
}

/// What the resource is, and the decision table in its database. `None` if it is of a kind that
/// holds none.
#[allow(
    unused_variables,
    reason = "without any database built in, there is none"
)]
pub(super) fn table(resource: &dyn AnyResource) -> Option<(Kind, Arc<dyn DecisionTable>)> {
    let resource: &dyn Any = resource;
    #[cfg(feature = "postgres")]
    if let Some(home) = resource.downcast_ref::<crate::postgres::Postgres>() {
        return Some((Kind::Postgres, home.decision_table()));
    }
    #[cfg(feature = "mysql")]
    if let Some(home) = resource.downcast_ref::<crate::mysql::Mysql>() {
        return Some((Kind::Mysql, home.decision_table()));
    }
    None
}

/// The same for whoever moves a log.
#[allow(
    unused_variables,
    reason = "without any database built in, there is none"
)]
pub(super) fn table_move(resource: &dyn AnyResource) -> Option<Arc<dyn TableMove>> {
    let resource: &dyn Any = resource;
    #[cfg(feature = "postgres")]
    if let Some(home) = resource.downcast_ref::<crate::postgres::Postgres>() {
        return Some(home.table_move());
    }
    #[cfg(feature = "mysql")]
    if let Some(home) = resource.downcast_ref::<crate::mysql::Mysql>() {
        return Some(home.table_move());
    }
    None
}

/// Hands a setting of the file to the builder's method, if the file has it.
#[cfg(any(feature = "postgres", feature = "mysql"))]
macro_rules! set {
    ($builder:ident: $($method:ident($given:expr)),* $(,)?) => {
        $(let $builder = match $given {
            Some(given) => $builder.$method(given),
            None => $builder,
        };)*
    };
}

/// A builder with all that the builders of all databases have in common.
#[cfg(any(feature = "postgres", feature = "mysql"))]
macro_rules! common {
    ($builder:expr, $isolation:ident, $login:ident, $recovery:ident, $tuning:ident) => {{
        let builder = $builder;
        let (recovery_url, recovery_password) = match $recovery {
            Some(recovery) => (Some(recovery.url), recovery.password),
            None => (None, None),
        };
        let isolation = $tuning.isolation.map(|isolation| match isolation {
            IsolationText::ReadCommitted => $isolation::ReadCommitted,
            IsolationText::RepeatableRead => $isolation::RepeatableRead,
            IsolationText::Serializable => $isolation::Serializable,
        });
        set!(builder:
            password_source($login.password.map(Source::into_asker)),
            recovery_address(recovery_url),
            recovery_password_source(recovery_password.map(Source::into_asker)),
            pool_size($tuning.pool_size),
            pool_timeout($tuning.pool_timeout),
            connect_timeout($tuning.connect_timeout),
            isolation(isolation),
            session_setup($tuning.session_setup),
            recovery_sessions($tuning.recovery_sessions),
        );
        builder
    }};
}

#[cfg(feature = "postgres")]
fn postgres(
    name: &ResourceName,
    login: Credentials,
    recovery: Option<Credentials>,
    tuning: Tuning,
) -> Built {
    use crate::postgres::{Isolation, Postgres};

    let builder = Postgres::builder(name.as_str(), &login.url);
    let builder = common!(builder, Isolation, login, recovery, tuning);
    set!(builder:
        vanished_after(tuning.vanished_after),
        application_name(tuning.application_name),
    );
    match builder.build() {
        Ok(resource) => Ok(Arc::new(resource)),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(feature = "mysql")]
fn mysql(
    name: &ResourceName,
    login: Credentials,
    recovery: Option<Credentials>,
    tuning: Tuning,
) -> Built {
    use crate::mysql::Mysql;
    use crate::mysql::mysql_async::IsolationLevel;

    for (key, is_given) in [
        ("vanished_after", tuning.vanished_after.is_some()),
        ("application_name", tuning.application_name.is_some()),
    ] {
        if is_given {
            return Err(format!(
                "resource {name}: {key} is for PostgreSQL alone: remove it"
            ));
        }
    }
    let builder = Mysql::builder(name.as_str(), &login.url);
    let builder = common!(builder, IsolationLevel, login, recovery, tuning);
    match builder.build() {
        Ok(resource) => Ok(Arc::new(resource)),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(not(feature = "postgres"))]
fn postgres(
    name: &ResourceName,
    _login: Credentials,
    _recovery: Option<Credentials>,
    _tuning: Tuning,
) -> Built {
    Err(not_built_in(name, "postgres"))
}

#[cfg(not(feature = "mysql"))]
fn mysql(
    name: &ResourceName,
    _login: Credentials,
    _recovery: Option<Credentials>,
    _tuning: Tuning,
) -> Built {
    Err(not_built_in(name, "mysql"))
}

#[cfg(not(all(feature = "postgres", feature = "mysql")))]
fn not_built_in(name: &ResourceName, feature: &str) -> String {
    format!("resource {name}: this program was built without the feature `{feature}` of unanimous")
}
