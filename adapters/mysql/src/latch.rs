//! Whether the application's work in a branch may still be committed.
//!
//! Three things forbid it, and none of them is visible at the server when it is asked to prepare:
//!
//! * A statement failed. The servers roll back only that statement and would commit the rest. The
//!   application may say that it has handled the error.
//! * The server has rolled back the whole branch, or the transaction is no longer the one that was
//!   opened. Final.
//! * The future of a statement was dropped before its answer came (I7). The driver would take that
//!   answer for the next statement's. Final: the connection is never used again.

use std::fmt;

use mysql_async::consts::StatusFlags;
use mysql_async::{Conn, Error};
use unanimous_core::ports::Cause;

use crate::codes;

/// The branch can no longer be committed, so the statement was not sent.
///
/// Comes out of the driver's traits as the source of [`mysql_async::Error::Other`]. Roll the
/// transaction back; after a conflict or a time-out a new one may succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollbackOnly {
    cause: Cause,
    reason: String,
}

impl RollbackOnly {
    pub(crate) const fn cause(&self) -> Cause {
        self.cause
    }
}

impl fmt::Display for RollbackOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the branch can only be rolled back: {}", self.reason)
    }
}

impl std::error::Error for RollbackOnly {}

/// Why a branch will be rolled back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    /// Nothing that the application does mends it.
    pub(crate) is_final: bool,
    pub(crate) reason: String,
}

impl Failure {
    fn is_final(cause: Cause, reason: &str) -> Self {
        Self {
            cause,
            is_final: true,
            reason: reason.to_owned(),
        }
    }

    pub(crate) fn to_error(&self) -> Error {
        Error::Other(Box::new(RollbackOnly {
            cause: self.cause,
            reason: self.reason.clone(),
        }))
    }
}

/// How a request hands out its results, and what the driver's last OK says after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Results {
    /// They are read completely inside the call: the last OK is the server's last word.
    Read,
    /// The caller reads them, or does not, after the call: errors can come up behind our back. The
    /// driver forgets its last OK when one does.
    HandedOut,
    /// The last OK says nothing: the driver takes the answer to the preparation of a statement for
    /// an OK, with status flags that are not there.
    Untold,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Latch {
    /// What every answer of the server must show as long as the transaction is the one we opened.
    inside: StatusFlags,
    /// Of the server: see [`Server::hides_deadlocks`](crate::session::Server::hides_deadlocks).
    hides_deadlocks: bool,
    in_flight: bool,
    last: Results,
    failure: Option<Failure>,
}

impl Latch {
    pub(crate) fn of_writer(hides_deadlocks: bool) -> Self {
        Self::new(StatusFlags::SERVER_STATUS_IN_TRANS, hides_deadlocks)
    }

    pub(crate) fn of_reader(hides_deadlocks: bool) -> Self {
        let read_only = StatusFlags::SERVER_STATUS_IN_TRANS_READONLY;
        let inside = StatusFlags::SERVER_STATUS_IN_TRANS.union(read_only);
        Self::new(inside, hides_deadlocks)
    }

    fn new(inside: StatusFlags, hides_deadlocks: bool) -> Self {
        Self {
            inside,
            hides_deadlocks,
            in_flight: false,
            last: Results::Read,
            failure: None,
        }
    }

    /// A statement was sent whose answer nobody waits for any more.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    /// The first thing that forbids to commit, as far as it is known without asking the server.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Looks at what happened since the last call: dropped futures, a closed connection, errors
    /// that came up while the caller read results, a transaction that was ended by a statement.
    pub(crate) fn observe(&mut self, conn: &Conn) {
        if self
            .failure
            .as_ref()
            .is_some_and(|failure| failure.is_final)
        {
            return;
        }
        if self.in_flight {
            self.fail(Failure::is_final(
                Cause::RollbackOnly,
                "the future of a statement was dropped before its answer came",
            ));
        } else if conn.is_disconnected() {
            let before = self.failure.as_ref().map(|failure| failure.reason.as_str());
            let reason = match before {
                Some(reason) => format!("the connection is closed; before that, {reason}"),
                None => "the connection is closed".to_owned(),
            };
            self.fail(Failure::is_final(Cause::Unreachable, &reason));
        } else {
            self.observe_last_answer(conn.last_ok_packet().map(|ok| ok.status_flags()));
        }
    }

