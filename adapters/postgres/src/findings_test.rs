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
    Seen(
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    )
}

fn found(values: &[(&str, &str)]) -> Vec<(Severity, String)> {
    let resource = Postgres::builder("orders", "postgres://app@db/shop")
        .build()
        .unwrap();
    let found = of_server(&seen(values), resource.settings());
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
            ("max_connections", "22"),
            ("superuser_reserved_connections", "3")
        ]),
        one(Warning, "max_connections")
    );
    assert_eq!(
        found(&[("our:role_limit", "19")]),
        one(Warning, "max_connections")
    );
    assert_eq!(found(&[("our:database_limit", "20")]), []);
}
