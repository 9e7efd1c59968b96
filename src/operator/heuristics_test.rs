//! What people did, read by people's tools, where one record of it cannot be read.

use std::sync::Arc;
use std::time::Duration;

use unanimous_core::ports::{DecisionTable, HandRow, InspectOptions, LogHome, ResourceManager};
use unanimous_core::protocol::Heuristic;
use unanimous_core::xid::Xid;
use unanimous_testing::{MemoryResource, MemoryTable};

use super::*;
use crate::TransactionManager;
use crate::log::TableLog;
use crate::operator::{Resolve, show};

/// A newer release has written it, or somebody has changed it: all else is told, and can be done.
#[tokio::test(start_paused = true)]
async fn i6_a_record_that_cannot_be_read_hides_its_own_transaction_and_no_other() {
    let table = MemoryTable::new("log");
    let dead = Box::new(TableLog::on(&table)).open().await.unwrap();
    let ledger = MemoryResource::new("ledger");
    let [strange, orphan, ended] = [1, 2, 3].map(|sequence| Xid {
        gtrid: dead.opening().gtrid(sequence),
        bqual: ledger.name().clone(),
    });
    dead.record_heuristic(ended.gtrid, &ended.bqual, Heuristic::Hazard)
        .await
        .unwrap();
    dead.close(dead.opening().epoch).await.unwrap();
    let builder = TransactionManager::builder().log(TableLog::on(&table));
    let builder = builder.config(|config| {
        config.recovery_interval = Duration::from_secs(3600);
        config.recovery_interval_max = Duration::from_secs(3600);
    });
    let tm = builder.resource(&ledger).start().await.unwrap();
    // Its first pass finds nothing; the next one is far away.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (xid, key) in [(&strange, "one"), (&orphan, "two")] {
        ledger.server().plant(xid, &[(key, "1")]);
    }
    let row = HandRow {
        id: 1,
        gtrid: strange.gtrid,
        resource: strange.bqual.clone(),
        state: 'I',
        words: "act of another kind\n".into(),
    };
    table.record_by_hand(&row).await.unwrap();

    let inner: &Arc<Inner> = tm.inner();
    for (xid, can_be_told) in [(&orphan, true), (&strange, false)] {
        let gtrid = xid.gtrid.to_string();
        let listing = show::picture(inner, InspectOptions::DETAILS).await;
        let shown = show::show(inner, listing, &gtrid).await.unwrap();
        assert_eq!(
            !shown.decided.contains("cannot be read"),
            can_be_told,
            "{shown:?}"
        );
        let asked = Resolve::new(gtrid, false, "me@here", "because");
        for act in [false, true] {
            match asked.within(&tm, act).await {
                Ok(resolved) => {
                    assert!(can_be_told, "{resolved:?}");
                    assert_eq!(resolved.is_done(), act, "{resolved:?}");
                }
                Err(error) => {
                    assert!(!can_be_told, "{error}");
                    assert!(error.contains(strange.bqual.as_str()), "{error}");
                }
            }
        }
    }
    assert_eq!(ledger.server().prepared(), std::slice::from_ref(&strange));
    let wanted = Forget::new(ended.gtrid.to_string(), "me@here", "compared");
    assert_eq!(plan_forget(inner, &wanted).await.unwrap().ends.len(), 1);
    let listed = forget(inner, &wanted).await.unwrap();
    assert!(!listed.is_open(), "{listed:?}");
    let [note] = &listed.notes[..] else {
        panic!("{listed:?}");
    };
    assert!(note.contains(&strange.gtrid.to_string()), "{note}");
    let wanted = Forget::new(strange.gtrid.to_string(), "me@here", "compared");
    plan_forget(inner, &wanted).await.unwrap_err();
    tm.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_what_a_person_was_shown_is_noted_as_dealt_with() {
    let table = MemoryTable::new("log");
    let builder = TransactionManager::builder().log(TableLog::on(&table));
    let names = ["ledger", "orders"].map(MemoryResource::new);
    let builder = builder.resource(&names[0]).resource(&names[1]);
    let tm = builder.start().await.unwrap();
    let (inner, gtrid) = (tm.inner(), tm.begin().gtrid());
    let record = async |at: &MemoryResource, end| {
        let log = &inner.log;
        log.record_heuristic(gtrid, at.name(), end).await.unwrap();
    };
    let wanted = Forget::new(gtrid.to_string(), "me@here", "compared");
    let is_open = async || list(inner).await.unwrap().is_open();
    record(&names[0], Heuristic::Hazard).await;
    for (at, end) in [
        (&names[1], Heuristic::Hazard),
        (&names[0], Heuristic::Rollback),
    ] {
        let plan = plan_forget(inner, &wanted).await.unwrap();
        record(at, end).await;
        let refused = forget(inner, &wanted.clone().as_shown(&plan)).await;
        let refused = refused.unwrap_err();
        assert!(refused.contains("look again"), "{refused}");
        assert!(is_open().await, "nothing was noted");
    }
    let plan = plan_forget(inner, &wanted).await.unwrap();
    forget(inner, &wanted.as_shown(&plan)).await.unwrap();
    assert!(!is_open().await);
    tm.shutdown().await.unwrap();
}
