//! The rule about public futures: each one's cancellation is tested after every poll (I7), or there
//! is a reason why not.
//!
//! Public futures are those of `pub async fn`, of the ports' methods as our types fill them, of the
//! driver's trait as the MySQL branch fills it, and of public functions that answer a future.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Source, repository};

/// Crates whose futures are meant.
const FOLDERS: [&str; 3] = ["src/", "adapters/postgres/src/", "adapters/mysql/src/"];

/// Traits whose methods an application can call.
const TRAITS: [&str; 6] = [
    "Branch",
    "DecisionLog",
    "LogHome",
    "Queryable",
    "Resource",
    "ResourceManager",
];

const OFFLINE: &str = "tests/offline/runtime/every_poll";
const LIVE: &str = "tests/live/cancel";

/// Folder and file, test, and the functions (`Type::name`) whose futures it drops.
pub(super) const TESTS: &[(&str, &str, &str, &[&str])] = &[
    (
        OFFLINE,
        "transaction.rs",
        "i7_enlist",
        &["Transaction::enlist"],
    ),
    (
        OFFLINE,
        "transaction.rs",
        "i7_enlist_read_only",
        &["Transaction::enlist_read_only"],
    ),
    (
        OFFLINE,
        "transaction.rs",
        "i7_commit",
        &["Transaction::commit"],
    ),
    (
        OFFLINE,
        "transaction.rs",
        "i7_rollback",
        &["Transaction::rollback"],
    ),
    (
        OFFLINE,
        "transaction.rs",
        "i7_retry",
        &["TransactionManager::retry"],
    ),
    (
        OFFLINE,
        "manager.rs",
        "i7_start",
        &["TransactionManagerBuilder::start"],
    ),
    (
        OFFLINE,
        "manager.rs",
        "i7_recover",
        &["TransactionManager::recover"],
    ),
    (
        OFFLINE,
        "manager.rs",
        "i7_survey",
        &["TransactionManager::survey"],
    ),
    (
        OFFLINE,
        "manager.rs",
        "i7_outcome",
        &["TransactionManager::outcome"],
    ),
    (
        OFFLINE,
        "manager.rs",
        "i7_completed",
        &["Committed::completed"],
    ),
    (
        OFFLINE,
        "manager.rs",
        "i7_shutdown",
        &["TransactionManager::shutdown"],
    ),
    (
        OFFLINE,
        "file_log.rs",
        "i7_opening_a_file_log",
        &["FileLog::open"],
    ),
    (
        OFFLINE,
        "file_log.rs",
        "i7_deciding_in_a_file_log",
        &["OpenFileLog::decide"],
    ),
    (
        OFFLINE,
        "file_log.rs",
        "i7_a_heuristic_in_a_file_log",
        &["OpenFileLog::record_heuristic"],
    ),
    (
        OFFLINE,
        "file_log.rs",
        "i7_a_record_by_hand_in_a_file_log",
        &["OpenFileLog::record_by_hand"],
    ),
    (
        OFFLINE,
        "file_log.rs",
        "i7_closing_an_epoch_of_a_file_log",
        &["OpenFileLog::close"],
    ),
    (
        OFFLINE,
        "file_log.rs",
        "i7_questions_to_a_file_log",
        &[
            "OpenFileLog::by_hand",
            "OpenFileLog::decided_at",
            "OpenFileLog::heuristics",
            "OpenFileLog::lookup",
            "OpenFileLog::openings",
            "OpenFileLog::pending",
        ],
    ),
    (
        OFFLINE,
        "file_log.rs",
        "i7_shutting_a_file_log_down",
        &["OpenFileLog::shutdown"],
    ),
    (
        OFFLINE,
        "table_log.rs",
        "i7_opening_a_table_log",
        &["TableLog::open"],
    ),
    (
        OFFLINE,
        "table_log.rs",
        "i7_deciding_in_a_table_log",
        &["OpenTableLog::decide"],
    ),
    (
        OFFLINE,
        "table_log.rs",
        "i7_settling_a_last_resource_in_a_table_log",
        &["OpenTableLog::settle_last"],
    ),
    (
        OFFLINE,
        "table_log.rs",
        "i7_a_heuristic_in_a_table_log",
        &["OpenTableLog::record_heuristic"],
    ),
    (
        OFFLINE,
        "table_log.rs",
        "i7_a_record_by_hand_in_a_table_log",
        &["OpenTableLog::record_by_hand"],
    ),
    (
        OFFLINE,
        "table_log.rs",
        "i7_forcing_a_table_log",
        &["OpenTableLog::force"],
    ),
    (
        OFFLINE,
        "table_log.rs",
        "i7_closing_an_epoch_of_a_table_log",
        &["OpenTableLog::close"],
    ),
    (
        OFFLINE,
        "table_log.rs",
        "i7_questions_to_a_table_log",
        &[
            "OpenTableLog::by_hand",
            "OpenTableLog::decided_at",
            "OpenTableLog::hands",
            "OpenTableLog::heuristics",
            "OpenTableLog::lookup",
            "OpenTableLog::lookup_all",
            "OpenTableLog::members",
            "OpenTableLog::openings",
            "OpenTableLog::pending",
            "OpenTableLog::snapshot",
        ],
    ),
    (
        OFFLINE,
        "table_log.rs",
        "i7_shutting_a_table_log_down",
        &["OpenTableLog::shutdown"],
    ),
    (OFFLINE, "operator.rs", "i7_access_open", &["Access::open"]),
    (OFFLINE, "operator.rs", "i7_access_list", &["Access::list"]),
    (
        OFFLINE,
        "operator.rs",
        "i7_access_recover",
        &["Access::recover"],
    ),
    (
        OFFLINE,
        "operator.rs",
        "i7_access_close",
        &["Access::close"],
    ),
    (
        OFFLINE,
        "operator.rs",
        "i7_access_barrier",
        &["Access::barrier"],
    ),
    (
        OFFLINE,
        "operator.rs",
        "i7_barrier_fallen",
        &["Barrier::fallen"],
    ),
    (OFFLINE, "operator.rs", "i7_barrier_end", &["Barrier::end"]),
    (
        OFFLINE,
        "file_log.rs",
        "i7_forcing_a_file_log",
        &["OpenFileLog::force"],
    ),
    (OFFLINE, "operator.rs", "i7_checked_run", &["Checked::run"]),
    (
        OFFLINE,
        "operator.rs",
        "i7_log_export_run",
        &["LogExport::run"],
    ),
    (
        OFFLINE,
        "operator.rs",
        "i7_log_import_run",
        &["LogImport::run"],
    ),
    (
        OFFLINE,
        "operator.rs",
        "i7_log_adoption_run",
        &["Adoption::run"],
    ),
    (LIVE, "ports.rs", "i7_ports_of_postgres", POSTGRES_PORTS),
    (LIVE, "ports.rs", "i7_ports_of_mysql", MYSQL_PORTS),
    (LIVE, "ports.rs", "i7_ports_of_mariadb", MYSQL_PORTS),
    (
        LIVE,
        "statements.rs",
        "i7_statements_of_postgres",
        &[
            "CancelToken::cancel",
            "CopyInSink::finish",
            "PgBranch::cancel_query",
            "PgBranch::cancel_query_raw",
            "PgBranch::copy_in",
            "PgBranch::copy_out",
            "PgBranch::query_raw",
            "PgBranch::query_typed_raw",
            "PgBranch::simple_query_raw",
        ],
    ),
    (
        LIVE,
        "statements.rs",
        "i7_statements_of_mysql",
        MYSQL_STATEMENTS,
    ),
    (
        LIVE,
        "statements.rs",
        "i7_statements_of_mariadb",
        MYSQL_STATEMENTS,
    ),
];

