//! Every row of the table, and what holds for the rest.

use super::*;

const WRONG_STATE: BranchErrorKind = BranchErrorKind::WrongState;

const ALL: [Request; 10] = [
    Request::Open,
    Request::Unsent,
    Request::Prepare,
    Request::OnePhase,
    Request::Last,
    Request::EndReader,
    Request::RollBack,
    Request::Finish,
    Request::Status,
    Request::Statement,
];

use Request::{EndReader, Finish, Last, OnePhase, Open, Prepare, Statement, Status, Unsent};

const VOTES: &[Request] = &[Prepare, OnePhase, Last, EndReader, Statement];
const ALONE: &[Request] = &[Prepare, OnePhase, EndReader, Statement];
const WRITES: &[Request] = &[Prepare, OnePhase, Last];

/// Each row of the table, written down a second time: a code that it covers in these requests, what
/// it has to mean there, and a part of what mends it.
const EXPECTED: &[(&[Request], &str, BranchErrorKind, &str)] = &[
    (&[Open], "08006", UNAVAILABLE, ""),
    (&[Open], "53200", UNAVAILABLE, "no room"),
    (&[Open], "53300", UNAVAILABLE, "max_connections"),
    (&[Open], "57P03", UNAVAILABLE, "starting or stopping"),
    (&[Open], "57014", UNAVAILABLE, "starting or stopping"),
    (&[Open], "25006", UNAVAILABLE, "connect to the primary"),
    (&[Open], "28P01", FAILED, "pg_hba.conf"),
    (&[Open], "3D000", FAILED, "the database in the address"),
    (&[Unsent, Statement], "25P03", TIMEOUT, "idle for too long"),
    (
        &[Unsent, Statement],
        "25P04",
        TIMEOUT,
        "transaction_timeout",
    ),
    (VOTES, "40001", CONFLICT, ""),
    (VOTES, "40P01", CONFLICT, ""),
    (ALONE, "55P03", TIMEOUT, "a deadlock across databases"),
    (&[Last], "55P03", CONFLICT, "a barrier holds new decisions"),
    (&[Last], "42501", NO_RIGHTS, "the rights of a last resource"),
    (VOTES, "57014", TIMEOUT, "cancelled or ran out of time"),
    (
        VOTES,
        "25P02",
        ROLLBACK_ONLY,
        "failed earlier in this branch",
    ),
    (VOTES, "53200", EXHAUSTED, "raise max_prepared_transactions"),
    (VOTES, "53300", EXHAUSTED, "raise max_prepared_transactions"),
    (WRITES, "58030", UNDETERMINED, "of its own"),
    (WRITES, "XX000", UNDETERMINED, "of its own"),
    (
        &[Prepare],
        "42710",
        BranchErrorKind::DuplicateXid,
        "prepared already",
    ),
    (&[Prepare], "0A000", REFUSED, "on a connection of its own"),
    (&[Prepare], "55000", EXHAUSTED, "ALTER SYSTEM SET"),
    (
        &[Finish],
        "42704",
        BranchErrorKind::UnknownXid,
        "does not tell",
    ),
    (&[Finish], "55000", UNAVAILABLE, "another session"),
    (&[Finish], "57014", UNAVAILABLE, ""),
    (&[Finish], "53200", UNAVAILABLE, "no room"),
    (&[Finish], "53300", UNAVAILABLE, "no room"),
    (&[Finish], "42501", FAILED, "the role that prepared it"),
    (&[Finish], "0A000", FAILED, "in its own database"),
    (&[Finish], "25006", FAILED, "connect to the primary"),
    (&[Finish], "25001", WRONG_STATE, "in a transaction"),
    (&[Finish], "25P02", WRONG_STATE, "in a failed transaction"),
    (
        &[Status],
        "22023",
        BranchErrorKind::UnknownXid,
        "never gave out",
    ),
];

