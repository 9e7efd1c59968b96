//! Every row of the table, and what holds for the rest.

use super::*;

const WRONG_STATE: BranchErrorKind = BranchErrorKind::WrongState;

const ALL: [Request; 9] = [
    Request::Open,
    Request::Unsent,
    Request::Prepare,
    Request::OnePhase,
    Request::EndReader,
    Request::RollBack,
    Request::Finish,
    Request::Status,
    Request::Statement,
];

/// One line per row of the table and request: a code that it covers, and what it has to mean.
const EXPECTED: &[(Request, &str, BranchErrorKind)] = &[
    (Request::Open, "08006", UNAVAILABLE),
    (Request::Open, "53100", UNAVAILABLE),
    (Request::Open, "53300", UNAVAILABLE),
    (Request::Open, "57P03", UNAVAILABLE),
    (Request::Open, "25006", UNAVAILABLE),
    (Request::Open, "28P01", FAILED),
    (Request::Open, "3D000", FAILED),
    (Request::Unsent, "25P03", TIMEOUT),
    (Request::Unsent, "25P04", TIMEOUT),
    (Request::Prepare, "40001", CONFLICT),
    (Request::OnePhase, "40001", CONFLICT),
    (Request::EndReader, "40001", CONFLICT),
    (Request::Prepare, "40P01", CONFLICT),
    (Request::Prepare, "55P03", TIMEOUT),
    (Request::Prepare, "57014", TIMEOUT),
    (Request::OnePhase, "57014", TIMEOUT),
    (Request::Prepare, "25P02", ROLLBACK_ONLY),
    (Request::EndReader, "25P02", ROLLBACK_ONLY),
    (Request::Prepare, "53200", EXHAUSTED),
    (Request::OnePhase, "53100", EXHAUSTED),
    (Request::Prepare, "58030", UNDETERMINED),
    (Request::OnePhase, "XX000", UNDETERMINED),
    (Request::Prepare, "42710", BranchErrorKind::DuplicateXid),
    (Request::Prepare, "0A000", REFUSED),
    (Request::Prepare, "55000", EXHAUSTED),
    (Request::Finish, "42704", BranchErrorKind::UnknownXid),
    (Request::Finish, "55000", UNAVAILABLE),
    (Request::Finish, "57014", UNAVAILABLE),
    (Request::Finish, "53200", UNAVAILABLE),
    (Request::Finish, "42501", FAILED),
    (Request::Finish, "0A000", FAILED),
    (Request::Finish, "25006", FAILED),
    (Request::Finish, "25001", WRONG_STATE),
    (Request::Finish, "25P02", WRONG_STATE),
    (Request::Status, "22023", BranchErrorKind::UnknownXid),
];

#[test]
fn every_row_means_what_is_expected_of_it() {
    for (request, code, kind) in EXPECTED {
        let answer = match request {
            Request::Unsent => Answer::Ended(code),
            Request::Open
            | Request::Prepare
            | Request::OnePhase
            | Request::EndReader
            | Request::RollBack
            | Request::Finish
            | Request::Status
            | Request::Statement => Answer::Refused(code),
        };
        let (meant, _) = meaning(*request, answer);
        assert_eq!(meant, *kind, "{request:?} {code}");
    }
    for row in TABLE {
        let tested = EXPECTED.iter().any(|(request, code, kind)| {
            row.requests.contains(request) && code.starts_with(row.code) && row.kind == *kind
        });
        assert!(
            tested,
            "no test for the row {} of {:?}",
            row.code, row.requests
        );
    }
}

#[test]
fn any_other_refusal_of_a_vote_is_a_rollback() {
    for code in ["23503", "P0001", "22023", "25P01", "42501", "ZZZZZ"] {
        for request in [Request::Prepare, Request::OnePhase, Request::EndReader] {
            assert_eq!(meaning(request, Answer::Refused(code)).0, REFUSED, "{code}");
        }
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
    ] {
        let (kind, mend) = meaning(Request::Prepare, Answer::Guarded(guard));
        assert_eq!(kind, ROLLBACK_ONLY);
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