const POSTGRES_PORTS: &[&str] = &[
    "PgBranch::commit",
    "PgBranch::commit_last",
    "PgBranch::commit_one_phase",
    "PgBranch::end_read_only",
    "PgBranch::prepare",
    "PgBranch::release",
    "PgBranch::rollback",
    "Postgres::absent",
    "Postgres::checkup",
    "Postgres::finish",
    "Postgres::inspect",
    "Postgres::open",
    "Postgres::preflight",
    "Postgres::recover",
];

const MYSQL_PORTS: &[&str] = &[
    "Mysql::absent",
    "Mysql::checkup",
    "Mysql::finish",
    "Mysql::inspect",
    "Mysql::open",
    "Mysql::preflight",
    "Mysql::recover",
    "MysqlBranch::commit",
    "MysqlBranch::commit_last",
    "MysqlBranch::commit_one_phase",
    "MysqlBranch::end_read_only",
    "MysqlBranch::prepare",
    "MysqlBranch::release",
    "MysqlBranch::rollback",
];

const MYSQL_STATEMENTS: &[&str] = &[
    "MysqlBranch::close",
    "MysqlBranch::exec",
    "MysqlBranch::exec_batch",
    "MysqlBranch::exec_drop",
    "MysqlBranch::exec_first",
    "MysqlBranch::exec_fold",
    "MysqlBranch::exec_iter",
    "MysqlBranch::exec_map",
    "MysqlBranch::exec_stream",
    "MysqlBranch::ping",
    "MysqlBranch::prep",
    "MysqlBranch::query",
    "MysqlBranch::query_drop",
    "MysqlBranch::query_first",
    "MysqlBranch::query_fold",
    "MysqlBranch::query_iter",
    "MysqlBranch::query_map",
    "MysqlBranch::query_stream",
];