#[test]
fn every_row_means_what_is_expected_of_it_and_nothing_else() {
    for (_, code, ..) in EXPECTED {
        for request in ALL {
            let mut expected = EXPECTED.iter();
            let expected = expected.find(|row| row.0.contains(&request) && row.1 == *code);
            match (listed(request, code), expected) {
                (Some((meant, mend)), Some((_, _, kind, part))) => {
                    assert_eq!(meant, *kind, "{request:?} {code}");
                    let is_said = mend.contains(part) && mend.is_empty() == part.is_empty();
                    assert!(is_said, "{request:?} {code}: {mend}");
                }
                (None, None) => {}
                (found, _) => panic!("{request:?} {code}: {found:?}"),
            }
        }
    }
    for row in TABLE {
        let is_row =
            |code: &str| row.code == code || row.code.len() < 5 && code.starts_with(row.code);
        for request in row.requests {
            let tested = EXPECTED
                .iter()
                .any(|(requests, code, ..)| requests.contains(request) && is_row(code));
            assert!(tested, "no test for the row {} of {request:?}", row.code);
        }
    }
}

#[test]
fn any_other_refusal_of_a_vote_is_a_rollback() {
    for code in ["23503", "P0001", "22023", "25P01", "ZZZZZ"] {
        for request in [Prepare, OnePhase, Last, EndReader] {
            assert_eq!(meaning(request, Answer::Refused(code)).0, REFUSED, "{code}");
        }
    }
    for request in [Prepare, OnePhase, EndReader] {
        assert_eq!(meaning(request, Answer::Refused("42501")).0, REFUSED);
    }
}

#[test]
fn i3_an_unlisted_refusal_to_finish_may_have_happened() {
    for code in ["XX000", "58030", "23503", "ZZZZZ", ""] {
        assert_eq!(
            meaning(Request::Finish, Answer::Refused(code)).0,
            UNDETERMINED
        );
        assert_eq!(
            meaning(Request::RollBack, Answer::Refused(code)).0,
            UNDETERMINED
        );
    }
}

#[test]
fn i3_a_lost_answer_or_an_ended_session_is_never_a_rollback_where_something_is_at_stake() {
    for request in ALL {
        for answer in [Answer::Lost, Answer::Ended("57P01"), Answer::Ended("40001")] {
            let expected = match request {
                Request::Open => UNAVAILABLE,
                // See the test of causes for what a statement's own code says.
                Request::Statement if answer == Answer::Ended("40001") => CONFLICT,
                Request::Unsent | Request::EndReader | Request::Statement => {
                    BranchErrorKind::RolledBack(Cause::Unreachable)
                }
                Request::Prepare
                | Request::OnePhase
                | Request::Last
                | Request::RollBack
                | Request::Finish
                | Request::Status => UNDETERMINED,
            };
            assert_eq!(
                meaning(request, answer).0,
                expected,
                "{request:?} {answer:?}"
            );
        }
    }
}

#[test]
fn what_a_person_has_to_mend_is_unfit_and_the_rest_unavailable() {
    assert_eq!(problem(Answer::Ended("28P01")).0, Problem::Unfit);
    assert_eq!(problem(Answer::Ended("3D000")).0, Problem::Unfit);
    assert_eq!(problem(Answer::Refused("42501")).0, Problem::Unfit);
    assert_eq!(problem(Answer::Ended("53300")).0, Problem::Unavailable);
    assert_eq!(problem(Answer::Ended("57P03")).0, Problem::Unavailable);
    assert_eq!(problem(Answer::Lost).0, Problem::Unavailable);
}

#[test]
fn every_guard_says_how_to_mend_it() {
    for (guard, part) in [
        (
            Guard::MarkerGone,
            "leave the end of a branch to the transaction",
        ),
        (Guard::OtherSession, "a pooler in transaction mode"),
        (Guard::MayWrite, "a read-only branch was made to write"),
        (Guard::EpochClosed, "took this one for dead"),
    ] {
        let (kind, mend) = meaning(Request::Prepare, Answer::Guarded(guard));
        let passes = guard == Guard::EpochClosed;
        assert_eq!(kind, if passes { CONFLICT } else { ROLLBACK_ONLY });
        assert!(mend.contains(part), "{mend}");
    }
}

