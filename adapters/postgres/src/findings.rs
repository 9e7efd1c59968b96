//! What a server's answers to the check mean: pure, from what was seen to the findings.
//!
//! An **error** is what keeps the protocol from working, or loses what was acknowledged: no slots
//! for prepared transactions, `fsync = off` (a machine that crashes loses prepared branches whose
//! transaction is committed elsewhere), a pooler in transaction mode, a standby, an account that
//! may not do its part. A **warning** works today and hurts some day. A **note** has to be known.
//!
//! Not looked at, because every branch sets its own limit (`SET LOCAL`):
//! `idle_in_transaction_session_timeout` and `lock_timeout`.

use std::collections::BTreeMap;

use unanimous_core::ports::{Finding, ResourceError, ServerIdentity, Severity};

use crate::config::Settings;
use crate::session::Replies;
use crate::standbys;

/// The oldest version whose `pg_terminate_backend` waits for the end of the session.
const VERSION_MIN: u32 = 14;
/// The versions that the tests of this crate run on.
const VERSIONS_TESTED: [u32; 2] = [15, 18];
/// A session may be idle for this long between prepare and its end, in milliseconds.
const IDLE_MS_MIN: u64 = 60_000;
/// A scan of recovery takes less, in milliseconds.
const STATEMENT_MS_MIN: u64 = 1_000;

use Severity::{Error, Note, Warning};

/// What the application's account was told: settings by their names, and answers by names of
/// [`sql::preflight`](crate::sql::preflight).
#[derive(Debug, Default)]
pub(crate) struct Seen(BTreeMap<String, String>);

impl Seen {
    /// Reads rows of name and value; nothing if it is no PostgreSQL.
    pub(crate) fn read(replies: &Replies) -> Option<Self> {
        let pairs = replies.rows.iter().filter_map(|row| {
            let (name, value) = (row.try_get(0).ok()??, row.try_get(1).ok()??);
            Some((name.to_owned(), value.to_owned()))
        });
        Self::of(pairs.collect())
    }

    pub(crate) fn of(values: BTreeMap<String, String>) -> Option<Self> {
        let seen = Self(values);
        let knows_versions = seen.number("server_version_num").is_some();
        let knows_slots = seen.number("max_prepared_transactions").is_some();
        (knows_versions && knows_slots).then_some(seen)
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.text(name).parse().ok()
    }

    /// A limit; "none" and "not known to this version" are 0 here.
    pub(crate) fn limit(&self, name: &str) -> u64 {
        self.number(name).unwrap_or(0)
    }

    pub(crate) fn version(&self) -> u32 {
        let number = self.number("server_version_num").unwrap_or(0) / 10_000;
        u32::try_from(number).unwrap_or(0)
    }

    /// `PostgreSQL 18.6`, without what a distribution adds.
    pub(crate) fn server(&self) -> String {
        let version = self.text("server_version");
        let number = version.split_whitespace().next().unwrap_or("");
        format!("PostgreSQL {number}").trim_end().to_owned()
    }

    /// What sets a session's setting for the account, over whatever else sets it at the server.
    pub(crate) fn for_account(&self, setting: &str, value: &str) -> String {
        format!(
            "ALTER ROLE {} IN DATABASE {} SET {setting} = {value}; -- or in options of the \
             address, if it is set there",
            self.text("our:account"),
            self.text("our:database")
        )
    }
}

fn system(setting: &str, value: &str) -> String {
    format!("ALTER SYSTEM SET {setting} = {value}; SELECT pg_reload_conf(); -- as a superuser")
}

/// Everything that is found in what the application's account was told.
pub(crate) fn of_server(seen: &Seen, settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(version(seen));
    found.extend(slots(seen, settings));
    found.extend(connections(seen, settings));
    found.extend(durability(seen));
    found.extend(standbys::found(seen));
    found.extend(session_settings(seen));
    found.extend(limits(seen));
    found.extend(old_branches(seen));
    found.extend(functions(seen));
    found
}

fn version(seen: &Seen) -> Option<Finding> {
    let (version, server) = (seen.version(), seen.server());
    if version < VERSION_MIN {
        return Some(Finding::new(
            Error,
            "server_version",
            format!("{server} is too old: it cannot wait for the end of a session"),
            format!("use PostgreSQL {VERSION_MIN} or newer"),
        ));
    }
    (!VERSIONS_TESTED.contains(&version)).then(|| {
        Finding::new(
            Note,
            "server_version",
            format!("{server} is accepted, but this adapter was never tested with it"),
            format!("tested are {VERSIONS_TESTED:?}"),
        )
    })
}

