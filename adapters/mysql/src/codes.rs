//! What the servers' error codes mean, in one table: (code, what was asked) → meaning.
//!
//! The same code means different things in different phases: 1205 refuses a prepare and rolls the
//! branch back, but leaves a prepared branch as it is when a commit meets it. The rows of 1205,
//! 1213, 1290, 1317, 1397, 1399, 1402, 1440 and 1614 were seen from MySQL 9.7 or MariaDB 10.11 (the
//! live tests show most of them); the others follow from the servers' manuals and sources, and from
//! what X/Open says of the code. A pair that is not in the table is `Undetermined`: it may have
//! happened (I3). So is everything that is not a server's answer at all: a closed socket, a
//! time-out, an error of the driver.

use mysql_async::Error;
use unanimous_core::ports::{BranchErrorKind, Cause, TableErrorKind};

use crate::latch::RollbackOnly;
use crate::session::Flavour;

mod login;

pub(crate) use login::{connect, mend_of_connect, of_setup, without_words};

/// What the server was asked when it answered with a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum During {
    /// `XA START`, or `START TRANSACTION READ ONLY`, with the settings before it.
    Open,
    /// `XA PREPARE`, after `XA END` was answered with success.
    Prepare,
    /// `XA COMMIT … ONE PHASE`, after `XA END` was answered with success.
    OnePhase,
    /// `XA COMMIT` on the connection that prepared.
    Commit,
    /// `XA COMMIT` by XID, on another connection.
    CommitElsewhere,
    /// `XA ROLLBACK`, on whichever connection.
    Rollback,
}

/// What a code means for a statement of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StatementFailure {
    /// Why the branch will be rolled back, unless the application says that it has handled it.
    pub(crate) cause: Cause,
    /// The server has rolled back the whole branch: nothing that the application does mends it.
    pub(crate) branch_is_gone: bool,
}

