//! What one transfer costs in statements, round trips and flushes: counted, not measured, so it
//! is the same on a loaded machine. One transfer at a time, through proxies that count.
//!
//! Each figure is the difference of two runs, one of which makes some transfers more: what
//! starting, connecting and shutting down cost is in both.

use std::sync::atomic::Ordering;

use serde::Serialize;
use unanimous_testing::Wire;

use crate::Error;
use crate::contender::{Alternative, Contender};
use crate::lab::{ACCOUNTS, Lab};

/// How many transfers both runs make, and how many more one of them makes.
const WARM_UP: u64 = 30;
const COUNTED: u64 = 150;

/// By transfer.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct PerTransfer {
    pub(crate) postgres_statements: f64,
    pub(crate) mysql_statements: f64,
    pub(crate) postgres_round_trips: f64,
    pub(crate) mysql_round_trips: f64,
    pub(crate) postgres_flushes: f64,
    pub(crate) mysql_flushes: f64,
    pub(crate) binlog_flushes: f64,
    pub(crate) file_flushes: f64,
}

pub(crate) async fn count(
    lab: &mut Lab,
    which: Alternative,
    transfers: &mut u64,
) -> Result<PerTransfer, Error> {
    let few = run(lab, which, WARM_UP).await?;
    let many = run(lab, which, WARM_UP + COUNTED).await?;
    *transfers += 2 * WARM_UP + COUNTED;
    lab.check_money(*transfers).await?;
    #[expect(clippy::cast_precision_loss, reason = "some hundred")]
    let by = |few: f64, many: f64| ((many - few) / COUNTED as f64).max(0.0);
    Ok(PerTransfer {
        postgres_statements: by(few.postgres_statements, many.postgres_statements),
        mysql_statements: by(few.mysql_statements, many.mysql_statements),
        postgres_round_trips: by(few.postgres_round_trips, many.postgres_round_trips),
        mysql_round_trips: by(few.mysql_round_trips, many.mysql_round_trips),
        postgres_flushes: by(few.postgres_flushes, many.postgres_flushes),
        mysql_flushes: by(few.mysql_flushes, many.mysql_flushes),
        binlog_flushes: by(few.binlog_flushes, many.binlog_flushes),
        file_flushes: by(few.file_flushes, many.file_flushes),
    })
}

/// The counts of a whole run.
async fn run(lab: &mut Lab, which: Alternative, transfers: u64) -> Result<PerTransfer, Error> {
    let (postgres_wire, postgres_url) = Wire::between(&lab.postgres_url).await?;
    let (mysql_wire, mysql_url) = Wire::between(&lab.mysql_url).await?;
    let before = lab.counters.read().await?;
    let contender = Contender::open(which, &postgres_url, &mysql_url, 1).await?;
    let mut file_flushes = 0.0;
    match &contender {
        Contender::Sqlalchemy(child) => drop(child.count(transfers).await?),
        Contender::ByHand(_) | Contender::Ours(_) => {
            for _ in 0..transfers {
                contender.transfer(fastrand::usize(..ACCOUNTS)).await?;
            }
        }
    }
    if let Contender::Ours(ours) = &contender {
        #[expect(clippy::cast_precision_loss, reason = "some hundred")]
        let synced = ours.synced.load(Ordering::Relaxed) as f64;
        file_flushes = synced;
    }
    contender.close().await?;
    lab.counters.wait_until_alone().await?;
    let counts = lab.counters.read().await?.since(&before);
    #[expect(clippy::cast_precision_loss, reason = "some thousand")]
    let trips = |wire: &Wire| wire.round_trips() as f64;
    Ok(PerTransfer {
        postgres_statements: counts.postgres_statements,
        mysql_statements: counts.mysql_statements,
        postgres_round_trips: trips(&postgres_wire),
        mysql_round_trips: trips(&mysql_wire),
        postgres_flushes: counts.postgres_flushes,
        mysql_flushes: counts.mysql_flushes,
        binlog_flushes: counts.binlog_syncs,
        file_flushes,
    })
}
