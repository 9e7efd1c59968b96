//! Findings that no server at hand can be brought to.

use super::*;
use crate::Postgres;

fn seen(values: &[(&str, &str)]) -> Seen {
    let usual = [
        ("server_version", "18.6 (Debian 18.6-1)"),
        ("server_version_num", "180006"),
        ("max_prepared_transactions", "100"),
        ("max_connections", "100"),
        ("tcp_user_timeout", "60000"),
        ("our:over_network", "t"),
        ("our:account", "app"),
        ("our:database", "shop"),
    ];
    let all = usual.iter().chain(values);
    Seen::of(map(all)).unwrap()
}

fn map<'a>(values: impl Iterator<Item = &'a (&'a str, &'a str)>) -> BTreeMap<String, String> {
    values
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn all_of(values: &[(&str, &str)]) -> Vec<Finding> {
    let resource = Postgres::builder("orders", "postgres://app@db/shop")
        .build()
        .unwrap();
    of_server(&seen(values), resource.settings())
}

fn found(values: &[(&str, &str)]) -> Vec<(Severity, String)> {
    let found = all_of(values);
    for finding in &found {
        assert!(
            !finding.evidence.is_empty() && !finding.mend.is_empty(),
            "{finding}"
        );
    }
    found
        .into_iter()
        .map(|finding| (finding.severity, finding.subject))
        .collect()
}

fn one(severity: Severity, subject: &str) -> Vec<(Severity, String)> {
    vec![(severity, subject.to_owned())]
}

#[test]
fn the_usual_server_is_told_by_its_version_alone() {
    assert_eq!(found(&[]), []);
    assert_eq!(seen(&[]).server(), "PostgreSQL 18.6");
}

#[test]
fn versions_are_too_old_never_tested_or_fine() {
    for (number, expected) in [
        ("130022", one(Error, "server_version")),
        ("140001", one(Note, "server_version")),
        ("150000", Vec::new()),
        ("170002", one(Note, "server_version")),
        ("180006", Vec::new()),
        ("190000", one(Note, "server_version")),
    ] {
        assert_eq!(
            found(&[("server_version_num", number)]),
            expected,
            "{number}"
        );
    }
}

#[test]
fn a_system_without_tcp_user_timeout_is_told_where_there_is_a_network() {
    let none = ("tcp_user_timeout", "0");
    assert_eq!(found(&[none]), one(Warning, "tcp_user_timeout"));
    assert_eq!(found(&[none, ("our:over_network", "f")]), []);
}

#[test]
fn standbys_that_are_there_are_a_note() {
    let names = ("synchronous_standby_names", "ANY 1 (a, b)");
    let there = ("our:standbys", "2");
    assert_eq!(
        found(&[names, there]),
        one(Note, "synchronous_standby_names")
    );
    // They may lack the latest, and are told to be named.
    assert_eq!(found(&[there]), one(Note, "asynchronous_standbys"));
}

#[test]
fn short_limits_weigh_more_than_long_ones() {
    for (setting, short, long) in [
        ("idle_session_timeout", "59999", "60000"),
        ("transaction_timeout", "1", "86400000"),
        ("statement_timeout", "999", "30000"),
    ] {
        assert_eq!(found(&[(setting, short)]), one(Warning, setting));
        assert_eq!(found(&[(setting, long)]), one(Note, setting));
    }
}

#[test]
fn the_tightest_limit_of_connections_counts() {
    assert_eq!(
        found(&[
            ("max_connections", "26"),
            ("superuser_reserved_connections", "3")
        ]),
        one(Warning, "max_connections")
    );
    assert_eq!(
        found(&[("our:role_limit", "23")]),
        one(Warning, "max_connections")
    );
    assert_eq!(found(&[("our:database_limit", "24")]), []);
}

#[test]
fn both_reservations_are_taken_off_what_the_server_allows() {
    let allowed = |max| {
        found(&[
            ("max_connections", max),
            ("superuser_reserved_connections", "2"),
            ("reserved_connections", "1"),
        ])
    };
    assert_eq!(allowed("26"), one(Warning, "max_connections"));
    assert_eq!(allowed("27"), []);
}

/// A pool of 16, so 16 slots are needed.
#[test]
fn slots_are_needed_for_the_whole_pool() {
    let slots = |all, used| found(&[("max_prepared_transactions", all), ("our:slots_used", used)]);
    assert_eq!(slots("0", "0"), one(Error, "max_prepared_transactions"));
    assert_eq!(slots("15", "0"), one(Warning, "max_prepared_transactions"));
    assert_eq!(slots("16", "0"), []);
    assert_eq!(slots("100", "84"), []);
    assert_eq!(slots("100", "85"), one(Warning, "free_prepared_slots"));
    assert_eq!(slots("100", "101"), one(Warning, "free_prepared_slots"));
}

/// Values, the subject and severity of what they lead to, and a part of its mend.
type Each = (
    &'static [(&'static str, &'static str)],
    &'static str,
    Severity,
    &'static str,
);

const EACH: &[Each] = &[
    (
        &[("fsync", "off")],
        "fsync",
        Error,
        "ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf()",
    ),
    (
        &[("full_page_writes", "off")],
        "full_page_writes",
        Warning,
        "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf()",
    ),
    (
        &[("synchronous_commit", "off")],
        "synchronous_commit",
        Note,
        "ALTER ROLE app IN DATABASE shop SET synchronous_commit = on",
    ),
    (
        &[("synchronous_commit", "local")],
        "synchronous_commit",
        Note,
        "ALTER ROLE app IN DATABASE shop SET synchronous_commit = on",
    ),
    (
        &[("synchronous_standby_names", "a")],
        "synchronous_standby_names",
        Warning,
        "start a standby",
    ),
    (
        &[("standard_conforming_strings", "off")],
        "standard_conforming_strings",
        Note,
        "ALTER ROLE app IN DATABASE shop SET standard_conforming_strings = on",
    ),
    (
        &[("default_transaction_read_only", "on")],
        "default_transaction_read_only",
        Warning,
        "SET default_transaction_read_only = off; ALTER ROLE app",
    ),
    (
        &[("our:old_count", "1"), ("our:oldest", "2026-01-02 03:04")],
        "old_prepared_transactions",
        Warning,
        "unanimous list",
    ),
    (
        &[("our:missing_functions", "pg_xact_status(xid8)")],
        "execute",
        Error,
        "GRANT EXECUTE ON FUNCTION pg_xact_status(xid8) TO app",
    ),
];

#[test]
fn each_setting_is_one_finding_with_its_severity_and_its_mend() {
    for (values, subject, severity, mend) in EACH {
        let findings = all_of(values);
        let [finding] = &findings[..] else {
            panic!("{values:?}: {findings:?}")
        };
        let (told, weight) = (&*finding.subject, finding.severity);
        assert_eq!((told, weight), (*subject, *severity));
        assert!(finding.mend.contains(mend), "{finding}");
    }
    let names = ("synchronous_standby_names", "a");
    let both = [
        names,
        ("synchronous_commit", "local"),
        ("our:standbys", "1"),
    ];
    let subject = |finding: Finding| (finding.severity, finding.subject);
    assert_eq!(
        all_of(&both).into_iter().map(subject).collect::<Vec<_>>(),
        [
            (Warning, "synchronous_commit".to_owned()),
            (Note, "synchronous_standby_names".to_owned())
        ]
    );
}

#[test]
fn what_does_not_name_its_version_and_its_slots_is_no_postgresql() {
    let (version, slots) = (
        ("server_version_num", "180006"),
        ("max_prepared_transactions", "0"),
    );
    assert!(Seen::of(map([version, slots].iter())).is_some());
    for values in [&[][..], &[version], &[slots]] {
        assert!(Seen::of(map(values.iter())).is_none(), "{values:?}");
    }
}

/// As [`sql::account`](crate::sql::account) answers: becomes, inherits, is below.
#[test]
fn an_account_that_may_not_do_recoverys_part_is_told_what_to_grant() {
    let told = |rights: [&'static str; 3], version| -> Vec<(Severity, String, String)> {
        let [becomes, inherits, is_below] = rights.map(Some);
        let account = Account::of([Some("rec"), becomes, inherits, is_below]).unwrap();
        let findings = account.findings(&seen(&[("server_version_num", version)]));
        let each = findings.into_iter();
        each.map(|finding| (finding.severity, finding.subject, finding.mend))
            .collect()
    };
    let expected =
        |severity, subject: &str, mend: &str| vec![(severity, subject.to_owned(), mend.to_owned())];
    let (older, newer) = (
        expected(
            Error,
            "membership",
            "GRANT app TO rec; ALTER ROLE rec INHERIT;",
        ),
        expected(
            Error,
            "membership",
            "GRANT app TO rec WITH INHERIT TRUE, SET TRUE;",
        ),
    );
    assert_eq!(told(["t", "t", "f"], "180006"), []);
    assert_eq!(told(["f", "f", "f"], "150000"), older);
    assert_eq!(told(["f", "t", "f"], "160000"), newer);
    assert_eq!(told(["t", "f", "f"], "180006"), newer);
    assert_eq!(
        told(["t", "t", "t"], "180006"),
        expected(
            Warning,
            "superuser",
            "let the application work as a common role: ALTER ROLE app NOSUPERUSER;"
        )
    );
    assert!(Account::of([Some("rec"), Some("t"), None, Some("t")]).is_none());
}
