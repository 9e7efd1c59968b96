//! Known bugs of MySQL and MariaDB that touch XA, by the releases that have them. (`MDEV-37141`,
//! because of which statements are refused, is in [`version`](crate::version).)
//!
//! Only what was read is claimed; the subject of a finding is the bug's own number.
//!
//! * `MDEV-24981`: MariaDB 10.11 before 10.11.14, by its [changelog][a].
//! * `MDEV-34690`: before 10.6.20, 10.11.10 ([notes][b]), 11.2.6 and 11.4.4, from the release on
//!   that brought the function that hangs with MDEV-33454: 10.6.18, 10.11.8 ([notes][c]), 11.2.4,
//!   11.4.2. What it does is said in the notes of [Enterprise 10.6.20-16][d].
//! * `MDEV-37972`: with Spider, before 10.6.25, 10.11.16 ([notes][e]), 11.4.10 and 11.8.6.
//! * `MDEV-40218`: the same function, before 10.11.19 ([notes][f]), 11.4.13, 11.8.9 and 12.3.3.
//! * `MDEV-31949`: every MariaDB with a binary log. The commit of [MDEV-742][g] leaves it open, the
//!   [change][h] that addresses it was not merged when this was written.
//! * `Bug#118797`: MySQL 8.4 up to 8.4.6 and 9.4.0, with binary log and GTIDs: [the report][i],
//!   verified by its makers. A release that mends it was not found.
//!
//! [a]: https://mariadb.com/docs/release-notes/community-server/changelogs/10.11/10.11.14
//! [b]: https://mariadb.com/docs/release-notes/community-server/10.11/10.11.10
//! [c]: https://mariadb.com/docs/release-notes/community-server/10.11/10.11.8
//! [d]: https://mariadb.com/docs/release-notes/enterprise-server/10.6/10.6.20-16
//! [e]: https://mariadb.com/docs/release-notes/community-server/10.11/10.11.16
//! [f]: https://mariadb.com/docs/release-notes/community-server/10.11/10.11.19
//! [g]: https://github.com/MariaDB/server/commit/c8ae357341
//! [h]: https://github.com/MariaDB/server/pull/4041
//! [i]: https://bugs.mysql.com/bug.php?id=118797
//!
//! Not told, because no release that mends it could be read: [Bug #35277407] (a transaction used
//! after it was freed, when `XA COMMIT` comes from another connection; bugs 99643, 105036, 112425).
//!
//! [Bug #35277407]: https://github.com/mysql/mysql-server/commit/88b0ebafdf6

use unanimous_core::ports::{Finding, Severity};

use crate::session::Flavour;
use crate::version::{self, Numbers};

/// From this release on, and before that one.
type Range = (Numbers, Numbers);

/// What a bug needs beside the release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Circumstances {
    pub(crate) has_binary_log: bool,
    pub(crate) has_gtids: bool,
    pub(crate) has_spider: bool,
}

struct Bug {
    subject: &'static str,
    severity: Severity,
    flavour: Flavour,
    ranges: &'static [Range],
    needs: Circumstances,
    what: &'static str,
}

const NOTHING: Circumstances = Circumstances {
    has_binary_log: false,
    has_gtids: false,
    has_spider: false,
};

const BUGS: [Bug; 5] = [
    Bug {
        subject: "MDEV-24981",
        severity: Severity::Warning,
        flavour: Flavour::MariaDb,
        ranges: &[((10, 11, 0), (10, 11, 14))],
        needs: NOTHING,
        what: "LOAD INDEX may roll back a prepared transaction",
    },
    Bug {
        subject: "MDEV-34690",
        severity: Severity::Warning,
        flavour: Flavour::MariaDb,
        ranges: &[
            ((10, 6, 18), (10, 6, 20)),
            ((10, 11, 8), (10, 11, 10)),
            ((11, 2, 4), (11, 2, 6)),
            ((11, 4, 2), (11, 4, 4)),
        ],
        needs: NOTHING,
        what: "XA PREPARE may make InnoDB hang",
    },
    Bug {
        subject: "MDEV-37972",
        severity: Severity::Warning,
        flavour: Flavour::MariaDb,
        ranges: &[
            ((10, 6, 0), (10, 6, 25)),
            ((10, 11, 0), (10, 11, 16)),
            ((11, 4, 0), (11, 4, 10)),
            ((11, 8, 0), (11, 8, 6)),
        ],
        needs: Circumstances {
            has_spider: true,
            ..NOTHING
        },
        what: "the storage engine Spider, which is active, keeps XA COMMIT from other connections \
               from working, so recovery can fail",
    },
    Bug {
        subject: "MDEV-40218",
        severity: Severity::Note,
        flavour: Flavour::MariaDb,
        ranges: &[
            ((10, 11, 8), (10, 11, 19)),
            ((11, 4, 2), (11, 4, 13)),
            ((11, 8, 0), (11, 8, 9)),
            ((12, 3, 0), (12, 3, 3)),
        ],
        needs: NOTHING,
        what: "XA PREPARE while InnoDB's buffer pool is resized may, rarely, make the server hang \
               or crash",
    },
    Bug {
        subject: "Bug#118797",
        severity: Severity::Note,
        flavour: Flavour::MySql,
        ranges: &[((8, 4, 0), (8, 4, 7)), ((9, 4, 0), (9, 4, 1))],
        needs: Circumstances {
            has_binary_log: true,
            has_gtids: true,
            ..NOTHING
        },
        what: "when the binary log goes on in another file, the set of GTIDs at its head may miss \
               that of an XA COMMIT: a replica that reads it can stop or ask for it again",
    },
];

