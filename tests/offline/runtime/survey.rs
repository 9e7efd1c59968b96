//! A look at what is prepared, while something else cannot be looked at.

use std::time::Duration;

use unanimous::log::TableLog;
use unanimous::{Planned, Survey, SurveyedBranch};
use unanimous_core::xid::Xid;
use unanimous_testing::{Fault, MemoryTable, Step};

use super::World;

const RARELY: Duration = Duration::from_secs(36_000);

fn branches(survey: &Survey) -> Vec<&SurveyedBranch> {
    let resources = survey.resources.iter();
    resources.flat_map(|at| &at.branches).collect()
}

/// It is shown, and nothing is said of what becomes of it.
#[track_caller]
fn waits(survey: &Survey, xid: &Xid, why: &str) {
    let [branch] = branches(survey)[..] else {
        panic!("{survey:?}");
    };
    assert_eq!((&branch.xid, branch.is_prepared), (xid, true));
    assert_eq!(branch.is_decided, None);
    let Planned::Wait(told) = &branch.planned else {
        panic!("{branch:?}");
    };
    assert!(told.contains(why), "{told}");
    assert!(branch.planned.is_in_doubt());
}

#[tokio::test(start_paused = true)]
async fn what_is_prepared_is_seen_while_the_log_or_a_second_look_fails() {
    let world = World::new();
    let table = MemoryTable::new("log 1");
    let builder = world.builder();
    let builder = builder.log(TableLog::on(&table).suspect_after(RARELY));
    let builder = builder.resource(&world.orders).resource(&world.ledger);
    let builder = builder.config(|config| {
        config.recovery_interval = RARELY;
        config.recovery_interval_max = RARELY;
    });
    let tm = builder.start().await.unwrap();
    let xid = Xid {
        gtrid: tm.begin().gtrid().opening.gtrid(99),
        bqual: "orders".parse().unwrap(),
    };
    // The passes that the end of that transaction has woken.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let server = world.orders.server();
    server.plant(&xid, &[("k", "1")]);
    let seen = tm.survey().await;
    assert_eq!(branches(&seen)[0].planned, Planned::RollBack);

    server.hang_next(Step::Recover).release();
    server.fail_next(Step::Recover, Fault::LoseRequest);
    let seen = tm.survey().await;
    waits(&seen, &xid, "could not be looked at again");
    assert!(seen.resources[1].error.is_some() && seen.log_error.is_none());

    table.set_reachable(false);
    let seen = tm.survey().await;
    waits(&seen, &xid, "the log cannot be read");
    assert!(seen.log_error.is_some());
    table.set_reachable(true);
    assert_eq!(tm.recover().await.resources[1].rolled_back, 1);
}
