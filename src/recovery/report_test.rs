//! What a report says, and what it takes for clean.

use unanimous_core::ports::Problem;
use unanimous_core::xid::{Epoch, ManagerId, Opening};

use super::*;

fn xid(sequence: u64) -> Xid {
    let opening = Opening {
        manager: ManagerId::from_bytes([1; 10]),
        epoch: Epoch(1),
        nonce: 1,
    };
    Xid {
        gtrid: opening.gtrid(sequence),
        bqual: "orders".parse().unwrap(),
    }
}

fn with(left: Vec<Left>) -> ResourceReport {
    let mut report = ResourceReport::new("orders".parse().unwrap());
    report.left = (1..).map(xid).zip(left).collect();
    report
}

fn all(resource: ResourceReport) -> RecoveryReport {
    RecoveryReport {
        resources: vec![resource],
        ..RecoveryReport::default()
    }
}

fn away() -> ResourceReport {
    let mut report = with(Vec::new());
    let name = report.resource.clone();
    report.error = Some(ResourceError::new(Problem::Unavailable, name, "away"));
    report
}

fn unread() -> ResourceReport {
    let mut report = with(vec![Left::Retry("not now".to_owned())]);
    report.log_error = Some(LogError::new("torn"));
    report
}

#[test]
fn what_is_left_is_clean_only_if_it_is_another_ones_business() {
    let why = || "why".to_owned();
    for (left, is_clean, needs_a_person, may_resolve_itself) in [
        (Left::Plan(LeaveReason::Active), true, false, false),
        (Left::Plan(LeaveReason::OtherMember), true, false, false),
        (Left::Plan(LeaveReason::OtherManager), true, false, false),
        (Left::Plan(LeaveReason::Gone), true, false, false),
        (Left::Plan(LeaveReason::UnlistedOpening), false, true, false),
        (Left::Plan(LeaveReason::EndedOtherwise), false, true, false),
        (Left::Retry(why()), false, false, true),
        (Left::Refused(why()), false, true, false),
        (Left::Person(why()), false, true, false),
    ] {
        assert_eq!(left.needs_a_person(), needs_a_person, "{left:?}");
        let report = with(vec![left]);
        assert_eq!(
            report.may_resolve_itself(),
            may_resolve_itself,
            "{report:?}"
        );
        assert_eq!(all(report).is_clean(), is_clean);
    }
    assert!(all(with(Vec::new())).is_clean());
    for report in [away(), unread()] {
        assert!(report.may_resolve_itself() && !report.is_clean());
        assert!(!all(report).is_clean());
    }
    let mut report = RecoveryReport::default();
    report.unfinished.push("orders".parse().unwrap());
    assert!(!report.is_clean());
    let mut report = RecoveryReport::default();
    report.unknown_resources.push("orders".parse().unwrap());
    assert!(!report.is_clean());
    let log_error = Some(LogError::new("torn"));
    let report = RecoveryReport {
        log_error,
        ..RecoveryReport::default()
    };
    assert!(!report.is_clean());
}

#[test]
fn a_report_is_one_line_however_much_is_left() {
    assert_eq!(
        all(with(Vec::new())).to_string(),
        "recovery: nothing in doubt"
    );
    let mut some = with(Vec::new());
    some.rolled_back = 2;
    assert_eq!(
        all(some.clone()).to_string(),
        "recovery: 0 committed, 2 rolled back"
    );
    some.committed = 1;
    let mut both = all(some);
    both.resources.push(both.resources[0].clone());
    assert_eq!(both.to_string(), "recovery: 2 committed, 4 rolled back");

    // Five reasons are told with an example each, the others are counted.
    let reason = |number| Left::Retry(format!("reason {number}"));
    let mut left = with([1, 1, 2, 3, 4, 5].map(reason).into());
    let text = all(left.clone()).to_string();
    let first = format!("; resource orders: 2 left ({}): reason 1; ", xid(1));
    assert!(
        text.starts_with("recovery: nothing ended") && text.contains(&first),
        "{text}"
    );
    assert!(text.ends_with(": reason 5"), "{text}");
    left.left
        .extend([6, 7].map(|number| (xid(number), reason(number))));
    left.foreign = vec!["'a'".to_owned(), "'b'".to_owned()];
    let text = all(left).to_string();
    let end = "; resource orders: 2 more reasons to leave others; resource orders: 2 prepared by \
               others, not touched";
    assert!(text.ends_with(end) && !text.contains("reason 6"), "{text}");
}

#[test]
fn a_log_that_cannot_be_read_is_told_once() {
    let mut report = all(unread());
    report.log_error = Some(LogError::new("torn"));
    let text = report.to_string();
    assert_eq!(
        text,
        "recovery: nothing ended; resource orders: the log cannot be read: torn"
    );
    report.resources[0].log_error = None;
    report.resources[0].left.clear();
    report.unfinished = vec!["orders".parse().unwrap(), "ledger".parse().unwrap()];
    report.unknown_resources = vec!["other".parse().unwrap()];
    assert_eq!(
        report.to_string(),
        "recovery: nothing ended; still under way: orders, ledger; not registered, but named by \
         decisions, which are kept: other: register them; the log cannot be read: torn"
    );
    assert!(all(away()).to_string().ends_with("away"));
}
