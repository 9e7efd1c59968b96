//! What the statements hold, and in which order.

use super::*;
use crate::config::Isolation;
use unanimous_core::xid::{Epoch, ManagerId, Opening, Xid};

fn env(sequence: u64) -> BranchEnv {
    let opening = Opening {
        manager: ManagerId::from_bytes([7; 10]),
        epoch: Epoch(u32::MAX),
        nonce: u64::MAX,
    };
    BranchEnv {
        xid: Xid {
            gtrid: opening.gtrid(sequence),
            bqual: "orders".parse().unwrap(),
        },
        read_only: false,
        lock_timeout: Duration::ZERO,
        idle_timeout: Duration::MAX,
    }
}

#[test]
fn the_application_name_always_holds_the_whole_gtrid() {
    for (prefix, sequence) in [("shop", 1), ("", 1), (&*"p".repeat(63), u64::MAX)] {
        let env = env(sequence);
        let name = application_name(prefix, &env);
        assert!(name.len() <= APPLICATION_NAME_BYTES_MAX, "{name}");
        assert!(name.ends_with(&env.xid.gtrid.to_string()), "{name}");
    }
}

fn gid() -> Gid {
    Gid::of(&env(1).xid)
}

/// Prepare and commit come last, and what must fail before them comes first.
#[test]
fn nothing_is_prepared_or_committed_without_its_guard() {
    let gid = gid();
    for (sql, end) in [
        (
            prepare(&gid, 4711, "on"),
            format!("PREPARE TRANSACTION '{gid}'"),
        ),
        (end_reader(&gid, 4711), "COMMIT".to_owned()),
        (
            format!("{}; {ONE_PHASE_END}", one_phase_guard(&gid, 4711)),
            "COMMIT".to_owned(),
        ),
    ] {
        assert!(sql.starts_with("SELECT CASE WHEN "), "{sql}");
        for part in ["pg_backend_pid() <> 4711 ", OTHER_SESSION, MARKER_GONE] {
            assert!(sql.contains(part), "{sql}");
        }
        let marker = format!("'unanimous.xid', true) IS DISTINCT FROM '{gid}' ");
        assert!(sql.contains(&marker), "{sql}");
        let end = format!("; SAVEPOINT unanimous_guard; {end}");
        assert!(sql.ends_with(&end), "{sql}");
    }
    assert!(end_reader(&gid, 1).contains(MAY_WRITE));
    assert_eq!(commit_prepared(&gid), format!("COMMIT PREPARED '{gid}'"));
    let rollback = format!("ROLLBACK PREPARED '{gid}'");
    assert_eq!(rollback_prepared(&gid), rollback);
    assert!(owner_of(&gid).contains(&format!("WHERE gid = '{gid}' AND database = ")));
}

#[test]
fn a_branch_is_begun_with_its_marker_and_its_limits() {
    let orders = crate::Postgres::builder("orders", "postgres://app@db/shop");
    let orders = orders.build().unwrap();
    let gid = gid();
    let mut env = env(1);
    let marker = format!("; SET LOCAL unanimous.xid = '{gid}'; SET LOCAL lock_timeout = 1; ");
    let writer = begin(orders.settings(), &env, &gid);
    assert!(writer.starts_with(&format!("BEGIN{marker}")), "{writer}");
    assert!(!writer.contains("SELECT"), "{writer}");
    env.read_only = true;
    let reader = begin(orders.settings(), &env, &gid);
    assert!(
        reader.starts_with(&format!("BEGIN READ ONLY{marker}")),
        "{reader}"
    );
    assert!(reader.ends_with("; SELECT 1"), "{reader}");
    for (isolation, words) in [
        (Isolation::ReadCommitted, "READ COMMITTED"),
        (Isolation::RepeatableRead, "REPEATABLE READ"),
        (Isolation::Serializable, "SERIALIZABLE"),
    ] {
        let builder = crate::Postgres::builder("orders", "postgres://app@db/shop");
        let orders = builder.isolation(isolation).build().unwrap();
        let sql = begin(orders.settings(), &env, &gid);
        let start = format!("BEGIN ISOLATION LEVEL {words} READ ONLY; ");
        assert!(sql.starts_with(&start), "{sql}");
    }
    assert_eq!(
        limits(Duration::from_secs(10)),
        "SET tcp_user_timeout = 10000; SET tcp_keepalives_idle = 2; \
         SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3"
    );
}

/// Since version 16 a member may be one that cannot become the role.
#[test]
fn an_account_is_asked_for_the_right_that_its_version_knows() {
    for (version, right) in [("150000", "MEMBER"), ("160000", "SET")] {
        let seen = Seen::of(
            [
                ("server_version_num", version),
                ("max_prepared_transactions", "1"),
                ("our:account_text", "'app'"),
                ("our:owner_text", "'owner'"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        );
        let sql = account(&seen.unwrap());
        for role in ["app", "owner"] {
            assert!(
                sql.contains(&format!("pg_has_role('{role}', '{right}')")),
                "{sql}"
            );
        }
    }
}

#[test]
fn a_limit_is_never_written_as_none() {
    assert_eq!(millis(Duration::ZERO), 1);
    assert_eq!(millis(Duration::from_micros(10)), 1);
    assert_eq!(millis(Duration::MAX), i32::MAX);
}

#[test]
fn a_guard_is_known_by_code_and_name_only() {
    let message = format!("unrecognized configuration parameter \"{MARKER_GONE}\"");
    assert_eq!(guard_in("42704", &message), Some(Guard::MarkerGone));
    assert_eq!(guard_in("42704", OTHER_SESSION), Some(Guard::OtherSession));
    assert_eq!(guard_in("42704", MAY_WRITE), Some(Guard::MayWrite));
    assert_eq!(guard_in("P0001", &message), None);
    assert_eq!(guard_in("42704", "type \"x\" does not exist"), None);
}
