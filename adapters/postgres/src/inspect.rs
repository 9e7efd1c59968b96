//! What prepared transactions hold and whom they block, from the server's own views.
//!
//! One string of statements, however many branches there are. Of the views it reads (pages
//! `pg_locks`, `pg_prepared_xacts`, `pg_stat_activity` of the manual; observed on 15 and 18):
//! * A prepared transaction has no process: its rows of `pg_locks` have no `pid`. They carry a
//!   `virtualtransaction` that belongs together, and one of them is the lock on its own number, by
//!   which the GID is found.
//! * `pg_blocking_pids` says 0 for a prepared transaction, but not which: it is one that holds a
//!   lock on the same object in a mode that conflicts.
//! * Row locks are in the rows and not in `pg_locks`. Who waits for one waits for the number of the
//!   transaction that holds it.
//! * `pg_locks`, users and process numbers are visible to every role; the statements of other
//!   roles' sessions only to members of `pg_read_all_stats`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio_postgres::SimpleQueryRow;
use unanimous_core::ports::{
    Blocked, BlockedSession, HeldLock, Holding, Horizon, InspectOptions, InspectedBranch,
    Inspection, Locks, ResourceError, XidOwner,
};

use crate::Postgres;
use crate::gid;
use crate::session::field;

/// How many waiting sessions are looked at: each takes the lock manager's attention for a moment.
const WAITERS_MAX: usize = 1000;

impl Postgres {
    /// See the module.
    pub(crate) async fn look(&self, options: InspectOptions) -> Result<Inspection, ResourceError> {
        let asked = self.pools().ask(&question(options)).await;
        let (_, replies) = asked.map_err(|failure| {
            failure.into_resource(
                &self.settings().name,
                "cannot see what prepared branches hold",
            )
        })?;
        Ok(Picture::read(&replies.rows).tell(options))
    }
}

/// The text as bytes in hexadecimal: see [`SCAN`](crate::sql::SCAN).
fn hex(text: &str) -> String {
    format!(
        "pg_catalog.encode(pg_catalog.convert_to({text}, pg_catalog.getdatabaseencoding()), 'hex')"
    )
}

/// The prepared transactions of this database, each with its name among the locks.
const HOLDERS: &str = "l AS MATERIALIZED (SELECT * FROM pg_catalog.pg_locks), \
    own AS MATERIALIZED (SELECT x.gid, x.transaction, x.prepared, l.virtualtransaction \
    FROM pg_catalog.pg_prepared_xacts x LEFT JOIN l ON l.pid IS NULL \
    AND l.locktype = 'transactionid' AND l.transactionid = x.transaction \
    WHERE x.database = pg_catalog.current_database())";

/// Locks that every transaction has on itself tell nothing.
const HELD: &str = "l.pid IS NULL AND l.granted AND l.locktype NOT IN ('transactionid', \
    'virtualxid') AND l.virtualtransaction = own.virtualtransaction";

/// The planner takes these views to have few rows, and would compare each with each: ten thousand
/// branches took longer than half a minute (observed on 18). For the transaction of this string.
const NO_LOOPS: &str = "SELECT 'set', pg_catalog.set_config('enable_nestloop', 'off', true)";

fn question(options: InspectOptions) -> String {
    let mut text = format!(
        "{NO_LOOPS}; {}; {}",
        branches(),
        waiters(options.statement_chars_max)
    );
    if options.locks_max > 0 {
        text = format!("{text}; {}", locks(options.locks_max));
    }
    text
}

/// Each branch with the age of its number, whether nothing is older, and how many locks it holds.
fn branches() -> String {
    format!(
        "WITH {HOLDERS}, held AS (SELECT own.gid, count(*) AS count FROM own JOIN l ON {HELD} \
         GROUP BY own.gid), \
         ages AS (SELECT pg_catalog.age(transaction) AS age FROM own \
         UNION ALL SELECT pg_catalog.age(backend_xmin) FROM pg_catalog.pg_stat_activity \
         WHERE datname = pg_catalog.current_database() \
         UNION ALL SELECT pg_catalog.age(backend_xmin) FROM pg_catalog.pg_stat_replication \
         UNION ALL SELECT greatest(pg_catalog.age(xmin), pg_catalog.age(catalog_xmin)) \
         FROM pg_catalog.pg_replication_slots) \
         SELECT 'branch', {}, pg_catalog.age(own.transaction), \
         CASE WHEN pg_catalog.age(own.transaction) >= (SELECT max(age) FROM ages) \
         THEN 't' ELSE 'f' END, coalesce(held.count, 0), \
         pg_catalog.current_setting('autovacuum_freeze_max_age') \
         FROM own LEFT JOIN held USING (gid)",
        hex("own.gid")
    )
}

