//! From slices to figures.

use serde::Serialize;

use crate::contender::Alternative;
use crate::counting::PerTransfer;
use crate::lab::Ledger;
use crate::rounds::{Measured, Slice};

/// One line of the table. Ratios are to `bare-2pc`, round by round: their median, and the quarter
/// below and above which they seldom are.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) alternative: &'static str,
    pub(crate) server: &'static str,
    pub(crate) workers: usize,
    pub(crate) transfers: usize,
    pub(crate) rounds: usize,
    pub(crate) tps: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) ratio: f64,
    pub(crate) ratio_q1: f64,
    pub(crate) ratio_q3: f64,
    pub(crate) ratio_min: f64,
    pub(crate) ratio_max: f64,
    /// Of all rounds together.
    pub(crate) p50_ratio: f64,
    pub(crate) p99_ratio: f64,
    pub(crate) client_cpu_us: f64,
    pub(crate) client_cpu_ratio: f64,
    pub(crate) postgres_cpu_us: f64,
    pub(crate) mysql_cpu_us: f64,
    /// Counted with one worker.
    pub(crate) counted: Option<PerTransfer>,
}

/// The rows of one server and one number of workers, in the order of the alternatives.
pub(crate) fn rows(
    ledger: Ledger,
    workers: usize,
    measured: &[Measured],
    counted: &[(Alternative, PerTransfer)],
) -> Vec<Row> {
    let Some(bare) = measured.iter().find(|one| one.which == Alternative::Bare) else {
        return Vec::new();
    };
    let row = |one: &Measured| {
        let (own, of_bare) = (latencies(one), latencies(bare));
        let speeds = ratios(&one.slices, &bare.slices, tps);
        let cpu = ratios(&one.slices, &bare.slices, client_cpu);
        Row {
            alternative: one.which.name(),
            server: ledger.name(),
            workers,
            transfers: own.len(),
            rounds: one.slices.len(),
            tps: median(one.slices.iter().map(tps).collect()),
            p50_ms: quantile(&own, 0.5),
            p99_ms: quantile(&own, 0.99),
            p999_ms: quantile(&own, 0.999),
            ratio: quantile(&speeds, 0.5),
            ratio_q1: quantile(&speeds, 0.25),
            ratio_q3: quantile(&speeds, 0.75),
            ratio_min: quantile(&speeds, 0.0),
            ratio_max: quantile(&speeds, 1.0),
            p50_ratio: quantile(&own, 0.5) / quantile(&of_bare, 0.5),
            p99_ratio: quantile(&own, 0.99) / quantile(&of_bare, 0.99),
            client_cpu_us: median(one.slices.iter().map(client_cpu).collect()),
            client_cpu_ratio: quantile(&cpu, 0.5),
            postgres_cpu_us: median(one.slices.iter().map(postgres_cpu).collect()),
            mysql_cpu_us: median(one.slices.iter().map(mysql_cpu).collect()),
            counted: counted
                .iter()
                .find(|(which, _)| *which == one.which)
                .map(|(_, counted)| *counted),
        }
    };
    measured.iter().map(row).collect()
}

#[expect(clippy::cast_precision_loss, reason = "far below")]
fn count(slice: &Slice) -> f64 {
    slice.micros.len() as f64
}

fn tps(slice: &Slice) -> f64 {
    count(slice) / slice.seconds
}

fn client_cpu(slice: &Slice) -> f64 {
    slice.client_cpu.as_secs_f64() * 1e6 / count(slice)
}

fn postgres_cpu(slice: &Slice) -> f64 {
    slice.postgres_cpu.as_secs_f64() * 1e6 / count(slice)
}

fn mysql_cpu(slice: &Slice) -> f64 {
    slice.mysql_cpu.as_secs_f64() * 1e6 / count(slice)
}

/// In milliseconds, sorted.
fn latencies(measured: &Measured) -> Vec<f64> {
    let all = measured.slices.iter().flat_map(|slice| &slice.micros);
    sorted(all.map(|micros| f64::from(*micros) / 1000.0).collect())
}

fn ratios(own: &[Slice], bare: &[Slice], of: fn(&Slice) -> f64) -> Vec<f64> {
    let both = own.iter().zip(bare);
    sorted(both.map(|(own, bare)| of(own) / of(bare)).collect())
}

pub(crate) fn median(values: Vec<f64>) -> f64 {
    quantile(&sorted(values), 0.5)
}

pub(crate) fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// Of sorted values; of none it is not a number.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let index = (last as f64 * share).round() as usize;
    sorted[index]
}
