//! What a server's answer means: the one table of SQLSTATEs.
//!
//! A row says what one code (or a whole class, by its first two characters) means in some requests
//! of a branch, and what mends it. The most specific row wins. Whatever no row lists is decided by
//! the request alone:
//!
//! | request | the server refused with an unlisted code | no answer, or one of severity FATAL |
//! |---|---|---|
//! | open | a person has to look | not reachable |
//! | vote, not sent | cannot be | rolled back: the server ends it with the session |
//! | prepare, one phase, last resource | rolled back | it may have happened |
//! | end of a reader | rolled back | rolled back: it had nothing to lose |
//! | a statement of the application | it cannot be prepared any more | rolled back |
//! | finish, status | it may have happened | it may have happened |
//!
//! The row "prepare" rests on an observation with PostgreSQL 15, 17 and 18: after *any* error of
//! severity ERROR from `PREPARE TRANSACTION` the session was idle and nothing was prepared. Errors
//! of the server's own inside (classes 58 and XX) are left out of that: they may come late (I3).
//!
//! The decision table has its own table of codes, [`DECISIONS`], for its own kinds of errors.

use unanimous_core::ports::{BranchErrorKind, Cause, Problem, TableErrorKind};

/// What the branch was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// To connect and begin.
    Open,
    /// To vote, when the connection was closed before the request could be sent.
    Unsent,
    /// To prepare.
    Prepare,
    /// To commit without having prepared.
    OnePhase,
    /// To commit together with the row of the decision.
    Last,
    /// To end a transaction that only read.
    EndReader,
    /// To roll back what is not prepared.
    RollBack,
    /// To commit or roll back what is prepared.
    Finish,
    /// To tell how a transaction ended, by its number.
    Status,
    /// A statement of the application's own.
    Statement,
}

