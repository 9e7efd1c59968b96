//! I3, I6: the server closes the connection in the middle of its list of a thousand prepared
//! transactions. Half a list is no list: the scan fails, nothing is ended or proven by it, and what
//! is in doubt is ended when the server answers in full again.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;
use unanimous::ports::{Problem, RecoveryScan, XidOwner};
use unanimous_testing::{Wire, WireFault};

use super::crowd::{DECIDED, ORPHANS, leave_in_doubt};
use super::ids;
use super::others::listed;
use crate::support::{Account, Bank, Transfer, eventually};

/// After how many bytes of answers: in the log-in, in the first rows, in the last ones.
const TEARS: [usize; 12] = [
    0, 1, 60, 400, 1000, 1500, 2500, 5000, 10_000, 20_000, 40_000, 60_000,
];

/// Only so that a hanging scan ends the test.
const LIMIT: Duration = Duration::from_secs(60);

fn owners(scan: RecoveryScan) -> BTreeSet<String> {
    let text = |owner| match owner {
        XidOwner::Unanimous(xid) => xid.to_string(),
        XidOwner::Foreign(text) => text,
    };
    let branches = scan.branches.into_iter();
    branches.map(|branch| text(branch.owner)).collect()
}

/// On a server that holds a thousand of others.
pub(super) async fn torn_scans<A: Bank, B: Bank>(from: &Account, to: &Account) {
    let (wire, url) = Wire::between(&from.url).await.unwrap();
    let whole = A::connect("orders", &from.url).recover().await.unwrap();
    let whole = owners(whole);
    let resource = A::connect("orders", &url);
    for bytes in TEARS {
        wire.set(WireFault::TearReplies(bytes));
        // On a connection that was used before, and on new ones.
        for _ in 0..2 {
            let torn = timeout(LIMIT, resource.recover()).await.unwrap();
            let error = torn.map(drop).unwrap_err();
            assert_eq!(error.problem(), Problem::Unavailable, "{bytes}: {error}");
            assert!(
                error.to_string().starts_with("resource orders: "),
                "{error}"
            );
        }
        wire.set(WireFault::None);
        let scan = timeout(LIMIT, resource.recover()).await.unwrap();
        assert!(owners(scan.unwrap()) == whole, "the scan after {bytes}");
    }
    torn_passes::<A, B>(from, to, &wire, url).await;
}

async fn torn_passes<A: Bank, B: Bank>(from: &Account, to: &Account, wire: &Wire, url: String) {
    const FIRST: usize = 2000;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let gtrids = leave_in_doubt::<A, B>(from, to, &log, FIRST).await;
    let through = Account {
        url,
        ..from.clone()
    };
    wire.set(WireFault::TearReplies(TEARS[5]));
    let transfer = Transfer::<A, B>::new(&through, to);
    let tm = timeout(LIMIT, transfer.builder(&log).start())
        .await
        .unwrap();
    let tm = tm.unwrap();
    for bytes in TEARS {
        wire.set(WireFault::TearReplies(bytes));
        let report = timeout(LIMIT, tm.recover()).await.unwrap();
        assert!(!report.is_clean());
        assert!(
            report.to_string().contains("; resource orders: "),
            "{report}"
        );
    }
    println!("a pass that is torn: {}", tm.recover().await);
    let (ours, _) = listed(from, &gtrids).await;
    assert_eq!(ours.len(), DECIDED + ORPHANS, "nothing was ended");
    wire.set(WireFault::None);
    eventually("ours are ended", || async {
        listed(from, &gtrids).await.0.is_empty()
    })
    .await;
    eventually("nothing is left", || async {
        let report = tm.recover().await;
        let mut resources = report.resources.iter();
        resources.all(|at| at.error.is_none()) && report.unknown_resources.is_empty()
    })
    .await;
    tm.shutdown().await.unwrap();
    let committed: BTreeSet<i64> = (FIRST..FIRST + DECIDED).map(|id| id as i64).collect();
    let since = |ids: BTreeSet<i64>| ids.into_iter().filter(|id| *id >= FIRST as i64);
    assert_eq!(since(ids(from).await).collect::<BTreeSet<_>>(), committed);
    assert_eq!(since(ids(to).await).collect::<BTreeSet<_>>(), committed);
}
