//! Commits that a server has answered with an error of which nobody can tell what it has left.
//!
//! A server that fails to commit a prepared branch, because its binary log or its disk is full, or
//! because a plugin says no (3100, 3101 under group replication), may take the XID off its list
//! all the same: MySQL does for any of them (`process_detached_xa_commit`,
//! `process_attached_xa_commit`, sql/xa/sql_xa_commit.cc of 8.0.30 to 9.x), MariaDB for that of
//! the connection that prepared (`trans_xa_commit`, sql/xa.cc). InnoDB may keep the transaction
//! prepared then, locks and all, without an owner, and list it again after a restart; or it has
//! rolled it back, as was seen of MariaDB 10.11.19 when its binary log could take no more (3,
//! `EE_WRITE`, on the connection that prepared, by a limit to the size of its files); or committed
//! it. So that such a branch is not listed proves nothing, as long as the server runs; and if it
//! is not listed afterwards either, only its data tells how it ended.
//!
//! This is kept in the memory of this resource only. Whoever has not heard the error takes a branch
//! that is not listed for committed: see `docs/servers.md`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mysql_async::Error;
use unanimous_core::ports::{Absence, ScannedBranch, ServerIdentity, XidOwner};
use unanimous_core::xid::Xid;

use crate::codes::{self, During};

/// See the module. Not more than pending decisions and those that were given up.
///
/// An error is disproved by a list of the same server, asked for after it was heard, that has the
/// branch: the failed commit has left it as it was, and what becomes of it from then on is told by
/// the list again. That another server has it, such as a replica that was promoted, says nothing of
/// the first: each server is kept apart.
#[derive(Debug, Default)]
pub(crate) struct FailedCommits {
    heard: Mutex<HashMap<At, Failed>>,
    moments: AtomicU64,
}

/// A branch at a server.
type At = (Xid, ServerIdentity);

#[derive(Debug)]
struct Failed {
    /// When it was heard.
    at: u64,
    /// The server was started then.
    started: u64,
    why: String,
}

impl FailedCommits {
    /// This error came in answer to `XA COMMIT`, from this server, which was started then.
    pub(crate) fn hear(
        &self,
        xid: &Xid,
        (server, started): (&ServerIdentity, u64),
        error: &Error,
        during: During,
    ) {
        if codes::leaves_a_commit_undetermined(error, during) {
            let failed = Failed {
                at: self.moment(),
                started,
                why: error.to_string(),
            };
            self.lock().insert((xid.clone(), server.clone()), failed);
        }
    }

    /// What was heard so far was heard before this.
    pub(crate) fn moment(&self) -> u64 {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }

    /// This server lists these, as was asked after that moment.
    pub(crate) fn disprove(&self, server: &ServerIdentity, listed: &[ScannedBranch], asked: u64) {
        let mut heard = self.lock();
        if heard.is_empty() {
            return;
        }
        for branch in listed {
            if let XidOwner::Unanimous(xid) = &branch.owner {
                let at = (xid.clone(), server.clone());
                if heard.get(&at).is_some_and(|failed| failed.at < asked) {
                    heard.remove(&at);
                }
            }
        }
    }

    /// The branch has ended after all, by this server's positive word.
    pub(crate) fn forget(&self, xid: &Xid, server: &ServerIdentity) {
        self.lock().remove(&(xid.clone(), server.clone()));
    }

    /// What became of a branch that this server, started then, does not list, if its commit has
    /// failed there.
    pub(crate) fn judge(
        &self,
        xid: &Xid,
        (server, started): (&ServerIdentity, u64),
    ) -> Option<Absence> {
        let failed = self.lock();
        let Failed {
            started: then, why, ..
        } = failed.get(&(xid.clone(), server.clone()))?;
        Some(if *then == started {
            Absence::InDoubt(format!(
                "the server has failed to commit {xid} ({why}), and may hold it without listing \
                 it: see its error log; after a restart it is listed again, or has ended"
            ))
        } else {
            Absence::Hazard(format!(
                "the server has failed to commit {xid} ({why}), and does not list it after its \
                 restart: compare the data"
            ))
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<At, Failed>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use mysql_async::ServerError;
    use unanimous_core::xid::{Epoch, ManagerId, Opening};

    use super::*;

    fn xid() -> Xid {
        let opening = Opening {
            manager: ManagerId::from_bytes([7; 10]),
            epoch: Epoch(1),
            nonce: 7,
        };
        Xid {
            gtrid: opening.gtrid(1),
            bqual: "ledger".parse().unwrap(),
        }
    }

    fn full_disk() -> Error {
        Error::Server(ServerError {
            code: 1180,
            message: "Got error 28 during COMMIT".to_owned(),
            state: "HY000".to_owned(),
        })
    }

    fn listed() -> [ScannedBranch; 1] {
        [ScannedBranch {
            owner: XidOwner::Unanimous(xid()),
            age: None,
        }]
    }

    fn server(text: &str) -> ServerIdentity {
        ServerIdentity::new(text).unwrap()
    }

    #[test]
    fn an_error_is_disproved_by_a_list_of_its_server_that_was_asked_for_after_it() {
        let (xid, here, promoted) = (xid(), server("mariadb:1"), server("mariadb:2"));
        let failed = FailedCommits::default();
        let judge = |started| failed.judge(&xid, (&here, started));
        let before = failed.moment();
        failed.hear(&xid, (&here, 1), &full_disk(), During::Commit);
        failed.disprove(&here, &listed(), before);
        assert!(matches!(judge(1), Some(Absence::InDoubt(_))));
        failed.disprove(&here, &[], failed.moment());
        failed.disprove(&promoted, &listed(), failed.moment());
        assert!(matches!(judge(2), Some(Absence::Hazard(_))));
        failed.disprove(&here, &listed(), failed.moment());
        assert_eq!(judge(1), None);
    }

    /// The address led to a replica for a while, which had the branch, too.
    #[test]
    fn i3_what_another_server_says_of_the_branch_leaves_the_error_of_the_first() {
        let (xid, here, promoted) = (xid(), server("mariadb:1"), server("mariadb:2"));
        let failed = FailedCommits::default();
        let here_is_in_doubt =
            || matches!(failed.judge(&xid, (&here, 1)), Some(Absence::InDoubt(_)));
        failed.hear(&xid, (&here, 1), &full_disk(), During::Commit);
        failed.hear(&xid, (&promoted, 2), &full_disk(), During::CommitElsewhere);
        assert!(here_is_in_doubt(), "its error is kept beside the other's");
        failed.disprove(&promoted, &listed(), failed.moment());
        assert!(here_is_in_doubt(), "a list of the other");
        failed.forget(&xid, &promoted);
        assert!(here_is_in_doubt(), "an end at the other");
        failed.forget(&xid, &here);
        assert_eq!(failed.judge(&xid, (&here, 1)), None);
    }
}