/// Those of a release, under these circumstances.
pub(crate) fn of(text: &str, given: Circumstances) -> Vec<Finding> {
    let (flavour, product) = (version::flavour(text), version::product(text));
    let Some(numbers) = version::numbers(text) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for bug in BUGS.iter().filter(|bug| bug.flavour == flavour) {
        let is_in = |(from, before): &&Range| *from <= numbers && numbers < *before;
        let (Some((_, (major, minor, patch))), true) =
            (bug.ranges.iter().find(is_in), bug.needs.are_met(given))
        else {
            continue;
        };
        let mend = match flavour {
            Flavour::MariaDb => format!("update MariaDB to {major}.{minor}.{patch} or newer"),
            Flavour::MySql => {
                "update MySQL, and see in its release notes whether it is mended".into()
            }
        };
        let evidence = format!("{product} has the bug {}: {}", bug.subject, bug.what);
        found.push(Finding::new(bug.severity, bug.subject, evidence, mend));
    }
    if flavour == Flavour::MariaDb && given.has_binary_log {
        found.push(not_crash_safe());
    }
    found
}

fn not_crash_safe() -> Finding {
    Finding::new(
        Severity::Note,
        "MDEV-31949",
        "the binary log is on, and MariaDB does not make it agree with prepared transactions after \
         a crash: replicas may miss a branch, or keep one prepared that is finished here",
        "after a crash of this server compare XA RECOVER on its replicas with its own; make anew \
         those that differ",
    )
}

impl Circumstances {
    const fn are_met(self, given: Self) -> bool {
        (!self.has_binary_log || given.has_binary_log)
            && (!self.has_gtids || given.has_gtids)
            && (!self.has_spider || given.has_spider)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Circumstances = Circumstances {
        has_binary_log: true,
        has_gtids: true,
        has_spider: true,
    };

    fn subjects(version: &str, given: Circumstances) -> Vec<String> {
        let found = of(version, given).into_iter();
        found.map(|finding| finding.subject).collect()
    }

    #[test]
    fn a_release_has_the_bugs_that_were_read_of_it() {
        for (version, expected) in [
            ("10.11.7-MariaDB", &["MDEV-24981"][..]),
            (
                "10.11.9-MariaDB",
                &["MDEV-24981", "MDEV-34690", "MDEV-40218"],
            ),
            ("10.11.14-MariaDB", &["MDEV-40218"]),
            ("10.11.19-MariaDB", &[]),
            ("10.6.19-MariaDB", &["MDEV-34690"]),
            ("10.6.25-MariaDB", &[]),
            ("11.4.3-MariaDB", &["MDEV-34690", "MDEV-40218"]),
            ("12.3.3-MariaDB", &[]),
            ("8.4.6", &[]),
            ("9.7.4", &[]),
            ("x", &[]),
        ] {
            assert_eq!(subjects(version, NOTHING), expected, "{version}");
        }
    }

    #[test]
    fn a_bug_that_needs_more_than_a_release_is_told_where_that_is_there() {
        assert_eq!(subjects("8.4.6", ALL), ["Bug#118797"]);
        assert_eq!(subjects("8.4.7", ALL), [""; 0]);
        assert_eq!(subjects("9.4.0-2", ALL), ["Bug#118797"]);
        let without_gtids = Circumstances {
            has_gtids: false,
            ..ALL
        };
        assert_eq!(subjects("8.4.6", without_gtids), [""; 0]);
        assert_eq!(
            subjects("11.8.5-MariaDB", ALL),
            ["MDEV-37972", "MDEV-40218", "MDEV-31949"]
        );
        assert_eq!(subjects("11.8.9-MariaDB", ALL), ["MDEV-31949"]);
    }

    #[test]
    fn what_mends_a_bug_is_the_next_release_of_the_series() {
        let found = &of("10.11.9-MariaDB", NOTHING)[1];
        assert!(found.mend.contains("10.11.10 or newer"), "{found}");
        assert!(found.evidence.starts_with("MariaDB 10.11.9 has"), "{found}");
    }
}