    /// Each OK says whether the session is inside a transaction, which both servers keep true from
    /// `XA START` until after `XA END`.
    fn observe_last_answer(&mut self, last: Option<StatusFlags>) {
        match (self.last, last) {
            (Results::Read, Some(flags)) if !flags.contains(self.inside) => {
                self.fail(Failure::is_final(
                    Cause::RollbackOnly,
                    "a statement has ended the transaction of the branch",
                ));
            }
            (Results::HandedOut, None) => {
                self.last = Results::Read;
                // Which error it was is not known, and a deadlock cannot be handled there.
                let is_final = self.hides_deadlocks;
                let mend = if is_final {
                    "it may have been a deadlock, after which this version of MariaDB goes on in \
                     another transaction"
                } else {
                    "if you have handled it, say so with statement_error_handled"
                };
                let what = "an error came up while the results of a statement were read";
                self.fail(Failure {
                    cause: Cause::Refused,
                    is_final,
                    reason: format!("{what}; {mend}"),
                });
            }
            (Results::Read | Results::HandedOut | Results::Untold, _) => {}
        }
    }

    /// A request goes out.
    pub(crate) fn begin(&mut self, results: Results) {
        self.in_flight = true;
        self.last = results;
    }

    /// Its answer came.
    pub(crate) fn settle<T>(&mut self, result: &Result<T, Error>) {
        self.in_flight = false;
        let Err(error) = result else { return };
        self.last = Results::Read;
        let failure = codes::statement(error);
        let mend = if failure.branch_is_gone {
            "the server has rolled the branch back"
        } else {
            "if you have handled it, say so with statement_error_handled"
        };
        self.fail(Failure {
            cause: failure.cause,
            is_final: failure.branch_is_gone,
            reason: format!("a statement failed: {error}; {mend}"),
        });
    }

    /// All results have been read by the caller.
    pub(crate) fn results_are_read(&mut self) {
        self.last = Results::Read;
    }

    pub(crate) fn last(&self) -> Results {
        self.last
    }

    /// The application has handled the failed statement. `false`: it is final.
    pub(crate) fn handled(&mut self) -> bool {
        match &self.failure {
            Some(failure) if failure.is_final => false,
            Some(_) | None => {
                self.failure = None;
                true
            }
        }
    }

    /// Keeps the first failure, unless the new one is final and the first was not.
    fn fail(&mut self, failure: Failure) {
        match &self.failure {
            Some(first) if first.is_final || !failure.is_final => {}
            Some(_) | None => self.failure = Some(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use mysql_async::ServerError;

    use super::*;

    fn answer(code: u16) -> Result<(), Error> {
        let state = "HY000".to_owned();
        Err(Error::Server(ServerError {
            code,
            message: "no".to_owned(),
            state,
        }))
    }

    fn after(codes: &[u16]) -> Latch {
        let mut latch = Latch::of_writer(false);
        for code in codes {
            latch.begin(Results::Read);
            latch.settle(&answer(*code));
        }
        latch
    }

    #[test]
    fn a_failed_statement_can_be_handled_and_a_rolled_back_branch_cannot() {
        let mut duplicate = after(&[1062]);
        assert!(!duplicate.failure().unwrap().is_final);
        assert!(duplicate.handled() && duplicate.failure().is_none());
        let mut deadlock = after(&[1213]);
        let refused = deadlock.failure().unwrap().to_error().to_string();
        assert!(
            refused.contains("can only be rolled back: a statement failed: "),
            "{refused}"
        );
        assert!(!deadlock.handled());
        assert_eq!(deadlock.failure().unwrap().cause, Cause::Conflict);
    }

    #[test]
    fn a_later_deadlock_outweighs_a_failed_statement_and_not_the_other_way_round() {
        assert_eq!(
            after(&[1062, 1213]).failure().unwrap().cause,
            Cause::Conflict
        );
        assert_eq!(
            after(&[1213, 1062]).failure().unwrap().cause,
            Cause::Conflict
        );
        assert_eq!(
            after(&[1205, 1062]).failure().unwrap().cause,
            Cause::Timeout
        );
    }

    #[test]
    fn an_error_while_results_are_read_is_final_where_it_may_hide_a_deadlock() {
        for hides_deadlocks in [false, true] {
            let mut latch = Latch::of_writer(hides_deadlocks);
            latch.begin(Results::HandedOut);
            latch.settle(&Ok::<_, Error>(()));
            latch.observe_last_answer(None);
            assert_eq!(latch.failure().unwrap().is_final, hides_deadlocks);
            assert_eq!(latch.handled(), !hides_deadlocks);
        }
    }

    #[test]
    fn a_reader_is_inside_a_transaction_that_cannot_write() {
        let inside = Latch::of_reader(false).inside;
        assert!(inside.contains(StatusFlags::SERVER_STATUS_IN_TRANS));
        assert!(inside.contains(StatusFlags::SERVER_STATUS_IN_TRANS_READONLY));
    }

    #[test]
    fn a_request_without_an_answer_stays_in_flight() {
        let mut latch = Latch::of_writer(false);
        latch.begin(Results::HandedOut);
        assert!(latch.is_in_flight() && latch.last() == Results::HandedOut);
        latch.settle(&Ok::<_, Error>(()));
        assert!(!latch.is_in_flight() && latch.last() == Results::HandedOut);
    }
}