/// What came back, as far as the meaning depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// The server answered with this SQLSTATE, severity ERROR: the session lives.
    Refused(&'a str),
    /// The guard in front of prepare or commit refused: see [`Guard`].
    Guarded(Guard),
    /// The session ended with this SQLSTATE (severity FATAL or PANIC).
    Ended(&'a str),
    /// Nothing was sent, for what is needed to connect is wrong; this mends it.
    Unsuited(&'static str),
    /// No answer, or none that can be understood.
    Lost,
}

/// What the guard found instead of the branch's own transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// The transaction is not the one that was begun for the branch.
    MarkerGone,
    /// The server session is not the one that was connected: a pooler stands in between.
    OtherSession,
    /// A reader's transaction may write.
    MayWrite,
    /// The transaction's epoch decides nothing any more.
    EpochClosed,
}

struct Row {
    requests: &'static [Request],
    code: &'static str,
    kind: BranchErrorKind,
    mend: &'static str,
}

const fn row(
    requests: &'static [Request],
    code: &'static str,
    kind: BranchErrorKind,
    mend: &'static str,
) -> Row {
    Row {
        requests,
        code,
        kind,
        mend,
    }
}

const OPEN: &[Request] = &[Request::Open];
const UNSENT: &[Request] = &[Request::Unsent, Request::Statement];
const VOTE: &[Request] = &[
    Request::Prepare,
    Request::OnePhase,
    Request::Last,
    Request::EndReader,
    Request::Statement,
];
const VOTE_ALONE: &[Request] = &[
    Request::Prepare,
    Request::OnePhase,
    Request::EndReader,
    Request::Statement,
];
const WRITE: &[Request] = &[Request::Prepare, Request::OnePhase, Request::Last];
const LAST: &[Request] = &[Request::Last];
const PREPARE: &[Request] = &[Request::Prepare];
const FINISH: &[Request] = &[Request::Finish];
const STATUS: &[Request] = &[Request::Status];

const UNAVAILABLE: BranchErrorKind = BranchErrorKind::Unavailable;
const FAILED: BranchErrorKind = BranchErrorKind::Failed;
const UNDETERMINED: BranchErrorKind = BranchErrorKind::Undetermined;
const CONFLICT: BranchErrorKind = BranchErrorKind::RolledBack(Cause::Conflict);
const TIMEOUT: BranchErrorKind = BranchErrorKind::RolledBack(Cause::Timeout);
const REFUSED: BranchErrorKind = BranchErrorKind::RolledBack(Cause::Refused);
const NO_RIGHTS: BranchErrorKind = BranchErrorKind::RolledBack(Cause::NoRightsAsLast);
const ROLLBACK_ONLY: BranchErrorKind = BranchErrorKind::RolledBack(Cause::RollbackOnly);
const EXHAUSTED: BranchErrorKind = BranchErrorKind::RolledBack(Cause::Exhausted);

const TABLE: &[Row] = &[
    // Connect and begin.
    row(OPEN, "08", UNAVAILABLE, ""),
    row(OPEN, "53", UNAVAILABLE, "the server has no room for now"),
    row(OPEN, "53300", UNAVAILABLE, CONNECTIONS),
    row(
        OPEN,
        "57",
        UNAVAILABLE,
        "the server is starting or stopping",
    ),
    row(OPEN, READ_ONLY_SERVER, UNAVAILABLE, STANDBY),
    row(OPEN, "28", FAILED, "check user, password and pg_hba.conf"),
    row(OPEN, "3D000", FAILED, "check the database in the address"),
    // The connection was gone before the vote could be asked for.
    row(
        UNSENT,
        "25P03",
        TIMEOUT,
        "the session was idle for too long",
    ),
    row(UNSENT, "25P04", TIMEOUT, "transaction_timeout was run into"),
    // Votes, and what may make a vote one to roll back.
    row(VOTE, "40001", CONFLICT, ""),
    row(VOTE, "40P01", CONFLICT, ""),
    row(VOTE_ALONE, "55P03", TIMEOUT, LOCKED),
    // The epoch, or the key; or what a deferred constraint or trigger locks at the commit.
    row(LAST, "55P03", CONFLICT, CLOSING),
    row(LAST, "42501", NO_RIGHTS, LAST_RIGHTS),
    row(
        VOTE,
        "57014",
        TIMEOUT,
        "the statement was cancelled or ran out of time",
    ),
    row(
        VOTE,
        "25P02",
        ROLLBACK_ONLY,
        "a statement failed earlier in this branch",
    ),
    row(VOTE, "53", EXHAUSTED, SLOTS),
    row(
        WRITE,
        "58",
        UNDETERMINED,
        "the server reports a failure of its own",
    ),
    row(
        WRITE,
        "XX",
        UNDETERMINED,
        "the server reports a failure of its own",
    ),
    row(PREPARE, "42710", BranchErrorKind::DuplicateXid, DUPLICATE),
    row(PREPARE, "0A000", REFUSED, UNPREPARABLE),
    row(PREPARE, "55000", EXHAUSTED, DISABLED),
    // Request two. Seen with all of these: the branch was still prepared.
    row(FINISH, "42704", BranchErrorKind::UnknownXid, UNKNOWN),
    row(FINISH, "55000", UNAVAILABLE, BUSY),
    row(FINISH, "57014", UNAVAILABLE, ""),
    row(FINISH, "53", UNAVAILABLE, "the server has no room for now"),
    row(FINISH, NOT_OWNER, FAILED, OWNER),
    row(
        FINISH,
        "0A000",
        FAILED,
        "a branch is ended in its own database: check the address",
    ),
    row(FINISH, READ_ONLY_SERVER, FAILED, STANDBY),
    row(
        FINISH,
        "25001",
        BranchErrorKind::WrongState,
        "the session is in a transaction",
    ),
    row(
        FINISH,
        "25P02",
        BranchErrorKind::WrongState,
        "the session is in a failed transaction",
    ),
    // What became of a transaction.
    row(
        STATUS,
        "22023",
        BranchErrorKind::UnknownXid,
        "the server never gave out this number",
    ),
];

/// A standby, or a transaction that may not write.
pub(crate) const READ_ONLY_SERVER: &str = "25006";
const STANDBY: &str = "the server is a standby; connect to the primary";
const CONNECTIONS: &str = "raise max_connections (restart needed) or the CONNECTION LIMIT of role \
    or database, or lower pool_size";
const LOCKED: &str = "a lock was not to be had in time: perhaps a deadlock across databases";
const CLOSING: &str = "a barrier holds new decisions, or the epoch of this member is about to be \
    closed, or its decision to be kept out";
const LAST_RIGHTS: &str = "if it is about schema unanimous: the role that works in the branch \
    needs the rights of a last resource (docs/table-log-postgres.md), or no last resources are to \
    be used";
const SLOTS: &str = "if the slots for prepared transactions are used up, raise \
    max_prepared_transactions (restart needed) or resolve what is in doubt";
const DUPLICATE: &str = "this GID is prepared already, perhaps in another database of the cluster; \
    nothing of this branch was kept";
const UNPREPARABLE: &str = "PostgreSQL cannot prepare a transaction that has touched a temporary \
    table, used LISTEN or NOTIFY, a cursor WITH HOLD, an exported snapshot, a postgres_fdw table, \
    or one advisory lock both for the session and for the transaction: do that on a connection of \
    its own, outside of the branch";
const DISABLED: &str = "if prepared transactions are disabled: ALTER SYSTEM SET \
    max_prepared_transactions = 100, then restart the server";
const UNKNOWN: &str =
    "committed, rolled back, never prepared or not yet: this answer does not tell";
const BUSY: &str = "another session is about to end it, perhaps waiting for a synchronous standby";
const NOT_OWNER: &str = "42501";
const OWNER: &str = "a branch is ended by the role that prepared it (SET ROLE counts) or by a \
    superuser: let the user of the address be a member of that role, or end it by hand as a \
    superuser";

/// What an answer means for the protocol, and what mends it (empty if nothing is to be said).
pub(crate) fn meaning(request: Request, answer: Answer<'_>) -> (BranchErrorKind, &'static str) {
    match answer {
        Answer::Refused(code) => {
            listed(request, code).unwrap_or_else(|| (unlisted_refusal(request), ""))
        }
        Answer::Guarded(guard) => (guard.kind(), guard.mend()),
        // What a dying session's code says of the branch holds only where nothing was at stake.
        Answer::Ended(code) => match request {
            Request::Open | Request::Unsent | Request::Statement => {
                listed(request, code).unwrap_or_else(|| (loss(request), ""))
            }
            Request::Prepare
            | Request::OnePhase
            | Request::Last
            | Request::EndReader
            | Request::RollBack
            | Request::Finish
            | Request::Status => (loss(request), ""),
        },
        Answer::Unsuited(mend) => match request {
            Request::Open => (FAILED, mend),
            Request::Unsent
            | Request::Prepare
            | Request::OnePhase
            | Request::Last
            | Request::EndReader
            | Request::RollBack
            | Request::Finish
            | Request::Status
            | Request::Statement => (loss(request), mend),
        },
        Answer::Lost => (loss(request), ""),
    }
}

/// The branch belongs to another role than the session's.
pub(crate) fn is_not_owner(answer: Answer<'_>) -> bool {
    matches!(answer, Answer::Refused(NOT_OWNER))
}

/// Why a branch will be rolled back in which a statement of the application was answered so.
pub(crate) fn cause(answer: Answer<'_>) -> Option<Cause> {
    match meaning(Request::Statement, answer) {
        (BranchErrorKind::RolledBack(cause), _) => Some(cause),
        _ => None,
    }
}

/// Whether a resource that cannot be used may mend itself, from the answer to open or to a scan.
pub(crate) fn problem(answer: Answer<'_>) -> (Problem, &'static str) {
    let (kind, mend) = meaning(Request::Open, answer);
    if kind == FAILED {
        (Problem::Unfit, mend)
    } else {
        (Problem::Unavailable, mend)
    }
}

fn listed(request: Request, code: &str) -> Option<(BranchErrorKind, &'static str)> {
    TABLE
        .iter()
        .filter(|row| row.requests.contains(&request) && code.starts_with(row.code))
        .max_by_key(|row| row.code.len())
        .map(|row| (row.kind, row.mend))
}

const fn unlisted_refusal(request: Request) -> BranchErrorKind {
    match request {
        Request::Open => FAILED,
        Request::Prepare
        | Request::OnePhase
        | Request::Last
        | Request::EndReader
        | Request::Statement => REFUSED,
        Request::Unsent | Request::RollBack | Request::Finish | Request::Status => UNDETERMINED,
    }
}

const fn loss(request: Request) -> BranchErrorKind {
    match request {
        Request::Open => UNAVAILABLE,
        Request::Unsent | Request::EndReader | Request::Statement => {
            BranchErrorKind::RolledBack(Cause::Unreachable)
        }
        Request::Prepare
        | Request::OnePhase
        | Request::Last
        | Request::RollBack
        | Request::Finish
        | Request::Status => BranchErrorKind::Undetermined,
    }
}

impl Guard {
    /// A closed epoch passes: the next transaction begins under another.
    const fn kind(self) -> BranchErrorKind {
        match self {
            Self::MarkerGone | Self::OtherSession | Self::MayWrite => ROLLBACK_ONLY,
            Self::EpochClosed => CONFLICT,
        }
    }

    const fn mend(self) -> &'static str {
        match self {
            Self::MarkerGone => {
                "the application ended this branch's transaction itself (COMMIT, ROLLBACK, PREPARE \
                 TRANSACTION or RESET ALL on the branch); what it committed stays committed: leave \
                 the end of a branch to the transaction"
            }
            Self::OtherSession => {
                "another server session answers than the one that was connected: a pooler in \
                 transaction mode stands in between; connect to the server itself, or use session \
                 mode"
            }
            Self::MayWrite => "the transaction of a read-only branch was made to write",
            Self::EpochClosed => {
                "another member took this one for dead and closed its epoch, or the epoch is not \
                 there: new transactions begin under a new one"
            }
        }
    }
}