/// Functions whose futures no test drops, each with the reason.
const EXEMPT: &[(&str, &str)] = &[
    (
        "Initialised::run",
        "whatever was made stays, and the next one makes the rest: `tables_are_made_once`, \
         `a_member_joins_while_the_tables_are_made_again`",
    ),
    (
        "Access::hold",
        "what `i7_access_recover` begins with, and nothing more",
    ),
    ("Access::ended", "it looks and changes nothing"),
    ("Access::heuristics", "it looks and changes nothing"),
    ("Access::plan_resolve", "it looks and changes nothing"),
    ("Access::show", "it looks and changes nothing"),
    ("Access::plan_forget", "it looks and changes nothing"),
    ("Access::plan_give_up", "it looks and changes nothing"),
    (
        "Access::give_up",
        "`tests/offline/runtime/lost_branch.rs` lets whoever acts die at every step",
    ),
    (
        "GiveUp::within",
        "`i7_a_branch_is_given_up_although_nobody_waits_for_it` drops it at every step",
    ),
    (
        "Access::resolve",
        "`tests/offline/runtime/by_hand.rs` lets whoever acts die at every step",
    ),
    (
        "Resolve::within",
        "`i7_what_a_person_does_goes_on_when_nobody_waits_for_it` drops it at every step",
    ),
    (
        "Access::forget",
        "one durable record, as `i7_a_record_by_hand_in_a_file_log` drops it",
    ),
    ("Checked::run_for", "it looks and changes nothing"),
    ("Move::plan", "it looks and changes nothing"),
    ("Adoption::plan", "it looks and changes nothing"),
    ("LogExport::plan", "it looks and changes nothing"),
    ("LogImport::plan", "it looks and changes nothing"),
    ("ShownLog::read", "it looks and changes nothing"),
    ("Verified::run", "it looks and changes nothing"),
    (
        "Move::run",
        "`i1_a_move_with_postgresql_goes_on_wherever_it_was_killed` drops it after every step",
    ),
    (
        "Move::run_watched",
        "`i1_a_move_with_postgresql_goes_on_wherever_it_was_killed` drops it after every step",
    ),
];

/// Types of which no test drops any future, each with the reason.
const EXEMPT_TYPES: &[(&str, &str)] = &[
    ("NoLog", "it answers at once, always the same"),
    ("ObservedLog", "it only reads files"),
    ("Observer", "it only reads files"),
];

