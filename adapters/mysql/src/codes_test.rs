//! Every row of the table, written down a second time as sentences.

use mysql_async::{DriverError, ServerError, TlsError};
use unanimous_core::ports::BranchErrorKind::{
    DuplicateXid, RolledBack, Unavailable, Undetermined, UnknownXid, WrongState,
};
use unanimous_core::ports::Problem;

use super::*;

const PHASES: [During; 6] = [Open, Prepare, OnePhase, Commit, CommitElsewhere, Rollback];

fn server(code: u16) -> Error {
    let state = "HY000".to_owned();
    Error::Server(ServerError {
        code,
        message: "as the server says".to_owned(),
        state,
    })
}

/// The meanings of a code in the order of [`PHASES`].
fn meanings(code: u16) -> [BranchErrorKind; 6] {
    PHASES.map(|phase| meaning(&server(code), phase))
}

#[test]
fn a_lock_wait_timeout_ends_a_branch_at_prepare_and_leaves_a_prepared_one_as_it_is() {
    let expected = [
        Unavailable,
        RolledBack(Cause::Timeout),
        Undetermined,
        Unavailable,
        Unavailable,
        Unavailable,
    ];
    assert_eq!(meanings(1205), expected);
}

#[test]
fn a_deadlock_at_prepare_is_a_conflict() {
    let expected = [
        Undetermined,
        RolledBack(Cause::Conflict),
        Undetermined,
        Undetermined,
        Undetermined,
        Undetermined,
    ];
    assert_eq!(meanings(1213), expected);
}

#[test]
fn a_branch_that_was_not_opened_by_chance_may_be_opened_again() {
    for (code, is_over) in [
        (1053, true),
        (1927, true),
        (4031, true),
        (1205, false),
        (1317, false),
    ] {
        assert_eq!(meanings(code)[0], Unavailable, "{code}");
        assert_eq!(ends_connection(&server(code)), is_over, "{code}");
    }
    assert!(ends_connection(&Error::Driver(
        DriverError::ConnectionClosed
    )));
}

#[test]
fn a_killed_request_ends_a_branch_at_prepare_and_leaves_a_prepared_one_as_it_is() {
    let expected = [
        Unavailable,
        RolledBack(Cause::Refused),
        Undetermined,
        Unavailable,
        Unavailable,
        Unavailable,
    ];
    assert_eq!(meanings(1317), expected);
}

#[test]
fn a_read_only_server_leaves_a_prepared_branch_as_it_is() {
    let expected = [
        Undetermined,
        Undetermined,
        Undetermined,
        Unavailable,
        Unavailable,
        Unavailable,
    ];
    assert_eq!(meanings(1290), expected);
}

#[test]
fn i3_an_unknown_xid_is_never_taken_for_an_end() {
    let expected = [
        Undetermined,
        WrongState,
        WrongState,
        UnknownXid,
        UnknownXid,
        UnknownXid,
    ];
    assert_eq!(meanings(1397), expected);
}

#[test]
fn an_invalid_argument_is_our_own_wrong_state() {
    let expected = [
        Undetermined,
        WrongState,
        WrongState,
        WrongState,
        WrongState,
        WrongState,
    ];
    assert_eq!(meanings(1398), expected);
}

#[test]
fn the_codes_of_a_wrong_state_are_told_apart_from_an_unreachable_server() {
    assert_eq!(meanings(1399), [WrongState; 6]);
    assert_eq!(meanings(1400), [WrongState; 6]);
}

#[test]
fn a_commit_lock_that_is_not_free_leaves_a_prepared_branch_as_it_is() {
    let mut expected = [Undetermined; 6];
    expected[3..].fill(Unavailable);
    assert_eq!(meanings(3197), expected);
}