fn slots(seen: &Seen, settings: &Settings) -> Option<Finding> {
    let subject = "max_prepared_transactions";
    let slots = seen.limit(subject);
    let used = seen.limit("our:slots_used");
    let pool = u64::try_from(settings.pool_size).unwrap_or(u64::MAX);
    let mend = format!(
        "ALTER SYSTEM SET max_prepared_transactions = {}; -- as a superuser, then restart the \
         server; its standbys need at least the same",
        pool.saturating_mul(2).clamp(100, 100_000)
    );
    if slots == 0 {
        let evidence = "prepared transactions are disabled (max_prepared_transactions = 0)";
        return Some(Finding::new(Error, subject, evidence, mend));
    }
    if slots < pool {
        let evidence = format!(
            "{slots} branches can be prepared at the same time, in all databases of the server, \
             and pool_size lets {pool} be open: the rest is rolled back"
        );
        return Some(Finding::new(Warning, subject, evidence, mend));
    }
    let free = slots.saturating_sub(used);
    (free < pool).then(|| {
        Finding::new(
            Warning,
            "free_prepared_slots",
            format!(
                "{used} of {slots} slots for prepared transactions are taken, {pool} may be \
                     needed"
            ),
            format!("resolve what is in doubt (unanimous list), or: {mend}"),
        )
    })
}

/// How many sessions the resource may open.
pub(crate) fn sessions_max(settings: &Settings) -> u64 {
    u64::try_from(settings.sessions_max()).unwrap_or(u64::MAX)
}

impl Seen {
    /// How many connections the server allows to those who are no superusers.
    pub(crate) fn connections(&self) -> u64 {
        let reserved =
            self.limit("superuser_reserved_connections") + self.limit("reserved_connections");
        self.limit("max_connections").saturating_sub(reserved)
    }
}

fn connections(seen: &Seen, settings: &Settings) -> Option<Finding> {
    let needed = sessions_max(settings);
    let server = seen.connections();
    let own = [
        ("our:role_limit", "the role"),
        ("our:database_limit", "the database"),
    ];
    let tightest = own
        .into_iter()
        .filter_map(|(name, of)| Some((seen.number(name)?, of)))
        .chain([(server, "the server")])
        .min()?;
    let (limit, of) = tightest;
    (limit < needed).then(|| {
        Finding::new(
            Warning,
            "max_connections",
            format!(
                "{of} allows {limit} connections, and pool_size with recovery_sessions may open \
                 {needed}"
            ),
            "raise max_connections (restart needed) or the CONNECTION LIMIT of role or database, \
             or lower pool_size",
        )
    })
}

fn durability(seen: &Seen) -> Vec<Finding> {
    let mut found = Vec::new();
    if seen.text("fsync") == "off" {
        found.push(Finding::new(
            Error,
            "fsync",
            "fsync = off: when the machine crashes, branches that were prepared are lost although \
             their transaction is committed elsewhere",
            system("fsync", "on"),
        ));
    }
    if seen.text("full_page_writes") == "off" {
        found.push(Finding::new(
            Warning,
            "full_page_writes",
            "full_page_writes = off: a crash of the machine can destroy pages, unless the file \
             system writes them as a whole",
            system("full_page_writes", "on"),
        ));
    }
    if seen.text("data_sync_retry") == "on" {
        found.push(Finding::new(
            Warning,
            "data_sync_retry",
            "data_sync_retry = on: after a disk has failed to write, the server tries again, which \
             proves nothing, instead of recovering from its write-ahead log",
            "ALTER SYSTEM SET data_sync_retry = off; -- as a superuser, then restart the server",
        ));
    }
    found
}

fn session_settings(seen: &Seen) -> Vec<Finding> {
    let mut found = Vec::new();
    if seen.text("standard_conforming_strings") == "off" {
        found.push(Finding::new(
            Note,
            "standard_conforming_strings",
            "standard_conforming_strings = off: no harm to branches, but a trap for SQL of the \
             application's",
            seen.for_account("standard_conforming_strings", "on"),
        ));
    }
    if seen.text("default_transaction_read_only") == "on" {
        found.push(Finding::new(
            Warning,
            "default_transaction_read_only",
            "default_transaction_read_only = on: every write in a branch fails with 25006",
            // Else this session itself could not change it.
            format!(
                "SET default_transaction_read_only = off; {}",
                seen.for_account("default_transaction_read_only", "off")
            ),
        ));
    }
    let over_network = seen.text("our:over_network") == "t";
    if over_network && seen.limit("tcp_user_timeout") == 0 {
        found.push(Finding::new(
            Warning,
            "tcp_user_timeout",
            "the server's system has no tcp_user_timeout: sessions of a host that has vanished \
             keep their locks until the limits of the branch or the keep-alive end them",
            "keep the idle time-out of transactions short",
        ));
    }
    found
}

/// A limit of the server that ends sessions or statements of ours, in milliseconds; 0 is "none".
struct Limit {
    subject: &'static str,
    least: u64,
    what: &'static str,
}

const LIMITS: [Limit; 3] = [
    Limit {
        subject: "idle_session_timeout",
        least: IDLE_MS_MIN,
        what: "ends connections that wait in the pool, and one that waits for the decision after \
               prepare: then recovery commits the branch, later",
    },
    Limit {
        subject: "transaction_timeout",
        least: IDLE_MS_MIN,
        what: "ends branches that are active for longer (rolled back)",
    },
    Limit {
        subject: "statement_timeout",
        least: STATEMENT_MS_MIN,
        what: "ends statements of the application, and recovery's scans; it does not cover prepare \
               and commit",
    },
];

