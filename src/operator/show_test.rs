//! One transaction among many, by every name it has.

use unanimous_testing::{MemoryLog, MemoryResource};

use super::*;
use crate::TransactionManager;

const GTRID: &str = "d2pvrbw7eznvf096-2-97d0c4mxdk4r9-1";
const OTHER: &str = "d2pvrbw7eznvf096-2-97d0c4mxdk4r9-12";

fn listing() -> Listing {
    let branch = |xid: &str, gtrid: Option<&str>, state: &str| {
        serde_json::json!({
            "xid": xid, "gtrid": gtrid, "state": state, "in_doubt": false, "age_seconds": null,
            "epoch": null, "decided": null, "plan": "leave"
        })
    };
    let ours = |gtrid: &str, at: &str| branch(&format!("{gtrid}:{at}"), Some(gtrid), "decided");
    let value = serde_json::json!({
        "application": null, "manager": "d2pvrbw7eznvf096", "epoch": 3, "active": 0,
        "unknown_resources": [], "log_error": null,
        "resources": [
            {"resource": "ledger", "error": null, "branches": [
                ours(GTRID, "ledger"), ours(OTHER, "ledger"),
                branch("'10.0.0.7.tm1','orders7',1096044365", None, "foreign"),
            ]},
            {"resource": "orders", "error": null, "branches": [
                ours(GTRID, "orders"),
                branch("1096044365_MTAuMC4wLjcudG0x_b3JkZXJzOA==", None, "foreign"),
                branch("nightly import 7", None, "foreign"),
            ]}
        ]
    });
    serde_json::from_value(value).unwrap()
}

fn found(asked: &str) -> Result<(String, usize), String> {
    find(&listing(), asked).map(|found| (found.name, found.branches.len()))
}

#[test]
fn a_transaction_is_found_by_every_name_that_somebody_prints() {
    let hex = |text: &str| hexadecimal(text.as_bytes());
    let both = format!(
        "X'{}',X'{}',{FORMAT_ID}",
        &hex(GTRID)[2..],
        &hex("ledger")[2..]
    );
    for asked in [
        GTRID.to_owned(),
        format!("{GTRID}:orders"),
        format!("unanimous:{GTRID}:orders"),
        format!("'{GTRID}','ledger',{FORMAT_ID}"),
        format!("{GTRID}ledger"),
        hex(&format!("{GTRID}ledger")),
        hex(&format!("{GTRID}ledger")).to_uppercase(),
        both,
        format!(" {GTRID}\n"),
    ] {
        assert_eq!(found(&asked), Ok((GTRID.to_owned(), 2)), "{asked}");
    }
}

/// The name of one may be the beginning of another's.
#[test]
fn a_beginning_names_a_transaction_if_no_other_has_it() {
    assert_eq!(found(&OTHER[..OTHER.len()]), Ok((OTHER.to_owned(), 1)));
    let ambiguous = found("d2pvrbw7").unwrap_err();
    assert!(ambiguous.starts_with("2 transactions begin"), "{ambiguous}");
    assert!(
        ambiguous.contains(GTRID) && ambiguous.contains(OTHER),
        "{ambiguous}"
    );
    assert_eq!(found("nightly"), Ok(("nightly import 7".to_owned(), 1)));
    assert!(
        found("weekly")
            .unwrap_err()
            .contains("nothing that is prepared")
    );
    assert!(found(" ").is_err());
}

/// A name that moves the cursor, or begins a line of its own.
#[test]
fn a_foreign_name_is_told_without_what_steers_a_terminal() {
    let mut listing = listing();
    let branches = &mut listing.resources[1].branches;
    let mut other = branches[2].clone();
    other.xid = "nightly\u{1b}[2J\ndone: all is well".to_owned();
    branches.push(other);
    let told = find(&listing, "nightly").map(|found| found.name);
    let told = told.unwrap_err();
    assert!(told.starts_with("2 transactions begin"), "{told}");
    assert!(!told.contains(char::is_control), "{told:?}");
}

#[test]
fn branches_of_another_manager_are_found_together_by_what_they_share() {
    let both = Ok(("10.0.0.7.tm1".to_owned(), 2));
    assert_eq!(found("10.0.0.7.tm1"), both);
    assert_eq!(found("1096044365_MTAuMC4wLjcudG0x_b3JkZXJzOA=="), both);
}

/// Nothing of it is prepared any more; its log may know it.
#[test]
fn a_gtrid_that_is_not_listed_is_looked_up() {
    let gone = "d2pvrbw7eznvf096-1-97d0c4mxdk4r9-7";
    assert_eq!(found(gone), Ok((gone.to_owned(), 0)));
    let listing = listing();
    assert!(find(&listing, gone).unwrap().is_ours);
    let others = "k19vvc3g4pqywgza-1-64h5ej5ytv0hp-1";
    assert!(!find(&listing, others).unwrap().is_ours);
}

/// A database that did not answer a second time is no reason to mend the log.
#[tokio::test(start_paused = true)]
async fn what_could_not_be_looked_at_is_called_by_its_name() {
    let builder = TransactionManager::builder().log(MemoryLog::new());
    let builder = builder.resource(&MemoryResource::new("ledger"));
    let tm = builder.start().await.unwrap();
    for (log_error, told) in [
        (None, "its database, or its record"),
        (Some("the disk hangs"), "the log can be read"),
    ] {
        let mut listing = listing();
        listing.log_error = log_error.map(str::to_owned);
        listing.resources[0].branches[0].state = State::Unknown;
        listing.resources[1].branches.clear();
        let shown = show(tm.inner(), listing, GTRID).await.unwrap();
        let words = format!("end nothing before {told}");
        let mut advice = shown.advice.iter();
        assert!(advice.any(|line| line.starts_with(&words)), "{shown:?}");
    }
    tm.shutdown().await.unwrap();
}