#[test]
fn i1_a_commit_that_failed_may_have_left_anything() {
    let during = |error: &Error| PHASES.map(|phase| leaves_a_commit_undetermined(error, phase));
    let at_commit = [false, false, false, true, true, false];
    for code in [1026, 1180, 1401, 3100, 3101] {
        assert_eq!(during(&server(code)), at_commit, "{code}");
        assert_eq!(meanings(code), [Undetermined; 6], "{code}");
    }
    // Still prepared, ended for certain, unknown, or not the answer at all.
    for code in [1205, 1290, 1317, 3197, 1402, 1614, 1397, 1399, 1053, 1927] {
        assert_eq!(during(&server(code)), [false; 6], "{code}");
    }
    let closed = Error::Driver(DriverError::ConnectionClosed);
    assert_eq!(during(&closed), [false; 6]);
}

#[test]
fn the_servers_own_rollbacks_are_rollbacks_in_every_phase() {
    for (code, cause) in [
        (1402, Cause::Refused),
        (1613, Cause::Timeout),
        (1614, Cause::Conflict),
    ] {
        let mut expected = [RolledBack(cause); 6];
        expected[0] = Undetermined;
        assert!(is_rolled_back(&server(code)));
        assert!(!is_rolled_back(&server(1397)));
        assert_eq!(meanings(code), expected, "{code}");
    }
}

#[test]
fn a_duplicate_xid_is_told_at_open() {
    let mut expected = [Undetermined; 6];
    expected[0] = DuplicateXid;
    assert_eq!(meanings(1440), expected);
}

#[test]
fn i3_what_is_not_listed_may_have_happened() {
    for code in [0, 1, 1105, 1180, 3100, 65535] {
        assert_eq!(meanings(code), [Undetermined; 6], "{code}");
    }
    assert_eq!(meanings(1053)[1..], [Undetermined; 5]);
    let closed = Error::Driver(DriverError::ConnectionClosed);
    assert_eq!(
        PHASES.map(|phase| meaning(&closed, phase)),
        [Undetermined; 6]
    );
}

#[test]
fn no_row_of_the_table_is_hidden_by_another() {
    let mut seen = Vec::new();
    for Row(code, phases, _) in TABLE {
        for phase in *phases {
            assert!(!seen.contains(&(*code, *phase)), "{code} {phase:?}");
            seen.push((*code, *phase));
        }
    }
}

#[test]
fn only_mariadbs_1402_says_that_there_was_nothing_to_commit() {
    assert!(had_nothing_to_commit(&server(1402), Flavour::MariaDb));
    assert!(!had_nothing_to_commit(&server(1402), Flavour::MySql));
    assert!(!had_nothing_to_commit(&server(1397), Flavour::MariaDb));
    assert!(!had_nothing_to_commit(&server(1614), Flavour::MariaDb));
}

#[test]
fn a_failed_statement_says_whether_the_branch_is_gone_and_why() {
    for (code, cause, branch_is_gone) in [
        (1213, Cause::Conflict, true),
        (1614, Cause::Conflict, true),
        (1020, Cause::Conflict, true),
        (1206, Cause::Exhausted, true),
        (1613, Cause::Timeout, true),
        (1402, Cause::Refused, true),
        (1205, Cause::Timeout, false),
        (3024, Cause::Timeout, false),
        (1969, Cause::Timeout, false),
        (1021, Cause::Exhausted, false),
        (1114, Cause::Exhausted, false),
        (1062, Cause::Refused, false),
        (1146, Cause::Refused, false),
        (1399, Cause::Refused, false),
    ] {
        let expected = StatementFailure {
            cause,
            branch_is_gone,
        };
        assert_eq!(statement(&server(code)), expected, "{code}");
    }
}

/// The runtime asks for each error on the way of an application's error to its last source.
#[test]
fn the_cause_of_an_applications_error_is_known_by_its_code() {
    for (error, expected) in [
        (server(1213), Some(Cause::Conflict)),
        (server(1020), Some(Cause::Conflict)),
        (server(1614), Some(Cause::Conflict)),
        (server(1205), Some(Cause::Timeout)),
        (server(1062), Some(Cause::Refused)),
        (server(1114), Some(Cause::Exhausted)),
        (Error::Driver(DriverError::ConnectionClosed), None),
        (Error::Other("said by the application".into()), None),
        (
            Error::Io(std::io::Error::other("reset").into()),
            Some(Cause::Unreachable),
        ),
    ] {
        assert_eq!(super::cause(&error), expected, "{error}");
    }
    assert_eq!(super::cause(&std::fmt::Error), None);
}

