//! Checks of a decision log in a table: is it there, may it be used, who shares it, what is pending,
//! and, if the database is the log's own, the settings of its server. It is only read.
//!
//! Subjects of findings beside those of `check_log` and of the servers: `tables`, `log database`,
//! `members`.

use std::time::Duration;

use unanimous_core::ports::{
    DecisionTable, LogError, LogHome, OpeningState, Problem, TableErrorKind,
};
use unanimous_core::xid::Epoch;

use super::check::AWAY_MEND;
use super::check_log::CheckedLog;
use super::file::ConfigFile;
use super::place::{Home, TablePlace};
use super::shared::{Watched, patience};
use crate::bounded::bounded;
use crate::log::TableLog;

/// How long one question may take.
const LIMIT: Duration = Duration::from_secs(30);

/// What matters of a server that holds a log and no branches.
const OF_A_LOGS_SERVER: [&str; 15] = [
    "binlog_error_action",
    "fsync",
    "full_page_writes",
    "innodb_doublewrite",
    "innodb_flush_log_at_trx_commit",
    "innodb_force_recovery",
    "innodb_read_only",
    "max_connections",
    "read_only",
    "recovery",
    "server_version",
    "sync_binlog",
    "synchronous_commit",
    "synchronous_standby_names",
    "transaction_read_only",
];

impl CheckedLog {
    pub(super) async fn look_at_table(file: &ConfigFile, place: &TablePlace) -> Self {
        let mut checked = Self::unseen(file.log_place(), None);
        let log = match file.home() {
            Ok(Home::Table(log)) => log,
            Ok(Home::Folder(_)) => return checked,
            Err(error) => {
                let text = error.to_string();
                checked.error("config file", &text, "correct [log] in the config file");
                return checked;
            }
        };
        let table = log.table();
        checked.place = table.place();
        checked.judge_server(place).await;
        if checked.judge_tables(place, &*table).await {
            checked.exists = true;
            checked.judge_rows(file, log).await;
            checked.judge_members(place, &*table).await;
        }
        checked
    }

    /// The server of a log in a resource is checked as the resource's.
    async fn judge_server(&mut self, place: &TablePlace) {
        let Ok(Some(own)) = place.own_database() else {
            return;
        };
        match bounded(LIMIT, own.preflight()).await {
            Ok(Ok(preflight)) => {
                let findings = preflight.findings.into_iter();
                let of_log =
                    findings.filter(|found| OF_A_LOGS_SERVER.contains(&found.subject.as_str()));
                self.findings.extend(of_log.map(Into::into));
            }
            // Told by the table, too, and there it matters.
            Ok(Err(error)) if error.problem() == Problem::Unavailable => {}
            Ok(Err(error)) => {
                self.warn("log database", &error.to_string(), "do what this says");
            }
            Err(silence) => self.warn("log database", &silence.to_string(), AWAY_MEND),
        }
    }

    /// Can they be used?
    async fn judge_tables(&mut self, place: &TablePlace, table: &dyn DecisionTable) -> bool {
        let error = match bounded(LIMIT, table.check()).await {
            Ok(Ok(_)) => return true,
            Ok(Err(error)) => error,
            Err(silence) => {
                self.error("log database", &silence.to_string(), AWAY_MEND);
                return false;
            }
        };
        let evidence = error.to_string();
        match error.kind() {
            TableErrorKind::Missing if place.is_made_at_start() => self.note(
                "tables",
                &evidence,
                "nothing, if the account may make tables: the application makes them at its first \
                 start; else: unanimous log init --print, and run that as one that may",
            ),
            TableErrorKind::Missing => self.error(
                "tables",
                &evidence,
                "unanimous log init, or unanimous log init --print for one that may make tables",
            ),
            TableErrorKind::NotSent | TableErrorKind::Lost => {
                self.error("log database", &evidence, AWAY_MEND);
            }
            TableErrorKind::Refused | TableErrorKind::Unfit => {
                self.error("tables", &evidence, "do what this says, then check again");
            }
        }
        false
    }

    async fn judge_rows(&mut self, file: &ConfigFile, log: TableLog) {
        let reading = async {
            let log: Box<dyn LogHome> = Box::new(log.create(false).observer());
            let log = log.open().await?;
            let pending = log.pending().await?;
            Ok::<_, LogError>((pending, log.openings().await?))
        };
        match bounded(LIMIT, reading).await {
            Ok(Ok((pending, openings))) => {
                self.pending = pending.len();
                // An observer lists itself as an epoch that there never is.
                let is_listed = |state: &&OpeningState| state.opening.epoch > Epoch(0);
                self.openings = openings.iter().filter(is_listed).count();
                self.judge_names(file, &pending);
            }
            Ok(Err(error)) => {
                let mend = "do what the evidence says; change nothing in the tables before";
                self.error("log", &error.to_string(), mend);
            }
            Err(silence) => self.error("log database", &silence.to_string(), AWAY_MEND),
        }
    }

    async fn judge_members(&mut self, place: &TablePlace, table: &dyn DecisionTable) {
        let limit = patience(place.suspect_after());
        let watched = match Watched::until_all_live(table, limit).await {
            Ok(watched) => watched,
            Err(error) => {
                self.error("log database", &error.to_string(), AWAY_MEND);
                return;
            }
        };
        self.has_application = watched.alive().next().is_some();
        let silent: Vec<_> = watched.silent().map(|epoch| epoch.to_string()).collect();
        if !silent.is_empty() {
            let evidence = format!(
                "of the members that share the log, {} gave no sign of life within {limit:?} (by \
                 epoch)",
                silent.join(", ")
            );
            let mend = "nothing, if another member runs: it closes their epochs and ends their \
                        branches; else: unanimous recover";
            self.note("members", &evidence, mend);
        }
        if self.pending > 0 && !self.has_application {
            let evidence = format!("not completed: {}; no member is alive", self.pending);
            let mend = "start the application, or: unanimous recover";
            self.note("pending decisions", &evidence, mend);
        }
    }
}