/// The locks of each branch by object and mode, the most of a kind first.
fn locks(max: usize) -> String {
    let object = "CASE locktype WHEN 'relation' THEN relation::regclass::text \
        WHEN 'advisory' THEN 'advisory lock ' || classid || ',' || objid \
        WHEN 'object' THEN classid::regclass || ' ' || objid \
        ELSE locktype || coalesce(' of ' || relation::regclass::text, '') END";
    format!(
        "WITH {HOLDERS}, held AS (SELECT own.gid, l.locktype, l.relation, l.classid, l.objid, \
         l.mode, count(*) AS count FROM own JOIN l ON {HELD} \
         GROUP BY own.gid, l.locktype, l.relation, l.classid, l.objid, l.mode), \
         ranked AS (SELECT *, row_number() OVER (PARTITION BY gid \
         ORDER BY count DESC, locktype DESC, relation, mode) AS rank FROM held) \
         SELECT 'lock', {}, {}, mode, count FROM ranked WHERE rank <= {max} ORDER BY gid, rank",
        hex("gid"),
        hex(object)
    )
}

/// Sessions that wait for a lock; then, for each, the branches that hold a lock on what it wants.
fn waiters(statement_chars_max: usize) -> String {
    let waiting = format!(
        "w AS MATERIALIZED (SELECT * FROM pg_catalog.pg_locks WHERE NOT granted \
         AND pid IS NOT NULL AND EXISTS (SELECT FROM pg_catalog.pg_prepared_xacts \
         WHERE database = pg_catalog.current_database()) LIMIT {WAITERS_MAX})"
    );
    let statement = if statement_chars_max == 0 {
        "NULL".to_owned()
    } else {
        hex(&format!("pg_catalog.left(a.query, {statement_chars_max})"))
    };
    let same = [
        "database",
        "page",
        "tuple",
        "virtualxid",
        "classid",
        "objid",
        "objsubid",
    ];
    let same = same.map(|column| format!("l.{column} IS NOT DISTINCT FROM w.{column}"));
    format!(
        "WITH {waiting} SELECT 'waiter', w.pid, {}, greatest(0, extract(epoch FROM \
         pg_catalog.clock_timestamp() - coalesce(w.waitstart, a.state_change)) * 1000000)::bigint, \
         w.mode, pg_catalog.pg_blocking_pids(w.pid), {statement} \
         FROM w LEFT JOIN pg_catalog.pg_stat_activity a USING (pid); \
         WITH {waiting}, {HOLDERS} SELECT 'edge', w.pid, {}, l.mode \
         FROM w JOIN l ON l.locktype = w.locktype \
         AND coalesce(l.relation, 0) = coalesce(w.relation, 0) \
         AND coalesce(l.transactionid::text, '') = coalesce(w.transactionid::text, '') \
         AND {} JOIN own ON l.pid IS NULL AND l.granted \
         AND own.virtualtransaction = l.virtualtransaction",
        hex("a.usename::text"),
        hex("own.gid"),
        same.join(" AND ")
    )
}

/// All that was answered.
#[derive(Default)]
struct Picture {
    branches: Vec<(XidOwner, InspectedBranch)>,
    locks: HashMap<XidOwner, Vec<HeldLock>>,
    waiters: BTreeMap<u64, Waiter>,
    edges: Vec<(u64, XidOwner, String)>,
}

struct Waiter {
    session: BlockedSession,
    wants: String,
    waits_for: Vec<u64>,
}

fn number<T: std::str::FromStr>(row: &SimpleQueryRow, column: usize) -> Option<T> {
    field(row, column)?.parse().ok()
}