#[test]
fn what_to_do_about_a_refused_connection_is_said() {
    for (error, mend) in [
        (server(1040), "raise max_connections"),
        (server(1044), "no privilege in this database"),
        (server(1045), "user and password"),
        (server(1049), "create it"),
        (server(1129), "FLUSH HOSTS"),
        (server(1130), "create one for it"),
        (server(1203), "max_user_connections"),
        (server(1226), "MAX_USER_CONNECTIONS"),
        (server(1251), "caching_sha2_password"),
        (server(1698), "user and password"),
        (server(1820), "IDENTIFIED BY"),
        (server(1862), "IDENTIFIED BY"),
        (server(3118), "ACCOUNT UNLOCK"),
        (server(4151), "ACCOUNT UNLOCK"),
        (server(3159), "ssl-mode=REQUIRED"),
        (
            Error::Driver(DriverError::NoClientSslFlagFromServer),
            "ssl-mode=PREFERRED",
        ),
    ] {
        let said = mend_of_connect(&error);
        assert!(
            said.starts_with("; ") && said.contains(mend),
            "{error}: {said}"
        );
    }
    assert_eq!(mend_of_connect(&server(1105)), "");
}

#[test]
fn a_refused_login_needs_a_person_and_a_full_server_does_not() {
    for code in [
        1044, 1045, 1049, 1130, 1251, 1698, 1820, 1862, 3118, 3159, 4151,
    ] {
        assert_eq!(connect(&server(code)), Problem::Unfit, "{code}");
    }
    for code in [1040, 1053, 1129, 1203, 1226] {
        assert_eq!(connect(&server(code)), Problem::Unavailable, "{code}");
    }
    assert_eq!(
        connect(&Error::Driver(DriverError::ConnectionClosed)),
        Problem::Unavailable
    );
}

/// rustls's error, wherever the driver has put it.
#[test]
fn a_certificate_that_is_not_accepted_is_told_with_its_mend() {
    use rustls::AlertDescription as Alert;
    use rustls::CertificateError as Certificate;
    use rustls::Error::AlertReceived as alert;
    use rustls::pki_types::UnixTime;
    let time = UnixTime::since_unix_epoch(std::time::Duration::ZERO);
    let not_valid_for = Certificate::NotValidForNameContext {
        expected: "db".try_into().unwrap(),
        presented: Vec::new(),
    };
    let expired = Certificate::ExpiredContext {
        time,
        not_after: time,
    };
    let not_yet = Certificate::NotValidYetContext {
        time,
        not_before: time,
    };
    for (error, mend) in [
        (Certificate::UnknownIssuer.into(), "whom ssl-ca names"),
        (Certificate::NotValidForName.into(), "VERIFY_CA"),
        (not_valid_for.into(), "VERIFY_CA"),
        (Certificate::Expired.into(), "a new certificate"),
        (expired.into(), "a new certificate"),
        (Certificate::NotValidYet.into(), "the one that made"),
        (not_yet.into(), "the one that made"),
        (Certificate::BadEncoding.into(), "ssl-ca has signed"),
        (alert(Alert::ProtocolVersion), "TLS 1.2 or 1.3"),
        (alert(Alert::HandshakeFailure), "TLS 1.2 or 1.3"),
        (
            rustls::PeerIncompatible::Tls12NotOfferedOrEnabled.into(),
            "TLS 1.2 or 1.3",
        ),
    ] {
        let wrapped = std::io::Error::other(rustls::Error::clone(&error));
        for error in [TlsError::Tls(error).into(), Error::Io(wrapped.into())] {
            let said = mend_of_connect(&error);
            assert!(said.contains(mend), "{error}: {said}");
            assert_eq!(connect(&error), Problem::Unfit);
        }
    }
}

