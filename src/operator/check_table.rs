//! Checks of a decision log in a table: is it there, may it be used, who shares it, what is
//! pending, and, if the database is the log's own, the settings of its server. It is only read.
//!
//! Subjects of findings beside those of `check_log` and of the servers: `tables`, `log database`,
//! `members`, `lossless_failover`.

use std::time::Duration;

use unanimous_core::ports::{
    DecisionTable, Finding, LogError, LogHome, OpeningState, TableErrorKind,
};
use unanimous_core::xid::Epoch;

use super::check::{AWAY_MEND, examine};
use super::check_log::CheckedLog;
use super::file::ConfigFile;
use super::place::{Home, TablePlace};
use super::shared::{Watched, patience};
use crate::bounded::bounded;
use crate::log::{TableLog, is_of_a_logs_server, read_ends};

/// How long one question may take.
const LIMIT: Duration = Duration::from_secs(30);

/// What the checks of a server call standbys and replicas that may lack the last decisions.
const ASYNCHRONOUS: [&str; 3] = [
    "asynchronous_standbys",
    "asynchronous_replicas",
    "semi_sync",
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
        checked.judge_server(file, place).await;
        if checked.judge_tables(place, &*table).await {
            checked.exists = true;
            checked.judge_rows(file, log).await;
            checked.judge_ends(&*table).await;
            checked.judge_members(place, &*table).await;
        }
        checked
    }

    /// The server of a log in a resource is checked as the resource's; what is declared of the log
    /// is compared with it all the same.
    async fn judge_server(&mut self, file: &ConfigFile, place: &TablePlace) {
        let of_resource = file.home_resource().unwrap_or_default();
        let own = place.own_database().ok().flatten();
        let Some(home) = of_resource.values().next().or(own.as_ref()) else {
            return;
        };
        let findings = match examine(&**home).await {
            Ok(Ok(preflight)) => preflight.findings,
            // Told by the table, too, or by the resource.
            Ok(Err(_)) | Err(_) => return,
        };
        let told = |found: &Finding| ASYNCHRONOUS.contains(&found.subject.as_str());
        let is_asynchronous = findings.iter().any(told);
        if is_asynchronous && place.is_lossless() {
            let evidence = "the config file declares that a fail-over loses nothing, and no \
                            standby or replica of this server is waited for in every case: one \
                            that is promoted may lack decisions, and transactions would be split";
            self.warn(
                "lossless_failover",
                evidence,
                "remove lossless_failover from [log]",
            );
        }
        if own.is_some() {
            let of_log = findings.into_iter().filter(is_of_a_logs_server);
            self.findings.extend(of_log.map(Into::into));
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
            TableErrorKind::Refused | TableErrorKind::Busy | TableErrorKind::Unfit => {
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

    async fn judge_ends(&mut self, table: &dyn DecisionTable) {
        match bounded(LIMIT, table.ends(None)).await {
            Ok(Ok(ends)) => {
                let (ends, by_hand) = read_ends(&ends);
                self.judge_heuristics(&ends, &by_hand);
            }
            Ok(Err(error)) => self.error("tables", &error.to_string(), "do what this says"),
            Err(silence) => self.error("log database", &silence.to_string(), AWAY_MEND),
        }
    }

    async fn judge_members(&mut self, place: &TablePlace, table: &dyn DecisionTable) {
        let limit = patience(place.suspect_after());
        let watched = match Watched::by_age(table, limit).await {
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
