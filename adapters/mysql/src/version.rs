//! Which product and version a server is, and what is known of them.

use unanimous_core::ports::{Finding, Severity};

use crate::session::Flavour;

const SUBJECT: &str = "version";

pub(crate) type Numbers = (u32, u32, u32);

/// The releases of MariaDB in which MDEV-37141 and MDEV-37117 are fixed, by their series; in later
/// series they always were.
const DEADLOCK_FIXES: [Numbers; 4] = [(10, 6, 23), (10, 11, 14), (11, 4, 8), (11, 8, 3)];

pub(crate) fn flavour(version: &str) -> Flavour {
    if version.to_ascii_lowercase().contains("mariadb") {
        Flavour::MariaDb
    } else {
        Flavour::MySql
    }
}

/// Product and version, for people: `MySQL 9.7.4`.
pub(crate) fn product(version: &str) -> String {
    let name = name(flavour(version));
    match numbers(version) {
        Some((major, minor, patch)) => format!("{name} {major}.{minor}.{patch}"),
        None => format!("{name} of unknown version"),
    }
}

const fn name(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::MySql => "MySQL",
        Flavour::MariaDb => "MariaDB",
    }
}

/// Refuses servers on which a prepared branch is not safe.
pub(crate) fn check(version: &str) -> Result<(), Finding> {
    let flavour = flavour(version);
    let Some(numbers) = numbers(version) else {
        return Err(Finding::new(
            Severity::Error,
            SUBJECT,
            format!("the server's version {version:?} cannot be read"),
            "connect to MySQL 8.0.30 or newer, or to MariaDB 10.6 or newer",
        ));
    };
    let (oldest, reason, mend) = match flavour {
        Flavour::MySql => (
            (8, 0, 30),
            "before 8.0.30 a crash can leave a prepared branch and the binary log apart, and \
             before 5.7.7 a prepared branch is lost when its connection closes",
            "use MySQL 8.0.30 or newer",
        ),
        Flavour::MariaDb => (
            (10, 6, 0),
            "before 10.5.2 a prepared branch is lost when its connection closes (MDEV-742), and \
             10.5 is out of support",
            "use MariaDB 10.6 or newer",
        ),
    };
    if numbers >= oldest {
        return Ok(());
    }
    let evidence = format!("{} {version} is too old: {reason}", name(flavour));
    Err(Finding::new(Severity::Error, SUBJECT, evidence, mend))
}

/// What is worth knowing of a version that is not refused.
pub(crate) fn remarks(version: &str) -> Vec<Finding> {
    let Some(numbers) = numbers(version) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let flavour = flavour(version);
    if flavour == Flavour::MariaDb && has_deadlock_bug(numbers) {
        findings.push(Finding::new(
            Severity::Warning,
            "MDEV-37141",
            format!(
                "{} has the bugs MDEV-37141 and MDEV-37117: after a deadlock it goes on in a new \
                 transaction inside the branch. Unanimous refuses every further statement of such \
                 a branch; statements of a stored procedure or of one request that follow the \
                 deadlock can slip through",
                product(version)
            ),
            "update MariaDB to 10.6.23, 10.11.14, 11.4.8, 11.8.3 or newer",
        ));
    }
    let (is_run, run) = match flavour {
        Flavour::MySql => ((numbers.0, numbers.1) == (9, 7), "MySQL 9.7"),
        Flavour::MariaDb => ((numbers.0, numbers.1) == (10, 11), "MariaDB 10.11"),
    };
    if !is_run {
        findings.push(Finding::new(
            Severity::Note,
            SUBJECT,
            format!(
                "{} is accepted, but the tests of Unanimous are run against {run}",
                product(version)
            ),
            "nothing has to be done; try crashes on a copy before you rely on it",
        ));
    }
    findings
}

/// MDEV-37141: after a deadlock MariaDB goes on in a new transaction inside the branch.
pub(crate) fn hides_deadlocks(version: &str) -> bool {
    flavour(version) == Flavour::MariaDb && numbers(version).is_some_and(has_deadlock_bug)
}

fn has_deadlock_bug(numbers: Numbers) -> bool {
    let is_of_its_series = |fixed: &&Numbers| (fixed.0, fixed.1) == (numbers.0, numbers.1);
    let fixed = DEADLOCK_FIXES.iter().find(is_of_its_series);
    // A series between two of these is out of support and was not mended.
    let fixed = fixed.or(DEADLOCK_FIXES.last());
    fixed.is_some_and(|fixed| numbers < *fixed)
}

pub(crate) fn numbers(version: &str) -> Option<Numbers> {
    let mut numbers = version.splitn(3, '.').map(|part| {
        let digits = part
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(part.len());
        part[..digits].parse::<u32>().ok()
    });
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_servers_are_refused_with_the_reason() {
        for version in [
            "5.7.44-log",
            "8.0.29",
            "8.0.11-TiDB-v7.5.0",
            "10.5.29-MariaDB-log",
        ] {
            let finding = check(version).unwrap_err();
            assert_eq!(finding.severity, Severity::Error);
            let reason = finding.evidence;
            assert!(
                reason.contains(&format!("{version} is too old: before ")),
                "{reason}"
            );
        }
        for version in [
            "8.0.30",
            "8.4.6",
            "9.7.4-2",
            "10.6.0-MariaDB",
            "11.8.6-MariaDB-0+deb13u1",
        ] {
            assert_eq!(check(version), Ok(()), "{version}");
        }
        for version in ["", "8.0", "x.y.z", "8.x.30"] {
            let reason = check(version).unwrap_err().evidence;
            assert!(reason.contains("cannot be read"), "{version}");
        }
    }

    #[test]
    fn known_bugs_and_versions_that_were_not_run_are_told() {
        let subjects = |version: &str| -> Vec<String> {
            let findings = remarks(version).into_iter();
            findings.map(|finding| finding.subject).collect()
        };
        for (version, expected) in [
            ("9.7.4", &[][..]),
            ("8.0.45", &["version"]),
            ("10.11.19-MariaDB", &[]),
            ("10.11.13-MariaDB", &["MDEV-37141"]),
            ("10.6.22-MariaDB", &["MDEV-37141", "version"]),
            ("10.6.23-MariaDB", &["version"]),
            ("11.2.9-MariaDB", &["MDEV-37141", "version"]),
            ("11.8.2-MariaDB", &["MDEV-37141", "version"]),
            ("11.8.3-MariaDB", &["version"]),
            ("12.1.1-MariaDB", &["version"]),
        ] {
            assert_eq!(subjects(version), expected, "{version}");
        }
    }

    #[test]
    fn the_product_is_named_for_people() {
        assert_eq!(product("9.7.4-2"), "MySQL 9.7.4");
        assert_eq!(product("11.8.6-MariaDB-0+deb13u1"), "MariaDB 11.8.6");
        assert_eq!(product("x"), "MySQL of unknown version");
    }
}