fn limits(seen: &Seen) -> Vec<Finding> {
    let found = LIMITS.iter().filter_map(|limit| {
        let is = seen.limit(limit.subject);
        let severity = if is < limit.least { Warning } else { Note };
        (is > 0).then(|| {
            let evidence = format!("{} = {is}ms {}", limit.subject, limit.what);
            let mend = seen.for_account(limit.subject, "0");
            Finding::new(severity, limit.subject, evidence, mend)
        })
    });
    found.collect()
}

fn old_branches(seen: &Seen) -> Option<Finding> {
    let count = seen.limit("our:old_count");
    (count > 0).then(|| {
        Finding::new(
            Warning,
            "old_prepared_transactions",
            format!(
                "{count} transactions of this database have been prepared for more than an hour, \
                 the oldest since {} UTC: they hold their locks and keep vacuum from cleaning up",
                seen.text("our:oldest")
            ),
            "see whose they are: unanimous list, or SELECT * FROM pg_prepared_xacts ORDER BY \
             prepared;",
        )
    })
}

/// Rights that everybody has until somebody takes them away.
fn functions(seen: &Seen) -> Option<Finding> {
    let missing = seen.text("our:missing_functions");
    (!missing.is_empty()).then(|| {
        Finding::new(
            Error,
            "execute",
            format!(
                "the account may not call {missing}, by which recovery finds out how branches \
                     ended"
            ),
            format!(
                "GRANT EXECUTE ON FUNCTION {missing} TO {}; -- as a superuser",
                seen.text("our:account")
            ),
        )
    })
}

pub(crate) fn pooler(address: &str) -> Finding {
    Finding::new(
        Error,
        "pooler",
        format!(
            "{address} leads to a pooler in transaction mode (two connections share one server \
             process)"
        ),
        "connect to the server itself, or use the pooler's session mode (pool_mode = session)",
    )
}

/// The subject of [`standby`].
pub(crate) const STANDBY: &str = "pg_is_in_recovery";

pub(crate) fn standby(address: &str) -> Finding {
    Finding::new(
        Error,
        STANDBY,
        format!("{address} leads to a standby, which prepares nothing and lists nothing"),
        "connect to the primary; with several hosts in the address, add \
         target_session_attrs=read-write",
    )
}

pub(crate) fn recovery_refused(error: &ResourceError) -> Finding {
    Finding::new(
        Error,
        "recovery_address",
        format!("the account for recovery cannot be used: {error}"),
        "mend recovery_address or its password source",
    )
}

pub(crate) fn elsewhere(own: &ServerIdentity, other: &ServerIdentity) -> Finding {
    Finding::new(
        Error,
        "recovery_address",
        format!("it leads to another server or database ({other}) than the address ({own})"),
        "let both lead to the same database of the same server",
    )
}

/// What the account of recovery may do with what the application's account leaves behind.
#[derive(Debug)]
pub(crate) struct Account {
    /// As SQL takes it.
    name: String,
    /// May become the application's role (`SET ROLE`), to end what it prepared.
    may_become: bool,
    /// Has that role's rights without becoming it: sees and ends its sessions.
    inherits: bool,
    /// The application is a superuser, and recovery is not.
    is_below: bool,
}

impl Account {
    /// Reads the row of [`sql::account`](crate::sql::account).
    pub(crate) fn read(replies: &Replies) -> Option<Self> {
        Self::of([0, 1, 2, 3].map(|column| replies.field(column)))
    }

    fn of([name, may_become, inherits, is_below]: [Option<&str>; 4]) -> Option<Self> {
        let is = |field: Option<&str>| Some(field? == "t");
        Some(Self {
            name: name?.to_owned(),
            may_become: is(may_become)?,
            inherits: is(inherits)?,
            is_below: is(is_below)?,
        })
    }

    pub(crate) fn findings(&self, seen: &Seen) -> Vec<Finding> {
        let (own, app) = (&self.name, seen.text("our:account"));
        let mut found = Vec::new();
        // Since version 16 both rights belong to the membership; before, to the role.
        let grant = if seen.version() >= 16 {
            format!("GRANT {app} TO {own} WITH INHERIT TRUE, SET TRUE;")
        } else {
            format!("GRANT {app} TO {own}; ALTER ROLE {own} INHERIT;")
        };
        if !self.may_become {
            let evidence = format!(
                "role {own} of recovery_address is not a member of role {app}: it cannot end what \
                 that role has prepared"
            );
            found.push(Finding::new(Error, "membership", evidence, &grant));
        } else if !self.inherits {
            let evidence = format!(
                "role {own} of recovery_address does not inherit from role {app}: it cannot see \
                 and end a session that may still hold a branch, which stays in doubt then"
            );
            found.push(Finding::new(Error, "membership", evidence, &grant));
        }
        if self.is_below {
            found.push(Finding::new(
                Warning,
                "superuser",
                format!(
                    "role {app} is a superuser and role {own} of recovery_address is not: it \
                     cannot end that role's sessions"
                ),
                format!("let the application work as a common role: ALTER ROLE {app} NOSUPERUSER;"),
            ));
        }
        found
    }
}

#[cfg(test)]
#[path = "findings_test.rs"]
mod findings_test;
