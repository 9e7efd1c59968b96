//! The kinds of servers the project is tested with, and their versions.

use std::fmt;

/// A server the project is tested with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// PostgreSQL 15, or the oldest from 15 to 17 that the machine has.
    Postgres15,
    /// The newest PostgreSQL: 18 or later.
    PostgresNewest,
    /// MySQL 9.
    Mysql,
    /// MariaDB 10.11 or later.
    Mariadb,
}

impl Kind {
    /// Every kind, in the order in which sets are printed.
    pub const ALL: [Self; 4] = [
        Self::Postgres15,
        Self::PostgresNewest,
        Self::Mysql,
        Self::Mariadb,
    ];

    /// The name by which messages call this kind.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Postgres15 => "PostgreSQL 15",
            Self::PostgresNewest => "PostgreSQL 18 or newer",
            Self::Mysql => "MySQL 9",
            Self::Mariadb => "MariaDB 10.11 or newer",
        }
    }

    /// The environment variable that holds the address of such a server.
    #[must_use]
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Postgres15 => "UNANIMOUS_PG_URL",
            Self::PostgresNewest => "UNANIMOUS_PG_NEWEST_URL",
            Self::Mysql => "UNANIMOUS_MYSQL_URL",
            Self::Mariadb => "UNANIMOUS_MARIADB_URL",
        }
    }

    /// The environment variable that holds the address of the same server for its administrator.
    #[must_use]
    pub const fn admin_variable(self) -> &'static str {
        match self {
            Self::Postgres15 => "UNANIMOUS_PG_ADMIN_URL",
            Self::PostgresNewest => "UNANIMOUS_PG_NEWEST_ADMIN_URL",
            Self::Mysql => "UNANIMOUS_MYSQL_ADMIN_URL",
            Self::Mariadb => "UNANIMOUS_MARIADB_ADMIN_URL",
        }
    }

    /// The service of `docker/compose.yaml` that stands for this kind.
    #[must_use]
    pub const fn service(self) -> &'static str {
        match self {
            Self::Postgres15 => "postgres-15",
            Self::PostgresNewest => "postgres",
            Self::Mysql => "mysql",
            Self::Mariadb => "mariadb",
        }
    }

    /// The port on which such a server listens in its container.
    #[must_use]
    pub const fn port_inside(self) -> u16 {
        if self.is_postgres() { 5432 } else { 3306 }
    }

    /// Whether the server is a PostgreSQL, of whatever version.
    #[must_use]
    pub const fn is_postgres(self) -> bool {
        match self {
            Self::Postgres15 | Self::PostgresNewest => true,
            Self::Mysql | Self::Mariadb => false,
        }
    }

    /// Whether a server of this version may stand for this kind.
    pub(super) const fn accepts(self, version: Version) -> bool {
        match self {
            Self::Postgres15 => version.major >= 15 && version.major <= 17,
            Self::PostgresNewest => version.major >= 18,
            Self::Mysql => version.major >= 9,
            Self::Mariadb => version.major > 10 || (version.major == 10 && version.minor >= 11),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The first two numbers of a server's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number; 0 where there is none, as in a beta.
    pub minor: u32,
}

impl Version {
    /// Reads what a server program answers to `--version`.
    ///
    /// The version is the first word that begins with a digit: `postgres (PostgreSQL) 15.20`,
    /// `mysqld  Ver 9.7.4-2 for Linux on x86_64`, `mariadbd  Ver 10.11.19-MariaDB for …`.
    pub(super) fn parse(answer: &str) -> Option<Self> {
        let word = answer
            .split([' ', '\t', '\n', '('])
            .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
        let mut numbers = word.split(|c: char| !c.is_ascii_digit());
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or(0);
        Some(Self { major, minor })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(major: u32, minor: u32) -> Option<Version> {
        Some(Version { major, minor })
    }

    #[test]
    fn the_answers_of_the_four_servers_are_read() {
        let postgres = "postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n";
        assert_eq!(Version::parse(postgres), version(15, 20));
        assert_eq!(
            Version::parse("postgres (PostgreSQL) 19beta1\n"),
            version(19, 0)
        );
        let mysql = "/usr/sbin/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))\n";
        assert_eq!(Version::parse(mysql), version(9, 7));
        let mariadb = "/opt/x86_64/mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu";
        assert_eq!(Version::parse(mariadb), version(10, 11));
        assert_eq!(Version::parse("no version here"), None);
    }

    #[test]
    fn each_kind_accepts_its_own_versions_only() {
        let accepted = |kind: Kind, major, minor| kind.accepts(Version { major, minor });
        assert!(!accepted(Kind::Postgres15, 14, 9));
        assert!(accepted(Kind::Postgres15, 17, 0));
        assert!(!accepted(Kind::Postgres15, 18, 0));
        assert!(accepted(Kind::PostgresNewest, 18, 6));
        assert!(!accepted(Kind::Mysql, 8, 4));
        assert!(accepted(Kind::Mysql, 9, 0));
        assert!(!accepted(Kind::Mariadb, 10, 6));
        assert!(accepted(Kind::Mariadb, 11, 4));
    }
}