/// What a refusal means for the decision table. Whatever is not listed is refused, for good: it was
/// said before the `COMMIT` at the end of the string. But see class 58 and XX above.
const DECISIONS: &[(&str, TableErrorKind, &str)] = &[
    ("40001", TableErrorKind::Busy, ""),
    ("40P01", TableErrorKind::Busy, ""),
    (
        "55P03",
        TableErrorKind::Busy,
        "a lock was not to be had in time: asked again, it may be",
    ),
    (
        "57014",
        TableErrorKind::Refused,
        "the statement was cancelled or ran out of time",
    ),
    (
        "53",
        TableErrorKind::Refused,
        "the server has no room for now",
    ),
    (
        "53100",
        TableErrorKind::Refused,
        "make room on the disk of the server",
    ),
    (READ_ONLY_SERVER, TableErrorKind::Refused, STANDBY),
    ("42501", TableErrorKind::Refused, TABLE_RIGHTS),
    ("42P01", TableErrorKind::Missing, TABLES_MISSING),
    ("3F000", TableErrorKind::Missing, TABLES_MISSING),
    ("42703", TableErrorKind::Unfit, OTHER_TABLES),
    ("42P10", TableErrorKind::Unfit, OTHER_TABLES),
    ("42804", TableErrorKind::Unfit, OTHER_TABLES),
    ("42883", TableErrorKind::Unfit, OTHER_TABLES),
    (
        "58",
        TableErrorKind::Lost,
        "the server reports a failure of its own",
    ),
    (
        "XX",
        TableErrorKind::Lost,
        "the server reports a failure of its own",
    ),
];

