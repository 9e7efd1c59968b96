//! What a session is set to: after login, and again once it was wiped.
//!
//! The character set comes first: the server reads what follows in it, names included.

use mysql_async::Opts;

/// How long a recovery session waits for a lock: `FLUSH TABLES WITH READ LOCK` blocks `XA COMMIT`.
const CONTROL_LOCK_WAIT_SECONDS: u32 = 5;

/// What the driver speaks, and has said at login: see its `HandshakeResponse`. On MySQL a reset
/// forgets it, and the session has the server's own character set (bugs.mysql.com 97633).
const SPEAKS: &str = "NAMES utf8mb4 COLLATE utf8mb4_general_ci";

/// Without it every `SELECT` opens a transaction, and `XA START` is refused (1400).
const AUTOCOMMIT: &str = "SESSION autocommit = 1";

fn use_database(database: &str) -> String {
    format!("USE `{}`", database.replace('`', "``"))
}

/// For a session of recovery or of the log: nothing of what it asks may be cut short.
pub(crate) fn of_control(database: &str) -> String {
    // Each server passes over the other's comment.
    format!(
        "SET {SPEAKS}, {AUTOCOMMIT}, lock_wait_timeout = {CONTROL_LOCK_WAIT_SECONDS}, \
         innodb_lock_wait_timeout = {CONTROL_LOCK_WAIT_SECONDS}, \
         sql_select_limit = 18446744073709551615 /*!80000 , max_execution_time = 0 */ \
         /*M! , max_statement_time = 0 */;\n{}",
        use_database(database)
    )
}

/// For a session of branches, with the application's own SQL. Autocommit comes last.
pub(crate) fn of_branches(database: &str, own: &[&str]) -> String {
    let own = own
        .iter()
        .map(|statement| statement.trim().trim_end_matches(';').trim_end());
    let own: Vec<_> = own.filter(|statement| !statement.is_empty()).collect();
    let database = use_database(database);
    if own.is_empty() {
        return format!("SET {SPEAKS}, {AUTOCOMMIT};\n{database}");
    }
    // On a line of its own: the statement before may end in a comment.
    let own = own.join(";\n");
    format!("SET {SPEAKS};\n{database};\n{own}\n;\nSET {AUTOCOMMIT}")
}

/// What is put right in a session that was wiped, in the next branch's first round trip: what a
/// reset (COM_RESET_CONNECTION) leaves as the branch before has left it, and what it forgets.
#[derive(Debug)]
pub(crate) struct Again {
    /// The beginning of a list of settings.
    settings: String,
    /// The current database, the active roles.
    statements: String,
}

impl Again {
    /// For a session with these options, and the roles that were active after its set-up. Set-up
    /// SQL of the application's runs with the reset itself, and has put right what it can.
    pub(crate) fn of(opts: &Opts, roles: &str) -> Self {
        match opts.db_name() {
            Some(database) if opts.setup().is_empty() => Self {
                settings: format!("{SPEAKS}, {AUTOCOMMIT}, "),
                statements: format!("{}; SET ROLE {roles}", use_database(database)),
            },
            Some(_) | None => Self {
                settings: String::new(),
                statements: format!("SET ROLE {roles}"),
            },
        }
    }

    /// Before a branch that has these settings, and is begun in this way.
    pub(crate) fn and(&self, settings: &str, start: &str) -> String {
        format!(
            "SET {}{settings}; {}; {start}",
            self.settings, self.statements
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_set_up_comes_between_the_database_and_autocommit() {
        let names = "SET NAMES utf8mb4 COLLATE utf8mb4_general_ci";
        assert_eq!(
            of_branches("d", &["", " "]),
            format!("{names}, SESSION autocommit = 1;\nUSE `d`")
        );
        let own = ["SET x = 1; ", " SET y = 2 -- why"];
        let rest = "SET x = 1;\nSET y = 2 -- why\n;\nSET SESSION autocommit = 1";
        assert_eq!(
            of_branches("a`b", &own),
            format!("{names};\nUSE `a``b`;\n{rest}")
        );
    }

    #[test]
    fn a_wiped_session_is_put_right_unless_the_application_does_it() {
        let opts = Opts::from_url("mysql://app@host/d").unwrap();
        let names = "SET NAMES utf8mb4 COLLATE utf8mb4_general_ci, SESSION autocommit = 1";
        let again = Again::of(&opts, "NONE").and("SESSION x = 1", "XA START 'y'");
        let begin = "USE `d`; SET ROLE NONE; XA START 'y'";
        assert_eq!(again, format!("{names}, SESSION x = 1; {begin}"));
        let own = mysql_async::OptsBuilder::from_opts(opts).setup(vec!["DO 1"]);
        let again = Again::of(&own.into(), "NONE").and("SESSION x = 1", "XA START 'y'");
        assert_eq!(again, "SET SESSION x = 1; SET ROLE NONE; XA START 'y'");
    }
}