struct Row(u16, &'static [During], BranchErrorKind);

const SERVER_SHUTDOWN: u16 = 1053;
const LOCK_WAIT_TIMEOUT: u16 = 1205;
const LOCK_DEADLOCK: u16 = 1213;
const READ_ONLY_OPTION: u16 = 1290;
/// ER_DATA_OUT_OF_RANGE: what the tables' own condition says on a read-only server.
const OUT_OF_RANGE: u16 = 1690;
const QUERY_INTERRUPTED: u16 = 1317;
const XAER_NOTA: u16 = 1397;
const XAER_INVAL: u16 = 1398;
const XAER_RMFAIL: u16 = 1399;
const XAER_OUTSIDE: u16 = 1400;
const XAER_RMERR: u16 = 1401;
const XA_RBROLLBACK: u16 = 1402;
const XAER_DUPID: u16 = 1440;
const XA_RBTIMEOUT: u16 = 1613;
const XA_RBDEADLOCK: u16 = 1614;
const CONNECTION_KILLED: u16 = 1927;
const XA_RETRY: u16 = 3197;
const CLIENT_INTERACTION_TIMEOUT: u16 = 4031;

const ROLLED_BACK_BY_TIMEOUT: BranchErrorKind = BranchErrorKind::RolledBack(Cause::Timeout);
const ROLLED_BACK_BY_CONFLICT: BranchErrorKind = BranchErrorKind::RolledBack(Cause::Conflict);
const ROLLED_BACK_BY_REFUSAL: BranchErrorKind = BranchErrorKind::RolledBack(Cause::Refused);

use During::{Commit, CommitElsewhere, OnePhase, Open, Prepare, Rollback};

/// The first row that fits counts.
const TABLE: &[Row] = &[
    // Before there is a branch: the next attempt may succeed. 1053: the server is going down; 1927,
    // 4031: it has ended the connection.
    Row(SERVER_SHUTDOWN, &[Open], BranchErrorKind::Unavailable),
    Row(LOCK_WAIT_TIMEOUT, &[Open], BranchErrorKind::Unavailable),
    Row(QUERY_INTERRUPTED, &[Open], BranchErrorKind::Unavailable),
    Row(CONNECTION_KILLED, &[Open], BranchErrorKind::Unavailable),
    Row(
        CLIENT_INTERACTION_TIMEOUT,
        &[Open],
        BranchErrorKind::Unavailable,
    ),
    // 1400: the session has local work, or autocommit is off.
    Row(XAER_DUPID, &[Open], BranchErrorKind::DuplicateXid),
    Row(XAER_OUTSIDE, &[Open], BranchErrorKind::WrongState),
    Row(XAER_RMFAIL, &[Open], BranchErrorKind::WrongState),
    // A prepare that was refused for these reasons has rolled the branch back: `XA ROLLBACK`
    // answers 1397 afterwards. 1205 comes under `FLUSH TABLES WITH READ LOCK` and `BACKUP STAGE`,
    // 1317 from `KILL QUERY`.
    Row(LOCK_WAIT_TIMEOUT, &[Prepare], ROLLED_BACK_BY_TIMEOUT),
    Row(LOCK_DEADLOCK, &[Prepare], ROLLED_BACK_BY_CONFLICT),
    Row(QUERY_INTERRUPTED, &[Prepare], ROLLED_BACK_BY_REFUSAL),
    Row(XA_RBROLLBACK, &[Prepare, OnePhase], ROLLED_BACK_BY_REFUSAL),
    Row(XA_RBTIMEOUT, &[Prepare, OnePhase], ROLLED_BACK_BY_TIMEOUT),
    Row(XA_RBDEADLOCK, &[Prepare, OnePhase], ROLLED_BACK_BY_CONFLICT),
    // A commit in one phase that is refused by 1205 or 1317 has rolled the branch back, too, where
    // that was seen; but it can be interrupted after it has committed, and leaves an unknown XID in
    // both cases. Only the codes above say that it was rolled back.
    // Nothing was done: the branch is in another state than we believe, still open or unknown.
    Row(XAER_NOTA, &[Prepare, OnePhase], BranchErrorKind::WrongState),
    Row(
        XAER_INVAL,
        &[Prepare, OnePhase],
        BranchErrorKind::WrongState,
    ),
    Row(
        XAER_RMFAIL,
        &[Prepare, OnePhase],
        BranchErrorKind::WrongState,
    ),
    Row(
        XAER_OUTSIDE,
        &[Prepare, OnePhase],
        BranchErrorKind::WrongState,
    ),
    // The branch is still prepared; the same request succeeds once the reason is gone. 1290:
    // MariaDB under `read_only`; MySQL lets it through.
    Row(
        LOCK_WAIT_TIMEOUT,
        &[Commit, CommitElsewhere, Rollback],
        BranchErrorKind::Unavailable,
    ),
    Row(
        QUERY_INTERRUPTED,
        &[Commit, CommitElsewhere, Rollback],
        BranchErrorKind::Unavailable,
    ),
    Row(
        READ_ONLY_OPTION,
        &[Commit, CommitElsewhere, Rollback],
        BranchErrorKind::Unavailable,
    ),
    // 3197: MySQL waited in vain for the lock that `FLUSH TABLES WITH READ LOCK` takes ("return
    // error to user for a retry", `acquire_locks` in sql/xa/sql_xa_second_phase.cc); nothing else
    // leads to it. Where MariaDB does, it answers 1205 first; its 1401 is a failed rollback, or a
    // failed commit, after which the XID is gone in any case (`xa_trans_force_rollback`,
    // `trans_xa_commit`, sql/xa.cc): undetermined. So are 3100 and 3101, by which a plugin of MySQL
    // refuses a commit.
    Row(
        XA_RETRY,
        &[Commit, CommitElsewhere, Rollback],
        BranchErrorKind::Unavailable,
    ),
    // Committed, rolled back, never prepared, or still held by an open connection (MariaDB): all of
    // them answer 1397. It proves nothing by itself.
    Row(
        XAER_NOTA,
        &[Commit, CommitElsewhere, Rollback],
        BranchErrorKind::UnknownXid,
    ),
    // Also "the connection is inside another transaction" (1400).
    Row(
        XAER_RMFAIL,
        &[Commit, CommitElsewhere, Rollback],
        BranchErrorKind::WrongState,
    ),
    Row(
        XAER_OUTSIDE,
        &[Commit, CommitElsewhere, Rollback],
        BranchErrorKind::WrongState,
    ),
    Row(
        XAER_INVAL,
        &[Commit, CommitElsewhere, Rollback],
        BranchErrorKind::WrongState,
    ),
    // The server ended a prepared branch alone: a heuristic, if the decision was to commit. If it
    // was to roll back, it is what was asked for (see [`is_rolled_back`]).
    Row(
        XA_RBROLLBACK,
        &[Commit, CommitElsewhere, Rollback],
        ROLLED_BACK_BY_REFUSAL,
    ),
    Row(
        XA_RBTIMEOUT,
        &[Commit, CommitElsewhere, Rollback],
        ROLLED_BACK_BY_TIMEOUT,
    ),
    Row(
        XA_RBDEADLOCK,
        &[Commit, CommitElsewhere, Rollback],
        ROLLED_BACK_BY_CONFLICT,
    ),
];

/// What the answer to a request of the protocol means.
pub(crate) fn meaning(error: &Error, during: During) -> BranchErrorKind {
    server_code(error).map_or(BranchErrorKind::Undetermined, |code| lookup(code, during))
}

fn lookup(code: u16, during: During) -> BranchErrorKind {
    TABLE
        .iter()
        .find(|Row(listed, phases, _)| *listed == code && phases.contains(&during))
        .map_or(BranchErrorKind::Undetermined, |Row(_, _, kind)| *kind)
}

/// The answer to `XA ROLLBACK` that is not OK and yet says that the branch is rolled back and gone:
/// MariaDB's for a branch without changes whose connection had closed.
pub(crate) fn is_rolled_back(error: &Error) -> bool {
    matches!(meaning(error, Rollback), BranchErrorKind::RolledBack(_))
}

/// MariaDB's answer to a commit by XID of a branch that has written nothing: there is nothing that
/// could have been lost.
///
/// When the preparing connection closes, MariaDB detaches the branch; it marks it with this very
/// code if, and only if, no engine holds a change of it (`trans_xa_detach` in its sql/xa.cc, read
/// in 10.5 and later; seen on 10.11). No other way leads to 1402 for a branch that is prepared.
pub(crate) fn had_nothing_to_commit(error: &Error, flavour: Flavour) -> bool {
    match flavour {
        Flavour::MariaDb => server_code(error) == Some(XA_RBROLLBACK),
        Flavour::MySql => false,
    }
}

/// The connection had ended, or is about to: another one may do.
pub(crate) fn ends_connection(error: &Error) -> bool {
    !matches!(error, Error::Server(_))
        || matches!(
            server_code(error),
            Some(SERVER_SHUTDOWN | CONNECTION_KILLED | CLIENT_INTERACTION_TIMEOUT)
        )
}

/// An answer to `XA COMMIT` after which nobody can tell what the server has left of the branch, and
/// whether it lists it. An error that ends the connection says no more than a lost answer.
pub(crate) fn leaves_a_commit_undetermined(error: &Error, during: During) -> bool {
    let is_commit = matches!(during, Commit | CommitElsewhere);
    is_commit && !ends_connection(error) && meaning(error, during) == BranchErrorKind::Undetermined
}

/// The server says that it does not know the XID.
pub(crate) fn is_unknown_xid(error: &Error) -> bool {
    server_code(error) == Some(XAER_NOTA)
}

/// MySQL's way to say that the privilege XA_RECOVER_ADMIN is missing, as an answer to `XA RECOVER`.
pub(crate) fn is_recover_refused(error: &Error) -> bool {
    server_code(error) == Some(XAER_RMERR)
}

/// The server says that the table does not exist.
pub(crate) fn is_no_such_table(error: &Error) -> bool {
    server_code(error) == Some(1146)
}

/// The answer to `KILL`: there is no such connection.
pub(crate) fn is_no_such_connection(error: &Error) -> bool {
    server_code(error) == Some(1094)
}

/// A privilege is missing: on a database, a table, or in general.
pub(crate) fn is_access_denied(error: &Error) -> bool {
    matches!(server_code(error), Some(1044 | 1045 | 1142 | 1227))
}

/// What a failed statement of the application does to its branch.
///
/// MySQL and MariaDB roll back only the statement for most errors, a lock wait timeout (1205)
/// included, and would let the rest be committed; the branch becomes rollback-only here until the
/// application says that it has handled the error. Where the server has rolled back the whole
/// branch there is nothing to handle: MariaDB before the fix of MDEV-37141 even ran the next
/// statements in a new transaction of InnoDB.
pub(crate) fn statement(error: &Error) -> StatementFailure {
    match server_code(error) {
        Some(code) => of_statement(code),
        None => StatementFailure {
            cause: Cause::Unreachable,
            branch_is_gone: false,
        },
    }
}

fn of_statement(code: u16) -> StatementFailure {
    let of = |cause, branch_is_gone| StatementFailure {
        cause,
        branch_is_gone,
    };
    match code {
        LOCK_DEADLOCK | XA_RBDEADLOCK => of(Cause::Conflict, true),
        // ER_CHECKREAD: MariaDB's snapshot isolation rolls the transaction back.
        1020 => of(Cause::Conflict, true),
        // ER_LOCK_TABLE_FULL: InnoDB rolls the transaction back.
        1206 => of(Cause::Exhausted, true),
        XA_RBTIMEOUT => of(Cause::Timeout, true),
        XA_RBROLLBACK => of(Cause::Refused, true),
        // 3024 and 1969: MySQL's max_execution_time, MariaDB's max_statement_time.
        LOCK_WAIT_TIMEOUT | 3024 | 1969 => of(Cause::Timeout, false),
        // ER_RECORD_FILE_FULL, also a full disk; ER_DISK_FULL.
        1021 | 1114 => of(Cause::Exhausted, false),
        _ => of(Cause::Refused, false),
    }
}

/// Why a last resource's statement failed. A row has no epoch if that is not open: `table/sql.rs`.
pub(crate) fn last(error: &Error) -> (Cause, &'static str) {
    if server_code(error) == Some(1048) {
        let mend = "; its epoch is closed or gone: new transactions begin under a new one";
        return (Cause::Conflict, mend);
    }
    if let Some(1142 | 1143) = server_code(error) {
        return (Cause::NoRightsAsLast, "; grant what a last resource needs");
    }
    if server_code(error) == Some(OUT_OF_RANGE) {
        return (Cause::Refused, READ_ONLY);
    }
    (statement(error).cause, "")
}

/// How far a request to the decision table had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TablePhase {
    /// Before `COMMIT`: whatever the server refuses has not happened, and will not. Or after it,
    /// where there is nothing but the forced write that follows a read.
    Work,
    /// `COMMIT` itself.
    Commit,
    /// A statement that commits by itself, and may be repeated.
    Ddl,
}