const TABLE_RIGHTS: &str = "grant what docs/table-log-postgres.md lists, or let another role run \
    the log's DDL";
const TABLES_MISSING: &str = "let the log make its tables, or run its DDL";
const OTHER_TABLES: &str = "the tables are not those of the log's DDL";

/// What came back from the decision table.
pub(crate) fn table_meaning(answer: Answer<'_>) -> (TableErrorKind, &'static str) {
    match answer {
        Answer::Refused(code) => DECISIONS
            .iter()
            .filter(|(listed, ..)| code.starts_with(listed))
            .max_by_key(|(listed, ..)| listed.len())
            .map_or((TableErrorKind::Refused, ""), |(_, kind, mend)| {
                (*kind, *mend)
            }),
        Answer::Guarded(guard) => (TableErrorKind::Refused, guard.mend()),
        Answer::Ended(_) | Answer::Lost => (TableErrorKind::Lost, ""),
        Answer::Unsuited(mend) => (TableErrorKind::Lost, mend),
    }
}

/// Why no session was to be had for the decision table.
pub(crate) fn table_unsent(answer: Answer<'_>) -> (TableErrorKind, &'static str) {
    let (_, mend) = problem(answer);
    let is_standby = matches!(answer, Answer::Refused(READ_ONLY_SERVER));
    if is_standby {
        (TableErrorKind::Refused, mend)
    } else {
        (TableErrorKind::NotSent, mend)
    }
}

#[cfg(test)]
#[path = "codes_test.rs"]
mod codes_test;