/// Every public future of these files, with its place.
pub(super) fn public_futures(files: &[Source]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for file in files {
        let mut owner = Owner::default();
        let lines: Vec<_> = file.lines_without_tests().collect();
        for (index, (number, line)) in lines.iter().enumerate() {
            if line.starts_with("impl") {
                owner = Owner::of(line);
            } else if line.starts_with('}') {
                owner = Owner::default();
            }
            let Some(name) = owner.future(line, || {
                signature(lines[index..].iter().map(|(_, line)| *line))
            }) else {
                continue;
            };
            found.insert(owner.name(name), file.finding(*number, name));
        }
    }
    found
}

/// What these lines say up to the body.
fn signature<'s>(lines: impl Iterator<Item = &'s str>) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(line);
        if line.contains(['{', ';']) {
            break;
        }
    }
    text
}

/// Whose methods come.
#[derive(Default)]
struct Owner {
    of: String,
    is_port: bool,
}

impl Owner {
    fn of(line: &str) -> Self {
        let header = without_generics(line);
        let mut words = header.split_whitespace().skip(1);
        let first = words.next().unwrap_or_default();
        let is_trait = words.next() == Some("for");
        let of = if is_trait { words.next() } else { None };
        Self {
            of: of.unwrap_or(first).to_owned(),
            is_port: is_trait && TRAITS.contains(&first),
        }
    }

    fn name(&self, function: &str) -> String {
        if self.of.is_empty() {
            return function.to_owned();
        }
        format!("{}::{function}", self.of)
    }

    /// The function's name, if calling it from outside gives a future.
    fn future<'l>(&self, line: &'l str, signature: impl Fn() -> String) -> Option<&'l str> {
        let line = line.trim_start();
        let is_public = line.starts_with("pub async fn ")
            || self.is_port && line.starts_with("async fn ")
            || (line.starts_with("pub fn ") || self.is_port && line.starts_with("fn "))
                && answers_a_future(&signature());
        if !is_public {
            return None;
        }
        let (_, rest) = line.split_once("fn ")?;
        rest.split(['(', '<']).next()
    }
}

fn answers_a_future(signature: &str) -> bool {
    let before_where = signature.split(" where ").next().unwrap_or(signature);
    let answer = before_where
        .rsplit_once(") -> ")
        .map_or("", |(_, answer)| answer);
    answer.contains("Future")
}

fn without_generics(line: &str) -> String {
    let mut depth = 0_usize;
    let keep = |c: char| {
        match c {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            _ => return (depth == 0).then_some(c),
        }
        None
    };
    line.chars().filter_map(keep).collect()
}

/// What is not tested, what is tested and is not there, and tests that are not there or do not
/// mention what they are said to drop.
pub(super) fn untested_futures() -> Vec<String> {
    let files = repository(".rs");
    let is_meant = |file: &&Source| {
        let mut folders = FOLDERS.iter();
        folders.any(|folder| file.path.starts_with(folder))
    };
    let (meant, others): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| is_meant(&file));
    let futures = public_futures(&meant);
    let mut findings = Vec::new();
    let mut named: BTreeSet<&str> = EXEMPT.iter().map(|(function, _)| *function).collect();
    for (folder, name, test, functions) in TESTS {
        let path = format!("{folder}/{name}");
        let file = others.iter().find(|file| file.path == path);
        let text = file.map_or("", |file| file.text.as_str());
        if !text.contains(&format!("{test}(")) && !text.contains(&format!("{test}:")) {
            findings.push(format!("{path}: no test {test}"));
        }
        for function in *functions {
            named.insert(function);
            let method = function.rsplit("::").next().unwrap_or(function);
            if ![".", "::"]
                .iter()
                .any(|dot| text.contains(&format!("{dot}{method}")))
            {
                findings.push(format!("{path}: {test} does not call {function}"));
            }
        }
    }
    for (function, place) in &futures {
        let owner = function.split("::").next();
        let is_exempt = EXEMPT_TYPES
            .iter()
            .any(|(exempt, _)| Some(*exempt) == owner);
        if !is_exempt && !named.contains(function.as_str()) {
            findings.push(format!("{place}: nobody drops the future of {function}"));
        }
    }
    let gone = named.iter().filter(|name| !futures.contains_key(**name));
    findings.extend(gone.map(|name| format!("there is no public future {name}")));
    findings
}
