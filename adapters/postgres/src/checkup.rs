//! What is worth a look when a person asks, and too dear or too unlikely for each start: room that
//! is left, transactions that were prepared long ago, tables that lose what was committed or take
//! no part, and the known bugs of the server's release.
//!
//! Sources: the freezing of old rows and its limits, manual, [routine vacuuming]; unlogged tables,
//! [`CREATE TABLE`].
//!
//! [routine vacuuming]: https://www.postgresql.org/docs/current/routine-vacuuming.html
//! [`CREATE TABLE`]: https://www.postgresql.org/docs/current/sql-createtable.html

use unanimous_core::ports::{Finding, Problem, ResourceError, Severity};

use crate::Postgres;
use crate::config::Settings;
use crate::failure::Failure;
use crate::findings::{Seen, sessions_max};
use crate::session::Session;
use crate::{bugs, sql};

use Severity::{Note, Warning};

/// How the checkup begins its errors.
const ASKED: &str = "cannot look at the server";

impl Postgres {
    /// See [`ResourceManager::checkup`](unanimous_core::ports::ResourceManager::checkup).
    pub(crate) async fn look_deeper(&self) -> Result<Vec<Finding>, ResourceError> {
        let settings = self.settings();
        let fail = |failure: Failure| failure.into_resource(&settings.name, ASKED);
        let mut session = Session::connect(settings, &settings.access, "", None)
            .await
            .map_err(fail)?;
        let rows = session.ask(&sql::checkup()).await.map_err(fail)?;
        session.mark_clean();
        let Some(seen) = Seen::read(&rows) else {
            let text = format!("{ASKED}: it does not answer like PostgreSQL");
            return Err(ResourceError::new(
                Problem::Unfit,
                settings.name.clone(),
                text,
            ));
        };
        Ok(judge(&seen, settings))
    }
}

fn judge(seen: &Seen, settings: &Settings) -> Vec<Finding> {
    let mut found = bugs::of(seen.limit("server_version_num"));
    found.extend(horizon(seen));
    found.extend(connections(seen, settings));
    found.extend(unlogged(seen));
    found.extend(foreign(seen));
    found
}

/// Half of what makes the server vacuum every table is late enough to be told.
fn horizon(seen: &Seen) -> Option<Finding> {
    let (age, limit) = (
        seen.number("our:oldest_age")?,
        seen.number("autovacuum_freeze_max_age")?,
    );
    (age >= limit / 2).then(|| {
        Finding::new(
            Warning,
            "autovacuum_freeze_max_age",
            format!(
                "the oldest prepared transaction (in database {}) is {age} transactions old, and \
                 autovacuum_freeze_max_age is {limit}: no vacuum gets past it, tables grow, and \
                 some two thousand million transactions after it the server takes no more writes",
                seen.text("our:oldest_database")
            ),
            "see whose it is: unanimous list, or SELECT gid, owner, database, age(transaction) \
             FROM pg_prepared_xacts ORDER BY 4 DESC; then: unanimous recover",
        )
    })
}

/// Those that are taken by others than this account in this database.
fn connections(seen: &Seen, settings: &Settings) -> Option<Finding> {
    let (allowed, needed) = (seen.connections(), sessions_max(settings));
    let others = seen
        .limit("our:sessions")
        .saturating_sub(seen.limit("our:own_sessions"));
    let free = allowed.saturating_sub(others);
    // A server that never has enough is told by the preflight.
    (allowed >= needed && free < needed).then(|| {
        Finding::new(
            Warning,
            "free_connections",
            format!(
                "{others} of {allowed} connections are taken by others, and this resource may open \
                 {needed}"
            ),
            format!(
                "ALTER SYSTEM SET max_connections = {}; -- as a superuser, then restart the \
                 server; or close what holds them: SELECT usename, datname, count(*) FROM \
                 pg_stat_activity GROUP BY 1, 2",
                allowed.saturating_add(needed).saturating_mul(2)
            ),
        )
    })
}

fn unlogged(seen: &Seen) -> Option<Finding> {
    let tables = seen.text("our:unlogged");
    (!tables.is_empty()).then(|| {
        Finding::new(
            Note,
            "unlogged_tables",
            format!(
                "a crash of the server empties tables that are not logged, whatever was committed \
                 into them: {tables}"
            ),
            statements(tables, |table| format!("ALTER TABLE {table} SET LOGGED")),
        )
    })
}

fn foreign(seen: &Seen) -> Option<Finding> {
    let tables = seen.text("our:foreign");
    (!tables.is_empty()).then(|| {
        Finding::new(
            Note,
            "foreign_tables",
            format!(
                "a branch that touches a table of postgres_fdw, even by reading it, cannot be \
                 prepared: {tables}"
            ),
            "keep them out of branches, or make the other server a resource of its own",
        )
    })
}

/// One for each of a list of names, as the query puts it together.
fn statements(names: &str, statement: impl Fn(&str) -> String) -> String {
    let names = names.split(SEPARATOR).filter(|name| *name != MORE);
    names.map(statement).collect::<Vec<_>>().join("; ")
}

/// Between two names of a list.
pub(crate) const SEPARATOR: &str = ", ";
/// Stands at the end of a list that goes on.
pub(crate) const MORE: &str = "...";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn found(values: &[(&str, &str)]) -> Vec<Finding> {
        let usual = [
            ("server_version_num", "180006"),
            ("max_prepared_transactions", "100"),
            ("max_connections", "103"),
            ("superuser_reserved_connections", "3"),
            ("autovacuum_freeze_max_age", "200000000"),
        ];
        let all = usual.iter().chain(values);
        let all = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let seen = Seen::of(all.collect::<BTreeMap<_, _>>()).unwrap();
        let resource = Postgres::builder("orders", "postgres://app@db/shop")
            .build()
            .unwrap();
        judge(&seen, resource.settings())
    }

    fn subjects(values: &[(&str, &str)]) -> Vec<String> {
        let found = found(values).into_iter();
        found.map(|finding| finding.subject).collect()
    }

    #[test]
    fn the_age_of_the_oldest_prepared_transaction_counts_from_half_the_limit_on() {
        assert_eq!(subjects(&[]), [""; 0]);
        assert_eq!(subjects(&[("our:oldest_age", "99999999")]), [""; 0]);
        let old = [
            ("our:oldest_age", "100000000"),
            ("our:oldest_database", "shop"),
        ];
        assert_eq!(subjects(&old), ["autovacuum_freeze_max_age"]);
        assert!(found(&old)[0].evidence.contains("database shop"));
    }

    #[test]
    fn connections_of_this_account_are_not_taken_by_others() {
        let of = |all: &'static str, own: &'static str| {
            subjects(&[("our:sessions", all), ("our:own_sessions", own)])
        };
        // The pool and recovery may open 24.
        assert_eq!(of("76", "0"), [""; 0]);
        assert_eq!(of("77", "0"), ["free_connections"]);
        assert_eq!(of("77", "1"), [""; 0]);
        // Too few at all is the preflight's.
        let few = [("max_connections", "26"), ("our:sessions", "23")];
        assert_eq!(subjects(&few), [""; 0]);
    }

    #[test]
    fn every_table_that_is_shown_is_mended() {
        let mend = &found(&[("our:unlogged", "public.a, \"B\".c, ...")])[0].mend;
        let expected = "ALTER TABLE public.a SET LOGGED; ALTER TABLE \"B\".c SET LOGGED";
        assert_eq!(mend, expected);
    }
}
