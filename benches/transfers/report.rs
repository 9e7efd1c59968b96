//! The figures for people, as Markdown, and for programs.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::Error;
use crate::figures::Row;

/// What was to be reached with one branch in PostgreSQL and one in MySQL without a binary log on
/// two cores: the ratio with 1, 8 and 32 workers.
const AIMS: [(&str, [f64; 3]); 3] = [
    ("file", [0.88, 0.90, 0.95]),
    ("table-pg-llr", [1.0, 1.0, 1.1]),
    ("table-mysql-llr", [1.0, 1.0, 1.1]),
];
const AIM_WORKERS: [usize; 3] = [1, 8, 32];

#[derive(Serialize)]
struct Json<'r> {
    rows: &'r [Row],
}

pub(crate) fn write_json(path: &Path, rows: &[Row]) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(&Json { rows })?;
    Ok(std::fs::write(path, text + "\n")?)
}

/// Speed and latency of one server and one number of workers.
pub(crate) fn speed(rows: &[&Row]) -> String {
    let mut text =
        "| alternative | transfers/s | ratio | middle half | all rounds | aim | p50 ms | \
         p99 ms | p99.9 ms | p99 ratio | CPU µs: client | ratio | PostgreSQL | MySQL |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for row in rows {
        let _ = writeln!(
            text,
            "| {} | {:.0} | **{:.2}** | {:.2}–{:.2} | {:.2}–{:.2} | {} | {:.2} | {:.2} | {:.2} | \
             {:.2} | {:.0} | {:.2} | {:.0} | {:.0} |",
            row.alternative,
            row.tps,
            row.ratio,
            row.ratio_q1,
            row.ratio_q3,
            row.ratio_min,
            row.ratio_max,
            aim(row),
            row.p50_ms,
            row.p99_ms,
            row.p999_ms,
            row.p99_ratio,
            row.client_cpu_us,
            row.client_cpu_ratio,
            row.postgres_cpu_us,
            row.mysql_cpu_us,
        );
    }
    text
}

fn aim(row: &Row) -> String {
    let workers = AIM_WORKERS
        .iter()
        .position(|workers| *workers == row.workers);
    let aims = AIMS.iter().find(|(name, _)| *name == row.alternative);
    match (workers, aims) {
        (Some(at), Some((_, aims))) if row.server == "mysql" => format!("{:.2}", aims[at]),
        _ => "–".to_owned(),
    }
}

/// What was counted on one server.
pub(crate) fn counts(rows: &[&Row]) -> String {
    let mut text = "| alternative | statements: PostgreSQL | MySQL | round trips: PostgreSQL | \
         MySQL | flushes: PostgreSQL | MySQL | binary log | log's disk |\n\
         |---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for row in rows {
        let Some(counted) = &row.counted else {
            continue;
        };
        let _ = writeln!(
            text,
            "| {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
            row.alternative,
            counted.postgres_statements,
            counted.mysql_statements,
            counted.postgres_round_trips,
            counted.mysql_round_trips,
            counted.postgres_flushes,
            counted.mysql_flushes,
            counted.binlog_flushes,
            counted.file_flushes,
        );
    }
    text
}

/// Everything, as a page.
pub(crate) fn page(rows: &[Row], command: &str) -> String {
    let mut text = format!(
        "# Transfers\n\nMade by `{command}`; what is measured and how is told in \
         [README.md](README.md).\n"
    );
    for server in distinct(rows.iter().map(|row| row.server)) {
        let _ = write!(text, "\n## {server}\n");
        let of_server: Vec<&Row> = rows.iter().filter(|row| row.server == server).collect();
        for workers in distinct(of_server.iter().map(|row| row.workers)) {
            let those = of_server.iter().filter(|row| row.workers == workers);
            let those: Vec<&Row> = those.copied().collect();
            let rounds = those.first().map_or(0, |row| row.rounds);
            let _ = write!(
                text,
                "\n{workers} at a time, {rounds} rounds:\n\n{}",
                speed(&those)
            );
        }
        let least = of_server.iter().map(|row| row.workers).min();
        let counted = of_server.iter().filter(|row| Some(row.workers) == least);
        let counted: Vec<&Row> = counted.copied().collect();
        if counted.iter().any(|row| row.counted.is_some()) {
            let _ = write!(
                text,
                "\nBy transfer, counted one at a time:\n\n{}",
                counts(&counted)
            );
        }
    }
    text
}

/// In the order in which they first come.
pub(crate) fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}