/// Seen on a machine that did much else: a start must not be refused for it.
#[test]
fn i6_an_encryption_that_breaks_off_is_tried_again() {
    for error in [
        rustls::Error::DecryptError,
        rustls::Error::InappropriateMessage {
            expect_types: vec![rustls::ContentType::Handshake],
            got_type: rustls::ContentType::ApplicationData,
        },
        rustls::Error::AlertReceived(rustls::AlertDescription::InternalError),
    ] {
        let wrapped = std::io::Error::other(rustls::Error::clone(&error));
        for error in [TlsError::Tls(error).into(), Error::Io(wrapped.into())] {
            assert_eq!(connect(&error), Problem::Unavailable, "{error}");
        }
    }
}

#[test]
fn i8_what_the_set_up_failed_with_is_told_by_its_code_alone() {
    for (code, told) in [
        (1064, Some("failed with error 1064")),
        (1157, Some("failed with error 1157")),
        (1162, Some("failed with error 1162")),
        (1040, None),
        (1045, None),
        (1053, None),
        (1158, None),
        (1161, None),
    ] {
        assert_eq!(of_setup(&server(code)).as_deref(), told, "{code}");
    }
    let closed = Error::Driver(DriverError::ConnectionClosed);
    assert_eq!(of_setup(&closed), None);
    assert_eq!(without_words(&server(1064)), "error 1064");
    assert_eq!(without_words(&closed), closed.to_string());
}

#[test]
fn each_question_is_answered_by_its_own_code_only() {
    for (is, code) in [
        (is_unknown_xid as fn(&Error) -> bool, 1397),
        (is_recover_refused, 1401),
        (is_no_such_table, 1146),
        (is_no_such_connection, 1094),
        (is_access_denied, 1044),
        (is_access_denied, 1045),
        (is_access_denied, 1142),
        (is_access_denied, 1227),
    ] {
        assert!(is(&server(code)));
        assert!(!is(&server(1064)));
        assert!(!is(&Error::Driver(DriverError::ConnectionClosed)));
    }
}

/// The table's kinds in the order of work, commit.
fn of_request(code: u16) -> [TableErrorKind; 2] {
    [TablePhase::Work, TablePhase::Commit].map(|phase| table(&server(code), phase).0)
}

#[test]
fn what_a_table_refuses_before_the_commit_has_not_happened_and_nothing_else_is_known() {
    use TableErrorKind::{Busy, Lost, Missing, Refused, Unfit};
    for code in [1205, 1213, 1020] {
        assert_eq!(of_request(code), [Busy, Lost], "{code}");
    }
    for code in [
        1290, 1690, 1792, 1836, 1021, 1114, 1142, 1227, 1665, 1317, 1053,
    ] {
        assert_eq!(of_request(code), [Refused, Lost], "{code}");
    }
    for code in [1049, 1146] {
        assert_eq!(of_request(code), [Missing, Lost], "{code}");
    }
    for code in [1048, 1054, 1406, 3819, 4025] {
        assert_eq!(of_request(code), [Unfit, Lost], "{code}");
    }
    let closed = Error::Driver(DriverError::ConnectionClosed);
    for phase in [TablePhase::Work, TablePhase::Commit, TablePhase::Ddl] {
        assert_eq!(table(&closed, phase).0, Lost);
    }
}

#[test]
fn what_a_table_cannot_do_comes_with_the_mend() {
    for (code, mend) in [
        (1205, "ask again"),
        (1213, "ask again"),
        (1290, "connect to the primary"),
        (1690, "connect to the primary"),
        (1114, "make room"),
        (1142, "grant the account"),
        (1665, "binlog_format = ROW"),
        (1146, "make the tables"),
        (1049, "create the database"),
        (1054, "restore them"),
    ] {
        let said = table(&server(code), TablePhase::Work).1;
        assert!(said.contains(mend), "{code}: {said}");
    }
}