const READ_ONLY: &str = "; the server is read-only: connect to the primary; if it is the primary: \
    SET GLOBAL read_only = 0";

/// What an error of the decision table means, and what to do, as the end of a sentence.
pub(crate) fn table(error: &Error, phase: TablePhase) -> (TableErrorKind, &'static str) {
    let Some(code) = server_code(error) else {
        return (TableErrorKind::Lost, "; it may have happened");
    };
    let (kind, mend) = of_table(code);
    match phase {
        TablePhase::Work | TablePhase::Ddl => (kind, mend),
        TablePhase::Commit => (TableErrorKind::Lost, "; it may have happened"),
    }
}

fn of_table(code: u16) -> (TableErrorKind, &'static str) {
    use TableErrorKind::{Busy, Missing, Refused, Unfit};
    match code {
        LOCK_WAIT_TIMEOUT => (Busy, "; a lock was not free in time: ask again"),
        // 1020: MariaDB's snapshot isolation.
        LOCK_DEADLOCK | 1020 => (Busy, "; two requests were in each other's way: ask again"),
        // 1792, 1836: a transaction, or a server, that may not write.
        READ_ONLY_OPTION | OUT_OF_RANGE | 1792 | 1836 => (Refused, READ_ONLY),
        // ER_DISK_FULL, ER_ERROR_ON_WRITE, ER_GET_ERRNO, ER_RECORD_FILE_FULL.
        1021 | 1026 | 1030 | 1114 => (
            Refused,
            "; the server cannot write: make room on its disk, and see its error log",
        ),
        1044 | 1142 | 1143 | 1227 | 1370 => (
            Refused,
            "; grant the account SELECT, INSERT, UPDATE and DELETE on the unanimous_ tables of \
             this database, and CREATE to make them",
        ),
        // ER_BINLOG_STMT_MODE_AND_ROW_ENGINE: READ COMMITTED needs rows in the binary log.
        1665 => (Refused, "; SET GLOBAL binlog_format = ROW, and reconnect"),
        1049 => (Missing, "; create the database, and then make the tables"),
        1146 => (Missing, "; make the tables"),
        // A column that is not there, or does not take what belongs there; a check that fails.
        1048 | 1054 | 1136 | 1264 | 1364 | 1366 | 1406 | 3819 | 4025 => (
            Unfit,
            "; the tables are not as version 1 of the schema makes them, or unanimous_log has no \
             row of that version: restore them",
        ),
        _ => (Refused, ""),
    }
}

/// What a driver's error means, if it is one, for the cause of a rollback.
pub(crate) fn cause(error: &(dyn std::error::Error + 'static)) -> Option<Cause> {
    if let Some(refused) = error.downcast_ref::<RollbackOnly>() {
        return Some(refused.cause());
    }
    match error.downcast_ref::<Error>()? {
        error @ (Error::Server(_) | Error::Io(_)) => Some(statement(error).cause),
        Error::Other(error) => error.downcast_ref().map(RollbackOnly::cause),
        // What the application and the driver say between themselves.
        Error::Driver(_) | Error::Url(_) => None,
    }
}

fn server_code(error: &Error) -> Option<u16> {
    match error {
        Error::Server(server) => Some(server.code),
        Error::Driver(_) | Error::Io(_) | Error::Other(_) | Error::Url(_) => None,
    }
}

#[cfg(test)]
#[path = "codes_test.rs"]
mod tests;
