//! Known bugs of PostgreSQL that touch prepared transactions, by the releases that have them.
//!
//! PostgreSQL numbers no bugs; the subject of a finding is the link to the commit that mends it, as
//! the release notes give it. Only what was read there is claimed: where a release of another
//! series mends the same, it was not looked up and nothing is said.
//!
//! * `postgr.es/c/a39ec399e` and `postgr.es/c/4b9009105`: 15 before [15.20].
//! * `postgr.es/c/41ab45680`: 15 before [15.9], 16 before [16.5], 17 before [17.1].
//! * `postgr.es/c/0e2f3d78b`: 15 before [15.8].
//! * `postgr.es/c/a878eff6b`: 15 before [15.4].
//!
//! [15.20]: https://www.postgresql.org/docs/release/15.20/
//! [15.9]: https://www.postgresql.org/docs/release/15.9/
//! [16.5]: https://www.postgresql.org/docs/release/16.5/
//! [17.1]: https://www.postgresql.org/docs/release/17.1/
//! [15.8]: https://www.postgresql.org/docs/release/15.8/
//! [15.4]: https://www.postgresql.org/docs/release/15.4/

use unanimous_core::ports::{Finding, Severity};

struct Bug {
    subject: &'static str,
    what: &'static str,
    /// The first release of a series that has it no more.
    mended: &'static [(u32, u32)],
}

const BUGS: [Bug; 5] = [
    Bug {
        subject: "postgr.es/c/a39ec399e",
        what: "a crash during a checkpoint that begins while a prepared transaction is rolled back \
               leaves it to be committed afterwards",
        mended: &[(15, 20)],
    },
    Bug {
        subject: "postgr.es/c/4b9009105",
        what: "a crash during a checkpoint can leave a broken state file of a prepared \
               transaction, and then the server does not start",
        mended: &[(15, 20)],
    },
    Bug {
        subject: "postgr.es/c/41ab45680",
        what: "COMMIT PREPARED beside a PREPARE TRANSACTION can leave its state file behind, and \
               after a crash the server may not start before somebody removes the file",
        mended: &[(15, 9), (16, 5), (17, 1)],
    },
    Bug {
        subject: "postgr.es/c/0e2f3d78b",
        what: "a standby that starts at a shut-down primary's checkpoint takes savepoints of \
               prepared transactions for rolled back, and their rows are lost there at the commit",
        mended: &[(15, 8)],
    },
    Bug {
        subject: "postgr.es/c/a878eff6b",
        what: "after a crash during a checkpoint prepared transactions can be replayed twice, and \
               then the server does not start",
        mended: &[(15, 4)],
    },
];

/// Those of a release, for a `server_version_num`.
pub(crate) fn of(version_num: u64) -> Vec<Finding> {
    let (major, minor) = (version_num / 10_000, version_num % 10_000);
    let found = BUGS.iter().filter_map(|bug| {
        let is_of_its_series = |mended: &&(u32, u32)| u64::from(mended.0) == major;
        let (series, release) = bug.mended.iter().find(is_of_its_series)?;
        (minor < u64::from(*release)).then(|| {
            Finding::new(
                Severity::Warning,
                bug.subject,
                format!("PostgreSQL {major}.{minor}: {}", bug.what),
                format!("update the server to {series}.{release} or newer"),
            )
        })
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subjects(version_num: u64) -> Vec<String> {
        let found = of(version_num).into_iter();
        found.map(|finding| finding.subject).collect()
    }

    #[test]
    fn a_release_has_the_bugs_that_later_ones_of_its_series_mend() {
        let all: Vec<_> = BUGS.iter().map(|bug| bug.subject).collect();
        for (version, expected) in [
            (150_003, &all[..]),
            (150_004, &all[..4]),
            (150_008, &all[..3]),
            (150_009, &all[..2]),
            (150_019, &all[..2]),
            (150_020, &[]),
            (160_004, &all[2..3]),
            (160_005, &[]),
            (170_000, &all[2..3]),
            (170_001, &[]),
            // Nothing was looked up for these.
            (140_000, &[]),
            (180_000, &[]),
        ] {
            assert_eq!(subjects(version), expected, "{version}");
        }
        let found = &of(150_019)[0];
        assert!(found.evidence.starts_with("PostgreSQL 15.19: "), "{found}");
        assert!(found.mend.contains("15.20 or newer"), "{found}");
    }
}