#[test]
fn only_one_refusal_says_that_the_branch_is_another_roles() {
    assert!(is_not_owner(Answer::Refused("42501")));
    for answer in [
        Answer::Refused("42704"),
        Answer::Ended("42501"),
        Answer::Guarded(Guard::MarkerGone),
        Answer::Lost,
    ] {
        assert!(!is_not_owner(answer), "{answer:?}");
    }
}

/// What the application met in a statement of its own.
#[test]
fn the_cause_of_a_failed_statement_is_that_of_the_vote_it_leads_to() {
    for (answer, expected) in [
        (Answer::Refused("40001"), Cause::Conflict),
        (Answer::Refused("40P01"), Cause::Conflict),
        (Answer::Refused("55P03"), Cause::Timeout),
        (Answer::Refused("57014"), Cause::Timeout),
        (Answer::Refused("25P02"), Cause::RollbackOnly),
        (Answer::Refused("53200"), Cause::Exhausted),
        (Answer::Refused("23505"), Cause::Refused),
        (Answer::Refused("42P01"), Cause::Refused),
        (Answer::Ended("25P03"), Cause::Timeout),
        (Answer::Ended("25P04"), Cause::Timeout),
        (Answer::Ended("57P01"), Cause::Unreachable),
        (Answer::Lost, Cause::Unreachable),
    ] {
        assert_eq!(cause(answer), Some(expected), "{answer:?}");
    }
}

/// Each row of the table of decisions, written down a second time.
#[test]
fn every_code_of_the_decision_table_means_what_is_expected_of_it() {
    use TableErrorKind as Kind;
    let expected = [
        ("40001", Kind::Busy, ""),
        ("40P01", Kind::Busy, ""),
        ("55P03", Kind::Busy, "asked again, it may be"),
        ("57014", Kind::Refused, "ran out of time"),
        ("53200", Kind::Refused, "no room for now"),
        ("53100", Kind::Refused, "make room on the disk"),
        ("25006", Kind::Refused, "connect to the primary"),
        ("42501", Kind::Refused, "grant what"),
        ("42P01", Kind::Missing, "make its tables"),
        ("3F000", Kind::Missing, "make its tables"),
        ("42703", Kind::Unfit, "not those of the log's DDL"),
        ("42P10", Kind::Unfit, "not those of the log's DDL"),
        ("42804", Kind::Unfit, "not those of the log's DDL"),
        ("42883", Kind::Unfit, "not those of the log's DDL"),
        ("58030", Kind::Lost, "a failure of its own"),
        ("XX000", Kind::Lost, "a failure of its own"),
        ("23505", Kind::Refused, ""),
        ("ZZZZZ", Kind::Refused, ""),
    ];
    for (code, kind, part) in expected {
        let (meant, mend) = table_meaning(Answer::Refused(code));
        let is_said = mend.contains(part) && mend.is_empty() == part.is_empty();
        assert!(meant == kind && is_said, "{code}: {meant:?} {mend}");
    }
    for (listed, ..) in DECISIONS {
        let is_row = |code: &str| code == *listed || listed.len() < 5 && code.starts_with(listed);
        assert!(
            expected.iter().any(|row| is_row(row.0)),
            "no test for {listed}"
        );
    }
}

/// What was sent and not answered may have happened, whatever the session died of; what could not
/// be sent has not.
#[test]
fn i3_only_a_refusal_or_a_connection_that_was_not_had_is_certain_at_the_decision_table() {
    for answer in [
        Answer::Lost,
        Answer::Ended("57P01"),
        Answer::Ended("53100"),
        Answer::Ended("42501"),
        Answer::Unsuited("check the address"),
    ] {
        assert_eq!(table_meaning(answer).0, TableErrorKind::Lost, "{answer:?}");
        assert_eq!(
            table_unsent(answer).0,
            TableErrorKind::NotSent,
            "{answer:?}"
        );
    }
    let standby = table_unsent(Answer::Refused("25006"));
    assert_eq!(standby, (TableErrorKind::Refused, STANDBY));
}