fn words(row: &SimpleQueryRow, column: usize) -> Option<String> {
    let bytes = gid::from_hex(field(row, column)?)?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

impl Picture {
    fn read(rows: &[SimpleQueryRow]) -> Self {
        let mut picture = Self::default();
        for row in rows {
            // A row that cannot be read tells nothing; the picture is for people.
            let _ = match field(row, 0) {
                Some("branch") => picture.take_branch(row),
                Some("lock") => picture.take_lock(row),
                Some("waiter") => picture.take_waiter(row),
                Some("edge") => picture.take_edge(row),
                Some(_) | None => None,
            };
        }
        picture
    }

    fn take_branch(&mut self, row: &SimpleQueryRow) -> Option<()> {
        let owner = gid::owner(field(row, 1)?)?;
        let locks = Locks {
            count: number(row, 4)?,
            named: Vec::new(),
        };
        let holding = Holding {
            locks: Some(locks),
            ..Holding::default()
        };
        let branch = InspectedBranch {
            owner: owner.clone(),
            holding,
            horizon: number(row, 2).map(|count| Horizon {
                subject: "transactions since it began".to_owned(),
                count,
                limit: number(row, 5),
                is_oldest: field(row, 3) == Some("t"),
            }),
        };
        self.branches.push((owner, branch));
        Some(())
    }

    fn take_lock(&mut self, row: &SimpleQueryRow) -> Option<()> {
        let lock = HeldLock {
            object: words(row, 2)?,
            mode: field(row, 3)?.to_owned(),
            count: number(row, 4)?,
        };
        let owner = gid::owner(field(row, 1)?)?;
        self.locks.entry(owner).or_default().push(lock);
        Some(())
    }

    fn take_waiter(&mut self, row: &SimpleQueryRow) -> Option<()> {
        let pid = number(row, 1)?;
        let pids = field(row, 5)?.trim_matches(['{', '}']).split(',');
        let session = BlockedSession {
            session: pid,
            user: words(row, 2),
            waiting: number(row, 3).map(Duration::from_micros),
            is_behind: false,
            statement: words(row, 6),
        };
        let waiter = Waiter {
            session,
            wants: field(row, 4)?.to_owned(),
            waits_for: pids.filter_map(|pid| pid.parse().ok()).collect(),
        };
        self.waiters.insert(pid, waiter);
        Some(())
    }

    fn take_edge(&mut self, row: &SimpleQueryRow) -> Option<()> {
        let owner = gid::owner(field(row, 2)?)?;
        let edge = (number(row, 1)?, owner, field(row, 3)?.to_owned());
        self.edges.push(edge);
        Some(())
    }

    fn tell(mut self, options: InspectOptions) -> Inspection {
        let mut blocked = self.blocked();
        let mut notes = Vec::new();
        if self.waiters.len() >= WAITERS_MAX {
            notes.push(format!(
                "at least {WAITERS_MAX} sessions wait for locks: only so many were looked at"
            ));
        }
        if self.hide_what_is_not_shown() {
            notes.push(
                "the statements of other roles' sessions are hidden: GRANT pg_read_all_stats TO \
                 the role that recovery logs in as"
                    .to_owned(),
            );
        }
        let mut branches = Vec::with_capacity(self.branches.len());
        for (owner, mut branch) in std::mem::take(&mut self.branches) {
            if let Some(locks) = &mut branch.holding.locks {
                locks.named = self.locks.remove(&owner).unwrap_or_default();
            }
            let waiting = blocked.remove(&owner).unwrap_or_default();
            branch.holding.blocked = Some(self.sessions(waiting, options.sessions_max));
            branches.push(branch);
        }
        Inspection {
            branches,
            notes,
            ..Inspection::default()
        }
    }

    fn sessions(&self, waiting: BTreeMap<u64, Behind>, max: usize) -> Blocked {
        let count = waiting.len() as u64;
        let sessions = waiting.into_iter().filter_map(|(pid, Behind(is_behind))| {
            let session = self.waiters.get(&pid)?.session.clone();
            Some(BlockedSession {
                is_behind,
                ..session
            })
        });
        let mut sessions: Vec<_> = sessions.collect();
        sessions.sort_by_key(|session| std::cmp::Reverse(session.waiting));
        sessions.truncate(max);
        Blocked { count, sessions }
    }

    /// Whether there was any.
    fn hide_what_is_not_shown(&mut self) -> bool {
        let mut any = false;
        for waiter in self.waiters.values_mut() {
            let hidden = |text: &String| text == "<insufficient privilege>";
            if waiter.session.statement.as_ref().is_some_and(hidden) {
                waiter.session.statement = None;
                any = true;
            }
        }
        any
    }

    /// By branch: who waits for it, at once or behind others who do.
    fn blocked(&self) -> HashMap<XidOwner, BTreeMap<u64, Behind>> {
        let mut blocked: HashMap<XidOwner, BTreeMap<u64, Behind>> = HashMap::new();
        for (pid, owner, held) in &self.edges {
            let Some(waiter) = self.waiters.get(pid) else {
                continue;
            };
            if waiter.waits_for.contains(&0) && conflict(held, &waiter.wants) {
                let waiting = blocked.entry(owner.clone()).or_default();
                waiting.insert(*pid, Behind(false));
            }
        }
        let behind = self.behind();
        for waiting in blocked.values_mut() {
            let mut next: Vec<u64> = waiting.keys().copied().collect();
            while let Some(pid) = next.pop() {
                for follower in behind.get(&pid).into_iter().flatten() {
                    if !waiting.contains_key(follower) {
                        waiting.insert(*follower, Behind(true));
                        next.push(*follower);
                    }
                }
            }
        }
        blocked
    }

    fn behind(&self) -> HashMap<u64, BTreeSet<u64>> {
        let mut behind: HashMap<u64, BTreeSet<u64>> = HashMap::new();
        for (pid, waiter) in &self.waiters {
            for before in &waiter.waits_for {
                behind.entry(*before).or_default().insert(*pid);
            }
        }
        behind
    }
}

/// It waits behind another one.
struct Behind(bool);

/// The table "Conflicting Lock Modes" of the manual's chapter on explicit locking: the weakest mode
/// that conflicts with each. A mode that is not in it is not known not to.
fn conflict(held: &str, wanted: &str) -> bool {
    const MODES: [&str; 8] = [
        "AccessShareLock",
        "RowShareLock",
        "RowExclusiveLock",
        "ShareUpdateExclusiveLock",
        "ShareLock",
        "ShareRowExclusiveLock",
        "ExclusiveLock",
        "AccessExclusiveLock",
    ];
    /// By mode: bit n stands for the n-th of the modes.
    const CONFLICTS: [u8; 8] = [
        0b1000_0000,
        0b1100_0000,
        0b1111_0000,
        0b1111_1000,
        0b1110_1100,
        0b1111_1100,
        0b1111_1110,
        0b1111_1111,
    ];
    let place = |mode: &str| MODES.iter().position(|known| *known == mode);
    match (place(held), place(wanted)) {
        (Some(held), Some(wanted)) => CONFLICTS[held] & (1 << wanted) != 0,
        (_, _) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_conflict_as_the_manual_says() {
        for (held, wanted, conflicts) in [
            ("RowExclusiveLock", "AccessExclusiveLock", true),
            ("RowExclusiveLock", "ShareLock", true),
            ("RowExclusiveLock", "RowExclusiveLock", false),
            ("AccessShareLock", "ExclusiveLock", false),
            ("AccessShareLock", "AccessExclusiveLock", true),
            ("ShareLock", "ShareLock", false),
            ("ExclusiveLock", "AccessShareLock", false),
            ("ExclusiveLock", "ShareLock", true),
            ("SIReadLock", "ShareLock", true),
        ] {
            assert_eq!(conflict(held, wanted), conflicts, "{held} {wanted}");
            assert_eq!(conflict(wanted, held), conflicts, "{wanted} {held}");
        }
    }

    #[test]
    fn statements_are_asked_for_only_if_they_are_wanted() {
        assert!(!question(InspectOptions::COUNTS).contains("query"));
        let details = question(InspectOptions::DETAILS);
        assert!(
            details.contains("pg_catalog.left(a.query, 120)"),
            "{details}"
        );
    }
}
